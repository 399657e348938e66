//! What the payload would see so far: layers of mounts, and looking through them as a path resolution inside would.
#![forbid(unsafe_code)]

use super::builder::{Builder, UPPER, join};
use super::pathmap::PathMap;
use super::{HostObject, Node, Source, cstring, is_absent, unseen};
use crate::failure::Failure;
use crate::sys::fs::{Stat, stat_at};
use crate::sys::mount::Attr;
use crate::sys::{Errno, fs};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The most symlinks that one path may lead through, as in the kernel (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Who asked for a mount; decides what may lie on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// bailey's own: /dev, /proc, /tmp, generated files, skeletons, masks.
    System,
    /// The image or the host's system.
    Image,
    /// The site's configuration.
    Site,
    /// The command line: `--bind`, `--workdir`.
    Handed,
}

/// A directory or file of the host, as the payload will see it.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Canonical path on the host.
    pub host: &'a Path,
    /// Path inside.
    pub inside: &'a Path,
    /// May the payload write to it?
    pub writable: bool,
    /// Who asked for it.
    pub origin: Origin,
    /// Device and inode: the same directory may have several names, by a mount of it elsewhere.
    pub identity: (u64, u64),
}

/// What stands behind a path of the planned tree.
#[derive(Debug)]
pub(super) enum Backing {
    /// A directory of the private tmpfs: entries are nodes, new ones can be added.
    Base(PathBuf),
    /// A directory of the host.
    HostDir { dir: Opened, path: PathBuf, writable: bool },
    /// The image below a writable layer: what is made lies in `upper` of the private tmpfs, over what the image has.
    Layered { dir: Opened, path: PathBuf },
    /// One file.
    File { host: Option<PathBuf> },
    /// A file system of its own in which nothing can be placed: proc, devpts.
    Closed,
}

/// An opened directory, and what was found below it so far: mount points share their first parts.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    pub(super) seen: RefCell<PathMap<Option<Kind>>>,
}

impl Opened {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, seen: RefCell::default() }
    }

    /// What a name below it is; the last symlink is not followed.
    fn kind(&self, rest: &Path) -> Result<Option<Kind>, Errno> {
        if let Some(known) = self.seen.borrow().get(rest) {
            return Ok(*known);
        }
        let kind = match stat_at(self.fd.as_fd(), &cstring(rest.as_os_str())) {
            Ok(stat) => Some(kind_of(&stat)),
            Err(errno) if is_absent(errno) => None,
            Err(errno) => return Err(errno),
        };
        self.seen.borrow_mut().insert(rest.to_path_buf(), kind);
        Ok(kind)
    }
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) backing: Backing,
    pub(super) source: Source,
    pub(super) attr: Attr,
    pub(super) follow_host: bool,
    pub(super) origin: Origin,
}

/// What a path of the planned tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A file, device, socket...
    File,
}

impl Builder {
    /// Where directories and files of the host lie inside.
    pub fn shown(&self) -> impl Iterator<Item = Shown<'_>> {
        self.layers.iter().filter(|(_, layer)| layer.origin != Origin::System).filter_map(
            |(inside, layer)| {
                let (Backing::HostDir { path: host, .. }
                | Backing::Layered { path: host, .. }
                | Backing::File { host: Some(host) }) = &layer.backing
                else {
                    return None;
                };
                let (Source::Host { dev, ino, .. } | Source::Overlay { dev, ino, .. }) = layer.source else {
                    return None;
                };
                Some(Shown {
                    host,
                    inside,
                    writable: !layer.attr.read_only,
                    origin: layer.origin,
                    identity: (dev, ino),
                })
            },
        )
    }

    /// Does the path, seen from inside, exist and lie on something that the command line handed over?
    pub fn is_handed(&self, path: &Path) -> bool {
        let Ok(clean) = self.resolve(path) else {
            return false;
        };
        self.kind(&clean).is_some() && self.locate(&clean).0.origin == Origin::Handed
    }

    /// The path on the host of what the command line handed over at this path inside; `None` where that is anything else.
    pub fn handed_source(&self, path: &Path) -> Option<PathBuf> {
        let clean = self.resolve(path).ok()?;
        let (layer, rest) = self.locate(&clean);
        match &layer.backing {
            _ if layer.origin != Origin::Handed => None,
            Backing::HostDir { path, .. } => Some(join(path, rest)),
            Backing::File { host } => host.clone(),
            _ => None,
        }
    }

    /// The directory of the host at this clean path, where it was handed over and the payload may write to it. It is opened below
    /// what was handed over and through no symbolic link: another payload may make one at any time.
    ///
    /// # Errors
    /// What was a directory when it was looked at is none any more.
    pub fn handed_writable(&self, path: &Path) -> Result<Option<HostObject>, Errno> {
        let (layer, rest) = self.locate(path);
        match &layer.backing {
            Backing::HostDir { dir, path, writable: true } if layer.origin == Origin::Handed => {
                let name = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                let name = cstring(name.as_os_str());
                let fd = fs::open_how(dir.fd.as_fd(), &name, flags, 0, fs::Resolve::BeneathNoSymlinks)?;
                HostObject::of(fd, join(path, rest)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Forgets what was seen: something was made on the host.
    pub fn look_again(&mut self) {
        for (_, layer) in self.layers.iter() {
            if let Backing::HostDir { dir, .. } | Backing::Layered { dir, .. } = &layer.backing {
                dir.seen.replace(PathMap::default());
            }
        }
    }

    /// What is at a clean path. What cannot be seen is not there, and then [`Builder::finish`] gives no tree.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        let (layer, rest) = self.locate(path);
        let of_host = |dir: &Opened| {
            dir.kind(rest).unwrap_or_else(|errno| {
                self.trouble.borrow_mut().get_or_insert_with(|| unseen(path, errno));
                None
            })
        };
        match &layer.backing {
            Backing::Base(base) => self.nodes.get(&join(base, rest)).map(Node::kind),
            Backing::HostDir { .. } | Backing::Layered { .. } if rest.as_os_str().is_empty() => {
                Some(Kind::Dir)
            }
            Backing::HostDir { dir, .. } => of_host(dir),
            Backing::Layered { dir, .. } => {
                let own = self.nodes.get(&Path::new(UPPER).join(rest)).map(Node::kind);
                own.or_else(|| of_host(dir))
            }
            Backing::File { .. } => rest.as_os_str().is_empty().then_some(Kind::File),
            Backing::Closed => rest.as_os_str().is_empty().then_some(Kind::Dir),
        }
    }

    /// Resolves a path as the payload would, `..` and symlinks held inside the root. What does not exist stays as written.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Failure> {
        let wrong = |why: &str| {
            Failure::usage(
                format!("cannot use the path {} inside the sandbox", path.display()),
                why,
                "name a path that the image does not redirect in circles",
            )
        };
        let mut todo: Vec<OsString> = reversed(path);
        let mut clean = PathBuf::from("/");
        let mut links = 0;
        let mut missing = false;
        while let Some(part) = todo.pop() {
            if part == ".." {
                clean.pop();
                continue;
            }
            let next = clean.join(&part);
            match if missing { None } else { self.kind(&next) } {
                Some(Kind::Link) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(wrong("too many levels of symbolic links (ELOOP)"));
                    }
                    let to = self.link(&next).ok_or_else(|| wrong("a symbolic link could not be read"))?;
                    if to.is_absolute() {
                        clean = PathBuf::from("/");
                    }
                    todo.extend(reversed(&to));
                }
                Some(Kind::File) if !todo.is_empty() => {
                    return Err(wrong("a file stands where a directory is needed (ENOTDIR)"));
                }
                Some(_) => clean = next,
                None => {
                    missing = true;
                    clean = next;
                }
            }
        }
        Ok(clean)
    }

    /// The layer on which a clean path lies, and the rest of the path in it. The root layer is always there.
    pub(super) fn locate<'a>(&self, path: &'a Path) -> (&Layer, &'a Path) {
        match self.layers.nearest(path) {
            Some(found) => found,
            None => unreachable!("the constructors insert the root layer"),
        }
    }

    pub(super) fn link(&self, path: &Path) -> Option<PathBuf> {
        let (layer, rest) = self.locate(path);
        match &layer.backing {
            Backing::Base(base) => match self.nodes.get(&join(base, rest))? {
                Node::Link(to) => Some(PathBuf::from(OsStr::from_bytes(to.to_bytes()))),
                _ => None,
            },
            Backing::HostDir { dir, .. } | Backing::Layered { dir, .. } => {
                nix::fcntl::readlinkat(&dir.fd, rest).ok().map(PathBuf::from)
            }
            _ => None,
        }
    }
}

pub(super) fn kind_of(stat: &Stat) -> Kind {
    if stat.is_dir() {
        Kind::Dir
    } else if stat.is_symlink() {
        Kind::Link
    } else {
        Kind::File
    }
}

/// The parts of a path, last first, `.` and the root left out.
fn reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from_vec(b"..".to_vec())),
            _ => None,
        })
        .collect()
}
