//! Live payloads: from the receipt to the one record that closes each, whoever dies first.
//!
//! 1. A payload stays in the table until its closing record is written. A write that fails is tried again at every beat.
//! 2. While its launcher may come back, the payload's end is the launcher's to tell; afterwards the recorder tells it.
//! 3. An end is believed when the payload's pidfd says that the process is gone, and not before.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::connections::Stage;
use super::log::{Live, Written};
use super::observe;
use super::records::{self, Asker};
use super::server::{After, Server, now, say};
use crate::audit::Timestamp;
use crate::audit::record::{Action, EndBy, Host, LiveEntry, Record};
use crate::audit::wire::{self, Message};
use crate::failure::Failure;
use crate::request::LaunchId;
use crate::sys::pidfd;

const PIDFD: u64 = 1 << 63;
/// How long a launcher that lives may take to come back, and to report the end of a payload that is gone. Longer than
/// `audit.wait`'s default, so that a launcher that waits for a restarting recorder is not told off.
const COME_BACK: Duration = Duration::from_secs(15);
/// How long an end may be ahead of the kernel's word that the process is gone.
const END_AHEAD: Duration = Duration::from_secs(2);
/// How long a launcher may take to answer an order, and longer than it promised to carry it out.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to keep a payload's files before it ends it.
const PRESERVE: Duration = Duration::from_secs(900);
/// How long a launcher that is connected may say nothing of the end of a payload that is gone: it was stopped, or it does not
/// want to.
const SILENT: Duration = Duration::from_secs(120);
/// How long a payload may outlive its launcher before the log says so.
const OUTLIVES: Duration = Duration::from_secs(10);

/// A launch on its way to being live.
pub(super) struct Begun {
    pub(super) id: LaunchId,
    pub(super) uid: u32,
    pub(super) payload: OwnedFd,
    /// pid and start ticks of the payload and of its init.
    pub(super) processes: [(i32, u64); 2],
    pub(super) nested: bool,
    pub(super) base: Record,
}

/// The last stop that was asked for.
#[derive(Debug)]
struct Asked {
    order: wire::Stop,
    /// The launcher was told: it was connected. Else it is told when it comes back.
    sent: bool,
    /// The launcher answered.
    answered: bool,
    /// When it must have answered, or the payload be gone, at the latest.
    due: Option<Instant>,
    /// The log says that it did not.
    told_off: bool,
}

/// What a launcher told of the end: when, the record, and whom to answer.
type Told = (Instant, Record, Option<(u64, u32)>);

/// A live payload.
pub(super) struct Payload {
    pub(super) connection: Option<u64>,
    pub(super) uid: u32,
    /// `None` when it was gone before this recorder started.
    pidfd: Option<OwnedFd>,
    /// Token of the pidfd.
    watch: u64,
    launcher: Option<Arc<OwnedFd>>,
    pub(super) launcher_is: (i64, u64),
    pub(super) process_is: (i64, u64),
    processes: [(i32, u64); 2],
    pub(super) nested: bool,
    pub(super) base: Record,
    pub(super) since: Option<Timestamp>,
    pub(super) seq: u64,
    pub(super) hash: String,
    /// The pidfd said that it is gone.
    exited: Option<Instant>,
    /// Its connection went.
    orphaned: Option<Instant>,
    /// It was live when this recorder started.
    restarted: bool,
    outlives: bool,
    /// The launcher's end record, until the pidfd agrees: since when, record, whom to tell.
    end: Option<Told>,
    /// A closing record that could not be written, to be tried again.
    again: Option<Record>,
    /// Its closing record is in the batch.
    closing: bool,
    asked: Option<Asked>,
    /// Its launcher says that every process of it is held.
    held: bool,
    /// An administrator had it stopped, as this log says: nobody else can say that of an end.
    stopped: bool,
}

impl Payload {
    /// One of which nothing is known but who it is.
    fn new(uid: u32, launcher_is: (i64, u64), process_is: (i64, u64), base: Record) -> Self {
        Self {
            connection: None,
            uid,
            pidfd: None,
            watch: 0,
            launcher: None,
            launcher_is,
            process_is,
            processes: [(0, 0); 2],
            nested: false,
            base,
            since: None,
            seq: 0,
            hash: String::new(),
            exited: None,
            orphaned: None,
            restarted: false,
            outlives: false,
            end: None,
            again: None,
            closing: false,
            asked: None,
            held: false,
            stopped: false,
        }
    }

    /// In a word, for `bailey ps`.
    pub(super) fn state(&self) -> &'static str {
        let frozen = self.held && self.asked.as_ref().is_none_or(|asked| asked.order.freeze);
        match (self.exited, &self.asked, self.connection) {
            (Some(_), ..) => "ended",
            (_, Some(asked), _) if asked.told_off => "disobeyed",
            (.., Some(_)) if frozen => "frozen",
            (_, Some(asked), _) if asked.sent => "stopping",
            (.., None) => "without launcher",
            _ => "running",
        }
    }
}

fn gone(pidfd: Option<&OwnedFd>) -> bool {
    pidfd.is_none_or(|pidfd| pidfd::has_exited(pidfd.as_fd()))
}

impl Server {
    /// The receipt's record is durable: the payload is live.
    pub(super) fn begin(&mut self, token: u64, begun: Begun, written: &Written) {
        let Begun { id, uid, payload, processes, nested, base } = begun;
        let launcher = self.connections.get(&token).map(|connection| connection.peer.pidfd());
        let of = |pid: Option<i64>, ticks: Option<u64>| (pid.unwrap_or_default(), ticks.unwrap_or_default());
        let launcher_is = of(base.process.parent.pid, base.grid.launcher.start_ticks);
        let process_is = of(base.process.pid, base.grid.start_ticks);
        let mut live = Payload {
            pidfd: Some(payload),
            launcher,
            processes,
            nested,
            since: Some(written.at),
            seq: written.seq,
            hash: written.hash.clone(),
            ..Payload::new(uid, launcher_is, process_is, base)
        };
        self.watch(id, &mut live);
        match self.connections.get_mut(&token) {
            Some(connection) => {
                connection.stage = Stage::Live(id);
                live.connection = Some(token);
                self.accounts.idle_less(uid);
            }
            None => live.orphaned = Some(Instant::now()),
        }
        self.payloads.insert(id, live);
    }

    fn watch(&mut self, id: LaunchId, live: &mut Payload) {
        live.watch = PIDFD | self.token();
        if let Some(pidfd) = &live.pidfd
            && self.epoll.add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, live.watch)).is_err()
        {
            say(&Failure::site(
                "cannot watch a payload",
                "epoll refused its pidfd",
                "raise the limit on open files",
            ));
        }
        self.pidfds.insert(live.watch, id);
        for process in live.processes {
            self.processes.insert(process, id);
        }
    }

    /// The kernel says that the payload's process is gone.
    pub(super) fn payload_exited(&mut self, token: u64) {
        let Some(id) = self.pidfds.get(&token).copied() else { return };
        let Some(live) = self.payloads.get_mut(&id) else { return };
        live.exited.get_or_insert_with(Instant::now);
        if let Some(pidfd) = &live.pidfd {
            let _ = self.epoll.delete(pidfd); // it stays readable for ever
        }
        self.look_at(id, Instant::now());
    }

    /// The launcher's connection went.
    pub(super) fn orphaned(&mut self, id: LaunchId, token: u64) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        if live.connection != Some(token) {
            return;
        }
        live.connection = None;
        live.orphaned = Some(Instant::now());
        self.look_at(id, Instant::now());
    }

    /// The launcher came back on another connection.
    pub(super) fn resumed(&mut self, id: LaunchId, token: u64) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        if let Some(old) = live.connection.replace(token)
            && old != token
        {
            // Both are the same process: the kernel says so. The older one is a leftover.
            if let Some(connection) = self.connections.get_mut(&old) {
                connection.stage = Stage::Greeted;
                self.accounts.idle_more(live.uid);
            }
        }
        live.orphaned = None;
        let uid = live.uid;
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Live(id);
            self.accounts.idle_less(uid);
        }
    }

    /// The launcher knows that it is back: an order that came meanwhile follows.
    pub(super) fn welcome_back(&mut self, id: LaunchId) {
        self.pass_on(id);
    }

    /// The launcher reports the end.
    pub(super) fn end_reported(&mut self, id: LaunchId, claim: &Record, tell: (u64, u32)) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        // Ends are not counted against anybody, and each may wait two seconds: only what an end can say is kept of it.
        let record = records::end(&Record::new(Action::PayloadEnd, id), claim, id, &Host::default(), true);
        live.end = Some((Instant::now(), record, Some(tell)));
        self.look_at(id, Instant::now());
    }

    /// Decides whether the payload can be closed now, and by what.
    fn look_at(&mut self, id: LaunchId, now: Instant) {
        let node = self.node().clone();
        let Some(live) = self.payloads.get_mut(&id) else { return };
        if live.closing {
            return;
        }
        if let Some(record) = live.again.take() {
            self.close(id, record, None);
            return;
        }
        if live.exited.is_none() && gone(live.pidfd.as_ref()) {
            live.exited = Some(now);
        }
        let status = || live.pidfd.as_ref().and_then(|pidfd| observe::exit_status(pidfd.as_fd()));
        if live.exited.is_some()
            && let Some((_, claim, tell)) = live.end.take()
        {
            let mut end = records::end(&live.base, &claim, id, &node, live.stopped);
            records::compare_end(&mut end, status());
            self.close(id, end, tell);
            return;
        }
        if let Some((since, _, tell)) = &live.end
            && now.duration_since(*since) >= END_AHEAD
        {
            let tell = *tell;
            live.end = None;
            let why = "the launcher reported the end of a payload that, as the kernel says, still runs";
            let notice = records::notice(&live.base, id, &node, why.to_owned());
            let uid = live.uid;
            if self.accounts.may_record_refusal(uid, now) {
                self.stage(notice, Live::Same, false, true, After::Nothing, uid);
            }
            if let Some((token, serial)) = tell {
                let failure = Failure::record("cannot record the end", why, "report this as a defect");
                self.refuse(token, serial, &failure);
            }
            return;
        }
        if live.connection.is_some() {
            if live.exited.is_some_and(|exited| now.duration_since(exited) >= SILENT) {
                let why = "the payload is gone, and its launcher does not report the end";
                let end =
                    records::lost(&live.base, id, EndBy::LauncherLost, why, &node, live.since, status());
                self.close(id, end, None);
            }
            return;
        }
        let Some(orphaned) = live.orphaned else { return };
        let launcher_gone = gone(live.launcher.as_deref());
        match live.exited {
            Some(exited) => {
                if !launcher_gone && now.duration_since(orphaned.max(exited)) < COME_BACK {
                    return;
                }
                let (by, reason) = match (live.restarted, launcher_gone) {
                    (true, true) => {
                        (EndBy::RecorderRestart, "launcher and payload ended while the recorder was down")
                    }
                    (true, false) => (
                        EndBy::RecorderRestart,
                        "the payload is gone, and its launcher did not come back after the recorder's restart",
                    ),
                    (false, true) => (
                        EndBy::LauncherLost,
                        "the launcher died before it could report the end; the payload died too",
                    ),
                    (false, false) => (
                        EndBy::LauncherLost,
                        "the payload is gone, and its launcher left without reporting the end",
                    ),
                };
                let end = records::lost(&live.base, id, by, reason, &node, live.since, status());
                self.close(id, end, None);
            }
            None if launcher_gone && !live.outlives && now.duration_since(orphaned) >= OUTLIVES => {
                live.outlives = true;
                let why = "the payload outlives its launcher: nobody supervises it".to_owned();
                let notice = records::notice(&live.base, id, &node, why);
                let uid = live.uid;
                self.stage(notice, Live::Same, false, true, After::Nothing, uid);
            }
            None => {}
        }
    }

    fn close(&mut self, id: LaunchId, record: Record, tell: Option<(u64, u32)>) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        live.closing = true;
        let uid = live.uid;
        self.stage(record, Live::Ends(id.to_string()), false, true, After::Closed { id, tell }, uid);
    }

    /// The closing record is written.
    pub(super) fn closed(&mut self, id: LaunchId, record: &Record) {
        let Some(live) = self.payloads.remove(&id) else { return };
        if let Some(pidfd) = &live.pidfd
            && live.exited.is_none()
        {
            let _ = self.epoll.delete(pidfd);
        }
        self.pidfds.remove(&live.watch);
        for process in live.processes {
            // An init may be that of several payloads.
            if self.processes.get(&process) == Some(&id) {
                self.processes.remove(&process);
            }
        }
        self.accounts.ended(live.uid);
        if let Some(connection) = live.connection.and_then(|token| self.connections.get_mut(&token)) {
            connection.stage = Stage::Greeted;
            connection.since = Instant::now();
            self.accounts.idle_more(live.uid);
        }
        let by = match (record.event.action, record.grid.end.by) {
            (Action::LaunchFailed, _) => "launch-failed",
            (_, Some(by)) => by.as_str(),
            _ => "unknown",
        };
        *self.counters.ends.entry(by).or_default() += 1;
        self.remember(id);
    }

    /// The closing record could not be written: the next beat tries again.
    pub(super) fn close_later(&mut self, id: LaunchId, record: Record) {
        if let Some(live) = self.payloads.get_mut(&id) {
            live.closing = false;
            live.again = Some(record);
        }
    }

    /// At every beat: whoever has something pending.
    pub(super) fn look_at_payloads(&mut self, now: Instant) {
        let pending: Vec<LaunchId> = self
            .payloads
            .iter()
            .filter(|(_, live)| {
                live.connection.is_none()
                    || live.end.is_some()
                    || live.again.is_some()
                    || live.exited.is_some_and(|exited| now.duration_since(exited) >= SILENT)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in pending {
            self.look_at(id, now);
        }
        self.tell_off(now);
    }

    // ---- stopping ----

    /// Whether there is still somebody who could carry an order out.
    pub(super) fn has_launcher(&self, id: LaunchId) -> bool {
        self.payloads
            .get(&id)
            .is_some_and(|live| live.connection.is_some() || !gone(live.launcher.as_deref()))
    }

    /// The payload is to be stopped: its record is written, or could not be. Says in words what becomes of it; `None` when it
    /// ended meanwhile.
    pub(super) fn order(&mut self, id: LaunchId, order: wire::Stop) -> Option<String> {
        let live = self.payloads.get_mut(&id).filter(|live| live.exited.is_none())?;
        live.stopped = true;
        live.asked = Some(Asked { order, sent: false, answered: false, due: None, told_off: false });
        let (pid, connected) = (live.launcher_is.0, live.connection.is_some());
        self.pass_on(id);
        let Some(asked) = self.payloads.get(&id).and_then(|live| live.asked.as_ref()) else {
            return Some(format!("launcher {pid} was told and is gone"));
        };
        let what = match (asked.order.freeze, asked.order.preserve) {
            (true, true) => "hold the payload and keep its files",
            (true, false) => "hold the payload",
            (false, true) => "keep the payload's files and end it",
            (false, false) => "stop the payload",
        };
        let when = if connected { "was told" } else { "is told as soon as it comes back" };
        Some(format!("launcher {pid} {when} to {what} of launch {id}"))
    }

    /// Sends the order that waits, if one does.
    fn pass_on(&mut self, id: LaunchId) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        let (Some(token), Some(asked)) = (live.connection, &mut live.asked) else { return };
        if asked.answered {
            return;
        }
        asked.sent = true;
        asked.due = Instant::now().checked_add(ANSWER);
        let message = Message::Stop(asked.order.clone());
        self.send(token, 0, &message);
    }

    /// The launcher says what became of its order.
    pub(super) fn obeyed(&mut self, id: LaunchId, obeyed: &wire::Obeyed) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        // Only who was told to can have done it; before a restart, that is in the log.
        if !live.stopped {
            return;
        }
        live.held = obeyed.held;
        let Some(asked) = &mut live.asked else { return };
        asked.answered = true;
        asked.told_off = false;
        let within = match (obeyed.held, asked.order.freeze, obeyed.within) {
            (true, true, _) => None,
            (true, false, _) => Some(PRESERVE),
            (false, _, within) => Some(Duration::from_secs(within.unwrap_or(0)).saturating_add(ANSWER)),
        };
        asked.due = within.and_then(|within| Instant::now().checked_add(within));
    }

    /// A launcher that does not stop its payload is named.
    fn tell_off(&mut self, now: Instant) {
        let late: Vec<LaunchId> = self
            .payloads
            .iter()
            .filter(|(_, live)| live.exited.is_none())
            .filter(|(_, live)| {
                live.asked
                    .as_ref()
                    .is_some_and(|asked| !asked.told_off && asked.due.is_some_and(|due| now >= due))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let node = self.node().clone();
            let Some(live) = self.payloads.get_mut(&id) else { continue };
            let Some(asked) = &mut live.asked else { continue };
            asked.told_off = true;
            let launcher = live.launcher_is.0;
            let why = if asked.answered {
                format!("launcher {launcher} said that it would stop the payload, and it is still there")
            } else {
                format!("launcher {launcher} was told to stop the payload and did not answer")
            };
            let notice = records::notice(&live.base, id, &node, why);
            let uid = live.uid;
            self.stage(notice, Live::Same, false, true, After::Nothing, uid);
        }
    }

    // ---- after a restart ----

    /// Takes over what the log says is live: what still runs waits for its launcher, the rest is closed.
    pub(super) fn take_over_live(&mut self) {
        let entries: Vec<LiveEntry> = self.log.live().values().cloned().collect();
        let boot = self.node().boot.id.clone();
        let mut other_boot = false;
        for entry in entries {
            let Some(id) = entry.id.as_deref().and_then(LaunchId::parse) else { continue };
            let launch = self.log.launch_record(&entry);
            let base = match &launch {
                Some(record) => records::base(record, id),
                None => records::base_of_entry(&entry, id),
            };
            let same_boot = launch.as_ref().is_none_or(|record| record.host.boot.id == boot);
            if !same_boot && !other_boot {
                other_boot = true;
                let node = self.node().clone();
                let reason = "the host went down while the recorder served".to_owned();
                let record = records::service(
                    Action::HostRestart,
                    &node,
                    crate::audit::record::Recorder::default(),
                    Some(reason),
                );
                self.stage(record, Live::Same, true, true, After::Nothing, 0);
            }
            self.take_over(id, &entry, base, same_boot);
        }
    }

    fn take_over(&mut self, id: LaunchId, entry: &LiveEntry, base: Record, same_boot: bool) {
        let process_is = (entry.pid.unwrap_or_default(), entry.start_ticks.unwrap_or_default());
        let launcher_is = (entry.launcher_pid.unwrap_or_default(), entry.launcher_ticks.unwrap_or_default());
        let open = |(pid, ticks): (i64, u64)| observe::process(i32::try_from(pid).ok()?, ticks);
        let (pidfd, launcher) = if same_boot { (open(process_is), open(launcher_is)) } else { (None, None) };
        let payload_pid = i32::try_from(process_is.0).unwrap_or_default();
        let init = pidfd.as_ref().and_then(|_| observe::parent_of(payload_pid)).unwrap_or_default();
        let uid = entry.uid.unwrap_or_default();
        let mut live = Payload {
            exited: pidfd.is_none().then(Instant::now),
            pidfd,
            launcher: launcher.map(Arc::new),
            processes: [(payload_pid, process_is.1), init],
            nested: entry.nested.unwrap_or(false),
            since: entry.since,
            seq: entry.seq.unwrap_or_default(),
            hash: entry.hash.clone().unwrap_or_default(),
            orphaned: Some(Instant::now()),
            restarted: true,
            stopped: entry.stopped.unwrap_or(false),
            ..Payload::new(uid, launcher_is, process_is, base)
        };
        self.watch(id, &mut live);
        self.accounts.begun(uid, Instant::now());
        if same_boot {
            self.payloads.insert(id, live);
            self.look_at(id, Instant::now());
            return;
        }
        let node = self.node().clone();
        let why = "the host went down while the payload ran";
        let end = records::lost(&live.base, id, EndBy::HostRestart, why, &node, None, None);
        self.payloads.insert(id, live);
        self.close(id, end, None);
    }

    /// Rows for `bailey ps`: of one uid, or all.
    pub(super) fn rows(&self, only: Option<u32>) -> Vec<wire::LiveRow> {
        let mut rows: Vec<wire::LiveRow> = self
            .payloads
            .iter()
            .filter(|(_, live)| only.is_none_or(|uid| live.uid == uid))
            .map(|(id, live)| wire::LiveRow {
                id: id.to_string(),
                pid: live.process_is.0,
                uid: live.uid,
                since: live.since.unwrap_or_else(now).to_string(),
                user: live.base.user.id.clone(),
                vo: live.base.grid.vo.clone(),
                job: live.base.grid.job.id.clone(),
                state: live.state().to_owned(),
            })
            .collect();
        rows.sort_unstable_by(|a, b| (&a.since, &a.id).cmp(&(&b.since, &b.id)));
        rows
    }

    /// Whether a stop of this payload is the asker's to order.
    pub(super) fn may_stop(&self, id: LaunchId, asker: Asker, is_administrator: bool) -> bool {
        self.payloads.get(&id).is_some_and(|live| is_administrator || live.uid == asker.uid)
    }
}
