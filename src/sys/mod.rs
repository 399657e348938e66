//! System calls that no crate wraps the way a launcher needs them. The only unsafe code of the project.
//!
//! 1. A wrapper MUST add the safe flags itself (`O_CLOEXEC`, `NO_MAGICLINKS`...); a risky variant gets the longer name.
//! 2. A wrapper that a child uses between clone and exec MUST NOT allocate, lock or panic.
//! 3. An error is the bare errno; who calls knows what was tried on what, and says it like strace would.
#![allow(unsafe_code)]

pub mod alloc;
pub mod argv;
pub mod clock;
pub mod clone;
pub mod elf;
pub mod fs;
pub mod kernel;
pub mod keyring;
pub mod landlock;
pub mod memory;
pub mod mount;
pub mod nsfs;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod start;
pub mod terminal;

pub use nix::errno::Errno;

/// Turns the return value of a raw system call into a result.
fn check(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}
