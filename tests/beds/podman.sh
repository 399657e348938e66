#!/usr/bin/env bash
# Runs the tests in rootless podman, as an ordinary user in a container that an ordinary user started, in an image that this script
# makes; twice:
#
#   unmasked   --security-opt unmask=ALL --security-opt seccomp=unconfined: everything is as on a host
#   masked     podman's defaults: parts of /proc are masked, /proc/sys is read-only, podman's seccomp profile holds. The site's
#              configuration there is sandbox.proc = "preferred", and what that costs is what bailey itself says.
#
# Then, in each, what only a real container shows (tests/beds/podman-inside.sh) and a recorder on the host with pilots in the container.
#
#   tests/beds/podman.sh [--part ci] [--mode unmasked|masked] [PROGRAM[::TEST]...]
#
# --part ci: the test programs that are about walls, /proc and processes, and about calls as apptainer; some minutes. Without names and options the numbers of tests
# that ran are compared with tests/beds/podman.count and podman-defaults.count (--part ci: podman-ci.count, podman-defaults-ci.count), fewer is an error.
# BAILEY_PODMAN_KEEP=DIR keeps what failing tests said. tests/beds/podman.skip names each test that cannot run there, with the reason.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

CI=(launch walls no_pid no_namespaces supervision seccomp landlock binds stdio state readback environment apptainer_cli apptainer_root discovery)
# Programs that are not for a container: several accounts (*_uids), the builder's own, load.
NOT_HERE='^(compile_fail|suspend_crowd|.*_uids)$'

part=all modes=(unmasked masked) names=()
while [ $# -gt 0 ]; do
    case $1 in
    --part) part=${2:?} && shift ;;
    --mode) modes=("${2:?}") && shift ;;
    -*) die "unknown option $1" ;;
    *) names+=("$1") ;;
    esac
    shift
done
if [ "$part" = ci ] && [ ${#names[@]} -eq 0 ]; then names=("${CI[@]}"); fi
started=$SECONDS

# Debian 12's crun knows either cgroup v1 or v2. On a hybrid machine it gets v1, with no controller left in v2; in a mount namespace of its
# own, so that the machine keeps what it has.
if is_root && [ -z "${BAILEY_PODMAN_INSIDE:-}" ]; then
    export BAILEY_PODMAN_INSIDE=1
    arguments=(--part "$part")
    [ ${#modes[@]} -eq 2 ] || arguments+=(--mode "${modes[0]}")
    [ "$part" = ci ] || arguments+=("${names[@]}")
    # shellcheck disable=SC2016 # the inner shell's own
    exec unshare --mount --propagation private bash -Eeuo pipefail -c '
        unified=/sys/fs/cgroup/unified/cgroup.controllers
        controllers=$(cat "$unified" 2>/dev/null || true) # the kernel says that its size is 0
        if [ -n "$controllers" ]; then
            BAILEY_PODMAN_MADE=
            for controller in $controllers; do
                at=/sys/fs/cgroup/$controller
                if [ ! -d "$at" ]; then
                    mkdir "$at"
                    BAILEY_PODMAN_MADE="$BAILEY_PODMAN_MADE $at"
                fi
                mount -t cgroup -o "$controller" none "$at"
            done
            export BAILEY_PODMAN_MADE
        fi
        exec "$@"
    ' bash "$0" "${arguments[@]}"
fi

install_podman() {
    local need missing=()
    for need in podman:podman crun:crun newuidmap:uidmap slirp4netns:slirp4netns fuse-overlayfs:fuse-overlayfs; do
        have "${need%%:*}" || missing+=("${need#*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    is_root || die "missing packages: ${missing[*]}. As root: apt-get install ${missing[*]}"
    say "podman: installing ${missing[*]}"
    apt-get -o Acquire::Retries=3 -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

install_podman
enter_workspace
make_test_dir
bash tests/image.sh

place=$BAILEY_TEST_DIR/podman
home=$place/home
image=localhost/bailey-tests
mkdir -p "$place"
install -d -m 0700 "$home" "$place/run"
if is_root; then chown "$(id -u "$BAILEY_TEST_USER"):$(id -g "$BAILEY_TEST_USER")" "$home" "$place/run"; fi

# podman, as the ordinary user, with a store of this script's own.
podman() {
    as_user env -C "$home" HOME="$home" XDG_RUNTIME_DIR="$place/run" podman --storage-driver overlay --log-level error "$@"
}

work=$(fresh_tmp) # the user's
mkdir "$work/tmp" "$work/out" "$work/home"
others=$(mktemp -d "$BAILEY_TEST_DIR/tmp.XXXXXXXX") # the recorder's
recorder=
# shellcheck disable=SC2317 # by the trap
end() {
    [ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true
    # What podman keeps running so that its namespaces live.
    podman system migrate >/dev/null 2>&1 || true
    for made in ${BAILEY_PODMAN_MADE:-}; do
        umount "$made" 2>/dev/null || true
        rmdir "$made" 2>/dev/null || true
    done
    if [ -n "${BAILEY_PODMAN_KEEP:-}" ]; then cp -r "$work/out" "$BAILEY_PODMAN_KEEP"; fi
    remove_tree "$work"
    remove_tree "$others"
}
trap end EXIT
chmod 0755 "$others"

# The image: a Debian root with what the tests call. Made again when this recipe changes.
recipe() {
    printf '%s\n' bookworm gcc libc6-dev strace procps bubblewrap binutils file perl-base uidmap util-linux 3
}
make_image() {
    local tag mirror tar=$place/root.tar
    tag=$(recipe | sha256sum | cut -c1-12)
    image=$image:$tag
    if podman image exists "$image"; then return 0; fi
    have mmdebstrap || die "mmdebstrap is missing: run tests/setup.sh"
    say "podman: making the image"
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')
    rm -f "$tar"
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --variant=minbase --quiet --include="$(recipe | sed '1d;$d' | paste -sd,)" \
        --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* \
            "$1"/usr/share/locale/* "$1"/usr/share/man/*' bookworm "$tar" ${mirror:+"$mirror"} >&2
    chmod 0644 "$tar"
    podman import --quiet "$tar" "$image" >/dev/null
    rm -f "$tar"
}
make_image

# The test programs, as cargo names them: "Executable tests/walls.rs (target/.../deps/walls-0123456789abcdef)".
build() {
    local only=() name
    for name in "${names[@]}"; do
        case ${name%%::*} in
        bailey) only+=(--lib) ;;
        *) only+=(--test "${name%%::*}") ;;
        esac
    done
    [ ${#only[@]} -gt 0 ] || only=(--lib --tests)
    cargo test --no-run --locked --features "test-hooks,schema" "${only[@]}" 2>&1 | tee "$work/build.txt" | grep -E '^(error|warning)' || true
    sed -n 's|^ *Executable [a-z ]*[^ ]* (\(.*\))$|\1|p' "$work/build.txt" | xargs -r realpath | sort -u >"$work/built.txt"
    [ -s "$work/built.txt" ] || die "the tests were not built: $(tail -n 3 "$work/build.txt")"
    while read -r program; do
        name=${program##*/}
        name=${name%-*}
        if [[ $name =~ $NOT_HERE ]] || [ "$name" = bailey_admin ] || [ "$name" = bailey_recorder ]; then continue; fi
        printf '%s %s\n' "$name" "$program"
    done <"$work/built.txt" >"$work/out/programs.txt"
    build_seconds=$((SECONDS - started))
}
build
cp tests/beds/podman.skip "$work/out/skip.txt"
printf '%s\n' "${names[@]}" | grep :: >"$work/out/only.txt" || true
if is_root; then chown -R "$(id -u "$BAILEY_TEST_USER"):$(id -g "$BAILEY_TEST_USER")" "$work"; fi

# The account's home where it is on the host: podman takes the working directory for it otherwise.
users_home=$(getent passwd "$(as_user id -u)" | cut -d: -f6)
options=(run --rm --cgroups=disabled --network none --userns=keep-id --hostname container
    --volume "$ROOT:$ROOT:ro" --volume "$CARGO_TARGET_DIR:$CARGO_TARGET_DIR:ro" --volume "$BAILEY_TEST_IMAGE:$BAILEY_TEST_IMAGE:ro"
    --volume "$work/out:$work/out" --volume "$work/tmp:$work/tmp" --volume "$work/home:$users_home"
    --env BAILEY_TEST_IMAGE="$BAILEY_TEST_IMAGE" --env BAILEY_TEST_TMP="$work/tmp" --env HOME=/tmp
    --env BAILEY_PROGRAM="$CARGO_TARGET_DIR/$TRIPLE/debug/bailey" --workdir "$ROOT")

# A recorder of another account on the host, its socket at its usual place in the container.
start_recorder() {
    local dir=$others/recorder user=$BAILEY_TEST_RECORDER_USER
    if ! is_root; then
        user=
    else
        make_other_users
    fi
    mkdir "$dir" "$dir/run" "$dir/log" "$dir/state"
    cat >"$dir/bailey.toml" <<TOML
[audit]
socket = "$dir/run/recorder.sock"
[recorder]
dir = "$dir/log"
state = "$dir/state"
foreign_config = "record"
[sandbox]
pid_namespace = "preferred"
TOML
    if [ -n "$user" ]; then chown "$user:" "$dir/run" "$dir/log" "$dir/state"; fi
    chmod 0755 "$dir/run" "$dir/log" "$dir/state"
    BAILEY_TEST_USER=${user:-$BAILEY_TEST_USER} exec_as_user env BAILEY_CONFIG="$dir/bailey.toml" \
        "$CARGO_TARGET_DIR/$TRIPLE/debug/bailey-recorder" 2>"$dir/said" &
    recorder=$!
    local tries=0
    until [ -S "$dir/run/recorder.sock" ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || die "the recorder does not start: $(cat "$dir/said")"
        sleep 0.1
    done
}
[ -x "$CARGO_TARGET_DIR/$TRIPLE/debug/bailey-recorder" ] || cargo build --locked --features "test-hooks,schema" --bins
start_recorder

# seen_from_outside MODE: while a payload runs in the container, the host's recorder has it under the host's number.
seen_from_outside() {
    local mode=$1 mark=$((RANDOM + 100000)).$RANDOM container pid line option want wanted
    for option in "" --no-pid; do
        # shellcheck disable=SC2086 # no option, or one
        podman "${options[@]}" "${security[@]}" --volume "$others/recorder/run:/run/bailey" "$image" \
            bash "$ROOT/tests/beds/podman-inside.sh" launch "$mode" $option -- /bin/sleep "$mark" >"$work/out/outside.txt" 2>&1 &
        container=$!
        pid=
        for _ in $(seq 100); do
            pid=$(pgrep -x -f "/bin/sleep $mark" || true)
            [ -z "$pid" ] || break
            sleep 0.1
        done
        line=$(grep -h '"action":"payload-launch"' "$others"/recorder/log/*.ndjson | tail -n 1)
        [ -z "$pid" ] || kill "$pid" 2>/dev/null || true # it is the payload's: bailey then ends by itself
        wait "$container" || true
        if [ -z "$pid" ] || ! grep -q "\"pid\":${pid}[,}]" <<<"$line"; then
            printf 'FAIL %s seen_from_outside%s: the payload is process %s, and the record: %s %s\n' "$mode" "$option" "${pid:-none}" \
                "$line" "$(cat "$work/out/outside.txt")"
            return 1
        fi
        # What the recorder confirmed: with each option what it is, and in the masked container what forbids namespaces.
        wanted=('"vpid":2[,}]' '"pid_namespace":"on"')
        [ -z "$option" ] || wanted=('"pid_namespace":"off: asked for')
        [ "$mode" != masked ] || wanted+=('"nested_namespaces_forbidden":"on: by its root directory' '"proc":"off: ')
        for want in "${wanted[@]}"; do
            grep -q "$want" <<<"$line" || { printf 'FAIL seen_from_outside %s: %s is not in %s\n' "$option" "$want" "$line" && return 1; }
        done
        printf 'ok seen_from_outside%s\n' "${option:+ $option}"
        mark=$mark$RANDOM
    done
}

# compare BED COUNT
compare() {
    local file=tests/beds/$1.count expected
    expected=$(cat "$file" 2>/dev/null || echo 0)
    if [ "$2" -lt "$expected" ]; then
        echo "bed $1: $2 tests passed, $file expects $expected: tests got lost"
        return 1
    elif [ "$2" -gt "$expected" ]; then
        echo "bed $1: $2 tests passed, more than the $expected expected; to commit: echo $2 >$file"
    else
        echo "bed $1: $2 tests passed, as expected"
    fi
}

code=0
for mode in "${modes[@]}"; do
    before=$SECONDS
    case $mode in
    unmasked) security=(--security-opt unmask=ALL --security-opt seccomp=unconfined) bed=podman ;;
    masked) security=() bed=podman-defaults ;;
    *) die "no mode $mode" ;;
    esac
    rm -rf "$work/out/$mode"
    as_user mkdir -p "$work/out/$mode/skipped"
    podman "${options[@]}" "${security[@]}" "$image" bash "$ROOT/tests/beds/podman-inside.sh" tests "$mode" "$work/out" || code=1
    seen_from_outside "$mode" | tee -a "$work/out/$mode/results.txt" || code=1
    if grep -q ^FAIL "$work/out/$mode/results.txt"; then code=1; fi
    passed=$(grep -c '^ok' "$work/out/$mode/results.txt" || true)
    skipped=$(grep -c '^skipped' "$work/out/$mode/results.txt" || true)
    failed=$(grep -c '^FAIL' "$work/out/$mode/results.txt" || true)
    say "podman, $mode: $passed passed, $failed failed, $skipped skipped, $((SECONDS - before)) s"
    if [ ${#modes[@]} -eq 2 ]; then
        if [ "$part" = ci ]; then
            compare "$bed-ci" "$passed" || code=1
        elif [ ${#names[@]} -eq 0 ]; then
            compare "$bed" "$passed" || code=1
        fi
    fi
done
say "podman: $((SECONDS - started)) s, of which $build_seconds s for building programs and image"
exit "$code"
