#!/usr/bin/env bash
# DIRAC 9 and the PanDA pilot 3, from PyPI at the versions of tests/beds/pilots/*.txt, start payloads through our `apptainer`: their
# own classes with their own configuration, nothing patched (tests/beds/pilots-inside.sh says what is checked). The command lines of
# the pilots' wrapper and of JAliEn are called too. As root, which makes a root directory of its own for it (with /cvmfs, /home,
# /etc/bailey); the pilots are the ordinary user. Some three minutes, after two for what is kept; 15 minutes at most.
#
#   tests/beds/pilots.sh [PART...]     PART: dirac, panda, lines; all of them when none is named
#
# BAILEY_PROGRAMS=DIR   the programs of that folder instead of a release build
#
# How many checks said "ok" is compared with tests/beds/pilots.count; fewer is an error. 77: it cannot run here; the last line says why.
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

if [ "${1:-}" = --inside ]; then
    shift
    # shellcheck source=tests/beds/pilots-inside.sh
    . "$(dirname "$0")/pilots-inside.sh"
    exit
fi

parts=("$@")
for part in "${parts[@]}"; do
    case $part in dirac | panda | lines) ;; *) die "there is no part '$part': dirac, panda, lines" ;; esac
done
[ "${#parts[@]}" -gt 0 ] || parts=(dirac panda lines)
skip() {
    say "bed pilots: skipped: $*"
    exit 77
}
is_root || skip "it makes mounts and /etc/bailey of its own: run as root"
python=/usr/bin/python3
[ "$(uname -m)" = x86_64 ] || skip "tests/beds/pilots/dirac.txt names the packages for x86_64"

# A program or file that tells that the package is there, and the package.
needs=(
    "$python:python3"
    /usr/lib/python3/dist-packages/pip/__main__.py:python3-pip
    /usr/lib/python3/dist-packages/setuptools/__init__.py:python3-setuptools
    /usr/lib/python3/dist-packages/wheel/__init__.py:python3-wheel
    /usr/include/python3.11/Python.h:python3-dev
    /usr/include/openssl/ssl.h:libssl-dev
    /usr/bin/swig:swig
    /usr/bin/gcc:gcc
    /usr/bin/openssl:openssl
    /usr/bin/pstree:psmisc
    /usr/bin/ps:procps
)
missing=()
for need in "${needs[@]}"; do
    [ -e "${need%%:*}" ] || missing+=("${need#*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    have apt-get || skip "missing: ${missing[*]}"
    apt-get -o Acquire::Retries=3 -qq update
    env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -qq install -y --no-install-recommends "${missing[@]}" >&2
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    skip "tests/beds/pilots/dirac.txt names the packages for Python 3.11, which $python is not"

enter_workspace
bash tests/image.sh
lists=$ROOT/tests/beds/pilots
# What is kept is made anew when the lists change, or this number, which goes up with what make_diracos does.
layout=1
kept=$BAILEY_TEST_DIR/pilots-$layout-$(cat "$lists/dirac.txt" "$lists/panda.txt" | sha256sum | cut -c 1-12)

# from_index TARGET LIST: what LIST names, its digests checked, nothing that it depends on.
from_index() {
    "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-build-isolation \
        --require-hashes --no-compile --target "$1" -r "$2" >&2
}
# DIRAC's pilot brings a Python of its own (DIRACOS), which CE and job wrapper show to the payload: here Debian's, moved.
make_diracos() {
    local root=$1 packages=$1/lib/python3.11/dist-packages file
    mkdir -p "$root/bin" "$root/lib"
    cp -L /usr/bin/python3.11 "$root/bin/"
    ln -s python3.11 "$root/bin/python"
    ln -s python3.11 "$root/bin/python3"
    cp -a /usr/lib/python3.11 "$root/lib/"
    rm -rf "$root"/lib/python3.11/{test,config-*,sitecustomize.py,EXTERNALLY-MANAGED}
    from_index "$packages" "$lists/dirac.txt"
    # Not on PyPI as a wheel; the CE's modules import it.
    mkdir "$root/debs"
    chmod 0777 "$root/debs"
    (cd "$root/debs" && apt-get -qq download python3-mysqldb libmariadb3)
    for file in "$root"/debs/*.deb; do dpkg -x "$file" "$root/debs/x"; done
    cp -a "$root/debs/x/usr/lib/python3/dist-packages/MySQLdb" "$packages/"
    cp -L "$root"/debs/x/usr/lib/*/libmariadb.so.3 "$root/lib/"
    rm -rf "$root/debs"
    # The image has no Python and not all of its libraries.
    find "$root" -type f \( -name '*.so' -o -name '*.so.*' -o -name python3.11 \) -exec ldd {} + 2>/dev/null |
        awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | while read -r file; do
        case ${file##*/} in
        libc.so* | libm.so* | libpthread.so* | libdl.so* | librt.so* | libresolv.so* | ld-linux*) ;;
        *) [ -e "$root/lib/${file##*/}" ] || cp -L "$file" "$root/lib/" ;;
        esac
    done
    cat >"$root/diracosrc" <<'RC'
export DIRACOS=/opt/diracos
export PATH=/opt/diracos/bin:/usr/bin:/bin
export LD_LIBRARY_PATH=/opt/diracos/lib
RC
    # The one change that a site makes: this is the `apptainer` that DIRAC 9 calls, whatever PATH says.
    ln -s /opt/bailey/usr/bin/apptainer "$root/bin/apptainer"
}
if [ ! -d "$kept" ]; then
    make_test_dir
    rm -rf "$BAILEY_TEST_DIR"/pilots-*
    new=$(mktemp -d "$BAILEY_TEST_DIR/pilots-new.XXXXXX")
    trap 'remove_tree "$new"' EXIT
    say "pilots: installing DIRAC and the PanDA pilot below $kept"
    # pip says why it could not, and so does the last line.
    make_diracos "$new/diracos" || skip "DIRAC's packages could not be had"
    from_index "$new/panda" "$lists/panda.txt" || skip "the PanDA pilot could not be had"
    chmod -R go+rX "$new"
    mv -T "$new" "$kept"
    trap - EXIT
fi

if [ -z "${BAILEY_PROGRAMS:-}" ]; then
    build_release
    BAILEY_PROGRAMS=$RELEASE
fi
work=$(fresh_tmp)
inside=
end() {
    if [ -n "$inside" ]; then kill "$inside" 2>/dev/null || true; fi
    remove_tree "$work"
}
trap end EXIT
chmod 0755 "$work"
mkdir "$work/tree" "$work/log"
DESTDIR=$work/tree bash packaging/install.sh --from "$BAILEY_PROGRAMS" >/dev/null
for name in apptainer singularity; do
    [ -e "$work/tree/usr/bin/$name" ] || ln -s bailey "$work/tree/usr/bin/$name"
done
# Looked for there, as these are not installed in /.
ln -s ../libexec/bailey/bailey-admin "$work/tree/usr/bin/bailey-admin"
install -d -m 0700 -o "$BAILEY_TEST_USER" -g "$(id -g "$BAILEY_TEST_USER")" "$work/pool" "$work/home"

# Its own root: the machine's directories, but for those that a pilot or bailey would write to. The pilot's hunt for orphans stays in
# its own pid namespace, and whatever is started ends with it.
# shellcheck disable=SC2016 # the inner shell's own
timeout --kill-after=10 900 unshare --mount --pid --fork --kill-child --propagation private bash -Eeuo pipefail -c '
    work=$1 kept=$2 checkout=$3
    shift 3
    root=$work/root
    mkdir "$root"
    mount -t tmpfs -o mode=0755,size=64m none "$root"
    cd "$root"
    for entry in /*; do
        name=${entry#/}
        if [ -L "$entry" ]; then cp -a "$entry" .
        elif [ -d "$entry" ]; then
            mkdir "$name"
            case $name in
            proc) mount -t proc proc proc ;;
            opt | srv | home | cvmfs | mnt) ;;
            etc) cp -a /etc/. etc/ ;;
            *) mount --rbind "$entry" "$name" ;;
            esac
        fi
    done
    mkdir -p cvmfs/example.org home mnt opt/bailey opt/diracos opt/panda opt/pool opt/checkout srv/log etc/bailey
    echo "a file of the software area" >cvmfs/example.org/software
    mount --bind "$work/home" home
    mount --bind "$work/tree" opt/bailey
    mount --bind "$kept/diracos" opt/diracos
    mount --bind "$kept/panda" opt/panda
    mount --bind "$work/pool" opt/pool
    mount --bind "$work/log" srv/log
    mount --bind "$checkout" opt/checkout
    rm -rf etc/bailey
    cp -a "$work/tree/etc/bailey" etc/bailey
    pivot_root . mnt
    cd /
    umount -l /mnt
    # A shell between the first process of the namespace and the pilots: the PanDA pilot takes children of process 1 for orphans.
    bash /opt/checkout/tests/beds/pilots.sh --inside "$@"
' bash "$work" "$kept" "$ROOT" "${parts[@]}" >"$work/out" &
inside=$!
code=0
wait "$inside" || code=$?
inside=
cat "$work/out"
passed=$(grep -c '^ok ' "$work/out" || true)
failed=$(grep -c '^FAIL ' "$work/out" || true)
expected=$(cat "$ROOT/tests/beds/pilots.count")
[ "$code" -eq 0 ] || die "bed pilots: ended with code $code after $passed checks (124 is its time limit)"
[ "$failed" -eq 0 ] || die "bed pilots: $failed checks failed, $passed passed"
if [ $# -gt 0 ]; then expected=0; fi
[ "$passed" -ge "$expected" ] || die "bed pilots: $passed checks passed, $expected are expected (tests/beds/pilots.count)"
if [ $# -eq 0 ] && [ "$passed" -gt "$expected" ]; then say "to commit: echo $passed >tests/beds/pilots.count"; fi
printf 'bed pilots: %s checks passed\n' "$passed"
