#!/usr/bin/env bash
# Command lines as pilots make them (JAliEn, DIRAC's dirac-apptainer-exec), word by word, in the pilot's directory, as the pilot.
# What stands in single quotes is for the shells inside.
# shellcheck disable=SC2016
set -u
image=${BED_IMAGE:?}
work=$PWD/job-7
mkdir -p "$work/tmp"

ok() { printf 'ok %s\n' "$1"; }
fail() { printf 'FAIL %s: %s\n' "$1" "$(printf '%s' "$2" | tr '\n' ' ')"; }
# expect NAME CODE OUTPUT COMMAND...: its exit code, and its standard output as a whole ("*": any).
expect() {
    local name=$1 code=$2 wanted=$3 got=0 out
    shift 3
    out=$("$@" 2>err) || got=$?
    if [ "$got" -ne "$code" ]; then
        fail "$name" "code $got: $out $(cat err)"
    elif [ "$wanted" != "*" ] && [ "$out" != "$wanted" ]; then
        fail "$name" "printed: $out"
    else
        ok "$name"
    fi
}

export ALIEN_PROC_ID=3003300330 ALIEN_SITE=Bed ALIEN_JDL_OWNER=jdoe
binds="/cvmfs:/cvmfs,$work:/workdir,$work/tmp:/tmp"
expect "jalien: the probe of an image" 0 "Runtime is here" \
    apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp "$image" /bin/bash -c 'echo "Runtime is here"'
expect "jalien: a payload" 0 "/workdir a file of the software area" \
    apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp "$image" \
    /bin/bash -c 'echo "$(pwd) $(cat /cvmfs/example.org/software)"; echo result >result; echo scratch >/tmp/scratch'
expect "jalien: its files are in the job's directory" 0 "result scratch" sh -c "echo \$(cat $work/result $work/tmp/scratch)"
expect "jalien: no variable of the host" 0 "none" \
    apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp "$image" /bin/bash -c 'echo "${ALIEN_PROC_ID-none}"'
expect "jalien: a prefixed one" 0 "3003300330" \
    env APPTAINERENV_ALIEN_PROC_ID=3003300330 \
    apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp "$image" /bin/bash -c 'echo "$ALIEN_PROC_ID"'
expect "jalien: the payload's code" 17 "" \
    apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp "$image" /bin/bash -c 'exit 17'
expect "jalien: its job is in the log, by the pilot's variable" 0 "3003300330 alice 17" \
    env PYTHONPATH="$(dirname "$0")" python3 -c '
from bed import at, launch_of
launch, end = launch_of("3003300330")
print(at(launch, "grid.job.id"), at(launch, "grid.identity.source"), at(end, "process.exit_code"))'
expect "jalien: --nv where there is no GPU" 0 "ran" \
    apptainer exec -C --nv -B "$binds" --pwd /workdir --no-mount tmp "$image" /bin/bash -c 'echo ran'
# Held by a control group or by setrlimit(2), or refused: never taken without effect.
memory=$(apptainer exec -C -B "$binds" --pwd /workdir --no-mount tmp --memory 200M --memory-swap 0 "$image" \
    /bin/bash -c 'exec perl -e "\$a = q(x) x (400 << 20); print q(grew)"' 2>err)
code=$?
if [ "$code" -ne 0 ] && [ "$memory" != grew ]; then
    ok "jalien: --memory holds or is refused"
else
    fail "jalien: --memory holds or is refused" "code $code: $memory"
fi

# dirac-apptainer-exec's line, with the binds that it makes.
mkdir -p dirac/etc certificates vomsdir vomses
printf '#!/bin/bash\nexport X509_USER_PROXY=/etc/proxy\necho "ran in $(pwd) with $(cat /etc/proxy) $(ls -d /etc/grid-security/*| wc -l)"\n' >dirac/dirac_container.sh
chmod 700 dirac/dirac_container.sh
echo proxy-of-the-user >x509up
chmod 600 x509up
here=$PWD
expect "dirac-apptainer-exec: its line" 0 "ran in $here/dirac with proxy-of-the-user 3" \
    apptainer exec --contain --ipc --pid --bind "$here/dirac" --bind "$here/x509up:/etc/proxy" \
    --bind "$here/certificates:/etc/grid-security/certificates" --bind "$here/vomsdir:/etc/grid-security/vomsdir" \
    --bind "$here/vomses:/etc/grid-security/vomses" --bind "$here/dirac/etc:$here/dirac/etc:ro" \
    --bind /opt/diracos:/opt/diracos:ro --cwd "$here/dirac" "$image" "$here/dirac/dirac_container.sh"
# What DIRAC calls when `apptainer` itself could not be run.
expect "dirac: its line for a diagnosis" 0 "All okay" \
    apptainer --debug exec --contain --ipc --workdir "$work" --home /tmp --userns --bind /cvmfs "$image" echo "All okay"

# What ALRB's scripts are known to make of a payload; the scripts themselves lie in ATLAS's /cvmfs and are not here.
mkdir -p alrb/home alrb/job scratch
printf '#!/bin/bash\necho "$(pwd) $HOME $(cat /cvmfs/example.org/software) ${HOST_ONLY-clean} $PANDA_ONLY"; echo scratch >/scratch/file\n' >alrb/job/container_script.sh
chmod 755 alrb/job/container_script.sh
mkdir -p "$work/home" "$work/var_tmp"
expect "alrb: the version that it parses" 0 "singularity version" sh -c "singularity --version | sed 's/ [0-9][0-9.]*[0-9].*//'"
expect "alrb: its line" 0 "/srv /alrb a file of the software area clean there" \
    env HOST_ONLY=leaked SINGULARITYENV_PANDA_ONLY=there SINGULARITY_CACHEDIR="$here/scratch" \
    singularity exec -e -H "$here/alrb/home:/alrb" -B /cvmfs:/cvmfs -B "$here/alrb:/home" -B "$here/alrb/job:/srv" -B "$here/scratch:/scratch" \
    --pwd /srv "$image" /srv/container_script.sh
expect "alrb: its scratch directory" 0 "scratch" cat scratch/file
