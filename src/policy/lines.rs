//! What every list has in common: limits, and one clear sentence about what is wrong in which line.
//!
//! 1. A list that ends up empty by accident lifts every ban in it: an empty file MUST be a fault. Who bans nobody says so in
//!    a comment.
//! 2. Text passes unchanged or not at all: bytes that are not UTF-8 MUST NOT be replaced by anything.
#![forbid(unsafe_code)]

use std::fmt;

use crate::failure::Printable;

/// The largest list.
pub const MOST_BYTES: usize = 16 << 20;
/// The most entries of one list.
pub const MOST_ENTRIES: usize = 1_000_000;
/// The longest line.
pub const LONGEST_LINE: usize = 8 << 10;
/// More faults of one list are not told.
pub const MOST_FAULTS: usize = 20;

/// Why a value cannot be used, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What was found, what was expected.
    pub why: String,
    /// The next step.
    pub next: String,
}

impl Wrong {
    pub(super) fn new(why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { why: why.into(), next: next.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", Printable(&self.why), Printable(&self.next))
    }
}

/// One thing wrong in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1; 0 when the whole file is meant.
    pub line: u32,
    /// In characters, from 1; 0 when the whole line is meant.
    pub column: u32,
    /// What cannot be done: "cannot read a ban".
    pub what: &'static str,
    /// What was found.
    pub why: String,
    /// What to write instead.
    pub next: String,
}

impl fmt::Display for Fault {
    /// One line. The file's name is the caller's to add: this room knows none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => {}
            (line, 0) => write!(f, "line {line}: ")?,
            (line, column) => write!(f, "line {line}, column {column}: ")?,
        }
        write!(f, "{}: {}; {}", self.what, Printable(&self.why), Printable(&self.next))
    }
}

/// The faults of one list, as far as they are told.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Notes one; `true` when no more need be looked for.
    pub(super) fn push(&mut self, fault: Fault) -> bool {
        if self.0.len() < MOST_FAULTS {
            self.0.push(fault);
        }
        self.is_full()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST_FAULTS
    }

    pub(super) fn or<T>(self, good: T) -> Result<T, Vec<Fault>> {
        if self.0.is_empty() { Ok(good) } else { Err(self.0) }
    }
}

/// A place in a list, for the fault there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) fn line(line: u32) -> Self {
        Self { line, column: 0 }
    }

    pub(super) fn fault(self, what: &'static str, wrong: Wrong) -> Fault {
        Fault { line: self.line, column: self.column, what, why: wrong.why, next: wrong.next }
    }
}

/// Line and column of a byte of `text`.
pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = text.get(..offset).unwrap_or_default();
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).map_or(0, |part| part.chars().count()) + 1;
    Place { line: number(line), column: number(column) }
}

/// A count of lines or columns; nothing here has four thousand million of them.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A value for a message, not longer than a line.
pub(crate) fn shorten(value: &str) -> String {
    if value.chars().count() <= 80 {
        return value.to_owned();
    }
    value.chars().take(79).chain(['…']).collect()
}

/// The text of a list without its byte-order mark: bounded, UTF-8, no control characters but tabs and ends of lines.
pub(super) fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Vec<Fault>> {
    let whole =
        |why: String, next: &str| Err(vec![Fault { line: 0, column: 0, what, why, next: next.to_owned() }]);
    if bytes.len() > MOST_BYTES {
        return whole(
            format!("it has {} bytes, more than {MOST_BYTES}", bytes.len()),
            "split it into several files",
        );
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return whole("it is UTF-16".to_owned(), "save it as UTF-8");
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.trim_ascii().is_empty() {
        return whole(
            "it is empty, as a list is that was cut off while it was written".to_owned(),
            "write it again; to list nobody, write a comment line such as '# nobody', or remove the file",
        );
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let place = place_of(&String::from_utf8_lossy(valid), error.valid_up_to());
            let wrong =
                Wrong::new("found bytes that are not UTF-8", "save it as UTF-8, with each name as it was");
            return Err(vec![place.fault(what, wrong)]);
        }
    };
    let mut faults = Faults::default();
    for (index, line) in text.split('\n').enumerate() {
        if let Some(fault) = check_line(number(index + 1), line, what)
            && faults.push(fault)
        {
            break;
        }
    }
    faults.or(text)
}

fn check_line(number_of_line: u32, line: &str, what: &'static str) -> Option<Fault> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.len() > LONGEST_LINE {
        let wrong = Wrong::new(
            format!("it has {} bytes, more than {LONGEST_LINE}", line.len()),
            "write one entry in each line",
        );
        return Some(Place::line(number_of_line).fault(what, wrong));
    }
    // Bytes first: nearly every line has nothing to look at.
    if line.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return None;
    }
    let (index, found) = line.chars().enumerate().find(|(_, c)| c.is_control() && *c != '\t')?;
    let wrong = Wrong::new(
        format!("found the control character U+{:04X}", u32::from(found)),
        "write the line again; ends of lines are LF or CR LF",
    );
    Some(Place { line: number_of_line, column: number(index + 1) }.fault(what, wrong))
}

/// The lines that say something, with their numbers: no blank ends, no comments.
pub(super) fn entries(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.split('\n').enumerate().filter_map(|(index, line)| {
        let line = line.trim();
        (!line.is_empty() && !line.starts_with('#')).then_some((number(index + 1), line))
    })
}

/// A list with a line for each entry that has too many of them, before any is read.
pub(super) fn count(text: &str, what: &'static str) -> Result<(), Vec<Fault>> {
    // An entry and its end take two bytes: nearly every list is known to be short without counting.
    if text.len() < 2 * MOST_ENTRIES {
        return Ok(());
    }
    entries(text).nth(MOST_ENTRIES).map_or(Ok(()), |(line, _)| Err(vec![too_many(line, what)]))
}

/// The fault of a list that has too many entries.
pub(super) fn too_many(line: u32, what: &'static str) -> Fault {
    let wrong = Wrong::new(
        format!("there are more than {MOST_ENTRIES} entries"),
        "split the list into several files, or ban a group instead of its members",
    );
    Place::line(line).fault(what, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(bytes: &[u8]) -> (u32, u32, String) {
        let faults = text(bytes, "cannot read it").unwrap_err();
        (faults[0].line, faults[0].column, faults[0].why.clone())
    }

    #[test]
    fn good_text_passes_unchanged() {
        for (bytes, expected) in
            [(&b"\xef\xbb\xbf# nobody\r\n"[..], "# nobody\r\n"), (b"a\tb\n", "a\tb\n"), ("ë".as_bytes(), "ë")]
        {
            assert_eq!(text(bytes, "x").unwrap(), expected);
        }
        let kept: Vec<_> = entries("# a\r\n\r\n  b c \r\n\t\n#\nd").collect();
        assert_eq!(kept, [(3, "b c"), (6, "d")]);
    }

    #[test]
    fn what_is_no_list_is_a_fault_with_its_place() {
        for empty in [&b""[..], b"\n", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"] {
            assert!(why(empty).2.starts_with("it is empty"), "{empty:?}");
        }
        assert_eq!(why(b"\xff\xfea\0").2, "it is UTF-16");
        assert_eq!(why(b"ok\n/CN=Zo\xeb\n"), (2, 7, "found bytes that are not UTF-8".into()));
        assert_eq!(why(b"ok\na\0b"), (2, 2, "found the control character U+0000".into()));
        assert_eq!(why(b"a\rb\n"), (1, 2, "found the control character U+000D".into()));
        assert_eq!(why("a\u{85}b".as_bytes()), (1, 2, "found the control character U+0085".into()));
        assert!(why(&vec![b'a'; LONGEST_LINE + 1]).2.contains("more than 8192"));
        assert!(why(&vec![b'a'; MOST_BYTES + 1]).2.contains("more than 16777216"));
        text(&vec![b'a'; LONGEST_LINE], "x").unwrap();
        assert_eq!(text("\u{1}\n".repeat(50).as_bytes(), "x").unwrap_err().len(), MOST_FAULTS);
    }

    #[test]
    fn a_fault_is_one_line() {
        let fault = Place { line: 3, column: 5 }.fault("cannot read a ban", Wrong::new("a\nb", "do it"));
        assert_eq!(fault.to_string(), "line 3, column 5: cannot read a ban: a\\u{a}b; do it");
        assert_eq!(Place::line(0).fault("x", Wrong::new("y", "z")).to_string(), "x: y; z");
    }
}
