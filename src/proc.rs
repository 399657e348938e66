//! What /proc shows of a process (proc(5)): read in as few calls as possible, and parsed so that nothing in it can lie.
//!
//! 1. A process chooses its own name and its directories. What it puts there MUST NOT pass for another field.
//! 2. A line that is missing reads as the worst: whoever checks for "none" MUST NOT find it by default.
//! 3. No file is read whose reading takes another process's memory or locks (`cmdline`, `environ`, `maps`): a process can
//!    make that wait for ever.
#![forbid(unsafe_code)]

use crate::audit::record;
use crate::sys::{Errno, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub mod tree;

/// The longest text that is taken from one file. An account with 65536 groups has a `status` of 720 KB.
const LONGEST: usize = 1 << 20;
/// Room for what is read at first.
const FIRST: usize = 4 << 10;

/// From `/proc/PID/status` (proc_pid_status(5)), as the reader's namespaces number it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The process, of which the one looked at may be a thread.
    pub tgid: i32,
    /// Its parent; 0 when that has no number here.
    pub ppid: i32,
    /// Real, effective, saved, file system uid.
    pub uids: [u32; 4],
    /// Likewise.
    pub gids: [u32; 4],
    /// Its number in each pid namespace, from the reader's to its own.
    pub pids: Vec<i32>,
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb.
    pub capabilities: [u64; 5],
    /// `NoNewPrivs: 1`
    pub no_new_privs: bool,
    /// `Seccomp:` 0, 1 or 2; 0 also where the kernel has none.
    pub seccomp: u32,
    /// `Seccomp_filters:` how many there are, one upon the other; `None` below Linux 5.9.
    pub seccomp_filters: Option<u32>,
    /// SigBlk and SigIgn; bit 0 is signal 1.
    pub signals: [u64; 2],
}

impl Default for Status {
    fn default() -> Self {
        Self {
            tgid: 0,
            ppid: 0,
            uids: [u32::MAX; 4],
            gids: [u32::MAX; 4],
            pids: Vec::new(),
            capabilities: [u64::MAX; 5],
            no_new_privs: false,
            seccomp: 0,
            seccomp_filters: None,
            signals: [u64::MAX; 2],
        }
    }
}

impl Status {
    /// Reads the text. The kernel escapes newlines in the name, the only part that a process chooses; the name comes first
    /// and the last of equal lines counts, so it could not hide one either.
    pub fn parse(text: &[u8]) -> Self {
        let mut status = Self::default();
        // Without asking the processor what it can do: where it is a virtual one, that takes a launcher 25 µs.
        let newline = memchr::arch::all::memchr::One::new(b'\n');
        let mut rest = text;
        while !rest.is_empty() {
            let end = newline.find(rest).unwrap_or(rest.len());
            let line = rest.get(..end).unwrap_or_default();
            rest = rest.get(end + 1..).unwrap_or_default();
            // Few of the sixty lines matter, and this is read while a payload waits.
            if !matches!(line.first(), Some(b'T' | b'P' | b'U' | b'G' | b'N' | b'C' | b'S')) {
                continue;
            }
            let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            let value = value.trim();
            let hex = || u64::from_str_radix(value, 16).unwrap_or(u64::MAX);
            let [inheritable, permitted, effective, bounding, ambient] = &mut status.capabilities;
            let [blocked, ignored] = &mut status.signals;
            match name {
                "Tgid" => status.tgid = value.parse().unwrap_or(0),
                "PPid" => status.ppid = value.parse().unwrap_or(0),
                "Uid" => status.uids = four(value),
                "Gid" => status.gids = four(value),
                "NSpid" => {
                    status.pids =
                        value.split_ascii_whitespace().map(|pid| pid.parse().unwrap_or(0)).collect();
                }
                "CapInh" => *inheritable = hex(),
                "CapPrm" => *permitted = hex(),
                "CapEff" => *effective = hex(),
                "CapBnd" => *bounding = hex(),
                "CapAmb" => *ambient = hex(),
                "SigBlk" => *blocked = hex(),
                "SigIgn" => *ignored = hex(),
                "NoNewPrivs" => status.no_new_privs = value == "1",
                "Seccomp_filters" => status.seccomp_filters = value.parse().ok(),
                "Seccomp" => status.seccomp = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        status
    }
}

fn four(value: &str) -> [u32; 4] {
    let mut numbers = value.split_ascii_whitespace().map(|number| number.parse().unwrap_or(u32::MAX));
    [(); 4].map(|()| numbers.next().unwrap_or(u32::MAX))
}

/// From `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Field 3: `R`, `S`, `D`, `T`, `t`, `Z`, `X`… of the process's first thread.
    pub state: u8,
    /// Field 4: the parent; 0 when that has no number here.
    pub ppid: i32,
    /// Fields 14 to 17, together: CPU time in clock ticks, its own and that of children it waited for.
    pub cpu_ticks: u64,
    /// Field 19: nice value.
    pub nice: i32,
    /// Field 20: how many threads it has.
    pub threads: u32,
    /// Field 22: start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Field 41: scheduling policy (sched(7)).
    pub policy: i32,
}

impl Stat {
    /// The name in parentheses may hold anything, so counting starts behind its last one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.bytes().next()?;
        let ppid = fields.next()?.parse().ok()?;
        let mut cpu_ticks = fields.nth(9)?.parse().ok()?;
        for _ in 0..3 {
            // Signed in the kernel's format, and never below zero.
            cpu_ticks = u64::saturating_add(cpu_ticks, fields.next()?.parse().unwrap_or(0));
        }
        Some(Self {
            state,
            ppid,
            cpu_ticks,
            nice: fields.nth(1)?.parse().ok()?,
            threads: fields.next()?.parse().ok()?,
            start_ticks: fields.nth(1)?.parse().ok()?,
            policy: fields.nth(18)?.parse().ok()?,
        })
    }
}

/// A process's directory under /proc. It stays that process's: once that is gone, reading fails, whoever has its number.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Opens `/proc/PID`. Whose number that is now is for the caller to make sure of.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        let path = std::ffi::CString::new(format!("/proc/{pid}")).map_err(|_| Errno::EINVAL)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        fs::open_at(fs::cwd(), &path, flags, 0).map(Self)
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// One of its files, into `buffer`, which keeps its room for the next.
    pub fn read<'a>(&self, name: &CStr, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Errno> {
        read(self.0.as_fd(), name, LONGEST, buffer)
    }

    /// The same, and `EFBIG` where it is longer than that.
    pub fn read_at_most<'a>(
        &self,
        name: &CStr,
        longest: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Errno> {
        read(self.0.as_fd(), name, longest, buffer)
    }

    /// One of its maps of ids: lines of 33 bytes, which the kernel hands out by the page. What leaves room for one more line in
    /// a page is all of it, and no second read has to say so.
    pub fn read_map<'a>(&self, name: &CStr, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Errno> {
        self.read_below(name, 2048, buffer)
    }

    /// One of those of its files that the kernel makes in one piece (seq_file.rst, "single_open"): what fits into the buffer
    /// with room to spare is all of it, and no second read has to say so.
    pub fn read_piece<'a>(&self, name: &CStr, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Errno> {
        self.read_below(name, FIRST, buffer)
    }

    /// With one read, if that brings less than `enough`.
    fn read_below<'a>(&self, name: &CStr, enough: usize, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Errno> {
        if buffer.len() < FIRST {
            buffer.resize(FIRST, 0);
        }
        let file = fs::open_at(self.0.as_fd(), name, libc::O_RDONLY, 0)?;
        let count = fs::read_some(file.as_fd(), buffer)?;
        if count >= enough.min(buffer.len()) {
            return self.read(name, buffer);
        }
        Ok(buffer.get(..count).unwrap_or_default())
    }

    /// `stat`
    pub fn stat(&self, buffer: &mut Vec<u8>) -> Result<Stat, Errno> {
        Stat::parse(self.read_piece(c"stat", buffer)?).ok_or(Errno::EBADMSG)
    }

    /// `status`
    pub fn status(&self, buffer: &mut Vec<u8>) -> Result<Status, Errno> {
        self.read_piece(c"status", buffer).map(Status::parse)
    }
}

/// A file of /proc. These say that they are empty, so that a reader who trusts their size makes many reads. `EFBIG` beyond
/// `longest`.
fn read<'a>(
    dir: BorrowedFd<'_>,
    path: &CStr,
    longest: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], Errno> {
    let file = fs::open_at(dir, path, libc::O_RDONLY, 0)?;
    if buffer.len() < FIRST {
        buffer.resize(FIRST, 0);
    }
    let mut filled = 0;
    loop {
        match fs::read_some(file.as_fd(), buffer.get_mut(filled..).unwrap_or_default())? {
            0 => break,
            count => filled += count,
        }
        if filled == buffer.len() {
            if filled >= longest {
                return Err(Errno::EFBIG);
            }
            buffer.resize(filled * 2, 0);
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

/// A whole text of /proc or /sys.
///
/// # Errors
/// The system's, and `InvalidData` for what is no UTF-8.
pub fn text(path: &CStr) -> std::io::Result<String> {
    let mut buffer = Vec::new();
    let length = read(fs::cwd(), path, LONGEST, &mut buffer)?.len();
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// `/proc/PID/status` and `/proc/PID/stat` of a process that the caller holds by other means; `None` when the host hides
/// other processes (hidepid) or it is gone.
pub fn look(pid: i32) -> Option<(Status, Stat)> {
    let process = Process::open(pid).ok()?;
    let mut buffer = Vec::new();
    Some((process.status(&mut buffer).ok()?, process.stat(&mut buffer).ok()?))
}

/// A control group from the text of `/proc/PID/cgroup`: version 2 where the process is in one that is not the root, else a
/// version 1 hierarchy that has it, else the root.
pub fn cgroup(text: &str) -> record::Cgroup {
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect();
    let unified = lines.iter().find(|(controllers, _)| controllers.is_empty());
    let named =
        lines.iter().filter(|(controllers, _)| !controllers.is_empty()).find(|(controllers, path)| {
            controllers.split(',').any(|c| c == "memory" || c == "pids") && *path != "/"
        });
    let (version, path) = match (unified, named) {
        (Some((_, path)), named) if *path != "/" || named.is_none() => (2, *path),
        (_, Some((_, path))) => (1, *path),
        _ => match lines.first() {
            Some((_, path)) => (1, *path),
            None => return record::Cgroup::default(),
        },
    };
    record::Cgroup { path: Some(path.to_owned()), id: None, version: Some(version) }
}

/// A map of ids (`uid_map`, user_namespaces(7)) as the record has it: blanks folded, lines joined by `;`.
pub fn fold_map(text: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.join(";")
}

/// What an id inside is outside, by a folded map.
pub fn outside(map: &str, inside: u32) -> Option<u32> {
    map.split(';').find_map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
        let (first, out, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = u64::from(inside).checked_sub(first)?;
        if offset < count { u32::try_from(out.checked_add(offset)?).ok() } else { None }
    })
}

/// What is missing of what every payload must have given up, in words.
pub fn not_locked_in(capabilities: &[u64; 5], no_new_privs: bool) -> Option<String> {
    let held = capabilities.iter().fold(0, |all, set| all | set);
    if held != 0 {
        return Some(format!("the kernel shows capabilities: {}", capability_names(held).join(", ")));
    }
    (!no_new_privs).then(|| "the kernel shows no no_new_privs".to_owned())
}

/// The names of the capabilities in a set, such as `CAP_SYS_ADMIN`; numbers that this build does not know as numbers.
pub fn capability_names(set: u64) -> Vec<String> {
    if set == 0 {
        return Vec::new();
    }
    let mut known: Vec<caps::Capability> = caps::all().into_iter().collect();
    known.sort_unstable_by_key(caps::Capability::index);
    let mut names: Vec<String> =
        known.iter().filter(|one| set & one.bitmask() != 0).map(ToString::to_string).collect();
    let rest = known.iter().fold(set, |rest, one| rest & !one.bitmask());
    names.extend((0..64).filter(|bit| rest & (1 << bit) != 0).map(|bit| format!("capability {bit}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nTgid:\t4711\nPPid:\t4710\nUid:\t1000\t1001\t1002\t1003\nGid:\t100\t100\t100\t100\n\
        NSpid:\t4711\t9\t2\nSigBlk:\t0000000000000005\nSigIgn:\t0000000000000006\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000002\n\
        CapBnd:\t0000000000000003\nCapAmb:\t0000000000000004\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn every_field_of_status_is_read() {
        let expected = Status {
            tgid: 4711,
            ppid: 4710,
            uids: [1000, 1001, 1002, 1003],
            gids: [100; 4],
            pids: vec![4711, 9, 2],
            capabilities: [0, 1, 2, 3, 4],
            no_new_privs: true,
            seccomp: 2,
            seccomp_filters: Some(3),
            signals: [5, 6],
        };
        assert_eq!(Status::parse(STATUS.as_bytes()), expected);
    }

    #[test]
    fn a_missing_or_broken_line_reads_as_the_worst() {
        let without = |name: &str| {
            let text: Vec<&str> = STATUS.lines().filter(|line| !line.starts_with(name)).collect();
            Status::parse(text.join("\n").as_bytes())
        };
        for (index, name) in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().enumerate() {
            assert_eq!(without(name).capabilities[index], u64::MAX, "{name}");
        }
        assert_eq!(without("SigBlk").signals, [u64::MAX, 6]);
        assert_eq!(without("SigIgn").signals, [5, u64::MAX]);
        assert!(!without("NoNewPrivs").no_new_privs);
        assert!(without("NSpid").pids.is_empty());
        assert_eq!(without("Uid").uids, [u32::MAX; 4]);
        assert_eq!(without("PPid").ppid, 0);
        let broken = Status::parse(STATUS.replace("CapEff:\t0000000000000002", "CapEff:\tx").as_bytes());
        assert_eq!(broken.capabilities[2], u64::MAX);
        let short = Status::parse(STATUS.replace("\t1001\t1002\t1003", "").as_bytes());
        assert_eq!(short.uids, [1000, u32::MAX, u32::MAX, u32::MAX]);
    }

    #[test]
    fn a_name_passes_for_no_other_line() {
        // As the kernel escapes it, and as one that did not would have it.
        for name in
            ["x\\nCapEff:\\t0000000000000000", "x\nNoNewPrivs:\t1\nUid:\t0\t0\t0\t0\nNSpid:\t1\t1\t1\t1"]
        {
            let text = STATUS
                .replace("Name:\tx", &format!("Name:\t{name}"))
                .replace("NoNewPrivs:\t1\nSeccomp", "NoNewPrivs:\t0\nSeccomp");
            let status = Status::parse(text.as_bytes());
            assert!(!status.no_new_privs, "{name:?}");
            assert_eq!((status.uids[0], status.pids.len()), (1000, 3), "{name:?}");
            assert_eq!(status.capabilities[2], 2, "{name:?}");
        }
        let mut bytes = STATUS.replace("Name:\tx", "Name:\tx@").into_bytes();
        let at = bytes.iter().position(|byte| *byte == b'@').unwrap();
        bytes[at] = 0xff; // no UTF-8
        assert_eq!(Status::parse(&bytes).tgid, 4711);
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capability_names(1 | 1 << 21 | 1 << 62), ["CAP_CHOWN", "CAP_SYS_ADMIN", "capability 62"]);
        assert!(capability_names(0).is_empty());
    }

    #[test]
    fn stat_is_read_whatever_the_name_is() {
        let rest = "S 17 9 9 0 -1 4194560 1 0 0 0 1 2 3 4 20 -3 1 0 987654 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 2 0 0";
        for name in ["x", "a b) S 1 2", ")) S 1 (", "a\nb) Z 1\n", ""] {
            let text = format!("42 ({name}) {rest}");
            assert_eq!(
                Stat::parse(text.as_bytes()),
                Some(Stat {
                    state: b'S',
                    ppid: 17,
                    cpu_ticks: 10,
                    nice: -3,
                    threads: 1,
                    start_ticks: 987_654,
                    policy: 2,
                }),
                "{name:?}"
            );
        }
        let hostile = [b"42 (\xff) \xfe) ", rest.as_bytes()].concat();
        assert_eq!(Stat::parse(&hostile).map(|stat| stat.ppid), Some(17));
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"42 (x) S 17"), None);
    }

    #[test]
    fn this_process_reads_as_it_is() {
        let (status, stat) = look(std::process::id() as i32).unwrap();
        assert_eq!(status.tgid, std::process::id() as i32);
        assert_eq!(status.ppid, nix::unistd::getppid().as_raw());
        assert_eq!(stat.ppid, status.ppid);
        assert_eq!(status.uids[1], nix::unistd::geteuid().as_raw());
        assert_eq!(status.gids[1], nix::unistd::getegid().as_raw());
        assert!(stat.start_ticks > 0);
        assert_eq!(look(i32::MAX), None);
    }

    #[test]
    fn a_text_is_what_the_file_has() {
        let boot = c"/proc/sys/kernel/random/boot_id";
        assert_eq!(text(boot).unwrap(), std::fs::read_to_string(boot.to_str().unwrap()).unwrap());
        assert_eq!(text(c"/proc/nowhere").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_longer_than_the_buffer_is_read_whole() {
        // Any directory does in place of a process's.
        let dir = std::env::temp_dir().join(format!("bailey-proc-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let content: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        std::fs::write(dir.join("long"), &content).unwrap();
        let process = Process(std::fs::File::open(&dir).unwrap().into());
        let mut buffer = Vec::new();
        let read = process.read(c"long", &mut buffer).unwrap().to_vec();
        let missing = process.read(c"nosuch", &mut buffer).map(<[u8]>::len);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((read == content, missing), (true, Err(Errno::ENOENT)));
    }

    #[test]
    fn the_control_group_is_the_one_that_holds_it() {
        let place = |text| {
            let found = cgroup(text);
            (found.version, found.path.unwrap_or_default())
        };
        assert_eq!(place("0::/a/b\n"), (Some(2), "/a/b".to_owned()));
        assert_eq!(place("5:memory:/job\n0::/\n"), (Some(1), "/job".to_owned()));
        assert_eq!(place("5:memory:/job\n0::/slice\n"), (Some(2), "/slice".to_owned()));
        assert_eq!(place("5:memory:/\n0::/\n"), (Some(2), "/".to_owned()));
        assert_eq!(place("0::/a:b\n"), (Some(2), "/a:b".to_owned()));
        assert_eq!(place(""), (None, String::new()));
    }

    #[test]
    fn maps_are_folded_and_followed() {
        let map = fold_map("         0       1000          1\n         1     165536      65536\n");
        assert_eq!(map, "0 1000 1;1 165536 65536");
        assert_eq!(outside(&map, 0), Some(1000));
        assert_eq!(outside(&map, 2), Some(165_537));
        assert_eq!(outside(&map, 65_536), Some(231_071));
        assert_eq!(outside(&map, 65_537), None);
        assert_eq!(outside("", 0), None);
        assert_eq!(outside("0 0 4294967295", 1000), Some(1000));
    }
}
