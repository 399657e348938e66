//! `[apptainer]`: what of the host a payload gets when bailey is called as a container runtime and nothing was asked to keep it
//! out (`--contain`, `--cleanenv`). Apptainer then shares the home directory, /tmp, the current directory and all variables.
#![forbid(unsafe_code)]

use super::set;
use super::values::{Read, Value, word};
use serde::{Deserialize, Serialize};

/// `[apptainer]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apptainer {
    /// `environment`: what enters of the pilot's variables without `--cleanenv`.
    pub environment: HostVariables,
    /// `home`: what a payload's home is without `--contain` and `--home`.
    pub home: Sharing,
    /// `tmp`: what /tmp and /var/tmp are without `--contain`.
    pub tmp: Sharing,
    /// `cwd`: what becomes of the current directory without `--contain`.
    pub cwd: CurrentDirectory,
}

impl Default for Apptainer {
    fn default() -> Self {
        Self {
            environment: HostVariables::Host,
            home: Sharing::Private,
            tmp: Sharing::Private,
            cwd: CurrentDirectory::Bind,
        }
    }
}

impl Apptainer {
    /// Nothing of the host's.
    pub const fn contained() -> Self {
        Self {
            environment: HostVariables::Clean,
            home: Sharing::Private,
            tmp: Sharing::Private,
            cwd: CurrentDirectory::Off,
        }
    }
}

/// What enters of the pilot's variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostVariables {
    /// All but those that carry a credential, lead to the pilot's services or to its libraries.
    Host,
    /// Terminal and web proxies.
    Clean,
}

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// The payload's own, empty, and gone at the end.
    Private,
    /// The host's, writable.
    Host,
}

/// What becomes of the current directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CurrentDirectory {
    /// It is shown, writable, at its own path.
    Bind,
    /// It stays outside.
    Off,
}

impl HostVariables {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Clean => "clean",
        }
    }
}

impl Sharing {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

impl CurrentDirectory {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Off => "off",
        }
    }
}

impl Value for HostVariables {
    const EXPECTED: &'static str = "\"host\" or \"clean\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Host, Self::Clean], Self::as_str)
    }
}

impl Value for Sharing {
    const EXPECTED: &'static str = "\"private\" or \"host\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Private, Self::Host], Self::as_str)
    }
}

impl Value for CurrentDirectory {
    const EXPECTED: &'static str = "\"bind\" or \"off\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Bind, Self::Off], Self::as_str)
    }
}

/// The section of a file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [apptainer]")]
pub(super) struct Keys {
    environment: Option<Read<HostVariables>>,
    home: Option<Read<Sharing>>,
    tmp: Option<Read<Sharing>>,
    cwd: Option<Read<CurrentDirectory>>,
}

impl Keys {
    pub(super) fn apply(self, config: &mut Apptainer) {
        let Self { environment, home, tmp, cwd } = self;
        set(&mut config.environment, environment.map(|v| v.0));
        set(&mut config.home, home.map(|v| v.0));
        set(&mut config.tmp, tmp.map(|v| v.0));
        set(&mut config.cwd, cwd.map(|v| v.0));
    }
}
