#!/usr/bin/env bash
# Boots Debian 12 with its systemd in QEMU, bailey installed as a package installs it, and checks as real accounts what the
# units promise (tests/vm/systemd.sh runs inside). Emulated: some three minutes on two idle cores, after some 40 s for what is
# kept (tests/vm/lib.sh); 15 minutes at most.
#
# How many checks said "ok" is compared with tests/beds/systemd-vm.count; fewer is an error.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

vm_packages
enter_workspace
vm_kernel
vm_root
build_release

out=$(mktemp -d "$VM_DIR/systemd-vm.XXXXXX")
qemu=
end() {
    if [ -n "$qemu" ]; then kill "$qemu" || true; fi
    rm -rf --one-file-system "$out"
}
trap end EXIT

# What a package and its administrator put on the disk.
tree=$out/tree
DESTDIR=$tree bash packaging/install.sh --from "$RELEASE"
cat >"$tree/etc/bailey/conf.d/10-bed.toml" <<'TOML'
[site]
name = "VM-BED"
[audit]
recorder = "required"
journald = "checkpoints"
wait = "8s"
[recorder]
checkpoint_every = "5s"
TOML
units=$tree/etc/systemd/system
install -D -m 0755 tests/vm/systemd.sh "$tree/usr/local/sbin/bed"
mkdir -p "$units/multi-user.target.wants" "$units/sockets.target.wants"
cat >"$units/bed.service" <<'UNIT'
[Unit]
Description=The checks
After=bailey-recorder.service dbus.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bed
ExecStopPost=/usr/bin/systemctl --no-block poweroff
UNIT
# What "systemctl enable" makes; bed.sh itself is only for this machine.
ln -s /etc/systemd/system/bed.service "$units/multi-user.target.wants/bed.service"
ln -s /usr/lib/systemd/system/bailey-recorder.service "$units/multi-user.target.wants/bailey-recorder.service"
ln -s /usr/lib/systemd/system/bailey-recorder.socket "$units/sockets.target.wants/bailey-recorder.socket"

vm_initramfs "$out/initramfs" "$tree"
code=0
vm_start 900 "$out/initramfs" "$out" &
qemu=$!
wait "$qemu" || code=$?
qemu=

vm_report systemd-vm "$out" "$code"
