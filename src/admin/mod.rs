//! The administrator's commands: what a payload's start does not need.
#![forbid(unsafe_code)]

pub mod cli;
pub mod verify;
