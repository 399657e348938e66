#!/usr/bin/env bash
# Everything: the beds of their own (each executable tests/beds/NAME.sh, which must end non-zero when it cannot run), a
# changed ban list against 500 payloads, a short run of the benchmark, then tests/test.sh, whose result comes last.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

here=$(cd "$(dirname "$0")" && pwd)
failed=()
for bed in "$here"/beds/*.sh; do
    [ -x "$bed" ] || continue
    say "== bed ${bed##*/}"
    "$bed" || failed+=("${bed##*/}")
done
say "== ten thousand bans, five hundred payloads"
BAILEY_CROWD=500 bash "$here/test.sh" --cargo-profile release -E 'binary(suspend_crowd)' --no-capture || failed+=("suspend_crowd")
say "== benchmark, 20 rounds"
bash "$here/bench.sh" --rounds 20 --warmup 5 || failed+=("bench.sh")
say "== tests"
code=0
if [ "${#failed[@]}" -gt 0 ]; then
    say "failed so far: ${failed[*]}"
    code=1
fi
bash "$here/test.sh" || code=$?
exit "$code"
