//! `bailey verify` on logs of the recorder's form: every break kind at the right line, pruned logs, kept checkpoints, keys.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bailey::admin::verify::Break;
use bailey::audit::chain::hex;
use bailey::audit::record::Action;
use bailey::audit::sign::Key;
use common::grid::{Writer, read};
use common::{Scratch, segments};
use serde_json::Value;

/// A log of four segments: 3 + 8 lines and a checkpoint each, but for the last.
fn log(dir: &Path) -> Writer {
    let mut writer = Writer::new(dir, true);
    for segment in 0..4 {
        writer.roll();
        for number in 0..4 {
            writer.clock += 60;
            let id = writer.launch(segment * 4 + number).to_string();
            if number != 3 {
                writer.close(&id, Action::PayloadEnd);
            }
        }
    }
    writer.checkpoint();
    writer
}

struct Said {
    code: i32,
    text: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Segment, line and kind of the first break.
    fn broken(&self) -> (String, u64, String) {
        let found = &self.json()["first_break"];
        assert_eq!(self.code, 1, "{}", self.text);
        let text =
            |member: &str| found[member].as_str().unwrap_or_else(|| panic!("{}", self.text)).to_owned();
        (text("segment"), found["line"].as_u64().unwrap(), text("kind"))
    }
}

fn verify(args: &[&str]) -> Said {
    let out = Command::new(env!("CARGO_BIN_EXE_bailey-admin")).arg("verify").args(args).output().unwrap();
    let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    Said { code: out.status.code().unwrap(), text }
}

fn key_file(dir: &Path, name: &str, key: &Key) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, key.public().to_pem().unwrap()).unwrap();
    path
}

fn kind(kind: Break) -> String {
    serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned()
}

/// The log, its key beside it, and what verify says of it with and without the key.
struct World {
    dir: Scratch,
    log: PathBuf,
    key: PathBuf,
    writer: Writer,
}

impl World {
    fn new() -> Self {
        let dir = Scratch::new();
        let path = dir.path().join("log");
        fs::create_dir(&path).unwrap();
        let writer = log(&path);
        let key = key_file(dir.path(), "key.pub", &writer.key);
        Self { dir, log: path, key, writer }
    }

    fn verify(&self, args: &[&str]) -> Said {
        verify(&[&["--json", "--key", self.key.to_str().unwrap(), self.log.to_str().unwrap()], args].concat())
    }

    fn since(&self, line: &str) -> Said {
        let path = self.dir.path().join("kept");
        fs::write(&path, line).unwrap();
        self.verify(&["--since-checkpoint", path.to_str().unwrap()])
    }

    /// The lines of a segment, changed.
    fn edit(&self, segment: usize, change: impl FnOnce(&mut Vec<String>)) {
        let path = &segments(&self.log)[segment];
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        change(&mut lines);
        fs::write(path, lines.concat()).unwrap();
    }
}

#[test]
fn a_good_log_is_good_and_the_words_say_what_that_proves() {
    let world = World::new();
    let (log, key) = (world.log.to_str().unwrap(), world.key.to_str().unwrap());
    let report = world.verify(&[]).json();
    assert_eq!(report["first_break"], Value::Null);
    assert_eq!(report["lines"], read(&world.log).len());
    assert_eq!(report["last_seq"], world.writer.seq());
    assert_eq!(report["open_launches"], 4);
    let signatures = &report["signatures"];
    assert_eq!(
        (&signatures["checkpoints"], &signatures["key_from"]),
        (&Value::from(4), &Value::from("named"))
    );
    assert_eq!(signatures["checked_with"], world.writer.key.public().id());
    assert_eq!(signatures["attested_seq"], world.writer.seq() - 1);
    let said = verify(&["--key", key, log]);
    assert_eq!(said.code, 0);
    assert!(said.text.contains("which was named"), "{}", said.text);
    let said = verify(&[log]);
    assert_eq!(said.code, 0);
    assert!(said.text.contains("NOT checked") && said.text.contains("--key"), "{}", said.text);
    // The recorder's own log is checked with the key that lies on this host, and the answer says what that is worth.
    let state = world.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    key_file(&state, "key.pub", &world.writer.key);
    let config = world.dir.path().join("bailey.toml");
    let text = format!("[recorder]\ndir = \"{log}\"\nstate = \"{}\"\n", state.display());
    fs::write(&config, text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_bailey-admin"))
        .args(["verify", log])
        .env("BAILEY_CONFIG", &config)
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("proves nothing against the log's owner"), "{said}");
}

#[test]
fn every_byte_of_a_closed_segment_counts() {
    let world = World::new();
    let path = &segments(&world.log)[1];
    let good = fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    for at in (0..good.len()).step_by(61) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(path, &bad).unwrap();
        let report = bailey::admin::verify::verify(&world.log).unwrap();
        let line = good[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let broken = report.first_break.unwrap_or_else(|| panic!("byte {at}"));
        assert_eq!((&broken.segment, broken.line), (&name, line), "byte {at}: {broken:?}");
    }
}

#[test]
fn every_break_kind_is_named_at_its_line() {
    type Change = fn(&mut Vec<String>);
    let second = "2024-03-01.002.ndjson".to_owned();
    let cases: [(Break, u64, Change); 6] = [
        (Break::NotJson, 4, |lines| lines[3] = "garbage\n".into()),
        (Break::NotChained, 4, |lines| lines[3] = "{}\n".into()),
        (Break::ChangedLine, 4, |lines| lines[3] = lines[3].replace("Person", "Parson")),
        (Break::RemovedLine, 4, |lines| drop(lines.remove(3))),
        (Break::RepeatedLine, 5, |lines| lines.insert(4, lines[3].clone())),
        (Break::NotJson, 4, |lines| lines[3].truncate(30)),
    ];
    for (expected, line, change) in cases {
        let world = World::new();
        world.edit(1, |lines| {
            change(lines);
            if !lines[3].ends_with('\n') {
                lines.truncate(4);
            }
        });
        assert_eq!(world.verify(&[]).broken(), (second.clone(), line, kind(expected)));
    }
    // The last line, cut at every eleventh byte.
    let world = World::new();
    let path = segments(&world.log).pop().unwrap();
    let good = fs::read(&path).unwrap();
    let begin = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let last = good.iter().filter(|byte| **byte == b'\n').count() as u64;
    for cut in (begin + 1..good.len()).step_by(11) {
        fs::write(&path, &good[..cut]).unwrap();
        let broken = bailey::admin::verify::verify(&world.log).unwrap().first_break.unwrap();
        assert_eq!((broken.line, broken.kind), (last, Break::TornTail), "cut at {cut}");
    }
    let world = World::new();
    fs::remove_file(&segments(&world.log)[2]).unwrap();
    assert_eq!(
        world.verify(&[]).broken(),
        ("2024-03-02.001.ndjson".to_owned(), 1, kind(Break::MissingSegment))
    );
}

#[test]
fn signatures_are_checked() {
    let world = World::new();
    let checkpoint =
        read(&world.log).into_iter().find(|l| l.record.event.action == Action::Checkpoint).unwrap();
    let place = |expected| (checkpoint.segment.clone(), checkpoint.number, kind(expected));
    let other = key_file(world.dir.path(), "other.pub", &Key::make().unwrap());
    let said = verify(&["--json", "--key", other.to_str().unwrap(), world.log.to_str().unwrap()]);
    assert_eq!(said.broken(), place(Break::WrongKey));

    // A log of the same node whose owner signs what is not so; the chain itself is sound.
    let forged = |forge: &dyn Fn(&mut Writer)| {
        let mut world = World::new();
        world.writer.roll();
        forge(&mut world.writer);
        world.writer.launch(77);
        let line = read(&world.log).into_iter().rev().nth(1).unwrap();
        let broken = world.verify(&[]).broken();
        assert_eq!((&broken.0, broken.1), (&line.segment, line.number), "{broken:?}");
        broken.2
    };
    let attest = |writer: &mut Writer, seq: u64, hash: &str| drop(writer.checkpoint_of(seq, hash));
    assert_eq!(forged(&|w| attest(w, w.seq(), &"ab".repeat(32))), kind(Break::WrongCheckpoint));
    assert_eq!(forged(&|w| attest(w, w.seq() + 9, &hex(&w.link().hash))), kind(Break::WrongCheckpoint));
    assert_eq!(forged(&|w| attest(w, 2, &hex(&w.link().hash))), kind(Break::WrongCheckpoint));
    let with = |change: &dyn Fn(&mut bailey::audit::Record)| {
        let change = &change;
        forged(&move |writer| {
            let mut record = World::new().writer.checkpoint();
            record.grid.checkpoint.seq = Some(writer.seq());
            record.grid.checkpoint.hash = Some(hex(&writer.link().hash));
            record.grid.checkpoint.key = Some(writer.key.public().id());
            change(&mut record);
            writer.write(&record);
        })
    };
    assert_eq!(with(&|_| {}), kind(Break::BadSignature));
    assert_eq!(with(&|record| record.grid.checkpoint.signature = None), kind(Break::BadSignature));
    assert_eq!(
        with(&|record| record.grid.checkpoint.signature = Some("ff".into())),
        kind(Break::BadSignature)
    );
    assert_eq!(with(&|record| record.grid.checkpoint.hash = None), kind(Break::WrongCheckpoint));
    // Another host's log does not pass for this one's: the text that is signed names the host.
    let foreign = |writer: &mut Writer| {
        writer.checkpoint();
    };
    let mut world = World::new();
    world.writer.roll();
    foreign(&mut world.writer);
    let path = segments(&world.log).pop().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let at = text.lines().count() as u64;
    let (head, last) = text.trim_end().rsplit_once('\n').unwrap();
    fs::write(&path, format!("{head}\n{}\n", last.replace("0123456789abcdef\"", "another-host\""))).unwrap();
    let broken = world.verify(&[]).broken();
    assert_eq!((broken.1, broken.2), (at, kind(Break::BadSignature)));
}

#[test]
fn a_named_key_and_nothing_signed_is_no_good() {
    let dir = Scratch::new();
    let mut writer = Writer::new(dir.path(), false);
    writer.roll();
    writer.launch(1);
    let keys = Scratch::new();
    let key = key_file(keys.path(), "key.pub", &writer.key);
    let log = dir.path().to_str().unwrap();
    assert_eq!(verify(&[log]).code, 0);
    let said = verify(&["--json", "--key", key.to_str().unwrap(), log]);
    assert_eq!(said.broken().2, kind(Break::NotSigned));
}

#[test]
fn a_pruned_beginning_needs_a_record_that_fits() {
    // What is removed: the first segment. How it is told: by a record of lines 1 to `last` with `hash`.
    let pruned = |tell: &dyn Fn(&mut Writer, u64, &str)| {
        let mut world = World::new();
        let lines = read(&world.log);
        let last = lines.iter().rev().find(|line| line.segment.ends_with("01.001.ndjson")).unwrap();
        let (seq, hash) =
            (last.record.chain.as_ref().unwrap().seq, hex(&bailey::audit::chain::hash(&last.bytes)));
        tell(&mut world.writer, seq, &hash);
        world.writer.checkpoint();
        fs::remove_file(&segments(&world.log)[0]).unwrap();
        (world, seq)
    };
    let first_kept = "2024-03-01.002.ndjson".to_owned();
    let (world, seq) = pruned(&|writer, seq, hash| writer.prune(1, seq, hash));
    let said = world.verify(&[]);
    assert_eq!((said.code, &said.json()["pruned_to"]), (0, &Value::from(seq)), "{}", said.text);
    assert_eq!(said.json()["first_seq"], seq + 1);
    // A second one, later, does not disturb: the newest that fits counts.
    let (world, seq) = pruned(&|writer, seq, hash| {
        writer.prune(1, seq, hash);
        writer.prune(seq + 1, seq + 2, &"00".repeat(32));
    });
    assert_eq!(world.verify(&[]).json()["pruned_to"], seq);

    let broken = |tell: &dyn Fn(&mut Writer, u64, &str)| pruned(tell).0.verify(&[]).broken();
    assert_eq!(broken(&|_, _, _| {}), (first_kept.clone(), 1, kind(Break::MissingSegment)));
    let wrong = (first_kept.clone(), 1, kind(Break::WrongPrune));
    assert_eq!(broken(&|writer, seq, hash| writer.prune(1, seq - 1, hash)), wrong);
    assert_eq!(broken(&|writer, seq, _| writer.prune(1, seq, &"ab".repeat(32))), wrong);
    assert_eq!(
        broken(&|writer, seq, hash| {
            let key = std::mem::replace(&mut writer.key, Key::make().unwrap());
            writer.prune(1, seq, hash);
            writer.key = key;
        })
        .2,
        kind(Break::WrongKey)
    );
    // Announced up to the second segment, and a crash came when only the first was gone.
    let (world, seq) = {
        let mut world = World::new();
        let lines = read(&world.log);
        let of = |name: &str| lines.iter().rev().find(|line| line.segment.ends_with(name)).unwrap();
        let (first, second) = (of("01.001.ndjson"), of("01.002.ndjson"));
        let seq = |line: &common::grid::Line| line.record.chain.as_ref().unwrap().seq;
        world.writer.prune(1, seq(second), &hex(&bailey::audit::chain::hash(&second.bytes)));
        fs::remove_file(&segments(&world.log)[0]).unwrap();
        (world, seq(first))
    };
    assert_eq!(world.verify(&[]).json()["pruned_to"], seq);
}

#[test]
fn a_kept_checkpoint_shows_what_was_cut_off() {
    let world = World::new();
    let lines = read(&world.log);
    let checkpoints: Vec<_> = lines.iter().filter(|l| l.record.event.action == Action::Checkpoint).collect();
    let kept = String::from_utf8(checkpoints[2].bytes.clone()).unwrap();
    let seq = checkpoints[2].record.grid.checkpoint.seq.unwrap();
    let export = format!("__CURSOR=x\nMESSAGE=checkpoint\nBAILEY_RECORD={kept}\n\n");
    let json = serde_json::json!({ "MESSAGE": "checkpoint", "BAILEY_RECORD": kept }).to_string();
    let older = String::from_utf8(checkpoints[0].bytes.clone()).unwrap();
    for form in [kept.clone(), export, json, format!("{older}\n{kept}\n")] {
        let said = world.since(&form);
        let report = said.json();
        assert_eq!((said.code, &report["since"]), (0, &Value::from(seq)), "{}", said.text);
        assert_eq!(report["segments"], 2, "what is older is not read");
    }
    // Nothing is missing up to the last line, and the last checkpoint itself is there.
    let newest = String::from_utf8(checkpoints[3].bytes.clone()).unwrap();
    assert_eq!(world.since(&newest).code, 0);
    world.edit(3, |lines| drop(lines.pop()));
    let broken = world.since(&newest).broken();
    assert_eq!((broken.1, broken.2), (read(&world.log).last().unwrap().number, kind(Break::TailCut)));
    assert_eq!(world.verify(&[]).code, 0, "without it nobody could tell");
    fs::remove_file(segments(&world.log).pop().unwrap()).unwrap();
    let broken = world.since(&newest).broken();
    assert_eq!((broken.0.as_str(), broken.2), ("2024-03-01.003.ndjson", kind(Break::TailCut)));
    assert_eq!(world.since(&kept).code, 0, "it reaches so far");
}

#[test]
fn a_rewritten_log_is_told_from_the_kept_checkpoint() {
    let first = World::new();
    let lines = read(&first.log);
    let kept = lines.iter().filter(|l| l.record.event.action == Action::Checkpoint).nth(1).unwrap();
    let line = String::from_utf8(kept.bytes.clone()).unwrap();
    let seq = kept.record.grid.checkpoint.seq.unwrap();
    // The same node, the same key, another history of the same length.
    let second = Scratch::new();
    let mut writer = Writer::new(second.path(), true);
    writer.key = first.writer.key.clone();
    for segment in 0..5 {
        writer.roll();
        (0..7).for_each(|number| {
            writer.launch(100 + segment * 7 + number);
        });
    }
    writer.checkpoint();
    let file = first.dir.path().join("kept");
    fs::write(&file, line).unwrap();
    let (key, log) = (first.key.to_str().unwrap(), second.path().to_str().unwrap());
    let said = verify(&["--json", "--key", key, "--since-checkpoint", file.to_str().unwrap(), log]);
    let place =
        read(second.path()).into_iter().find(|l| l.record.chain.as_ref().unwrap().seq == seq).unwrap();
    assert_eq!(said.broken(), (place.segment, place.number, kind(Break::Rewritten)));
    assert_eq!(verify(&["--key", key, log]).code, 0, "in itself it is sound");
}

#[test]
fn what_is_no_kept_checkpoint_is_refused() {
    let world = World::new();
    let lines = read(&world.log);
    let checkpoint = lines.iter().find(|l| l.record.event.action == Action::Checkpoint).unwrap();
    let line = String::from_utf8(checkpoint.bytes.clone()).unwrap();
    let signature = checkpoint.record.grid.checkpoint.signature.clone().unwrap();
    for (text, word) in [
        ("", "no line of it is a checkpoint"),
        ("garbage\n{}\n", "no line of it is a checkpoint"),
        (&line.replace(&signature, &"00".repeat(64)), "signature does not fit"),
        (&line.replace("0123456789abcdef", "another-host"), "signature does not fit"),
    ] {
        let said = world.since(text);
        assert_eq!(said.code, 2, "{}", said.text);
        assert!(said.text.contains(word), "{}", said.text);
    }
    let other = World::new();
    let other_key = other.key.to_str().unwrap();
    let file = world.dir.path().join("kept");
    fs::write(&file, &line).unwrap();
    let log = world.log.to_str().unwrap();
    let said = verify(&["--key", other_key, "--since-checkpoint", file.to_str().unwrap(), log]);
    assert_eq!(said.code, 2);
    assert!(said.text.contains("is signed with key"), "{}", said.text);
    for (args, word) in [
        (&["/no/such"][..], "name the directory of a log"),
        (&["--key", "/no/such", log], "/no/such"),
        (&["--since-checkpoint", "/no/such", log], "/no/such"),
    ] {
        let said = verify(args);
        assert_eq!(said.code, 2);
        assert!(said.text.contains(word) && said.text.lines().count() == 1, "{}", said.text);
    }
}

#[test]
fn many_hosts_are_verified_at_once() {
    let dir = Scratch::new();
    for host in ["wn1", "wn2"] {
        let path = dir.path().join(host);
        fs::create_dir(&path).unwrap();
        log(&path);
    }
    fs::create_dir(dir.path().join("unrelated")).unwrap();
    let said = verify(&["--json", dir.path().to_str().unwrap()]);
    assert_eq!((said.code, said.text.lines().count()), (0, 2), "{}", said.text);
    let empty = verify(&[dir.path().join("unrelated").to_str().unwrap()]);
    assert_eq!(empty.code, 2);
    assert!(empty.text.contains("no segment of a log"), "{}", empty.text);
}
