//! An assembler for the kernel's classic BPF (Documentation/networking/filter.rst), that works from the end
//! to the start, so that every jump knows its target.
//!
//! 1. It MUST run at compile time only: what goes wrong here is a build error, never a launch that fails.
//! 2. Paths of calls that are always let through hold nothing but loads of number and ABI, comparisons and jumps: for those the
//!    kernel (5.11 and later) keeps a bitmap and does not run the program at all (`seccomp_is_const_allow()`).
#![forbid(unsafe_code)]
#![expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a wrong index is a build error")]

use libc::sock_filter;

/// Room for a program; the kernel takes 4096.
const ROOM: usize = 1024;

/// The farthest that a conditional jump reaches.
const REACH: usize = u8::MAX as usize;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const IF_NOT_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// A place in the program.
#[derive(Clone, Copy)]
pub(super) struct Label(usize);

/// A program that grows towards its start.
pub(super) struct Assembler {
    code: [sock_filter; ROOM],
    start: usize,
}

impl Assembler {
    pub(super) const fn new() -> Self {
        Self { code: [sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; ROOM], start: ROOM }
    }

    /// Where it starts by now.
    pub(super) const fn here(&self) -> Label {
        Label(self.start)
    }

    const fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        assert!(self.start > 0, "the program is too long");
        self.start -= 1;
        self.code[self.start] = sock_filter { code, jt, jf, k };
        self.here()
    }

    /// Ends with this value: one that is near enough, or a new one.
    pub(super) const fn end(&mut self, value: u32) -> Label {
        let mut at = self.start;
        // Two thirds of the reach, because more may come between before the jump is placed.
        while at < ROOM && at - self.start < REACH * 2 / 3 {
            if self.code[at].code == RETURN && self.code[at].k == value {
                return Label(at);
            }
            at += 1;
        }
        self.put(RETURN, 0, 0, value)
    }

    /// Loads the word at this offset of `struct seccomp_data`; goes on with what was placed last.
    pub(super) const fn load(&mut self, offset: u32) -> Label {
        self.put(LOAD, 0, 0, offset)
    }

    /// What was loaded, and a mask.
    pub(super) const fn mask(&mut self, mask: u32) -> Label {
        self.put(AND, 0, 0, mask)
    }

    /// One jump of at most [`REACH`], over a bridge if need be. `more`: instructions that will come between.
    const fn bridged(&mut self, to: Label, more: usize) -> Label {
        if to.0 - self.start + more > REACH { self.put(JUMP, 0, 0, (to.0 - self.start) as u32) } else { to }
    }

    /// Compares what was loaded.
    pub(super) const fn branch(&mut self, test: u16, value: u32, yes: Label, no: Label) -> Label {
        let yes = self.bridged(yes, 1);
        let no = self.bridged(no, 0);
        self.put(test, (yes.0 - self.start) as u8, (no.0 - self.start) as u8, value)
    }

    /// As [`Self::branch`], going on with what was placed last when the answer is no.
    pub(super) const fn when(&mut self, test: u16, value: u32, yes: Label) -> Label {
        let next = self.here();
        self.branch(test, value, yes, next)
    }

    /// Instructions so far.
    pub(super) const fn len(&self) -> usize {
        ROOM - self.start
    }

    /// The program. `N` is [`Self::len`].
    pub(super) const fn finish<const N: usize>(&self) -> [sock_filter; N] {
        assert!(N == self.len());
        let mut program = [sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; N];
        let mut at = 0;
        while at < N {
            program[at] = self.code[self.start + at];
            at += 1;
        }
        program
    }
}

#[cfg(test)]
impl Assembler {
    pub(super) fn to_vec(&self) -> Vec<sock_filter> {
        self.code[self.start..].to_vec()
    }
}
