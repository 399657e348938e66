//! The Singularity Image Format: its header, and the labels that Apptainer keeps beside the file system.
//!
//! Layout, little-endian, as published with the format (github.com/apptainer/sif, pkg/sif): at 32 the magic, at 42 the
//! version as two digits and a NUL; then from 64 on 64-bit numbers: creation, change, free and all descriptors, offset and
//! length of their table, offset and length of the data. A descriptor has 585 bytes without gaps.
//!
//! 1. No number of the file MUST be used before it was compared with the file's size.
//! 2. Nothing is read but header, table, and one object of at most [`LARGEST`] bytes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde_json::Value;

use super::facts::Told;
use super::labels::{self, Labels};
use crate::audit::time::Timestamp;
use crate::failure::io_text;

/// Bytes of the header that are read.
pub const HEADER: usize = 128;

/// Bytes of one descriptor.
const DESCRIPTOR: u64 = 585;
/// The most descriptors: what Apptainer makes has 48.
const DESCRIPTORS: u64 = 1024;
/// The most of an object with labels, which holds the image's scripts too.
const LARGEST: u64 = 1 << 20;
/// The kind of an object of JSON.
const JSON: u64 = 0x4006;
/// The name of the object that `apptainer inspect` shows.
const INSPECT: &[u8] = b"inspect-metadata.json";

/// What of the header is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// When the file was made.
    pub created: Timestamp,
    /// Where the descriptors are.
    table: u64,
    /// How many there are, used and free.
    descriptors: u64,
}

/// Reads the header of a file of `size` bytes. The error says why it is no SIF file that can be used.
pub fn header(bytes: &[u8; HEADER], size: u64) -> Result<Header, String> {
    if bytes.get(32..42) != Some(b"SIF_MAGIC\0") {
        return Err("it is not a SIF file (no SIF_MAGIC at byte 32)".to_owned());
    }
    match bytes.get(42..45) {
        Some([b'0', b'0'..=b'1', 0]) => {}
        _ => return Err("its version of the SIF format is not known, expected 01".to_owned()),
    }
    let created = number(bytes, 64, 8).unwrap_or_default() as i64;
    let within = |name: &str, offset: u64, length: u64| match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(format!("its {name} end beyond the file, which is cut short or no SIF file")),
    };
    let at = |offset| number(bytes, offset, 8).unwrap_or(u64::MAX);
    let (descriptors, table) = (at(88), at(96));
    within("descriptors", table, descriptors.saturating_mul(DESCRIPTOR))?;
    within("data", at(112), at(120))?;
    if descriptors > DESCRIPTORS {
        return Err(format!("it has more than {DESCRIPTORS} descriptors"));
    }
    Ok(Header { created: Timestamp::new(created, 0), table, descriptors })
}

/// See [`super::facts::of_sif`].
pub(super) fn read(file: &File) -> Result<Told, String> {
    let metadata = file.metadata().map_err(|error| io_text(&error))?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let size = metadata.len();
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(format!("it is not a SIF file (shorter than {HEADER} bytes)"));
        }
        Err(error) => return Err(io_text(&error)),
    }
    let header = header(&bytes, size)?;
    let mut told = Told::default();
    match labels_of(file, header, size) {
        Ok(Some((labels, dropped))) => {
            if dropped > 0 {
                told.remark(format!("inspect-metadata.json: values that are no text: {dropped}"));
            }
            told.learn_labels(labels);
        }
        Ok(None) => {}
        Err(why) => told.remark(format!("inspect-metadata.json: {why}")),
    }
    if told.made.is_none() {
        if labels::is_plausible(header.created) {
            told.made = Some((header.created, "sif-header".to_owned()));
        } else {
            told.remark("the SIF header has no time of creation".to_owned());
        }
    }
    Ok(told)
}

/// What `apptainer inspect --json` prints.
#[derive(Deserialize)]
struct Inspect {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    attributes: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

/// The labels, and how many were left out.
fn labels_of(file: &File, header: Header, size: u64) -> Result<Option<Labels>, String> {
    let mut table = vec![0; (header.descriptors * DESCRIPTOR) as usize];
    file.read_exact_at(&mut table, header.table).map_err(|error| io_text(&error))?;
    let Some((offset, length)) = table.chunks_exact(DESCRIPTOR as usize).find_map(inspect_object) else {
        return Ok(None);
    };
    if length > LARGEST {
        return Err(format!("it is larger than {LARGEST} bytes"));
    }
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err("it ends beyond the file".to_owned());
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset).map_err(|error| io_text(&error))?;
    let inspect: Inspect = serde_json::from_slice(&bytes).map_err(|error| {
        format!("not what 'apptainer inspect' prints, line {}, column {}", error.line(), error.column())
    })?;
    Ok(Some(labels::texts(inspect.data.attributes.labels)))
}

/// Offset and length, if the descriptor is that of a used JSON object with the name.
fn inspect_object(descriptor: &[u8]) -> Option<(u64, u64)> {
    let used = descriptor.get(4) == Some(&1);
    let name = descriptor.get(73..73 + 128)?.split(|byte| *byte == 0).next()?;
    if number(descriptor, 0, 4)? != JSON || !used || name != INSPECT {
        return None;
    }
    Some((number(descriptor, 17, 8)?, number(descriptor, 25, 8)?))
}

/// A little-endian number of `length` bytes at `offset`.
fn number(bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + length)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
