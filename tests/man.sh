#!/usr/bin/env bash
# The manual pages against the program: every option of a command, and every key of the configuration, is in its page
# and the other way round. Reads the sources, needs no build. Pages are linted where mandoc is installed.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$(dirname "$0")/.."
failed=0
complain() {
    say "man: $*"
    failed=1
}

# options FILE STRUCT: the long options of a clap struct, without dashes.
options() {
    awk -v head="^(pub([(]super[)])? )?struct $2 [{]" '
        $0 ~ head { inside = 1 }
        inside && /^}/ { exit }
        inside && /#\[arg\(.*long/ {
            pending = 1
            name = match($0, /long = "[^"]*"/) ? substr($0, RSTART + 8, RLENGTH - 9) : ""
        }
        inside && pending && /^ +(pub )?[a-z_]+: / {
            field = $1 == "pub" ? $2 : $1
            sub(/:$/, "", field)
            if (name == "") { name = field; gsub(/_/, "-", name) }
            print name
            pending = 0
        }' "$1" | sort
}
# documented PAGE: the long options that the page lists; --help and --version are clap's own.
documented() { sed -n 's/^\.It .*Fl -\([a-z-]*\).*/\1/p' "$1" | grep -vx -e help -e version | sort; }

# keys FILE: section.key of the commented default configuration.
keys() {
    awk '/^\[.*\]$/ { section = substr($0, 2, length($0) - 2) }
         /^#[a-z_0-9]+ = / { print section "." substr($1, 2) }' "$1" | sort
}
documented_keys() {
    awk '/^\.Ss Section / { section = $3 }
         /^\.It Va / { print section "." $3 }' "$1" | sort
}

# same PAGE HAS SHOULD: tells the differences of two sorted lists, and refuses an empty one, which proves nothing.
same() {
    local page=$1 has=$2 should=$3 name
    [ -n "$should" ] || complain "nothing was found to compare $page with: repair tests/man.sh"
    while read -r name; do complain "$page lacks $name"; done < <(comm -13 <(echo "$has") <(echo "$should"))
    while read -r name; do
        complain "$page has $name, the program has not"
    done < <(comm -23 <(echo "$has") <(echo "$should"))
}

man=docs/man
same $man/bailey-exec.1 "$(documented $man/bailey-exec.1)" "$(options src/frontend/bailey.rs Exec)"
same $man/bailey-trace.1 "$(documented $man/bailey-trace.1)" "$(options src/admin/ask_log.rs Trace)"
same $man/bailey-verify.1 "$(documented $man/bailey-verify.1)" "$(options src/admin/ask_log.rs Verify)"
same $man/bailey-report.1 "$(documented $man/bailey-report.1)" "$(options src/admin/report/mod.rs Report)"
same $man/bailey-ps.1 "$(documented $man/bailey-ps.1)" "$(options src/admin/cli.rs Ps)"
same $man/bailey-stop.1 "$(documented $man/bailey-stop.1)" "$(options src/admin/cli.rs Stop)"
same $man/bailey-check.1 "$(documented $man/bailey-check.1)" "$(options src/admin/check/mod.rs Check)"
same $man/bailey-drain.1 "$(documented $man/bailey-drain.1)" "$(options src/admin/cli.rs Drain)"
# A command of several words has one page.
of() {
    local file=$1 name
    shift
    for name in "$@"; do options "$file" "$name"; done
}
same $man/bailey-ban.1 "$(documented $man/bailey-ban.1 | sort -u)" \
    "$({ of src/admin/ban/mod.rs Add Remove List Import; of src/admin/who.rs Who; } | sort -u)"
same $man/bailey-policy.1 "$(documented $man/bailey-policy.1 | sort -u)" \
    "$({ of src/admin/policy/mod.rs Explain Check; of src/admin/who.rs Who; } | sort -u)"
same $man/bailey-clean.1 "$(documented $man/bailey-clean.1)" "$(options src/admin/clean.rs Clean)"
same $man/bailey-config.1 "$(documented $man/bailey-config.1)" "$(options src/admin/cli.rs Validate)"
same $man/bailey-recorder.8 "$(documented $man/bailey-recorder.8)" "$(options src/recorder/cli.rs Cli)"
same $man/bailey.toml.5 "$(documented_keys $man/bailey.toml.5)" "$(keys config/bailey.toml)"

if have mandoc; then
    # Whether other pages are installed here says nothing about ours.
    findings=$(mandoc -T lint -W style $man/*.[1-8] 2>&1 |
        grep -v -e 'referenced manual not found' -e 'outdated mandoc.db' || true)
    if [ -n "$findings" ]; then
        say "$findings"
        complain "mandoc found the above"
    fi
else
    say "man: mandoc is not installed, the pages are not linted: apt-get install mandoc"
fi
exit "$failed"
