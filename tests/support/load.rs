//! The client in C (tests/tools/recorder_load.c), which shares no code with bailey, and what it prints.

use super::recorder::Recorder;
use super::{World, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A receipt that a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub seq: u64,
    pub hash: String,
    pub id: String,
}

pub struct Load {
    program: PathBuf,
    template: PathBuf,
}

impl Load {
    /// Compiles it, and makes the template of its launches from a real one.
    pub fn new(world: &World, recorder: &Recorder) -> Self {
        let program = world.path("recorder_load");
        let source = world.file("recorder_load.c", include_str!("../tools/recorder_load.c"));
        let output = world.command("gcc").args(["-O2", "-o"]).args([&program, &source]).output();
        let output = output.expect("gcc is missing: run tests/setup.sh");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let output = recorder
            .exec(world, &["--user", "/DC=org/CN=Load", "--vo", "load", "--job", "j", "--", "/bin/true"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let launch = recorder.records_of("payload-launch").pop().unwrap();
        Self { program, template: world.file("template.json", &template(launch)) }
    }

    /// `recorder_load --socket … --template … ARGS`.
    pub fn command(&self, socket: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().stdin(Stdio::null()).stderr(Stdio::inherit());
        command.arg("--socket").arg(socket).arg("--template").arg(&self.template).args(args);
        command
    }

    /// The same with its output in a file.
    pub fn printing_to(&self, socket: &Path, args: &[&str], out: &Path) -> Command {
        let mut command = self.command(socket, args);
        command.arg("--print").stdout(File::create(out).unwrap());
        command
    }
}

/// A launch record without what is different in each launch.
fn template(mut launch: Value) -> String {
    let id = launch["event"]["id"].as_str().unwrap().to_owned();
    let remove = |value: &mut Value, names: &[&str]| {
        for name in names {
            value.as_object_mut().unwrap().remove(*name);
        }
    };
    remove(&mut launch, &["@timestamp", "chain", "host"]);
    let process = ["pid", "vpid", "start", "entity_id", "parent", "real_user", "real_group", "user"];
    remove(&mut launch["process"], &process);
    remove(&mut launch["grid"], &["namespaces", "start_ticks", "observed", "cgroup", "launcher"]);
    remove(&mut launch["container"], &["id"]);
    // The client's payloads have no filter, and the recorder believes its eyes.
    remove(&mut launch["grid"]["sandbox"], &["seccomp"]);
    format!("{}\n", launch.to_string().replacen(&format!("\"{id}\""), "\"@ID@\"", 1))
}

/// The receipts in the output; a last line that was cut off is left out.
pub fn receipts(out: &Path) -> Vec<Got> {
    let text = fs::read_to_string(out).unwrap();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole]
        .lines()
        .filter_map(|line| line.strip_prefix("receipt "))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            Got { seq: words[0].parse().unwrap(), hash: words[1].to_owned(), id: words[2].to_owned() }
        })
        .collect()
}

/// Every receipt that anybody ever got is in the log, at its place and with its hash; every launch has one launch record and
/// at most one record that closes it. Gives how many launches are open.
pub fn account(recorder: &Recorder, receipts: &[Got]) -> usize {
    use sha2::{Digest as _, Sha256};
    let mut segments: Vec<PathBuf> = fs::read_dir(&recorder.log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .collect();
    segments.sort();
    let mut lines = BTreeMap::new();
    let mut launches: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for segment in segments {
        for line in fs::read_to_string(segment).unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let hash = bailey::audit::chain::hex(&Sha256::digest(line).into());
            let id = record["event"]["id"].as_str().unwrap_or_default().to_owned();
            match record["event"]["action"].as_str().unwrap() {
                "payload-launch" => launches.entry(id.clone()).or_default().0 += 1,
                "payload-end" | "launch-failed" => launches.entry(id.clone()).or_default().1 += 1,
                _ => {}
            }
            lines.insert(record["chain"]["seq"].as_u64().unwrap(), (hash, id));
        }
    }
    for got in receipts {
        let found = lines.get(&got.seq);
        assert_eq!(found, Some(&(got.hash.clone(), got.id.clone())), "{got:?} is not in the log");
    }
    for (id, (begins, ends)) in &launches {
        assert!(*begins == 1 && *ends <= 1, "launch {id} has {begins} launch records and {ends} ends");
    }
    launches.values().filter(|(_, ends)| *ends == 0).count()
}
