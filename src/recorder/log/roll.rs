//! Segments: which is next, and how one begins.
//!
//! A segment appears under its name when its head (`segment-open` and the live list) is whole and on the disk: it is
//! written as [`NEXT`] and renamed. A crash leaves either the old state or the new one.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::draft::Draft;
use super::live::push_list;
use super::{RecorderLog, Segment};
use crate::audit::Timestamp;
use crate::audit::record::{Action, Record};
use crate::audit::segment::parse_name;
use crate::audit::time::parse_date;
use crate::failure::Failure;

/// A segment that is being made.
pub(super) const NEXT: &str = "next";
/// The last number of a day.
const LAST: u32 = 999;
/// How long a roll that failed is not tried again: the old segment grows meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// The name of the segment after `last` (names always grow, whatever the clock does); `None` when the day has no more.
pub(super) fn name_after(last: Option<&str>, today: &str) -> Option<String> {
    match last.and_then(parse_name) {
        Some((day, number)) if day >= today => {
            (number < LAST).then(|| format!("{day}.{:03}.ndjson", number + 1))
        }
        _ => Some(format!("{today}.001.ndjson")),
    }
}

/// As [`name_after`]; where the day has no more, the first of the next day.
pub(super) fn name_after_or_later(last: &str, today: &str) -> String {
    name_after(Some(last), today).unwrap_or_else(|| {
        let day = parse_name(last).and_then(|(day, _)| parse_date(day));
        let day = day.and_then(|date| Timestamp::from_civil(date, (0, 0, 0), 0)).unwrap_or_default();
        format!("{}.001.ndjson", day.plus_seconds(86_400).day())
    })
}

impl RecorderLog {
    /// Begins a new segment when it is time. Where that fails the old segment stays in use, and it is tried again later; an
    /// error says that nothing can be written now.
    pub(super) fn roll_if_due(&mut self, at: Timestamp) -> Result<(), Failure> {
        let segment = &self.segment;
        let full = segment.len >= self.options.segment_size.max(8 * segment.head);
        let today = at.day();
        let past = parse_name(&segment.name).is_some_and(|(day, _)| *day < *today);
        if !(full || past) || self.roll_again.is_some_and(|again| Instant::now() < again) {
            return Ok(());
        }
        let Some(name) = name_after(Some(&segment.name), &today) else {
            return Ok(()); // 999 segments in one day: the last one grows
        };
        self.roll_failure = self.roll(&name, at).err();
        self.roll_again = self.roll_failure.is_some().then(|| Instant::now() + AGAIN);
        match &self.broken {
            Some(broken) => Err(broken.failure.clone()),
            None => Ok(()),
        }
    }

    fn roll(&mut self, name: &str, at: Timestamp) -> Result<(), Failure> {
        let before = self.segment.name.clone();
        self.checkpoint(at)?;
        if self.segment.name != before {
            return Ok(()); // a sync failed, and what was rescued is in a new segment
        }
        self.begin_segment(name, at, &mut |_, _| Ok(()))?;
        self.prune_at = Instant::now();
        Ok(())
    }

    /// Makes segment `name`, with more lines in its head from `more`, and goes on in it. All before must be on the disk.
    pub(super) fn begin_segment(
        &mut self,
        name: &str,
        at: Timestamp,
        more: &mut dyn FnMut(&mut Draft, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut draft = Draft::new(std::mem::take(&mut self.buffer), self.link, at);
        let writer = self.options.writer.clone();
        let mut record = Record::of_log(Action::SegmentOpen, self.options.host.clone());
        record.grid.log.segment = Some(name.to_owned());
        record.grid.log.previous = Some(self.segment.name.clone()).filter(|name| !name.is_empty());
        draft.push_own(&record, &writer)?;
        push_list(&mut draft, &self.live, &self.options.host, &writer)?;
        more(&mut draft, &writer)?;
        let file = match self.make_file(name, &draft.bytes) {
            Ok(file) => file,
            Err(failure) => {
                self.buffer = draft.bytes;
                return Err(failure);
            }
        };
        let len = draft.bytes.len() as u64;
        self.segment = Segment { name: name.to_owned(), file, len, head: len };
        self.link = draft.link;
        self.own.extend(draft.own_lines());
        self.unsynced.restart(len, draft.link);
        let list = draft.list.unwrap_or_default();
        self.since_list = len - list.end as u64;
        self.list_size = list.len() as u64;
        self.unsigned = draft.lines;
        self.first_unsigned = Instant::now();
        self.counts.segments += 1;
        self.counts.written += len;
        self.buffer = draft.bytes;
        // Where this fails nothing is durable in the new segment: tried again before the next durable record.
        self.unnamed = self.dir.sync().is_err();
        Ok(())
    }

    /// A file of the log, whole and on the disk under its name.
    fn make_file(&self, name: &str, bytes: &[u8]) -> Result<File, Failure> {
        let wrong = |error: &std::io::Error| self.dir.io_failure("begin the segment", name, error);
        if bytes.len() as u64 > self.largest_file {
            return Err(self.dir.failure("begin the segment", name, Errno::EFBIG));
        }
        self.remove(NEXT)?;
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut file = self.dir.make_own(NEXT, flags)?;
        let made = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| match self.dir.has(name) {
                Ok(false) => Ok(renameat(self.dir.fd(), NEXT, self.dir.fd(), name)?),
                Ok(true) => Err(Errno::EEXIST.into()),
                Err(errno) => Err(errno.into()),
            })
            .map_err(|error| wrong(&error));
        match made {
            Ok(()) => Ok(file),
            Err(failure) => {
                let _ = self.remove(NEXT); // else the next one does
                Err(failure)
            }
        }
    }

    /// Removes a file of the directory; one that is not there is removed.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        match unlinkat(self.dir.fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.dir.failure("remove", name, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_always_grow() {
        let after = |last| name_after(last, "2026-03-01");
        assert_eq!(after(None).unwrap(), "2026-03-01.001.ndjson");
        assert_eq!(after(Some("2026-02-28.999.ndjson")).unwrap(), "2026-03-01.001.ndjson");
        assert_eq!(after(Some("2026-03-01.001.ndjson")).unwrap(), "2026-03-01.002.ndjson");
        assert_eq!(
            after(Some("2031-01-01.007.ndjson")).unwrap(),
            "2031-01-01.008.ndjson",
            "the clock went back"
        );
        assert_eq!(after(Some("2026-03-01.999.ndjson")), None);
        let later = |last| name_after_or_later(last, "2026-03-01");
        assert_eq!(later("2026-02-28.999.ndjson"), "2026-03-01.001.ndjson");
        assert_eq!(later("2026-12-31.999.ndjson"), "2027-01-01.001.ndjson");
    }
}
