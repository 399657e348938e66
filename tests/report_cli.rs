//! `bailey report`: from cursor to cursor over real launches, and over logs that were rotated, pruned and changed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod support;
use bailey::audit::record::Action;
use common::grid::Writer;
use serde_json::Value;
use std::fs;
use std::path::Path;
use support::recorder::Recorder;
use support::{World, code, text};

/// The events of a report, and its last line.
fn report(world: &World, config: &Path, since: &str, more: &[&str]) -> (Vec<Value>, Value) {
    let output = world
        .command(support::BAILEY)
        .env("BAILEY_CONFIG", config)
        .args(["report", "--json", "--since", since])
        .args(more)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let mut lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.pop().unwrap();
    assert!(last["cursor"].is_string(), "{last}");
    (lines, last)
}

fn cursor(last: &Value) -> &str {
    last["cursor"].as_str().unwrap()
}

fn site(world: &World) -> String {
    format!(
        "[bans]\ndir = \"{}\"\n[[vo]]\nname = \"atlas\"\njob_page = \"https://jobs.example.org/{{job}}\"\n\
         user_contact = \"help@example.org\"\nsecurity_contact = \"sec@example.org\"\n",
        world.directory("bans.d").display()
    )
}

fn launch(world: &World, config: &Path, user: &str) -> Option<i32> {
    let mut command = world.exec(&["--user", user, "--vo", "atlas", "--job", "j 1"]);
    command.args(["--", "/bin/true"]).env("BAILEY_CONFIG", config).output().unwrap().status.code()
}

#[test]
fn each_event_is_told_once() {
    let world = World::new();
    let config = world.config(&site(&world));
    world.file("bans.d/local.toml", "[[ban]]\nuser = \"/CN=Eve\"\nreason = \"mining\"\nticket = \"T-7\"\n");
    assert_eq!(launch(&world, &config, "/CN=Ada"), Some(0));
    let (events, now) = report(&world, &config, "now", &[]);
    assert!(events.is_empty());
    for _ in 0..3 {
        assert_eq!(launch(&world, &config, "/CN=Eve"), Some(120));
    }
    assert_eq!(launch(&world, &config, "/CN=Ada"), Some(0));
    let (events, last) = report(&world, &config, cursor(&now), &[]);
    assert_eq!(events.len(), 3, "{events:?}");
    let deny = world.records_of("payload-deny").remove(0);
    let event = &events[0];
    for (field, expected) in [
        ("action", "payload-deny"),
        ("user", "/CN=Eve"),
        ("vo", "atlas"),
        ("job", "j 1"),
        ("job_page", "https://jobs.example.org/j%201"),
        ("fault", "user"),
        ("incident", deny["event"]["id"].as_str().unwrap()),
        ("sentence", deny["event"]["reason"].as_str().unwrap()),
        ("time", deny["@timestamp"].as_str().unwrap()),
        ("host", deny["host"]["name"].as_str().unwrap()),
    ] {
        assert_eq!(event[field], expected, "{field}: {event}");
    }
    assert_eq!((&event["ban"]["ticket"], &event["ban"]["entry"]), (&"T-7".into(), &"local.toml:1".into()));
    assert_eq!(event["contacts"]["user"], "help@example.org");
    assert_eq!(event["contacts"]["security"], "sec@example.org");

    // Nothing new: the same cursor again.
    let (none, again) = report(&world, &config, cursor(&last), &[]);
    assert!(none.is_empty() && again == last, "{again}");
    // In pages of one, and from the beginning: the same events, each once.
    let (mut paged, mut at) = (Vec::new(), "start".to_owned());
    loop {
        let (page, last) = report(&world, &config, &at, &["--limit", "1"]);
        assert!(page.len() <= 1);
        cursor(&last).clone_into(&mut at);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, events);

    let human = world
        .command(support::BAILEY)
        .env("BAILEY_CONFIG", &config)
        .args(["report", "--since", "start"])
        .output()
        .unwrap();
    let said = text(&human.stdout);
    for word in
        ["3 events.", "ticket T-7", "page https://jobs.example.org/j%201", "sec@example.org", "--since 1/"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    let shown = said.lines().take_while(|line| !line.starts_with("--since"));
    assert!(shown.into_iter().all(|line| line.chars().count() <= 100), "{said}");
    for wrong in ["nonsense", "", "1/zz"] {
        let output = world.admin(&["report", "--since", wrong]);
        assert_eq!(code(&output), 2, "{wrong}");
        assert!(text(&output.stderr).contains("cursor"), "{wrong}");
    }
}

#[test]
fn a_cursor_survives_rotation_and_says_what_retention_took() {
    let world = World::new();
    let (config, dir) = (world.config(""), world.directory("log"));
    let mut writer = Writer::new(&dir, true);
    let log = ["--log", dir.to_str().unwrap()];
    writer.roll();
    writer.deny(1);
    let (events, first) = report(&world, &config, "start", &log);
    assert_eq!(events.len(), 1);
    for number in 2..5 {
        writer.roll();
        writer.deny(number);
    }
    let id = writer.launch(9).to_string();
    writer.close(&id, Action::LaunchFailed);
    let (events, last) = report(&world, &config, cursor(&first), &log);
    assert_eq!(events.len(), 4, "three denials and a failed launch: {events:?}");
    assert!(events.windows(2).all(|two| two[0]["seq"].as_u64() < two[1]["seq"].as_u64()));
    assert!(report(&world, &config, cursor(&last), &log).0.is_empty());

    // A copy elsewhere is the same log.
    let copy = world.directory("copy");
    for name in &writer.segments {
        fs::copy(dir.join(name), copy.join(name)).unwrap();
    }
    assert_eq!(report(&world, &config, cursor(&first), &["--log", copy.to_str().unwrap()]).0, events);

    // Read to the end of the first segment, which goes then: nothing is lost. With the second one, something is.
    let two = fs::read_to_string(dir.join(&writer.segments[1])).unwrap();
    let mut at = first.clone();
    fs::remove_file(dir.join(&writer.segments[0])).unwrap();
    let (rest, after) = report(&world, &config, cursor(&at), &log);
    assert_eq!(
        (rest.len(), &after["lost"], &after["lost_lines"]),
        (4, &true.into(), &1.into()),
        "its checkpoint"
    );
    at["cursor"] = first["cursor"].clone();
    fs::remove_file(dir.join(&writer.segments[1])).unwrap();
    let (rest, after) = report(&world, &config, cursor(&at), &log);
    assert_eq!((rest.len(), &after["lost_lines"]), (3, &(two.lines().count() + 1).into()));
    let (rest, after) = report(&world, &config, cursor(&last), &log);
    assert!(rest.is_empty() && after.get("lost").is_none(), "{after}");
    let human = world.admin(&["report", "--since", cursor(&first), "--log", dir.to_str().unwrap()]);
    assert!(text(&human.stdout).contains("Retention removed"), "{}", text(&human.stdout));
}

#[test]
fn a_changed_chain_is_an_error() {
    let world = World::new();
    let dir = world.directory("log");
    let mut writer = Writer::new(&dir, false);
    writer.roll();
    for number in 0..5 {
        writer.deny(number);
    }
    let log = ["--log", dir.to_str().unwrap()];
    let (_, middle) = report(&world, &world.config(""), "start", &[&["--limit", "2"], &log[..]].concat());
    let path = dir.join(&writer.segments[0]);
    let good = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let with = |number: usize, line: Option<String>| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        match line {
            Some(line) => lines[number] = line,
            None => drop(lines.remove(number)),
        }
        lines.join("\n") + "\n"
    };
    for (what, bad) in [
        ("a line behind it", with(4, Some(lines[4].replace("banned", "harmed")))),
        ("the line itself", with(2, Some(lines[2].replace("banned", "harmed")))),
        ("a line is gone", with(4, None)),
        ("a line before it is gone", with(1, None)),
        ("cut off", lines[..2].join("\n") + "\n"),
    ] {
        fs::write(&path, bad).unwrap();
        let output = world.admin(&["report", "--json", "--since", cursor(&middle), "--log", log[1]]);
        assert_eq!((code(&output), text(&output.stdout).as_str()), (1, ""), "{what}");
        assert!(text(&output.stderr).contains("the chain was changed"), "{what}: {}", text(&output.stderr));
    }
    // A line that is being written is no change, and is told the next time.
    let half = &good[..good.len() - 30];
    fs::write(&path, half).unwrap();
    let (events, last) = report(&world, &world.config(""), cursor(&middle), &log);
    assert_eq!(events.len(), 2);
    fs::write(&path, &good).unwrap();
    assert_eq!(report(&world, &world.config(""), cursor(&last), &log).0.len(), 1);
}

#[test]
fn several_logs_go_on_side_by_side() {
    let world = World::new();
    let (config, all) = (world.config(""), world.directory("logs"));
    let log = ["--log", all.to_str().unwrap()];
    let mut writers: Vec<Writer> =
        ["a", "b"].iter().map(|name| Writer::new(&world.directory(&format!("logs/{name}")), true)).collect();
    for writer in &mut writers {
        writer.roll();
        writer.deny(1);
    }
    let (events, last) = report(&world, &config, "start", &log);
    assert_eq!(events.len(), 2);
    writers[1].deny(2);
    let mut third = Writer::new(&world.directory("logs/c"), true);
    third.roll();
    third.deny(3);
    let (events, last) = report(&world, &config, cursor(&last), &log);
    let logs: Vec<&str> = events.iter().map(|event| event["log"].as_str().unwrap()).collect();
    assert!(logs.len() == 2 && logs[0].ends_with("/b") && logs[1].ends_with("/c"), "{logs:?}");
    assert!(report(&world, &config, cursor(&last), &log).0.is_empty());
}

#[test]
fn the_recorders_log_keeps_who_asked() {
    let world = World::new();
    let site = site(&world);
    let (bans, vo) = site.split_once("[[vo]]\n").unwrap();
    let bans = bans.strip_prefix("[bans]\n").unwrap();
    let recorder = Recorder::with(&world, &[("bans", bans), ("[vo]", vo)]);
    world.file("bans.d/local.toml", "[[ban]]\nuser = \"/CN=Eve\"\nreason = \"mining\"\n");
    let mut command = recorder.exec(&world, &["--user", "/CN=Eve", "--vo", "atlas", "--", "/bin/true"]);
    assert_eq!(command.output().unwrap().status.code(), Some(120));
    let (events, last) = report(&world, &recorder.config, "start", &[]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["fault"], "user");
    let query = recorder.wait_records("query", 1).remove(0);
    assert_eq!(query["grid"]["query"]["text"], "report --since start");
    assert_eq!(query["grid"]["query"]["matches"], 1);
    assert!(report(&world, &recorder.config, cursor(&last), &[]).0.is_empty());
}
