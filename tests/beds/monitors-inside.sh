# shellcheck shell=bash
# The inside of tests/beds/monitors.sh: sourced there, in namespaces of its own, as their root.
: "${checkout:?}"

# The lines of docs/check.md below this heading that are indented, from this one on to the next that is not.
recipe() { # HEADING FIRST-LINE
    awk -v heading="### $1" -v first="    $2" '
        /^#/ { inside = ($0 == heading) }
        inside && $0 == first { found = 1 }
        found && /^    / { print substr($0, 5); next }
        found && /^$/ { next }
        found { exit }' "$checkout/docs/check.md"
}
until_is() { # SECONDS WHAT COMMAND...
    local seconds=$1 what=$2 turn
    shift 2
    for ((turn = 0; turn < seconds * 5; turn++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    tail -n 5 /var/log/slurm/*.log >&2 || true
    scontrol -o show node node1 >&2 || true
    die "$what: not within $seconds s"
}
shows() { scontrol -o show node node1 | grep -Eq "$1"; }
code() { # COMMAND... : its exit code, and what it says in $said
    local code=0
    said=$("$@" 2>&1) || code=$?
    printf -v got %s "$code"
}

useradd -m -s /bin/sh pilot
mkdir -p /var/log/slurm /var/spool/slurm /run/munge /etc/slurm
echo 127.0.0.1 node1 localhost >/etc/hosts
printf '[audit]\nrecorder = "off"\n' >/etc/bailey/conf.d/10-bed.toml
broken=/etc/bailey/conf.d/99-broken.toml

say "monitors: the plugin by itself"
code runuser -u pilot -- bailey check --health
[ "$got" = 0 ] || [ "$got" = 1 ] || die "a healthy node: $got: $said"
healthy=$got
echo 'nonsense = 1' >"$broken"
code runuser -u pilot -- bailey check --health
[[ $got:$said == 2:not-ready:* ]] || die "a broken configuration: $got: $said"
rm "$broken"
code bailey check --health
[ "$got" = 3 ] || die "as root: $got: $said"

say "monitors: NRPE"
recipe "Nagios, Icinga, Prometheus" "nrpe_user=pilot" >/etc/nagios/nrpe.d/bailey.cfg
grep -q 'check_bailey' /etc/nagios/nrpe.d/bailey.cfg || die "docs/check.md has no recipe for NRPE"
sed '/^nrpe_user=/d; s/^pid_file=.*/pid_file=\/run\/nrpe.pid/' /etc/nagios/nrpe.cfg >/etc/nagios/bed.cfg
nrpe -c /etc/nagios/bed.cfg -d
asks() { /usr/lib/nagios/plugins/check_nrpe -H 127.0.0.1 -c check_bailey; }
answers() { asks | grep -q '^ready'; }
until_is 10 "NRPE answers" answers
code asks
[ "$got" = "$healthy" ] || die "NRPE of a healthy node: $got: $said"
echo 'nonsense = 1' >"$broken"
code asks
[[ $got:$said == 2:not-ready:* ]] || die "NRPE of a broken one: $got: $said"
rm "$broken"

say "monitors: Slurm"
recipe Slurm '#!/bin/sh' >/etc/slurm/bailey-health
chmod 0755 /etc/slurm/bailey-health
cat >/etc/slurm/slurm.conf <<'CONF'
ClusterName=bed
SlurmctldHost=node1(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmctldLogFile=/var/log/slurm/ctld.log
SlurmdLogFile=/var/log/slurm/d.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
StateSaveLocation=/var/spool/slurm
SlurmdSpoolDir=/var/spool/slurmd
ReturnToService=2
NodeName=node1 NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=node1 Default=YES State=UP
CONF
recipe Slurm 'HealthCheckProgram=/etc/slurm/bailey-health' |
    grep '^HealthCheck' | sed 's/^HealthCheckInterval=.*/HealthCheckInterval=2/' >>/etc/slurm/slurm.conf
[ "$(grep -c ^HealthCheck /etc/slurm/slurm.conf)" = 3 ] || die "docs/check.md has no recipe for slurm.conf"
chown munge: /run/munge
runuser -u munge -- /usr/sbin/munged
slurmctld
slurmd
until_is 30 "the node is idle" shows 'State=IDLE '

echo 'nonsense = 1' >"$broken"
until_is 30 "the node is drained" shows 'State=IDLE\+DRAIN .*Reason=bailey: not-ready: '
rm "$broken"
until_is 30 "the node is resumed" shows 'State=IDLE '
if shows 'Reason=bailey'; then die "the reason stays: $(scontrol -o show node node1)"; fi
# What others drained stays.
scontrol update nodename=node1 state=drain reason=disk
sleep 6
shows 'State=IDLE\+DRAIN .*Reason=disk' || die "another's drain was lifted: $(scontrol -o show node node1)"
