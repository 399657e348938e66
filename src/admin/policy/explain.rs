//! `bailey policy explain`: the launcher's own decision, taken apart.
#![forbid(unsafe_code)]

use std::path::Path;

use super::Explain;
use super::show::{self, Explained, Looked};
use crate::audit::{Timestamp, drain};
use crate::cgroup::limits::Limits;
use crate::config::{self, Config, Place};
use crate::failure::{Code, Failure};
use crate::host::Caller;
use crate::image;
use crate::input;
use crate::plan;
use crate::policy::decide;
use crate::policy::facts::Image;
use crate::policy::rule::{Known, Profile, Rule};
use crate::policy::verdict::Verdict;
use crate::policy::{facts::Facts, store};
use crate::request::{DeclaredIdentity, Request};

/// Decides as the launcher would, and says why. Exit code 0: it may run, 1: it may not.
pub(super) fn run(options: &Explain) -> Result<(String, u8), Failure> {
    let (caller, now) = (options.who.caller(), Timestamp::now());
    if caller.uid == 0 {
        return Err(Failure::usage(
            "cannot explain a launch by root",
            "bailey starts nothing for root, so this would always be no",
            "name the pilot's account: --pilot-uid N",
        ));
    }
    let place = Place::system();
    let config = config::load(&place)?;
    // As the launcher opens it: through the copy, where there is one.
    let (_, policy) = store::open(&place, nix::unistd::geteuid().as_raw(), now)?;
    let identity = match options.who.declare(config.identity.undeclared) {
        Ok(identity) => identity,
        Err(failure) if failure.code == Code::Refused => return Ok(show::refused(options.json, &failure)),
        Err(failure) => return Err(failure),
    };
    let (request, sif) = (request(options), sif(options, &caller)?);
    let opened = plan::open(&request_of(&request, sif.is_some()), &policy, &config, &caller)?;
    let mut facts = plan::facts(&identity, &opened, &request, &config, &caller)?;
    if let Some(image) = sif {
        facts.image = image;
        facts.asks.writable = request.writable;
    }
    let relevant = policy.look_up(&facts, now)?;
    let verdict = policy.judge(&facts, &relevant, None, now);
    let bans = decide::bans(&facts, &relevant, now).collect();
    let rules = looked(&config, &facts, &relevant.known, now);
    let remarks = remarks(&config, &request, &verdict);
    Ok(show::show(&Explained { facts, verdict, bans, rules, remarks }, options.all, options.json))
}

/// Each rule in its order, with the first condition that does not hold.
fn looked(config: &Config, facts: &Facts, known: &Known, now: Timestamp) -> Vec<Looked> {
    let look = |rule: &Rule| Looked {
        id: rule.id.clone(),
        deny: rule.deny,
        unmet: rule.when.first_unmet(facts, known, now, rule.deny),
    };
    config.tables.rules.iter().map(look).collect()
}

/// What stops a launch and is no rule.
fn remarks(config: &Config, request: &Request, verdict: &Verdict) -> Vec<String> {
    let mut remarks = Vec::new();
    if request.nested && !config.sandbox.allow_nested && verdict.obligations.profile != Profile::Nested {
        remarks.push("--nested is refused whatever rules say (sandbox.nested_namespaces = false)".to_owned());
    }
    if let (Some(asked), Some(most)) = (request.wall_time, config.limits.wall_time)
        && asked > most
    {
        remarks.push(format!(
            "a wall time of {} s is refused whatever rules say (limits.wall_time = {} s)",
            asked.as_secs(),
            most.as_secs()
        ));
    }
    if let Err(failure) = plan::limits(&request.limits, &config.limits, &verdict.obligations.limits) {
        remarks.push(format!("whatever rules say: {failure}"));
    }
    match drain::look(&drain::flag(&config.audit.socket)) {
        Ok(Some(reason)) => remarks.push(format!("this node takes no new payloads now: {reason}")),
        Ok(None) => {}
        Err(failure) => remarks.push(failure.to_string()),
    }
    remarks
}

fn request(options: &Explain) -> Request {
    Request {
        identity: DeclaredIdentity::default(),
        image: options.image.clone(),
        writable: options.writable,
        workdir: options.workdir.clone(),
        binds: options.bind.clone(),
        network: options.network,
        nested: options.nested,
        scratch_size: options.scratch_size,
        limits: Limits { memory: options.memory, cpus_milli: options.cpus, pids: options.pids, cpuset: None },
        wall_time: options.wall_time,
        ..Request::default()
    }
}

/// A SIF file is looked at here; everything else as in a launch.
fn request_of(request: &Request, is_sif: bool) -> Request {
    let mut request = request.clone();
    if is_sif {
        (request.image, request.writable) = (None, false);
    }
    request
}

/// What a SIF file says of itself; `None`: the image is no file.
fn sif(options: &Explain, caller: &Caller) -> Result<Option<Image>, Failure> {
    let Some(path) = &options.image else { return Ok(None) };
    let path = plan::absolute(path, caller, "--image")?;
    if !path.is_file() {
        return Ok(None);
    }
    let wrong = |why: String| {
        Failure::usage(
            format!("cannot use the image {}", path.display()),
            why,
            "name a directory that holds a root file system, or a SIF file",
        )
    };
    let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    let file = input::open(Path::new(&real)).map_err(|error| wrong(crate::failure::io_text(&error)))?;
    let told = image::facts::of_sif(&file).map_err(wrong)?;
    Ok(Some(Image {
        digests: image::content_ids(&real),
        path: Some(real),
        made: told.made,
        labels: told.labels,
        os: told.os.map(|os| os.to_string()),
        end_of_life: None,
    }))
}
