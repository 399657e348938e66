//! The payload's Landlock domain (landlock(7)): what is wanted, what each kernel grants of it, and the proof that it holds.
//!
//! 1. Every payload: scopes, so that it reaches no abstract socket and no process outside of itself, init included (ABI 6).
//! 2. Profile `strict`: a second wall behind the mounts. Everything below the root can be read and executed, only what is
//!    mounted writable can be written; without network no TCP either. Never together with nesting, because file-system rules
//!    forbid every later mount.
//! 3. [`restrict`] and [`holds`] run in the payload's process: they MUST NOT allocate. Paths are made before the clone, and
//!    opened inside the finished root with symbolic links refused.
//! 4. Each part is granted whole or not at all, and what was granted is reported; nothing is given up in silence.
#![forbid(unsafe_code)]

use super::protocol::{Stage, Trouble};
use super::tree::{Mount, Source, Tree};
use crate::config::Demand;
use crate::failure::errno_text;
use crate::sys::landlock::{self, Handled, SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS, TCP, access};
use crate::sys::{Errno, fs, process};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// The newest ABI whose rights are known here (kernel 7.1).
const NEWEST: u32 = 9;
/// The first whose file-system rules let a file be renamed from one directory to another; with those of ABI 1 compilers and
/// package managers break.
const FILES_SINCE: u32 = 2;
const TCP_SINCE: u32 = 4;
const SCOPES_SINCE: u32 = 6;
const SCOPES: u64 = SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS;

const READ: u64 = access::EXECUTE | access::READ_FILE | access::READ_DIR;
/// Making devices is in no rule: no payload needs it, and the mounts are nodev.
const WRITE: u64 = access::WRITE_FILE
    | access::REMOVE_DIR
    | access::REMOVE_FILE
    | access::MAKE_DIR
    | access::MAKE_REG
    | access::MAKE_SOCK
    | access::MAKE_FIFO
    | access::MAKE_SYM
    | access::REFER
    | access::TRUNCATE;
const DEVICE: u64 = WRITE | access::IOCTL_DEV;
/// /proc has only the payload's own processes; names of threads are written there (pthread_setname_np(3)).
const PROC: u64 = access::WRITE_FILE | access::TRUNCATE;
/// Rights that a rule on something that is no directory may give.
const FILE_ONLY: u64 =
    access::EXECUTE | access::WRITE_FILE | access::READ_FILE | access::TRUNCATE | access::IOCTL_DEV;

/// A path inside, absolute and without links, and what is allowed below it.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    path: CString,
    files: u64,
}

/// The parts that a launch can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Abstract sockets and signals stay inside.
    pub scopes: bool,
    /// File-system rules.
    pub files: bool,
    /// No TCP.
    pub tcp: bool,
}

impl Parts {
    /// Those that this ABI has.
    const fn at(self, abi: u32) -> Self {
        Self {
            scopes: self.scopes && abi >= SCOPES_SINCE,
            files: self.files && abi >= FILES_SINCE,
            tcp: self.tcp && abi >= TCP_SINCE,
        }
    }

    /// What the ruleset has to handle. Each right that the ABI knows is handled, so that what no rule gives is denied.
    const fn handled(self, abi: u32) -> Handled {
        let mut files = 0;
        if self.files {
            files = access::ABI_1 | access::REFER;
            if abi >= 3 {
                files |= access::TRUNCATE;
            }
            if abi >= 5 {
                files |= access::IOCTL_DEV;
            }
            if abi >= 9 {
                files |= access::RESOLVE_UNIX;
            }
        }
        Handled {
            files,
            network: if self.tcp { TCP } else { 0 },
            scopes: if self.scopes { SCOPES } else { 0 },
        }
    }

    const fn is_none(self) -> bool {
        !self.scopes && !self.files && !self.tcp
    }

    /// As small numbers, for the report.
    pub const fn bits(self) -> u64 {
        self.scopes as u64 | (self.files as u64) << 1 | (self.tcp as u64) << 2
    }

    /// Reads [`Parts::bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self { scopes: bits & 1 != 0, files: bits & 2 != 0, tcp: bits & 4 != 0 }
    }

    /// In words.
    pub fn words(self) -> String {
        let all =
            [(self.scopes, "abstract sockets and signals"), (self.files, "files"), (self.tcp, "no TCP")];
        let words: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }

    /// The first ABI that has them all.
    pub const fn since(self) -> u32 {
        if self.scopes {
            SCOPES_SINCE
        } else if self.tcp {
            TCP_SINCE
        } else {
            FILES_SINCE
        }
    }
}

/// What is wanted of Landlock, decided before the clone.
#[derive(Debug)]
pub struct Wanted {
    demand: Demand,
    parts: Parts,
    rules: Vec<Rule>,
}

impl Wanted {
    /// `second_wall`: file-system rules over this tree; `no_tcp`: no TCP.
    pub fn new(demand: Demand, second_wall: Option<&Tree>, no_tcp: bool) -> Self {
        let parts = Parts { scopes: true, files: second_wall.is_some(), tcp: no_tcp };
        Self { demand, parts, rules: second_wall.map_or_else(Vec::new, |tree| rules(&tree.mounts)) }
    }

    /// What the launcher compares the report with.
    pub const fn demand(&self) -> (Demand, Parts) {
        (self.demand, self.parts)
    }

    /// For `--dry-run`: what this kernel should grant.
    pub fn words(&self) -> String {
        if self.demand == Demand::Off {
            return OFF_BY_SITE.to_owned();
        }
        let granted = match landlock::abi() {
            Ok(abi) => Granted { abi, parts: self.parts.at(abi), errno: 0 },
            Err(errno) => Granted { errno: errno as i32, ..Granted::default() },
        };
        granted.words(self.parts)
    }
}

/// What the record says where the configuration says so.
pub const OFF_BY_SITE: &str = "off: the site's configuration";

/// One rule for the root, and one for each mount that can be written. What is mounted read-only below a writable one stays
/// so by its mount alone.
fn rules(mounts: &[Mount]) -> Vec<Rule> {
    let root = Rule { path: CString::from(c"/"), files: READ };
    let writable = mounts.iter().filter(|mount| !mount.attr.read_only).filter_map(|mount| {
        let files = match mount.source {
            Source::Proc => PROC,
            // All of /dev at once: devices, the terminals of devpts, shared memory.
            _ if mount.target == OsStr::new("/dev") => DEVICE,
            _ if mount.target.starts_with("/dev") => return None,
            _ if !mount.attr.no_dev => DEVICE,
            _ => WRITE,
        };
        Some(Rule { path: CString::new(mount.target.as_os_str().as_bytes()).ok()?, files })
    });
    std::iter::once(root).chain(writable).collect()
}

/// What the payload's process got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Granted {
    /// The ABI whose rights the kernel took; 0 for none.
    pub abi: u32,
    /// The parts that hold.
    pub parts: Parts,
    /// Why there is none.
    pub errno: i32,
}

impl Granted {
    /// For the record; `wanted` are the parts that the launch was to have.
    pub fn words(self, wanted: Parts) -> String {
        if self.parts.is_none() {
            return match (self.abi, Errno::from_raw(self.errno)) {
                (0, Errno::ENOSYS) => "off: this kernel has none".to_owned(),
                (0, Errno::EOPNOTSUPP) => "off: not enabled when this kernel was started (lsm=)".to_owned(),
                (0, errno) => format!("off: {}", errno_text(errno)),
                (abi, _) => {
                    format!(
                        "off: this kernel grants ABI {abi}, {} since ABI {}",
                        wanted.words(),
                        wanted.since()
                    )
                }
            };
        }
        let mut text = format!("on: ABI {}: {}", self.abi, self.parts.words());
        let missing = Parts::from_bits(wanted.bits() & !self.parts.bits());
        if !missing.is_none() {
            text.push_str("; not protected: ");
            text.push_str(&missing.words());
        }
        text
    }
}

/// Restricts this process as far as the kernel goes. A kernel that reports an ABI and then refuses one of its rights (a
/// backport) is asked for the ABI below.
pub(super) fn restrict(wanted: &Wanted) -> Result<Granted, Trouble> {
    let none = |errno: Errno| Ok(Granted { errno: errno as i32, ..Granted::default() });
    if wanted.demand == Demand::Off {
        return none(Errno::ECANCELED);
    }
    let mut abi = match landlock::abi() {
        Ok(abi) => abi.min(NEWEST),
        Err(errno) => return none(errno),
    };
    loop {
        let parts = wanted.parts.at(abi);
        if parts.is_none() {
            return Ok(Granted { abi, ..Granted::default() });
        }
        let handled = parts.handled(abi);
        match landlock::create(&handled) {
            Ok(ruleset) => {
                if parts.files {
                    for (index, rule) in wanted.rules.iter().enumerate() {
                        allow(ruleset.as_fd(), rule, handled.files, index)?;
                    }
                    allow_streams(ruleset.as_fd())?;
                }
                return match landlock::restrict_self(ruleset.as_fd()) {
                    Ok(()) => Ok(Granted { abi, parts, errno: 0 }),
                    Err(errno) => none(errno),
                };
            }
            Err(Errno::EINVAL | Errno::E2BIG) if abi > 1 => abi -= 1,
            Err(errno) => return none(errno),
        }
    }
}

fn allow(ruleset: BorrowedFd<'_>, rule: &Rule, handled: u64, index: usize) -> Result<(), Trouble> {
    let files = rule.files & handled;
    let open = || fs::open_how(fs::cwd(), &rule.path, libc::O_PATH, 0, fs::Resolve::NoSymlinks);
    let allowed = open().and_then(|object| match landlock::allow_beneath(ruleset, object.as_fd(), files) {
        // The rights to directories on something that is none.
        Err(Errno::EINVAL) => landlock::allow_beneath(ruleset, object.as_fd(), files & FILE_ONLY),
        other => other,
    });
    allowed.map_err(|errno| Trouble { stage: Stage::Landlock, index: index as u32, errno })
}

/// A stream that is a device (/dev/null, a terminal) may be opened again by /dev/stdin and its like, whatever mount it came
/// from. One that is a regular file may not: it is the pilot's, and would be truncated.
fn allow_streams(ruleset: BorrowedFd<'_>) -> Result<(), Trouble> {
    for (index, stream) in fs::standard_streams().into_iter().enumerate() {
        if fs::stat_at(stream, c"").is_ok_and(|stat| stat.is_char_device()) {
            landlock::allow_beneath(ruleset, stream, access::READ_FILE | access::WRITE_FILE)
                .map_err(|errno| Trouble { stage: Stage::Landlock, index: index as u32, errno })?;
        }
    }
    Ok(())
}

/// Where a device would be made if file-system rules did not hold: /dev is always our own, and writable.
const PROBE: &CStr = c"/dev/.bailey-landlock";

/// Tries what the domain must forbid: there is no call that shows a process its domain. One try is enough, because a ruleset
/// comes into force as a whole.
pub(super) fn holds(granted: Granted) -> bool {
    if granted.parts.files {
        // Landlock is asked before the capability, whose lack is EPERM. (The character device 0:0, which takes none, was a device
        // to Landlock until it became a file: seen on 7.2.)
        fs::make_block_device(PROBE) == Err(Errno::EACCES)
    } else if granted.parts.scopes {
        // init has the same uid and user namespace: nothing else forbids it.
        process::may_signal(1) == Err(Errno::EPERM)
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tree::{self, Place};

    const ALL: Parts = Parts { scopes: true, files: true, tcp: true };

    #[test]
    fn each_abi_is_asked_for_what_it_has() {
        let mut last = Handled::default();
        for abi in 1..=NEWEST {
            let handled = ALL.at(abi).handled(abi);
            assert_eq!(handled.files & last.files, last.files, "ABI {abi} takes a right back");
            assert_eq!(handled.files != 0, abi >= 2);
            assert_eq!(handled.files & access::TRUNCATE != 0, abi >= 3);
            assert_eq!(handled.network, if abi >= 4 { TCP } else { 0 });
            assert_eq!(handled.files & access::IOCTL_DEV != 0, abi >= 5);
            assert_eq!(handled.scopes, if abi >= 6 { SCOPES } else { 0 });
            assert_eq!(handled.files & access::RESOLVE_UNIX != 0, abi >= 9);
            last = handled;
        }
        assert!(ALL.at(1).is_none());
        assert_eq!(Parts { scopes: true, ..Parts::default() }.at(5).handled(5), Handled::default());
    }

    #[test]
    fn parts_read_back() {
        for bits in 0..8 {
            assert_eq!(Parts::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let scopes = Parts { scopes: true, ..Parts::default() };
        let granted = |abi, parts, errno: i32| Granted { abi, parts, errno };
        assert_eq!(granted(7, scopes, 0).words(scopes), "on: ABI 7: abstract sockets and signals");
        assert_eq!(
            granted(5, ALL.at(5), 0).words(ALL),
            "on: ABI 5: files, no TCP; not protected: abstract sockets and signals"
        );
        let none = Parts::default();
        assert_eq!(
            granted(5, none, 0).words(scopes),
            "off: this kernel grants ABI 5, abstract sockets and signals since ABI 6"
        );
        assert_eq!(
            granted(0, none, Errno::EOPNOTSUPP as i32).words(scopes),
            "off: not enabled when this kernel was started (lsm=)"
        );
        assert_eq!(granted(0, none, Errno::ENOSYS as i32).words(scopes), "off: this kernel has none");
    }

    #[test]
    fn only_what_is_mounted_writable_gets_a_rule() {
        let mount = |target: &str, source, attr| Mount {
            source,
            place: Place::Root,
            target: target.into(),
            is_parent: false,
            attr,
            follow_host: false,
        };
        let base = || Source::Base(CString::default());
        let found = rules(&[
            mount("/", base(), tree::READ_ONLY),
            mount("/usr", base(), tree::READ_ONLY),
            mount("/dev", base(), tree::WRITABLE),
            mount("/dev/null", base(), tree::DEVICE),
            mount("/gpu0", base(), tree::DEVICE),
            mount("/proc", Source::Proc, tree::NO_EXEC),
            mount("/srv", base(), tree::WRITABLE),
        ]);
        let found: Vec<(&str, u64)> =
            found.iter().map(|rule| (rule.path.to_str().unwrap(), rule.files)).collect();
        let expected = [("/", READ), ("/dev", DEVICE), ("/gpu0", DEVICE), ("/proc", PROC), ("/srv", WRITE)];
        assert_eq!(found, expected);
    }
}
