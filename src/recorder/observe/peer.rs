//! Who is at the other end of a connection, looked at when it begins.
#![forbid(unsafe_code)]

use super::hidden;
use crate::failure::{Failure, errno_text};
use crate::proc::{Process, Stat};
use crate::sys::{Errno, pidfd, socket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How often a walk over ancestors begins again because one of them died meanwhile.
const WALKS: usize = 8;
/// The most ancestors that are followed. Nobody's pilot is that deep, and a hostile one could be.
const DEEPEST: usize = 256;

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    /// Its pid, as the recorder numbers it.
    pub pid: i32,
    /// Effective uid when it connected.
    pub uid: u32,
    /// Effective gid when it connected.
    pub gid: u32,
    /// When it was made, clock ticks since boot.
    pub start_ticks: u64,
    /// Its number in each pid namespace, from the recorder's to its own.
    pub pids: Vec<i32>,
    /// pid and start ticks of its ancestors, nearest first, up to pid 1. Empty for a peer in the recorder's own pid namespace
    /// where every payload has one: it is in nobody's payload, because no process leaves its pid namespace upwards.
    pub ancestors: Vec<(i32, u64)>,
    /// It is in the group that was asked for, by its gid or a supplementary one.
    pub in_group: bool,
    /// The site lets payloads be without a pid namespace.
    pub shares_pids: bool,
    pidfd: Arc<OwnedFd>,
}

impl Peer {
    /// Looks at whoever called connect(2). `group` is for [`Peer::in_group`], `shares_pids` for [`Peer::shares_pids`].
    ///
    /// # Errors
    /// A peer that is gone, or that the recorder cannot see (hidepid, another pid namespace). [`uid_of`] still says whose it
    /// was, for the janitor, who closes the connection too.
    pub fn look(socket: BorrowedFd<'_>, group: Option<u32>, shares_pids: bool) -> Result<Self, Failure> {
        let credentials =
            socket::peer_credentials(socket).map_err(|errno| cannot("its credentials", errno))?;
        if credentials.pid <= 0 {
            return Err(Failure::site(
                "cannot tell who asks the recorder",
                "it is in a pid namespace that the recorder does not see",
                "run the recorder on the host itself and bind its socket into containers",
            ));
        }
        let (pidfd, by_number) = match socket::peer_pidfd(socket) {
            Err(Errno::ENOPROTOOPT) => (pidfd::open(credentials.pid), true),
            other => (other, false),
        };
        let pidfd = pidfd.map_err(|errno| cannot("its process", errno))?;
        let in_group = match group {
            Some(gid) if gid == credentials.gid => true,
            Some(gid) => socket::peer_has_group(socket, gid).map_err(|errno| cannot("its groups", errno))?,
            None => false,
        };
        let mut peer = Self {
            pid: credentials.pid,
            uid: credentials.uid,
            gid: credentials.gid,
            start_ticks: 0,
            pids: Vec::new(),
            ancestors: Vec::new(),
            in_group,
            shares_pids,
            pidfd: Arc::new(pidfd),
        };
        let uids = peer.read()?;
        // Before kernel 6.5 the number may have become another's between connect(2) and here. It is not another user's.
        if by_number && !uids.contains(&peer.uid) {
            return Err(gone());
        }
        Ok(peer)
    }

    /// How many pid namespaces deep it is, the recorder's own included.
    pub fn depth(&self) -> usize {
        self.pids.len()
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        pidfd::all_live([self.pidfd.as_fd()])
    }

    /// Its pidfd, for the live table too.
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// Becomes readable when it ends.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Returns its uids.
    fn read(&mut self) -> Result<[u32; 4], Failure> {
        let mut buffer = Vec::new();
        let process = Process::open(self.pid).map_err(|errno| self.unreadable(errno))?;
        // The number was the peer's when the directory was opened, because it lives afterwards.
        if !self.lives() {
            return Err(gone());
        }
        let status = process.status(&mut buffer).map_err(|errno| self.unreadable(errno))?;
        let stat = process.stat(&mut buffer).map_err(|errno| self.unreadable(errno))?;
        if status.tgid != self.pid || status.pids.first() != Some(&self.pid) {
            return Err(Failure::site(
                "cannot tell who asks the recorder",
                format!("/proc/{} shows another numbering of processes than the recorder's own", self.pid),
                "mount /proc afresh in the recorder's pid namespace",
            ));
        }
        self.start_ticks = stat.start_ticks;
        self.pids = status.pids;
        if self.depth() > 1 || self.shares_pids {
            self.ancestors = self.ancestors_of(process, &mut buffer)?;
        }
        if self.lives() { Ok(status.uids) } else { Err(gone()) }
    }

    fn ancestors_of(&self, process: Process, buffer: &mut Vec<u8>) -> Result<Vec<(i32, u64)>, Failure> {
        let mut process = process;
        for _ in 0..WALKS {
            match walk(process, buffer) {
                Ok(found) => return Ok(found),
                // One of them died on the way.
                Err(Errno::ESRCH | Errno::ENOENT) if self.lives() => {}
                Err(errno) => return Err(self.unreadable(errno)),
            }
            process = Process::open(self.pid).map_err(|errno| self.unreadable(errno))?;
            if !self.lives() {
                return Err(gone());
            }
        }
        Err(self.unreadable(Errno::ENOENT))
    }

    /// Why /proc does not show it, or its ancestors.
    fn unreadable(&self, errno: Errno) -> Failure {
        if !self.lives() {
            return gone();
        }
        hidden::unreadable(&format!("process {} of uid {}", self.pid, self.uid), errno)
    }
}

/// The uid of whoever connected, also when it is gone by now.
pub fn uid_of(socket: BorrowedFd<'_>) -> u32 {
    socket::peer_credentials(socket).map_or(u32::MAX, |credentials| credentials.uid)
}

/// A process's parent: number, stat and directory; `None` for pid 1 and where the parent has no number here.
///
/// The parent's directory is opened, and then the child must still name it: had the parent died, the child would name
/// another. So the directory is that of the real parent, whoever dies and whatever number is used again. `ESRCH` or `ENOENT`
/// when somebody died meanwhile.
pub(super) fn parent(child: &Process, buffer: &mut Vec<u8>) -> Result<Option<(i32, Stat, Process)>, Errno> {
    let Stat { ppid, .. } = child.stat(buffer)?;
    if ppid <= 0 {
        return Ok(None);
    }
    let parent = Process::open(ppid)?;
    if child.stat(buffer)?.ppid != ppid {
        return Err(Errno::ESRCH);
    }
    let stat = parent.stat(buffer)?;
    Ok(Some((ppid, stat, parent)))
}

/// From a process up to pid 1.
fn walk(process: Process, buffer: &mut Vec<u8>) -> Result<Vec<(i32, u64)>, Errno> {
    let mut found = Vec::new();
    let mut process = process;
    while let Some((pid, stat, above)) = parent(&process, buffer)? {
        if found.len() == DEEPEST {
            return Err(Errno::ELOOP);
        }
        found.push((pid, stat.start_ticks));
        process = above;
    }
    Ok(found)
}

/// The launch inside whose payload the peer runs: the nearest ancestor that `live` knows, by pid and start ticks, as a live
/// payload or its init.
///
/// Who enters a payload's namespaces from outside (setns(2), which only the payload's own uid can) descends from no payload and
/// is not found.
pub fn enclosing(peer: &Peer, live: impl Fn(i32, u64) -> Option<String>) -> Option<String> {
    let own = (peer.pid, peer.start_ticks);
    std::iter::once(&own).chain(&peer.ancestors).find_map(|(pid, ticks)| live(*pid, *ticks))
}

fn cannot(what: &str, errno: Errno) -> Failure {
    if matches!(errno, Errno::ESRCH | Errno::EINVAL) {
        return gone();
    }
    Failure::site(
        "cannot tell who asks the recorder",
        format!("{what}: {}", errno_text(errno)),
        "report this with the kernel's version",
    )
}

fn gone() -> Failure {
    Failure::site(
        "cannot tell who asks the recorder",
        "the process that connected has ended",
        "connect from the process that asks, and let it live until the answer",
    )
}
