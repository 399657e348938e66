//! Questions to the kernel whether it has a facility, that change nothing.

use super::{Errno, check};

/// The newest version of Landlock's interface that the kernel has (landlock_create_ruleset(2)).
///
/// # Errors
/// `ENOSYS`: it was built without; `EOPNOTSUPP`: it was switched off at boot.
pub fn landlock_version() -> Result<u32, Errno> {
    const VERSION: libc::c_ulong = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel takes no pointer, wants a size of 0, and only answers.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    check(version).map(|version| version as u32)
}

/// Whether a seccomp filter may answer with an errno (seccomp(2), `SECCOMP_GET_ACTION_AVAIL`).
///
/// # Errors
/// `ENOSYS` or `EINVAL`: the kernel has no filters; whatever an outer filter says to the question.
pub fn seccomp_filters() -> Result<(), Errno> {
    const GET_ACTION_AVAIL: libc::c_ulong = 2;
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one u32 behind the pointer.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0_u64, &raw const action) };
    check(answer).map(drop)
}

/// Makes one namespace of a kind beside a new user namespace, in a child that ends at once.
///
/// # Errors
/// What clone3(2) says.
pub fn namespace(kind: libc::c_int) -> Result<(), Errno> {
    match super::clone::clone_into(libc::CLONE_NEWUSER | kind, None)? {
        super::clone::Side::Child => super::process::exit_now(0),
        super::clone::Side::Parent { pid, pidfd: _held } => super::process::wait_with_usage(pid).map(drop),
    }
}
