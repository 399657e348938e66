//! Process descriptors: pidfd_open(2), pidfd_send_signal(2).

use super::{Errno, check};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// pidfd_open(2). The caller knows that the process is not reaped meanwhile, or checks afterwards.
pub fn open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_send_signal(2). Signal 0 only asks whether the process is there.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a null siginfo makes the kernel fill in what kill(2) would.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Whether the process is gone (a zombie is): a pidfd becomes readable then (pidfd_open(2)). Needs no right over the process.
pub fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Do both descriptors refer to the same process? By inode where pidfds have their own file system (kernel 6.9), else
/// by the pid that `/proc/self/fdinfo` shows for each while both are unreaped. An error counts as no.
pub fn same_process(a: impl AsFd, b: impl AsFd) -> bool {
    const PIDFS_MAGIC: i64 = 0x5049_4446;
    let (a, b) = (a.as_fd(), b.as_fd());
    let (Ok(stat_a), Ok(stat_b)) = (super::fs::stat_at(a, c""), super::fs::stat_at(b, c"")) else {
        return false;
    };
    if (stat_a.dev, stat_a.ino) != (stat_b.dev, stat_b.ino) {
        return false;
    }
    let is_pidfs = nix::sys::statfs::fstatfs(a).is_ok_and(|fs| fs.filesystem_type().0 == PIDFS_MAGIC);
    if is_pidfs {
        return true;
    }
    match (pid_of(a), pid_of(b)) {
        (Some(pid_a), Some(pid_b)) => pid_a > 0 && pid_a == pid_b,
        _ => false,
    }
}

/// The pid that a pidfd refers to, as this process's /proc shows it; -1 once it is reaped.
fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}
