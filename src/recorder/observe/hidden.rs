//! A host whose /proc hides processes of other users (proc(5), `hidepid`): how it shows, and the cure.
#![forbid(unsafe_code)]

use crate::failure::{Failure, errno_text};
use crate::proc::Process;
use crate::sys::Errno;

/// The cure, in words that an administrator can type.
const CURE: &str = "mount /proc with hidepid=invisible,gid=GROUP and put the recorder's account into GROUP \
    (proc(5); in the unit: SupplementaryGroups=GROUP, ProtectProc=default)";

/// Why a process that lives cannot be read.
pub(super) fn unreadable(what: &str, errno: Errno) -> Failure {
    if !matches!(errno, Errno::ENOENT | Errno::ESRCH | Errno::EPERM | Errno::EACCES) {
        return Failure::site(
            format!("cannot look at {what}"),
            errno_text(errno),
            "report this with the kernel's version",
        );
    }
    let why = match proc_options() {
        Some(options) if hides(&options) => {
            format!("it lives, but this host's /proc hides other users' processes ({options})")
        }
        _ => format!("it lives, but /proc does not show it: {}", errno_text(errno)),
    };
    Failure::site(format!("cannot look at {what}"), why, CURE)
}

/// Whether the recorder may see processes of other users. Asked once at the start, so that a host with a hiding /proc is
/// an error of the service and not of every launch.
///
/// # Errors
/// What hides them, and the cure.
pub fn can_see_others() -> Result<(), Failure> {
    let own = nix::unistd::geteuid().as_raw();
    let mut buffer = Vec::new();
    let first = Process::open(1).and_then(|process| process.status(&mut buffer));
    let options = proc_options();
    match (first, options.filter(|options| hides(options))) {
        // pid 1 of a container may be this account's own, which is never hidden: then what the mount says counts.
        (Ok(status), Some(options)) if status.uids.contains(&own) && !in_gid_option(&options) => {
            Err(hiding(&options))
        }
        (Ok(_), _) => Ok(()),
        (Err(_), Some(options)) => Err(hiding(&options)),
        (Err(errno), None) => Err(unreadable("process 1", errno)),
    }
}

fn hiding(options: &str) -> Failure {
    Failure::site(
        "the recorder cannot see the payloads that it has to look at",
        format!("this host's /proc hides other users' processes ({options})"),
        CURE,
    )
}

/// The options of the file system that is mounted on /proc, of the uppermost one.
fn proc_options() -> Option<String> {
    options_of(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// From a text of mountinfo (proc_pid_mountinfo(5)): after ` - ` come type, source and the super block's options.
fn options_of(mountinfo: &str) -> Option<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"))?;
    line.split_once(" - ")?.1.split(' ').nth(2).map(ToOwned::to_owned)
}

/// `hidepid=1` to `4`, or the words that newer kernels print for them.
fn hides(options: &str) -> bool {
    options
        .split(',')
        .any(|option| option.strip_prefix("hidepid=").is_some_and(|value| !matches!(value, "0" | "off")))
}

/// Is this process in the group that may see all (`gid=`)?
fn in_gid_option(options: &str) -> bool {
    let gid = options.split(',').find_map(|option| option.strip_prefix("gid=")?.parse::<u32>().ok());
    let Some(gid) = gid else { return false };
    let groups = nix::unistd::getgroups().unwrap_or_default();
    nix::unistd::getegid().as_raw() == gid || groups.iter().any(|group| group.as_raw() == gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_proc_counts() {
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            23 22 0:22 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw\n\
            24 22 0:23 / /proc rw,nosuid shared:7 - proc proc rw,gid=26,hidepid=invisible\n";
        let options = options_of(text).unwrap();
        assert_eq!(options, "rw,gid=26,hidepid=invisible");
        assert!(hides(&options));
        assert_eq!(options_of("1 2 0:3 / / rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn every_way_to_hide_is_known() {
        for hiding in [
            "rw,hidepid=1",
            "rw,hidepid=2",
            "hidepid=invisible,gid=4",
            "rw,hidepid=ptraceable",
            "hidepid=noaccess",
        ] {
            assert!(hides(hiding), "{hiding}");
        }
        for open in ["rw", "rw,hidepid=0", "rw,hidepid=off", "rw,gid=4"] {
            assert!(!hides(open), "{open}");
        }
    }

    #[test]
    fn the_cure_is_named() {
        let failure = hiding("rw,hidepid=2").to_string();
        assert!(failure.contains("gid=GROUP") && failure.contains("hidepid=2"), "{failure}");
    }
}
