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
#[path = "attacks/table.rs"]
mod table;

use adapters::Launcher;
use head::{Control, Head};
use runner::{Verdict, attempt, control};
use std::collections::BTreeSet;
use std::fs;

/// The control, bailey, and bailey without the wall that is meant.
fn row(name: &str) {
    let head = Head::read(name);
    let without = control(&head);
    match (&head.control, &without) {
        (Control::Kernel, Verdict::Prevented(_) | Verdict::Kernel(_)) => {}
        (_, Verdict::Kernel(why)) => eprintln!("{name}: the kernel prevents it here: {why}"),
        (Control::Plain | Control::Naive, Verdict::Succeeds(how)) => {
            let missed = how.split_once("; refused: ").map_or("", |(_, missed)| missed);
            for way in
                missed.split(", ").filter_map(|way| way.split(' ').next()).filter(|way| !way.is_empty())
            {
                assert!(
                    head.unreached.iter().any(|name| name == way),
                    "{name}: the control did not reach {way}: {how}"
                );
            }
        }
        _ => panic!("{name}: the control says nothing about bailey: {without:?}"),
    }
    let inside = attempt(&head, Launcher::Bailey, None);
    if head.open {
        assert!(
            matches!(inside, Verdict::Succeeds(_)),
            "{name}: not open any more, change its head: {inside:?}"
        );
        return;
    }
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
    p8_oom_lowered
    p8_oom_score
    p8_scheduling
    p9_capabilities
    p10_setuid
    p11_environment
    p12_command_line
    p13_personality
    p14_setgroups
    f1_symlinked_target
    f4_hostile_proc
    f5_hostile_dev
    f6_read_only
    f8_old_root
    f9_control_groups
    f10_processes
    f11_devices
    f12_typing
    f13_streams
    f15_launcher_binary
    f18_overlay
    f20_flags
    f21_setuid_file
    f22_lease
    k1_namespaces
    k2_clone3
    k3_mount_calls
    k4_i386
    k4_x32
    k5_sockets
    k6_io_uring
    k7_calls
    k9_keys
    k10_message_queue
    k10_shared_memory
    k11_abstract_socket
    k12_path_socket
    k13_loopback
    k18_no_filter
    s1_pilot_memory
    s2_signals
    s3_init_limits
    s3_init_memory
    s5_daemon
    s12_accounts
}

#[test]
fn every_program_is_run_and_documented() {
    assert_eq!(head::programs(), ROWS);
    let programs: Vec<(String, String, String)> = ROWS
        .iter()
        .map(|name| Head::read(name))
        .map(|head| (head.rows.join(", "), head.name, head.what))
        .collect();
    assert_eq!(table::documented(), programs, "run tests/attacks/table.sh");
}

/// Each row of the threat model is a program here, or elsewhere.txt names the test that is there, or why there is none.
#[test]
fn every_row_is_answered() {
    let mut rows: BTreeSet<String> = ROWS.iter().flat_map(|name| Head::read(name).rows).collect();
    let list = fs::read_to_string(head::folder().join("elsewhere.txt")).unwrap();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let [row, tests, why] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("elsewhere.txt: {line}")
        };
        assert!(!why.is_empty());
        rows.insert(row.to_owned());
        for test in tests.split(", ").filter(|test| *test != "-") {
            let (file, name) = test.split_once("::").unwrap();
            let path = head::folder().join(format!("../{file}.rs"));
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(text.contains(&format!("fn {name}(")), "there is no test {test}");
        }
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (group, numbers) in [('P', 1..=14), ('F', 1..=22), ('K', 1..=19), ('S', 1..=13), ('R', 1..=5)] {
        wanted.extend(numbers.map(|number| format!("{group}{number}")));
    }
    // The checklist has no such rows.
    for none in ["K15", "K17"] {
        wanted.remove(none);
    }
    assert_eq!(rows, wanted);
}

#[test]
#[ignore = "a step of tests/attacks/table.sh"]
fn table_parts() {
    table::write_parts();
}

#[test]
#[ignore = "a step of tests/attacks/table.sh"]
fn table_document() {
    table::write_document();
}
