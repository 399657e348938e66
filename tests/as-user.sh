#!/usr/bin/env bash
# Cargo's target runner (CARGO_TARGET_<TRIPLE>_RUNNER, set by tests/test.sh): runs a test program as the ordinary user
# although cargo runs as root. `compile_fail` calls cargo itself, so it stays the builder's. A test program *_uids needs
# several accounts: root starts it, and it runs what it tests as BAILEY_TEST_RECORDER_USER, BAILEY_TEST_USER and
# BAILEY_TEST_USER_B, never as root; root_caller_uids alone calls as root, which is what it tests.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

program=${1:?as-user.sh PROGRAM [ARG...]}
case ${program##*/} in
compile_fail | compile_fail-*)
    export BAILEY_SKIP_DIR=${BAILEY_SKIP_DIR:+$BAILEY_SKIP_DIR/builder}
    exec "$@"
    ;;
*_uids | *_uids-*)
    export BAILEY_SKIP_DIR=${BAILEY_SKIP_DIR:+$BAILEY_SKIP_DIR/three-uids}
    exec "$@"
    ;;
*)
    export BAILEY_SKIP_DIR=${BAILEY_SKIP_DIR:+$BAILEY_SKIP_DIR/plain-user}
    exec_as_user "$@"
    ;;
esac
