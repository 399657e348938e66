//! The command line of `bailey-admin`, and the one place that prints its answers and turns them into exit codes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::live::{self, Draining};
use super::verify::verify;
use crate::audit::{Timestamp, place};
use crate::config;
use crate::failure::{Code, Failure};
use crate::trace::{self, Question, when};

/// Exit code when the answer is no: not there, or not allowed.
const NO: u8 = 1;
/// Exit code when the log cannot be read or the question cannot be understood.
const CANNOT: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "bailey-admin", about = "Questions to bailey's audit log", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Whose payload was it?
    Trace(Trace),
    /// Is the log whole? Exit code 0: yes, 1: broken, 2: it cannot be read
    Verify(Verify),
    /// Which payloads live here?
    Ps(Ps),
    /// Stop a payload. Exit code 0: its launcher was told, 1: no, 2: the recorder cannot be asked
    Stop(Stop),
    /// Take no new payloads on this node, or take them again
    Drain(Drain),
    /// Check the configuration, or print it as it takes effect
    #[command(subcommand)]
    Config(Config),
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Check files, in the order in which they would be read; without one, this host's own
    Validate {
        /// Files to check
        files: Vec<PathBuf>,
    },
    /// Print the configuration in effect, defaults included
    Show,
}

#[derive(Debug, Args)]
struct Ps {
    /// Answer in JSON, one line for each payload
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Stop {
    /// Launch id, the beginning of one, or the payload's pid
    #[arg(value_name = "ID")]
    id: String,
    /// Why: its user reads it, and it is recorded
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Hold the payload for forensics instead of ending it; stopped again, it is killed
    #[arg(long)]
    freeze: bool,
    /// Keep its private files, process list and open sockets
    #[arg(long)]
    preserve: bool,
}

#[derive(Debug, Args)]
struct Drain {
    /// Why no more payloads are taken: every pilot reads it
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["off", "show"])]
    reason: Option<String>,
    /// Take payloads again
    #[arg(long, conflicts_with = "show")]
    off: bool,
    /// Only say how it stands
    #[arg(long)]
    show: bool,
}

#[derive(Debug, Args)]
struct Trace {
    /// The moment: RFC 3339, "YYYY-MM-DD HH:MM[:SS]" in UTC, now, "2 hours ago"
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Pid of the payload's first process, as the host saw it
    #[arg(long)]
    pid: Option<i64>,
    /// Any of the person's names, or a part of one
    #[arg(long)]
    user: Option<String>,
    /// Address of the host or of its site
    #[arg(long)]
    ip: Option<std::net::IpAddr>,
    /// Virtual organisation
    #[arg(long)]
    vo: Option<String>,
    /// The VO's job or task id, the pilot's id, or a batch job's
    #[arg(long)]
    job: Option<String>,
    /// Launch id
    #[arg(long)]
    id: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// The log's directory; without it this account's embedded log
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Verify {
    /// Answer in JSON, one line for each directory
    #[arg(long)]
    json: bool,
    /// The logs' directories; without one this account's embedded log
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

/// Runs one command line (with the program's name) and gives the exit code.
pub fn run<I: IntoIterator<Item = OsString>>(args: I) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                let failure = crate::frontend::usage(&error, "see bailey-admin --help");
                let _ = writeln!(std::io::stderr(), "bailey-admin: {failure}");
                return CANNOT;
            }
            let _ = error.print(); // nobody is left to tell
            return 0;
        }
    };
    let answer = match cli.command {
        Command::Trace(options) => run_trace(options),
        Command::Verify(options) => run_verify(&options),
        Command::Ps(options) => live::ps(options.json).map(|text| (text, 0)),
        Command::Stop(Stop { id, reason, freeze, preserve }) => {
            live::stop(&id, reason, freeze, preserve).map(|text| (text, 0))
        }
        Command::Drain(options) => live::drain(match (options.show, options.off) {
            (true, _) => Draining::Show,
            (_, true) => Draining::Off,
            _ => Draining::On(options.reason.unwrap_or_default()),
        })
        .map(|text| (text, 0)),
        Command::Config(Config::Validate { files }) => super::config::validate(&files).map(|text| (text, 0)),
        Command::Config(Config::Show) => super::config::show().map(|text| (text, 0)),
    };
    match answer {
        Ok((text, code)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => code,
            Err(_) => CANNOT,
        },
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "bailey-admin: {failure}");
            // It could be asked, and the answer is no.
            if failure.code == Code::Refused { NO } else { CANNOT }
        }
    }
}

fn run_trace(options: Trace) -> Result<(String, u8), Failure> {
    let now = Timestamp::now();
    let at = options.at.as_deref().map(|text| when::parse(text, now)).transpose()?;
    let question = Question {
        at: at.as_ref().map(|moment| moment.time),
        pid: options.pid,
        user: options.user,
        ip: options.ip,
        vo: options.vo,
        job: options.job,
        id: options.id,
    };
    let dir = options.log.map_or_else(default_log, Ok)?;
    let answer = trace::ask(&dir, question)?;
    let text = if options.json {
        answer.json()
    } else {
        answer.human(at.as_ref().is_some_and(|moment| moment.zone_assumed))
    };
    Ok((text, u8::from(answer.payloads.is_empty())))
}

fn run_verify(options: &Verify) -> Result<(String, u8), Failure> {
    let dirs = if options.dirs.is_empty() { vec![default_log()?] } else { options.dirs.clone() };
    let mut text = String::new();
    let mut code = 0;
    for dir in dirs {
        let report = verify(&dir)?;
        code = code.max(report.exit_code());
        if options.json {
            text.push_str(&serde_json::to_string(&report).unwrap_or_default());
            text.push('\n');
        } else {
            text.push_str(&report.human(&dir));
        }
    }
    Ok((text, code))
}

/// Where this account's embedded log is, by the same rules as the launcher's.
fn default_log() -> Result<PathBuf, Failure> {
    let config = config::load(&config::Place::system())?;
    let uid = nix::unistd::Uid::effective().as_raw();
    place::place(&config.audit, uid, &|name| std::env::var_os(name), &crate::host::id()?)
}
