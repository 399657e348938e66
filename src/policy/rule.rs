//! One `[[rule]]`: conditions, a decision, and what the payload may do where it is let in.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{Facts, Image};
use super::group::{Group, GroupPattern};
use super::name::{Dn, Name};
use crate::audit::time::Timestamp;
use crate::request::Network;

/// A rule. Every condition that is given must hold; a list holds when one of its elements does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Its name in records and messages.
    pub id: String,
    /// When it applies.
    pub when: Conditions,
    /// Whether the payload may run.
    pub deny: bool,
    /// Why it may not, for its user.
    pub reason: Option<String>,
    /// What it may do.
    pub grant: Grant,
    /// Overuse rules that do not look at it.
    pub overuse_exempt: Vec<String>,
}

/// Something that has several spellings: the one in the file, and the one that is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// As it stands in the file.
    pub text: String,
    /// As it is compared.
    pub key: String,
}

/// When a rule applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// VOs.
    pub vo: Vec<String>,
    /// Issuers.
    pub issuer: Vec<Named>,
    /// Names.
    pub user: Vec<Named>,
    /// Persons.
    pub person: Vec<String>,
    /// Groups.
    pub group: Vec<GroupPattern>,
    /// Files (grid-mapfile, groupmapfile) in which one of the names or groups is.
    pub mapfile: Vec<PathBuf>,
    /// `undeclared`, `declared`, `checked`, `verified`.
    pub assurance: Vec<String>,
    /// uids of pilots.
    pub pilot_uid: Vec<u32>,
    /// Paths: the image is one of them or below it, by components.
    pub image: Vec<PathBuf>,
    /// Digests.
    pub image_digest: Vec<String>,
    /// The image was made longer ago than this.
    pub image_older_than: Option<Duration>,
    /// Whether its system's support has ended.
    pub end_of_life: Option<bool>,
    /// Whether the payload runs on the host's own system.
    pub host_system: Option<bool>,
}

/// What a payload may do, where a rule says so; `None` leaves it to the rest of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// `none`: an empty network, whatever was asked.
    pub network: Option<NetworkGrant>,
    /// Namespaces of its own.
    pub nested: Option<bool>,
    /// A writable layer over the image.
    pub writable: Option<bool>,
    /// The longest wall time.
    pub wall_time: Option<Duration>,
    /// The most scratch, bytes.
    pub scratch: Option<u64>,
    /// The most memory, bytes.
    pub memory: Option<u64>,
    /// The most CPU time, thousandths of a core.
    pub cpus_milli: Option<u64>,
    /// The most processes and threads.
    pub pids: Option<u64>,
    /// Credentials of the pilot's may be handed over.
    pub credentials: Option<bool>,
    /// Binds: only below these, when there are any.
    pub binds_allow: Vec<PathBuf>,
    /// Never these, nor what is below or above them.
    pub binds_deny: Vec<PathBuf>,
    /// These only for reading, and what is below them.
    pub binds_readonly: Vec<PathBuf>,
    /// How tight the walls are.
    pub profile: Option<Profile>,
    /// Payloads at one time.
    pub parallel: Parallel,
}

/// `network` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkGrant {
    /// As it was asked.
    Host,
    /// None, whatever was asked.
    None,
}

/// `profile` of a rule. Of two the later one here holds: a measure against an old image beats what a rule grants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The walls of the configuration.
    #[default]
    Default,
    /// As the default, and it may make namespaces of its own, whether it asks or not.
    Nested,
    /// No namespaces of its own, no writable image, binds read-only but for the working directory, nothing of the pilot's
    /// environment, no part of /sys, the tightest filter of system calls; Landlock rules on files behind the mounts, and on TCP
    /// without network.
    Strict,
}

impl Profile {
    /// The word in files and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Nested => "nested",
            Self::Strict => "strict",
        }
    }
}

/// Payloads at one time on this node; `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parallel {
    /// Of one person.
    pub person: Option<u64>,
    /// Of one VO.
    pub vo: Option<u64>,
    /// Of one uid.
    pub uid: Option<u64>,
}

impl Parallel {
    /// These, and where they say nothing, those.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { person: self.person.or(other.person), vo: self.vo.or(other.vo), uid: self.uid.or(other.uid) }
    }
}

/// What the tables know of whoever asks, beside what was said.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The person.
    pub person: Option<String>,
    /// Every name of the person, as the site's files have it.
    pub said: Vec<String>,
    /// Every name, with those that a proxy's DN implies.
    pub names: Vec<Name>,
    /// Every key under which a list may name this person.
    pub keys: Vec<String>,
    /// Key of the issuer.
    pub issuer: Option<String>,
    /// Groups that were said.
    pub groups: Vec<Group>,
    /// Groups from files, those of lists that are too old included.
    pub listed: Vec<(Group, bool)>,
    /// Files in which a name or group is.
    pub mapfiles: Vec<PathBuf>,
}

impl Known {
    /// Every DN, and those of whom a proxy is.
    pub fn dns(&self) -> impl Iterator<Item = Dn> + '_ {
        let dns = self.names.iter().filter_map(|name| match name {
            Name::Dn(dn) => Some(dn),
            _ => None,
        });
        dns.flat_map(|dn| dn.issuers_of_proxy().into_iter().chain([dn.clone()]))
    }
}

impl Conditions {
    /// Nothing is asked: it applies to everybody.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says anything of the image.
    pub fn names_image(&self) -> bool {
        !self.image.is_empty()
            || !self.image_digest.is_empty()
            || self.image_older_than.is_some()
            || self.end_of_life.is_some()
    }

    /// Whether all of it holds. `for_deny`: a membership that is too old to let anybody in still keeps somebody out.
    pub fn hold(&self, facts: &Facts, known: &Known, now: Timestamp, for_deny: bool) -> bool {
        self.first_unmet(facts, known, now, for_deny).is_none()
    }

    /// The first condition that does not hold, by its key in the file.
    pub fn first_unmet(
        &self,
        facts: &Facts,
        known: &Known,
        now: Timestamp,
        for_deny: bool,
    ) -> Option<&'static str> {
        let who = &facts.who;
        let issuer = |wanted: &Named| known.issuer.as_ref() == Some(&wanted.key);
        let vo = |wanted: &str| who.vo.as_deref().is_some_and(|vo| vo.eq_ignore_ascii_case(wanted));
        let group = |pattern: &GroupPattern| {
            known.groups.iter().any(|group| pattern.matches(group))
                || known.listed.iter().any(|(group, fresh)| (*fresh || for_deny) && pattern.matches(group))
        };
        let checks: [(&'static str, bool); 13] = [
            ("vo", self.vo.is_empty() || self.vo.iter().any(|wanted| vo(wanted))),
            ("issuer", self.issuer.is_empty() || self.issuer.iter().any(issuer)),
            ("user", self.user.is_empty() || self.user.iter().any(|user| known.keys.contains(&user.key))),
            (
                "person",
                self.person.is_empty()
                    || known.person.as_ref().is_some_and(|person| self.person.contains(person)),
            ),
            ("group", self.group.is_empty() || self.group.iter().any(group)),
            (
                "mapfile",
                self.mapfile.is_empty() || self.mapfile.iter().any(|file| known.mapfiles.contains(file)),
            ),
            ("assurance", self.assurance.is_empty() || self.assurance.contains(&who.assurance)),
            ("pilot_uid", self.pilot_uid.is_empty() || self.pilot_uid.contains(&who.uid)),
            ("image", self.image.is_empty() || self.image.iter().any(|path| below(&facts.image, path))),
            (
                "image_digest",
                self.image_digest.is_empty()
                    || self.image_digest.iter().any(|digest| facts.image.digests.contains(digest)),
            ),
            (
                "image_older_than",
                // An image that does not say its age may be of any age: it counts as old where that keeps it out.
                self.image_older_than.is_none_or(|limit| older_than(&facts.image, limit, now, for_deny)),
            ),
            (
                "end_of_life",
                self.end_of_life
                    .is_none_or(|wanted| facts.image.end_of_life.is_some_and(|end| end <= now) == wanted),
            ),
            ("host_system", self.host_system.is_none_or(|wanted| facts.image.path.is_none() == wanted)),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(key, _)| key)
    }
}

fn below(image: &Image, path: &Path) -> bool {
    image.path.as_deref().is_some_and(|image| image.starts_with(path))
}

/// Whether the image was made longer ago than that; `unknown` for one that does not say, or says that it is still to be made.
pub fn older_than(image: &Image, limit: Duration, now: Timestamp, unknown: bool) -> bool {
    match (&image.path, &image.made) {
        (None, _) => false, // the host's own system is the site's to renew
        (_, Some((made, _))) if *made > now.plus_seconds(86_400) => unknown,
        (_, Some((made, _))) => u128::from(now.nanos_since(*made)) > limit.as_nanos(),
        (_, None) => unknown,
    }
}

impl Grant {
    /// The network that the payload gets.
    pub const fn network(&self, asked: Network) -> Network {
        match self.network {
            Some(NetworkGrant::None) => Network::None,
            _ => asked,
        }
    }
}
