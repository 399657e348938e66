//! Root calls: the launcher takes a uid of the site's range for this one payload and becomes it, for good.
//!
//! 1. What needs root is done before: the working directory and the log's directory are given to the uid, the status file is
//!    opened, the identity document read. After that no process of the launch has any right that the uid has not.
//! 2. So nobody is there to give back at the end. The next launcher that root starts does it, and `bailey clean`, before the
//!    uid is lent again.
#![forbid(unsafe_code)]

use super::pool::{Given, Note, Pool, Taken};
use super::tree::{Sweep, chown_tree, open_directory};
use super::{cannot, is_below, pilots, shares, still_there};
use crate::config::Config;
use crate::failure::{Code, Failure, Fault, errno_text, io_text};
use crate::host::{self, Caller};
use crate::identity;
use crate::plan::absolute;
use crate::proc::{Process, Status};
use crate::request::{LaunchId, Request, UidRange};
use crate::sys::{Errno, process};
use nix::sys::prctl;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, getresgid, getresuid, setgroups, setresgid, setresuid};
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where embedded logs of accounts are for which the site makes the directories; here root's launcher does.
const LOGS: &str = "/var/lib/bailey/embedded";

/// The embedded log of one uid of a node whose root calls: each has a directory of its own. Root's is for what it refuses.
pub fn log_dir(config: &Config, uid: u32) -> PathBuf {
    config.audit.dir.as_deref().unwrap_or(Path::new(LOGS)).join(uid.to_string())
}

/// Becomes a uid of `root_caller.uids`. Returns what holds it, and the caller that this process now is; `None` where the site
/// gives no range. With `--dry-run` nothing is given to the uid.
///
/// # Errors
/// No uid is free (exit code 121); what the uid needs cannot be given; the rights could not be given up.
pub fn lend(
    config: &Config,
    request: &mut Request,
    caller: &Caller,
    id: LaunchId,
) -> Result<Option<(Taken, Caller)>, Failure> {
    let Some(range) = config.root_caller.uids else { return Ok(None) };
    foreign(range)?;
    let pool = Pool::open(&config.root_caller.state, 0)?;
    settle(&pool, range)?;
    let taken = free(&pool, range)?;
    let uid = taken.uid;

    let mut note = Note { launch: id.to_string(), gid: uid, workdir: None, shared: shares(request, config)? };
    let workdir = workdir(request, config, caller, range)?;
    let log_dir = log_dir(config, uid);
    let mut status_file = None;
    if let Some(path) = request.identity_file.as_ref().or(request.identity_env.as_ref()) {
        request.identity_read = Some(identity::read_document(path)?);
    }
    if !request.dry_run {
        if let Some(path) = &request.status_file {
            status_file = Some(Arc::new(open_status_file(
                &absolute(path, caller, "--status-file")?,
                request.status_new,
            )?));
        }
        own_directory(&log_dir, uid)?;
        note.workdir = workdir.as_ref().map(|(given, _)| given.clone());
        if !note.is_settled() {
            taken.write(&note)?;
        }
        if let Some((given, fd)) = &workdir {
            let skip = pilots(&given.path)?;
            let sweep = chown_tree(fd.as_fd(), given.owner.0, (uid, uid), true, &skip);
            if !sweep.is_whole() {
                return Err(Failure::site(
                    format!("cannot give the working directory {} to uid {uid}", given.path.display()),
                    still_there(&given.path, &sweep.kept),
                    "leave out --workdir, or name one on a local file system",
                ));
            }
        }
    }
    become_uid(uid)?;
    let lent = host::Lent { log_dir, status_file, lock: taken.lock(), range };
    Ok(Some((taken, Caller { uid, gid: uid, lent: Some(lent), ..caller.clone() })))
}

/// Gives back what dead launches had. A uid of which something stays is not lent.
fn settle(pool: &Pool, range: UidRange) -> Result<(), Failure> {
    let mut dead = Vec::new();
    for uid in pool.known()?.into_iter().filter(|uid| range.contains(*uid)) {
        if let Some(taken) = pool.take(uid)?
            && taken.note()?.is_some_and(|note| note.workdir.is_some())
        {
            dead.push(taken);
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    // Looked at after the lock was free: the launcher may be gone and its payload about to go.
    let running = running(range)?;
    for taken in dead.iter().filter(|taken| !running.contains(&taken.uid)) {
        give_back(taken)?;
    }
    Ok(())
}

/// Gives back the working directory that the note names. Returns what then still keeps the uid from being lent, in words.
///
/// # Errors
/// The note cannot be read or written.
pub(super) fn give_back(taken: &Taken) -> Result<Option<String>, Failure> {
    let Some(mut note) = taken.note()? else { return Ok(None) };
    if let Some(given) = &note.workdir {
        let sweep = match open_directory(&given.path) {
            Ok((fd, stat)) if stat.ino == given.ino => {
                chown_tree(fd.as_fd(), taken.uid, given.owner, false, &[])
            }
            other => Sweep::unopened(&given.path, other.map(drop)),
        };
        if !sweep.is_whole() {
            return Ok(Some(still_there(&given.path, &sweep.kept)));
        }
        note.workdir = None;
        taken.write(&note)?;
    }
    Ok(note.shared.then(|| "it could write to shared directories".to_owned()))
}

/// The first uid that nobody has: no live launch, nothing left of a dead one, and no process on this host.
fn free(pool: &Pool, range: UidRange) -> Result<Taken, Failure> {
    let (mut live, mut left) = (0_u32, 0_u32);
    for uid in range.all() {
        match pool.take(uid)? {
            None => live += 1,
            // Its processes are looked for while it is held, when no launcher can start another.
            Some(taken) if taken.note()?.is_none() && !running(range)?.contains(&uid) => return Ok(taken),
            Some(_) => left += 1,
        }
    }
    Err(none_free(range, live, left))
}

/// Every uid of the range has a payload, or what one left.
pub(super) fn none_free(range: UidRange, live: u32, left: u32) -> Failure {
    Failure::new(
        Code::ParallelLimit,
        Fault::Site,
        "no uid is free for the payload",
        format!("of {range} (root_caller.uids) payloads have {live}, and {left} have left something"),
        "try again when a payload has ended; as root: bailey clean",
    )
}

fn not_given(named: &Path) -> String {
    format!("cannot give the working directory {} to the payload's uid", named.display())
}

/// The site did not name the directory above it.
pub(super) fn undeclared(named: &Path) -> Failure {
    Failure::refused(
        not_given(named),
        "root calls, and the site does not say that root's directories there are payloads'",
        "leave out --workdir, or let the site name the directory above it in root_caller.workdirs",
    )
}

/// A living payload's, or what one left.
pub(super) fn of_another(named: &Path, uid: u32) -> Failure {
    Failure::refused(
        not_given(named),
        format!("it is that of another payload, which has uid {uid}"),
        "give each payload a directory of its own",
    )
}

/// The uids of the range that some process of this host has, by its real, effective, saved or file-system uid.
fn running(range: UidRange) -> Result<BTreeSet<u32>, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::site(
            "cannot tell which uids have processes",
            format!("/proc: {}", io_text(error)),
            "mount /proc on this host",
        )
    };
    let mut running = BTreeSet::new();
    let mut buffer = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile has no uid any more.
        let status: Result<Status, Errno> = Process::open(pid).and_then(|process| {
            let is_zombie = process.stat(&mut buffer)?.state == b'Z';
            // Of a first thread that ended before the others the kernel says the same; then there are others.
            let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            if is_zombie && threads() <= 1 { Err(Errno::ESRCH) } else { process.status(&mut buffer) }
        });
        running.extend(status.into_iter().flat_map(|status| status.uids).filter(|uid| range.contains(*uid)));
    }
    Ok(running)
}

/// Whether some process of this host has the uid.
pub(super) fn is_running(uid: u32) -> Result<bool, Failure> {
    let Some(range) = UidRange::of(uid, 1) else { return Ok(true) };
    Ok(running(range)?.contains(&uid))
}

/// Refuses a range in which an account or a group has its number: what it owns would be the payload's.
fn foreign(range: UidRange) -> Result<(), Failure> {
    for (file, kind) in [("/etc/passwd", "account"), ("/etc/group", "group")] {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(Failure::site(
                    format!("cannot tell whose the uids {range} are"),
                    format!("{file}: {}", io_text(&error)),
                    "repair the file",
                ));
            }
        };
        if let Some((name, id)) = numbered(&String::from_utf8_lossy(&text), range) {
            return Err(Failure::site(
                format!("cannot use the uids {range}"),
                format!("{id} is the {kind} {name} ({file})"),
                "choose a range that is nobody's for root_caller.uids",
            ));
        }
    }
    Ok(())
}

/// What is likely to be meant otherwise: a range that is also some account's subordinate one.
pub fn warnings(config: &Config) -> Vec<String> {
    let Some(range) = config.root_caller.uids else { return Vec::new() };
    let text = std::fs::read("/etc/subuid").unwrap_or_default(); // most hosts that need no such range have no such file
    overlapping(&String::from_utf8_lossy(&text), range)
}

fn overlapping(subuid: &str, range: UidRange) -> Vec<String> {
    let overlap = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let other = UidRange::of(fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?)?;
        range.overlaps(other).then(|| {
            format!("root_caller.uids {range} overlaps the subordinate uids {other} of {name} (/etc/subuid)")
        })
    };
    subuid.lines().filter_map(overlap).collect()
}

/// The first line of passwd(5) or group(5) whose number is in the range.
fn numbered(text: &str, range: UidRange) -> Option<(String, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse().ok()?;
        range.contains(id).then(|| (name.to_owned(), id))
    })
}

/// The working directory, opened, if one was asked for that can be.
fn workdir(
    request: &Request,
    config: &Config,
    caller: &Caller,
    range: UidRange,
) -> Result<Option<(Given, std::os::fd::OwnedFd)>, Failure> {
    let Some(path) = &request.workdir else { return Ok(None) };
    let named = absolute(path, caller, "--workdir")?;
    let what = || not_given(&named);
    let next = "name an existing directory, or leave out --workdir";
    let path =
        std::fs::canonicalize(&named).map_err(|error| Failure::usage(what(), io_text(&error), next))?;
    if !is_below(&path, &config.root_caller.workdirs, false) {
        return Err(undeclared(&named));
    }
    let (fd, stat) =
        open_directory(&path).map_err(|errno| Failure::usage(what(), errno_text(errno), next))?;
    if range.contains(stat.uid) {
        return Err(of_another(&named, stat.uid));
    }
    Ok(Some((Given { path, ino: stat.ino, owner: (stat.uid, stat.gid) }, fd)))
}

/// Opens the status file, empty.
fn open_status_file(path: &Path, new: bool) -> Result<File, Failure> {
    let options = || {
        let mut options = File::options();
        options.write(true).create(true).create_new(new).truncate(!new).mode(0o644);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        options
    };
    let opened = options()
        .open(path)
        .and_then(|file| if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::EINVAL.into()) });
    opened.map_err(|error| {
        Failure::usage(
            format!("cannot use the status file {}", path.display()),
            io_text(&error),
            "name a regular file in an existing directory",
        )
    })
}

/// The directory of the uid's own log, below one that nobody but root can change.
fn own_directory(dir: &Path, uid: u32) -> Result<(), Failure> {
    let base = dir.parent().unwrap_or(dir);
    let failed = |why: String| {
        Failure::record(
            format!("cannot make the audit log's directory {}", dir.display()),
            why,
            format!("make {} root's own, or set audit.dir", base.display()),
        )
    };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(base);
    made.map_err(|error| failed(io_text(&error)))?;
    let _ = DirBuilder::new().mode(0o700).create(dir); // whether it is there is seen below
    let canonical = std::fs::canonicalize(base).map_err(|error| failed(io_text(&error)))?;
    let (base_fd, above) = open_directory(&canonical).map_err(|errno| failed(errno_text(errno)))?;
    if above.uid != 0 || above.mode & 0o022 != 0 {
        return Err(failed(format!("others than root may change {}", base.display())));
    }
    if above.mode & 0o011 != 0o011 {
        // Root's own log may have made it. What is in it keeps its own mode.
        let mode = Mode::from_bits_truncate(above.mode & 0o7777 | 0o011);
        fchmod(&base_fd, mode).map_err(|errno| failed(errno_text(errno)))?;
    }
    let (fd, stat) =
        open_directory(&canonical.join(uid.to_string())).map_err(|errno| failed(errno_text(errno)))?;
    if (stat.uid != 0 && stat.uid != uid) || stat.mode & 0o077 != 0 {
        return Err(failed(format!("it belongs to uid {} with mode {:04o}", stat.uid, stat.mode & 0o7777)));
    }
    fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).map_err(|errno| failed(errno_text(errno)))
}

/// Gives up being root, for good, and looks whether it is so.
fn become_uid(uid: u32) -> Result<(), Failure> {
    let failed = |what: &str, errno: Errno| {
        cannot(
            format!("cannot become uid {uid} ({what})"),
            errno,
            "a container may not map this range: choose another for root_caller.uids",
        )
    };
    // A change of uid clears it; a pilot that set it wants us to end with it.
    let parent_death = prctl::get_pdeathsig().unwrap_or(None);
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[]).map_err(|errno| failed("setgroups", errno))?;
    setresgid(group, group, group).map_err(|errno| failed("setresgid", errno))?;
    setresuid(user, user, user).map_err(|errno| failed("setresuid", errno))?;
    // Where the uid is changed under NO_SETUID_FIXUP, capabilities stay.
    process::clear_ambient().map_err(|errno| failed("prctl", errno))?;
    process::drop_capabilities().map_err(|errno| failed("capset", errno))?;
    let users = getresuid().map_err(|errno| failed("getresuid", errno))?;
    let groups = getresgid().map_err(|errno| failed("getresgid", errno))?;
    let all = [users.real, users.effective, users.saved].iter().all(|now| *now == user)
        && [groups.real, groups.effective, groups.saved].iter().all(|now| *now == group);
    if !all {
        return Err(failed("getresuid", Errno::EPERM));
    }
    // The child writes its own id maps, which an undumpable process may not (EACCES).
    prctl::set_dumpable(true).map_err(|errno| failed("PR_SET_DUMPABLE", errno))?;
    if parent_death.is_some() {
        prctl::set_pdeathsig(parent_death).map_err(|errno| failed("PR_SET_PDEATHSIG", errno))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_other_accounts_are_told() {
        let range = UidRange::parse("200000-200999").unwrap();
        let subuid = "a:100000:65536\nb:165536:65536\nc:200999:1\nd:201000:5\nnonsense\n";
        let told = overlapping(subuid, range);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("165536-231071 of b") && told[1].contains("of c"), "{told:?}");
    }

    #[test]
    fn accounts_in_the_range_are_found() {
        let range = UidRange::parse("2000-2999").unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1999:2500::/:\nbob:x:2999:1::/:\n";
        assert_eq!(numbered(passwd, range), Some(("bob".to_owned(), 2999)));
        assert_eq!(numbered("grid:x:2000:alice\n", range), Some(("grid".to_owned(), 2000)));
        assert_eq!(numbered("grid:x:3000:\nx:x:1999:2000\n", range), None);
    }
}
