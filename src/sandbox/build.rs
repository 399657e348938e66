//! Builds the payload's file system, inside the child, from the plan in [`super::tree`].
//!
//! 1. Nothing here may allocate, panic or return to the launcher's code.
//! 2. No mount is made by a path that an image could redirect: sources are compared by device and inode with what the
//!    launcher judged, targets are opened below the new root with symlinks refused.
//! 3. After [`build`], the old root MUST be gone and the current directory MUST be inside the new one.
#![forbid(unsafe_code)]

use super::mountinfo;
use super::older;
use super::protocol::{Stage, Trouble};
use super::tree::hidden::{self, Hidden};
use super::tree::{DEVICE, MAX_PARENTS, Mount, NO_EXEC, Node, Place, READ_ONLY, Source, Tree, WRITABLE};
use crate::config::Demand;
use crate::sys::mount::{self, Attr, FsContext};
use crate::sys::{Errno, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Turns an errno into the report of where it happened.
pub(super) fn at<T>(stage: Stage, index: usize, result: Result<T, Errno>) -> Result<T, Trouble> {
    result.map_err(|errno| Trouble { stage, index: index as u32, errno })
}

/// How the tree is to be made, beside what is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Whether a proc of its own is a must; `Off` is right also where there is no pid namespace that it could show.
    pub(super) proc: Demand,
    /// The host's atime flags, which a new proc must carry.
    pub(super) proc_attr: u64,
    /// The root directory is not the root of the mount namespace: who lives in such a one makes no user namespace.
    pub(super) below_root: bool,
}

/// The payload's proc, and what the kernel said to one of its own.
#[derive(Debug, Default)]
struct Proc {
    /// Made before its step; taken there.
    mount: Option<OwnedFd>,
    /// It is the outer one.
    outer: bool,
    /// See [`super::protocol::Ready::proc`].
    errno: i32,
}

/// Where the payload's root is in the private tmpfs.
pub(super) const NEW_ROOT: &CStr = c"new-root";

/// Makes the tree, changes into it and lets go of the host's. Returns what the kernel said to a proc of the sandbox's own
/// ([`super::protocol::Ready::proc`]).
pub(super) fn build(tree: &Tree, how: How) -> Result<i32, Trouble> {
    // One call for all mounts of the namespace, so that most copies need none of their own. Private, unless something must
    // follow the host: then slave, and each copy that must not follow is made private by itself.
    // Without mount_setattr the attributes of each mount come at the end.
    let one_by_one = match mount::set_all(tree.follows_host) {
        Err(Errno::ENOSYS) => {
            at(Stage::Propagation, 1, mount::propagate_all(tree.follows_host))?;
            true
        }
        set => {
            at(Stage::Propagation, 0, set)?;
            false
        }
    };
    let after = Afterwards { one_by_one, follows_host: tree.follows_host };

    let mut proc = at(Stage::Proc, 0, proc(how, one_by_one))?;

    // One private tmpfs holds everything that bailey makes. It is mounted over the host's /proc, which is not needed any more,
    // because the kernel copies mounts only from attached ones; it goes together with the old root, the copies stay. (Over
    // the old root itself it would be what the umount after pivot_root finds on top, and the host's tree would stay.)
    let base = at(Stage::Scratch, 0, private_tmpfs(tree))?;
    for (index, (path, node)) in tree.nodes.iter().enumerate() {
        at(Stage::Node, index, make_node(base.as_fd(), path, node))?;
    }

    let mut root: Option<OwnedFd> = None;
    let mut parents: [Option<(usize, OwnedFd)>; MAX_PARENTS] = Default::default();
    let mut hidden = proc.outer;
    for (index, step) in tree.mounts.iter().enumerate() {
        let source = match (&step.source, proc.mount.take()) {
            (Source::Proc, Some(mount)) => mount,
            (_, made) => {
                proc.mount = made;
                source(base.as_fd(), step, index, &after, how.proc_attr, &mut hidden)?
            }
        };
        let attached = match (&step.place, &root) {
            (Place::Root, _) => mount::attach(source.as_fd(), base.as_fd(), NEW_ROOT),
            (Place::InRoot(name), Some(root)) => mount::attach(source.as_fd(), root.as_fd(), name),
            (Place::Under(parent, path), _) => {
                let parent = parents.iter().flatten().find(|(number, _)| number == parent);
                match parent {
                    Some((_, dir)) => mount::attach(source.as_fd(), dir.as_fd(), path),
                    None => Err(Errno::EBADF),
                }
            }
            (Place::Path(path), Some(root)) => {
                let target = fs::open_how(
                    root.as_fd(),
                    path,
                    libc::O_PATH | libc::O_NOFOLLOW,
                    0,
                    fs::Resolve::InRootNoSymlinks,
                );
                mount::attach(source.as_fd(), at(Stage::Target, index, target)?.as_fd(), c"")
            }
            (Place::InRoot(_) | Place::Path(_), None) => Err(Errno::EBADF),
        };
        at(Stage::Attach, index, attached)?;
        if step.place == Place::Root {
            root = Some(source);
        } else if step.is_parent
            && let Some(slot) = parents.iter_mut().find(|slot| slot.is_none())
        {
            *slot = Some((index, source));
        }
    }
    let Some(root) = root else {
        return Err(Trouble { stage: Stage::Pivot, index: 0, errno: Errno::ENOENT });
    };

    let top = if how.below_root { base.as_fd() } else { root.as_fd() };
    at(Stage::Pivot, 0, fs::change_dir_fd(top))?;
    at(Stage::Pivot, 1, mount::pivot_into_cwd())?;
    if how.below_root {
        at(Stage::Pivot, 5, root_is(top))?;
        // What lies above is the private tmpfs, of which nothing is open and nothing is anybody's.
        at(Stage::Pivot, 3, fs::change_dir_fd(root.as_fd()))?;
        at(Stage::Pivot, 4, fs::change_root_to_cwd())?;
    }
    if one_by_one {
        at(Stage::Pivot, 2, is_the_root(root.as_fd()))?;
        older::restrict(tree, proc.outer)?;
        if proc.outer {
            at(Stage::Proc, 1, is_read_only(c"/proc"))?;
        }
    }
    at(Stage::Pivot, 2, root_is(root.as_fd()))?;
    at(Stage::StartDir, 0, fs::change_dir(&tree.start_dir))?;
    if at(Stage::StartDir, 1, fs::cwd_is_reachable())? {
        if hidden {
            cover_hidden(tree, proc.outer)?;
        }
        Ok(proc.errno)
    } else {
        Err(Trouble { stage: Stage::StartDir, index: 1, errno: Errno::ENOENT })
    }
}

/// The proc of its own where the site can do without: tried before the outer one is covered, and that one copied, with all
/// that masks parts of it, where it is refused. Read-only: files of the pilot's processes are as writable to the payload as to
/// the pilot, whose uid it has. A proc that is a must is made in its turn.
fn proc(how: How, one_by_one: bool) -> Result<Proc, Errno> {
    let errno = match how.proc {
        Demand::Required => return Ok(Proc::default()),
        Demand::Preferred => match FsContext::open(c"proc").and_then(|new| new.mount(NO_EXEC, how.proc_attr))
        {
            Ok(mount) => return Ok(Proc { mount: Some(mount), ..Proc::default() }),
            // Masked (mnt_already_visible() in fs/namespace.c), or a security module's no. Anything else is no reason.
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => errno as i32,
            Err(errno) => return Err(errno),
        },
        Demand::Off => -1,
    };
    let copy = mount::clone_tree(fs::cwd(), c"/proc", true)?;
    if one_by_one {
        return Ok(Proc { mount: Some(copy), outer: true, errno });
    }
    mount::set_attributes(copy.as_fd(), older::OUTER_PROC, false)?;
    if !nix::sys::statvfs::fstatvfs(&copy)?.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Err(Errno::EROFS);
    }
    Ok(Proc { mount: Some(copy), outer: true, errno })
}

fn is_read_only(path: &CStr) -> Result<(), Errno> {
    let mount = fs::open_at(fs::cwd(), path, libc::O_PATH, 0)?;
    let flags = nix::sys::statfs::fstatfs(&mount)?.flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) { Ok(()) } else { Err(Errno::EROFS) }
}

/// What is left to do when the tree stands.
struct Afterwards {
    /// The attributes of each mount: this kernel has no mount_setattr.
    one_by_one: bool,
    /// Private copies must be made so, because the namespace follows the host.
    follows_host: bool,
}

impl Afterwards {
    /// The attributes of a copied tree, unless they come later.
    fn set(&self, index: usize, tree: BorrowedFd<'_>, attr: Attr, follow_host: bool) -> Result<(), Trouble> {
        if self.one_by_one {
            return Ok(());
        }
        at(Stage::Attributes, index, mount::set_attributes(tree, attr, follow_host))
    }
}

/// Reads back that the new root is the root. What is mounted over a root shows in `/..`: the old root would, had it stayed. One
/// call made every mount nosuid, so one mount shows it.
fn root_is(root: BorrowedFd<'_>) -> Result<(), Errno> {
    is_the_root(root)?;
    let nosuid = nix::sys::statfs::fstatfs(root)?.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID);
    if nosuid { Ok(()) } else { Err(Errno::EXDEV) }
}

fn is_the_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let (new, above) = (fs::stat_at(root, c"")?, fs::stat_at(fs::cwd(), c"/..")?);
    if (new.dev, new.ino) == (above.dev, above.ino) { Ok(()) } else { Err(Errno::EXDEV) }
}

/// The private tmpfs, attached over the host's /proc, with the directory on which the new root is mounted.
fn private_tmpfs(tree: &Tree) -> Result<OwnedFd, Errno> {
    let context = FsContext::open(c"tmpfs")?;
    context.set(c"size", &tree.scratch_size)?;
    context.set(c"mode", c"0755")?;
    let base = context.mount(WRITABLE, 0)?;
    let proc = fs::open_at(fs::cwd(), c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(base.as_fd(), proc.as_fd(), c"")?;
    fs::make_dir(base.as_fd(), c"new-root", 0o755)?;
    Ok(base)
}

fn make_node(base: BorrowedFd<'_>, path: &CStr, node: &Node) -> Result<(), Errno> {
    match node {
        // umask is 0 at this point, so the mode is exactly what the plan says.
        Node::Dir(mode) => fs::make_dir(base, path, *mode),
        Node::File(mode, content) if content.is_empty() => fs::make_empty_file(base, path, *mode),
        Node::File(mode, content) => {
            let file = fs::open_at(base, path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, *mode)?;
            fs::write_all(file.as_fd(), content)
        }
        Node::Link(to) => fs::make_link(to, base, path),
    }
}

/// The mount of one step, with its attributes, attached nowhere yet.
fn source(
    base: BorrowedFd<'_>,
    step: &Mount,
    index: usize,
    after: &Afterwards,
    proc_attr: u64,
    hidden: &mut bool,
) -> Result<OwnedFd, Trouble> {
    match &step.source {
        Source::Host { path, dev, ino } => {
            let tree = host_tree(path, *dev, *ino, index, step.follow_host, hidden)?;
            if after.follows_host || step.attr != DEVICE {
                after.set(index, tree.as_fd(), step.attr, step.follow_host)?;
            }
            Ok(tree)
        }
        Source::Base(path) => {
            let tree = at(Stage::Source, index, mount::clone_tree(base, path, false))?;
            if step.attr != WRITABLE {
                after.set(index, tree.as_fd(), step.attr, false)?;
            }
            Ok(tree)
        }
        Source::Proc => {
            let context = at(Stage::Source, index, FsContext::open(c"proc"))?;
            at(Stage::Proc, index, context.mount(step.attr, proc_attr))
        }
        Source::DevPts => {
            let mounted = FsContext::open(c"devpts").and_then(|context| {
                context.flag(c"newinstance")?;
                context.set(c"ptmxmode", c"0666")?;
                context.set(c"mode", c"0620")?;
                context.mount(step.attr, 0)
            });
            at(Stage::Source, index, mounted)
        }
        Source::Overlay { path, dev, ino } => {
            let lower = host_tree(path, *dev, *ino, index, false, hidden)?;
            after.set(index, lower.as_fd(), READ_ONLY, false)?;
            at(Stage::Overlay, index, overlay(base, lower.as_fd(), step.attr))
        }
    }
}

/// A copy of the mounts at a path of the host, if that still is what the launcher judged. Opened again here: a descriptor
/// from before the clone belongs to another mount namespace (EINVAL).
///
/// What is mounted below it must come along: it may cover what the host wants covered, and in a new user namespace the
/// kernel locks it in place, so that a copy without it is EINVAL. Asking for that copy first tells whether there is any.
/// (`all` takes what is below along in any case: a mount that came from the host after the clone is not locked.)
/// `hidden` becomes true when the finished tree must be searched for what must not show.
fn host_tree(
    path: &CStr,
    dev: u64,
    ino: u64,
    index: usize,
    all: bool,
    hidden: &mut bool,
) -> Result<OwnedFd, Trouble> {
    *hidden |= all;
    let tree = match mount::clone_tree(fs::cwd(), path, all) {
        Err(Errno::EINVAL) if !all => {
            *hidden = true;
            mount::clone_tree(fs::cwd(), path, true)
        }
        other => other,
    };
    let tree = at(Stage::Source, index, tree)?;
    // The copy itself may be of a file system that must not show: a skeleton names each entry of a directory.
    let kind = nix::sys::statfs::fstatfs(&tree).map(|fs| fs.filesystem_type().0);
    *hidden |= hidden::by_magic(at(Stage::Source, index, kind)?, path.to_bytes()).is_some();
    let found = at(Stage::Source, index, fs::stat_at(tree.as_fd(), c""))?;
    if (found.dev, found.ino) == (dev, ino) {
        Ok(tree)
    } else {
        Err(Trouble { stage: Stage::Changed, index: index as u32, errno: Errno::ESTALE })
    }
}

/// An overlay of `upper` (in the private tmpfs) over a copy of the lower directory's mount. All three are named relative to
/// the private tmpfs, so that no character of a path can be taken for an option. `userxattr` because an unprivileged mounter
/// may not write trusted ones.
fn overlay(base: BorrowedFd<'_>, lower: BorrowedFd<'_>, attr: Attr) -> Result<OwnedFd, Errno> {
    fs::make_dir(base, c"lower", 0o755)?;
    let place = fs::open_at(base, c"lower", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(lower, place.as_fd(), c"")?;
    fs::change_dir_fd(base)?;
    let context = FsContext::open(c"overlay")?;
    context.set(c"lowerdir", c"lower")?;
    context.set(c"upperdir", c"upper")?;
    context.set(c"workdir", c"overlay-work")?;
    context.flag(c"userxattr")?;
    context.mount(attr, 0)
}

/// Covers each mount of a hidden file system in the finished tree, found by type and not by path: a recursive bind may
/// have brought one along. Our own /proc stays, and what the site shows of /sys. Reads the new proc, which lists only what this
/// process can reach, covered mounts too.
fn cover_hidden(tree: &Tree, outer_proc: bool) -> Result<(), Trouble> {
    let mut cover = None;
    mountinfo::each_line(Stage::Hidden, |line| cover_if_hidden(line, tree, outer_proc, &mut cover))
}

/// One line of mountinfo (proc_pid_mountinfo(5)): field 5 is the mount point, the type follows the lone hyphen. `cover` is
/// the one empty file system that covers them all, made when the first is found.
fn cover_if_hidden(
    line: &[u8],
    tree: &Tree,
    outer_proc: bool,
    cover: &mut Option<Cover>,
) -> Result<(), Trouble> {
    let mut fields = line.split(|b| *b == b' ');
    let Some(point) = fields.nth(4) else { return Ok(()) };
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
    let Some(found) = hidden::by_name(kind) else { return Ok(()) };
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    let length = mountinfo::unescape(point, &mut buffer).ok_or(Trouble {
        stage: Stage::Hidden,
        index: 2,
        errno: Errno::ENAMETOOLONG,
    })?;
    if is_ours(found, buffer.get(..length).unwrap_or_default(), tree, outer_proc) {
        return Ok(());
    }
    at(Stage::Hidden, 3, cover_mount(found, &mut buffer, length, cover))
}

/// Is it the payload's proc, with what masks parts of the outer one, or a part of sysfs that was put below our own /sys on
/// purpose?
fn is_ours(found: &Hidden, point: &[u8], tree: &Tree, outer_proc: bool) -> bool {
    match found.name {
        b"proc" => point == b"/proc" || outer_proc && point.starts_with(b"/proc/"),
        b"sysfs" => {
            point.starts_with(b"/sys/")
                && tree.mounts.iter().any(|mount| mount.target.as_os_str().as_bytes() == point)
        }
        _ => false,
    }
}

/// An empty file system and its device number.
struct Cover {
    tmpfs: OwnedFd,
    dev: u64,
}

impl Cover {
    fn new() -> Result<Self, Errno> {
        let context = FsContext::open(c"tmpfs")?;
        context.set(c"size", c"4096")?;
        context.set(c"mode", c"0555")?;
        let tmpfs = context.mount(Attr { read_only: true, no_dev: true, no_exec: true }, 0)?;
        let dev = fs::stat_at(tmpfs.as_fd(), c"")?.dev;
        Ok(Self { tmpfs, dev })
    }
}

/// Covers the mount at the NUL-terminated path of this length, unless it is covered already: by another mount on the same
/// directory, or because an earlier cover lies above it.
fn cover_mount(
    found: &Hidden,
    buffer: &mut [u8; libc::PATH_MAX as usize],
    length: usize,
    cover: &mut Option<Cover>,
) -> Result<(), Errno> {
    let open = |buffer: &[u8]| {
        let path = CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::ENAMETOOLONG)?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        fs::open_how(fs::cwd(), path, flags, 0, fs::Resolve::NoSymlinks)
    };
    let target = match open(buffer) {
        // Nothing is there any more. That is right only if the deepest directory left on the way is our cover; otherwise
        // somebody moves directories about, and what must not show may lie elsewhere.
        Err(Errno::ENOENT) => {
            let dev = cover.as_ref().map(|cover| cover.dev).ok_or(Errno::ENOENT)?;
            let mut end = length;
            loop {
                end = buffer.get(..end).and_then(|path| path.iter().rposition(|b| *b == b'/')).unwrap_or(0);
                if end == 0 {
                    return Err(Errno::ENOENT);
                }
                *buffer.get_mut(end).ok_or(Errno::EINVAL)? = 0;
                match open(buffer) {
                    Ok(above) if fs::stat_at(above.as_fd(), c"")?.dev == dev => return Ok(()),
                    Err(Errno::ENOENT) => {}
                    Ok(_) => return Err(Errno::ENOENT),
                    Err(errno) => return Err(errno),
                }
            }
        }
        other => other?,
    };
    if nix::sys::statfs::fstatfs(&target)?.filesystem_type().0 != found.magic {
        return Ok(());
    }
    // The first one is attached itself; copies are made of attached mounts only.
    if let Some(Cover { tmpfs, .. }) = cover {
        let copy = mount::clone_tree(tmpfs.as_fd(), c"", false)?;
        return mount::attach(copy.as_fd(), target.as_fd(), c"");
    }
    let Cover { tmpfs, .. } = cover.insert(Cover::new()?);
    mount::attach(tmpfs.as_fd(), target.as_fd(), c"")
}
