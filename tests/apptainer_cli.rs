//! Called by the names of Apptainer, as pilots do: what is run, which code comes back, what is said, and what the log has of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use bailey::sys::terminal::{self, Size};
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::policy::{Node, entry};
use support::{BAILEY, Started, World, code, image, patience, stdout, text, wait_for};

/// `apptainer` of this world: a link, as a site makes it.
fn apptainer(world: &World) -> Command {
    named(world, "apptainer")
}

fn named(world: &World, name: &str) -> Command {
    let link = world.directory("links").join(name);
    if !link.exists() {
        symlink(BAILEY, &link).unwrap();
    }
    let mut command = world.command(link);
    command.current_dir(world.directory("cwd"));
    command
}

/// `apptainer WORDS IMAGE COMMAND`, to its end.
fn exec(world: &World, flags: &[&str], command: &[&str]) -> Output {
    apptainer(world).arg("exec").args(flags).arg(image()).args(command).output().unwrap()
}

/// It failed as Apptainer fails: 255, nothing on standard output, one line that begins with FATAL and has bailey's code and
/// these words.
fn assert_fatal(output: &Output, own: u8, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(code(output), 255, "{said}");
    assert_eq!(text(&output.stdout), "");
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("WARNING: ")).collect();
    assert_eq!(lines.len(), 1, "one line, not:\n{said}");
    assert!(lines[0].starts_with(&format!("FATAL:   bailey[{own}]: ")), "{said}");
    for word in words {
        assert!(lines[0].contains(word), "'{word}' is not in: {said}");
    }
}

/// The newest record closes a launch that did not run, and says why.
fn assert_recorded(world: &World, own: u8, words: &[&str]) {
    let record = world.records().pop().expect("a record");
    assert_eq!(record["event"]["action"], "launch-failed", "{record}");
    assert_eq!(record["error"]["code"], own.to_string());
    // All of these would fail everywhere.
    assert_eq!(record["grid"]["fault"], "user", "{record}");
    let message = record["error"]["message"].as_str().unwrap();
    assert!(!message.contains("not your fault"), "{message}");
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

#[test]
fn it_runs_and_is_recorded() {
    let world = World::new();
    let output = exec(&world, &[], &["/bin/echo", "hello"]);
    assert_eq!(stdout(&output), "hello");
    assert_eq!(text(&output.stderr), "", "standard error is the payload's");
    // Under the other name, and as a command of bailey's own.
    let other =
        named(&world, "singularity").args(["exec", "-e"]).arg(image()).args(["echo", "x"]).output().unwrap();
    assert_eq!(stdout(&other), "x");
    let own =
        world.command(BAILEY).args(["apptainer", "exec"]).arg(image()).args(["echo", "y"]).output().unwrap();
    assert_eq!(stdout(&own), "y");
    assert_eq!(world.records_of("payload-launch").len(), 3);
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn versions_are_one_line_and_leave_no_record() {
    let world = World::new();
    for name in ["apptainer", "singularity"] {
        let line = stdout(&named(&world, name).arg("--version").output().unwrap());
        assert!(line.starts_with(&format!("{name} version 1.")) && line.lines().count() == 1, "{line}");
        let version = stdout(&named(&world, name).arg("version").output().unwrap());
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    }
    let help = stdout(&apptainer(&world).args(["exec", "--help"]).output().unwrap());
    assert!(help.contains("FATAL"));
    assert_eq!(world.records().len(), 0);
}

#[test]
fn codes_and_signals_are_the_payloads() {
    let world = World::new();
    for own in [0, 1, 37, 120, 124, 125, 126, 127, 255] {
        let output = exec(&world, &["-Ceip"], &["sh", "-c", &format!("exit {own}")]);
        assert_eq!((code(&output), text(&output.stderr)), (own, String::new()));
    }
    for signal in [1, 9, 11, 15] {
        // With a handler for none of them, and as the payload itself, not a shell's child.
        let output = exec(&world, &["-c"], &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(code(&output), 128 + signal);
    }
    world.assert_closed();
}

#[test]
fn signals_of_the_pilot_arrive() {
    let world = World::new();
    let mut payload = Started::new(apptainer(&world).args(["-s", "exec", "--contain"]).arg(image()).args([
        "sh",
        "-c",
        "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done",
    ]));
    assert_eq!(payload.line(), "ready");
    payload.signal(15);
    assert_eq!(payload.end().code(), Some(42));
    world.assert_closed();
}

/// A payload that bailey stops ends as one that was killed, not with a code that could be its own.
#[test]
fn what_bailey_stops_ends_with_137() {
    let world = World::new();
    let config = world.config("[limits]\nwall_time = \"1s\"\ngrace = \"1s\"\n");
    let mut command = apptainer(&world);
    command.env("BAILEY_CONFIG", config).args(["exec"]).arg(image()).args(["sleep", "30"]);
    let begin = Instant::now();
    let output = command.output().unwrap();
    assert_stopped(code(&output), &text(&output.stderr), &["the wall time of 1 s is used up"]);
    assert!(begin.elapsed() < patience(Duration::from_secs(20)));
    let end = world.records_of("payload-end").pop().unwrap();
    assert_eq!(end["grid"]["end"]["by"], "wall-time", "{end}");
    world.assert_closed();

    // A ban, and an administrator.
    let limits = ("limits", "grace = \"1s\"");
    Node::each(&[limits, ("bans", "settle = \"0s\"")], |node| {
        let mut payload = Held::start(node, "/CN=Zoe");
        node.ban("list.toml", &entry("user", "/CN=Zoe", ""));
        let (code, said) = payload.end();
        assert_stopped(code, &said, &["it mines coins"]);
        let end = node.records_of("payload-end").pop().unwrap();
        assert_eq!(end["grid"]["end"]["by"], "ban", "{end}");
    });
    let node = Node::recorded(&[limits]);
    let mut payload = Held::start(&node, "/CN=Zoe");
    let id = node.recorder().live()[0].id.clone();
    stdout(&node.recorder().admin(&node.world, &["stop", &id, "--reason", "maintenance tonight"]));
    let (code, said) = payload.end();
    assert_stopped(code, &said, &["an administrator", "maintenance tonight"]);
    let end = node.recorder().wait_records("payload-end", 1).pop().unwrap();
    assert_eq!(end["grid"]["end"]["by"], "administrator", "{end}");
}

/// 137, and on standard error bailey's own line why; nothing in it that a caller takes for a launch that failed.
fn assert_stopped(code: i32, said: &str, words: &[&str]) {
    assert_eq!(code, 137, "{said}");
    assert!(!said.contains("FATAL:"), "{said}");
    for word in words {
        let ours = |line: &str| line.starts_with("bailey: ") && line.contains(word);
        assert!(said.lines().any(ours), "'{word}' is not in: {said}");
    }
}

/// `apptainer exec`, which waits, of a user that a document names.
struct Held {
    started: Started,
    said: PathBuf,
}

impl Held {
    fn start(node: &Node, user: &str) -> Self {
        let (mut command, said) = (apptainer(&node.world), node.world.path("held.said"));
        command.env("BAILEY_CONFIG", &node.config).env("BAILEY_IDENTITY", document(&node.world, user));
        command.args(["exec", "-C"]).arg(image()).args(["sh", "-c", "echo ready; sleep 60"]);
        command.stderr(fs::File::create(&said).unwrap());
        let mut started = Started::new(&mut command);
        assert_eq!(started.line(), "ready", "{}", fs::read_to_string(&said).unwrap());
        Self { started, said }
    }

    fn end(&mut self) -> (i32, String) {
        let code = self.started.child.0.wait().unwrap().code().expect("a code");
        (code, fs::read_to_string(&self.said).unwrap())
    }
}

fn document(world: &World, user: &str) -> PathBuf {
    world.file("who.json", &format!("{{\"user\": \"{user}\"}}"))
}

#[test]
fn too_many_at_one_time_is_fatal_with_121() {
    Node::each(&[("policy", "parallel_person = 1")], |node| {
        let mut first = Held::start(node, "/CN=Zoe");
        for words in [&["exec", "-C"][..], &["-q", "test", "-C"]] {
            let mut command = apptainer(&node.world);
            command
                .env("BAILEY_CONFIG", &node.config)
                .env("BAILEY_IDENTITY", document(&node.world, "/CN=Zoe"));
            let output = command.args(words).arg(image()).arg("true").output().unwrap();
            assert_fatal(&output, 121, &["/CN=Zoe has 1 payload"]);
        }
        let deny = node.records_of("payload-deny").pop().unwrap();
        assert_eq!(deny["error"]["code"], "121", "{deny}");
        first.started.signal(libc::SIGTERM);
        first.end();
    });
}

/// HTCondor asks so before each job: a node that cannot record must not be found by the job itself.
#[test]
fn a_node_that_cannot_record_is_found_by_the_test() {
    let world = World::new();
    let script = "#!/bin/sh\necho ran >/markers/ran\n";
    let small = world.directory("tested");
    for (link, to) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(to, small.join(link)).unwrap();
    }
    fs::create_dir(small.join("usr")).unwrap();
    world.program("tested/.singularity.d/test", script);
    let markers = format!("{}:/markers", world.directory("markers").display());
    let usr = format!("{}/usr:/usr:ro", image().display());
    let log = world.directory("log");
    let config = world.config(&format!("[audit]\ndir = \"{}\"\n", log.display()));
    let run = |words: &[&str], behind: &[&str]| {
        let mut command = apptainer(&world);
        command.env("BAILEY_CONFIG", &config).args(words).args(["-C", "-B", &markers, "-B", &usr]);
        let output = command.arg(&small).args(behind).output().unwrap();
        (output, fs::remove_file(world.path("markers/ran")).is_ok())
    };
    let exec = ["/bin/sh", "-c", "echo ran >/markers/ran"];
    let both = [(&["-q", "test"][..], &[][..]), (&["exec"], &exec)];
    fs::set_permissions(&log, fs::Permissions::from_mode(0o500)).unwrap();
    for (words, behind) in both {
        let (output, ran) = run(words, behind);
        assert_fatal(&output, 122, &["this node cannot record it", "EACCES", "not your fault"]);
        assert!(!ran, "{words:?} ran without a record");
    }
    assert_eq!(fs::read_dir(&log).unwrap().count(), 0);
    // A control: with a log that can be written they run.
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).unwrap();
    for (words, behind) in both {
        let (output, ran) = run(words, behind);
        assert!(code(&output) == 0 && ran, "{words:?} {}", text(&output.stderr));
    }
}

#[test]
fn what_cannot_be_done_is_fatal_and_recorded() {
    let world = World::new();
    let sif = world.file("image.sif", "#!/usr/bin/env run-singularity\n\0SIF_MAGIC");
    let sif = sif.to_str().unwrap().to_owned();
    let root = image();
    let root = root.to_str().unwrap();
    let long_name = format!("/etc/hosts:/mnt/{}/x", "n".repeat(256));
    let long_path = format!("/etc/hosts:{}", "/long".repeat(820));
    let many: Vec<String> = (0..4000).map(|number| format!("/etc/hosts:/mnt/{number}")).collect();
    let many = many.join(",");
    let base = world.directory("base");
    let base = base.to_str().unwrap();
    let closed = world.directory("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let closed_home = format!("{}:/srv", closed.display());
    assert_eq!(stdout(&exec(&world, &["-W", base, "-S", "/scratch"], &["echo", "control"])), "control");
    let before = world.snapshot();
    for (args, own, words) in [
        // Where nothing of bailey's own can lie over it, or there would be nothing left to run.
        (&["exec", "--scratch", "/etc", root, "true"][..], 125, &["/etc", "it would be empty"][..]),
        (&["exec", "--scratch", "/usr", root, "true"], 125, &["/usr", "it would be empty"]),
        (&["exec", "--scratch", "/dev", root, "true"], 125, &["/dev", "it would be empty"]),
        (&["exec", "--scratch", "/sys", root, "true"], 125, &["/sys", "it would be empty"]),
        (&["exec", "--scratch", "/proc", root, "true"], 125, &["/proc", "it would be empty"]),
        (&["exec", "-W", base, "--scratch", "/proc", root, "true"], 125, &["/proc", "it would be empty"]),
        (&["exec", "--scratch", "/proc/sys", root, "true"], 125, &["/proc/sys", "bailey's own"]),
        (&["exec", "--scratch", "/dev/pts", root, "true"], 125, &["/dev/pts", "bailey's own"]),
        (&["exec", "--home", "/no/such:/proc", root, "true"], 125, &["/proc", "bailey's own"]),
        (&["exec", "--home", &format!("{base}:/proc"), root, "true"], 125, &["/proc", "bailey's own"]),
        (&["exec", "-B", &format!("{base}:/dev"), root, "true"], 125, &["/dev", "bailey's own"]),
        (&["exec", "-B", &long_name, root, "true"], 125, &["--bind", "at most 255 bytes"]),
        (&["exec", "-B", &long_path, root, "true"], 125, &["--bind", "4000 in all"]),
        (&["exec", "-B", &many, root, "true"], 125, &["4000 files and directories", "500 is the most"]),
        // What is said is of the command line that was used.
        (&["exec", root, ""], 125, &["an empty word", "name a command, or use run"]),
        (&["exec", "/", "true"], 125, &["the host's own root", "name a directory"]),
        (
            &["exec", "--home", &closed_home, root, "true"],
            125,
            &["closed", "name a directory that the pilot can list"],
        ),
        (&["run", "--app", "none", root], 125, &["cannot run the app none", "--list-apps"]),
        (&["test", "--app", "none", root], 125, &["cannot test the app"]),
    ] {
        let output = apptainer(&world).args(args).output().unwrap();
        assert_fatal(&output, own, words);
        assert_recorded(&world, own, words);
        let said = text(&output.stderr);
        for other in ["-- COMMAND", "--workdir that"] {
            assert!(!said.contains(other), "{args:?}: {said}");
        }
    }
    for (args, own, words) in [
        (&["exec", "--no-such-flag", root, "true"][..], 125, &["unknown flag: --no-such-flag"][..]),
        // Of SingularityCE 4, and of Apptainer 1.5.
        (&["exec", "--oci", root, "true"], 125, &["unknown flag: --oci"]),
        (&["exec", "--device", "x", root, "true"], 125, &["--device", "-B"]),
        (&["-x", "exec", root, "true"], 125, &["unknown flag: -x"]),
        (&["exec", "--fakeroot", root, "true"], 125, &["--fakeroot"]),
        (&["exec", "--writable", root, "true"], 125, &["--writable-tmpfs"]),
        (&["exec", "--net", root, "true"], 125, &["--network none"]),
        (&["exec", "--bind"], 125, &["--bind needs a value"]),
        (&["exec", "-B", "/a:/b:/c:/d", root, "true"], 125, &["three parts"]),
        (&["exec", "-B", "/no/such/source", root, "true"], 125, &["/no/such/source", "ENOENT"]),
        (&["exec", "--mount", "type=tmpfs,dst=/x", root, "true"], 125, &["bind"]),
        (&["exec", "--memory", "lots", root, "true"], 125, &["--memory"]),
        (&["exec", "--pwd", "relative", root, "true"], 125, &["slash"]),
        (&["exec", "--env-file", "/no/such/file", root, "true"], 125, &["--env-file", "ENOENT"]),
        (&["exec", root], 125, &["needs a command"]),
        (&["exec"], 125, &["needs an image"]),
        (&["exec", "/no/such/image", "true"], 125, &["/no/such/image", "ENOENT"]),
        (&["exec", &sif, "true"], 125, &["SIF"]),
        (&["exec", "docker://alpine", "true"], 125, &["docker://alpine", "/cvmfs/"]),
        (&["exec", "instance://mine", "true"], 125, &["no instances"]),
        (&["exec", root, "/no/such/command"], 127, &["/no/such/command"]),
        (&["exec", root, "no-such-command"], 127, &["no-such-command"]),
        (&["exec", root, "/etc/passwd"], 126, &["/etc/passwd"]),
    ] {
        let output = apptainer(&world).args(args).output().unwrap();
        assert_fatal(&output, own, words);
        assert_recorded(&world, own, words);
        // Quiet is not silent about that.
        let quiet = apptainer(&world).arg("-q").args(args).output().unwrap();
        assert_fatal(&quiet, own, words);
    }
    let records = world.records().len();
    for (args, words) in [
        (&["pull", "docker://alpine"][..], "no apptainer pull"),
        (&["instance", "start", root, "x"], "bailey ps"),
        (&["frobnicate"], "none of exec"),
        (&[], "no command"),
    ] {
        assert_fatal(&apptainer(&world).args(args).output().unwrap(), 125, &[words]);
    }
    assert_eq!(world.records().len(), records, "nothing was to be run");
    world.assert_nothing_left(&before);
    world.assert_closed();
}

#[test]
fn binds_in_all_their_forms() {
    let world = World::new();
    let (a, b) = (world.file("cwd/a/file", "A"), world.file("b/file", "B"));
    let (a, b) = (a.parent().unwrap().to_str().unwrap(), b.parent().unwrap().to_str().unwrap());
    let show = |flags: &[&str], script: &str| {
        stdout(&exec(&world, &[&["-c"], flags].concat(), &["sh", "-c", script]))
    };
    assert_eq!(
        show(&["-B", &format!("{a}:/mnt/a:ro,{b}:/mnt/new/b")], "cat /mnt/a/file /mnt/new/b/file"),
        "AB"
    );
    assert_eq!(
        show(&["--bind", &format!("{a}:/mnt/a"), "--bind", &format!("{b}:/mnt/b")], "cat /mnt/*/file"),
        "AB"
    );
    assert_eq!(
        show(&["--mount", &format!("type=bind,source={b},destination=/mnt/b,ro")], "cat /mnt/b/file"),
        "B"
    );
    // Relative to the current directory, and at its own place.
    assert_eq!(show(&["-B", "a:/mnt/a"], "cat /mnt/a/file"), "A");
    assert_eq!(show(&["-B", b], &format!("cat {b}/file")), "B");
    // Writable unless it is said otherwise.
    assert_eq!(show(&["-B", &format!("{b}:/mnt/b")], "echo new > /mnt/b/made; cat /mnt/b/made"), "new");
    assert_eq!(fs::read_to_string(Path::new(b).join("made")).unwrap(), "new\n");
    let refused = show(&["-B", &format!("{b}:/mnt/b:ro")], "echo new 2>&1 > /mnt/b/other || echo no");
    assert!(refused.ends_with("no"), "{refused}");
    let by_variable = apptainer(&world)
        .env("APPTAINER_BIND", format!("{a}:/mnt/a"))
        .env("SINGULARITY_BINDPATH", format!("{b}:/mnt/b"))
        .args(["exec", "-c"])
        .arg(image())
        .args(["sh", "-c", "cat /mnt/a/file /mnt/b/file"])
        .output()
        .unwrap();
    assert_eq!(stdout(&by_variable), "AB");
    world.assert_closed();
}

#[test]
fn names_with_line_ends_and_bytes_that_are_no_text() {
    let world = World::new();
    let name = std::ffi::OsString::from_vec(b"odd\n\xff name, and: more".to_vec());
    let dir = world.path("cwd").join(&name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), "found").unwrap();
    apptainer(&world); // the link
    let before = world.snapshot();
    // A comma and a colon are written with a backslash.
    let bind = std::ffi::OsString::from_vec(b"odd\n\xff name\\, and\\: more:/mnt/x".to_vec());
    let output = apptainer(&world)
        .args(["exec", "-B"])
        .arg(bind)
        .arg(image())
        .args(["cat", "/mnt/x/file"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "found");
    let missing = apptainer(&world)
        .args(["exec", "-B", "/no\nsuch\u{1b}[31m"])
        .arg(image())
        .arg("true")
        .output()
        .unwrap();
    assert_fatal(&missing, 125, &["/no\\u{a}such"]);
    assert_recorded(&world, 125, &["/no"]);
    world.assert_nothing_left(&before);
    world.assert_closed();
}

#[test]
fn variables_of_the_call() {
    let world = World::new();
    let file = world.file("cwd/vars", "# mine\nexport FROM_FILE='a $HOME b'\nBOTH=file\n");
    let output = apptainer(&world)
        .env("APPTAINERENV_BOTH", "variable")
        .env("SINGULARITYENV_OLD", "old")
        .env("APPTAINERENV_HOME", "/elsewhere")
        .env("UNASKED", "secret of the pilot")
        .args(["exec", "-e", "--env", "LINE=x=y", "--env-file"])
        .arg(&file)
        .arg(image())
        .args(["sh", "-c", "echo \"$FROM_FILE|$BOTH|$OLD|$LINE|$UNASKED|$HOME\""])
        .output()
        .unwrap();
    let line = stdout(&output);
    assert!(line.starts_with("a $HOME b|file|old|x=y||/"), "{line}");
    assert!(!line.contains("/elsewhere"));
    let said = text(&output.stderr);
    assert!(
        said.lines().all(|line| line.starts_with("WARNING: ")) && said.contains("APPTAINERENV_HOME"),
        "{said}"
    );
    for flag in ["-q", "-s", "--silent"] {
        let mut quiet = apptainer(&world);
        quiet.env("APPTAINERENV_HOME", "/elsewhere").args([flag, "exec"]).arg(image()).arg("true");
        assert_eq!(text(&quiet.output().unwrap().stderr), "");
    }
    // Only a shell could tell.
    let file = world.file("cwd/script", "A=1\nB=$(id)\n");
    let output =
        apptainer(&world).args(["exec", "--env-file"]).arg(file).arg(image()).arg("true").output().unwrap();
    assert_fatal(&output, 125, &["line 2", "single quotes"]);
    world.assert_closed();
}

/// What `ps` shows of the launcher while the payload runs.
#[test]
fn values_of_env_are_wiped_from_the_arguments() {
    let world = World::new();
    let mut payload = Started::new(
        apptainer(&world)
            .args(["exec", "--env", "TOKEN=hunter2", "--env=OTHER=hunter2", "--docker-password", "hunter2"])
            .arg(image())
            .args(["sh", "-c", "echo $TOKEN $OTHER; cat"]),
    );
    assert_eq!(payload.line(), "hunter2 hunter2");
    let arguments = text(&fs::read(format!("/proc/{}/cmdline", payload.pid())).unwrap());
    assert!(arguments.contains("TOKEN=xxxxxxx") && !arguments.contains("hunter2"), "{arguments}");
    assert!(payload.end().success());
    let log: String = world.records().iter().map(ToString::to_string).collect();
    assert!(!log.contains("hunter2"));
}

#[test]
fn an_environment_of_a_megabyte() {
    let world = World::new();
    let mut command = apptainer(&world);
    let before = world.snapshot();
    // MAX_ARG_STRLEN is 128 KiB for one.
    for number in 0..10 {
        command.env(format!("APPTAINERENV_LARGE_{number}"), "x".repeat(100_000));
        command.env(format!("OF_THE_PILOT_{number}"), "y".repeat(10_000));
    }
    let output = command
        .args(["exec", "-e"])
        .arg(image())
        .args(["sh", "-c", "echo ${#LARGE_0} ${#LARGE_9} ${#OF_THE_PILOT_0}"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "100000 100000 0");
    world.assert_nothing_left(&before);
    world.assert_closed();
}

/// Words that ask for two things at once: the stricter one holds, or the last, as in Apptainer.
#[test]
fn contradictory_flags() {
    let world = World::new();
    let shown = world.file("shown/file", "shown\n");
    let dir = shown.parent().unwrap().to_str().unwrap();
    world.file("cwd/here", "here\n");
    let home = format!("{dir}:/srv/home");
    let says = |flags: &[&str], script: &str| {
        let mut command = apptainer(&world);
        command.env("UNASKED", "of the pilot").arg("exec").args(flags).arg(image());
        stdout(&command.args(["sh", "-c", script]).output().unwrap())
    };
    let unheeded = || world.records_of("payload-launch").pop().unwrap()["grid"]["unheeded"].to_string();

    let outer = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    for flags in [&["--pid", "--no-pid"][..], &["--no-pid", "--pid"]] {
        assert_ne!(says(flags, "readlink /proc/self/ns/pid"), outer, "{flags:?}");
    }
    // The last word on one flag counts, and the command line goes before a variable.
    assert_eq!(says(&["--contain", "--contain=false"], "cat here"), "here");
    assert_eq!(says(&["--contain=false", "--contain"], "ls here 2>/dev/null || echo none"), "none");
    let by_variable = |flags: &[&str]| {
        let mut command = apptainer(&world);
        command.env("APPTAINER_CONTAIN", "1").arg("exec").args(flags).arg(image());
        stdout(&command.args(["sh", "-c", "cat here 2>/dev/null || echo none"]).output().unwrap())
    };
    assert_eq!((by_variable(&[]), by_variable(&["--contain=false"])), ("none".into(), "here".into()));
    assert_eq!(says(&["--pwd", "/tmp", "--cwd", "/etc"], "pwd"), "/etc");
    assert_eq!(says(&["--cwd", "/etc", "--pwd", "/tmp"], "pwd"), "/tmp");
    // What takes away goes before what gives.
    assert_eq!(says(&["--home", &home], "cat ~/file"), "shown", "a control");
    for flags in [&["--home", &home, "--no-home"][..], &["--no-home", "--home", &home]] {
        assert_eq!(says(flags, "echo $HOME; cat ~/file 2>/dev/null || echo none"), "/srv/home\nnone");
    }
    assert_eq!(says(&["--contain"], "echo $UNASKED"), "of the pilot", "a control");
    assert_eq!(says(&["-C", "--cleanenv=false"], "echo $UNASKED"), "");
    for (flag, no) in [("--nv", "--no-nv"), ("--rocm", "--no-rocm")] {
        says(&[flag], "true");
        assert!(unheeded().contains(&format!("{flag}: ")), "a control: {}", unheeded());
        for flags in [[flag, no], [no, flag]] {
            says(&flags, "ls /dev | grep -c -e nvidia -e kfd; true");
            assert!(!unheeded().contains(&format!("{flag}: ")), "{}", unheeded());
        }
    }
    let write = "touch /mnt/x/made 2>/dev/null && echo written || echo not";
    assert_eq!(says(&["-B", &format!("{dir}:/mnt/x:rw")], write), "written", "a control");
    for options in ["rw,ro", "ro,rw"] {
        assert_eq!(says(&["-B", &format!("{dir}:/mnt/x:{options}")], write), "not", "{options}");
    }
    assert_eq!(says(&["--keep-privs=false", "--no-privs"], "echo ok"), "ok");
    world.assert_closed();
    // The last network is asked for, and there is none such; what is refused stays it.
    for (flags, word) in [
        (&["--network", "none", "--network", "host"][..], "--network none"),
        (&["--writable", "--writable-tmpfs"], "--writable"),
        (&["--writable-tmpfs", "--writable"], "--writable"),
        (&["--keep-privs", "--no-privs"], "--keep-privs"),
    ] {
        assert_fatal(&exec(&world, flags, &["true"]), 125, &[word]);
    }
    let interfaces = says(&["--network", "host", "--network", "none"], "grep -c : /proc/net/dev");
    assert_eq!(interfaces, "1", "loopback alone");
    world.assert_closed();
}

/// The pilot who cannot write `--status-file` into the command line names it by a variable.
#[test]
fn a_variable_names_the_status_file() {
    let world = World::new();
    let file = world.path("status.json");
    let called = |args: &[&str]| {
        let mut command = apptainer(&world);
        command.env("BAILEY_STATUS_FILE", &file).args(args);
        command
    };
    let root = image();
    let root = root.to_str().unwrap();
    let output = called(&["exec", "--compat32", root, "sh", "-c", "echo [$BAILEY_STATUS_FILE]; exit 120"])
        .output()
        .unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (120, "[]\n".to_owned()), "{}", text(&output.stderr));
    let said = support::status(&file);
    assert_eq!((&said["from_bailey"], &said["exit_code"]), (&false.into(), &120.into()), "{said}");
    // The stricter result of the site stands here as in the record, and so does what was asked for in vain.
    let unheeded = said["unheeded"].to_string();
    for word in ["apptainer.home", "apptainer.tmp", "--compat32"] {
        assert!(unheeded.contains(word), "{unheeded}");
    }
    assert_eq!(said["unheeded"], world.records_of("payload-launch")[0]["grid"]["unheeded"]);

    // It replaces nothing: the variable may be another's than the pilot's.
    fs::write(&file, "mine").unwrap();
    assert_fatal(
        &called(&["exec", root, "true"]).output().unwrap(),
        125,
        &["status.json", "replaces nothing"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    fs::remove_file(&file).unwrap();
    let victim = world.path("victim");
    symlink(&victim, &file).unwrap();
    assert_fatal(&called(&["exec", root, "true"]).output().unwrap(), 125, &["replaces nothing"]);
    assert!(!victim.exists());
    fs::remove_file(&file).unwrap();
    // What comes there while the payload runs stays as well.
    let mut payload = Started::new(&mut called(&["exec", root, "sh", "-c", "echo ready; cat"]));
    assert_eq!(payload.line(), "ready");
    fs::write(&file, "mine").unwrap();
    drop(payload.child.0.stdin.take());
    assert!(payload.end().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    fs::remove_file(&file).unwrap();
    // A call that comes to nothing says so there, too.
    assert_fatal(&called(&["exec", "--fakeroot", root, "true"]).output().unwrap(), 125, &["--fakeroot"]);
    let said = support::status(&file);
    assert_eq!((&said["state"], &said["exit_code"]), (&"failed".into(), &125.into()), "{said}");
    fs::remove_file(&file).unwrap();
    // Where HTCondor's starter calls, the environment is the job's, and the file is nobody's wish.
    let starter = world.program("condor_starter", "#!/bin/sh\n\"$@\"\nexit $?\n");
    let job = called(&["exec", root, "echo", "ran"]);
    // Its record goes to the account's home then, which is this one here.
    let job = support::behind(starter.to_str().unwrap(), &[], &job);
    assert_eq!(stdout(&support::at_home(&world, &world.path("home"), &job).output().unwrap()), "ran");
    assert!(!file.exists());
    let wrapper = world.program("some_wrapper", "#!/bin/sh\n\"$@\"\nexit $?\n");
    let job = called(&["exec", root, "echo", "ran"]);
    assert_eq!(stdout(&support::behind(wrapper.to_str().unwrap(), &[], &job).output().unwrap()), "ran");
    assert!(file.exists(), "a control");
    world.assert_closed();
}

/// Too few descriptors are this node's fault, not that of an image which is as good as any.
#[test]
fn a_limit_on_open_files_is_not_the_images_fault() {
    let world = World::new();
    let program = apptainer(&world).get_program().to_owned();
    let mut told = 0;
    for limit in 5..40 {
        let mut command = world.command("/bin/sh");
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]).arg(&program).arg("exec");
        let output =
            command.args(["-B", "/etc/hosts:/mnt/new/hosts"]).arg(image()).arg("/bin/true").output().unwrap();
        let said = text(&output.stderr);
        assert!(!said.contains("os error") && !said.contains("use an image"), "{limit}: {said}");
        if said.contains("EMFILE") {
            assert!(
                said.starts_with("FATAL:   bailey[") && said.contains("not your fault"),
                "{limit}: {said}"
            );
            told += 1;
        }
        if code(&output) == 0 {
            assert!(told > 2, "{told} of {limit}");
            return;
        }
    }
    panic!("40 descriptors are not enough");
}

#[test]
fn the_streams_are_the_payloads() {
    let world = World::new();
    let mut payload = Started::new(apptainer(&world).args(["exec", "-v", "-d"]).arg(image()).args([
        "sh",
        "-c",
        "cat; echo end",
    ]));
    drop(payload.child.0.stdin.take());
    assert_eq!(payload.line(), "end");
    assert!(payload.end().success());
}

/// A small image of its own, made out of files.
fn small(world: &World) -> PathBuf {
    let root = world.directory("small");
    for (name, content) in [
        (".singularity.d/labels.json", r#"{"org.example.b":"two","org.example.a":"one"}"#),
        (".singularity.d/runscript", "#!/bin/sh\necho run\n"),
        (".singularity.d/test", "#!/bin/sh\nexit 0\n"),
        (".singularity.d/env/90-environment.sh", "export A=b\n"),
        (".singularity.d/env/01-base.sh", "not shown\n"),
        (".singularity.d/Singularity", "bootstrap: docker\n"),
        ("scif/apps/one/scif/runscript", "#!/bin/sh\necho one\n"),
    ] {
        world.file(&format!("small/{name}"), content);
    }
    root
}

#[test]
fn inspect_reads_what_is_inside() {
    let world = World::new();
    let root = small(&world);
    let inspect = |flags: &[&str]| {
        let output = apptainer(&world).arg("inspect").args(flags).arg(&root).output().unwrap();
        stdout(&output)
    };
    assert_eq!(inspect(&[]), "org.example.a: one\norg.example.b: two");
    assert_eq!(inspect(&["-r"]), "#!/bin/sh\necho run");
    assert_eq!(inspect(&["--runscript", "--app", "one"]), "#!/bin/sh\necho one");
    assert_eq!(inspect(&["-e"]), "=== /.singularity.d/env/90-environment.sh ===\nexport A=b");
    assert_eq!(inspect(&["--list-apps"]), "one");
    let json: serde_json::Value = serde_json::from_str(&inspect(&["--json", "-l", "-t"])).unwrap();
    assert_eq!(json["type"], "container");
    assert_eq!(json["data"]["attributes"]["labels"]["org.example.a"], "one");
    assert_eq!(json["data"]["attributes"]["test"], "#!/bin/sh\nexit 0");
    let all: serde_json::Value = serde_json::from_str(&inspect(&["--all"])).unwrap();
    assert_eq!(all["data"]["attributes"]["apps"]["one"]["runscript"], "#!/bin/sh\necho one");
    assert_eq!(all["data"]["attributes"]["deffile"], "bootstrap: docker");
    // Flags stand behind the image as well.
    let behind = apptainer(&world).arg("inspect").arg(&root).arg("-r").output().unwrap();
    assert_eq!(stdout(&behind), "#!/bin/sh\necho run");

    // A link of the image leads to the image's file, never to the host's.
    let outside = world.file("secret", "of the pilot");
    let script = root.join(".singularity.d/runscript");
    fs::remove_file(&script).unwrap();
    symlink(&outside, &script).unwrap();
    assert_eq!(fs::read_to_string(&script).unwrap(), "of the pilot", "the link works outside");
    assert_eq!(inspect(&["-r"]), "");
    fs::remove_file(&script).unwrap();
    assert!(Command::new("mkfifo").arg(&script).status().unwrap().success());
    let output = apptainer(&world).args(["inspect", "-r"]).arg(&root).output().unwrap();
    assert_fatal(&output, 125, &["runscript", "FIFO"]);
    assert_fatal(&apptainer(&world).args(["inspect", "/no/such"]).output().unwrap(), 125, &["/no/such"]);
    assert_eq!(world.records().len(), 0, "nothing ran");
}

/// A few files, named again and again, and names that drive a terminal.
#[test]
fn inspect_of_an_image_that_says_too_much() {
    let world = World::new();
    let root = world.directory("talker");
    let text = world.file("text", &"x".repeat(64 << 10));
    let env = |app: usize| root.join(format!("scif/apps/a{app}/scif/env"));
    for app in 0..2 {
        fs::create_dir_all(env(app)).unwrap();
        for number in 0..60 + 30 * app {
            fs::hard_link(&text, env(app).join(format!("10-docker{number}.sh"))).unwrap();
        }
    }
    let inspect = |flags: &[&str]| apptainer(&world).arg("inspect").args(flags).arg(&root).output().unwrap();
    for (app, number) in [("a0", 60), ("a1", 90)] {
        let said = stdout(&inspect(&["--environment", "--app", app]));
        assert_eq!(said.lines().filter(|line| line.starts_with("=== ")).count(), number);
    }
    assert_fatal(&inspect(&["--all"]), 125, &["more than 8388608 bytes", "--app"]);

    // At a terminal the image's words are words; where it is none, they are what stands in the file.
    world.file("talker/.singularity.d/runscript", "one\u{1b}[2J\n\ttwo\u{9b}\n");
    assert_eq!(stdout(&inspect(&["-r"])), "one\u{1b}[2J\n\ttwo\u{9b}");
    let mut command = apptainer(&world);
    command.args(["inspect", "-r"]).arg(&root);
    let (person, inside) = Person::start(command);
    person.sees("one\\u{1b}[2J\r\n");
    person.sees("two\\u{9b}\r\n");
    drop(inside);
}

/// HTCondor's probe: a static program in a directory that has nothing else.
#[test]
fn the_probe_of_a_bare_directory() {
    let world = World::new();
    let source = world.file("exit_37.c", "int main(void) { return 37; }\n");
    let root = world.directory("bare");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let made = Command::new("cc").args(["-static", "-o"]).arg(root.join("exit_37")).arg(&source).status();
    if !made.is_ok_and(|status| status.success()) {
        support::skip("the_probe_of_a_bare_directory", "no C compiler with a static libc");
        return;
    }
    for flags in [&["-C"][..], &["--contain", "--ipc", "--cleanenv"]] {
        let output = apptainer(&world).arg("exec").args(flags).arg(&root).arg("/exit_37").output().unwrap();
        assert_eq!(code(&output), 37, "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1, "nothing was made in it");
    world.assert_closed();
}

/// The killed launcher takes the payload with it, whatever it is called.
#[test]
fn the_payload_dies_with_the_launcher() {
    let world = World::new();
    let mark = format!("6{:07}", std::process::id());
    let mut payload = Started::new(apptainer(&world).args(["exec", "-C"]).arg(image()).args([
        "sh",
        "-c",
        &format!("echo ready; sleep {mark} & wait"),
    ]));
    assert_eq!(payload.line(), "ready");
    wait_for("its child", || !support::alive_with(&mark).is_empty());
    payload.signal(9);
    payload.child.0.wait().unwrap();
    wait_for("its end", || support::alive_with(&mark).is_empty());
}

/// A person's terminal, of which the program under test has one side.
struct Person {
    master: fs::File,
    child: support::Guard,
    seen: Arc<Mutex<String>>,
}

impl Person {
    fn start(mut command: Command) -> (Self, std::os::fd::OwnedFd) {
        let (master, inside) = terminal::open().unwrap();
        terminal::set_size(master.as_fd(), Size::new(31, 71)).unwrap();
        let side = || Stdio::from(inside.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        let master = fs::File::from(master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (master.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length) = from.read(&mut piece) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
                if length == 0 {
                    return;
                }
            }
        });
        (Self { master, child: support::Guard(child), seen }, inside)
    }

    fn types(&mut self, bytes: &str) {
        self.master.write_all(bytes.as_bytes()).unwrap();
    }

    /// Waits for these words and forgets what came before their end.
    fn sees(&self, words: &str) {
        let begin = Instant::now();
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find(words) {
                seen.drain(..at + words.len());
                return;
            }
            assert!(begin.elapsed() < patience(Duration::from_secs(20)), "no {words:?} in {seen:?}");
            drop(seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// At a terminal the payload has one of its own: jobs are interrupted, held and continued in it, and the person's is as it was
/// afterwards.
#[test]
fn a_shell_at_a_terminal_has_job_control() {
    let world = World::new();
    let mut command = apptainer(&world);
    command.args(["shell", "--shell", "/bin/bash"]).arg(image());
    let (mut person, inside) = Person::start(command);
    let before = terminal::mode(inside.as_fd()).unwrap();
    // What is typed is echoed: what is waited for is put together by the shell.
    person.types("echo rea''dy; PS1=\n");
    person.sees("ready");
    person.types("stty size\n");
    person.sees("31 71");
    person.types("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    person.types("\x03");
    person.types("echo co''de $?\n");
    person.sees("code 130");
    person.types("sleep 2000\n");
    std::thread::sleep(Duration::from_millis(300));
    person.types("\x1a");
    person.sees("Stopped");
    person.types("bg; jobs; kill %1; wait; echo go''ne\n");
    person.sees("Running");
    person.sees("gone");
    // What it holds is not the person's terminal but one of its own devpts, with a name there.
    person.types(
        "tty; [ /proc/self/fd/0 -ef \"$(tty)\" ] && [ /proc/self/fd/2 -ef /dev/pts/0 ] && echo it''s own\n",
    );
    person.sees("/dev/pts/0");
    person.sees("its own");
    terminal::set_size(inside.as_fd(), Size::new(40, 90)).unwrap();
    Command::new("kill").args(["-WINCH", &person.child.0.id().to_string()]).status().unwrap();
    person.types("sleep 0.3; stty size\n");
    person.sees("40 90");
    let raw = terminal::mode(inside.as_fd()).unwrap();
    assert_ne!(raw, before, "the person's terminal hands every byte on");
    person.types("exit 7\n");
    assert_eq!(person.child.0.wait().unwrap().code(), Some(7));
    assert_eq!(terminal::mode(inside.as_fd()).unwrap(), before, "set back");
    let launch = world.records_of("payload-launch").pop().unwrap();
    assert_eq!(launch["grid"]["sandbox"]["stdio"], "relay: a terminal of its own");
    world.assert_closed();
}

/// In the background the terminal is the shell's, which must find it as it left it.
#[test]
fn in_the_background_the_terminal_stays_as_it_is() {
    let world = World::new();
    let program = apptainer(&world).get_program().to_str().unwrap().to_owned();
    let mut command = world.command("setsid");
    command.args(["-c", "-w", "/bin/sh", "-i"]).current_dir(&world.dir);
    let (mut person, _inside) = Person::start(command);
    let mode = "stty -a | grep -o -e '-*icanon' | sed s/^/mode:/\n";
    let run = format!("{program} exec {} sh -c 'echo sta''rted; sleep 1; echo en''ded'", image().display());
    person.types(&format!("{run} &\n"));
    person.sees("started");
    person.types(mode);
    person.sees("mode:icanon");
    person.types("wait\n");
    person.sees("ended");
    // And in the foreground it is set back.
    person.types(&format!("{run}\n"));
    person.sees("ended");
    person.sees("$ "); // what is typed earlier is the payload's
    person.types(mode);
    person.sees("mode:icanon");
    person.types("exit 0\n");
    assert!(person.child.0.wait().unwrap().success());
    world.assert_closed();
}

/// Without a terminal a shell reads its commands from standard input.
#[test]
fn a_shell_without_a_terminal_reads_commands() {
    let world = World::new();
    let mut shell = Started::new(apptainer(&world).arg("shell").arg(image()));
    shell.child.0.stdin.take().unwrap().write_all(b"echo one; exit 3\n").unwrap();
    assert_eq!(shell.line(), "one");
    assert_eq!(shell.end().code(), Some(3));
    world.assert_closed();
}
