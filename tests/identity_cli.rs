//! Who it is: options, documents and the environment, end to end into the record.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use support::{World, assert_refused, code, text};

/// `bailey exec OPTIONS -- sh -c 'echo ran'`
fn exec(world: &World, options: &[&str]) -> Command {
    let mut command = world.exec(options);
    command.args(["--", "/bin/sh", "-c", "echo ran"]);
    command
}

/// It ran; its launch record.
fn launched(world: &World, output: &Output) -> Value {
    assert_eq!((code(output), text(&output.stdout).as_str()), (0, "ran\n"), "{}", text(&output.stderr));
    world.records_of("payload-launch").pop().unwrap()
}

/// It did not run, one line says why, and one record too.
fn refused(world: &World, output: &Output, expected: i32, words: &[&str]) {
    assert_refused(output, expected, words);
    assert_eq!(text(&output.stdout), "", "it ran");
    let action = if expected == 120 { "payload-deny" } else { "launch-failed" };
    let records = world.records();
    let last = records.last().unwrap();
    assert_eq!(last["event"]["action"], action);
    assert_eq!(last["error"]["code"], expected.to_string());
    assert_eq!(format!("bailey: {}\n", last["event"]["reason"].as_str().unwrap()), text(&output.stderr));
}

const DOCUMENT: &str = r#"{
    "user": "/DC=org/DC=example/CN=Zoë", "issuer": "https://iam.example/", "vo": "cms",
    "groups": ["/cms/Role=production", "/cms"], "name": "Zoë Å", "pilot": "pilot-1", "job": "job-1", "task": "task-1"
}"#;

fn assert_is_document(launch: &Value, source: &str) {
    let identity = &launch["grid"]["identity"];
    assert_eq!(launch["user"]["id"], "/DC=org/DC=example/CN=Zoë");
    assert_eq!(launch["user"]["domain"], "https://iam.example/");
    assert_eq!(launch["user"]["roles"], json!(["/cms/Role=production", "/cms"]));
    assert!(launch["user"].get("name").is_none(), "only if the site asks for it");
    assert_eq!(launch["related"]["user"], json!(["/DC=org/DC=example/CN=Zoë"]));
    assert_eq!(launch["grid"]["vo"], "cms");
    assert_eq!((&identity["assurance"], &identity["source"]), (&json!("declared"), &json!(source)));
    assert_eq!(identity["issuer"], "https://iam.example/");
    assert_eq!(identity["subject"], launch["user"]["id"]);
    assert_eq!(identity["groups"], launch["user"]["roles"]);
    assert_eq!(launch["grid"]["pilot"]["id"], "pilot-1");
    assert_eq!(launch["grid"]["job"], json!({"id": "job-1", "task": "task-1"}));
}

#[test]
fn options_and_documents_say_the_same() {
    let world = World::new();
    let file = world.file("identity.json", DOCUMENT);
    let path = file.to_str().unwrap();
    assert_is_document(&launched(&world, &exec(&world, &["--identity", path]).output().unwrap()), "file");
    let by_variable = exec(&world, &[]).env("BAILEY_IDENTITY", path).output().unwrap();
    assert_is_document(&launched(&world, &by_variable), "file");
    let relative = exec(&world, &["--identity", "identity.json"]).output().unwrap();
    assert_is_document(&launched(&world, &relative), "file");
    let options = [
        "--user",
        "/DC=org/DC=example/CN=Zoë",
        "--issuer",
        "https://iam.example/",
        "--vo",
        "cms",
        "--group",
        "/cms/Role=production",
        "--group",
        "/cms",
        "--pilot",
        "pilot-1",
        "--job",
        "job-1",
        "--task",
        "task-1",
    ];
    assert_is_document(&launched(&world, &exec(&world, &options).output().unwrap()), "command-line");
    // The end says who it was as well: it is found without its launch record.
    for end in world.records_of("payload-end") {
        assert_eq!(end["user"]["id"], "/DC=org/DC=example/CN=Zoë");
        assert_eq!(end["grid"]["job"]["id"], "job-1");
    }
    world.assert_closed();
}

#[test]
fn one_document_is_read_and_options_complete_it() {
    let world = World::new();
    let named = world.file("named.json", r#"{"user": "/CN=Named", "vo": "cms"}"#);
    let broken = world.file("broken.json", "{");
    // --identity is read and BAILEY_IDENTITY is not.
    let output = exec(&world, &["--identity", named.to_str().unwrap(), "--job", "job-2"])
        .env("BAILEY_IDENTITY", &broken)
        .output()
        .unwrap();
    let launch = launched(&world, &output);
    assert_eq!((&launch["user"]["id"], &launch["grid"]["job"]["id"]), (&json!("/CN=Named"), &json!("job-2")));
    // An empty variable names no document.
    let output = exec(&world, &["--user", "u"]).env("BAILEY_IDENTITY", "").output().unwrap();
    assert_eq!(launched(&world, &output)["user"]["id"], "u");
    // A named one that is broken is never passed over.
    let output = exec(&world, &["--user", "u"]).env("BAILEY_IDENTITY", &broken).output().unwrap();
    refused(&world, &output, 125, &["broken.json", "line 1"]);
    // Two names for one payload.
    let output =
        exec(&world, &["--user", "/CN=Other", "--identity", named.to_str().unwrap()]).output().unwrap();
    refused(&world, &output, 120, &["/CN=Other", "/CN=Named"]);
    assert_eq!(world.records_of("payload-launch").len(), 2);
    world.assert_closed();
}

#[test]
fn nobody_declared() {
    let world = World::new();
    let launch = launched(&world, &exec(&world, &[]).output().unwrap());
    assert_eq!(launch["grid"]["identity"], json!({"assurance": "undeclared"}));
    assert!(launch.get("user").is_none_or(|user| user.get("id").is_none()), "{launch}");

    let config = world.config("[identity]\nundeclared = \"deny\"\n");
    let deny = |options: &[&str]| exec(&world, options).env("BAILEY_CONFIG", &config).output().unwrap();
    refused(&world, &deny(&[]), 120, &["--user", "--identity"]);
    // A VO alone names nobody.
    refused(&world, &deny(&["--vo", "cms", "--job", "1"]), 120, &["--user"]);
    let denied = world.records_of("payload-deny");
    assert_eq!(denied.len(), 2);
    assert!(denied[0]["event"]["type"].as_array().unwrap().contains(&json!("denied")), "{}", denied[0]);
    assert_eq!(denied[0]["event"]["outcome"], "failure");
    assert!(denied[0]["process"].get("pid").is_none(), "no process was made");
    assert_eq!(launched(&world, &deny(&["--user", "u"]))["user"]["id"], "u");
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn the_display_name_only_where_the_site_asks_for_it() {
    let world = World::new();
    world.file("identity.json", DOCUMENT);
    let config = world.config("[audit]\nuser_name = true\n");
    let output =
        exec(&world, &["--identity", "identity.json"]).env("BAILEY_CONFIG", config).output().unwrap();
    assert_eq!(launched(&world, &output)["user"]["name"], "Zoë Å");
}

#[test]
fn documents_that_cannot_be_used() {
    let world = World::new();
    let huge = format!("{{\"user\": \"a\"}}{}", " ".repeat(64 << 10));
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let unreadable = world.file("unreadable.json", "{}");
    std::fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    std::os::unix::fs::symlink("loop.json", world.path("loop.json")).unwrap();
    let cases: Vec<(&Path, &[u8], &str)> = vec![
        (Path::new("huge.json"), huge.as_bytes(), "65536"),
        (Path::new("text.json"), b"/CN=Alice\n", "line 1"),
        (Path::new("empty.json"), b"", "line 1"),
        (Path::new("array.json"), b"[\"/CN=Alice\"]", "array"),
        (Path::new("unknown.json"), b"{\"user\": \"a\", \"usr\": \"b\"}", "usr"),
        (Path::new("twice.json"), b"{\"user\": \"a\", \"user\": \"b\"}", "duplicate"),
        (Path::new("number.json"), b"{\"user\": 1}", "integer"),
        (Path::new("newline.json"), b"{\"user\": \"a\\nb\"}", "control"),
        (Path::new("escape.json"), b"{\"user\": \"a\\u001b[31m\"}", "control"),
        (Path::new("nul.json"), b"{\"job\": \"a\\u0000\"}", "control"),
        (Path::new("bidi.json"), "{\"user\": \"a\u{202e}b\"}".as_bytes(), "invisible"),
        (Path::new("latin1.json"), b"{\"user\": \"Zo\xeb\"}", "line 1"),
        (Path::new("issuer.json"), b"{\"user\": \"a\", \"issuer\": \"http://x\"}", "issuer"),
        (Path::new("token.json"), b"{\"user\": \"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\"}", "token"),
        (Path::new("fifo"), b"", "FIFO"),
        (Path::new("home"), b"", "directory"),
        (Path::new("missing.json"), b"", "ENOENT"),
        (Path::new("unreadable.json"), b"", "EACCES"),
        (Path::new("loop.json"), b"", "ELOOP"),
        (Path::new("/dev/zero"), b"", "device"),
    ];
    let special = ["fifo", "home", "missing.json", "unreadable.json", "loop.json", "/dev/zero"];
    for (name, content, word) in &cases {
        if !special.contains(&name.to_str().unwrap()) {
            std::fs::write(world.path(name.to_str().unwrap()), content).unwrap();
        }
        let mut command = world.exec(&["--identity"]);
        let output = command.arg(name).args(["--", "/bin/sh", "-c", "echo ran"]).output().unwrap();
        refused(&world, &output, 125, &[word]);
        assert!(!text(&output.stderr).contains("eyJ"), "a token is not repeated");
        let output = exec(&world, &[]).env("BAILEY_IDENTITY", name).output().unwrap();
        refused(&world, &output, 125, &[word]);
    }
    assert_eq!(world.records_of("launch-failed").len(), cases.len() * 2);
    assert!(world.records_of("payload-launch").is_empty());
    assert!(world.records().iter().all(|record| !record.to_string().contains("eyJ")));
    world.assert_closed();
}

#[test]
fn options_that_cannot_be_used() {
    let world = World::new();
    let long = "x".repeat(5000);
    for (option, value, word) in [
        ("--user", "", "empty"),
        ("--user", "a\nb", "control"),
        ("--user", "a\u{1b}]0;x\u{7}", "control"),
        ("--user", &long, "longer"),
        ("--user", " a", "white space"),
        ("--user=-----BEGIN CERTIFICATE-----", "", "certificate"),
        ("--issuer", "ftp://x/", "--issuer"),
        ("--vo", "c ms\t", "--vo"),
        ("--group", "cms", "'cms'"),
        ("--pilot", "x\u{200b}", "invisible"),
        ("--job", "", "empty"),
        ("--task", "\r", "control"),
    ] {
        let options = [option, value];
        let options = if option.contains('=') { &options[..1] } else { &options };
        let output = exec(&world, options).output().unwrap();
        refused(&world, &output, 125, &[word]);
    }
    world.assert_closed();
}
