//! The world outside, looked at once and passed on as data: the caller, its environment, the node.
#![forbid(unsafe_code)]

mod addresses;

use crate::audit::record;
use crate::failure::{Failure, io_text};
use crate::proc;
use crate::request::UidRange;
use crate::sys::clock;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The caller and its surroundings.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Effective uid and gid, which the payload keeps.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Environment, as it was at the start.
    pub env: Vec<(OsString, OsString)>,
    /// Current directory; `None` when it was deleted or may not be read.
    pub cwd: Option<PathBuf>,
    /// What root prepared, where root called and became another for this launch.
    pub lent: Option<Lent>,
}

/// What a launcher that was root made ready for the uid that it now is.
#[derive(Debug, Clone)]
pub struct Lent {
    /// Where the embedded log of this uid is; its own directory.
    pub log_dir: PathBuf,
    /// The status file, which the uid itself could not make.
    pub status_file: Option<Arc<File>>,
    /// What holds the uid.
    pub lock: Arc<File>,
    /// The range that the uid is from.
    pub range: UidRange,
}

impl Caller {
    /// Looks at this process.
    pub fn look() -> Self {
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            env: std::env::vars_os().collect(),
            cwd: std::env::current_dir().ok(),
            lent: None,
        }
    }

    /// A variable of the environment.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The account's name, without any name service: what USER says if that is a plain name, else `u` and the uid. A uid that was
    /// lent has no name, least of all root's.
    pub fn account(&self) -> String {
        let named = if self.lent.is_some() { None } else { self.var("USER") };
        let named = named.and_then(OsStr::to_str).filter(|name| is_account_name(name));
        named.map_or_else(|| format!("u{}", self.uid), ToOwned::to_owned)
    }
}

/// The parent is HTCondor's starter: what it starts is the job itself, and **bailey's own environment is what the job's user wrote**;
/// of it only what the starter sets over it can be believed. The name is the kernel's (proc_pid_comm(5)); a process of the same account
/// could take it too, and gain nothing: less is believed then. Asked once, so that all who ask hear the same.
pub(crate) fn starter_is_parent() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| {
        CString::new(format!("/proc/{}/comm", parent_id()))
            .is_ok_and(|path| proc::text(&path).is_ok_and(|name| name == "condor_starter\n"))
    })
}

/// Whether it can stand in a passwd file, and in a variable.
pub(crate) fn is_account_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 32
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// The local accounts; no name service is asked.
pub(crate) fn passwd() -> String {
    std::fs::read_to_string("/etc/passwd").unwrap_or_default()
}

/// Name and home directory of the first line with this uid.
pub(crate) fn listed(passwd: &str, uid: u32) -> Option<(&str, Option<&str>)> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid.as_str())).then(|| (name, fields.nth(2)))
    })
}

/// The node, as every record names it.
pub fn node() -> Result<record::Host, Failure> {
    Ok(record::Host {
        name: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        id: Some(id()?),
        // Launches of another boot are closed as lost, so a boot that is unknown only this once must not pass for another.
        boot: record::Boot { id: read("/proc/sys/kernel/random/boot_id")? },
        ip: addresses(),
        pid_ns_ino: std::fs::metadata("/proc/self/ns/pid")
            .ok()
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta).to_string()),
    })
}

/// machine-id(5); a host without one (some containers) goes by its name. The log's place depends on it, so that it cannot be
/// read is an error: another name would be another log. Looked at once, so that all who ask hear the same.
pub fn id() -> Result<String, Failure> {
    static ID: OnceLock<String> = OnceLock::new();
    match ID.get() {
        Some(id) => Ok(id.clone()),
        None => look_up_id().map(|id| ID.get_or_init(|| id).clone()),
    }
}

fn look_up_id() -> Result<String, Failure> {
    let machine =
        read("/etc/machine-id")?.filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    Ok(machine.unwrap_or_else(|| {
        let name =
            nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("host-{plain}")
    }))
}

/// A file of one line; `None` where there is none.
fn read(path: &str) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Failure::record(
            format!("cannot tell which host this is from {path}"),
            io_text(&error),
            "try again; if it stays, make the file readable",
        )),
    }
}

/// All addresses but loopback's, each once, in the kernel's order; none where the kernel does not tell.
fn addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    for ip in addresses::all().unwrap_or_default() {
        if !ip.is_loopback() && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// Whether the clock follows a source.
pub fn clock_synchronized() -> Option<bool> {
    clock::is_synchronized()
}

/// This process's control group, as /proc/self/cgroup shows it ([`proc::cgroup`]).
pub fn cgroup() -> record::Cgroup {
    proc::cgroup(&proc::text(c"/proc/self/cgroup").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npilot:x:1000:100::/home/pilot:/bin/sh\nother:x:1000:1::/:\nshort:x:7\n";
        assert_eq!(listed(passwd, 1000), Some(("pilot", Some("/home/pilot"))));
        assert_eq!(listed(passwd, 7), Some(("short", None)));
        assert_eq!(listed(passwd, 100), None);
        assert_eq!(listed("", 0), None);
    }

    #[test]
    fn a_test_is_no_child_of_a_starter() {
        assert!(!starter_is_parent());
    }

    #[test]
    fn account_names_are_plain() {
        let caller = |user: &str| Caller {
            uid: 7,
            gid: 7,
            env: vec![("USER".into(), user.into())],
            cwd: None,
            lent: None,
        };
        assert_eq!(caller("alice").account(), "alice");
        for bad in ["", "a:b", "a\nb", "-x", "a/b"] {
            assert_eq!(caller(bad).account(), "u7", "{bad}");
        }
    }
}
