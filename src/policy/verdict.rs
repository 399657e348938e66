//! What a decision comes to.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::bans::Measure;
use super::rule::{Parallel, Profile};
use crate::cgroup::limits::Limits;
use crate::failure::{Code, Failure, Fault};
use crate::request::Network;

/// The answer to one launch.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a verdict that nobody looks at lets everybody in"]
pub struct Verdict {
    /// Why not; `None`: it may run, with these obligations.
    pub denial: Option<Denial>,
    /// The rule that decided; `None`: no rule applied.
    pub rule: Option<String>,
    /// The person, where the site knows one, and every name of it.
    pub person: Option<String>,
    /// See `person`.
    pub names: Vec<String>,
    /// Whom the user asks, in the VO.
    pub contact: Option<String>,
    /// What has to be kept.
    pub obligations: Obligations,
    /// What the site should see and the payload runs in spite of.
    pub remarks: Vec<String>,
}

/// What an allowed payload is held to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Obligations {
    /// Its network.
    pub network: Network,
    /// The longest wall time.
    pub wall_time: Option<Duration>,
    /// The most scratch, bytes.
    pub scratch: Option<u64>,
    /// The most memory, cores and processes.
    pub limits: Limits,
    /// Which of the binds that were asked for writing are for reading only, by their position.
    pub readonly_binds: Vec<usize>,
    /// Of these the ones that a rule lists; the others are only the profile `strict`'s, which lets the payload write where it works.
    pub listed_binds: Vec<usize>,
    /// How tight the walls are.
    pub profile: Profile,
    /// Payloads at one time.
    pub parallel: Parallel,
    /// Overuse rules that do not look at it.
    pub overuse_exempt: Vec<String>,
}

impl Obligations {
    /// How long a probe that names nobody may take. HTCondor gives its own questions two minutes.
    const PROBE: Duration = Duration::from_secs(120);

    /// What a probe needs at most: no network, and not long. Calling work a probe gains nothing then.
    pub fn hold_a_probe(&mut self) {
        self.network = Network::None;
        self.wall_time = Some(self.wall_time.map_or(Self::PROBE, |most| most.min(Self::PROBE)));
    }
}

/// Why not.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    /// What said no.
    pub by: By,
    /// In words, for the user: completes "this payload may not run here: …".
    pub why: String,
    /// What the user can do.
    pub next: String,
    /// Whether it would be the same everywhere.
    pub fault: Fault,
}

/// What said no.
#[derive(Debug, Clone, PartialEq)]
pub enum By {
    /// A ban.
    Ban(Hit),
    /// The ban lists cannot be relied upon.
    Lists,
    /// A rule, or what a rule allows.
    Rule,
    /// `[[trust]]`
    Trust,
    /// `[image]`
    Image,
    /// A limit on payloads at one time.
    Parallel,
    /// Another configuration than the site's.
    Config,
}

/// A ban that holds for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Name of the list's file.
    pub list: String,
    /// The line in it.
    pub line: u32,
    /// What it names, as it stands there.
    pub whom: String,
    /// Why, if the list says so.
    pub reason: Option<String>,
    /// The site's ticket.
    pub ticket: Option<String>,
    /// What happens to payloads that run.
    pub measure: Option<Measure>,
    /// How long they get.
    pub grace: Option<Duration>,
}

impl Hit {
    /// `ban_users.db:12`, for records.
    pub fn place(&self) -> String {
        format!("{}:{}", self.list, self.line)
    }

    /// For the user: who is suspended, and why.
    pub fn words(&self) -> String {
        match &self.reason {
            Some(reason) => format!("this site has suspended {} ({reason})", self.whom),
            None => format!("this site has suspended {}", self.whom),
        }
    }
}

impl Denial {
    /// As the failure of a launch.
    pub fn into_failure(self) -> Failure {
        let code = if matches!(self.by, By::Parallel) { Code::ParallelLimit } else { Code::Refused };
        Failure::new(code, self.fault, "this payload may not run here", self.why, self.next)
    }
}

impl Verdict {
    /// What has to be kept, or the failure that says why not.
    pub fn into_result(self) -> Result<Self, Failure> {
        match self.denial {
            Some(denial) => Err(denial.into_failure()),
            None => Ok(self),
        }
    }
}
