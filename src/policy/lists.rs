//! How the ban lists stand: which there are, which version holds, what is wrong with them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::settings::{BanSettings, OnTrouble};
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
    /// In what way.
    pub kind: Kind,
    /// In words, naming file, line and reason.
    pub text: String,
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
        self.troubles().filter(goes_on).map(|trouble| format!("ban list: {}", trouble.text)).collect()
    }
}
