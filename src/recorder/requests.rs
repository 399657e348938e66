//! What peers ask for, and what they are told. Launches: `launches`; stops: `stops`; launchers that come back: `resume`.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::connections::Stage;
use super::launches::defect;
use super::log::Live;
use super::observe::{self, Submitted};
use super::records::{self, Asker};
use super::server::{After, Server, now};
use crate::audit::drain;
use crate::audit::record::{Action, Record};
use crate::audit::wire::{self, Done, LiveRow, Message, Packet, Rows, Welcome};
use crate::failure::Failure;
use crate::request::LaunchId;
use crate::sys::socket::Received;

/// Bytes of one page of rows, about.
const PAGE: usize = 64 * 1024;
fn not_now(message: &Message) -> Failure {
    Failure::record(
        format!("the recorder cannot take {} now", message.name()),
        "it does not fit what was said before on this connection",
        "report this as a defect",
    )
}

impl Server {
    /// One message of a peer.
    pub(super) fn message(&mut self, token: u64, packet: Packet, received: Received) {
        let Packet { serial, message, .. } = packet;
        let Received { length, fds, .. } = received;
        let Some(connection) = self.connections.get(&token) else { return };
        let (uid, stage, inside) = (connection.peer.uid, connection.stage.clone(), connection.inside);
        match (stage, message) {
            (Stage::New, Message::Hello(hello)) => self.hello(token, serial, &hello, fds),
            (Stage::Greeted, Message::Launch(launch)) => {
                self.launch(token, serial, launch, length, fds);
            }
            (Stage::Greeted, Message::Health(launch)) => self.check(token, serial, &launch, fds),
            (Stage::Greeted, Message::Frozen(frozen)) => self.frozen(token, &frozen, fds),
            (stage, message) => {
                self.digests.discard(uid, fds);
                match (stage, message) {
                    (Stage::New, message) => {
                        self.refuse(token, serial, &not_now(&message));
                        self.disconnect(token);
                    }
                    (Stage::Live(id), Message::Note(note)) => self.note_of_live(token, serial, id, &note),
                    (Stage::Greeted, Message::Note(note)) => self.note(token, serial, &note),
                    (Stage::Greeted, Message::Resume(resume)) => self.resume(token, serial, &resume),
                    (
                        Stage::Greeted,
                        Message::Ps(_)
                        | Message::Stop(_)
                        | Message::Drain(_)
                        | Message::Query(_)
                        | Message::BanTold(_)
                        | Message::Identity(_),
                    ) if inside.is_some() => {
                        // What the pilot may do, a payload of its account may not.
                        let failure = Failure::refused(
                            "the recorder takes launches from inside a payload, and nothing else",
                            inside.map_or_else(String::new, |id| {
                                format!("this program runs inside launch {id}")
                            }),
                            "ask from outside",
                        );
                        self.refuse(token, serial, &failure);
                    }
                    (Stage::Greeted, Message::Ps(_)) => self.ps(token, serial),
                    (Stage::Greeted, Message::Stop(stop)) => self.stop_asked(token, serial, stop),
                    (Stage::Greeted, Message::Drain(drain)) => self.drain(token, serial, drain),
                    (Stage::Greeted, Message::Query(query)) => self.query(token, serial, &query),
                    (Stage::Greeted, Message::BanTold(told)) => self.ban_told(token, serial, told),
                    (Stage::Greeted, Message::Identity(learned)) => self.learned(token, serial, &learned),
                    (Stage::Live(id), Message::Obeyed(obeyed)) => self.obeyed(id, &obeyed),
                    (_, message) => self.refuse(token, serial, &not_now(&message)),
                }
            }
        }
    }

    fn hello(&mut self, token: u64, serial: u32, hello: &wire::Hello, mut fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get(&token) else { return };
        let uid = connection.peer.uid;
        let inside = observe::enclosing(&connection.peer, |pid, ticks| {
            self.processes.get(&(pid, ticks)).map(ToString::to_string)
        });
        let inside = inside.as_deref().and_then(LaunchId::parse);
        if let Some(outer) = inside.filter(|outer| !self.payloads.get(outer).is_some_and(|live| live.nested))
        {
            self.digests.discard(uid, fds);
            let failure = from_inside(outer);
            let mut claim = Record::new(Action::PayloadDeny, outer);
            claim.event.id = None;
            claim.container.id = None;
            claim.grid.parent_launch = Some(outer.to_string());
            return self.deny(token, serial, &claim, &failure);
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.inside = inside;
        let Some(version) = wire::common(hello) else {
            self.digests.discard(uid, fds);
            let failure = Failure::record(
                "the recorder does not speak this program's versions of the protocol",
                format!(
                    "it speaks {} to {}, here are {} to {}",
                    hello.oldest,
                    hello.newest,
                    wire::OLDEST,
                    wire::NEWEST
                ),
                "update the older of the two packages",
            );
            self.refuse(token, serial, &failure);
            self.disconnect(token);
            return;
        };
        connection.version = version;
        connection.stage = Stage::Greeted;
        if let Some(fd) = fds.pop() {
            match self.digests.program(uid, connection.peer.pid, token, fd) {
                Submitted::Known(program) => connection.program = Some(program),
                submitted => connection.hashing = submitted == Submitted::Later,
            }
        }
        self.digests.discard(uid, fds);
        self.look_at_drain_flag();
        let welcome = Welcome {
            version,
            writer: self.log.writer().to_owned(),
            draining: self.draining.clone(),
            health: true,
            early: true,
        };
        self.send(token, serial, &Message::Welcome(welcome));
    }

    /// No. One record a second and uid says so; the launcher is told in any case, after the record is written.
    pub(super) fn deny(&mut self, token: u64, serial: u32, claim: &Record, failure: &Failure) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.stage != Stage::New {
            connection.stage = Stage::Greeted;
        }
        let (uid, asker) = (connection.peer.uid, connection.asker());
        if !self.accounts.may_record_refusal(uid, Instant::now()) {
            return self.refuse(token, serial, failure);
        }
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let node = self.node().clone();
        let record = records::deny(claim, failure, &node, asker);
        let answer = Message::Refused(wire::Refused::of(failure));
        self.stage(record, Live::Same, false, false, After::Answer { token, serial, answer }, uid);
    }

    // ---- what comes after ----

    fn note_of_live(&mut self, token: u64, serial: u32, id: LaunchId, note: &wire::Note) {
        let Some(connection) = self.connections.get(&token) else { return };
        let (uid, asker) = (connection.peer.uid, connection.asker());
        if note.record.event.action.closes() {
            return self.end_reported(id, &note.record, (token, serial));
        }
        if let Err(failure) = self.accounts.spend(uid, Instant::now()) {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let base = self.payloads.get(&id).map(|live| &*live.base);
        match base.and_then(|base| records::note(Some(base), &note.record, id, &node, asker)) {
            Some(record) => {
                if let (Some(metric), Some(step)) = (record.grid.overuse.metric, record.grid.overuse.step) {
                    *self.counters.overuse.entry((metric, step)).or_default() += 1;
                }
                let answer = Message::Done(Done { text: String::new() });
                self.stage(record, Live::Same, false, false, After::Answer { token, serial, answer }, uid);
            }
            None => self.refuse(token, serial, &defect("such a record is not a launcher's to write")),
        }
    }

    /// A launch that came to nothing before it had a record.
    fn note(&mut self, token: u64, serial: u32, note: &wire::Note) {
        let Some(connection) = self.connections.get(&token) else { return };
        let (uid, asker) = (connection.peer.uid, connection.asker());
        if let Err(failure) = self.accounts.spend(uid, Instant::now()) {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let id = LaunchId::parse(&note.id);
        if id.is_some_and(|id| self.ids.was_closed(id)) {
            let failure = defect("a launch of that id was here before, and ended");
            return self.refuse_closed(token, serial, &failure);
        }
        if id.is_some_and(|id| !self.ids.is_of_now(id)) {
            // It may have been here and be forgotten, and then this would be its second end.
            return self.refuse(token, serial, &defect("the time in its launch id is not of now"));
        }
        let record = id
            .filter(|id| !self.payloads.contains_key(id) && !self.launching.contains(id))
            .and_then(|id| records::note(None, &note.record, id, &node, asker));
        match record {
            Some(record) => {
                // One launch, one fate: it cannot begin any more.
                if let Some(id) = id {
                    self.ids.remember(id);
                }
                let answer = Message::Done(Done { text: String::new() });
                self.stage(record, Live::Same, true, false, After::Answer { token, serial, answer }, uid);
            }
            None => self.refuse(token, serial, &defect("such a record is not a launcher's to write")),
        }
    }

    /// No: the record that closes the launch is written already. A launcher need not tell its end any more.
    pub(super) fn refuse_closed(&mut self, token: u64, serial: u32, failure: &Failure) {
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let refused = wire::Refused { closed: true, ..wire::Refused::of(failure) };
        self.send(token, serial, &Message::Refused(refused));
    }

    // ---- administrators ----

    fn ps(&mut self, token: u64, serial: u32) {
        let Some(connection) = self.connections.get(&token) else { return };
        let all = is_administrator(connection.peer.uid) || connection.peer.in_group;
        let uid = connection.peer.uid;
        let rows = self.rows(|live| all || live.uid == uid);
        self.answer_rows(token, serial, uid, &rows);
    }

    /// Rows, page by page.
    pub(super) fn answer_rows(&mut self, token: u64, serial: u32, uid: u32, rows: &[LiveRow]) {
        let size = |row: &LiveRow| {
            let texts = [&row.user, &row.vo, &row.job];
            160 + texts.into_iter().flatten().map(|text| 2 * text.len()).sum::<usize>()
        };
        self.turn.charge(uid, rows.iter().map(size).sum());
        let mut taken = 0;
        let mut pages = rows
            .chunk_by(|row, _| {
                taken += size(row);
                let full = taken > PAGE;
                taken = if full { 0 } else { taken };
                !full
            })
            .peekable();
        if pages.peek().is_none() {
            return self.send(token, serial, &Message::Rows(Rows { rows: Vec::new(), last: true }));
        }
        while let Some(page) = pages.next() {
            let rows = Rows { rows: page.to_vec(), last: pages.peek().is_none() };
            self.send(token, serial, &Message::Rows(rows));
        }
    }

    fn drain(&mut self, token: u64, serial: u32, drain: wire::Drain) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        if !is_administrator(asker.uid) {
            let failure = Failure::refused(
                "cannot change the node's drain flag",
                format!("uid {} is neither root nor the recorder's account", asker.uid),
                "ask root",
            );
            return self.refuse(token, serial, &failure);
        }
        // As it will be read back, so that the file says the same as the log.
        let reason = drain.reason.map(|reason| records::short(reason.trim()));
        if let Err(failure) = drain::set(&self.drain_file, reason.as_deref()) {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        self.draining = drain::reason(&self.drain_file);
        let record = records::drain(self.draining.as_deref(), &node, Some(asker));
        let text = match &self.draining {
            Some(reason) => format!("this node takes no new payloads: {reason}"),
            None => "this node takes new payloads".to_owned(),
        };
        let answer = Message::Done(Done { text });
        self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
    }

    /// The flag is a file, so that other tools of the site can set it too.
    pub(super) fn look_at_drain_flag(&mut self) {
        // Once a turn: what came together is decided together.
        if std::mem::replace(&mut self.turn.drain_seen, true) {
            return;
        }
        let found = drain::reason(&self.drain_file);
        if found != self.draining {
            let node = self.node().clone();
            let record = records::drain(found.as_deref(), &node, None);
            self.draining = found;
            self.stage(record, Live::Same, false, true, After::Nothing, 0);
        }
    }

    fn query(&mut self, token: u64, serial: u32, query: &wire::Query) {
        let Some(asker) = self.reader(token, serial, "cannot record the question", "it cannot have asked it")
        else {
            return;
        };
        let node = self.node().clone();
        let record = records::query(query, &node, asker);
        let answer = Message::Done(Done { text: now().to_string() });
        self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
    }

    /// A name that the VO told of a payload, which may have ended long ago.
    fn learned(&mut self, token: u64, serial: u32, learned: &wire::Identity) {
        let what = "cannot record whose payload it was";
        let Some(asker) = self.reader(token, serial, what, "it cannot have learned that here") else {
            return;
        };
        let named = !learned.user.trim().is_empty() && !learned.user.chars().any(char::is_control);
        let Some(id) = LaunchId::parse(&learned.id).filter(|_| named) else {
            let failure = Failure::usage(what, "it names no launch, or no user", "see bailey-trace(1)");
            return self.refuse(token, serial, &failure);
        };
        let node = self.node().clone();
        let base = self.payloads.get(&id).map(|live| &*live.base);
        let record = records::identity(base, id, learned, &node, asker);
        let answer = Message::Done(Done { text: now().to_string() });
        self.stage(record, Live::Same, true, false, After::Answer { token, serial, answer }, asker.uid);
    }

    /// Who asks, if it may read the log; else it is refused.
    fn reader(&mut self, token: u64, serial: u32, what: &str, so: &str) -> Option<Asker> {
        let connection = self.connections.get(&token)?;
        let (asker, reader) = (connection.asker(), connection.peer.in_group);
        if !reader && !is_administrator(asker.uid) {
            let failure = Failure::refused(
                what,
                format!("uid {} may not read the log, so {so}", asker.uid),
                "ask as root or as a member of the log's group",
            );
            self.refuse(token, serial, &failure);
            return None;
        }
        if !is_administrator(asker.uid)
            && let Err(failure) = self.accounts.spend(asker.uid, Instant::now())
        {
            self.refuse(token, serial, &failure);
            return None;
        }
        Some(asker)
    }
}

/// Payloads may start payloads only where the site says so.
pub(super) fn from_inside(outer: LaunchId) -> Failure {
    Failure::refused(
        "refused a connection from inside a payload",
        format!("the program runs inside launch {outer}, which may not start payloads"),
        "ask the site to allow nested payloads (sandbox.nested_namespaces) and launch with --nested",
    )
}

/// root, or the recorder's own account.
pub(super) fn is_administrator(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
