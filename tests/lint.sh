#!/usr/bin/env bash
# Formatting, clippy with every warning an error, shellcheck over the scripts, licences and sources of the dependencies, the
# manual pages against the program, the systemd units.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

enter_workspace
cargo fmt --check
# Unsafe code is in sys/ alone. (The crate's own lint only denies it, so that sys/ can allow it; bin/bailey.rs expands a macro
# of sys/ that defines the C entry point.)
unguarded=$(grep -rL 'forbid(unsafe_code)' src --include='*.rs' | grep -v -e '^src/sys/' -e '/tests\.rs$' \
    -e '^src/lib\.rs$' -e '^src/bin/bailey\.rs$' || true)
[ -z "$unguarded" ] || die "these files do not forbid unsafe code: $unguarded"
cargo clippy --locked --all-targets --all-features --quiet -- -D warnings
# The other architecture: tables and constants that only its own compiler looks at.
other=aarch64-unknown-linux-gnu
if have rustup && rustup target list --installed | grep -qx "$other"; then
    cargo check --locked --target "$other" --all-features --quiet
else
    say "lint: no Rust target $other, the code is not checked for it: run tests/setup.sh"
fi
if have shellcheck; then
    find tests packaging .ci -type f \( -name '*.sh' -o -path .ci/run \) -exec shellcheck -x {} +
else
    say "lint: shellcheck is not installed, the scripts are not checked: run tests/setup.sh"
fi
bash tests/deny.sh --offline
bash tests/man.sh
bash tests/units.sh
