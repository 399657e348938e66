//! SIGKILL at random moments under load: of the recorder, and of launchers. Every receipt that any client ever got is in the
//! log afterwards, and every launch has its one end.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use std::fs;
use std::time::{Duration, Instant};
use support::load::{Load, account, receipts};
use support::recorder::Recorder;
use support::{Guard, World, wait_for};

/// No limit of an account stands in the way of the load. Small segments and many checkpoints, so that kills hit them too.
const FREE: [(&str, &str); 5] = [
    ("recorder", "launches_per_second = \"100000\""),
    ("recorder", "live_per_uid = \"100000\""),
    ("recorder", "segment_size = \"4M\""),
    ("recorder", "live_list_every = \"256K\""),
    ("recorder", "checkpoint_records = \"200\""),
];

/// A generator of moments (xorshift64*), seeded by the clock; the seed is printed, so that a failure can be tried again.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        println!("seed {}", now.as_nanos() as u64);
        Self(now.as_nanos() as u64 | 1)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }
}

#[test]
fn a_recorder_that_is_killed_at_random_loses_no_receipt() {
    const CLIENTS: usize = 16;
    const EACH: usize = 640;
    let world = World::new();
    let mut recorder = Recorder::with(&world, &FREE);
    let load = Load::new(&world, &recorder);
    let out = world.path("receipts");
    let (clients, each) = (CLIENTS.to_string(), EACH.to_string());
    let args = ["--clients", &clients, "--launches", &each, "--retry", "60"];
    let mut running = Guard(load.printing_to(&recorder.socket, &args, &out).spawn().unwrap());
    let mut moments = Moments::new();
    let (begin, mut kills) = (Instant::now(), 0);
    let status = loop {
        assert!(
            begin.elapsed() < support::patience(Duration::from_secs(420)),
            "the load does not end: {}",
            recorder.stderr()
        );
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20 + moments.below(600)));
        recorder.kill();
        kills += 1;
        recorder.restart();
    };
    assert!(status.success(), "{status}: {}", recorder.stderr());
    let got = receipts(&out);
    println!("{} receipts over {kills} kills", got.len());
    assert_eq!(got.len(), CLIENTS * EACH, "every launch got its receipt in the end");
    assert!(kills >= 10, "{kills} kills are too few to prove anything");
    wait_for("the last ends", || recorder.live().is_empty());
    assert_eq!(account(&recorder, &got), 0, "launches without an end");
    recorder.assert_chain(&world);
}

#[test]
fn launchers_that_are_killed_at_random_leave_no_launch_open() {
    let world = World::new();
    let recorder = Recorder::with(&world, &FREE);
    let load = Load::new(&world, &recorder);
    let mut moments = Moments::new();
    let mut got = Vec::new();
    for round in 0..30 {
        let out = world.path(&format!("receipts-{round}"));
        let args = ["--clients", "8", "--launches", "100000"];
        let running = Guard(load.printing_to(&recorder.socket, &args, &out).spawn().unwrap());
        wait_for("the first receipts", || fs::metadata(&out).is_ok_and(|meta| meta.len() > 2000));
        std::thread::sleep(Duration::from_millis(moments.below(100)));
        drop(running); // SIGKILL; its clients and their payloads die with it
        got.extend(receipts(&out));
    }
    assert!(got.len() > 500, "{} receipts are too few to prove anything", got.len());
    wait_for("the ends of all", || recorder.live().is_empty());
    assert_eq!(account(&recorder, &got), 0, "launches without an end");
    let lost = recorder.records_of("payload-end");
    let lost = lost.iter().filter(|end| end["grid"]["end"]["by"] == "launcher-lost").count();
    assert!(lost > 0, "no launcher was caught in the act");
    recorder.assert_chain(&world);
}
