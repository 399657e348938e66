//! Finds, judges and reads the configuration files, and lays them over the defaults in order.
//!
//! 1. Without a file this MUST cost next to nothing: every launch on a node that nobody configured comes through here.
//! 2. Owner, mode and kind MUST be judged on the opened descriptor. Who can write a file here decides what payloads may.
//! 3. A file that is there and cannot be used MUST be an error, never a return to the defaults.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};

use super::schema::Keys;
use super::{Config, diagnose};
use crate::audit::time::Timestamp;
use crate::failure::{Failure, errno_text, io_text};
use crate::input;
use crate::policy::store::stamp::{self, Stamp};

/// The largest file that is read.
pub(crate) const LIMIT: u64 = 1 << 20;

/// Where the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The main file.
    pub main: PathBuf,
    /// The directory whose `*.toml` come after it, in the order of their names.
    pub conf_d: Option<PathBuf>,
    /// Whether a missing main file is an error; otherwise the embedded default holds.
    pub main_must_exist: bool,
}

impl Place {
    /// `/etc/bailey`. In test builds `BAILEY_CONFIG` names one file to be used instead.
    pub fn system() -> Self {
        #[cfg(feature = "test-hooks")]
        if let Some(main) = std::env::var_os("BAILEY_CONFIG") {
            return Self { main: main.into(), conf_d: None, main_must_exist: true };
        }
        Self {
            main: "/etc/bailey/bailey.toml".into(),
            conf_d: Some("/etc/bailey/conf.d".into()),
            main_must_exist: false,
        }
    }
}

/// Reads the configuration. Any fault in any file is an error (exit code 125, the site's fault).
pub fn load(place: &Place) -> Result<Config, Failure> {
    load_stamped(place, Timestamp::now()).map(|(config, _)| config)
}

/// The same, and by what to tell whether any of the files has changed since.
pub(crate) fn load_stamped(place: &Place, now: Timestamp) -> Result<(Config, Vec<Stamp>), Failure> {
    let mut sources = Vec::new();
    let mut stamps = Vec::new();
    match find(&place.main)? {
        Found::File(file) => {
            let (source, metadata) = read(&place.main, &file)?;
            stamps.push(Stamp::of(&place.main, &metadata, &source.1, now));
            sources.push(source);
        }
        _ if place.main_must_exist => {
            return Err(Failure::site(
                format!("cannot open the configuration {}", place.main.display()),
                errno_text(nix::errno::Errno::ENOENT),
                "create it, or name another file",
            ));
        }
        // Nobody configured this node: two failed system calls, and done.
        Found::NoDirectory if place.conf_d.as_deref().and_then(Path::parent) == place.main.parent() => {
            return Ok((Config::default(), vec![Stamp::absent(&place.main)]));
        }
        Found::NoDirectory | Found::NoFile => stamps.push(Stamp::absent(&place.main)),
    }
    if let Some(dir) = &place.conf_d {
        match find(dir)? {
            Found::File(opened) => read_directory(dir, opened, &mut sources, &mut stamps, now)?,
            _ => stamps.push(Stamp::absent(dir)),
        }
    }
    merge(&sources).map(|config| (config, stamps))
}

/// By what to tell whether any of the files has changed, also where they cannot be used.
pub(crate) fn stamps(place: &Place, now: Timestamp) -> Vec<Stamp> {
    let of = |path: &Path| {
        let held = |metadata: &Metadata| {
            if metadata.is_dir() { stamp::names(path) } else { std::fs::read(path) }.unwrap_or_default()
        };
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() || metadata.is_file() => {
                Stamp::of(path, &metadata, &held(&metadata), now)
            }
            Ok(metadata) => Stamp::of(path, &metadata, &[], now),
            Err(_) => Stamp::absent(path),
        }
    };
    let mut stamps = vec![of(&place.main)];
    if let Some(dir) = &place.conf_d {
        stamps.push(of(dir));
        let names = stamp::names(dir).unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| name.ends_with(b".toml"));
        stamps.extend(names.map(|name| of(&dir.join(OsStr::from_bytes(name)))));
    }
    stamps
}

/// The configuration that these texts make, in order, over the defaults.
pub(crate) fn merge(sources: &[(PathBuf, Vec<u8>)]) -> Result<Config, Failure> {
    let mut config = Config::default();
    if sources.is_empty() {
        return Ok(config);
    }
    let mut hash = Sha256::new();
    for (path, bytes) in sources {
        hash.update(bytes);
        parse(path, bytes)?.apply(&mut config);
        config.files.push(path.clone());
    }
    config.hash = hex(&hash.finalize());
    check_log_is_hidden(&config)?;
    super::limits::check(&config.limits)?;
    super::policy::check(&config)?;
    Ok(config)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Keys, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let text = String::from_utf8_lossy(valid);
        let span = error.valid_up_to()..error.valid_up_to();
        diagnose::at(
            path,
            &text,
            Some(span),
            "found bytes that are not UTF-8",
            "save it as UTF-8, then check it",
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    toml::from_str(text).map_err(|error| diagnose::explain(path, text, &error))
}

/// The log names every user of the node, so it may lie in nothing that payloads see.
fn check_log_is_hidden(config: &Config) -> Result<(), Failure> {
    let Some(dir) = &config.audit.dir else {
        return Ok(());
    };
    let etc = config.root.host_etc.iter().map(|name| Path::new("/etc").join(name));
    let root = &config.root;
    let lists = [&root.host, &root.always, &root.image_etc, &root.sys];
    let mut shown = lists.into_iter().flatten().cloned().chain(etc);
    match shown.find(|path| dir.starts_with(path)) {
        None => Ok(()),
        Some(path) => Err(Failure::site(
            format!("cannot use the configuration: audit.dir is {}", dir.display()),
            format!("payloads see {}, and must not see the log", path.display()),
            "choose a directory that no list in [root] shows",
        )),
    }
}

enum Found {
    File(File),
    NoFile,
    /// Not even the directory that would hold it.
    NoDirectory,
}

/// Opens `path`, if it is there. A symbolic link that leads nowhere is an error: somebody wanted a configuration here, and
/// where its file system is not mounted, the defaults must not take its place.
fn find(path: &Path) -> Result<Found, Failure> {
    let missing = match input::open(path) {
        Ok(file) => return Ok(Found::File(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        Err(error) => return Err(unreadable(path, &error)),
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        if is_absent(parent) {
            return Ok(Found::NoDirectory);
        }
        if let Err(error) = parent.metadata() {
            return Err(unreadable(parent, &error));
        }
    }
    if is_absent(path) {
        return Ok(Found::NoFile);
    }
    Err(unreadable(path, &missing))
}

fn is_absent(path: &Path) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::site(
        format!("cannot open the configuration {}", path.display()),
        io_text(error),
        "give every account that runs bailey read access to it, or remove it",
    )
}

/// Judges and reads one opened file.
fn read(path: &Path, file: &File) -> Result<((PathBuf, Vec<u8>), Metadata), Failure> {
    let (metadata, bytes) = input::read_small(file, LIMIT).map_err(|trouble| {
        Failure::site(
            format!("cannot read the configuration {}", path.display()),
            trouble.to_string(),
            "put a TOML file of at most 1 MiB there, or remove it",
        )
    })?;
    check_writers(path, &metadata)?;
    Ok(((path.to_owned(), bytes), metadata))
}

/// Adds the `*.toml` of an opened directory. Hidden names are left out: editors keep their temporary files there.
fn read_directory(
    path: &Path,
    dir: File,
    sources: &mut Vec<(PathBuf, Vec<u8>)>,
    stamps: &mut Vec<Stamp>,
    now: Timestamp,
) -> Result<(), Failure> {
    let metadata = dir.metadata().map_err(|error| unreadable(path, &error))?;
    if !metadata.is_dir() {
        return Err(Failure::site(
            format!("cannot read the configuration directory {}", path.display()),
            "it is not a directory",
            "make it a directory that holds *.toml files, or remove it",
        ));
    }
    check_writers(path, &metadata)?;
    let held = stamp::names(path).map_err(|error| unreadable(path, &error))?;
    stamps.push(Stamp::of(path, &metadata, &held, now));
    let failed = |path: &Path, errno: nix::errno::Errno| unreadable(path, &io::Error::from(errno));
    let mut dir = nix::dir::Dir::from_fd(dir.into()).map_err(|errno| failed(path, errno))?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(|errno| failed(path, errno))?;
        let name = entry.file_name().to_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    for name in names {
        let file = path.join(&name);
        let opened =
            nix::fcntl::openat(&dir, name.as_os_str(), OFlag::O_RDONLY | input::FLAGS, Mode::empty())
                .map_err(|errno| failed(&file, errno))?;
        let (source, metadata) = read(&file, &File::from(opened))?;
        stamps.push(Stamp::of(&file, &metadata, &source.1, now));
        sources.push(source);
    }
    Ok(())
}

/// Refuses what somebody else could write. (A POSIX ACL that lets anybody write shows in the group's bits, acl(5).)
fn check_writers(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    let file = path.display();
    let (why, next) = if metadata.mode() & 0o022 != 0 {
        (
            format!(
                "others can write it (mode {:04o}), and so decide what payloads may",
                metadata.mode() & 0o7777
            ),
            format!("run 'chmod go-w {file}'"),
        )
    } else if metadata.uid() != 0 && metadata.uid() != nix::unistd::geteuid().as_raw() {
        (
            format!("it belongs to uid {}, expected root", metadata.uid()),
            format!(
                "run 'chown root:root {file}' (in a container: map root, or copy the file into the image)"
            ),
        )
    } else {
        return Ok(());
    };
    Err(Failure::site(format!("cannot trust the configuration {file}"), why, next))
}
