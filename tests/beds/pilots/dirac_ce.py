"""DIRAC 9 starts payloads through our `apptainer`: the factory makes its SingularityComputingElement from pilot.cfg, and submitJob()
is called as its JobAgent calls it. Inside, DIRAC's own job wrapper runs the user's program. No class is patched; the wrapper's
server is a stand-in (vo_services.py). Called in the pilot's directory, as the pilot, with DIRAC's Python."""

import json
import os
import re
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vo_services  # noqa: E402
from bed import IMAGE, POOL, at, check, launch_of, records, traced, until  # noqa: E402

PILOT = os.getcwd()
CONTAINERS = os.path.join(PILOT, "DIRAC_containers")
CALLS = os.path.join(PILOT, "calls.json")
PILOT_REFERENCE = "https://ce.bed.example/jobs/pilot-17"
CONFIGURATION = """
DIRAC
{
  VirtualOrganization = bed
  Security
  {
    UseServerCertificate = no
    SkipCAChecks = yes
  }
}
LocalSite
{
  Site = LCG.Bed.org
  GridCE = ce.bed.example
  CEQueue = long
  PilotReference = @REFERENCE@
  MaxRAM = 2048
  Singularity
  {
    CEType = Singularity
    ContainerRoot = @IMAGE@
    ContainerBind = @POOL@/sandbox:/sandbox:ro,@POOL@/storage:/storage
    KeepWorkArea = True
  }
}
Systems
{
  WorkloadManagement
  {
    URLs
    {
      JobStateUpdate = @SERVER@/WorkloadManagement/JobStateUpdate
      JobMonitoring = @SERVER@/WorkloadManagement/JobMonitoring
    }
    JobWrapper
    {
      CleanUpFlag = False
    }
  }
  Accounting
  {
    URLs
    {
      DataStore = @SERVER@/Accounting/DataStore
    }
  }
  RequestManagement
  {
    URLs
    {
      ReqManager = @SERVER@/RequestManagement/ReqManager
    }
  }
}
"""

# The user's programs.
HELLO = r"""#!/bin/bash
echo "payload of job $JOBID at $DIRACSITE on $(. /etc/os-release; echo "$ID-$VERSION_ID")"
env -0 >env.out
cp /tmp/proxy proxy.first
echo "directory $(pwd), home $HOME, program $(readlink /proc/self/exe)"
echo from-tmp >/tmp/left-in-tmp
echo from-var-tmp >/var/tmp/left-in-var-tmp
echo result >/storage/result-of-$JOBID
cat /sandbox/input
touch ready
for turn in $(seq 300); do
    if grep -q RENEWED /tmp/proxy; then
        echo "the proxy is the renewed one"
        exit 0
    fi
    sleep 0.1
done
exit 9
"""
FAILS = """#!/bin/bash
echo "this one fails"
exit 7
"""
# What a user's program does who is after the pilot's identity: its proxy by path, through its processes, from their environments.
STEALS = r"""#!/bin/bash
for file in @PILOT@/pilot.proxy /proc/[0-9]*/cwd/pilot.proxy /proc/[0-9]*/root@PILOT@/pilot.proxy; do
    if grep -q 'PRIVATE KEY' "$file" 2>/dev/null; then echo "STOLEN: proxy by $file"; fi
done
for file in /proc/[0-9]*/environ; do
    if grep -aq 'PILOT_SECRET=of-the-pilot' "$file" 2>/dev/null; then echo "STOLEN: environment by $file"; fi
done
if [ -n "$PILOT_SECRET" ]; then echo "STOLEN: variable"; fi
if kill -0 @PID@ 2>/dev/null; then echo "STOLEN: a signal reaches the pilot"; fi
echo "looked for the pilot's identity"
exit 0
"""


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        return f"({error})"


def make_proxy(path, name):
    """A certificate and its key, as one PEM: of nobody, but of a proxy's form."""
    subprocess.run(
        ["/usr/bin/openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path + ".key", "-out", path + ".cert"]
        + ["-days", "2", "-subj", f"/DC=org/DC=example/CN={name}"],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    write(path, read(path + ".cert") + read(path + ".key"), 0o600)
    return read(path)


os.umask(0o022)
for folder in ("sandbox", "storage"):
    os.makedirs(os.path.join(POOL, folder), exist_ok=True)
port = vo_services.start(CALLS)
write(
    "pilot.cfg",
    CONFIGURATION.replace("@IMAGE@", os.environ.get("BED_DIRAC_IMAGE", IMAGE))
    .replace("@POOL@", POOL)
    .replace("@REFERENCE@", PILOT_REFERENCE)
    .replace("@SERVER@", f"http://127.0.0.1:{port}"),
)
write(f"{POOL}/sandbox/hello", HELLO, 0o755)
write(f"{POOL}/sandbox/fails", FAILS, 0o755)
steals = STEALS.replace("@PILOT@", PILOT).replace("@PID@", str(os.getpid()))
write(f"{POOL}/sandbox/steals", steals, 0o755)
write(f"{POOL}/sandbox/input", "line of the input sandbox\n")
make_proxy("pilot.proxy", "Robot: pilot")
user_proxy = make_proxy("user.proxy", "Jane Doe")
os.environ.update(
    X509_USER_PROXY=os.path.join(PILOT, "pilot.proxy"),
    X509_CERT_DIR="/etc/ssl/certs",
    DIRAC_PILOT_STAMP="0123456789abcdef0123456789abcdef",
    PILOT_SECRET="of-the-pilot",
)

sys.argv = ["dirac_ce", "--cfg", "pilot.cfg"]
from DIRAC.Core.Base.Script import Script  # noqa: E402

Script.parseCommandLine(ignoreErrors=False)
from DIRAC.Core.Utilities.File import secureOpenForWrite  # noqa: E402
from DIRAC.Resources.Computing.ComputingElementFactory import ComputingElementFactory  # noqa: E402

made = ComputingElementFactory().getCE(ceType="Singularity", ceName="Singularity")
if not check("dirac: the CE is made from pilot.cfg", made["OK"], made):
    sys.exit(1)
ce = made["Value"]


def submit(job, executable, owner="jdoe"):
    """As JobAgent._submitJob does it."""
    parameters = {
        "JobID": job,
        "Owner": owner,
        "OwnerGroup": "bed_user",
        "JobType": "User",
        "JobName": "bed",
        "JobGroup": "tests",
        "Executable": executable,
        "StdOutput": "std.out",
        "StdError": "std.err",
    }
    description = {
        "jobID": job,
        "jobParams": parameters,
        "resourceParams": {"PilotReference": PILOT_REFERENCE, "GridCE": "ce.bed.example", "Site": "LCG.Bed.org"},
        "optimizerParams": {},
    }
    return ce.submitJob("ignored", user_proxy, jobDesc=description, logLevel="INFO")


def area(job):
    """The CE's work area of this job."""
    names = [name for name in os.listdir(CONTAINERS) if name.startswith(f"job{job}_")] if os.path.isdir(CONTAINERS) else []
    return os.path.join(CONTAINERS, names[0]) if names else os.path.join(PILOT, "no-work-area")


def calls(job):
    """What the job wrapper told its services about this job."""
    return [call for call in map(json.loads, read(CALLS).splitlines()) if str(job) in json.dumps(call["args"])]


def renew():
    """What the CE's own task does hourly: the file is written anew, on the host."""
    if until(60, lambda: os.path.exists(f"{area(4711)}/tmp/4711/ready")):
        with secureOpenForWrite(f"{area(4711)}/tmp/proxy") as (file, _):
            file.write(user_proxy + "RENEWED\n")


# A job that ends well.
renewal = threading.Thread(target=renew)
renewal.start()
result = submit("4711", "/sandbox/hello")
renewal.join()
out = read(f"{area(4711)}/tmp/4711/std.out")
check("dirac: submitJob returns S_OK(0)", result.get("OK") and result.get("Value") == 0, result)
check("dirac: the payload's output", "payload of job 4711 at LCG.Bed.org on debian-12" in out, out)
check("dirac: directory and home", "directory /tmp/4711, home /tmp" in out, out)
check("dirac: ContainerBind, read-only", "line of the input sandbox" in out, out)
check("dirac: ContainerBind, writable", read(f"{POOL}/storage/result-of-4711") == "result\n")
check("dirac: the payload has the user's proxy", read(f"{area(4711)}/tmp/4711/proxy.first") == user_proxy)
check("dirac: a renewal on the host reaches the payload", "the proxy is the renewed one" in out, out)
check("dirac: /tmp is the work area's tmp", read(f"{area(4711)}/tmp/left-in-tmp") == "from-tmp\n")
check("dirac: /var/tmp is the work area's var_tmp", read(f"{area(4711)}/var_tmp/left-in-var-tmp") == "from-var-tmp\n")
check("dirac: retcode is the job wrapper's", read(f"{area(4711)}/tmp/retcode") == "0\n")
check("dirac: the VO hears of a job that is done", any('"Done"' in json.dumps(call) for call in calls(4711)), calls(4711))
environment = dict(
    pair.split("=", 1) for pair in read(f"{area(4711)}/tmp/4711/env.out").split("\0") if "=" in pair
)
wanted = {
    "X509_USER_PROXY": "/tmp/proxy",
    "X509_CERT_DIR": "/etc/ssl/certs",
    "DIRACSYSCONFIG": "/tmp/pilot.cfg",
    "DIRAC_PILOT_STAMP": "0123456789abcdef0123456789abcdef",
    "TMP": "/tmp",
    "TMPDIR": "/tmp",
    "JOBID": "4711",
    "APPTAINER_CONTAINER": os.environ.get("BED_DIRAC_IMAGE", IMAGE),
}
differs = {name: environment.get(name) for name, value in wanted.items() if environment.get(name) != value}
check("dirac: the environment that the CE hands on", not differs, differs)
# Besides these only what the image, the runtime, DIRAC's rc script and job wrapper, and the shell set.
known = re.compile(
    r"^(APPTAINER|SINGULARITY|BAILEY|DIRAC)[A-Z0-9_]*$|^(HOME|PATH|LD_LIBRARY_PATH|LANG|PS1|PWD|OLDPWD|SHLVL|TERM|USER|LOGNAME|SHELL|TZ|LC_ALL|LC_CTYPE"
    r"|OPENSSL_ALLOW_PROXY_CERTS|PROMPT_COMMAND|_)$"
)
strange = sorted(name for name in environment if name not in wanted and not known.match(name))
check("dirac: and nothing else of the pilot's", not strange, strange)
launch, end = launch_of("4711")
check("dirac: the launch record has the job id", bool(launch), traced("4711"))
check("dirac: and the pilot's stamp", at(launch, "grid.pilot.id") == "0123456789abcdef0123456789abcdef", at(launch, "grid.pilot"))
check("dirac: and the pilot's reference", f"dirac:{PILOT_REFERENCE}" in (at(launch, "grid.pilot.batch_job_id") or []), at(launch, "grid.pilot"))
check("dirac: and the owner", at(launch, "user.id") == "jdoe", at(launch, "grid.identity"))
check("dirac: who is declared, by DIRAC", at(launch, "grid.identity.assurance") == "declared" and at(launch, "grid.identity.source") == "dirac", at(launch, "grid.identity"))
check("dirac: its program", "/tmp/dirac_container.sh" in json.dumps(at(launch, "process")), at(launch, "process"))
check("dirac: its end", at(end, "process.exit_code") == 0, end)
check("dirac: bailey trace --job finds it", re.search(r"job +4711\b", traced("4711")), traced("4711"))

# A job that fails.
result = submit("4712", "/sandbox/fails", owner="rroe")
check("dirac: a failing program is a failing job", result.get("OK") and result.get("Value") == 1, result)
check("dirac: its output", "this one fails" in read(f"{area(4712)}/tmp/4712/std.out"))
check(
    "dirac: the VO hears why",
    any("Application Finished With Errors" in json.dumps(call) for call in calls(4712)),
    calls(4712),
)
launch, end = launch_of("4712")
check("dirac: another job, another record", at(launch, "user.id") == "rroe" and "jdoe" not in json.dumps(launch), launch)

# A program that is after the pilot.
control = subprocess.run(["/bin/bash", f"{POOL}/sandbox/steals"], capture_output=True, text=True, timeout=60, check=False).stdout
check(
    "dirac: control: beside the pilot the thief succeeds",
    all(f"STOLEN: {what}" in control for what in ("proxy", "environment", "variable", "a signal")),
    control,
)
result = submit("4713", "/sandbox/steals")
out = read(f"{area(4713)}/tmp/4713/std.out")
check("dirac: the thief runs", "looked for the pilot's identity" in out and result.get("Value") == 0, f"{result} {out}")
check("dirac: and gets nothing", "STOLEN" not in out and "looked for" in out, out)

# What cannot run says so once, and is not taken for a job that ran.
launches = len(records(event__action="payload-launch"))
result = submit("4714", "/sandbox/hello", owner="banned")
check("dirac: a banned user's job is an error of the submission", "return code" in result.get("Message", ""), result)
check("dirac: and nothing ran", len(records(event__action="payload-launch")) == launches)
check("dirac: the denial is in the log", "4714" in json.dumps(records(event__action="payload-deny")), "no denial names it")

# Nothing stays.
left = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if "dirac_container.sh" in read(f"/proc/{pid}/cmdline")]
check("dirac: no process is left", not left, left)
