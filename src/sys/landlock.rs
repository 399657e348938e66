//! Landlock's three system calls (landlock(7)). The crate of that name allocates for every rule and so may not run in the
//! child; three calls and their constants are less than what would have to be checked of it.

use super::{Errno, check};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rights to files, `LANDLOCK_ACCESS_FS_*` of <linux/landlock.h>.
pub mod access {
    /// Execute a file.
    pub const EXECUTE: u64 = 1 << 0;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// Open or list a directory.
    pub const READ_DIR: u64 = 1 << 3;
    /// Remove a directory.
    pub const REMOVE_DIR: u64 = 1 << 4;
    /// Remove a file.
    pub const REMOVE_FILE: u64 = 1 << 5;
    /// Make a directory.
    pub const MAKE_DIR: u64 = 1 << 7;
    /// Make a regular file.
    pub const MAKE_REG: u64 = 1 << 8;
    /// Make a socket.
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// Make a named pipe.
    pub const MAKE_FIFO: u64 = 1 << 10;
    /// Make a symbolic link.
    pub const MAKE_SYM: u64 = 1 << 12;
    /// Link or rename from one directory to another (ABI 2).
    pub const REFER: u64 = 1 << 13;
    /// Change a file's length (ABI 3).
    pub const TRUNCATE: u64 = 1 << 14;
    /// ioctl(2) on a device that was opened by path (ABI 5).
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// Connect to a socket with a path that a process outside made (ABI 9).
    pub const RESOLVE_UNIX: u64 = 1 << 16;
    /// All of ABI 1, with the two that nobody is given here: making block and character devices.
    pub const ABI_1: u64 = (1 << 13) - 1;
}

/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `LANDLOCK_ACCESS_NET_CONNECT_TCP` (ABI 4).
pub const TCP: u64 = 0b11;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` (ABI 6).
pub const SCOPE_ABSTRACT_SOCKETS: u64 = 1 << 0;
/// `LANDLOCK_SCOPE_SIGNAL` (ABI 6).
pub const SCOPE_SIGNALS: u64 = 1 << 1;

/// What a ruleset takes away, unless a rule gives it back: `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handled {
    /// `access::*`
    pub files: u64,
    /// [`TCP`]
    pub network: u64,
    /// `SCOPE_*`
    pub scopes: u64,
}

impl Handled {
    /// An older kernel takes a larger structure only if what it does not know is zero; the oldest ones were not so kind.
    const fn size(&self) -> usize {
        match self {
            Self { network: 0, scopes: 0, .. } => 8,
            Self { scopes: 0, .. } => 16,
            Self { .. } => 24,
        }
    }
}

/// The kernel's Landlock ABI, from 1 on. `ENOSYS`: not built in; `EOPNOTSUPP`: not enabled at boot.
pub fn abi() -> Result<u32, Errno> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: a null structure of size 0 is what this flag asks for.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Handled>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    })
    .map(|abi| abi as u32)
}

/// landlock_create_ruleset(2). `EINVAL` for a right, `E2BIG` for a field that the kernel does not know.
pub fn create(handled: &Handled) -> Result<OwnedFd, Errno> {
    // SAFETY: `handled` is at least as large as the size given, and outlives the call.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(handled), handled.size(), 0_u32)
    })?;
    // SAFETY: a fresh descriptor (close-on-exec, always) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// landlock_add_rule(2): gives `files` back on the file, or on everything below the directory, that `object` is.
pub fn allow_beneath(ruleset: BorrowedFd<'_>, object: BorrowedFd<'_>, files: u64) -> Result<(), Errno> {
    const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
    #[repr(C, packed)]
    struct PathBeneath {
        allowed: u64,
        parent: i32,
    }
    let rule = PathBeneath { allowed: files, parent: object.as_raw_fd() };
    // SAFETY: `rule` is the structure of that rule type, valid for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    })
    .map(drop)
}

/// landlock_restrict_self(2): from here on it holds for this thread and all that comes of it. Needs no_new_privs. Without
/// flags the kernel's audit log tells only of denials before the next execve: a payload must not be able to fill it.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_as_large_as_what_it_asks_for() {
        assert_eq!(size_of::<Handled>(), 24);
        let handled = |files, network, scopes| Handled { files, network, scopes };
        assert_eq!(handled(access::ABI_1, 0, 0).size(), 8);
        assert_eq!(handled(access::ABI_1, TCP, 0).size(), 16);
        assert_eq!(handled(0, 0, SCOPE_SIGNALS).size(), 24);
    }
}
