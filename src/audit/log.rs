//! The embedded log: a directory of chained segments that needs no service and no set-up.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::receipt::Receipt;
use super::record::{Host, Record};
use super::time::Timestamp;
use crate::failure::Failure;
use crate::request::LaunchId;

/// Whether `append` returns before or after the line is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fdatasync returned.
    Synced,
    /// Written; a crash of the host may lose it, a crash of bailey not.
    Written,
}

/// How to open a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// How long to wait for the log's lock (`audit.wait`).
    pub wait: Duration,
    /// Whether the log may be on a network file system (`audit.network_filesystem`).
    pub network_filesystem: bool,
    /// `chain.writer`.
    pub writer: String,
    /// The host as the log's own records name it; `boot.id` tells this boot from another.
    pub host: Host,
    /// The clock; [`Timestamp::now`] but in tests.
    pub clock: fn() -> Timestamp,
}

/// Where a line went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// `chain.seq`.
    pub seq: u64,
    /// SHA-256 of the line, lowercase hex.
    pub hash: String,
    /// File name of the segment.
    pub segment: String,
    /// Offset of the line's first byte.
    pub offset: u64,
}

/// A launch that the log knows to be running, for as long as this value lives: when its process dies without
/// [`EmbeddedLog::append_end`], the next bailey on the log writes the end record.
#[derive(Debug)]
#[must_use = "dropping it lets the next bailey declare the launcher lost"]
pub struct LiveSlot {
    launch: LaunchId,
}

impl LiveSlot {
    /// The launch.
    pub fn launch(&self) -> LaunchId {
        self.launch
    }
}

/// An open log. All its descriptors are close-on-exec; see [`EmbeddedLog::open`] for what forked children must do.
#[derive(Debug)]
pub struct EmbeddedLog {}

impl EmbeddedLog {
    /// Opens the log in `dir` and does what can be done in advance: makes the directory (0700) and today's segment, repairs a
    /// torn tail, closes launches whose launcher died. Call it early, off the critical path.
    ///
    /// A forked child (bailey's init) MUST close every descriptor of the log: the lock of a live launch and the lock of the
    /// chain last as long as any copy of their descriptor.
    pub fn open(_dir: &Path, _options: LogOptions) -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Appends one record that neither starts nor ends a launch.
    pub fn append(&mut self, _record: &Record, _durability: Durability) -> Result<Position, Failure> {
        Err(Failure::record("cannot append", "not written yet", "wait"))
    }

    /// Appends a `payload-launch` and returns when it is durable. `pidfd` is the frozen payload's.
    pub fn append_launch(
        &mut self,
        _record: &Record,
        launch: LaunchId,
        pidfd: OwnedFd,
    ) -> Result<(Receipt, LiveSlot), Failure> {
        drop(pidfd);
        let _ = LiveSlot { launch };
        Err(Failure::record("cannot append", "not written yet", "wait"))
    }

    /// Appends the `payload-end` or `launch-failed` that closes a launch, and frees its slot. Works on a log opened later
    /// than the one that made the slot.
    pub fn append_end(
        &mut self,
        _record: &Record,
        _slot: LiveSlot,
        _durability: Durability,
    ) -> Result<Position, Failure> {
        Err(Failure::record("cannot append", "not written yet", "wait"))
    }

    /// The line of the last record that this value wrote, without its newline, for copies elsewhere (the journal).
    pub fn last_line(&self) -> &[u8] {
        b""
    }
}
