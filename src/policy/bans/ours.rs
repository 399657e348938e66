//! Our own format: TOML, one `[[ban]]` for each ban.
//!
//! 1. A ban names exactly one thing. Who means several that must all fit says `all = [ … ]`; who means several people writes a ban
//!    for each, so that one can be lifted alone.
//! 2. A reason is required: whoever lifts a ban asks for it.
//! 3. A date without a time is the whole day in UTC: `from` its beginning, `until` its end.
#![forbid(unsafe_code)]

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::super::glob::Glob;
use super::super::group::GroupPattern;
use super::super::lines::{Faults, MOST_ENTRIES, Place, Wrong, number, place_of, shorten, too_many};
use super::super::name::{Dn, Name, issuer};
use super::lcas::everybody;
use super::pattern::{CertificatePattern, TokenPattern};
use super::{Ban, Fault, Issuer, List, MOST_OF_ALL, Measure, WHAT, Whom};
use crate::audit::Timestamp;
use crate::audit::time::parse_date;
use crate::config::diagnose;
use crate::request::parse_duration;

/// The longest reason or ticket.
const LONGEST: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ban: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum When {
    Native(Datetime),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    user: Option<Spanned<String>>,
    issuer: Option<Spanned<String>>,
    subject: Option<Spanned<String>>,
    community: Option<Spanned<String>>,
    user_pattern: Option<Spanned<String>>,
    token_pattern: Option<Spanned<String>>,
    certificate_pattern: Option<Spanned<String>>,
    person: Option<Spanned<String>>,
    vo: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    primary_group: Option<Spanned<String>>,
    all_of_issuer: Option<Spanned<String>>,
    pilot: Option<Spanned<String>>,
    pilot_uid: Option<Spanned<i64>>,
    image: Option<Spanned<String>>,
    all: Option<Spanned<Vec<Spanned<Entry>>>>,
    reason: Option<Spanned<String>>,
    ticket: Option<Spanned<String>>,
    from: Option<Spanned<When>>,
    until: Option<Spanned<When>>,
    action: Option<Spanned<String>>,
    grace: Option<Spanned<String>>,
}

/// Where each line begins: a place for each of many offsets.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl Lines<'_> {
    fn line(&self, offset: usize) -> u32 {
        number(self.starts.partition_point(|start| *start <= offset))
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.line(offset);
        let start = self.starts.get(line as usize - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place { line, column: number(column) }
    }
}

pub(super) fn parse(text: &str) -> Result<List, Vec<Fault>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let (why, meant) = diagnose::reason(&error);
        let next = match meant {
            Some(word) => format!("did you mean '{word}'?"),
            None => "correct it; docs/bans.md has every key".to_owned(),
        };
        let place = error.span().map_or(Place::line(0), |span| place_of(text, span.start));
        vec![place.fault(WHAT, Wrong::new(why, next))]
    })?;
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
    let lines = Lines { text, starts };
    let mut list = List::default();
    let mut faults = Faults::default();
    for entry in file.ban {
        let start = entry.span().start;
        if list.bans.len() >= MOST_ENTRIES {
            faults.push(too_many(lines.line(start), WHAT));
            break;
        }
        match ban(entry.into_inner(), start, lines.line(start)) {
            Ok(ban) => list.bans.push(ban),
            Err((offset, wrong)) => {
                if faults.push(lines.place(offset).fault(WHAT, wrong)) {
                    break;
                }
            }
        }
    }
    faults.or(list)
}

/// Where in the text, and what.
type Bad = (usize, Wrong);

fn ban(mut entry: Entry, start: usize, line: u32) -> Result<Ban, Bad> {
    let reason = entry.reason.take().map(plain).transpose()?;
    let ticket = entry.ticket.take().map(plain).transpose()?;
    let from = entry.from.take();
    let until = entry.until.take();
    let until_at = until.as_ref().map_or(start, |until| until.span().start);
    let from = from.map(|when| read(when, |when| moment(when, false))).transpose()?;
    let until = until.map(|when| read(when, |when| moment(when, true))).transpose()?;
    let measure = entry.action.take().map(|text| read(text, |text| measure(&text))).transpose()?;
    let grace = entry.grace.take().map(|text| read(text, |text| span(&text))).transpose()?;
    let whom = whom(entry, start, true)?;
    if reason.is_none() {
        return Err((
            start,
            Wrong::new("the ban has no reason", "write reason = \"…\": whoever lifts the ban asks for it"),
        ));
    }
    if let (Some(from), Some(until)) = (from, until)
        && until <= from
    {
        let why = format!("the ban ends on {until}, before it begins on {from}");
        return Err((until_at, Wrong::new(why, "correct from or until")));
    }
    Ok(Ban { whom, reason, ticket, from, until, measure, grace, line })
}

/// The one thing that is named, nested in no second `all`.
fn whom(entry: Entry, start: usize, outer: bool) -> Result<Whom, Bad> {
    let Entry {
        user,
        issuer: iss,
        subject,
        community,
        user_pattern,
        token_pattern,
        certificate_pattern,
        person,
        vo: vo_named,
        group: group_named,
        primary_group,
        all_of_issuer,
        pilot,
        pilot_uid,
        image: digest,
        all,
        reason,
        ticket,
        from,
        until,
        action,
        grace,
    } = entry;
    let mut found: Vec<(&'static str, Result<Whom, Bad>)> = Vec::new();
    let mut add = |key, value: Option<Spanned<String>>, make: fn(&str) -> Result<Whom, Wrong>| {
        if let Some(value) = value {
            found.push((key, read(value, |text| make(&text))));
        }
    };
    add("user", user, |text| Name::parse(text).map(Whom::Name));
    add("community", community, |text| Name::community(text).map(Whom::Name));
    add("user_pattern", user_pattern, |text| match Glob::of_dn(text) {
        Ok(glob) if glob.is_everything() => Err(everybody(text)),
        other => other.map(Whom::DnPattern),
    });
    add("token_pattern", token_pattern, |text| TokenPattern::parse(text).map(Whom::TokenPattern));
    add("certificate_pattern", certificate_pattern, |text| {
        CertificatePattern::parse(text).map(Whom::CertificatePattern)
    });
    add("person", person, |text| word(text, "the id of a person").map(Whom::Person));
    add("vo", vo_named, |text| vo(text).map(Whom::Vo));
    add("group", group_named, |text| group(text).map(Whom::Group));
    add("primary_group", primary_group, |text| group(text).map(Whom::PrimaryGroup));
    add("all_of_issuer", all_of_issuer, |text| {
        let ca = text.starts_with('/') || !text.contains("://");
        let issuer = if ca { Dn::parse(text).map(Issuer::Ca) } else { issuer(text).map(Issuer::Token) };
        issuer.map(Whom::Issuer)
    });
    add("pilot", pilot, |text| word(text, "the id of a pilot").map(Whom::Pilot));
    add("image", digest, |text| image(text).map(Whom::Image));
    match (iss, subject) {
        (Some(iss), None) => {
            let next =
                "write subject = \"…\" with it; to ban everybody whom the issuer names, write all_of_issuer";
            return Err((iss.span().start, Wrong::new("the issuer has no subject", next)));
        }
        (iss, Some(subject)) => {
            let iss = iss.map(|text| read(text, |text| issuer(&text))).transpose()?;
            let name = read(subject, |subject| Name::token(iss.as_deref(), &subject));
            found.push(("subject", name.map(Whom::Name)));
        }
        (None, None) => {}
    }
    if let Some(uid) = pilot_uid {
        let wrong = |uid: i64| Wrong::new(format!("{uid} is no uid"), "write a number from 0 to 4294967294");
        let read =
            read(uid, |uid| u32::try_from(uid).ok().filter(|uid| *uid != u32::MAX).ok_or_else(|| wrong(uid)));
        found.push(("pilot_uid", read.map(Whom::PilotUid)));
    }
    if let Some(all) = all {
        found.push((
            "all",
            if outer {
                all_of(all)
            } else {
                Err((start, Wrong::new("an all stands within an all", "write one list")))
            },
        ));
    }
    if !outer {
        let others = [
            reason.is_some(),
            ticket.is_some(),
            from.is_some(),
            until.is_some(),
            action.is_some(),
            grace.is_some(),
        ];
        if others.contains(&true) {
            let next = "write reason, ticket, from, until, action and grace beside all, not in it";
            return Err((start, Wrong::new("what stands in all only says whom it means", next)));
        }
    }
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let several = names.join(" and ");
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some((_, whom)), None) => whom,
        (None, _) => Err((
            start,
            Wrong::new(
                "the ban names nobody",
                "write user, issuer with subject, community, person, vo, group, pilot, pilot_uid or image",
            ),
        )),
        (Some(_), Some(_)) => Err((
            start,
            Wrong::new(
                format!("the ban names {several}"),
                "write a [[ban]] for each; if all of them must fit, write all = [{ … }, { … }]",
            ),
        )),
    }
}

fn all_of(all: Spanned<Vec<Spanned<Entry>>>) -> Result<Whom, Bad> {
    let at = all.span().start;
    let all = all.into_inner();
    if !(2..=MOST_OF_ALL).contains(&all.len()) {
        let why = format!("all has {} entries, and needs from 2 to {MOST_OF_ALL}", all.len());
        return Err((at, Wrong::new(why, "write one thing without all")));
    }
    let each = all.into_iter().map(|entry| {
        let start = entry.span().start;
        whom(entry.into_inner(), start, false)
    });
    each.collect::<Result<_, _>>().map(Whom::All)
}

fn read<T, U>(value: Spanned<T>, make: impl FnOnce(T) -> Result<U, Wrong>) -> Result<U, Bad> {
    let start = value.span().start;
    make(value.into_inner()).map_err(|wrong| (start, wrong))
}

fn plain(text: Spanned<String>) -> Result<String, Bad> {
    read(text, |text| {
        if text.trim().is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(Wrong::new(
                format!("'{}' is empty, longer than {LONGEST} bytes, or more than one line", shorten(&text)),
                "write one line",
            ));
        }
        Ok(text)
    })
}

fn word(text: &str, what: &str) -> Result<String, Wrong> {
    let text = text.trim();
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return Err(Wrong::new(format!("'{}' is not {what}", shorten(text)), "write it as it is declared"));
    }
    Ok(text.to_owned())
}

/// A VO's name.
pub(super) fn vo(text: &str) -> Result<String, Wrong> {
    let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 255
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("'{}' is no VO's name", shorten(text)),
        "write letters, digits, '.', '_' and '-', such as atlas or vo.example.org",
    ))
}

/// Groups, but not all of them.
pub(super) fn group(text: &str) -> Result<GroupPattern, Wrong> {
    match GroupPattern::parse(text) {
        Ok(group) if group.is_everything() => Err(everybody(text)),
        other => other,
    }
}

fn image(text: &str) -> Result<String, Wrong> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Wrong::new(
        format!("'{}' is no digest of an image", shorten(text)),
        "write sha256: and 64 hexadecimal digits, as the record has it",
    ))
}

fn measure(text: &str) -> Result<Measure, Wrong> {
    match text {
        "kill" => Ok(Measure::Kill),
        "freeze" => Ok(Measure::Freeze),
        _ => Err(Wrong::new(format!("'{}' is no action", shorten(text)), "write \"kill\" or \"freeze\"")),
    }
}

fn span(text: &str) -> Result<std::time::Duration, Wrong> {
    parse_duration(text).map_err(|why| Wrong::new(why, "write a time span such as \"30s\""))
}

/// RFC 3339 with a zone, or a day.
fn moment(when: When, end_of_day: bool) -> Result<Timestamp, Wrong> {
    let text = match when {
        When::Native(native) => native.to_string(),
        When::Text(text) => text.trim().to_owned(),
    };
    if let Some(time) = Timestamp::parse_rfc3339(&text) {
        return Ok(time);
    }
    let day = parse_date(&text).and_then(|date| Timestamp::from_civil(date, (0, 0, 0), 0));
    if let Some(day) = day {
        return Ok(if end_of_day { day.plus_seconds(86_400) } else { day });
    }
    let why = match text.get(..10).and_then(parse_date) {
        Some(_) if text.len() > 10 => "names no zone, or no such time",
        _ => "is no time",
    };
    Err(Wrong::new(
        format!("'{}' {why}", shorten(&text)),
        "write 2026-03-01T12:00:00Z, 2026-03-01T13:00:00+01:00, or a whole day in UTC: 2026-03-01",
    ))
}
