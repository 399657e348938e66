//! What an image says of itself: os-release and the files before it, labels, the header of a SIF file.
#![no_main]

use bailey::image::facts::EndOfLife;
use bailey::image::{labels, os_release, sif};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (os, _) = os_release::parse(bytes);
    for os in [os, os_release::redhat(bytes), os_release::debian(bytes)].into_iter().flatten() {
        let text = os.to_string();
        assert!(!os.id.is_empty() && text.len() < 256 && !text.contains(char::is_control), "{text:?}");
        let names = [os.name.as_deref(), os.pretty_name.as_deref()];
        assert!(names.into_iter().flatten().all(|name| name.len() <= 256 && !name.contains(char::is_control)));
        let _ = EndOfLife::builtin().of(&os);
    }
    if let Err(why) = labels::parse(bytes) {
        assert!(!why.contains(char::is_control));
    }
    if let Some(header) = bytes.first_chunk::<{ sif::HEADER }>() {
        let _ = sif::header(header, bytes.len() as u64);
    }
});
