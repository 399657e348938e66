//! Patterns as fnmatch(3) has them, which grid-mapfiles use: `*`, `?`, `[a-z]`, `[!x]` and `\` before a character.
//!
//! 1. A star also crosses slashes, as in LCMAPS.
//! 2. Time MUST stay within pattern times text: there is one place to go back to, the last star.
//! 3. A DN pattern is held against the DN as it is compared (`Dn::folded`): types in any spelling, values without regard to
//!    case and the width of white space.
#![forbid(unsafe_code)]

use std::fmt;

use super::lines::{Wrong, shorten};
use super::name::fold::{fold, is_invisible};
use super::name::{Dn, displayed, is_attribute_type};

/// The longest pattern.
const LONGEST: usize = 1024;

/// A pattern with wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Glob {
    source: String,
    atoms: Vec<Atom>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
enum Atom {
    Char(char),
    One,
    Any,
    Set { not: bool, ranges: Vec<(char, char)> },
}

impl Atom {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Any => false,
            Self::Set { not, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not,
        }
    }
}

/// Whether a text has a wildcard that no backslash takes its meaning from.
pub fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

impl Glob {
    /// A pattern over plain text in lower case, such as group names.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        Self::read(text, &text.to_lowercase())
    }

    /// A pattern over DNs in slash form.
    pub fn of_dn(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        if !text.starts_with(['/', '*']) {
            return Err(Wrong::new(
                format!("'{}' has wildcards, and does not begin with a slash or a star", shorten(text)),
                "write a pattern in slash form, such as /DC=org/DC=example/*, and escape a star that is meant as such",
            ));
        }
        Self::read(text, &spell_types(text))
    }

    fn read(source: &str, text: &str) -> Result<Self, Wrong> {
        if text.len() > LONGEST {
            return Err(Wrong::new(format!("the pattern is longer than {LONGEST} bytes"), "shorten it"));
        }
        if text.chars().any(|c| c.is_control() || is_invisible(c)) {
            return Err(Wrong::new(
                format!("'{}' has control characters or invisible ones", shorten(source)),
                "write it with plain printable characters",
            ));
        }
        let mut atoms = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' if atoms.last() == Some(&Atom::Any) => {}
                '*' => atoms.push(Atom::Any),
                '?' => atoms.push(Atom::One),
                '[' => match set(chars.as_str()) {
                    Some((atom, rest)) => {
                        atoms.push(atom?);
                        chars = rest.chars();
                    }
                    None => atoms.push(Atom::Char('[')),
                },
                '\\' => push_folded(&mut atoms, chars.next().unwrap_or('\\')),
                c => push_folded(&mut atoms, c),
            }
        }
        Ok(Self { source: source.to_owned(), atoms })
    }

    /// Whether the whole of the text fits. The text is in the form that is compared.
    pub fn matches(&self, text: &str) -> bool {
        let mut atoms = self.atoms.as_slice();
        let mut rest = text.chars();
        let mut back: Option<(&[Atom], std::str::Chars<'_>)> = None;
        loop {
            match atoms.split_first() {
                Some((Atom::Any, after)) => {
                    if after.is_empty() {
                        return true;
                    }
                    atoms = after;
                    back = Some((after, rest.clone()));
                    continue;
                }
                Some((atom, after)) => {
                    let mut ahead = rest.clone();
                    if ahead.next().is_some_and(|c| atom.takes(c)) {
                        atoms = after;
                        rest = ahead;
                        continue;
                    }
                }
                None if rest.as_str().is_empty() => return true,
                None => {}
            }
            // The last star takes one character more.
            let Some((after, mut from)) = back.take() else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            atoms = after;
            rest = from.clone();
            back = Some((after, from));
        }
    }

    /// Whether this DN fits.
    pub fn matches_dn(&self, dn: &Dn) -> bool {
        self.matches(&dn.folded())
    }

    /// The one text that fits, when there are no wildcards.
    pub fn plain(&self) -> Option<String> {
        self.atoms.iter().map(|atom| if let Atom::Char(c) = atom { Some(*c) } else { None }).collect()
    }

    /// The longest text that everything that fits must contain; empty when there is none.
    pub fn literal(&self) -> String {
        let mut longest = String::new();
        let mut run = String::new();
        for atom in self.atoms.iter().chain([&Atom::Any]) {
            if let Atom::Char(c) = atom {
                run.push(*c);
                continue;
            }
            if run.len() > longest.len() {
                longest.clone_from(&run);
            }
            run.clear();
        }
        longest
    }

    /// Whether it has no character of its own besides slashes: everything fits.
    pub fn is_everything(&self) -> bool {
        self.atoms.iter().all(|atom| {
            matches!(atom, Atom::Any | Atom::One | Atom::Char('/'))
                || matches!(atom, Atom::Set { not: true, .. })
        })
    }

    /// The key that two spellings of one pattern share.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for atom in &self.atoms {
            match atom {
                Atom::Char(c @ ('*' | '?' | '[' | '\\')) => key.extend(['\\', *c]),
                Atom::Char(c) => key.push(*c),
                Atom::One => key.push('?'),
                Atom::Any => key.push('*'),
                Atom::Set { not, ranges } => {
                    key.push_str(if *not { "[!" } else { "[" });
                    for (low, high) in ranges {
                        key.extend([*low, '-', *high]);
                    }
                    key.push(']');
                }
            }
        }
        key
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn push_folded(atoms: &mut Vec<Atom>, c: char) {
    if c == ' ' {
        // White space of any width is one blank.
        if atoms.last() != Some(&Atom::Char(' ')) {
            atoms.push(Atom::Char(' '));
        }
        return;
    }
    atoms.extend(c.to_uppercase().flat_map(char::to_lowercase).map(Atom::Char));
}

/// The set after `[` and what follows it; `None` when no `]` closes it, which makes the bracket an ordinary character.
fn set(text: &str) -> Option<(Result<Atom, Wrong>, &str)> {
    let inner = text.strip_prefix(['!', '^']);
    let not = inner.is_some();
    let inner = inner.unwrap_or(text);
    // A bracket at the first place is a member.
    let first = inner.chars().next()?.len_utf8();
    let end = first + inner.get(first..)?.find(']')?;
    let (members, rest) = inner.split_at_checked(end)?;
    let rest = rest.get(1..)?;
    if members.contains("[:") || members.contains("[.") || members.contains("[=") {
        let wrong = Wrong::new(
            format!("the set [{} has a class with a name", shorten(members)),
            "write the characters, such as [0-9] or [a-z]",
        );
        return Some((Err(wrong), rest));
    }
    let mut ranges = Vec::new();
    let mut chars = members.chars().peekable();
    while let Some(low) = chars.next() {
        let mut ahead = chars.clone();
        let high = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(high)) => {
                chars = ahead;
                high
            }
            _ => low,
        };
        let lower = |c: char| c.to_lowercase().next().unwrap_or(c);
        ranges.push((lower(low), lower(high)));
    }
    Some((Ok(Atom::Set { not, ranges }), rest))
}

/// The pattern with every `/TYPE=` in the spelling of [`Dn::folded`]. The rest stays: it is folded atom by atom.
fn spell_types(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, piece) in text.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        match piece.split_once('=') {
            Some((kind, value)) if is_attribute_type(kind) => {
                out.push_str(&fold(&displayed(kind)));
                out.push('=');
                out.push_str(value);
            }
            _ => out.push_str(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn patterns_fit_as_fnmatch_has_it() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("*a*b", "xxaxxbxb", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[]x]", "]", true),
            ("[x", "[x", true),
            ("[a-]", "-", true),
            ("?", "ë", true),
            ("", "", true),
            ("", "a", false),
            ("A*", "abc", true),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_of_dns_do_not_depend_on_spelling() {
        for (pattern, dn, fits) in [
            ("/dc=org/dc=example/*", "/DC=org/DC=Example/CN=Some One", true),
            ("/DC=org/DC=example/*", "CN=Some  One,DC=example,DC=org", true),
            ("/DC=org/DC=example/*", "/DC=org/DC=example2/CN=x", false),
            ("/DC=org/DC=example", "/DC=org/DC=example/CN=x", false),
            ("*/Email=*@example.org", "/O=x/emailAddress=zoe@example.org", true),
            ("/O=x/CN=Some   One*", "/O=x/CN=some one 2", true),
            ("*CN=host/*", "/O=x/CN=host/node.example", true),
            ("/O=STRASSE/*", "/O=Straße/CN=x", true),
        ] {
            let dn_read = Dn::parse(dn).unwrap();
            assert_eq!(Glob::of_dn(pattern).unwrap().matches_dn(&dn_read), fits, "{pattern} {dn}");
        }
        assert!(Glob::of_dn("CN=*,O=x").unwrap_err().why.contains("does not begin"));
        assert!(Glob::of_dn("/CN=[[:alpha:]]").unwrap_err().next.contains("[a-z]"));
        assert!(Glob::of_dn(&format!("/{}", "*a".repeat(600))).unwrap_err().why.contains("longer"));
        for (pattern, everything) in
            [("*", true), ("/*", true), ("/?*/*", true), ("/[!x]*", true), ("/C=*", false)]
        {
            assert_eq!(Glob::of_dn(pattern).unwrap().is_everything(), everything, "{pattern}");
        }
    }

    #[test]
    fn every_fit_contains_the_literal() {
        assert_eq!(Glob::of_dn("/DC=org/*/CN=Some One?").unwrap().literal(), "/cn=some one");
        assert_eq!(Glob::of_dn("*").unwrap().literal(), "");
        assert_eq!(Glob::of_dn("/O=a\\*b*").unwrap().literal(), "/o=a*b");
        let same = [Glob::of_dn("/E=*x").unwrap().key(), Glob::of_dn("/emailAddress=**X").unwrap().key()];
        assert_eq!(same[0], same[1]);
        assert!(has_wildcards("a*") && has_wildcards("[") && !has_wildcards("a\\*b\\?"));
    }

    #[test]
    fn no_pattern_takes_long() {
        let start = Instant::now();
        let glob = Glob::parse(&"*a".repeat(500)).unwrap();
        assert!(!glob.matches(&format!("{}b", "a".repeat(1000))));
        assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
    }
}
