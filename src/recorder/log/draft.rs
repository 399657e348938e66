//! Lines on their way into the log: composed in one buffer, written with one write(2).
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::audit::Timestamp;
use crate::audit::chain::{Link, append_again, append_line};
use crate::audit::record::Record;
use crate::failure::Failure;

/// Lines that follow each other in the chain and are not in a file yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// Whole lines.
    pub(super) bytes: Vec<u8>,
    /// The last of them; where there is none, the line before.
    pub(super) link: Link,
    /// `@timestamp` of all.
    pub(super) at: Timestamp,
    /// Which of the bytes are lines of the log's own life.
    own: Vec<Range<usize>>,
}

/// A line of a draft.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) range: Range<usize>,
    pub(super) link: Link,
}

impl Draft {
    /// An empty one that goes on after `link`, with the memory of `bytes`.
    pub(super) fn new(mut bytes: Vec<u8>, link: Link, at: Timestamp) -> Self {
        bytes.clear();
        Self { bytes, link, at, own: Vec::new() }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &Record, writer: &str) -> Result<Placed, Failure> {
        let start = self.bytes.len();
        self.link = append_line(&mut self.bytes, record, self.at, &self.link, writer)?;
        Ok(Placed { range: start..self.bytes.len(), link: self.link })
    }

    /// Adds a record of the log's own life.
    pub(super) fn push_own(&mut self, record: &Record, writer: &str) -> Result<Placed, Failure> {
        let placed = self.push(record, writer)?;
        self.own.push(placed.range.clone());
        Ok(placed)
    }

    /// Adds a line that was in the log before, with its time; `None` when it is none.
    pub(super) fn push_again(&mut self, line: &[u8], writer: &str) -> Option<Placed> {
        let start = self.bytes.len();
        self.link = append_again(&mut self.bytes, line, &self.link, writer)?;
        Some(Placed { range: start..self.bytes.len(), link: self.link })
    }

    /// The lines of the log's own life, without newlines.
    pub(super) fn own_lines(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let lines = self.own.iter().filter_map(|range| self.bytes.get(range.clone()));
        lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line).to_vec())
    }

    /// Whether the line is one of the log's own.
    pub(super) fn is_own(&self, placed: &Placed) -> bool {
        self.own.contains(&placed.range)
    }
}
