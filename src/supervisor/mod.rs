//! While the payload runs: signals to pass on, time to keep, the end to notice.
//!
//! One thread, one poll loop. Signals are blocked from before the clone and read from a descriptor, so none is lost and no
//! handler runs. The payload's main process gets them by pidfd; init has no part in it.
#![forbid(unsafe_code)]

use crate::audit::client::Order;
use crate::audit::record::Preserved;
use crate::failure::Failure;
use crate::sandbox::protocol::{Ended, Trouble};
use crate::sandbox::{News, Running};
use crate::sys::memory;
use crate::sys::process::Usage;
use crate::sys::signal::{AllSignals, Arrived};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
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
    /// An administrator's order, by the recorder.
    Administrator,
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

/// What the supervisor says while it works, for a record and a line for the user.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The wall time is used up; SIGTERM was sent, SIGKILL comes after the grace.
    WallTime {
        /// The limit.
        limit: Duration,
        /// What is left.
        grace: Duration,
    },
    /// An administrator stops the payload; SIGTERM was sent, SIGKILL comes after the grace.
    Stopped {
        /// Why.
        reason: String,
        /// What is left.
        grace: Duration,
    },
    /// An administrator had the payload's processes stopped (SIGSTOP); they stay until it is ended.
    Frozen {
        /// Why.
        reason: String,
        /// How many processes are held.
        processes: usize,
    },
    /// What there was to keep was kept.
    Preserved(Box<Preserved>),
}

/// Whoever stands behind the supervisor: hears what it does, and brings orders from the recorder.
pub trait Overseer {
    /// Something is about to happen, or happened.
    fn notice(&mut self, notice: &Notice);
    /// Readable when orders may have come.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// When to ask for orders in any case.
    fn wake_at(&self) -> Option<Instant>;
    /// What came; does not wait.
    fn orders(&mut self) -> Vec<Order>;
    /// The directory, which does not exist yet, for what an order to preserve keeps.
    fn preserve_in(&self) -> Result<PathBuf, Failure>;
}

/// Runs until the payload's end.
pub fn supervise(
    mut running: Running,
    signals: &Signals,
    deadline: Deadline,
    overseer: &mut dyn Overseer,
) -> End {
    let start = Instant::now();
    // A payload that is still there after this time will be for long: this process then only waits.
    let mut settle_at = start.checked_add(SETTLED);
    let mut stop_at = deadline.wall_time.and_then(|limit| start.checked_add(limit));
    let mut kill_at: Option<Instant> = None;
    let mut passed_on = SignalSet::default();
    let mut stopped: Option<Cause> = None;
    let (ended, not_executed) = loop {
        let wake_at = overseer.wake_at();
        let next = [stop_at, kill_at, settle_at, wake_at].into_iter().flatten().min();
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
            stopped.get_or_insert(Cause::WallTime);
            kill_at = now.checked_add(deadline.grace);
            overseer.notice(&Notice::WallTime { limit, grace: deadline.grace });
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
        let timeout = next.map(|at| at.saturating_duration_since(now));
        let Ready { on_signal, on_control, on_gate, on_order } =
            wait(&running, signals, overseer.descriptor(), timeout);
        if on_order || wake_at.is_some_and(|at| Instant::now() >= at) {
            for Order::Stop(stop) in overseer.orders() {
                stopped = Some(Cause::Administrator);
                stop_at = None;
                kill_at = Instant::now().checked_add(deadline.grace);
                overseer.notice(&Notice::Stopped { reason: stop.reason, grace: deadline.grace });
                running.signal(libc::SIGTERM);
                running.signal(libc::SIGCONT);
            }
        }
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
    let own = match status {
        None if not_executed.is_none() => Cause::InitLost,
        Some(status) if libc::WIFSIGNALED(status) && passed_on.has(libc::WTERMSIG(status)) => {
            Cause::PilotSignal(libc::WTERMSIG(status))
        }
        Some(_) | None => Cause::Payload,
    };
    let cause = stopped.unwrap_or(own);
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

/// What is readable.
struct Ready {
    on_signal: bool,
    on_control: bool,
    on_gate: bool,
    on_order: bool,
}

/// Waits for a signal, for init, for the payload's gate, for the recorder, or until the next deadline.
fn wait(
    running: &Running,
    signals: &Signals,
    orders: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> Ready {
    let (control, gate) = running.descriptors();
    let mut fds = [
        PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        PollFd::new(control, PollFlags::POLLIN),
        PollFd::new(gate.unwrap_or(control), PollFlags::POLLIN),
        PollFd::new(orders.unwrap_or(control), PollFlags::POLLIN),
    ];
    // One millisecond more, so that the deadline has passed when poll returns; very long waits are cut and go round again.
    let timeout = timeout.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    if poll(&mut fds, timeout).is_err() {
        return Ready { on_signal: false, on_control: false, on_gate: false, on_order: false };
    }
    let [on_signal, on_control, third, fourth] = fds.map(|fd| fd.any().unwrap_or(false));
    Ready { on_signal, on_control, on_gate: gate.is_some() && third, on_order: orders.is_some() && fourth }
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
