#!/usr/bin/env bash
# The whole suite of tests/test.sh on other kernels: Debian's 5.10, 6.1, 6.12 and sid's 7.x boot in QEMU with control groups
# v2 as HTCondor hands them to a job, and every test runs in one of its own (tests/vm/suite.sh).
#
#   tests/beds/kernels.sh [--only VERSION] [--part ci] [PATTERN...]
#
#   --only VERSION   5.10, 6.1, 6.12 or 7; again for more (default: all)
#   --part ci        the test programs that ask most of a kernel
#   PATTERN          extended regular expression: only the tests PROGRAM::TEST that match; numbers are not compared
#
# How many tests said "ok" is compared with tests/beds/kernels-VERSION.count (kernels-VERSION-ci.count for the part); fewer is
# an error. A test that is left out under emulation stands in tests/vm/not-here.txt with its reason.
#
# BAILEY_VM_BUDGET   seconds that one machine may take (default: see below)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

only=()
part=
patterns=()
while [ $# -gt 0 ]; do
    case $1 in
    --only)
        only+=("${2:?--only VERSION}")
        shift
        ;;
    --part)
        [ "${2:-}" = ci ] || die "--part: ci is the only one"
        part=ci
        shift
        ;;
    -*) die "no option $1" ;;
    *) patterns+=("$1") ;;
    esac
    shift
done
[ "${#only[@]}" -gt 0 ] || only=(5.10 6.1 6.12 7)
suite_of() {
    case $1 in
    5.10) echo bullseye ;;
    6.1) echo bookworm ;;
    6.12) echo trixie ;;
    7) echo sid ;;
    *) die "no kernel $1: 5.10, 6.1, 6.12 or 7" ;;
    esac
}
# What runs the walls, the control groups and the end of everything. (kill: hundreds of launches under strace, for the whole matrix.)
ci='^(launch|walls|cgroup.*|supervision|overuse|readback|landlock|no_namespaces)::'
budget=${BAILEY_VM_BUDGET:-$([ "$part" = ci ] && echo 1200 || echo 5400)}

vm_packages
enter_workspace
vm_root
bash tests/image.sh

# The image of the tests on a disk of its own.
vm_make_image() { mke2fs -q -t ext4 -d "$BAILEY_TEST_IMAGE" -L image "$1/image.ext4" 1G; }
vm_cached image vm_make_image

out=$(mktemp -d "$VM_DIR/kernels.XXXXXX")
qemu=
end() {
    if [ -n "$qemu" ]; then kill "$qemu" || true; fi
    rm -rf --one-file-system "$out"
}
trap end EXIT

say "kernels: building"
cargo build --profile emulated --quiet --locked --features "test-hooks,schema" --bins
cargo test --no-run --quiet --locked --features "test-hooks,schema" --lib --bins --tests --message-format=json >"$out/build.json"
# One message a line. The library's own tests are called bailey, as nextest does. The programs have none of their own.
sed -nE 's/^\{"reason":"compiler-artifact",.*"kind":\["(lib|test)"\].*"name":"([^"]*)","src_path".*"profile":\{[^}]*"test":true\}.*"executable":"([^"]*)".*/\2 \3/p' \
    "$out/build.json" >"$out/programs"
[ -s "$out/programs" ] || die "cargo names no test program: repair ${0##*/}"

# The disk with the programs and with what they read of the tree, at the same place: paths are built in.
disk=$out/tree
mkdir -p "$disk/bed-programs"
pack_tree | tar -C "$disk" --no-same-owner -xf -
# A build that is elsewhere is a folder of its own there, which is mounted at its place.
target=$disk/bed-target elsewhere=$CARGO_TARGET_DIR
case $CARGO_TARGET_DIR in "$ROOT"/*) target=$disk${CARGO_TARGET_DIR#"$ROOT"} elsewhere= ;; esac
built=$target/$TRIPLE/debug
mkdir -p "$built"
for program in bailey bailey-admin bailey-recorder; do
    objcopy --strip-debug "$CARGO_TARGET_DIR/$TRIPLE/emulated/$program" "$built/$program"
done
release=
if [ -x "$RELEASE/bailey" ]; then
    release=$RELEASE/bailey
    mkdir -p "$target/$TRIPLE/release"
    cp "$RELEASE"/{bailey,bailey-admin,bailey-recorder} "$target/$TRIPLE/release/"
fi

: >"$out/all"
while read -r name program; do
    "$program" --list --format terse 2>/dev/null | sed -n "s/^\(.*\): test$/$name::\1/p" >"$out/these"
    [ -s "$out/these" ] || continue
    objcopy --strip-debug "$program" "$disk/bed-programs/$name"
    cat "$out/these" >>"$out/all"
done <"$out/programs"

# What is left out: not-here.txt, and what is not asked for.
: >"$out/left-out"
list=$out/list
cp "$out/all" "$list"
if [ "$part" = ci ]; then grep -E "$ci" "$out/all" >"$list"; fi
if [ "${#patterns[@]}" -gt 0 ]; then
    printf '%s\n' "${patterns[@]}" >"$out/patterns"
    grep -E -f "$out/patterns" "$list" >"$list.new" || die "no test is called like that"
    mv "$list.new" "$list"
fi
while read -r name reason; do
    case $name in '' | '#'*) continue ;; esac
    case $name in
    *'::*') awk -v of="${name%\*}" 'index($0, of) == 1' "$out/all" >"$out/these" ;;
    *) grep -Fx -- "$name" "$out/all" >"$out/these" || true ;;
    esac
    [ -s "$out/these" ] || die "tests/vm/not-here.txt names a test that there is not: $name"
    grep -Fx -f "$out/these" "$list" >"$out/here" || continue
    sed "s|\$|: $reason|" "$out/here" >>"$out/left-out"
    grep -Fvx -f "$out/these" "$list" >"$list.new" || true
    mv "$list.new" "$list"
done <tests/vm/not-here.txt
# Those that launch hundreds of times under strace come last.
long='^(kill|faults)::'
{ grep -Ev "$long" "$list" || true; grep -E "$long" "$list" || true; } >"$disk/bed-list"
gcc -O2 -Wall -Wextra -Werror -static -o "$disk/bed-programs/vm_runner" tests/tools/vm_runner.c
mke2fs -q -t ext4 -d "$disk" -L bed "$out/bed.ext4" "$(($(du -sm "$disk" | cut -f1) * 5 / 4 + 200))M"
rm -rf --one-file-system "$disk"

settings=$out/overlay/etc/bed-settings
install -D -m 0755 tests/vm/suite.sh "$out/overlay/usr/local/sbin/suite"
echo /usr/local/sbin/suite >"$out/overlay/vm-init"
mkdir -p "$out/overlay/etc"
cat >"$settings" <<SETTINGS
BAILEY_VM_ROOT=$ROOT
BAILEY_VM_TARGET=$elsewhere
BAILEY_VM_WORKERS=${BAILEY_VM_WORKERS:-2}
BAILEY_VM_TEST_SECONDS=${BAILEY_VM_TEST_SECONDS:-600}
BAILEY_TEST_DIR=/var/tmp/bailey-test
BAILEY_TEST_IMAGE=/srv/image
BAILEY_TEST_TMP=/var/tmp/bailey-test/tmp.pilot
BAILEY_TEST_SHARED=/var/tmp/bailey-test/tmp.shared
BAILEY_TEST_RELEASE=$release
BAILEY_TEST_SLOW=${BAILEY_TEST_SLOW:-10}
BAILEY_TEST_USER=pilot
BAILEY_TEST_USER_B=other
BAILEY_TEST_RECORDER_USER=auditor
SETTINGS

failed=()
for version in "${only[@]}"; do
    BAILEY_VM_KERNEL=$(suite_of "$version")
    vm_kernel
    folder=$out/$version
    mkdir "$folder"
    vm_initramfs "$folder/initramfs" "$out/overlay"
    say "== kernel $version ($(cat "$VM_DIR/kernel-$BAILEY_VM_KERNEL/version")): $(wc -l <"$list") tests, $budget s at most"
    code=0
    began=$SECONDS
    vm_start "$budget" "$folder/initramfs" "$folder" -m 3072 \
        -drive "file=$out/bed.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$VM_DIR/image/image.ext4,format=raw,if=virtio,readonly=on" &
    qemu=$!
    wait "$qemu" || code=$?
    qemu=
    took=$((SECONDS - began))
    results=$VM_DIR/kernels-$version.txt
    { tr -d '\r' <"$folder/results.txt"; sed 's/^/skip /' "$out/left-out"; } >"$results"
    # What passed needs no line of its own: the whole list is kept beside the machine's kernel.
    grep -v '^ok ' "$results" || true
    ok=$(grep -c '^ok ' "$results" || true)
    bad=$(grep -c '^FAIL ' "$results" || true)
    skipped=$(grep -c '^skip ' "$results" || true)
    bed=kernels-$version${part:+-$part}
    wrong=
    if ! grep -qx 'done' "$results" || [ "$code" -ne 0 ]; then
        say "== the end of the machine's console"
        tail -n 40 "$folder/console.txt" >&2
        wrong="the machine did not come to its end (QEMU's code $code; 124 is its time limit)"
    elif [ "$bad" -gt 0 ]; then
        wrong="$bad tests failed"
    fi
    printf 'bed %s: %s tests ok, %s failed, %s skipped, in %s s of %s s\n' "$bed" "$ok" "$bad" "$skipped" "$took" "$budget"
    if [ "${#patterns[@]}" -eq 0 ]; then
        # No count yet: the line to commit says the first one.
        expected=$(cat "tests/beds/$bed.count" 2>/dev/null || echo 0)
        if [ "$ok" -lt "$expected" ]; then
            wrong=${wrong:-$ok tests ran, tests/beds/$bed.count expects $expected: tests got lost}
        elif [ "$ok" -gt "$expected" ]; then
            say "to commit: echo $ok >tests/beds/$bed.count"
        fi
    fi
    if [ -n "$wrong" ]; then
        say "bed $bed: $wrong"
        failed+=("$version")
    fi
done
[ "${#failed[@]}" -eq 0 ] || die "kernels: ${failed[*]}"
