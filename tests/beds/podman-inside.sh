# shellcheck shell=bash
# What tests/beds/podman.sh runs inside the container, as an ordinary user.
#
#   podman-inside.sh tests MODE OUT                        what OUT/programs.txt and OUT/only.txt name and OUT/skip.txt does not:
#                                                          one line for each test into OUT/MODE/results.txt
#   podman-inside.sh launch MODE OPTION... -- COMMAND...   one launch that the recorder outside records
#
# Each test is a process of its own, which the launcher's tests need. BAILEY_PROGRAM is the launcher.
set -Eeuo pipefail

what=$1 mode=$2
shift 2
own='proc = "preferred"'

if [ "$what" = launch ]; then
    printf '[audit]\nrecorder = "required"\n[sandbox]\n%s\npid_namespace = "preferred"\n' "$own" >/tmp/bailey.toml
    BAILEY_CONFIG=/tmp/bailey.toml exec "$BAILEY_PROGRAM" exec "$@"
fi

out=$1
results=$out/$mode/results.txt
export BAILEY_SKIP_DIR=$out/$mode/skipped
[ "$(id -u)" -ne 0 ] || { echo "FAIL container: the user is root inside" >>"$results"; exit 1; }

# ok NAME COMMAND...: a check of this script's own.
ok() {
    local name=$1
    shift
    if "$@" >"$out/$mode/said.txt" 2>&1; then
        echo "ok container::$name"
    else
        echo "FAIL container::$name: $(tr '\n' ' ' <"$out/$mode/said.txt")"
    fi >>"$results"
}
launch() {
    HOME=/tmp BAILEY_CONFIG=$config "$BAILEY_PROGRAM" "$@"
}
says() {
    local want=$1
    shift
    local said
    said=$("$@" 2>&1) || true
    printf '%s\n' "$said"
    grep -q -- "$want" <<<"$said"
}
# What the site does not say is demanded: one sentence that names the cause and the cure.
refuses() {
    local said code=0
    said=$(launch exec -- /bin/echo ran 2>&1) || code=$?
    printf '%s\n' "$said"
    [ "$code" -eq 125 ] && [ "$(wc -l <<<"$said")" -eq 1 ] && [[ $said == *EPERM*unmask*sandbox.proc* ]]
}
runs() { [ "$(launch exec "$@" -- /bin/echo ran)" = ran ]; }
alone() { ! launch exec -- /bin/sh -c 'unshare -U true' 2>/dev/null; }
config=/tmp/required.toml
: >"$config"
if [ "$mode" = masked ]; then
    ok "what is required and masked is refused in one sentence" refuses
    ok "check names what is missing" says '^private_dev\|^proc .*required *off' launch check
    config=/tmp/preferred.toml
    printf '[sandbox]\n%s\npid_namespace = "preferred"\n' "$own" >"$config"
    ok "check says what is weaker" says '^proc .*preferred *off .*EPERM.*outer /proc' launch check
    ok "check says what forbids namespaces" says '^nested_namespaces_forbidden .* on .*by its root directory.*EROFS' launch check
    # Tests have configurations of their own: each gets the line as well.
    export BAILEY_TEST_SANDBOX=$own BAILEY_TEST_SITE=$out/$mode/site.toml
    printf '[sandbox]\n%s\n' "$own" >"$BAILEY_TEST_SITE"
else
    ok "the defaults hold" runs
    ok "check has a proc of its own" says '^proc .*required *on' launch check
    printf '[sandbox]\npid_namespace = "preferred"\n' >"$config"
fi
ok "a payload runs" runs
ok "a payload runs without a pid namespace" runs --no-pid
ok "a payload makes no user namespace" alone
ok "the pid namespace is said to be on" says '^pid_namespace .* on' launch check

# one PROGRAM-NAME PROGRAM TEST
one() {
    local name=$1::$3 said code=0 start=$SECONDS reason
    reason=$(awk -v mode="$mode" -v name="$name" -v all="$1::*" '
        !/^#/ && ($1 == mode || $1 == "both") && ($2 == name || $2 == all) { sub(/^[^ ]+ +[^ ]+ +/, ""); print; exit }' "$out/skip.txt")
    if [ -n "$reason" ]; then
        echo "skipped $name: $reason"
        return 0
    fi
    # A libtest that was asked for one test by its whole name.
    said=$(timeout -k 5 600 "$2" --exact "$3" --nocapture --test-threads 1 2>&1 </dev/null) || code=$?
    if [ "$code" -ne 0 ]; then
        printf '%s\n' "$said" >"$out/$mode/fail-${name//[^a-zA-Z0-9_]/-}.txt"
        echo "FAIL $name ($((SECONDS - start)) s): $(grep -m 1 -A 2 'panicked at' <<<"$said" | tr '\n' ' ' | cut -c1-300)"
    elif [ -e "$BAILEY_SKIP_DIR/$3" ]; then
        echo "skipped $name: by itself: $(head -n 1 "$BAILEY_SKIP_DIR/$3")"
    else
        echo "ok $name"
    fi
}
export -f one
export mode out

while read -r name program; do
    if [ -s "$out/only.txt" ] && ! grep -q "^$name::" "$out/only.txt"; then continue; fi
    "$program" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | while read -r test; do
        if [ -s "$out/only.txt" ] && ! grep -qx "$name::$test" "$out/only.txt"; then continue; fi
        # Those that use up the machine's pids have it to themselves.
        list=todo
        [[ ! $test =~ storm|bomb ]] || list=alone
        printf '%s\0%s\0%s\0' "$name" "$program" "$test" >>"$out/$mode/$list"
    done
done <"$out/programs.txt"
# The order in which they end; each writes one line.
touch "$out/$mode/todo" "$out/$mode/alone"
xargs -r -0 -n 3 -P "$(nproc)" bash -c 'one "$@"' bash <"$out/$mode/todo" >>"$results"
xargs -r -0 -n 3 bash -c 'one "$@"' bash <"$out/$mode/alone" >>"$results"
! grep '^FAIL' "$results"
