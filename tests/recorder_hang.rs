//! Descriptors that wait for ever when they are touched: the recorder's loop never does, and those who do harm nobody else.
//!
//! Apart from the other tests: a process that holds such a descriptor waits at its next exec, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/observer.rs"]
mod observer;
mod support;

use bailey::recorder::observe::{self, Digests, Handed};
use bailey::sys::socket;
use observer::{Bench, KINDS, Met, kinds, open, results};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::skip;

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
    assert!(digests.submit(2, 20, file));
    let good = || open(&bench.program);
    assert!(digests.submit(2, 21, good()), "behind the one that hangs");
    for uid in 3..6 {
        assert!(digests.submit(uid, u64::from(uid), good()));
    }
    let mut tokens: Vec<u64> =
        results(&digests, 3, Duration::from_secs(10)).iter().map(|(token, _)| *token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [3, 4, 5]);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert_eq!(results(&digests, 1, Duration::from_millis(300)), [], "uid 2 hangs");
    // When the file system ends, so does the waiting.
    drop(met);
    let late = results(&digests, 2, Duration::from_secs(10));
    assert!(matches!(&late[..], [(20, Err(_)), (21, Ok(_))]), "{late:?}");
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
    assert!(digests.submit(9, 1, open(&bench.program)));
    assert_eq!(results(&digests, 1, Duration::from_secs(10)).len(), 1);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}
