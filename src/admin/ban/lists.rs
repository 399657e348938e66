//! Every list of the directory, entry by entry, and how launchers see it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::Metadata;
use std::path::PathBuf;

use crate::audit::Timestamp;
use crate::config::{self, Config, Place};
use crate::failure::Failure;
use crate::input;
use crate::policy::bans::{self, Ban, Format, List, MOST_BYTES, Whom};
use crate::policy::lists::{Kind, ListState, Lists, Trouble};
use crate::policy::name::Name;
use crate::policy::settings::{BanSettings, OnTrouble};
use crate::policy::store::Policy;

/// The configuration and the lists as they are on the disk now.
pub(super) struct Site {
    pub(super) config: Config,
    /// What is wrong, as launchers judge it.
    pub(super) lists: Lists,
    pub(super) files: Vec<OneList>,
    pub(super) now: Timestamp,
}

/// One file.
pub(super) struct OneList {
    pub(super) state: ListState,
    pub(super) path: PathBuf,
    pub(super) metadata: Option<Metadata>,
    /// `None`: its name says none.
    pub(super) format: Option<Format>,
    /// What it says; nothing where it is in trouble.
    pub(super) list: List,
}

impl Site {
    /// Reads everything; leaves no trace.
    pub(super) fn read() -> Result<Self, Failure> {
        let (config, now) = (config::load(&Place::system())?, Timestamp::now());
        let policy = Policy::read(&config, None, now);
        let lists = policy.lists().clone();
        let dir = &config.policy.bans.dir;
        let files = lists
            .lists
            .iter()
            .map(|state| {
                let path = dir.join(&state.name);
                let format = Format::of_name(&state.name);
                let read =
                    input::open(&path).ok().and_then(|file| input::read_small(&file, MOST_BYTES as u64).ok());
                let (metadata, bytes) =
                    read.map_or((None, None), |(metadata, bytes)| (Some(metadata), Some(bytes)));
                let list = bytes
                    .zip(format)
                    .and_then(|(bytes, format)| bans::parse(&bytes, format).ok())
                    .unwrap_or_default();
                OneList { state: state.clone(), path, metadata, format, list }
            })
            .collect();
        Ok(Self { config, lists, files, now })
    }

    pub(super) fn bans(&self) -> impl Iterator<Item = (&OneList, &Ban)> {
        self.files.iter().flat_map(|file| file.list.bans.iter().map(move |ban| (file, ban)))
    }

    /// Everything that is wrong, one line each, with what follows from it.
    pub(super) fn troubles(&self) -> String {
        let settings = &self.config.policy.bans;
        let mut text = String::new();
        for trouble in self.lists.troubles() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "warning: {}", consequence(trouble, settings));
        }
        text
    }

    /// The person whose name it is, with the person's other names.
    pub(super) fn person(&self, whom: &Whom) -> Option<(&str, Vec<&str>)> {
        let Whom::Name(name) = whom else { return None };
        let key = name.key();
        let is_it = |text: &str, own: &str| {
            own == key || Name::parse(text).is_ok_and(|name| name.keys().contains(&key))
        };
        let persons = &self.config.tables.persons;
        let person =
            persons.iter().find(|person| person.names.iter().any(|name| is_it(&name.text, &name.key)))?;
        let others = person
            .names
            .iter()
            .filter(|name| !is_it(&name.text, &name.key))
            .map(|name| name.text.as_str())
            .collect();
        Some((&person.id, others))
    }

    /// Whether there is such a person.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.config.tables.persons.iter().any(|person| person.id == id)
    }
}

/// What is wrong, and what it means for launches.
pub(in crate::admin) fn consequence(trouble: &Trouble, settings: &BanSettings) -> String {
    let (key, measure) = (trouble.kind.key(), trouble.kind.measure(settings));
    let follows = match (measure, trouble.kind) {
        (OnTrouble::Closed, _) => "nothing new runs on this node until it is repaired",
        (_, Kind::Stale) => "it still holds, and every record says how old it is",
        (OnTrouble::LastGood, _) => "the last good version holds, where there was one",
        (OnTrouble::Warn, _) => {
            "launches go on with the last good version, where there was one, and every record says so"
        }
    };
    format!("{}; {follows} (bans.{key} = \"{}\")", crate::failure::Printable(&trouble.text), measure.as_str())
}
