#!/usr/bin/env bash
# Installs what "cargo build --release --locked" built, as a distribution's package does: programs, units, accounts and
# directories for systemd, configuration, manual pages.
#
#   packaging/install.sh [--from DIR] [--names DIR]
#
#   --from DIR    holds the programs (default: this tree's release build)
#   --names DIR   links to bailey by the names apptainer and singularity, for pilots that call those (docs/apptainer.md). Not
#                 made unless asked for: in /usr/bin they would stand where the real programs belong.
#
# In the environment:
#   DESTDIR=DIR   puts everything below DIR instead of / (for a package or an image). Without it, and as root, the account
#                 and the directories are made too (systemd-sysusers, systemd-tmpfiles) and systemd reads its units again.
#                 Nothing is enabled or started.
set -euo pipefail
umask 022

die() {
    printf 'install.sh: error: %s\n' "$*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")/.." && pwd)
dest=${DESTDIR:-}
from=
names=
while [ $# -gt 0 ]; do
    case $1 in
    --from) from=${2:?--from DIR}; shift ;;
    --names) names=${2:?--names DIR}; shift ;;
    *) die "unknown option '$1': see the head of packaging/install.sh" ;;
    esac
    shift
done
if [ -z "$from" ]; then
    # The target is named by its tuple (.cargo/config.toml), so there is one folder more than usual.
    for candidate in "${CARGO_TARGET_DIR:-$here/target}"/*/release; do
        if [ -x "$candidate/bailey" ]; then from=$candidate; fi
    done
fi
for program in bailey bailey-admin bailey-recorder; do
    if [ -z "$from" ] || [ ! -x "$from/$program" ]; then
        die "there is no $program${from:+ in $from}: run cargo build --release --locked, as an ordinary user"
    fi
done

# put MODE FILE TARGET
put() { install -D -m "$1" "$2" "$dest$3"; }

put 0755 "$from/bailey" /usr/bin/bailey
put 0755 "$from/bailey-admin" /usr/libexec/bailey/bailey-admin
put 0755 "$from/bailey-recorder" /usr/libexec/bailey/bailey-recorder

if [ -n "$names" ]; then
    install -d -m 0755 "$dest$names"
    for name in apptainer singularity; do
        if [ -e "$dest$names/$name" ] && [ ! -L "$dest$names/$name" ]; then
            die "$dest$names/$name is there and no link: name another directory"
        fi
        ln -sfn /usr/bin/bailey "$dest$names/$name"
    done
fi

# For Slurm's Prolog and Epilog (docs/cgroups.md); nothing calls them before a site says so.
put 0755 "$here/packaging/slurm/prolog.sh" /usr/libexec/bailey/slurm-prolog
put 0755 "$here/packaging/slurm/epilog.sh" /usr/libexec/bailey/slurm-epilog

units=$here/packaging/systemd
put 0644 "$units/bailey-recorder.socket" /usr/lib/systemd/system/bailey-recorder.socket
put 0644 "$units/bailey-recorder.service" /usr/lib/systemd/system/bailey-recorder.service
put 0644 "$units/bailey.sysusers.conf" /usr/lib/sysusers.d/bailey.conf
put 0644 "$units/bailey.tmpfiles.conf" /usr/lib/tmpfiles.d/bailey.conf

for page in "$here"/docs/man/*.[1-8]; do
    put 0644 "$page" "/usr/share/man/man${page##*.}/${page##*/}"
done

# The example for image.end_of_life_table; the program has it built in.
put 0644 "$here/config/end-of-life.toml" /usr/share/doc/bailey/end-of-life.toml
put 0644 "$here/config/conf.d/wlcg-vos.toml.example" /usr/share/doc/bailey/wlcg-vos.toml.example

# A site's own configuration stays as it is.
install -d -m 0755 "$dest/etc/bailey" "$dest/etc/bailey/conf.d" "$dest/etc/bailey/bans.d" "$dest/etc/bailey/groups.d"
[ -e "$dest/etc/bailey/bailey.toml" ] || put 0644 "$here/config/bailey.toml" /etc/bailey/bailey.toml

if [ -z "$dest" ] && [ "$(id -u)" -eq 0 ]; then
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers bailey.conf; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create bailey.conf; fi
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
