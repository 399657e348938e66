#!/usr/bin/env bash
# Makes a root directory with the programs that bailey is compared with (Debian sid: Apptainer, crun and a recent bubblewrap)
# for `make bench` and tests/attacks/table.sh with BAILEY_PEERS_ROOT. As root; some 100 MB of packages. Prints its path.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

is_root || die "the peers' root directory is entered with a mount namespace of root: run as root"
root=${BAILEY_PEERS_ROOT:-$BAILEY_TEST_DIR/peers}
if [ -x "$root/usr/bin/apptainer" ] && [ ! -x "$root/usr/bin/crun" ]; then
    die "$root was made by an older version of this script and has no crun: remove it"
fi
if [ ! -x "$root/usr/bin/apptainer" ]; then
    have mmdebstrap || die "mmdebstrap is missing: run tests/setup.sh"
    make_test_dir
    mkdir -p "$(dirname "$root")"
    # The mirror of this machine's own main archive; sid is on the same one.
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 !~ /-(security|updates)$/ && $3 == "main" { print $1; exit }')
    new=$(mktemp -d "$root.new.XXXXXX")
    trap 'remove_tree "$new"' EXIT
    say "peers: making $root with mmdebstrap"
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --variant=minbase --quiet --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=apptainer,bubblewrap,crun,squashfuse --customize-hook='rm -f "$1"/etc/apt/sources.list' \
        sid "$new" ${mirror:+"$mirror"} >&2
    chmod 0755 "$new"
    mv -T "$new" "$root"
    trap - EXIT
fi
printf '%s\n' "$root"
