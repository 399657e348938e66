//! `[policy]`, `[image]`, `[bans]`, and the tables of which there may be many: `[[rule]]`, `[[person]]`, `[[trust]]`, `[[vo]]`.
//!
//! A table adds to those of the files before: which rule comes first is decided by the order of the files, and within one by
//! the order in it. What contradicts itself over several files is found by [`check`], when all of them are there.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::values::{Cores, Memory, Place, Processes, Read, Size, Unless, Value, WallTime, word};
use super::{Config, set};
use crate::failure::Failure;
use crate::policy::bans::Measure;
use crate::policy::group::GroupPattern;
use crate::policy::index::issuer_key;
use crate::policy::name::Name;
use crate::policy::rule::{Conditions, Grant, Named, NetworkGrant, Parallel, Profile, Rule};
use crate::policy::settings::{self, Measures, OnTrouble};

type List<T> = Option<Vec<Read<T>>>;
type One<T> = Option<Read<T>>;

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [policy]")]
pub(super) struct Policy {
    default: One<Answer>,
    parallel_person: One<Limit>,
    parallel_vo: One<Limit>,
    parallel_uid: One<Limit>,
    groups_dir: One<Place>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [image]")]
pub(super) struct Image {
    allow_digests: List<Digest>,
    deny_digests: List<Digest>,
    max_age: One<Unless<Duration>>,
    old: One<Measures>,
    required_labels: List<Line>,
    unlabelled: One<Measures>,
    end_of_life: One<Measures>,
    end_of_life_table: One<Table>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [bans]")]
pub(super) struct Bans {
    dir: One<Place>,
    unreadable: One<OnTrouble>,
    missing: One<OnTrouble>,
    stale: One<OnTrouble>,
    required: List<FileName>,
    max_age: One<Unless<Duration>>,
    action: One<Measure>,
    grace: One<Duration>,
    poll: One<Poll>,
    settle: One<Duration>,
}

/// One `[[rule]]`.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table, written [[rule]]")]
pub(super) struct RuleKeys {
    id: One<Word>,
    decision: One<Answer>,
    reason: One<Line>,
    vo: List<Word>,
    issuer: List<Issuer>,
    user: List<User>,
    person: List<Word>,
    group: List<GroupPattern>,
    mapfile: List<Place>,
    assurance: List<Assurance>,
    pilot_uid: Option<Vec<u32>>,
    image: List<Place>,
    image_digest: List<Digest>,
    image_older_than: One<Duration>,
    end_of_life: Option<bool>,
    host_system: Option<bool>,
    network: One<NetworkGrant>,
    nested: Option<bool>,
    writable: Option<bool>,
    wall_time: One<WallTime>,
    scratch_size: One<Size>,
    memory: One<Memory>,
    cpus: One<Cores>,
    pids: One<Processes>,
    credentials: Option<bool>,
    binds: Binds,
    profile: One<Profile>,
    parallel_person: One<Limit>,
    parallel_vo: One<Limit>,
    parallel_uid: One<Limit>,
    overuse_exempt: List<Word>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table with allow, deny and readonly")]
struct Binds {
    allow: List<Place>,
    deny: List<Place>,
    readonly: List<Place>,
}

/// One `[[person]]`.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table, written [[person]]")]
pub(super) struct PersonKeys {
    id: One<Word>,
    names: List<User>,
}

/// One `[[trust]]`.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table, written [[trust]]")]
pub(super) struct TrustKeys {
    issuer: One<Issuer>,
    vo: List<Word>,
}

/// One `[[vo]]`.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table, written [[vo]]")]
pub(super) struct VoKeys {
    name: One<Word>,
    job_page: One<Line>,
    security_contact: One<Line>,
    user_contact: One<Line>,
    resolver: List<Line>,
}

impl Policy {
    pub(super) fn apply(self, config: &mut Config) {
        let Self { default, parallel_person, parallel_vo, parallel_uid, groups_dir } = self;
        let policy = &mut config.policy;
        set(&mut policy.default_deny, default.map(|v| v.0 == Answer::Deny));
        set(&mut policy.parallel.person, parallel_person.map(|v| v.0.0));
        set(&mut policy.parallel.vo, parallel_vo.map(|v| v.0.0));
        set(&mut policy.parallel.uid, parallel_uid.map(|v| v.0.0));
        set(&mut policy.groups_dir, groups_dir.map(|v| v.0.0));
    }
}

impl Image {
    pub(super) fn apply(self, config: &mut Config) {
        let Self {
            allow_digests,
            deny_digests,
            max_age,
            old,
            required_labels,
            unlabelled,
            end_of_life,
            end_of_life_table,
        } = self;
        let image = &mut config.policy.image;
        set(&mut image.allow_digests, plain(allow_digests, |v| v.0));
        set(&mut image.deny_digests, plain(deny_digests, |v| v.0));
        set(&mut image.max_age, max_age.map(|v| v.0.0));
        set(&mut image.old, old.map(|v| v.0));
        set(&mut image.required_labels, plain(required_labels, |v| v.0));
        set(&mut image.unlabelled, unlabelled.map(|v| v.0));
        set(&mut image.end_of_life, end_of_life.map(|v| v.0));
        set(&mut image.end_of_life_table, end_of_life_table.map(|v| v.0.0));
    }
}

impl Bans {
    pub(super) fn apply(self, config: &mut Config) {
        let Self { dir, unreadable, missing, stale, required, max_age, action, grace, poll, settle } = self;
        let bans = &mut config.policy.bans;
        set(&mut bans.dir, dir.map(|v| v.0.0));
        set(&mut bans.unreadable, unreadable.map(|v| v.0));
        set(&mut bans.missing, missing.map(|v| v.0));
        set(&mut bans.stale, stale.map(|v| v.0));
        set(&mut bans.required, plain(required, |v| v.0));
        set(&mut bans.max_age, max_age.map(|v| v.0.0));
        set(&mut bans.measure, action.map(|v| v.0));
        set(&mut bans.grace, grace.map(|v| v.0));
        set(&mut bans.poll, poll.map(|v| v.0.0));
        set(&mut bans.settle, settle.map(|v| v.0));
    }
}

impl RuleKeys {
    pub(super) fn make(self) -> Rule {
        let Self {
            id,
            decision,
            reason,
            vo,
            issuer,
            user,
            person,
            group,
            mapfile,
            assurance,
            pilot_uid,
            image,
            image_digest,
            image_older_than,
            end_of_life,
            host_system,
            network,
            nested,
            writable,
            wall_time,
            scratch_size,
            memory,
            cpus,
            pids,
            credentials,
            binds,
            profile,
            parallel_person,
            parallel_vo,
            parallel_uid,
            overuse_exempt,
        } = self;
        Rule {
            id: id.map(|v| v.0.0).unwrap_or_default(),
            when: Conditions {
                vo: all(vo, |v| v.0),
                issuer: all(issuer, |v| v.0),
                user: all(user, |v| v.0),
                person: all(person, |v| v.0),
                group: all(group, |v| v),
                mapfile: all(mapfile, |v| v.0),
                assurance: all(assurance, |v| v.0),
                pilot_uid: pilot_uid.unwrap_or_default(),
                image: all(image, |v| v.0),
                image_digest: all(image_digest, |v| v.0),
                image_older_than: image_older_than.map(|v| v.0),
                end_of_life,
                host_system,
            },
            deny: decision.is_some_and(|v| v.0 == Answer::Deny),
            reason: reason.map(|v| v.0.0),
            grant: Grant {
                network: network.map(|v| v.0),
                nested,
                writable,
                wall_time: wall_time.and_then(|v| v.0.0),
                scratch: scratch_size.map(|v| v.0.0),
                memory: memory.map(|v| v.0.0),
                cpus_milli: cpus.map(|v| v.0.0),
                pids: pids.map(|v| v.0.0),
                credentials,
                binds_allow: all(binds.allow, |v| v.0),
                binds_deny: all(binds.deny, |v| v.0),
                binds_readonly: all(binds.readonly, |v| v.0),
                profile: profile.map(|v| v.0),
                parallel: Parallel {
                    person: parallel_person.and_then(|v| v.0.0),
                    vo: parallel_vo.and_then(|v| v.0.0),
                    uid: parallel_uid.and_then(|v| v.0.0),
                },
            },
            overuse_exempt: all(overuse_exempt, |v| v.0),
        }
    }
}

impl PersonKeys {
    pub(super) fn make(self) -> settings::Person {
        settings::Person { id: self.id.map(|v| v.0.0).unwrap_or_default(), names: all(self.names, |v| v.0) }
    }
}

impl TrustKeys {
    pub(super) fn make(self) -> settings::Trust {
        settings::Trust { issuer: self.issuer.map(|v| v.0.0).unwrap_or_default(), vo: all(self.vo, |v| v.0) }
    }
}

impl VoKeys {
    pub(super) fn make(self) -> settings::Vo {
        settings::Vo {
            name: self.name.map(|v| v.0.0).unwrap_or_default(),
            job_page: self.job_page.map(|v| v.0.0),
            security_contact: self.security_contact.map(|v| v.0.0),
            user_contact: self.user_contact.map(|v| v.0.0),
            resolver: all(self.resolver, |v| v.0),
        }
    }
}

/// Values in their order, all of them.
fn all<T, U>(said: List<T>, inner: impl Fn(T) -> U) -> Vec<U> {
    said.unwrap_or_default().into_iter().map(|Read(value)| inner(value)).collect()
}

fn plain<T, U>(said: List<T>, inner: impl Fn(T) -> U) -> Option<Vec<U>> {
    said.map(|values| values.into_iter().map(|Read(value)| inner(value)).collect())
}

/// What is wrong with the tables together.
///
/// # Errors
/// A table without what it needs, an id or a name that is there twice, a person's name that is another person's.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let wrong = |table: String, why: String, next: &str| {
        Failure::site(format!("cannot use the configuration: {table}"), why, next)
    };
    let mut ids = HashSet::new();
    for (number, rule) in config.tables.rules.iter().enumerate() {
        let table = || {
            if rule.id.is_empty() {
                format!("[[rule]] number {}", number + 1)
            } else {
                format!("[[rule]] id = \"{}\"", rule.id)
            }
        };
        if rule.id.is_empty() {
            return Err(wrong(
                table(),
                "it has no id".into(),
                "give it a name of its own (id = \"…\"), which records and messages use",
            ));
        }
        if !ids.insert(rule.id.as_str()) {
            return Err(wrong(table(), "there are two rules of that id".into(), "rename one of them"));
        }
        if rule.deny && rule.grant != Grant::default() {
            return Err(wrong(
                table(),
                "it denies, and grants something".into(),
                "take out the grants, or write decision = \"allow\"",
            ));
        }
        if rule.grant.profile == Some(Profile::Nested) && rule.grant.nested == Some(false) {
            return Err(wrong(
                table(),
                "its profile grants namespaces, and nested = false refuses them".into(),
                "take out one of the two",
            ));
        }
    }
    let mut persons = HashSet::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    for person in &config.tables.persons {
        let table = || format!("[[person]] id = \"{}\"", person.id);
        if person.id.is_empty() {
            return Err(wrong(
                "a [[person]]".into(),
                "it has no id".into(),
                "give it one (id = \"…\"), which bans and rules use",
            ));
        }
        if !persons.insert(person.id.as_str()) {
            return Err(wrong(
                table(),
                "there are two persons of that id".into(),
                "put all names into one of them",
            ));
        }
        if person.names.is_empty() {
            return Err(wrong(table(), "it has no names".into(), "list them (names = [\"…\"])"));
        }
        for name in &person.names {
            if let Some(other) = names.insert(&name.key, &person.id)
                && other != person.id
            {
                // Whose name it is decides whom a ban hits.
                return Err(wrong(
                    table(),
                    format!("its name {} belongs to the person {other} too", name.text),
                    "make one person of the two, or take the name out of one",
                ));
            }
        }
    }
    for trust in &config.tables.trusts {
        if trust.issuer.key.is_empty() || trust.vo.is_empty() {
            return Err(wrong(
                "a [[trust]]".into(),
                "it needs an issuer and the list vo".into(),
                "write issuer = \"https://…\" and vo = [\"…\"]",
            ));
        }
    }
    let mut vos = HashSet::new();
    for vo in &config.tables.vos {
        if vo.name.is_empty() || !vos.insert(vo.name.to_ascii_lowercase()) {
            return Err(wrong(
                format!("[[vo]] name = \"{}\"", vo.name),
                "it has no name, or there are two of that name".into(),
                "give each VO one [[vo]]",
            ));
        }
    }
    Ok(())
}

/// What can never take effect, or is likely to be meant otherwise; in words, for `bailey config validate`.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = super::overuse::warnings(config);
    let lent = config.uid.mode == super::UidMode::Subuid || config.root_caller.uids.is_some();
    if lent && config.sandbox.pid_namespace == super::Demand::Off {
        warnings.push(
            "sandbox.pid_namespace is off: every payload that gets a uid of its own is refused".to_owned(),
        );
    }
    let persons: HashSet<&str> = config.tables.persons.iter().map(|person| person.id.as_str()).collect();
    let mut closed: Option<&str> = None;
    for rule in &config.tables.rules {
        let when = &rule.when;
        if let Some(first) = closed {
            warnings.push(format!(
                "rule '{}' can never apply: '{first}' before it applies to everybody",
                rule.id
            ));
        }
        if when.is_empty() {
            closed = closed.or(Some(&rule.id));
        }
        let mut never = |why: &str| warnings.push(format!("rule '{}' can never apply: {why}", rule.id));
        let of_image = !when.image.is_empty() || !when.image_digest.is_empty();
        if when.host_system == Some(true) && (of_image || when.end_of_life == Some(true)) {
            never("it asks for the host's system and for an image");
        }
        if when.assurance == ["undeclared"]
            && !(when.user.is_empty() && when.person.is_empty() && when.issuer.is_empty())
        {
            never("it asks for payloads whose user nobody declared, and for a user");
        }
        for person in when.person.iter().filter(|person| !persons.contains(person.as_str())) {
            warnings.push(format!(
                "rule '{}' names the person '{person}', and there is no such [[person]]",
                rule.id
            ));
        }
        let earlier = config.tables.rules.iter().take_while(|other| other.id != rule.id);
        if let Some(same) =
            earlier.filter(|other| !other.when.is_empty()).find(|other| other.when == rule.when)
        {
            warnings.push(format!(
                "rule '{}' can never apply: '{}' before it has the same conditions",
                rule.id, same.id
            ));
        }
    }
    warnings
}

// ---- values ----

/// `allow` or `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Deny,
}

impl Value for Answer {
    const EXPECTED: &'static str = "\"allow\" or \"deny\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Allow, Self::Deny], |value| match value {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl Value for Measures {
    const EXPECTED: &'static str = "\"flag\", \"restrict\" or \"refuse\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Flag, Self::Restrict, Self::Refuse], Self::as_str)
    }
}

impl Value for OnTrouble {
    const EXPECTED: &'static str = "\"closed\", \"last-good\" or \"warn\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Closed, Self::LastGood, Self::Warn], Self::as_str)
    }
}

impl Value for Measure {
    const EXPECTED: &'static str = "\"kill\" or \"freeze\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Kill, Self::Freeze], Self::as_str)
    }
}

impl Value for Profile {
    const EXPECTED: &'static str = "\"default\", \"nested\" or \"strict\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Default, Self::Nested, Self::Strict], Self::as_str)
    }
}

impl Value for NetworkGrant {
    const EXPECTED: &'static str = "\"host\" or \"none\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Host, Self::None], |value| match value {
            Self::Host => "host",
            Self::None => "none",
        })
    }
}

impl Value for GroupPattern {
    const EXPECTED: &'static str = "a group as text, such as \"/cms/Role=production\" or \"/cms/*\"";
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|wrong| wrong.to_string())
    }
}

/// How often, not too often.
struct Poll(Duration);

impl Value for Poll {
    const EXPECTED: &'static str = "a time span as text, such as \"500ms\" or \"2s\"";
    fn read(text: &str) -> Result<Self, String> {
        let span = match text.strip_suffix("ms").and_then(|digits| digits.parse().ok()) {
            Some(millis) => Duration::from_millis(millis),
            None => Duration::read(text)?,
        };
        if (Duration::from_millis(50)..=Duration::from_secs(3600)).contains(&span) {
            Ok(Self(span))
        } else {
            Err(format!("'{text}' is not between 50ms and 1h"))
        }
    }
}

/// A limit on a number of payloads.
struct Limit(Option<u64>);

impl<'de> Deserialize<'de> for Read<Limit> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Read<Limit>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or \"none\"")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Read<Limit>, E> {
                let number =
                    u64::try_from(number).map_err(|_| E::custom(format!("{number} is below zero")))?;
                Ok(Read(Limit(Some(number))))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Read<Limit>, E> {
                match text {
                    "none" => Ok(Read(Limit(None))),
                    _ => match text.parse() {
                        Ok(number) if !text.starts_with('+') => Ok(Read(Limit(Some(number)))),
                        _ => Err(E::custom(format!("'{text}' is not a whole number, nor \"none\""))),
                    },
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A name that is a word: VO, rule, person.
struct Word(String);

impl Value for Word {
    const EXPECTED: &'static str = "a name as text";
    fn read(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
        if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
            return Err(format!("'{text}' is not a name: write letters, digits, '.', '_', '-', '@' and '+'"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// One line for people.
struct Line(String);

impl Value for Line {
    const EXPECTED: &'static str = "a line of text";
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 1024 || text.chars().any(char::is_control) || text.trim() != text {
            return Err(
                "it is empty, longer than 1024 bytes, or has control characters or white space at an end"
                    .to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// A name of a person.
pub(super) struct User(pub(super) Named);

impl Value for User {
    const EXPECTED: &'static str = "a DN, or an issuer and a subject with a blank between them, as text";
    fn read(text: &str) -> Result<Self, String> {
        let name = Name::parse(text).map_err(|wrong| wrong.to_string())?;
        Ok(Self(Named { text: text.to_owned(), key: name.key() }))
    }
}

/// An issuer of tokens, or a CA's DN.
struct Issuer(Named);

impl Value for Issuer {
    const EXPECTED: &'static str = "a token issuer's URL, or a CA's DN, as text";
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(Named { text: text.to_owned(), key: issuer_key(text) }))
    }
}

/// A word of `grid.identity.assurance`.
struct Assurance(String);

impl Value for Assurance {
    const EXPECTED: &'static str = "\"undeclared\", \"declared\", \"checked\" or \"verified\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &["undeclared", "declared", "checked", "verified"], |value| value)
            .map(|value| Self(value.to_owned()))
    }
}

/// `sha256:` and 64 hex digits.
struct Digest(String);

impl Value for Digest {
    const EXPECTED: &'static str = "a digest as text, \"sha256:…\"";
    fn read(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("'{text}' is not 'sha256:' and 64 hexadecimal digits"))
        }
    }
}

/// The name of a file in a directory.
struct FileName(String);

impl Value for FileName {
    const EXPECTED: &'static str = "the name of a file as text";
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty()
            || text.contains('/')
            || text.starts_with('.')
            || text.chars().any(char::is_control)
        {
            return Err(format!("'{text}' is not the name of a file in that directory"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A file, or the built-in table.
struct Table(Option<PathBuf>);

impl Value for Table {
    const EXPECTED: &'static str = "an absolute path as text, or \"default\"";
    fn read(text: &str) -> Result<Self, String> {
        if text == "default" { Ok(Self(None)) } else { Place::read(text).map(|place| Self(Some(place.0))) }
    }
}
