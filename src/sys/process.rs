//! What a process does to itself: prctl(2), capset(2), sessions, signals, limits, descriptors, exec and exit.

use super::{Errno, check};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> Result<libc::c_int, Errno> {
    // SAFETY: every option used in this file takes plain integers, but PR_GET_PDEATHSIG and
    // PR_GET_CHILD_SUBREAPER, whose callers pass the address of one.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, 0, 0) })).map(|v| v as libc::c_int)
}

/// PR_SET_DUMPABLE 0: no ptrace, no core, `/proc/self` belongs to root.
pub fn set_undumpable() -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// No supplementary groups, these ids as real, effective and saved ones, and dumpable again, which a change of uid ends.
/// By the raw calls: glibc's would tell threads that are not there, and locks for it.
pub fn become_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    let none: *const libc::gid_t = std::ptr::null();
    // SAFETY: a list of no groups is never read; the others take plain integers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0, none))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    prctl(libc::PR_SET_DUMPABLE, 1, 0).map(drop)
}

/// PR_SET_PDEATHSIG: SIGKILL when the parent thread ends. Cleared by later uid changes, so it comes after the id map. Read back
/// at once: the error is EPERM when it is not there.
pub fn die_with_parent() -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0)?;
    let mut signal: libc::c_int = 0;
    prctl(libc::PR_GET_PDEATHSIG, &raw mut signal as libc::c_ulong, 0)?;
    if signal == libc::SIGKILL { Ok(()) } else { Err(Errno::EPERM) }
}

/// Clears the whole capability bounding set: drops one number after the other until the kernel knows no more. A set has 64.
pub fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
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

/// PR_GET_NO_NEW_PRIVS.
pub fn has_no_new_privs() -> Result<bool, Errno> {
    prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0).map(|value| value == 1)
}

/// PR_GET_DUMPABLE: 0 is [`set_undumpable`]'s.
pub fn dumpable() -> Result<libc::c_int, Errno> {
    prctl(libc::PR_GET_DUMPABLE, 0, 0)
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

/// capset(2) of nothing in all three sets. That it worked is read back by [`capabilities`].
pub fn drop_capabilities() -> Result<(), Errno> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let data = [CapData::default(); 2];
    // SAFETY: header and data are the version 3 structures (two data elements), valid for the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// capget(2): what is in any of the three sets, one bit for each capability.
pub fn capabilities() -> Result<u64, Errno> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // What the kernel did not write reads as everything.
    let all = CapData { effective: u32::MAX, permitted: u32::MAX, inheritable: u32::MAX };
    let mut data = [all; 2];
    // SAFETY: header and data are the version 3 structures (two data elements), valid for the call and written to by it.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let [low, high] = data.map(|set| u64::from(set.effective | set.permitted | set.inheritable));
    Ok(low | high << 32)
}

/// getresuid(2), getresgid(2): uid and gid as this namespace numbers them, or `u32::MAX` where real, effective and saved ones
/// are not the same.
pub fn ids() -> Result<(u32, u32), Errno> {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: three places for ids, which outlive the call.
    check(libc::c_long::from(unsafe { libc::getresuid(real, effective, saved) }))?;
    let [real, effective, saved] = &mut gids;
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::getresgid(real, effective, saved) }))?;
    let one = |[real, effective, saved]: [u32; 3]| {
        if real == effective && real == saved { real } else { u32::MAX }
    };
    Ok((one(uids), one(gids)))
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

/// What [`reset_personality`] left; asking changes nothing.
pub fn personality() -> Result<u32, Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::personality(0xffff_ffff) })).map(|value| value as u32)
}

/// getsid(2) of this process.
pub fn session() -> Result<i32, Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::getsid(0) })).map(|session| session as i32)
}

/// kill(2) with signal 0: may this process signal that one?
pub fn may_signal(pid: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::kill(pid, 0) })).map(drop)
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

/// The set of signals that this process blocks; bit 0 is signal 1.
pub fn blocked_signals() -> Result<u64, Errno> {
    let mut blocked = u64::MAX;
    // SAFETY: a null new set changes nothing; the old one is written to `blocked`, which has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            std::ptr::null::<u64>(),
            &raw mut blocked,
            size_of::<u64>(),
        )
    })
    .map(|_| blocked)
}

/// A limit of setrlimit(2) that is lowered and never raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// `RLIMIT_*`
    pub resource: libc::c_int,
    /// The most, soft and hard. What is lower already stays.
    pub most: u64,
}

impl Ceiling {
    /// Soft and hard limit as they are.
    pub fn now(&self) -> Result<(u64, u64), Errno> {
        let mut now = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a null new limit changes nothing; `now` is valid for the call.
        check(libc::c_long::from(unsafe {
            libc::prlimit(0, self.resource as _, std::ptr::null(), &raw mut now)
        }))?;
        Ok((now.rlim_cur, now.rlim_max))
    }

    /// Lowers it.
    pub fn set(&self) -> Result<(), Errno> {
        let (soft, hard) = if self.most == 0 { (0, 0) } else { self.now()? };
        let new = libc::rlimit { rlim_cur: soft.min(self.most), rlim_max: hard.min(self.most) };
        // SAFETY: `new` is valid for the call; the old limit is not asked for.
        check(libc::c_long::from(unsafe {
            libc::prlimit(0, self.resource as _, &raw const new, std::ptr::null_mut())
        }))
        .map(drop)
    }
}

/// Gives back what the launcher may have inherited of the CPU's and the disk's attention: a real-time policy becomes the
/// ordinary one, a real-time class for the disk best effort, the timer slack the kernel's default. Policies that take less
/// (batch, idle), nice and affinity are the slot's and stay.
pub fn give_back_priority() -> Result<(), Errno> {
    // <linux/ioprio.h>
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_RT: libc::c_long = 1;
    const IOPRIO_BEST_EFFORT_4: libc::c_int = 2 << 13 | 4;
    const DEFAULT_TIMER_SLACK_NS: libc::c_ulong = 50_000;
    // SAFETY: no pointers.
    let policy = check(libc::c_long::from(unsafe { libc::sched_getscheduler(0) }))? as libc::c_int;
    if is_real_time(policy & !libc::SCHED_RESET_ON_FORK) {
        let ordinary = libc::sched_param { sched_priority: 0 };
        // SAFETY: `ordinary` is valid for the call.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
        check(libc::c_long::from(set))?;
    }
    // SAFETY: no pointers.
    let class = match check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }) {
        Err(Errno::ENOSYS) => 0, // a kernel without disks
        other => other?,
    };
    if class >> 13 == IOPRIO_CLASS_RT {
        // SAFETY: no pointers.
        check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_BEST_EFFORT_4) })?;
    }
    prctl(libc::PR_SET_TIMERSLACK, DEFAULT_TIMER_SLACK_NS, 0).map(drop)
}

/// Is this policy one that goes before every ordinary process?
pub const fn is_real_time(policy: libc::c_int) -> bool {
    /// sched(7); the libc crate has it not everywhere.
    const SCHED_DEADLINE: libc::c_int = 6;
    matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR | SCHED_DEADLINE)
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

/// fcntl(2), F_DUPFD: a copy above the standard streams, that an execve leaves open.
pub fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let copy = check(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 3) }))?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// fcntl(2), F_GETFD: whether the next execve closes it.
pub fn closes_on_exec(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: no pointers.
    let flags = check(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }))?;
    Ok(flags & libc::c_long::from(libc::FD_CLOEXEC) != 0)
}

/// Everything from `first` on closes at the execve: close_range(2) with `CLOSE_RANGE_CLOEXEC`, where the kernel has no such flag
/// (before 5.11: `EINVAL`) one by one.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: changes a flag only.
    match check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }) {
        Err(Errno::EINVAL) => close_on_exec_one_by_one(first),
        result => result.map(drop),
    }
}

/// The same for each descriptor that /proc/self/fd names.
fn close_on_exec_one_by_one(first: RawFd) -> Result<(), Errno> {
    /// The fixed part of `struct linux_dirent64` (getdents64(2)); the name follows. Its length stands at byte 16.
    const HEAD: usize = 19;
    let list = super::fs::open_at(super::fs::cwd(), c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut buffer = [0_u8; 2048];
    loop {
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let filled = check(unsafe {
            libc::syscall(libc::SYS_getdents64, list.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        })?;
        let mut rest = buffer.get(..filled as usize).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some(&[low, high]) = rest.get(16..18) {
            let (entry, next) =
                rest.split_at_checked(usize::from(u16::from_ne_bytes([low, high]))).ok_or(Errno::EIO)?;
            let name = entry.get(HEAD..).unwrap_or_default().split(|byte| *byte == 0).next();
            // "." and ".." are no numbers.
            let number = name.and_then(|name| std::str::from_utf8(name).ok()?.parse::<RawFd>().ok());
            if let Some(fd) = number.filter(|fd| *fd >= first) {
                // SAFETY: changes a flag only.
                check(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }))?;
            }
            rest = next;
        }
    }
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

/// waitpid(-1) without waiting: a child that ended, if there is one.
///
/// # Errors
/// ECHILD: there are no children.
pub fn reap_ended() -> Result<Option<Reaped>, Errno> {
    let mut status = 0;
    let flags = libc::__WALL | libc::WNOHANG;
    // SAFETY: `status` is valid for the call.
    let pid = check(libc::c_long::from(unsafe { libc::waitpid(-1, &raw mut status, flags) }))?;
    Ok((pid > 0).then_some(Reaped { pid: pid as i32, status }))
}

/// SIGKILL to a child that was not waited for yet, and before that to its process group, if that is of another session than
/// the caller's.
pub fn kill_child(pid: i32) {
    // SAFETY: no pointers. A child that is a zombie has its number still; ESRCH is as good as success.
    unsafe {
        let (session, group) = (libc::getsid(pid), libc::getpgid(pid));
        if session > 1 && group > 1 && session != libc::getsid(0) {
            libc::kill(-group, libc::SIGKILL);
        }
        libc::kill(pid, libc::SIGKILL);
    }
}

/// Sleeps. Does not allocate.
pub fn pause_ms(milliseconds: i32) {
    // SAFETY: no descriptors, so the pointer is not read.
    unsafe { libc::poll(std::ptr::null_mut(), 0, milliseconds) };
}

/// PR_SET_CHILD_SUBREAPER: descendants that lose their parent become this process's children. Read back: the error is EPERM
/// when it is not so.
pub fn become_subreaper() -> Result<(), Errno> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    let mut is: libc::c_int = 0;
    prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut is as libc::c_ulong, 0)?;
    if is == 1 { Ok(()) } else { Err(Errno::EPERM) }
}

/// Takes [`die_with_parent`] back.
pub fn outlive_parent() -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, 0, 0).map(drop)
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

/// sethostname(2), in the UTS namespace that this process is in.
pub fn set_hostname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: pointer and length are the string's own.
    check(libc::c_long::from(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) })).map(drop)
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
