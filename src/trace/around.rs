//! Whether the records of an answer can be believed: the chain from each of them to the checkpoint behind it.
//!
//! 1. A signed checkpoint vouches for every line before it. So a record is sound when the lines from it to the next checkpoint
//!    fit each other, and the checkpoint's signature fits the key. What stands before the record changes nothing in that.
//! 2. There is a limit to what is read: of the records beyond it only the next line's hash is compared, and the answer counts
//!    them. A small log is verified whole.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use serde::Serialize;

use super::index::table::{Section, take_offsets};
use super::log::{Log, Trouble, at_once};
use super::search::Place;
use crate::admin::verify::{self, Break, Broken, KeyFrom, Report, Trust};
use crate::audit::chain::{Hash, Link, from_hex, hash, place_of};
use crate::audit::lines::{each_line, glance};
use crate::audit::record::Record;
use crate::audit::segment::unread;
use crate::failure::Failure;

/// Bytes that one thread reads, about.
const PIECE: u64 = 512 << 10;
/// Lines are shorter than this, or seldom longer.
const LONG: usize = 16 << 10;

/// How much is checked.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A log of at most so many bytes is verified whole.
    pub whole: u64,
    /// Bytes that are read around records.
    pub around: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { whole: 16 << 20, around: 32 << 20 }
    }
}

/// What was checked, and how it came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "checked", rename_all = "lowercase")]
pub enum Chain {
    /// Every line.
    Whole(Report),
    /// The lines around the records.
    Around(Around),
}

/// The chain around records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Around {
    /// Stretches of lines that fit each other.
    pub stretches: Vec<Stretch>,
    /// Records of which only the next line was compared.
    pub neighbour_only: u64,
    /// The keys whose signatures were seen.
    pub keys: BTreeSet<String>,
    /// The key that they were checked with.
    pub checked_with: Option<String>,
    /// Where it came from.
    pub key_from: Option<KeyFrom>,
    /// The first break.
    pub first_break: Option<Broken>,
}

/// Lines that were read one behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// File name.
    pub segment: String,
    /// `chain.seq` of the first line.
    pub from_seq: u64,
    /// Of the last.
    pub to_seq: u64,
    /// What the last checkpoint in it attests; absent where none is behind the record yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attested_seq: Option<u64>,
}

/// Lines to read: from an offset to the line at another, that line included; `None`: to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    number: usize,
    from: u64,
    to: Option<u64>,
    bytes: u64,
}

/// Checks the chain around `places`, or all of it where that is little, or asked for.
pub fn check(
    log: &Log,
    places: &[Place],
    trust: &Trust,
    limits: &Limits,
    all: bool,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Result<Chain, Trouble> {
    if all || log.bytes() <= limits.whole {
        let options = verify::Options { trust: trust.clone(), since: None, progress };
        return Ok(Chain::Whole(verify::verify_with(log.directory.path(), &options)?));
    }
    let mut around = Around {
        checked_with: trust.id(),
        key_from: trust.0.as_ref().map(|(_, from)| *from),
        ..Around::default()
    };
    let mut by_segment: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (number, offset) in places {
        by_segment.entry(*number).or_default().insert(*offset);
    }
    let mut windows = Vec::new();
    let mut beyond = Vec::new();
    let mut budget = limits.around;
    for (number, offsets) in by_segment {
        for (window, offsets) in windows_of(log, number, &offsets)? {
            if let Some(rest) = budget.checked_sub(window.bytes) {
                budget = rest;
                windows.push(window);
            } else {
                beyond.extend(offsets.into_iter().map(|offset| (number, offset)));
            }
        }
    }
    let mut broken = Vec::new();
    // A window takes longer than anything else here, so all cores read it.
    let mut pieces = Vec::new();
    for window in &windows {
        pieces.extend(pieces_of(log, *window)?);
    }
    let mut read = pieces.iter().zip(at_once(&pieces, |piece| lines_of(log, *piece))?).peekable();
    for window in windows {
        let mut lines = Vec::new();
        while let Some((_, found)) = read.next_if(|(piece, _)| piece.window == window) {
            lines.push(found);
        }
        match stretch(log, window, lines.into_iter().flatten(), trust)? {
            Ok((stretch, keys)) => {
                around.stretches.push(stretch);
                around.keys.extend(keys);
            }
            Err(found) => broken.push(found),
        }
    }
    around.neighbour_only = beyond.len() as u64;
    broken.extend(at_once(&beyond, |place| neighbour(log, *place))?.into_iter().flatten());
    broken.sort_by(|a, b| (&a.segment, a.line).cmp(&(&b.segment, b.line)));
    around.first_break = broken.into_iter().next();
    Ok(Chain::Around(around))
}

/// The windows around lines of one segment, with the lines in each.
fn windows_of(log: &Log, number: usize, offsets: &BTreeSet<u64>) -> Result<Vec<(Window, Vec<u64>)>, Trouble> {
    let checkpoints = log.section(number, Section::Checkpoints, take_offsets)?;
    let size = log.segments.get(number).map_or(0, |segment| segment.size);
    let mut windows: Vec<(Window, Vec<u64>)> = Vec::new();
    for offset in offsets {
        let behind = checkpoints.partition_point(|checkpoint| checkpoint <= offset);
        let (from, to) = (*offset, checkpoints.get(behind).copied());
        if let Some((_, inside)) = windows.last_mut().filter(|(last, _)| last.to == to) {
            inside.push(*offset);
        } else {
            let bytes = to.unwrap_or(size).saturating_sub(from);
            let window = Window { number, from, to, bytes };
            windows.push((window, vec![*offset]));
        }
    }
    Ok(windows)
}

/// A part of a window, which one thread reads: from one line's beginning to another's, or to the window's end.
#[derive(Debug, Clone, Copy)]
struct Piece {
    window: Window,
    from: u64,
    until: Option<u64>,
}

/// A line as its piece shows it.
struct Line {
    offset: u64,
    /// `chain.seq` and `chain.prev`; `None` when it has no place in a chain.
    place: Option<(u64, Option<Hash>)>,
    hash: Hash,
    /// All of it, where it is a checkpoint.
    checkpoint: Option<Vec<u8>>,
}

/// Cuts a window into pieces of about [`PIECE`] bytes, between lines.
fn pieces_of(log: &Log, window: Window) -> Result<Vec<Piece>, Failure> {
    let Some(segment) = log.segments.get(window.number) else {
        return Ok(vec![Piece { window, from: window.from, until: None }]);
    };
    let end = window.to.unwrap_or(segment.size);
    let (mut pieces, mut from) = (Vec::new(), window.from);
    while from.saturating_add(PIECE) < end {
        let mut bytes = [0; LONG];
        let count = segment
            .file
            .read_at(&mut bytes, from + PIECE)
            .map_err(|error| unread(&log.directory.path().join(&segment.name), &error))?;
        // Where no line ends soon, the rest is one piece.
        let newline = memchr::memchr(b'\n', bytes.get(..count).unwrap_or_default());
        let next = newline.map(|at| from + PIECE + at as u64 + 1);
        let Some(next) = next.filter(|next| *next < end) else { break };
        pieces.push(Piece { window, from, until: Some(next) });
        from = next;
    }
    pieces.push(Piece { window, from, until: None });
    Ok(pieces)
}

/// Reads a piece: this is what takes time, and it needs nothing of the other pieces.
fn lines_of(log: &Log, piece: Piece) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    let Some(segment) = log.segments.get(piece.window.number) else { return Ok(lines) };
    let until = piece.until.unwrap_or(segment.size);
    each_line(&segment.file, piece.from, until, &mut |offset, line| {
        let is_checkpoint = glance(line).is_some_and(|seen| seen.action == "checkpoint");
        let place = place_of(line).map(|(seq, prev)| (seq, from_hex(prev)));
        lines.push(Line {
            offset,
            place,
            hash: hash(line),
            checkpoint: is_checkpoint.then(|| line.to_vec()),
        });
        let last = place.is_none() || piece.window.to == Some(offset);
        if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|error| unread(&log.directory.path().join(&segment.name), &error))?;
    Ok(lines)
}

/// What a window is, with the keys that signed in it, or where it breaks.
type Read = Result<(Stretch, BTreeSet<String>), Broken>;

/// Joins the lines of a window.
fn stretch(
    log: &Log,
    window: Window,
    lines: impl Iterator<Item = Line>,
    trust: &Trust,
) -> Result<Read, Failure> {
    let Some(segment) = log.segments.get(window.number) else {
        return Ok(Err(Broken {
            segment: String::new(),
            line: 0,
            kind: Break::MissingSegment,
            text: "the segment is gone".to_owned(),
        }));
    };
    let mut stretch = Stretch { segment: segment.name.clone(), from_seq: 0, to_seq: 0, attested_seq: None };
    let mut keys = BTreeSet::new();
    let mut hashes: Vec<Hash> = Vec::new();
    let mut last: Option<(u64, Link)> = None;
    let fault = |at, kind, text| broken(log, (window.number, at), kind, text).map(Err);
    for Line { offset, place, hash, checkpoint } in lines {
        let Some((seq, prev)) = place else {
            return fault(offset, Break::NotChained, "the line has no place in the chain".to_owned());
        };
        if let Some((before, link)) = last
            && (seq != link.seq + 1 || prev != Some(link.hash))
        {
            let text = "it or the line behind it was changed, or lines between them are missing";
            return fault(before, Break::ChangedLine, text.to_owned());
        }
        if hashes.is_empty() {
            stretch.from_seq = seq;
        }
        if let Some(line) = checkpoint {
            match attested(&line, trust, stretch.from_seq, &hashes) {
                Ok((seq, key)) => {
                    keys.insert(key);
                    stretch.attested_seq = Some(seq).filter(|_| !hashes.is_empty());
                }
                Err((kind, text)) => return fault(offset, kind, text),
            }
        }
        stretch.to_seq = seq;
        hashes.push(hash);
        last = Some((offset, Link { seq, hash }));
    }
    Ok(Ok((stretch, keys)))
}

fn attested(
    line: &[u8],
    trust: &Trust,
    first: u64,
    hashes: &[Hash],
) -> Result<(u64, String), (Break, String)> {
    let record: Record = serde_json::from_slice(line)
        .map_err(|error| (Break::WrongCheckpoint, format!("the checkpoint cannot be read: {error}")))?;
    let attested = trust.checkpoint(&record)?;
    let index = attested.seq.checked_sub(first).and_then(|index| usize::try_from(index).ok());
    match index.and_then(|index| hashes.get(index)) {
        Some(hash) if *hash != attested.hash => Err((
            Break::WrongCheckpoint,
            format!("the checkpoint attests another line {} than the chain has", attested.seq),
        )),
        _ => Ok((attested.seq, attested.key)), // what lies before the window is not judged here
    }
}

/// Compares a line with the hash in the next one.
fn neighbour(log: &Log, (number, offset): Place) -> Result<Option<Broken>, Failure> {
    let Some(line) = log.line(number, offset)? else { return Ok(None) };
    let Some(next) = log.line(number, offset + line.len() as u64 + 1)? else { return Ok(None) };
    let fits = place_of(&next).is_some_and(|(_, prev)| from_hex(prev) == Some(hash(&line)));
    if fits {
        return Ok(None);
    }
    let text = "it or the line behind it was changed".to_owned();
    broken(log, (number, offset), Break::ChangedLine, text).map(Some)
}

/// A break at an offset; the line is counted only now.
fn broken(log: &Log, (number, offset): Place, kind: Break, text: String) -> Result<Broken, Failure> {
    let Some(segment) = log.segments.get(number) else {
        return Ok(Broken { segment: String::new(), line: 0, kind, text });
    };
    let mut line = 1;
    each_line(&segment.file, 0, offset, &mut |_, _| {
        line += 1;
        ControlFlow::Continue(())
    })
    .map_err(|error| unread(&log.directory.path().join(&segment.name), &error))?;
    Ok(Broken { segment: segment.name.clone(), line, kind, text })
}

impl Chain {
    /// The first break.
    pub fn first_break(&self) -> Option<&Broken> {
        match self {
            Self::Whole(report) => report.first_break.as_ref(),
            Self::Around(around) => around.first_break.as_ref(),
        }
    }
}
