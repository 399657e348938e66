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
//! 4. What cannot be seen MUST NOT pass for absent ([`is_absent`]): the plan then comes to nothing.
#![forbid(unsafe_code)]

mod builder;
pub mod hidden;
mod host_object;
mod look;
mod pathmap;
mod skeleton;
mod view;

pub use builder::Builder;
pub(crate) use builder::{TOO_LONG, fits};
pub use host_object::HostObject;
pub(crate) use host_object::cannot_open;
pub(crate) use look::unseen;
pub use look::{Identities, canonical, identity, is_absent, is_there};
pub use view::{Kind, Origin, Shown};

use crate::sys::mount::Attr;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

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

/// Read-only, no devices: what every bind gets unless something else was asked.
pub const READ_ONLY: Attr = Attr { read_only: true, no_dev: true, no_exec: false };
/// Writable, no devices.
pub const WRITABLE: Attr = Attr { read_only: false, no_dev: true, no_exec: false };
/// Writable, no devices, nothing executable: proc.
pub const NO_EXEC: Attr = Attr { read_only: false, no_dev: true, no_exec: true };
/// Device files.
pub const DEVICE: Attr = Attr { read_only: false, no_dev: false, no_exec: false };

/// The most mounts of our own whose descriptors the child keeps for what lies below them.
pub(super) const MAX_PARENTS: usize = 8;

/// A file name or path without NUL; the kernel hands out no other, and front ends refuse them.
fn cstring(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}
