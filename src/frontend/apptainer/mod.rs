//! `apptainer` and `singularity`: their command lines, as pilots write them, → a [`Request`].
//!
//! 1. What Apptainer's word means, it means here, or the call is refused: see the table in `flags`.
//! 2. Nothing but `--version`, `version`, `inspect` and help goes to standard output: it is the payload's.
#![forbid(unsafe_code)]

mod binds;
mod csv;
mod environment;
mod flags;
mod images;
mod inspect;
mod limits;
pub mod messages;
mod request;
mod words;

use crate::failure::Failure;
use crate::host::Caller;
use crate::request::Request;
use crate::request::container::Runtime;
use flags::Ask;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use words::{Command, Words, not_understood};

/// The version of Apptainer whose command line this is. What stands before the first `-` is what callers compare; what follows
/// says who it really is.
const VERSION: &str = "1.4.5";

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// A launch.
    Request(Box<Request>),
    /// Text for standard output.
    Print(String),
}

/// A command line, read.
#[derive(Debug)]
pub struct Call {
    /// What it asks for.
    pub parsed: Result<Parsed, Failure>,
    /// What is known of a launch whose line cannot be understood, for its record. `None`: nothing was to be run.
    pub begun: Option<Box<Request>>,
    /// Sentences for standard error.
    pub warnings: Vec<String>,
}

/// The runtime of that name; a path's last part counts.
pub fn runtime(name: &OsStr) -> Option<Runtime> {
    match Path::new(name).file_name()?.to_str()? {
        "apptainer" => Some(Runtime::Apptainer),
        "singularity" => Some(Runtime::Singularity),
        _ => None,
    }
}

/// Reads what stands behind the name. Secrets are wiped from argv.
pub fn parse(runtime: Runtime, args: &[OsString], caller: &Caller) -> Call {
    let mut words = Words::default();
    let mut begun = None;
    let parsed = read(runtime, args, caller, &mut words, &mut begun);
    wipe(args.len(), &words.secrets);
    let mut warnings = std::mem::take(&mut words.warnings);
    if words.is_on(Ask::Quiet) || is_below_warnings(caller) {
        warnings.clear();
    }
    Call { parsed, begun, warnings }
}

/// `MESSAGELEVEL` is a number that Apptainer's parts tell one another; below that of warnings it asks for none.
fn is_below_warnings(caller: &Caller) -> bool {
    const WARNINGS: i32 = -2;
    let level =
        ["APPTAINER_MESSAGELEVEL", "SINGULARITY_MESSAGELEVEL"].iter().find_map(|name| caller.var(name));
    level
        .and_then(OsStr::to_str)
        .and_then(|level| level.trim().parse::<i32>().ok())
        .is_some_and(|n| n < WARNINGS)
}

fn read(
    runtime: Runtime,
    args: &[OsString],
    caller: &Caller,
    words: &mut Words,
    begun: &mut Option<Box<Request>>,
) -> Result<Parsed, Failure> {
    let at = words.read(args, 0, None).inspect_err(|_| {
        *begun = Some(Box::new(request::begun(runtime, Command::Exec, caller)));
    })?;
    if words.is_on(Ask::Version) {
        return Ok(Parsed::Print(format!(
            "{} version {VERSION}-bailey{}\n",
            runtime.as_str(),
            env!("CARGO_PKG_VERSION")
        )));
    }
    if words.is_on(Ask::Help) {
        return Ok(Parsed::Print(help(runtime)));
    }
    let Some(word) = args.get(at) else {
        return Err(not_understood(
            "no command was given: exec, run, test, shell, inspect, version are known",
        ));
    };
    let Some(command) = Command::parse(word) else {
        return other(runtime, word);
    };
    if command == Command::Inspect {
        let names = words.read_all(args, at + 1, command)?;
        if words.is_on(Ask::Help) {
            return Ok(Parsed::Print(help(runtime)));
        }
        return inspect::answer(words, &names, caller.cwd.as_deref()).map(Parsed::Print);
    }
    let mut request = request::begun(runtime, command, caller);
    let filled = words.read(args, at + 1, Some(command)).and_then(|at| {
        if words.is_on(Ask::Help) {
            return Ok(true);
        }
        words.read_environment(&caller.env, command)?;
        let rest = args.get(at..).unwrap_or_default();
        request::fill(&mut request, words, rest, command, caller).map(|()| false)
    });
    match filled {
        Ok(false) => Ok(Parsed::Request(Box::new(request))),
        Ok(true) => Ok(Parsed::Print(help(runtime))),
        Err(failure) => {
            *begun = Some(Box::new(request));
            Err(failure)
        }
    }
}

/// Commands of Apptainer that bailey has not, and what does it instead.
const OTHERS: [(&str, &str); 22] = [
    ("build", BUILD),
    ("pull", BUILD),
    ("push", BUILD),
    ("search", BUILD),
    ("registry", BUILD),
    ("remote", BUILD),
    ("keyserver", BUILD),
    ("key", SIGNED),
    ("sign", SIGNED),
    ("verify", SIGNED),
    ("sif", SIGNED),
    ("siftool", SIGNED),
    ("overlay", "leave it out: --writable-tmpfs needs no overlay, and -B shows a directory that stays"),
    (
        "instance",
        "use exec: every payload is a launch of its own; bailey ps and bailey stop are for those that run",
    ),
    ("cache", "leave it out: nothing is fetched, and so there is no cache"),
    ("capability", "leave it out: no payload gets a capability"),
    ("config", "the site's configuration is /etc/bailey/bailey.toml; see bailey config --help"),
    ("confgen", "the site's configuration is /etc/bailey/bailey.toml; see bailey config --help"),
    ("plugin", "leave it out: there are no plugins"),
    ("checkpoint", "call DMTCP inside the image"),
    ("oci", "use exec with an unpacked directory"),
    ("run-help", "use inspect --helpfile"),
];

const BUILD: &str =
    "fetch and unpack images with the real apptainer, or take one from /cvmfs/unpacked.cern.ch";
const SIGNED: &str = "images are directories, which carry no signature; the record names their content";

/// A command that runs nothing.
fn other(runtime: Runtime, word: &OsStr) -> Result<Parsed, Failure> {
    if let Some((name, instead)) = OTHERS.iter().find(|(name, _)| word == *name) {
        return Err(Failure::usage(
            format!("there is no {} {name}", runtime.as_str()),
            "bailey runs payloads, and does nothing else with images",
            *instead,
        ));
    }
    match word.to_str() {
        Some("version") => Ok(Parsed::Print(format!("{VERSION}\n"))),
        Some("help") => Ok(Parsed::Print(help(runtime))),
        _ => Err(not_understood("the command is none of exec, run, test, shell, inspect, version")),
    }
}

fn help(runtime: Runtime) -> String {
    let name = runtime.as_str();
    format!(
        "bailey, called as {name}: Apptainer's command line, bailey's walls and records.\n\n\
         \x20 {name} [-q|-s|-v|-d] exec [FLAGS] DIR COMMAND [ARG...]   run a command in an unpacked image\n\
         \x20 {name} [-q|-s|-v|-d] run [FLAGS] DIR [ARG...]            run its runscript\n\
         \x20 {name} [-q|-s|-v|-d] test [FLAGS] DIR [ARG...]           run its test script; without one, see that it would run\n\
         \x20 {name} [-q|-s|-v|-d] shell [FLAGS] DIR                   run a shell\n\
         \x20 {name} inspect [--json] [FLAGS] DIR                 what the image says of itself\n\
         \x20 {name} --version | version\n\n\
         The flags are Apptainer's; docs/apptainer.md says what comes of each. What cannot be done ends with code 255 and a line\n\
         that begins with FATAL: and has bailey's own code in brackets.\n"
    )
}

/// Overwrites secrets in this process's own arguments. The last `count` of them are those that were read.
fn wipe(count: usize, secrets: &[(usize, usize)]) {
    if secrets.is_empty() {
        return;
    }
    let before = std::env::args_os().len().saturating_sub(count);
    let mut number = 0;
    crate::sys::argv::wipe_arguments(|_, _| {
        let at = number;
        number += 1;
        secrets.iter().find(|(argument, _)| argument + before == at).map(|(_, from)| *from)
    });
}

/// Any command line, an argument a line, with variables on the lines that begin with a NUL; or, behind a byte of 1, a file of
/// `--env-file`. Opens nothing: a line that names a file or asks what an image says is not gone into.
#[cfg(any(test, feature = "test-hooks"))]
#[allow(clippy::panic)]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    if let Some(file) = bytes.strip_prefix(b"\x01") {
        return environment::parse_file(file).is_ok();
    }
    let (mut args, mut env) = (Vec::new(), Vec::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(variable) = line.strip_prefix(b"\0") else {
            args.push(OsStr::from_bytes(line).to_owned());
            continue;
        };
        let at = variable.iter().position(|byte| *byte == b'=').unwrap_or(variable.len());
        let (name, value) = variable.split_at(at);
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        env.push((text(name), text(value.get(1..).unwrap_or_default())));
    }
    let opens = |text: &OsStr| {
        [&b"env-file"[..], b"ENV_FILE", b"inspect"]
            .iter()
            .any(|word| text.as_bytes().windows(word.len()).any(|part| part == *word))
    };
    if args.iter().any(|text| opens(text)) || env.iter().any(|(name, _)| opens(name)) {
        return false;
    }
    let caller = Caller { uid: 1, gid: 1, env, cwd: Some("/w".into()), lent: None };
    let (mut words, mut begun) = (Words::default(), None);
    match read(Runtime::Apptainer, &args, &caller, &mut words, &mut begun) {
        Ok(Parsed::Request(request)) => {
            let binds =
                request.binds.iter().all(|bind| bind.source.is_absolute() && bind.target.is_absolute());
            assert!(binds && request.image.is_some_and(|image| image.is_absolute()));
            true
        }
        Ok(Parsed::Print(text)) => text.ends_with('\n'),
        Err(failure) => {
            let (code, line) = messages::fatal(&failure);
            assert!(code == 255 && !line.contains(char::is_control), "{line:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests;
