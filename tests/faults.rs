//! Errors, death and want at every step of a launch, found by tracing one and then walking through it: whatever fails, the
//! payload does not run, or it runs behind the very walls of a launch in which nothing failed and with a durable record.
//!
//! `kill.rs` walks through deaths of launcher and init and errors of init; here are errors of the launcher, deaths of the
//! payload's side, kernels that lack a call, want of memory, and the recorder. Each walk takes a part of the points, the same
//! at each run; `BAILEY_FAULTS=all` takes all of them, `BAILEY_FAULTS=EMFILE` and its like also gives the
//! launcher's calls no other error.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use nix::sys::prctl;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{BAILEY, World, alive_with, image, text, wait_for};

/// A launch that takes longer hangs. (Without load it takes a tenth of a second under strace.)
const PATIENCE: Duration = Duration::from_secs(5);

const ERRORS: [&str; 5] = ["EPERM", "ENOMEM", "EIO", "EMFILE", "ENOSYS"];

/// What the payload sees of its walls, written into a file with a last line that says that it is whole.
const LOOK: &str = "{ cat /proc/self/status; readlink /proc/self/ns/*; cat /proc/self/mountinfo; \
    ls /proc/self/fd; umask; ulimit -c; echo whole; } >/markers/$0";

/// Calls that some kernel in use does not have: everything since 5.1, and what containers commonly forbid.
const NEWER: [&str; 34] = [
    "pidfd_send_signal",
    "pidfd_open",
    "pidfd_getfd",
    "clone3",
    "close_range",
    "openat2",
    "faccessat2",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "epoll_pwait2",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "memfd_secret",
    "process_mrelease",
    "process_madvise",
    "futex_waitv",
    "cachestat",
    "fchmodat2",
    "statmount",
    "listmount",
    "seccomp",
    "keyctl",
    "statx",
    "rseq",
    "getrandom",
    "name_to_handle_at",
    "unshare",
    "prctl",
];

/// A world in which launches are made one after the other.
struct Series {
    world: World,
    config: PathBuf,
    /// There is no recorder.
    embedded: bool,
    good: Walls,
}

/// What one launch came to.
struct Trial {
    mark: String,
    output: Output,
    /// Nothing: it did not run.
    walls: Option<Walls>,
    ran: bool,
}

/// The walls as the payload sees them, without what differs from launch to launch.
type Walls = BTreeSet<String>;

fn walls(seen: &str) -> Option<Walls> {
    let host = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let own: Vec<String> =
        ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time"].iter().map(|kind| host(kind)).collect();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.contains(":[") {
            let kind = line.split(':').next().unwrap();
            return Some(format!(
                "{kind} {}",
                if own.iter().any(|own| own == line) { "host" } else { "own" }
            ));
        }
        if words.len() > 8 && words[0].parse::<u32>().is_ok() {
            // mountinfo without ids and device numbers: every piece of which the image is put together, too.
            let numbers = |word: &&str| !word.starts_with("master:") && !word.starts_with("shared:");
            let rest: Vec<&str> = words[3..].iter().copied().filter(numbers).collect();
            return Some(rest.join(" "));
        }
        let kept =
            ["NoNewPrivs", "Cap", "Seccomp", "Uid", "Gid", "Groups", "Umask", "NSpid", "SigBlk", "SigIgn"];
        if kept.iter().any(|name| line.starts_with(name)) {
            return Some(if words[0] == "NSpid:" { "NSpid".to_owned() } else { words.join(" ") });
        }
        (words.len() == 1).then(|| line.to_owned())
    };
    seen.ends_with("whole\n").then(|| seen.lines().filter_map(line).collect())
}

fn new_mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("fault-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Series {
    fn new() -> Self {
        let world = World::new();
        // With the waits that a site has which says nothing.
        let config = world.file("bailey.toml", "");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        Self::with(world, config, true)
    }

    fn with(world: World, config: PathBuf, embedded: bool) -> Self {
        // Whatever loses its parent becomes our child, so that nothing can hide.
        prctl::set_child_subreaper(true).unwrap();
        world.directory("markers");
        let mut series = Self { world, config, embedded, good: Walls::new() };
        let plain = series.plain();
        series.good = plain.walls.expect("a launch without faults");
        assert!(
            series.good.contains("NoNewPrivs: 1") && series.good.contains("mnt own"),
            "{:?}",
            series.good
        );
        series
    }

    fn launch(&self, command: &mut Command, mark: &str) {
        command.env("BAILEY_CONFIG", &self.config);
        command.args([BAILEY, "exec", "--user", "/CN=Fault", "--bind"]);
        command.arg(format!("{}:/markers:rw", self.world.path("markers").display()));
        command.arg("--image").arg(image()).args(["--", "/bin/sh", "-c", LOOK, mark]);
    }

    fn behind(&self, program: &str, options: &[&str]) -> Trial {
        let mark = new_mark();
        let mut command = self.world.command(program);
        command.args(options);
        self.launch(&mut command, &mark);
        self.finish(command, mark)
    }

    fn plain(&self) -> Trial {
        self.behind("env", &[])
    }

    fn strace(&self, options: &[&str]) -> Trial {
        self.behind("strace", &[&["-qq", "-o", "/dev/null"], options].concat())
    }

    /// Runs it to its end, in time, and until nothing of it is alive.
    fn finish(&self, mut command: Command, mark: String) -> Trial {
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > support::patience(PATIENCE) {
                let alive = alive_with(&mark);
                let _ = child.kill();
                panic!("{command:?} hangs; alive: {alive:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().unwrap();
        wait_for(&format!("the end of all that {command:?} started"), || alive_with(&mark).is_empty());
        let seen = fs::read_to_string(self.world.path("markers").join(&mark)).ok();
        Trial { mark, output, ran: seen.is_some(), walls: seen.as_deref().and_then(walls) }
    }

    /// The one rule: not run, with a sentence; or run with a record and the same walls, or with others that the record tells.
    fn judge(&self, trial: &Trial, when: &str, records: &[Value]) {
        let said = text(&trial.output.stderr);
        let of = |action: &str| {
            records.iter().find(|record| {
                record["event"]["action"] == action
                    && record["process"]["args"]
                        .as_array()
                        .is_some_and(|args| args.iter().any(|arg| *arg == trial.mark))
            })
        };
        if !trial.ran {
            if trial.output.status.signal().is_none() {
                let code = trial.output.status.code().unwrap();
                assert!((120..=127).contains(&code), "{when}: nothing ran, and it ends with {code}: {said}");
                assert!(said.contains("bailey: "), "{when}: it says nothing: {said}");
            }
            return;
        }
        let launch =
            of("payload-launch").unwrap_or_else(|| panic!("{when}: it ran without a record: {said}"));
        let Some(walls) = &trial.walls else { return }; // it was killed while it looked
        if *walls != self.good {
            let good = records.iter().find(|record| record["event"]["action"] == "payload-launch").unwrap();
            let differ: Vec<&String> = walls.symmetric_difference(&self.good).collect();
            assert_ne!(
                launch["grid"]["sandbox"], good["grid"]["sandbox"],
                "{when}: other walls, of which the record says nothing: {differ:?}"
            );
            println!("{when}: other walls, and the record says so: {differ:?}");
        }
    }

    /// Of the embedded log; a line that is torn is none.
    fn records(&self) -> Vec<Value> {
        let Ok(mut hosts) = fs::read_dir(self.world.path("home/.local/state/bailey")) else {
            return Vec::new();
        };
        let Some(Ok(dir)) = hosts.next() else { return Vec::new() };
        let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
        let lines = |path: PathBuf| {
            let all = text(&fs::read(path).unwrap());
            all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>()
        };
        segments.flat_map(lines).collect()
    }

    /// After all of it a launch is as good as ever, and nothing is left but the log.
    fn settled(&self) {
        let last = self.plain();
        assert_eq!(last.walls.as_ref(), Some(&self.good), "{}", text(&last.output.stderr));
        if self.embedded {
            self.world.assert_chain();
            let mut left: Vec<_> =
                fs::read_dir(&self.world.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["bailey.toml", "home", "markers"], "something is left");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.world.dir.to_str().unwrap()), "a mount is left");
        if self.embedded {
            let any = || nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            wait_for("the end of all children", || any() == Err(nix::errno::Errno::ECHILD));
        }
    }
}

/// One call: whose (by the order in which they appear), which, and the how manieth of that name of that process, which is how
/// strace counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    process: usize,
    call: String,
    number: usize,
}

fn points_of(log: &str) -> Vec<Point> {
    let (mut pids, mut counts) = (Vec::new(), BTreeMap::new());
    let mut points = Vec::new();
    for line in log.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let process = pids.iter().position(|known| *known == pid).unwrap_or_else(|| {
            pids.push(pid);
            pids.len() - 1
        });
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            let number: &mut usize = counts.entry((process, name.to_owned())).or_default();
            *number += 1;
            points.push(Point { process, call: name.to_owned(), number: *number });
        }
    }
    points
}

/// What one launch does.
fn points(series: &Series) -> Vec<Point> {
    let log = series.world.path("markers/trace");
    let trial = series.behind("strace", &["-f", "-qq", "-s", "0", "-o", log.to_str().unwrap()]);
    assert!(trial.ran, "{}", text(&trial.output.stderr));
    let points = points_of(&fs::read_to_string(&log).unwrap());
    fs::remove_file(log).unwrap();
    points
}

/// So many of them, evenly, and of each call of each process at least one.
fn sample(points: Vec<Point>, most: usize) -> Vec<Point> {
    if std::env::var_os("BAILEY_FAULTS").is_some() {
        return points;
    }
    let step = points.len().div_ceil(most).max(1) * support::stride();
    let mut seen = BTreeSet::new();
    let keep = |(index, point): &(usize, Point)| {
        (seen.insert((point.process, point.call.clone())) && support::stride() == 1) || index % step == 0
    };
    points.into_iter().enumerate().filter(keep).map(|(_, point)| point).collect()
}

/// What ends a process in any case: an error of it means nothing.
const ENDS: [&str; 3] = ["exit_group", "exit", "rt_sigreturn"];

#[test]
fn an_error_at_any_call_of_the_launcher() {
    let series = Series::new();
    let all = points(&series);
    // From where the program is its own: before that the loader and the C library say what is wrong, or the kernel's signal.
    let of_start =
        ["arch_prctl", "set_tid_address", "set_robust_list", "rseq", "mprotect", "prlimit64", "munmap"];
    let start = all.iter().take(50).rposition(|point| of_start.contains(&point.call.as_str()));
    let begin = start.expect("the start of a program") + 1;
    let is_tried = |point: &Point| point.process == 0 && !ENDS.contains(&point.call.as_str());
    let of_launcher: Vec<Point> = all.into_iter().skip(begin).filter(is_tried).collect();
    let total = of_launcher.len();
    let tried = sample(of_launcher, 180);
    let mut ran = 0;
    let only = std::env::var("BAILEY_FAULTS").ok().filter(|value| ERRORS.contains(&value.as_str()));
    for (turn, point) in tried.iter().enumerate() {
        let error = only.as_deref().unwrap_or(ERRORS[turn % ERRORS.len()]);
        let inject = format!("inject={}:error={error}:when={}", point.call, point.number);
        let trial = series.strace(&["-e", &inject]);
        series.judge(&trial, &inject, &series.records());
        assert!(
            !trial.ran || point.call != "fdatasync",
            "{inject}: it ran although its record is not durable"
        );
        ran += usize::from(trial.ran);
    }
    println!("{} of {total} calls of the launcher, of which {ran} did not matter", tried.len());
    assert!(tried.len() * support::stride() >= 100, "only {} tried", tried.len());
    series.settled();
}

#[test]
fn the_payloads_side_killed_before_any_call() {
    let series = Series::new();
    let all = points(&series);
    let end = all.iter().position(|point| point.process == 2 && point.call == "execve").expect("an execve");
    // strace's number means each process's: one that the launcher or init comes to would kill them instead.
    let is_beyond = |point: &&Point| {
        let count =
            |process| all.iter().filter(|other| other.process == process && other.call == point.call).count();
        point.process == 2 && point.number > count(0).max(count(1))
    };
    let own: Vec<Point> = all[..=end].iter().filter(is_beyond).cloned().collect();
    let of_payload = all[..=end].iter().filter(|point| point.process == 2).count();
    let tried = sample(own, 60);
    for point in &tried {
        let inject = format!("inject={}:signal=KILL:when={}", point.call, point.number);
        let trial = series.strace(&["-f", "-e", &inject]);
        assert!(!trial.ran, "{inject}: it ran");
        series.judge(&trial, &inject, &series.records());
    }
    println!("{} of {of_payload} calls of the payload's side", tried.len());
    assert!(!tried.is_empty(), "none could be tried");
    series.settled();
}

#[test]
fn a_kernel_that_lacks_a_call() {
    let series = Series::new();
    let made: BTreeSet<String> = points(&series).into_iter().map(|point| point.call).collect();
    let mut tried = Vec::new();
    for call in NEWER.iter().filter(|call| made.contains(**call)) {
        // Every call of that name, of every process.
        let inject = format!("inject={call}:error=ENOSYS");
        let trial = series.strace(&["-f", "-e", &inject]);
        series.judge(&trial, &inject, &series.records());
        let said = text(&trial.output.stderr);
        println!("{call}: {}", if trial.ran { "it runs without" } else { said.trim_end() });
        if !trial.ran {
            assert_eq!(said.lines().count(), 1, "{inject}: {said}");
            assert!(said.contains("; ") && said.contains("(incident "), "{inject}: no next step: {said}");
            // Whoever reads it learns what is missing. A prctl is one of many steps.
            assert!(said.contains(call) || ["prctl", "keyctl"].contains(call), "{inject}: {said}");
            assert!(!said.contains("out-of-memory"), "{inject}: {said}");
        }
        tried.push(*call);
    }
    assert!(tried.len() >= 10, "only {tried:?}");
    series.settled();
}

#[test]
fn from_no_memory_to_enough() {
    let series = Series::new();
    let (mut short, mut enough) = (0, 0);
    // Address space, in steps that grow: a control group cannot be had here without root.
    let mut kib = 1024;
    while kib < 512 << 10 {
        let script = format!("ulimit -v {kib} && exec \"$@\"");
        let trial = series.behind("sh", &["-c", &script, "sh"]);
        let (said, records) = (text(&trial.output.stderr), series.records());
        if trial.ran {
            series.judge(&trial, &format!("{kib} KiB"), &records);
            enough += 1;
        } else {
            // Where there is not even room for the program, the kernel kills it; later somebody says what is missing.
            let told = !said.is_empty() || trial.output.status.signal().is_some();
            assert!(told, "{kib} KiB: {:?}, and nobody says anything", trial.output.status);
            assert!(!trial.output.status.success(), "{kib} KiB: it did not run and says that it did");
            short += 1;
        }
        kib += kib / 16;
    }
    println!("{short} with too little, {enough} with enough");
    assert!(short > 10 && enough > 10);
    series.settled();
}

#[test]
fn a_fault_at_any_call_of_the_recorder() {
    let world = World::new();
    let mut recorder = Recorder::with(&world, &[("audit", "wait = \"1s\"")]);
    let series = Series::with(world, recorder.config.clone(), false);
    let log = series.world.path("trace");
    let under = |recorder: &Recorder, options: &[&str]| {
        let command = recorder.command();
        let mut traced = Command::new("strace");
        traced.args(options).arg(command.get_program()).env_clear().env("BAILEY_CONFIG", &recorder.config);
        let said = fs::OpenOptions::new().create(true).append(true).open(&recorder.said).unwrap();
        traced.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        traced
    };
    // The calls of its loop while one launch comes and goes: those after the first that it makes when it serves.
    recorder.kill();
    recorder.adopt(under(&recorder, &["-D", "-qq", "-s", "0", "-o", log.to_str().unwrap()]));
    let number = |line: &str| line.split_once('(').map(|(call, _)| call.to_owned());
    let before = fs::read_to_string(&log).unwrap().lines().count();
    assert!(series.plain().ran);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut serving = Vec::new();
    for (line, text) in fs::read_to_string(&log).unwrap().lines().enumerate() {
        let Some(call) = number(text) else { continue };
        let count = counts.entry(call.clone()).or_default();
        *count += 1;
        if line >= before && !ENDS.contains(&call.as_str()) {
            serving.push(Point { process: 0, call, number: *count });
        }
    }
    recorder.kill();
    let total = serving.len();
    let tried = sample(serving, 40);
    let mut ran = 0;
    for (turn, point) in tried.iter().enumerate() {
        let what = if turn % 4 == 3 {
            "signal=KILL".to_owned()
        } else {
            format!("error={}", ERRORS[turn % ERRORS.len()])
        };
        let inject = format!("inject={}:{what}:when={}", point.call, point.number);
        let mut child = support::Guard(
            under(&recorder, &["-D", "-qq", "-o", "/dev/null", "-e", &inject]).spawn().unwrap(),
        );
        // It may fail before it serves; whoever launches then is refused.
        let begin = Instant::now();
        while recorder.ask().is_err()
            && begin.elapsed() < support::patience(Duration::from_secs(2))
            && child.0.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let trial = series.plain();
        series.judge(&trial, &inject, &recorder.records());
        ran += usize::from(trial.ran);
        drop(child);
    }
    println!("{} of {total} calls of the recorder, {ran} payloads ran", tried.len());
    assert!(tried.len() * support::stride() >= 15 && ran > 0, "only {} tried, {ran} ran", tried.len());
    recorder.restart();
    series.settled();
    recorder.wait_live(0);
    recorder.assert_chain(&series.world);
}
