//! Signed checkpoints: every so many lines, every so long, at the end of each segment and at an orderly stop.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::draft::Draft;
use super::{RecorderLog, space};
use crate::audit::Timestamp;
use crate::audit::chain::hex;
use crate::audit::record::{Action, Record};
use crate::audit::sign::checkpoint_text;
use crate::failure::Failure;

/// The shortest time between two tries.
const PAUSE: Duration = Duration::from_millis(100);

impl RecorderLog {
    /// Adds a checkpoint of the line before it.
    pub(super) fn push_checkpoint(&self, draft: &mut Draft) {
        let (seq, hash) = (draft.link.seq, hex(&draft.link.hash));
        let mut record = Record::of_log(Action::Checkpoint, self.options.host.clone());
        let host = self.options.host.id.as_deref().unwrap_or_default();
        let checkpoint = &mut record.grid.checkpoint;
        checkpoint.signature = Some(self.key.sign(&checkpoint_text(host, seq, &hash)));
        checkpoint.seq = Some(seq);
        checkpoint.hash = Some(hash);
        checkpoint.key = Some(self.key_id.clone());
        let pushed = draft.push_own(&record, &self.options.writer);
        debug_assert!(pushed.is_ok(), "{pushed:?}"); // far shorter than a line may be
        draft.unsigned = Some(0);
    }

    /// Writes a checkpoint where anything came after the last one, and makes it durable.
    pub(super) fn checkpoint(&mut self, at: Timestamp) -> Result<(), Failure> {
        if self.unsigned > 0 {
            self.write_own(at, &mut |log, draft| {
                log.push_checkpoint(draft);
                Ok(())
            })?;
        }
        self.synced_or_rescued()
    }

    /// Syncs; what may be lost is written again.
    pub(super) fn synced_or_rescued(&mut self) -> Result<(), Failure> {
        match self.sync() {
            Ok(()) => Ok(()),
            Err(failure) => self.rescue(&failure.to_string(), &[]).map(drop),
        }
    }

    /// Writes lines of the log's own life, through the reserve where there is no other room. They are not synced here.
    pub(super) fn write_own(
        &mut self,
        at: Timestamp,
        compose: &mut dyn FnMut(&Self, &mut Draft) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut draft = Draft::new(std::mem::take(&mut self.buffer), self.link, at);
        let composed = compose(self, &mut draft);
        let mut wrote = composed.map(|()| self.append(&draft));
        while let Ok(Err(errno)) = wrote
            && space::is_full(errno)
            && self.broken.is_none()
            && self.reserve.give(draft.bytes.len() as u64)
        {
            wrote = Ok(self.append(&draft));
        }
        self.buffer = draft.bytes;
        wrote?.map_err(|errno| self.dir.failure("write to", &self.segment.name, errno))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let checkpoint = (self.unsigned > 0).then(|| self.next_checkpoint());
        let broken = self.broken.as_ref().map(|broken| broken.again);
        let refill = self.reserve.is_short(self.live.len() as u64).then_some(self.refill_at);
        [checkpoint, broken, refill, Some(self.prune_at)].into_iter().flatten().min()
    }

    fn next_checkpoint(&self) -> Instant {
        let since = self.signed_at.max(self.first_unsigned);
        since + self.options.checkpoint_every.max(PAUSE)
    }

    /// Does what is due by time: checkpoints, the day's segment, pruning, the reserve, a broken log. The first failure is given
    /// back, all are in [`stats`](Self::stats), and what failed is tried again.
    pub fn tick(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if now >= self.refill_at {
            self.refill_at = now + super::REFILL;
            self.reserve.refill(&self.dir, self.live.len() as u64);
        }
        if self.broken.as_ref().is_some_and(|broken| now < broken.again) {
            return Ok(()); // said before
        }
        self.ready()?;
        let at = (self.options.clock)();
        self.roll_if_due(at)?;
        let mut failed = None;
        if self.unsigned > 0 && now >= self.next_checkpoint() {
            self.checkpoint_failure = self.checkpoint(at).err();
            self.first_unsigned = now; // also where it failed
            failed.clone_from(&self.checkpoint_failure);
        }
        if Instant::now() >= self.prune_at {
            self.prune_at = now + super::PRUNE;
            self.prune_failure = self.prune(at).err();
            failed = failed.or_else(|| self.prune_failure.clone());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Ends in order: the last line is a checkpoint, and everything is on the disk.
    pub fn close(mut self) -> Result<(), Failure> {
        self.ready()?;
        self.checkpoint((self.options.clock)())
    }
}
