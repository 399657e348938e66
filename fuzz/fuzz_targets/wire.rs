//! A packet of a peer: decoded, confined as the recorder does it, written and read again.
#![no_main]

use bailey::audit::wire::{self, Message, NEWEST};
use bailey::recorder::observe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut packet) = wire::decode(bytes) else { return };
    if let Ok(again) = wire::encode(NEWEST, packet.serial, &packet.message) {
        let back = wire::decode(&again).expect("what was written can be read");
        assert_eq!((back.serial, &back.message), (packet.serial, &packet.message));
    }
    if let Message::Launch(wire::Launch { record, .. }) | Message::Note(wire::Note { record, .. }) = &mut packet.message {
        observe::confine(record);
        assert!(record.grid.live.is_empty() && record.grid.checkpoint.signature.is_none());
    }
});
