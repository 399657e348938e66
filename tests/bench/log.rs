//! The log that questions are timed on: full-size records of a busy node, through the recorder's own writer. And SHA-256's own
//! speed, to set the speed of `verify` beside it. Called by tests/bench-trace.sh.
//!
//!   bench-log make DIR RECORDS    DIR/log and DIR/state; prints what it made, and DIR/samples: TIME PID USER JOB of launches
//!   bench-log sha256              MB/s of one core, then of all at once
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bailey::audit::Timestamp;
use bailey::audit::record::{
    Action, Assurance, EndBy, Host, Id, Mount, OtherIdentity, Outcome, Record, Role, entity_id,
};
use bailey::recorder::log::{Live, Options, RecorderLog, Staged, live_entry};
use bailey::request::LaunchId;
use sha2::{Digest as _, Sha256};

/// 2026-01-01 00:00:00 UTC.
const START: i64 = 1_767_225_600;
const SEGMENTS: i64 = 180;
const USERS: u64 = 5000;
const VOS: u64 = 40;
const LIVE: i64 = 100;
/// Records in one write.
const BATCH: usize = 32;

static CLOCK: AtomicI64 = AtomicI64::new(START * 1000);

fn clock() -> Timestamp {
    let millis = CLOCK.load(Ordering::Relaxed);
    Timestamp::new(millis.div_euclid(1000), (millis.rem_euclid(1000) * 1_000_000) as u32)
}

/// A fixed sequence of numbers that look random (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    /// Exponentially distributed.
    fn wait(&mut self, mean: f64) -> i64 {
        let unit = (self.roll(1 << 40) + 1) as f64 / (1_u64 << 40) as f64;
        (-unit.ln() * mean) as i64
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            let _ = write!(text, "{:016x}", self.roll(u64::MAX));
        }
        text.truncate(digits);
        text
    }
}

fn host() -> Host {
    let mut host = Host {
        name: Some("wn0042.grid.example.org".into()),
        id: Some("4d0c5f1b2a9e4c7f8d3e6a5b1c2d3e4f".into()),
        ip: vec!["192.0.2.42".parse().unwrap(), "2001:db8:42::42".parse().unwrap()],
        pid_ns_ino: Some("4026531836".into()),
        ..Host::default()
    };
    host.boot.id = Some("0f5b7c1e-9a3d-4e62-8b54-6c2f1d7e9a30".into());
    host
}

struct Ended {
    id: LaunchId,
    launch: Record,
    begun: i64,
}

fn launch(dice: &mut Dice, number: u64, id: LaunchId) -> Record {
    let mut record = Record::new(Action::PayloadLaunch, id);
    let user = dice.roll(USERS);
    let vo = user % VOS;
    let pid = 2000 + (number * 7 % 4_000_000) as i64;
    let ticks = 100_000 + number * 31;
    let name = format!(
        "/DC=org/DC=example/OU=Organic Units/OU=Users/CN=user{user:04}/CN={}/CN=Jane Doe {user}",
        500_000 + user
    );
    let subject = dice_uuid(user);
    record.event.created = Some(clock());
    record.event.reason = Some("the pilot asked for it, and no rule was against it".into());
    record.host = host();
    let process = &mut record.process;
    process.pid = Some(pid);
    process.vpid = Some(2);
    process.start = Some(clock());
    process.entity_id = Some(entity_id("4d0c5f1b2a9e4c7f8d3e6a5b1c2d3e4f", "0f5b7c1e", pid, ticks));
    process.executable = Some("/srv/payload/run.sh".into());
    process.args = vec![
        "/srv/payload/run.sh".into(),
        "--input".into(),
        format!("root://storage.example.org//store/mc/Run3/{}.root", dice.hex(12)),
        "--events".into(),
        dice.roll(100_000).to_string(),
        "--token".into(),
        "[redacted]".into(),
    ];
    process.working_directory = Some("/srv/payload".into());
    process.hash.sha256 = Some(dice.hex(64));
    process.parent.pid = Some(pid - 2);
    process.parent.executable = Some("/usr/bin/bailey".into());
    process.parent.hash.sha256 = Some("b6".repeat(32));
    process.real_user = Id { id: Some((30_000 + vo).to_string()) };
    process.real_group = Id { id: Some((30_000 + vo).to_string()) };
    process.user = Id { id: Some((30_000 + vo).to_string()) };
    record.user.id = Some(name.clone());
    record.user.domain = Some(format!("vo{vo}.example.org"));
    record.user.roles =
        vec![format!("/vo{vo}.example.org/Role=NULL"), format!("/vo{vo}.example.org/production")];
    record.related.user = vec![name.clone(), subject.clone(), format!("user{user:04}")];
    record.related.ip = record.host.ip.clone();
    record.related.hash = vec![dice.hex(64)];
    record.container.image.name =
        Some(format!("/cvmfs/unpacked.cern.ch/registry.hub.docker.com/example/el9-{}:latest", user % 20));
    record.container.image.hash.all = vec![format!("sha256:{:064x}", user % 20)];
    let grid = &mut record.grid;
    grid.vo = Some(format!("vo{vo}.example.org"));
    grid.identity.assurance = Some(Assurance::Verified);
    grid.identity.source = Some("wlcg-token".into());
    grid.identity.issuer = Some(format!("https://iam.vo{vo}.example.org/"));
    grid.identity.subject = Some(subject);
    grid.identity.groups = vec!["/production".into(), "/analysis".into()];
    grid.identity.jti = Some(dice.hex(32));
    grid.identity.not_after = Some(clock().plus_seconds(86_400));
    grid.identity.person = Some(format!("person-{user}"));
    grid.identity.others = vec![OtherIdentity {
        assurance: Some(Assurance::Declared),
        source: Some("job-ad".into()),
        subject: Some(name),
        ..OtherIdentity::default()
    }];
    grid.role = Some(Role::Payload);
    grid.mounts = ["/cvmfs", "/srv/payload", "/etc/grid-security", "/etc/resolv.conf"]
        .iter()
        .map(|path| Mount {
            source: Some((*path).into()),
            target: Some((*path).into()),
            mode: Some(if *path == "/srv/payload" { "rw" } else { "ro" }.into()),
        })
        .collect();
    grid.site.name = Some("EXAMPLE-T2".into());
    grid.site.public_ip = vec!["198.51.100.7".parse().unwrap()];
    grid.pilot.id = Some(format!("pilot-{}", number / 12));
    grid.pilot.subject = Some(format!("/DC=org/DC=example/CN=Robot: vo{vo} pilot"));
    grid.pilot.batch_job_id = vec![format!("htcondor:{}.0", 1_000_000 + number / 12)];
    grid.job.id = Some((6_000_000_000 + number).to_string());
    grid.job.task = Some((40_000_000 + number / 500).to_string());
    grid.cgroup.path = Some(format!("/htcondor/slot1_{}@wn0042/bailey-{id}", number % 64));
    grid.cgroup.id = Some((900_000 + number).to_string());
    grid.cgroup.version = Some(2);
    grid.namespaces.user = Some(4_026_532_000 + number);
    grid.namespaces.mnt = Some(4_026_532_001 + number);
    grid.namespaces.pid = Some(4_026_532_002 + number);
    grid.namespaces.ipc = Some(4_026_532_003 + number);
    grid.namespaces.uts = Some(4_026_532_004 + number);
    for mechanism in ["user_namespace", "no_new_privs", "seccomp", "landlock", "capabilities", "journald"] {
        grid.sandbox.insert(mechanism.into(), "on".into());
    }
    grid.observed.no_new_privs = Some(true);
    grid.observed.seccomp = Some(2);
    grid.observed.pid_depth = Some(2);
    grid.observed.uid_map = Some(format!("{0} {0} 1", 30_000 + vo));
    grid.observed.setgroups = Some("deny".into());
    grid.observed.mountinfo_sha256 = Some(dice.hex(64));
    grid.observed.namespaces = Some("tied".into());
    grid.limits.memory = Some(4 << 30);
    grid.limits.cpus_milli = Some(8000);
    grid.limits.pids = Some(4096);
    grid.limits.wall_time = Some(345_600);
    grid.policy.rule = Some(format!("allow-vo{vo}"));
    grid.policy.bans_version = Some("c4".repeat(32));
    grid.policy.config_hash = Some("d5".repeat(32));
    grid.launcher.version = Some(env!("CARGO_PKG_VERSION").into());
    grid.launcher.build_id = Some("e6".repeat(20));
    grid.launcher.start_ticks = Some(ticks - 9);
    grid.clock.synchronized = Some(true);
    grid.start_ticks = Some(ticks);
    record
}

fn dice_uuid(number: u64) -> String {
    let text = format!("{:032x}", u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn end(dice: &mut Dice, ended: &Ended, now: i64) -> Record {
    let mut record = ended.launch.clone();
    record.event.action = Action::PayloadEnd;
    record.event.r#type = vec!["end".into()];
    record.event.outcome = Some(Outcome::Success);
    record.event.duration = Some((now - ended.begun).unsigned_abs() * 1_000_000);
    record.event.reason = Some("the payload ended: it exited with code 0".into());
    record.process.end = Some(clock());
    record.process.exit_code = Some(0);
    record.grid.end.by = Some(EndBy::Payload);
    let usage = &mut record.grid.usage;
    usage.source = Some("cgroup2".into());
    usage.cpu_user_us = Some(dice.roll(1 << 40));
    usage.cpu_system_us = Some(dice.roll(1 << 36));
    usage.memory_peak_bytes = Some(dice.roll(4 << 30));
    usage.io_read_bytes = Some(dice.roll(1 << 38));
    usage.io_write_bytes = Some(dice.roll(1 << 36));
    usage.read_chars = Some(dice.roll(1 << 38));
    usage.write_chars = Some(dice.roll(1 << 36));
    usage.processes_peak = Some(dice.roll(200));
    usage.page_faults_major = Some(dice.roll(9999));
    record
}

fn make(dir: &Path, records: u64) {
    let log_dir = dir.join("log");
    let mut log = RecorderLog::open(Options {
        dir: log_dir.clone(),
        state: dir.join("state"),
        host: host(),
        writer: "recorder-bench".into(),
        segment_size: 4 << 30,
        live_list_every: 2 << 20,
        checkpoint_records: 1000,
        checkpoint_every: Duration::from_secs(60),
        reserve: 0,
        retention_days: None,
        retention_size: None,
        network_filesystem: false,
        clock,
    })
    .unwrap();
    let begun = Instant::now();
    let mut dice = Dice(0x5eed_1234_5678_9abc);
    let launches = records / 2;
    // Launches are spread evenly over the days; the mean time that one lasts keeps LIVE of them live.
    let step = SEGMENTS * 86_400_000 / launches as i64;
    let mean = (step * LIVE) as f64;
    let mut live: BinaryHeap<Reverse<(i64, u64)>> = BinaryHeap::new();
    let mut running = std::collections::HashMap::new();
    let mut batch: Vec<Staged> = Vec::new();
    let mut samples = String::new();
    let mut written = 0_u64;
    let mut now = START * 1000;
    let mut commit = |log: &mut RecorderLog, batch: &mut Vec<Staged>| {
        for result in log.commit(batch) {
            written += result.unwrap().bytes;
        }
        batch.clear();
    };
    for number in 0..launches {
        now += step;
        while let Some(Reverse((at, ends))) = live.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            live.pop();
            CLOCK.store(at, Ordering::Relaxed);
            let ended: Ended = running.remove(&ends).unwrap();
            let record = end(&mut dice, &ended, at);
            let live = Live::Ends(ended.id.to_string());
            batch.push(Staged { record: record.into(), live, durable: false, reserved: true });
        }
        CLOCK.store(now, Ordering::Relaxed);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        let id = LaunchId::from_parts(now.unsigned_abs(), random);
        let record = launch(&mut dice, number, id);
        let entry = live_entry(&record);
        // One in a hundred runs for days, most for less than the mean.
        let lasts = match dice.roll(100) {
            0 => dice.wait(86_400_000.0 * 1.5).min((30.0 * mean) as i64),
            1..10 => dice.wait(mean * 4.0),
            _ => dice.wait(mean * 0.4),
        } + 1000;
        if number % (launches / 60).max(1) == 7 {
            let middle = Timestamp::new((now + lasts / 2).div_euclid(1000), 0);
            let (pid, user, job) = (
                record.process.pid.unwrap(),
                record.user.id.as_ref().unwrap(),
                record.grid.job.id.as_ref().unwrap(),
            );
            writeln!(samples, "{middle} {pid} {job} {user}").unwrap();
        }
        running.insert(number, Ended { id, launch: record.clone(), begun: now });
        live.push(Reverse((now + lasts, number)));
        batch.push(Staged {
            record: record.into(),
            live: Live::Begins(Box::new(entry)),
            durable: true,
            reserved: false,
        });
        if batch.len() >= BATCH {
            commit(&mut log, &mut batch);
        }
    }
    commit(&mut log, &mut batch);
    let (live, took) = (log.live().len(), begun.elapsed());
    log.close().unwrap();
    std::fs::write(dir.join("samples"), samples).unwrap();
    let begun = Instant::now();
    let mut names: Vec<String> = std::fs::read_dir(&log_dir)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".ndjson"))
        .collect();
    names.sort();
    for name in &names {
        bailey::trace::index::write_for(&log_dir, name).unwrap();
    }
    println!(
        "made {records} records in {} segments, mean {} bytes, {live} live at the end; written in {:.0} s, indexed in {:.0} s",
        names.len(),
        written / records.max(1),
        took.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
}

/// MB/s of `threads` threads that hash lines of 2.5 KB, as verify does.
fn sha256(threads: usize) -> u64 {
    let begun = Instant::now();
    let done: usize = std::thread::scope(|scope| {
        let hash = || {
            let buffer = vec![0x61_u8; 1 << 20];
            let mut bytes = 0;
            while begun.elapsed() < Duration::from_secs(1) {
                for line in buffer.chunks(2500) {
                    std::hint::black_box(Sha256::digest(line));
                }
                bytes += buffer.len();
            }
            bytes
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(hash)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    (done as f64 / 1e6 / begun.elapsed().as_secs_f64()) as u64
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", dir, records] => make(Path::new(dir), records.parse().expect("a number of records")),
        ["sha256"] => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            println!("{} {}", sha256(1), sha256(cores));
        }
        _ => panic!("usage: bench-log make DIR RECORDS | bench-log sha256"),
    }
}
