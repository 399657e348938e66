//! One question to the recorder over its socket, and its answer: what `ps`, `stop`, `drain` and `trace` share.
//!
//! 1. Blocking, with a limit of time on every step: an administrator's command never hangs on a recorder that does.
//! 2. The recorder's "no" comes back as the failure that it describes, so a caller sees only the answers that it asked for.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::audit::wire::{self, Hello, Message, Welcome};
use crate::failure::{Failure, errno_text};
use crate::sys::socket as raw;

/// How long one step may take unless [`Ask::set_timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the recorder, past its greeting.
#[derive(Debug)]
pub struct Ask {
    fd: OwnedFd,
    path: PathBuf,
    serial: u32,
    welcome: Welcome,
    buffer: Vec<u8>,
}

impl Ask {
    /// Connects to the recorder that listens at `path`, and greets it.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        Self::connect_within(path, TIMEOUT)
    }

    /// [`Ask::connect`] with another limit of time for every step.
    pub fn connect_within(path: &Path, timeout: Duration) -> Result<Self, Failure> {
        Self::greet(dial(path, timeout)?, path)
    }

    /// Connects without greeting.
    pub fn open(path: &Path, timeout: Duration) -> Result<Self, Failure> {
        Ok(Self::over(dial(path, timeout)?, path))
    }

    fn over(fd: OwnedFd, path: &Path) -> Self {
        Self {
            fd,
            path: path.to_owned(),
            serial: 0,
            welcome: Welcome {
                version: wire::NEWEST,
                writer: String::new(),
                draining: None,
                health: false,
                early: false,
            },
            buffer: vec![0; wire::MAX_PACKET],
        }
    }

    fn greet(fd: OwnedFd, path: &Path) -> Result<Self, Failure> {
        let mut ask = Self::over(fd, path);
        let hello = Hello {
            oldest: wire::OLDEST,
            newest: wire::NEWEST,
            program: concat!("bailey-admin ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        match ask.ask(&Message::Hello(hello))? {
            Message::Welcome(welcome) if (wire::OLDEST..=wire::NEWEST).contains(&welcome.version) => {
                ask.welcome = welcome;
                Ok(ask)
            }
            other => Err(ask.unexpected(&other)),
        }
    }

    /// How long each step may take from now on.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), Failure> {
        limit(&self.fd, timeout).map_err(|errno| unreachable("set up a connection to", &self.path, errno))
    }

    /// How the recorder greeted.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Sends a message and waits for the first message of the answer. A refusal comes back as its failure.
    pub fn ask(&mut self, message: &Message) -> Result<Message, Failure> {
        self.serial = self.serial.wrapping_add(1);
        let packet = wire::encode(self.welcome.version, self.serial, message)?;
        raw::send(self.fd.as_fd(), &packet, &[])
            .map_err(|errno| unreachable("send a question to", &self.path, errno))?;
        self.more()
    }

    /// Waits for the next message of the answer, where it has several (`Rows`).
    pub fn more(&mut self) -> Result<Message, Failure> {
        loop {
            let received = raw::receive(self.fd.as_fd(), &mut self.buffer)
                .map_err(|errno| unreachable("hear from", &self.path, errno))?;
            if received.length == 0 {
                return Err(Failure::site(
                    format!("cannot hear from the recorder at {}", self.path.display()),
                    "it closed the connection",
                    "look at its journal (journalctl -u bailey-recorder)",
                ));
            }
            let packet = self.buffer.get(..received.length).unwrap_or_default();
            match wire::decode(packet) {
                Ok(packet) if packet.serial != self.serial => {} // the rest of an earlier answer
                Ok(packet) => {
                    return match packet.message {
                        Message::Refused(refused) => Err(refused.into_failure()),
                        message => Ok(message),
                    };
                }
                Err((_, malformed)) => {
                    return Err(Failure::site(
                        format!("cannot understand the recorder at {}", self.path.display()),
                        format!("its message is malformed: {malformed}"),
                        "compare bailey-recorder --version with bailey --version",
                    ));
                }
            }
        }
    }

    /// The failure for an answer that does not fit the question.
    pub fn unexpected(&self, answer: &Message) -> Failure {
        Failure::site(
            format!("cannot understand the recorder at {}", self.path.display()),
            format!("it answered with {}, which does not fit the question", answer.name()),
            "compare bailey-recorder --version with bailey --version",
        )
    }
}

fn dial(path: &Path, timeout: Duration) -> Result<OwnedFd, Failure> {
    let wrong = |errno| unreachable("connect to", path, errno);
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(wrong)?;
    limit(&fd, timeout).map_err(wrong)?;
    let address = UnixAddr::new(path).map_err(wrong)?;
    connect(fd.as_raw_fd(), &address).map_err(wrong)?;
    Ok(fd)
}

fn limit(fd: &OwnedFd, timeout: Duration) -> Result<(), Errno> {
    let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1); // 0 would be for ever
    let value = TimeVal::milliseconds(millis);
    setsockopt(fd, sockopt::ReceiveTimeout, &value)?;
    setsockopt(fd, sockopt::SendTimeout, &value) // unix(7): connect(2) obeys it too
}

fn unreachable(verb: &str, path: &Path, errno: Errno) -> Failure {
    let (why, next) = match errno {
        Errno::EAGAIN => {
            ("it did not answer in time".to_owned(), "look at its journal (journalctl -u bailey-recorder)")
        }
        Errno::ENOENT | Errno::ECONNREFUSED => (
            errno_text(errno),
            "start it (systemctl start bailey-recorder.socket), or name its socket in audit.socket",
        ),
        Errno::EACCES => (errno_text(errno), "ask as a user who may connect to the socket"),
        _ => (errno_text(errno), "check audit.socket in /etc/bailey/bailey.toml"),
    };
    Failure::site(format!("cannot {verb} the recorder at {}", path.display()), why, next)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::audit::wire::{Done, Query, Refused, decode, encode};
    use crate::sys::socket::pair;

    /// A recorder that answers each message with what `answer` makes of it and its serial number.
    fn recorder(
        answer: impl Fn(u32, Message) -> Vec<Vec<u8>> + Send + 'static,
    ) -> (OwnedFd, thread::JoinHandle<()>) {
        let (ours, theirs) = pair().unwrap();
        limit(&ours, Duration::from_secs(5)).unwrap();
        let server = thread::spawn(move || {
            let mut buffer = vec![0; wire::MAX_PACKET];
            while let Ok(received) = raw::receive(theirs.as_fd(), &mut buffer) {
                if received.length == 0 {
                    return;
                }
                let packet = decode(&buffer[..received.length]).unwrap();
                for packet in answer(packet.serial, packet.message) {
                    raw::send(theirs.as_fd(), &packet, &[]).unwrap();
                }
            }
        });
        (ours, server)
    }

    fn welcome() -> Message {
        Message::Welcome(Welcome {
            version: wire::NEWEST,
            writer: "w".into(),
            draining: Some("moving".into()),
            health: false,
            early: false,
        })
    }

    fn query() -> Message {
        Message::Query(Query { text: "--at now".into(), matches: 1 })
    }

    #[test]
    fn questions_are_answered_refused_or_misunderstood() {
        let (fd, server) = recorder(|serial, message| {
            let packet = |message| encode(wire::NEWEST, serial, &message).unwrap();
            match message {
                Message::Hello(_) => vec![packet(welcome())],
                Message::Query(_) => {
                    let late = encode(wire::NEWEST, serial - 1, &welcome()).unwrap();
                    vec![late, packet(Message::Done(Done::default())), packet(query())]
                }
                Message::Ps(_) => {
                    let no = Failure::refused("cannot list", "you may not", "ask root");
                    vec![packet(Message::Refused(Refused::of(&no)))]
                }
                _ => vec![b"nonsense".to_vec()],
            }
        });
        let path = Path::new("/run/test");
        let mut ask = Ask::greet(fd, path).unwrap();
        assert_eq!(ask.welcome().draining.as_deref(), Some("moving"));
        assert_eq!(ask.ask(&query()).unwrap(), Message::Done(Done::default()));
        assert_eq!(ask.more().unwrap(), query(), "the second message of the answer");
        let failure = ask.ask(&Message::Ps(Done::default())).unwrap_err();
        assert_eq!((failure.code.exit_code(), failure.why.as_str()), (120, "you may not"));
        let failure = ask.ask(&Message::Done(Done::default())).unwrap_err();
        assert!(failure.why.contains("malformed"), "{failure}");
        drop(ask);
        server.join().unwrap();
    }

    #[test]
    fn silence_and_absence_are_failures_that_name_the_socket() {
        let (fd, server) = recorder(|_, _| Vec::new());
        limit(&fd, Duration::from_millis(20)).unwrap();
        let failure = Ask::greet(fd, Path::new("/run/test")).unwrap_err();
        assert!(failure.why.contains("in time") && failure.what.contains("/run/test"), "{failure}");
        server.join().unwrap();
        let failure = Ask::connect(Path::new("/nonexistent/socket")).unwrap_err();
        assert!(failure.why.contains("ENOENT") && failure.next.contains("audit.socket"), "{failure}");
    }
}
