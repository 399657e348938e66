//! The attributes of the payload's mounts on kernels without mount_setattr(2), before 5.12.
//!
//! 1. A copied tree takes no attributes as long as it is attached nowhere, so they come when the tree stands and the old root is
//!    gone, mount by mount, as mountinfo lists them. Until then nothing but init runs.
//! 2. A mount is opened with symlinks refused, compared with the line's number, and changed through its descriptor; what it then
//!    has is read back. One that cannot be judged ends the launch.
//! 3. A mount that another one covers is left as it came: nobody reaches it.
//! 4. Nothing here may allocate or panic.
#![forbid(unsafe_code)]

use super::build::at;
use super::mountinfo;
use super::protocol::{Stage, Trouble};
use super::tree::{DEVICE, Source, Tree};
use crate::sys::mount::{self, Attr};
use crate::sys::{Errno, fs};
use nix::sys::statvfs::FsFlags;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The pilot's own /proc, for the payload to read.
pub(super) const OUTER_PROC: Attr = Attr { read_only: true, no_dev: true, no_exec: true };

/// Gives every mount what its step of the plan wants, beside what it has: the step whose mount point it is, or below whose mount
/// point it came along.
/// `outer_proc`: /proc is a copy of the host's.
pub(super) fn restrict(tree: &Tree, outer_proc: bool) -> Result<(), Trouble> {
    mountinfo::each_line(Stage::Attributes, |line| {
        let bad = Trouble { stage: Stage::Attributes, index: 0, errno: Errno::EBADMSG };
        let mut fields = line.split(|byte| *byte == b' ');
        let number = fields.next().and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let (Some(number), Some(point), Some(options)) = (number, fields.nth(3), fields.next()) else {
            return Err(bad);
        };
        let follows = fields.take_while(|tag| *tag != b"-").any(|tag| tag.starts_with(b"master:"));
        let mut path = [0_u8; libc::PATH_MAX as usize];
        let length =
            mountinfo::unescape(point, &mut path).ok_or(Trouble { errno: Errno::ENAMETOOLONG, ..bad })?;
        let point = Path::new(OsStr::from_bytes(path.get(..length).unwrap_or_default()));
        let step = tree
            .mounts
            .iter()
            .enumerate()
            .filter(|(_, step)| point.starts_with(&step.target))
            .max_by_key(|(_, step)| step.target.as_os_str().len());
        let (index, attr, follow_host) = step.map_or((0, DEVICE, false), |(index, step)| {
            let copied = outer_proc && matches!(step.source, Source::Proc);
            (index, if copied { OUTER_PROC } else { step.attr }, step.follow_host)
        });
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| bad)?;
        at(Stage::Attributes, index, one(path, number, attr, options, follows && !follow_host))
    })
}

/// One mount, with the options that mountinfo shows; `private`: it must no longer follow the host.
fn one(path: &CStr, number: u64, wanted: Attr, options: &[u8], private: bool) -> Result<(), Errno> {
    let has = |name: &[u8]| options.split(|byte| *byte == b',').any(|option| option == name);
    let attr = Attr {
        read_only: wanted.read_only || has(b"ro"),
        no_dev: wanted.no_dev || has(b"nodev"),
        no_exec: wanted.no_exec || has(b"noexec"),
    };
    let complete = has(b"nosuid")
        && (attr.read_only == has(b"ro"))
        && (attr.no_dev == has(b"nodev"))
        && (attr.no_exec == has(b"noexec"));
    if complete && !private {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let mount = match fs::open_how(fs::cwd(), path, flags, 0, fs::Resolve::NoSymlinks) {
        // What lies behind a directory that the pilot may not search, the payload does not reach.
        Err(Errno::EACCES) => return Ok(()),
        opened => opened?,
    };
    match fs::mount_number(mount.as_fd())? {
        0 => return Err(Errno::ENOSYS),
        other if other != number => return Ok(()),
        _ => {}
    }
    let mut link = [0_u8; 32];
    let link = link_to(mount.as_raw_fd(), &mut link)?;
    if private {
        mount::make_private(link)?;
    }
    mount::replace_attributes(link, attr)?;
    if holds(mount.as_fd(), attr)? { Ok(()) } else { Err(Errno::EPERM) }
}

/// Does the kernel show these attributes, and nosuid?
fn holds(mount: BorrowedFd<'_>, attr: Attr) -> Result<bool, Errno> {
    let flags = nix::sys::statfs::fstatfs(mount)?.flags();
    let all = [
        (true, FsFlags::ST_NOSUID),
        (attr.read_only, FsFlags::ST_RDONLY),
        (attr.no_dev, FsFlags::ST_NODEV),
        (attr.no_exec, FsFlags::ST_NOEXEC),
    ];
    Ok(all.iter().all(|(wanted, flag)| !wanted || flags.contains(*flag)))
}

/// `/proc/self/fd/N`: mount(2) takes no descriptor.
fn link_to(fd: RawFd, buffer: &mut [u8; 32]) -> Result<&CStr, Errno> {
    use std::io::Write as _;
    let mut room = &mut buffer[..];
    write!(room, "/proc/self/fd/{fd}\0").map_err(|_| Errno::ENAMETOOLONG)?;
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::ENAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_a_path() {
        let mut buffer = [b'x'; 32];
        assert_eq!(link_to(RawFd::MAX, &mut buffer), Ok(c"/proc/self/fd/2147483647"));
        assert_eq!(link_to(0, &mut buffer), Ok(c"/proc/self/fd/0"));
    }
}
