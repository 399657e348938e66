//! The first word → who does the work. The one place that turns a result into a message on
//! stderr and an exit code.
#![forbid(unsafe_code)]

use crate::audit::Timestamp;
use crate::config::{self, Config, Place};
use crate::failure::{Failure, io_text};
use crate::frontend::apptainer::{self, messages};
use crate::frontend::bailey::{self, Parsed};
use crate::host::Caller;
use crate::pipeline::{self, Exit};
use crate::policy::store;
use crate::probe;
use crate::report::{Desk, print, say, voice};
use crate::request::container::{Runtime, Start};
use crate::request::{LaunchId, Request};
use crate::sys::terminal;
use crate::uids;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

/// What an administrator asks of `bailey-admin`.
const ADMIN: [&str; 11] =
    ["check", "trace", "verify", "report", "ps", "stop", "drain", "ban", "policy", "clean", "config"];

const HELP: &str = "\
bailey runs one user's payload for a pilot job: walls around it, and a durable record of who it is before it runs.

  bailey exec [OPTIONS] -- COMMAND [ARG...]   run a payload; bailey exec --help
  bailey apptainer | singularity ...          the same from Apptainer's command line, as under these names
  bailey check [--health] [--json]            would a payload run here, behind which walls; bailey check --help
  bailey trace --at TIME [...]                who ran here then; bailey trace --help
  bailey verify [DIR...]                      is the log whole
  bailey report --since CURSOR [--json]       what happened that people outside should hear of
  bailey ps                                   what lives here
  bailey stop ID --reason TEXT [...]          stop one, or hold it; bailey stop --help
  bailey drain [--reason TEXT] | --off        take no new payloads, or take them again
  bailey ban add | remove | list | check | import | test    who may not run; bailey ban --help
  bailey policy explain [...] | check         what the policy says of a launch, and why
  bailey clean [--dry-run] [--json]           remove what dead launches left under uids of their own
  bailey config validate [FILE...] | show     check or print the configuration
  bailey --version
";

/// The launcher's main; returns the exit code.
pub fn main() -> u8 {
    let mut args = std::env::args_os();
    let name = args.next();
    if let Some(runtime) = name.as_deref().and_then(apptainer::runtime) {
        return container(runtime, &args.collect::<Vec<_>>());
    }
    let first = args.next();
    let rest: Vec<OsString> = args.collect();
    let result = match first.as_deref().and_then(OsStr::to_str) {
        Some("exec") => exec(&rest),
        Some("apptainer") => return container(Runtime::Apptainer, &rest),
        Some("singularity") => return container(Runtime::Singularity, &rest),
        Some(probe::NOTHING) => return 0,
        Some(probe::COMMAND) => Ok(probe::run(&rest)),
        Some("--version" | "-V") => {
            print(concat!("bailey ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(0)
        }
        Some("--help" | "-h" | "help") => {
            print(HELP);
            Ok(0)
        }
        Some(word) if ADMIN.contains(&word) => Err(hand_on(word, &rest)),
        Some(word) => Err(Failure::usage(
            format!("there is no command '{word}'"),
            format!("known are exec, {}", ADMIN.join(", ")),
            "see bailey --help",
        )),
        None => Err(Failure::usage("there is nothing to do", "no command was given", "see bailey --help")),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            say(&failure.to_string());
            failure.code.exit_code()
        }
    }
}

/// `bailey exec`.
fn exec(args: &[OsString]) -> Result<u8, Failure> {
    let caller = Caller::look();
    let asked = match bailey::parse(args, caller.var("BAILEY_IDENTITY")) {
        Ok(Parsed::Help(text)) => {
            print(&text);
            return Ok(0);
        }
        Ok(Parsed::Request(request)) => Ok(request),
        Err(failure) => Err((Box::default(), failure)),
    };
    launch(asked, caller).map(|exit| exit.code)
}

/// Called as a container runtime, with its exit codes and its way to say that something failed.
fn container(runtime: Runtime, args: &[OsString]) -> u8 {
    voice::avoid(messages::AVOIDED);
    let caller = Caller::look();
    let call = apptainer::parse(runtime, args, &caller);
    for warning in &call.warnings {
        voice::tell(&messages::warning(warning));
    }
    let asked = match (call.parsed, call.begun) {
        (Ok(apptainer::Parsed::Print(text)), _) => {
            // What an image says of itself drives nobody's terminal.
            let at_a_terminal = std::io::stdout().is_terminal();
            print(&if at_a_terminal { messages::shown(&text) } else { text });
            return 0;
        }
        (Ok(apptainer::Parsed::Request(mut request)), _) => {
            request.terminal = has_terminal(&request);
            Ok(request)
        }
        (Err(failure), Some(begun)) => Err((begun, failure)),
        // Nothing was to be run.
        (Err(failure), None) => return fatal(&failure),
    };
    match launch(asked, caller) {
        Ok(exit) => messages::exit_code(exit.code, exit.from_bailey),
        Err(failure) => fatal(&failure),
    }
}

/// Whether a person sits before it, who wants to hold and to continue jobs. One who started it in the background sees their
/// shell's prompt, and the terminal is the shell's.
fn has_terminal(request: &Request) -> bool {
    let starts = request.container.as_ref().map(|container| container.start);
    starts.is_some_and(|start| start != Start::Test)
        && std::io::stdin().is_terminal()
        && std::io::stdout().is_terminal()
        && terminal::is_in_foreground(std::io::stdin().as_fd())
}

fn fatal(failure: &Failure) -> u8 {
    let (code, line) = messages::fatal(failure);
    voice::tell(&line);
    code
}

/// Runs what was asked for, or records that it could not be understood: why, and what is known of it.
fn launch(
    mut asked: Result<Box<Request>, (Box<Request>, Failure)>,
    mut caller: Caller,
) -> Result<Exit, Failure> {
    let (id, no_id) = match new_id() {
        Ok(id) => (id, None),
        Err(failure) => (stopgap_id(), Some(failure)),
    };
    // Root becomes another before anything else is done; the uid is held until bailey ends.
    let _lent = match &mut asked {
        Ok(request) if caller.uid == 0 => lend(request, &mut caller, id)?,
        _ => None,
    };
    let (config, policy) = match store::open(&Place::system(), caller.uid, Timestamp::now()) {
        Ok(opened) => opened,
        Err(failure) => {
            return Err(match &asked {
                Ok(request) => refuse_unconfigured(request, &caller, id, failure),
                _ => failure,
            });
        }
    };
    if let (Some(failure), Ok(request)) = (no_id, &asked) {
        return Err(if request.dry_run { failure } else { refuse(&config, &caller, request, id, failure) });
    }
    match asked {
        Ok(request) => pipeline::launch(&request, &config, &policy, &caller, id),
        // Somebody wanted to run something: it leaves a record as well.
        Err((begun, failure)) => Err(refuse(&config, &caller, &begun, id, failure)),
    }
}

/// Makes of root's launch one of a uid from the site's range, where there is one. Else root stays root, and is refused.
fn lend(request: &mut Request, caller: &mut Caller, id: LaunchId) -> Result<Option<uids::Taken>, Failure> {
    // A configuration that cannot be used is said where the others say it, and nothing runs.
    let Ok(config) = config::load(&Place::system()) else { return Ok(None) };
    match uids::lend(&config, request, caller, id) {
        Ok(lent) => Ok(lent.map(|(taken, other)| {
            *caller = other;
            taken
        })),
        Err(failure) if request.dry_run || nix::unistd::geteuid().as_raw() != 0 => Err(failure),
        Err(failure) => {
            let mut desk = Desk::new(&config, caller, request, id);
            let failure = desk.for_the_user(failure);
            pipeline::refuse(&mut desk, &failure);
            Err(failure)
        }
    }
}

/// Without a configuration nobody knows where the log is; the pilot still learns whose fault it is.
fn refuse_unconfigured(request: &Request, caller: &Caller, id: LaunchId, failure: Failure) -> Failure {
    if request.dry_run {
        return failure;
    }
    let config = Config::default();
    let mut desk = Desk::new(&config, caller, request, id);
    let failure = desk.for_the_user(failure);
    pipeline::refuse_without_log(&mut desk, &failure);
    failure
}

/// A refusal before the pipeline, with its record.
fn refuse(config: &Config, caller: &Caller, request: &Request, id: LaunchId, failure: Failure) -> Failure {
    let mut desk = Desk::new(config, caller, request, id);
    let failure = desk.for_the_user(failure);
    pipeline::refuse(&mut desk, &failure);
    failure
}

fn since_the_epoch() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn millis() -> u64 {
    u64::try_from(since_the_epoch().as_millis()).unwrap_or(0)
}

/// For a refusal where there is no randomness: another process has another one. Nothing is launched under it.
fn stopgap_id() -> LaunchId {
    let mut parts = [0_u8; 10];
    let bytes = [std::process::id().to_be_bytes(), since_the_epoch().subsec_nanos().to_be_bytes()];
    for (to, from) in parts.iter_mut().zip(bytes.as_flattened()) {
        *to = *from;
    }
    LaunchId::from_parts(millis(), parts)
}

/// An id for a launch, or for a check.
pub(crate) fn new_id() -> Result<LaunchId, Failure> {
    let mut random = [0_u8; 10];
    crate::sys::process::random_bytes(&mut random).map_err(|errno| {
        Failure::site(
            "cannot make a launch id",
            crate::failure::errno_text(errno),
            "the kernel's random source failed: getrandom (kernel 3.17), which an outer container's seccomp policy must let through",
        )
    })?;
    Ok(LaunchId::from_parts(millis(), random))
}

/// Replaces this process by `bailey-admin`, found beside this program or in libexec. Returns only when that failed.
fn hand_on(word: &str, rest: &[OsString]) -> Failure {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("bailey-admin")));
    let places: Vec<PathBuf> =
        beside.into_iter().chain([PathBuf::from("/usr/libexec/bailey/bailey-admin")]).collect();
    let Some(admin) = places.iter().find(|place| place.is_file()) else {
        return Failure::site(
            format!("cannot run 'bailey {word}'"),
            "bailey-admin is neither beside bailey nor in /usr/libexec/bailey",
            "install the package bailey-admin",
        );
    };
    let error = Command::new(admin).arg(word).args(rest).exec();
    Failure::site(format!("cannot run {}", admin.display()), io_text(&error), "reinstall bailey-admin")
}
