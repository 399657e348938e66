//! The job ad that HTCondor's starter writes beside a job (`.job.ad`): old `ClassAd` text, an attribute a line. Only string
//! attributes that somebody wants are taken out of it. Pure.
//!
//! What a user puts into the own ad is in there too, so the form is held to strictly:
//!
//! 1. HTCondor writes a string's bytes as they are, line ends included, and puts a backslash before a quote only. Lines are
//!    therefore not looked at one by one: the text is read from quote to quote, and a line that stands within quotes is no line.
//! 2. A backslash, a quote and a line end can be read in two ways: a string that ends in a backslash, or one with a quote that
//!    goes on. An ad that has this before the end of an attribute's line is refused, because behind it anything could be made
//!    to look like an attribute.
//! 3. A wanted attribute that is there twice, or is no plain string, is refused: one of two names would win by chance.
#![forbid(unsafe_code)]

use std::fmt;

/// The longest value of a wanted attribute, in bytes: a list of FQANs has some thousands.
const LONGEST: usize = 32 << 10;

/// Why an ad cannot be used; `line` counts from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    line: usize,
    why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// The values of the `wanted` attributes, in that order; letters' case does not count in names. `undefined` is no value.
pub(super) fn strings<const N: usize>(bytes: &[u8], wanted: [&str; N]) -> Result<[Option<String>; N], Wrong> {
    let mut found = std::array::from_fn(|_| None);
    let mut seen = [false; N];
    let mut rest = bytes;
    let mut line = 1;
    while !rest.is_empty() {
        let wrong = |why: &str| Wrong { line, why: why.to_owned() };
        let (attribute, after) = split(rest).map_err(wrong)?;
        let (name, value) = assignment(attribute).map_err(wrong)?;
        let place = wanted.iter().position(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()));
        if let Some((place, slot)) = place.and_then(|place| Some((place, found.get_mut(place)?))) {
            let name = wanted.get(place).copied().unwrap_or_default();
            let twice = seen.get_mut(place).is_none_or(|seen| std::mem::replace(seen, true));
            if twice {
                return Err(wrong(&format!("{name} is there twice")));
            }
            *slot = string(value).map_err(|why| wrong(&format!("{name} {why}")))?;
        }
        line += attribute.iter().filter(|byte| **byte == b'\n').count() + 1;
        rest = after;
    }
    Ok(found)
}

/// One attribute without its line end, and what follows.
fn split(text: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let mut quote = None;
    let mut bytes = text.iter().enumerate().peekable();
    let mut before = 0;
    while let Some((at, &byte)) = bytes.next() {
        match (byte, quote) {
            (0, _) => return Err("it has a NUL byte"),
            (b'\n', None) => {
                let (attribute, rest) = text.split_at(at);
                return Ok((attribute, rest.get(1..).unwrap_or_default()));
            }
            (b'"' | b'\'', None) => quote = Some(byte),
            (_, Some(open)) if byte == open => {
                if before != b'\\' {
                    quote = None;
                } else if bytes.peek().is_none_or(|(_, next)| **next == b'\n') {
                    return Err("it has a backslash, a quote and a line end, which can be read in two ways");
                }
            }
            _ => {}
        }
        before = byte;
    }
    match quote {
        None => Ok((text, &[])),
        Some(_) => Err("it has a quote that is not closed"),
    }
}

/// `NAME = VALUE`, or nothing at all.
fn assignment(attribute: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    if attribute.trim_ascii().is_empty() {
        return Ok((&[], &[]));
    }
    let at = attribute.iter().position(|byte| *byte == b'=').ok_or("it is no attribute")?;
    let (name, value) = attribute.split_at(at);
    let name = name.trim_ascii_end();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if name.first().is_none_or(u8::is_ascii_digit) || !name.iter().all(fits) {
        return Err("it does not begin with the name of an attribute");
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// A string without its quotes.
fn string(value: &[u8]) -> Result<Option<String>, &'static str> {
    if value.eq_ignore_ascii_case(b"undefined") {
        return Ok(None);
    }
    let inner =
        value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).ok_or("is no plain string")?;
    if inner.len() > LONGEST {
        return Err("is too long");
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut escaped = false;
    for &byte in inner {
        if byte == b'"' {
            if !escaped {
                return Err("is no plain string"); // two of them with something between
            }
            plain.pop();
        }
        plain.push(byte);
        escaped = byte == b'\\';
    }
    // Only before a quote is a backslash more than itself; then the last quote was none that closes.
    if escaped {
        return Err("is no plain string");
    }
    String::from_utf8(plain).map(Some).map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &[u8]) -> Result<Option<String>, String> {
        strings(text, ["Who"]).map(|[who]| who).map_err(|wrong| wrong.to_string())
    }

    fn is(text: &str, expected: &str) {
        assert_eq!(one(text.as_bytes()), Ok(Some(expected.to_owned())), "{text}");
    }

    #[test]
    fn an_ad_as_the_starter_writes_it() {
        let ad = b"Args = \"--token /x --name \\\"a b\\\"\"\nClusterId = 12\nIwd = \"/home/zoe\"\n\
            AuthTokenIssuer = \"https://iam.example/\"\nAuthTokenSubject = \"5b1d\"\n\
            Requirements = (TARGET.Arch == \"X86_64\") && 'odd name' =?= undefined\n\
            Rank = 0.0\nFoo = { \"a\",\"b\" }\nGlobalJobId = \"ap.example#12.0#1700000000\"\n\
            x509userproxysubject = undefined\n";
        let [subject, issuer, id, proxy] =
            strings(ad, ["AUTHTOKENSUBJECT", "AuthTokenIssuer", "globaljobid", "x509userproxysubject"])
                .unwrap();
        assert_eq!(subject.as_deref(), Some("5b1d"));
        assert_eq!(issuer.as_deref(), Some("https://iam.example/"));
        assert_eq!(id.as_deref(), Some("ap.example#12.0#1700000000"));
        assert_eq!(proxy, None);
    }

    #[test]
    fn forms_of_a_string() {
        is("Who = \"a\"", "a");
        is("Who=\"a\"\n", "a");
        is("Who\t=  \"a\"  \n\n", "a");
        is("wHO = \"a\"\nOther = 1\n", "a");
        is("Who = \"\"", "");
        is(r#"Who = "/CN=O\"Neil""#, "/CN=O\"Neil");
        is(r#"Who = "\"a\"" "#, "\"a\"");
        is(r#"Who = "a\b'c\\d""#, r"a\b'c\\d");
        is("Who = \"Zo\u{eb}\"", "Zo\u{eb}");
        is("Who = \"a = b\"", "a = b");
        // A line end within a string belongs to it; whoever takes the value judges it.
        is("Who = \"a\nb\"\n", "a\nb");
        assert_eq!(one(b""), Ok(None));
        assert_eq!(one(b"Other = \"a\"\n"), Ok(None));
        assert_eq!(one(b"Who = UNDEFINED\n"), Ok(None));
        assert_eq!(one(b"WhoElse = \"a\"\n"), Ok(None));
    }

    #[test]
    fn what_is_no_plain_string_is_refused() {
        for value in [
            "strcat(\"a\", \"b\")",
            "\"a\" + \"b\"",
            "\"a\", \"b\"",
            "\"a\"b\"\"",
            "{ \"a\" }",
            "'a'",
            "a",
            "12",
            "true",
            "",
            "\"a\" // comment",
            "Other",
        ] {
            let wrong = one(format!("X = 1\nWho = {value}\n").as_bytes()).unwrap_err();
            assert_eq!(wrong, "line 2: Who is no plain string", "{value}");
        }
        assert_eq!(one(b"Who = \"\xff\"\n").unwrap_err(), "line 1: Who is not UTF-8");
        let long = format!("Who = \"{}\"", "x".repeat(LONGEST + 1));
        assert_eq!(one(long.as_bytes()).unwrap_err(), "line 1: Who is too long");
    }

    #[test]
    fn one_name_stands_once() {
        for ad in [
            "Who = \"a\"\nWho = \"a\"\n",
            "Who = \"a\"\nwho = \"b\"\n",
            "Who = undefined\nWHO = \"b\"\n",
            "Who = \"b\"\nWho=undefined",
        ] {
            assert_eq!(one(ad.as_bytes()).unwrap_err(), "line 2: Who is there twice", "{ad}");
        }
    }

    /// Each ad is what HTCondor writes for an attribute whose value a user made up to look like another attribute.
    #[test]
    fn a_value_makes_no_attribute() {
        // A string with a line end; quotes in it have a backslash.
        assert_eq!(one(b"Env = \"x\nWho = \\\"victim\\\" \ny\"\nZ = 1\n"), Ok(None));
        // The name of an attribute in quotes of the other kind, where a double quote stays as it is.
        assert_eq!(one(b"Requirements = 'x\nWho = \"victim\"\ny' =?= 1\n"), Ok(None));
        // One of a list's elements.
        assert_eq!(one(b"Foo = { \"\nWho = \",\"victim\" }\n"), Ok(None));
        // Ended by a backslash, a quote and a line end, in one reading of the two.
        for ad in [
            &b"Requirements = 'x\\'\nWho = \"victim\"\ny' =?= 1\n"[..],
            b"Env = \"x\\\"\nWho = \\\"victim\\\"\n\"\n",
            b"Env = \"x\\\"",
        ] {
            let wrong = one(ad).unwrap_err();
            assert!(wrong.starts_with("line 1: it has a backslash, a quote and a line end"), "{wrong}");
        }
        // The true one stands beside it, whichever comes first.
        is("A = \"\nWho = \\\"x\\\" \n\"\nWho = \"true\"\n", "true");
        is("Who = \"true\"\nZ = 'q\nWho = \"victim\"\n'\n", "true");
    }

    #[test]
    fn what_is_no_ad_is_refused_with_its_line() {
        for (ad, why) in [
            (&b"Who = \"a\0\"\n"[..], "line 1: it has a NUL byte"),
            (b"A = 1\n\n\0", "line 3: it has a NUL byte"),
            (b"A = 1\nWho = \"a\n", "line 2: it has a quote that is not closed"),
            (b"A = \"1\n2\n3\"\nB = 'x\n", "line 4: it has a quote that is not closed"),
            (b"A = 1\nhello\n", "line 2: it is no attribute"),
            (b"= 1\n", "line 1: it does not begin with the name of an attribute"),
            (b"1A = 1\n", "line 1: it does not begin with the name of an attribute"),
            (b" A = 1\n", "line 1: it does not begin with the name of an attribute"),
            (b"'Who' = 1\n", "line 1: it does not begin with the name of an attribute"),
            (b"\xef\xbb\xbfA = 1\n", "line 1: it does not begin with the name of an attribute"),
            (b"[ Who = \"a\"; ]\n", "line 1: it does not begin with the name of an attribute"),
            (b"{\"Who\": \"a\"}\n", "line 1: it is no attribute"),
            (b"MyType A = 1\n", "line 1: it does not begin with the name of an attribute"),
        ] {
            assert_eq!(one(ad).unwrap_err(), why, "{}", String::from_utf8_lossy(ad));
        }
    }

    #[test]
    fn a_large_ad_takes_one_pass() {
        let mut ad = b"A = \"".to_vec();
        ad.extend(std::iter::repeat_n(b'\\', 10 << 20));
        ad.extend_from_slice(b"x\"\n");
        ad.extend(b"B = 1\n".repeat(100_000));
        ad.extend_from_slice(b"Who = \"a\"\n");
        let at = std::time::Instant::now();
        assert_eq!(one(&ad), Ok(Some("a".to_owned())));
        assert!(at.elapsed() < std::time::Duration::from_secs(10), "{:?}", at.elapsed());
    }
}
