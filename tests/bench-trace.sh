#!/usr/bin/env bash
# Questions to a large log, and its verification, timed: cold (nothing of the log in memory) and warm. Prints a Markdown report.
#
#   tests/bench-trace.sh [--records N] [--keep DIR] [--write]
#
# --records  how many full-size records (default: 1000000; about 4.5 GB with its indexes)
# --keep     makes the log in DIR, or uses the one that is there, and leaves it
# --write    also writes the report to docs/benchmarks-trace.md
# As root the cold runs drop the page, dentry and inode caches; otherwise the log's pages only (posix_fadvise).
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

records=1000000
keep=
write=no
checkout=$(cd "$(dirname "$0")/.." && pwd)
while [ $# -gt 0 ]; do
    case $1 in
    --records) records=${2:?--records N}; shift ;;
    --write) write=yes ;;
    --keep) keep=${2:?--keep DIR}; shift ;;
    *) die "unknown option '$1': see the head of tests/bench-trace.sh" ;;
    esac
    shift
done

enter_workspace
cargo build --release --locked --features test-hooks --example bench-log
cargo build --release --locked --bin bailey-admin
maker=$RELEASE/examples/bench-log
admin=$RELEASE/bailey-admin

if [ -n "$keep" ]; then
    dir=$keep
    mkdir -p "$dir"
else
    dir=$(fresh_tmp)
    trap 'remove_tree "$dir"' EXIT
fi
log=$dir/log
if [ ! -e "$dir/samples" ]; then
    need=$((records * 4600 / 1024))
    free=$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')
    [ "$free" -gt "$need" ] || die "$dir has $free KB free, $records records need about $need KB"
    "$maker" make "$dir" "$records" >"$dir/made"
fi

drop() {
    sync
    if is_root && echo 3 2>/dev/null >/proc/sys/vm/drop_caches; then
        # The programs stay in memory: the question is about the log.
        "$admin" trace --help >/dev/null
        return
    fi
    for file in "$log"/*; do dd if="$file" iflag=nocache count=0 status=none; done
}
# milliseconds COMMAND...: how long it took, in hundredths; its exit code may be 1 (nothing found).
milliseconds() {
    local begin=$EPOCHREALTIME
    "$@" >/dev/null || [ $? -eq 1 ]
    local end=$EPOCHREALTIME
    awk -v begin="$begin" -v end="$end" 'BEGIN { printf "%.2f\n", (end - begin) * 1000 }'
}
# summary: median and largest of the numbers on stdin.
summary() { sort -n | awk '{ v[NR] = $1 } END { printf "%s (most %s)", v[int((NR + 1) / 2)], v[NR] }'; }

# timed cold|warm COUNT QUESTION...: QUESTION has T, P, J and U for time, pid, job and user of each sample.
timed() {
    local how=$1 count=$2 time pid job user word
    shift 2
    while read -r time pid job user; do
        local args=()
        for word in "$@"; do
            case $word in T) args+=("$time") ;; P) args+=("$pid") ;; J) args+=("$job") ;; U) args+=("$user") ;; *) args+=("$word") ;; esac
        done
        if [ "$how" = cold ]; then drop; else "$admin" trace --log "$log" "${args[@]}" >/dev/null || true; fi
        milliseconds "$admin" trace --log "$log" "${args[@]}"
    done < <(shuf --random-source="$dir/samples" -n "$count" "$dir/samples") | summary
}
bytes=$(find "$log" -name '*.ndjson' -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n }')
indexes=$(find "$log" -name '*.idx' -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n }')
rate() { awk -v bytes="$bytes" -v ms="$1" 'BEGIN { printf "%d", bytes / 1000 / ms }'; }

report() {
    echo "# Benchmarks: questions to a large log"
    echo
    echo "Written by \`make bench-trace\` (\`tests/bench-trace.sh\`): a log made by the recorder's own writer, every field filled. Cold:"
    echo "nothing of the log in memory. Median, and the most of all questions."
    echo
    echo "- Machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | tr -s ' '), $(nproc) cores, Linux $(uname -r)," \
        "$(df --output=fstype "$dir" | tail -n 1)"
    echo "- Commit: $(git -c safe.directory='*' -C "$checkout" describe --always --dirty 2>/dev/null || echo unknown)," \
        "$(date -u +%Y-%m-%d)"
    echo
    cat "$dir/made"
    echo "log $((bytes / 1000000)) MB, indexes $((indexes / 1000000)) MB, $(nproc) cores"
    echo
    echo "| question | cold, ms | warm, ms | to reach |"
    echo "|---|---|---|---|"
    echo "| \`trace --at T --pid P\` | $(timed cold 15 --at T --pid P) | $(timed warm 15 --at T --pid P) | 50 / 10 |"
    echo "| \`trace --at T\` | $(timed cold 5 --at T) | $(timed warm 5 --at T) | |"
    echo "| \`trace --user U\` | $(timed cold 5 --user U) | $(timed warm 5 --user U) | 2000 / – |"
    echo "| \`trace --job J\` | $(timed cold 5 --job J) | $(timed warm 5 --job J) | |"
    echo
    read -r one all <<<"$("$maker" sha256)"
    drop
    cold=$(milliseconds "$admin" verify "$log")
    warm=$(milliseconds "$admin" verify "$log")
    drop
    # Read as verify reads: one reader for each core.
    readers() { find "$log" -name '*.ndjson' -print0 | xargs -0 -P "$(nproc)" -I{} dd if={} of=/dev/null bs=1M status=none; }
    disk=$(milliseconds readers)
    echo "| speed | MB/s |"
    echo "|---|---|"
    echo "| \`verify\`, cold | $(rate "$cold") |"
    echo "| \`verify\`, warm | $(rate "$warm") |"
    echo "| SHA-256, one core | $one |"
    echo "| SHA-256, all cores | $all |"
    echo "| the disk, read cold by one reader for each core | $(rate "$disk") |"
}

out=$CARGO_TARGET_DIR/bench
mkdir -p "$out"
report >"$out/trace.md"
cat "$out/trace.md"
if [ "$write" = yes ]; then
    cp "$out/trace.md" "$checkout/docs/benchmarks-trace.md"
    say "written: docs/benchmarks-trace.md"
fi
