//! Who: what the pilot declares about the payload's user, and where it says nothing, what lies around it. Declared is not
//! verified, and the record says so.
//!
//! 1. In this order, and the first that names a user decides: command line, `--identity`, `BAILEY_IDENTITY`, discovery
//!    ([`discovered`]). Where HTCondor's starter is the parent, `BAILEY_IDENTITY` is the job's user's, and names nobody.
//! 2. At most one identity document and one job ad are read. Nothing is verified here.
#![forbid(unsafe_code)]

mod classad;
mod declared;
mod discovered;
pub(crate) mod document;
mod environment;
mod inside;
pub(crate) mod job_ad;
mod role;
mod syntax;
mod wrapper;

pub use declared::{declare, declare_read};
pub use document::bytes as read_document;

use crate::config::{self, Probes, Undeclared};
use crate::failure::Failure;
use crate::host::Caller;
use crate::policy::name::Name;
use crate::request::{DeclaredIdentity, Request};

/// Who the payload of this request runs for, by all that is said and found. Whether the site lets it run undeclared is asked
/// afterwards ([`Identity::allowed`]), so that a refusal can name what is known.
///
/// # Errors
/// As [`declare`], and a job ad that is there and cannot be used.
pub fn establish(
    request: &Request,
    settings: &config::Identity,
    caller: &Caller,
) -> Result<Identity, Failure> {
    let path = request.identity_file.as_deref().or(request.identity_env.as_deref());
    let read = request.identity_read.as_deref();
    let is_claim = discovered::is_document_the_jobs(request, settings);
    let mut identity = declare_read(&request.identity, path.filter(|_| !is_claim), read, Undeclared::Record)?;
    if role::is_probe(request) {
        identity.role = Role::Probe;
    }
    discovered::add(&mut identity, request, settings, caller)?;
    if is_claim {
        discovered::claim(
            &mut identity,
            declare_read(&DeclaredIdentity::default(), path, read, Undeclared::Record)?,
        );
    }
    Ok(identity)
}

/// Each refusal by discovery, for the list of what users read.
#[cfg(test)]
pub(crate) fn refusals() -> Vec<Failure> {
    vec![
        declared::only_a_pilot("/DC=org/CN=Robot: pilots"),
        job_ad::unusable(std::path::Path::new("/x/.job.ad"), "it is larger than 4194304 bytes"),
    ]
}

/// Who the payload runs for, as far as somebody said so. Every value has passed the checks of `syntax.rs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// `grid.identity.jti`: the id of the token that names the user.
    pub jti: Option<String>,
    /// `grid.identity.others[]`: other names of the user, which bans are held against too.
    pub others: Vec<Other>,
    /// `grid.pilot.names[]`: whose the pilot is; bans are held against them too.
    pub pilot_names: Vec<Other>,
    /// `grid.pilot.batch_job_id[]`
    pub batch: Vec<String>,
    /// `grid.role`
    pub role: Role,
    /// `grid.identity.remarks[]`: what was found and could not be taken, in words.
    pub remarks: Vec<String>,
}

impl Identity {
    /// Whether the site lets it run as far as its user is concerned.
    ///
    /// # Errors
    /// Nobody is named, and the site wants somebody.
    pub fn allowed(&self, settings: &config::Identity) -> Result<(), Failure> {
        let free = settings.undeclared == Undeclared::Record || self.is_free_probe(settings);
        if self.assurance != Assurance::Undeclared || free {
            return Ok(());
        }
        match self.pilot_names.first() {
            Some(pilot) => Err(declared::only_a_pilot(&pilot.to_string())),
            None => Err(declared::nobody()),
        }
    }

    /// It runs although nobody is named and the site wants somebody: because it is a probe, and within a probe's limits.
    pub fn is_free_probe(&self, settings: &config::Identity) -> bool {
        let is_undeclared = self.assurance == Assurance::Undeclared;
        let wants_somebody = settings.undeclared == Undeclared::Deny;
        is_undeclared && wants_somebody && self.role == Role::Probe && settings.probes == Probes::Allow
    }
}

/// A name with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Other {
    /// Who says so.
    pub source: Source,
    /// DN in slash form, or a token's `sub`.
    pub user: String,
    /// The token's issuer.
    pub issuer: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// The token's own id.
    pub jti: Option<String>,
}

impl Other {
    /// As a name that can be compared.
    pub fn name(&self) -> Option<Name> {
        match &self.issuer {
            Some(issuer) if !self.user.starts_with('/') => Name::token(Some(issuer), &self.user).ok(),
            _ => Name::parse(&self.user).ok(),
        }
    }
}

impl std::fmt::Display for Other {
    /// In one text, as bans and the configuration have names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.issuer {
            Some(issuer) if !self.user.starts_with('/') => write!(f, "{issuer} {}", self.user),
            _ => f.write_str(&self.user),
        }
    }
}

/// What kind of work it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// A user's.
    #[default]
    Payload,
    /// The pilot's own.
    Pilot,
    /// A question whether a payload would run here.
    Probe,
}

impl Role {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Pilot => "pilot",
            Self::Probe => "probe",
        }
    }
}

/// How much stands behind a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Assurance {
    /// Nobody named a user.
    #[default]
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

/// Where the user's name came from; of an undeclared payload, where its ids come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    #[default]
    None,
    /// `--user`.
    CommandLine,
    /// The identity document.
    File,
    /// HTCondor's job ad.
    JobAd,
    /// The environment of PanDA's pilot.
    Panda,
    /// That of DIRAC's.
    Dirac,
    /// That of ALICE's.
    Alice,
}

impl Source {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CommandLine => "command-line",
            Self::File => "file",
            Self::JobAd => "job-ad",
            Self::Panda => "panda",
            Self::Dirac => "dirac",
            Self::Alice => "alice",
        }
    }
}
