#!/usr/bin/env bash
# Miri over what it can run of src/sys/: pointers into arguments, control messages, stacks, notes of the program. What needs the
# kernel is marked there with the reason (cfg_attr(miri, ignore)). Without a nightly toolchain with Miri: says so, ends with 77.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

# Fewer than these ran: tests got lost.
least=12
enter_workspace
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: skipped: no nightly toolchain with Miri:" \
        "rustup toolchain install nightly --profile minimal --component miri,rust-src" >&2
    exit 77
fi
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/miri
host=$(rustc -vV | sed -n 's/^host: //p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The configuration's flags make static programs, which is nothing to an interpreter.
RUSTFLAGS="" MIRIFLAGS="-Zmiri-strict-provenance" \
    cargo +nightly miri test --locked --manifest-path tests/miri/Cargo.toml --target "$host" --lib 2>&1 | tee "$log"
ran=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log")
[ "${ran:-0}" -ge "$least" ] || die "${ran:-0} tests ran, $least expected: tests got lost"
