//! Where the kernel, an outer container or the caller leaves no way to make the walls: one line that says what, why and what
//! to do, a record of it, and nothing left behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::fs;
use std::process::{Command, Output};
use support::{Attack, World, assert_refused, behind, image, mounted, skip, stdout, text};

fn launch(world: &World) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(["--", "/bin/echo", "ran"]);
    command
}

/// Refused with these words and recorded as `action`; nothing ran, nothing is left.
fn refused(world: &World, output: &Output, expected: i32, action: &str, words: &[&str]) {
    assert_eq!(text(&output.stdout), "");
    assert_refused(output, expected, words);
    assert_eq!(world.records().last().unwrap()["event"]["action"], action);
    assert!(world.records_of("payload-launch").is_empty());
    world.assert_chain();
    world.assert_no_trace();
}

#[test]
fn a_limit_of_zero_namespaces_is_named() {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let ids = [format!("--map-user={uid}"), format!("--map-group={gid}")];
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        let world = World::new();
        // In a user namespace of its own the test may lower the limit; it gives the capability up before bailey starts.
        let limited = |limit: &str, command: &Command| {
            let script = format!(
                "echo {limit} >/proc/sys/user/max_{kind}_namespaces && \
                 exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all -- \"$@\""
            );
            let args = ["-U", &ids[0], &ids[1], "--keep-caps", "/bin/sh", "-c", &script, "sh"];
            behind("unshare", &args, command).output().unwrap()
        };
        let mut control = world.command("unshare");
        control.args(["-U", "-m", "-p", "-i", "-u", "-C", "--", "/bin/true"]);
        assert!(limited("100", &control).status.success(), "the same with room works");
        assert!(!limited("0", &control).status.success(), "{kind}");
        assert_eq!(stdout(&limited("100", &launch(&world))), "ran");
        let output = limited("0", &launch(&world));
        let records = world.records_of("payload-launch").len();
        assert_eq!(records, 1);
        assert_refused(&output, 125, &["ENOSPC", &format!("user.max_{kind}_namespaces is 0"), "sysctl"]);
        assert_eq!(world.records().last().unwrap()["event"]["action"], "launch-failed");
        world.assert_no_trace();
    }
}

#[test]
fn a_chroot_is_named() {
    let world = World::new();
    world.directory("root");
    // chroot into the same tree: the kernel then refuses user namespaces (EPERM, user_namespaces(7)).
    let run = |into: &str, command: &mut Command| {
        let set_up = format!(
            "mount --rbind / {0}/root; exec ${{back% --}} --keep-caps chroot {into} \
             setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all -- \"$@\"",
            world.dir.display()
        );
        mounted("private", &set_up, command).output().unwrap()
    };
    let root = world.path("root").display().to_string();
    let mut control = world.command("unshare");
    control.args(["-U", "/bin/true"]);
    assert!(run("/", &mut control).status.success(), "a chroot into / is none");
    let output = run(&root, &mut control);
    assert!(text(&output.stderr).contains("Operation not permitted"), "{}", text(&output.stderr));
    let output = run(&root, &mut launch(&world));
    refused(&world, &output, 125, "launch-failed", &["clone3", "EPERM", "chroot"]);
}

#[test]
fn root_is_refused() {
    let world = World::new();
    let output = behind("unshare", &["-Ur"], &launch(&world)).output().unwrap();
    refused(&world, &output, 120, "payload-deny", &["root", "unprivileged account"]);
    // A control: the same without uid 0.
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let ids = [format!("--map-user={uid}"), format!("--map-group={gid}")];
    let output = behind("unshare", &["-U", &ids[0], &ids[1]], &launch(&world)).output().unwrap();
    assert_eq!(stdout(&output), "ran");
}

#[test]
fn a_masked_proc_is_named() {
    let world = World::new();
    // As podman and docker do it: parts of /proc are covered, so the kernel refuses a new proc.
    let set_up = "mount --bind /dev/null /proc/version; exec $back \"$@\"";
    let mut control = world.command("bwrap");
    control.args(["--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "/bin/true"]);
    let control = mounted("private", set_up, &control).output().unwrap();
    assert!(
        !control.status.success() && text(&control.stderr).contains("proc"),
        "bubblewrap fails there too"
    );
    let output = mounted("private", set_up, &launch(&world)).output().unwrap();
    refused(&world, &output, 125, "launch-failed", &["proc", "EPERM", "unmask"]);
}

#[test]
fn a_read_only_proc_sys_is_named() {
    let world = World::new();
    let set_up = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec $back \"$@\"";
    let output = mounted("private", set_up, &launch(&world)).output().unwrap();
    refused(&world, &output, 125, "launch-failed", &["proc", "EPERM", "unmask"]);
}

#[test]
fn a_seccomp_filter_that_forbids_namespaces_is_named() {
    let world = World::new();
    let attack = Attack::new(&world);
    let program = attack.0.to_str().unwrap();
    for (errno, word) in [("1", "EPERM"), ("38", "ENOSYS")] {
        let filtered =
            |command: &Command| behind(program, &["exec-no-clone3", errno, "--"], command).output().unwrap();
        let mut control = world.command(&attack.0);
        control.arg("namespaces");
        let seen = stdout(&filtered(&control));
        assert!(seen.contains(&format!("clone3: {word}")), "{seen}");
        refused(&world, &filtered(&launch(&world)), 125, "launch-failed", &["clone3", word]);
    }
}

#[test]
fn a_deleted_current_directory_matters_only_to_relative_paths() {
    let world = World::new();
    let gone = |command: &mut Command| {
        let dir = world.directory("gone");
        command.current_dir(dir);
        behind("/bin/sh", &["-c", "rmdir \"$PWD\"; exec \"$@\"", "sh"], command).output().unwrap()
    };
    let mut control = world.command("/bin/pwd");
    assert!(!gone(control.arg("-P")).status.success());
    assert_eq!(stdout(&gone(&mut launch(&world))), "ran");
    for option in ["--workdir", "--image", "--status-file"] {
        let mut command = world.exec(&[option, "relative", "--", "/bin/true"]);
        let output = gone(&mut command);
        assert_refused(&output, 125, &[option, "deleted"]);
    }
    // One line also where the status file is what is wrong.
    let output = world.exec(&["--status-file", "/nowhere/at/all", "--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 125, &["/nowhere/at/all"]);
    world.assert_no_trace();
}

// bubblewrap fails on such hosts. An ordinary user cannot make one: the kernel locks the flags of the host's mounts.
#[test]
fn a_noatime_host_works() {
    let world = World::new();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let proc = table.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc")).unwrap();
    assert_eq!(stdout(&launch(&world).output().unwrap()), "ran");
    if !proc.split(' ').nth(5).unwrap().split(',').any(|option| option == "noatime") {
        return skip(
            "a_noatime_host_works",
            "/proc of this host is mounted without noatime, and only root can change that",
        );
    }
    let mut control = world.command("bwrap");
    control.args(["--unshare-pid", "--unshare-user", "--ro-bind", "/", "/", "--proc", "/proc", "/bin/true"]);
    assert!(!control.output().unwrap().status.success(), "bubblewrap works here: the control is void");
}
