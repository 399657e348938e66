//! Bans of users whose payloads run: the first signal within a second of the change, dead within two.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::policy::{Node, Payload, entry};
use support::{alive_with, code, proc_status, status, text, wait_for};

const JANE: &str = "/DC=org/DC=example/CN=Jane Doe";
const SIGNAL: Duration = Duration::from_secs(1);
const DEAD: Duration = Duration::from_secs(2);
const SETTLED: (&str, &str) = ("bans", "settle = \"0s\"");
const PERSON: (&str, &str) = (
    "",
    "[[person]]\nid = \"jane\"\nnames = [\"/DC=org/DC=example/CN=Jane Doe\", \"https://iam.example.org/ 5b1d\"]",
);
const LOOP: &str = "echo ready; while :; do sleep 0.05; done";

/// A mark for the command line of a payload, each time another.
fn mark(what: &str) -> String {
    format!("mark-{what}-{}-{:?}", std::process::id(), Instant::now()).replace(['{', '}', ' ', ':', ','], "")
}

/// It names the list and the line.
fn names(ban: &Value, list: &str) -> bool {
    ban["entry"].as_str().is_some_and(|entry| {
        entry
            .strip_prefix(&format!("{list}:"))
            .is_some_and(|line| line.parse::<u32>().is_ok_and(|line| line > 0))
    })
}

fn of_launch(node: &Node, payload: &Payload) -> Vec<Value> {
    let id = status(&payload.status)["id"].as_str().unwrap().to_owned();
    node.records().into_iter().filter(|record| record["event"]["id"] == id.as_str()).collect()
}

/// A ban ended it, says everybody: exit code, status file, stderr in one line, and the log: first the stop, then the end.
fn assert_banned(node: &Node, payload: &mut Payload, list: &str) {
    assert_eq!(payload.end(), 123, "{}", payload.said());
    let told = status(&payload.status);
    assert_eq!(
        (&told["exit_code"], &told["from_bailey"], &told["ended_by"]),
        (&123.into(), &true.into(), &"ban".into())
    );
    assert!(told["message"].as_str().unwrap().contains("suspended"), "{told}");
    let said = payload.said();
    assert_eq!(
        said.lines().filter(|line| line.contains("suspended") && line.contains("stops")).count(),
        1,
        "{said}"
    );
    let records = of_launch(node, payload);
    let place = |action: &str| records.iter().position(|record| record["event"]["action"] == action);
    let (stop, end) = (place("payload-stop").expect("a stop"), place("payload-end").expect("an end"));
    assert!(stop < end, "{records:?}");
    let ban = &records[stop]["grid"]["policy"]["ban"];
    assert!(names(ban, list), "{}", records[stop]);
    assert_eq!(records[end]["grid"]["end"]["by"], "ban", "{}", records[end]);
    assert!(records[end]["event"]["reason"].as_str().unwrap().contains("suspended"), "{}", records[end]);
}

#[test]
fn whatever_it_does_it_is_dead_in_time() {
    Node::each(&[SETTLED], |node| {
        let kinds = [
            ("polite", "echo ready; while :; do sleep 0.05; done"),
            ("ignores", "trap '' TERM INT HUP; echo ready; while :; do sleep 0.05; done"),
            (
                "forks",
                "f() { while :; do (: ) & wait; done; }; f & f & f & f & (setsid sh -c 'while :; do sleep 0.1; done' $0 &); echo ready; f",
            ),
            ("stopped", "echo ready; kill -STOP $$; sleep 100"),
        ];
        for (kind, script) in kinds {
            let mark = mark(kind);
            let mut payload = node.start(JANE, &[], &format!(": {mark}; {script}"));
            let other_mark = format!("other-{mark}");
            let mut other = node.start("/DC=org/CN=Other", &[], &format!(": {other_mark}; {LOOP}"));
            if kind == "stopped" {
                std::thread::sleep(Duration::from_millis(200));
            }
            let start = Instant::now();
            node.ban("list.toml", &entry("user", JANE, ""));
            while payload.lives() {
                assert!(
                    start.elapsed() < support::patience(Duration::from_secs(10)),
                    "{kind}: {}",
                    payload.said()
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            let ended = start.elapsed();
            assert_banned(node, &mut payload, "list.toml");
            println!("  {kind}: {ended:?}, every process {:?}", {
                wait_for("its processes", || {
                    alive_with(&mark)
                        .iter()
                        .all(|pid| *pid == other.started.pid() || is_of(*pid, &other_mark))
                });
                start.elapsed()
            });
            assert!(ended < support::patience(DEAD), "{kind}: {ended:?}");
            assert!(other.lives(), "another one was touched: {}", other.said());
            other.started.signal(15);
            other.end();
            assert_eq!(node.launch(&["--user", JANE]), 120);
            fs::remove_file(node.bans.join("list.toml")).unwrap();
            wait_for("the name to be let in", || node.launch(&["--user", JANE]) == 0);
        }
    });
}

fn is_of(pid: i32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).contains(mark))
}

#[test]
fn a_grace_of_the_list_is_kept() {
    Node::each(&[SETTLED], |node| {
        let script = "trap 'date +%s%N >$F' TERM; echo ready; while :; do sleep 0.02; done";
        let dir = node.world.directory("out");
        let (bind, file) = (format!("{0}:{0}:rw", dir.display()), dir.join("term"));
        let env = format!("F={}", file.display());
        let mut payload = node.start(JANE, &["--bind", &bind, "--env", &env], script);
        let start = Instant::now();
        node.ban("list.toml", &entry("user", JANE, "grace = \"1s\""));
        wait_for("its SIGTERM", || file.exists());
        let signal = start.elapsed();
        assert_banned(node, &mut payload, "list.toml");
        let ended = start.elapsed();
        println!("  SIGTERM after {signal:?}, dead after {ended:?}");
        assert!(signal < support::patience(SIGNAL), "{signal:?}");
        assert!(
            ended >= Duration::from_secs(1) && ended < support::patience(DEAD + Duration::from_secs(1)),
            "{ended:?}"
        );
    });
}

#[test]
fn every_way_to_name_the_user() {
    Node::each(&[SETTLED, PERSON], |node| {
        let cases: [(&str, String, &str, &[&str]); 5] = [
            ("a.toml", entry("user", JANE, ""), "5b1d", &["--issuer", "https://iam.example.org/"]),
            ("b.dn", format!("{JANE}\n"), JANE, &[]),
            ("c.toml", entry("vo", "atlas", ""), "somebody", &["--vo", "atlas"]),
            ("d.toml", entry("pilot", "p-9", ""), "somebody", &["--pilot", "p-9"]),
            ("e.toml", entry("group", "/cms/prod", ""), "somebody", &["--group", "/cms/prod"]),
        ];
        for (name, list, user, options) in cases {
            let mut payload = node.start(user, options, LOOP);
            let start = Instant::now();
            let path = node.ban(name, &list);
            assert_banned(node, &mut payload, name);
            assert!(start.elapsed() < support::patience(DEAD), "{name}: {:?}", start.elapsed());
            fs::remove_file(path).unwrap();
        }
    });
}

#[test]
fn every_way_to_change_the_list() {
    Node::each(&[SETTLED], |node| {
        for way in ["in place", "truncated", "linked", "directory"] {
            let path = node.ban("list.dn", "/DC=org/CN=Nobody Here At All\n");
            let mut payload = node.start(JANE, &[], LOOP);
            std::thread::sleep(Duration::from_millis(100));
            let start = Instant::now();
            match way {
                "in place" => {
                    use std::os::unix::fs::FileExt as _;
                    let file = fs::File::options().write(true).open(&path).unwrap();
                    file.write_all_at(format!("{JANE}\n#").as_bytes(), 0).unwrap();
                }
                "truncated" => fs::write(&path, format!("{JANE}\n")).unwrap(),
                "linked" => {
                    let target = node.world.file("target", &format!("{JANE}\n"));
                    std::os::unix::fs::symlink(target, node.world.path("link")).unwrap();
                    fs::rename(node.world.path("link"), &path).unwrap();
                }
                _ => {
                    let away = node.world.path("away");
                    fs::rename(&node.bans, &away).unwrap();
                    fs::create_dir(&node.bans).unwrap();
                    node.ban("other.dn", &format!("{JANE}\n"));
                }
            }
            let list = if way == "directory" { "other.dn" } else { "list.dn" };
            assert_banned(node, &mut payload, list);
            assert!(start.elapsed() < support::patience(DEAD), "{way}: {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_ban_that_freezes_holds_it() {
    Node::each(&[], |node| {
        let dir = node.world.directory("out");
        let (bind, file) = (format!("{0}:{0}:rw", dir.display()), dir.join("count"));
        let env = format!("F={}", file.display());
        let script = "trap '' TERM; echo ready; while :; do echo x >>$F; sleep 0.01; done";
        let mut payload = node.start(JANE, &["--bind", &bind, "--env", &env], script);
        let size = || fs::metadata(&file).map_or(0, |file| file.len());
        wait_for("progress", || size() > 10);
        let start = Instant::now();
        node.ban("list.toml", &entry("user", JANE, "action = \"freeze\""));
        let mut before = u64::MAX;
        wait_for("its stop", || {
            let now = size();
            let still = now == before;
            before = now;
            std::thread::sleep(Duration::from_millis(60));
            still
        });
        println!("  held after {:?}", start.elapsed());
        assert!(start.elapsed() < support::patience(DEAD));
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(size(), before, "it went on");
        assert!(payload.lives());
        assert!(payload.said().contains("holds the payload"), "{}", payload.said());
        if let Some(recorder) = &node.recorder {
            let rows = recorder.live();
            assert_eq!(rows[0].state, "frozen", "{rows:?}");
        }
        payload.started.signal(15);
        payload.end();
        let notices = node.records_of("payload-notice");
        assert!(
            notices.iter().any(|notice| notice["event"]["reason"].as_str().unwrap().contains("is held")),
            "{notices:?}"
        );
        assert_eq!(size(), before, "it ran again before its end");
    });
}

/// A list that breaks, and one without the name, stop nobody; neither does a ban that is lifted before it begins.
#[test]
fn only_a_ban_stops() {
    let soon = |seconds: i64| bailey::audit::Timestamp::now().plus_seconds(seconds).to_string();
    Node::each(&[SETTLED], |node| {
        let mut payload = node.start(JANE, &[], LOOP);
        node.ban("list.toml", "[[ban");
        node.ban("other.toml", &entry("user", "/CN=X", ""));
        let later = format!("from = \"{}\"", soon(3));
        node.ban("later.toml", &entry("user", JANE, &later));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(payload.lives(), "{}", payload.said());
        fs::remove_file(node.bans.join("later.toml")).unwrap();
        std::thread::sleep(Duration::from_millis(3500));
        assert!(payload.lives(), "it was lifted before it began: {}", payload.said());
        fs::remove_file(node.bans.join("list.toml")).unwrap();
        let begins = Instant::now() + Duration::from_secs(2);
        let later = format!("from = \"{}\"", soon(2));
        node.ban("later.toml", &entry("user", JANE, &later));
        std::thread::sleep(Duration::from_millis(1000));
        assert!(payload.lives(), "before it began: {}", payload.said());
        assert_banned(node, &mut payload, "later.toml");
        let late = Instant::now().saturating_duration_since(begins);
        println!("  stopped {late:?} after it began");
        assert!(late < support::patience(DEAD), "{late:?}");
    });
}

#[test]
fn a_ban_made_while_the_recorder_was_down() {
    let mut node = Node::recorded(&[]);
    let mut payload = node.start(JANE, &[], LOOP);
    let mut other = node.start("/DC=org/CN=Other", &[], LOOP);
    // Clean, and not: in both cases nobody is told while it is away but the launchers themselves.
    node.recorder.as_mut().unwrap().kill();
    let start = Instant::now();
    node.ban("list.toml", &entry("user", JANE, ""));
    // Its launcher looks for itself.
    wait_for("its end", || alive_payload(&payload).is_none());
    println!("without a recorder: {:?}", start.elapsed());
    assert!(start.elapsed() < support::patience(DEAD), "{:?}", start.elapsed());
    node.recorder.as_mut().unwrap().restart();
    assert_eq!(payload.end(), 123, "{}", payload.said());
    let ends = node.recorder().wait_records("payload-end", 1);
    assert_eq!(ends[0]["grid"]["end"]["by"], "ban", "{}", ends[0]);
    assert!(names(&ends[0]["grid"]["policy"]["ban"], "list.toml"), "{}", ends[0]);
    assert!(other.lives(), "{}", other.said());
    node.recorder().wait_live(1);
    // And one that is banned, when the recorder comes back, by a launcher that stood still.
    let mut still = node.start("/DC=org/CN=Still", &[], LOOP);
    still.started.signal(libc_stop());
    node.recorder.as_mut().unwrap().kill();
    node.ban("still.toml", &entry("user", "/DC=org/CN=Still", ""));
    node.recorder.as_mut().unwrap().restart();
    let stops = node.recorder().wait_records("payload-stop", 1);
    assert!(names(&stops[0]["grid"]["policy"]["ban"], "still.toml"), "{stops:?}");
    still.started.signal(18);
    assert_eq!(still.end(), 123, "{}", still.said());
    other.started.signal(15);
    other.end();
    node.recorder().assert_chain(&node.world);
}

const fn libc_stop() -> i32 {
    19
}

fn alive_payload(payload: &Payload) -> Option<i32> {
    // init is the launcher's child; when it is gone, everything is.
    let children = format!("/proc/{0}/task/{0}/children", payload.started.pid());
    let children = fs::read_to_string(children).ok()?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &i32| proc_status(*pid, "State").is_some_and(|state| !state.starts_with('Z')))
}

#[test]
fn a_launcher_that_does_not_obey_is_named() {
    let node = Node::recorded(&[]);
    let mut payload = node.start(JANE, &[], LOOP);
    let launcher = payload.started.pid();
    payload.started.signal(libc_stop());
    node.ban("list.toml", &entry("user", JANE, ""));
    let start = Instant::now();
    loop {
        let rows = node.recorder().live();
        if rows[0].state == "disobeyed" {
            break;
        }
        assert!(start.elapsed() < support::patience(Duration::from_secs(12)), "{rows:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("named after {:?}", start.elapsed());
    let listed = text(&node.recorder().admin(&node.world, &["ps"]).stdout);
    assert!(listed.contains("disobeyed"), "{listed}");
    let notices = node.recorder().wait_records("payload-notice", 1);
    let reason = notices[0]["event"]["reason"].as_str().unwrap();
    assert!(reason.contains(&launcher.to_string()) && reason.contains("did not answer"), "{reason}");
    payload.started.signal(18);
    assert_banned(&node, &mut payload, "list.toml");
}

/// Where the kernel tells of no changes (a network file system; here strace has inotify fail), the files are looked at.
#[test]
fn without_inotify_it_is_as_quick() {
    let mut node = Node::not_started(&[]);
    let recorder = node.recorder.as_mut().unwrap();
    let trace = node.world.path("trace");
    let inner = recorder.command();
    let mut command = std::process::Command::new("strace");
    command.args([
        "-D",
        "-f",
        "-e",
        "trace=inotify_add_watch",
        "-e",
        "inject=inotify_add_watch:error=ENOSPC",
        "-o",
    ]);
    command.arg(&trace).arg(inner.get_program()).env_clear().env("BAILEY_CONFIG", &recorder.config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&recorder.said).unwrap());
    recorder.adopt(command);
    let mut payload = node.start(JANE, &[], LOOP);
    let start = Instant::now();
    node.ban("list.toml", &entry("user", JANE, ""));
    assert_banned(&node, &mut payload, "list.toml");
    println!("by looking alone: {:?}", start.elapsed());
    assert!(start.elapsed() < support::patience(DEAD), "{:?}", start.elapsed());
    assert!(fs::read_to_string(&trace).unwrap().contains("(INJECTED)"), "inotify was not tried");
}

/// A launch in the very moment of the ban is refused or stopped, never missed.
#[test]
fn a_launch_in_the_moment_of_the_ban() {
    Node::each(&[SETTLED], |node| {
        let (mut refused, mut stopped) = (0, 0);
        for round in 0..12 {
            let mut command = node.world.exec(&["--user", JANE]);
            command.env("BAILEY_CONFIG", &node.config).args(["--", "/bin/sleep", "30"]);
            let child = command.stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(round * 4));
            let start = Instant::now();
            let path = node.ban("list.toml", &entry("user", JANE, ""));
            let output = child.wait_with_output().unwrap();
            assert!(start.elapsed() < support::patience(DEAD), "{:?}", start.elapsed());
            match code(&output) {
                120 => refused += 1,
                123 => stopped += 1,
                other => panic!("{other}: {}", text(&output.stderr)),
            }
            fs::remove_file(path).unwrap();
            wait_for("the name to be let in", || node.launch(&["--user", JANE]) == 0);
        }
        println!("  {refused} refused, {stopped} stopped");
    });
}
