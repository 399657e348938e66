//! All 64 signals, blocked and read from a descriptor. The C library's own wrappers leave out two (32 and 33, which its
//! threads use), and a signal that is not blocked ends a launcher without a word.

use super::{Errno, check};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signalfd(2) of every signal, which are blocked from its making on.
#[derive(Debug)]
pub struct AllSignals(OwnedFd);

/// One signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// The sender's pid; 0 for the kernel and for senders outside this pid namespace.
    pub sender: u32,
}

impl AllSignals {
    /// rt_sigprocmask(2) of all signals, then signalfd4(2), close-on-exec and without waiting.
    pub fn block() -> Result<Self, Errno> {
        let all = u64::MAX;
        // SAFETY: an 8-byte signal set, valid for the call. (The kernel leaves out SIGKILL and SIGSTOP itself.)
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const all,
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        })?;
        // SAFETY: as above; -1 asks for a new descriptor.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_signalfd4,
                -1,
                &raw const all,
                size_of::<u64>(),
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            )
        })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// The next signal, if one is there.
    pub fn next(&self) -> Option<Arrived> {
        // SAFETY: an all-zero signalfd_siginfo is valid.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: pointer and length are the struct's own.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        (got == size as isize).then_some(Arrived { signal: info.ssi_signo as i32, sender: info.ssi_pid })
    }
}

impl AsFd for AllSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
