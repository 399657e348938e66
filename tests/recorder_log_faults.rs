//! The recorder's log when the disk is against it: no room at any write, errors at any write or fdatasync, a directory that
//! goes away. Nothing that was acknowledged is lost, what ended gets in, and the chain on the disk verifies.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bailey::admin::verify::verify;
use bailey::audit::record::Action;
use bailey::recorder::log::{Options, RecorderLog, Staged};
use common::recorder::{
    assert_good, assert_there, begins, clock, count, denies, ends, launches, open, open_launches, options,
    put, set_clock,
};
use common::{Scratch, id, lines, records, segments};

/// This test program again, in another process: `test` is one of those below that do something only then.
fn helper(test: &str, base: &Path, before: &[&str]) -> Output {
    let mut words = before.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    words.push(std::env::current_exe().unwrap().display().to_string());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("BAILEY_TEST_HELPER", test)
        .env("BAILEY_TEST_DIR", base)
        .env("RUST_BACKTRACE", "0");
    command.output().unwrap()
}

/// Where a helper works; `None` in an ordinary run.
fn helps(test: &str) -> Option<PathBuf> {
    (std::env::var_os("BAILEY_TEST_HELPER")? == test).then_some(())?;
    Some(PathBuf::from(std::env::var_os("BAILEY_TEST_DIR").unwrap()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// ---- no room ----

#[test]
fn ends_get_in_where_launches_do_not() {
    let base = Scratch::in_memory();
    let script = "mount -t tmpfs -o size=1m,mode=700 none \"$BAILEY_TEST_DIR\" && exec \"$@\"";
    let output = helper("helper_full_disk", base.path(), &["unshare", "-Urm", "sh", "-c", script, "sh"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("no room at 24 places"), "{}", text(&output.stdout));
}

/// Leaves `free` bytes on the file system.
fn fill(base: &Path, free: u64) {
    let mut file = File::create(base.join("filler")).unwrap();
    let block = [7; 4096];
    while file.write_all(&block).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(free)).unwrap();
}

#[test]
fn helper_full_disk() {
    let Some(base) = helps("helper_full_disk") else { return };
    for pages in 0..24_u64 {
        let _ = fs::remove_dir_all(base.join("log"));
        let small = Options { reserve: 64 << 10, ..options(&base) };
        let mut log = RecorderLog::open(small.clone()).unwrap();
        assert_eq!(log.stats().reserve, 64 << 10);
        let mut written = put(&mut log, &launches(0, 12));
        fill(&base, pages * 4096);

        // Launches are refused, and say why; what is not worth the reserve finds what room there is.
        let mut batch = launches(100, 104);
        batch.extend((0..6).map(|number| ends(id(number))));
        batch.extend((200..220).map(|number| denies(id(number))));
        batch.extend((6..12).map(|number| ends(id(number))));
        let results = log.commit(&batch);
        for (staged, result) in batch.iter().zip(&results) {
            match result {
                Ok(line) => {
                    assert!(staged.record.event.action != Action::PayloadLaunch, "a launch without room");
                    written.push(line.clone());
                }
                Err(failure) => {
                    assert!(!staged.reserved, "{pages} pages free: {failure}");
                    assert!(failure.next.contains("free space"), "{failure}");
                }
            }
        }
        assert!(log.live().is_empty());
        assert_good(&base.join("log"));
        assert_there(&base.join("log"), &written);
        assert_eq!(count(&base.join("log"), Action::PayloadEnd), 12);
        // The end of it all gets in too, and the next start works.
        if pages % 2 == 0 {
            log.close().unwrap();
        } else {
            drop(log);
        }
        let mut log = RecorderLog::open(small.clone()).unwrap();
        assert!(log.live().is_empty());
        assert!(log.commit(&[begins(id(300))])[0].is_err());
        assert!(log.tick().is_ok());

        // When there is room again the reserve is whole and launches are taken.
        fs::remove_file(base.join("filler")).unwrap();
        written.extend(put(&mut log, &launches(400, 404)));
        assert!(log.stats().reserve >= 64 << 10);
        drop(log);
        assert_good(&base.join("log"));
        assert_there(&base.join("log"), &written);
        assert_eq!(open_launches(&base.join("log")).len(), 4);
        let _ = fs::remove_dir_all(base.join("state"));
    }
    println!("no room at 24 places");
}

#[test]
fn the_reserve_grows_with_what_is_live_or_nothing_more_is_taken() {
    let base = Scratch::in_memory();
    let script = "mount -t tmpfs -o size=2m,mode=700 none \"$BAILEY_TEST_DIR\" && exec \"$@\"";
    let output = helper("helper_reserve", base.path(), &["unshare", "-Urm", "sh", "-c", script, "sh"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn helper_reserve() {
    let Some(base) = helps("helper_reserve") else { return };
    let mut log = RecorderLog::open(Options { reserve: 64 << 10, ..options(&base) }).unwrap();
    let mut taken = 0;
    let failure = loop {
        match log.commit(&[begins(id(taken))]).remove(0) {
            Ok(_) => taken += 1,
            Err(failure) => break failure,
        }
        assert_eq!(log.stats().reserve, (64 << 10).max(taken as u64 * 16 * 1024));
        assert!(taken < 200, "no limit here");
    };
    assert!(failure.why.contains("reserve") || failure.why.contains("are free"), "{failure}");
    assert!((20..120).contains(&taken), "{taken}");
    // However full it gets, all of them end.
    fill(&base, 0);
    for number in 0..taken {
        put(&mut log, &[ends(id(number))]);
    }
    log.close().unwrap();
    assert_good(&base.join("log"));
}

#[test]
fn a_new_day_on_a_full_disk_goes_on_in_the_old_segment() {
    let base = Scratch::in_memory();
    let script = "mount -t tmpfs -o size=1m,mode=700 none \"$BAILEY_TEST_DIR\" && exec \"$@\"";
    let output = helper("helper_new_day", base.path(), &["unshare", "-Urm", "sh", "-c", script, "sh"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn helper_new_day() {
    let Some(base) = helps("helper_new_day") else { return };
    set_clock(86_400);
    let mut log = RecorderLog::open(Options { reserve: 64 << 10, clock, ..options(&base) }).unwrap();
    put(&mut log, &launches(0, 3));
    fill(&base, 0);
    set_clock(2 * 86_400);
    put(&mut log, &[ends(id(0))]);
    assert_eq!(segments(&base.join("log")).len(), 1);
    assert!(log.stats().overdue[0].why.contains("ENOSPC"), "{:?}", log.stats());
    fs::remove_file(base.join("filler")).unwrap();
    std::thread::sleep(Duration::from_millis(5100)); // it is not tried again at once
    put(&mut log, &[ends(id(1))]);
    assert_eq!(segments(&base.join("log")).len(), 2);
    assert!(log.stats().overdue.is_empty());
    drop(log);
    assert_good(&base.join("log"));
}

#[test]
fn a_limit_of_file_sizes_kills_nobody() {
    let base = Scratch::in_memory();
    let script = "ulimit -f 300; exec \"$@\""; // blocks of 512 or 1024 bytes
    let output = helper("helper_file_size", base.path(), &["sh", "-c", script, "sh"]);
    assert!(output.status.success(), "{:?} {}{}", output.status, text(&output.stdout), text(&output.stderr));
}

#[test]
fn helper_file_size() {
    let Some(base) = helps("helper_file_size") else { return };
    let mut log = RecorderLog::open(Options { reserve: 4 << 20, ..options(&base) }).unwrap();
    let mut written = Vec::new();
    for number in 0..300 {
        written.extend(put(&mut log, &[begins(id(number)), ends(id(number))]));
    }
    // A batch larger than any file may be: as much of it as fits alone gets in.
    let mut batch: Vec<Staged> = (300..500).map(|number| denies(id(number))).collect();
    for staged in &mut batch {
        staged.record.process.args = vec!["y".repeat(4000)];
    }
    let results = log.commit(&batch);
    assert!(
        results.iter().all(|result| result.as_ref().is_err_and(|failure| failure.next.contains("ulimit")))
    );
    drop(log);
    assert!(segments(&base.join("log")).len() > 1);
    assert_good(&base.join("log"));
    assert_there(&base.join("log"), &written);
}

// ---- errors of the disk, by strace's injection ----

/// What the helper is told of each record.
struct Told {
    /// Sequence number, hash, segment and offset of each launch that was acknowledged.
    launches: Vec<(u64, String)>,
    ends: Vec<String>,
    refused: Vec<String>,
    out: String,
    trace: String,
}

/// Runs the load below under strace.
fn under(base: &Path, inject: &[&str]) -> Told {
    let trace = base.join("trace");
    let trace_name = trace.display().to_string();
    let mut before = vec!["strace", "-f", "-y", "-s", "200", "-o", &trace_name];
    before.extend(["-e", "trace=write,fdatasync,fsync,ftruncate,rename,renameat,renameat2"]);
    before.extend(inject);
    let output = helper("helper_load", base, &before);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{inject:?}: {out}{}", text(&output.stderr));
    let mut told = Told {
        launches: Vec::new(),
        ends: Vec::new(),
        refused: Vec::new(),
        trace: fs::read_to_string(&trace).unwrap(),
        out: out.clone(),
    };
    for line in out.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["launch", seq, hash, ..] => told.launches.push((seq.parse().unwrap(), hash.to_owned())),
            ["end", id] => told.ends.push(id.to_owned()),
            ["refused", id] => told.refused.push(id.to_owned()),
            _ => {}
        }
    }
    told
}

const ROUNDS: usize = 12;

/// Three launches a round, the ends of the round before in the same batch or in one that is not durable.
#[test]
fn helper_load() {
    let Some(base) = helps("helper_load") else { return };
    let mut log =
        match RecorderLog::open(Options { checkpoint_records: 25, live_list_every: 9_000, ..options(&base) })
        {
            Ok(log) => log,
            Err(failure) => {
                println!("failure {failure}");
                return;
            }
        };
    println!("opened");
    let mut live = Vec::new();
    for round in 0..ROUNDS {
        let mut batch = launches(round * 3, round * 3 + 3);
        let mut ending: Vec<Staged> = live.drain(..).map(ends).collect();
        if round % 2 == 0 {
            batch.append(&mut ending);
        }
        for part in [ending, batch] {
            let mut again = part;
            while !again.is_empty() {
                let results = log.commit(&again);
                let mut next = Vec::new();
                for (staged, result) in again.into_iter().zip(results) {
                    let name = staged.record.event.id.clone().unwrap();
                    let launch = staged.record.event.action == Action::PayloadLaunch;
                    match result {
                        Ok(line) if launch => {
                            let entry = &log.live()[&name];
                            let (segment, offset) = (entry.segment.clone().unwrap(), entry.offset.unwrap());
                            println!("launch {} {} {segment} {offset}", line.seq, line.hash);
                            live.push(bailey::request::LaunchId::parse(&name).unwrap());
                        }
                        Ok(_) => println!("end {name}"),
                        Err(failure) => {
                            println!("failure {failure}");
                            println!("refused {name}");
                            if !launch {
                                next.push(staged); // an end is tried until it is in
                            }
                        }
                    }
                }
                again = next;
                if !again.is_empty() {
                    std::thread::sleep(Duration::from_millis(300));
                }
            }
        }
    }
    println!("left {}", log.live().len());
}

/// Whatever was acknowledged is in the log once, and the log goes on.
fn assert_survived(base: &Path, told: &Told, what: &str) {
    let dir = base.join("log");
    let report = verify(&dir).unwrap();
    assert!(report.is_good(), "{what}: {report:?}\n{}", told.out);
    let mut there = BTreeMap::new();
    for line in lines(&dir) {
        let (seq, _) = bailey::audit::chain::place_of(line.as_bytes()).unwrap();
        there.insert(seq, bailey::audit::chain::hex(&bailey::audit::chain::hash(line.as_bytes())));
    }
    for (seq, hash) in &told.launches {
        assert_eq!(there.get(seq), Some(hash), "{what}: launch {seq} is acknowledged and gone\n{}", told.out);
    }
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut launched = 0;
    for record in records(&dir) {
        match record.event.action {
            Action::PayloadEnd => *found.entry(record.event.id.unwrap()).or_default() += 1,
            Action::PayloadLaunch => launched += 1,
            _ => {}
        }
    }
    for name in &told.ends {
        assert_eq!(found.get(name), Some(&1), "{what}: the end of {name}\n{}", told.out);
    }
    assert_eq!(
        launched,
        told.launches.len(),
        "{what}: a launch that was refused is in the log\n{}",
        told.out
    );
    let live = open(base).live().len();
    assert_eq!(live, told.launches.len() - told.ends.len(), "{what}");
    assert!(told.trace.contains("(INJECTED)") || what == "nothing", "{what}: nothing was injected");
}

/// A disk that loses what a failed fdatasync was to write: for each line of the trace what is safe. No launch is acknowledged
/// whose line a power cut could take.
fn assert_durable(told: &Told, what: &str) {
    #[derive(Default, Clone)]
    struct Disk {
        len: u64,
        safe: u64,
        lost: Vec<std::ops::Range<u64>>,
    }
    let mut files: BTreeMap<String, Disk> = BTreeMap::new();
    let mut seen = 0;
    let path = |line: &str| {
        let (_, rest) = line.split_once('<')?;
        let (path, _) = rest.split_once('>')?;
        let name = path.rsplit('/').next()?;
        Some(name.to_owned())
    };
    for line in told.trace.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        let result: Option<u64> =
            call.rsplit_once(" = ").and_then(|(_, result)| result.split(' ').next()?.parse().ok());
        let name = path(call).unwrap_or_default();
        if call.starts_with("write(1<") {
            let Some((_, said)) = call.split_once("\"launch ") else { continue };
            let words: Vec<&str> = said.split(['"', '\\']).next().unwrap().split(' ').collect();
            let (segment, offset) = (words[2], words[3].parse::<u64>().unwrap());
            let disk = &files[segment];
            assert!(
                offset < disk.safe && !disk.lost.iter().any(|range| range.contains(&offset)),
                "{what}: launch {} at {segment}:{offset} was acknowledged before it was safe ({} bytes are)",
                words[0],
                disk.safe
            );
            seen += 1;
        } else if call.starts_with("write(") {
            files.entry(name).or_default().len += result.unwrap_or(0);
        } else if call.starts_with("ftruncate(") {
            let disk = files.entry(name).or_default();
            if result == Some(0) {
                let to: u64 =
                    call.rsplit_once(") = ").unwrap().0.rsplit_once(", ").unwrap().1.parse().unwrap();
                (disk.len, disk.safe) = (to, disk.safe.min(to));
                disk.lost.retain(|range| range.start < to);
            }
        } else if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            let disk = files.entry(name).or_default();
            if result != Some(0) {
                disk.lost.push(disk.safe..disk.len);
            }
            disk.safe = disk.len;
        } else if call.starts_with("rename") && result == Some(0) {
            let names: Vec<&str> = call.split('"').collect();
            let disk = files.remove(names[1]).unwrap_or_default();
            files.insert(names[3].to_owned(), disk);
        }
    }
    assert_eq!(seen, told.launches.len(), "{what}: not all of them are in the trace");
}

fn strace_works() -> bool {
    Command::new("strace")
        .args(["-e", "trace=none", "true"])
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn an_error_at_any_fdatasync_acknowledges_nothing_that_could_be_lost() {
    assert!(strace_works(), "strace is missing: run tests/setup.sh");
    // Without any error: how many there are.
    let base = Scratch::in_memory();
    let told = under(base.path(), &[]);
    assert_survived(base.path(), &told, "nothing");
    assert_durable(&told, "nothing");
    let syncs = told.trace.matches("fdatasync(").count();
    assert!(syncs >= ROUNDS && told.refused.is_empty(), "{}", told.out);
    assert_eq!(told.launches.len(), 3 * ROUNDS);
    for number in 1..=syncs {
        let base = Scratch::in_memory();
        let what = format!("EIO at fdatasync {number}");
        let inject = format!("inject=fdatasync:error=EIO:when={number}");
        let told = under(base.path(), &["-e", &inject]);
        assert_survived(base.path(), &told, &what);
        assert_durable(&told, &what);
        assert!(count(&base.path().join("log"), Action::LogRepair) == 1, "{what}");
        assert!(told.refused.len() <= 3, "{what}: only the launches of one batch\n{}", told.out);
    }
}

#[test]
fn errors_at_any_write_and_any_step_of_a_rescue_are_survived() {
    assert!(strace_works(), "strace is missing: run tests/setup.sh");
    let mut cases: Vec<Vec<String>> = Vec::new();
    for number in [4, 7, 10] {
        // The rescue's own steps fail too, once or until the end of the first second.
        for second in
            ["fsync:error=EIO:when=12", "ftruncate:error=EIO:when=1", "ftruncate:error=EROFS:when=1..2"]
        {
            cases.push(vec![format!("fdatasync:error=EIO:when={number}"), second.to_owned()]);
        }
        cases.push(vec![format!("fdatasync:error=EIO:when={number}+2")]);
        cases.push(vec![format!("fdatasync:error=ENOSPC:when={number}..{}", number + 1)]);
    }
    for case in cases {
        let base = Scratch::in_memory();
        let what = case.join(" and ");
        let inject: Vec<String> = case.iter().map(|rule| format!("inject={rule}")).collect();
        let inject: Vec<&str> = inject.iter().flat_map(|rule| ["-e", rule.as_str()]).collect();
        let told = under(base.path(), &inject);
        assert_survived(base.path(), &told, &what);
        assert_durable(&told, &what);
    }
}

#[test]
fn errors_of_write_are_told_and_leave_nothing_behind() {
    assert!(strace_works(), "strace is missing: run tests/setup.sh");
    let base = Scratch::in_memory();
    drop(open(base.path())); // the segment's name is known from now on
    let segment = segments(&base.path().join("log")).pop().unwrap().display().to_string();
    for (number, error) in [(1, "EIO"), (4, "EIO"), (7, "EROFS"), (9, "ENOSPC"), (12, "EDQUOT"), (15, "EIO")]
    {
        let other = Scratch::in_memory();
        common::recorder::copy(base.path(), other.path());
        let segment =
            segment.replace(&base.path().display().to_string(), &other.path().display().to_string());
        let what = format!("{error} at write {number}");
        let inject = format!("inject=write:error={error}:when={number}");
        let told = under(other.path(), &["-P", &segment, "-e", &inject]);
        assert_survived(other.path(), &told, &what);
        assert!(told.out.contains(error) || told.refused.is_empty(), "{what}: {}", told.out);
        assert!(told.refused.len() <= 6, "{what}: {}", told.out);
    }
}

// ---- the directory ----

#[test]
fn a_directory_that_went_away_is_told_and_cured() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let mut log = open(base.path());
    let mut written = put(&mut log, &launches(0, 3));
    fs::rename(&dir, base.path().join("elsewhere")).unwrap();
    for (other, word) in [(false, "ENOENT"), (true, "another directory")] {
        if other {
            fs::create_dir(&dir).unwrap();
        }
        let failure = log.commit(&[begins(id(5)), ends(id(0))]).remove(1).unwrap_err();
        assert!(failure.why.contains(word) && failure.next.contains("put the directory back"), "{failure}");
        assert_eq!(log.tick().unwrap_err(), failure);
    }
    fs::remove_dir(&dir).unwrap();
    fs::rename(base.path().join("elsewhere"), &dir).unwrap();
    written.extend(put(&mut log, &[begins(id(5)), ends(id(0))]));
    drop(log);
    assert_good(&dir);
    assert_there(&dir, &written);
}

#[test]
fn a_segment_that_was_removed_is_said_and_the_log_goes_on() {
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    let mut log = open(base.path());
    put(&mut log, &launches(0, 3));
    put(&mut log, &[ends(id(0))]);
    fs::remove_file(segments(&dir).pop().unwrap()).unwrap();
    let written = put(&mut log, &[begins(id(5)), ends(id(1))]);
    assert_eq!(log.live().len(), 2);
    let repair = records(&dir).into_iter().find(|record| record.event.action == Action::LogRepair).unwrap();
    assert!(repair.event.reason.unwrap().contains("was removed or replaced"));
    assert_there(&dir, &written);
    let broken = verify(&dir).unwrap().first_break.expect("the hole is seen");
    assert_eq!(broken.kind, bailey::admin::verify::Break::MissingSegment);
    let table = log.live().clone();
    drop(log);
    assert_eq!(open(base.path()).live(), &table, "the list in the new segment says what lives");
}

#[test]
fn a_directory_that_may_not_be_written_is_told_and_cured() {
    if nix::unistd::geteuid().is_root() {
        return; // root may write everywhere; the tests are meant to run as an ordinary user
    }
    let base = Scratch::in_memory();
    let dir = base.path().join("log");
    set_clock(86_400);
    let mut log = RecorderLog::open(Options { clock, ..options(base.path()) }).unwrap();
    put(&mut log, &launches(0, 3));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o550)).unwrap();
    set_clock(2 * 86_400);
    put(&mut log, &[ends(id(0)), begins(id(4))]); // the old segment is still open
    assert!(log.stats().overdue[0].why.contains("EACCES"), "{:?}", log.stats());
    drop(log);
    let failure = RecorderLog::open(options(base.path())).unwrap_err();
    assert!(failure.next.contains("recorder.dir") && failure.why.contains("EACCES"), "{failure}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(open(base.path()).live().len(), 3);
    assert_good(&dir);
}
