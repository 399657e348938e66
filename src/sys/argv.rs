//! The memory in which the kernel keeps this program's arguments, which `/proc/PID/cmdline` shows to every user.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static ARGC: AtomicUsize = AtomicUsize::new(0);
static ARGV: AtomicPtr<*mut libc::c_char> = AtomicPtr::new(std::ptr::null_mut());

/// glibc hands argc, argv and envp to every initialiser, also in a static program; this one only remembers them.
#[cfg_attr(miri, allow(dead_code))]
extern "C" fn remember(argc: libc::c_int, argv: *mut *mut libc::c_char, _envp: *mut *mut libc::c_char) {
    ARGC.store(usize::try_from(argc).unwrap_or(0), Ordering::Relaxed);
    ARGV.store(argv, Ordering::Relaxed);
}

// SAFETY: `.init_array` holds pointers to functions of exactly this type (System V ABI, glibc passes the three arguments);
// the function touches nothing but two atomics.
#[cfg(not(miri))] // which calls initialisers without arguments
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn(libc::c_int, *mut *mut libc::c_char, *mut *mut libc::c_char) = remember;

/// Overwrites the value part of `NAME=VALUE` in the arguments that follow or contain `--env`, in place.
///
/// `wipe` gets each argument's bytes (without the NUL) and the argument before it, and returns from which byte on the
/// argument is to be overwritten with `x`.
pub fn wipe_arguments(wipe: impl FnMut(&[u8], Option<&[u8]>) -> Option<usize>) {
    let argv = ARGV.load(Ordering::Relaxed);
    if !argv.is_null() {
        // SAFETY: the kernel put argc pointers to NUL-terminated strings at argv; they live as long as the process, and
        // this single-threaded program hands out no reference into them (std::env copies).
        unsafe { wipe_strings(argv, ARGC.load(Ordering::Relaxed), wipe) };
    }
}

/// [`wipe_arguments`] of these strings.
///
/// # Safety
/// `argv` holds `argc` pointers to NUL-terminated strings that may be written to and that nobody else refers to.
unsafe fn wipe_strings(
    argv: *const *mut libc::c_char,
    argc: usize,
    mut wipe: impl FnMut(&[u8], Option<&[u8]>) -> Option<usize>,
) {
    let at = |index: usize| {
        // SAFETY: `index` is below argc, and so a pointer stands there (the caller's promise).
        unsafe { *argv.add(index) }
    };
    for index in 0..argc {
        // References last only until something is written: a string that was just overwritten is the next one's `previous`,
        // and is looked at anew.
        // SAFETY: NUL-terminated strings, the caller's promise.
        let (from, length) = unsafe {
            let bytes = CStr::from_ptr(at(index)).to_bytes();
            let previous = index.checked_sub(1).map(|before| CStr::from_ptr(at(before)).to_bytes());
            (wipe(bytes, previous), bytes.len())
        };
        if let Some(from) = from.filter(|from| *from < length) {
            // SAFETY: `from` to `length` is inside the string, whose NUL stays.
            unsafe { std::ptr::write_bytes(at(index).add(from), b'x', length - from) };
        }
    }
}

/// Replaces all arguments by one short title: what `/proc/PID/cmdline` of the init process shows inside the sandbox.
/// Does not allocate. A title longer than the room is cut.
pub fn set_title(title: &CStr) {
    let argv = ARGV.load(Ordering::Relaxed);
    let argc = ARGC.load(Ordering::Relaxed);
    if argv.is_null() || argc == 0 {
        return;
    }
    // SAFETY: as above: argc NUL-terminated strings, laid out one behind the other by the kernel (fs/exec.c,
    // copy_strings), so the bytes from the first string's start to the last one's NUL are ours to write.
    unsafe { put_title(argv, argc, title) };
}

/// [`set_title`] over these strings.
///
/// # Safety
/// As for [`wipe_strings`]; `argc` is not 0, and the strings lie one behind the other in one piece of memory.
unsafe fn put_title(argv: *const *mut libc::c_char, argc: usize, title: &CStr) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = *argv;
        let last = *argv.add(argc - 1);
        let end = last.add(CStr::from_ptr(last).count_bytes());
        let Ok(room) = usize::try_from(end.offset_from(first)) else {
            return;
        };
        std::ptr::write_bytes(first, 0, room);
        let length = title.count_bytes().min(room);
        std::ptr::copy_nonoverlapping(title.as_ptr(), first, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings one behind the other, as the kernel lays them out, and where each begins.
    fn laid_out(memory: &mut [u8]) -> Vec<*mut libc::c_char> {
        let begins: Vec<usize> = std::iter::once(0)
            .chain(memory.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1))
            .filter(|begin| *begin < memory.len())
            .collect();
        let base = memory.as_mut_ptr();
        // SAFETY: each begin is inside the memory.
        begins.into_iter().map(|begin| unsafe { base.add(begin) }.cast()).collect()
    }

    #[test]
    fn a_wiped_argument_is_the_next_ones_previous() {
        let mut memory = *b"exec\0--env\0A=secret\0--env=B=c\0D=e\0\0";
        let argv = laid_out(&mut memory);
        let mut seen = Vec::new();
        // SAFETY: NUL-terminated strings in memory of our own.
        unsafe {
            wipe_strings(argv.as_ptr(), argv.len(), |bytes, previous| {
                seen.push((bytes.to_vec(), previous.map(<[u8]>::to_vec)));
                if bytes.starts_with(b"--env=") {
                    Some(8)
                } else if previous == Some(b"--env") {
                    Some(2)
                } else if bytes.is_empty() {
                    Some(9) // behind its end: nothing is written
                } else {
                    None
                }
            });
        }
        assert_eq!(&memory, b"exec\0--env\0A=xxxxxx\0--env=B=x\0D=e\0\0");
        assert_eq!(seen.len(), 6);
        assert_eq!(seen.get(3), Some(&(b"--env=B=c".to_vec(), Some(b"A=xxxxxx".to_vec()))));
    }

    #[test]
    fn a_title_stays_inside_the_arguments() {
        for (title, expected) in
            [(c"t", &b"t\0\0\0\0\0\0!"[..]), (c"a long title", b"a long\0!"), (c"", b"\0\0\0\0\0\0\0!")]
        {
            let mut memory = *b"ab\0cde\0!";
            let (arguments, _) = memory.split_at_mut(7);
            let argv = laid_out(arguments);
            // SAFETY: two strings one behind the other.
            unsafe { put_title(argv.as_ptr(), 2, title) };
            assert_eq!(memory, expected, "{title:?}");
        }
    }
}
