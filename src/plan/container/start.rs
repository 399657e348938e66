//! What runs: the command line's own command, or one of the image's scripts; and what the image sets for it before.
#![forbid(unsafe_code)]

use super::Variables;
use crate::failure::Failure;
use crate::plan::strings;
use crate::probe;
use crate::request::container::{Container, Start};
use crate::sandbox::tree::{Builder, HostObject, Kind, Origin, READ_ONLY};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sources the image's environment, then executes. Comments cost every launch their bytes.
const SCRIPT: &str = include_str!("start.sh");

/// The shell that runs it, and images' own scripts without a first line.
const SHELL: &str = "/bin/sh";

/// Where this program itself is, for an image that has no other that ends well.
const NOTHING: &str = "/run/test/bailey";

/// Puts this program where it can be run, if the image has nothing that could be run in place of a test that it does not have
/// either: whether a payload would run here is asked all the same, with a record and all.
pub(in crate::plan) fn bring_along(container: &Container, builder: &mut Builder) -> Result<(), Failure> {
    let has = ["/.singularity.d/test", "/bin/true", "/usr/bin/true", SHELL];
    if container.start != Start::Test || has.iter().any(|path| is(builder, path, Kind::File)) {
        return Ok(());
    }
    match std::env::current_exe().ok().and_then(|path| HostObject::open(&path).ok()) {
        Some(object) => builder.add_system_bind(object, Path::new(NOTHING), READ_ONLY, Origin::System),
        None => Ok(()),
    }
}

/// What is executed.
#[derive(Debug)]
pub(in crate::plan) struct Run {
    /// The user's command: what the record names.
    pub words: Vec<OsString>,
    /// What execve gets: those, or the shell with the script.
    pub argv: Vec<OsString>,
    /// Variables.
    pub env: BTreeMap<OsString, OsString>,
}

/// Decides on the command. Comes when everything is in place.
///
/// # Errors
/// The image has nothing of what was asked for.
pub(in crate::plan) fn start(
    container: &Container,
    command: &[OsString],
    builder: &Builder,
    variables: Variables,
) -> Result<Run, Failure> {
    let words = words(container, command, builder)?;
    let sets = is(builder, "/.singularity.d/env", Kind::Dir) || is(builder, "/environment", Kind::File);
    if !sets || !is(builder, SHELL, Kind::File) {
        return Ok(Run { argv: words.clone(), words, env: variables.direct() });
    }
    let (env, from_host, insisted) = variables.for_the_script();
    let script: String =
        SCRIPT.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let mut argv: Vec<OsString> = ["sh", "-c", &script, "sh"].map(OsString::from).to_vec();
    argv.extend(from_host);
    argv.push("/".into());
    argv.extend(insisted);
    argv.push("/".into());
    argv.extend(words.iter().cloned());
    Ok(Run { words, argv, env })
}

impl Run {
    /// The name to look for: the shell's own path where the script runs.
    pub(in crate::plan) fn program(&self) -> OsString {
        if self.argv.len() == self.words.len() {
            self.words.first().cloned().unwrap_or_default()
        } else {
            OsString::from(SHELL)
        }
    }
}

impl Run {
    /// What the script executes in the end, where it is named by its path. A name alone is looked for by the script, in the PATH that
    /// the image makes.
    pub(in crate::plan) fn behind(&self) -> Result<Option<CString>, Failure> {
        let first = self.words.first().filter(|_| self.argv.len() != self.words.len());
        let Some(path) = first.filter(|word| word.as_bytes().contains(&b'/')) else { return Ok(None) };
        strings(std::iter::once(path.clone()), "the command").map(|paths| paths.into_iter().next())
    }
}

fn is(builder: &Builder, path: &str, kind: Kind) -> bool {
    builder.resolve(Path::new(path)).is_ok_and(|clean| builder.kind(&clean) == Some(kind))
}

fn words(container: &Container, command: &[OsString], builder: &Builder) -> Result<Vec<OsString>, Failure> {
    let with = |program: &OsStr| {
        let mut words = vec![program.to_owned()];
        words.extend(command.iter().cloned());
        words
    };
    let first =
        |names: &[String]| names.iter().find(|name| is(builder, name, Kind::File)).map(OsString::from);
    let missing = |what: String, why: &str, next: &str| Err(Failure::usage(what, why, next));
    let scif = match &container.app {
        Some(app) if app.is_empty() || app.contains('/') || app.starts_with('.') => {
            return missing(
                format!("cannot use the app {app}"),
                "that is no name of one",
                "name one, such as --app NAME",
            );
        }
        Some(app) => Some(format!("/scif/apps/{app}/scif")),
        None => None,
    };
    let of_image = |script: &str, older: &[&str]| -> Vec<String> {
        match &scif {
            Some(app) => vec![format!("{app}/{script}")],
            None => std::iter::once(format!("/.singularity.d/{script}"))
                .chain(older.iter().map(ToString::to_string))
                .collect(),
        }
    };
    match container.start {
        Start::Exec if command.first().is_none_or(|word| word.is_empty()) => missing(
            "there is no command to run".into(),
            "nothing follows the image, or an empty word",
            "name a command, or use run",
        ),
        Start::Exec => Ok(command.to_vec()),
        Start::Run => match first(&of_image("runscript", &["/apptainer", "/singularity"])) {
            Some(script) => Ok(with(&script)),
            None if scif.is_none() && is(builder, SHELL, Kind::File) => Ok(with(OsStr::new(SHELL))),
            None if scif.is_some() => missing(
                format!("cannot run the app {}", container.app.as_deref().unwrap_or_default()),
                "the image has no such app, or it has no runscript",
                "see which there are: apptainer inspect --list-apps",
            ),
            None => missing(
                "cannot run the image".into(),
                "it has no runscript and no /bin/sh",
                "use exec with a command that it has",
            ),
        },
        Start::Test => match first(&of_image("test", &[])) {
            Some(script) => Ok(with(&script)),
            // Without a test there is nothing that could fail.
            None if scif.is_some() => {
                missing("cannot test the app".into(), "it has no test", "leave out --app")
            }
            None => match first(&["/bin/true", "/usr/bin/true", NOTHING].map(String::from)) {
                Some(program) => Ok(vec![program, probe::NOTHING.into()]),
                None => Ok([SHELL, "-c", ":"].map(OsString::from).to_vec()),
            },
        },
        Start::Shell => {
            let asked = container.shell.as_ref().and_then(|shell| shell.to_str().map(str::to_owned));
            if let Some(shell) = asked.filter(|shell| is(builder, shell, Kind::File)) {
                return Ok(with(OsStr::new(&shell)));
            }
            match first(&["/bin/bash", SHELL].map(String::from)) {
                Some(shell) if shell == "/bin/bash" => {
                    let mut words = vec![shell, "--norc".into()];
                    words.extend(command.iter().cloned());
                    Ok(words)
                }
                Some(shell) => Ok(with(&shell)),
                None => missing(
                    "cannot start a shell".into(),
                    "the image has neither /bin/bash nor /bin/sh",
                    "name one with --shell, or use exec",
                ),
            }
        }
    }
}
