//! What the launcher handed over beside its claim: descriptors, each hostile until proven otherwise.
//!
//! 1. A descriptor is known by the mount that it lies on, or by what the kernel writes for it in `/proc/self/fd`
//!    (proc_pid_fd(5)), and by nothing that asks the file itself: fstat, read, ioctl and even close of a file of somebody's FUSE
//!    file system wait for that somebody. Only what lies on the kernel's own mount of namespaces is asked which one it is.
//! 2. What is not what it should be goes back to the caller, for the janitor ([`super::Digests::discard`]); it MUST NOT be
//!    dropped here.
#![forbid(unsafe_code)]

use crate::audit::redact;
use crate::failure::Failure;
use crate::sandbox::NAMESPACES;
use crate::sys::{Errno, fs, nsfs, pidfd};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// A namespace file.
#[derive(Debug)]
pub struct Namespace {
    /// One of [`NAMESPACES`].
    pub kind: &'static str,
    /// The namespace's inode number.
    pub inode: u64,
    pub(super) fd: OwnedFd,
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.fd
    }
}

/// The descriptors of a `Launch`, sorted: each is what its place says.
#[derive(Debug)]
pub struct Handed {
    /// pidfd of the frozen payload.
    pub payload: OwnedFd,
    /// pidfd of its init.
    pub init: OwnedFd,
    /// Namespace files, `user` and `pid` among them, no kind twice.
    pub namespaces: Vec<Namespace>,
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pidfd,
    Namespace(&'static str, u64),
    Other,
}

/// The kernel's own mounts on which pidfds and namespace files lie, by their unique ids (kernel 6.12): whatever lies on one of
/// them is one of these, and can be asked itself. `None` where the kernel does not tell, or where pidfds have no file system
/// of their own (before 6.9).
struct Mounts {
    pidfds: Option<u64>,
    namespaces: Option<u64>,
}

fn mounts() -> &'static Mounts {
    const PIDFS: i64 = 0x5049_4446;
    const NSFS: i64 = 0x6e73_6673;
    static MOUNTS: OnceLock<Mounts> = OnceLock::new();
    let of = |fd: Option<OwnedFd>, system: i64| {
        let fd = fd?;
        let found = nix::sys::statfs::fstatfs(&fd).ok()?.filesystem_type().0;
        if found == system { fs::unique_mount(fd.as_fd()).ok() } else { None }
    };
    // What the other way needs is opened with it: later there may be no descriptors left.
    let _ = own_descriptors();
    MOUNTS.get_or_init(|| Mounts {
        pidfds: of(pidfd::open(std::process::id() as i32).ok(), PIDFS),
        namespaces: of(
            open("/proc/self/ns/pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok(),
            NSFS,
        ),
    })
}

/// What lies on one of those mounts; `None` is any other descriptor, and says nothing of it.
fn kind_by_mount(fd: BorrowedFd<'_>) -> Option<Kind> {
    let known = mounts();
    if known.pidfds.is_none() && known.namespaces.is_none() {
        return None;
    }
    let mount = Some(fs::unique_mount(fd).ok()?);
    if mount == known.pidfds {
        return Some(Kind::Pidfd);
    }
    if mount != known.namespaces {
        return None;
    }
    let name = match nsfs::kind(fd).ok()? {
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWNET => "net",
        libc::CLONE_NEWCGROUP => "cgroup",
        _ => return Some(Kind::Other),
    };
    let known = NAMESPACES.iter().find(|known| **known == name)?;
    Some(Kind::Namespace(known, fs::stat_at(fd, c"").ok()?.ino))
}

/// `/proc/self/fd`, opened once: nine links are read for every launch where mounts tell nothing.
fn own_descriptors() -> Option<&'static OwnedFd> {
    static DIR: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    DIR.get_or_init(|| open("/proc/self/fd", flags, Mode::empty()).ok()).as_ref()
}

/// Asks the kernel, not the file.
fn kind(fd: BorrowedFd<'_>) -> Kind {
    kind_by_mount(fd).unwrap_or_else(|| kind_by_name(fd))
}

/// By what /proc writes for it. Names of files begin with `/`, so that none passes for one of the others.
fn kind_by_name(fd: BorrowedFd<'_>) -> Kind {
    // The longest that is known here is `anon_inode:[pidfd]`; what is longer is something else.
    let (mut path, mut link) = ([0; 12], [0; 64]);
    let _ = write!(&mut path[..], "{}\0", fd.as_raw_fd());
    let text = CStr::from_bytes_until_nul(&path)
        .ok()
        .zip(own_descriptors())
        .and_then(|(path, dir)| fs::read_link(dir.as_fd(), path, &mut link).ok())
        .and_then(|link| std::str::from_utf8(link).ok());
    let Some(text) = text else { return Kind::Other };
    if text.starts_with("anon_inode:[pidfd]") || text.starts_with("pidfd:[") {
        return Kind::Pidfd;
    }
    let Some((name, inode)) = text.strip_suffix(']').and_then(|text| text.split_once(":[")) else {
        return Kind::Other;
    };
    match (NAMESPACES.iter().find(|known| **known == name), inode.parse()) {
        (Some(known), Ok(inode)) => Kind::Namespace(known, inode),
        _ => Kind::Other,
    }
}

/// Is it a pidfd?
pub(super) fn is_pidfd(fd: BorrowedFd<'_>) -> bool {
    matches!(kind(fd), Kind::Pidfd)
}

/// Path of a descriptor's file, as the recorder would name it, or what the kernel calls it. Asks the file nothing. In the
/// mounts of a container it may be another path than here, so it is data.
pub fn path_of(fd: &impl AsRawFd) -> String {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    nix::fcntl::readlink(path.as_str())
        .map_or_else(|_| String::new(), |link| redact::text(link.as_encoded_bytes()))
}

impl Handed {
    /// Sorts the descriptors of a `Launch` message by its `namespaces`.
    ///
    /// # Errors
    /// Too many, too few, or one that is not what its place says; with all of them, for the janitor.
    pub fn sort(fds: Vec<OwnedFd>, kinds: &[String]) -> Result<Self, (Failure, Vec<OwnedFd>)> {
        let known = match judge(&fds, kinds) {
            Ok(known) => known,
            Err(why) => return Err((unfit(why), fds)),
        };
        let mut fds = fds.into_iter();
        let (Some(payload), Some(init)) = (fds.next(), fds.next()) else {
            return Err((unfit("there are none".to_owned()), Vec::new()));
        };
        let namespaces =
            known.into_iter().zip(fds).map(|((kind, inode), fd)| Namespace { kind, inode, fd }).collect();
        Ok(Self { payload, init, namespaces })
    }

    pub(super) fn namespace(&self, kind: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.kind == kind)
    }
}

/// Kind and inode number of the namespaces, when every descriptor is what its place says.
fn judge(fds: &[OwnedFd], kinds: &[String]) -> Result<Vec<(&'static str, u64)>, String> {
    if fds.len() != kinds.len() + 2 {
        return Err(format!("{} descriptors came, {} were announced", fds.len(), kinds.len() + 2));
    }
    let mut known = Vec::with_capacity(kinds.len());
    for (index, fd) in fds.iter().enumerate() {
        match (index.checked_sub(2).and_then(|index| kinds.get(index)), kind(fd.as_fd())) {
            (None, Kind::Pidfd) if !pidfd::is_of_a_thread(fd.as_fd()) => {}
            (None, _) => return Err(format!("descriptor {index} is no pidfd of a process")),
            (Some(said), Kind::Namespace(kind, inode)) if said == kind => {
                if known.iter().any(|(other, _)| *other == kind) {
                    return Err(format!("there are two namespaces of kind {kind}"));
                }
                known.push((kind, inode));
            }
            (Some(said), _) => {
                return Err(format!("descriptor {index} is no namespace of kind {said}"));
            }
        }
    }
    for needed in ["user", "pid"] {
        if !known.iter().any(|(kind, _)| *kind == needed) {
            return Err(format!("the {needed} namespace is missing"));
        }
    }
    Ok(known)
}

fn unfit(why: String) -> Failure {
    Failure::refused(
        "the payload's descriptors are not what they should be",
        why,
        "use a bailey of the recorder's version or the one before",
    )
}

/// How far the namespace descriptors are tied to the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tie {
    /// `tied`, or what this kernel cannot tell.
    pub(super) text: String,
    /// Who made the payload's user namespace, where it could be asked.
    pub(super) owner: Option<u32>,
}

/// Ties the descriptors to the payload `pids` (its number in each pid namespace, from the recorder's to its own):
///
/// - the pid namespace knows the payload under its own number, and lies as deep as the payload. A process is in its own
///   namespace and in those above it, one for each depth, so it is this one and no other.
/// - the user namespace is the one that owns it, and the mount namespace's too. (`own_pids`: where the pid namespace is the
///   launcher's, it owns only the latter.)
///
/// The other kinds are the launcher's word.
///
/// # Errors
/// In words, where the kernel contradicts.
pub(super) fn tie(handed: &Handed, pids: &[i32], own_pids: bool) -> Result<Tie, String> {
    let (Some(user), Some(pid)) = (handed.namespace("user"), handed.namespace("pid")) else {
        return Err("the user or pid namespace is missing".to_owned());
    };
    let mut unknown = Vec::new();
    let (Some(outer), Some(inner)) = (pids.first(), pids.last()) else {
        return Err("the payload has no number".to_owned());
    };
    match nsfs::pid_in(pid.fd.as_fd(), *outer) {
        Ok(number) if number == *inner => match depth(pid.fd.as_fd(), pids.len()) {
            Ok(true) => {}
            Ok(false) => return Err("the pid namespace handed over is not the payload's own".to_owned()),
            Err(errno) => unknown.push(format!("depth of the pid namespace: {}", unanswered(errno))),
        },
        Ok(number) => {
            return Err(format!(
                "the payload is process {number} in the pid namespace handed over, and {inner} in its own"
            ));
        }
        Err(Errno::ESRCH) => {
            return Err("the payload is not in the pid namespace handed over".to_owned());
        }
        Err(errno) => unknown.push(format!("pid: {}", unanswered(errno))),
    }
    let owned = |kind: &str| kind == "mnt" || kind == "pid" && own_pids;
    for namespace in handed.namespaces.iter().filter(|namespace| owned(namespace.kind)) {
        let owner =
            nsfs::user_namespace(namespace.fd.as_fd()).and_then(|owner| fs::stat_at(owner.as_fd(), c""));
        match owner {
            Ok(owner) if owner.ino == user.inode => {}
            Ok(owner) => {
                return Err(format!(
                    "the {} namespace handed over belongs to user namespace {}, not to {}",
                    namespace.kind, owner.ino, user.inode
                ));
            }
            Err(errno) => unknown.push(format!("owner of {}: {}", namespace.kind, unanswered(errno))),
        }
    }
    let owner = match nsfs::owner_uid(user.fd.as_fd()) {
        Ok(owner) => Some(owner),
        Err(errno) => {
            unknown.push(format!("owner of user: {}", unanswered(errno)));
            None
        }
    };
    let text = if unknown.is_empty() { "tied".to_owned() } else { unknown.join("; ") };
    Ok(Tie { text, owner })
}

/// Is this pid namespace so many deep, the recorder's own being 1? The recorder's own is found by its inode number.
fn depth(namespace: BorrowedFd<'_>, expected: usize) -> Result<bool, Errno> {
    // A process never changes its own.
    static OWN: OnceLock<Result<u64, Errno>> = OnceLock::new();
    let own = (*OWN.get_or_init(|| {
        std::fs::metadata("/proc/self/ns/pid")
            .map(|own| std::os::unix::fs::MetadataExt::ino(&own))
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }))?;
    let mut above: Option<OwnedFd> = None;
    for level in 1..=expected {
        let here = above.as_ref().map_or(namespace, AsFd::as_fd);
        if fs::stat_at(here, c"")?.ino == own {
            return Ok(level == expected);
        }
        if level < expected {
            above = Some(nsfs::parent(here)?);
        }
    }
    Ok(false)
}

fn unanswered(errno: Errno) -> String {
    match errno {
        Errno::ENOTTY | Errno::EINVAL => "this kernel cannot tell".to_owned(),
        Errno::EPERM => "not below the recorder's own namespaces".to_owned(),
        errno => crate::failure::errno_text(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn both_ways_say_the_same_of_every_descriptor() {
        let own = std::process::id() as i32;
        let mut fds: Vec<(OwnedFd, Kind)> = vec![(pidfd::open(own).unwrap(), Kind::Pidfd)];
        for kind in NAMESPACES {
            let file = File::open(format!("/proc/self/ns/{kind}")).unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
            fds.push((file.into(), Kind::Namespace(kind, inode)));
        }
        for path in ["/dev/null", "/proc/self/ns", "/proc/self/exe", "/proc/self/status", "/"] {
            fds.push((File::open(path).unwrap().into(), Kind::Other));
        }
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        let (socket, _other) = crate::sys::socket::pair().unwrap();
        fds.extend([(pipe, Kind::Other), (socket, Kind::Other)]);
        for (fd, expected) in &fds {
            let by_mount = match (expected, mounts()) {
                (Kind::Pidfd, Mounts { pidfds: Some(_), .. })
                | (Kind::Namespace(..), Mounts { namespaces: Some(_), .. }) => Some(*expected),
                _ => None,
            };
            let found = (kind_by_name(fd.as_fd()), kind_by_mount(fd.as_fd()), kind(fd.as_fd()));
            assert_eq!(found, (*expected, by_mount, *expected), "{}", path_of(fd));
        }
        // A namespace of which no launch hands one over.
        if let Ok(time) = File::open("/proc/self/ns/time") {
            assert_eq!((kind_by_name(time.as_fd()), kind(time.as_fd())), (Kind::Other, Kind::Other));
        }
    }
}
