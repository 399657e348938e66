"""What the checks on DIRAC and on the PanDA pilot share: one line for each check, and the records of a job."""

import json
import os
import subprocess
import time

IMAGE = os.environ["BED_IMAGE"]
BAILEY = "/opt/bailey/usr/bin/bailey"
POOL = "/opt/pool"


def check(name, holds, why=""):
    """One check: its name, whether it holds, and what there was instead."""
    if holds:
        print(f"ok {name}", flush=True)
    else:
        print(f"FAIL {name}: {' '.join(str(why).split())[:600]}", flush=True)
    return holds


def until(seconds, condition):
    """Whether the condition comes true in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def processes(word):
    """Pids of the processes that have this word among their arguments, ours excepted."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if word.encode() in arguments and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def at(record, path):
    """The field of a record by its dotted name, or None."""
    for part in path.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def lines_of_log():
    """Every record of the log, oldest first."""
    found = []
    for folder, _, names in sorted(os.walk("/srv/log")):
        for name in sorted(names):
            if not name.endswith(".ndjson"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for line in file:
                    if line.endswith("\n"):
                        found.append(json.loads(line))
    return found


def records(**wanted):
    """The records whose dotted fields (with __ for .) have these values."""
    return [
        record
        for record in lines_of_log()
        if all(at(record, path.replace("__", ".")) == value for path, value in wanted.items())
    ]


def launch_of(job):
    """The launch record that names this job, and the end record of the same launch."""
    launches = records(event__action="payload-launch", grid__job__id=job)
    if not launches:
        return {}, {}
    launch = launches[-1]
    ends = records(event__action="payload-end", event__id=at(launch, "event.id"))
    return launch, ends[-1] if ends else {}


def traced(job):
    """What `bailey trace --job` prints of this job."""
    answer = subprocess.run([BAILEY, "trace", "--job", job], capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout + answer.stderr
