#!/usr/bin/env bash
# Every test that needs no virtual machine. The programs under test run as an ordinary user, also when root calls.
#
#   tests/test.sh [ARG...]      arguments go to nextest (or to cargo test); counts are compared only without any
#
# A test finds in its environment:
#   BAILEY_TEST_IMAGE    a Debian root directory
#   BAILEY_TEST_TMP      a fresh 0700 directory of the user on a disk, removed at the end
#   BAILEY_TEST_RELEASE  the release `bailey`, built without test hooks
#   BAILEY_TEST_SHARED   tests *_uids: a fresh 0755 directory of root's on a disk, removed at the end; and the accounts
#                        BAILEY_TEST_RECORDER_USER, BAILEY_TEST_USER, BAILEY_TEST_USER_B (tests/as-user.sh)
#   BAILEY_TEST_FUSE     a FUSE device that the user may open, where /dev/fuse is root's alone (containers)
#   BAILEY_TEST_CGROUP1  below each controller of cgroup v1 a directory of the user's, when root calls where there are such
#   BAILEY_TEST_CGROUP   tests/beds/kernels.sh: a delegated version 2 control group, in which the test sits
#   BAILEY_TEST_SLOW     how many times slower than usual this machine is (tests/beds/kernels.sh: an emulated one): bounds on time
#                        are so much wider, and of hundreds of like cases so much fewer are tried
#   BAILEY_TEST_SANDBOX, BAILEY_TEST_SITE
#                        only in tests/beds/podman.sh: a line for [sandbox] of every configuration, and one for tests without
#   BAILEY_SKIP_DIR      a test that cannot run here writes a file named after itself into it, with the reason, and
#                        returns. Without the variable it must fail: a skip is never silent.
#
# How many tests ran (run - skipped) is compared with tests/beds/BED.count: `plain-user`; `builder` for the tests that stay
# the builder's (compile_fail, documentation tests); `three-uids` for the test programs *_uids, which only root can start
# as the recorder and two pilots. Fewer is an error.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

enter_workspace
make_other_users
bash tests/image.sh
# A few tests by name need no release programs unless they are those of the release.
if [ $# -eq 0 ] || [[ $* == *"binary(release"* || $* == *"not "* ]]; then build_release; fi

BAILEY_TEST_TMP=$(fresh_tmp)
work=$(fresh_tmp) # of the scripts
groups=()
# shellcheck disable=SC2317 # called by the trap
end() {
    local group
    remove_tree "$BAILEY_TEST_TMP"
    remove_tree "$work"
    for group in "${groups[@]}"; do find "$group" -depth -type d -exec rmdir {} + || true; done
}
trap end EXIT
chmod 0755 "$work"
BAILEY_SKIP_DIR=$work/skipped
mkdir -p "$BAILEY_SKIP_DIR"/{plain-user,builder,three-uids}
chmod 0777 "$BAILEY_SKIP_DIR"/*
BAILEY_TEST_RELEASE=$RELEASE/bailey
if is_root && [ -c /dev/fuse ] && ! as_user test -w /dev/fuse && mknod -m 0666 "$work/fuse" c 10 229; then
    export BAILEY_TEST_FUSE=$work/fuse
fi
if is_root; then
    for controller in memory pids cpu cpuacct cpuset; do
        group=/sys/fs/cgroup/$controller/payload-tests-$$
        if ! [ -e "/sys/fs/cgroup/$controller/cgroup.procs" ] || ! mkdir "$group"; then continue; fi
        if [ "$controller" = cpuset ]; then
            # Nothing can live in a new one that has neither.
            for file in cpuset.mems cpuset.cpus; do cat "/sys/fs/cgroup/cpuset/$file" >"$group/$file"; done
        fi
        chown "$BAILEY_TEST_USER" "$group" "$group/cgroup.procs"
        groups+=("$group")
    done
    [ "${#groups[@]}" -eq 0 ] || export BAILEY_TEST_CGROUP1=/payload-tests-$$
fi
BAILEY_TEST_SHARED=$work/shared
mkdir "$BAILEY_TEST_SHARED"
export BAILEY_TEST_TMP BAILEY_TEST_SHARED BAILEY_SKIP_DIR BAILEY_TEST_RELEASE

build=(--locked --features "test-hooks,schema")
# Where a filter names test programs, -E 'binary(launch)', no other is built; what a filter leaves out ('not binary(launch)') names none.
only=()
while read -r name; do
    [[ $* == *"not "* ]] || only+=(--test "$name")
done < <(printf '%s\n' "${*//binary(/$'\n'binary(}" | sed -n 's/^binary(\([a-z_]*\)).*/\1/p')
runner=CARGO_TARGET_$(printf %s "$TRIPLE" | tr 'a-z.-' 'A-Z__')_RUNNER
code=0

# Documentation tests are built in a private temporary directory and show pure functions: the builder runs them.
doc=$work/doc.txt
if [ $# -eq 0 ]; then
    cargo test --doc "${build[@]}" 2>&1 | tee "$doc" || code=$?
fi

log=$work/tests.txt
if cargo nextest --version >/dev/null 2>&1; then
    by=nextest
    junit=$ROOT/target/nextest/default/junit.xml # nextest's store is in the tree, wherever cargo builds
    rm -f "$junit"
    env "$runner=$ROOT/tests/as-user.sh" cargo nextest run --no-fail-fast --color never --cargo-quiet "${build[@]}" \
        "${only[@]}" "$@" 2>&1 | tee "$log" || code=$?
else
    by=cargo
    env "$runner=$ROOT/tests/as-user.sh" cargo test --no-fail-fast --color never --lib --bins --tests "${build[@]}" \
        "$@" 2>&1 | tee "$log" || code=$?
fi

# executed BED: how many tests ran, before skips are taken off.
executed() {
    local bed=$1
    if [ "$by" = nextest ]; then
        # One <testsuite name="bailey::compile_fail" tests="3" ...> for each test program that ran.
        [ -f "$junit" ] || { echo 0; return; }
        sed -n 's/.*<testsuite name="\([^"]*\)".* tests="\([0-9]*\)".*/\1 \2/p' "$junit"
    else
        # "Running tests/compile_fail.rs (...)" and later "test result: ok. 3 passed; 1 failed; ..."
        awk '/^ *Running / { name = $2 == "unittests" ? $3 : $2 }
             /^test result:/ { sub(/\.rs$/, "", name); sub(/.*\//, "bailey::", name); print name, $4 + $6 }' "$log"
    fi | awk -v bed="$bed" '
        { of = $1 ~ /::compile_fail$/ ? "builder" : $1 ~ /_uids$/ ? "three-uids" : "plain-user" }
        of == bed { n += $2 }
        END { print n + 0 }'
}
documentation() {
    if [ -f "$doc" ]; then awk '/^test result:/ { n += $4 + $6 } END { print n + 0 }' "$doc"; else echo 0; fi
}

echo
for file in "$BAILEY_SKIP_DIR"/*/*; do
    [ -f "$file" ] || continue
    echo "skipped: ${file##*/}: $(head -n 1 "$file")"
done

if [ $# -eq 0 ]; then
    for bed in plain-user builder three-uids; do
        if [ "$bed" = three-uids ] && ! is_root; then
            echo "bed three-uids: skipped: only root can start a recorder and two pilots as three accounts"
            continue
        fi
        ran=$(executed "$bed")
        if [ "$bed" = builder ]; then ran=$((ran + $(documentation))); fi
        skipped=$(find "$BAILEY_SKIP_DIR/$bed" -type f | wc -l)
        count=$((ran - skipped))
        expected=$(cat "tests/beds/$bed.count")
        if [ "$count" -lt "$expected" ]; then
            echo "bed $bed: $count tests ran ($skipped skipped), tests/beds/$bed.count expects $expected: tests got lost"
            if [ "$code" -eq 0 ]; then code=1; fi
        elif [ "$count" -gt "$expected" ]; then
            echo "bed $bed: $count tests ran ($skipped skipped), more than the $expected expected; to commit:" \
                "echo $count >tests/beds/$bed.count"
        else
            echo "bed $bed: $count tests ran ($skipped skipped), as expected"
        fi
    done
fi

# The result comes last, because CI reads the last lines; .ci/run asks for it in a file, to print it after its own.
summary=$work/summary.txt
if [ "$by" = nextest ]; then
    sed -n '/^ *Summary \[/,$p' "$log" >"$summary"
else
    awk '/^test result:/ { p += $4; f += $6; s += $8 } END { print p + 0 " passed, " f + 0 " failed, " s + 0 " skipped" }' \
        "$log" >"$summary"
fi
if [ -n "${BAILEY_SUMMARY_FILE:-}" ]; then cp "$summary" "$BAILEY_SUMMARY_FILE"; fi
echo
cat "$summary"
exit "$code"
