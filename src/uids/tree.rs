//! The owner of everything below a directory, changed or removed: by descriptors, one component at a time.
#![forbid(unsafe_code)]

use crate::failure::errno_text;
use crate::sys::Errno;
use crate::sys::fs::{self, Resolve, Stat, stat_at};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The deepest directory that is entered: each level on the way holds one descriptor.
const DEEPEST: usize = 256;

/// What was not changed, because it could not be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many.
    pub count: u64,
    /// The first, with the reason.
    pub first: Option<String>,
}

impl Kept {
    fn note(&mut self, path: &[u8], why: &str) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(format!("{}: {why}", String::from_utf8_lossy(path)));
        }
    }
}

/// What was done below a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// How many entries were changed or removed.
    pub done: u64,
    /// What ought to have been and could not.
    pub kept: Kept,
    /// Names of files that have other names too: they were left to their owner.
    pub linked: u64,
}

impl Sweep {
    /// Of a directory that is not there any more, or of which another has the name: nothing was to be done. Or of one that could
    /// not be opened.
    pub(super) fn unopened(path: &Path, opened: Result<(), Errno>) -> Self {
        let mut sweep = Self::default();
        match opened {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => sweep.kept.note(path.as_os_str().as_bytes(), &errno_text(errno)),
        }
        sweep
    }

    /// Whether nothing is left.
    pub const fn is_whole(&self) -> bool {
        self.kept.count == 0
    }
}

/// Opens a directory for reading by a path of which no component is a symbolic link.
///
/// # Errors
/// `ELOOP` for a link, `ENOTDIR`, `ENOENT`...
pub fn open_directory(path: &Path) -> Result<(OwnedFd, Stat), Errno> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let fd = fs::open_how(fs::cwd(), &text, libc::O_RDONLY | libc::O_DIRECTORY, 0, Resolve::NoSymlinks)?;
    let stat = stat_at(fd.as_fd(), c"")?;
    Ok((fd, stat))
}

/// Gives everything from this directory downwards that belongs to the uid `from` to uid and gid `to`. With `shy`, a file with
/// several names is left alone: the others may be anywhere. `skip`: paths below the directory that stay as they are, with what
/// is in them.
pub fn chown_tree(root: BorrowedFd<'_>, from: u32, to: (u32, u32), shy: bool, skip: &[PathBuf]) -> Sweep {
    let task = Task::Give { from, to, shy };
    let mut walk = Walk { task, sweep: Sweep::default(), path: Vec::new(), skip };
    walk.give(root, c"", from, to, shy, true);
    walk.directory(root, 0);
    walk.sweep
}

/// Removes everything below this directory that belongs to the uid. A directory of its in which somebody else has something
/// cannot go; it becomes `to`'s, and its content stays.
pub fn remove_tree(root: BorrowedFd<'_>, uid: u32, to: (u32, u32), dry: bool) -> Sweep {
    let task = Task::Remove { uid, to, dry };
    let mut walk = Walk { task, sweep: Sweep::default(), path: Vec::new(), skip: &[] };
    walk.directory(root, 0);
    walk.sweep
}

#[derive(Clone, Copy)]
enum Task {
    Give { from: u32, to: (u32, u32), shy: bool },
    Remove { uid: u32, to: (u32, u32), dry: bool },
}

struct Walk<'a> {
    task: Task,
    sweep: Sweep,
    /// From the directory on, each component behind a slash.
    path: Vec<u8>,
    skip: &'a [PathBuf],
}

impl Walk<'_> {
    fn miss(&mut self, errno: Errno) {
        self.sweep.kept.note(&self.path, &errno_text(errno));
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, depth: usize) {
        let names = match names(dir) {
            Ok(names) => names,
            Err(errno) => return self.miss(errno),
        };
        for name in names {
            let length = self.path.len();
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            let here = self.path.get(1..).unwrap_or_default();
            if !self.skip.iter().any(|skip| skip.as_os_str().as_bytes() == here) {
                self.entry(dir, &name, depth);
            }
            self.path.truncate(length);
        }
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) {
        let stat = match stat_at(dir, name) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return, // somebody was quicker
            Err(errno) => return self.miss(errno),
        };
        match self.task {
            Task::Give { from, to, shy } => {
                if stat.uid == from {
                    self.give(dir, name, from, to, shy, false);
                }
                if stat.is_dir() {
                    self.enter(dir, name, depth, stat.uid == from);
                }
            }
            Task::Remove { uid, to, dry } => {
                if stat.is_dir() {
                    self.enter(dir, name, depth, stat.uid == uid);
                }
                if stat.uid == uid {
                    self.remove(dir, name, stat, uid, to, dry);
                }
            }
        }
    }

    /// `own`: whether the directory is one that must be looked through. Another's that cannot be entered was closed to the
    /// payload as well.
    fn enter(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize, own: bool) {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match fs::open_how(dir, name, flags, 0, Resolve::BeneathOneMount) {
            Ok(_) if depth == DEEPEST => {
                self.sweep.kept.note(&self.path, "it is too deep; remove it by hand");
            }
            Ok(below) => self.directory(below.as_fd(), depth + 1),
            // What is mounted there is another's affair, and what is gone is gone.
            Err(Errno::EXDEV | Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(_) if !own => {}
            Err(errno) => self.miss(errno),
        }
    }

    /// Of a name below `dir`, or of `dir` itself.
    fn give(&mut self, dir: BorrowedFd<'_>, name: &CStr, from: u32, to: (u32, u32), shy: bool, itself: bool) {
        let give = || {
            let opened;
            let fd = if itself {
                dir
            } else {
                let flags = libc::O_PATH | libc::O_NOFOLLOW;
                // Resolved as a name only: a symbolic link is opened itself (O_PATH), and changed itself.
                opened = fs::open_at(dir, name, flags, 0)?;
                opened.as_fd()
            };
            // The descriptor is what is judged and what is changed.
            let stat = stat_at(fd, c"")?;
            if stat.uid != from || matches!(stat.mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
                return Ok(Done::NotIts);
            }
            if shy && !stat.is_dir() && stat.links > 1 {
                return Ok(Done::Linked);
            }
            fchownat(
                fd,
                c"",
                Some(Uid::from_raw(to.0)),
                Some(Gid::from_raw(to.1)),
                AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
            Ok(Done::Given)
        };
        match give() {
            Ok(Done::Given) => self.sweep.done += 1,
            Ok(Done::Linked) => self.sweep.linked += 1,
            Ok(Done::NotIts) | Err(Errno::ENOENT) => {}
            Err(errno) => self.miss(errno),
        }
    }

    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: Stat, uid: u32, to: (u32, u32), dry: bool) {
        if dry {
            self.sweep.done += 1;
            return;
        }
        let how = if stat.is_dir() { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        match unlinkat(dir, name, how) {
            Ok(()) => self.sweep.done += 1,
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => self.give(dir, name, uid, to, false, false),
            Err(errno) => self.miss(errno),
        }
    }
}

enum Done {
    Given,
    Linked,
    NotIts,
}

/// The names in a directory. Read whole before anything is changed, so that no change moves the place in the list.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let again = nix::fcntl::openat(
        dir,
        c".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let mut listing = Dir::from_fd(again)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
