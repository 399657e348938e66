//! `bailey ban remove`.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::edit::Locked;
use super::lists::{OneList, Site};
use super::{LIST, Remove, tell};
use crate::failure::{Failure, Printable};
use crate::policy::bans::{Ban, Format, Whom};
use crate::policy::group::GroupPattern;
use crate::policy::name::Name;
use crate::policy::store::stamp::digest;

/// Lifts bans in our own lists, and says where else the same is banned.
pub(super) fn run(remove: &Remove) -> Result<(String, u8), Failure> {
    let first = Site::read()?;
    let locked = Locked::take(&first.config.policy.bans.dir, false)?;
    let site = Site::read()?; // as it is now that nobody changes it
    let settings = &site.config.policy.bans;
    if let Some(name) = &remove.list {
        locked.open(name)?; // says what is wrong with it, if anything is
    }
    let found = match &remove.name {
        Some(name) => by_name(&site, name, remove.list.as_deref())?,
        None => by_line(&site, &remove.id, remove.list.as_deref())?,
    };
    let ours = |file: &OneList| file.format == Some(Format::Ours);
    let mut out = String::new();
    let keys: BTreeSet<String> = found.iter().map(|(_, ban)| ban.whom.key()).collect();
    let mine: Vec<_> = found.iter().filter(|(file, _)| ours(file)).collect();
    let names: BTreeSet<&str> = mine.iter().map(|(file, _)| file.state.name.as_str()).collect();
    let mut told = None;
    for name in names {
        let own = locked.open(name)?;
        let gone: Vec<&Ban> =
            mine.iter().filter(|(file, _)| file.state.name == name).map(|(_, ban)| *ban).collect();
        let text = own.without(&gone)?;
        told = Some(tell::tell(&site.config, name, digest(text.as_bytes()), None));
        own.replace(&text)?;
        for (_, ban) in mine.iter().filter(|(file, _)| file.state.name == name) {
            let reason = ban.reason.as_deref().unwrap_or("no reason was given");
            let whom = ban.whom.to_string();
            let _ = writeln!(
                out,
                "Removed from {name}: {}, which was banned for: {}.",
                Printable(&whom),
                Printable(reason)
            );
        }
    }
    if !mine.is_empty() {
        let _ = writeln!(
            out,
            "It takes effect when the list has been quiet for {} s (bans.settle).",
            settings.settle.as_secs()
        );
    }
    out.push_str(&told.map_or_else(String::new, |told| told.words(settings.poll)));
    let mut still = 0;
    for (file, ban) in site.bans().filter(|(_, ban)| keys.contains(&ban.whom.key())) {
        let is_gone = mine.iter().any(|(other, gone)| other.path == file.path && gone.line == ban.line);
        if is_gone || !ban.holds_at(site.now) {
            continue;
        }
        still += 1;
        let whom = ban.whom.to_string();
        let whose = if ours(file) {
            format!("remove it with --id {}:{}", file.state.name, ban.line)
        } else {
            format!(
                "bailey does not edit that list: ask whoever distributes it (it belongs to uid {})",
                file.state.owner
            )
        };
        let _ = writeln!(
            out,
            "Still banned: {} in {} line {}; {whose}.",
            Printable(&whom),
            file.path.display(),
            ban.line
        );
    }
    out.push_str(&others(&site, &found));
    drop(locked);
    let code = u8::from(mine.is_empty() && still > 0);
    Ok((out, code))
}

/// Bans that hold for the same people by another name.
fn others(site: &Site, found: &[(&OneList, &Ban)]) -> String {
    let mut out = String::new();
    for (_, ban) in found {
        let Some((person, names)) = site.person(&ban.whom) else { continue };
        let mut keys: Vec<String> =
            names.iter().filter_map(|name| Name::parse(name).ok()).map(|name| name.key()).collect();
        keys.push(format!("person:{person}"));
        for (file, other) in
            site.bans().filter(|(_, other)| other.holds_at(site.now) && keys.contains(&other.whom.key()))
        {
            let whom = other.whom.to_string();
            let _ = writeln!(
                out,
                "Still banned: {} ({}:{}), the same person {}.",
                Printable(&whom),
                file.state.name,
                other.line,
                Printable(person)
            );
        }
    }
    out
}

/// Every entry that names this, in all lists.
fn by_name<'a>(
    site: &'a Site,
    name: &str,
    only: Option<&str>,
) -> Result<Vec<(&'a OneList, &'a Ban)>, Failure> {
    let keys = keys(name);
    let is_meant = |ban: &Ban| keys.contains(&ban.whom.key()) || ban.whom.to_string() == name;
    let is_asked = |file: &OneList| only.is_none_or(|only| only == file.state.name);
    let found: Vec<_> = site.bans().filter(|(file, ban)| is_asked(file) && is_meant(ban)).collect();
    let kinds: BTreeSet<String> = found.iter().map(|(_, ban)| ban.whom.key()).collect();
    if kinds.len() > 1 {
        let places: Vec<String> = found
            .iter()
            .map(|(file, ban)| format!("{} in {}:{}", ban.whom, file.state.name, ban.line))
            .collect();
        return Err(Failure::refused(
            format!("cannot tell which ban '{name}' means"),
            places.join(", "),
            "name the line (--id LIST:LINE)",
        ));
    }
    if found.is_empty() {
        return Err(Failure::refused(
            format!("cannot remove a ban on '{name}'"),
            match only {
                Some(list) => format!("{list} has none on it"),
                None if site.lists.troubles().next().is_some() => {
                    "no list that can be read has one on it, and not all can be".to_owned()
                }
                None => "no list has one on it".to_owned(),
            },
            "see bailey ban list --all",
        ));
    }
    Ok(found)
}

/// Every key that the text may have, whatever it names.
fn keys(text: &str) -> Vec<String> {
    let mut keys: Vec<String> = Name::parse(text).ok().map(|name| name.key()).into_iter().collect();
    let mut whoms = vec![
        Whom::Person(text.to_owned()),
        Whom::Vo(text.to_owned()),
        Whom::Pilot(text.to_owned()),
        Whom::Image(text.to_ascii_lowercase()),
    ];
    whoms.extend(text.parse().ok().map(Whom::PilotUid));
    if let Ok(group) = GroupPattern::parse(text) {
        whoms.push(Whom::Group(group.clone()));
        whoms.push(Whom::PrimaryGroup(group));
    }
    keys.extend(whoms.iter().map(Whom::key));
    keys
}

fn by_line<'a>(
    site: &'a Site,
    ids: &[String],
    only: Option<&str>,
) -> Result<Vec<(&'a OneList, &'a Ban)>, Failure> {
    ids.iter()
        .map(|id| {
            let (list, line) = id.rsplit_once(':').unwrap_or((only.unwrap_or(LIST), id));
            let line: u32 = line.parse().map_err(|_| {
                Failure::usage(
                    format!("cannot find the ban '{id}'"),
                    "it ends in no line number",
                    "write --id LINE or --id LIST:LINE, as bailey ban list shows it",
                )
            })?;
            site.bans().find(|(file, ban)| file.state.name == list && ban.line == line).ok_or_else(|| {
                Failure::refused(
                    format!("cannot remove the ban {list}:{line}"),
                    "no ban begins in that line",
                    "see bailey ban list --all; lines move when a list is edited",
                )
            })
        })
        .collect()
}
