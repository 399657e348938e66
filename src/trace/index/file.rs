//! The index of one segment as a file, or as bytes in memory where there is none that can be used.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use nix::fcntl::{OFlag, renameat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::build::Builder;
use super::bytes::{CHECK, Put, Take, check};
use super::index_name;
use super::summary::Summary;
use super::table::Section;
use crate::audit::chain::{MAX_LINE, hash};
use crate::audit::lines::each_line;
use crate::audit::segment::Directory;

pub(super) const MAGIC: &[u8; 8] = b"BLYIDX02";
/// The longest head that is believed: a summary with a million jumps of the clock.
const MAX_HEAD: usize = 64 << 20;
/// What is read at once at the beginning of a file: nearly always the whole head.
const FIRST_READ: usize = 4096;

/// Where a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) section: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) check: [u8; CHECK],
}

impl Part {
    pub(super) const LENGTH: usize = 4 + 8 + 8 + CHECK;

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.u32(self.section);
        out.u64(self.offset);
        out.u64(self.length);
        out.raw(&self.check);
    }

    fn take(from: &mut Take<'_>) -> Option<Self> {
        Some(Self { section: from.u32()?, offset: from.u64()?, length: from.u64()?, check: from.array()? })
    }
}

#[derive(Debug)]
enum Source {
    File(File, u64),
    Memory(Vec<u8>),
}

/// An index that was read or built.
#[derive(Debug)]
pub struct Index {
    summary: Summary,
    parts: Vec<Part>,
    source: Source,
    /// Bytes of the segment that no file has an index of.
    fresh: u64,
}

impl Index {
    pub(super) fn in_memory(summary: Summary, parts: Vec<Part>, bytes: Vec<u8>) -> Self {
        let fresh = summary.covered;
        Self { summary, parts, source: Source::Memory(bytes), fresh }
    }

    /// For [`crate::fuzzing`]: the bytes of one that was built.
    #[cfg(any(test, feature = "test-hooks"))]
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self.source {
            Source::Memory(bytes) => bytes,
            Source::File(..) => Vec::new(),
        }
    }

    /// What it says of the segment as a whole.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// How many bytes of the segment had to be read, because no file has an index of them.
    pub fn fresh(&self) -> u64 {
        self.fresh
    }

    /// The bytes of a section; `None` when they are not what was written.
    pub fn section(&self, section: Section) -> Option<Vec<u8>> {
        let part = self.parts.iter().find(|part| part.section == section.number())?;
        let bytes = match &self.source {
            Source::Memory(bytes) => {
                let (begin, end) = (part.offset as usize, part.offset.checked_add(part.length)? as usize);
                bytes.get(begin..end)?.to_vec()
            }
            Source::File(file, size) => {
                part.offset.checked_add(part.length).filter(|end| end <= size)?;
                let mut bytes = vec![0; part.length as usize];
                file.read_exact_at(&mut bytes, part.offset).ok()?;
                bytes
            }
        };
        (check(&bytes) == part.check).then_some(bytes)
    }

    /// Reads the head of an index; `None` when it is none.
    fn read(file: File) -> Option<Self> {
        let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        let mut first = vec![0; FIRST_READ.min(size as usize)];
        file.read_exact_at(&mut first, 0).ok()?;
        let mut from = Take(&first);
        (from.raw(MAGIC.len())? == MAGIC).then_some(())?;
        let length = from.u32()? as usize;
        let expected: [u8; CHECK] = from.array()?;
        let begin = first.len() - from.0.len();
        if length > MAX_HEAD || (begin + length) as u64 > size {
            return None;
        }
        let mut head = vec![0; length];
        match from.raw(length) {
            Some(whole) => head.copy_from_slice(whole),
            None => file.read_exact_at(&mut head, begin as u64).ok()?,
        }
        (check(&head) == expected).then_some(())?;
        let (summary, parts) = Self::head(&head)?;
        Some(Self { summary, parts, source: Source::File(file, size), fresh: 0 })
    }

    /// What stands in a head, behind its checksum.
    pub(super) fn head(head: &[u8]) -> Option<(Summary, Vec<Part>)> {
        let mut from = Take(head);
        let summary = Summary::take(&mut from)?;
        let count = from.u32()?;
        let parts = (0..count).map(|_| Part::take(&mut from)).collect::<Option<_>>()?;
        Some((summary, parts))
    }

    /// Whether it is of this segment, as far as it goes.
    fn is_of(&self, segment: &File, size: u64) -> bool {
        let summary = &self.summary;
        let length = summary.covered.saturating_sub(summary.last_offset);
        if summary.covered > size || length < 2 || length > MAX_LINE as u64 + 1 {
            return false;
        }
        let mut line = vec![0; length as usize];
        segment.read_exact_at(&mut line, summary.last_offset).is_ok()
            && line.pop() == Some(b'\n')
            && hash(&line) == summary.last_hash
    }
}

/// The index file of a segment, if it is one of this segment.
fn open(directory: &Directory, segment: &str, source: &File, size: u64) -> Option<Index> {
    let file = directory.open(&index_name(segment), OFlag::O_RDONLY).ok()?;
    Index::read(file).filter(|index| index.is_of(source, size))
}

/// The index of a segment as it is now: from its file, and from the segment what the file lacks.
pub fn build(directory: &Directory, segment: &str, source: &File) -> io::Result<Index> {
    let size = source.metadata()?.len();
    match open(directory, segment, source, size) {
        Some(index) if index.summary.covered == size => Ok(index),
        Some(index) => match Builder::resume(&index) {
            Some(builder) => match extend(builder, source, size)? {
                Some(index) => Ok(index),
                None => Ok(index),
            },
            None => from_segment(source),
        },
        None => from_segment(source),
    }
}

/// The index of a segment from nothing but the segment.
pub fn from_segment(source: &File) -> io::Result<Index> {
    let size = source.metadata()?.len();
    let index = extend(Builder::new(), source, size)?;
    Ok(index.unwrap_or_else(|| Builder::new().finish(b"")))
}

/// Takes the lines behind those that are in it; `None` when there is none.
fn extend(mut builder: Builder, source: &File, size: u64) -> io::Result<Option<Index>> {
    let begin = builder.covered();
    let mut last = Vec::new();
    each_line(source, begin, size, &mut |offset, line| {
        builder.line(offset, line);
        last.clear();
        last.extend_from_slice(line);
        ControlFlow::Continue(())
    })?;
    Ok((builder.covered() > begin).then(|| {
        let index = builder.finish(&last);
        Index { fresh: index.fresh - begin, ..index }
    }))
}

/// Writes an index beside its segment, whole or not at all, for whoever may read the segment.
pub fn write(directory: &Directory, segment: &str, source: &File, index: &Index) -> io::Result<()> {
    match &index.source {
        Source::Memory(bytes) if index.summary.lines > 0 => {
            replace(directory, &index_name(segment), source, bytes)
        }
        _ => Ok(()),
    }
}

/// Puts `bytes` in the place of the file `name`; owner and mode are those of `like`.
pub(super) fn replace(directory: &Directory, name: &str, like: &File, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut file = match directory.open(&temporary, flags) {
        Err(nix::errno::Errno::EEXIST) => {
            unlinkat(directory.fd(), temporary.as_str(), UnlinkatFlags::NoRemoveDir)?; // of a process of this number that died
            directory.open(&temporary, flags)?
        }
        other => other?,
    };
    let wrote = (|| {
        let meta = like.metadata()?;
        if file.metadata()?.uid() != meta.uid() {
            fchown(&file, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(meta.mode() & 0o644))?;
        file.write_all(bytes)?;
        renameat(directory.fd(), temporary.as_str(), directory.fd(), name)?;
        Ok(())
    })();
    if wrote.is_err() {
        let _ = unlinkat(directory.fd(), temporary.as_str(), UnlinkatFlags::NoRemoveDir); // the first error counts
    }
    wrote
}
