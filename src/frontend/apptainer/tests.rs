//! The whole front end, from words to requests.
#![forbid(unsafe_code)]

use super::flags::{FLAGS, Of, Standing, Takes};
use super::*;
use crate::fuzzing::Random;
use crate::request::container::{Part, Start};
use crate::request::{Bind, Network};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

fn caller(env: &[(&str, &str)]) -> Caller {
    Caller {
        uid: 1000,
        gid: 1000,
        env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: Some("/w".into()),
        lent: None,
    }
}

fn call(args: &[&str], env: &[(&str, &str)]) -> Call {
    let args: Vec<OsString> = args.iter().map(Into::into).collect();
    parse(Runtime::Apptainer, &args, &caller(env))
}

/// What a call asks for that can be understood.
fn asked(args: &[&str], env: &[(&str, &str)]) -> Request {
    match call(args, env).parsed {
        Ok(Parsed::Request(request)) => *request,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    call(args, env).parsed.expect_err("a refusal").to_string()
}

fn bind(source: &str, target: &str, writable: bool) -> Bind {
    Bind { source: source.into(), target: target.into(), writable }
}

#[test]
fn everything_behind_the_image_is_the_payloads() {
    let request = asked(&["-q", "exec", "-Cec", "/i", "--bind", "-x", "--"], &[]);
    assert_eq!(request.command, ["--bind", "-x", "--"]);
    assert_eq!(request.image, Some("/i".into()));
    let container = request.container.unwrap();
    assert!(container.contain && container.clean_env && container.start == Start::Exec);
    // `--` ends the flags as well, and a single dash is no flag.
    assert_eq!(asked(&["exec", "--", "-i", "x"], &[]).image, Some("/w/-i".into()));
    assert_eq!(asked(&["exec", "-", "x"], &[]).image, Some("/w/-".into()));
}

#[test]
fn flags_in_every_form() {
    for form in [
        &["-B", "/a:/b"][..],
        &["-B/a:/b"],
        &["-B=/a:/b"],
        &["--bind", "/a:/b"],
        &["--bind=/a:/b"],
        &["-ecB", "/a:/b"],
        &["-ecB/a:/b"],
    ] {
        let args: Vec<&str> = [&["exec"], form, &["/i", "x"]].concat();
        assert_eq!(asked(&args, &[]).binds, [bind("/a", "/b", true)], "{form:?}");
    }
    let contains =
        |args: &[&str]| asked(&[&["exec"], args, &["/i", "x"]].concat(), &[]).container.unwrap().contain;
    assert!(
        contains(&["-c"]) && contains(&["--contain=true"]) && contains(&["-c=1"]) && contains(&["--compat"])
    );
    assert!(!contains(&[]) && !contains(&["--contain=false"]) && !contains(&["-c", "--contain=F"]));
    // The program's -c and -s are other flags than those of a command.
    assert!(refused(&["-c", "file", "exec", "/i", "x"], &[]).contains("--config"));
    assert_eq!(
        asked(&["-s", "shell", "-s", "/bin/zsh", "/i"], &[]).container.unwrap().shell,
        Some("/bin/zsh".into())
    );
    assert_eq!(asked(&["-vvv", "-d", "exec", "-v", "--debug", "-s", "/i", "x"], &[]).command, ["x"]);
    for (args, word) in [
        (&["exec", "--foo", "/i", "x"][..], "unknown flag: --foo"),
        (&["exec", "--no-contain", "/i", "x"], "unknown flag: --no-contain"),
        (&["exec", "-Z", "/i", "x"], "unknown flag: -Z"),
        (&["exec", "-cZ", "/i", "x"], "unknown flag: -Z"),
        (&["exec", "---bind", "/i", "x"], "unknown flag"),
        (&["exec", "--=x", "/i", "x"], "unknown flag"),
        (&["exec", "--bind"], "--bind needs a value"),
        (&["exec", "-B"], "--bind needs a value"),
        (&["exec", "--contain=maybe", "/i", "x"], "neither true nor false"),
        (&["exec"], "needs an image"),
        (&["exec", "/i"], "needs a command"),
        (&["exec", "", "x"], "empty"),
        (&["run"], "needs an image"),
        (&["--contain", "exec", "/i", "x"], "unknown flag: --contain"),
        (&[], "no command"),
        (&["frobnicate"], "none of exec"),
        (&["pull", "docker://alpine"], "there is no apptainer pull"),
        (&["instance", "start", "/i", "x"], "exec"),
        (&["exec", "docker://alpine", "x"], "unpacked"),
        (&["exec", "oci:/x", "x"], "unpacked"),
        (&["exec", "instance://x", "x"], "no instances"),
    ] {
        let line = refused(args, &[]);
        assert!(line.contains(word) && !line.contains('\n'), "{args:?}: {line}");
    }
}

#[test]
fn what_pilots_call() {
    // HTCondor
    let request = asked(
        &[
            "-s",
            "exec",
            "-S",
            "/tmp,/var/tmp",
            "-B",
            "/scratch/dir_1",
            "-W",
            "/scratch/dir_1",
            "--pwd",
            "/srv",
            "-B",
            "/scratch/dir_1:/srv",
            "--nv",
            "--home",
            "/scratch/dir_1:/srv",
            "-C",
            "/i",
            "/srv/x",
            "-s",
        ],
        &[],
    );
    let container = request.container.unwrap();
    assert_eq!(container.scratch, [PathBuf::from("/tmp"), "/var/tmp".into()]);
    assert_eq!(container.workdir, Some("/scratch/dir_1".into()));
    assert_eq!((container.cwd, container.nv), (Some("/srv".into()), true));
    assert_eq!(
        request.binds,
        [bind("/scratch/dir_1", "/scratch/dir_1", true), bind("/scratch/dir_1", "/srv", true)]
    );
    let home = container.home.unwrap();
    assert_eq!((home.source, home.target), ("/scratch/dir_1".into(), "/srv".into()));
    let test = asked(&["-q", "test", "-C", "/i"], &[]);
    assert!(test.probe && test.command.is_empty() && test.container.unwrap().start == Start::Test);
    // glideinWMS
    let request = asked(
        &[
            "exec",
            "--home",
            ".:/srv",
            "--pwd",
            "/srv",
            "--ipc",
            "--contain",
            "--pid",
            "--bind",
            "/cvmfs,/etc/hosts,/etc/localtime",
            "/i",
            "cat",
            "/proc/self/uid_map",
        ],
        &[],
    );
    assert_eq!(request.binds.len(), 3);
    assert_eq!(request.container.unwrap().home.unwrap().source, PathBuf::from("/w"));
    // JAliEn
    let request = asked(
        &[
            "exec",
            "-C",
            "-B",
            "/cvmfs:/cvmfs,/w:/workdir,/w/tmp:/tmp",
            "--pwd",
            "/workdir",
            "--no-mount",
            "tmp",
            "--memory",
            "8000M",
            "--memory-swap",
            "0",
            "/i",
            "/bin/bash",
            "-c",
            "true",
        ],
        &[],
    );
    assert_eq!(request.limits.memory, Some(8000 << 20));
    let container = request.container.unwrap();
    assert_eq!((container.no_mount, container.unheeded.len()), (vec![Part::Tmp], 0));
    // DIRAC
    let request = asked(
        &[
            "exec",
            "--contain",
            "--ipc",
            "--workdir",
            "/w/1",
            "--home",
            "/tmp",
            "--userns",
            "--bind",
            "/w/2:/mnt:ro",
            "--bind",
            "/dev/fuse",
            "/i",
            "x",
        ],
        &[],
    );
    assert_eq!(request.binds, [bind("/w/2", "/mnt", false), bind("/dev/fuse", "/dev/fuse", true)]);
    assert_eq!(request.container.unwrap().home.unwrap().target, PathBuf::from("/tmp"));
    // PanDA
    let request = asked(
        &[
            "--verbose",
            "exec",
            "-B",
            "/cvmfs,/w,/home",
            "--cleanenv",
            "--env",
            "A=b,c",
            "--env=D=e,F=g",
            "/i",
            "/bin/bash",
            "-c",
            "x",
        ],
        &[("BAILEY_IDENTITY", "/id")],
    );
    let env: Vec<_> =
        request.env.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(env, [("A", "b,c"), ("D", "e"), ("F", "g")]);
    assert_eq!(request.identity_env, Some("/id".into()));
}

#[test]
fn the_line_wins_over_variables_and_the_new_name_over_the_old() {
    let request = asked(
        &["exec", "-B", "/a", "--pwd", "/x", "/i", "x"],
        &[
            ("SINGULARITY_BIND", "/old"),
            ("APPTAINER_BIND", " /b:/c:ro, /d "),
            ("APPTAINER_BINDPATH", "/e"),
            ("SINGULARITY_MOUNT", "type=bind,src=/f,dst=/g"),
            ("APPTAINER_CWD", "/y"),
            ("SINGULARITY_WORKDIR", "/work"),
            ("APPTAINER_CONTAIN", "1"),
            ("SINGULARITY_CLEANENV", "false"),
            ("APPTAINER_NO_MOUNT", "home, cwd"),
            ("APPTAINER_HOSTNAME", "  "),
            ("APPTAINER_CACHEDIR", "/c"),
        ],
    );
    assert_eq!(
        request.binds,
        [
            bind("/a", "/a", true),
            bind("/b", "/c", false),
            bind("/d", "/d", true),
            bind("/e", "/e", true),
            bind("/f", "/g", true)
        ]
    );
    let container = request.container.unwrap();
    assert_eq!((container.cwd, container.workdir), (Some("/x".into()), Some("/work".into())));
    assert!(container.contain && !container.clean_env && container.hostname.is_none());
    assert_eq!(container.no_mount, [Part::Home, Part::Cwd]);
    let both = call(&["exec", "/i", "x"], &[("SINGULARITY_BIND", "/old"), ("APPTAINER_BIND", "/new")]);
    assert_eq!(both.warnings.len(), 1, "{:?}", both.warnings);
    let line = refused(&["exec", "/i", "x"], &[("APPTAINER_FAKEROOT", "yes")]);
    assert!(line.contains("APPTAINER_FAKEROOT") && line.contains("neither"), "{line}");
    assert!(refused(&["exec", "/i", "x"], &[("SINGULARITY_OVERLAY", "/o")]).contains("SINGULARITY_OVERLAY"));
    // Flags of another command.
    asked(&["exec", "/i", "x"], &[("APPTAINER_SHELL", "/bin/zsh"), ("APPTAINER_RUNSCRIPT_TIMEOUT", "1s")]);
    assert!(refused(&["run", "/i"], &[("APPTAINER_RUNSCRIPT_TIMEOUT", "1s")]).contains("timeout"));
}

#[test]
fn variables_of_the_payload() {
    let call = call(
        &["exec", "--env", "A=line,B=line", "--env", "PATH=/line", "/i", "x"],
        &[
            ("APPTAINERENV_A", "new"),
            ("SINGULARITYENV_A", "old"),
            ("APPTAINERENV_C", "new"),
            ("SINGULARITYENV_C", "old"),
            ("SINGULARITYENV_D", "old"),
            ("APPTAINERENV_HOME", "/other"),
            ("APPTAINERENV_APPTAINER_SHELL", "/x"),
            ("SINGULARITYENV_PREPEND_PATH", "/before"),
            ("APPTAINERENV_APPEND_PATH", "/behind"),
            ("APPTAINERENV_PATH", "/env"),
            ("APPTAINERENV_", "nameless"),
            ("APPTAINERENV_LD_LIBRARY_PATH", "/lib"),
            ("E", "not asked for"),
        ],
    );
    let Ok(Parsed::Request(request)) = call.parsed else { panic!("{:?}", call.parsed) };
    let env: Vec<_> =
        request.env.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(
        env,
        [
            ("A", "line"),
            ("B", "line"),
            ("PATH", "/line"),
            ("C", "new"),
            ("LD_LIBRARY_PATH", "/lib"),
            ("D", "old")
        ]
    );
    assert_eq!(request.container.unwrap().path, (Some("/before".into()), Some("/behind".into())));
    let text = call.warnings.join("\n");
    for word in ["APPTAINERENV_HOME is not permitted", "APPTAINERENV_APPTAINER_SHELL is not", "C is set by"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(call.warnings.len(), 4, "{text}");
    assert!(!text.contains("/other") && !text.contains("old\n"), "a value is in it: {text}");
}

#[test]
fn an_error_does_not_repeat_a_secret() {
    for args in [
        &["exec", "--env", "hunter2", "/i", "x"][..],
        &["exec", "--env=A=1,hunter2,B=2", "/i", "x"],
        &["exec", "--hunter2_", "/i", "x"],
        &["exec", "-\u{fc}hunter2", "/i", "x"],
        &["exec", "--pwd=hunter2", "/i", "x"],
        &["exec", "--memory", "hunter2", "/i", "x"],
        &["hunter2"],
        &["--hunter2=x", "exec"],
    ] {
        let line = refused(args, &[]);
        // A flag's plain name is repeated: it is what a person has to correct.
        assert!(!line.contains("hunter2") || args[0] == "--hunter2=x", "{args:?}: {line}");
    }
}

#[test]
fn secrets_are_found_where_they_stand() {
    let args: Vec<OsString> = [
        "exec",
        "--env",
        "AB=secret",
        "--env=C=secret",
        "--docker-password=secret",
        "--bind",
        "/a",
        "/i",
        "--env",
        "A=payload's",
    ]
    .iter()
    .map(Into::into)
    .collect();
    let mut words = Words::default();
    words.read(&args, 1, Some(Command::Exec)).unwrap();
    assert_eq!(words.secrets, [(2, 3), (3, 8), (4, 18)]);
    for (argument, from) in &words.secrets {
        assert_eq!(&args[*argument].as_encoded_bytes()[*from..], b"secret");
    }
}

#[test]
fn bytes_that_are_no_utf8() {
    let odd = |text: &[u8]| OsString::from_vec(text.to_vec());
    let args = [odd(b"exec"), odd(b"-B"), odd(b"/a\xff\n:/b\xfe:ro"), odd(b"/i\xff"), odd(b"\xff")];
    let Ok(Parsed::Request(request)) = parse(Runtime::Singularity, &args, &caller(&[])).parsed else {
        panic!()
    };
    assert_eq!(request.binds[0].source.as_os_str(), odd(b"/a\xff\n"));
    assert_eq!(request.binds[0].target.as_os_str(), odd(b"/b\xfe"));
    assert_eq!(request.image.unwrap().as_os_str(), odd(b"/i\xff"));
    assert_eq!(request.command, [odd(b"\xff")]);
}

#[test]
fn networks_and_limits() {
    let network = |args: &[&str]| asked(&[&["exec"], args, &["/i", "x"]].concat(), &[]).network;
    assert_eq!(network(&[]), Network::Host);
    assert_eq!(network(&["--net", "--network", "none"]), Network::None);
    assert_eq!(network(&["--network=none"]), Network::None);
    for args in [&["exec", "--net", "/i", "x"][..], &["exec", "--network", "bridge", "/i", "x"]] {
        assert!(refused(args, &[]).contains("--network none"));
    }
    let request = asked(
        &[
            "exec",
            "--cpus",
            "1.5",
            "--pids-limit",
            "100",
            "--memory-swap",
            "1g",
            "--cpu-shares",
            "5",
            "/i",
            "x",
        ],
        &[],
    );
    assert_eq!((request.limits.cpus_milli, request.limits.pids), (Some(1500), Some(100)));
    assert_eq!(request.container.unwrap().unheeded.len(), 2);
}

/// What `--version` and `version` print is what callers take apart.
#[test]
fn versions() {
    let print = |runtime: Runtime, args: &[&str]| {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        match parse(runtime, &args, &caller(&[])).parsed {
            Ok(Parsed::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    for (runtime, name) in [(Runtime::Apptainer, "apptainer"), (Runtime::Singularity, "singularity")] {
        let line = print(runtime, &["--version"]);
        let version = line.strip_prefix(&format!("{name} version ")).unwrap().strip_suffix('\n').unwrap();
        let numbers: Vec<u32> =
            version.split('-').next().unwrap().split('.').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers, [1, 4, 5]);
        assert!(version.contains("bailey"));
        assert_eq!(print(runtime, &["version"]), "1.4.5\n");
    }
    assert_eq!(runtime(OsStr::new("/usr/bin/singularity")), Some(Runtime::Singularity));
    assert_eq!((runtime(OsStr::new("bailey")), runtime(OsStr::new("apptainer.old"))), (None, None));
    let help = print(Runtime::Apptainer, &["exec", "--help"]);
    assert!(help.lines().all(|line| line.len() <= 125), "{help}");
}

/// Any words make a request or a sentence; what is behind the image arrives as it is.
#[test]
fn any_line_is_understood_or_refused() {
    let mut random = Random(11);
    let (mut understood, mut not) = (0, 0);
    let values = [
        "/a",
        "/a:/b:ro,/c",
        "A=b",
        "none",
        "2G",
        "0",
        "1",
        "x",
        "",
        "-x",
        "--",
        "true",
        "false",
        "/a:b",
        "\n",
        "é",
    ];
    for _ in 0..30_000 {
        let mut args: Vec<String> = vec![["exec", "run", "shell", "test"][random.below(4)].to_owned()];
        for _ in 0..random.below(6) {
            let flag = &FLAGS[random.below(FLAGS.len())];
            if matches!(flag.of, Of::Inspect) || flag.name == "env-file" || flag.name == "help" {
                continue;
            }
            let value = values[random.below(values.len())];
            match (random.below(4), flag.short) {
                (0, short) if short != 0 => args.push(format!("-{}{value}", char::from(short))),
                (1, _) => args.push(format!("--{}={value}", flag.name)),
                _ => {
                    args.push(format!("--{}", flag.name));
                    if flag.takes != Takes::Switch {
                        args.push(value.to_owned());
                    }
                }
            }
        }
        args.extend(["/image".to_owned(), "-B".to_owned(), "payload".to_owned()]);
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match call(&words, &[]).parsed {
            Ok(Parsed::Request(request)) => {
                understood += 1;
                assert!(request.image.is_some() && request.binds.iter().all(|b| b.target.is_absolute()));
            }
            Ok(Parsed::Print(_)) => {}
            Err(failure) => {
                not += 1;
                assert!(!failure.to_string().contains('\n'));
            }
        }
    }
    assert!(understood > 5_000 && not > 5_000, "{understood} {not}");
}

/// A flag of which nothing becomes would be taken silently.
#[test]
fn every_refused_flag_is_refused_and_no_name_is_twice() {
    for flag in FLAGS {
        let same = FLAGS.iter().filter(|other| {
            other.of == flag.of && (other.name == flag.name || (flag.short != 0 && other.short == flag.short))
        });
        assert_eq!(same.count(), 1, "{}", flag.name);
        let Standing::Refused(instead) = flag.standing else { continue };
        let command = if flag.of == Of::Run { "run" } else { "exec" };
        let word = format!("--{}", flag.name);
        let mut args = if flag.of == Of::Program { vec![word.as_str()] } else { vec![command, &word] };
        if flag.takes != Takes::Switch {
            args.push("x");
        }
        if flag.of == Of::Program {
            args.push(command);
        }
        args.extend(["/i", "x"]);
        let line = refused(&args, &[]);
        assert!(line.contains(&word) && line.contains(instead), "{line}");
    }
}

/// Each variable of a flag with each prefix, and a value that the flag takes.
fn variables(flag: &flags::Flag) -> Vec<(String, &'static str)> {
    let value = if flag.takes == Takes::Switch { "1" } else { "x" };
    let prefixed =
        |key: &&str| ["APPTAINER_", "SINGULARITY_"].map(|prefix| (format!("{prefix}{key}"), value));
    flag.keys.iter().flat_map(prefixed).collect()
}

/// A variable is a request like a flag: what is refused there is refused here.
#[test]
fn every_variable_of_a_refused_flag_is_refused() {
    let mut count = 0;
    for flag in FLAGS {
        let Standing::Refused(instead) = flag.standing else { continue };
        let command = if flag.of == Of::Run { "run" } else { "exec" };
        for (name, value) in variables(flag) {
            let line = refused(&[command, "/i", "x"], &[(&name, value)]);
            assert!(line.contains(&name) && line.contains(instead), "{name}: {line}");
            // Set to nothing it asks for nothing.
            asked(&[command, "/i", "x"], &[(&name, "")]);
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// What is taken without effect is told once, and what is so anyway is not.
#[test]
fn every_flag_without_effect_is_in_the_record() {
    let unheeded = |args: &[&str], env: &[(&str, &str)]| asked(args, env).container.unwrap().unheeded;
    let mut count = 0;
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.of, Of::Inspect | Of::Program)) {
        let why = match flag.standing {
            Standing::Unheeded(why) => Some(why),
            Standing::Moot(_) => None,
            Standing::Honoured(_) | Standing::Refused(_) => continue,
        };
        let word = format!("--{}", flag.name);
        let given = if flag.takes == Takes::Switch { &[][..] } else { &["x"] };
        let lines = unheeded(&[&["exec", word.as_str()], given, &["/i", "x"]].concat(), &[]);
        let expected = |name: &str| why.map(|why| format!("{name}: {why}")).into_iter().collect::<Vec<_>>();
        assert_eq!(lines, expected(&word));
        for (name, value) in variables(flag) {
            assert_eq!(unheeded(&["exec", "/i", "x"], &[(&name, value)]), expected(&name));
        }
        count += usize::from(why.is_some());
    }
    assert!(count >= 6, "{count}");
}

/// Apptainer's parts tell one another by a number how much is said.
#[test]
fn a_message_level_below_warnings_silences_them() {
    let warnings = |level: &[(&str, &str)]| {
        let env = [&[("APPTAINERENV_HOME", "/x")], level].concat();
        call(&["exec", "/i", "x"], &env).warnings.len()
    };
    assert_eq!(warnings(&[]), 1, "a control: there is one");
    for (level, expected) in
        [("-3", 0), ("-4", 0), (" -3 ", 0), ("-2", 1), ("-1", 1), ("5", 1), ("x", 1), ("", 1)]
    {
        for name in ["APPTAINER_MESSAGELEVEL", "SINGULARITY_MESSAGELEVEL"] {
            assert_eq!(warnings(&[(name, level)]), expected, "{name}={level}");
        }
    }
    assert_eq!(warnings(&[("APPTAINER_MESSAGELEVEL", "1"), ("SINGULARITY_MESSAGELEVEL", "-3")]), 1);
}

#[test]
fn binds_have_names_that_can_be() {
    let bound = |target: &str| call(&["exec", "-B", &format!("/a:{target}"), "/i", "x"], &[]).parsed;
    let (name, path) = ("n".repeat(255), "/abc".repeat(1000));
    for target in [format!("/{name}"), path.clone()] {
        assert!(matches!(bound(&target), Ok(Parsed::Request(_))));
    }
    for target in [format!("/{name}n"), format!("/x/{name}n/y"), format!("{path}d")] {
        assert!(bound(&target).unwrap_err().to_string().contains("at most 255 bytes"));
    }
    for flag in ["--home", "--pwd", "--scratch"] {
        assert!(refused(&["exec", flag, &format!("/{name}n"), "/i", "x"], &[]).contains("at most 255 bytes"));
    }
    let many = |count: usize| {
        let list: Vec<String> = (0..count).map(|number| format!("/a:/b{number}")).collect();
        call(&["exec", "-B", &list.join(","), "/i", "x"], &[]).parsed
    };
    assert!(many(500).is_ok());
    assert!(many(501).unwrap_err().to_string().contains("501 files and directories"));
}

/// docs/apptainer.md and the table say the same.
#[test]
fn the_document_has_every_flag() {
    let document = include_str!("../../../docs/apptainer.md");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `--")).collect();
    let of = |flag: &flags::Flag| {
        let mut names = format!("`--{}`", flag.name);
        if flag.short != 0 {
            names = format!("{names}, `-{}`", char::from(flag.short));
        }
        let keys = flag.keys.join(", ");
        let (standing, why) = match flag.standing {
            Standing::Honoured(_) => ("honoured", None),
            Standing::Moot(why) => ("no effect", Some(why)),
            Standing::Unheeded(why) => ("no effect, in the record", Some(why)),
            Standing::Refused(instead) => ("refused", Some(instead)),
        };
        (format!("| {names} | {keys} | {standing} |"), why)
    };
    for flag in FLAGS {
        let (begin, why) = of(flag);
        let begin = begin.replace("|  |", "| |");
        let row = rows
            .iter()
            .any(|row| row.starts_with(&begin) && why.is_none_or(|why| *row == format!("{begin} {why} |")));
        assert!(row, "docs/apptainer.md has no row: {begin} {} |", why.unwrap_or("(what it does)"));
    }
    assert_eq!(rows.len(), FLAGS.len(), "docs/apptainer.md has a row too many");
    let page = include_str!("../../../docs/man/bailey-apptainer.1");
    for flag in FLAGS.iter().filter(|flag| flag.of != Of::Inspect) {
        let named = page.lines().filter(|line| line.trim_end_matches(" ,") == format!(".Fl -{}", flag.name));
        let expected = if flag.name == "version" { 2 } else { 1 };
        assert_eq!(named.count(), expected, "docs/man/bailey-apptainer.1: --{}", flag.name);
    }
    for (name, instead) in OTHERS {
        let row = format!("| `{name}` | {instead} |");
        assert!(document.contains(&row), "docs/apptainer.md has no row: {row}");
    }
}
