//! What is live: the table, and the lists of it that are in the log.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::draft::Draft;
use crate::audit::record::{Action, Host, LiveEntry, Record};
use crate::failure::Failure;

/// The largest part of a list: a line that every reader's buffer takes.
const PART: usize = 56 * 1024;

/// What the log must know of a launch, as its `payload-launch` record says it. Place, hash and time are the log's to fill in.
pub fn live_entry(record: &Record) -> LiveEntry {
    let forbidden = record.grid.sandbox.get("nested_namespaces_forbidden");
    LiveEntry {
        id: record.event.id.clone(),
        pid: record.process.pid,
        start_ticks: record.grid.start_ticks,
        launcher_pid: record.process.parent.pid,
        launcher_ticks: record.grid.launcher.start_ticks,
        uid: record.process.real_user.id.as_deref().and_then(|id| id.parse().ok()),
        user: record.user.id.clone(),
        vo: record.grid.vo.clone(),
        job: record.grid.job.id.clone(),
        nested: forbidden.is_some_and(|word| word.starts_with("off")).then_some(true),
        ..LiveEntry::default()
    }
}

/// An order that the recorder passes on: it says what is ordered. A launcher's own stop, at the end of the wall time, does not.
pub(super) fn is_order(record: &Record) -> bool {
    record.event.action == Action::PayloadStop && record.grid.stop.by.is_some()
}

/// Adds the list of what is live, in parts.
pub(super) fn push_list(
    draft: &mut Draft,
    live: &BTreeMap<String, LiveEntry>,
    host: &Host,
    writer: &str,
) -> Result<(), Failure> {
    let before = draft.bytes.len();
    let mut parts: Vec<Vec<LiveEntry>> = vec![Vec::new()];
    let mut room = PART;
    for entry in live.values() {
        let size = serde_json::to_vec(entry).map_or(PART, |bytes| bytes.len() + 1);
        if size > room && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(Vec::new());
            room = PART;
        }
        room = room.saturating_sub(size);
        if let Some(part) = parts.last_mut() {
            part.push(entry.clone());
        }
    }
    let of = parts.len() as u32;
    for (number, part) in (1..).zip(parts) {
        let mut record = Record::of_log(Action::LiveList, host.clone());
        record.grid.live = part;
        record.grid.live_part.number = Some(number);
        record.grid.live_part.of = Some(of);
        record.grid.live_part.launches = Some(live.len() as u64);
        draft.push_own(&record, writer)?;
    }
    draft.list = Some(before..draft.bytes.len());
    Ok(())
}
