//! The walls, one attack after the other. Each test first shows that the attack works without them. The numbers are rows of
//! docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{
    ATTACK, Attack, Guard, World, assert_refused, behind, code, image, mounted, stdout, text, wait_for,
};

/// What a plain shell of the pilot sees.
fn plain(world: &World, script: &str) -> String {
    stdout(&world.command("/bin/sh").args(["-c", script]).output().unwrap())
}

/// What the payload's shell sees.
fn inside(world: &World, script: &str) -> String {
    stdout(&world.shell(&[], script))
}

/// Under bubblewrap with its usual options, on the host's root: what a peer leaves open.
fn peer(world: &World, options: &[&str], command: &[&str]) -> String {
    let mut bwrap = world.command("bwrap");
    bwrap.args([
        "--unshare-user",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]);
    stdout(&bwrap.args(options).args(command).output().unwrap())
}

/// A configuration without the filter of system calls, to see the wall behind it.
fn no_filter(world: &World) -> PathBuf {
    world.file("no-filter.toml", "[sandbox]\nseccomp = \"off\"\n")
}

/// `NAME: VALUE` lines.
fn values(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

// P1
#[test]
fn inherited_descriptors_are_closed() {
    let world = World::new();
    let attack = Attack::new(&world);
    let secret = world.directory("secret");
    let leak = |command: &Command| {
        let program = attack.0.to_str().unwrap();
        stdout(&behind(program, &["exec-leak", secret.to_str().unwrap(), "--"], command).output().unwrap())
    };
    let mut control = world.command(&attack.0);
    control.arg("fds");
    assert_eq!(leak(&control), "fds: 0 1 2 3 77 251 500 1000");

    let mut launch = attack.exec(&world, &[]);
    launch.args(["--", ATTACK, "fds", ",", "ls", "/proc/self/fd/500", ",", "ls", "/proc/self/fd/77"]);
    assert_eq!(leak(&launch), "fds: 0 1 2\n/proc/self/fd/500: ENOENT\n/proc/self/fd/77: ENOENT");
}

// P2
#[test]
fn the_current_directory_is_not_the_pilots() {
    let world = World::new();
    world.file("pilot-dir/secret", "x");
    let script = "pwd -P; cat secret ../pilot-dir/secret 2>&1; readlink /proc/self/cwd; ls -d ../../../..";
    let dir = world.path("pilot-dir");
    let control = stdout(&world.command("/bin/sh").args(["-c", script]).current_dir(&dir).output().unwrap());
    assert!(control.contains("pilot-dir") && control.contains('x'), "{control}");

    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--", "/bin/sh", "-c", script]).current_dir(&dir);
    let seen = stdout(&launch.output().unwrap());
    assert!(seen.starts_with("/srv\n") && seen.contains("\n/srv\n"), "{seen}");
    assert!(!seen.contains("world-") && !seen.contains("unreachable"), "{seen}");
}

// P4
#[test]
fn blocked_and_ignored_signals_are_reset() {
    let world = World::new();
    let attack = Attack::new(&world);
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let hostile = |command: &Command| {
        stdout(&behind(attack.0.to_str().unwrap(), &["exec-signals", "--"], command).output().unwrap())
    };
    let mut control = world.command("/bin/sh");
    control.args(["-c", script]);
    let seen = hostile(&control);
    let seen = values(&seen);
    assert_ne!((seen["SigBlk"], seen["SigIgn"]), ("0000000000000000", "0000000000000000"));

    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--", "/bin/sh", "-c", script]);
    let seen = hostile(&launch);
    assert_eq!(seen, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
}

// P5
#[test]
fn the_umask_is_the_sites() {
    let world = World::new();
    let open = |command: &Command| {
        stdout(&behind("/bin/sh", &["-c", "umask 000; exec \"$@\"", "sh"], command).output().unwrap())
    };
    let mut control = world.command("/bin/sh");
    control.args(["-c", "umask"]);
    assert_eq!(open(&control), "0000");
    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--", "/bin/sh", "-c", "umask; touch f; stat -c %a f"]);
    assert_eq!(open(&launch), "0022\n644");
    launch.env("BAILEY_CONFIG", world.file("bailey.toml", "[sandbox]\numask = \"077\"\n"));
    assert_eq!(open(&launch), "0077\n600");
}

// P6, P7
#[test]
fn no_core_file_is_written() {
    let world = World::new();
    let attack = Attack::new(&world);
    let (mine, theirs) = (world.directory("mine"), world.directory("theirs"));
    let core = |dir: &Path| fs::read_dir(dir).unwrap().count();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let script = format!("ulimit -c unlimited; {} abort", attack.0.display());
    let status = world.command("/bin/sh").args(["-c", &script]).current_dir(&mine).status().unwrap();
    assert!(!status.success());
    if !pattern.starts_with(['|', '/']) {
        assert_eq!(core(&mine), 1, "the control left a core file, as core_pattern says");
    }
    assert_ne!(plain(&world, "ulimit -Hc"), "0");

    let workdir = ["--workdir", theirs.to_str().unwrap()];
    let script = "ulimit -Hc; ulimit -Sc; ulimit -c unlimited 2>/dev/null || echo kept; \
                  (echo x >/proc/sys/kernel/core_pattern) 2>/dev/null || echo kept; /tmp/attack abort; echo $?";
    let output = attack.exec(&world, &workdir).args(["--", "/bin/sh", "-c", script]).output().unwrap();
    assert_eq!(stdout(&output), "0\n0\nkept\nkept\n134");
    assert_eq!(core(&theirs), 0);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

// P9, P14
#[test]
fn no_capability_is_left_and_none_comes_back() {
    let world = World::new();
    let attack = Attack::new(&world);
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; cat /proc/self/setgroups";
    // A user namespace alone gives its maker every capability in it.
    let bare = stdout(&world.command("unshare").args(["-Ur", "/bin/sh", "-c", script]).output().unwrap());
    assert_ne!(values(&bare)["CapEff"], "0000000000000000");
    assert_eq!(plain(&world, "cat /proc/self/setgroups"), "allow");
    assert_ne!(values(&plain(&world, script))["CapBnd"], "0000000000000000");

    let seen = inside(&world, script);
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(values(&seen)[name], "0000000000000000", "{name}");
    }
    assert_eq!(values(&seen)["NoNewPrivs"], "1");
    assert!(seen.ends_with("deny"), "{seen}");

    // NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE set and locked, KEEP_CAPS off and locked.
    let bare =
        stdout(&world.command("unshare").arg("-Ur").arg(&attack.0).arg("privileges").output().unwrap());
    assert_eq!(values(&bare)["set-securebits"], "ok");
    let seen = attack.inside(&world, &[], &["privileges"]);
    let seen = values(&seen);
    assert_eq!((seen["securebits"], seen["no_new_privs"]), ("0xef", "1"));
    for name in ["setgroups", "ambient", "set-securebits"] {
        assert_eq!(seen[name], "EPERM", "{name}");
    }
    assert_ne!(seen["setuid"], "ok");
}

// P9, P10
#[test]
fn a_setuid_program_gains_nothing() {
    let world = World::new();
    let su = image().join("usr/bin/su");
    let meta = fs::metadata(&su).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta) & 0o4000, 0o4000, "su of the image is setuid");
    // su waits for a password; meanwhile the kernel shows as whom.
    let moments =
        [3000, 700, 2000].map(|ms| support::patience(std::time::Duration::from_millis(ms)).as_secs_f32());
    let script = |su: &str| {
        let [holds, begins, new] = moments;
        format!(
            "(sleep {holds} | {su} $(id -un) >/dev/null 2>&1) & sleep {begins}; \
                 for p in /proc/[0-9]*; do {{ read name <$p/comm; }} 2>/dev/null; [ \"$name\" = su ] && [ \"$(stat -c %Y $p)\" -ge $(($(date +%s)-{new})) ] \
                 && grep -E '^(Uid|CapEff)' $p/status; done; true"
        )
    };
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/usr/bin/su").unwrap());
    assert_eq!(owner, 0, "the host's su is root's");
    let control = plain(&world, &script("/usr/bin/su"));
    assert!(control.contains("\t0\t0"), "outside, su becomes root: {control}");

    let seen = inside(&world, &script("/usr/bin/su"));
    let uid = nix::unistd::geteuid();
    assert!(seen.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{seen}");
    assert!(seen.contains("CapEff:\t0000000000000000") && !seen.contains("\t0\t"), "{seen}");
}

// P10
#[test]
fn every_mount_is_nosuid_and_only_scratch_is_writable() {
    let world = World::new();
    let bound = world.directory("bound");
    let bind = format!("{}:/data:rw", bound.display());
    assert!(plain(&world, "grep ' / / ' /proc/self/mountinfo | head -1").find("nosuid").is_none());
    for output in [
        world.shell(&["--bind", &bind], "cat /proc/self/mountinfo"),
        world.host_shell(&["--bind", &bind.replace("/data", "/srv/data")], "cat /proc/self/mountinfo"),
    ] {
        let table = stdout(&output);
        let mut writable = Vec::new();
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let (point, options) = (fields[4], fields[5].split(',').collect::<Vec<_>>());
            assert!(options.contains(&"nosuid"), "{line}");
            let device = point.starts_with("/dev/");
            assert!(options.contains(&"nodev") != device, "{line}");
            assert!(!fields[6].contains("shared") && !line.contains(" master:"), "{line}");
            if options.contains(&"rw") && !device {
                writable.push(point.to_owned());
            }
        }
        writable.sort();
        let data = if table.contains(" /srv/data ") { "/srv/data" } else { "/data" };
        // /dev and /run are directories of the private tmpfs, like /tmp: nothing outside can be reached through them.
        let mut expected = vec![data, "/dev", "/proc", "/run", "/srv", "/tmp", "/var/tmp"];
        expected.sort_unstable();
        assert_eq!(writable, expected);
    }
}

// P13
#[test]
fn the_personality_is_reset() {
    let world = World::new();
    let setarch = |command: &Command| stdout(&behind("setarch", &["-R"], command).output().unwrap());
    let mut control = world.command("cat");
    control.arg("/proc/self/personality");
    assert_eq!(setarch(&control), "00040000");
    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--", "/bin/cat", "/proc/self/personality"]);
    assert_eq!(setarch(&launch), "00000000");
}

// P11
#[test]
fn a_hostile_environment_stays_outside() {
    let world = World::new();
    let names = [
        "LD_PRELOAD_X",
        "LD_LIBRARY_PATH",
        "GCONV_PATH",
        "BASH_ENV",
        "ENV",
        "PERL5OPT",
        "PYTHONPATH",
        "IFS",
        "BEARER_TOKEN",
        "X509_USER_PROXY",
        "APPTAINER_BIND",
        "SINGULARITYENV_X",
        "KRB5CCNAME",
        "SSH_AUTH_SOCK",
        "_CONDOR_CREDS",
    ];
    let hostile = |mut command: Command| {
        command.envs(names.map(|name| (name, "hostile")));
        command.envs((0..200).map(|n| (format!("V{n}"), "hostile")));
        stdout(&command.output().unwrap())
    };
    assert_eq!(hostile(world.command("/usr/bin/env")).matches("hostile").count(), 215);
    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--", "/usr/bin/env"]);
    let env = hostile(launch);
    let mut seen: Vec<&str> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["BAILEY_ID", "HOME", "LOGNAME", "PATH", "TMPDIR", "USER"]);
}

// P12
#[test]
fn values_of_env_and_the_pilots_command_line_are_hidden() {
    let world = World::new();
    let mark = format!("mark-{}", std::process::id());
    let seen_by_all = |pid: u32| text(&fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    let mut told = world.command("/bin/sh");
    told.args(["-c", "read x; :", "hunter2"]).stdin(Stdio::piped());
    let told = Guard(told.spawn().unwrap());
    wait_for("the control", || seen_by_all(told.0.id()).contains("hunter2"));

    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--env", "SECRET=hunter2", "--vo", &mark, "--", "/bin/sh", "-c"]);
    launch.arg("tr '\\0' ' ' </proc/1/cmdline; echo; echo $SECRET; sleep 30").stdout(Stdio::piped());
    let mut guard = Guard(launch.spawn().unwrap());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(guard.0.stdout.take().unwrap()));
    let init = lines.next().unwrap().unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "hunter2");
    assert!(!init.contains("hunter2") && !init.contains(&mark), "{init}");
    let outside = seen_by_all(guard.0.id());
    assert!(outside.contains(&mark) && !outside.contains("hunter2"), "{outside}");
}

// F4, F10, S2
#[test]
fn proc_shows_only_the_payloads_own() {
    let world = World::new();
    let pilot = Guard(world.command("sleep").arg("30").env("SECRET", "hunter2").spawn().unwrap());
    let pid = pilot.0.id();
    let look = format!(
        "grep -azs SECRET /proc/{pid}/environ | tr '\\0' '\\n'; set -- /proc/[0-9]*; echo $#; stat -f -c %T /proc"
    );
    let control = plain(&world, &look);
    assert!(control.contains("hunter2"), "{control}");
    assert!(control.lines().nth(1).is_some_and(|n| n.parse::<u32>().unwrap() > 5), "{control}");
    // init and the shell
    let seen = stdout(&world.shell(&[], &look));
    assert_eq!(seen, "2\nproc");
    // Also with the host's root.
    let seen = stdout(&world.host_shell(&[], &look));
    assert_eq!(seen, "2\nproc");
}

// F5, F11
#[test]
fn dev_is_minimal_and_real() {
    let world = World::new();
    // 13 are a payload's; a container has not many more.
    assert!(plain(&world, "ls /dev | wc -l").parse::<u32>().unwrap() > 13);
    let script = "cd /dev; ls -A | tr '\\n' ' '; echo; stat -c '%n %F %t:%T' null zero full random urandom tty; ls -A pts shm; \
        echo x >null; head -c 3 zero | od -An -tx1; (echo x >full) 2>/dev/null || echo full; \
        readlink fd stdin ptmx";
    let expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero \n\
        null character special file 1:3\nzero character special file 1:5\nfull character special file 1:7\n\
        random character special file 1:8\nurandom character special file 1:9\ntty character special file 5:0\n\
        pts:\nptmx\n\nshm:\n 00 00 00\nfull\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx";
    assert_eq!(stdout(&world.shell(&[], script)), expected);
    assert_eq!(stdout(&world.host_shell(&[], script)), expected);
}

// F6
#[test]
fn a_read_only_bind_is_so_all_the_way_down() {
    let world = World::new();
    world.directory("data/a/b");
    world.directory("data/c");
    let data = world.path("data");
    let set_up = format!(
        "D={}; mount -t tmpfs x $D/a; mkdir $D/a/b $D/a/d; mount -t tmpfs y $D/a/b; mount --bind $D/c $D/a/d; exec $back \"$@\"",
        data.display()
    );
    let writes = format!(
        "for d in . a a/b a/d c; do touch {}/$d/new 2>/dev/null && echo $d written; done; true",
        data.display()
    );
    let mut control = world.command("/bin/sh");
    control.args(["-c", &writes]);
    assert_eq!(stdout(&mounted("private", &set_up, &control).output().unwrap()).lines().count(), 5);

    let run = |mode: &str| {
        let mut launch = world.exec(&["--image"]);
        launch.arg(image()).arg("--bind").arg(format!("{}:{mode}", data.display()));
        launch.args(["--", "/bin/sh", "-c", &writes]);
        let output = mounted("private", &set_up, &launch).output().unwrap();
        stdout(&output)
    };
    assert_eq!(run("rw").lines().count(), 5);
    assert_eq!(run("ro"), "");
    world.assert_no_trace();
}

/// Runs `bailey` in a mount namespace with shared propagation while `meanwhile` mounts; the payload waits for it.
fn during(world: &World, set_up: &str, meanwhile: &str, options: &[&str], look: &str) -> String {
    let meet = world.directory("meet");
    let payload = format!(
        "touch {0}/ready; n=0; while [ ! -e {0}/go ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; {look}",
        meet.display()
    );
    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(options).arg("--bind").arg(format!("{}:rw", meet.display()));
    launch.args(["--", "/bin/sh", "-c", &payload]).env("BAILEY_CONFIG", world.path("bailey.toml"));
    let script = format!(
        "{set_up}; $back \"$@\" & n=0; while [ ! -e {0}/ready ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; \
         {meanwhile}; touch {0}/go; wait $!",
        meet.display()
    );
    let seen = stdout(&mounted("shared", &script, &launch).output().unwrap());
    fs::remove_dir_all(meet).unwrap();
    seen
}

// F7
#[test]
fn late_host_mounts_arrive_where_the_site_says_and_only_there() {
    let world = World::new();
    world.directory("cvmfs/repo");
    world.directory("data/repo");
    world.directory("elsewhere/repo");
    let path = |name: &str| world.path(name).display().to_string();
    let (listed, bound, other) = (path("cvmfs"), path("data"), path("elsewhere"));
    world.file(
        "bailey.toml",
        &format!("[root]\nalways = [\"{listed}\", \"{other}\"]\nlate_mounts = [\"{listed}\"]\n"),
    );
    let seen = during(
        &world,
        "true",
        &format!(
            "for d in {listed} {bound} {other}; do mount -t tmpfs late $d/repo; touch $d/repo/arrived; done; ls {bound}/repo"
        ),
        &["--bind", &bound],
        &format!("for d in {listed} {bound} {other}; do echo $(basename $d): $(ls $d/repo); done"),
    );
    assert_eq!(seen, "arrived\ncvmfs: arrived\ndata:\nelsewhere:");
    world.assert_no_trace();
}

// F7
#[test]
fn our_mounts_never_appear_on_the_host() {
    let world = World::new();
    let dir = world.directory("data");
    world.file("bailey.toml", "");
    let table = "cut -d' ' -f5- /proc/self/mountinfo | sort";
    let shared = world.directory("shared");
    let seen = during(
        &world,
        // A control: another namespace with shared propagation sees what is mounted here.
        &format!(
            "{table} >{0}/before; unshare -m --propagation unchanged mount -t tmpfs x {0}; \
             mountpoint -q {0} && echo control; umount {0}",
            shared.display()
        ),
        &format!("{table} >{0}/during; cmp {0}/before {0}/during && echo same", shared.display()),
        &["--bind", dir.to_str().unwrap()],
        "true",
    );
    assert_eq!(seen, "control\nsame");
    world.assert_no_trace();
}

// F8
#[test]
fn the_old_root_is_out_of_reach() {
    let world = World::new();
    let secret = world.file("secret", "x");
    let look = format!(
        "cd /; i=0; while [ $i -lt 40 ]; do cd ..; i=$((i+1)); done; pwd -P; ls -d {0} /proc/1/root{0} /proc/1/cwd{0} 2>/dev/null; \
         cat {0} 2>/dev/null; true",
        secret.display()
    );
    assert!(plain(&world, &look).contains("/secret"));
    assert!(
        peer(&world, &[], &["/bin/sh", "-c", &look]).contains("/proc/1/root"),
        "bubblewrap's pid 1 shows its root"
    );
    assert_eq!(inside(&world, &look), "/");
    assert_eq!(stdout(&world.host_shell(&[], &look)), "/");

    let attack = Attack::new(&world);
    let bare = stdout(&world.command("unshare").arg("-Urm").arg(&attack.0).arg("mounts").output().unwrap());
    let bare = values(&bare);
    assert_eq!((bare["mount"], bare["open_tree"], bare["chroot"], bare["fsopen"]), ("ok", "ok", "ok", "ok"));
    let seen = attack.inside(&world, &[], &["mounts"]);
    let mut launch = attack.exec(&world, &[]);
    launch.args(["--", ATTACK, "mounts"]).env("BAILEY_CONFIG", no_filter(&world));
    let without_filter = stdout(&launch.output().unwrap());
    for (name, result) in values(&seen).into_iter().chain(values(&without_filter)) {
        assert!(["EPERM", "EACCES"].contains(&result), "{name}: {result}");
    }
    // Nothing but what was listed is mounted: no point outside the known ones.
    let points = inside(&world, "cut -d' ' -f5 /proc/self/mountinfo");
    for point in points.lines().filter(|point| *point != "/") {
        let known = ["/dev", "/proc", "/tmp", "/var/tmp", "/run", "/sys", "/srv", "/etc", "/cvmfs"];
        assert!(known.iter().any(|known| Path::new(point).starts_with(known)), "{point}");
    }
}

// F4, F9, S1: a skeleton binds each entry of a directory by itself, so that nothing is copied together with what lies below.
#[test]
fn a_skeleton_shows_no_hidden_file_system() {
    let world = World::new();
    for name in ["parent/proc", "parent/cg", "own/proc-of-host", "own/usr"] {
        world.directory(name);
    }
    for name in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), world.path("own").join(name)).unwrap();
    }
    let (parent, own) = (world.path("parent").display().to_string(), world.path("own").display().to_string());
    let set_up = format!(
        "group=$(awk '$3 ~ /^cgroup/ {{ print $2; exit }}' /proc/mounts); mount --rbind /proc {parent}/proc; \
         mount --rbind $group {parent}/cg; mount --rbind /proc {own}/proc-of-host; exec $back \"$@\""
    );
    let look = "for dir in /data/proc /data/cg /proc-of-host; do ls $dir 2>/dev/null | wc -l; done";
    let bind = format!("{parent}:/data");
    let usr = format!("{}:/usr", image().join("usr").display());
    let missing = "/etc/hostname:/data/missing";
    // Whoever looks without walls sees them.
    let mut control = world.command("sh");
    control.args([
        "-c",
        &format!("ls {parent}/cg/cgroup.procs {parent}/proc/self/comm {own}/proc-of-host/self/comm | wc -l"),
    ]);
    assert_eq!(stdout(&mounted("private", &set_up, &control).output().unwrap()), "3");
    // Without a skeleton, with one of the bind, and with one of the image's root.
    for (root, options) in [
        (image(), vec!["--bind", &bind]),
        (image(), vec!["--bind", &bind, "--bind", missing]),
        (world.path("own"), vec!["--bind", &usr]),
        (world.path("own"), vec!["--bind", &usr, "--bind", &bind, "--bind", missing]),
    ] {
        let mut launch = world.exec(&["--image"]);
        launch.arg(root).args(&options).args(["--", "/bin/sh", "-c", look]);
        assert_eq!(stdout(&mounted("private", &set_up, &launch).output().unwrap()), "0\n0\n0", "{options:?}");
    }
}

// F9, S7
#[test]
fn control_groups_are_out_of_reach() {
    let world = World::new();
    world.directory("parent/cg");
    let parent = world.path("parent").display().to_string();
    let set_up = format!("mount --rbind /sys/fs/cgroup {parent}/cg; exec $back \"$@\"");
    let look = "find / -name cgroup.procs 2>/dev/null | wc -l; find / -fstype cgroup -o -fstype cgroup2 2>/dev/null | wc -l";
    // bubblewrap hands them on.
    let mut control = world.command("bwrap");
    control.args([
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
    ]);
    control.args([
        "--dev",
        "/dev",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--bind",
        &parent,
        &parent,
        "/bin/sh",
        "-c",
        look,
    ]);
    let control = stdout(&mounted("private", &set_up, &control).output().unwrap());
    assert_ne!(control.lines().next(), Some("0"), "{control}");

    for options in [vec!["--bind", &parent], vec!["--bind", &format!("{parent}:/data:rw")]] {
        let mut launch = world.exec(&["--image"]);
        launch.arg(image()).args(options).args(["--", "/bin/sh", "-c", look]);
        assert_eq!(stdout(&mounted("private", &set_up, &launch).output().unwrap()), "0\n0");
    }
    assert_eq!(stdout(&world.host_shell(&[], look)), "0\n0");
    let script = "mkdir /sys/fs/cgroup/x 2>/dev/null || echo no; cut -d: -f3 /proc/self/cgroup | sort -u";
    assert_eq!(inside(&world, script), "no\n/");
    world.assert_no_trace();
}

// F4, S1: somebody else's proc inside a bind
#[test]
fn a_proc_inside_a_bind_is_covered() {
    let world = World::new();
    world.directory("parent/p");
    let parent = world.path("parent").display().to_string();
    let set_up = format!("mount --rbind /proc {parent}/p; exec $back \"$@\"");
    let pilot = Guard(world.command("sleep").arg("30").spawn().unwrap());
    let look = format!("cat {parent}/p/{}/comm 2>/dev/null; ls {parent}/p | wc -l", pilot.0.id());
    let mut control = world.command("bwrap");
    control.args(["--ro-bind", "/", "/", "--dev", "/dev", "--unshare-pid", "/bin/sh", "-c", &look]);
    let seen = stdout(&mounted("private", &set_up, &control).output().unwrap());
    assert!(seen.starts_with("sleep\n"), "{seen}");

    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args(["--bind", &parent, "--", "/bin/sh", "-c", &look]);
    assert_eq!(stdout(&mounted("private", &set_up, &launch).output().unwrap()), "0");
}

// F15, S3
#[test]
fn pid_1_cannot_be_read_traced_or_overwritten() {
    let world = World::new();
    let attack = Attack::new(&world);
    let program = attack.0.to_str().unwrap();
    let control = peer(&world, &[], &[program, "peek", "1"]);
    let control = values(&control);
    for name in ["mem", "environ", "exe", "root", "fd/0", "ptrace", "process_vm_readv", "pidfd_getfd"] {
        assert_eq!(control[name], "ok", "bubblewrap's pid 1: {name}");
    }
    let seen = attack.inside(&world, &[], &["peek", "1"]);
    let seen = values(&seen);
    assert!(seen.len() >= 12, "{seen:?}");
    for (name, result) in &seen {
        assert!(["EPERM", "EACCES"].contains(result), "{name}: {result}");
    }
    // Nor through an interpreter line.
    let script = "printf '#!/proc/1/exe\\n' >x; chmod +x x; ./x 2>/dev/null; echo $?; readlink /proc/1/exe || echo unknown";
    assert_eq!(inside(&world, script), "126\nunknown");
}

// S1, S2
#[test]
fn the_pilot_cannot_be_signalled() {
    let world = World::new();
    let attack = Attack::new(&world);
    let mut pilot = Guard(world.command("sleep").arg("60").spawn().unwrap());
    let pid = pilot.0.id().to_string();
    let alone = ["--unshare-user", "--ro-bind", "/", "/", attack.0.to_str().unwrap(), "kill", &pid, "0"];
    // A user namespace does not stop it.
    assert_eq!(stdout(&world.command("bwrap").args(alone).output().unwrap()), "kill: ok");
    let seen =
        attack.inside(&world, &[], &["kill", &pid, "9", ",", "pidfd_open", &pid, ",", "kill", "1", "9"]);
    // init itself: not even tried where Landlock has scopes (landlock.rs), and of no effect elsewhere.
    let init =
        seen.strip_prefix("kill: ESRCH\npidfd_open: ESRCH\nkill: ").unwrap_or_else(|| panic!("{seen}"));
    assert!(["ok", "EPERM"].contains(&init), "{seen}");
    // kill(-1) is every process that it may signal; a KILL of its own pid 1 does not arrive.
    let seen = attack.inside(
        &world,
        &[],
        &["kill", "-1", "9", ",", "show", "/proc/1/status", ",", "kill", "-1", "15"],
    );
    assert!(seen.contains("/proc/1/status: file"), "{seen}");
    assert_eq!(pilot.0.try_wait().unwrap(), None, "the pilot lives");
    world.assert_no_trace();
}

// K1
#[test]
fn nested_namespaces_are_forbidden_unless_the_site_grants_them() {
    let world = World::new();
    let attack = Attack::new(&world);
    assert_eq!(attack.plain(&world, &["namespaces"]), "unshare: ok\nclone: ok\nclone3: ok");
    let program = attack.0.to_str().unwrap();
    assert_eq!(peer(&world, &[], &[program, "namespaces"]), "unshare: ok\nclone: ok\nclone3: ok");

    // Two walls, one behind the other: the filter of system calls, and the limits without it.
    let seen = attack.inside(&world, &[], &["namespaces"]);
    assert_eq!(seen, "unshare: EPERM\nclone: EPERM\nclone3: ENOSYS");
    let mut launch = attack.exec(&world, &[]);
    launch.args(["--", ATTACK, "namespaces"]).env("BAILEY_CONFIG", no_filter(&world));
    assert_eq!(stdout(&launch.output().unwrap()), "unshare: ENOSPC\nclone: ENOSPC\nclone3: ENOSPC");
    let script = "for f in /proc/sys/user/max_*_namespaces; do (echo 9 >$f) 2>/dev/null && echo written; done; \
                  cd /proc/sys/user; cat max_user_namespaces max_mnt_namespaces max_net_namespaces; unshare -Ur true 2>/dev/null || echo refused";
    assert_eq!(inside(&world, script), "0\n0\n0\nrefused");
    assert_eq!(plain(&world, "unshare -Ur true && echo granted"), "granted");

    let refused = world.shell(&["--nested"], "true");
    assert_refused(&refused, 120, &["--nested"]);
    let allow = world.file("bailey.toml", "[sandbox]\nnested_namespaces = true\n");
    let mut launch = attack.exec(&world, &["--nested"]);
    launch.args(["--", ATTACK, "namespaces"]).env("BAILEY_CONFIG", &allow);
    assert_eq!(stdout(&launch.output().unwrap()), "unshare: ok\nclone: ok\nclone3: ok");
    // Granted is not the default.
    let mut launch = attack.exec(&world, &[]);
    launch.args(["--", ATTACK, "namespaces"]).env("BAILEY_CONFIG", &allow);
    assert_eq!(stdout(&launch.output().unwrap()), seen);
}

// K9
#[test]
fn the_pilots_keys_are_not_the_payloads() {
    let world = World::new();
    let attack = Attack::new(&world);
    let program = attack.0.to_str().unwrap();
    let with_key = |command: &Command| {
        behind(program, &["exec-key", "pilot", "hunter2", "--"], command).output().unwrap()
    };
    let mut control = world.command("bwrap");
    control.args(["--unshare-all", "--ro-bind", "/", "/", program, "read-key", "pilot"]);
    let seen = stdout(&with_key(&control));
    assert_eq!(values(&seen)["session"], "hunter2", "bubblewrap leaves the session keyring");

    let mut launch = attack.exec(&world, &[]);
    launch.args(["--", ATTACK, "read-key", "pilot"]);
    let seen = stdout(&with_key(&launch));
    assert_eq!(values(&seen).into_values().collect::<Vec<_>>(), ["EPERM"; 3], "{seen}");
    launch.env("BAILEY_CONFIG", no_filter(&world));
    let seen = stdout(&with_key(&launch));
    assert!(!seen.contains("hunter2") && !seen.contains("EPERM"), "{seen}");
    assert_eq!(values(&seen).len(), 3, "{seen}");
}

// K10
#[test]
fn shared_memory_of_the_pilot_is_out_of_reach() {
    let world = World::new();
    let attack = Attack::new(&world);
    let key = format!("{}", 0x0bad_0000 + std::process::id() % 65536);
    assert_eq!(attack.plain(&world, &["make-shm", &key, "hunter2"]), "make-shm: ok");
    let bare = stdout(
        &world.command("unshare").arg("-Ur").arg(&attack.0).args(["read-shm", &key]).output().unwrap(),
    );
    assert_eq!(bare, "shm: hunter2");
    let seen = attack.inside(&world, &[], &["read-shm", &key, ",", "remove-shm", &key]);
    assert_eq!(seen, "shm: ENOENT\nremove-shm: ENOENT");
    assert_eq!(inside(&world, "wc -l </proc/sysvipc/shm"), "1");
    assert_eq!(
        attack.plain(&world, &["read-shm", &key, ",", "remove-shm", &key]),
        "shm: hunter2\nremove-shm: ok"
    );
}

// S12
#[test]
fn passwd_and_group_name_nobody_else() {
    let world = World::new();
    assert!(plain(&world, "wc -l </etc/passwd").parse::<u32>().unwrap() > 5);
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let script = "cat /etc/passwd /etc/group; id -un; id -G; (echo x >>/etc/passwd) 2>/dev/null || echo ro; ls /etc/shadow 2>&1 | tail -c 10";
    for seen in [world.shell(&[], script), world.host_shell(&[], script)] {
        let seen = stdout(&seen);
        let expected = format!(
            "pilot:x:{uid}:{gid}:payload:/srv:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n\
             pilot:x:{gid}:\nnogroup:x:65534:\npilot\n{gid}\nro\n"
        );
        assert!(seen.starts_with(&expected), "{seen}");
    }
    assert!(stdout(&world.host_shell(&[], "test -e /etc/shadow || echo none")).contains("none"));
}

// K11, K13
#[test]
fn network_none_leaves_only_a_loopback_device() {
    let world = World::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let abstract_name = format!("bailey-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap();
    let _kept = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "perl -e 'use Socket; socket(S,PF_INET,SOCK_STREAM,0); print connect(S,pack_sockaddr_in({port},inet_aton(\"127.0.0.1\")))?\"tcp \":\"\"; \
         socket(U,PF_UNIX,SOCK_STREAM,0); print connect(U,pack_sockaddr_un(\"\\0{abstract_name}\"))?\"abstract \":\"\"; \
         socket(L,PF_INET,SOCK_STREAM,0); bind(L,pack_sockaddr_in(0,inet_aton(\"127.0.0.1\"))); listen(L,1); \
         socket(C,PF_INET,SOCK_STREAM,0); print connect(C,getsockname(L))?\"own\":\"down\"'; echo; tail -n +3 /proc/net/dev | cut -d: -f1"
    );
    // The host's network is shared by default, and so is what listens there: the record says it. (Abstract sockets are
    // Landlock's as well, see landlock.rs.)
    let mut shared = world.exec(&["--image"]);
    shared.arg(image()).args(["--", "/bin/sh", "-c", &script]);
    shared.env("BAILEY_CONFIG", world.config("[sandbox]\nlandlock = \"off\"\n"));
    let shared = stdout(&shared.output().unwrap());
    assert!(shared.starts_with("tcp abstract own\n"), "{shared}");
    let seen = stdout(&world.shell(&["--network", "none"], &script));
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["own", "lo"]);
    let launch = world.records_of("payload-launch").remove(0);
    assert!(
        launch
            .to_string()
            .contains("services on 127.0.0.1 are reachable, abstract sockets too unless Landlock"),
        "{launch}"
    );
}

// K12
#[test]
fn files_and_sockets_of_the_pilot_are_invisible() {
    let world = World::new();
    let mark = format!("bailey-walls-{}", std::process::id());
    let places = ["/tmp", "/var/tmp", "/dev/shm"].map(|dir| format!("{dir}/{mark}"));
    for place in &places {
        fs::create_dir(place).unwrap();
        fs::write(format!("{place}/file"), "x").unwrap();
    }
    let _socket = UnixListener::bind(format!("{}/socket", places[0])).unwrap();
    let _home = UnixListener::bind(world.path("home/s")).unwrap();
    let look = format!(
        "ls -d /tmp/{mark} /var/tmp/{mark} /dev/shm/{mark} {0} 2>/dev/null; ls -A /run /tmp /var/tmp /dev/shm 2>/dev/null | grep -v : | grep .; \
         find / -type s 2>/dev/null; true",
        world.path("home").display()
    );
    let control = plain(
        &world,
        &format!("ls -d {} {}; ls -A /run | head -1", places.join(" "), world.path("home").display()),
    );
    assert_eq!(control.lines().count(), 5, "{control}");
    let attack = Attack::new(&world);
    let socket = format!("{}/socket", places[0]);
    assert_eq!(attack.plain(&world, &["connect", &socket]), "connect: ok");
    let result = std::panic::catch_unwind(|| {
        for seen in [world.shell(&[], &look), world.host_shell(&[], &look)] {
            assert_eq!(stdout(&seen), "");
        }
        assert_eq!(attack.inside(&world, &[], &["connect", &socket]), "connect: ENOENT");
        // What the payload leaves is not on the host.
        stdout(
            &world.shell(&[], &format!("touch /tmp/{mark}-left /var/tmp/{mark}-left /dev/shm/{mark}-left")),
        );
        for place in &places {
            assert!(!Path::new(&format!("{place}-left")).exists());
        }
    });
    for place in &places {
        fs::remove_dir_all(place).unwrap();
    }
    result.unwrap();
}

#[test]
fn scratch_is_limited_private_and_gone_afterwards() {
    let world = World::new();
    let before = world.snapshot();
    let fill = "dd if=/dev/zero of=/tmp/a bs=1M count=3 2>/dev/null && echo small; \
        dd if=/dev/zero of=/var/tmp/b bs=1M count=3 2>/dev/null && echo small; \
        dd if=/dev/zero of=/dev/shm/c bs=1M count=6 2>&1 | grep -o 'No space left'; \
        dd if=/dev/zero of=d bs=1M count=6 2>&1 | grep -o 'No space left'; pwd; stat -c %a . /tmp /var/tmp /dev/shm";
    let seen = stdout(&world.shell(&["--scratch-size", "8M"], fill));
    assert_eq!(seen, "small\nsmall\nNo space left\nNo space left\n/srv\n700\n1777\n1777\n1777");
    // The same fits where nobody limits it.
    assert_eq!(stdout(&world.shell(&["--scratch-size", "64M"], fill)).matches("No space").count(), 0);
    assert_eq!(inside(&world, "ls -A /srv /tmp /var/tmp /dev/shm | grep -v : | grep .; true"), "");
    world.assert_nothing_left(&before);
}

// F12
#[test]
fn the_pilots_terminal_cannot_be_opened() {
    let world = World::new();
    let open = "(echo typed >/dev/tty) 2>/dev/null && echo opened || echo refused";
    let script = |command: &str| {
        let output = world.command("script").args(["-qec", command, "/dev/null"]).output().unwrap();
        text(&output.stdout)
    };
    let control = script(&format!("/bin/sh -c '{open}'"));
    assert!(control.contains("typed") && control.contains("opened"), "{control}");
    let seen =
        script(&format!("{} exec --image {} -- /bin/sh -c '{open}'", support::BAILEY, image().display()));
    assert!(seen.contains("refused") && !seen.contains("typed"), "{seen}");
}

// F19
#[test]
fn a_command_that_looks_like_an_option_stays_a_command() {
    let world = World::new();
    world.file("bin/--bind", "#!/bin/sh\necho ran \"$@\"\n");
    assert!(Command::new("chmod").arg("755").arg(world.path("bin/--bind")).status().unwrap().success());
    let bin = world.path("bin").display().to_string();
    let mut launch = world.exec(&["--image"]);
    launch.arg(image()).args([
        "--bind",
        &bin,
        "--env",
        &format!("PATH={bin}"),
        "--",
        "--bind",
        "/",
        "--writable",
    ]);
    assert_eq!(stdout(&launch.output().unwrap()), "ran / --writable");
    let output = world.exec(&["--image"]).arg(image()).args(["--", "--help"]).output().unwrap();
    assert_eq!(code(&output), 127);
}
