//! Threads that touch what peers hand over: the digest of a launcher's program, and closing.
//!
//! 1. A descriptor that came from a peer is read and closed by these threads, unless it is known to be a pidfd, a namespace
//!    file, or on a disk of this host ([`Mounts`]). Any call on a file of somebody's FUSE file system, and closing a socket that
//!    lingers (socket(7), `SO_LINGER`), also one inside an unread message of a connection, waits for as long as its owner likes.
//! 2. One thread at a time works for a uid, one job after the other. So whoever lets his thread hang has that one, and only
//!    his own jobs wait.
//! 3. Programs on a disk of this host have threads of their own ([`Crew`]), and none is needed when the digest is known. So
//!    as many accounts as there are threads may let theirs hang, and whoever has a launcher on a disk notices nothing.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;

use super::handed;
use super::mounts::Mounts;
use super::programs::{LARGEST, Programs};
use crate::failure::{Failure, errno_text};

/// The most threads for descriptors of any kind: so many uids can hang before the others' are kept unread and unclosed, as
/// many as [`STUCK`] of each.
const THREADS: usize = 256;
/// The most threads for what lies on this host's disks.
const LOCAL_THREADS: usize = 2;
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
/// The most descriptors that are looked at before they are left to the threads.
const FEW: usize = 16;

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

/// What became of a program that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is known.
    Known(Program),
    /// An answer will come: soon, unless the file hangs.
    Later,
    /// None will: too much of this uid waits already, or nobody is free to look at it.
    Never,
}

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
    threads: usize,
    idle: usize,
    ending: bool,
}

/// Threads, and what they have to do.
struct Crew {
    state: Mutex<State>,
    work: Condvar,
    /// The most of them.
    most: usize,
    /// What they touch may hang.
    may_hang: bool,
    found: Arc<Found>,
}

/// What all threads found.
struct Found {
    programs: Programs,
    results: Mutex<Vec<(u64, Answer)>>,
    event: EventFd,
}

impl Crew {
    fn new(most: usize, may_hang: bool, found: &Arc<Found>) -> Arc<Self> {
        let found = Arc::clone(found);
        Arc::new(Self { state: Mutex::default(), work: Condvar::new(), most, may_hang, found })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads, and what they found.
pub struct Digests {
    found: Arc<Found>,
    /// For descriptors of any kind.
    any: Arc<Crew>,
    /// For programs on this host's disks.
    local: Arc<Crew>,
    mounts: Mutex<Mounts>,
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
        let found = Arc::new(Found { programs: Programs::default(), results: Mutex::default(), event });
        let (any, local) = (Crew::new(THREADS, true, &found), Crew::new(LOCAL_THREADS, false, &found));
        Ok(Self { found, any, local, mounts: Mutex::default() })
    }

    /// The program that a peer of this uid and pid handed over; a result that is not known yet comes under `token`. Does not
    /// wait, and closes it.
    pub fn program(&self, uid: u32, pid: i32, token: u64, fd: OwnedFd) -> Submitted {
        let busy = self.any.lock().threads >= THREADS / 4;
        if self.mounts().is_local(fd.as_fd(), pid, busy) {
            let file = File::from(fd);
            if let Some(sha256) = self.found.programs.known(uid, &file) {
                return Submitted::Known(Program { path: super::path_of(&file), sha256 });
            }
            return submit(&self.local, uid, token, OwnedFd::from(file));
        }
        submit(&self.any, uid, token, fd)
    }

    fn mounts(&self) -> MutexGuard<'_, Mounts> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes descriptors that a peer of this uid handed over, or its connection, of which unread messages may hold such.
    pub fn discard(&self, uid: u32, fds: Vec<OwnedFd>) {
        let mut fds = fds;
        if fds.len() <= FEW {
            fds.retain(|fd| !self.is_harmless(fd));
        }
        if !fds.is_empty() {
            add(&self.any, &mut self.any.lock(), uid, Job::Close(fds));
        }
    }

    /// Closing it waits for nobody, and frees little: what is on a disk may be removed by it, so its size counts.
    fn is_harmless(&self, fd: &OwnedFd) -> bool {
        let small = || crate::sys::fs::size(fd.as_fd()).is_ok_and(|size| size <= LARGEST);
        handed::is_pidfd(fd.as_fd()) || self.mounts().known(fd.as_fd()) == Some(true) && small()
    }

    /// How many descriptors of this uid wait to be closed, and whether that hangs.
    pub fn backlog(&self, uid: u32) -> Backlog {
        match self.any.lock().lanes.get(&uid) {
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
        let of = |crew: &Crew| -> usize { crew.lock().lanes.values().map(|lane| lane.descriptors).sum() };
        of(&self.any) + of(&self.local)
    }

    /// What is done since the last call.
    pub fn results(&self) -> Vec<(u64, Answer)> {
        let _ = self.found.event.read(); // EAGAIN: nothing new
        std::mem::take(&mut self.found.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Leaves a digest to a crew. Where that is busy, behind threads that hang or with too much of this uid, the launch would only
/// lose time.
fn submit(crew: &Arc<Crew>, uid: u32, token: u64, fd: OwnedFd) -> Submitted {
    let mut state = crew.lock();
    let hang = crew.may_hang && state.threads >= crew.most && state.idle == 0;
    let full = state.lanes.get(&uid).is_some_and(|lane| lane.digests >= WAITING);
    if !hang && !full {
        add(crew, &mut state, uid, Job::Digest { token, fd });
        return Submitted::Later;
    }
    if crew.may_hang {
        add(crew, &mut state, uid, Job::Close(vec![fd]));
    }
    Submitted::Never
}

fn add(crew: &Arc<Crew>, state: &mut State, uid: u32, job: Job) {
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
    rouse(crew, state);
}

/// Sees to it that whoever is ready has a thread: one that waits for work, else a new one.
fn rouse(crew: &Arc<Crew>, state: &mut State) {
    if state.ready.is_empty() {
        return;
    }
    // One that was woken and did not run yet still counts as idle, and what it was woken for as ready.
    if state.idle >= state.ready.len() || state.threads >= crew.most {
        crew.work.notify_one();
        return;
    }
    let mine = Arc::clone(crew);
    let thread = std::thread::Builder::new().name("janitor".to_owned()).stack_size(STACK);
    // Without a thread (TasksMax, memory) the job waits for the next call or for one that is at work.
    if thread.spawn(move || work(&mine)).is_ok() {
        state.threads += 1;
    }
}

/// Readable when there are [`Digests::results`].
impl AsFd for Digests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.found.event.as_fd()
    }
}

impl Drop for Digests {
    /// Whoever hangs is left behind.
    fn drop(&mut self) {
        for crew in [&self.any, &self.local] {
            crew.lock().ending = true;
            crew.work.notify_all();
        }
    }
}

/// A thread's life: the next job of the uid that waits longest.
fn work(crew: &Arc<Crew>) {
    // Signals are for the event loop.
    let _ = SigSet::all().thread_block();
    let mut buffer = Vec::new();
    let mut state = crew.lock();
    loop {
        let Some(uid) = state.ready.pop_front() else {
            state.idle += 1;
            let (woken, waited) = crew.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
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
        rouse(crew, &mut state);
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
                let found = &crew.found;
                let digest = found.programs.digest(uid, &file, &mut buffer);
                let answer = digest.map(|sha256| Program { path, sha256 });
                // The answer does not wait for the close.
                found.results.lock().unwrap_or_else(PoisonError::into_inner).push((token, answer));
                let _ = found.event.write(1); // EAGAIN: it is readable already
                drop(file);
            }
            Job::Close(fds) => drop(fds),
        }
        state = crew.lock();
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
