//! clone3(2): the launcher's child in its namespaces, and init's start of the payload.

use super::{Errno, check};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of the clone this is.
#[must_use]
pub enum Side {
    /// The parent, with the child's pid as the parent sees it and a pidfd.
    Parent {
        /// The child's process id.
        pid: i32,
        /// Refers to the child and to nothing else, ever.
        pidfd: OwnedFd,
    },
    /// The child: a copy of the parent's memory, alone.
    Child,
}

/// `struct clone_args` of <linux/sched.h>, the 88-byte version (kernel 5.7). An older kernel takes it as long as what it does not
/// know is zero.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_CLEAR_SIGHAND` of <linux/sched.h>; the libc crate's constant is an int, into which it does not fit.
const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP`, likewise.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks into new namespaces: `namespaces` is a set of `CLONE_NEW*`; and into a control group (v2), if there is one. Adds `CLONE_PIDFD` and `CLONE_CLEAR_SIGHAND`.
///
/// # Errors
/// `EINVAL` when the process has threads (checked first: a copy of a threaded process may hold locks that nobody frees),
/// else what clone3 says: `EACCES` and `EBUSY` for the control group, `ENOSPC` and `EUSERS` for a namespace limit, `EPERM` where user namespaces are forbidden.
pub fn clone_into(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    // unshare(2): CLONE_THREAD is accepted only from a single-threaded caller, on whom it has no effect.
    // SAFETY: no pointers; no effect but the check.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_THREAD) })?;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces as u64
            | libc::CLONE_PIDFD as u64
            | CLEAR_SIGHAND
            | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM the child gets its own copy of the whole
    // address space, so both sides may go on as after fork(2). The caller is single-threaded (checked above).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel wrote a fresh descriptor, which nothing else owns, to `pidfd` before it returned.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent { pid: pid as i32, pidfd })
}

/// Stack of the payload's process until its execve: it runs our code in init's memory, but not on init's stack.
pub struct Stack(Box<[MaybeUninit<u8>]>);

impl Stack {
    /// Enough for a few system calls and buffers of a page or two. Pages that are never touched cost nothing.
    pub fn new() -> Self {
        // Not zeroed: that would touch them all (50 µs).
        Self(Box::new_uninit_slice(64 << 10))
    }

    /// Where it begins: one past its last byte, as far down as the ABI wants it aligned.
    fn top(&mut self) -> *mut u8 {
        let length = self.0.len();
        // SAFETY: the end of the boxed slice is one past its last byte, and rounding down keeps it inside.
        unsafe {
            let end = self.0.as_mut_ptr().add(length).cast::<u8>();
            end.sub(end as usize % 16)
        }
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

/// init's start of the payload's process, as posix_spawn(3) does it: the new process shares init's memory, so that no page
/// table is copied and none torn down again at the execve (a twentieth of a whole launch), and the kernel holds init until
/// the new process has executed or ended. `main` is what the new process runs; it does
/// not return. Returns the pid.
pub fn spawn_sharing_memory<F: Fn()>(stack: &mut Stack, main: &F) -> Result<i32, Errno> {
    extern "C" fn run<F: Fn()>(main: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `main` is the reference that was passed to clone below; the caller's frame, in which it lives, stands still
        // until this process has gone its own way (CLONE_VFORK).
        let main = unsafe { &*main.cast::<F>() };
        main();
        libc::EXIT_FAILURE
    }
    // SAFETY: the stack belongs to the new process alone: init does not touch it, and is suspended anyway until that process has left this memory by
    // execve or _exit (clone(2), CLONE_VM with CLONE_VFORK). Without CLONE_FILES, CLONE_FS and CLONE_SIGHAND everything else
    // is its own copy. The kernel wakes init early only to die by SIGKILL, which ends the whole pid namespace.
    let pid = unsafe {
        libc::clone(
            run::<F>,
            stack.top().cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            std::ptr::from_ref(main).cast_mut().cast(),
        )
    };
    check(libc::c_long::from(pid)).map(|pid| pid as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_begins_aligned_and_inside() {
        let mut stack = Stack::new();
        let top = stack.top();
        assert_eq!(top as usize % 16, 0);
        let base = stack.0.as_ptr() as usize;
        assert!((base + (64 << 10) - 16..=base + (64 << 10)).contains(&(top as usize)));
        let top = stack.top();
        // SAFETY: a new process writes below the top; so does this, and it is inside the slice.
        unsafe { top.sub(16).write_bytes(0xff, 16) };
        let last = top as usize - 16 - base;
        // SAFETY: it was just written.
        assert_eq!(unsafe { stack.0[last].assume_init() }, 0xff);
    }
}
