"""Runs each case of apptainer-cases.txt with Apptainer and with bailey called by its name, in the same root directory, as the same
ordinary user, and compares what both did. See tests/beds/apptainer-reference.sh, which makes everything that this needs.

A difference is one fact: "code", "stdout", "fatal", "said", "left.PATH" (what is in the case's directory afterwards), "survivors", and what
tests/tools/facts.c prints. Every difference stands in the list with a reason, every reason in the document; one that is not there any more
fails as well, so that the list stays true.
"""

import argparse
import ctypes
import fnmatch
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time

LIMIT = 20  # seconds for one run
# Where things are inside: as on a worker node, the pilot's own directory is neither in /tmp nor in its home directory.
POOL = "/pool/job"
SHOWN = {"images": "/images", "programs": "/opt/bed", "cvmfs": "/cvmfs", "hosts": "/etc/hosts", "etc": "/etc/bailey", "log": "/var/log/bed"}
SHOWN |= {"driver": "/usr/local/lib/driver", "ld.so.cache": "/etc/ld.so.cache"}
SHOWN["localtime"] = "/usr/share/zoneinfo/Etc/UTC"  # what the node's /etc/localtime leads to
# PanDA's pilot looks for these on the payload's standard error, whatever the exit code (pilot/common/errorcodes.py of PanDAWMS/pilot3).
PANDA = [
    "Not mounting requested bind point",
    "No more available loop devices",
    "Failed to mount image",
    "error: while mounting",
    "Operation not permitted",
    "Failed to create user namespace",
    "Singularity is not installed",
    "Apptainer is not installed",
    "Failed invoking the NEWUSER namespace runtime",
    "resource temporarily unavailable",
    "command not found",
    "General payload setup verification error",
]


class Case:
    def __init__(self, name, line):
        self.name, self.line = name, line
        self.of, self.called, self.run, self.stdin, self.signal = "", "apptainer", None, None, None
        self.env, self.make, self.files, self.differ = {}, [], {}, []
        self.refused, self.pty, self.cwd = None, False, None


def read_cases(path, places):
    """One block for each case: its name in brackets, then one word and its value a line; {name} stands for a place."""
    cases, here = [], None
    general = {"always": [], "defaults": []}

    def placed(text):
        return re.sub(r"\{([A-Za-z]+)\}", lambda m: places[m.group(1)] if m.group(1) in places else m.group(0), text)

    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            name = line.strip("[]")
            if any(case.name == name for case in cases):
                sys.exit(f"{path}:{number}: a second case {name}")
            here = Case(name, number)
            if name not in general:
                cases.append(here)
            continue
        word, _, value = line.strip().partition(" ")
        value = placed(value.strip())
        if here is None:
            sys.exit(f"{path}:{number}: before the first case")
        if word == "of":
            here.of = value
        elif word == "as":
            here.called = value
        elif word == "env":
            for pair in shlex.split(value):
                key, _, content = pair.partition("=")
                here.env[key] = content
        elif word == "make":
            here.make += shlex.split(value)
        elif word == "file":
            target, _, content = value.partition(" ")
            here.files[target] = content.replace("\\n", "\n")
        elif word == "run":
            here.run = shlex.split(value)
        elif word == "stdin":
            here.stdin = value.replace("\\n", "\n")
        elif word == "pty":
            here.pty = True
        elif word == "cwd":
            here.cwd = value
        elif word == "signal":
            here.signal = getattr(signal, "SIG" + value)
        elif word == "refused":
            here.refused = value
        elif word == "differ":
            words = value.split()
            if len(words) not in (2, 4):
                sys.exit(f"{path}:{number}: differ FACT [THEIRS OURS] ID")
            theirs, ours = words[1:3] if len(words) == 4 else (None, None)
            general.get(here.name, here.differ).append((words[0], theirs, ours, words[-1]))
        else:
            sys.exit(f"{path}:{number}: no word {word}")
    for case in cases:
        if case.run is None:
            sys.exit(f"{path}:{case.line}: nothing to run")
    return cases, general


class Bed:
    def __init__(self, options):
        self.o = options
        self.case = os.path.join(options.tmp, "case")
        self.home = os.path.join(options.tmp, "home")
        self.host_tmp = os.path.join(options.tmp, "host-tmp")
        self.host_var_tmp = os.path.join(options.tmp, "host-var-tmp")
        self.shm = os.path.join(options.tmp, "shm")
        self.log = os.path.join(options.tmp, "log")
        self.namespaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ["user", "pid", "ipc", "uts", "net", "cgroup"]}

    def fresh(self, case):
        for folder, mode in [(self.case, 0o755), (self.home, 0o700), (self.host_tmp, 0o1777), (self.host_var_tmp, 0o1777), (self.shm, 0o1777), (self.log, 0o700)]:
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            os.chown(folder, self.o.uid, self.o.gid)
            os.chmod(folder, mode)
        # Apptainer leaves its notes in the home directory: not a difference.
        os.mkdir(os.path.join(self.home, ".apptainer"), 0o700)
        open(os.path.join(self.home, "mine"), "w").close()
        open(os.path.join(self.host_tmp, "host-file"), "w").close()
        for name in case.make:
            os.makedirs(os.path.join(self.case, name), exist_ok=True)
        for name, content in case.files.items():
            path = os.path.join(self.case, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(content)
            if content.startswith("#!"):
                os.chmod(path, 0o755)
        for top in [self.case, self.home]:
            for folder, folders, files in os.walk(top):
                for name in folders + files:
                    os.lchown(os.path.join(folder, name), self.o.uid, self.o.gid)

    def run(self, case, program):
        self.fresh(case)
        enter = [self.o.enter, self.o.peers, f"{self.o.uid}:{self.o.gid}", f"{self.case}={POOL}", f"{self.home}={self.o.user_home}"]
        enter += [f"{self.host_tmp}=/tmp", f"{self.host_var_tmp}=/var/tmp", f"{self.shm}=/dev/shm"]
        enter += [f"{self.o.tmp}/{name}={to}" for name, to in SHOWN.items()]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": self.o.user_home, "USER": self.o.user, "LOGNAME": self.o.user, "TERM": "xterm"}
        env.update(case.env)
        words = ["env", "-i", "-C", case.cwd or POOL] + [f"{k}={v}" for k, v in env.items()] + [program] + case.run
        got = {"out": b"", "err": b""}
        master = slave = None
        if case.pty:
            master, slave = pty.openpty()
            settings = termios.tcgetattr(slave)
            settings[1] &= ~termios.ONLCR
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, settings)
            process = subprocess.Popen(enter + ["--", "setsid", "--ctty", "--wait"] + words, stdin=slave, stdout=slave, stderr=slave)
            os.close(slave)
        else:
            process = subprocess.Popen(
                enter + ["--"] + words,
                stdin=subprocess.PIPE if case.stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )

        def drain(fd, name):
            try:
                while block := os.read(fd, 65536):
                    got[name] += block
            except OSError:  # the end of a terminal
                pass

        fds = [(master, "out")] if case.pty else [(process.stdout.fileno(), "out"), (process.stderr.fileno(), "err")]
        threads = [threading.Thread(target=drain, args=pair, daemon=True) for pair in fds]
        for thread in threads:
            thread.start()
        if case.stdin is not None:
            data = case.stdin.encode()
            if case.pty:
                os.write(master, data)
            else:
                process.stdin.write(data)
                process.stdin.close()
        if case.signal is not None:
            until = time.monotonic() + LIMIT / 2
            while b"ready" not in got["out"] and time.monotonic() < until and process.poll() is None:
                time.sleep(0.01)
            time.sleep(0.1)
            if process.poll() is None:
                process.send_signal(case.signal)
        try:
            code = str(process.wait(LIMIT))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "timeout"
        if code.startswith("-"):
            code = "signal " + code[1:]
        # Who outlives it comes to us; half a second for what only tidies up.
        survivors = self.children()
        until = time.monotonic() + 1.0
        while survivors and time.monotonic() < until:
            time.sleep(0.02)
            survivors = self.children()
        for pid in survivors:
            os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(2)
        self.children()
        if master is not None:
            os.close(master)
        return self.facts(case, code, got, len(survivors))

    @staticmethod
    def children():
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return []
        found = []
        for task in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{task}/children", encoding="ascii") as f:
                    found += [int(word) for word in f.read().split()]
            except FileNotFoundError:
                pass  # a thread that has ended in the meantime
        return found

    def facts(self, case, code, got, survivors):
        out, err = got["out"].decode(errors="backslashreplace"), got["err"].decode(errors="backslashreplace")
        facts, said, inside, before = {}, [], False, []
        for line in out.splitlines():
            if line == "facts begin":
                inside = True
            elif line == "facts end":
                inside = False
                facts["facts"] = "yes"
            elif inside:
                key, _, value = line.partition(" ")
                if key.startswith("ns.") and key[3:] != "mnt":
                    value = "host" if value == self.namespaces[key[3:]] else "own"
                elif key == "ns.mnt":
                    continue
                facts[key] = value  # of two mounts on one place the later one counts
            else:
                before.append(line)
        facts["code"] = code
        facts["stdout"] = "\n".join(before)
        # What the runtime itself says: whether it calls it fatal, and what a pilot takes for an error of the site.
        text = out + err if case.pty else err
        facts["fatal"] = "yes" if re.search(r"^(\x1b\[\d+m)?FATAL:", text, re.M) else "no"
        facts["panda"] = ", ".join(word for word in PANDA if word in text)
        facts["survivors"] = str(survivors)
        for folder, folders, files in os.walk(self.case):
            for name in folders + files:
                path = os.path.join(folder, name)
                facts["left." + os.path.relpath(path, self.case)] = "dir" if os.path.isdir(path) else "file"
        return facts, err

    def records(self):
        """The actions in the embedded log of the last run."""
        actions = []
        for folder, _, files in os.walk(self.log):
            for name in sorted(files):
                if name.endswith(".ndjson"):
                    for line in open(os.path.join(folder, name), encoding="utf-8"):
                        actions.append(json.loads(line)["event"]["action"])
        return actions


def is_of(line, key, theirs, ours):
    pattern, *values, _ = line
    return fnmatch.fnmatchcase(key, pattern) and all(
        wanted in (None, "any") or (wanted == "-" if value is None else wanted != "-" and fnmatch.fnmatchcase(value, wanted))
        for wanted, value in zip(values, (theirs, ours))
    )


def reasons_of(path):
    found = []
    for line in open(path, encoding="utf-8"):
        match = re.match(r"\| ([a-z0-9-]+) \|", line)
        if match and match.group(1) != "id":
            found.append(match.group(1))
    if len(found) != len(set(found)):
        sys.exit(f"{path}: an id twice")
    return set(found)


def judge(case, always, both, our_words, records, always_met):
    """What comes of a case, and what of it is not as the list has it. Adds to `always_met` the general lines that were met."""
    theirs, ours = both
    wrong, listed = [], False
    differing = [key for key in sorted(set(theirs) | set(ours)) if theirs.get(key) != ours.get(key)]
    # Apptainer ends with 1 where it does not understand its command line, or finds nothing to run.
    refused = ours["fatal"] == "yes" and ours["code"] == "255" and theirs["fatal"] == "no" and theirs["code"] != "1"
    if refused:
        outcome = "refused"
        if case.refused is None:
            wrong.append(f"refused, but the list does not say so: {our_words.strip()}")
    else:
        if case.refused is not None:
            wrong.append("the list says that it is refused")
        met = set()
        for key in differing:
            hit = [line for line in case.differ if is_of(line, key, theirs.get(key), ours.get(key))]
            usual = [line for line in always if is_of(line, key, theirs.get(key), ours.get(key))]
            if hit:
                met.add(hit[0])
                listed = True
            elif usual:
                always_met.add(usual[0])
            else:
                wrong.append(f"{key}: Apptainer {theirs.get(key)!r}, ours {ours.get(key)!r}")
        for line in case.differ:
            if line not in met:
                wrong.append(f"{line[0]} does not differ any more like this ({line[-1]})")
        outcome = "different" if listed else "same"
    # A payload that ran, or should have, is in the log.
    verb = next((word for word in case.run if not word.startswith("-")), "")
    if verb in ("exec", "run", "test", "shell") and not records and not any(line[-1] == "no-record" for line in case.differ):
        wrong.append("no record")
    if "payload-launch" in records and not {"payload-end", "launch-failed"} & set(records) and case.signal != signal.SIGKILL:
        wrong.append(f"records: {records}")
    return outcome, wrong


def main():
    parser = argparse.ArgumentParser()
    for name in ["cases", "enter", "peers", "images", "tmp", "user", "user-home"]:
        parser.add_argument("--" + name, required=True)
    for name in ["uid", "gid"]:
        parser.add_argument("--" + name, required=True, type=int)
    parser.add_argument("--reasons")
    parser.add_argument("--reference-only", action="store_true", help="run Apptainer alone and print what it did")
    parser.add_argument("--defaults", action="store_true", help="only what pilots call, and what the defaults leave out may differ too")
    parser.add_argument("--show", action="store_true", help="print every fact of both")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    places = {"C": POOL, "H": options.user_home, "NL": "\n"}
    for image in os.listdir(options.images):
        places[image] = f"/images/{image}"
    cases, general = read_cases(options.cases, places)
    always = general["always"] + (general["defaults"] if options.defaults else [])
    chosen = [c for c in cases if not options.defaults or c.of]
    chosen = [c for c in chosen if not options.names or any(fnmatch.fnmatch(c.name, pattern) for pattern in options.names)]
    if not chosen:
        sys.exit("no case is called like that")
    if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) != 0:  # PR_SET_CHILD_SUBREAPER: who outlives its launcher comes to us
        sys.exit("prctl")
    bed = Bed(options)
    known = reasons_of(options.reasons) if options.reasons else set()
    count = {"same": 0, "different": 0, "refused": 0}
    bad, always_met = [], set()
    for case in chosen:
        theirs, their_words = bed.run(case, f"/usr/bin/{case.called}")
        if options.reference_only:
            print(f"== {case.name}: {shlex.join(case.run)}")
            for key in sorted(theirs):
                print(f"   {key} {theirs[key]}")
            print("".join(f"   ! {line}\n" for line in their_words.splitlines()[:12]), end="")
            continue
        ours, our_words = bed.run(case, f"/opt/bed/{case.called}")
        outcome, wrong = judge(case, always, (theirs, ours), our_words, bed.records(), always_met)
        if wrong:
            # Some of Apptainer's answers depend on who is quicker: what is wrong twice is wrong.
            print(f"           {case.name} once more, because of: {'; '.join(wrong)}")
            theirs, their_words = bed.run(case, f"/usr/bin/{case.called}")
            ours, our_words = bed.run(case, f"/opt/bed/{case.called}")
            outcome, wrong = judge(case, always, (theirs, ours), our_words, bed.records(), always_met)
        count[outcome] += 1
        print(f"{outcome:9}  {case.name}" + ("" if not wrong else "  WRONG"))
        if wrong:
            bad.append(case.name)
            print(f"           {shlex.join(case.run)}")
            for line in wrong:
                print(f"           - {line}")
            for who, words in [("Apptainer", their_words), ("ours", our_words)]:
                for line in words.splitlines()[:6]:
                    print(f"           {who}: {line}")
        if options.show:
            for key in sorted(set(theirs) | set(ours)):
                print(f"           {'=' if theirs.get(key) == ours.get(key) else '#'} {key} {theirs.get(key)!r} {ours.get(key)!r}")
    if options.reference_only:
        return 0
    listed_ids = {line[-1] for case in cases for line in case.differ} | {c.refused for c in cases if c.refused} | {line[-1] for lines in general.values() for line in lines}
    problems = []
    if options.reasons:
        problems += [f"the reason {reason} is not in {options.reasons}" for reason in sorted(listed_ids - known)]
        problems += [f"the reason {reason} of {options.reasons} is nowhere in the list" for reason in sorted(known - listed_ids)]
    if not options.names and not options.defaults:
        problems += [f"always: {' '.join(filter(None, line))} never happens" for line in always if line not in always_met]
    for line in problems:
        print(f"WRONG: {line}")
    name = "apptainer-reference, bailey's defaults" if options.defaults else "apptainer-reference"
    print(f"{name}: {len(chosen)} cases: same {count['same']}, different {count['different']}, refused {count['refused']}")
    if bad:
        print(f"apptainer-reference: {len(bad)} are not as the list has them: {' '.join(bad)}")
    return 1 if bad or problems else 0


sys.exit(main())
