//! What runs between the clone and the execve: init (pid 1 of the sandbox) and the payload that it starts.
//!
//! 1. Every function here MUST end in `_exit` or execve, and MUST NOT allocate, panic or touch the launcher's objects.
//! 2. The order below is the design. Each step says why it stands where it stands; `docs/architecture.md` has the table.
//! 3. Nothing is handed on: whatever fails is reported with its place and errno, and the whole tree ends.
#![forbid(unsafe_code)]

use super::protocol::{BEHIND, Ended, Held, Message, Ready, Stage, Trouble};
use super::seccomp::QUESTION;
use super::streams::Inside;
use super::{Blueprint, build, landlock, orphans};
use crate::cgroup::MOST_DOORS;
use crate::config::Demand;
use crate::sys::clone::Stack;
use crate::sys::{Errno, argv, clone, fs, keyring, memory, process, seccomp, socket, terminal};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The kinds of namespace under /proc/self/ns, in the order in which they are sent up.
pub const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];
const NAMESPACE_FILES: [&CStr; 7] = [
    c"/proc/self/ns/user",
    c"/proc/self/ns/mnt",
    c"/proc/self/ns/pid",
    c"/proc/self/ns/ipc",
    c"/proc/self/ns/uts",
    c"/proc/self/ns/net",
    c"/proc/self/ns/cgroup",
];

/// Limits of our own user namespace on further namespaces, user_namespaces(7). Without a user namespace a payload cannot get
/// the capability that the others need, so the first is the wall; the two through which most kernel bugs are reached are
/// zeroed beside it, 3 µs each.
const LIMIT_FILES: [&CStr; 3] = [
    c"/proc/sys/user/max_user_namespaces",
    c"/proc/sys/user/max_mnt_namespaces",
    c"/proc/sys/user/max_net_namespaces",
];

/// Milliseconds after which a payload counts as one that runs for long.
const SETTLED_MS: i32 = 100;

/// How the program is opened that was a regular file a moment ago: nothing here waits for a FIFO or takes a terminal.
const TO_READ: libc::c_int = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Exit code of a child that reported its trouble; nobody reads it.
const REPORTED: i32 = 1;

fn at<T>(stage: Stage, index: usize, result: Result<T, Errno>) -> Result<T, Trouble> {
    result.map_err(|errno| Trouble { stage, index: index as u32, errno })
}

/// init: `control` is its end of the launcher's socket, `gate` the end that the payload will use.
/// `streams`: what takes the place of the pilot's standard streams.
pub(super) fn init(
    plan: &Blueprint,
    stack: &mut Stack,
    control: &OwnedFd,
    gate: &OwnedFd,
    streams: Option<&Inside>,
) -> ! {
    let (ready, io) = match set_up(plan, control.as_fd(), gate.as_fd(), streams) {
        Ok(done) => done,
        Err(trouble) => give_up(control.as_fd(), trouble),
    };
    if !plan.has_own_pids()
        && let Err(trouble) = lead_orphans()
    {
        give_up(control.as_fd(), trouble);
    }
    // The payload's process is as this one now is: no capability, no way back to the host's files.
    let run = || -> () { payload(plan, gate.as_fd(), streams, ready) };
    match clone::spawn_sharing_memory(stack, &run) {
        Ok(pid) => reap(pid, plan.has_own_pids(), control.as_fd(), gate, io),
        Err(errno) => give_up(control.as_fd(), Trouble { stage: Stage::Fork, index: 0, errno }),
    }
}

/// Without a pid namespace the kernel ends nobody with this process. So it does that itself, when the launcher's end of its
/// socket is gone: it must outlive the launcher for that, and be the parent of all orphans.
fn lead_orphans() -> Result<(), Trouble> {
    at(Stage::ParentDeath, 1, process::become_subreaper())?;
    // The payload, which is not yet let go, looks at its own socket.
    at(Stage::ParentDeath, 2, process::outlive_parent())
}

fn give_up(to: BorrowedFd<'_>, trouble: Trouble) -> ! {
    // If the launcher is gone there is nobody to tell, and PDEATHSIG or the end of the socket ends us anyway.
    let _ = socket::send(to, &Message::Failed(trouble).encode(), &[]);
    process::exit_now(REPORTED)
}

/// Returns what is known for the report, and init's own I/O counters where the kernel keeps such.
fn set_up(
    plan: &Blueprint,
    control: BorrowedFd<'_>,
    gate: BorrowedFd<'_>,
    streams: Option<&Inside>,
) -> Result<(Ready, Option<OwnedFd>), Trouble> {
    // Before anything else, so that no process in here ever holds the pilot's own.
    for (number, stream) in streams.into_iter().flat_map(|inside| &inside.ends).enumerate() {
        if let Some(stream) = stream {
            at(Stage::Descriptors, 2, process::duplicate_to(stream.as_fd(), number as RawFd))?;
        }
    }

    // First of all the launcher's descriptors go: its ends of the sockets (ours would otherwise hide their end-of-file), its
    // log and locks, and whatever the pilot left open. What is opened from here on is close-on-exec.
    // What holds a lent uid stays open, too: the lock is free when the last of this pid namespace is gone.
    let hold = plan.hold.as_ref().map_or(gate.as_raw_fd(), AsRawFd::as_raw_fd);
    at(Stage::Descriptors, 0, keep_only([control.as_raw_fd(), gate.as_raw_fd(), hold]))?;

    // The id map, while /proc/self is still ours to write: undumpable processes may not (EACCES). setgroups is denied
    // before gid_map, as the kernel demands of the unprivileged (user_namespaces(7)).
    if plan.lease.is_some() {
        wait_for_maps(plan, control)?;
    } else {
        at(Stage::IdMap, 0, write_file(c"/proc/self/setgroups", b"deny"))?;
        at(Stage::IdMap, 1, write_file(c"/proc/self/uid_map", plan.uid_map.as_bytes()))?;
        at(Stage::IdMap, 2, write_file(c"/proc/self/gid_map", plan.gid_map.as_bytes()))?;
    }

    // The limits are opened while the host's /proc is in view, but set only after the last mount: a limit of zero mount
    // namespaces makes open_tree and fsmount fail, because a detached mount counts as one.
    // Where an outer container keeps them read-only, the root directory forbids namespaces in their place.
    let (limits, no_limits) = if plan.forbid_nesting { open_limits()? } else { (Limits::default(), 0) };

    // Likewise the counters that are read at the end, after reaping: an undumpable process may not open its own.
    let io = fs::open_at(fs::cwd(), c"/proc/self/io", libc::O_RDONLY, 0).ok();

    // And the score, which an undumpable process may not write either.
    let oom_score_adj = at(Stage::OomScore, 0, raise_oom_score(plan.oom_score_adj))?;

    // From here on no process of the same uid can ptrace, read or core-dump us (S3 in docs/threat-model.md).
    at(Stage::Undumpable, 0, process::set_undumpable())?;

    // After the last change of uid, which would clear it. getppid() proves nothing in a new pid namespace, so what tells
    // whether the launcher died before the request was in place is the end of its socket.
    at(Stage::ParentDeath, 0, process::die_with_parent())?;
    if socket::peer_is_gone(control) {
        process::exit_now(REPORTED);
    }

    send_namespaces(control)?;
    if plan.loopback {
        at(Stage::Loopback, 0, process::raise_loopback())?;
    }
    if let Some(name) = &plan.hostname {
        at(Stage::Hostname, 0, process::set_hostname(name))?;
    }

    fs::set_umask(0);
    let below_root = no_limits != 0;
    let how = build::How { proc: plan.proc, proc_attr: plan.proc_attr, below_root };
    let proc = build::build(&plan.tree, how)?;

    // After the last mount, before the capability that allows it goes.
    for (index, limit) in limits.iter().flatten().enumerate() {
        at(Stage::ForbidNesting, index, fs::write_all(limit.as_fd(), b"0"))?;
    }
    drop(limits);

    // The payload is born where this process is.
    let groups = if plan.moved_late { enter_groups(control) } else { 0 };

    let (keyring, joined) = match (plan.keyring, plan.keyring != Demand::Off) {
        (_, false) => (-1, 0),
        (demand, true) => match keyring::join_new_session() {
            Ok(serial) => (0, serial),
            Err(errno) if demand == Demand::Preferred => (errno as i32, 0),
            Err(errno) => return Err(Trouble { stage: Stage::Keyring, index: 0, errno }),
        },
    };
    for (index, ceiling) in plan.ceilings.iter().enumerate() {
        at(Stage::Ceilings, index, ceiling.set())?;
    }
    at(Stage::Priority, 0, process::give_back_priority())?;
    fs::set_umask(plan.umask);
    process::reset_signals();
    at(Stage::Personality, 0, process::reset_personality())?;

    // Bounding set and securebits need CAP_SETPCAP, so the effective set goes last; no_new_privs needs nothing.
    at(Stage::Capabilities, 0, process::drop_bounding_set())?;
    at(Stage::Securebits, 0, process::lock_securebits())?;
    at(Stage::Capabilities, 1, process::clear_ambient())?;
    at(Stage::Capabilities, 2, process::drop_capabilities())?;
    at(Stage::NoNewPrivs, 0, process::set_no_new_privs())?;

    // /proc/1/cmdline is readable by the payload; the pilot's command line is none of its business.
    argv::set_title(&plan.title);
    let held = Held { joined, oom_score_adj, ..Held::default() };
    Ok((Ready { keyring, held, proc, limits: no_limits, groups, ..Ready::default() }, io))
}

/// A subordinate uid: the launcher has newuidmap(1) write the maps, and says when. Then this process becomes that uid. The
/// launcher's groups go now, because setgroups cannot be denied once a map is written; without a capability nobody can set any.
fn wait_for_maps(plan: &Blueprint, control: BorrowedFd<'_>) -> Result<(), Trouble> {
    wait_for_word(control);
    at(Stage::IdMap, 3, process::become_ids(plan.ids.0, plan.ids.1))
}

/// Waits until the launcher says that something was done from outside.
fn wait_for_word(control: BorrowedFd<'_>) {
    let mut word = [0_u8; 1];
    if socket::receive_plain(control, &mut word) != Ok(1) {
        process::exit_now(REPORTED); // the launcher died, or could not do it and says so itself
    }
}

/// Goes into each control group of which the launcher sends a door (`tasks` of a group v1), and returns the first errno. A thread
/// that moves itself, and itself alone, is all that the kernel moves without stopping every fork and exit of the host for a
/// moment, which costs milliseconds (`cgroup_procs_write_start()` in kernel/cgroup/cgroup.c, Linux 5.4).
fn enter_groups(control: BorrowedFd<'_>) -> i32 {
    let mut doors: [Option<OwnedFd>; MOST_DOORS] = Default::default();
    let mut word = [0_u8; 1];
    if socket::receive_files(control, &mut word, &mut doors) != Ok(1) {
        process::exit_now(REPORTED); // as in `wait_for_word`
    }
    let entered = doors.iter().flatten().try_for_each(|door| fs::write_all(door.as_fd(), b"0"));
    entered.err().map_or(0, |errno| errno as i32)
}

/// Closes everything above standard error but these.
fn keep_only(mut keep: [RawFd; 3]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        process::close_range(next, fd - 1)?;
        next = fd + 1;
    }
    process::close_range(next, RawFd::MAX)
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = fs::open_at(fs::cwd(), path, libc::O_WRONLY, 0)?;
    fs::write_all(file.as_fd(), text)
}

/// Raises this process's oom_score_adj to `least`; what is higher already stays. Returns what it is then; every process of the
/// payload inherits it.
fn raise_oom_score(least: i32) -> Result<i32, Errno> {
    if least <= 0 {
        return Ok(0);
    }
    let file = fs::open_at(fs::cwd(), c"/proc/self/oom_score_adj", libc::O_RDWR, 0)?;
    let now = || {
        let mut text = [0_u8; 16];
        let length = fs::read_from_start(file.as_fd(), &mut text)?;
        let now = text.get(..length).and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
        Ok(now.unwrap_or(i32::MIN))
    };
    let before = now()?;
    if before >= least {
        return Ok(before);
    }
    // Decimal digits, by hand, because nothing here may allocate; and no zero in front, which would make them octal.
    let mut digits = [0_u8; 10];
    let mut start = digits.len();
    let mut rest = least as u32;
    while rest > 0 {
        start -= 1;
        if let Some(digit) = digits.get_mut(start) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
    }
    fs::write_all(file.as_fd(), digits.get(start..).unwrap_or_default())?;
    now()
}

type Limits = [Option<OwnedFd>; LIMIT_FILES.len()];

/// Opens the limit files that this kernel has. Where the one for user namespaces may not be written, or is not there, there are
/// none, and the errno says why.
fn open_limits() -> Result<(Limits, i32), Trouble> {
    let mut limits = Limits::default();
    for (index, (slot, path)) in limits.iter_mut().zip(LIMIT_FILES).enumerate() {
        match fs::open_at(fs::cwd(), path, libc::O_WRONLY, 0) {
            Ok(file) => *slot = Some(file),
            Err(Errno::ENOENT) if index > 0 => {}
            Err(errno @ (Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ENOENT)) if index == 0 => {
                return Ok((Limits::default(), errno as i32));
            }
            Err(errno) => {
                return Err(Trouble { stage: Stage::Limits, index: index as u32, errno });
            }
        }
    }
    Ok((limits, 0))
}

/// Sends our own namespace files: nobody else may open them once we are undumpable, not even the same uid.
fn send_namespaces(control: BorrowedFd<'_>) -> Result<(), Trouble> {
    let mut files: [Option<OwnedFd>; 7] = Default::default();
    let mut numbers = [-1 as RawFd; 7];
    for (index, ((slot, number), path)) in files.iter_mut().zip(&mut numbers).zip(NAMESPACE_FILES).enumerate()
    {
        let file = at(Stage::Namespaces, index, fs::open_following(path, libc::O_RDONLY))?;
        *number = file.as_raw_fd();
        *slot = Some(file);
    }
    at(Stage::Namespaces, 7, socket::send(control, &Message::Namespaces.encode(), &numbers))
}

/// The payload's process: last preparations, report, wait for the release, execve. It still lives in init's memory, so what it
/// changes there it changes for init: nothing but its own stack.
fn payload(plan: &Blueprint, gate: BorrowedFd<'_>, streams: Option<&Inside>, ready: Ready) -> ! {
    let (ready, shown) = match prepare_payload(plan, gate, streams, ready) {
        Ok(ready) => ready,
        Err(trouble) => give_up(gate, trouble),
    };
    let send = |fds: &[RawFd]| socket::send(gate, &Message::Ready(ready).encode(), fds);
    let sent = match (&shown.master, &shown.program) {
        (None, None) => send(&[]),
        (Some(one), None) | (None, Some(one)) => send(&[one.as_raw_fd()]),
        (Some(master), Some(program)) => send(&[master.as_raw_fd(), program.as_raw_fd()]),
    };
    if sent.is_err() {
        process::exit_now(REPORTED);
    }
    drop(shown);
    // Frozen. Only the launcher's one byte goes on from here; the end of the socket means that it died.
    let mut release = [0_u8; 1];
    if socket::receive_plain(gate, &mut release) != Ok(1) {
        process::exit_now(REPORTED);
    }
    let errno = match plan.commands.get(ready.command as usize) {
        Some(path) => process::execute(path, &plan.argv, &plan.envp),
        None => Errno::ENOENT,
    };
    give_up(gate, Trouble { stage: Stage::Exec, index: ready.command, errno })
}

fn prepare_payload(
    plan: &Blueprint,
    gate: BorrowedFd<'_>,
    streams: Option<&Inside>,
    ready: Ready,
) -> Result<(Ready, Shown), Trouble> {
    // A session of its own: no controlling terminal to type into, and the pilot's kill(0) does not reach it.
    at(Stage::Session, 0, process::new_session())?;
    let master = match streams.filter(|inside| inside.has_terminal()) {
        Some(inside) => Some(make_terminal(inside)?),
        None => None,
    };
    // One that would stay open shows whether what is said of all of them was done.
    let probe = at(Stage::Descriptors, 1, process::duplicate(gate))?;
    at(Stage::Descriptors, 1, process::close_on_exec_from(3))?;
    let closes = at(Stage::Descriptors, 1, process::closes_on_exec(probe.as_fd()))?;
    drop(probe);

    // After the last mount, which its file-system rules would forbid.
    let landlock = landlock::restrict(&plan.landlock)?;

    let ready = Ready { held: Held { closes, ..ready.held }, ..ready };
    let held = at(Stage::ReadBack, 0, read_back(plan, ready.held, landlock))?;
    let securebits = at(Stage::ReadBack, 1, process::securebits())? as u32;
    if plan.forbid_nesting && !at(Stage::ReadBack, 2, process::user_namespaces_are_forbidden())? {
        // All capabilities and no_new_privs do not stop it; only the limit does, so it is tried.
        return Err(Trouble { stage: Stage::ReadBack, index: 3, errno: Errno::EPERM });
    }
    let command = find_command(&plan.commands)?;
    if let Some(behind) = &plan.behind {
        find_command(std::slice::from_ref(behind)).map_err(|trouble| Trouble { index: BEHIND, ..trouble })?;
    }
    // As the payload will see it, links and mounts and all. One that may be executed and not read has no digest.
    let program = match plan.commands.get(command as usize) {
        Some(path) if plan.show_program => fs::open_following(path, TO_READ).ok(),
        _ => None,
    };
    let vpid = process::pid();
    // Last of all: from here on only what the filter lets through, which is what the way to the execve needs.
    let seccomp = set_filter(plan)?;
    Ok((Ready { command, securebits, vpid, seccomp, held, landlock, ..ready }, Shown { master, program }))
}

/// What goes to the launcher with the report.
struct Shown {
    /// Of the payload's terminal.
    master: Option<OwnedFd>,
    /// What it will execute, to be read.
    program: Option<OwnedFd>,
}

/// A terminal of the payload's own devpts on its standard streams, with the pilot's nowhere in sight: a shell needs one to hold
/// and to continue jobs. Its master is the launcher's.
fn make_terminal(inside: &Inside) -> Result<OwnedFd, Trouble> {
    let (master, own) = at(Stage::Session, 1, terminal::open())?;
    for (number, on_terminal) in inside.on_terminal.iter().enumerate() {
        if *on_terminal {
            at(Stage::Session, 2, process::duplicate_to(own.as_fd(), number as RawFd))?;
        }
    }
    at(Stage::Session, 3, terminal::control_by_stdin())?;
    Ok(master)
}

/// The filter of system calls, and a question to it that only this filter answers in this way.
fn set_filter(plan: &Blueprint) -> Result<i32, Trouble> {
    let Some(filter) = plan.seccomp else { return Ok(-1) };
    match seccomp::set_filter(filter.code) {
        Err(errno) if plan.seccomp_demand == Demand::Preferred => return Ok(errno as i32),
        result => at(Stage::Seccomp, 0, result)?,
    }
    if seccomp::ask(QUESTION) == filter.signature {
        return Ok(0);
    }
    Err(Trouble { stage: Stage::Seccomp, index: 1, errno: Errno::EPERM })
}

/// What the kernel shows this process of itself. The launcher compares it with what was to be: here it is only read. No file of
/// /proc is needed, so it works on every host.
fn read_back(plan: &Blueprint, held: Held, landlock: landlock::Granted) -> Result<Held, Errno> {
    let mut above = 0;
    for (index, ceiling) in plan.ceilings.iter().enumerate() {
        let (_, hard) = ceiling.now()?;
        above |= u32::from(hard > ceiling.most) << index;
    }
    Ok(Held {
        no_new_privs: process::has_no_new_privs()?,
        dumpable: process::dumpable()?,
        capabilities: process::capabilities()?,
        // Asking for it means to set it.
        umask: fs::set_umask(plan.umask),
        blocked: process::blocked_signals()?,
        personality: process::personality()?,
        session: process::session()?,
        keyring: if held.joined == 0 { 0 } else { keyring::session()? },
        above,
        landlock: landlock::holds(landlock),
        ids: process::ids()?,
        ..held
    })
}

/// The first of the prepared paths that is a regular file which may be executed, as execvp(3) would choose. EACCES is
/// remembered: a file that exists but may not be executed is told from one that does not exist.
fn find_command(commands: &[std::ffi::CString]) -> Result<u32, Trouble> {
    let mut errno = Errno::ENOENT;
    let mut index_of = 0;
    for (index, path) in commands.iter().enumerate() {
        let why = match fs::mode_of(path) {
            Ok(mode) if mode & libc::S_IFMT == libc::S_IFDIR => Errno::EISDIR,
            Ok(mode) if mode & libc::S_IFMT != libc::S_IFREG => Errno::EACCES,
            Ok(_) => match fs::may_execute(path) {
                Ok(()) => return Ok(index as u32),
                Err(why) => why,
            },
            Err(why) => why,
        };
        if !matches!(why, Errno::ENOENT | Errno::ENOTDIR) {
            (errno, index_of) = (why, index);
        } else if errno == Errno::ENOENT && why == Errno::ENOTDIR && commands.len() == 1 {
            errno = why;
        }
    }
    Err(Trouble { stage: Stage::Command, index: index_of as u32, errno })
}

/// init's life: reap whatever becomes an orphan until the payload's own process ends; then end everything else, tell the
/// launcher how it went, and go. No signal handlers: signals for the payload come from the supervisor, by pidfd.
fn reap(payload: i32, own_pids: bool, control: BorrowedFd<'_>, gate: &OwnedFd, io: Option<OwnedFd>) -> ! {
    // Our copies of the payload's socket and streams would keep their ends open: whoever reads the payload's output must
    // see its end when the payload closes it.
    let _ = process::close_range(gate.as_raw_fd(), gate.as_raw_fd());
    let _ = process::close_range(0, 2);
    // A payload that is still there after this time will be for long, and this process then only waits.
    if !process::ends_within(payload, SETTLED_MS) {
        memory::drop_unused_stack();
        memory::drop_own_file_pages();
    }
    let status = if own_pids { wait(payload) } else { orphans::wait(payload, control) };
    // The kernel would kill the rest when we exit; doing it here lets the last ones count in the usage.
    if own_pids {
        process::kill_everything_else();
        while process::wait_any().is_ok() {}
    } else {
        orphans::end();
    }
    let Some(status) = status else { process::exit_now(REPORTED) };
    let mut ended = Ended {
        status,
        usage: process::usage_of_children(),
        read_chars: u64::MAX,
        write_chars: u64::MAX,
        read_bytes: u64::MAX,
        write_bytes: u64::MAX,
    };
    if let Some(io) = io {
        let mut text = [0_u8; 512];
        if let Ok(length) = fs::read_full(io.as_fd(), &mut text) {
            read_io(text.get(..length).unwrap_or_default(), &mut ended);
        }
    }
    let _ = socket::send(control, &Message::Ended(ended).encode(), &[]);
    process::exit_now(0)
}

/// Reaps until the payload ended: its wait status.
fn wait(payload: i32) -> Option<i32> {
    loop {
        match process::wait_any() {
            Ok(reaped) if reaped.pid == payload => return Some(reaped.status),
            Ok(_) => {}
            // Our only way to lose the payload is a kernel that has no child of ours: say so by ending.
            Err(_) => return None,
        }
    }
}

/// The lines of proc_pid_io(5) that the record keeps.
fn read_io(text: &[u8], ended: &mut Ended) {
    for line in text.split(|b| *b == b'\n') {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let number = value
            .iter()
            .filter(|b| b.is_ascii_digit())
            .fold(0_u64, |sum, b| sum.wrapping_mul(10).wrapping_add(u64::from(*b - b'0')));
        match name {
            b"rchar" => ended.read_chars = number,
            b"wchar" => ended.write_chars = number,
            b"read_bytes" => ended.read_bytes = number,
            b"write_bytes" => ended.write_bytes = number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_counters_are_read() {
        let mut ended = Ended { read_chars: u64::MAX, write_bytes: u64::MAX, ..Ended::default() };
        read_io(
            b"rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nread_bytes: 0\nwrite_bytes: 4096\n",
            &mut ended,
        );
        assert_eq!((ended.read_chars, ended.write_chars), (323_934_931, 323_929_600));
        assert_eq!((ended.read_bytes, ended.write_bytes), (0, 4096));
    }
}
