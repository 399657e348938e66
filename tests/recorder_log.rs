//! The recorder's log with real files, clocks that jump and processes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use bailey::admin::verify::verify;
use bailey::audit::Timestamp;
use bailey::audit::record::{Action, Record};
use bailey::recorder::log::{Live, Options, RecorderLog, Staged, Written, live_entry};
use bailey::request::LaunchId;
use common::{Scratch, id, launch_record, lines, records};

fn options(base: &Path) -> Options {
    Options {
        dir: base.join("log"),
        state: base.join("state"),
        host: common::options().host,
        writer: "recorder-test".to_owned(),
        segment_size: 64 << 20,
        live_list_every: 4 << 20,
        checkpoint_records: 1000,
        checkpoint_every: Duration::from_secs(60),
        reserve: 1 << 20,
        retention_days: None,
        retention_size: None,
        network_filesystem: false,
        clock: Timestamp::now,
    }
}

fn begins(launch: LaunchId) -> Staged {
    let record = launch_record(launch);
    let live = Live::Begins(Box::new(live_entry(&record)));
    Staged { record, live, durable: true, reserved: false }
}

fn ends(launch: LaunchId) -> Staged {
    let record = Record::new(Action::PayloadEnd, launch);
    Staged { record, live: Live::Ends(launch.to_string()), durable: false, reserved: true }
}

fn assert_good(dir: &Path) {
    let report = verify(dir).unwrap();
    assert!(report.is_good(), "{report:?}");
}

/// Every line that was acknowledged is there, at its place.
fn assert_there(dir: &Path, written: &[Written]) {
    use bailey::audit::chain::{hash, hex, place_of};
    let lines = lines(dir);
    let found: std::collections::BTreeMap<u64, String> = lines
        .iter()
        .map(|line| (place_of(line.as_bytes()).unwrap().0, hex(&hash(line.as_bytes()))))
        .collect();
    for line in written {
        assert_eq!(found.get(&line.seq), Some(&line.hash), "line {} is acknowledged and not there", line.seq);
    }
}

#[test]
fn batches_chain_and_verify() {
    let base = Scratch::new();
    let dir = base.path().join("log");
    let mut log = RecorderLog::open(options(base.path())).unwrap();
    let mut written = Vec::new();
    for round in 0..10 {
        let batch: Vec<Staged> = (0..64).map(|n| begins(id(round * 64 + n))).collect();
        written.extend(log.commit(&batch).into_iter().map(Result::unwrap));
    }
    assert_eq!(log.live().len(), 640);
    let batch: Vec<Staged> = (0..640).map(|n| ends(id(n))).collect();
    written.extend(log.commit(&batch).into_iter().map(Result::unwrap));
    assert!(log.live().is_empty());
    log.close().unwrap();
    assert_good(&dir);
    assert_there(&dir, &written);
    assert_eq!(records(&dir).iter().filter(|r| r.event.action == Action::PayloadLaunch).count(), 640);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o750);
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o640, "{entry:?}");
    }
}
