//! A record as a claim on its way into a line of the log: the line is one, holds its place in the chain, and reads back.
#![no_main]

use bailey::audit::Timestamp;
use bailey::audit::chain::{self, Link};
use bailey::audit::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut record) = serde_json::from_slice::<Record>(bytes) else { return };
    record.timestamp = None;
    record.chain = None;
    let mut out = Vec::new();
    let Ok(link) = chain::append_line(&mut out, &record, Timestamp::default(), &Link::START, "fuzz") else { return };
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    let line = out.strip_suffix(b"\n").expect("a line ends");
    assert_eq!(chain::link_of(line).map(|link| (link.seq, link.hash)), Some((link.seq, link.hash)));
    let (seq, prev) = chain::place_of(line).expect("it is in the chain");
    assert_eq!((seq, prev), (1, "0".repeat(64).as_str()));
    serde_json::from_slice::<Record>(line).expect("it reads back");
});
