//! Pseudo-terminals: pty(7), ioctl_tty(2), termios(3).

use super::{Errno, check};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(libc::winsize);

impl Size {
    /// So many rows and columns.
    pub const fn new(rows: u16, columns: u16) -> Self {
        Self(libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
    }
}

/// How a terminal treats what is typed and printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode(libc::termios);

impl Mode {
    /// The same with nothing treated: every byte as it comes.
    #[must_use]
    pub fn raw(&self) -> Self {
        let mut raw = self.0;
        // SAFETY: cfmakeraw changes the termios that it is given and nothing else.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        Self(raw)
    }
}

/// A new pseudo-terminal of the instance of devpts behind /dev/ptmx: its master, and the terminal itself. Neither becomes
/// anybody's controlling terminal. Does not allocate.
pub fn open() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = super::fs::open_following(c"/dev/ptmx", flags)?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
    }))?;
    // By descriptor (Linux 4.13): /dev/pts may be another instance than that of /dev/ptmx.
    // SAFETY: TIOCGPTPEER takes flags of open(2) by value.
    let terminal =
        check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let terminal = unsafe { OwnedFd::from_raw_fd(terminal as i32) };
    Ok((master, terminal))
}

/// Makes the terminal on standard input the controlling one of this session, which has none. Does not allocate.
pub fn control_by_stdin() -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an int by value.
    check(libc::c_long::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })).map(drop)
}

/// Whether this process may change the terminal without disturbing others: it is in the foreground there, or the terminal
/// controls no session of its own.
pub fn is_in_foreground(terminal: BorrowedFd<'_>) -> bool {
    // SAFETY: no pointers.
    let (foreground, own) = unsafe { (libc::tcgetpgrp(terminal.as_raw_fd()), libc::getpgrp()) };
    foreground < 0 || foreground == own
}

/// The size of a terminal.
pub fn size(terminal: BorrowedFd<'_>) -> Result<Size, Errno> {
    let mut size = Size::new(0, 0);
    // SAFETY: TIOCGWINSZ writes one winsize.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size.0)
    }))?;
    Ok(size)
}

/// Sets the size, of the terminal or through its master. Who runs in it is told by SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> Result<(), Errno> {
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size.0)
    }))
    .map(drop)
}

/// The mode of a terminal.
pub fn mode(terminal: BorrowedFd<'_>) -> Result<Mode, Errno> {
    let mut mode = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills the termios, or fails.
    check(libc::c_long::from(unsafe { libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()) }))?;
    // SAFETY: it was filled.
    Ok(Mode(unsafe { mode.assume_init() }))
}

/// Sets the mode, after what was printed so far is out.
pub fn set_mode(terminal: BorrowedFd<'_>, mode: &Mode) -> Result<(), Errno> {
    // SAFETY: tcsetattr reads the termios.
    check(libc::c_long::from(unsafe {
        libc::tcsetattr(terminal.as_raw_fd(), libc::TCSADRAIN, &raw const mode.0)
    }))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    #[test]
    #[cfg_attr(miri, ignore = "no terminals")]
    fn what_is_written_on_one_side_is_read_on_the_other() {
        let (master, terminal) = open().unwrap();
        set_size(master.as_fd(), Size::new(33, 77)).unwrap();
        assert_eq!(size(terminal.as_fd()).unwrap(), Size::new(33, 77));
        let before = mode(terminal.as_fd()).unwrap();
        set_mode(terminal.as_fd(), &before.raw()).unwrap();
        let (mut master, mut terminal) = (std::fs::File::from(master), std::fs::File::from(terminal));
        terminal.write_all(b"a\n").unwrap();
        let mut read = [0; 8];
        let length = master.read(&mut read).unwrap();
        assert_eq!(&read[..length], b"a\n", "a raw terminal adds no carriage return");
        set_mode(terminal.as_fd(), &before).unwrap();
        terminal.write_all(b"a\n").unwrap();
        let length = master.read(&mut read).unwrap();
        assert_eq!(&read[..length], b"a\r\n");
    }
}
