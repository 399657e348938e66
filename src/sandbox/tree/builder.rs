//! Builds a [`Tree`] mount by mount.
#![forbid(unsafe_code)]

use super::pathmap::{PathMap, depth};
use super::view::{Backing, Layer, Opened, kind_of};
use super::{
    DEVICE, HostObject, Kind, MAX_PARENTS, Mount, Node, Origin, Place, READ_ONLY, Source, Tree, WRITABLE,
    cstring,
};
use crate::failure::{Failure, errno_text};
use crate::sys::fs;
use crate::sys::fs::stat_at;
use crate::sys::mount::Attr;
use std::cell::RefCell;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The upper directory of a writable image, in the private tmpfs.
pub(super) const UPPER: &str = "upper";

/// Builds a [`Tree`] mount by mount, keeping a view of what the payload would see so far.
#[derive(Debug)]
pub struct Builder {
    pub(super) nodes: PathMap<Node>,
    pub(super) layers: PathMap<Layer>,
    pub(super) skeletons: u32,
    /// What was met where no answer could be given: then there is no plan.
    pub(super) trouble: RefCell<Option<Failure>>,
}

impl Builder {
    /// A tree whose root is a directory of our own (host's system), to be filled.
    pub fn from_nothing() -> Self {
        let mut builder = Self {
            nodes: PathMap::default(),
            layers: PathMap::default(),
            skeletons: 0,
            trouble: RefCell::default(),
        };
        builder.private_dir(Path::new("/"), "root", 0o755, READ_ONLY);
        builder
    }

    /// A tree whose root is this directory, read-only, or with a layer that takes the writes.
    pub fn from_image(image: HostObject, writable: bool) -> Self {
        let mut builder = Self {
            nodes: PathMap::default(),
            layers: PathMap::default(),
            skeletons: 0,
            trouble: RefCell::default(),
        };
        let (path, dev, ino) = (cstring(image.path.as_os_str()), image.stat.dev, image.stat.ino);
        let (source, attr, backing) = if writable {
            builder.nodes.insert(UPPER, Node::Dir(0o755));
            builder.nodes.insert("overlay-work", Node::Dir(0o700));
            let backing = Backing::Layered { dir: Opened::new(image.fd), path: image.path };
            (Source::Overlay { path, dev, ino }, WRITABLE, backing)
        } else {
            (
                Source::Host { path, dev, ino },
                READ_ONLY,
                Backing::HostDir { dir: Opened::new(image.fd), path: image.path, writable: false },
            )
        };
        builder.layers.insert(
            PathBuf::from("/"),
            Layer { backing, source, attr, follow_host: false, origin: Origin::Image },
        );
        builder
    }

    /// A directory of our own at `target`, which must be clean. `name` is its place in the private tmpfs.
    pub(super) fn private_dir(&mut self, target: &Path, name: &str, mode: u32, attr: Attr) {
        self.nodes.insert(name, Node::Dir(mode));
        self.layers.insert(
            target,
            Layer {
                backing: Backing::Base(name.into()),
                source: Source::Base(cstring(OsStr::new(name))),
                attr,
                follow_host: false,
                origin: Origin::System,
            },
        );
    }

    /// A directory of our own where every payload has one (/dev, /tmp, ...). An image's symlink or file of that name is
    /// replaced, not followed: what bailey puts at /dev is at /dev. What was at or below it is hidden.
    pub fn add_private_dir(
        &mut self,
        target: &Path,
        name: &str,
        mode: u32,
        attr: Attr,
    ) -> Result<(), Failure> {
        self.make_real(target, Kind::Dir)?;
        self.hide_below(target);
        self.private_dir(target, name, mode, attr);
        Ok(())
    }

    /// A mount lies over what is below it. Only what the command line handed over is a mount point there, too.
    fn hide_below(&mut self, target: &Path) {
        self.layers.remove_below(target, |layer| layer.origin != Origin::Handed);
    }

    /// Is something mounted just there?
    pub fn is_mount(&self, path: &Path) -> bool {
        self.layers.contains(path)
    }

    /// Why nothing else may be at this clean path.
    pub fn closed(&self, clean: &Path) -> Option<String> {
        let is_own = matches!(self.locate(clean).0.backing, Backing::Closed) || clean == Path::new("/dev");
        is_own.then(|| format!("{} is bailey's own inside", clean.display()))
    }

    /// A generated file over whatever the image has there. `name` is its place in the private tmpfs.
    pub fn add_private_file(&mut self, target: &Path, name: &str, content: Vec<u8>) -> Result<(), Failure> {
        self.make_real(target, Kind::File)?;
        self.nodes.insert(name, Node::File(0o444, content));
        self.insert(
            target,
            Backing::File { host: None },
            Source::Base(cstring(OsStr::new(name))),
            READ_ONLY,
            Origin::System,
        );
        Ok(())
    }

    /// A directory inside a directory of our own.
    pub fn add_directory(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        self.add_own(path, Node::Dir(mode))
    }

    /// A symbolic link inside a directory of our own.
    pub fn add_link(&mut self, path: &Path, to: &OsStr) -> Result<(), Failure> {
        self.add_own(path, Node::Link(cstring(to)))
    }

    fn add_own(&mut self, path: &Path, node: Node) -> Result<(), Failure> {
        if self.add_node(path, node) {
            return Ok(());
        }
        Err(Failure::site(
            format!("cannot place {}", path.display()),
            "its directory is not one of bailey's own",
            "report this as a defect",
        ))
    }

    /// A fresh proc or devpts.
    pub fn add_file_system(&mut self, target: &Path, source: Source, attr: Attr) -> Result<(), Failure> {
        self.make_real(target, Kind::Dir)?;
        self.insert(target, Backing::Closed, source, attr, Origin::System);
        Ok(())
    }

    /// A device of the host at its own path below our own /dev. One look is enough: a link or another file of that name has
    /// not its device number, and the error is the reason.
    pub fn add_device(&mut self, path: &Path, number: u64) -> Result<(), String> {
        let stat = stat_at(fs::cwd(), &cstring(path.as_os_str())).map_err(errno_text)?;
        if !stat.is_char_device() || stat.rdev != number {
            return Err("it is not the device of that name".to_owned());
        }
        self.make_point(path, Kind::File)?;
        let source = Source::Host { path: cstring(path.as_os_str()), dev: stat.dev, ino: stat.ino };
        self.insert(path, Backing::File { host: None }, source, DEVICE, Origin::System);
        Ok(())
    }

    /// Binds an object of the host at a path that every payload has: symlinks of the image on the way are replaced.
    pub fn add_system_bind(
        &mut self,
        object: HostObject,
        target: &Path,
        attr: Attr,
        origin: Origin,
    ) -> Result<(), Failure> {
        self.make_real(target, kind_of(&object.stat))?;
        self.insert_host(object, target, attr, false, origin);
        Ok(())
    }

    /// Binds an object of the host where it was asked for: symlinks of the image are resolved inside the new root.
    /// Returns the clean path.
    pub fn add_bind(
        &mut self,
        object: HostObject,
        target: &Path,
        attr: Attr,
        follow_host: bool,
        origin: Origin,
    ) -> Result<PathBuf, Failure> {
        let clean = self.resolve(target)?;
        let what = || format!("cannot bind {} at {}", object.path.display(), target.display());
        if clean == Path::new("/") {
            return Err(Failure::usage(
                what(),
                "the target is the root itself",
                "name another image for another root",
            ));
        }
        if self.layers.get(&clean).is_some_and(|layer| layer.origin == Origin::Handed) {
            return Err(Failure::usage(what(), "another bind has the same target", "name each target once"));
        }
        if let Some(why) = self.closed(&clean) {
            return Err(Failure::usage(
                what(),
                why,
                "choose a target outside /proc and other than /dev itself",
            ));
        }
        if !fits(&clean) {
            return Err(Failure::usage(
                format!("cannot bind {}", object.path.display()),
                TOO_LONG,
                "choose a shorter target",
            ));
        }
        match (self.kind(&clean), kind_of(&object.stat)) {
            (Some(Kind::Dir), Kind::File) => {
                let why = format!("{} is a directory inside and the source is a file", clean.display());
                return Err(Failure::usage(what(), why, "choose a target in it, with the file's name"));
            }
            (Some(Kind::File), Kind::Dir) => {
                let why = format!("{} is a file inside and the source is a directory", clean.display());
                return Err(Failure::usage(what(), why, "choose another target"));
            }
            _ => {}
        }
        let next = "create the target, or choose one that can be made (below /tmp or /srv)";
        self.make_point(&clean, kind_of(&object.stat))
            .map_err(|why| self.own_fault().unwrap_or_else(|| Failure::usage(what(), why, next)))?;
        self.hide_below(&clean);
        self.insert_host(object, &clean, attr, follow_host, origin);
        Ok(clean)
    }

    /// Covers a path with something empty, if it is there.
    pub fn cover(&mut self, path: &Path) {
        let (name, node, backing, kind) = match self.kind(path) {
            Some(Kind::Dir) => ("empty", Node::Dir(0o555), Backing::Closed, Kind::Dir),
            Some(Kind::File) => {
                ("nothing", Node::File(0o444, Vec::new()), Backing::File { host: None }, Kind::File)
            }
            Some(Kind::Link) | None => return,
        };
        if let Err(why) = self.make_point(path, kind) {
            self.trouble.get_mut().get_or_insert_with(|| {
                let next = "take it out of what is bound, or bind less";
                Failure::site(format!("cannot cover {} inside", path.display()), why, next)
            });
            return;
        }
        self.nodes.insert(name, node);
        self.insert(path, backing, Source::Base(cstring(OsStr::new(name))), READ_ONLY, Origin::System);
    }

    /// Covers a directory that does not exist yet, but will while the payload runs.
    pub fn cover_in_advance(&mut self, path: &Path) -> Result<(), String> {
        self.make_point(path, Kind::Dir)?;
        self.cover(path);
        Ok(())
    }

    /// The plan. `start_dir` must exist inside.
    ///
    /// # Errors
    /// Something could not be looked at, so that the plan may be less than it was to be.
    pub fn finish(self, scratch_size: u64, start_dir: &Path) -> Result<Tree, Failure> {
        if let Some(failure) = self.trouble.into_inner() {
            return Err(failure);
        }
        let mut layers: Vec<(PathBuf, Layer)> = self.layers.into_entries().collect();
        layers.sort_by_key(|(path, _)| depth(path));
        let places = places(&layers);
        let parents: Vec<usize> = places
            .iter()
            .filter_map(|place| if let Place::Under(parent, _) = place { Some(*parent) } else { None })
            .collect();
        Ok(Tree {
            follows_host: layers.iter().any(|(_, layer)| layer.follow_host),
            nodes: self.nodes.into_entries().map(|(path, node)| (cstring(path.as_os_str()), node)).collect(),
            mounts: layers
                .into_iter()
                .zip(places)
                .enumerate()
                .map(|(index, ((target, layer), place))| Mount {
                    source: layer.source,
                    place,
                    target,
                    is_parent: parents.contains(&index),
                    attr: layer.attr,
                    follow_host: layer.follow_host,
                })
                .collect(),
            scratch_size: CString::new(scratch_size.to_string()).unwrap_or_default(),
            start_dir: cstring(start_dir.as_os_str()),
        })
    }

    pub(super) fn insert_host(
        &mut self,
        object: HostObject,
        target: &Path,
        attr: Attr,
        follow_host: bool,
        origin: Origin,
    ) {
        let source = Source::Host {
            path: cstring(object.path.as_os_str()),
            dev: object.stat.dev,
            ino: object.stat.ino,
        };
        let backing = if object.stat.is_dir() {
            Backing::HostDir { dir: Opened::new(object.fd), path: object.path, writable: !attr.read_only }
        } else {
            Backing::File { host: Some(object.path) }
        };
        self.layers.insert(target, Layer { backing, source, attr, follow_host, origin });
    }

    pub(super) fn insert(
        &mut self,
        target: &Path,
        backing: Backing,
        source: Source,
        attr: Attr,
        origin: Origin,
    ) {
        self.layers.insert(target, Layer { backing, source, attr, follow_host: false, origin });
    }
}

/// How the child gets at each mount point of the sorted layers, as cheaply as is safe.
fn places(layers: &[(PathBuf, Layer)]) -> Vec<Place> {
    let mut parents: Vec<usize> = Vec::new();
    let mut places = Vec::with_capacity(layers.len());
    let mut earlier: PathMap<usize> = PathMap::default();
    for (index, (path, layer)) in layers.iter().enumerate() {
        let rest = path.strip_prefix("/").unwrap_or(path);
        // Directories of our own only, and few enough for the child to keep their descriptors.
        let own = earlier.nearest(path).filter(|(index, _)| {
            **index != 0
                && layers.get(**index).is_some_and(|(_, parent)| matches!(parent.backing, Backing::Base(_)))
                && (parents.contains(index) || parents.len() < MAX_PARENTS)
        });
        places.push(if rest.as_os_str().is_empty() {
            Place::Root
        } else if let Some((parent, below)) = own {
            if !parents.contains(parent) {
                parents.push(*parent);
            }
            Place::Under(*parent, cstring(below.as_os_str()))
        } else if depth(path) == 1 && !matches!(layer.backing, Backing::File { .. }) {
            Place::InRoot(cstring(rest.as_os_str()))
        } else {
            Place::Path(cstring(rest.as_os_str()))
        });
        earlier.insert(path.clone(), index);
    }
    places
}

/// The most bytes of a name (`NAME_MAX`), and of a path inside: bailey's own names stand before it (`PATH_MAX`, limits.h).
const LONGEST: (usize, usize) = (255, 4000);

/// What is said of a path that does not [fit](fits).
pub(crate) const TOO_LONG: &str = "a path inside has at most 255 bytes in each name and 4000 in all";

/// Can there be such a path?
pub(crate) fn fits(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.len() <= LONGEST.1 && bytes.split(|byte| *byte == b'/').all(|name| name.len() <= LONGEST.0)
}

/// `base/rest` without a slash at the end when there is no rest.
pub(super) fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_path_buf() } else { base.join(rest) }
}
