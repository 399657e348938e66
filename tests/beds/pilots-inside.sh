# shellcheck shell=bash
# The inside of tests/beds/pilots.sh: sourced there, in namespaces and a root directory of their own, as their root. The pilots are
# the ordinary user. Checked: DIRAC's SingularityComputingElement (pilots/dirac_ce.py), the PanDA pilot's container code, its executor,
# its killing and its diagnosis, and its wrapper's own call (pilots/panda_pilot.py), here the pilots' plain command lines.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
beds=/opt/checkout/tests/beds/pilots
image=$BAILEY_TEST_IMAGE
user=$BAILEY_TEST_USER
export BED_IMAGE=$image

# The site's configuration, all of it.
cat >/etc/bailey/conf.d/10-bed.toml <<'TOML'
[audit]
recorder = "off"
dir = "/srv/log"
TOML
cp /opt/checkout/tests/beds/pilots/site.toml /etc/bailey/conf.d/20-pilots.toml
cp /opt/checkout/config/conf.d/wlcg-vos.toml.example /etc/bailey/conf.d/50-wlcg-vos.toml
cat >/etc/bailey/bans.d/bed.toml <<'TOML'
[[ban]]
subject = "banned"
reason = "the bed's"
TOML
chown "$user:" /srv/log

# In the background and waited for, so that this shell stays between process 1 and the pilots.
as_pilot() { # DIRECTORY COMMAND...
    local directory=$1 pid code=0
    shift
    install -d -m 0700 -o "$user" -g "$(id -g "$user")" "$directory"
    (
        cd "$directory" || exit
        exec setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --clear-groups -- \
            env -i PATH=/opt/bailey/usr/bin:/usr/bin:/bin HOME="/home/$user" USER="$user" LOGNAME="$user" BED_IMAGE="$image" \
            PYTHONDONTWRITEBYTECODE=1 "$@"
    ) &
    pid=$!
    wait "$pid" || code=$?
    return "$code"
}
install -d -m 0700 -o "$user" -g "$(id -g "$user")" "/home/$user"

# Where no user namespace can be made: the words that the PanDA pilot knows for it, and none that it takes for another error.
no_user_namespaces() {
    local name="no user namespace: 255, in the PanDA pilot's words" out code=0
    unshare --user sleep 100 &
    local holder=$!
    until [ "$(readlink "/proc/$holder/ns/user")" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.05; done
    echo 0 0 4294967295 >"/proc/$holder/uid_map"
    echo 0 0 4294967295 >"/proc/$holder/gid_map"
    # shellcheck disable=SC2016 # the inner shell's own
    out=$(nsenter --user --target "$holder" sh -c '
        echo 0 >/proc/sys/user/max_user_namespaces || exit 99
        cd /opt/pool
        exec setpriv --reuid "$1" --regid "$1" --clear-groups -- env -i PATH=/opt/bailey/usr/bin:/usr/bin:/bin HOME=/nonexistent \
            apptainer exec "$2" true' sh "$(id -u "$user")" "$image" 2>&1) || code=$?
    kill "$holder"
    wait "$holder" || true
    printf '%s\n' "$out" >/opt/pool/no-user-namespace
    chmod 0644 /opt/pool/no-user-namespace
    case $code:$out in
    *"Operation not permitted"* | *"No space left on device"*) echo "FAIL $name: $out" ;;
    255:*"FATAL:"*"ailed to create user namespace"*) echo "ok $name" ;;
    *) echo "FAIL $name: code $code: $out" ;;
    esac
}
for part in "$@"; do
    code=0
    case $part in
    dirac)
        say "pilots: DIRAC's SingularityComputingElement"
        as_pilot /opt/pool/dirac timeout 300 env LD_LIBRARY_PATH=/opt/diracos/lib /opt/diracos/bin/python "$beds/dirac_ce.py" \
            </dev/null 2>/opt/pool/dirac.err || code=$?
        ;;
    panda)
        say "pilots: the PanDA pilot"
        no_user_namespaces >/dev/null # what it said is for the pilot to diagnose
        as_pilot /opt/pool/panda timeout 400 /usr/bin/python3 "$beds/panda_pilot.py" </dev/null 2>/opt/pool/panda.err || code=$?
        ;;
    lines)
        say "pilots: command lines"
        as_pilot /opt/pool/lines timeout 120 bash "$beds/lines.sh" </dev/null 2>/opt/pool/lines.err || code=$?
        no_user_namespaces
        ;;
    esac
    if [ "$code" -ne 0 ]; then
        echo "FAIL $part: ended with code $code (124 is its time limit)"
        tail -n 20 "/opt/pool/$part.err" /opt/pool/panda/pilot.log >&2 || true
    fi
done
