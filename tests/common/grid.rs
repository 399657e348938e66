//! A log of the recorder's form, line by line, with every liberty that a test needs.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bailey::audit::Timestamp;
use bailey::audit::chain::{Body, Link, hash, hex};
use bailey::audit::record::{Action, LiveEntry, OtherIdentity, Record};
use bailey::audit::sign::{Key, checkpoint_text, prune_text};
use bailey::request::LaunchId;

/// 2024-03-01 00:00:00 UTC.
pub const START: i64 = 1_709_251_200;

/// A fixed sequence of numbers that look random.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// Writes it.
pub struct Writer {
    pub dir: PathBuf,
    pub key: Key,
    pub clock: i64,
    /// Live lists and checkpoints, as the recorder writes them.
    pub recorder: bool,
    pub segments: Vec<String>,
    link: Link,
    file: Option<File>,
    offset: u64,
    pub live: BTreeMap<String, LiveEntry>,
    pub host_id: String,
}

impl Writer {
    pub fn new(dir: &Path, recorder: bool) -> Self {
        Self {
            dir: dir.to_owned(),
            key: Key::make().unwrap(),
            clock: START,
            recorder,
            segments: Vec::new(),
            link: Link::START,
            file: None,
            offset: 0,
            live: BTreeMap::new(),
            host_id: "0123456789abcdef".to_owned(),
        }
    }

    pub fn seq(&self) -> u64 {
        self.link.seq
    }

    pub fn link(&self) -> Link {
        self.link
    }

    fn of_log(&self, action: Action) -> Record {
        let mut host = super::options().host;
        host.id = Some(self.host_id.clone());
        Record::of_log(action, host)
    }

    /// Writes one record; its offset.
    pub fn write(&mut self, record: &Record) -> u64 {
        let body = Body::new(record).unwrap();
        let line = body.line(Timestamp::new(self.clock, 0), &self.link, "recorder-test");
        self.file.as_mut().unwrap().write_all(&line).unwrap();
        self.link = Link { seq: self.link.seq + 1, hash: hash(&line) };
        let at = self.offset;
        self.offset += line.len() as u64;
        at
    }

    /// Ends the segment and begins the next.
    pub fn roll(&mut self) {
        if self.file.is_some() && self.recorder {
            self.checkpoint();
        }
        let number = self.segments.len();
        let name = format!("2024-03-{:02}.{:03}.ndjson", number / 3 + 1, number % 3 + 1);
        let file = OpenOptions::new().append(true).create_new(true).open(self.dir.join(&name)).unwrap();
        let mut record = self.of_log(Action::SegmentOpen);
        record.grid.log.segment = Some(name.clone());
        record.grid.log.previous = self.segments.last().cloned();
        self.file = Some(file);
        self.offset = 0;
        self.segments.push(name);
        self.write(&record);
        if self.recorder {
            self.live_list();
        }
    }

    /// In parts of three.
    pub fn live_list(&mut self) {
        let all: Vec<LiveEntry> = self.live.values().cloned().collect();
        let parts: Vec<&[LiveEntry]> = if all.is_empty() { vec![&[]] } else { all.chunks(3).collect() };
        for (number, part) in parts.iter().enumerate() {
            let mut record = self.of_log(Action::LiveList);
            record.grid.live = part.to_vec();
            record.grid.live_part.number = Some(number as u32 + 1);
            record.grid.live_part.of = Some(parts.len() as u32);
            record.grid.live_part.launches = Some(all.len() as u64);
            self.write(&record);
        }
    }

    pub fn checkpoint(&mut self) -> Record {
        self.checkpoint_of(self.link.seq, &hex(&self.link.hash))
    }

    pub fn checkpoint_of(&mut self, seq: u64, hash: &str) -> Record {
        let mut record = self.of_log(Action::Checkpoint);
        let checkpoint = &mut record.grid.checkpoint;
        checkpoint.signature = Some(self.key.sign(&checkpoint_text(&self.host_id, seq, hash)));
        checkpoint.seq = Some(seq);
        checkpoint.hash = Some(hash.to_owned());
        checkpoint.key = Some(self.key.public().id());
        self.write(&record);
        record
    }

    pub fn prune(&mut self, first: u64, last: u64, last_hash: &str) {
        let mut record = self.of_log(Action::LogPrune);
        let pruned = &mut record.grid.pruned;
        pruned.signature = Some(self.key.sign(&prune_text(&self.host_id, first, last, last_hash)));
        pruned.first_seq = Some(first);
        pruned.last_seq = Some(last);
        pruned.last_hash = Some(last_hash.to_owned());
        pruned.key = Some(self.key.public().id());
        self.write(&record);
    }

    /// A launch whose fields all follow from its number.
    pub fn launch(&mut self, number: usize) -> LaunchId {
        let id = super::id(number);
        let record = launch(id, number);
        let offset = self.write(&record);
        let entry = LiveEntry {
            id: Some(id.to_string()),
            segment: self.segments.last().cloned(),
            offset: Some(offset),
            seq: Some(self.link.seq),
            hash: Some(hex(&self.link.hash)),
            since: Some(Timestamp::new(self.clock, 0)),
            pid: record.process.pid,
            user: record.user.id.clone(),
            vo: record.grid.vo.clone(),
            job: record.grid.job.id.clone(),
            ..LiveEntry::default()
        };
        self.live.insert(id.to_string(), entry);
        id
    }

    pub fn close(&mut self, id: &str, action: Action) {
        let mut record = Record::new(action, LaunchId::parse(id).unwrap());
        record.process.exit_code = Some(7);
        record.user.id = Some("/CN=Person of the end".to_owned());
        self.live.remove(id);
        self.write(&record);
    }

    /// A record of a launch that was refused.
    pub fn deny(&mut self, number: usize) {
        let mut record = launch(super::id(number), number);
        record.event.action = Action::PayloadDeny;
        record.event.reason = Some("banned".to_owned());
        self.write(&record);
    }
}

pub fn launch(id: LaunchId, number: usize) -> Record {
    let mut record = super::launch_record(id);
    record.process.pid = Some(100 + number as i64 % 7);
    record.process.vpid = Some(2 + number as i64 % 2);
    record.process.real_user.id = Some((1000 + number % 3).to_string());
    record.user.id = Some(format!("/DC=org/CN=Person {}", number % 9));
    record.related.user = vec![format!("person{}@example.org", number % 9)];
    let grid = &mut record.grid;
    grid.vo = Some(["cms", "atlas", "lhcb"][number % 3].to_owned());
    grid.identity.issuer = Some(format!("https://issuer{}.example.org", number % 2));
    grid.identity.others =
        vec![OtherIdentity { subject: Some(format!("robot {}", number % 4)), ..OtherIdentity::default() }];
    grid.job.id = Some(format!("job-{number}"));
    grid.job.task = Some(format!("task-{}", number % 5));
    grid.pilot.id = Some(format!("pilot-{}", number % 6));
    grid.pilot.batch_job_id = vec![format!("htcondor:{}.0", number % 8)];
    grid.cgroup.path = Some(format!("/bailey/{number}"));
    grid.cgroup.id = Some((7000 + number).to_string());
    record.container.image.name = Some(format!("/cvmfs/images/el{}", 7 + number % 3));
    record.container.image.hash.all = vec![format!("sha256:{:064x}", number % 3)];
    record
}

/// One line of a log, for a model.
pub struct Line {
    pub segment: String,
    pub number: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub record: Record,
}

/// Every line of a log.
pub fn read(dir: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for path in super::segments(dir) {
        let segment = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut offset = 0;
        for (number, text) in (1..).zip(fs::read_to_string(&path).unwrap().lines()) {
            let record = serde_json::from_str(text).unwrap();
            let bytes = text.as_bytes().to_vec();
            lines.push(Line { segment: segment.clone(), number, offset, bytes, record });
            offset += text.len() as u64 + 1;
        }
    }
    lines
}
