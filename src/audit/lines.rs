//! Lines of a segment in big reads, and what can be told of a line without reading all of it.
//!
//! 1. Nothing is decided here: a line that is broken is handed over as it is.
//! 2. [`glance`] takes the writer's own form on a fast path and any other JSON on a slow one; both give the same answer.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use serde::Deserialize;

use super::chain::MAX_LINE;

/// Bytes of one read: few enough to be still in the processor's cache when they are looked at.
const READ: usize = 256 << 10;

/// Hands every whole line of `file` from `from` up to `to`, without its newline, with its offset to `each`, until that
/// breaks off. A line longer than [`MAX_LINE`] is handed over without its end. Gives the offset behind the last whole line.
pub fn each_line(
    file: &File,
    from: u64,
    to: u64,
    each: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> io::Result<u64> {
    let mut buffer = vec![0; READ + MAX_LINE + 1];
    let mut have = 0; // bytes of an unfinished line at the buffer's beginning
    let mut begin = from; // their offset
    let mut skipping = false; // inside a line that is too long
    loop {
        let at = begin + have as u64;
        let room = buffer.len().saturating_sub(have).min(READ).min(to.saturating_sub(at) as usize);
        let Some(space) = buffer.get_mut(have..have + room).filter(|space| !space.is_empty()) else {
            return Ok(begin);
        };
        let count = match file.read_at(space, at) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(begin);
        }
        let filled = buffer.get(..have + count).unwrap_or_default();
        let (mut done, mut search) = (0, have);
        while let Some(end) = filled.get(search..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let end = search + end;
            let line = filled.get(done..end).unwrap_or_default();
            let flow = if skipping { ControlFlow::Continue(()) } else { each(begin + done as u64, line) };
            skipping = false;
            done = end + 1;
            search = done;
            if flow.is_break() {
                return Ok(begin + done as u64);
            }
        }
        have = filled.len() - done;
        if have > MAX_LINE && !skipping {
            let line = filled.get(done..).unwrap_or_default();
            if each(begin + done as u64, line).is_break() {
                return Ok(begin + done as u64);
            }
            skipping = true;
        }
        if skipping {
            begin += filled.len() as u64;
            have = 0;
        } else {
            begin += done as u64;
            buffer.copy_within(done..done + have, 0);
        }
    }
}

/// What every line says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance<'a> {
    /// `@timestamp`.
    pub time: Cow<'a, str>,
    /// `event.id`.
    pub id: Option<Cow<'a, str>>,
    /// `event.action`.
    pub action: Cow<'a, str>,
}

/// The time, launch id and action of a line; `None` when it has no such members or, where it does not begin in the
/// writer's own form, is no JSON.
pub fn glance(line: &[u8]) -> Option<Glance<'_>> {
    usual(line).or_else(|| {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(rename = "@timestamp", borrow)]
            time: Cow<'a, str>,
            #[serde(borrow)]
            event: Event<'a>,
        }
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow, default)]
            id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            action: Cow<'a, str>,
        }
        let Line { time, event } = serde_json::from_slice(line).ok()?;
        Some(Glance { time, id: event.id, action: event.action })
    })
}

/// `{"@timestamp":"…","event":{"id":"…","action":"…"`
fn usual(line: &[u8]) -> Option<Glance<'_>> {
    let rest = line.strip_prefix(b"{\"@timestamp\":\"")?;
    let (time, rest) = plain(rest)?;
    let rest = rest.strip_prefix(b",\"event\":{")?;
    let (id, rest) = match rest.strip_prefix(b"\"id\":\"") {
        Some(rest) => {
            let (id, rest) = plain(rest)?;
            (Some(id), rest.strip_prefix(b",")?)
        }
        None => (None, rest),
    };
    let (action, _) = plain(rest.strip_prefix(b"\"action\":\"")?)?;
    Some(Glance { time: time.into(), id: id.map(Cow::Borrowed), action: action.into() })
}

/// A short string without escapes, and what is behind its closing quote.
fn plain(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b'"', text.get(..256).unwrap_or(text))?;
    let (inner, rest) = text.split_at_checked(end)?;
    if inner.iter().any(|b| *b == b'\\' || b.is_ascii_control()) {
        return None;
    }
    Some((std::str::from_utf8(inner).ok()?, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::super::chain::{Body, Link};
    use super::super::record::{Action, Host, Record};
    use super::super::time::Timestamp;
    use super::*;
    use crate::request::LaunchId;

    fn lines_of(bytes: &[u8], from: u64) -> (Vec<(u64, Vec<u8>)>, u64) {
        let path = std::env::temp_dir().join(format!("bailey-lines-{}-{}", std::process::id(), bytes.len()));
        std::fs::write(&path, bytes).unwrap();
        let mut found = Vec::new();
        let end = each_line(&File::open(&path).unwrap(), from, bytes.len() as u64, &mut |at, line| {
            found.push((at, line.to_vec()));
            ControlFlow::Continue(())
        });
        std::fs::remove_file(&path).unwrap();
        (found, end.unwrap())
    }

    #[test]
    fn lines_come_whole_whatever_the_reads_cut() {
        let mut text = Vec::new();
        let mut expected = Vec::new();
        for number in 0..3000_usize {
            let line = vec![b'a' + (number % 26) as u8; number * 7 % 2000];
            expected.push((text.len() as u64, line.clone()));
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        let whole = text.len() as u64;
        assert!(whole > 2 * READ as u64);
        text.extend_from_slice(b"torn");
        assert_eq!(lines_of(&text, 0), (expected.clone(), whole));
        let (at, _) = expected[1000];
        assert_eq!(lines_of(&text, at), (expected[1000..].to_vec(), whole));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut text = b"first\n".to_vec();
        text.resize(5 * READ, b'x');
        text.extend_from_slice(b"\nlast\n");
        let (found, end) = lines_of(&text, 0);
        let starts: Vec<(u64, usize)> = found.iter().map(|(at, line)| (*at, line.len().min(9))).collect();
        assert_eq!(starts, [(0, 5), (6, 9), (5 * READ as u64 + 1, 4)]);
        assert_eq!(end, text.len() as u64);
    }

    #[test]
    fn a_glance_is_what_the_whole_line_says() {
        let launch = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [2; 10]));
        let log = Record::of_log(Action::Checkpoint, Host::default());
        for record in [launch, log] {
            let line = Body::new(&record).unwrap().line(Timestamp::new(5, 0), &Link::START, "w");
            let seen = glance(&line).unwrap();
            assert_eq!(usual(&line).as_ref(), Some(&seen), "the writer's form is the fast one");
            assert_eq!(seen.id.as_deref(), record.event.id.as_deref());
            assert_eq!(seen.time, Timestamp::new(5, 0).to_string());
            assert_eq!(serde_json::to_value(record.event.action).unwrap(), seen.action.as_ref());
        }
        let odd = br#"{"event":{"action":"x\u0041","id":"a\"b"},"@timestamp":"t"}"#;
        let seen = glance(odd).unwrap();
        assert_eq!((seen.action.as_ref(), seen.id.as_deref()), ("xA", Some("a\"b")));
        for none in [&b"{}"[..], b"", b"{\"@timestamp\":\"x\"}", b"garbage"] {
            assert_eq!(glance(none), None);
        }
    }
}
