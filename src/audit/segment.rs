//! The log's directory and its files: who may own them, what they are called, where the last whole line ends.
//!
//! 1. Every file is opened relative to the directory's descriptor, without following a link, and judged on the descriptor.
//! 2. A name that is not `YYYY-MM-DD.NNN.ndjson` does not belong to the log and is left alone.
//! 3. Bytes after the last whole line are torn: left by a crash, never part of a durable record.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{AccessFlags, Uid};

use super::chain::{Link, MAX_LINE, link_of};
use super::time::{Timestamp, parse_date};
use crate::failure::{Failure, errno_text, io_text};

/// Whose log it is: what its failures say to look at, and who else may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum House {
    /// The pilot's own, for nobody else.
    Embedded,
    /// The recorder's; the group that owns the directory reads it.
    Recorder,
}

impl House {
    /// The configuration's name for the directory.
    const fn setting(self) -> &'static str {
        match self {
            Self::Embedded => "audit.dir",
            Self::Recorder => "recorder.dir",
        }
    }

    /// Another way out, as the end of a next step.
    fn configure(self) -> String {
        format!("or set {} in /etc/bailey/bailey.toml", self.setting())
    }

    const fn dir_mode(self) -> u32 {
        match self {
            Self::Embedded => 0o700,
            Self::Recorder => 0o750,
        }
    }

    /// The mode of its files.
    pub const fn file_mode(self) -> Mode {
        match self {
            Self::Embedded => Mode::from_bits_truncate(0o600),
            Self::Recorder => Mode::from_bits_truncate(0o640),
        }
    }
}

/// File systems whose locks and fdatasync depend on another host or on a daemon: `statfs(2)` and `linux/magic.h`.
const NETWORK: [(u32, &str); 13] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
];

/// The kind of file system on which a path is, or would be, for people.
pub(crate) fn file_system(path: &Path) -> String {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let Ok(statfs) = nix::sys::statfs::statfs(there) else {
        return "a file system that does not tell".to_owned();
    };
    let magic = statfs.filesystem_type().0 as u32;
    let local = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlay"),
    ];
    let known = network_kind(magic)
        .or_else(|| local.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name));
    known.map_or_else(|| format!("a file system of type {magic:#x}"), str::to_owned)
}

/// The log's directory, open.
#[derive(Debug)]
pub struct Directory {
    fd: File,
    path: PathBuf,
    house: House,
}

impl Directory {
    /// Opens the directory to write in it, and makes it (0700 or 0750, with its parents) where it is missing.
    pub fn for_writing(path: &Path, house: House, network_filesystem: bool) -> Result<Self, Failure> {
        let made = create(path, house)?;
        let opened = Self::open_at(path)
            .map_err(|errno| failure_in(house, "open the audit log's directory", path, errno))?;
        let directory = Self { house, ..opened };
        if made {
            // mkdir(2) obeys the umask; a set-group-id bit that came from the parent stays.
            let wrong = |error: &std::io::Error| directory.io_failure("set the mode of", "", error);
            let now = directory.fd.metadata().map_err(|error| wrong(&error))?.mode() & 0o6000;
            directory
                .fd
                .set_permissions(Permissions::from_mode(now | house.dir_mode()))
                .map_err(|error| wrong(&error))?;
        }
        directory.judge(network_filesystem)?;
        Ok(directory)
    }

    /// Opens the directory to read what is in it.
    pub fn for_reading(path: &Path) -> Result<Self, Failure> {
        Self::open_at(path).map_err(|errno| unread(path, &errno.into()))
    }

    fn open_at(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { fd: File::from(fd), path: path.to_owned(), house: House::Embedded })
    }

    fn judge(&self, network_filesystem: bool) -> Result<(), Failure> {
        let refuse = |why: String, next: String| {
            let what = format!("cannot use {} for the audit log", self.path.display());
            Err(Failure::record(what, why, next))
        };
        let meta = self
            .fd
            .metadata()
            .map_err(|error| self.io_failure("look at the audit log's directory", "", &error))?;
        let me = Uid::effective().as_raw();
        let (path, configure) = (self.path.display(), self.house.configure());
        if meta.uid() != me && meta.uid() != 0 {
            return refuse(
                format!("it belongs to uid {}, bailey runs as uid {me}", meta.uid()),
                format!("chown {me} {path}, {configure}"),
            );
        }
        if meta.mode() & 0o022 != 0 {
            return refuse(
                format!("others may write in it (mode {:04o})", meta.mode() & 0o7777),
                format!("chmod go-w {path}, {configure}"),
            );
        }
        nix::unistd::faccessat(&self.fd, ".", AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
            .map_err(|errno| self.failure("write in the audit log's directory", "", errno))?;
        let statfs = nix::sys::statfs::fstatfs(&self.fd)
            .map_err(|errno| self.failure("look at the file system of", "", errno))?;
        match network_kind(statfs.filesystem_type().0 as u32) {
            Some(kind) if !network_filesystem => refuse(
                format!("it is on {kind}, where locks and fdatasync depend on others"),
                format!(
                    "set {} to a local directory, or audit.network_filesystem = true",
                    self.house.setting()
                ),
            ),
            _ => Ok(()),
        }
    }

    /// Opens a file of the log; the caller's flags and close-on-exec, no link followed. `ENOENT` is the caller's to judge.
    pub fn open(&self, name: &str, flags: OFlag) -> Result<File, Errno> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat(&self.fd, name, flags, self.house.file_mode()).map(File::from)
    }

    /// Opens a file that bailey writes, and refuses what somebody else could have put there.
    pub fn open_own(&self, name: &str, flags: OFlag) -> Result<File, Failure> {
        let file = self.open(name, flags).map_err(|errno| self.failure("open", name, errno))?;
        let meta = file.metadata().map_err(|error| self.io_failure("look at", name, &error))?;
        let me = Uid::effective().as_raw();
        if !meta.is_file() || meta.uid() != me || meta.mode() & 0o022 != 0 || meta.nlink() > 1 {
            return Err(Failure::record(
                format!("cannot use {}", self.path.join(name).display()),
                format!(
                    "it must be a plain file of uid {me} that nobody else may write (uid {}, mode {:o}, {} links)",
                    meta.uid(),
                    meta.mode(),
                    meta.nlink()
                ),
                format!("move it away and run bailey-admin verify, {}", self.house.configure()),
            ));
        }
        Ok(file)
    }

    /// As [`open_own`](Self::open_own) with `O_CREAT`: the file's mode does not depend on the umask.
    pub fn make_own(&self, name: &str, flags: OFlag) -> Result<File, Failure> {
        let file = self.open_own(name, flags | OFlag::O_CREAT)?;
        nix::sys::stat::fchmod(&file, self.house.file_mode())
            .map_err(|errno| self.failure("set the mode of", name, errno))?;
        Ok(file)
    }

    /// Whether something has this name.
    pub fn has(&self, name: &str) -> Result<bool, Errno> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Bytes of a file.
    pub fn size_of(&self, name: &str) -> Result<u64, Errno> {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_size as u64)
    }

    /// Device and inode number.
    pub fn identity(&self) -> std::io::Result<(u64, u64)> {
        self.fd.metadata().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether `file` is still what its name leads to.
    pub fn is_current(&self, name: &str, file: &File) -> bool {
        match (fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW), file.metadata()) {
            (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.dev(), open.ino()),
            _ => false,
        }
    }

    /// The names of the segments, oldest first.
    pub fn segments(&self) -> Result<Vec<String>, Failure> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut names = Vec::new();
        let mut listing = Dir::openat(&self.fd, ".", flags, Mode::empty())
            .map_err(|errno| self.failure("list", "", errno))?;
        for entry in listing.iter() {
            let entry = entry.map_err(|errno| self.failure("list", "", errno))?;
            if let Ok(name) = entry.file_name().to_str()
                && parse_name(name).is_some()
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the directory's entries durable.
    pub fn sync(&self) -> Result<(), Failure> {
        self.fd.sync_all().map_err(|error| self.io_failure("sync", "", &error))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A failure about one of its files; about itself when the name is empty.
    pub fn failure(&self, verb: &str, name: &str, errno: Errno) -> Failure {
        failure_in(self.house, verb, &self.file_path(name), errno)
    }

    /// The same for an `io::Error`.
    pub fn io_failure(&self, verb: &str, name: &str, error: &std::io::Error) -> Failure {
        io_failure_in(self.house, verb, &self.file_path(name), error)
    }

    fn file_path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }
}

/// Makes what is missing of `path`, and makes the new entries durable; whether `path` itself was missing.
fn create(path: &Path, house: House) -> Result<bool, Failure> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(house.dir_mode())
        .create(path)
        .map_err(|error| io_failure_in(house, "make the audit log's directory", path, &error))?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| io_failure_in(house, "sync", parent, &error))?;
    }
    Ok(!missing.is_empty())
}

pub(crate) fn network_kind(magic: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

/// A failure of the embedded log with the next step that the errno suggests. Exit code 122.
pub fn failure(verb: &str, path: &Path, errno: Errno) -> Failure {
    failure_in(House::Embedded, verb, path, errno)
}

/// A failure to read a log, by whoever asks what is in it.
pub fn unread(path: &Path, error: &std::io::Error) -> Failure {
    let next = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => "name the directory of a log",
        Some(Errno::EIO) => "look for disk errors in the kernel's log, and read a copy",
        _ => "ask as a user who may read it, or copy the log and name the copy",
    };
    Failure::site(format!("cannot read the log {}", path.display()), io_text(error), next)
}

/// [`failure`] for an `io::Error`.
pub fn io_failure(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    io_failure_in(House::Embedded, verb, path, error)
}

fn failure_in(house: House, verb: &str, path: &Path, errno: Errno) -> Failure {
    let (shown, configure) = (path.display(), house.configure());
    let next = match errno {
        Errno::ENOSPC | Errno::EDQUOT => format!("free space for {shown}, {configure}"),
        Errno::EFBIG => format!("raise the limit of file sizes (ulimit -f), {configure}"),
        Errno::EIO => format!("look for disk errors in the kernel's log, {configure}"),
        Errno::EROFS => format!("look in the kernel's log why it became read-only, {configure}"),
        Errno::ENOTDIR | Errno::EEXIST | Errno::ELOOP => {
            format!("move away what stands where a directory or a plain file is needed, {configure}")
        }
        _ => format!("make it writable for uid {}, {configure}", Uid::effective()),
    };
    Failure::record(format!("cannot {verb} {shown}"), errno_text(errno), next)
}

fn io_failure_in(house: House, verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(raw) => failure_in(house, verb, path, Errno::from_raw(raw)),
        None => Failure::record(
            format!("cannot {verb} {}", path.display()),
            io_text(error),
            format!("run bailey-admin verify, {}", house.configure()),
        ),
    }
}

/// `YYYY-MM-DD.NNN.ndjson` into day and number.
pub fn parse_name(name: &str) -> Option<(&str, u32)> {
    let stem = name.strip_suffix(".ndjson")?;
    let (day, number) = stem.split_once('.')?;
    let (year, month, date) = parse_date(day)?;
    Timestamp::from_civil((year, month, date), (0, 0, 0), 0)?;
    let digits = number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| number.parse().ok()).flatten().map(|n| (day, n))
}

/// The end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Bytes up to the end of the last whole line.
    pub len: u64,
    /// That line; `None` when the segment has none.
    pub link: Option<Link>,
    /// Torn bytes after it.
    pub torn: u64,
}

/// Finds the last whole line of a segment of `size` bytes. At most one broken line may follow it; `None` means that more is
/// broken than a crash can explain.
pub fn tail(file: &File, size: u64) -> std::io::Result<Option<Tail>> {
    let mut window = 8 * 1024_u64;
    loop {
        let start = size.saturating_sub(window);
        let mut bytes = vec![0; (size - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        if let Some(tail) = tail_in(&bytes, start, size) {
            return Ok(Some(tail));
        }
        if start == 0 || window > 4 * MAX_LINE as u64 {
            return Ok(None);
        }
        window *= 4;
    }
}

/// `bytes` are the segment's last ones and begin at offset `start`.
fn tail_in(bytes: &[u8], start: u64, size: u64) -> Option<Tail> {
    let mut end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    for _ in 0..2 {
        if end == 0 {
            break;
        }
        let (line, _) = bytes.split_at_checked(end - 1)?;
        let begin = line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if begin == 0 && start > 0 {
            return None; // the line may begin before this window
        }
        if let Some(link) = link_of(line.get(begin..)?) {
            let len = start + end as u64;
            return Some(Tail { len, link: Some(link), torn: size - len });
        }
        end = begin;
    }
    (start == 0 && end == 0).then_some(Tail { len: 0, link: None, torn: size })
}

/// The whole line at `offset`, without its newline; `None` where there is none.
pub fn line_at(file: &File, offset: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; MAX_LINE];
    let mut have = 0;
    while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
        let count = file.read_at(rest, offset + have as u64)?;
        if count == 0 {
            break;
        }
        have += count;
        if let Some(end) = bytes.iter().take(have).position(|b| *b == b'\n') {
            bytes.truncate(end);
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::chain::Body;
    use super::super::record::{Action, Record};
    use super::*;
    use crate::request::LaunchId;

    #[test]
    fn names() {
        assert_eq!(parse_name("2024-02-29.001.ndjson"), Some(("2024-02-29", 1)));
        for foreign in [
            "lock",
            "live",
            "2023-02-29.001.ndjson",
            "2024-02-29.1.ndjson",
            "2024-02-29.001.ndjson.gz",
            "2024-02-29.+01.ndjson",
        ] {
            assert_eq!(parse_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn network_file_systems_are_known() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xef53), None); // ext4
        assert_eq!(network_kind(0x0102_1994), None); // tmpfs
    }

    #[test]
    fn the_tail_is_found_behind_any_torn_bytes() {
        let record = Record::new(Action::PayloadEnd, LaunchId::from_parts(1, [0; 10]));
        let body = Body::new(&record).unwrap();
        let first = body.line(Timestamp::default(), &Link::START, "w");
        let link = link_of(&first[..first.len() - 1]).unwrap();
        let second = body.line(Timestamp::default(), &link, "w");
        for cut in 0..second.len() {
            let bytes = [&first[..], &second[..cut]].concat();
            let tail = tail_in(&bytes, 0, bytes.len() as u64).unwrap();
            assert_eq!((tail.len, tail.torn), (first.len() as u64, cut as u64));
            assert_eq!(tail.link, Some(link));
        }
        // A last line that has its newline but lost a page.
        let mut holed = [&first[..], &second[..]].concat();
        holed[first.len() + 10..first.len() + 40].fill(0);
        let tail = tail_in(&holed, 0, holed.len() as u64).unwrap();
        assert_eq!((tail.len, tail.torn), (first.len() as u64, second.len() as u64));
        // Two broken lines are no crash.
        let broken = [&first[..], b"{}\n", b"{}\n"].concat();
        assert_eq!(tail_in(&broken, 0, broken.len() as u64), None);
        assert_eq!(tail_in(&first[..9], 0, 9).unwrap(), Tail { len: 0, link: None, torn: 9 });
    }
}
