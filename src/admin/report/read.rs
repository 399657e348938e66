//! The lines of a log behind a place.
//!
//! 1. Segments before the place are not opened, and of its own segment the lines before it are not read.
//! 2. Whole lines only: what is being written at the log's end is for the next report.
#![forbid(unsafe_code)]

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::changed;
use super::cursor::Place;
use crate::audit::chain::{Link, from_hex, hash, place_of};
use crate::audit::lines::{each_line, glance};
use crate::audit::record::Record;
use crate::audit::segment::{Directory, tail, unread};
use crate::failure::Failure;

/// From where a log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// From its beginning.
    Start,
    /// Only its end is looked for.
    End,
    /// Behind this line.
    Behind(Place),
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The last line that was read; `None`: there is none yet.
    pub(super) place: Option<Place>,
    /// Lines that retention removed unread.
    pub(super) lost: u64,
    /// Lines that this version does not understand.
    pub(super) unreadable: u64,
}

/// Reads the records that a report may be about, until `each` has taken `most` of them.
pub(super) fn read(
    dir: &Path,
    from: &From,
    most: usize,
    each: &mut dyn FnMut(&Record) -> bool,
) -> Result<Read, Failure> {
    let directory = Directory::for_reading(dir)?;
    let names = directory.segments()?;
    let mut reader = Reader { dir, read: Read::default(), room: most, last: None, broken: None };
    let (names, offset) = match from {
        From::Start => (names.as_slice(), 0),
        From::End => {
            reader.find_end(&directory, &names)?;
            return Ok(reader.read);
        }
        From::Behind(place) => reader.go_to(&directory, &names, place)?,
    };
    for (number, name) in names.iter().enumerate() {
        if reader.room == 0 {
            break;
        }
        if let Some(file) = open(&directory, name)? {
            reader.segment(name, &file, if number == 0 { offset } else { 0 }, each)?;
        }
    }
    Ok(reader.read)
}

/// A segment; `None`: retention removed it this moment.
fn open(directory: &Directory, name: &str) -> Result<Option<File>, Failure> {
    match directory.open(name, OFlag::O_RDONLY) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(unread(&directory.path().join(name), &errno.into())),
    }
}

struct Reader<'a> {
    dir: &'a Path,
    read: Read,
    room: usize,
    /// The line before the next one; `None`: whatever comes is taken as the first.
    last: Option<Link>,
    /// A line that is no line of the chain; at the log's end it is one that a crash left.
    broken: Option<String>,
}

impl Reader<'_> {
    /// The last line of the log.
    fn find_end(&mut self, directory: &Directory, names: &[String]) -> Result<(), Failure> {
        for name in names.iter().rev() {
            let Some(file) = open(directory, name)? else { continue };
            let wrong = |error: &std::io::Error| unread(&self.dir.join(name), error);
            let size = file.metadata().map_err(|error| wrong(&error))?.len();
            let found = tail(&file, size).map_err(|error| wrong(&error))?;
            let found = found.ok_or_else(|| changed(self.dir, format!("{name} ends in no line of a log")))?;
            if let Some(Link { seq, hash }) = found.link {
                self.read.place = Some(Place { segment: name.clone(), end: found.len, seq, hash });
                return Ok(());
            }
        }
        Ok(())
    }

    /// Finds the place again: the segments to read, and the offset in the first of them.
    fn go_to<'n>(
        &mut self,
        directory: &Directory,
        names: &'n [String],
        place: &Place,
    ) -> Result<(&'n [String], u64), Failure> {
        self.read.place = Some(place.clone());
        let at = names.partition_point(|name| *name < place.segment);
        let found = match names.get(at).filter(|name| **name == place.segment) {
            Some(name) => open(directory, name)?,
            None => None,
        };
        let Some(file) = found else {
            if at > 0 || names.is_empty() {
                let why = format!("its segment {} is gone, and retention removes the oldest", place.segment);
                return Err(changed(self.dir, why));
            }
            return Ok((self.pruned(directory, names, place)?, 0));
        };
        let wrong = |error: &std::io::Error| unread(&self.dir.join(&place.segment), error);
        let size = file.metadata().map_err(|error| wrong(&error))?.len();
        let link = Link { seq: place.seq, hash: place.hash };
        let is_there = size >= place.end
            && tail(&file, place.end)
                .map_err(|error| wrong(&error))?
                .is_some_and(|found| found.len == place.end && found.link == Some(link));
        if !is_there {
            let why = format!("line {} is not where it was in {}, or another one", place.seq, place.segment);
            return Err(changed(self.dir, why));
        }
        self.last = Some(link);
        Ok((names.get(at..).unwrap_or_default(), place.end))
    }

    /// Retention removed the segment: the log goes on with what is left, and how much went unread is counted.
    fn pruned<'n>(
        &mut self,
        directory: &Directory,
        names: &'n [String],
        place: &Place,
    ) -> Result<&'n [String], Failure> {
        for (number, name) in names.iter().enumerate() {
            let Some(file) = open(directory, name)? else { continue };
            let mut first = None;
            each_line(&file, 0, u64::MAX, &mut |_, line| {
                first = place_of(line).map(|(seq, prev)| (seq, from_hex(prev)));
                ControlFlow::Break(())
            })
            .map_err(|error| unread(&self.dir.join(name), &error))?;
            let Some((seq, prev)) = first else { continue };
            if seq <= place.seq || seq == place.seq + 1 && prev != Some(place.hash) {
                let why =
                    format!("the log begins with line {seq} now, which does not fit line {}", place.seq);
                return Err(changed(self.dir, why));
            }
            self.read.lost = seq - place.seq - 1;
            return Ok(names.get(number..).unwrap_or_default());
        }
        Ok(&[])
    }

    fn segment(
        &mut self,
        name: &str,
        file: &File,
        from: u64,
        each: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<(), Failure> {
        let mut fault = None;
        let end =
            each_line(file, from, u64::MAX, &mut |offset, line| match self.line(name, offset, line, each) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(failure) => {
                    fault = Some(failure);
                    ControlFlow::Break(())
                }
            });
        end.map_err(|error| unread(&self.dir.join(name), &error))?;
        fault.map_or(Ok(()), Err)
    }

    /// Takes one line; false: no more are to be read.
    fn line(
        &mut self,
        name: &str,
        offset: u64,
        line: &[u8],
        each: &mut dyn FnMut(&Record) -> bool,
    ) -> Result<bool, Failure> {
        if let Some(broken) = &self.broken {
            return Err(changed(self.dir, broken.clone()));
        }
        let Some((seq, prev)) = place_of(line) else {
            self.broken = Some(format!("a line of {name} is no line of the chain (at byte {offset})"));
            return Ok(true);
        };
        if let Some(last) = self.last
            && (seq != last.seq + 1 || from_hex(prev) != Some(last.hash))
        {
            let why = format!("line {} or the one behind it, in {name}, is not what was written", last.seq);
            return Err(changed(self.dir, why));
        }
        let link = Link { seq, hash: hash(line) };
        self.last = Some(link);
        let end = offset + line.len() as u64 + 1;
        self.read.place = Some(Place { segment: name.to_owned(), end, seq, hash: link.hash });
        let Some(seen) = glance(line) else {
            self.read.unreadable += 1;
            return Ok(true);
        };
        let may_be = matches!(
            &*seen.action,
            "payload-deny" | "payload-notice" | "payload-stop" | "payload-end" | "launch-failed"
        );
        if !may_be {
            return Ok(true);
        }
        match serde_json::from_slice::<Record>(line) {
            Ok(record) => self.room -= usize::from(each(&record)),
            Err(_) => self.read.unreadable += 1,
        }
        Ok(self.room > 0)
    }
}
