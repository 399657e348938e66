//! The administrator's commands: none of them is needed to start a payload.
#![forbid(unsafe_code)]

pub mod ask;
mod ask_log;
mod ban;
mod check;
mod clean;
pub mod cli;
pub mod config;
pub mod live;
mod policy;
pub(crate) mod report;
mod resolve;
pub mod verify;
mod who;
