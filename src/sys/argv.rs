//! The memory in which the kernel keeps this program's arguments, which `/proc/PID/cmdline` shows to every user.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

static ARGC: AtomicUsize = AtomicUsize::new(0);
static ARGV: AtomicPtr<*mut libc::c_char> = AtomicPtr::new(std::ptr::null_mut());

/// glibc hands argc, argv and envp to every initialiser, also in a static program; this one only remembers them.
extern "C" fn remember(argc: libc::c_int, argv: *mut *mut libc::c_char, _envp: *mut *mut libc::c_char) {
    ARGC.store(usize::try_from(argc).unwrap_or(0), Ordering::Relaxed);
    ARGV.store(argv, Ordering::Relaxed);
}

// SAFETY: `.init_array` holds pointers to functions of exactly this type (System V ABI, glibc passes the three arguments);
// the function touches nothing but two atomics.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn(libc::c_int, *mut *mut libc::c_char, *mut *mut libc::c_char) = remember;

/// Overwrites the value part of `NAME=VALUE` in the arguments that follow or contain `--env`, in place.
///
/// `wipe` gets each argument's bytes (without the NUL) and the argument before it, and returns from which byte on the
/// argument is to be overwritten with `x`.
pub fn wipe_arguments(mut wipe: impl FnMut(&[u8], Option<&[u8]>) -> Option<usize>) {
    let argv = ARGV.load(Ordering::Relaxed);
    let argc = ARGC.load(Ordering::Relaxed);
    if argv.is_null() {
        return;
    }
    let mut previous: Option<&[u8]> = None;
    for index in 0..argc {
        // SAFETY: the kernel put argc pointers to NUL-terminated strings at argv; they live as long as the process, and
        // this single-threaded program hands out no reference into them (std::env copies).
        let bytes = unsafe {
            let pointer = *argv.add(index);
            CStr::from_ptr(pointer).to_bytes()
        };
        if let Some(from) = wipe(bytes, previous) {
            let length = bytes.len().saturating_sub(from);
            // SAFETY: `from + length` is the string's own length, so the write stays inside it and keeps its NUL.
            unsafe {
                let pointer = (*argv.add(index)).add(from);
                std::ptr::write_bytes(pointer, b'x', length);
            }
        }
        previous = Some(bytes);
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
