//! Coming back: what the log says is live after the recorder's restart, and launchers whose connection broke.
//!
//! 1. A payload is taken over by pid and start, and only in the boot in which it began. Whatever is not there any more is closed.
//! 2. A launch goes on for the same process (pid and start) of the same uid that names the line of its receipt, and for
//!    nobody else.
//! 3. An order that nobody carried out yet follows as soon as the launcher is back.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use super::claims;
use super::connections::Stage;
use super::launches::defect;
use super::log::Live;
use super::observe::{self, Handed};
use super::payloads::Payload;
use super::records;
use super::server::{After, Server};
use super::stops::Asked;
use super::suspend;
use crate::audit::record::{Action, EndBy, LiveEntry, Record, Recorder};
use crate::audit::wire::{self, Done, Message};
use crate::failure::{Code, Failure, Fault};
use crate::policy::facts::Facts;
use crate::request::LaunchId;

impl Server {
    // ---- the recorder was restarted ----

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
                let record = records::service(Action::HostRestart, &node, Recorder::default(), Some(reason));
                self.stage(record, Live::Same, true, true, After::Nothing, 0);
            }
            let nested = entry.nested.unwrap_or(false);
            let facts =
                claims::facts(launch.as_ref().unwrap_or(&base), entry.uid.unwrap_or_default(), nested);
            self.take_over(id, &entry, base, facts, same_boot);
        }
    }

    fn take_over(
        &mut self,
        id: LaunchId,
        entry: &LiveEntry,
        base: Box<Record>,
        facts: Facts,
        same_boot: bool,
    ) {
        let process_is = (entry.pid.unwrap_or_default(), entry.start_ticks.unwrap_or_default());
        let launcher_is = (entry.launcher_pid.unwrap_or_default(), entry.launcher_ticks.unwrap_or_default());
        let open = |(pid, ticks): (i64, u64)| observe::process(i32::try_from(pid).ok()?, ticks);
        let (pidfd, launcher) = if same_boot { (open(process_is), open(launcher_is)) } else { (None, None) };
        let payload_pid = i32::try_from(process_is.0).unwrap_or_default();
        let init = pidfd.as_ref().and_then(|_| observe::parent_of(payload_pid)).unwrap_or_default();
        let uid = entry.uid.unwrap_or_default();
        let person = base.grid.identity.person.as_deref();
        let mut live = Payload {
            crowd: suspend::keys(&facts, person),
            facts: Box::new(facts),
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
            stopped: entry.stop.by.is_some(),
            asked: wire::Stop::standing(id.to_string(), &entry.stop).map(Asked::new),
            ..Payload::new(uid, launcher_is, process_is, base)
        };
        self.watch(id, &mut live);
        self.accounts.begun(uid, Instant::now());
        self.crowd.add(&live.crowd);
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

    pub(super) fn resume(&mut self, token: u64, serial: u32, resume: &wire::Resume) {
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
        self.pass_on(id);
    }

    /// The launcher asks again for a launch whose receipt it did not get: the recorder was restarted in between.
    pub(super) fn repeat(
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
        self.pass_on(id);
        Ok(())
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
}
