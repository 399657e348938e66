//! A checkpoint that somebody kept elsewhere: with it, lines cut off the end and a rewritten chain are found too.
#![forbid(unsafe_code)]

use std::path::Path;

use nix::fcntl::OFlag;

use super::trust::Trust;
use super::{Break, Broken, Report};
use crate::audit::chain::{Hash, place_of};
use crate::audit::record::{Action, Record};
use crate::audit::segment::{Directory, line_at, unread};
use crate::failure::{Failure, Printable, io_text};

/// The newest checkpoint of a file.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The sequence number that it attests.
    pub seq: u64,
    /// The hash that it attests.
    pub hash: Hash,
    record: Record,
    shown: String,
}

impl Kept {
    /// Reads a file of checkpoints: lines of a log, or what `journalctl` prints of the journal's copies (`-o json`, `-o export`,
    /// `-o cat --output-fields=BAILEY_RECORD`). Of several the one that reaches furthest counts.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let what = || format!("cannot use the kept checkpoint {}", path.display());
        let next = "name a file with a checkpoint's line of the log, or of its copy in the journal";
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(what(), io_text(&error), "name a file that can be read"))?;
        let newest = text.lines().filter_map(record_in).max_by_key(|record| record.grid.checkpoint.seq);
        let Some(record) = newest else {
            return Err(Failure::usage(what(), "no line of it is a checkpoint", next));
        };
        // Without a key only the form is checked: Kept::check does the rest.
        let attested =
            Trust::default().checkpoint(&record).map_err(|(_, why)| Failure::usage(what(), why, next))?;
        Ok(Self { seq: attested.seq, hash: attested.hash, record, shown: path.display().to_string() })
    }

    /// A failure when it is not signed with the key that is to be trusted: then it proves nothing.
    pub(super) fn check(&self, trust: &Trust) -> Result<(), Failure> {
        trust.checkpoint(&self.record).map(drop).map_err(|(_, why)| {
            Failure::usage(
                format!("cannot use the kept checkpoint {}", self.shown),
                why,
                "name the checkpoint and the key of the same node",
            )
        })
    }

    /// Leaves of `names` the segments from the one that has the attested line.
    pub(super) fn skip_older(&self, directory: &Directory, names: &mut Vec<String>) -> Result<(), Failure> {
        for (index, name) in names.iter().enumerate().rev() {
            let path = directory.path().join(name);
            let file = directory
                .open(name, OFlag::O_RDONLY)
                .map_err(|errno| unread(&directory.path().join(name), &errno.into()))?;
            let line = line_at(&file, 0).map_err(|error| unread(&path, &error))?;
            if line.as_deref().and_then(place_of).is_some_and(|(seq, _)| seq <= self.seq) {
                names.drain(..index);
                break;
            }
        }
        Ok(())
    }

    /// Says whether the log reaches beyond what it attests. (That the line has the attested hash, the walk compared.)
    pub(super) fn judge(&self, report: &mut Report, newest: Option<&String>) {
        if report.first_break.is_some() {
            return;
        }
        if report.last_seq > self.seq && report.first_seq <= self.seq + 1 {
            report.since = Some(self.seq);
        } else if report.first_seq <= self.seq + 1 {
            let text = format!(
                "the log ends at sequence {}, and the kept checkpoint stood behind {}: its end was cut off",
                report.last_seq, self.seq
            );
            report.first_break = Some(Broken {
                segment: newest.cloned().unwrap_or_default(),
                line: report.last_line,
                kind: Break::TailCut,
                text,
            });
        }
    }

    /// For the report of a log whose line has another hash.
    pub(super) fn other_hash(&self) -> String {
        format!("line {} is not the one that the kept checkpoint attests: the log was rewritten", self.seq)
    }
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (sequence {})", Printable(&self.shown), self.seq)
    }
}

/// The checkpoint in a line: plain, in a field of the journal, or in the journal's JSON.
fn record_in(line: &str) -> Option<Record> {
    let line = line.trim();
    let line = line.strip_prefix("BAILEY_RECORD=").unwrap_or(line);
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let record: Record = match value.get("BAILEY_RECORD") {
        Some(inner) => serde_json::from_str(inner.as_str()?).ok()?,
        None => serde_json::from_value(value).ok()?,
    };
    (record.event.action == Action::Checkpoint).then_some(record)
}
