#!/usr/bin/env bash
# Whole-process times of bailey, bubblewrap, a floor program and a plain exec, side by side in one run, as an ordinary
# user on the same image; and, as root, the memory of one running launch. Prints a Markdown report.
#
#   tests/bench.sh [--rounds N] [--warmup N] [--only LABEL,...] [--write]
#
# --only   some of: plain, floor, bwrap, bailey, append (default: all)
# --write  also writes the report to docs/benchmarks.md (docs/benchmarks-peers.md with BAILEY_PEERS_ROOT)
# In the environment:
# BAILEY=PATH             times that program instead of building this tree's
# BAILEY_PEERS_ROOT=DIR   runs everything inside that root directory (tests/peers.sh makes it, as root), so that its
#                         bubblewrap is the one compared with, and Apptainer joins (label apptainer)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${BAILEY_BENCH_ROUNDS:-300}
warmup=20
peers=${BAILEY_PEERS_ROOT:-}
only=plain,floor,bwrap,bailey,append
if [ -n "$peers" ]; then only=$only,apptainer; fi
write=no
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds N}; shift ;;
    --warmup) warmup=${2:?--warmup N}; shift ;;
    --only) only=${2:?--only LABEL,...}; shift ;;
    --write) write=yes ;;
    *) die "unknown option '$1': see the head of tests/bench.sh" ;;
    esac
    shift
done
wanted() { case ",$only," in *",$1,"*) ;; *) return 1 ;; esac; }

checkout=$(cd "$(dirname "$0")/.." && pwd)
enter_workspace
bash tests/image.sh
image=$BAILEY_TEST_IMAGE
bailey=${BAILEY:-$RELEASE/bailey}
if wanted bailey && [ -z "${BAILEY:-}" ]; then build_release; fi
if [ -n "$peers" ]; then
    is_root || die "BAILEY_PEERS_ROOT needs root"
    [ -x "$peers/usr/bin/apptainer" ] || die "$peers holds no apptainer: run tests/peers.sh"
fi
[ -x /usr/bin/bwrap ] || ! wanted bwrap || die "bwrap is missing: run tests/setup.sh"

out=$CARGO_TARGET_DIR/bench
mkdir -p "$out"

tmp=$(fresh_tmp)
launcher=
end() {
    if [ -n "$launcher" ]; then kill -KILL "$launcher"; fi
    remove_tree "$tmp"
}
trap end EXIT

# The programs move to where the user, also inside the peers' root, can reach them.
mkdir "$tmp/bin" "$tmp/home"
gcc -O2 -Wall -Wextra -static -o "$tmp/bin/floor" tests/bench/floor.c
gcc -O2 -Wall -Wextra -static -o "$tmp/bin/rounds" tests/bench/rounds.c
if wanted bailey; then
    cp "$bailey" "$tmp/bin/bailey"
    bailey=$tmp/bin/bailey
fi
if is_root; then chown -R "$BAILEY_TEST_USER:" "$tmp"; fi
uid=$(as_user id -u)
gid=$(as_user id -g)

# One environment for all: the log of bailey and the file of "append" lie on the same disk.
exec_timed() {
    local environment=(env -i PATH=/usr/bin:/bin HOME="$tmp/home" USER="$BAILEY_TEST_USER" XDG_STATE_HOME="$tmp/state")
    if [ -n "$peers" ]; then
        exec tests/bench/enter.sh "$peers" "$uid:$gid" "$image" "$tmp" -- "${environment[@]}" "$@"
    fi
    exec_as_user "${environment[@]}" "$@"
}
timed() { (exec_timed "$@"); }

# bubblewrap with the namespaces and mounts that bailey makes without any option.
bwrap=(/usr/bin/bwrap --unshare-user --unshare-ipc --unshare-pid --unshare-uts --unshare-cgroup
    --uid "$uid" --gid "$gid" --ro-bind "$image" / --dev /dev --proc /proc
    --tmpfs /tmp --tmpfs /var/tmp --tmpfs /run
    --ro-bind /etc/hosts /etc/hosts --ro-bind /etc/resolv.conf /etc/resolv.conf
    --chdir / --new-session --die-with-parent --clearenv --setenv PATH /usr/bin:/bin --)
bailey_exec=("$bailey" exec --user "/DC=org/DC=example/CN=Bench" --vo bench --image "$image" --)
floor=("$tmp/bin/floor" "$image")
apptainer=(/usr/bin/apptainer --silent exec --userns --contain --ipc --pid --no-home --cleanenv "$image")

# What is timed must really run a payload: a launcher that only exits 0 would win.
proof() {
    local label=$1 code=0
    shift
    timed "$@" /bin/sh -c 'test -d /proc/self && exit 7' </dev/null || code=$?
    [ "$code" -eq 7 ] || die "$label does not run its payload: exit code $code instead of 7 from: $*"
}
commands=()
if wanted plain; then commands+=(---plain "$image/bin/true"); fi
if wanted floor; then
    proof floor "${floor[@]}"
    commands+=(---floor "${floor[@]}" /bin/true)
fi
if wanted bwrap; then
    proof bwrap "${bwrap[@]}"
    commands+=(---bwrap "${bwrap[@]}" /bin/true)
fi
if wanted bailey; then
    proof bailey "${bailey_exec[@]}"
    commands+=(---bailey "${bailey_exec[@]}" /bin/true)
fi
if wanted apptainer; then
    proof apptainer "${apptainer[@]}"
    commands+=(---apptainer "${apptainer[@]}" /bin/true)
fi
if wanted append; then commands+=(---append @append "$tmp/append" 3072); fi

log_lines() {
    if [ -d "$tmp/state" ]; then find "$tmp/state" -name '*.ndjson' -exec cat {} + | wc -l; else echo 0; fi
}
before=$(log_lines)
timed "$tmp/bin/rounds" "$rounds" "$warmup" "${commands[@]}" >"$out/times.tsv"
if wanted bailey; then
    # Two records for each launch, or the time is that of another program.
    records=$(($(log_lines) - before))
    expected=$((2 * (rounds + warmup)))
    [ "$records" -ge "$expected" ] || die "bailey wrote $records records for $expected expected below $tmp/state"
fi

# pss PID: proportional set size in KiB. Only root may read that of an undumpable process.
pss() { awk '/^Pss:/ { print $2 }' "/proc/$1/smaps_rollup"; }

memory() {
    if ! is_root; then
        echo "Memory: left out; only root may read the PSS of an undumpable process. Run \`make bench\` as root."
        return 0
    fi
    local init payload tries=0
    exec_timed "${bailey_exec[@]}" /bin/sleep 30 </dev/null >/dev/null &
    launcher=$!
    # Launcher, init and payload are parent and child; the payload runs when its program is sleep.
    until init=$(awk '{ print $1 }' "/proc/$launcher/task/$launcher/children" 2>/dev/null) && [ -n "$init" ] &&
        payload=$(awk '{ print $1 }' "/proc/$init/task/$init/children" 2>/dev/null) && [ -n "$payload" ] &&
        [ "$(cat "/proc/$payload/comm" 2>/dev/null)" = sleep ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "no payload below launcher $launcher after 5 s"
        sleep 0.05
    done
    # Of a payload that runs for long: launcher and init unmap their own pages when it has run for a tenth of a second.
    sleep 1
    local a b
    a=$(pss "$launcher")
    b=$(pss "$init")
    kill -TERM "$launcher"
    wait "$launcher" || true # 128 + SIGTERM
    launcher=
    echo "Memory of one launch whose payload sleeps, a second after its start (PSS): launcher $a KiB, init $b KiB, together" \
        "$(awk -v k=$((a + b)) 'BEGIN { printf "%.2f MiB", k / 1024 }')."
}

report() {
    local disk
    disk=$(df --output=fstype,source "$tmp" | tail -n 1 | tr -s ' ')
    echo "# Benchmarks"
    echo
    echo "Written by \`make bench\` (\`tests/bench.sh\`). Times from one machine compare programs with each other, not machines."
    echo
    echo "- Machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | tr -s ' '), $(nproc) cores, Linux $(uname -r)"
    echo "- Disk of the log: $disk"
    echo "- Image: Debian $(cat "$image/etc/debian_version"), a root directory"
    if [ -n "$peers" ]; then echo "- All of it inside a Debian sid root directory with the peers (\`tests/peers.sh\`)"; fi
    if wanted bwrap; then echo "- $(timed /usr/bin/bwrap --version)"; fi
    if wanted apptainer; then echo "- $(timed /usr/bin/apptainer --version)"; fi
    echo "- Commit: $(git -c safe.directory='*' -C "$checkout" describe --always --dirty 2>/dev/null || echo unknown)," \
        "$(date -u +%Y-%m-%d)"
    echo "- Rounds: $rounds after $warmup of warm-up; every round runs each command once, in this order"
    echo
    echo "Launch to exit of \`/bin/true\`, milliseconds:"
    echo
    echo "| what | median | p10 | p90 | least | × floor | × bwrap |"
    echo "|---|---|---|---|---|---|---|"
    awk -F '\t' '
        BEGIN {
            name["plain"] = "plain exec, no walls"
            name["floor"] = "floor: namespaces, bind, proc, pivot_root, exec"
            name["bwrap"] = "bubblewrap with the same mounts, no record"
            name["bailey"] = "bailey exec, durable record"
            name["apptainer"] = "Apptainer exec, no record"
            name["append"] = "the disk alone: append 3 KB, fdatasync"
        }
        { label[NR] = $1; for (i = 2; i <= 5; i++) v[NR, i] = $i / 1000; m[$1] = $2 / 1000 }
        function ratio(l, to) {
            return (to in m) && m[to] > 0 && l != "append" ? sprintf("%.2f", m[l] / m[to]) : "–"
        }
        END {
            for (n = 1; n <= NR; n++)
                printf "| %s | %.3f | %.3f | %.3f | %.3f | %s | %s |\n", name[label[n]], v[n, 2], v[n, 3], v[n, 4], \
                    v[n, 5], ratio(label[n], "floor"), ratio(label[n], "bwrap")
        }' "$out/times.tsv"
    echo
    if wanted bailey; then
        memory
        echo
    fi
    echo "Commands:"
    echo
    echo '```'
    if wanted plain; then echo "$image/bin/true"; fi
    if wanted floor; then echo "floor $image /bin/true        # tests/bench/floor.c"; fi
    if wanted bwrap; then echo "bwrap ${bwrap[*]:1} /bin/true"; fi
    if wanted bailey; then echo "bailey ${bailey_exec[*]:1} /bin/true"; fi
    if wanted apptainer; then echo "apptainer ${apptainer[*]:1} /bin/true"; fi
    echo '```'
}

report >"$out/report.md"
cat "$out/report.md"
if [ "$write" = yes ]; then
    doc=docs/benchmarks${peers:+-peers}.md
    mkdir -p "$checkout/docs"
    cp "$out/report.md" "$checkout/$doc"
    say "written: $doc"
fi
