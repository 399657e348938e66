//! Processes that an earlier recorder saw: are they still the same?
#![forbid(unsafe_code)]

use super::peer;
use crate::proc::Process;
use crate::sys::pidfd;
use std::os::fd::{AsFd as _, OwnedFd};

/// The process of that number, if it is the one that was made at `ticks` and still runs.
pub fn process(pid: i32, ticks: u64) -> Option<OwnedFd> {
    let fd = pidfd::open(pid).ok()?;
    let stat = Process::open(pid).ok()?.stat(&mut Vec::new()).ok()?;
    // It lives after it was read, so the number meant one process all along.
    (stat.start_ticks == ticks && !pidfd::has_exited(fd.as_fd())).then_some(fd)
}

/// pid and start ticks of the parent of a process that lives.
pub fn parent_of(pid: i32) -> Option<(i32, u64)> {
    let (parent, stat, _) = peer::parent(&Process::open(pid).ok()?, &mut Vec::new()).ok()??;
    Some((parent, stat.start_ticks))
}
