#!/usr/bin/env bash
# Makes the image that tests, `make run` and the benchmark use: a Debian 12 (bookworm) minbase root directory at
# BAILEY_TEST_IMAGE. Does nothing when it is there. Takes about 20 s and 180 MB.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

image=$BAILEY_TEST_IMAGE
if [ -x "$image/bin/sh" ]; then
    say "image: $image (there already)"
    exit 0
fi
[ ! -e "$image" ] || die "$image is there but holds no /bin/sh: remove it"
have mmdebstrap || die "mmdebstrap is missing: run tests/setup.sh"

make_test_dir
mkdir -p "$(dirname "$image")"
# One maker at a time; a second one finds the image made.
exec 9>"$image.lock"
flock 9
if [ -x "$image/bin/sh" ]; then exit 0; fi

# The mirror is what this machine's apt uses: the first one that offers bookworm's main, else Debian's own.
# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')

new=$(mktemp -d "$image.new.XXXXXX")
trap 'remove_tree "$new"' EXIT
# mmdebstrap writes its mirror into the image; payloads need no apt, so it goes. Bind targets must exist in a
# read-only image: /etc/hosts and /etc/resolv.conf become plain files.
# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf
      touch "$1"/etc/resolv.conf "$1"/etc/hosts'
options=(--variant=minbase --quiet --customize-hook="$hook")

say "image: making $image with mmdebstrap"
if is_root; then
    mmdebstrap "${options[@]}" bookworm "$new" ${mirror:+"$mirror"}
else
    # In a user namespace mmdebstrap's files belong to subordinate uids; through tar they become the caller's.
    # Device nodes cannot be made, and bailey makes its own.
    have newuidmap || die "newuidmap is missing (package uidmap): run tests/setup.sh, or make the image as root"
    mmdebstrap --mode=unshare "${options[@]}" bookworm - ${mirror:+"$mirror"} |
        tar -C "$new" --no-same-owner --exclude='./dev/*' -xf -
fi
chmod 0755 "$new"
[ -x "$new/bin/sh" ] || die "mmdebstrap left no /bin/sh in $new"
mv -T "$new" "$image"
trap - EXIT
say "image: $image ($(du -sh "$image" | cut -f1))"
