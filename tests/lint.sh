#!/usr/bin/env bash
# Formatting, clippy with every warning an error, shellcheck over the scripts, the manual pages against the program.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

enter_workspace
cargo fmt --check
cargo clippy --locked --all-targets --all-features --quiet -- -D warnings
if have shellcheck; then
    find tests .ci -type f \( -name '*.sh' -o -path .ci/run \) -exec shellcheck -x {} +
else
    say "lint: shellcheck is not installed, the scripts are not checked: run tests/setup.sh"
fi
bash tests/man.sh
