//! Whether a file is still the one that was read, without reading it again.
//!
//! 1. A file is the same while device, inode, size and both times are. A file changed again within the same tick of the
//!    clock shows the same times; so one that was young when it was read is told by its content until it is not.
//!    Then it is read once more, so that nothing is told by its content for longer than that.
//! 2. A directory is the same while its own times are; the files in it have stamps of their own.
#![forbid(unsafe_code)]

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::chain::hex;
use crate::audit::time::Timestamp;
use crate::input;

/// A file younger than this may be changed again without a change of its times. The coarsest clock of a file system in use
/// counts two seconds (FAT; ext3 and old NFS servers count one).
const YOUNG: i64 = 3;
/// The same, nanoseconds, where both times have more digits than milliseconds: such a clock ticks at least 100 times a second
/// (`current_time` of the kernel takes the time of the last tick). The rest is for clocks of servers that go wrong.
const YOUNG_FINE: u32 = 500_000_000;
/// In place of what was not read. Should a file hold just that, it is read once more.
const UNREAD: &[u8] = b"bailey could not read this";

/// One file or directory, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Where.
    pub path: PathBuf,
    /// What was there.
    pub is: Option<Is>,
}

/// What makes it the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Is {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    owner: u32,
    mode: u32,
    /// A checksum of what it held, where its times alone do not tell.
    young: Option<u64>,
}

impl Stamp {
    /// Of what was read: its metadata as they were before reading, and the bytes (of a directory: the names, see [`names`]).
    pub fn of(path: &Path, metadata: &Metadata, held: &[u8], now: Timestamp) -> Self {
        let young = (now
            <= tells_from(
                time(metadata.mtime(), metadata.mtime_nsec()),
                time(metadata.ctime(), metadata.ctime_nsec()),
            ))
        .then(|| sum(0, held));
        Self { path: path.to_owned(), is: Some(Is::of(metadata, young)) }
    }

    /// Of what is there and cannot be read: its metadata are all there is to tell. While it is young, that is not enough.
    pub fn unread(path: &Path, now: Timestamp) -> Self {
        let Ok(metadata) = std::fs::metadata(path) else { return Self::absent(path) };
        Self::of(path, &metadata, UNREAD, now)
    }

    /// Nothing is there.
    pub fn absent(path: &Path) -> Self {
        Self { path: path.to_owned(), is: None }
    }

    /// When its times alone will tell, where they do not yet.
    pub fn matures(&self) -> Option<Timestamp> {
        let is = self.is.as_ref().filter(|is| is.young.is_some())?;
        Some(tells_from(time(is.mtime.0, is.mtime.1), time(is.ctime.0, is.ctime.1)))
    }

    /// Its bytes; none where it was not there.
    pub fn size(&self) -> u64 {
        self.is.as_ref().map_or(0, |is| is.size)
    }

    /// Whether it is as it was.
    pub fn holds(&self) -> bool {
        let metadata = std::fs::metadata(&self.path);
        match (&self.is, metadata) {
            (None, Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
            (Some(was), Ok(metadata)) => {
                let is = Is::of(&metadata, was.young);
                is == *was && was.young.is_none_or(|young| self.holds_the_same(&metadata, young))
            }
            _ => false,
        }
    }

    fn holds_the_same(&self, metadata: &Metadata, young: u64) -> bool {
        let held = if metadata.is_dir() {
            names(&self.path).ok()
        } else {
            let limit = metadata.len();
            input::open(&self.path)
                .ok()
                .and_then(|file| input::read_small(&file, limit).ok())
                .map(|(_, bytes)| bytes)
        };
        held.is_some_and(|held| sum(0, &held) == young)
    }
}

impl Is {
    fn of(metadata: &Metadata, young: Option<u64>) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            owner: metadata.uid(),
            mode: metadata.mode(),
            young,
        }
    }
}

fn time(secs: i64, nanos: i64) -> Timestamp {
    Timestamp::new(secs, u32::try_from(nanos).unwrap_or(0))
}

/// From when on the times of a file tell whether it is the same.
fn tells_from(mtime: Timestamp, ctime: Timestamp) -> Timestamp {
    let latest = mtime.max(ctime);
    if ctime.nanos().is_multiple_of(1_000_000) {
        Timestamp::new(latest.secs(), 0).plus_seconds(YOUNG + 1)
    } else {
        Timestamp::new(latest.secs(), latest.nanos() + YOUNG_FINE)
    }
}

/// The names in a directory, sorted, each followed by NUL.
pub(crate) fn names(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut names: Vec<_> = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    Ok(names.iter().flat_map(|name| name.as_bytes().iter().copied().chain([0])).collect())
}

/// A checksum, a word at a time: enough against accidents, and quick.
pub(super) fn sum(seed: u64, bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum =
        words.iter().fold(mix(seed, bytes.len() as u64), |sum, word| mix(sum, u64::from_le_bytes(*word)));
    mix(rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte))), 1)
}

/// SHA-256, lowercase hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::tests::Scratch;

    fn stamp(path: &Path, now: Timestamp) -> Stamp {
        let metadata = std::fs::metadata(path).unwrap();
        Stamp::of(path, &metadata, &std::fs::read(path).unwrap(), now)
    }

    #[test]
    fn a_change_within_one_tick_is_seen_while_the_file_is_young() {
        let scratch = Scratch::new();
        let path = scratch.write("list", "aa");
        let times = std::fs::metadata(&path).unwrap().modified().unwrap();
        let young = stamp(&path, Timestamp::now());
        assert!(young.is.as_ref().unwrap().young.is_some());
        assert!(young.holds());
        std::fs::write(&path, "ab").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
        assert!(!young.holds(), "same size and mtime, other content");
        let old = stamp(&path, Timestamp::now().plus_seconds(60));
        assert!(old.is.as_ref().unwrap().young.is_none());
        assert!(old.holds());
    }

    #[test]
    fn a_coarse_clock_needs_longer() {
        let at = |secs, nanos| Timestamp::new(secs, nanos);
        assert_eq!(tells_from(at(90, 5), at(100, 123_456_789)), at(100, 623_456_789));
        assert_eq!(tells_from(at(101, 7), at(100, 123_456_789)), at(101, 500_000_007));
        assert_eq!(tells_from(at(90, 5), at(100, 0)), at(104, 0), "whole seconds");
        assert_eq!(tells_from(at(90, 5), at(100, 120_000_000)), at(104, 0), "hundredths, as FAT has them");
    }

    #[test]
    fn replaced_removed_and_made() {
        let scratch = Scratch::new();
        let path = scratch.write("list", "aa");
        let was = stamp(&path, Timestamp::now().plus_seconds(60));
        let other = scratch.write("other", "aa");
        std::fs::rename(other, &path).unwrap();
        assert!(!was.holds(), "another inode");
        std::fs::remove_file(&path).unwrap();
        assert!(!was.holds());
        let none = Stamp::absent(&path);
        assert!(none.holds());
        scratch.write("list", "aa");
        assert!(!none.holds());
        let dir = Stamp::of(
            &scratch.0,
            &std::fs::metadata(&scratch.0).unwrap(),
            &names(&scratch.0).unwrap(),
            Timestamp::now(),
        );
        assert!(dir.holds());
        scratch.write("more", "");
        assert!(!dir.holds());
    }
}
