//! What the kernel shows about the frozen payload to its launcher: the read-back that the record rests on.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::sys::fs;
use std::os::fd::AsFd;

/// From `/proc/PID/status` and `/proc/PID/stat` (proc_pid_status(5), proc_pid_stat(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb: all must be zero.
    pub capabilities: [u64; 5],
    /// `NoNewPrivs: 1`
    pub no_new_privs: bool,
    /// `Seccomp:` 0, 1 or 2.
    pub seccomp: u32,
    /// How many pid namespaces deep, the reader's own included (number of `NSpid` entries).
    pub pid_depth: usize,
    /// Real uid and gid as the host numbers them.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Start time, clock ticks since boot.
    pub start_ticks: u64,
}

/// Reads what /proc shows; `None` when the host hides other processes (hidepid) or the process is gone.
pub fn payload(pid: i32) -> Option<Observed> {
    let mut observed = parse_status(&read(&format!("/proc/{pid}/status"))?);
    observed.start_ticks = start_ticks(pid)?;
    Some(observed)
}

/// Field 22 of /proc/PID/stat; the name in parentheses may hold anything, so counting starts behind its last one.
pub fn start_ticks(pid: i32) -> Option<u64> {
    read(&format!("/proc/{pid}/stat"))?.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A file of /proc in one read: these files say that they are empty, so that a reader who trusts their size makes eight.
fn read(path: &str) -> Option<String> {
    let path = std::ffi::CString::new(path).ok()?;
    let file = fs::open_at(fs::cwd(), &path, libc::O_RDONLY, 0).ok()?;
    let mut text = vec![0; 8192];
    let length = fs::read_full(file.as_fd(), &mut text).ok()?;
    text.truncate(length);
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn parse_status(text: &str) -> Observed {
    let mut observed = Observed::default();
    let first =
        |value: &str| value.split_ascii_whitespace().next().and_then(|v| v.parse().ok()).unwrap_or(u32::MAX);
    for line in text.lines() {
        // Few of the sixty lines matter, and this is read while the payload waits.
        if !line.starts_with(['U', 'G', 'N', 'C', 'S']) {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let hex = || u64::from_str_radix(value, 16).unwrap_or(u64::MAX);
        let [inheritable, permitted, effective, bounding, ambient] = &mut observed.capabilities;
        match name {
            "Uid" => observed.uid = first(value),
            "Gid" => observed.gid = first(value),
            "NSpid" => observed.pid_depth = value.split_ascii_whitespace().count(),
            "CapInh" => *inheritable = hex(),
            "CapPrm" => *permitted = hex(),
            "CapEff" => *effective = hex(),
            "CapBnd" => *bounding = hex(),
            "CapAmb" => *ambient = hex(),
            "NoNewPrivs" => observed.no_new_privs = value == "1",
            "Seccomp" => observed.seccomp = first(value),
            _ => {}
        }
    }
    observed
}

impl Observed {
    /// Refuses a payload that is less locked in than every payload must be.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = if self.capabilities.iter().any(|set| *set != 0) {
            let held = self.capabilities.iter().fold(0, |all, set| all | set);
            format!("the kernel shows capabilities: {}", capability_names(held).join(", "))
        } else if !self.no_new_privs {
            "the kernel shows no no_new_privs".to_owned()
        } else if self.pid_depth < 2 {
            "the kernel shows no pid namespace of its own".to_owned()
        } else {
            return Ok(());
        };
        Err(Failure::site(
            "the walls do not hold",
            wrong,
            "report this with the kernel's version; nothing has run",
        ))
    }
}

/// The names of the capabilities in a set, such as `CAP_SYS_ADMIN`; numbers that this build does not know as numbers.
pub fn capability_names(set: u64) -> Vec<String> {
    if set == 0 {
        return Vec::new();
    }
    let mut known: Vec<caps::Capability> = caps::all().into_iter().collect();
    known.sort_unstable_by_key(caps::Capability::index);
    let mut names: Vec<String> =
        known.iter().filter(|one| set & one.bitmask() != 0).map(ToString::to_string).collect();
    let rest = known.iter().fold(set, |rest, one| rest & !one.bitmask());
    names.extend((0..64).filter(|bit| rest & (1 << bit) != 0).map(|bit| format!("capability {bit}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nNSpid:\t4711\t2\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n";

    #[test]
    fn a_locked_in_payload_passes() {
        let observed = parse_status(STATUS);
        assert_eq!((observed.uid, observed.gid, observed.pid_depth), (1000, 100, 2));
        assert!(observed.check().is_ok());
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capability_names(1 | 1 << 21 | 1 << 62), ["CAP_CHOWN", "CAP_SYS_ADMIN", "capability 62"]);
        assert!(capability_names(0).is_empty());
    }

    #[test]
    fn anything_less_is_refused() {
        for (from, to) in [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001"),
            ("CapEff:\t0000000000000000", "CapEff:\tgarbage"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("NSpid:\t4711\t2", "NSpid:\t4711"),
        ] {
            assert!(parse_status(&STATUS.replace(from, to)).check().is_err(), "{to}");
        }
    }
}
