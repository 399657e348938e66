//! Descriptors that wait for ever when they are touched: the recorder's loop never does, and those who do harm nobody else.
//!
//! Apart from the other tests: a process that holds such a descriptor waits at its next exec, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/observer.rs"]
mod observer;
mod support;

use bailey::recorder::observe::{self, Digests, Handed, Submitted};
use bailey::sys::socket;
use observer::{Bench, KINDS, Met, kinds, open, results};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::raw::Raw;
use support::recorder::Recorder;
use support::{skip, wait_for};

fn has_fuse(test: &str) -> bool {
    let device =
        std::env::var_os("BAILEY_TEST_FUSE").map_or_else(|| PathBuf::from("/dev/fuse"), PathBuf::from);
    match File::options().read(true).write(true).open(&device) {
        Ok(_) => true,
        Err(error) => {
            skip(test, &format!("no FUSE device for this user: {}: {error}", device.display()));
            false
        }
    }
}

#[test]
fn a_file_that_hangs_harms_only_its_uid() {
    if !has_fuse("a_file_that_hangs_harms_only_its_uid") {
        return;
    }
    let bench = Bench::new();
    // As a payload: refused without a question to the file.
    let mut command = bench.command();
    command.envs(std::env::var_os("BAILEY_TEST_FUSE").map(|device| ("BAILEY_TEST_FUSE", device)));
    let mut met = Met::new(&bench.listener, command, &["hanging"]);
    let before = Instant::now();
    let (failure, fds) = Handed::sort(std::mem::take(&mut met.fds), &kinds(&KINDS)).unwrap_err();
    assert!(failure.to_string().contains("descriptor 0 is no pidfd"), "{failure}");
    let digests = Digests::new().unwrap();
    let file = fds[0].try_clone().unwrap();
    digests.discard(1, fds);
    // As a program: no answer, and nobody waits for it.
    assert_eq!(observe::path_of(&file), "/mnt/file", "named without a question to the file");
    let pid = met.child.id() as i32;
    let twin = file.try_clone().unwrap();
    assert_eq!(digests.program(2, pid, 20, file), Submitted::Later);
    assert_eq!(digests.program(2, pid, 21, twin), Submitted::Later, "behind the one that hangs");
    for uid in 3..6 {
        assert_eq!(digests.program(uid, own_pid(), u64::from(uid), open(&bench.program)), Submitted::Later);
    }
    let mut tokens: Vec<u64> =
        results(&digests, 3, Duration::from_secs(10)).iter().map(|(token, _)| *token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [3, 4, 5]);
    assert!(before.elapsed() < support::patience(Duration::from_secs(10)), "{:?}", before.elapsed());
    assert_eq!(results(&digests, 1, Duration::from_millis(300)), [], "uid 2 hangs");
    // When the file system ends, so does the waiting.
    drop(met);
    let late = results(&digests, 2, Duration::from_secs(10));
    assert!(matches!(&late[..], [(20, Err(_)), (21, Err(_))]), "{late:?}");
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Whether this kernel and this disk let a local file be known for one.
fn knows_local(program: &Path) -> bool {
    let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(program).output().unwrap();
    let kind = String::from_utf8(kind.stdout).unwrap();
    ["ext2/ext3", "xfs", "btrfs"].contains(&kind.trim())
}

#[test]
fn more_accounts_than_threads_hang_and_a_program_on_a_disk_is_known() {
    const TEST: &str = "more_accounts_than_threads_hang_and_a_program_on_a_disk_is_known";
    if !has_fuse(TEST) {
        return;
    }
    let bench = Bench::new();
    if !knows_local(&bench.program) {
        return skip(TEST, "the tests' directory is not on a disk of this host's");
    }
    let mut met = bench.meet(&["file-only"]);
    let hanging = met.fds.pop().unwrap();
    let digests = Digests::new().unwrap();
    for uid in 1000..1300 {
        digests.discard(uid, vec![hanging.try_clone().unwrap()]);
    }
    // The first of its uid is read, by a thread that no file hangs; the next is known, and so is that of a connection that
    // nobody read: it is closed at once.
    let program = || open(&bench.program);
    assert_eq!(digests.program(7, own_pid(), 1, program()), Submitted::Later);
    let found = results(&digests, 1, Duration::from_secs(5));
    assert!(
        matches!(&found[..], [(1, Ok(found))] if found.path == bench.program.to_str().unwrap()),
        "{found:?}"
    );
    assert!(matches!(digests.program(7, own_pid(), 2, program()), Submitted::Known(_)));
    wait_for("the thread that read it to let go", || digests.held() == 300);
    digests.discard(7, vec![program()]);
    assert_eq!(digests.held(), 300);
    // What is not known to be harmless is refused where nobody can look at it.
    let pid = met.child.id() as i32;
    let file = hanging.try_clone().unwrap();
    assert_eq!(digests.program(8, pid, 3, file), Submitted::Never);
    drop(met); // and with it the file system
    wait_for("everything to be closed", || digests.held() == 0);
}

#[test]
fn an_empty_message_hides_no_socket_that_lingers() {
    let bench = Bench::new();
    let recorder = Recorder::start(&bench.world);
    for empty in [1, 9] {
        let mut met = bench.meet(&["linger-only"]);
        let lingering = met.fds.pop().unwrap();
        let raw = Raw::greeted(&recorder.socket);
        // It closes the connection at the first that is empty: all of them lie there by then.
        recorder.while_stopped(|| {
            for _ in 0..empty {
                raw.bytes(b"", &[]).unwrap();
            }
            raw.bytes(b"x", &[lingering.as_fd()]).unwrap();
            drop(lingering); // the message has the last one
            drop(raw);
        });
        let before = Instant::now();
        recorder.ask().unwrap();
        assert!(
            before.elapsed() < support::patience(Duration::from_secs(3)),
            "{empty}: {:?}",
            before.elapsed()
        );
    }
}

#[test]
fn a_socket_that_lingers_is_closed_by_somebody_else() {
    let bench = Bench::new();
    let digests = Digests::new().unwrap();
    let (mut met, mut unread) = (bench.meet(&["linger-only"]), bench.meet(&["linger-only"]));
    let before = Instant::now();
    digests.discard(7, std::mem::take(&mut met.fds));
    // In a message that nobody read, too: the connection itself goes to the janitor.
    let (ours, theirs) = socket::pair().unwrap();
    socket::send(theirs.as_fd(), b"x", &[unread.fds[0].as_raw_fd()]).unwrap();
    digests.discard(8, std::mem::take(&mut unread.fds));
    digests.discard(8, vec![ours]);
    assert_eq!(digests.program(9, own_pid(), 1, open(&bench.program)), Submitted::Later);
    assert_eq!(results(&digests, 1, Duration::from_secs(10)).len(), 1);
    assert!(before.elapsed() < support::patience(Duration::from_secs(5)), "{:?}", before.elapsed());
}
