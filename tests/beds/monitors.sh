#!/usr/bin/env bash
# The recipes of docs/check.md as they stand there, under real monitors of Debian: slurmctld and slurmd run the
# HealthCheckProgram, which drains the node and resumes it; NRPE runs the plugin. As root; some 60 MB of packages.
#
#   tests/beds/monitors.sh
#
# BAILEY_PROGRAMS=DIR   the programs of that folder instead of a release build
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

if [ "${1:-}" = --inside ]; then
    checkout=$2
    # shellcheck source=tests/beds/monitors-inside.sh
    . "$checkout/tests/beds/monitors-inside.sh"
    exit
fi

is_root || die "Slurm's daemons are started as root: run as root"
root=$BAILEY_TEST_DIR/monitors
if [ ! -x "$root/usr/sbin/slurmd-wlm" ]; then
    have mmdebstrap || die "mmdebstrap is missing: run tests/setup.sh"
    make_test_dir
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 !~ /-(security|updates)$/ && $3 == "main" { print $1; exit }')
    new=$(mktemp -d "$root.new.XXXXXX")
    trap 'remove_tree "$new"' EXIT
    say "monitors: making $root with mmdebstrap"
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --variant=minbase --quiet --customize-hook='rm -f "$1"/etc/apt/sources.list' \
        --include=slurmctld,slurmd,slurm-client,munge,nagios-nrpe-server,nagios-nrpe-plugin,hostname \
        bookworm "$new" ${mirror:+"$mirror"} >&2
    chmod 0755 "$new"
    mv -T "$new" "$root"
    trap - EXIT
fi
enter_workspace
if [ -z "${BAILEY_PROGRAMS:-}" ]; then
    build_release
    BAILEY_PROGRAMS=$RELEASE
fi

# What is installed and changed goes with this directory.
work=$(fresh_tmp)
trap 'remove_tree "$work"' EXIT
chmod 0755 "$work"
mkdir "$work/tree" "$work/upper" "$work/work" "$work/root"
DESTDIR=$work/tree bash packaging/install.sh --from "$BAILEY_PROGRAMS" >/dev/null
# The namespaces end everything that is started in them.
# shellcheck disable=SC2016 # the inner shell's own
unshare --mount --pid --fork --uts --kill-child --propagation private bash -Eeuo pipefail -c '
    root=$1 work=$2 checkout=$3
    hostname node1
    mount -t overlay -o "lowerdir=$work/tree:$root,upperdir=$work/upper,workdir=$work/work" none "$work/root"
    cd "$work/root"
    mount -t proc proc proc
    for dir in /sys /dev; do mount --rbind "$dir" ".$dir"; done
    mkdir -p "./$checkout"
    mount --bind -o ro "$checkout" "./$checkout"
    pivot_root . mnt
    cd /
    umount -l /mnt
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash "$checkout/tests/beds/monitors.sh" --inside "$checkout"
' bash "$root" "$work" "$ROOT"
say "monitors: the recipes of docs/check.md work"
