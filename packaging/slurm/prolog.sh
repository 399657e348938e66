#!/bin/sh
# Slurm's Prolog (slurm.conf; root, once for each job on each node, before its first process): gives the job's account a cgroup
# v2 for its payloads inside the job's own. docs/cgroups.md, "Slurm", says what goes with it.
#
#   NODE_slurmstepd.scope/job_7         the job: its limits, set by Slurm, hold for all of this
#   |-- step_batch/user/task_0          the pilot: stays as Slurm makes it, so that Slurm goes on to signal and to end it
#   `-- payloads                        the job's account makes a group for each payload here
#
# Only the last one is given away, and the right to move processes within the job. A failed Prolog would drain the node, so
# this one never fails: bailey says what is missing, and cgroup.mode says what follows from that.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
# The first name is that of a Slurm built for several slurmd on a host, as Debian's is.
scope=/sys/fs/cgroup/system.slice/${SLURMD_NODENAME:-}_slurmstepd.scope
[ -d "$scope" ] || scope=/sys/fs/cgroup/system.slice/slurmstepd.scope
job=$scope/job_${SLURM_JOB_ID:-}

give() {
    [ -n "${SLURM_JOB_ID:-}" ] && [ "${SLURM_JOB_UID:-0}" -gt 0 ] && [ -e "$scope/cgroup.procs" ] || return
    mkdir -p "$job/payloads" || return
    # Slurm 22.05 itself hands on cpuset, cpu and memory only.
    for controller in memory pids cpu io; do
        echo "+$controller" >"$scope/cgroup.subtree_control" && echo "+$controller" >"$job/cgroup.subtree_control"
    done
    chown "$SLURM_JOB_UID" "$job/cgroup.procs" \
        "$job/payloads" "$job/payloads/cgroup.procs" "$job/payloads/cgroup.subtree_control"
}

said=$(give 2>&1) || logger -t bailey-slurm "job ${SLURM_JOB_ID:-?}: payloads get no cgroup: ${said:-no job, or no $scope}"
exit 0
