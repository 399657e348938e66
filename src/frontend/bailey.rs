//! `bailey exec [OPTIONS] -- COMMAND [ARG...]`.
#![forbid(unsafe_code)]

use crate::cgroup::cpuset::CpuSet;
use crate::cgroup::limits::Limits;
use crate::failure::Failure;
use crate::request::{
    Bind, DeclaredIdentity, EnvName, Network, Request, Stdio, parse_cpus, parse_duration, parse_pids,
    parse_size,
};
use clap::Parser;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Runs one payload behind walls, after a durable record of who it is.
#[derive(Debug, Default, PartialEq, Parser)]
#[command(
    name = "bailey exec",
    bin_name = "bailey exec",
    no_binary_name = true,
    disable_help_subcommand = true
)]
#[command(override_usage = "bailey exec [OPTIONS] -- COMMAND [ARG...]")]
#[command(after_help = "SIZE: 512M, 2G (powers of 1024). TIME: 90s, 15m, 48h, 1h30m.\n\
    Exit code: the payload's own, 128+n when signal n killed it, or bailey's: 120 refused, 122 no record,\n\
    124 wall time, 125 set-up or usage, 126 not executable, 127 not found. --status-file tells them apart.")]
struct Exec {
    /// Subject: DN in slash form, or a token's sub
    #[arg(long, value_name = "SUBJECT", help_heading = "Who")]
    user: Option<String>,
    /// Token issuer, an https URL
    #[arg(long, value_name = "URL", help_heading = "Who")]
    issuer: Option<String>,
    /// Virtual organisation
    #[arg(long, help_heading = "Who")]
    vo: Option<String>,
    /// FQAN, wlcg.groups entry or ivo:// id; repeatable
    #[arg(long, help_heading = "Who")]
    group: Vec<String>,
    /// JSON document with these fields
    #[arg(long, value_name = "FILE", help_heading = "Who")]
    identity: Option<PathBuf>,
    /// The pilot's own id
    #[arg(long, value_name = "ID", help_heading = "Who")]
    pilot: Option<String>,
    /// The VO's job id
    #[arg(long, value_name = "ID", help_heading = "Who")]
    job: Option<String>,
    /// The VO's task id
    #[arg(long, value_name = "ID", help_heading = "Who")]
    task: Option<String>,

    /// Root directory; without it the host's system, read-only
    #[arg(long, value_name = "DIR", help_heading = "What it sees")]
    image: Option<PathBuf>,
    /// Let it write to the image; the changes are thrown away
    #[arg(long, help_heading = "What it sees")]
    writable: bool,
    /// Start here, writable, at its own path; else a private directory
    #[arg(long, value_name = "DIR", help_heading = "What it sees")]
    workdir: Option<PathBuf>,
    /// Show a file or directory, read-only unless rw; repeatable
    #[arg(long, value_name = "SRC[:DST[:ro|rw]]", value_parser = bind(), help_heading = "What it sees")]
    bind: Vec<Bind>,
    /// Memory for /tmp, /var/tmp, /dev/shm, /dev, /run and the private directory
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true, help_heading = "What it sees")]
    scratch_size: Option<u64>,
    /// Set a variable; wiped from bailey's own argument list; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment(), help_heading = "What it sees")]
    env: Vec<(EnvName, OsString)>,
    /// Pass a variable on if it is set; repeatable
    #[arg(long, value_name = "NAME", value_parser = name, help_heading = "What it sees")]
    pass_env: Vec<EnvName>,

    /// host, or none for a network with only a loopback device
    #[arg(long, value_name = "host|none", value_parser = network, default_value = "host", help_heading = "Walls and limits")]
    network: Network,
    /// Its standard streams: the pilot's own, or pipes; as the site has it
    #[arg(long, value_name = "pass|relay", value_parser = Stdio::parse, help_heading = "Walls and limits")]
    stdio: Option<Stdio>,
    /// Let it make namespaces of its own, where the site allows that
    #[arg(long, help_heading = "Walls and limits")]
    nested: bool,
    /// Give it no pid namespace of its own, where the site allows that
    #[arg(long, help_heading = "Walls and limits")]
    no_pid: bool,
    /// Cores at most, such as 8 or 0.5
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_hyphen_values = true, help_heading = "Walls and limits")]
    cpus: Option<u64>,
    /// Cores to run on, such as 0-3,8
    #[arg(long, value_name = "LIST", value_parser = CpuSet::parse, allow_hyphen_values = true, help_heading = "Walls and limits")]
    cpuset: Option<CpuSet>,
    /// Memory at most, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true, help_heading = "Walls and limits")]
    memory: Option<u64>,
    /// Processes and threads at most
    #[arg(long, value_name = "N", value_parser = parse_pids, allow_hyphen_values = true, help_heading = "Walls and limits")]
    pids: Option<u64>,
    /// Stop it after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true, help_heading = "Walls and limits")]
    wall_time: Option<Duration>,
    /// Between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true, help_heading = "Walls and limits")]
    grace: Option<Duration>,

    /// Write how it ended as JSON
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,
    /// Print the plan and run nothing
    #[arg(long)]
    dry_run: bool,

    /// The command and its arguments, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// A request. It may still lack a command; the plan says so.
    Request(Box<Request>),
    /// Text to print: `--help`.
    Help(String),
}

/// Parses what follows `bailey exec`.
///
/// # Errors
/// Usage (125), one line. The request then is whatever could still be read, for the record: nothing.
pub fn parse(args: &[OsString], identity_env: Option<&OsStr>) -> Result<Parsed, Failure> {
    wipe_env_values();
    let exec = match plain(args).map_or_else(|| Exec::try_parse_from(args), Ok) {
        Ok(exec) => exec,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Parsed::Help(error.to_string())),
        Err(error) => {
            return Err(super::usage(&error, "see bailey exec --help; the command comes after --"));
        }
    };
    let Exec {
        user,
        issuer,
        vo,
        group,
        identity,
        pilot,
        job,
        task,
        image,
        writable,
        workdir,
        bind,
        scratch_size,
        env,
        pass_env,
        network,
        stdio,
        nested,
        no_pid,
        cpus,
        cpuset,
        memory,
        pids,
        wall_time,
        grace,
        status_file,
        dry_run,
        command,
    } = exec;
    Ok(Parsed::Request(Box::new(Request {
        command,
        identity: DeclaredIdentity { user, issuer, vo, groups: group, pilot, job, task },
        identity_file: identity,
        identity_env: identity_env.filter(|path| !path.is_empty()).map(PathBuf::from),
        identity_read: None,
        image,
        writable,
        workdir,
        binds: bind,
        env,
        pass_env,
        network,
        stdio,
        terminal: false,
        nested,
        no_pid,
        scratch_size,
        limits: Limits { memory, cpus_milli: cpus, pids, cpuset },
        wall_time,
        grace,
        status_file,
        status_new: false,
        dry_run,
        container: None,
        probe: false,
    })))
}

/// The command line that pilots write: each option in full with its value behind it, and `--` before the command. Whatever
/// else there is, a mistake above all, is the parser's, which has the words for it; making that one costs every launch 60 µs.
/// What is read here MUST be what it reads (a test compares them).
fn plain(args: &[OsString]) -> Option<Exec> {
    let mut exec = Exec::default();
    let mut rest = args.iter();
    let mut network_said = false;
    loop {
        let option = rest.next()?.to_str()?;
        match option {
            "--" => break,
            "--writable" => once(&mut exec.writable)?,
            "--nested" => once(&mut exec.nested)?,
            "--no-pid" => once(&mut exec.no_pid)?,
            "--dry-run" => once(&mut exec.dry_run)?,
            _ => {
                let value = rest.next().filter(|v| !v.is_empty() && !v.as_bytes().starts_with(b"-"))?;
                let text = || value.to_str();
                let path = || Some(PathBuf::from(value));
                match option {
                    "--user" => set(&mut exec.user, text()?.to_owned())?,
                    "--issuer" => set(&mut exec.issuer, text()?.to_owned())?,
                    "--vo" => set(&mut exec.vo, text()?.to_owned())?,
                    "--group" => exec.group.push(text()?.to_owned()),
                    "--identity" => set(&mut exec.identity, path()?)?,
                    "--pilot" => set(&mut exec.pilot, text()?.to_owned())?,
                    "--job" => set(&mut exec.job, text()?.to_owned())?,
                    "--task" => set(&mut exec.task, text()?.to_owned())?,
                    "--image" => set(&mut exec.image, path()?)?,
                    "--workdir" => set(&mut exec.workdir, path()?)?,
                    "--status-file" => set(&mut exec.status_file, path()?)?,
                    "--bind" => exec.bind.push(bind_of(value).ok()?),
                    "--env" => exec.env.push(assignment_of(value).ok()?),
                    "--pass-env" => exec.pass_env.push(name(text()?).ok()?),
                    "--scratch-size" => set(&mut exec.scratch_size, parse_size(text()?).ok()?)?,
                    "--memory" => set(&mut exec.memory, parse_size(text()?).ok()?)?,
                    "--cpus" => set(&mut exec.cpus, parse_cpus(text()?).ok()?)?,
                    "--cpuset" => set(&mut exec.cpuset, CpuSet::parse(text()?).ok()?)?,
                    "--pids" => set(&mut exec.pids, parse_pids(text()?).ok()?)?,
                    "--wall-time" => set(&mut exec.wall_time, parse_duration(text()?).ok()?)?,
                    "--grace" => set(&mut exec.grace, parse_duration(text()?).ok()?)?,
                    "--stdio" => set(&mut exec.stdio, Stdio::parse(text()?).ok()?)?,
                    "--network" => {
                        once(&mut network_said)?;
                        exec.network = network(text()?).ok()?;
                    }
                    _ => return None,
                }
            }
        }
    }
    exec.command = rest.cloned().collect();
    Some(exec)
}

/// An option that may be said once.
fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// A flag that may be said once.
fn once(slot: &mut bool) -> Option<()> {
    (!std::mem::replace(slot, true)).then_some(())
}

/// `SRC[:DST[:ro|rw]]`. A path with a colon cannot be written this way.
pub(crate) fn bind() -> impl TypedValueParser<Value = Bind> {
    OsStringValueParser::new().try_map(|text| bind_of(&text))
}

fn bind_of(text: &OsStr) -> Result<Bind, String> {
    let parts: Vec<&OsStr> = text.as_bytes().split(|b| *b == b':').map(OsStr::from_bytes).collect();
    let (source, target, mode) = match parts.as_slice() {
        [source] => (*source, *source, "ro"),
        [source, target] if *target == "ro" || *target == "rw" => {
            (*source, *source, if *target == "rw" { "rw" } else { "ro" })
        }
        [source, target] => (*source, *target, "ro"),
        [source, target, mode] => (*source, *target, mode.to_str().unwrap_or_default()),
        _ => return Err("write SRC[:DST[:ro|rw]]; a path with a colon cannot be bound".to_owned()),
    };
    let writable = match mode {
        "ro" => false,
        "rw" => true,
        other => return Err(format!("the mode is '{other}', and only ro and rw are known")),
    };
    let (source, target) = (PathBuf::from(source), PathBuf::from(target));
    if !source.is_absolute() || !target.is_absolute() {
        return Err("source and target are absolute paths".to_owned());
    }
    if target.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("a target has no '..' in it".to_owned());
    }
    Ok(Bind { source, target, writable })
}

/// `NAME=VALUE`.
fn assignment() -> impl TypedValueParser<Value = (EnvName, OsString)> {
    OsStringValueParser::new().try_map(|text| assignment_of(&text))
}

fn assignment_of(text: &OsStr) -> Result<(EnvName, OsString), String> {
    let bytes = text.as_bytes();
    let Some(at) = bytes.iter().position(|b| *b == b'=') else {
        // The text is not repeated: somebody may have put the secret where the name belongs.
        return Err("there is no '=' in it: write NAME=VALUE".to_owned());
    };
    let (head, value) = bytes.split_at(at);
    let head = std::str::from_utf8(head).map_err(|_| "the name is not UTF-8".to_owned())?;
    let value = OsStr::from_bytes(value.get(1..).unwrap_or_default());
    Ok((EnvName::new(head).map_err(ToOwned::to_owned)?, value.to_os_string()))
}

fn name(text: &str) -> Result<EnvName, &'static str> {
    EnvName::new(text)
}

pub(crate) fn network(text: &str) -> Result<Network, &'static str> {
    match text {
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        _ => Err("host and none are known"),
    }
}

/// Overwrites the values of `--env` in this process's own arguments: /proc/PID/cmdline shows those to every user of the
/// host, and init's copy of them to the payload.
fn wipe_env_values() {
    let mut over = false;
    crate::sys::argv::wipe_arguments(|argument, previous| {
        over |= argument == b"--";
        let value_at = |text: &[u8], from: usize| {
            text.get(from..)?.iter().position(|b| *b == b'=').map(|at| from + at + 1)
        };
        match previous {
            _ if over => None,
            Some(b"--env") => value_at(argument, 0),
            _ if argument.starts_with(b"--env=") => value_at(argument, 6),
            _ => None,
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    fn request(args: &[&str]) -> Result<Box<Request>, Failure> {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        match parse(&args, None)? {
            Parsed::Request(request) => Ok(request),
            Parsed::Help(_) => panic!("help"),
        }
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let request = request(&["--vo", "cms", "--", "--bind", "-x", "--"]).unwrap();
        assert_eq!(request.command, ["--bind", "-x", "--"]);
        assert_eq!(request.identity.vo.as_deref(), Some("cms"));
    }

    #[test]
    fn a_command_without_dashes_is_refused() {
        let failure = request(&["/bin/true"]).unwrap_err();
        assert_eq!(failure.code.exit_code(), 125);
        assert!(!failure.to_string().contains('\n'));
    }

    #[test]
    fn binds() {
        let bind =
            |text: &str| request(&["--bind", text, "--", "x"]).map(|r| r.binds.into_iter().next().unwrap());
        let plain = bind("/a").unwrap();
        assert_eq!(
            (plain.source.as_path(), plain.target.as_path(), plain.writable),
            ("/a".as_ref(), "/a".as_ref(), false)
        );
        assert!(bind("/a:rw").unwrap().writable);
        assert!(bind("/a:/b:rw").unwrap().writable);
        for bad in ["a", "/a:b", "/a:/b:rx", "/a:/b:rw:x", "", "/a:/../b", ":/b"] {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_secret() {
        for (args, word) in [
            (&["--env", "hunter2", "--", "x"][..], "NAME=VALUE"),
            (&["--env=hunter2", "--", "x"], "NAME=VALUE"),
            (&["--env", "=hunter2", "--", "x"], "empty"),
            (&["--pass-env", "TOKEN=hunter2", "--", "x"], "no '='"),
            (&["hunter2", "--", "x"], "before --"),
            (&["-xhunter2", "--", "x"], "before --"),
            (&["-----BEGIN hunter2", "--", "x"], "before --"),
            (&["--token=hunter2", "--", "x"], "--token"),
        ] {
            let line = request(args).unwrap_err().to_string();
            assert!(line.contains(word) && !line.contains("hunter2"), "{args:?}: {line}");
        }
    }

    /// What both read is the same, and what only clap reads is left to it.
    #[test]
    fn the_plain_reader_reads_what_clap_reads() {
        const WORDS: [&str; 66] = [
            "--user",
            "--issuer",
            "--vo",
            "--group",
            "--identity",
            "--pilot",
            "--job",
            "--task",
            "--image",
            "--writable",
            "--workdir",
            "--bind",
            "--scratch-size",
            "--env",
            "--pass-env",
            "--network",
            "--stdio",
            "--nested",
            "--no-pid",
            "--cpus",
            "--cpuset",
            "--memory",
            "--pids",
            "--wall-time",
            "--grace",
            "--status-file",
            "--dry-run",
            "--",
            "--help",
            "-h",
            "--vo=cms",
            "--use",
            "-",
            "",
            "x",
            "/a",
            "/a:/b:rw",
            "/a:rw",
            "a:b",
            "A=b",
            "A=",
            "=",
            "A",
            "A=-x",
            "512M",
            "-5",
            "1.5",
            "0",
            "7",
            "90s",
            "1h30m",
            "host",
            "none",
            "pass",
            "relay",
            "cms",
            "é",
            "--writable=true",
            "--nested",
            "x y",
            "--unknown",
            "--env=A=b",
            "--image=/x",
            "/",
            "1e3",
            "true",
        ];
        let mut seed = 7_u32;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 9) as usize % below
        };
        let valued = |word: &str| match word {
            "--bind" => "/a:/b:rw",
            "--env" => "A=b",
            "--pass-env" => "A",
            "--network" => "none",
            "--stdio" => "relay",
            "--cpus" | "--pids" => "7",
            "--cpuset" => "0-3,8",
            "--scratch-size" | "--memory" => "512M",
            "--wall-time" | "--grace" => "90s",
            _ => "x",
        };
        let (mut both, mut only_clap) = (0, 0);
        for round in 0..20_000 {
            let mut args: Vec<OsString> = Vec::new();
            for _ in 0..next(6) {
                let word = WORDS[next(27)];
                args.push(word.into());
                if !matches!(word, "--writable" | "--nested" | "--no-pid" | "--dry-run") {
                    args.push(if round % 3 == 0 { WORDS[next(66)].into() } else { valued(word).into() });
                }
            }
            if round % 5 == 0 {
                args.push(WORDS[next(66)].into());
            }
            if round % 7 != 0 {
                args.extend(["--".into(), WORDS[next(66)].into(), WORDS[next(66)].into()]);
            }
            let clap = Exec::try_parse_from(&args);
            match (plain(&args), clap) {
                (Some(plain), Ok(clap)) => {
                    assert_eq!(plain, clap, "{args:?}");
                    both += 1;
                }
                (None, Ok(_)) => only_clap += 1,
                (None, Err(_)) => {}
                (Some(plain), Err(error)) => panic!("{args:?}: {plain:?}, but {error}"),
            }
        }
        assert!(both > 5_000 && only_clap > 100, "{both} {only_clap}");
        let wild: Vec<OsString> =
            vec!["--image".into(), OsString::from_vec(b"/\xff".to_vec()), "--".into(), "x".into()];
        assert_eq!(plain(&wild), Some(Exec::try_parse_from(&wild).unwrap()));
    }

    #[test]
    fn help_is_short() {
        let Parsed::Help(text) = parse(&["--help".into()], None).unwrap() else { panic!("no help") };
        assert!(text.lines().count() < 60 && text.lines().all(|line| line.len() <= 110), "{text}");
    }
}
