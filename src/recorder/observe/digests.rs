//! Threads that touch what a peer handed over: the digest of its program, and closing.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
