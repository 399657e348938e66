//! The file-descriptor mount calls (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)) and pivot_root(2).

use super::{Errno, check};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Mount attributes (`MOUNT_ATTR_*`, mount_setattr(2)). `nosuid` is always set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// `MOUNT_ATTR_RDONLY`
    pub read_only: bool,
    /// `MOUNT_ATTR_NODEV`
    pub no_dev: bool,
    /// `MOUNT_ATTR_NOEXEC`
    pub no_exec: bool,
}

impl Attr {
    const fn bits(self) -> u64 {
        let mut bits = libc::MOUNT_ATTR_NOSUID;
        if self.read_only {
            bits |= libc::MOUNT_ATTR_RDONLY;
        }
        if self.no_dev {
            bits |= libc::MOUNT_ATTR_NODEV;
        }
        if self.no_exec {
            bits |= libc::MOUNT_ATTR_NOEXEC;
        }
        bits
    }
}

/// A file system being configured (fsopen(2)).
pub struct FsContext(OwnedFd);

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

impl FsContext {
    /// fsopen(2) with `FSOPEN_CLOEXEC`.
    pub fn open(kind: &CStr) -> Result<Self, Errno> {
        const FSOPEN_CLOEXEC: u32 = 1;
        // SAFETY: `kind` is NUL-terminated.
        let fd = check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// A parameter `key=value`.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// A parameter that is only a word.
    pub fn flag(&self, key: &CStr) -> Result<(), Errno> {
        self.config(FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Creates the file system and a mount of it that is attached nowhere. `extra` are more `MOUNT_ATTR_*` bits.
    pub fn mount(self, attr: Attr, extra: u64) -> Result<OwnedFd, Errno> {
        const FSMOUNT_CLOEXEC: u32 = 1;
        self.config(FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: no pointers.
        let fd = check(unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attr.bits() | extra)
        })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    fn config(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> Result<(), Errno> {
        // SAFETY: key and value are NUL-terminated or null, as fsconfig(2) wants for each command used here.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key.map_or(std::ptr::null(), CStr::as_ptr),
                value.map_or(std::ptr::null(), CStr::as_ptr),
                0,
            )
        })
        .map(drop)
    }
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a copy of the mount at `path` (of `dir` itself when empty), attached nowhere.
/// The last symlink is not followed. `recursive` takes the mounts below along; where some of those are locked (they came
/// from a more privileged namespace) it is the only way the kernel allows.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2) on a whole copied tree (`AT_RECURSIVE`): adds the attributes, keeps the locked ones, and makes it
/// private unless `follow_host` keeps the propagation that it was copied with.
pub fn set_attributes(tree: BorrowedFd<'_>, attr: Attr, follow_host: bool) -> Result<(), Errno> {
    set_attr(tree, c"", attr, if follow_host { 0 } else { libc::MS_PRIVATE })
}

/// Makes every mount of this namespace nosuid, and private, or a slave of the host's when `follow_host`. In both cases what
/// is mounted here never reaches the host. Copies made afterwards inherit it.
pub fn set_all(follow_host: bool) -> Result<(), Errno> {
    let attr = Attr { read_only: false, no_dev: false, no_exec: false };
    let propagation = if follow_host { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    set_attr(super::fs::cwd(), c"/", attr, propagation)
}

fn set_attr(dir: BorrowedFd<'_>, path: &CStr, attr: Attr, propagation: libc::c_ulong) -> Result<(), Errno> {
    let attr = MountAttr { set: attr.bits(), clear: 0, propagation, userns_fd: 0 };
    // SAFETY: `path` is NUL-terminated, `attr` is a mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// The propagation of [`set_all`] alone, by mount(2), which every kernel has.
pub fn propagate_all(follow_host: bool) -> Result<(), Errno> {
    let propagation = if follow_host { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    change(c"/", libc::MS_REC | propagation)
}

/// Makes the mount at `path`, a link of /proc/self/fd, private: mount(2).
pub fn make_private(path: &CStr) -> Result<(), Errno> {
    change(path, libc::MS_PRIVATE)
}

/// Gives the mount at `path`, a link of /proc/self/fd, these attributes: mount(2), which keeps no others but those of access
/// times. (Leaving one out that is locked is `EPERM`.)
pub fn replace_attributes(path: &CStr, attr: Attr) -> Result<(), Errno> {
    let mut flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID;
    if attr.read_only {
        flags |= libc::MS_RDONLY;
    }
    if attr.no_dev {
        flags |= libc::MS_NODEV;
    }
    if attr.no_exec {
        flags |= libc::MS_NOEXEC;
    }
    change(path, flags)
}

fn change(path: &CStr, flags: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated; a change of flags takes no source, type or data.
    check(libc::c_long::from(unsafe {
        libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null())
    }))
    .map(drop)
}

/// move_mount(2): attaches `tree` at `path` below `target`, or on what `target` itself refers to when `path` is empty. A last
/// symlink is not followed; a path of several parts is only for directories that nobody else can change.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    const F_EMPTY_PATH: u32 = 0x04;
    const T_EMPTY_PATH: u32 = 0x40;
    let flags = if path.is_empty() { F_EMPTY_PATH | T_EMPTY_PATH } else { F_EMPTY_PATH };
    // SAFETY: both strings are NUL-terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    })
    .map(drop)
}

/// pivot_root(".", "."), then detaches the old root that now lies on top: the current directory becomes the root.
pub fn pivot_into_cwd() -> Result<(), Errno> {
    // SAFETY: NUL-terminated strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: NUL-terminated string.
    check(libc::c_long::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })).map(drop)
}
