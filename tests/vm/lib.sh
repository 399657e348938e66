# shellcheck shell=bash
# What the beds with a virtual machine share: Debian's cloud kernel, a Debian 12 root with systemd on an ext4 image, and
# QEMU. Emulation only, so that it runs where there is no /dev/kvm. Sourced after tests/lib.sh, not run.
#
# BAILEY_VM_KERNEL   the Debian suite whose kernel boots: bookworm (6.1, the default), trixie (6.12), bullseye (5.10), sid
#
# A machine has two serial lines: ttyS0 is the kernel's console, ttyS1 carries what the bed reads. So no line of the kernel
# gets into a result. What is slow is kept in BAILEY_TEST_DIR/vm.

BAILEY_VM_KERNEL=${BAILEY_VM_KERNEL:-bookworm}
VM_DIR=$BAILEY_TEST_DIR/vm

# Packages of the beds; tests/setup.sh knows only what `make test` needs.
vm_packages() {
    local need missing=()
    is_root || die "a virtual machine's root directory keeps owners and modes: run as root"
    for need in qemu-system-x86_64:qemu-system-x86 cpio:cpio busybox:busybox-static mke2fs:e2fsprogs depmod:kmod \
        mmdebstrap:mmdebstrap; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "vm: installing ${missing[*]}"
    apt-get -o Acquire::Retries=3 -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -qq install -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# The mirror is what this machine's own apt uses for Debian's main archive.
vm_mirror() {
    local mirror
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk '$2 !~ /-(security|updates|backports)/ && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || die "apt on this machine knows no archive with a component main: run apt-get update"
    printf '%s\n' "$mirror"
}

# vm_cached NAME FUNCTION: VM_DIR/NAME as FUNCTION makes it in the directory that it is given; made again when the function
# has changed. One maker at a time.
vm_cached() {
    local name=$1 recipe new
    shift
    make_test_dir
    mkdir -p "$VM_DIR"
    recipe=$(declare -f "$@" | sha256sum)
    (
        flock 9
        if [ "$(cat "$VM_DIR/$name/recipe" 2>/dev/null)" = "$recipe" ]; then exit 0; fi
        rm -rf --one-file-system "${VM_DIR:?}/$name"
        new=$(mktemp -d "$VM_DIR/$name.new.XXXXXX")
        trap 'rm -rf --one-file-system "$new"' EXIT
        "$@" "$new"
        printf '%s\n' "$recipe" >"$new/recipe"
        chmod 0755 "$new"
        mv -T "$new" "$VM_DIR/$name"
    ) 9>"$VM_DIR/$name.lock"
}

# vm_kernel: fills VM_DIR/kernel-SUITE: vmlinuz, modules (in the order in which they are loaded, NN-NAME.ko), version.
vm_kernel() { vm_cached "kernel-$BAILEY_VM_KERNEL" vm_make_kernel; }
vm_make_kernel() {
    local out=$1 suite=$BAILEY_VM_KERNEL mirror image packages apt version module n=0
    mirror=$(vm_mirror)
    say "vm: fetching Debian's cloud kernel of $suite"
    mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial" "$out/tree"
    printf 'deb [trusted=yes] %s %s main\n' "$mirror" "$suite" >"$out/apt/sources.list"
    apt=(-qq -o Dir::Etc::sourcelist="$out/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::Lists="$out/apt/lists" -o Dir::Cache="$out/apt/cache" -o Acquire::Check-Valid-Until=false
        -o Acquire::Retries=3 -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    image=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$image" ] || die "the archive's $suite has no linux-image-cloud-amd64"
    # sid keeps the kernel and its modules in packages of their own.
    packages=$(apt-cache "${apt[@]}" depends "$image" | sed -n 's/^ *Depends: \(linux-\(binary\|modules\)-[^ ]*\)$/\1/p')
    # shellcheck disable=SC2086 # one word for each package
    (cd "$out/apt" && apt-get "${apt[@]}" download "$image" $packages)
    for module in "$out"/apt/*.deb; do dpkg -x "$module" "$out/tree"; done
    version=$(basename "$(find "$out/tree" -type d -path '*/lib/modules/*' -prune | head -n 1)")
    cp "$(find "$out/tree" -name 'vmlinuz*' -type f | head -n 1)" "$out/vmlinuz"
    # depmod looks below /lib, where not every suite's packages put all of it.
    if [ -d "$out/tree/usr/lib/modules" ]; then
        mkdir -p "$out/tree/lib"
        cp -r "$out/tree/usr/lib/modules" "$out/tree/lib/"
    fi
    find "$out/tree" -name '*.ko.xz' -exec unxz {} +
    depmod -b "$out/tree" "$version" 2>/dev/null
    mkdir "$out/modules"
    # What is built in is no module: it names no file, or is not found where the list of what is built in is in yet another
    # package. What is really missing shows at boot: no disk, no card.
    for module in virtio_pci virtio_blk virtio_net ext4 overlay fuse; do
        modprobe -d "$out/tree" -S "$version" --show-depends "$module" 2>/dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$out/order"
    while read -r module; do
        cp "$module" "$out/modules/$(printf '%02d' "$n")-${module##*/}"
        n=$((n + 1))
    done <"$out/order"
    printf '%s\n' "$version" >"$out/version"
    rm -rf "$out/apt" "$out/tree" "$out/order"
}

# vm_root: makes VM_DIR/root: a Debian 12 root directory with systemd, and with the programs that tests call, as an ext4
# image (root.ext4), without bailey. vm_slurm_root: VM_DIR/slurm-root: the same with Slurm. VM_ROOT names the one that
# vm_start boots.
vm_root() { vm_cached root vm_make_root; }
vm_slurm_root() { vm_cached slurm-root vm_make_slurm_root vm_make_root; }
vm_make_slurm_root() { "$1" "$2" munge,slurmctld,slurmd,slurm-client,slurm-wlm-basic-plugins; }
vm_make_root() { # FOLDER [PACKAGES]
    local out=$1 more=${2:+,$2} mirror
    mirror=$(vm_mirror)
    say "vm: making a Debian 12 root with systemd${more//,/, }"
    # The second hook is for a machine that has only serial lines: the getty would wait 90 s for one of them. apt's own
    # timers would run in the middle of a test.
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --variant=minbase --quiet --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=systemd,systemd-sysv,dbus,kmod,procps,iproute2,passwd,e2fsprogs,util-linux,jq,strace"$more" \
        --include=gcc,libc6-dev,binutils,file,perl-base,bubblewrap,uidmap,bindfs \
        --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* \
            "$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/man/*' \
        --customize-hook='ln -sf /dev/null "$1"/etc/systemd/system/serial-getty@ttyS0.service
            ln -sf /dev/null "$1"/etc/systemd/system/getty@tty1.service
            for t in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do
                ln -sf /dev/null "$1/etc/systemd/system/$t.timer"; done
            rm -f "$1"/etc/resolv.conf; touch "$1"/etc/resolv.conf; printf "127.0.0.1 localhost\n" >"$1"/etc/hosts
            printf "worker\n" >"$1"/etc/hostname; printf "uninitialized\n" >"$1"/etc/machine-id' \
        --customize-hook='chroot "$1" useradd -m -s /bin/bash pilot
            chroot "$1" useradd -m -s /bin/bash other
            chroot "$1" useradd -m -s /bin/bash auditor' \
        bookworm "$out/tree" "$mirror"
    mke2fs -q -t ext4 -d "$out/tree" -L root "$out/root.ext4" 4G
    rm -rf --one-file-system "$out/tree"
}

# vm_initramfs FILE TREE: a first root that loads the modules, mounts the disk, copies TREE over it and goes on there.
# TREE is what a bed installs; the disk itself is never changed (vm_start).
vm_initramfs() {
    local file=$1 tree=$2 root
    root=$(mktemp -d "$VM_DIR/initramfs.XXXXXX")
    mkdir -p "$root"/{bin,dev,proc,sys,modules,newroot}
    cp "$(command -v busybox)" "$root/bin/busybox"
    cp "$VM_DIR/kernel-$BAILEY_VM_KERNEL"/modules/* "$root/modules/"
    cp -a "$tree" "$root/overlay"
    # The root directory of the kernel's archive has no name-service and no users: numbers only.
    cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
for module in /modules/*; do insmod "$module" || echo "vm: insmod $module failed"; done
for turn in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done
mount -t ext4 /dev/vda /newroot || { echo "vm: no root disk"; poweroff -f; }
cp -a /overlay/. /newroot/
umount /sys /proc
mount --move /dev /newroot/dev
init=$(cat /newroot/vm-init 2>/dev/null || echo /sbin/init)
exec switch_root /newroot "$init"
INIT
    chmod 0755 "$root/init"
    (cd "$root" && find . -print0 | cpio --null --quiet -o -H newc) | gzip -1 >"$file"
    rm -rf --one-file-system "$root"
}

# vm_start SECONDS INITRAMFS FOLDER [QEMU ARGUMENT...]: becomes QEMU for at most so many seconds (timeout's code 124 then).
# FOLDER gets console.txt and results.txt, as they come. VM_APPEND is added to the kernel's command line. With "&", $! is
# timeout's pid, and QEMU is its only child.
#
# The processor is QEMU's largest without what is wrong or slow in emulation: with cmpxchg16b QEMU 7.2 leaves wrong flags under
# load (6.12 stopped in the middle of its allocator); page tables of five levels and AVX only cost.
vm_start() {
    local seconds=$1 initramfs=$2 folder=$3
    shift 3
    # The root disk is written to a copy that QEMU throws away.
    TMPDIR=$folder exec timeout --foreground -k 5 "$seconds" \
        qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-cx16,-la57,-xsave,-avx,-avx2 -smp 2 -m 2048 \
        -nodefaults -display none -no-reboot \
        -kernel "$VM_DIR/kernel-$BAILEY_VM_KERNEL/vmlinuz" -initrd "$initramfs" \
        -append "console=ttyS0 panic=-1 tsc=reliable quiet systemd.show_status=no ${VM_APPEND:-}" \
        -drive file="$VM_DIR/${VM_ROOT:-root}/root.ext4,format=raw,if=virtio,snapshot=on" \
        -nic user,model=virtio-net-pci,restrict=on \
        -chardev file,id=console,path="$folder/console.txt" -serial chardev:console \
        -chardev file,id=results,path="$folder/results.txt" -serial chardev:results \
        "$@" </dev/null
}

# vm_report BED FOLDER CODE: prints the results that came over ttyS1, one check a line ("ok NAME", "FAIL NAME: why",
# "skip NAME: why", "# more"), compares their number with tests/beds/BED.count; false when one failed. CODE
# is QEMU's. After enter_workspace.
vm_report() {
    local bed=$1 folder=$2 code=$3 results ok failed skipped expected
    results=$(tr -d '\r' <"$folder/results.txt")
    printf '%s\n' "$results"
    ok=$(grep -c '^ok ' <<<"$results" || true)
    failed=$(grep -c '^FAIL ' <<<"$results" || true)
    skipped=$(grep -c '^skip ' <<<"$results" || true)
    expected=$(cat "tests/beds/$bed.count")
    if ! grep -qx 'done' <<<"$results" || [ "$code" -ne 0 ]; then
        say "== the end of the machine's console"
        tail -n 40 "$folder/console.txt" >&2
        die "bed $bed: the machine did not come to its end (QEMU's code $code; 124 is its time limit)"
    fi
    printf 'bed %s: %s checks ok, %s failed, %s skipped; %s.count expects %s\n' \
        "$bed" "$ok" "$failed" "$skipped" "tests/beds/$bed" "$expected"
    [ "$failed" -eq 0 ] || return 1
    if [ "$ok" -lt "$expected" ]; then die "bed $bed: checks got lost"; fi
    if [ "$ok" -gt "$expected" ]; then say "to commit: echo $ok >tests/beds/$bed.count"; fi
}
