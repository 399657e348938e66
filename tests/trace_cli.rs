//! `bailey trace` and `bailey verify` on the logs of real launches, while a payload runs and after it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod support;
use common::grid::{START, Writer};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use support::recorder::Recorder;
use support::{Started, World, code, image, text, wait_for};

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
fn what_never_had_a_record_is_not_found_and_what_failed_after_it_is_named() {
    let world = World::new();
    for command in ["/no/such", "/dev/null"] {
        world.exec(&["--user", "/CN=Alice", "--", command]).output().unwrap();
    }
    assert_eq!(found(&world, &["--user", "alice"]), [""; 0]);
    let script = world.program("bin/script", "no program\n");
    let bind = format!("{}:/opt/bin", script.parent().unwrap().display());
    let mut command = world.exec(&["--user", "/CN=Alice", "--bind", &bind, "--image"]);
    let output = command.arg(image()).args(["--", "/opt/bin/script"]).output().unwrap();
    assert_eq!(code(&output), 126);
    assert_eq!(world.records_of("payload-launch").len(), 1, "the execve failed after its record");
    // That nothing ran is its launcher's word, so the launch is shown with it: once, also where denials are asked for.
    for question in [
        &["--user", "alice", "--from", "1 hour ago"][..],
        &["--user", "alice", "--from", "1 hour ago", "--denied"],
    ] {
        let output = world.admin(&[&["trace"], question].concat());
        let said = text(&output.stdout);
        assert!(said.starts_with("One payload matches.") && said.contains("says that nothing ran"), "{said}");
    }
    let json = world.admin(&["trace", "--user", "alice", "--json"]);
    assert_eq!(answer(&json)["payloads"][0]["closed"]["event"]["action"], "launch-failed");
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
        (&["trace", "--at", "now", "--from", "now"], "--from"),
        (&["trace", "--from", "now", "--to", "1 hour ago"], "later than --to"),
        (&["trace", "--from", "12:30"], "names no day"),
        (&["trace", "--ip", "example.org"], "--ip"),
        (&["trace", "--denied"], "--at"),
        (&["trace", "--at", "now"], "ENOENT"),
        (&["trace", "--at", "now", "--log", "/no/such"], "name the directory of a log"),
        (&["verify"], "ENOENT"),
        (&["verify", "/no/such"], "name the directory of a log"),
    ] {
        let output = world.admin(args);
        let said = text(&output.stderr);
        assert_eq!(code(&output), 2, "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("bailey-admin: ") && said.contains(word), "{said}");
    }
    assert!(world.records().is_empty(), "a question makes no log");
}

/// A log of the recorder's form in the world, made by hand.
fn log_of_host(world: &World, name: &str, first: usize) -> String {
    let dir = world.directory(name);
    let mut writer = Writer::new(&dir, true);
    writer.roll();
    for number in first..first + 20 {
        writer.clock += 60;
        let id = writer.launch(number).to_string();
        if number % 4 == 0 {
            writer.roll();
        }
        if number % 2 == 0 {
            writer.clock += 5;
            writer.close(&id, bailey::audit::record::Action::PayloadEnd);
        }
    }
    writer.deny(first + 100);
    dir.to_str().unwrap().to_owned()
}

#[test]
fn every_question_in_words_and_json() {
    let world = World::new();
    let log = log_of_host(&world, "log", 0);
    let ask = |question: &[&str]| world.admin(&[&["trace", "--log", &log], question].concat());
    let first = |question: &[&str]| text(&ask(question).stdout).lines().next().unwrap().to_owned();
    for (question, expected) in [
        (&["--pid", "103"][..], "3 payloads match."),
        (&["--vpid", "3", "--vo", "cms"], "3 payloads match."),
        (&["--cgroup", "/sys/fs/cgroup/bailey/7/sub"], "One payload matches."),
        (&["--cgroup", "7007"], "One payload matches."),
        (&["--user", "PERSON3@"], "2 payloads match."),
        (&["--user", "robot 2"], "5 payloads match."),
        (
            &["--issuer", "https://issuer1.example.org"],
            "10 candidates: add a time, pid or job to tell them apart.",
        ),
        (&["--issuer", "issuer1"], "No payload fits the question."),
        (&["--vo", "lhcb", "--user", "person 2"], "2 payloads match."),
        (&["--job", "task-3", "--pid", "101"], "One payload matches."),
        (&["--pilot", "htcondor:3.0"], "3 payloads match."),
        (&["--image", "el8"], "7 payloads match."),
        (&["--ip", "2001:db8:0::7"], "20 candidates: add a time, pid or job to tell them apart."),
        (&["--ip", "192.0.2.8"], "No payload fits the question."),
        (
            &["--at", "2024-03-01 00:01:30", "--pid", "100"],
            "No payload ran on this log's host at that time that fits the question.",
        ),
        (&["--at", "2024-03-01 00:01:03"], "One payload matches."),
        (&["--from", "2024-03-01T00:01:00Z", "--to", "2024-03-01T01:02:30+01:00"], "2 payloads match."),
        (&["--to", "2024-03-01T00:01:00Z"], "One payload matches."),
        (&["--from", "2024-03-02T00:00:00Z"], "10 candidates: add a pid, cgroup or job to tell them apart."),
    ] {
        assert_eq!(first(question), expected, "{question:?}");
        let output = ask(question);
        assert!(text(&output.stdout).lines().all(|line| line.chars().count() <= 100), "{question:?}");
        let json = answer(&ask(&[question, &["--json"]].concat()));
        let count = json["payloads"].as_array().unwrap().len();
        assert_eq!(code(&output), i32::from(count == 0));
        let said = expected.split(' ').next().unwrap();
        assert!(said == count.to_string() || matches!((said, count), ("No", 0) | ("One", 1)), "{question:?}");
    }
    // No zone was named, and the answer says how it was read.
    let said = text(&ask(&["--at", "2024-03-01 00:01:03"]).stdout);
    assert!(said.contains("no zone given: read as UTC"), "{said}");
    assert_eq!(answer(&ask(&["--at", "2024-03-01 00:01:03", "--json"]))["asked"]["zone_assumed"], true);
    // Refused launches only on demand.
    let said = text(&ask(&["--vo", "lhcb", "--from", "2024-03-01T00:00:00Z", "--denied"]).stdout);
    assert!(!said.contains("payload-deny"), "{said}");
    let said = text(&ask(&["--vo", "atlas", "--from", "2024-03-01T00:00:00Z", "--denied"]).stdout);
    assert!(
        said.contains("1 other records fit") && said.contains("payload-deny") && said.contains("banned"),
        "{said}"
    );
    // --verify believes no index and reads all.
    let output = ask(&["--job", "job-7", "--verify", "--json"]);
    assert_eq!(answer(&output)["logs"][0]["chain"]["checked"], "whole");
    let now = ask(&["--at", "now", "--job", "job-7"]);
    assert!(text(&now.stdout).contains("still open"), "{}", text(&now.stdout));
}

#[test]
fn the_logs_of_many_hosts_at_once() {
    let world = World::new();
    world.directory("hosts");
    let one = log_of_host(&world, "hosts/wn1", 0);
    let two = log_of_host(&world, "hosts/wn2", 10);
    let hosts = world.path("hosts");
    let ask = |args: &[&str]| world.admin(&[&["trace", "--json", "--job", "job-15"], args].concat());
    for args in
        [&["--log", &one, &two][..], &["--log", &one, "--log", &two], &["--log", hosts.to_str().unwrap()]]
    {
        let json = answer(&ask(args));
        let logs: Vec<&str> =
            json["payloads"].as_array().unwrap().iter().map(|p| p["log"].as_str().unwrap()).collect();
        assert_eq!(logs, [one.as_str(), two.as_str()], "{args:?}");
        assert_eq!(json["logs"].as_array().unwrap().len(), 2);
    }
    let said = text(&world.admin(&["trace", "--job", "job-15", "--log", hosts.to_str().unwrap()]).stdout);
    assert!(
        said.starts_with("2 payloads match.") && said.contains("hosts/wn1") && said.contains("hosts/wn2"),
        "{said}"
    );
    // Copies that cannot be written are asked all the same.
    std::fs::set_permissions(&one, std::fs::Permissions::from_mode(0o555)).unwrap();
    assert_eq!(code(&ask(&["--log", &one])), 0);
    assert_eq!(START % 86_400, 0);
}

#[test]
fn a_question_to_the_recorders_log_is_recorded() {
    let world = World::new();
    let mut recorder = Recorder::start(&world);
    let mut command = recorder.exec(&world, &["--user", "/CN=Alice", "--vo", "cms", "--image"]);
    command.arg(image()).args(["--", "/bin/true"]);
    assert_eq!(code(&command.output().unwrap()), 0);
    // The default log is the recorder's, and the key beside it is used and said to be the host's own.
    let output = recorder.admin(&world, &["trace", "--user", "alice", "--at", "1 second ago"]);
    let said = text(&output.stdout);
    assert_eq!(text(&output.stderr), "");
    assert!(said.starts_with("No payload") || said.starts_with("One payload"), "{said}");
    wait_for("the end", || !recorder.records_of("payload-end").is_empty());
    let output = recorder.admin(&world, &["trace", "--user", "alice", "--vo", "cms"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let queries = recorder.wait_records("query", 2);
    let query = &queries[1];
    assert_eq!(query["grid"]["query"]["text"], "--user alice --vo cms");
    assert_eq!(query["grid"]["query"]["matches"], 1);
    assert_eq!(query["grid"]["peer"]["uid"], nix::unistd::geteuid().as_raw());
    let text_of_first = queries[0]["grid"]["query"]["text"].as_str().unwrap().to_owned();
    assert!(
        text_of_first.starts_with("--at 20") && text_of_first.ends_with("Z --user alice"),
        "{text_of_first}"
    );
    // A copy's questions are nobody's business but the asker's.
    let copy = world.directory("copy");
    for entry in std::fs::read_dir(&recorder.log).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ndjson") {
            std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    let output = recorder.admin(&world, &["trace", "--user", "alice", "--log", copy.to_str().unwrap()]);
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    assert_eq!(recorder.records_of("query").len(), 2);
    // Without the recorder the answer comes, and says that nobody noted the question.
    recorder.stop();
    let output = recorder.admin(&world, &["trace", "--user", "alice"]);
    assert_eq!(code(&output), 0);
    let complaint = text(&output.stderr);
    assert!(complaint.contains("was not recorded") && complaint.lines().count() == 1, "{complaint}");
    let verify = recorder.admin(&world, &["verify"]);
    let said = text(&verify.stdout);
    assert!(said.contains("whole") && said.contains("found on this host"), "{said}");
}
