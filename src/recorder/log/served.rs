//! What the event loop asks of the log beside writing.
#![forbid(unsafe_code)]

use nix::fcntl::OFlag;

use super::RecorderLog;
use crate::audit::record::{Action, LiveEntry, Record};
use crate::audit::segment::line_at;

impl RecorderLog {
    /// `chain.writer`.
    pub fn writer(&self) -> &str {
        &self.options.writer
    }

    /// The launch record of a live launch; `None` where its segment is gone or says something else.
    pub fn launch_record(&self, entry: &LiveEntry) -> Option<Record> {
        let file = self.dir.open(entry.segment.as_deref()?, OFlag::O_RDONLY).ok()?;
        let line = line_at(&file, entry.offset?).ok()??;
        let record: Record = serde_json::from_slice(&line).ok()?;
        (record.event.action == Action::PayloadLaunch && record.event.id == entry.id).then_some(record)
    }

    /// The newest segment, and its length in bytes.
    pub fn newest(&self) -> (&str, u64) {
        (&self.segment.name, self.segment.len)
    }

    /// Which key signs: `grid.checkpoint.key`.
    pub fn key_id(&self) -> String {
        self.key_id.clone()
    }
}
