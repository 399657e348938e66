# shellcheck shell=bash
# The inside of tests/beds/htcondor.sh: sourced there, in namespaces of its own, as their root. The pool runs as the account pilot.
: "${checkout:?}"

POOL=/var/lib/pool LOG=/srv/log SHARED=/srv/shared
IMAGE=/images/debian-12
RUNTIME=/opt/bailey/bin/apptainer
said=/run/bed.said

# check FUNCTION WORDS...: the words are the check's name. One line a check, and after a failure what the check printed.
check() {
    local function=$1 code=0
    shift
    # Not in a condition: there "set -e" would have no effect inside.
    set +e
    trap - ERR
    (
        set -eE
        trap 'echo "line $LINENO: $BASH_COMMAND ended with $?"' ERR
        "$function"
    ) >"$said" 2>&1 </dev/null
    code=$?
    set -e
    if [ "$code" -eq 0 ]; then
        echo "ok $*"
    else
        echo "FAIL $*"
        tail -n 25 "$said" | cut -c 1-600 | sed 's/^/# /'
    fi
}
# as USER COMMAND...
as() {
    local user=$1
    shift
    setpriv --reuid "$user" --regid "$user" --clear-groups -- env -i HOME="/home/$user" USER="$user" LOGNAME="$user" \
        PATH=/usr/bin:/bin:/usr/sbin:/sbin CONDOR_CONFIG="$POOL/condor_config" "$@"
}
# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "waited in vain for: $*"
            return 1
        fi
        sleep 0.2
    done
}
is() { # is GOT WANTED WHAT
    [ "$1" = "$2" ] || { printf '%s is "%s" and not "%s"\n' "$3" "$1" "$2" && return 1; }
}

# --- the pool ---

useradd -m -s /bin/sh pilot
mount -t tmpfs none /tmp -o mode=1777
mount -t tmpfs none /var/tmp -o mode=1777
ip link set lo up
printf '127.0.0.1 worker.bed worker localhost\n' >/etc/hosts
mkdir -p "$POOL"/{log,spool,lock,run,execute,cred,tokens,passwords.d,jobs} "$LOG" "$SHARED"
chmod 0700 "$POOL/passwords.d"
head -c 64 /dev/urandom >"$POOL/passwords.d/POOL"
chmod 0600 "$POOL/passwords.d/POOL"
printf 'on the node\n' >"$SHARED/file"

# Without HOME, as HTCondor starts its questions and jobs, and without a word on the log's place: it is in the account's home.
check_without_home() {
    local code=0
    printf '[audit]\nrecorder = "off"\n' >/etc/bailey/conf.d/10-bed.toml
    as pilot env -i "$RUNTIME" exec -C /usr/libexec/condor/singularity_test_sandbox /exit_37 || code=$?
    is "$code" 37 "the code"
    grep -h '"payload-end"' /home/pilot/.local/state/bailey/*/*.ndjson
}
check check_without_home "probes: an empty environment, the log in the account's home"
cat >/etc/bailey/conf.d/10-bed.toml <<TOML
[audit]
recorder = "off"
dir = "$LOG"
TOML

# What the pool is; docs/htcondor.md says the rest.
cat >"$POOL/base" <<CONF
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:9618
NETWORK_INTERFACE = 127.0.0.1
FULL_HOSTNAME = worker.bed
NO_DNS = False
UID_DOMAIN = bed
TRUST_DOMAIN = bed
FILESYSTEM_DOMAIN = bed
USE_SHARED_PORT = False
DAEMON_LIST = MASTER COLLECTOR NEGOTIATOR SCHEDD STARTD
RELEASE_DIR = /usr
LIBEXEC = /usr/libexec/condor
LIB = /usr/lib/condor
SHARE = /usr/share/condor
LOCAL_DIR = $POOL
RUN = $POOL/run
LOG = $POOL/log
LOCK = $POOL/lock
SPOOL = $POOL/spool
EXECUTE = $POOL/execute
CRED_STORE_DIR = $POOL/cred
SEC_DEFAULT_AUTHENTICATION_METHODS = FS, IDTOKENS
SEC_PASSWORD_DIRECTORY = $POOL/passwords.d
SEC_TOKEN_POOL_SIGNING_KEY_FILE = $POOL/passwords.d/POOL
SEC_TOKEN_DIRECTORY = $POOL/tokens/none
SEC_TOKEN_SYSTEM_DIRECTORY = $POOL/tokens/none
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = pilot@bed
ALLOW_NEGOTIATOR = pilot@bed
ALLOW_ADMINISTRATOR = pilot@bed
NUM_CPUS = 16
MEMORY = 3200
NUM_SLOTS = 16
NUM_SLOTS_TYPE_1 = 16
SLOT_TYPE_1 = cpus=1, memory=200
SLOT_TYPE_1_PARTITIONABLE = False
JOB_DEFAULT_REQUESTMEMORY = 100
JOB_DEFAULT_REQUESTDISK = 1000
START = True
SUSPEND = False
PREEMPT = False
KILL = False
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 3
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
MaxVacateTime = 5
CLAIM_WORKLIFE = 0
RUNBENCHMARKS = False
STARTD_CRON_JOBLIST =
JAVA =
DOCKER =
FILETRANSFER_PLUGINS = \$(LIBEXEC)/data_plugin
JOB_DEFAULT_LEASE_DURATION = 20
DELEGATE_JOB_GSI_CREDENTIALS = False
STARTER_DEBUG = D_FULLDEBUG
MAX_STARTER_LOG = 20000000
SCHEDD_DEBUG = D_SECURITY
CONF
# The lines of docs/htcondor.md that stand in the block below this heading.
recipe() {
    awk -v heading="## $1" '
        /^## / { inside = ($0 == heading) }
        inside && /^```ini$/ { found = 1; next }
        found && /^```$/ { exit }
        found' "$checkout/docs/htcondor.md"
}
# configure HEADING [LINE...]
configure() {
    cat "$POOL/base" >"$POOL/new"
    recipe "$1" | sed "s|/opt/bailey/bin/apptainer|$RUNTIME|; s|/cvmfs/images.example.org/debian-12|$IMAGE|; s|/srv/data|$SHARED|" >>"$POOL/new"
    shift
    printf '%s\n' "$@" >>"$POOL/new"
    mv "$POOL/new" "$POOL/condor_config"
}
grep -q '^SINGULARITY = ' <<<"$(recipe "On the worker node")" || die "docs/htcondor.md has no recipe"
configure "On the worker node"
chown -R pilot: "$POOL" "$LOG" "$SHARED"
as pilot condor_master -f >"$POOL/log/master.said" 2>&1 &
master=$!

slots() { [ "$(as pilot condor_status -af Name | wc -l)" -eq 16 ]; }
slots_ready() { until_true 60 slots; }
node() { as pilot condor_status -limit 1 -af "$1"; }

# submit NAME [LINE...]: the lines of a job description beside the ones that all have. Output, log and files are in $POOL/jobs/NAME.
# With SUBMIT_AS=WHO the caller shows the token of WHO.
submit() {
    local name=$1 dir=$POOL/jobs/$1 more=()
    shift
    mkdir -p "$dir"
    {
        printf '%s\n' "output = out" "error = err" "log = log" "should_transfer_files = YES" "when_to_transfer_output = ON_EXIT" "$@"
        case $* in *executable*) ;; *) printf 'executable = /bin/sh\ntransfer_executable = false\n' ;; esac
        echo "queue 1"
    } >"$dir/job.sub"
    chown -R "${SUBMIT_USER:-pilot}:" "$dir"
    if [ -n "${SUBMIT_AS:-}" ]; then
        more=(env _CONDOR_SEC_TOKEN_DIRECTORY="$POOL/tokens/$SUBMIT_AS" _CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS=IDTOKENS)
    fi
    as "${SUBMIT_USER:-pilot}" "${more[@]}" env -C "$dir" condor_submit -terse job.sub >"$dir/id" 2>"$dir/submit.err" || {
        echo "condor_submit of $name: $(cat "$dir/submit.err")" >&2
        return 1
    }
    sed -i 's/ - .*//' "$dir/id"
}
id_of() { cat "$POOL/jobs/$1/id"; }
# The file of a job's output.
of() { cat "$POOL/jobs/$1/$2"; }
waits() { as pilot condor_wait -wait "${2:-90}" "$POOL/jobs/$1/log" >/dev/null; }
# The last event that ends a job, in HTCondor's words.
ending() { grep -E 'termination|was removed|was held' "$POOL/jobs/$1/log" | tail -n 1; }
running() { grep -q '^001 ' "$POOL/jobs/$1/log"; }
global_id() { as pilot condor_history -limit 1 "$(id_of "$1")" -af GlobalJobId; }
known() { [ -n "$(global_id "$1")" ]; }
# HTCondor writes its history a moment after the end.
learn() {
    until_true 10 known "$1" || die "HTCondor does not know the job $1"
    global_id "$1" >"$POOL/jobs/$1/global"
}
# records JQ-FILTER: all records, each an object, through the filter.
records() { cat "$LOG"/*.ndjson | jq -c "$@"; }

# --- the jobs ---

cat >"$POOL/jobs/look.sh" <<'JOB'
#!/bin/sh
# Writes what a job sees into files that are brought back.
env | sort >env.txt
pwd >cwd.txt
printf '<%s>' "$@" >args.txt
cat input.txt >result.txt
id >id.txt
cat /proc/self/status >status.txt
cat /proc/self/mountinfo >mounts.txt
cat /proc/self/cgroup >cgroup.txt
ls /proc | grep '^[0-9]' | wc -l >processes.txt
for i in user pid ipc; do stat -L -c %i /proc/self/ns/$i; done >namespaces.txt
cat /etc/os-release >os.txt
cat /etc/passwd >passwd.txt
cat /data/file >data.txt
(echo mine >/data/file2) 2>refused.txt
echo t >/tmp/t && echo t >/var/tmp/t && echo t >"$HOME/t" && echo ok >writable.txt
ls -A /tmp /images /var/lib/pool /var/lib/pool/jobs >outside.txt 2>&1
grep '^GlobalJobId' "$_CONDOR_JOB_AD" >ad.txt
test -z "$X509_USER_PROXY" || grep -c -e '-BEGIN' "$X509_USER_PROXY" >proxy.txt 2>&1
mkdir sub && echo deep >sub/deep
echo to stderr >&2
echo to stdout
JOB
cat >"$POOL/jobs/tree.sh" <<'JOB'
#!/bin/sh
# Processes of all kinds: a child, one in a session of its own, one that ignores what can be ignored.
sleep 4242.1 &
setsid sleep 4242.2 &
(setsid sh -c 'trap "" TERM HUP INT QUIT; while :; do sleep 4242.3; done' >/dev/null 2>&1 &)
case $1 in
plain) wait ;;
traps) trap 'echo caught >caught.txt; exit 9' TERM; echo ready; while :; do sleep 0.2; done ;;
stubborn) trap '' TERM HUP INT QUIT; while :; do sleep 4242.4; done ;;
esac
JOB
# HTCondor 24 and later starts every container job with such a script, bound by it into the root.
cat >"$POOL/jobs/launcher.sh" <<'JOB'
#!/bin/sh
:> "$_CONDOR_SCRATCH_DIR/.condor_container_launched"
exec "$@"
JOB
# What glideinWMS does in its wrapper: the version, the function probe, then the job in the runtime, by exec.
cat >"$POOL/jobs/wrapper.sh" <<JOB
#!/bin/sh
env | grep '^[A-Z]*ENV_COLOUR=' >prefix.txt
grep -q '^Glidein = true' "\$_CONDOR_JOB_AD" || exec "\$@"
unset LD_LIBRARY_PATH PYTHONPATH LD_PRELOAD
runtime=$RUNTIME image=$IMAGE
\$runtime --version >probe.version 2>&1
\$runtime version >>probe.version 2>&1
\$runtime exec --home "\$PWD":/srv --pwd /srv --ipc --contain --pid --bind /cvmfs,/etc/hosts,/etc/localtime \
    \$image cat /proc/self/uid_map >probe.out 2>probe.err
echo \$? >probe.code
for name in _CONDOR_JOB_AD _CONDOR_SCRATCH_DIR; do
    eval value=\\\$\$name
    export APPTAINERENV_\$name="/srv\${value#"\$PWD"}" SINGULARITYENV_\$name="/srv\${value#"\$PWD"}"
done
program=/srv/\${1##*/}
shift
export APPTAINERENV_COLOUR="\$COLOUR" APPTAINER_WORKDIR= APPTAINERENV_X509_USER_PROXY=
unset APPTAINER_WORKDIR APPTAINERENV_X509_USER_PROXY
exec \$runtime exec --home "\$PWD":/srv --pwd /srv --ipc --contain --pid --cleanenv --bind /cvmfs,/etc/hosts,/etc/localtime \
    \$image "\$program" "\$@"
JOB
chmod 0755 "$POOL"/jobs/*.sh
mkdir -p /cvmfs/repository
printf 'from the submitter\n' >"$POOL/jobs/input.txt"

# Two users by their tokens, one by a proxy.
for who in alice bob; do
    mkdir -p "$POOL/tokens/$who"
    chown -R pilot: "$POOL/tokens"
    as pilot condor_token_create -identity "$who@bed" >"$POOL/tokens/$who/token"
    chown pilot: "$POOL/tokens/$who/token"
    chmod 0600 "$POOL/tokens/$who/token"
    chmod 0700 "$POOL/tokens/$who"
done
(
    cd "$POOL/tokens"
    exec 2>/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -keyout user.key -out user.pem -days 2 -subj "/DC=org/DC=example/CN=Carol Carter"
    openssl req -new -newkey rsa:2048 -nodes -keyout proxy.key -out proxy.csr -subj "/DC=org/DC=example/CN=Carol Carter/CN=1234567"
    printf 'proxyCertInfo=critical,language:id-ppl-inheritAll\nkeyUsage=critical,digitalSignature,keyEncipherment\n' >proxy.ext
    openssl x509 -req -in proxy.csr -CA user.pem -CAkey user.key -set_serial 1234567 -days 1 -extfile proxy.ext -out proxy.pem
    cat proxy.pem proxy.key user.pem >proxy
    chmod 0600 proxy
)
chown -R pilot: "$POOL/tokens"

# --- the starter's probes ---

probes_seen() { node HasSingularity | grep -q .; }
probed() { grep -F "$1" "$POOL/log/StarterLog.testing"; }
HAS_SINGULARITY() {
    is "$(node HasSingularity)" true HasSingularity
    is "$(node HasSandboxImage)" true HasSandboxImage
}
check_version() {
    is "$(node SingularityVersion)" "$("$RUNTIME" --version)" SingularityVersion
    # The word decides the prefix of the variables, the number what is offered.
    [[ $(node SingularityVersion) =~ ^apptainer\ version\ [0-9]+\.[0-9]+\.[0-9]+ ]]
    [[ $("$RUNTIME" version) =~ ^[0-9]+\.[0-9]+\.[0-9]+[^\ ]*$ ]]
}
check_sandbox() {
    probed "Successfully ran: '$RUNTIME exec -C /usr/libexec/condor/singularity_test_sandbox /exit_37'"
    is "$(node HasPidNamespaces)" true HasPidNamespaces
}
# What cannot be run is not advertised, with the reason in the starter's log: an image in a file is not ours.
check_sif() {
    is "$(node HasSIF)" undefined HasSIF
    probed "FATAL:"
}
# HTCondor 24 and later compares the inode of the user namespace; its program prints it, and here busybox does, alone in its root.
# The starter runs it without any variable, and reads stdout and stderr together: the first line must be the number.
check_user_namespace() {
    local bare=$POOL/bare said
    mkdir -p "$bare"
    cp /usr/bin/busybox "$bare/busybox"
    said=$(as pilot env -i "$RUNTIME" exec -C "$bare" /busybox stat -L -c %i /proc/self/ns/user 2>&1)
    echo "$said"
    [[ $said =~ ^[0-9]+$ ]]
    [ "$said" != "$(stat -L -c %i /proc/self/ns/user)" ]
}
slots_ready
check HAS_SINGULARITY "probes: HasSingularity and HasSandboxImage are true"
check check_version "probes: SingularityVersion is what --version says"
check check_sandbox "probes: the bare directory runs with -C, and pid namespaces are advertised"
check check_sif "probes: images in files are not advertised"
check check_user_namespace "probes: a user namespace of its own, nothing else said"

# --- jobs, all at once ---

own='executable = ../look.sh
transfer_executable = true'
submit look "$own" "arguments = \"one 'two words' ''\"" "transfer_input_files = ../input.txt" "transfer_output_files = ." \
    'environment = "COLOUR=blue SPACED='"'a b'"' HOME=/nowhere APPTAINERENV_SEEN=yes APPTAINER_BIND=/etc:/stolen"'
submit zero "arguments = \"-c 'exit 0'\""
submit seven "arguments = \"-c 'exit 7'\""
submit killed "arguments = \"-c 'kill -9 \$\$'\""
submit ended "arguments = \"-c 'kill -15 \$\$'\""
submit missing "executable = /no/such/program" "transfer_executable = false"
submit noimage "arguments = \"-c 'exit 0'\"" '+SingularityImage = "/images/none"'
for kind in plain stubborn; do
    submit "$kind" "executable = ../tree.sh" "transfer_executable = true" "arguments = $kind"
done
submit traps "executable = ../tree.sh" "transfer_executable = true" "arguments = traps" "when_to_transfer_output = ON_EXIT_OR_EVICT"
submit shell "arguments = \"-c 'sleep 300'\"" 'environment = "COLOUR=green"'
# What a job says of itself in its environment names nobody: below, alice and bob are who submitted.
printf '{"user": "/CN=Victim"}\n' >"$SHARED/victim.json"
for who in alice bob; do
    SUBMIT_AS=$who submit "$who" "$own" "transfer_input_files = ../input.txt" "environment = \"BAILEY_IDENTITY=$SHARED/victim.json\""
done
submit carol "$own" "x509userproxy = $POOL/tokens/proxy" "transfer_input_files = ../input.txt"

# launch NAME: the record of the launch whose job is NAME, and end NAME that of its end; by the job's id in HTCondor.
job_records() { # ACTION NAME
    # shellcheck disable=SC2016 # jq's own variables
    records --arg action "$1" --arg id "$(of "$2" global)" \
        'select(.event.action == $action and .grid.job.id == $id and .grid.role != "probe")'
}
field() { # ACTION NAME JQ-EXPRESSION
    job_records "$1" "$2" | jq -r "$3" | tail -n 1
}
for job in look zero seven killed ended missing alice bob carol; do
    waits "$job" || die "the job $job does not end: $(tail -n 5 "$POOL/jobs/$job/log")"
    learn "$job"
done

look=$POOL/jobs/look
check_plain() {
    ending look | grep -F 'return value 0'
    is "$(of look out)" "to stdout" stdout
    is "$(of look err)" "to stderr" stderr
    is "$(of look args.txt)" "<one><two words><>" arguments
}
check_files() {
    is "$(of look result.txt)" "from the submitter" "the input"
    is "$(of look sub/deep)" deep "a directory that the job made"
    is "$(stat -c %U "$look/result.txt")" pilot "owner"
}
variable() { sed -n "s/^$1=//p" "$look/env.txt"; }
check_environment() {
    is "$(variable COLOUR)" blue COLOUR
    is "$(variable SPACED)" "a b" SPACED
    is "$(variable SEEN)" yes APPTAINERENV_SEEN
    is "$(variable BATCH_SYSTEM)" HTCondor BATCH_SYSTEM
    is "$(variable OMP_NUM_THREADS)" 1 OMP_NUM_THREADS
    is "$(variable _CONDOR_SLOT)" slot"$(variable _CONDOR_SLOT | tr -dc 0-9)" _CONDOR_SLOT
    for name in _CONDOR_SCRATCH_DIR _CONDOR_JOB_IWD TMPDIR TMP TEMP; do is "$(variable $name)" /srv "$name"; done
    is "$(variable _CONDOR_JOB_AD)" /srv/.job.ad _CONDOR_JOB_AD
    is "$(of look ad.txt)" "GlobalJobId = \"$(of look global)\"" "the job ad inside"
}
check_reserved() {
    # Apptainer's own, which jobs ask to know that they are inside.
    is "$(variable APPTAINER_CONTAINER)" "$IMAGE" APPTAINER_CONTAINER
    is "$(variable SINGULARITY_CONTAINER)" "$IMAGE" SINGULARITY_CONTAINER
    is "$(variable APPTAINER_NAME)" debian-12 APPTAINER_NAME
    [ -n "$(variable BAILEY_ID)" ]
    [[ $(variable PATH) == *:/usr/bin:* ]]
    # Nothing of the starter's.
    if grep -q '^CONDOR_CONFIG=\|^_CONDOR_ANCESTOR\|^APPTAINERENV_\|^SINGULARITYENV_' "$look/env.txt"; then return 1; fi
}
check_home() {
    local home
    home=$(variable HOME)
    case $home in "$POOL"/execute/dir_*) ;; *) echo "HOME is $home" && return 1 ;; esac
    is "$(of look cwd.txt)" /srv cwd
    is "$(of look writable.txt)" ok "/tmp, /var/tmp and HOME"
    grep -E "^pilot:x:$(id -u pilot):$(id -g pilot):[^:]*:$home:" "$look/passwd.txt"
    grep -F "uid=$(id -u pilot)(pilot) gid=$(id -g pilot)(pilot)" "$look/id.txt"
}
check_binds() {
    is "$(of look data.txt)" "on the node" "what the site binds, at a place that the image lacks"
    grep -qi 'read-only' "$look/refused.txt"
    is "$(cat "$SHARED/file")" "on the node" "the site's file"
    [ ! -e "$SHARED/file2" ]
    if grep -q ' /stolen ' "$look/mounts.txt"; then return 1; fi
}
check_walls() {
    grep -E '^NoNewPrivs:[[:space:]]*1' "$look/status.txt"
    grep -E '^Seccomp:[[:space:]]*2' "$look/status.txt"
    grep -E '^CapEff:[[:space:]]*0+$' "$look/status.txt"
    grep -E '^VERSION_ID="12"' "$look/os.txt"
    [ "$(of look processes.txt)" -lt 10 ]
    local kind
    for kind in user:1 pid:2 ipc:3; do
        [ "$(sed -n "${kind#*:}p" "$look/namespaces.txt")" != "$(stat -L -c %i "/proc/self/ns/${kind%:*}")" ]
    done
    # Of the pool nothing but the job's own directory, where it is HOME, can be seen.
    if grep -E '^(spool|log|tokens|passwords.d|debian-12|seven)$' "$look/outside.txt"; then return 1; fi
}
check check_plain "job: code 0, its stdout, stderr and arguments"
check check_files "job: files in and out, also from a directory"
check check_environment "job: its variables, and HTCondor's with the paths inside"
check check_reserved "job: the runtime's own variables, none of the starter's"
check check_home "job: HOME, cwd, /tmp and its name"
check check_binds "job: the site's binds, read-only as asked, and none of the job's own"
check check_walls "job: namespaces, no privileges, seccomp, nothing of the pool"

returned() { ending "$1" | grep -F "(return value $2)"; }
check_codes() { returned zero 0 && returned seven 7; }
check_signals() { returned killed 137 && returned ended 143; }
check_missing() {
    returned missing 255
    grep -E '^FATAL:.*/no/such/program' "$POOL/jobs/missing/err"
}
check check_codes "codes: 0 and 7 as they are"
check check_signals "codes: 128+n after a signal, as Apptainer has it"
check check_missing "codes: 255 and FATAL for a program that is not there"

check_probe_record() {
    records 'select(.event.action == "payload-launch" and .grid.role == "probe") | .process.executable'
    # The test before each job, and the starter's own programs.
    [ "$(records 'select(.event.action == "payload-launch" and .grid.role == "probe" and .grid.job.id == "'"$(of look global)"'")' | wc -l)" -eq 1 ]
    [ "$(records 'select(.event.action == "payload-launch" and .grid.role == "probe" and .process.executable == "/exit_37")' | wc -l)" -ge 1 ]
    # And no job is one.
    [ "$(records 'select(.event.action == "payload-launch" and .grid.role == "probe" and (.process.executable | endswith("look.sh")))' | wc -l)" -eq 0 ]
}
check_record() {
    is "$(field payload-launch look .process.executable)" /srv//look.sh "the program"
    is "$(field payload-launch look .container.image.name)" "$IMAGE" "the image"
    is "$(field payload-end look .process.exit_code)" 0 "the code of look"
    is "$(field payload-end seven .process.exit_code)" 7 "the code of seven"
    is "$(job_records payload-launch look | wc -l)" 1 "the number of records"
    is "$(field payload-launch look .process.real_user.id)" "$(id -u pilot)" "the pilot's uid"
}
check_tokens() {
    local who action
    for who in alice bob; do
        is "$(as pilot condor_history -limit 1 "$(id_of $who)" -af AuthTokenSubject)" "$who@bed" "the job ad"
        for action in payload-launch payload-end; do
            is "$(field $action $who .user.id)" "$who@bed" "user.id of $who's $action"
        done
        # A trust domain, part of the subject; docs/identity.md
        is "$(field payload-launch $who .grid.identity.issuer)" null "issuer"
        is "$(field payload-launch $who .grid.identity.jti)" "$(as pilot condor_history -limit 1 "$(id_of $who)" -af AuthTokenId)" "jti"
        is "$(field payload-launch $who .grid.identity.assurance)" declared "assurance"
        is "$(field payload-launch $who .grid.job.id)" "$(of $who global)" "job id"
    done
    [ "$(of alice global)" != "$(of bob global)" ]
    # The starter hands the environment on: the claim was seen.
    is "$(field payload-launch alice '[.grid.identity.others[] | select(.source == "file") | .subject] | join(" ")')" /CN=Victim "the claim"
}
check_proxy() {
    is "$(field payload-launch carol .user.id)" "/DC=org/DC=example/CN=Carol Carter" "user.id"
    is "$(field payload-launch carol .grid.identity.assurance)" declared "assurance"
    # Its own proxy, which HTCondor brought into its directory, stays its own.
    is "$(of carol proxy.txt)" 3 "the parts of its proxy"
}
check check_record "records: one launch and one end for a job, with its codes"
check check_probe_record "records: test and probes are probes, jobs are not"
check check_tokens "records: two tokens, two identities, with the global job id"
check check_proxy "records: the subject of a proxy, which the job can read"

# --- what ends before its time ---

# The processes of a job: all whose environment names its slot's directory, on this machine.
alive() { pgrep -u pilot -f "$1" | wc -l; }
gone() { [ "$(alive 'sleep 4242')" -eq "$1" ]; }
for job in plain stubborn traps shell; do
    until_true 30 running "$job" || die "the job $job does not start: $(tail -n 5 "$POOL/jobs/$job/log")"
    as pilot condor_q "$(id_of "$job")" -af GlobalJobId >"$POOL/jobs/$job/global"
done
until_true 20 grep -q ready "$POOL"/execute/dir_*/_condor_stdout || die "traps does not run"
sleep 1
all=$(alive 'sleep 4242')
# remove COMMAND NAME PROCESSES SECONDS: and all of its processes are gone in time.
remove() {
    local begin now
    begin=$(date +%s%N)
    as pilot "$1" "$(id_of "$2")"
    until_true "$4" gone "$3" || { pgrep -u pilot -af 'sleep 4242'; return 1; }
    now=$(date +%s%N)
    echo "$2: $(((now - begin) / 1000000)) ms" | tee -a /run/bed.times
}
check_processes() { [ "$all" -eq 13 ] || { pgrep -u pilot -af 'sleep 4242'; return 1; }; }
ended_by() { # NAME REASON: its record says so
    until_true 15 sh -c "cat $LOG/*.ndjson | grep -q '\"payload-end\".*$(of "$1" global)'"
    field payload-end "$1" .event.reason | tee /dev/stderr | grep -E "$2"
}
check_rm() {
    remove condor_rm plain 9 10
    ended_by plain 'SIGTERM'
}
# One that ignores the signal goes when HTCondor's patience is at its end (MaxVacateTime, 5 s here).
check_rm_stubborn() {
    remove condor_rm stubborn 4 20
    # Who is killed writes nothing: the next launch does.
    as pilot "$RUNTIME" exec "$IMAGE" true
    ended_by stubborn '.'
}
check_vacate() {
    remove condor_vacate_job traps 0 10
    ended_by traps 'code 9'
    # shellcheck disable=SC2317 # by until_true
    kept() { find "$POOL/spool" -name caught.txt | grep -q .; }
    until_true 10 kept
}
check check_processes "ends: the processes of three jobs run, some in sessions of their own"
check check_rm "ends: condor_rm, all processes gone, the record says by which signal"
check check_rm_stubborn "ends: condor_rm of one that ignores it"
check check_vacate "ends: condor_vacate_job, the job's own handler runs and its file is kept"

# --- into a job that runs, and what never starts ---

# HTCondor's sshd runs outside; its shell enters the namespaces of the runtime's grandchild with condor_nsenter.
check_ssh() {
    local command out=/run/bed.ssh said
    command="condor_ssh_to_job -auto-retry $(id_of shell)"
    : >"$out"
    # Keys are pressed when somebody is there to see them.
    # shellcheck disable=SC2016,SC2094 # the inner shell's own; read while it is written
    (
        until_true 30 grep -q 'running with pid' "$out" >&2
        sleep 1
        printf '%s\n' 'echo colour:$COLOUR; echo in:$(pwd); tty; ls -d /data /images; echo processes:$(ls /proc | grep -c "^[0-9]"); cat /etc/os-release'
        until_true 10 grep -q 'BUG_REPORT_URL' "$out" >&2
        printf 'exit\n'
        sleep 1
    ) | as "${SSH_USER:-pilot}" TERM=xterm timeout 45 script -qec "$command" /dev/null >"$out" || true
    said=$(tr -d '\r' <"$out")
    echo "$said"
    grep -Fx colour:green <<<"$said"
    grep -Fx in:/srv <<<"$said"
    grep -x '/dev/pts/[0-9]*' <<<"$said"
    grep -Fx /data <<<"$said"
    grep -F 'VERSION_ID="12"' <<<"$said"
    grep -E "^ls: cannot access '/images'" <<<"$said"
    [ "$(sed -n 's/^processes://p' <<<"$said")" -lt 10 ]
}
check_nothing_else() {
    # The job goes on.
    [ "$(alive 'sleep 300')" -ge 1 ]
}
check_image() {
    until_true 20 grep -q 'Singularity test failed' "$POOL/jobs/noimage/log"
    grep -F 'Singularity test failed:FATAL:' "$POOL/jobs/noimage/log" | grep -E 'bailey\[125\]: .*/images/none'
    if grep -q '^005 ' "$POOL/jobs/noimage/log"; then return 1; fi
}
check check_ssh "ssh: condor_ssh_to_job is in the job's namespaces, with its variables and a terminal"
check check_nothing_else "ssh: the job goes on after it"
check check_image "test: an image that cannot be used is known before the job starts, and the user's log says why"
as pilot condor_rm -all >/dev/null
no_starter() { ! pgrep -u pilot condor_starter; }
until_true 20 no_starter || true

# A node that cannot record is found by the test as well; nothing of the job has run.
check_unrecorded() {
    local code=0 mode
    mode=$(stat -c %a "$LOG")
    chmod 0000 "$LOG"
    submit norecord "arguments = \"-c 'touch $SHARED/ran'\""
    until_true 40 grep -q 'Singularity test failed' "$POOL/jobs/norecord/log" || code=$?
    chmod "$mode" "$LOG"
    as pilot condor_rm -all
    is "$code" 0 "the wait for the test"
    grep -F 'Singularity test failed:FATAL:' "$POOL/jobs/norecord/log" |
        grep -F 'bailey[122]: your job was not run, because this node cannot record it'
    if [ -e "$SHARED/ran" ]; then return 1; fi
}
check check_unrecorded "test: a node that cannot record is known before the job starts"
until_true 20 no_starter || true

# --- second batch: by the name of singularity, no directory of the site's choice, HTCondor 24's launcher, images with scripts, glideinWMS's wrapper ---

cat "$POOL/base" - >"$POOL/condor_config" <<CONF
SINGULARITY = ${RUNTIME%/*}/singularity
SINGULARITY_JOB = TARGET.Glidein =!= True
SINGULARITY_IMAGE_EXPR = TARGET.SingularityImage ?: TARGET.ContainerImage ?: "$IMAGE"
SINGULARITY_BIND_EXPR = "$POOL/jobs/launcher.sh:/condor_container_launcher.sh"
USER_JOB_WRAPPER = $POOL/jobs/wrapper.sh
CONF
scripted() { # NAME: an image of busybox with a run script and a test script
    mkdir -p "/images/$1/bin" "/images/$1/.singularity.d"
    cp /usr/bin/busybox "/images/$1/bin/busybox"
    ln -sf busybox "/images/$1/bin/sh"
    printf '#!/bin/sh\necho "run script: $*"\nexit 3\n' >"/images/$1/.singularity.d/runscript"
    printf '#!/bin/sh\necho "test script"\nexit %s\n' "$2" >"/images/$1/.singularity.d/test"
    chmod 0755 "/images/$1/.singularity.d/runscript" "/images/$1/.singularity.d/test"
}
scripted tested 0
scripted refused 4
submit launched "executable = /condor_container_launcher.sh" "transfer_executable = false" "arguments = \"/bin/sh -c 'pwd >cwd.txt; env >env.txt; exit 5'\"" \
    "transfer_output_files = .condor_container_launched,cwd.txt,env.txt,prefix.txt" 'environment = "COLOUR=violet"'
submit here "should_transfer_files = NO" "when_to_transfer_output =" "arguments = \"-c 'pwd >cwd.txt; echo \$HOME >home.txt'\""
submit script "universe = container" "container_image = /images/tested/" "transfer_container = false" "# no executable" "arguments = one two"
submit refused "arguments = \"-c 'exit 0'\"" '+SingularityImage = "/images/refused"'
submit glidein "$own" "arguments = one" "+Glidein = true" "transfer_input_files = ../input.txt" "transfer_output_files = ." \
    'environment = "COLOUR=red"'
for job in launched here script glidein; do
    waits "$job" || die "the job $job does not end: $(tail -n 5 "$POOL/jobs/$job/log")"
    learn "$job"
done
check_launched() {
    returned launched 5
    # Without it, HTCondor takes the code for the runtime's and not for the job's.
    [ -e "$POOL/jobs/launched/.condor_container_launched" ]
    grep -E "^$POOL/execute/dir_[0-9]+$" "$POOL/jobs/launched/cwd.txt"
}
# By this name the starter has another prefix for the job's variables.
check_singularity() {
    [[ $("${RUNTIME%/*}/singularity" --version) =~ ^singularity\ version\ [0-9]+\.[0-9]+\.[0-9]+ ]]
    is "$(of launched prefix.txt)" SINGULARITYENV_COLOUR=violet "what the starter set"
    grep -x COLOUR=violet "$POOL/jobs/launched/env.txt"
}
check_here() {
    returned here 0
    is "$(of here cwd.txt)" "$POOL/jobs/here" "cwd"
}
check_script() {
    returned script 3
    is "$(of script out)" "run script: one two" "stdout"
}
check_refused() {
    until_true 20 grep -q 'Singularity test failed' "$POOL/jobs/refused/log"
    grep 'Singularity test failed:.*test script' "$POOL/jobs/refused/log"
}
check_glidein() {
    is "$(of glidein probe.code)" 0 "the probe's code"
    [[ $(head -n 1 "$POOL/jobs/glidein/probe.out" | tr -s ' ' | sed 's/^ //') =~ ^[0-9]+\ [0-9]+\ [0-9]+$ ]]
    if grep FATAL "$POOL/jobs/glidein/probe.err"; then return 1; fi
    is "$(sed -n 1p "$POOL/jobs/glidein/probe.version")" "$("$RUNTIME" --version)" "--version"
    is "$(sed -n 2p "$POOL/jobs/glidein/probe.version")" "$("$RUNTIME" version)" "version"
}
check_glidein_job() {
    returned glidein 0
    is "$(of glidein out)" "to stdout" "stdout"
    is "$(of glidein cwd.txt)" /srv cwd
    is "$(of glidein result.txt)" "from the submitter" "the input"
    grep -x HOME=/srv "$POOL/jobs/glidein/env.txt"
    grep -x COLOUR=red "$POOL/jobs/glidein/env.txt"
    grep -E ' /cvmfs ' "$POOL/jobs/glidein/mounts.txt"
    if grep -q '^BATCH_SYSTEM=' "$POOL/jobs/glidein/env.txt"; then return 1; fi
    is "$(field payload-launch glidein .grid.job.id)" "$(of glidein global)" "job id"
}
check check_launched "launcher: the mark of HTCondor 24 is made, in a directory by its own name"
check check_singularity "job: its variables by SINGULARITYENV_, where the name is singularity"
check check_here "job: without file transfer, in the submitter's directory"
check check_script "run: the image's own script, with arguments and code"
check check_refused "test: the image's own test decides"
check check_glidein "glideinWMS: version and function probe"
check check_glidein_job "glideinWMS: its wrapper's job, with the id from the job ad"

each_has_an_end() {
    local launched ended
    launched=$(records 'select(.event.action == "payload-launch") | .event.id' | sort)
    ended=$(records 'select(.event.action == "payload-end" or .event.action == "launch-failed") | .event.id' | sort)
    [ -n "$launched" ]
    comm -23 <(echo "$launched") <(echo "$ended") | tee /dev/stderr | wc -l | grep -qx 0
}
check_log() {
    as pilot bailey verify "$LOG"
    each_has_an_end
}
as pilot "$RUNTIME" exec "$IMAGE" true
check check_log "records: the log is whole, each launch has its end"

# --- third batch: HTCondor as sites install it, as root, with a recorder ---

kill -QUIT "$(pgrep -u pilot -x condor_master)"
wait "$master" || true
useradd -r -s /usr/sbin/nologin bailey
useradd -m -s /bin/sh dana
install -d -o bailey -g bailey -m 0755 /run/bailey /var/lib/bailey
install -d -o bailey -g bailey -m 0750 /var/log/bailey
cat >/etc/bailey/conf.d/10-bed.toml <<TOML
[audit]
recorder = "required"
TOML
setpriv --reuid bailey --regid bailey --clear-groups env -i PATH=/usr/bin:/bin /usr/libexec/bailey/bailey-recorder >/srv/recorder.said 2>&1 &
until_true 10 test -S /run/bailey/recorder.sock || die "the recorder does not start: $(cat /srv/recorder.said)"
POOL=/var/lib/site
LOG=/var/log/bailey
mkdir -p "$POOL"/{log,spool,lock,run,execute,cred,tokens/none,passwords.d,jobs}
chown condor: "$POOL"/{log,spool,lock,run,execute}
cp /var/lib/pool/jobs/*.sh /var/lib/pool/jobs/input.txt "$POOL/jobs/"
head -c 64 /dev/urandom >"$POOL/passwords.d/POOL"
chmod 0600 "$POOL/passwords.d/POOL"
sed "s|/var/lib/pool|$POOL|; s|pilot@bed|root@bed, condor@bed, condor_pool@bed|" /var/lib/pool/base >"$POOL/base"
# No control groups of this machine's.
printf 'BASE_CGROUP =\n' >>"$POOL/base"
configure "On the worker node"
# HTCondor itself, without an account of the pool.

CONDOR_CONFIG=$POOL/condor_config condor_master -f >/srv/master.said 2>&1 &
slots_ready
check HAS_SINGULARITY "as root: HasSingularity is true"
check check_sandbox "as root: pid namespaces are advertised"
SUBMIT_USER=pilot submit look "$own" "arguments = \"one 'two words' ''\"" "transfer_input_files = ../input.txt" "transfer_output_files = ."
SUBMIT_USER=dana submit seven "arguments = \"-c 'exit 7'\""
SUBMIT_USER=dana submit plain "executable = ../tree.sh" "transfer_executable = true" "arguments = plain"
SUBMIT_USER=dana submit shell "arguments = \"-c 'sleep 300'\"" 'environment = "COLOUR=green"'
for job in look seven; do
    waits "$job" || die "the job $job does not end: $(tail -n 5 "$POOL/jobs/$job/log")"
    learn "$job"
done
for job in plain shell; do
    until_true 30 running "$job" || die "the job $job does not start: $(tail -n 5 "$POOL/jobs/$job/log")"
    as pilot condor_q -allusers "$(id_of "$job")" -af GlobalJobId >"$POOL/jobs/$job/global"
done
look=$POOL/jobs/look
check_accounts() {
    returned look 0
    returned seven 7
    is "$(of look args.txt)" "<one><two words><>" arguments
    is "$(of look writable.txt)" ok "/tmp, /var/tmp and HOME"
    is "$(field payload-launch look .process.real_user.id)" "$(id -u pilot)" "the account of look"
    is "$(field payload-launch seven .process.real_user.id)" "$(id -u dana)" "the account of seven"
    is "$(field payload-end seven .process.exit_code)" 7 "the code of seven"
    is "$(field payload-launch look .grid.job.id)" "$(of look global)" "job id"
    is "$(records 'select(.event.action == "payload-launch" and .process.executable == "/exit_37") | .process.real_user.id' | sort -u)" \
        "\"$(id -u condor)\"" "the account of the probe"
    [[ $(field payload-launch look .grid.sandbox.recorder) == on* ]]
}
check_rm_of_dana() {
    # shellcheck disable=SC2317 # by until_true
    left() { [ "$(pgrep -u dana -f 'sleep 4242' | wc -l)" -eq "$1" ]; }
    until_true 10 left 4
    as dana condor_rm "$(id_of plain)"
    until_true 10 left 0
    ended_by plain 'SIGTERM'
}
check_recorders_log() {
    until_true 20 sh -c '! pgrep -u dana'
    /usr/libexec/bailey/bailey-admin verify "$LOG"
    each_has_an_end
}
check check_accounts "as root: two accounts' jobs, in the log of a recorder that neither can change"
check check_rm_of_dana "as root: condor_rm"
SSH_USER=dana check check_ssh "as root: condor_ssh_to_job"
as dana condor_rm -all >/dev/null
check check_recorders_log "as root: the recorder's log is whole, each launch has its end"
# What this machine's HTCondor did about cgroups, for the reader.
grep -h -i 'writeable cgroup\|cannot use cgroups' /var/lib/pool/log/StarterLog.slot1 | sed 's/^[0-9/]* [0-9:]* *//' | sort -u | sed 's/^/# cgroups: /'
sed 's/^/# gone after /' /run/bed.times
