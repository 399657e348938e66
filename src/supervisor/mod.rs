//! While the payload runs: signals to pass on, time to keep, the end to notice.
//!
//! One thread, one poll loop. Signals are blocked from before the clone and read from a descriptor, so none is lost and no
//! handler runs. The payload's main process gets them by pidfd; init has no part in it.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::sandbox::protocol::{Ended, Trouble};
use crate::sandbox::{News, Running};
use crate::sys::memory;
use crate::sys::process::Usage;
use crate::sys::signal::{AllSignals, Arrived};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Blocks every signal that can be blocked and gives the descriptor to read them from. Comes before the clone.
pub struct Signals(AllSignals);

impl Signals {
    /// See the type.
    pub fn take() -> Result<Self, Failure> {
        AllSignals::block().map(Self).map_err(|errno| {
            Failure::site(
                "cannot take over the process's signals",
                crate::failure::errno_text(errno),
                "raise the limit on open files (ulimit -n)",
            )
        })
    }

    /// The next signal to pass on. SIGCHLD is ours; a SIGPIPE or SIGXFSZ that this very process caused is not for others.
    fn next(&self) -> Option<i32> {
        while let Some(Arrived { signal, sender }) = self.0.next() {
            let own =
                [0, std::process::id()].contains(&sender) && [libc::SIGPIPE, libc::SIGXFSZ].contains(&signal);
            if signal != libc::SIGCHLD && !own {
                return Some(signal);
            }
        }
        None
    }
}

/// How long it may run, and how it is stopped.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// From the release on.
    pub wall_time: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

const SETTLED: Duration = Duration::from_millis(100);

/// What ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The payload itself.
    Payload,
    /// A signal that the pilot sent to bailey, and that was passed on.
    PilotSignal(i32),
    /// The wall time.
    WallTime,
    /// init was killed: nobody is left to say how the payload ended.
    InitLost,
}

/// How it went.
#[derive(Debug)]
pub struct End {
    /// What ended it.
    pub cause: Cause,
    /// Wait status of the payload's process, when init could tell.
    pub status: Option<i32>,
    /// I/O of the tree, when init could tell.
    pub io: Option<Ended>,
    /// CPU, memory and faults of the tree.
    pub usage: Usage,
    /// Set when execve failed: nothing ran.
    pub not_executed: Option<Trouble>,
    /// From the release to the end.
    pub duration: Duration,
    /// What is left of the sandbox while the kernel takes it apart; dropping it waits for that.
    pub teardown: Option<Running>,
}

/// What the supervisor says while it works; the pipeline turns it into a record and a line for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The wall time is used up; SIGTERM was sent, SIGKILL comes after the grace.
    WallTime {
        /// The limit.
        limit: Duration,
        /// What is left.
        grace: Duration,
    },
}

/// Runs until the payload's end.
pub fn supervise(
    mut running: Running,
    signals: &Signals,
    deadline: Deadline,
    tell: &mut dyn FnMut(Notice),
) -> End {
    let start = Instant::now();
    // A payload that is still there after this time will be for long: this process then only waits.
    let mut settle_at = start.checked_add(SETTLED);
    let mut stop_at = deadline.wall_time.and_then(|limit| start.checked_add(limit));
    let mut kill_at: Option<Instant> = None;
    let mut passed_on = SignalSet::default();
    let mut timed_out = false;
    let (ended, not_executed) = loop {
        let next = [stop_at, kill_at, settle_at].into_iter().flatten().min();
        let now = Instant::now();
        if settle_at.is_some_and(|at| now >= at) {
            settle_at = None;
            memory::drop_own_file_pages();
            continue;
        }
        if let (Some(limit), Some(at)) = (deadline.wall_time, stop_at)
            && now >= at
        {
            // Notice before force: a line for the user, the signal that can be handled, then the one that cannot.
            stop_at = None;
            timed_out = true;
            kill_at = now.checked_add(deadline.grace);
            tell(Notice::WallTime { limit, grace: deadline.grace });
            running.signal(libc::SIGTERM);
            // A stopped payload could not act on it.
            running.signal(libc::SIGCONT);
            continue;
        }
        if kill_at.is_some_and(|at| now >= at) {
            kill_at = None;
            running.kill_all();
            continue;
        }
        let (on_signal, on_control, on_gate) = wait(&running, signals, next.map(|at| at - now));
        if on_signal {
            while let Some(signal) = signals.next() {
                passed_on.add(signal);
                running.signal(signal);
            }
        }
        if on_gate && let Some(News::NotExecuted(trouble)) = running.read_gate() {
            break (None, Some(trouble));
        }
        if on_control {
            match running.read_control() {
                News::Ended(ended) => break (Some(ended), None),
                _ => break (None, None),
            }
        }
    };
    let status = ended.map(|ended| ended.status);
    let cause = match status {
        _ if timed_out => Cause::WallTime,
        None if not_executed.is_none() => Cause::InitLost,
        Some(status) if libc::WIFSIGNALED(status) && passed_on.has(libc::WTERMSIG(status)) => {
            Cause::PilotSignal(libc::WTERMSIG(status))
        }
        Some(_) | None => Cause::Payload,
    };
    let duration = start.elapsed();
    match ended {
        // The kernel takes init's namespaces apart now; there is time to write the end record meanwhile.
        Some(ended) => End {
            cause,
            status,
            io: Some(ended),
            usage: ended.usage,
            not_executed,
            duration,
            teardown: Some(running),
        },
        None => {
            End { cause, status, io: None, usage: running.reap(), not_executed, duration, teardown: None }
        }
    }
}

/// Waits for a signal, for init, for the payload's gate, or until the next deadline.
fn wait(running: &Running, signals: &Signals, timeout: Option<Duration>) -> (bool, bool, bool) {
    let (control, gate) = running.descriptors();
    let mut fds = [
        PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        PollFd::new(control, PollFlags::POLLIN),
        PollFd::new(gate.unwrap_or(control), PollFlags::POLLIN),
    ];
    // One millisecond more, so that the deadline has passed when poll returns; very long waits are cut and go round again.
    let timeout = timeout.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    if poll(&mut fds, timeout).is_err() {
        return (false, false, false);
    }
    let [signal, control, third] = fds.map(|fd| fd.any().unwrap_or(false));
    (signal, control, gate.is_some() && third)
}

/// Signals 1 to 64.
#[derive(Default)]
struct SignalSet(u64);

impl SignalSet {
    const fn bit(signal: i32) -> u64 {
        if signal >= 1 && signal <= 64 { 1 << (signal - 1) } else { 0 }
    }

    const fn add(&mut self, signal: i32) {
        self.0 |= Self::bit(signal);
    }

    const fn has(&self, signal: i32) -> bool {
        self.0 & Self::bit(signal) != 0
    }
}

/// The name of a signal, `SIGTERM`; real-time signals by number.
pub fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |name| name.as_str().to_owned())
}
