//! Retention: old segments are removed whole, after a signed record says so.
//!
//! 1. The `log-prune` is durable before the first file goes. What a crash left of them goes at the next start.
//! 2. The newest segment stays, and every segment from the one with the oldest launch that is live: what is kept is the
//!    unbroken end of the chain.
//! 3. Age is counted by the clock only when the log itself shows that the clock did not jump: the last segment was written
//!    until shortly before. A clock that stands in another year for a moment removes nothing.
#![forbid(unsafe_code)]

use super::{RecorderLog, scan};
use crate::audit::Timestamp;
use crate::audit::record::{Action, Record};
use crate::audit::segment::parse_name;
use crate::audit::sign::prune_text;
use crate::failure::Failure;

const DAY: i64 = 86_400;
/// The longest time without a line after which the clock is still believed.
const BELIEVED: i64 = 3 * DAY;

impl RecorderLog {
    /// Removes what is older than it may be, and what is more than it may be.
    pub(super) fn prune(&mut self, at: Timestamp) -> Result<(), Failure> {
        let mut names = self.dir.segments()?;
        names.retain(|name| *name < self.segment.name);
        // A crash while a broken segment was replaced can leave it, emptied: no part of the chain.
        let empty: Vec<String> = names.extract_if(.., |name| self.dir.size_of(name) == Ok(0)).collect();
        self.unlink(&empty)?;
        self.counts.segments = names.len() as u64 + 1;
        let old = self.older_than_allowed(&names, at)?;
        self.remove_segments(at, &mut names, old, "age")?;
        let much = self.more_than_allowed(&names)?;
        self.remove_segments(at, &mut names, much, "size")
    }

    /// How many of the closed segments may go at all.
    fn not_needed(&self, names: &[String]) -> usize {
        let needed = self.live.values().filter_map(|entry| entry.segment.as_deref()).min();
        names.iter().take_while(|name| needed.is_none_or(|needed| name.as_str() < needed)).count()
    }

    fn older_than_allowed(&self, names: &[String], at: Timestamp) -> Result<usize, Failure> {
        let (Some(days), Some(last)) = (self.options.retention_days, names.last()) else { return Ok(0) };
        let oldest = at.plus_seconds(-i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY)).day();
        let is_old = |name: &&String| parse_name(name).is_some_and(|(day, _)| *day < *oldest);
        let old = names.iter().take_while(is_old).count();
        if old == 0 {
            return Ok(0);
        }
        let written = scan::last_time(&self.dir, last)?;
        let believed = written.is_some_and(|written| at.secs() - written.secs() <= BELIEVED);
        Ok(if believed { old } else { 0 })
    }

    fn more_than_allowed(&self, names: &[String]) -> Result<usize, Failure> {
        let Some(limit) = self.options.retention_size else { return Ok(0) };
        let mut sizes = Vec::with_capacity(names.len());
        for name in names {
            sizes.push(self.dir.size_of(name).map_err(|errno| self.dir.failure("look at", name, errno))?);
        }
        let mut sum = sizes.iter().sum::<u64>() + self.segment.len;
        let goes = |size: &u64| {
            let too_much = sum > limit;
            sum -= size;
            too_much
        };
        Ok(sizes.iter().copied().take_while(goes).count())
    }

    fn remove_segments(
        &mut self,
        at: Timestamp,
        names: &mut Vec<String>,
        wanted: usize,
        because: &str,
    ) -> Result<(), Failure> {
        let count = wanted.min(self.not_needed(names));
        let (goes, stays) = names.split_at_checked(count).unwrap_or_default();
        let Some(oldest) = goes.first() else { return Ok(()) };
        let kept = stays.first().unwrap_or(&self.segment.name);
        let unreadable = |name: &str| {
            Failure::record(
                format!("cannot remove old segments of {}", self.dir.path().display()),
                format!("the first line of {name} is broken"),
                "run bailey-admin verify, and keep the directory as evidence",
            )
        };
        let (first_seq, _) = scan::first_place(&self.dir, oldest)?.ok_or_else(|| unreadable(oldest))?;
        let (next_seq, last_hash) = scan::first_place(&self.dir, kept)?.ok_or_else(|| unreadable(kept))?;
        let last_seq = next_seq.saturating_sub(1);
        let goes = goes.to_vec();
        let because = because.to_owned();
        self.write_own(at, &mut |log, draft| {
            let mut record = Record::of_log(Action::LogPrune, log.options.host.clone());
            let host = log.options.host.id.as_deref().unwrap_or_default();
            let pruned = &mut record.grid.pruned;
            pruned.signature = Some(log.key.sign(&prune_text(host, first_seq, last_seq, &last_hash)));
            pruned.segments.clone_from(&goes);
            pruned.first_seq = Some(first_seq);
            pruned.last_seq = Some(last_seq);
            pruned.last_hash = Some(last_hash.clone());
            pruned.because = Some(because.clone());
            pruned.key = Some(log.key_id.clone());
            draft.push_own(&record, &log.options.writer).map(drop)
        })?;
        self.sync().map_err(|failure| match self.rescue(&failure.to_string(), &[]) {
            Ok(_) => failure, // the record of it is gone: nothing is removed now
            Err(broken) => broken,
        })?;
        names.drain(..count);
        self.unlink(&goes)
    }

    /// Finishes what a crash interrupted: `pruned` was announced.
    pub(super) fn finish_prune(&mut self, pruned: &[String]) -> Result<(), Failure> {
        let mut names = self.dir.segments()?;
        names.retain(|name| *name < self.segment.name);
        let count = self.not_needed(&names);
        let goes: Vec<String> =
            names.into_iter().take(count).take_while(|name| pruned.contains(name)).collect();
        self.unlink(&goes)
    }

    /// Oldest first, so that what is left is an end of the chain whenever this stops.
    fn unlink(&mut self, names: &[String]) -> Result<(), Failure> {
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if let Some(stem) = name.strip_suffix(".ndjson") {
                self.remove(&format!("{stem}.idx"))?;
            }
            self.remove(name)?;
            self.counts.segments = self.counts.segments.saturating_sub(1);
        }
        self.dir.sync()
    }
}
