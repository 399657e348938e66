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
    /// How many lines.
    pub(super) lines: u64,
    /// How many of them come after the last checkpoint, when there is one.
    pub(super) unsigned: Option<u64>,
    /// Where the last list begins and ends, when there is one.
    pub(super) list: Option<Range<usize>>,
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
        bytes.shrink_to(super::UNSYNCED);
        Self { bytes, link, at, own: Vec::new(), lines: 0, unsigned: None, list: None }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &Record, writer: &str) -> Result<Placed, Failure> {
        let start = self.bytes.len();
        let link = append_line(&mut self.bytes, record, self.at, &self.link, writer)?;
        Ok(self.placed(start, link))
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
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let link = append_again(&mut self.bytes, line, &self.link, writer)?;
        Some(self.placed(start, link))
    }

    fn placed(&mut self, start: usize, link: Link) -> Placed {
        self.link = link;
        self.lines += 1;
        if let Some(unsigned) = &mut self.unsigned {
            *unsigned += 1;
        }
        Placed { range: start..self.bytes.len(), link }
    }

    /// The lines of the log's own life, without newlines.
    pub(super) fn own_lines(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let lines = self.own.iter().filter_map(|range| self.bytes.get(range.clone()));
        lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line).to_vec())
    }

    /// The other lines, each with its newline.
    pub(super) fn others(&self, placed: &[Placed]) -> Vec<u8> {
        placed.iter().filter_map(|line| self.bytes.get(line.range.clone())).flatten().copied().collect()
    }
}
