//! A report for a person.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;

use super::{KeyFrom, Report};
use crate::failure::Printable;

impl Report {
    /// For a person.
    pub fn human(&self, dir: &Path) -> String {
        let mut text = String::new();
        let place = dir.display().to_string();
        // Writing to a String never fails.
        let _ = match &self.first_break {
            None => writeln!(
                text,
                "The chain is whole: {} lines in {} segments of {}.",
                self.lines,
                self.segments,
                Printable(&place)
            ),
            Some(broken) => writeln!(
                text,
                "The chain BREAKS at {}/{}:{}: {}.\n{} lines before it are good.",
                Printable(&place),
                Printable(&broken.segment),
                broken.line,
                broken.text,
                self.lines
            ),
        };
        if let Some(since) = self.since {
            let _ = writeln!(
                text,
                "It contains the kept checkpoint's line {since} and goes on. What is older than sequence {} was not read:\n\
                 that checkpoint attests it as it was.",
                self.first_seq
            );
        }
        if let Some(seq) = self.pruned_to {
            let _ = writeln!(
                text,
                "Lines 1 to {seq} were removed by retention; a signed record in the log says so."
            );
        }
        for repair in &self.repairs {
            let _ = writeln!(
                text,
                "A crash left a torn line that was repaired at {}:{}.",
                repair.segment, repair.line
            );
        }
        let _ = writeln!(text, "Payloads without an end: {}.", self.open_launches);
        let _ = writeln!(text, "Last good line: sequence {}, hash {}.", self.last_seq, self.last_hash);
        self.signed(&mut text);
        text
    }

    fn signed(&self, text: &mut String) {
        let signatures = &self.signatures;
        let Some(attested) = signatures.attested_seq else {
            if self.since.is_none() {
                text.push_str(
                    "Nothing in it is signed: only a hash that somebody else kept proves that its owner did not rewrite it.\n",
                );
            }
            return;
        };
        let checkpoints = signatures.checkpoints;
        let keys: Vec<&str> = signatures.keys.iter().map(String::as_str).collect();
        let keys = Printable(&keys.join(", ")).to_string();
        let _ = match signatures.key_from {
            Some(KeyFrom::Named) => {
                writeln!(
                    text,
                    "{checkpoints} checkpoints up to sequence {attested} are signed with key {keys}, which was named."
                )
            }
            Some(KeyFrom::Host) => writeln!(
                text,
                "{checkpoints} checkpoints up to sequence {attested} are signed with key {keys}, found on this host.\n\
                 A key from the log's own host proves nothing against the log's owner: name a collected one with --key."
            ),
            None => writeln!(
                text,
                "{checkpoints} checkpoints up to sequence {attested}, by key {keys}; their signatures were NOT checked: name a key with --key."
            ),
        };
        let rest = self.last_seq.saturating_sub(attested);
        if rest > 1 {
            let _ = writeln!(text, "The last {rest} lines are not attested yet.");
        }
        if self.since.is_none() {
            text.push_str(
                "That nothing was cut off the end, only a kept checkpoint proves (--since-checkpoint).\n",
            );
        }
    }
}
