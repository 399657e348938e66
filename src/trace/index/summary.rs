//! What is known of a segment without opening its index: where it is in the chain and in time.
//!
//! ```text
//! SUMMARY  u64 bytes covered  u64 lines  u64 lines not understood
//!          u64 chain.seq of the first line  u64 of the last  32 bytes hash of the last  u64 its offset
//!          time of the first line  of the last  earliest  latest
//!          u64 offset of the live list at the head  u64 bytes of it (0: none)
//!          u32 launches  u32 payload-identity records  u32 number of jumps, for each: u64 offset  time before  time after
//! ```
#![forbid(unsafe_code)]

use super::bytes::{Put, Take};
use crate::audit::Timestamp;
use crate::audit::chain::Hash;

/// A place where the clock went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// Offset of the first line after it.
    pub offset: u64,
    /// `@timestamp` of the line before.
    pub before: Timestamp,
    /// And of the line after.
    pub after: Timestamp,
}

/// One segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of it that were read: whole lines.
    pub covered: u64,
    /// Lines.
    pub lines: u64,
    /// Lines of a form that this version does not know.
    pub unreadable: u64,
    /// `chain.seq` of the first line; 0 where it has none.
    pub first_seq: u64,
    /// Of the last.
    pub last_seq: u64,
    /// SHA-256 of the last line.
    pub last_hash: Hash,
    /// Its offset.
    pub last_offset: u64,
    /// First and last `@timestamp`, the earliest and the latest; `None` when no line has one.
    pub times: Option<Times>,
    /// Offset and length of the live list at the head, if there is one.
    pub live: Option<(u64, u64)>,
    /// Launch records.
    pub launches: u32,
    /// Records of names that were learned later.
    pub identities: u32,
    /// Where the clock went back.
    pub jumps: Vec<Jump>,
}

/// The `@timestamp`s of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Of the first line.
    pub first: Timestamp,
    /// Of the last.
    pub last: Timestamp,
    /// The earliest.
    pub min: Timestamp,
    /// The latest.
    pub max: Timestamp,
}

impl Summary {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for number in [self.covered, self.lines, self.unreadable, self.first_seq, self.last_seq] {
            out.u64(number);
        }
        out.raw(&self.last_hash);
        out.u64(self.last_offset);
        out.u8(u8::from(self.times.is_some()));
        if let Some(times) = &self.times {
            for time in [times.first, times.last, times.min, times.max] {
                out.time(time);
            }
        }
        let (offset, length) = self.live.unwrap_or_default();
        out.u64(offset);
        out.u64(length);
        out.u32(self.launches);
        out.u32(self.identities);
        out.u32(self.jumps.len() as u32);
        for jump in &self.jumps {
            out.u64(jump.offset);
            out.time(jump.before);
            out.time(jump.after);
        }
    }

    pub(super) fn take(from: &mut Take<'_>) -> Option<Self> {
        let mut summary = Self {
            covered: from.u64()?,
            lines: from.u64()?,
            unreadable: from.u64()?,
            first_seq: from.u64()?,
            last_seq: from.u64()?,
            last_hash: from.array()?,
            last_offset: from.u64()?,
            ..Self::default()
        };
        if from.u8()? != 0 {
            let (first, last, min, max) = (from.time()?, from.time()?, from.time()?, from.time()?);
            summary.times = Some(Times { first, last, min, max });
        }
        let (offset, length) = (from.u64()?, from.u64()?);
        summary.live = (length > 0).then_some((offset, length));
        summary.launches = from.u32()?;
        summary.identities = from.u32()?;
        let jumps = from.u32()?;
        for _ in 0..jumps {
            let jump = Jump { offset: from.u64()?, before: from.time()?, after: from.time()? };
            summary.jumps.push(jump);
        }
        let inside = summary.last_offset <= summary.covered
            && offset.checked_add(length).is_some_and(|end| end <= summary.covered);
        inside.then_some(summary)
    }
}
