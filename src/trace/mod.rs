//! Questions to the log: whose payload was it? A pure core that is fed records and gives an answer, and one function that
//! reads a log into it.
//!
//! A payload ran from its launch record to the record that closes it; one without an end is still open. A launch that
//! failed never ran. The log is read from its beginning, so a payload that started days before the moment is found.
#![forbid(unsafe_code)]

mod show;
pub mod when;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use crate::admin::verify::{Report, verify_with};
use crate::audit::record::{Action, Record};
use crate::audit::time::Timestamp;
use crate::failure::Failure;

/// What is asked; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Ran at this moment.
    pub at: Option<Timestamp>,
    /// The payload's pid on the host.
    pub pid: Option<i64>,
    /// Part of any of the person's names; letters' case does not count.
    pub user: Option<String>,
    /// Address of the host or its site.
    pub ip: Option<IpAddr>,
    /// Virtual organisation.
    pub vo: Option<String>,
    /// Job or task id, pilot id or a batch job's id.
    pub job: Option<String>,
    /// Launch id.
    pub id: Option<String>,
}

impl Question {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a launch is meant, its time apart.
    fn meets(&self, launch: &Record) -> bool {
        fn is(wanted: Option<&str>, has: Option<&str>) -> bool {
            wanted.is_none_or(|wanted| has == Some(wanted))
        }
        let grid = &launch.grid;
        let job = [&grid.job.id, &grid.job.task, &grid.pilot.id];
        self.pid.is_none_or(|pid| launch.process.pid == Some(pid))
            && is(self.vo.as_deref(), grid.vo.as_deref())
            && is(self.id.as_deref(), launch.event.id.as_deref())
            && self.ip.is_none_or(|ip| {
                [&launch.host.ip, &launch.related.ip, &grid.site.public_ip]
                    .iter()
                    .any(|list| list.contains(&ip))
            })
            && self.job.as_ref().is_none_or(|wanted| {
                job.iter().any(|has| has.as_ref() == Some(wanted)) || grid.pilot.batch_job_id.contains(wanted)
            })
            && self.user.as_ref().is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                names(launch).any(|name| name.to_lowercase().contains(&wanted))
            })
    }

    fn covers(&self, start: Timestamp, end: Option<Timestamp>) -> bool {
        self.at.is_none_or(|at| start <= at && end.is_none_or(|end| at <= end))
    }
}

/// Every name of the person in a record.
fn names(record: &Record) -> impl Iterator<Item = &String> {
    let identity = &record.grid.identity;
    [&record.user.id, &record.user.name, &identity.subject, &identity.person]
        .into_iter()
        .flatten()
        .chain(&record.related.user)
        .chain(identity.others.iter().filter_map(|other| other.subject.as_ref()))
}

/// One payload of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Payload {
    /// When the launch record was written.
    pub start: Timestamp,
    /// When the record that closes it was written; absent while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// The launch record.
    pub launch: Record,
    /// The end record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Record>,
}

/// Takes records in the order of the log.
#[derive(Debug, Default)]
pub struct Tracer {
    question: Question,
    open: HashMap<String, Payload>,
    found: Vec<Payload>,
    unreadable: u64,
}

impl Tracer {
    /// A tracer for one question.
    pub fn new(question: Question) -> Self {
        Self { question, ..Self::default() }
    }

    /// One line of the log.
    pub fn feed_line(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(record) => self.feed(record),
            Err(_) => self.unreadable += 1,
        }
    }

    /// One record.
    pub fn feed(&mut self, record: Record) {
        let (Some(id), Some(time)) = (record.event.id.clone(), record.timestamp) else {
            return;
        };
        match record.event.action {
            Action::PayloadLaunch if self.question.meets(&record) => {
                let payload = Payload { start: time, end: None, launch: record, closed: None };
                self.open.insert(id, payload);
            }
            Action::PayloadEnd => {
                if let Some(mut payload) = self.open.remove(&id)
                    && self.question.covers(payload.start, Some(time))
                {
                    payload.end = Some(time);
                    payload.closed = Some(record);
                    self.found.push(payload);
                }
            }
            Action::LaunchFailed => {
                self.open.remove(&id);
            }
            _ => {}
        }
    }

    /// The answer, oldest launch first.
    pub fn answer(mut self, report: Report) -> Answer {
        let question = &self.question;
        self.found.extend(self.open.into_values().filter(|payload| question.covers(payload.start, None)));
        self.found.sort_by(|a, b| (a.start, &a.launch.event.id).cmp(&(b.start, &b.launch.event.id)));
        Answer { question: self.question, payloads: self.found, unreadable: self.unreadable, report }
    }
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// What was found.
    pub payloads: Vec<Payload>,
    /// Lines that this version does not understand.
    pub unreadable: u64,
    /// Whether the log can be trusted.
    pub report: Report,
}

/// Puts a question to the log in `dir`. Lines behind the first break of the chain are not read, and the answer says so.
pub fn ask(dir: &Path, question: Question) -> Result<Answer, Failure> {
    if question.is_empty() {
        return Err(Failure::usage(
            "cannot ask the log",
            "nothing says which payload is meant",
            "name at least one of --at, --pid, --user, --ip, --vo, --job and --id",
        ));
    }
    let mut tracer = Tracer::new(question);
    let report = verify_with(dir, &mut |line| tracer.feed_line(line))?;
    Ok(tracer.answer(report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::LaunchId;

    fn id(number: u8) -> LaunchId {
        LaunchId::from_parts(1, [number; 10])
    }

    fn record(action: Action, number: u8, at: i64) -> Record {
        let mut record = Record::new(action, id(number));
        record.timestamp = Some(Timestamp::new(at, 0));
        record.process.pid = Some(i64::from(number));
        record.user.id = Some(format!("/CN=Person {number}\u{1b}[31m"));
        record.host.ip = vec!["192.0.2.1".parse().unwrap()];
        record
    }

    fn ask(question: Question) -> Answer {
        let mut tracer = Tracer::new(question);
        tracer.feed(record(Action::PayloadLaunch, 1, 100));
        tracer.feed(record(Action::PayloadLaunch, 2, 900_000)); // ten days later
        tracer.feed(record(Action::PayloadLaunch, 3, 900_000));
        tracer.feed(record(Action::LaunchFailed, 3, 900_001));
        tracer.feed(record(Action::PayloadEnd, 1, 900_010));
        tracer.answer(Report::default())
    }

    fn pids(question: Question) -> Vec<i64> {
        let answer = ask(question);
        answer.payloads.iter().filter_map(|p| p.launch.process.pid).collect()
    }

    fn at(secs: i64) -> Question {
        Question { at: Some(Timestamp::new(secs, 0)), ..Question::default() }
    }

    #[test]
    fn intervals() {
        assert_eq!(pids(at(99)), [0_i64; 0]);
        assert_eq!(pids(at(100)), [1]);
        assert_eq!(pids(at(900_005)), [1, 2], "started ten days earlier");
        assert_eq!(pids(at(900_010)), [1, 2]);
        assert_eq!(pids(at(900_011)), [2], "still open");
    }

    #[test]
    fn other_questions() {
        let user = |text: &str| Question { user: Some(text.into()), ..Question::default() };
        assert_eq!(pids(user("person 2")), [2]);
        assert_eq!(pids(user("nobody")), [0_i64; 0]);
        let both = Question { pid: Some(1), ..at(900_005) };
        assert_eq!(pids(both), [1]);
        let ip = |ip: &str| Question { ip: Some(ip.parse().unwrap()), ..Question::default() };
        assert_eq!(pids(ip("192.0.2.1")), [1, 2]);
        assert_eq!(pids(ip("192.0.2.2")), [0_i64; 0]);
    }

    #[test]
    fn words_come_first_and_lines_stay_short_and_harmless() {
        for (question, first) in
            [(at(5), "No payload ran"), (at(100), "One payload matches"), (at(900_005), "2 payloads match")]
        {
            let text = ask(question).human(true);
            assert!(text.starts_with(first), "{text}");
            assert!(text.contains("UTC"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&ask(at(100)).json()).unwrap();
        assert_eq!(json["payloads"][0]["launch"]["process"]["pid"], 1);
    }
}
