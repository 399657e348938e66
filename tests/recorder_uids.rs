//! The recorder as three accounts see it: its own, and two pilots'. Root starts this program, and nothing under test runs as
//! root but an administrator's commands.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

#[path = "support/observer.rs"]
mod observer;
mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{BAILEY, Guard, Started, code, skip, stdout, text, wait_for};

/// An account that root can become.
#[derive(Clone)]
struct Account {
    uid: u32,
    gid: u32,
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
struct Node {
    dir: PathBuf,
    recorder: Option<Recorder>,
    owner: Account,
    pilots: [Account; 2],
}

impl Node {
    /// `None`, and the test is skipped, where root or the accounts are missing.
    fn new(test: &str) -> Option<Self> {
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
        let mut recorder = Recorder::at(&place, &[("limits", "grace = \"1s\"")]);
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

    fn recorder(&self) -> &Recorder {
        self.recorder.as_ref().unwrap()
    }

    fn home(&self, account: &Account) -> PathBuf {
        self.dir.join(format!("home-{}", account.uid))
    }

    /// `program` as an account, with groups beside its own.
    fn become_account(
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
    fn bailey(&self, account: &Account, groups: &[u32], args: &[&str]) -> Output {
        let mut command = self.become_account(account, groups, BAILEY);
        command.env("BAILEY_CONFIG", &self.recorder().config).args(args).output().unwrap()
    }

    /// A payload of a pilot that runs until it is ended.
    fn payload(&self, pilot: &Account, user: &str) -> Started {
        let mut command = self.become_account(pilot, &[], BAILEY);
        command.env("BAILEY_CONFIG", &self.recorder().config).args(["exec", "--user", user, "--"]);
        command.args(["/bin/sh", "-c", "printf kept >w; echo ready; sleep 1000"]).stderr(Stdio::null());
        let mut started = Started::new(&mut command);
        assert_eq!(started.line(), "ready");
        started
    }

    /// `bailey ps --json` as an account: the users that it sees, sorted.
    fn seen(&self, account: &Account, groups: &[u32]) -> Vec<String> {
        let listed = stdout(&self.bailey(account, groups, &["ps", "--json"]));
        let row =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["user"].as_str().unwrap().to_owned();
        let mut users: Vec<String> = listed.lines().map(row).collect();
        users.sort();
        users
    }

    fn id_of(&self, user: &str) -> String {
        self.recorder().live().iter().find(|row| row.user.as_deref() == Some(user)).unwrap().id.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.recorder = None;
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn assert_no(output: &Output, words: &str) {
    assert_eq!(code(output), 1, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
}

fn end_of(started: &mut Started) -> i32 {
    wait_for("bailey's end", || started.child.0.try_wait().unwrap().is_some());
    started.child.0.wait().unwrap().code().unwrap()
}

fn owner_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

#[test]
fn each_account_lists_and_stops_what_is_its_own() {
    let Some(node) = Node::new("each_account_lists_and_stops_what_is_its_own") else { return };
    let root = Account { uid: 0, gid: 0 };
    let (owner, [a, b]) = (node.owner.clone(), node.pilots.clone());
    let (mut first, mut second) = (node.payload(&a, "one"), node.payload(&b, "two"));
    node.recorder().wait_live(2);
    assert_eq!(node.seen(&a, &[]), ["one"]);
    assert_eq!(node.seen(&b, &[]), ["two"]);
    assert_eq!(node.seen(&owner, &[]), ["one", "two"]);
    assert_eq!(node.seen(&root, &[]), ["one", "two"]);
    let log_group = fs::metadata(&node.recorder().log).unwrap().gid();
    assert_eq!(node.seen(&b, &[log_group]), ["one", "two"], "who may read the log may list");

    // Another's payload: by id, by pid, in the group or not.
    let id = node.id_of("one");
    let pid = node.recorder().live().iter().find(|row| row.id == id).unwrap().pid.to_string();
    let stop = |which: &str, reason: &str| {
        vec!["stop".to_owned(), which.to_owned(), "--reason".to_owned(), reason.to_owned()]
    };
    let run = |account: &Account, groups: &[u32], args: &[String]| {
        node.bailey(account, groups, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_no(&run(&b, &[], &stop(&id, "mine now")), "it belongs to another account");
    assert_no(&run(&b, &[], &stop(&pid, "mine now")), "no live payload that you may see");
    assert_no(&run(&b, &[log_group], &stop(&pid, "mine now")), "it belongs to another account");
    assert_no(
        &node.bailey(&a, &[], &["drain", "--reason", "rest"]),
        "neither root nor the recorder's account",
    );
    assert_eq!(node.seen(&root, &[]), ["one", "two"]);
    assert!(node.recorder().records_of("payload-stop").is_empty());
    assert!(node.recorder().records_of("node-drain").is_empty());

    // One's own; and anybody's for the recorder's account, which keeps its files for their owner.
    stdout(&run(&a, &[], &stop(&id[..25], "my own")));
    assert_eq!(end_of(&mut first), 123);
    let id = node.id_of("two");
    let mut args = stop(&id, "a warrant");
    args.push("--preserve".to_owned());
    stdout(&run(&owner, &[], &args));
    assert_eq!(end_of(&mut second), 123);
    let kept = node.home(&b).join(".local/state/bailey/preserved").join(&id);
    assert_eq!(fs::read_to_string(kept.join("srv/w")).unwrap(), "kept");
    assert_eq!(owner_of(&kept), b.uid);
    let stops = node.recorder().wait_records("payload-stop", 2);
    let asked: Vec<u64> = stops.iter().map(|stop| stop["grid"]["peer"]["uid"].as_u64().unwrap()).collect();
    assert_eq!(asked, [u64::from(a.uid), u64::from(owner.uid)]);
    for end in node.recorder().wait_records("payload-end", 2) {
        assert_eq!(end["grid"]["end"]["by"], "administrator", "{end}");
    }
    assert!(fs::metadata(&node.recorder().log).unwrap().uid() == owner.uid);
}

#[test]
fn root_and_the_recorders_account_drain_the_node() {
    let Some(node) = Node::new("root_and_the_recorders_account_drain_the_node") else { return };
    let root = Account { uid: 0, gid: 0 };
    let (owner, [a, _]) = (node.owner.clone(), node.pilots.clone());
    let launch = || node.bailey(&a, &[], &["exec", "--user", "u", "--", "/bin/echo", "hello"]);
    assert_eq!(stdout(&launch()), "hello");
    for account in [&root, &owner] {
        stdout(&node.bailey(account, &[], &["drain", "--reason", "new kernel"]));
        let output = launch();
        assert_eq!(code(&output), 120);
        assert!(text(&output.stderr).contains("new kernel"), "{}", text(&output.stderr));
        assert!(stdout(&node.bailey(&a, &[], &["drain", "--show"])).contains("new kernel"));
        stdout(&node.bailey(account, &[], &["drain", "--off"]));
        assert_eq!(stdout(&launch()), "hello");
    }
    // A flag of root's own file is the recorder's to take away as well: the directory is its own.
    let flag = node.recorder().socket.with_file_name("drain");
    fs::write(&flag, "by hand\n").unwrap();
    assert_eq!(owner_of(&flag), 0);
    assert_eq!(code(&launch()), 120);
    stdout(&node.bailey(&owner, &[], &["drain", "--off"]));
    assert_eq!(stdout(&launch()), "hello");
}

#[test]
fn files_of_many_accounts_hang_and_a_pilot_launches() {
    const TEST: &str = "files_of_many_accounts_hang_and_a_pilot_launches";
    const HANGING: u32 = 70;
    let Some(node) = Node::new(TEST) else { return };
    let device =
        std::env::var_os("BAILEY_TEST_FUSE").map_or_else(|| PathBuf::from("/dev/fuse"), PathBuf::from);
    if !device.exists() {
        return skip(TEST, "there is no FUSE device");
    }
    observer::compile(&node.dir);
    let program = node.dir.join("launcher");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let launch = |user: &str| {
        let (begin, pilot) = (Instant::now(), &node.pilots[0]);
        let output = node.bailey(pilot, &[], &["exec", "--user", user, "--", "/bin/true"]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        begin.elapsed()
    };
    let threads = || fs::read_dir(format!("/proc/{}/task", node.recorder().pid())).unwrap().count();
    let before = threads();
    let mut hanging: Vec<Guard> = Vec::new();
    for uid in 64_300..64_300 + HANGING {
        let mut command = node.become_account(&Account { uid, gid: uid }, &[], &program);
        command.arg(&node.recorder().socket).arg("hello-hanging").env("BAILEY_TEST_FUSE", &device);
        command.stdin(Stdio::piped());
        hanging.push(Guard(command.spawn().unwrap()));
    }
    // As many as the recorder once had threads at most.
    wait_for("threads that hang", || threads() >= before + 60);
    let took = launch("first");
    assert!(took < Duration::from_secs(3), "{took:?}");
    launch("second");
    assert!(threads() >= before + 60, "they hang all the time");
    // Each ends its file system when its standard input ends.
    for child in &mut hanging {
        drop(child.0.stdin.take());
    }
    drop(hanging);
    let records = node.recorder().records_of("payload-launch");
    for user in ["first", "second"] {
        let launched = records.iter().find(|record| record["user"]["id"] == user);
        let digest = &launched.unwrap()["process"]["parent"]["hash"]["sha256"];
        assert!(digest.is_string(), "{user}: the recorder could look at the launcher's program: {digest}");
    }
}
