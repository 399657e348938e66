//! One log as questions see it: its segments, their summaries, and an index for those that are asked.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::index::catalog::{Catalog, Stamp};
use super::index::file::{self, Index};
use super::index::summary::Summary;
use super::index::table::Section;
use crate::audit::chain::MAX_LINE;
use crate::audit::record::Record;
use crate::audit::segment::{Directory, unread};
use crate::failure::{Failure, errno_text};

/// Smaller segments are read faster than an index is worth.
const WORTH: u64 = 256 * 1024;
/// How many files are waited for at once: more than there are cores, because most of it is waiting for the disk.
const AT_ONCE: usize = 8;
/// What is read at first of a line.
const LINE: usize = 8 * 1024;

/// Why a question could not be answered.
#[derive(Debug)]
pub enum Trouble {
    /// It cannot be.
    Failure(Failure),
    /// The index of this segment is not what it should be: the answer starts again without it.
    Stale(usize),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// One segment.
#[derive(Debug)]
pub struct Segment {
    /// File name.
    pub name: String,
    /// Open.
    pub file: File,
    /// Bytes, when it was opened.
    pub size: u64,
    /// What is known of it.
    pub summary: Summary,
    index: Mutex<Option<Arc<Index>>>,
    rebuilt: bool,
}

/// A log.
#[derive(Debug)]
pub struct Log {
    /// Its directory.
    pub directory: Directory,
    /// Oldest first.
    pub segments: Vec<Segment>,
    /// Whether indexes on the disk are believed.
    believe: bool,
}

impl Log {
    /// Opens the log in `dir`. Without `believe` every index is made from the log.
    pub fn open(dir: &Path, believe: bool) -> Result<Self, Failure> {
        let directory = Directory::for_reading(dir)?;
        let mut segments = Vec::new();
        let catalog = if believe { Catalog::read(&directory) } else { Catalog::default() };
        let mut missing = Vec::new();
        for name in directory.segments()? {
            let file = match directory.open(&name, OFlag::O_RDONLY) {
                Ok(file) => file,
                Err(Errno::ENOENT) => continue, // retention removed it meanwhile
                Err(errno) => return Err(unreadable(&directory, &name, &errno_text(errno))),
            };
            let stamp = Stamp::of(&file).map_err(|error| unread(&dir.join(&name), &error))?;
            let size = stamp.size();
            let known = catalog.get(&name, stamp).cloned();
            if known.is_none() {
                missing.push(segments.len());
            }
            let summary = known.unwrap_or_default();
            segments.push(Segment { name, file, size, summary, index: Mutex::new(None), rebuilt: false });
        }
        let mut log = Self { directory, segments, believe };
        let loaded = at_once(&missing, |number| log.load(*number))?;
        for (number, index) in missing.iter().zip(loaded) {
            if let Some(segment) = log.segments.get_mut(*number) {
                segment.summary = index.summary().clone();
                segment.index = Mutex::new(Some(index));
            }
        }
        if believe {
            log.keep(catalog, &missing);
        }
        Ok(log)
    }

    /// Writes new indexes where that is worth it and possible. They are a cache, so a failure costs time and nothing else.
    fn keep(&self, mut catalog: Catalog, missing: &[usize]) {
        let mut changed = false;
        for segment in missing.iter().filter_map(|number| self.segments.get(*number)) {
            let index = segment.index.lock().ok().and_then(|index| index.clone());
            let Some(index) = index.filter(|index| index.summary().covered >= WORTH) else { continue };
            // Of a segment that grows, a little that is new is read again rather than written each time.
            let kept = index.fresh() == 0
                || index.fresh() >= WORTH
                    && file::write(&self.directory, &segment.name, &segment.file, &index).is_ok();
            if let Ok(stamp) = Stamp::of(&segment.file)
                && kept
            {
                catalog.set(&segment.name, stamp, index.summary());
                changed = true;
            }
        }
        if let Some(first) = self.segments.first().filter(|_| changed) {
            let names: Vec<String> = self.segments.iter().map(|segment| segment.name.clone()).collect();
            catalog.keep(&names);
            let _ = catalog.write(&self.directory, &first.file);
        }
    }

    fn load(&self, number: usize) -> Result<Arc<Index>, Failure> {
        let Some(segment) = self.segments.get(number) else {
            return Err(unreadable(&self.directory, "", "there is no such segment"));
        };
        let built = if self.believe && !segment.rebuilt {
            file::build(&self.directory, &segment.name, &segment.file)
        } else {
            file::from_segment(&segment.file)
        };
        built.map(Arc::new).map_err(|error| unread(&self.directory.path().join(&segment.name), &error))
    }

    /// The index of a segment.
    pub fn index(&self, number: usize) -> Result<Arc<Index>, Trouble> {
        let Some(segment) = self.segments.get(number) else { return Err(Trouble::Stale(number)) };
        let mut slot = segment.index.lock().map_err(|_| Trouble::Stale(number))?;
        if let Some(index) = &*slot {
            return Ok(Arc::clone(index));
        }
        let index = self.load(number)?;
        // The summary came from the catalog: both must be of the same lines, or of more of them.
        let (has, known) = (index.summary(), &segment.summary);
        if has.covered < known.covered || has.first_seq != known.first_seq {
            return Err(Trouble::Stale(number));
        }
        *slot = Some(Arc::clone(&index));
        Ok(index)
    }

    /// A section of a segment's index, decoded.
    pub fn section<T>(
        &self,
        number: usize,
        section: Section,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, Trouble> {
        let index = self.index(number)?;
        index.section(section).as_deref().and_then(decode).ok_or(Trouble::Stale(number))
    }

    /// Makes the index of a segment from the segment. A failure when that was done before: then the segment itself changes.
    pub fn rebuild(&mut self, number: usize) -> Result<(), Failure> {
        let name = self.segments.get(number).map(|segment| segment.name.clone()).unwrap_or_default();
        match self.segments.get_mut(number) {
            Some(segment) if !segment.rebuilt => {
                segment.rebuilt = true;
                segment.index = Mutex::new(None);
            }
            _ => return Err(unreadable(&self.directory, &name, "it changes while it is read")),
        }
        let index = self.load(number)?;
        if let Some(segment) = self.segments.get_mut(number) {
            if self.believe && segment.size >= WORTH {
                let _ = file::write(&self.directory, &segment.name, &segment.file, &index); // a cache, as above
            }
            segment.summary = index.summary().clone();
            segment.index = Mutex::new(Some(index));
        }
        Ok(())
    }

    /// The number of the segment with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.segments.binary_search_by(|segment| segment.name.as_str().cmp(name)).ok()
    }

    /// The line at `offset` of a segment, without its newline; `None` where there is none.
    pub fn line(&self, number: usize, offset: u64) -> Result<Option<Vec<u8>>, Failure> {
        let Some(segment) = self.segments.get(number) else { return Ok(None) };
        let wrong = |error: &std::io::Error| unread(&self.directory.path().join(&segment.name), error);
        let mut room = LINE;
        loop {
            let mut bytes = vec![0; room];
            let mut have = 0;
            while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
                let count =
                    segment.file.read_at(rest, offset + have as u64).map_err(|error| wrong(&error))?;
                if count == 0 {
                    break;
                }
                have += count;
            }
            if let Some(end) = bytes.get(..have).and_then(|bytes| memchr::memchr(b'\n', bytes)) {
                bytes.truncate(end);
                return Ok(Some(bytes));
            }
            if have < room || room > MAX_LINE {
                return Ok(None);
            }
            room *= 8;
        }
    }

    /// The record at `offset` of a segment.
    pub fn record(&self, number: usize, offset: u64) -> Result<Option<Record>, Failure> {
        let line = self.line(number, offset)?;
        Ok(line.and_then(|line| serde_json::from_slice(&line).ok()))
    }

    /// The lines of the live list at the head of a segment.
    pub fn live_list(&self, number: usize) -> Result<Vec<Record>, Trouble> {
        let Some((segment, (offset, length))) =
            self.segments.get(number).and_then(|segment| Some((segment, segment.summary.live?)))
        else {
            return Ok(Vec::new());
        };
        if offset.checked_add(length).is_none_or(|end| end > segment.size) {
            return Err(Trouble::Stale(number));
        }
        let mut bytes = vec![0; length as usize];
        segment
            .file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| unread(&self.directory.path().join(&segment.name), &error))?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|_| Trouble::Stale(number))).collect()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }
}

fn unreadable(directory: &Directory, name: &str, why: &str) -> Failure {
    Failure::site(
        format!("cannot read the log {}", directory.path().join(name).display()),
        why,
        "ask as a user who may read it, or copy the log and name the copy",
    )
}

/// Does `work` for each of `items`, several at once, and gives the results in their order, or the first failure.
pub fn at_once<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    if items.len() < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                while let Some((number, item)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|number| Some((number, items.get(number)?)))
                {
                    let result = work(item);
                    if let Ok(mut results) = results.lock() {
                        results.push((number, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
