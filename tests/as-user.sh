#!/usr/bin/env bash
# Cargo's target runner (CARGO_TARGET_<TRIPLE>_RUNNER, set by tests/test.sh): runs a test program as the ordinary user
# although cargo runs as root. `compile_fail` calls cargo itself, so it stays the builder's.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

program=${1:?as-user.sh PROGRAM [ARG...]}
case ${program##*/} in
compile_fail | compile_fail-*)
    export BAILEY_SKIP_DIR=${BAILEY_SKIP_DIR:+$BAILEY_SKIP_DIR/builder}
    exec "$@"
    ;;
*)
    export BAILEY_SKIP_DIR=${BAILEY_SKIP_DIR:+$BAILEY_SKIP_DIR/plain-user}
    exec_as_user "$@"
    ;;
esac
