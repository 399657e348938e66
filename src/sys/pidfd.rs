//! Process descriptors: pidfd_open(2), pidfd_send_signal(2), ioctl_pidfd(2).

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

/// The pid that a pidfd refers to, as this process's /proc shows it: -1 once it is reaped, 0 when it has no number in this
/// process's pid namespace. Only for descriptors that are known to be pidfds.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// Does every one of these processes still run? A pidfd becomes readable when its process ends, before it is reaped.
pub fn all_live<const N: usize>(pidfds: [BorrowedFd<'_>; N]) -> bool {
    let mut polls = pidfds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: `polls` has N elements, valid for the call, which does not wait.
        let result =
            check(libc::c_long::from(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, 0) }));
        match result {
            Ok(ready) => return ready == 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Does the pidfd refer to one thread (`PIDFD_THREAD`, kernel 6.9) and not to a process?
pub fn is_of_a_thread(pidfd: BorrowedFd<'_>) -> bool {
    // SAFETY: no pointers.
    let flags = check(libc::c_long::from(unsafe { libc::fcntl(pidfd.as_raw_fd(), libc::F_GETFL) }));
    flags.is_ok_and(|flags| flags as libc::c_int & libc::O_EXCL != 0)
}

/// `struct pidfd_info` of <linux/pidfd.h> in its first size, which later kernels keep accepting.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const INFO_PID: u64 = 1;
const INFO_CGROUP: u64 = 1 << 2;
const INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, struct pidfd_info)` with the 64 bytes of [`RawInfo`].
const GET_INFO: libc::Ioctl = 3 << 30 | (size_of::<RawInfo>() as libc::Ioctl) << 16 | 0xff << 8 | 0x0b;

/// What PIDFD_GET_INFO tells (kernel 6.13), in this process's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Thread.
    pub pid: i32,
    /// Process.
    pub tgid: i32,
    /// Its parent; 0 when that has no number here.
    pub ppid: i32,
    /// The version 2 control group's id, its inode number.
    pub cgroup_id: Option<u64>,
}

fn get_raw(pidfd: BorrowedFd<'_>, mask: u64) -> Result<RawInfo, Errno> {
    let mut raw = RawInfo { mask, ..RawInfo::default() };
    // SAFETY: the request carries the size of RawInfo, and the kernel writes no more than that.
    check(libc::c_long::from(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut raw) }))?;
    Ok(raw)
}

/// PIDFD_GET_INFO of a process that lives. `ENOTTY` or `EINVAL` where the kernel has no such thing, `ESRCH` when the process
/// is gone or in a pid namespace out of sight.
pub fn get_info(pidfd: BorrowedFd<'_>) -> Result<Info, Errno> {
    let raw = get_raw(pidfd, INFO_PID | INFO_CGROUP)?;
    if raw.mask & INFO_PID == 0 {
        return Err(Errno::ESRCH);
    }
    Ok(Info {
        pid: raw.pid as i32,
        tgid: raw.tgid as i32,
        ppid: raw.ppid as i32,
        cgroup_id: Some(raw.cgroup_id).filter(|_| raw.mask & INFO_CGROUP != 0),
    })
}

/// The wait status of a process that was reaped (PIDFD_INFO_EXIT, kernel 6.15), whoever reaped it. `None` before that, and
/// where the kernel does not tell.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let raw = get_raw(pidfd, INFO_EXIT).ok()?;
    Some(raw.exit_code).filter(|_| raw.mask & INFO_EXIT != 0)
}
