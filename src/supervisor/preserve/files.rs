//! Copies of a held payload's private files: directories, regular files with their holes, symbolic links as such.
//!
//! 1. Everything is opened by name relative to a directory's descriptor, links not followed, and judged on what was opened;
//!    names are bytes. Nothing of the payload's can lead the copy out of its private file system.
//! 2. Only the private file system itself is copied: what was bound into it stays where it is, on the host.
//! 3. No more data is copied than that file system can hold, and holes stay holes, so that a payload cannot fill the disk with
//!    sparse files or with many names of one.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{File, Metadata, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{Mode, UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, ftruncate, linkat, lseek};

use crate::audit::redact;
use crate::failure::errno_text;
use crate::proc::Process;
use crate::sandbox::layout::PRIVATE_PLACES;
use crate::sys::fs::{self, Resolve, Stat};

/// Directories inside directories. Each level takes three descriptors.
const DEEPEST: usize = 200;
/// Files, directories and links.
const MOST: u64 = 500_000;
/// What is copied between two looks whether somebody waits for the end.
const CHUNK: usize = 1 << 18;

/// Copies the private places below `root`, the root of process `pid`, into `into`.
pub(super) fn keep(
    pid: i32,
    root: &OwnedFd,
    into: &OwnedFd,
    missing: &mut Vec<String>,
    interrupted: &mut dyn FnMut() -> bool,
) {
    let mounts = match mounts(pid) {
        Ok(mounts) => mounts,
        Err(errno) => {
            missing.push(format!("the private files: mountinfo of process {pid}: {}", errno_text(errno)));
            return;
        }
    };
    if mounts.private.is_none() {
        missing.push("the private files: their file system is not among the payload's mounts".to_owned());
    }
    if mounts.writable_image {
        missing.push("what was written into the writable image".to_owned());
    }
    let mut copy = Copy {
        device: 0,
        left: u64::MAX,
        entries: MOST,
        known: HashMap::new(),
        into: into.as_fd(),
        missing,
        buffer: vec![0; CHUNK],
        interrupted,
        over: false,
    };
    for (place, name) in PRIVATE_PLACES {
        copy.place(root, place, name, mounts.private);
    }
}

/// What the payload's mounts say.
#[derive(Debug, PartialEq, Eq)]
struct Mounts {
    /// Device number of bailey's private file system.
    private: Option<u64>,
    writable_image: bool,
}

fn mounts(pid: i32) -> Result<Mounts, Errno> {
    let mut buffer = Vec::new();
    Ok(private(Process::open(pid)?.read(c"mountinfo", &mut buffer)?))
}

/// The private file system is the tmpfs of which most parts are mounted where bailey mounts them (proc_pid_mountinfo(5)): a
/// bind that was put over one of these places is of another.
fn private(mountinfo: &[u8]) -> Mounts {
    const PARTS: [(&str, &str); 6] = [
        ("/dev", "/dev"),
        ("/run", "/run"),
        ("/sys", "/sys"),
        ("/tmp", "/tmp"),
        ("/var-tmp", "/var/tmp"),
        ("/work", "/srv"),
    ];
    let mut found: HashMap<&str, usize> = HashMap::new();
    let mut writable_image = false;
    for line in mountinfo.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let mut fields = line.split(' ').skip(2);
        let (Some(device), Some(root), Some(point), Some(options)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let kind = fields.skip_while(|field| *field != "-").nth(1).unwrap_or_default();
        if kind == "tmpfs" && PARTS.contains(&(root, point)) {
            *found.entry(device).or_default() += 1;
        }
        writable_image |=
            kind == "overlay" && point == "/" && options.split(',').any(|option| option == "rw");
    }
    let private = found.into_iter().max_by_key(|(_, parts)| *parts).and_then(|(device, _)| {
        let (major, minor) = device.split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    });
    Mounts { private, writable_image }
}

struct Copy<'a> {
    /// Of the private file system.
    device: u64,
    /// Bytes that may still be copied.
    left: u64,
    /// Names that may still be copied.
    entries: u64,
    /// Inodes with several names, and where the copy is, below `into`.
    known: HashMap<u64, CString>,
    into: BorrowedFd<'a>,
    missing: &'a mut Vec<String>,
    buffer: Vec<u8>,
    interrupted: &'a mut dyn FnMut() -> bool,
    /// Nothing more is copied.
    over: bool,
}

/// Where the copy is: path inside the payload, and below the copy's own directory.
#[derive(Clone)]
struct Here {
    shown: Vec<u8>,
    below: Vec<u8>,
    depth: usize,
}

impl Here {
    fn join(&self, name: &CStr) -> Self {
        let join = |path: &[u8]| [path, b"/", name.to_bytes()].concat();
        Self { shown: join(&self.shown), below: join(&self.below), depth: self.depth + 1 }
    }
}

impl Copy<'_> {
    fn miss(&mut self, path: &[u8], why: &str) {
        // A hostile payload could make the list as long as it likes.
        if self.missing.len() < 10_000 {
            self.missing.push(format!("{}: {why}", redact::text(path)));
        }
    }

    fn place(&mut self, root: &OwnedFd, place: &'static CStr, name: &'static CStr, private: Option<u64>) {
        let shown = [b"/", place.to_bytes()].concat();
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let opened = fs::open_how(root.as_fd(), place, flags, 0, Resolve::InRoot)
            .and_then(|dir| fs::stat_at(dir.as_fd(), c"").map(|stat| (dir, stat)));
        let (dir, stat) = match opened {
            Ok(opened) => opened,
            Err(Errno::ENOENT) => return, // /srv, where the payload has a directory of the host's
            Err(errno) => return self.miss(&shown, &errno_text(errno)),
        };
        if Some(stat.dev) != private {
            return; // handed over, or the image's own: it is on the host
        }
        self.device = stat.dev;
        if self.left == u64::MAX {
            // Once, for all places together: they are of one file system.
            self.left = nix::sys::statvfs::fstatvfs(&dir).map_or(0, |fs| fs.blocks() * fs.fragment_size());
        }
        let here = Here { shown, below: name.to_bytes().to_vec(), depth: 0 };
        self.make_and_fill(&dir, self.into, name, &here);
    }

    fn make_and_fill(&mut self, from: &OwnedFd, into: BorrowedFd<'_>, name: &CStr, here: &Here) {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let made = fs::make_dir(into, name, 0o700).and_then(|()| fs::open_at(into, name, flags, 0));
        match made {
            Ok(to) => self.directory(from, &to, here),
            Err(errno) => self.failed(&here.shown, errno),
        }
    }

    /// The copy itself failed: without room there is no point in going on.
    fn failed(&mut self, path: &[u8], errno: Errno) {
        self.miss(path, &format!("cannot write the copy: {}", errno_text(errno)));
        self.over |= matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS | Errno::EIO);
    }

    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, here: &Here) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut entries = match Dir::openat(from, c".", flags, Mode::empty()) {
            Ok(entries) => entries,
            Err(errno) => return self.miss(&here.shown, &errno_text(errno)),
        };
        for entry in entries.iter() {
            let name = match &entry {
                Ok(entry) => entry.file_name(),
                Err(errno) => return self.miss(&here.shown, &errno_text(*errno)),
            };
            if [&b"."[..], b".."].contains(&name.to_bytes()) {
                continue;
            }
            if !self.over && (self.interrupted)() {
                self.over = true;
                self.miss(&here.shown, "and all that was to follow: the payload's end was wanted at once");
            }
            if self.over {
                return;
            }
            let Some(entries) = self.entries.checked_sub(1) else {
                self.over = true;
                return self
                    .miss(&here.shown, &format!("and all that was to follow: more than {MOST} files"));
            };
            self.entries = entries;
            self.entry(from, to, name, &here.join(name));
        }
        copy_meta(to, meta_of(from).as_ref(), 0o700);
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, here: &Here) {
        let stat = match fs::stat_at(from.as_fd(), name) {
            Ok(stat) => stat,
            Err(errno) => return self.miss(&here.shown, &errno_text(errno)),
        };
        if stat.dev != self.device {
            return self.miss(&here.shown, "it was handed over and is on the host");
        }
        if stat.is_symlink() {
            return self.link(from, to, name, here);
        }
        let kind = match stat.mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFDIR => None,
            libc::S_IFIFO => Some("a FIFO is not copied"),
            libc::S_IFSOCK => Some("a socket is not copied"),
            _ => Some("a device is not copied"),
        };
        if let Some(kind) = kind {
            return self.miss(&here.shown, kind);
        }
        if stat.is_dir() && here.depth >= DEEPEST {
            return self.miss(&here.shown, &format!("it is more than {DEEPEST} directories deep"));
        }
        let opened = match open_same(from, name, &stat) {
            Ok(opened) => opened,
            Err(errno) => return self.miss(&here.shown, &errno_text(errno)),
        };
        if stat.is_dir() {
            self.make_and_fill(&opened, to.as_fd(), name, here);
        } else {
            self.file(&File::from(opened), to, name, here);
        }
    }

    fn link(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, here: &Here) {
        let target = readlinkat(from, name).map_err(errno_text);
        let target =
            target.and_then(|target| CString::new(target.as_bytes()).map_err(|error| error.to_string()));
        let target = match target {
            Ok(target) => target,
            Err(why) => return self.miss(&here.shown, &why),
        };
        match fs::make_link(&target, to.as_fd(), name) {
            Ok(()) => {
                if let Ok(stat) = nix::sys::stat::fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
                    let flag = UtimensatFlags::NoFollowSymlink;
                    let _ = utimensat(to, name, &TimeSpec::UTIME_OMIT, &modified, flag); // the link counts, not its time
                }
            }
            Err(errno) => self.failed(&here.shown, errno),
        }
    }

    fn file(&mut self, from: &File, to: &OwnedFd, name: &CStr, here: &Here) {
        let Ok(meta) = from.metadata() else { return self.miss(&here.shown, "it cannot be looked at") };
        if meta.nlink() > 1 {
            if let Some(first) = self.known.get(&meta.ino()) {
                let linked = linkat(self.into, first.as_c_str(), to, name, AtFlags::empty());
                if let Err(errno) = linked {
                    self.failed(&here.shown, errno);
                }
                return;
            }
            if let Ok(below) = CString::new(here.below.clone()) {
                self.known.insert(meta.ino(), below);
            }
        }
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        match fs::open_at(to.as_fd(), name, flags, 0o600) {
            Ok(copy) => {
                let copy = File::from(copy);
                self.content(from, &copy, meta.len(), here);
                copy_meta(&copy, Some(&meta), 0o600);
            }
            Err(errno) => self.failed(&here.shown, errno),
        }
    }

    /// The data, by its extents.
    fn content(&mut self, mut from: &File, mut to: &File, size: u64, here: &Here) {
        let errno = |error: &std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let mut at: i64 = 0;
        // The end of the last extent says ENXIO.
        while let Ok(data) = lseek(from, at, Whence::SeekData) {
            let end = lseek(from, data, Whence::SeekHole).unwrap_or(data);
            if lseek(from, data, Whence::SeekSet).is_err() || lseek(to, data, Whence::SeekSet).is_err() {
                return self.miss(&here.shown, "it cannot be read at an offset");
            }
            let mut left = (end - data).max(0) as u64;
            while left > 0 {
                let room = usize::try_from(left.min(CHUNK as u64)).unwrap_or(CHUNK);
                let Some(room) = self.buffer.get_mut(..room) else { return };
                let got = match from.read(room) {
                    Ok(0) => break,
                    Ok(got) => got,
                    Err(error) => return self.miss(&here.shown, &errno_text(errno(&error))),
                };
                let Some(rest) = self.left.checked_sub(got as u64) else {
                    self.over = true;
                    return self.miss(
                        &here.shown,
                        "and all that was to follow: more than the private file system holds",
                    );
                };
                self.left = rest;
                if let Err(error) = to.write_all(room.get(..got).unwrap_or_default()) {
                    return self.failed(&here.shown, errno(&error));
                }
                left -= got as u64;
                if (self.interrupted)() {
                    self.over = true;
                    return self
                        .miss(&here.shown, "cut, with all that was to follow: the end was wanted at once");
                }
            }
            if end <= at {
                break;
            }
            at = end;
        }
        if let Err(errno) = ftruncate(to, size as i64) {
            self.failed(&here.shown, errno);
        }
    }
}

/// Opens what was looked at, and nothing else. A payload may have taken the rights from its own file: it belongs to the same
/// user, who gives them back.
fn open_same(from: &OwnedFd, name: &CStr, expected: &Stat) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = match fs::open_at(from.as_fd(), name, flags, 0) {
        Err(Errno::EACCES) => {
            let path = fs::open_at(from.as_fd(), name, libc::O_PATH, 0)?;
            same(&path, expected)?;
            let link = format!("/proc/self/fd/{}", path.as_raw_fd());
            let mode = (expected.mode & 0o7777) | if expected.is_dir() { 0o500 } else { 0o400 };
            std::fs::set_permissions(link, Permissions::from_mode(mode)).map_err(|_| Errno::EACCES)?;
            fs::open_at(from.as_fd(), name, flags, 0)?
        }
        other => other?,
    };
    same(&opened, expected)?;
    Ok(opened)
}

fn same(opened: &OwnedFd, expected: &Stat) -> Result<(), Errno> {
    let stat = fs::stat_at(opened.as_fd(), c"")?;
    if (stat.dev, stat.ino) == (expected.dev, expected.ino) { Ok(()) } else { Err(Errno::ESTALE) }
}

fn meta_of(dir: &OwnedFd) -> Option<Metadata> {
    File::from(dir.try_clone().ok()?).metadata().ok()
}

/// Mode (never less than what the owner of the copy needs, never more than the original's) and time. Both are worth having
/// and not worth failing for.
fn copy_meta(to: impl AsFd, meta: Option<&Metadata>, least: u32) {
    let Some(meta) = meta else { return };
    let mode = Mode::from_bits_truncate((meta.mode() & 0o777) | least);
    let _ = nix::sys::stat::fchmod(to.as_fd(), mode);
    let time = |seconds, nanos| TimeSpec::new(seconds, nanos);
    let _ = futimens(to, &time(meta.atime(), meta.atime_nsec()), &time(meta.mtime(), meta.mtime_nsec()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    const MOUNTINFO: &str = "\
1 0 0:70 /var-tmp /var/tmp rw - tmpfs tmpfs rw
2 0 0:70 /tmp /tmp rw - tmpfs tmpfs rw
3 0 0:30 /tmp /tmp rw - tmpfs host rw
4 0 0:70 /work /srv rw - tmpfs tmpfs rw
5 0 0:9 /work /srv rw - ext4 /dev/sda rw
6 0 0:70 /dev /dev rw shared:1 - tmpfs tmpfs rw
";

    #[test]
    fn the_private_file_system_is_the_one_that_has_the_places() {
        let found = private(MOUNTINFO.as_bytes());
        assert_eq!(found, Mounts { private: Some(libc::makedev(0, 70)), writable_image: false });
        assert_eq!(private(b"\xff\n\n1 2\n"), Mounts { private: None, writable_image: false });
        assert!(private(b"1 0 0:1 / / rw,nosuid - overlay overlay rw\n").writable_image);
        assert!(!private(b"1 0 0:1 / / ro,nosuid - overlay overlay rw\n").writable_image);
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("bailey-files-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("from")).unwrap();
            std::fs::create_dir_all(path.join("to")).unwrap();
            Self(path)
        }

        fn from(&self, name: &str) -> PathBuf {
            self.0.join("from").join(name)
        }

        fn to(&self, name: &str) -> PathBuf {
            self.0.join("to").join(name)
        }

        fn copy(&self, left: u64, interrupted: &mut dyn FnMut() -> bool) -> Vec<String> {
            let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
            let (from, to) = (open(&self.0.join("from")), open(&self.0.join("to")));
            let mut missing = Vec::new();
            let mut copy = Copy {
                device: fs::stat_at(from.as_fd(), c"").unwrap().dev,
                left,
                entries: 1000,
                known: HashMap::new(),
                into: to.as_fd(),
                missing: &mut missing,
                buffer: vec![0; CHUNK],
                interrupted,
                over: false,
            };
            copy.directory(&from, &to, &Here { shown: b"/tmp".to_vec(), below: b".".to_vec(), depth: 0 });
            missing
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.0).status();
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_a_hostile_payload_leaves_is_copied_as_it_is() {
        let place = Place::new("hostile");
        let odd = OsStr::from_bytes(b"a\n\xff b");
        std::fs::write(place.0.join("from").join(odd), "odd").unwrap();
        symlink("/etc/shadow", place.from("link")).unwrap();
        std::fs::create_dir(place.from("closed")).unwrap();
        std::fs::write(place.from("closed/secret"), "hidden").unwrap();
        std::fs::set_permissions(place.from("closed/secret"), Permissions::from_mode(0o000)).unwrap();
        std::fs::set_permissions(place.from("closed"), Permissions::from_mode(0o000)).unwrap();
        std::fs::write(place.from("one"), "same").unwrap();
        std::fs::hard_link(place.from("one"), place.from("two")).unwrap();
        nix::unistd::mkfifo(&place.from("pipe"), Mode::S_IRWXU).unwrap();
        let sparse = File::create(place.from("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (1 << 40) - 3).unwrap();
        drop(sparse);
        let missing = place.copy(1 << 20, &mut || false);
        assert_eq!(missing, ["/tmp/pipe: a FIFO is not copied"]);
        assert_eq!(std::fs::read_to_string(place.0.join("to").join(odd)).unwrap(), "odd");
        assert_eq!(std::fs::read_link(place.to("link")).unwrap(), Path::new("/etc/shadow"));
        assert_eq!(std::fs::read_to_string(place.to("closed/secret")).unwrap(), "hidden");
        let (one, two) =
            (std::fs::metadata(place.to("one")).unwrap(), std::fs::metadata(place.to("two")).unwrap());
        assert_eq!(one.ino(), two.ino(), "several names of one file are one file");
        let sparse = std::fs::metadata(place.to("sparse")).unwrap();
        assert_eq!(sparse.len(), 1 << 40);
        assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
        let modified = std::fs::metadata(place.from("one")).unwrap().modified().unwrap();
        assert_eq!(one.modified().unwrap(), modified);
    }

    #[test]
    fn too_much_and_too_deep_is_said() {
        let place = Place::new("much");
        std::fs::write(place.from("large"), vec![b'x'; 1 << 20]).unwrap();
        let missing = place.copy(1000, &mut || false);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].contains("more than the private file system holds"), "{missing:?}");

        let place = Place::new("deep");
        let mut path = place.from("d");
        for _ in 0..DEEPEST + 5 {
            std::fs::create_dir(&path).unwrap();
            path.push("d");
        }
        let missing = place.copy(1000, &mut || false);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].contains("directories deep"), "{missing:?}");
    }

    #[test]
    fn whoever_waits_for_the_end_gets_it() {
        let place = Place::new("hurry");
        for name in ["a", "b", "c"] {
            std::fs::write(place.from(name), "x").unwrap();
        }
        let mut asked = 0;
        let missing = place.copy(1000, &mut || {
            asked += 1;
            asked > 1
        });
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(std::fs::read_dir(place.0.join("to")).unwrap().count() <= 1);
    }
}
