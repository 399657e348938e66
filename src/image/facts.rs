//! What an image says of itself, read before anything of it runs: when it was made, its labels, its operating system.
//!
//! Whoever made the image wrote all of it, so it is a claim. A rule on it keeps out what is old, not what lies.
//!
//! 1. Every path MUST be resolved inside the image: its links, absolute ones and `..` too, lead nowhere else.
//! 2. Nothing but a regular file MUST be opened for reading (a device is not even opened), and of it at most [`LIMIT`] bytes.
//! 3. What cannot be read or understood is absent, with a remark; it never ends a launch. What follows from it is for policy.
//! 4. This is on the way of every launch, perhaps over FUSE: two files in the usual image, five in one that has none of them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::labels::{self, Made};
use super::{os_release, sif};
use crate::audit::time::Timestamp;
use crate::failure::errno_text;
use crate::input::{self, Trouble};
use crate::sys::Errno;
use crate::sys::fs::{Resolve, open_following, open_how, stat_at};

pub use super::end_of_life::EndOfLife;
pub use super::os_release::Os;

/// The most that is read of one file.
pub const LIMIT: u64 = 64 << 10;

/// The most remarks that are kept.
const REMARKS: usize = 8;

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// When it was made, and what says so: `label NAME` or `sif-header`.
    pub made: Option<(Timestamp, String)>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its operating system.
    pub os: Option<Os>,
    /// What is there and could not be used, in words of ours. Nothing of the image's own text is in them.
    pub remarks: Vec<String>,
}

impl Told {
    pub(super) fn remark(&mut self, remark: String) {
        if self.remarks.len() < REMARKS {
            self.remarks.push(remark);
        }
    }

    /// Takes what a `labels.json` holds, and the time when the image was made from it.
    pub(super) fn learn_labels(&mut self, labels: BTreeMap<String, String>) {
        match labels::made(&labels) {
            Made::At(when, label) => self.made = Some((when, format!("label {label}"))),
            Made::NotUsable(label) => self.remark(format!("label {label} holds no time that can be used")),
            Made::NotSaid => {}
        }
        self.labels = labels;
    }
}

/// An unpacked image: `root` is its root directory (`O_PATH` is enough).
pub fn of_directory(root: BorrowedFd<'_>) -> Told {
    let mut told = Told::default();
    if let Some(bytes) = take(root, c".singularity.d/labels.json", &mut told) {
        match labels::parse(&bytes) {
            Ok((labels, dropped)) => {
                if dropped > 0 {
                    told.remark(format!("labels.json: values that are no text: {dropped}"));
                }
                told.learn_labels(labels);
            }
            Err(why) => told.remark(format!("labels.json: {why}")),
        }
    }
    told.os = system_of(root, &mut told);
    told
}

/// The host's own system, for a payload that runs without an image.
pub fn of_host() -> Option<Os> {
    let root = open_following(c"/", libc::O_PATH | libc::O_DIRECTORY).ok()?;
    system_of(root.as_fd(), &mut Told::default())
}

/// A SIF file. The error says in words why it is none that can be read.
pub fn of_sif(file: &File) -> Result<Told, String> {
    sif::read(file)
}

/// os-release(5) in its order; before it there was a line per family of distributions.
fn system_of(root: BorrowedFd<'_>, told: &mut Told) -> Option<Os> {
    for path in [c"etc/os-release", c"usr/lib/os-release"] {
        if let Some(bytes) = take(root, path, told) {
            let (os, skipped) = os_release::parse(&bytes);
            if skipped > 0 {
                told.remark(format!("{}: lines that are no assignment: {skipped}", path.to_string_lossy()));
            }
            if os.is_some() {
                return os;
            }
        }
    }
    if let Some(os) = take(root, c"etc/redhat-release", told).and_then(|bytes| os_release::redhat(&bytes)) {
        return Some(os);
    }
    take(root, c"etc/debian_version", told).and_then(|bytes| os_release::debian(&bytes))
}

/// The bytes of one file of the image; `None` when it is not there, and with a remark when it cannot be used.
fn take(root: BorrowedFd<'_>, path: &CStr, told: &mut Told) -> Option<Vec<u8>> {
    let trouble = match read_inside(root, path) {
        Ok(bytes) => return Some(bytes),
        Err(Trouble::System(error)) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => return None,
            Some(errno) => errno_text(errno),
            None => error.to_string(),
        },
        Err(trouble) => trouble.to_string(),
    };
    told.remark(format!("{}: {trouble}", path.to_string_lossy()));
    None
}

/// Looks first (`O_PATH` opens no device and waits for no writer), then opens what was looked at, by its descriptor.
pub(crate) fn read_inside(root: BorrowedFd<'_>, path: &CStr) -> Result<Vec<u8>, Trouble> {
    let system = |errno: Errno| Trouble::System(errno.into());
    let found = open_how(root, path, libc::O_PATH, 0, Resolve::InRoot).map_err(system)?;
    let stat = stat_at(found.as_fd(), c"").map_err(system)?;
    if !stat.is_file() {
        return Err(Trouble::Kind(match stat.mode & libc::S_IFMT {
            libc::S_IFDIR => "a directory",
            libc::S_IFIFO => "a FIFO",
            libc::S_IFSOCK => "a socket",
            libc::S_IFLNK => "a symbolic link",
            _ => "a device",
        }));
    }
    let link = std::ffi::CString::new(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|_| Trouble::System(Errno::EINVAL.into()))?;
    let file = File::from(open_following(&link, libc::O_RDONLY | input::FLAGS.bits()).map_err(system)?);
    Ok(input::read_small(&file, LIMIT)?.1)
}
