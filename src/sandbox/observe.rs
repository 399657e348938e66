//! What the kernel shows about the frozen payload to its launcher: the read-back that the record rests on.
#![forbid(unsafe_code)]

use super::protocol::Ready;
use crate::failure::Failure;
use crate::proc;

/// `SECCOMP_MODE_FILTER`
const FILTERED: u32 = 2;

/// From `/proc/PID/status` and `/proc/PID/stat` ([`proc`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb: all must be zero.
    pub capabilities: [u64; 5],
    /// `NoNewPrivs: 1`
    pub no_new_privs: bool,
    /// `Seccomp:` 0, 1 or 2.
    pub seccomp: u32,
    /// `Seccomp_filters:`, where the kernel tells.
    pub seccomp_filters: Option<u32>,
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
    let (status, stat) = proc::look(pid)?;
    Some(Observed::of(&status, stat.start_ticks))
}

impl Observed {
    fn of(status: &proc::Status, start_ticks: u64) -> Self {
        let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
        Self {
            capabilities: status.capabilities,
            no_new_privs: status.no_new_privs,
            seccomp: status.seccomp,
            seccomp_filters: status.seccomp_filters,
            pid_depth: status.pids.len(),
            uid,
            gid,
            start_ticks,
        }
    }

    /// Refuses a payload that is less locked in than every payload must be, or than it says.
    pub fn check(&self, ready: &Ready) -> Result<(), Failure> {
        let wrong = if let Some(wrong) = proc::not_locked_in(&self.capabilities, self.no_new_privs) {
            wrong
        } else if self.pid_depth < 2 {
            "the kernel shows no pid namespace of its own".to_owned()
        } else if ready.seccomp == 0 && (self.seccomp != FILTERED || self.seccomp_filters == Some(0)) {
            "the payload says that it has a filter of system calls, and the kernel shows none".to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nNSpid:\t4711\t2\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    fn observed(text: &str) -> Observed {
        Observed::of(&proc::Status::parse(text.as_bytes()), 1)
    }

    #[test]
    fn a_locked_in_payload_passes() {
        let observed = observed(STATUS);
        assert_eq!((observed.uid, observed.gid, observed.pid_depth), (1000, 100, 2));
        assert!(observed.check(&Ready::default()).is_ok());
    }

    #[test]
    fn anything_less_is_refused() {
        for (from, to) in [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001"),
            ("CapEff:\t0000000000000000", "CapEff:\tgarbage"),
            ("CapAmb:\t0000000000000000\n", ""),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("NoNewPrivs:\t1\n", ""),
            ("NSpid:\t4711\t2", "NSpid:\t4711"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp:\t2", "Seccomp:\t1"),
            ("Seccomp_filters:\t1", "Seccomp_filters:\t0"),
        ] {
            assert!(observed(&STATUS.replace(from, to)).check(&Ready::default()).is_err(), "{to}");
        }
        let without = Ready { seccomp: -1, ..Ready::default() };
        assert!(observed(&STATUS.replace("Seccomp:\t2", "Seccomp:\t0")).check(&without).is_ok());
    }
}
