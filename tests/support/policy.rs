//! A node with a policy of its own: its configuration and ban lists in the test's world, with a recorder or without.

use super::recorder::Recorder;
use super::{Started, World, image};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// One node. Its payloads are the test's own to end.
pub struct Node {
    pub config: PathBuf,
    pub bans: PathBuf,
    pub recorder: Option<Recorder>,
    // Last: the recorder goes before its directory.
    pub world: World,
}

impl Node {
    /// Launchers write their own log. `more`: lines of sections, `("bans", "settle = \"0s\"")`; the section "" is what has one
    /// of its own (tables).
    pub fn embedded(more: &[(&str, &str)]) -> Self {
        let world = World::new();
        let bans = directory(&world);
        let mut sections: BTreeMap<&str, String> = BTreeMap::new();
        let socket = format!("socket = \"{}\"\n", world.path("no-recorder.sock").display());
        sections.insert("audit", socket);
        for (section, line) in with_bans(more, &bans).iter().map(|(section, line)| (*section, line)) {
            let text = sections.entry(section).or_default();
            text.push_str(line);
            text.push('\n');
        }
        let tables = sections.remove("").unwrap_or_default();
        let text: Vec<String> = sections.iter().map(|(name, lines)| format!("[{name}]\n{lines}\n")).collect();
        let text = text.concat();
        let config = world.config(&format!("{text}{tables}"));
        Self { config, bans, recorder: None, world }
    }

    /// They go to a recorder.
    pub fn recorded(more: &[(&str, &str)]) -> Self {
        let mut node = Self::not_started(more);
        node.recorder.as_mut().unwrap().restart();
        node
    }

    /// The same with a recorder that does not run yet.
    pub fn not_started(more: &[(&str, &str)]) -> Self {
        let world = World::new();
        let bans = directory(&world);
        let lines = with_bans(more, &bans);
        let (tables, lines): (Vec<_>, Vec<_>) = lines
            .iter()
            .map(|(section, line)| (*section, line.as_str()))
            .partition(|(section, _)| section.is_empty());
        let recorder = Recorder::not_started(&world, &lines);
        let tables: Vec<String> = tables.into_iter().map(|(_, line)| format!("{line}\n")).collect();
        let tables = tables.concat();
        let text = fs::read_to_string(&recorder.config).unwrap();
        fs::write(&recorder.config, format!("{text}\n{tables}")).unwrap();
        Self { config: recorder.config.clone(), bans, recorder: Some(recorder), world }
    }

    /// Both kinds of node, one after the other.
    pub fn each(more: &[(&str, &str)], test: impl Fn(&mut Self)) {
        println!("embedded log:");
        test(&mut Self::embedded(more));
        println!("recorder:");
        test(&mut Self::recorded(more));
    }

    pub fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().expect("a recorder")
    }

    /// Writes a list aside and renames it.
    pub fn ban(&self, name: &str, text: &str) -> PathBuf {
        let (aside, path) = (self.world.path(&format!("{name}.aside")), self.bans.join(name));
        fs::write(&aside, text).unwrap();
        fs::set_permissions(&aside, Permissions::from_mode(0o644)).unwrap();
        fs::rename(&aside, &path).unwrap();
        path
    }

    pub fn records(&self) -> Vec<Value> {
        self.recorder.as_ref().map_or_else(|| self.world.records(), Recorder::records)
    }

    pub fn records_of(&self, action: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["event"]["action"] == action).collect()
    }

    /// `bailey exec OPTIONS -- COMMAND` on the host's own system, run to its end.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        let mut exec = self.world.exec(options);
        exec.env("BAILEY_CONFIG", &self.config).arg("--").args(command).output().unwrap()
    }

    /// The same with the test's image.
    pub fn run_in_image(&self, options: &[&str], script: &str) -> Output {
        let mut exec = self.world.exec(&["--image"]);
        exec.arg(image()).args(options).env("BAILEY_CONFIG", &self.config);
        exec.args(["--", "/bin/sh", "-c", script]).output().unwrap()
    }

    /// The exit code of a launch of `/bin/true`.
    pub fn launch(&self, options: &[&str]) -> i32 {
        super::code(&self.run(options, &["/bin/true"]))
    }

    /// Starts a shell script for `user` and waits for its line `ready`.
    pub fn start(&self, user: &str, options: &[&str], script: &str) -> Payload {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let said = self.world.path(&format!("{number}.said"));
        let status = self.world.path(&format!("{number}.status"));
        let mut command = self.world.exec(&["--user", user, "--status-file"]);
        command.arg(&status).args(options).env("BAILEY_CONFIG", &self.config);
        command.args(["--", "/bin/sh", "-c", script]).stderr(fs::File::create(&said).unwrap());
        let mut started = Started::new(&mut command);
        assert_eq!(started.line(), "ready", "{}", fs::read_to_string(&said).unwrap());
        Payload { started, said, status }
    }
}

fn directory(world: &World) -> PathBuf {
    let dir = world.directory("bans.d");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    dir
}

fn with_bans<'a>(more: &[(&'a str, &str)], bans: &Path) -> Vec<(&'a str, String)> {
    let mut lines: Vec<(&str, String)> =
        more.iter().map(|(section, line)| (*section, (*line).to_owned())).collect();
    if !lines.iter().any(|(section, line)| *section == "bans" && line.starts_with("dir =")) {
        lines.push(("bans", format!("dir = \"{}\"", bans.display())));
    }
    lines
}

/// A payload that runs.
pub struct Payload {
    pub started: Started,
    pub said: PathBuf,
    pub status: PathBuf,
}

impl Payload {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Whether its bailey is still there.
    pub fn lives(&mut self) -> bool {
        self.started.child.0.try_wait().unwrap().is_none()
    }

    /// Waits for bailey's end; its exit code.
    pub fn end(&mut self) -> i32 {
        let start = Instant::now();
        while self.lives() {
            assert!(
                start.elapsed() < super::patience(Duration::from_secs(30)),
                "bailey does not end: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        self.started.child.0.wait().unwrap().code().expect("an exit code")
    }
}

/// One ban of bailey's own format.
pub fn entry(key: &str, value: &str, more: &str) -> String {
    format!("[[ban]]\n{key} = \"{value}\"\nreason = \"it mines coins\"\nticket = \"RT#17\"\n{more}\n")
}
