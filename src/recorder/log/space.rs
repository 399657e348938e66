//! Space: a file that holds blocks for the ends of what is live, and the decision whether a launch may still be taken.
//!
//! 1. `reserve` is allocated, not sparse. It is shortened when a record that must get in finds no room, and grows back when
//!    there is room again.
//! 2. A new launch is refused while the reserve is not whole, or while it holds less than [`PER_LAUNCH`] for each live one.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::fstatvfs;

use crate::audit::segment::Directory;
use crate::failure::Failure;

const NAME: &str = "reserve";
/// What the records that end one launch may take: a stop, an end, and their part of checkpoints and lists.
const PER_LAUNCH: u64 = 16 * 1024;
/// What must be free besides: lists, checkpoints, file-system metadata.
const SLACK: u64 = 256 * 1024;
/// What one new launch's record takes, at a generous guess.
const LAUNCH: u64 = 8 * 1024;

/// The reserve.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    len: u64,
    /// As configured.
    least: u64,
    /// As much as a file may have.
    most: u64,
}

/// Whether more room, and so the reserve, helps.
pub(super) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT)
}

/// The largest file that this process may write. Writing past it would end it (SIGXFSZ).
pub(super) fn largest_file() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}

impl Reserve {
    /// Opens it; it is filled by [`Reserve::refill`].
    pub(super) fn open(dir: &Directory, least: u64) -> Result<Self, Failure> {
        let file = dir.make_own(NAME, OFlag::O_RDWR)?;
        let len = file.metadata().map_err(|error| dir.io_failure("look at", NAME, &error))?.len();
        let most = largest_file();
        Ok(Self { file, len, least: least.min(most), most })
    }

    /// Bytes that it holds.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that it should hold for so many live launches.
    fn wanted(&self, live: u64) -> u64 {
        self.least.max(live * PER_LAUNCH).min(self.most)
    }

    /// Whether it holds less than it should.
    pub(super) fn is_short(&self, live: u64) -> bool {
        self.len < self.wanted(live)
    }

    /// Gives up `bytes`, and a little more for the file system; `false` when there is nothing left to give.
    pub(super) fn give(&mut self, bytes: u64) -> bool {
        if self.len == 0 {
            return false;
        }
        let rest = self.len.saturating_sub(bytes.saturating_add(16 * 1024));
        if self.file.set_len(rest).is_err() {
            return false;
        }
        self.len = rest;
        // Some file systems free the blocks with their next transaction only; where this fails the write tells.
        let _ = self.file.sync_all();
        true
    }

    /// Fills it up as far as it should be, if that leaves room for more.
    pub(super) fn refill(&mut self, dir: &Directory, live: u64) {
        let wanted = self.wanted(live);
        if self.len >= wanted || free(dir).is_ok_and(|free| free < (wanted - self.len).saturating_add(SLACK))
        {
            return;
        }
        if self.allocate(wanted).is_ok() {
            self.len = wanted;
        } else {
            // Half of it may be there: what counts is what the file surely holds.
            let _ = self.file.set_len(self.len);
        }
    }

    fn allocate(&self, wanted: u64) -> std::io::Result<()> {
        let (from, length) = (self.len as i64, (wanted - self.len) as i64);
        match fallocate(&self.file, FallocateFlags::empty(), from, length) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let zeros = vec![0; 64 * 1024];
                let mut at = self.len;
                while at < wanted {
                    let part = zeros.len().min((wanted - at) as usize);
                    self.file.write_all_at(zeros.get(..part).unwrap_or_default(), at)?;
                    at += part as u64;
                }
                self.file.sync_data()
            }
            other => Ok(other?),
        }
    }

    /// Whether `launches` more may be taken beside `live` ones.
    pub(super) fn take(&mut self, dir: &Directory, live: u64, launches: u64) -> Result<(), Failure> {
        let live = live + launches;
        if self.is_short(live) {
            self.refill(dir, live);
        }
        let refuse = |why: String| {
            Err(Failure::record(
                format!("cannot take a new payload: no room for its records in {}", dir.path().display()),
                why,
                "free space there, or lower retention.days or retention.size in /etc/bailey/bailey.toml",
            ))
        };
        if self.is_short(live) {
            let (have, wanted) = (self.len, self.wanted(live));
            return refuse(format!(
                "the reserve for the ends of running payloads has {have} of {wanted} bytes, and the disk no more"
            ));
        }
        if live * PER_LAUNCH > self.len {
            return refuse(format!(
                "ulimit -f keeps the reserve at {} bytes, too small for {live} payloads",
                self.len
            ));
        }
        let (free, needed) = (free(dir)?, SLACK + launches * LAUNCH);
        if free < needed {
            return refuse(format!("{free} bytes are free beside the reserve, {needed} are needed"));
        }
        Ok(())
    }
}

/// Bytes that an ordinary user may still write.
pub(super) fn free(dir: &Directory) -> Result<u64, Failure> {
    let vfs = fstatvfs(dir.fd()).map_err(|errno| dir.failure("look at the free space of", "", errno))?;
    let unlimited = vfs.blocks() == 0; // a tmpfs without a size
    Ok(if unlimited { u64::MAX } else { vfs.blocks_available().saturating_mul(vfs.fragment_size()) })
}
