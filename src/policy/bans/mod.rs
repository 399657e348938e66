//! Lists of who may not run, in the formats that sites already distribute and in our own (`docs/bans.md`).
//!
//! 1. A list with one broken line is broken: the answer is every fault, never the part that was understood.
//! 2. What a list bans MUST NOT become less through what we do not support: that is a fault, or a remark where the format itself
//!    makes no ban of it.
//! 3. Nobody is banned by a slip: what would match everybody is a fault.
#![forbid(unsafe_code)]

mod argus;
mod condor;
mod lcas;
mod ours;
mod pattern;
mod render;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

pub use super::lines::{Fault, LONGEST_LINE, MOST_BYTES, MOST_ENTRIES, MOST_FAULTS, Wrong};
pub use pattern::{CertificatePattern, Literal, TokenPattern};
pub use render::render;

use super::glob::Glob;
use super::group::GroupPattern;
use super::name::{Dn, Name, canonical_issuer};
use crate::audit::Timestamp;

const WHAT: &str = "cannot read the ban list";
/// More remarks on one list are not made.
const MOST_REMARKS: usize = 100;
/// The most things that must fit together.
const MOST_OF_ALL: usize = 16;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// bailey's own: TOML.
    Ours,
    /// LCAS' `ban_users.db`, and the ban files of LCMAPS.
    Lcas,
    /// One DN a line, without quotes, as ARC's `file=` reads it.
    DnLines,
    /// HTCondor's map file, with its lines for `@banned.htcondor.org`.
    CondorMap,
    /// Argus' simplified policy language.
    Argus,
}

impl Format {
    /// The format that a file's name says; `None` where it says none.
    pub fn of_name(file_name: &str) -> Option<Self> {
        let (_, extension) = file_name.rsplit_once('.')?;
        Some(match extension {
            "toml" => Self::Ours,
            "db" | "lcas" => Self::Lcas,
            "dn" | "list" | "txt" => Self::DnLines,
            "conf" | "map" | "mapfile" => Self::CondorMap,
            "argus" | "spl" | "policy" => Self::Argus,
            _ => return None,
        })
    }

    /// Its name for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "bailey's TOML",
            Self::Lcas => "LCAS or LCMAPS ban file",
            Self::DnLines => "one DN a line",
            Self::CondorMap => "HTCondor map file",
            Self::Argus => "Argus simplified policy language",
        }
    }
}

/// What happens to running payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Measure {
    /// They are ended.
    Kill,
    /// They are stopped, for somebody to look at.
    Freeze,
}

impl Measure {
    /// The word in the list.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
        }
    }
}

/// Who vouches for somebody's name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Issuer {
    /// A token issuer.
    Token(String),
    /// A certification authority.
    Ca(Dn),
}

/// Who or what may not run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Whom {
    /// A person by one name.
    Name(Name),
    /// DNs by a pattern.
    DnPattern(Glob),
    /// Tokens by an expression.
    TokenPattern(TokenPattern),
    /// Certificates by an expression.
    CertificatePattern(CertificatePattern),
    /// A `[[person]]` of the configuration, by id.
    Person(String),
    /// Everybody of a VO; compared without regard to case.
    Vo(String),
    /// Everybody in a group.
    Group(GroupPattern),
    /// Everybody whose first group it is.
    PrimaryGroup(GroupPattern),
    /// Everybody whom an issuer or CA names.
    Issuer(Issuer),
    /// What one pilot starts (`grid.pilot.id`).
    Pilot(String),
    /// What a local account starts.
    PilotUid(u32),
    /// An image by its digest, `sha256:` and 64 digits.
    Image(String),
    /// Whoever fits all of these.
    All(Vec<Whom>),
}

impl Whom {
    /// Equal for two spellings of one thing.
    pub fn key(&self) -> String {
        match self {
            Self::Name(name) => name.key(),
            Self::DnPattern(glob) => format!("dn-pattern:{}", glob.key()),
            Self::TokenPattern(pattern) => format!("token-pattern:{}", pattern.key()),
            Self::CertificatePattern(pattern) => format!("certificate-pattern:{}", pattern.key()),
            Self::Person(id) => format!("person:{id}"),
            Self::Vo(vo) => format!("vo:{}", vo.to_lowercase()),
            Self::Group(group) => format!("group:{}", group.key()),
            Self::PrimaryGroup(group) => format!("primary-group:{}", group.key()),
            Self::Issuer(Issuer::Token(issuer)) => format!("issuer:{}", canonical_issuer(issuer)),
            Self::Issuer(Issuer::Ca(dn)) => format!("ca-{}", Name::Dn(dn.clone()).key()),
            Self::Pilot(id) => format!("pilot:{id}"),
            Self::PilotUid(uid) => format!("pilot-uid:{uid}"),
            Self::Image(digest) => format!("image:{digest}"),
            Self::All(all) => {
                let mut keys: Vec<String> = all.iter().map(Self::key).collect();
                keys.sort_unstable();
                format!("all:{}", keys.join("\n"))
            }
        }
    }
}

impl fmt::Display for Whom {
    /// For people: "the VO cms".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::DnPattern(glob) => write!(f, "certificates like {glob}"),
            Self::TokenPattern(pattern) => write!(f, "tokens like {pattern}"),
            Self::CertificatePattern(pattern) => write!(f, "certificates like {pattern}"),
            Self::Person(id) => write!(f, "the person {id}"),
            Self::Vo(vo) => write!(f, "the VO {vo}"),
            Self::Group(group) => write!(f, "the group {group}"),
            Self::PrimaryGroup(group) => write!(f, "the primary group {group}"),
            Self::Issuer(Issuer::Token(issuer)) => write!(f, "the issuer {issuer}"),
            Self::Issuer(Issuer::Ca(dn)) => write!(f, "the CA {dn}"),
            Self::Pilot(id) => write!(f, "the pilot {id}"),
            Self::PilotUid(uid) => write!(f, "the account with uid {uid}"),
            Self::Image(digest) => write!(f, "the image {digest}"),
            Self::All(all) => {
                for (index, whom) in all.iter().enumerate() {
                    write!(f, "{}{whom}", if index > 0 { " and " } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

/// Whoever fits all of several things.
fn all_of(mut all: Vec<Whom>) -> Result<Whom, Wrong> {
    if all.len() > MOST_OF_ALL {
        let why = format!("{} things are to fit together, more than {MOST_OF_ALL}", all.len());
        return Err(Wrong::new(why, "name fewer"));
    }
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            all.push(last);
            Ok(Whom::All(all))
        }
        (None, _) => Err(Wrong::new("nobody is named", "name whom you mean")),
    }
}

/// One entry of a list.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Ban {
    /// Who or what.
    pub whom: Whom,
    /// Why, for people; our own lists always say it.
    pub reason: Option<String>,
    /// The incident or ticket.
    pub ticket: Option<String>,
    /// It does not hold before.
    pub from: Option<Timestamp>,
    /// It does not hold from here on.
    pub until: Option<Timestamp>,
    /// What happens to running payloads, where the site's setting is not meant.
    pub measure: Option<Measure>,
    /// How long they may take to end, where the site's setting is not meant.
    pub grace: Option<Duration>,
    /// Where it stands in its list.
    pub line: u32,
}

impl PartialEq for Ban {
    /// The same ban, wherever it stands.
    fn eq(&self, other: &Self) -> bool {
        let parts = |ban: &Self| (ban.from, ban.until, ban.measure, ban.grace);
        self.whom == other.whom
            && self.reason == other.reason
            && self.ticket == other.ticket
            && parts(self) == parts(other)
    }
}

impl Eq for Ban {}

impl Ban {
    /// A ban without conditions.
    pub fn new(whom: Whom, line: u32) -> Self {
        Self { whom, reason: None, ticket: None, from: None, until: None, measure: None, grace: None, line }
    }

    /// Whether it holds at this time.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }
}

/// Something that is not wrong, and that somebody ought to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Where; 0 when the whole list is meant.
    pub line: u32,
    /// One sentence.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = crate::failure::Printable(&self.text);
        if self.line == 0 { text.fmt(f) } else { write!(f, "line {}: {text}", self.line) }
    }
}

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// In the list's order.
    pub bans: Vec<Ban>,
    /// At most a hundred, in the order of their lines.
    pub remarks: Vec<Remark>,
}

impl List {
    /// What is to be said of the list at this time: bans that are over.
    pub fn remarks_at(&self, now: Timestamp) -> Vec<Remark> {
        let over = self
            .bans
            .iter()
            .filter_map(|ban| ban.until.filter(|until| *until <= now).map(|until| (ban, until)));
        let remarks = over.map(|(ban, until)| Remark {
            line: ban.line,
            text: format!("the ban on {} ended on {until} and does nothing", ban.whom),
        });
        remarks.take(MOST_REMARKS).collect()
    }

    fn remark(&mut self, line: u32, text: String) {
        if self.remarks.len() < MOST_REMARKS {
            self.remarks.push(Remark { line, text });
        }
    }

    /// Duplicates and contradictions, and names that hold for less than they seem to.
    fn look_over(&mut self) {
        let mut seen: HashMap<u64, usize> = HashMap::with_capacity(self.bans.len());
        let mut found = Vec::new();
        for (index, ban) in self.bans.iter().enumerate() {
            if found.len() >= MOST_REMARKS {
                break;
            }
            if let Whom::Name(Name::Dn(dn)) = &ban.whom
                && dn.is_proxy()
            {
                let text = format!(
                    "{dn} names a proxy, so only that is banned; name {} to ban the person",
                    dn.without_proxy()
                );
                found.push(Remark { line: ban.line, text });
            }
            let mut hash = DefaultHasher::new();
            ban.whom.key().hash(&mut hash);
            let first = *seen.entry(hash.finish()).or_insert(index);
            let Some(before) = self.bans.get(first).filter(|_| first != index) else { continue };
            let parts = |ban: &Ban| (ban.from, ban.until, ban.measure, ban.grace);
            let text = if parts(before) == parts(ban) {
                format!("{} is banned in line {} too", ban.whom, before.line)
            } else {
                format!(
                    "{} is banned in line {} too, with other times or another action; each holds for itself",
                    ban.whom, before.line
                )
            };
            found.push(Remark { line: ban.line, text });
        }
        self.remarks.extend(found);
        self.remarks.sort_by_key(|remark| remark.line);
        self.remarks.truncate(MOST_REMARKS);
    }
}

/// Reads a list. Any fault in any line is an error; there are [`MOST_FAULTS`] at most.
pub fn parse(bytes: &[u8], format: Format) -> Result<List, Vec<Fault>> {
    let text = super::lines::text(bytes, WHAT)?;
    let mut list = match format {
        Format::Ours => ours::parse(text),
        Format::Lcas => lcas::parse(text),
        Format::DnLines => lcas::parse_plain(text),
        Format::CondorMap => condor::parse(text),
        Format::Argus => argus::parse(text),
    }?;
    list.look_over();
    if format != Format::Ours && !bytes.ends_with(b"\n") {
        let line = super::lines::number(text.matches('\n').count() + 1);
        list.remark(line, "the last line has no end, as in a file that was cut off".to_owned());
    }
    Ok(list)
}
