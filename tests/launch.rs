//! The main job: a real payload behind its walls, its record before it, its end after it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use support::{World, code, stdout};

#[test]
fn a_payload_runs_and_leaves_two_records() {
    let world = World::new();
    let output = world.shell(&["--user", "/DC=org/CN=Alice", "--vo", "cms"], "echo hello; exit 7");
    assert_eq!(code(&output), 7);
    assert_eq!(support::text(&output.stdout), "hello\n");
    assert_eq!(support::text(&output.stderr), "");

    let records = world.records();
    let actions: Vec<&str> = records.iter().map(|r| r["event"]["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["segment-open", "payload-launch", "payload-end"]);
    let (launch, end) = (&records[1], &records[2]);
    assert_eq!(launch["event"]["id"], end["event"]["id"]);
    assert_eq!(launch["user"]["id"], "/DC=org/CN=Alice");
    assert_eq!(launch["grid"]["identity"]["assurance"], "declared");
    assert_eq!(end["process"]["exit_code"], 7);
    assert_eq!(end["grid"]["end"]["by"], "payload");
    world.assert_chain();
}

#[test]
fn the_host_system_is_a_root_too() {
    let world = World::new();
    let output = world.host_shell(&[], "pwd; test -w /usr || echo read-only; cat /etc/resolv.conf; ls /etc/shadow /home 2>&1 | grep -c 'No such'");
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(stdout(&output), format!("/srv\nread-only\n{resolver}2"));
}
