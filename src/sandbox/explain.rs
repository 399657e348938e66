//! Words for what the kernel refused during the set-up: the thing, the reason, the next step.
#![forbid(unsafe_code)]

use super::Explainer;
use super::protocol::{BEHIND, Stage, Trouble};
use super::tree::Source;
use crate::failure::{Code, Failure, Fault, errno_text};
use crate::sys::{Errno, kernel};

/// What stands before the reason where namespaces could not be made.
const NO_NAMESPACES: &str = "cannot make the payload's namespaces (clone3)";

/// Whether a text says that the host gives no user namespace: not that it lacks memory, processes or descriptors.
pub fn is_without_user_namespace(text: &str) -> bool {
    text.split_once(NO_NAMESPACES)
        .is_some_and(|(_, why)| ["(EPERM)", "(ENOSPC)", "(EUSERS)"].iter().any(|errno| why.contains(errno)))
}

/// A clone3 that failed: which limit or which policy of the host forbids user namespaces.
pub fn clone_failure(errno: Errno, namespaces: libc::c_int) -> Failure {
    why_no_clone(errno, namespaces, &read_sysctl)
}

/// `sysctl` reads a file below /proc/sys; empty when there is none.
fn why_no_clone(errno: Errno, namespaces: libc::c_int, sysctl: &dyn Fn(&str) -> String) -> Failure {
    let what = NO_NAMESPACES;
    let why = errno_text(errno);
    match errno {
        Errno::ENOSPC | Errno::EUSERS => {
            let kinds = [
                (libc::CLONE_NEWUSER, "user"),
                (libc::CLONE_NEWNS, "mnt"),
                (libc::CLONE_NEWPID, "pid"),
                (libc::CLONE_NEWIPC, "ipc"),
                (libc::CLONE_NEWUTS, "uts"),
                (libc::CLONE_NEWNET, "net"),
                (libc::CLONE_NEWCGROUP, "cgroup"),
            ];
            let asked = kinds.iter().filter(|(flag, _)| namespaces & flag != 0);
            let limits: Vec<(String, String)> = asked
                .map(|(_, kind)| {
                    (format!("user.max_{kind}_namespaces"), sysctl(&format!("user/max_{kind}_namespaces")))
                })
                .collect();
            let at_fault = limits.iter().find(|(_, value)| value == "0").or_else(|| limits.first());
            let (name, value) =
                at_fault.map_or(("user.max_user_namespaces", "?"), |(n, v)| (n.as_str(), v.as_str()));
            Failure::site(
                what,
                format!("{why}: the limit {name} is {value}, or namespaces are nested too deep (32)"),
                format!("as root: sysctl -w {name}=65536, and make it last in /etc/sysctl.d"),
            )
        }
        Errno::EMFILE | Errno::ENFILE => no_descriptors(what, errno),
        Errno::EPERM => {
            if sysctl("kernel/unprivileged_userns_clone") == "0" {
                return Failure::site(
                    what,
                    format!("{why}: kernel.unprivileged_userns_clone is 0"),
                    "as root: sysctl -w kernel.unprivileged_userns_clone=1",
                );
            }
            if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" {
                return Failure::site(
                    what,
                    format!("{why}: kernel.apparmor_restrict_unprivileged_userns is 1"),
                    "install the AppArmor profile for bailey (docs/install.md), or set the sysctl to 0",
                );
            }
            Failure::site(
                what,
                format!(
                    "{why}: the caller is in a chroot, its ids are not mapped, or a seccomp or LSM policy forbids it"
                ),
                "run bailey outside the chroot, or let the outer container allow user namespaces",
            )
        }
        Errno::ENOSYS => no_such_call("cannot make the payload's namespaces", "unshare and clone3", (5, 3)),
        Errno::EAGAIN => Failure::site(
            what,
            format!("{why}: the limit on processes (RLIMIT_NPROC, pids.max) is reached"),
            "end some processes or raise the limit",
        ),
        _ => Failure::site(what, why, "see docs/install.md for what a host needs"),
    }
}

/// The calls of a step that some kernel or outer container does not have, and the kernel since which they are. Steps that may do
/// without have words of their own.
const fn newest_call(stage: Stage) -> Option<(&'static str, (u32, u32))> {
    Some(match stage {
        Stage::Descriptors => ("close_range", (5, 9)),
        Stage::Propagation | Stage::Attributes => ("mount_setattr", (5, 12)),
        Stage::Scratch | Stage::Overlay => ("fsopen, fsconfig, fsmount or move_mount", (5, 2)),
        // Or a copy of the outer one.
        Stage::Proc => ("fsopen, fsconfig, fsmount, open_tree or mount_setattr", (5, 12)),
        Stage::Source => ("open_tree or openat2", (5, 6)),
        Stage::Attach => ("move_mount", (5, 2)),
        Stage::Target | Stage::Changed => ("openat2", (5, 6)),
        Stage::Hidden => ("openat2, open_tree or mount_setattr", (5, 12)),
        Stage::ReadBack => ("unshare or prctl", (3, 5)),
        _ => return None,
    })
}

/// A call that is missing, `since` which kernel there is one; an outer container's filter says so too, of calls that it does not
/// know or, as ours, of those whose flags it cannot see.
pub(crate) fn no_such_call(what: &str, calls: &str, since: (u32, u32)) -> Failure {
    let why = errno_text(Errno::ENOSYS);
    let release = kernel::release();
    if kernel::is_at_least(&release, since) {
        let why = format!(
            "{why}: this kernel ({release}) has {calls}, so a filter of system calls around bailey refuses"
        );
        let next = format!(
            "let the outer container's seccomp policy pass {calls}; around a bailey in a payload of bailey, that is a [[rule]] with profile = \"nested\""
        );
        return Failure::site(what, why, next);
    }
    let (major, minor) = since;
    let next = format!(
        "bailey needs {calls} (kernel {major}.{minor} or later), and an outer container's seccomp policy must let it through"
    );
    Failure::site(what, why, next)
}

/// Every step opens files, so that the limit on them shows anywhere.
fn no_descriptors(what: &str, errno: Errno) -> Failure {
    Failure::site(what, errno_text(errno), "raise the limit on open files (ulimit -n)")
}

fn read_sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{name}"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A step of the child that failed.
pub fn trouble(trouble: Trouble, explainer: &Explainer) -> Failure {
    let Trouble { stage, index, errno } = trouble;
    explainer.stage.set(Some(stage));
    let why = errno_text(errno);
    let site = |what: &str, next: &str| Failure::site(what, why.clone(), next);
    let mount = explainer.tree.mounts.get(index as usize);
    let target = mount.map_or_else(String::new, |m| m.target.display().to_string());
    let source = mount.map_or_else(String::new, |m| match &m.source {
        Source::Host { path, .. } | Source::Overlay { path, .. } => path.to_string_lossy().into_owned(),
        Source::Base(path) => format!("bailey's own {}", path.to_string_lossy()),
        Source::Proc => "a new proc".to_owned(),
        Source::DevPts => "a new devpts".to_owned(),
    });
    if matches!(errno, Errno::EMFILE | Errno::ENFILE) {
        return no_descriptors("cannot set up the sandbox", errno);
    }
    if let Some((calls, since)) = (errno == Errno::ENOSYS).then(|| newest_call(stage)).flatten() {
        return no_such_call("cannot set up the sandbox", calls, since);
    }
    if errno == Errno::EFBIG {
        return Failure::site("cannot set up the sandbox", why, "raise the limit on file sizes (ulimit -f)");
    }
    match stage {
        Stage::Descriptors => {
            site("cannot close inherited descriptors (close_range)", "report this with the kernel's version")
        }
        Stage::IdMap if matches!(errno, Errno::EPERM | Errno::EACCES) => {
            if read_sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" {
                return Failure::site(
                    "cannot write the id map of the user namespace",
                    format!("{why}: kernel.apparmor_restrict_unprivileged_userns is 1"),
                    "install the AppArmor profile for bailey (docs/install.md), or set the sysctl to 0",
                );
            }
            site(
                "cannot write the id map of the user namespace",
                "see which security module forbids it (dmesg, audit log)",
            )
        }
        Stage::IdMap => {
            site("cannot write the id map of the user namespace", "check that /proc is mounted and writable")
        }
        Stage::Limits | Stage::ForbidNesting => site(
            "cannot forbid nested namespaces (/proc/sys/user/max_*_namespaces)",
            "an outer container keeps /proc/sys read-only: let it unmask /proc (podman: --security-opt unmask=ALL)",
        ),
        Stage::Session if trouble.index > 0 => site(
            "cannot make a terminal for the payload",
            "redirect standard input; then the payload gets none",
        ),
        Stage::Undumpable | Stage::ParentDeath | Stage::Personality | Stage::Session => {
            site("cannot prepare the sandbox's first process", "report this with the kernel's version")
        }
        Stage::OomScore => site(
            "cannot raise the payload's oom_score_adj",
            "set sandbox.oom_score_adj = \"0\" if this host forbids it",
        ),
        Stage::Ceilings => site(
            "cannot lower the payload's limits (setrlimit)",
            "check limits.open_files, limits.file_size, limits.memory and limits.pids",
        ),
        Stage::Priority => site(
            "cannot give back the launcher's real-time priority",
            "report this with the kernel's version; nothing has run",
        ),
        Stage::Landlock => site(
            "cannot make the payload's Landlock rules",
            "the image changed since it was looked at; otherwise set sandbox.landlock = \"off\" and report this",
        ),
        Stage::Namespaces => site("cannot open the sandbox's namespace files", "check that /proc is mounted"),
        Stage::Hostname => site(
            "cannot set the host name of the sandbox",
            "leave out --hostname, or let the outer container's seccomp policy allow sethostname",
        ),
        Stage::Loopback => site("cannot raise the loopback device of the new network", "try --network host"),
        Stage::Propagation => site(
            "cannot separate the sandbox's mounts from the host's",
            "report this with /proc/self/mountinfo",
        ),
        Stage::Scratch => site(
            "cannot make the private tmpfs",
            "check memory and `root.scratch_size`; the kernel must allow tmpfs in user namespaces",
        ),
        Stage::Node => {
            let node = explainer.tree.nodes.get(index as usize);
            let name = node.map_or_else(String::new, |(path, _)| path.to_string_lossy().into_owned());
            site(
                &format!("cannot make {name} in the private tmpfs"),
                "check `root.scratch_size` (--scratch-size)",
            )
        }
        Stage::Source => Failure::new(
            Code::Setup,
            if errno == Errno::ENOENT { Fault::User } else { Fault::Site },
            format!("cannot copy the mount of {source} for {target}"),
            why,
            "check that it still exists and is reachable",
        ),
        Stage::Changed => Failure::usage(
            format!("refused to bind {source} at {target}"),
            "it is not the file that was judged a moment before: somebody replaced it",
            "try again; if it happens again, find out who changes that path",
        ),
        Stage::Attributes => site(
            &format!("cannot make {source} read-only or nosuid at {target}"),
            "report this with /proc/self/mountinfo",
        ),
        Stage::Proc => site(
            "cannot mount a proc of the sandbox's own",
            "an outer container masks parts of /proc: let it unmask them (podman: --security-opt unmask=ALL), or set sandbox.proc = \"preferred\"",
        ),
        Stage::Overlay => site(
            &format!("cannot put a writable layer over {source}"),
            "leave out --writable, or use an image outside overlayfs and FUSE",
        ),
        Stage::Target => Failure::usage(
            format!("cannot use the mount point {target}"),
            why,
            "the image changed since it was looked at, or has a symbolic link there: use an image that stands still",
        ),
        Stage::Attach => {
            site(&format!("cannot mount {source} at {target}"), "report this with /proc/self/mountinfo")
        }
        Stage::Pivot => {
            site("cannot change into the new root (pivot_root)", "the host's root must not be an initramfs")
        }
        Stage::StartDir => Failure::usage(
            format!("cannot start in {}", explainer.tree.start_dir.to_string_lossy()),
            why,
            "name a --workdir that the payload's uid may enter",
        ),
        Stage::Hidden => site(
            "cannot cover a control group or process file system that a bind brought along",
            "bind something smaller",
        ),
        Stage::Keyring => site(
            "cannot join a new session keyring",
            "set sandbox.session_keyring = \"preferred\" if this host forbids keyrings",
        ),
        Stage::Capabilities | Stage::Securebits | Stage::NoNewPrivs => {
            site("cannot drop all capabilities", "report this with the kernel's version; nothing has run")
        }
        Stage::Fork => site(
            "cannot start the payload's process",
            "the limit on processes (RLIMIT_NPROC, pids.max) is reached",
        ),
        Stage::ReadBack => Failure::site(
            "the walls do not hold",
            if index == 3 {
                "a user namespace could be made although it was forbidden".to_owned()
            } else {
                why
            },
            "report this with the kernel's version; nothing has run",
        ),
        Stage::Seccomp if index == 0 => site(
            "cannot set the filter of system calls (seccomp)",
            "the kernel needs CONFIG_SECCOMP_FILTER; where an outer container forbids it: sandbox.seccomp = \"preferred\"",
        ),
        Stage::Seccomp => Failure::site(
            "the walls do not hold",
            "the filter of system calls was set and does not answer".to_owned(),
            "report this with the kernel's version; nothing has run",
        ),
        Stage::Command | Stage::Exec => command(trouble, explainer),
    }
}

/// A command that cannot be executed: 127 when it is not there, 126 when it is but cannot run.
pub fn command(trouble: Trouble, explainer: &Explainer) -> Failure {
    let behind = trouble.index == BEHIND;
    let path =
        if behind { explainer.behind.as_ref() } else { explainer.commands.get(trouble.index as usize) };
    let path = path.map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    let why = errno_text(trouble.errno);
    let named = behind || explainer.commands.len() == 1;
    match trouble.errno {
        Errno::ENOENT | Errno::ENOTDIR if trouble.stage == Stage::Exec => Failure::new(
            Code::NotFound,
            Fault::User,
            format!("cannot execute {path}"),
            format!("{why}: its interpreter or loader is missing inside"),
            "check the #! line or the ELF interpreter against the image",
        ),
        Errno::ENOENT | Errno::ENOTDIR => Failure::new(
            Code::NotFound,
            Fault::User,
            if named {
                format!("cannot find the command {path}")
            } else {
                let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
                format!("cannot find the command {name} in PATH")
            },
            why,
            "check its name as it is inside the sandbox; bind it if it lies on the host",
        ),
        Errno::ENOEXEC => Failure::new(
            Code::NotExecutable,
            Fault::User,
            format!("cannot execute {path}"),
            format!("{why}: neither a program for this machine nor a script with a #! line"),
            "give the script a #! line, or run it with its interpreter",
        ),
        _ => Failure::new(
            Code::NotExecutable,
            Fault::User,
            format!("cannot execute {path}"),
            why,
            "check that it is a file with execute permission for this uid, on a mount without noexec",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(errno: Errno, settings: &[(&str, &str)]) -> String {
        let sysctl = |name: &str| {
            settings
                .iter()
                .find(|(key, _)| *key == name)
                .map_or_else(String::new, |(_, value)| (*value).to_owned())
        };
        why_no_clone(errno, libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID, &sysctl).to_string()
    }

    #[test]
    fn the_setting_that_forbids_user_namespaces_is_named() {
        let said = why(Errno::EPERM, &[("kernel/unprivileged_userns_clone", "0")]);
        assert!(
            said.contains("kernel.unprivileged_userns_clone is 0") && said.contains("sysctl -w"),
            "{said}"
        );
        let apparmor = [
            ("kernel/unprivileged_userns_clone", "1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ];
        let said = why(Errno::EPERM, &apparmor);
        assert!(
            said.contains("apparmor_restrict_unprivileged_userns is 1") && said.contains("AppArmor profile"),
            "{said}"
        );
        let said = why(Errno::EPERM, &[]);
        assert!(said.contains("chroot") && said.contains("seccomp"), "{said}");
    }

    #[test]
    fn the_limit_that_is_used_up_is_named() {
        let limits = [("user/max_user_namespaces", "96365"), ("user/max_pid_namespaces", "0")];
        let said = why(Errno::ENOSPC, &limits);
        assert!(said.contains("user.max_pid_namespaces is 0"), "{said}");
        let said = why(Errno::ENOSPC, &[("user/max_user_namespaces", "7")]);
        assert!(said.contains("user.max_user_namespaces is 7"), "{said}");
        assert!(why(Errno::EMFILE, &[]).contains("ulimit -n"));
    }
}
