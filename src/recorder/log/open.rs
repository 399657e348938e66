//! Opening: the lock, the key, the end of the log and its repair, what is live there.
//!
//! Nothing of the log is changed before the lock is held and the key is known to be the right one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use super::{Options, RecorderLog, Segment, Unsynced, key, roll, scan, space, stats};
use crate::audit::Timestamp;
use crate::audit::chain::Link;
use crate::audit::live::try_lock;
use crate::audit::record::Record;
use crate::audit::repair::torn_record;
use crate::audit::segment::{Directory, House, tail};
use crate::failure::Failure;

const LOCK: &str = "lock";

impl RecorderLog {
    /// Opens or makes it, takes its lock, repairs a torn tail, reads what was live at its end.
    pub fn open(options: Options) -> Result<Self, Failure> {
        let dir = Directory::for_writing(&options.dir, House::Recorder, options.network_filesystem)?;
        let lock = lock(&dir)?;
        let names = dir.segments()?;
        let signed_by = scan::signed_by(&dir, &names)?;
        let key = key::load(&options.state, signed_by.as_deref())?;
        let reserve = space::Reserve::open(&dir, options.reserve)?;
        let nothing = lock.try_clone().map_err(|error| dir.io_failure("open", LOCK, &error))?;
        let (at, now) = ((options.clock)(), Instant::now());
        let largest_file = space::largest_file();
        let segment_size = options.segment_size.min(largest_file / 2);
        let mut log = Self {
            dir,
            options: Options { segment_size, ..options },
            _lock: lock,
            key_id: key.public().id(),
            key,
            segment: Segment { name: String::new(), file: nothing, len: 0, head: 0 },
            link: Link::START,
            live: BTreeMap::new(),
            buffer: Vec::new(),
            own: Vec::new(),
            unsynced: Unsynced::at(0, Link::START),
            unnamed: false,
            broken: None,
            reserve,
            largest_file,
            since_list: 0,
            list_size: 0,
            unsigned: 0,
            first_unsigned: now,
            signed_at: now,
            roll_again: None,
            refill_at: now,
            prune_at: now,
            roll_failure: None,
            checkpoint_failure: None,
            prune_failure: None,
            counts: stats::Counts { segments: names.len() as u64, ..stats::Counts::default() },
        };
        log.remove(roll::NEXT)?;
        if names.is_empty() {
            log.begin_segment(&format!("{}.001.ndjson", at.day()), at, &mut |_, _| Ok(()))?;
        } else {
            log.resume(&names, at)?;
        }
        log.synced_or_rescued()?; // also the name of a segment
        log.reserve.refill(&log.dir, log.live.len() as u64);
        Ok(log)
    }

    /// Goes on at the end of the newest segment.
    fn resume(&mut self, names: &[String], at: Timestamp) -> Result<(), Failure> {
        let Some((name, before)) = names.split_last() else { return Ok(()) };
        let file = self.dir.open_own(name, OFlag::O_RDWR | OFlag::O_APPEND)?;
        file.sync_all().map_err(|error| self.dir.io_failure("sync", name, &error))?;
        self.dir.sync()?;
        // After an fdatasync that failed the kernel may show pages that never reached the disk. Clean pages are dropped here,
        // and what is read is what the disk has.
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| self.dir.failure("drop the cache of", name, errno))?;
        let end = scan::end_of(&self.dir, names)?;
        let wrong = |error: &std::io::Error| self.dir.io_failure("repair the end of", name, error);
        let size = file.metadata().map_err(|error| wrong(&error))?.len();
        let torn = if size > end.len {
            let host = self.options.host.clone();
            Some(torn_record(&file, name, end.len, size - end.len, host).map_err(|error| wrong(&error))?)
        } else {
            None
        };
        if torn.is_some() {
            file.set_len(end.len).and_then(|()| file.sync_all()).map_err(|error| wrong(&error))?;
        }
        self.live = end.live;
        self.unsigned = end.unsigned;
        let Some(link) = end.link else {
            return self.replace_empty(name, before, torn.as_ref(), at);
        };
        self.since_list = if end.list_size > 0 { end.len - end.list_until } else { u64::MAX / 2 };
        self.list_size = end.list_size;
        self.segment = Segment { name: name.clone(), file, len: end.len, head: end.list_size };
        self.link = link;
        self.unsynced = Unsynced::at(end.len, link);
        if let Some(record) = torn {
            self.write_own(at, &mut |log, draft| draft.push_own(&record, &log.options.writer).map(drop))?;
        }
        self.finish_prune(&end.pruned)
    }

    /// The newest segment has no whole line: another one follows the segment before it.
    fn replace_empty(
        &mut self,
        name: &str,
        before: &[String],
        torn: Option<&Record>,
        at: Timestamp,
    ) -> Result<(), Failure> {
        for previous in before.iter().rev() {
            let file = self.dir.open_own(previous, OFlag::O_RDONLY)?;
            let wrong = |error: &std::io::Error| self.dir.io_failure("read the end of", previous, error);
            let size = file.metadata().map_err(|error| wrong(&error))?.len();
            let end = tail(&file, size).map_err(|error| wrong(&error))?;
            if let Some(link) = end.and_then(|end| end.link) {
                self.link = link;
                self.segment.name.clone_from(previous);
                break;
            }
        }
        let next = roll::name_after_or_later(name, &at.day());
        self.begin_segment(&next, at, &mut |draft, writer| match torn {
            Some(record) => draft.push_own(record, writer).map(drop),
            None => Ok(()),
        })?;
        self.remove(name)
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
