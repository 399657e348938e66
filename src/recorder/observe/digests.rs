//! Threads that touch what a peer handed over: the digest of its program, and closing.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use nix::sys::eventfd::EventFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A program.
#[derive(Debug, Clone)]
pub struct Program {
    /// Path.
    pub path: String,
    /// Digest.
    pub sha256: [u8; 32],
}

/// Threads.
#[derive(Debug)]
pub struct Digests(EventFd);

impl Digests {
    /// None yet.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self(EventFd::new().map_err(|e| Failure::site("x", e.to_string(), "y"))?))
    }
    /// x
    pub fn submit(&mut self, _uid: u32, _token: u64, _fd: OwnedFd) -> bool {
        false
    }
    /// x
    pub fn discard(&mut self, _uid: u32, _fds: Vec<OwnedFd>) {}
    /// x
    pub fn results(&mut self) -> Vec<(u64, Result<Program, String>)> {
        Vec::new()
    }
}

impl AsFd for Digests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
