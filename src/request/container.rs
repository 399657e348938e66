//! What the command line of a container runtime asks beyond our own options, in Apptainer's meaning of the words. Plain data:
//! how much of it a payload gets is the site's decision (`[apptainer]` of the configuration), made by the plan.
#![forbid(unsafe_code)]

use super::EnvName;
use std::ffi::OsString;
use std::path::PathBuf;

/// The name that bailey was called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// `apptainer`
    #[default]
    Apptainer,
    /// `singularity`
    Singularity,
}

impl Runtime {
    /// The word: what `--version` begins with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apptainer => "apptainer",
            Self::Singularity => "singularity",
        }
    }
}

/// What is run in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The command of the command line.
    #[default]
    Exec,
    /// The image's runscript; the command line's words are its arguments.
    Run,
    /// The image's test script.
    Test,
    /// A shell.
    Shell,
}

/// `--home SRC[:DST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Directory on the host.
    pub source: PathBuf,
    /// HOME inside.
    pub target: PathBuf,
}

/// What `--no-mount` can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The home directory.
    Home,
    /// `/tmp` and `/var/tmp`.
    Tmp,
    /// The directory that it was called in.
    Cwd,
    /// What the site shows always (`root.always`): `bind-paths`.
    BindPaths,
}

/// A call of `exec`, `run`, `test` or `shell`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// By which name.
    pub runtime: Runtime,
    /// What to run.
    pub start: Start,
    /// `--contain`, and `--containall`: nothing of the host but what is named.
    pub contain: bool,
    /// `--cleanenv`, and `--containall`: no variables of the host.
    pub clean_env: bool,
    /// `--home`
    pub home: Option<Home>,
    /// `--no-home`
    pub no_home: bool,
    /// `--pwd`, `--cwd`: where it starts.
    pub cwd: Option<PathBuf>,
    /// `--workdir DIR`: `DIR/tmp`, `DIR/var_tmp` and `DIR/home` are its `/tmp`, `/var/tmp` and, contained, its home.
    pub workdir: Option<PathBuf>,
    /// `--scratch`: places inside that are writable and empty; below `--workdir` where that is given.
    pub scratch: Vec<PathBuf>,
    /// `--no-mount`
    pub no_mount: Vec<Part>,
    /// Variables to put before and behind PATH inside: `APPTAINERENV_PREPEND_PATH`, `APPTAINERENV_APPEND_PATH`.
    pub path: (Option<OsString>, Option<OsString>),
    /// Names that neither the host's environment nor the command line sets: `--no-env`.
    pub no_env: Vec<EnvName>,
    /// `--nv`
    pub nv: bool,
    /// `--rocm`
    pub rocm: bool,
    /// `--hostname`
    pub hostname: Option<String>,
    /// `--shell`: which one.
    pub shell: Option<PathBuf>,
    /// `--app`
    pub app: Option<String>,
    /// `--no-umask`: leave the caller's umask aside and take 0022.
    pub no_umask: bool,
    /// What was asked for and is accepted without effect, in words: for the record and the status file.
    pub unheeded: Vec<String>,
}
