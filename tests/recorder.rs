//! Launches that are recorded by the node's recorder: no receipt, no run; every launch ends in the log whoever dies first.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use bailey::admin::ask::Ask;
use bailey::audit::chain::hex;
use bailey::audit::record::{Action, Record};
use bailey::audit::wire::{Hello, Launch, Message, NEWEST, Note, Resume};
use bailey::request::LaunchId;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{BAILEY, Guard, World, assert_refused, code, image, stdout, text, wait_for};

/// A payload that runs until the file `stop` is in its working directory, and tells when it began.
fn sleeper(recorder: &Recorder, world: &World) -> Command {
    sleeper_with(recorder, world, &[])
}

fn sleeper_with(recorder: &Recorder, world: &World, options: &[&str]) -> Command {
    let work = world.directory("work");
    let mut command = recorder.exec(world, options);
    command.args(["--user", "/DC=org/CN=Ada", "--vo", "atlas", "--job", "j-1", "--workdir"]).arg(work);
    command.arg("--image").arg(image());
    command.args(["--", "/bin/sh", "-c", "touch began; while [ ! -e stop ]; do sleep 0.05; done; exit 7"]);
    command
}

fn began(world: &World) {
    wait_for("the payload's begin", || world.path("work/began").exists());
}

fn stop(world: &World) {
    fs::write(world.path("work/stop"), "").unwrap();
}

fn id_of(record: &Value) -> &str {
    record["event"]["id"].as_str().unwrap()
}

#[test]
fn a_launch_is_recorded_by_the_recorder_with_what_the_kernel_shows() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let output = recorder
        .exec(
            &world,
            &["--user", "/DC=org/CN=Ada", "--vo", "atlas", "--", "/bin/sh", "-c", "echo out; exit 3"],
        )
        .output()
        .unwrap();
    assert_eq!((code(&output), text(&output.stdout).as_str()), (3, "out\n"), "{}", text(&output.stderr));

    let launch = recorder.records_of("payload-launch").remove(0);
    let uid = nix::unistd::geteuid().to_string();
    assert_eq!(launch["chain"]["writer"], format!("recorder-{uid}"));
    assert_eq!(launch["user"]["id"], "/DC=org/CN=Ada");
    assert_eq!(launch["process"]["vpid"], 2);
    assert_eq!(launch["process"]["real_user"]["id"], uid.as_str());
    let observed = &launch["grid"]["observed"];
    assert_eq!((&observed["no_new_privs"], &observed["setgroups"]), (&true.into(), &"deny".into()));
    assert_eq!(observed["uid_map"], format!("{uid} {uid} 1"));
    assert_eq!(observed["mountinfo_sha256"].as_str().unwrap().len(), 64);
    assert!(launch["grid"]["namespaces"]["user"].is_u64(), "{launch}");
    assert!(launch["grid"]["launcher"]["start_ticks"].is_u64(), "{launch}");
    let program = hex(&Sha256::digest(fs::read(BAILEY).unwrap()).into());
    assert_eq!(launch["process"]["parent"]["hash"]["sha256"], program);
    assert_eq!(launch["grid"]["sandbox"]["recorder"], format!("on: recorder-{uid}"));

    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!(id_of(&end), id_of(&launch));
    assert_eq!((&end["process"]["exit_code"], &end["grid"]["end"]["by"]), (&3.into(), &"payload".into()));
    assert_eq!(end["user"]["id"], "/DC=org/CN=Ada");
    assert!(end["grid"]["usage"]["memory_peak_bytes"].as_u64().unwrap() > 0, "{end}");
    assert!(recorder.live().is_empty());
    assert!(!world.path("recorder/embedded").exists(), "there is one log, not two");
    recorder.assert_chain(&world);
}

#[test]
fn without_a_recorder_nothing_runs_where_it_is_required() {
    let world = World::new();
    let recorder = Recorder::not_started(&world, &[("audit", "wait = \"1s\"")]);
    let start = Instant::now();
    let output = sleeper(&recorder, &world).output().unwrap();
    assert_refused(&output, 122, &["recorder", "ENOENT", "systemctl start"]);
    assert!(start.elapsed() < support::patience(Duration::from_secs(5)));
    assert!(!world.path("work/began").exists(), "it ran without a record");
}

#[test]
fn a_launch_waits_for_a_recorder_that_starts() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[]);
    let mut launch = Guard(recorder.exec(&world, &["--", "/bin/true"]).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(400));
    assert!(!recorder.log.join("lock").exists());
    recorder.restart();
    assert!(launch.0.wait().unwrap().success());
    assert_eq!(recorder.records_of("payload-launch").len(), 1);
}

#[test]
fn a_preferred_recorder_that_is_missing_is_named_in_the_embedded_record() {
    let world = World::new();
    let config = world.config(&format!(
        "[audit]\nrecorder = \"preferred\"\nsocket = \"{0}/none.sock\"\ndir = \"{0}/embedded\"\n",
        world.dir.display()
    ));
    let output = world.exec(&["--", "/bin/true"]).env("BAILEY_CONFIG", config).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = fs::read_dir(world.path("embedded")).unwrap().flatten();
    let segment = log.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "ndjson"));
    let log = fs::read_to_string(segment.unwrap()).unwrap();
    let launch: Value = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|r| r["event"]["action"] == "payload-launch")
        .unwrap();
    let said = launch["grid"]["sandbox"]["recorder"].as_str().unwrap();
    assert!(said.starts_with("off: there is none at ") && said.ends_with("none.sock"), "{said}");
}

#[test]
fn payloads_go_on_while_the_recorder_is_down_and_report_afterwards() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut launcher = Guard(sleeper(&recorder, &world).spawn().unwrap());
    began(&world);
    recorder.kill();
    // New launches are refused meanwhile, the running one is not touched.
    let wait = world.file(
        "quick.toml",
        &fs::read_to_string(&recorder.config).unwrap().replace("[audit]", "[audit]\nwait = \"0s\""),
    );
    let output = world.exec(&["--", "/bin/true"]).env("BAILEY_CONFIG", wait).output().unwrap();
    assert_refused(&output, 122, &["recorder"]);
    recorder.restart();
    let row = recorder.wait_live(1).remove(0);
    wait_for("the launcher's return", || recorder.live()[0].state == "running");
    stop(&world);
    assert_eq!(launcher.0.wait().unwrap().code(), Some(7));
    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!((id_of(&end), &end["grid"]["end"]["by"]), (row.id.as_str(), &"payload".into()));
    assert_eq!(end["process"]["exit_code"], 7);
    assert!(end["grid"]["usage"]["cpu_user_us"].is_u64(), "the launcher told it: {end}");
    assert_eq!(recorder.records_of("payload-launch").len(), 1);
    recorder.assert_chain(&world);
}

#[test]
fn an_end_while_the_recorder_is_down_is_reported_when_it_is_back() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut launcher = Guard(sleeper(&recorder, &world).spawn().unwrap());
    began(&world);
    recorder.kill();
    stop(&world);
    std::thread::sleep(Duration::from_millis(500)); // the payload ends; its launcher waits
    recorder.restart();
    assert_eq!(launcher.0.wait().unwrap().code(), Some(7));
    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!((&end["process"]["exit_code"], &end["grid"]["end"]["by"]), (&7.into(), &"payload".into()));
}

#[test]
fn a_killed_launcher_is_closed_by_the_recorder() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let launcher = Guard(sleeper(&recorder, &world).spawn().unwrap());
    began(&world);
    drop(launcher); // SIGKILL
    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!(end["grid"]["end"]["by"], "launcher-lost");
    assert_eq!(end["user"]["id"], "/DC=org/CN=Ada");
    assert!(end["event"]["duration"].as_u64().unwrap() > 1_000_000, "{end}");
    wait_for("an empty table", || recorder.live().is_empty());
}

#[test]
fn what_died_while_the_recorder_was_down_is_closed_at_its_start() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let launcher = Guard(sleeper(&recorder, &world).spawn().unwrap());
    began(&world);
    let pid = recorder.live()[0].pid;
    recorder.kill();
    drop(launcher);
    wait_for("the payload's end", || {
        !std::path::Path::new(&format!("/proc/{pid}/root")).exists()
            || fs::read_to_string(format!("/proc/{pid}/stat")).is_err()
            || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ")
    });
    recorder.restart();
    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!(end["grid"]["end"]["by"], "recorder-restart");
    assert!(recorder.live().is_empty());
    recorder.assert_chain(&world);
}

#[test]
fn only_the_launcher_itself_may_come_back() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let mut launcher = Guard(sleeper(&recorder, &world).spawn().unwrap());
    began(&world);
    let launch = recorder.records_of("payload-launch").remove(0);
    let segment = fs::read_dir(&recorder.log).unwrap().flatten().map(|e| e.path());
    let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "ndjson")).max().unwrap();
    let log = fs::read_to_string(segment).unwrap();
    let line = log.lines().find(|line| line.contains("\"payload-launch\"")).unwrap();
    // The right receipt, but from another process of the same account.
    let resume = Resume {
        id: id_of(&launch).to_owned(),
        seq: launch["chain"]["seq"].as_u64().unwrap(),
        hash: hex(&Sha256::digest(line).into()),
    };
    let failure = recorder.ask().unwrap().ask(&Message::Resume(resume.clone())).unwrap_err();
    assert!(failure.why.contains("another launcher"), "{failure}");
    let deny = recorder.wait_records("payload-deny", 1).remove(0);
    assert_eq!(id_of(&deny), id_of(&launch));
    // Its end is not ours to tell, and neither is its launch ours to repeat.
    let id = LaunchId::parse(&resume.id).unwrap();
    let note = Note { id: resume.id.clone(), record: Box::new(Record::new(Action::PayloadEnd, id)) };
    assert!(recorder.ask().unwrap().ask(&Message::Note(note)).is_err());
    let again = Launch {
        id: resume.id.clone(),
        nested: false,
        namespaces: Vec::new(),
        record: Box::new(Record::new(Action::PayloadLaunch, id)),
    };
    assert!(recorder.ask().unwrap().ask(&Message::Launch(again)).is_err());
    assert_eq!(recorder.live()[0].state, "running");
    stop(&world);
    assert_eq!(launcher.0.wait().unwrap().code(), Some(7));
    assert_eq!(recorder.wait_records("payload-end", 1)[0]["grid"]["end"]["by"], "payload");
}

#[test]
fn versions_are_agreed_on_or_the_refusal_says_which() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let hello = |oldest, newest| {
        let mut raw = Ask::open(&recorder.socket, Duration::from_secs(5)).unwrap();
        raw.ask(&Message::Hello(Hello { oldest, newest, program: "test 9".into() }))
    };
    let Ok(Message::Welcome(welcome)) = hello(NEWEST, NEWEST + 1) else {
        panic!("a newer program is served")
    };
    assert_eq!(welcome.version, NEWEST);
    assert!(matches!(hello(0, NEWEST), Ok(Message::Welcome(_))), "an older one too");
    let failure = hello(NEWEST + 1, NEWEST + 2).unwrap_err();
    assert!(failure.why.contains(&format!("{} to {}", NEWEST + 1, NEWEST + 2)), "{failure}");
}

#[test]
fn a_payload_inside_a_payload_needs_leave() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("sandbox", "nested_namespaces = true")]);
    // The control: the same inner launch, not inside a payload, is accepted.
    let run = |options: &[&str]| {
        let mut outer = recorder.exec(&world, options);
        outer.arg("--image").arg(image());
        for path in [recorder.socket.parent().unwrap(), std::path::Path::new(BAILEY).parent().unwrap()] {
            outer.arg("--bind").arg(format!("{0}:{0}:rw", path.display()));
        }
        outer.arg("--bind").arg(recorder.config.display().to_string());
        outer.arg("--env").arg(format!("BAILEY_CONFIG={}", recorder.config.display()));
        outer
            .args(["--", BAILEY, "exec", "--user", "/CN=inner", "--", "/bin/echo", "inside"])
            .output()
            .unwrap()
    };
    let output = run(&["--user", "/CN=outer", "--nested"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "inside"), "{}", text(&output.stderr));
    let launches = recorder.records_of("payload-launch");
    assert_eq!(launches.len(), 2);
    assert_eq!(launches[1]["user"]["id"], "/CN=inner");
    assert_eq!(launches[1]["grid"]["parent_launch"], launches[0]["event"]["id"]);

    // A payload that may not have namespaces cannot get as far as asking; one that gets there otherwise is refused by the
    // recorder: proven with a client of its own in tests/recorder_hostile.rs.
    let output = run(&["--user", "/CN=outer"]);
    assert_ne!(code(&output), 0);
    assert_eq!(recorder.records_of("payload-launch").len(), 3, "only the outer one");
}

#[test]
fn the_receipt_leaves_after_fdatasync_returned() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[]);
    let trace = world.path("trace");
    let mut command = Command::new("strace");
    // With -D the process that is started is the recorder itself, so its end is the test's to bring about.
    command.args(["-D", "-f", "-e", "trace=write,fdatasync,sendmsg", "-s", "400", "-o"]).arg(&trace);
    let inner = recorder.command();
    command.arg(inner.get_program()).env_clear().env("BAILEY_CONFIG", &recorder.config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    recorder.adopt(command);
    let output = recorder.exec(&world, &["--", "/bin/true"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = fs::read_to_string(&trace).unwrap();
    let at = |needle: &str, from: usize| {
        lines.lines().skip(from).position(|line| line.contains(needle)).map(|at| at + from)
    };
    // The kind of a receipt is 4: the header is "BLY1", version 1, kind 4.
    let receipt = at("BLY1\\1\\0\\4\\0", 0).expect("a receipt was sent");
    let launch = at("payload-launch", 0).expect("the launch record was written");
    let sync = at("fdatasync(", launch).expect("an fdatasync after the write");
    let synced = lines.lines().nth(sync).unwrap();
    assert!(launch < sync && sync < receipt, "write {launch}, fdatasync {sync}, receipt {receipt}");
    assert!(synced.ends_with("= 0"), "it had returned: {synced}");
}
