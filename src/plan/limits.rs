//! Which limits on memory, cores and processes hold for a launch, and how far setrlimit(2) can hold them.
//!
//! 1. What is asked above the site's most is refused, never lowered without a word. What a rule allows at most was compared
//!    with the wish by the policy; it holds also where nothing was asked.
//! 2. No limit is claimed that is not held: what setrlimit(2) cannot hold, or holds only in part, is said in the same words in
//!    which it is recorded.
#![forbid(unsafe_code)]

use crate::cgroup::by_affinity;
use crate::cgroup::cpuset::CpuSet;
use crate::cgroup::limits::Limits;
use crate::config;
use crate::failure::{Failure, errno_text};
use crate::request::{Bytes, Cores, LEAST_MEMORY};
use crate::sys::kernel;
use crate::sys::process::Ceiling;
use std::collections::BTreeMap;

/// What holds: what was asked, else the site's default, never more than a rule allows.
///
/// # Errors
/// More is asked than this site gives; so little holds that nothing could run.
pub fn limits(asked: &Limits, site: &config::Limits, rule: &Limits) -> Result<Limits, Failure> {
    let bytes = |bytes: u64| Bytes(bytes).to_string();
    let cores = |milli: u64| Cores(milli).to_string();
    let pids = |pids: u64| format!("{pids} processes and threads");
    let memory = Resource { what: "memory", key: "most_memory", text: &bytes };
    let cpus = Resource { what: "cores", key: "most_cpus", text: &cores };
    let processes = Resource { what: "processes", key: "most_pids", text: &pids };
    let limits = Limits {
        memory: memory.holds(asked.memory, site.memory, site.most_memory, rule.memory)?,
        cpus_milli: cpus.holds(asked.cpus_milli, site.cpus_milli, site.most_cpus_milli, rule.cpus_milli)?,
        pids: processes.holds(asked.pids, site.pids, site.most_pids, rule.pids)?,
        cpuset: asked.cpuset,
    };
    if let Some(asked) = asked.cpuset {
        cores_are_the_pilots(asked)?;
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory < LEAST_MEMORY) {
        return Err(Failure::usage(
            format!("cannot run anything in {} of memory", Bytes(memory)),
            "a program needs more to start",
            format!("name at least {}M (--memory)", LEAST_MEMORY >> 20),
        ));
    }
    for (option, limit) in [("--cpus", limits.cpus_milli), ("--pids", limits.pids)] {
        if limit == Some(0) {
            return Err(Failure::usage(
                format!("cannot run anything with {option} 0"),
                "nothing could start",
                "name a number above zero",
            ));
        }
    }
    Ok(limits)
}

/// No payload runs on a core that the pilot may not use.
fn cores_are_the_pilots(asked: CpuSet) -> Result<(), Failure> {
    let own = CpuSet::of_this_process().map_err(|errno| {
        Failure::site("cannot see which cores the pilot may use", errno_text(errno), "leave out --cpuset")
    })?;
    match asked.beyond(own) {
        None => Ok(()),
        Some(beyond) => Err(Failure::usage(
            format!("cannot run on the cores {beyond}"),
            format!("the pilot itself may use {own}"),
            "name some of these (--cpuset)",
        )),
    }
}

/// One of the three, for its messages.
struct Resource<'a> {
    what: &'static str,
    key: &'static str,
    text: &'a dyn Fn(u64) -> String,
}

impl Resource<'_> {
    fn holds(
        &self,
        asked: Option<u64>,
        default: Option<u64>,
        most: Option<u64>,
        rule: Option<u64>,
    ) -> Result<Option<u64>, Failure> {
        if let (Some(asked), Some(most)) = (asked, most)
            && asked > most
        {
            return Err(Failure::usage(
                format!("cannot give {} ({})", (self.text)(asked), self.what),
                format!("this site allows {} at most (limits.{})", (self.text)(most), self.key),
                "ask for less",
            ));
        }
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Ok(least(asked.or(default).or(most), rule))
    }
}

/// The limits as far as setrlimit(2) holds them, and for each, in words for the record, how far.
///
/// Memory: `RLIMIT_DATA`, which since Linux 4.7 counts every private writable mapping, stacks of threads included. Not
/// `RLIMIT_AS`: it counts addresses, and a Java machine or ROOT reserves tens of gigabytes of them for what it never touches.
/// Either one is for each process, and neither sees shared memory or tmpfs.
///
/// Processes: `RLIMIT_NPROC`. Cores have no such limit: `RLIMIT_CPU` is time, not a share.
pub fn weaker(limits: &Limits) -> (Vec<Ceiling>, BTreeMap<&'static str, String>) {
    weaker_on(limits, counts_by_namespace())
}

fn weaker_on(limits: &Limits, counts_by_namespace: bool) -> (Vec<Ceiling>, BTreeMap<&'static str, String>) {
    let mut ceilings = Vec::new();
    let mut words = BTreeMap::new();
    if let Some(memory) = limits.memory {
        ceilings.push(Ceiling { resource: libc::RLIMIT_DATA as libc::c_int, most: memory });
        words.insert(
            "limit_memory",
            format!("rlimit: {} for each process, not for all together", Bytes(memory)),
        );
    }
    if let Some(pids) = limits.pids {
        let text = if counts_by_namespace {
            // And init, which nobody asked for.
            ceilings
                .push(Ceiling { resource: libc::RLIMIT_NPROC as libc::c_int, most: pids.saturating_add(1) });
            format!("rlimit: {pids} processes and threads")
        } else {
            "not enforced: this kernel counts the processes of the whole account (before Linux 5.14)"
                .to_owned()
        };
        words.insert("limit_pids", text);
    }
    if limits.cpus_milli.is_some() {
        words.insert("limit_cpus", "not enforced: needs a control group".to_owned());
    }
    words.extend(limits.cpuset.map(|cpus| ("limit_cpuset", by_affinity(cpus))));
    (ceilings, words)
}

/// Whether `RLIMIT_NPROC` counts the processes of one user namespace, as it does since Linux 5.14 (ucounts). Before that it
/// counts all of the uid's on the host, and a payload's neighbours would take its share: then it MUST NOT be lowered.
///
/// By the kernel's version: by doing, only a fork inside the new namespace could show it, when what is recorded is long
/// decided. The error is on the safe side: an older kernel to which it was ported back is said to be weaker than it is.
fn counts_by_namespace() -> bool {
    kernel::is_at_least(&kernel::release(), (5, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(of: Option<u64>) -> Limits {
        Limits { memory: of.map(|n| n << 30), cpus_milli: of.map(|n| n * 1000), pids: of, cpuset: None }
    }

    /// `[limits]` with these defaults and maxima.
    fn site(default: Option<u64>, most: Option<u64>) -> config::Limits {
        let (default, most) = (all(default), all(most));
        let mut site = config::Config::default().limits;
        (site.memory, site.most_memory) = (default.memory, most.memory);
        (site.cpus_milli, site.most_cpus_milli) = (default.cpus_milli, most.cpus_milli);
        (site.pids, site.most_pids) = (default.pids, most.pids);
        site
    }

    #[test]
    fn what_holds() {
        // Asked, default, most, rule; what holds.
        let cases = [
            (None, None, None, None, None),
            (Some(3), None, None, None, Some(3)),
            (None, Some(2), None, None, Some(2)),
            (None, None, Some(8), None, Some(8)),
            (None, Some(2), Some(8), None, Some(2)),
            (Some(8), Some(2), Some(8), None, Some(8)),
            // Without a most whoever asks gets it.
            (Some(9), Some(2), None, None, Some(9)),
            // A rule holds alone, narrows, and never widens.
            (None, None, None, Some(4), Some(4)),
            (None, Some(2), Some(8), Some(4), Some(2)),
            (None, Some(6), Some(8), Some(4), Some(4)),
            (None, None, Some(8), Some(4), Some(4)),
            (None, None, Some(3), Some(4), Some(3)),
            (Some(4), Some(2), Some(8), Some(4), Some(4)),
            (Some(3), None, None, Some(4), Some(3)),
            // The policy has refused it before; here it is lowered at least.
            (Some(6), None, None, Some(4), Some(4)),
        ];
        for (asked, default, most, rule, expected) in cases {
            let held = limits(&all(asked), &site(default, most), &all(rule)).unwrap();
            assert_eq!(held, all(expected), "{asked:?} {default:?} {most:?} {rule:?}");
        }
    }

    #[test]
    fn more_than_the_site_gives_is_refused() {
        let site = site(Some(2), Some(8));
        let asks = [
            (
                Limits { memory: Some((8 << 30) + 1), ..Limits::default() },
                ["8589934593 bytes", "8 GiB", "limits.most_memory"],
            ),
            (
                Limits { cpus_milli: Some(8500), ..Limits::default() },
                ["8.5 cores", "8 cores", "limits.most_cpus"],
            ),
            (
                Limits { pids: Some(9), ..Limits::default() },
                ["9 processes", "8 processes", "limits.most_pids"],
            ),
        ];
        for (asked, words) in asks {
            let said = limits(&asked, &site, &Limits::default()).unwrap_err().to_string();
            assert!(words.iter().all(|word| said.contains(word)) && said.ends_with("ask for less"), "{said}");
        }
    }

    #[test]
    fn too_little_to_run_is_refused() {
        let site = config::Config::default().limits;
        let little = [
            (Limits { memory: Some(LEAST_MEMORY - 1), ..Limits::default() }, "--memory"),
            (Limits { memory: Some(0), ..Limits::default() }, "--memory"),
            (Limits { cpus_milli: Some(0), ..Limits::default() }, "--cpus"),
            (Limits { pids: Some(0), ..Limits::default() }, "--pids"),
        ];
        for (little, option) in little {
            for (asked, rule) in [(little, Limits::default()), (Limits::default(), little)] {
                let failure = limits(&asked, &site, &rule).unwrap_err();
                assert!(
                    failure.to_string().contains(option) && failure.next.starts_with("name "),
                    "{failure}"
                );
            }
        }
        let least = Limits { memory: Some(LEAST_MEMORY), cpus_milli: Some(1), pids: Some(1), cpuset: None };
        assert_eq!(limits(&least, &site, &Limits::default()).unwrap(), least);
    }

    #[test]
    fn what_setrlimit_can_hold() {
        let limits = Limits { memory: Some(2 << 30), cpus_milli: Some(500), pids: Some(5), cpuset: None };
        let ceiling = |resource, most| Ceiling { resource: resource as libc::c_int, most };
        let data = ceiling(libc::RLIMIT_DATA, 2 << 30);
        let (ceilings, words) = weaker_on(&limits, true);
        assert_eq!(ceilings, [data, ceiling(libc::RLIMIT_NPROC, 6)]);
        assert_eq!(words["limit_memory"], "rlimit: 2 GiB for each process, not for all together");
        assert_eq!(words["limit_pids"], "rlimit: 5 processes and threads");
        assert_eq!(words["limit_cpus"], "not enforced: needs a control group");
        // Where neighbours would be counted too it is not used.
        let (ceilings, words) = weaker_on(&limits, false);
        assert_eq!(ceilings, [data]);
        assert!(words["limit_pids"].starts_with("not enforced: "), "{words:?}");
        assert_eq!(weaker_on(&Limits::default(), true), (Vec::new(), BTreeMap::new()));
    }
}
