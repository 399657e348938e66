//! Lines of a grid-mapfile: a key in quotes or up to white space, and what it is mapped to. The same lines make a VOMS
//! groupmapfile, LCAS' `ban_users.db` and the ban files of LCMAPS.
//!
//! 1. The escapes are those of LCMAPS: `\xHH` for a byte, `\c` for the character itself. An escaped wildcard is none.
//! 2. A quote that is not closed is a fault: so ends a file that was cut off.
#![forbid(unsafe_code)]

use super::glob::{Glob, has_wildcards};
use super::group::GroupPattern;
use super::lines::{self, Fault, Faults, Place, Wrong, number, shorten};
use super::name::{Dn, Name, looks_like_commas};

const WHAT: &str = "cannot read the map file";

/// The key of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// One DN.
    Dn(Dn),
    /// DNs by a pattern.
    DnPattern(Glob),
    /// A VOMS group, perhaps with wildcards.
    Group(GroupPattern),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is for.
    pub key: Key,
    /// Accounts or groups; a leading dot means a pool of them.
    pub targets: Vec<String>,
    /// Where it stands.
    pub line: u32,
}

/// Reads a grid-mapfile or groupmapfile.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Vec<Fault>> {
    let text = lines::text(bytes, WHAT)?;
    lines::count(text, WHAT)?;
    let mut entries = Vec::new();
    let mut faults = Faults::default();
    for (line, content) in lines::entries(text) {
        let entry = split(content).and_then(|(key, targets)| {
            if targets.is_empty() {
                return Err((
                    0,
                    Wrong::new("nothing follows the key", "write the account or group that it is mapped to"),
                ));
            }
            Ok((read_key(&key).map_err(|wrong| (1, wrong))?, targets))
        });
        match entry {
            Ok((key, targets)) => entries.push(Entry { key, targets, line }),
            Err((column, wrong)) => {
                if faults.push(Place { line, column }.fault(WHAT, wrong)) {
                    break;
                }
            }
        }
    }
    faults.or(entries)
}

/// A key as a text in which a backslash stands before what was escaped and would mean something, and the targets. The error
/// has the column.
pub(super) fn split(line: &str) -> Result<(String, Vec<String>), (u32, Wrong)> {
    let (quoted, text) = match line.strip_prefix('"') {
        Some(text) => (true, text),
        None => (false, line),
    };
    let mut key = Vec::new();
    let mut rest = text;
    let mut closed = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '"' if quoted => {
                closed = true;
                rest = after;
                break;
            }
            c if !quoted && c.is_whitespace() => break,
            '\\' => {
                rest = escape(after, &mut key).ok_or_else(|| {
                    (
                        column(line, rest),
                        Wrong::new("a backslash ends the line", "write \\\\ for a backslash"),
                    )
                })?;
                continue;
            }
            c => key.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = after;
    }
    if quoted && !closed {
        return Err((
            1,
            Wrong::new(
                "the quote is not closed, as in a file that was cut off",
                "close it, or write the file again",
            ),
        ));
    }
    if quoted && !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return Err((
            column(line, rest),
            Wrong::new("something follows the closing quote", "put a blank between them"),
        ));
    }
    let key = String::from_utf8(key)
        .map_err(|_| (1, Wrong::new("the escaped bytes are not UTF-8", "write the name as UTF-8")))?;
    let rest = rest.trim();
    let targets = if rest.is_empty() {
        Vec::new()
    } else {
        rest.split(',').map(|target| target.trim().to_owned()).collect()
    };
    if targets.iter().any(|target| target.is_empty() || target.contains(char::is_whitespace)) {
        return Err((
            column(line, rest),
            Wrong::new(
                format!("'{}' is no list of accounts", shorten(rest)),
                "put the name in double quotes, and commas without blanks between the accounts",
            ),
        ));
    }
    Ok((key, targets))
}

fn column(line: &str, rest: &str) -> u32 {
    let before = line.len().saturating_sub(rest.len());
    number(line.get(..before).map_or(0, |before| before.chars().count()) + 1)
}

/// What stands after a backslash, appended to the key; the rest. A wildcard, and a backslash, keep one before them.
fn escape<'a>(after: &'a str, key: &mut Vec<u8>) -> Option<&'a str> {
    let hex = after.strip_prefix('x').and_then(|text| text.split_at_checked(2));
    let (byte, rest) = match hex {
        Some((hex, rest)) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            (u8::from_str_radix(hex, 16).ok()?, rest)
        }
        _ => {
            let c = after.chars().next()?;
            if !c.is_ascii() {
                key.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return after.get(c.len_utf8()..);
            }
            (u8::try_from(c).ok()?, after.get(1..)?)
        }
    };
    if b"*?[\\".contains(&byte) {
        key.push(b'\\');
    }
    key.push(byte);
    Some(rest)
}

/// The meaning of a key: a DN begins with `/TYPE=`, a group with a name.
pub(super) fn read_key(key: &str) -> Result<Key, Wrong> {
    let is_dn = match key.strip_prefix('/') {
        Some(rest) => rest.split('/').next().is_some_and(|first| first.contains('=')),
        None => looks_like_commas(key) || (key.contains('=') && !key.starts_with("ivo:")),
    };
    if !is_dn {
        return GroupPattern::parse(key).map(Key::Group).map_err(|wrong| {
            Wrong::new(
                wrong.why,
                "write a DN in double quotes such as \"/DC=org/DC=example/CN=Some One\", or a group such as \"/vo/group/Role=x\"",
            )
        });
    }
    if has_wildcards(key) {
        return Glob::of_dn(key).map(Key::DnPattern);
    }
    match Name::parse(&without_backslashes(key))? {
        Name::Dn(dn) => Ok(Key::Dn(dn)),
        _ => Err(Wrong::new(format!("'{}' is no DN", shorten(key)), "write /TYPE=value/TYPE=value")),
    }
}

/// A key without wildcards: the backslashes that [`escape`] kept go.
fn without_backslashes(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut chars = key.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Entry {
        let mut entries = parse(line.as_bytes()).unwrap();
        assert_eq!(entries.len(), 1, "{line}");
        entries.remove(0)
    }

    fn dn(text: &str) -> Key {
        Key::Dn(Dn::parse(text).unwrap())
    }

    #[test]
    fn keys_and_targets() {
        for (line, key, targets) in [
            ("\"/DC=org/CN=Some One\" jdoe", dn("/DC=org/CN=Some One"), &["jdoe"][..]),
            ("\"/DC=org/CN=Some One\"\t.pool,jdoe", dn("/DC=org/CN=Some One"), &[".pool", "jdoe"]),
            ("/DC=org/CN=x jdoe", dn("/DC=org/CN=x"), &["jdoe"]),
            ("/DC=org/CN=Some\\ One jdoe", dn("/DC=org/CN=Some One"), &["jdoe"]),
            ("\"/O=x/CN=a \\\"b\\\"\" u", dn("/O=x/CN=a \"b\""), &["u"]),
            ("\"/O=x/CN=Zo\\xC3\\xAB\" u", dn("/O=x/CN=Zoë"), &["u"]),
            ("\"CN=Some One,DC=org\" u", dn("/DC=org/CN=Some One"), &["u"]),
            ("\"/O=x/CN=\\*.example\" u", dn("/O=x/CN=*.example"), &["u"]),
            ("\"/O=x/*\" u", Key::DnPattern(Glob::of_dn("/O=x/*").unwrap()), &["u"]),
            (
                "\"/vo/group/Role=x\" .g",
                Key::Group(GroupPattern::parse("/vo/group/Role=x").unwrap()),
                &[".g"],
            ),
            ("\"/vo/*\" g", Key::Group(GroupPattern::parse("/vo/*").unwrap()), &["g"]),
            ("\"*\" g", Key::Group(GroupPattern::parse("*").unwrap()), &["g"]),
        ] {
            let entry = one(line);
            assert_eq!(entry.key, key, "{line}");
            assert_eq!(entry.targets, targets, "{line}");
        }
    }

    #[test]
    fn broken_lines_are_named() {
        for (text, line, column, why) in [
            ("\"/DC=org/CN=x", 1, 1, "not closed"),
            ("# c\n\"/DC=org/CN=x\"", 2, 0, "nothing follows"),
            ("\"/DC=org/CN=x\"u", 1, 15, "closing quote"),
            ("/DC=org/CN=Some One jdoe", 1, 17, "no list of accounts"),
            ("\"/DC=org/CN=x\" a b", 1, 16, "no list of accounts"),
            ("\"/DC=org/CN=x\\", 1, 14, "backslash"),
            ("\"/DC=org/CN=\\xEB\" u", 1, 1, "not UTF-8"),
            ("\"CN=*,O=x\" u", 1, 1, "begin with a slash"),
            ("jdoe jdoe", 1, 1, "no"),
        ] {
            let faults = parse(text.as_bytes()).unwrap_err();
            let fault = &faults[0];
            assert!(fault.why.contains(why), "{text}: {fault}");
            assert_eq!((fault.line, fault.column), (line, column), "{text}: {fault}");
        }
        assert_eq!(parse("x\n".repeat(30).as_bytes()).unwrap_err().len(), lines::MOST_FAULTS);
    }
}
