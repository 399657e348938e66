//! The sections of an index, as rows of fixed length and dictionaries of texts.
//!
//! ```text
//! ROWS         of each launch: u64 offset  time  u64 offset of the record that closes it here (all ones: none)  its time
//!              u8 1 when that is a launch-failed
//! PIDS         of each launch: i64 pid  i64 vpid  i64 uid (the least number: unknown)
//! KEYS         of each launch: 16 bytes, the first of the SHA-256 of its id
//! CLOSINGS     of each record that closes a launch of an earlier segment: 16 bytes key  u64 offset  time  u8 as above
//! OTHERS       of each payload-deny, payload-stop, payload-notice, payload-identity and launch-failed:
//!              16 bytes key  u64 offset  time  u8 kind
//! CHECKPOINTS  u64 offset of each checkpoint
//! a FIELD      u32 number of different values, for each: u32 number of texts, each a text; then of each launch u32 which
//!              value it has
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::redundant_closure_for_method_calls)] // a method's path is of one lifetime, and rows() needs all

use sha2::{Digest as _, Sha256};

use super::bytes::{Put, Take};
use crate::audit::Timestamp;
use crate::trace::question::Field;

/// A launch id, shortened.
pub type Key = [u8; 16];

/// The key of a launch id.
pub fn key(id: &str) -> Key {
    let mut key = Key::default();
    for (to, from) in key.iter_mut().zip(Sha256::digest(id)) {
        *to = from;
    }
    key
}

/// A section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Launches.
    Rows,
    /// Their process ids.
    Pids,
    /// Their keys.
    Keys,
    /// What closes earlier launches.
    Closings,
    /// Other records of payloads.
    Others,
    /// Checkpoints.
    Checkpoints,
    /// What questions can name.
    Field(Field),
}

impl Section {
    /// All of them, in the order of the file.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        [Self::Rows, Self::Pids, Self::Keys, Self::Closings, Self::Others, Self::Checkpoints]
            .into_iter()
            .chain(Field::ALL.into_iter().map(Self::Field))
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Rows => 1,
            Self::Pids => 2,
            Self::Keys => 3,
            Self::Closings => 4,
            Self::Others => 5,
            Self::Checkpoints => 6,
            Self::Field(field) => 16 + field as u32,
        }
    }
}

/// The record that closes a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// Offset of the line.
    pub offset: u64,
    /// Its `@timestamp`.
    pub time: Timestamp,
    /// It is a `launch-failed`: the payload never ran.
    pub failed: bool,
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Offset of the line.
    pub offset: u64,
    /// Its `@timestamp`.
    pub time: Timestamp,
    /// What closes it in the same segment.
    pub close: Option<Close>,
}

/// Its process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids {
    /// `process.pid`
    pub pid: Option<i64>,
    /// `process.vpid`
    pub vpid: Option<i64>,
    /// `process.real_user.id`
    pub uid: Option<i64>,
}

/// What kind of record is among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused or failed.
    Denied,
    /// Stopped, or its user was told something.
    Note,
    /// A name that was learned later.
    Identity,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Denied => 0,
            Self::Note => 1,
            Self::Identity => 2,
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Denied, Self::Note, Self::Identity].into_iter().find(|kind| kind.number() == number)
    }
}

impl Close {
    const LENGTH: usize = 8 + 12 + 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.offset);
        out.time(self.time);
        out.u8(u8::from(self.failed));
    }

    fn take(from: &mut Take<'_>) -> Option<Self> {
        Some(Self { offset: from.u64()?, time: from.time()?, failed: from.u8()? != 0 })
    }
}

/// Rows of `length` bytes; `None` when one of them cannot be read or something is left.
fn rows<T>(bytes: &[u8], length: usize, mut take: impl FnMut(&mut Take<'_>) -> Option<T>) -> Option<Vec<T>> {
    let mut from = Take(bytes);
    let mut out = Vec::with_capacity(bytes.len() / length.max(1));
    while !from.0.is_empty() {
        out.push(take(&mut from)?);
    }
    Some(out)
}

pub(super) fn put_rows(all: &[Row]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in all {
        out.u64(row.offset);
        out.time(row.time);
        let none = Close { offset: u64::MAX, time: Timestamp::default(), failed: false };
        row.close.unwrap_or(none).put(&mut out);
    }
    out
}

/// The launches.
pub fn take_rows(bytes: &[u8]) -> Option<Vec<Row>> {
    rows(bytes, 20 + Close::LENGTH, |from| {
        let (offset, time, close) = (from.u64()?, from.time()?, Close::take(from)?);
        Some(Row { offset, time, close: Some(close).filter(|close| close.offset != u64::MAX) })
    })
}

pub(super) fn put_pids(all: &[Pids]) -> Vec<u8> {
    let mut out = Vec::new();
    for pids in all {
        for id in [pids.pid, pids.vpid, pids.uid] {
            out.i64(id.unwrap_or(i64::MIN));
        }
    }
    out
}

/// Their process ids.
pub fn take_pids(bytes: &[u8]) -> Option<Vec<Pids>> {
    let known = |id: i64| (id != i64::MIN).then_some(id);
    rows(bytes, 24, |from| {
        Some(Pids { pid: known(from.i64()?), vpid: known(from.i64()?), uid: known(from.i64()?) })
    })
}

/// Their keys.
pub fn take_keys(bytes: &[u8]) -> Option<Vec<Key>> {
    rows(bytes, 16, |from| from.array())
}

pub(super) fn put_closings(all: &[(Key, Close)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, close) in all {
        out.raw(key);
        close.put(&mut out);
    }
    out
}

/// What closes earlier launches.
pub fn take_closings(bytes: &[u8]) -> Option<Vec<(Key, Close)>> {
    rows(bytes, 16 + Close::LENGTH, |from| Some((from.array()?, Close::take(from)?)))
}

/// One of the other records: key, offset, time, kind.
pub type Other = (Key, u64, Timestamp, Kind);

pub(super) fn put_others(all: &[Other]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, offset, time, kind) in all {
        out.raw(key);
        out.u64(*offset);
        out.time(*time);
        out.u8(kind.number());
    }
    out
}

/// The other records.
pub fn take_others(bytes: &[u8]) -> Option<Vec<Other>> {
    rows(bytes, 37, |from| {
        let (key, offset, time) = (from.array()?, from.u64()?, from.time()?);
        Some((key, offset, time, Kind::of(from.u8()?)?))
    })
}

pub(super) fn put_offsets(all: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for offset in all {
        out.u64(*offset);
    }
    out
}

/// Where checkpoints are.
pub fn take_offsets(bytes: &[u8]) -> Option<Vec<u64>> {
    rows(bytes, 8, |from| from.u64())
}

/// A field of all launches: the different values, each a list of texts, and which one each launch has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// The different ones.
    pub values: Vec<Vec<String>>,
    /// Of each launch.
    pub of: Vec<u32>,
}

impl Values {
    pub(super) fn put(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u32(self.values.len() as u32);
        for texts in &self.values {
            out.u32(texts.len() as u32);
            for text in texts {
                out.text(text);
            }
        }
        for which in &self.of {
            out.u32(*which);
        }
        out
    }

    pub(super) fn take(bytes: &[u8]) -> Option<Self> {
        let mut from = Take(bytes);
        let count = from.u32()?;
        let mut values = Vec::new();
        for _ in 0..count {
            let texts = from.u32()?;
            values.push((0..texts).map(|_| from.text().map(str::to_owned)).collect::<Option<_>>()?);
        }
        Some(Self { values, of: rows(from.0, 4, |from| from.u32())? })
    }

    /// Of each launch whether its value fits; each value is judged once. `None` when the bytes are no such section.
    pub fn judge(bytes: &[u8], fits: impl Fn(&[&str]) -> bool) -> Option<Vec<bool>> {
        let mut from = Take(bytes);
        let count = from.u32()?;
        let mut judged = Vec::new();
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.clear();
            for _ in 0..from.u32()? {
                texts.push(from.text()?);
            }
            judged.push(fits(&texts));
        }
        rows(from.0, 4, |from| judged.get(from.u32()? as usize).copied())
    }
}
