//! Every way to change a log is found, at the right line and under the right name.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};

use bailey::admin::verify::{Break, verify};
use bailey::audit::record::Action;
use bailey::audit::{Durability, EmbeddedLog, LogOptions, Record, Timestamp};
use common::{Scratch, id, launch_record, lines, options, segments, some_fd};

/// 2024-03-01 00:00:00 UTC.
const START: i64 = 1_709_251_200;
thread_local! {
    static CLOCK: AtomicI64 = const { AtomicI64::new(START) };
}

fn clock() -> Timestamp {
    CLOCK.with(|clock| Timestamp::new(clock.load(Ordering::Relaxed), 0))
}

fn set_clock(secs: i64) {
    CLOCK.with(|clock| clock.store(secs, Ordering::Relaxed));
}

/// Three days with four lines each: the segment's first, and three more.
fn three_days() -> Scratch {
    let dir = Scratch::new();
    set_clock(START);
    let options = LogOptions { clock, ..options() };
    let mut log = EmbeddedLog::open(dir.path(), options).unwrap();
    for day in 0..3 {
        set_clock(START + day * 86_400 + 60);
        for number in 0..3 {
            let record = Record::new(Action::PayloadDeny, id(number));
            log.append(&record, Durability::Written).unwrap();
        }
    }
    let report = verify(dir.path()).unwrap();
    assert!(report.is_good() && report.lines == 12, "{report:?}");
    dir
}

/// Changes the lines of the second segment and says where verify finds the log broken.
fn broken_by(change: impl FnOnce(&mut Vec<String>)) -> (String, u64, Break) {
    let dir = three_days();
    let segment = segments(dir.path()).remove(1);
    let text = fs::read_to_string(&segment).unwrap();
    let mut all: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    change(&mut all);
    let changed = all.concat();
    assert_ne!(text, changed);
    fs::write(&segment, changed).unwrap();
    first_break(dir.path())
}

fn first_break(dir: &Path) -> (String, u64, Break) {
    let broken = verify(dir).unwrap().first_break.expect("the change is found");
    (broken.segment, broken.line, broken.kind)
}

fn second(line: u64, kind: Break) -> (String, u64, Break) {
    ("2024-03-02.001.ndjson".to_owned(), line, kind)
}

#[test]
fn a_changed_line_is_named() {
    let edit =
        |index: usize| move |all: &mut Vec<String>| all[index] = all[index].replace("denied", "allowed");
    assert_eq!(broken_by(edit(1)), second(2, Break::ChangedLine));
    assert_eq!(broken_by(edit(3)), second(4, Break::ChangedLine), "seen from the next segment");
}

#[test]
fn every_single_byte_counts() {
    let dir = three_days();
    let segment = segments(dir.path()).remove(1);
    let good = fs::read(&segment).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&segment, &bad).unwrap();
        let report = verify(dir.path()).unwrap();
        assert!(!report.is_good(), "byte {at}");
        // A line that lost its newline is joined with the next; a changed sequence number looks like the line's neighbour.
        let line = lines_before(&good[..at]) + 1;
        let broken = report.first_break.unwrap();
        assert_eq!(
            (broken.segment.as_str(), broken.line),
            ("2024-03-02.001.ndjson", line),
            "byte {at}: {broken:?}"
        );
    }
}

fn lines_before(bytes: &[u8]) -> u64 {
    bytes.iter().map(|b| u64::from(*b == b'\n')).sum()
}

#[test]
fn removed_repeated_and_exchanged_lines_are_named() {
    let removed = |all: &mut Vec<String>| drop(all.remove(2));
    assert_eq!(broken_by(removed), second(3, Break::RemovedLine));
    let repeated = |all: &mut Vec<String>| all.insert(2, all[1].clone());
    assert_eq!(broken_by(repeated), second(3, Break::RepeatedLine));
    let exchanged = |all: &mut Vec<String>| all.swap(1, 2);
    assert_eq!(broken_by(exchanged), second(2, Break::RemovedLine));
}

#[test]
fn what_is_no_line_is_named() {
    let garbage = |all: &mut Vec<String>| all[1] = "garbage\n".to_owned();
    assert_eq!(broken_by(garbage), second(2, Break::NotJson));
    let foreign = |all: &mut Vec<String>| all[1] = "{}\n".to_owned();
    assert_eq!(broken_by(foreign), second(2, Break::NotChained));
    let empty = |all: &mut Vec<String>| all.insert(1, "\n".to_owned());
    assert_eq!(broken_by(empty), second(2, Break::NotJson));
    let unfinished = |all: &mut Vec<String>| all[3].truncate(20);
    assert_eq!(broken_by(unfinished), second(4, Break::NotJson), "not the last segment");
    let long = |all: &mut Vec<String>| all[1] = format!("{}\n", "x".repeat(1 << 20));
    assert_eq!(broken_by(long), second(2, Break::NotJson));
}

#[test]
fn lines_cut_off_a_segment_are_missed_by_the_next() {
    let cut = |all: &mut Vec<String>| all.truncate(2);
    let third = "2024-03-03.001.ndjson".to_owned();
    assert_eq!(broken_by(cut), (third, 1, Break::MissingSegment));
}

#[test]
fn a_missing_segment_is_named() {
    for (missing, found) in [(0, "2024-03-02.001.ndjson"), (1, "2024-03-03.001.ndjson")] {
        let dir = three_days();
        fs::remove_file(segments(dir.path()).remove(missing)).unwrap();
        assert_eq!(first_break(dir.path()), (found.to_owned(), 1, Break::MissingSegment));
    }
}

#[test]
fn the_command_says_it_in_words_and_codes() {
    let dir = three_days();
    let verify = |args: &[&str]| {
        let mut all = vec!["verify"];
        all.extend(args);
        admin(&all, dir.path())
    };
    let (code, out) = verify(&[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("whole: 12 lines in 3 segments"), "{out}");
    fs::write(dir.segment(), "garbage\nx\n").unwrap();
    let (code, out) = verify(&[]);
    assert_eq!(code, 1);
    assert!(out.contains("2024-03-03.001.ndjson:1: the line is no JSON"), "{out}");
    let (code, out) = verify(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["first_break"]["kind"].as_str()), (1, Some("not-json")));
    assert_eq!(admin(&["verify"], Path::new("/nonexistent/log")).0, 2);
}

#[test]
fn the_command_traces_a_payload() {
    let dir = Scratch::new();
    let mut log = EmbeddedLog::open(dir.path(), options()).unwrap();
    let (_receipt, slot) = log.append_launch(&launch_record(id(1)), id(1), some_fd()).unwrap();
    let log_arg = dir.path().to_str().unwrap();
    let trace = |args: &[&str]| {
        let mut all = vec!["trace"];
        all.extend(args);
        all.push("--log");
        admin(&all, dir.path())
    };
    let (code, out) = trace(&["--at", "now", "--pid", "4242"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("One payload matches."), "{out}");
    assert!(out.contains("/DC=org/CN=someone") && out.contains("still open"), "{out}");
    assert!(out.contains("The chain verifies: 2 lines"), "{out}");
    let end = Record::new(Action::PayloadEnd, id(1));
    log.append_end(&end, slot, Durability::Written).unwrap();
    let (code, out) = trace(&["--at", "2 hours ago"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.starts_with("No payload ran"), "{out}");
    let (code, out) = trace(&["--at", "2024-02-29"]);
    assert_eq!(code, 2);
    assert!(out.contains("whole day"), "{out}");
    assert_eq!(trace(&[]).0, 2, "{log_arg}");
    assert_eq!(lines(dir.path()).len(), 3);
}

fn admin(args: &[&str], dir: &Path) -> (i32, String) {
    let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
    all.push(dir.into());
    let out = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_bailey-admin"))).args(all).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code().unwrap(), String::from_utf8(text).unwrap())
}
