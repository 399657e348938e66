//! While the payload runs: signals to pass on, time to keep, the end to notice.
//!
//! One thread, one poll loop. Signals are blocked from before the clone and read from a descriptor, so none is lost and no
//! handler runs. The payload's main process gets them by pidfd; init has no part in it.
//!
//! 1. Nothing waits for the recorder here: its orders come over a descriptor of the same poll loop.
//! 2. A payload that was held MUST NOT run again: what ends it then is SIGKILL.
//! 3. Whatever was ordered, SIGKILL to bailey ends everything, and SIGTERM to bailey is never without effect.
#![forbid(unsafe_code)]

mod hold;
mod overuse;
mod preserve;

use crate::audit::client::Order;
use crate::audit::record::{Preserved, StopBy};
use crate::audit::wire::Stop;
use crate::cgroup;
use crate::failure::Failure;
use crate::overuse::engine::Event;
use crate::overuse::group::Grouped;
use crate::overuse::{Meter, Step, Watched, sample};
use crate::sandbox::protocol::{Ended, Trouble};
use crate::sandbox::{News, Running};
use crate::sys::memory;
use crate::sys::process::Usage;
use crate::sys::signal::{AllSignals, Arrived};
use hold::Held;
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

    /// Whether somebody asked for the end since.
    pub fn want_the_end(&self) -> bool {
        std::iter::from_fn(|| self.next()).any(|signal| ENDING.contains(&signal))
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

/// How long it may run, how it is stopped, and what it may not do for long.
#[derive(Debug, Clone)]
pub struct Deadline {
    /// From the release on.
    pub wall_time: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The rules on overuse that are judged.
    pub overuse: Vec<Watched>,
}

const SETTLED: Duration = Duration::from_millis(100);
/// How long processes that fork may escape before the record says that not all are held; it goes on after that.
const HOLD: Duration = Duration::from_secs(2);
const HOLD_AGAIN: Duration = Duration::from_millis(50);
/// When a held payload is looked at again: others of its account can continue its processes.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Signals with which a pilot or a batch system ends a job.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// What ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The payload itself.
    Payload,
    /// A signal that the pilot sent to bailey, and that was passed on.
    PilotSignal(i32),
    /// The wall time.
    WallTime,
    /// A rule on overuse.
    Overuse,
    /// The kernel killed it, because its memory ran out.
    Memory,
    /// An order that came by the recorder.
    Ordered(StopBy),
    /// init was killed: nobody is left to say how the payload ended.
    InitLost,
}

/// How it went.
#[derive(Debug)]
pub struct End {
    /// What ended it.
    pub cause: Cause,
    /// Why, in the words of whoever ordered it.
    pub reason: Option<String>,
    /// What stopped it, when that was a rule on overuse.
    pub overuse: Option<Box<Event>>,
    /// Wait status of the payload's process, when init could tell.
    pub status: Option<i32>,
    /// I/O of the tree, when init could tell.
    pub io: Option<Ended>,
    /// CPU, memory and faults of the tree.
    pub usage: Usage,
    /// What its control group counted, where it has one.
    pub group: Option<cgroup::Usage>,
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
    /// The payload is stopped by an order; SIGTERM was sent, SIGKILL comes after the grace, or at once without one.
    Stopped {
        /// What orders it.
        by: StopBy,
        /// Why.
        reason: String,
        /// What is left.
        grace: Option<Duration>,
    },
    /// An order had the payload's processes stopped (SIGSTOP); they stay until it is ended.
    Frozen {
        /// What ordered it.
        by: StopBy,
        /// Why.
        reason: String,
        /// How many processes are held.
        processes: usize,
    },
    /// What there was to keep was kept.
    Preserved(Box<Preserved>),
    /// A rule on overuse takes a step. A stop is about to be made: SIGTERM, and SIGKILL after the grace.
    Overuse {
        /// The rule and its step.
        event: Box<Event>,
        /// Of a stop.
        grace: Duration,
        /// Why the step cannot be taken here; the next one still comes.
        cannot: Option<&'static str>,
    },
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
    /// Tells whoever ordered: every process is held, or all are gone within that time.
    fn obeyed(&mut self, held: bool, within: Option<Duration>);
    /// The directory, which does not exist yet, for what an order to preserve keeps.
    fn preserve_in(&self) -> Result<PathBuf, Failure>;
}

/// Runs until the payload's end.
pub fn supervise(
    running: Running,
    signals: &Signals,
    deadline: Deadline,
    overseer: &mut dyn Overseer,
) -> End {
    let mut watch = Watch::new(running, signals, deadline, overseer);
    let (ended, not_executed) = loop {
        if let Some(end) = watch.turn() {
            break end;
        }
    };
    watch.end(ended, not_executed)
}

/// Whose turn it is to end the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody's.
    Running,
    /// It has its SIGTERM, SIGKILL comes then (`None`: no clock reaches that far).
    Ending(Option<Instant>),
    /// It is held: looked at then, to stop who was continued by others. `settled`: the recorder was told.
    Held { look_at: Instant, settled: bool },
    /// It has its SIGKILL.
    Killed,
}

/// One payload under supervision.
struct Watch<'a> {
    running: Running,
    signals: &'a Signals,
    deadline: Deadline,
    overseer: &'a mut dyn Overseer,
    start: Instant,
    phase: Phase,
    settle_at: Option<Instant>,
    overuse: Option<overuse::Overuse>,
    overused: Option<Box<Event>>,
    stop_at: Option<Instant>,
    passed_on: SignalSet,
    stopped: Option<Cause>,
    reason: Option<String>,
    /// What it is to be frozen by and why, until it is and that was said.
    frozen_as: Option<(StopBy, String)>,
    /// The order that held it and was carried out: a recorder that restarted gives it again.
    done: Option<Stop>,
}

/// What init told, and what the payload's own gate told.
type Told = (Option<Ended>, Option<Trouble>);

impl<'a> Watch<'a> {
    fn new(
        running: Running,
        signals: &'a Signals,
        mut deadline: Deadline,
        overseer: &'a mut dyn Overseer,
    ) -> Self {
        let start = Instant::now();
        let settle_at = start.checked_add(SETTLED);
        let watched = std::mem::take(&mut deadline.overuse);
        // Short payloads are not measured at all.
        let overuse = settle_at.filter(|_| !watched.is_empty()).and_then(|first| {
            let tree = sample::Tree::new(running.init_pid());
            let meter: Box<dyn Meter> = match running.group().and_then(cgroup::Group::gauge) {
                Some(gauge) => Box::new(Grouped::new(gauge, tree)),
                None => Box::new(tree),
            };
            overuse::Overuse::new(watched, meter, first)
        });
        Self {
            stop_at: deadline.wall_time.and_then(|limit| start.checked_add(limit)),
            running,
            signals,
            deadline,
            overseer,
            start,
            phase: Phase::Running,
            // A payload that is still there after this time will be for long: this process then only waits.
            settle_at,
            overuse,
            overused: None,
            passed_on: SignalSet::default(),
            stopped: None,
            reason: None,
            frozen_as: None,
            done: None,
        }
    }

    /// Does what is due, then waits once; the end, when it came.
    fn turn(&mut self) -> Option<Told> {
        let now = Instant::now();
        if self.act(now) {
            return None;
        }
        let phase_at = match self.phase {
            Phase::Ending(at) => at,
            Phase::Held { look_at, .. } => Some(look_at),
            Phase::Running | Phase::Killed => None,
        };
        let wake_at = self.overseer.wake_at();
        let measure_at = self.overuse.as_ref().and_then(overuse::Overuse::wake_at);
        let next = [self.stop_at, phase_at, self.settle_at, wake_at, measure_at].into_iter().flatten().min();
        let timeout = next.map(|at| at.saturating_duration_since(now));
        let Ready { on_signal, on_control, on_gate, on_order } =
            wait(&self.running, self.signals, self.overseer.descriptor(), timeout);
        if on_order || wake_at.is_some_and(|at| Instant::now() >= at) {
            for Order::Stop(stop) in self.overseer.orders() {
                self.order(stop);
            }
            if self.settle_at.is_none() {
                memory::drop_unused_stack();
                memory::drop_own_file_pages(); // what looked is not needed until it looks again
            }
        }
        if on_signal {
            while let Some(signal) = self.signals.next() {
                self.signal(signal);
            }
        }
        if on_gate && let Some(News::NotExecuted(trouble)) = self.running.read_gate() {
            return Some((None, Some(trouble)));
        }
        if on_control {
            return Some(match self.running.read_control() {
                News::Ended(ended) => (Some(ended), None),
                _ => (None, None),
            });
        }
        None
    }

    /// Something was due.
    fn act(&mut self, now: Instant) -> bool {
        if self.settle_at.is_some_and(|at| now >= at) {
            self.settle_at = None;
            memory::drop_unused_stack();
            memory::drop_own_file_pages();
            return true;
        }
        if let (Some(limit), Some(at)) = (self.deadline.wall_time, self.stop_at)
            && now >= at
        {
            // Notice before force: a line for the user, the signal that can be handled, then the one that cannot.
            self.stop_at = None;
            self.stopped.get_or_insert(Cause::WallTime);
            let grace = self.deadline.grace;
            self.overseer.notice(&Notice::WallTime { limit, grace });
            self.terminate(now, grace);
            return true;
        }
        if self.phase != Phase::Running {
            self.overuse = None; // it is held, or ends: it uses nothing up any more that could be helped
        } else if let Some(events) = self.overuse.as_mut().and_then(|overuse| overuse.look(now)) {
            for event in events {
                self.overused(event, now);
            }
            // The code that just ran is not needed for long: its pages go again, as after the start.
            self.settle_at = Some(now);
            return true;
        }
        match self.phase {
            Phase::Ending(Some(at)) if now >= at => self.kill(),
            Phase::Held { look_at, settled } if now >= look_at => {
                let held = hold::stop_all(&self.running, HOLD_AGAIN);
                self.held(held, settled);
            }
            _ => return false,
        }
        true
    }

    /// A rule on overuse takes its step.
    fn overused(&mut self, event: Event, now: Instant) {
        if self.phase != Phase::Running {
            return; // another rule ended it in this very moment
        }
        let grace = event.rule.grace.unwrap_or(self.deadline.grace);
        let cannot = self.overuse.as_mut().and_then(|overuse| overuse.throttle(&event).err());
        let stop = event.step == Step::Stop;
        let event = Box::new(event);
        // The record of a stop comes before the stop.
        self.overseer.notice(&Notice::Overuse { event: event.clone(), grace, cannot });
        if stop {
            self.stopped.get_or_insert(Cause::Overuse);
            self.overused = Some(event);
            self.terminate(now, grace);
        }
    }

    /// SIGTERM, and SIGKILL after the grace.
    fn terminate(&mut self, now: Instant, grace: Duration) {
        self.phase = Phase::Ending(now.checked_add(grace));
        self.running.signal(libc::SIGTERM);
        // A stopped payload could not act on it.
        self.running.signal(libc::SIGCONT);
    }

    fn kill(&mut self) {
        self.phase = Phase::Killed;
        self.running.kill_all();
    }

    /// A signal that somebody sent to bailey.
    fn signal(&mut self, signal: i32) {
        if !matches!(self.phase, Phase::Held { .. }) {
            self.passed_on.add(signal);
            self.running.signal(signal);
            return;
        }
        // A held payload acts on nothing, and must not be continued. What means its end still ends it.
        if ENDING.contains(&signal) {
            self.stopped = Some(Cause::PilotSignal(signal));
            self.kill();
        }
    }

    /// An order. The last one counts; one that was carried out already is only confirmed.
    fn order(&mut self, stop: Stop) {
        if self.phase == Phase::Killed {
            return self.overseer.obeyed(false, Some(Duration::ZERO));
        }
        let now = Instant::now();
        let was_held = matches!(self.phase, Phase::Held { .. });
        let sooner = stop.grace_ms.and_then(|grace| now.checked_add(Duration::from_millis(grace)));
        if let Phase::Ending(at) = self.phase
            && !stop.freeze
            && !stop.preserve
            && sooner.is_none_or(|sooner| at.is_some_and(|at| sooner >= at))
        {
            // It is being stopped already, and gets no longer for that.
            return self.overseer.obeyed(false, at.map(|at| at.saturating_duration_since(now)));
        }
        self.stopped = Some(Cause::Ordered(stop.by));
        self.reason = Some(stop.reason.clone());
        self.stop_at = None; // a held payload uses nothing up
        if stop.freeze || stop.preserve {
            let held = hold::stop_all(&self.running, HOLD);
            if !(was_held && stop.freeze) {
                self.frozen_as = stop.freeze.then(|| (stop.by, stop.reason.clone()));
            }
            self.held(held, false);
        }
        let again = was_held && self.done.as_ref() == Some(&stop);
        if stop.preserve && !again && self.preserve() {
            return; // somebody wanted the end meanwhile, and has it
        }
        if stop.freeze {
            self.done = Some(stop);
            return;
        }
        if stop.preserve || was_held {
            // It must not run again: no signal that it could handle.
            self.overseer.notice(&Notice::Stopped { by: stop.by, reason: stop.reason, grace: None });
            self.kill();
            return self.overseer.obeyed(false, Some(Duration::ZERO));
        }
        let grace = stop.grace_ms.map_or(self.deadline.grace, Duration::from_millis);
        if grace.is_zero() {
            self.overseer.notice(&Notice::Stopped { by: stop.by, reason: stop.reason, grace: None });
            self.kill();
            return self.overseer.obeyed(false, Some(Duration::ZERO));
        }
        self.terminate(now, grace);
        let grace = Some(grace);
        self.overseer.notice(&Notice::Stopped { by: stop.by, reason: stop.reason, grace });
        self.overseer.obeyed(false, grace);
    }

    /// The payload was stopped, as far as that went.
    fn held(&mut self, held: Held, settled: bool) {
        let now_held = held.running == 0;
        if now_held && !settled {
            if let Some((by, reason)) = self.frozen_as.take() {
                self.overseer.notice(&Notice::Frozen { by, reason, processes: held.processes });
            }
            self.overseer.obeyed(true, None);
        }
        let look_at = Instant::now() + if now_held { LOOK_AGAIN } else { LOOK_SOON };
        self.phase = Phase::Held { look_at, settled: settled || now_held };
    }

    /// Keeps what there is; `true` when a signal ended the payload meanwhile.
    fn preserve(&mut self) -> bool {
        let into = self.overseer.preserve_in();
        let mut ending = None;
        let signals = self.signals;
        let preserved = preserve::preserve(&self.running, into, &mut || {
            while ending.is_none()
                && let Some(signal) = signals.next()
            {
                ending = Some(signal).filter(|signal| ENDING.contains(signal));
            }
            ending.is_some()
        });
        self.overseer.notice(&Notice::Preserved(Box::new(preserved)));
        if let Some(signal) = ending {
            self.signal(signal);
        }
        ending.is_some()
    }

    fn end(self, ended: Option<Ended>, not_executed: Option<Trouble>) -> End {
        let status = ended.map(|ended| ended.status);
        let own = match status {
            None if not_executed.is_none() => Cause::InitLost,
            Some(status) if libc::WIFSIGNALED(status) && self.passed_on.has(libc::WTERMSIG(status)) => {
                Cause::PilotSignal(libc::WTERMSIG(status))
            }
            Some(_) | None => Cause::Payload,
        };
        let group = self.running.group().map(cgroup::Group::usage);
        let killed =
            status.is_none_or(|status| libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
        let for_memory = killed
            && not_executed.is_none()
            && !self.passed_on.has(libc::SIGKILL)
            && group.and_then(|group| group.oom_kills).is_some_and(|kills| kills > 0);
        let cause = self.stopped.unwrap_or(if for_memory { Cause::Memory } else { own });
        let reason = self.reason.filter(|_| matches!(cause, Cause::Ordered(_)));
        let overuse = self.overused.filter(|_| cause == Cause::Overuse);
        let duration = self.start.elapsed();
        let running = self.running;
        let Some(ended) = ended else {
            let usage = running.reap();
            return End {
                cause,
                reason,
                overuse,
                status,
                io: None,
                usage,
                group,
                not_executed,
                duration,
                teardown: None,
            };
        };
        // The kernel takes init's namespaces apart now; there is time to write the end record meanwhile.
        End {
            cause,
            reason,
            overuse,
            status,
            io: Some(ended),
            usage: ended.usage,
            group,
            not_executed,
            duration,
            teardown: Some(running),
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
