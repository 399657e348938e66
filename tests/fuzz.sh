#!/usr/bin/env bash
# The fuzz targets (fuzz/, src/fuzzing/), with coverage.
#
#   tests/fuzz.sh [SECONDS [TARGET...]]   each so long (default 60), with cargo-fuzz and AddressSanitizer: long runs
#   tests/fuzz.sh --short [SECONDS]       all of them in one go (default 5), as continuous integration does it: libFuzzer and
#                                         coverage from the compiler that builds everything else, so no nightly one and no
#                                         cargo-fuzz. Without AddressSanitizer: the parsers have no unsafe code.
#
# Without what it needs it says so and ends with 77. Corpora grow in target/fuzz/corpus/, findings are in
# target/fuzz/artifacts/; fuzz/seeds/ is where everything begins.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

mode=long
if [ "${1:-}" = --short ]; then
    mode=short
    shift
fi
seconds=${1:-$([ "$mode" = short ] && echo 5 || echo 60)}
shift $(($# > 0))
if [ "$mode" = short ]; then enter_workspace; else cd "$(dirname "$0")/.."; fi
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
lacking() {
    echo "fuzz: skipped: $*" >&2
    exit 77
}
here=$PWD/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# fuzz TARGET COMMAND...: its corpus and its findings are its own. What it found is an error.
fuzz() {
    local target=$1 log=$here/log/$1 code=0
    shift
    mkdir -p "$here"/{corpus,artifacts,log}/"$target"
    "$@" "$here/corpus/$target" "fuzz/seeds/$target" -artifact_prefix="$here/artifacts/$target/" -max_total_time="$seconds" \
        -max_len=135000 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log/log" 2>&1 || code=$?
    awk -v target="$target" '/stat::number_of_executed_units/ { runs = $2 } /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
        END { printf "fuzz: %-10s %10d runs, coverage %d\n", target, runs, cov }' "$log/log"
    [ "$code" -eq 0 ] && return 0
    echo "fuzz: $target found something (target/fuzz/artifacts/$target):" >&2
    grep -aE "panicked at|ERROR|SUMMARY|Test unit|^error" -A 2 "$log/log" | cut -c1-300 | tail -n 20 >&2
    return 1
}

if [ "$mode" = long ]; then
    cargo +nightly fuzz --version >/dev/null 2>&1 || lacking "no nightly toolchain with cargo-fuzz:" \
        "rustup toolchain install nightly --profile minimal; cargo install --locked cargo-fuzz; or tests/fuzz.sh --short"
    for target in "${targets[@]}"; do
        cargo +nightly fuzz build --target-dir "$here/build" "$target"
        fuzz "$target" "$here/build/$host/release/$target"
    done
    exit 0
fi

have c++ || have g++ || lacking "no C++ compiler, which libFuzzer needs: apt-get install g++"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz-short
# What cargo-fuzz gives the compiler, but for the sanitizer. The configuration's own flags (a static program) are not meant here.
flags=(--cfg fuzzing -Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do flags+=("-Cllvm-args=-sanitizer-coverage-$option"); done
# A short run spends its time better on inputs than on the optimiser.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0
begin=$SECONDS
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host"
echo "fuzz: built in $((SECONDS - begin)) s"
# As many side by side as there are processors.
pids=()
failed=0
for target in "${targets[@]}"; do
    fuzz "$target" "$CARGO_TARGET_DIR/$host/release/$target" &
    pids+=($!)
    if [ "${#pids[@]}" -ge "$(nproc)" ]; then
        wait "${pids[0]}" || failed=$((failed + 1))
        pids=("${pids[@]:1}")
    fi
done
for pid in "${pids[@]}"; do wait "$pid" || failed=$((failed + 1)); done
echo "fuzz: ${#targets[@]} targets, $seconds s each, $failed with findings, $((SECONDS - begin)) s in all"
exit $((failed > 0))
