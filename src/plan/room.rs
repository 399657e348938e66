//! The payload's root with everything in it, and what follows from that: where it starts, what it executes, its variables.
#![forbid(unsafe_code)]

use super::container::{self, Inside, Manner, Places};
use super::opened::{Asked, Opened};
use super::{HandedOver, absolute, commands, unheeded};
use crate::config::{Config, Demand, HostVariables};
use crate::failure::Failure;
use crate::host::Caller;
use crate::image;
use crate::policy::rule::Profile;
use crate::policy::store;
use crate::policy::verdict::Obligations;
use crate::request::container::{Container, Part};
use crate::request::{LaunchId, Request};
use crate::sandbox::environment;
use crate::sandbox::layout::{self, Account, Protected};
use crate::sandbox::tree::{Builder, HostObject, Origin, canonical};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};

/// What was put together.
pub(super) struct Room {
    /// The root; nothing is added to it any more.
    pub builder: Builder,
    /// Resolved path of the image; `None` for the host's own system.
    pub image: Option<PathBuf>,
    /// Content ids of the image.
    pub image_ids: Vec<String>,
    /// What was handed over.
    pub mounts: Vec<HandedOver>,
    /// Where the payload starts, inside.
    pub start_dir: PathBuf,
    /// Variables.
    pub env: BTreeMap<OsString, OsString>,
    /// Paths to try for the command.
    pub commands: Vec<CString>,
    /// What the image's shell executes in the end, by its path.
    pub behind: Option<CString>,
    /// argv.
    pub argv: Vec<OsString>,
    /// What the record names as the command.
    pub words: Vec<OsString>,
    /// What was asked for and is not done.
    pub unheeded: Vec<String>,
    /// The host name, where it is not the host's.
    pub hostname: Option<CString>,
}

/// For whom it is made.
#[derive(Clone, Copy)]
pub(super) struct For<'a> {
    pub id: LaunchId,
    pub request: &'a Request,
    pub obligations: &'a Obligations,
    pub config: &'a Config,
    pub caller: &'a Caller,
    pub log_dir: Option<&'a Path>,
    /// What may only be read.
    pub readonly: &'a [Asked],
}

/// The root, then what every payload has, then what the site shows, then what was handed over; what must stay hidden last.
pub(super) fn build(opened: Opened, of: For<'_>) -> Result<Room, Failure> {
    let For { request, config, .. } = of;
    match (&request.container, opened) {
        (Some(container), Opened { image: Some(image), binds, places: Some(places), .. }) => {
            of_container(container, image, binds, places, of)
        }
        (_, Opened { image, workdir, binds, .. }) => {
            let image = match image {
                Some(object) => image::root(object, request.writable),
                None => image::host(&config.root)?,
            };
            plain(image, workdir, binds, of)
        }
    }
}

fn plain(
    image: image::Image,
    workdir: Option<HostObject>,
    binds: Vec<HostObject>,
    of: For<'_>,
) -> Result<Room, Failure> {
    let For { id, request, config, caller, .. } = of;
    let mut builder = image.builder;
    let home =
        workdir.as_ref().map_or_else(|| PathBuf::from(layout::PRIVATE_WORKDIR), |dir| dir.path.clone());
    let pilots: Vec<PathBuf> = workdir.iter().map(|_| home.clone()).collect();
    let user = caller.account();
    let account = Account { name: &user, uid: caller.uid, gid: caller.gid, home: &home, files: None };
    layout::add_private_parts(&mut builder, &account, &config.root)?;
    if image.path.is_some() {
        image::bind_over(&mut builder, &config.root.image_etc)?;
    }
    image::bind_always(&mut builder, &config.root)?;
    let start_dir = layout::add_workdir(&mut builder, workdir)?;
    for (bind, object) in request.binds.iter().zip(binds) {
        layout::add_bind(&mut builder, bind, object, &config.root.late_mounts)?;
    }
    let mounts = handed_over(&builder);
    let shows = !pilots.is_empty() || !request.binds.is_empty();
    layout::protect(&mut builder, &protected(of, &pilots, shows, &[])?)?;
    let own = environment::Own { id: id.as_str(), home: &start_dir, user: &user };
    let env = environment::build(
        &config.environment,
        &own,
        &caller.env,
        &request.pass_env,
        &request.env,
        &|path| builder.is_handed(path),
    )?;
    Ok(Room {
        commands: commands(request.command.first(), &env)?,
        behind: None,
        argv: request.command.clone(),
        words: request.command.clone(),
        image: image.path,
        image_ids: image.content_ids,
        mounts,
        start_dir,
        env,
        unheeded: Vec::new(),
        hostname: None,
        builder,
    })
}

fn of_container(
    container: &Container,
    image: HostObject,
    binds: Vec<HostObject>,
    places: Places,
    of: For<'_>,
) -> Result<Room, Failure> {
    let For { id, request, config, caller, .. } = of;
    let user = places.user.clone();
    let home = places.home.clone();
    let mut account = Account { name: &user, uid: caller.uid, gid: caller.gid, home: &home, files: None };
    let mut unheeded = container.unheeded.clone();
    account.files = Some(container::passwd_and_group(&image, &account, &mut unheeded));
    let image = image::root(image, request.writable);
    let mut builder = image.builder;
    layout::add_private_parts(&mut builder, &account, &config.root)?;
    // The site's own files of names stay whatever is asked: without them nothing is found.
    image::bind_over(&mut builder, &config.root.image_etc)?;
    if !container.no_mount.contains(&Part::BindPaths) {
        image::bind_always(&mut builder, &config.root)?;
        container::localtime(&mut builder)?;
    }
    let hostname = match &container.hostname {
        Some(_) if config.sandbox.uts_namespace == Demand::Off => {
            unheeded.push("--hostname: it has the host's (sandbox.uts_namespace)".to_owned());
            None
        }
        Some(name) => Some(container::hostname(name, &mut builder)?),
        None => None,
    };
    let readonly: Vec<usize> = of
        .readonly
        .iter()
        .filter_map(|asked| match asked {
            Asked::Place(place) => Some(*place),
            Asked::Bind(_) => None,
        })
        .collect();
    let strict = of.obligations.profile == Profile::Strict;
    let own = own_files(of)?;
    let own_paths = [own.0.as_deref(), own.1.as_deref()];
    let manner = Manner { strict, dry_run: request.dry_run, readonly: &readonly, own: own_paths };
    let mut furnished = container::furnish(&mut builder, places, manner)?;
    unheeded.append(&mut furnished.unheeded);
    let mut ordered: Vec<_> = request.binds.iter().zip(binds).collect();
    ordered.sort_by_cached_key(|(bind, _)| container::depth(&builder, &bind.target));
    let mut taken: Vec<&Path> = Vec::with_capacity(ordered.len());
    for (bind, object) in ordered {
        // Of two with one target the first is seen.
        if taken.contains(&bind.target.as_path()) {
            unheeded.push(format!(
                "the bind of {} at {}: another bind is there",
                bind.source.display(),
                bind.target.display()
            ));
            continue;
        }
        taken.push(&bind.target);
        container::mount_point(&mut builder, &bind.target, object.stat.is_dir(), request.dry_run)?;
        layout::add_bind(&mut builder, bind, object, &config.root.late_mounts)?;
    }
    let mounts = handed_over(&builder);
    let start_dir = container::start_dir(&builder, &furnished.starts, container.cwd.is_some())?;
    let exempt = container::exempt(request, &builder);
    let shows = furnished.shows || !request.binds.is_empty();
    layout::protect(&mut builder, &protected(of, &furnished.pilots, shows, &exempt)?)?;
    let host =
        if container.clean_env || strict { HostVariables::Clean } else { config.apptainer.environment };
    if host == HostVariables::Clean && !container.clean_env {
        unheeded.push("the pilot's variables (apptainer.environment)".to_owned());
    }
    let at = image.path.clone().unwrap_or_default();
    let inside = Inside { id: id.as_str(), home: &home, start_dir: &start_dir, image: &at, host };
    let mut variables = container::variables(container, request, caller, &inside, &builder);
    if !variables.outside.is_empty() {
        unheeded.push(format!("variables: {}", unheeded::names(&variables.outside)));
        variables.outside.clear();
    }
    container::bring_along(container, &mut builder)?;
    let run = container::start(container, &request.command, &builder, variables)?;
    Ok(Room {
        commands: commands(Some(&run.program()), &run.env)?,
        behind: run.behind()?,
        argv: run.argv,
        words: run.words,
        image: image.path,
        image_ids: image.content_ids,
        mounts,
        start_dir,
        env: run.env,
        unheeded: unheeded::bounded(unheeded),
        hostname,
        builder,
    })
}

fn handed_over(builder: &Builder) -> Vec<HandedOver> {
    builder
        .shown()
        .filter(|shown| shown.origin == Origin::Handed)
        .map(|shown| HandedOver {
            source: shown.host.into(),
            target: shown.inside.into(),
            mode: if shown.writable { "rw" } else { "ro" },
        })
        .collect()
}

/// `pilots`: directories that the pilot works in, canonical. `shows`: something of the host is handed over. `exempt`: credentials
/// that are the payload's own.
fn protected(of: For<'_>, pilots: &[PathBuf], shows: bool, exempt: &[PathBuf]) -> Result<Protected, Failure> {
    let For { caller, .. } = of;
    let mut credentials: Vec<PathBuf> = Vec::new();
    for path in environment::credential_files(&caller.env) {
        credentials.extend(canonical(path)?);
    }
    if shows {
        credentials.extend(layout::well_known_credentials(caller.uid)?);
    }
    for dir in pilots {
        credentials.extend(layout::pilot_files(dir)?);
    }
    credentials.retain(|path| !exempt.contains(path));
    let (log_dir, status_file) = own_files(of)?;
    let [_, copy] = store::places(caller.uid);
    Ok(Protected { log_dir, status_file, credentials, copy })
}

/// Where the log is or will be, and where the status file will be, canonical.
fn own_files(of: For<'_>) -> Result<(Option<PathBuf>, Option<PathBuf>), Failure> {
    let For { request, caller, log_dir, .. } = of;
    let mut status_file = None;
    if let Some(path) = &request.status_file {
        let path = absolute(path, caller, "--status-file")?;
        if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
            status_file = canonical(dir)?.map(|dir| dir.join(name));
        }
    }
    // A log that does not exist yet is made below a directory that does: that one must not be handed over writable.
    let mut log = None;
    for existing in log_dir.iter().flat_map(|dir| dir.ancestors()) {
        if let Some(found) = canonical(existing)? {
            log = log_dir.and_then(|dir| dir.strip_prefix(existing).ok()).map(|rest| found.join(rest));
            break;
        }
    }
    Ok((log, status_file))
}
