#!/usr/bin/env bash
# Shows bailey at work: builds it, runs a small payload in the image as an ordinary user, then shows the two records
# that the launch left in the log, and checks the log's chain.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

enter_workspace
bash tests/image.sh
bailey=${BAILEY:-$RELEASE/bailey}
if [ -z "${BAILEY:-}" ]; then build_release; fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Runs inside the image, which has no ps: /proc itself is the list. The shell's own expressions, hence single quotes.
# shellcheck disable=SC2016
payload='
echo "launch  $BAILEY_ID"
echo "who     $(id)"
echo "where   $(pwd) on $(. /etc/os-release; echo "$PRETTY_NAME")"
echo "processes:"
for p in /proc/[0-9]*; do read -r name <$p/comm && echo "        ${p#/proc/} $name"; done
echo "mounts:"
while read -r _ at type options _; do echo "        $at $type ${options%%,*}"; done </proc/mounts
echo "rights: $(grep -E "^(CapEff|NoNewPrivs|Seccomp):" /proc/self/status | tr "\n\t" "  ")"
'

say "== the payload's output (exit code below)"
code=0
as_user "$bailey" exec --user "/DC=org/DC=example/CN=Jane Doe" --vo example --image "$BAILEY_TEST_IMAGE" -- \
    /bin/sh -c "$payload" </dev/null | tee "$output" || code=$?
say "== exit code $code"
[ "$code" -eq 0 ] || exit "$code"

id=$(sed -n 's/^launch  //p' "$output")
[ -n "$id" ] || die "the payload was not told its launch id (BAILEY_ID)"
say "== its records: bailey trace --id $id"
as_user "$bailey" trace --id "$id"
say "== the same as they stand in the log: bailey trace --id $id --json"
as_user "$bailey" trace --id "$id" --json
say "== bailey verify"
as_user "$bailey" verify
