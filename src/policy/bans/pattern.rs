//! Regular expressions of HTCondor's map files.
//!
//! 1. Matching MUST be linear in the text, and building bounded: the expression is checked and written anew here, and only then
//!    given to regex-lite, whose time is expression times text and whose size has a limit.
//! 2. What PCRE would read in another way, or has and we have not (look-around, back references, possessive and atomic groups,
//!    verbs), MUST be an error that names it. A pattern that silently matches less is a hole in a ban.
//! 3. An expression without anchors matches anywhere in `ISSUER,SUBJECT`, as in HTCondor. The issuer is tried with and without
//!    its final slash.
#![forbid(unsafe_code)]

mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::OnceLock;

use regex_lite::{Regex, RegexBuilder};

use super::super::lines::{Wrong, shorten};
use super::super::name::{Dn, Name, canonical_issuer};

/// The longest expression.
const LONGEST: usize = 1024;
/// What one expression may become, in bytes.
const MOST_BUILT: usize = 64 << 10;

/// What a text must have to match, for an index of many patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// Only the token with this key ([`Name::key`]) matches.
    Exact(String),
    /// In lower case; a match has it somewhere in one of [`TokenPattern::texts`].
    Contains(String),
    /// Nothing can be said: the pattern is to be tried.
    None,
}

/// An expression over tokens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TokenPattern(Expression);

/// An expression over certificates: `DN,FQAN,FQAN`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CertificatePattern(Expression);

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Expression {
    /// As it stood between the slashes.
    source: String,
    caseless: bool,
    /// What regex-lite gets.
    written: String,
    /// The whole text that alone matches.
    exact: Option<String>,
    /// The longest run of characters that a match must have, in lower case.
    run: String,
    /// Built when it is first needed: most never are, thanks to the index.
    #[serde(skip)]
    built: OnceLock<Option<Regex>>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, self.caseless) == (&other.source, other.caseless)
    }
}

impl Eq for Expression {}

impl Expression {
    fn new(source: &str, caseless: bool) -> Result<Self, Wrong> {
        let wrong = |why: String| {
            Wrong::new(
                format!("the pattern {} {why}", shorten(source)),
                "write it without, or as several patterns; see docs/bans.md for what patterns may have",
            )
        };
        if source.len() > LONGEST {
            return Err(wrong(format!("is longer than {LONGEST} bytes")));
        }
        let scan::Scanned { written, exact, run, simple, caseless: inner } =
            scan::scan(source).map_err(|fault| wrong(format!("{} (character {})", fault.why, fault.at)))?;
        let expression = Self {
            source: source.to_owned(),
            caseless,
            written,
            exact: exact.filter(|_| !caseless && !inner),
            run: run.to_ascii_lowercase(),
            built: OnceLock::new(),
        };
        if !simple {
            // Built to see that it can be, and dropped: a list of many large ones must not fill the memory.
            expression.build().map_err(|error| wrong(format!("cannot be used: {error}")))?;
        }
        Ok(expression)
    }

    fn build(&self) -> Result<Regex, regex_lite::Error> {
        RegexBuilder::new(&self.written)
            .case_insensitive(self.caseless)
            .size_limit(MOST_BUILT)
            .nest_limit(20)
            .build()
    }

    fn matches(&self, text: &str) -> bool {
        let built = self.built.get_or_init(|| self.build().ok());
        // What was checked can be built. Were it not so, the ban would hold rather than not.
        built.as_ref().is_none_or(|regex| regex.is_match(text))
    }

    /// Whether it matches what nobody is called. Nearly every pattern has characters that are not in there, and is not built.
    fn is_everything(&self, nobodies: &[&str]) -> bool {
        nobodies.iter().any(|nobody| nobody.contains(&self.run) && self.matches(nobody))
    }

    fn key(&self) -> String {
        format!("/{}/{}", self.source, if self.caseless { "i" } else { "" })
    }
}

impl fmt::Display for Expression {
    /// As a field of HTCondor's map file, which [`field`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.source.replace('\\', "\\\\").replace('/', "\\/");
        write!(f, "/{inner}/{}", if self.caseless { "i" } else { "" })
    }
}

/// Reads `/expression/options`; options are `i` (case does not count) and `U`, which changes nothing here.
fn field(text: &str) -> Result<Expression, Wrong> {
    let text = text.trim();
    let wrong = |why: &str| {
        Wrong::new(
            format!("'{}' {why}", shorten(text)),
            "write it between slashes, such as /^https:\\/\\/iam\\.example\\.org\\/,some-subject$/",
        )
    };
    let inner = text.strip_prefix('/').ok_or_else(|| wrong("is no pattern between slashes"))?;
    let (source, options) = close(inner, '/').ok_or_else(|| wrong("has no closing slash"))?;
    if options.contains(|c| c != 'i' && c != 'U') {
        return Err(wrong("has something behind the closing slash that is neither i nor U"));
    }
    Expression::new(&source, options.contains('i'))
}

/// The text up to `end` as HTCondor's map file has it, and what follows: `\` before the end and before itself goes, before anything
/// else it stays.
pub(super) fn close(text: &str, end: char) -> Option<(String, &str)> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            c if c == end => return Some((out, chars.as_str())),
            '\\' => match chars.next()? {
                c if c == end || c == '\\' => out.push(c),
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
}

impl TokenPattern {
    /// From the expression itself.
    pub fn new(expression: &str, caseless: bool) -> Result<Self, Wrong> {
        let pattern = Self(Expression::new(expression, caseless)?);
        if pattern.0.is_everything(&["https://~.~/,~", "https://~.~,~"]) {
            return Err(everything(expression));
        }
        Ok(pattern)
    }

    /// From `/expression/options`, as a map file has it.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let Expression { source, caseless, .. } = field(text)?;
        Self::new(&source, caseless)
    }

    /// The texts that are tried, each with and without the issuer's final slash: as the token has it, and with the host in
    /// lower case.
    pub fn texts(issuer: &str, subject: &str) -> Vec<String> {
        let bare = issuer.trim_end_matches('/');
        let canonical = canonical_issuer(issuer);
        let mut texts = vec![format!("{bare}/,{subject}"), format!("{bare},{subject}")];
        if canonical != bare {
            texts.extend([format!("{canonical}/,{subject}"), format!("{canonical},{subject}")]);
        }
        texts
    }

    /// Whether this token is meant.
    pub fn matches(&self, issuer: &str, subject: &str) -> bool {
        Self::texts(issuer, subject).iter().any(|text| self.0.matches(text))
    }

    /// What a match must have.
    pub fn literal(&self) -> Literal {
        let exact = self.0.exact.as_deref().and_then(|text| text.split_once(','));
        if let Some(Ok(name)) = exact.map(|(issuer, subject)| Name::token(Some(issuer), subject))
            && exact.is_none_or(|(_, subject)| subject.trim() == subject)
        {
            return Literal::Exact(name.key());
        }
        if self.0.run.is_empty() { Literal::None } else { Literal::Contains(self.0.run.clone()) }
    }

    /// Equal for equal patterns.
    pub fn key(&self) -> String {
        self.0.key()
    }
}

impl CertificatePattern {
    /// From the expression itself.
    pub fn new(expression: &str, caseless: bool) -> Result<Self, Wrong> {
        let pattern = Self(Expression::new(expression, caseless)?);
        if pattern.0.is_everything(&["/~=~"]) {
            return Err(everything(expression));
        }
        Ok(pattern)
    }

    /// From `/expression/options`, as a map file has it.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let Expression { source, caseless, .. } = field(text)?;
        Self::new(&source, caseless)
    }

    /// Whether the owner of this certificate, in these groups, is meant: HTCondor tries the DN with the FQANs behind it, then
    /// the DN alone.
    pub fn matches(&self, dn: &Dn, fqans: &[&str]) -> bool {
        let mut steps = dn.issuers_of_proxy();
        steps.push(dn.clone());
        steps.iter().any(|dn| {
            let dn = dn.to_string();
            self.0.matches(&dn) || (!fqans.is_empty() && self.0.matches(&format!("{dn},{}", fqans.join(","))))
        })
    }

    /// In lower case; a match has it somewhere in the DN (as it is displayed) with the FQANs behind it. Empty when nothing can be said.
    pub fn literal(&self) -> &str {
        &self.0.run
    }

    /// Equal for equal patterns.
    pub fn key(&self) -> String {
        self.0.key()
    }
}

fn everything(expression: &str) -> Wrong {
    Wrong::new(
        format!("the pattern {} matches everybody", shorten(expression)),
        "name whom you mean; to run nothing at all, use 'bailey drain'",
    )
}

impl fmt::Display for TokenPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CertificatePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
