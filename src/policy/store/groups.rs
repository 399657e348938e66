//! The files of `groups.d/`: who is in which group, and for how long that may be relied upon.
//!
//! 1. Pure: bytes go in, members come out; whose the file is and when it was changed is looked at elsewhere.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Deserialize;

use crate::audit::time::Timestamp;
use crate::policy::group::Group;
use crate::policy::index::{Member, Of, Whose};
use crate::policy::name::Name;

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupFile {
    /// How long after its last change it may be relied upon.
    pub ttl: String,
    #[serde(default)]
    group: Vec<GroupTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    name: String,
    #[serde(default)]
    members: Vec<String>,
}

impl GroupFile {
    /// Reads the text; the error is the reason, with its line.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count());
            format!("line {}: {}", line + 1, error.message().replace('\n', ", "))
        })
    }

    /// `ttl` as a span of time.
    pub(super) fn span(&self) -> Result<Duration, String> {
        crate::request::parse_duration(&self.ttl).map_err(|why| format!("ttl: {why}"))
    }

    /// Adds the members, up to the first that cannot be read.
    pub(super) fn members(&self, until: Timestamp, to: &mut Vec<Member>) -> Result<(), String> {
        for group in &self.group {
            let named = Group::parse(&group.name).map_err(|why| format!("group '{}': {why}", group.name))?;
            for member in &group.members {
                let name = Name::parse(member).map_err(|why| format!("member '{member}': {why}"))?;
                let who = Whose::Name(name.key());
                to.push(Member { who, of: Of::Group(named.clone()), until: Some(until) });
            }
        }
        Ok(())
    }
}
