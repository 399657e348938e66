//! One directory of a control group file system, and the small files in it.
#![forbid(unsafe_code)]

use crate::sys::{Errno, fs};
use nix::fcntl::AtFlags;
use nix::sys::statfs::fstatfs;
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};
use std::ffi::{CStr, CString};
use std::fs::{File, TryLockError};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long somebody else may hold a directory's lock: what is done under it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries for a lock that somebody holds.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a directory may be busy after its last process was killed.
const REMOVAL: Duration = Duration::from_secs(2);

/// Whether this process, with its effective ids, may write what is at an absolute path.
pub(super) fn may_write(path: &str) -> Result<(), Errno> {
    faccessat(fs::cwd(), path, AccessFlags::W_OK, AtFlags::AT_EACCESS)
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(File);

impl Dir {
    /// The directory at an absolute path, whatever file system it is on.
    pub(super) fn open(path: &str) -> Result<Self, Errno> {
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        fs::open_at(fs::cwd(), &path, libc::O_RDONLY | libc::O_DIRECTORY, 0).map(File::from).map(Self)
    }

    /// One of the directories in it.
    pub(super) fn below(&self, name: &str) -> Result<Self, Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        fs::open_at(self.fd(), &name, libc::O_RDONLY | libc::O_DIRECTORY, 0).map(File::from).map(Self)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        self.0.try_clone().map(Self).map_err(errno)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The magic number of its file system (statfs(2)).
    pub(super) fn magic(&self) -> i64 {
        fstatfs(&self.0).map_or(0, |fs| fs.filesystem_type().0)
    }

    /// Device and inode. The inode is the kernel's id of the control group.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        fs::stat_at(self.fd(), c"").ok().map(|stat| (stat.dev, stat.ino))
    }

    /// Whether this process, with its effective ids, may write a file in it, or the directory itself (`.`).
    pub(super) fn may_write(&self, name: &CStr) -> Result<(), Errno> {
        faccessat(&self.0, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, name: &CStr) -> bool {
        faccessat(&self.0, name, AccessFlags::F_OK, AtFlags::AT_EACCESS).is_ok()
    }

    /// The whole of a file.
    pub(super) fn read(&self, name: &CStr) -> Result<String, Errno> {
        let file = fs::open_at(self.fd(), name, libc::O_RDONLY, 0)?;
        let mut text = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            match fs::read_some(file.as_fd(), &mut buffer)? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
    }

    /// The number in a file that holds nothing else.
    pub(super) fn number(&self, name: &CStr) -> Option<u64> {
        self.read(name).ok()?.trim().parse().ok()
    }

    /// Writes a value in one piece, as these files want it.
    pub(super) fn write(&self, name: &CStr, value: &str) -> Result<(), Errno> {
        let file = fs::open_at(self.fd(), name, libc::O_WRONLY, 0)?;
        fs::write_all(file.as_fd(), value.as_bytes())
    }

    /// The processes in it, as this process numbers them; 0 is one that it cannot see.
    pub(super) fn processes(&self) -> Result<Vec<i32>, Errno> {
        Ok(self.read(c"cgroup.procs")?.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// The file through which a thread goes in by itself (v1).
    pub(super) fn door(&self) -> Result<OwnedFd, Errno> {
        fs::open_at(self.fd(), c"tasks", libc::O_WRONLY, 0)
    }

    /// Moves a process here.
    pub(super) fn take(&self, pid: i32) -> Result<(), Errno> {
        self.write(c"cgroup.procs", &pid.to_string())
    }

    /// Makes a directory in it and opens that.
    pub(super) fn make(&self, name: &str) -> Result<Self, Errno> {
        let path = CString::new(name).map_err(|_| Errno::EINVAL)?;
        fs::make_dir(self.fd(), &path, 0o755)?;
        self.below(name)
    }

    /// Removes an empty group in it.
    pub(super) fn remove(&self, name: &str) -> Result<(), Errno> {
        unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)
    }

    /// The same with patience for processes that are dead and not yet gone. One that is gone already is no error.
    pub(super) fn remove_soon(&self, name: &str) -> Result<(), Errno> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match self.remove(name) {
                Err(Errno::EBUSY | Errno::EINTR) if start.elapsed() < REMOVAL => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(Errno::ENOENT) => return Ok(()),
                other => return other,
            }
        }
    }

    /// The groups in it.
    pub(super) fn groups(&self) -> Result<Vec<String>, Errno> {
        let own = self.below(".")?; // reading moves the descriptor's place
        let mut dir = nix::dir::Dir::from_fd(own.0.into())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == Some(nix::dir::Type::Directory) && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// Shares the directory with other launchers: nobody takes its structure down meanwhile.
    pub(super) fn share(&self) -> Result<(), Errno> {
        patiently(|| self.0.try_lock_shared())
    }

    /// Has it alone, to change its structure.
    pub(super) fn own(&self) -> Result<(), Errno> {
        patiently(|| self.0.try_lock())
    }

    /// Has it alone if nobody shares it.
    pub(super) fn own_now(&self) -> bool {
        self.0.try_lock().is_ok()
    }

    pub(super) fn let_go(&self) {
        let _ = self.0.unlock(); // closing it does the same
    }
}

fn patiently(take: impl Fn() -> Result<(), TryLockError>) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        match take() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Err(Errno::ETIMEDOUT),
            Err(TryLockError::Error(error)) => return Err(errno(error)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
