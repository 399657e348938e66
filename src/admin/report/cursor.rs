//! Where a report ended: for each log the last line that was read. Opaque to others, and safe in a shell without quotes.
//!
//! `1/KEY:SEGMENT:END:SEQ:HASH,…`: a key of the log's directory, the segment's name without its ending, the offset behind the
//! line, its `chain.seq` and its SHA-256.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::audit::chain::{Hash, from_hex, hex};
use crate::audit::segment::parse_name;
use crate::failure::Failure;

/// The version, with its separator.
const VERSION: &str = "1/";

/// The last line that was read of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// File name.
    pub(super) segment: String,
    /// Offset behind the line.
    pub(super) end: u64,
    /// `chain.seq`.
    pub(super) seq: u64,
    /// SHA-256 of the line.
    pub(super) hash: Hash,
}

/// The places of all logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cursor(BTreeMap<String, Place>);

/// From where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Since {
    /// From the beginning.
    Start,
    /// From here on.
    Now,
    /// From where the last report ended.
    Cursor(Cursor),
}

/// The key of a log in a cursor.
pub(super) fn key(dir: &Path) -> String {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let digest = hex(&Sha256::digest(dir.as_os_str().as_bytes()).into());
    digest.get(..8).unwrap_or_default().to_owned()
}

impl Since {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        match text.trim() {
            "start" => Ok(Self::Start),
            "now" => Ok(Self::Now),
            text => Cursor::parse(text).map(Self::Cursor).ok_or_else(|| {
                Failure::usage(
                    "cannot understand the cursor",
                    "it is not what a report ended with",
                    "give it as it was printed, or --since start, or --since now",
                )
            }),
        }
    }
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut places = BTreeMap::new();
        let rest = text.strip_prefix(VERSION)?;
        for entry in rest.split(',').filter(|_| !rest.is_empty()) {
            let mut parts = entry.split(':');
            let plain = |key: &&str| key.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let key = parts.next().filter(|key| (1..=64).contains(&key.len())).filter(plain)?;
            let segment = format!("{}.ndjson", parts.next()?);
            parse_name(&segment)?;
            let (end, seq) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let hash = from_hex(parts.next()?)?;
            if parts.next().is_some() {
                return None;
            }
            places.insert(key.to_owned(), Place { segment, end, seq, hash });
        }
        Some(Self(places))
    }

    /// Where the last report ended in a log. Where there is only one log, it is that one, wherever it lies now.
    pub(super) fn place(&self, key: &str, alone: bool) -> Option<&Place> {
        self.0.get(key).or_else(|| self.0.values().next().filter(|_| alone && self.0.len() == 1))
    }

    /// Notes where this report ended in a log.
    pub(super) fn set(&mut self, key: String, place: Place) {
        self.0.insert(key, place);
    }

    /// Keeps what an older cursor says of logs that were not read.
    pub(super) fn keep(&mut self, older: &Self, alone: bool) {
        if alone && older.0.len() <= 1 && !self.0.is_empty() {
            return;
        }
        for (key, place) in &older.0 {
            self.0.entry(key.clone()).or_insert_with(|| place.clone());
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        for (number, (key, place)) in self.0.iter().enumerate() {
            let Place { segment, end, seq, hash } = place;
            let segment = segment.strip_suffix(".ndjson").unwrap_or(segment);
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{key}:{segment}:{end}:{seq}:{}", hex(hash))?;
        }
        Ok(())
    }
}

/// For [`crate::fuzzing`]: what is understood is written as it was read, and needs no quotes in a shell.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    match Since::parse(&String::from_utf8_lossy(bytes)) {
        Ok(Since::Cursor(cursor)) => {
            let text = cursor.to_string();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/:,.-_".contains(&b)), "{text:?}");
            assert_eq!(Cursor::parse(&text), Some(cursor));
            true
        }
        Ok(Since::Start | Since::Now) => true,
        Err(failure) => {
            crate::fuzzing::is_one_line(&failure.to_string());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back() {
        let place = |seq| Place { segment: "2026-11-22.001.ndjson".to_owned(), end: 10, seq, hash: [7; 32] };
        let mut cursor = Cursor::default();
        assert_eq!(Since::parse(&cursor.to_string()).unwrap(), Since::Cursor(cursor.clone()));
        cursor.set("aa".to_owned(), place(3));
        cursor.set("bb".to_owned(), place(4));
        let text = cursor.to_string();
        assert_eq!(Since::parse(&text).unwrap(), Since::Cursor(cursor.clone()));
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/:,.-".contains(&b)), "{text}");
        assert_eq!(cursor.place("bb", false).unwrap().seq, 4);
        assert_eq!(cursor.place("cc", true), None, "of two logs it is not known which");
        for wrong in [
            "",
            "1",
            "2/",
            "1/x",
            "1/$(id):2026-11-22.001:1:1:HASH",
            "1/aa:2026-11-22.001:1:1:zz",
            "1/aa:../../etc/passwd:1:1:00",
            "1/,",
        ] {
            let wrong = wrong.replace("HASH", &"07".repeat(32));
            assert!(Since::parse(&wrong).is_err(), "{wrong}");
            assert!(Since::parse(&format!("{text}:x")).is_err());
        }
    }
}
