# shellcheck shell=bash
# What the test scripts share: where things lie, who the ordinary user is, how to become that user. Sourced, not run.
#
# BAILEY_TEST_DIR    folder for images, copies and temporary directories; any uid can traverse it (default below)
# BAILEY_TEST_IMAGE  the image that payloads run in: a root directory (default below; tests/image.sh makes it)
# BAILEY_TEST_USER   the ordinary user when root calls (default bailey-test; made with useradd when missing)
# BAILEY_TEST_USER_B, BAILEY_TEST_RECORDER_USER
#                    a second pilot and the recorder's account, for tests with three uids (default bailey-test-b and
#                    bailey-test-rec; tests/test.sh makes them when root calls)

set -Eeuo pipefail
umask 022
# A script that ends early says where.
trap 'printf "%s: line %s failed: %s\n" "${BASH_SOURCE[0]##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR

say() { printf '%s\n' "$*" >&2; }
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

if ! have cargo && [ -x "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-${HOME:-}/.cargo}/bin:$PATH"
fi

if [ -z "${BAILEY_TEST_DIR:-}" ]; then
    if is_root; then
        BAILEY_TEST_DIR=/var/tmp/bailey-test
    else
        BAILEY_TEST_DIR=/var/tmp/bailey-test-$(id -u)
    fi
fi
if [ -z "${BAILEY_TEST_IMAGE:-}" ]; then
    BAILEY_TEST_IMAGE=$BAILEY_TEST_DIR/images/debian-12
    # An image that root made serves everybody, if nobody but root can have put it there.
    shared=/var/tmp/bailey-test
    if ! is_root && [ -x "$shared/images/debian-12/bin/sh" ] && [ "$(stat -c %u "$shared")" = 0 ]; then
        BAILEY_TEST_IMAGE=$shared/images/debian-12
    fi
fi
BAILEY_TEST_USER=${BAILEY_TEST_USER:-bailey-test}
BAILEY_TEST_USER_B=${BAILEY_TEST_USER_B:-bailey-test-b}
BAILEY_TEST_RECORDER_USER=${BAILEY_TEST_RECORDER_USER:-bailey-test-rec}
export BAILEY_TEST_DIR BAILEY_TEST_IMAGE BAILEY_TEST_USER BAILEY_TEST_USER_B BAILEY_TEST_RECORDER_USER

# Makes BAILEY_TEST_DIR. The name is known and /var/tmp is everybody's, so somebody else's directory is refused.
make_test_dir() {
    mkdir -p "$BAILEY_TEST_DIR"
    if [ -L "$BAILEY_TEST_DIR" ] || [ "$(stat -c %u "$BAILEY_TEST_DIR")" != "$(id -u)" ]; then
        die "$BAILEY_TEST_DIR belongs to somebody else: remove it or set BAILEY_TEST_DIR"
    fi
}

# Makes the ordinary user when root calls. useradd also hands out subordinate uids.
make_test_user() { make_account "$BAILEY_TEST_USER"; }
# The two others, for tests with three uids.
make_other_users() {
    make_account "$BAILEY_TEST_USER_B"
    make_account "$BAILEY_TEST_RECORDER_USER"
    if is_root && [ "$(id -u "$BAILEY_TEST_USER" "$BAILEY_TEST_USER_B" "$BAILEY_TEST_RECORDER_USER" 2>/dev/null |
        sort -u | wc -l)" -ne 3 ]; then
        die "$BAILEY_TEST_USER, $BAILEY_TEST_USER_B and $BAILEY_TEST_RECORDER_USER are not three accounts"
    fi
}
make_account() {
    is_root || return 0
    id "$1" >/dev/null 2>&1 || useradd -m -s /bin/bash "$1"
    [ "$(id -u "$1")" -ne 0 ] || die "the tests' account $1 is root"
}

# exec_as_user COMMAND...: becomes COMMAND, as the ordinary user when root calls, as the caller otherwise. In the
# background ("exec_as_user … &") $! is the command's own pid.
exec_as_user() {
    is_root || exec "$@"
    local uid gid home
    uid=$(id -u "$BAILEY_TEST_USER")
    gid=$(id -g "$BAILEY_TEST_USER")
    home=$(getent passwd "$BAILEY_TEST_USER" | cut -d: -f6)
    exec env -u XDG_STATE_HOME -u XDG_RUNTIME_DIR -u XDG_CONFIG_HOME -u XDG_CACHE_HOME -u XDG_DATA_HOME -u MAIL \
        -u SUDO_USER -u SUDO_UID -u SUDO_GID -u SUDO_COMMAND \
        PATH=/usr/local/bin:/usr/bin:/bin HOME="$home" USER="$BAILEY_TEST_USER" LOGNAME="$BAILEY_TEST_USER" SHELL=/bin/bash \
        setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"
}
as_user() { (exec_as_user "$@"); }

# Enters the tree to build and test in, sets ROOT (the tree), CARGO_TARGET_DIR, TRIPLE and RELEASE (folder of the
# release programs). Root's checkout may lie where the ordinary user cannot go (/root, a 0700 clone of CI); the tests
# run as that user, so then the tree is copied and built below BAILEY_TEST_DIR, under a lock for the life of the script.
enter_workspace() {
    ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    have cargo || die "cargo is not in PATH: install Rust 1.91 or later (rustup.rs or your distribution)"
    TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
    CARGO_TARGET_DIR=$(cd "$ROOT" && realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
    if is_root; then
        make_test_user
        mkdir -p "$CARGO_TARGET_DIR"
        if ! as_user test -r "$ROOT/Cargo.toml" || ! as_user test -x "$CARGO_TARGET_DIR"; then
            copy_workspace
        fi
    fi
    export CARGO_TARGET_DIR
    # The scripts that source this file read both.
    # shellcheck disable=SC2034
    RELEASE=$CARGO_TARGET_DIR/$TRIPLE/release
    cd "$ROOT"
}

copy_workspace() {
    local copy=$BAILEY_TEST_DIR/src
    make_test_dir
    exec {WORKSPACE_LOCK}>"$BAILEY_TEST_DIR/src.lock"
    flock "$WORKSPACE_LOCK"
    say "$BAILEY_TEST_USER cannot enter this tree: copying it to $copy and building there"
    rm -rf "$copy"
    mkdir -p "$copy"
    # New time stamps (-m): another checkout's build may be younger than this one's files.
    pack_tree | tar -C "$copy" --no-same-owner -m -xf -
    chmod -R go+rX "$copy"
    ROOT=$copy
    CARGO_TARGET_DIR=$BAILEY_TEST_DIR/target
    mkdir -p "$CARGO_TARGET_DIR"
}

# A tar archive of this tree without what is built, on standard output. A copy of a checkout has no repository.
pack_tree() {
    if git -c safe.directory='*' -C "$ROOT" rev-parse --git-dir >/dev/null 2>&1; then
        # A file that is deleted but not yet committed is listed and not there.
        git -c safe.directory='*' -C "$ROOT" ls-files -z --cached --others --exclude-standard |
            tar -C "$ROOT" --null --ignore-failed-read --no-same-owner -T - -cf -
    else
        tar -C "$ROOT" --exclude=./target --exclude=./.cache --no-same-owner -cf - .
    fi
}

# Builds the release programs, without test hooks.
build_release() { cargo build --release --locked; }

# fresh_tmp: prints a new 0700 directory of the ordinary user on a disk file system; the caller removes it.
fresh_tmp() {
    local dir
    make_test_dir
    dir=$(mktemp -d "$BAILEY_TEST_DIR/tmp.XXXXXXXX")
    chmod 0700 "$dir"
    if is_root; then chown "$(id -u "$BAILEY_TEST_USER"):$(id -g "$BAILEY_TEST_USER")" "$dir"; fi
    case $(stat -f -c %T "$dir") in
    tmpfs | ramfs) say "note: $dir is in memory, so syncing costs nothing there: set BAILEY_TEST_DIR to a disk" ;;
    esac
    printf '%s\n' "$dir"
}

# remove_tree DIR: also where a payload left directories without permissions.
remove_tree() {
    is_root || chmod -R u+rwx "$1" 2>/dev/null || true
    rm -rf --one-file-system -- "$1"
}
