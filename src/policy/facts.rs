//! What a decision is about: who, with what image, asking for what. Plain data; nothing here looks anything up.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::group::Group;
use super::name::Name;
use crate::audit::time::Timestamp;
use crate::cgroup::limits::Limits;
use crate::request::Network;

/// Everything that a decision looks at, but for the tables.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Who.
    pub who: Who,
    /// With what image.
    pub image: Image,
    /// Asking for what.
    pub asks: Asks,
    /// SHA-256 of the configuration that the launcher has; compared where there is another one to compare it with.
    pub config_hash: Option<String>,
}

/// Who the payload runs for, and who brought it.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// `user.id`, as it was said.
    pub user: Option<String>,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// VO.
    pub vo: Option<String>,
    /// Groups, the first one being the primary one.
    pub groups: Vec<String>,
    /// `grid.pilot.id`
    pub pilot: Option<String>,
    /// The pilot's uid.
    pub uid: u32,
    /// `grid.identity.assurance`: `undeclared`, `declared`, `checked`, `verified`.
    pub assurance: String,
    /// Other names, of the user or of the pilot. They let nobody in: only bans are held against them.
    pub also: Vec<Also>,
}

/// One more name, with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Also {
    /// DN or token's subject.
    pub user: String,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
}

impl Who {
    /// Whoever asks, under each of the other names.
    pub fn others(&self) -> impl Iterator<Item = Self> + '_ {
        self.also.iter().map(|also| Self {
            user: Some(also.user.clone()),
            issuer: also.issuer.clone(),
            groups: also.groups.clone(),
            also: Vec::new(),
            ..self.clone()
        })
    }

    /// The user as a name that can be compared; a token's subject together with its issuer.
    pub fn name(&self) -> Option<Name> {
        let user = self.user.as_deref()?;
        match (&self.issuer, user.starts_with('/')) {
            (Some(issuer), false) => Name::token(Some(issuer), user).ok(),
            _ => Name::parse(user).ok(),
        }
    }

    /// The groups that can be read as such. The others are nobody's: they match nothing.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.iter().filter_map(|group| Group::parse(group).ok()).collect()
    }
}

/// The root of the payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Resolved path; `None` for the host's own system.
    pub path: Option<PathBuf>,
    /// `sha256:…` and content ids.
    pub digests: Vec<String>,
    /// When it was made, and what says so (`label`, `sif-header`).
    pub made: Option<(Timestamp, String)>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `ID` and `VERSION_ID` of its os-release, `debian:10`.
    pub os: Option<String>,
    /// When that system's support ended, where the table knows it.
    pub end_of_life: Option<Timestamp>,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asks {
    /// The host's network, or none.
    pub network: Network,
    /// Namespaces of its own.
    pub nested: bool,
    /// A writable layer over the image.
    pub writable: bool,
    /// Source on the host, resolved, and whether writes to it are asked for.
    pub binds: Vec<(PathBuf, bool)>,
    /// The working directory on the host, resolved, and whether it cannot but be written.
    pub workdir: Option<(PathBuf, bool)>,
    /// The wall time.
    pub wall_time: Option<Duration>,
    /// Bytes of scratch.
    pub scratch: Option<u64>,
    /// Memory, cores and processes.
    pub limits: Limits,
    /// A credential of the pilot's is handed over.
    pub credential: bool,
}

/// How many payloads live on this node, of whoever asks. The one that asks is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of this person (or name, where no person is known).
    pub person: u64,
    /// Of this VO.
    pub vo: u64,
    /// Of this uid.
    pub uid: u64,
}
