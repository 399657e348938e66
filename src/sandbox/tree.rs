//! The file system that the payload will see, as a plan: which directories to make, what to mount where, in which order.
//!
//! Made by the launcher before the clone, carried out by the child ([`super::build`]). The rules:
//!
//! 1. Nothing here MUST change anything outside: the plan only looks, at opened directories.
//! 2. A mount point is a clean path: every symlink of the image is resolved here, *inside* the new root, as a chroot would.
//!    The child then refuses symlinks altogether, so an image that changes meanwhile is an error and never a way out.
//! 3. A mount point that is missing on something read-only appears by a skeleton: a directory of our own over the deepest
//!    directory that exists, with each of its entries bound back. It costs 20 µs an entry once and nothing per access, where
//!    an overlay doubles the price of open and stat. In a writable bind nothing is ever created: that is an error.
#![forbid(unsafe_code)]

use super::pathmap::{PathMap, depth};
use crate::failure::{Failure, errno_text};
use crate::sys::fs::{Stat, stat_at};
use crate::sys::mount::Attr;
use crate::sys::{Errno, fs};
use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// A directory, file or link that the child makes in its private tmpfs before it mounts anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with these permissions.
    Dir(u32),
    /// A file with this content; empty ones are mount points.
    File(u32, Vec<u8>),
    /// A symbolic link.
    Link(CString),
}

impl Node {
    const fn kind(&self) -> Kind {
        match self {
            Self::Dir(_) => Kind::Dir,
            Self::File(..) => Kind::File,
            Self::Link(_) => Kind::Link,
        }
    }
}

/// Where a mount comes from.
#[derive(Debug)]
pub enum Source {
    /// A path of the host, and what it was when the launcher judged it. The child compares before it uses it.
    Host {
        /// Canonical path.
        path: CString,
        /// `st_dev` that the child must find again.
        dev: u64,
        /// `st_ino` that the child must find again.
        ino: u64,
    },
    /// A directory or file of the private tmpfs.
    Base(CString),
    /// A fresh proc of the new pid namespace.
    Proc,
    /// A fresh devpts instance.
    DevPts,
    /// A writable layer in the private tmpfs over this directory of the host (overlayfs).
    Overlay {
        /// Canonical path of the lower directory.
        path: CString,
        /// `st_dev` that the child must find again.
        dev: u64,
        /// `st_ino` that the child must find again.
        ino: u64,
    },
}

/// How the child finds a mount point.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the root itself.
    Root,
    /// One name in the root: move_mount does not follow a last symlink, so nothing can redirect it.
    InRoot(CString),
    /// A path below a mount of our own tmpfs, made by an earlier step (its number): nobody else can change what is there.
    Under(usize, CString),
    /// A path below the root, opened with every symlink refused.
    Path(CString),
}

/// One mount, ready for the child.
#[derive(Debug)]
pub struct Mount {
    /// Where it comes from.
    pub source: Source,
    /// Where it goes.
    pub place: Place,
    /// The same as an absolute path inside, for people.
    pub target: PathBuf,
    /// Later steps lie [`Place::Under`] this one.
    pub is_parent: bool,
    /// `ro`, `nodev`, `noexec`.
    pub attr: Attr,
    /// Keeps the host's propagation, so that host mounts that come later arrive (autofs, CVMFS).
    pub follow_host: bool,
}

/// The finished plan.
#[derive(Debug)]
pub struct Tree {
    /// What to make in the private tmpfs, parents first.
    pub nodes: Vec<(CString, Node)>,
    /// What to mount, the root first, parents before what lies below them.
    pub mounts: Vec<Mount>,
    /// Size of the private tmpfs in bytes, as mount option text.
    pub scratch_size: CString,
    /// Where the payload starts, absolute, inside.
    pub start_dir: CString,
    /// Some mount keeps the host's propagation.
    pub follows_host: bool,
}

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

/// A file or directory of the host, opened and judged.
#[derive(Debug)]
pub struct HostObject {
    /// Canonical path, as the kernel gives it for the descriptor.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
    fd: OwnedFd,
}

impl HostObject {
    /// Opens `path` (symlinks are followed: the caller means what it points to) and asks the kernel what that really is.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        // As a directory first: only then does the kernel mount what autofs has there, as the child's copy will.
        let open =
            |how: &dyn Fn(libc::c_int) -> Result<OwnedFd, Errno>| match how(libc::O_PATH | libc::O_DIRECTORY)
            {
                Err(Errno::ENOTDIR) => how(libc::O_PATH),
                other => other,
            };
        // A clean path without any symlink is canonical as it stands; that saves asking /proc.
        if is_clean(path)
            && let Ok(fd) = open(&|flags| fs::open_how(fs::cwd(), &text, flags, 0, fs::Resolve::NoSymlinks))
        {
            let stat = stat_at(fd.as_fd(), c"")?;
            return Ok(Self { path: path.to_path_buf(), stat, fd });
        }
        let fd = open(&|flags| fs::open_following(&text, flags))?;
        let stat = stat_at(fd.as_fd(), c"")?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let canonical = nix::fcntl::readlink(link.as_str())?;
        let path = PathBuf::from(canonical);
        // An unlinked file or directory has " (deleted)" at its end and no name that the child could open.
        if !path.is_absolute() || path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return Err(Errno::ENOENT);
        }
        Ok(Self { path, stat, fd })
    }

    /// The magic number of its file system (statfs(2)).
    pub fn file_system(&self) -> i64 {
        nix::sys::statfs::fstatfs(&self.fd).map_or(0, |fs| fs.filesystem_type().0)
    }
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
}

/// What stands behind a path of the planned tree.
#[derive(Debug)]
enum Backing {
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
struct Opened {
    fd: OwnedFd,
    seen: RefCell<PathMap<Option<Kind>>>,
}

impl Opened {
    fn new(fd: OwnedFd) -> Self {
        Self { fd, seen: RefCell::default() }
    }

    /// What a name below it is; the last symlink is not followed.
    fn kind(&self, rest: &Path) -> Option<Kind> {
        if let Some(known) = self.seen.borrow().get(rest) {
            return *known;
        }
        let kind = stat_at(self.fd.as_fd(), &cstring(rest.as_os_str())).ok().map(|stat| kind_of(&stat));
        self.seen.borrow_mut().insert(rest.to_path_buf(), kind);
        kind
    }
}

#[derive(Debug)]
struct Layer {
    backing: Backing,
    source: Source,
    attr: Attr,
    follow_host: bool,
    origin: Origin,
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

/// Builds a [`Tree`] mount by mount, keeping a view of what the payload would see so far.
#[derive(Debug)]
pub struct Builder {
    nodes: PathMap<Node>,
    layers: PathMap<Layer>,
    skeletons: u32,
}

/// Read-only, no devices: what every bind gets unless something else was asked.
pub const READ_ONLY: Attr = Attr { read_only: true, no_dev: true, no_exec: false };
/// Writable, no devices.
pub const WRITABLE: Attr = Attr { read_only: false, no_dev: true, no_exec: false };
/// Writable, no devices, nothing executable: proc.
pub const NO_EXEC: Attr = Attr { read_only: false, no_dev: true, no_exec: true };
/// Device files.
pub const DEVICE: Attr = Attr { read_only: false, no_dev: false, no_exec: false };

/// The upper directory of a writable image, in the private tmpfs.
const UPPER: &str = "upper";
/// The most mounts of our own whose descriptors the child keeps for what lies below them.
pub(super) const MAX_PARENTS: usize = 8;
/// The most symlinks that one path may lead through, as in the kernel (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// The most entries of a directory that a skeleton binds back.
const MAX_SKELETON: usize = 2000;

impl Builder {
    /// A tree whose root is a directory of our own (host's system), to be filled.
    pub fn from_nothing() -> Self {
        let mut builder = Self { nodes: PathMap::default(), layers: PathMap::default(), skeletons: 0 };
        builder.private_dir(Path::new("/"), "root", 0o755, READ_ONLY);
        builder
    }

    /// A tree whose root is this directory, read-only, or with a layer that takes the writes.
    pub fn from_image(image: HostObject, writable: bool) -> Self {
        let mut builder = Self { nodes: PathMap::default(), layers: PathMap::default(), skeletons: 0 };
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
    fn private_dir(&mut self, target: &Path, name: &str, mode: u32, attr: Attr) {
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
    /// replaced, not followed: what bailey puts at /dev is at /dev.
    pub fn add_private_dir(
        &mut self,
        target: &Path,
        name: &str,
        mode: u32,
        attr: Attr,
    ) -> Result<(), Failure> {
        self.make_real(target, Kind::Dir)?;
        self.private_dir(target, name, mode, attr);
        Ok(())
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
                "use --image for another root",
            ));
        }
        if self.layers.get(&clean).is_some_and(|layer| layer.origin == Origin::Handed) {
            return Err(Failure::usage(what(), "another bind has the same target", "name each target once"));
        }
        if matches!(self.locate(&clean).0.backing, Backing::Closed) || clean == Path::new("/dev") {
            return Err(Failure::usage(
                what(),
                format!("{} is bailey's own inside", clean.display()),
                "choose a target outside /proc and other than /dev itself",
            ));
        }
        self.make_point(&clean, kind_of(&object.stat)).map_err(|why| {
            Failure::usage(
                what(),
                why,
                "create the target, or choose one that can be made (below /tmp or /srv)",
            )
        })?;
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
        if self.make_point(path, kind).is_ok() {
            self.nodes.insert(name, node);
            self.insert(path, backing, Source::Base(cstring(OsStr::new(name))), READ_ONLY, Origin::System);
        }
    }

    /// Covers a directory that does not exist yet, but will while the payload runs.
    pub fn cover_in_advance(&mut self, path: &Path) -> Result<(), String> {
        self.make_point(path, Kind::Dir)?;
        self.cover(path);
        Ok(())
    }

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
                Some(Shown { host, inside, writable: !layer.attr.read_only, origin: layer.origin })
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

    /// The host's file behind a path inside, where there is one.
    pub fn host_path(&self, inside: &Path) -> Option<PathBuf> {
        let clean = self.resolve(inside).ok()?;
        let (layer, rest) = self.locate(&clean);
        match &layer.backing {
            Backing::HostDir { path, .. } | Backing::Layered { path, .. } => Some(join(path, rest)),
            Backing::File { host } => host.clone(),
            _ => None,
        }
    }

    /// What is at a clean path.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        let (layer, rest) = self.locate(path);
        match &layer.backing {
            Backing::Base(base) => self.nodes.get(&join(base, rest)).map(Node::kind),
            Backing::HostDir { .. } | Backing::Layered { .. } if rest.as_os_str().is_empty() => {
                Some(Kind::Dir)
            }
            Backing::HostDir { dir, .. } => dir.kind(rest),
            Backing::Layered { dir, .. } => {
                let own = self.nodes.get(&Path::new(UPPER).join(rest)).map(Node::kind);
                own.or_else(|| dir.kind(rest))
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

    /// The plan. `start_dir` must exist inside.
    pub fn finish(self, scratch_size: u64, start_dir: &Path) -> Tree {
        let mut layers: Vec<(PathBuf, Layer)> = self.layers.into_entries().collect();
        layers.sort_by_key(|(path, _)| depth(path));
        let places = places(&layers);
        let parents: Vec<usize> = places
            .iter()
            .filter_map(|place| if let Place::Under(parent, _) = place { Some(*parent) } else { None })
            .collect();
        Tree {
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
        }
    }

    fn insert_host(
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

    fn insert(&mut self, target: &Path, backing: Backing, source: Source, attr: Attr, origin: Origin) {
        self.layers.insert(target, Layer { backing, source, attr, follow_host: false, origin });
    }

    /// The layer on which a clean path lies, and the rest of the path in it. The root layer is always there.
    fn locate<'a>(&self, path: &'a Path) -> (&Layer, &'a Path) {
        match self.layers.nearest(path) {
            Some(found) => found,
            None => unreachable!("the constructors insert the root layer"),
        }
    }

    /// Makes a node at a clean path whose parents exist, where that is ours to do. False: it is not.
    fn add_node(&mut self, path: &Path, node: Node) -> bool {
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

    fn link(&self, path: &Path) -> Option<PathBuf> {
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

    /// Makes sure that each part of `path` is a real directory (the last one of `kind`), replacing an image's symlinks.
    fn make_real(&mut self, path: &Path, kind: Kind) -> Result<(), Failure> {
        self.make_point(path, kind).map_err(|why| {
            Failure::usage(
                format!("cannot make the mount point {} in the image", path.display()),
                why,
                "use an image whose directories can be read, or create the mount point in it",
            )
        })
    }

    /// Makes sure that something of `kind` stands at the clean path `path`, for a mount. The error is the reason.
    fn make_point(&mut self, path: &Path, kind: Kind) -> Result<(), String> {
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
                    format!("{}, and its directory cannot be listed: {}", missing(), errno_text(errno))
                })?;
                (opened, path.join(rest))
            }
            _ => return Err(missing()),
        };
        let name = PathBuf::from(format!("skeleton-{}", self.skeletons));
        self.skeletons += 1;
        let mut listing = nix::dir::Dir::from_fd(fd.try_clone().map_err(|e| e.to_string())?)
            .map_err(|errno| format!("{}: {}", missing(), errno_text(errno)))?;
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
            let unseen = |errno| format!("{}, and {}: {}", missing(), inside.display(), errno_text(errno));
            let stat = match stat_at(fd.as_fd(), &entry) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(unseen(errno)),
            };
            match kind_of(&stat) {
                Kind::Link => {
                    let to = nix::fcntl::readlinkat(&fd, entry.as_c_str()).map_err(unseen)?;
                    self.nodes.insert(node, Node::Link(cstring(&to)));
                }
                Kind::Dir => {
                    let flags = libc::O_PATH | libc::O_DIRECTORY;
                    let child = fs::open_how(fd.as_fd(), &entry, flags, 0, fs::Resolve::BeneathNoSymlinks)
                        .map_err(unseen)?;
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

/// Absolute, without `.`, `..`, `//` and slash at the end.
fn is_clean(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let mut parts = bytes.split(|byte| *byte == b'/');
    parts.next() == Some(b"") && parts.all(|part| !part.is_empty() && part != b"." && part != b"..")
}

/// A file name or path without NUL; the kernel hands out no other, and front ends refuse them.
fn cstring(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
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

fn kind_of(stat: &Stat) -> Kind {
    if stat.is_dir() {
        Kind::Dir
    } else if stat.is_symlink() {
        Kind::Link
    } else {
        Kind::File
    }
}

/// `base/rest` without a slash at the end when there is no rest.
fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_path_buf() } else { base.join(rest) }
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
