//! The exact pass: joins good segments to one chain, and reads what is not good line by line to name the first break.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::de::IgnoredAny;

use super::kept::Kept;
use super::scan::{Good, Notes};
use super::trust::{Attested, Prune, Trust};
use super::{Break, Broken, Report, end_of};
use crate::audit::chain::{Hash, Link, MAX_LINE, from_hex, hex, link_of, place_of};
use crate::audit::lines::glance;
use crate::audit::record::Record;
use crate::audit::segment::{Directory, unread};
use crate::failure::Failure;

/// Segment and line number.
type Place = (String, u64);
/// Where, which kind and what it means.
type Found = (Place, Break, String);

/// Two neighbours that do not fit.
struct Suspect {
    before: Place,
    here: Place,
    /// The second one.
    link: Link,
}

impl Suspect {
    /// The second one fits the line behind it, or it does not.
    fn judged(&self, second_fits: bool) -> Found {
        let at = if second_fits { &self.before } else { &self.here };
        (at.clone(), Break::ChangedLine, CHANGED.to_owned())
    }
}

const CHANGED: &str = "the line was changed after it was written: its neighbours carry other hashes";
const TORN: &str = "the last line is unfinished: a crash did that, and the next launch repairs it";

/// What became of the log's missing beginning.
pub(super) enum Beginning {
    /// Nothing is missing.
    Whole,
    /// A signed record says that lines up to this one were removed.
    Pruned(u64),
    /// Nothing says so rightly.
    Broken(Break, String),
}

/// The state between two lines.
pub(super) struct Walk<'a> {
    pub(super) report: Report,
    pub(super) prunes: Vec<Prune>,
    trust: &'a Trust,
    /// The line that a kept checkpoint attests.
    watch: Option<&'a Kept>,
    link: Link,
    /// Segment and number of the line before.
    before: Option<Place>,
    suspect: Option<Suspect>,
    /// A record whose content is wrong, unless the line behind it shows that it was changed.
    fault: Option<Found>,
    /// The first line of all, when its sequence number is not 1: its place, and the link before it.
    beginning: Option<(Place, Link)>,
    open: HashSet<String>,
    /// Of the lines of the segment that is being read, and the sequence number of the first of them.
    hashes: (u64, Vec<Hash>),
}

impl<'a> Walk<'a> {
    pub(super) fn new(trust: &'a Trust, watch: Option<&'a Kept>) -> Self {
        Self {
            report: Report::default(),
            prunes: Vec::new(),
            trust,
            watch,
            link: Link::START,
            before: None,
            suspect: None,
            fault: None,
            beginning: None,
            open: HashSet::new(),
            hashes: (0, Vec::new()),
        }
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_over(&self) -> bool {
        self.report.first_break.is_some()
    }

    /// Takes the link before the first line of all from that line itself: whether it may begin there is judged at the end.
    fn begin(&mut self, name: &str, seq: u64, prev: Hash) {
        if self.before.is_none() && self.report.lines == 0 && self.suspect.is_none() && seq > 1 {
            self.link = Link { seq: seq - 1, hash: prev };
            self.beginning = Some(((name.to_owned(), 1), self.link));
        }
    }

    /// Whether a good segment follows what was read so far.
    pub(super) fn joins(&mut self, name: &str, good: &Good) -> bool {
        if self.suspect.is_some() || self.fault.is_some() {
            return false;
        }
        let Some((seq, prev)) = good.first else { return true };
        self.begin(name, seq, prev);
        let watched = self.watch.zip(good.watched).is_none_or(|(kept, (_, hash))| kept.hash == hash);
        watched && seq == self.link.seq + 1 && prev == self.link.hash
    }

    /// Adds a good segment that joins.
    pub(super) fn accept(&mut self, name: &str, good: Good, prunes: Vec<Prune>) {
        let (Some((first, _)), Some(last)) = (good.first, good.last) else { return };
        if self.report.lines == 0 {
            self.report.first_seq = first;
        }
        self.report.lines += good.lines;
        self.link = last;
        self.before = Some((name.to_owned(), good.lines));
        self.prunes.extend(prunes);
        self.settle(good.notes);
    }

    fn settle(&mut self, notes: Notes) {
        for id in notes.closed {
            self.open.remove(&id);
        }
        self.open.extend(notes.opened);
        self.report.repairs.extend(notes.repairs);
        for attested in notes.checkpoints {
            let signatures = &mut self.report.signatures;
            signatures.checkpoints += 1;
            signatures.attested_seq = Some(attested.seq);
            signatures.keys.insert(attested.key);
        }
    }

    /// Reads a segment line by line, up to the first break. A line that a living bailey is writing can look torn; then it
    /// waits a moment and reads on from there.
    pub(super) fn segment(&mut self, directory: &Directory, name: &str, newest: bool) -> Result<(), Failure> {
        let file = directory
            .open(name, OFlag::O_RDONLY)
            .map_err(|errno| unread(&directory.path().join(name), &errno.into()))?;
        self.hashes = (0, Vec::new());
        self.lines(name, file, newest).map_err(|error| unread(&directory.path().join(name), &error))
    }

    fn lines(&mut self, name: &str, file: File, newest: bool) -> std::io::Result<()> {
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
            line.clear();
        }
    }

    fn broken(&mut self, ((segment, line), kind, text): Found) {
        self.report.first_break = Some(Broken { segment, line, kind, text });
    }

    fn line(&mut self, name: &str, number: u64, line: &[u8], last: bool) -> Result<(), Found> {
        let here = (name.to_owned(), number);
        let bare = line.strip_suffix(b"\n");
        let claims = place_of(bare.unwrap_or(line)).map(|(_, prev)| prev);
        if let Some(suspect) = &self.suspect {
            return Err(suspect.judged(claims == Some(hex(&suspect.link.hash).as_str())));
        }
        if let Some(fault) = self.fault.take() {
            let same = claims == Some(hex(&self.link.hash).as_str());
            return Err(if same { fault } else { (fault.0, Break::ChangedLine, CHANGED.to_owned()) });
        }
        let Some(line) = bare else {
            return Err(if last {
                (here, Break::TornTail, TORN.to_owned())
            } else {
                let text = "the line is unfinished or too long, and is not the last one";
                (here, Break::NotJson, text.to_owned())
            });
        };
        let Some((link, (seq, prev))) = link_of(line).zip(place_of(line)) else {
            let json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
            return Err(match (json, last) {
                (false, true) => (here, Break::TornTail, TORN.to_owned()),
                (false, false) => (here, Break::NotJson, "the line is no JSON".to_owned()),
                (true, _) => (here, Break::NotChained, "the line has no place in the chain".to_owned()),
            });
        };
        if number == 1 {
            self.begin(name, seq, from_hex(prev).unwrap_or_default());
        }
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
        if let Some(kept) = self.watch.filter(|kept| kept.seq == seq && kept.hash != link.hash) {
            self.fault = Some((here.clone(), Break::Rewritten, kept.other_hash()));
        }
        let before = self.link;
        self.link = link;
        self.before = Some(here);
        self.content(name, number, line, before);
        if self.report.lines == 0 {
            self.report.first_seq = seq;
        }
        if self.fault.is_none() {
            self.report.lines += 1;
        }
        Ok(())
    }

    /// What the line says.
    fn content(&mut self, name: &str, number: u64, line: &[u8], before: Link) {
        if self.hashes.1.is_empty() {
            self.hashes.0 = self.link.seq;
        }
        self.hashes.1.push(self.link.hash);
        let Some(seen) = glance(line) else { return };
        let mut notes = Notes::default();
        notes.note(name, number, &seen.action, seen.id.as_deref());
        let found = match &*seen.action {
            "checkpoint" => self.checkpoint(line, before).map(|attested| notes.checkpoints.push(attested)),
            "log-prune" => serde_json::from_slice::<Record>(line)
                .map_err(|error| (Break::WrongPrune, format!("the record cannot be read: {error}")))
                .and_then(|record| self.trust.prune(&record, (name.to_owned(), number)))
                .map(|prune| self.prunes.push(prune)),
            _ => Ok(()),
        };
        match found {
            Ok(()) => self.settle(notes),
            Err((kind, text)) => {
                self.fault.get_or_insert(((name.to_owned(), number), kind, text));
            }
        }
    }

    fn checkpoint(&self, line: &[u8], before: Link) -> Result<Attested, (Break, String)> {
        let record: Record = serde_json::from_slice(line)
            .map_err(|error| (Break::WrongCheckpoint, format!("the checkpoint cannot be read: {error}")))?;
        let attested = self.trust.checkpoint(&record)?;
        let (first, hashes) = &self.hashes;
        let index = attested.seq.checked_sub(*first).and_then(|index| usize::try_from(index).ok());
        let has = match index.and_then(|index| hashes.get(index)) {
            Some(hash) => Some(*hash),
            None => (attested.seq == before.seq).then_some(before.hash),
        };
        match has {
            Some(hash) if hash == attested.hash => Ok(attested),
            Some(_) => {
                let text = format!("the checkpoint attests another line {} than the chain has", attested.seq);
                Err((Break::WrongCheckpoint, text))
            }
            None => {
                let text = format!("the checkpoint attests line {}, which is not before it", attested.seq);
                Err((Break::WrongCheckpoint, text))
            }
        }
    }

    /// Whether a signed record says that what is missing at the beginning was removed. `hash_of` looks a line up.
    pub(super) fn beginning(
        &self,
        hash_of: impl Fn(u64) -> Result<Option<Hash>, Failure>,
    ) -> Result<Beginning, Failure> {
        let Some((_, link)) = &self.beginning else { return Ok(Beginning::Whole) };
        match self.watch {
            Some(kept) if kept.seq == link.seq && kept.hash != link.hash => {
                return Ok(Beginning::Broken(Break::Rewritten, kept.other_hash()));
            }
            Some(kept) if kept.seq >= link.seq => return Ok(Beginning::Whole), // read from there on purpose
            _ => {}
        }
        for prune in self.prunes.iter().rev() {
            let whole = prune.last_seq == link.seq && prune.last_hash == link.hash;
            // Announced, and a crash came before all of it was gone.
            let begun = (prune.first_seq..prune.last_seq).contains(&link.seq);
            if whole || begun && hash_of(prune.last_seq)? == Some(prune.last_hash) {
                return Ok(Beginning::Pruned(link.seq));
            }
        }
        let missing = format!("sequence numbers 1 to {} are missing before it", link.seq);
        let kind = self.report.first_break.as_ref().map(|broken| broken.kind);
        if self.prunes.is_empty() && matches!(kind, Some(Break::BadSignature | Break::WrongKey)) {
            return Ok(Beginning::Whole); // the record that should say it is the break, or another key signed all of them
        }
        Ok(match self.prunes.last() {
            None => Beginning::Broken(Break::MissingSegment, missing),
            Some(prune) => {
                let (segment, line) = &prune.place;
                let said = format!("the record of removed segments at {segment}:{line} tells of");
                let text = format!("{missing}, and {said} {} to {}", prune.first_seq, prune.last_seq);
                let same = prune.last_seq == link.seq;
                let text = if same { format!("{text}, but of another last line") } else { text };
                Beginning::Broken(Break::WrongPrune, text)
            }
        })
    }

    pub(super) fn into_report(mut self, beginning: Beginning) -> Report {
        if let Some(suspect) = self.suspect.take().filter(|_| self.report.first_break.is_none()) {
            self.broken(suspect.judged(true)); // nothing is behind it: the line that more depends on is named
        }
        if let Some(fault) = self.fault.take().filter(|_| self.report.first_break.is_none()) {
            self.broken(fault);
        }
        let signatures = &mut self.report.signatures;
        signatures.checked_with = self.trust.id();
        signatures.key_from = self.trust.0.as_ref().map(|(_, from)| *from);
        self.report.open_launches = self.open.len() as u64;
        end_of(&mut self.report, &self.link);
        self.report.last_line = self.before.as_ref().map_or(0, |(_, line)| *line);
        match beginning {
            Beginning::Whole => {}
            Beginning::Pruned(seq) => self.report.pruned_to = Some(seq),
            Beginning::Broken(kind, text) => {
                let place = self.beginning.take().map(|(place, _)| place).unwrap_or_default();
                let signatures = std::mem::take(&mut self.report.signatures);
                let segments = self.report.segments;
                self.report = Report { segments, signatures, ..Report::default() };
                end_of(&mut self.report, &Link::START);
                self.broken((place, kind, text));
            }
        }
        if self.report.first_break.is_none()
            && self.report.signatures.checkpoints == 0
            && self.watch.is_none() // a kept checkpoint is signed
            && self.trust.is_named()
        {
            let text = "nothing in the log is signed, and a key was named: whoever owns it could have written it anew";
            let place = self.before.take().unwrap_or_default();
            self.broken((place, Break::NotSigned, text.to_owned()));
        }
        self.report
    }
}
