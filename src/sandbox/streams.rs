//! Standard streams through pipes: the payload never holds a descriptor of the pilot's.
//!
//! A descriptor that is handed over can be opened again (`/proc/self/fd/1`), truncated, read, have its flags changed; no wall
//! helps against that, because the kernel checks it against the file and not against the namespace. A pipe has nothing behind
//! it. The price is one copy, 1 to 2 µs a write.
//!
//! 1. The pipes are made before the clone and the threads before the release: a relay that cannot be had is no launch.
//! 2. The pilot's descriptors are never made non-blocking: others have them too. So each direction has a thread that may wait.
//! 3. What the payload wrote before it ended reaches the pilot, unless the pilot does not take it; that is said.
//! 4. Who reads the payload's output sees its end, and who writes to its input the broken pipe, as without a relay.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IsTerminal as _, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::terminal::{Pilots, Raw, Terminal, Window};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The most that one turn carries.
const PIECE: usize = 64 << 10;
/// The most that is still carried after the payload's end: more than a pipe of an ordinary user holds (pipe(7),
/// pipe-max-size), so it is only cut where somebody outside was given a copy of the pipe and goes on writing.
const REST: usize = 2 << 20;
/// How long the pilot may take nothing of the rest.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at whether it is still taken.
const LOOK: Duration = Duration::from_millis(100);
/// Of a thread: its buffer is on the heap.
const STACK: usize = 64 << 10;

/// What takes the place of the pilot's standard streams, by descriptor number.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// `None`: it keeps what is there, which is /dev/null.
    pub ends: [Option<OwnedFd>; 3],
    /// Where the terminal goes that the payload's process makes in its own devpts; nowhere where it is to have none.
    pub on_terminal: [bool; 3],
}

impl Inside {
    /// Whether the payload gets a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.on_terminal.contains(&true)
    }
}

/// The pipes before the clone.
#[derive(Debug)]
pub(super) struct Pipes {
    /// The payload's ends.
    pub inside: Inside,
    input: Option<(OwnedFd, File)>,
    outputs: Vec<(&'static str, File, OwnedFd)>,
    pilots: Option<(Pilots, OwnedFd)>,
}

impl Pipes {
    /// A terminal in place of the pilot's. What goes elsewhere goes through a pipe.
    pub(super) fn terminal() -> io::Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let pilots = (Pilots::of(stdin.as_fd())?, stdout.as_fd().try_clone_to_owned()?);
        // Until there is a terminal nothing in there holds the pilot's.
        let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
        let mut pipes = Self {
            inside: Inside {
                ends: [Some(null.try_clone()?), Some(null.try_clone()?), None],
                on_terminal: [true, true, stderr.is_terminal()],
            },
            input: None,
            outputs: Vec::new(),
            pilots: Some(pilots),
        };
        let [_, _, inside_err] = &mut pipes.inside.ends;
        if stderr.is_terminal() {
            *inside_err = Some(null);
        } else if let Some(to) = worth_a_pipe(stderr.as_fd())? {
            let (reader, writer) = output_pipe()?;
            *inside_err = Some(writer.into());
            pipes.outputs.push(("standard error", reader, to));
        }
        Ok(pipes)
    }

    /// One for each stream that is more than /dev/null. Where standard output and error are one file they share a pipe, so
    /// that what is written keeps its order.
    pub(super) fn make() -> io::Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let mut pipes = Self { inside: Inside::default(), input: None, outputs: Vec::new(), pilots: None };
        let [inside_in, inside_out, inside_err] = &mut pipes.inside.ends;
        if let Some(from) = worth_a_pipe(stdin.as_fd())? {
            let (reader, writer) = io::pipe()?;
            *inside_in = Some(reader.into());
            pipes.input = Some((from, File::from(OwnedFd::from(writer))));
        }
        let out = worth_a_pipe(stdout.as_fd())?;
        let err = worth_a_pipe(stderr.as_fd())?;
        let is_one = match (&out, &err) {
            (Some(out), Some(err)) => same_file(out.as_fd(), err.as_fd())?,
            _ => false,
        };
        if let Some(to) = out {
            let (reader, writer) = output_pipe()?;
            if is_one {
                *inside_err = Some(writer.try_clone()?.into());
            }
            *inside_out = Some(writer.into());
            pipes.outputs.push((
                if is_one { "standard output and error" } else { "standard output" },
                reader,
                to,
            ));
        }
        if let Some(to) = err.filter(|_| !is_one) {
            let (reader, writer) = output_pipe()?;
            *inside_err = Some(writer.into());
            pipes.outputs.push(("standard error", reader, to));
        }
        Ok(pipes)
    }

    /// What is left of them with the launcher, once the payload's ends are in the child.
    pub(super) fn outside(self) -> Outside {
        Outside { input: self.input, outputs: self.outputs, pilots: self.pilots, terminal: None }
    }
}

/// A copy of the descriptor; none when it is the null device, behind which there is nothing to protect.
fn worth_a_pipe(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let file = File::from(fd.try_clone_to_owned()?);
    let metadata = file.metadata()?;
    let is_null = metadata.file_type().is_char_device() && metadata.rdev() == nix::sys::stat::makedev(1, 3);
    Ok((!is_null).then(|| file.into()))
}

fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let of = |fd: BorrowedFd<'_>| File::from(fd.try_clone_to_owned()?).metadata();
    let (a, b) = (of(a)?, of(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Only our end does not block; the payload's is another description.
fn output_pipe() -> io::Result<(File, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((File::from(OwnedFd::from(reader)), writer))
}

/// The launcher's ends, while the payload is built.
#[derive(Debug)]
pub(super) struct Outside {
    input: Option<(OwnedFd, File)>,
    outputs: Vec<(&'static str, File, OwnedFd)>,
    pilots: Option<(Pilots, OwnedFd)>,
    terminal: Option<Terminal>,
}

/// The threads that carry.
#[derive(Debug)]
pub struct Relay {
    ended: Arc<EventFd>,
    carried: Arc<AtomicU64>,
    left: usize,
    told: Receiver<Option<String>>,
    /// Held for its end, which sets the pilot's terminal back.
    _raw: Option<Raw>,
}

impl Outside {
    /// Whether the payload's process is to send the master of its terminal.
    pub(super) const fn wants_master(&self) -> bool {
        self.pilots.is_some()
    }

    /// Puts the pilot's terminal before the payload's, whose master this is.
    pub(super) fn put_before(&mut self, master: OwnedFd) -> io::Result<()> {
        let Some((pilots, stdout)) = self.pilots.take() else { return Ok(()) };
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let terminal = pilots.meet(master)?;
        self.input = Some((stdin, File::from(terminal.master()?)));
        self.outputs.push(("terminal", File::from(terminal.master()?), stdout));
        self.terminal = Some(terminal);
        Ok(())
    }

    /// The size of the pilot's terminal, where there is one.
    pub(super) fn window(&self) -> Option<Window> {
        self.terminal.as_ref().and_then(Terminal::window)
    }

    /// Starts to carry.
    pub(super) fn start(self) -> io::Result<Relay> {
        let ended = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let carried = Arc::new(AtomicU64::new(0));
        let (tell, told) = channel();
        let raw = self.terminal.map(Terminal::take_over).transpose()?;
        let left = self.outputs.len();
        for (name, from, to) in self.outputs {
            let output =
                Output { name, from, to: File::from(to), ended: ended.clone(), carried: carried.clone() };
            let tell: Sender<Option<String>> = tell.clone();
            spawn(move || {
                // Nobody listens any more when the launcher gave up.
                let _ = tell.send(output.carry());
            })?;
        }
        if let Some((from, to)) = self.input {
            // It may wait for the pilot for ever, and ends with the process.
            spawn(move || carry_in(&mut File::from(from), to))?;
        }
        Ok(Relay { ended, carried, left, told, _raw: raw })
    }
}

fn spawn(carry: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(carry).map(drop)
}

impl Relay {
    /// After the payload's end: carries the rest, and returns what could not be delivered, in words. `is_wanted` is asked now
    /// and then whether to go on.
    pub fn finish(mut self, mut is_wanted: impl FnMut() -> bool) -> Vec<String> {
        let mut lost = Vec::new();
        if self.ended.write(1).is_err() {
            return lost; // cannot be: one is always below the most that fits
        }
        let mut carried = self.carried.load(Ordering::Relaxed);
        let mut since = Instant::now();
        while self.left > 0 {
            match self.told.recv_timeout(LOOK) {
                Ok(trouble) => {
                    self.left -= 1;
                    lost.extend(trouble);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.carried.load(Ordering::Relaxed);
                    if now != carried {
                        (carried, since) = (now, Instant::now());
                    }
                    if since.elapsed() >= PATIENCE || !is_wanted() {
                        lost.push(
                            "the last of the payload's output is lost: nobody takes it (it went through bailey's relay)"
                                .to_owned(),
                        );
                        return lost;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return lost,
            }
        }
        lost
    }
}

/// One of the payload's outputs.
struct Output {
    name: &'static str,
    from: File,
    to: File,
    ended: Arc<EventFd>,
    carried: Arc<AtomicU64>,
}

impl Output {
    /// Carries until the payload closed it or ended; what went wrong, if that is not just a reader that left.
    fn carry(mut self) -> Option<String> {
        let mut piece = vec![0; PIECE];
        let mut rest = REST;
        loop {
            let has_ended = self.wait();
            match self.from.read(&mut piece) {
                Ok(0) => return None,
                Ok(length) => {
                    let said = piece.get(..length).unwrap_or_default();
                    match write(&mut self.to, said, &self.carried) {
                        Ok(()) => {}
                        // As without a relay: the payload gets a SIGPIPE when our end is closed.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
                        Err(error) => {
                            let why = crate::failure::io_text(&error);
                            return Some(format!("cannot write the payload's {}: {why}", self.name));
                        }
                    }
                    if has_ended {
                        rest = rest.saturating_sub(length);
                        if rest == 0 {
                            return None;
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if has_ended {
                        return None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: nobody has the terminal open any more.
                Err(_) => return None,
            }
        }
    }

    /// Waits until there is something; whether the payload has ended.
    fn wait(&self) -> bool {
        let mut fds = [
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        let [_, ended] = fds.map(|fd| fd.any().unwrap_or(false));
        ended
    }
}

/// The pilot's input into the pipe.
fn carry_in(from: &mut File, mut to: File) {
    let mut piece = vec![0; PIECE];
    let carried = AtomicU64::new(0);
    loop {
        match from.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => {
                if write(&mut to, piece.get(..length).unwrap_or_default(), &carried).is_err() {
                    return; // the payload reads no more
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(from.as_fd(), PollFlags::POLLIN);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Writes all of it, also to what somebody else made non-blocking.
fn write(to: &mut (impl Write + AsFd), mut bytes: &[u8], carried: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => {
                carried.fetch_add(length as u64, Ordering::Relaxed);
                bytes = bytes.get(length..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(to.as_fd(), PollFlags::POLLOUT);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(fd, what)], PollTimeout::NONE);
}
