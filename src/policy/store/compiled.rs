//! The tables on disk, arranged so that a launch reads the few of them that may concern it and nothing else.
//!
//! 1. The file is a cache: it can be made again from the site's own files at any time, and it holds only while the stamps
//!    in it do. What cannot be read, or was written by another build, counts as absent.
//! 2. It is trusted only as far as its owner: it lies in a directory of the account's own, and no payload sees that.
//! 3. It is written aside and renamed, so a reader has the whole of one version or of another.
//! 4. Every part is used only when its checksum fits: a bit that a disk or memory turned MUST NOT make a ban disappear.
//!
//! Layout, little-endian: a header of eight words, JSON with all that is not looked up by a key, a Bloom filter of the
//! pieces of patterns (Bloom 1970), buckets of keys by hash, and the items as JSON, each behind hash and length.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::index::{Item, Memory, Source};
use super::super::lists::Lists;
use super::stamp::{Stamp, sum};
use crate::audit::time::Timestamp;
use crate::config::Config;
use crate::failure::{Failure, io_text};
use crate::input;

/// Begins the file. The build's version follows in the JSON.
const MAGIC: u64 = u64::from_le_bytes(*b"BLYTBL02");
const HEADER: usize = 64;
/// Bytes of a bucket: offset, length and checksum of its items.
const BUCKET: usize = 24;
/// Bits of the filter for each piece, and how many of them are set: about one wrong "maybe" in a thousand.
const FILTER_BITS: usize = 16;
const FILTER_PROBES: u64 = 6;
/// The largest JSON part, and the largest bucket, that is read.
const LARGEST: u64 = 16 << 20;

/// What is not looked up by a key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Version and build of the program that wrote it.
    pub build: String,
    /// The configuration without its tables.
    pub config: Config,
    /// How the ban lists stand.
    pub lists: Lists,
    /// The files that all of this comes from.
    pub stamps: Vec<Stamp>,
    /// When it has to be made again in any case.
    pub until: Option<Timestamp>,
    /// There are `[[trust]]` tables.
    pub trusts: bool,
    /// The site's own table of systems is among the items.
    pub systems: bool,
}

/// The tables on disk.
#[derive(Debug)]
pub(super) struct Compiled {
    file: File,
    filter: Vec<u8>,
    buckets: (u64, u64),
    trusts: bool,
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits: the same in every build, and two keys that share one cost a comparison.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// That of a bucket: its items, in their place.
fn sum_of_bucket(number: u64, at: u64, items: &[u8]) -> u64 {
    sum(number.rotate_left(32) ^ at, items)
}

/// The bits of the filter that a piece sets.
fn probes(piece: &[u8], bits: u64) -> impl Iterator<Item = (usize, u8)> {
    let first = hash(piece);
    let step = first.rotate_left(32) | 1;
    (0..FILTER_PROBES).map(move |probe| {
        let bit = first.wrapping_add(step.wrapping_mul(probe)) % bits.max(1);
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let word = bytes.get(index * 8..index * 8 + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

/// The bytes of the file.
pub(super) fn encode(meta: &Meta, memory: &Memory) -> Result<Vec<u8>, serde_json::Error> {
    let meta = serde_json::to_vec(meta)?;
    let pieces: Vec<&[u8]> = memory.pieces().collect();
    let mut filter = vec![0_u8; (pieces.len() * FILTER_BITS).div_ceil(64) * 8];
    let bits = filter.len() as u64 * 8;
    for piece in pieces {
        for (byte, bit) in probes(piece, bits) {
            if let Some(byte) = filter.get_mut(byte) {
                *byte |= bit;
            }
        }
    }
    let entries: Vec<(u64, &[Arc<Item>])> =
        memory.entries().map(|(key, items)| (hash(key.as_bytes()), items)).collect();
    let count = entries.len().next_power_of_two() as u64;
    let mut buckets: Vec<Vec<u8>> = vec![Vec::new(); count as usize];
    for (hash, items) in entries {
        let Some(bucket) = buckets.get_mut((hash & (count - 1)) as usize) else { continue };
        for item in items {
            let item = serde_json::to_vec(&**item)?;
            bucket.extend(hash.to_le_bytes());
            bucket.extend((item.len() as u64).to_le_bytes());
            bucket.extend(item);
        }
    }
    let meta_at = HEADER as u64;
    let filter_at = meta_at + meta.len() as u64;
    let buckets_at = filter_at + filter.len() as u64;
    let items_at = buckets_at + count * BUCKET as u64;
    let length = items_at + buckets.iter().map(|bucket| bucket.len() as u64).sum::<u64>();
    let mut out = Vec::with_capacity(length as usize);
    let front = sum(sum(0, &meta), &filter);
    for word in [MAGIC, length, meta.len() as u64, filter.len() as u64, count, front] {
        out.extend(word.to_le_bytes());
    }
    out.extend(sum(0, &out).to_le_bytes());
    out.resize(HEADER, 0);
    out.extend(meta);
    out.extend(filter);
    let mut at = items_at;
    for (number, bucket) in (0..).zip(&buckets) {
        out.extend(at.to_le_bytes());
        out.extend((bucket.len() as u64).to_le_bytes());
        out.extend(sum_of_bucket(number, at, bucket).to_le_bytes());
        at += bucket.len() as u64;
    }
    for bucket in buckets {
        out.extend(bucket);
    }
    Ok(out)
}

/// For [`crate::fuzzing`]: makes magic, length and checksums those of the bytes, as far as there are any.
#[cfg(any(test, feature = "test-hooks"))]
pub(super) fn seal(bytes: &mut [u8]) {
    fn put(bytes: &mut [u8], at: usize, word: u64) {
        if let Some(to) = bytes.get_mut(at..at + 8) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    let length = bytes.len() as u64;
    let place = |bytes: &[u8], index| usize::try_from(word(bytes, index)).unwrap_or(usize::MAX);
    let (meta, filter, count) = (place(bytes, 2), place(bytes, 3), place(bytes, 4));
    let filter_at = HEADER.saturating_add(meta);
    let buckets_at = filter_at.saturating_add(filter);
    for number in 0..count.min(bytes.len() / BUCKET) {
        let at = buckets_at.saturating_add(number * BUCKET);
        let Some(bucket) = bytes.get(at..at.saturating_add(BUCKET)) else { break };
        let (begin, length) = (place(bucket, 0), place(bucket, 1));
        if let Some(items) = bytes.get(begin..begin.saturating_add(length)) {
            let fits = sum_of_bucket(number as u64, begin as u64, items);
            put(bytes, at + 16, fits);
        }
    }
    if let (Some(meta), Some(filter)) = (bytes.get(HEADER..filter_at), bytes.get(filter_at..buckets_at)) {
        let front = sum(sum(0, meta), filter);
        put(bytes, 40, front);
    }
    put(bytes, 0, MAGIC);
    put(bytes, 8, length);
    if let Some(header) = bytes.get(..48) {
        let header = sum(0, header);
        put(bytes, 48, header);
    }
}

/// Writes the tables to `path`, whole or not at all.
pub(super) fn write(path: &Path, meta: &Meta, memory: &Memory) -> std::io::Result<()> {
    let bytes = encode(meta, memory)?;
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Opens what [`write`] wrote, if it is whole, of this build, and of this account's own.
pub(super) fn open(path: &Path, build: &str) -> Option<(Meta, Compiled)> {
    let file = input::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file()
        || metadata.uid() != nix::unistd::geteuid().as_raw()
        || metadata.mode() & 0o077 != 0
    {
        return None;
    }
    read(file, metadata.len(), build)
}

/// The same of a file that may be trusted, which has this length.
pub(super) fn read(file: File, size: u64, build: &str) -> Option<(Meta, Compiled)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    let [magic, length, meta, filter, count, sum_of_front, sum_of_header] =
        std::array::from_fn(|index| word(&header, index));
    let fits = meta <= LARGEST && filter <= LARGEST && count.is_power_of_two() && count <= LARGEST;
    let is_whole = sum(0, header.get(..48)?) == sum_of_header && length == size;
    if magic != MAGIC || !is_whole || !fits {
        return None;
    }
    let mut front = vec![0; (meta + filter) as usize];
    file.read_exact_at(&mut front, HEADER as u64).ok()?;
    let filter = front.split_off(meta as usize);
    if sum(sum(0, &front), &filter) != sum_of_front {
        return None;
    }
    let meta: Meta = serde_json::from_slice(&front).ok()?;
    if meta.build != build {
        return None;
    }
    let buckets = (HEADER as u64 + front.len() as u64 + filter.len() as u64, count);
    let trusts = meta.trusts;
    Some((meta, Compiled { file, filter, buckets, trusts }))
}

impl Source for Compiled {
    fn at(&self, key: &str) -> Result<Vec<Arc<Item>>, Failure> {
        let broken = |why: String| {
            Failure::site(
                "cannot read the copy of this site's policy",
                why,
                "remove it; it is made again (see docs/policy.md)",
            )
        };
        let wanted = hash(key.as_bytes());
        let (at, count) = self.buckets;
        let mut bucket = [0; BUCKET];
        let number = wanted & (count - 1);
        let bucket_at = at + number * BUCKET as u64;
        self.file.read_exact_at(&mut bucket, bucket_at).map_err(|error| broken(io_text(&error)))?;
        let (at, length) = (word(&bucket, 0), word(&bucket, 1));
        if length > LARGEST {
            return Err(broken(format!("a bucket of {length} bytes")));
        }
        let mut items = vec![0; length as usize];
        if length > 0 {
            self.file.read_exact_at(&mut items, at).map_err(|error| broken(io_text(&error)))?;
        }
        if sum_of_bucket(number, at, &items) != word(&bucket, 2) {
            return Err(broken("a checksum does not fit".to_owned()));
        }
        let mut found = Vec::new();
        let mut rest = items.as_slice();
        while let Some((head, tail)) = rest.split_at_checked(16) {
            let length = usize::try_from(word(head, 1)).unwrap_or(usize::MAX);
            let Some((item, next)) = tail.split_at_checked(length) else {
                return Err(broken("an item that ends behind its bucket".to_owned()));
            };
            if word(head, 0) == wanted {
                let item = serde_json::from_slice(item).map_err(|error| broken(error.to_string()))?;
                found.push(Arc::new(item));
            }
            rest = next;
        }
        Ok(found)
    }

    fn has_piece(&self, piece: &[u8]) -> bool {
        let bits = self.filter.len() as u64 * 8;
        bits > 0
            && probes(piece, bits)
                .all(|(byte, bit)| self.filter.get(byte).is_some_and(|found| found & bit != 0))
    }

    fn has_pieces(&self) -> bool {
        !self.filter.is_empty()
    }

    fn has_trusts(&self) -> bool {
        self.trusts
    }
}
