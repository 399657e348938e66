//! From a launch record to what the site's policy decides about, and whether the launcher keeps what it is held to.
//!
//! 1. Who asks is taken from the claim, whose uid the kernel has confirmed. What only the launcher can know of an image stays
//!    its claim; the record says so.
//! 2. What the launcher must have done before it asks for the receipt is compared with what the claim says was done.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use crate::audit::record::{Assurance, Record};
use crate::audit::time::{Timestamp, parse_date};
use crate::cgroup::limits::Limits;
use crate::policy::facts::{Also, Asks, Facts, Image, Who};
use crate::policy::verdict::Obligations;
use crate::request::{Bytes, Cores, Network};

/// Other names that are looked up: a launcher finds a handful, and each costs as much as a launch.
const MOST_NAMES: usize = 16;

/// What the policy decides about.
pub(super) fn facts(record: &Record, uid: u32, nested: bool) -> Facts {
    let identity = &record.grid.identity;
    let assurance = match identity.assurance {
        Some(Assurance::Verified) => "verified",
        Some(Assurance::Checked) => "checked",
        Some(Assurance::Declared) => "declared",
        Some(Assurance::Undeclared) | None => "undeclared",
    };
    let image = &record.grid.image;
    let workdir = record.process.working_directory.as_deref();
    let is_workdir = |target: Option<&str>| target.is_some() && target == workdir;
    let wall = |name: &str| record.grid.sandbox.get(name).map(String::as_str).unwrap_or_default();
    Facts {
        who: Who {
            user: record.user.id.clone(),
            issuer: identity.issuer.clone(),
            vo: record.grid.vo.clone(),
            groups: identity.groups.clone(),
            pilot: record.grid.pilot.id.clone(),
            uid,
            assurance: assurance.to_owned(),
            also: identity
                .others
                .iter()
                .chain(&record.grid.pilot.names)
                .take(MOST_NAMES)
                .filter_map(|other| {
                    Some(Also {
                        user: other.subject.clone()?,
                        issuer: other.issuer.clone(),
                        groups: other.groups.clone(),
                    })
                })
                .collect(),
        },
        image: Image {
            path: record.container.image.name.as_ref().map(PathBuf::from),
            digests: record.container.image.hash.all.clone(),
            made: image.created.zip(image.created_by.clone()),
            labels: image.labels.clone(),
            os: image.os.clone(),
            end_of_life: image.end_of_life.as_deref().and_then(day),
        },
        asks: Asks {
            network: if wall("network_namespace") == "on" { Network::None } else { Network::Host },
            nested,
            writable: wall("read_only_root").starts_with("off"),
            binds: record
                .grid
                .mounts
                .iter()
                .filter(|mount| !is_workdir(mount.target.as_deref()))
                .map(|mount| {
                    let source = PathBuf::from(mount.source.as_deref().unwrap_or_default());
                    (source, mount.mode.as_deref() == Some("rw"))
                })
                .collect(),
            workdir: record.grid.mounts.iter().find(|mount| is_workdir(mount.target.as_deref())).and_then(
                |mount| Some((PathBuf::from(mount.source.as_ref()?), mount.mode.as_deref() == Some("rw"))),
            ),
            wall_time: record.grid.limits.wall_time.map(Duration::from_secs),
            scratch: record.grid.limits.scratch,
            limits: limits(record),
            credential: false,
        },
        config_hash: record.grid.policy.config_hash.clone(),
    }
}

/// The moment at which a day begins.
fn day(text: &str) -> Option<Timestamp> {
    Timestamp::from_civil(parse_date(text)?, (0, 0, 0), 0)
}

/// The first thing that the payload is held to and the claim does not keep, in words.
pub(super) fn unkept(record: &Record, facts: &Facts, obligations: &Obligations) -> Option<String> {
    if obligations.network == Network::None && facts.asks.network != Network::None {
        return Some("it has the host's network, and may have none".to_owned());
    }
    if let Some(at) = obligations.readonly_binds.first() {
        let bind = facts.asks.binds.get(*at).map(|(path, _)| path.display().to_string()).unwrap_or_default();
        return Some(format!("its bind of {bind} is writable, and may only be read"));
    }
    let profile = record.grid.policy.profile.as_deref().unwrap_or("default");
    if profile != obligations.profile.as_str() {
        return Some(format!("its walls are of the profile {profile}, not {}", obligations.profile.as_str()));
    }
    if let Some(most) = obligations.wall_time
        && record.grid.limits.wall_time.is_none_or(|seconds| seconds > most.as_secs())
    {
        return Some(format!("its wall time is longer than {} s", most.as_secs()));
    }
    if let Some(most) = obligations.scratch
        && record.grid.limits.scratch.is_none_or(|bytes| bytes > most)
    {
        return Some(format!("its scratch is larger than {most} bytes"));
    }
    // What is more than the rule allows was refused as a wish; here is left what claims no limit at all.
    let (held, most) = (limits(record), &obligations.limits);
    let exceeds =
        |held: Option<u64>, most: Option<u64>| most.filter(|most| held.is_none_or(|held| held > *most));
    if let Some(most) = exceeds(held.memory, most.memory) {
        return Some(format!("it may use more memory than {}", Bytes(most)));
    }
    if let Some(most) = exceeds(held.cpus_milli, most.cpus_milli) {
        return Some(format!("it may use more than {}", Cores(most)));
    }
    if let Some(most) = exceeds(held.pids, most.pids) {
        return Some(format!("it may have more than {most} processes and threads"));
    }
    None
}

/// What the launcher says holds.
fn limits(record: &Record) -> Limits {
    let claimed = &record.grid.limits;
    // Which cores is nobody's rule.
    Limits { memory: claimed.memory, cpus_milli: claimed.cpus_milli, pids: claimed.pids, cpuset: None }
}
