//! Every filter, run in an interpreter over all numbers of all ABIs, against the table read row by row.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::calls::{CALLS, NEWEST, Rule};
use super::program::{ALLOW, Abi, Action, Program, action, errno, signature};
use super::{Filter, QUESTION, filter, program};
use crate::policy::rule::Profile;
use libc::{EAFNOSUPPORT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT, sock_filter};

/// A profile, and whether the payload has a pid namespace.
type Kind = (Profile, bool);

const KINDS: [Kind; 5] = [
    (Profile::Default, true),
    (Profile::Default, false),
    (Profile::Nested, true),
    (Profile::Strict, true),
    (Profile::Strict, false),
];
/// ABIs of a filter; the first is the machine's own.
const ABIS: [&[Abi]; 3] = [&[Abi::X86_64], &[Abi::X86_64, Abi::I386], &[Abi::Aarch64]];

/// Classic BPF as seccomp(2) has it: the value that the program returns, and how many instructions it took.
fn run(code: &[sock_filter], abi: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let mut data = [0_u32; 16];
    (data[0], data[1]) = (number, abi);
    for (at, argument) in arguments.into_iter().enumerate() {
        (data[4 + 2 * at], data[5 + 2 * at]) = (argument as u32, (argument >> 32) as u32);
    }
    let (mut at, mut steps, mut loaded) = (0, 0, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = code[at];
        (at, steps) = (at + 1, steps + 1);
        let holds = match u32::from(code) {
            0x20 => {
                assert_eq!(k % 4, 0, "the kernel refuses loads that are not aligned");
                loaded = data[k as usize / 4];
                continue;
            }
            0x54 => {
                loaded &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return (k, steps),
            0x15 => loaded == k,
            0x35 => loaded >= k,
            0x45 => loaded & k != 0,
            other => panic!("no such instruction: {other:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn assemble(abis: &'static [Abi], (profile, own_pids): Kind) -> Vec<sock_filter> {
    // The assembler is meant for the compiler; here it runs once for each of the filters.
    let program = Program::new(abis, profile, own_pids);
    program.to_vec()
}

/// Every program there is, those of other architectures included.
fn all() -> impl Iterator<Item = (Kind, &'static [Abi], Vec<sock_filter>)> {
    KINDS.into_iter().flat_map(|kind| ABIS.map(|abis| (kind, abis, assemble(abis, kind))))
}

fn rule_of(abi: Abi, number: u32) -> Option<Rule> {
    CALLS.iter().find(|call| abi.number(call).map(u32::from) == Some(number)).map(|call| call.rule)
}

const AF_INET: u64 = 2;

/// What the table means, written down once more and plainly.
fn expected(rule: Option<Rule>, (profile, own_pids): Kind, a: [u64; 6]) -> u32 {
    let strict = profile == Profile::Strict;
    let nested = profile == Profile::Nested;
    let refuse = |refused: bool, with: i32| if refused { errno(with) } else { ALLOW };
    let [first, second, third] = [a[0] as u32, a[1] as u32, a[2] as u32];
    let sets_id = |mode: u32| mode & if strict { 0o6000 } else { 0o4000 } != 0;
    match rule {
        None | Some(Rule::Missing) => errno(ENOSYS),
        Some(Rule::Allow) => ALLOW,
        Some(Rule::Deny) => errno(EPERM),
        Some(Rule::Nesting) => refuse(!nested, EPERM),
        Some(Rule::Relaxed) => refuse(strict, EPERM),
        Some(Rule::Clone3 | Rule::OpenAt2) => refuse(!nested, ENOSYS),
        Some(Rule::Clone) => refuse(!nested && first & 0x7e02_0000 != 0, EPERM),
        Some(Rule::Unshare) => refuse(!nested && a[0] & !0x0005_0f00 != 0, EPERM),
        Some(Rule::Personality) => {
            let allowed = if strict { 0x2_0008 } else { 0x6_0008 };
            refuse(first != u32::MAX && first & !allowed != 0, EPERM)
        }
        Some(Rule::Ioctl) => refuse([0x5412, 0x541c, 0x5423].contains(&second), EPERM),
        Some(Rule::Socket) => match first {
            1 => ALLOW,
            2 | 10 if !(1..=3).contains(&(second & 0xf)) => errno(ESOCKTNOSUPPORT),
            2 | 10 => refuse(![0, 1, 6, 17, 58].contains(&third), EPROTONOSUPPORT),
            16 => refuse(third != 0, EAFNOSUPPORT),
            _ => errno(EAFNOSUPPORT),
        },
        Some(Rule::Socketpair) => refuse(first != 1, EAFNOSUPPORT),
        Some(Rule::Socketcall) => match first {
            1 | 8 => errno(EAFNOSUPPORT),
            14 => errno(ENOPROTOOPT),
            _ => ALLOW,
        },
        Some(Rule::SocketOption) => refuse([(6, 31), (17, 100)].contains(&(second, third)), ENOPROTOOPT),
        Some(Rule::Kill) => refuse(!own_pids && first == u32::MAX, EPERM),
        Some(Rule::Pid) => refuse(if own_pids { first == 1 } else { first != 0 }, EPERM),
        Some(Rule::Priority) if first == QUESTION => errno(signature(profile, own_pids)),
        Some(Rule::Priority) if !own_pids => refuse(first != 0 || second != 0, EPERM),
        Some(Rule::IoPriority) if !own_pids => refuse(first != 1 || second != 0, EPERM),
        Some(Rule::Priority) => refuse(first == 2 || first == 0 && second == 1, EPERM),
        Some(Rule::ModeSecond) => refuse(!nested && sets_id(second), EPERM),
        Some(Rule::ModeThird) => refuse(!nested && sets_id(third), EPERM),
        Some(Rule::Open) => refuse(!nested && second & 0x0040_0040 != 0 && sets_id(third), EPERM),
        Some(Rule::OpenAt) => refuse(!nested && third & 0x0040_0040 != 0 && sets_id(a[3] as u32), EPERM),
        Some(Rule::IoPriority) => refuse(first == 3 || first == 1 && second == 1, EPERM),
    }
}

/// Arguments that matter somewhere, alone and with the high word set.
fn arguments() -> Vec<u64> {
    let mut values: Vec<u64> = (0..20).collect();
    values.extend((0..32).map(|bit| 1 << bit));
    values.extend([
        31, 58, 100, 132, 136, 262, 0x5411, 0x5412, 0x5413, 0x541c, 0x5423, 0x2_0008, 0x6_0008, 0x6_0009,
    ]);
    values.extend([0o4755, 0o2755, 0o644, 0o101, 0o20_200_002]);
    values.extend([u64::from(QUESTION), 0xffff_ffff, 0x0801, 0x80806, 0x8000a, 0x0005_0f00, 0x7e02_0000]);
    values.extend(values.clone().into_iter().map(|value| value | 1 << 32));
    values.extend(values.clone().into_iter().map(|value| value | 0xffff_ffff << 32));
    values.sort_unstable();
    values.dedup();
    values
}

#[test]
fn every_number_of_every_abi_gets_what_the_table_says() {
    for (kind, abis, code) in all() {
        for abi in abis {
            for number in (0..2048).chain([0x4000_0000, 0x4000_0027, 0x4000_0200, 0x7fff_ffff, 0xffff_fffe]) {
                let expected = expected(rule_of(*abi, number), kind, [0; 6]);
                let (got, _) = run(&code, abi.audit(), number, [0; 6]);
                assert_eq!(got, expected, "{kind:?} {abi:?} {number}");
            }
            // What a tracer that skips a call leaves as its number.
            assert_eq!(run(&code, abi.audit(), u32::MAX, [0; 6]).0, ALLOW);
        }
    }
}

#[test]
fn arguments_are_judged_by_the_words_that_the_kernel_reads() {
    let values = arguments();
    // Two that must meet: every value beside a plain one.
    let plain: Vec<u64> =
        values.iter().copied().filter(|value| *value < 0x10_0000 && value.count_ones() < 4).collect();
    for (kind, abis, code) in all() {
        for abi in abis {
            for call in
                CALLS.iter().filter(|call| !matches!(call.rule, Rule::Allow | Rule::Deny | Rule::Missing))
            {
                let Some(number) = abi.number(call) else { continue };
                let judge = |a: [u64; 6]| {
                    let (got, _) = run(&code, abi.audit(), number.into(), a);
                    assert_eq!(
                        got,
                        expected(Some(call.rule), kind, a),
                        "{kind:?} {abi:?} {} {a:x?}",
                        call.name
                    );
                };
                for a in &values {
                    for b in &plain {
                        judge([*a, *b, 0, 0, 0, 0]);
                        judge([AF_INET, *a, *b, 0, 0, 0]);
                        judge([0, 0, *a, *b, 0, 0]);
                        judge([0, 0, *b, *a, 0, 0]);
                    }
                    judge([16, 3, *a, 0, 0, 0]);
                }
            }
        }
    }
}

/// Many numbers and arguments that nobody chose.
#[test]
fn the_tree_is_the_table() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (kind, abis, code) in all() {
        for _ in 0..20_000 {
            let abi = abis[random() as usize % abis.len()];
            let number = if random() % 4 == 0 { random() as u32 } else { random() as u32 % 512 };
            let mut a = [0; 6].map(|_| random() >> (random() % 64));
            a[0] = if random() % 2 == 0 { random() % 64 } else { a[0] };
            let (got, _) = run(&code, abi.audit(), number, a);
            let expected = if number == u32::MAX { ALLOW } else { expected(rule_of(abi, number), kind, a) };
            assert_eq!(got, expected, "{kind:?} {abi:?} {number} {a:x?}");
        }
    }
}

#[test]
fn calls_of_another_abi_are_not_there() {
    // AUDIT_ARCH_ARM, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64, and one that no machine has.
    let known = [0x4000_0028, 0x4000_0003, 0xc000_003e, 0xc000_00b7, 0x1234_5678];
    for (kind, abis, code) in all() {
        let others = known.iter().filter(|audit| !abis.iter().any(|abi| abi.audit() == **audit));
        for audit in others {
            for number in 0..512 {
                assert_eq!(
                    run(&code, *audit, number, [1; 6]).0,
                    errno(ENOSYS),
                    "{kind:?} {audit:#x} {number}"
                );
            }
        }
    }
}

#[test]
fn the_programs_are_short_and_what_the_kernel_takes() {
    for (kind, abis, code) in all() {
        assert!(code.len() < 600, "{kind:?} {abis:?}: {} instructions", code.len());
        for (at, instruction) in code.iter().enumerate() {
            let ends = instruction.code == 0x06;
            let far = match u32::from(instruction.code) {
                0x05 => instruction.k as usize,
                _ => usize::from(instruction.jt.max(instruction.jf)),
            };
            assert!(ends || at + 1 + far < code.len(), "{at} leads out of the program");
        }
        for number in 0..u32::from(NEWEST) {
            let (_, steps) = run(&code, abis[0].audit(), number, [0; 6]);
            assert!(steps <= 22, "{kind:?}: {number} takes {steps} instructions");
        }
    }
}

/// `seccomp_is_const_allow()` follows loads of number and ABI, comparisons, masks and jumps.
#[test]
fn the_kernel_can_see_that_most_calls_are_always_let_through() {
    for (kind, abis, code) in all() {
        for number in 0..=u32::from(NEWEST) {
            let Some(rule) = rule_of(abis[0], number) else { continue };
            if action(rule, kind.0, kind.1) != Action::Allow {
                continue;
            }
            let (mut at, mut loaded) = (0, 0);
            let verdict = loop {
                let sock_filter { code: op, jt, jf, k } = code[at];
                at += 1;
                match u32::from(op) {
                    0x20 if k == 0 => loaded = number,
                    0x20 if k == 4 => loaded = abis[0].audit(),
                    0x15 => at += usize::from(if loaded == k { jt } else { jf }),
                    0x35 => at += usize::from(if loaded >= k { jt } else { jf }),
                    0x05 => at += k as usize,
                    0x06 => break k,
                    _ => panic!("{kind:?} {number}: the kernel gives up at instruction {}", at - 1),
                }
            };
            assert_eq!(verdict, ALLOW);
        }
    }
}

#[test]
fn what_the_way_to_the_payload_needs_is_let_through() {
    for (kind, abis, code) in all() {
        for name in [
            "sendto",
            "sendmsg",
            "recvfrom",
            "recvmsg",
            "read",
            "write",
            "execve",
            "exit",
            "exit_group",
            "close",
        ] {
            let call = CALLS.iter().find(|call| call.name == name).unwrap();
            let number = abis[0].number(call).unwrap();
            assert_eq!(run(&code, abis[0].audit(), number.into(), [0; 6]).0, ALLOW, "{kind:?} {name}");
        }
    }
}

#[test]
fn the_built_in_filters_are_these_programs() {
    let filters: Vec<&Filter> = KINDS
        .into_iter()
        .flat_map(|(profile, own)| [filter(profile, false, own), filter(profile, true, own)])
        .collect();
    for filter in &filters {
        assert_eq!(filter.digest, program::digest(filter.code));
        let number = CALLS.iter().find(|call| call.name == "setpriority").unwrap();
        let (abi, number) = if cfg!(target_arch = "x86_64") {
            (Abi::X86_64, number.x86_64.unwrap())
        } else {
            (Abi::Aarch64, number.aarch64.unwrap())
        };
        let arguments = [u64::from(QUESTION), 0, 0, 0, 0, 0];
        let (answer, _) = run(filter.code, abi.audit(), number.into(), arguments);
        assert_eq!(answer, errno(filter.signature));
        assert!((0xba0..4096).contains(&filter.signature), "an errno that programs take for one");
    }
    let mut digests: Vec<u64> = filters.iter().map(|filter| filter.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    // `strict` has no 32-bit programs in either case; on aarch64 no profile has.
    assert_eq!(digests.len(), if cfg!(target_arch = "x86_64") { 8 } else { 5 });
    assert!(filter(Profile::Default, true, true).describe().starts_with("on: default, with"));
}

#[test]
fn every_call_stands_in_the_table_once() {
    let mut names: Vec<&str> = CALLS.iter().map(|call| call.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CALLS.len());
    assert!(CALLS.iter().all(|call| [call.x86_64, call.i386, call.aarch64].iter().flatten().count() > 0));
    // From 424 on all ABIs number alike.
    for call in CALLS.iter().filter(|call| call.x86_64.is_some_and(|number| number >= 424)) {
        assert_eq!(call.x86_64, call.aarch64, "{}", call.name);
        assert!(call.i386.is_none_or(|number| Some(number) == call.x86_64), "{}", call.name);
    }
}
