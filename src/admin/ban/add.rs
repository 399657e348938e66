//! `bailey ban add`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::edit::Locked;
use super::lists::Site;
use super::{Add, tell};
use crate::audit::Timestamp;
use crate::failure::{Failure, Printable};
use crate::policy::bans::{self, Ban, Format, Measure, Whom};
use crate::policy::settings::BanSettings;
use crate::policy::store::stamp::digest;
use crate::request::parse_duration;

/// Adds one ban, and says what follows from it.
pub(super) fn run(add: &Add) -> Result<String, Failure> {
    let site = Site::read()?;
    let settings = &site.config.policy.bans;
    let text = text_of(add, site.now);
    let ban = read(&text)?;
    let locked = Locked::take(&settings.dir, true)?;
    let own = locked.open(&add.list)?;
    let key = ban.whom.key();
    let mut out = String::new();
    for known in own.list.bans.iter().filter(|known| known.whom.key() == key) {
        if says_the_same(known, &ban) {
            return Ok(format!(
                "{} is banned so already ({}:{}); nothing is changed.\n",
                Printable(&known.whom.to_string()),
                own.name,
                known.line
            ));
        }
        let until = known.until.map_or_else(|| "no end".to_owned(), |until| format!("until {until}"));
        let _ = writeln!(out, "{}:{} bans the same, {until}; each holds for itself.", own.name, known.line);
    }
    let (after, new) = own.with(&text, std::slice::from_ref(&ban))?;
    let told = tell::tell(&site.config, &own.name, digest(after.as_bytes()), Some(&text));
    own.replace(&after)?;
    let line = new.first().map_or(0, |ban| ban.line);
    let mut until = ban.until.map_or_else(String::new, |until| format!(", until {until}"));
    if let Some(from) = ban.from.filter(|from| *from > site.now) {
        until = format!(", from {from}{until}");
    }
    let whom = ban.whom.to_string();
    let mut said = format!("Banned: {}{until} ({}:{line}).\n", Printable(&whom), own.name);
    if ban.until.is_some_and(|until| until <= site.now) {
        said.push_str("That time is over: it holds for nobody.\n");
    }
    said.push_str(&out);
    said.push_str(&persons(&site, &ban.whom));
    said.push_str(&told.words(settings.poll));
    if ban.holds_at(site.now) {
        said.push_str(&told.live(&measure(&ban, settings)));
    }
    drop(locked);
    said.push_str(&Site::read()?.troubles());
    Ok(said)
}

/// Whom it means beside the one that it names.
fn persons(site: &Site, whom: &Whom) -> String {
    if let Whom::Person(id) = whom
        && !site.knows(id)
    {
        return format!(
            "There is no [[person]] '{}' in the configuration: it holds for nobody until there is one.\n",
            Printable(id)
        );
    }
    let Some((person, others)) = site.person(whom) else { return String::new() };
    let names = match others.len() {
        0 => return format!("It is a name of person {}, and the only one.\n", Printable(person)),
        1 => "1 other name".to_owned(),
        count => format!("{count} other names"),
    };
    let mut text = format!("It also holds for {names} of person {}:\n", Printable(person));
    for other in others {
        let _ = writeln!(text, "  {}", Printable(other));
    }
    text
}

fn measure(ban: &Ban, settings: &BanSettings) -> String {
    match ban.measure.unwrap_or(settings.measure) {
        Measure::Freeze => "frozen now".to_owned(),
        Measure::Kill => match ban.grace.unwrap_or(settings.grace).as_secs() {
            0 => "killed now".to_owned(),
            grace => format!("ended now, killed in {grace} s"),
        },
    }
}

fn says_the_same(one: &Ban, other: &Ban) -> bool {
    let parts = |ban: &Ban| (ban.from, ban.until, ban.measure, ban.grace);
    one.reason == other.reason && one.ticket == other.ticket && parts(one) == parts(other)
}

/// The entry as it will stand in the list: every value as it was said, but for spans.
fn text_of(add: &Add, now: Timestamp) -> String {
    let until = add.until.as_ref().map(|until| match parse_duration(until) {
        Ok(span) => now.plus_seconds(i64::try_from(span.as_secs()).unwrap_or(i64::MAX)).to_string(),
        Err(_) => until.clone(),
    });
    let mut text = "[[ban]]\n".to_owned();
    let uid = add.pilot_uid.map(|uid| uid.to_string());
    let values = [
        ("user", &add.user),
        ("issuer", &add.issuer),
        ("subject", &add.subject),
        ("person", &add.person),
        ("vo", &add.vo),
        ("group", &add.group),
        ("pilot", &add.pilot),
        ("image", &add.image),
        ("reason", &Some(add.reason.clone())),
        ("ticket", &add.ticket),
        ("from", &add.from),
        ("until", &until),
        ("action", &add.action),
        ("grace", &add.grace),
    ];
    if let Some(uid) = uid {
        let _ = writeln!(text, "pilot_uid = {uid}");
    }
    for (key, value) in values {
        if let Some(value) = value {
            // A string of JSON is one of TOML.
            let _ = writeln!(text, "{key} = {}", serde_json::Value::from(value.as_str()));
        }
    }
    text
}

fn read(text: &str) -> Result<Ban, Failure> {
    match bans::parse(text.as_bytes(), Format::Ours) {
        Ok(list) => list.bans.into_iter().next().ok_or_else(|| {
            Failure::usage("cannot add the ban", "it names nobody", "see bailey ban add --help")
        }),
        Err(faults) => {
            let fault = faults.into_iter().next();
            let (why, next) = fault.map(|fault| (fault.why, fault.next)).unwrap_or_default();
            Err(Failure::usage("cannot add the ban", why, next))
        }
    }
}
