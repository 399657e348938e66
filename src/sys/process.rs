//! What a process does to itself: prctl(2), capset(2), sessions, signals, limits, descriptors, exec and exit.

use super::{Errno, check};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> Result<libc::c_int, Errno> {
    // SAFETY: every option used in this file takes plain integers.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, 0, 0) })).map(|v| v as libc::c_int)
}

/// PR_SET_DUMPABLE 0: no ptrace, no core, `/proc/self` belongs to root.
pub fn set_undumpable() -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// PR_SET_PDEATHSIG: SIGKILL when the parent thread ends. Cleared by later uid changes, so it comes after the id map.
pub fn die_with_parent() -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0).map(drop)
}

/// Clears the whole capability bounding set: drops one number after the other until the kernel knows no more.
pub fn drop_bounding_set() -> Result<(), Errno> {
    let mut capability = 0;
    loop {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => capability += 1,
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and their locks, and KEEP_CAPS locked off (capabilities(7)).
pub const SECUREBITS: libc::c_int = 0b1110_1111;

/// Sets and locks [`SECUREBITS`]. Needs CAP_SETPCAP, so it comes before the capabilities go.
pub fn lock_securebits() -> Result<(), Errno> {
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS as libc::c_ulong, 0).map(drop)
}

/// PR_GET_SECUREBITS.
pub fn securebits() -> Result<libc::c_int, Errno> {
    prctl(libc::PR_GET_SECUREBITS, 0, 0)
}

/// PR_CAP_AMBIENT_CLEAR_ALL.
pub fn clear_ambient() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// PR_SET_NO_NEW_PRIVS.
pub fn set_no_new_privs() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// capset(2) of nothing in all three sets, then capget(2): the error is EPERM when anything is left.
pub fn drop_capabilities() -> Result<(), Errno> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and data are the version 3 structures (two data elements), valid for the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    // SAFETY: as above, written to by the kernel.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    if data == [CapData::default(); 2] { Ok(()) } else { Err(Errno::EPERM) }
}

/// personality(PER_LINUX): undoes ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC and the rest.
pub fn reset_personality() -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::personality(0) })).map(drop)
}

/// dup2(2): `number` becomes a copy of `fd`, without close-on-exec.
pub fn duplicate_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers. Only numbers 0 to 2 are given, which no object of this program owns.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })).map(drop)
}

/// setsid(2).
pub fn new_session() -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::setsid() })).map(drop)
}

/// Tries to make a user namespace: true when the limit (`ENOSPC`) or a filter (`EPERM`) forbids it, false when it worked. Any
/// other failure proves nothing and is the error. A process that succeeds is ended by its caller.
pub fn user_namespaces_are_forbidden() -> Result<bool, Errno> {
    // SAFETY: no pointers.
    match check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) }) {
        Ok(_) => Ok(false),
        Err(Errno::ENOSPC | Errno::EPERM) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// The default action for every signal, and none blocked. SIGKILL and SIGSTOP cannot be changed; that error is expected.
pub fn reset_signals() {
    /// `struct sigaction` as the kernel has it on x86-64, aarch64 and riscv64 (the raw call, which also reaches the two
    /// numbers that glibc hides, 32 and 33).
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let action = KernelAction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    let empty: u64 = 0;
    for signal in 1..=64 {
        // SAFETY: `action` is a kernel sigaction with the default handler, so no code can ever be called through it.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                std::ptr::null_mut::<KernelAction>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: an 8-byte signal set, valid for the call; cannot fail with these arguments (rt_sigprocmask(2)).
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// RLIMIT_CORE to zero, soft and hard: no core file with a credential in it.
pub fn forbid_core_files() -> Result<(), Errno> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is valid for the call.
    check(libc::c_long::from(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })).map(drop)
}

/// close_range(2): closes descriptors `first..=last`. An empty range is no error.
pub fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: closing a descriptor that some OwnedFd of this process still names is sound only because the caller is a
    // freshly cloned child that never touches those again and ends in `_exit`, which runs no destructor.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC` from `first` on: everything there closes at the execve.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: changes a flag only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// The argument and environment arrays of an execve(2), made before the clone.
pub struct ExecArrays {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl ExecArrays {
    /// Takes the strings; the pointers stay valid as long as the value lives.
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { _strings: strings, pointers }
    }
}

/// execve(2). Returns only when it failed.
pub fn execute(path: &CStr, argv: &ExecArrays, envp: &ExecArrays) -> Errno {
    // SAFETY: NUL-terminated path; both arrays end in null and point into strings that they own.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    Errno::last()
}

/// `_exit(2)`: no destructors, no atexit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// A reaped child: its pid and its raw wait status.
#[derive(Debug, Clone, Copy)]
pub struct Reaped {
    /// Pid, as the caller sees it.
    pub pid: i32,
    /// Status for `WIFEXITED` and friends.
    pub status: i32,
}

/// waitpid(-1): any child, blocking; retries EINTR.
pub fn wait_any() -> Result<Reaped, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for the call.
        match check(libc::c_long::from(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) })) {
            Ok(pid) => {
                return Ok(Reaped { pid: pid as i32, status });
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits for a child's end, so many milliseconds at most, without reaping it; true when it ended. Does not allocate.
pub fn ends_within(pid: i32, milliseconds: i32) -> bool {
    let Ok(pidfd) = super::pidfd::open(pid) else { return false };
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, valid for the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
}

/// What getrusage(2) and wait4(2) tell, in the units of the audit record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User CPU time, microseconds.
    pub cpu_user_us: u64,
    /// System CPU time, microseconds.
    pub cpu_system_us: u64,
    /// Peak resident set of the largest single process, bytes.
    pub memory_peak_bytes: u64,
    /// Major page faults.
    pub page_faults_major: u64,
}

impl Usage {
    const fn of(raw: &libc::rusage) -> Self {
        const fn micros(time: libc::timeval) -> u64 {
            time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64
        }
        Self {
            cpu_user_us: micros(raw.ru_utime),
            cpu_system_us: micros(raw.ru_stime),
            memory_peak_bytes: raw.ru_maxrss as u64 * 1024,
            page_faults_major: raw.ru_majflt as u64,
        }
    }
}

/// getrusage(2), RUSAGE_CHILDREN: what all reaped descendants used.
pub fn usage_of_children() -> Usage {
    // SAFETY: all-zero is a valid rusage, which the kernel fills; the call cannot fail with these arguments.
    let raw = unsafe {
        let mut raw: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut raw);
        raw
    };
    Usage::of(&raw)
}

/// wait4(2) for one child, blocking: its status and the usage of it and of all that it reaped.
pub fn wait_with_usage(pid: i32) -> Result<(i32, Usage), Errno> {
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage.
    let mut raw: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are valid for the call.
        match check(libc::c_long::from(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut raw) })) {
            Ok(_) => return Ok((status, Usage::of(&raw))),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// kill(-1, SIGKILL): from pid 1 of a namespace, everything else in it.
pub fn kill_everything_else() {
    // SAFETY: no pointers. ESRCH (nobody left) is as good as success.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// getpid(2).
pub fn pid() -> i32 {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() }
}

/// Brings the loopback device of a fresh network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn raise_loopback() -> Result<(), Errno> {
    // SAFETY: plain integers.
    let socket = check(libc::c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))? as RawFd;
    // SAFETY: an all-zero ifreq is valid; name and flags are set before use.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is an ifreq, valid for the call.
    let result =
        check(libc::c_long::from(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request) }));
    // SAFETY: `socket` was opened above and is not used again.
    unsafe { libc::close(socket) };
    result.map(drop)
}

/// getrandom(2).
pub fn random_bytes(buffer: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length are the buffer's own.
    let got = check(unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) } as libc::c_long)?;
    if got as usize == buffer.len() { Ok(()) } else { Err(Errno::EIO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_stay_valid_wherever_they_go() {
        let strings = ["a", "", "KEY=value"];
        let arrays = ExecArrays::new(strings.iter().map(|text| CString::new(*text).unwrap()).collect());
        let moved = Box::new(arrays);
        let (last, pointers) = moved.pointers.split_last().unwrap();
        assert!(last.is_null());
        for (pointer, text) in pointers.iter().zip(strings) {
            // SAFETY: NUL-terminated, and owned by `moved`.
            assert_eq!(unsafe { CStr::from_ptr(*pointer) }.to_str(), Ok(text));
        }
        assert_eq!(ExecArrays::new(Vec::new()).pointers, [std::ptr::null()]);
    }

    #[test]
    fn usage_has_the_units_of_the_record() {
        // SAFETY: all-zero is a valid rusage.
        let mut raw: libc::rusage = unsafe { std::mem::zeroed() };
        (raw.ru_utime.tv_sec, raw.ru_utime.tv_usec, raw.ru_stime.tv_usec) = (3, 4, 5);
        (raw.ru_maxrss, raw.ru_majflt) = (6, 7);
        let usage =
            Usage { cpu_user_us: 3_000_004, cpu_system_us: 5, memory_peak_bytes: 6144, page_faults_major: 7 };
        assert_eq!(Usage::of(&raw), usage);
        assert_eq!(
            (SECUREBITS & 0b0001_0000, SECUREBITS & 0b0010_0000),
            (0, 0b0010_0000),
            "KEEP_CAPS off and locked"
        );
    }

    #[test]
    fn an_empty_range_closes_nothing() {
        assert_eq!(close_range(9, 8), Ok(()));
    }
}
