//! `bailey policy`: what the site's policy says of a launch, and why.
//!
//! 1. The answer MUST come from the functions that the launcher calls (`plan::open`, `plan::facts`, the policy's own look-up and
//!    decision): a second opinion would be worth nothing.
//! 2. Nothing is started and nothing recorded.
#![forbid(unsafe_code)]

mod explain;
mod show;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::who::Who;
use crate::audit::Timestamp;
use crate::config::{self, Place};
use crate::failure::{Failure, Printable};
use crate::frontend::bailey::{bind, network};
use crate::policy::settings::OnTrouble;
use crate::policy::store::Policy as Rules;
use crate::request::{Bind, Network, parse_cpus, parse_duration, parse_pids, parse_size};

/// `bailey policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Which rule decides about a launch, and why? Exit code 0: it may run, 1: it may not, 2: nobody can tell
    Explain(Box<Explain>),
    /// Rules that can never apply, and lists in trouble. Exit code 1: nothing new runs on this node
    Check(Check),
}

/// `bailey policy explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    who: Who,
    /// Root directory, or a SIF file; without it the host's system
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// It asks to write to the image
    #[arg(long)]
    writable: bool,
    /// Its working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// A file or directory that is shown to it; repeatable
    #[arg(long, value_name = "SRC[:DST[:ro|rw]]", value_parser = bind())]
    bind: Vec<Bind>,
    /// host, or none
    #[arg(long, value_name = "host|none", value_parser = network, default_value = "host")]
    network: Network,
    /// It asks to make namespaces of its own
    #[arg(long)]
    nested: bool,
    /// The wall time that it asks for
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wall_time: Option<Duration>,
    /// The scratch that it asks for
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    scratch_size: Option<u64>,
    /// The memory that it asks for
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// The cores that it asks for
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    cpus: Option<u64>,
    /// The processes and threads that it asks for
    #[arg(long, value_name = "N", value_parser = parse_pids)]
    pids: Option<u64>,
    /// Show also the rules behind the one that decides
    #[arg(long)]
    all: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// `bailey policy check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// A warning is an answer of no as well
    #[arg(long)]
    strict: bool,
}

/// Text and exit code.
pub(super) fn run(command: Policy) -> Result<(String, u8), Failure> {
    match command {
        Policy::Explain(options) => explain::run(&options),
        Policy::Check(options) => check(options.strict),
    }
}

fn check(strict: bool) -> Result<(String, u8), Failure> {
    let config = config::load(&Place::system())?;
    let policy = Rules::read(&config, None, Timestamp::now());
    let mut out = String::new();
    let warnings = config::warnings(&config);
    for warning in &warnings {
        let _ = writeln!(out, "warning: {}", Printable(warning));
    }
    let mut closed = false;
    for trouble in policy.lists().troubles() {
        closed |= trouble.kind.measure(&policy.settings().bans) == OnTrouble::Closed;
        let _ = writeln!(out, "trouble: {}", super::ban::consequence(trouble, &policy.settings().bans));
    }
    let tables = &config.tables;
    let default = if config.policy.default_deny { "deny" } else { "allow" };
    let _ = writeln!(
        out,
        "{} rules, then {default}; {} persons, {} trusted issuers, {} VOs, {} bans in {} lists.",
        tables.rules.len(),
        tables.persons.len(),
        tables.trusts.len(),
        tables.vos.len(),
        policy.lists().lists.iter().map(|list| list.bans).sum::<usize>(),
        policy.lists().lists.len(),
    );
    if closed {
        out.push_str("Nothing new runs on this node.\n");
    }
    Ok((out, u8::from(closed || strict && !warnings.is_empty())))
}
