//! `bailey report`: what happened since a cursor that people outside should hear of, for a site's mail or ticket script.
//!
//! 1. Every line of the log is read once: the cursor that one report ends with is where the next begins ([`cursor`]).
//! 2. Lines between two cursors fit each other's hashes, or the report says that the chain was changed and tells nothing.
//! 3. What retention removed unread is said (`lost`), never passed over.
#![forbid(unsafe_code)]

pub(crate) mod cursor;
mod event;
mod read;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::ask_log::{Home, note};
use crate::failure::{Failure, Printable};
use cursor::{Cursor, Since};
use event::Event;

#[derive(Debug, Args)]
pub(super) struct Report {
    /// The cursor that the last report ended with; "start": from the log's beginning, "now": only a cursor
    #[arg(long, value_name = "CURSOR")]
    since: String,
    /// Answer in JSON: one line for each event, then one with the cursor
    #[arg(long)]
    json: bool,
    /// At most so many events; the rest comes with the next cursor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// A log's directory, or one with the logs of several hosts; without it this host's own log
    #[arg(long, value_name = "DIR", num_args = 1..)]
    log: Vec<PathBuf>,
}

/// The last line of an answer in JSON.
#[derive(Debug, Serialize)]
struct Last<'a> {
    cursor: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
    #[serde(skip_serializing_if = "is_zero")]
    lost_lines: u64,
    #[serde(skip_serializing_if = "is_zero")]
    unreadable_lines: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(super) fn report(options: &Report) -> Result<(String, u8), Failure> {
    let since = Since::parse(&options.since)?;
    let home = Home::new(&options.log)?;
    let vos = &home.config.tables.vos;
    let most = options.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut events: Vec<Event> = Vec::new();
    let mut next = Cursor::default();
    let (mut lost_lines, mut unreadable) = (0, 0);
    let alone = home.logs.len() == 1;
    for dir in &home.logs {
        let key = cursor::key(dir);
        let from = match &since {
            Since::Start => read::From::Start,
            Since::Now => read::From::End,
            Since::Cursor(cursor) => match cursor.place(&key, alone) {
                Some(place) => read::From::Behind(place.clone()),
                None => read::From::Start,
            },
        };
        let room = most.saturating_sub(events.len());
        let read = read::read(dir, &from, room, &mut |record| {
            let log = (!alone).then(|| dir.display().to_string());
            Event::of(record, vos).map(|event| events.push(Event { log, ..event })).is_some()
        })?;
        lost_lines += read.lost;
        unreadable += read.unreadable;
        if let Some(place) = read.place {
            next.set(key, place);
        }
    }
    if let Since::Cursor(cursor) = &since {
        next.keep(cursor, alone);
    }
    if home.is_recorders {
        note(&home.config, format!("report --since {}", Printable(&options.since)), events.len() as u64);
    }
    let cursor = next.to_string();
    let mut text = String::new();
    if options.json {
        for event in &events {
            text.push_str(&serde_json::to_string(event).unwrap_or_default());
            text.push('\n');
        }
        let last = Last { cursor: &cursor, lost: lost_lines > 0, lost_lines, unreadable_lines: unreadable };
        text.push_str(&serde_json::to_string(&last).unwrap_or_default());
        text.push('\n');
        return Ok((text, 0));
    }
    // Writing to a String never fails.
    let _ = match events.len() {
        0 => writeln!(text, "Nothing to report."),
        1 => writeln!(text, "One event."),
        count => writeln!(text, "{count} events."),
    };
    for event in &events {
        text.push('\n');
        event.human(&mut text);
    }
    if lost_lines > 0 {
        let _ =
            writeln!(text, "\nRetention removed {lost_lines} lines unread: what happened in them is lost.");
    }
    if unreadable > 0 {
        let _ = writeln!(text, "\n{unreadable} lines have a form that this version does not know.");
    }
    let _ = writeln!(text, "\nThe next report begins with:\n--since {cursor}");
    Ok((text, 0))
}

/// The failure when the lines behind a cursor are not those that it came from.
fn changed(dir: &Path, why: impl Into<String>) -> Failure {
    Failure::refused(
        format!("cannot go on from this cursor in {}: the chain was changed", dir.display()),
        why,
        "run bailey verify; when the reason is known, begin again with --since now or --since start",
    )
}
