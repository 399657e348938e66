//! Packets to the recorder with anything in them: nothing panics, and what is understood is written as it was read.
//!
//! The same for what the recorder reads of /proc and of its peers. `make fuzz` does it with coverage (fuzz/).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bailey::audit::record::{Action, Record};
use bailey::audit::wire::{self, HEADER, Malformed, NEWEST};
use bailey::fuzzing::{Random, messages, mutate};
use bailey::recorder::observe;
use bailey::request::LaunchId;

/// In a debug build a packet takes some 20 µs.
const ROUNDS: usize = if cfg!(debug_assertions) { 20_000 } else { 200_000 };

/// Mostly with a header that fits, so that the body is looked at.
fn with_header(packet: &mut [u8], random: &mut Random) {
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
        with_header(&mut packet, &mut random);
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
