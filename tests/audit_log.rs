//! The embedded log with real files, processes, kills, full disks and clocks.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bailey::admin::verify::{Break, verify};
use bailey::audit::record::{Action, EndBy};
use bailey::audit::{Durability, EmbeddedLog, LogOptions, Record, Timestamp};
use bailey::request::LaunchId;
use common::{Scratch, id, launch_record, lines, options, records, some_fd};

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, options()).unwrap()
}

fn end_record(launch: LaunchId) -> Record {
    Record::new(Action::PayloadEnd, launch)
}

fn actions(dir: &Path) -> Vec<Action> {
    records(dir).iter().map(|record| record.event.action).collect()
}

#[test]
fn a_launch_and_its_end_are_chained() {
    let dir = Scratch::new();
    let mut log = open(dir.path());
    let (receipt, slot) = log.append_launch(&launch_record(id(1)), id(1), some_fd()).unwrap();
    assert_eq!((receipt.launch(), receipt.seq()), (id(1), 2));
    let line = lines(dir.path()).pop().unwrap();
    assert_eq!(receipt.hash_hex(), bailey::audit::chain::hex(&bailey::audit::chain::hash(line.as_bytes())));
    assert_eq!(line.as_bytes(), log.last_line());
    let position = log.append_end(&end_record(id(1)), slot, Durability::Synced).unwrap();
    assert_eq!(position.seq, 3);
    assert_eq!(actions(dir.path()), [Action::SegmentOpen, Action::PayloadLaunch, Action::PayloadEnd]);
    let report = verify(dir.path()).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.lines, 3);
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}

#[test]
fn the_directory_is_made_private_and_judged() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("a/b/c");
    drop(open(&dir));
    for made in ["a", "a/b", "a/b/c"] {
        let mode = fs::metadata(scratch.path().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{made}");
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
    let failure = EmbeddedLog::open(&dir, options()).unwrap_err();
    assert_eq!(failure.code.exit_code(), 122);
    assert!(failure.next.contains("chmod go-w"), "{failure}");

    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    let failure = EmbeddedLog::open(&file, options()).unwrap_err();
    assert_eq!(failure.code.exit_code(), 122);
    assert!(failure.next.contains("move away"), "{failure}");
}

#[test]
fn what_others_could_have_put_there_is_refused() {
    for name in ["lock", "live"] {
        let dir = Scratch::new();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(name)).unwrap();
        let failure = EmbeddedLog::open(dir.path(), options()).unwrap_err();
        assert_eq!(failure.code.exit_code(), 122, "{failure}");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
    }
    let dir = Scratch::new();
    drop(open(dir.path()));
    let segment = dir.segment();
    fs::hard_link(&segment, dir.path().join("other")).unwrap();
    assert!(EmbeddedLog::open(dir.path(), options()).unwrap_err().why.contains("2 links"));
}

#[test]
fn a_tail_torn_at_any_byte_is_repaired_and_kept() {
    let dir = Scratch::new();
    let mut log = open(dir.path());
    log.append(&end_record(id(1)), Durability::Written).unwrap();
    drop(log);
    let segment = dir.segment();
    let whole = fs::read(&segment).unwrap();
    let begin = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for cut in begin + 1..whole.len() {
        fs::write(&segment, &whole[..cut]).unwrap();
        let report = verify(dir.path()).unwrap();
        let broken = report.first_break.expect("a torn tail is seen");
        assert_eq!((broken.line, broken.kind), (2, Break::TornTail), "cut at {cut}");

        drop(open(dir.path()));
        let report = verify(dir.path()).unwrap();
        assert!(report.is_good(), "cut at {cut}: {report:?}");
        assert_eq!(report.repairs.len(), 1);
        let repair = records(dir.path()).pop().unwrap();
        assert_eq!(repair.event.action, Action::LogRepair);
        let torn = repair.grid.log.torn;
        assert_eq!((torn.offset, torn.length), (Some(begin as u64), Some((cut - begin) as u64)));
        assert_eq!(torn.text.unwrap().replace("\\\\", "\\").as_bytes(), &whole[begin..cut]);
    }
}

#[test]
fn a_crash_between_a_segment_and_its_first_line_is_survived() {
    for rest in [&b""[..], b"{\"@times"] {
        let dir = Scratch::new();
        let mut log = open(dir.path());
        log.append(&end_record(id(1)), Durability::Written).unwrap();
        drop(log);
        let next = format!("{}.001.ndjson", Timestamp::now().plus_seconds(86_400).day());
        fs::write(dir.path().join(&next), rest).unwrap();
        fs::set_permissions(dir.path().join(&next), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        let mut log = open(dir.path());
        let position = log.append(&end_record(id(2)), Durability::Written).unwrap();
        assert_eq!(position.segment, next);
        let report = verify(dir.path()).unwrap();
        assert!(report.is_good(), "{report:?}");
        assert_eq!(report.repairs.len(), usize::from(!rest.is_empty()));
    }
}

static CLOCK: AtomicI64 = AtomicI64::new(0);

#[test]
fn days_make_segments_and_a_clock_that_goes_back_makes_none() {
    let dir = Scratch::new();
    let options = LogOptions { clock: || Timestamp::new(CLOCK.load(Ordering::SeqCst), 0), ..options() };
    let day = 86_400;
    CLOCK.store(1000 * day, Ordering::SeqCst);
    let mut log = EmbeddedLog::open(dir.path(), options.clone()).unwrap();
    let mut other = EmbeddedLog::open(dir.path(), options).unwrap();
    let put = |log: &mut EmbeddedLog, at: i64| {
        CLOCK.store(at, Ordering::SeqCst);
        log.append(&end_record(id(1)), Durability::Written).unwrap().segment
    };
    assert_eq!(put(&mut log, 1000 * day), "1972-09-27.001.ndjson");
    assert_eq!(put(&mut other, 1001 * day), "1972-09-28.001.ndjson");
    assert_eq!(put(&mut log, 1001 * day + 5), "1972-09-28.001.ndjson");
    assert_eq!(put(&mut log, 1000 * day - 5), "1972-09-28.001.ndjson");
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    assert_eq!(put(&mut other, 1003 * day), "1972-09-30.001.ndjson");
    let report = verify(dir.path()).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!((report.segments, report.lines), (3, 8));
}

#[test]
fn a_lock_that_is_held_ends_in_122() {
    let dir = Scratch::new();
    drop(open(dir.path()));
    let mut holder = another("hold", dir.path(), 1);
    wait_for_word(&mut holder);
    let begin = std::time::Instant::now();
    let failure = EmbeddedLog::open(dir.path(), LogOptions { wait: Duration::from_millis(100), ..options() })
        .unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(100) && begin.elapsed() < Duration::from_secs(5));
    assert_eq!(failure.code.exit_code(), 122);
    assert!(failure.next.contains("audit.wait"), "{failure}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    drop(open(dir.path()));
}

#[test]
fn many_processes_keep_one_chain() {
    const PROCESSES: usize = 200;
    const LAUNCHES: usize = 3;
    let dir = Scratch::new();
    let mut children: Vec<Child> =
        (0..PROCESSES).map(|number| another("launches", dir.path(), number)).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let report = verify(dir.path()).unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.lines, 1 + (2 * PROCESSES * LAUNCHES) as u64);
    assert_eq!(report.open_launches, 0);
}

#[test]
fn a_killed_launchers_payload_is_closed_by_the_next_bailey_and_a_living_ones_is_not() {
    let dir = Scratch::new();
    let mut living = another("live", dir.path(), 1);
    let mut killed = another("live", dir.path(), 2);
    wait_for_word(&mut living);
    wait_for_word(&mut killed);
    drop(open(dir.path()));
    assert_eq!(verify(dir.path()).unwrap().open_launches, 2, "both live");

    killed.kill().unwrap();
    killed.wait().unwrap();
    for _ in 0..2 {
        drop(open(dir.path())); // the second finds nothing left to do
        let ends: Vec<Record> = records(dir.path())
            .into_iter()
            .filter(|record| record.event.action == Action::PayloadEnd)
            .collect();
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].event.id.as_deref(), Some(helper_id(2, 0).as_str()));
        assert_eq!(ends[0].grid.end.by, Some(EndBy::LauncherLost));
        assert_eq!(ends[0].user.id.as_deref(), Some("/DC=org/CN=someone"));
    }
    drop(living.stdin.take()); // lets it write its end
    assert!(living.wait().unwrap().success());
    let report = verify(dir.path()).unwrap();
    assert!(report.is_good());
    assert_eq!(report.open_launches, 0);
}

#[test]
fn a_lost_or_damaged_table_is_rebuilt() {
    for damage in ["remove", "garbage", "empty"] {
        let dir = Scratch::new();
        let mut living = another("live", dir.path(), 1);
        let mut killed = another("live", dir.path(), 2);
        wait_for_word(&mut living);
        wait_for_word(&mut killed);
        killed.kill().unwrap();
        killed.wait().unwrap();
        let live = dir.path().join("live");
        match damage {
            "remove" => fs::remove_file(&live).unwrap(),
            "garbage" => fs::write(&live, "garbage").unwrap(),
            _ => fs::write(&live, "").unwrap(),
        }
        drop(open(dir.path()));
        assert_eq!(verify(dir.path()).unwrap().open_launches, 1, "{damage}");
        drop(living.stdin.take());
        assert!(living.wait().unwrap().success(), "{damage}");
        assert_eq!(verify(dir.path()).unwrap().open_launches, 0, "{damage}");
        assert_eq!(actions(dir.path()).iter().filter(|a| **a == Action::PayloadEnd).count(), 2);
    }
}

#[test]
fn another_boot_closes_everything_as_host_restart() {
    let dir = Scratch::new();
    let mut log = open(dir.path());
    let (_receipt, slot) = log.append_launch(&launch_record(id(1)), id(1), some_fd()).unwrap();
    drop((log, slot));
    let mut later = options();
    later.host.boot.id = Some("11111111-aaaa".to_owned());
    drop(EmbeddedLog::open(dir.path(), later).unwrap());
    let end = records(dir.path()).pop().unwrap();
    assert_eq!(end.grid.end.by, Some(EndBy::HostRestart));
    assert_eq!(verify(dir.path()).unwrap().open_launches, 0);
}

#[test]
fn an_end_that_was_written_before_the_kill_is_not_written_twice() {
    let dir = Scratch::new();
    let mut log = open(dir.path());
    let (_receipt, slot) = log.append_launch(&launch_record(id(1)), id(1), some_fd()).unwrap();
    let table = fs::read(dir.path().join("live")).unwrap();
    let end = log.append_end(&end_record(id(1)), slot, Durability::Written).unwrap();
    drop(log);
    // The slot as a launcher leaves it that is killed between its last line and the freeing of the slot.
    let text = String::from_utf8(table).unwrap();
    let ending = format!("{} {}", end.segment, end.offset);
    let patched = text.replace(&format!(" - 0{}", " ".repeat(ending.len() - 3)), &format!(" {ending}"));
    assert_ne!(text, patched);
    assert_eq!(text.len(), patched.len());
    fs::write(dir.path().join("live"), patched).unwrap();
    drop(open(dir.path()));
    assert_eq!(actions(dir.path()), [Action::SegmentOpen, Action::PayloadLaunch, Action::PayloadEnd]);
}

#[test]
fn a_full_disk_fails_the_record_and_leaves_the_chain_whole() {
    let dir = Scratch::new();
    // A tmpfs of 64 KiB in a user namespace of the helper's own.
    let script = r#"mount -t tmpfs -o size=64k,mode=700 none "$1" && BAILEY_TEST_DIR="$1" exec "$2" helper --exact --nocapture"#;
    let out = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env("BAILEY_TEST_HELPER", "fill")
        .env("BAILEY_TEST_NUMBER", "28") // ENOSPC
        .output();
    match out {
        Ok(out) if out.status.success() => {
            assert!(String::from_utf8_lossy(&out.stdout).contains("filled"), "{out:?}");
        }
        Ok(out) if String::from_utf8_lossy(&out.stderr).contains("unshare") => {
            eprintln!("not tested here, no user namespaces: {out:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_of_file_sizes_fails_the_record_and_leaves_the_chain_whole() {
    let dir = Scratch::new();
    let script = r#"trap "" XFSZ; ulimit -f 64; BAILEY_TEST_DIR="$1" exec "$2" helper --exact --nocapture"#;
    let out = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env("BAILEY_TEST_HELPER", "fill")
        .env("BAILEY_TEST_NUMBER", "27") // EFBIG
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("filled"), "{out:?}");
}

#[test]
fn a_directory_that_may_not_be_written_fails_the_record() {
    if nix::unistd::Uid::effective().is_root() {
        return; // root may write everywhere; the tests are meant to run as an ordinary user
    }
    let dir = Scratch::new();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let failure = EmbeddedLog::open(dir.path(), options()).unwrap_err();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(failure.code.exit_code(), 122);
    assert!(failure.next.contains("writable"), "{failure}");
}

/// What one append costs besides fdatasync: `BAILEY_TEST_BENCH=1 cargo test --release --test audit_log cost -- --nocapture`.
#[test]
fn cost_of_an_append() {
    if std::env::var_os("BAILEY_TEST_BENCH").is_none() {
        return;
    }
    let dir = Scratch::new();
    let mut log = open(dir.path());
    let mut record = launch_record(id(1));
    record.process.args = (0..60).map(|i| format!("--option-{i}=some-longer-value")).collect();
    let mut written = Vec::new();
    let mut launched = Vec::new();
    for round in 0..500 {
        let begin = std::time::Instant::now();
        log.append(&record, Durability::Written).unwrap();
        written.push(begin.elapsed());
        let mut other = open(dir.path());
        let launch = id(round);
        let begin = std::time::Instant::now();
        let (receipt, slot) = other.append_launch(&record, launch, some_fd()).unwrap();
        launched.push(begin.elapsed());
        drop(receipt);
        other.append_end(&end_record(launch), slot, Durability::Written).unwrap();
    }
    written.sort();
    launched.sort();
    let sync = {
        let file = fs::OpenOptions::new().append(true).open(dir.segment()).unwrap();
        let mut spans: Vec<Duration> = (0..100)
            .map(|_| {
                (&file).write_all(&[b' '; 3000]).unwrap();
                let begin = std::time::Instant::now();
                file.sync_data().unwrap();
                begin.elapsed()
            })
            .collect();
        spans.sort();
        spans[50]
    };
    println!(
        "line {} bytes; append, written: median {:?}, 99 % {:?}; append_launch, synced: median {:?}; fdatasync alone: median {sync:?}",
        log.last_line().len(),
        written[250],
        written[495],
        launched[250],
    );
}

// ---- the helper: this test binary again, in another process ----

fn another(mode: &str, dir: &Path, number: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["helper", "--exact", "--nocapture"])
        .env("BAILEY_TEST_HELPER", mode)
        .env("BAILEY_TEST_DIR", dir)
        .env("BAILEY_TEST_NUMBER", number.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the helper says `ready`.
fn wait_for_word(child: &mut Child) {
    use std::io::Read as _;
    let mut seen = Vec::new();
    let out = child.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&seen).contains("ready") {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

fn helper_id(number: usize, launch: usize) -> LaunchId {
    id(1000 + number * 100 + launch)
}

#[test]
fn helper() {
    let Some(mode) = std::env::var_os("BAILEY_TEST_HELPER") else {
        return;
    };
    let dir = std::env::var_os("BAILEY_TEST_DIR").unwrap();
    let dir = Path::new(&dir);
    let number: usize = std::env::var("BAILEY_TEST_NUMBER").unwrap().parse().unwrap();
    match mode.to_str().unwrap() {
        "hold" => {
            let lock = fs::OpenOptions::new().read(true).write(true).open(dir.join("lock")).unwrap();
            let range =
                libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
            nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_OFD_SETLK(&range)).unwrap();
            println!("ready");
            let _ = std::io::stdin().read_line(&mut String::new());
            drop(lock);
        }
        "launches" => {
            for launch in 0..3 {
                let launch = helper_id(number, launch);
                let mut log = open(dir);
                let (receipt, slot) = log.append_launch(&launch_record(launch), launch, some_fd()).unwrap();
                let _pidfd: OwnedFd = receipt.into_pidfd();
                log.append_end(&end_record(launch), slot, Durability::Written).unwrap();
            }
        }
        "live" => {
            let launch = helper_id(number, 0);
            let mut log = open(dir);
            let (_receipt, slot) = log.append_launch(&launch_record(launch), launch, some_fd()).unwrap();
            drop(log); // the slot alone keeps the launch alive
            println!("ready");
            let _ = std::io::stdin().read_line(&mut String::new());
            open(dir).append_end(&end_record(launch), slot, Durability::Synced).unwrap();
        }
        "fill" => fill(dir, number),
        other => panic!("{other}"),
    }
}

/// Appends until there is no room, then makes sure that every line before is whole and that the log can go on.
fn fill(dir: &Path, errno: usize) {
    let mut log = open(dir);
    let mut count = 0;
    let failure = loop {
        match log.append_launch(&launch_record(id(count)), id(count), some_fd()) {
            Ok((_, slot)) => {
                log.append_end(&end_record(id(count)), slot, Durability::Written).ok();
            }
            Err(failure) => break failure,
        }
        count += 1;
        assert!(count < 1000, "no limit here");
    };
    assert!(count > 3, "{failure}");
    assert_eq!(failure.code.exit_code(), 122);
    let name = format!("{:?}", nix::errno::Errno::from_raw(errno as i32));
    assert!(failure.why.contains(&name) || failure.why.contains("ulimit"), "{failure}");
    assert!(failure.next.contains("free space") || failure.next.contains("ulimit"), "{failure}");
    let report = verify(dir).unwrap();
    assert!(report.is_good(), "{report:?}");
    println!("filled after {count}: {failure}");
}
