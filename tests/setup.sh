#!/usr/bin/env bash
# Installs what building, tests and the benchmark need, as far as it is missing: Debian packages with apt (through sudo
# when not root). Rust itself is not installed; its version is checked.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

# A program or file that tells that the package is there, and the package.
needs=(
    gcc:gcc
    g++:g++
    /usr/include/stdlib.h:libc6-dev
    make:make
    git:git
    bwrap:bubblewrap
    mmdebstrap:mmdebstrap
    strace:strace
    setpriv:util-linux
    flock:util-linux
    newuidmap:uidmap
    bindfs:bindfs
    useradd:passwd
    file:file
    readelf:binutils
    perl:perl-base
    python3:python3
    /lib/systemd/systemd-journald:systemd
    ps:procps
    shellcheck:shellcheck
    mandoc:mandoc
)

missing=()
names=()
for need in "${needs[@]}"; do
    probe=${need%%:*}
    # sbin is not in every user's PATH.
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "$probe" >/dev/null && [ ! -e "$probe" ]; then
        missing+=("${need#*:}")
        names+=("$probe")
    fi
done

if [ "${#missing[@]}" -gt 0 ]; then
    have apt-get || die "missing: ${names[*]}. This is no Debian or Ubuntu: install them with your package manager"
    sudo=()
    if ! is_root; then
        have sudo || die "missing packages: ${missing[*]}. Run as root: apt-get update && apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    say "setup: installing ${missing[*]}"
    "${sudo[@]}" apt-get -o Acquire::Retries=3 -qq update
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -qq install -y \
        --no-install-recommends "${missing[@]}"
fi

have cargo || die "cargo is not in PATH: install Rust 1.91 or later (rustup.rs or your distribution)"
version=$(cargo --version | awk '{ print $2 }')
least=1.91.0
[ "$(printf '%s\n%s\n' "$least" "${version%%-*}" | sort -V | head -n 1)" = "$least" ] ||
    die "cargo $version is too old: Rust $least or later is needed"

# tests/lint.sh checks the code for the other architecture too, where the toolchain can be asked for it.
other=aarch64-unknown-linux-gnu
if have rustup && ! rustup target list --installed | grep -qx "$other"; then
    rustup --quiet target add "$other" || say "setup: no Rust target $other, tests/lint.sh leaves it out"
fi

if cargo nextest --version >/dev/null 2>&1; then
    runner="cargo-nextest"
else
    runner="cargo test (cargo-nextest is not installed; with it a test that hangs is ended and named)"
fi
say "setup: cargo $version, tests by $runner"
