//! Flags and image → [`Request`].
#![forbid(unsafe_code)]

use super::binds::{absolute, inside, of_list, of_mount};
use super::flags::{Ask, Standing};
use super::words::{Command, Words, not_understood, unusable};
use super::{environment, images, limits};
use crate::failure::Failure;
use crate::host::Caller;
use crate::host::starter_is_parent;
use crate::request::container::{Container, Home, Part, Runtime, Start};
use crate::request::{Bind, Network, Request};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most binds of one call: half of the files that an account may have open as a rule (1024).
const MOST_BINDS: usize = 500;

/// The call as far as it is known before its flags are: what a record says of one that cannot be understood.
pub(super) fn begun(runtime: Runtime, command: Command, caller: &Caller) -> Request {
    let start = match command {
        Command::Exec | Command::Inspect => Start::Exec,
        Command::Run => Start::Run,
        Command::Test => Start::Test,
        Command::Shell => Start::Shell,
    };
    let identity = caller.var("BAILEY_IDENTITY").filter(|path| !path.is_empty());
    // HTCondor's starter hands on the environment of the job: that user is no pilot who waits for a file.
    let status_file = caller.var("BAILEY_STATUS_FILE").filter(|path| !path.is_empty());
    Request {
        status_file: status_file.filter(|_| !starter_is_parent()).map(PathBuf::from),
        status_new: true,
        identity_env: identity.map(PathBuf::from),
        probe: command == Command::Test,
        container: Some(Box::new(Container { runtime, start, ..Container::default() })),
        ..Request::default()
    }
}

/// Adds what the flags say. `rest`: the image, and the words behind it.
///
/// # Errors
/// A flag that is refused, a value that cannot be used, no image.
pub(super) fn fill(
    request: &mut Request,
    words: &mut Words,
    rest: &[OsString],
    command: Command,
    caller: &Caller,
) -> Result<(), Failure> {
    let cwd = caller.cwd.as_deref();
    let mut container = request.container.take().unwrap_or_default();
    let done = contain(request, &mut container, words, caller);
    request.container = Some(container);
    done?;

    let Some((image, behind)) = rest.split_first() else {
        return Err(not_understood(format!("{} needs an image, and none is named", command.as_str())));
    };
    request.image = Some(images::directory(image, cwd)?);
    match command {
        Command::Exec if behind.is_empty() => {
            return Err(not_understood("exec needs a command behind the image, and none is named"));
        }
        Command::Shell if !behind.is_empty() => {
            words.warnings.push("what stands behind the image of shell is left out".to_owned());
        }
        Command::Shell | Command::Inspect => {}
        Command::Exec | Command::Run | Command::Test => request.command = behind.to_vec(),
    }
    Ok(())
}

fn contain(
    request: &mut Request,
    container: &mut Container,
    words: &mut Words,
    caller: &Caller,
) -> Result<(), Failure> {
    let cwd = caller.cwd.as_deref();
    refuse(words, container)?;

    request.binds = binds(words, cwd)?;
    let compat = words.is_on(Ask::Compat);
    let all = words.is_on(Ask::ContainAll) || compat;
    container.contain = words.is_on(Ask::Contain) || all;
    container.clean_env = words.is_on(Ask::CleanEnv) || all;
    container.no_umask = words.is_on(Ask::NoUmask) || compat;
    request.writable = words.is_on(Ask::WritableTmpfs) || compat;
    request.no_pid = words.is_on(Ask::NoPid);
    container.no_home = words.is_on(Ask::NoHome);
    container.nv = words.is_on(Ask::Nv) && !words.is_on(Ask::NoNv);
    container.rocm = words.is_on(Ask::Rocm) && !words.is_on(Ask::NoRocm);
    no_mount(words, container)?;

    container.home = home(words, cwd)?;
    let path = |ask: Ask, read: &dyn Fn(&[u8]) -> Result<PathBuf, &'static str>| {
        words
            .last(ask)
            .map(|given| read(given.value.as_bytes()).map_err(|why| unusable(given, why)))
            .transpose()
    };
    container.cwd = path(Ask::Cwd, &inside)?;
    container.workdir = path(Ask::Workdir, &|text| absolute(text, cwd))?;
    container.shell = path(Ask::Shell, &|text| Ok(PathBuf::from(OsStr::from_bytes(text))))?;
    for place in words.list(Ask::Scratch)? {
        let place = inside(place.as_bytes())
            .map_err(|why| not_understood(format!("the value of --scratch cannot be used: {why}")))?;
        container.scratch.push(place);
    }
    let text = |ask: Ask| {
        words
            .last(ask)
            .map(|given| {
                given.value.to_str().map(ToOwned::to_owned).ok_or_else(|| unusable(given, "it is not UTF-8"))
            })
            .transpose()
    };
    container.hostname = text(Ask::Hostname)?;
    container.app = text(Ask::App)?;
    request.network = network(words)?;

    let (limits, unheeded) = limits::asked(words)?;
    request.limits = limits;
    container.unheeded.extend(unheeded);
    for name in words.list(Ask::NoEnv)? {
        let name = environment::name(&name)
            .map_err(|why| not_understood(format!("the value of --no-env cannot be used: {why}")))?;
        container.no_env.push(name);
    }
    let variables = environment::gather(words, caller)?;
    request.env = variables.set;
    container.path = variables.path;
    Ok(())
}

/// What bailey does not do is an error; what it takes without effect is noted.
fn refuse(words: &Words, container: &mut Container) -> Result<(), Failure> {
    for given in words.given.iter().filter(|given| !given.is_off() && !given.value.is_empty()) {
        match given.flag.standing {
            Standing::Refused(instead) => {
                return Err(Failure::usage(
                    format!("cannot do what {} asks", given.name()),
                    "bailey does not offer it",
                    instead,
                ));
            }
            Standing::Unheeded(why) => container.unheeded.push(format!("{}: {why}", given.name())),
            Standing::Honoured(_) | Standing::Moot(_) => {}
        }
    }
    Ok(())
}

fn binds(words: &Words, cwd: Option<&Path>) -> Result<Vec<Bind>, Failure> {
    let mut binds = Vec::new();
    for given in words.of(Ask::Bind) {
        binds.extend(of_list(given.value.as_bytes(), cwd).map_err(|why| unusable(given, why))?);
    }
    for given in words.of(Ask::Mount) {
        binds.extend(of_mount(given.value.as_bytes(), cwd).map_err(|why| unusable(given, why))?);
    }
    if binds.len() > MOST_BINDS {
        return Err(Failure::usage(
            format!("cannot bind {} files and directories", binds.len()),
            format!("each is held open, and {MOST_BINDS} is the most"),
            "bind a directory that holds them",
        ));
    }
    Ok(binds)
}

/// `SRC[:DST]`.
fn home(words: &Words, cwd: Option<&Path>) -> Result<Option<Home>, Failure> {
    let Some(given) = words.last(Ask::Home) else { return Ok(None) };
    let parts: Vec<&[u8]> = given.value.as_bytes().split(|byte| *byte == b':').collect();
    let (source, target) = match parts.as_slice() {
        [both] => (*both, *both),
        [source, target] => (*source, *target),
        _ => return Err(unusable(given, "a home has two parts at most: SRC[:DST]")),
    };
    let source = absolute(source, cwd).map_err(|why| unusable(given, why))?;
    let target = if parts.len() == 1 { inside(source.as_os_str().as_bytes()) } else { inside(target) };
    Ok(Some(Home { source, target: target.map_err(|why| unusable(given, why))? }))
}

fn no_mount(words: &mut Words, container: &mut Container) -> Result<(), Failure> {
    for name in words.list(Ask::NoMount)? {
        match name.as_bytes() {
            b"home" => container.no_mount.push(Part::Home),
            b"tmp" => container.no_mount.push(Part::Tmp),
            b"cwd" => container.no_mount.push(Part::Cwd),
            b"bind-paths" => container.no_mount.push(Part::BindPaths),
            b"hostfs" => {}
            b"proc" | b"sys" | b"dev" | b"devpts" => container.unheeded.push(format!(
                "--no-mount {}: a payload has bailey's own, which shows it nothing of others",
                name.display()
            )),
            [b'/', ..] => container.unheeded.push(format!(
                "--no-mount {}: the site shows it to every payload, or to none",
                name.display()
            )),
            _ => words.warnings.push("Ignoring unknown mount type of --no-mount".to_owned()),
        }
    }
    Ok(())
}

fn network(words: &Words) -> Result<Network, Failure> {
    let refused = |name: &str| {
        Failure::usage(
            format!("cannot do what {name} asks"),
            "to connect a network of its own with the host's takes root",
            "use --network none for no network at all, or leave it out for the host's",
        )
    };
    match words.last(Ask::Network) {
        Some(given) if given.value == "none" => Ok(Network::None),
        Some(given) => Err(refused(&given.name())),
        None if words.is_on(Ask::Net) => Err(refused("--net without --network")),
        None => Ok(Network::Host),
    }
}
