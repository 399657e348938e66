//! What a request names on this host, opened once: policy judges what was opened, and what was judged is what is mounted.
#![forbid(unsafe_code)]

use super::absolute;
use super::container::{self, Place, Places};
use crate::audit::time::Timestamp;
use crate::config::Config;
use crate::failure::{Failure, Fault};
use crate::host::Caller;
use crate::identity::Identity;
use crate::image::facts::Told;
use crate::image::{self, Look};
use crate::policy::facts::{self, Also, Asks, Facts, Who};
use crate::policy::store::Policy;
use crate::policy::verdict::Obligations;
use crate::request::Request;
use crate::sandbox::tree::{HostObject, canonical};
use crate::sandbox::{environment, layout};
use std::path::PathBuf;

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
    /// Where Apptainer's manner puts what, when that was called for.
    pub(super) places: Option<Places>,
}

/// One of the things that [`facts`] lists as binds, in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// By its number among `Request::binds`.
    Bind(usize),
    /// By its number among `Places::handed`.
    Place(usize),
}

impl Opened {
    /// What policy judges as binds, the directory that the payload works in among them.
    pub(super) fn asked(&self, request: &Request) -> Vec<Asked> {
        let binds = (0..request.binds.len()).map(Asked::Bind);
        let places = (0..self.places.as_ref().map_or(0, |places| places.handed.len())).map(Asked::Place);
        binds.chain(places).collect()
    }

    /// Of these what may only be read. Under the profile `strict`, which makes every bind such, the payload still writes where it
    /// works, as in the `--workdir` of `bailey exec`; but not where a rule lists that place itself.
    pub(super) fn readonly(&self, request: &Request, obligations: &Obligations) -> Vec<Asked> {
        let asked = self.asked(request);
        let held = |at: &usize| {
            let asked = asked.get(*at).copied()?;
            (obligations.listed_binds.contains(at) || !self.is_work(request, asked)).then_some(asked)
        };
        obligations.readonly_binds.iter().filter_map(held).collect()
    }

    fn is_work(&self, request: &Request, asked: Asked) -> bool {
        let Some(places) = &self.places else { return false };
        let target = match asked {
            Asked::Bind(at) => request.binds.get(at).map(|bind| &bind.target),
            Asked::Place(at) => places.handed.get(at).map(|place| &place.target),
        };
        target.is_some_and(|target| places.is_start(target))
    }

    fn source(&self, asked: Asked) -> Option<PathBuf> {
        match asked {
            Asked::Bind(at) => self.binds.get(at).map(|object| object.path.clone()),
            Asked::Place(at) => self.places.as_ref()?.handed.get(at).map(Place::path),
        }
    }

    fn workdir(&self, request: &Request) -> Option<PathBuf> {
        if let Some(object) = &self.workdir {
            return Some(object.path.clone());
        }
        let places = (0..self.places.as_ref()?.handed.len()).map(Asked::Place);
        let mut all = (0..request.binds.len()).map(Asked::Bind).chain(places);
        all.find(|asked| self.is_work(request, *asked)).and_then(|asked| self.source(asked))
    }
}

/// Opens everything.
///
/// # Errors
/// The caller is root; something is not there, or is never shown to a payload.
pub fn open(request: &Request, policy: &Policy, config: &Config, caller: &Caller) -> Result<Opened, Failure> {
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
    let places = match &request.container {
        Some(container) => Some(container::open(container, request, config, caller)?),
        None => None,
    };
    Ok(Opened { image, told, end_of_life, workdir, binds, places })
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
    Ok(Facts {
        who: Who {
            user: identity.user.clone(),
            issuer: identity.issuer.clone(),
            vo: identity.vo.clone(),
            groups: identity.groups.clone(),
            pilot: identity.pilot.clone(),
            uid: caller.uid,
            assurance: identity.assurance.as_str().to_owned(),
            also: identity
                .others
                .iter()
                .chain(&identity.pilot_names)
                .map(|other| Also {
                    user: other.user.clone(),
                    issuer: other.issuer.clone(),
                    groups: other.groups.clone(),
                })
                .collect(),
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
            binds: opened
                .asked(request)
                .into_iter()
                .filter_map(|asked| {
                    let writable = match asked {
                        Asked::Bind(at) => request.binds.get(at)?.writable,
                        Asked::Place(_) => true,
                    };
                    Some((opened.source(asked)?, writable))
                })
                .collect(),
            // One of Apptainer's places is among the binds, and can be shown for reading only.
            workdir: opened.workdir(request).map(|path| (path, opened.workdir.is_some())),
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
