//! What users read when a payload is refused, stopped or cannot be set up: one sentence on stderr, in the status file and the log.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;
use support::{World, code, text};

const CONTACT: &str = "help@atlas.example.org";

/// A configuration with bans and a VO that has a contact.
fn config(world: &World, more: &str) -> PathBuf {
    let bans = world.directory("bans.d");
    let text = format!(
        "[bans]\ndir = \"{}\"\n{more}\n[[vo]]\nname = \"atlas\"\nuser_contact = \"{CONTACT}\"\n",
        bans.display()
    );
    world.config(&text)
}

/// Runs a command for somebody of atlas; its output and status file. Each test has a user of its own: what a list said is kept
/// for the account, and the tests share one.
fn run(world: &World, config: &PathBuf, user: &str, options: &[&str], script: &str) -> (Output, Value) {
    let file = world.path("status.json");
    let _ = std::fs::remove_file(&file);
    let mut command = world.exec(&["--user", user, "--vo", "atlas", "--status-file"]);
    command.arg(&file).args(options).args(["--", "/bin/sh", "-c", script]).env("BAILEY_CONFIG", config);
    let output = command.output().unwrap();
    let status = std::fs::read(&file).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    (output, serde_json::from_slice(&status).unwrap())
}

/// The one line of stderr is the status file's message, and ends with incident and contact.
fn assert_told(output: &Output, status: &Value) -> String {
    let said = text(&output.stderr);
    assert_eq!(said, format!("bailey: {}\n", status["message"].as_str().unwrap()));
    let tail = format!("(incident {}, contact {CONTACT})\n", status["id"].as_str().unwrap());
    assert!(said.ends_with(&tail), "{said}");
    assert_eq!(status["contact"], CONTACT);
    said
}

#[test]
fn a_banned_user_reads_why_and_whom_to_ask() {
    let world = World::new();
    let config = config(&world, "");
    world.file("bans.d/ban_users.db", "\"/DC=org/CN=Alice\"\n");
    let (output, status) = run(&world, &config, "/DC=org/CN=Alice", &[], "true");
    assert_eq!(code(&output), 120);
    let said = assert_told(&output, &status);
    assert!(said.starts_with("bailey: this payload may not run here: this site has suspended "), "{said}");
    assert_eq!((&status["fault"], &status["state"]), (&"user".into(), &"refused".into()));
    let deny = world.records_of("payload-deny").pop().unwrap();
    assert_eq!((&deny["event"]["reason"], &deny["event"]["id"]), (&status["message"], &status["id"]));
    assert_eq!(deny["grid"]["fault"], "user");
    assert_eq!(deny["grid"]["policy"]["ban"]["entry"], "ban_users.db:1");
}

#[test]
fn a_site_in_trouble_says_that_it_is_not_the_users_fault() {
    let world = World::new();
    let config = config(&world, "[audit]\ndir = \"/dev/null/log\"\n");
    let (output, status) = run(&world, &config, "/CN=Bob", &[], "true");
    assert_eq!(code(&output), 122, "{}", text(&output.stderr));
    let said = assert_told(&output, &status);
    assert!(
        said.starts_with("bailey: your job was not run, because this node cannot record it: ")
            && said.contains("; this is not your fault: try another site; "),
        "{said}"
    );
    assert_eq!(status["fault"], "site");
}

#[test]
fn a_configuration_that_cannot_be_used_has_an_incident_too() {
    let world = World::new();
    let broken = world.config("nonsense = 1\n");
    let (output, status) = run(&world, &broken, "/CN=Carol", &[], "true");
    assert_eq!(code(&output), 125);
    let said = text(&output.stderr);
    assert_eq!(said, format!("bailey: {}\n", status["message"].as_str().unwrap()));
    assert!(said.starts_with("bailey: your job was not run, because this node cannot set it up: "), "{said}");
    assert!(said.ends_with(&format!("(incident {})\n", status["id"].as_str().unwrap())), "{said}");
    assert!(status.get("contact").is_none() && status["fault"] == "site", "{status}");
}

#[test]
fn a_stop_is_told_when_it_comes_and_when_it_is_done() {
    let world = World::new();
    let config = config(&world, "");
    let (output, status) =
        run(&world, &config, "/CN=Dan", &["--wall-time", "1s", "--grace", "1s"], "sleep 20");
    assert_eq!(code(&output), 124);
    let said = text(&output.stderr);
    let tail = format!(" (incident {}, contact {CONTACT})", status["id"].as_str().unwrap());
    assert!(
        said.starts_with("bailey: the wall time of 1 s is used up, so it is told to end now")
            && said.ends_with(&format!("{tail}\n")),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("the wall time was used up") && message.ends_with(&tail), "{message}");
    assert_eq!((&status["fault"], &status["contact"]), (&"user".into(), &CONTACT.into()));
    // What the payload itself did needs no contact.
    let (output, status) = run(&world, &config, "/CN=Dan", &[], "exit 3");
    assert_eq!((code(&output), text(&output.stderr).as_str()), (3, ""));
    assert!(status.get("contact").is_none() && status.get("fault").is_none(), "{status}");
    world.assert_closed();
}

#[test]
fn a_running_payload_that_is_banned_is_told_so() {
    let world = World::new();
    let config = config(&world, "poll = \"100ms\"\n");
    let script = "while :; do sleep 0.1; done";
    let list = world.path("bans.d/running.db");
    let file = world.path("status.json");
    let mut command = world.exec(&["--user", "/DC=org/CN=Frank", "--vo", "atlas", "--status-file"]);
    command.arg(&file).args(["--", "/bin/sh", "-c", script]).env("BAILEY_CONFIG", &config);
    command.stderr(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    support::wait_for("the launch record", || !world.records_of("payload-launch").is_empty());
    std::fs::write(&list, "\"/DC=org/CN=Frank\"\n").unwrap();
    support::wait_for("the stop", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let status: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(123), "{said}");
    let tail = format!("(incident {}, contact {CONTACT})", status["id"].as_str().unwrap());
    assert!(
        said.starts_with("bailey: a ban stops the payload: this site has suspended ")
            && said.ends_with(&format!("{tail}\n")),
        "{said}"
    );
    assert_eq!((&status["fault"], &status["ended_by"]), (&"user".into(), &"ban".into()));
    assert!(status["message"].as_str().unwrap().ends_with(&tail), "{status}");
}
