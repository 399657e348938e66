//! The recorder's log: one writer, many records in one write, receipts after one fdatasync.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::audit::Timestamp;
use crate::audit::record::{Host, LiveEntry, Record};
use crate::failure::Failure;

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
    /// A launch begins. `segment`, `offset`, `seq`, `hash` and `since` are filled in by the log.
    Begins(Box<LiveEntry>),
    /// The launch of this id is closed.
    Ends(String),
}

/// One record that waits for the next [`RecorderLog::commit`].
#[derive(Debug, Clone)]
pub struct Staged {
    /// The record.
    pub record: Record,
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
}

/// The open log.
#[derive(Debug)]
pub struct RecorderLog {
    live: BTreeMap<String, LiveEntry>,
}

impl RecorderLog {
    /// Opens or makes it, takes its lock, repairs a torn tail, reads what was live at its end.
    pub fn open(options: Options) -> Result<Self, Failure> {
        let _ = options;
        Err(Failure::record("cannot open the recorder's log", "it is not built yet", "wait"))
    }

    /// Writes a batch with one write(2), and one fdatasync(2) where one of them must be durable; one result for each.
    pub fn commit(&mut self, batch: &[Staged]) -> Vec<Result<Written, Failure>> {
        batch.iter().map(|_| Err(Failure::record("cannot write", "it is not built yet", "wait"))).collect()
    }

    /// What is live, by launch id.
    pub fn live(&self) -> &BTreeMap<String, LiveEntry> {
        &self.live
    }
}
