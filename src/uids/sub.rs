//! Subordinate uids: an ordinary caller's payloads run as uids of its own range, mapped by the distribution's newuidmap(1).
//!
//! 1. The caller's working directory is given to the uid before the payload starts and given back when its init is reaped, by a
//!    helper process in a user namespace that has both uids. What a killed launcher leaves, the next one gives back.
//! 2. Helpers start after init, because HTCondor takes the launcher's first child for the job.
//! 3. Inside, the payload has the caller's numbers, as ever. Outside it is the subordinate uid, which owns nothing but what it
//!    was given.
#![forbid(unsafe_code)]

use super::clean::remove_below;
use super::pool::{Given, Note, Pool, Taken};
use super::tree::{Sweep, chown_tree, open_directory};
use super::{cannot, pilots, shares, still_there};
use crate::audit::segment::network_kind;
use crate::config::Config;
use crate::failure::{Code, Failure, Fault, errno_text, io_text};
use crate::host::Caller;
use crate::plan::absolute;
use crate::policy::store;
use crate::request::{LaunchId, Request, UidRange};
use crate::sys::clone::{Side, clone_into};
use crate::sys::{Errno, process, socket};
use nix::sys::prctl;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Where the distribution has newuidmap and newgidmap. Never the caller's PATH.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/bin"];

/// The caller's own ids inside: init may then pass the caller's closed directories on its way to what was handed over. No
/// process but init, while it builds, has a right that follows from it.
const CALLER_INSIDE: [u32; 2] = [65_533, 65_532];

/// Where the notes about an account's subordinate uids are. Never a place that the environment names: all launchers of the
/// account must find the same, whatever their HOME is. Below a directory that is everybody's (and sticky) its name is not
/// another's to take away, and [`Pool::open`] refuses one that is another's.
pub fn subordinate(config: &Config, uid: u32) -> PathBuf {
    let own = format!("bailey-uids-{uid}");
    if let Some(base) = &config.uid.state {
        return base.join(own);
    }
    let [made, _] = store::places(uid);
    if made.is_dir() { made.join("uids") } else { Path::new("/var/tmp").join(own) }
}

/// The caller and one of its subordinate uids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    caller: (u32, u32),
    sub: (u32, u32),
}

/// A subordinate uid for one payload. Dropping it gives back what it was lent.
#[derive(Debug)]
pub struct Lease {
    taken: Taken,
    note: Note,
    pair: Pair,
    workdir: Option<(Given, OwnedFd)>,
    given: bool,
    say: fn(&Failure),
}

impl Lease {
    /// Takes a free uid of the caller's range. `say` tells what goes wrong when it is given back.
    ///
    /// # Errors
    /// The host cannot do it, no uid is free (exit code 121), or the working directory cannot be given to another uid.
    pub fn take(
        request: &Request,
        config: &Config,
        caller: &Caller,
        id: LaunchId,
        say: fn(&Failure),
    ) -> Result<Self, Failure> {
        ready()?;
        let ranges = Ranges::of(caller.uid)?;
        let pool = Pool::open(&subordinate(config, caller.uid), caller.uid)?;
        let ids = (caller.uid, caller.gid);
        settle(&pool, ids, &ranges)?;
        let shared = shares(request, config)?;
        let workdir = workdir(request, caller)?;
        let taken = free(&pool, &ranges)?;
        let sub = (taken.uid, ranges.gid(taken.uid)?);
        let note = Note { launch: id.to_string(), gid: sub.1, workdir: None, shared };
        Ok(Self { taken, note, pair: Pair { caller: ids, sub }, workdir, given: false, say })
    }

    /// The lock, for init to hold too.
    pub fn lock(&self) -> Arc<File> {
        self.taken.lock()
    }

    /// Its uid and gid outside.
    pub const fn outside(&self) -> (u32, u32) {
        self.pair.sub
    }

    /// Maps init's ids, and gives the uid what it needs. init waits meanwhile.
    ///
    /// # Errors
    /// newuidmap refuses, or the working directory cannot be given.
    pub fn admit(&mut self, init: i32) -> Result<(), Failure> {
        let Pair { caller, sub } = self.pair;
        let outside = CALLER_INSIDE.into_iter().find(|inside| *inside != caller.0 && *inside != caller.1);
        let outside = outside.unwrap_or(1);
        map("newuidmap", init, [(caller.0, sub.0), (outside, caller.0)])?;
        map("newgidmap", init, [(caller.1, sub.1), (outside, caller.1)])?;
        if let Some((given, _)) = &self.workdir {
            self.note.workdir = Some(given.clone());
        }
        if !self.note.is_settled() {
            self.taken.write(&self.note)?;
        }
        if let Some((given, fd)) = &self.workdir {
            let skip = pilots(&given.path)?;
            self.given = true;
            let sweep = in_helper(self.pair, || chown_tree(fd.as_fd(), 0, (1, 1), true, &skip))?;
            if !sweep.is_whole() {
                return Err(Failure::site(
                    format!("cannot give the working directory {} to uid {}", given.path.display(), sub.0),
                    still_there(&given.path, &sweep.kept),
                    "name a directory on a local file system whose files are all of your own uid and group",
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.given {
            if !self.note.is_settled() && self.note.workdir.is_some() {
                // Written, and nothing was given.
                self.note.workdir = None;
                self.note.shared = false;
                let _ = self.taken.write(&self.note); // then the next launcher gives back nothing
            }
            return;
        }
        match give_back(&self.taken, self.pair) {
            Ok(None) => {}
            Ok(Some(_)) if self.note.shared => {}
            Ok(Some(why)) => (self.say)(&Failure::site(
                "cannot give back all of the working directory",
                why,
                "run bailey clean; it says what stays",
            )),
            Err(failure) => (self.say)(&failure),
        }
    }
}

/// Gives back the working directory that the note names. Returns what still keeps the uid from being lent, in words.
fn give_back(taken: &Taken, pair: Pair) -> Result<Option<String>, Failure> {
    let Some(mut note) = taken.note()? else { return Ok(None) };
    if let Some(given) = &note.workdir {
        // It may be closed to everybody but the uid, so the helper opens it.
        let sweep = in_helper(pair, || match open_directory(&given.path) {
            Ok((fd, stat)) if stat.ino == given.ino => chown_tree(fd.as_fd(), 1, (0, 0), false, &[]),
            other => Sweep::unopened(&given.path, other.map(drop)),
        })?;
        if !sweep.is_whole() {
            return Ok(Some(still_there(&given.path, &sweep.kept)));
        }
        note.workdir = None;
        taken.write(&note)?;
    }
    Ok(note.shared.then(|| "it could write to shared directories".to_owned()))
}

/// An account with subordinate uids, for those who clean up behind it.
#[derive(Debug)]
pub struct Account {
    ids: (u32, u32),
    ranges: Ranges,
}

impl Account {
    /// This process's account.
    ///
    /// # Errors
    /// It has no subordinate uids, or cannot use them here.
    pub fn of(uid: u32, gid: u32) -> Result<Self, Failure> {
        ready()?;
        Ok(Self { ids: (uid, gid), ranges: Ranges::of(uid)? })
    }

    fn pair(&self, uid: u32) -> Result<Pair, Failure> {
        Ok(Pair { caller: self.ids, sub: (uid, self.ranges.gid(uid)?) })
    }

    pub(super) fn give_back(&self, taken: &Taken) -> Result<Option<String>, Failure> {
        give_back(taken, self.pair(taken.uid)?)
    }

    pub(super) fn remove_below(&self, dir: &Path, uid: u32, dry: bool) -> Result<Sweep, Failure> {
        in_helper(self.pair(uid)?, || remove_below(dir, 1, (0, 0), dry))
    }
}

/// What dead launchers had lent is given back.
fn settle(pool: &Pool, caller: (u32, u32), ranges: &Ranges) -> Result<(), Failure> {
    for uid in pool.known()? {
        if let Some(taken) = pool.take(uid)?
            && taken.note()?.is_some_and(|note| note.workdir.is_some())
            && let Ok(gid) = ranges.gid(uid)
        {
            give_back(&taken, Pair { caller, sub: (uid, gid) })?;
        }
    }
    Ok(())
}

fn free(pool: &Pool, ranges: &Ranges) -> Result<Taken, Failure> {
    let (mut live, mut left) = (0_u32, 0_u32);
    for uid in ranges.uids.iter().flat_map(|range| range.all()) {
        if ranges.gid(uid).is_err() {
            break; // there are fewer gids
        }
        match pool.take(uid)? {
            None => live += 1,
            Some(taken) if taken.note()?.is_none() => return Ok(taken),
            Some(_) => left += 1,
        }
    }
    Err(none_free(live, left))
}

/// Every subordinate uid has a payload, or what one left.
pub(super) fn none_free(live: u32, left: u32) -> Failure {
    Failure::new(
        Code::ParallelLimit,
        Fault::Site,
        "no subordinate uid is free for the payload",
        format!("payloads have {live}, and {left} have left something"),
        "try again when a payload has ended, or run bailey clean",
    )
}

/// Whether this process may use newuidmap at all.
fn ready() -> Result<(), Failure> {
    let what = "cannot give the payload a uid of its own (uid.mode = \"subuid\")";
    if prctl::get_no_new_privs().unwrap_or(false) {
        return Err(Failure::site(
            what,
            "no_new_privs is set, under which newuidmap has no right to map uids",
            "start bailey without it (systemd: NoNewPrivileges=no), or set uid.mode = \"caller\"",
        ));
    }
    for name in ["newuidmap", "newgidmap"] {
        if program(name).is_none() {
            return Err(Failure::site(
                what,
                format!("{name} is not in {}", PROGRAMS.join(" or ")),
                "install the package uidmap (Debian) or shadow-utils-subid (EL), or set uid.mode = \"caller\"",
            ));
        }
    }
    Ok(())
}

fn program(name: &str) -> Option<PathBuf> {
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    PROGRAMS.iter().map(|dir| Path::new(dir).join(name)).find(runs)
}

/// `newuidmap PID INSIDE OUTSIDE 1 ...`
fn map(name: &str, pid: i32, lines: [(u32, u32); 2]) -> Result<(), Failure> {
    let what = || format!("cannot map the ids of the payload's user namespace ({name})");
    let path = program(name).unwrap_or_else(|| Path::new("/usr/bin").join(name));
    let mut command = Command::new(&path);
    command.arg(pid.to_string()).env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    for (inside, outside) in lines {
        command.args([inside.to_string(), outside.to_string(), "1".to_owned()]);
    }
    let output = command.stderr(Stdio::piped()).output().map_err(|error| {
        Failure::site(what(), format!("{}: {}", path.display(), io_text(&error)), "reinstall it")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::site(
        what(),
        format!("it said: {}", said.lines().next().unwrap_or("nothing").trim()),
        "check that it is setuid root or has its file capability, and the account's lines in /etc/subuid and /etc/subgid",
    ))
}

/// Runs `work` in a process of its own, in a user namespace in which the caller is 0 and the subordinate uid 1. It has every
/// right over files of these two there, and none over any other.
fn in_helper(pair: Pair, work: impl FnOnce() -> Sweep) -> Result<Sweep, Failure> {
    let failed = |errno| {
        cannot(
            "cannot start the helper that gives files to another uid",
            errno,
            "see docs/uids.md for what a host needs",
        )
    };
    let (ours, theirs) = socket::pair().map_err(failed)?;
    match clone_into(libc::CLONE_NEWUSER, None).map_err(failed)? {
        // A copy of a process with one thread: it may do what that may.
        Side::Child => {
            drop(ours);
            let mut word = [0_u8; 1];
            if process::die_with_parent().is_ok() && socket::receive_plain(theirs.as_fd(), &mut word) == Ok(1)
            {
                let sweep = work();
                let text = serde_json::to_vec(&sweep).unwrap_or_default();
                let _ = socket::send(theirs.as_fd(), &text, &[]); // nobody is left to hear it
            }
            process::exit_now(0)
        }
        Side::Parent { pid, pidfd: _ } => {
            drop(theirs);
            let mapped = map("newuidmap", pid, [(0, pair.caller.0), (1, pair.sub.0)])
                .and_then(|()| map("newgidmap", pid, [(0, pair.caller.1), (1, pair.sub.1)]));
            let mut buffer = vec![0; 64 << 10];
            let answer = mapped.and_then(|()| {
                socket::send(ours.as_fd(), b"!", &[]).map_err(failed)?;
                socket::receive_plain(ours.as_fd(), &mut buffer).map_err(failed)
            });
            drop(ours);
            let _ = process::wait_with_usage(pid);
            let text = buffer.get(..answer?).unwrap_or_default();
            serde_json::from_slice(text).map_err(|_| failed(Errno::EPIPE))
        }
    }
}

/// The caller's working directory, opened, if one was asked for.
fn workdir(request: &Request, caller: &Caller) -> Result<Option<(Given, OwnedFd)>, Failure> {
    let Some(path) = &request.workdir else { return Ok(None) };
    let named = absolute(path, caller, "--workdir")?;
    let what = || format!("cannot give the working directory {} to the payload's uid", named.display());
    let next = "name an existing directory of your own, or leave out --workdir";
    let path =
        std::fs::canonicalize(&named).map_err(|error| Failure::usage(what(), io_text(&error), next))?;
    let (fd, stat) =
        open_directory(&path).map_err(|errno| Failure::usage(what(), errno_text(errno), next))?;
    if stat.uid != caller.uid {
        return Err(Failure::usage(what(), format!("it belongs to uid {}", stat.uid), next));
    }
    let magic = nix::sys::statfs::fstatfs(&fd).map_or(0, |fs| fs.filesystem_type().0);
    if let Some(kind) = network_kind(magic as u32) {
        return Err(Failure::site(
            what(),
            format!("it is on {kind}, where only the server may change owners"),
            "name a directory on a local disk",
        ));
    }
    Ok(Some((Given { path, ino: stat.ino, owner: (caller.uid, caller.gid) }, fd)))
}

/// The caller's subordinate ids, from the files of subuid(5) and subgid(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges {
    uids: Vec<UidRange>,
    gids: Vec<UidRange>,
}

impl Ranges {
    fn of(uid: u32) -> Result<Self, Failure> {
        let read = |file: &str| match std::fs::read(file) {
            Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Failure::site(
                format!("cannot read {file}"),
                io_text(&error),
                "make it readable for everybody",
            )),
        };
        let passwd = read("/etc/passwd")?;
        let names = names(&passwd, uid);
        let ranges = Self {
            uids: ranges(&read("/etc/subuid")?, &names, uid),
            gids: ranges(&read("/etc/subgid")?, &names, uid),
        };
        for (file, found) in [("/etc/subuid", &ranges.uids), ("/etc/subgid", &ranges.gids)] {
            if found.is_empty() {
                return Err(Failure::site(
                    "cannot give the payload a uid of its own (uid.mode = \"subuid\")",
                    format!("{file} has no line for uid {uid}"),
                    format!("as root: usermod --add-sub{}s FIRST-LAST ACCOUNT", &file[8..]),
                ));
            }
        }
        Ok(ranges)
    }

    /// The gid that goes with a uid: the one at the same place.
    fn gid(&self, uid: u32) -> Result<u32, Failure> {
        let place = self.uids.iter().flat_map(|range| range.all()).position(|other| other == uid);
        let gid = place.and_then(|place| self.gids.iter().flat_map(|range| range.all()).nth(place));
        gid.ok_or_else(|| {
            Failure::site(
                format!("cannot use the subordinate uid {uid}"),
                "it is not, or no longer, the account's, or there is no gid for it",
                "give the account as many gids in /etc/subgid as uids in /etc/subuid",
            )
        })
    }
}

/// The names of an account.
fn names(passwd: &str, uid: u32) -> Vec<String> {
    let uid = uid.to_string();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)? == uid).then_some(name)
    };
    passwd.lines().filter_map(name).collect()
}

/// The lines of one account: `NAME:FIRST:COUNT`, or its number instead of its name.
fn ranges(text: &str, names: &[String], uid: u32) -> Vec<UidRange> {
    let uid = uid.to_string();
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let of_account = name == uid || names.iter().any(|other| other == name);
        let range = UidRange::of(fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?)?;
        of_account.then_some(range)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subuid_lines_are_read() {
        let passwd = "root:x:0:0::/:\npilot:x:1500:1500::/:\nalias:x:1500:1500::/:\nother:x:15:1::/:\n";
        let names = names(passwd, 1500);
        assert_eq!(names, ["pilot", "alias"]);
        let text =
            "other:1:9\npilot:100000:3\n1500:200000:2\nbroken\npilot:x:1\npilot:5:0\nalias:4294967295:2\n";
        let uids = ranges(text, &names, 1500);
        let all: Vec<u32> = uids.iter().flat_map(|range| range.all()).collect();
        assert_eq!(all, [100_000, 100_001, 100_002, 200_000, 200_001]);
        let ranges = Ranges { uids, gids: ranges("pilot:300000:4\n", &names, 1500) };
        assert_eq!(ranges.gid(100_000).unwrap(), 300_000);
        assert_eq!(ranges.gid(200_000).unwrap(), 300_003);
        assert!(ranges.gid(200_001).is_err() && ranges.gid(7).is_err());
    }
}
