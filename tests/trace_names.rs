//! Names in `bailey trace`: what a VO's resolver tells of a job, and the names of one person.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{World, code, text};

/// A VO whose resolver is this script, with `{job}` as its argument.
fn vo(world: &World, script: &str) -> String {
    let path = world.program("resolver", &format!("#!/bin/sh\n{script}\n"));
    format!(
        "name = \"atlas\"\njob_page = \"https://jobs.example.org/{{job}}\"\nsecurity_contact = \"sec@example.org\"\n\
         resolver = [\"{}\", \"--job={{job}}\"]\n",
        path.display()
    )
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)))
}

/// A payload that nobody is named of.
fn nameless(recorder: &Recorder, world: &World, job: &str) {
    let mut command = recorder.exec(world, &["--vo", "atlas", "--pilot", "pilot-1", "--job", job]);
    let output = command.args(["--", "/bin/true"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn a_resolvers_answer_becomes_the_payloads_name() {
    let world = World::new();
    let script = "env > \"$(dirname \"$0\")/env\"; \
                  printf '{\"user\":\"/CN=%s\",\"issuer\":\"https://iam.example.org/\",\"groups\":[\"/atlas\"]}' \"$1\"";
    let recorder = Recorder::with(&world, &[("[vo]", &vo(&world, script))]);
    nameless(&recorder, &world, "j&7");
    nameless(&recorder, &world, "other");
    let launch = recorder.wait_records("payload-launch", 2).remove(0);
    let id = launch["event"]["id"].as_str().unwrap();

    let said = text(&recorder.admin(&world, &["trace", "--job", "j&7"]).stdout);
    assert!(said.contains("page    https://jobs.example.org/j%267"), "{said}");
    assert!(said.contains("ask     sec@example.org") && !said.contains("learned"), "{said}");
    let asked = answer(&recorder.admin(&world, &["trace", "--json", "--job", "j&7"]));
    assert_eq!(asked["payloads"][0]["ask"]["security_contact"], "sec@example.org");
    assert!(recorder.records_of("payload-identity").is_empty(), "nobody asked the resolver");

    let resolved = recorder.admin(&world, &["trace", "--job", "j&7", "--resolve"]);
    let said = text(&resolved.stdout);
    assert_eq!(code(&resolved), 0, "{said}{}", text(&resolved.stderr));
    assert!(said.contains("Z: /CN=--job=j&7, by resolver") && said.contains("learned 2"), "{said}");
    let record = recorder.wait_records("payload-identity", 1).remove(0);
    assert_eq!((&record["event"]["id"], &record["event"]["type"][0]), (&id.into(), &"info".into()));
    let identity = &record["grid"]["identity"];
    assert_eq!((&identity["source"], &identity["assurance"]), (&"resolver".into(), &"declared".into()));
    assert_eq!(
        (&identity["groups"][0], &identity["issuer"]),
        (&"/atlas".into(), &"https://iam.example.org/".into())
    );
    assert_eq!(record["grid"]["peer"]["uid"], nix::unistd::geteuid().as_raw());
    let env = fs::read_to_string(world.path("env")).unwrap();
    assert!(!env.contains("HOME") && !env.contains("BAILEY"), "{env}");

    // Found by the name from now on, and not asked for again.
    for question in [&["--user", "job=j&7"][..], &["--user", "job=j&7", "--at", "1 day ago"]] {
        let found = answer(&recorder.admin(&world, &[&["trace", "--json"], question].concat()));
        let ids: Vec<&Value> =
            found["payloads"].as_array().unwrap().iter().map(|p| &p["launch"]["event"]["id"]).collect();
        let expected: &[&str] = if question.len() == 2 { &[id] } else { &[] };
        assert_eq!(ids, expected, "{question:?}");
    }
    recorder.admin(&world, &["trace", "--job", "j&7", "--resolve"]);
    assert_eq!(recorder.records_of("payload-identity").len(), 1);
    let found = answer(&recorder.admin(&world, &["trace", "--json", "--verify", "--user", "job=j&7"]));
    assert_eq!(found["payloads"][0]["learned"][0]["user"]["id"], "/CN=--job=j&7");
    recorder.assert_chain(&world);
}

#[test]
fn a_name_that_cannot_be_stored_is_printed() {
    let world = World::new();
    let config = world.config(&format!("[[vo]]\n{}", vo(&world, "echo \"Ada of $1\"")));
    let mut command = world.exec(&["--vo", "atlas", "--job", "7", "--", "/bin/true"]);
    assert_eq!(command.env("BAILEY_CONFIG", &config).output().unwrap().status.code(), Some(0));
    let trace = |more: &[&str]| {
        let mut command = world.command(support::BAILEY);
        command.env("BAILEY_CONFIG", &config).args(["trace", "--job", "7"]).args(more).output().unwrap()
    };
    let output = trace(&["--resolve"]);
    let said = text(&output.stdout);
    assert_eq!(code(&output), 0, "{said}");
    assert!(said.contains("Ada of --job=7, by the VO's resolver") && said.contains("not stored: "), "{said}");
    let value = answer(&trace(&["--resolve", "--json"]));
    assert_eq!(
        (&value["resolved"][0]["user"], &value["resolved"][0]["stored"]),
        (&"Ada of --job=7".into(), &false.into())
    );
    assert!(!text(&trace(&[]).stdout).contains("Ada"));
}

#[test]
fn a_resolver_that_hangs_floods_or_fails_harms_nobody() {
    let world = World::new();
    let script = "echo $$ > \"$(dirname \"$0\")/pid\"; case $1 in \
        *hang) sleep 300 & echo $! > \"$(dirname \"$0\")/child\"; wait;; \
        *closed) exec >&-; sleep 300;; \
        *behind) sleep 300 & echo $! > \"$(dirname \"$0\")/child\"; echo Ada;; \
        *flood) yes;; \
        *fail) echo half; exit 3;; \
        *none) :;; \
        *two) printf 'a\\nb\\n';; esac";
    let config = world.config(&format!("[[vo]]\n{}", vo(&world, script)));
    let is_gone = |file: &str| {
        let pid: i32 = fs::read_to_string(world.path(file)).unwrap().trim().parse().unwrap();
        support::proc_status(pid, "State").is_none_or(|state| state.starts_with('Z'))
    };
    for (job, word, longest) in [
        ("hang", "did not end within 10 s", 14),
        ("closed", "did not end within 10 s", 14),
        ("behind", "", 5),
        ("flood", "says more than 65536 bytes", 5),
        ("fail", "exit status: 3", 5),
        ("none", "gives no name", 5),
        ("two", "line breaks", 5),
    ] {
        let mut command = world.exec(&["--vo", "atlas", "--job", job, "--", "/bin/true"]);
        assert_eq!(command.env("BAILEY_CONFIG", &config).output().unwrap().status.code(), Some(0));
        let begin = Instant::now();
        let output = world
            .command(support::BAILEY)
            .env("BAILEY_CONFIG", &config)
            .args(["trace", "--json", "--job", job, "--resolve"])
            .output()
            .unwrap();
        assert!(begin.elapsed() < Duration::from_secs(longest), "{job}: {:?}", begin.elapsed());
        let value = answer(&output);
        assert_eq!(value["payloads"].as_array().unwrap().len(), 1, "the answer of the log stands");
        let resolved = &value["resolved"][0];
        if word.is_empty() {
            assert_eq!((code(&output), &resolved["user"]), (0, &"Ada".into()));
        } else {
            assert_eq!((code(&output), resolved.get("user")), (2, None), "{job}");
            assert!(resolved["trouble"].as_str().unwrap().contains(word), "{job}: {resolved}");
        }
        support::wait_for("the resolver's end", || is_gone("pid"));
        if matches!(job, "hang" | "behind") {
            support::wait_for("its child's end", || is_gone("child"));
        }
    }
}

#[test]
fn a_person_is_every_name() {
    let world = World::new();
    let config = world.config(
        "[[person]]\nid = \"p-alice\"\nnames = [\"CN=Alice,DC=org\", \"https://iam.example.org/ sub-1\"]\n",
    );
    for options in [
        &["--user", "/DC=org/CN=Alice"][..],
        &["--user", "/dc=org/cn=Alice"],
        &["--user", "sub-1", "--issuer", "https://iam.example.org"],
        &["--user", "sub-1", "--issuer", "https://other.example.org"],
        &["--user", "/DC=org/CN=Bob"],
    ] {
        let mut command = world.exec(options);
        command.args(["--", "/bin/true"]).env("BAILEY_CONFIG", &config);
        assert_eq!(command.output().unwrap().status.code(), Some(0), "{options:?}");
    }
    let trace = |config: &std::path::Path, more: &[&str]| {
        let mut command = world.command(support::BAILEY);
        command.env("BAILEY_CONFIG", config).args(["trace"]).args(more).output().unwrap()
    };
    let value = answer(&trace(&config, &["--json", "--person", "p-alice"]));
    let users: Vec<&str> = value["payloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["launch"]["user"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(users, ["/DC=org/CN=Alice", "/dc=org/cn=Alice", "sub-1"]);
    assert_eq!(value["person"]["names"].as_array().unwrap().len(), 2);
    let said = text(&trace(&config, &["--person", "p-alice"]).stdout);
    assert!(said.contains("Names of p-alice: CN=Alice,DC=org; https://iam.example.org/ sub-1"), "{said}");

    let unknown = trace(&config, &["--person", "p-alcie"]);
    assert_eq!(code(&unknown), 2);
    assert!(text(&unknown.stderr).contains("did you mean p-alice?"), "{}", text(&unknown.stderr));
    // Elsewhere, what the records say of the person counts.
    let other = world.file("other.toml", "");
    let value = answer(&trace(&other, &["--json", "--person", "p-alice"]));
    assert_eq!(value["payloads"].as_array().unwrap().len(), 3, "as the launcher recorded the person");
}
