//! Payloads without a pid namespace (`--no-pid`), without a proc of their own, and where limits on namespaces cannot be set: what an
//! outer container leaves, what holds there, and that the record says what does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{
    ATTACK, Attack, Guard, Started, World, alive_with, assert_refused, code, image, mounted, proc_status,
    stdout, text, wait_for,
};

const GRANTED: &str = "[sandbox]\npid_namespace = \"preferred\"\n";
const NO_LANDLOCK: &str = "[sandbox]\npid_namespace = \"preferred\"\nlandlock = \"off\"\n";

/// `bailey exec --no-pid OPTIONS -- sh -c SCRIPT MARK` in the image, where the site grants it.
fn no_pid(world: &World, config: &str, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--no-pid"]);
    command.env("BAILEY_CONFIG", world.config(config)).args(options).arg("--image").arg(image());
    command.args(["--", "/bin/sh", "-c", script]).arg(mark(world));
    command
}

/// A word that no other process has on its command line.
fn mark(world: &World) -> String {
    format!("mark-{}", world.dir.file_name().unwrap().to_str().unwrap())
}

/// `grid.sandbox` of the newest launch.
fn walls(world: &World) -> Value {
    world.records_of("payload-launch").pop().unwrap()["grid"]["sandbox"].take()
}

fn has_scopes(world: &World) -> bool {
    walls(world)["landlock"].as_str().unwrap().contains("signals")
}

// ---- Asked for, granted, refused ----

#[test]
fn only_a_site_that_grants_it_gives_it() {
    let world = World::new();
    assert_refused(
        &world.exec(&["--no-pid", "--", "/bin/true"]).output().unwrap(),
        120,
        &["--no-pid", "sandbox.pid_namespace"],
    );
    assert_eq!(world.records().last().unwrap()["event"]["action"], "payload-deny");
    // Granted and not asked for: as everywhere.
    let mut command = world.exec(&["--image"]);
    command.env("BAILEY_CONFIG", world.config(GRANTED)).arg(image());
    let output = command.args(["--", "/bin/sh", "-c", "echo $$; readlink /proc/self"]).output().unwrap();
    assert_eq!(stdout(&output).lines().next(), Some("2"));
    assert_eq!((&walls(&world)["pid_namespace"], &walls(&world)["proc"]), (&"on".into(), &"on".into()));

    let output = no_pid(&world, GRANTED, &[], "echo $$; readlink /proc/self; exec cat /proc/$$/cmdline")
        .output()
        .unwrap();
    let said = stdout(&output);
    let launch = world.records_of("payload-launch").pop().unwrap();
    let pid = launch["process"]["pid"].as_i64().unwrap();
    assert_eq!(launch["process"]["vpid"], pid);
    assert_eq!(launch["grid"]["observed"]["pid_depth"], 1);
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some(pid.to_string().as_str()), "the pilot's numbers: {said}");
    let pids = launch["grid"]["sandbox"]["pid_namespace"].as_str().unwrap();
    assert!(pids.starts_with("off: asked for, and allowed by the site"), "{pids}");
    let proc = launch["grid"]["sandbox"]["proc"].as_str().unwrap();
    assert!(proc.starts_with("off: it has no pid namespace: the outer /proc"), "{proc}");
    world.assert_closed();
    world.assert_no_trace();
}

#[test]
fn what_needs_a_pid_namespace_is_refused_without_one() {
    let world = World::new();
    let config = format!("{GRANTED}nested_namespaces = true\n");
    assert_refused(
        &no_pid(&world, &config, &["--nested"], "true").output().unwrap(),
        125,
        &["pid namespace", "--nested"],
    );
    // For everybody, without a word of the pilot's.
    let mut command = world.exec(&["--", "/bin/sh", "-c", "echo $$"]);
    command.env("BAILEY_CONFIG", world.config("[sandbox]\npid_namespace = \"off\"\n"));
    let pid = stdout(&command.output().unwrap());
    assert_eq!(
        walls(&world)["pid_namespace"].as_str().unwrap().split(": it sees").next(),
        Some("off: the site's configuration")
    );
    assert_eq!(world.records_of("payload-launch").pop().unwrap()["process"]["pid"].to_string(), pid);
}

#[test]
fn preferred_goes_without_where_the_host_forbids_one() {
    let world = World::new();
    let ids = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mut command = world.exec(&["--", "/bin/echo", "ran"]);
    command.env("BAILEY_CONFIG", world.config(GRANTED));
    let script = "echo 0 >/proc/sys/user/max_pid_namespaces && \
        exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all -- \"$@\"";
    let (user, group) = (format!("--map-user={}", ids.0), format!("--map-group={}", ids.1));
    let args = ["-U", &user, &group, "--keep-caps", "/bin/sh", "-c", script, "sh"];
    assert_eq!(stdout(&support::behind("unshare", &args, &command).output().unwrap()), "ran");
    let pids = walls(&world)["pid_namespace"].to_string();
    assert!(pids.contains("off: user.max_pid_namespaces is 0"), "{pids}");
}

// ---- Everything ends ----

/// Two daemons that left the session, one by a double fork, and a child; all ignore what can be ignored.
const DAEMONS: &str = "trap '' TERM HUP INT; (setsid /bin/sh -c 'while :; do sleep 1; done' \"$0\" >/dev/null 2>&1 &)
    (setsid /bin/sh -c '(setsid /bin/sh -c \"while :; do sleep 1; done\" \"$0\" &) ; exit' \"$0\" >/dev/null 2>&1 &)
    /bin/sh -c 'while :; do sleep 1; done' \"$0\" >/dev/null 2>&1 &";

#[test]
fn daemons_end_with_the_payload() {
    let world = World::new();
    // The control: without bailey they stay.
    let mark = mark(&world);
    let mut plain = world.command("/bin/sh");
    plain.args(["-c", &format!("{DAEMONS}\nsleep 0.3")]).arg(&mark).stdout(Stdio::null());
    assert!(plain.status().unwrap().success());
    let left = alive_with(&mark);
    assert!(left.len() >= 3, "the attack does not work: {left:?}");
    for pid in left {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    wait_for("the control's end", || alive_with(&mark).is_empty());

    let before = world.snapshot();
    let output = no_pid(&world, GRANTED, &[], &format!("{DAEMONS}\nsleep 0.3; exit 7")).output().unwrap();
    assert_eq!(code(&output), 7);
    assert_eq!(alive_with(&mark), [0; 0], "nothing may be left when bailey returns");
    world.assert_closed();
    fs::remove_file(world.path("bailey.toml")).unwrap();
    world.assert_nothing_left(&before);
}

#[test]
fn a_killed_launcher_takes_everything_with_it() {
    for moment in [0, 1, 2, 5, 10, 20, 50, 200] {
        let world = World::new();
        let mark = mark(&world);
        let mut payload = Started::new(&mut no_pid(
            &world,
            GRANTED,
            &[],
            &format!("{DAEMONS}\necho ready; while :; do sleep 1; done"),
        ));
        // At the last moment the whole tree is there; before, it may be anywhere.
        if moment == 200 {
            assert_eq!(payload.line(), "ready");
            wait_for("the tree", || alive_with(&mark).len() >= 4);
        } else {
            std::thread::sleep(Duration::from_millis(moment));
        }
        payload.signal(libc::SIGKILL);
        assert_eq!(payload.end().signal(), Some(libc::SIGKILL));
        wait_for("the tree's end", || alive_with(&mark).is_empty());
        assert_eq!(code(&world.shell(&[], "true")), 0);
        world.assert_closed();
    }
}

#[test]
fn a_killed_init_ends_the_launch_and_all() {
    let world = World::new();
    let mark = mark(&world);
    let mut payload = Started::new(&mut no_pid(
        &world,
        GRANTED,
        &[],
        &format!("{DAEMONS}\necho ready; while :; do sleep 1; done"),
    ));
    assert_eq!(payload.line(), "ready");
    wait_for("the tree", || alive_with(&mark).len() >= 4);
    let pid =
        i32::try_from(world.records_of("payload-launch")[0]["process"]["pid"].as_i64().unwrap()).unwrap();
    let init = proc_status(pid, "PPid").unwrap();
    assert!(Command::new("kill").args(["-9", &init]).status().unwrap().success());
    assert_eq!(payload.end().code(), Some(137));
    assert_eq!(alive_with(&mark), [0; 0]);
    world.assert_closed();
}

#[test]
fn the_wall_time_ends_a_fork_bomb_and_what_does_not_listen() {
    let world = World::new();
    let mark = mark(&world);
    let config = format!("{GRANTED}[limits]\npids = \"150\"\n");
    // Each forks two, for ever, some in sessions of their own; the payload's own process needs no fork to go on.
    let bomb = "trap '' TERM; b() { while :; do (b) & (setsid /bin/sh -c 'while :; do (sleep 5 &); done' \"$0\") & done; }
        (b) >/dev/null 2>&1 & while :; do :; done";
    let start = Instant::now();
    let output = no_pid(&world, &config, &["--wall-time", "2s", "--grace", "1s"], bomb).output().unwrap();
    let took = start.elapsed();
    assert_eq!(code(&output), 124, "{}", text(&output.stderr));
    assert_eq!(alive_with(&mark), [0; 0]);
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(world.records_of("payload-end")[0]["grid"]["end"]["by"], "wall-time");
}

#[test]
fn a_payload_that_is_never_released_leaves_nothing() {
    let world = World::new();
    let before = world.snapshot();
    let mut command = no_pid(&world, GRANTED, &[], "true");
    let log = world.file("file", "");
    command.env("XDG_STATE_HOME", log);
    assert_eq!(code(&command.output().unwrap()), 122, "no log, no launch");
    for file in ["file", "bailey.toml"] {
        fs::remove_file(world.path(file)).unwrap();
    }
    world.assert_nothing_left(&before);
}

// ---- The pilot's processes ----

#[test]
fn the_pilot_is_seen_and_neither_read_nor_traced() {
    let world = World::new();
    let attack = Attack::new(&world);
    let pilot = Guard(world.command("sleep").arg("1000").spawn().unwrap());
    let pid = pilot.0.id().to_string();
    let inside = |what: &[&str]| {
        let mut command = attack.exec(&world, &["--no-pid"]);
        command.env("BAILEY_CONFIG", world.config(GRANTED));
        stdout(&command.args(["--", ATTACK]).args(what).output().unwrap())
    };
    let control = attack.plain(&world, &["peek", &pid]);
    let seen = inside(&["peek", &pid]);
    assert!(!seen.lines().any(|line| line.ends_with(": ok")), "{seen}");
    for what in ["mem", "environ", "root", "cwd", "fd/0", "maps", "process_vm_readv", "pidfd_getfd"] {
        assert!(control.contains(&format!("{what}: ok")), "the attack does not work: {control}");
        let lines: Vec<&str> = seen.lines().filter(|line| line.starts_with(&format!("{what}: "))).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| !line.ends_with(": ok")), "{what}: {seen}");
    }
    // Its files in /proc, which belong to this uid: the kernel would let it write them.
    let score = format!("/proc/{pid}/oom_score_adj");
    assert!(attack.plain(&world, &["write", &score, "7"]).contains("ok"));
    assert_eq!(fs::read_to_string(&score).unwrap().trim(), "7");
    let seen = inside(&["write", &score, "9"]);
    assert!(seen.contains("EROFS"), "{seen}");
    assert_eq!(fs::read_to_string(&score).unwrap().trim(), "7");
}

#[test]
fn what_landlock_forbids_and_what_it_does_not_stands_in_the_record() {
    let world = World::new();
    let mut victim = Guard(world.command("sleep").arg("1000").spawn().unwrap());
    let script = format!("kill -0 {0} && echo reached; kill -9 -1; echo still here", victim.0.id());
    let said = stdout(&no_pid(&world, GRANTED, &[], &script).output().unwrap());
    let pids = walls(&world)["pid_namespace"].to_string();
    if has_scopes(&world) {
        assert_eq!(said, "still here");
        assert!(pids.contains("Landlock keeps it from signalling"), "{pids}");
    } else {
        assert_eq!(said, "reached\nstill here");
        assert!(pids.contains("nothing keeps it"), "{pids}");
    }
    // The control, and the truth of the other sentence.
    let said = stdout(&no_pid(&world, NO_LANDLOCK, &[], &script).output().unwrap());
    assert_eq!(said, "reached\nstill here", "all at once is for the filter to refuse");
    let pids = walls(&world)["pid_namespace"].to_string();
    assert!(pids.contains("nothing keeps it from signalling them, bailey included"), "{pids}");
    assert!(victim.0.try_wait().unwrap().is_none(), "it was killed");
}

#[test]
fn the_pilot_is_not_slowed_or_limited() {
    let world = World::new();
    let pilot = Guard(world.command("sleep").arg("1000").spawn().unwrap());
    let pid = pilot.0.id();
    let attacks = [
        format!("prlimit --pid {pid} --cpu=1:1"),
        format!("renice -n 19 -p {pid}"),
        format!("renice -n 19 -u {}", nix::unistd::geteuid()),
        format!("taskset -p 1 {pid}"),
        format!("chrt -i -p 0 {pid}"),
        format!("ionice -c 3 -p {pid}"),
    ];
    for attack in &attacks {
        let said = no_pid(&world, GRANTED, &[], attack).output().unwrap();
        assert_ne!(code(&said), 0, "{attack}: {}", text(&said.stdout));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let cpu = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap();
    assert!(cpu.contains("unlimited"), "{cpu}");
    // What a process does to itself it may do.
    let own = "prlimit --nofile=64:64 true && renice -n 5 -p 0 >/dev/null 2>&1; nice -n 3 true && ulimit -n 32 && echo fine";
    assert_eq!(stdout(&no_pid(&world, GRANTED, &[], own).output().unwrap()), "fine");
    // The control comes last: nothing takes it back.
    for attack in &attacks {
        if attack.contains("-u ") {
            continue; // would slow the test itself
        }
        let status = world.command("/bin/sh").args(["-c", attack]).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "the attack does not work: {attack}");
    }
}

// ---- A masked /proc, a read-only /proc/sys ----

/// A part of /proc is covered, as outer containers do.
const MASKED: &str = "mount --bind /dev/null /proc/version; exec $back \"$@\"";
/// And the limits cannot be written.
const READ_ONLY: &str = "mount --bind /dev/null /proc/version; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec $back \"$@\"";

#[test]
fn a_masked_proc_is_shown_where_the_site_prefers_that() {
    let world = World::new();
    let pilot = Guard(world.command("sleep").arg("1000").spawn().unwrap());
    let pid = pilot.0.id();
    let script = format!(
        "echo $$; test -e /proc/{pid} && echo sees the pilot; cat /proc/{pid}/environ; test -s /proc/version || echo masked
         test /proc/self/exe -ef /bin/sh || echo self is another; kill -0 {pid} 2>/dev/null && echo signals it
         echo 9 2>/dev/null >/proc/self/oom_score_adj || echo read-only; cat /dev/fd/0 </etc/debian_version | wc -l"
    );
    let run = |config: &str| {
        let mut command = world.exec(&["--image"]);
        command
            .env("BAILEY_CONFIG", world.config(config))
            .arg(image())
            .args(["--", "/bin/sh", "-c", &script]);
        mounted("private", MASKED, &command).output().unwrap()
    };
    assert_refused(
        &run("[sandbox]\nproc = \"required\"\n"),
        125,
        &["proc", "EPERM", "unmask", "sandbox.proc"],
    );
    let output = run("[sandbox]\nproc = \"preferred\"\n");
    assert_eq!(stdout(&output), "2\nsees the pilot\nmasked\nread-only\n1", "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("Permission denied"),
        "the pilot's environment: {}",
        text(&output.stderr)
    );
    let walls = walls(&world);
    let proc = walls["proc"].as_str().unwrap();
    assert!(proc.starts_with("off: the kernel refuses one of its own") && proc.contains("EPERM"), "{proc}");
    assert_eq!(walls["pid_namespace"], "on", "that holds all the same");
    assert!(walls["nested_namespaces_forbidden"].as_str().unwrap().starts_with("on"), "{walls}");
    // Where nothing is masked, it has its own.
    if std::env::var_os("BAILEY_TEST_SANDBOX").is_none() {
        let mut command = world.exec(&["--", "/bin/true"]);
        command.env("BAILEY_CONFIG", world.config("[sandbox]\nproc = \"preferred\"\n"));
        assert!(command.status().unwrap().success());
        assert_eq!(self::walls(&world)["proc"], "on");
    }
    world.assert_closed();
}

#[test]
fn without_limits_the_root_directory_forbids_namespaces() {
    let world = World::new();
    let attack = Attack::new(&world);
    // The control: the same host, the same uid, outside.
    let mut control = world.command(&attack.0);
    let control = stdout(&mounted("private", READ_ONLY, control.arg("namespaces")).output().unwrap());
    assert!(control.contains("unshare user: ok") || control.contains("clone: ok"), "{control}");
    // Without a filter of system calls, which forbids them as well.
    for config in ["seccomp = \"off\"\n", "seccomp = \"off\"\npid_namespace = \"off\"\n"] {
        let mut command = attack.exec(&world, &[]);
        command.env("BAILEY_CONFIG", world.config(&format!("[sandbox]\nproc = \"preferred\"\n{config}")));
        let output =
            mounted("private", READ_ONLY, command.args(["--", ATTACK, "namespaces"])).output().unwrap();
        let said = stdout(&output);
        assert!(!said.contains(": ok") && said.contains("EPERM"), "{said}");
        let forbidden = walls(&world)["nested_namespaces_forbidden"].to_string();
        assert!(
            forbidden.contains("on: by its root directory") && forbidden.contains("EROFS"),
            "{forbidden}"
        );
    }
    // Nothing of what lies above the root is in reach.
    let mut command = world.exec(&["--image"]);
    command.env("BAILEY_CONFIG", world.config("[sandbox]\nproc = \"preferred\"\n")).arg(image());
    command.args([
        "--",
        "/bin/sh",
        "-c",
        "ls -a /.. | tr '\\n' ' '; grep -c new-root /proc/self/mountinfo; ls -di / /proc/self/root/",
    ]);
    let said = stdout(&mounted("private", READ_ONLY, &command).output().unwrap());
    assert!(said.contains(" usr ") && !said.contains("new-root"), "{said}");
    world.assert_no_trace();
}

#[test]
fn check_says_what_is_weaker() {
    let world = World::new();
    let mut command = world.command(support::BAILEY);
    command
        .arg("check")
        .arg("--json")
        .env("BAILEY_CONFIG", world.config("[sandbox]\nproc = \"preferred\"\n"));
    let output = mounted("private", READ_ONLY, &command).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        let rows = report["checks"].as_array().unwrap();
        rows.iter()
            .find(|row| row["mechanism"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {name}: {report}"))
    };
    let proc = row("proc");
    assert_eq!((&proc["wanted"], &proc["state"]), (&"preferred".into(), &"off".into()), "{proc}");
    assert!(proc["change"].as_str().unwrap().contains("unmask"), "{proc}");
    assert_eq!(row("nested_namespaces_forbidden")["state"], "on");
    assert_eq!(row("pid_namespace")["state"], "on");
}

// ---- The recorder ----

#[test]
fn the_recorder_takes_it_where_its_own_configuration_grants_it() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("sandbox", "pid_namespace = \"preferred\"")]);
    let output = recorder.exec(&world, &["--no-pid", "--", "/bin/echo", "ran"]).output().unwrap();
    assert_eq!(stdout(&output), "ran");
    let launch = recorder.wait_records("payload-launch", 1).remove(0);
    assert_eq!(launch["grid"]["observed"]["pid_depth"], 1);
    assert_eq!(launch["process"]["vpid"], launch["process"]["pid"]);
    assert!(launch["grid"]["sandbox"]["pid_namespace"].as_str().unwrap().starts_with("off: asked for"));
    // The mount namespace is tied to the user namespace as ever.
    let tie = launch["grid"]["observed"]["namespaces"].as_str().unwrap();
    let plain = recorder.exec(&world, &["--", "/bin/true"]).output().unwrap();
    assert!(plain.status.success());
    let other = recorder.wait_records("payload-launch", 2).remove(1);
    assert_eq!(tie, other["grid"]["observed"]["namespaces"].as_str().unwrap());
}

#[test]
fn a_recorder_whose_site_does_not_grant_it_refuses() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let mut other = fs::read_to_string(&recorder.config).unwrap();
    match other.find("[sandbox]\n") {
        Some(at) => other.insert_str(at + "[sandbox]\n".len(), "pid_namespace = \"preferred\"\n"),
        None => other.push_str("\n[sandbox]\npid_namespace = \"preferred\"\n"),
    }
    let config = world.config(&other);
    let run = |options: &[&str]| {
        let mut command = recorder.exec(&world, options);
        command.env("BAILEY_CONFIG", &config).args(["--", "/bin/echo", "ran"]).output().unwrap()
    };
    assert_eq!(stdout(&run(&[])), "ran", "the control: with a pid namespace it is taken");
    let output = run(&["--no-pid"]);
    assert_ne!(code(&output), 0);
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("it has none of its own"), "{}", text(&output.stderr));
}

#[test]
fn a_payload_without_a_pid_namespace_is_still_known_for_one() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("sandbox", "pid_namespace = \"preferred\"")]);
    let dir = recorder.socket.parent().unwrap().display().to_string();
    // A program of this test's, which asks the recorder from inside, and outside as the control.
    let bind = format!("{dir}:{dir}:rw");
    let bins = std::path::Path::new(support::BAILEY).parent().unwrap().display().to_string();
    let ask = |outer: &mut Command| outer.args([support::BAILEY, "ps", "--json"]).output().unwrap();
    let config = recorder.config.display().to_string();
    let control = ask(world.command("env").arg(format!("BAILEY_CONFIG={config}")));
    assert!(control.status.success(), "{}", text(&control.stderr));
    let mut command =
        recorder.exec(&world, &["--no-pid", "--bind", &bind, "--bind", &bins, "--bind", &config]);
    command.arg("--env").arg(format!("BAILEY_CONFIG={config}")).arg("--");
    let output = ask(&mut command);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let deny = recorder.wait_records("payload-deny", 1).remove(0);
    let launch = recorder.wait_records("payload-launch", 1).remove(0);
    assert_eq!(deny["grid"]["parent_launch"], launch["event"]["id"]);
}
