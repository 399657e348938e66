//! Launches: whether one may begin. Everything is decided here, where no pilot can skip it.
//!
//! 1. Nothing is waited for but the digest of the launcher's program, and the site's files where the launcher seems to have newer
//!    ones; that for a second at most.
//! 2. A launch id is for one launch: one that is live, was here before, or is not of now, is refused.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::claims;
use super::connections::{Connection, Stage};
use super::early::{Offered, brings_nothing};
use super::log::Live;
use super::observe::{self, Handed, Observed, Peer};
use super::payloads::Begun;
use super::records;
use super::server::{After, Server, now};
use super::suspend;
use crate::audit::drain;
use crate::audit::record::{Action, Ban, Record};
use crate::audit::wire::{self, Message, Packet};
use crate::config::ForeignConfig;
use crate::failure::{Code, Failure, Fault};
use crate::policy::facts::Facts;
use crate::policy::rule::Profile;
use crate::policy::verdict::{By, Denial};
use crate::request::{LaunchId, Network};
use crate::sandbox::NAMESPACES;

/// How long a launch waits for the digest of its launcher's program, which is computed once per file.
const DIGEST_WAIT: Duration = Duration::from_secs(1);
/// Launches that may wait for a digest, of all and of one uid; others go on without one.
const MOST_WAITING: (usize, usize) = (128, 32);
/// Descriptors of one launch: payload, init, namespaces. Those that wait have an eighth of all at most.
pub(super) const A_LAUNCH: usize = 2 + NAMESPACES.len();

/// A launch that waits for a digest. It is kept as it came: read, it may take much more memory.
pub(super) struct Waiting {
    pub(super) until: Instant,
    serial: u32,
    packet: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    /// SHA-256 of the launcher's configuration, where it is not the one that is known here: its files may be newer.
    foreign: Option<String>,
}

impl Server {
    /// `length` is that of the packet, which is in the buffer.
    pub(super) fn launch(
        &mut self,
        token: u64,
        serial: u32,
        launch: wire::Launch,
        length: usize,
        fds: Vec<OwnedFd>,
    ) {
        let Some(connection) = self.connections.get(&token) else { return };
        // What cannot be one is refused at once: nobody keeps descriptors here for longer by their number.
        let whole = fds.len() == launch.namespaces.len() + 2 && launch.namespaces.len() <= NAMESPACES.len();
        let fits = whole || brings_nothing(&launch, &fds) && connection.early.is_some();
        let (hashing, uid) = (connection.hashing, connection.peer.uid);
        let foreign = self.foreign(&launch);
        if !(hashing || foreign.is_some()) || !fits || !self.may_wait(uid) {
            return self.judge(token, serial, launch, fds);
        }
        if foreign.is_some() {
            self.watch.look();
        }
        let packet = self.buffer.get(..length).unwrap_or_default().to_vec();
        let until = Instant::now() + DIGEST_WAIT;
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Launching;
            connection.waiting = Some(Waiting { until, serial, packet, fds, foreign });
            self.waiting += 1;
        }
    }

    fn may_wait(&self, uid: u32) -> bool {
        let of_uid = |connection: &&Connection| connection.waiting.is_some() && connection.peer.uid == uid;
        let descriptors = ((self.waiting + 1) * A_LAUNCH) as u64;
        descriptors <= self.most_descriptors / 8
            && self.waiting < MOST_WAITING.0
            && self.connections.values().filter(of_uid).count() < MOST_WAITING.1
    }

    /// The digest is there, or is waited for no longer.
    pub(super) fn launch_if_waiting(&mut self, token: u64, late: bool) {
        let Some(connection) = self.connections.get(&token) else { return };
        let foreign = connection.waiting.as_ref().and_then(|waiting| waiting.foreign.as_deref());
        let unknown = foreign.is_some_and(|hash| !self.is_ours(Some(hash)));
        if (connection.hashing || unknown) && !late {
            return;
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let Some(Waiting { serial, packet, fds, .. }) = connection.waiting.take() else { return };
        self.waiting -= 1;
        connection.stage = Stage::Greeted;
        match wire::decode(&packet) {
            Ok(Packet { message: Message::Launch(launch), .. }) => self.judge(token, serial, launch, fds),
            _ => self.digests.discard(connection.peer.uid, fds), // it was a launch when it came
        }
    }

    /// The hash of a configuration that would have the launch refused.
    pub(super) fn foreign(&self, launch: &wire::Launch) -> Option<String> {
        let hash = launch.record.grid.policy.config_hash.as_ref()?;
        let refuses = self.config.recorder.foreign_config == ForeignConfig::Refuse;
        (refuses && !self.is_ours(Some(hash))).then(|| hash.clone())
    }

    /// The site's files were read anew: launches that seemed to know others are looked at again.
    pub(super) fn parked_again(&mut self) {
        let parked = |(token, connection): (&u64, &Connection)| {
            connection.waiting.as_ref().is_some_and(|waiting| waiting.foreign.is_some()).then_some(*token)
        };
        let tokens: Vec<u64> = self.connections.iter().filter_map(parked).collect();
        for token in tokens {
            self.launch_if_waiting(token, false);
        }
    }

    fn judge(&mut self, token: u64, serial: u32, mut launch: wire::Launch, fds: Vec<OwnedFd>) {
        let Some(uid) = self.connections.get(&token).map(|connection| connection.peer.uid) else { return };
        let offered = if brings_nothing(&launch, &fds) {
            // One that is live already is looked at again.
            let seen = self.seen(token, &launch.id);
            let is_live = || LaunchId::parse(&launch.id).is_some_and(|id| self.payloads.contains_key(&id));
            match seen.filter(|_| !is_live()) {
                Some(seen) => seen,
                None => return self.ask_for_all(token, serial),
            }
        } else {
            match Handed::sort(fds, &launch.namespaces) {
                Ok(handed) => Offered::Whole(handed),
                Err((failure, fds)) => {
                    self.digests.discard(uid, fds);
                    return self.deny(token, serial, &launch.record, &failure);
                }
            }
        };
        if let Err(failure) = self.admit(token, serial, &mut launch, offered) {
            self.deny(token, serial, &launch.record, &failure);
        }
    }

    /// Everything that is decided here, where no pilot can skip it.
    fn admit(
        &mut self,
        token: u64,
        serial: u32,
        launch: &mut wire::Launch,
        offered: Offered,
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
            return self.repeat(token, serial, id, live.process_is, offered.handed());
        }
        if self.launching.contains(&id) {
            return Err(defect("a launch of that id is being recorded, and it is another one"));
        }
        if self.ids.was_closed(id) {
            return Err(defect("a launch of that id was here before, and ended"));
        }
        if !self.ids.is_of_now(id) {
            return Err(defect("the time in its launch id is not of now"));
        }
        self.takes_payloads()?;
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let (handed, observed) = offered.look(&connection.peer, &mut self.scratch)?;
        agree(&launch.record, &connection.peer, &observed)?;
        if let Some(other) = self.processes.get(&(observed.pid(), observed.start_ticks)) {
            return Err(defect(&format!("its payload is live already, as launch {other}")));
        }
        let (facts, person, crowd) = self.allow(launch, uid, &observed)?;
        self.accounts.launch(uid, at)?;
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        // Nothing is refused from here on, so the claim itself becomes the record.
        let left = Box::new(Record::new(Action::PayloadLaunch, id));
        let mut record = std::mem::replace(&mut launch.record, left);
        observe::settle(&mut record, &connection.peer, &observed, &node, connection.program.as_ref());
        record.grid.parent_launch = connection.inside.map(|outer| outer.to_string());
        record.grid.identity.person = person;
        // Whether it may have namespaces of its own is the site's to say, and not the launcher's.
        let by_rule = record.grid.policy.profile.as_deref() == Some(Profile::Nested.as_str());
        let nested = by_rule || launch.nested && self.site.config.sandbox.allow_nested;
        let begun = Begun {
            id,
            uid,
            processes: [(observed.pid(), observed.start_ticks), observed.init],
            nested,
            base: records::base(&record, id),
            payload: handed.payload,
            facts: Box::new(facts),
            crowd,
        };
        self.close_late(handed.namespaces.into_iter().map(OwnedFd::from).chain([handed.init]));
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.stage = Stage::Launching;
        }
        let live = Live::Begins(Box::new(records::live_entry(&record, nested)));
        self.launching.insert(id);
        // Counted from here on, so that the launches of one turn count against each other.
        self.accounts.begun(uid, at);
        self.crowd.add(&begun.crowd);
        self.stage(record, live, true, false, After::Receipt { token, serial, begun: Box::new(begun) }, uid);
        Ok(())
    }

    /// Whether this node takes a payload now, whosever it is.
    pub(super) fn takes_payloads(&mut self) -> Result<(), Failure> {
        if !self.has_room(1) {
            return Err(Failure::record(
                "the recorder takes no more payloads",
                "it has no descriptors left (RLIMIT_NOFILE)",
                "raise its limit on open files (LimitNOFILE=, ulimit -n)",
            ));
        }
        self.look_at_drain_flag();
        match &self.draining {
            Some(reason) => Err(drain::refusal(reason.clone())),
            None => Ok(()),
        }
    }

    /// What the site's policy says, whatever the launcher was told: the facts, the person, and under what the payload counts.
    fn allow(
        &self,
        launch: &mut wire::Launch,
        uid: u32,
        observed: &Observed,
    ) -> Result<(Facts, Option<String>, Vec<String>), Failure> {
        let mut facts = claims::facts(&launch.record, uid, launch.nested);
        if facts.asks.network == Network::None && !observed.has_own_network() {
            facts.asks.network = Network::Host; // whatever the launcher says
        }
        let policy = &self.site.policy;
        let refuses = self.config.recorder.foreign_config == ForeignConfig::Refuse;
        if refuses && !self.is_ours(facts.config_hash.as_deref()) {
            return Err(foreign_config());
        }
        let at = now();
        let relevant = policy.look_up(&facts, at)?;
        let crowd = suspend::keys(&facts, relevant.known.person.as_deref());
        let counts = self.crowd.counts(&crowd);
        let verdict = policy.judge(&facts, &relevant, Some(counts), at);
        let claimed = &mut launch.record.grid.policy;
        claimed.rule.clone_from(&verdict.rule);
        claimed.bans_version =
            Some(policy.lists().version.clone()).filter(|_| !policy.lists().lists.is_empty());
        if let Some(Denial { by: By::Ban(hit), .. }) = &verdict.denial {
            claimed.ban = Ban::of(hit);
        }
        let verdict = verdict.into_result()?;
        if let Some(why) = claims::unkept(&launch.record, &facts, &verdict.obligations) {
            return Err(unkept(why));
        }
        Ok((facts, verdict.person, crowd))
    }
}

/// What the kernel shows of the frozen payload, once it confirms what the launcher claims.
pub(super) fn confirm(
    claim: &Record,
    peer: &Peer,
    handed: &Handed,
    scratch: &mut Vec<u8>,
) -> Result<Observed, Failure> {
    let observed = observe::payload(peer, handed, scratch)?;
    agree(claim, peer, &observed).map(|()| observed)
}

/// The launcher and the kernel say the same.
fn agree(claim: &Record, peer: &Peer, observed: &Observed) -> Result<(), Failure> {
    let contradictions = observe::contradictions(claim, peer, observed);
    if contradictions.is_empty() { Ok(()) } else { Err(contradicted(&contradictions)) }
}

pub(super) fn defect(why: &str) -> Failure {
    Failure::record("the recorder cannot take this launch", why, "report this as a defect; nothing has run")
}

/// The launcher and the kernel do not say the same.
fn contradicted(contradictions: &[String]) -> Failure {
    Failure::new(
        Code::Refused,
        Fault::Site,
        "refused a launch whose claims the kernel does not confirm",
        contradictions.join("; "),
        "nothing has run, and this is not your fault: try another site, and report it as a defect",
    )
}

/// The launcher read other files than the recorder.
pub(super) fn foreign_config() -> Failure {
    Failure::new(
        Code::Refused,
        Fault::Site,
        "this payload may not run here",
        "its launcher has another configuration than this node's recorder",
        "this is not your fault: try another site; its administrator gives both the same files in /etc/bailey, or \
         sets recorder.foreign_config = \"record\"",
    )
}

/// The launcher did not do what the policy holds the payload to.
fn unkept(why: String) -> Failure {
    Failure::new(
        Code::Refused,
        Fault::Site,
        "this payload may not run as its launcher prepared it",
        why,
        "nothing has run, and this is not your fault: try another site, and report it as a defect",
    )
}

/// Each refusal of a launch that only the recorder makes, for the list of what users read.
#[cfg(test)]
pub(crate) fn refusals() -> Vec<Failure> {
    let outer = LaunchId::from_parts(1_700_000_000_000, [7; 10]);
    let uid = "the pilot's uid: the launcher says 0, the kernel 1000".to_owned();
    vec![
        contradicted(&[uid]),
        foreign_config(),
        unkept("its wall time is longer than 3600 s".to_owned()),
        super::requests::from_inside(outer),
    ]
}
