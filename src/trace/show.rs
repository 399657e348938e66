//! An answer as people and programs read it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::around::{Around, Chain};
use super::person::Person;
use super::{Answer, OfLog, Payload, vo};
use crate::admin::verify::{KeyFrom, Report};
use crate::audit::record::{Action, Record, Role};
use crate::failure::Printable;
use crate::policy::settings::Vo;

/// The widest line.
const WIDTH: usize = 100;
/// The most payloads that are shown in full.
const FULL: usize = 8;
/// The most payloads that are shown at all.
const LISTED: usize = 200;

/// What is told besides the logs' own records.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// No zone was named with the time.
    pub zone_assumed: bool,
    /// `[[vo]]` of this host's configuration.
    pub vos: &'a [Vo],
    /// What resolvers answered to this question.
    pub resolved: &'a [Resolved],
}

impl Answer {
    /// For a person: the answer in words first, then the payloads, then whether the logs can be trusted.
    pub fn human(&self, told: &Told<'_>) -> String {
        let zone_assumed = told.zone_assumed;
        let count = self.count();
        let mut text = match count {
            0 if self.question.has_time() => {
                "No payload ran on this log's host at that time that fits the question.\n".to_owned()
            }
            0 => "No payload fits the question.\n".to_owned(),
            1 => "One payload matches.\n".to_owned(),
            count if count > FULL && self.question.pid.is_none() => {
                format!("{count} candidates: add {} to tell them apart.\n", self.hint())
            }
            count => format!("{count} payloads match.\n"),
        };
        // Writing to a String never fails.
        let read = if zone_assumed { " (no zone given: read as UTC)" } else { " UTC" };
        match (self.question.from, self.question.to) {
            (Some(from), Some(to)) if from == to => {
                let _ = writeln!(text, "Asked for {from}{read}.");
            }
            (None, None) => {}
            (from, to) => {
                let word = |time: Option<_>, none: &str| {
                    time.map_or_else(|| none.to_owned(), |time: crate::audit::Timestamp| time.to_string())
                };
                let (from, to) = (word(from, "the beginning"), word(to, "the end"));
                let _ = writeln!(text, "Asked for {from} to {to}{read}.");
            }
        }
        if let Some(person) = &self.question.person {
            line(&mut text, &format!("Names of {}: ", Printable(&person.id)), &self.names(person));
        }
        for resolved in told.resolved {
            resolved.line(&mut text);
        }
        let several = self.logs.len() > 1;
        let mut listed = 0;
        for log in &self.logs {
            if several && !(log.payloads.is_empty() && log.records.is_empty()) {
                text.push('\n');
                line(&mut text, "log     ", &log.log.display().to_string());
            }
            for payload in &log.payloads {
                listed += 1;
                if count <= FULL {
                    text.push('\n');
                    full(&mut text, payload, told.vos);
                } else if listed <= LISTED {
                    short(&mut text, payload);
                }
            }
            others(&mut text, &log.records);
        }
        if let Some(more) = count.checked_sub(LISTED).filter(|more| *more > 0) {
            let _ = writeln!(text, "and {more} more: --json has them all");
        }
        text.push('\n');
        for log in &self.logs {
            if several {
                line(&mut text, "", &format!("{}:", log.log.display()));
            }
            log.trust(&mut text);
        }
        text
    }

    /// What would narrow the question most.
    fn hint(&self) -> &'static str {
        let question = &self.question;
        match (question.has_time(), question.cgroup.is_some(), question.job.is_some()) {
            (true, false, false) => "a pid, cgroup or job",
            (true, ..) => "a pid or user",
            (false, ..) => "a time, pid or job",
        }
    }

    /// The person's names, each once: those of the configuration, or where it has none those that the records give.
    fn names(&self, person: &Person) -> String {
        if !person.names.is_empty() {
            return person.names.join("; ");
        }
        let payloads = self.logs.iter().flat_map(|log| &log.payloads);
        let mut names: Vec<&str> = payloads.filter_map(|payload| payload.launch.user.id.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        names.join("; ")
    }

    /// For a program: one JSON object on one line.
    pub fn json(&self, told: &Told<'_>) -> String {
        let zone_assumed = told.zone_assumed;
        let payloads: Vec<serde_json::Value> = self
            .logs
            .iter()
            .flat_map(|log| {
                log.payloads.iter().map(|payload| {
                    let mut value = serde_json::json!(payload);
                    if let Some(object) = value.as_object_mut() {
                        object.insert("log".to_owned(), serde_json::json!(log.log));
                        if let Some((vo, page)) = whom_to_ask(payload, told.vos) {
                            let ask =
                                serde_json::json!({ "page": page, "security_contact": vo.security_contact });
                            object.insert("ask".to_owned(), ask);
                        }
                    }
                    value
                })
            })
            .collect();
        let logs: Vec<serde_json::Value> = self
            .logs
            .iter()
            .map(|log| {
                let mut value = serde_json::json!(log);
                if let Some(object) = value.as_object_mut() {
                    object.remove("payloads");
                }
                value
            })
            .collect();
        let question = &self.question;
        let mut value = serde_json::json!({
            "asked": { "from": question.from, "to": question.to, "zone_assumed": zone_assumed },
            "payloads": payloads,
            "logs": logs,
        });
        if let Some(object) = value.as_object_mut() {
            if let Some(person) = &question.person {
                let of = serde_json::json!({ "id": person.id, "names": person.names });
                object.insert("person".to_owned(), of);
            }
            if !told.resolved.is_empty() {
                object.insert("resolved".to_owned(), serde_json::json!(told.resolved));
            }
        }
        format!("{value}\n")
    }
}

/// What one resolver answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Resolved {
    /// The launch.
    pub id: String,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who vouches for the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The answer is in the log now.
    pub stored: bool,
    /// Why there is no answer, or why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Resolved {
    fn line(&self, text: &mut String) {
        let label = format!("{}: ", self.id);
        match (&self.user, &self.trouble) {
            (Some(user), None) => line(text, &label, &format!("{user}, by the VO's resolver")),
            (Some(user), Some(trouble)) => {
                line(text, &label, &format!("{user}, by the VO's resolver"));
                line(text, "  not stored: ", trouble);
            }
            (None, trouble) => {
                line(text, &label, "the VO's resolver gave no name");
                line(text, "  ", trouble.as_deref().unwrap_or_default());
            }
        }
    }
}

/// Of a payload that only a job names: its VO, and the job's page.
fn whom_to_ask<'a>(payload: &Payload, vos: &'a [Vo]) -> Option<(&'a Vo, Option<String>)> {
    let record = &payload.launch;
    let vo = vo::of(record, vos).filter(|_| vo::is_nameless(record))?;
    Some((vo, vo::job(record).and_then(|job| vo::page(vo, job))))
}

impl OfLog {
    fn trust(&self, text: &mut String) {
        match &self.chain {
            Chain::Whole(report) => whole(text, report),
            Chain::Around(around) => beside(text, around),
        }
        if self.unreadable_lines > 0 {
            let _ = writeln!(
                text,
                "{} lines have a form that this version does not know.",
                self.unreadable_lines
            );
        }
    }
}

fn beside(text: &mut String, around: &Around) {
    if let Some(broken) = &around.first_break {
        line(text, "The chain is BROKEN at ", &format!("{}:{}", broken.segment, broken.line));
        line(text, "  ", &broken.text);
        text.push_str("Records near that line may not be what was written: run bailey verify.\n");
        return;
    }
    if around.stretches.is_empty() && around.neighbour_only == 0 {
        text.push_str("No record, so no part of the chain was checked: bailey verify checks all of it.\n");
        return;
    }
    text.push_str("The chain around these records verifies:\n");
    for stretch in around.stretches.iter().take(FULL) {
        let to = if stretch.attested_seq.is_some() {
            format!("checkpoint {}", stretch.to_seq)
        } else {
            format!("the last line, {}: no checkpoint is behind it yet", stretch.to_seq)
        };
        line(text, "  ", &format!("{}: from line {} to {to}", stretch.segment, stretch.from_seq));
    }
    if let Some(more) = around.stretches.len().checked_sub(FULL).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more such stretches");
    }
    if around.neighbour_only > 0 {
        let _ = writeln!(
            text,
            "  Of {} records only the next line was compared: --verify checks the whole log.",
            around.neighbour_only
        );
    }
    signed(text, &around.keys, around.key_from);
}

fn whole(text: &mut String, report: &Report) {
    match &report.first_break {
        None => {
            let _ = writeln!(
                text,
                "The chain verifies: {} lines, up to sequence {}.",
                report.lines, report.last_seq
            );
            if let Some(seq) = report.pruned_to {
                let _ = writeln!(text, "Retention removed the lines up to {seq}.");
            }
            signed(text, &report.signatures.keys, report.signatures.key_from);
        }
        Some(broken) => {
            line(text, "The chain is BROKEN at ", &format!("{}:{}", broken.segment, broken.line));
            line(text, "  ", &broken.text);
            text.push_str("What is in the log from that line on, nobody vouches for.\n");
        }
    }
}

fn signed(text: &mut String, keys: &std::collections::BTreeSet<String>, from: Option<KeyFrom>) {
    if keys.is_empty() {
        text.push_str("No signature vouches for it.\n");
        return;
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let said = match from {
        Some(KeyFrom::Named) => "signatures good with the named key",
        Some(KeyFrom::Host) => "signatures good, but with a key from the log's own host:",
        None => "signatures NOT checked (--key FILE), made with key",
    };
    line(text, "  ", &format!("{said} {}", keys.join(", ")));
}

fn others(text: &mut String, records: &[Record]) {
    if records.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{} other records fit:", records.len());
    for record in records.iter().take(LISTED) {
        let action = serde_json::to_value(record.event.action).unwrap_or_default();
        let time: String =
            record.timestamp.map(|time| time.to_string().chars().take(19).collect()).unwrap_or_default();
        let who = record.user.id.as_deref().unwrap_or("unknown");
        let why = record.event.reason.as_deref().or(record.error.message.as_deref()).unwrap_or_default();
        line(text, &format!("{time}Z {} ", action.as_str().unwrap_or_default()), &format!("{who}: {why}"));
    }
    if let Some(more) = records.len().checked_sub(LISTED).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more: --json has them all");
    }
}

fn full(text: &mut String, payload: &Payload, vos: &[Vo]) {
    let record = &payload.launch;
    let none = || "unknown".to_owned();
    line(text, "launch  ", record.event.id.as_deref().unwrap_or_default());
    let assurance = record
        .grid
        .identity
        .assurance
        .map_or_else(String::new, |assurance| format!(" ({})", format!("{assurance:?}").to_lowercase()));
    let who = record.user.id.clone().unwrap_or_else(none);
    line(text, "who     ", &format!("{who}{assurance}"));
    if let Some(role) = role(record) {
        line(text, "role    ", role);
    }
    for learned in &payload.learned {
        let time: String =
            learned.timestamp.map(|time| time.to_string().chars().take(19).collect()).unwrap_or_default();
        let by = learned.grid.identity.source.as_deref().unwrap_or("unknown");
        let user = learned.user.id.as_deref().unwrap_or("unknown");
        line(text, &format!("learned {time}Z: "), &format!("{user}, by {by}"));
    }
    for (label, value) in [
        ("vo      ", &record.grid.vo),
        ("job     ", &record.grid.job.id),
        ("pilot   ", &record.grid.pilot.id),
        ("pilot's ", &record.grid.pilot.subject),
        ("image   ", &record.container.image.name),
        ("program ", &record.process.executable),
    ] {
        if let Some(value) = value {
            line(text, label, value);
        }
    }
    if let Some((vo, page)) = whom_to_ask(payload, vos) {
        for (label, value) in [("page    ", page.as_ref()), ("ask     ", vo.security_contact.as_ref())] {
            if let Some(value) = value {
                line(text, label, value);
            }
        }
    }
    let host = record.host.name.clone().unwrap_or_else(none);
    let pid = record.process.pid.map_or_else(none, |pid| pid.to_string());
    line(text, "where   ", &format!("{host}, pid {pid}"));
    if let Some(path) = &record.grid.cgroup.path {
        line(text, "cgroup  ", path);
    }
    line(text, "start   ", &payload.start.to_string());
    if payload.pruned {
        text.push_str("        retention removed its launch record: this is what a live list says\n");
    }
    let Some((end, closed)) = payload.end.zip(payload.closed.as_ref()) else {
        line(text, "end     ", "still open: the log has no end of it");
        return;
    };
    let mut how = end.to_string();
    if let Some(code) = closed.process.exit_code {
        let _ = write!(how, ", exit code {code}");
    }
    if let Some(signal) = &closed.grid.end.signal {
        let _ = write!(how, ", {signal}");
    }
    line(text, "end     ", &how);
    if closed.event.action == Action::LaunchFailed {
        text.push_str("        its launcher says that nothing ran: the command could not be executed\n");
    }
    if let Some(reason) = &closed.event.reason {
        line(text, "because ", reason);
    }
}

fn short(text: &mut String, payload: &Payload) {
    let record = &payload.launch;
    let pid = record.process.pid.unwrap_or_default();
    let failed = payload.closed.as_ref().is_some_and(|end| end.event.action == Action::LaunchFailed);
    let end = match payload.end {
        Some(_) if failed => "failed",
        Some(_) => "ended ",
        None => "open  ",
    };
    let start: String = payload.start.to_string().chars().take(19).collect();
    let learned = payload.learned.last().and_then(|learned| learned.user.id.as_deref());
    let who = record.user.id.as_deref().or(learned).unwrap_or("unknown");
    let what = match record.grid.role {
        Some(Role::Probe) => "probe: ",
        Some(Role::Pilot) => "pilot: ",
        Some(Role::Payload) | None => "",
    };
    line(text, &format!("{start}Z {end} pid {pid:<8} {what}"), who);
}

/// What it is, where it is no user's payload.
fn role(record: &Record) -> Option<&'static str> {
    match record.grid.role? {
        Role::Payload => None,
        Role::Pilot => Some("the pilot itself, no user's payload"),
        Role::Probe => Some("a probe: a question whether payloads would run here"),
    }
}

/// One line: a label of ours, a value from outside, cut at [`WIDTH`].
fn line(text: &mut String, label: &str, value: &str) {
    let shown = format!("{label}{}", Printable(value));
    if shown.chars().count() > WIDTH {
        text.extend(shown.chars().take(WIDTH - 1));
        text.push('…');
    } else {
        text.push_str(&shown);
    }
    text.push('\n');
}
