#!/usr/bin/env bash
# What may enter the build (deny.toml): cargo-deny where it is installed. Without it the parts that need no database: licences,
# sources and crates that are not wanted. Advisories need cargo-deny and a network.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$(dirname "$0")/.."
if cargo deny --version >/dev/null 2>&1; then
    parts=(bans licenses sources)
    if [ "${1:-}" != --offline ]; then parts+=(advisories); fi
    cargo deny --locked check "${parts[@]}"
    exit
fi
# The words of a list of deny.toml: list licenses allow.
list() {
    sed -n "/^\[$1\]/,/^\[[^]]*\]$/p" deny.toml | sed -n "/^$2 = \[/,/^\]/p" | grep -v '^ *#' |
        grep -oE "${3:-\"[^\"]+\"}" | cut -d'"' -f2
}
allowed=$(list licenses allow)
unwanted=$(list bans deny 'crate = "[^"]+"')
if [ -z "$allowed" ] || [ -z "$unwanted" ]; then die "deny.toml cannot be read: the lists of licences and of crates are empty"; fi
# Each crate of every target once: name, version, licence. The alternatives of a licence are separated by OR, or by / in the
# older form; of those at least one, and of what AND joins each, has to be allowed.
crates=$(cargo tree --locked --all-features --target all --edges normal,build,dev --prefix none --no-dedupe --format '{p}|{l}' |
    sed 's/ (proc-macro)//' | sort -u)
wrong=$(ALLOWED=$allowed UNWANTED=$unwanted awk -F'|' '
    BEGIN {
        for (i = split(ENVIRON["ALLOWED"], names, "\n"); i > 0; i--) allowed[names[i]]
        for (i = split(ENVIRON["UNWANTED"], names, "\n"); i > 0; i--) unwanted[names[i]]
    }
    {
        split($1, crate, " ")
        if (crate[1] in unwanted) print crate[1] " is not wanted (deny.toml, bans)"
        text = $2
        gsub(/[()]/, "", text)
        for (i = split(text, all, " AND "); i > 0; i--) {
            fits = 0
            for (j = split(all[i], any, / OR |\//); j > 0; j--) if (any[j] in allowed) fits = 1
            if (!fits) print $1 ": the licence \"" $2 "\" is not allowed (deny.toml, licenses)"
        }
    }' <<<"$crates")
sources=$(grep -h '^source = ' Cargo.lock fuzz/Cargo.lock tests/miri/Cargo.lock | sort -u |
    grep -vxF 'source = "registry+https://github.com/rust-lang/crates.io-index"' || true)
[ -z "$wrong" ] || die "$wrong"
[ -z "$sources" ] || die "crates come from elsewhere than crates.io: $sources"
say "deny: licences, sources and names of $(wc -l <<<"$crates") crates are as deny.toml says." \
    "Advisories and duplicates are not looked at: cargo install --locked cargo-deny, and a network"
