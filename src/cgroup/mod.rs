//! What a payload may use of the host.
#![forbid(unsafe_code)]

pub mod limits;
