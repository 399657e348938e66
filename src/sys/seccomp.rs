//! seccomp(2).

use super::{Errno, check};

/// Below Linux 5.16 a filter brings the mitigation of speculative store bypass with it, which costs every process that has one
/// up to a third of its speed. It protects parts of one process from each other, and bailey's walls are between processes:
/// a payload gets what the host gives every process.
const SPEC_ALLOW: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// Sets a filter for the calling thread, for ever. Needs no_new_privs.
pub fn set_filter(code: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(code.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: code.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions, which the kernel copies and does not write.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, SPEC_ALLOW, &raw const program)
    })
    .map(drop)
}

/// setpriority(2) with a `which` of one's own: the errno that a filter answers, 0 if none does. A bare number, because the
/// answer is none of the kernel's.
pub fn ask(which: u32) -> i32 {
    // SAFETY: no pointers.
    match check(unsafe { libc::syscall(libc::SYS_setpriority, which, 0, 0) }) {
        Ok(_) => 0,
        Err(_) => Errno::last_raw(),
    }
}
