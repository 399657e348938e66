#!/bin/sh
# Slurm's Epilog (slurm.conf; root, once for each job on each node, after its last process): ends what is left in the cgroup that
# prolog.sh gave away, and removes it. Slurm leaves the job's own group to this script, because it is not empty before. A failed
# Epilog would drain the node, so this one never fails.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
scope=/sys/fs/cgroup/system.slice/${SLURMD_NODENAME:-}_slurmstepd.scope
[ -d "$scope" ] || scope=/sys/fs/cgroup/system.slice/slurmstepd.scope
job=$scope/job_${SLURM_JOB_ID:-}
[ -n "${SLURM_JOB_ID:-}" ] && [ -d "$job/payloads" ] || exit 0

turn=0
while [ -d "$job" ] && [ "$turn" -lt 50 ]; do
    if [ -e "$job/payloads/cgroup.kill" ]; then
        echo 1 >"$job/payloads/cgroup.kill"
    elif [ -d "$job/payloads" ]; then # before Linux 5.14
        find "$job/payloads" -name cgroup.procs -exec cat {} + | while read -r pid; do kill -KILL "$pid"; done
    fi
    # Whatever groups the account made in it; and Slurm's own, when the last step is out of it.
    [ ! -d "$job/payloads" ] || find "$job/payloads" -depth -type d -exec rmdir {} +
    [ -d "$job/payloads" ] || rmdir "$job"
    [ ! -d "$job" ] || sleep 0.1
    turn=$((turn + 1))
done 2>/dev/null
[ ! -d "$job" ] || logger -t bailey-slurm "job $SLURM_JOB_ID: cannot remove $job"
exit 0
