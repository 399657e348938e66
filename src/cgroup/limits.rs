//! The limits on one payload, as numbers.
#![forbid(unsafe_code)]

/// What a payload may use of the host; `None`: no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// bytes
    pub memory: Option<u64>,
    /// thousandths of a core
    pub cpus_milli: Option<u64>,
    /// processes and threads
    pub pids: Option<u64>,
}
