//! What of a record people outside hear, and in which words.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde::Serialize;

use crate::audit::Timestamp;
use crate::audit::record::{Action, Ban, EndBy, Record, StopBy};
use crate::failure::{Fault, Printable};
use crate::policy::settings::Vo;
use crate::trace::vo;

/// The widest line.
const WIDTH: usize = 100;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Event {
    /// When it was written.
    pub(super) time: Option<Timestamp>,
    /// `event.action`
    pub(super) action: Option<Action>,
    /// What the user was told to name: the launch id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) incident: Option<String>,
    /// `user.id`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// `grid.identity.person`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) person: Option<String>,
    /// `grid.vo`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vo: Option<String>,
    /// Whom this host's configuration names for the VO.
    pub(super) contacts: Contacts,
    /// `host.name`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    /// The job by which the VO knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<String>,
    /// Its page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_page: Option<String>,
    /// What happened, as its user reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sentence: Option<String>,
    /// Who can cure it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<Fault>,
    /// What ended it, in the words of `grid.end.by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_by: Option<&'static str>,
    /// The ban that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ban: Option<Ban>,
    /// `chain.seq`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    /// The log's directory, where several are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<String>,
}

/// Whom to write to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Contacts {
    /// The VO's, for its users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// The VO's, for security officers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) security: Option<String>,
}

impl Event {
    /// The event that a record tells of; `None` when nobody outside needs to hear of it.
    pub(super) fn of(record: &Record, vos: &[Vo]) -> Option<Self> {
        let action = record.event.action;
        let fault = fault(record);
        let is_one = match action {
            Action::PayloadDeny | Action::PayloadNotice | Action::PayloadStop => true,
            Action::LaunchFailed => fault != Some(Fault::User),
            Action::PayloadEnd => record.grid.end.by.is_some_and(is_told),
            _ => false,
        };
        if !is_one {
            return None;
        }
        let known = vo::of(record, vos);
        let job = vo::job(record);
        Some(Self {
            time: record.timestamp,
            action: Some(action),
            incident: record.event.id.clone(),
            user: record.user.id.clone(),
            person: record.grid.identity.person.clone(),
            vo: record.grid.vo.clone(),
            contacts: Contacts {
                user: known.and_then(|vo| vo.user_contact.clone()),
                security: known.and_then(|vo| vo.security_contact.clone()),
            },
            host: record.host.name.clone(),
            job: job.map(str::to_owned),
            job_page: known.zip(job).and_then(|(vo, job)| vo::page(vo, job)),
            sentence: record.event.reason.clone().or_else(|| record.error.message.clone()),
            fault,
            ended_by: record.grid.end.by.filter(|_| action == Action::PayloadEnd).map(EndBy::as_str),
            ban: Some(record.grid.policy.ban.clone()).filter(|ban| *ban != Ban::default()),
            seq: record.chain.as_ref().map(|chain| chain.seq),
            log: None,
        })
    }

    /// For a person.
    pub(super) fn human(&self, text: &mut String) {
        let action = serde_json::to_value(self.action).unwrap_or_default();
        let time: String =
            self.time.map(|time| time.to_string().chars().take(19).collect()).unwrap_or_default();
        let incident = self.incident.as_deref().unwrap_or("-");
        let host = self.host.as_deref().unwrap_or("unknown host");
        let whose = match self.fault {
            Some(Fault::Site) => ", the site's fault",
            Some(Fault::User) => ", the user's",
            None => "",
        };
        let head = format!("{time}Z {} {incident} {host}{whose}", action.as_str().unwrap_or_default());
        wrap(text, "", &head);
        let mut who = self.user.clone().unwrap_or_else(|| "user unknown".to_owned());
        for (word, value) in [("person", &self.person), ("VO", &self.vo), ("job", &self.job)] {
            if let Some(value) = value {
                let _ = write!(who, ", {word} {value}"); // writing to a String never fails
            }
        }
        wrap(text, "  ", &who);
        let ban = self.ban.as_ref().map(|ban| {
            let ticket = ban.ticket.as_ref().map_or_else(String::new, |ticket| format!(", ticket {ticket}"));
            format!("ban {}{ticket}", ban.entry.as_deref().unwrap_or_default())
        });
        let page = self.job_page.as_ref().map(|page| format!("page {page}"));
        let contacts = match (&self.contacts.user, &self.contacts.security) {
            (None, None) => None,
            (user, security) => Some(
                [("users: ", user), ("security: ", security)]
                    .into_iter()
                    .filter_map(|(word, contact)| contact.as_ref().map(|contact| format!("{word}{contact}")))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        };
        let log = self.log.as_ref().map(|log| format!("log {log}"));
        for line in [self.sentence.clone(), ban, page, contacts, log].into_iter().flatten() {
            wrap(text, "  ", &line);
        }
    }
}

/// Ends that are bailey's or the host's, and not the payload's own or its pilot's.
const fn is_told(by: EndBy) -> bool {
    !matches!(by, EndBy::Payload | EndBy::PilotSignal | EndBy::LauncherLost | EndBy::RecorderRestart)
}

/// Who can cure it: as the record says, else as far as it follows from what happened.
fn fault(record: &Record) -> Option<Fault> {
    let grid = &record.grid;
    let end = match record.event.action {
        Action::PayloadDeny | Action::LaunchFailed => {
            return grid.fault.or(match record.error.code.as_deref() {
                Some("122") => Some(Fault::Site),
                Some("126" | "127") => Some(Fault::User),
                _ => None,
            });
        }
        // What a launcher stops on its own is what its user asked for: the wall time.
        Action::PayloadStop => grid.stop.by.map_or(EndBy::WallTime, StopBy::ends),
        Action::PayloadEnd => grid.end.by?,
        _ => return None,
    };
    match end {
        EndBy::Administrator if grid.stop.by == Some(StopBy::Overuse) => Some(Fault::User),
        EndBy::Administrator | EndBy::HostRestart => Some(Fault::Site),
        EndBy::LauncherLost | EndBy::RecorderRestart => None,
        _ => Some(Fault::User),
    }
}

/// Words on lines of at most [`WIDTH`] columns; what is longer than a line is cut into lines.
fn wrap(text: &mut String, indent: &str, words: &str) {
    let shown = Printable(words).to_string();
    let width = WIDTH - indent.len();
    let mut line = String::new();
    let mut flush = |line: &mut String| {
        if !line.is_empty() {
            text.push_str(indent);
            text.push_str(line);
            text.push('\n');
            line.clear();
        }
    };
    for word in shown.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            flush(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if line.chars().count() >= width {
                flush(&mut line);
            }
            line.push(c);
        }
    }
    flush(&mut line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::LaunchId;

    #[test]
    fn lines_are_wrapped_and_drive_no_terminal() {
        let mut text = String::new();
        wrap(&mut text, "  ", &format!("a {} b\u{1b}[31m\nc", "x".repeat(250)));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.starts_with("  ")), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("\\u{1b}") && text.contains("\\u{a}c"), "{text}");
    }

    #[test]
    fn an_event_is_what_people_outside_hear_of() {
        let id = LaunchId::from_parts(1, [2; 10]);
        let record = |action: Action, by: Option<EndBy>, fault: Option<Fault>, code: &str| {
            let mut record = Record::new(action, id);
            record.grid.end.by = by;
            record.grid.fault = fault;
            record.error.code = Some(code.to_owned()).filter(|code| !code.is_empty());
            record
        };
        let (site, user) = (Some(Fault::Site), Some(Fault::User));
        let told = |record: &Record| Event::of(record, &[]).map(|event| event.fault);
        for ((action, by, fault, code), expected) in [
            ((Action::PayloadLaunch, None, None, ""), None),
            ((Action::PayloadDeny, None, user, "120"), Some(user)),
            ((Action::PayloadDeny, None, None, "120"), Some(None)),
            ((Action::LaunchFailed, None, site, "125"), Some(site)),
            ((Action::LaunchFailed, None, user, "125"), None),
            ((Action::LaunchFailed, None, None, "127"), None),
            ((Action::LaunchFailed, None, None, "122"), Some(site)),
            ((Action::PayloadNotice, None, None, ""), Some(None)),
            ((Action::PayloadStop, None, None, ""), Some(user)),
            ((Action::PayloadEnd, Some(EndBy::Payload), None, ""), None),
            ((Action::PayloadEnd, Some(EndBy::PilotSignal), None, ""), None),
            ((Action::PayloadEnd, Some(EndBy::Ban), None, ""), Some(user)),
            ((Action::PayloadEnd, Some(EndBy::Administrator), None, ""), Some(site)),
            ((Action::PayloadEnd, Some(EndBy::HostRestart), None, ""), Some(site)),
            ((Action::Query, None, None, ""), None),
        ] {
            let record = record(action, by, fault, code);
            assert_eq!(told(&record), expected, "{:?} {:?}", record.event.action, record.grid.end.by);
        }
    }
}
