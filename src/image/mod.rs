//! From `--image PATH`, or none, to a root directory that a payload can live in, and to what the image says of itself.
#![forbid(unsafe_code)]

pub mod end_of_life;
pub mod facts;
pub mod labels;
pub mod os_release;
pub mod sif;

use crate::config;
use crate::failure::{Failure, errno_text};
use crate::input::Trouble;
use crate::sandbox::tree::{Builder, HostObject, Origin, READ_ONLY, cannot_open, is_absent, unseen};
use crate::sys::{Errno, fs};
use facts::Told;
use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The root that was chosen.
pub struct Image {
    /// The tree with nothing but the root in it.
    pub builder: Builder,
    /// Resolved path of the image; `None` for the host's own system.
    pub path: Option<PathBuf>,
    /// Digests that the path itself tells: the content id of an unpacked image.
    pub content_ids: Vec<String>,
}

/// Does anybody want to know what the image says of itself? It costs two opened files, perhaps on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Yes: read it.
    Inside,
    /// No: nothing is opened.
    Not,
}

/// Opens an image directory.
///
/// # Errors
/// It is not there, no directory, or nothing that a payload may have as its root.
pub fn open(path: &Path) -> Result<HostObject, Failure> {
    let what = format!("cannot use the image {}", path.display());
    let next = "name a directory that holds a root file system, such as one below /cvmfs/unpacked.cern.ch";
    let object = HostObject::open(path).map_err(|errno| {
        cannot_open(&what, errno, || {
            let next = match errno {
                Errno::ELOOP => "a symbolic link of the path points to itself; name another",
                Errno::EACCES => "let this uid search the path and read the directory",
                _ => next,
            };
            Failure::usage(&what, errno_text(errno), next)
        })
    })?;
    if !object.stat.is_dir() {
        let why = "it is a file, not a directory; SIF and SquashFS images are not supported yet";
        return Err(Failure::usage(&what, why, next));
    }
    if let Some(why) = object.refusal() {
        let next = "name a directory that holds a root file system; bailey exec without --image shows the host's, as root.host says";
        return Err(Failure::usage(&what, why, next));
    }
    Ok(object)
}

/// What an image says of itself, where anybody wants to know.
pub fn told(object: &HostObject, look: Look) -> Told {
    match look {
        Look::Inside => facts::of_directory(object.as_fd()),
        Look::Not => Told::default(),
    }
}

/// A small text file of the image; empty where there is none.
///
/// # Errors
/// It cannot be read, and why.
pub fn text_file(object: &HostObject, path: &CStr) -> Result<Vec<u8>, String> {
    match facts::read_inside(object.as_fd(), path) {
        Err(Trouble::System(error))
            if error
                .raw_os_error()
                .map(Errno::from_raw)
                .is_some_and(|errno| matches!(errno, Errno::ENOENT | Errno::ENOTDIR)) =>
        {
            Ok(Vec::new())
        }
        read => read.map_err(|trouble| trouble.to_string()),
    }
}

/// Where programs for i386 have their loader: glibc's, musl's.
const LOADERS_32BIT: [&CStr; 2] = [c"/lib/ld-linux.so.2", c"/lib/ld-musl-i386.so.1"];

/// Whether a dynamic 32-bit program could start on this root: `None` is the host's own system. (On aarch64 none can.)
///
/// # Errors
/// It could not be seen.
pub fn runs_32bit_programs(image: Option<&HostObject>) -> Result<bool, Failure> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(false);
    }
    for loader in LOADERS_32BIT {
        let found = match image {
            Some(image) => {
                fs::open_how(image.as_fd(), loader, libc::O_PATH, 0, fs::Resolve::InRoot).map(drop)
            }
            None => fs::mode_of(loader).map(drop),
        };
        match found {
            Ok(()) => return Ok(true),
            Err(errno) if is_absent(errno) => {}
            Err(errno) => return Err(unseen(Path::new(OsStr::from_bytes(loader.to_bytes())), errno)),
        }
    }
    Ok(false)
}

/// An image directory as root.
pub fn root(object: HostObject, writable: bool) -> Image {
    let path = object.path.clone();
    Image {
        content_ids: content_ids(&path),
        builder: Builder::from_image(object, writable),
        path: Some(path),
    }
}

/// The host's system, read-only: the listed directories, and of /etc only the listed names.
pub fn host(root: &config::Root) -> Result<Image, Failure> {
    let mut builder = Builder::from_nothing();
    for path in &root.host {
        // On a merged /usr, /bin is a link to usr/bin: the payload gets the same link, not a second mount.
        match nix::fcntl::readlink(path) {
            Ok(to) if !Path::new(&to).is_absolute() && path.parent() == Some(Path::new("/")) => {
                builder.add_link(path, &to)?;
                continue;
            }
            Ok(_) | Err(Errno::EINVAL) => {} // it is no link
            Err(errno) if is_absent(errno) => {}
            Err(errno) => return Err(cannot_show(path, errno)),
        }
        bind_if_there(&mut builder, path, path)?;
    }
    for name in &root.host_etc {
        let path = Path::new("/etc").join(name);
        bind_if_there(&mut builder, &path, &path)?;
    }
    Ok(Image { builder, path: None, content_ids: Vec::new() })
}

/// What the site's lists name must be as harmless as what a command line may name.
fn judge(object: HostObject, source: &Path) -> Result<HostObject, Failure> {
    match object.refusal() {
        // Parts of sysfs are listed on purpose.
        Some(why) if !object.path.starts_with("/sys/") => Err(Failure::site(
            format!("cannot show {} to the payload", source.display()),
            why,
            "take it, or the symbolic link that leads to it, out of the [root] lists in /etc/bailey/bailey.toml",
        )),
        _ => Ok(object),
    }
}

/// Binds a path read-only at its own name, or does nothing when the host has no such thing.
pub fn bind_if_there(builder: &mut Builder, source: &Path, target: &Path) -> Result<(), Failure> {
    match listed(source)? {
        Some(object) => builder.add_system_bind(object, target, READ_ONLY, Origin::Image),
        None => Ok(()),
    }
}

fn cannot_show(source: &Path, errno: Errno) -> Failure {
    let what = format!("cannot show {} to the payload", source.display());
    cannot_open(&what, errno, || {
        let next = "repair it, or take it out of the [root] lists in /etc/bailey/bailey.toml";
        Failure::site(&what, errno_text(errno), next)
    })
}

/// What a list names, where the host has it.
fn listed(path: &Path) -> Result<Option<HostObject>, Failure> {
    match HostObject::open(path) {
        Ok(object) => Ok(Some(judge(object, path)?)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(None),
        Err(errno) => Err(cannot_show(path, errno)),
    }
}

/// Binds the host's files over an image's, where the image's own links lead to.
pub fn bind_over(builder: &mut Builder, paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        if let Some(object) = listed(path)? {
            builder.add_bind(object, path, READ_ONLY, false, Origin::Site)?;
        }
    }
    Ok(())
}

/// Binds what the site always shows (/cvmfs), following late mounts where it says so.
pub fn bind_always(builder: &mut Builder, root: &config::Root) -> Result<(), Failure> {
    for path in &root.always {
        if let Some(object) = listed(path)? {
            let follow = root.late_mounts.iter().any(|root| path.starts_with(root));
            builder.add_bind(object, path, READ_ONLY, follow, Origin::Site)?;
        }
    }
    Ok(())
}

/// Unpacked container images name themselves by content: `.flat/ab/<sha256>` or `.images/ab/<sha256>` in the path.
pub fn content_ids(path: &Path) -> Vec<String> {
    let parts: Vec<&str> = path.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let mut ids = Vec::new();
    for window in parts.windows(3) {
        if let [".flat" | ".images" | ".layers", _, id] = window {
            let id = id.strip_prefix("sha256:").unwrap_or(id);
            if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
                ids.push(format!("sha256:{}", id.to_ascii_lowercase()));
            }
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ids_come_from_the_path() {
        let id = "7b7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c";
        let path = PathBuf::from(format!("/cvmfs/unpacked.cern.ch/.flat/7b/{id}"));
        assert_eq!(content_ids(&path), vec![format!("sha256:{id}")]);
        assert!(content_ids(Path::new("/cvmfs/.flat/7b/short")).is_empty());
        assert!(content_ids(Path::new("/images/debian")).is_empty());
    }
}
