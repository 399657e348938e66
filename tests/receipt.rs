//! A receipt releases the payload that was recorded, and no other: the library's own interface with real payloads and a real
//! log.
//!
//! A program of its own (`harness = false`): launches are made by a process with one thread, because a payload's init dies
//! with the thread that made it and clone3 copies only that one. It answers as libtest does, so that nextest can list and
//! run its tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test

mod support;

use bailey::admin::verify::verify;
use bailey::audit::client::Order;
use bailey::audit::record::{Action, Record};
use bailey::audit::{Durability, EmbeddedLog, LiveSlot, LogOptions, Receipt, Timestamp};
use bailey::config::Config;
use bailey::failure::Failure;
use bailey::host::{self, Caller};
use bailey::plan;
use bailey::policy::store::Policy;
use bailey::policy::verdict::Obligations;
use bailey::request::{Bind, LaunchId, Request};
use bailey::sandbox::{Explainer, Frozen};
use bailey::supervisor::{Cause, Deadline, Notice, Overseer, Signals, supervise};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::{World, alive_with, image, wait_for};

type Test = (&'static str, fn(&Stage));
const TESTS: [Test; 6] = [
    ("another_launchs_receipt_releases_nothing", another_launchs_receipt_releases_nothing),
    ("a_receipt_for_another_process_releases_nothing", a_receipt_for_another_process_releases_nothing),
    ("a_receipt_of_another_launch_with_this_process_releases_nothing", another_launch_same_process),
    ("a_receipt_whose_payload_is_gone_releases_nothing", a_receipt_whose_payload_is_gone_releases_nothing),
    ("a_dropped_payload_never_ran", a_dropped_payload_never_ran),
    ("the_right_receipts_release_their_payloads", the_right_receipts_release_their_payloads),
];

/// A log and a place for markers.
struct Stage {
    world: World,
    config: Config,
    caller: Caller,
}

/// A payload that would write its marker and say so with its exit code.
struct Launch {
    id: LaunchId,
    mark: String,
    marker: PathBuf,
    frozen: Frozen,
    pidfd: Option<OwnedFd>,
    _explainer: Explainer,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        world.directory("log");
        Self { world, config: Config::default(), caller: Caller::look() }
    }

    fn log(&self) -> EmbeddedLog {
        let options = LogOptions {
            wait: Duration::from_secs(10),
            network_filesystem: false,
            writer: "receipt-test".to_owned(),
            host: host::node().unwrap(),
            clock: Timestamp::now,
        };
        EmbeddedLog::open(&self.world.path("log"), options).unwrap()
    }

    /// A payload frozen before its execve.
    fn freeze(&self, number: u8) -> Launch {
        let id = LaunchId::from_parts(1_700_000_000_000, [number; 10]);
        let mark = format!("receipt-{}-{number}", std::process::id());
        let markers = self.world.directory("markers");
        let request = Request {
            command: ["/bin/sh", "-c", "echo ran >/markers/$0; exit 7", &mark].map(Into::into).to_vec(),
            image: Some(image()),
            binds: vec![Bind { source: markers.clone(), target: "/markers".into(), writable: true }],
            ..Request::default()
        };
        let policy = Policy::read(&self.config, None, Timestamp::now());
        let opened = plan::open(&request, &policy, &self.config, &self.caller).unwrap();
        let free = Obligations::default();
        let log = self.world.path("log");
        let plan = plan::decide(id, &request, opened, &free, &self.config, &self.caller, Some(&log)).unwrap();
        let (building, explainer) = plan.blueprint.start().unwrap();
        let (frozen, pidfd) = building.wait_frozen(&explainer).unwrap();
        assert!(pid_exists(frozen.pid()));
        Launch { id, marker: markers.join(&mark), mark, frozen, pidfd: Some(pidfd), _explainer: explainer }
    }

    /// No process of either launch, no child at all, and nothing ran.
    fn assert_nothing_ran(launches: &[(PathBuf, String, i32)]) {
        for (marker, mark, pid) in launches {
            assert!(!marker.exists(), "{mark} ran");
            wait_for("the end of the payload's process", || !pid_exists(*pid));
            assert_eq!(alive_with(mark).iter().filter(|found| **found != own_pid()).count(), 0, "{mark}");
        }
        assert_eq!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Err(Errno::ECHILD),
            "a child is left"
        );
    }

    /// Closes what the test recorded; then the log is whole and says of each launch one end.
    fn close(&self, mut log: EmbeddedLog, slots: Vec<LiveSlot>) {
        for slot in slots {
            let end = Record::new(Action::LaunchFailed, slot.launch());
            log.append_end(&end, slot, Durability::Synced).unwrap();
        }
        drop(log);
        drop(self.log());
        let report = verify(&self.world.path("log")).unwrap();
        assert!(report.is_good(), "{report:?}");
    }
}

impl Launch {
    fn record(&mut self, log: &mut EmbeddedLog) -> (Receipt, LiveSlot) {
        let pidfd = self.pidfd.take().unwrap();
        Self::record_as(log, self.id, self.frozen.pid(), pidfd)
    }

    fn record_as(log: &mut EmbeddedLog, id: LaunchId, pid: i32, pidfd: OwnedFd) -> (Receipt, LiveSlot) {
        let mut record = Record::new(Action::PayloadLaunch, id);
        record.host = host::node().unwrap();
        record.process.pid = Some(i64::from(pid));
        log.append_launch(&record, id, pidfd).unwrap()
    }

    fn traces(&self) -> (PathBuf, String, i32) {
        (self.marker.clone(), self.mark.clone(), self.frozen.pid())
    }
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn pid_exists(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Time enough for a payload that was released by mistake.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(100));
}

fn assert_defect(refused: Result<bailey::sandbox::Running, Failure>, why: &str) {
    let failure = refused.expect_err("it was released");
    assert_eq!(failure.code.exit_code(), 122, "{failure}");
    assert!(failure.why.contains(why), "{failure}");
}

fn another_launchs_receipt_releases_nothing(stage: &Stage) {
    let (mut a, mut b) = (stage.freeze(1), stage.freeze(2));
    let traces = [a.traces(), b.traces()];
    let mut log = stage.log();
    let (for_a, slot_a) = a.record(&mut log);
    let (for_b, slot_b) = b.record(&mut log);
    assert_eq!((for_a.launch(), for_b.launch()), (a.id, b.id));
    assert_defect(a.frozen.release(for_b), "another launch");
    assert_defect(b.frozen.release(for_a), "another launch");
    a_moment();
    Stage::assert_nothing_ran(&traces);
    stage.close(log, vec![slot_a, slot_b]);
}

fn a_receipt_for_another_process_releases_nothing(stage: &Stage) {
    let (mut a, mut b) = (stage.freeze(1), stage.freeze(2));
    let traces = [a.traces(), b.traces()];
    let mut log = stage.log();
    // The right launch id, and the other payload's process.
    let (receipt, slot) = Launch::record_as(&mut log, a.id, b.frozen.pid(), b.pidfd.take().unwrap());
    assert_eq!(receipt.launch(), a.id);
    assert_defect(a.frozen.release(receipt), "another process");
    // Any other descriptor is no process at all.
    a = stage.freeze(3);
    let null = fs::File::open("/dev/null").unwrap();
    let (receipt, other) = Launch::record_as(&mut log, a.id, a.frozen.pid(), null.into());
    let third = a.traces();
    assert_defect(a.frozen.release(receipt), "another process");
    drop(b);
    a_moment();
    Stage::assert_nothing_ran(&traces);
    Stage::assert_nothing_ran(&[third]);
    stage.close(log, vec![slot, other]);
}

fn another_launch_same_process(stage: &Stage) {
    let mut a = stage.freeze(1);
    let traces = [a.traces()];
    let mut log = stage.log();
    let other = LaunchId::from_parts(1_700_000_000_000, [9; 10]);
    let (receipt, slot) = Launch::record_as(&mut log, other, a.frozen.pid(), a.pidfd.take().unwrap());
    assert_defect(a.frozen.release(receipt), "another launch");
    a_moment();
    Stage::assert_nothing_ran(&traces);
    stage.close(log, vec![slot]);
}

fn a_receipt_whose_payload_is_gone_releases_nothing(stage: &Stage) {
    // The receipt outlives its payload; another payload of the same launch id is not the one that was recorded.
    let mut a = stage.freeze(1);
    let traces = [a.traces()];
    let mut log = stage.log();
    let (receipt, slot) = a.record(&mut log);
    drop(a);
    let again = stage.freeze(1);
    let second = again.traces();
    assert_defect(again.frozen.release(receipt), "another process");
    a_moment();
    Stage::assert_nothing_ran(&traces);
    Stage::assert_nothing_ran(&[second]);
    stage.close(log, vec![slot]);
}

fn a_dropped_payload_never_ran(stage: &Stage) {
    let (mut a, b) = (stage.freeze(1), stage.freeze(2));
    let traces = [a.traces(), b.traces()];
    let mut log = stage.log();
    let (receipt, slot) = a.record(&mut log);
    drop(b); // without a record
    drop(a); // with one
    drop(receipt);
    a_moment();
    Stage::assert_nothing_ran(&traces);
    stage.close(log, vec![slot]);
}

/// Nobody gives orders here, and nobody listens.
struct Nobody;

impl Overseer for Nobody {
    fn notice(&mut self, _: &Notice) {}
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn wake_at(&self) -> Option<Instant> {
        None
    }
    fn orders(&mut self) -> Vec<Order> {
        Vec::new()
    }
    fn obeyed(&mut self, _: bool, _: Option<Duration>) {}
    fn preserve_in(&self) -> Result<PathBuf, Failure> {
        Err(Failure::usage("cannot keep files", "nobody asked", "ask"))
    }
}

fn the_right_receipts_release_their_payloads(stage: &Stage) {
    let (mut a, mut b) = (stage.freeze(1), stage.freeze(2));
    let traces = [a.traces(), b.traces()];
    let mut log = stage.log();
    let (for_a, slot_a) = a.record(&mut log);
    let (for_b, slot_b) = b.record(&mut log);
    a_moment();
    assert!(traces.iter().all(|(marker, ..)| !marker.exists()), "ran before its release");
    let signals = Signals::take().unwrap();
    let deadline = Deadline {
        wall_time: Some(Duration::from_secs(10)),
        grace: Duration::from_secs(1),
        overuse: Vec::new(),
    };
    for (frozen, receipt) in [(b.frozen, for_b), (a.frozen, for_a)] {
        let end = supervise(frozen.release(receipt).unwrap(), &signals, deadline.clone(), &mut Nobody);
        assert_eq!((end.cause, end.status), (Cause::Payload, Some(7 << 8)), "{end:?}");
    }
    for (marker, ..) in &traces {
        assert_eq!(fs::read_to_string(marker).unwrap(), "ran\n");
        fs::remove_file(marker).unwrap();
    }
    Stage::assert_nothing_ran(&traces); // no process is left either
    stage.close(log, vec![slot_a, slot_b]);
}

// ---- what libtest does, as far as nextest and cargo test ask for it ----

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--") && *arg != "terse").collect();
    let chosen: Vec<Test> = TESTS
        .into_iter()
        .filter(|(name, _)| {
            let matches = |wanted: &&String| {
                if has("--exact") { wanted.as_str() == *name } else { name.contains(wanted.as_str()) }
            };
            !has("--ignored") && (names.is_empty() || names.iter().any(matches))
        })
        .collect();
    if has("--list") {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let start = Instant::now();
    let mut failed = 0;
    for (name, test) in &chosen {
        let stage = Stage::new();
        let good = catch_unwind(AssertUnwindSafe(|| test(&stage))).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        failed += usize::from(!good);
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        chosen.len() - failed,
        TESTS.len() - chosen.len(),
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
