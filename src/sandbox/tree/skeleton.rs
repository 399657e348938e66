//! Mount points that are not there yet: nodes of our own, and skeletons of read-only directories.
#![forbid(unsafe_code)]

use super::builder::{Builder, UPPER, join};
use super::view::{Backing, Opened, kind_of};
use super::{Kind, Node, Origin, Source, cstring, is_absent, unseen};
use crate::failure::{Failure, errno_text};
use crate::sys::fs::stat_at;
use crate::sys::{Errno, fs};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The most entries of a directory that a skeleton binds back.
const MAX_SKELETON: usize = 2000;

impl Builder {
    /// Makes a node at a clean path whose parents exist, where that is ours to do. False: it is not.
    pub(super) fn add_node(&mut self, path: &Path, node: Node) -> bool {
        // What a skeleton bound back of the image gives way, unless something else was put on or below it.
        let below = || self.layers.iter().filter(|(at, _)| at.starts_with(path));
        if path != Path::new("/")
            && self.layers.contains(path)
            && below().all(|(_, layer)| layer.origin == Origin::Image)
        {
            self.layers.remove_tree(path);
        }
        let (layer, rest) = self.locate(path);
        match &layer.backing {
            Backing::Base(base) => {
                let place = join(base, rest);
                self.nodes.insert(place, node);
                true
            }
            Backing::Layered { .. } => {
                let mut place = PathBuf::from(UPPER);
                for part in rest.parent().into_iter().flat_map(Path::components) {
                    place.push(part);
                    self.nodes.insert_new(&place, Node::Dir(0o755));
                }
                self.nodes.insert(Path::new(UPPER).join(rest), node);
                true
            }
            _ => false,
        }
    }

    /// Makes sure that each part of `path` is a real directory (the last one of `kind`), replacing an image's symlinks.
    pub(super) fn make_real(&mut self, path: &Path, kind: Kind) -> Result<(), Failure> {
        self.make_point(path, kind).map_err(|why| {
            self.own_fault().unwrap_or_else(|| {
                Failure::usage(
                    format!("cannot make the mount point {} in the image", path.display()),
                    why,
                    "use an image whose directories can be read, or create the mount point in it",
                )
            })
        })
    }

    /// What stood in the way, where that was this host and not the image.
    pub(super) fn own_fault(&mut self) -> Option<Failure> {
        self.trouble.get_mut().take()
    }

    /// The reason of an error, kept as this host's where it says nothing about the directory.
    fn reason(&self, dir: &Path, errno: Errno) -> String {
        if !is_absent(errno) {
            self.trouble.borrow_mut().get_or_insert_with(|| unseen(dir, errno));
        }
        errno_text(errno)
    }

    /// Makes sure that something of `kind` stands at the clean path `path`, for a mount. The error is the reason.
    pub(super) fn make_point(&mut self, path: &Path, kind: Kind) -> Result<(), String> {
        // One round per skeleton that becomes necessary; each makes at least one more part of the path our own.
        for _ in 0..=path.components().count() {
            let mut parent = PathBuf::from("/");
            let mut blocked = None;
            let parts: Vec<&OsStr> = path
                .components()
                .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
                .collect();
            for (index, part) in parts.iter().enumerate() {
                let next = parent.join(part);
                let wanted = if index + 1 == parts.len() { kind } else { Kind::Dir };
                if self.kind(&next) != Some(wanted) {
                    let node =
                        if wanted == Kind::Dir { Node::Dir(0o755) } else { Node::File(0o644, Vec::new()) };
                    if !self.add_node(&next, node) {
                        blocked = Some((parent, next));
                        break;
                    }
                }
                parent = next;
            }
            match blocked {
                None => return Ok(()),
                Some((parent, without)) => self.make_skeleton(&parent, &without)?,
            }
        }
        Err("the directories on the way could not be replaced".to_owned())
    }

    /// Replaces the read-only directory at `dir` by one of our own with the same entries, except `without`.
    fn make_skeleton(&mut self, dir: &Path, without: &Path) -> Result<(), String> {
        let (layer, rest) = self.locate(dir);
        let (attr, origin) = (layer.attr, layer.origin);
        let missing = || format!("{} does not exist there, or is of another kind", without.display());
        let (fd, host) = match &layer.backing {
            Backing::HostDir { writable: true, .. } => {
                return Err(format!(
                    "{} and bailey makes nothing in a writable directory that was handed over",
                    missing()
                ));
            }
            Backing::HostDir { dir: Opened { fd, .. }, path, .. } => {
                let name =
                    if rest.as_os_str().is_empty() { c".".to_owned() } else { cstring(rest.as_os_str()) };
                let opened = fs::open_how(
                    fd.as_fd(),
                    &name,
                    libc::O_RDONLY | libc::O_DIRECTORY,
                    0,
                    fs::Resolve::BeneathNoSymlinks,
                )
                .map_err(|errno| {
                    format!("{}, and its directory cannot be listed: {}", missing(), self.reason(dir, errno))
                })?;
                (opened, path.join(rest))
            }
            _ => return Err(missing()),
        };
        let name = PathBuf::from(format!("skeleton-{}", self.skeletons));
        self.skeletons += 1;
        let again = fd.try_clone().map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            format!("{}: {}", missing(), self.reason(dir, errno))
        })?;
        let mut listing = nix::dir::Dir::from_fd(again)
            .map_err(|errno| format!("{}: {}", missing(), self.reason(dir, errno)))?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(|errno| format!("{}: {}", missing(), errno_text(errno)))?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                entries.push(entry.file_name().to_owned());
            }
            if entries.len() > MAX_SKELETON {
                return Err(format!("{}, and its directory has more than {MAX_SKELETON} entries", missing()));
            }
        }
        self.nodes.insert(name.clone(), Node::Dir(0o755));
        self.insert(dir, Backing::Base(name.clone()), Source::Base(cstring(name.as_os_str())), attr, origin);
        for entry in entries {
            let part = OsStr::from_bytes(entry.to_bytes());
            let inside = dir.join(part);
            if inside == without && !self.layers.contains(&inside) {
                continue;
            }
            let node = name.join(part);
            if let Some(layer) = self.layers.get(&inside) {
                let is_file = matches!(layer.backing, Backing::File { .. });
                self.nodes
                    .insert(node, if is_file { Node::File(0o644, Vec::new()) } else { Node::Dir(0o755) });
                continue;
            }
            // What cannot be looked at would be missing inside, silently; only what was removed meanwhile may be.
            let cannot =
                |errno| format!("{}, and {}: {}", missing(), inside.display(), self.reason(&inside, errno));
            let stat = match stat_at(fd.as_fd(), &entry) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(cannot(errno)),
            };
            match kind_of(&stat) {
                Kind::Link => {
                    let to = nix::fcntl::readlinkat(&fd, entry.as_c_str()).map_err(cannot)?;
                    self.nodes.insert(node, Node::Link(cstring(&to)));
                }
                Kind::Dir => {
                    let flags = libc::O_PATH | libc::O_DIRECTORY;
                    let child = fs::open_how(fd.as_fd(), &entry, flags, 0, fs::Resolve::BeneathNoSymlinks)
                        .map_err(cannot)?;
                    self.nodes.insert(node, Node::Dir(0o755));
                    let path = host.join(part);
                    let source =
                        Source::Host { path: cstring(path.as_os_str()), dev: stat.dev, ino: stat.ino };
                    self.insert(
                        &inside,
                        Backing::HostDir { dir: Opened::new(child), path, writable: false },
                        source,
                        attr,
                        origin,
                    );
                }
                Kind::File if stat.is_file() => {
                    self.nodes.insert(node, Node::File(0o644, Vec::new()));
                    let path = host.join(part);
                    let source =
                        Source::Host { path: cstring(path.as_os_str()), dev: stat.dev, ino: stat.ino };
                    self.insert(&inside, Backing::File { host: Some(path) }, source, attr, origin);
                }
                // Devices, sockets and pipes of an image are nothing that a payload needs to see.
                Kind::File => {}
            }
        }
        Ok(())
    }
}
