//! Looking at the host's files, where "it is not there" and "it could not be seen" are two answers: what is taken for absent is
//! not covered, not bound and not compared, so an error of the system must never pass for it.
#![forbid(unsafe_code)]

use super::pathmap::PathMap;
use crate::failure::{Failure, errno_text};
use crate::sys::Errno;
use std::cell::RefCell;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether this says that there is nothing of that name, for this account and so for the payload.
pub const fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP | Errno::ENAMETOOLONG)
}

/// What could not be seen ends the launch.
pub(crate) fn unseen(path: &Path, errno: Errno) -> Failure {
    Failure::site(
        format!("cannot look at {}", path.display()),
        errno_text(errno),
        "repair the file system that it lies on; where it is a limit: ulimit -n, ulimit -v",
    )
}

fn seen<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, Failure> {
    match result.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)) {
        Ok(found) => Ok(Some(found)),
        Err(errno) if is_absent(errno) => Ok(None),
        Err(errno) => Err(unseen(path, errno)),
    }
}

/// The path without links.
pub fn canonical(path: &Path) -> Result<Option<PathBuf>, Failure> {
    seen(path, std::fs::canonicalize(path))
}

/// Device and inode of what the path leads to.
pub fn identity(path: &Path) -> Result<Option<(u64, u64)>, Failure> {
    Ok(seen(path, std::fs::metadata(path))?.map(|meta| (meta.dev(), meta.ino())))
}

/// What [`identity`] says, each path asked for once: those that are compared share their first parts.
#[derive(Debug, Default)]
pub struct Identities(RefCell<PathMap<Option<(u64, u64)>>>);

impl Identities {
    /// Device and inode of what the path leads to.
    pub fn of(&self, path: &Path) -> Result<Option<(u64, u64)>, Failure> {
        if let Some(known) = self.0.borrow().get(path) {
            return Ok(*known);
        }
        let found = identity(path)?;
        self.0.borrow_mut().insert(path, found);
        Ok(found)
    }
}

/// Whether there is something of that name, be it a link that leads nowhere.
pub fn is_there(path: &Path) -> Result<bool, Failure> {
    Ok(seen(path, path.symlink_metadata())?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_not_unseen() {
        for nothing in ["/nowhere", "/dev/null/x", "/proc/self/mem/x"] {
            assert_eq!(canonical(Path::new(nothing)), Ok(None), "{nothing}");
            assert_eq!(identity(Path::new(nothing)), Ok(None), "{nothing}");
        }
        assert!(identity(Path::new("/")).is_ok_and(|found| found.is_some()));
        assert_eq!(is_there(Path::new("/dev/null")), Ok(true));
        let once = Identities::default();
        for _ in 0..2 {
            assert_eq!(once.of(Path::new("/")), identity(Path::new("/")));
            assert_eq!(once.of(Path::new("/nowhere")), Ok(None));
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO, Errno::ENOSYS, Errno::EPERM] {
            let said = seen(Path::new("/x"), Err::<(), _>(errno.into())).unwrap_err().to_string();
            assert!(said.starts_with("cannot look at /x: "), "{said}");
        }
        // What is no errno is no answer either.
        assert!(seen(Path::new("/x"), Err::<(), _>(io::Error::other("?"))).is_err());
    }
}
