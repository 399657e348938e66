//! The C entry point, in place of Rust's: glibc calls `main` directly.
//!
//! Rust's own start reads `/proc/self/maps`, makes a signal stack and more, which costs every launch 30 µs for a diagnosis of
//! stack overflows. What matters of it is done here: the three standard descriptors are open, and SIGPIPE kills nobody.

use super::{Errno, check};
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Defines `main` of a launcher: `bailey::sys::entry_point!(function)`, where `fn function() -> u8` gives the exit code.
#[macro_export]
macro_rules! entry_point {
    ($function:path) => {
        /// Called by the C library.
        // SAFETY: the one `main` of the program, with the type that the C library calls (ISO C 5.1.2.2.1). Unwinding cannot
        // cross it: release builds abort on panic, and Rust aborts at an `extern "C"` boundary.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn main(_argc: i32, _argv: *const *const i8) -> i32 {
            match $crate::sys::start::prepare() {
                Ok(()) => i32::from($function()),
                Err(_) => 125,
            }
        }
    };
}

/// Opens /dev/null for a standard descriptor that the caller closed, so that no file of ours is taken for it, and ignores
/// SIGPIPE. Without /dev/null there is nobody to tell.
pub fn prepare() -> Result<(), Errno> {
    for fd in 0..=2 {
        // SAFETY: only asks for the descriptor's flags.
        let open = check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_GETFD) }));
        if open == Err(Errno::EBADF) {
            // SAFETY: NUL-terminated path. The lowest free number is `fd`, as all below it are open by now.
            check(libc::c_long::from(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }))?;
        }
    }
    // The thread that runs here is the process's own.
    super::alloc::keep_here_with_arena();
    // SAFETY: ignoring a signal installs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Ok(())
}

/// The socket that systemd made for this service (sd_listen_fds(3)), close-on-exec and without waiting; `None` when it was
/// started otherwise. MUST be called once, before other threads run.
pub fn listen_fd() -> Option<OwnedFd> {
    let fd = sd_notify::listen_fds().ok()?.next()?;
    // SAFETY: the service manager opened it for this process, as LISTEN_PID says, and nothing else here owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).ok()?;
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}
