//! The recorder's log: one writer, many records in one write, receipts after one fdatasync.
//!
//! 1. One process writes it: it holds the lock of the file `lock` for life.
//! 2. A batch is one write(2), whole lines or nothing. A result is `Ok` for a record that must be durable only after
//!    fdatasync returned for it, for everything before it, and for the name of its segment. A launch always must.
//! 3. What was written since the last good fdatasync is kept in memory, so that a bad one loses nothing ([`fault`]).
//! 4. What already happened gets in when there is no room for what is new ([`space`]).
//! 5. Segments follow each other by name, whatever the clock does; each begins with `segment-open` and the list of what is
//!    live, and ends with a signed checkpoint ([`roll`], [`checkpoint`]).
//! 6. After any crash the log opens again from what is on the disk: the end is found, repaired with a record, and what is
//!    live is read from the last list on ([`open`], [`scan`]).
#![forbid(unsafe_code)]

mod checkpoint;
mod commit;
mod draft;
mod fault;
mod key;
mod live;
mod open;
mod prune;
mod roll;
mod scan;
mod served;
mod space;
mod stats;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use self::live::live_entry;
pub use self::stats::{Latency, SYNC_BOUNDS, Stats};
use crate::audit::Timestamp;
use crate::audit::chain::Link;
use crate::audit::record::{Host, LiveEntry, Record};
use crate::audit::segment::Directory;
use crate::audit::sign::{Key, PublicKey};
use crate::failure::Failure;
use crate::request::LaunchId;

/// The most bytes that are written and not synced.
const UNSYNCED: usize = 4 * 1024 * 1024;
/// How often it is looked whether old segments may go.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often a short reserve is filled up, if that is possible.
const REFILL: Duration = Duration::from_secs(10);

/// How to open it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `recorder.dir`.
    pub dir: PathBuf,
    /// `recorder.state`: `key`, `key.pub`.
    pub state: PathBuf,
    /// The host, as the log's own records name it.
    pub host: Host,
    /// `chain.writer`.
    pub writer: String,
    /// `recorder.segment_size`.
    pub segment_size: u64,
    /// `recorder.live_list_every`.
    pub live_list_every: u64,
    /// `recorder.checkpoint_records`.
    pub checkpoint_records: u64,
    /// `recorder.checkpoint_every`.
    pub checkpoint_every: Duration,
    /// `recorder.reserve`.
    pub reserve: u64,
    /// `retention.days`.
    pub retention_days: Option<u64>,
    /// `retention.size`.
    pub retention_size: Option<u64>,
    /// `audit.network_filesystem`.
    pub network_filesystem: bool,
    /// The clock; [`Timestamp::now`] but in tests.
    pub clock: fn() -> Timestamp,
}

/// What a record changes among the live launches.
#[derive(Debug, Clone, PartialEq)]
pub enum Live {
    /// Nothing.
    Same,
    /// Nothing; and yet it gets in only where a launch would: a check asks whether one may.
    AsLaunch,
    /// A launch begins. `segment`, `offset`, `seq`, `hash` and `since` are filled in by the log.
    Begins(Box<LiveEntry>),
    /// The launch of this id is to be stopped, as `grid.stop` of the record says.
    Stops(String),
    /// The launch of this id is closed.
    Ends(String),
}

/// One record that waits for the next [`RecorderLog::commit`].
#[derive(Debug, Clone)]
pub struct Staged {
    /// The record.
    pub record: Box<Record>,
    /// What it changes.
    pub live: Live,
    /// It must be on the disk when `commit` returns. One such record makes the whole batch durable.
    pub durable: bool,
    /// It may use the reserve: the record of something that already happened (ends, stops), not of a new launch.
    pub reserved: bool,
}

/// Where a line went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `chain.seq`.
    pub seq: u64,
    /// SHA-256 of the line, lowercase hex.
    pub hash: String,
    /// `@timestamp`.
    pub at: Timestamp,
    /// Bytes of the line.
    pub bytes: u64,
}

/// The open log.
#[derive(Debug)]
pub struct RecorderLog {
    dir: Directory,
    options: Options,
    _lock: File,
    key: Key,
    /// `grid.checkpoint.key`.
    key_id: String,
    /// The newest segment.
    segment: Segment,
    /// The last line.
    link: Link,
    live: BTreeMap<String, LiveEntry>,
    /// Memory for the lines of a batch.
    buffer: Vec<u8>,
    /// Durable lines of the log's own life that nobody has copied yet.
    own: Vec<Vec<u8>>,
    unsynced: Unsynced,
    /// The newest segment's name may not be on the disk.
    unnamed: bool,
    broken: Option<Broken>,
    reserve: space::Reserve,
    /// The limit of file sizes (`RLIMIT_FSIZE`).
    largest_file: u64,
    /// Bytes since the last live list.
    since_list: u64,
    /// Bytes of that list.
    list_size: u64,
    /// Lines since the last checkpoint.
    unsigned: u64,
    /// When the first of them was written, or a checkpoint of them failed.
    first_unsigned: Instant,
    signed_at: Instant,
    /// When a roll that failed may be tried again.
    roll_again: Option<Instant>,
    refill_at: Instant,
    prune_at: Instant,
    roll_failure: Option<Failure>,
    checkpoint_failure: Option<Failure>,
    prune_failure: Option<Failure>,
    counts: stats::Counts,
}

/// The newest segment.
#[derive(Debug)]
struct Segment {
    name: String,
    file: File,
    /// Bytes of whole lines: where the next line begins.
    len: u64,
    /// Bytes of its head.
    head: u64,
}

/// What is written and not known to be on the disk.
#[derive(Debug)]
struct Unsynced {
    /// Bytes of the newest segment that are.
    from: u64,
    /// The last line that is.
    link: Link,
    /// The lines after it that somebody was told of, each with its newline.
    lines: Vec<u8>,
    /// What those lines ended.
    ended: Vec<LiveEntry>,
    /// The lines after it that the log wrote by itself.
    own: Vec<Vec<u8>>,
}

impl Unsynced {
    const fn at(from: u64, link: Link) -> Self {
        Self { from, link, lines: Vec::new(), ended: Vec::new(), own: Vec::new() }
    }

    /// Everything up to here is on the disk.
    fn restart(&mut self, from: u64, link: Link) {
        (self.from, self.link) = (from, link);
        self.lines.clear();
        self.ended.clear();
        self.own.clear();
    }
}

/// Nothing can be written.
#[derive(Debug)]
struct Broken {
    failure: Failure,
    /// When to try again.
    again: Instant,
}

impl RecorderLog {
    /// What is live, by launch id.
    pub fn live(&self) -> &BTreeMap<String, LiveEntry> {
        &self.live
    }

    /// The lines, without newlines, that the log wrote by itself since the last call and that are durable: segments, live
    /// lists, checkpoints, repairs, prunes. For copies elsewhere.
    pub fn take_own_lines(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.own)
    }

    /// The newest launches, at most so many, that were closed or came to nothing since then; oldest first.
    pub fn closed_since(&self, since: Timestamp, most: usize) -> Result<Vec<LaunchId>, Failure> {
        scan::closed_since(&self.dir, since, most)
    }

    /// The public half of the key that signs.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }
}
