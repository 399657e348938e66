//! A launcher that comes back to its recorder: the supervisor, whose loop this is, is never kept waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bailey::audit::client::{Client, Order};
use bailey::audit::record::{Action, Record, StopBy};
use bailey::audit::wire::{self, Done, Message, Obeyed, Packet, Receipt, Refused, Stop, Welcome};
use bailey::failure::Failure;
use bailey::request::LaunchId;
use bailey::sys::socket as sys;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A recorder that does only what it is told to.
struct Fake {
    path: PathBuf,
    listener: OwnedFd,
    line: Option<OwnedFd>,
    /// It says that it takes payloads before their launches.
    early: bool,
}

impl Fake {
    /// A client that got its receipt from here.
    fn launched(&mut self, id: LaunchId) -> Client {
        let path = self.path.clone();
        let launcher = std::thread::spawn(move || {
            let mut client = Client::open(&path, Duration::from_secs(10), true).unwrap();
            let init = null();
            let record = Record::new(Action::PayloadLaunch, id);
            drop(client.launch(&record, id, false, null(), init.as_fd(), &[]).unwrap());
            client
        });
        self.accept();
        let (serial, launch) = self.next();
        assert!(matches!(launch, Message::Launch(_)), "{launch:?}");
        self.say(serial, &Message::Receipt(Receipt { id: id.to_string(), seq: 7, hash: "ab".repeat(32) }));
        launcher.join().unwrap()
    }

    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bailey-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(8).unwrap()).unwrap();
        Self { path, listener, line: None, early: false }
    }

    /// Takes a connection and answers its hello.
    fn accept(&mut self) {
        self.line = Some(sys::accept(self.listener.as_fd()).unwrap());
        let (serial, hello) = self.next();
        assert!(matches!(hello, Message::Hello(_)), "{hello:?}");
        let welcome =
            Welcome { version: 1, writer: "fake".into(), draining: None, health: false, early: self.early };
        self.say(serial, &Message::Welcome(welcome));
    }

    fn next(&self) -> (u32, Message) {
        let line = self.line.as_ref().unwrap();
        let mut buffer = vec![0; wire::MAX_PACKET];
        let start = Instant::now();
        loop {
            match sys::receive(line.as_fd(), &mut buffer) {
                Ok(received) => {
                    let Packet { serial, message, .. } = wire::decode(&buffer[..received.length]).unwrap();
                    return (serial, message);
                }
                Err(nix::errno::Errno::EAGAIN) if start.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    fn say(&self, serial: u32, message: &Message) {
        let packet = wire::encode(1, serial, message).unwrap();
        sys::send(self.line.as_ref().unwrap().as_fd(), &packet, &[]).unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the supervisor does, for so long: each turn is short.
fn turns(client: &mut Client, length: Duration) -> Vec<Order> {
    let start = Instant::now();
    let mut orders = Vec::new();
    while start.elapsed() < length {
        let begin = Instant::now();
        orders.extend(client.orders());
        assert!(begin.elapsed() < Duration::from_millis(200), "the supervisor waited {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    orders
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn a_recorder_that_does_not_answer_keeps_no_supervisor_waiting() {
    let id = LaunchId::from_parts(1, [2; 10]);
    let mut fake = Fake::new("back");
    let mut client = fake.launched(id);
    client.obeyed(id, true, None);
    assert!(matches!(fake.next().1, Message::Obeyed(_)));

    // It dies. The socket stays, as systemd's does, and nobody serves it.
    fake.line = None;
    assert_eq!(turns(&mut client, Duration::from_millis(1500)), []);

    // Another one begins to serve, and hangs after its welcome.
    fake.accept();
    assert_eq!(turns(&mut client, Duration::from_millis(500)), []);
    let (serial, resume) = fake.next();
    assert!(matches!(&resume, Message::Resume(resume) if resume.seq == 7), "{resume:?}");
    assert_eq!(turns(&mut client, Duration::from_millis(1500)), []);

    // It goes on, and has an order. What became of the one before is told again.
    fake.say(serial, &Message::Done(Done::default()));
    let by = StopBy::Administrator;
    let stop =
        Stop { id: id.to_string(), by, reason: "now".into(), freeze: false, preserve: false, grace_ms: None };
    fake.say(0, &Message::Stop(stop.clone()));
    assert_eq!(turns(&mut client, Duration::from_millis(200)), [Order::Stop(stop)]);
    let held = Obeyed { id: id.to_string(), held: true, within: None };
    assert_eq!(fake.next().1, Message::Obeyed(held));
}

#[test]
fn an_end_while_the_launcher_comes_back_goes_over_the_same_connection() {
    let id = LaunchId::from_parts(1, [3; 10]);
    let mut fake = Fake::new("end");
    let mut client = fake.launched(id);
    fake.line = None;
    turns(&mut client, Duration::from_millis(100)); // hello is said
    let launcher = std::thread::spawn(move || client.close(&Record::new(Action::PayloadEnd, id), id));
    fake.accept();
    let (serial, resume) = fake.next();
    assert!(matches!(resume, Message::Resume(_)), "{resume:?}");
    fake.say(serial, &Message::Done(Done::default()));
    let (serial, end) = fake.next();
    assert!(matches!(end, Message::Note(_)), "{end:?}");
    fake.say(serial, &Message::Done(Done::default()));
    launcher.join().unwrap().unwrap();
}

#[test]
fn a_refusal_for_now_is_asked_again_and_a_final_one_is_not() {
    let id = LaunchId::from_parts(1, [4; 10]);
    let mut fake = Fake::new("now");
    let mut client = fake.launched(id);
    let launcher = std::thread::spawn(move || client.close(&Record::new(Action::PayloadEnd, id), id));
    let failure = Failure::record("no room", "it is full", "wait");
    let now = Refused { retry_after_ms: Some(20), ..Refused::of(&failure) };
    for _ in 0..3 {
        let (serial, end) = fake.next();
        assert!(matches!(end, Message::Note(_)), "{end:?}");
        fake.say(serial, &Message::Refused(now.clone()));
    }
    let (serial, _) = fake.next();
    fake.say(serial, &Message::Refused(Refused::of(&failure)));
    assert_eq!(launcher.join().unwrap().unwrap_err().why, failure.why);
}

/// A launcher that hands its payload over and then asks; gives the serial of its launch, and what came with it.
fn asked(fake: &Fake) -> (u32, wire::Launch, usize) {
    let line = fake.line.as_ref().unwrap();
    let mut buffer = vec![0; wire::MAX_PACKET];
    let start = Instant::now();
    loop {
        match sys::receive(line.as_fd(), &mut buffer) {
            Ok(received) => {
                let Packet { serial, message, .. } = wire::decode(&buffer[..received.length]).unwrap();
                let Message::Launch(launch) = message else { panic!("{message:?}") };
                return (serial, launch, received.fds.len());
            }
            Err(nix::errno::Errno::EAGAIN) if start.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn a_payload_is_handed_over_early_where_the_recorder_says_so_and_once_more_where_it_asks() {
    let receipt =
        |id: LaunchId| Message::Receipt(Receipt { id: id.to_string(), seq: 7, hash: "ab".repeat(32) });
    // What the recorder does: says nothing of it, takes it, asks again, dies in between.
    for (number, (early, what)) in
        [(false, "old"), (true, "takes"), (true, "asks"), (true, "dies")].into_iter().enumerate()
    {
        let id = LaunchId::from_parts(1, [number as u8; 10]);
        let mut fake = Fake::new(&format!("early-{what}"));
        fake.early = early;
        let path = fake.path.clone();
        let launcher = std::thread::spawn(move || {
            let mut client = Client::open(&path, Duration::from_secs(10), true).unwrap();
            let (payload, init, user) = (null(), null(), null());
            let namespaces = [("user", user.as_fd())];
            client.hand_over(id, payload.as_fd(), init.as_fd(), &namespaces);
            let record = Record::new(Action::PayloadLaunch, id);
            client
                .launch(&record, id, false, payload, init.as_fd(), &namespaces)
                .map(|receipt| receipt.launch())
        });
        fake.accept();
        if early {
            let (_, frozen) = fake.next();
            assert!(
                matches!(&frozen, Message::Frozen(frozen) if frozen.namespaces == ["user"]),
                "{frozen:?}"
            );
        }
        if what == "dies" {
            fake.line = None;
            fake.accept();
        } else if early {
            let (serial, launch, fds) = asked(&fake);
            assert_eq!((launch.namespaces.len(), fds), (0, 0), "it came before");
            if what == "asks" {
                let failure = Failure::record("a", "b", "c");
                let again = Refused { retry_after_ms: Some(0), ..Refused::of(&failure) };
                fake.say(serial, &Message::Refused(again));
            } else {
                fake.say(serial, &receipt(id));
            }
        }
        if what != "takes" {
            let (serial, launch, fds) = asked(&fake);
            assert_eq!((&launch.namespaces[..], fds), (&["user".to_owned()][..], 3), "{what}: all of it");
            fake.say(serial, &receipt(id));
        }
        assert_eq!(launcher.join().unwrap().unwrap(), id, "{what}");
    }
}
