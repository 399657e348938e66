//! Packets to the recorder with anything in them: nothing panics, and what is understood is written as it was read.
//!
//! The same for what the recorder reads of /proc and of its peers. `make fuzz` does it with coverage (fuzz/).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bailey::audit::record::{Action, Record, StopBy};
use bailey::audit::wire::{
    self, BanTold, Done, Drain, HEADER, Hello, Launch, LiveRow, Malformed, Message, NEWEST, Note, Obeyed,
    Query, Receipt, Refused, Resume, Rows, Stop, Welcome,
};
use bailey::recorder::observe;
use bailey::request::LaunchId;

/// In a debug build a packet takes some 20 µs.
const ROUNDS: usize = if cfg!(debug_assertions) { 20_000 } else { 200_000 };

/// xorshift64*, with a fixed beginning: a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}

fn messages() -> Vec<Message> {
    let id = LaunchId::from_parts(1_763_000_000_000, [3; 10]);
    let text = || "a \"quoted\" \\ text, ü, \u{1}".to_owned();
    let mut record = Record::new(Action::PayloadLaunch, id);
    record.user.id = Some(text());
    record.process.args = vec![text(), "--x".into()];
    record.process.pid = Some(-1);
    record.related.ip = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    record.grid.sandbox.insert("a".into(), "on".into());
    record.event.duration = Some(u64::MAX);
    let refused = Refused {
        code: 122,
        users_fault: true,
        what: text(),
        why: text(),
        next: text(),
        closed: true,
        retry_after_ms: Some(u64::MAX),
    };
    let row = LiveRow {
        id: id.to_string(),
        pid: i64::MAX,
        uid: u32::MAX,
        since: text(),
        user: Some(text()),
        vo: None,
        job: None,
        state: "running".into(),
    };
    vec![
        Message::Hello(Hello { oldest: 0, newest: u16::MAX, program: text() }),
        Message::Welcome(Welcome { version: 1, writer: text(), draining: Some(text()), health: false }),
        Message::Launch(Launch {
            id: text(),
            nested: true,
            namespaces: vec![text()],
            record: Box::new(record.clone()),
        }),
        Message::Receipt(Receipt { id: text(), seq: u64::MAX, hash: text() }),
        Message::Refused(refused),
        Message::Note(Note { id: text(), record: Box::new(record) }),
        Message::Resume(Resume { id: text(), seq: 0, hash: text() }),
        Message::Done(Done { text: text() }),
        Message::Stop(Stop {
            id: text(),
            by: StopBy::Ban,
            reason: text(),
            freeze: true,
            preserve: true,
            grace_ms: Some(1),
        }),
        Message::Ps(Done::default()),
        Message::Rows(Rows { rows: vec![row], last: true }),
        Message::Drain(Drain { reason: None }),
        Message::Query(Query { text: text(), matches: 3 }),
        Message::Identity(wire::Identity {
            id: text(),
            user: text(),
            issuer: Some(text()),
            groups: vec![text()],
        }),
        Message::Obeyed(Obeyed { id: text(), held: true, within: Some(u64::MAX) }),
        Message::BanTold(BanTold { list: text(), digest: text(), bans: Some(text()) }),
    ]
}

fn mutate(packet: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    const WORDS: [&[u8]; 16] = [
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"{}",
        b"[]",
        b"[[[[[[[[",
        b"\"\\ud800\"",
        b"\\u0000",
        b"\"id\":",
        b"\"record\":{",
        b",,",
        b"\xff\xfe",
        b"9223372036854775808",
        b"\"payload-launch\"",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(packet.len());
        match random.below(8) {
            0 if !packet.is_empty() => packet[at] ^= 1 << random.below(8),
            1 if !packet.is_empty() => packet[at] = random.next() as u8,
            2 => packet.truncate(at),
            3 => drop(packet.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => {
                let end = at + random.below(packet.len() - at + 1);
                drop(packet.drain(at..end));
            }
            5 => {
                let end = at + random.below((packet.len() - at).min(200) + 1);
                let part = packet[at..end].to_vec();
                drop(
                    packet.splice(
                        at..at,
                        part.iter().copied().cycle().take(part.len() * (1 + random.below(20))),
                    ),
                );
            }
            6 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                packet.truncate(at);
                packet.extend_from_slice(&other[from..]);
            }
            _ => {}
        }
    }
    // Mostly with a header that fits, so that the body is looked at.
    if random.below(8) > 0 && packet.len() >= HEADER {
        let length = (packet.len() - HEADER) as u32;
        packet[8..12].copy_from_slice(&length.to_le_bytes());
        packet[..4].copy_from_slice(b"BLY1");
    }
}

/// Reads a packet; what is understood is the same after it was written and read again.
fn check(packet: &[u8]) -> bool {
    match wire::decode(packet) {
        Ok(read) => {
            let again = wire::encode(NEWEST, read.serial, &read.message).unwrap_or_else(|failure| {
                // Text may take more room when it is written: a control character has six bytes.
                assert!(packet.len() * 6 > wire::MAX_BODY, "{failure}");
                Vec::new()
            });
            if !again.is_empty() {
                let back = wire::decode(&again).expect("what was written can be read");
                assert_eq!((back.serial, &back.message), (read.serial, &read.message));
            }
            true
        }
        Err((_, malformed)) => {
            assert!(!malformed.to_string().is_empty());
            matches!(malformed, Malformed::Body(_))
        }
    }
}

#[test]
fn no_packet_panics_and_what_is_read_is_written_the_same() {
    let packets: Vec<Vec<u8>> = (1..)
        .zip(messages())
        .map(|(serial, message)| wire::encode(NEWEST, serial, &message).unwrap())
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut understood, mut bodies) = (0, 0);
    for packet in &packets {
        assert!(wire::decode(packet).is_ok() && check(packet));
    }
    for round in 0..ROUNDS {
        let mut packet = packets[round % packets.len()].clone();
        mutate(&mut packet, &packets, &mut random);
        understood += usize::from(wire::decode(&packet).is_ok());
        bodies += usize::from(check(&packet));
    }
    // It means something only if many packets get as far as their bodies, and some through.
    assert!(understood > ROUNDS / 100 && bodies > ROUNDS / 2, "{understood} and {bodies} of {ROUNDS}");
}

#[test]
fn what_proc_shows_is_read_without_panic() {
    let texts = ["status", "stat", "cgroup", "uid_map", "mountinfo", "limits"]
        .map(|name| std::fs::read(format!("/proc/self/{name}")).unwrap());
    let mut random = Random(7);
    for round in 0..ROUNDS {
        let mut bytes = texts[round % texts.len()].clone();
        mutate(&mut bytes, &texts, &mut random);
        let text = String::from_utf8_lossy(&bytes);
        let _ = bailey::proc::cgroup(&text);
        let folded = bailey::proc::fold_map(&text);
        assert!(!folded.contains('\n'));
        let _ = bailey::proc::outside(&folded, random.next() as u32);
        let _ = bailey::proc::Status::parse(&bytes);
        let _ = bailey::proc::Stat::parse(&bytes);
    }
}

#[test]
fn a_claim_of_any_action_loses_what_is_the_recorders() {
    let id = LaunchId::from_parts(1, [1; 10]);
    for action in [Action::PayloadLaunch, Action::PayloadDeny, Action::LaunchFailed, Action::PayloadEnd] {
        let mut record = Record::new(action, id);
        record.grid.recorder.key = Some("forged".into());
        record.grid.checkpoint.seq = Some(1);
        record.grid.pruned.segments = vec!["x".into()];
        observe::confine(&mut record);
        assert_eq!(record, Record::new(action, id), "{action:?}");
    }
}

/// Writes the beginnings of the fuzzer's corpora, for tests/fuzz.sh.
#[test]
fn corpus() {
    let Some(dir) = std::env::var_os("BAILEY_WRITE_CORPUS").map(std::path::PathBuf::from) else { return };
    for (serial, message) in (1..).zip(messages()) {
        let packet = wire::encode(NEWEST, serial, &message).unwrap();
        std::fs::write(dir.join("wire").join(message.name()), packet).unwrap();
        if let Message::Note(note) = message {
            std::fs::write(dir.join("line/note"), serde_json::to_vec(&note.record).unwrap()).unwrap();
        }
    }
}
