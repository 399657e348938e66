//! Reading the end of a log: where the last whole line is, what is live there.
//!
//! 1. The last complete live list is looked for from the end; from there on every line is read, so an open costs what lies
//!    between two lists and not the whole log. A log without lists is read back [`SEARCHED`] segments.
//! 2. In the newest segment every line read must follow from the one before. What comes after the first that does not is
//!    torn, when a crash explains it: nothing in it was acknowledged as durable. A launch is, as soon as a later batch
//!    follows it, and the lines of one batch have one time.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::OFlag;

use super::live::{is_order, live_entry};
use crate::audit::Timestamp;
use crate::audit::chain::{Link, MAX_LINE, hex, link_of, place_of};
use crate::audit::record::{Action, LiveEntry, Record};
use crate::audit::segment::{Directory, line_at};
use crate::failure::Failure;
use crate::request::LaunchId;

/// How many segments, newest first, are looked at for a list, or for a signature.
const SEARCHED: usize = 64;
/// Bytes in which a line's action is found: a time, a launch id and some words.
const HEAD: usize = 256;
/// Bytes that are read for the ids of closed launches.
const MOST_READ: u64 = 256 * 1024 * 1024;
/// Bytes that are looked at in one piece.
const WINDOW: u64 = 1024 * 1024;
/// What may be written and not yet on the disk, with a wide margin (`super::UNSYNCED` and a batch): so much of the end is
/// always read, because a crash may leave holes anywhere in it.
const DOUBTFUL: u64 = 4 * super::UNSYNCED as u64;

/// What a log's end says.
#[derive(Debug)]
pub(super) struct End {
    pub(super) live: BTreeMap<String, LiveEntry>,
    /// The last whole line of the newest segment; `None` when it has none.
    pub(super) link: Option<Link>,
    /// Bytes of the newest segment up to its end.
    pub(super) len: u64,
    /// Where the last list ends in it.
    pub(super) list_until: u64,
    /// Bytes of that list.
    pub(super) list_size: u64,
    /// Lines since the last checkpoint, as far as they were read.
    pub(super) unsigned: u64,
    /// Segments that a `log-prune` named.
    pub(super) pruned: Vec<String>,
    /// A list of which not all parts were read yet: the next part's number, where it began, its entries.
    list: (u32, u64, Vec<LiveEntry>),
}

/// Reads the end of the log.
pub(super) fn end_of(dir: &Directory, names: &[String]) -> Result<End, Failure> {
    let mut end = End {
        live: BTreeMap::new(),
        link: None,
        len: 0,
        list_until: 0,
        list_size: 0,
        unsigned: 0,
        pruned: Vec::new(),
        list: (1, 0, Vec::new()),
    };
    let mut first = names.len();
    let mut from = 0;
    for name in names.iter().rev().take(SEARCHED) {
        first -= 1;
        let (file, size) = opened(dir, name)?;
        let wrong = |error: std::io::Error| dir.io_failure("read", name, &error);
        if last_list(&file, size).map_err(wrong)?.is_some() {
            from = last_list(&file, size.saturating_sub(DOUBTFUL)).map_err(wrong)?.unwrap_or(0);
            break;
        }
    }
    for (index, name) in names.iter().enumerate().skip(first) {
        let newest = index + 1 == names.len();
        let (file, size) = opened(dir, name)?;
        end.read(name, file, from, newest).map_err(|error| dir.io_failure("read", name, &error))?;
        if newest && end.len < size {
            judge(dir, name, end.len, size)?;
        }
        from = 0;
    }
    Ok(end)
}

/// Which key signed the last checkpoint of the log.
pub(super) fn signed_by(dir: &Directory, names: &[String]) -> Result<Option<String>, Failure> {
    for name in names.iter().rev().take(SEARCHED) {
        let (file, size) = opened(dir, name)?;
        let mut key = None;
        find_back(&file, size, b"\"action\":\"checkpoint\"", &mut |_, record| {
            key = record.grid.checkpoint.key;
            key.is_some()
        })
        .map_err(|error| dir.io_failure("read", name, &error))?;
        if key.is_some() {
            return Ok(key);
        }
    }
    Ok(None)
}

/// `@timestamp` of the last line of a segment before its last checkpoint, which is of the time of the next segment.
pub(super) fn last_time(dir: &Directory, name: &str) -> Result<Option<Timestamp>, Failure> {
    let (file, size) = opened(dir, name)?;
    let mut time = None;
    find_back(&file, size, b"\"@timestamp\":\"", &mut |_, record| {
        time = record.timestamp;
        time.is_some() && record.event.action != Action::Checkpoint
    })
    .map_err(|error| dir.io_failure("read", name, &error))?;
    Ok(time)
}

/// `chain.seq` and `chain.prev` of a segment's first line.
pub(super) fn first_place(dir: &Directory, name: &str) -> Result<Option<(u64, String)>, Failure> {
    let (file, _) = opened(dir, name)?;
    let line = line_at(&file, 0).map_err(|error| dir.io_failure("read", name, &error))?;
    Ok(line.as_deref().and_then(place_of).map(|(seq, prev)| (seq, prev.to_owned())))
}

fn opened(dir: &Directory, name: &str) -> Result<(File, u64), Failure> {
    let file = dir.open_own(name, OFlag::O_RDONLY)?;
    let size = file.metadata().map_err(|error| dir.io_failure("look at", name, &error))?.len();
    Ok((file, size))
}

impl End {
    /// Reads a segment from `offset` on; the newest one's chain is followed.
    fn read(&mut self, name: &str, mut file: File, from: u64, newest: bool) -> std::io::Result<()> {
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut line = Vec::new();
        let mut offset = from;
        (self.list_until, self.list_size) = (0, 0);
        loop {
            line.clear();
            let count = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)? as u64;
            if count > MAX_LINE as u64 && !newest {
                offset += count;
                continue; // what is broken there is for verify to say
            }
            let text = match line.strip_suffix(b"\n") {
                Some(text) => text,
                None if count == 0 || newest => break,
                None => &line,
            };
            let link = link_of(text);
            if newest {
                let fits = match (&self.link, place_of(text)) {
                    (Some(last), Some((seq, prev))) => seq == last.seq + 1 && prev == hex(&last.hash),
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                let Some(link) = link.filter(|_| fits) else { break };
                self.link = Some(link);
                self.len = offset + count;
            }
            self.unsigned += 1;
            if let Ok(record) = serde_json::from_slice::<Record>(text) {
                if record.event.action == Action::LiveList {
                    self.note_list(record, offset, count);
                } else {
                    self.note(record, name, offset, link);
                }
            }
            offset += count;
        }
        Ok(())
    }

    /// A part of a list. Only a list whose parts are all there replaces what the lines before it said.
    fn note_list(&mut self, record: Record, offset: u64, count: u64) {
        let part = &record.grid.live_part;
        let (Some(number), Some(of)) = (part.number, part.of) else { return };
        if number == 1 {
            self.list = (1, offset, Vec::new());
        }
        if number != self.list.0 {
            return;
        }
        self.list.0 += 1;
        self.list.2.extend(record.grid.live);
        if number == of {
            let entries = std::mem::take(&mut self.list.2);
            self.live = entries.into_iter().filter_map(|entry| Some((entry.id.clone()?, entry))).collect();
            self.list_until = offset + count;
            self.list_size = self.list_until - self.list.1;
        }
    }

    fn note(&mut self, record: Record, segment: &str, offset: u64, link: Option<Link>) {
        match record.event.action {
            Action::Checkpoint => self.unsigned = 0,
            Action::LogPrune => self.pruned = record.grid.pruned.segments,
            action if action.closes() => {
                self.live.remove(record.event.id.as_deref().unwrap_or_default());
            }
            Action::PayloadStop if is_order(&record) => {
                if let Some(entry) = self.live.get_mut(record.event.id.as_deref().unwrap_or_default()) {
                    entry.stop = record.grid.stop;
                }
            }
            Action::PayloadLaunch => {
                let Some(id) = record.event.id.clone() else { return };
                let entry = LiveEntry {
                    segment: Some(segment.to_owned()),
                    offset: Some(offset),
                    seq: link.map(|link| link.seq),
                    hash: link.map(|link| hex(&link.hash)),
                    since: record.timestamp,
                    ..live_entry(&record)
                };
                self.live.insert(id, entry);
            }
            _ => {}
        }
    }
}

/// Where the last complete live list begins.
fn last_list(file: &File, size: u64) -> std::io::Result<Option<u64>> {
    let mut after: Vec<u32> = Vec::new(); // the parts behind, in order
    find_back(file, size, b"\"action\":\"live-list\"", &mut |_, record| {
        let part = &record.grid.live_part;
        let (Some(number), Some(of)) = (part.number, part.of) else { return false };
        after.push(number);
        if number != 1 {
            return false;
        }
        let whole = after.iter().rev().copied().take(of as usize).eq(1..=of);
        after.clear();
        whole
    })
}

/// The last record whose line has `mark` and that is accepted: the offset of its line.
fn find_back(
    file: &File,
    size: u64,
    mark: &[u8],
    accept: &mut dyn FnMut(u64, Record) -> bool,
) -> std::io::Result<Option<u64>> {
    lines_back(file, size, &mut |offset, line| {
        has(line, mark)
            && link_of(line)
                .and_then(|_| serde_json::from_slice(line).ok())
                .is_some_and(|record| accept(offset, record))
    })
}

/// Whole lines from the last one back, until one is taken: its offset.
fn lines_back(
    file: &File,
    size: u64,
    take: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> std::io::Result<Option<u64>> {
    let mut end = size;
    while end > 0 {
        // A line belongs to the window in which it begins.
        let start = end.saturating_sub(WINDOW);
        let before = start.saturating_sub(1);
        let mut bytes = vec![0; ((end + MAX_LINE as u64).min(size) - before) as usize];
        file.read_exact_at(&mut bytes, before)?;
        let newline = |from: &[u8]| from.iter().position(|b| *b == b'\n');
        let mut begins = Vec::new();
        let mut at = if start == 0 { Some(0) } else { newline(&bytes).map(|at| at + 1) };
        while let Some(begin) = at.filter(|begin| before + (*begin as u64) < end) {
            let rest = bytes.get(begin..).unwrap_or_default();
            let length = newline(rest);
            if let Some(line) = length.and_then(|length| rest.get(..length)) {
                begins.push((begin, line));
            }
            at = length.map(|length| begin + length + 1);
        }
        for (begin, line) in begins.into_iter().rev() {
            let offset = before + begin as u64;
            if take(offset, line) {
                return Ok(Some(offset));
            }
        }
        end = start;
    }
    Ok(None)
}

/// See [`RecorderLog::closed_since`](super::RecorderLog::closed_since).
pub(super) fn closed_since(dir: &Directory, since: Timestamp, most: usize) -> Result<Vec<LaunchId>, Failure> {
    let mut closed = Vec::new();
    // A clock that was set back for a moment leaves a few old lines; so many are the past. And so much is read at most.
    let (mut old, mut left) = (0, MOST_READ);
    for name in dir.segments()?.iter().rev() {
        let (file, size) = opened(dir, name)?;
        let enough = lines_back(&file, size, &mut |_, line| {
            left = left.saturating_sub(line.len() as u64);
            if time_of(line).is_some_and(|time| time < since) {
                old += line.len() as u64;
            } else {
                old = 0;
                closed.extend(closed_by(line));
            }
            old > WINDOW || left == 0 || closed.len() >= most
        })
        .map_err(|error| dir.io_failure("read", name, &error))?;
        if enough.is_some() {
            break;
        }
    }
    closed.reverse();
    Ok(closed)
}

/// The launch that a line closes, or that came to nothing by it.
fn closed_by(line: &[u8]) -> Option<LaunchId> {
    const ID: &[u8] = b"\"id\":\"";
    let closes = has(line, b"\"action\":\"payload-end\"") || has(line, b"\"action\":\"launch-failed\"");
    if closes {
        // The launch id is the first member of `event`, which comes first after the time.
        let head = line.get(..HEAD).unwrap_or(line);
        let at = head.windows(ID.len()).position(|part| part == ID)? + ID.len();
        return LaunchId::parse(std::str::from_utf8(head.get(at..at + 26)?).ok()?);
    }
    if !has(line, b"\"action\":\"payload-deny\"") {
        return None;
    }
    // A denial by the recorder names who asked, and may be about a launch that lives: somebody else had asked for that.
    let record: Record = serde_json::from_slice(line).ok()?;
    let by_launcher = record.grid.peer.uid.is_none();
    LaunchId::parse(record.event.id.as_deref()?).filter(|_| by_launcher)
}

/// Refuses to cut off what a crash does not explain.
fn judge(dir: &Directory, name: &str, offset: u64, size: u64) -> Result<(), Failure> {
    let refuse = || {
        Failure::record(
            format!("cannot go on with the audit log {}", dir.path().join(name).display()),
            format!("from byte {offset} on it is broken in a way that no crash explains"),
            "run bailey-admin verify, keep the directory as evidence and move it away",
        )
    };
    let wrong = |error: &std::io::Error| dir.io_failure("read", name, error);
    let (mut file, _) = opened(dir, name)?;
    file.seek(SeekFrom::Start(offset)).map_err(|error| wrong(&error))?;
    if size - offset > 64 * WINDOW {
        return Err(refuse());
    }
    let mut launch = None;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| wrong(&error))?;
        let Some(time) = time_of(&line) else { continue };
        if launch.is_some_and(|launched| launched != time) && link_of(&line).is_some() {
            return Err(refuse());
        }
        if has(&line, b"\"action\":\"payload-launch\"") {
            launch = Some(time);
        }
    }
    Ok(())
}

/// `@timestamp` of a line that may be broken further on.
fn time_of(line: &[u8]) -> Option<Timestamp> {
    let text = line.strip_prefix(b"{\"@timestamp\":\"")?.get(..30)?;
    Timestamp::parse_rfc3339(std::str::from_utf8(text).ok()?)
}

/// Whether the line's first members, time and event, have `mark`. They come first in every line of this program.
fn has(line: &[u8], mark: &[u8]) -> bool {
    line.get(..HEAD).unwrap_or(line).windows(mark.len()).any(|part| part == mark)
}
