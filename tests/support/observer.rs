//! The recorder's side of the tests of what it observes: a socket, and what a launcher of tests/support/launcher.c sent.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::support::World;
use bailey::failure::Failure;
use bailey::recorder::observe::{self, Digests, Handed, Observed, Peer};
use bailey::sys::socket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The order in which launcher.c sends namespace files.
pub const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

pub fn kinds(kinds: &[&str]) -> Vec<String> {
    kinds.iter().map(|kind| (*kind).to_owned()).collect()
}

pub struct Listener {
    pub path: PathBuf,
    fd: OwnedFd,
}

impl Listener {
    pub fn new(path: &Path) -> Self {
        let fd =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
                .unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&fd, Backlog::new(16).unwrap()).unwrap();
        Self { path: path.to_owned(), fd }
    }

    /// The next connection, in time.
    pub fn accept(&self) -> OwnedFd {
        wait(&self.fd);
        let socket = socket::accept(self.fd.as_fd()).unwrap();
        wait(&socket);
        socket
    }
}

fn wait(fd: &OwnedFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap(), 1, "nothing came");
}

/// A launcher that connected and handed over its descriptors.
pub struct Met {
    pub child: Child,
    pub peer: Peer,
    /// As /proc numbers it.
    pub payload_pid: i32,
    /// As the launcher numbers it.
    pub init_pid: i32,
    pub fds: Vec<OwnedFd>,
    pub socket: OwnedFd,
}

impl Met {
    /// Starts `command SOCKET LIE...`, which connects.
    pub fn new(listener: &Listener, mut command: Command, lie: &[&str]) -> Self {
        command.arg(&listener.path).args(lie);
        let child = command.spawn().unwrap();
        let socket = listener.accept();
        let peer = Peer::look(socket.as_fd(), None, false).unwrap();
        let mut buffer = [0; 256];
        let received = socket::receive(socket.as_fd(), &mut buffer).unwrap();
        assert!(!received.truncated && received.length > 0, "the launcher failed");
        let text = std::str::from_utf8(&buffer[..received.length - 1]).unwrap();
        let (payload_pid, init_pid) = text.split_once(' ').unwrap();
        Self {
            child,
            peer,
            payload_pid: payload_pid.parse().unwrap(),
            init_pid: init_pid.parse().unwrap(),
            fds: received.fds,
            socket,
        }
    }

    pub fn sort(&mut self, kinds: &[&str]) -> Result<Handed, Failure> {
        Handed::sort(std::mem::take(&mut self.fds), &self::kinds(kinds)).map_err(|(failure, _)| failure)
    }

    pub fn observe(&mut self) -> Result<Observed, Failure> {
        let handed = self.sort(&KINDS)?;
        observe::payload(&self.peer, &handed, &mut Vec::new())
    }
}

impl Drop for Met {
    fn drop(&mut self) {
        // Its end of the conversation: it takes everything down with it.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// A world with a listening socket and the program that connects to it.
pub struct Bench {
    pub world: World,
    pub listener: Listener,
    pub program: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
        let world = World::new();
        let bytes = PROGRAM.get_or_init(|| fs::read(compile(&world.dir)).unwrap());
        let program = world.dir.join("hostile");
        fs::write(&program, bytes).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let listener = Listener::new(&world.path("socket"));
        Self { world, listener, program }
    }

    pub fn command(&self) -> Command {
        let mut command = self.world.command(&self.program);
        command.env("TMPDIR", &self.world.dir);
        if let Some(device) = std::env::var_os("BAILEY_TEST_FUSE") {
            command.env("BAILEY_TEST_FUSE", device);
        }
        command
    }

    pub fn meet(&self, lie: &[&str]) -> Met {
        Met::new(&self.listener, self.command(), lie)
    }

    /// The launcher's lie is refused in words that hold all of these.
    pub fn refused(&self, lie: &str, words: &[&str]) {
        let failure = self.meet(&[lie]).observe().expect_err(lie).to_string();
        for word in words {
            assert!(failure.contains(word), "{lie}: {failure}");
        }
    }
}

/// The first `count` answers, or fewer after that time.
pub fn results(
    digests: &Digests,
    count: usize,
    within: Duration,
) -> Vec<(u64, Result<observe::Program, String>)> {
    let deadline = Instant::now() + within;
    let mut found = Vec::new();
    while found.len() < count && Instant::now() < deadline {
        let mut fds = [PollFd::new(digests.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(50_u8));
        found.extend(digests.results());
    }
    found
}

pub fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Compiles launcher.c into the directory.
pub fn compile(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("launcher.c"), dir.join("launcher"));
    fs::write(&source, include_str!("launcher.c")).unwrap();
    let output = Command::new("gcc").args(["-static", "-O1", "-o"]).args([&program, &source]).output();
    let output = output.expect("gcc is missing: run tests/setup.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}
