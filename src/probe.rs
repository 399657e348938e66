//! `bailey probe`: what `bailey check` asks the launcher about this host, for this account.
//!
//! The launcher itself does it, because a security policy (an AppArmor profile) may let this program make user namespaces and
//! no other. Everything is tried by doing it: the sandbox is built as for a launch, as far as the frozen payload, and the log
//! is asked for a receipt as for a launch.
//!
//! 1. Nothing is ever released: what the log gives is a [`CheckReceipt`](crate::audit::CheckReceipt), of which
//!    [`sandbox::Frozen::release`] takes none. The frozen payload is dropped, and with it everything that was started.
//! 2. Nobody is named, so no rule and no ban of a user can answer; what stops every launch stops the probe.
//! 3. What is wrong is a finding and not a failure of the probe: it goes on as far as it can.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app;
use crate::audit::{Timestamp, drain};
use crate::config::{Config, Place};
use crate::failure::{Failure, errno_text};
use crate::host::Caller;
use crate::plan::{self, Plan};
use crate::policy::settings::OnTrouble;
use crate::policy::store::{self, Policy};
use crate::policy::verdict::Obligations;
use crate::report::{self, Desk};
use crate::request::{LaunchId, Request};
use crate::sandbox::NAMESPACES;
use crate::sys::probe;

/// The launcher's word for it. Not for people: `bailey check` is.
pub const COMMAND: &str = "probe";

/// What this program is asked where it stands in for an image's test: nothing.
pub const NOTHING: &str = "test-of-nothing";

/// Leaves out what only a person wants to know.
const QUICK: &str = "--quick";
/// How long the log is waited for, when `audit.wait` is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Programs that may stand for a payload; none is run.
const COMMANDS: [&str; 4] = ["/bin/true", "/usr/bin/true", "/bin/sh", "/usr/bin/env"];

/// What was found: the answer to `bailey-admin`, of the same version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// What every launch of this account would fail of, in the order of a launch.
    pub troubles: Vec<Trouble>,
    /// Why the node takes no new payloads.
    pub draining: Option<String>,
    /// `grid.sandbox` of the launch record, or of the plan where no payload stood.
    pub sandbox: BTreeMap<String, String>,
    /// A payload stood frozen: `sandbox` was read back from it.
    pub stood: bool,
    /// For each kind of namespace: made by itself, or why not. Empty when it was not tried.
    pub namespaces: BTreeMap<String, Result<(), String>>,
    /// Landlock's version in this kernel, or why there is none.
    pub landlock: Option<Result<u32, String>>,
    /// Whether the kernel takes seccomp filters.
    pub seccomp: Option<Result<(), String>>,
    /// `on: WRITER`, or `off` and why.
    pub recorder: Option<String>,
    /// The log that is used is the launcher's own.
    pub embedded: bool,
    /// Where that is, or would be.
    pub log_dir: Option<PathBuf>,
    /// The receipt of the check's record: `chain.seq`.
    pub receipt: Option<u64>,
    /// Why there is no receipt although nothing is wrong.
    pub unproven: Option<String>,
}

/// Something that every launch would fail of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Where.
    pub part: Part,
    /// The step of the set-up that failed, as [`crate::sandbox::protocol::Stage`] names it.
    pub stage: Option<String>,
    /// The exit code that a launch would have.
    pub code: u8,
    /// The parts of its failure.
    pub what: String,
    /// See `what`.
    pub why: String,
    /// See `what`.
    pub next: String,
}

/// The parts of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The configuration cannot be used.
    Configuration,
    /// Ban lists that cannot be relied upon, or a policy that cannot be read.
    Policy,
    /// The plan, or the walls.
    Sandbox,
    /// The log.
    Log,
}

impl Findings {
    fn wrong(&mut self, part: Part, failure: Failure) {
        self.wrong_at(part, None, failure);
    }

    fn wrong_at(&mut self, part: Part, stage: Option<String>, failure: Failure) {
        let Failure { code, what, why, next, .. } = failure;
        self.troubles.push(Trouble { part, stage, code: code.exit_code(), what, why, next });
    }
}

/// Prints the findings as one line of JSON; the exit code is 0 unless there are none.
pub fn run(args: &[OsString]) -> u8 {
    let quick = args.iter().any(|arg| arg == QUICK);
    match serde_json::to_string(&look(quick)) {
        Ok(text) => {
            report::print(&format!("{text}\n"));
            0
        }
        Err(_) => 125,
    }
}

/// The arguments with which the launcher answers.
pub fn arguments(quick: bool) -> Vec<&'static str> {
    if quick { vec![COMMAND, QUICK] } else { vec![COMMAND] }
}

fn look(quick: bool) -> Findings {
    let mut found = Findings::default();
    let caller = Caller::look();
    match store::open(&Place::system(), caller.uid, Timestamp::now()) {
        Ok((mut config, policy)) => {
            config.audit.wait = config.audit.wait.min(LONGEST_WAIT);
            look_at_policy(&mut found, &config, &policy);
            look_inside(&mut found, &config, &policy, &caller);
        }
        Err(failure) => found.wrong(Part::Configuration, failure),
    }
    if !quick {
        look_at_kernel(&mut found);
    }
    found
}

/// What says no to everybody.
fn look_at_policy(found: &mut Findings, config: &Config, policy: &Policy) {
    match drain::look(&drain::flag(&config.audit.socket)) {
        Ok(draining) => found.draining = draining,
        Err(failure) => found.wrong(Part::Policy, failure),
    }
    let closed = policy
        .lists()
        .troubles()
        .find(|trouble| trouble.kind.measure(&config.policy.bans) == OnTrouble::Closed);
    if let Some(trouble) = closed {
        let key = trouble.kind.key();
        found.wrong(
            Part::Policy,
            Failure::refused(
                "every launch is refused",
                format!("a {} cannot be relied upon: {}", trouble.of.as_str(), trouble.text),
                format!(
                    "put the list right (bailey ban check), or set bans.{key} in /etc/bailey/bailey.toml"
                ),
            ),
        );
    }
}

/// A launch as far as its receipt.
fn look_inside(found: &mut Findings, config: &Config, policy: &Policy, caller: &Caller) {
    let command = COMMANDS.iter().find(|path| Path::new(path).exists()).unwrap_or(&"/bin/true");
    let request = Request { command: vec![OsString::from(command)], ..Request::default() };
    let id = match app::new_id() {
        Ok(id) => id,
        Err(failure) => return found.wrong(Part::Sandbox, failure),
    };
    let mut desk = Desk::new(config, caller, &request, id);
    found.log_dir = desk.log_dir().ok();
    if let Err(failure) = stand(found, (config, policy), caller, &request, &mut desk) {
        found.wrong(Part::Sandbox, failure);
    }
    if !found.stood {
        // Whether the log can be reached is worth knowing all the same.
        if let Err(failure) = desk.open_log() {
            found.wrong(Part::Log, failure);
        }
    }
    found.recorder = desk.recorder_state().map(str::to_owned);
}

fn stand(
    found: &mut Findings,
    site: (&Config, &Policy),
    caller: &Caller,
    request: &Request,
    desk: &mut Desk<'_>,
) -> Result<(), Failure> {
    let Plan { blueprint, facts, .. } = prepare(desk.id(), site, caller, request, desk)?;
    found.sandbox = facts.walls.iter().map(|(name, state)| ((*name).to_owned(), state.clone())).collect();
    desk.learn_facts(facts);
    let (building, explainer) = blueprint.start()?;
    let (frozen, payload) = match building.wait_frozen(&explainer) {
        Ok(frozen) => frozen,
        Err(failure) => {
            let stage = explainer.failed_at().map(|stage| format!("{stage:?}"));
            found.wrong_at(Part::Sandbox, stage, failure);
            return Ok(());
        }
    };
    let facts = report::look(&frozen, &explainer, &[])?;
    found.stood = true;
    match desk.record_check(&facts, payload.as_fd(), &frozen.handover()) {
        Ok(checked) => {
            found.sandbox = checked.sandbox;
            found.embedded = checked.embedded;
            found.draining = found.draining.take().or(checked.draining);
            match checked.receipt {
                Ok(Ok(receipt)) => found.receipt = Some(receipt.seq),
                // A drained node's log may refuse for that alone.
                _ if found.draining.is_some() => {}
                Ok(Err(why)) => found.unproven = Some(why),
                Err(failure) => found.wrong(Part::Log, failure),
            }
        }
        Err(failure) => found.wrong(Part::Log, failure),
    }
    Ok(())
}

fn prepare(
    id: LaunchId,
    (config, policy): (&Config, &Policy),
    caller: &Caller,
    request: &Request,
    desk: &Desk<'_>,
) -> Result<Plan, Failure> {
    let opened = plan::open(request, policy, config, caller)?;
    plan::decide(id, request, opened, &Obligations::default(), config, caller, desk.own_log()?.as_deref())
}

/// The kernel's parts one by one: what could be had, whatever the configuration says.
fn look_at_kernel(found: &mut Findings) {
    let kinds = [
        0,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWCGROUP,
    ];
    for (name, flag) in NAMESPACES.iter().zip(kinds) {
        let made = probe::namespace(flag).map_err(|errno| {
            let failure = crate::sandbox::explain::clone_failure(errno, libc::CLONE_NEWUSER | flag);
            format!("{}; {}", failure.why, failure.next)
        });
        found.namespaces.insert((*name).to_owned(), made);
    }
    found.landlock = Some(probe::landlock_version().map_err(errno_text));
    found.seccomp = Some(probe::seccomp_filters().map_err(errno_text));
}
