//! The command line of `bailey-admin`, and the one place that prints its answers and turns them into exit codes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::ask_log;
use super::live::{self, Draining};
use super::report;
use crate::failure::Code;

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
    /// Would a payload run here, behind which walls? Exit code as of monitoring plugins: 0 good, 1 warning, 2 no, 3 unknown
    Check(super::check::Check),
    /// Whose payload was it?
    Trace(Box<ask_log::Trace>),
    /// Is the log whole? Exit code 0: yes, 1: broken, 2: it cannot be read
    Verify(ask_log::Verify),
    /// What happened that people outside should hear of? Exit code 1: the chain was changed, 2: it cannot be read
    Report(report::Report),
    /// Which payloads live here?
    Ps(Ps),
    /// Stop a payload. Exit code 0: its launcher was told, 1: no, 2: the recorder cannot be asked
    Stop(Stop),
    /// Take no new payloads on this node, or take them again
    Drain(Drain),
    /// Who may not run here: the lists, and their changes
    #[command(subcommand)]
    Ban(super::ban::Ban),
    /// What this site's policy says of a launch, and why
    #[command(subcommand)]
    Policy(super::policy::Policy),
    /// Give back and remove what dead launches left under uids of their own. Exit code 1: something stays
    Clean(super::clean::Clean),
    /// Check the configuration, or print it as it takes effect
    #[command(subcommand)]
    Config(Config),
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Check files, in the order in which they would be read; without one, this host's own
    Validate(Validate),
    /// Print the configuration in effect, defaults included
    Show,
}

#[derive(Debug, Args)]
struct Validate {
    /// Files to check
    files: Vec<PathBuf>,
    /// A warning, such as of a rule that can never apply, is an answer of no: exit code 1
    #[arg(long)]
    strict: bool,
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

/// Runs one command line (with the program's name) and gives the exit code.
pub fn run<I: IntoIterator<Item = OsString>>(args: I) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    // Monitoring has a code of its own for "nobody can tell".
    let cannot = if args.get(1).is_some_and(|word| word == "check") { super::check::UNKNOWN } else { CANNOT };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                let failure = crate::frontend::usage(&error, "see bailey-admin --help");
                let _ = writeln!(std::io::stderr(), "bailey-admin: {failure}");
                return cannot;
            }
            let _ = error.print(); // nobody is left to tell
            return 0;
        }
    };
    let answer = match cli.command {
        Command::Check(options) => Ok(super::check::run(&options)),
        Command::Trace(options) => ask_log::trace(*options),
        Command::Verify(options) => ask_log::verify(&options),
        Command::Report(options) => report::report(&options),
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
        Command::Ban(command) => super::ban::run(command),
        Command::Policy(command) => super::policy::run(command),
        Command::Clean(options) => super::clean::run(&options),
        Command::Config(Config::Validate(options)) => super::config::validate(&options.files, options.strict),
        Command::Config(Config::Show) => super::config::show().map(|text| (text, 0)),
    };
    match answer {
        Ok((text, code)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => code,
            Err(_) => cannot,
        },
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "bailey-admin: {failure}");
            // It could be asked, and the answer is no.
            if failure.code == Code::Refused { NO } else { CANNOT }
        }
    }
}
