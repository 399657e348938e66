//! The launcher's side of the recorder: a launch record goes out, a receipt comes back.
//!
//! 1. A [`Receipt`] is made here only from the recorder's own receipt message, which leaves it after fdatasync.
//! 2. One connection per launch, open for the payload's life. When it breaks, the launch goes on, and the launcher comes back
//!    with its receipt's hash; the recorder takes nobody else for it.
//! 3. Waiting is bounded by `audit.wait`; a request without answer is sent again on a new connection, which the recorder
//!    takes for the same one by its launch id.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::receipt::{CheckReceipt, Receipt};
use super::record::Record;
use super::wire::{self, Frozen, Hello, Launch, Message, Note, Obeyed, Resume, Stop};
use crate::failure::{Failure, errno_text};
use crate::request::LaunchId;
use crate::sys::socket as sys;

/// The first pause between two tries to connect; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection on which a launcher comes back may be without an answer. Nobody waits for it meanwhile.
const BACK_WAIT: Duration = Duration::from_secs(30);
/// How long a recorder has for its welcome in any case.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// What the recorder wants of a running launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Stop or freeze the payload.
    Stop(Stop),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// Nothing is at the socket's place.
    NotThere,
    /// It is there and does not serve.
    Silent(Failure),
}

/// A connection that says hello and understands answers.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    version: u16,
}

/// On the way back to a recorder that restarted: what it was told last on the new connection.
#[derive(Debug, Clone, Copy)]
struct Back {
    serial: u32,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Resume,
}

/// The recorder as one launch knows it.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    wait: Duration,
    line: Option<Line>,
    writer: String,
    draining: Option<String>,
    /// The recorder answers [`Client::check`].
    checks: bool,
    /// It takes [`Client::hand_over`].
    early: bool,
    /// The launch whose payload was handed over on this very connection.
    handed_over: Option<LaunchId>,
    serial: u32,
    /// The launch whose receipt came: id, sequence number, hash.
    receipt: Option<Resume>,
    orders: VecDeque<Order>,
    /// What became of the last order, for a recorder that restarts.
    obeyed: Option<Obeyed>,
    /// The recorder said that the launch is closed.
    closed: bool,
    /// When to try to come back, and the pause after that.
    again: Option<(Instant, Duration)>,
    /// The connection is new, and the launch is not known on it yet.
    back: Option<Back>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and says hello. A recorder that does not answer is waited for, as long as `wait`; one whose socket is not even
    /// there only if the caller insists.
    pub fn open(path: &Path, wait: Duration, insist: bool) -> Result<Self, Absent> {
        let mut client = Self {
            path: path.to_owned(),
            wait,
            line: None,
            writer: String::new(),
            draining: None,
            checks: false,
            early: false,
            handed_over: None,
            serial: 0,
            receipt: None,
            orders: VecDeque::new(),
            obeyed: None,
            closed: false,
            again: None,
            back: None,
            buffer: Vec::new(),
        };
        let until = Instant::now() + wait;
        match client.dial(until) {
            Ok(()) => return Ok(client),
            Err(Dial::Refused(failure)) => return Err(Absent::Silent(failure)),
            Err(Dial::Trouble(Errno::ENOENT | Errno::ENOTDIR)) if !insist => return Err(Absent::NotThere),
            Err(Dial::Busy(..) | Dial::Trouble(_)) => {}
        }
        client.dial_until(until).map(|()| client).map_err(Absent::Silent)
    }

    /// `chain.writer` of the recorder.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Why the node takes no new payloads, as the recorder said when it greeted.
    pub fn draining(&self) -> Option<&str> {
        self.draining.as_deref()
    }

    /// Asks whether this launch would get its receipt. What comes back is the receipt of a record of the check, which
    /// releases nothing, or why there is none although nothing is wrong: the recorder is older than this question, or is
    /// asked too often.
    ///
    /// # Errors
    /// As those of [`Client::launch`].
    pub fn check(
        &mut self,
        record: &Record,
        id: LaunchId,
        payload: BorrowedFd<'_>,
        init: BorrowedFd<'_>,
        namespaces: &[(&'static str, BorrowedFd<'_>)],
    ) -> Result<Result<CheckReceipt, String>, Failure> {
        if !self.checks {
            return Ok(Err(
                "the recorder is older than this program, and gives no receipts for checks".to_owned()
            ));
        }
        let message = Message::Health(Launch {
            id: id.to_string(),
            nested: false,
            namespaces: kinds(namespaces),
            record: Box::new(record.clone()),
        });
        let mut fds = vec![payload, init];
        fds.extend(namespaces.iter().map(|(_, fd)| *fd));
        match self.ask(&message, &fds)? {
            Message::Receipt(receipt) if receipt.id == id.as_str() => {
                Ok(Ok(CheckReceipt { seq: receipt.seq, hash: receipt.hash }))
            }
            Message::Done(done) => Ok(Err(done.text)),
            other => Err(self.nonsense(other.name())),
        }
    }

    /// Hands over the frozen payload before its record is made, so that the recorder looks at it meanwhile. Where that does not
    /// work [`Client::launch`] hands it over.
    pub fn hand_over(
        &mut self,
        id: LaunchId,
        payload: BorrowedFd<'_>,
        init: BorrowedFd<'_>,
        namespaces: &[(&'static str, BorrowedFd<'_>)],
    ) {
        if !self.early || self.back.is_some() {
            return;
        }
        let message = Message::Frozen(Frozen { id: id.to_string(), namespaces: kinds(namespaces) });
        let mut fds = vec![payload, init];
        fds.extend(namespaces.iter().map(|(_, fd)| *fd));
        if self.put(&message, &fds).is_ok() {
            self.handed_over = Some(id);
        }
    }

    /// Hands over the launch record with the frozen payload, and waits for the receipt.
    ///
    /// # Errors
    /// The recorder's refusal as it is; that it cannot be reached within the wait (exit code 122). Nothing may run then.
    pub fn launch(
        &mut self,
        record: &Record,
        id: LaunchId,
        nested: bool,
        payload: OwnedFd,
        init: BorrowedFd<'_>,
        namespaces: &[(&'static str, BorrowedFd<'_>)],
    ) -> Result<Receipt, Failure> {
        let until = Instant::now() + self.wait;
        let (id_text, record) = (id.to_string(), Box::new(record.clone()));
        let mut message = Message::Launch(Launch { id: id_text, nested, namespaces: Vec::new(), record });
        let short = if self.handed_over.take() == Some(id) { self.ask_once(&message, until)? } else { None };
        let answer = if let Some(answer) = short {
            answer
        } else {
            if let Message::Launch(launch) = &mut message {
                launch.namespaces = kinds(namespaces);
            }
            let mut fds = vec![payload.as_fd(), init];
            fds.extend(namespaces.iter().map(|(_, fd)| *fd));
            self.ask_until(&message, &fds, until)?
        };
        match answer {
            Message::Receipt(receipt) if receipt.id == id.as_str() => {
                let hash =
                    super::chain::from_hex(&receipt.hash).ok_or_else(|| self.nonsense("its receipt"))?;
                self.receipt = Some(Resume { id: receipt.id, seq: receipt.seq, hash: receipt.hash });
                Ok(Receipt::mint(id, receipt.seq, hash, payload))
            }
            other => Err(self.nonsense(other.name())),
        }
    }

    /// The record that closes the launch, or one of a launch that never had a record; returns when it is written. A launch that
    /// the recorder has closed already is closed: its own answer got lost, or it did not wait for this launcher any longer.
    pub fn close(&mut self, record: &Record, id: LaunchId) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let note = Message::Note(Note { id: id.to_string(), record: Box::new(record.clone()) });
        match self.ask(&note, &[]) {
            Ok(Message::Done(_)) => {
                self.receipt = None;
                Ok(())
            }
            Ok(other) => Err(self.nonsense(other.name())),
            Err(_) if self.closed => {
                self.receipt = None;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// A notice. Not waited for: it must not hold up the supervisor.
    pub fn note(&mut self, record: &Record, id: LaunchId) {
        self.tell(&Message::Note(Note { id: id.to_string(), record: Box::new(record.clone()) }));
    }

    /// What became of an order. Not waited for either; a recorder that restarts is told again.
    pub fn obeyed(&mut self, id: LaunchId, held: bool, within: Option<Duration>) {
        let obeyed = Obeyed { id: id.to_string(), held, within: within.map(|within| within.as_secs()) };
        self.obeyed = Some(obeyed.clone());
        self.tell(&Message::Obeyed(obeyed));
    }

    fn tell(&mut self, message: &Message) {
        if self.back.is_none() && self.line.is_some() && self.put(message, &[]).is_err() {
            self.broken();
        }
    }

    /// Sends without waiting, and gives the serial number.
    fn put(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<u32, Broken> {
        self.serial = self.serial.wrapping_add(1);
        let Some(line) = &self.line else { return Err(Broken::Line(Errno::ENOTCONN)) };
        let packet = wire::encode(line.version, self.serial, message).map_err(Broken::Failure)?;
        let raw: Vec<_> = fds.iter().map(BorrowedFd::as_raw_fd).collect();
        sys::send(line.socket.as_fd(), &packet, &raw).map_err(Broken::Line)?;
        Ok(self.serial)
    }

    // ---- while the payload runs ----

    /// What to poll.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(|line| line.socket.as_fd())
    }

    /// When to call [`Client::orders`] although nothing was readable.
    pub fn wake_at(&self) -> Option<Instant> {
        self.again.map(|(at, _)| at)
    }

    /// Reads what came, and comes back to a recorder that restarted. Waits for nothing: a recorder that hangs, or one that
    /// systemd has not started yet, must not keep the supervisor from its signals and deadlines.
    pub fn orders(&mut self) -> Vec<Order> {
        if self.again.is_some_and(|(at, _)| Instant::now() >= at) {
            self.come_back();
        }
        while self.line.is_some() {
            match self.receive(Some(Instant::now())) {
                Ok(Some((serial, message))) => self.arrived(serial, message),
                Ok(None) => break,
                Err(_) => self.broken(),
            }
        }
        self.orders.drain(..).collect()
    }

    /// A new connection, and hello on it. The rest follows when the recorder answers.
    fn come_back(&mut self) {
        let said = self.connect().map_err(Broken::Line).and_then(|()| self.hello());
        match (said, self.again) {
            (Ok(serial), Some((_, pause))) => {
                self.back = Some(Back { serial, step: Step::Hello });
                self.again = Some((Instant::now() + BACK_WAIT, pause));
            }
            _ => self.broken(),
        }
    }

    /// A message that was not waited for.
    fn arrived(&mut self, serial: u32, message: Message) {
        let refused = matches!(message, Message::Refused(_));
        let Some(Back { step, .. }) = self.back.filter(|b| b.serial == serial || refused && serial == 0)
        else {
            return self.unasked(message);
        };
        match (step, message) {
            (Step::Hello, Message::Welcome(welcome)) if self.welcomed(&welcome) => {
                let Some(receipt) = self.receipt.clone() else { return self.broken() };
                match self.put(&Message::Resume(receipt), &[]) {
                    Ok(serial) => self.back = Some(Back { serial, step: Step::Resume }),
                    Err(_) => self.broken(),
                }
            }
            (Step::Resume, Message::Done(_)) => self.came_back(),
            (Step::Resume, Message::Refused(refused)) => {
                self.not_taken_back(refused.closed);
                self.line = None;
            }
            _ => self.broken(),
        }
    }

    fn unasked(&mut self, message: Message) {
        if let Message::Stop(stop) = message
            && self.receipt.as_ref().is_some_and(|receipt| receipt.id == stop.id)
        {
            self.orders.push_back(Order::Stop(stop));
        }
    }

    fn came_back(&mut self) {
        (self.back, self.again) = (None, None);
        if let Some(obeyed) = self.obeyed.clone() {
            self.tell(&Message::Obeyed(obeyed));
        }
    }

    /// The recorder has closed the launch, or does not know it: there is nothing to come back to.
    fn not_taken_back(&mut self, closed: bool) {
        (self.receipt, self.back, self.again) = (None, None, None);
        self.closed |= closed;
    }

    fn broken(&mut self) {
        (self.line, self.back) = (None, None);
        if self.receipt.is_some() {
            let pause = self.again.map_or(FIRST_PAUSE, |(_, pause)| pause);
            self.again = Some((Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE)));
        }
    }

    // ---- asking ----

    /// Asks on this connection only. `None`: it has to be asked anew, and with everything.
    fn ask_once(&mut self, message: &Message, until: Instant) -> Result<Option<Message>, Failure> {
        match self.exchange(message, &[], until) {
            Ok(Message::Refused(refused)) if refused.retry_after_ms.is_some() => Ok(None),
            Ok(Message::Refused(refused)) => {
                self.closed |= refused.closed;
                Err(refused.into_failure())
            }
            Ok(answer) => Ok(Some(answer)),
            Err(Broken::Line(_)) => {
                self.line = None;
                Ok(None)
            }
            Err(Broken::Failure(failure)) => Err(failure),
            Err(Broken::Late) => Err(self.late("it did not answer in time")),
        }
    }

    /// Sends, and waits for the answer to this very message. A connection that breaks is made anew until the wait is over.
    fn ask(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<Message, Failure> {
        self.ask_until(message, fds, Instant::now() + self.wait)
    }

    fn ask_until(
        &mut self,
        message: &Message,
        fds: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<Message, Failure> {
        while self.back.is_some() {
            if let Ok(Some((serial, message))) = self.receive(Some(until)) {
                self.arrived(serial, message);
            } else {
                (self.line, self.back) = (None, None);
            }
        }
        if self.closed && self.receipt.is_none() {
            return Err(self.late("it has closed the launch"));
        }
        loop {
            if self.line.is_none() {
                self.dial_until(until)?;
                if self.receipt.is_some()
                    && let Err(failure) = self.resume(until)
                {
                    if self.line.is_none() && Instant::now() < until {
                        continue; // it went away once more
                    }
                    return Err(failure);
                }
            }
            match self.exchange(message, fds, until) {
                Ok(Message::Refused(refused)) => {
                    let after = refused.retry_after_ms.map(Duration::from_millis);
                    let pause = after.map(|after| self.spread(after.min(LONGEST_PAUSE)));
                    let Some(pause) = pause.filter(|pause| Instant::now() + *pause < until) else {
                        self.closed |= refused.closed;
                        return Err(refused.into_failure());
                    };
                    std::thread::sleep(pause); // there is no room for it now
                }
                Ok(answer) => return Ok(answer),
                Err(Broken::Failure(failure)) => return Err(failure),
                Err(Broken::Late) => return Err(self.late("it did not answer in time")),
                Err(Broken::Line(errno)) => {
                    self.line = None;
                    if Instant::now() >= until {
                        return Err(self.late(&errno_text(errno)));
                    }
                    std::thread::sleep(FIRST_PAUSE); // one that takes connections and drops them is not asked in a loop
                }
            }
        }
    }

    fn exchange(
        &mut self,
        message: &Message,
        fds: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<Message, Broken> {
        let serial = self.put(message, fds)?;
        self.answer(serial, until)
    }

    fn answer(&mut self, serial: u32, until: Instant) -> Result<Message, Broken> {
        loop {
            match self.receive(Some(until))? {
                // A recorder that refuses a connection before it reads says so with serial 0.
                Some((answered, answer @ Message::Refused(_))) if answered == serial || answered == 0 => {
                    return Ok(answer);
                }
                Some((answered, answer)) if answered == serial => return Ok(answer),
                Some((_, other)) => self.unasked(other),
                None => return Err(Broken::Late),
            }
        }
    }

    /// The next message, waited for until then; `None` when none came in time.
    fn receive(&mut self, until: Option<Instant>) -> Result<Option<(u32, Message)>, Broken> {
        let Some(line) = &self.line else { return Err(Broken::Line(Errno::ENOTCONN)) };
        let mut fds = [PollFd::new(line.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                // Rounded up: a wait that ends just before the deadline would be a busy loop.
                let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(Broken::Line(errno)),
            }
        }
        if self.buffer.is_empty() {
            // A launcher without a recorder never gets here. The kernel gives its zeros page by page, and few touch a second one.
            self.buffer = vec![0; wire::MAX_PACKET];
        }
        let received = sys::receive(line.socket.as_fd(), &mut self.buffer).map_err(Broken::Line)?;
        if received.length == 0 || received.truncated {
            return Err(Broken::Line(Errno::ECONNRESET));
        }
        let packet = self.buffer.get(..received.length).unwrap_or_default();
        match wire::decode(packet) {
            Ok(packet) => Ok(Some((packet.serial, packet.message))),
            Err((_, malformed)) => Err(Broken::Failure(self.nonsense(&malformed.to_string()))),
        }
    }

    // ---- connecting ----

    fn dial_until(&mut self, until: Instant) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.dial(until) {
                Ok(()) => return Ok(()),
                Err(Dial::Refused(failure)) => return Err(failure),
                Err(Dial::Busy(failure, after)) => {
                    pause = pause.max(after).min(LONGEST_PAUSE);
                    failure
                }
                Err(Dial::Trouble(errno)) => self.late(&errno_text(errno)),
            };
            let spread = self.spread(pause);
            if Instant::now() + spread >= until {
                return Err(failure);
            }
            std::thread::sleep(spread);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// About that pause, and not the same for all: those who were turned away together do not come together again.
    fn spread(&self, pause: Duration) -> Duration {
        let turn = std::process::id().wrapping_mul(7919).wrapping_add(self.serial.wrapping_mul(104_729)) % 64;
        pause / 2 + pause * turn / 64
    }

    /// Makes a connection on which nothing was said yet. Does not wait: a queue that is full is EAGAIN.
    fn connect(&mut self) -> Result<(), Errno> {
        (self.line, self.back, self.handed_over) = (None, None, None);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        self.line = Some(Line { socket, version: wire::OLDEST });
        Ok(())
    }

    /// Says hello, and gives the serial number.
    fn hello(&mut self) -> Result<u32, Broken> {
        let hello = Message::Hello(Hello {
            oldest: wire::OLDEST,
            newest: wire::NEWEST,
            program: concat!("bailey ", env!("CARGO_PKG_VERSION")).to_owned(),
        });
        // Its own program, so that the record can tell which binary it was. One that cannot be opened is not told.
        let program = std::fs::File::open("/proc/self/exe").ok();
        let fds: Vec<BorrowedFd<'_>> = program.iter().map(AsFd::as_fd).collect();
        self.put(&hello, &fds)
    }

    /// Whether the recorder speaks a version that is spoken here.
    fn welcomed(&mut self, welcome: &wire::Welcome) -> bool {
        self.writer.clone_from(&welcome.writer);
        self.draining.clone_from(&welcome.draining);
        self.checks = welcome.health;
        self.early = welcome.early;
        if let Some(line) = &mut self.line {
            line.version = welcome.version;
        }
        (wire::OLDEST..=wire::NEWEST).contains(&welcome.version)
    }

    /// One try: connect, hello, welcome.
    fn dial(&mut self, until: Instant) -> Result<(), Dial> {
        if let Err(errno) = self.connect() {
            return Err(if may_come(errno) {
                Dial::Trouble(errno)
            } else {
                Dial::Refused(Failure::record(
                    format!("cannot connect to the recorder at {}", self.path.display()),
                    errno_text(errno),
                    "raise the limit on open files (ulimit -n), or let the outer container allow unix sockets",
                ))
            });
        }
        let until = until.max(Instant::now() + SHORTEST_WAIT);
        let answer = match self.hello() {
            Ok(serial) => self.answer(serial, until),
            // It hung up before it was greeted, perhaps with a word why.
            Err(Broken::Line(errno)) => self.answer(0, Instant::now()).map_err(|_| Broken::Line(errno)),
            Err(broken) => Err(broken),
        };
        match answer {
            Ok(Message::Welcome(welcome)) if self.welcomed(&welcome) => Ok(()),
            Ok(Message::Refused(refused)) => {
                self.line = None;
                Err(match refused.retry_after_ms.map(Duration::from_millis) {
                    Some(after) => Dial::Busy(refused.into_failure(), after),
                    None => Dial::Refused(refused.into_failure()),
                })
            }
            Ok(other) => {
                self.line = None;
                Err(Dial::Refused(self.nonsense(other.name())))
            }
            Err(Broken::Failure(failure)) => {
                self.line = None;
                Err(Dial::Refused(failure))
            }
            Err(Broken::Late) => {
                self.line = None;
                Err(Dial::Trouble(Errno::ETIMEDOUT))
            }
            Err(Broken::Line(errno)) => {
                self.line = None;
                Err(Dial::Trouble(errno))
            }
        }
    }

    fn resume(&mut self, until: Instant) -> Result<(), Failure> {
        let Some(receipt) = self.receipt.clone() else { return Ok(()) };
        match self.exchange(&Message::Resume(receipt), &[], until) {
            Ok(Message::Done(_)) => {
                self.came_back();
                Ok(())
            }
            Ok(Message::Refused(refused)) => {
                self.not_taken_back(refused.closed);
                Err(refused.into_failure())
            }
            Ok(other) => Err(self.nonsense(other.name())),
            Err(Broken::Failure(failure)) => Err(failure),
            Err(Broken::Late) => Err(self.late("it did not answer in time")),
            Err(Broken::Line(errno)) => {
                self.line = None;
                Err(self.late(&errno_text(errno)))
            }
        }
    }

    // ---- words ----

    fn late(&self, why: &str) -> Failure {
        Failure::record(
            format!("cannot reach the recorder at {}", self.path.display()),
            format!("{why} (waited {} s, audit.wait)", self.wait.as_secs()),
            "start it (systemctl start bailey-recorder.socket)",
        )
    }

    fn nonsense(&self, what: &str) -> Failure {
        Failure::record(
            format!("cannot understand the recorder at {}", self.path.display()),
            format!("{what} does not fit what was asked"),
            "use a bailey and a bailey-recorder of the same or of neighbouring versions",
        )
    }
}

fn kinds(namespaces: &[(&'static str, BorrowedFd<'_>)]) -> Vec<String> {
    namespaces.iter().map(|(kind, _)| (*kind).to_owned()).collect()
}

/// Whether a recorder that starts or restarts would explain it. What else is wrong is wrong here, and does not go away by waiting.
const fn may_come(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::EACCES
            | Errno::ECONNREFUSED
            | Errno::ECONNRESET
            | Errno::EAGAIN
            | Errno::ETIMEDOUT
            | Errno::EINTR
    )
}

/// Why one try to connect came to nothing.
enum Dial {
    Refused(Failure),
    /// No room now; after so long there may be some.
    Busy(Failure, Duration),
    Trouble(Errno),
}

/// Why there is no answer.
enum Broken {
    Line(Errno),
    Late,
    Failure(Failure),
}
