//! What peers ask for, and what they are told.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::log::Live;
use super::observe::{self, Handed};
use super::payloads::Begun;
use super::records;
use super::server::{After, Server, Stage, now};
use crate::audit::record::{Action, Record};
use crate::audit::wire::{self, Done, Message, Packet, Rows, Welcome};
use crate::failure::{Code, Failure, Fault};
use crate::request::LaunchId;

/// How long a launch waits for the digest of its launcher's program, which is computed once per file.
const DIGEST_WAIT: Duration = Duration::from_secs(1);
/// Rows of one page.
const PAGE: usize = 400;

/// A launch that waits for a digest.
pub(super) struct Waiting {
    pub(super) until: Instant,
    serial: u32,
    launch: wire::Launch,
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
    pub(super) fn message(&mut self, token: u64, packet: Packet, fds: Vec<OwnedFd>) {
        let Packet { serial, message, .. } = packet;
        let Some(connection) = self.connections.get(&token) else { return };
        let (uid, stage) = (connection.peer.uid, connection.stage.clone());
        match (stage, message) {
            (Stage::New, Message::Hello(hello)) => return self.hello(token, serial, &hello, fds),
            (Stage::Greeted, Message::Launch(launch)) => return self.launch(token, serial, launch, fds),
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
                    (Stage::Greeted, Message::Ps(_)) => self.ps(token, serial),
                    (Stage::Greeted, Message::Stop(stop)) => self.stop_asked(token, serial, &stop),
                    (Stage::Greeted, Message::Drain(drain)) => self.drain(token, serial, drain),
                    (Stage::Greeted, Message::Query(query)) => self.query(token, serial, &query),
                    (Stage::Live(_), Message::Done(_)) => {} // the launcher obeyed
                    (_, message) => self.refuse(token, serial, &not_now(&message)),
                }
            }
        }
    }

    fn hello(&mut self, token: u64, serial: u32, hello: &wire::Hello, mut fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let uid = connection.peer.uid;
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

    fn launch(&mut self, token: u64, serial: u32, launch: wire::Launch, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.hashing {
            connection.stage = Stage::Launching;
            connection.waiting = Some(Waiting { until: Instant::now() + DIGEST_WAIT, serial, launch, fds });
            return;
        }
        self.judge(token, serial, launch, fds);
    }

    /// The digest is there, or is waited for no longer.
    pub(super) fn launch_if_waiting(&mut self, token: u64, late: bool) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.hashing && !late {
            return;
        }
        if let Some(Waiting { serial, launch, fds, .. }) = connection.waiting.take() {
            connection.stage = Stage::Greeted;
            self.judge(token, serial, launch, fds);
        }
    }

    fn judge(&mut self, token: u64, serial: u32, launch: wire::Launch, fds: Vec<OwnedFd>) {
        let Some(uid) = self.connections.get(&token).map(|connection| connection.peer.uid) else { return };
        let handed = match Handed::sort(fds, &launch.namespaces) {
            Ok(handed) => handed,
            Err((failure, fds)) => {
                self.digests.discard(uid, fds);
                return self.deny(token, serial, &launch.record, &failure);
            }
        };
        if let Err(failure) = self.admit(token, serial, &launch, handed) {
            self.deny(token, serial, &launch.record, &failure);
        }
    }

    /// Everything that is decided here, where no pilot can skip it.
    fn admit(
        &mut self,
        token: u64,
        serial: u32,
        launch: &wire::Launch,
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
            return self.repeat(token, serial, id, live.payload_is, &handed);
        }
        if self.was_closed(id) {
            return Err(defect("a launch of that id was here before, and ended"));
        }
        self.look_at_drain_flag();
        if let Some(reason) = &self.draining {
            return Err(Failure::new(
                Code::Refused,
                Fault::Site,
                "this node takes no new payloads",
                reason.clone(),
                "run it on another node",
            ));
        }
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let inside = observe::enclosing(&connection.peer, |pid, ticks| {
            self.processes.get(&(pid, ticks)).map(ToString::to_string)
        });
        if let Some(outer) = inside.as_deref().and_then(LaunchId::parse)
            && !self.payloads.get(&outer).is_some_and(|live| live.nested)
        {
            return Err(Failure::refused(
                "refused a payload inside a payload",
                format!("the launcher runs inside launch {outer}, which may not start payloads"),
                "ask the site to allow nested payloads",
            ));
        }
        let observed = observe::payload(&connection.peer, &handed, &mut self.scratch)?;
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
        let mut record = launch.record.clone();
        observe::settle(&mut record, &connection.peer, &observed, &node, connection.program.as_ref());
        record.grid.parent_launch = inside;
        self.accounts.launch(uid, at)?;
        let begun = Begun {
            id,
            uid,
            processes: [(observed.pid(), observed.start_ticks), observed.init],
            nested: launch.nested,
            base: records::base(&record, id),
            payload: handed.payload,
        };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Launching;
        }
        let live = Live::Begins(Box::new(records::live_entry(&record, launch.nested)));
        self.stage(*record, live, true, false, After::Receipt { token, serial, begun: Box::new(begun) }, uid);
        Ok(())
    }

    /// The launcher asks again for a launch whose receipt it did not get: the recorder was restarted in between.
    fn repeat(
        &mut self,
        token: u64,
        serial: u32,
        id: LaunchId,
        payload_is: (i64, u64),
        handed: &Handed,
    ) -> Result<(), Failure> {
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let Some(live) = self.payloads.get(&id) else { return Ok(()) };
        let peer = &connection.peer;
        let observed = observe::payload(peer, handed, &mut self.scratch)?;
        let same_launcher =
            live.launcher_is == (i64::from(peer.pid), peer.start_ticks) && live.uid == peer.uid;
        let same_payload = payload_is == (i64::from(observed.pid()), observed.start_ticks);
        if !same_launcher || !same_payload {
            return Err(defect("a launch of that id is live, and it is another one"));
        }
        let receipt = wire::Receipt { id: id.to_string(), seq: live.seq, hash: live.hash.clone() };
        self.resumed(id, token);
        self.send(token, serial, &Message::Receipt(receipt));
        Ok(())
    }

    /// No. One record a second and uid says so; the launcher is told in any case, after the record is written.
    fn deny(&mut self, token: u64, serial: u32, claim: &Record, failure: &Failure) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.stage = Stage::Greeted;
        let (uid, asker) = (connection.peer.uid, connection.asker());
        if !self.accounts.may_record_refusal(uid, Instant::now()) {
            return self.refuse(token, serial, failure);
        }
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let node = self.node().clone();
        let record = records::deny(claim, failure, &node, asker);
        let answer = Message::Refused(wire::Refused::of(failure));
        self.stage(record, Live::Same, false, true, After::Answer { token, serial, answer }, uid);
    }

    // ---- what comes after ----

    fn note_of_live(&mut self, token: u64, serial: u32, id: LaunchId, note: &wire::Note) {
        let Some(connection) = self.connections.get(&token) else { return };
        let (uid, asker) = (connection.peer.uid, connection.asker());
        if note.record.event.action.closes() {
            return self.end_reported(id, (*note.record).clone(), (token, serial));
        }
        if let Err(failure) = self.accounts.spend(uid, Instant::now()) {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let base = self.payloads.get(&id).map(|live| &live.base);
        match base.and_then(|base| records::note(Some(base), &note.record, id, &node, asker)) {
            Some(record) => {
                let answer = Message::Done(Done { text: String::new() });
                self.stage(record, Live::Same, false, true, After::Answer { token, serial, answer }, uid);
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
        let record = LaunchId::parse(&note.id)
            .filter(|id| !self.payloads.contains_key(id))
            .and_then(|id| records::note(None, &note.record, id, &node, asker));
        match record {
            Some(record) => {
                let answer = Message::Done(Done { text: String::new() });
                self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, uid);
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
            return self.refuse(token, serial, &failure);
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
    }

    // ---- administrators ----

    fn is_administrator(&self, uid: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw()
    }

    fn ps(&mut self, token: u64, serial: u32) {
        let Some(connection) = self.connections.get(&token) else { return };
        let all = self.is_administrator(connection.peer.uid) || connection.peer.in_group;
        let rows = self.rows((!all).then_some(connection.peer.uid));
        let mut pages = rows.chunks(PAGE).peekable();
        if pages.peek().is_none() {
            return self.send(token, serial, &Message::Rows(Rows { rows: Vec::new(), last: true }));
        }
        while let Some(page) = pages.next() {
            let rows = Rows { rows: page.to_vec(), last: pages.peek().is_none() };
            self.send(token, serial, &Message::Rows(rows));
        }
    }

    fn stop_asked(&mut self, token: u64, serial: u32, stop: &wire::Stop) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        let administrator = self.is_administrator(asker.uid);
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
        let node = self.node().clone();
        let record = self.payloads.get(&id).map(|live| records::stop(&live.base, id, stop, &node, asker));
        if !self.stop(id, stop) {
            let failure = refuse(
                "its launcher is not connected to the recorder",
                "wait a moment; if that stays, kill the launcher (bailey ps shows its payload's pid)",
            );
            return self.refuse(token, serial, &failure);
        }
        if let Some(record) = record {
            let how = if stop.freeze { "froze" } else { "stops" };
            let text = format!("the launcher of {id} {how} its payload");
            let answer = Message::Done(Done { text });
            self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
        }
    }

    fn drain(&mut self, token: u64, serial: u32, drain: wire::Drain) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        if !self.is_administrator(asker.uid) {
            let failure = Failure::refused(
                "cannot change the node's drain flag",
                format!("uid {} is neither root nor the recorder's account", asker.uid),
                "ask root",
            );
            return self.refuse(token, serial, &failure);
        }
        if let Err(failure) = self.set_drain_flag(drain.reason.as_deref()) {
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        self.draining.clone_from(&drain.reason);
        let record = records::drain(drain.reason.as_deref(), &node, Some(asker));
        let text = match &drain.reason {
            Some(reason) => format!("this node takes no new payloads: {reason}"),
            None => "this node takes new payloads again".to_owned(),
        };
        let answer = Message::Done(Done { text });
        self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
    }

    fn set_drain_flag(&self, reason: Option<&str>) -> Result<(), Failure> {
        let path = &self.drain_file;
        let done = match reason {
            Some(reason) => std::fs::write(path, format!("{reason}\n")),
            None => match std::fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
        };
        done.map_err(|error| {
            Failure::site(
                format!("cannot change the drain flag {}", path.display()),
                crate::failure::io_text(&error),
                "make its directory writable for the recorder's account",
            )
        })
    }

    /// The flag is a file, so that other tools of the site can set it too.
    pub(super) fn look_at_drain_flag(&mut self) {
        let found = match std::fs::symlink_metadata(&self.drain_file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            _ => {
                let text = std::fs::read(&self.drain_file).unwrap_or_default();
                let text = String::from_utf8_lossy(text.get(..1024).unwrap_or(&text)).trim().to_owned();
                Some(if text.is_empty() { "it is being drained".to_owned() } else { text })
            }
        };
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
        if !reader && !self.is_administrator(asker.uid) {
            let failure = Failure::refused(
                "cannot record the question",
                format!("uid {} may not read the log, so it cannot have asked it", asker.uid),
                "ask as root or as a member of the log's group",
            );
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let record = records::query(query, &node, asker);
        let answer = Message::Done(Done { text: now().to_string() });
        self.stage(record, Live::Same, true, true, After::Answer { token, serial, answer }, asker.uid);
    }
}

fn defect(why: &str) -> Failure {
    Failure::record("the recorder cannot take this launch", why, "report this as a defect; nothing has run")
}
