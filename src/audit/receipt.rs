//! The proof that a launch record is durable: "no record, no run" as a type.
//!
//! 1. Only this room can make a [`Receipt`], and only after fdatasync returned for the record's line.
//! 2. There is one receipt per record: it cannot be cloned, made by default or read back from text.
//! 3. It holds the payload's pidfd, so it releases the payload that was recorded and no other.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::chain::{Hash, hex};
use crate::request::LaunchId;

/// A durable launch record, exchanged for the payload's release.
#[derive(Debug)]
#[must_use = "the payload stays frozen until its receipt is handed to the release"]
pub struct Receipt {
    launch: LaunchId,
    seq: u64,
    hash: Hash,
    pidfd: OwnedFd,
}

/// A durable record of a check. It is another type than [`Receipt`], names no payload, and so releases none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReceipt {
    /// `chain.seq` of the record.
    pub seq: u64,
    /// SHA-256 of the record's line, 64 lowercase hex digits.
    pub hash: String,
}

impl Receipt {
    /// MUST be called only after fdatasync returned success for the line at `seq`.
    pub(super) fn mint(launch: LaunchId, seq: u64, hash: Hash, pidfd: OwnedFd) -> Self {
        Self { launch, seq, hash, pidfd }
    }

    /// The launch that was recorded.
    pub fn launch(&self) -> LaunchId {
        self.launch
    }

    /// `chain.seq` of the record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// SHA-256 of the record's line, 64 lowercase hex digits.
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }

    /// The payload.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives the pidfd to whoever supervises the payload from now on.
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }
}
