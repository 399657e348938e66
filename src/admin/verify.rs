//! `verify`: is the log whole? Reads the segments in order and says the first line where the chain breaks.
//!
//! What it can not see, and says: lines cut off the end, and a chain rewritten from some line to the end by its owner. For that
//! somebody else must have kept a hash: the journal's copy, or a receipt.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::Serialize;
use serde::de::IgnoredAny;

use crate::audit::chain::{Link, MAX_LINE, hex, link_of, place_of};
use crate::audit::record::{Action, Record};
use crate::audit::segment::{Directory, io_failure};
use crate::failure::{Failure, Printable};

/// How a log can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// The last line is unfinished: a crash, which the next launch repairs.
    TornTail,
    /// A line is no JSON, or too long, or unfinished in the middle of the log.
    NotJson,
    /// A line is JSON but no line of this chain.
    NotChained,
    /// A line was changed after the next one was written.
    ChangedLine,
    /// Lines are missing before this one.
    RemovedLine,
    /// A line appears again, or lines changed places.
    RepeatedLine,
    /// A segment, or the log's beginning, is missing.
    MissingSegment,
}

/// The first break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// File name.
    pub segment: String,
    /// Line number in it, from 1.
    pub line: u64,
    /// What kind.
    pub kind: Break,
    /// What it means, in a sentence.
    pub text: String,
}

/// A repaired torn line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// File name.
    pub segment: String,
    /// Line number of the record that says so.
    pub line: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Good lines, up to the first break.
    pub lines: u64,
    /// Sequence number of the last good line.
    pub last_seq: u64,
    /// Its hash, lowercase hex.
    pub last_hash: String,
    /// Launches without an end.
    pub open_launches: u64,
    /// Torn lines that were repaired.
    pub repairs: Vec<Repair>,
    /// The first break; nothing behind it was read.
    pub first_break: Option<Broken>,
}

impl Report {
    /// Whether the chain is whole.
    pub fn is_good(&self) -> bool {
        self.first_break.is_none()
    }

    /// 0 when it is whole, 1 when it is broken.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_good())
    }

    /// For a person.
    pub fn human(&self, dir: &Path) -> String {
        let mut text = String::new();
        let place = dir.display().to_string();
        // Writing to a String never fails.
        let _ = match &self.first_break {
            None => writeln!(
                text,
                "The chain is whole: {} lines in {} segments of {}.",
                self.lines,
                self.segments,
                Printable(&place)
            ),
            Some(broken) => writeln!(
                text,
                "The chain BREAKS at {}/{}:{}: {}.\n{} lines before it are good.",
                Printable(&place),
                Printable(&broken.segment),
                broken.line,
                broken.text,
                self.lines
            ),
        };
        for repair in &self.repairs {
            let _ = writeln!(
                text,
                "A crash left a torn line that was repaired at {}:{}.",
                repair.segment, repair.line
            );
        }
        let _ = writeln!(text, "Payloads without an end: {}.", self.open_launches);
        let _ = writeln!(text, "Last good line: sequence {}, hash {}.", self.last_seq, self.last_hash);
        text.push_str("Only a hash that somebody else kept proves that nothing was cut off after it.\n");
        text
    }
}

/// Reads the log in `dir`. A failure means that it could not be read.
pub fn verify(dir: &Path) -> Result<Report, Failure> {
    verify_with(dir, &mut |_| {})
}

/// Like [`verify`], and hands every good line to `sink`: one pass answers both what is in the log and whether to trust it.
///
/// A line that a living bailey is writing can look torn; then it waits a moment and reads on from there.
pub fn verify_with(dir: &Path, sink: &mut dyn FnMut(&[u8])) -> Result<Report, Failure> {
    let directory = Directory::for_reading(dir)?;
    let names = directory.segments()?;
    let mut walk = Walk::default();
    for (index, name) in names.iter().enumerate() {
        let file =
            directory.open(name, OFlag::O_RDONLY).map_err(|errno| directory.failure("read", name, errno))?;
        let newest = index + 1 == names.len();
        walk.segment(name, file, newest, sink)
            .map_err(|error| io_failure("read", &dir.join(name), &error))?;
        if walk.report.first_break.is_some() {
            break;
        }
    }
    Ok(walk.into_report())
}

/// Where, which kind and what it means.
type Found = ((String, u64), Break, String);

/// Two neighbours that do not fit.
struct Suspect {
    before: (String, u64),
    here: (String, u64),
    /// The second one.
    link: Link,
}

impl Suspect {
    /// The second one fits the line behind it, or it does not.
    fn judged(&self, second_fits: bool) -> Found {
        let at = if second_fits { &self.before } else { &self.here };
        let text = "the line was changed after it was written: its neighbours carry other hashes";
        (at.clone(), Break::ChangedLine, text.to_owned())
    }
}

/// The state between two lines.
struct Walk {
    report: Report,
    link: Link,
    /// Segment and number of the line before.
    before: Option<(String, u64)>,
    suspect: Option<Suspect>,
    open: HashSet<String>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            report: Report::default(),
            link: Link::START,
            before: None,
            suspect: None,
            open: HashSet::new(),
        }
    }
}

impl Walk {
    fn segment(
        &mut self,
        name: &str,
        file: File,
        newest: bool,
        sink: &mut dyn FnMut(&[u8]),
    ) -> std::io::Result<()> {
        self.report.segments += 1;
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut line = Vec::new();
        let mut number = 0;
        let mut patience = 5;
        loop {
            let room = (MAX_LINE + 1 - line.len()) as u64;
            let count = reader.by_ref().take(room).read_until(b'\n', &mut line)?;
            if count == 0 && line.is_empty() {
                return Ok(());
            }
            if newest && line.last() != Some(&b'\n') && line.len() <= MAX_LINE && patience > 0 {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            number += 1;
            let last = newest && reader.fill_buf()?.is_empty();
            if let Err(found) = self.line(name, number, &line, last) {
                self.broken(found);
                return Ok(());
            }
            if self.suspect.is_none() {
                sink(line.strip_suffix(b"\n").unwrap_or(&line));
            }
            line.clear();
        }
    }

    fn broken(&mut self, ((segment, line), kind, text): Found) {
        self.report.first_break = Some(Broken { segment, line, kind, text });
    }

    fn line(&mut self, name: &str, number: u64, line: &[u8], last: bool) -> Result<(), Found> {
        let here = (name.to_owned(), number);
        if let Some(suspect) = &self.suspect {
            let prev = place_of(line.strip_suffix(b"\n").unwrap_or(line)).map(|(_, prev)| prev);
            return Err(suspect.judged(prev == Some(hex(&suspect.link.hash).as_str())));
        }
        let torn =
            || "the last line is unfinished: a crash did that, and the next launch repairs it".to_owned();
        let Some(line) = line.strip_suffix(b"\n") else {
            return Err(if last {
                (here, Break::TornTail, torn())
            } else {
                let text = "the line is unfinished or too long, and is not the last one";
                (here, Break::NotJson, text.to_owned())
            });
        };
        let Some((link, (seq, prev))) = link_of(line).zip(place_of(line)) else {
            let json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
            return Err(match (json, last) {
                (false, true) => (here, Break::TornTail, torn()),
                (false, false) => (here, Break::NotJson, "the line is no JSON".to_owned()),
                (true, _) => (here, Break::NotChained, "the line has no place in the chain".to_owned()),
            });
        };
        let expected = self.link.seq + 1;
        if seq > expected {
            let missing = format!("sequence numbers {expected} to {} are missing before it", seq - 1);
            let kind = if number == 1 { Break::MissingSegment } else { Break::RemovedLine };
            return Err((here, kind, missing));
        }
        if seq < expected {
            let text =
                format!("it has sequence number {seq}, which was there before; {expected} should come");
            return Err((here, Break::RepeatedLine, text));
        }
        if prev != hex(&self.link.hash) {
            // Either the line before was changed or the hash in this one: the line behind tells.
            let at = self.before.clone().unwrap_or_else(|| here.clone());
            self.suspect = Some(Suspect { before: at, here, link });
            return Ok(());
        }
        self.link = link;
        self.before = Some(here);
        self.report.lines += 1;
        self.note(name, number, line);
        Ok(())
    }

    /// Counts open launches and repairs.
    fn note(&mut self, name: &str, number: u64, line: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            return; // an action of a later version
        };
        match (record.event.action, record.event.id) {
            (Action::PayloadLaunch, Some(id)) => {
                self.open.insert(id);
            }
            (action, Some(id)) if action.closes() => {
                self.open.remove(&id);
            }
            (Action::LogRepair, _) => {
                self.report.repairs.push(Repair { segment: name.to_owned(), line: number });
            }
            _ => {}
        }
    }

    fn into_report(mut self) -> Report {
        if let Some(suspect) = self.suspect.take().filter(|_| self.report.is_good()) {
            self.broken(suspect.judged(true)); // nothing is behind it: the line that more depends on is named
        }
        Report {
            last_seq: self.link.seq,
            last_hash: hex(&self.link.hash),
            open_launches: self.open.len() as u64,
            ..self.report
        }
    }
}
