//! What a front end understood of its command line: plain, validated data and nothing that has had an effect yet.
#![forbid(unsafe_code)]

pub mod container;

use crate::cgroup::limits::Limits;
use container::Container;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that was asked for one launch. Front ends make it; [`crate::plan`] turns it into a decision.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Command and arguments; the front end guarantees at least one element when it hands this on.
    pub command: Vec<OsString>,
    /// Who runs it, as far as the command line says.
    pub identity: DeclaredIdentity,
    /// `--identity FILE`.
    pub identity_file: Option<PathBuf>,
    /// `BAILEY_IDENTITY`: a path, used when neither option nor file says who.
    pub identity_env: Option<PathBuf>,
    /// `--image PATH`; without it the host's own system, read-only.
    pub image: Option<PathBuf>,
    /// `--writable`: writes to the image go to a layer that is thrown away.
    pub writable: bool,
    /// `--workdir DIR`.
    pub workdir: Option<PathBuf>,
    /// `--bind`, in order.
    pub binds: Vec<Bind>,
    /// `--env K=V`, in order; later ones win.
    pub env: Vec<(EnvName, OsString)>,
    /// `--pass-env NAME`.
    pub pass_env: Vec<EnvName>,
    /// `--network`.
    pub network: Network,
    /// `--stdio`; `None`: as the site has it.
    pub stdio: Option<Stdio>,
    /// It is called from a terminal, and gets one of its own between that and itself.
    pub terminal: bool,
    /// `--nested`: the payload asks to make namespaces of its own.
    pub nested: bool,
    /// `--no-pid`: the payload asks for the pilot's pid namespace in place of one of its own.
    pub no_pid: bool,
    /// `--scratch-size`, bytes.
    pub scratch_size: Option<u64>,
    /// `--memory`, `--cpus`, `--pids`.
    pub limits: Limits,
    /// `--wall-time`.
    pub wall_time: Option<Duration>,
    /// `--grace`.
    pub grace: Option<Duration>,
    /// The bytes of that document, where a caller that was root read it before it gave up its rights.
    pub identity_read: Option<Vec<u8>>,
    /// `--status-file`.
    pub status_file: Option<PathBuf>,
    /// There MUST be nothing of that name yet: a variable names it, and not the command line.
    pub status_new: bool,
    /// `--dry-run`: print the plan and stop.
    pub dry_run: bool,
    /// Called as a container runtime: what that asks beyond the above. The root is then furnished in its manner.
    pub container: Option<Box<Container>>,
    /// Not a user's work but a question whether it would run here: `grid.role` is `probe`.
    pub probe: bool,
}

/// The identity options of the command line, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredIdentity {
    /// `--user`: DN in slash form, or a token's `sub`.
    pub user: Option<String>,
    /// `--issuer`: the token issuer's URL.
    pub issuer: Option<String>,
    /// `--vo`.
    pub vo: Option<String>,
    /// `--group`, repeatable: VOMS FQANs, `wlcg.groups` or `ivo://` ids.
    pub groups: Vec<String>,
    /// `--pilot`: the pilot's own id.
    pub pilot: Option<String>,
    /// `--job`.
    pub job: Option<String>,
    /// `--task`.
    pub task: Option<String>,
}

/// One `--bind SRC[:DST[:ro|rw]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Path on the host, absolute.
    pub source: PathBuf,
    /// Path inside, absolute.
    pub target: PathBuf,
    /// Read-only unless `rw` was asked.
    pub writable: bool,
}

/// `--network host|none`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// The host's network, as batch jobs have it today.
    #[default]
    Host,
    /// An empty network namespace with only a loopback device.
    None,
}

/// Uids from the first to the last, gids of the same numbers beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidRange {
    first: u32,
    last: u32,
}

impl UidRange {
    /// The lowest uid that a range may have: below are the system's own accounts (`SYS_UID_MAX` of login.defs(5) is 999).
    pub const FLOOR: u32 = 1000;
    /// More than this many payloads do not run on one node, and each uid of the range has a file.
    pub const MOST: u32 = 65_536;

    /// Reads `FIRST-LAST`; the error is the reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let Some((first, last)) = text.split_once('-').and_then(|(a, b)| Some((number(a)?, number(b)?)))
        else {
            return Err(format!(
                "'{text}' is no range of uids: write the first and the last, such as \"200000-200999\""
            ));
        };
        if first > last {
            return Err(format!("'{text}' ends before it begins"));
        }
        if first < Self::FLOOR {
            return Err(format!(
                "'{text}' has uids below {}, which are root's and the system's own",
                Self::FLOOR
            ));
        }
        // 65534 is nobody's and the overflow uid, 65535 and 4294967295 mean "no uid" to the kernel (credentials(7)).
        let reserved = [65_534, 65_535, u32::MAX];
        if let Some(uid) = reserved.iter().find(|uid| (first..=last).contains(uid)) {
            return Err(format!("'{text}' has the uid {uid}, which stands for nobody"));
        }
        if last - first >= Self::MOST {
            return Err(format!("'{text}' has more than {} uids", Self::MOST));
        }
        Ok(Self { first, last })
    }

    /// From the first, so many; `None` where that is no range.
    pub fn of(first: u32, count: u32) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some(Self { first, last })
    }

    /// Whether the uid is one of them.
    pub fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// Whether the two have a uid in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// All of them, in order.
    pub fn all(self) -> std::ops::RangeInclusive<u32> {
        self.first..=self.last
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// `--stdio pass|relay`: what the payload's standard streams are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdio {
    /// The pilot's own descriptors.
    #[default]
    Pass,
    /// Pipes, with the launcher between them and the pilot.
    Relay,
}

impl Stdio {
    /// The word of the command line and of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Relay => "relay",
        }
    }

    /// Reads the word; the error says what is known.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "pass" => Ok(Self::Pass),
            "relay" => Ok(Self::Relay),
            _ => Err("pass and relay are known"),
        }
    }
}

/// The name of an environment variable: not empty, no `=`, no NUL (`environ(7)`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvName(String);

impl EnvName {
    /// Checks the name; the error is the reason in words.
    pub fn new(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() {
            return Err("the name is empty");
        }
        if name.contains(['=', '\0']) {
            return Err("a name has no '=' and no NUL");
        }
        if name.len() > 255 {
            return Err("the name is longer than 255 bytes");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A launch id: a ULID (48 bits of milliseconds since the epoch, 80 random bits) in Crockford's base 32, 26 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaunchId([u8; 26]);

impl LaunchId {
    const ALPHABET: &'static [u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

    /// A fresh id from the clock and random bytes, both passed in.
    pub fn from_parts(unix_millis: u64, random: [u8; 10]) -> Self {
        let mut bits = u128::from(unix_millis & 0xffff_ffff_ffff) << 80;
        for (i, byte) in random.iter().enumerate() {
            bits |= u128::from(*byte) << (72 - 8 * i);
        }
        let mut text = [0_u8; 26];
        for (i, out) in text.iter_mut().enumerate() {
            let index = (bits >> (125 - 5 * i)) & 31;
            *out = Self::ALPHABET.get(index as usize).copied().unwrap_or(b'0');
        }
        Self(text)
    }

    /// Reads an id back from text.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 26] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(|b| Self::ALPHABET.contains(b)).then_some(Self(bytes))
    }

    /// The time in it: milliseconds since the epoch.
    pub fn unix_millis(&self) -> u64 {
        // 50 bits in ten characters; the two uppermost are not part of the 128.
        let digit = |byte: &u8| Self::ALPHABET.iter().position(|known| known == byte).unwrap_or(0) as u64;
        self.0.iter().take(10).fold(0, |bits, byte| bits << 5 | digit(byte)) & 0xffff_ffff_ffff
    }

    /// The 26 characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for LaunchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most processes and threads that Linux has (`PID_MAX_LIMIT` of include/linux/threads.h); a control group takes no higher
/// limit (pids.max: EINVAL).
pub const MOST_PIDS: u64 = 1 << 22;

/// Bytes of memory with which a small program starts; with less the loader already fails, and nobody sees why.
pub const LEAST_MEMORY: u64 = 4 << 20;

/// Bytes in words, exactly: `2 GiB`, `1537 MiB`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{} {unit}", bytes >> shift),
            None => write!(f, "{bytes} bytes"),
        }
    }
}

/// Thousandths of a core in words: `0.5 cores`.
#[derive(Debug, Clone, Copy)]
pub struct Cores(pub u64);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        let number = text.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{number} {}", if self.0 == 1000 { "core" } else { "cores" })
    }
}

/// Bytes from text such as `512`, `64K`, `1.5GiB` is refused: whole numbers with K, M, G, T (powers of 1024) only.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(split);
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a size: write a whole number with K, M, G or T"))?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KiB" | "k" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        other => {
            return Err(format!("unknown unit '{other}' in '{text}': use K, M, G or T (powers of 1024)"));
        }
    };
    let bytes = number.checked_shl(shift).filter(|b| b >> shift == number);
    match bytes {
        Some(0) => Err(format!("'{text}' is zero: name a size above zero")),
        Some(b) if i64::try_from(b).is_ok() => Ok(b),
        _ => Err(format!("'{text}' is too large")),
    }
}

/// Thousandths of a core from text such as `1`, `0.5`, `2.25`.
pub fn parse_cpus(text: &str) -> Result<u64, String> {
    match parse_milli(text) {
        Some(0) => Err(format!("'{text}' is zero: name a number of cores above zero")),
        Some(milli) if milli <= 1_000_000_000 => Ok(milli),
        Some(_) => Err(format!("'{text}' is more than a million cores")),
        None => Err(format!("'{text}' is not a number of cores: write for example 1, 8 or 0.5")),
    }
}

/// A number of processes and threads.
pub fn parse_pids(text: &str) -> Result<u64, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(0) => Err(format!("'{text}' is zero: name a number above zero")),
        Ok(count) if digits && count <= MOST_PIDS => Ok(count),
        Ok(_) if digits => {
            Err(format!("'{text}' is more processes than Linux can have: name {MOST_PIDS} at most"))
        }
        _ => Err(format!("'{text}' is not a whole number above zero, such as 500")),
    }
}

/// A number with at most three digits behind the point, in thousandths.
pub fn parse_milli(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let digits =
        |text: &str| (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(());
    digits(whole)?;
    let mut milli = whole.parse::<u64>().ok()?.checked_mul(1000)?;
    if let Some(part) = part {
        digits(part)?;
        let padded = format!("{part:0<3}");
        milli = milli.checked_add(padded.parse().ok().filter(|_| padded.len() == 3)?)?;
    }
    Some(milli)
}

/// A time span from text such as `90`, `90s`, `15m`, `48h`, `7d`, or a sum of them: `1h30m`. Whole units only.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time span: write for example 90s, 15m, 48h or 1h30m");
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(split);
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let (factor, tail) = match tail.as_bytes().first() {
            None if rest.len() == text.trim().len() => (1, ""),
            Some(b's') => (1, tail.split_at(1).1),
            Some(b'm') => (60, tail.split_at(1).1),
            Some(b'h') => (3600, tail.split_at(1).1),
            Some(b'd') => (86400, tail.split_at(1).1),
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(factor).and_then(|s| seconds.checked_add(s)).ok_or_else(wrong)?;
        rest = tail;
    }
    if seconds > 10 * 365 * 86400 {
        return Err(format!("'{text}' is more than ten years"));
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_ids_sort_by_time_and_read_back() {
        let a = LaunchId::from_parts(1_700_000_000_000, [0xff; 10]);
        let b = LaunchId::from_parts(1_700_000_000_001, [0; 10]);
        assert!(a.as_str() < b.as_str());
        assert_eq!((a.unix_millis(), b.unix_millis()), (1_700_000_000_000, 1_700_000_000_001));
        assert_eq!(LaunchId::parse(a.as_str()), Some(a));
        assert_eq!(LaunchId::from_parts(0, [0; 10]).as_str(), "00000000000000000000000000");
        assert_eq!(LaunchId::parse("I0000000000000000000000000"), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        for bad in ["", "0", "-1", "1.5G", "9X", "99999999999999999999", "16777216T", "G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_and_counts() {
        for (text, milli) in [("1", 1000), ("0.5", 500), ("2.25", 2250), ("64.001", 64_001), ("001", 1000)] {
            assert_eq!(parse_cpus(text), Ok(milli), "{text}");
        }
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "+1",
            "1.",
            ".5",
            "1.2345",
            "1e3",
            "1,5",
            " 1",
            "1000001",
            "99999999999999999999",
        ] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_pids("500"), parse_pids("4194304")), (Ok(500), Ok(MOST_PIDS)));
        for bad in ["", "0", "-1", "+1", "1.5", "1K", "4194305", "99999999999999999999"] {
            assert!(parse_pids(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_in_words() {
        let bytes = [0, 1, 1023, 1 << 10, 1537 << 20, 2 << 30, 3 << 40].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(
            bytes,
            ["0 bytes", "1 bytes", "1023 bytes", "1 KiB", "1537 MiB", "2 GiB", "3 TiB"].map(str::to_owned)
        );
        let cores = [1, 500, 1000, 1050, 10_000].map(|milli| Cores(milli).to_string());
        assert_eq!(
            cores,
            ["0.001 cores", "0.5 cores", "1 core", "1.05 cores", "10 cores"].map(str::to_owned)
        );
    }

    #[test]
    fn spans() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "h", "1x", "1h30", "-1s", "999999999999d", "1 h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
