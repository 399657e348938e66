//! Images that lie in wait: links, files, pipes and holes where bailey puts its own, and bind targets that lead out. Nothing
//! may be made or shown outside; inside, the right thing is there, or one line says why not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{Attack, Racing, World, assert_refused, code, stdout, text};

/// A world with an image of one static program, /p, and a directory outside that nobody may touch.
struct Bed {
    world: World,
    image: PathBuf,
    outside: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let world = World::new();
        let attack = Attack::new(&world);
        let image = world.directory("image");
        fs::copy(&attack.0, image.join("p")).unwrap();
        world.file("outside/victim", "of the host\n");
        let outside = world.path("outside");
        Self { world, image, outside }
    }

    fn exec(&self, options: &[&str], operations: &[&str]) -> Command {
        let mut command = self.world.exec(&["--image"]);
        command.arg(&self.image).args(options).args(["--", "/p"]).args(operations);
        command
    }

    fn run(&self, options: &[&str], operations: &[&str]) -> Output {
        self.exec(options, operations).output().unwrap()
    }

    /// `--bind` of a directory with a file `seen`.
    fn bind(&self, target: &str) -> String {
        self.world.file("bound/seen", "bound\n");
        format!("{}:{target}", self.world.path("bound").display())
    }
}

/// What stands at a place where bailey puts its own.
fn hostile(bed: &Bed, place: &str, kind: &str) {
    let path = bed.image.join(place.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let outside = &bed.outside;
    match kind {
        "absolute" => symlink(outside, &path).unwrap(),
        "relative" => symlink("../outside", &path).unwrap(),
        "dots" => symlink(format!("../../../../../../../../../../{}", outside.display()), &path).unwrap(),
        "dangling" => symlink("/nowhere/at/all", &path).unwrap(),
        "loop" => symlink(place, &path).unwrap(),
        "root" => symlink("/", &path).unwrap(),
        "magic" => symlink("/proc/self/root", &path).unwrap(),
        "file" => fs::write(&path, "x").unwrap(),
        "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "unreadable" => {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("hidden"), "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        }
        "missing" => {}
        other => panic!("{other}"),
    }
}

const KINDS: [&str; 11] = [
    "absolute",
    "relative",
    "dots",
    "dangling",
    "loop",
    "root",
    "magic",
    "file",
    "fifo",
    "unreadable",
    "missing",
];

// F1, F4, F5: runc CVE-2019-16884, 2019-19921, 2025-31133; crun CVE-2026-47766
#[test]
fn whatever_an_image_has_at_our_places_ours_are_there() {
    for place in [
        "/dev",
        "/proc",
        "/tmp",
        "/etc",
        "/etc/passwd",
        "/run",
        "/sys",
        "/var",
        "/srv",
        "/dev/shm",
        "/etc/group",
    ] {
        for kind in KINDS {
            let bed = Bed::new();
            hostile(&bed, place, kind);
            let before = bed.world.snapshot();
            let output = bed.run(
                &[],
                &[
                    "show",
                    "/dev/null",
                    "/dev/zero",
                    "/proc/self/status",
                    "/proc/1",
                    "/tmp",
                    "/var/tmp",
                    "/dev/shm",
                    "/run",
                    "/sys",
                    ",",
                    "write",
                    "/tmp/new",
                    "x",
                    ",",
                    "write",
                    "/dev/shm/new",
                    "x",
                    ",",
                    "write",
                    "/srv/new",
                    "x",
                    ",",
                    "write",
                    "/etc/passwd",
                    "x",
                    ",",
                    "ls",
                    "/run",
                    ",",
                    "cat",
                    "/etc/passwd",
                ],
            );
            let what = format!("{place} as {kind}");
            // A directory of the image that may not be listed cannot get what is missing in it.
            if code(&output) == 125 && kind == "unreadable" {
                assert_refused(&output, 125, &[place]);
            } else {
                assert_eq!(code(&output), 0, "{what}: {}", text(&output.stderr));
                let seen = text(&output.stdout);
                let uid = nix::unistd::geteuid();
                let expected = "/dev/null: char 1:3\n/dev/zero: char 1:5\n/proc/self/status: file 444\n/proc/1: dir 555\n\
                    /tmp: dir 1777\n/var/tmp: dir 1777\n/dev/shm: dir 1777\n/run: dir 755\n/sys: dir 755\n/tmp/new: ok\n\
                    /dev/shm/new: ok\n/srv/new: ok\n";
                assert!(seen.starts_with(expected), "{what}:\n{seen}");
                assert!(seen.contains(&format!("\n/run:\npilot:x:{uid}:")), "{what}:\n{seen}");
                assert!(!seen.contains("victim"), "{what}:\n{seen}");
            }
            bed.world.assert_nothing_left(&before);
        }
    }
}

// F1: bubblewrap CVE-2026-87766, runc CVE-2021-30465, flatpak CVE-2024-42472
#[test]
fn a_bind_target_that_leads_out_of_the_image_stays_inside() {
    for kind in ["absolute", "relative", "dots", "root", "magic", "dangling", "chain"] {
        for below in ["", "/new", "/new/deep"] {
            let bed = Bed::new();
            if kind == "chain" {
                symlink("two", bed.image.join("data")).unwrap();
                symlink("/three", bed.image.join("two")).unwrap();
                symlink(format!("../../..{}", bed.outside.display()), bed.image.join("three")).unwrap();
            } else {
                hostile(&bed, "/data", kind);
            }
            if kind == "absolute" && below.is_empty() {
                // A control: the link does lead out for whoever follows it on the host.
                assert!(bed.image.join("data/victim").exists());
            }
            let bind = bed.bind(&format!("/data{below}"));
            let before = bed.world.snapshot();
            let output = bed.run(
                &["--bind", &bind],
                &["cat", &format!("/data{below}/seen"), ",", "ls", &format!("/data{below}")],
            );
            let what = format!("{kind}{below}: {}", text(&output.stderr));
            if code(&output) == 0 {
                assert_eq!(text(&output.stdout), format!("bound\n/data{below}: seen\n"), "{what}");
            } else {
                // The root itself, or something below our /proc.
                assert!(["root", "magic"].contains(&kind), "{what}");
                assert_refused(&output, 125, &[]);
            }
            bed.world.assert_nothing_left(&before);
            assert_eq!(fs::read_dir(&bed.outside).unwrap().count(), 1, "{what}");
        }
    }
    // Loops, and a file on the way.
    for (kind, target, word) in
        [("loop", "/data", "ELOOP"), ("loop", "/data/new", "ELOOP"), ("file", "/data/new", "ENOTDIR")]
    {
        let bed = Bed::new();
        hostile(&bed, "/data", kind);
        let bind = bed.bind(target);
        let before = bed.world.snapshot();
        assert_refused(&bed.run(&["--bind", &bind], &["ls", "/"]), 125, &[word]);
        bed.world.assert_nothing_left(&before);
    }
}

// runc CVE-2024-45310, CVE-2021-30465: the target changes between the look and the mount
#[test]
fn a_bind_target_that_is_swapped_never_escapes() {
    for (target, writable) in
        [("/data", false), ("/data/sub", false), ("/data/new/deep", false), ("/data", true)]
    {
        let bed = Bed::new();
        fs::create_dir_all(bed.image.join("data/sub")).unwrap();
        fs::create_dir_all(bed.outside.join("sub")).unwrap();
        symlink(&bed.outside, bed.image.join("swap")).unwrap();
        let bind = bed.bind(target);
        let mut options = vec!["--bind", &bind];
        if writable {
            options.push("--writable");
        }
        let racing = Racing::swap(&bed.image.join("data"), &bed.image.join("swap"));
        let end = Instant::now() + Duration::from_secs(3);
        let (mut ran, mut refused) = (0, 0);
        while Instant::now() < end {
            let output = bed.run(
                &options,
                &["cat", &format!("{target}/seen"), ",", "write", &format!("{target}/escaped"), "x"],
            );
            let seen = text(&output.stdout);
            match code(&output) {
                // What the payload finds at the name may meanwhile be the other of the two, but never the host's.
                0 => {
                    assert!(!seen.contains("ok") || writable, "{seen}");
                    ran += 1;
                }
                125 => {
                    assert_refused(&output, 125, &[]);
                    refused += 1;
                }
                code => panic!("{code}: {seen}{}", text(&output.stderr)),
            }
            assert!(!seen.contains("victim"), "{seen}");
        }
        drop(racing);
        assert!(ran > 0, "{target}: {ran} ran, {refused} were refused");
        let mut left: Vec<_> =
            fs::read_dir(&bed.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["sub", "victim"], "{target}");
        assert_eq!(fs::read_dir(bed.outside.join("sub")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(bed.world.path("bound")).unwrap().count(), 1);
        bed.world.assert_no_trace();
    }
}

#[test]
fn what_is_no_root_directory_is_refused() {
    let bed = Bed::new();
    let world = &bed.world;
    symlink("loop-b", world.path("loop-a")).unwrap();
    symlink("loop-a", world.path("loop-b")).unwrap();
    symlink("/", world.path("to-root")).unwrap();
    let file = world.file("file.sif", "not an image");
    let empty = world.directory("empty");
    let closed = world.directory("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = world.snapshot();
    let run =
        |image: &Path| world.exec(&["--image"]).arg(image).args(["--", "/p", "exit", "0"]).output().unwrap();
    for (image, expected, word) in [
        (world.path("missing"), 125, "ENOENT"),
        (file.clone(), 125, "not a directory"),
        (file.join("below"), 125, "ENOTDIR"),
        (fifo, 125, "not a directory"),
        (world.path("loop-a"), 125, "ELOOP"),
        (world.path("to-root"), 125, "host's own root"),
        ("/".into(), 125, "host's own root"),
        ("/usr/..".into(), 125, "host's own root"),
        ("/proc".into(), 125, "host's proc"),
        ("/sys".into(), 125, "host's sysfs"),
        (closed, 125, ""),
        (empty.clone(), 127, "/p"),
        (world.path("a\nb"), 125, "ENOENT"),
    ] {
        assert_refused(&run(&image), expected, &[word]);
        assert_eq!(
            world.records().last().unwrap()["event"]["action"],
            "launch-failed",
            "{}",
            image.display()
        );
    }
    world.assert_nothing_left(&before);
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    // A symbolic link to a good image is a good image.
    symlink(&bed.image, world.path("link")).unwrap();
    assert_eq!(code(&run(&world.path("link"))), 0);
}

#[test]
fn commands_that_an_image_cannot_run_are_told_apart() {
    let bed = Bed::new();
    let put = |name: &str, content: &str, mode: u32| {
        fs::write(bed.image.join(name), content).unwrap();
        fs::set_permissions(bed.image.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    put("plain", "x", 0o644);
    put("script", "#!/no/such/interpreter\n", 0o755);
    put("noise", "noise", 0o755);
    fs::create_dir(bed.image.join("dir")).unwrap();
    symlink("/usr/bin/true", bed.image.join("leads-out")).unwrap();
    symlink("around", bed.image.join("around")).unwrap();
    // Pipes, sockets and devices of an image are not shown where a skeleton stands.
    nix::unistd::mkfifo(&bed.image.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (command, expected) in [
        ("/nothing", 127),
        ("nothing", 127),
        ("/plain", 126),
        ("/script", 127),
        ("/noise", 126),
        ("/dir", 126),
        ("/leads-out", 127),
        ("/around", 126),
        ("/pipe", 127),
        ("/p/below", 127),
        ("/dev/null", 126),
    ] {
        let output = bed.world.exec(&["--image"]).arg(&bed.image).args(["--", command]).output().unwrap();
        assert_refused(&output, expected, &[command.trim_start_matches('/')]);
    }
    bed.world.assert_no_trace();
}

// HTCondor's test image: one static program, no shell, no mount point.
#[test]
fn one_static_program_is_image_enough() {
    let bed = Bed::new();
    fs::rename(bed.image.join("p"), bed.image.join("exit_37")).unwrap();
    for options in
        [&[][..], &["--network", "none"], &["--writable"], &["--workdir", bed.outside.to_str().unwrap()]]
    {
        let before = bed.world.snapshot();
        let output = bed
            .world
            .exec(&["--image"])
            .arg(&bed.image)
            .args(options)
            .args(["--", "/exit_37", "exit", "37"])
            .output()
            .unwrap();
        assert_eq!(code(&output), 37, "{}", text(&output.stderr));
        assert_eq!(fs::read_dir(&bed.image).unwrap().count(), 1);
        bed.world.assert_nothing_left(&before);
    }
}

#[test]
fn a_root_with_three_thousand_entries_works_or_says_why_not() {
    let bed = Bed::new();
    for number in 0..3000 {
        fs::write(bed.image.join(format!("f{number}")), "").unwrap();
    }
    let before = bed.world.snapshot();
    // It lacks every mount point, so all its entries would have to be bound back.
    let output = bed.run(&[], &["show", "/f0", "/f2999"]);
    if code(&output) == 0 {
        assert_eq!(stdout(&output), "/f0: file 644\n/f2999: file 644");
    } else {
        assert_refused(&output, 125, &["entries"]);
    }
    // With the mount points in it, nothing has to be made.
    for place in ["dev", "proc", "tmp", "var/tmp", "run", "sys", "srv", "etc"] {
        fs::create_dir_all(bed.image.join(place)).unwrap();
    }
    for file in ["passwd", "group", "hosts", "resolv.conf"] {
        fs::write(bed.image.join("etc").join(file), "").unwrap();
    }
    assert_eq!(stdout(&bed.run(&[], &["show", "/f0", "/f2999"])), "/f0: file 644\n/f2999: file 644");
    assert_eq!(bed.world.snapshot().len(), before.len() + 13);
    bed.world.assert_no_trace();
}

#[test]
fn odd_names_survive_a_skeleton() {
    let bed = Bed::new();
    let names: [&[u8]; 7] = [
        b"new\nline",
        b"with space",
        b"back\\slash",
        b"\\040",
        b"\xff\xfe",
        b"comma,equals=colon:",
        b" (deleted)",
    ];
    for name in names {
        fs::create_dir(bed.image.join(OsStr::from_bytes(name))).unwrap();
        fs::write(bed.image.join(OsStr::from_bytes(name)).join("f"), "content\n").unwrap();
    }
    let before = bed.world.snapshot();
    for name in names {
        let mut file = b"/".to_vec();
        file.extend_from_slice(name);
        file.extend_from_slice(b"/f");
        let mut command = bed.exec(&[], &["cat"]);
        command.arg(OsStr::from_bytes(&file));
        assert_eq!(stdout(&command.output().unwrap()), "content", "{}", text(name));
        // As a bind's source and target; a colon cannot be written, and the kernel marks deleted files with the last one.
        if !name.contains(&b':') && !name.ends_with(b" (deleted)") {
            let mut bind = bed.image.as_os_str().as_bytes().to_vec();
            bind.extend_from_slice(&file[..file.len() - 2]);
            bind.extend_from_slice(b":/x/");
            bind.extend_from_slice(name);
            let mut target = b"/x/".to_vec();
            target.extend_from_slice(name);
            target.extend_from_slice(b"/f");
            let mut command = bed.world.exec(&["--image"]);
            command.arg(&bed.image).arg("--bind").arg(OsStr::from_bytes(&bind)).args(["--", "/p", "cat"]);
            let output = command.arg(OsStr::from_bytes(&target)).output().unwrap();
            assert_eq!(stdout(&output), "content", "{}", text(name));
        }
    }
    bed.world.assert_nothing_left(&before);
    bed.world.assert_chain();
}

// F9: odd names must not hide a control group from the search through mountinfo
#[test]
fn a_control_group_behind_an_odd_name_is_covered() {
    let bed = Bed::new();
    let place = bed.world.directory("parent/a b\\040\tc\nd");
    let bind = format!("{}:/data", bed.world.path("parent").display());
    let mut command = bed.exec(&["--bind", &bind], &["ls", "/data/a b\\040\tc\nd"]);
    command.env("PLACE", &place);
    let set_up = "mount --rbind /sys/fs/cgroup/unified \"$PLACE\" 2>/dev/null || mount --rbind /sys/fs/cgroup \"$PLACE\"; \
                  ls \"$PLACE\" >&2; exec $back \"$@\"";
    let output = support::mounted("private", set_up, &command).output().unwrap();
    assert!(text(&output.stderr).contains("cgroup."), "the control sees it: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "/data/a b\\040\tc\nd:\n");
}

#[test]
fn a_writable_image_takes_writes_and_forgets_them() {
    let bed = Bed::new();
    fs::create_dir(bed.image.join("etc")).unwrap();
    fs::write(bed.image.join("etc/conf"), "old\n").unwrap();
    fs::create_dir(bed.image.join("data")).unwrap();
    let before = bed.world.snapshot();
    let operations = [
        "write",
        "/etc/conf",
        "new",
        ",",
        "write",
        "/data/file",
        "x",
        ",",
        "mkdir",
        "/made",
        ",",
        "unlink",
        "/p",
        ",",
        "cat",
        "/etc/conf",
        ",",
        "show",
        "/data/file",
        "/made",
        "/p",
        ",",
        "write",
        "/dev/new",
        "x",
        ",",
        "write",
        "/run/x",
        "x",
    ];
    let seen = stdout(&bed.run(&["--writable"], &operations));
    assert_eq!(
        seen,
        "/etc/conf: ok\n/data/file: ok\nmkdir: ok\nunlink: ok\nnew\n/data/file: file 644\n/made: dir 755\n/p: ENOENT\n/dev/new: ok\n/run/x: ok"
    );
    bed.world.assert_nothing_left(&before);
    // Gone, and without the option nothing is written at all.
    let seen = stdout(&bed.run(&[], &operations));
    assert!(seen.starts_with("/etc/conf: EROFS\n/data/file: EROFS\nmkdir: EROFS\nunlink: EROFS\nold\n/data/file: ENOENT\n/made: ENOENT\n"), "{seen}");
    // The layer is part of the scratch space.
    let big = "x".repeat(100_000);
    let many: Vec<String> = (0..12).map(|n| format!("/data/{n}")).collect();
    let mut operations = Vec::new();
    for file in &many {
        operations.extend(["write", file.as_str(), big.as_str(), ","]);
    }
    assert!(stdout(&bed.run(&["--writable", "--scratch-size", "1M"], &operations)).contains("ENOSPC"));
    bed.world.assert_nothing_left(&before);
}

#[test]
fn a_writable_image_cannot_lead_out_either() {
    for kind in KINDS {
        let bed = Bed::new();
        hostile(&bed, "/tmp", kind);
        hostile(&bed, "/data", if kind == "loop" { "file" } else { kind });
        let before = bed.world.snapshot();
        let output = bed.run(
            &["--writable"],
            &["write", "/tmp/new", "x", ",", "write", "/data/new", "x", ",", "show", "/tmp"],
        );
        if code(&output) == 125 {
            assert_refused(&output, 125, &[]);
        } else {
            let seen = stdout(&output);
            assert!(seen.starts_with("/tmp/new: ok\n") && seen.ends_with("/tmp: dir 1777"), "{kind}: {seen}");
        }
        bed.world.assert_nothing_left(&before);
    }
}

// A control for the whole file: who trusts the image's links writes on the host.
#[test]
fn without_walls_the_image_does_lead_out() {
    let bed = Bed::new();
    hostile(&bed, "/tmp", "absolute");
    let output =
        bed.world.command(bed.image.join("p")).args(["write", "image/tmp/escaped", "x"]).output().unwrap();
    assert_eq!(stdout(&output), "image/tmp/escaped: ok");
    assert_eq!(fs::metadata(bed.outside.join("escaped")).unwrap().size(), 1);
}
