//! Which code comes out, who said it, and that the status file and the log say the same.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod support;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use support::{World, assert_refused, code, image, status, text};

/// Signals whose default action ends a process (signal(7)); 32 and 33 are the C library's own.
fn terminating() -> impl Iterator<Item = i32> {
    let not = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]
        .into_iter()
        .chain([libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH])
        .collect::<Vec<_>>();
    (1..=31).filter(move |signal| !not.contains(signal)).chain(34..=64)
}

#[test]
fn the_payloads_code_is_baileys_code() {
    let world = World::new();
    let file = world.path("status.json");
    let codes: Vec<i32> = [0, 1, 2, 63, 64, 119].into_iter().chain(120..=129).chain([137, 143]).collect();
    let codes: Vec<i32> = codes.into_iter().chain(200..=205).chain([254, 255]).collect();
    for expected in &codes {
        let output = world.shell(&["--status-file", file.to_str().unwrap()], &format!("exit {expected}"));
        assert_eq!(code(&output), *expected);
        assert_eq!(text(&output.stderr), "");
        let said = status(&file);
        assert_eq!(said["state"], "ended");
        assert_eq!(said["exit_code"], *expected);
        assert_eq!(said["from_bailey"], false, "{expected} is the payload's");
        assert_eq!(said["payload"]["exit_code"], *expected);
        assert_eq!(said["ended_by"], "payload");
        assert!(said.get("fault").is_none() && said["payload"].get("signal").is_none(), "{said}");
    }
    let ends = world.records_of("payload-end");
    let recorded: Vec<i64> = ends.iter().map(|end| end["process"]["exit_code"].as_i64().unwrap()).collect();
    assert_eq!(recorded, codes.iter().map(|code| i64::from(*code)).collect::<Vec<_>>());
    for end in &ends {
        let success = end["process"]["exit_code"] == 0;
        assert_eq!(end["event"]["outcome"], if success { "success" } else { "failure" });
    }
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn a_signal_is_128_and_its_number() {
    let world = World::new();
    let file = world.path("status.json");
    for signal in terminating() {
        let output = world.shell(&["--status-file", file.to_str().unwrap()], &format!("kill -{signal} $$"));
        assert_eq!(code(&output), 128 + signal, "signal {signal}: {}", text(&output.stderr));
        let said = status(&file);
        assert_eq!((&said["from_bailey"], &said["ended_by"]), (&false.into(), &"payload".into()), "{said}");
        assert!(said["payload"].get("exit_code").is_none(), "{said}");
        let end = world.records_of("payload-end").pop().unwrap();
        assert_eq!(end["grid"]["end"]["signal"], said["payload"]["signal"]);
        assert_eq!(end["grid"]["end"]["by"], "payload", "nobody else sent signal {signal}");
        assert!(end["process"].get("exit_code").is_none(), "{end}");
        let name = end["grid"]["end"]["signal"].as_str().unwrap();
        match nix::sys::signal::Signal::try_from(signal) {
            Ok(known) => assert_eq!(name, known.as_str()),
            Err(_) => assert_eq!(name, format!("SIG{signal}")),
        }
    }
    world.assert_closed();
}

struct Case {
    command: &'static str,
    code: i32,
    words: &'static [&'static str],
    /// Known only at the execve: the launch has its record already.
    launched: bool,
}

fn cannot(world: &World, options: &[&str], case: &Case) {
    let file = world.path("status.json");
    let before = world.records().len();
    let mut command = world.exec(&["--status-file"]);
    command.arg(&file).arg("--image").arg(image()).args(options).args(["--", case.command]);
    let output = command.output().unwrap();
    assert_refused(&output, case.code, case.words);
    assert_eq!(text(&output.stdout), "");

    let said = status(&file);
    assert_eq!((&said["state"], &said["exit_code"]), (&"failed".into(), &case.code.into()), "{said}");
    assert_eq!((&said["from_bailey"], &said["fault"]), (&true.into(), &"user".into()), "{said}");
    assert_eq!(format!("bailey: {}\n", said["message"].as_str().unwrap()), text(&output.stderr));
    assert!(said.get("payload").is_none(), "{said}");

    let new: Vec<Value> = world.records().split_off(before);
    let actions: Vec<&str> = new
        .iter()
        .map(|record| record["event"]["action"].as_str().unwrap())
        .filter(|action| *action != "segment-open")
        .collect();
    let expected: &[&str] =
        if case.launched { &["payload-launch", "launch-failed"] } else { &["launch-failed"] };
    assert_eq!(actions, expected, "{}", case.command);
    let last = new.last().unwrap();
    assert_eq!(last["error"]["code"], case.code.to_string());
    assert_eq!(last["error"]["message"], said["message"]);
    assert_eq!(last["event"]["id"], said["id"]);
    assert_eq!(last["event"]["outcome"], "failure");
}

#[test]
fn what_cannot_be_executed() {
    let world = World::new();
    world.program("bin/no-interpreter", "#!/no/such\n");
    world.program("bin/no-hash-bang", "echo never\n");
    world.file("bin/not-executable", "#!/bin/sh\n");
    fs::set_permissions(world.path("bin/not-executable"), Permissions::from_mode(0o644)).unwrap();
    world.directory("bin/directory");
    let bind = format!("{}:/opt/bin", world.path("bin").display());
    for case in [
        Case { command: "no-such-command", code: 127, words: &["no-such-command in PATH"], launched: false },
        Case { command: "/no/such", code: 127, words: &["/no/such", "ENOENT"], launched: false },
        Case { command: "/bin/sh/x", code: 127, words: &["/bin/sh/x", "ENOTDIR"], launched: false },
        Case { command: "/opt/bin/no-interpreter", code: 127, words: &["interpreter"], launched: true },
        Case { command: "/opt/bin/not-executable", code: 126, words: &["EACCES"], launched: false },
        Case { command: "/opt/bin/directory", code: 126, words: &["EISDIR"], launched: false },
        Case { command: "/opt/bin/no-hash-bang", code: 126, words: &["ENOEXEC", "#!"], launched: true },
        Case { command: "/dev/null", code: 126, words: &["/dev/null"], launched: false },
    ] {
        cannot(&world, &["--bind", &bind], &case);
    }
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn what_lies_on_a_noexec_mount() {
    let world = World::new();
    world.program("program", "#!/bin/sh\n");
    // A noexec mount of our own, in a user namespace that has one for bailey below it.
    let script = "mount -t tmpfs -o noexec tmpfs \"$1\" && cp program \"$1\" || exit 99
        exec unshare --user --map-user=\"$2\" --map-group=\"$3\" \"$4\" exec --bind \"$1:/opt/noexec\" --image \"$5\" \
            -- /opt/noexec/program";
    let output = world
        .command("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(world.directory("mount"))
        .args([nix::unistd::getuid().to_string(), nix::unistd::getgid().to_string()])
        .args([support::BAILEY.as_ref(), image().as_os_str()])
        .output()
        .unwrap();
    assert_refused(&output, 126, &["/opt/noexec/program", "EACCES", "noexec"]);
    assert_eq!(world.records_of("launch-failed").len(), 1);
}

#[test]
fn a_found_file_that_may_not_run_does_not_hide_a_later_one() {
    let world = World::new();
    world.file("first/tool", "#!/bin/sh\necho first\n");
    fs::set_permissions(world.path("first/tool"), Permissions::from_mode(0o644)).unwrap();
    world.program("second/tool", "#!/bin/sh\necho second\n");
    let bind = format!("{}:/opt/t", world.dir.display());
    let mut command = world.exec(&["--bind", &bind, "--env", "PATH=/opt/t/none:/opt/t/first:/opt/t/second"]);
    let output = command.arg("--image").arg(image()).args(["--", "tool"]).output().unwrap();
    // The world holds the log, which a read-only bind covers.
    assert_eq!(support::stdout(&output), "second");
    let mut command = world.exec(&["--bind", &bind, "--env", "PATH=/opt/t/first"]);
    let output = command.arg("--image").arg(image()).args(["--", "tool"]).output().unwrap();
    assert_refused(&output, 126, &["/opt/t/first/tool", "EACCES"]);
}

#[test]
fn usage_is_125() {
    let image = image();
    let image = image.to_str().unwrap();
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["no command"]),
        (&["--"], &["no command"]),
        (&["--", ""], &["no command"]),
        (&["/bin/true"], &["--help"]),
        (&["--frobnicate", "--", "/bin/true"], &["--frobnicate"]),
        (&["--user", "--", "/bin/true"], &["--user"]),
        (&["--image", image, "--bind", "relative", "--", "/bin/true"], &["absolute"]),
        (&["--bind", "/no/such", "--", "/bin/true"], &["/no/such", "ENOENT"]),
        (&["--wall-time", "soon", "--", "/bin/true"], &["'soon' is not a time span"]),
        (&["--wall-time", "0", "--", "/bin/true"], &["wall time of 0 s"]),
        (&["--scratch-size", "0", "--", "/bin/true"], &["zero"]),
        (&["--env", "novalue", "--", "/bin/true"], &["NAME=VALUE"]),
        (&["--pass-env", "A=B", "--", "/bin/true"], &["'='"]),
        (&["--network", "some", "--", "/bin/true"], &["host and none"]),
        (&["--writable", "--", "/bin/true"], &["--writable"]),
        (&["--image", "/no/such", "--", "/bin/true"], &["/no/such", "ENOENT"]),
        (&["--workdir", "/no/such", "--", "/bin/true"], &["/no/such", "ENOENT"]),
        (&["--user", "a\nb", "--", "/bin/true"], &["--user", "control"]),
    ];
    let world = World::new();
    for (args, words) in table {
        let before = world.records_of("launch-failed").len();
        let output = world.exec(args).output().unwrap();
        assert_refused(&output, 125, words);
        let failed = world.records_of("launch-failed");
        assert_eq!(failed.len(), before + 1, "{args:?}");
        assert_eq!(failed.last().unwrap()["error"]["code"], "125");
    }
    world.assert_closed();
    for args in [&[][..], &["frobnicate"], &["--frobnicate"]] {
        assert_refused(&world.command(support::BAILEY).args(args).output().unwrap(), 125, &["bailey --help"]);
    }
    let nested = world.exec(&["--nested", "--", "/bin/true"]).output().unwrap();
    assert_refused(&nested, 120, &["--nested"]);
    assert_eq!(world.records_of("payload-deny").len(), 1);
}

#[test]
fn a_refusal_in_the_status_file() {
    let world = World::new();
    let file = world.path("status.json");
    let config = world.config("[identity]\nundeclared = \"deny\"\n");
    let output = world
        .exec(&["--status-file", file.to_str().unwrap(), "--", "/bin/true"])
        .env("BAILEY_CONFIG", config)
        .output()
        .unwrap();
    assert_refused(&output, 120, &["--user"]);
    let said = status(&file);
    assert_eq!(
        (&said["state"], &said["exit_code"], &said["from_bailey"]),
        (&"refused".into(), &120.into(), &true.into())
    );
    assert_eq!((&said["fault"], &said["version"]), (&"user".into(), &1.into()));
    assert_eq!(said["id"], world.records_of("payload-deny")[0]["event"]["id"]);
}

#[test]
fn a_fault_of_the_site_in_the_status_file() {
    let world = World::new();
    let file = world.path("status.json");
    // A log that cannot be made is the site's fault, and nothing runs without it.
    let state = world.file("state", "not a directory");
    let touched = world.directory("work");
    let output = world
        .exec(&["--status-file", file.to_str().unwrap(), "--workdir", touched.to_str().unwrap()])
        .args(["--", "/bin/sh", "-c", "echo ran > ran"])
        .env("XDG_STATE_HOME", state)
        .output()
        .unwrap();
    assert_refused(&output, 122, &["ENOTDIR"]);
    let said = status(&file);
    assert_eq!((&said["state"], &said["fault"]), (&"failed".into(), &"site".into()), "{said}");
    assert!(!touched.join("ran").exists(), "it ran without a record");
}

#[test]
fn a_broken_configuration_reaches_the_status_file() {
    let world = World::new();
    let file = world.path("status.json");
    let output = world
        .exec(&["--status-file", file.to_str().unwrap(), "--", "/bin/true"])
        .env("BAILEY_CONFIG", world.config("nonsense = 1\n"))
        .output()
        .unwrap();
    assert_refused(&output, 125, &["bailey.toml", "line 1"]);
    let said = status(&file);
    assert_eq!(
        (&said["state"], &said["exit_code"], &said["fault"]),
        (&"failed".into(), &125.into(), &"site".into())
    );
}

#[test]
fn status_files_that_cannot_be() {
    let world = World::new();
    let locked = world.directory("locked");
    fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
    world.directory("directory");
    world.file("file", "");
    let work = world.directory("work");
    for (name, words) in [
        ("missing/status.json", &["missing/status.json", "ENOENT"][..]),
        ("directory", &["it is a directory"]),
        ("locked/status.json", &["EACCES"]),
        ("file/status.json", &["ENOTDIR"]),
        ("..", &["it is a directory"]),
        ("", &["'--status-file <FILE>'"]),
    ] {
        let output =
            world.shell(&["--status-file", name, "--workdir", work.to_str().unwrap()], "echo ran > ran");
        assert_refused(&output, 125, words);
    }
    assert!(!work.join("ran").exists());
    assert_eq!(world.records_of("launch-failed").len(), 6);
    world.assert_closed();
}

#[test]
fn a_relative_status_file_is_the_callers() {
    let world = World::new();
    let output = world.shell(&["--status-file", "status.json"], "cd /tmp; exit 3");
    assert_eq!(code(&output), 3);
    assert_eq!(status(&world.path("status.json"))["exit_code"], 3);
    // From a directory that was deleted there is no such place.
    let gone = world.directory("gone");
    let output = world
        .command("/bin/sh")
        .args([
            "-c",
            "rmdir \"$PWD\"; exec \"$0\" exec --status-file status.json -- /bin/true",
            support::BAILEY,
        ])
        .current_dir(gone)
        .output()
        .unwrap();
    assert_refused(&output, 125, &["--status-file", "deleted"]);
    // An absolute one works from there, as everything else does.
    let gone = world.directory("gone");
    let output = world
        .command("/bin/sh")
        .args(["-c", "rmdir \"$PWD\"; exec \"$0\" exec --status-file \"$1\" -- /bin/true", support::BAILEY])
        .arg(world.path("status.json"))
        .current_dir(gone)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(status(&world.path("status.json"))["exit_code"], 0);
}

#[test]
fn the_status_file_is_replaced_whole() {
    let world = World::new();
    let dir = world.directory("out");
    let file = world.file("out/status.json", "{\"exit_code\": -1, \"old\": \"");
    fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
    let kept = fs::File::open(&file).unwrap();
    assert_eq!(code(&world.shell(&["--status-file", file.to_str().unwrap()], "exit 9")), 9);
    assert_eq!(status(&file)["exit_code"], 9);
    assert_ne!(kept.metadata().unwrap().ino(), fs::metadata(&file).unwrap().ino(), "a new file, renamed");
    assert_eq!(kept.metadata().unwrap().len(), 26, "the old one was not written into");

    // Whoever reads meanwhile sees one or the other, whole.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                seen.insert(status(&file)["exit_code"].as_i64().unwrap());
            }
            seen
        });
        for expected in 10..25 {
            assert_eq!(
                code(&world.shell(&["--status-file", file.to_str().unwrap()], &format!("exit {expected}"))),
                expected
            );
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let seen = reader.join().unwrap();
        assert!(seen.len() > 1 && seen.iter().all(|code| (9..25).contains(code)), "{seen:?}");
    });
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["status.json"], "nothing is left beside it");
}

#[test]
fn the_status_file_never_lies_where_the_payload_writes() {
    let world = World::new();
    let work = world.directory("work");
    let file = work.join("status.json");
    let options = ["--workdir", work.to_str().unwrap(), "--status-file", file.to_str().unwrap()];
    assert_refused(&world.shell(&options, "true"), 125, &["status file", "status.json"]);
}

/// Records of real launches, of every kind that a launcher writes, against the schema and against ECS.
#[test]
fn real_records_fit_the_schema_and_ecs() {
    let world = World::new();
    let config = world.config(
        "[site]\nname = \"TEST-SITE\"\npublic_ip = [\"192.0.2.7\", \"2001:db8::7\"]\n\
         [audit]\nuser_name = true\n[sandbox]\nnested_namespaces = true\n",
    );
    let work = world.directory("work");
    let data = world.directory("data");
    let document = world.file("identity.json", r#"{"name": "Zoë Å", "groups": ["/cms", "/cms/Role=pilot"]}"#);
    let everything = |last: &[&str], script: &str| {
        let mut command =
            world.exec(&["--user", "/DC=org/DC=example/CN=Zoë", "--issuer", "https://iam.example/"]);
        command
            .args(["--vo", "cms", "--group", "/cms", "--group", "/cms/Role=pilot", "--identity"])
            .arg(&document)
            .args(["--pilot", "pilot-1", "--job", "job-1", "--task", "task-1", "--writable", "--image"])
            .arg(image())
            .arg("--workdir")
            .arg(&work)
            .arg("--bind")
            .arg(format!("{}:/data:rw", data.display()))
            .args(["--bind", "/etc/hostname:/opt/hostname", "--scratch-size", "64M", "--env", "A=\u{1}\n"])
            .args(["--pass-env", "B", "--network", "none", "--nested", "--wall-time", "1h", "--grace", "1s"])
            .arg("--status-file")
            .arg(world.path("status.json"))
            .args(last)
            .args(["--", "/bin/sh", "-c", script, "\u{1b}[31m", "--password=hunter2", &"x".repeat(9000)])
            .env("BAILEY_CONFIG", &config)
            .env("B", "\u{7}");
        command.output().unwrap()
    };
    assert_eq!(code(&everything(&[], "exit 1")), 1);
    assert_eq!(code(&everything(&[], "kill -9 $$")), 137);
    assert_eq!(code(&everything(&["--job", "\u{1}"], "")), 125);
    assert_eq!(code(&world.shell(&["--wall-time", "1s"], "exec sleep 60")), 124);
    assert_eq!(code(&world.host_shell(&[], "true")), 0);
    assert_eq!(code(&world.exec(&["--nested", "--", "/bin/true"]).output().unwrap()), 120);
    assert_eq!(code(&world.exec(&["--", "/no/such"]).output().unwrap()), 127);

    let records = world.records();
    let schema: Value = serde_json::from_str(include_str!("../docs/record.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let fields = common::ecs::ecs();
    let mut actions = std::collections::BTreeSet::new();
    for record in &records {
        let errors: Vec<String> = validator.iter_errors(record).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{record}");
        let mut wrong = Vec::new();
        common::ecs::check("", record, &fields, &mut wrong);
        assert_eq!(wrong, [""; 0], "{record}");
        actions.insert(record["event"]["action"].as_str().unwrap());
    }
    let all =
        ["launch-failed", "payload-deny", "payload-end", "payload-launch", "payload-stop", "segment-open"];
    assert_eq!(actions.into_iter().collect::<Vec<_>>(), all);
    let launch = &records[1];
    assert_eq!(launch["user"]["name"], "Zoë Å");
    assert_eq!(launch["grid"]["site"]["name"], "TEST-SITE");
    assert_eq!(launch["grid"]["mounts"].as_array().unwrap().len(), 3, "{launch}");
    assert!(!launch.to_string().contains("hunter2"), "{launch}");
    world.assert_closed();
    world.assert_chain();
}
