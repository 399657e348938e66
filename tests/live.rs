//! What lives on the node: `bailey ps`, `bailey stop` and `bailey drain` with a real recorder.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use support::recorder::Recorder;
use support::{Started, World, stdout};

#[test]
fn the_helper_starts_a_recorder_that_records() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut payload = Started::new(recorder.exec(&world, &["--user", "u"]).args([
        "--",
        "/bin/sh",
        "-c",
        "echo ready; read line",
    ]));
    assert_eq!(payload.line(), "ready");
    assert_eq!(recorder.wait_live(1)[0].user.as_deref(), Some("u"));
    recorder.restart();
    assert_eq!(recorder.wait_live(1).len(), 1);
    assert!(payload.end().success() || payload.child.0.try_wait().unwrap().is_some());
    recorder.wait_live(0);
    assert_eq!(stdout(&recorder.exec(&world, &["--", "/bin/echo", "hello"]).output().unwrap()), "hello");
    assert!(recorder.stop().success());
    assert_eq!(recorder.records_of("payload-end").len(), 2);
    recorder.assert_chain(&world);
}
