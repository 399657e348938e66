//! What the kernel counted for a group, read before it is removed.
#![forbid(unsafe_code)]

use super::dir::Dir;
use super::v1::Groups;

/// What a payload used; absent where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// 1 or 2.
    pub version: u8,
    /// Microseconds in user mode.
    pub cpu_user_us: Option<u64>,
    /// Microseconds in the kernel.
    pub cpu_system_us: Option<u64>,
    /// Most bytes at one time, page cache included.
    pub memory_peak: Option<u64>,
    /// Faults that needed the disk.
    pub page_faults_major: Option<u64>,
    /// Bytes from block devices.
    pub io_read: Option<u64>,
    /// Bytes to block devices.
    pub io_write: Option<u64>,
    /// Most tasks at one time, init not counted.
    pub pids_peak: Option<u64>,
    /// Processes killed for memory.
    pub oom_kills: Option<u64>,
    /// How often its own limit was what memory ran out of.
    pub oom: Option<u64>,
    /// How often a new process or thread was refused by its limit.
    pub pids_refused: Option<u64>,
}

/// More than the kernel charges a group for at one time (64 pages of 4 KiB).
const PIECE: u64 = 256 << 10;

/// The number behind a name in a file of `NAME NUMBER` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The sum over all devices of a file of `MAJ:MIN key=N ...` lines. A group that used none has an empty file.
fn devices(text: &str, key: &str) -> u64 {
    text.lines()
        .flat_map(str::split_whitespace)
        .filter_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// cgroup v2: Documentation/admin-guide/cgroup-v2.rst.
pub(super) fn v2(dir: &Dir) -> Usage {
    let cpu = dir.read(c"cpu.stat").unwrap_or_default();
    let events = dir.read(c"memory.events").unwrap_or_default();
    let io = dir.read(c"io.stat").ok();
    Usage {
        version: 2,
        cpu_user_us: field(&cpu, "user_usec"),
        cpu_system_us: field(&cpu, "system_usec"),
        memory_peak: dir.number(c"memory.peak"), // since Linux 5.19
        page_faults_major: dir.read(c"memory.stat").ok().and_then(|text| field(&text, "pgmajfault")),
        io_read: io.as_deref().map(|text| devices(text, "rbytes")),
        io_write: io.as_deref().map(|text| devices(text, "wbytes")),
        pids_peak: dir.number(c"pids.peak").map(|peak| peak.saturating_sub(1)), // since Linux 6.1
        oom_kills: field(&events, "oom_kill"),
        oom: field(&events, "oom"),
        pids_refused: dir.read(c"pids.events").ok().and_then(|text| field(&text, "max")),
    }
}

/// cgroup v1: Documentation/admin-guide/cgroup-v1/.
pub(super) fn v1(groups: &Groups) -> Usage {
    let micros = |name| groups.of("cpuacct").and_then(|dir| dir.number(name)).map(|nanos| nanos / 1000);
    let memory = groups.of("memory");
    let pids = groups.of("pids");
    Usage {
        version: 1,
        cpu_user_us: micros(c"cpuacct.usage_user"),
        cpu_system_us: micros(c"cpuacct.usage_sys"),
        memory_peak: memory.and_then(|dir| dir.number(c"memory.max_usage_in_bytes")),
        page_faults_major: memory.and_then(|dir| field(&dir.read(c"memory.stat").ok()?, "total_pgmajfault")),
        // blkio counts only where the site throttles.
        io_read: None,
        io_write: None,
        pids_peak: pids.and_then(|dir| dir.number(c"pids.peak")).map(|peak| peak.saturating_sub(1)),
        oom_kills: memory.and_then(|dir| field(&dir.read(c"memory.oom_control").ok()?, "oom_kill")),
        // memory.failcnt is not kept by every kernel. What is charged comes in pieces, so the last one may not fit.
        oom: memory.and_then(|dir| {
            let (peak, limit) =
                (dir.number(c"memory.max_usage_in_bytes")?, dir.number(c"memory.limit_in_bytes")?);
            Some(u64::from(peak.saturating_add(PIECE) >= limit))
        }),
        pids_refused: pids.and_then(|dir| field(&dir.read(c"pids.events").ok()?, "max")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let text = "usage_usec 9\nuser_usec 5\nsystem_usec 4\ncore_sched.force_idle_usec 0\n";
        assert_eq!(field(text, "user_usec"), Some(5));
        assert_eq!(field(text, "usec"), None);
        let events = "low 0\nhigh 0\nmax 17\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!((field(events, "oom"), field(events, "oom_kill")), (Some(2), Some(3)));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "oom_kill"), Some(4));
        assert_eq!(field("", "oom"), None);
    }

    #[test]
    fn devices_are_summed() {
        let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=9 dios=0\n7:0 \n";
        assert_eq!((devices(v2, "rbytes"), devices(v2, "wbytes"), devices("", "rbytes")), (4097, 8194, 0));
    }
}
