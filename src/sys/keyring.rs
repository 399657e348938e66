//! keyctl(2): a session keyring of our own.

use super::{Errno, check};

/// Joins a new anonymous session keyring, so that keys of the pilot's session are out of reach (session-keyring(7)).
pub fn join_new_session() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
    .map(drop)
}
