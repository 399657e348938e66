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
use super::records;
use super::server::{After, Server, now, say};
use super::stops::Asked;
use crate::audit::Timestamp;
use crate::audit::record::{Action, EndBy, Host, Record};
use crate::audit::wire;
use crate::failure::Failure;
use crate::policy::facts::Facts;
use crate::request::LaunchId;
use crate::sys::pidfd;

const PIDFD: u64 = 1 << 63;
/// How long a launcher that lives may take to come back, and to report the end of a payload that is gone. Longer than
/// `audit.wait`'s default, so that a launcher that waits for a restarting recorder is not told off.
pub(super) const COME_BACK: Duration = Duration::from_secs(15);
/// How long an end may be ahead of the kernel's word that the process is gone.
const END_AHEAD: Duration = Duration::from_secs(2);
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
    pub(super) base: Box<Record>,
    pub(super) facts: Box<Facts>,
    /// Under what it counts.
    pub(super) crowd: Vec<String>,
}

/// What a launcher told of the end: when, the record, and whom to answer.
pub(super) type Told = (Instant, Box<Record>, Option<(u64, u32)>);

/// A live payload.
pub(super) struct Payload {
    pub(super) connection: Option<u64>,
    pub(super) uid: u32,
    /// `None` when it was gone before this recorder started.
    pub(super) pidfd: Option<OwnedFd>,
    /// Token of the pidfd.
    pub(super) watch: u64,
    pub(super) launcher: Option<Arc<OwnedFd>>,
    pub(super) launcher_is: (i64, u64),
    pub(super) process_is: (i64, u64),
    pub(super) processes: [(i32, u64); 2],
    pub(super) nested: bool,
    pub(super) base: Box<Record>,
    /// Who it is, for bans to come.
    pub(super) facts: Box<Facts>,
    /// Under what it counts ([`suspend::keys`](super::suspend::keys)).
    pub(super) crowd: Vec<String>,
    pub(super) since: Option<Timestamp>,
    pub(super) seq: u64,
    pub(super) hash: String,
    /// The pidfd said that it is gone.
    pub(super) exited: Option<Instant>,
    /// Its connection went.
    pub(super) orphaned: Option<Instant>,
    /// It was live when this recorder started.
    pub(super) restarted: bool,
    pub(super) outlives: bool,
    /// The launcher's end record, until the pidfd agrees: since when, record, whom to tell.
    pub(super) end: Option<Told>,
    /// A closing record that could not be written, to be tried again.
    pub(super) again: Option<Box<Record>>,
    /// Its closing record is in the batch.
    pub(super) closing: bool,
    pub(super) asked: Option<Asked>,
    /// Its launcher says that every process of it is held.
    pub(super) held: bool,
    /// An administrator had it stopped, as this log says: nobody else can say that of an end.
    pub(super) stopped: bool,
}

impl Payload {
    /// One of which nothing is known but who it is.
    pub(super) fn new(uid: u32, launcher_is: (i64, u64), process_is: (i64, u64), base: Box<Record>) -> Self {
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
            facts: Box::default(),
            crowd: Vec::new(),
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

pub(super) fn gone(pidfd: Option<&OwnedFd>) -> bool {
    pidfd.is_none_or(|pidfd| pidfd::has_exited(pidfd.as_fd()))
}

impl Server {
    /// The receipt's record is durable: the payload is live.
    pub(super) fn begin(&mut self, token: u64, begun: Begun, written: &Written) {
        let Begun { id, uid, payload, processes, nested, base, facts, crowd } = begun;
        let launcher = self.connections.get(&token).map(|connection| connection.peer.pidfd());
        let of = |pid: Option<i64>, ticks: Option<u64>| (pid.unwrap_or_default(), ticks.unwrap_or_default());
        let launcher_is = of(base.process.parent.pid, base.grid.launcher.start_ticks);
        let process_is = of(base.process.pid, base.grid.start_ticks);
        let mut live = Payload {
            pidfd: Some(payload),
            launcher,
            processes,
            nested,
            facts,
            crowd,
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

    pub(super) fn watch(&mut self, id: LaunchId, live: &mut Payload) {
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

    /// The launcher reports the end.
    pub(super) fn end_reported(&mut self, id: LaunchId, claim: &Record, tell: (u64, u32)) {
        let now = Instant::now();
        let Some(live) = self.payloads.get_mut(&id) else { return };
        if live.exited.is_none() && gone(live.pidfd.as_ref()) {
            live.exited = Some(now);
        }
        if live.exited.is_some() && !live.closing && live.again.is_none() {
            return self.end_as_told(id, claim, Some(tell));
        }
        // Ends are not counted against anybody, and each may wait two seconds: only what an end can say is kept of it.
        let record = records::end(&Record::new(Action::PayloadEnd, id), claim, id, &Host::default(), true);
        live.end = Some((now, Box::new(record), Some(tell)));
        self.look_at(id, now);
    }

    /// The payload is gone, and this is what its launcher says of it.
    fn end_as_told(&mut self, id: LaunchId, claim: &Record, tell: Option<(u64, u32)>) {
        let node = self.node().clone();
        let Some(live) = self.payloads.get_mut(&id) else { return };
        live.end = None;
        let status = live.pidfd.as_ref().and_then(|pidfd| observe::exit_status(pidfd.as_fd()));
        let mut end = records::end(&live.base, claim, id, &node, live.stopped);
        records::compare_end(&mut end, status);
        self.close(id, end, tell);
    }

    /// Decides whether the payload can be closed now, and by what.
    pub(super) fn look_at(&mut self, id: LaunchId, now: Instant) {
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
            return self.end_as_told(id, &claim, tell);
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

    pub(super) fn close(&mut self, id: LaunchId, record: impl Into<Box<Record>>, tell: Option<(u64, u32)>) {
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
        self.crowd.remove(&live.crowd);
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
        self.ids.remember(id);
    }

    /// The closing record could not be written: the next beat tries again.
    pub(super) fn close_later(&mut self, id: LaunchId, record: Box<Record>) {
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

    /// Rows for `bailey ps`: of one uid, or all.
    pub(super) fn rows(&self, is_asked: impl Fn(&Payload) -> bool) -> Vec<wire::LiveRow> {
        let mut rows: Vec<wire::LiveRow> = self
            .payloads
            .iter()
            .filter(|(_, live)| is_asked(live))
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
}
