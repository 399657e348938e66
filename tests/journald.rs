//! Copies of the records in a real systemd-journald, which runs as an ordinary user in namespaces of its own.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{BAILEY, World, assert_refused, code, image, skip, text};

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// What a run left: the lines of the log, and the entries that bailey has in the journal.
struct Outcome {
    lines: Vec<String>,
    entries: Vec<Value>,
    said: String,
}

/// `bailey exec` with `audit.journald = MODE` beside a journald, or beside none.
fn run(world: &World, mode: &str, with_journald: bool, launches: &str) -> Outcome {
    let log = world.path("log");
    let config =
        world.file("bailey.toml", &format!("[audit]\ndir = \"{}\"\njournald = \"{mode}\"\n", log.display()));
    // journald takes its descriptors' places from /run, its settings from /etc/systemd; both are our own here. It is told
    // that bailey's end has arrived by a last message of ours, because the journal takes messages in order.
    let script = r#"
        set -eu
        mount --make-rprivate /
        mount -t tmpfs -o mode=0755 tmpfs /run
        if [ "$WITH" = true ]; then
            mount -t tmpfs -o mode=0755 tmpfs /etc/systemd
            printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\nRateLimitBurst=0\n' \
                >/etc/systemd/journald.conf
            mkdir -p /run/systemd/journal /run/log/journal
            "$JOURNALD" 2>"$W/journald" & daemon=$!
            trap 'kill $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true' EXIT
            for turn in $(seq 500); do
                if [ -S /run/systemd/journal/socket ]; then break; fi
                sleep 0.02
            done
        fi
        pilot() { unshare -U --map-user="$PILOT" --map-group="$PILOT" -- "$@"; }
        bailey() { BAILEY_CONFIG=$CONFIG pilot "$BAILEY" "$@"; }
        LAUNCHES
        if [ "$WITH" = true ]; then
            printf 'MESSAGE=the last one\n' | logger --journald
            for turn in $(seq 500); do
                journalctl -D /run/log/journal/* --output json --no-pager --all >"$W/journal"
                if grep -q 'the last one' "$W/journal"; then break; fi
                sleep 0.02
            done
            grep -q 'the last one' "$W/journal"
        fi
    "#
    .replace("LAUNCHES", launches);
    let mut command = world.command("unshare");
    command
        .args(["-Urm", "--", "/bin/bash", "-c", &script])
        .env("W", &world.dir)
        .env("WITH", with_journald.to_string())
        .env("JOURNALD", JOURNALD)
        .env("PILOT", nix::unistd::geteuid().to_string())
        .env("CONFIG", config)
        .env("BAILEY", BAILEY)
        .env("IMAGE", image());
    let output = command.output().unwrap();
    let journald = fs::read_to_string(world.path("journald")).unwrap_or_default();
    assert_eq!(code(&output), 0, "{}\n{journald}", text(&output.stderr));
    let journal = fs::read_to_string(world.path("journal")).unwrap_or_default();
    let entries: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Outcome {
        lines: lines(&log),
        entries: entries.into_iter().filter(|entry| entry["SYSLOG_IDENTIFIER"] == "bailey").collect(),
        said: text(&output.stderr),
    }
}

fn lines(log: &Path) -> Vec<String> {
    let mut segments: Vec<_> = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .collect();
    segments.sort();
    let all: String = segments.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    all.lines().map(str::to_owned).collect()
}

fn action(line: &str) -> String {
    serde_json::from_str::<Value>(line).unwrap()["event"]["action"].as_str().unwrap().to_owned()
}

/// The copies, byte for byte; journalctl shows a field that is not text as a list of bytes.
fn copies(entries: &[Value]) -> Vec<String> {
    let copy = |entry: &Value| match &entry["BAILEY_RECORD"] {
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect();
            text(&bytes)
        }
        other => panic!("no record in {entry}: {other}"),
    };
    entries.iter().map(copy).collect()
}

fn has_journald(test: &str) -> bool {
    let there = Path::new(JOURNALD).exists();
    if !there {
        skip(test, "there is no systemd-journald (Debian: systemd)");
    }
    there
}

const TWO: &str = "
    bailey exec --user /CN=one --vo journal --image \"$IMAGE\" -- /bin/true
    bailey exec --user \"/CN=$(head -c 200 /dev/zero | tr '\\0' x)\" --image \"$IMAGE\" -- /bin/sh -c 'exit 3' || test $? = 3
";

#[test]
fn all_copies_every_record_with_the_same_bytes() {
    if !has_journald("all_copies_every_record_with_the_same_bytes") {
        return;
    }
    let world = World::new();
    let outcome = run(&world, "all", true, TWO);
    assert_eq!(outcome.said, "");
    let actions: Vec<String> = outcome.lines.iter().map(|line| action(line)).collect();
    assert_eq!(actions, ["segment-open", "payload-launch", "payload-end", "payload-launch", "payload-end"]);
    assert_eq!(copies(&outcome.entries), outcome.lines);
    for (entry, line) in outcome.entries.iter().zip(&outcome.lines) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["_TRANSPORT"], "journal");
        if let Some(id) = record["event"]["id"].as_str() {
            assert_eq!(entry["BAILEY_LAUNCH"], id);
        }
        // A sentence for people, never a name from outside.
        assert!(!entry["MESSAGE"].as_str().unwrap().contains("CN="), "{entry}");
    }
}

#[test]
fn refusals_repairs_and_lost_launches_are_copied_too() {
    if !has_journald("refusals_repairs_and_lost_launches_are_copied_too") {
        return;
    }
    let world = World::new();
    let outcome = run(
        &world,
        "all",
        true,
        r#"
        bailey exec --image "$IMAGE" -- /nonexistent 2>/dev/null || test $? = 127
        bailey exec --image "$IMAGE" -- /bin/sleep 60 & victim=$!
        until grep -q payload-launch "$W"/log/*.ndjson; do sleep 0.02; done
        kill -9 $victim $(pgrep -P $victim || true) || true
        wait $victim 2>/dev/null || true
        printf '{"torn' >>"$(echo "$W"/log/*.ndjson)"
        bailey exec --image "$IMAGE" -- /bin/true
        "#,
    );
    let actions: Vec<String> = outcome.lines.iter().map(|line| action(line)).collect();
    let expected = [
        "segment-open",
        "launch-failed",
        "payload-launch",
        "log-repair",
        "payload-end",
        "payload-launch",
        "payload-end",
    ];
    assert_eq!(actions, expected);
    assert_eq!(copies(&outcome.entries), outcome.lines);
}

#[test]
fn off_sends_nothing() {
    if !has_journald("off_sends_nothing") {
        return;
    }
    let world = World::new();
    let outcome = run(&world, "off", true, TWO);
    assert_eq!((outcome.lines.len(), outcome.entries.len()), (5, 0));
}

#[test]
fn checkpoints_sends_only_the_logs_own_life() {
    if !has_journald("checkpoints_sends_only_the_logs_own_life") {
        return;
    }
    let world = World::new();
    let outcome = run(&world, "checkpoints", true, TWO);
    assert_eq!(outcome.lines.len(), 5);
    assert_eq!(copies(&outcome.entries), outcome.lines[..1]);
}

#[test]
fn without_a_journal_the_launch_works_all_the_same() {
    let world = World::new();
    let outcome = run(&world, "all", false, TWO);
    assert_eq!((outcome.lines.len(), outcome.said.as_str()), (5, ""));
    let report = bailey::admin::verify::verify(&world.path("log")).unwrap();
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn another_word_for_it_is_an_error() {
    let world = World::new();
    let config = world.file("bailey.toml", "[audit]\njournald = \"some\"\n");
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(["--", "/bin/true"]).env("BAILEY_CONFIG", config);
    assert_refused(&command.output().unwrap(), 125, &["journald", "checkpoints"]);
}
