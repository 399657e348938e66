//! The node's recorder (`bailey-recorder`): an unprivileged service whose log no pilot can change.
//!
//! Filled in by the commits that follow.
#![forbid(unsafe_code)]

pub mod log;
pub mod observe;
