//! The event loop: one thread, one epoll(7). A turn takes what arrived, then makes all of it durable with one write and one
//! fdatasync, then answers.
//!
//! 1. A receipt leaves only after [`RecorderLog::commit`] said that its record is on the disk.
//! 2. Nothing that a peer controls is waited for: sockets do not block, unknown descriptors are looked at and closed by
//!    threads of their own ([`Digests`]), a peer that does not read is cut off.
//! 3. A turn takes a few messages of each connection and a limited part of each uid's, so one that floods delays the others
//!    by those few ([`connections`](super::connections)).
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::accounts::Accounts;
use super::connections::{self, Connection, Stage, Turn};
use super::ids::Ids;
use super::indexer::Indexer;
use super::log::{Live, RecorderLog, Staged, Written};
use super::metrics::{self, Counters};
use super::observe::Digests;
use super::payloads::{Begun, Payload};
use super::records;
use super::site::{Site, Watch};
use super::suspend::{Crowd, Told};
use crate::audit::record::{Action, Host, Record, Recorder as RecorderField};
use crate::audit::wire::{self, MAX_PACKET, Message};
use crate::audit::{Timestamp, drain, journal};
use crate::config::{Config, Journald};
use crate::failure::{Failure, Printable, errno_text};
use crate::host;
use crate::request::LaunchId;
use crate::sys::signal::AllSignals;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const DIGESTS: u64 = 2;
const SITE: u64 = 3;
/// Tokens of payloads' pidfds have this bit; those of connections have not.
const PIDFD: u64 = 1 << 63;
/// How long a recorder that ends reads what was sent before.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often what has a deadline is looked at.
const BEAT: Duration = Duration::from_millis(200);
/// Descriptors that may wait to be closed until the answers are out; those of one launch come on top.
const LATE: usize = 16;
/// How old the node's addresses in a record may be.
const NODE_AGE: Duration = Duration::from_secs(1);

/// What happens when a record of the batch is written.
pub(super) enum After {
    /// The launch gets its receipt.
    Receipt { token: u64, serial: u32, begun: Box<Begun> },
    /// A check gets the receipt of its record.
    Checked { token: u64, serial: u32, id: LaunchId },
    /// The payload is closed; the launcher is told, if it asked.
    Closed { id: LaunchId, tell: Option<(u64, u32)> },
    /// A message goes out.
    Answer { token: u64, serial: u32, answer: Message },
    /// The launcher is told to stop its payload; the asker hears what became of it.
    Order { id: LaunchId, order: wire::Stop, token: u64, serial: u32 },
    /// The launcher is told to stop its payload; nobody asked.
    Ordered { id: LaunchId, order: wire::Stop },
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
    pub(super) listener: OwnedFd,
    signals: AllSignals,
    pub(super) epoll: Epoll,
    pub(super) log: RecorderLog,
    node: (Arc<Host>, Instant),
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) payloads: HashMap<LaunchId, Payload>,
    pub(super) pidfds: HashMap<u64, LaunchId>,
    /// Payload and init of every live launch, by pid and start ticks.
    pub(super) processes: HashMap<(i32, u64), LaunchId>,
    /// Launches whose record is in the batch.
    pub(super) launching: HashSet<LaunchId>,
    pub(super) ids: Ids,
    pub(super) accounts: Accounts,
    pub(super) digests: Digests,
    pub(super) counters: Counters,
    /// The site's policy as its files were last.
    pub(super) site: Arc<Site>,
    pub(super) watch: Watch,
    /// Configurations that held a moment ago, and since when they are not in force.
    pub(super) hashes_before: Vec<(String, Instant)>,
    /// Versions of lists that `bailey ban` says it is about to write, by their digest.
    pub(super) told_bans: HashMap<String, Told>,
    pub(super) crowd: Crowd,
    pub(super) batch: Vec<Job>,
    pub(super) turn: Turn,
    /// Descriptors that nobody needs any more and that are harmless to close: that is done when the answers are out.
    late: Vec<OwnedFd>,
    /// Connections from which nothing is read until the next beat.
    pub(super) paused: Vec<u64>,
    /// Connections whose launch waits for a digest.
    pub(super) waiting: usize,
    /// Connections that handed a payload over whose launch did not come yet.
    pub(super) early: usize,
    /// See [`connections::spare`].
    pub(super) spare: Option<OwnedFd>,
    pub(super) most_descriptors: u64,
    next_token: u64,
    pub(super) buffer: Vec<u8>,
    /// For what is read from /proc.
    pub(super) scratch: Vec<u8>,
    beat: Instant,
    pub(super) ending: bool,
    identity: RecorderField,
    /// The group of the log's directory: who may read the log may ask about it.
    pub(super) readers: u32,
    pub(super) metrics_at: Option<Instant>,
    watchdog: Option<Duration>,
    indexer: Indexer,
}

pub(super) fn failed(what: &str, errno: Errno) -> Failure {
    Failure::site(what, errno_text(errno), "raise the limit on open files (LimitNOFILE=, ulimit -n)")
}

impl Server {
    pub(super) fn new(
        config: Config,
        (site, watch): (Arc<Site>, Watch),
        signals: AllSignals,
        listener: OwnedFd,
        log: RecorderLog,
        identity: RecorderField,
        readers: u32,
    ) -> Result<Self, Failure> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| failed("cannot wait for events", e))?;
        let digests = Digests::new()?;
        for (fd, token) in [
            (listener.as_fd(), LISTENER),
            (signals.as_fd(), SIGNALS),
            (digests.as_fd(), DIGESTS),
            (watch.as_fd(), SITE),
        ] {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
                .map_err(|e| failed("cannot wait for events", e))?;
        }
        let drain_file = drain::flag(&config.audit.socket);
        let now = Instant::now();
        Ok(Self {
            accounts: Accounts::new(config.recorder.clone(), connections::most_idle()),
            drain_file,
            draining: None,
            listener,
            signals,
            epoll,
            node: (Arc::new(host::node()?), now),
            connections: HashMap::new(),
            payloads: HashMap::new(),
            pidfds: HashMap::new(),
            processes: HashMap::new(),
            launching: HashSet::new(),
            ids: Ids::of_log(&log)?,
            log,
            digests,
            counters: Counters::default(),
            site,
            watch,
            hashes_before: Vec::new(),
            told_bans: HashMap::new(),
            crowd: Crowd::default(),
            batch: Vec::new(),
            turn: Turn::default(),
            late: Vec::new(),
            paused: Vec::new(),
            waiting: 0,
            early: 0,
            spare: connections::spare(),
            most_descriptors: connections::most_descriptors(),
            next_token: 16,
            buffer: vec![0; MAX_PACKET + 1],
            scratch: Vec::new(),
            beat: now,
            ending: false,
            identity,
            readers,
            metrics_at: None,
            watchdog: sd_notify::watchdog_enabled(),
            indexer: Indexer::start(&config.recorder.dir),
            config,
        })
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        crate::sys::alloc::keep_here(); // until the process ends
        self.announce();
        self.take_over_live();
        self.commit();
        self.suspend(); // who was banned while nobody looked
        self.look_at_drain_flag();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut events = vec![EpollEvent::empty(); 256];
        while !self.ending {
            self.turn(&mut events, self.timeout())?;
            if self.beat.elapsed() >= BEAT {
                self.beat();
                self.commit();
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // What is in the sockets already is still taken: an end that its launcher has told would be lost otherwise.
        let until = Instant::now() + LAST_WORDS;
        while self.turn(&mut events, EpollTimeout::ZERO)? > 0 && Instant::now() < until {}
        self.finish()
    }

    /// One turn: what is ready is read, written and answered. How many were ready, but for new connections of a recorder that
    /// ends.
    fn turn(&mut self, events: &mut [EpollEvent], timeout: EpollTimeout) -> Result<usize, Failure> {
        let count = match self.epoll.wait(events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(failed("cannot wait for events", errno)),
        };
        self.turn.begin();
        let mut tokens: Vec<u64> = events.iter().take(count).map(EpollEvent::data).collect();
        tokens.retain(|token| !self.ending || *token != LISTENER);
        for token in &tokens {
            match *token {
                LISTENER => self.accept(),
                SIGNALS => self.signalled(),
                DIGESTS => self.digested(),
                SITE => self.site_changed(),
                token if token & PIDFD != 0 => self.payload_exited(token),
                token => self.ready(token),
            }
        }
        self.commit();
        Ok(tokens.len())
    }

    fn timeout(&self) -> EpollTimeout {
        let quiet = self.connections.is_empty() && self.payloads.is_empty();
        let longest = if quiet { Duration::from_secs(1) } else { BEAT };
        let log = self.log.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        // What is overdue, because it fails, is tried at every beat and not in between.
        let beat = BEAT.saturating_sub(self.beat.elapsed());
        let wait = log.map_or(longest, |left| left.max(beat).min(longest)) + Duration::from_millis(1);
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
    pub(super) fn node(&mut self) -> &Arc<Host> {
        if self.node.1.elapsed() >= NODE_AGE
            && let Ok(node) = host::node()
        {
            self.node = (Arc::new(node), Instant::now());
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
        record: impl Into<Box<Record>>,
        live: Live,
        durable: bool,
        reserved: bool,
        after: After,
        uid: u32,
    ) {
        self.batch.push(Job {
            staged: Staged { record: record.into(), live, durable, reserved },
            after,
            uid,
        });
    }

    /// Writes what this turn brought, and answers.
    pub(super) fn commit(&mut self) {
        self.turn.committed();
        if !self.batch.is_empty() {
            self.commit_batch();
        }
        self.late.clear();
    }

    /// Closes descriptors that are known to be harmless when the answers are out, or now, where descriptors are few.
    pub(super) fn close_late(&mut self, fds: impl Iterator<Item = OwnedFd>) {
        if self.late.len() < LATE && self.has_room(LATE) {
            self.late.extend(fds);
        }
    }

    fn commit_batch(&mut self) {
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
            After::Receipt { token, serial, begun } => {
                self.launching.remove(&begun.id);
                match result {
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
                        self.accounts.ended(begun.uid);
                        self.crowd.remove(&begun.crowd);
                        if let Some(connection) = self.connections.get_mut(&token) {
                            connection.stage = Stage::Greeted;
                        }
                        self.refuse(token, serial, &failure);
                    }
                }
            }
            After::Checked { token, serial, id } => match result {
                Ok(Written { seq, hash, .. }) => {
                    self.counters.checks += 1;
                    let receipt = wire::Receipt { id: id.to_string(), seq, hash };
                    self.send(token, serial, &Message::Receipt(receipt));
                }
                Err(failure) => self.refuse(token, serial, &failure),
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
            After::Order { id, order, token, serial } => {
                // A payload that must be stopped is stopped also when the log is in trouble.
                let told = self.order(id, order);
                match (told, result) {
                    (Some(text), Ok(_)) => self.send(token, serial, &Message::Done(wire::Done { text })),
                    (Some(text), Err(failure)) => {
                        self.refuse(
                            token,
                            serial,
                            &Failure { what: format!("{text}, but: {}", failure.what), ..failure },
                        );
                    }
                    (None, _) => {
                        let failure = Failure::refused(
                            format!("cannot stop launch {id}"),
                            "its payload ended meanwhile",
                            "see bailey trace",
                        );
                        self.refuse(token, serial, &failure);
                    }
                }
            }
            After::Ordered { id, order } => {
                if let Err(failure) = result {
                    say(&failure);
                }
                let _ = self.order(id, order); // one that ended meanwhile needs none
            }
            After::Nothing => {
                if let Err(failure) = result {
                    say(&failure);
                }
            }
        }
    }

    fn copy_own_lines(&mut self) {
        // Checkpoints leave the host in any case: without a copy elsewhere they prove nothing against who owns the host.
        let mode = match self.config.audit.journald {
            Journald::Off => Journald::Checkpoints,
            mode => mode,
        };
        journal::copy_own(mode, &self.log.take_own_lines());
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
        self.ids.look();
        self.look_at_connections(now);
        self.look_at_payloads(now);
        self.look_at_drain_flag();
        self.accounts.forget(now);
        if let Err(failure) = self.log.tick() {
            say(&failure);
        }
        let (segment, length) = self.log.newest();
        self.indexer.look(segment, length);
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
        self.counters.config_broken = self.site.broken.is_some();
        self.counters.lists_in_trouble = self.site.policy.lists().troubles().count() as u64;
        let path = self.config.recorder.metrics.clone();
        let path = path.unwrap_or_else(|| self.config.recorder.state.join("metrics.prom"));
        let text = metrics::text(&self.counters, &self.log.stats());
        if let Err(failure) = metrics::replace(&path, &text) {
            say(&failure);
        }
    }
}

/// For the service's own journal. A sentence that is the same again is left out for half a minute, and a journal that does
/// not take it is no reason to end.
pub(super) fn say(failure: &Failure) {
    static LAST: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());
    let (text, now) = (failure.to_string(), Instant::now());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.retain(|(_, at)| now.duration_since(*at) < Duration::from_secs(30));
    if last.len() >= 64 || last.iter().any(|(other, _)| *other == text) {
        return;
    }
    let _ = std::io::stderr().write_all(format!("bailey-recorder: {}\n", Printable(&text)).as_bytes());
    last.push((text, now));
}

/// Now, for records.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
