//! The hash chain: pure functions from bytes to bytes. No file is touched here.
//!
//! 1. `chain.prev` of a line is the SHA-256 of the bytes of the line before it, without the newline.
//! 2. `chain.seq` grows by one from line to line, across segments; the first line ever has 1 and a `prev` of zeros.
//! 3. `chain` is the last member of a line, so its place is found from the end without reading the rest.
#![forbid(unsafe_code)]

use std::io::Write as _;

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::record::Record;
use super::time::Timestamp;
use crate::failure::Failure;

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The longest line that is written. A launch record has about 3 KB; the argument list is capped before it comes here.
pub const MAX_LINE: usize = 256 * 1024;

/// The last line of a chain: what the next line needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its `chain.seq`.
    pub seq: u64,
    /// The SHA-256 of its bytes.
    pub hash: Hash,
}

impl Link {
    /// Before the first line ever.
    pub const START: Self = Self { seq: 0, hash: [0; 32] };
}

/// A record serialised in advance, so that nothing but a copy is left to do under the lock.
#[derive(Debug, Clone)]
pub struct Body(Vec<u8>);

impl Body {
    /// Serialises the record; fails when the line would be longer than [`MAX_LINE`].
    pub fn new(record: &Record) -> Result<Self, Failure> {
        let bytes = serde_json::to_vec(record).map_err(|error| unserialisable(&error))?;
        fits(bytes.len())?;
        Ok(Self(bytes))
    }

    /// The line, with its newline, that follows `last` in the chain.
    pub fn line(&self, at: Timestamp, last: &Link, writer: &str) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.0.len() + writer.len() + 192);
        begin(&mut line, at);
        let start = line.len();
        line.extend_from_slice(&self.0);
        end(&mut line, start, last, writer);
        line
    }
}

/// Appends the line, with its newline, of a record to `out` without a copy of its own, and gives the link to it. What is
/// in `out` before is left alone, also with an error.
pub fn append_line(
    out: &mut Vec<u8>,
    record: &Record,
    at: Timestamp,
    last: &Link,
    writer: &str,
) -> Result<Link, Failure> {
    let whole = out.len();
    begin(out, at);
    let start = out.len();
    let wrote = serde_json::to_writer(&mut *out, record).map_err(|error| unserialisable(&error));
    let length = out.len() - start;
    if let Err(failure) = wrote.and_then(|()| fits(length)) {
        out.truncate(whole);
        return Err(failure);
    }
    end(out, start, last, writer);
    Ok(Link { seq: last.seq + 1, hash: hash(out.get(whole..).unwrap_or_default()) })
}

/// Appends the line of `line` (without newline) anew: the same record and time, another place in the chain. `None` when it
/// is no line.
pub fn append_again(out: &mut Vec<u8>, line: &[u8], last: &Link, writer: &str) -> Option<Link> {
    place_of(line)?;
    let whole = out.len();
    out.extend_from_slice(line.get(..last_mark(line)?)?);
    chain(out, last, writer);
    Some(Link { seq: last.seq + 1, hash: hash(out.get(whole..).unwrap_or_default()) })
}

fn unserialisable(error: &serde_json::Error) -> Failure {
    Failure::record("cannot serialise the audit record", error.to_string(), "report this as a bug of bailey")
}

fn fits(length: usize) -> Result<(), Failure> {
    if length + 512 > MAX_LINE {
        return Err(Failure::too_large(length, "bytes", MAX_LINE));
    }
    Ok(())
}

/// What comes before the record's own bytes. A Vec never fails.
fn begin(line: &mut Vec<u8>, at: Timestamp) {
    let _ = write!(line, "{{\"@timestamp\":\"{at}\"");
}

/// What comes after them: they begin at `start` with a brace, which becomes the comma, and end with one, which goes.
fn end(line: &mut Vec<u8>, start: usize, last: &Link, writer: &str) {
    if let Some(brace) = line.get_mut(start) {
        *brace = b',';
    }
    line.pop();
    chain(line, last, writer);
}

fn chain(line: &mut Vec<u8>, last: &Link, writer: &str) {
    let _ = write!(line, "{MARK}{}{PREV}{}\",\"writer\":", last.seq + 1, hex(&last.hash));
    let _ = serde_json::to_writer(&mut *line, writer);
    line.extend_from_slice(b"}}\n");
}

const MARK: &str = ",\"chain\":{\"seq\":";
const PREV: &str = ",\"prev\":\"";

/// The digest of one line; a newline at its end is not part of it.
pub fn hash(line: &[u8]) -> Hash {
    Sha256::digest(line.strip_suffix(b"\n").unwrap_or(line)).into()
}

/// What the next line needs of this one (without newline); `None` when it is not a whole line of a chain.
pub fn link_of(line: &[u8]) -> Option<Link> {
    let (seq, _) = place_of(line)?;
    serde_json::from_slice::<IgnoredAny>(line).ok()?;
    Some(Link { seq, hash: hash(line) })
}

/// `chain.seq` and `chain.prev` as the end of the line has them. No string of JSON can hold the marker, because its quotes
/// would be escaped.
pub fn place_of(line: &[u8]) -> Option<(u64, &str)> {
    if line.first() != Some(&b'{') || !line.ends_with(b"}}") {
        return None;
    }
    let start = last_mark(line)?;
    let text = std::str::from_utf8(line.get(start + MARK.len()..)?).ok()?;
    let (digits, rest) = text.split_once(',')?;
    let rest = rest.strip_prefix(PREV.get(1..)?)?;
    let (prev, rest) = rest.split_at_checked(64)?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    (canonical && is_hex(prev) && rest.starts_with("\",\"writer\":\"")).then_some(())?;
    Some((digits.parse().ok()?, prev))
}

/// Where the mark stands for the last time. It has one brace, and a line of ours has none behind that.
fn last_mark(line: &[u8]) -> Option<usize> {
    let before = MARK.bytes().position(|byte| byte == b'{')?;
    // Without asking the processor what it can do (`proc`); it is near the end.
    memchr::arch::all::memchr::One::new(b'{')
        .iter(line)
        .rev()
        .filter_map(|brace| brace.checked_sub(before))
        .find(|start| line.get(*start..).is_some_and(|rest| rest.starts_with(MARK.as_bytes())))
}

fn is_hex(text: &str) -> bool {
    text.bytes().fold(true, |all, b| all & matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Lowercase hex.
pub fn hex(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(*DIGITS.get(usize::from(value)).unwrap_or(&b'0'));
    let mut text = String::with_capacity(2 * hash.len());
    for byte in hash {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// 64 lowercase hex digits as a digest.
pub fn from_hex(text: &str) -> Option<Hash> {
    // Without a branch for each digit: what is no digit is 16 or more, and that is looked at once.
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => 255,
    };
    let mut hash = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    let mut all = 0;
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let (high, low) = (digit(*high), digit(*low));
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all < 16).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::super::record::Action;
    use super::*;
    use crate::request::LaunchId;

    fn body() -> Body {
        let mut record = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [2; 10]));
        // A payload that tries to forge the end of its line.
        record.process.args = vec!["a\nb\u{1b}[31m".into(), "\",\"chain\":{\"seq\":99,\"prev\":\"".into()];
        Body::new(&record).unwrap()
    }

    #[test]
    fn a_line_reads_back_and_links_to_the_one_before() {
        let first = body().line(Timestamp::new(5, 0), &Link::START, "w\"x");
        assert_eq!(first.iter().position(|b| *b == b'\n'), Some(first.len() - 1));
        let first = first.strip_suffix(b"\n").unwrap();
        let link = link_of(first).unwrap();
        assert_eq!(link.seq, 1);
        let second = body().line(Timestamp::new(6, 0), &link, "w");
        let record: Record = serde_json::from_slice(&second).unwrap();
        let chain = record.chain.unwrap();
        assert_eq!((chain.seq, chain.prev), (2, hex(&hash(first))));
        assert_eq!(record.timestamp, Some(Timestamp::new(6, 0)));
        let record: Record = serde_json::from_slice(first).unwrap();
        let chain = record.chain.unwrap();
        assert_eq!((chain.prev, chain.writer.as_str()), ("0".repeat(64), "w\"x"));
        assert_eq!(record.process.args[0], "a\nb\u{1b}[31m");
    }

    #[test]
    fn hex_reads_back() {
        let hash: Hash = std::array::from_fn(|n| (n * 7) as u8);
        assert_eq!(from_hex(&hex(&hash)), Some(hash));
        for bad in ["", "00", &hex(&hash)[1..], &format!("{}0", hex(&hash)), &hex(&hash).replace('0', "A")] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_cut_anywhere_is_no_line() {
        let line = body().line(Timestamp::new(5, 0), &Link::START, "w");
        let line = line.strip_suffix(b"\n").unwrap();
        for cut in 0..line.len() {
            assert_eq!(link_of(&line[..cut]), None, "cut at {cut}");
        }
        assert!(link_of(line).is_some());
        for bad in [&b""[..], b"{}", b"null", b"{\"chain\":{\"seq\":1}}", &[0; 64]] {
            assert_eq!(link_of(bad), None);
        }
    }
}
