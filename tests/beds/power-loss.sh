#!/usr/bin/env bash
# The power fails under load: a virtual machine in which the recorder serves is killed at a random moment, and boots again
# on the same disk. Every receipt that had left it by the serial line must be in the log, with its hash; every launch that
# was live is closed; the log verifies.
#
#   tests/beds/power-loss.sh [ROUNDS]     (default 5; some 25 s each)
#
# What is lost is what the guest had not flushed: killing QEMU keeps what it had already written (the host's page cache), so
# the disk is like one whose write cache has a battery, and the guest's own page cache is what fdatasync must have written
# out. (cache=unsafe would let the flush itself do nothing, and blame bailey; cache=none would only be slower: killing a
# process on the host never loses what it wrote.) That the bed can see a loss is shown by a control: the same with a
# recorder whose fdatasync is skipped by strace. There receipts must be missing.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/vm/lib.sh
. "$(dirname "$0")/../vm/lib.sh"

rounds=${1:-5}
vm_packages
enter_workspace
vm_kernel
vm_root
build_release

out=$(mktemp -d "$VM_DIR/power-loss.XXXXXX")
watched=
end() {
    if [ -n "$watched" ]; then kill "$watched" || true; fi
    rm -rf --one-file-system "$out"
}
trap end EXIT

tree=$out/tree
DESTDIR=$tree bash packaging/install.sh --from "$RELEASE"
cat >"$tree/etc/bailey/conf.d/10-bed.toml" <<'TOML'
[audit]
recorder = "required"
[recorder]
segment_size = "256K"
live_list_every = "64K"
checkpoint_records = "50"
launches_per_second = "100000"
live_per_uid = "100000"
reserve = "4M"
foreign_config = "record"
TOML
install -D -m 0755 tests/vm/power.sh "$tree/usr/local/sbin/power"
install -d "$tree/usr/local/bin" "$tree/usr/local/share"
gcc -O2 -static -o "$tree/usr/local/bin/recorder_load" tests/tools/recorder_load.c
cat >"$tree/usr/local/share/launch.json" <<'JSON'
{"event":{"id":"@ID@","action":"payload-launch","kind":"event","category":["process"],"type":["start"],"outcome":"success"},"ecs":{"version":"9.4.0"},"process":{"executable":"/bin/true","args":["/bin/true"],"working_directory":"/srv"},"container":{"runtime":"bailey"},"user":{"id":"/DC=org/DC=example/CN=Load"},"grid":{"role":"payload","job":{"id":"load"}}}
JSON
echo /usr/local/sbin/power >"$tree/vm-init"
vm_initramfs "$out/initramfs" "$tree"

# boot MODE DISK FOLDER [SECONDS]: starts the machine; sets watched (timeout) and machine (QEMU).
boot() {
    mkdir "$3"
    VM_APPEND="bed.mode=$1" vm_start "${4:-120}" "$out/initramfs" "$3" -drive "file=$2,format=raw,if=virtio,cache=writeback" &
    watched=$!
    machine=
    local turn
    for turn in $(seq 50); do
        machine=$(cat "/proc/$watched/task/$watched/children" 2>/dev/null || true)
        machine=${machine%% *}
        if [ -n "$machine" ] && [ "$(cat "/proc/$machine/comm" 2>/dev/null)" = qemu-system-x86 ]; then return; fi
        sleep 0.1
    done
    die "QEMU did not start ($turn looks)"
}
# receipts FOLDER: what had left whole: "SEQ HASH ID", with - - where only the id is known.
receipts() {
    tr -d '\r' 2>/dev/null <"$1/results.txt" | sed -nE \
        -e 's/^receipt ([0-9]+) ([0-9a-f]{64}) ([0-9A-Z]{26})$/\1 \2 \3/p' -e 's/^ran ([0-9A-Z]{26})$/- - \1/p'
}
# cut_power MODE DISK FOLDER: boots, waits for the first receipts, cuts the power some time later.
cut_power() {
    local start=$SECONDS
    boot "$1" "$2" "$3"
    until [ "$(receipts "$3" | grep -c '^[0-9]')" -ge 20 ] && receipts "$3" | grep -q '^-'; do
        if [ $((SECONDS - start)) -gt 90 ] || [ ! -d "/proc/$machine" ]; then
            tail -n 30 "$3/console.txt" >&2
            die "too few receipts after $((SECONDS - start)) s"
        fi
        sleep 0.2
    done
    sleep "$(awk -v r="$RANDOM" 'BEGIN { print r % 6000 / 1000 }')"
    # shellcheck disable=SC2015 # whichever fails, the power was not cut
    [ -d "/proc/$machine" ] && kill -KILL "$machine" || die "the machine went down by itself"
    wait "$watched" 2>/dev/null || true # 137; the shell's own word about it is nothing new
    watched=
}
# check DISK FOLDER: boots once more, verifies inside, and takes the log out to FOLDER/log.
check() {
    local code=0
    boot check "$1" "$2"
    wait "$watched" || code=$?
    watched=
    if [ "$code" -ne 0 ] || ! grep -q '^verify' "$2/results.txt"; then
        tail -n 30 "$2/console.txt" "$2/results.txt" >&2
        die "the last boot did not come to its end (QEMU's code $code)"
    fi
    mkdir "$2/disk"
    debugfs -R "rdump /log $2/disk" "$1" >/dev/null 2>"$2/debugfs.txt"
    # One line for a record: number, hash of the line before, action, launch id. Strings cannot look like that: their quotes
    # are escaped.
    cat "$2"/disk/log/*.ndjson | sed -nE 's/^\{"@timestamp":"[^"]*","event":\{("id":"([0-9A-Z]{26})",)?"action":"([a-z-]+)".*"chain":\{"seq":([0-9]+),"prev":"([0-9a-f]{64})"[^{}]*\}\}$/\4 \5 \3 \2/p' \
        >"$2/records.txt"
    [ -s "$2/records.txt" ] || die "nothing was read from the log: repair tests/beds/power-loss.sh"
}
# lost RECORDS RECEIPTS: the receipts that the log does not account for.
lost() {
    awk 'NR == FNR { hash[$1 - 1] = $2; if ($3 == "payload-launch") { at[$4] = $1 } next }
         !($3 in at) { print "not in the log: " $0; next }
         $1 != "-" && (at[$3] != $1 || hash[$1] != $2) { print "another record in its place: " $0 }' "$1" "$2"
}

new_disk() {
    truncate -s 256M "$1"
    mke2fs -q -t ext4 "$1"
}

results=$out/results.txt
check_that() { # check_that "NAME" CONDITION...
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else echo "FAIL $name"; fi | tee -a "$results"
}
new_disk "$out/log.ext4"
: >"$out/receipts.txt"
for round in $(seq "$rounds"); do
    cut_power load "$out/log.ext4" "$out/round-$round"
    receipts "$out/round-$round" >"$out/round.txt"
    cat "$out/round.txt" >>"$out/receipts.txt"
    echo "# round $round: $(wc -l <"$out/round.txt") receipts had left"
done
check "$out/log.ext4" "$out/check"
records=$out/check/records.txt
echo "# $(wc -l <"$records") records in $(find "$out/check/disk/log" -name '*.ndjson' | wc -l) segments"
sed 's/^/# /' "$out/check/results.txt"

hashed=$(grep -c '^[0-9]' "$out/receipts.txt" || true)
ran=$(grep -c '^-' "$out/receipts.txt" || true)
check_that "receipts had left: $hashed with their hash, $ran by a payload that ran" \
    test "$hashed" -ge $((20 * rounds)) -a "$ran" -ge "$rounds"
check_that "every receipt that had left is in the log" test -z "$(lost "$records" "$out/receipts.txt" | tee -a "$out/lost.txt")"
sed -n '1,10s/^/# /p' "$out/lost.txt"
check_that "the log verifies with the node's key" grep -qx 'verify 0' <(tr -d '\r' <"$out/check/results.txt")
open=$(awk '$3 == "payload-launch" { n[$4]++ } $3 == "payload-end" || $3 == "launch-failed" { n[$4]-- }
            END { for (id in n) if (n[id] > 0) print id }' "$records")
check_that "every launch is closed" test -z "$open"
for id in $open; do grep -h "$id" "$out"/check/disk/log/*.ndjson | cut -c 1-300 | sed "s/^/# open: /"; done | head -n 10
twice=$(awk '$3 == "payload-end" || $3 == "launch-failed" { n[$4]++ } END { for (id in n) if (n[id] > 1) print id }' "$records")
check_that "no launch is closed twice" test -z "$twice"
closed=$(cat "$out"/check/disk/log/*.ndjson | grep -c '"by":"host-restart"' || true)
check_that "the payloads that were live are closed by the host's restart ($closed)" test "$closed" -ge $((3 * rounds))
restarts=$(awk '$3 == "host-restart"' "$records" | wc -l)
check_that "each power failure is a record" test "$restarts" -eq "$rounds"

new_disk "$out/control.ext4"
cut_power control "$out/control.ext4" "$out/control"
receipts "$out/control" >"$out/control.txt"
check "$out/control.ext4" "$out/control-check"
unsynced=$(lost "$out/control-check/records.txt" "$out/control.txt" | wc -l)
check_that "control: without fdatasync $unsynced of $(wc -l <"$out/control.txt") receipts are lost" test "$unsynced" -gt 0

ok=$(grep -c '^ok ' "$results" || true)
expected=$(cat tests/beds/power-loss.count)
echo "bed power-loss: $ok of $(wc -l <"$results") checks ok over $(wc -l <"$out/receipts.txt") receipts in $rounds rounds;" \
    "tests/beds/power-loss.count expects $expected"
[ "$ok" -eq "$(wc -l <"$results")" ] || exit 1
[ "$ok" -ge "$expected" ] || die "bed power-loss: checks got lost"
