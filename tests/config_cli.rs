//! The site's configuration as the programs see it; help, version and the dry run.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use support::{BAILEY, World, alive_with, assert_refused, code, image, stdout, text};

/// `program ARGS` with this configuration.
fn with(world: &World, config: &Path, args: &[&str]) -> Command {
    let mut command = world.command(BAILEY);
    command.args(args).env("BAILEY_CONFIG", config);
    command
}

fn run(world: &World, config: &Path, args: &[&str]) -> Output {
    with(world, config, args).output().unwrap()
}

const TRUE: [&str; 3] = ["exec", "--", "/bin/true"];

#[test]
fn a_configuration_that_cannot_be_used_stops_the_launch() {
    let world = World::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let write = |name: &str, text: &str, bits| {
        let path = world.file(name, text);
        mode(&path, bits);
        path
    };
    let good = "[limits]\ngrace = \"5s\"\n";
    world.directory("directory");
    nix::unistd::mkfifo(&world.path("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let cases = [
        (write("unreadable", good, 0), &["EACCES"][..]),
        (write("group", good, 0o664), &["0664", "chmod go-w"]),
        (write("world", good, 0o646), &["0646", "chmod go-w"]),
        (write("typo", "[limits]\ngrase = \"5s\"\n", 0o644), &["typo, line 2, column 1", "grase"]),
        (write("value", "[limits]\ngrace = \"soon\"\n", 0o644), &["line 2", "soon"]),
        (write("syntax", "[limits\n", 0o644), &["line 1"]),
        (write("huge", &"#".repeat((1 << 20) + 1), 0o644), &["larger"]),
        (write("shown", "[audit]\ndir = \"/usr/log\"\n", 0o644), &["/usr", "must not see the log"]),
        (world.path("missing"), &["ENOENT"]),
        (world.path("directory"), &["directory"]),
        (world.path("fifo"), &["FIFO"]),
    ];
    for (path, words) in &cases {
        assert_refused(&run(&world, path, &TRUE), 125, words);
        let validate = run(&world, path, &["config", "validate"]);
        assert_eq!(code(&validate), 2, "{}", path.display());
        assert_eq!(text(&validate.stderr).lines().count(), 1, "{}", text(&validate.stderr));
        assert!(words.iter().all(|word| text(&validate.stderr).contains(word)), "{}", text(&validate.stderr));
    }
    assert!(world.records().is_empty(), "nothing ran");
    // The control: the same text, writable by nobody else.
    assert_eq!(code(&run(&world, &write("good", good, 0o644), &TRUE)), 0);
}

#[test]
fn somebody_elses_configuration_is_not_trusted() {
    // A file that belongs to neither root nor the caller; bailey sees root's as uid 65534 in a namespace that maps only us.
    let world = World::new();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/etc/hostname").unwrap());
    assert_eq!(owner, 0);
    let output = world
        .command("unshare")
        .args(["--user", &format!("--map-user={}", nix::unistd::getuid()), BAILEY])
        .args(TRUE)
        .env("BAILEY_CONFIG", "/etc/hostname")
        .output()
        .unwrap();
    assert_refused(&output, 125, &["it belongs to uid 65534", "chown"]);
}

#[test]
fn validate_names_what_is_right_and_what_is_wrong() {
    let world = World::new();
    let good = world.config("[site]\nname = \"X\"\n");
    let path = good.to_str().unwrap();
    assert_eq!(stdout(&run(&world, &good, &["config", "validate"])), format!("{path}: ok"));
    let bad = world.file("bad.toml", "[site]\nnam = \"X\"\n");
    let output = world.admin(&["config", "validate", path, bad.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    let said = text(&output.stderr);
    assert!(
        said.contains("bad.toml, line 2, column 1") && said.contains("nam") && said.lines().count() == 1,
        "{said}"
    );
    // The commented default that is shipped.
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/bailey.toml");
    assert_eq!(stdout(&world.admin(&["config", "validate", shipped])), format!("{shipped}: ok"));
    if Path::new("/etc/bailey").exists() {
        support::skip("validate_without_a_file", "this host has a configuration in /etc/bailey");
        return;
    }
    let nothing = stdout(&world.admin(&["config", "validate"]));
    assert_eq!(nothing, "no configuration file: the defaults hold");
}

#[test]
fn show_prints_a_configuration_again() {
    let world = World::new();
    let config = world.config("[site]\nname = \"TEST\"\n[limits]\nwall_time = \"2h\"\n");
    let shown = stdout(&run(&world, &config, &["config", "show"]));
    assert!(shown.contains("name = \"TEST\"") && shown.contains("wall_time = \"2h\""), "{shown}");
    assert!(shown.contains(&format!("# from {}", config.display())), "{shown}");
    let values = |text: &str| -> String { text.lines().filter(|line| !line.starts_with('#')).collect() };
    fs::write(&config, &shown).unwrap();
    assert_eq!(values(&stdout(&run(&world, &config, &["config", "show"]))), values(&shown));
}

#[test]
fn the_configurations_digest_is_recorded() {
    let world = World::new();
    let config = world.config("[site]\nname = \"TEST\"\n");
    assert_eq!(code(&run(&world, &config, &TRUE)), 0);
    let shown = stdout(&run(&world, &config, &["config", "show"]));
    let launch = &world.records_of("payload-launch")[0];
    let hash = launch["grid"]["policy"]["config_hash"].as_str().unwrap();
    assert!(shown.contains(&format!("# sha256 {hash}")), "{hash}: {shown}");
    let sum = Command::new("sha256sum").arg(&config).output().unwrap();
    assert!(stdout(&sum).starts_with(hash));
    assert_eq!(launch["grid"]["site"]["name"], "TEST");
}

#[test]
fn the_sites_wall_time_is_the_most() {
    let world = World::new();
    let config = world.config("[limits]\nwall_time = \"1s\"\ngrace = \"1s\"\n");
    assert_refused(
        &run(&world, &config, &["exec", "--wall-time", "2s", "--", "/bin/true"]),
        125,
        &["limits.wall_time", "1 s at most"],
    );
    assert_eq!(code(&run(&world, &config, &["exec", "--wall-time", "1s", "--", "/bin/true"])), 0);
    // And it holds when nothing is asked.
    let output = run(&world, &config, &["exec", "--", "/bin/sleep", "1000"]);
    assert_eq!(code(&output), 124, "{}", text(&output.stderr));
    assert_eq!(world.records_of("payload-end").last().unwrap()["grid"]["end"]["by"], "wall-time");
    assert_eq!(world.records_of("payload-launch").last().unwrap()["grid"]["limits"]["wall_time"], 1);
}

#[test]
fn what_the_configuration_says_holds() {
    let world = World::new();
    let logs = world.directory("logs");
    let config = world.config(&format!(
        "[audit]\ndir = \"{}\"\nargs = \"digest\"\n[environment]\npass = [\"PILOT_*\"]\npath = \"/bin\"\n\
         [sandbox]\numask = \"027\"\n",
        logs.display()
    ));
    let output = with(&world, &config, &["exec", "--", "/bin/sh", "-c", "umask; echo $PILOT_X $PATH $LANG"])
        .envs([("PILOT_X", "x"), ("LANG", "C")])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "0027\nx /bin");
    assert!(world.records().is_empty(), "the log is where the site says");
    let verify = run(&world, &config, &["verify"]);
    assert_eq!(code(&verify), 0);
    assert!(text(&verify.stdout).contains(logs.to_str().unwrap()), "{}", text(&verify.stdout));
    let segment =
        fs::read_dir(&logs).unwrap().flatten().find(|e| e.path().extension().is_some_and(|e| e == "ndjson"));
    let log = fs::read_to_string(segment.unwrap().path()).unwrap();
    assert!(log.contains("payload-launch") && !log.contains("umask"), "{log}");
}

#[test]
fn the_release_program_reads_no_configuration_from_its_environment() {
    let world = World::new();
    let config = world.config("[identity]\nundeclared = \"deny\"\n");
    // Control: the test build does.
    assert_eq!(code(&run(&world, &config, &TRUE)), 120);
    let release = std::env::var_os("BAILEY_TEST_RELEASE").filter(|path| !path.is_empty());
    let Some(release) = release else {
        support::skip(
            "the_release_program_reads_no_configuration_from_its_environment",
            "BAILEY_TEST_RELEASE names no release program: run tests/test.sh",
        );
        return;
    };
    for config in [config.as_path(), &world.path("missing")] {
        let output = world.command(&release).args(TRUE).env("BAILEY_CONFIG", config).output().unwrap();
        assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    }
    assert_eq!(world.records_of("payload-end").len(), 2);
}

#[test]
fn help_and_version() {
    let world = World::new();
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let help = stdout(&world.admin(args));
        for command in ["bailey exec [OPTIONS] -- COMMAND", "bailey trace", "bailey verify", "bailey config"]
        {
            assert!(help.contains(command), "{command} is not in {help}");
        }
        assert!(help.lines().count() <= 20, "{help}");
    }
    for args in [["--version"], ["-V"]] {
        assert_eq!(stdout(&world.admin(&args)), format!("bailey {}", env!("CARGO_PKG_VERSION")));
    }
    let help = stdout(&world.admin(&["exec", "--help"]));
    for option in
        "user issuer vo group identity pilot job task image workdir bind writable scratch-size env pass-env \
        network nested no-pid wall-time grace status-file dry-run"
            .split_whitespace()
    {
        assert!(help.contains(&format!("--{option}")), "--{option} is not in {help}");
    }
    for code in 120..=127 {
        // 121 and 123 come with the limits that this version has not.
        assert!([121, 123].contains(&code) || help.contains(&code.to_string()), "{code} is not in {help}");
    }
    for word in ["trace", "verify"] {
        assert!(stdout(&world.admin(&[word, "--help"])).contains("--json"), "{word}");
    }
    assert!(world.records().is_empty(), "help leaves no trace");
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_nothing() {
    let world = World::new();
    let work = world.directory("work");
    let mark = format!("dry-{}", world.dir.file_name().unwrap().to_str().unwrap());
    let before = || -> Vec<_> {
        let mut all: Vec<String> = ["", "home", "work"]
            .iter()
            .flat_map(|dir| {
                fs::read_dir(world.path(dir)).unwrap().map(|e| e.unwrap().path().display().to_string())
            })
            .collect();
        all.sort();
        all
    };
    let things = before();
    let mut command = world.exec(&["--dry-run", "--user", "/CN=Alice", "--vo", "cms", "--job", "j1"]);
    command.args([
        "--env",
        "SECRET=hunter2",
        "--wall-time",
        "2h",
        "--grace",
        "7s",
        "--bind",
        "/etc/hostname:/opt/h",
    ]);
    command.args(["--status-file", "status.json", "--workdir"]).arg(&work).arg("--image").arg(image());
    command.args(["--", "/bin/sh", "-c", "touch ran; sleep 1000", &mark]);
    let plan = stdout(&command.output().unwrap());
    for words in [
        "/CN=Alice [declared]",
        "cms",
        "j1",
        "touch ran",
        "SECRET",
        "7200 s, then SIGTERM, 7 s, SIGKILL",
        "/etc/hostname at /opt/h (ro)",
        "(rw)",
        "user_namespace: on",
        "seccomp: on: default",
    ] {
        assert!(plan.contains(words), "'{words}' is not in {plan}");
    }
    assert!(plan.contains(image().to_str().unwrap()) && plan.contains(work.to_str().unwrap()), "{plan}");
    assert!(!plan.contains("hunter2"), "{plan}");
    assert_eq!(before(), things, "something was made");
    assert_eq!(alive_with(&mark), [0; 0]);

    // A refused plan says the same line as the launch would, and leaves nothing either.
    for (args, expected) in [
        (&["--image", "/no/such", "--", "/bin/true"][..], 125),
        (&["--nested", "--", "/bin/true"], 120),
        (&["--status-file", "no/such", "--", "/bin/true"], 125),
    ] {
        let dry = world.exec(&["--dry-run"]).args(args).output().unwrap();
        assert_refused(&dry, expected, &[]);
        assert_eq!(before(), things);
        let real = World::new();
        let mut command = real.exec(args);
        let real = command.current_dir(&world.dir).output().unwrap();
        // A launch that was refused has an incident to ask about; a question has none.
        let (real, dry) = (text(&real.stderr), text(&dry.stderr));
        let same = real.split_once(" (incident ").map(|(same, _)| same);
        assert_eq!(same, Some(dry.trim_end()));
    }
}
