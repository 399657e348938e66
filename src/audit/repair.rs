//! What both writers say about torn bytes that a crash left after the last whole line.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use super::chain::{MAX_LINE, hex};
use super::record::{Action, Host, Record};
use super::redact;

/// How much of a torn tail the repair record keeps.
const TORN_KEPT: usize = 8 * 1024;
/// How much of it is hashed: longer is no line of ours, and its length is still told.
const TORN_HASHED: usize = 2 * MAX_LINE;

/// The `log-repair` record that keeps `length` bytes at `offset` of the segment; they are still in the file.
pub(crate) fn torn_record(
    file: &File,
    segment: &str,
    offset: u64,
    length: u64,
    host: Host,
) -> std::io::Result<Record> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(TORN_HASHED)];
    file.read_exact_at(&mut bytes, offset)?;
    let mut record = Record::of_log(Action::LogRepair, host);
    record.event.reason =
        Some("a crash left an unfinished line at the end of the log; no payload ran on it".to_owned());
    let torn = &mut record.grid.log.torn;
    torn.segment = Some(segment.to_owned());
    torn.offset = Some(offset);
    torn.length = Some(length);
    torn.sha256 = Some(hex(&Sha256::digest(&bytes).into()));
    torn.text = Some(redact::text(bytes.get(..TORN_KEPT).unwrap_or(&bytes)));
    Ok(record)
}
