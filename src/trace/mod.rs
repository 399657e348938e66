//! Questions to logs: whose payload was it?
//!
//! [`question`] is what can be asked, [`log`] a log with its [`index`], [`search`] finds the payloads, [`around`] says whether
//! the records can be believed, [`show`] puts it into words. `docs/trace.md` tells what is read for which question.
#![forbid(unsafe_code)]

pub mod around;
pub mod index;
pub mod log;
pub mod person;
pub mod question;
mod search;
mod show;
pub mod vo;
pub mod when;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::admin::verify::Trust;
use crate::audit::record::Record;
use crate::audit::segment::parse_name;
use crate::audit::time::Timestamp;
use crate::failure::{Failure, io_text};
use around::{Chain, Limits};
use log::{Log, Trouble};
pub use question::Question;
pub use show::{Resolved, Told};

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
    /// Names that were learned later, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<Record>,
    /// Retention removed the launch record; `launch` is what a live list still says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pruned: bool,
}

/// How to ask.
#[derive(Default)]
pub struct Settings<'a> {
    /// Believe no index and verify the whole log.
    pub verify: bool,
    /// The key that checkpoints must be signed with.
    pub trust: Trust,
    /// How much of the chain is checked.
    pub limits: Limits,
    /// Told now and then how many bytes of how many were verified.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

/// The answer of one log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfLog {
    /// Its directory.
    pub log: PathBuf,
    /// What was found in it, oldest first.
    pub payloads: Vec<Payload>,
    /// Other records that fit: refused and failed launches, and what is written about a payload while it runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
    /// Lines that this version does not understand.
    pub unreadable_lines: u64,
    /// Segments of the log, and those that were looked into.
    pub segments: u64,
    /// See `segments`.
    pub segments_read: u64,
    /// Whether the records can be believed.
    pub chain: Chain,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// Of each log.
    pub logs: Vec<OfLog>,
}

impl Answer {
    /// How many payloads it names.
    pub fn count(&self) -> usize {
        self.logs.iter().map(|log| log.payloads.len()).sum()
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.logs.iter().all(|log| log.payloads.is_empty() && log.records.is_empty())
    }
}

/// Puts a question to the logs in `dirs`.
pub fn ask(dirs: &[PathBuf], question: &Question, settings: &Settings<'_>) -> Result<Answer, Failure> {
    question.check()?;
    let logs = dirs.iter().map(|dir| ask_one(dir, question, settings)).collect::<Result<_, _>>()?;
    Ok(Answer { question: question.clone(), logs })
}

fn ask_one(dir: &Path, question: &Question, settings: &Settings<'_>) -> Result<OfLog, Failure> {
    let mut log = Log::open(dir, !settings.verify)?;
    loop {
        let answer = search::search(&log, question).and_then(|found| {
            let Settings { trust, limits, verify, progress } = settings;
            let chain = around::check(&log, &found.places, trust, limits, *verify, *progress)?;
            Ok((found, chain))
        });
        match answer {
            Ok((found, chain)) => {
                let unreadable: u64 = log.segments.iter().map(|segment| segment.summary.unreadable).sum();
                return Ok(OfLog {
                    log: dir.to_owned(),
                    payloads: found.payloads,
                    records: found.others,
                    unreadable_lines: unreadable + found.unreadable,
                    segments: log.segments.len() as u64,
                    segments_read: found.segments as u64,
                    chain,
                });
            }
            Err(Trouble::Stale(number)) => log.rebuild(number)?,
            Err(Trouble::Failure(failure)) => return Err(failure),
        }
    }
}

/// The logs that `dir` means: itself, or the directories of hosts' logs in it.
pub fn logs_in(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |why: String| {
        Failure::usage(
            format!("cannot read the log {}", dir.display()),
            why,
            "name the directory of a log, or one that holds the logs of several hosts",
        )
    };
    let list = |dir: &Path| -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let is_segment = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| parse_name(name).is_some())
    };
    let entries = list(dir).map_err(|error| wrong(io_text(&error)))?;
    if entries.iter().any(is_segment) {
        return Ok(vec![dir.to_owned()]);
    }
    let mut logs: Vec<PathBuf> = entries
        .into_iter()
        .filter(|path| path.is_dir() && list(path).is_ok_and(|inside| inside.iter().any(is_segment)))
        .collect();
    logs.sort();
    if logs.is_empty() {
        return Err(wrong("it holds no segment of a log".to_owned()));
    }
    Ok(logs)
}
