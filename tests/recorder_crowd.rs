//! More launchers of one account at once than it may have connections: they wait for their turn.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use bailey::audit::wire::{Done, Message};
use std::fs;
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::raw::{Raw, hello};
use support::recorder::Recorder;
use support::{Guard, World, assert_refused, behind, skip, text, wait_for};

/// As many connections without a payload as one uid may have then.
const MOST: usize = 20;

/// A recorder with few descriptors: 40 of its own, and eight for each of those connections.
fn small(world: &World, wait: &str) -> Recorder {
    let mut recorder = Recorder::not_started(world, &[("audit", &format!("wait = \"{wait}\""))]);
    start_small(&mut recorder);
    recorder
}

fn start_small(recorder: &mut Recorder) {
    recorder.kill();
    let limit = format!("ulimit -n {}; exec \"$@\"", 40 + 8 * MOST);
    recorder.adopt(behind("bash", &["-c", &limit, "bash"], &recorder.command()));
}

/// Takes every connection that there is for this account. The one of a moment ago may still be counted.
fn fill(recorder: &Recorder) -> Vec<Raw> {
    let mut held = Vec::new();
    let start = Instant::now();
    while held.len() < MOST {
        let mut raw = Raw::new(&recorder.socket);
        if matches!(raw.ask(&hello(), &[]), Some(Message::Welcome(_))) {
            held.push(raw);
        }
        assert!(
            start.elapsed() < support::patience(Duration::from_secs(10)),
            "only {} connections",
            held.len()
        );
    }
    let refused = Raw::new(&recorder.socket).hear().unwrap().message;
    let Message::Refused(refused) = refused else { panic!("{refused:?}") };
    assert!(refused.why.contains("connections that carry no payload"), "{refused:?}");
    assert!(refused.retry_after_ms.is_some_and(|after| (1..1000).contains(&after)), "{refused:?}");
    held
}

#[test]
fn a_launcher_waits_for_its_turn() {
    let world = World::new();
    let recorder = small(&world, "10s");
    let held = fill(&recorder);
    let mut launcher = Guard(recorder.exec(&world, &["--", "/bin/true"]).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(1));
    assert!(launcher.0.try_wait().unwrap().is_none(), "it waits");
    assert_eq!(recorder.records_of("payload-launch").len(), 0);
    drop(held);
    assert!(launcher.0.wait().unwrap().success());
    assert_eq!(recorder.wait_records("payload-end", 1)[0]["grid"]["end"]["by"], "payload");
}

#[test]
fn a_launcher_does_not_wait_for_ever() {
    let world = World::new();
    let recorder = small(&world, "1s");
    let held = fill(&recorder);
    let start = Instant::now();
    let output = recorder.exec(&world, &["--", "/bin/echo", "ran"]).output().unwrap();
    assert_refused(&output, 122, &["no more of this account", "connections that carry no payload"]);
    assert!(output.stdout.is_empty());
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(500)..support::patience(Duration::from_secs(8))).contains(&took),
        "{took:?}"
    );
    drop(held);
}

#[test]
fn an_end_waits_for_its_turn_too() {
    let world = World::new();
    let mut recorder = small(&world, "20s");
    let work = world.directory("work");
    let mut command = recorder.exec(&world, &["--workdir"]);
    command.arg(&work).args([
        "--",
        "/bin/sh",
        "-c",
        "touch began; while [ ! -e stop ]; do sleep 0.05; done; exit 7",
    ]);
    let mut launcher = Guard(command.spawn().unwrap());
    wait_for("the payload's begin", || work.join("began").exists());
    // The launcher sleeps over the restart, so that others are there before it.
    let pid = nix::unistd::Pid::from_raw(launcher.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    start_small(&mut recorder);
    let held = fill(&recorder);
    fs::write(work.join("stop"), "").unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(launcher.0.try_wait().unwrap().is_none(), "it waits");
    drop(held);
    assert_eq!(launcher.0.wait().unwrap().code(), Some(7));
    let end = recorder.wait_records("payload-end", 1).remove(0);
    assert_eq!((&end["process"]["exit_code"], &end["grid"]["end"]["by"]), (&7.into(), &"payload".into()));
}

#[test]
fn more_launchers_than_connections_get_their_receipts() {
    // More than may be connected at once, and no more than there are descriptors for when all of their payloads are live.
    const LAUNCHERS: usize = MOST + 4;
    let world = World::new();
    // As long as that many launchers may take on a busy host.
    let recorder = small(&world, "100s");
    // All of them are there before any has its turn.
    let held = fill(&recorder);
    let launch = |number: usize| {
        let said = fs::File::create(world.path(&format!("said-{number}"))).unwrap();
        let mut command = recorder.exec(&world, &["--", "/bin/true"]);
        Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap())
    };
    let launchers: Vec<Guard> = (0..LAUNCHERS).map(launch).collect();
    std::thread::sleep(Duration::from_millis(500));
    drop(held);
    for (number, mut launcher) in launchers.into_iter().enumerate() {
        let status = launcher.0.wait().unwrap();
        let said = fs::read_to_string(world.path(&format!("said-{number}"))).unwrap();
        assert!(status.success(), "{status}: {said}");
    }
    assert_eq!(recorder.wait_records("payload-launch", LAUNCHERS).len(), LAUNCHERS);
    recorder.wait_live(0);
    recorder.assert_chain(&world);
}

/// Descriptors that do not fit any more are no mistake of the sender: it is told to ask again, and is served when it does.
#[test]
fn descriptors_without_room_are_asked_for_again() {
    let world = World::new();
    let recorder = small(&world, "10s");
    let mut raw = Raw::greeted(&recorder.socket);
    let null = fs::File::open("/dev/null").unwrap();
    // More than the recorder has left, and as many as a message may have.
    let fds = vec![null.as_fd(); 253];
    let answer = raw.ask(&Message::Ps(Done::default()), &fds);
    let Some(Message::Refused(refused)) = answer else { panic!("{answer:?}") };
    assert!(refused.why.contains("no descriptors"), "{refused:?}");
    assert!(refused.retry_after_ms.is_some_and(|after| (1..1000).contains(&after)), "{refused:?}");
    wait_for("room", || matches!(raw.ask(&Message::Ps(Done::default()), &[]), Some(Message::Rows(_))));
    let output = recorder.exec(&world, &["--", "/bin/true"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A peer that does not read is watched for room to send. Where epoll_ctl(2) fails for that (here: strace makes it), it is cut
/// off at once, with a message, and not left to a timeout.
#[test]
fn a_connection_that_cannot_be_watched_is_cut_off() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[]);
    let trace = world.path("trace");
    let start = |recorder: &mut Recorder, when: usize| {
        recorder.kill();
        let inner = recorder.command();
        let mut command = std::process::Command::new("strace");
        command.args(["-D", "-f", "-e", "trace=epoll_ctl", "-e"]);
        command.arg(format!("inject=epoll_ctl:error=ENOMEM:when={when}")).arg("-o").arg(&trace);
        command.arg(inner.get_program()).env_clear().env("BAILEY_CONFIG", &recorder.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&recorder.said).unwrap());
        recorder.adopt(command);
        wait_for("the first connection", || fs::read_to_string(&trace).unwrap().contains("EPOLLRDHUP"));
        // Its end may be a call, too.
        std::thread::sleep(Duration::from_millis(300));
        fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("epoll_ctl(")).count()
    };
    // How many there are until then: the connection's own is the next, and the one after it is to fail.
    let count = start(&mut recorder, 60_000);
    assert_eq!(start(&mut recorder, count + 2), count, "not the same calls in two starts");
    let mut raw = Raw::greeted(&recorder.socket);
    let begin = Instant::now();
    let flood = nix::sys::socket::setsockopt(
        &raw.fd,
        nix::sys::socket::sockopt::SendTimeout,
        &nix::sys::time::TimeValLike::seconds(1),
    );
    flood.unwrap();
    let injected = || fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
    while !injected() && raw.say(&Message::Ps(Done::default()), &[]).is_ok() {
        assert!(begin.elapsed() < support::patience(Duration::from_secs(20)), "it is answered all the time");
    }
    wait_for("the fault", injected);
    let lines = fs::read_to_string(&trace).unwrap();
    let fault = lines.lines().find(|line| line.contains("(INJECTED)")).unwrap();
    if !fault.contains("EPOLL_CTL_MOD") {
        return skip(
            "a_connection_that_cannot_be_watched_is_cut_off",
            &format!("another call failed: {fault}"),
        );
    }
    let fault = Instant::now();
    while raw.hear().is_some() {}
    assert!(
        fault.elapsed() < support::patience(Duration::from_secs(5)),
        "cut off after {:?}",
        fault.elapsed()
    );
    let said = recorder.stderr();
    let me = format!("process {}", std::process::id());
    assert!(said.contains("cannot watch the connection of") && said.contains(&me), "{said}");
    let output = recorder.exec(&world, &["--", "/bin/true"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
