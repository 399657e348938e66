//! The system calls that a payload may make: a filter for each profile, assembled when bailey is compiled.
//!
//! 1. Nothing is computed at a launch: a filter is read-only data, and setting it is one seccomp(2).
//! 2. A call that is known and refused gives EPERM; one that is newer than the table gives ENOSYS, because libraries try new
//!    calls first, and fall back on that errno only. docs/seccomp.md has every refusal with its reason.
//! 3. Arguments are compared as the kernel reads them: an int by its low word, whatever the high one holds (CVE-2019-7303).
//! 4. No filter sees behind a pointer. A call whose pointer hides what must be judged is refused as a whole.
#![forbid(unsafe_code)]

mod bpf;
pub mod calls;
mod program;
#[cfg(test)]
mod tests;

use crate::policy::rule::Profile;
use program::{Abi, Program};

/// A filter, ready to be set.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// The program.
    pub code: &'static [libc::sock_filter],
    /// Which it is, for the record: FNV-1a over the program.
    pub digest: u64,
    /// The errno with which it answers [`QUESTION`].
    pub signature: i32,
    profile: Profile,
    abi_32bit: bool,
}

/// A `which` of setpriority(2) that no kernel has. Asked with it, a filter says which one it is, by an errno that nothing else
/// gives: so the payload knows that this filter holds, and not only some filter of an outer container.
pub const QUESTION: u32 = 0x000b_a11e;

macro_rules! filters {
    ($($name:ident: $profile:ident for $abis:expr, $own_pids:expr;)*) => {
        $(static $name: Filter = {
            const PROGRAM: Program = Program::new($abis, Profile::$profile, $own_pids);
            static CODE: [libc::sock_filter; PROGRAM.len()] = PROGRAM.code();
            Filter {
                code: &CODE,
                digest: program::digest(&PROGRAM.code::<{ PROGRAM.len() }>()),
                signature: program::signature(Profile::$profile, $own_pids),
                profile: Profile::$profile,
                abi_32bit: $abis.len() > 1,
            }
        };)*
    };
}

#[cfg(target_arch = "x86_64")]
filters! {
    DEFAULT: Default for &[Abi::X86_64], true;
    DEFAULT_32BIT: Default for &[Abi::X86_64, Abi::I386], true;
    NESTED: Nested for &[Abi::X86_64], true;
    NESTED_32BIT: Nested for &[Abi::X86_64, Abi::I386], true;
    STRICT: Strict for &[Abi::X86_64], true;
    AMONG: Default for &[Abi::X86_64], false;
    AMONG_32BIT: Default for &[Abi::X86_64, Abi::I386], false;
    STRICT_AMONG: Strict for &[Abi::X86_64], false;
}

// 32-bit ARM programs have numbers that are not in the table: none of their calls is let through.
#[cfg(target_arch = "aarch64")]
filters! {
    DEFAULT: Default for &[Abi::Aarch64], true;
    NESTED: Nested for &[Abi::Aarch64], true;
    STRICT: Strict for &[Abi::Aarch64], true;
    AMONG: Default for &[Abi::Aarch64], false;
    STRICT_AMONG: Strict for &[Abi::Aarch64], false;
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("there is no table of system calls for this architecture");

/// The filter of a profile. `abi_32bit`: 32-bit programs may run, which `strict` does not grant. `own_pids`: the payload has a
/// pid namespace, as every nested one has.
pub const fn filter(profile: Profile, abi_32bit: bool, own_pids: bool) -> &'static Filter {
    #[cfg(target_arch = "x86_64")]
    return match (profile, abi_32bit, own_pids) {
        (Profile::Default, false, true) => &DEFAULT,
        (Profile::Default, true, true) => &DEFAULT_32BIT,
        (Profile::Default, false, false) => &AMONG,
        (Profile::Default, true, false) => &AMONG_32BIT,
        (Profile::Nested, false, _) => &NESTED,
        (Profile::Nested, true, _) => &NESTED_32BIT,
        (Profile::Strict, _, true) => &STRICT,
        (Profile::Strict, _, false) => &STRICT_AMONG,
    };
    #[cfg(not(target_arch = "x86_64"))]
    return match (profile, abi_32bit, own_pids) {
        (Profile::Default, _, true) => &DEFAULT,
        (Profile::Default, _, false) => &AMONG,
        (Profile::Nested, ..) => &NESTED,
        (Profile::Strict, _, true) => &STRICT,
        (Profile::Strict, _, false) => &STRICT_AMONG,
    };
}

impl Filter {
    /// For the record: `on: default, with 32-bit programs, filter 0123456789abcdef`.
    pub fn describe(&self) -> String {
        let programs = if self.abi_32bit { "with" } else { "without" };
        format!("on: {}, {programs} 32-bit programs, filter {:016x}", self.profile.as_str(), self.digest)
    }
}
