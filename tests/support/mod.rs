//! What the tests that run the real program share. They run as an ordinary user: a test run as root tests another program.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

pub mod accounts;
pub mod load;
pub mod policy;
pub mod raw;
pub mod recorder;

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The launcher as the tests build it (feature `test-hooks`: it honours `BAILEY_CONFIG`).
pub const BAILEY: &str = env!("CARGO_BIN_EXE_bailey");

/// The Debian root directory (tests/image.sh).
pub fn image() -> PathBuf {
    let path = std::env::var_os("BAILEY_TEST_IMAGE")
        .map_or_else(|| PathBuf::from("/var/tmp/bailey-test/images/debian-12"), PathBuf::from);
    assert!(path.join("usr/bin/env").exists(), "no image at {}: run tests/image.sh", path.display());
    path
}

/// Says that a test cannot run here, and why. Without tests/test.sh, which counts and prints it, that is a failure.
pub fn skip(test: &str, reason: &str) {
    let dir = std::env::var_os("BAILEY_SKIP_DIR").filter(|dir| !dir.is_empty());
    let Some(dir) = dir else { panic!("{test} cannot run here: {reason}") };
    fs::write(Path::new(&dir).join(test), reason).unwrap();
}

/// One test's private world: a directory on a disk, a home, a log of its own. Removed at the end.
pub struct World {
    pub dir: PathBuf,
}

impl World {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert_ne!(nix::unistd::geteuid().as_raw(), 0, "run the tests as an ordinary user (tests/test.sh)");
        let base =
            std::env::var_os("BAILEY_TEST_TMP").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let name = format!("world-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = base.join(name);
        fs::create_dir(&dir).unwrap();
        let dir = fs::canonicalize(dir).unwrap();
        fs::create_dir(dir.join("home")).unwrap();
        std::sync::LazyLock::force(&GROUPS);
        Self { dir }
    }

    /// A path in the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file in the world.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with("bailey.toml") {
            fs::write(&path, with_the_beds(content)).unwrap();
        } else {
            fs::write(&path, content).unwrap();
        }
        path
    }

    /// Makes a directory in the world.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// `program` with nothing in its environment but HOME, PATH and USER: what a pilot's would be.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("USER", "pilot")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        if let Some(site) = std::env::var_os("BAILEY_TEST_SITE") {
            command.env("BAILEY_CONFIG", site);
        }
        command
    }

    /// `bailey exec OPTIONS`, without image and command.
    pub fn exec<S: AsRef<OsStr>>(&self, options: &[S]) -> Command {
        let mut command = self.command(BAILEY);
        command.arg("exec").args(options);
        command
    }

    /// `bailey exec --image IMAGE OPTIONS -- /bin/sh -c SCRIPT`, run to its end.
    pub fn shell(&self, options: &[&str], script: &str) -> Output {
        let mut command = self.exec(&["--image"]);
        command.arg(image()).args(options).args(["--", "/bin/sh", "-c", script]);
        command.output().unwrap()
    }

    /// As [`World::shell`] on the host's own system.
    pub fn host_shell(&self, options: &[&str], script: &str) -> Output {
        let mut command = self.exec(options);
        command.args(["--", "/bin/sh", "-c", script]);
        command.output().unwrap()
    }

    /// `bailey SUBCOMMAND ARGS` that bailey-admin answers.
    pub fn admin(&self, args: &[&str]) -> Output {
        self.command(BAILEY).args(args).output().unwrap()
    }

    /// The embedded log's directory, once there is one.
    pub fn log_dir(&self) -> PathBuf {
        let base = self.path("home/.local/state/bailey");
        let mut entries = fs::read_dir(&base).unwrap_or_else(|e| panic!("no log at {}: {e}", base.display()));
        entries.next().expect("a host's log").unwrap().path()
    }

    /// Every record, oldest first. Empty when nothing was ever logged.
    pub fn records(&self) -> Vec<Value> {
        // A launch that has just begun makes this directory first, and then the host's in it.
        let is_there = |mut entries: fs::ReadDir| entries.next().is_some();
        if !fs::read_dir(self.path("home/.local/state/bailey")).is_ok_and(is_there) {
            return Vec::new();
        }
        let mut segments: Vec<PathBuf> = fs::read_dir(self.log_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
            .collect();
        segments.sort();
        segments
            .iter()
            .flat_map(|path| {
                let text = fs::read_to_string(path).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
            })
            .collect()
    }

    /// The records of one action.
    pub fn records_of(&self, action: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["event"]["action"] == action).collect()
    }

    /// Every launch that the log knows has exactly one record that closes it.
    pub fn assert_closed(&self) {
        let mut closers: BTreeMap<String, u32> = BTreeMap::new();
        for record in self.records() {
            let Some(id) = record["event"]["id"].as_str() else { continue };
            let count = closers.entry(id.to_owned()).or_default();
            match record["event"]["action"].as_str().unwrap() {
                "payload-end" | "payload-deny" | "launch-failed" => *count += 1,
                _ => {}
            }
        }
        let wrong: Vec<_> = closers.iter().filter(|(_, count)| **count != 1).collect();
        assert!(wrong.is_empty(), "not closed once: {wrong:?}");
    }

    /// A configuration file that bailey trusts, for `BAILEY_CONFIG`.
    pub fn config(&self, text: &str) -> PathBuf {
        let path = self.file("bailey.toml", text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// A file in the world that can be executed.
    pub fn program(&self, name: &str, content: &str) -> PathBuf {
        let path = self.file(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// `bailey verify` says that the chain is whole.
    pub fn assert_chain(&self) {
        let output = self.admin(&["verify"]);
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
}

/// A configuration with what the bed's site says in `[sandbox]` (`BAILEY_TEST_SANDBOX`, tests/beds/podman.sh): in a container that
/// masks /proc nothing would run under any other. What says something of it stays as it is. Who names no configuration has the bed's
/// file (`BAILEY_TEST_SITE`).
pub fn with_the_beds(content: &str) -> String {
    let Ok(line) = std::env::var("BAILEY_TEST_SANDBOX") else { return content.to_owned() };
    let key = line.split('=').next().unwrap();
    if content.contains(&format!("\n{key}=")) {
        return content.to_owned();
    }
    match content.split_once("[sandbox]\n") {
        Some((before, after)) => format!("{before}[sandbox]\n{line}\n{after}"),
        None => format!("{content}\n[sandbox]\n{line}\n"),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A directory without permissions would stop the removal; tests make such.
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.dir).stderr(Stdio::null()).status();
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// The attacks of a hostile payload or pilot (support/attack.c), compiled into the world: run plainly it shows that an
/// attack works, bound into a payload that it does not.
pub struct Attack(pub PathBuf);

/// Where [`Attack::exec`] puts the program, inside.
pub const ATTACK: &str = "/tmp/attack";

impl Attack {
    pub fn new(world: &World) -> Self {
        // Compiled once in each test program.
        static PROGRAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let program = world.path("attack/attack");
        let source = world.file("attack/attack.c", include_str!("attack.c"));
        let bytes = PROGRAM.get_or_init(|| {
            let mut gcc = world.command("gcc");
            gcc.args(["-static", "-O1", "-o"]).args([&program, &source]);
            let output = gcc.output().expect("gcc is missing: run tests/setup.sh");
            assert!(output.status.success(), "{}", text(&output.stderr));
            fs::read(&program).unwrap()
        });
        if !program.exists() {
            fs::write(&program, bytes).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self(program)
    }

    /// Runs it outside: the control.
    pub fn plain(&self, world: &World, args: &[&str]) -> String {
        stdout(&world.command(&self.0).args(args).output().unwrap())
    }

    /// `bailey exec OPTIONS --bind ...:/tmp/attack`, without command.
    pub fn exec(&self, world: &World, options: &[&str]) -> Command {
        let mut command = world.exec(&["--image"]);
        command.arg(image()).args(options).arg("--bind").arg(self.option());
        command
    }

    /// The value of `--bind` that hands it over.
    pub fn option(&self) -> String {
        format!("{}:{ATTACK}", self.0.display())
    }

    /// Runs it in a payload with the test's image.
    pub fn inside(&self, world: &World, options: &[&str], args: &[&str]) -> String {
        stdout(&self.exec(world, options).args(["--", ATTACK]).args(args).output().unwrap())
    }
}

/// A copy of `command` behind others: `program ARGS... COMMAND`, with the same environment and directory.
pub fn behind(program: &str, args: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program);
    outer.args(args).arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// `command` as the ordinary user again, in a mount namespace of the test's own in which `script` ran with the right to
/// mount. The script sees the command as `"$@"` and executes it itself; `$back` becomes the ordinary user.
pub fn mounted(propagation: &str, script: &str, command: &Command) -> Command {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let script = format!("set -e; back='unshare -U --map-user={uid} --map-group={gid} --'; {script}");
    behind("unshare", &["-Urm", "--propagation", propagation, "/bin/sh", "-c", &script, "sh"], command)
}

/// `command` where /etc/passwd has `home` as the home directory of this account.
pub fn at_home(world: &World, home: &Path, command: &Command) -> Command {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let lines = format!("root:x:0:0:root:/root:/bin/sh\npilot:x:{uid}:{gid}::{}:/bin/sh\n", home.display());
    let passwd = world.file("accounts/passwd", &lines);
    let script = format!("mount --bind {} /etc/passwd; exec $back \"$@\"", passwd.display());
    mounted("private", &script, command)
}

/// Every file below `dir` with its kind, size and mode; symbolic links are not followed, `home` (the log) is left out.
pub fn tree(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    fn walk(dir: &Path, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let size = if meta.is_file() { meta.size() } else { 0 };
            found.push(format!("{} {:o} {size}", path.display(), meta.mode()));
            if meta.is_dir() && entry.file_name() != "home" {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    found.sort();
    found
}

impl World {
    /// What the world holds now; for [`World::assert_nothing_left`].
    pub fn snapshot(&self) -> Vec<String> {
        tree(&self.dir)
    }

    /// No process, mount, file, directory or control group is left of the launches of this world.
    pub fn assert_nothing_left(&self, before: &[String]) {
        assert_eq!(tree(&self.dir), before, "files changed");
        self.assert_no_trace();
    }

    /// As [`World::assert_nothing_left`] where the payload was meant to write.
    pub fn assert_no_trace(&self) {
        let world = text(self.dir.as_os_str().as_encoded_bytes());
        // pid 1 of the machine may reap late, so a moment is given.
        wait_for("the end of every process of this world", || alive_with(&world).is_empty());
        for record in self.records() {
            let Some(id) = record["event"]["id"].as_str() else {
                continue;
            };
            wait_for("the end of init", || alive_with(id).is_empty());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&world) && !mounts.contains("new-root"), "{mounts}");
        let left: Vec<String> = groups().into_iter().filter(|group| !GROUPS.contains(group)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Control groups that were there before this test, of bailey's making or named like it: other launches' on this machine.
static GROUPS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(groups);

/// Control groups right below the caller's own that bear bailey's name.
fn groups() -> Vec<String> {
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup").unwrap().lines() {
        let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        for base in [
            "/sys/fs/cgroup".to_owned(),
            format!("/sys/fs/cgroup/{controllers}"),
            "/sys/fs/cgroup/unified".to_owned(),
        ] {
            for entry in fs::read_dir(format!("{base}{path}")).into_iter().flatten().flatten() {
                let group = entry.path().display().to_string();
                if group.rsplit('/').next().unwrap().contains("bailey") {
                    found.push(group);
                }
            }
        }
    }
    found
}

/// Something that goes on in a thread until the test ends: `step` again and again.
pub struct Racing(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Racing {
    pub fn new(mut step: impl FnMut() + Send + 'static) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                step();
            }
        });
        Self(stop, Some(thread))
    }

    /// Swaps the two names as fast as it can (`RENAME_EXCHANGE`).
    pub fn swap(a: &Path, b: &Path) -> Self {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        let (a, b) = (a.to_path_buf(), b.to_path_buf());
        Self::new(move || renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap())
    }
}

impl Drop for Racing {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

/// Whether this kernel is that version or a later one.
pub fn kernel_is(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output, trimmed; the payload must have ended with 0.
pub fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{:?}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout).trim_end().to_owned()
}

/// The exit code; a signal is a failure of the test.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("bailey itself was killed: {:?}", output.status))
}

/// bailey said exactly one line, with this exit code, and the line has all the words.
pub fn assert_refused(output: &Output, expected: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(code(output), expected, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "one line, not:\n{said}");
    assert!(lines[0].starts_with("bailey: "), "{said}");
    // What was tried, why not, what to do.
    assert!(lines[0].contains(": ") && lines[0].contains("; "), "{said}");
    for word in words {
        assert!(lines[0].contains(word), "'{word}' is not in: {said}");
    }
}

/// A status file.
pub fn status(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("no status file {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A running program whose standard output is read line by line, killed when the test ends.
pub struct Started {
    pub child: Guard,
    pub lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Started {
    /// Starts it with stdin and stdout as pipes.
    pub fn new(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child: Guard(child), lines }
    }

    pub fn pid(&self) -> i32 {
        self.child.0.id() as i32
    }

    /// The next line that the payload prints.
    pub fn line(&mut self) -> String {
        self.lines.next().expect("the payload closed its output").unwrap()
    }

    /// Sends a signal, by number: real-time ones have no name.
    pub fn signal(&self, signal: i32) {
        let sent =
            Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{signal}");
    }

    /// Closes its stdin and waits for its end.
    pub fn end(&mut self) -> std::process::ExitStatus {
        drop(self.child.0.stdin.take());
        self.child.0.wait().unwrap()
    }
}

/// A field of /proc/PID/status, `None` when the process is gone.
pub fn proc_status(pid: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Every pid of this host.
pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// How long something may take at most that usually takes no longer than this: `BAILEY_TEST_SLOW` times as long, where
/// tests/beds/kernels.sh emulates the processor.
pub fn patience(usual: Duration) -> Duration {
    usual
        * std::env::var("BAILEY_TEST_SLOW")
            .map_or(1, |times| times.parse().expect("BAILEY_TEST_SLOW is a number"))
}

/// Of many like cases every so manieth is tried: every one, but where the processor is emulated only every tenth or so.
pub fn stride() -> usize {
    patience(Duration::from_secs(1)).as_secs() as usize
}

/// Waits until `condition` holds; panics after ten seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience(Duration::from_secs(10)), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The pids of processes that are alive (zombies are not) and whose environment or command line has `mark`. A mark is
/// something unique that a test puts on the payload's command line.
pub fn alive_with(mark: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let zombie = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']));
        if pid != own && !zombie && text(&line).contains(mark) {
            found.push(pid);
        }
    }
    found
}

/// A child that is killed and reaped when the test ends, however it ends.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
