//! Which descriptors of a peer lie on a disk of this host, so that no call on them waits for anybody.
//!
//! 1. The kernel's own notes say where a descriptor lies; the file is not asked ([`fs::unique_mount`], proc_pid_fdinfo(5)).
//! 2. A mount's kind is read from the peer's list of mounts while the descriptor is held. The descriptor holds the mount, and
//!    no two mounts have one number at a time: so the line with that number is that mount's, whosever list it is in.
//! 3. What was found is remembered by the mount's unique id (kernel 6.12), which no other mount ever gets.
//! 4. Local are only kinds that take root to mount and that need nothing but this host's disks. Memory (tmpfs) is not among
//!    them: whoever drops the last reference to one frees all of it, and that takes a while.
#![forbid(unsafe_code)]

use crate::proc::Process;
use crate::sys::fs;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Kinds that wait for a disk at most.
const LOCAL: [&[u8]; 8] = [b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs", b"zfs", b"erofs"];
/// Their data may be anybody's file, or on another host.
const NOT_A_DISK: [&[u8]; 3] = [b"/dev/loop", b"/dev/nbd", b"/dev/fuse"];
/// Mounts that are remembered: one for each place where pilots keep a launcher.
const REMEMBERED: usize = 64;
/// The longest list of mounts that is looked through.
const LONGEST: usize = 64 << 10;

/// What was found of mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Unique id, and whether it is local; the newest last.
    known: VecDeque<(u64, bool)>,
    buffer: Vec<u8>,
}

impl Mounts {
    /// Is this known already?
    pub(super) fn known(&self, fd: BorrowedFd<'_>) -> Option<bool> {
        let id = fs::unique_mount(fd).ok()?;
        self.known.iter().find(|(known, _)| *known == id).map(|(_, local)| *local)
    }

    /// Does this file, which a process of that number handed over, lie on a disk of this host? An error counts as no. Without
    /// unique ids nothing can be remembered, and the question costs so much that it is only asked if `insist`.
    pub(super) fn is_local(&mut self, fd: BorrowedFd<'_>, pid: i32, insist: bool) -> bool {
        let Ok(id) = fs::unique_mount(fd) else {
            return insist && self.look(fd, pid).unwrap_or(false);
        };
        if let Some((_, local)) = self.known.iter().find(|(known, _)| *known == id) {
            return *local;
        }
        let Some(local) = self.look(fd, pid) else { return false };
        if self.known.len() >= REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back((id, local));
        local
    }

    /// `None` where nothing is said of its mount.
    fn look(&mut self, fd: BorrowedFd<'_>, pid: i32) -> Option<bool> {
        let notes = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let mount = notes.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())?;
        let list = Process::open(pid).ok()?.read_at_most(c"mountinfo", LONGEST, &mut self.buffer).ok()?;
        of_list(list, mount)
    }
}

/// From a text of mountinfo (proc_pid_mountinfo(5)): its number comes first; after ` - ` come kind and source. Blanks in names
/// are escaped.
fn of_list(list: &[u8], mount: u64) -> Option<bool> {
    let number = format!("{mount} ");
    let line = list.split(|byte| *byte == b'\n').find(|line| line.starts_with(number.as_bytes()))?;
    let mut words = line.split(|byte| *byte == b' ').skip_while(|word| *word != b"-").skip(1);
    let (kind, source) = (words.next()?, words.next()?);
    Some(LOCAL.contains(&kind) && !NOT_A_DISK.iter().any(|other| source.starts_with(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    const LIST: &[u8] = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        22 21 0:21 / /mnt\\040-\\040ext4 rw - fuse ext4 rw,user_id=1000\n\
        221 21 0:22 / /scratch rw master:2 propagate_from:1 - tmpfs tmpfs rw\n\
        30 21 7:1 / /snap rw - ext4 /dev/loop1 rw\n\
        31 21 0:30 / /cvmfs rw - fuse cvmfs2 rw\n\
        32 21 0:31 / /home rw - nfs4 server:/home rw\n\
        33 21 0:32 / /data rw - btrfs /dev/sdb rw\n";

    #[test]
    fn only_disks_of_this_host_are_local() {
        let found = [21, 22, 221, 30, 31, 32, 33, 2, 34].map(|mount| of_list(LIST, mount));
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(found, [yes, no, no, no, no, no, yes, None, None]);
        assert_eq!(of_list(b"21 1 254:0 / / rw - ext4", 21), None);
    }

    #[test]
    fn what_was_found_is_remembered_where_the_kernel_names_mounts() {
        let pid = std::process::id() as i32;
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        let mut mounts = Mounts::default();
        assert_eq!(mounts.known(file.as_fd()), None);
        let local = mounts.is_local(file.as_fd(), pid, true);
        // The list that a person would read says the same.
        let dev = std::os::linux::fs::MetadataExt::st_dev(&file.metadata().unwrap());
        let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
        let list = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = list.lines().find(|line| line.split(' ').nth(2) == Some(&format!("{major}:{minor}")));
        if let Some(line) = line {
            let kind = line.split_once(" - ").unwrap().1.split(' ').next().unwrap();
            assert!(local <= LOCAL.contains(&kind.as_bytes()), "{line}");
        }
        if fs::unique_mount(file.as_fd()).is_ok() {
            assert_eq!(mounts.known(file.as_fd()), Some(local));
        }
        for other in [null.as_fd(), pipe.as_fd()] {
            assert!(!mounts.is_local(other, pid, true));
        }
    }
}
