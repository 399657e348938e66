//! What the kernel shows the recorder of a peer and of its frozen payload, and what of a launcher's claim it overrules.
//!
//! 1. Nothing here waits for a peer. Of a descriptor that came with a message only the kernel's own notes are read until it
//!    is known to be a pidfd, a namespace file or on a disk of this host; everything else, closing included, is for the threads
//!    of [`Digests`].
//! 2. Every file is read under a pidfd that lived before and lives after, from a directory of /proc that belongs to that
//!    process for ever. No number that was used again can be meant.
//! 3. What cannot be seen is a refusal with the cure, or is named in the record. It never passes for "nothing found".
//!
//! What no kernel shows to another uid: the payload's seccomp filter, its executable, the namespaces beyond `user`, `pid`
//! and the owner of `mnt`, and what a hostile pilot does a moment later (docs/threat-model.md).
#![forbid(unsafe_code)]

mod again;
mod claim;
mod digests;
mod handed;
mod hidden;
mod mounts;
mod peer;
mod programs;

pub use again::{parent_of, process};
pub use claim::{confine, contradictions, settle};
pub use digests::{Answer, Backlog, Digests, Program, Submitted};
pub use handed::{Handed, Namespace, path_of};
pub use hidden::can_see_others;
pub use peer::{Peer, enclosing, uid_of};

use crate::audit::record;
use crate::failure::Failure;
use crate::proc::{self, Process};
use crate::sys::{Errno, pidfd};
use sha2::{Digest, Sha256};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;

/// What the kernel shows of a frozen payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its number in each pid namespace, from the recorder's to its own.
    pub pids: Vec<i32>,
    /// The uid that it runs as.
    pub uid: u32,
    /// The gid that it runs as.
    pub gid: u32,
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb; all zero.
    pub capabilities: [u64; 5],
    /// Set.
    pub no_new_privs: bool,
    /// 0, 1 or 2.
    pub seccomp: u32,
    /// When it was made, clock ticks since boot.
    pub start_ticks: u64,
    /// Its control group.
    pub cgroup: record::Cgroup,
    /// Folded ([`proc::fold_map`]).
    pub uid_map: String,
    /// Folded.
    pub gid_map: String,
    /// `deny` or `allow`.
    pub setgroups: String,
    /// SHA-256 of `mountinfo`.
    pub mountinfo: [u8; 32],
    /// Kind and inode number of the namespaces handed over.
    pub namespaces: Vec<(&'static str, u64)>,
    /// `tied`, or what could not be tied.
    pub tie: String,
    /// PIDFD_GET_INFO answered.
    pub by_pidfd: bool,
    /// Its init, as the recorder numbers it, and when that was made.
    pub init: (i32, u64),
}

impl Observed {
    /// Whether the network is the payload's own: not the host's, which is the recorder's, and handed over to be looked at.
    pub fn has_own_network(&self) -> bool {
        let of_payload = self.namespaces.iter().find(|(kind, _)| *kind == "net").map(|(_, inode)| *inode);
        let host = std::fs::metadata("/proc/self/ns/net").ok().map(|found| found.ino());
        of_payload.is_some() && of_payload != host
    }

    /// Its pid, as the recorder numbers it.
    pub fn pid(&self) -> i32 {
        self.pids.first().copied().unwrap_or(0)
    }

    /// pid and start ticks of the payload and of its init: by these a nested launcher's ancestors are found.
    pub fn processes(&self) -> [(i32, u64); 2] {
        [(self.pid(), self.start_ticks), self.init]
    }

    /// Its pid, as it numbers itself.
    pub fn vpid(&self) -> i32 {
        self.pids.last().copied().unwrap_or(0)
    }
}

/// Reads what the kernel shows of the frozen payload, and checks what must hold of every payload: it is the child of its
/// init and that the child of the peer, it is in a pid namespace below the peer's (or, where the site grants that, in the peer's) and
/// in a user namespace that the peer owns, it has no capability, and no_new_privs is set.
/// `buffer` is for reading, and keeps its room for the next call.
///
/// # Errors
/// Whatever does not hold, with what the kernel shows; what cannot be seen, with the cure.
pub fn payload(peer: &Peer, handed: &Handed, buffer: &mut Vec<u8>) -> Result<Observed, Failure> {
    let (payload, init) = (handed.payload.as_fd(), handed.init.as_fd());
    let (pid, info) = number(payload, "payload")?;
    let (init_pid, _) = number(init, "init")?;
    let directory = Process::open(pid);
    let init_directory = Process::open(init_pid);
    // All three lived after the directories were opened, so those are theirs.
    still_there(peer, payload, init)?;
    let seen = |what: &'static str, pid: i32| {
        move |errno: Errno| hidden::unreadable(&format!("the {what}, process {pid}"), errno)
    };
    let directory = directory.map_err(seen("payload", pid))?;
    let init_stat = init_directory
        .and_then(|directory| directory.stat(buffer))
        .map_err(seen("payload's init", init_pid))?;

    let reading = seen("payload", pid);
    let status = directory.status(buffer).map_err(reading)?;
    check_line(peer, pid, &status, init_pid, init_stat.ppid)?;
    let start_ticks = directory.stat(buffer).map_err(reading)?.start_ticks;
    let mut cgroup = proc::cgroup(&text(directory.read_piece(c"cgroup", buffer).map_err(reading)?));
    if cgroup.version == Some(2) {
        cgroup.id = info.as_ref().and_then(|info| info.cgroup_id).map(|id| id.to_string());
    }
    let uid_map = proc::fold_map(&text(directory.read_map(c"uid_map", buffer).map_err(reading)?));
    let gid_map = proc::fold_map(&text(directory.read_map(c"gid_map", buffer).map_err(reading)?));
    let setgroups = text(directory.read_piece(c"setgroups", buffer).map_err(reading)?).trim().to_owned();
    let mountinfo = match directory.read(c"mountinfo", buffer) {
        Ok(bytes) => Sha256::digest(bytes).into(),
        Err(Errno::EFBIG) => {
            return Err(refused(
                "its list of mounts is longer than 1 MiB, which is more than can be looked at",
            ));
        }
        Err(errno) => return Err(reading(errno)),
    };
    let own_pids = status.pids.len() > peer.depth();
    let tie = handed::tie(handed, &status.pids, own_pids).map_err(refused)?;
    check_owner(peer, &status, tie.owner)?;
    still_there(peer, payload, init)?;
    let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
    Ok(Observed {
        pids: status.pids,
        uid,
        gid,
        capabilities: status.capabilities,
        no_new_privs: status.no_new_privs,
        seccomp: status.seccomp,
        start_ticks,
        cgroup,
        uid_map,
        gid_map,
        setgroups,
        mountinfo,
        namespaces: handed.namespaces.iter().map(|namespace| (namespace.kind, namespace.inode)).collect(),
        tie: tie.text,
        by_pidfd: info.is_some(),
        init: (init_pid, init_stat.start_ticks),
    })
}

/// The wait status of a process that ended, whoever reaped it (kernel 6.15); for the end record of a launch whose launcher is
/// lost. `None` until it is reaped.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    pidfd::exit_status(pidfd)
}

/// The pid behind a pidfd, and what PIDFD_GET_INFO told, if it did.
fn number(pidfd: BorrowedFd<'_>, what: &str) -> Result<(i32, Option<pidfd::Info>), Failure> {
    match pidfd::get_info(pidfd) {
        Ok(info) if info.pid == info.tgid => return Ok((info.pid, Some(info))),
        Ok(_) => return Err(refused(format!("the pidfd of the {what} is one of a thread"))),
        // Before 6.13 there is no such question; and why the answer is ESRCH only fdinfo tells.
        Err(_) => {}
    }
    match pidfd::pid_of(pidfd) {
        Some(pid) if pid > 0 => Ok((pid, None)),
        Some(0) => Err(refused(format!("the {what} is in a pid namespace that the recorder does not see"))),
        Some(_) => Err(refused(format!("the {what} has ended"))),
        None => Err(refused(format!("the pidfd of the {what} tells no pid"))),
    }
}

/// Do launcher, payload and init live, so that what was read under their pidfds is theirs?
pub fn still_there(peer: &Peer, payload: BorrowedFd<'_>, init: BorrowedFd<'_>) -> Result<(), Failure> {
    if pidfd::all_live([payload, init, peer.as_fd()]) {
        Ok(())
    } else {
        Err(refused("payload, init or launcher ended while it was looked at"))
    }
}

/// Descent, depth, ids and privileges.
fn check_line(
    peer: &Peer,
    pid: i32,
    status: &proc::Status,
    init: i32,
    init_parent: i32,
) -> Result<(), Failure> {
    if status.tgid != pid || status.pids.first() != Some(&pid) {
        return Err(refused(format!("/proc shows process {} where the pidfd says {pid}", status.tgid)));
    }
    if status.ppid != init {
        return Err(refused(format!(
            "process {pid} is a child of process {}, not of the init handed over, {init}",
            status.ppid
        )));
    }
    if init_parent != peer.pid {
        return Err(refused(format!(
            "its init, process {init}, is a child of process {init_parent}, not of the launcher, {}",
            peer.pid
        )));
    }
    let shares = peer.shares_pids && status.pids.len() == peer.depth();
    if status.pids.len() <= peer.depth() && !shares {
        return Err(refused(format!(
            "it is {} pid namespaces deep, and so is its launcher ({}): it has none of its own",
            status.pids.len(),
            peer.depth()
        )));
    }
    if let Some(wrong) = proc::not_locked_in(&status.capabilities, status.no_new_privs) {
        return Err(refused(wrong));
    }
    let all_equal = |ids: [u32; 4]| ids.iter().all(|id| Some(id) == ids.first());
    if !all_equal(status.uids) || !all_equal(status.gids) {
        return Err(refused(format!("its uids are {:?} and its gids {:?}", status.uids, status.gids)));
    }
    Ok(())
}

/// The user namespace is the peer's, and a payload of another uid or gid than the peer's runs in one that is known to be.
fn check_owner(peer: &Peer, status: &proc::Status, owner: Option<u32>) -> Result<(), Failure> {
    if let Some(owner) = owner.filter(|owner| *owner != peer.uid) {
        return Err(refused(format!(
            "its user namespace belongs to uid {owner}, the launcher is uid {}",
            peer.uid
        )));
    }
    let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
    if (uid, gid) != (peer.uid, peer.gid) && owner.is_none() {
        return Err(refused(format!(
            "it runs as uid {uid} and gid {gid}, its launcher as {} and {}, and whose its user namespace is cannot be told",
            peer.uid, peer.gid
        )));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The walls do not hold, or it is not the payload that it should be.
fn refused(why: impl Into<String>) -> Failure {
    Failure::site(
        "the recorder does not accept the payload",
        why,
        "report this with the versions of bailey, bailey-recorder and the kernel; nothing has run",
    )
}
