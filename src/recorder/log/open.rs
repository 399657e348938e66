//! Opening: the lock, the end of the log, what is live there.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::OFlag;

use super::live::live_entry;
use super::{RecorderLog, Segment, Unsynced};
use crate::audit::chain::{Link, link_of};
use crate::audit::live::try_lock;
use crate::audit::record::{Action, LiveEntry, Record};
use crate::audit::segment::{Directory, House};
use crate::failure::Failure;

const LOCK: &str = "lock";

impl RecorderLog {
    /// Opens or makes it, takes its lock, repairs a torn tail, reads what was live at its end.
    pub fn open(options: super::Options) -> Result<Self, Failure> {
        let dir = Directory::for_writing(&options.dir, House::Recorder, options.network_filesystem)?;
        let lock = lock(&dir)?;
        let at = (options.clock)();
        let null = File::open("/dev/null").map_err(|error| dir.io_failure("open", "", &error))?;
        let mut log = Self {
            dir,
            options,
            _lock: lock,
            segment: Segment { name: String::new(), file: null, len: 0, head: 0 },
            link: Link::START,
            live: BTreeMap::new(),
            buffer: Vec::new(),
            own: Vec::new(),
            unsynced: Unsynced::at(0, Link::START),
            unnamed: false,
            since_list: 0,
            list_size: 0,
            roll_again: None,
            roll_failure: None,
        };
        let names = log.dir.segments()?;
        let Some(name) = names.last() else {
            let name = format!("{}.001.ndjson", at.day());
            log.begin_segment(&name, at, &mut |_, _| Ok(()))?;
            return Ok(log);
        };
        let file = log.dir.open_own(name, OFlag::O_RDWR | OFlag::O_APPEND)?;
        file.sync_all().map_err(|error| log.dir.io_failure("sync", name, &error))?;
        log.dir.sync()?;
        let mut offset = 0;
        let mut reader = BufReader::new(file.try_clone().map_err(|e| log.dir.io_failure("read", name, &e))?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let count =
                reader.read_until(b'\n', &mut line).map_err(|e| log.dir.io_failure("read", name, &e))?;
            let Some(link) = line.strip_suffix(b"\n").and_then(link_of) else { break };
            if let Ok(record) = serde_json::from_slice::<Record>(&line) {
                note(&mut log.live, record, name, offset, link);
            }
            offset += count as u64;
            log.link = link;
        }
        file.set_len(offset).map_err(|e| log.dir.io_failure("repair", name, &e))?;
        log.segment = Segment { name: name.clone(), file, len: offset, head: 0 };
        log.unsynced = Unsynced::at(offset, log.link);
        Ok(log)
    }
}

/// What a record changes among what is live.
fn note(live: &mut BTreeMap<String, LiveEntry>, record: Record, segment: &str, offset: u64, link: Link) {
    let Some(id) = record.event.id.clone() else { return };
    if record.event.action.closes() {
        live.remove(&id);
    } else if record.event.action == Action::PayloadLaunch {
        let entry = LiveEntry {
            segment: Some(segment.to_owned()),
            offset: Some(offset),
            seq: Some(link.seq),
            hash: Some(crate::audit::chain::hex(&link.hash)),
            since: record.timestamp,
            ..live_entry(&record)
        };
        live.insert(id, entry);
    }
}

/// Takes the lock that one recorder holds for life.
fn lock(dir: &Directory) -> Result<File, Failure> {
    let file = dir.make_own(LOCK, OFlag::O_RDWR | OFlag::O_CREAT)?;
    let got = try_lock(&file, 0, 0).map_err(|errno| dir.failure("lock", LOCK, errno))?;
    if !got || !dir.is_current(LOCK, &file) {
        let mut bytes = [0; 32];
        let count = file.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).trim().to_owned();
        let holder = if text.is_empty() { "another process".to_owned() } else { format!("process {text}") };
        return Err(Failure::record(
            format!("cannot use the log in {}", dir.path().display()),
            format!("{holder} writes it: a log has one recorder"),
            "stop the other recorder first, or set recorder.dir in /etc/bailey/bailey.toml",
        ));
    }
    file.set_len(0)
        .and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0))
        .map_err(|error| dir.io_failure("write", LOCK, &error))?;
    Ok(file)
}
