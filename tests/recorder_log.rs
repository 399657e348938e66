//! The recorder's log with real files: chains, segments, clocks, torn ends, keys, retention.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bailey::admin::verify::{Break, verify};
use bailey::audit::record::{Action, LiveEntry, Record, StopBy, StopOrder};
use bailey::audit::sign::{PublicKey, checkpoint_text, prune_text};
use bailey::recorder::log::{Live, Options, RecorderLog, Staged};
use common::recorder::{
    actions, assert_good, assert_there, begins, clock, copy, count, denies, ends, launches, open,
    open_launches, options, put, set_clock,
};
use common::{Scratch, id, lines, records, segments};

const DAY: i64 = 86_400;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    segments(dir).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn batches_chain_and_verify() {
    let base = Scratch::new();
    let dir = base.path().join("log");
    let mut log = open(base.path());
    let mut written = Vec::new();
    for round in 0..10 {
        written.extend(put(&mut log, &launches(round * 64, (round + 1) * 64)));
    }
    assert_eq!(log.live().len(), 640);
    let batch: Vec<Staged> = (0..640).map(|number| ends(id(number))).collect();
    written.extend(put(&mut log, &batch));
    assert!(log.live().is_empty());
    assert!(log.commit(&[]).is_empty());
    put(&mut log, &[denies(id(1000))]); // so that there is something to sign at the end
    let stats = log.stats();
    assert!(stats.broken.is_none() && stats.overdue.is_empty(), "{stats:?}");
    // One for each batch of launches; one for each checkpoint of 1000 lines, which comes with a batch.
    assert!((11..=14).contains(&stats.syncs.count), "{stats:?}");
    assert_eq!((stats.segments, stats.reserve), (1, 640 * 16 * 1024));
    let key = log.public_key();
    log.close().unwrap();

    assert_good(&dir);
    assert_there(&dir, &written);
    assert_eq!(count(&dir, Action::PayloadLaunch), 640);
    let bytes: u64 = segments(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(stats.written + lines(&dir).last().unwrap().len() as u64 + 1, bytes);
    // Every checkpoint is of the line before it, and signed by the key beside the log.
    let public = PublicKey::read(&base.path().join("state/key.pub")).unwrap();
    assert_eq!(public, key);
    let all = lines(&dir);
    let mut checkpoints = 0;
    for (index, record) in
        records(&dir).iter().enumerate().filter(|(_, r)| r.event.action == Action::Checkpoint)
    {
        let found = &record.grid.checkpoint;
        let before = bailey::audit::chain::hex(&bailey::audit::chain::hash(all[index - 1].as_bytes()));
        assert_eq!((found.seq, found.hash.as_ref()), (Some(index as u64), Some(&before)));
        let text = checkpoint_text(record.host.id.as_deref().unwrap(), index as u64, &before);
        assert!(public.verifies(&text, found.signature.as_deref().unwrap()));
        assert_eq!(found.key.as_deref(), Some(public.id().as_str()));
        checkpoints += 1;
    }
    assert_eq!(
        (checkpoints, *actions(&dir).last().unwrap()),
        (2, Action::Checkpoint),
        "1000 lines, and the end"
    );
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let base = Scratch::in_memory();
    let old = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let log = open(base.path());
    nix::sys::stat::umask(old);
    log.close().unwrap();
    let dir = base.path().join("log");
    assert_eq!(mode(&dir), 0o750);
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o640, "{}", path.display());
    }
    assert_eq!(mode(&base.path().join("state/key")), 0o600);
    assert_eq!(mode(&base.path().join("state/key.pub")), 0o644);
}

#[test]
fn a_record_that_fits_no_line_fails_alone() {
    let base = Scratch::in_memory();
    let mut log = open(base.path());
    let mut long = begins(id(1));
    long.record.process.args = vec!["x".repeat(300 * 1024)];
    let results = log.commit(&[begins(id(0)), long, begins(id(2))]);
    assert!(results[0].is_ok() && results[2].is_ok());
    let failure = results[1].as_ref().unwrap_err();
    assert!(failure.is_too_large() && failure.why.contains("bytes"), "{failure}");
    assert_eq!(log.live().len(), 2);
    assert_good(&base.path().join("log"));
}

#[test]
fn a_log_has_one_recorder() {
    let base = Scratch::in_memory();
    let log = open(base.path());
    let failure = RecorderLog::open(options(base.path())).unwrap_err();
    let me = format!("process {}", std::process::id());
    assert!(failure.why.contains(&me) && failure.why.contains("one recorder"), "{failure}");
    let before = lines(&base.path().join("log"));
    drop(log);
    drop(open(base.path()));
    assert_eq!(lines(&base.path().join("log")), before, "a second start adds nothing of itself");
}

#[test]
fn segments_begin_by_size_with_their_list_and_end_with_a_checkpoint() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let small = Options { segment_size: 20_000, ..options(base.path()) };
    let mut log = RecorderLog::open(small.clone()).unwrap();
    let mut live = Vec::new();
    for round in 0..100 {
        put(&mut log, &[begins(id(2 * round)), begins(id(2 * round + 1))]);
        put(&mut log, &[ends(id(2 * round))]);
        if round % 20 == 0 {
            live.push(id(2 * round + 1).to_string());
        } else {
            put(&mut log, &[ends(id(2 * round + 1))]);
        }
    }
    let table = log.live().clone();
    drop(log);
    assert!(segments(&dir).len() > 3);
    for (index, path) in segments(&dir).iter().enumerate() {
        let text = fs::read_to_string(path).unwrap();
        let found: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(found[0].event.action, Action::SegmentOpen);
        assert_eq!(found[0].grid.log.segment.as_deref(), path.file_name().unwrap().to_str());
        assert_eq!(found[0].grid.log.previous.is_some(), index > 0);
        assert_eq!(found[1].event.action, Action::LiveList);
        assert_eq!(found[1].grid.live_part.launches, Some(found[1].grid.live.len() as u64));
        let last = index + 1 == segments(&dir).len();
        assert!(last || found.last().unwrap().event.action == Action::Checkpoint, "{}", path.display());
    }
    assert_good(&dir);
    assert_eq!(open_launches(&dir), live);
    assert_eq!(RecorderLog::open(small).unwrap().live(), &table);
}

#[test]
fn lists_come_again_but_never_take_more_than_their_part() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { live_list_every: 10_000, ..options(base.path()) };
    let mut log = RecorderLog::open(options.clone()).unwrap();
    // Enough for a list of several parts.
    put(&mut log, &launches(0, 200));
    for round in 100..200 {
        let from = round * 20;
        let mut batch = launches(from, from + 20);
        batch.extend((from..from + 20).map(|number| ends(id(number))));
        put(&mut log, &batch);
    }
    let table = log.live().clone();
    drop(log);
    let (mut all, mut in_lists, mut parts) = (0, 0, 0);
    for (line, record) in lines(&dir).iter().zip(records(&dir)) {
        all += line.len();
        assert!(line.len() < 64 * 1024);
        if record.event.action == Action::LiveList {
            in_lists += line.len();
            parts = parts.max(record.grid.live_part.of.unwrap());
        }
    }
    assert!(parts > 1 && in_lists * 8 < all, "{parts} parts, {in_lists} of {all} bytes");
    assert!(count(&dir, Action::LiveList) > 4);
    assert_good(&dir);
    assert_eq!(RecorderLog::open(options).unwrap().live(), &table);
}

#[test]
fn an_order_stands_until_the_end_in_lists_and_after_them() {
    let base = Scratch::in_memory();
    let options = Options { live_list_every: 1, ..options(base.path()) };
    let mut log = RecorderLog::open(options.clone()).unwrap();
    let order = |number: usize, reason: &str| {
        let mut record = Box::new(Record::new(Action::PayloadStop, id(number)));
        record.grid.stop.by = Some(StopBy::Ban);
        record.grid.stop.reason = Some(reason.to_owned());
        Staged { record, live: Live::Stops(id(number).to_string()), durable: true, reserved: true }
    };
    // A stop that nobody ordered: the launcher's own.
    let own = Box::new(Record::new(Action::PayloadStop, id(2)));
    let own = Staged { record: own, live: Live::Same, durable: true, reserved: true };
    put(&mut log, &[begins(id(1)), begins(id(2)), begins(id(3)), order(3, "x")]);
    put(&mut log, &[order(1, "first"), own, ends(id(3))]);
    let stands = |log: &RecorderLog, reason: &str| {
        assert_eq!(log.live().keys().collect::<Vec<_>>(), [id(1).as_str(), id(2).as_str()]);
        let stop = &log.live()[id(1).as_str()].stop;
        assert_eq!((stop.by, stop.reason.as_deref()), (Some(StopBy::Ban), Some(reason)));
        assert_eq!(log.live()[id(2).as_str()].stop, StopOrder::default());
    };
    stands(&log, "first");
    drop(log);
    // From the line itself; then, after so much that a list was written, from the list.
    let mut log = RecorderLog::open(options.clone()).unwrap();
    stands(&log, "first");
    let lists = count(&options.dir, Action::LiveList);
    for number in 10..60 {
        put(&mut log, &[begins(id(number)), ends(id(number))]);
    }
    assert!(count(&options.dir, Action::LiveList) > lists);
    drop(log);
    let mut log = RecorderLog::open(options.clone()).unwrap();
    stands(&log, "first");
    put(&mut log, &[order(1, "second")]);
    drop(log);
    stands(&RecorderLog::open(options).unwrap(), "second");
}

#[test]
fn days_make_segments_and_no_clock_breaks_the_order() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { clock, ..options(base.path()) };
    set_clock(1000 * DAY);
    let mut log = RecorderLog::open(options.clone()).unwrap();
    let at = |log: &mut RecorderLog, secs: i64, number: usize| {
        set_clock(secs);
        put(log, &[begins(id(number))]);
        names(&dir).pop().unwrap()
    };
    assert_eq!(at(&mut log, 1000 * DAY, 1), "1972-09-27.001.ndjson");
    assert_eq!(at(&mut log, 1001 * DAY, 2), "1972-09-28.001.ndjson");
    assert_eq!(at(&mut log, 1000 * DAY - 5, 3), "1972-09-28.001.ndjson", "back");
    assert_eq!(at(&mut log, -5, 4), "1972-09-28.001.ndjson", "before 1970");
    assert_eq!(at(&mut log, 9000 * DAY, 5), "1994-08-23.001.ndjson", "forth");
    assert_eq!(at(&mut log, 1002 * DAY, 6), "1994-08-23.001.ndjson", "and back");
    drop(log);
    let mut log = RecorderLog::open(options).unwrap();
    assert_eq!(log.live().len(), 6);
    assert_eq!(at(&mut log, 1003 * DAY, 7), "1994-08-23.001.ndjson");
    set_clock(9001 * DAY);
    log.tick().unwrap();
    assert_eq!(names(&dir).pop().unwrap(), "1994-08-24.001.ndjson", "a day begins without any record too");
    drop(log);
    assert_good(&dir);
}

#[test]
fn the_last_number_of_a_day_grows() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { clock, segment_size: 1000, ..options(base.path()) };
    set_clock(1000 * DAY);
    drop(RecorderLog::open(options.clone()).unwrap());
    fs::rename(dir.join("1972-09-27.001.ndjson"), dir.join("1972-09-27.998.ndjson")).unwrap();
    let mut log = RecorderLog::open(options).unwrap();
    for number in 0..100 {
        put(&mut log, &[begins(id(number)), ends(id(number))]);
    }
    assert_eq!(names(&dir), ["1972-09-27.998.ndjson", "1972-09-27.999.ndjson"]);
    set_clock(1001 * DAY);
    put(&mut log, &[begins(id(100))]);
    assert_eq!(names(&dir).pop().unwrap(), "1972-09-28.001.ndjson");
    assert_good(&dir);
}

/// A fixed sequence that looks random (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn what_is_live_is_known_after_any_history() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options {
        segment_size: 60_000,
        live_list_every: 7_000,
        checkpoint_records: 40,
        ..options(base.path())
    };
    let mut log = RecorderLog::open(options.clone()).unwrap();
    let mut model: BTreeMap<String, usize> = BTreeMap::new();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut next, mut written) = (0, Vec::new());
    for _ in 0..300 {
        let mut batch = Vec::new();
        for _ in 0..dice.roll(6) {
            if dice.roll(60) < 60 - model.len() || model.is_empty() {
                model.insert(id(next).to_string(), next);
                batch.push(begins(id(next)));
                next += 1;
            } else {
                let (name, number) = model.iter().nth(dice.roll(model.len())).unwrap();
                let (name, number) = (name.clone(), *number);
                batch.push(ends(id(number)));
                model.remove(&name);
            }
        }
        written.extend(put(&mut log, &batch));
        if dice.roll(12) == 0 {
            let table = log.live().clone();
            if dice.roll(2) == 0 {
                log.close().unwrap();
            } else {
                drop(log); // as after SIGKILL
            }
            log = RecorderLog::open(options.clone()).unwrap();
            assert_eq!(log.live(), &table);
        }
        assert!(log.live().keys().eq(model.keys()));
    }
    assert!(segments(&dir).len() > 5 && model.len() > 10);
    drop(log);
    assert_good(&dir);
    assert_there(&dir, &written);
    assert!(open_launches(&dir).iter().eq(model.keys()));
    // Every entry leads to its line.
    let log = RecorderLog::open(options).unwrap();
    for entry in log.live().values() {
        let record = log.launch_record(entry).expect("its launch record");
        assert_eq!(record.event.id, entry.id);
        assert_eq!((record.timestamp, record.chain.map(|chain| chain.seq)), (entry.since, entry.seq));
    }
}

#[test]
fn an_end_cut_at_every_byte_is_repaired() {
    let (base, other) = (Scratch::in_memory(), Scratch::in_memory());
    let mut log = open(base.path());
    let mut written = put(&mut log, &[begins(id(1)), begins(id(2)), begins(id(3))]);
    let table = log.live().clone();
    put(&mut log, &[ends(id(1))]); // not durable: a power cut may take it
    drop(log);
    let dir = other.path().join("log");
    let segment = segments(&base.path().join("log")).pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    let begin = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in begin..whole.len() {
        copy(base.path(), other.path());
        let target = dir.join(segment.file_name().unwrap());
        fs::write(&target, &whole[..cut]).unwrap();
        if cut > begin {
            assert_eq!(verify(&dir).unwrap().first_break.unwrap().kind, Break::TornTail, "cut at {cut}");
        }
        let mut log = open(other.path());
        assert_eq!(log.live(), &table, "cut at {cut}");
        written.truncate(3);
        written.extend(put(&mut log, &[ends(id(2)), begins(id(4))]));
        drop(log);
        let report = verify(&dir).unwrap();
        assert!(report.is_good(), "cut at {cut}: {report:?}");
        assert_eq!(report.repairs.len(), usize::from(cut > begin));
        assert_there(&dir, &written);
        if cut > begin {
            let repair = records(&dir).into_iter().find(|r| r.event.action == Action::LogRepair).unwrap();
            let torn = repair.grid.log.torn;
            assert_eq!((torn.offset, torn.length), (Some(begin as u64), Some((cut - begin) as u64)));
        }
    }
}

/// The live table as the lines of a segment say it, from its first line on.
fn live_after(bytes: &[u8]) -> Vec<String> {
    let mut live = BTreeSet::new();
    for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
        let record: Record = serde_json::from_slice(line).unwrap();
        let name = record.event.id.unwrap_or_default();
        match record.event.action {
            Action::PayloadLaunch => {
                live.insert(name);
            }
            action if action.closes() => {
                live.remove(&name);
            }
            _ => {}
        }
    }
    live.into_iter().collect()
}

#[test]
fn an_end_cut_anywhere_leaves_what_was_live_there() {
    let (base, other) = (Scratch::in_memory(), Scratch::in_memory());
    let every = Options { live_list_every: 4_000, checkpoint_records: 100, ..options(base.path()) };
    let mut log = RecorderLog::open(every).unwrap();
    for number in 0..40 {
        put(&mut log, &[begins(id(2 * number)), begins(id(2 * number + 1)), ends(id(2 * number))]);
    }
    // A list of many parts at the end, so that cuts fall into its middle.
    for round in 1..5 {
        put(&mut log, &launches(round * 100, round * 100 + 60));
    }
    for number in 0..250 {
        let mut long = denies(id(number));
        long.record.process.args = vec!["x".repeat(4000)]; // more log for a longer list
        long.durable = false;
        put(&mut log, &[long]);
    }
    put(&mut log, &[begins(id(900))]);
    put(&mut log, &[begins(id(901))]);
    drop(log);
    let segment = segments(&base.path().join("log")).pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    let lists: Vec<usize> = lines(&base.path().join("log")).iter().map(String::len).collect();
    assert!(lists.iter().any(|length| *length > 50_000), "no list of many parts");
    let target = other.path().join("log").join(segment.file_name().unwrap());
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    let step = (whole.len() - first) / 40;
    for cut in (first..whole.len()).step_by(step).chain(whole.len() - 705..whole.len() - 695) {
        copy(base.path(), other.path());
        fs::write(&target, &whole[..cut]).unwrap();
        let log = open(other.path());
        assert!(log.live().keys().eq(live_after(&whole[..cut]).iter()), "cut at {cut}");
        drop(log);
        assert_good(&other.path().join("log"));
    }
}

#[test]
fn holes_that_a_crash_left_are_repaired_and_others_are_not() {
    let (base, other) = (Scratch::in_memory(), Scratch::in_memory());
    let mut log = open(base.path());
    let mut written = put(&mut log, &launches(0, 20));
    let acknowledged =
        fs::metadata(segments(&base.path().join("log")).pop().unwrap()).unwrap().len() as usize;
    // The last batch, of which nobody was told when the power went.
    put(&mut log, &launches(20, 40));
    drop(log);
    let segment = segments(&base.path().join("log")).pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    let dir = other.path().join("log");
    let target = dir.join(segment.file_name().unwrap());
    let with_hole = |at: usize| {
        copy(base.path(), other.path());
        let mut bytes = whole.clone();
        bytes[at..at + 2000].fill(0);
        fs::write(&target, bytes).unwrap();
    };
    for at in [acknowledged, acknowledged + 3000, whole.len() - 2000] {
        with_hole(at);
        let mut log = open(other.path());
        assert!((20..40).contains(&log.live().len()), "{}", log.live().len());
        written.truncate(20);
        written.extend(put(&mut log, &launches(50, 52)));
        drop(log);
        assert_good(&dir);
        assert_there(&dir, &written);
        assert_eq!(count(&dir, Action::LogRepair), 1);
    }
    with_hole(acknowledged - 3000);
    let before = fs::read(&target).unwrap();
    let failure = RecorderLog::open(options(other.path())).unwrap_err();
    assert!(failure.why.contains("no crash explains") && failure.next.contains("evidence"), "{failure}");
    assert_eq!(fs::read(&target).unwrap(), before, "nothing is cut off");
}

#[test]
fn an_empty_or_broken_newest_segment_is_replaced() {
    for rest in [&b""[..], b"{\"@times", &[0; 5000]] {
        let base = Scratch::in_memory();
        let dir = base.path().join("log");
        let mut log = open(base.path());
        let mut written = put(&mut log, &launches(0, 3));
        let table = log.live().clone();
        drop(log);
        fs::write(dir.join("2999-01-01.001.ndjson"), rest).unwrap();
        fs::set_permissions(dir.join("2999-01-01.001.ndjson"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.join("next"), "left by a crash").unwrap();
        fs::set_permissions(dir.join("next"), fs::Permissions::from_mode(0o640)).unwrap();
        let mut log = open(base.path());
        assert_eq!(log.live(), &table);
        written.extend(put(&mut log, &[ends(id(1))]));
        drop(log);
        let report = verify(&dir).unwrap();
        assert!(report.is_good() && !dir.join("next").exists(), "{report:?}");
        assert_eq!(report.repairs.len(), usize::from(!rest.is_empty()));
        assert_there(&dir, &written);
        assert_eq!(names(&dir).pop().unwrap(), "2999-01-01.002.ndjson");
    }
}

#[test]
fn a_log_without_lists_is_read_from_its_beginning() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    // As the embedded log writes it: no lists.
    let mut embedded = bailey::audit::EmbeddedLog::open(&dir, common::options()).unwrap();
    let mut slots = Vec::new();
    for number in 0..5 {
        let (_receipt, slot) = embedded
            .append_launch(&common::launch_record(id(number)), id(number), common::some_fd())
            .unwrap();
        slots.push(slot);
    }
    let end = Record::new(Action::PayloadEnd, id(3));
    embedded.append_end(&end, slots.remove(3), bailey::audit::Durability::Synced).unwrap();
    drop((embedded, slots));
    let mut log = open(base.path());
    let expected: Vec<String> = [0, 1, 2, 4].map(|number| id(number).to_string()).to_vec();
    assert!(log.live().keys().eq(expected.iter()));
    put(&mut log, &[denies(id(9))]);
    drop(log);
    assert_good(&dir);
    assert_eq!(count(&dir, Action::LiveList), 1, "from now on there are lists");
    assert!(open(base.path()).live().keys().eq(expected.iter()));
}

#[test]
fn checkpoints_come_by_time_and_their_copies_are_durable() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { checkpoint_every: Duration::from_millis(150), ..options(base.path()) };
    let mut log = RecorderLog::open(options).unwrap();
    put(&mut log, &launches(0, 3));
    assert_eq!(log.take_own_lines().len(), 2, "segment-open and live-list");
    let due = log.next_deadline().unwrap();
    assert!(due <= Instant::now() + Duration::from_millis(150));
    log.tick().unwrap(); // prunes for the first time; too early for a checkpoint
    let before = count(&dir, Action::Checkpoint);
    std::thread::sleep(due.saturating_duration_since(Instant::now()) + Duration::from_millis(160));
    log.tick().unwrap();
    assert_eq!(count(&dir, Action::Checkpoint), before + 1);
    let own = log.take_own_lines();
    assert_eq!(own.last().map(Vec::as_slice), lines(&dir).last().map(String::as_bytes));
    std::thread::sleep(Duration::from_millis(200));
    log.tick().unwrap();
    assert_eq!(count(&dir, Action::Checkpoint), before + 1, "nothing came after the last one");
    assert!(log.next_deadline().unwrap() > Instant::now() + Duration::from_secs(1));
    let before = lines(&dir).len();
    log.close().unwrap();
    assert_eq!(lines(&dir).len(), before, "nor is there one to write at the end");
}

#[test]
fn a_key_that_is_not_the_right_one_is_refused_and_nothing_is_written() {
    let base = Scratch::in_memory();
    let (dir, state) = (base.path().join("log"), base.path().join("state"));
    let mut log = open(base.path());
    put(&mut log, &launches(0, 3));
    log.close().unwrap();
    let before = lines(&dir);
    let key = fs::read(state.join("key")).unwrap();
    let refused = |words: &[&str]| {
        let failure = RecorderLog::open(options(base.path())).unwrap_err();
        for word in words {
            assert!(failure.to_string().contains(word), "{word}: {failure}");
        }
        assert_eq!(lines(&dir), before);
        assert_eq!(failure.code.exit_code(), 122);
    };
    fs::remove_file(state.join("key")).unwrap();
    refused(&["state/key", "missing", "put back the key"]);
    assert!(!state.join("key").exists(), "no new one is made");
    fs::write(state.join("key"), "nonsense").unwrap();
    fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(&["put back the key"]);
    fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&["alone may read"]);
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o000)).unwrap();
        refused(&["EACCES"]);
        fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let elsewhere = Scratch::in_memory();
    drop(open(elsewhere.path()));
    fs::write(state.join("key"), fs::read(elsewhere.path().join("state/key")).unwrap()).unwrap();
    fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(&["signed by key", "put back the key"]);
    fs::write(state.join("key"), key).unwrap();
    fs::remove_file(state.join("key.pub")).unwrap();
    let log = open(base.path());
    assert_eq!(
        PublicKey::read(&state.join("key.pub")).unwrap(),
        log.public_key(),
        "the public half is made again"
    );
}

/// A log with one segment for each of some days, and the launch of each day ended the next.
fn days_of_log(options: &Options, first: i64, count: i64) -> RecorderLog {
    set_clock(first * DAY);
    let mut log = RecorderLog::open(options.clone()).unwrap();
    for day in first..first + count {
        set_clock(day * DAY + 60);
        let number = day as usize;
        put(&mut log, &[begins(id(number)), denies(id(number))]);
        if day > first {
            put(&mut log, &[ends(id(number - 1))]);
        }
    }
    log
}

#[test]
fn old_segments_go_with_a_signed_record() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { clock, retention_days: None, ..options(base.path()) };
    let log = days_of_log(&options, 1000, 8);
    drop(log);
    let kept_from = records(&dir)
        .iter()
        .position(|record| record.grid.log.segment.as_deref() == Some("1972-10-01.001.ndjson"))
        .unwrap();
    let expected = &lines(&dir)[kept_from..];
    fs::write(dir.join("1972-09-28.001.idx"), "an index").unwrap();
    // What a crash left while a broken segment was replaced.
    fs::write(dir.join("1972-09-27.002.ndjson"), "").unwrap();
    fs::set_permissions(dir.join("1972-09-27.002.ndjson"), fs::Permissions::from_mode(0o640)).unwrap();
    // Three days back from 1972-10-04 is 1972-10-01.
    let mut log = RecorderLog::open(Options { retention_days: Some(3), ..options }).unwrap();
    log.tick().unwrap();
    assert_eq!(
        names(&dir),
        ["1972-10-01.001.ndjson", "1972-10-02.001.ndjson", "1972-10-03.001.ndjson", "1972-10-04.001.ndjson"]
    );
    assert!(!dir.join("1972-09-28.001.idx").exists());
    assert_eq!((lines(&dir).len(), &lines(&dir)[..expected.len()]), (expected.len() + 1, expected));
    let record = records(&dir).pop().unwrap();
    assert_eq!(record.event.action, Action::LogPrune);
    let pruned = &record.grid.pruned;
    assert_eq!(pruned.segments.len(), 4);
    let chain = records(&dir)[0].chain.clone().unwrap();
    assert_eq!((pruned.first_seq, pruned.last_seq), (Some(1), Some(chain.seq - 1)));
    assert_eq!((pruned.last_hash.as_ref(), pruned.because.as_deref()), (Some(&chain.prev), Some("age")));
    let text = prune_text(record.host.id.as_deref().unwrap(), 1, chain.seq - 1, &chain.prev);
    assert!(log.public_key().verifies(&text, pruned.signature.as_deref().unwrap()));
    assert_eq!(log.stats().segments, 4);
    let last = log.take_own_lines().pop();
    assert_eq!(last.as_deref(), lines(&dir).last().map(String::as_bytes), "the journal gets a copy");
}

#[test]
fn a_segment_with_a_live_launch_stays_and_all_after_it() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { clock, ..options(base.path()) };
    let mut log = days_of_log(&options, 1000, 3);
    set_clock(1003 * DAY);
    put(&mut log, &[begins(id(7))]); // lives for long
    for day in 1004..1010 {
        set_clock(day * DAY);
        put(&mut log, &[denies(id(day as usize))]);
    }
    drop(log);
    let mut log =
        RecorderLog::open(Options { retention_days: Some(1), retention_size: Some(10), ..options }).unwrap();
    log.tick().unwrap();
    assert_eq!(names(&dir)[0], "1972-09-29.001.ndjson", "the launch of 1002 lives too");
    put(&mut log, &[ends(id(1002))]);
    set_clock(1010 * DAY + 1);
    log.tick().unwrap(); // a new day prunes
    assert_eq!(names(&dir)[0], "1972-09-30.001.ndjson");
    put(&mut log, &[ends(id(7))]);
    set_clock(1011 * DAY + 1);
    log.tick().unwrap();
    assert_eq!(names(&dir), ["1972-10-08.001.ndjson"], "the newest stays, however small the limit");
    drop(log);
    let log = open(base.path());
    assert!(log.live().is_empty());
}

#[test]
fn the_oldest_go_when_all_are_too_large() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { segment_size: 20_000, ..options(base.path()) };
    let mut log = RecorderLog::open(options.clone()).unwrap();
    for number in 0..200 {
        put(&mut log, &[begins(id(number)), ends(id(number))]);
    }
    drop(log);
    let before = names(&dir);
    let mut log = RecorderLog::open(Options { retention_size: Some(100_000), ..options }).unwrap();
    log.tick().unwrap();
    let left: u64 = segments(&dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((70_000..102_000).contains(&left), "{left}");
    assert!(before.ends_with(&names(&dir)) && names(&dir).len() < before.len());
    assert_eq!(records(&dir).last().unwrap().grid.pruned.because.as_deref(), Some("size"));
}

#[test]
fn a_clock_that_jumps_removes_nothing() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let options = Options { clock, retention_days: Some(3), ..options(base.path()) };
    let mut log = days_of_log(&options, 1000, 4);
    let before = names(&dir);
    for year in [10, 400, 7000] {
        set_clock((1000 + 365 * year) * DAY);
        put(&mut log, &[denies(id(1))]);
        log.tick().unwrap();
        set_clock(1003 * DAY + 3600);
        put(&mut log, &[denies(id(2))]);
        log.tick().unwrap();
        assert!(names(&dir).starts_with(&before), "{:?}", names(&dir));
        assert_eq!(count(&dir, Action::LogPrune), 0);
    }
    assert_good(&dir);
}

#[test]
fn pruning_that_a_crash_interrupted_is_finished() {
    let (base, other) = (Scratch::in_memory(), Scratch::in_memory());
    let options = Options { clock, ..options(base.path()) };
    drop(days_of_log(&options, 1000, 6));
    copy(base.path(), other.path());
    let mut log = RecorderLog::open(Options { retention_days: Some(2), ..options }).unwrap();
    log.tick().unwrap();
    drop(log);
    let (dir, copied) = (base.path().join("log"), other.path().join("log"));
    let after = names(&dir);
    assert!(after.len() < names(&copied).len());
    for name in &after {
        fs::copy(dir.join(name), copied.join(name)).unwrap();
    }
    // The record is there, the files are still there too, but for the first.
    for gone in [None, Some("1972-09-27.001.ndjson")] {
        if let Some(name) = gone {
            fs::copy(base.path().join("state/key"), other.path().join("state/key")).unwrap();
            fs::write(copied.join("1972-09-28.001.ndjson"), "{}\n").unwrap();
            fs::set_permissions(copied.join("1972-09-28.001.ndjson"), fs::Permissions::from_mode(0o640))
                .unwrap();
            let _ = fs::remove_file(copied.join(name));
        }
        drop(open(other.path()));
        assert_eq!(names(&copied), after);
    }
}

#[test]
fn what_others_could_have_put_there_is_refused() {
    for name in ["lock", "reserve"] {
        let base = Scratch::in_memory();
        let dir = base.path().join("log");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        let elsewhere = base.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.join(name)).unwrap();
        let failure = RecorderLog::open(options(base.path())).unwrap_err();
        assert_eq!(failure.code.exit_code(), 122, "{failure}");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
    let failure = RecorderLog::open(options(base.path())).unwrap_err();
    assert!(failure.next.contains("chmod go-w") && failure.next.contains("recorder.dir"), "{failure}");
}

/// What one record costs besides fdatasync:
/// `BAILEY_TEST_BENCH=1 cargo test --release --test recorder_log cost -- --nocapture`.
#[test]
fn cost_of_a_batch() {
    if std::env::var_os("BAILEY_TEST_BENCH").is_none() {
        return;
    }
    let base = Scratch::new();
    let mut log = open(base.path());
    let full = |number: usize| {
        let mut staged = begins(id(number));
        staged.record.process.args = (0..70).map(|i| format!("--option-{i}=some-longer-value")).collect();
        staged
    };
    let (mut spent, mut count, mut bytes) = (Duration::ZERO, 0, 0);
    for round in 0..400 {
        let mut batch: Vec<Staged> = (0..32).map(|n| full(round * 32 + n)).collect();
        batch.extend((0..32).map(|n| ends(id(round * 32 + n))));
        for staged in &mut batch[32..] {
            staged.record.process.args = (0..70).map(|i| format!("--option-{i}=some-longer-value")).collect();
        }
        let before = log.stats().syncs.sum;
        let begin = Instant::now();
        let written = put(&mut log, &batch);
        spent += begin.elapsed().saturating_sub(log.stats().syncs.sum.saturating_sub(before));
        count += written.len() as u32;
        bytes += written.iter().map(|line| line.bytes).sum::<u64>();
    }
    let syncs = log.stats().syncs;
    println!(
        "{count} lines of {} bytes: {} ns each besides fdatasync, {:.0} lines/s on one core; fdatasync {:?} on average",
        bytes / u64::from(count),
        spent.as_nanos() / u128::from(count),
        f64::from(count) / spent.as_secs_f64(),
        syncs.sum / syncs.count as u32
    );
}

/// `Live` and `LiveEntry` are what a caller builds: an entry without an id would be lost.
#[test]
fn an_entry_says_what_its_record_says() {
    let record = common::launch_record(id(5));
    let entry: LiveEntry = bailey::recorder::log::live_entry(&record);
    assert_eq!((entry.id.as_deref(), entry.pid), (Some(id(5).as_str()), Some(4242)));
    assert_eq!((entry.vo, entry.nested, entry.segment), (record.grid.vo, None, None));
    let Live::Begins(same) = begins(id(5)).live else { panic!("a launch begins") };
    assert_eq!(same.id, entry.id);
}
