//! A batch on its way into the log, and the result of each of its records.
#![forbid(unsafe_code)]

use std::time::Instant;

use nix::errno::Errno;

use super::draft::{Draft, Placed};
use super::live::push_list;
use super::{Broken, Live, RecorderLog, Staged, UNSYNCED, Written, space};
use crate::audit::Timestamp;
use crate::audit::chain::hex;
use crate::audit::record::LiveEntry;
use crate::failure::Failure;

/// Bytes that a launch takes in a list, about: the next list may be much longer than the last one was.
const ENTRY: u64 = 400;

/// What became of each record of a batch; `None` is not decided yet.
pub(super) type Results = Vec<Option<Result<Written, Failure>>>;

impl Staged {
    /// A launch is durable whatever its caller says.
    fn must_be_durable(&self) -> bool {
        self.durable || self.is_launch()
    }

    fn is_launch(&self) -> bool {
        matches!(self.live, Live::Begins(_) | Live::AsLaunch)
    }
}

/// Decides everything that is not decided yet.
fn fail(results: &mut Results, failure: &Failure, which: impl Fn(usize) -> bool) {
    for (_, result) in results.iter_mut().enumerate().filter(|(index, _)| which(*index)) {
        result.get_or_insert_with(|| Err(failure.clone()));
    }
}

fn undecided(results: &Results) -> Vec<usize> {
    results.iter().enumerate().filter(|(_, result)| result.is_none()).map(|(index, _)| index).collect()
}

impl RecorderLog {
    /// Writes a batch with one write(2), and one fdatasync(2) where one of them must be durable; one result for each.
    pub fn commit(&mut self, batch: &[Staged]) -> Vec<Result<Written, Failure>> {
        let mut results: Results = batch.iter().map(|_| None).collect();
        if !batch.is_empty()
            && let Err(failure) = self.try_commit(batch, &mut results)
        {
            fail(&mut results, &failure, |_| true);
        }
        let missing = || {
            let why = "no decision was made about it";
            Err(Failure::record("cannot write the audit record", why, "report this as a bug of bailey"))
        };
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// An error is the fate of every record that is not decided yet.
    fn try_commit(&mut self, batch: &[Staged], results: &mut Results) -> Result<(), Failure> {
        self.ready()?;
        let at = (self.options.clock)();
        self.roll_if_due(at)?;
        self.refuse_launches_without_room(batch, results);
        let picks = undecided(results);
        match self.write_some(batch, &picks, results, at, true) {
            Ok(()) => Ok(()),
            Err(errno) => {
                let failure = self.dir.failure("write the audit record to", &self.segment.name, errno);
                fail(results, &failure, |index| !batch.get(index).is_some_and(|staged| staged.reserved));
                self.squeeze(batch, results, at, errno)
            }
        }
    }

    fn refuse_launches_without_room(&mut self, batch: &[Staged], results: &mut Results) {
        let launches = batch.iter().filter(|staged| staged.is_launch()).count() as u64;
        if launches == 0 {
            return;
        }
        if let Err(failure) = self.reserve.take(&self.dir, self.live.len() as u64, launches) {
            fail(results, &failure, |index| batch.get(index).is_some_and(Staged::is_launch));
        }
    }

    /// Writes what may use the reserve: all at once if that fits, else one by one.
    fn squeeze(
        &mut self,
        batch: &[Staged],
        results: &mut Results,
        at: Timestamp,
        errno: Errno,
    ) -> Result<(), Failure> {
        if self.broken.is_some() || !(space::is_full(errno) || errno == Errno::EFBIG) {
            return Err(self.dir.failure("write the audit record to", &self.segment.name, errno));
        }
        let picks = undecided(results);
        if self.write_squeezed(batch, &picks, results, at).is_ok() {
            return Ok(());
        }
        for pick in undecided(results) {
            self.ready()?;
            if let Err(errno) = self.write_squeezed(batch, &[pick], results, at) {
                let failure = self.dir.failure("write the audit record to", &self.segment.name, errno);
                fail(results, &failure, |index| index == pick);
            }
        }
        Ok(())
    }

    fn write_squeezed(
        &mut self,
        batch: &[Staged],
        picks: &[usize],
        results: &mut Results,
        at: Timestamp,
    ) -> Result<(), Errno> {
        loop {
            match self.write_some(batch, picks, results, at, false) {
                Err(errno) if space::is_full(errno) && self.broken.is_none() => {
                    let bytes = self.buffer.len() as u64;
                    if !self.reserve.give(bytes) {
                        return Err(errno);
                    }
                }
                other => return other,
            }
        }
    }

    /// Writes some of a batch, syncs where that is needed, and decides each of them. An errno says that none is in the file and
    /// none is decided, but for those that are too long for any line.
    fn write_some(
        &mut self,
        batch: &[Staged],
        picks: &[usize],
        results: &mut Results,
        at: Timestamp,
        extras: bool,
    ) -> Result<(), Errno> {
        let mut draft = Draft::new(std::mem::take(&mut self.buffer), self.link, at);
        let list = self.list_size.max(self.live.len() as u64 * ENTRY);
        if extras && self.since_list >= self.options.live_list_every.max(8 * list) {
            let pushed = push_list(&mut draft, &self.live, &self.options.host, &self.options.writer);
            debug_assert!(pushed.is_ok(), "{pushed:?}"); // a part is far shorter than a line may be
        }
        let mut placed: Vec<(usize, Placed)> = Vec::with_capacity(picks.len());
        let mut durable = false;
        for index in picks.iter().copied() {
            let Some(staged) = batch.get(index) else { continue };
            match draft.push(&staged.record, &self.options.writer) {
                Ok(line) => placed.push((index, line)),
                Err(failure) => fail(results, &failure, |other| other == index),
            }
            durable |= staged.must_be_durable();
        }
        if extras && self.unsigned + draft.lines >= self.options.checkpoint_records {
            self.push_checkpoint(&mut draft);
            durable = true;
        }
        let base = self.segment.len;
        if let Err(errno) = self.append(&draft) {
            self.buffer = draft.bytes;
            return Err(errno);
        }
        durable |= self.unsynced.lines.len() + draft.bytes.len() > UNSYNCED;
        if !durable {
            let lines: Vec<Placed> = placed.iter().map(|(_, line)| line.clone()).collect();
            self.unsynced.lines.extend(draft.others(&lines));
            self.decide(batch, &placed, results, at, base);
        } else if let Err(failure) = self.sync() {
            let kept =
                |(index, _): &(usize, Placed)| batch.get(*index).is_some_and(|staged| !staged.is_launch());
            placed.retain(kept);
            let (kept, lines): (Vec<usize>, Vec<Placed>) = placed.into_iter().unzip();
            let lines = draft.others(&lines);
            let again = self.rescue(&failure.to_string(), &lines).unwrap_or_default();
            let again: Vec<(usize, Placed)> = kept.into_iter().zip(again).collect();
            self.decide(batch, &again, results, at, 0);
            fail(results, &failure, |index| picks.contains(&index));
        } else {
            self.decide(batch, &placed, results, at, base);
        }
        self.buffer = draft.bytes;
        Ok(())
    }

    /// The lines are in the log, and on the disk where they must be; `base` is where the draft begins in the segment.
    fn decide(
        &mut self,
        batch: &[Staged],
        placed: &[(usize, Placed)],
        results: &mut Results,
        at: Timestamp,
        base: u64,
    ) {
        for (index, line) in placed {
            let (Some(staged), Some(result)) = (batch.get(*index), results.get_mut(*index)) else { continue };
            let bytes = line.range.len() as u64;
            let written = Written { seq: line.link.seq, hash: hex(&line.link.hash), at, bytes };
            match &staged.live {
                Live::Same | Live::AsLaunch => {}
                Live::Begins(entry) => {
                    let entry = LiveEntry {
                        segment: Some(self.segment.name.clone()),
                        offset: Some(base + line.range.start as u64),
                        seq: Some(written.seq),
                        hash: Some(written.hash.clone()),
                        since: Some(at),
                        ..(**entry).clone()
                    };
                    self.live.insert(entry.id.clone().unwrap_or_default(), entry);
                }
                Live::Stops(id) => {
                    if let Some(entry) = self.live.get_mut(id) {
                        entry.stop.clone_from(&staged.record.grid.stop);
                    }
                }
                Live::Ends(id) => {
                    let ended = self.live.remove(id);
                    if self.is_unsynced() {
                        self.unsynced.ended.extend(ended);
                    }
                }
            }
            *result = Some(Ok(written));
        }
    }

    /// Writes the lines of a draft, all or none.
    pub(super) fn append(&mut self, draft: &Draft) -> Result<(), Errno> {
        let length = draft.bytes.len() as u64;
        if length == 0 {
            return Ok(());
        }
        if self.segment.len + length > self.largest_file {
            return Err(Errno::EFBIG); // the kernel would end this process
        }
        let mut rest = draft.bytes.as_slice();
        while !rest.is_empty() {
            match nix::unistd::write(&self.segment.file, rest) {
                Ok(0) => return Err(self.take_back(rest.len() < draft.bytes.len(), Errno::ENOSPC)),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.take_back(rest.len() < draft.bytes.len(), errno)),
            }
        }
        self.segment.len += length;
        self.link = draft.link;
        self.counts.written += length;
        let now = Instant::now();
        if self.unsigned == 0 || draft.unsigned.is_some() {
            self.first_unsigned = now;
        }
        if draft.unsigned.is_some() {
            self.signed_at = now;
        }
        self.unsigned = draft.unsigned.unwrap_or(self.unsigned + draft.lines);
        match &draft.list {
            Some(list) => {
                self.since_list = (draft.bytes.len() - list.end) as u64;
                self.list_size = list.len() as u64;
            }
            None => self.since_list += length,
        }
        self.unsynced.own.extend(draft.own_lines());
        Ok(())
    }

    /// Cuts off a part of a draft that was written.
    fn take_back(&mut self, partly: bool, errno: Errno) -> Errno {
        if partly && let Err(error) = self.segment.file.set_len(self.segment.len) {
            let failure = self.dir.io_failure("cut an unfinished line off", &self.segment.name, &error);
            self.broken = Some(Broken { failure, again: Instant::now() });
        }
        errno
    }

    fn is_unsynced(&self) -> bool {
        self.unsynced.from < self.segment.len
    }

    /// Makes everything written durable. After an error nobody knows what is: see [`rescue`](Self::rescue).
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        if self.unnamed {
            self.dir.sync()?;
            self.unnamed = false;
        }
        if self.is_unsynced() {
            let begin = Instant::now();
            let synced = self.segment.file.sync_data();
            self.counts.syncs.add(begin.elapsed());
            synced.map_err(|error| self.dir.io_failure("sync", &self.segment.name, &error))?;
        }
        self.own.append(&mut self.unsynced.own);
        self.unsynced.restart(self.segment.len, self.link);
        Ok(())
    }
}
