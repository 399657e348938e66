//! What init and payload tell the launcher: fixed-size messages of plain numbers, readable without allocation.
#![forbid(unsafe_code)]

use super::landlock::{Granted, Parts};
use crate::sys::Errno;
use crate::sys::process::Usage;

/// Where in the set-up something went wrong. The order is the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names are the steps; `sandbox::explain` has the words")]
pub enum Stage {
    Descriptors = 1,
    IdMap,
    Limits,
    OomScore,
    Undumpable,
    ParentDeath,
    Namespaces,
    Loopback,
    Hostname,
    Propagation,
    Scratch,
    Node,
    Source,
    Changed,
    Attributes,
    Proc,
    Overlay,
    Target,
    Attach,
    Pivot,
    StartDir,
    Hidden,
    ForbidNesting,
    Keyring,
    Ceilings,
    Priority,
    Personality,
    Capabilities,
    Securebits,
    NoNewPrivs,
    Fork,
    Session,
    Landlock,
    ReadBack,
    Command,
    Seccomp,
    Exec,
}

impl Stage {
    /// All of them, to find one by number.
    pub const ALL: [Self; 37] = [
        Self::Descriptors,
        Self::IdMap,
        Self::Limits,
        Self::OomScore,
        Self::Undumpable,
        Self::ParentDeath,
        Self::Namespaces,
        Self::Loopback,
        Self::Hostname,
        Self::Propagation,
        Self::Scratch,
        Self::Node,
        Self::Source,
        Self::Changed,
        Self::Attributes,
        Self::Proc,
        Self::Overlay,
        Self::Target,
        Self::Attach,
        Self::Pivot,
        Self::StartDir,
        Self::Hidden,
        Self::ForbidNesting,
        Self::Keyring,
        Self::Ceilings,
        Self::Priority,
        Self::Personality,
        Self::Capabilities,
        Self::Securebits,
        Self::NoNewPrivs,
        Self::Fork,
        Self::Session,
        Self::Landlock,
        Self::ReadBack,
        Self::Command,
        Self::Seccomp,
        Self::Exec,
    ];
}

/// The index of a command that is not one of the prepared paths but what the shell at such a path executes.
pub const BEHIND: u32 = u32::MAX;

/// A step that failed: which, on which element of the plan, with what errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// The step.
    pub stage: Stage,
    /// Which element of the plan's list, or which part of the step.
    pub index: u32,
    /// What the kernel said.
    pub errno: Errno,
}

/// A message from a child. All numbers in native byte order: both ends are the same program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// init's namespace files come along as descriptors.
    Namespaces,
    /// The set-up failed; the sender exits.
    Failed(Trouble),
    /// The payload stands one instruction before execve.
    Ready(Ready),
    /// The payload's process ended, and everything else in its pid namespace was killed and reaped.
    Ended(Ended),
}

/// What the frozen payload says of itself, read back from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// Which of the prepared command paths it will execute.
    pub command: u32,
    /// `prctl(PR_GET_SECUREBITS)`.
    pub securebits: u32,
    /// Errno of joining a new session keyring, 0 when it worked.
    pub keyring: i32,
    /// Its pid in its own namespace.
    pub vpid: i32,
    /// Errno of setting the filter of system calls, 0 when it holds, -1 when none was asked for.
    pub seccomp: i32,
    /// What else holds.
    pub held: Held,
    /// What Landlock granted.
    pub landlock: Granted,
    /// Errno with which a proc of its own was refused, 0 when it has one, -1 when none was asked for.
    pub proc: i32,
    /// Errno of the limits on namespaces, in whose place the root directory forbids them; 0 when they are set, or nothing is
    /// to be forbidden.
    pub limits: i32,
    /// Errno of going into a control group that was handed over, 0 when it is in all of them.
    pub groups: i32,
}

/// The process's own state, each from the call that shows it. [`super::observe`] compares it with what was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// `prctl(PR_GET_NO_NEW_PRIVS)`
    pub no_new_privs: bool,
    /// `prctl(PR_GET_DUMPABLE)`
    pub dumpable: i32,
    /// capget(2), all three sets together.
    pub capabilities: u64,
    /// umask(2).
    pub umask: u32,
    /// Blocked signals.
    pub blocked: u64,
    /// personality(2).
    pub personality: u32,
    /// getsid(2).
    pub session: i32,
    /// Serial number of the keyring that was joined, 0 for none.
    pub joined: i32,
    /// That of the session keyring it has now.
    pub keyring: i32,
    /// Bit N: the Nth of the limits that were lowered is above its ceiling.
    pub above: u32,
    /// What the Landlock domain must forbid was tried, and is.
    pub landlock: bool,
    /// getresuid(2), getresgid(2).
    pub ids: (u32, u32),
    /// Its oom_score_adj, where that was to be raised.
    pub oom_score_adj: i32,
    /// A descriptor that was left open was marked to close at the execve, with all others.
    pub closes: bool,
}

/// How it ended, and what the whole tree used: getrusage(2) of init's reaped children, and I/O (proc_pid_io(5)), the
/// latter `u64::MAX` where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Raw wait status of the payload.
    pub status: i32,
    /// CPU time, peak memory, page faults.
    pub usage: Usage,
    /// `rchar`
    pub read_chars: u64,
    /// `wchar`
    pub write_chars: u64,
    /// `read_bytes`
    pub read_bytes: u64,
    /// `write_bytes`
    pub write_bytes: u64,
}

/// Size of every message on the wire.
pub const SIZE: usize = WORDS * 8;
/// Numbers in a message; more than any needs.
const WORDS: usize = 27;

/// The numbers of a message, and zeros.
fn words(said: &[u64]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, said) in words.iter_mut().zip(said) {
        *word = *said;
    }
    words
}

impl Message {
    /// The bytes of the message.
    pub fn encode(self) -> [u8; SIZE] {
        let words: [u64; WORDS] = match self {
            Self::Namespaces => words(&[1]),
            Self::Failed(t) => words(&[2, t.stage as u64, u64::from(t.index), t.errno as i32 as u64]),
            Self::Ready(r) => words(&[
                3,
                u64::from(r.command),
                u64::from(r.securebits),
                r.keyring as u64,
                r.vpid as u64,
                r.seccomp as u64,
                u64::from(r.held.no_new_privs),
                r.held.dumpable as u64,
                r.held.capabilities,
                u64::from(r.held.umask),
                r.held.blocked,
                u64::from(r.held.personality),
                r.held.session as u64,
                r.held.joined as u64,
                r.held.keyring as u64,
                u64::from(r.held.above),
                u64::from(r.held.landlock),
                u64::from(r.held.ids.0),
                u64::from(r.held.ids.1),
                r.held.oom_score_adj as u64,
                u64::from(r.held.closes),
                u64::from(r.landlock.abi),
                r.landlock.parts.bits(),
                r.landlock.errno as u64,
                r.proc as u64,
                r.limits as u64,
                r.groups as u64,
            ]),
            Self::Ended(e) => words(&[
                4,
                e.status as u64,
                e.read_chars,
                e.write_chars,
                e.read_bytes,
                e.write_bytes,
                e.usage.cpu_user_us,
                e.usage.cpu_system_us,
                e.usage.memory_peak_bytes,
                e.usage.page_faults_major,
            ]),
        };
        let mut bytes = [0_u8; SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Reads a message; `None` for anything that a child of ours does not send.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SIZE {
            return None;
        }
        let mut words = [0_u64; WORDS];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(from.try_into().ok()?);
        }
        let [kind, first, second, third, fourth, fifth, user, system, memory, faults, ..] = words;
        match kind {
            1 => Some(Self::Namespaces),
            2 => {
                let stage = Stage::ALL.into_iter().find(|stage| *stage as u64 == first)?;
                Some(Self::Failed(Trouble {
                    stage,
                    index: second as u32,
                    errno: Errno::from_raw(third as i32),
                }))
            }
            3 => Some(Self::Ready(Ready::of(&words))),
            4 => Some(Self::Ended(Ended {
                status: first as i32,
                read_chars: second,
                write_chars: third,
                read_bytes: fourth,
                write_bytes: fifth,
                usage: Usage {
                    cpu_user_us: user,
                    cpu_system_us: system,
                    memory_peak_bytes: memory,
                    page_faults_major: faults,
                },
            })),
            _ => None,
        }
    }
}

impl Ready {
    fn of(words: &[u64; WORDS]) -> Self {
        let mut words = words.iter().skip(1).copied();
        let mut next = || words.next().unwrap_or_default();
        // In the order in which they were written: a structure's fields are evaluated as they stand here.
        Self {
            command: next() as u32,
            securebits: next() as u32,
            keyring: next() as i32,
            vpid: next() as i32,
            seccomp: next() as i32,
            held: Held {
                no_new_privs: next() == 1,
                dumpable: next() as i32,
                capabilities: next(),
                umask: next() as u32,
                blocked: next(),
                personality: next() as u32,
                session: next() as i32,
                joined: next() as i32,
                keyring: next() as i32,
                above: next() as u32,
                landlock: next() == 1,
                ids: (next() as u32, next() as u32),
                oom_score_adj: next() as i32,
                closes: next() == 1,
            },
            landlock: Granted { abi: next() as u32, parts: Parts::from_bits(next()), errno: next() as i32 },
            proc: next() as i32,
            limits: next() as i32,
            groups: next() as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let all = [
            Message::Namespaces,
            Message::Failed(Trouble { stage: Stage::Attach, index: 7, errno: Errno::ENOENT }),
            Message::Ready(Ready {
                command: 2,
                securebits: 0xef,
                keyring: 122,
                vpid: 2,
                seccomp: -1,
                held: Held {
                    no_new_privs: true,
                    dumpable: 3,
                    capabilities: 1 << 40,
                    umask: 0o77,
                    blocked: u64::MAX,
                    personality: 0x0004_0000,
                    session: 4,
                    joined: 5,
                    keyring: 6,
                    above: 7,
                    landlock: true,
                    ids: (10, 11),
                    oom_score_adj: -12,
                    closes: true,
                },
                landlock: Granted { abi: 8, parts: Parts::from_bits(5), errno: 9 },
                proc: -1,
                limits: 30,
                groups: 13,
            }),
            Message::Ended(Ended {
                usage: Usage { cpu_user_us: 5, cpu_system_us: 6, memory_peak_bytes: 7, page_faults_major: 8 },
                status: 0x8b,
                read_chars: 1,
                write_chars: u64::MAX,
                read_bytes: 3,
                write_bytes: 4,
            }),
        ];
        for message in all {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(&[0; SIZE]), None);
        assert_eq!(Message::decode(&[1; 3]), None);
    }

    #[test]
    fn every_stage_has_its_number() {
        for (index, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, index + 1);
        }
    }
}
