//! A recorder of a test's own: the real program, its log and its socket in the test's world.

use super::{Guard, World, text, wait_for};
use bailey::admin::ask::Ask;
use bailey::audit::wire::{Done, LiveRow, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The recorder as the tests build it (feature `test-hooks`: it honours `BAILEY_CONFIG`).
pub const RECORDER: &str = env!("CARGO_BIN_EXE_bailey-recorder");

/// One recorder. Killed when the test ends; its payloads are the test's own to end.
pub struct Recorder {
    /// For `BAILEY_CONFIG`, also of launchers: `audit.recorder = "required"`.
    pub config: PathBuf,
    pub socket: PathBuf,
    /// The log's directory.
    pub log: PathBuf,
    /// Key and metrics.
    pub state: PathBuf,
    /// What it says on stderr.
    pub said: PathBuf,
    child: Option<Guard>,
}

impl Recorder {
    /// Starts one with the default settings, and waits until it answers.
    pub fn start(world: &World) -> Self {
        Self::with(world, &[])
    }

    /// As [`Recorder::start`], with lines added to sections of the configuration: `("audit", "wait = \"2s\"")`.
    pub fn with(world: &World, additions: &[(&str, &str)]) -> Self {
        let mut recorder = Self::not_started(world, additions);
        recorder.restart();
        recorder
    }

    /// Everything but the process.
    pub fn not_started(world: &World, additions: &[(&str, &str)]) -> Self {
        Self::at(&world.directory("recorder"), additions)
    }

    /// As [`Recorder::not_started`], in a directory of the caller's choice, which must exist.
    pub fn at(dir: &Path, additions: &[(&str, &str)]) -> Self {
        let (run, log, state) = (dir.join("run"), dir.join("log"), dir.join("state"));
        for dir in [&run, &log, &state] {
            fs::create_dir_all(dir).unwrap();
        }
        let socket = run.join("recorder.sock");
        let mut sections = BTreeMap::new();
        sections.insert(
            "audit",
            format!(
                "recorder = \"required\"\nsocket = \"{}\"\ndir = \"{}\"\n",
                socket.display(),
                dir.join("embedded").display()
            ),
        );
        sections
            .insert("recorder", format!("dir = \"{}\"\nstate = \"{}\"\n", log.display(), state.display()));
        // Clients that speak the protocol themselves have no configuration.
        if !additions.iter().any(|(_, line)| line.contains("foreign_config")) {
            sections.entry("recorder").or_default().push_str("foreign_config = \"record\"\n");
        }
        for (section, line) in additions {
            let text = sections.entry(section).or_default();
            text.push_str(line);
            text.push('\n');
        }
        let sections: Vec<String> =
            sections.iter().map(|(name, lines)| format!("[{name}]\n{lines}")).collect();
        let content = super::with_the_beds(&sections.join("\n"));
        let config = dir.join("bailey.toml");
        fs::write(&config, content).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        Self { config, socket, log, state, said: dir.join("said"), child: None }
    }

    /// The command line that starts it.
    pub fn command(&self) -> Command {
        let said = fs::OpenOptions::new().create(true).append(true).open(&self.said).unwrap();
        let mut command = Command::new(RECORDER);
        command.env_clear().env("BAILEY_CONFIG", &self.config).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(said);
        command
    }

    /// Starts it, again if it ran before, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        self.adopt(self.command());
    }

    /// Starts this command line as the recorder, and waits until it answers.
    pub fn adopt(&mut self, mut command: Command) {
        let mut child = Guard(command.spawn().unwrap());
        wait_for("the recorder's socket", || {
            if let Some(status) = child.0.try_wait().unwrap() {
                panic!("the recorder ended with {status}: {}", self.stderr());
            }
            self.ask().is_ok()
        });
        self.child = Some(child);
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("a running recorder").0.id() as i32
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.take().unwrap().0.wait().unwrap()
    }

    /// SIGKILL. One that does not run is no error.
    pub fn kill(&mut self) {
        drop(self.child.take());
    }

    /// Any signal, by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -s {name}");
    }

    /// What is done while it is stopped by SIGSTOP: it finds all of it at once.
    pub fn while_stopped(&self, act: impl FnOnce()) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.pid());
        wait_for("every thread of the recorder to be stopped", || {
            fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
        });
        act();
        self.signal("CONT");
    }

    /// What it said on stderr.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// A connection as an administrator's program has it.
    pub fn ask(&self) -> Result<Ask, bailey::failure::Failure> {
        Ask::connect_within(&self.socket, super::patience(Duration::from_secs(5)))
    }

    /// The live payloads, as `bailey ps` sees them.
    pub fn live(&self) -> Vec<LiveRow> {
        let mut ask = self.ask().unwrap();
        let mut rows = Vec::new();
        let mut answer = ask.ask(&Message::Ps(Done { text: String::new() })).unwrap();
        loop {
            let Message::Rows(page) = answer else { panic!("no rows but {answer:?}") };
            rows.extend(page.rows);
            if page.last {
                return rows;
            }
            answer = ask.more().unwrap();
        }
    }

    /// Waits until so many payloads are live, and gives them.
    pub fn wait_live(&self, count: usize) -> Vec<LiveRow> {
        let start = Instant::now();
        loop {
            let rows = self.live();
            if rows.len() == count {
                return rows;
            }
            assert!(start.elapsed() < super::patience(Duration::from_secs(20)), "{count} expected: {rows:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Every record, oldest first. A line that is being written is left out.
    pub fn records(&self) -> Vec<Value> {
        let mut segments: Vec<PathBuf> = fs::read_dir(&self.log)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
            .collect();
        segments.sort();
        let lines = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines = text(&bytes[..whole]);
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        segments.iter().flat_map(lines).collect()
    }

    /// The records of one action.
    pub fn records_of(&self, action: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["event"]["action"] == action).collect()
    }

    /// Waits until the log has so many records of the action, and gives them.
    pub fn wait_records(&self, action: &str, count: usize) -> Vec<Value> {
        self.wait_records_for(action, count, Duration::from_secs(20))
    }

    /// The same, so long at most.
    pub fn wait_records_for(&self, action: &str, count: usize, longest: Duration) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let found = self.records_of(action);
            if found.len() >= count {
                return found;
            }
            assert!(start.elapsed() < super::patience(longest), "{count} {action} expected: {found:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `bailey exec OPTIONS` that goes to this recorder, without image and command.
    pub fn exec<S: AsRef<OsStr>>(&self, world: &World, options: &[S]) -> Command {
        let mut command = world.exec(options);
        command.env("BAILEY_CONFIG", &self.config);
        command
    }

    /// `bailey SUBCOMMAND ARGS` that asks this recorder.
    pub fn admin(&self, world: &World, args: &[&str]) -> Output {
        world.command(super::BAILEY).env("BAILEY_CONFIG", &self.config).args(args).output().unwrap()
    }

    /// The chain of its log is whole.
    pub fn assert_chain(&self, world: &World) {
        let output = self.admin(world, &["verify", self.log.to_str().unwrap()]);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }
}
