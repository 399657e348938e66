//! For [`crate::fuzzing`]: indexes of any bytes, and segments of any lines.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::build::Builder;
use super::bytes::{CHECK, Put as _, Take, check};
use super::catalog::Catalog;
use super::file::Index;
use super::table::{
    Section, Values, take_closings, take_keys, take_offsets, take_others, take_pids, take_rows,
};
use crate::audit::Timestamp;
use crate::audit::lines::glance;
use crate::audit::record::Record;
use crate::trace::question::{Field, Question};

/// The length of a head, the head, and what is behind it, as they stand behind the checksums: whoever writes an index can make
/// those fit. Nothing that an index says makes the reader of it fail.
pub(crate) fn index(bytes: &[u8]) -> bool {
    let _ = Catalog::of_bytes(bytes);
    let mut from = Take(bytes);
    let Some(length) = from.u32() else { return false };
    let Some(head) = from.raw(length as usize) else { return false };
    let Some((summary, mut parts)) = Index::head(head) else { return false };
    // Magic and checksum, so that the sections are where the head says.
    let file = [&[0; 8 + CHECK][..], bytes].concat();
    for part in &mut parts {
        let end = part.offset.saturating_add(part.length);
        let (begin, end) = (usize::try_from(part.offset).ok(), usize::try_from(end).ok());
        if let Some(inside) = begin.zip(end).and_then(|(begin, end)| file.get(begin..end)) {
            part.check = check(inside);
        }
    }
    let covered = summary.covered;
    let index = Index::in_memory(summary, parts, file);
    for field in Field::ALL {
        let Some(section) = index.section(Section::Field(field)) else { continue };
        let judged = Values::judge(&section, |texts| !texts.is_empty());
        if let (Some(judged), Some(values)) = (judged, Values::take(&section)) {
            assert_eq!(judged.len(), values.of.len());
        }
    }
    let Some(mut builder) = Builder::resume(&index) else { return false };
    // The segment goes on. An index that covers more than a segment can hold is not one of it, and is not extended.
    if covered < 1 << 62 {
        builder.line(
            covered,
            br#"{"@timestamp":"2026-11-22T00:00:00.000000000Z","event":{"id":"x","action":"payload-end"}}"#,
        );
        let _ = builder.finish(b"");
    }
    true
}

/// The first line is what is asked, the others are a segment: what the index says of it is what its records say, and an index
/// that was made in two steps is the one that is made at once.
pub(crate) fn segment(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let asked = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let lines: Vec<&[u8]> = lines.collect();
    let mut offsets = vec![0_u64];
    let (mut whole, mut half) = (Builder::new(), Builder::new());
    let mut records = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let offset = offsets[number];
        whole.line(offset, line);
        if number == lines.len() / 2 {
            let last = number.checked_sub(1).map_or(&b""[..], |before| lines[before]);
            half = Builder::resume(&half.finish(last)).expect("an index of our own");
        }
        half.line(offset, line);
        offsets.push(offset + line.len() as u64 + 1);
        if let Some(seen) = glance(line) {
            let time = Timestamp::parse_rfc3339(&seen.time);
            if let (Some(time), "payload-launch", Some(_)) = (time, &*seen.action, &seen.id)
                && let Ok(record) = serde_json::from_slice::<Record>(line)
            {
                records.push((offset, time, record));
            }
        }
    }
    let last = lines.last().copied().unwrap_or_default();
    let (whole, half) = (whole.finish(last), half.finish(last));
    for section in Section::all() {
        assert_eq!(whole.section(section), half.section(section), "{section:?}");
    }
    let rows = take_rows(&whole.section(Section::Rows).expect("rows")).expect("rows");
    let pids = take_pids(&whole.section(Section::Pids).expect("pids")).expect("pids");
    let told: Vec<_> = rows.iter().map(|row| (row.offset, row.time)).collect();
    let found: Vec<_> = records.iter().map(|(offset, time, _)| (*offset, *time)).collect();
    assert_eq!(told, found);
    assert!(
        take_keys(&whole.section(Section::Keys).expect("keys")).is_some_and(|keys| keys.len() == rows.len())
    );
    take_closings(&whole.section(Section::Closings).expect("closings")).expect("closings");
    take_others(&whole.section(Section::Others).expect("others")).expect("others");
    take_offsets(&whole.section(Section::Checkpoints).expect("checkpoints")).expect("checkpoints");
    let mut question = Question { pid: asked.parse().ok(), ip: asked.parse().ok(), ..Question::default() };
    let text = Some(asked);
    for field in Field::ALL {
        match field {
            Field::User => question.user.clone_from(&text),
            Field::Issuer => question.issuer.clone_from(&text),
            Field::Vo => question.vo.clone_from(&text),
            Field::Job => question.job.clone_from(&text),
            Field::Pilot => question.pilot.clone_from(&text),
            Field::Image => question.image.clone_from(&text),
            Field::Cgroup => question.cgroup.clone_from(&text),
            Field::Ip => {}
        }
        let section = whole.section(Section::Field(field)).expect("a field");
        let judged = Values::judge(&section, |texts| question.fits(field, texts)).expect("a field");
        assert_eq!(judged.len(), records.len());
        for (judged, (_, _, record)) in judged.iter().zip(&records) {
            let texts = field.texts(record);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            assert_eq!(*judged, question.fits(field, &texts), "{field:?}");
        }
    }
    for (pids, (_, _, record)) in pids.iter().zip(&records) {
        let known = |id: Option<i64>| id.filter(|id| *id != i64::MIN);
        assert_eq!((pids.pid, pids.vpid), (known(record.process.pid), known(record.process.vpid)));
        let _ = question.meets(record);
    }
    !records.is_empty()
}

/// Bytes for [`index`] as this build writes them.
pub(crate) fn seed(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = Builder::new();
    let mut offset = 0;
    for line in lines {
        builder.line(offset, line);
        offset += line.len() as u64 + 1;
    }
    let file = builder.finish(lines.last().map(Vec::as_slice).unwrap_or_default()).into_bytes();
    let mut from = Take(&file);
    from.raw(8).expect("the magic");
    let length = from.u32().expect("a length");
    from.raw(CHECK).expect("a checksum");
    let mut out = Vec::new();
    out.u32(length);
    out.raw(from.0);
    out
}
