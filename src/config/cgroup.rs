//! `[cgroup]`: where a payload's control group is, and what a limit means there.
#![forbid(unsafe_code)]

use super::Demand;
use super::values::{Value, word};
use serde::{Deserialize, Serialize};

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// `mode`: whether a payload has a control group of its own.
    pub mode: Demand,
    /// `parent`: the group below which it is made, from the hierarchy's root, or with `../` first from the caller's own; `None`:
    /// the caller's own.
    pub parent: Option<String>,
    /// `oom`: who is killed when `--memory` is used up.
    pub oom: Oom,
    /// `swap`: what may be used beside `--memory`.
    pub swap: Swap,
    /// `cpus`: what `--cpus` means.
    pub cpus: Cpus,
}

/// Who is killed when the memory limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Oom {
    /// The whole payload (`memory.oom.group`).
    Group,
    /// One process, which the kernel chooses.
    Process,
}

/// What a payload may use beside its memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// Nothing.
    None,
    /// As much as the host lets it.
    Host,
}

/// What a number of CPUs means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cpus {
    /// Never more (`cpu.max`).
    Max,
    /// At least its share, and more while nobody else wants it (`cpu.weight`).
    Weight,
}

impl Oom {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Process => "process",
        }
    }
}

impl Swap {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

impl Cpus {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Weight => "weight",
        }
    }
}

impl Value for Oom {
    const EXPECTED: &'static str = "\"group\" or \"process\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Group, Self::Process], Self::as_str)
    }
}

impl Value for Swap {
    const EXPECTED: &'static str = "\"none\" or \"host\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::None, Self::Host], Self::as_str)
    }
}

impl Value for Cpus {
    const EXPECTED: &'static str = "\"max\" or \"weight\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Max, Self::Weight], Self::as_str)
    }
}

/// A group's path from the hierarchy's root, or from the caller's own (`../`), or the word "own".
pub(super) struct Parent(pub(super) Option<String>);

impl Value for Parent {
    const EXPECTED: &'static str = "a cgroup's path from the hierarchy's root, such as \"/grid/pilots\", or from the caller's (\"../payloads\"), or \"own\"";
    fn read(text: &str) -> Result<Self, String> {
        if text == "own" {
            return Ok(Self(None));
        }
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let rest = text
            .strip_prefix('/')
            .or_else(|| text.strip_prefix("../").map(|rest| rest.trim_start_matches("../")));
        let path = rest.is_some_and(|rest| rest.split('/').all(plain));
        if path && !text.starts_with("/sys/fs/cgroup") {
            return Ok(Self(Some(text.to_owned())));
        }
        Err(format!(
            "'{text}' is no cgroup: write it as /proc/PID/cgroup shows it, such as \"/grid/pilots\", or from there \
             (\"../payloads\"), or \"own\""
        ))
    }
}
