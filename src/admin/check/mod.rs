//! `bailey check`: what holds on this host for this account, what does not, why, and the one line that changes it; and
//! `bailey check --health`: would a launch get its receipt now?
//!
//! 1. Nothing is judged by a version. The launcher tries it all, as for a launch ([`crate::probe`]); what it cannot try is read
//!    from the kernel, and what nobody here can know is said to be unknown.
//! 2. Exit codes are those of monitoring plugins: 0 good, 1 warning, 2 critical, 3 unknown.
//! 3. It never hangs: the launcher that does the work is killed when its time is over.
#![forbid(unsafe_code)]

mod ask;
mod health;
mod host;
mod log;
mod offsite;
mod settings;
mod show;
mod walls;

use clap::Args;
use serde::Serialize;

use crate::config::{Config, Demand, Place};
use crate::failure::Failure;
use crate::host::Caller;
use crate::probe::Findings;
use health::Answer;

/// Exit code: all is as it should be.
const GOOD: u8 = 0;
/// Exit code: payloads run, and something that the site prefers is missing; or the node is drained.
const WARNING: u8 = 1;
/// Exit code: no payload runs.
const CRITICAL: u8 = 2;
/// Exit code: it cannot be told.
pub(super) const UNKNOWN: u8 = 3;

/// `bailey check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Only whether a payload would run now, in one line; for health checks of batch systems and monitoring
    #[arg(long)]
    health: bool,
    /// The answer of --health as HTCondor's ClassAd attributes
    #[arg(long, requires = "health", conflicts_with = "json")]
    classad: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// How much the site insists on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Required,
    Preferred,
    /// Switched off by the site.
    Off,
    /// Nobody demands it: a fact about this host.
    Info,
}

impl From<Demand> for Wanted {
    fn from(demand: Demand) -> Self {
        match demand {
            Demand::Required => Self::Required,
            Demand::Preferred => Self::Preferred,
            Demand::Off => Self::Off,
        }
    }
}

impl Wanted {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Preferred => "preferred",
            Self::Off => "off",
            Self::Info => "-",
        }
    }
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    On,
    Off,
    /// It is there, and holds less than it should.
    Weaker,
    /// Nobody here can tell.
    Unknown,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Weaker => "weaker",
            Self::Unknown => "unknown",
        }
    }
}

/// One mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    group: &'static str,
    mechanism: String,
    wanted: Wanted,
    state: State,
    /// In words.
    why: String,
    /// The line that an administrator changes; `None`: there is nothing to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
}

impl Row {
    fn new(group: &'static str, mechanism: &str, wanted: impl Into<Wanted>, state: State) -> Self {
        Self {
            group,
            mechanism: mechanism.to_owned(),
            wanted: wanted.into(),
            state,
            why: String::new(),
            change: None,
        }
    }

    fn why(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    fn change(self, change: impl Into<String>) -> Self {
        Self { change: Some(change.into()), ..self }
    }

    /// What it means for monitoring.
    fn severity(&self) -> u8 {
        match (self.wanted, self.state) {
            (Wanted::Required, State::Off) => CRITICAL,
            (Wanted::Required, State::Weaker) | (Wanted::Preferred, State::Off | State::Weaker) => WARNING,
            _ => GOOD,
        }
    }
}

/// What comes out of a whole check.
#[derive(Debug, Serialize)]
struct Report {
    /// Of this format.
    version: u32,
    /// `ready`, `degraded`, `draining`, `not-ready`, `unknown`.
    verdict: &'static str,
    exit_code: u8,
    /// Why, in one sentence.
    reason: String,
    /// Whose launches this is about.
    uid: u32,
    /// Seconds since 1970.
    checked: i64,
    checks: Vec<Row>,
}

/// Text and exit code.
pub(super) fn run(options: &Check) -> (String, u8) {
    let caller = Caller::look();
    if options.health {
        let answer = health::ask(&caller);
        let text = match (options.json, options.classad) {
            (true, _) => answer.json(),
            (_, true) => answer.classad(),
            _ => answer.line(),
        };
        return (text, answer.exit_code);
    }
    let report = examine(&caller);
    let text = if options.json { show::json(&report) } else { show::text(&report) };
    (text, report.exit_code)
}

fn examine(caller: &Caller) -> Report {
    let report = |answer: Answer, exit_code, checks| Report {
        version: 1,
        verdict: answer.state,
        exit_code,
        reason: answer.reason,
        uid: caller.uid,
        checked: answer.checked,
        checks,
    };
    if caller.uid == 0 {
        let answer = health::of_root();
        return report(answer, UNKNOWN, Vec::new());
    }
    let found = match ask::launcher(false) {
        Ok(found) => found,
        Err(failure) => {
            let answer = health::untold(&failure);
            return report(answer, UNKNOWN, Vec::new());
        }
    };
    let loaded = crate::config::load(&Place::system());
    let rows = rows(&found, &loaded, caller);
    let mut answer = health::judge(&found);
    let worst = rows.iter().map(Row::severity).max().unwrap_or(GOOD);
    let mut code = answer.exit_code;
    if answer.exit_code == GOOD && worst != GOOD {
        (answer.state, answer.reason, code) = weaker(&rows, worst);
    }
    report(answer, code, rows)
}

/// A launch would run, and not everything is as the site wants it.
fn weaker(rows: &[Row], worst: u8) -> (&'static str, String, u8) {
    let names: Vec<&str> =
        rows.iter().filter(|row| row.severity() == worst).map(|row| row.mechanism.as_str()).collect();
    let list = names.join(", ");
    match worst {
        CRITICAL => ("not-ready", format!("required, and not there: {list}"), CRITICAL),
        _ => ("degraded", format!("payloads run; preferred, and not there: {list}"), WARNING),
    }
}

fn rows(found: &Findings, loaded: &Result<Config, Failure>, caller: &Caller) -> Vec<Row> {
    // A configuration that cannot be read is in its own row; the others show what the defaults would demand.
    let defaults = Config::default();
    let config = loaded.as_ref().unwrap_or(&defaults);
    let mut rows = settings::rows(found, loaded);
    rows.extend(walls::rows(found, config));
    rows.extend(log::rows(found, config, caller));
    rows.push(offsite::row(found, config));
    rows.extend(host::rows());
    rows
}
