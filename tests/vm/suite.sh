#!/bin/bash
# The first process of the virtual machine in tests/beds/kernels.sh: mounts, accounts, control groups; then it becomes
# tests/tools/vm_runner.c, which runs the tests.
#
# /dev/vdb carries the tree with the test programs, /dev/vdc the image. ttyS1 gets the results.
#
# Control groups are as on a worker node with systemd and HTCondor (24): mounted with nsdelegate; below a slice of HTCondor's
# one for each slot, with cpu, io, memory and pids, and in it the job's scope.
PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin
export PATH
SLICE=/sys/fs/cgroup/htcondor.slice

# gcc for tests that each compile the same source: the second one gets what the first one got.
make_gcc() {
    mkdir -p /usr/local/bin /var/cache/bed-gcc
    chmod 1777 /var/cache/bed-gcc
    cat >/usr/local/bin/gcc <<'GCC'
#!/bin/bash
cache=/var/cache/bed-gcc
out= key= previous=
for arg in "$@"; do
    if [ "$previous" = -o ]; then
        out=$arg
    elif [ -f "$arg" ]; then
        key+=$(sha256sum <"$arg")
    else
        key+=" $arg"
    fi
    previous=$arg
done
[ -n "$out" ] || exec /usr/bin/gcc "$@"
key=$cache/$(sha256sum <<<"$key" | cut -c 1-64)
if [ ! -f "$key" ]; then
    /usr/bin/gcc "$@" || exit
    mine=$(mktemp "$cache/new.XXXXXX")
    cat "$out" >"$mine" && chmod 0755 "$mine" && mv -f "$mine" "$key"
    exit 0
fi
cp "$key" "$out"
GCC
    chmod 0755 /usr/local/bin/gcc
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
# As systemd does.
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /dev/pts /dev/shm /dev/mqueue /srv/image
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS1 -opost
# What udev does.
ln -s /proc/self/fd /dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "/dev/${stream#*:}"; done
if [ -c /dev/fuse ]; then chmod 0666 /dev/fuse; fi
ip link set lo up
hostname worker
# shellcheck source=/dev/null
. /etc/bed-settings
mount -t ext4 -o ro /dev/vdc /srv/image
mkdir -p "$BAILEY_VM_ROOT"
mount -t ext4 /dev/vdb "$BAILEY_VM_ROOT"
if [ -n "$BAILEY_VM_TARGET" ]; then
    mkdir -p "$BAILEY_VM_TARGET"
    mount --bind "$BAILEY_VM_ROOT/bed-target" "$BAILEY_VM_TARGET"
fi

controllers="+cpu +cpuset +io +memory +pids"
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
echo "$controllers" >/sys/fs/cgroup/cgroup.subtree_control
mkdir "$SLICE"
echo "$controllers" >"$SLICE/cgroup.subtree_control"
for slot in $(seq "$BAILEY_VM_WORKERS"); do
    mkdir "$SLICE/slot1_$slot.slice"
    echo "$controllers" >"$SLICE/slot1_$slot.slice/cgroup.subtree_control"
done
make_gcc
user=$BAILEY_TEST_USER
mkdir -p "$BAILEY_TEST_DIR"
install -d -m 0700 -o "$user" -g "$user" "$BAILEY_TEST_TMP"
install -d -m 0755 "$BAILEY_TEST_SHARED"
{
    echo "# $(uname -r), $(cat /sys/kernel/security/lsm)"
    echo "# clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource), up for $(cut -d' ' -f1 /proc/uptime) s"
} >/dev/ttyS1

cd "$BAILEY_VM_ROOT" || exit 1
# The environment is what tests/lib.sh's exec_as_user leaves. This shell, process 1, reaps orphans while it waits.
names=(BAILEY_TEST_DIR BAILEY_TEST_IMAGE BAILEY_TEST_TMP BAILEY_TEST_SHARED BAILEY_TEST_RELEASE BAILEY_TEST_SLOW
    BAILEY_TEST_USER BAILEY_TEST_USER_B BAILEY_TEST_RECORDER_USER)
set --
for name in "${names[@]}"; do set -- "$@" "$name=${!name}"; done
env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="/home/$user" USER="$user" LOGNAME="$user" SHELL=/bin/bash "$@" \
    BED_UID="$(id -u "$user")" BED_GID="$(id -g "$user")" \
    "$BAILEY_VM_ROOT/bed-programs/vm_runner" "$BAILEY_VM_ROOT/bed-list" "$BAILEY_VM_WORKERS" "$BAILEY_VM_TEST_SECONDS" \
    "$SLICE" "$BAILEY_VM_ROOT/bed-programs" /dev/ttyS1
{
    echo "# up for $(cut -d' ' -f1 /proc/uptime) s"
    echo "done"
} >/dev/ttyS1
sync
sleep 1 # the serial line is still sending
echo o >/proc/sysrq-trigger
sleep 60
