//! `bailey exec [OPTIONS] -- COMMAND [ARG...]`.
#![forbid(unsafe_code)]

use crate::failure::Failure;
use crate::request::{
    Bind, DeclaredIdentity, EnvName, Network, Request, Stdio, parse_count, parse_cpus, parse_duration,
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
#[derive(Debug, Parser)]
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
    /// Cores it asks for, for rules on overuse; not enforced yet
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_hyphen_values = true, help_heading = "Walls and limits")]
    cpus: Option<u64>,
    /// Memory it asks for; likewise
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true, help_heading = "Walls and limits")]
    memory: Option<u64>,
    /// Processes it asks for; recorded only
    #[arg(long, value_name = "N", value_parser = parse_count, allow_hyphen_values = true, help_heading = "Walls and limits")]
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
    let exec = match Exec::try_parse_from(args) {
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
        cpus,
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
        nested,
        scratch_size,
        cpus_milli: cpus,
        memory,
        pids,
        wall_time,
        grace,
        status_file,
        dry_run,
    })))
}

/// `SRC[:DST[:ro|rw]]`. A path with a colon cannot be written this way.
pub(crate) fn bind() -> impl TypedValueParser<Value = Bind> {
    OsStringValueParser::new().try_map(|text| {
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
    })
}

/// `NAME=VALUE`.
fn assignment() -> impl TypedValueParser<Value = (EnvName, OsString)> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|b| *b == b'=') else {
            // The text is not repeated: somebody may have put the secret where the name belongs.
            return Err("there is no '=' in it: write NAME=VALUE".to_owned());
        };
        let (head, value) = bytes.split_at(at);
        let head = std::str::from_utf8(head).map_err(|_| "the name is not UTF-8".to_owned())?;
        let value = OsStr::from_bytes(value.get(1..).unwrap_or_default());
        Ok((EnvName::new(head).map_err(ToOwned::to_owned)?, value.to_os_string()))
    })
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

    #[test]
    fn help_is_short() {
        let Parsed::Help(text) = parse(&["--help".into()], None).unwrap() else { panic!("no help") };
        assert!(text.lines().count() < 60 && text.lines().all(|line| line.len() <= 110), "{text}");
    }
}
