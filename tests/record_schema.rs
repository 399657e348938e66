//! Every record that bailey writes fits its own JSON Schema, and ECS's published field types with nothing beside them but
//! `grid` and `chain`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use bailey::audit::chain::{Body, Link};
use bailey::audit::record::{self, Action, Assurance, EndBy, Record, Role};
use bailey::audit::{Durability, EmbeddedLog, Timestamp};
use common::ecs::{check, ecs};
use common::{Scratch, id, lines, options};
use serde_json::Value;

const ACTIONS: [Action; 10] = [
    Action::PayloadLaunch,
    Action::PayloadEnd,
    Action::PayloadDeny,
    Action::PayloadNotice,
    Action::PayloadStop,
    Action::PayloadIdentity,
    Action::LaunchFailed,
    Action::SegmentOpen,
    Action::LogRepair,
    Action::Checkpoint,
];

#[allow(clippy::unnecessary_wraps)] // every field of a record is an Option
fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// A record with every field that ECS names, and some of `grid`.
fn full(action: Action) -> Record {
    let now = Some(Timestamp::new(1_700_000_000, 5));
    let mut r = Record::new(action, id(1));
    r.event.created = now;
    r.event.duration = Some(5_000_000_000);
    r.event.reason = text("a reason");
    r.event.outcome = Some(record::Outcome::Success);
    r.host = options().host;
    r.host.pid_ns_ino = text("4026531836");
    r.process.pid = Some(4242);
    r.process.vpid = Some(2);
    r.process.start = now;
    r.process.end = now;
    r.process.entity_id = Some(record::entity_id("h", "b", 1, 2));
    r.process.executable = text("/bin/sh");
    r.process.args = vec!["sh".into(), "-c".into(), "a\nb\u{1b}\u{0}".into()];
    r.process.working_directory = text("/w");
    r.process.exit_code = Some(0);
    r.process.hash.sha256 = text("00");
    r.process.parent.pid = Some(1);
    r.process.parent.executable = text("/usr/bin/bailey");
    r.process.parent.hash.sha256 = text("00");
    r.process.thread.capabilities.permitted = vec!["CAP_CHOWN".into()];
    r.process.thread.capabilities.effective = vec!["CAP_CHOWN".into()];
    r.process.real_user.id = text("1000");
    r.process.real_group.id = text("1000");
    r.process.user.id = text("1000");
    r.user.id = text("/CN=x");
    r.user.domain = text("vo");
    r.user.roles = vec!["/vo/Role=x".into()];
    r.user.name = text("X");
    r.related.user = vec!["x".into()];
    r.related.ip = r.host.ip.clone();
    r.related.hash = vec!["00".into()];
    r.container.image.name = text("/cvmfs/x");
    r.container.image.hash.all = vec!["sha256:00".into()];
    r.error.code = text("125");
    r.error.message = text("cannot");
    r.grid.role = Some(Role::Payload);
    r.grid.identity.assurance = Some(Assurance::Declared);
    r.grid.identity.others =
        vec![record::OtherIdentity { subject: text("y"), ..record::OtherIdentity::default() }];
    r.grid.image.created = now;
    r.grid.image.created_by = text("sif-header");
    r.grid.image.os = text("debian 12");
    r.grid.image.end_of_life = text("2028-06-30");
    r.grid.image.labels.insert("maintainer".into(), "x".into());
    r.grid.image.remarks = vec!["labels.json: not a JSON object".into()];
    r.grid.mounts = vec![record::Mount { source: text("/a"), target: text("/b"), mode: text("ro") }];
    r.grid.sandbox.insert("seccomp".into(), "on".into());
    r.grid.end.by = Some(EndBy::HostRestart);
    r.grid.stop.by = Some(record::StopBy::Ban);
    r.grid.stop.reason = text("x");
    r.grid.stop.freeze = Some(true);
    r.grid.usage.cpu_user_us = Some(1);
    r.grid.overuse.metric = Some(bailey::overuse::Metric::Cpu);
    r.grid.overuse.step = Some(bailey::overuse::Step::Stop);
    r.grid.overuse.value = Some(3.94);
    r
}

fn written(record: &Record) -> Value {
    let line = Body::new(record).unwrap().line(Timestamp::now(), &Link::START, "w");
    serde_json::from_slice(&line).unwrap()
}

fn all_records() -> Vec<Value> {
    let mut values: Vec<Value> = ACTIONS.iter().map(|action| written(&full(*action))).collect();
    values.extend(ACTIONS.iter().map(|action| {
        let mut bare = Record::new(*action, id(2));
        bare.host.name = text("wn1");
        written(&bare)
    }));
    // The log's own, as they come out of it.
    let dir = Scratch::new();
    let mut log = EmbeddedLog::open(dir.path(), options()).unwrap();
    log.append(&full(Action::PayloadDeny), Durability::Written).unwrap();
    drop(log);
    let bytes = std::fs::read(dir.segment()).unwrap();
    std::fs::write(dir.segment(), &bytes[..bytes.len() - 9]).unwrap();
    drop(EmbeddedLog::open(dir.path(), options()).unwrap());
    let own: Vec<Value> = lines(dir.path()).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(own.len(), 2);
    values.extend(own);
    values
}

fn leaves(path: &str, value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(&path, member, into);
            }
        }
        _ => into.push(path.to_owned()),
    }
}

#[test]
fn records_fit_ecs() {
    let fields = ecs();
    for value in all_records() {
        let mut wrong = Vec::new();
        check("", &value, &fields, &mut wrong);
        assert_eq!(wrong, [""; 0], "{value}");
    }
    // Every field of the table is really written, so that the table proves something about each.
    let mut seen = Vec::new();
    leaves("", &written(&full(Action::PayloadEnd)), &mut seen);
    let unseen: Vec<&String> = fields.keys().filter(|name| !seen.contains(name)).collect();
    assert_eq!(unseen, [""; 0]);
}

#[test]
fn the_check_against_ecs_can_fail() {
    for (pointer, bad) in [
        ("/process/pid", Value::from("4242")),
        ("/process/user/id", Value::from(1000)),
        ("/host/ip", Value::from("192.0.2.1")),
        ("/event/created", Value::from("yesterday")),
        ("/user", serde_json::json!({"nickname": "x"})),
    ] {
        let mut value = written(&full(Action::PayloadEnd));
        *value.pointer_mut(pointer).unwrap() = bad;
        let mut wrong = Vec::new();
        check("", &value, &ecs(), &mut wrong);
        assert_eq!(wrong.len(), 1, "{pointer}: {wrong:?}");
    }
}

#[test]
fn records_fit_the_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../docs/record.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for value in all_records() {
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{value}");
    }
    for (pointer, bad) in [
        ("/event/action", Value::from("payload-lunch")),
        ("/chain/prev", Value::from("abc")),
        ("/@timestamp", Value::from("2024-01-01T00:00:00Z")),
        ("/grid/usage", Value::from(1)),
        ("/chain", Value::Null),
    ] {
        let mut value = written(&full(Action::PayloadEnd));
        *value.pointer_mut(pointer).unwrap() = bad;
        assert!(!validator.is_valid(&value), "{pointer}");
    }
}

/// Regenerate with `BAILEY_WRITE_SCHEMA=1 cargo test --all-features --test record_schema`.
#[cfg(feature = "schema")]
#[test]
fn the_published_schema_is_the_types_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/record.schema.json");
    let made = serde_json::to_string_pretty(&record::schema()).unwrap() + "\n";
    if std::env::var_os("BAILEY_WRITE_SCHEMA").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    // Not assert_eq: nobody wants both texts on the screen.
    assert!(
        std::fs::read_to_string(path).unwrap() == made,
        "docs/record.schema.json is stale: see above how to renew it"
    );
}
