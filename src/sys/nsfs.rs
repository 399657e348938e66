//! Questions to a namespace file: ioctl_nsfs(2). Each needs a descriptor that is known to be one: an ioctl on a file of
//! somebody's FUSE file system waits for that somebody.

use super::{Errno, check};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn related(namespace: BorrowedFd<'_>, request: libc::Ioctl) -> Result<OwnedFd, Errno> {
    // SAFETY: these requests take no argument.
    let fd = check(libc::c_long::from(unsafe { libc::ioctl(namespace.as_raw_fd(), request) }))?;
    // SAFETY: a fresh descriptor, close-on-exec, that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// NS_GET_USERNS (kernel 4.9): the user namespace that owns this one. `EPERM` when it is not below the caller's.
pub fn user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    related(namespace, libc::NS_GET_USERNS)
}

/// NS_GET_PARENT (kernel 4.9) of a pid or user namespace. `EPERM` when the parent is not the caller's own or below it.
pub fn parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    related(namespace, libc::NS_GET_PARENT)
}

/// NS_GET_OWNER_UID (kernel 4.11) of a user namespace: who made it, as the caller's user namespace numbers it.
pub fn owner_uid(namespace: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: `uid` is a uid_t, valid for the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_OWNER_UID, &raw mut uid)
    }))?;
    Ok(uid)
}

/// NS_GET_NSTYPE (kernel 4.11): the `CLONE_NEW…` flag of its kind.
pub fn kind(namespace: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: this request takes no argument.
    let flag = check(libc::c_long::from(unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) }))?;
    Ok(flag as i32)
}

/// NS_GET_PID_IN_PIDNS (kernel 6.11): the number that process `pid` of the caller's pid namespace has in this one. `ESRCH`
/// when it has none there, `ENOTTY` on an older kernel.
pub fn pid_in(namespace: BorrowedFd<'_>, pid: i32) -> Result<i32, Errno> {
    // SAFETY: the argument is the number itself.
    let inside = check(libc::c_long::from(unsafe {
        libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_PID_IN_PIDNS, libc::c_long::from(pid))
    }))?;
    Ok(inside as i32)
}
