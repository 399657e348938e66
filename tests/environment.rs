//! The payload's environment: what enters, what never does, and that a value given to it is shown to nobody else.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};
use support::{Started, World, assert_refused, code, image, proc_status, text};

/// Every name that is withheld: what carries a credential of a pilot, or leads to one.
const WITHHELD: &str = "BEARER_TOKEN BEARER_TOKEN_FILE XDG_RUNTIME_DIR X509_USER_PROXY X509_USER_CERT X509_USER_KEY \
    X509_UNIFIED_DISPATCH X509_CONDORMAP GRID_PROXY_FILE GLEXEC_CLIENT_CERT GLEXEC_SOURCE_PROXY GLEXEC_TARGET_PROXY \
    CONDOR_INHERIT CONDOR_PRIVATE_INHERIT CONDOR_CONFIG _CONDOR_CREDS _CONDOR_CHIRP_CONFIG _CONDOR_JOB_AD \
    _CONDOR_MACHINE_AD _CONDOR_EXECUTE _CONDOR_STARTER_PID CONDOR_STARTER_PID GLIDEIN_CONDOR_TOKEN \
    GLIDEIN_CONDOR_TOKEN_ORIG X509_USER_PROXY_ORIG IDTOKENS_FILE GLIDEIN_CredentialIdentifier PANDA_AUTH_TOKEN \
    PANDA_AUTH_TOKEN_KEY PANDA_AUTH_DIR PANDA_AUTH_ORIGIN OIDC_AUTH_TOKEN OIDC_AUTH_DIR OIDC_AUTH_ORIGIN \
    OIDC_REFRESHED_AUTH_TOKEN PANDA_PILOT_AWS_PROFILE JALIEN_TOKEN_CERT JALIEN_TOKEN_KEY ALIEN_JOB_TOKEN \
    DIRACSYSCONFIG DIRAC_VOMSES OIDC_SOCK OIDCD_PID OIDC_CONFIG_DIR SSH_AUTH_SOCK SSH_AGENT_PID SSH_CONNECTION \
    SSH_CLIENT GPG_AGENT_INFO KRB5CCNAME KRB5_CONFIG KRB5_KTNAME VAULT_TOKEN VAULT_TOKEN_FILE HTGETTOKENOPTS \
    RUCIO_CLIENT_CERT RUCIO_CLIENT_KEY RUCIO_CLIENT_PROXY RUCIO_CONFIG RUCIO_AUTH_TYPE XrdSecGSIUSERPROXY \
    XrdSecGSIUSERCERT XrdSecGSIUSERKEY XrdSecSSSKT XrdSecsssKT XrdSecCREDS XrdSecPROXYCREDS XrdSecKRB5INITTKN \
    XrdSecNETRC XrdSecPWDALOGFILE SLURM_JWT AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE \
    GOOGLE_APPLICATION_CREDENTIALS CREDENTIALS_DIRECTORY DBUS_SESSION_BUS_ADDRESS";

const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";
const PEM: &str =
    "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n";

/// What bailey itself sets.
const OWN: [&str; 6] = ["BAILEY_ID", "HOME", "LOGNAME", "PATH", "TMPDIR", "USER"];

type Variables = BTreeMap<OsString, OsString>;

/// The output of `env -0`.
fn variables(output: &Output) -> Variables {
    assert_eq!(code(output), 0, "{}", text(&output.stderr));
    output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=').unwrap();
            (OsStr::from_bytes(&entry[..at]).to_owned(), OsStr::from_bytes(&entry[at + 1..]).to_owned())
        })
        .collect()
}

/// `bailey exec OPTIONS --image IMAGE -- env -0`, to which the pilot's environment is added.
fn inside(world: &World, options: &[&str]) -> Command {
    let mut command = world.exec(options);
    command.arg("--image").arg(image()).args(["--", "/usr/bin/env", "-0"]);
    command
}

fn names(variables: &Variables) -> Vec<&str> {
    variables.keys().map(|name| name.to_str().unwrap()).collect()
}

/// 200 variables that a payload must not get; loaders, shells, interpreters, odd names and odd bytes among them.
fn hostile() -> Vec<(OsString, OsString)> {
    let named = [
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "LD_DEBUG_OUTPUT",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "LOCPATH",
        "NLSPATH",
        "RESOLV_HOST_CONF",
        "HOSTALIASES",
        "MALLOC_TRACE",
        "BASH_ENV",
        "ENV",
        "IFS",
        "CDPATH",
        "PS4",
        "SHELLOPTS",
        "BASH_FUNC_ls%%",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONHOME",
        "PERL5LIB",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
        "EDITOR",
        "PAGER",
        "GIT_SSH_COMMAND",
        "http_proxy",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "OLDPWD",
        "PWD",
        "SHLVL",
        "MAIL",
        "SHELL",
        "HISTFILE",
        "TERMINFO_DIRS",
        "APPTAINERENV_A",
        "SINGULARITYENV_B",
        "APPTAINER_BIND",
        "DISPLAY",
        "XAUTHORITY",
        "BAILEY_CONFIG_X",
        "BAILEY_ID",
        "lang",
        "LC",
        "LANGX",
        "TZDIR",
        "TERMCAP",
    ];
    let mut all: Vec<(OsString, OsString)> =
        named.iter().map(|name| (name.into(), "hostile".into())).collect();
    all.push((OsStr::from_bytes(b"NOT\xffUTF8").to_owned(), "hostile".into()));
    all.push(("NEW\nLINE".into(), "hostile\n\nX=1".into()));
    all.push(("ESC\u{1b}[31m".into(), "hostile".into()));
    all.push(("EMPTY".into(), "".into()));
    // Listed names with values that are credentials.
    all.push(("LC_JWT".into(), JWT.into()));
    all.push(("LC_PEM".into(), PEM.into()));
    while all.len() < 200 {
        all.push((format!("PILOT_VARIABLE_{}", all.len()).into(), "hostile".into()));
    }
    all
}

#[test]
fn only_the_allow_list_enters() {
    let world = World::new();
    let hostile = hostile();
    assert_eq!(hostile.len(), 200);
    let good = [("LANG", "C"), ("LC_ALL", "C"), ("TERM", "xterm"), ("OMP_NUM_THREADS", "4"), ("TZ", "UTC")];
    // Control: without bailey they are all there.
    let outside =
        variables(&world.command("env").arg("-0").envs(hostile.clone()).envs(good).output().unwrap());
    assert!(hostile.iter().all(|(name, value)| outside.get(name) == Some(value)));

    let inside = variables(&inside(&world, &[]).envs(hostile).envs(good).output().unwrap());
    let mut expected: Vec<&str> = OWN.into_iter().chain(good.map(|(name, _)| name)).collect();
    expected.sort_unstable();
    assert_eq!(names(&inside), expected);
    let value = |name: &str| inside[OsStr::new(name)].to_str().unwrap();
    for (name, expected) in good {
        assert_eq!(value(name), expected);
    }
    assert_eq!(
        (value("HOME"), value("TMPDIR"), value("USER"), value("LOGNAME")),
        ("/srv", "/tmp", "pilot", "pilot")
    );
    assert_eq!(value("PATH"), "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
    // The id is the record's, not the pilot's.
    assert_eq!(value("BAILEY_ID"), world.records_of("payload-launch")[0]["event"]["id"]);
}

#[test]
fn every_credential_name_is_withheld() {
    let world = World::new();
    let list: Vec<&str> = WITHHELD.split_whitespace().collect();
    assert!(list.len() > 70);
    let patterns = ["MY_TOKEN_X", "db_password", "APP_SECRET", "OTHER_CREDENTIALS", "HOST_KEY", "SSH_TTY"];
    let patterns = patterns.into_iter().chain(["_CONDOR_ANYTHING", "CONDOR_X_INHERIT"]);
    let pilot: Vec<(&str, &str)> = list.into_iter().chain(patterns).map(|name| (name, "harmless")).collect();
    let outside = variables(&world.command("env").arg("-0").envs(pilot.clone()).output().unwrap());
    assert!(pilot.iter().all(|(name, _)| outside.contains_key(OsStr::new(name))));

    let variables_inside = variables(&inside(&world, &[]).envs(pilot.clone()).output().unwrap());
    assert_eq!(names(&variables_inside), OWN);

    // Nor when the site's patterns would take them all.
    let alphabet = ('A'..='Z').chain('a'..='z').chain(['_']).map(|c| format!("\"{c}*\"")).collect::<Vec<_>>();
    let config = world.config(&format!("[environment]\npass = [{}]\n", alphabet.join(", ")));
    let mut command = inside(&world, &[]);
    command.envs(pilot).env("BAILEY_CONFIG", config).env("HARMLESS", "1");
    let variables_inside = variables(&command.output().unwrap());
    let mut expected = OWN.to_vec();
    expected.extend(["BAILEY_CONFIG", "HARMLESS"]);
    expected.sort_unstable();
    assert_eq!(names(&variables_inside), expected);
}

#[test]
fn precedence() {
    let world = World::new();
    let options = [
        "--env",
        "A=first",
        "--env",
        "A=second",
        "--pass-env",
        "A",
        "--pass-env",
        "B",
        "--pass-env",
        "ABSENT",
        "--env",
        "HOME=/elsewhere",
        "--env",
        "PATH=/bin",
        "--env",
        "BAILEY_ID=forged",
        "--env",
        "LANG=mine",
        "--env",
        "EMPTY=",
        "--env",
        "EQUALS=a=b=c",
        "--env",
        "LINES=a\nb",
        "--env=JOINED=x",
    ];
    let mut command = inside(&world, &options);
    command.envs([("A", "pilot"), ("B", "pilot"), ("LANG", "pilot"), ("BAILEY_ID", "pilot")]);
    let found = variables(&command.output().unwrap());
    let value = |name: &str| found[OsStr::new(name)].to_str().unwrap();
    for (name, expected) in [
        ("A", "second"),
        ("B", "pilot"),
        ("HOME", "/elsewhere"),
        ("PATH", "/bin"),
        ("LANG", "mine"),
        ("EMPTY", ""),
        ("EQUALS", "a=b=c"),
        ("LINES", "a\nb"),
        ("JOINED", "x"),
        ("TMPDIR", "/tmp"),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert_eq!(value("BAILEY_ID"), world.records_of("payload-launch")[0]["event"]["id"]);
    assert!(!found.contains_key(OsStr::new("ABSENT")));
}

#[test]
fn home_is_where_it_starts() {
    let world = World::new();
    let work = world.directory("work");
    let output = world
        .shell(&["--workdir", work.to_str().unwrap()], "echo \"$HOME\"; pwd; echo x >\"$TMPDIR/x\"; id -un");
    assert_eq!(support::stdout(&output), format!("{0}\n{0}\npilot", work.display()));
    // A name that is no plain one does not enter passwd or the environment.
    let mut command = inside(&world, &[]);
    let found = variables(&command.env("USER", "root:x:0:0\n").output().unwrap());
    assert_eq!(found[OsStr::new("USER")], *format!("u{}", nix::unistd::getuid()));
}

#[test]
fn a_credential_enters_only_with_its_file() {
    let world = World::new();
    let proxy = world.file("credentials/proxy", "PROXY");
    let path = proxy.to_str().unwrap();
    let run = |options: &[&str], value: &str| {
        let mut command = world.exec(options);
        command
            .arg("--image")
            .arg(image())
            .args([
                "--",
                "/bin/sh",
                "-c",
                "cat \"${X509_USER_PROXY#FILE:}\" \"${KRB5CCNAME#FILE:}\" /dev/null",
            ])
            .env("X509_USER_PROXY", value);
        command.output().unwrap()
    };
    let refused = |options: &[&str], value: &str| {
        assert_refused(&run(options, value), 125, &["X509_USER_PROXY", "--bind"]);
    };
    refused(&["--pass-env", "X509_USER_PROXY"], path);
    let by_env = format!("X509_USER_PROXY={path}");
    refused(&["--env", &by_env], path);
    // Bound somewhere else, it is not there where the variable says.
    let elsewhere = format!("{path}:/opt/proxy");
    refused(&["--pass-env", "X509_USER_PROXY", "--bind", &elsewhere], path);
    // A way around by dots.
    refused(
        &["--env", &format!("X509_USER_PROXY=/opt/proxy/../../{path}"), "--bind", "/etc/hostname:/opt/proxy"],
        path,
    );
    assert!(world.records_of("payload-launch").is_empty());

    let passed = run(&["--pass-env", "X509_USER_PROXY", "--bind", path], path);
    assert_eq!(text(&passed.stdout), "PROXY", "{}", text(&passed.stderr));
    let passed = run(&["--env", "X509_USER_PROXY=/opt/proxy", "--bind", &elsewhere], "");
    assert_eq!(text(&passed.stdout), "PROXY", "{}", text(&passed.stderr));
    let passed = run(&["--env", "KRB5CCNAME=FILE:/opt/proxy", "--bind", &elsewhere], "");
    assert_eq!(text(&passed.stdout), "PROXY", "{}", text(&passed.stderr));
    // Bound but not named: the file is there, the variable is not.
    let output = run(&["--bind", path], path);
    assert!(!text(&output.stdout).contains("PROXY"), "{}", text(&output.stdout));
}

#[test]
fn a_token_by_value_enters_when_it_is_named() {
    let world = World::new();
    let mut command = inside(&world, &["--pass-env", "BEARER_TOKEN"]);
    let found = variables(&command.env("BEARER_TOKEN", JWT).output().unwrap());
    assert_eq!(found[OsStr::new("BEARER_TOKEN")], JWT);
    // And stands in no record.
    assert!(world.records().iter().all(|record| !record.to_string().contains("eyJ")));
}

/// The command lines of the launcher and of init while a payload runs, as the host shows them, and init's as the payload
/// itself sees it.
fn command_lines(world: &World, options: &[String]) -> String {
    let mut command = world.exec(options);
    command.arg("--image").arg(image());
    command.args(["--", "/bin/sh", "-c", "tr '\\0\\n' '  ' </proc/1/cmdline; echo; read end"]);
    let mut payload = Started::new(&mut command);
    let seen_inside = payload.line();
    let launch = world.records_of("payload-launch").pop().unwrap();
    let pid = i32::try_from(launch["process"]["pid"].as_i64().unwrap()).unwrap();
    let init = proc_status(pid, "PPid").unwrap();
    let read = |pid: &str| text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
    let (of_launcher, of_init) = (read(&payload.pid().to_string()), read(&init));
    assert!(of_launcher.contains("exec\0--env"), "{of_launcher}");
    assert!(of_init.starts_with("bailey-init "), "{of_init}");
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(text(&environ).contains("CREDENTIAL="), "the payload itself has it");
    payload.end();
    format!("{of_launcher}\n{of_init}\n{seen_inside}")
}

#[test]
fn values_are_shown_to_nobody() {
    let world = World::new();
    let secrets = ["hunter2-hunter2", JWT, PEM, "a=b-hunter2"];
    for secret in secrets {
        for options in [
            vec!["--env".to_owned(), format!("CREDENTIAL={secret}")],
            vec![format!("--env=CREDENTIAL={secret}")],
            vec![
                "--env".to_owned(),
                "OTHER=1".to_owned(),
                "--env".to_owned(),
                format!("CREDENTIAL={secret}"),
            ],
        ] {
            let shown = command_lines(&world, &options);
            for part in secret.lines() {
                assert!(!shown.contains(part), "{part} is in {shown}");
            }
        }
    }
    let log: String = world.records().iter().map(ToString::to_string).collect();
    assert!(!log.contains("hunter2") && !log.contains("eyJ") && !log.contains("BEGIN"));

    // Control: an ordinary program's arguments are everybody's.
    let mut command = world.command("/bin/sh");
    command.args(["-c", "echo ready; read end", "sh", "--env", "CREDENTIAL=hunter2-hunter2"]);
    let mut plain = Started::new(&mut command);
    assert_eq!(plain.line(), "ready");
    assert!(
        text(&std::fs::read(format!("/proc/{}/cmdline", plain.pid())).unwrap()).contains("hunter2-hunter2")
    );
    plain.end();
}

#[test]
fn what_looks_like_an_option_of_the_payload_is_left_alone() {
    let world = World::new();
    let mut command = world.exec(&["--env", "A=1", "--image"]);
    command.arg(image()).args(["--", "/bin/echo", "--env", "B=2", "--env=C=3"]);
    assert_eq!(support::stdout(&command.output().unwrap()), "--env B=2 --env=C=3");
}

#[test]
fn a_mistake_on_the_command_line_tells_no_secret() {
    let world = World::new();
    for options in [
        &["--env", "hunter2"][..],
        &["--pass-env", "TOKEN=hunter2"],
        &["--user", "u", "hunter2"],
        &["--tokn=hunter2"],
        &["--tokn", "hunter2"],
    ] {
        let output = world.exec(options).args(["--", "/bin/true"]).output().unwrap();
        assert_refused(&output, 125, &["command line"]);
        assert!(!text(&output.stderr).contains("hunter2"), "{}", text(&output.stderr));
    }
    assert_eq!(world.records_of("launch-failed").len(), 5);
    assert!(world.records().iter().all(|record| !record.to_string().contains("hunter2")));
}
