//! The fast pass: every segment by itself, on every core, from the link that its first line claims.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::de::IgnoredAny;

use super::Repair;
use super::trust::{Attested, Prune, Trust};
use crate::audit::chain::{Hash, Link, MAX_LINE, from_hex, hash, place_of};
use crate::audit::lines::{Glance, each_line, glance};
use crate::audit::record::Record;
use crate::audit::segment::{Directory, unread};
use crate::failure::Failure;

/// How often somebody who waits is told.
const TELL: Duration = Duration::from_millis(200);

/// What one segment gave.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Set when every line fits the one before.
    pub(super) good: Option<Good>,
    /// What was pruned, also as a segment says it that is not good.
    pub(super) prunes: Vec<Prune>,
}

/// A segment that is whole in itself.
#[derive(Debug, Default)]
pub(super) struct Good {
    /// `chain.seq` and `chain.prev` of the first line; `None` when there is no line.
    pub(super) first: Option<(u64, Hash)>,
    /// The last line.
    pub(super) last: Option<Link>,
    pub(super) lines: u64,
    pub(super) notes: Notes,
    /// The line whose hash was asked for: its number and hash.
    pub(super) watched: Option<(u64, Hash)>,
}

/// What good lines say.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) opened: HashSet<String>,
    /// Closed here, begun earlier.
    pub(super) closed: Vec<String>,
    pub(super) repairs: Vec<Repair>,
    pub(super) checkpoints: Vec<Attested>,
}

impl Notes {
    /// Takes what a line says about launches and repairs.
    pub(super) fn note(&mut self, segment: &str, number: u64, action: &str, id: Option<&str>) {
        match (action, id) {
            ("payload-launch", Some(id)) => {
                self.opened.insert(id.to_owned());
            }
            ("payload-end" | "launch-failed", Some(id)) if !self.opened.remove(id) => {
                self.closed.push(id.to_owned());
            }
            ("log-repair", _) => self.repairs.push(Repair { segment: segment.to_owned(), line: number }),
            _ => {}
        }
    }
}

/// Reads all segments. `progress` is told how many bytes are read and how many there are.
pub(super) fn all(
    directory: &Directory,
    names: &[String],
    trust: &Trust,
    watch: Option<u64>,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Result<Vec<Scanned>, Failure> {
    let mut files = Vec::with_capacity(names.len());
    let mut total = 0;
    for name in names {
        let file = directory
            .open(name, OFlag::O_RDONLY)
            .map_err(|errno| unread(&directory.path().join(name), &errno.into()))?;
        let size = file.metadata().map_err(|error| unread(&directory.path().join(name), &error))?.len();
        total += size;
        files.push((name, file, size));
    }
    let read = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        while let Some((index, (name, file, size))) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, files.get(index)?)))
        {
            let found = segment(name, file, *size, trust, watch, &read)
                .map_err(|error| unread(&directory.path().join(name), &error));
            if let Ok(mut results) = results.lock() {
                results.push((index, found));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let teller = progress.map(|progress| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    progress(read.load(Ordering::Relaxed), total);
                    std::thread::park_timeout(TELL);
                }
                progress(total, total);
            })
        });
        for worker in workers {
            let _ = worker.join(); // a panic would go on in the scope
        }
        done.store(true, Ordering::Relaxed);
        if let Some(teller) = teller {
            teller.thread().unpark();
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, found)| found).collect()
}

fn segment(
    name: &str,
    file: &File,
    size: u64,
    trust: &Trust,
    watch: Option<u64>,
    read: &AtomicU64,
) -> std::io::Result<Scanned> {
    let mut good = Some(Good::default());
    let mut prunes = Vec::new();
    let mut number = 0;
    let mut hashes = Vec::new();
    let mut told = 0;
    let mut last_line = Vec::new();
    let end = each_line(file, 0, size, &mut |offset, line| {
        number += 1;
        if offset - told > 4 << 20 {
            read.fetch_add(offset - told, Ordering::Relaxed);
            told = offset;
        }
        let seen = glance(line);
        let fits = good
            .as_mut()
            .is_some_and(|good| take(good, name, number, line, seen.as_ref(), trust, &mut hashes));
        if !fits {
            good = None;
        }
        if let Some(good) = good.as_mut().filter(|_| watch.is_some())
            && good.last.map(|link| link.seq) == watch
        {
            good.watched = good.last.map(|link| (number, link.hash));
        }
        if offset + line.len() as u64 + 1 >= size {
            last_line = line.to_vec();
        }
        if seen.is_some_and(|seen| seen.action == "log-prune")
            && let Ok(record) = serde_json::from_slice::<Record>(line)
            && let Ok(prune) = trust.prune(&record, (name.to_owned(), number))
        {
            prunes.push(prune);
        }
        ControlFlow::Continue(())
    })?;
    read.fetch_add(size.saturating_sub(told), Ordering::Relaxed);
    // No line behind the last one vouches for it, so its syntax does.
    let whole = end == size && (size == 0 || serde_json::from_slice::<IgnoredAny>(&last_line).is_ok());
    Ok(Scanned { good: good.filter(|_| whole), prunes })
}

/// Whether the line fits; what it says goes into `good`.
fn take(
    good: &mut Good,
    name: &str,
    number: u64,
    line: &[u8],
    seen: Option<&Glance<'_>>,
    trust: &Trust,
    hashes: &mut Vec<Hash>,
) -> bool {
    let Some((seq, prev)) = place_of(line).filter(|_| line.len() < MAX_LINE) else { return false };
    let Some(prev) = from_hex(prev) else { return false };
    if good.last.is_some_and(|last| seq != last.seq + 1 || prev != last.hash) {
        return false;
    }
    let first = *good.first.get_or_insert((seq, prev));
    let link = Link { seq, hash: hash(line) };
    good.last = Some(link);
    good.lines += 1;
    hashes.push(link.hash);
    let Some(seen) = seen else { return true };
    good.notes.note(name, number, &seen.action, seen.id.as_deref());
    match &*seen.action {
        "checkpoint" => checkpoint(good, first, line, trust, hashes),
        "log-prune" => serde_json::from_slice::<Record>(line)
            .is_ok_and(|record| trust.prune(&record, (name.to_owned(), number)).is_ok()),
        _ => true,
    }
}

fn checkpoint(good: &mut Good, first: (u64, Hash), line: &[u8], trust: &Trust, hashes: &[Hash]) -> bool {
    let Ok(record) = serde_json::from_slice::<Record>(line) else { return false };
    let Ok(attested) = trust.checkpoint(&record) else { return false };
    let here = attested.seq.checked_sub(first.0).and_then(|index| hashes.get(usize::try_from(index).ok()?));
    let fits = match here {
        Some(hash) => *hash == attested.hash,
        None => attested.seq + 1 == first.0 && attested.hash == first.1,
    };
    good.notes.checkpoints.push(attested);
    fits
}

/// The hash of the line with this sequence number; `None` when the log has no such line.
pub(super) fn hash_of(directory: &Directory, names: &[String], wanted: u64) -> Result<Option<Hash>, Failure> {
    for name in names.iter().rev() {
        let wrong = |error: &std::io::Error| unread(&directory.path().join(name), error);
        let file = directory
            .open(name, OFlag::O_RDONLY)
            .map_err(|errno| unread(&directory.path().join(name), &errno.into()))?;
        let mut found = None;
        let mut older = false;
        each_line(&file, 0, u64::MAX, &mut |_, line| {
            let seq = place_of(line).map(|(seq, _)| seq);
            older = seq.is_some_and(|seq| seq > wanted);
            if seq == Some(wanted) {
                found = Some(hash(line));
            }
            if older || found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .map_err(|error| wrong(&error))?;
        if !older {
            return Ok(found);
        }
    }
    Ok(None)
}
