//! The table of live launches: a file of fixed-size slots, one OFD lock (`fcntl(2)`) per slot.
//!
//! 1. A slot is written under the chain's lock, before the launch's line, so that no launch line lacks a slot.
//! 2. The launcher holds the lock of its slot on a description of its own; when it dies the kernel frees the lock, and the
//!    slot is stale. A forked child that keeps the descriptor would keep the slot alive: children MUST close it.
//! 3. Before the end's line is written the slot says where it will be, so that a launcher killed between the line and the
//!    freeing of the slot does not get a second end.
//! 4. The table counts for one boot only, because its writes are never synced; otherwise it is rebuilt from the segments.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::request::LaunchId;

/// File name of the table.
pub(super) const NAME: &str = "live";
/// Bytes of a slot; slots do not cross a page, so a write is seen whole. Slot 0 is the header.
const SLOT: u64 = 256;

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: String,
    pub(super) offset: u64,
}

/// How one sees that the launcher lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// It holds the slot's lock.
    Lock,
    /// The table was rebuilt while it lived: a process `pid` that was there before `ticks`.
    Pid { pid: i64, ticks: u64 },
    /// It is known to be gone.
    Gone,
}

/// One live launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) launch: LaunchId,
    pub(super) at: Place,
    pub(super) ending: Option<Place>,
    pub(super) watch: Watch,
}

impl Entry {
    fn text(&self) -> String {
        let mut text = format!("live {} {} {} ", self.launch, self.at.segment, self.at.offset);
        let _ = match self.watch {
            Watch::Lock => write!(text, "lock 0 0 "),
            Watch::Pid { pid, ticks } => write!(text, "pid {pid} {ticks} "),
            Watch::Gone => write!(text, "gone 0 0 "),
        };
        let _ = match &self.ending {
            Some(end) => write!(text, "{} {}", end.segment, end.offset),
            None => write!(text, "- 0"),
        };
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        (words.next()? == "live").then_some(())?;
        let launch = LaunchId::parse(words.next()?)?;
        let at = place(words.next()?, words.next()?)?;
        let (kind, pid, ticks) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let watch = match kind {
            "lock" => Watch::Lock,
            "pid" => Watch::Pid { pid, ticks },
            "gone" => Watch::Gone,
            _ => return None,
        };
        let ending = match (words.next()?, words.next()?) {
            ("-", _) => None,
            (segment, offset) => Some(place(segment, offset)?),
        };
        words.next().is_none().then_some(Self { launch, at, ending, watch })
    }
}

fn place(segment: &str, offset: &str) -> Option<Place> {
    super::segment::parse_name(segment)?;
    Some(Place { segment: segment.to_owned(), offset: offset.parse().ok()? })
}

fn header(boot: &str) -> String {
    format!("bailey-live 1 {boot}")
}

/// The slots, by index from 1; `None` when the table is missing, damaged or of another boot.
pub(super) fn read(file: &File, boot: &str) -> std::io::Result<Option<Vec<Option<Entry>>>> {
    let size = file.metadata()?.len();
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(parse(&bytes, boot))
}

fn parse(bytes: &[u8], boot: &str) -> Option<Vec<Option<Entry>>> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(SLOT as usize) {
        return None;
    }
    let mut slots = bytes.chunks(SLOT as usize).map(|slot| {
        let text = std::str::from_utf8(slot).ok()?;
        Some(text.strip_suffix('\n')?.trim_end_matches(' '))
    });
    if slots.next()?? != header(boot) {
        return None;
    }
    slots
        .map(|slot| match slot? {
            "" => Some(None),
            text => Entry::parse(text).map(Some),
        })
        .collect()
}

/// Writes one slot; index 0 is the first behind the header.
pub(super) fn write(file: &File, index: usize, entry: Option<&Entry>) -> std::io::Result<()> {
    let text = entry.map(Entry::text).unwrap_or_default();
    file.write_all_at(&padded(&text), (index as u64 + 1) * SLOT)
}

/// Replaces the whole table.
pub(super) fn reset(file: &File, boot: &str, entries: &[Entry]) -> std::io::Result<()> {
    file.set_len(0)?; // a reader of a half-written table finds no header and rebuilds
    for (index, entry) in entries.iter().enumerate() {
        write(file, index, Some(entry))?;
    }
    file.write_all_at(&padded(&header(boot)), 0)
}

fn padded(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(SLOT as usize - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The byte range of a slot's lock.
fn range(index: usize) -> (i64, i64) {
    ((index as i64 + 1) * SLOT as i64, SLOT as i64)
}

/// Takes the lock of a slot for `file`'s description; `false` when another description has it.
pub(super) fn claim(file: &File, index: usize) -> Result<bool, Errno> {
    let (start, len) = range(index);
    try_lock(file, start, len)
}

/// Whether another description than `file`'s holds the lock of the slot.
pub(super) fn is_claimed(file: &File, index: usize) -> Result<bool, Errno> {
    let (start, len) = range(index);
    let mut probe = flock(libc::F_WRLCK, start, len);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

/// An exclusive OFD lock of a byte range (`len` 0: to the end and beyond), not waited for.
pub(crate) fn try_lock(file: &File, start: i64, len: i64) -> Result<bool, Errno> {
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, start, len))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives up what [`try_lock`] took.
pub(crate) fn unlock(file: &File, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock(libc::F_UNLCK, start, len))).map(drop)
}

fn flock(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: len,
        l_pid: 0, // must be zero for OFD locks
    }
}

/// Whether the launcher `pid` still runs: a process of that number that was made no later than its payload. A number that was
/// used again belongs to a process that is younger.
pub(super) fn launcher_lives(pid: i64, payload_ticks: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| start_ticks(&stat))
        .is_some_and(|ticks| ticks <= payload_ticks)
}

/// Field 22 of `proc_pid_stat(5)`; the command's name, which may contain anything, ends at the last parenthesis.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// For [`crate::fuzzing`]: a table whose first slot is as it has to be; what is understood is written as it was read.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let slots = bytes.split(|byte| *byte == b'\n').map(|text| padded(&String::from_utf8_lossy(text)));
    let table: Vec<u8> = std::iter::once(padded(&header("boot"))).chain(slots).flatten().collect();
    let _ = parse(bytes, "boot");
    let Some(entries) = parse(&table, "boot") else { return false };
    for entry in entries.iter().flatten() {
        assert_eq!(Entry::parse(&entry.text()).map(|again| again.text()), Some(entry.text()));
    }
    entries.iter().any(Option::is_some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(watch: Watch, ending: bool) -> Entry {
        Entry {
            launch: LaunchId::from_parts(7, [9; 10]),
            at: Place { segment: "2024-02-29.001.ndjson".into(), offset: u64::MAX },
            ending: ending.then(|| Place { segment: "2024-03-01.002.ndjson".into(), offset: 5 }),
            watch,
        }
    }

    #[test]
    fn slots_read_back() {
        for watch in [Watch::Lock, Watch::Gone, Watch::Pid { pid: i64::MAX, ticks: u64::MAX }] {
            for ending in [false, true] {
                let entry = entry(watch, ending);
                let bytes = [padded(&header("b")), padded(""), padded(&entry.text())].concat();
                assert_eq!(bytes.len() as u64, 3 * SLOT);
                assert_eq!(parse(&bytes, "b"), Some(vec![None, Some(entry)]));
                assert_eq!(parse(&bytes, "c"), None, "another boot");
                assert_eq!(parse(&bytes[..bytes.len() - 1], "b"), None, "cut");
            }
        }
    }

    #[test]
    fn damage_is_seen() {
        let good = [padded(&header("b")), padded(&entry(Watch::Lock, false).text())].concat();
        for at in [0, 20, 256, 262, 290, 511] {
            let mut bad = good.clone();
            bad[at] = b'#';
            assert_eq!(parse(&bad, "b"), None, "byte {at}");
        }
        assert_eq!(parse(b"", "b"), None);
    }

    #[test]
    fn start_ticks_survive_hostile_names() {
        let stat = "12 (a) R 1 (b) ) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 0";
        assert_eq!(start_ticks(stat), Some(777));
        let me = i64::from(std::process::id());
        assert!(launcher_lives(me, u64::MAX));
        assert!(!launcher_lives(me, 0));
    }
}
