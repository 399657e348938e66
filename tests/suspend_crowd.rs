//! Ten thousand bans against many payloads that run, half of them meant: those are dead in time, the others untouched. How many
//! payloads is said by `BAILEY_CROWD` (`make suspend-crowd`: 500); without it as many as a machine with two cores has time for.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::policy::Node;
use support::{Guard, wait_for};

const BANS: usize = 10_000;
/// What the issue says holds for the program as it is delivered; one without optimization reads a list ten times as slowly.
const DEAD: Duration = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 2 });

fn payloads() -> usize {
    std::env::var("BAILEY_CROWD").map_or(60, |count| count.parse().expect("BAILEY_CROWD is a number"))
}

fn user(number: usize) -> String {
    format!("/DC=org/DC=example/OU=People/CN=User {number}")
}

fn is_meant(number: usize) -> bool {
    number % 4 < 2
}

/// Each ignores SIGTERM and has a child that forks; each second one stops itself.
fn script(number: usize) -> &'static str {
    if number.is_multiple_of(2) {
        "trap '' TERM; (while :; do (sleep 3) & wait; done) & echo ready; kill -STOP $$; sleep 100"
    } else {
        "trap '' TERM; (while :; do (sleep 3) & wait; done) & echo ready; while :; do sleep 3; done"
    }
}

fn crowd(node: &Node) -> Vec<Guard> {
    let begin = Instant::now();
    let said = File::create(node.world.path("said")).unwrap();
    let mut payloads: Vec<Guard> = Vec::new();
    let count = self::payloads();
    for number in 0..count {
        let mut command = node.world.exec(&["--user", &user(number), "--wall-time", "5m"]); // bounded, whatever becomes of the test
        command.env("BAILEY_CONFIG", &node.config).args(["--", "/bin/sh", "-c", script(number)]);
        command.stdout(Stdio::piped()).stderr(said.try_clone().unwrap());
        payloads.push(Guard(command.spawn().unwrap()));
        // A few at a time, as a node gets them.
        if let Some(earlier) = number.checked_sub(8) {
            ready(&mut payloads[earlier]);
        }
    }
    for payload in payloads.iter_mut().skip(count.saturating_sub(8)) {
        ready(payload);
    }
    println!("{} payloads in {:?}", payloads.len(), begin.elapsed());
    payloads
}

fn ready(payload: &mut Guard) {
    let mut line = [0; 6];
    payload.0.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
}

fn half_of_them(node: &Node) {
    let stranger = |number: usize| format!("/DC=org/DC=example/OU=People/CN=Stranger {number}\n");
    let count = payloads();
    let meant: Vec<usize> = (0..count).filter(|number| is_meant(*number)).collect();
    let mut list: String = (0..BANS - meant.len()).map(stranger).collect();
    node.ban("list.dn", &list);
    let mut payloads = crowd(node);
    std::thread::sleep(Duration::from_secs(1));
    for (number, payload) in payloads.iter_mut().enumerate() {
        assert!(payload.0.try_wait().unwrap().is_none(), "payload {number} ended by itself");
    }
    list.extend(meant.iter().map(|number| format!("{}\n", user(*number))));
    let start = Instant::now();
    node.ban("list.dn", &list);
    let mut ends: Vec<Option<Duration>> = vec![None; count];
    while meant.iter().any(|number| ends[*number].is_none()) {
        assert!(
            start.elapsed() < support::patience(Duration::from_secs(30)),
            "{} of {} live on",
            meant.iter().filter(|number| ends[**number].is_none()).count(),
            meant.len()
        );
        for (number, payload) in payloads.iter_mut().enumerate() {
            if ends[number].is_none()
                && let Some(status) = payload.0.try_wait().unwrap()
            {
                assert!(is_meant(number), "payload {number} was not meant: {status}");
                assert_eq!((status.code(), status.signal()), (Some(123), None), "payload {number}");
                ends[number] = Some(start.elapsed());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut times: Vec<Duration> = ends.into_iter().flatten().collect();
    times.sort();
    let (first, middle, last) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{} of {count} ended: first {first:?}, median {middle:?}, last {last:?}", times.len());
    std::thread::sleep(Duration::from_millis(500));
    for (number, payload) in payloads.iter_mut().enumerate().filter(|(number, _)| !is_meant(*number)) {
        assert!(payload.0.try_wait().unwrap().is_none(), "payload {number} was not meant");
    }
    let ends = node.records_of("payload-end");
    assert_eq!(ends.len(), meant.len());
    assert!(ends.iter().all(|end| end["grid"]["end"]["by"] == "ban"));
    assert_eq!(node.records_of("payload-stop").len(), meant.len());
    drop(payloads); // SIGKILL: the kernel ends what is below
    wait_for("the end of all", || support::alive_with(node.world.dir.to_str().unwrap()).is_empty());
    assert!(last < support::patience(DEAD), "the last one after {last:?}");
}

#[test]
fn with_the_recorder() {
    let node = Node::recorded(&[("recorder", "launches_per_second = \"10000\"")]);
    half_of_them(&node);
}

#[test]
fn with_the_embedded_log() {
    half_of_them(&Node::embedded(&[]));
}
