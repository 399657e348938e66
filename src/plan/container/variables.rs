//! The payload's variables in Apptainer's manner: the host's as far as the site lets them in, the image's over them, the caller's
//! `APPTAINERENV_` over all.
//!
//! 1. What carries a credential or leads to the pilot's services stays outside, unless its file is something that was handed over or
//!    the command line sets it.
//! 2. PATH, HOME and the loader's variables are never the host's, whoever asks.
#![forbid(unsafe_code)]

use crate::config::HostVariables;
use crate::host::{Caller, starter_is_parent};
use crate::request::container::{Container, Start};
use crate::request::{Bind, EnvName, Request};
use crate::sandbox::environment::{credential_path, is_secret_value, is_withheld_with};
use crate::sandbox::tree::Builder;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// PATH before the image says another, as Apptainer has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What enters even a clean environment.
const ALWAYS: [&str; 11] = [
    "TERM",
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "ftp_proxy",
    "FTP_PROXY",
];

/// Directories that may be the host's alone.
const DIRECTORIES: [&str; 3] = ["TMPDIR", "TMP", "TEMP"];

/// Where the payload finds itself.
pub(in crate::plan) struct Inside<'a> {
    /// Launch id.
    pub id: &'a str,
    /// HOME.
    pub home: &'a Path,
    /// Where it starts.
    pub start_dir: &'a Path,
    /// The image, resolved.
    pub image: &'a Path,
    /// What the site lets in; `Clean` also where the command line asks for that.
    pub host: HostVariables,
}

/// Sorted by who has the last word.
#[derive(Debug, Default)]
pub(in crate::plan) struct Variables {
    /// The runtime's own.
    own: BTreeMap<OsString, OsString>,
    /// The host's; the image's go before.
    host: BTreeMap<OsString, OsString>,
    /// The caller's, which go before all.
    insisted: BTreeMap<OsString, OsString>,
    path: Option<OsString>,
    before: Option<OsString>,
    behind: Option<OsString>,
    /// Names that stayed outside although the command line sets them or Apptainer would let them in.
    pub outside: Vec<String>,
}

/// Sorts the variables.
pub(in crate::plan) fn variables(
    container: &Container,
    request: &Request,
    caller: &Caller,
    inside: &Inside<'_>,
    builder: &Builder,
) -> Variables {
    let mut variables = Variables {
        own: own(container, &request.binds, inside),
        before: container.path.0.clone(),
        behind: container.path.1.clone(),
        ..Variables::default()
    };
    if container.clean_env {
        variables.own.insert("LANG".into(), "C".into());
    }
    let is_handed = |path: &Path| builder.is_handed(path);
    for (name, value) in &caller.env {
        let Some(text) = name.to_str().filter(|name| is_plain(name)) else { continue };
        let passed = request.pass_env.iter().any(|name| name.as_str() == text);
        if is_runtimes(text) || container.no_env.iter().any(|name| name.as_str() == text) {
            continue;
        }
        if !passed && !ALWAYS.contains(&text) && inside.host == HostVariables::Clean {
            continue;
        }
        if !passed && !may_enter(text, value, &is_handed) {
            variables.outside.push(text.to_owned());
            continue;
        }
        if DIRECTORIES.contains(&text) && !is_directory(builder, value) {
            variables.outside.push(text.to_owned());
            continue;
        }
        variables.host.insert(name.clone(), value.clone());
    }
    for (name, value) in &request.env {
        variables.insist(name, value, &is_handed);
    }
    variables
}

/// The runtime's own, which payloads look for.
fn own(container: &Container, binds: &[Bind], inside: &Inside<'_>) -> BTreeMap<OsString, OsString> {
    let mut own: BTreeMap<OsString, OsString> = BTreeMap::from([
        ("PATH".into(), PATH.into()),
        ("HOME".into(), inside.home.into()),
        ("PWD".into(), inside.start_dir.into()),
        ("PS1".into(), "Apptainer> ".into()),
        ("BAILEY_ID".into(), inside.id.into()),
    ]);
    let command = match container.start {
        Start::Exec => "exec",
        Start::Run => "run",
        Start::Test => "test",
        Start::Shell => "shell",
    };
    let mut bound = OsString::new();
    for bind in binds {
        if !bound.is_empty() {
            bound.push(",");
        }
        bound.push(&bind.target);
    }
    for prefix in ["APPTAINER_", "SINGULARITY_"] {
        let mut put =
            |name: &str, value: &OsStr| own.insert(format!("{prefix}{name}").into(), value.to_owned());
        put("CONTAINER", inside.image.as_os_str());
        put("NAME", inside.image.file_name().unwrap_or_default());
        put("COMMAND", OsStr::new(command));
        put("BIND", &bound);
        put("ENVIRONMENT", OsStr::new("/.singularity.d/env/91-environment.sh"));
        if let Some(app) = &container.app {
            put("APPNAME", OsStr::new(app));
        }
    }
    // Empty without an app: scripts of images read it.
    own.entry("APPTAINER_APPNAME".into()).or_default();
    own
}

/// A name that a shell can set.
fn is_plain(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Names that the runtime gives a meaning to.
fn is_runtimes(name: &str) -> bool {
    ["PATH", "HOME", "PWD"].contains(&name)
        || ["APPTAINER_", "APPTAINERENV_", "SINGULARITY_", "SINGULARITYENV_", "BAILEY_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Whether a variable of the host may be the payload's.
fn may_enter(name: &str, value: &OsStr, is_handed: &dyn Fn(&Path) -> bool) -> bool {
    if name.starts_with("LD_") || is_secret_value(name, value) {
        return false;
    }
    match credential_path(name, value) {
        Some(path) => is_handed(path),
        None => !is_withheld_with(name, value),
    }
}

fn is_directory(builder: &Builder, value: &OsStr) -> bool {
    use crate::sandbox::tree::Kind;
    let path = Path::new(value);
    path.is_absolute() && builder.resolve(path).is_ok_and(|clean| builder.kind(&clean) == Some(Kind::Dir))
}

impl Variables {
    fn insist(&mut self, name: &EnvName, value: &OsStr, is_handed: &dyn Fn(&Path) -> bool) {
        let text = name.as_str();
        match text {
            "PATH" => self.path = Some(value.to_owned()),
            "HOME" => self.outside.push(text.to_owned()),
            // Batch systems set every variable of theirs in this way: one that leads to nothing is no reason to stop.
            _ if credential_path(text, value).is_some_and(|path| !is_handed(path)) => {
                self.outside.push(text.to_owned());
            }
            _ if !is_plain(text) || text == "BAILEY_ID" => self.outside.push(text.to_owned()),
            "LD_LIBRARY_PATH" if !value.is_empty() => {
                let mut value = value.to_owned();
                value.push(":/.singularity.d/libs");
                self.insisted.insert(text.into(), value);
            }
            _ => {
                self.insisted.insert(text.into(), value.to_owned());
            }
        }
    }

    /// For an image that sets nothing.
    pub(super) fn direct(self) -> BTreeMap<OsString, OsString> {
        let Self { own, host, insisted, path, before, behind, .. } = self;
        let mut env = host;
        env.extend(own);
        env.extend(insisted);
        let whole = path.unwrap_or_else(|| {
            let parts = [before, env.get(OsStr::new("PATH")).cloned(), behind];
            let mut whole = OsString::new();
            for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
                if !whole.is_empty() {
                    whole.push(":");
                }
                whole.push(part);
            }
            whole
        });
        env.insert("PATH".into(), whole);
        env
    }

    /// For the script: its variables, and the names that the image may set and those that it may not.
    pub(super) fn for_the_script(self) -> (BTreeMap<OsString, OsString>, Vec<OsString>, Vec<OsString>) {
        let Self { own, host, insisted, path, before, behind, .. } = self;
        let mut env = own;
        env.remove(OsStr::new("PS1"));
        let mut under = |prefix: &str, variables: BTreeMap<OsString, OsString>| {
            let mut names = Vec::with_capacity(variables.len());
            for (name, value) in variables {
                let mut other = OsString::from(prefix);
                other.push(&name);
                env.insert(other, value);
                names.push(name);
            }
            names
        };
        let from_host = under("BAILEY_H_", host);
        let insisted = under("BAILEY_S_", insisted);
        for (name, value) in [("BAILEY_PATH", path), ("BAILEY_BEFORE", before), ("BAILEY_BEHIND", behind)] {
            if let Some(value) = value {
                env.insert(name.into(), value);
            }
        }
        (env, from_host, insisted)
    }
}

/// Variables of batch systems and pilots for themselves. They copy all that they have into `APPTAINERENV_`, so that these stand there
/// says nothing.
const NEVER_THE_PAYLOADS: [&str; 8] =
    ["_CONDOR_", "CONDOR_", "GLIDEIN_", "GLEXEC_", "PANDA_", "OIDC_", "IDTOKENS_", "SSH_"];

/// Of the pilot's credentials those that the command line itself names to the payload, by the path that they have inside: they
/// were handed over on purpose.
pub(in crate::plan) fn exempt(request: &Request, builder: &Builder) -> Vec<PathBuf> {
    // HTCondor's starter copies what it made for the job: job ad, chirp and the tokens of the job's user lie in the job's directory.
    let of_the_pilot = |name: &str| {
        name.ends_with("_ORIG")
            || NEVER_THE_PAYLOADS.iter().any(|prefix| name.starts_with(prefix))
                && !(name.starts_with("_CONDOR_") && starter_is_parent())
    };
    let set = request.env.iter().filter(|(name, _)| !of_the_pilot(name.as_str()));
    let named = set.filter_map(|(name, value)| credential_path(name.as_str(), value));
    named.filter_map(|path| builder.handed_source(path)).collect()
}
