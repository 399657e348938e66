//! What peers ask for, and what they are told.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::connections::{Connection, Stage};
use super::log::Live;
use super::observe::{self, Handed};
use super::payloads::Begun;
use super::records;
use super::server::{After, Server, now};
use crate::audit::drain;
use crate::audit::record::{Action, Record};
use crate::audit::wire::{self, Done, LiveRow, Message, Packet, Rows, Welcome};
use crate::failure::{Code, Failure, Fault};
use crate::request::LaunchId;
use crate::sandbox::NAMESPACES;
use crate::sys::socket::Received;

/// How long a launch waits for the digest of its launcher's program, which is computed once per file.
const DIGEST_WAIT: Duration = Duration::from_secs(1);
/// Launches that may wait for a digest, of all and of one uid; others go on without one.
const MOST_WAITING: (usize, usize) = (128, 32);
/// Bytes of one page of rows, about.
const PAGE: usize = 64 * 1024;
/// How far the time in a launch id may be from now: ids are remembered for a while, and those from before are not taken.
const ID_AGE: Duration = Duration::from_secs(900);

/// A launch that waits for a digest. It is kept as it came: read, it may take much more memory.
pub(super) struct Waiting {
    pub(super) until: Instant,
    serial: u32,
    packet: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

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
                        Message::Ps(_) | Message::Stop(_) | Message::Drain(_) | Message::Query(_),
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
            let failure = Failure::refused(
                "refused a connection from inside a payload",
                format!("the program runs inside launch {outer}, which may not start payloads"),
                "ask the site to allow nested payloads (sandbox.nested_namespaces) and launch with --nested",
            );
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
            connection.hashing = self.digests.submit(uid, token, fd);
        }
        self.digests.discard(uid, fds);
        self.look_at_drain_flag();
        let welcome =
            Welcome { version, writer: self.log.writer().to_owned(), draining: self.draining.clone() };
        self.send(token, serial, &Message::Welcome(welcome));
    }

    // ---- a launch ----

    /// `length` is that of the packet, which is in the buffer.
    fn launch(&mut self, token: u64, serial: u32, launch: wire::Launch, length: usize, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get(&token) else { return };
        // What cannot be one is refused at once: nobody keeps descriptors here for longer by their number.
        let fits = fds.len() == launch.namespaces.len() + 2 && launch.namespaces.len() <= NAMESPACES.len();
        if !connection.hashing || !fits || !self.may_wait(connection.peer.uid) {
            return self.judge(token, serial, launch, fds);
        }
        let packet = self.buffer.get(..length).unwrap_or_default().to_vec();
        let until = Instant::now() + DIGEST_WAIT;
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Launching;
            connection.waiting = Some(Waiting { until, serial, packet, fds });
            self.waiting += 1;
        }
    }

    fn may_wait(&self, uid: u32) -> bool {
        let of_uid = |connection: &&Connection| connection.waiting.is_some() && connection.peer.uid == uid;
        self.waiting < MOST_WAITING.0 && self.connections.values().filter(of_uid).count() < MOST_WAITING.1
    }

    /// The digest is there, or is waited for no longer.
    pub(super) fn launch_if_waiting(&mut self, token: u64, late: bool) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.hashing && !late {
            return;
        }
        let Some(Waiting { serial, packet, fds, .. }) = connection.waiting.take() else { return };
        self.waiting -= 1;
        connection.stage = Stage::Greeted;
        match wire::decode(&packet) {
            Ok(Packet { message: Message::Launch(launch), .. }) => self.judge(token, serial, launch, fds),
            _ => self.digests.discard(connection.peer.uid, fds), // it was a launch when it came
        }
    }

    fn judge(&mut self, token: u64, serial: u32, mut launch: wire::Launch, fds: Vec<OwnedFd>) {
        let Some(uid) = self.connections.get(&token).map(|connection| connection.peer.uid) else { return };
        let handed = match Handed::sort(fds, &launch.namespaces) {
            Ok(handed) => handed,
            Err((failure, fds)) => {
                self.digests.discard(uid, fds);
                return self.deny(token, serial, &launch.record, &failure);
            }
        };
        if let Err(failure) = self.admit(token, serial, &mut launch, handed) {
            self.deny(token, serial, &launch.record, &failure);
        }
    }

    /// Everything that is decided here, where no pilot can skip it.
    fn admit(
        &mut self,
        token: u64,
        serial: u32,
        launch: &mut wire::Launch,
        handed: Handed,
    ) -> Result<(), Failure> {
        let id = LaunchId::parse(&launch.id)
            .filter(|_| launch.record.event.action == Action::PayloadLaunch)
            .filter(|id| launch.record.event.id.as_deref() == Some(id.as_str()))
            .ok_or_else(|| defect("its record is not the record of that launch"))?;
        let at = Instant::now();
        let node = self.node().clone();
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let uid = connection.peer.uid;
        if let Some(live) = self.payloads.get(&id) {
            return self.repeat(token, serial, id, live.process_is, &handed);
        }
        if self.launching.contains(&id) {
            return Err(defect("a launch of that id is being recorded, and it is another one"));
        }
        if self.was_closed(id) {
            return Err(defect("a launch of that id was here before, and ended"));
        }
        if !is_of_now(id) {
            return Err(defect("the time in its launch id is not of now"));
        }
        if !self.has_room(1) {
            return Err(Failure::record(
                "the recorder takes no more payloads",
                "it has no descriptors left (RLIMIT_NOFILE)",
                "raise its limit on open files (LimitNOFILE=, ulimit -n)",
            ));
        }
        self.look_at_drain_flag();
        if let Some(reason) = &self.draining {
            return Err(drain::refusal(reason.clone()));
        }
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let observed = observe::payload(&connection.peer, &handed, &mut self.scratch)?;
        if let Some(other) = self.processes.get(&(observed.pid(), observed.start_ticks)) {
            return Err(defect(&format!("its payload is live already, as launch {other}")));
        }
        let contradictions = observe::contradictions(&launch.record, &connection.peer, &observed);
        if !contradictions.is_empty() {
            return Err(Failure::new(
                Code::Refused,
                Fault::Site,
                "refused a launch whose claims the kernel does not confirm",
                contradictions.join("; "),
                "report this as a defect; nothing has run",
            ));
        }
        self.accounts.launch(uid, at)?;
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        // Nothing is refused from here on, so the claim itself becomes the record.
        let left = Box::new(Record::new(Action::PayloadLaunch, id));
        let mut record = std::mem::replace(&mut launch.record, left);
        observe::settle(&mut record, &connection.peer, &observed, &node, connection.program.as_ref());
        record.grid.parent_launch = connection.inside.map(|outer| outer.to_string());
        // Whether it may have namespaces of its own is the site's to say, and not the launcher's.
        let nested = launch.nested && self.config.sandbox.allow_nested;
        let begun = Begun {
            id,
            uid,
            processes: [(observed.pid(), observed.start_ticks), observed.init],
            nested,
            base: records::base(&record, id),
            payload: handed.payload,
        };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Launching;
        }
        let live = Live::Begins(Box::new(records::live_entry(&record, nested)));
        self.launching.insert(id);
        // Counted from here on, so that the launches of one turn count against each other.
        self.accounts.begun(uid, at);
        self.stage(*record, live, true, false, After::Receipt { token, serial, begun: Box::new(begun) }, uid);
        Ok(())
    }

    /// The launcher asks again for a launch whose receipt it did not get: the recorder was restarted in between.
    fn repeat(
        &mut self,
        token: u64,
        serial: u32,
        id: LaunchId,
        process_is: (i64, u64),
        handed: &Handed,
    ) -> Result<(), Failure> {
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let Some(live) = self.payloads.get(&id) else { return Ok(()) };
        let peer = &connection.peer;
        let observed = observe::payload(peer, handed, &mut self.scratch)?;
        let same_launcher =
            live.launcher_is == (i64::from(peer.pid), peer.start_ticks) && live.uid == peer.uid;
        let same_payload = process_is == (i64::from(observed.pid()), observed.start_ticks);
        if !same_launcher || !same_payload {
            return Err(defect("a launch of that id is live, and it is another one"));
        }
        let receipt = wire::Receipt { id: id.to_string(), seq: live.seq, hash: live.hash.clone() };
        self.resumed(id, token);
        self.send(token, serial, &Message::Receipt(receipt));
        self.welcome_back(id);
        Ok(())
    }

    /// No. One record a second and uid says so; the launcher is told in any case, after the record is written.
    fn deny(&mut self, token: u64, serial: u32, claim: &Record, failure: &Failure) {
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
        let base = self.payloads.get(&id).map(|live| &live.base);
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
        if id.is_some_and(|id| self.was_closed(id)) {
            let failure = defect("a launch of that id was here before, and ended");
            return self.refuse_closed(token, serial, &failure);
        }
        if id.is_some_and(|id| !is_of_now(id)) {
            // It may have been here before the last restart, and then this would be its second end.
            return self.refuse(token, serial, &defect("the time in its launch id is not of now"));
        }
        let record = id
            .filter(|id| !self.payloads.contains_key(id) && !self.launching.contains(id))
            .and_then(|id| records::note(None, &note.record, id, &node, asker));
        match record {
            Some(record) => {
                // One launch, one fate: it cannot begin any more.
                if let Some(id) = id {
                    self.remember(id);
                }
                let answer = Message::Done(Done { text: String::new() });
                self.stage(record, Live::Same, true, false, After::Answer { token, serial, answer }, uid);
            }
            None => self.refuse(token, serial, &defect("such a record is not a launcher's to write")),
        }
    }

    fn resume(&mut self, token: u64, serial: u32, resume: &wire::Resume) {
        let Some(connection) = self.connections.get(&token) else { return };
        let peer = &connection.peer;
        let found = LaunchId::parse(&resume.id).and_then(|id| Some((id, self.payloads.get(&id)?)));
        let Some((id, live)) = found else {
            let failure = defect("no live launch has that id: its end is written already");
            return self.refuse_closed(token, serial, &failure);
        };
        let same = live.launcher_is == (i64::from(peer.pid), peer.start_ticks)
            && live.uid == peer.uid
            && (live.seq, live.hash.as_str()) == (resume.seq, resume.hash.as_str());
        if !same {
            let failure = Failure::new(
                Code::Refused,
                Fault::User,
                format!("refused to hand over launch {id}"),
                "it belongs to another launcher, or its receipt is another one",
                "only the launcher that has the receipt may go on with it",
            );
            return self.deny(token, serial, &Record::new(Action::PayloadDeny, id), &failure);
        }
        self.resumed(id, token);
        self.send(token, serial, &Message::Done(Done { text: String::new() }));
        self.welcome_back(id);
    }

    /// No: the record that closes the launch is written already. A launcher need not tell its end any more.
    fn refuse_closed(&mut self, token: u64, serial: u32, failure: &Failure) {
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let refused = wire::Refused { closed: true, ..wire::Refused::of(failure) };
        self.send(token, serial, &Message::Refused(refused));
    }

    // ---- administrators ----

    fn ps(&mut self, token: u64, serial: u32) {
        let Some(connection) = self.connections.get(&token) else { return };
        let all = is_administrator(connection.peer.uid) || connection.peer.in_group;
        let uid = connection.peer.uid;
        let rows = self.rows((!all).then_some(uid));
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

    fn stop_asked(&mut self, token: u64, serial: u32, mut stop: wire::Stop) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        let administrator = is_administrator(asker.uid);
        let refuse =
            |why: &str, next: &str| Failure::refused(format!("cannot stop launch {}", stop.id), why, next);
        let found = LaunchId::parse(&stop.id).filter(|id| self.payloads.contains_key(id));
        let Some(id) = found else {
            let failure = refuse("no live payload has that id", "see bailey ps");
            return self.refuse(token, serial, &failure);
        };
        if !self.may_stop(id, asker, administrator) {
            let failure = refuse("it belongs to another account", "ask its owner, or root");
            return self.refuse(token, serial, &failure);
        }
        if !administrator && let Err(failure) = self.accounts.spend(asker.uid, Instant::now()) {
            return self.refuse(token, serial, &failure);
        }
        stop.reason = records::short(stop.reason.trim());
        if stop.reason.is_empty() {
            let failure = refuse("no reason was given", "say why: its user reads it, and it is recorded");
            return self.refuse(token, serial, &failure);
        }
        if !self.has_launcher(id) {
            let failure = refuse(
                "its launcher is gone, so that nobody is left to stop it",
                "kill its processes (bailey ps shows the payload's pid)",
            );
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let Some(live) = self.payloads.get(&id) else { return };
        let record = records::stop(&live.base, id, &stop, &node, asker);
        // The record comes first, then the order: the log has the cause before the effect.
        let after = After::Order { id, order: stop, token, serial };
        self.stage(record, Live::Stops(id.to_string()), true, true, after, asker.uid);
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
        let found = drain::reason(&self.drain_file);
        if found != self.draining {
            let node = self.node().clone();
            let record = records::drain(found.as_deref(), &node, None);
            self.draining = found;
            self.stage(record, Live::Same, false, true, After::Nothing, 0);
        }
    }

    fn query(&mut self, token: u64, serial: u32, query: &wire::Query) {
        let Some(connection) = self.connections.get(&token) else { return };
        let (asker, reader) = (connection.asker(), connection.peer.in_group);
        if !reader && !is_administrator(asker.uid) {
            let failure = Failure::refused(
                "cannot record the question",
                format!("uid {} may not read the log, so it cannot have asked it", asker.uid),
                "ask as root or as a member of the log's group",
            );
            return self.refuse(token, serial, &failure);
        }
        if !is_administrator(asker.uid)
            && let Err(failure) = self.accounts.spend(asker.uid, Instant::now())
        {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let record = records::query(query, &node, asker);
        let answer = Message::Done(Done { text: now().to_string() });
        self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
    }
}

/// Whether the time in the id is near enough.
fn is_of_now(id: LaunchId) -> bool {
    id.unix_millis().abs_diff(now().unix_millis()) <= ID_AGE.as_millis() as u64
}

fn defect(why: &str) -> Failure {
    Failure::record("the recorder cannot take this launch", why, "report this as a defect; nothing has run")
}

/// root, or the recorder's own account.
pub(super) fn is_administrator(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
