//! How the ban lists stand: which there are, which version holds, what is wrong with them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::settings::{BanSettings, OnTrouble};
use crate::audit::record::{Action, BanChange, Host, Record};
use crate::audit::time::Timestamp;

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// In the order of their names.
    pub lists: Vec<ListState>,
    /// SHA-256 over names and contents of the versions that hold, lowercase hex: `grid.policy.bans_version`.
    pub version: String,
    /// That cannot be said of one list: the directory, a required file.
    pub troubles: Vec<Trouble>,
}

/// One list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListState {
    /// The file's name.
    pub name: String,
    /// SHA-256 of the version that holds; `None`: there is none.
    pub digest: Option<String>,
    /// How many bans are in that version.
    pub bans: usize,
    /// When the file was changed last.
    pub changed: Option<Timestamp>,
    /// Who owns it.
    pub owner: u32,
    /// What is wrong.
    pub trouble: Option<Trouble>,
}

/// Something is wrong with a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What is in trouble.
    pub of: Part,
    /// In what way.
    pub kind: Kind,
    /// In words, naming file, line and reason.
    pub text: String,
}

/// Which of the site's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A list of who is suspended, or the directory of these.
    Bans,
    /// A file that says who is in which group, or the directory of these; a mapfile.
    Groups,
}

impl Part {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bans => "ban list",
            Self::Groups => "list of groups",
        }
    }
}

/// In what way a list is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It cannot be opened, read or understood.
    Unreadable,
    /// It is required and not there.
    Missing,
    /// It is older than the site wants.
    Stale,
}

impl Kind {
    /// The key of `[bans]` that says what the site wants to happen.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
            Self::Stale => "stale",
        }
    }

    /// What the site wants to happen.
    pub const fn measure(self, settings: &BanSettings) -> OnTrouble {
        match self {
            Self::Unreadable => settings.unreadable,
            Self::Missing => settings.missing,
            Self::Stale => settings.stale,
        }
    }
}

impl Lists {
    /// Everything that is wrong.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.troubles.iter().chain(self.lists.iter().filter_map(|list| list.trouble.as_ref()))
    }

    /// What is wrong and does not stop anything, for the record.
    pub fn remarks(&self, settings: &BanSettings) -> Vec<String> {
        let goes_on = |trouble: &&Trouble| trouble.kind.measure(settings) != OnTrouble::Closed;
        self.troubles()
            .filter(goes_on)
            .map(|trouble| format!("{}: {}", trouble.of.as_str(), trouble.text))
            .collect()
    }
}

/// One list that is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As it was; `None`: there was none.
    pub was: Option<ListState>,
    /// As it is; `None`: it is gone.
    pub is: Option<ListState>,
}

impl Lists {
    /// What of these is another version than in `before`, by name.
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let named = |lists: &Self, name: &str| lists.lists.iter().find(|list| list.name == name).cloned();
        let mut changes: Vec<Change> = self
            .lists
            .iter()
            .map(|list| Change { was: named(before, &list.name), is: Some(list.clone()) })
            .filter(|Change { was, is }| {
                was.as_ref().and_then(|was| was.digest.as_ref())
                    != is.as_ref().and_then(|is| is.digest.as_ref())
            })
            .collect();
        let gone = before.lists.iter().filter(|was| named(self, &was.name).is_none());
        changes.extend(gone.map(|was| Change { was: Some(was.clone()), is: None }));
        changes
    }
}

impl Change {
    /// The file's name.
    pub fn name(&self) -> &str {
        self.is.as_ref().or(self.was.as_ref()).map(|list| list.name.as_str()).unwrap_or_default()
    }

    /// As `ban-change`, made by whoever changed the file.
    pub fn record(&self, node: Host) -> Record {
        let mut record = Record::of_log(Action::BanChange, node);
        record.grid.ban_change = BanChange {
            list: Some(self.name().to_owned()),
            before: self.was.as_ref().and_then(|list| list.digest.clone()),
            after: self.is.as_ref().and_then(|list| list.digest.clone()),
            entries: self.is.as_ref().map(|list| list.bans as u64),
            by: Some("file".to_owned()),
            owner: self.is.as_ref().map(|list| list.owner),
            changed: self.is.as_ref().and_then(|list| list.changed),
        };
        record.event.reason = Some(match &self.is {
            Some(list) => match &list.trouble {
                Some(trouble) => trouble.text.clone(),
                None => format!("{} has {} bans now", list.name, list.bans),
            },
            None => format!("{} is there no more", self.name()),
        });
        record
    }
}
