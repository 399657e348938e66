//! `bailey check`: it names what is not there and why, and `--health` says "not ready" exactly where a launch fails: each
//! trouble is first shown to turn the node into a black hole.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use bailey::audit::wire::{self, Launch, Message, Resume, Welcome};
use bailey::sys::socket as sys;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::Value;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::policy::Node;
use support::raw::{Raw, fresh_id, words};
use support::recorder::Recorder;
use support::{Attack, BAILEY, World, behind, code, mounted, stdout, text};

/// A launch, and what asks about it, of one node.
struct Site<'a> {
    world: &'a World,
    config: &'a Path,
    /// How both are started: another host's limits, mounts and the like.
    host: &'a (dyn Fn(&Command) -> Command + Sync),
}

impl<'a> Site<'a> {
    fn new(world: &'a World, config: &'a Path) -> Self {
        Self { world, config, host: &|command| behind("env", &[], command) }
    }

    fn of(recorder: &'a Recorder, world: &'a World) -> Self {
        Self::new(world, &recorder.config)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.world.command(BAILEY);
        command.env("BAILEY_CONFIG", self.config).args(args);
        (self.host)(&command).output().unwrap()
    }

    /// The control: what a user's payload meets here.
    fn launch(&self) -> Output {
        self.run(&["exec", "--user", "/CN=Ada", "--", "/bin/echo", "ran"])
    }

    fn assert_launches(&self) {
        assert_eq!(stdout(&self.launch()), "ran");
    }

    /// Every launch fails here with this code: a black hole, if nobody looks.
    fn assert_black_hole(&self, expected: i32) {
        let output = self.launch();
        assert_eq!(text(&output.stdout), "", "something ran");
        assert_eq!(code(&output), expected, "{}", text(&output.stderr));
    }

    /// `--health --json`, whose exit code is the one in it.
    fn health(&self) -> Value {
        let output = self.run(&["check", "--health", "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
        assert_eq!(answer["exit_code"], code(&output), "{answer}");
        answer
    }

    /// What `--health` must say, in all its forms, and `bailey check` with it.
    fn assert_health(&self, state: &str, exit: i32, said: &[&str]) {
        let answer = self.health();
        assert_eq!(
            (answer["state"].as_str(), answer["exit_code"].as_i64()),
            (Some(state), Some(i64::from(exit))),
            "{answer}"
        );
        assert_eq!(answer["ready"], state == "ready", "{answer}");
        let reason = answer["reason"].as_str().unwrap();
        for word in said {
            assert!(reason.contains(word), "'{word}' is not in: {reason}");
        }
        let whole = self.report();
        let expected = if state == "ready" { &["ready", "degraded"][..] } else { &[state][..] };
        assert!(expected.contains(&whole["verdict"].as_str().unwrap()), "{whole}");
    }

    /// `check --json`.
    fn report(&self) -> Value {
        let output = self.run(&["check", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)));
        assert_eq!(report["exit_code"], code(&output), "{report}");
        assert_eq!(report["version"], 1);
        report
    }

    /// The row of a mechanism.
    fn row(&self, mechanism: &str) -> Value {
        let report = self.report();
        let rows = report["checks"].as_array().unwrap();
        let found: Vec<&Value> = rows.iter().filter(|row| row["mechanism"] == mechanism).collect();
        assert_eq!(found.len(), 1, "{mechanism}: {report}");
        found[0].clone()
    }

    /// The required mechanism is off, with these words in its reason and its line to change.
    fn assert_off(&self, mechanism: &str, why: &[&str], change: &str) {
        let row = self.row(mechanism);
        assert_eq!((&row["wanted"], &row["state"]), (&"required".into(), &"off".into()), "{row}");
        for word in why {
            assert!(row["why"].as_str().unwrap().contains(word), "'{word}' is not in: {row}");
        }
        assert!(row["change"].as_str().unwrap().contains(change), "{row}");
    }
}

/// A configuration without a recorder.
fn alone(world: &World, lines: &str) -> std::path::PathBuf {
    world.config(&format!(
        "[audit]\nrecorder = \"off\"\nsocket = \"{}\"\n{lines}",
        world.path("none/s").display()
    ))
}

// ---- where all is well ----

#[test]
fn a_check_obtains_a_receipt_and_runs_nothing() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    site.assert_health("ready", 0, &["receipt", "recorder"]);
    let records = recorder.wait_records("health-check", 2);
    let uid = nix::unistd::geteuid().as_raw();
    for record in &records {
        assert_eq!(record["grid"]["peer"]["uid"], uid);
        assert!(record["event"]["id"].is_null() && record["user"].is_null(), "it names nobody: {record}");
    }
    // The receipt is that of a record that is there.
    let answer = site.health();
    let seqs: Vec<Value> =
        recorder.records_of("health-check").iter().map(|record| record["chain"]["seq"].clone()).collect();
    assert!(seqs.contains(&answer["receipt"]), "{answer} {seqs:?}");
    for action in ["payload-launch", "payload-end", "payload-deny", "launch-failed"] {
        assert!(recorder.records_of(action).is_empty(), "{action}");
    }
    assert!(recorder.live().is_empty());
    site.assert_launches();
    recorder.assert_chain(&world);
    world.assert_no_trace();
}

#[test]
fn the_table_names_every_mechanism_and_ends_with_a_verdict() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    let report = site.report();
    let rows = report["checks"].as_array().unwrap();
    let off: Vec<&Value> = rows
        .iter()
        .filter(|row| row["wanted"] == "required" && row["state"] != "on" && row["mechanism"] != "recorder")
        .collect();
    assert!(off.is_empty(), "{off:?}");
    for mechanism in [
        "configuration",
        "ban_lists",
        "clock",
        "user_namespace",
        "mount_namespace",
        "pid_namespace",
        "ipc_namespace",
        "network_namespace",
        "nested_namespaces_forbidden",
        "read_only_root",
        "private_dev_tmp_run",
        "proc",
        "session_keyring",
        "no_capabilities",
        "no_new_privs",
        "seccomp",
        "landlock",
        "recorder",
        "receipt",
        "log_space",
        "log_leaves_host",
    ] {
        assert_eq!(rows.iter().filter(|row| row["mechanism"] == mechanism).count(), 1, "{mechanism}");
    }
    let page = include_str!("../docs/check.md");
    for row in rows {
        let name = row["mechanism"].as_str().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/check.md does not know {name}");
    }
    // A recorder of the pilot's own account keeps nothing from it.
    let row = site.row("recorder");
    assert_eq!(row["state"], "weaker", "{row}");
    assert!(row["why"].as_str().unwrap().contains("this very account"), "{row}");

    let output = site.run(&["check"]);
    let said = text(&output.stdout);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("Ready, with warnings: ") && last.contains("recorder"), "{said}");
    assert_eq!(code(&output), 1, "{said}");
    assert!(said.lines().next().unwrap().starts_with("MECHANISM"), "{said}");
    assert!(
        said.contains("\nTo change it:\n") && said.contains("  recorder: run it as an account of its own"),
        "{said}"
    );
    // Columns are aligned: each state begins where its heading does.
    let column = said.lines().next().unwrap().find("STATE").unwrap();
    for line in said.lines().skip(1).take_while(|line| !line.is_empty()) {
        let state = line[column..].split(' ').next().unwrap();
        assert!(["on", "off", "weaker", "unknown"].contains(&state), "{line}");
    }
}

#[test]
fn without_a_recorder_the_embedded_log_gives_the_receipt() {
    let world = World::new();
    let config = alone(&world, "");
    let site = Site::new(&world, &config);
    site.assert_health("ready", 0, &["embedded"]);
    assert_eq!(world.records_of("health-check").len(), 2);
    assert_eq!(site.row("recorder")["wanted"], "off");
    let row = site.row("log_directory");
    assert!(row["why"].as_str().unwrap().contains("can change it"), "{row}");
    site.assert_launches();
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn nobodys_rules_and_bans_decide() {
    let node = Node::recorded(&[
        ("identity", "undeclared = \"deny\""),
        ("policy", "default = \"deny\""),
        ("bans", "settle = \"0s\""),
    ]);
    let recorder = node.recorder.as_ref().unwrap();
    let site = Site::of(recorder, &node.world);
    site.assert_black_hole(120); // for Ada, by the site's own rules
    site.assert_health("ready", 0, &[]);
    // And it is no way around them: nothing ran, and no launch was recorded.
    assert!(recorder.records_of("payload-launch").is_empty());
}

#[test]
fn an_answer_for_htcondor_and_one_for_slurm() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    let output = site.run(&["check", "--health", "--classad"]);
    let said = stdout(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "BaileyReady = true", "{said}");
    assert!(lines[1] == "BaileyState = \"ready\"" && lines[2].starts_with("BaileyReason = \""), "{said}");
    let checked: i64 = lines[3].strip_prefix("BaileyChecked = ").unwrap().parse().unwrap();
    assert!((bailey::audit::Timestamp::now().unix_millis() as i64 / 1000 - checked).abs() < 60);
    assert_eq!(lines[4], "-", "{said}");
    let output = site.run(&["check", "--health"]);
    assert!(stdout(&output).starts_with("ready: "));
    assert_eq!(code(&site.run(&["check", "--classad"])), 3, "it belongs to --health");
    assert_eq!(code(&site.run(&["check", "--no-such-option"])), 3);
}

// ---- the log is in trouble ----

#[test]
fn a_recorder_that_does_not_run() {
    let world = World::new();
    let mut recorder = Recorder::with(&world, &[("audit", "wait = \"1s\"")]);
    Site::of(&recorder, &world).assert_health("ready", 0, &[]);
    recorder.kill();
    let site = Site::of(&recorder, &world);
    site.assert_black_hole(122);
    site.assert_health("not-ready", 2, &["cannot reach the recorder", "systemctl start"]);
    site.assert_off("receipt", &["ECONNREFUSED"], "systemctl start bailey-recorder.socket");
    assert_eq!(site.row("recorder")["state"], "off");
    recorder.restart();
    Site::of(&recorder, &world).assert_health("ready", 0, &[]);
}

#[test]
fn a_recorder_that_hangs() {
    let world = World::new();
    let recorder = Recorder::with(&world, &[("audit", "wait = \"1s\"")]);
    let site = Site::of(&recorder, &world);
    site.assert_launches();
    recorder.signal("STOP");
    site.assert_black_hole(122);
    let begun = Instant::now();
    assert_eq!(site.health()["state"], "not-ready");
    assert!(
        begun.elapsed() < support::patience(Duration::from_secs(5)),
        "it hung as well: {:?}",
        begun.elapsed()
    );
    site.assert_health("not-ready", 2, &["recorder"]);
    recorder.signal("CONT");
    site.assert_health("ready", 0, &[]);
}

#[test]
fn a_full_disk_under_the_recorder() {
    let world = World::new();
    for (size, room) in [("96m", true), ("8m", false)] {
        let mut recorder =
            Recorder::at(&world.directory(&format!("recorder-{size}")), &[("recorder", "reserve = \"32M\"")]);
        let script = format!(
            "mount -t tmpfs -o size={size},mode=700 none {}; exec $back \"$@\"",
            recorder.log.display()
        );
        recorder.adopt(mounted("private", &script, &recorder.command()));
        let site = Site::of(&recorder, &world);
        if room {
            site.assert_launches();
            site.assert_health("ready", 0, &[]);
        } else {
            site.assert_black_hole(122);
            site.assert_health("not-ready", 2, &["no room"]);
            site.assert_off("receipt", &["no room", "reserve"], "space");
        }
    }
}

#[test]
fn a_full_disk_under_the_embedded_log() {
    let world = World::new();
    let log = world.directory("log");
    let config = alone(&world, &format!("dir = \"{}\"\n", log.display()));
    let on = |fill: &str| {
        let script =
            format!("mount -t tmpfs -o size=1m,mode=700 none {0}; {fill}; exec $back \"$@\"", log.display());
        move |command: &Command| mounted("private", &script, command)
    };
    let empty = on("true");
    let site = Site { host: &empty, ..Site::new(&world, &config) };
    site.assert_launches();
    site.assert_health("ready", 0, &[]);
    // 1 MiB is little for a log, and said before it is none.
    assert_eq!(site.row("log_space")["state"], "weaker");
    let full = on(&format!("cat /dev/zero >{}/filler 2>/dev/null || true", log.display()));
    let site = Site { host: &full, ..Site::new(&world, &config) };
    site.assert_black_hole(122);
    site.assert_health("not-ready", 2, &["ENOSPC"]);
    site.assert_off("receipt", &["ENOSPC"], "free space");
}

#[test]
fn an_embedded_log_that_cannot_be_written() {
    let world = World::new();
    let dir = world.directory("log");
    let config = alone(&world, &format!("dir = \"{}\"\n", dir.display()));
    let site = Site::new(&world, &config);
    site.assert_launches();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    site.assert_black_hole(122);
    site.assert_health("not-ready", 2, &[dir.to_str().unwrap(), "EACCES"]);
    // Others who may write in it are as bad.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    site.assert_black_hole(122);
    site.assert_health("not-ready", 2, &["others may write"]);
    site.assert_off("receipt", &["others may write"], "chmod go-w");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    site.assert_health("ready", 0, &[]);
}

// ---- the site says no ----

#[test]
fn a_drained_node_is_not_ready_and_is_no_alarm() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    let flag = recorder.socket.parent().unwrap().join("drain");
    fs::write(&flag, "new \"kernel\"\n").unwrap();
    site.assert_black_hole(120);
    site.assert_health("draining", 1, &["new \"kernel\""]);
    let said = text(&site.run(&["check", "--health", "--classad"]).stdout);
    assert!(said.starts_with("BaileyReady = false\nBaileyState = \"draining\"\n"), "{said}");
    assert!(said.contains("new \\\"kernel\\\""), "{said}");
    assert!(text(&site.run(&["check"]).stdout).lines().last().unwrap().starts_with("Draining: "));
    assert!(recorder.records_of("health-check").is_empty());
    fs::remove_file(&flag).unwrap();
    site.assert_health("ready", 0, &[]);
}

#[test]
fn a_configuration_that_cannot_be_used() {
    let world = World::new();
    let config = world.config("[audit]\nrecoder = \"off\"\n");
    let site = Site::new(&world, &config);
    site.assert_black_hole(125);
    site.assert_health("not-ready", 2, &["recoder", "line 2"]);
    site.assert_off("configuration", &["recoder", "line 2"], "");
    let config = alone(&world, "");
    Site::new(&world, &config).assert_health("ready", 0, &[]);
}

#[test]
fn ban_lists_that_close_the_node() {
    for (trouble, lines, said) in [
        ("stale", "stale = \"closed\"", "bans.stale"),
        ("unreadable", "unreadable = \"closed\"", "bans.unreadable"),
    ] {
        let node =
            Node::embedded(&[("bans", "max_age = \"1h\""), ("bans", lines), ("bans", "settle = \"0s\"")]);
        let site = Site::new(&node.world, &node.config);
        let list = node.bans.join("site.toml");
        fs::write(&list, "# nobody\n").unwrap();
        fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
        site.assert_launches();
        site.assert_health("ready", 0, &[]);
        if trouble == "stale" {
            let old = std::time::SystemTime::now() - Duration::from_secs(7200);
            fs::File::options().write(true).open(&list).unwrap().set_modified(old).unwrap();
        } else {
            fs::write(&list, "[[ban]]\nnonsense = 1\n").unwrap();
        }
        site.assert_black_hole(120);
        site.assert_health("not-ready", 2, &["site.toml", "bailey ban check"]);
        let row = site.row("ban_lists");
        assert_eq!((&row["wanted"], &row["state"]), (&"required".into(), &"off".into()), "{row}");
        assert!(row["why"].as_str().unwrap().contains(said), "{row}");
    }
}

#[test]
fn a_list_in_trouble_that_closes_nothing_is_a_warning() {
    let node = Node::embedded(&[
        ("bans", "stale = \"warn\""),
        ("bans", "max_age = \"1h\""),
        ("bans", "settle = \"0s\""),
    ]);
    let site = Site::new(&node.world, &node.config);
    let list = node.bans.join("site.toml");
    fs::write(&list, "# nobody\n").unwrap();
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    fs::File::options().write(true).open(&list).unwrap().set_modified(old).unwrap();
    site.assert_launches();
    site.assert_health("ready", 0, &[]);
    let row = site.row("ban_lists");
    assert_eq!((&row["wanted"], &row["state"]), (&"preferred".into(), &"weaker".into()), "{row}");
    assert_eq!(site.report()["exit_code"], 1);
}

#[test]
fn another_configuration_than_the_recorders_is_a_black_hole() {
    let world = World::new();
    let recorder =
        Recorder::with(&world, &[("recorder", "foreign_config = \"refuse\""), ("audit", "wait = \"3s\"")]);
    let site = Site::of(&recorder, &world);
    site.assert_launches();
    site.assert_health("ready", 0, &[]);
    let mut other = fs::read_to_string(&recorder.config).unwrap();
    other.push_str("\n[site]\nname = \"elsewhere\"\n");
    let config = world.config(&other);
    let site = Site::new(&world, &config);
    site.assert_black_hole(120);
    site.assert_health("not-ready", 2, &["another configuration than this node's recorder"]);
}

// ---- the host has no walls ----

#[test]
fn a_limit_on_namespaces_is_named_with_its_kind() {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let ids = [format!("--map-user={uid}"), format!("--map-group={gid}")];
    for (kind, mechanism) in [
        ("user", "user_namespace"),
        ("mnt", "mount_namespace"),
        ("ipc", "ipc_namespace"),
        ("cgroup", "cgroup_namespace"),
    ] {
        let world = World::new();
        let config = alone(&world, "");
        let limited = |limit: &str, command: &Command| {
            let script = format!(
                "echo {limit} >/proc/sys/user/max_{kind}_namespaces && \
                 exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all -- \"$@\""
            );
            let args = ["-U", &ids[0], &ids[1], "--keep-caps", "/bin/sh", "-c", &script, "sh"];
            behind("unshare", &args, command)
        };
        let roomy = |command: &Command| limited("100", command);
        let site = Site { host: &roomy, ..Site::new(&world, &config) };
        site.assert_launches();
        site.assert_health("ready", 0, &[]);
        let none = |command: &Command| limited("0", command);
        let site = Site { host: &none, ..Site::new(&world, &config) };
        site.assert_black_hole(125);
        let sysctl = format!("user.max_{kind}_namespaces is 0");
        site.assert_health("not-ready", 2, &[&sysctl, "sysctl -w"]);
        site.assert_off(mechanism, &[&sysctl], "sysctl -w");
        let others = if kind == "user" { "unknown" } else { "on" };
        assert_eq!(site.row("uts_namespace")["state"], others, "only one is at fault");
    }
}

#[test]
fn a_network_namespace_is_shown_although_nobody_asked_for_one() {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let ids = [format!("--map-user={uid}"), format!("--map-group={gid}")];
    let world = World::new();
    let config = alone(&world, "");
    assert_eq!(Site::new(&world, &config).row("network_namespace")["state"], "on");
    let script = "echo 0 >/proc/sys/user/max_net_namespaces && \
                  exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all -- \"$@\"";
    let args = ["-U", &ids[0], &ids[1], "--keep-caps", "/bin/sh", "-c", script, "sh"];
    let limited = |command: &Command| behind("unshare", &args, command);
    let site = Site { host: &limited, ..Site::new(&world, &config) };
    let row = site.row("network_namespace");
    assert_eq!(row["state"], "off", "{row}");
    assert!(row["why"].as_str().unwrap().contains("user.max_net_namespaces is 0"), "{row}");
    site.assert_launches();
    site.assert_health("ready", 0, &[]);
}

#[test]
fn what_an_outer_container_hides_is_named() {
    let world = World::new();
    let config = alone(&world, "");
    for set_up in [
        "mount --bind /dev/null /proc/version",
        "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys",
    ] {
        let script = format!("{set_up}; exec $back \"$@\"");
        let masked = |command: &Command| mounted("private", &script, command);
        let site = Site { host: &masked, ..Site::new(&world, &config) };
        site.assert_black_hole(125);
        site.assert_health("not-ready", 2, &["proc", "unmask"]);
        site.assert_off("proc", &["proc"], "unmask");
        assert_eq!(site.row("user_namespace")["state"], "on", "what came before it works");
        assert_eq!(site.row("no_new_privs")["state"], "unknown", "what comes behind it was not reached");
        // The log is not at fault, and is not said to be.
        assert_eq!(site.row("receipt")["state"], "unknown");
    }
}

#[test]
fn a_seccomp_policy_that_forbids_clone3_is_named() {
    let world = World::new();
    let attack = Attack::new(&world);
    let program = attack.0.to_str().unwrap();
    let config = alone(&world, "");
    let filtered = |command: &Command| behind(program, &["exec-no-clone3", "38", "--"], command);
    let site = Site { host: &filtered, ..Site::new(&world, &config) };
    site.assert_black_hole(125);
    site.assert_health("not-ready", 2, &["clone3", "ENOSYS", "seccomp"]);
    site.assert_off("user_namespace", &["ENOSYS"], "clone3");
}

#[test]
fn root_is_told_how_to_ask_as_a_pilot() {
    let world = World::new();
    let config = alone(&world, "");
    let as_root = |command: &Command| behind("unshare", &["-Ur"], command);
    let site = Site { host: &as_root, ..Site::new(&world, &config) };
    site.assert_black_hole(120);
    site.assert_health("unknown", 3, &["root is not a pilot", "runuser -u PILOT -- bailey check"]);
}

// ---- nobody gets more by it than an answer ----

#[test]
fn an_account_that_checks_all_the_time_does_not_fill_the_log() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    let begun = Instant::now();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..10).map(|_| site.health()).collect::<Vec<_>>())).collect();
        asked.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
    });
    // Ten, and one more for each second; the others were looked at, and say that they prove less.
    let most = 11 + begun.elapsed().as_secs() as usize;
    let recorded = recorder.records_of("health-check").len();
    assert!((10..=most).contains(&recorded), "{recorded} of at most {most}");
    assert!(answers.iter().all(|answer| answer["state"] == "ready"), "{answers:?}");
    let unproven: Vec<&Value> = answers.iter().filter(|answer| answer["receipt"].is_null()).collect();
    assert_eq!(unproven.len(), 40 - recorded);
    for answer in unproven {
        assert_eq!(answer["exit_code"], 1);
        assert!(answer["reason"].as_str().unwrap().contains("more than once a second"), "{answer}");
    }
}

/// What a forged launcher gets for a check.
#[test]
fn a_check_without_a_payload_gets_no_receipt() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let id = fresh_id();
    let record = bailey::audit::Record::new(bailey::audit::record::Action::PayloadLaunch, id);
    let claim = |namespaces: &[&str]| {
        Message::Health(Launch {
            id: id.to_string(),
            nested: false,
            namespaces: namespaces.iter().map(|kind| (*kind).to_owned()).collect(),
            record: Box::new(record.clone()),
        })
    };
    let mut raw = Raw::greeted(&recorder.socket);
    // No descriptors; then this test itself as payload and init: it is no child of an init, and not locked in.
    let said = raw.refused(&claim(&["user", "pid"]), &[]);
    assert!(said.contains("defect") || said.contains("descriptor"), "{said}");
    let own = bailey::sys::pidfd::open(std::process::id() as i32).unwrap();
    let user = fs::File::open("/proc/self/ns/user").unwrap();
    let pid = fs::File::open("/proc/self/ns/pid").unwrap();
    let said = raw.refused(&claim(&["user", "pid"]), &[own.as_fd(), own.as_fd(), user.as_fd(), pid.as_fd()]);
    assert!(said.contains("does not accept the payload"), "{said}");
    // Before the greeting it is nothing at all.
    let mut early = Raw::new(&recorder.socket);
    let said = words(early.ask(&claim(&[]), &[]));
    assert!(said.contains("Health"), "{said}");
    assert!(recorder.records_of("health-check").is_empty());
}

#[test]
fn a_receipt_of_a_check_is_no_launch() {
    let world = World::new();
    let recorder = Recorder::start(&world);
    let site = Site::of(&recorder, &world);
    let seq = site.health()["receipt"].as_u64().unwrap();
    site.assert_launches();
    let records = recorder.records();
    let at = records.iter().position(|record| record["chain"]["seq"] == seq).unwrap();
    // The next line names its hash.
    let hash = records[at + 1]["chain"]["prev"].as_str().unwrap().to_owned();
    let mut raw = Raw::greeted(&recorder.socket);
    let said = raw.refused(&Message::Resume(Resume { id: fresh_id().to_string(), seq, hash }), &[]);
    assert!(!said.is_empty());
    assert!(recorder.live().is_empty());
}

#[test]
fn an_older_recorder_is_not_asked_what_it_does_not_know() {
    let world = World::new();
    let dir = world.directory("old");
    let path = dir.join("recorder.sock");
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    let config =
        world.config(&format!("[audit]\nrecorder = \"required\"\nsocket = \"{}\"\n", path.display()));
    // One that speaks the protocol as it was before checks: no word of them in its welcome, and hello is all it hears.
    let old = std::thread::spawn(move || {
        let line = sys::accept(listener.as_fd()).unwrap();
        let mut buffer = vec![0; wire::MAX_PACKET];
        let mut heard = Vec::new();
        loop {
            match sys::receive(line.as_fd(), &mut buffer) {
                Ok(received) if received.length == 0 => return heard,
                Ok(received) => {
                    let packet = wire::decode(&buffer[..received.length]).unwrap();
                    heard.push(packet.message.name());
                    let welcome = Message::Welcome(Welcome {
                        version: 1,
                        writer: "recorder-9".into(),
                        draining: None,
                        health: false,
                        early: false,
                    });
                    let bytes = wire::encode(1, packet.serial, &welcome).unwrap();
                    assert!(!text(&bytes).contains("health"));
                    sys::send(line.as_fd(), &bytes, &[]).unwrap();
                }
                Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return heard,
            }
        }
    });
    let answer = Site::new(&world, &config).health();
    assert_eq!(
        (&answer["state"], &answer["ready"], &answer["exit_code"]),
        (&"ready".into(), &true.into(), &1.into()),
        "{answer}"
    );
    assert!(answer["reason"].as_str().unwrap().contains("not proven"), "{answer}");
    assert_eq!(old.join().unwrap(), ["Hello"]);
}

#[test]
fn the_launchers_own_word_runs_nothing_and_is_refused_to_nobody() {
    let world = World::new();
    let config = alone(&world, "");
    let site = Site::new(&world, &config);
    // Whatever stands behind it is no command.
    let marker = world.path("ran");
    let output = site.run(&["probe", "--", "/bin/touch", marker.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    let found: bailey::probe::Findings = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found.stood && found.troubles.is_empty(), "{found:?}");
    assert!(!marker.exists());
    assert!(world.records_of("payload-launch").is_empty());
    let refused = site.run(&["check", "surplus"]);
    assert_eq!(code(&refused), 3);
    assert!(text(&refused.stderr).contains("no option"));
}
