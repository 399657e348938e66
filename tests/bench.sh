#!/usr/bin/env bash
# Whole-process times of bailey, bubblewrap, a floor program and a plain exec, side by side in one run, as an ordinary
# user on the same image; and, as root, the memory of one running launch. Prints a Markdown report.
#
#   tests/bench.sh [--rounds N] [--warmup N] [--only LABEL,...] [--write]
#
# --only   some of: plain, floor, bwrap, bailey, recorder, policy, cgroup, append, service, native, parallel, teardown (default:
#          all); with BAILEY_PEERS_ROOT also apptainer, named
# --write  also writes the report to docs/benchmarks.md (docs/benchmarks-peers.md with BAILEY_PEERS_ROOT)
# In the environment:
# BAILEY=PATH             times that program instead of building this tree's
# BAILEY_PEERS_ROOT=DIR   runs everything inside that root directory (tests/peers.sh makes it, as root), so that its
#                         bubblewrap is the one compared with, and Apptainer joins (label apptainer), beside bailey
#                         called by that name with the same words (label named)
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${BAILEY_BENCH_ROUNDS:-300}
warmup=20
peers=${BAILEY_PEERS_ROOT:-}
only=plain,floor,bwrap,bailey,recorder,policy,cgroup,append,service,native,parallel,teardown
if [ -n "$peers" ]; then only=plain,floor,bwrap,bailey,append,apptainer,named; fi
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
ours() { wanted bailey || wanted native || wanted parallel || wanted teardown || wanted named; }
if ours && [ -z "${BAILEY:-}" ]; then build_release; fi
# The same programs with the test hook: it lets them have a configuration, and so a recorder, of their own.
hooked() { wanted recorder || wanted service || wanted policy || wanted cgroup; }
if hooked; then
    cargo build --release --locked --features test-hooks --target-dir "$CARGO_TARGET_DIR/hooks" --bin bailey --bin bailey-recorder
fi
if [ -n "$peers" ]; then
    is_root || die "BAILEY_PEERS_ROOT needs root"
    [ -x "$peers/usr/bin/apptainer" ] || die "$peers holds no apptainer: run tests/peers.sh"
fi
[ -x /usr/bin/bwrap ] || ! (wanted bwrap || wanted parallel || wanted teardown) || die "bwrap is missing: run tests/setup.sh"

out=$CARGO_TARGET_DIR/bench
mkdir -p "$out"

tmp=$(fresh_tmp)
launcher=
recorder=
groups=()
end() {
    if [ -n "$recorder" ]; then
        kill -TERM "$recorder" || true
        wait "$recorder" || true
    fi
    if [ -n "$launcher" ]; then kill -KILL "$launcher"; fi
    for group in "${groups[@]}"; do rmdir "$group" || true; done
    remove_tree "$tmp"
}
trap end EXIT

# The programs move to where the user, also inside the peers' root, can reach them.
mkdir "$tmp/bin" "$tmp/home"
gcc -O2 -Wall -Wextra -static -o "$tmp/bin/floor" tests/bench/floor.c
gcc -O2 -Wall -Wextra -static -o "$tmp/bin/rounds" tests/bench/rounds.c
if wanted native; then
    mkdir "$tmp/native"
    cp tests/bench/native.c "$tmp/native/"
    gcc -O2 -Wall -Wextra -o "$tmp/native/native" tests/bench/native.c
fi
if ours; then
    cp "$bailey" "$tmp/bin/bailey"
    ln -s bailey "$tmp/bin/apptainer"
    bailey=$tmp/bin/bailey
fi
if hooked; then
    cp "$CARGO_TARGET_DIR/hooks/$TRIPLE/release/bailey" "$tmp/bin/bailey-hooked"
    cp "$CARGO_TARGET_DIR/hooks/$TRIPLE/release/bailey-recorder" "$tmp/bin/"
    gcc -O2 -Wall -Wextra -o "$tmp/bin/recorder_load" tests/tools/recorder_load.c
    mkdir "$tmp/recorder"
    cat >"$tmp/recorder/bailey.toml" <<EOF
[audit]
recorder = "required"
socket = "$tmp/recorder/run/recorder.sock"
[recorder]
dir = "$tmp/recorder/log"
state = "$tmp/recorder/state"
# No account's limit stands in the way of the load.
live_per_uid = "100000"
launches_per_second = "100000"
bytes_per_day = "1T"
# The load's client has no configuration.
foreign_config = "record"
EOF
fi
# A node without a recorder that has control groups v1 for the pilot's account, as docs/cgroups.md has it.
if wanted cgroup; then
    if is_root && [ -e /sys/fs/cgroup/memory/cgroup.procs ]; then
        for controller in memory pids cpu cpuacct; do
            group=/sys/fs/cgroup/$controller/bench-$$
            if ! [ -e "/sys/fs/cgroup/$controller/cgroup.procs" ] || ! mkdir "$group"; then continue; fi
            chown "$BAILEY_TEST_USER" "$group" "$group/cgroup.procs"
            groups+=("$group")
        done
        mkdir "$tmp/grouped" "$tmp/ungrouped"
        printf '[audit]\nrecorder = "off"\n[cgroup]\nmode = "required"\nparent = "/bench-%s"\n' $$ >"$tmp/grouped/bailey.toml"
        printf '[audit]\nrecorder = "off"\n[cgroup]\nmode = "off"\n' >"$tmp/ungrouped/bailey.toml"
    else
        say "control groups: left out; only root can give v1 directories to an account, where there are such"
        only=${only//cgroup/}
    fi
fi
# Two nodes without a recorder: one that nobody configured, and one with a policy of some size.
if wanted policy; then
    mkdir "$tmp/free" "$tmp/policed"
    printf '[audit]\nrecorder = "off"\n' >"$tmp/free/bailey.toml"
    python3 tests/bench/policy.py "$tmp/policed" 10000 1000 1000
fi
if is_root; then chown -R "$BAILEY_TEST_USER:" "$tmp"; fi
uid=$(as_user id -u)
gid=$(as_user id -g)

# One environment for all: the log of bailey and the file of "append" lie on the same disk.
exec_timed() {
    local environment=(env -i PATH=/usr/bin:/bin HOME="$tmp/home" USER="$BAILEY_TEST_USER" XDG_STATE_HOME="$tmp/state"
        BAILEY_CONFIG="$tmp/recorder/bailey.toml") # which the release programs do not look at
    if [ -n "$peers" ]; then
        exec tests/bench/enter.sh "$peers" "$uid:$gid" "$image" "$tmp" -- "${environment[@]}" "$@"
    fi
    exec_as_user "${environment[@]}" "$@"
}
timed() { (exec_timed "$@"); }

if hooked; then
    exec_timed "$tmp/bin/bailey-recorder" &
    recorder=$!
    tries=0
    until [ -S "$tmp/recorder/run/recorder.sock" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "the recorder does not listen after 5 s"
        sleep 0.05
    done
fi

# bubblewrap with the namespaces and mounts that bailey makes without any option.
bwrap=(/usr/bin/bwrap --unshare-user --unshare-ipc --unshare-pid --unshare-uts --unshare-cgroup
    --uid "$uid" --gid "$gid" --ro-bind "$image" / --dev /dev --proc /proc
    --tmpfs /tmp --tmpfs /var/tmp --tmpfs /run
    --ro-bind /etc/hosts /etc/hosts --ro-bind /etc/resolv.conf /etc/resolv.conf
    --chdir / --new-session --die-with-parent --clearenv --setenv PATH /usr/bin:/bin --)
bailey_exec=("$bailey" exec --user "/DC=org/DC=example/CN=Bench" --vo bench --image "$image" --)
recorder_exec=("$tmp/bin/bailey-hooked" "${bailey_exec[@]:1}")
floor=("$tmp/bin/floor" "$image")
# The same words for both.
called=(exec --userns --contain --ipc --pid --cleanenv "$image")
apptainer=(/usr/bin/apptainer "${called[@]}")
named=("$tmp/bin/apptainer" "${called[@]}")

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
if wanted recorder; then
    proof recorder "${recorder_exec[@]}"
    commands+=(---recorder "${recorder_exec[@]}" /bin/true)
fi
if wanted policy; then
    free_exec=(/usr/bin/env "BAILEY_CONFIG=$tmp/free/bailey.toml" "${recorder_exec[@]}")
    policed_exec=(/usr/bin/env "BAILEY_CONFIG=$tmp/policed/bailey.toml" "${recorder_exec[@]}")
    proof unpoliced "${free_exec[@]}"
    # The first launch after a change reads the lists; those that follow read what it left them.
    first=$(timed "$tmp/bin/rounds" 1 0 ---first "${policed_exec[@]}" /bin/true | cut -f 2)
    proof policed "${policed_exec[@]}"
    refused=0
    timed /usr/bin/env "BAILEY_CONFIG=$tmp/policed/bailey.toml" "$tmp/bin/bailey-hooked" exec \
        --user "/DC=org/DC=example/CN=Banned 77" --image "$image" -- /bin/true 2>/dev/null || refused=$?
    [ "$refused" -eq 120 ] || die "a banned user is not refused: exit code $refused"
    sleep 4 # until the lists are no longer young: a young one is known by its content
    timed "${policed_exec[@]}" /bin/true
    commands+=(---unpoliced "${free_exec[@]}" /bin/true ---policed "${policed_exec[@]}" /bin/true)
fi
if wanted cgroup; then
    limits=(--memory 2G --pids 500 --cpus 2)
    hooked_exec=("$tmp/bin/bailey-hooked" exec --user "/DC=org/DC=example/CN=Bench" --vo bench --image "$image")
    grouped_exec=(/usr/bin/env "BAILEY_CONFIG=$tmp/grouped/bailey.toml" "${hooked_exec[@]}" "${limits[@]}" --)
    ungrouped_exec=(/usr/bin/env "BAILEY_CONFIG=$tmp/ungrouped/bailey.toml" "${hooked_exec[@]}" --)
    proof grouped "${grouped_exec[@]}"
    proof ungrouped "${ungrouped_exec[@]}"
    commands+=(---ungrouped "${ungrouped_exec[@]}" /bin/true ---grouped "${grouped_exec[@]}" /bin/true)
fi
if wanted apptainer; then
    proof apptainer "${apptainer[@]}"
    commands+=(---apptainer "${apptainer[@]}" /bin/true)
fi
if wanted named; then
    proof named "${named[@]}"
    commands+=(---named "${named[@]}" /bin/true)
fi
if wanted append; then commands+=(---append @append "$tmp/append" 3072); fi

log_lines() {
    if [ -d "$tmp/state" ]; then find "$tmp/state" -name '*.ndjson' -exec cat {} + | wc -l; else echo 0; fi
}
before=$(log_lines)
timed "$tmp/bin/rounds" "$rounds" "$warmup" "${commands[@]}" >"$out/times.tsv"

# 64 at one time.
if wanted parallel; then
    timed "$tmp/bin/rounds" $((rounds < 30 ? rounds : 30)) 3 ---bwrap @parallel 64 "${bwrap[@]}" /bin/true \
        ---bailey @parallel 64 "${bailey_exec[@]}" /bin/true >"$out/parallel.tsv"
fi

# The same work outside and inside, by two processes that live through all rounds.
if wanted native; then
    native=("$tmp/native/native" work "$tmp/native")
    timed "$tmp/native/native" compare $((rounds < 100 ? rounds : 100)) "---${native[0]}" "${native[@]:1}" \
        "---$bailey" exec --user "/DC=org/DC=example/CN=Bench" --workdir "$tmp/native" -- "${native[@]}" >"$out/native.tsv"
fi
if wanted bailey; then
    # Two records for each launch, or the time is that of another program.
    records=$(($(log_lines) - before))
    expected=$((2 * (rounds + warmup)))
    if wanted named; then expected=$((2 * expected)); fi
    [ "$records" -ge "$expected" ] || die "bailey wrote $records records for $expected expected below $tmp/state"
fi

# One line of recorder_load: launches N seconds S rate R p50_us A p95_us B max_us C refused D
load() { timed "$tmp/bin/recorder_load" --socket "$tmp/recorder/run/recorder.sock" --template "$tmp/recorder/template" "$@"; }
field() { tr ' ' '\n' <<<"$1" | grep -A 1 -x "$2" | tail -n 1; }

ticks() { awk '{ print $14 + $15 }' "/proc/$recorder/stat"; } # hundredths of a second

busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; } # all processors, hundredths of a second

# What the recorder does under load, with a client that shares no code with it.
service() {
    local log=$tmp/recorder/log one many cpu all held live disk rss tries=0
    # The template is a real launch record without what differs in each launch.
    grep -h -m 1 '"payload-launch"' "$log"/*.001.ndjson | python3 -c '
import json, sys
record = json.loads(sys.stdin.readline())
identity = record["event"]["id"]
for parent, names in ((record, ["@timestamp", "chain", "host"]), (record["container"], ["id"]),
        (record["process"], ["pid", "vpid", "start", "entity_id", "parent", "real_user", "real_group", "user"]),
        (record["grid"], ["namespaces", "start_ticks", "observed", "cgroup", "launcher"]),
        (record["grid"]["sandbox"], ["seccomp"])):  # the client makes payloads without a filter
    for name in names:
        parent.pop(name, None)
print(json.dumps(record).replace(json.dumps(identity), json.dumps("@ID@"), 1))' >"$tmp/recorder/template"
    disk=$(timed "$tmp/bin/rounds" 500 20 ---append @append "$tmp/append" 3072 | cut -f 2)
    one=$(load --clients 1 --launches 1000)
    cpu=$(ticks)
    all=$(busy)
    many=$(load --clients 64 --seconds 10)
    all=$(($(busy) - all))
    cpu=$(($(ticks) - cpu))
    # A thousand live payloads, held by as many clients.
    mkfifo "$tmp/hold"
    held=$tmp/held
    (load --clients 1000 --hold --retry 30 <"$tmp/hold" >"$held" 2>/dev/null) &
    live=$!
    exec 9>"$tmp/hold"
    until [ "$(grep -c held "$held" 2>/dev/null)" -ge 1000 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || die "only $(grep -c held "$held") payloads are live after a minute"
        sleep 0.1
    done
    rss=$(awk '/^VmRSS:/ { print $2 }' "/proc/$recorder/status")
    exec 9>&-
    wait "$live" || true
    echo "The recorder alone, asked by a client that shares no code with it (\`tests/tools/recorder_load.c\`):"
    echo
    echo "| what | value |"
    echo "|---|---|"
    echo "| the disk alone: append 3 KB, fdatasync, median | $(awk -v n="$disk" 'BEGIN { printf "%.3f ms", n / 1000 }') |"
    echo "| receipt, one client, median | $(awk -v n="$(field "$one" p50_us)" 'BEGIN { printf "%.3f ms", n / 1000 }') |"
    echo "| durable launches a second, 64 clients, each with its end record | $(field "$many" rate) |"
    echo "| processor time of the recorder for each of these | $(awk -v t="$cpu" -v n="$(field "$many" launches)" \
        'BEGIN { printf "%.3f ms", t * 10 / n }') |"
    # The clients and everything else that ran: making a payload and its end cost more than asking for it.
    echo "| processor time of the clients and of the kernel for each | $(awk -v t="$((all - cpu))" -v n="$(field "$many" launches)" \
        'BEGIN { printf "%.3f ms", t * 10 / n }') |"
    echo "| so these $(nproc) cores, which the clients share, can do a second at most |" \
        "$(awk -v c="$(nproc)" -v t="$all" -v n="$(field "$many" launches)" 'BEGIN { printf "%d", c * n * 100 / t }') |"
    echo "| and one core of the recorder's own |" \
        "$(awk -v t="$cpu" -v n="$(field "$many" launches)" 'BEGIN { printf "%d", n * 100 / t }') |"
    echo "| memory with 1 000 live payloads (RSS) | $(awk -v k="$rss" 'BEGIN { printf "%.1f MiB", k / 1024 }') |"
    echo
}

# pss PID: proportional set size in KiB. Only root may read that of an undumpable process.
pss() { awk '/^Pss:/ { print $2 }' "/proc/$1/smaps_rollup"; }

# descendants PID: itself and all below it.
descendants() {
    local child children
    printf '%s\n' "$1"
    children=$(cat "/proc/$1/task/"*/children 2>/dev/null || true)
    for child in $children; do descendants "$child"; done
}
# runtime_pss COMMAND...: what a launcher keeps beside a payload that sleeps, a second after its start: PSS in KiB, in $kept.
runtime_pss() {
    local pid payload='' tries=0 mark=30.$RANDOM
    exec_timed "$@" /bin/sleep "$mark" </dev/null >/dev/null &
    launcher=$!
    while [ -z "$payload" ]; do
        for pid in $(descendants "$launcher"); do
            if [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" = "/bin/sleep $mark " ]; then payload=$pid; fi
        done
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "no payload below launcher $launcher after 5 s: $*"
        sleep 0.05
    done
    sleep 1
    kept=0
    for pid in $(descendants "$launcher"); do
        if [ "$pid" != "$payload" ]; then kept=$((kept + $(pss "$pid"))); fi
    done
    kill -TERM "$launcher"
    wait "$launcher" || true # 128 + SIGTERM
    launcher=
}

# teardown COMMAND...: from the end of a payload that has a thousand processes to the end of its launcher: the median of five, in ms.
teardown() {
    local turn ended
    for turn in 1 2 3 4 5; do
        # shellcheck disable=SC2016 # the payload's own
        ended=$(timed "$@" /bin/sh -c 'n=0; while [ $n -lt 1000 ]; do sleep 600 & n=$((n + 1)); done; date +%s%N')
        echo "$turn $(($(date +%s%N) - ended))"
    done | sort -n -k 2 | awk 'NR == 3 { printf "%.0f", $2 / 1e6 }'
}

# bailey as apptainer beside Apptainer, with the same words.
by_name() {
    awk -F '\t' '{ m[$1] = $2 } END { printf "Called with the same words, bailey as apptainer with its durable record takes %.3f ms, Apptainer %.3f ms: 1/%.1f of the time (limit 1/20).\n",
        m["named"] / 1000, m["apptainer"] / 1000, m["apptainer"] / m["named"] }' "$out/times.tsv"
    if ! is_root; then return 0; fi
    local ours
    runtime_pss "${named[@]}"
    ours=$kept
    runtime_pss "${apptainer[@]}"
    awk -v a="$kept" -v b="$ours" 'BEGIN { printf "Memory beside a payload that sleeps (PSS): bailey %d KiB, Apptainer %d KiB: 1/%.1f (limit 1/15).\n", b, a, a / b }'
}

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
            name["recorder"] = "bailey exec, durable record by the node recorder"
            name["unpoliced"] = "bailey exec with a configuration of its own"
            name["policed"] = "the same with 10 000 bans, 1 000 persons, 1 000 rules"
            name["ungrouped"] = "bailey exec, no control group"
            name["grouped"] = "the same in control groups (v1) with three limits"
            name["apptainer"] = "Apptainer exec, no record"
            name["named"] = "bailey called as apptainer, the same words, durable record"
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
    if wanted policy; then
        echo "Policy of that size: $(awk -F '\t' '{ m[$1] = $2 } END { printf "%+.3f ms", (m["policed"] - m["unpoliced"]) / 1000 }' \
            "$out/times.tsv") a launch (limit 0.2 ms); the first launch after a change, which reads it all:" \
            "$(awk -v n="$first" 'BEGIN { printf "%.0f ms", n / 1000 }')."
        echo
    fi
    if wanted cgroup; then
        echo "Control groups with limits: $(awk -F '\t' '{ m[$1] = $2 } END { printf "%+.3f ms", (m["grouped"] - m["ungrouped"]) / 1000 }' \
            "$out/times.tsv") a launch (limit 0.4 ms)."
        echo
    fi
    if wanted parallel; then
        echo "64 launches at one time, from the first start to the last end, median: $(awk -F '\t' '{ m[$1] = $2 }
            END { printf "bailey %.1f ms, bubblewrap %.1f ms: %.2f (limit 1.0)", m["bailey"] / 1000, m["bwrap"] / 1000, m["bailey"] / m["bwrap"] }' \
            "$out/parallel.tsv")."
        echo
    fi
    if wanted teardown; then
        echo "The end of a payload with 1 000 processes, from its own end to its launcher's: bailey $(teardown "${bailey_exec[@]}") ms (limit 500)," \
            "bubblewrap $(teardown "${bwrap[@]}") ms."
        echo
    fi
    if wanted bailey; then
        memory
        echo
    fi
    if wanted named && wanted apptainer; then
        by_name
        echo
    fi
    if wanted native; then
        echo "A payload at work, the default profile, on the host's system; pairs of the same work outside and inside (limit 1.03; getppid is"
        echo "a bare system call, for comparison):"
        echo
        echo "| work | outside, ms | inside, ms | inside / outside, median of the pairs |"
        echo "|---|---|---|---|"
        awk -F '\t' '{ printf "| %s | %.3f | %.3f | %.3f |\n", $1, $2 / 1000, $3 / 1000, $4 }' "$out/native.tsv"
        echo
    fi
    if wanted service; then service; fi
    echo "Commands:"
    echo
    echo '```'
    if wanted plain; then echo "$image/bin/true"; fi
    if wanted floor; then echo "floor $image /bin/true        # tests/bench/floor.c"; fi
    if wanted bwrap; then echo "bwrap ${bwrap[*]:1} /bin/true"; fi
    if wanted bailey; then echo "bailey ${bailey_exec[*]:1} /bin/true"; fi
    if wanted recorder; then echo "bailey ${recorder_exec[*]:1} /bin/true        # with the test hook, for its configuration"; fi
    if wanted apptainer; then echo "apptainer ${apptainer[*]:1} /bin/true"; fi
    if wanted named; then echo "apptainer ${named[*]:1} /bin/true        # bailey by that name"; fi
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
