#!/bin/bash
# The checks of tests/beds/slurm.sh: runs as root in the virtual machine, when Slurm's daemons are up. Each check is a function;
# one line a check goes to ttyS1, and after a failure what the check printed.

exec </dev/null 3>/dev/ttyS1
stty -F /dev/ttyS1 -opost 2>/dev/null
said=/run/bed.said
LOG=/srv/log
OUT=/srv/out
SCOPE=/sys/fs/cgroup/system.slice/worker_slurmstepd.scope

# check FUNCTION WORDS...: the words are the check's name.
check() {
    local function=$1 code begin=$SECONDS
    shift
    # Not in a condition: there "set -e" would have no effect inside.
    (
        set -e
        trap 'echo "line $LINENO: $BASH_COMMAND ended with $?"' ERR
        set -E
        "$function"
    ) >"$said" 2>&1
    code=$?
    if [ "$code" -eq 0 ]; then
        echo "ok $*" >&3
    else
        echo "FAIL $*" >&3
        { tail -n 15 "$said"; squeue; tail -n 5 /var/log/slurmd.log; } 2>&1 | cut -c 1-400 | sed 's/^/# /' >&3
        scancel --user pilot; scancel --user other # for the checks after it
    fi
    echo "# $((SECONDS - begin)) s" >&3
}
# as USER COMMAND...
as() {
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$user" --init-groups -- \
        env -i HOME="/home/$user" USER="$user" PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@"
}
# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then echo "waited in vain for: $*"; return 1; fi
        sleep 0.3
    done
}
refuse() { # refuse COMMAND...: it must fail
    if "$@"; then echo "should have failed: $*"; return 1; fi
}
# step MEMORY SCRIPT: a job of one step that runs the shell script; what it says and its code.
step() { as pilot srun --quiet -n 1 --mem "$1" /bin/bash -c "$2"; }
# submit MEMORY SCRIPT [USER]: a batch job in the background; prints its id. Its output is in $OUT/ID.
submit() {
    as "${3:-pilot}" sbatch --parsable -n 1 --mem "$1" -D / -o "$OUT/%j" --wrap "$2"
}
state() { scontrol -o show job "$1" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'; }
is() { [ "$(state "$1")" = "$2" ]; }
ended() { case $(state "$1") in PENDING | RUNNING | COMPLETING | SUSPENDED) return 1 ;; esac; }
says() { grep -q -e "$2" "$OUT/$1"; } # says JOB WORDS
idle() { sinfo -h -o %T | grep -qx idle; }
# nothing_left: of all jobs, in the hierarchy and in the process table.
nothing_left() { [ -z "$(find "$SCOPE" -mindepth 1 -maxdepth 1 -name 'job_*')" ] && [ -z "$(pgrep -u pilot,other)" ]; }
at_rest() {
    until_true 60 idle
    until_true 60 nothing_left || {
        find "$SCOPE" -type d
        ps -u pilot,other -o pid,args
        return 1
    }
}
# record JOB ACTION: the record of the launch that was started with --job JOB.
record() {
    cat "$LOG"/*.ndjson | jq -ce --arg job "$1" --arg action "$2" -n '
        [inputs] as $all
        | ($all[] | select(.event.action == "payload-launch" and .grid.job.id == $job) | .event.id) as $id
        | $all[] | select(.event.action == $action and .event.id == $id)'
}
has_record() { record "$1" "$2" >/dev/null 2>&1; }
holds() { # holds JOB ACTION CONDITION
    local found
    found=$(record "$1" "$2") || { echo "no $2 of job $1"; return 1; }
    jq -e "$3" <<<"$found" >/dev/null || { echo "not true: $3 in: $found"; return 1; }
}
# eats MEGABYTES: a payload's script whose one process holds so much memory, and ends with 0.
eats() { echo "exec tail -c ${1}M < <(head -c ${1}M /dev/zero) >/dev/null"; }

# ---- Slurm as it comes ----

comes_up() {
    until_true 120 idle
    scontrol --version | grep -q ' 22\.05'
    grep -q 'cgroup2' <(findmnt -n -o FSTYPE /sys/fs/cgroup)
    [ -d "$SCOPE/system" ]
}
gives_nothing() {
    # shellcheck disable=SC2016 # the job's own
    step 100M 'set -e
        sed s/^0::// /proc/self/cgroup
        cd "/sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup)"
        stat -c "%n %U" . cgroup.procs cgroup.subtree_control
        cat cgroup.controllers ../memory.max ../../../memory.max
        mkdir below
        echo $$ >below/cgroup.procs || echo refused
        rmdir below' >/run/bed.given
    cat /run/bed.given
    grep -qE '^/system.slice/worker_slurmstepd.scope/job_[0-9]+/step_0/user/task_0$' /run/bed.given
    # The directory is the job's, to move a process it takes cgroup.procs as well.
    grep -qx '. pilot' /run/bed.given
    grep -qx 'cgroup.procs root' /run/bed.given
    grep -qx 'cgroup.subtree_control root' /run/bed.given
    grep -qx 'cpuset cpu memory' /run/bed.given
    [ "$(grep -cx $((100 << 20)) /run/bed.given)" -eq 2 ]
    grep -qx refused /run/bed.given
}
is_said() {
    # shellcheck disable=SC2016 # the job's own
    step 300M 'bailey exec --job bare --memory 64M --pids 20 -- /bin/sh -c "ulimit -d; grep -q cgroup /proc/mounts || echo none"' >/run/bed.bare
    cat /run/bed.bare
    grep -qx 65536 /run/bed.bare
    grep -qx none /run/bed.bare
    holds bare payload-launch '.grid.sandbox.cgroup | test("^off: the cgroup .*/job_[0-9]+/step_0/user/task_0 is not the caller.s: cgroup.procs may not be written")'
    holds bare payload-launch '.grid.sandbox.limit_memory | startswith("rlimit: 64 MiB")'
    holds bare payload-launch '.grid.sandbox.limit_pids | startswith("rlimit: 20 ")'
    holds bare payload-launch '.grid.cgroup.path | test("/job_[0-9]+/step_0/user/task_0$")'
    holds bare payload-end '.grid.usage.source == "rusage" and .process.exit_code == 0'
}
is_checked() {
    step 300M 'bailey check || true' >/run/bed.check
    grep -E '^cgroup +preferred +off +the cgroup .*/task_0 is not the caller.s: cgroup.procs may not be written' /run/bed.check
    grep 'cgroup: give the pilots. account a cgroup of its own (docs/cgroups.md)' /run/bed.check
}
is_required() {
    local code=0
    printf '[cgroup]\nmode = "required"\n' >/etc/bailey/conf.d/20-bed.toml
    step 300M 'bailey exec --job must -- /bin/true' >/run/bed.must 2>&1 || code=$?
    rm /etc/bailey/conf.d/20-bed.toml
    cat /run/bed.must
    [ "$code" -eq 125 ]
    grep -q 'cannot give the payload a cgroup of its own' /run/bed.must
    grep -q 'cgroup.procs may not be written' /run/bed.must
    refuse has_record must payload-end
}
slurm_limits() {
    local other bomb
    other=$(submit 200M 'trap "echo spared; exit 0" TERM; sleep 1000 & wait' other)
    until_true 60 is "$other" RUNNING
    # The control is the job's limit, not the node's: the same in a larger job.
    step 500M "bailey exec --job feast -- /bin/bash -c '$(eats 150)'"
    holds feast payload-end '.grid.usage.memory_peak_bytes > 157286400'
    bomb=$(submit 100M "bailey exec --job bomb -- /bin/bash -c '$(eats 150)'; echo code \$?; exec sleep 0.1")
    until_true 120 ended "$bomb"
    cat "$OUT/$bomb"
    # Slurm's kernel limit ends a process of the payload; launcher and pilot go on.
    says "$bomb" '^code 137$'
    is "$bomb" OUT_OF_MEMORY
    is "$other" RUNNING
    scancel "$other"
    until_true 60 ended "$other"
    # Whose limit it was, nobody tells bailey.
    holds bomb payload-end '.grid.end.by == "payload" and .grid.end.signal == "SIGKILL" and .grid.usage.source == "rusage"'
    holds bomb payload-end '.grid.usage.oom_kills == null'
}

# ---- with the Prolog and the Epilog ----

recipe() {
    at_rest
    # As docs/cgroups.md has them.
    cp /srv/recipe.conf /etc/slurm/site.conf
    cp /srv/recipe.toml /etc/bailey/conf.d/30-slurm.toml
    grep -q '^Prolog=' /etc/slurm/site.conf
    grep -q '^Epilog=' /etc/slurm/site.conf
    systemctl restart slurmctld slurmd
    until_true 120 idle
}
gives_a_group() {
    # shellcheck disable=SC2016 # the job's own
    step 100M 'set -e
        own=$(sed s/^0::// /proc/self/cgroup)
        echo "$own"
        cd "/sys/fs/cgroup$own/../../.."
        stat -c "%n %U" . cgroup.procs cgroup.subtree_control memory.max payloads/* payloads
        cat payloads/cgroup.controllers memory.max
        for file in memory.max cgroup.subtree_control payloads/memory.max step_0/user/memory.max step_0/user/task_0/cgroup.procs; do
            [ -e $file ] && ! { echo 0 >$file; } 2>/dev/null && echo "refused $file"
        done' >/run/bed.given
    cat /run/bed.given
    grep -qE '^/system.slice/worker_slurmstepd.scope/job_[0-9]+/step_0/user/task_0$' /run/bed.given
    diff <(grep ' pilot$' /run/bed.given | sort) - <<'TXT'
cgroup.procs pilot
payloads pilot
payloads/cgroup.procs pilot
payloads/cgroup.subtree_control pilot
TXT
    for controller in memory pids cpu io; do grep -qw "$controller" /run/bed.given; done
    grep -qx $((100 << 20)) /run/bed.given
    [ "$(grep -c ^refused /run/bed.given)" -eq 5 ]
}
# held NAME: a batch job whose payload goes on until somebody ends it.
held() {
    submit 300M "bailey exec --job $1 --memory 64M --pids 20 --cpus 0.5 -- /bin/sh -c 'grep Cpus_allowed_list /proc/self/status; exec sleep 1000'"
}
has_its_own() {
    local job path pilot
    job=$(held own)
    until_true 90 has_record own payload-launch
    path=/sys/fs/cgroup$(record own payload-launch | jq -r .grid.cgroup.path)
    echo "$path"
    [[ $path == "$SCOPE/job_$job/payloads/bailey-"* ]]
    holds own payload-launch '.grid.sandbox.cgroup == "on: v2, a group of its own"'
    holds own payload-launch '[.grid.sandbox | .limit_memory, .limit_pids, .limit_cpus | startswith("on: ")] == [true, true, true]'
    [ "$(cat "$path/memory.max")" -eq $((64 << 20)) ]
    [ "$(cat "$path/pids.max")" -eq 21 ]
    grep -qx '50000 100000' "$path/cpu.max"
    until_true 60 says "$job" Cpus_allowed_list
    # The job's one CPU, of two.
    grep -E 'Cpus_allowed_list:\s[01]$' "$OUT/$job"
    grep -qx "$(record own payload-launch | jq .process.pid)" "$path/cgroup.procs"
    # The pilot stays where Slurm looks for it.
    pilot=$(pgrep -u pilot -f '^bailey exec')
    grep -qx "$pilot" "$SCOPE/job_$job/step_batch/user/task_0/cgroup.procs"
    # Here for the next check.
    echo "$job" >/run/bed.job
}
is_ended() {
    local job
    job=$(cat /run/bed.job)
    as pilot scancel "$job"
    until_true 60 ended "$job"
    is "$job" CANCELLED
    at_rest
    has_record own payload-end || step 100M 'bailey exec -- /bin/true'
    holds own payload-end '.event.action == "payload-end"'
}
limits_hold() {
    local job
    # shellcheck disable=SC2016 # the payload's own
    job=$(submit 400M "bailey exec --job large --memory 64M -- /bin/bash -c '$(eats 150)'; echo code \$?
        bailey exec --job many --pids 20 -- /bin/bash -c 'for i in {1..40}; do sleep 3 & done; wait; echo all'; echo code \$?")
    until_true 120 ended "$job"
    cat "$OUT/$job"
    says "$job" '^code 123$'
    says "$job" 'fork: '
    holds large payload-end '.grid.end.by == "memory" and .grid.usage.source == "cgroup2" and .grid.usage.oom_kills > 0'
    holds large payload-end '.grid.usage.memory_peak_bytes <= 67108864'
    holds many payload-end '.grid.usage.processes_peak == 20'
    # Slurm does not take the payload's end for its job's.
    is "$job" COMPLETED
}
job_limit_holds() {
    local job
    job=$(submit 100M "bailey exec --job wide --memory 10G -- /bin/bash -c '$(eats 150)'; echo code \$?")
    until_true 120 ended "$job"
    cat "$OUT/$job"
    says "$job" '^code 123$'
    holds wide payload-end '.grid.end.by == "memory" and .grid.usage.source == "cgroup2" and .grid.usage.oom_kills > 0'
}
side_by_side() {
    # shellcheck disable=SC2016 # the job's own
    step 300M 'groups() { find /sys/fs/cgroup/system.slice/*/job_$SLURM_JOB_ID/payloads -name "bailey-*"; }
        for name in left right; do bailey exec --job $name --memory 64M -- /bin/sleep 1000 & done
        for turn in {1..200}; do
            [ "$(groups | wc -l)" -lt 2 ] || break
            sleep 0.3
        done
        groups
        kill $(jobs -p)
        wait
        [ -n "$(groups)" ] || echo gone' >/run/bed.side
    cat /run/bed.side
    holds left payload-launch '.grid.sandbox.cgroup | startswith("on: v2")'
    holds right payload-launch '.grid.sandbox.cgroup | startswith("on: v2")'
    [ "$(grep -c /payloads/bailey- /run/bed.side)" -eq 2 ]
    grep -qx gone /run/bed.side
}
keeps_jobs_apart() {
    local first
    first=$(submit 100M 'exec sleep 1000')
    until_true 60 is "$first" RUNNING
    # The same account's next job, and somebody else's.
    local try="echo \$\$ >$SCOPE/job_$first/payloads/cgroup.procs && echo moved || echo refused"
    step 100M "$try" | tee /run/bed.moved
    grep -qx refused /run/bed.moved
    as other srun --quiet -n 1 --mem 100M /bin/bash -c "$try" | tee /run/bed.moved
    grep -qx refused /run/bed.moved
    # The control: within its own job it goes.
    # shellcheck disable=SC2016 # the job's own
    step 100M 'echo $$ >/sys/fs/cgroup/system.slice/worker_slurmstepd.scope/job_$SLURM_JOB_ID/payloads/cgroup.procs && echo moved' | grep -x moved
    scancel "$first"
    until_true 60 ended "$first"
}
leaves_nothing() {
    # What the account itself made there, and who hid in it.
    # shellcheck disable=SC2016 # the job's own
    step 100M 'cd /sys/fs/cgroup/system.slice/*/job_$SLURM_JOB_ID/payloads
        mkdir -p a/b/c
        (echo $BASHPID >a/b/c/cgroup.procs; exec setsid sleep 1000 >/dev/null 2>&1) &
        for turn in {1..100}; do grep . a/b/c/cgroup.procs && break; sleep 0.3; done' | grep -E '^[0-9]+$'
    at_rest
    [ -z "$(journalctl -t bailey-slurm -o cat --no-pager)" ]
    systemctl is-active slurmd slurmctld
    refuse grep -iE 'prolog|epilog' /var/log/slurmd.log
    step 100M 'bailey exec -- /bin/echo second' | grep -x second
}
fails_gently() {
    # A failed Prolog would drain the node.
    SLURM_JOB_UID=1000 SLURM_JOB_ID='' /usr/libexec/bailey/slurm-prolog
    journalctl -t bailey-slurm -o cat --no-pager | grep 'payloads get no cgroup'
    SLURM_JOB_ID=999999 /usr/libexec/bailey/slurm-epilog
    # Root's jobs get none.
    SLURM_JOB_UID=0 SLURM_JOB_ID=999999 /usr/libexec/bailey/slurm-prolog
    [ ! -e "$SCOPE/job_999999" ]
    # Beside Slurm the same configuration is no error.
    as pilot bailey exec --job beside -- /bin/true
    holds beside payload-launch '.grid.sandbox.cgroup | startswith("off: ")'
}
is_not_suspended() {
    local job
    job=$(submit 100M "bailey exec --job suspended -- /bin/sh -c 'while :; do echo tick; sleep 0.5; done'")
    until_true 60 has_record suspended payload-launch
    until_true 60 says "$job" tick
    scontrol suspend "$job"
    until_true 60 is "$job" SUSPENDED
    cat "$SCOPE/job_$job/step_batch/user/cgroup.events" "$SCOPE/job_$job/payloads/cgroup.events"
    until_true 30 grep -qx 'frozen 1' "$SCOPE/job_$job/step_batch/user/cgroup.events"
    grep -qx 'frozen 0' "$SCOPE/job_$job/payloads/cgroup.events"
    scontrol resume "$job"
    scancel "$job"
    until_true 60 ended "$job"
}

install -d -m 1777 "$OUT"
install -d -o pilot -g pilot "$LOG"
check comes_up "Slurm 22.05 with cgroup v2: its daemons are up, the node is idle"
check gives_nothing "as it comes: a task's cgroup.procs is root's, no process can be moved into a group below"
check is_said "as it comes: the record says that there is no cgroup, why, and which limits hold by rlimit"
check is_checked "as it comes: bailey check says so"
check is_required "as it comes: cgroup.mode = required refuses, and says why"
check slurm_limits "as it comes: a payload beyond the job's memory is killed, launcher, pilot and another job go on"
check recipe "recipe: Prolog and Epilog are set, the node is idle again"
check gives_a_group "recipe: a group for payloads is the job's, every limit stays root's"
check has_its_own "recipe: a payload has a group of its own with its limits, the pilot stays in Slurm's"
check is_ended "recipe: scancel ends payload and pilot, no group is left"
check limits_hold "recipe: memory and processes beyond the payload's limits, and the job completes"
check job_limit_holds "recipe: a limit wider than the job's does not widen the job"
check side_by_side "recipe: two payloads side by side"
check keeps_jobs_apart "recipe: no way into another job's group, of the same account or another"
check leaves_nothing "recipe: groups and processes that a job leaves go with it, the next job runs"
check is_not_suspended "recipe: scontrol suspend holds the pilot, not the payload's group"
check fails_gently "recipe: a Prolog that cannot do its work says so and fails no job"
echo "done" >&3
sync
