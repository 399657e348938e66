//! The names of a person: certificates' DNs, tokens' subjects, ids of communities.
//!
//! 1. Two spellings of one name MUST give one key, so that a ban on one holds for all ([`Dn`] says how for DNs).
//! 2. Where a text can be read in two ways, the reading under which a ban holds is taken: [`Name::keys`] are all the keys under
//!    which a list may name somebody.
//! 3. Issuers are compared without their final slash, and with the host in lower case: `iss` differs from what people
//!    write in just that. The path and the subject are compared byte by byte, as the tokens' profile wants it.
#![forbid(unsafe_code)]

mod ber;
mod dn;
pub(crate) mod fold;
#[cfg(test)]
mod tests;

use std::fmt;

pub use dn::Dn;
pub(super) use dn::displayed;
pub(crate) use dn::{is_attribute_type, looks_like_commas};

use super::lines::{Wrong, shorten};

/// The longest subject or community id.
const LONGEST: usize = 255;

/// One name of a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Name {
    /// A certificate's subject.
    Dn(Dn),
    /// A token's `sub`.
    Token {
        /// Its `iss`; without one the subject of any issuer is meant.
        issuer: Option<String>,
        /// Its `sub`.
        subject: String,
    },
    /// An id that a community gave: eduPersonUniqueId, ORCID, a VO's nickname.
    Community(String),
}

impl Name {
    /// Reads a name as people write it in a configuration or on a command line: a DN in slash form or as RFC 2253 has it,
    /// `https://issuer/ subject` (a blank or a comma between them), an id with a scope (`x@example.org`) or an ORCID, else a
    /// token's subject of any issuer.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Wrong::new("the name is empty", "name a DN, or a token's issuer and subject"));
        }
        let credential = || {
            Wrong::new(
                "the name looks like a token, a key or a certificate",
                "write the user's name (a DN, or the token's 'sub'); replace the credential, which others may have seen",
            )
        };
        if looks_like_a_credential(text) {
            return Err(credential());
        }
        if text.starts_with('/') || looks_like_commas(text) {
            let dn = Dn::parse(text)?;
            // What escapes and quotes held apart.
            if text.contains(['\\', '"']) && looks_like_a_credential(&dn.to_string()) {
                return Err(credential());
            }
            return Ok(Self::Dn(dn));
        }
        if let Some(id) = orcid(text) {
            return Ok(Self::Community(id));
        }
        if starts_with(text, "https://") {
            let (issuer, subject) = text.split_once([' ', '\t', ',']).ok_or_else(|| {
                Wrong::new(
                    format!("'{}' names an issuer and nobody of it", shorten(text)),
                    "write the token's subject behind it, with a blank between them",
                )
            })?;
            return Self::token(Some(issuer), subject);
        }
        let scoped = text.split_once('@').is_some_and(|(id, scope)| {
            let label = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            !id.is_empty() && scope.contains('.') && scope.chars().all(label)
        });
        check(text)?;
        if scoped {
            return Ok(Self::Community(text.to_owned()));
        }
        Ok(Self::Token { issuer: None, subject: text.to_owned() })
    }

    /// A token's name from its parts.
    pub fn token(issuer: Option<&str>, subject: &str) -> Result<Self, Wrong> {
        let issuer = issuer.map(self::issuer).transpose()?;
        let subject = subject.trim();
        check(subject)?;
        Ok(Self::Token { issuer, subject: subject.to_owned() })
    }

    /// A community's id, whatever it looks like.
    pub fn community(id: &str) -> Result<Self, Wrong> {
        let id = id.trim();
        check(id)?;
        Ok(Self::Community(id.to_owned()))
    }

    /// The one key of this name: `dn:`, `token:`, `sub:` or `id:` and its canonical form.
    pub fn key(&self) -> String {
        match self {
            Self::Dn(dn) => format!("dn:{}", dn.key()),
            Self::Token { issuer: Some(issuer), subject } => {
                format!("token:{} {subject}", canonical_issuer(issuer))
            }
            Self::Token { issuer: None, subject } => format!("sub:{subject}"),
            Self::Community(id) => community_key(id),
        }
    }

    /// Every key under which a list may name whoever has this name, its own first: a proxy's DN is also that of the one who made
    /// it, and a list may name a token's subject without its issuer, or as the community's id that it is.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = vec![self.key()];
        match self {
            Self::Dn(dn) => keys.extend(dn.issuers_of_proxy().into_iter().map(|dn| Self::Dn(dn).key())),
            Self::Token { issuer, subject } => {
                if issuer.is_some() {
                    keys.push(format!("sub:{subject}"));
                }
                keys.push(community_key(subject));
            }
            Self::Community(id) => keys.push(format!("sub:{id}")),
        }
        keys
    }
}

impl fmt::Display for Name {
    /// As [`Name::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dn(dn) => dn.fmt(f),
            Self::Token { issuer: Some(issuer), subject } => write!(f, "{issuer} {subject}"),
            Self::Token { issuer: None, subject } => f.write_str(subject),
            Self::Community(id) => f.write_str(id),
        }
    }
}

/// An issuer as it is written, checked as far as its comparison needs it.
pub fn issuer(text: &str) -> Result<String, Wrong> {
    let text = text.trim();
    check(text)?;
    let host = text.get(8..).filter(|_| starts_with(text, "https://")).unwrap_or_default();
    if host.is_empty() || host.starts_with('/') || text.contains([' ', ',']) {
        return Err(Wrong::new(
            format!("'{}' is no token issuer", shorten(text)),
            "write it as the token's 'iss' has it, such as https://iam.example.org/",
        ));
    }
    Ok(text.to_owned())
}

/// The form in which issuers are compared.
pub fn canonical_issuer(issuer: &str) -> String {
    let (scheme, rest) = issuer.split_once("://").unwrap_or(("", issuer));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.strip_suffix(":443").unwrap_or(host);
    format!("{}://{}{}", scheme.to_ascii_lowercase(), host.to_ascii_lowercase(), path.trim_end_matches('/'))
}

fn community_key(id: &str) -> String {
    format!("id:{}", orcid(id).unwrap_or_else(|| fold::fold(id)))
}

/// `0000-0002-1825-0097` from itself or its URL.
fn orcid(text: &str) -> Option<String> {
    let id = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/').filter(|(host, _)| host.eq_ignore_ascii_case("orcid.org"))?.1,
        None => text,
    };
    let id = id.trim_end_matches('/');
    let fits = id.len() == 19
        && id.bytes().enumerate().all(|(index, byte)| match index {
            4 | 9 | 14 => byte == b'-',
            18 => byte.is_ascii_digit() || byte.eq_ignore_ascii_case(&b'x'),
            _ => byte.is_ascii_digit(),
        });
    fits.then(|| id.to_ascii_lowercase())
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// What holds for every name that is no DN.
fn check(text: &str) -> Result<(), Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("the name is empty", "give it a value or leave it out"));
    }
    if looks_like_a_credential(text) {
        return Err(Wrong::new(
            "the name looks like a token, a key or a certificate",
            "write the token's 'sub'; replace the credential, which others may have seen",
        ));
    }
    if text.len() > LONGEST {
        return Err(Wrong::new(format!("the name is longer than {LONGEST} bytes"), "shorten it"));
    }
    if text.chars().any(|c| c.is_control() || fold::is_invisible(c)) {
        return Err(Wrong::new(
            format!("'{}' has control characters or invisible ones", shorten(text)),
            "write it with plain printable characters",
        ));
    }
    Ok(())
}

/// PEM armour, or a JWT anywhere: three parts of base64url, the first of which begins a JSON object.
pub(crate) fn looks_like_a_credential(value: &str) -> bool {
    let in_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_jwt = |(start, _): (usize, &str)| {
        let (before, text) = value.split_at(start);
        let end = text.find(|c| !in_token(c) && c != '.').unwrap_or(text.len());
        let mut parts = text.split_at(end).0.split('.');
        let header = parts.next().is_some_and(|header| header.len() >= 10);
        !before.ends_with(in_token) && header && parts.count() >= 2
    };
    value.contains("-----BEGIN") || value.match_indices("eyJ").any(is_jwt)
}
