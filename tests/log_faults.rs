//! The embedded log when the world is against it: many at once, no space, wrong places, torn lines, other users. Whatever
//! happens, nothing runs without a durable record, and what is in the log stays readable.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use bailey::audit::record::{Action, Host, Record};
use bailey::audit::{EmbeddedLog, LogOptions, Timestamp, chain};
use bailey::request::LaunchId;
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::policy::Node;
use support::{BAILEY, World, assert_refused, code, image, skip, stdout, text};

/// A launch that leaves a marker when it runs.
fn launch(world: &World) -> Command {
    world.directory("markers");
    let mut command = world.command(BAILEY);
    command
        .args(["exec", "--bind"])
        .arg(format!("{}:/markers:rw", world.path("markers").display()))
        .arg("--image")
        .arg(image())
        .args(["--", "/bin/sh", "-c", "echo ran >/markers/ran"]);
    command
}

fn ran(world: &World) -> bool {
    let marker = world.path("markers/ran");
    let ran = marker.exists();
    let _ = fs::remove_file(marker);
    ran
}

/// The launch is refused because of the log: 122, one line with the words, and nothing ran.
fn assert_unrecorded(world: &World, output: &Output, words: &[&str]) {
    assert_refused(output, 122, words);
    assert!(!ran(world), "it ran without a record");
}

/// A configuration whose log is in `dir`.
fn config(world: &World, dir: &Path, more: &str) -> PathBuf {
    world.file("bailey.toml", &format!("[audit]\ndir = \"{}\"\n{more}", dir.display()))
}

fn records_in(dir: &Path) -> Vec<Value> {
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .collect();
    segments.sort();
    let all: String = segments.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(all.is_empty() || all.ends_with('\n'), "a torn line is left for readers");
    all.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn actions(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["event"]["action"].as_str().unwrap()).collect()
}

fn assert_whole(dir: &Path) {
    let report = bailey::admin::verify::verify(dir).unwrap();
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn two_hundred_launches_at_once_keep_one_chain() {
    const LAUNCHES: usize = 200;
    let world = World::new();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < LAUNCHES {
                    let mut command = world.exec(&["--vo", "crowd", "--image"]);
                    command.arg(image()).args(["--", "/bin/true"]);
                    let output = command.output().unwrap();
                    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
                }
            });
        }
    });
    world.assert_chain();
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let records = world.records();
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record["chain"]["seq"], index + 1);
        if let Some(id) = record["event"]["id"].as_str() {
            let action = record["event"]["action"].as_str().unwrap();
            pairs.entry(id.to_owned()).or_default().push(action.to_owned());
        }
    }
    assert_eq!(pairs.len(), LAUNCHES);
    for (id, actions) in pairs {
        assert_eq!(actions, ["payload-launch", "payload-end"], "{id}");
    }
}

#[test]
fn places_that_cannot_be_a_log_are_refused() {
    let world = World::new();
    let run = |dir: &Path| launch(&world).env("BAILEY_CONFIG", config(&world, dir, "")).output().unwrap();

    let read_only = world.directory("read-only");
    fs::set_permissions(&read_only, Permissions::from_mode(0o500)).unwrap();
    assert_unrecorded(&world, &run(&read_only), &["read-only", "EACCES"]);
    assert_unrecorded(&world, &run(&read_only.join("below")), &["read-only", "EACCES"]);

    let file = world.file("file", "precious");
    assert_unrecorded(&world, &run(&file), &["file", "move away"]);
    assert_unrecorded(&world, &run(&file.join("below")), &["ENOTDIR"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    symlink(world.path("loop"), world.path("loop")).unwrap();
    assert_unrecorded(&world, &run(&world.path("loop")), &["loop"]);
    assert_unrecorded(&world, &run(&world.path("loop/below")), &["ELOOP"]);

    let open = world.directory("open");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert_unrecorded(&world, &run(&open), &["others may write", "chmod go-w"]);

    // Root's, and not to be written by us.
    assert_unrecorded(&world, &run(Path::new("/var/lib")), &["/var/lib"]);
    assert_unrecorded(&world, &run(Path::new("/proc/self")), &["/proc/self"]);

    // A segment, lock or table that is something else.
    for name in ["lock", "live"] {
        for kind in ["directory", "link", "fifo"] {
            let log = world.directory(&format!("{name}-{kind}"));
            fs::set_permissions(&log, Permissions::from_mode(0o700)).unwrap();
            let path = log.join(name);
            match kind {
                "directory" => fs::create_dir(&path).unwrap(),
                "link" => symlink(&file, &path).unwrap(),
                _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
            assert_unrecorded(&world, &run(&log), &[name]);
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn without_a_home_it_is_the_accounts_and_without_that_there_is_no_place() {
    let world = World::new();
    let account = world.directory("account");
    let run = |home: Option<&str>, account: &Path| {
        let mut command = launch(&world);
        command.env_remove("HOME");
        if let Some(home) = home {
            command.env("HOME", home);
        }
        support::at_home(&world, account, &command).output().unwrap()
    };
    // What is no absolute path counts as unset: the home directory of passwd(5) is taken, where there is one.
    for home in [None, Some(""), Some("relative"), Some("~")] {
        let output = run(home, &account);
        assert_eq!(code(&output), 0, "{home:?}: {}", text(&output.stderr));
        assert!(ran(&world), "{home:?}");
        assert_unrecorded(&world, &run(home, Path::new("")), &["HOME", "/etc/passwd", "audit.dir"]);
    }
    let logs: Vec<_> = fs::read_dir(account.join(".local/state/bailey")).unwrap().collect();
    assert_eq!(logs.len(), 1);
    let records = records_in(&logs[0].as_ref().unwrap().path());
    assert_eq!(actions(&records).iter().filter(|action| **action == "payload-launch").count(), 4);
    assert_unrecorded(&world, &run(Some("/nonexistent/home"), &account), &["/nonexistent"]);
    // The state directory is enough.
    let mut command = launch(&world);
    command.env_remove("HOME").env("XDG_STATE_HOME", world.path("state"));
    assert_eq!(code(&support::at_home(&world, Path::new(""), &command).output().unwrap()), 0);
    assert!(ran(&world) && world.path("state/bailey").is_dir());
}

#[test]
fn a_lock_held_for_too_long_is_a_refusal() {
    let world = World::new();
    let log = world.path("log");
    let config = config(&world, &log, "wait = \"1s\"\n");
    let run = || launch(&world).env("BAILEY_CONFIG", &config).output().unwrap();
    assert_eq!(code(&run()), 0);
    assert!(ran(&world));
    let before = records_in(&log).len();

    let lock = File::options().read(true).write(true).open(log.join("lock")).unwrap();
    let range = |kind: i32| libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(lock.as_fd(), FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK))).unwrap();
    let begin = Instant::now();
    assert_unrecorded(&world, &run(), &["lock", "audit.wait"]);
    let took = begin.elapsed();
    assert!((Duration::from_secs(1)..support::patience(Duration::from_secs(5))).contains(&took), "{took:?}");
    assert_eq!(records_in(&log).len(), before);

    // Held for less than that, it is waited for.
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    assert_eq!(code(&run()), 0);
    assert!(ran(&world));
    holder.join().unwrap();
    assert_whole(&log);
}

/// A shell script as root of a user namespace of its own, so that it can mount. `$UID_HERE` is our uid; `pilot COMMAND...`
/// runs a command as that uid again, without any capability.
fn unshared(world: &World, script: &str) -> Output {
    let uid = nix::unistd::geteuid();
    let whole = format!(
        "set -eu\npilot() {{ unshare -U --map-user={uid} --map-group={uid} -- \"$@\"; }}\nmount --make-rprivate /\n{script}"
    );
    let mut command = world.command("unshare");
    command.args(["-Urm", "--", "/bin/bash", "-c", &whole]);
    command.env("BAILEY", BAILEY).env("IMAGE", image()).env("W", &world.dir);
    command.output().unwrap()
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let world = World::new();
    let log = world.directory("log");
    world.directory("markers");
    let config = config(&world, &log, "");
    let output = unshared(
        &world,
        r#"
        mount -t tmpfs -o size=16k,mode=0700 tmpfs "$W/log"
        for turn in $(seq 40); do
            rm -f "$W/markers/ran"
            code=0
            pilot "$BAILEY" exec --bind "$W/markers:/markers:rw" --image "$IMAGE" -- /bin/sh -c 'echo ran >/markers/ran' \
                2>>"$W/said" || code=$?
            echo "$code $(ls "$W/markers")" >>"$W/codes"
            case $(tail -n 3 "$W/codes" | tr '\n' ' ') in "122  122  122  ") break ;; esac
        done
        cp -r "$W/log" "$W/full"
        mount -o remount,size=1m tmpfs "$W/log"
        pilot "$BAILEY" exec --image "$IMAGE" -- /bin/true
        cp -r "$W/log" "$W/recovered"
        "#
        .replace("pilot \"$BAILEY\"", &format!("BAILEY_CONFIG={} pilot \"$BAILEY\"", config.display()))
        .as_str(),
    );
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let codes = fs::read_to_string(world.path("codes")).unwrap();
    let mut refused = 0;
    for line in codes.lines() {
        match line {
            "0 ran" => {}
            "122 " => refused += 1,
            other => panic!("{other}:\n{codes}{}", fs::read_to_string(world.path("said")).unwrap()),
        }
    }
    assert!(refused >= 3 && codes.starts_with("0 ran\n"), "{codes}");
    // One line for each refusal. A launch that ran and whose end did not fit any more says so too.
    let said = fs::read_to_string(world.path("said")).unwrap();
    assert!(said.lines().all(|line| line.starts_with("bailey: ") && line.contains("; ")), "{said}");
    assert!(said.lines().count() >= refused, "{said}");

    let full = records_in(&world.path("full")); // whole lines only
    let ended = actions(&full).iter().filter(|action| **action == "payload-end").count();
    let launched = actions(&full).iter().filter(|action| **action == "payload-launch").count();
    assert!(launched >= codes.lines().filter(|line| *line == "0 ran").count());
    assert!(launched - ended <= 1, "{launched} launches, {ended} ends: only the last end may be missing");
    let recovered = records_in(&world.path("recovered"));
    let count = |action: &str| actions(&recovered).iter().filter(|found| **found == action).count();
    assert_eq!(count("payload-launch"), count("payload-end") + count("launch-failed"));
    assert_whole(&world.path("recovered"));
}

/// What only its user can make too large is the user's fault, not the node's: nobody goes elsewhere with it, and it has a record.
#[test]
fn a_record_that_no_log_takes_is_its_users() {
    Node::each(&[], |node| {
        let deep = |letter: &str, levels: usize| vec![letter.repeat(240); levels].join("/");
        let bound = |letter: &str, levels: usize, count: usize| {
            let source = node.world.directory(&deep(letter, levels));
            let mut command = node.world.exec(&["--image"]);
            command.arg(image()).env("BAILEY_CONFIG", &node.config).args(["--user", "/CN=Zoe"]);
            for number in 0..count {
                let target = format!("/mnt/{}/{number}", deep(letter, levels));
                command.arg("--bind").arg(format!("{}:{target}", source.display()));
            }
            command.args(["--", "/bin/true"]).output().unwrap()
        };
        assert_eq!(code(&bound("d", 14, 3)), 0, "a control");
        let mut hostile = vec![bound("d", 14, 60)];
        if node.recorder.is_some() {
            hostile.push(bound(",", 14, 3)); // a message may have so many members
        }
        for output in hostile {
            assert_refused(
                &output,
                125,
                &["cannot make the record of this launch", "use fewer or shorter binds"],
            );
            assert!(!text(&output.stderr).contains("not your fault"), "{}", text(&output.stderr));
            let failed = node.records_of("launch-failed").pop().unwrap();
            assert_eq!((&failed["error"]["code"], &failed["grid"]["fault"]), (&"125".into(), &"user".into()));
            assert_eq!(failed["user"]["id"], "/CN=Zoe");
        }
        assert_eq!(node.records_of("payload-launch").len(), 1);
    });
}

#[test]
fn names_of_variables_do_not_fill_a_record() {
    Node::each(&[], |node| {
        let mut command = node.world.command(BAILEY);
        command.env("BAILEY_CONFIG", &node.config).args(["apptainer", "exec", "-C"]).arg(image()).arg("true");
        for number in 0..5500 {
            command.env(format!("APPTAINERENV_odd.{}-{number}", "x".repeat(240)), "1");
        }
        let output = command.output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let launch = node.records_of("payload-launch").pop().unwrap();
        let unheeded = launch["grid"]["unheeded"].to_string();
        assert!(unheeded.contains("variables: odd.x") && unheeded.contains("and 5450 more"), "{unheeded}");
        assert!(unheeded.len() < 8 << 10, "{}", unheeded.len());
    });
}

/// A FUSE file system in 30 lines: one empty directory, ours, 0700. Only enough for what is asked of a log's directory.
const FUSE_SERVER: &str = r#"
    open(my $dev, "+<&=", 3) or die $!;
    while (sysread($dev, my $request, 1 << 20)) {
        my ($length, $operation, $unique) = unpack("LLQ", $request);
        next if $operation == 2;                                        # FORGET
        my ($error, $answer) = (0, "");
        if    ($operation == 26) { $answer = pack("LLLLSSLLSSLLx24", 7, 31, 0, 0, 8, 8, 4096, 1, 0, 0, 0, 0) } # INIT
        elsif ($operation == 3)  { $answer = pack("QLLQQQQQQLLLLLLLLLL", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
                                                  040700, 2, 0, 0, 0, 4096, 0) }                               # GETATTR
        elsif ($operation == 27) { $answer = pack("QLL", 0, 0, 0) }                                            # OPENDIR
        elsif ($operation == 17) { $answer = pack("QQQQQLLLLx24", 9, 9, 9, 9, 9, 4096, 255, 4096, 0) }         # STATFS
        elsif ($operation == 1)  { $error = -2 }                                                               # LOOKUP
        elsif ($operation != 34 && $operation != 29) { $error = -38 }                                # ACCESS, RELEASEDIR
        syswrite($dev, pack("LlQ", 16 + length $answer, $error, $unique) . $answer);
    }
"#;

#[test]
fn a_network_file_system_is_refused() {
    let test = "a_network_file_system_is_refused";
    let device =
        std::env::var_os("BAILEY_TEST_FUSE").map_or_else(|| PathBuf::from("/dev/fuse"), PathBuf::from);
    if let Err(error) = File::options().read(true).write(true).open(&device) {
        return skip(test, &format!("no FUSE device for this user: {}: {error}", device.display()));
    }
    let world = World::new();
    world.directory("log");
    world.directory("markers");
    world.file("server.pl", FUSE_SERVER);
    let plain = config(&world, &world.path("log"), "");
    let output = unshared(
        &world,
        &format!(
            r#"
            exec 3<>{device}
            mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 bailey-test "$W/log"
            perl "$W/server.pl" & server=$!
            exec 3>&-
            stat -f -c %T "$W/log" >"$W/kind"
            code=0
            BAILEY_CONFIG={plain} pilot "$BAILEY" exec --bind "$W/markers:/markers:rw" --image "$IMAGE" -- \
                /bin/sh -c 'echo ran >/markers/ran' 2>"$W/said" || code=$?
            echo $code >"$W/code"
            kill $server
            "#,
            device = device.display(),
            plain = plain.display()
        ),
    );
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let read = |name: &str| fs::read_to_string(world.path(name)).unwrap();
    assert_eq!(read("kind"), "fuseblk\n");
    let said = read("said");
    assert_eq!((read("code").as_str(), said.lines().count()), ("122\n", 1), "{said}");
    for word in ["FUSE", "audit.network_filesystem", "set audit.dir"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!ran(&world), "it ran without a record");
}

#[test]
fn a_limit_of_file_sizes_refuses_and_kills_nobody() {
    let world = World::new();
    let limited = |blocks: u32| {
        let mut command = world.command("/bin/bash");
        command.arg("-c").arg(format!("ulimit -f {blocks}; exec \"$@\"")).arg("bash");
        let launch = launch(&world);
        command.arg(launch.get_program()).args(launch.get_args());
        command.output().unwrap()
    };
    assert_eq!(code(&limited(64)), 0);
    assert!(ran(&world));
    let size = |world: &World| {
        let log = world.log_dir();
        let segment = fs::read_dir(log).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some());
        fs::metadata(segment.unwrap()).unwrap().len()
    };
    // The next record begins within the limit and ends behind it; then it begins behind it.
    let blocks = size(&world) / 1024 + 1;
    assert_unrecorded(&world, &limited(blocks as u32), &["ulimit -f"]);
    records_in(&world.log_dir());
    assert_unrecorded(&world, &limited(1), &["ulimit -f"]);
    records_in(&world.log_dir());
    assert_eq!(code(&limited(64)), 0);
    assert!(ran(&world));
    world.assert_chain();
    assert_eq!(world.records_of("payload-launch").len(), world.records_of("payload-end").len());
}

#[test]
fn a_torn_last_line_is_repaired_by_the_next_launch() {
    let world = World::new();
    assert_eq!(code(&launch(&world).output().unwrap()), 0);
    let segment = fs::read_dir(world.log_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some())
        .unwrap();
    let torn = b"{\"@timestamp\":\"2026-01-01T00:00:00Z\",\"event\":{\"act";
    File::options().append(true).open(&segment).unwrap().write_all(torn).unwrap();
    assert_eq!(code(&world.admin(&["verify"])), 1);

    assert_eq!(code(&launch(&world).output().unwrap()), 0);
    world.assert_chain();
    let records = world.records();
    let expected =
        ["segment-open", "payload-launch", "payload-end", "log-repair", "payload-launch", "payload-end"];
    assert_eq!(actions(&records), expected);
    assert_eq!(records[3]["grid"]["log"]["torn"]["length"], torn.len());
}

#[test]
fn the_chain_goes_on_from_yesterday() {
    let world = World::new();
    let log = world.path("log");
    let mut host = Host { name: Some("yesterday".to_owned()), ..Host::default() };
    host.boot.id = Some("00000000-another-boot".to_owned());
    let options = LogOptions {
        wait: Duration::from_secs(10),
        network_filesystem: false,
        writer: "test".to_owned(),
        host,
        clock: || Timestamp::now().plus_seconds(-86_400),
    };
    let mut yesterday = EmbeddedLog::open(&log, options.clone()).unwrap();
    let id = LaunchId::from_parts(1_700_000_000_000, [7; 10]);
    let mut record = Record::new(Action::PayloadLaunch, id);
    record.host = options.host;
    let any = File::open("/dev/null").unwrap().into();
    let (_receipt, slot) = yesterday.append_launch(&record, id, any).unwrap();
    let last = chain::hex(&chain::hash(yesterday.last_line()));
    drop((yesterday, slot)); // the host went down

    let mut command = launch(&world);
    command.env("BAILEY_CONFIG", config(&world, &log, ""));
    assert_eq!(stdout(&command.output().unwrap()), "");
    let records = records_in(&log);
    let expected =
        ["segment-open", "payload-launch", "segment-open", "payload-end", "payload-launch", "payload-end"];
    assert_eq!(actions(&records), expected);
    assert_eq!((&records[2]["chain"]["seq"], &records[2]["chain"]["prev"]), (&3.into(), &last.into()));
    let closed = &records[3];
    assert_eq!(
        (&closed["event"]["id"], &closed["grid"]["end"]["by"]),
        (&id.as_str().into(), &"host-restart".into())
    );
    let segments = fs::read_dir(&log).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some());
    assert_eq!(segments.count(), 2);
    assert_whole(&log);
}

#[test]
fn two_users_have_two_logs() {
    let test = "two_users_have_two_logs";
    let world = World::new();
    // The second user is a subordinate uid of ours: really another uid for the kernel and for every file.
    let script = format!(
        r#"
        set -eu
        cd "$W"
        mkdir -m 0755 second; chown 5:5 second
        # The way to the second user's home, and back to closed.
        chmod 0711 "$W"
        parent=$(dirname "$W"); mode=$(stat -c %a "$parent"); chmod 0711 "$parent"
        trap 'chmod "$mode" "$parent"; chmod 0700 "$W"' EXIT
        HOME=$W/second setpriv --reuid 5 --regid 5 --clear-groups -- \
            unshare -U --map-user=5 --map-group=5 -- {BAILEY} exec --user /CN=second -- /bin/true
        # Somebody else's log is not for us, nor ours for somebody else.
        log=$(echo "$W"/second/.local/state/bailey/*)
        stat -c '%u %a' "$log" >seen
        if setpriv --reuid 6 --regid 6 --clear-groups -- ls "$log" 2>>seen; then echo readable >>seen; fi
        chown -R 5:5 theirs; chmod 0755 theirs
        cp -r "$log" copy; chown -R 0:0 copy second
        "#
    );
    world.directory("theirs");
    let mut command = world.command("unshare");
    command
        .args(["-U", "--map-root-user", "--map-auto", "-m", "--", "/bin/bash", "-c", &script])
        .env("W", &world.dir);
    let output = command.output().unwrap();
    if !output.status.success() && text(&output.stderr).contains("subuid") {
        return skip(test, "there are no subordinate uids for this user (/etc/subuid)");
    }
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(code(&launch(&world).output().unwrap()), 0);
    assert!(ran(&world));

    let seen = fs::read_to_string(world.path("seen")).unwrap();
    assert!(
        seen.starts_with("5 700\n") && seen.contains("Permission denied") && !seen.contains("readable"),
        "{seen}"
    );
    let (ours, copy) = (records_in(&world.log_dir()), records_in(&world.path("copy")));
    for records in [&ours, &copy] {
        assert_eq!(actions(records), ["segment-open", "payload-launch", "payload-end"]);
    }
    assert_eq!(
        (&copy[1]["user"]["id"], &copy[1]["process"]["real_user"]["id"]),
        (&"/CN=second".into(), &"5".into())
    );
    assert_ne!(ours[1]["process"]["real_user"]["id"], "5");
    assert_whole(&world.path("copy"));
    world.assert_chain();

    // A directory that belongs to somebody else.
    let theirs = world.path("theirs");
    let owner = fs::metadata(&theirs).unwrap().uid();
    let output = launch(&world).env("BAILEY_CONFIG", config(&world, &theirs, "")).output().unwrap();
    assert_unrecorded(&world, &output, &[&format!("belongs to uid {owner}"), "chown"]);
    // Only root of that namespace can give it back.
    let mut command = world.command("unshare");
    command.args(["-U", "--map-root-user", "--map-auto", "--", "chown", "-R", "0:0"]).arg(&theirs);
    assert_eq!(code(&command.output().unwrap()), 0);
}

#[test]
fn a_payload_reaches_nothing_of_the_log() {
    let world = World::new();
    assert_eq!(code(&launch(&world).output().unwrap()), 0);
    let log = world.log_dir();
    let before = records_in(&log).len();
    let home = world.path("home");
    let script = format!(
        "for path in {log} {home} {home}/.local /proc/1/root{log} /proc/1/cwd /proc/self/root{log}; do\n\
             if [ -e $path ]; then echo sees $path; fi\n\
         done\n\
         echo forged >>{log}/lock && echo wrote\n\
         ls /proc/self/fd /proc/1/fd\n\
         find / -xdev -name '*.ndjson' -o -name live -path '*bailey*'\n\
         exit 0",
        log = log.display(),
        home = home.display()
    );
    for output in [world.shell(&[], &script), world.host_shell(&[], &script)] {
        let seen = stdout(&output);
        assert!(!seen.contains("sees") && !seen.contains("wrote") && !seen.contains("ndjson"), "{seen}");
        let descriptors: Vec<&str> = seen.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
        assert!(descriptors.iter().all(|fd| fd.parse::<u32>().unwrap() <= 3), "{seen}"); // 3 is ls's own
    }
    // Handed over by name: refused or covered, never writable and never readable.
    let script =
        format!("ls -A {log}; echo forged >>{log}/lock; cat {log}/*.ndjson; exit 0", log = log.display());
    for option in ["--bind", "--workdir"] {
        for dir in [&log, &home, &world.dir] {
            let value = if option == "--bind" {
                format!("{0}:{0}:rw", dir.display())
            } else {
                dir.display().to_string()
            };
            let output = world.shell(&[option, &value], &script);
            if code(&output) != 0 {
                assert!((120..128).contains(&code(&output)), "{}", text(&output.stderr));
                assert!(text(&output.stderr).contains("log"), "{}", text(&output.stderr));
            }
            assert_eq!(text(&output.stdout), "", "{option} {value}");
        }
    }
    world.assert_chain();
    assert!(records_in(&log).len() > before);
    let lock = fs::read_to_string(log.join("lock")).unwrap();
    assert!(!lock.contains("forged"), "{lock}");
}
