//! /proc/self/mountinfo (proc_pid_mountinfo(5)) as the child reads it: without allocation, line by line.
#![forbid(unsafe_code)]

use super::build::at;
use super::protocol::{Stage, Trouble};
use crate::sys::{Errno, fs};
use std::os::fd::AsFd;

/// Calls `act` with each line of what this process can reach, covered mounts too. A line that is not read whole is an error:
/// what is not read is not judged.
pub(super) fn each_line(
    stage: Stage,
    mut act: impl FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let table = at(stage, 0, fs::open_at(fs::cwd(), c"/proc/self/mountinfo", libc::O_RDONLY, 0))?;
    // Lines are at most a page or two.
    let mut buffer = [0_u8; 16384];
    let mut kept = 0;
    loop {
        let room = buffer.get_mut(kept..).unwrap_or_default();
        if room.is_empty() {
            return Err(Trouble { stage, index: 1, errno: Errno::ENAMETOOLONG });
        }
        let read = at(stage, 1, fs::read_some(table.as_fd(), room))?;
        if read == 0 {
            return Ok(());
        }
        let filled = kept + read;
        let mut start = 0;
        while let Some(end) = buffer.get(start..filled).and_then(|rest| rest.iter().position(|b| *b == b'\n'))
        {
            act(buffer.get(start..start + end).unwrap_or_default())?;
            start += end + 1;
        }
        buffer.copy_within(start..filled, 0);
        kept = filled - start;
    }
}

/// Undoes the octal escapes of mountinfo (`\040` for a space) into a NUL-terminated buffer; returns the length.
pub(super) fn unescape(text: &[u8], buffer: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let byte = if let (b'\\', [a, b, c, more @ ..]) = (first, tail) {
            rest = more;
            (a.wrapping_sub(b'0') << 6) | (b.wrapping_sub(b'0') << 3) | c.wrapping_sub(b'0')
        } else {
            rest = tail;
            *first
        };
        *buffer.get_mut(length)? = byte;
        length += 1;
    }
    *buffer.get_mut(length)? = 0;
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes_are_undone() {
        let mut buffer = [b'x'; 64];
        assert_eq!(unescape(b"/a\\040b\\134c", &mut buffer), Some(6));
        assert_eq!(buffer.get(..7), Some(&b"/a b\\c\0"[..]));
        assert_eq!(unescape(b"/plain", &mut buffer), Some(6));
        let mut short = [0_u8; 4];
        assert_eq!(unescape(b"/plain", &mut short), None);
    }
}
