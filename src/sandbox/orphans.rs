//! Ending a payload that has no pid namespace of its own (`--no-pid`), of which no one call says who belongs to it.
//!
//! Init is a subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): whoever below it loses its parent becomes its child, so that
//! who kills its children until there are none has killed everything. The launcher is one as well, for what init leaves when it is
//! killed itself. What survives: a payload that kills both at one moment, where Landlock does not keep it from that.
//!
//! 1. Nothing here may allocate: init calls it.
//! 2. Only children that were not waited for are signalled, and groups of theirs in another session than the caller's: a number
//!    is not another's meanwhile, and groups never span sessions, of which the payload began its own.
#![forbid(unsafe_code)]

use crate::sys::process::{self, Reaped};
use crate::sys::signal::AllSignals;
use crate::sys::{fs, socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd};

/// The children of the calling thread (`CONFIG_PROC_CHILDREN`). Init is one thread; orphans become the first one's.
const CHILDREN: &CStr = c"/proc/thread-self/children";
/// The same, for whoever asks whether this kernel tells.
pub const TOLD_BY: &str = "/proc/thread-self/children";

/// Kills and reaps every child of this process, and those that become so by that, until there are none. Their groups go first: a
/// fork bomb is one, and all of it gets its signal before the next of it is made.
pub(super) fn end() {
    loop {
        kill_children();
        loop {
            match process::reap_ended() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return, // ECHILD: there are none
            }
        }
        process::pause_ms(1);
    }
}

fn kill_children() {
    let Ok(list) = fs::open_at(fs::cwd(), CHILDREN, libc::O_RDONLY, 0) else { return };
    // Who does not fit comes in the next round.
    let mut text = [0_u8; 4096];
    let Ok(length) = fs::read_full(list.as_fd(), &mut text) else { return };
    each_number(text.get(..length).unwrap_or_default(), process::kill_child);
}

/// Numbers, each with a blank behind it; one without was cut off.
fn each_number(text: &[u8], mut act: impl FnMut(i32)) {
    let mut number = 0_i32;
    for byte in text {
        match byte {
            b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
            _ if number > 1 => {
                act(number);
                number = 0;
            }
            _ => number = 0,
        }
    }
}

/// init's wait without a pid namespace: reaps until the payload ended, and returns its wait status; `None` when the launcher is gone.
/// From here on no signal but SIGKILL and SIGSTOP ends or stops this process, which no pid namespace protects.
pub(super) fn wait(payload: i32, control: BorrowedFd<'_>) -> Option<i32> {
    let signals = AllSignals::block().ok()?;
    loop {
        // First of all, because a child that ended before its signal was blocked sent none that counts.
        loop {
            match process::reap_ended() {
                Ok(Some(Reaped { pid, status })) if pid == payload => return Some(status),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return None,
            }
        }
        if socket::peer_is_gone(control) {
            return None;
        }
        let mut fds = [signals.as_fd(), control].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE);
        while signals.next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_half_ones_left() {
        let mut seen = Vec::new();
        each_number(b"12 4711 1 0 99", |pid| seen.push(pid));
        assert_eq!(seen, [12, 4711]);
        each_number(b"", |_| panic!("nothing is there"));
    }
}
