//! `verify`: is the log whole? Says the first line where the chain, a signature or the beginning is not as it must be.
//!
//! 1. Segments are read side by side ([`scan`]), each from the link that its first line claims; then they are joined. A segment
//!    in which anything is not plainly good is read again, line by line, by [`walk`], which alone says what is broken.
//!    So what is said does not depend on how many cores there are.
//! 2. A good line is not parsed as JSON: its hash is in the next line, so a line that was changed is found without, and one
//!    that the writer itself made cannot be caught lying by its syntax. What [`walk`] reads is parsed, to name the break.
//! 3. What cannot be seen in a log without signatures, and is said: lines cut off the end, and a chain rewritten by its
//!    owner. For that somebody else must have kept a hash or a checkpoint ([`kept`]).
#![forbid(unsafe_code)]

mod kept;
mod scan;
mod show;
mod trust;
mod walk;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::audit::chain::{Link, hex};
use crate::audit::segment::Directory;
use crate::failure::Failure;

pub use kept::Kept;
use scan::Scanned;
pub use trust::{KeyFrom, Trust};
use walk::Walk;

/// How a log can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// The last line is unfinished: a crash, which the next launch repairs.
    TornTail,
    /// A line is no JSON, or too long, or unfinished in the middle of the log.
    NotJson,
    /// A line is JSON but no line of this chain.
    NotChained,
    /// A line was changed after the next one was written.
    ChangedLine,
    /// Lines are missing before this one.
    RemovedLine,
    /// A line appears again, or lines changed places.
    RepeatedLine,
    /// A segment, or the log's beginning, is missing.
    MissingSegment,
    /// The signature of a checkpoint or of a `log-prune` does not fit what it attests.
    BadSignature,
    /// It is signed with another key than the one that was named.
    WrongKey,
    /// A checkpoint attests another line than the chain has.
    WrongCheckpoint,
    /// A `log-prune` tells of other lines than those that are missing.
    WrongPrune,
    /// A key was named, and nothing is signed.
    NotSigned,
    /// The log ends before a line that a kept checkpoint attests.
    TailCut,
    /// The line that a kept checkpoint attests is another one here.
    Rewritten,
}

/// The first break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// File name.
    pub segment: String,
    /// Line number in it, from 1.
    pub line: u64,
    /// What kind.
    pub kind: Break,
    /// What it means, in a sentence.
    pub text: String,
}

/// A repaired torn line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// File name.
    pub segment: String,
    /// Line number of the record that says so.
    pub line: u64,
}

/// What is signed, and how far that was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Signatures {
    /// Checkpoints read.
    pub checkpoints: u64,
    /// The ids of the keys that signed them.
    pub keys: BTreeSet<String>,
    /// The id of the key that they were checked with; absent when none was at hand.
    pub checked_with: Option<String>,
    /// Where that key came from.
    pub key_from: Option<KeyFrom>,
    /// The last sequence number that a checkpoint attests.
    pub attested_seq: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Good lines, up to the first break.
    pub lines: u64,
    /// Sequence number of the first line read.
    pub first_seq: u64,
    /// Sequence number of the last good line.
    pub last_seq: u64,
    /// Its hash, lowercase hex.
    pub last_hash: String,
    /// Launches without an end.
    pub open_launches: u64,
    /// Torn lines that were repaired.
    pub repairs: Vec<Repair>,
    /// What is signed.
    pub signatures: Signatures,
    /// The last line removed by retention, where the log says so with a signed record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned_to: Option<u64>,
    /// The kept checkpoint that the log contains; what is older than its segment was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The first break; nothing behind it counts.
    pub first_break: Option<Broken>,
    /// Line number of the last good line in its segment.
    #[serde(skip)]
    last_line: u64,
}

impl Report {
    /// Whether the chain is whole.
    pub fn is_good(&self) -> bool {
        self.first_break.is_none()
    }

    /// 0 when it is whole, 1 when it is broken.
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_good())
    }
}

/// How to verify.
#[derive(Default)]
pub struct Options<'a> {
    /// The key that checkpoints must be signed with.
    pub trust: Trust,
    /// A checkpoint that somebody else kept: only what is younger is read.
    pub since: Option<Kept>,
    /// Told now and then how many bytes of how many are read.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

/// Reads the log in `dir`. A failure means that it could not be read.
pub fn verify(dir: &Path) -> Result<Report, Failure> {
    verify_with(dir, &Options::default())
}

/// Like [`verify`], with a key, a kept checkpoint, and somebody who waits.
pub fn verify_with(dir: &Path, options: &Options<'_>) -> Result<Report, Failure> {
    let directory = Directory::for_reading(dir)?;
    let mut names = directory.segments()?;
    if let Some(kept) = &options.since {
        kept.check(&options.trust)?;
        kept.skip_older(&directory, &mut names)?;
    }
    let watch = options.since.as_ref().map(|kept| kept.seq);
    let scanned = scan::all(&directory, &names, &options.trust, watch, options.progress)?;

    let mut walk = Walk::new(&options.trust, options.since.as_ref());
    for (index, (name, Scanned { good, prunes })) in names.iter().zip(scanned).enumerate() {
        if walk.is_over() {
            // A broken log may still say, behind the break, why its beginning is missing.
            walk.prunes.extend(prunes);
            continue;
        }
        walk.report.segments += 1;
        match good {
            Some(good) if walk.joins(name, &good) => walk.accept(name, good, prunes),
            _ => {
                walk.segment(&directory, name, index + 1 == names.len())?;
                if walk.is_over() {
                    walk.prunes.extend(prunes);
                }
            }
        }
    }
    let beginning = walk.beginning(|seq| scan::hash_of(&directory, &names, seq))?;
    let mut report = walk.into_report(beginning);
    if let Some(kept) = &options.since {
        kept.judge(&mut report, names.last());
    }
    Ok(report)
}

/// The end of the chain, as a report says it.
fn end_of(report: &mut Report, link: &Link) {
    report.last_seq = link.seq;
    report.last_hash = hex(&link.hash);
}
