//! A file or directory of the host, opened and judged once.
#![forbid(unsafe_code)]

use super::super::explain::no_such_call;
use super::hidden;
use crate::failure::{Failure, errno_text};
use crate::sys::fs::{Stat, stat_at};
use crate::sys::{Errno, fs};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file or directory of the host, opened and judged.
#[derive(Debug)]
pub struct HostObject {
    /// Canonical path, as the kernel gives it for the descriptor.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
    pub(super) fd: OwnedFd,
}

impl HostObject {
    /// Opens `path` (symlinks are followed: the caller means what it points to) and asks the kernel what that really is.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        // As a directory first: only then does the kernel mount what autofs has there, as the child's copy will.
        let open =
            |how: &dyn Fn(libc::c_int) -> Result<OwnedFd, Errno>| match how(libc::O_PATH | libc::O_DIRECTORY)
            {
                Err(Errno::ENOTDIR) => how(libc::O_PATH),
                other => other,
            };
        // A clean path without any symlink is canonical as it stands; that saves asking /proc.
        if is_clean(path) {
            match open(&|flags| fs::open_how(fs::cwd(), &text, flags, 0, fs::Resolve::NoSymlinks)) {
                Ok(fd) => {
                    let stat = stat_at(fd.as_fd(), c"")?;
                    return Ok(Self { path: path.to_path_buf(), stat, fd });
                }
                // Nothing that follows works without it ([`cannot_open`]).
                Err(Errno::ENOSYS) => return Err(Errno::ENOSYS),
                Err(_) => {} // a link is on the way, or it is not there, which is asked once more below
            }
        }
        let fd = open(&|flags| fs::open_following(&text, flags))?;
        let stat = stat_at(fd.as_fd(), c"")?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let canonical = nix::fcntl::readlink(link.as_str())?;
        let path = PathBuf::from(canonical);
        // An unlinked file or directory has " (deleted)" at its end and no name that the child could open.
        if !path.is_absolute() || path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return Err(Errno::ENOENT);
        }
        Ok(Self { path, stat, fd })
    }

    /// What is open, at the path that it was found at.
    pub(crate) fn of(fd: OwnedFd, path: PathBuf) -> Result<Self, Errno> {
        let stat = stat_at(fd.as_fd(), c"")?;
        Ok(Self { path, stat, fd })
    }

    /// The same once more.
    pub(crate) fn again(&self) -> Result<Self, Errno> {
        let fd =
            self.fd.try_clone().map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        Ok(Self { path: self.path.clone(), stat: self.stat, fd })
    }

    /// Why no payload is shown it, where its file system (statfs(2)) or its being the host's root says so.
    pub fn refusal(&self) -> Option<&'static str> {
        if self.path == Path::new("/") {
            return Some("it is the host's own root, with everything that a payload must not see");
        }
        let Ok(fs) = nix::sys::statfs::fstatfs(&self.fd) else {
            return Some("the kernel does not say on which file system it lies (statfs)");
        };
        let magic = fs.filesystem_type().0;
        let found = hidden::HIDDEN.iter().find(|hidden| hidden.magic == magic)?;
        // A single file of sysfs shows what it says.
        (found.name != b"sysfs" || self.stat.is_dir()).then_some(found.why)
    }
}

/// Why [`HostObject::open`] failed; `other` says it where it is not the kernel's fault.
pub(crate) fn cannot_open(what: &str, errno: Errno, other: impl FnOnce() -> Failure) -> Failure {
    match errno {
        Errno::ENOSYS => no_such_call(what, "openat2", (5, 6)),
        Errno::EMFILE | Errno::ENFILE => {
            Failure::site(what, errno_text(errno), "raise the limit on open files (ulimit -n)")
        }
        _ => other(),
    }
}

impl AsFd for HostObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Absolute, without `.`, `..`, `//` and slash at the end.
fn is_clean(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let mut parts = bytes.split(|byte| *byte == b'/');
    parts.next() == Some(b"") && parts.all(|part| !part.is_empty() && part != b"." && part != b"..")
}
