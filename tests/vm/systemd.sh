#!/bin/bash
# The checks of tests/beds/systemd-vm.sh: runs as root in the virtual machine, when the recorder's service is up. Each check
# is a function; one line a check goes to ttyS1, and after a failure what the check printed.

exec </dev/null 3>/dev/ttyS1
stty -F /dev/ttyS1 -opost 2>/dev/null
said=/run/bed.said
LOG=/var/log/bailey
STATE=/var/lib/bailey
UNIT=bailey-recorder.service

# check FUNCTION WORDS...: the words are the check's name.
check() {
    local function=$1 code
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
        { tail -n 15 "$said"; journalctl -u "$UNIT" -n 8 --no-pager -o cat; } | cut -c 1-300 | sed 's/^/# /' >&3
    fi
}

# as USER COMMAND...: with that account's own groups. become: in place of this shell, so that with "&" $! is COMMAND's pid.
as() { (become "$@"); }
become() {
    local user=$1
    shift
    exec setpriv --reuid "$user" --regid "$user" --init-groups -- \
        env -i HOME="/home/$user" USER="$user" PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@"
}
# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then echo "waited in vain for: $*"; return 1; fi
        sleep 0.2
    done
}
refuse() { # refuse COMMAND...: it must fail
    if "$@"; then echo "should have failed: $*"; return 1; fi
}
lines() { cat "$LOG"/*.ndjson; }
# record JOB ACTION: the record of the launch that was started with --job JOB. Only the first record of a launch has to name
# the job, so the others are found by the launch id.
record() {
    lines | jq -ce --arg job "$1" --arg action "$2" -n '
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
# payload JOB: starts one in the background that runs until end_payload; sets launcher and payload (host pids). However slow
# the machine, it neither ends too early nor is waited for in vain.
payload() {
    rm -f /run/bed.fifo
    mkfifo /run/bed.fifo
    exec 9<>/run/bed.fifo
    become pilot bailey exec --user /CN=bed --job "$1" -- /bin/cat </run/bed.fifo 9>&- &
    launcher=$!
    until_true 60 has_record "$1" payload-launch
    payload=$(record "$1" payload-launch | jq .process.pid)
    until_true 60 runs
}
end_payload() { exec 9>&-; }
runs() { grep -qx cat "/proc/$payload/comm"; }
main_pid() { systemctl show -P MainPID "$UNIT"; }
is_up() { [ "$(systemctl is-active "$UNIT")" = active ]; }
is_new() { is_up && [ "$(main_pid)" != "$1" ]; }
mode_is() { # mode_is "MODE OWNER GROUP" PATH
    local found
    found=$(stat -c '%a %U %G' "$2")
    [ "$found" = "$1" ] || { echo "$2 is $found, not $1"; return 1; }
}

# ---- the service as it came up ----

comes_up() {
    until_true 60 is_up
    systemctl is-active bailey-recorder.socket
    [ -z "$(systemctl list-units --failed --no-legend)" ] || { systemctl list-units --failed; return 1; }
}
is_confined() {
    local status
    status=/proc/$(main_pid)/status
    cat "$status"
    [ "$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "$status" | tr -s ' ' '\n' | sort -u)" = "$(id -u bailey)" ]
    [ "$(awk '/^Gid:/ { print $2, $3, $4, $5 }' "$status" | tr -s ' ' '\n' | sort -u)" = \
        "$(getent group bailey-audit | cut -d: -f3)" ]
    [ "$(awk '/^Cap(Inh|Prm|Eff|Bnd|Amb):/ { print $2 }' "$status" | sort -u)" = 0000000000000000 ]
    grep -qx 'NoNewPrivs:.1' "$status"
    grep -qx 'Seccomp:.2' "$status"
    [ "$(awk '/^Max open files/ { print $4 }' "/proc/$(main_pid)/limits")" = 131072 ]
    grep -qx 0 "/proc/$(main_pid)/coredump_filter" || [ "$(awk '/^Max core/ { print $6 }' "/proc/$(main_pid)/limits")" = 0 ]
}
has_modes() {
    mode_is "755 bailey bailey" /run/bailey
    mode_is "666 root root" /run/bailey/recorder.sock
    mode_is "750 bailey bailey-audit" "$LOG"
    mode_is "755 bailey bailey" "$STATE"
    mode_is "600 bailey bailey-audit" "$STATE/key"
    mode_is "644 bailey bailey-audit" "$STATE/key.pub"
    until_true 60 test -e "$STATE/metrics.prom"
    as pilot grep -q '^bailey_live_payloads ' "$STATE/metrics.prom"
    local segment found=0
    for segment in "$LOG"/*.ndjson; do
        mode_is "640 bailey bailey-audit" "$segment"
        found=1
    done
    [ "$found" -eq 1 ]
}

keeps_embedded_logs() {
    install -d -m 0755 "$STATE/embedded"
    install -d -m 0700 -o pilot -g pilot "$STATE/embedded/$(id -u pilot)"
    chown root: "$STATE"
    systemd-tmpfiles --create bailey.conf
    systemctl restart "$UNIT"
    mode_is "755 bailey bailey" "$STATE"
    mode_is "700 pilot pilot" "$STATE/embedded/$(id -u pilot)"
    rm -r "$STATE/embedded"
}

# ---- a pilot's launch ----

records_a_launch() {
    local card
    card=$(basename "$(find /sys/class/net -mindepth 1 -name 'e*' | head -n 1)")
    ip addr add 192.0.2.10/24 dev "$card"
    ip link set "$card" up
    sleep 1.2 # the recorder looks at the addresses once a second
    as pilot bailey exec --user /CN=bed --vo bed --job first -- /bin/sh -c 'exit 7' || [ $? -eq 7 ]
    holds first payload-launch ".process.real_user.id == \"$(id -u pilot)\" and .grid.site.name == \"VM-BED\""
    holds first payload-launch ".chain.writer == \"recorder-$(id -u bailey)\""
    holds first payload-launch '.host.ip | index("192.0.2.10")'
    holds first payload-launch '(.process.thread.capabilities.effective // []) == [] and .grid.observed.no_new_privs == true'
    holds first payload-launch '.grid.observed.by == "proc" and .grid.observed.setgroups == "deny"'
    until_true 60 has_record first payload-end
    holds first payload-end '.process.exit_code == 7 and .grid.end.by == "payload"'
}
leaves_no_other_log() {
    [ -z "$(find /home /tmp /var/lib/bailey -name '*.ndjson')" ]
}
is_out_of_reach() {
    local segment
    segment=$(find "$LOG" -name '*.ndjson' | head -n 1)
    refuse as pilot ls "$LOG"
    refuse as pilot cat "$segment"
    refuse as pilot dd if=/dev/null "of=$segment" conv=notrunc
    refuse as pilot touch "$LOG/new"
    refuse as pilot cat "$STATE/key"
    refuse as pilot dd if=/dev/null "of=$STATE/key" conv=notrunc
    refuse as pilot mv "$STATE/key" "$STATE/key.old"
    refuse as pilot rm -f /run/bailey/recorder.sock
    refuse as pilot touch /run/bailey/drain
    as pilot cat "$STATE/key.pub" >/dev/null
}
is_out_of_sight() {
    # shellcheck disable=SC2016 # the payload's own
    refuse as pilot bailey exec -- /bin/sh -c 'ls /run/bailey /var/log/bailey /var/lib/bailey /etc/bailey 2>/dev/null | grep .'
}
readers_read() {
    local segment
    usermod -aG bailey-audit auditor
    segment=$(find "$LOG" -name '*.ndjson' | head -n 1)
    as auditor cat "$segment" >/dev/null
    as auditor bailey verify "$LOG"
    as auditor bailey trace --log "$LOG" --user /CN=bed --json | grep -q first
    refuse as auditor dd if=/dev/null "of=$segment" conv=notrunc
    refuse as auditor touch "$LOG/new"
    refuse as auditor cat "$STATE/key"
}
verifies() {
    bailey verify "$LOG"
    bailey verify --key "$STATE/key.pub" "$LOG"
}
traces() {
    bailey trace --log "$LOG" --user /CN=bed
    bailey trace --log "$LOG" --id "$(record first payload-launch | jq -r .event.id)" --json | grep -q '"first"'
}

# ---- the recorder comes and goes, payloads stay ----

goes_on() { # goes_on JOB: it still runs; let it end, and look at the record
    runs
    end_payload
    wait "$launcher"
    until_true 60 has_record "$1" payload-end
    holds "$1" payload-end '.grid.end.by == "payload" and .process.exit_code == 0'
    [ "$(lines | jq -c --argjson id "$(record "$1" payload-launch | jq .event.id)" \
        'select(.event.id == $id and (.event.action == "payload-end" or .event.action == "launch-failed"))' | wc -l)" -eq 1 ]
}
survives_stop() {
    local code=0 began
    payload stopped
    systemctl stop bailey-recorder.socket "$UNIT"
    refuse is_up
    [ "$(systemctl show -P Result "$UNIT")" = success ]
    runs
    [ ! -e /run/bailey/recorder.sock ]
    began=$SECONDS
    as pilot bailey exec --job never -- /bin/true || code=$?
    [ "$code" -eq 122 ]
    [ $((SECONDS - began)) -lt 60 ]
    refuse has_record never payload-launch
    systemctl start bailey-recorder.socket "$UNIT"
    goes_on stopped
    lines | jq -r .event.action | grep -qx recorder-stop
}
is_activated() {
    systemctl stop "$UNIT"
    refuse is_up
    as pilot bailey exec --job activated -- /bin/true
    is_up
    holds activated payload-launch true
}
survives_restart() {
    payload restarted
    systemctl restart "$UNIT"
    goes_on restarted
}
survives_kill() {
    local before
    before=$(main_pid)
    payload killed
    systemctl kill -s KILL "$UNIT"
    until_true 60 is_new "$before"
    goes_on killed
}
survives_kills() {
    local turn before
    for turn in 1 2 3 4 5 6 7 8; do
        before=$(main_pid)
        systemctl kill -s KILL "$UNIT"
        until_true 60 is_new "$before"
    done
    systemctl is-active bailey-recorder.socket
    as pilot bailey exec --job "after-$turn-kills" -- /bin/true
}
closes_a_lost_launcher() {
    payload lost
    kill -KILL "$launcher"
    until_true 60 has_record lost payload-end
    holds lost payload-end '.grid.end.by == "launcher-lost"'
    refuse runs
    end_payload
}
is_watched() {
    local before
    mkdir -p "/run/systemd/system/$UNIT.d"
    printf '[Service]\nWatchdogSec=10s\n' >"/run/systemd/system/$UNIT.d/bed.conf"
    systemctl daemon-reload
    systemctl restart "$UNIT"
    before=$(main_pid)
    sleep 22
    [ "$(main_pid)" = "$before" ] # it calls in time, although nothing happens
    payload hung
    systemctl kill -s STOP "$UNIT"
    until_true 60 is_new "$before"
    journalctl -u "$UNIT" --no-pager | grep -i watchdog
    rm "/run/systemd/system/$UNIT.d/bed.conf"
    systemctl daemon-reload
    systemctl restart "$UNIT"
    goes_on hung
    [ -z "$(find / -xdev -name 'core*' -size +100k -path '*bailey*')" ]
}
comes_back_after_a_mistake() {
    printf '[audit]\nrecoder = "off"\n' >/etc/bailey/conf.d/90-mistake.toml
    refuse systemctl restart "$UNIT"
    sleep 8
    refuse is_up
    rm /etc/bailey/conf.d/90-mistake.toml
    until_true 60 is_up
    as pilot bailey exec --job after-mistake -- /bin/true
    # Once a second, not as fast as it can.
    [ "$(systemctl show -P NRestarts "$UNIT")" -lt 40 ]
}

# ---- what leaves the host; what hides processes ----

copies_checkpoints() {
    local copy found=0
    sleep 6 # checkpoint_every
    journalctl --sync
    while read -r copy; do
        lines | grep -qxF "$copy" || { echo "no line of the log: $copy"; return 1; }
        if jq -e '.event.action == "checkpoint"' <<<"$copy" >/dev/null; then found=$((found + 1)); fi
        refuse jq -e '.event.action == "payload-launch"' <<<"$copy" >/dev/null
    done < <(journalctl _SYSTEMD_UNIT="$UNIT" -o json --no-pager --all | jq -r 'select(.BAILEY_RECORD).BAILEY_RECORD')
    [ "$found" -ge 1 ] || { echo "no checkpoint among the journal's copies"; return 1; }
}
# systemd mounts a /proc of its own for the service (ProtectKernelTunables=), with no hidepid.
sees_what_the_host_hides() {
    local code=0
    mount -o remount,hidepid=2 /proc
    systemctl restart "$UNIT"
    refuse as pilot ls -d /proc/1
    as pilot bailey exec --job hidden -- /bin/true || code=$?
    mount -o remount,hidepid=0 /proc
    [ "$code" -eq 0 ]
    holds hidden payload-launch '.grid.observed.by == "proc" and .grid.observed.no_new_privs == true'
}
# by_hand COMMAND...: runs it while a recorder without systemd, as the account "other", serves on a socket of its own.
by_hand() {
    local code=0 hand
    install -d -o other -g other -m 0755 /srv/hand
    become other /usr/libexec/bailey/bailey-recorder --socket /srv/hand/socket --log /srv/hand/log --state /srv/hand/state &
    hand=$!
    printf '[audit]\nsocket = "/srv/hand/socket"\n' >/etc/bailey/conf.d/90-hand.toml
    until_true 60 test -S /srv/hand/socket
    "$@" || code=$?
    rm /etc/bailey/conf.d/90-hand.toml
    kill -TERM "$hand"
    wait "$hand"
    return "$code"
}
serves_by_hand() {
    by_hand as pilot bailey exec --job by-hand -- /bin/true
    mode_is "666 other other" /srv/hand/socket
    mode_is "600 other other" /srv/hand/state/key
    cat /srv/hand/log/*.ndjson | jq -r 'select(.grid.job.id == "by-hand").chain.writer' | grep -qx "recorder-$(id -u other)"
    refuse has_record by-hand payload-launch
    bailey verify /srv/hand/log
}
refuses_hidden_processes() {
    local code=0
    mount -o remount,hidepid=2 /proc
    by_hand as pilot bailey exec --job hidden-by-hand -- /bin/true >/run/bed.hidden 2>&1 || code=$?
    mount -o remount,hidepid=0 /proc
    cat /run/bed.hidden
    [ "$code" -ge 120 ] && [ "$code" -le 125 ]
    grep 'cannot' /run/bed.hidden | grep -q 'gid='
    refuse grep -q hidden-by-hand <(cat /srv/hand/log/*.ndjson | grep payload-launch)
}
sees_with_the_cure() {
    local code=0
    mount -o remount,hidepid=2,gid="$(id -g other)" /proc
    by_hand as pilot bailey exec --job cured -- /bin/true || code=$?
    mount -o remount,hidepid=0,gid=0 /proc
    [ "$code" -eq 0 ]
    cat /srv/hand/log/*.ndjson | jq -r 'select(.grid.job.id == "cured").grid.observed.by' | grep -qx proc
}
drains() {
    local code=0
    bailey drain --reason "new disks"
    mode_is "644 bailey bailey-audit" /run/bailey/drain
    as pilot bailey exec --job drained -- /bin/true >/run/bed.drain 2>&1 || code=$?
    cat /run/bed.drain
    [ "$code" -eq 120 ]
    grep -q "new disks" /run/bed.drain
    bailey drain --off
    as pilot bailey exec --job undrained -- /bin/true
}
lists_and_stops() {
    payload listed
    bailey ps | grep -q "$(record listed payload-launch | jq -r .event.id)"
    as pilot bailey ps | grep -q "$(record listed payload-launch | jq -r .event.id)"
    refuse as other bailey stop "$(record listed payload-launch | jq -r .event.id)" --reason mischief
    bailey stop "$(record listed payload-launch | jq -r .event.id)" --reason "the bed says so"
    local code=0
    wait "$launcher" || code=$?
    [ "$code" -eq 123 ]
    until_true 60 has_record listed payload-end
    holds listed payload-end '.grid.end.by == "administrator"'
    end_payload
}

# ---- Delegate=yes: control groups that systemd gives to a pilot ----

# unit PROPERTY SCRIPT: a pilot in a unit of its own, to its end; the unit's group must be gone then, with all that was in it.
unit() {
    local code=0
    printf '%s\n' "#!/bin/bash" "set -e" "$2" >/srv/pilot.sh
    chmod 0755 /srv/pilot.sh
    systemd-run --wait --pipe --collect --quiet --unit=pilot --uid=pilot --gid=pilot -p "$1" \
        -E HOME=/home/pilot -E PATH=/usr/bin:/bin /srv/pilot.sh || code=$?
    [ "$code" -eq 0 ] || { echo "the pilot ended with $code"; return 1; }
    until_true 20 test ! -e /sys/fs/cgroup/system.slice/pilot.service
    [ -z "$(find /sys/fs/cgroup -name 'bailey-pilot' -o -name 'bailey-0*')" ]
}
is_delegated() {
    # shellcheck disable=SC2016 # the pilot's own
    unit Delegate=yes '
        own=/sys/fs/cgroup$(sed -n "s/^0:://p" /proc/self/cgroup)
        bailey exec --job delegated --memory 96M --pids 40 --cpus 1 -- /bin/sh -c "exit 5" || [ $? -eq 5 ]
        # Back where it was, in a group without a process of bailey and without a group below.
        [ "/sys/fs/cgroup$(sed -n "s/^0:://p" /proc/self/cgroup)" = "$own" ]
        [ -z "$(find "$own" -mindepth 1 -type d)" ]'
    holds delegated payload-launch '.grid.cgroup.version == 2 and .process.pid > 1'
    holds delegated payload-launch '.grid.cgroup.path | test("^/system.slice/pilot.service/bailey-[0-9A-Z]{26}$")'
    holds delegated payload-launch '.grid.sandbox | (.cgroup, .limit_memory, .limit_pids, .limit_cpus) | startswith("on")'
    holds delegated payload-end '.process.exit_code == 5 and .grid.usage.source == "cgroup2"'
}
holds_memory() {
    # More than the limit. Then systemd is to leave the unit alone, and the pilot goes on (OOMPolicy=continue with Delegate=yes).
    # shellcheck disable=SC2016 # the pilot's own
    unit Delegate=yes '
        bailey exec --job control -- /usr/bin/perl -e "\$x = q(); vec(\$x, 200 << 20, 8) = 1; \$x =~ tr/\0/a/"
        bailey exec --job greedy --memory 64M -- /usr/bin/perl -e "\$x = q(); vec(\$x, 200 << 20, 8) = 1; \$x =~ tr/\0/a/" || [ $? -eq 123 ]
        sleep 2
        bailey exec --job after -- /bin/true'
    holds control payload-end '.process.exit_code == 0 and .grid.usage.memory_peak_bytes > 200000000'
    holds greedy payload-end '.grid.end.by == "memory" and .grid.usage.oom_kills > 0'
    holds after payload-end '.process.exit_code == 0'
}
holds_side_by_side() {
    # shellcheck disable=SC2016 # the pilot's own
    unit Delegate=yes '
        for job in a b c; do bailey exec --job side-$job --pids 20 -- /bin/sh -c "sleep 3; exit 3" & pids="$pids $!"; done
        for pid in $pids; do code=0; wait $pid || code=$?; [ $code -eq 3 ]; done'
    local job
    for job in a b c; do holds "side-$job" payload-end '.grid.usage.source == "cgroup2" and .process.exit_code == 3'; done
}
is_not_delegated() {
    # shellcheck disable=SC2016 # the pilot's own
    unit Delegate=no '
        bailey exec --job plain --memory 96M -- /bin/sh -c "exit 5" || [ $? -eq 5 ]'
    holds plain payload-launch '(.grid.cgroup.path | endswith("/pilot.service")) and (.grid.sandbox.cgroup | startswith("off"))'
    holds plain payload-launch '.grid.sandbox.limit_memory | startswith("on") | not'
    holds plain payload-end '.process.exit_code == 5 and .grid.usage.source == "rusage"'
}

check comes_up "units: the service and its socket are up after boot, nothing failed"
check is_confined "units: the recorder has its own account, no capability, no new privileges, a filter, no core"
check has_modes "units: owners and modes of socket, log, key"
check keeps_embedded_logs "units: a pilot's embedded log below the state directory stays the pilot's"
check records_a_launch "launch: a pilot's payload is recorded with what the kernel and this host say"
check leaves_no_other_log "launch: there is no second log"
check is_out_of_reach "log: a pilot can neither read, change, add nor remove anything"
check is_out_of_sight "log: a payload sees nothing of it"
check readers_read "log: a member of bailey-audit reads, verifies and traces, and changes nothing"
check verifies "log: root verifies it, with the node's key"
check traces "log: root traces by user and by launch id"
check survives_stop "stop: the payload goes on, launches are refused, the end is recorded afterwards"
check is_activated "activation: a launch starts the recorder"
check survives_restart "restart: the payload goes on, its end is recorded once"
check survives_kill "SIGKILL: systemd starts it again, the payload goes on, its end is recorded once"
check survives_kills "SIGKILL: eight times in a row and it still serves"
check closes_a_lost_launcher "launcher killed: the recorder closes the launch, the payload is gone"
check is_watched "watchdog: a recorder that hangs is replaced, an idle one is not"
check comes_back_after_a_mistake "configuration: a mistake stops it, the correction is enough to bring it back"
check copies_checkpoints "journald: its copies of checkpoints are lines of the log, launches stay on the host"
check sees_what_the_host_hides "hidepid=2: the service sees payloads all the same, in a /proc of its own"
check serves_by_hand "without systemd: another account's recorder serves from a plain command line"
check refuses_hidden_processes "without systemd, hidepid=2: no launch, and the refusal names gid="
check sees_with_the_cure "without systemd, hidepid=2,gid=: launches are recorded as observed"
check lists_and_stops "live: ps shows a payload, another pilot cannot stop it, root can"
check is_delegated "Delegate=yes: a payload has a control group of its own, and nothing is left of it"
check holds_memory "Delegate=yes: memory beyond the limit ends the payload, not the pilot"
check holds_side_by_side "Delegate=yes: three payloads side by side"
check is_not_delegated "without Delegate: the record says that there is none"
check drains "drain: root's flag refuses launches, and its removal lets them in"
check verifies "log: after all that it verifies"
echo "done" >&3
sync
