#!/usr/bin/env bash
# The systemd units without a systemd that runs: they are read without a warning, and the service's exposure is at most
# 1.5. Needs no build. tests/beds/systemd-vm.sh boots them.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$(dirname "$0")/.."
most=15 # tenths
service=packaging/systemd/bailey-recorder.service
failed=0
if ! have systemd-analyze; then
    say "units: systemd-analyze is not installed, the units are not checked: run tests/setup.sh"
    exit 0
fi

# A root directory with the distribution's units, ours, and files where the programs are going to be.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/lib/systemd" "$root/usr/libexec/bailey"
cp -r /lib/systemd/system "$root/usr/lib/systemd/"
cp packaging/systemd/bailey-recorder.* "$root/usr/lib/systemd/system/"
program=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$service")
grep -q "put 0755 .* $program\$" packaging/install.sh || die "packaging/install.sh puts no program at $program of ExecStart="
install -D -m 0755 /bin/sh "$root$program"

# verify says what it ignores, but ends with 0 then. In a container it may lack a list that only its own output uses.
for unit in bailey-recorder.service bailey-recorder.socket; do
    code=0
    findings=$(systemd-analyze verify --man=no --root="$root" "$unit" 2>&1 | grep -F bailey) || true
    systemd-analyze verify --man=no --root="$root" "$unit" >/dev/null 2>&1 || code=$?
    if [ -n "$findings" ] || [ "$code" -ne 0 ]; then
        say "units: systemd-analyze verify $unit ended with $code: ${findings:-no word about it}"
        failed=1
    fi
done

exposure=$(systemd-analyze security --offline=true --threshold="$most" --no-pager "$service" 2>&1) || {
    say "$exposure"
    say "units: $service is more exposed than $((most / 10)).$((most % 10)), see the lines that do not begin with ✓"
    failed=1
}
level=$(sed -n 's/.*Overall exposure level for bailey-recorder.service: \([0-9.]*\).*/\1/p' <<<"$exposure")
[ -n "$level" ] || die "systemd-analyze security named no level: $exposure"
say "units: exposure level $level"
exit "$failed"
