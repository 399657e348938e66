#!/bin/bash
# The first process of the virtual machine in tests/beds/power-loss.sh, without systemd. On the kernel's command line:
#
#   bed.mode=load      recorder and pilots, until somebody cuts the power
#   bed.mode=control   the same with a recorder whose fdatasync does nothing and says that it did
#   bed.mode=check     recorder up and down, then verify
#
# The log and the key are on a disk of their own, /dev/vdb. ttyS1 gets a line for each receipt, as it arrives.
PATH=/usr/bin:/usr/sbin:/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs tmpfs /tmp
exec </dev/null >/dev/ttyS0 2>&1 3>/dev/ttyS1
stty -F /dev/ttyS1 -opost
ip link set lo up

end() {
    echo "$*" >&3
    sync
    umount /data
    sleep 1 # the serial line is still sending
    systemctl -ff poweroff
}
case $(cat /proc/cmdline) in
*bed.mode=load*) mode=load ;;
*bed.mode=control*) mode=control ;;
*) mode=check ;;
esac

# What a boot does after a power failure. 1: errors were corrected.
e2fsck -p /dev/vdb
code=$?
mkdir -p /data
if [ "$code" -gt 1 ] || ! mount -t ext4 /dev/vdb /data; then end "FAIL boot: the log's disk cannot be mounted (e2fsck $code)"; fi
systemd-sysusers bailey.conf
systemd-tmpfiles --create bailey.conf
install -d -m 0755 -o bailey -g bailey /data/state
install -d -m 0750 -o bailey -g bailey-audit /data/log

as_recorder=(setpriv --reuid bailey --regid bailey-audit --clear-groups)
recorder=(/usr/libexec/bailey/bailey-recorder --log /data/log --state /data/state)
if [ "$mode" = control ]; then
    "${as_recorder[@]}" strace -f --seccomp-bpf -qq -o /dev/null -e trace=fdatasync,fsync,sync_file_range \
        -e inject=fdatasync,fsync,sync_file_range:retval=0 "${recorder[@]}" &
else
    "${as_recorder[@]}" "${recorder[@]}" &
fi
pid=$!
for _ in $(seq 300); do
    if [ -S /run/bailey/recorder.sock ]; then break; fi
    sleep 0.1
done
as_pilot=(setpriv --reuid pilot --regid pilot --clear-groups env -i "PATH=$PATH" HOME=/home/pilot USER=pilot)

if [ "$mode" = check ]; then
    # A launch shows that it serves again: whatever it had to close is closed by then.
    "${as_pilot[@]}" bailey exec --job after -- /bin/true || end "FAIL check: no launch after the power came back"
    kill -TERM "$pid"
    wait "$pid" || end "FAIL check: the recorder ended with $?"
    bailey verify --key /data/state/key.pub /data/log >/run/verify.txt 2>&1 # no progress for a terminal
    code=$?
    cat /run/verify.txt >&3
    end "verify $code"
fi

# The payload runs after the receipt, so that its line is a receipt's too.
for worker in 1 2 3; do
    # shellcheck disable=SC2016 # the payload's own
    while :; do
        "${as_pilot[@]}" bailey exec --job "worker-$worker" -- /bin/sh -c 'echo "ran $BAILEY_ID"' >&3
    done &
done
# And payloads that live when the power goes.
for worker in 1 2 3; do "${as_pilot[@]}" bailey exec --job "live-$worker" -- /bin/sleep 600 & done
# And clients that speak the protocol, for the load; their receipts come with sequence number and hash.
"${as_pilot[@]}" /usr/local/bin/recorder_load --socket /run/bailey/recorder.sock --template /usr/local/share/launch.json \
    --clients 8 --seconds 600 --print >&3 &
wait
end "FAIL load: it ended by itself"
