//! What becomes records: packets of peers, claims, command lines of payloads.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::audit::Timestamp;
use crate::audit::chain::{self, Link};
use crate::audit::record::Record;
use crate::audit::redact::{LIMIT, REDACTED, args};
use crate::audit::wire::{self, Message, NEWEST};
use crate::config::Args;
use crate::recorder::observe;

/// A packet of a peer: decoded, written and read again, and confined as the recorder does it.
pub(super) fn wire(bytes: &[u8]) -> bool {
    let mut packet = match wire::decode(bytes) {
        Ok(packet) => packet,
        Err((_, malformed)) => {
            assert!(!malformed.to_string().is_empty());
            return false;
        }
    };
    match wire::encode(NEWEST, packet.serial, &packet.message) {
        Ok(again) => {
            let back = wire::decode(&again).expect("what was written can be read");
            assert_eq!((back.serial, &back.message), (packet.serial, &packet.message));
        }
        // Text may take more room when it is written: a control character has six bytes.
        Err(failure) => assert!(bytes.len() * 6 > wire::MAX_BODY, "{failure}"),
    }
    if let Message::Launch(wire::Launch { record, .. }) | Message::Note(wire::Note { record, .. }) =
        &mut packet.message
    {
        observe::confine(record);
        assert!(record.grid.live.is_empty() && record.grid.checkpoint.signature.is_none());
    }
    true
}

/// A record as a claim on its way into a line of the log: the line is one, holds its place in the chain, and reads back.
pub(super) fn line(bytes: &[u8]) -> bool {
    let _ = (chain::link_of(bytes), crate::audit::lines::glance(bytes));
    let Ok(mut record) = serde_json::from_slice::<Record>(bytes) else { return false };
    record.timestamp = None;
    record.chain = None;
    let mut out = Vec::new();
    let Ok(link) = chain::append_line(&mut out, &record, Timestamp::default(), &Link::START, "fuzz") else {
        return false;
    };
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    let line = out.strip_suffix(b"\n").expect("a line ends");
    assert_eq!(chain::link_of(line).map(|link| (link.seq, link.hash)), Some((link.seq, link.hash)));
    let (seq, prev) = chain::place_of(line).expect("it is in the chain");
    assert_eq!((seq, prev), (1, "0".repeat(64).as_str()));
    serde_json::from_slice::<Record>(line).expect("it reads back");
    true
}

/// The arguments of a payload, separated by NUL: what is recorded is bounded, and a secret that stands anywhere among them, in
/// any of the forms that are known, is in none of it.
pub(super) fn redact(bytes: &[u8]) -> bool {
    const SECRET: &str = "hunter2hunter2";
    fn told(arguments: &[Vec<u8>]) -> (Vec<String>, u64) {
        let arguments: Vec<&OsStr> = arguments.iter().map(|argument| OsStr::from_bytes(argument)).collect();
        let told = args(&arguments, Args::Full);
        assert_eq!(told.info.count, Some(arguments.len() as u64));
        assert!(told.list.len() <= arguments.len());
        assert!(told.list.iter().map(|text| text.len() + 1).sum::<usize>() <= LIMIT + 1);
        let whole = told.list.len() == arguments.len();
        assert!(whole || told.info.truncated == Some(true));
        assert_eq!(told.info.truncated.is_some(), told.info.sha256.is_some());
        let digest = args(&arguments, Args::Digest);
        assert!(digest.list.is_empty() && digest.info.sha256.is_some());
        assert!(told.info.sha256.is_none() || told.info.sha256 == digest.info.sha256);
        (told.list, told.info.redacted.unwrap_or(0))
    }
    let arguments: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let (_, redacted) = told(&arguments);
    // A fuzzer finds the words that are compared, and says them by itself.
    if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
        return redacted > 0;
    }
    // The same arguments with a secret in the middle of each in turn, between blanks, so that its own form is whole.
    for form in [
        format!("--password={SECRET}"),
        format!("DB_PASSWORD={SECRET}"),
        format!("https://me:{SECRET}@host/x"),
        format!("https://host/x?a=b&token={SECRET}&c=d"),
        format!("Authorization: Bearer {SECRET}"),
        format!("eyJhbGciOiJSUzI1NiJ9.{SECRET}.c2lnbmF0dXJl"),
    ] {
        for number in 0..arguments.len().min(4) {
            let mut planted = arguments.clone();
            let (before, after) = planted[number].split_at(planted[number].len() / 2);
            planted[number] = [before, b" ", form.as_bytes(), b" ", after].concat();
            let (list, count) = told(&planted);
            let text = list.join("\n");
            assert!(!text.contains(SECRET), "{form}: {text}");
            assert!(count > 0 && (text.contains(REDACTED) || text.len() + 20 > LIMIT), "{form}: {text}");
        }
    }
    // And as an argument of its own, behind the option that announces it.
    let mut planted = arguments;
    planted.push(b"--token".to_vec());
    planted.push(SECRET.as_bytes().to_vec());
    assert!(!told(&planted).0.join("\n").contains(SECRET));
    redacted > 0
}
