//! What a request names on this host, opened once: policy judges what was opened, and what was judged is what is mounted.
#![forbid(unsafe_code)]

use super::absolute;
use crate::audit::time::Timestamp;
use crate::config::Config;
use crate::failure::{Failure, Fault};
use crate::host::Caller;
use crate::identity::Identity;
use crate::image::facts::Told;
use crate::image::{self, Look};
use crate::policy::facts::{self, Asks, Facts, Who};
use crate::policy::store::Policy;
use crate::request::Request;
use crate::sandbox::tree::{HostObject, canonical};
use crate::sandbox::{environment, layout};

/// Image, working directory and binds.
#[derive(Debug)]
pub struct Opened {
    /// The image; `None` for the host's own system.
    pub image: Option<HostObject>,
    /// What it says of itself.
    pub told: Told,
    /// When the security support of its system ends, or ended.
    pub end_of_life: Option<Timestamp>,
    /// `--workdir`
    pub workdir: Option<HostObject>,
    /// The sources of `--bind`, in order.
    pub binds: Vec<HostObject>,
}

/// Opens everything.
///
/// # Errors
/// The caller is root; something is not there, or is never shown to a payload.
pub fn open(request: &Request, policy: &Policy, caller: &Caller) -> Result<Opened, Failure> {
    if caller.uid == 0 {
        return Err(by_root());
    }
    let image = match &request.image {
        Some(path) => Some(image::open(&absolute(path, caller, "--image")?)?),
        None if request.writable => {
            return Err(Failure::usage(
                "cannot make the host's system writable",
                "--writable belongs to an image",
                "add --image DIR, or leave out --writable",
            ));
        }
        None => None,
    };
    let told = image.as_ref().map(|object| image::told(object, Look::Inside)).unwrap_or_default();
    let end_of_life = match &told.os {
        Some(os) => policy.end_of_life(os)?,
        None => None,
    };
    let workdir = match &request.workdir {
        Some(dir) => Some(layout::open_workdir(&absolute(dir, caller, "--workdir")?)?),
        None => None,
    };
    let binds = request.binds.iter().map(layout::open_bind).collect::<Result<_, _>>()?;
    Ok(Opened { image, told, end_of_life, workdir, binds })
}

/// Nothing runs for root.
pub(super) fn by_root() -> Failure {
    Failure {
        fault: Fault::Site,
        ..Failure::refused(
            "refused to run a payload as root",
            "bailey is called by root, and nothing that it starts may be root",
            "call it as the pilot's own unprivileged account, or let the site set root_caller.uids (docs/uids.md)",
        )
    }
}

/// What the site's policy decides about.
///
/// # Errors
/// A credential cannot be looked at.
pub fn facts(
    identity: &Identity,
    opened: &Opened,
    request: &Request,
    config: &Config,
    caller: &Caller,
) -> Result<Facts, Failure> {
    let binds = request.binds.iter().zip(&opened.binds);
    Ok(Facts {
        who: Who {
            user: identity.user.clone(),
            issuer: identity.issuer.clone(),
            vo: identity.vo.clone(),
            groups: identity.groups.clone(),
            pilot: identity.pilot.clone(),
            uid: caller.uid,
            assurance: identity.assurance.as_str().to_owned(),
        },
        image: match &opened.image {
            Some(object) => facts::Image {
                path: Some(object.path.clone()),
                digests: image::content_ids(&object.path),
                made: opened.told.made.clone(),
                labels: opened.told.labels.clone(),
                os: opened.told.os.as_ref().map(ToString::to_string),
                end_of_life: opened.end_of_life,
            },
            None => facts::Image::default(),
        },
        asks: Asks {
            network: request.network,
            nested: request.nested,
            writable: request.writable,
            binds: binds.map(|(bind, object)| (object.path.clone(), bind.writable)).collect(),
            workdir: opened.workdir.as_ref().map(|object| object.path.clone()),
            wall_time: request.wall_time,
            scratch: request.scratch_size,
            limits: request.limits,
            credential: hands_over_a_credential(request, opened, caller)?,
        },
        config_hash: Some(config.hash.clone()),
    })
}

/// Whether a file that the pilot's environment or custom names as a credential is bound, or a variable that carries one is
/// passed on.
fn hands_over_a_credential(request: &Request, opened: &Opened, caller: &Caller) -> Result<bool, Failure> {
    let named = environment::credential_files(&caller.env).into_iter().map(ToOwned::to_owned);
    if opened.binds.is_empty() && request.pass_env.is_empty() && request.env.is_empty() {
        return Ok(false);
    }
    let mut known = layout::well_known_credentials(caller.uid)?;
    for path in named {
        known.push(canonical(&path)?.unwrap_or(path));
    }
    let names = request.pass_env.iter().chain(request.env.iter().map(|(name, _)| name));
    Ok(opened.binds.iter().any(|object| known.contains(&object.path))
        || names.into_iter().any(|name| environment::is_withheld(name.as_str())))
}
