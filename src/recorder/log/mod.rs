//! The recorder's log: one writer, many records in one write, receipts after one fdatasync.
#![forbid(unsafe_code)]

mod draft;
mod live;
mod open;
mod roll;
mod served;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::draft::Draft;
pub use self::live::live_entry;
use crate::audit::Timestamp;
use crate::audit::chain::{Link, hex};
use crate::audit::record::{Host, LiveEntry, Record};
use crate::audit::segment::Directory;
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
    /// Bytes of the line.
    pub bytes: u64,
}

/// The open log.
#[derive(Debug)]
pub struct RecorderLog {
    dir: Directory,
    options: Options,
    _lock: File,
    /// The newest segment.
    segment: Segment,
    /// The last line.
    link: Link,
    live: BTreeMap<String, LiveEntry>,
    /// Memory for the lines of a batch.
    buffer: Vec<u8>,
    /// Lines of the log's own life that nobody has copied yet.
    own: Vec<Vec<u8>>,
    unsynced: Unsynced,
    /// The newest segment's name may not be on the disk.
    unnamed: bool,
    /// Bytes since the last live list.
    since_list: u64,
    /// Bytes of that list.
    list_size: u64,
    /// When a roll that failed may be tried again.
    roll_again: Option<Instant>,
    roll_failure: Option<Failure>,
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
}

impl Unsynced {
    fn at(from: u64, link: Link) -> Self {
        Self { from, link }
    }

    /// Everything up to here is on the disk.
    fn restart(&mut self, from: u64, link: Link) {
        *self = Self::at(from, link);
    }
}

/// Why a batch is not in the log.
#[derive(Debug)]
enum Trouble {
    /// Nothing of it is in the file.
    NotWritten(Failure),
    /// It is in the file, and may not be on the disk.
    NotSynced(Failure),
}

impl RecorderLog {
    /// Writes a batch with one write(2), and one fdatasync(2) where one of them must be durable; one result for each.
    pub fn commit(&mut self, batch: &[Staged]) -> Vec<Result<Written, Failure>> {
        let mut results: Vec<Option<Result<Written, Failure>>> = batch.iter().map(|_| None).collect();
        let at = (self.options.clock)();
        let done = self.roll_if_due(at).and_then(|()| self.attempt(batch, &mut results, at));
        let failure = match done {
            Ok(()) => None,
            Err(Trouble::NotWritten(failure) | Trouble::NotSynced(failure)) => Some(failure),
        };
        let missing = || {
            Failure::record("cannot write the audit record", "it was not tried", "report this as a defect")
        };
        results
            .into_iter()
            .map(|result| match (result, &failure) {
                (Some(Ok(_)) | None, Some(failure)) => Err(failure.clone()),
                (Some(result), _) => result,
                (None, None) => Err(missing()),
            })
            .collect()
    }

    fn attempt(
        &mut self,
        batch: &[Staged],
        results: &mut [Option<Result<Written, Failure>>],
        at: Timestamp,
    ) -> Result<(), Trouble> {
        let mut draft = Draft::new(std::mem::take(&mut self.buffer), self.link, at);
        let mut placed = Vec::with_capacity(batch.len());
        let mut durable = false;
        for (staged, result) in batch.iter().zip(results) {
            match draft.push(&staged.record, &self.options.writer) {
                Ok(line) => {
                    *result = Some(Ok(Written {
                        seq: line.link.seq,
                        hash: hex(&line.link.hash),
                        at,
                        bytes: line.range.len() as u64,
                    }));
                    durable |= staged.durable || matches!(staged.live, Live::Begins(_));
                    placed.push((staged, line));
                }
                Err(failure) => *result = Some(Err(failure)),
            }
        }
        let base = self.segment.len;
        let wrote = self.segment.file.write_all(&draft.bytes);
        if let Err(error) = wrote {
            let failure = self.dir.io_failure("write to", &self.segment.name, &error);
            let _ = self.segment.file.set_len(base);
            return Err(Trouble::NotWritten(failure));
        }
        self.segment.len += draft.bytes.len() as u64;
        self.link = draft.link;
        if durable {
            self.sync()?;
        }
        for (staged, line) in placed {
            match &staged.live {
                Live::Same => {}
                Live::Begins(entry) => {
                    let entry = LiveEntry {
                        segment: Some(self.segment.name.clone()),
                        offset: Some(base + line.range.start as u64),
                        seq: Some(line.link.seq),
                        hash: Some(hex(&line.link.hash)),
                        since: Some(at),
                        ..(**entry).clone()
                    };
                    self.live.insert(entry.id.clone().unwrap_or_default(), entry);
                }
                Live::Ends(id) => {
                    self.live.remove(id);
                }
            }
        }
        self.buffer = draft.bytes;
        Ok(())
    }

    /// Makes everything written durable.
    fn sync(&mut self) -> Result<(), Trouble> {
        if self.unnamed {
            self.dir.sync().map_err(Trouble::NotSynced)?;
            self.unnamed = false;
        }
        let synced = self.segment.file.sync_data();
        synced.map_err(|e| Trouble::NotSynced(self.dir.io_failure("sync", &self.segment.name, &e)))?;
        self.unsynced.restart(self.segment.len, self.link);
        Ok(())
    }

    /// The lines, without newlines, that the log wrote by itself since the last call, for copies elsewhere.
    pub fn take_own_lines(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.own)
    }

    /// What is live, by launch id.
    pub fn live(&self) -> &BTreeMap<String, LiveEntry> {
        &self.live
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Does what is due by time: checkpoints, pruning.
    pub fn tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Ends in order.
    pub fn close(mut self) -> Result<(), Failure> {
        self.sync().map_err(|(Trouble::NotWritten(failure) | Trouble::NotSynced(failure))| failure)
    }
}
