//! From the table of calls to a program: a search tree over the numbers of each ABI, and the checks of arguments.
//!
//! 1. As in `bpf`: at compile time only.
//! 2. The ABI is looked at first: a number means another call in another ABI.
//! 3. Short is fast to start: the kernel compiles the program at every launch, 0.2 µs an instruction.
#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "evaluated by the compiler: a wrong index is a build error"
)]

use super::QUESTION;
use super::bpf::{Assembler, IF_ANY_BIT, IF_EQUAL, IF_NOT_BELOW, Label};
use super::calls::{CALLS, Call, NEWEST, Rule};
use crate::policy::rule::Profile;
use libc::sock_filter;

#[cfg(target_endian = "big")]
compile_error!("the offsets of the words of an argument are those of little-endian machines");

/// A way into the kernel.
#[cfg_attr(not(test), allow(dead_code, reason = "each architecture uses its own"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    I386,
    Aarch64,
}

impl Abi {
    /// `AUDIT_ARCH_*` (linux/audit.h).
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    pub(super) const fn number(self, call: &Call) -> Option<u16> {
        match self {
            Self::X86_64 => call.x86_64,
            Self::I386 => call.i386,
            Self::Aarch64 => call.aarch64,
        }
    }
}

/// What becomes of a number under a profile: an end, or one of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Action {
    Allow,
    Refuse,
    Missing,
    Clone,
    Unshare,
    Personality,
    Ioctl,
    Socket,
    Socketpair,
    Socketcall,
    SocketOption,
    Kill,
    Pid,
    Priority,
    IoPriority,
    ModeSecond,
    ModeThird,
    Open,
    OpenAt,
}

const CHECKS: [Action; 16] = [
    Action::Clone,
    Action::Unshare,
    Action::Personality,
    Action::Ioctl,
    Action::Socket,
    Action::Socketpair,
    Action::Socketcall,
    Action::SocketOption,
    Action::Kill,
    Action::Pid,
    Action::Priority,
    Action::IoPriority,
    Action::ModeSecond,
    Action::ModeThird,
    Action::Open,
    Action::OpenAt,
];

/// What a rule means under a profile. `own_pids`: the payload has a pid namespace.
pub(super) const fn action(rule: Rule, profile: Profile, own_pids: bool) -> Action {
    match (rule, profile) {
        (Rule::Kill, _) if own_pids => Action::Allow,
        (Rule::Kill, _) => Action::Kill,
        (Rule::Allow, _)
        | (
            Rule::Nesting
            | Rule::Clone
            | Rule::Clone3
            | Rule::Unshare
            | Rule::ModeSecond
            | Rule::ModeThird
            | Rule::Open
            | Rule::OpenAt
            | Rule::OpenAt2,
            Profile::Nested,
        )
        | (Rule::Relaxed, Profile::Default | Profile::Nested) => Action::Allow,
        (Rule::Deny | Rule::Nesting, _) | (Rule::Relaxed, Profile::Strict) => Action::Refuse,
        (Rule::Missing | Rule::Clone3 | Rule::OpenAt2, _) => Action::Missing,
        (Rule::Clone, _) => Action::Clone,
        (Rule::Unshare, _) => Action::Unshare,
        (Rule::Personality, _) => Action::Personality,
        (Rule::Ioctl, _) => Action::Ioctl,
        (Rule::Socket, _) => Action::Socket,
        (Rule::Socketpair, _) => Action::Socketpair,
        (Rule::Socketcall, _) => Action::Socketcall,
        (Rule::SocketOption, _) => Action::SocketOption,
        (Rule::Pid, _) => Action::Pid,
        (Rule::Priority, _) => Action::Priority,
        (Rule::IoPriority, _) => Action::IoPriority,
        (Rule::ModeSecond, _) => Action::ModeSecond,
        (Rule::ModeThird, _) => Action::ModeThird,
        (Rule::Open, _) => Action::Open,
        (Rule::OpenAt, _) => Action::OpenAt,
    }
}

pub(super) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

pub(super) const fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// The answer to [`QUESTION`]: an errno that nothing else gives, another one for each filter.
pub(super) const fn signature(profile: Profile, own_pids: bool) -> i32 {
    let first = if own_pids { 0xba0 } else { 0xbb0 };
    first
        + match profile {
            Profile::Default => 1,
            Profile::Nested => 2,
            Profile::Strict => 3,
        }
}

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ABI: u32 = 4;

const fn low(argument: u32) -> u32 {
    16 + 8 * argument
}

const fn high(argument: u32) -> u32 {
    low(argument) + 4
}

/// Every flag of clone(2) that makes a namespace. (CLONE_NEWTIME is not among them: clone(2) has its exit signal there.)
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// What unshare(2) may take apart: nothing but what threads of one process share. By allow-list: flags that come later are
/// namespaces, as all did that came lately.
const UNSHARED: u32 = (libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_THREAD
    | libc::CLONE_SIGHAND
    | libc::CLONE_VM) as u32;

/// linux/personality.h
const PER_LINUX32: libc::c_int = 0x0008;

/// PER_LINUX32 and UNAME26: another uname(2). Never READ_IMPLIES_EXEC or MMAP_PAGE_ZERO.
const PERSONALITIES: u32 = (PER_LINUX32 | libc::UNAME26) as u32;

/// Fixed addresses, as debuggers want them: the process's own loss.
const DEBUGGED: u32 = PERSONALITIES | libc::ADDR_NO_RANDOMIZE as u32;

/// Only asks.
const WHICH_PERSONALITY: u32 = 0xffff_ffff;

/// Types into a terminal; pastes on a console; loads a line discipline, a module that few look after.
const IOCTLS: [u32; 3] = [0x5412, 0x541c, 0x5423];

/// Protocols of AF_INET and AF_INET6: any, ICMP, TCP, UDP, ICMPv6. Those left out load modules of their own (SCTP, DCCP, MPTCP...).
const PROTOCOLS: [u32; 5] = [0, 1, 6, 17, 58];

/// SOCK_STREAM, SOCK_DGRAM, SOCK_RAW. Not SOCK_PACKET, which with AF_INET is AF_PACKET (`__sock_create()`), nor SOCK_SEQPACKET
/// and SOCK_DCCP, which with protocol 0 are SCTP and DCCP.
const TYPES: [u32; 3] = [1, 2, 3];
const TYPE_MASK: u32 = 0xf;

/// `(level, option)`: TCP_ULP (kernel TLS, ESP in TCP), UDP_ENCAP (ESP in UDP).
const SOCKET_OPTIONS: [(u32, u32); 2] = [(6, 31), (17, 100)];

/// `call` of socketcall(2): SYS_SOCKET and SYS_SOCKETPAIR, whose family cannot be seen, and SYS_SETSOCKOPT likewise.
const SOCKETCALLS: [(u32, i32); 3] =
    [(1, libc::EAFNOSUPPORT), (8, libc::EAFNOSUPPORT), (14, libc::ENOPROTOOPT)];

/// init, as the payload numbers it.
const INIT: u32 = 1;

/// The caller, where a pid is asked for.
const ONESELF: u32 = 0;

/// kill(2): -1.
const EVERYBODY: u32 = u32::MAX;

/// linux/resource.h
const PRIO_PROCESS: u32 = 0;
const PRIO_USER: u32 = 2;

/// linux/ioprio.h
const IOPRIO_WHO_PROCESS: u32 = 1;
const IOPRIO_WHO_USER: u32 = 3;

/// The flags with which open(2) looks at its mode (`WILL_CREATE()` in linux/fs.h): O_CREAT, and the bit that O_TMPFILE has beside
/// O_DIRECTORY. They are the same in every ABI of the table.
const CREATES: u32 = 0o0_000_100 | 0o20_000_000;

/// Whoever executes such a file becomes its owner.
const SET_USER_ID: u32 = 0o4000;

/// Whoever executes such a file joins its group. On a directory the bit hands the group on, and a filter cannot tell a directory
/// from a file: groups that share one would lose chmod(1), tar and rsync with it.
const SET_GROUP_ID: u32 = 0o2000;

/// Of so many runs of numbers the best order is looked for.
const FEW: usize = 6;

/// A filter's program.
pub(super) struct Program(Assembler);

impl Program {
    /// For these ABIs, the most usual one first. In any other every call is ENOSYS.
    pub(super) const fn new(abis: &[Abi], profile: Profile, own_pids: bool) -> Self {
        let mut asm = Assembler::new();
        asm.end(errno(libc::ENOSYS));
        let checks = checks(&mut asm, abis, profile, own_pids);
        let mut other = asm.end(errno(libc::ENOSYS));
        let mut at = abis.len();
        while at > 0 {
            at -= 1;
            let ranges = Ranges::of(abis[at], profile, own_pids);
            ranges.search(&mut asm, &checks, 0, ranges.count);
            let own = asm.load(NUMBER);
            // What follows in the program is the look at the next ABI.
            other = asm.branch(IF_EQUAL, abis[at].audit(), own, other);
        }
        asm.load(ABI);
        Self(asm)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn code<const N: usize>(&self) -> [sock_filter; N] {
        self.0.finish()
    }
}

#[cfg(test)]
impl Program {
    pub(super) fn to_vec(&self) -> Vec<sock_filter> {
        self.0.to_vec()
    }
}

/// FNV-1a, 64 bits, over the instructions.
pub(super) const fn digest(code: &[sock_filter]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < code.len() {
        let sock_filter { code, jt, jf, k } = code[at];
        let word = (code as u64) << 48 | (jt as u64) << 40 | (jf as u64) << 32 | k as u64;
        let bytes = word.to_le_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            hash = (hash ^ bytes[byte] as u64).wrapping_mul(0x100_0000_01b3);
            byte += 1;
        }
        at += 1;
    }
    hash
}

/// Where each check begins: placed once, at the end of the program, because a call has its arguments at the same places in
/// every ABI. `None`: no call of these ABIs leads there.
const fn checks(
    asm: &mut Assembler,
    abis: &[Abi],
    profile: Profile,
    own_pids: bool,
) -> [Option<Label>; CHECKS.len()] {
    let mut checks = [None; CHECKS.len()];
    let mut abi = 0;
    while abi < abis.len() {
        let ranges = Ranges::of(abis[abi], profile, own_pids);
        let mut at = 0;
        while at < CHECKS.len() {
            if checks[at].is_none() && ranges.lead_to(CHECKS[at]) {
                checks[at] = Some(check(asm, CHECKS[at], profile, own_pids));
            }
            at += 1;
        }
        abi += 1;
    }
    checks
}

/// Runs of numbers with one action, by their first.
pub(super) struct Ranges {
    runs: [(u32, Action); 512],
    count: usize,
}

impl Ranges {
    const fn of(abi: Abi, profile: Profile, own_pids: bool) -> Self {
        let actions = actions(abi, profile, own_pids);
        let mut ranges = Self { runs: [(0, actions[0]); 512], count: 1 };
        let mut number = 1;
        while number < actions.len() {
            if actions[number] as u8 != actions[number - 1] as u8 {
                ranges.push(number as u32, actions[number]);
            }
            number += 1;
        }
        // x32 is here as well: its numbers have bit 30 set.
        if ranges.runs[ranges.count - 1].1 as u8 != Action::Missing as u8 {
            ranges.push(NEWEST as u32 + 1, Action::Missing);
        }
        // A tracer that skips a call sets the number -1, and the result itself.
        ranges.push(u32::MAX, Action::Allow);
        ranges
    }

    const fn push(&mut self, first: u32, action: Action) {
        self.runs[self.count] = (first, action);
        self.count += 1;
    }

    const fn lead_to(&self, action: Action) -> bool {
        let mut at = 0;
        while at < self.count {
            if self.runs[at].1 as u8 == action as u8 {
                return true;
            }
            at += 1;
        }
        false
    }

    const fn search(
        &self,
        asm: &mut Assembler,
        checks: &[Option<Label>; CHECKS.len()],
        from: usize,
        to: usize,
    ) -> Label {
        if to - from == 1 {
            return match self.runs[from].1 {
                Action::Allow => asm.end(ALLOW),
                Action::Refuse => asm.end(errno(libc::EPERM)),
                Action::Missing => asm.end(errno(libc::ENOSYS)),
                check => match checks[check as usize - Action::Clone as usize] {
                    Some(label) => label,
                    None => panic!("this check was not placed"),
                },
            };
        }
        if self.is_one_number(from, to) {
            let one = self.search(asm, checks, from + 1, from + 2);
            let others = self.search(asm, checks, from, from + 1);
            return asm.branch(IF_EQUAL, self.runs[from + 1].0, one, others);
        }
        let middle = self.middle(from, to);
        let above = self.search(asm, checks, middle, to);
        let below = self.search(asm, checks, from, middle);
        asm.branch(IF_NOT_BELOW, self.runs[middle].0, above, below)
    }

    /// One number among others that are treated alike: one comparison instead of two.
    const fn is_one_number(&self, from: usize, to: usize) -> bool {
        to - from == 3
            && self.runs[from].1 as u8 == self.runs[from + 2].1 as u8
            && self.runs[from + 2].0 - self.runs[from + 1].0 == 1
    }

    /// Where to part: in the middle, and of few so that the fewest comparisons are left.
    const fn middle(&self, from: usize, to: usize) -> usize {
        let half = usize::midpoint(from, to);
        if to - from > FEW {
            return half;
        }
        let (mut best, mut least) = (half, self.comparisons(from, half) + self.comparisons(half, to));
        let mut at = from + 1;
        while at < to {
            let count = self.comparisons(from, at) + self.comparisons(at, to);
            if count < least {
                (best, least) = (at, count);
            }
            at += 1;
        }
        best
    }

    /// How many comparisons the search among so few takes.
    const fn comparisons(&self, from: usize, to: usize) -> usize {
        if to - from == 1 {
            return 0;
        }
        if self.is_one_number(from, to) {
            return 1;
        }
        let mut least = usize::MAX;
        let mut at = from + 1;
        while at < to {
            let count = 1 + self.comparisons(from, at) + self.comparisons(at, to);
            if count < least {
                least = count;
            }
            at += 1;
        }
        least
    }
}

/// The action of every number.
pub(super) const fn actions(abi: Abi, profile: Profile, own_pids: bool) -> [Action; NEWEST as usize + 1] {
    let mut actions = [Action::Missing; NEWEST as usize + 1];
    let mut taken = [false; NEWEST as usize + 1];
    let mut at = 0;
    while at < CALLS.len() {
        if let Some(number) = abi.number(&CALLS[at]) {
            assert!(!taken[number as usize], "two calls have this number");
            taken[number as usize] = true;
            actions[number as usize] = action(CALLS[at].rule, profile, own_pids);
        }
        at += 1;
    }
    actions
}

/// The instructions that judge arguments.
const fn check(asm: &mut Assembler, check: Action, profile: Profile, own_pids: bool) -> Label {
    let refuse = asm.end(errno(libc::EPERM));
    let allow = asm.end(ALLOW);
    match check {
        Action::Clone => {
            asm.branch(IF_ANY_BIT, NAMESPACES, refuse, allow);
            asm.load(low(0))
        }
        Action::Unshare => {
            asm.branch(IF_ANY_BIT, !UNSHARED, refuse, allow);
            let flags = asm.load(low(0));
            asm.branch(IF_EQUAL, 0, flags, refuse);
            asm.load(high(0))
        }
        Action::Personality => {
            let values = if matches!(profile, Profile::Strict) { PERSONALITIES } else { DEBUGGED };
            asm.branch(IF_ANY_BIT, !values, refuse, allow);
            asm.when(IF_EQUAL, WHICH_PERSONALITY, allow);
            asm.load(low(0))
        }
        Action::Ioctl => {
            one_of(asm, &IOCTLS, refuse, allow);
            asm.load(low(1))
        }
        Action::Socket => {
            let no_family = asm.end(errno(libc::EAFNOSUPPORT));
            let no_protocol = asm.end(errno(libc::EPROTONOSUPPORT));
            let no_type = asm.end(errno(libc::ESOCKTNOSUPPORT));
            one_of(asm, &PROTOCOLS, allow, no_protocol);
            let protocol = asm.load(low(2));
            one_of(asm, &TYPES, protocol, no_type);
            asm.mask(TYPE_MASK);
            let internet = asm.load(low(1));
            asm.branch(IF_EQUAL, libc::NETLINK_ROUTE as u32, allow, no_family);
            let netlink = asm.load(low(2));
            asm.branch(IF_EQUAL, libc::AF_NETLINK as u32, netlink, no_family);
            asm.when(IF_EQUAL, libc::AF_INET6 as u32, internet);
            asm.when(IF_EQUAL, libc::AF_INET as u32, internet);
            asm.when(IF_EQUAL, libc::AF_UNIX as u32, allow);
            asm.load(low(0))
        }
        Action::Socketpair => {
            let no_family = asm.end(errno(libc::EAFNOSUPPORT));
            asm.branch(IF_EQUAL, libc::AF_UNIX as u32, allow, no_family);
            asm.load(low(0))
        }
        Action::Socketcall => {
            let mut next = allow;
            let mut at = 0;
            while at < SOCKETCALLS.len() {
                let end = asm.end(errno(SOCKETCALLS[at].1));
                next = asm.branch(IF_EQUAL, SOCKETCALLS[at].0, end, next);
                at += 1;
            }
            asm.load(low(0))
        }
        Action::SocketOption => {
            let no_option = asm.end(errno(libc::ENOPROTOOPT));
            let mut options = [allow; SOCKET_OPTIONS.len()];
            let mut at = 0;
            while at < SOCKET_OPTIONS.len() {
                asm.branch(IF_EQUAL, SOCKET_OPTIONS[at].1, no_option, allow);
                options[at] = asm.load(low(2));
                at += 1;
            }
            let mut next = allow;
            at = 0;
            while at < SOCKET_OPTIONS.len() {
                next = asm.branch(IF_EQUAL, SOCKET_OPTIONS[at].0, options[at], next);
                at += 1;
            }
            asm.load(low(1))
        }
        Action::Kill => {
            asm.branch(IF_EQUAL, EVERYBODY, refuse, allow);
            asm.load(low(0))
        }
        Action::Pid => {
            if own_pids {
                asm.branch(IF_EQUAL, INIT, refuse, allow);
            } else {
                asm.branch(IF_EQUAL, ONESELF, allow, refuse);
            }
            asm.load(low(0))
        }
        Action::Priority => {
            let myself = asm.end(errno(signature(profile, own_pids)));
            priority(asm, PRIO_PROCESS, PRIO_USER, own_pids);
            asm.when(IF_EQUAL, QUESTION, myself);
            asm.load(low(0))
        }
        Action::IoPriority => {
            priority(asm, IOPRIO_WHO_PROCESS, IOPRIO_WHO_USER, own_pids);
            asm.load(low(0))
        }
        Action::ModeSecond => mode(asm, 1, profile),
        Action::ModeThird => mode(asm, 2, profile),
        Action::Open => making(asm, 1, profile),
        Action::OpenAt => making(asm, 2, profile),
        Action::Allow | Action::Refuse | Action::Missing => panic!("not a check"),
    }
}

/// Not of init, and not of all processes of a user, of which init is one. Process groups need no check: init's is not in the
/// payload's pid namespace, and the payload has a session of its own. Without one any number may be the pilot's: only the
/// caller itself.
const fn priority(asm: &mut Assembler, process: u32, user: u32, own_pids: bool) -> Label {
    let refuse = asm.end(errno(libc::EPERM));
    let allow = asm.end(ALLOW);
    if !own_pids {
        asm.branch(IF_EQUAL, ONESELF, allow, refuse);
        let who = asm.load(low(1));
        return asm.branch(IF_EQUAL, process, who, refuse);
    }
    asm.branch(IF_EQUAL, INIT, refuse, allow);
    let who = asm.load(low(1));
    asm.branch(IF_EQUAL, process, who, allow);
    asm.when(IF_EQUAL, user, refuse)
}

/// The mode of a file, at this argument.
const fn mode(asm: &mut Assembler, argument: u32, profile: Profile) -> Label {
    let bits = if matches!(profile, Profile::Strict) { SET_USER_ID | SET_GROUP_ID } else { SET_USER_ID };
    let refuse = asm.end(errno(libc::EPERM));
    let allow = asm.end(ALLOW);
    asm.branch(IF_ANY_BIT, bits, refuse, allow);
    asm.load(low(argument))
}

/// Flags at this argument, and after them a mode that counts only where a file is made.
const fn making(asm: &mut Assembler, flags: u32, profile: Profile) -> Label {
    let mode = mode(asm, flags + 1, profile);
    let allow = asm.end(ALLOW);
    asm.branch(IF_ANY_BIT, CREATES, mode, allow);
    asm.load(low(flags))
}

/// Whether what was loaded is one of these.
const fn one_of(asm: &mut Assembler, values: &[u32], yes: Label, no: Label) -> Label {
    let mut next = no;
    let mut at = 0;
    while at < values.len() {
        next = asm.branch(IF_EQUAL, values[at], yes, next);
        at += 1;
    }
    next
}
