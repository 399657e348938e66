//! The command line of `bailey-admin`, and the one place that prints its answers and turns them into exit codes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::ask_log;

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
    Trace(Box<ask_log::Trace>),
    /// Is the log whole? Exit code 0: yes, 1: broken, 2: it cannot be read
    Verify(ask_log::Verify),
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
        Command::Trace(options) => ask_log::trace(*options),
        Command::Verify(options) => ask_log::verify(&options),
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
            CANNOT
        }
    }
}
