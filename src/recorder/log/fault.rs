//! When the disk is against the log.
//!
//! 1. After an fdatasync that failed nobody knows which pages are on the disk: the kernel marks them clean, and the next
//!    fdatasync succeeds without them. So what was written since the last good one is cut off, and its lines, which are kept
//!    in memory, are written again into a new segment that goes on after the last line known to be durable.
//! 2. Launches of the batch that failed are not written again: they are refused. Every other line is.
//! 3. While that does not work either the log is broken: everything is refused, and it is tried again once a second.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use super::draft::Placed;
use super::{Broken, RecorderLog, roll};
use crate::audit::record::{Action, Record};
use crate::failure::Failure;

/// How long a broken log is left alone.
const AGAIN: Duration = Duration::from_secs(1);

impl RecorderLog {
    /// Whether the log can be written now; cures what can be cured.
    pub(super) fn ready(&mut self) -> Result<(), Failure> {
        self.still_there()?;
        if let Some(broken) = &self.broken {
            if Instant::now() < broken.again {
                return Err(broken.failure.clone());
            }
            let why = broken.failure.to_string();
            return self.rescue(&why, &[]).map(drop);
        }
        if self.dir.is_current(&self.segment.name, &self.segment.file) {
            return Ok(());
        }
        let why = format!("the segment {} was removed or replaced while it was written", self.segment.name);
        self.rescue(&why, &[]).map(drop)
    }

    /// The directory is where it was: what is written into one that was removed is lost.
    fn still_there(&self) -> Result<(), Failure> {
        let path = self.dir.path();
        let found = std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
        match (found, self.dir.identity()) {
            (Ok(found), Ok(open)) if found == open => Ok(()),
            (found, _) => Err(Failure::record(
                format!("cannot use the audit log in {}", path.display()),
                match found {
                    Ok(_) => "another directory has its place now".to_owned(),
                    Err(error) => crate::failure::io_text(&error),
                },
                "put the directory back; a new log begins there when the recorder is restarted",
            )),
        }
    }

    /// Cuts off what may not be on the disk and writes it again, with `lines` behind it, into a new segment. Gives the places
    /// of `lines`; all is durable then. Otherwise the log is broken, and `lines` are forgotten.
    pub(super) fn rescue(&mut self, why: &str, lines: &[u8]) -> Result<Vec<Placed>, Failure> {
        let result = self.try_rescue(why, lines);
        self.broken = match &result {
            Ok(_) => None,
            Err(failure) => Some(Broken { failure: failure.clone(), again: Instant::now() + AGAIN }),
        };
        result
    }

    fn try_rescue(&mut self, why: &str, lines: &[u8]) -> Result<Vec<Placed>, Failure> {
        let host = self.options.host.clone();
        let mut record = Record::of_log(Action::LogRepair, host);
        record.event.reason = Some(format!(
            "{why}: what was written after line {} may not have reached the disk; it was taken out, and all but new launches \
             was written again here",
            self.unsynced.link.seq
        ));
        if self.unnamed {
            self.dir.sync()?;
            self.unnamed = false;
        }
        if self.dir.is_current(&self.segment.name, &self.segment.file) {
            let (file, from) = (&self.segment.file, self.unsynced.from);
            let size = file.metadata().map_or(self.segment.len, |meta| meta.len());
            file.set_len(from)
                .and_then(|()| file.sync_all())
                .map_err(|error| self.dir.io_failure("repair", &self.segment.name, &error))?;
            let torn = &mut record.grid.log.torn;
            torn.segment = Some(self.segment.name.clone());
            torn.offset = Some(from);
            torn.length = Some(size.saturating_sub(from));
            self.segment.len = from;
        }
        // From here on memory says what the disk says.
        self.link = self.unsynced.link;
        self.unsynced.own.clear();
        let ended = std::mem::take(&mut self.unsynced.ended);
        let kept = std::mem::take(&mut self.unsynced.lines);
        for entry in &ended {
            self.live.insert(entry.id.clone().unwrap_or_default(), entry.clone());
        }
        let at = (self.options.clock)();
        let name = roll::name_after_or_later(&self.segment.name, &at.day());
        let mut places = Vec::new();
        let mut last_kept = self.link;
        let mut begin = |log: &mut Self| {
            places.clear();
            log.begin_segment(&name, at, &mut |draft, writer| {
                draft.push_own(&record, writer)?;
                for line in kept.split_inclusive(|b| *b == b'\n') {
                    let again = draft.push_again(line, writer);
                    debug_assert!(again.is_some(), "the log's own lines are lines");
                }
                last_kept = draft.link;
                places.extend(
                    lines.split_inclusive(|b| *b == b'\n').filter_map(|line| draft.push_again(line, writer)),
                );
                Ok(())
            })
        };
        let mut begun = begin(self);
        for _ in 0..2 {
            // Nobody asks which errno it was: where the reserve does not help it grows back.
            if begun.is_err() && self.reserve.give((kept.len() + lines.len()) as u64 + 64 * 1024) {
                begun = begin(self);
            }
        }
        for entry in &ended {
            self.live.remove(entry.id.as_deref().unwrap_or_default());
        }
        if let Err(failure) = begun {
            self.unsynced.ended = ended;
            self.unsynced.lines = kept;
            return Err(failure);
        }
        if self.unnamed
            && let Err(failure) = self.dir.sync()
        {
            // The caller is told that `lines` are not in the log, so they are not.
            if let Some(first) = places.first() {
                let (file, cut) = (&self.segment.file, first.range.start as u64);
                file.set_len(cut)
                    .and_then(|()| file.sync_all())
                    .map_err(|error| self.dir.io_failure("repair", &self.segment.name, &error))?;
                self.segment.len = cut;
                self.link = last_kept;
                self.unsynced.restart(cut, last_kept);
            }
            return Err(failure);
        }
        self.unnamed = false;
        Ok(places)
    }
}
