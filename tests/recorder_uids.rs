//! The recorder as three accounts see it: its own, and two pilots'. Root starts this program, and nothing under test runs as
//! root but an administrator's commands.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

#[path = "support/observer.rs"]
mod observer;
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use support::accounts::{Account, Node};
use support::{Guard, Started, code, skip, stdout, text, wait_for};

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
    assert!(took < support::patience(Duration::from_secs(3)), "{took:?}");
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
