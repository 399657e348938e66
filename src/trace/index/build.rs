//! From the lines of a segment to its index. Pure: lines go in, bytes come out.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::bytes::{Put, check};
use super::file::{Index, MAGIC, Part};
use super::summary::{Jump, Summary, Times};
use super::table::{self, Close, Key, Kind, Other, Pids, Row, Section, Values, key};
use crate::audit::Timestamp;
use crate::audit::chain::{hash, place_of};
use crate::audit::lines::glance;
use crate::audit::record::{Action, Record};
use crate::trace::question::Field;

/// The live list at the head of the segment.
#[derive(Debug, Default)]
enum Head {
    /// No launch began or ended so far, so a list would be one of the head.
    #[default]
    Awaited,
    /// Some of its parts were seen: where it begins, and the number of the last part.
    Begun(u64, u32),
    /// It is known, or there is none.
    Over,
}

/// Takes the lines of one segment.
#[derive(Debug, Default)]
pub struct Builder {
    summary: Summary,
    rows: Vec<Row>,
    pids: Vec<Pids>,
    keys: Vec<Key>,
    closings: Vec<(Key, Close)>,
    others: Vec<Other>,
    checkpoints: Vec<u64>,
    fields: Vec<Values>,
    /// Launches of this segment that nothing closed yet.
    open: HashMap<Key, usize>,
    /// The number that a field's value has, for each field.
    known: Vec<HashMap<Vec<String>, u32>>,
    head: Head,
}

impl Builder {
    /// For a segment from its beginning.
    pub fn new() -> Self {
        let fields = Field::ALL.len();
        Self {
            fields: vec![Values::default(); fields],
            known: vec![HashMap::new(); fields],
            ..Self::default()
        }
    }

    /// For the rest of a segment; `None` when the index cannot be used.
    pub fn resume(index: &Index) -> Option<Self> {
        let mut builder = Self::new();
        builder.summary = index.summary().clone();
        builder.rows = table::take_rows(&index.section(Section::Rows)?)?;
        builder.pids = table::take_pids(&index.section(Section::Pids)?)?;
        builder.keys = table::take_keys(&index.section(Section::Keys)?)?;
        builder.closings = table::take_closings(&index.section(Section::Closings)?)?;
        builder.others = table::take_others(&index.section(Section::Others)?)?;
        builder.checkpoints = table::take_offsets(&index.section(Section::Checkpoints)?)?;
        let launches = builder.rows.len();
        for (number, field) in Field::ALL.into_iter().enumerate() {
            let values = Values::take(&index.section(Section::Field(field))?)?;
            if values.of.len() != launches {
                return None;
            }
            let known = builder.known.get_mut(number)?;
            known.extend(values.values.iter().cloned().zip(0_u32..));
            *builder.fields.get_mut(number)? = values;
        }
        if builder.pids.len() != launches || builder.keys.len() != launches {
            return None;
        }
        for (number, (row, key)) in builder.rows.iter().zip(&builder.keys).enumerate() {
            if row.close.is_none() {
                builder.open.insert(*key, number);
            }
        }
        builder.head = Head::Over;
        Some(builder)
    }

    /// How far it is.
    pub fn covered(&self) -> u64 {
        self.summary.covered
    }

    /// Takes the line at `offset`, without its newline.
    pub fn line(&mut self, offset: u64, line: &[u8]) {
        let summary = &mut self.summary;
        summary.lines += 1;
        summary.covered = offset + line.len() as u64 + 1;
        summary.last_offset = offset;
        if let Some((seq, _)) = place_of(line) {
            summary.last_seq = seq;
            if summary.first_seq == 0 {
                summary.first_seq = seq;
            }
        }
        let seen = glance(line).and_then(|seen| Some((Timestamp::parse_rfc3339(&seen.time)?, seen)));
        let Some((time, seen)) = seen else {
            summary.unreadable += 1;
            return;
        };
        self.time(offset, time);
        let id = seen.id.as_deref();
        match (&*seen.action, id) {
            ("payload-launch", Some(id)) => self.launch(offset, time, id, line),
            ("payload-end", Some(id)) => self.close(key(id), Close { offset, time, failed: false }),
            ("launch-failed", Some(id)) => {
                self.others.push((key(id), offset, time, Kind::Denied));
                self.close(key(id), Close { offset, time, failed: true });
            }
            ("payload-deny", id) => {
                self.others.push((key(id.unwrap_or_default()), offset, time, Kind::Denied));
            }
            ("payload-stop" | "payload-notice", Some(id)) => {
                self.others.push((key(id), offset, time, Kind::Note));
            }
            ("payload-identity", Some(id)) => {
                self.summary.identities += 1;
                self.others.push((key(id), offset, time, Kind::Identity));
            }
            ("checkpoint", _) => self.checkpoints.push(offset),
            ("live-list", _) => self.live_list(offset, line),
            (action, _) => {
                let text = serde_json::Value::String(action.to_owned());
                self.summary.unreadable += u64::from(serde_json::from_value::<Action>(text).is_err());
            }
        }
    }

    /// The index, once the last line was given as well.
    pub fn finish(mut self, last_line: &[u8]) -> Index {
        self.summary.last_hash = hash(last_line);
        self.summary.launches = self.rows.len() as u32;
        let mut parts = Vec::new();
        let mut sections = Vec::new();
        for section in Section::all() {
            let bytes = match section {
                Section::Rows => table::put_rows(&self.rows),
                Section::Pids => table::put_pids(&self.pids),
                Section::Keys => self.keys.concat(),
                Section::Closings => table::put_closings(&self.closings),
                Section::Others => table::put_others(&self.others),
                Section::Checkpoints => table::put_offsets(&self.checkpoints),
                Section::Field(field) => self.fields.get(field as usize).map(Values::put).unwrap_or_default(),
            };
            parts.push(Part {
                section: section.number(),
                offset: 0,
                length: bytes.len() as u64,
                check: check(&bytes),
            });
            sections.push(bytes);
        }
        let mut head = Vec::new();
        self.summary.put(&mut head);
        // The offsets are behind the head, whose length does not depend on them.
        let fixed = MAGIC.len() + 4 + super::bytes::CHECK;
        let mut offset = (fixed + head.len() + 4 + parts.len() * Part::LENGTH) as u64;
        head.u32(parts.len() as u32);
        for part in &mut parts {
            part.offset = offset;
            offset += part.length;
            part.put(&mut head);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.u32(head.len() as u32);
        bytes.raw(&check(&head));
        bytes.raw(&head);
        bytes.raw(&sections.concat());
        Index::in_memory(self.summary, parts, bytes)
    }

    fn time(&mut self, offset: u64, time: Timestamp) {
        match &mut self.summary.times {
            None => self.summary.times = Some(Times { first: time, last: time, min: time, max: time }),
            Some(times) => {
                if time < times.last {
                    self.summary.jumps.push(Jump { offset, before: times.last, after: time });
                }
                times.last = time;
                times.min = times.min.min(time);
                times.max = times.max.max(time);
            }
        }
    }

    fn launch(&mut self, offset: u64, time: Timestamp, id: &str, line: &[u8]) {
        self.head = Head::Over;
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            self.summary.unreadable += 1;
            return;
        };
        let key = key(id);
        self.open.insert(key, self.rows.len());
        self.rows.push(Row { offset, time, close: None });
        self.keys.push(key);
        let uid = record.process.real_user.id.as_ref().and_then(|id| id.parse().ok());
        self.pids.push(Pids { pid: record.process.pid, vpid: record.process.vpid, uid });
        for ((field, values), known) in Field::ALL.into_iter().zip(&mut self.fields).zip(&mut self.known) {
            let texts = field.texts(&record);
            let next = values.values.len() as u32;
            let which = known.get(&texts).copied().unwrap_or(next);
            values.of.push(which);
            if which == next {
                values.values.push(texts.clone());
                known.insert(texts, which);
            }
        }
    }

    fn close(&mut self, key: Key, close: Close) {
        self.head = Head::Over;
        match self.open.remove(&key).and_then(|number| self.rows.get_mut(number)) {
            Some(row) => row.close = Some(close),
            None => self.closings.push((key, close)),
        }
    }

    fn live_list(&mut self, offset: u64, line: &[u8]) {
        if matches!(self.head, Head::Over) {
            return;
        }
        let Ok(record) = serde_json::from_slice::<Record>(line) else {
            self.head = Head::Over;
            return;
        };
        let part = record.grid.live_part;
        let (number, of) = (part.number.unwrap_or(1), part.of.unwrap_or(1));
        let begin = match self.head {
            Head::Awaited if number == 1 => offset,
            Head::Begun(begin, before) if number == before + 1 => begin,
            _ => {
                self.head = Head::Over;
                return;
            }
        };
        if number >= of {
            self.summary.live = Some((begin, self.summary.covered - begin));
            self.head = Head::Over;
        } else {
            self.head = Head::Begun(begin, number);
        }
    }
}
