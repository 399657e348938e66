//! Digests of launchers' programs, and those that were computed before.
//!
//! A digest is remembered for the uid that handed the file over, and for no other: a FUSE file system shows whatever inode
//! and times its owner wants.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::failure::io_text;

/// The largest program.
pub(super) const LARGEST: u64 = 256 << 20;
/// Digests remembered for one uid, and uids for which some are.
const REMEMBERED: (usize, usize) = (16, 256);

/// What makes a file the same as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

/// Files of one uid and their digests, the newest last.
type Known = VecDeque<(Key, [u8; 32])>;

/// The digests that are known, by uid.
#[derive(Debug, Default)]
pub(super) struct Programs(Mutex<BTreeMap<u32, Known>>);

impl Programs {
    /// The digest of a file, if it was computed before. Asks the file.
    pub(super) fn known(&self, uid: u32, file: &File) -> Option<[u8; 32]> {
        let (key, _) = key_of(file).ok()?;
        self.find(uid, key)
    }

    fn find(&self, uid: u32, key: Key) -> Option<[u8; 32]> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&uid)?.iter().find(|(other, _)| *other == key).map(|(_, digest)| *digest)
    }

    /// The digest of a file. Reads it, if that is needed.
    pub(super) fn digest(&self, uid: u32, file: &File, buffer: &mut Vec<u8>) -> Result<[u8; 32], String> {
        let (key, is_file) = key_of(file)?;
        if !is_file {
            return Err("it is no regular file".to_owned());
        }
        if key.size > LARGEST {
            return Err(format!("it has {} bytes, {LARGEST} are read", key.size));
        }
        if let Some(digest) = self.find(uid, key) {
            return Ok(digest);
        }
        buffer.resize(1 << 16, 0);
        let mut sum = Sha256::new();
        let mut offset = 0;
        loop {
            // With an offset of our own: the launcher's descriptor shares its position with this one.
            let count = file.read_at(buffer, offset).map_err(|error| io_text(&error))?;
            sum.update(buffer.get(..count).unwrap_or_default());
            offset += count as u64;
            if count == 0 {
                break;
            }
            if offset > LARGEST {
                return Err(format!("it has more than {LARGEST} bytes"));
            }
        }
        if key_of(file)?.0 != key || offset != key.size {
            return Err("it changed while it was read".to_owned());
        }
        let digest = sum.finalize().into();
        self.remember(uid, key, digest);
        Ok(digest)
    }

    fn remember(&self, uid: u32, key: Key, digest: [u8; 32]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED.1 && !known.contains_key(&uid) {
            known.pop_first();
        }
        let own = known.entry(uid).or_default();
        if own.len() >= REMEMBERED.0 {
            own.pop_front();
        }
        own.push_back((key, digest));
    }
}

fn key_of(file: &File) -> Result<(Key, bool), String> {
    let meta = file.metadata().map_err(|error| io_text(&error))?;
    let key = Key {
        dev: meta.dev(),
        ino: meta.ino(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
    };
    Ok((key, meta.is_file()))
}
