//! What lives on the node: `bailey ps`, `bailey stop` and `bailey drain` with a real recorder.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{
    Started, World, alive_with, assert_refused, code, image, proc_status, skip, status, stdout, text,
    wait_for,
};

/// A payload that runs a shell script, under this recorder. Its bailey's stderr and status file lie in the world.
struct Payload {
    started: Started,
    said: PathBuf,
    status: PathBuf,
}

impl Payload {
    /// Starts it and waits for the script's line `ready`.
    fn start(world: &World, recorder: &Recorder, name: &str, options: &[&str], script: &str) -> Self {
        Self::start_on(world, recorder, name, options, script, None)
    }

    fn start_on(
        world: &World,
        recorder: &Recorder,
        name: &str,
        options: &[&str],
        script: &str,
        image: Option<&Path>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (said, status) = (world.path(&format!("{number}.said")), world.path(&format!("{number}.status")));
        let mut command = recorder.exec(world, &["--user", name, "--status-file"]);
        command.arg(&status).args(options);
        if let Some(image) = image {
            command.arg("--image").arg(image);
        }
        command.args(["--", "/bin/sh", "-c", script, name]).stderr(fs::File::create(&said).unwrap());
        let mut started = Started::new(&mut command);
        assert_eq!(started.line(), "ready", "{}", fs::read_to_string(&said).unwrap());
        Self { started, said, status }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Waits for bailey's end; its exit code.
    fn end(&mut self) -> i32 {
        // Longer than a disk under load may take to sync what a restarted recorder writes first.
        let start = Instant::now();
        while self.started.child.0.try_wait().unwrap().is_none() {
            assert!(
                start.elapsed() < support::patience(Duration::from_secs(30)),
                "bailey does not end: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        self.started.child.0.wait().unwrap().code().expect("an exit code")
    }
}

/// The id of the only live payload, or of that user's.
fn id_of(recorder: &Recorder, user: &str) -> String {
    let rows = recorder.live();
    rows.iter()
        .find(|row| row.user.as_deref() == Some(user))
        .unwrap_or_else(|| panic!("{user}: {rows:?}"))
        .id
        .clone()
}

fn state_of(recorder: &Recorder, id: &str) -> Option<String> {
    recorder.live().into_iter().find(|row| row.id == id).map(|row| row.state)
}

fn wait_state(recorder: &Recorder, id: &str, state: &str) {
    let start = Instant::now();
    loop {
        let found = state_of(recorder, id);
        if found.as_deref() == Some(state) {
            return;
        }
        assert!(
            start.elapsed() < support::patience(Duration::from_secs(15)),
            "waited in vain for {state}: {found:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The command says what it has to say on stderr in one line with these words, and ends with that code.
fn assert_no(output: &Output, expected: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(code(output), expected, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

fn of_launch(recorder: &Recorder, id: &str) -> Vec<Value> {
    recorder.records().into_iter().filter(|record| record["event"]["id"] == id).collect()
}

fn actions(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["event"]["action"].as_str().unwrap()).collect()
}

/// An administrator ended it, says everybody: status file, log, and the user's stderr in one line.
fn assert_stopped(recorder: &Recorder, payload: &mut Payload, id: &str, reason: &str) {
    assert_eq!(payload.end(), 123, "{}", payload.said());
    let told = status(&payload.status);
    assert_eq!(told["exit_code"], 123);
    assert_eq!(told["from_bailey"], true);
    assert_eq!(told["ended_by"], "administrator");
    assert!(told["message"].as_str().unwrap().contains(reason), "{told}");
    let records = of_launch(recorder, id);
    let says = |record: &Value| record["event"]["reason"].as_str().is_some_and(|why| why.contains(reason));
    let stop = records.iter().position(|record| record["event"]["action"] == "payload-stop" && says(record));
    let end = records.iter().position(|record| record["event"]["action"] == "payload-end").expect("an end");
    let stop = stop.unwrap_or_else(|| panic!("no stop: {records:?}"));
    assert!(stop < end, "{:?}", actions(&records));
    let stop = &records[stop];
    assert_eq!(stop["grid"]["peer"]["uid"], nix::unistd::geteuid().as_raw());
    assert!(stop["grid"]["peer"]["pid"].as_i64().unwrap() > 1);
    let end = &records[end];
    assert_eq!(end["grid"]["end"]["by"], "administrator");
    assert!(end["event"]["reason"].as_str().unwrap().contains(reason), "{end}");
    let said: Vec<String> = payload
        .said()
        .lines()
        .filter(|line| line.contains(reason) && line.contains("stops"))
        .map(str::to_owned)
        .collect();
    assert_eq!(said.len(), 1, "{}", payload.said());
    recorder.wait_live(0);
}

#[test]
fn ps_lists_what_lives() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    assert_eq!(stdout(&recorder.admin(&world, &["ps"])), "No payload is live.");
    let odd = "/DC=org/DC=example/OU=People of a large laboratory/CN=Somebody With A Long Name/CN=74612";
    let mut a = Payload::start(
        &world,
        &recorder,
        odd,
        &["--vo", "vo.example.org", "--job", "4711"],
        "echo ready; read x",
    );
    let mut b = Payload::start(&world, &recorder, "second", &[], "echo ready; read x");
    let listed = stdout(&recorder.admin(&world, &["ps"]));
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].contains("vo.example.org") && lines[1].contains("running"), "{listed}");
    assert!(lines[1].contains("/DC=org") && lines[1].contains("CN=74612"), "{listed}");
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{listed}");
    let json = stdout(&recorder.admin(&world, &["ps", "--json"]));
    let rows: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["user"], odd);
    assert_eq!(rows[0]["job"], "4711");
    assert_eq!(rows[1]["user"], "second");
    for row in &rows {
        assert!(lines.iter().any(|line| line.starts_with(row["id"].as_str().unwrap())), "{listed}");
        let pid = row["pid"].as_i64().unwrap() as i32;
        assert!(proc_status(pid, "Name").is_some_and(|name| name == "sh"), "{row}");
    }
    a.started.end();
    b.started.end();
    recorder.wait_live(0);
}

#[test]
fn a_stop_reaches_a_payload_that_will_not_end() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("limits", "grace = \"1s\"")]);
    let mark = "will-not-end-7261";
    let script = format!(
        "trap 'echo term >&2' TERM; for n in 1 2 3 4; do (trap '' TERM; while :; do sleep 0.1; done) & done; \
         echo ready; : {mark}; while :; do sleep 0.1; done"
    );
    let mut payload = Payload::start(&world, &recorder, "stubborn", &[], &script);
    let id = id_of(&recorder, "stubborn");
    assert!(alive_with(mark).len() >= 5);
    let start = Instant::now();
    let told = stdout(&recorder.admin(&world, &["stop", &id[..24], "--reason", "it mines coins"]));
    assert!(told.contains(&id) && told.contains("was told to stop"), "{told}");
    wait_for("its SIGTERM", || payload.said().contains("term"));
    assert!(start.elapsed() < support::patience(Duration::from_secs(1)), "{:?}", start.elapsed());
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("stopping"));
    assert_stopped(&recorder, &mut payload, &id, "it mines coins");
    assert!(start.elapsed() < support::patience(Duration::from_secs(4)), "{:?}", start.elapsed());
    wait_for("the end of its processes", || alive_with(mark).is_empty());
    // The order came too late for a second one.
    let again = recorder.admin(&world, &["stop", &id, "--reason", "again"]);
    assert_no(&again, 1, &["no live payload has that id"]);
    recorder.assert_chain(&world);
}

#[test]
fn a_payload_may_end_well_when_it_is_told() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut payload = Payload::start(&world, &recorder, "gentle", &[], script);
    let id = id_of(&recorder, "gentle");
    let pid = recorder.live()[0].pid.to_string();
    stdout(&recorder.admin(&world, &["stop", &pid, "--reason", "maintenance"]));
    assert_stopped(&recorder, &mut payload, &id, "maintenance");
    let end = &recorder.records_of("payload-end")[0];
    assert_eq!(end["process"]["exit_code"], 0, "{end}");
}

#[test]
fn a_stopped_payload_is_stopped() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("limits", "grace = \"1s\"")]);
    let mut payload =
        Payload::start(&world, &recorder, "asleep", &[], "echo ready; kill -STOP $$; sleep 100");
    let id = id_of(&recorder, "asleep");
    let pid = recorder.live()[0].pid as i32;
    wait_for("the payload's stop", || proc_status(pid, "State").is_some_and(|state| state.starts_with('T')));
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "wake up"]));
    assert_stopped(&recorder, &mut payload, &id, "wake up");
}

#[test]
fn the_same_order_twice_is_one_stop() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("limits", "grace = \"3s\"")]);
    let mut payload = Payload::start(
        &world,
        &recorder,
        "twice",
        &[],
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = id_of(&recorder, "twice");
    let start = Instant::now();
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "first reason"]));
    std::thread::sleep(Duration::from_secs(1));
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "second reason"]));
    assert_stopped(&recorder, &mut payload, &id, "first reason");
    assert!(
        start.elapsed() < support::patience(Duration::from_millis(3800)),
        "the second gave it more time: {:?}",
        start.elapsed()
    );
    let asked: Vec<Value> = recorder.records_of("payload-stop");
    assert_eq!(asked.len(), 2, "who asked is recorded each time");
}

/// A tree that forks all the time, and adds to a file as long as anybody of it runs.
const FORKS: &str = "trap 'echo term >>/tmp/log' TERM
    spin() { while :; do (echo x >>\"$1\"; (: ) & wait); done; }
    for n in 1 2 3 4 5 6; do spin \"$DIR/count\" & done
    (while :; do kill -CONT -1 2>/dev/null; sleep 0.01; done) &
    echo ready
    spin \"$DIR/count\"";

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

#[test]
fn a_frozen_payload_makes_no_progress() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("limits", "grace = \"1s\"")]);
    let dir = world.directory("shared");
    let bind = format!("{}:/mnt:rw", dir.display());
    let dir_env = "DIR=/mnt";
    let options = ["--bind", &bind, "--env", dir_env, "--wall-time", "4s"];
    let start = Instant::now();
    let mut payload = Payload::start_on(&world, &recorder, "forks", &options, FORKS, Some(&image()));
    let (id, count) = (id_of(&recorder, "forks"), dir.join("count"));
    let pid = recorder.live()[0].pid as i32;
    let before = size(&count);
    wait_for("progress", || size(&count) > before + 20);

    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "evidence", "--freeze"]));
    let ordered = Instant::now();
    wait_state(&recorder, &id, "frozen");
    println!("held after {:?}", ordered.elapsed());
    let frozen = size(&count);
    // The wall time is over meanwhile, and somebody of the same account continues what he can.
    payload.started.signal(libc::SIGCONT);
    payload.started.signal(libc::SIGUSR1);
    std::thread::sleep(Duration::from_secs(5).saturating_sub(start.elapsed()));
    assert_eq!(size(&count), frozen, "it went on");
    assert!(proc_status(pid, "State").unwrap().starts_with('T'));
    let notices = recorder.records_of("payload-notice");
    assert!(
        notices.iter().any(|notice| notice["event"]["reason"].as_str().unwrap().contains("is held")),
        "{notices:?}"
    );

    // One that a third party continues is stopped again.
    Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap();
    wait_for("its second stop", || proc_status(pid, "State").is_some_and(|state| state.starts_with('T')));
    std::thread::sleep(Duration::from_millis(700));
    let frozen = size(&count);

    let told = stdout(&recorder.admin(&world, &["stop", &id, "--reason", "evidence was taken"]));
    assert!(told.contains("was told"), "{told}");
    assert_eq!(payload.end(), 123);
    assert_eq!(size(&count), frozen, "it ran again before its end");
    assert_stopped(&recorder, &mut payload, &id, "evidence was taken");
    let end = &recorder.records_of("payload-end")[0];
    assert_eq!(end["grid"]["end"]["signal"], "SIGKILL", "{end}");
}

#[test]
fn a_frozen_payload_ends_with_its_pilots_signal_and_with_its_launcher() {
    for kill in [false, true] {
        let world = World::new();
        let recorder = Recorder::start(&world);
        let mark = if kill { "frozen-kill-1" } else { "frozen-term-1" };
        let mut payload = Payload::start(
            &world,
            &recorder,
            "held",
            &[],
            &format!("sleep 1000 & echo ready; : {mark}; wait"),
        );
        let id = id_of(&recorder, "held");
        stdout(&recorder.admin(&world, &["stop", &id, "--reason", "look", "--freeze"]));
        wait_state(&recorder, &id, "frozen");
        payload.started.signal(if kill { libc::SIGKILL } else { libc::SIGTERM });
        if kill {
            payload.started.child.0.wait().unwrap();
        } else {
            assert_eq!(payload.end(), 137);
            assert_eq!(status(&payload.status)["ended_by"], "pilot-signal");
        }
        wait_for("the end of everything", || alive_with(mark).is_empty());
        let end = recorder.wait_records("payload-end", 1).remove(0);
        assert_eq!(end["grid"]["end"]["by"], if kill { "launcher-lost" } else { "pilot-signal" });
        recorder.wait_live(0);
    }
}

/// Files that somebody who hides something leaves, in the private directories of a payload.
const HOSTILE: &str = r#"
    trap 'rm -rf /tmp/* /srv/*; echo cleaned >>/mnt/cleaned' TERM
    mkdir -p /tmp/a/b /dev/shm/m
    printf odd >"/tmp/$(printf 'new\nline \377')"
    ln -s /etc/shadow /tmp/link
    ln -s ../../../../etc/passwd /tmp/a/up
    printf work >/srv/w 2>/dev/null || printf work >"$PWD/w"
    printf var >/var/tmp/v
    printf shm >/dev/shm/m/s
    printf closed >/tmp/a/b/closed; chmod 000 /tmp/a/b/closed /tmp/a/b
    mkfifo /tmp/pipe
    truncate -s 100G /tmp/sparse
    sleep 1000 &
    echo ready
    while :; do sleep 0.1; done
"#;

fn preserved(recorder: &Recorder) -> Value {
    let notices = recorder.wait_records("payload-notice", 1);
    let found = notices.iter().find(|notice| notice["grid"]["preserved"].is_object());
    found.unwrap_or_else(|| panic!("{notices:?}"))["grid"]["preserved"].clone()
}

#[test]
fn preserve_keeps_what_a_payload_hides() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let shared = world.directory("shared");
    let bind = format!("{}:/mnt:rw", shared.display());
    let options = ["--bind", bind.as_str()];
    let mut payload = Payload::start_on(&world, &recorder, "hides", &options, HOSTILE, Some(&image()));
    let id = id_of(&recorder, "hides");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "warrant", "--preserve"]));
    assert_stopped(&recorder, &mut payload, &id, "warrant");
    assert!(!shared.join("cleaned").exists(), "it had time to clean up");

    let kept = preserved(&recorder);
    let dir = PathBuf::from(kept["path"].as_str().unwrap());
    assert_eq!(dir, world.path("home/.local/state/bailey/preserved").join(&id));
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let odd = dir.join("tmp").join(OsStr::from_bytes(b"new\nline \xff"));
    assert_eq!(fs::read_to_string(odd).unwrap(), "odd");
    assert_eq!(fs::read_link(dir.join("tmp/link")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(fs::read_link(dir.join("tmp/a/up")).unwrap(), Path::new("../../../../etc/passwd"));
    assert_eq!(read("srv/w"), "work");
    assert_eq!(read("var-tmp/v"), "var");
    assert_eq!(read("dev-shm/m/s"), "shm");
    assert_eq!(read("tmp/a/b/closed"), "closed");
    assert_eq!(fs::metadata(dir.join("tmp/sparse")).unwrap().len(), 100 << 30);
    assert!(!dir.join("tmp/pipe").exists());
    let missing: Vec<&str> =
        kept["missing"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert_eq!(missing, ["/tmp/pipe: a FIFO is not copied"]);
    let processes: Vec<&str> =
        kept["processes"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(processes.iter().any(|line| line.ends_with(" T sleep 1000")), "{processes:?}");
    assert_eq!(read("processes").lines().count(), processes.len());
}

#[test]
fn preserve_of_a_host_root_keeps_its_directory_and_not_what_was_handed_over() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let shared = world.directory("shared");
    fs::write(shared.join("theirs"), "x").unwrap();
    let bind = format!("{}:/tmp/inside:rw", shared.display());
    let script = "printf mine >w; printf t >/tmp/t; echo ready; read x";
    let mut payload = Payload::start(&world, &recorder, "host", &["--bind", &bind], script);
    let id = id_of(&recorder, "host");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "both", "--preserve", "--freeze"]));
    wait_state(&recorder, &id, "frozen");
    let dir = world.path("home/.local/state/bailey/preserved").join(&id);
    wait_for("the record", || {
        !recorder.records_of("payload-notice").is_empty() && dir.join("missing").exists()
    });
    assert_eq!(fs::read_to_string(dir.join("srv/w")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(dir.join("tmp/t")).unwrap(), "t");
    assert!(!dir.join("tmp/inside").exists());
    assert!(fs::read_to_string(dir.join("missing")).unwrap().contains("/tmp/inside: it was handed over"));
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("frozen"));
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "now end it"]));
    assert_stopped(&recorder, &mut payload, &id, "now end it");
}

#[test]
fn preserve_names_sockets_and_what_it_may_not_read() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let python = ["/usr/bin/python3"].into_iter().find(|path| Path::new(path).exists());
    let Some(python) = python else { return skip("preserve_names_sockets", "no python3 on this host") };
    let script = format!(
        "{python} -c '
import socket, ctypes, time, os
a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen()
u = socket.socket(socket.AF_UNIX); u.bind(\"/tmp/own socket\"); u.listen()
c = socket.create_connection(a.getsockname())
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.bind((\"127.0.0.1\", 0))
if os.fork() == 0:
    ctypes.CDLL(None).prctl(4, 0)   # PR_SET_DUMPABLE
    time.sleep(1000)
time.sleep(0.3)
print(\"ready\", flush=True)
time.sleep(1000)'"
    );
    let mut payload = Payload::start(&world, &recorder, "net", &[], &script);
    let id = id_of(&recorder, "net");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "sockets", "--preserve"]));
    assert_stopped(&recorder, &mut payload, &id, "sockets");
    let kept = preserved(&recorder);
    let sockets: Vec<&str> =
        kept["sockets"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let has =
        |start: &str, end: &str| sockets.iter().any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(has("tcp 127.0.0.1:", " LISTEN"), "{sockets:?}");
    assert!(has("tcp 127.0.0.1:", " ESTABLISHED"), "{sockets:?}");
    assert!(has("udp 127.0.0.1:", ""), "{sockets:?}");
    assert!(has("unix-stream /tmp/own socket", " LISTEN"), "{sockets:?}");
    let missing = kept["missing"].to_string();
    assert!(missing.contains("the sockets of process"), "{missing}");
    assert!(missing.contains("/tmp/own socket: a socket is not copied"), "{missing}");
}

#[test]
fn a_launcher_that_does_not_obey_is_named() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let mut payload = Payload::start(&world, &recorder, "deaf", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "deaf");
    payload.started.signal(libc::SIGSTOP);
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "hello"]));
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("stopping"));
    wait_state(&recorder, &id, "disobeyed");
    let notice = recorder.wait_records("payload-notice", 1).remove(0);
    let why = notice["event"]["reason"].as_str().unwrap();
    assert!(why.contains(&payload.started.pid().to_string()) && why.contains("did not answer"), "{why}");
    let listed = stdout(&recorder.admin(&world, &["ps"]));
    assert!(listed.contains("disobeyed"), "{listed}");
    // Awake again it does what it was told.
    payload.started.signal(libc::SIGCONT);
    assert_stopped(&recorder, &mut payload, &id, "hello");
}

#[test]
fn a_launcher_without_recorder_hears_when_it_is_back() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut payload = Payload::start(&world, &recorder, "patient", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "patient");
    // The launcher cannot come back as long as it sleeps.
    payload.started.signal(libc::SIGSTOP);
    recorder.restart();
    let gone = world.path("nowhere");
    assert!(!gone.exists());
    let told = stdout(&recorder.admin(&world, &["stop", &id, "--reason", "later"]));
    assert!(told.contains("as soon as it comes back"), "{told}");
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("without launcher"));
    payload.started.signal(libc::SIGCONT);
    assert_stopped(&recorder, &mut payload, &id, "later");
    recorder.assert_chain(&world);
}

#[test]
fn a_frozen_payload_stays_frozen_over_a_restart_of_the_recorder() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut payload = Payload::start(&world, &recorder, "long", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "long");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "hold it", "--freeze"]));
    wait_state(&recorder, &id, "frozen");
    recorder.restart();
    wait_state(&recorder, &id, "frozen");
    // Who was stopped before the restart was stopped by an administrator also when it ends after it.
    recorder.restart();
    wait_state(&recorder, &id, "frozen");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "enough"]));
    assert_stopped(&recorder, &mut payload, &id, "enough");
}

#[test]
fn an_end_after_a_restart_is_still_the_administrators() {
    let world = World::new();
    // The payload ends when the test wants it to, and not because of the grace: a busy host may take any time for a restart.
    let mut recorder = Recorder::with(&world, &[("limits", "grace = \"600s\"")]);
    let dir = world.directory("shared");
    let bind = format!("{}:/mnt:rw", dir.display());
    let script = "trap '' TERM; echo ready; while [ ! -e /mnt/go ]; do sleep 0.1; done";
    let mut payload =
        Payload::start_on(&world, &recorder, "slow", &["--bind", &bind], script, Some(&image()));
    let id = id_of(&recorder, "slow");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "before the restart"]));
    wait_state(&recorder, &id, "stopping");
    recorder.restart();
    wait_state(&recorder, &id, "stopping");
    fs::write(dir.join("go"), "").unwrap();
    assert_stopped(&recorder, &mut payload, &id, "before the restart");
}

#[test]
fn an_order_that_was_not_delivered_outlives_restarts_of_the_recorder() {
    let world = World::new();
    // Lists as often as can be, so that the order is in one of them, too.
    let mut recorder = Recorder::with(&world, &[("recorder", "live_list_every = \"64K\"")]);
    let mut payload = Payload::start(&world, &recorder, "asleep", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "asleep");
    payload.started.signal(libc::SIGSTOP);
    assert!(recorder.stop().success());
    recorder.restart();
    let told = stdout(&recorder.admin(&world, &["stop", &id, "--reason", "not forgotten"]));
    assert!(told.contains("as soon as it comes back"), "{told}");
    recorder.restart();
    assert!(recorder.stop().success());
    recorder.restart();
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("without launcher"));
    payload.started.signal(libc::SIGCONT);
    assert_stopped(&recorder, &mut payload, &id, "not forgotten");
    let stop = &recorder.records_of("payload-stop")[0]["grid"]["stop"];
    assert_eq!((&stop["by"], &stop["reason"]), (&"administrator".into(), &"not forgotten".into()), "{stop}");
    recorder.assert_chain(&world);
}

/// The recorder was killed between its record and the launcher's ear: the launcher is stopped while the order is sent.
#[test]
fn an_order_that_was_under_way_when_the_recorder_was_killed_is_carried_out_once() {
    let world = World::new();
    let mut recorder = Recorder::with(&world, &[("limits", "grace = \"1s\"")]);
    let mut payload = Payload::start(&world, &recorder, "between", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "between");
    payload.started.signal(libc::SIGSTOP);
    let told = stdout(&recorder.admin(&world, &["stop", &id, "--reason", "in between"]));
    assert!(told.contains("was told"), "{told}");
    recorder.restart();
    payload.started.signal(libc::SIGCONT);
    assert_stopped(&recorder, &mut payload, &id, "in between");
    assert_eq!(recorder.records_of("payload-stop").len(), 1, "an order that is said again is one order");
}

#[test]
fn what_was_kept_is_not_kept_again_after_a_restart() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut payload =
        Payload::start(&world, &recorder, "kept", &[], "echo mine >/tmp/x; echo ready; sleep 1000");
    let id = id_of(&recorder, "kept");
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "both", "--freeze", "--preserve"]));
    wait_state(&recorder, &id, "frozen");
    recorder.wait_records("payload-notice", 2); // held, kept
    recorder.restart();
    wait_state(&recorder, &id, "frozen");
    let orders = || payload.said().lines().filter(|line| line.contains("holds the payload")).count();
    assert_eq!(orders(), 1, "{}", payload.said());
    // What it said about the repeated order would be there before its answer to the next one.
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "enough of it"]));
    assert_stopped(&recorder, &mut payload, &id, "enough of it");
    assert_eq!(recorder.records_of("payload-notice").len(), 2);
    let kept = world.path("home/.local/state/bailey/preserved").join(&id).join("tmp/x");
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine\n");
}

#[test]
fn a_launcher_that_does_not_come_back_for_its_order_is_named() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut payload = Payload::start(&world, &recorder, "away", &[], "echo ready; sleep 1000");
    let id = id_of(&recorder, "away");
    payload.started.signal(libc::SIGSTOP);
    recorder.restart();
    stdout(&recorder.admin(&world, &["stop", &id, "--reason", "come here"]));
    let notice = recorder.wait_records_for("payload-notice", 1, Duration::from_secs(40)).remove(0);
    let why = notice["event"]["reason"].as_str().unwrap();
    assert!(why.contains(&payload.started.pid().to_string()) && why.contains("does not come back"), "{why}");
    assert_eq!(state_of(&recorder, &id).as_deref(), Some("disobeyed"));
    payload.started.signal(libc::SIGCONT);
    assert_stopped(&recorder, &mut payload, &id, "come here");
}

#[test]
fn a_launch_does_not_wait_for_a_hanging_recorder_for_ever() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("audit", "wait = \"2s\"")]);
    recorder.signal("STOP");
    let start = Instant::now();
    let output = recorder.exec(&world, &["--", "/bin/echo", "ran"]).output().unwrap();
    assert_refused(&output, 122, &["cannot reach the recorder", "waited 2 s, audit.wait"]);
    assert!(output.stdout.is_empty(), "it ran without a record");
    let took = start.elapsed();
    assert!((Duration::from_secs(2)..support::patience(Duration::from_secs(8))).contains(&took), "{took:?}");
    recorder.signal("CONT");
    assert_eq!(stdout(&recorder.exec(&world, &["--", "/bin/echo", "ran"]).output().unwrap()), "ran");
    assert_eq!(recorder.records_of("payload-launch").len(), 1);
    recorder.wait_live(0);
}

#[test]
fn an_end_that_a_hanging_recorder_does_not_take_is_written_when_it_goes_on() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("audit", "wait = \"2s\"")]);
    let mut payload = Payload::start(&world, &recorder, "ends", &[], "echo ready; read x; exit 7");
    let id = id_of(&recorder, "ends");
    recorder.signal("STOP");
    let start = Instant::now();
    // The payload's result stands, and the launcher says what is missing.
    assert_eq!(payload.started.end().code(), Some(7));
    let took = start.elapsed();
    assert!((Duration::from_secs(2)..support::patience(Duration::from_secs(8))).contains(&took), "{took:?}");
    assert!(payload.said().contains("did not answer"), "{}", payload.said());
    recorder.signal("CONT");
    recorder.wait_live(0);
    let ends = recorder.records_of("payload-end");
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(ends[0]["event"]["id"], id.as_str());
    assert_eq!(
        (&ends[0]["grid"]["end"]["by"], &ends[0]["process"]["exit_code"]),
        (&"payload".into(), &7.into())
    );
    recorder.assert_chain(&world);
}

#[test]
fn what_cannot_be_stopped_is_said() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    for (which, why) in [
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "no live payload has that id"),
        ("01ARZ3", "no live payload that you may see"),
        ("4194999", "no live payload that you may see"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
    ] {
        assert_no(&recorder.admin(&world, &["stop", which, "--reason", "x"]), 1, &[why]);
    }
    let mut payload = Payload::start(&world, &recorder, "u", &[], "echo ready; read x");
    let id = id_of(&recorder, "u");
    assert_no(&recorder.admin(&world, &["stop", &id, "--reason", " "]), 1, &["no reason"]);
    assert_no(&recorder.admin(&world, &["stop", &id]), 2, &["--reason"]);
    let mut second = Payload::start(&world, &recorder, "v", &[], "echo ready; read x");
    assert_no(&recorder.admin(&world, &["stop", &id[..2], "--reason", "x"]), 1, &["2 live payloads"]);
    payload.started.end();
    second.started.end();
    recorder.wait_live(0);
    recorder.stop();
    for args in [&["ps"][..], &["stop", &id, "--reason", "x"], &["drain"]] {
        assert_no(&recorder.admin(&world, args), 2, &["without the node's recorder", "systemctl start"]);
    }
}

#[test]
fn a_drained_node_takes_no_launch_and_lets_the_running_go_on() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let flag = recorder.socket.with_file_name("drain");
    let admin = |recorder: &Recorder, args: &[&str]| stdout(&recorder.admin(&world, args));
    let mut payload = Payload::start(&world, &recorder, "before", &[], "echo ready; read x; exit 4");
    assert_eq!(admin(&recorder, &["drain", "--show"]), "This node takes new payloads.");
    let told = admin(&recorder, &["drain", "--reason", "disks \u{1b}are replaced"]);
    assert_eq!(told, "this node takes no new payloads: disks \\u{1b}are replaced.");
    let refused = |recorder: &Recorder, why: &str| {
        let output = recorder.exec(&world, &["--", "/bin/echo", "hello"]).output().unwrap();
        assert_refused(&output, 120, &["takes no new payloads", why, "another node"]);
        assert!(output.stdout.is_empty());
    };
    refused(&recorder, "disks");
    recorder.restart();
    refused(&recorder, "disks");
    assert!(admin(&recorder, &["ps"]).starts_with("This node takes no new payloads: disks"));
    assert_eq!(recorder.live()[0].state, "running");
    assert_eq!(admin(&recorder, &["drain", "--off"]), "this node takes new payloads.");
    assert!(!flag.exists());
    assert_eq!(stdout(&recorder.exec(&world, &["--", "/bin/echo", "hello"]).output().unwrap()), "hello");
    // By hand, and by a name of bailey's own words.
    fs::write(&flag, "power cut at noon\n").unwrap();
    refused(&recorder, "power cut at noon");
    recorder.wait_records("node-drain", 4);
    fs::remove_file(&flag).unwrap();
    recorder.wait_records("node-drain", 5);
    assert_eq!(admin(&recorder, &["drain"]), "this node takes no new payloads: it is being drained.");
    refused(&recorder, "it is being drained");
    assert_eq!(payload.started.end().code(), Some(4), "{}", payload.said());
    let records = recorder.records_of("node-drain");
    let reasons: Vec<&str> =
        records.iter().map(|record| record["event"]["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "no new payloads: disks \u{1b}are replaced",
            "no new payloads: disks \u{1b}are replaced", // as the restarted recorder found it
            "new payloads are taken again",
            "no new payloads: power cut at noon",
            "new payloads are taken again",
            "no new payloads: it is being drained",
        ]
    );
    assert_eq!(records[0]["grid"]["peer"]["uid"], nix::unistd::geteuid().as_raw());
    assert!(records[3]["grid"]["peer"].is_null(), "nobody asked the recorder: {}", records[3]);
    let denied = recorder.records_of("payload-deny");
    assert_eq!(denied.len(), 4, "{denied:?}");
    recorder.assert_chain(&world);
}

/// A launcher that does not see the flag (here: because it knows the socket by another name) is refused all the same.
#[test]
fn the_recorder_itself_refuses_on_a_drained_node() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let elsewhere = world.directory("elsewhere");
    std::os::unix::fs::symlink(&recorder.socket, elsewhere.join("recorder.sock")).unwrap();
    let config = fs::read_to_string(&recorder.config).unwrap();
    let other = format!("{}/recorder.sock", elsewhere.display());
    let config = world.config(&config.replace(recorder.socket.to_str().unwrap(), &other));
    let launch = || {
        let mut command = world.exec(&["--", "/bin/echo", "hello"]);
        command.env("BAILEY_CONFIG", &config).output().unwrap()
    };
    assert_eq!(stdout(&launch()), "hello");
    stdout(&recorder.admin(&world, &["drain", "--reason", "kernel update"]));
    let output = launch();
    assert_refused(&output, 120, &["takes no new payloads", "kernel update"]);
    assert!(output.stdout.is_empty());
    assert_eq!(recorder.records_of("payload-deny").len(), 1);
    assert_eq!(recorder.records_of("payload-launch").len(), 1);
}

#[test]
fn a_launcher_without_recorder_heeds_the_flag() {
    let world = World::new();
    let socket = world.directory("run").join("recorder.sock");
    let text = format!("[audit]\nrecorder = \"preferred\"\nsocket = \"{}\"\n", socket.display());
    let config = world.config(&text);
    let launch = |options: &[&str]| {
        let mut command = world.exec(options);
        command.env("BAILEY_CONFIG", &config).args(["--", "/bin/echo", "hello"]).output().unwrap()
    };
    assert_eq!(stdout(&launch(&[])), "hello");
    let before = world.snapshot();
    fs::write(world.path("run/drain"), "moving house\n").unwrap();
    assert_refused(&launch(&[]), 120, &["takes no new payloads", "moving house", "another node"]);
    assert_refused(&launch(&["--dry-run"]), 120, &["moving house"]);
    let denied = world.records_of("payload-deny");
    assert_eq!(denied.len(), 1, "a question leaves no trace: {denied:?}");
    assert!(denied[0]["event"]["reason"].as_str().unwrap().contains("moving house"));
    let shown = world
        .command(support::BAILEY)
        .env("BAILEY_CONFIG", &config)
        .args(["drain", "--show"])
        .output()
        .unwrap();
    assert_eq!(stdout(&shown), "This node takes no new payloads: moving house.");
    fs::remove_file(world.path("run/drain")).unwrap();
    assert_eq!(stdout(&launch(&[])), "hello");
    world.assert_nothing_left(&before);
}

/// Many orders at once, some for payloads that end just then: no order stops the recorder, and every launch is closed once.
#[test]
fn orders_and_ends_may_race() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("limits", "grace = \"1s\"")]);
    for round in 0..6 {
        let mut command = recorder.exec(&world, &["--user", "racer"]);
        let wait = format!("echo $BAILEY_ID; sleep 0.0{round}");
        command.args(["--", "/bin/sh", "-c", &wait]).stderr(Stdio::null());
        let mut racer = Started::new(&mut command);
        let id = racer.line();
        let mut orders: Vec<_> = (0..3)
            .map(|number| {
                let mut stop = world.command(support::BAILEY);
                stop.env("BAILEY_CONFIG", &recorder.config).args(["stop", &id, "--reason", "race"]);
                if number == 1 {
                    stop.arg("--preserve");
                }
                stop.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for order in &mut orders {
            let code = order.wait().unwrap().code();
            assert!(matches!(code, Some(0 | 1)), "{code:?}");
        }
        racer.child.0.wait().unwrap();
        recorder.wait_live(0);
        let closers = of_launch(&recorder, &id);
        assert_eq!(actions(&closers).iter().filter(|action| **action == "payload-end").count(), 1);
    }
    recorder.assert_chain(&world);
}
