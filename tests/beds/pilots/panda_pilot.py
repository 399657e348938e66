"""The PanDA pilot 3 starts payloads through our `apptainer`: its own job object, queue data, executor, container code and error
diagnosis, in raw mode ("singularity" as Container.setup_type). Only the files that a site, CRIC and Harvester hand it are made here;
no class is patched. ALRB, its other mode, is not covered. Called in the pilot's directory, as the pilot."""

import argparse
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bed import IMAGE, POOL, at, check, launch_of, processes, traced, until  # noqa: E402

HOME = os.getcwd()
QUEUE = "BED_QUEUE"
sys.path.insert(0, "/opt/panda")


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        return f"({error})"


# The pilot's configuration file, with the one line that a site changes for raw mode; and without the memory monitor, which lies
# in ATLAS's part of /cvmfs (that the pilot finds the payload for it is checked below).
with open("/opt/panda/pilot/util/default.cfg", encoding="utf-8") as defaults:
    configuration = defaults.read()
configuration = re.sub(r"(?m)^setup_type: ALRB$", "setup_type: singularity", configuration)
write("pilot.cfg", configuration.replace("utility_after_payload_started: MemoryMonitor", "utility_after_payload_started:"))
os.environ.update(
    HARVESTER_PILOT_CONFIG=f"{HOME}/pilot.cfg",
    PILOT_USER="atlas",
    PILOT_HOME=HOME,
    PILOT_WORK_DIR=HOME,
    PILOT_SOURCE_DIR=HOME,
    PILOT_SITENAME=QUEUE,
    PILOT_RUCIO_SITENAME="BED",
    PILOT_VERSION=read("/opt/panda/PILOTVERSION").strip() if os.path.exists("/opt/panda/PILOTVERSION") else "3.7.0.36",
    STORAGEDATA_SERVER_URL=f"{HOME}/ddmendpoints.json",
    HARVESTER_ID="bed-harvester",
    HARVESTER_WORKER_ID="77",
)
os.makedirs(f"{POOL}/storage", exist_ok=True)
write(f"{POOL}/storage/input", "line of the storage\n")
# Queue data and storages, where the pilot looks before it asks a server.
QUEUEDATA = {
    "name": QUEUE,
    "nickname": QUEUE,
    "resource": QUEUE,
    "site": "BED",
    "status": "online",
    "container_type": "apptainer:pilot",
    "container_options": "",
    "catchall": "",
    "maxtime": 3600,
}
write("queuedata.json", json.dumps(QUEUEDATA))
write("agis_schedconf.cvmfs.json", json.dumps({QUEUE: QUEUEDATA}))
write("ddmendpoints.json", json.dumps({"BED_DISK": {"name": "BED_DISK", "id": 1}}))
write("agis_ddmendpoints.json", json.dumps({"BED_DISK": {"name": "BED_DISK", "id": 1}}))
logging.basicConfig(filename=f"{HOME}/pilot.log", level=logging.DEBUG)

from pilot.common.errorcodes import ErrorCodes  # noqa: E402
from pilot.control.job import create_job  # noqa: E402
from pilot.control.payload import perform_initial_payload_error_analysis  # noqa: E402
from pilot.control.payloads.generic import Executor  # noqa: E402
from pilot.info import infosys  # noqa: E402
from pilot.user.atlas.diagnose import interpret  # noqa: E402
from pilot.user.atlas.setup import get_payload_environment_variables  # noqa: E402
from pilot.user.atlas.utilities import get_proper_pid  # noqa: E402
from pilot.util.config import config  # noqa: E402
from pilot.util.container import execute  # noqa: E402
from pilot.util.processes import kill_processes  # noqa: E402

errors = ErrorCodes()
infosys.init(QUEUE)
ARGUMENTS = argparse.Namespace(timing={}, graceful_stop=threading.Event(), mainworkdir=HOME, sourcedir=HOME)
# What the pilot takes for an error of the runtime, by what stands on stderr.
OF_RUNTIME = {
    errors.SINGULARITYGENERALFAILURE,
    errors.SINGULARITYNOLOOPDEVICES,
    errors.SINGULARITYBINDPOINTFAILURE,
    errors.SINGULARITYIMAGEMOUNTFAILURE,
    errors.SINGULARITYNOTINSTALLED,
    errors.SINGULARITYNEWUSERNAMESPACE,
    errors.SINGULARITYFAILEDUSERNAMESPACE,
    errors.SINGULARITYRESOURCEUNAVAILABLE,
    errors.APPTAINERNOTINSTALLED,
}
OF_OTHERS = {errors.NOLOCALSPACE, errors.PAYLOADOUTOFMEMORY, errors.MISSINGINSTALLATION, errors.SETUPFATAL, errors.MKDIR}


def new_job(number, image=IMAGE, **queuedata):
    """The job as the pilot makes it from the dispatcher's answer; queue data may be another queue's."""
    write("queuedata.json", json.dumps({**QUEUEDATA, **queuedata}))
    write("agis_schedconf.cvmfs.json", json.dumps({QUEUE: {**QUEUEDATA, **queuedata}}))
    infosys.init(QUEUE)
    os.environ["PanDA_TaskID"] = "880011"
    job = create_job(
        {
            "PandaID": number,
            "taskID": "880011",
            "attemptNr": 1,
            "jobPars": "none",
            "transformation": "bed_tf.py",
            "prodUserID": "/DC=org/DC=example/CN=Jane Doe",
            "container_name": image,
            "cmtConfig": "x86_64-debian12-gcc12-opt",
            "processingType": "bed",
            "prodSourceLabel": "user",
            "jobsetID": "1",
        },
        QUEUE,
    )
    job.workdir = os.path.join(HOME, f"PanDA_Pilot-{number}")
    os.makedirs(job.workdir)
    job.usecontainer = True
    return job


def start(job, command):
    """As execute_payloads() and the executor do it: files for both streams, then run_payload()."""
    with (
        open(os.path.join(job.workdir, config.Payload.payloadstdout), "wb") as out,
        open(os.path.join(job.workdir, config.Payload.payloadstderr), "wb") as err,
    ):
        executor = Executor(ARGUMENTS, job, out, err, argparse.Namespace(pilot={}))
        # The pilot puts these before every payload's command.
        variables = get_payload_environment_variables(
            command, job.jobid, job.taskid, job.attemptnr, job.processingtype, QUEUE, job.is_analysis()
        )
        return executor, executor.run_payload(job, "".join(variables) + "echo {} >jobReport.json;" + command, out, err)


def diagnose(job, code):
    """What the pilot makes of the end: its codes, in its order."""
    errors.reset_pilot_errors()
    perform_initial_payload_error_analysis(job, code)
    job.exitcode = code
    interpret(job)
    found = list(ErrorCodes.pilot_error_codes)
    diagnostics = list(ErrorCodes.pilot_error_diags)
    errors.reset_pilot_errors()
    job.reset_errors()
    return found, diagnostics


def run(number, command, **more):
    """A job from its start to the pilot's diagnosis."""
    job = new_job(number, **more)
    executor, process = start(job, command)
    code = executor.wait_graceful(ARGUMENTS, process)
    streams = [read(os.path.join(job.workdir, name)) for name in (config.Payload.payloadstdout, config.Payload.payloadstderr)]
    found, diagnostics = diagnose(job, code)
    return argparse.Namespace(job=job, code=code, out=streams[0], err=streams[1], found=found, diagnostics=diagnostics)


check("panda: raw mode by the pilot's configuration", config.Container.setup_type == "singularity")

# A job that ends well.
got = run(
    "6412345678",
    'echo "payload of job $PandaID in $(. /etc/os-release; echo $ID-$VERSION_ID)"; cat /cvmfs/example.org/software; '
    "echo result >output.root; ls -ld /home >/dev/null && echo home-is-there; exit 0",
)
check("panda: the pilot's command ends well", got.code == 0, f"{got.code} {got.err}")
check("panda: the payload's output", "payload of job 6412345678 in debian-12" in got.out, got.out)
check("panda: it starts in its work directory", got.job.workdir in got.out.splitlines(), got.out)
check("panda: /cvmfs", "a file of the software area" in got.out, got.out)
check("panda: /home", "home-is-there" in got.out, got.out)
check("panda: its output file", read(f"{got.job.workdir}/output.root") == "result\n")
check("panda: the pilot finds no error", not got.found, f"{got.found} {got.diagnostics}")
check("panda: nothing on stderr", got.err == "", got.err)
launch, end = launch_of("6412345678")
check("panda: the launch record has PANDAID", bool(launch), traced("6412345678"))
check("panda: and the task", at(launch, "grid.job.task") == "880011", at(launch, "grid.job"))
check("panda: and the work directory's bind", got.job.workdir in json.dumps(at(launch, "grid.mounts")), at(launch, "grid.mounts"))
check("panda: its end", at(end, "process.exit_code") == 0, end)
check("panda: bailey trace --job finds it", re.search(r"job +6412345678\b", traced("6412345678")), traced("6412345678"))

# By the other name, with options of the queue, from their old place in catchall. The pilot continues the last one: a list of binds.
got = run(
    "6412345679",
    "echo contained; cat /data/input; ls /home/*; touch /data/x 2>/dev/null && echo written",
    container_type="singularity:pilot;docker:wrapper",
    catchall=f"singularity_options='--contain -B {POOL}/storage:/data:ro'",
)
check("panda: singularity by name, --contain", "contained" in got.out, f"{got.code} {got.out} {got.err}")
check("panda: and its bind, read-only", "line of the storage" in got.out and "written" not in got.out, got.out)
check("panda: and no error of the runtime is found", not set(got.found) & OF_RUNTIME, f"{got.found} {got.diagnostics}")

# Codes and words of payloads are the payload's.
got = run("6412345680", "echo 'Error: no such event' >&2; exit 65")
check("panda: the payload's exit code", got.code == 65, got.code)
check("panda: is an error of the payload", got.found[:1] == [errors.PAYLOADEXECUTIONFAILURE], got.found)
check("panda: and its words are the diagnosis", "no such event" in json.dumps(got.diagnostics), got.diagnostics)
launch, end = launch_of("6412345680")
check("panda: the record has the code", at(end, "process.exit_code") == 65, end)
got = run("6412345681", "kill -SEGV $$")
check("panda: a signal's code", got.code == 139, got.code)

# What bailey refuses: rc 255, one FATAL line, no word that the pilot would take for something else.
REFUSALS = {
    "an image that is not there": {"image": "/nonexistent/image"},
    "a bind of what is not there": {"container_options": "-B /nonexistent/source"},
    "an unknown flag": {"container_options": "--no-such-flag -B /cvmfs"},
    "a flag that is refused": {"container_options": "--fakeroot -B /cvmfs"},
    "an image without a shell": {"image": f"{POOL}/empty-image"},
}
os.makedirs(f"{POOL}/empty-image", exist_ok=True)
for place, (name, more) in enumerate(REFUSALS.items()):
    got = run(str(6412345700 + place), "echo ran", **more)
    check(f"panda: {name}: 255", got.code == 255 and "ran" not in got.out.split(), f"{got.code} {got.out} {got.err}")
    check(f"panda: {name}: FATAL with a number", re.search(r"(?m)^FATAL: +bailey\[\d+\]: ", got.err) is not None, got.err)
    wrong = (set(got.found) & (OF_RUNTIME | OF_OTHERS)) or got.found[:1] != [errors.PAYLOADEXECUTIONFAILURE]
    check(f"panda: {name}: no false diagnosis", not wrong, f"{got.found} {got.diagnostics} {got.err}")

# Where no user namespace can be made the pilot has a code of its own, by the words: those of a real refusal, of which root made the
# namespace for it (pilots-inside.sh), and which is repeated here for the pilot to hear.
REFUSAL = read(f"{POOL}/no-user-namespace")
os.makedirs(f"{HOME}/none-left")
write(f"{HOME}/none-left/apptainer", f"#!/bin/sh\ncat {POOL}/no-user-namespace >&2\nexit 255\n")
os.chmod(f"{HOME}/none-left/apptainer", 0o755)
check("panda: no user namespace: a real refusal", REFUSAL.startswith("FATAL:   bailey[125]: "), REFUSAL)
path = os.environ["PATH"]
os.environ["PATH"] = f"{HOME}/none-left:{path}"
got = run("6412345720", "echo ran")
os.environ["PATH"] = path
check("panda: no user namespace: what it heard", got.code == 255 and REFUSAL in got.err, f"{got.code} {got.out} {got.err}")
check(
    "panda: no user namespace: the pilot's own code for it",
    got.found[:1] == [errors.SINGULARITYFAILEDUSERNAMESPACE],
    f"{got.found} {got.diagnostics} {got.err}",
)

# Its ways of ending a payload.
job = new_job("6412345730")
executor, process = start(job, "trap 'echo told >told; exit 0' TERM; echo up >up; for i in $(seq 600); do sleep 0.1; done")
check(
    "panda: the pilot finds the payload's process",
    until(30, lambda: os.path.exists(f"{job.workdir}/up"))
    and b"PandaID=6412345730" in open(f"/proc/{get_proper_pid(job.pid, job.pgrp, job.jobid)}/cmdline", "rb").read(),
)
check("panda: a payload to end", until(30, lambda: os.path.exists(f"{job.workdir}/up")), read(f"{job.workdir}/payload.stderr"))
kill_processes(process.pid, korphans=False, nap=3)
check("panda: kill_processes(): the payload is told", until(5, lambda: os.path.exists(f"{job.workdir}/told")))
check("panda: and the pilot's child is gone", until(10, lambda: process.poll() is not None), process.poll())
_, end = launch_of("6412345730")
check("panda: the end is in the log", bool(end), traced("6412345730"))

job = new_job("6412345731")
STUBBORN = "trap '' TERM INT HUP; (trap '' TERM; exec setsid sleep 7351) & echo up >up; exec sleep 7352"
executor, process = start(job, STUBBORN)
check("panda: a stubborn payload", until(30, lambda: os.path.exists(f"{job.workdir}/up") and processes("7352")))
kill_processes(process.pid, nap=2)
check("panda: kill_processes(): it ends, and what it left behind", until(10, lambda: not processes("7351") and not processes("7352")))
process.wait(timeout=10)
check("panda: and nothing of it is bailey's", until(10, lambda: not processes("apptainer")), processes("apptainer"))

job = new_job("6412345732")
began = time.monotonic()
code, out, err = execute("exec sleep 7353", workdir=job.workdir, usecontainer=True, job=job, cwd=job.workdir, timeout=3)
check("panda: execute() with a time limit", code == errors.COMMANDTIMEDOUT and time.monotonic() - began < 60, f"{code} {err}")
check("panda: nothing runs on", until(10, lambda: not processes("7353")), processes("7353"))

# The pilot's wrapper: a probe, then itself in the image, in the background, with traps that hand signals on.
WRAPPER = f"""
cd {HOME}/wrapper
export APPTAINERENV_X509_USER_PROXY=$X509_USER_PROXY APPTAINERENV_ATLAS_LOCAL_AREA=/cvmfs/example.org APPTAINERENV_TMPDIR=/tmp \
    APPTAINERENV_GTAG=https://logs.bed.example/77 APPTAINERENV_RECOVERY_DIR=/none
apptainer --version >version || exit 90
trap 'kill -TERM $child' TERM
apptainer exec -B /cvmfs:/cvmfs -B $PWD --cleanenv --env PATH=/usr/bin:/bin --env HARVESTER_ID=$HARVESTER_ID {IMAGE} ./inside.sh one two &
child=$!
wait $child
code=$?
if [ $code -gt 128 ]; then wait $child; code=$?; fi
exit $code
"""
os.makedirs(f"{HOME}/wrapper")
write(
    f"{HOME}/wrapper/inside.sh",
    '#!/bin/bash\ntrap "echo told >told; exit 143" TERM\necho "inside ${SINGULARITY_ENVIRONMENT:+is known} $GTAG $HARVESTER_ID $1 $2 in $(pwd)"\n'
    '[ -z "$PILOT_SECRET" ] || echo leaked\nif [ "$1" = one ] && [ ! -e wait ]; then exit 12; fi\necho up >up\nfor i in $(seq 600); do sleep 0.1; done\n',
)
os.chmod(f"{HOME}/wrapper/inside.sh", 0o755)
wrapper_environment = {**os.environ, "PILOT_SECRET": "of-the-pilot"}
for name in ("PANDAID", "PanDA_TaskID"):
    wrapper_environment.pop(name, None)
wrapped = subprocess.run(["/bin/bash", "-c", WRAPPER], capture_output=True, text=True, timeout=60, check=False, env=wrapper_environment)
check("panda: the wrapper's own call", wrapped.returncode == 12, f"{wrapped.returncode} {wrapped.stdout} {wrapped.stderr}")
check("panda: the wrapper's variables", f"inside is known https://logs.bed.example/77 bed-harvester one two in {HOME}/wrapper" in wrapped.stdout, wrapped.stdout)
check("panda: and no other", "leaked" not in wrapped.stdout and "inside" in wrapped.stdout, wrapped.stdout)
check("panda: the wrapper's probe", re.fullmatch(r"apptainer version \d+\.\d+\.\d+\S*\n", read(f"{HOME}/wrapper/version")) is not None, read(f"{HOME}/wrapper/version"))
write(f"{HOME}/wrapper/wait", "")
with subprocess.Popen(["/bin/bash", "-c", WRAPPER], stdout=subprocess.DEVNULL, env=wrapper_environment) as process:
    check("panda: the wrapper waits", until(30, lambda: os.path.exists(f"{HOME}/wrapper/up")))
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=30)
check("panda: the wrapper's signal reaches the pilot inside", os.path.exists(f"{HOME}/wrapper/told") and code == 143, code)
