//! A terminal of the payload's own, where a person called from one: job control works, and the pilot's terminal stays outside.
//!
//! What is typed goes through the launcher into the new terminal, which makes signals and line ends of it; so the pilot's is
//! raw as long as the payload runs. The payload's process makes it, in its own devpts, and sends the master up: so it has a name
//! there, for tty(1) and whatever opens its terminal by name.
//!
//! 1. The pilot's terminal is set back when the launcher ends, whatever the reason, but for SIGKILL.
//! 2. The payload never holds a descriptor of the pilot's terminal; what it could type, it types into its own.
#![forbid(unsafe_code)]

use crate::sys::terminal::{self, Mode};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The pilot's terminal, before there is one for the payload.
#[derive(Debug)]
pub(super) struct Pilots {
    pilots: OwnedFd,
    mode: Mode,
}

impl Pilots {
    /// The terminal that is like this one.
    pub(super) fn of(pilots: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { mode: terminal::mode(pilots)?, pilots: pilots.try_clone_to_owned()? })
    }

    /// The payload's terminal becomes like the pilot's. Its master does not block from now on.
    pub(super) fn meet(self, master: OwnedFd) -> io::Result<Terminal> {
        // Through the master it is the terminal's mode that is set.
        terminal::set_mode(master.as_fd(), &self.mode)?;
        // One without a size, such as a serial line, leaves the new one without.
        if let Ok(size) = terminal::size(self.pilots.as_fd()) {
            terminal::set_size(master.as_fd(), size)?;
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR))?;
        Ok(Terminal { pilots: self.pilots, master, mode: self.mode })
    }
}

/// The pilot's terminal and the master of the payload's.
#[derive(Debug)]
pub(super) struct Terminal {
    pilots: OwnedFd,
    master: OwnedFd,
    mode: Mode,
}

impl Terminal {
    /// The master, for what is carried.
    pub(super) fn master(&self) -> io::Result<OwnedFd> {
        self.master.try_clone()
    }

    /// What follows its size.
    pub(super) fn window(&self) -> Option<Window> {
        let (pilots, master) = (self.pilots.try_clone().ok()?, self.master.try_clone().ok()?);
        Some(Window { pilots, master })
    }

    /// From now on the pilot's terminal hands every byte on.
    pub(super) fn take_over(self) -> io::Result<Raw> {
        terminal::set_mode(self.pilots.as_fd(), &self.mode.raw())?;
        Ok(Raw { pilots: self.pilots, mode: self.mode })
    }
}

/// The pilot's terminal as long as it is raw.
#[derive(Debug)]
pub(super) struct Raw {
    pilots: OwnedFd,
    mode: Mode,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // One that is gone needs no mode.
        let _ = terminal::set_mode(self.pilots.as_fd(), &self.mode);
    }
}

/// Carries the size of the pilot's terminal on.
#[derive(Debug)]
pub(super) struct Window {
    pilots: OwnedFd,
    master: OwnedFd,
}

impl Window {
    /// The payload's terminal gets the size of the pilot's.
    pub(super) fn follow(&self) {
        if let Ok(size) = terminal::size(self.pilots.as_fd()) {
            let _ = terminal::set_size(self.master.as_fd(), size);
        }
    }
}
