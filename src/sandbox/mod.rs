//! The walls: namespaces, file system, capabilities, and the frozen payload behind them.
//!
//! [`Blueprint`] → [`Building`] → [`Frozen`] → [`Running`]: each step consumes the one before it. Everything that the child
//! needs is in the blueprint before the clone. The only way from `Frozen` to `Running` takes a [`Receipt`] of the durable
//! record by value; dropping any of them ends the whole tree.
#![forbid(unsafe_code)]

mod build;
mod child;
pub mod environment;
pub mod explain;
pub mod landlock;
pub mod layout;
mod mountinfo;
pub mod observe;
mod older;
pub mod orphans;
pub mod protocol;
pub mod seccomp;
mod streams;
mod terminal;
pub mod tree;

pub use child::NAMESPACES;
pub use streams::Relay;

use crate::audit::Receipt;
use crate::cgroup::cpuset::CpuSet;
use crate::cgroup::{self, Group, Planned, Words};
use crate::config::Demand;
use crate::failure::{Failure, errno_text, io_text};
use crate::request::{LaunchId, Stdio};
use crate::sys::clone::{Side, Stack};
use crate::sys::process::{Ceiling, ExecArrays, Usage};
use crate::sys::{Errno, clone, fs, pidfd, process, socket};
use crate::uids::Lease;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Message, Ready, SIZE};
use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::{Outside, Pipes};
use terminal::Window;

/// How long the set-up may take: autofs and FUSE may have to fetch something first, but a launch never hangs for ever.
const SET_UP_DEADLINE: Duration = Duration::from_secs(60);

/// Everything that the child needs, made before the clone.
pub struct Blueprint {
    /// The launch that this is.
    pub id: LaunchId,
    /// The file system.
    pub tree: tree::Tree,
    /// What holds a uid that was lent: init keeps it open too, so that the uid is not lent again before the last process of
    /// the payload is gone.
    pub hold: Option<Arc<File>>,
    /// The subordinate uid, where the payload has one. Its maps are made from outside then, not by these lines.
    pub lease: Option<Lease>,
    /// uid and gid inside.
    pub ids: (u32, u32),
    /// Line for /proc/self/uid_map: one id, onto itself.
    pub uid_map: CString,
    /// Line for /proc/self/gid_map.
    pub gid_map: CString,
    /// Its control group, if it can have one of its own.
    pub cgroup: Option<Planned>,
    /// Whether that is a must.
    pub cgroup_mode: Demand,
    /// What it may use.
    pub limits: cgroup::Limits,
    /// The cores that it is bound to, also where a control group holds it to them.
    pub cores: Option<CpuSet>,
    /// init waits until it was moved into its groups, because no clone led there (v1).
    pub moved_late: bool,
    /// `CLONE_NEW*` flags.
    pub namespaces: libc::c_int,
    /// Write 0 to the namespace limits of the new user namespace.
    pub forbid_nesting: bool,
    /// Whether a session keyring of its own is a must.
    pub keyring: Demand,
    /// Which system calls it may make, if there is a filter, and whether that is a must.
    pub seccomp: Option<&'static seccomp::Filter>,
    /// See `seccomp`.
    pub seccomp_demand: Demand,
    /// What the Landlock domain is to forbid.
    pub landlock: landlock::Wanted,
    /// Limits that the payload never goes above.
    pub ceilings: Vec<Ceiling>,
    /// The least oom_score_adj; 0 leaves it alone.
    pub oom_score_adj: i32,
    /// Raise the loopback device: the network namespace is new.
    pub loopback: bool,
    /// The host name, where it is not to be the host's.
    pub hostname: Option<CString>,
    /// What its standard streams are.
    pub stdio: Stdio,
    /// They are a terminal of its own, which the pilot's is behind.
    pub terminal: bool,
    /// umask of the payload.
    pub umask: u32,
    /// Whether a proc of its own is a must; `Off` shows the outer one.
    pub proc: Demand,
    /// `MOUNT_ATTR_*` atime flags with which the host's /proc is mounted; a new proc must carry them.
    pub proc_attr: u64,
    /// Paths to try for the command, in order.
    pub commands: Vec<CString>,
    /// What the image's shell executes in the end, where that is named by its path: what cannot be executed is found before the
    /// shell runs.
    pub behind: Option<CString>,
    /// Whether the launcher is to read what will be executed.
    pub show_program: bool,
    /// argv of the payload.
    pub argv: ExecArrays,
    /// environ of the payload.
    pub envp: ExecArrays,
    /// What /proc/1/cmdline shows inside.
    pub title: CString,
}

/// The init process. Dropping it kills everything below it and reaps.
#[derive(Debug)]
struct Init {
    pid: i32,
    pidfd: OwnedFd,
    reaped: bool,
    /// It is pid 1 of a namespace, with which the kernel ends all others in it.
    own_pids: bool,
    /// Dropped after init is reaped: what it lent is given back then.
    lease: Option<Lease>,
    /// Likewise: removed when nothing is in it any more.
    group: Option<Group>,
}

impl Init {
    fn kill(&self) {
        // ESRCH: it is a zombie already, and its namespace with it.
        let _ = pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    fn wait(&mut self) -> Result<(i32, Usage), Errno> {
        let result = process::wait_with_usage(self.pid);
        self.reaped = true;
        if self.own_pids {
            return result;
        }
        // Everything at once, where there is a group. What init left is this process's own now. It has no other children: helpers of the set-up were waited for.
        if let Some(group) = &self.group {
            group.kill();
        }
        orphans::end();
        result.map(|(status, _)| (status, process::usage_of_children()))
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// The child was cloned and builds its root. The launcher has time for other things now.
#[derive(Debug)]
pub struct Building {
    id: LaunchId,
    init: Init,
    control: OwnedFd,
    gate: OwnedFd,
    streams: Option<Outside>,
    limits: Words,
    /// Whether a control group is a must, and what it was to hold the payload to.
    without: (Demand, cgroup::Limits),
}

impl Blueprint {
    /// Does it get a pid namespace of its own?
    pub const fn has_own_pids(&self) -> bool {
        self.namespaces & libc::CLONE_NEWPID != 0
    }

    /// Clones the child into its namespaces.
    pub fn start(mut self) -> Result<(Building, Explainer), Failure> {
        let own_pids = self.has_own_pids();
        if !own_pids {
            process::become_subreaper().map_err(no_subreaper)?;
        }
        let (control, child_control) = socket::pair().map_err(no_sockets)?;
        let (gate, child_gate) = socket::pair().map_err(no_sockets)?;
        let pipes = match self.stdio {
            _ if self.terminal => Some(Pipes::terminal().map_err(|error| no_terminal(&error))?),
            Stdio::Pass => None,
            Stdio::Relay => Some(Pipes::make().map_err(|error| no_relay(&error))?),
        };
        let inside = pipes.as_ref().map(|pipes| &pipes.inside);
        let mut stack = Stack::new();
        // Before the clone if that leads into it; otherwise while the child builds its root.
        let mut late = self.cgroup.take();
        let (mut group, mut limits) = match late.take_if(|planned| !planned.place.is_late()) {
            Some(planned) => planned.make(self.id.as_str())?,
            None => (None, Words::new()),
        };
        let before = self.cores.map(bind).transpose()?;
        let cloned = match clone::clone_into(self.namespaces, group.as_ref().and_then(Group::directory)) {
            Err(errno)
                if group.is_some() && [Errno::EACCES, Errno::EBUSY, Errno::EOPNOTSUPP].contains(&errno) =>
            {
                let why = format!("no process can be made in it: {}", errno_text(errno));
                limits = cgroup::without(self.cgroup_mode, &self.limits, why)?;
                group = None;
                clone::clone_into(self.namespaces, None)
            }
            other => other,
        };
        if let Some(before) = before.filter(|_| !matches!(cloned, Ok(Side::Child))) {
            // What it was; failing that, the launcher only has fewer cores.
            let _ = before.bind_this_process();
        }
        match cloned {
            Ok(Side::Child) => child::init(&self, &mut stack, &child_control, &child_gate, inside),
            Ok(Side::Parent { pid, pidfd }) => {
                CpuSet::step_aside();
                let outside = self.lease.as_ref().map_or(self.ids, Lease::outside);
                let mut init = Init { pid, pidfd, reaped: false, own_pids, lease: self.lease, group };
                if let Some(planned) = late {
                    (init.group, limits) = planned.make(self.id.as_str())?;
                }
                let mut doors = Vec::new();
                match init.group.as_ref().map(Group::doors) {
                    Some(Ok(found)) => doors = found,
                    Some(Err(why)) => {
                        limits = cgroup::without(self.cgroup_mode, &self.limits, why)?;
                        init.group = None;
                    }
                    None => {}
                }
                if let Some(group) = init.group.as_ref().filter(|_| !self.moved_late) {
                    group.settled();
                }
                if let Some(lease) = &mut init.lease {
                    lease.admit(pid)?;
                    socket::send(control.as_fd(), b"!", &[]).map_err(lost)?; // it may go on
                }
                if self.moved_late {
                    let doors: Vec<RawFd> = doors.iter().map(AsRawFd::as_raw_fd).collect();
                    socket::send(control.as_fd(), b"!", &doors).map_err(lost)?; // likewise
                }
                let expected = observe::Expected {
                    umask: self.umask,
                    keyring: self.keyring,
                    landlock: self.landlock.demand(),
                    ceilings: self.ceilings,
                    ids: self.ids,
                    outside,
                    oom_score_adj: self.oom_score_adj,
                    own_pids,
                    proc: self.proc,
                };
                let stage = Cell::new(None);
                let (commands, behind) = (self.commands, self.behind);
                let explainer = Explainer { commands, behind, tree: self.tree, expected, stage };
                let streams = pipes.map(Pipes::outside);
                let without = (self.cgroup_mode, self.limits);
                Ok((Building { id: self.id, init, control, gate, streams, limits, without }, explainer))
            }
            Err(errno) => Err(explain::clone_failure(errno, self.namespaces)),
        }
    }
}

/// Binds this process to the cores, so that what it clones is. Returns those from before.
fn bind(cores: CpuSet) -> Result<CpuSet, Failure> {
    let bound = || {
        let before = CpuSet::of_this_process()?;
        cores.bind_this_process().map(|()| before)
    };
    bound().map_err(|errno: Errno| {
        let what = format!("cannot bind the payload to the cores {cores} (sched_setaffinity)");
        Failure::site(what, errno_text(errno), "leave out --cpuset")
    })
}

fn no_subreaper(errno: Errno) -> Failure {
    Failure::site(
        "cannot keep the payload's processes together without a pid namespace (PR_SET_CHILD_SUBREAPER)",
        errno_text(errno),
        "leave out --no-pid",
    )
}

fn no_sockets(errno: Errno) -> Failure {
    Failure::site("cannot make a socket pair", errno_text(errno), "raise the limit on open files (ulimit -n)")
}

fn no_terminal(error: &std::io::Error) -> Failure {
    Failure::site(
        "cannot make a terminal for the payload",
        io_text(error),
        "redirect standard input; then the payload gets none",
    )
}

fn no_relay(error: &std::io::Error) -> Failure {
    Failure::site(
        "cannot relay the standard streams",
        io_text(error),
        "raise the limits on open files and processes (ulimit -n, ulimit -u), or leave out --stdio relay",
    )
}

/// What the launcher keeps of the blueprint: the words for what a child reports, and which command it chose.
pub struct Explainer {
    commands: Vec<CString>,
    behind: Option<CString>,
    tree: tree::Tree,
    expected: observe::Expected,
    /// The step that failed, once one was put into words.
    stage: Cell<Option<protocol::Stage>>,
}

impl Explainer {
    /// What was to hold.
    pub const fn expected(&self) -> &observe::Expected {
        &self.expected
    }

    /// The step at which the set-up failed, if a child told one.
    pub fn failed_at(&self) -> Option<protocol::Stage> {
        self.stage.get()
    }

    /// The path that the payload will execute, inside.
    pub fn command(&self, ready: &Ready) -> String {
        self.commands
            .get(ready.command as usize)
            .map_or_else(String::new, |c| c.to_string_lossy().into_owned())
    }
}

/// The payload's process, one instruction before its execve. Nothing but [`Frozen::release`] lets it go on.
#[derive(Debug)]
pub struct Frozen {
    id: LaunchId,
    init: Init,
    control: OwnedFd,
    gate: OwnedFd,
    streams: Option<Outside>,
    pid: i32,
    pidfd: OwnedFd,
    ready: Ready,
    program: Option<OwnedFd>,
    namespaces: Vec<OwnedFd>,
    inodes: Vec<u64>,
    limits: Words,
}

impl Building {
    /// Waits until the payload is frozen; hands over its pidfd for the receipt.
    pub fn wait_frozen(mut self, explainer: &Explainer) -> Result<(Frozen, OwnedFd), Failure> {
        let deadline = Instant::now() + SET_UP_DEADLINE;
        // Two facts must come, in any order, because they come on two sockets: init's namespaces and the payload's report.
        let mut namespaces = None;
        let mut ready: Option<(Ready, i32, Option<OwnedFd>)> = None;
        loop {
            if let (Some(namespaces), Some((ready, pid, program))) = (&mut namespaces, &mut ready) {
                let (files, inodes) = std::mem::take(namespaces);
                explainer.expected.compare(ready)?;
                self.settle_in_groups(ready.groups, *pid)?;
                return self.frozen(*ready, *pid, program.take(), (files, inodes));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::site(
                    "the sandbox was not ready in time",
                    format!("the set-up took longer than {} s", SET_UP_DEADLINE.as_secs()),
                    "look for an automount or a FUSE file system that hangs",
                ));
            }
            let (on_control, on_gate) = wait_two(self.control.as_fd(), self.gate.as_fd(), left);
            // Of one side's trouble and the other side's end, the trouble explains more, so init's word comes first.
            if on_control && namespaces.is_none() {
                let (message, _, fds) = hear(&self.control)?;
                match message {
                    Some(Message::Namespaces) if fds.len() == NAMESPACES.len() => {
                        // Looked at now, while the child still builds.
                        let inode = |fd: &OwnedFd| fs::stat_at(fd.as_fd(), c"").map_or(0, |stat| stat.ino);
                        let inodes = fds.iter().map(inode).collect();
                        namespaces = Some((fds, inodes));
                    }
                    Some(Message::Failed(trouble)) => return Err(explain::trouble(trouble, explainer)),
                    _ => return Err(lost(Errno::EPIPE)),
                }
            } else if on_gate && ready.is_none() {
                let (message, pid, fds) = hear(&self.gate)?;
                let mut fds = fds.into_iter();
                match message {
                    Some(Message::Ready(report)) => {
                        if let Some(streams) = self.streams.as_mut().filter(|streams| streams.wants_master())
                        {
                            let master = fds.next().ok_or_else(|| lost(Errno::EPIPE))?;
                            streams.put_before(master).map_err(|error| no_terminal(&error))?;
                        }
                        ready = Some((report, pid, fds.next()));
                    }
                    Some(Message::Failed(trouble)) => return Err(explain::trouble(trouble, explainer)),
                    // The payload's end of the gate is also init's until the execve: its end says nothing that init does not.
                    _ => return Err(self.last_words(explainer)),
                }
            } else if on_control {
                return Err(self.last_words(explainer));
            }
        }
    }

    /// init says that it is in its control groups. Where the kernel did not let it go by itself, both are moved.
    fn settle_in_groups(&mut self, errno: i32, payload: i32) -> Result<(), Failure> {
        let Some(group) = self.init.group.as_ref().filter(|group| group.directory().is_none()) else {
            return Ok(()); // the clone led into it
        };
        let moved = || group.admit(self.init.pid).and_then(|()| group.admit(payload));
        let inside = if errno == 0 { Ok(()) } else { moved() };
        group.settled();
        if let Err(why) = inside {
            let (mode, limits) = &self.without;
            self.limits = cgroup::without(*mode, limits, why)?;
            self.init.group = None;
        }
        Ok(())
    }

    /// What init still has to say when one of the sockets ended.
    fn last_words(&self, explainer: &Explainer) -> Failure {
        match hear(&self.control) {
            Ok((Some(Message::Failed(trouble)), ..)) => explain::trouble(trouble, explainer),
            _ => lost(Errno::EPIPE),
        }
    }

    fn frozen(
        self,
        ready: Ready,
        pid: i32,
        program: Option<OwnedFd>,
        (namespaces, inodes): (Vec<OwnedFd>, Vec<u64>),
    ) -> Result<(Frozen, OwnedFd), Failure> {
        let pidfd = pidfd::open(pid).map_err(|errno| match errno {
            Errno::ENOSYS => explain::no_such_call("cannot hold the payload's process", "pidfd_open", (5, 3)),
            other => lost(other),
        })?;
        // The kernel told the pid when the message was sent. If the payload still holds its socket now that the pidfd is
        // open, it lived when that was opened, so the number was not another process's.
        if socket::peer_is_gone(self.gate.as_fd()) {
            return Err(lost(Errno::ESRCH));
        }
        let frozen = Frozen {
            id: self.id,
            init: self.init,
            control: self.control,
            gate: self.gate,
            streams: self.streams,
            pid,
            pidfd: pidfd.try_clone().map_err(|_| lost(Errno::EMFILE))?,
            ready,
            program,
            namespaces,
            inodes,
            limits: self.limits,
        };
        Ok((frozen, pidfd))
    }
}

fn lost(errno: Errno) -> Failure {
    // A message whose descriptors found no room is cut (EMSGSIZE).
    if matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::EMSGSIZE) {
        return Failure::site(
            "cannot set up the sandbox",
            errno_text(errno),
            "raise the limit on open files (ulimit -n)",
        );
    }
    Failure::site(
        "the sandbox ended before the payload was ready",
        errno_text(errno),
        "look for the out-of-memory killer in the kernel's log, then try again",
    )
}

/// One message: what it says, the sender's pid, the descriptors that came along. No message is the end of the socket.
fn hear(socket: &OwnedFd) -> Result<(Option<Message>, i32, Vec<OwnedFd>), Failure> {
    let mut bytes = [0; SIZE];
    let received = socket::receive(socket.as_fd(), &mut bytes).map_err(lost)?;
    if received.truncated {
        return Err(lost(Errno::EMSGSIZE)); // a descriptor found no room in this process
    }
    let message = Message::decode(bytes.get(..received.length).unwrap_or_default());
    Ok((message, received.pid, received.fds))
}

/// Waits for either descriptor to become readable or to end.
fn wait_two(a: BorrowedFd<'_>, b: BorrowedFd<'_>, timeout: Duration) -> (bool, bool) {
    let mut fds = [PollFd::new(a, PollFlags::POLLIN), PollFd::new(b, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut fds, timeout);
    let [a, b] = fds.map(|fd| fd.any().unwrap_or(false));
    (a, b)
}

impl Frozen {
    /// The payload's pid as this host (this process's pid namespace) numbers it.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// What it read back of itself.
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Inode numbers of its namespaces, in the order of [`NAMESPACES`], from the descriptors that it sent.
    pub fn namespace_inodes(&self) -> &[u64] {
        &self.inodes
    }

    /// Its control group, if it has one of its own.
    pub const fn group(&self) -> Option<&Group> {
        self.init.group.as_ref()
    }

    /// Which limits hold, in words.
    pub const fn limits(&self) -> &Words {
        &self.limits
    }

    /// What it will execute, if that was to be shown and can be read: a descriptor of a file that may change, and its path inside
    /// without links.
    pub fn program(&self) -> Option<(BorrowedFd<'_>, PathBuf)> {
        let program = self.program.as_ref()?;
        // The kernel names it from the root of the mount namespace in which it was opened.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", program.as_raw_fd())).ok()?;
        if self.ready.limits == 0 {
            return Some((program.as_fd(), path));
        }
        // That is not the payload's root then: `build`.
        let inside = path.strip_prefix("/").ok()?.strip_prefix(build::NEW_ROOT.to_str().ok()?).ok()?;
        Some((program.as_fd(), Path::new("/").join(inside)))
    }

    /// The namespace files themselves, for whoever must check them (the recorder).
    pub fn namespaces(&self) -> &[OwnedFd] {
        &self.namespaces
    }

    /// What the recorder is handed beside the payload's own pidfd, so that it can look for itself.
    pub fn handover(&self) -> Handover<'_> {
        let named = NAMESPACES.iter().zip(&self.namespaces);
        Handover {
            init: self.init.pidfd.as_fd(),
            namespaces: named.map(|(kind, fd)| (*kind, fd.as_fd())).collect(),
        }
    }

    /// Lets the payload execute, against the receipt of its own durable record and nothing else.
    ///
    /// # Errors
    /// A receipt of another launch, or one whose pidfd is not this payload's process: nothing is released, and both
    /// payloads end with what holds them.
    pub fn release(self, receipt: Receipt) -> Result<Running, Failure> {
        let foreign = |why: &str| {
            Failure::record("the payload was not released", why, "report this as a defect; nothing has run")
        };
        if receipt.launch() != self.id {
            return Err(foreign("the receipt belongs to another launch"));
        }
        if !pidfd::same_process(&self.pidfd, receipt.pidfd()) {
            return Err(foreign("the receipt was made out for another process"));
        }
        let window = self.streams.as_ref().and_then(Outside::window);
        let relay = self.streams.map(Outside::start).transpose().map_err(|error| no_relay(&error))?;
        socket::send(self.gate.as_fd(), b"!", &[]).map_err(lost)?;
        Ok(Running {
            relay,
            window,
            init: self.init,
            control: self.control,
            gate: Some(self.gate),
            payload: receipt.into_pidfd(),
        })
    }
}

/// Descriptors of a frozen payload, for whoever must check it.
#[derive(Debug)]
pub struct Handover<'a> {
    /// init's pidfd.
    pub init: BorrowedFd<'a>,
    /// The namespace files with their kinds, in the order of [`NAMESPACES`].
    pub namespaces: Vec<(&'static str, BorrowedFd<'a>)>,
}

/// The payload runs.
#[derive(Debug)]
pub struct Running {
    relay: Option<Relay>,
    window: Option<Window>,
    init: Init,
    control: OwnedFd,
    gate: Option<OwnedFd>,
    payload: OwnedFd,
}

/// What a child had to say, for the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// execve worked.
    Executed,
    /// execve failed: the payload never ran.
    NotExecuted(protocol::Trouble),
    /// The payload ended; init reports how.
    Ended(protocol::Ended),
    /// init is gone without a report: it was killed.
    Vanished,
}

impl Running {
    /// The descriptors to wait on: init's socket and, until the exec is decided, the payload's.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.control.as_fd(), self.gate.as_ref().map(AsFd::as_fd))
    }

    /// Reads the payload's socket, which is ready: its end means that execve worked.
    pub fn read_gate(&mut self) -> Option<News> {
        let gate = self.gate.as_ref()?;
        let mut bytes = [0; SIZE];
        let length = socket::receive(gate.as_fd(), &mut bytes).map_or(0, |received| received.length);
        self.gate = None;
        match Message::decode(bytes.get(..length).unwrap_or_default()) {
            Some(Message::Failed(trouble)) => Some(News::NotExecuted(trouble)),
            _ => Some(News::Executed),
        }
    }

    /// Reads init's socket, which is ready.
    pub fn read_control(&self) -> News {
        let mut bytes = [0; SIZE];
        let length = socket::receive(self.control.as_fd(), &mut bytes).map_or(0, |received| received.length);
        match Message::decode(bytes.get(..length).unwrap_or_default()) {
            Some(Message::Ended(ended)) => News::Ended(ended),
            _ => News::Vanished,
        }
    }

    /// The threads that carry the standard streams, where there are such.
    pub const fn take_relay(&mut self) -> Option<Relay> {
        self.relay.take()
    }

    /// Sends a signal to the payload's own process. One that is gone is no error.
    pub fn signal(&self, signal: i32) {
        if let Some(window) = self.window.as_ref().filter(|_| signal == libc::SIGWINCH) {
            window.follow(); // the kernel tells who is in the foreground there
            return;
        }
        let _ = pidfd::send_signal(self.payload.as_fd(), signal);
    }

    /// init's pid on this host. It is reaped by this process alone, so the number is not another's as long as this value is.
    pub const fn init_pid(&self) -> i32 {
        self.init.pid
    }

    /// The pid of the payload's own process on this host, as long as it is not reaped.
    pub fn payload_pid(&self) -> Option<i32> {
        pidfd::pid_of(self.payload.as_fd()).filter(|pid| *pid > 0)
    }

    /// Its control group, if it has one of its own.
    pub const fn group(&self) -> Option<&Group> {
        self.init.group.as_ref()
    }

    /// Kills init, and with it its pid namespace. Without one [`Self::reap`] kills the rest.
    pub fn kill_all(&self) {
        self.init.kill();
        if let Some(group) = &self.init.group {
            group.kill_at_once(); // also where there is no such namespace
        }
    }

    /// Reaps init when everything ended or is ending, and ends what is left where it has no pid namespace; the usage of the whole tree, init's own set-up included.
    pub fn reap(mut self) -> Usage {
        self.init.wait().map(|(_, usage)| usage).unwrap_or_default()
    }
}
