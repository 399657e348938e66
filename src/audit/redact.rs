//! What of the payload's arguments is recorded.
#![forbid(unsafe_code)]

use std::ffi::OsStr;

use super::record::ArgsInfo;
use crate::config;

/// `process.args` and `grid.args` for one command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Args {
    /// `process.args`.
    pub list: Vec<String>,
    /// `grid.args`.
    pub info: ArgsInfo,
}

/// Turns arguments into what is recorded of them.
pub fn args<S: AsRef<OsStr>>(_arguments: &[S], _mode: config::Args) -> Args {
    Args::default()
}

/// Bytes as text: valid UTF-8 as it is, any other byte as `\xNN`, and a backslash as `\\`, so that it can be undone.
pub fn text(_bytes: &[u8]) -> String {
    String::new()
}
