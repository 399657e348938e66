//! `bailey ban`: the lists of who may not run, looked at and changed.
//!
//! 1. Only lists in our own format are edited ([`edit`]). What stands in somebody else's list is theirs to change, and a
//!    command says where it stands.
//! 2. What a command says of a ban it has from the same functions that launcher and recorder decide with.
#![forbid(unsafe_code)]

mod add;
mod check;
mod edit;
mod import;
mod list;
mod lists;
mod remove;
mod tell;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(super) use lists::consequence;

use super::who::Who;
use crate::failure::Failure;
use crate::policy::bans::Format;

/// The list that is edited where none is named.
const LIST: &str = "bailey-ban.toml";

/// `bailey ban`.
#[derive(Debug, Subcommand)]
pub(super) enum Ban {
    /// Ban somebody or something, at once
    Add(Box<Add>),
    /// Lift a ban
    Remove(Remove),
    /// Who is banned?
    List(List),
    /// Are the lists in order? Exit code 0: yes, 1: nothing new runs until they are, 2: they cannot be looked at
    Check,
    /// Take over a list of another format, whole or not at all
    Import(Import),
    /// Would this identity be banned? Exit code 0: no, 1: yes, 2: nobody can tell
    Test(Who),
}

/// `bailey ban add`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true)
    .args(["user", "subject", "person", "vo", "group", "pilot", "pilot_uid", "image"]))]
pub(super) struct Add {
    /// A person by one name: DN, or a token's subject of any issuer
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The token's issuer; with --subject
    #[arg(long, value_name = "URL", requires = "subject", conflicts_with_all = ["user", "person", "vo", "group", "pilot", "pilot_uid", "image"])]
    issuer: Option<String>,
    /// The token's subject; with --issuer
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// A [[person]] of the configuration
    #[arg(long, value_name = "ID")]
    person: Option<String>,
    /// Everybody of a VO
    #[arg(long)]
    vo: Option<String>,
    /// Everybody in a group
    #[arg(long)]
    group: Option<String>,
    /// What one pilot starts
    #[arg(long, value_name = "ID")]
    pilot: Option<String>,
    /// What a local account starts
    #[arg(long, value_name = "N")]
    pilot_uid: Option<u32>,
    /// An image by its digest
    #[arg(long, value_name = "sha256:...")]
    image: Option<String>,
    /// Why: its user reads it, and whoever lifts the ban
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The incident
    #[arg(long, value_name = "T")]
    ticket: Option<String>,
    /// When it begins: RFC 3339, or a day in UTC
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// When it ends: RFC 3339, a day in UTC (its end), or a span from now such as 7d
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What happens to payloads that run
    #[arg(long, value_name = "kill|freeze")]
    action: Option<String>,
    /// How long they may take to end
    #[arg(long, value_name = "SPAN")]
    grace: Option<String>,
    /// The list to write it into
    #[arg(long, value_name = "NAME.toml", default_value = LIST)]
    list: String,
}

/// `bailey ban remove`.
#[derive(Debug, Args)]
pub(super) struct Remove {
    /// Whom the ban names, as the list has it
    #[arg(value_name = "NAME", required_unless_present = "id", conflicts_with = "id")]
    name: Option<String>,
    /// The ban in this line, as bailey ban list shows it; repeatable
    #[arg(long, value_name = "[LIST:]LINE")]
    id: Vec<String>,
    /// Only in this list; without it in all of our own
    #[arg(long, value_name = "NAME.toml")]
    list: Option<String>,
}

/// `bailey ban list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Answer in JSON, one line for each ban
    #[arg(long)]
    json: bool,
    /// Also bans that are over
    #[arg(long)]
    all: bool,
}

/// `bailey ban import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The list
    file: PathBuf,
    /// How it is written; without it the file's name says so
    #[arg(long, value_name = "FORMAT")]
    format: Option<Written>,
    /// The list to write into
    #[arg(long, value_name = "NAME.toml", default_value = LIST)]
    list: String,
    /// The reason of bans that name none
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// A format on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Written {
    /// LCAS or LCMAPS
    Lcas,
    /// One DN a line
    Dn,
    /// HTCondor map file
    Condor,
    /// Argus simplified policy language
    Argus,
    /// bailey's own
    Toml,
}

impl Written {
    const fn format(self) -> Format {
        match self {
            Self::Lcas => Format::Lcas,
            Self::Dn => Format::DnLines,
            Self::Condor => Format::CondorMap,
            Self::Argus => Format::Argus,
            Self::Toml => Format::Ours,
        }
    }
}

/// Text and exit code.
pub(super) fn run(command: Ban) -> Result<(String, u8), Failure> {
    match command {
        Ban::Add(add) => add::run(&add).map(|text| (text, 0)),
        Ban::Remove(remove) => remove::run(&remove),
        Ban::List(list) => list::run(&list).map(|text| (text, 0)),
        Ban::Check => check::run(),
        Ban::Import(import) => import::run(&import),
        Ban::Test(who) => test::run(&who),
    }
}
