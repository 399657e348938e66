//! The values of the configuration: text of a file → a checked value. Pure; no file is looked at here.
//!
//! A path is judged as it is written. Whether it leads to bailey's own files through a symbolic link is for those who open
//! it.
#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::{Abi32, Args, Demand, Discover, ForeignConfig, Journald, Probes, UidMode, Undeclared};
use crate::request::{
    EnvName, LEAST_MEMORY, Stdio, UidRange, parse_cpus, parse_duration, parse_pids, parse_size,
};

/// A value that is written as text in the file.
pub(super) trait Value: Sized {
    /// What belongs here, for the error about anything that is not text.
    const EXPECTED: &'static str;
    /// Reads it; the error says what was found and what is expected.
    fn read(text: &str) -> Result<Self, String>;
}

/// Wraps a [`Value`] for serde. It reads within the visitor so that toml's error points at this very value, not at the list
/// around it.
pub(super) struct Read<T>(pub(super) T);

impl<'de, T: Value> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: Value> Visitor<'_> for Text<T> {
            type Value = Read<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Read<T>, E> {
                T::read(text).map(Read).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text(PhantomData))
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a time span as text, such as \"90s\" or \"1h30m\"";
    fn read(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

impl Value for Demand {
    const EXPECTED: &'static str = "\"required\", \"preferred\" or \"off\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Required, Self::Preferred, Self::Off], Self::as_str)
    }
}

impl Value for Abi32 {
    const EXPECTED: &'static str = "\"auto\", \"on\" or \"off\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Auto, Self::On, Self::Off], Self::as_str)
    }
}

impl Value for Undeclared {
    const EXPECTED: &'static str = "\"deny\" or \"record\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Deny, Self::Record], Self::as_str)
    }
}

impl Value for Discover {
    const EXPECTED: &'static str =
        "a source as text: \"job-ad\", \"panda\", \"dirac\", \"alice\" or \"batch\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &Self::ALL, Self::as_str)
    }
}

/// `identity.discover_for`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiscoverFor {
    /// Launches by the command line of a container runtime.
    Containers,
    /// Every launch.
    All,
}

impl DiscoverFor {
    /// The word in the file.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::All => "all",
        }
    }
}

impl Value for DiscoverFor {
    const EXPECTED: &'static str = "\"containers\" or \"all\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Containers, Self::All], Self::as_str)
    }
}

impl Value for Probes {
    const EXPECTED: &'static str = "\"as-payloads\" or \"allow\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::AsPayloads, Self::Allow], Self::as_str)
    }
}

impl Value for Journald {
    const EXPECTED: &'static str = "\"off\", \"checkpoints\" or \"all\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Off, Self::Checkpoints, Self::All], Self::as_str)
    }
}

impl Value for ForeignConfig {
    const EXPECTED: &'static str = "\"refuse\" or \"record\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Refuse, Self::Record], Self::as_str)
    }
}

impl Value for Args {
    const EXPECTED: &'static str = "\"full\" or \"digest\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Full, Self::Digest], Self::as_str)
    }
}

impl Value for UidMode {
    const EXPECTED: &'static str = "\"caller\" or \"subuid\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Caller, Self::Subuid], Self::as_str)
    }
}

/// A range of uids, or the word "none".
pub(super) struct Uids(pub(super) Option<UidRange>);

impl Value for Uids {
    const EXPECTED: &'static str = "a range of uids as text, such as \"200000-200999\", or \"none\"";
    fn read(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { UidRange::parse(text).map(|range| Self(Some(range))) }
    }
}

/// One of a few words. (serde's own reading of an enum would take a table for a word, and says less when it fails.)
pub(super) fn word<T: Copy>(text: &str, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().find(|value| as_str(**value) == text);
    found.copied().ok_or_else(|| {
        let words: Vec<String> = all.iter().map(|value| format!("`{}`", as_str(*value))).collect();
        format!("unknown value `{text}`, expected {}", words.join(" or "))
    })
}

/// A limit in time, or the word "none".
pub(super) struct WallTime(pub(super) Option<Duration>);

impl Value for WallTime {
    const EXPECTED: &'static str = "a time span as text, such as \"48h\", or \"none\"";
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => match parse_duration(text)? {
                Duration::ZERO => {
                    Err(format!("'{text}' leaves no time to run: name a time span above zero, or \"none\""))
                }
                span => Ok(Self(Some(span))),
            },
        }
    }
}

/// Bytes.
pub(super) struct Size(pub(super) u64);

impl Value for Size {
    const EXPECTED: &'static str = "a size as text, such as \"512M\" or \"1G\"";
    fn read(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self)
    }
}

/// A umask.
pub(super) struct Umask(pub(super) u32);

impl Value for Umask {
    const EXPECTED: &'static str = "an octal umask as text, such as \"022\"";
    fn read(text: &str) -> Result<Self, String> {
        let octal = (1..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(mask) if octal && mask <= 0o777 => Ok(Self(mask)),
            _ => Err(format!(
                "'{text}' is not a umask: write octal digits from \"000\" to \"777\", such as \"022\""
            )),
        }
    }
}

impl Value for Stdio {
    const EXPECTED: &'static str = "\"pass\" or \"relay\"";
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|known| format!("'{text}' is not known here: {known}"))
    }
}

/// A name for people: one printable line.
pub(super) struct SiteName(pub(super) String);

impl Value for SiteName {
    const EXPECTED: &'static str = "a name as text";
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > 255 {
            return Err("the name is longer than 255 bytes".to_owned());
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return Err(
                "the name has control characters, or white space at an end: write one plain line".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl Value for IpAddr {
    const EXPECTED: &'static str = "an IP address as text, such as \"192.0.2.1\"";
    fn read(text: &str) -> Result<Self, String> {
        let address: Self = text.parse().map_err(|_| format!("'{text}' is not an IPv4 or IPv6 address"))?;
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(format!("'{text}' is no address that the world sees: name the public one"));
        }
        Ok(address)
    }
}

/// Where the embedded log is; "default" for the default places.
pub(super) struct LogDir(pub(super) Option<PathBuf>);

impl Value for LogDir {
    const EXPECTED: &'static str = "an absolute path as text, or \"default\"";
    fn read(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        match absolute(text)? {
            path if path == Path::new("/") => Err("'/' is no place for a log: name a directory".to_owned()),
            path => Ok(Self(Some(path))),
        }
    }
}

/// Where something of bailey's is.
pub(super) struct Place(pub(super) PathBuf);

impl Value for Place {
    const EXPECTED: &'static str = "an absolute path as text";
    fn read(text: &str) -> Result<Self, String> {
        absolute(text).map(Self)
    }
}

/// Where the metrics go; "default" for the recorder's state directory.
pub(super) struct Metrics(pub(super) Option<PathBuf>);

impl Value for Metrics {
    const EXPECTED: &'static str = "an absolute path as text, or \"default\"";
    fn read(text: &str) -> Result<Self, String> {
        if text == "default" { Ok(Self(None)) } else { absolute(text).map(|path| Self(Some(path))) }
    }
}

/// A whole number above zero.
pub(super) struct Count(pub(super) u64);

impl Value for Count {
    const EXPECTED: &'static str = "a whole number as text, such as \"1000\"";
    fn read(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number > 0 && !text.starts_with('+'));
        number.map(Self).ok_or_else(|| format!("'{text}' is not a whole number above zero, such as \"1000\""))
    }
}

/// Processes and threads of one payload: at least what a shell script needs.
pub(super) struct Processes(pub(super) u64);

impl Value for Processes {
    const EXPECTED: &'static str = "a whole number as text, such as \"4096\"";
    fn read(text: &str) -> Result<Self, String> {
        match parse_pids(text)? {
            number if number < 16 => Err(format!("'{text}' is too few for a shell script: name 16 at least")),
            number => Ok(Self(number)),
        }
    }
}

/// Memory of one payload: at least what a program needs to start.
pub(super) struct Memory(pub(super) u64);

impl Value for Memory {
    const EXPECTED: &'static str = "a size as text, such as \"2G\"";
    fn read(text: &str) -> Result<Self, String> {
        match parse_size(text)? {
            bytes if bytes < LEAST_MEMORY => Err(format!(
                "'{text}' is too little for a program to start: name {}M at least",
                LEAST_MEMORY >> 20
            )),
            bytes => Ok(Self(bytes)),
        }
    }
}

/// Cores, in thousandths.
pub(super) struct Cores(pub(super) u64);

impl Value for Cores {
    const EXPECTED: &'static str = "a number of cores as text, such as \"8\" or \"0.5\"";
    fn read(text: &str) -> Result<Self, String> {
        parse_cpus(text).map(Self)
    }
}

/// A score of proc_pid_oom_score_adj(5) from 0 on: nobody without privilege may go below what it has.
pub(super) struct OomScore(pub(super) i32);

impl Value for OomScore {
    const EXPECTED: &'static str = "a number from \"0\" to \"1000\" as text";
    fn read(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(score @ 0..=1000) if digits => Ok(Self(score)),
            _ => Err(format!("'{text}' is no score: write a whole number from \"0\" to \"1000\"")),
        }
    }
}

/// A value, or the word "none".
pub(super) struct Unless<T>(pub(super) Option<T>);

impl<T: Value> Value for Unless<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn read(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { T::read(text).map(|value| Self(Some(value))) }
    }
}

/// A host path that payloads may see.
pub(super) struct Shown(pub(super) PathBuf);

impl Value for Shown {
    const EXPECTED: &'static str = "an absolute path as text";
    fn read(text: &str) -> Result<Self, String> {
        shown(text).map(Self)
    }
}

/// A host file under /etc that replaces the image's.
pub(super) struct ImageEtc(pub(super) PathBuf);

impl Value for ImageEtc {
    const EXPECTED: &'static str = "an absolute path under /etc as text";
    fn read(text: &str) -> Result<Self, String> {
        let path = shown(text)?;
        if path.starts_with("/etc") {
            return Ok(Self(path));
        }
        Err(format!("'{text}' is not under /etc: other paths belong into root.always"))
    }
}

/// A name under /etc.
pub(super) struct EtcName(pub(super) PathBuf);

impl Value for EtcName {
    const EXPECTED: &'static str = "a name under /etc as text";
    fn read(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Err(format!(
                "'{text}' is an absolute path: write the name under /etc, such as 'ssl' for /etc/ssl"
            ));
        }
        let name = shown(&format!("/etc/{text}"))?;
        match name.strip_prefix("/etc") {
            Ok(name) if !text.is_empty() => Ok(Self(name.to_owned())),
            _ => Err(format!("'{text}' is not a name under /etc")),
        }
    }
}

/// A directory of sysfs.
pub(super) struct SysDir(pub(super) PathBuf);

impl Value for SysDir {
    const EXPECTED: &'static str = "an absolute path under /sys as text";
    fn read(text: &str) -> Result<Self, String> {
        let path = absolute(text)?;
        if overlaps(&path, "/sys/fs/cgroup") {
            return Err(format!(
                "'{text}' would show the cgroups to payloads: list the directories needed below it"
            ));
        }
        if !path.starts_with("/sys") {
            return Err(format!("'{text}' is not under /sys"));
        }
        Ok(Self(path))
    }
}

/// A variable's name, or a prefix that ends in `*`.
pub(super) struct Pass(pub(super) String);

impl Value for Pass {
    const EXPECTED: &'static str = "a variable's name, or a prefix that ends in '*', as text";
    fn read(text: &str) -> Result<Self, String> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        if text == "*" {
            return Err(
                "'*' would let the pilot's credentials in: name variables, or prefixes such as 'LC_*'"
                    .to_owned(),
            );
        }
        if stem.contains('*') {
            return Err(format!("'{text}' has a '*' that is not its end"));
        }
        EnvName::new(stem).map_err(|why| format!("'{text}' is not a variable's name: {why}"))?;
        if stem.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("'{text}' has white space or control characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// PATH: absolute directories, a colon between them.
pub(super) struct SearchPath(pub(super) String);

impl Value for SearchPath {
    const EXPECTED: &'static str = "absolute directories with ':' between them, as text";
    fn read(text: &str) -> Result<Self, String> {
        for part in text.split(':') {
            // An empty element means the working directory (execvp(3)), which belongs to the payload's user.
            absolute(part).map_err(|why| {
                format!("{why} in '{text}': write absolute directories with ':' between them")
            })?;
        }
        Ok(Self(text.to_owned()))
    }
}

/// What no payload sees: bailey's configuration, socket, state and log (names.md).
const BAILEYS_OWN: [&str; 5] =
    ["/etc/bailey", "/run/bailey", "/var/run/bailey", "/var/lib/bailey", "/var/log/bailey"];

/// What a payload has of its own in place of the host's, so that nothing of the pilot's is in it.
const PRIVATE: [&str; 5] = ["/dev", "/dev/shm", "/tmp", "/var/tmp", "/run/user"];

fn shown(text: &str) -> Result<PathBuf, String> {
    let path = absolute(text)?;
    if let Some(own) = BAILEYS_OWN.iter().find(|own| overlaps(&path, own)) {
        return Err(format!(
            "'{text}' would show {own} to payloads, which must not see it: list the paths needed one by one"
        ));
    }
    if path.starts_with("/proc") || path.starts_with("/sys") {
        return Err(format!(
            "'{text}' cannot be shown: payloads have a /proc of their own, and directories of /sys belong into root.sys"
        ));
    }
    if let Some(private) = PRIVATE.iter().find(|private| path == Path::new(private)) {
        return Err(format!(
            "'{text}' cannot be shown: payloads have a {private} of their own, without the pilot's files"
        ));
    }
    Ok(path)
}

/// Whether one of the two is, or lies under, the other.
fn overlaps(path: &Path, other: &str) -> bool {
    path.starts_with(other) || Path::new(other).starts_with(path)
}

/// An absolute path without `..`, in plain form: no `//`, no `/./`, no `/` at the end.
fn absolute(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("'' is not a path".to_owned());
    }
    if !text.starts_with('/') {
        return Err(format!("'{text}' is a relative path: write an absolute one, from '/'"));
    }
    if text.len() > 4095 {
        return Err("the path is longer than 4095 bytes (PATH_MAX)".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("'{text}' has control characters"));
    }
    let path = Path::new(text);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("'{text}' has '..': write the path that it leads to"));
    }
    Ok(path.components().collect())
}
