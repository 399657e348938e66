#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bailey::fuzzing::target("runtime")(bytes);
});
