//! Accounts that root can become, and a node that several of them share: a recorder of the recorder's account, and two pilots.
#![allow(dead_code)] // of each test program another part

use super::recorder::Recorder;
use super::{BAILEY, Started, skip, stdout, text};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// An account that root can become.
#[derive(Clone)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    fn named(variable: &str) -> Option<Self> {
        let name = std::env::var(variable).ok()?;
        let id = |option: &str| {
            let output = Command::new("id").args([option, &name]).output().ok()?;
            text(&output.stdout).trim().parse().ok()
        };
        Some(Self { uid: id("-u")?, gid: id("-g")? })
    }
}

/// A directory of root's that everybody can enter, with a home for each account, and a recorder of the recorder's account.
pub struct Node {
    pub dir: PathBuf,
    pub recorder: Option<Recorder>,
    pub owner: Account,
    pub pilots: [Account; 2],
}

impl Node {
    /// `None`, and the test is skipped, where root or the accounts are missing.
    pub fn new(test: &str) -> Option<Self> {
        Self::with(test, &[])
    }

    /// The same with lines of the configuration (`Recorder::with`).
    pub fn with(test: &str, additions: &[(&str, &str)]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let accounts =
            ["BAILEY_TEST_RECORDER_USER", "BAILEY_TEST_USER", "BAILEY_TEST_USER_B"].map(Account::named);
        let [Some(owner), Some(a), Some(b)] = accounts else {
            skip(
                test,
                "three accounts are needed (BAILEY_TEST_RECORDER_USER, BAILEY_TEST_USER, BAILEY_TEST_USER_B)",
            );
            return None;
        };
        if !nix::unistd::geteuid().is_root() {
            skip(test, "only root can become three accounts");
            return None;
        }
        let base =
            std::env::var_os("BAILEY_TEST_SHARED").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let name = format!("uids-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = base.join(name);
        fs::create_dir(&dir).unwrap();
        let mut node = Self { dir, recorder: None, owner, pilots: [a, b] };
        for pilot in &node.pilots {
            let home = node.home(pilot);
            fs::create_dir(&home).unwrap();
            chown(&home, Some(pilot.uid), Some(pilot.gid)).unwrap();
        }
        let place = node.dir.join("recorder");
        fs::create_dir(&place).unwrap();
        let mut recorder = Recorder::at(&place, &[&[("limits", "grace = \"1s\"")], additions].concat());
        for dir in [&recorder.log, &recorder.state, &recorder.socket.parent().unwrap().to_path_buf()] {
            chown(dir, Some(node.owner.uid), Some(node.owner.gid)).unwrap();
        }
        let mut command = node.become_account(&node.owner, &[], recorder.command().get_program());
        command.env("BAILEY_CONFIG", &recorder.config).stdout(Stdio::null());
        command.stderr(fs::File::create(&recorder.said).unwrap());
        recorder.adopt(command);
        node.recorder = Some(recorder);
        Some(node)
    }

    pub fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().unwrap()
    }

    pub fn home(&self, account: &Account) -> PathBuf {
        self.dir.join(format!("home-{}", account.uid))
    }

    /// `program` as an account, with groups beside its own.
    pub fn become_account(
        &self,
        account: &Account,
        groups: &[u32],
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &account.uid.to_string(), "--regid", &account.gid.to_string()]);
        if groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            command.args(["--groups", &groups.join(",")]);
        }
        command
            .arg("--")
            .arg(program)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home(account));
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// `bailey ARGS` as an account.
    pub fn bailey(&self, account: &Account, groups: &[u32], args: &[&str]) -> Output {
        let mut command = self.become_account(account, groups, BAILEY);
        command.env("BAILEY_CONFIG", &self.recorder().config).args(args).output().unwrap()
    }

    /// A payload of a pilot that runs until it is ended.
    pub fn payload(&self, pilot: &Account, user: &str) -> Started {
        self.payload_of(pilot, user, &[])
    }

    /// The same with options.
    pub fn payload_of(&self, pilot: &Account, user: &str, options: &[&str]) -> Started {
        let mut command = self.become_account(pilot, &[], BAILEY);
        command.env("BAILEY_CONFIG", &self.recorder().config).args(["exec", "--user", user]);
        command.args(options).arg("--");
        command.args(["/bin/sh", "-c", "printf kept >w; echo ready; sleep 1000"]).stderr(Stdio::null());
        let mut started = Started::new(&mut command);
        assert_eq!(started.line(), "ready");
        started
    }

    /// `bailey ps --json` as an account: the users that it sees, sorted.
    pub fn seen(&self, account: &Account, groups: &[u32]) -> Vec<String> {
        let listed = stdout(&self.bailey(account, groups, &["ps", "--json"]));
        let row =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["user"].as_str().unwrap().to_owned();
        let mut users: Vec<String> = listed.lines().map(row).collect();
        users.sort();
        users
    }

    pub fn id_of(&self, user: &str) -> String {
        self.recorder().live().iter().find(|row| row.user.as_deref() == Some(user)).unwrap().id.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.recorder = None;
        fs::remove_dir_all(&self.dir).ok();
    }
}
