//! File systems of the kernel that a bind brings along: control groups, sysfs, and what lies below. Rows F9 and S7 of
//! docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::process::Command;
use support::{World, assert_refused, image, mounted, stdout, text};

/// Types of file systems below a place, as a payload's own mountinfo and statfs show them.
const LOOK: &str = "for dir in $(awk '{print $5}' /proc/self/mountinfo | grep ^/data); do \
     echo \"$(stat -f -c %T $dir 2>/dev/null) $(ls -A $dir 2>/dev/null | wc -l)\"; done | sort -u; \
     find /data -name cgroup.procs 2>/dev/null | wc -l; find /data -name kallsyms -o -name uevent 2>/dev/null | wc -l";

fn launch(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(options).args(["--", "/bin/sh", "-c", script]);
    command
}

/// With the right to mount, in a mount namespace of the test's own.
fn behind_mounts(set_up: &str, command: &Command) -> std::process::Output {
    mounted("private", &format!("{set_up}; exec $back \"$@\""), command).output().unwrap()
}

// F9, S7
#[test]
fn a_parent_of_sys_brings_nothing_of_it_along() {
    let world = World::new();
    world.directory("parent/sys");
    world.directory("parent/own");
    let parent = world.path("parent").display().to_string();
    let set_up =
        format!("mount --rbind /sys {parent}/sys; mount -t tmpfs x {parent}/own; touch {parent}/own/file");
    // The control: whoever looks without walls sees control groups and devices.
    let mut control = world.command("sh");
    control.args(["-c", &format!("find {parent} -name cgroup.procs 2>/dev/null | head -1 | wc -l; find {parent}/sys -maxdepth 3 -name uevent | head -1 | wc -l")]);
    assert_eq!(stdout(&behind_mounts(&set_up, &control)), "1\n1");

    // A whole tree of file systems in file systems: one cover above hides what lies below, and what is no kernel's stays.
    for mode in ["ro", "rw"] {
        let bind = format!("{parent}:/data:{mode}");
        let seen = stdout(&behind_mounts(
            &set_up,
            &launch(&world, &["--bind", &bind], &format!("{LOOK}; ls /data/own")),
        ));
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(&lines[lines.len() - 3..], ["0", "0", "file"], "{seen}");
        assert!(!seen.contains("sysfs") && !seen.contains("cgroup"), "{seen}");
    }
    world.assert_no_trace();
}

// F9
#[test]
fn every_file_system_of_the_kernel_is_covered_wherever_it_lies() {
    let world = World::new();
    let parent = world.directory("parent").display().to_string();
    for name in ["q", "c", "d", "t", "f"] {
        world.directory(&format!("parent/{name}"));
    }
    world.file("parent/group", "");
    // What an ordinary user can mount or find on this host, one after the other.
    let group = "$(awk '$3 ~ /^cgroup/ { print $2; exit }' /proc/mounts)";
    let tracing = "$(awk '$3 == \"tracefs\" { print $2; exit }' /proc/mounts)";
    let cases = [
        ("cgroupfs", format!("mount --bind {group} {parent}/c"), format!("ls {parent}/c/cgroup.procs")),
        (
            "tracefs",
            format!("t={tracing}; [ -n \"$t\" ] || exit 77; mount --rbind /sys/kernel {parent}/t"),
            format!("ls {parent}/t"),
        ),
        (
            "mqueue",
            format!("mount -t mqueue x {parent}/q && touch {parent}/q/queue"),
            format!("ls {parent}/q/queue"),
        ),
        ("proc", format!("mount --rbind /proc {parent}/d"), format!("ls {parent}/d/version")),
    ];
    let mut tried = 0;
    for (name, set_up, proof) in &cases {
        let mut control = world.command("sh");
        control.args(["-c", proof]);
        let control = behind_mounts(set_up, &control);
        if !control.status.success() {
            println!("{name}: not on this host: {}", text(&control.stderr));
            continue;
        }
        tried += 1;
        let script = "for dir in /data/*/; do ls -A $dir; done 2>/dev/null | wc -l";
        let bind = format!("{parent}:/data");
        let seen = stdout(&behind_mounts(set_up, &launch(&world, &["--bind", &bind], script)));
        assert_eq!(seen, "0", "{name} shows");
        // Bound by itself it is refused.
        let place = proof.split_once(&format!("{parent}/")).unwrap().1.chars().next().unwrap();
        let output =
            behind_mounts(set_up, &launch(&world, &["--bind", &format!("{parent}/{place}:/data")], "true"));
        assert_refused(&output, 125, &["cannot bind"]);
    }
    assert!(tried >= 3, "only {tried} could be tried");
    // A single file of one cannot be covered by a directory: refused.
    let set_up = format!("mount --bind {group}/cgroup.procs {parent}/group");
    let output =
        behind_mounts(&set_up, &launch(&world, &["--bind", &format!("{parent}:/data")], "cat /data/group"));
    assert_refused(&output, 125, &["cannot cover"]);
    world.assert_no_trace();
}

// F9
#[test]
fn what_the_site_shows_of_sys_stays() {
    let world = World::new();
    world.directory("parent/p");
    let parent = world.path("parent").display().to_string();
    let set_up = format!("mount --rbind /proc {parent}/p");
    let script = "[ -d /sys/devices/system/cpu ] && echo cpu; ls /data/p | wc -l; ls /proc/self/comm";
    // Something had to be covered, so the whole tree was searched.
    let seen =
        stdout(&behind_mounts(&set_up, &launch(&world, &["--bind", &format!("{parent}:/data")], script)));
    assert_eq!(seen, "cpu\n0\n/proc/self/comm");
}
