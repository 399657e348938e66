//! openat2(2) and the few path calls that children make with strings prepared beforehand.

use super::{Errno, check};
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a path may be resolved (`resolve` of `struct open_how`, openat2(2)). Magic links are never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// The directory is the root: absolute paths, absolute symlinks and `..` stay inside. Symlinks are followed.
    InRoot,
    /// As [`Resolve::InRoot`], and a symlink anywhere is `ELOOP`.
    InRootNoSymlinks,
    /// Anything that would lead out of the directory is `EXDEV`; a symlink anywhere is `ELOOP`.
    BeneathNoSymlinks,
    /// As [`Resolve::BeneathNoSymlinks`], and another mount is `EXDEV` too.
    BeneathOneMount,
    /// From the process's root, with symlinks refused: the path is known to be canonical.
    NoSymlinks,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// openat2(2). Adds `O_CLOEXEC` and `RESOLVE_NO_MAGICLINKS`. Retries the `EAGAIN` of a rename that raced, a few times.
pub fn open_how(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    mode: u32,
    resolve: Resolve,
) -> Result<OwnedFd, Errno> {
    let resolve = RESOLVE_NO_MAGICLINKS
        | match resolve {
            Resolve::InRoot => RESOLVE_IN_ROOT,
            Resolve::InRootNoSymlinks => RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
            Resolve::BeneathNoSymlinks => RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            Resolve::BeneathOneMount => RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
            Resolve::NoSymlinks => RESOLVE_NO_SYMLINKS,
        };
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    let mut tries = 0;
    loop {
        // SAFETY: `path` is NUL-terminated and `how` is an open_how of the size given; both outlive the call.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        });
        match result {
            // SAFETY: a fresh descriptor that nothing else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            Err(Errno::EAGAIN) if tries < 16 => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// The process's current directory as a descriptor argument (`AT_FDCWD`): absolute paths ignore it.
pub const fn cwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor that could be closed; the kernel takes it for "the current directory".
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// The standard streams, which are never closed before the payload's own execve.
pub const fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: missing ones were opened at the very start (`start`), and nothing in this program closes them while a child is
    // being made; the kernel answers EBADF otherwise.
    unsafe { [BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1), BorrowedFd::borrow_raw(2)] }
}

/// Device, inode and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// `st_rdev`
    pub rdev: u64,
    /// `st_uid`
    pub uid: u32,
    /// `st_gid`
    pub gid: u32,
    /// `st_nlink`: how many names it has.
    pub links: libc::nlink_t,
}

impl Stat {
    /// Is it a directory?
    pub const fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
    /// Is it a symbolic link?
    pub const fn is_symlink(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }
    /// Is it a regular file?
    pub const fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
    /// Is it a character device?
    pub const fn is_char_device(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFCHR
    }
}

/// fstatat(2): of the descriptor itself when `path` is empty; the last symlink is not followed.
pub fn stat_at(dir: BorrowedFd<'_>, path: &CStr) -> Result<Stat, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated; the kernel fills the whole struct when it returns 0.
    let stat = unsafe {
        check(libc::c_long::from(libc::fstatat(
            dir.as_raw_fd(),
            path.as_ptr(),
            stat.as_mut_ptr(),
            libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH,
        )))?;
        stat.assume_init()
    };
    Ok(Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        mode: stat.st_mode,
        rdev: stat.st_rdev,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink,
    })
}

/// The number that mountinfo gives the mount on which a descriptor lies: statx(2) with `STATX_MNT_ID` (kernel 5.8); 0 where it
/// is not told.
pub fn mount_number(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty path is NUL-terminated; the kernel fills a struct statx, which is valid when zeroed too.
    let stat = unsafe {
        check(libc::c_long::from(libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            stat.as_mut_ptr(),
        )))?;
        stat.assume_init()
    };
    Ok(if stat.stx_mask & libc::STATX_MNT_ID == 0 { 0 } else { stat.stx_mnt_id })
}

/// `st_size` of an open file.
pub fn size(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let stat = nix::sys::stat::fstat(fd)?;
    u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)
}

/// The unique id of the mount that a descriptor lies on (name_to_handle_at(2) with `AT_HANDLE_MNT_ID_UNIQUE`, kernel 6.12): no
/// other mount ever has it. An error on an older kernel, and where files have no handles. The file's system is not asked: it
/// makes the handle from what it has in memory.
pub fn unique_mount(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    const AT_HANDLE_MNT_ID_UNIQUE: libc::c_int = 1;
    /// `struct file_handle` with room for the largest (`MAX_HANDLE_SZ`).
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0_u64;
    // SAFETY: `handle` has the room that it says, and with this flag the kernel writes 64 bits to `mount`; both outlive the
    // call. The path is the empty one.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH | AT_HANDLE_MNT_ID_UNIQUE,
        )
    })?;
    Ok(mount)
}

/// What a link in a directory of /proc says, as far as it fits; readlinkat(2) without memory of its own.
pub fn read_link<'a>(dir: BorrowedFd<'_>, path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    // SAFETY: `path` is NUL-terminated; pointer and length are the buffer's own.
    let count = check(unsafe {
        libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    } as libc::c_long)?;
    Ok(buffer.get(..count as usize).unwrap_or_default())
}

/// mkdirat(2).
pub fn make_dir(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode) })).map(drop)
}

/// fchmod(2): of a mode for mkdirat(2) the umask takes away.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(libc::c_long::from(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })).map(drop)
}

/// symlinkat(2).
pub fn make_link(target: &CStr, dir: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    check(libc::c_long::from(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), path.as_ptr()) }))
        .map(drop)
}

/// mknodat(2) of an empty regular file: what a mount point for a file needs, in one call and with no descriptor.
pub fn make_empty_file(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    check(libc::c_long::from(unsafe {
        libc::mknodat(dir.as_raw_fd(), path.as_ptr(), libc::S_IFREG | mode, 0)
    }))
    .map(drop)
}

/// mknod(2) of a block device, which needs a capability that nobody has here.
pub fn make_block_device(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::mknod(path.as_ptr(), libc::S_IFBLK | 0o600, 0) })).map(drop)
}

/// openat(2) for the child's own files; adds `O_CLOEXEC` and `O_NOFOLLOW`.
pub fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: libc::c_int, mode: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is NUL-terminated.
    let fd = check(libc::c_long::from(unsafe {
        libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOFOLLOW, mode)
    }))?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// openat(2) that follows a last symlink; adds `O_CLOEXEC`. For `/proc/self/...` only, whose links are the kernel's.
pub fn open_following(path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is NUL-terminated.
    let fd = check(libc::c_long::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }))?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// write(2) of everything, retrying short writes and EINTR.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        // SAFETY: pointer and length are the slice's own.
        let result =
            check(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as libc::c_long);
        match result {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => bytes = bytes.get(n as usize..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// read(2) until the buffer is full or the file ends; the number of bytes read.
pub fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        // SAFETY: pointer and length are the slice's own.
        let result = check(
            unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) } as libc::c_long
        );
        match result {
            Ok(0) => break,
            Ok(n) => filled += n as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// pread(2) from the beginning, once.
pub fn read_from_start(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: pointer and length are the slice's own.
    check(unsafe { libc::pread(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) } as libc::c_long)
        .map(|count| count as usize)
}

/// read(2) once, retrying EINTR; 0 is the end.
pub fn read_some(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: pointer and length are the slice's own.
        let result =
            check(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }
                as libc::c_long);
        match result {
            Ok(n) => return Ok(n as usize),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// May this process execute the file (faccessat2(2), effective ids)? The last symlink is followed, inside this root.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::access(path.as_ptr(), libc::X_OK) })).map(drop)
}

/// stat(2), following symlinks: the mode only.
pub fn mode_of(path: &CStr) -> Result<u32, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `path` is NUL-terminated; the kernel fills the whole struct when it returns 0.
    let stat = unsafe {
        check(libc::c_long::from(libc::stat(path.as_ptr(), stat.as_mut_ptr())))?;
        stat.assume_init()
    };
    Ok(stat.st_mode)
}

/// chdir(2).
pub fn change_dir(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    check(libc::c_long::from(unsafe { libc::chdir(path.as_ptr()) })).map(drop)
}

/// fchdir(2).
pub fn change_dir_fd(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::fchdir(dir.as_raw_fd()) })).map(drop)
}

/// chroot(2) to the current directory.
pub fn change_root_to_cwd() -> Result<(), Errno> {
    // SAFETY: NUL-terminated string.
    check(libc::c_long::from(unsafe { libc::chroot(c".".as_ptr()) })).map(drop)
}

/// getcwd(2) by the system call, which says `(unreachable)/...` where glibc would hide it. True when the current
/// directory lies below this process's root.
pub fn cwd_is_reachable() -> Result<bool, Errno> {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length are the buffer's own.
    check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(buffer.first() == Some(&b'/'))
}

/// umask(2). Returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: always succeeds, no pointers.
    unsafe { libc::umask(mask) }
}
