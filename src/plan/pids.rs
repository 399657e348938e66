//! Whether the payload gets a pid namespace, and what the record says where it does not.
#![forbid(unsafe_code)]

use crate::config::{Config, Demand, UidMode};
use crate::failure::Failure;
use crate::host::Caller;
use crate::request::Request;
use crate::sandbox::orphans;
use std::path::Path;

/// What the payload sees instead of a proc of its own, whatever the reason.
pub(crate) const OUTER_PROC: &str = "the outer /proc is shown, read-only: the pilot's processes are listed in it, and its numbers are the outer ones";

/// What is weaker without a pid namespace.
const AMONG_THE_PILOTS: &str = "it sees the pilot's processes; it ends with bailey or with its init, not when both are killed at one moment";

/// In which pid namespace the payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pids {
    /// In one of its own.
    Own,
    /// In the pilot's, for this reason.
    Pilots(&'static str),
}

impl Pids {
    pub(super) const fn are_own(self) -> bool {
        matches!(self, Self::Own)
    }

    /// For the record, before the payload reported what it has. `proc`: how much the site insists on a proc of its own.
    pub(super) fn walls(self, proc: Demand) -> [(&'static str, String); 2] {
        let (pids, proc) = match (self, proc) {
            (Self::Pilots(why), _) => (
                format!("off: {why}: {AMONG_THE_PILOTS}"),
                format!("off: it has no pid namespace: {OUTER_PROC}"),
            ),
            (Self::Own, Demand::Required) => ("on".to_owned(), "on".to_owned()),
            (Self::Own, Demand::Preferred) => {
                ("on".to_owned(), "on, where an outer container masks nothing".to_owned())
            }
            (Self::Own, Demand::Off) => {
                ("on".to_owned(), format!("off: the site's configuration: {OUTER_PROC}"))
            }
        };
        [("pid_namespace", pids), ("proc", proc)]
    }
}

pub(super) fn decide(request: &Request, config: &Config, caller: &Caller) -> Result<Pids, Failure> {
    // Called as a container runtime, `--no-pid` is leave to do without, which the site need not give.
    if request.container.is_some() && request.no_pid {
        return of(request, config, caller).or_else(|_| {
            let without = Request { no_pid: false, ..request.clone() };
            of(&without, config, caller)
        });
    }
    of(request, config, caller)
}

fn of(request: &Request, config: &Config, caller: &Caller) -> Result<Pids, Failure> {
    let why = match config.sandbox.pid_namespace {
        Demand::Required if request.no_pid => return Err(not_granted()),
        Demand::Required => return Ok(Pids::Own),
        Demand::Off => "the site's configuration",
        Demand::Preferred if request.no_pid => "asked for, and allowed by the site",
        Demand::Preferred => match forbidden() {
            Some(why) => why,
            None => return Ok(Pids::Own),
        },
    };
    let cannot = |why: &str, next: &str| Err(Failure::usage("cannot run without a pid namespace", why, next));
    if request.nested {
        return cannot(
            "a payload with namespaces of its own must not reach the pilot's processes",
            "leave out --nested or --no-pid",
        );
    }
    if caller.lent.is_some() || config.uid.mode == UidMode::Subuid {
        return cannot(
            "payloads have uids of their own here, and only the end of a pid namespace tells when one is free again",
            "leave out --no-pid; for the site: sandbox.pid_namespace = \"required\"",
        );
    }
    if !Path::new(orphans::TOLD_BY).exists() {
        return cannot(
            "this kernel does not list the children of a process (CONFIG_PROC_CHILDREN), so they could not be ended",
            "leave out --no-pid; for the site: sandbox.pid_namespace = \"required\"",
        );
    }
    Ok(Pids::Pilots(why))
}

/// Why nobody gets a pid namespace here.
fn forbidden() -> Option<&'static str> {
    if !Path::new("/proc/self/ns/pid").exists() {
        return Some("this kernel has none");
    }
    let most = std::fs::read_to_string("/proc/sys/user/max_pid_namespaces").unwrap_or_default();
    (most.trim() == "0").then_some("user.max_pid_namespaces is 0")
}

pub(super) fn not_granted() -> Failure {
    Failure::refused(
        "refused --no-pid",
        "this site gives every payload a pid namespace of its own",
        "leave it out, or ask the site to set sandbox.pid_namespace = \"preferred\"",
    )
}
