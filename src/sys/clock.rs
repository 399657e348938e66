//! adjtimex(2): does the kernel's clock follow a source?

use super::check;

/// `Some(true)` when the kernel does not say STA_UNSYNC; `None` when it does not tell.
pub fn is_synchronized() -> Option<bool> {
    // SAFETY: an all-zero timex asks for nothing to be changed (modes = 0) and is valid for the call.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::adjtimex(&raw mut timex) })).ok()?;
    Some(timex.status & libc::STA_UNSYNC == 0)
}
