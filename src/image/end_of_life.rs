//! When the makers of an operating system end its security support.
//!
//! 1. The table that is built in is `config/end-of-life.toml`, turned into constants: no launch parses it. A test keeps the
//!    two equal; `BAILEY_WRITE_TABLE=1 cargo test --lib end_of_life` writes `end_of_life/table.rs` anew.
//! 2. A site's own file takes its place as a whole, and MUST be right as a whole: a row that cannot be understood is an error.
//!    The copy of the site's policy has its rows, so that a launch reads only those of its image's system.
//! 3. The table has the word: what an image says itself (SUPPORT_END) counts where the table does not know the system.
#![forbid(unsafe_code)]

mod table;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use super::os_release::{Os, end_of_day};
use crate::audit::time::Timestamp;
use crate::failure::Failure;
use crate::input::{self, Trouble};

/// The largest file that is read.
const LIMIT: u64 = 1 << 20;

/// Systems and their last days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndOfLife {
    dated: Day,
    rows: Cow<'static, [Row]>,
}

/// A day that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Day {
    year: u16,
    month: u8,
    of_month: u8,
}

/// One version of one system; one without an end is rolling, and holds for all its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    id: Cow<'static, str>,
    /// NAME, where it is a condition.
    name: Option<Cow<'static, str>>,
    version: Cow<'static, str>,
    end: Option<Day>,
}

static BUILTIN: EndOfLife = EndOfLife { dated: table::DATED, rows: Cow::Borrowed(table::ROWS) };

impl EndOfLife {
    /// The table that comes with bailey.
    pub fn builtin() -> &'static Self {
        &BUILTIN
    }

    /// A site's own file. The error is the site's and names line and column.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        Self::read_with(path).map(|(table, ..)| table)
    }

    /// The same, with what was read, and its metadata as they were before.
    pub fn read_with(path: &Path) -> Result<(Self, Metadata, Vec<u8>), Failure> {
        let (metadata, bytes) = input::open(path)
            .map_err(Trouble::from)
            .and_then(|file| input::read_small(&file, LIMIT))
            .map_err(|trouble| {
                Failure::site(
                    format!("cannot read the end-of-life table {}", path.display()),
                    trouble.to_string(),
                    "put a TOML file such as config/end-of-life.toml there, or take image.end_of_life_table out",
                )
            })?;
        match Self::parse(&bytes) {
            Ok(table) => Ok((table, metadata, bytes)),
            Err(fault) => Err(fault.failure(path, &bytes)),
        }
    }

    /// The rows, each with the ID of its system.
    pub fn into_rows(self) -> impl Iterator<Item = (String, Row)> {
        self.rows.into_owned().into_iter().map(|row| (row.id.to_string(), row))
    }

    /// The day when the table was compared with its sources.
    pub fn dated(&self) -> Option<Timestamp> {
        self.dated.end()
    }

    /// The end of the last day of the system's security support; `None` when nobody knows one. Of the rows with its ID those
    /// whose version is the longest part of VERSION_ID, and of these one for its NAME.
    pub fn of(&self, os: &Os) -> Option<Timestamp> {
        end_of(self.rows.iter(), os)
    }
}

/// See [`EndOfLife::of`].
pub fn end_of<'a>(rows: impl IntoIterator<Item = &'a Row>, os: &Os) -> Option<Timestamp> {
    let found = rows
        .into_iter()
        .filter(|row| {
            row.id == os.id && row.name.as_deref().is_none_or(|name| os.name.as_deref() == Some(name))
        })
        .filter(|row| row.end.is_none() || is_part(&row.version, os.version_id.as_deref()))
        .max_by_key(|row| (row.version.len(), row.name.is_some()));
    match found {
        Some(row) => row.end.and_then(Day::end),
        None => os.support_end,
    }
}

impl EndOfLife {
    /// Reads the text of a table.
    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            Fault { span: Some(at..at), why: "found bytes that are not UTF-8".to_owned() }
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let file: Written = toml::from_str(text)
            .map_err(|error| Fault { span: error.span(), why: error.message().replace('\n', ", ") })?;
        let mut seen = BTreeSet::new();
        let mut rows = Vec::new();
        for system in file.system {
            system.rows(&mut seen, &mut rows)?;
        }
        Ok(Self { dated: day(&file.dated)?, rows: rows.into() })
    }
}

/// `9` is a part of `9.3`, not of `90`.
fn is_part(part: &str, version: Option<&str>) -> bool {
    version
        .and_then(|version| version.strip_prefix(part))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Day {
    const fn new(year: u16, month: u8, of_month: u8) -> Self {
        Self { year, month, of_month }
    }

    fn end(self) -> Option<Timestamp> {
        end_of_day((i64::from(self.year), u32::from(self.month), u32::from(self.of_month)))
    }
}

/// What is wrong in a file, and where.
#[derive(Debug)]
struct Fault {
    span: Option<Range<usize>>,
    why: String,
}

impl Fault {
    fn at(span: Range<usize>, why: impl Into<String>) -> Self {
        Self { span: Some(span), why: why.into() }
    }

    fn failure(self, path: &Path, bytes: &[u8]) -> Failure {
        let mark = bytes.strip_prefix(b"\xef\xbb\xbf").map_or(0, |_| 3);
        let place = self.span.map_or_else(String::new, |span| {
            let before =
                String::from_utf8_lossy(bytes.get(..span.start + mark).unwrap_or(bytes)).into_owned();
            let before = before.trim_start_matches('\u{feff}');
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |part| part.chars().count()) + 1;
            format!(", line {line}, column {column}")
        });
        Failure::site(
            format!("cannot use the end-of-life table {}{place}", path.display()),
            self.why,
            "correct it; config/end-of-life.toml is an example of every key",
        )
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    dated: Spanned<Datetime>,
    #[serde(default)]
    system: Vec<System>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section, written [[system]]")]
struct System {
    id: Spanned<String>,
    name: Option<Spanned<String>>,
    source: Spanned<Vec<String>>,
    #[serde(default)]
    rolling: bool,
    #[serde(default)]
    end: BTreeMap<Spanned<String>, Spanned<Datetime>>,
}

impl System {
    fn rows(self, seen: &mut BTreeSet<(String, Option<String>)>, rows: &mut Vec<Row>) -> Result<(), Fault> {
        let Self { id, name, source, rolling, end } = self;
        if !is_word(id.get_ref(), false) {
            return Err(Fault::at(id.span(), "id is the ID of an os-release file: letters, digits and ._-"));
        }
        if source.get_ref().is_empty() || !source.get_ref().iter().all(|url| url.starts_with("https://")) {
            return Err(Fault::at(
                source.span(),
                "source says where the days are from: a list of https:// addresses",
            ));
        }
        if rolling != end.is_empty() {
            return Err(Fault::at(id.span(), "a system has either rolling = true or days in [system.end]"));
        }
        let span = id.span();
        let id = id.into_inner();
        let name = name.map(Spanned::into_inner);
        if !seen.insert((id.clone(), name.clone())) {
            return Err(Fault::at(span, "this system is there twice"));
        }
        let id: Cow<'static, str> = id.into();
        let name: Option<Cow<'static, str>> = name.map(Cow::from);
        if rolling {
            rows.push(Row { id: id.clone(), name: name.clone(), version: "".into(), end: None });
        }
        for (version, end) in end {
            if !is_word(version.get_ref(), true) {
                return Err(Fault::at(
                    version.span(),
                    "expected a VERSION_ID or its first parts, such as 9 or 15.6",
                ));
            }
            let end = Some(day(&end)?);
            let version = version.into_inner().into();
            rows.push(Row { id: id.clone(), name: name.clone(), version, end });
        }
        Ok(())
    }
}

fn is_word(text: &str, version: bool) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let parts = !version || text.split('.').all(|part| !part.is_empty());
    !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed) && parts
}

/// A day without a time, that exists.
fn day(written: &Spanned<Datetime>) -> Result<Day, Fault> {
    let fault = || Fault::at(written.span(), "expected a day that exists, such as 2024-06-30");
    let Datetime { date: Some(date), time: None, offset: None } = written.get_ref() else {
        return Err(fault());
    };
    let day = Day::new(date.year, date.month, date.day);
    day.end().map(|_| day).ok_or_else(fault)
}

/// For [`crate::fuzzing`]: a site's own table; what is wrong with it is told in one line.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    match EndOfLife::parse(bytes) {
        Ok(table) => {
            let _ = table.dated();
            for os in ["debian:12", "centos:7.9", "x"] {
                let (id, version) = os.split_once(':').unwrap_or((os, ""));
                let (os, _) =
                    crate::image::os_release::parse(format!("ID={id}\nVERSION_ID={version}\n").as_bytes());
                let _ = os.map(|os| table.of(&os));
            }
            true
        }
        Err(fault) => {
            crate::fuzzing::is_one_line(&fault.failure(Path::new("/x/table.toml"), bytes).to_string());
            false
        }
    }
}

#[cfg(test)]
mod tests;
