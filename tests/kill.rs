//! Death and errors at every step of the set-up, by strace's injection: no process is left, nothing ran without a record,
//! every launch ends in the log, no launch hangs.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use nix::sys::prctl;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::{BAILEY, World, alive_with, code, image, text, wait_for};

/// A launch that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Steps of init that must be among those that are tried: when one of them goes, this list is to be looked at.
const INIT_STEPS: [&str; 11] = [
    "prctl",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "move_mount",
    "pivot_root",
    "umount2",
    "keyctl",
    "capset",
    "setsid",
];

/// Calls with which the launcher keeps its log.
const LOG_CALLS: [&str; 12] = [
    "mkdir",
    "openat",
    "faccessat2",
    "fstatfs",
    "newfstatat",
    "statx",
    "getdents64",
    "fcntl",
    "pread64",
    "pwrite64",
    "write",
    "fdatasync",
];

const ERRORS: [&str; 4] = ["EPERM", "ENOMEM", "EIO", "ENOSPC"];

/// A world with one log, in which many launches are made one after the other.
struct Series {
    world: World,
    /// Its launches have no pid namespace.
    no_pid: bool,
}

/// What one launch came to.
struct Trial {
    mark: String,
    output: Output,
    ran: bool,
}

impl Series {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(no_pid: bool) -> Self {
        // Whatever loses its parent becomes our child, so that nothing can hide.
        prctl::set_child_subreaper(true).unwrap();
        let world = World::new();
        let config = world.file("markers/no-pid.toml", "[sandbox]\npid_namespace = \"preferred\"\n");
        fs::set_permissions(config, fs::Permissions::from_mode(0o644)).unwrap();
        Self { world, no_pid }
    }

    fn launch(&self, command: &mut Command, mark: &str) {
        command
            .args([BAILEY, "exec", "--vo", "kill", "--bind"])
            .arg(format!("{}:/markers:rw", self.world.path("markers").display()))
            .arg("--image")
            .arg(image())
            .args(if self.no_pid { &["--no-pid"][..] } else { &[] })
            .args(["--", "/bin/sh", "-c", "echo ran >/markers/$0", mark]);
        if self.no_pid {
            command.env("BAILEY_CONFIG", self.world.path("markers/no-pid.toml"));
        }
    }

    /// A launch under `strace OPTIONS`; returns when nothing of it is alive any more.
    fn strace(&self, options: &[&str]) -> Trial {
        let mark = new_mark();
        let mut command = self.world.command("strace");
        command.args(["-o", "/dev/null"]).args(options);
        self.launch(&mut command, &mark);
        self.finish(command, mark)
    }

    fn plain(&self) -> Trial {
        let mark = new_mark();
        let mut command = self.world.command("env");
        self.launch(&mut command, &mark);
        self.finish(command, mark)
    }

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
        let what = format!("the end of everything that {command:?} started");
        wait_for(&what, || alive_with(&mark).is_empty());
        let ran = self.world.path("markers").join(&mark).exists();
        Trial { mark, output, ran }
    }

    /// A payload that ran has a launch record.
    fn assert_recorded_if_ran(&self, trial: &Trial, when: &str) {
        if trial.ran {
            assert_eq!(self.launches_with(&trial.mark), 1, "{when}: the payload ran without a record");
        }
    }

    fn launches_with(&self, mark: &str) -> usize {
        let named = |record: &&Value| {
            record["process"]["args"].as_array().is_some_and(|args| args.iter().any(|arg| arg == mark))
        };
        self.records_of("payload-launch").iter().filter(named).count()
    }

    fn records_of(&self, action: &str) -> Vec<Value> {
        self.whole_lines().into_iter().filter(|record| record["event"]["action"] == action).collect()
    }

    /// All records; a last line that a kill tore is not one.
    fn whole_lines(&self) -> Vec<Value> {
        let base = self.world.path("home/.local/state/bailey");
        let Some(Ok(dir)) = fs::read_dir(&base).ok().and_then(|mut hosts| hosts.next()) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for file in fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "ndjson") {
                let bytes = fs::read(&path).unwrap();
                let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                records.extend(
                    text(&bytes[..whole]).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()),
                );
            }
        }
        records
    }

    /// After any of it: one more launch works, the chain is whole, each launch has exactly one closing record, and nothing
    /// is left behind.
    fn assert_settled(&self) {
        let last = self.plain();
        assert_eq!(code(&last.output), 0, "{}", text(&last.output.stderr));
        assert!(last.ran);
        self.world.assert_chain();
        let mut closings: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        for record in self.whole_lines() {
            let id = record["event"]["id"].as_str().unwrap_or_default().to_owned();
            match record["event"]["action"].as_str().unwrap() {
                "payload-launch" => closings.entry(id).or_default().0 += 1,
                "payload-end" | "launch-failed" => closings.entry(id).or_default().1 += 1,
                _ => {}
            }
        }
        for (id, (launches, ends)) in &closings {
            // A launch-failed before the record of the launch closes nothing.
            assert!(*launches <= 1 && *ends == 1, "{id}: {launches} launches, {ends} ends");
        }
        let hosts = fs::read_dir(self.world.path("home/.local/state/bailey")).unwrap().count();
        assert_eq!(hosts, 1, "a second log");
        let home: Vec<_> =
            fs::read_dir(self.world.path("home")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(home, [".local"]);
        let mut left: Vec<_> =
            fs::read_dir(&self.world.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["home", "markers"], "something is left");
        wait_for("the end of all children", || descendants().is_empty());
    }
}

fn new_mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("kill-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Our children that are alive; orphans come to us.
fn descendants() -> Vec<String> {
    let own = std::process::id().to_string();
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == own && !matches!(state, "Z" | "X")).then(|| stat.clone())
    });
    stats.collect()
}

/// One system call of a launch: whose (0 the launcher, 1 init, 2 the payload), which, and the how manieth of that name that
/// this process makes. That is how strace counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    process: usize,
    call: String,
    number: usize,
}

impl Step {
    /// Whether strace's number means this step alone, or the launcher comes to as many of these calls.
    fn is_beyond(&self, all: &[Self]) -> bool {
        let of_launcher = |step: &&Self| step.process == 0 && step.call == self.call;
        self.number > all.iter().filter(of_launcher).count()
    }
}

/// What one launch does, in the order in which it does it.
fn steps(series: &Series) -> Vec<Step> {
    let mut pids = Vec::new();
    let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
    let mut steps = Vec::new();
    let log = trace(series, "all");
    for line in log.lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let process = pids.iter().position(|known| *known == pid).unwrap_or_else(|| {
            pids.push(pid);
            pids.len() - 1
        });
        if let Some((name, _)) = call.trim_start().split_once('(')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let count = counts.entry((process, name.to_owned())).or_default();
            *count += 1;
            steps.push(Step { process, call: name.to_owned(), number: *count });
        }
    }
    assert!(pids.len() >= 3 && steps.len() > 300, "{} processes, {} steps", pids.len(), steps.len());
    steps
}

/// strace's words about a launch that works.
fn trace(series: &Series, calls: &str) -> String {
    let log = series.world.path("markers/trace");
    let mut command = series.world.command("strace");
    command.args(["-f", "-s", "16", "-e", &format!("trace={calls}"), "-o"]).arg(&log);
    let mark = new_mark();
    series.launch(&mut command, &mark);
    let trial = series.finish(command, mark);
    assert_eq!(code(&trial.output), 0, "{}", text(&trial.output.stderr));
    assert!(trial.ran);
    fs::read_to_string(&log).unwrap()
}

/// A log in which one launch is open, so that the next one has to close it: the longest way that a launcher goes.
fn series_with_a_lost_launch(no_pid: bool) -> Series {
    let series = Series::with(no_pid);
    assert_eq!(code(&series.plain().output), 0);
    let trial = series.strace(&["-e", "inject=fdatasync:signal=KILL:when=1"]);
    assert_eq!(trial.output.status.signal(), Some(9));
    assert!(!trial.ran, "it ran before its record was durable");
    series
}

/// Kills the launcher before every STEPth of its calls.
fn kill_launcher(first: usize, step: usize, fresh_log: bool, no_pid: bool) {
    let step = step * support::stride();
    let mut series = if fresh_log { Series::with(no_pid) } else { series_with_a_lost_launch(no_pid) };
    let launcher: Vec<Step> = steps(&series).into_iter().filter(|step| step.process == 0).collect();
    let (mut killed, mut ran) = (0, 0);
    for (index, at) in launcher.iter().enumerate().skip(first).step_by(step) {
        if fresh_log {
            series = Series::with(no_pid);
        }
        let inject = format!("inject={}:signal=KILL:when={}", at.call, at.number);
        let trial = series.strace(&["-e", &inject]);
        // The exact number of calls of a launch depends on what the killed one before it left.
        if trial.output.status.signal() == Some(9) {
            killed += 1;
        } else {
            assert_eq!(code(&trial.output), 0, "{inject}: {}", text(&trial.output.stderr));
            assert!(trial.ran, "{inject}");
        }
        ran += usize::from(trial.ran);
        series.assert_recorded_if_ran(&trial, &inject);
        if fresh_log && (index % 10 < 2 || !series.whole_lines().is_empty()) {
            series.assert_settled();
        }
    }
    println!("{killed} killed, {ran} ran, of {} calls", launcher.len());
    assert!(killed * step > 250, "only {killed} kills");
    assert!(ran * step > 10, "only {ran} ran: no kill came after the release");
    if !fresh_log {
        let lost = |end: &&Value| end["grid"]["end"]["by"] == "launcher-lost";
        assert!(series.records_of("payload-end").iter().filter(lost).count() * step > 4, "none was lost");
        series.assert_settled();
    }
}

// The two halves run side by side. Each goes through one log, so that every launch finds what the killed ones before it
// left, and is killed while it tidies up after them.
#[test]
fn the_launcher_killed_before_every_odd_call() {
    kill_launcher(0, 2, false, false);
}

#[test]
fn the_launcher_killed_before_every_even_call() {
    kill_launcher(1, 2, false, false);
}

#[test]
fn the_very_first_launcher_killed_before_every_odd_call() {
    kill_launcher(0, 2, true, false);
}

#[test]
fn the_very_first_launcher_killed_before_every_even_call() {
    kill_launcher(1, 2, true, false);
}

// What no kernel does then, launcher and init do.
#[test]
fn the_launcher_killed_before_every_third_call_without_a_pid_namespace() {
    kill_launcher(0, 3, false, true);
}

#[test]
fn init_killed_before_every_call() {
    kill_init(&Series::new());
}

#[test]
fn init_killed_before_every_call_without_a_pid_namespace() {
    kill_init(&Series::with(true));
}

fn kill_init(series: &Series) {
    assert_eq!(code(&series.plain().output), 0);
    let all = steps(series);
    let (mut failed, mut late) = (0, 0);
    let of_init = |step: &&Step| step.process == 1 && step.is_beyond(&all);
    for at in all.iter().filter(of_init).step_by(support::stride()) {
        let inject = format!("inject={}:signal=KILL:when={}", at.call, at.number);
        let trial = series.strace(&["-f", "-e", &inject]);
        series.assert_recorded_if_ran(&trial, &inject);
        let said = text(&trial.output.stderr);
        if trial.output.status.signal() == Some(9) {
            continue; // the launcher came as far, because init's end makes more work for it
        }
        match code(&trial.output) {
            125 => {
                assert!(!trial.ran, "{inject}: it ran and bailey says that it did not");
                assert_one_line(&said, &inject);
                failed += 1;
            }
            // init dies while the payload runs, or after it.
            0 | 137 => late += 1,
            other => panic!("{inject}: {other} {said}"),
        }
    }
    println!("{failed} before the release, {late} after it");
    assert_covered(&all);
    assert!(failed * support::stride() > 200, "only {failed} kills before the release");
    series.assert_settled();
}

#[test]
fn every_error_in_init_is_a_refusal() {
    let series = Series::new();
    assert_eq!(code(&series.plain().output), 0);
    let all = steps(&series);
    assert_covered(&all);
    let (mut refused, mut without) = (0, Vec::new());
    // Init until it starts the payload, and the payload until its execve. What comes later is supervision.
    let mut tried: Vec<&Step> = Vec::new();
    for (process, last) in [(1, "clone"), (2, "execve")] {
        let own = || all.iter().filter(move |step| step.process == process);
        let end = own().position(|step| step.call == last).unwrap_or_else(|| panic!("no {last}"));
        tried.extend(own().take(end + 1).filter(|step| step.is_beyond(&all)));
    }
    // Landlock is only preferred by default, so a payload may run without, and its record says so: landlock.rs.
    tried.retain(|step| !CANNOT_FAIL.contains(&step.call.as_str()) && !step.call.starts_with("landlock_"));
    for (turn, at) in tried.into_iter().step_by(support::stride()).enumerate() {
        // It asks whether it may signal its parent, and EPERM is the answer that it wants.
        let turn = turn + usize::from(at.call == "kill" && ERRORS[turn % ERRORS.len()] == "EPERM");
        let error = ERRORS[turn % ERRORS.len()];
        let inject = format!("inject={}:error={error}:when={}", at.call, at.number);
        let trial = series.strace(&["-f", "-e", &inject]);
        series.assert_recorded_if_ran(&trial, &inject);
        let said = text(&trial.output.stderr);
        if trial.ran {
            without.push(inject);
            continue;
        }
        // What looks for the command cannot execute it, when it cannot look.
        let looks = at.process == 2 && ["access", "newfstatat"].contains(&at.call.as_str());
        let expected = if looks { 126 } else { 125 };
        assert_eq!(code(&trial.output), expected, "{inject}: {said}");
        assert_one_line(&said, &inject);
        refused += 1;
    }
    println!("{refused} refused");
    assert!(without.is_empty(), "the payload ran although these failed: {without:#?}");
    series.assert_settled();
}

#[test]
fn namespace_files_that_cannot_be_opened_are_a_refusal() {
    const USER_LIMIT: &str = "/proc/sys/user/max_user_namespaces";
    let series = Series::new();
    assert_eq!(code(&series.plain().output), 0);
    for file in [
        "/proc/self/setgroups",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        USER_LIMIT,
        "/proc/sys/user/max_net_namespaces",
    ] {
        for error in ERRORS {
            let inject = format!("inject=openat:error={error}");
            let trial = series.strace(&["-f", "-P", file, "-e", &inject]);
            if file == USER_LIMIT && error == "EPERM" {
                // A limit that may not be set: the root directory takes its place, and the record says so.
                assert!(trial.ran, "{}", text(&trial.output.stderr));
                let forbidden = series.records_of("payload-launch").pop().unwrap();
                let forbidden = forbidden["grid"]["sandbox"]["nested_namespaces_forbidden"].to_string();
                assert!(
                    forbidden.contains("on: by its root directory") && forbidden.contains(error),
                    "{forbidden}"
                );
                continue;
            }
            let said = text(&trial.output.stderr);
            // strace says what it makes of /proc/self.
            let said: String = said.lines().filter(|line| !line.starts_with("strace: ")).collect();
            assert!(!trial.ran, "{file} {inject}: it ran");
            assert_eq!(code(&trial.output), 125, "{file} {inject}: {said}");
            assert_one_line(&said, &inject);
            assert!(said.contains(error), "{file} {inject}: {said}");
        }
    }
    series.assert_settled();
}

/// umask and close have no failure that means anything, a signal's default is there already, and fcntl is a debug build's
/// own check of descriptors. What the payload tries because it must fail is `unshare`.
const CANNOT_FAIL: [&str; 6] = ["umask", "close", "rt_sigaction", "fcntl", "unshare", "getpid"];

fn assert_covered(all: &[Step]) {
    for call in INIT_STEPS {
        let found = all.iter().any(|step| step.process > 0 && step.call == call && step.is_beyond(all));
        assert!(found, "init makes no {call} of its own any more");
    }
}

fn assert_one_line(said: &str, when: &str) {
    assert_eq!(said.lines().count(), 1, "{when}: {said}");
    assert!(said.starts_with("bailey: ") && said.contains(": ") && said.contains("; "), "{when}: {said}");
}

#[test]
fn every_error_of_the_log_is_a_refusal_or_harmless() {
    let series = series_with_a_lost_launch(false);
    let all = steps(&series);
    let (mut refused, mut without) = (0, Vec::new());
    let of_log = |step: &&Step| step.process == 0 && LOG_CALLS.contains(&step.call.as_str());
    for (turn, at) in all.iter().filter(of_log).step_by(support::stride()).enumerate() {
        let error = ERRORS[turn % ERRORS.len()];
        let inject = format!("inject={}:error={error}:when={}", at.call, at.number);
        let trial = series.strace(&["-e", &inject]);
        series.assert_recorded_if_ran(&trial, &inject);
        let said = text(&trial.output.stderr);
        if trial.ran {
            assert_eq!(code(&trial.output), 0, "{inject}: {said}");
            assert_ne!(at.call, "fdatasync", "it ran although its record is not durable");
            without.push(inject);
            continue;
        }
        refused += 1;
        // The same calls look for the site's lists, and a list that cannot be read lets nobody in (120).
        let lists = code(&trial.output) == 120 && said.contains("this site cannot read one of its lists");
        assert!(
            lists || matches!(code(&trial.output), 122 | 125),
            "{inject}: {} {said}",
            code(&trial.output)
        );
        assert_one_line(&said, &inject);
    }
    println!("{refused} refused; the launch went on without {without:#?}");
    assert!(refused * support::stride() > 20, "only {refused} refused");
    series.assert_settled();
}

#[test]
fn a_record_that_cannot_be_written_or_synced_is_122() {
    // In a log's first launch also the directory, the segment and its entry must be made durable.
    for first in [false, true] {
        let primed = || {
            let series = Series::new();
            if !first {
                assert_eq!(code(&series.plain().output), 0);
            }
            series
        };
        let syncs = if first { ["fsync", "fdatasync"] } else { ["write", "fdatasync"] };
        for call in syncs {
            let count = steps(&primed()).iter().filter(|step| step.process == 0 && step.call == call).count();
            assert!(count > 0, "no {call}");
            // The last write is the end's, after the payload.
            let count = if call == "write" { count - 1 } else { count };
            for number in 1..=count {
                for error in ["EIO", "ENOSPC", "EDQUOT", "EROFS"] {
                    let series = primed();
                    let inject = format!("inject={call}:error={error}:when={number}");
                    let trial = series.strace(&["-e", &inject]);
                    let said = text(&trial.output.stderr);
                    assert!(!trial.ran, "{inject}: it ran");
                    assert_eq!(code(&trial.output), 122, "{inject}: {said}");
                    assert_one_line(&said, &inject);
                    assert!(said.contains(error), "{inject}: {said}");
                    // A launch record that could not be made durable is closed as what it was, not as a launcher that died.
                    let ids = |action: &str| -> Vec<Value> {
                        series.world.records_of(action).iter().map(|r| r["event"]["id"].clone()).collect()
                    };
                    let (ended, failed) = (ids("payload-end"), ids("launch-failed"));
                    for launch in ids("payload-launch") {
                        assert!(
                            ended.contains(&launch) || failed.contains(&launch),
                            "{inject}: {launch} is open"
                        );
                    }
                    series.assert_settled();
                }
            }
        }
    }
}

#[test]
fn the_record_is_synced_before_the_release_and_the_execve() {
    let series = Series::new();
    for first in [true, false] {
        let log = trace(&series, "write,fdatasync,sendmsg,sendto,execve");
        let lines: Vec<&str> = log.lines().collect();
        let launcher = lines[0].split_once(' ').unwrap().0;
        let find = |what: &str, own: bool, words: &[&str]| {
            let found: Vec<usize> = lines
                .iter()
                .enumerate()
                .filter(|(_, line)| {
                    line.starts_with(launcher) == own && words.iter().all(|word| line.contains(word))
                })
                .map(|(index, _)| index)
                .collect();
            *found.last().unwrap_or_else(|| panic!("no {what} in\n{log}"))
        };
        // The call may be shown in two parts; what counts is the line on which it returned.
        let returned = |what: &str| find(what, true, &[what, "= 0"]);
        let synced = returned("fdatasync");
        let release = find("release", true, &["send", "\"!\""]);
        let exec = find("execve", false, &["execve("]);
        assert!(synced < release, "first {first}: released before the sync returned\n{log}");
        assert!(release < exec, "first {first}: executed before the release\n{log}");
        // The launch record is the last line written before that sync, and it is the launcher's.
        let wrote =
            lines[..synced].iter().rposition(|line| line.starts_with(launcher) && line.contains("write("));
        assert!(wrote.is_some(), "{log}");
    }
    series.assert_settled();
}
