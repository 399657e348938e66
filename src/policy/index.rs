//! The tables, arranged so that one launch touches only what may concern it: ten thousand bans and a thousand rules cost a
//! launch as much as ten.
//!
//! 1. An item stands under a key that everybody whom it concerns has. Finding an item says nothing yet: what is found is
//!    judged in full by [`super::decide`], so a key may be too wide, and never too narrow.
//! 2. A pattern stands under a piece of text that whatever matches it contains, or under [`ALWAYS`].
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bans::{Ban, Issuer, Literal, TokenPattern, Whom};
use super::facts::Facts;
use super::glob::{Glob, has_wildcards};
use super::group::{Group, GroupPattern};
use super::name::Name;
use super::rule::{Conditions, Known, Named, Rule};
use super::settings::{Person, Tables, Trust, Vo};
use crate::audit::time::Timestamp;
use crate::failure::Failure;
use crate::image::end_of_life;
use crate::image::os_release::Os;

/// The key of what has to be looked at for everybody.
pub const ALWAYS: &str = "*";
/// Bytes of the pieces of text under which patterns stand.
pub const PIECE: usize = 8;

/// One thing that may concern a launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// Names of one human being.
    Person(Person),
    /// A ban, and the name of its list.
    Ban(String, Ban),
    /// A rule, and its place among the rules.
    Rule(u32, Box<Rule>),
    /// Somebody is in something.
    Member(Member),
    /// An issuer may speak for VOs.
    Trust(Trust),
    /// Whom to ask.
    Vo(Vo),
    /// When the support of a system ends, by the site's own table.
    EndOfLife(end_of_life::Row),
}

/// Somebody is in something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub who: Whose,
    /// In what.
    pub of: Of,
    /// Until when the list may be relied upon to let somebody in.
    pub until: Option<Timestamp>,
}

/// Who is a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Whose {
    /// This name, as a key.
    Name(String),
    /// Names that match.
    Glob(Glob),
    /// Whoever has such a group.
    Group(GroupPattern),
}

/// Of what somebody is a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Of {
    /// A group.
    Group(Group),
    /// A grid-mapfile or groupmapfile.
    Mapfile(PathBuf),
}

/// Where items are found.
pub trait Source {
    /// The items under a key, in no order.
    ///
    /// # Errors
    /// The tables cannot be read.
    fn at(&self, key: &str) -> Result<Vec<Arc<Item>>, Failure>;

    /// Whether anything may stand under this piece of text; `true` when in doubt.
    fn has_piece(&self, piece: &[u8]) -> bool;

    /// Whether there are pieces at all.
    fn has_pieces(&self) -> bool;

    /// Whether there is any `[[trust]]`.
    fn has_trusts(&self) -> bool;
}

/// The tables in memory.
#[derive(Debug, Default)]
pub struct Memory {
    items: HashMap<String, Vec<Arc<Item>>>,
    pieces: BTreeSet<Vec<u8>>,
    trusts: bool,
}

impl Memory {
    /// From the configuration, the ban lists and the membership files.
    pub fn new(
        tables: &Tables,
        bans: impl IntoIterator<Item = (String, Ban)>,
        members: impl IntoIterator<Item = Member>,
    ) -> Self {
        let mut memory = Self { trusts: !tables.trusts.is_empty(), ..Self::default() };
        for person in &tables.persons {
            let keys = person
                .names
                .iter()
                .map(|name| name.key.clone())
                .chain([format!("person:{}", person.id)])
                .collect();
            memory.put(keys, Item::Person(person.clone()));
        }
        for (number, rule) in (0..).zip(&tables.rules) {
            memory.put(keys_of_conditions(&rule.when), Item::Rule(number, Box::new(rule.clone())));
        }
        for (list, ban) in bans {
            memory.put(keys_of_whom(&ban.whom), Item::Ban(list, ban));
        }
        for member in members {
            let keys = match &member.who {
                Whose::Name(key) => vec![key.clone()],
                Whose::Glob(glob) => vec![key_of_text(&glob.literal())],
                Whose::Group(pattern) => vec![key_of_pattern(pattern)],
            };
            memory.put(keys, Item::Member(member));
        }
        for trust in &tables.trusts {
            memory.put(vec![format!("trust:{}", trust.issuer.key)], Item::Trust(trust.clone()));
        }
        for vo in &tables.vos {
            memory.put(vec![format!("contact:{}", vo.name.to_ascii_lowercase())], Item::Vo(vo.clone()));
        }
        memory
    }

    /// Adds the site's own table of systems.
    #[must_use]
    pub fn with_systems(mut self, rows: impl IntoIterator<Item = (String, end_of_life::Row)>) -> Self {
        for (id, row) in rows {
            self.put(vec![key_of_system(&id)], Item::EndOfLife(row));
        }
        self
    }

    fn put(&mut self, keys: Vec<String>, item: Item) {
        let item = Arc::new(item);
        for key in keys {
            if let Some(piece) = key.strip_prefix("piece:") {
                self.pieces.insert(piece.as_bytes().to_vec());
            }
            let items = self.items.entry(key).or_default();
            // A rule that names one VO twice stands there once.
            if !items.last().is_some_and(|last| Arc::ptr_eq(last, &item)) {
                items.push(Arc::clone(&item));
            }
        }
    }

    /// Every key with its items, for a copy on disk.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[Arc<Item>])> {
        self.items.iter().map(|(key, items)| (key.as_str(), items.as_slice()))
    }

    /// Every piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Vec::as_slice)
    }
}

impl Source for Memory {
    fn at(&self, key: &str) -> Result<Vec<Arc<Item>>, Failure> {
        Ok(self.items.get(key).cloned().unwrap_or_default())
    }

    fn has_piece(&self, piece: &[u8]) -> bool {
        self.pieces.contains(piece)
    }

    fn has_pieces(&self) -> bool {
        !self.pieces.is_empty()
    }

    fn has_trusts(&self) -> bool {
        self.trusts
    }
}

/// Under which the rows of a system stand, by the ID of its os-release.
fn key_of_system(id: &str) -> String {
    format!("system:{id}")
}

/// When the support of a system ends, by the site's own table.
///
/// # Errors
/// The tables cannot be read.
pub fn end_of_life(os: &Os, source: &dyn Source) -> Result<Option<Timestamp>, Failure> {
    let found = source.at(&key_of_system(&os.id))?;
    let rows = found.iter().filter_map(|item| match &**item {
        Item::EndOfLife(row) => Some(row),
        _ => None,
    });
    Ok(end_of_life::end_of(rows, os))
}

/// What of the tables may concern one launch.
#[derive(Debug, Clone, Default)]
pub struct Relevant {
    /// Who it is, as far as the tables know.
    pub known: Known,
    /// Bans, each with its list.
    pub bans: Vec<(String, Ban)>,
    /// Rules, in their order.
    pub rules: Vec<(u32, Rule)>,
    /// There are `[[trust]]` tables.
    pub trusts: bool,
    /// Those of this issuer.
    pub trusted: Vec<Trust>,
    /// Whom to ask.
    pub vo: Option<Vo>,
    /// The same for each of the other names, for bans.
    pub also: Vec<(Facts, Relevant)>,
}

/// Looks everything up.
///
/// # Errors
/// The tables cannot be read.
pub fn gather(facts: &Facts, source: &dyn Source, now: Timestamp) -> Result<Relevant, Failure> {
    let mut search = Search { source, seen: BTreeSet::new(), found: Vec::new() };
    let mut known = Known {
        issuer: facts.who.issuer.as_deref().map(issuer_key),
        names: facts.who.name().into_iter().collect(),
        groups: facts.who.groups(),
        ..Known::default()
    };
    known.keys = known.names.iter().flat_map(Name::keys).collect();
    search.keys(&known.keys)?;
    // Every other name of the person counts as well.
    let is_meant = |person: &&Person| person.names.iter().any(|name| known.keys.contains(&name.key));
    let persons: Vec<Person> =
        search.found.iter().filter_map(|item| person(item)).filter(is_meant).cloned().collect();
    for person in persons {
        for Named { text, key } in person.names {
            known.names.extend(Name::parse(&text).ok().filter(|name| !known.names.contains(name)));
            if !known.keys.contains(&key) {
                known.keys.push(key);
            }
            if !known.said.contains(&text) {
                known.said.push(text);
            }
        }
        known.person = Some(person.id);
    }
    search.keys(&known.keys)?;
    if source.has_pieces() {
        for text in texts(&known) {
            search.text(&text)?;
        }
    }
    let groups: Vec<String> = known.groups.iter().flat_map(keys_of_group).collect();
    search.keys(&groups)?;
    search.keys(&other_keys(facts, &known))?;

    // Files may know more groups, and rules may stand under those.
    let mut listed = Vec::new();
    for item in &search.found {
        let Item::Member(member) = &**item else { continue };
        let is_in = match &member.who {
            Whose::Name(key) => known.keys.contains(key),
            Whose::Glob(glob) => known.dns().any(|dn| glob.matches_dn(&dn)),
            Whose::Group(pattern) => known.groups.iter().any(|group| pattern.matches(group)),
        };
        if !is_in {
            continue;
        }
        match &member.of {
            Of::Group(group) => {
                listed.push((group.clone(), member.until.is_none_or(|until| now <= until)));
            }
            Of::Mapfile(path) => known.mapfiles.push(path.clone()),
        }
    }
    let groups: Vec<String> = listed.iter().flat_map(|(group, _)| keys_of_group(group)).collect();
    known.listed = listed;
    search.keys(&groups)?;
    let files: Vec<String> =
        known.mapfiles.iter().map(|path| format!("mapfile:{}", path.display())).collect();
    search.keys(&files)?;

    let mut relevant = Relevant { known, trusts: source.has_trusts(), ..Relevant::default() };
    for item in search.found {
        match &*item {
            Item::Ban(list, ban) => relevant.bans.push((list.clone(), ban.clone())),
            Item::Rule(number, rule) => relevant.rules.push((*number, (**rule).clone())),
            Item::Trust(trust) if Some(&trust.issuer.key) == relevant.known.issuer.as_ref() => {
                relevant.trusted.push(trust.clone());
            }
            Item::Vo(vo)
                if facts.who.vo.as_deref().is_some_and(|said| said.eq_ignore_ascii_case(&vo.name)) =>
            {
                relevant.vo = Some(vo.clone());
            }
            _ => {}
        }
    }
    relevant.rules.sort_by_key(|(number, _)| *number);
    relevant.rules.dedup_by_key(|(number, _)| *number);
    relevant.bans.sort_by_cached_key(|(list, ban)| (list.clone(), ban.line, ban.whom.key()));
    relevant.bans.dedup();
    for who in facts.who.others() {
        let facts = Facts { who, ..facts.clone() };
        let other = gather(&facts, source, now)?;
        relevant.also.push((facts, other));
    }
    Ok(relevant)
}

fn person(item: &Item) -> Option<&Person> {
    match item {
        Item::Person(person) => Some(person),
        _ => None,
    }
}

struct Search<'a> {
    source: &'a dyn Source,
    seen: BTreeSet<String>,
    found: Vec<Arc<Item>>,
}

impl Search<'_> {
    fn keys(&mut self, keys: &[String]) -> Result<(), Failure> {
        for key in keys {
            if self.seen.insert(key.clone()) {
                self.found.extend(self.source.at(key)?);
            }
        }
        Ok(())
    }

    /// Every piece of the text.
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        for piece in text.as_bytes().windows(PIECE) {
            if self.source.has_piece(piece)
                && let Ok(piece) = std::str::from_utf8(piece)
            {
                self.keys(&[format!("piece:{piece}")])?;
            }
        }
        Ok(())
    }
}

/// The texts that patterns are held against, in lower case.
fn texts(known: &Known) -> Vec<String> {
    let groups: Vec<String> = known.groups.iter().map(ToString::to_string).collect();
    let mut texts = Vec::new();
    for name in &known.names {
        if let Name::Token { issuer: Some(issuer), subject } = name {
            texts.extend(TokenPattern::texts(issuer, subject));
        }
    }
    for dn in known.dns() {
        texts.push(dn.folded());
        texts.push(format!("{dn},{}", groups.join(",")));
    }
    texts.iter().map(|text| text.to_lowercase()).collect()
}

/// Under what an issuer or CA is compared.
pub fn issuer_key(text: &str) -> String {
    let issuer = match Name::parse(text) {
        Ok(Name::Dn(dn)) => Issuer::Ca(dn),
        _ => Issuer::Token(text.to_owned()),
    };
    Whom::Issuer(issuer).key()
}

fn keys_of_group(group: &Group) -> Vec<String> {
    let path = group.path();
    let mut keys = vec![format!("group:{path}")];
    for (index, _) in path.match_indices('/').filter(|(index, _)| *index > 0) {
        keys.push(format!("group:{}", path.split_at(index).0));
    }
    keys
}

fn other_keys(facts: &Facts, known: &Known) -> Vec<String> {
    let mut keys = vec![ALWAYS.to_owned(), format!("uid:{}", facts.who.uid)];
    keys.extend(known.person.iter().map(|person| format!("person:{person}")));
    if let Some(issuer) = &known.issuer {
        keys.push(issuer.clone());
        keys.push(format!("trust:{issuer}"));
    }
    if let Some(vo) = &facts.who.vo {
        let vo = vo.to_ascii_lowercase();
        keys.push(format!("vo:{vo}"));
        keys.push(format!("contact:{vo}"));
    }
    keys.extend(facts.who.pilot.iter().map(|pilot| format!("pilot:{pilot}")));
    keys.extend(facts.image.digests.iter().map(|digest| format!("digest:{digest}")));
    if let Some(path) = &facts.image.path {
        keys.extend(path.ancestors().map(key_of_image));
    }
    keys
}

fn key_of_image(path: &Path) -> String {
    format!("image:{}", path.display())
}

/// The narrowest condition that says who or what; everybody to whom the rule applies has one of its keys.
fn keys_of_conditions(when: &Conditions) -> Vec<String> {
    if !when.user.is_empty() {
        return when.user.iter().map(|user| user.key.clone()).collect();
    }
    let with = |prefix: &str, values: &[String]| -> Vec<String> {
        values.iter().map(|value| format!("{prefix}{value}")).collect()
    };
    if !when.person.is_empty() {
        return with("person:", &when.person);
    }
    if !when.image_digest.is_empty() {
        return with("digest:", &when.image_digest);
    }
    if !when.mapfile.is_empty() {
        return when.mapfile.iter().map(|path| format!("mapfile:{}", path.display())).collect();
    }
    if !when.group.is_empty() {
        return when.group.iter().map(key_of_pattern).collect();
    }
    if !when.image.is_empty() {
        return when.image.iter().map(|path| key_of_image(path)).collect();
    }
    if !when.issuer.is_empty() {
        return when.issuer.iter().map(|issuer| issuer.key.clone()).collect();
    }
    if !when.vo.is_empty() {
        return when.vo.iter().map(|vo| format!("vo:{}", vo.to_ascii_lowercase())).collect();
    }
    if !when.pilot_uid.is_empty() {
        return when.pilot_uid.iter().map(|uid| format!("uid:{uid}")).collect();
    }
    vec![ALWAYS.to_owned()]
}

fn keys_of_whom(whom: &Whom) -> Vec<String> {
    let key = match whom {
        Whom::Name(name) => name.key(),
        Whom::DnPattern(glob) => key_of_text(&glob.literal()),
        Whom::TokenPattern(pattern) => match pattern.literal() {
            Literal::Exact(key) => key,
            Literal::Contains(text) => key_of_text(&text),
            Literal::None => ALWAYS.to_owned(),
        },
        Whom::CertificatePattern(pattern) => key_of_text(pattern.literal()),
        Whom::Person(id) => format!("person:{id}"),
        Whom::Vo(vo) => format!("vo:{}", vo.to_lowercase()),
        Whom::Group(pattern) | Whom::PrimaryGroup(pattern) => key_of_pattern(pattern),
        Whom::Issuer(_) => whom.key(),
        Whom::Pilot(pilot) => format!("pilot:{pilot}"),
        Whom::PilotUid(uid) => format!("uid:{uid}"),
        Whom::Image(digest) => format!("digest:{digest}"),
        // Whoever fits all of them has the key of each; the first that is no pattern tells most.
        Whom::All(all) => {
            let mut keys = all.iter().flat_map(keys_of_whom);
            keys.find(|key| key != ALWAYS).unwrap_or_else(|| ALWAYS.to_owned())
        }
    };
    vec![key]
}

/// A piece of a text that whoever matches has in one of [`texts`]: its last one, because what stands at the end of a name tells
/// people apart, and what stands before it they share.
fn key_of_text(text: &str) -> String {
    let text = text.to_lowercase();
    let piece = (0..text.len()).rev().find_map(|start| text.get(start..start + PIECE));
    piece.map_or_else(|| ALWAYS.to_owned(), |piece| format!("piece:{piece}"))
}

/// The group above a pattern's first wildcard; whoever matches has it, or is below it.
fn key_of_pattern(pattern: &GroupPattern) -> String {
    if let Some(path) = pattern.exact_path() {
        return format!("group:{path}");
    }
    let key = pattern.key();
    let fixed = key.split_at(key.find(['*', '?', '[', '\\']).unwrap_or(0)).0;
    match fixed.rsplit_once('/') {
        Some((above, _)) if above.len() > 1 && !has_wildcards(above) => format!("group:{above}"),
        _ => ALWAYS.to_owned(),
    }
}
