#!/usr/bin/env bash
# Runs a command inside the peers' root directory as an ordinary user: a mount namespace and pivot_root, because the
# kernel refuses user namespaces in a chroot. As root.
#
#   enter.sh ROOT UID:GID PATH... -- COMMAND [ARG...]     each PATH appears inside under its own path, FROM=TO as TO
#
# BAILEY_ENTER_HIDE=MOUNT   a mount of the host that is not there inside
set -euo pipefail

if [ "${1:-}" != --entered ]; then
    exec unshare --mount --propagation private -- "$0" --entered "$@"
fi
root=$2 uid=${3%:*} gid=${3#*:}
shift 3
mount --bind "$root" "$root"
for dir in /proc /sys /dev; do mount --rbind "$dir" "$root$dir"; done
if [ -n "${BAILEY_ENTER_HIDE:-}" ]; then umount -l "$root$BAILEY_ENTER_HIDE"; fi
# The peers look their caller up.
if ! grep -q "^[^:]*:[^:]*:$uid:" "$root/etc/passwd"; then
    getent passwd "$uid" >>"$root/etc/passwd"
    getent group "$gid" >>"$root/etc/group"
fi
mkdir -p "$root$(getent passwd "$uid" | cut -d: -f6)"
touch "$root/etc/hosts" "$root/etc/resolv.conf"
while [ "$1" != -- ]; do
    from=${1%%=*} to=${1#*=}
    if [ -d "$from" ]; then
        mkdir -p "$root$to"
    elif [ ! -e "$root$to" ]; then
        touch "$root$to"
    fi
    mount --bind "$from" "$root$to"
    shift
done
shift
cd "$root"
pivot_root . mnt
cd /
umount -l /mnt
exec setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"
