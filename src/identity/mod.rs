//! Who: what the pilot declares about the payload's user. Declared is not verified, and the record says so.
//!
//! The room reads at most one identity document and decides; it neither guesses nor verifies.
#![forbid(unsafe_code)]

mod declared;
pub(crate) mod document;
mod syntax;

pub use declared::{declare, declare_read};
pub use document::bytes as read_document;

/// Who the payload runs for, as far as somebody said so. Every value has passed the checks of `syntax.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `user.id`: DN in slash form, or a token's `sub`. `None` exactly when `assurance` is `Undeclared`.
    pub user: Option<String>,
    /// `grid.identity.issuer`: the token issuer's URL.
    pub issuer: Option<String>,
    /// `grid.vo`
    pub vo: Option<String>,
    /// `grid.identity.groups[]`: VOMS FQANs, `wlcg.groups` or `ivo://` ids, each once, in the order given.
    pub groups: Vec<String>,
    /// The person's name for people; recorded only where `audit.user_name` says so.
    pub name: Option<String>,
    /// `grid.identity.assurance`
    pub assurance: Assurance,
    /// `grid.identity.source`: where `user` came from.
    pub source: Source,
    /// `grid.pilot.id`
    pub pilot: Option<String>,
    /// `grid.job.id`
    pub job: Option<String>,
    /// `grid.task`
    pub task: Option<String>,
}

/// How much stands behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assurance {
    /// Nobody named a user.
    Undeclared,
    /// The pilot says so.
    Declared,
}

impl Assurance {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undeclared => "undeclared",
            Self::Declared => "declared",
        }
    }
}

/// Where the user's name came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody named a user.
    None,
    /// `--user`.
    CommandLine,
    /// The identity document.
    File,
}

impl Source {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CommandLine => "command-line",
            Self::File => "file",
        }
    }
}
