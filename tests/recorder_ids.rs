//! A launch id is for one launch: over restarts of the recorder, and when the clock is set.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bailey::audit::Timestamp;
use bailey::audit::record::{Action, Record};
use bailey::audit::wire::{Message, Note};
use bailey::request::LaunchId;
use std::fs;
use std::path::{Path, PathBuf};
use support::World;
use support::raw::{Raw, Tree, fresh_id, launch_of, words};
use support::recorder::Recorder;

fn note(id: LaunchId, action: Action) -> Message {
    Message::Note(Note { id: id.to_string(), record: Box::new(Record::new(action, id)) })
}

/// A launch that gets its receipt and ends.
fn launch_and_end(recorder: &Recorder, tree: &Tree, number: usize, id: LaunchId) {
    let mut raw = Raw::greeted(&recorder.socket);
    let answer = raw.ask(&launch_of(id), &tree.fds(number));
    assert!(matches!(&answer, Some(Message::Receipt(_))), "{answer:?}");
    tree.kill(number);
    let answer = raw.ask(&note(id, Action::PayloadEnd), &[]);
    assert!(matches!(answer, Some(Message::Done(_))), "{answer:?}");
}

fn refused(recorder: &Recorder, tree: &Tree, number: usize, id: LaunchId) -> String {
    words(Raw::greeted(&recorder.socket).ask(&launch_of(id), &tree.fds(number)))
}

/// An id that is so many minutes from now.
fn id_of(minutes: i64) -> LaunchId {
    let mut random = [0; 10];
    bailey::sys::process::random_bytes(&mut random).unwrap();
    LaunchId::from_parts(Timestamp::now().plus_seconds(minutes * 60).unix_millis(), random)
}

#[test]
fn an_id_is_not_taken_again_after_a_restart() {
    let world = World::new();
    // Small segments: what ended is in several of them.
    let mut recorder = Recorder::with(&world, &[("recorder", "segment_size = \"1M\"")]);
    let tree = Tree::new(&world, 5);
    let (ended, early, denied, failed) = (fresh_id(), id_of(14), fresh_id(), fresh_id());
    launch_and_end(&recorder, &tree, 0, ended);
    launch_and_end(&recorder, &tree, 1, early);
    for (id, action) in [(denied, Action::PayloadDeny), (failed, Action::LaunchFailed)] {
        let answer = Raw::greeted(&recorder.socket).ask(&note(id, action), &[]);
        assert!(matches!(answer, Some(Message::Done(_))), "{answer:?}");
    }
    // A denial that is somebody else's fault: the launch lives on, and is no other one's after the restart.
    let live = fresh_id();
    let mut raw = Raw::greeted(&recorder.socket);
    let receipt = raw.ask(&launch_of(live), &tree.fds(2));
    assert!(matches!(&receipt, Some(Message::Receipt(_))), "{receipt:?}");
    assert!(refused(&recorder, &tree, 3, live).contains("is another one"));
    // Enough after it that the last list of what is live is not before it.
    for _ in 0..300 {
        let mut long = Record::new(Action::PayloadNotice, live);
        long.event.reason = Some("x".repeat(1000));
        let answer = raw.ask(&Message::Note(Note { id: live.to_string(), record: Box::new(long) }), &[]);
        assert!(matches!(answer, Some(Message::Done(_))), "{answer:?}");
    }
    for kill in [true, false] {
        if kill {
            recorder.kill();
        } else {
            assert!(recorder.stop().success());
        }
        recorder.restart();
        for id in [ended, early, denied, failed] {
            let why = refused(&recorder, &tree, 3, id);
            assert!(why.contains("was here before"), "{id}: {why}");
        }
        // Its end was told; who asks again need not tell it any more.
        let again = Raw::greeted(&recorder.socket).ask(&note(ended, Action::LaunchFailed), &[]);
        assert!(matches!(&again, Some(Message::Refused(refused)) if refused.closed), "{again:?}");
        assert!(refused(&recorder, &tree, 3, live).contains("is another one"));
    }
    launch_and_end(&recorder, &tree, 4, fresh_id());
    drop((raw, tree));
    recorder.assert_chain(&world);
}

fn set_clock(shift: &Path, minutes: i64) {
    let next = shift.with_extension("next");
    fs::write(&next, (minutes * 60).to_string()).unwrap();
    fs::rename(next, shift).unwrap();
}

/// A recorder whose clock the file moves.
fn with_own_clock(world: &World) -> (Recorder, PathBuf) {
    let shift = world.path("shift");
    set_clock(&shift, 0);
    let mut recorder = Recorder::not_started(world, &[]);
    let mut command = recorder.command();
    command.env("BAILEY_TEST_CLOCK", &shift);
    recorder.adopt(command);
    (recorder, shift)
}

#[test]
fn a_clock_that_is_set_refuses_no_launch_under_way() {
    for minutes in [90, -90] {
        let world = World::new();
        let (recorder, shift) = with_own_clock(&world);
        let tree = Tree::new(&world, 5);
        launch_and_end(&recorder, &tree, 0, fresh_id());
        assert!(refused(&recorder, &tree, 1, id_of(minutes)).contains("not of now"));
        let under_way = fresh_id();
        set_clock(&shift, minutes);
        // Of before the step, and of after it.
        launch_and_end(&recorder, &tree, 1, under_way);
        launch_and_end(&recorder, &tree, 2, id_of(minutes));
        // Of neither, and one that was here.
        for other in [minutes / 2, 2 * minutes] {
            assert!(refused(&recorder, &tree, 3, id_of(other)).contains("not of now"));
        }
        assert!(refused(&recorder, &tree, 3, under_way).contains("was here before"));
        recorder.assert_chain(&world);
    }
}
