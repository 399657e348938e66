#!/usr/bin/env bash
# Apptainer itself as the reference: each case of tests/beds/apptainer-cases.txt runs with Apptainer and with bailey called as
# apptainer or singularity, in the peers' root directory (tests/peers.sh makes it), as one ordinary user. Exit code, standard
# output, working directory, HOME, environment, mounts, namespaces, what is left behind are compared, and each difference must
# stand in the list with a reason of docs/apptainer-differences.md. Prints same, different, refused. Then what pilots call runs once
# more under bailey's own defaults. As root.
#
#   tests/beds/apptainer-reference.sh [--reference-only] [--show] [CASE...]
#
#   --reference-only   Apptainer alone, with everything that it did
#   --show             every fact of both
#   CASE               only these; shell patterns
#
# BAILEY=PATH          compares that program instead of building this tree's
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

is_root || die "the peers' root directory is entered with a mount namespace of root: run as root"
reference_only=no arguments=()
for word; do
    [ "$word" != --reference-only ] || reference_only=yes
    arguments+=("$word")
done
have python3 || die "python3 is missing: run tests/setup.sh"
enter_workspace
bash tests/image.sh
peers=$(bash tests/peers.sh)
if [ "$reference_only" = no ] && [ -z "${BAILEY:-}" ]; then
    cargo build --quiet --locked --bin bailey
    BAILEY=$CARGO_TARGET_DIR/$TRIPLE/debug/bailey
fi

tmp=$(mktemp -d "$BAILEY_TEST_DIR/tmp.XXXXXXXX")
chmod 0755 "$tmp"
# shellcheck disable=SC2317 # by the trap
end() {
    local place
    remove_tree "$tmp"
    # Mount points of the bed's in the root directory that others measure in: what is there, bailey shows to payloads.
    for place in cvmfs images opt/bed etc/bailey var/log/bed; do
        if [ -d "$peers/$place" ]; then rmdir --ignore-fail-on-non-empty "$peers/$place"; fi
    done
}
trap end EXIT
mkdir "$tmp/images" "$tmp/programs" "$tmp/log" "$tmp/cvmfs" "$tmp/cvmfs/grid.example.org" "$tmp/etc"
printf '127.0.0.1 localhost host-of-the-bed\n' >"$tmp/hosts"
cp "$peers/usr/share/zoneinfo/Pacific/Auckland" "$tmp/localtime"
echo setup >"$tmp/cvmfs/grid.example.org/file"
if [ "$reference_only" = no ]; then
    objcopy --strip-debug "$BAILEY" "$tmp/programs/apptainer"
    ln -s apptainer "$tmp/programs/singularity"
fi
# The site's configuration under which the differences are as listed: as loose as Apptainer where that can be had.
cp tests/beds/apptainer-reference.toml "$tmp/etc/bailey.toml"

# The images: a plain directory; one static program and nothing else; that with mount points; what Apptainer itself builds,
# with environment, runscript and test; that without a shell.
images=$tmp/images
gcc -O2 -Wall -Wextra -Werror -static -o "$tmp/facts" tests/tools/facts.c
cp -al "$BAILEY_TEST_IMAGE" "$images/plain"
cp "$tmp/facts" "$images/plain/usr/bin/facts"
install -D -m 0755 "$tmp/facts" "$images/bare/facts"
mkdir -p "$images/points/"{dev,proc,sys,tmp,var/tmp,etc,home}
install -m 0755 "$tmp/facts" "$images/points/facts"
cat >"$tmp/images.def" <<DEFINITION
Bootstrap: localimage
From: $images/plain
%environment
    export FROM_IMAGE=image
    export OVERRIDE=image
    export PATH=/opt/image/bin:\$PATH
%runscript
    echo "runscript \$#: \$*"
    exec facts "\$@"
%test
    echo "testscript \$#: \$*"
    exit 4
%labels
    Author bed
DEFINITION
tests/bench/enter.sh "$peers" 0:0 "$tmp" -- env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root \
    apptainer --silent build --notest --sandbox "$images/built" "$tmp/images.def" >&2 || die "apptainer does not build the image"
install -d "$images/built/scif/apps/one/scif/env"
printf '#!/bin/sh\necho "app one: $*"\n' >"$images/built/scif/apps/one/scif/runscript"
chmod 0755 "$images/built/scif/apps/one/scif/runscript"
echo 'export APP_ENV=one' >"$images/built/scif/apps/one/scif/env/90-environment.sh"
cp -al "$images/points" "$images/noshell"
cp -a "$images/built/.singularity.d" "$images/noshell/"

# The node has a library of a driver, by its name: a GPU is not needed for Apptainer's --nv to bring it along.
mkdir "$tmp/driver"
echo 'int nothing;' | gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c -o "$tmp/driver/libcuda.so.1" -
tests/bench/enter.sh "$peers" 0:0 "$tmp" "$tmp/driver=/usr/local/lib/driver" -- \
    /sbin/ldconfig -X -C "$tmp/ld.so.cache" /usr/local/lib/driver

user_home=$(getent passwd "$BAILEY_TEST_USER" | cut -d: -f6)
options=(--cases tests/beds/apptainer-cases.txt --enter "$ROOT/tests/bench/enter.sh" --peers "$peers" --images "$images"
    --tmp "$tmp" --user "$BAILEY_TEST_USER" --user-home "$user_home"
    --uid "$(id -u "$BAILEY_TEST_USER")" --gid "$(id -g "$BAILEY_TEST_USER")")
[ "$reference_only" = yes ] || options+=(--reasons docs/apptainer-differences.md)
failed=no
python3 tests/beds/apptainer-reference.py "${options[@]}" "${arguments[@]}" || failed=yes
# What pilots call, once more with bailey's own defaults.
if [ "$reference_only" = no ] && [ "${#arguments[@]}" -eq 0 ]; then
    sed -n '/^\[apptainer\]/q; p' tests/beds/apptainer-reference.toml >"$tmp/etc/bailey.toml"
    python3 tests/beds/apptainer-reference.py "${options[@]}" --defaults || failed=yes
fi
# The two in one another as at sites whose pilots run in containers: Apptainer of the host, in it bailey by its name, in that the payload.
# There is no configuration inside; its log is in the home directory that Apptainer shows.
if [ "$reference_only" = no ] && [ "${#arguments[@]}" -eq 0 ]; then
    uid=$(id -u "$BAILEY_TEST_USER") gid=$(id -g "$BAILEY_TEST_USER")
    for flags in --userns "--userns --pid --ipc" "--userns --contain"; do
        install -d -m 0700 -o "$uid" -g "$gid" "$tmp/nested"
        code=0
        # shellcheck disable=SC2086 # flags are words
        said=$(tests/bench/enter.sh "$peers" "$uid:$gid" "$tmp/images=/images" "$tmp/programs=/opt/bed" "$tmp/nested=$user_home" \
            -- env -i PATH=/usr/bin:/bin HOME="$user_home" apptainer -q exec $flags --home "$user_home" -B /images,/opt/bed \
            /images/plain /opt/bed/apptainer exec --contain /images/plain sh -c 'id -u; exit 6' 2>&1) || code=$?
        records=$(find "$tmp/nested" -name '*.ndjson' -exec cat {} + | grep -c '"payload-\(launch\|end\)"' || true)
        if [ "$code:$said:$records" = "6:$uid:2" ]; then
            printf 'inside     bailey in apptainer exec %s\n' "$flags"
        else
            printf 'inside     bailey in apptainer exec %s  WRONG: code %s, %s records, said: %s\n' "$flags" "$code" "$records" "$said"
            failed=yes
        fi
        remove_tree "$tmp/nested"
    done
fi
[ "$failed" = no ] || die "something is not as tests/beds/apptainer-cases.txt has it"
