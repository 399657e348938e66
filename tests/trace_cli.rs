//! `bailey trace` and `bailey verify` on the logs of real launches, while a payload runs and after it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::process::Output;
use support::{Started, World, code, image, text};

/// A payload that says that it runs and then waits for the end of its input.
fn waiting(world: &World, user: &str) -> Started {
    let mut command = world.exec(&["--user", user, "--vo", "cms", "--job", "job-7", "--image"]);
    command.arg(image()).args(["--", "/bin/sh", "-c", "echo ready; read end; exit 3"]);
    let mut started = Started::new(&mut command);
    assert_eq!(started.line(), "ready");
    started
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
}

/// Launch ids of a JSON answer.
fn found(world: &World, question: &[&str]) -> Vec<String> {
    let output = world.admin(&[&["trace", "--json"], question].concat());
    let value = answer(&output);
    let payloads = value["payloads"].as_array().unwrap();
    assert_eq!(code(&output), i32::from(payloads.is_empty()), "0: found, 1: nothing fits");
    payloads.iter().map(|p| p["launch"]["event"]["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn while_it_runs_and_after() {
    let world = World::new();
    assert_eq!(code(&world.shell(&["--user", "/CN=Before"], "true")), 0);
    let mut payload = waiting(&world, "/DC=org/CN=Alice Example");
    let launch = world.records_of("payload-launch").pop().unwrap();
    let id = launch["event"]["id"].as_str().unwrap().to_owned();
    let pid = launch["process"]["pid"].to_string();
    // The pid of the record is the payload's own, as this host counts.
    assert_eq!(support::proc_status(pid.parse().unwrap(), "Name").as_deref(), Some("sh"));

    let now = world.admin(&["trace", "--at", "now"]);
    let said = text(&now.stdout);
    assert_eq!(code(&now), 0);
    assert!(said.starts_with("One payload matches."), "{said}");
    for word in
        ["/DC=org/CN=Alice Example (declared)", "cms", "job-7", &id, &pid, "still open", "chain verifies"]
    {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    for question in [
        &["--at", "now"][..],
        &["--pid", &pid],
        &["--user", "alice"],
        &["--user", "Example", "--at", "now", "--pid", &pid, "--vo", "cms", "--job", "job-7"],
        &["--id", &id],
    ] {
        assert_eq!(found(&world, question), [id.as_str()], "{question:?}");
    }
    for question in [
        &["--user", "bob"][..],
        &["--pid", "1"],
        &["--user", "alice", "--vo", "atlas"],
        &["--at", "1 day ago"],
        &["--user", "before", "--at", "now"],
    ] {
        assert_eq!(found(&world, question), [""; 0], "{question:?}");
    }
    // An open launch is no fault of the log.
    let verify = world.admin(&["verify", "--json"]);
    assert_eq!(code(&verify), 0);
    assert_eq!(answer(&verify)["open_launches"], 1, "{}", text(&verify.stdout));

    assert_eq!(payload.end().code(), Some(3));
    let during = launch["@timestamp"].as_str().unwrap();
    assert_eq!(found(&world, &["--at", during]), [id.as_str()]);
    assert_eq!(found(&world, &["--at", "now"]), [""; 0]);
    let said = text(&world.admin(&["trace", "--id", &id]).stdout);
    assert!(said.contains("exit code 3") && !said.contains("still open"), "{said}");
    let verify = world.admin(&["verify", "--json"]);
    assert_eq!(answer(&verify)["open_launches"], 0);
    assert_eq!(answer(&verify)["lines"], world.records().len());
    world.assert_closed();
}

#[test]
fn several_at_once() {
    let world = World::new();
    let mut payloads: Vec<Started> = (0..3).map(|n| waiting(&world, &format!("/CN=User {n}"))).collect();
    assert_eq!(found(&world, &["--at", "now"]).len(), 3);
    let [one] = &found(&world, &["--at", "now", "--user", "user 1"])[..] else { panic!("not one") };
    assert_eq!(payloads[1].end().code(), Some(3));
    let left = found(&world, &["--at", "now"]);
    assert!(left.len() == 2 && !left.contains(one), "{left:?}");
    assert_eq!(text(&world.admin(&["trace", "--at", "now"]).stdout).matches("still open").count(), 2);
    for payload in &mut payloads {
        payload.end();
    }
    assert_eq!(found(&world, &["--vo", "cms"]).len(), 3);
    world.assert_chain();
}

#[test]
fn what_never_ran_is_not_found() {
    let world = World::new();
    for command in ["/no/such", "/dev/null"] {
        world.exec(&["--user", "/CN=Alice", "--", command]).output().unwrap();
    }
    let script = world.program("bin/script", "no program\n");
    let bind = format!("{}:/opt/bin", script.parent().unwrap().display());
    let mut command = world.exec(&["--user", "/CN=Alice", "--bind", &bind, "--image"]);
    let output = command.arg(image()).args(["--", "/opt/bin/script"]).output().unwrap();
    assert_eq!(code(&output), 126);
    assert_eq!(world.records_of("payload-launch").len(), 1, "the execve failed after its record");
    assert_eq!(found(&world, &["--user", "alice"]), [""; 0]);
}

#[test]
fn a_changed_line_is_found() {
    let world = World::new();
    for user in ["/CN=Alice", "/CN=Bob"] {
        assert_eq!(code(&world.shell(&["--user", user], "true")), 0);
    }
    world.assert_chain();
    let dir = world.log_dir();
    let segment = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .unwrap();
    let log = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, log.replacen("/CN=Alice", "/CN=Mallo", 1)).unwrap();
    let verify = world.admin(&["verify"]);
    assert_eq!(code(&verify), 1);
    assert!(text(&verify.stdout).contains("BREAKS"), "{}", text(&verify.stdout));
    let trace = world.admin(&["trace", "--user", "bob"]);
    assert!(text(&trace.stdout).contains("BROKEN"), "{}", text(&trace.stdout));
}

#[test]
fn questions_that_cannot_be_answered() {
    let world = World::new();
    for (args, word) in [
        (&["trace"][..], "--at"),
        (&["trace", "--at", "yesterday"], "2 hours ago"),
        (&["trace", "--at", "now"], "ENOENT"),
        (&["verify"], "ENOENT"),
        (&["verify", "/no/such"], "ENOENT"),
    ] {
        let output = world.admin(args);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 2, "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("bailey-admin: ") && said.contains(word), "{said}");
    }
    assert!(world.records().is_empty(), "a question makes no log");
}
