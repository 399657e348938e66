//! What a payload may use of the host.
#![forbid(unsafe_code)]

use super::cpuset::CpuSet;

/// What a payload may use of the host; `None`: no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpus_milli: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The cores that it runs on.
    pub cpuset: Option<CpuSet>,
}
