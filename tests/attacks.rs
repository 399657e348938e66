//! The attack suite: each program of tests/attacks/ is one attack of docs/threat-model.md. It must succeed where nothing
//! stops it (its control), and be prevented by bailey, with the pilot unhurt. `tests/attacks/table.sh` runs the same programs
//! against other launchers and writes the table.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "attacks/adapters.rs"]
mod adapters;
#[path = "attacks/head.rs"]
mod head;
#[path = "attacks/runner.rs"]
mod runner;
mod support;

use adapters::Launcher;
use head::{Control, Head};
use runner::{Verdict, attempt, control};

/// The control, bailey, and bailey without the wall that is meant.
fn row(name: &str) {
    let head = Head::read(name);
    let without = control(&head);
    match (&head.control, &without) {
        (Control::Kernel, Verdict::Prevented(_) | Verdict::Kernel(_)) => {}
        (_, Verdict::Kernel(why)) => eprintln!("{name}: the kernel prevents it here: {why}"),
        (Control::Plain | Control::Naive, Verdict::Succeeds(how)) => {
            let missed = how.split_once("; refused: ").map_or("", |(_, missed)| missed);
            for way in missed.split(", ").filter_map(|way| way.split(' ').next()).filter(|way| !way.is_empty()) {
                assert!(head.unreached.iter().any(|name| name == way), "{name}: the control did not reach {way}: {how}");
            }
        }
        _ => panic!("{name}: the control says nothing about bailey: {without:?}"),
    }
    let inside = attempt(&head, Launcher::Bailey, None);
    assert!(matches!(inside, Verdict::Prevented(_) | Verdict::Kernel(_)), "{name} under bailey: {inside:?}");
    for off in &head.off {
        let open = attempt(&head, Launcher::Bailey, Some(off));
        assert!(matches!(open, Verdict::Succeeds(_)), "{name} under bailey with {off}: {open:?}");
    }
}

macro_rules! rows {
    ($($name:ident)*) => {
        const ROWS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { row(stringify!($name)); })*
    };
}

rows! {
    p1_descriptors
    p2_current_directory
    p3_closed_streams
    p4_signals
    p5_umask
    p6_core_file
    p7_core_pattern
    p10_setuid
    p11_environment
    p13_personality
}

#[test]
fn every_program_is_run() {
    assert_eq!(head::programs(), ROWS);
}
