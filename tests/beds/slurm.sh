#!/usr/bin/env bash
# Boots Debian 12 with systemd and Slurm 22.05 (cgroup v2) in QEMU, and submits jobs as an ordinary user that start bailey: first
# under Slurm as it comes, then with the Prolog and the Epilog of docs/cgroups.md (tests/vm/slurm.sh runs inside). Emulated: some
# six minutes on two cores that others use too, after some two minutes for what is kept (tests/vm/lib.sh); 15 minutes at most.
#
# BAILEY_PROGRAMS=DIR   the programs of that folder instead of a release build
#
# How many checks said "ok" is compared with tests/beds/slurm.count; fewer is an error.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

vm_packages
enter_workspace
vm_kernel
vm_slurm_root
if [ -z "${BAILEY_PROGRAMS:-}" ]; then
    build_release
    BAILEY_PROGRAMS=$RELEASE
fi

out=$(mktemp -d "$VM_DIR/slurm.XXXXXX")
qemu=
end() {
    if [ -n "$qemu" ]; then kill "$qemu" || true; fi
    rm -rf --one-file-system "$out"
}
trap end EXIT

tree=$out/tree
DESTDIR=$tree bash packaging/install.sh --from "$BAILEY_PROGRAMS"
cat >"$tree/etc/bailey/conf.d/10-bed.toml" <<'TOML'
[audit]
recorder = "off"
dir = "/srv/log"
TOML
mkdir -p "$tree/etc/slurm"
cat >"$tree/etc/slurm/slurm.conf" <<'CONF'
ClusterName=bed
SlurmctldHost=worker
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup,task/affinity
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
StateSaveLocation=/var/spool/slurm
SlurmdSpoolDir=/var/spool/slurmd
KillWait=5
MessageTimeout=60
ReturnToService=2
NodeName=worker CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=worker Default=YES State=UP MaxTime=INFINITE OverSubscribe=NO
include /etc/slurm/site.conf
CONF
echo "# nothing yet" >"$tree/etc/slurm/site.conf"
cat >"$tree/etc/slurm/cgroup.conf" <<'CONF'
CgroupPlugin=cgroup/v2
ConstrainCores=yes
ConstrainRAMSpace=yes
CONF
mkdir -p "$tree/var/spool/slurm"
# Slurm takes no address that only the loopback device has.
printf '127.0.0.1 localhost\n192.0.2.10 worker\n' >"$tree/etc/hosts"
units=$tree/etc/systemd/system
install -D -m 0755 tests/vm/slurm.sh "$tree/usr/local/sbin/bed"
mkdir -p "$units/multi-user.target.wants" "$tree/srv"
cat >"$units/bed-net.service" <<'UNIT'
[Unit]
Description=An address
Before=slurmctld.service slurmd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cd /sys/class/net && ip addr add 192.0.2.10/24 dev e* && ip link set e* up'
UNIT
cat >"$units/bed.service" <<'UNIT'
[Unit]
Description=The checks
After=slurmctld.service slurmd.service munge.service dbus.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bed
ExecStopPost=/usr/bin/systemctl --no-block poweroff
UNIT
# The recipe as docs/cgroups.md has it.
recipe() {
    awk -v language="\`\`\`$1" '
        /^## / { inside = ($0 == "## Slurm") }
        inside && $0 == language { found = 1; next }
        found && /^```$/ { exit }
        found' docs/cgroups.md
}
recipe ini >"$tree/srv/recipe.conf"
recipe toml >"$tree/srv/recipe.toml"
grep -q '^Prolog=' "$tree/srv/recipe.conf" || die "docs/cgroups.md has no recipe for slurm.conf"
grep -q '^parent = ' "$tree/srv/recipe.toml" || die "docs/cgroups.md has no recipe for bailey.toml"
# What "systemctl enable" makes; only for this machine.
ln -s /etc/systemd/system/bed.service /etc/systemd/system/bed-net.service "$units/multi-user.target.wants/"

vm_initramfs "$out/initramfs" "$tree"
code=0
VM_ROOT=slurm-root vm_start 900 "$out/initramfs" "$out" &
qemu=$!
wait "$qemu" || code=$?
qemu=

vm_report slurm "$out" "$code"
