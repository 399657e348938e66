//! Connections: who may have one, what it may cost, and how it ends.
//!
//! 1. A descriptor that came from a peer, and a connection in which such may lie unread, is closed by the janitor
//!    ([`Digests`](super::observe::Digests)), who knows which ones are harmless, and never here: closing it may take as long as
//!    its owner likes.
//! 2. What one uid may cost in a turn is limited ([`MOST_A_TURN`]), and so is what waits for peers that do not read.
//! 3. Descriptors are counted before they run out: who comes when there are none left is told so.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit};

use super::early::Early;
use super::launches::{A_LAUNCH, Waiting};
use super::listen;
use super::observe::{self, Backlog, Peer, Program};
use super::records::Asker;
use super::server::{Server, failed, say};
use crate::audit::wire::{self, Message, Refused};
use crate::config::Demand;
use crate::failure::Failure;
use crate::request::LaunchId;
use crate::sys::socket;

/// What the messages of one uid may cost in one turn, in bytes; each costs [`A_MESSAGE`] besides.
const MOST_A_TURN: usize = 512 * 1024;
const A_MESSAGE: usize = 2 * 1024;
/// Bytes of messages after which the batch is written before more is read, so that its records stay few in memory.
const BATCH: usize = 1024 * 1024;
/// How long new connections may keep those waiting that are there.
const ACCEPTING: Duration = Duration::from_millis(5);
/// How long a connection may carry no payload. A launcher connects when its child begins to build the root, which may take
/// a minute where an automount has to answer.
const MOST_IDLE: Duration = Duration::from_secs(120);
/// When somebody for whom there is no connection left may ask again.
const RETRY: Duration = Duration::from_millis(100);
/// How long a peer may leave its answer unread.
const MOST_UNREAD: Duration = Duration::from_secs(10);
/// Messages that may wait for a peer that does not read. (An administrator's list of 25 000 payloads is 64 pages.)
const MOST_UNSENT: usize = 64;
/// Bytes that may wait for all connections of one uid; root and the recorder's own account may have more.
const MOST_UNSENT_BYTES: usize = 2 * 1024 * 1024;
/// Messages that are taken out of a connection before it is closed; a launcher has one or two in it.
const MOST_UNREAD_MESSAGES: usize = 4;
/// Descriptors that the recorder needs beside connections and payloads: its own, and those of one message.
const OWN_DESCRIPTORS: u64 = 40;

/// A connection from which is read.
const READS: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing said yet.
    New,
    /// It said hello.
    Greeted,
    /// Its launch waits for a digest or for the disk.
    Launching,
    /// It carries a live payload.
    Live(LaunchId),
}

/// One peer.
pub(super) struct Connection {
    socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) stage: Stage,
    pub(super) version: u16,
    pub(super) since: Instant,
    unsent: VecDeque<Vec<u8>>,
    /// Since when there is something unsent; epoll tells when there is room, and nothing is read meanwhile.
    stalled: Option<Instant>,
    /// The launch in whose payload the peer runs, where that may start payloads.
    pub(super) inside: Option<LaunchId>,
    /// The peer's own program, once its digest is computed.
    pub(super) program: Option<Program>,
    /// A digest is being computed.
    pub(super) hashing: bool,
    /// A launch that waits for the digest: what was received, and until when.
    pub(super) waiting: Option<Waiting>,
    /// A payload that was handed over before its launch.
    pub(super) early: Option<Box<Early>>,
}

impl Connection {
    pub(super) fn asker(&self) -> Asker {
        Asker { pid: self.peer.pid, uid: self.peer.uid, gid: self.peer.gid }
    }
}

/// What a turn has cost so far.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Each uid's part.
    costs: HashMap<u32, usize>,
    /// Bytes of messages since the last commit.
    unwritten: usize,
    /// The drain flag was looked at.
    pub(super) drain_seen: bool,
}

impl Turn {
    /// A new turn.
    pub(super) fn begin(&mut self) {
        self.costs.clear();
        self.drain_seen = false;
    }

    /// The batch is written.
    pub(super) fn committed(&mut self) {
        self.unwritten = 0;
    }

    /// Somebody's message costs so much more.
    pub(super) fn charge(&mut self, uid: u32, bytes: usize) {
        *self.costs.entry(uid).or_default() += bytes;
    }

    fn is_over(&self, uid: u32) -> bool {
        self.costs.get(&uid).is_some_and(|cost| *cost >= MOST_A_TURN)
    }
}

/// How many descriptors this process may have.
pub(super) fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// How many connections without a payload one uid may have: 256, or less where descriptors are few.
pub(super) fn most_idle() -> usize {
    (most_descriptors().saturating_sub(OWN_DESCRIPTORS) / 8).clamp(2, 256) as usize
}

/// A descriptor that is given up to tell somebody that there are no more.
pub(super) fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

impl Server {
    pub(super) fn accept(&mut self) {
        let begin = Instant::now();
        // A few at a time: those who are connected have their turn in between.
        while begin.elapsed() < ACCEPTING {
            match listen::accept(&self.listener) {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(errno) => {
                    say(&failed("cannot accept a connection", errno));
                    self.turn_away();
                    return;
                }
            }
        }
    }

    /// No descriptor is left, although they are counted: one connection is taken with the spare one and told so.
    fn turn_away(&mut self) {
        drop(self.spare.take());
        if let Ok(Some(socket)) = listen::accept(&self.listener) {
            let uid = observe::uid_of(socket.as_fd());
            self.turned_away(uid, socket, &no_descriptors(), Some(RETRY));
        }
        self.spare = spare();
        if self.spare.is_none() {
            self.drop_oldest_idle();
        }
    }

    /// Tells somebody why it is not served, and when there may be room for it.
    fn turned_away(&mut self, uid: u32, socket: OwnedFd, failure: &Failure, retry: Option<Duration>) {
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let retry_after_ms = retry.map(|after| after.as_millis() as u64);
        let _ = answer(&socket, 0, &Message::Refused(Refused { retry_after_ms, ..Refused::of(failure) }));
        self.close_socket(uid, socket);
    }

    /// Closes a connection. What lies unread in it is taken out first, so that closing it waits for nobody; what is too much
    /// for that goes to the janitor with it. An empty message is no end, and there may be others behind it.
    fn close_socket(&self, uid: u32, socket: OwnedFd) {
        if socket::hang_up(socket.as_fd()).is_ok() {
            for _ in 0..MOST_UNREAD_MESSAGES {
                match socket::receive(socket.as_fd(), &mut [0; 16]) {
                    Ok(received) if received.is_end() => return,
                    Ok(received) => self.digests.discard(uid, received.fds),
                    Err(_) => break,
                }
            }
        }
        let _ = self.epoll.delete(&socket); // the janitor may take a while
        self.digests.discard(uid, vec![socket]);
    }

    fn greet(&mut self, socket: OwnedFd) {
        let now = Instant::now();
        let uid = observe::uid_of(socket.as_fd());
        if self.digests.backlog(uid) == Backlog::Hangs {
            // What it handed over before cannot even be closed.
            return self.close_socket(uid, socket);
        }
        if !self.has_room(1) {
            self.drop_oldest_idle();
            if !self.has_room(1) {
                return self.turned_away(uid, socket, &no_descriptors(), Some(RETRY));
            }
        }
        // The account comes first: looking at a peer that is deep in containers takes a while.
        if let Err(failure) = self.accounts.connect(uid, now) {
            return self.turned_away(uid, socket, &failure, Some(RETRY));
        }
        let shares_pids = self.config.sandbox.pid_namespace != Demand::Required;
        let peer = match Peer::look(socket.as_fd(), Some(self.readers), shares_pids) {
            Ok(peer) => peer,
            Err(failure) => {
                // Nobody can be named, so nobody can be recorded.
                self.accounts.idle_less(uid);
                return self.turned_away(uid, socket, &failure, None);
            }
        };
        let token = self.token();
        if let Err(errno) = self.epoll.add(&socket, EpollEvent::new(READS, token)) {
            self.accounts.idle_less(uid);
            return self.turned_away(uid, socket, &failed("cannot watch a connection", errno), Some(RETRY));
        }
        let connection = Connection {
            socket,
            peer,
            stage: Stage::New,
            version: wire::NEWEST,
            since: now,
            unsent: VecDeque::new(),
            stalled: None,
            inside: None,
            program: None,
            hashing: false,
            waiting: None,
            early: None,
        };
        self.connections.insert(token, connection);
    }

    /// Whether descriptors are left for so many connections or payloads more: each takes two.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let taken = 2 * (self.connections.len() + self.payloads.len() + self.launching.len() + more) as u64;
        let others = (self.digests.held() + self.waiting * A_LAUNCH + self.early * Early::HOLDS) as u64;
        OWN_DESCRIPTORS + taken + others <= self.most_descriptors
    }

    /// One message is taken, or the end. epoll is level-triggered: the next turn finds what is left.
    pub(super) fn ready(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let uid = connection.peer.uid;
        if !flush(connection) {
            return self.disconnect(token);
        }
        self.wait_to_send(token);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.stalled.is_some() || self.turn.is_over(uid) {
            return;
        }
        match self.digests.backlog(uid) {
            Backlog::Short => {}
            Backlog::Long => return self.pause(token),
            Backlog::Hangs => return self.disconnect(token),
        }
        let received = match socket::receive(connection.socket.as_fd(), &mut self.buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return,
            Err(_) => return self.disconnect(token),
        };
        if received.length == 0 {
            self.digests.discard(uid, received.fds);
            return self.disconnect(token);
        }
        self.turn.charge(uid, received.length + A_MESSAGE);
        self.turn.unwritten += received.length;
        self.packet(token, received);
        if self.turn.unwritten >= BATCH {
            self.commit();
        }
    }

    /// Nothing is read from it until the next beat.
    fn pause(&mut self, token: u64) {
        self.paused.push(token);
        self.arm(token, EpollFlags::empty());
    }

    fn packet(&mut self, token: u64, received: socket::Received) {
        let Some(connection) = self.connections.get(&token) else { return };
        let uid = connection.peer.uid;
        let packet = self.buffer.get(..received.length).unwrap_or_default();
        let decoded = if received.truncated {
            Err((0, wire::Malformed::Length(received.length)))
        } else {
            wire::decode(packet)
        };
        match decoded {
            Ok(packet) => self.message(token, packet, received),
            Err(_) if received.descriptors_lost => {
                // Descriptors are counted, but not before they come: there may be some soon.
                let serial = wire::decode(packet).map_or_else(|(serial, _)| serial, |packet| packet.serial);
                self.digests.discard(uid, received.fds);
                self.refuse_for_now(token, serial, &no_descriptors());
            }
            Err((serial, malformed)) => {
                self.counters.malformed += 1;
                self.digests.discard(uid, received.fds);
                let failure = Failure::record(
                    "cannot understand a message to the recorder",
                    malformed.to_string(),
                    "use a bailey and a bailey-recorder of the same or of neighbouring versions",
                );
                self.refuse(token, serial, &failure);
                // A kind that is not known here may be a newer program's question; anything else is no bailey.
                if !matches!(malformed, wire::Malformed::Kind(_)) {
                    self.disconnect(token);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, token: u64, serial: u32, failure: &Failure) {
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        self.send(token, serial, &Message::Refused(Refused::of(failure)));
    }

    /// No room now.
    pub(super) fn refuse_for_now(&mut self, token: u64, serial: u32, failure: &Failure) {
        *self.counters.refusals.entry(failure.code.exit_code()).or_default() += 1;
        let refused = Refused { retry_after_ms: Some(RETRY.as_millis() as u64), ..Refused::of(failure) };
        self.send(token, serial, &Message::Refused(refused));
    }

    /// Sends a message, or keeps it until the peer reads. One that does not read is cut off.
    pub(super) fn send(&mut self, token: u64, serial: u32, message: &Message) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let packet = match wire::encode(connection.version, serial, message) {
            Ok(packet) => packet,
            Err(failure) => {
                // The peer waits for it: the end of the connection is an answer too.
                say(&failure);
                return self.disconnect(token);
            }
        };
        connection.unsent.push_back(packet);
        if !flush(connection) {
            return self.disconnect(token);
        }
        if !connection.unsent.is_empty() {
            let (uid, count) = (connection.peer.uid, connection.unsent.len());
            if count > MOST_UNSENT
                || (!super::requests::is_administrator(uid) && self.unsent(uid) > MOST_UNSENT_BYTES)
            {
                return self.disconnect(token);
            }
        }
        self.wait_to_send(token);
    }

    /// Bytes that wait for connections of this uid.
    fn unsent(&self, uid: u32) -> usize {
        let of_uid = self.connections.values().filter(|connection| connection.peer.uid == uid);
        of_uid.flat_map(|connection| &connection.unsent).map(Vec::len).sum()
    }

    /// While something waits for a peer epoll is asked for room to send, and nothing more is read from it.
    fn wait_to_send(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let waits = !connection.unsent.is_empty();
        if waits == connection.stalled.is_some() {
            return;
        }
        connection.stalled = waits.then(Instant::now);
        self.arm(token, if waits { EpollFlags::EPOLLOUT } else { READS });
    }

    /// What is waited for on a connection from now on. One that cannot be watched is cut off: nobody would hear of it again.
    fn arm(&mut self, token: u64, flags: EpollFlags) {
        let Some(connection) = self.connections.get(&token) else { return };
        if let Err(errno) = self.epoll.modify(&connection.socket, &mut EpollEvent::new(flags, token)) {
            let (pid, uid) = (connection.peer.pid, connection.peer.uid);
            say(&failed(
                &format!("cannot watch the connection of process {pid}, uid {uid}, and cut it off"),
                errno,
            ));
            self.disconnect(token);
        }
    }

    /// The connection is gone. Its payload is not: see `payloads.rs`.
    pub(super) fn disconnect(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(&token) else { return };
        let uid = connection.peer.uid;
        self.close_socket(uid, connection.socket);
        self.early -= usize::from(connection.early.is_some());
        if let Some(waiting) = connection.waiting {
            self.waiting -= 1;
            self.digests.discard(uid, waiting.fds);
        }
        match connection.stage {
            Stage::Live(id) => self.orphaned(id, token),
            _ => self.accounts.idle_less(uid),
        }
    }

    fn drop_oldest_idle(&mut self) {
        let idle = |connection: &Connection| matches!(connection.stage, Stage::New | Stage::Greeted);
        let mut held: HashMap<u32, usize> = HashMap::new();
        for connection in self.connections.values().filter(|connection| idle(connection)) {
            *held.entry(connection.peer.uid).or_default() += 1;
        }
        // Of whoever has the most: nobody loses a connection because of another's many.
        let Some((most, _)) = held.into_iter().max_by_key(|(_, count)| *count) else { return };
        let mut oldest: Vec<(Instant, u64)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.peer.uid == most && idle(connection))
            .map(|(token, connection)| (connection.since, *token))
            .collect();
        oldest.sort_unstable();
        for (_, token) in oldest.into_iter().take(4) {
            self.disconnect(token);
        }
    }

    /// Connections that waited too long.
    pub(super) fn look_at_connections(&mut self, now: Instant) {
        for token in std::mem::take(&mut self.paused) {
            if self.connections.get(&token).is_some_and(|connection| connection.stalled.is_none()) {
                self.arm(token, READS);
            }
        }
        let late = |connection: &Connection| {
            let idle = matches!(connection.stage, Stage::New | Stage::Greeted)
                && now.duration_since(connection.since) >= MOST_IDLE;
            idle || connection.stalled.is_some_and(|since| now.duration_since(since) >= MOST_UNREAD)
        };
        let late: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| late(connection))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.disconnect(token);
        }
        self.forget_early(now);
        let waiting: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.waiting.as_ref().is_some_and(|waiting| now >= waiting.until))
            .map(|(token, _)| *token)
            .collect();
        for token in waiting {
            self.launch_if_waiting(token, true);
        }
    }
}

fn no_descriptors() -> Failure {
    Failure::record(
        "the recorder takes no more connections",
        "it has no descriptors left (RLIMIT_NOFILE)",
        "raise its limit on open files (LimitNOFILE=, ulimit -n)",
    )
}

/// Sends what waits; `false` when the peer is gone.
fn flush(connection: &mut Connection) -> bool {
    while let Some(packet) = connection.unsent.front() {
        match socket::send(connection.socket.as_fd(), packet, &[]) {
            Ok(()) => {
                connection.unsent.pop_front();
            }
            Err(Errno::EAGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

fn answer(socket: &OwnedFd, serial: u32, message: &Message) -> Result<(), Failure> {
    let packet = wire::encode(wire::OLDEST, serial, message)?;
    socket::send(socket.as_fd(), &packet, &[]).map_err(|errno| failed("cannot answer", errno))
}
