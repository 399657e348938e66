//! The read-back that the record rests on: what the frozen payload read of itself ([`Expected`]), and what the kernel shows of
//! it to its launcher ([`Observed`]). Whatever is less than it was to be ends the launch, and the message names the wall.
#![forbid(unsafe_code)]

use super::landlock::{OFF_BY_SITE, Parts};
use super::protocol::Ready;
use crate::config::Demand;
use crate::failure::Failure;
use crate::proc;
use crate::sys::process::{self, Ceiling};

/// What the payload must report to be let go.
#[derive(Debug)]
pub struct Expected {
    /// umask
    pub umask: u32,
    /// Session keyring.
    pub keyring: Demand,
    /// Landlock: how much the site insists, and on which parts.
    pub landlock: (Demand, Parts),
    /// Limits that were lowered.
    pub ceilings: Vec<Ceiling>,
    /// uid and gid inside.
    pub ids: (u32, u32),
    /// The same as this process's namespace numbers them.
    pub outside: (u32, u32),
    /// The least oom_score_adj; 0: any.
    pub oom_score_adj: i32,
    /// A pid namespace.
    pub own_pids: bool,
    /// A proc of its own.
    pub proc: Demand,
}

impl Expected {
    /// Refuses a payload that reports less.
    pub fn compare(&self, ready: &Ready) -> Result<(), Failure> {
        match self.wrong(ready) {
            Some(wrong) => Err(do_not_hold(wrong)),
            None => Ok(()),
        }
    }

    /// What became of Landlock, in words.
    pub fn landlock(&self, ready: &Ready) -> String {
        match self.landlock {
            (Demand::Off, _) => OFF_BY_SITE.to_owned(),
            (_, wanted) => ready.landlock.words(wanted),
        }
    }

    fn wrong(&self, ready: &Ready) -> Option<String> {
        let held = &ready.held;
        let (demand, wanted) = self.landlock;
        if let Some(wrong) = proc::not_locked_in(&[held.capabilities; 5], held.no_new_privs) {
            return Some(wrong);
        }
        let checks = [
            (ready.securebits == process::SECUREBITS as u32, "the securebits are not set and locked"),
            (held.dumpable == 0, "its process is not undumpable"),
            (held.session == ready.vpid, "it is in another process's session"),
            (held.umask == self.umask, "the umask is not the configured one"),
            (held.blocked == 0, "signals are blocked"),
            (held.personality == 0, "the personality is not Linux's own"),
            (
                self.keyring == Demand::Off
                    || (ready.keyring == 0 && held.joined > 0 && held.keyring == held.joined)
                    || (ready.keyring != 0 && self.keyring == Demand::Preferred),
                "the session keyring is not a new one",
            ),
            (held.ids == self.ids, "it does not have the ids that were mapped for it"),
            (held.closes, "descriptors of the launcher would stay open in it"),
            (
                self.oom_score_adj <= 0 || held.oom_score_adj >= self.oom_score_adj,
                "its oom_score_adj is below the configured one",
            ),
            (ready.proc == 0 || self.proc != Demand::Required, "it has not a proc of its own"),
            (held.landlock, "the Landlock domain does not forbid what it was made to forbid"),
        ];
        if let Some((_, wrong)) = checks.iter().find(|(holds, _)| !holds) {
            return Some((*wrong).to_owned());
        }
        if let Some((_, ceiling)) =
            self.ceilings.iter().enumerate().find(|(bit, _)| held.above & (1 << bit) != 0)
        {
            return Some(format!("the limit {} is above {}", limit_name(ceiling.resource), ceiling.most));
        }
        if demand == Demand::Required && ready.landlock.parts != wanted {
            return Some(format!("Landlock is required, and is {}", ready.landlock.words(wanted)));
        }
        None
    }
}

/// The kernel's name of a limit (setrlimit(2)).
pub const fn limit_name(resource: libc::c_int) -> &'static str {
    // The crate's constants are of another type with each C library.
    const CORE: libc::c_int = libc::RLIMIT_CORE as libc::c_int;
    const NICE: libc::c_int = libc::RLIMIT_NICE as libc::c_int;
    const REAL_TIME: libc::c_int = libc::RLIMIT_RTPRIO as libc::c_int;
    const FILES: libc::c_int = libc::RLIMIT_NOFILE as libc::c_int;
    const PROCESSES: libc::c_int = libc::RLIMIT_NPROC as libc::c_int;
    const FILE_SIZE: libc::c_int = libc::RLIMIT_FSIZE as libc::c_int;
    const CPU: libc::c_int = libc::RLIMIT_CPU as libc::c_int;
    const MEMORY: libc::c_int = libc::RLIMIT_AS as libc::c_int;
    const DATA: libc::c_int = libc::RLIMIT_DATA as libc::c_int;
    match resource {
        CORE => "RLIMIT_CORE",
        NICE => "RLIMIT_NICE",
        REAL_TIME => "RLIMIT_RTPRIO",
        FILES => "RLIMIT_NOFILE",
        PROCESSES => "RLIMIT_NPROC",
        FILE_SIZE => "RLIMIT_FSIZE",
        CPU => "RLIMIT_CPU",
        MEMORY => "RLIMIT_AS",
        DATA => "RLIMIT_DATA",
        _ => "RLIMIT_?",
    }
}

fn do_not_hold(wrong: String) -> Failure {
    Failure::site("the walls do not hold", wrong, "report this with the kernel's version; nothing has run")
}

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
    /// SigBlk and SigIgn: both must be zero.
    pub signals: [u64; 2],
    /// Scheduling policy and nice value.
    pub scheduling: (i32, i32),
}

/// Reads what /proc shows; `None` when the host hides other processes (hidepid) or the process is gone.
pub fn payload(pid: i32) -> Option<Observed> {
    let (status, stat) = proc::look(pid)?;
    Some(Observed::of(&status, &stat))
}

impl Observed {
    fn of(status: &proc::Status, stat: &proc::Stat) -> Self {
        let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
        Self {
            capabilities: status.capabilities,
            no_new_privs: status.no_new_privs,
            seccomp: status.seccomp,
            seccomp_filters: status.seccomp_filters,
            pid_depth: status.pids.len(),
            uid,
            gid,
            start_ticks: stat.start_ticks,
            signals: status.signals,
            scheduling: (stat.policy, stat.nice),
        }
    }

    /// Refuses a payload that has another account than it was to have: so its maps are what they were to be, too.
    pub fn check_account(&self, outside: (u32, u32)) -> Result<(), Failure> {
        if (self.uid, self.gid) == outside {
            return Ok(());
        }
        Err(do_not_hold(format!(
            "the kernel shows it with uid {} and gid {}, and it was to have {} and {}",
            self.uid, self.gid, outside.0, outside.1
        )))
    }

    /// Refuses a payload that is less locked in than every payload must be, or than it says.
    pub fn check(&self, ready: &Ready, own_pids: bool) -> Result<(), Failure> {
        let wrong = if let Some(wrong) = proc::not_locked_in(&self.capabilities, self.no_new_privs) {
            wrong
        } else if own_pids && self.pid_depth < 2 {
            "the kernel shows no pid namespace of its own".to_owned()
        } else if ready.seccomp == 0 && (self.seccomp != FILTERED || self.seccomp_filters == Some(0)) {
            "the payload says that it has a filter of system calls, and the kernel shows none".to_owned()
        } else if self.signals != [0, 0] {
            let [blocked, ignored] = self.signals;
            format!("the kernel shows blocked or ignored signals ({blocked:x}, {ignored:x})")
        } else if process::is_real_time(self.scheduling.0) {
            format!("the kernel shows the real-time policy {}", self.scheduling.0)
        } else {
            return Ok(());
        };
        Err(do_not_hold(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::super::landlock::Granted;
    use super::super::protocol::Held;
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nNSpid:\t4711\t2\n\
        SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    const STAT: &str = "4711 (x) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 5 1 0 77 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 3 0 0 0 \
        0 0 0 0 0 0 0 0 0\n";

    fn observed(text: &str, stat: &str) -> Observed {
        let stat = proc::Stat::parse(stat.as_bytes()).unwrap();
        Observed::of(&proc::Status::parse(text.as_bytes()), &stat)
    }

    #[test]
    fn a_locked_in_payload_passes() {
        let observed = observed(STATUS, STAT);
        assert_eq!((observed.uid, observed.gid, observed.pid_depth), (1000, 100, 2));
        assert_eq!((observed.start_ticks, observed.scheduling), (77, (3, 5)));
        assert!(observed.check(&Ready::default(), true).is_ok());
        assert!(observed.check_account((1000, 100)).is_ok());
        for other in [(0, 100), (1000, 0), (1001, 100)] {
            let said = observed.check_account(other).unwrap_err().to_string();
            assert!(said.contains("shows it with uid 1000 and gid 100"), "{said}");
        }
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
            ("SigBlk:\t0000000000000000", "SigBlk:\t0000000000000001"),
            ("SigIgn:\t0000000000000000\n", ""),
        ] {
            assert!(
                observed(&STATUS.replace(from, to), STAT).check(&Ready::default(), true).is_err(),
                "{to}"
            );
        }
        assert!(
            observed(STATUS, &STAT.replace(" 17 1 0 3 ", " 17 1 50 1 "))
                .check(&Ready::default(), true)
                .is_err()
        );
        let without = Ready { seccomp: -1, ..Ready::default() };
        assert!(observed(&STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), STAT).check(&without, true).is_ok());
        let shared = STATUS.replace("NSpid:\t4711\t2", "NSpid:\t4711");
        assert!(observed(&shared, STAT).check(&Ready::default(), false).is_ok());
    }

    const SCOPES: Parts = Parts { scopes: true, files: false, tcp: false };

    fn good() -> (Expected, Ready) {
        let expected = Expected {
            umask: 0o22,
            keyring: Demand::Required,
            landlock: (Demand::Required, SCOPES),
            ids: (1000, 100),
            outside: (1000, 100),
            oom_score_adj: 200,
            own_pids: true,
            proc: Demand::Required,
            ceilings: vec![Ceiling { resource: libc::RLIMIT_CORE as libc::c_int, most: 0 }],
        };
        let held = Held {
            no_new_privs: true,
            umask: 0o22,
            session: 2,
            joined: 77,
            keyring: 77,
            landlock: true,
            ids: (1000, 100),
            oom_score_adj: 200,
            closes: true,
            ..Held::default()
        };
        let landlock = Granted { abi: 7, parts: SCOPES, errno: 0 };
        (expected, Ready { securebits: 0xef, vpid: 2, held, landlock, ..Ready::default() })
    }

    type Change = fn(&mut Ready);

    #[test]
    fn a_report_of_less_is_refused_and_names_the_wall() {
        let (expected, ready) = good();
        assert_eq!(expected.wrong(&ready), None);
        let cases: [(&str, Change); 19] = [
            ("CAP_SYS_ADMIN", |r| r.held.capabilities = 1 << 21),
            ("no_new_privs", |r| r.held.no_new_privs = false),
            ("securebits", |r| r.securebits = 0x2f),
            ("undumpable", |r| r.held.dumpable = 1),
            ("session", |r| r.held.session = 1),
            ("umask", |r| r.held.umask = 0),
            ("signals", |r| r.held.blocked = 1),
            ("personality", |r| r.held.personality = 0x0004_0000),
            ("keyring", |r| r.held.keyring = 78),
            ("keyring", |r| r.held.joined = 0),
            ("keyring", |r| r.keyring = 1),
            ("RLIMIT_CORE is above 0", |r| r.held.above = 1),
            ("ids", |r| r.held.ids.0 = 65534),
            ("ids", |r| r.held.ids.1 = u32::MAX),
            ("oom_score_adj", |r| r.held.oom_score_adj = 199),
            ("descriptors", |r| r.held.closes = false),
            ("proc of its own", |r| r.proc = 1),
            ("does not forbid", |r| r.held.landlock = false),
            ("Landlock is required, and is off", |r| r.landlock = Granted { abi: 5, ..Granted::default() }),
        ];
        for (word, change) in cases {
            let (expected, mut ready) = good();
            change(&mut ready);
            let wrong = expected.wrong(&ready).unwrap_or_default();
            assert!(wrong.contains(word), "{word}: {wrong}");
        }
    }

    #[test]
    fn what_is_only_preferred_may_be_missing() {
        let (mut expected, mut ready) = good();
        expected.landlock.0 = Demand::Preferred;
        expected.keyring = Demand::Preferred;
        ready.landlock = Granted::default();
        (ready.keyring, ready.held.joined, ready.held.keyring) = (122, 0, 0);
        assert_eq!(expected.wrong(&ready), None);
    }
}
