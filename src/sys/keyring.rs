//! keyctl(2): a session keyring of our own.

use super::{Errno, check};

/// Joins a new anonymous session keyring, so that keys of the pilot's session are out of reach (session-keyring(7)). Returns
/// its serial number.
pub fn join_new_session() -> Result<i32, Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
    .map(|serial| serial as i32)
}

/// The serial number of the session keyring that this process has; none is made.
pub fn session() -> Result<i32, Errno> {
    const KEYCTL_GET_KEYRING_ID: libc::c_int = 0;
    const KEY_SPEC_SESSION_KEYRING: i32 = -3;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) })
        .map(|serial| serial as i32)
}
