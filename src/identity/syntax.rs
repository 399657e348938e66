//! What each identity value may look like. Pure.
//!
//! 1. Whatever passes here stands in the record, in bans and on terminals: one line, nothing invisible, bounded.
//! 2. Values are compared byte by byte later, so a value MUST pass unchanged or not at all. Nothing is normalised.
//! 3. Something that looks like a credential MUST NOT pass, nor be repeated in the error: people paste tokens.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

pub(super) use crate::policy::lines::shorten;

use crate::policy::name::{self, Dn, fold, is_attribute_type, looks_like_a_credential};

/// The values of one source.
pub(super) struct Said<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) issuer: Option<&'a str>,
    pub(super) vo: Option<&'a str>,
    pub(super) groups: &'a [String],
    pub(super) name: Option<&'a str>,
    pub(super) pilot: Option<&'a str>,
    pub(super) job: Option<&'a str>,
    pub(super) task: Option<&'a str>,
}

/// A value that cannot be used.
#[derive(Debug)]
pub(super) struct Fault {
    /// The option's name without its dashes.
    pub(super) field: &'static str,
    pub(super) why: String,
    pub(super) next: String,
}

/// Reason and next step.
type Check = Result<(), (String, String)>;

/// The most groups of one identity.
pub(super) const MOST_GROUPS: usize = 128;

impl Said<'_> {
    /// The first fault, in the order of the fields.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let one = |field, value: Option<&str>, check: fn(&str) -> Check| {
            value.map_or(Ok(()), check).map_err(|(why, next)| Fault { field, why, next })
        };
        one("user", self.user, user)?;
        one("issuer", self.issuer, issuer)?;
        one("vo", self.vo, vo)?;
        if self.groups.len() > MOST_GROUPS {
            return Err(Fault {
                field: "group",
                why: format!("{} groups are more than {MOST_GROUPS}", self.groups.len()),
                next: "name only the groups that this payload needs".to_owned(),
            });
        }
        for value in self.groups {
            one("group", Some(value), group)?;
        }
        for (field, value) in
            [("name", self.name), ("pilot", self.pilot), ("job", self.job), ("task", self.task)]
        {
            one(field, value, |value| plain(value, 255))?;
        }
        Ok(())
    }
}

/// Whether it may be an id: a job's, a pilot's.
pub(super) fn is_plain(value: &str) -> bool {
    plain(value, 255).is_ok()
}

/// Why it is no user's name.
pub(super) fn user_fault(value: &str) -> Option<String> {
    user(value).err().map(|(why, _)| why)
}

/// Whether it is a token's issuer.
pub(super) fn is_issuer(value: &str) -> bool {
    issuer(value).is_ok()
}

/// Whether it is a VO's name.
pub(super) fn is_vo(value: &str) -> bool {
    vo(value).is_ok()
}

/// Whether it is a group.
pub(super) fn is_group(value: &str) -> bool {
    group(value).is_ok()
}

fn no(why: impl Into<String>, next: impl Into<String>) -> Check {
    Err((why.into(), next.into()))
}

/// Rules 1 and 3, for every value.
fn plain(value: &str, most: usize) -> Check {
    if value.is_empty() {
        return no("the value is empty", "give it a value or leave it out");
    }
    if looks_like_a_credential(value) {
        return no(
            "the value looks like a token, a key or a certificate, and would go into the log",
            "give the user's name (a DN, or the token's 'sub'); replace the credential, which others may have seen",
        );
    }
    if value.len() > most {
        return no(format!("the value is longer than {most} bytes"), "shorten it");
    }
    if value.chars().any(|c| c.is_control() || is_invisible(c)) {
        return no(
            format!("'{}' has control characters or invisible ones", shorten(value)),
            "write it with plain printable characters",
        );
    }
    if value.trim() != value {
        return no(format!("'{}' has white space at an end", shorten(value)), "take the white space away");
    }
    Ok(())
}

/// White space other than the blank, and what reorders or hides what a reader sees.
fn is_invisible(c: char) -> bool {
    (c.is_whitespace() && c != ' ') || fold::is_invisible(c)
}

fn user(value: &str) -> Check {
    plain(value, 1024)?;
    if value.starts_with('/') {
        return distinguished_name(value);
    }
    if let Some(slash_form) = from_rfc2253(value) {
        return no(
            format!("'{}' is a DN with commas (RFC 2253)", shorten(value)),
            format!("write it in slash form, from the root on: {slash_form}"),
        );
    }
    // WLCG Common JWT Profile 1.x, sub: at most 255 ASCII characters.
    if value.len() > 255 || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return no(
            format!("'{}' is no token subject: at most 255 printable ASCII characters", shorten(value)),
            "give the token's 'sub', or a DN in slash form such as /DC=org/CN=Some One",
        );
    }
    Ok(())
}

/// OpenSSL's one-line form: `/TYPE=value/TYPE=value`. A value may hold slashes (`/CN=host/node.example`), so a part without
/// `TYPE=` belongs to the value before it.
fn distinguished_name(value: &str) -> Check {
    let wrong = |why: &str| {
        no(
            format!("'{}' is no DN: {why}", shorten(value)),
            "write it as /TYPE=value/TYPE=value, such as /DC=org/DC=example/CN=Some One",
        )
    };
    for (index, part) in value.split('/').skip(1).enumerate() {
        match part.split_once('=') {
            Some((kind, text)) if is_attribute_type(kind) && text.trim().is_empty() => {
                return wrong(&format!("{kind} has no value"));
            }
            Some((kind, _)) if is_attribute_type(kind) => {}
            _ if index == 0 => return wrong("the first part has no TYPE="),
            _ if part.starts_with('=') => return wrong("a part has no type before '='"),
            _ => {}
        }
    }
    Ok(())
}

/// The slash form of what looks like a DN in the form of RFC 2253 or 4514, `None` for anything else.
fn from_rfc2253(value: &str) -> Option<String> {
    if !name::looks_like_commas(value) {
        return None;
    }
    let example = || "/DC=org/DC=example/CN=Some One".to_owned();
    Some(Dn::parse(value).map_or_else(|_| example(), |dn| shorten(&dn.to_string())))
}

/// An https URL as `OpenID` Connect Discovery 1.0 has it for issuers: host, perhaps port and path, nothing else.
fn issuer(value: &str) -> Check {
    plain(value, 255)?;
    let wrong = |why: &str| {
        no(
            format!("'{}' is no token issuer: {why}", shorten(value)),
            "write it as the token's 'iss' has it, such as https://iam.example.org/",
        )
    };
    let Some(rest) = value.strip_prefix("https://") else {
        return wrong("it does not begin with https://");
    };
    if rest.contains(['?', '#']) {
        return wrong("it has a query or a fragment");
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return wrong("it has a user name before the host");
    }
    if !is_host_and_port(authority) {
        return wrong("its host or port is wrong");
    }
    if !is_path(path) {
        return wrong("its path has characters that a URL does not");
    }
    Ok(())
}

fn is_host_and_port(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(host, port)| {
            host.parse::<std::net::Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
        });
    }
    let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label) && (port.is_empty() || is_port(port))
}

/// `:PORT`
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or_default();
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The characters of a path, RFC 3986 section 3.3.
fn is_path(path: &str) -> bool {
    let mut parts = path.split('%');
    let allowed = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte))
    };
    parts.next().is_some_and(allowed)
        && parts.all(|part| {
            let hex = part.get(..2).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            hex && allowed(part)
        })
}

fn vo(value: &str) -> Check {
    plain(value, 255)?;
    if is_word(value) {
        return Ok(());
    }
    no(
        format!("'{}' is no VO's name", shorten(value)),
        "write letters, digits, '.', '_' and '-', such as atlas or vo.example.org",
    )
}

/// A name of a VO, group or role: begins with a letter or digit, and has no more than `.`, `_`, `-` besides.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn group(value: &str) -> Check {
    plain(value, 255)?;
    if is_fqan(value) || is_ivo_group(value) {
        return Ok(());
    }
    no(
        format!("'{}' is no group", shorten(value)),
        "write /vo/group, /vo/group/Role=name, or ivo://authority/service?group",
    )
}

/// `/vo/group`, perhaps with `/Role=name` and after it `/Capability=name`. `wlcg.groups` have the same form without role.
fn is_fqan(value: &str) -> bool {
    let Some(rest) = value.strip_prefix('/') else {
        return false;
    };
    let mut groups = 0;
    let mut qualifiers = 0;
    for part in rest.split('/') {
        let word = match part.split_once('=') {
            None if qualifiers == 0 => {
                groups += 1;
                part
            }
            Some(("Role", role)) if groups > 0 && qualifiers == 0 => {
                qualifiers = 1;
                role
            }
            Some(("Capability", capability)) if groups > 0 && qualifiers < 2 => {
                qualifiers = 2;
                capability
            }
            _ => return false,
        };
        if !is_word(word) {
            return false;
        }
    }
    groups > 0
}

/// `ivo://authority/path?group` (IVOA Group Membership Service 1.0, section 3; IVOA Identifiers 2.0, section 2.3).
fn is_ivo_group(value: &str) -> bool {
    let Some((place, group)) = value.strip_prefix("ivo://").and_then(|rest| rest.split_once('?')) else {
        return false;
    };
    let Some((authority, path)) = place.split_once('/') else {
        return false;
    };
    authority.len() >= 3
        && authority.starts_with(|c: char| c.is_ascii_alphanumeric())
        && authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        && !path.is_empty()
        && is_path(path)
        && !group.is_empty()
        && is_path(group)
}
