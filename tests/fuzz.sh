#!/usr/bin/env bash
# The fuzz targets in fuzz/, each for so many seconds (default 60): tests/fuzz.sh [SECONDS]. Findings are in fuzz/artifacts/.
# Needs a nightly toolchain and cargo-fuzz: without them it says so and ends with 77. The corpora grow in fuzz/corpus/.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

seconds=${1:-60}
cd "$(dirname "$0")/.."
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz: no nightly toolchain with cargo-fuzz (rustup toolchain install nightly; cargo install --locked cargo-fuzz)" >&2
    exit 77
fi
# Beginnings: real packets and lines of this build.
mkdir -p fuzz/corpus/wire fuzz/corpus/proc fuzz/corpus/line
mkdir -p fuzz/corpus/image
cat /etc/os-release >fuzz/corpus/image/os-release
printf '%s' '{"org.label-schema.build-date":"Tuesday_4_April_2023_13:15:56_UTC"}' >fuzz/corpus/image/labels
printf '%s\n' 'Scientific Linux release 6.10 (Carbon)' >fuzz/corpus/image/redhat-release
# A SIF header (src/image/sif.rs), of an empty file.
{ head -c 32 /dev/zero; printf 'SIF_MAGIC\0''01\0''02\0'; head -c 80 /dev/zero; } >fuzz/corpus/image/sif
for file in status stat cgroup uid_map; do cat /proc/self/$file >fuzz/corpus/proc/$file; done
BAILEY_WRITE_CORPUS=$PWD/fuzz/corpus cargo test --quiet --locked --features test-hooks --test wire_fuzz corpus >/dev/null
# Names, patterns and lists: the examples of docs/bans.md, a file each.
mkdir -p fuzz/corpus/name fuzz/corpus/pattern fuzz/corpus/bans
awk -v to=fuzz/corpus '
    /^```/ { kind = kind == "" ? substr($0, 4) : ""; count++; next }
    kind == "names" { name++; print > (to "/name/doc-" name) }
    kind == "condor" && /\// { pattern++; split($0, part, " "); print part[2] > (to "/pattern/doc-" pattern) }
    kind == "toml" || kind == "lcas" || kind == "dn" || kind == "condor" || kind == "argus" || kind == "mapfile" {
        file = to "/bans/doc-" count
        if (!(file in seen)) { seen[file] = 1; printf "%s", kind == "toml" ? "o" : substr(kind, 1, 1) > file }
        print > file
    }' docs/bans.md
for target in wire line proc image name pattern bans; do
    echo "== $target: $seconds s"
    cargo +nightly fuzz run --release "$target" -- -max_total_time="$seconds" -max_len=135000 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 2>&1 | grep -E "stat::|ERROR|panicked|Done|SUMMARY|Test unit" | cut -c1-200
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "fuzz: $target found something: fuzz/artifacts/$target" >&2; exit 1; }
done
