#!/usr/bin/env bash
# A pool of HTCondor 23.9 (Debian 13) of one ordinary user whose SINGULARITY is bailey by the name of apptainer: the starter's probes,
# jobs with their files, environment and codes, condor_rm, condor_ssh_to_job, identities from tokens and from a proxy, and the calls of
# glideinWMS. Nothing of HTCondor is patched; its configuration is the one of docs/htcondor.md. As root, in namespaces of its own (also of
# the network), so that it ends with everything it started; some 130 MB of packages once, 10 minutes at most.
#
#   tests/beds/htcondor.sh
#
# BAILEY_PROGRAMS=DIR        the programs of that folder instead of a release build
# BAILEY_HTCONDOR_KEEP=DIR   keeps the pool's logs and the payloads' records there
#
# How many checks said "ok" is compared with tests/beds/htcondor.count; fewer is an error.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

LIMIT=600
started=$SECONDS
if [ "${1:-}" = --inside ]; then
    checkout=$2
    # shellcheck source=tests/beds/htcondor-inside.sh
    . "$checkout/tests/beds/htcondor-inside.sh"
    exit
fi

# skip REASON
skip() {
    say "htcondor: skipped: $*"
    exit 77
}
is_root || skip "the pool has a root directory and a network of its own: run as root"
unshare --mount --pid --net --ipc --uts --fork true 2>/dev/null || skip "root cannot make namespaces here"
root=$BAILEY_TEST_DIR/htcondor
packages=htcondor,openssh-server,openssh-client,openssl,iproute2,procps,python3-minimal,jq,busybox-static
recipe="trixie $packages 1"
if [ "$(cat "$root/recipe" 2>/dev/null)" != "$recipe" ]; then
    have mmdebstrap || die "mmdebstrap is missing: run tests/setup.sh"
    make_test_dir
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 !~ /-(security|updates|backports)/ && $3 == "main" { print $1; exit }')
    new=$(mktemp -d "$root.new.XXXXXX")
    trap 'remove_tree "$new"' EXIT
    say "htcondor: making $root with mmdebstrap"
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --variant=minbase --quiet --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" \
        --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* \
            "$1"/usr/share/locale/* "$1"/usr/share/man/*' \
        trixie "$new" ${mirror:+"$mirror"} >&2
    printf '%s\n' "$recipe" >"$new/recipe"
    chmod 0755 "$new"
    rm -rf --one-file-system "$root"
    mv -T "$new" "$root"
    trap - EXIT
fi
enter_workspace
bash tests/image.sh
if [ -z "${BAILEY_PROGRAMS:-}" ]; then
    build_release
    BAILEY_PROGRAMS=$RELEASE
fi
prepared=$((SECONDS - started))

# What is installed and changed goes with this directory.
work=$(fresh_tmp)
# shellcheck disable=SC2317 # by the trap
end() {
    if [ -n "${BAILEY_HTCONDOR_KEEP:-}" ]; then
        mkdir -p "$BAILEY_HTCONDOR_KEEP"
        cp -a "$work"/upper/srv/* "$work"/upper/var/lib/pool "$work"/upper/var/lib/site "$BAILEY_HTCONDOR_KEEP/" || true
    fi
    remove_tree "$work"
}
trap end EXIT
chmod 0755 "$work"
mkdir "$work/tree" "$work/upper" "$work/work" "$work/root"
DESTDIR=$work/tree bash packaging/install.sh --from "$BAILEY_PROGRAMS" --names /opt/bailey/bin >/dev/null
# The namespaces end everything that is started in them.
code=0
# shellcheck disable=SC2016 # the inner shell's own
timeout --kill-after=5 "$LIMIT" unshare --mount --pid --net --ipc --uts --fork --kill-child --propagation private bash -Eeuo pipefail -c '
    root=$1 work=$2 checkout=$3 image=$4
    hostname worker
    mount -t overlay -o "lowerdir=$work/tree:$root,upperdir=$work/upper,workdir=$work/work" none "$work/root"
    cd "$work/root"
    mount -t proc proc proc
    for dir in /sys /dev; do mount --rbind "$dir" ".$dir"; done
    # Terminals as on a host: sshd refuses one whose group is not tty.
    mount -t devpts none dev/pts -o newinstance,ptmxmode=0666,mode=0620,gid=5
    mount --bind dev/pts/ptmx dev/ptmx
    # Not at its own path: the bed mounts its own /tmp and /var/tmp, below which a checkout may lie.
    mkdir -p ./checkout ./images/debian-12
    mount --bind -o ro "$checkout" ./checkout
    mount --bind -o ro "$image" ./images/debian-12
    pivot_root . mnt
    cd /
    umount -l /mnt
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash /checkout/tests/beds/htcondor.sh --inside /checkout
' bash "$root" "$work" "$ROOT" "$BAILEY_TEST_IMAGE" | tee "$work/said" || code=$?

passed=$(grep -c '^ok ' "$work/said" || true)
failed=$(grep -c '^FAIL ' "$work/said" || true)
expected=$(cat tests/beds/htcondor.count 2>/dev/null || echo 0)
say "htcondor: $((SECONDS - started)) s, of which $prepared s for building the programs and the root directory"
[ "$code" -ne 124 ] || die "bed htcondor: stopped after $LIMIT s"
[ "$failed" -eq 0 ] || die "bed htcondor: $failed checks failed, $passed passed"
[ "$code" -eq 0 ] || die "bed htcondor: ended with $code after $passed checks"
[ "$passed" -ge "$expected" ] || die "bed htcondor: $passed checks passed, tests/beds/htcondor.count expects $expected: checks got lost"
[ "$passed" -eq "$expected" ] || say "to commit: echo $passed >tests/beds/htcondor.count"
echo "bed htcondor: $passed checks passed"
