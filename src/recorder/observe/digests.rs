//! Threads that touch what peers hand over: the digest of a launcher's program, and closing.
//!
//! 1. A descriptor that came from a peer is read and closed here and nowhere else, unless it is known to be a pidfd or a
//!    namespace file. Any call on a file of somebody's FUSE file system, and closing a socket that lingers (socket(7),
//!    `SO_LINGER`), also one inside an unread message of a connection, waits for as long as its owner likes.
//! 2. One thread at a time works for a uid, one job after the other. So whoever lets his thread hang has that one, and only
//!    his own jobs wait.
//! 3. A digest is remembered for the uid that handed the file over, and for no other: a FUSE file system shows whatever inode
//!    and times its owner wants.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, errno_text, io_text};

/// The most threads, and so the most uids that can hang before others' digests are left out.
const THREADS: usize = 64;
/// Bytes of a thread's stack.
const STACK: usize = 128 << 10;
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(5);
/// Digests that may wait for one uid; more are answered at once, with an error.
const WAITING: usize = 64;
/// Descriptors of one uid that may wait to be closed before [`Digests::backlog`] says so.
const STUCK: usize = 512;
/// A digest that takes longer hangs, and so does a close.
const HANGS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(2));
/// The largest program.
const LARGEST: u64 = 256 << 20;
/// Digests remembered for one uid, and uids for which some are.
const REMEMBERED: (usize, usize) = (16, 256);

/// What waits to be closed for a uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Nothing to speak of.
    Short,
    /// So much that no more should be taken from it for the moment.
    Long,
    /// The same, and its thread hangs: no more should be taken from it.
    Hangs,
}

/// A launcher's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, as the recorder would name it: in the mounts of a container it may be another path than here.
    pub path: String,
    /// Its digest.
    pub sha256: [u8; 32],
}

/// The program, or why there is no digest of it.
pub type Answer = Result<Program, String>;

enum Job {
    Digest { token: u64, fd: OwnedFd },
    Close(Vec<OwnedFd>),
}

impl Job {
    const fn descriptors(&self) -> usize {
        match self {
            Self::Digest { .. } => 1,
            Self::Close(fds) => fds.len(),
        }
    }
}

/// What makes a file the same as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Jobs of one uid.
#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// A thread works for it, or it waits in `State::ready`.
    taken: bool,
    /// Descriptors in `jobs` and in the hands of its thread.
    descriptors: usize,
    /// When its thread took the job that it has, or, before that, when the first job came.
    begun: Option<Instant>,
    /// It is a digest.
    hashes: bool,
    digests: usize,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<u32, Lane>,
    /// Uids with jobs and without a thread, the longest waiting first.
    ready: VecDeque<u32>,
    results: Vec<(u64, Answer)>,
    known: BTreeMap<u32, VecDeque<(Key, [u8; 32])>>,
    threads: usize,
    idle: usize,
    ending: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    event: EventFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads, and what they found.
pub struct Digests {
    shared: Arc<Shared>,
}

impl Digests {
    /// No thread runs yet.
    pub fn new() -> Result<Self, Failure> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|errno| {
            Failure::site(
                "cannot wait for digests",
                errno_text(errno),
                "raise the limit on open files (LimitNOFILE=, ulimit -n)",
            )
        })?;
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), event };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Computes the digest of the program that a peer of this uid handed over, and closes it. True when a result will come
    /// under `token`: soon, unless the file hangs. False when too many of this uid wait already.
    pub fn submit(&self, uid: u32, token: u64, fd: OwnedFd) -> bool {
        let mut state = self.shared.lock();
        let full = state.lanes.get(&uid).is_some_and(|lane| lane.digests >= WAITING);
        let job = if full { Job::Close(vec![fd]) } else { Job::Digest { token, fd } };
        self.add(&mut state, uid, job);
        !full
    }

    /// Closes descriptors that a peer of this uid handed over, or its connection, of which unread messages may hold such.
    pub fn discard(&self, uid: u32, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            self.add(&mut self.shared.lock(), uid, Job::Close(fds));
        }
    }

    /// How many descriptors of this uid wait to be closed, and whether that hangs.
    pub fn backlog(&self, uid: u32) -> Backlog {
        match self.shared.lock().lanes.get(&uid) {
            Some(lane) if lane.descriptors >= STUCK => {
                let most = if lane.hashes { HANGS.0 } else { HANGS.1 };
                let hangs = lane.begun.is_some_and(|begun| begun.elapsed() >= most);
                if hangs { Backlog::Hangs } else { Backlog::Long }
            }
            _ => Backlog::Short,
        }
    }

    /// Descriptors of all uids that wait.
    pub fn held(&self) -> usize {
        self.shared.lock().lanes.values().map(|lane| lane.descriptors).sum()
    }

    /// What is done since the last call.
    pub fn results(&self) -> Vec<(u64, Answer)> {
        let _ = self.shared.event.read(); // EAGAIN: nothing new
        std::mem::take(&mut self.shared.lock().results)
    }

    fn add(&self, state: &mut State, uid: u32, job: Job) {
        let lane = state.lanes.entry(uid).or_default();
        lane.begun.get_or_insert_with(Instant::now);
        lane.descriptors += job.descriptors();
        lane.digests += usize::from(matches!(job, Job::Digest { .. }));
        // What is to be closed does not wait for digests that did not begin.
        match job {
            Job::Close(_) => lane.jobs.push_front(job),
            Job::Digest { .. } => lane.jobs.push_back(job),
        }
        if !std::mem::replace(&mut lane.taken, true) {
            state.ready.push_back(uid);
        }
        rouse(&self.shared, state);
    }
}

/// Sees to it that whoever is ready has a thread: one that waits for work, else a new one.
fn rouse(shared: &Arc<Shared>, state: &mut State) {
    if state.ready.is_empty() {
        return;
    }
    // One that was woken and did not run yet still counts as idle, and what it was woken for as ready.
    if state.idle >= state.ready.len() || state.threads >= THREADS {
        shared.work.notify_one();
        return;
    }
    let mine = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("janitor".to_owned()).stack_size(STACK);
    // Without a thread (TasksMax, memory) the job waits for the next call or for one that is at work.
    if thread.spawn(move || work(&mine)).is_ok() {
        state.threads += 1;
    }
}

/// Readable when there are [`Digests::results`].
impl AsFd for Digests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

impl Drop for Digests {
    /// Whoever hangs is left behind.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.work.notify_all();
    }
}

/// A thread's life: the next job of the uid that waits longest.
fn work(shared: &Arc<Shared>) {
    // Signals are for the event loop.
    let _ = SigSet::all().thread_block();
    let mut buffer = Vec::new();
    let mut state = shared.lock();
    loop {
        let Some(uid) = state.ready.pop_front() else {
            state.idle += 1;
            let (woken, waited) =
                shared.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if state.ending || (waited.timed_out() && state.ready.is_empty()) {
                state.threads -= 1;
                return;
            }
            continue;
        };
        let job = state.lanes.get_mut(&uid).and_then(|lane| lane.jobs.pop_front());
        let Some(job) = job else { continue };
        // This job may hang, and then nobody would come for the others.
        rouse(shared, &mut state);
        let descriptors = job.descriptors();
        let digest = matches!(job, Job::Digest { .. });
        if let Some(lane) = state.lanes.get_mut(&uid) {
            (lane.begun, lane.hashes) = (Some(Instant::now()), digest);
        }
        drop(state);
        match job {
            Job::Digest { token, fd } => {
                let path = super::path_of(&fd);
                let file = File::from(fd);
                let answer =
                    digest_of(shared, uid, &file, &mut buffer).map(|sha256| Program { path, sha256 });
                // The answer does not wait for the close.
                shared.lock().results.push((token, answer));
                let _ = shared.event.write(1); // EAGAIN: it is readable already
                drop(file);
            }
            Job::Close(fds) => drop(fds),
        }
        state = shared.lock();
        if let Some(lane) = state.lanes.get_mut(&uid) {
            lane.begun = Some(Instant::now());
            lane.descriptors -= descriptors;
            lane.digests -= usize::from(digest);
            if lane.jobs.is_empty() {
                state.lanes.remove(&uid);
            } else {
                state.ready.push_back(uid);
            }
        }
    }
}

fn key_of(file: &File) -> Result<(Key, bool), String> {
    let meta = file.metadata().map_err(|error| io_text(&error))?;
    let key = Key {
        dev: meta.dev(),
        ino: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    };
    Ok((key, meta.is_file()))
}

fn digest_of(shared: &Shared, uid: u32, file: &File, buffer: &mut Vec<u8>) -> Result<[u8; 32], String> {
    let (key, is_file) = key_of(file)?;
    if !is_file {
        return Err("it is no regular file".to_owned());
    }
    if key.size > LARGEST {
        return Err(format!("it has {} bytes, {LARGEST} are read", key.size));
    }
    let known = shared
        .lock()
        .known
        .get(&uid)
        .and_then(|known| known.iter().find(|(other, _)| *other == key).map(|(_, digest)| *digest));
    if let Some(digest) = known {
        return Ok(digest);
    }
    buffer.resize(1 << 16, 0);
    let mut sum = Sha256::new();
    let mut offset = 0;
    loop {
        // With an offset of our own: the launcher's descriptor shares its position with this one.
        let count = file.read_at(buffer, offset).map_err(|error| io_text(&error))?;
        sum.update(buffer.get(..count).unwrap_or_default());
        offset += count as u64;
        if count == 0 {
            break;
        }
        if offset > LARGEST {
            return Err(format!("it has more than {LARGEST} bytes"));
        }
    }
    if key_of(file)?.0 != key || offset != key.size {
        return Err("it changed while it was read".to_owned());
    }
    let digest = sum.finalize().into();
    remember(&mut shared.lock().known, uid, key, digest);
    Ok(digest)
}

fn remember(known: &mut BTreeMap<u32, VecDeque<(Key, [u8; 32])>>, uid: u32, key: Key, digest: [u8; 32]) {
    if known.len() >= REMEMBERED.1 && !known.contains_key(&uid) {
        known.pop_first();
    }
    let own = known.entry(uid).or_default();
    if own.len() >= REMEMBERED.0 {
        own.pop_front();
    }
    own.push_back((key, digest));
}
