//! What looks at a payload's group while it runs, for the rules on overuse.
#![forbid(unsafe_code)]

use super::dir::Dir;
use super::v1::Groups;
use super::{v1, v2};
use crate::sys::Errno;
use std::time::Duration;

/// The files that are read again and again.
#[derive(Debug)]
pub struct Gauge {
    cpu: Option<Dir>,
    memory: Option<Dir>,
    processes: Dir,
    limit: Option<Dir>,
    is_v2: bool,
}

impl Gauge {
    pub(super) fn v2(dir: &Dir) -> Option<Self> {
        let same = || dir.try_clone().ok();
        Some(Self { cpu: same(), memory: same(), processes: same()?, limit: same(), is_v2: true })
    }

    pub(super) fn v1(groups: &Groups) -> Option<Self> {
        let of = |controller| groups.of(controller).and_then(|dir| dir.try_clone().ok());
        let processes = groups.any()?.try_clone().ok()?;
        Some(Self { cpu: of("cpuacct"), memory: of("memory"), processes, limit: of("cpu"), is_v2: false })
    }

    /// CPU time used so far, the dead's too.
    pub fn cpu(&self) -> Option<Duration> {
        let dir = self.cpu.as_ref()?;
        if !self.is_v2 {
            return dir.number(c"cpuacct.usage").map(Duration::from_nanos);
        }
        let text = dir.read(c"cpu.stat").ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
            .map(Duration::from_micros)
    }

    /// Bytes now, page cache that nobody else uses left out: the kernel gives that up by itself.
    pub fn memory(&self) -> Option<u64> {
        let dir = self.memory.as_ref()?;
        let (all, cache) = if self.is_v2 {
            (dir.number(c"memory.current")?, "inactive_file ")
        } else {
            (dir.number(c"memory.usage_in_bytes")?, "total_inactive_file ")
        };
        let stat = dir.read(c"memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
        Some(all.saturating_sub(cache.unwrap_or(0)))
    }

    /// Gives everything in it no more than so many thousandths of a core.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn throttle(&self, cpus_milli: u64) -> Result<(), &'static str> {
        let dir = self.limit.as_ref().ok_or("cannot throttle here: the cpu controller is not delegated")?;
        let set = if self.is_v2 {
            dir.write(c"cpu.max", &v2::quota(cpus_milli))
        } else {
            dir.write(c"cpu.cfs_quota_us", &v1::quota(cpus_milli).to_string())
        };
        set.map_err(|errno| match errno {
            Errno::ENOENT => "cannot throttle here: the cpu controller is not delegated",
            _ => "cannot throttle: the kernel refused the limit on CPU time",
        })
    }

    /// Processes now, init not counted.
    pub fn processes(&self) -> Option<u64> {
        Some(self.processes.processes().ok()?.len().saturating_sub(1) as u64)
    }
}
