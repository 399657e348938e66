//! Configuration, ban lists, drain flag and clock.
#![forbid(unsafe_code)]

use super::{Row, State, Wanted};
use crate::admin::ban::consequence;
use crate::audit::Timestamp;
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::policy::settings::OnTrouble;
use crate::policy::store::Policy;
use crate::probe::{Findings, Part};

/// A clock before this was never set: the first version is of this day.
const OLDEST: &str = "2026-01-01T00:00:00Z";

pub(super) fn rows(found: &Findings, loaded: &Result<Config, Failure>) -> Vec<Row> {
    let mut rows = Vec::new();
    match loaded {
        Ok(config) => {
            let row = Row::new("configuration", "configuration", Wanted::Required, State::On);
            rows.push(row.why(match config.files.as_slice() {
                [] => "no file: the defaults hold".to_owned(),
                files => {
                    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                    files.join(", ")
                }
            }));
            rows.extend(config::warnings(config).into_iter().map(|warning| {
                Row::new("configuration", "configuration_warning", Wanted::Preferred, State::Weaker)
                    .why(warning)
                    .change("put the line right, then: bailey config validate --strict")
            }));
            rows.extend(lists(config));
        }
        Err(failure) => {
            let row = Row::new("configuration", "configuration", Wanted::Required, State::Off);
            rows.push(row.why(format!("{}: {}", failure.what, failure.why)).change(failure.next.clone()));
        }
    }
    rows.extend(found.troubles.iter().filter(|trouble| trouble.part == Part::Policy && loaded.is_ok()).map(
        |trouble| {
            Row::new("policy", "launches", Wanted::Required, State::Off)
                .why(format!("{}: {}", trouble.what, trouble.why))
                .change(trouble.next.clone())
        },
    ));
    rows.push(match &found.draining {
        Some(reason) => Row::new("policy", "drain_flag", Wanted::Info, State::On)
            .why(format!("no new payloads are taken: {reason}"))
            .change("bailey drain --off"),
        None => Row::new("policy", "drain_flag", Wanted::Info, State::Off).why("new payloads are taken"),
    });
    rows.push(clock());
    rows
}

/// The ban lists, as they stand in the files.
fn lists(config: &Config) -> Vec<Row> {
    let settings = &config.policy.bans;
    let policy = Policy::read(config, None, Timestamp::now());
    let lists = policy.lists();
    let troubled: Vec<Row> = lists
        .troubles()
        .map(|trouble| {
            let closes = trouble.kind.measure(settings) == OnTrouble::Closed;
            let (wanted, state) =
                if closes { (Wanted::Required, State::Off) } else { (Wanted::Preferred, State::Weaker) };
            Row::new("policy", "ban_lists", wanted, state)
                .why(consequence(trouble, settings))
                .change("put the list right; bailey ban check shows them all")
        })
        .collect();
    if !troubled.is_empty() {
        return troubled;
    }
    let bans: usize = lists.lists.iter().map(|list| list.bans).sum();
    let why = match lists.lists.len() {
        0 => format!("none in {}: nobody is banned", settings.dir.display()),
        count => format!("{bans} bans in {count} lists"),
    };
    vec![Row::new("policy", "ban_lists", Wanted::Required, State::On).why(why)]
}

fn clock() -> Row {
    let row = |state| Row::new("host", "clock", Wanted::Preferred, state);
    let now = Timestamp::now();
    if Timestamp::parse_rfc3339(OLDEST).is_some_and(|oldest| now < oldest) {
        return row(State::Off)
            .why(format!("it says {now}, so it was never set; every record would carry that"))
            .change("systemctl enable --now chronyd");
    }
    match crate::host::clock_synchronized() {
        Some(true) => row(State::On).why("it follows a source"),
        Some(false) => row(State::Weaker)
            .why("it follows no source (adjtimex): times in records may be off, and each record says so")
            .change("systemctl enable --now chronyd"),
        None => row(State::Unknown).why("the kernel does not tell"),
    }
}
