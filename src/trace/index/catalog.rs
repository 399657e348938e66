//! The summaries of all segments in one file, so that a question about one moment opens only the segments of that moment.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::OFlag;

use super::bytes::{CHECK, Put, Take, check};
use super::file::replace;
use super::summary::Summary;
use crate::audit::segment::{Directory, parse_name};

/// Its file name.
pub const NAME: &str = "segments.idx";

const MAGIC: &[u8; 8] = b"BLYCAT02";
/// The longest that is read.
const MAX: u64 = 256 << 20;

/// A segment's size and modification time: with another one the summary may be of another segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    size: u64,
    secs: i64,
    nanos: i64,
}

impl Stamp {
    /// Of a file.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { size: meta.size(), secs: meta.mtime(), nanos: meta.mtime_nsec() })
    }

    /// The size.
    pub const fn size(self) -> u64 {
        self.size
    }
}

/// The summaries by the segments' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog(BTreeMap<String, ((i64, i64), Summary)>);

impl Catalog {
    /// Reads the one of `directory`; an empty one where there is none that can be used.
    pub fn read(directory: &Directory) -> Self {
        let mut bytes = Vec::new();
        let read = directory.open(NAME, OFlag::O_RDONLY).map_err(io::Error::from).and_then(|file| {
            let plain = file.metadata()?.is_file();
            if plain { file.take(MAX).read_to_end(&mut bytes) } else { Ok(0) }
        });
        read.ok().and_then(|_| Self::take(&bytes)).unwrap_or_default()
    }

    /// The summary of a segment that covers all of it.
    pub fn get(&self, segment: &str, stamp: Stamp) -> Option<&Summary> {
        let (time, summary) = self.0.get(segment)?;
        (*time == (stamp.secs, stamp.nanos) && summary.covered == stamp.size).then_some(summary)
    }

    /// Adds or replaces one. Of a segment that is not covered to its end, nothing is kept.
    pub fn set(&mut self, segment: &str, stamp: Stamp, summary: &Summary) {
        if summary.covered == stamp.size {
            self.0.insert(segment.to_owned(), ((stamp.secs, stamp.nanos), summary.clone()));
        }
    }

    /// Forgets the segments that are not among `names`.
    pub fn keep(&mut self, names: &[String]) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Writes it, owned as `like` is.
    pub fn write(&self, directory: &Directory, like: &File) -> io::Result<()> {
        replace(directory, NAME, like, &self.put())
    }

    fn put(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.u32(self.0.len() as u32);
        for (name, ((secs, nanos), summary)) in &self.0 {
            body.text(name);
            body.i64(*secs);
            body.i64(*nanos);
            summary.put(&mut body);
        }
        let mut out = MAGIC.to_vec();
        out.u32(body.len() as u32);
        out.raw(&check(&body));
        out.raw(&body);
        out
    }

    /// For [`crate::fuzzing`]: a body behind magic and checksum. What is read is written as it was.
    #[cfg(any(test, feature = "test-hooks"))]
    pub(super) fn of_bytes(body: &[u8]) -> bool {
        let mut file = MAGIC.to_vec();
        file.u32(body.len() as u32);
        file.raw(&check(body));
        file.raw(body);
        let Some(catalog) = Self::take(&file) else { return false };
        assert_eq!(Self::take(&catalog.put()), Some(catalog));
        true
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        let mut from = Take(bytes);
        (from.raw(MAGIC.len())? == MAGIC).then_some(())?;
        let length = from.u32()? as usize;
        let expected: [u8; CHECK] = from.array()?;
        let body = from.raw(length)?;
        (check(body) == expected && from.0.is_empty()).then_some(())?;
        let mut from = Take(body);
        let mut all = BTreeMap::new();
        for _ in 0..from.u32()? {
            let name = from.text()?;
            let time = (from.i64()?, from.i64()?);
            let summary = Summary::take(&mut from)?;
            parse_name(name)?;
            all.insert(name.to_owned(), (time, summary));
        }
        from.0.is_empty().then_some(Self(all))
    }
}

/// Notes one segment in the catalog of `directory`. Of two who do that at once one may win: what is missing is read again.
pub(super) fn note(directory: &Directory, segment: &str, source: &File, summary: &Summary) -> io::Result<()> {
    let mut catalog = Catalog::read(directory);
    catalog.set(segment, Stamp::of(source)?, summary);
    if let Ok(names) = directory.segments() {
        catalog.keep(&names);
    }
    catalog.write(directory, source)
}
