//! One launch, from the request to the exit code. Read [`story`]: every step consumes the one before it.
//!
//! 1. No record, no run: [`Prepared::record`] is the only way to a [`Recorded`], and only a `Recorded` can be released,
//!    against the receipt of its own durable record.
//! 2. Every launch that has a launch record gets one closing record, from here or from the next bailey on the log.
//! 3. Dropping any state kills and reaps whatever was started for it.
#![forbid(unsafe_code)]

use crate::audit::{Receipt, Timestamp, drain};
use crate::config::{Config, UidMode};
use crate::failure::{Code, Failure, Fault};
use crate::host::Caller;
use crate::identity::{self, Identity};
use crate::plan::{self, Plan};
use crate::policy::store::Policy;
use crate::policy::verdict::Verdict;
use crate::report;
use crate::report::{Desk, Status};
use crate::request::{LaunchId, Request};
use crate::sandbox::{self, Explainer};
use crate::supervisor::{Cause, Deadline, End, Signals, signal_name, supervise};
use crate::uids;
use std::os::fd::{AsFd as _, OwnedFd};

/// How a launch ends for whoever called bailey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// It is one of bailey's own, and not the payload's.
    pub from_bailey: bool,
}

/// The whole of one launch. What went wrong is recorded where the log can be reached, and returned to be printed.
pub fn launch(
    request: &Request,
    config: &Config,
    policy: &Policy,
    caller: &Caller,
    id: LaunchId,
) -> Result<Exit, Failure> {
    let mut desk = Desk::new(config, caller, request, id);
    match story(request, config, policy, caller, &mut desk) {
        Ok(Told::Planned(text)) => {
            report::print(&text);
            Ok(Exit { code: 0, from_bailey: false })
        }
        Ok(Told::Ended(outcome)) => {
            desk.write_status(&outcome.status);
            let Status { exit_code, from_bailey, .. } = outcome.status;
            Ok(Exit { code: exit_code, from_bailey })
        }
        // A question leaves no trace, whatever its answer is.
        Err(failure) if request.dry_run => Err(failure),
        Err(failure) => {
            let failure = desk.for_the_user(failure);
            refuse(&mut desk, &failure);
            Err(failure)
        }
    }
}

/// Records a launch that a front end could not even understand.
pub fn refuse(desk: &mut Desk<'_>, failure: &Failure) {
    desk.record_failure(failure);
    desk.write_status(&Status::not_run(failure));
}

/// Tells the pilot of a launch that failed before its log was known, because the configuration says where that is.
pub fn refuse_without_log(desk: &mut Desk<'_>, failure: &Failure) {
    if desk.check_status_file().is_ok() {
        desk.write_status(&Status::not_run(failure));
    }
}

fn story<'a>(
    request: &Request,
    config: &Config,
    policy: &'a Policy,
    caller: &Caller,
    desk: &mut Desk<'a>,
) -> Result<Told, Failure> {
    let decided = Decided::from(request, config, policy, caller, desk)?;
    if request.dry_run {
        return Ok(Told::Planned(decided.describe(desk.id(), request)));
    }
    let building = decided.start(request, config, caller, desk)?; // namespaces exist, the child builds its root...
    desk.open_log()?; // ...and in the same time the log is opened and the record begun
    let prepared = building.wait(desk)?; // the payload stands one instruction before execve
    let recorded = prepared.record(desk)?; // durable: fdatasync returned
    let running = recorded.release()?; // execve
    let outcome = running.supervise(desk)?; // until it ended, and its end is recorded
    Ok(Told::Ended(outcome))
}

/// What a launch comes to.
enum Told {
    /// `--dry-run`: the plan in words.
    Planned(String),
    /// The payload ran and ended.
    Ended(Outcome),
}

/// Who, with what and for how long: decided, and nothing done yet.
struct Decided {
    identity: Identity,
    verdict: Verdict,
    plan: Plan,
    signals: Signals,
}

impl Decided {
    fn from<'a>(
        request: &Request,
        config: &Config,
        policy: &'a Policy,
        caller: &Caller,
        desk: &mut Desk<'a>,
    ) -> Result<Self, Failure> {
        // First, so that no signal, not even one for a file too large, ends bailey where it could still say why.
        let signals = Signals::take()?;
        desk.check_status_file()?;
        // An early no; the recorder looks again, where no pilot can skip it.
        if let Some(reason) = drain::look(&drain::flag(&config.audit.socket))? {
            return Err(drain::refusal(reason));
        }
        let identity = identity::establish(request, &config.identity, caller)?;
        desk.learn_identity(&identity);
        identity.allowed(&config.identity)?;
        let opened = plan::open(request, policy, config, caller)?;
        let facts = plan::facts(&identity, &opened, request, config, caller)?;
        // An early no as well; how many payloads live is counted when the launch is recorded.
        let verdict = policy.decide(&facts, None, Timestamp::now())?;
        desk.learn_verdict(&verdict, facts, policy);
        let mut verdict = verdict.into_result()?;
        if identity.is_free_probe(&config.identity) {
            verdict.obligations.hold_a_probe();
        }
        let obligations = &verdict.obligations;
        let plan = plan::decide(
            desk.id(),
            request,
            opened,
            obligations,
            config,
            caller,
            desk.own_log()?.as_deref(),
        )?;
        desk.learn_facts(plan.facts.clone());
        Ok(Self { identity, verdict, plan, signals })
    }

    fn describe(&self, id: LaunchId, request: &Request) -> String {
        plan::describe(&self.plan, id, &self.identity, request, &self.verdict)
    }

    /// Clones the child into its namespaces, under a uid of its own where the site wants that.
    fn start(
        self,
        request: &Request,
        config: &Config,
        caller: &Caller,
        desk: &Desk<'_>,
    ) -> Result<Building, Failure> {
        let Plan { deadline, mut blueprint, .. } = self.plan;
        if config.uid.mode == UidMode::Subuid && caller.lent.is_none() {
            let say = |failure: &Failure| report::say(&failure.to_string());
            let lease = uids::Lease::take(request, config, caller, desk.id(), say)?;
            blueprint.hold = Some(lease.lock());
            blueprint.lease = Some(lease);
        }
        let (child, explainer) = blueprint.start()?;
        Ok(Building { child, explainer, deadline, signals: self.signals })
    }
}

/// The child builds its root.
struct Building {
    child: sandbox::Building,
    explainer: Explainer,
    deadline: Deadline,
    signals: Signals,
}

impl Building {
    /// Waits for the payload to be frozen, and looks at it from outside.
    fn wait(self, desk: &mut Desk<'_>) -> Result<Prepared, Failure> {
        let (frozen, payload) = self.child.wait_frozen(&self.explainer)?;
        desk.hand_over(payload.as_fd(), &frozen.handover()); // the recorder looks in the same time
        let facts = report::look(&frozen, &self.explainer, desk.mounts())?;
        let Self { explainer, deadline, signals, .. } = self;
        Ok(Prepared { frozen, payload, facts, explainer, deadline, signals })
    }
}

/// Everything is in place; the payload stands one instruction before its execve.
struct Prepared {
    frozen: sandbox::Frozen,
    payload: OwnedFd,
    facts: report::Frozen,
    explainer: Explainer,
    deadline: Deadline,
    signals: Signals,
}

impl Prepared {
    /// Writes the launch record and waits until it is durable.
    fn record(self, desk: &mut Desk<'_>) -> Result<Recorded, Failure> {
        let Self { frozen, payload, facts, explainer, deadline, signals } = self;
        let receipt = desk.record_launch(&facts, payload, &frozen.handover())?;
        Ok(Recorded { frozen, receipt, facts, explainer, deadline, signals })
    }
}

/// The launch record is durable; here is its receipt.
struct Recorded {
    frozen: sandbox::Frozen,
    receipt: Receipt,
    facts: report::Frozen,
    explainer: Explainer,
    deadline: Deadline,
    signals: Signals,
}

impl Recorded {
    /// Lets the payload execute.
    fn release(self) -> Result<Running, Failure> {
        let Self { frozen, receipt, facts, explainer, deadline, signals } = self;
        let payload = frozen.release(receipt)?;
        report::hand_over_streams();
        Ok(Running { payload, facts, explainer, deadline, signals })
    }
}

/// The payload runs.
struct Running {
    payload: sandbox::Running,
    facts: report::Frozen,
    explainer: Explainer,
    deadline: Deadline,
    signals: Signals,
}

impl Running {
    /// Stays until the payload ended, and records the end.
    fn supervise(self, desk: &mut Desk<'_>) -> Result<Outcome, Failure> {
        let Self { mut payload, facts, explainer, deadline, signals } = self;
        let relay = payload.take_relay();
        let end = supervise(payload, &signals, deadline, desk);
        if let Some(trouble) = end.not_executed {
            return Err(sandbox::explain::command(trouble, &explainer));
        }
        let outcome = Outcome::of(&end, facts.pid, desk);
        if let Err(failure) = desk.record_end(&facts, &end, &outcome.status.message) {
            // The payload ran and its result stands; the next bailey on this log writes the missing end.
            report::say(&failure.to_string());
        }
        if let Some(relay) = relay {
            // What it wrote and nobody took yet; a pilot that wants bailey's end need not wait for it.
            for lost in relay.finish(|| !signals.want_the_end()) {
                report::say(&lost);
            }
        }
        drop(end); // waits until the kernel has taken the sandbox apart: nothing of it outlives bailey
        Ok(outcome)
    }
}

/// The payload ended.
struct Outcome {
    status: Status,
}

impl Outcome {
    fn of(end: &End, pid: i32, desk: &Desk<'_>) -> Self {
        let (exit_code, signal) = match end.status {
            Some(status) if libc::WIFEXITED(status) => (Some(libc::WEXITSTATUS(status)), None),
            Some(status) => (None, Some(libc::WTERMSIG(status))),
            None => (None, Some(libc::SIGKILL)),
        };
        let how = match (exit_code, signal) {
            (Some(code), _) => format!("it exited with code {code}"),
            (_, Some(signal)) => format!("it was killed by {}", signal_name(signal)),
            _ => "it is gone".to_owned(),
        };
        let own = || exit_code.unwrap_or_else(|| 128 + signal.unwrap_or(libc::SIGKILL)) as u8;
        let (code, from_bailey, fault, by, message) = match end.cause {
            Cause::Payload => {
                let message = report::words::ended(&how, end.group.as_ref());
                (own(), false, None, "payload", message)
            }
            Cause::PilotSignal(signal) => {
                let message = format!("the pilot sent {}, which ended the payload", signal_name(signal));
                (own(), false, None, "pilot-signal", message)
            }
            Cause::WallTime => {
                let message = report::words::ended_by_wall_time(&how);
                (Code::WallTime.exit_code(), true, Some(Fault::User), "wall-time", message)
            }
            Cause::Ordered(by) => {
                let why = end.reason.as_deref().unwrap_or("no reason was given");
                let message = report::words::ended_by(by, why, &how);
                let fault = Some(report::words::fault(by));
                (Code::Stopped.exit_code(), true, fault, by.ends().as_str(), message)
            }
            Cause::Overuse => {
                let message = match &end.overuse {
                    Some(event) => report::overuse::ended(event, &how),
                    None => format!("a rule on overuse stopped the payload: {how}"),
                };
                (Code::Stopped.exit_code(), true, Some(Fault::User), "overuse", message)
            }
            Cause::Memory => {
                let own = end.group.and_then(|group| group.oom).is_some_and(|oom| oom > 0);
                let (message, fault) = report::words::ended_by_memory(desk.memory_limit(), own, &how);
                (Code::Stopped.exit_code(), true, Some(fault), "memory", message)
            }
            Cause::InitLost => {
                let message = "the sandbox's init was killed, and with it the payload".to_owned();
                (own(), false, None, "payload", message)
            }
        };
        let message = if from_bailey { desk.with_incident(&message) } else { message };
        let payload = report::Payload {
            pid,
            exit_code,
            signal: signal.map(signal_name),
            wall_seconds: end.duration.as_secs_f64(),
        };
        Self {
            status: Status {
                state: "ended",
                exit_code: code,
                from_bailey,
                fault,
                ended_by: Some(by),
                message,
                contact: if from_bailey { desk.contact() } else { None },
                payload: Some(payload),
            },
        }
    }
}
