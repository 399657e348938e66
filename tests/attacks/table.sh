#!/usr/bin/env bash
# Runs every attack of this folder without any sandbox, under bailey and under its peers, and writes the table into
# docs/threat-model.md.
#
#   tests/attacks/table.sh [NAME,...]     only programs whose names begin so: prints the answers, writes nothing
#
# BAILEY_PEERS_ROOT=DIR   also inside that root directory (tests/peers.sh makes it, as root): its bubblewrap, crun, Apptainer
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

peers=${BAILEY_PEERS_ROOT:-}
checkout=$(cd "$(dirname "$0")/../.." && pwd)
enter_workspace
bash tests/image.sh
if [ -n "$peers" ]; then
    is_root || die "BAILEY_PEERS_ROOT needs root"
    for program in bwrap crun apptainer; do
        [ -x "$peers/usr/bin/$program" ] || die "$peers holds no $program: remove it and run tests/peers.sh"
    done
fi

say "building"
test=$(cargo test --locked --features "test-hooks,schema" --test attacks --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*\/attacks-[^"]*\)".*/\1/p')
[ -x "$test" ] || die "the test program attacks was not built: cargo test --test attacks --no-run says why"

tmp=$(fresh_tmp)
trap 'remove_tree "$tmp"' EXIT
mkdir -p "$tmp/attacks/bin" "$tmp/out" "$tmp/worlds"
cp tests/attacks/*.c "$tmp/attacks"
for source in tests/attacks/*.c; do
    name=$(basename "$source" .c)
    gcc -static -O1 -pthread -o "$tmp/attacks/bin/$name" "$source"
done
cp "$test" "$tmp/test"
if is_root; then chown -R "$BAILEY_TEST_USER:" "$tmp"; fi

environment=(env BAILEY_TEST_TMP="$tmp/worlds" BAILEY_TEST_IMAGE="$BAILEY_TEST_IMAGE" BAILEY_ATTACKS_OUT="$tmp/out"
    BAILEY_ATTACKS_ONLY="${1:-}")
step=(--quiet --ignored --exact)

say "control, bailey, bubblewrap of this host"
launchers=control,bailey
if have bwrap; then launchers=$launchers,bwrap=bwrap-host; fi
as_user "${environment[@]}" BAILEY_ATTACKS_DIR="$tmp/attacks" BAILEY_ATTACKS_LAUNCHERS=$launchers \
    "$test" "${step[@]}" table_parts >&2

if [ -n "$peers" ]; then
    say "bubblewrap, crun and Apptainer inside $peers"
    # An account of that host that no image has.
    grep -q ^bailey-host: "$peers/etc/passwd" ||
        echo 'bailey-host:x:64000:64000::/:/bin/false' >>"$peers/etc/passwd"
    uid=$(as_user id -u) gid=$(as_user id -g)
    home=$(getent passwd "$uid" | cut -d: -f6)
    inside() { # LAUNCHER,...
        tests/bench/enter.sh "$peers" "$uid:$gid" "$BAILEY_TEST_IMAGE" "$tmp" -- \
            "${environment[@]}" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$home" BAILEY_ATTACKS_DIR="$tmp/attacks" \
            BAILEY_ATTACKS_LAUNCHERS="$1" "$tmp/test" "${step[@]}" table_parts >&2
    }
    inside bwrap,apptainer
    # crun refuses a host with both versions of control groups, also when it is told to use none.
    hybrid=
    if [ -d /sys/fs/cgroup/unified ]; then hybrid=/sys/fs/cgroup/unified; fi
    BAILEY_ENTER_HIDE=$hybrid inside crun
fi

if [ -n "${1:-}" ]; then
    cd "$tmp/out"
    for part in *.tsv; do sed "s/^/${part%.tsv}\t/" "$part"; done
else
    "${environment[@]}" "$test" "${step[@]}" table_document >&2
    [ "$checkout" = "$ROOT" ] || cp docs/threat-model.md "$checkout/docs/threat-model.md"
    say "written: docs/threat-model.md"
fi
