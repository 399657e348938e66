//! The event loop: one thread, one epoll(7). A turn takes what arrived, then makes all of it durable with one write and one
//! fdatasync, then answers.
//!
//! 1. A receipt leaves only after [`RecorderLog::commit`] said that its record is on the disk.
//! 2. Nothing that a peer controls is waited for: sockets do not block, unknown descriptors are looked at and closed by
//!    threads of their own ([`Digests`]), a peer that does not read is cut off.
//! 3. A turn takes a few messages of each connection, so one that floods delays the others by those few.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::accounts::Accounts;
use super::listen;
use super::log::{Live, RecorderLog, Staged, Written};
use super::metrics::{self, Counters};
use super::observe::{Digests, Peer, Program};
use super::payloads::{Begun, Payload};
use super::records::{self, Asker};
use crate::audit::record::{Action, Host, Record, Recorder as RecorderField};
use crate::audit::wire::{self, MAX_PACKET, Message, Refused};
use crate::audit::{Timestamp, journal};
use crate::config::Config;
use crate::failure::{Failure, errno_text};
use crate::host;
use crate::request::LaunchId;
use crate::sys::signal::AllSignals;
use crate::sys::socket;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const DIGESTS: u64 = 2;
/// Tokens of payloads' pidfds have this bit; those of connections have not.
const PIDFD: u64 = 1 << 63;
/// Messages of one connection in one turn.
const MESSAGES_A_TURN: usize = 4;
/// How long a connection may carry no payload. A launcher connects when its child begins to build the root, which may take
/// a minute where an automount has to answer.
const MOST_IDLE: Duration = Duration::from_secs(120);
/// Messages that may wait for a peer that does not read.
const MOST_UNSENT: usize = 16;
/// How often what has a deadline is looked at.
const BEAT: Duration = Duration::from_millis(200);
/// How old the node's addresses in a record may be.
const NODE_AGE: Duration = Duration::from_secs(1);
/// How many ids of closed launches are remembered, so that none begins twice.
const REMEMBERED: usize = 65_536;

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
    /// epoll tells when there is room to send.
    sending: bool,
    /// The peer's own program, once its digest is computed.
    pub(super) program: Option<Program>,
    /// A digest is being computed.
    pub(super) hashing: bool,
    /// A launch that waits for the digest: what was received, and until when.
    pub(super) waiting: Option<super::requests::Waiting>,
}

impl Connection {
    pub(super) fn asker(&self) -> Asker {
        Asker { pid: self.peer.pid, uid: self.peer.uid, gid: self.peer.gid }
    }
}

/// What happens when a record of the batch is written.
pub(super) enum After {
    /// The launch gets its receipt.
    Receipt { token: u64, serial: u32, begun: Box<Begun> },
    /// The payload is closed; the launcher is told, if it asked.
    Closed { id: LaunchId, tell: Option<(u64, u32)> },
    /// A message goes out.
    Answer { token: u64, serial: u32, answer: Message },
    /// Nothing.
    Nothing,
}

/// A record of the batch.
pub(super) struct Job {
    pub(super) staged: Staged,
    pub(super) after: After,
    pub(super) uid: u32,
}

/// The recorder.
pub(super) struct Server {
    pub(super) config: Config,
    /// Beside the socket: the file whose presence refuses launches.
    pub(super) drain_file: PathBuf,
    pub(super) draining: Option<String>,
    listener: OwnedFd,
    signals: AllSignals,
    pub(super) epoll: Epoll,
    pub(super) log: RecorderLog,
    node: (Host, Instant),
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) payloads: HashMap<LaunchId, Payload>,
    pub(super) pidfds: HashMap<u64, LaunchId>,
    /// Payload and init of every live launch, by pid and start ticks.
    pub(super) processes: HashMap<(i32, u64), LaunchId>,
    closed: (HashSet<LaunchId>, VecDeque<LaunchId>),
    pub(super) accounts: Accounts,
    pub(super) digests: Digests,
    pub(super) counters: Counters,
    pub(super) batch: Vec<Job>,
    next_token: u64,
    buffer: Vec<u8>,
    /// For what is read from /proc.
    pub(super) scratch: Vec<u8>,
    beat: Instant,
    pub(super) ending: bool,
    identity: RecorderField,
    /// The group of the log's directory: who may read the log may ask about it.
    readers: u32,
    metrics_at: Option<Instant>,
    watchdog: Option<Duration>,
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::site(what, errno_text(errno), "raise the limit on open files (LimitNOFILE=, ulimit -n)")
}

impl Server {
    pub(super) fn new(
        config: Config,
        listener: OwnedFd,
        log: RecorderLog,
        identity: RecorderField,
        readers: u32,
    ) -> Result<Self, Failure> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| failed("cannot wait for events", e))?;
        let signals = AllSignals::block().map_err(|e| failed("cannot take over signals", e))?;
        let digests = Digests::new()?;
        for (fd, token) in
            [(listener.as_fd(), LISTENER), (signals.as_fd(), SIGNALS), (digests.as_fd(), DIGESTS)]
        {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
                .map_err(|e| failed("cannot wait for events", e))?;
        }
        let drain_file = config.audit.socket.parent().map_or_else(|| "drain".into(), |dir| dir.join("drain"));
        let now = Instant::now();
        Ok(Self {
            accounts: Accounts::new(config.recorder.clone()),
            drain_file,
            draining: None,
            listener,
            signals,
            epoll,
            log,
            node: (host::node()?, now),
            connections: HashMap::new(),
            payloads: HashMap::new(),
            pidfds: HashMap::new(),
            processes: HashMap::new(),
            closed: (HashSet::new(), VecDeque::new()),
            digests,
            counters: Counters::default(),
            batch: Vec::new(),
            next_token: 16,
            buffer: vec![0; MAX_PACKET + 1],
            scratch: Vec::new(),
            beat: now,
            ending: false,
            identity,
            readers,
            metrics_at: None,
            watchdog: sd_notify::watchdog_enabled(),
            config,
        })
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.announce();
        self.take_over_live();
        self.commit();
        self.look_at_drain_flag();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.ending {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(failed("cannot wait for events", errno)),
            };
            let tokens: Vec<u64> = events.iter().take(count).map(EpollEvent::data).collect();
            for token in tokens {
                match token {
                    LISTENER => self.accept(),
                    SIGNALS => self.signalled(),
                    DIGESTS => self.digested(),
                    token if token & PIDFD != 0 => self.payload_exited(token),
                    token => self.ready(token),
                }
            }
            self.commit();
            if self.beat.elapsed() >= BEAT {
                self.beat();
                self.commit();
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.finish()
    }

    fn timeout(&self) -> EpollTimeout {
        let quiet = self.connections.is_empty() && self.payloads.is_empty();
        let longest = if quiet { Duration::from_secs(1) } else { BEAT };
        let log = self.log.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let wait = log.map_or(longest, |left| left.min(longest)) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO)
    }

    fn announce(&mut self) {
        let node = self.node().clone();
        let start = records::service(Action::RecorderStart, &node, self.identity.clone(), None);
        self.stage(start, Live::Same, true, true, After::Nothing, 0);
    }

    /// Writes the last records; what runs goes on, and is found again by the next start.
    fn finish(mut self) -> Result<(), Failure> {
        let node = self.node().clone();
        let reason = format!("{} payloads go on", self.payloads.len());
        let stop = records::service(Action::RecorderStop, &node, self.identity.clone(), Some(reason));
        self.stage(stop, Live::Same, true, true, After::Nothing, 0);
        self.commit();
        self.log.close()
    }

    /// The node as records name it; looked at again when older than a second.
    pub(super) fn node(&mut self) -> &Host {
        if self.node.1.elapsed() >= NODE_AGE
            && let Ok(node) = host::node()
        {
            self.node = (node, Instant::now());
        }
        &self.node.0
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    // ---- the batch ----

    pub(super) fn stage(
        &mut self,
        record: Record,
        live: Live,
        durable: bool,
        reserved: bool,
        after: After,
        uid: u32,
    ) {
        self.batch.push(Job { staged: Staged { record, live, durable, reserved }, after, uid });
    }

    /// Writes what this turn brought, and answers.
    fn commit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (staged, afters): (Vec<Staged>, Vec<(After, u32)>) =
            std::mem::take(&mut self.batch).into_iter().map(|job| (job.staged, (job.after, job.uid))).unzip();
        let results = self.log.commit(&staged);
        for ((staged, (after, uid)), result) in staged.into_iter().zip(afters).zip(results) {
            if let Ok(written) = &result {
                self.accounts.filled(uid, written.bytes);
            }
            self.written(staged, after, result);
        }
        self.copy_own_lines();
    }

    fn written(&mut self, staged: Staged, after: After, result: Result<Written, Failure>) {
        match after {
            After::Receipt { token, serial, begun } => match result {
                Ok(written) => {
                    let receipt = wire::Receipt {
                        id: begun.id.to_string(),
                        seq: written.seq,
                        hash: written.hash.clone(),
                    };
                    self.counters.launches += 1;
                    self.begin(token, *begun, &written);
                    self.send(token, serial, &Message::Receipt(receipt));
                }
                Err(failure) => {
                    if let Some(connection) = self.connections.get_mut(&token) {
                        connection.stage = Stage::Greeted;
                    }
                    self.refuse(token, serial, &failure);
                }
            },
            After::Closed { id, tell } => {
                match &result {
                    Ok(_) => self.closed(id, &staged.record),
                    Err(_) => self.close_later(id, staged.record),
                }
                if let Some((token, serial)) = tell {
                    match result {
                        Ok(_) => self.send(token, serial, &Message::Done(wire::Done { text: String::new() })),
                        Err(failure) => self.refuse(token, serial, &failure),
                    }
                }
            }
            After::Answer { token, serial, answer } => match result {
                Ok(_) => self.send(token, serial, &answer),
                Err(failure) => self.refuse(token, serial, &failure),
            },
            After::Nothing => {
                if let Err(failure) = result {
                    say(&failure);
                }
            }
        }
    }

    fn copy_own_lines(&mut self) {
        journal::copy_own(self.config.audit.journald, &self.log.take_own_lines());
    }

    /// Remembers that the launch was there.
    pub(super) fn remember(&mut self, id: LaunchId) {
        let (set, order) = &mut self.closed;
        if set.insert(id) {
            order.push_back(id);
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                set.remove(&oldest);
            }
        }
    }

    pub(super) fn was_closed(&self, id: LaunchId) -> bool {
        self.closed.0.contains(&id)
    }

    // ---- connections ----

    fn accept(&mut self) {
        // A few at a time: those who are connected have their turn in between.
        for _ in 0..64 {
            match listen::accept(&self.listener) {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(errno) => {
                    // No descriptor is left: the oldest connections that carry no payload make room.
                    say(&failed("cannot accept a connection", errno));
                    self.drop_oldest_idle();
                    return;
                }
            }
        }
    }

    fn greet(&mut self, socket: OwnedFd) {
        let now = Instant::now();
        let peer = match Peer::look(socket.as_fd(), Some(self.readers)) {
            Ok(peer) => peer,
            Err(failure) => {
                // Nobody can be named, so nobody can be recorded.
                let _ = answer(&socket, 0, &Message::Refused(Refused::of(&failure)));
                return;
            }
        };
        if self.digests.is_stuck(peer.uid) {
            return; // what it handed over before cannot even be closed
        }
        if let Err(failure) = self.accounts.connect(peer.uid, now) {
            let _ = answer(&socket, 0, &Message::Refused(Refused::of(&failure)));
            return;
        }
        let token = self.token();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        if self.epoll.add(&socket, EpollEvent::new(flags, token)).is_err() {
            self.accounts.idle_less(peer.uid);
            return;
        }
        let connection = Connection {
            socket,
            peer,
            stage: Stage::New,
            version: wire::NEWEST,
            since: now,
            unsent: VecDeque::new(),
            sending: false,
            program: None,
            hashing: false,
            waiting: None,
        };
        self.connections.insert(token, connection);
    }

    fn ready(&mut self, token: u64) {
        for _ in 0..MESSAGES_A_TURN {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            if !flush(connection) {
                self.disconnect(token);
                return;
            }
            let received = match socket::receive(connection.socket.as_fd(), &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => {
                    self.wait_to_send(token);
                    return;
                }
                Err(_) => {
                    self.disconnect(token);
                    return;
                }
            };
            if received.length == 0 {
                let uid = connection.peer.uid;
                self.digests.discard(uid, received.fds);
                self.disconnect(token);
                return;
            }
            self.packet(token, received);
        }
        self.wait_to_send(token);
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
            Ok(packet) => self.message(token, packet, received.fds),
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

    /// Sends a message, or keeps it until the peer reads. One that does not read is cut off.
    pub(super) fn send(&mut self, token: u64, serial: u32, message: &Message) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let Ok(packet) = wire::encode(connection.version, serial, message) else { return };
        if connection.unsent.len() >= MOST_UNSENT {
            self.disconnect(token);
            return;
        }
        connection.unsent.push_back(packet);
        if flush(connection) {
            self.wait_to_send(token);
        } else {
            self.disconnect(token);
        }
    }

    /// Asks epoll for room to send exactly while something waits.
    fn wait_to_send(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let waits = !connection.unsent.is_empty();
        if waits == connection.sending {
            return;
        }
        connection.sending = waits;
        let mut flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        flags.set(EpollFlags::EPOLLOUT, waits);
        let _ = self.epoll.modify(&connection.socket, &mut EpollEvent::new(flags, token));
    }

    /// The connection is gone. Its payload is not: see `payloads.rs`.
    pub(super) fn disconnect(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(&token) else { return };
        let _ = self.epoll.delete(&connection.socket);
        let uid = connection.peer.uid;
        // Messages that nobody read may hold descriptors whose closing hangs.
        let mut fds = vec![connection.socket];
        fds.extend(connection.waiting.into_iter().flat_map(|waiting| waiting.fds));
        self.digests.discard(uid, fds);
        match connection.stage {
            Stage::Live(id) => self.orphaned(id, token),
            _ => self.accounts.idle_less(uid),
        }
    }

    fn drop_oldest_idle(&mut self) {
        let idle = |connection: &Connection| matches!(connection.stage, Stage::New | Stage::Greeted);
        let mut oldest: Vec<(Instant, u64)> = self
            .connections
            .iter()
            .filter(|(_, connection)| idle(connection))
            .map(|(token, connection)| (connection.since, *token))
            .collect();
        oldest.sort_unstable();
        for (_, token) in oldest.into_iter().take(16) {
            self.disconnect(token);
        }
    }

    // ---- other events ----

    fn signalled(&mut self) {
        while let Some(arrived) = self.signals.next() {
            if [libc::SIGTERM, libc::SIGINT].contains(&arrived.signal) {
                self.ending = true;
            }
        }
    }

    fn digested(&mut self) {
        for (token, result) in self.digests.results() {
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.hashing = false;
                connection.program = result.ok();
                self.launch_if_waiting(token, false);
            }
        }
    }

    /// What has a deadline.
    fn beat(&mut self) {
        let now = Instant::now();
        self.beat = now;
        let late: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                matches!(connection.stage, Stage::New | Stage::Greeted)
                    && now.duration_since(connection.since) >= MOST_IDLE
            })
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            self.disconnect(token);
        }
        let waiting: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.waiting.as_ref().is_some_and(|waiting| now >= waiting.until))
            .map(|(token, _)| *token)
            .collect();
        for token in waiting {
            self.launch_if_waiting(token, true);
        }
        self.look_at_payloads(now);
        self.look_at_drain_flag();
        self.accounts.forget(now);
        if let Err(failure) = self.log.tick() {
            say(&failure);
        }
        self.copy_own_lines();
        if self.watchdog.is_some() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        if self.metrics_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(15)) {
            self.metrics_at = Some(now);
            self.write_metrics();
        }
    }

    fn write_metrics(&mut self) {
        self.counters.connections = self.connections.len() as u64;
        self.counters.live = self.payloads.len() as u64;
        self.counters.draining = self.draining.is_some();
        let path = self.config.recorder.metrics.clone();
        let path = path.unwrap_or_else(|| self.config.recorder.state.join("metrics.prom"));
        let text = metrics::text(&self.counters, &self.log.stats());
        if let Err(failure) = metrics::replace(&path, &text) {
            say(&failure);
        }
    }
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
    let packet = wire::encode(wire::NEWEST, serial, message)?;
    socket::send(socket.as_fd(), &packet, &[]).map_err(|errno| failed("cannot answer", errno))
}

/// For the service's own journal.
pub(super) fn say(failure: &Failure) {
    eprintln!("bailey-recorder: {failure}");
}

/// Now, for records.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
