//! What /proc shows of a process that chooses its own name, maps and control group.
#![no_main]

use bailey::proc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = proc::cgroup(&text);
    let folded = proc::fold_map(&text);
    assert!(!folded.contains('\n'));
    let _ = proc::outside(&folded, 1000);
    let status = proc::Status::parse(bytes);
    let _ = proc::not_locked_in(&status.capabilities, status.no_new_privs);
    let _ = proc::Stat::parse(bytes);
});
