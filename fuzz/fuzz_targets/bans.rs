//! A ban list of any format; the first byte says which. What is read can be written, and reads back as the same bans.
#![no_main]

use std::time::Duration;

use bailey::audit::Timestamp;
use bailey::policy::bans::{Format, MOST_FAULTS, parse, render};
use bailey::policy::mapfile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let format = match first {
        b'o' => Format::Ours,
        b'l' => Format::Lcas,
        b'd' => Format::DnLines,
        b'c' => Format::CondorMap,
        b'a' => Format::Argus,
        _ => {
            let _ = mapfile::parse(bytes);
            return;
        }
    };
    match parse(bytes, format) {
        Ok(mut list) => {
            let _ = list.remarks_at(Timestamp::default());
            for ban in &mut list.bans {
                ban.reason.get_or_insert_with(|| "r".to_owned());
                ban.grace = ban.grace.map(|grace| Duration::from_secs(grace.as_secs()));
            }
            let text = render(&list.bans);
            let again = parse(text.as_bytes(), Format::Ours).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]));
            assert_eq!(again.bans, list.bans);
        }
        Err(faults) => {
            assert!((1..=MOST_FAULTS).contains(&faults.len()));
            for fault in faults {
                assert!(!fault.to_string().contains('\n'));
            }
        }
    }
});
