//! Bans as text in our own format: what `ours.rs` reads as the same bans.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::super::name::Name;
use super::{Ban, Issuer, Whom};

/// The text of a list. A ban without a reason, as lists of other formats have them, gets one that says so.
pub fn render(bans: &[Ban]) -> String {
    let mut out = String::from("# Who may not run, read by bailey: docs/bans.md\n");
    for ban in bans {
        out.push_str("\n[[ban]]\n");
        for (key, value) in pairs(&ban.whom) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{key} = {value}");
        }
        let reason = ban.reason.as_deref().unwrap_or("no reason was given");
        let _ = writeln!(out, "reason = {}", quote(reason));
        if let Some(ticket) = &ban.ticket {
            let _ = writeln!(out, "ticket = {}", quote(ticket));
        }
        if let Some(from) = ban.from {
            let _ = writeln!(out, "from = \"{from}\"");
        }
        if let Some(until) = ban.until {
            let _ = writeln!(out, "until = \"{until}\"");
        }
        if let Some(measure) = ban.measure {
            let _ = writeln!(out, "action = \"{}\"", measure.as_str());
        }
        if let Some(grace) = ban.grace {
            let _ = writeln!(out, "grace = \"{}s\"", grace.as_secs());
        }
    }
    out
}

/// The keys that name it, with their values as TOML.
fn pairs(whom: &Whom) -> Vec<(&'static str, String)> {
    let one = |key, value: &str| vec![(key, quote(value))];
    match whom {
        Whom::Name(name) => {
            let text = name.to_string();
            // Where the text alone would be read as another kind of name, the key says which it is.
            if Name::parse(&text).is_ok_and(|read| read == *name) {
                return one("user", &text);
            }
            match name {
                Name::Dn(_) => one("user", &text),
                Name::Token { issuer: Some(issuer), subject } => {
                    vec![("issuer", quote(issuer)), ("subject", quote(subject))]
                }
                Name::Token { issuer: None, subject } => one("subject", subject),
                Name::Community(id) => one("community", id),
            }
        }
        Whom::DnPattern(glob) => one("user_pattern", &glob.to_string()),
        Whom::TokenPattern(pattern) => one("token_pattern", &pattern.to_string()),
        Whom::CertificatePattern(pattern) => one("certificate_pattern", &pattern.to_string()),
        Whom::Person(id) => one("person", id),
        Whom::Vo(vo) => one("vo", vo),
        Whom::Group(group) => one("group", &group.to_string()),
        Whom::PrimaryGroup(group) => one("primary_group", &group.to_string()),
        Whom::Issuer(Issuer::Token(issuer)) => one("all_of_issuer", issuer),
        Whom::Issuer(Issuer::Ca(dn)) => one("all_of_issuer", &dn.to_string()),
        Whom::Pilot(id) => one("pilot", id),
        Whom::PilotUid(uid) => vec![("pilot_uid", uid.to_string())],
        Whom::Image(digest) => one("image", digest),
        Whom::All(all) => {
            let each: Vec<String> = all
                .iter()
                .map(|whom| {
                    let pairs: Vec<String> =
                        pairs(whom).into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
                    format!("{{ {} }}", pairs.join(", "))
                })
                .collect();
            // A line each: lines have a limit.
            vec![("all", format!("[\n    {},\n]", each.join(",\n    ")))]
        }
    }
}

/// A string of TOML: as it is where that can be, since patterns are full of backslashes.
fn quote(text: &str) -> String {
    if text.contains('\\') && !text.contains(|c: char| c == '\'' || c.is_control()) {
        return format!("'{text}'");
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
