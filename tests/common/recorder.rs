//! What the tests of the recorder's log share.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailey::admin::verify::verify;
use bailey::audit::Timestamp;
use bailey::audit::chain::{hash, hex, place_of};
use bailey::audit::record::{Action, Record};
use bailey::recorder::log::{Live, Options, RecorderLog, Staged, Written, live_entry};
use bailey::request::LaunchId;

use super::{id, launch_record, lines, records};

thread_local! {
    static CLOCK: Cell<i64> = const { Cell::new(0) };
}

/// Sets the clock of this thread's logs.
pub fn set_clock(secs: i64) {
    CLOCK.set(secs);
}

/// A clock that a test sets; it moves by a nanosecond whenever it is looked at.
pub fn clock() -> Timestamp {
    thread_local! {
        static LOOKED: Cell<u32> = const { Cell::new(0) };
    }
    LOOKED.set(LOOKED.get() + 1);
    Timestamp::new(CLOCK.get(), LOOKED.get())
}

pub fn options(base: &Path) -> Options {
    Options {
        dir: base.join("log"),
        state: base.join("state"),
        host: super::options().host,
        writer: "recorder-test".to_owned(),
        segment_size: 64 << 20,
        live_list_every: 4 << 20,
        checkpoint_records: 1000,
        checkpoint_every: Duration::from_secs(60),
        reserve: 256 << 10,
        retention_days: None,
        retention_size: None,
        network_filesystem: false,
        clock: Timestamp::now,
    }
}

pub fn open(base: &Path) -> RecorderLog {
    RecorderLog::open(options(base)).unwrap()
}

pub fn begins(launch: LaunchId) -> Staged {
    let record = launch_record(launch);
    let live = Live::Begins(Box::new(live_entry(&record)));
    Staged { record: record.into(), live, durable: true, reserved: false }
}

pub fn ends(launch: LaunchId) -> Staged {
    let record = Record::new(Action::PayloadEnd, launch);
    Staged { record: record.into(), live: Live::Ends(launch.to_string()), durable: false, reserved: true }
}

/// A record of nothing live, that may not use the reserve.
pub fn denies(launch: LaunchId) -> Staged {
    let record = Record::new(Action::PayloadDeny, launch);
    Staged { record: record.into(), live: Live::Same, durable: true, reserved: false }
}

/// Commits what must be taken.
pub fn put(log: &mut RecorderLog, batch: &[Staged]) -> Vec<Written> {
    log.commit(batch).into_iter().map(Result::unwrap).collect()
}

pub fn assert_good(dir: &Path) {
    let report = verify(dir).unwrap();
    assert!(report.is_good(), "{report:?}");
}

/// Every line that was acknowledged is there, at its place.
pub fn assert_there(dir: &Path, written: &[Written]) {
    let mut found = BTreeMap::new();
    for line in lines(dir) {
        let (seq, _) = place_of(line.as_bytes()).unwrap();
        found.insert(seq, hex(&hash(line.as_bytes())));
    }
    for line in written {
        assert_eq!(found.get(&line.seq), Some(&line.hash), "line {} is acknowledged and not there", line.seq);
    }
}

pub fn actions(dir: &Path) -> Vec<Action> {
    records(dir).iter().map(|record| record.event.action).collect()
}

pub fn count(dir: &Path, action: Action) -> usize {
    actions(dir).into_iter().filter(|found| *found == action).count()
}

/// The launches without end, as a reader of the whole log finds them.
pub fn open_launches(dir: &Path) -> Vec<String> {
    let mut open = std::collections::BTreeSet::new();
    for record in records(dir) {
        let id = record.event.id.unwrap_or_default();
        match record.event.action {
            Action::PayloadLaunch => {
                open.insert(id);
            }
            action if action.closes() => {
                open.remove(&id);
            }
            _ => {}
        }
    }
    open.into_iter().collect()
}

/// A copy of a log and its key.
pub fn copy(from: &Path, to: &Path) {
    for part in ["log", "state"] {
        let target: PathBuf = to.join(part);
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir(&target).unwrap();
        for entry in std::fs::read_dir(from.join(part)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    std::fs::set_permissions(to.join("log"), std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
}

/// Many launches at once.
pub fn launches(from: usize, to: usize) -> Vec<Staged> {
    (from..to).map(|number| begins(id(number))).collect()
}
