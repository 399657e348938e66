//! Who is asked about: the options of `bailey exec` that name somebody, for questions to the policy.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;

use crate::config::Undeclared;
use crate::failure::Failure;
use crate::host::Caller;
use crate::identity::{self, Identity};
use crate::request::DeclaredIdentity;

/// The identity options of `bailey exec`.
#[derive(Debug, Args)]
pub(super) struct Who {
    /// Subject: DN in slash form, or a token's sub
    #[arg(long, value_name = "SUBJECT")]
    user: Option<String>,
    /// Token issuer, an https URL
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Virtual organisation
    #[arg(long)]
    vo: Option<String>,
    /// FQAN, wlcg.groups entry or ivo:// id; repeatable
    #[arg(long)]
    group: Vec<String>,
    /// JSON document with these fields
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The pilot's own id
    #[arg(long, value_name = "ID")]
    pilot: Option<String>,
    /// The account of the pilot; without it the caller's
    #[arg(long, value_name = "N")]
    pilot_uid: Option<u32>,
}

impl Who {
    /// As the launcher would understand it.
    pub(super) fn declare(&self, undeclared: Undeclared) -> Result<Identity, Failure> {
        let declared = DeclaredIdentity {
            user: self.user.clone(),
            issuer: self.issuer.clone(),
            vo: self.vo.clone(),
            groups: self.group.clone(),
            pilot: self.pilot.clone(),
            job: None,
            task: None,
        };
        identity::declare(&declared, self.identity.as_deref(), None, undeclared)
    }

    /// The caller, in the pilot's place.
    pub(super) fn caller(&self) -> Caller {
        let caller = Caller::look();
        Caller { uid: self.pilot_uid.unwrap_or(caller.uid), ..caller }
    }
}
