#!/usr/bin/env bash
# Everything: the beds of their own (each executable tests/beds/NAME.sh, which must end non-zero when it cannot run), a
# short run of the benchmark, then tests/test.sh, whose result comes last.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

here=$(cd "$(dirname "$0")" && pwd)
failed=()
for bed in "$here"/beds/*.sh; do
    [ -x "$bed" ] || continue
    say "== bed ${bed##*/}"
    "$bed" || failed+=("${bed##*/}")
done
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
