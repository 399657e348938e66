//! What decides who may run: names, groups, patterns, ban lists, the configuration.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use super::is_one_line;
use crate::audit::Timestamp;
use crate::config::{self, Config};
use crate::policy::bans::{CertificatePattern, Format, Literal, MOST_FAULTS, TokenPattern, parse, render};
use crate::policy::glob::Glob;
use crate::policy::group::{Group, GroupPattern};
use crate::policy::mapfile;
use crate::policy::name::{Dn, Name};

/// A configuration of several files, separated by NUL: what is shown of it reads back as the same.
pub(super) fn config(bytes: &[u8]) -> bool {
    let values = |config: Config| Config { hash: String::new(), files: Vec::new(), ..config };
    let sources: Vec<(PathBuf, Vec<u8>)> = bytes
        .split(|byte| *byte == 0)
        .zip(0..)
        .map(|(text, number)| (PathBuf::from(format!("/x/{number}.toml")), text.to_vec()))
        .collect();
    match config::merge(&sources) {
        Ok(config) => {
            let text = config::show(&config);
            let again = config::merge(&[("/x/shown.toml".into(), text.clone().into_bytes())])
                .unwrap_or_else(|failure| panic!("{failure}\n{text}"));
            assert_eq!(values(again), values(config), "{text}");
            true
        }
        Err(failure) => {
            is_one_line(&failure.to_string());
            false
        }
    }
}

/// A ban list of any format; the first byte says which. What is read can be written, and reads back as the same bans.
pub(super) fn bans(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    let format = match first {
        b'o' => Format::Ours,
        b'l' => Format::Lcas,
        b'd' => Format::DnLines,
        b'c' => Format::CondorMap,
        b'a' => Format::Argus,
        _ => {
            return mapfile::parse(bytes).is_ok();
        }
    };
    match parse(bytes, format) {
        Ok(mut list) => {
            let _ = list.remarks_at(Timestamp::default());
            for ban in &mut list.bans {
                ban.reason.get_or_insert_with(|| "r".to_owned());
                ban.grace = ban.grace.map(|grace| Duration::from_secs(grace.as_secs()));
            }
            let text = render(&list.bans);
            let again =
                parse(text.as_bytes(), Format::Ours).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]));
            assert_eq!(again.bans, list.bans);
            true
        }
        Err(faults) => {
            assert!((1..=MOST_FAULTS).contains(&faults.len()));
            for fault in faults {
                is_one_line(&fault.to_string());
            }
            false
        }
    }
}

/// Names and groups of people: what is read reads as itself again, and nothing takes long.
pub(super) fn name(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let name = Name::parse(text);
    if let Ok(name) = &name {
        let key = name.key();
        assert_eq!(Name::parse(&name.to_string()).map(|name| name.key()), Ok(key.clone()));
        assert_eq!(name.keys().first(), Some(&key));
    }
    if let Ok(dn) = Dn::parse(text) {
        assert_eq!(Dn::parse(&dn.to_string()).as_ref(), Ok(&dn));
        let _ = dn.without_proxy();
        if let Ok(glob) = Glob::of_dn(text) {
            glob.matches_dn(&dn);
        }
    }
    if let Ok(group) = Group::parse(text) {
        let pattern = GroupPattern::parse(text).expect("a group is a pattern");
        assert!(pattern.matches(&group) || group.key().contains(['*', '[']));
        assert_eq!(Group::parse(&group.to_string()).map(|group| group.key()), Ok(group.key()));
    }
    name.is_ok() || GroupPattern::parse(text).is_ok()
}

/// HTCondor's expressions: what is accepted can be matched, and what the index is told of them is true.
pub(super) fn pattern(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (source, subject) = text.split_once('\n').unwrap_or((text, "zoe"));
    let subject: String = subject.chars().filter(|c| (' '..='~').contains(c)).take(255).collect();
    let issuer = "https://iam.example.org/";
    let pattern = TokenPattern::new(source, false);
    if let Ok(pattern) = &pattern {
        assert_eq!(TokenPattern::parse(&pattern.to_string()).as_ref(), Ok(pattern));
        if pattern.matches(issuer, &subject) {
            match pattern.literal() {
                Literal::Exact(key) => {
                    assert_eq!(Name::token(Some(issuer), &subject).map(|name| name.key()), Ok(key));
                }
                Literal::Contains(run) => assert!(
                    TokenPattern::texts(issuer, &subject)
                        .iter()
                        .any(|text| text.to_ascii_lowercase().contains(&run))
                ),
                Literal::None => {}
            }
        }
    }
    CertificatePattern::new(source, true).is_ok() || pattern.is_ok()
}
