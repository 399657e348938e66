//! Distinguished names, in the two forms that people and tools write.
//!
//! 1. Every spelling of one DN MUST give one key. So a DN is what its slash form says: also one that was written with commas
//!    is turned into the slash form first, and the key is made from that.
//! 2. The slash form does not tell `/CN=a/CN=b` from one value `a/CN=b`, nor two parts from one part with two names
//!    (`CN=a+UID=b`, which old OpenSSL writes as `/CN=a/UID=b`). Both are one name here. Whoever is banned by one of them is
//!    banned by the other: an ambiguity MUST NOT be a way round a ban.
//! 3. The parts are compared as a set: RFC 2253 begins with the person, OpenSSL's `C = CH, O = …` at the root, and the names
//!    within one part come in any order. No CA tells two persons apart by order alone.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::super::lines::{Wrong, shorten};
use super::ber;
use super::fold::{fold, unescape};

/// The longest DN.
const LONGEST: usize = 1024;

/// Types as they are displayed, their number, and other spellings, in lower case.
const TYPES: &[(&str, &str, &[&str])] = &[
    ("CN", "2.5.4.3", &["cn", "commonname"]),
    ("OU", "2.5.4.11", &["ou", "organizationalunitname", "organizationalunit"]),
    ("O", "2.5.4.10", &["o", "organizationname", "organization"]),
    ("DC", "0.9.2342.19200300.100.1.25", &["dc", "domaincomponent"]),
    ("C", "2.5.4.6", &["c", "countryname", "country"]),
    ("L", "2.5.4.7", &["l", "localityname", "locality"]),
    ("ST", "2.5.4.8", &["st", "s", "sp", "stateorprovincename"]),
    ("UID", "0.9.2342.19200300.100.1.1", &["uid", "userid"]),
    ("emailAddress", "1.2.840.113549.1.9.1", &["emailaddress", "email", "e", "pkcs9email"]),
    ("SN", "2.5.4.4", &["sn", "surname"]),
    ("serialNumber", "2.5.4.5", &["serialnumber"]),
    ("GN", "2.5.4.42", &["gn", "givenname"]),
    ("title", "2.5.4.12", &["title", "t"]),
    ("street", "2.5.4.9", &["street", "streetaddress"]),
    ("postalCode", "2.5.4.17", &["postalcode"]),
    ("initials", "2.5.4.43", &["initials"]),
    ("name", "2.5.4.41", &["name"]),
    ("description", "2.5.4.13", &["description"]),
    ("pseudonym", "2.5.4.65", &["pseudonym"]),
    ("dnQualifier", "2.5.4.46", &["dnqualifier"]),
    ("generationQualifier", "2.5.4.44", &["generationqualifier"]),
    ("organizationIdentifier", "2.5.4.97", &["organizationidentifier"]),
    ("mail", "0.9.2342.19200300.100.1.3", &["mail", "rfc822mailbox"]),
    ("unstructuredName", "1.2.840.113549.1.9.2", &["unstructuredname"]),
    ("unstructuredAddress", "1.2.840.113549.1.9.8", &["unstructuredaddress"]),
];

/// A distinguished name, from the root to the person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Dn {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Part {
    kind: String,
    value: String,
    /// It stands in the same part as the one before it, behind a plus sign.
    joined: bool,
}

impl Dn {
    /// Reads either form. What begins with a slash is the slash form, everything else is RFC 2253 or 4514 (and OpenSSL's
    /// `C = CH, O = …`).
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > LONGEST {
            return Err(Wrong::new(format!("the DN is longer than {LONGEST} bytes"), "shorten it"));
        }
        printable(text)?;
        let text = text.trim();
        if text.starts_with('/') { Self::from_slashes(text) } else { Self::from_commas(text) }
    }

    /// The key of rule 1, without prefix.
    pub(super) fn key(&self) -> String {
        let key = |part: &Part| {
            let mut key = fold(&part.kind);
            key.push('=');
            key.push_str(&fold(&part.value));
            key
        };
        let mut parts: Vec<String> = self.parts.iter().map(key).collect();
        parts.sort_unstable();
        parts.join("/")
    }

    /// The text that patterns are held against: the slash form with its values as they are compared, in order.
    pub fn folded(&self) -> String {
        self.parts.iter().fold(String::new(), |mut out, part| {
            // Writing to a String cannot fail.
            let _ = write!(out, "/{}={}", fold(&part.kind), fold(&part.value));
            out
        })
    }

    /// The DN of whoever made this proxy certificate, at every step down to the first: `/CN=proxy`, `/CN=limited proxy` and
    /// `/CN=<digits>` (RFC 3820) taken from the end. A person whose own DN ends in digits is among the steps, so all of them
    /// are to be looked up.
    pub fn issuers_of_proxy(&self) -> Vec<Self> {
        let mut steps = Vec::new();
        let mut parts = self.parts.as_slice();
        while let Some((last, before)) = parts.split_last()
            && !before.is_empty()
            && last.is_of_proxy()
        {
            parts = before;
            steps.push(Self { parts: parts.to_vec() });
        }
        steps
    }

    /// The DN without what a proxy certificate added.
    #[must_use]
    pub fn without_proxy(&self) -> Self {
        self.issuers_of_proxy().pop().unwrap_or_else(|| self.clone())
    }

    /// Whether it surely names a proxy and not a person: `/CN=proxy` or `/CN=limited proxy` at the end.
    pub fn is_proxy(&self) -> bool {
        self.parts
            .last()
            .is_some_and(|last| last.is_of_proxy() && !last.value.contains(|c: char| c.is_ascii_digit()))
    }

    fn from_slashes(text: &str) -> Result<Self, Wrong> {
        let wrong = |why: &str| {
            Wrong::new(
                format!("'{}' is no DN: {why}", shorten(text)),
                "write it as /TYPE=value/TYPE=value, such as /DC=org/DC=example/CN=Some One",
            )
        };
        let decoded = unescape(text);
        let text = decoded.as_ref();
        printable(text)?; // nor as an escape
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some(separator) = rest.chars().next() {
            let after = rest.split_at(1).1; // '/' or '+'
            let (kind, value) = split_type(after).ok_or_else(|| wrong("the first part has no TYPE="))?;
            let end = next_part(value).unwrap_or(value.len());
            let (value, tail) = value.split_at(end);
            let value = value.trim();
            if value.is_empty() {
                return Err(wrong(&format!("{kind} has no value")));
            }
            if value.contains("/=") {
                return Err(wrong("a part has no type before '='"));
            }
            parts.push(Part { kind: displayed(kind), value: value.to_owned(), joined: separator == '+' });
            rest = tail;
        }
        let dn = Self { parts };
        if dn.parts.iter().map(|part| part.kind.len() + part.value.len() + 2).sum::<usize>() > LONGEST {
            return Err(Wrong::new(format!("the DN is longer than {LONGEST} bytes"), "shorten it"));
        }
        Ok(dn)
    }

    fn from_commas(text: &str) -> Result<Self, Wrong> {
        let mut groups = commas(text).map_err(|why| {
            Wrong::new(
                format!("'{}' is no DN: {why}", shorten(text)),
                "write it as RFC 2253 has it, such as CN=Some One,DC=example,DC=org, or with slashes from the root on",
            )
        })?;
        if !begins_at_the_root(&groups) {
            groups.reverse();
        }
        let mut slashes = String::new();
        for group in &groups {
            for (index, (kind, value)) in group.iter().enumerate() {
                let _ = write!(slashes, "{}{kind}={value}", if index == 0 { '/' } else { '+' });
            }
        }
        Self::from_slashes(&slashes)
    }
}

impl fmt::Display for Dn {
    /// The slash form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            write!(f, "{}{}={}", if part.joined { '+' } else { '/' }, part.kind, part.value)?;
        }
        Ok(())
    }
}

impl Part {
    fn is_of_proxy(&self) -> bool {
        let value = fold(&self.value);
        self.kind == "CN"
            && (value == "proxy"
                || value == "limited proxy"
                || (!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())))
    }
}

/// No control characters: they would drive the terminals that the name is shown on.
fn printable(text: &str) -> Result<(), Wrong> {
    match text.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(found) => Err(Wrong::new(
            format!("the DN has the control character U+{:04X}", u32::from(found)),
            "write it with printable characters",
        )),
    }
}

/// `TYPE=rest`
fn split_type(text: &str) -> Option<(&str, &str)> {
    let (kind, rest) = text.split_once('=')?;
    let kind = kind.trim();
    is_attribute_type(kind).then_some((kind, rest))
}

/// Where a slash or plus sign begins another `TYPE=`. A value may hold either (`/CN=host/node.example`), so what has no
/// `TYPE=` belongs to the value before it.
fn next_part(text: &str) -> Option<usize> {
    // From the back, so that each piece is looked at once.
    let mut starts = text.match_indices(['/', '+']).peekable();
    while let Some((start, _)) = starts.next() {
        let end = starts.peek().map_or(text.len(), |(next, _)| *next);
        if text.get(start + 1..end).is_some_and(|piece| split_type(piece).is_some()) {
            return Some(start);
        }
    }
    None
}

/// A short name or a dotted number (RFC 4512, section 1.4: descr and numericoid).
pub(crate) fn is_attribute_type(kind: &str) -> bool {
    !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// The row of [`TYPES`] for a type in any spelling.
fn known(kind: &str) -> Option<&'static (&'static str, &'static str, &'static [&'static str])> {
    let number = number_of(kind);
    TYPES.iter().find(|(_, oid, names)| {
        number
            .map_or_else(|| names.iter().any(|name| name.eq_ignore_ascii_case(kind)), |number| number == *oid)
    })
}

/// The dotted number of `OID.1.2.3` or `1.2.3`.
fn number_of(kind: &str) -> Option<&str> {
    if !kind.contains('.') {
        return None;
    }
    let (prefix, rest) = kind.split_at_checked(4).unwrap_or(("", kind));
    let number = if prefix.eq_ignore_ascii_case("oid.") { rest } else { kind };
    let dotted = number.contains('.')
        && number.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    dotted.then_some(number)
}

/// The type's one spelling. What nobody knows stays as it was written, and is compared without regard to case.
pub(in crate::policy) fn displayed(kind: &str) -> String {
    match known(kind) {
        Some((name, ..)) => (*name).to_owned(),
        None => number_of(kind).unwrap_or(kind).to_owned(),
    }
}

/// Whether text that does not begin with a slash is meant as a DN: a type that is known, or a number, stands before some `=`.
pub(crate) fn looks_like_commas(text: &str) -> bool {
    text.split([',', ';', '+']).any(|part| {
        split_type(part).is_some_and(|(kind, _)| known(kind).is_some() || number_of(kind).is_some())
    }) && split_type(text).is_some()
}

/// RFC 2253 begins with the person. OpenSSL (`C = CH, O = x, CN = y`) and Globus begin at the root.
fn begins_at_the_root(groups: &[Vec<(String, String)>]) -> bool {
    let kind = |group: Option<&Vec<(String, String)>>| {
        group.and_then(|group| group.first()).map(|(kind, _)| displayed(kind)).unwrap_or_default()
    };
    matches!(kind(groups.first()).as_str(), "C" | "DC" | "O")
        && matches!(kind(groups.last()).as_str(), "CN" | "UID" | "emailAddress" | "serialNumber")
}

/// The parts of a DN with commas, each with the names in it, as they are written.
fn commas(text: &str) -> Result<Vec<Vec<(String, String)>>, String> {
    let mut groups: Vec<Vec<(String, String)>> = Vec::new();
    let mut rest = text;
    let mut separator = ',';
    loop {
        let (kind, tail) = split_type(rest.trim_start()).ok_or("a part has no TYPE=")?;
        let (value, tail) = value(tail.trim_start()).map_err(|why| format!("{why} after {kind}="))?;
        if value.chars().any(char::is_control) {
            return Err(format!("the value of {kind} has control characters"));
        }
        let pair = (kind.to_owned(), value);
        match groups.last_mut() {
            Some(group) if separator == '+' => group.push(pair),
            _ => groups.push(vec![pair]),
        }
        let mut chars = tail.chars();
        match chars.next() {
            None => return Ok(groups),
            Some(found) => separator = found,
        }
        rest = chars.as_str();
    }
}

/// One value and what follows it, beginning with the separator.
fn value(text: &str) -> Result<(String, &str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, tail) = unquote(quoted)?;
        let tail = tail.trim_start();
        return if tail.is_empty() || tail.starts_with([',', ';', '+']) {
            Ok((value, tail))
        } else {
            Err("something follows the closing quote".to_owned())
        };
    }
    if let Some(hex) = text.strip_prefix('#') {
        let end = hex.find([',', ';', '+']).unwrap_or(hex.len());
        let (hex, tail) = hex.split_at(end);
        return Ok((ber::text(hex.trim())?, tail));
    }
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '\\' => {
                rest = escaped(after, &mut out);
                continue;
            }
            // RFC 2253 wants these escaped in a value; tools forget it. Only what begins another part ends this one.
            ',' | ';' | '+' if split_type(after).is_some() => break,
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = after;
    }
    Ok((from_bytes(out)?.trim().to_owned(), rest))
}

/// The text up to the closing quote, and what follows.
fn unquote(text: &str) -> Result<(String, &str), String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        let c = rest.chars().next().ok_or("a quote is not closed")?;
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '"' => return Ok((from_bytes(out)?, after)),
            '\\' => rest = escaped(after, &mut out),
            _ => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
        }
    }
}

/// What a backslash means: the byte of two hexadecimal digits, or the next character itself. The rest after it.
fn escaped<'a>(after: &'a str, out: &mut Vec<u8>) -> &'a str {
    if let Some((hex, rest)) = after.split_at_checked(2)
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        && let Ok(byte) = u8::from_str_radix(hex, 16)
    {
        out.push(byte);
        return rest;
    }
    // OpenSSL's \xHH within the other form: left for the slash form to read.
    if after.starts_with('x') {
        out.push(b'\\');
        return after;
    }
    // At the end stood an escaped blank, which does not count.
    if after.is_empty() {
        return after;
    }
    let length = after.chars().next().map_or(0, char::len_utf8);
    let (plain, rest) = after.split_at(length);
    out.extend_from_slice(plain.as_bytes());
    rest
}

fn from_bytes(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "the escaped bytes are not UTF-8".to_owned())
}
