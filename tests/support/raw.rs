//! A connection to the recorder in whose hands every byte and descriptor is, and payloads that are nobody's but the test's.

use super::recorder::Recorder;
use super::{Guard, World, text};
use bailey::audit::record::{Action, Record};
use bailey::audit::wire::{self, Hello, Launch, Message, NEWEST, Packet};
use bailey::request::LaunchId;
use bailey::sys::{pidfd, socket as sys};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kinds of namespaces, as a tree hands them over.
pub const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"];

/// A raw connection.
pub struct Raw {
    pub fd: OwnedFd,
    pub serial: u32,
}

impl Raw {
    /// Connects and says nothing.
    pub fn new(path: &Path) -> Self {
        Self::try_new(path).unwrap()
    }

    pub fn try_new(path: &Path) -> nix::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(60))?;
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(60))?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { fd, serial: 0 })
    }

    /// Connects and is welcomed.
    pub fn greeted(path: &Path) -> Self {
        let mut raw = Self::new(path);
        let welcome = raw.ask(&hello(), &[]);
        assert!(matches!(welcome, Some(Message::Welcome(_))), "{welcome:?}");
        raw
    }

    /// Sends bytes as they are.
    pub fn bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let raw: Vec<i32> = fds.iter().map(BorrowedFd::as_raw_fd).collect();
        sys::send(self.fd.as_fd(), bytes, &raw)
    }

    /// Sends a body of any kind with a header that fits.
    pub fn body(&mut self, kind: u16, body: &[u8]) -> nix::Result<()> {
        self.serial += 1;
        self.bytes(&packet(NEWEST, kind, self.serial, body), &[])
    }

    pub fn say(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        self.serial += 1;
        self.bytes(&wire::encode(NEWEST, self.serial, message).unwrap(), fds)
    }

    /// The next message; `None` when the recorder closed the connection.
    pub fn hear(&self) -> Option<Packet> {
        let mut buffer = vec![0; wire::MAX_PACKET];
        match sys::receive(self.fd.as_fd(), &mut buffer) {
            Ok(received) if received.length == 0 => None,
            Ok(received) => {
                Some(wire::decode(&buffer[..received.length]).expect("the recorder speaks its protocol"))
            }
            Err(nix::errno::Errno::ECONNRESET | nix::errno::Errno::EPIPE) => None,
            Err(errno) => panic!("no answer: {errno}"),
        }
    }

    /// Sends and takes the answer.
    pub fn ask(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Option<Message> {
        self.say(message, fds).ok()?;
        self.hear().map(|packet| packet.message)
    }

    /// The words of the refusal that the message gets.
    pub fn refused(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> String {
        words(self.ask(message, fds))
    }
}

/// A refusal in words, with its code.
pub fn words(answer: Option<Message>) -> String {
    match answer {
        Some(Message::Refused(refused)) => {
            format!("{}: {}: {}; {}", refused.code, refused.what, refused.why, refused.next)
        }
        other => panic!("no refusal but {other:?}"),
    }
}

pub fn hello() -> Message {
    Message::Hello(Hello { oldest: 1, newest: NEWEST, program: "hostile".into() })
}

/// A packet with this header.
pub fn packet(version: u16, kind: u16, serial: u32, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32;
    let header =
        [&version.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes(), &serial.to_le_bytes()];
    [b"BLY1", &header.concat()[..], body].concat()
}

/// A fresh launch id.
pub fn fresh_id() -> LaunchId {
    let mut random = [0; 10];
    bailey::sys::process::random_bytes(&mut random).unwrap();
    LaunchId::from_parts(bailey::audit::Timestamp::now().unix_millis(), random)
}

/// The program tests/tools/tree.c.
pub fn tree_program(world: &World) -> PathBuf {
    let program = world.path("tree");
    if !program.exists() {
        let source = world.file("tree.c", include_str!("../tools/tree.c"));
        let output = world.command("gcc").arg("-O1").arg("-o").args([&program, &source]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    program
}

/// Runs it with a socket as its descriptor 3, and gives our end.
pub fn tree(world: &World, args: &[&str]) -> (Guard, OwnedFd) {
    let (ours, theirs) = sys::pair().unwrap();
    let mut command: Command = world.command(tree_program(world));
    command.args(args).envs(std::env::var_os("BAILEY_TEST_FUSE").map(|device| ("BAILEY_TEST_FUSE", device)));
    // A shell moves the descriptor to its place: the standard library has no way to.
    let number = theirs.as_raw_fd();
    nix::fcntl::fcntl(&theirs, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let redirect = if number == 3 { String::new() } else { format!("3<&{number} {number}<&-") };
    let mut shell = super::behind("bash", &["-c", &format!("exec \"$@\" {redirect}"), "bash"], &command);
    let child = Guard(shell.spawn().unwrap());
    (child, ours)
}

/// An init and frozen payloads whose launcher is this process.
pub struct Tree {
    pub init: OwnedFd,
    pub namespaces: Vec<OwnedFd>,
    pub payloads: Vec<OwnedFd>,
}

impl Tree {
    pub fn new(world: &World, count: usize) -> Self {
        let (mut child, ours) = tree(world, &["payloads", &count.to_string()]);
        let take = || sys::receive(ours.as_fd(), &mut [0; 16]).unwrap().fds;
        let mut first = take();
        assert_eq!(first.len(), 8, "no tree");
        let namespaces = first.split_off(1);
        let payloads = (0..count).map(|_| take().remove(0)).collect();
        child.0.wait().unwrap();
        Self { init: first.remove(0), namespaces, payloads }
    }

    /// The descriptors of a launch of one of its payloads.
    pub fn fds(&self, number: usize) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.payloads[number].as_fd(), self.init.as_fd()];
        fds.extend(self.namespaces.iter().map(OwnedFd::as_fd));
        fds
    }

    /// Ends one payload.
    pub fn kill(&self, number: usize) {
        pidfd::send_signal(self.payloads[number].as_fd(), libc::SIGKILL).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = pidfd::send_signal(self.init.as_fd(), libc::SIGKILL);
        let pid = nix::sys::wait::Id::PIDFd(self.init.as_fd());
        let _ = nix::sys::wait::waitid(pid, nix::sys::wait::WaitPidFlag::WEXITED);
    }
}

/// A launch message with a record that claims nothing.
pub fn launch_of(id: LaunchId) -> Message {
    launch_with(id, Record::new(Action::PayloadLaunch, id))
}

pub fn launch_with(id: LaunchId, record: Record) -> Message {
    Message::Launch(Launch {
        id: id.to_string(),
        nested: false,
        namespaces: KINDS.map(ToOwned::to_owned).to_vec(),
        record: Box::new(record),
    })
}

/// What a recorder is like at rest: its descriptors. See [`assert_unharmed`](Recorder::assert_unharmed).
impl Recorder {
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub fn rss_kib(&self) -> u64 {
        let rss = super::proc_status(self.pid(), "VmRSS:").expect("the recorder lives");
        rss.split(' ').next().unwrap().parse().unwrap()
    }
}
