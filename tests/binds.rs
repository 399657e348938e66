//! Binds and the working directory: what is handed over arrives, where and as it was asked; what must stay the pilot's or
//! bailey's own does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Racing, World, assert_refused, code, image, mounted, stdout, text};

/// `bailey exec --image IMAGE --bind EACH... -- /bin/sh -c SCRIPT`.
fn launch(world: &World, options: &[&str], binds: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(options);
    for bind in binds {
        command.args(["--bind", bind]);
    }
    command.args(["--", "/bin/sh", "-c", script]);
    command
}

fn run(world: &World, binds: &[&str], script: &str) -> String {
    stdout(&launch(world, &[], binds, script).output().unwrap())
}

fn refused(world: &World, binds: &[&str], words: &[&str]) {
    let before = world.snapshot();
    let output = launch(world, &[], binds, "echo ran").output().unwrap();
    assert_eq!(text(&output.stdout), "", "{binds:?} ran");
    assert_refused(&output, 125, words);
    assert_eq!(world.records().last().unwrap()["event"]["action"], "launch-failed");
    world.assert_nothing_left(&before);
}

#[test]
fn files_directories_and_devices_arrive_as_asked() {
    let world = World::new();
    world.file("dir/file", "content\n");
    world.file("plain", "alone\n");
    let at = |name: &str| world.path(name).display().to_string();
    let (dir, plain) = (at("dir"), at("plain"));
    let script = format!(
        "cat {dir}/file /data/file /x/y/z/file /tmp/t/file /one {plain}; echo new >{dir}/new; echo changed >/one; \
         (echo x >/data/no) 2>/dev/null || echo ro; (echo x >>{plain}) 2>/dev/null || echo ro; cat /data/new"
    );
    let binds = [
        format!("{dir}:rw"),
        format!("{dir}:/data"),
        format!("{dir}:/x/y/z"),
        format!("{dir}:/tmp/t:ro"),
        format!("{plain}:/one:rw"),
        plain.clone(),
    ];
    let binds: Vec<&str> = binds.iter().map(String::as_str).collect();
    let seen = run(&world, &binds, &script);
    assert_eq!(seen, "content\ncontent\ncontent\ncontent\nalone\nalone\nro\nro\nnew");
    assert_eq!(fs::read_to_string(world.path("dir/new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(world.path("plain")).unwrap(), "changed\n");

    // A named device works; the same device inside a bound directory does not.
    let device = "head -c 2 /data/zero | od -An -tx1; head -c 2 /devices/zero 2>&1 | od -An -tx1 | head -c 3; cat /devices/zero 2>&1 | tail -c 18";
    let seen = run(&world, &["/dev/zero:/data/zero", "/dev:/devices"], device);
    assert!(seen.starts_with(" 00 00") && seen.ends_with("Permission denied"), "{seen}");
    world.assert_no_trace();
}

#[test]
fn missing_targets_appear_and_the_image_stays_as_it_is() {
    let world = World::new();
    world.file("dir/file", "content\n");
    let dir = world.path("dir").display().to_string();
    let image_before = fs::read_dir(image()).unwrap().count();
    let entries = run(
        &world,
        &[],
        "ls -A / | wc -l; ls -A /usr/share | wc -l; ls -A /usr | wc -l; cat /etc/debian_version",
    );
    for (target, grown) in [("/new", 0), ("/usr/share/new/deeper", 1), ("/usr/new", 2)] {
        let script = format!(
            "cat {target}/file >&2; ls -A / | wc -l; ls -A /usr/share | wc -l; ls -A /usr | wc -l; cat /etc/debian_version; \
            touch $(dirname {target})/x 2>/dev/null && echo written"
        );
        let output = launch(&world, &[], &[&format!("{dir}:{target}")], &script).output().unwrap();
        assert_eq!(text(&output.stderr), "content\n", "{target}");
        let seen = text(&output.stdout);
        let (mut expected, mut seen): (Vec<&str>, Vec<&str>) =
            (entries.lines().collect(), seen.lines().collect());
        let number = |lines: &mut Vec<&str>| lines.remove(grown).parse::<u32>().unwrap();
        assert_eq!(number(&mut seen), number(&mut expected) + 1, "{target}");
        assert_eq!(seen, expected, "{target}");
    }
    // A file's target as well, and programs work over a skeleton.
    let seen = run(
        &world,
        &[&format!("{dir}/file:/usr/lib/new-file")],
        "cat /usr/lib/new-file; perl -e 'print 6*7'",
    );
    assert_eq!(seen, "content\n42");
    assert_eq!(fs::read_dir(image()).unwrap().count(), image_before);
    world.assert_no_trace();
}

#[test]
fn binds_nest_in_any_order() {
    let world = World::new();
    world.file("outer/inner/hidden", "x");
    world.file("outer/file", "outer\n");
    world.file("other/seen", "inner\n");
    let (outer, other) =
        (world.path("outer").display().to_string(), world.path("other").display().to_string());
    let script = "cat /data/file; ls /data/inner; cat /data/inner/seen; (echo x >/data/inner/w) 2>/dev/null && echo inner-rw; \
                  (echo x >/data/w) 2>/dev/null && echo outer-rw; true";
    for (a, b, words) in [("ro", "rw", "inner-rw"), ("rw", "ro", "outer-rw")] {
        let (first, second) = (format!("{outer}:/data:{a}"), format!("{other}:/data/inner:{b}"));
        for binds in [[first.as_str(), &second], [&second, &first]] {
            let seen = run(&world, &binds, script);
            assert!(
                seen.contains("outer\n") && seen.contains("\nseen\n") && seen.contains("inner\n"),
                "{seen}"
            );
            assert!(seen.ends_with(words) && !seen.contains("hidden"), "{seen}");
            let _ = fs::remove_file(world.path("other/w"));
            let _ = fs::remove_file(world.path("outer/w"));
        }
    }
}

#[test]
fn a_missing_target_in_a_bind_is_never_made_on_the_host() {
    let world = World::new();
    world.file("outer/file", "outer\n");
    world.file("other/seen", "inner\n");
    let (outer, other) =
        (world.path("outer").display().to_string(), world.path("other").display().to_string());
    let before = world.snapshot();
    // Read-only: the directory appears over the bind.
    let seen = run(
        &world,
        &[&format!("{outer}:/data"), &format!("{other}:/data/new/deep")],
        "cat /data/file /data/new/deep/seen",
    );
    assert_eq!(seen, "outer\ninner");
    world.assert_nothing_left(&before);
    // Writable: refused, and nothing was made. As a control, bubblewrap makes it.
    refused(&world, &[&format!("{outer}:/data:rw"), &format!("{other}:/data/new/deep")], &["/data/new"]);
    let mut bwrap = world.command("bwrap");
    bwrap.args([
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--bind",
        &outer,
        "/data",
    ]);
    stdout(&bwrap.args(["--bind", &other, "/data/new/deep", "/usr/bin/true"]).output().unwrap());
    assert!(world.path("outer/new/deep").is_dir());
}

#[test]
fn targets_that_are_baileys_own_or_named_twice_are_refused() {
    let world = World::new();
    let dir = world.directory("dir").display().to_string();
    let other = world.directory("other").display().to_string();
    for target in ["/", "/proc", "/proc/sys", "/dev", "//", "/./"] {
        refused(&world, &[&format!("{dir}:{target}")], &["cannot bind"]);
    }
    refused(
        &world,
        &[&format!("{dir}:/data"), &format!("{other}:/data")],
        &["another bind has the same target"],
    );
    refused(
        &world,
        &[&format!("{dir}:/data"), &format!("{other}:/data/.")],
        &["another bind has the same target"],
    );
    for bad in ["relative", "/a:relative", "/a:/b/../c", "/a:/b:wr", "", "/a:/b:ro:x"] {
        let output = launch(&world, &[], &[bad], "true").output().unwrap();
        assert_refused(&output, 125, &[]);
    }
}

#[test]
fn hostile_sources_are_refused() {
    let world = World::new();
    symlink("loop-b", world.path("loop-a")).unwrap();
    symlink("loop-a", world.path("loop-b")).unwrap();
    symlink("/", world.path("to-root")).unwrap();
    symlink("/proc/self", world.path("to-proc")).unwrap();
    let at = |name: &str| world.path(name).display().to_string();
    let cgroup = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroup = cgroup
        .lines()
        .find(|line| line.contains(" - cgroup"))
        .and_then(|line| line.split(' ').nth(4))
        .unwrap();
    for (source, word) in [
        (at("missing"), "ENOENT"),
        (at("loop-a"), "ELOOP"),
        (at("to-root"), "root"),
        ("/".to_owned(), "root"),
        ("/usr/..".to_owned(), "root"),
        ("/proc".to_owned(), "proc"),
        ("/proc/self".to_owned(), "proc"),
        ("/proc/sys/kernel".to_owned(), "proc"),
        (at("to-proc"), "proc"),
        ("/sys".to_owned(), "sysfs"),
        ("/sys/kernel".to_owned(), "sysfs"),
        (cgroup.to_owned(), "control group"),
    ] {
        refused(&world, &[&format!("{source}:/data")], &[word]);
    }
    // A magic link to a directory that is gone: what a descriptor or cwd of the pilot may be.
    let gone = world.directory("gone");
    let mut in_gone = launch(&world, &[], &["/proc/self/cwd:/data"], "ls /data");
    in_gone.current_dir(&gone);
    let mut shell = support::behind("/bin/sh", &["-c", "rmdir \"$PWD\"; exec \"$@\"", "sh"], &in_gone);
    assert_refused(&shell.output().unwrap(), 125, &["/proc/self/cwd"]);
    // Without the deletion the same option works.
    fs::create_dir(&gone).unwrap();
    fs::write(gone.join("f"), "").unwrap();
    assert_eq!(stdout(&in_gone.output().unwrap()), "f");
}

#[test]
fn a_source_that_is_swapped_is_the_judged_one_or_refused() {
    let world = World::new();
    world.file("a/which", "a\n");
    world.file("b/which", "b\n");
    let (a, b) = (world.path("a"), world.path("b"));
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let (inode_a, inode_b) = (inode(&a), inode(&b));
    // Which of the two the source is changes all the time, also from directory to symbolic link.
    symlink("/etc", world.path("link")).unwrap();
    for other in [b.clone(), world.path("link")] {
        let racing = Racing::swap(&a, &other);
        let end = Instant::now() + Duration::from_secs(4);
        let (mut shown, mut refusals) = (0, 0);
        while Instant::now() < end {
            let bind = format!("{}:/data", a.display());
            let mut command = launch(&world, &[], &[&bind], "stat -c %i /data; cat /data/which 2>/dev/null");
            let output = command.output().unwrap();
            match code(&output) {
                0 => {
                    // One directory in itself: its inode and its content belong together.
                    let seen = stdout(&output);
                    assert!([format!("{inode_a}\na"), format!("{inode_b}\nb")].contains(&seen), "{seen}");
                    shown += 1;
                }
                125 => {
                    assert_refused(&output, 125, &[]);
                    refusals += 1;
                }
                // /etc was judged and shown: it has no `which`.
                1 if other.ends_with("link") => shown += 1,
                code => panic!("{code}: {}", text(&output.stderr)),
            }
        }
        drop(racing);
        assert!(shown > 0, "{shown} shown, {refusals} refused");
        // Where the race left them does not matter for the next round.
        if inode(&a) != inode_a {
            nix::fcntl::renameat2(
                nix::fcntl::AT_FDCWD,
                &a,
                nix::fcntl::AT_FDCWD,
                &other,
                nix::fcntl::RenameFlags::RENAME_EXCHANGE,
            )
            .unwrap();
        }
    }
    world.assert_no_trace();
}

#[test]
fn the_log_is_not_handed_over() {
    let world = World::new();
    let home = world.path("home").display().to_string();
    let whole = world.dir.display().to_string();
    // The log exists.
    stdout(&world.shell(&[], "true"));
    for bind in [&home, &whole] {
        let output = launch(&world, &[], &[&format!("{bind}:rw")], "echo ran").output().unwrap();
        assert_refused(&output, 125, &["the audit log"]);
        let output = launch(&world, &["--workdir", bind], &[], "echo ran").output().unwrap();
        assert_refused(&output, 125, &["the audit log"]);
    }
    let log = world.log_dir().display().to_string();
    // Read-only it is covered, wherever it appears. A control: it is there outside.
    assert!(fs::read_dir(&log).unwrap().count() > 0);
    let look = |place: &str| format!("ls -A {place} | wc -l; find / -name '*.ndjson' 2>/dev/null; true");
    assert_eq!(run(&world, &[&home], &look(&log)), "0");
    assert_eq!(run(&world, &[&format!("{home}:/data")], &look("/data/.local/state/bailey/*")), "0");
    for bind in [format!("{log}:/data"), log.clone(), format!("{log}:/data:rw")] {
        let output = launch(&world, &[], &[&bind], "echo ran").output().unwrap();
        assert_refused(&output, 125, &["bailey's own"]);
    }
    world.assert_chain();
}

#[test]
fn a_log_that_does_not_exist_yet_is_not_handed_over_either() {
    for mode in ["ro", "rw"] {
        let world = World::new();
        let home = world.path("home").display().to_string();
        let script = "sleep 0.2; find / -name '*.ndjson' 2>/dev/null | wc -l";
        let output = launch(&world, &[], &[&format!("{home}:/data:{mode}")], script).output().unwrap();
        if mode == "rw" {
            assert_refused(&output, 125, &["the audit log"]);
        } else {
            assert_eq!(stdout(&output), "0");
        }
    }
}

#[test]
fn the_status_file_is_the_pilots() {
    let world = World::new();
    world.file("dir/seen", "x");
    let dir = world.path("dir").display().to_string();
    let status = format!("{dir}/status.json");
    let options = ["--status-file", status.as_str()];
    let output = launch(&world, &options, &[&format!("{dir}:/data:rw")], "echo ran").output().unwrap();
    assert_refused(&output, 125, &["the status file"]);
    fs::write(&status, "earlier").unwrap();
    let seen = launch(&world, &options, &[&format!("{dir}:/data")], "cat /data/status.json; ls /data")
        .output()
        .unwrap();
    assert_eq!(stdout(&seen), "seen\nstatus.json");
    assert!(fs::read_to_string(&status).unwrap().contains("\"exit_code\""));
}

// names.md: /etc/bailey, /var/log/bailey, ... These belong to root, so the test puts them into a mount namespace.
#[test]
fn baileys_own_places_are_never_visible() {
    let world = World::new();
    world.file("etc/bailey/bailey.toml", "");
    world.file("etc/hostname", "x\n");
    symlink(world.path("etc/bailey"), world.path("alias")).unwrap();
    world.directory("always/sub");
    let etc = world.path("etc").display().to_string();
    let set_up = format!("mount --bind {etc} /etc; exec $back \"$@\"");
    let with = |binds: &[&str], script: &str, config: &str| {
        let mut command = launch(&world, &[], binds, script);
        command.env("BAILEY_CONFIG", world.file("test.toml", config));
        mounted("private", &set_up, &command).output().unwrap()
    };
    let mut control = world.command("ls");
    control.arg("/etc/bailey");
    assert_eq!(stdout(&mounted("private", &set_up, &control).output().unwrap()), "bailey.toml");

    assert_eq!(stdout(&with(&["/etc:/data"], "ls /data; ls /data/bailey", "")), "bailey\nhostname");
    // Also when the place is itself a link to somewhere else.
    world.file("config/bailey.toml", "");
    fs::remove_dir_all(world.path("etc/bailey")).unwrap();
    symlink(world.path("config"), world.path("etc/bailey")).unwrap();
    let whole = format!("{}:/data", world.path("config/..").display());
    assert_eq!(stdout(&with(&[&whole], "ls -A /data/config", "")), "");
    for bind in ["/etc/bailey:/data", "/etc/bailey", "/etc/bailey/bailey.toml:/data"] {
        assert_refused(&with(&[bind], "echo ran", ""), 125, &["bailey's own"]);
    }
}

#[test]
fn a_configured_link_does_not_lead_to_baileys_own_places() {
    let world = World::new();
    world.file("etc/bailey/bailey.toml", "");
    symlink("/etc/bailey", world.path("alias")).unwrap();
    let etc = world.path("etc").display().to_string();
    let set_up = format!("mount --bind {etc} /etc; exec $back \"$@\"");
    for key in ["always", "host"] {
        let config = format!(
            "[root]\n{key} = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"{}\"]\nimage_etc = []\n",
            world.path("alias").display()
        );
        let mut command = if key == "host" {
            let mut command = world.exec::<&str>(&[]);
            command.args(["--", "/bin/sh", "-c"]);
            command
        } else {
            let mut command = world.exec(&["--image"]);
            command.arg(image()).args(["--", "/bin/sh", "-c"]);
            command
        };
        command
            .arg("find / -name bailey.toml 2>/dev/null | wc -l")
            .env("BAILEY_CONFIG", world.file("test.toml", &config));
        let output = mounted("private", &set_up, &command).output().unwrap();
        assert!(code(&output) == 125 || stdout(&output) == "0", "{key}: {}", text(&output.stdout));
    }
}

/// Every name of a pilot's directory that traceability asks to withhold.
const PILOT_FILES: [&str; 20] = [
    "proxy",
    "myproxy",
    "pilot.cfg",
    "tmp_refreshed_token",
    ".job.ad",
    ".machine.ad",
    ".chirp.config",
    "my.idtoken",
    "x509up_u1234",
    "bt_u1234",
    "vt_u1234",
    "tokencert_1234.pem",
    "tokenkey_1234.pem",
    ".rucio_pilot",
    "krb5cc_1234",
    "oidc-forward-x",
    ".condor_creds/a",
    "tokens.d/a",
    "idtokens/a",
    ".globus/userkey.pem",
];

/// And those that a home directory has: a pilot's, and the ones of a person who fetches images or data.
const HOME_FILES: [&str; 23] = [
    ".ssh/id",
    ".oidc-agent/a",
    ".condor/user_config",
    ".config/oidc-agent/a",
    ".netrc",
    ".git-credentials",
    ".vault-token",
    ".s3cfg",
    ".boto",
    ".pgpass",
    ".aws/credentials",
    ".azure/msal_token_cache.json",
    ".docker/config.json",
    ".gnupg/private-keys-v1.d/a.key",
    ".kube/config",
    ".config/gcloud/credentials.db",
    ".config/rclone/rclone.conf",
    ".config/gh/hosts.yml",
    ".config/containers/auth.json",
    ".apptainer/docker-config.json",
    ".apptainer/remote.yaml",
    ".apptainer/keys/pgp-secret",
    ".singularity/docker-config.json",
];

#[test]
fn the_working_directory_is_handed_over_without_the_pilots_files() {
    let world = World::new();
    for name in PILOT_FILES.iter().chain(&HOME_FILES) {
        world.file(&format!("work/{name}"), "hunter2\n");
    }
    // What lies beside them stays.
    world.file("work/.config/matplotlibrc", "setting\n");
    world.file("work/.apptainer/cache/blob", "cached\n");
    world.file("work/input", "data\n");
    let work = world.path("work").display().to_string();
    let options = ["--workdir", work.as_str()];
    let script = "pwd; echo $HOME; cat input .config/matplotlibrc .apptainer/cache/blob; echo out >result; mkdir sub; cat $(find . -type f) 2>/dev/null | grep -c hunter2; find . -type f | wc -l";
    let control = stdout(
        &world
            .command("/bin/sh")
            .args(["-c", "cat $(find . -type f) | grep -c hunter2"])
            .current_dir(&work)
            .output()
            .unwrap(),
    );
    assert_eq!(control, (PILOT_FILES.len() + HOME_FILES.len()).to_string());
    let before = world.snapshot().len();
    let output = launch(&world, &options, &[], script).output().unwrap();
    let seen = text(&output.stdout);
    assert!(
        seen.starts_with(&format!("{work}\n{work}\ndata\nsetting\ncached\n0\n")),
        "{seen}{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_to_string(world.path("work/result")).unwrap(), "out\n");
    assert_eq!(world.snapshot().len(), before + 2, "the result and sub, nothing else");
    // They cannot be replaced or uncovered either.
    let script = "rm -f proxy 2>/dev/null || echo kept; mv .ssh x 2>/dev/null || echo kept; (echo x >proxy) 2>/dev/null || echo kept; umount proxy 2>/dev/null || echo kept";
    assert_eq!(stdout(&launch(&world, &options, &[], script).output().unwrap()), "kept\nkept\nkept\nkept");
    assert_eq!(fs::read_to_string(world.path("work/proxy")).unwrap(), "hunter2\n");
}

#[test]
fn a_link_named_as_a_credential_is_covered_where_it_leads_to() {
    let world = World::new();
    world.file("work/real-proxy", "hunter2\n");
    symlink("real-proxy", world.path("work/proxy")).unwrap();
    world.file("outside/token", "hunter2\n");
    symlink(world.path("outside/token"), world.path("work/x509up_u7")).unwrap();
    let work = world.path("work").display().to_string();
    let outside = world.path("outside").display().to_string();
    let script = format!("cat proxy real-proxy x509up_u7 {outside}/token 2>/dev/null | wc -c");
    let output = launch(&world, &["--workdir", &work], &[&outside], &script).output().unwrap();
    assert_eq!(stdout(&output), "0");
    // A hard link of another name is another file to bailey: documented in docs/threat-model.md, not prevented.
    fs::hard_link(world.path("work/real-proxy"), world.path("work/innocent")).unwrap();
    let output = launch(&world, &["--workdir", &work], &[], "cat innocent").output().unwrap();
    assert_eq!(stdout(&output), "hunter2");
}

#[test]
fn a_proxy_that_the_environment_names_is_covered_unless_bound_itself() {
    let world = World::new();
    world.file("dir/p", "hunter2\n");
    world.file("dir/other", "data\n");
    let dir = world.path("dir").display().to_string();
    let proxy = format!("{dir}/p");
    let read = |binds: &[&str], options: &[&str]| {
        let mut command = launch(
            &world,
            options,
            binds,
            &format!("cat /data/p {proxy} 2>/dev/null; cat /data/other; echo $X509_USER_PROXY"),
        );
        command.env("X509_USER_PROXY", &proxy);
        stdout(&command.output().unwrap())
    };
    assert_eq!(read(&[&format!("{dir}:/data")], &[]), "data");
    let both = [format!("{dir}:/data"), proxy.clone()];
    let seen = read(&[&both[0], &both[1]], &["--pass-env", "X509_USER_PROXY"]);
    assert!(seen.contains("hunter2") && seen.ends_with(&proxy), "{seen}");
    // Passing the variable without the file is refused.
    let mut command = launch(&world, &["--pass-env", "X509_USER_PROXY"], &[], "true");
    command.env("X509_USER_PROXY", &proxy);
    assert_refused(&command.output().unwrap(), 125, &["X509_USER_PROXY"]);
}

#[test]
fn credentials_in_tmp_are_covered_when_tmp_is_bound() {
    let world = World::new();
    let uid = nix::unistd::geteuid();
    // A /tmp of the test's own: the names are fixed, and the real one is everybody's.
    world.file(&format!("tmp/x509up_u{uid}"), "hunter2\n");
    world.file(&format!("tmp/bt_u{uid}"), "hunter2\n");
    world.file("tmp/x", "data\n");
    let set_up = format!("mount --bind {} /tmp; exec $back \"$@\"", world.path("tmp").display());
    let look = format!("cat /data/x509up_u{uid} /data/bt_u{uid} /data/x");
    let mut control = world.command("/bin/sh");
    control.args(["-c", &look.replace("/data", "/tmp")]);
    assert!(stdout(&mounted("private", &set_up, &control).output().unwrap()).contains("hunter2"));
    let command = launch(&world, &[], &["/tmp:/data"], &look);
    assert_eq!(stdout(&mounted("private", &set_up, &command).output().unwrap()), "data");
}

#[test]
fn hostile_working_directories_are_refused() {
    let world = World::new();
    symlink("loop-b", world.path("loop-a")).unwrap();
    symlink("loop-a", world.path("loop-b")).unwrap();
    let file = world.file("file", "x");
    for (dir, word) in [
        (world.path("missing"), "ENOENT"),
        (world.path("loop-a"), "ELOOP"),
        (file, "not a directory"),
        ("/".into(), "root"),
        ("/proc/self".into(), "proc"),
        ("/sys".into(), "sysfs"),
    ] {
        let before = world.snapshot();
        let output = launch(&world, &["--workdir", dir.to_str().unwrap()], &[], "echo ran").output().unwrap();
        eprintln!("{dir:?}");
        assert_refused(&output, 125, &[word]);
        world.assert_nothing_left(&before);
    }
    // A link on the way is the directory that it leads to.
    let real = world.directory("real");
    symlink(&real, world.path("link")).unwrap();
    let output =
        launch(&world, &["--workdir", world.path("link").to_str().unwrap()], &[], "pwd -P").output().unwrap();
    assert_eq!(stdout(&output), real.display().to_string());
}

/// The same directory under another name, by a mount of it: as a home behind an automounter may be.
#[test]
fn the_log_is_recognised_under_another_name() {
    let world = World::new();
    assert_eq!(code(&world.shell(&[], "true")), 0); // now there is a log
    let (alias, inner) = (world.directory("alias"), world.directory("inner"));
    let set_up = format!(
        "mount --bind {home} {alias}; mount --bind {log} {inner}; exec $back \"$@\"",
        home = world.path("home").display(),
        alias = alias.display(),
        log = world.log_dir().display(),
        inner = inner.display(),
    );
    let run = |bind: String, script: &str| {
        let mut launch = world.exec(&["--bind", &bind, "--image"]);
        launch.arg(image()).args(["--", "/bin/sh", "-c", script]);
        mounted("private", &set_up, &launch).output().unwrap()
    };
    let find = "find /data -name '*.ndjson' | wc -l";
    let mut control = world.command("sh");
    control.args(["-c", &format!("find {} -name '*.ndjson' | wc -l", alias.display())]);
    assert_eq!(stdout(&mounted("private", &set_up, &control).output().unwrap()), "1");

    assert_refused(&run(format!("{}:/data:rw", alias.display()), find), 125, &["audit log"]);
    assert_refused(&run(format!("{}:/data", inner.display()), find), 125, &["bailey's own"]);
    assert_eq!(stdout(&run(format!("{}:/data", alias.display()), find)), "0");
}

/// What mountinfo says of each mount but its numbers: mount point, options, whether it follows another, type.
fn mounts(text: &str) -> Vec<String> {
    let mount = |line: &str| {
        let (own, of_kind) = line.split_once(" - ").unwrap();
        let own: Vec<&str> = own.split(' ').collect();
        let follows = own[6..].iter().any(|tag| tag.starts_with("master:"));
        format!("{} {} {follows} {}", own[4], own[5], of_kind.split(' ').next().unwrap())
    };
    let mut found: Vec<String> = text.lines().map(mount).collect();
    found.sort();
    found
}

/// A kernel before 5.12 has no mount_setattr: what is then done mount by mount must come to the same.
#[test]
fn without_mount_setattr_every_mount_has_the_same_attributes() {
    let world = World::new();
    for dir in ["tree/rw", "tree/ro", "tree/a b"] {
        world.directory(dir);
    }
    world.file("file", "x");
    world.file("tree/node", "x");
    let tree = world.path("tree").display().to_string();
    let set_up = format!(
        "mount -t tmpfs rw {tree}/rw; mkdir {tree}/rw/deep; mount -t tmpfs deep {tree}/rw/deep; \
         mount -t tmpfs -o ro,nodev ro {tree}/ro; mount -t tmpfs -o noexec,noatime space '{tree}/a b'; \
         mount --bind /dev/null {tree}/node; exec $back \"$@\""
    );
    let file = world.path("file").display().to_string();
    let binds = [format!("{tree}:/data"), format!("{tree}:/own:rw"), format!("{file}:/data-file")];
    let binds: Vec<&str> = binds.iter().map(String::as_str).collect();
    let followed = world.config(&format!("[root]\nalways = [\"{tree}\"]\nlate_mounts = [\"{tree}\"]\n"));
    for config in [None, Some(followed)] {
        let look = |missing: bool| {
            let mut command = launch(&world, &[], &binds, "cat /proc/self/mountinfo");
            if let Some(config) = &config {
                command.env("BAILEY_CONFIG", config);
            }
            if missing {
                let inject = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=mount_setattr", "-e"];
                let inject = [&inject[..], &["inject=mount_setattr:error=ENOSYS"]].concat();
                command = support::behind("strace", &inject, &command);
            }
            mounts(&stdout(&mounted("shared", &set_up, &command).output().unwrap()))
        };
        let usual = look(false);
        let deep = |point: &str| usual.iter().find(|line| line.starts_with(point)).unwrap().clone();
        assert!(deep("/data/rw/deep ").contains(" ro,nosuid,nodev"), "{usual:#?}");
        assert!(deep("/own/rw/deep ").contains(" rw,nosuid,nodev"), "{usual:#?}");
        assert_eq!(usual.iter().any(|line| line.contains(" true ")), config.is_some(), "{usual:#?}");
        assert_eq!(look(true), usual);
    }
}
