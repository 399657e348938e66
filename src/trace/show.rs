//! An answer as people and programs read it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::{Answer, Payload};
use crate::failure::Printable;

/// The widest line.
const WIDTH: usize = 100;
/// The most payloads that are shown in full.
const FULL: usize = 8;
/// The most payloads that are shown at all.
const LISTED: usize = 200;

impl Answer {
    /// For a person: the answer in words first, then the payloads, then whether the log can be trusted.
    pub fn human(&self, zone_assumed: bool) -> String {
        let mut text = match self.payloads.len() {
            0 if self.question.at.is_some() => {
                "No payload ran on this log's host at that time that fits the question.\n".to_owned()
            }
            0 => "No payload fits the question.\n".to_owned(),
            1 => "One payload matches.\n".to_owned(),
            count if count > FULL && self.question.pid.is_none() => {
                format!("{count} candidates: add --pid, --user or --job to tell them apart.\n")
            }
            count => format!("{count} payloads match.\n"),
        };
        // Writing to a String never fails.
        if let Some(at) = self.question.at {
            let read = if zone_assumed { " (no zone given: read as UTC)" } else { " UTC" };
            let _ = writeln!(text, "Asked for {at}{read}.");
        }
        for payload in self.payloads.iter().take(LISTED) {
            if self.payloads.len() <= FULL {
                text.push('\n');
                full(&mut text, payload);
            } else {
                short(&mut text, payload);
            }
        }
        if let Some(more) = self.payloads.len().checked_sub(LISTED).filter(|more| *more > 0) {
            let _ = writeln!(text, "and {more} more: --json has them all");
        }
        text.push('\n');
        self.trust(&mut text);
        text
    }

    fn trust(&self, text: &mut String) {
        let report = &self.report;
        match &report.first_break {
            None => {
                let _ = writeln!(
                    text,
                    "The chain verifies: {} lines, up to sequence {}.",
                    report.lines, report.last_seq
                );
            }
            Some(broken) => {
                line(text, "The chain is BROKEN at ", &format!("{}:{}", broken.segment, broken.line));
                line(text, "  ", &broken.text);
                text.push_str("Nothing behind that line was read; what stands above may be incomplete.\n");
            }
        }
        if self.unreadable > 0 {
            let _ = writeln!(text, "{} lines have a form that this version does not know.", self.unreadable);
        }
    }

    /// For a program: one JSON object on one line.
    pub fn json(&self) -> String {
        let value = serde_json::json!({
            "payloads": self.payloads,
            "unreadable_lines": self.unreadable,
            "chain": self.report,
        });
        format!("{value}\n")
    }
}

fn full(text: &mut String, payload: &Payload) {
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
    for (label, value) in [
        ("vo      ", &record.grid.vo),
        ("job     ", &record.grid.job.id),
        ("pilot   ", &record.grid.pilot.id),
        ("image   ", &record.container.image.name),
        ("program ", &record.process.executable),
    ] {
        if let Some(value) = value {
            line(text, label, value);
        }
    }
    let host = record.host.name.clone().unwrap_or_else(none);
    let pid = record.process.pid.map_or_else(none, |pid| pid.to_string());
    line(text, "where   ", &format!("{host}, pid {pid}"));
    line(text, "start   ", &payload.start.to_string());
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
    if let Some(reason) = &closed.event.reason {
        line(text, "because ", reason);
    }
}

fn short(text: &mut String, payload: &Payload) {
    let record = &payload.launch;
    let pid = record.process.pid.unwrap_or_default();
    let end = if payload.end.is_some() { "ended" } else { "open " };
    let start: String = payload.start.to_string().chars().take(19).collect();
    let who = record.user.id.as_deref().unwrap_or("unknown");
    line(text, &format!("{start}Z {end} pid {pid:<8} "), who);
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
