//! The embedded log: a directory of chained segments that needs no service and no set-up.
//!
//! 1. Everything that changes the log happens under the lock of the file `lock`. It is polled for: no thread, no signal.
//! 2. A whole line is never taken back. A write that fails is undone under the lock, before anybody could chain to it.
//! 3. fdatasync runs after the lock is free. That is sound: the lines before ours are in the same file, so our fdatasync
//!    covers them, and a segment is synced before the next one begins. So a durable line has all lines before it durable,
//!    and nobody is released before the fdatasync of its own line returned. (Where an fdatasync failed, the kernel tells only those
//!    who had the file open: a later launcher's may succeed over a hole. That launcher's own line is durable all the same;
//!    `verify` shows the hole after a crash of the host.)
//! 4. `lock` holds the boot and the name of the newest segment. It is emptied before a segment is made and written after, so
//!    whoever finds the name of its own open segment there needs not list the directory.
//! 5. The clock decides only when a segment begins. When it goes back, lines go on into the newest one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::chain::{Body, Hash, Link, hash, hex};
use super::live::{self, Entry, Place, Watch};
use super::receipt::Receipt;
use super::record::{Action, EndBy, Host, Outcome, Record};
use super::repair::torn_record;
use super::segment::{Directory, House, Tail, io_failure, line_at, parse_name, tail};
use super::time::Timestamp;
use crate::failure::Failure;
use crate::request::LaunchId;

const LOCK: &str = "lock";
/// How many segments, newest first, are searched for launches without end when the live table cannot be used.
const SEARCHED: usize = 64;

/// Whether `append` returns before or after the line is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fdatasync returned.
    Synced,
    /// Written; a crash of the host may lose it, a crash of bailey not.
    Written,
}

/// How to open a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// How long to wait for the log's lock (`audit.wait`).
    pub wait: Duration,
    /// Whether the log may be on a network file system (`audit.network_filesystem`).
    pub network_filesystem: bool,
    /// `chain.writer`.
    pub writer: String,
    /// The host as the log's own records name it; `boot.id` tells this boot from another.
    pub host: Host,
    /// The clock; [`Timestamp::now`] but in tests.
    pub clock: fn() -> Timestamp,
}

/// Where a line went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// `chain.seq`.
    pub seq: u64,
    /// SHA-256 of the line, lowercase hex.
    pub hash: String,
    /// File name of the segment.
    pub segment: String,
    /// Offset of the line's first byte.
    pub offset: u64,
}

/// A launch that the log knows to be running, for as long as this value lives: when its process dies without
/// [`EmbeddedLog::append_end`], the next bailey on the log writes the end record.
#[derive(Debug)]
#[must_use = "dropping it lets the next bailey declare the launcher lost"]
pub struct LiveSlot {
    launch: LaunchId,
    /// The open file description that holds the slot's lock, and nothing else's.
    _lock: File,
}

impl LiveSlot {
    /// The launch.
    pub fn launch(&self) -> LaunchId {
        self.launch
    }
}

/// The newest segment.
#[derive(Debug)]
struct Segment {
    name: String,
    file: File,
}

/// The end of the newest segment, as long as its size is `len`.
#[derive(Debug, Clone, Copy)]
struct Tip {
    len: u64,
    seq: u64,
    /// Unknown until somebody asks when the line is our own: it is in `EmbeddedLog::last`.
    hash: Option<Hash>,
}

/// An open log. All its descriptors are close-on-exec; see [`EmbeddedLog::open`] for what forked children must do.
#[derive(Debug)]
pub struct EmbeddedLog {
    dir: Directory,
    options: LogOptions,
    boot: String,
    lock: File,
    live: File,
    /// A description of the live table for the next launch's lock.
    spare: Option<File>,
    segment: Option<Segment>,
    tip: Option<Tip>,
    /// Our last line, with its newline.
    last: Vec<u8>,
    /// Lines that the log wrote by itself and nobody has copied yet.
    own: Vec<Vec<u8>>,
    /// A launch whose line is written but could not be made durable: it never runs, and its `launch-failed` frees the slot.
    unreleased: Option<LiveSlot>,
}

impl EmbeddedLog {
    /// Opens the log in `dir` and does what can be done in advance: makes the directory (0700) and today's segment, repairs a
    /// torn tail, closes launches whose launcher died. Call it early, off the critical path.
    ///
    /// A forked child (bailey's init) MUST close every descriptor of the log: the lock of a live launch and the lock of the
    /// chain last as long as any copy of their descriptor.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, Failure> {
        let dir = Directory::for_writing(dir, House::Embedded, options.network_filesystem)?;
        let boot = options.host.boot.id.clone().unwrap_or_else(|| "unknown".to_owned());
        let lock = open_shared(&dir, LOCK)?;
        let live = open_shared(&dir, live::NAME)?;
        let spare = Some(open_shared(&dir, live::NAME)?);
        let mut log = Self {
            dir,
            options,
            boot,
            lock,
            live,
            spare,
            segment: None,
            tip: None,
            last: Vec::new(),
            own: Vec::new(),
            unreleased: None,
        };
        log.locked(|log| {
            log.settle()?;
            log.sweep()
        })?;
        log.last_link(); // hashed here, off the critical path
        Ok(log)
    }

    /// Appends one record that neither starts nor ends a launch. (The `launch-failed` of a launch whose
    /// [`append_launch`](Self::append_launch) failed goes here too.)
    pub fn append(&mut self, record: &Record, durability: Durability) -> Result<Position, Failure> {
        if record.event.action.closes()
            && let Some(slot) =
                self.unreleased.take_if(|slot| record.event.id.as_deref() == Some(slot.launch.as_str()))
        {
            return self.append_end(record, slot, durability);
        }
        let body = Body::new(record)?;
        let place = self.locked(|log| {
            log.settle()?;
            log.write_line(&body)
        })?;
        self.finish(place, durability)
    }

    /// Appends a `payload-launch` and returns when it is durable. `pidfd` is the frozen payload's.
    pub fn append_launch(
        &mut self,
        record: &Record,
        launch: LaunchId,
        pidfd: OwnedFd,
    ) -> Result<(Receipt, LiveSlot), Failure> {
        let body = Body::new(record)?;
        let (place, slot) = self.locked(|log| {
            log.settle()?;
            let (index, slot) = log.take_slot(launch)?;
            match log.write_line(&body) {
                Ok(place) => Ok((place, slot)),
                Err(failure) => {
                    // When this fails too, the slot points to no launch and is freed by the next bailey.
                    let _ = live::write(&log.live, index, None);
                    Err(failure)
                }
            }
        })?;
        match self.finish(place, Durability::Synced) {
            Ok(position) => {
                let hash = self.last_link().hash;
                Ok((Receipt::mint(launch, position.seq, hash, pidfd), slot))
            }
            Err(failure) => {
                self.unreleased = Some(slot);
                Err(failure)
            }
        }
    }

    /// Appends the `payload-end` or `launch-failed` that closes a launch, and frees its slot. Works on a log opened later
    /// than the one that made the slot.
    pub fn append_end(
        &mut self,
        record: &Record,
        slot: LiveSlot,
        durability: Durability,
    ) -> Result<Position, Failure> {
        let body = Body::new(record)?;
        let place = self.locked(|log| {
            log.settle()?;
            let entries = log.entries()?;
            let found = entries.into_iter().enumerate().find_map(|(index, entry)| {
                entry.filter(|entry| entry.launch == slot.launch).map(|entry| (index, entry))
            });
            let Some((index, entry)) = found else {
                return Err(Failure::record(
                    format!("cannot write the end of launch {}", slot.launch),
                    "the log already has it: another bailey found the launcher dead",
                    "run bailey-admin verify: somebody changed the file 'live' of the log",
                ));
            };
            log.close_entry(index, &entry, &body)
        })?;
        drop(slot);
        self.finish(place, durability)
    }

    /// The line of the last record that this value wrote, without its newline, for copies elsewhere (the journal).
    pub fn last_line(&self) -> &[u8] {
        self.last.strip_suffix(b"\n").unwrap_or(&self.last)
    }

    /// The lines, without newlines, that the log wrote by itself since the last call: segments, repairs, ends of lost launches.
    /// For copies elsewhere too.
    pub fn take_own_lines(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.own)
    }

    /// Whether a launch record is written that could not be made durable: its launch never runs, and must be closed.
    pub fn owes_an_end(&self) -> bool {
        self.unreleased.is_some()
    }

    /// Where the log is.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    // ---- after the lock ----

    fn finish(&mut self, place: (u64, Place), durability: Durability) -> Result<Position, Failure> {
        if durability == Durability::Synced
            && let Some(segment) = &self.segment
        {
            segment
                .file
                .sync_data()
                .map_err(|error| io_failure("sync", &self.dir.path().join(&segment.name), &error))?;
        }
        let (seq, place) = place;
        Ok(Position { seq, hash: hex(&self.last_link().hash), segment: place.segment, offset: place.offset })
    }

    // ---- the lock ----

    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        self.acquire()?;
        let result = work(self);
        if live::unlock(&self.lock, 0, 0).is_err() {
            self.lock = open_shared(&self.dir, LOCK)?; // closing the description frees it in any case
        }
        result
    }

    fn acquire(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            let got =
                live::try_lock(&self.lock, 0, 0).map_err(|errno| self.dir.failure("lock", LOCK, errno))?;
            if got && self.dir.is_current(LOCK, &self.lock) {
                return Ok(());
            }
            if got {
                self.lock = open_shared(&self.dir, LOCK)?; // somebody removed the file: its lock is worth nothing
            }
            if begin.elapsed() >= self.options.wait {
                return Err(Failure::record(
                    format!("cannot lock the audit log in {}", self.dir.path().display()),
                    format!("another process held it for {:?}", self.options.wait),
                    "find the bailey that hangs or is stopped (fuser on the file 'lock' there), or raise audit.wait",
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    // ---- under the lock ----

    /// Makes `segment` and `tip` true: the newest segment, of today or later, ending in a whole line.
    fn settle(&mut self) -> Result<(), Failure> {
        let size = self.find_newest()?;
        if self.tip.is_none_or(|tip| tip.len != size) {
            self.tip = None;
            self.read_tip(size)?;
        }
        let today = (self.options.clock)().day();
        let current = self
            .segment
            .as_ref()
            .and_then(|segment| parse_name(&segment.name))
            .is_some_and(|(day, _)| *day >= *today);
        if current { Ok(()) } else { self.roll(&today) }
    }

    /// Opens the newest segment unless it is open already; its size.
    fn find_newest(&mut self) -> Result<u64, Failure> {
        if let Some(segment) = &self.segment
            && self.lock_names(&segment.name)
            && let Ok(meta) = segment.file.metadata()
            && meta.nlink() > 0
        {
            return Ok(meta.size());
        }
        self.tip = None;
        self.segment = None;
        // The name in `lock` saves the listing, and writing it again.
        let flags = OFlag::O_RDWR | OFlag::O_APPEND;
        let named = self.named_in_lock().and_then(|name| Some((self.dir.open_own(&name, flags).ok()?, name)));
        let known = named.is_some();
        let (file, name) = match named {
            Some(found) => found,
            None => match self.dir.segments()?.pop() {
                Some(name) => (self.dir.open_own(&name, flags)?, name),
                None => return Ok(0),
            },
        };
        let size = file
            .metadata()
            .map_err(|error| io_failure("look at", &self.dir.path().join(&name), &error))?
            .size();
        if !known {
            // Whoever made the segment may have died before its name was durable.
            self.dir.sync()?;
            self.name_in_lock(&name)?;
        }
        self.segment = Some(Segment { name, file });
        Ok(size)
    }

    fn lock_names(&self, name: &str) -> bool {
        self.named_in_lock().as_deref() == Some(name)
    }

    /// The newest segment as `lock` has it, written in this boot.
    fn named_in_lock(&self) -> Option<String> {
        let mut bytes = [0; 128];
        let count = self.lock.read_at(&mut bytes, 0).unwrap_or(0);
        let text = std::str::from_utf8(bytes.get(..count)?).ok()?;
        let name = text.strip_suffix('\n')?.strip_prefix(&self.boot)?.strip_prefix(' ')?;
        parse_name(name)?;
        Some(name.to_owned())
    }

    fn name_in_lock(&self, name: &str) -> Result<(), Failure> {
        let text = format!("{} {name}\n", self.boot);
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.write_all_at(text.as_bytes(), 0))
            .map_err(|error| io_failure("write", &self.dir.path().join(LOCK), &error))
    }

    /// Reads the last line of the newest segment, and repairs what a crash left behind it.
    fn read_tip(&mut self, size: u64) -> Result<(), Failure> {
        let Some(Segment { name, file }) = &self.segment else {
            return Ok(());
        };
        let name = name.clone();
        let found = self.tail_of(&name, file, size)?;
        let torn = self.take_torn(&found)?;
        if let Some(link) = found.link {
            self.tip = Some(Tip { len: found.len, seq: link.seq, hash: Some(link.hash) });
        } else {
            // A crash came between the making of the segment and its first line.
            let (previous, link) = self.link_before(&name)?;
            self.tip = Some(Tip { len: 0, seq: link.seq, hash: Some(link.hash) });
            self.write_own(&self.segment_open(&name, previous)?)?;
        }
        match torn {
            Some(repair) => self.write_own(&Body::new(&repair)?),
            None => Ok(()),
        }
    }

    fn tail_of(&self, name: &str, file: &File, size: u64) -> Result<Tail, Failure> {
        let path = self.dir.path().join(name);
        tail(file, size).map_err(|error| io_failure("read the end of", &path, &error))?.ok_or_else(|| {
            Failure::record(
                format!("cannot go on with the audit log {}", path.display()),
                "its last lines are broken in a way that no crash explains",
                "run bailey-admin verify, keep the directory as evidence and move it away",
            )
        })
    }

    /// Cuts torn bytes off, and gives the record that keeps them.
    fn take_torn(&self, found: &Tail) -> Result<Option<Record>, Failure> {
        let Some(Segment { name, file }) = self.segment.as_ref().filter(|_| found.torn > 0) else {
            return Ok(None);
        };
        let path = self.dir.path().join(name);
        let wrong = |error: &std::io::Error| io_failure("repair the end of", &path, error);
        let record = torn_record(file, name, found.len, found.torn, self.options.host.clone())
            .map_err(|error| wrong(&error))?;
        file.set_len(found.len).map_err(|error| wrong(&error))?;
        Ok(Some(record))
    }

    /// The last line before segment `name`, and its segment.
    fn link_before(&self, name: &str) -> Result<(Option<String>, Link), Failure> {
        let mut names = self.dir.segments()?;
        names.retain(|other| other.as_str() < name);
        for previous in names.iter().rev() {
            let file = self.dir.open_own(previous, OFlag::O_RDONLY)?;
            let size = file
                .metadata()
                .map_err(|error| io_failure("look at", &self.dir.path().join(previous), &error))?
                .size();
            if let Some(link) = self.tail_of(previous, &file, size)?.link {
                return Ok((Some(previous.clone()), link));
            }
        }
        Ok((None, Link::START))
    }

    /// Begins the segment of a new day. The one before is synced first: see 3 above.
    fn roll(&mut self, today: &str) -> Result<(), Failure> {
        let link = match &self.tip {
            Some(_) => self.last_link(),
            None => Link::START,
        };
        let previous = self.segment.take();
        if let Some(segment) = &previous {
            segment
                .file
                .sync_data()
                .map_err(|error| io_failure("sync", &self.dir.path().join(&segment.name), &error))?;
        }
        let previous = previous.map(|segment| segment.name);
        self.tip = None;
        self.lock.set_len(0).map_err(|error| io_failure("write", &self.dir.path().join(LOCK), &error))?;
        let name = format!("{today}.001.ndjson");
        let file =
            self.dir.open_own(&name, OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL)?;
        self.segment = Some(Segment { name: name.clone(), file });
        self.tip = Some(Tip { len: 0, seq: link.seq, hash: Some(link.hash) });
        self.write_own(&self.segment_open(&name, previous)?)?;
        if let Some(segment) = &self.segment {
            segment
                .file
                .sync_all()
                .map_err(|error| io_failure("sync", &self.dir.path().join(&name), &error))?;
        }
        self.dir.sync()?;
        self.name_in_lock(&name)
    }

    fn segment_open(&self, name: &str, previous: Option<String>) -> Result<Body, Failure> {
        let mut record = Record::of_log(Action::SegmentOpen, self.options.host.clone());
        record.grid.log.segment = Some(name.to_owned());
        record.grid.log.previous = previous;
        Body::new(&record)
    }

    /// The last line of the chain. Its hash is computed when it is first asked for, which is after the lock when the line is
    /// our own.
    fn last_link(&mut self) -> Link {
        let Some(tip) = &mut self.tip else {
            return Link::START;
        };
        let last = &self.last;
        Link { seq: tip.seq, hash: *tip.hash.get_or_insert_with(|| hash(last)) }
    }

    /// Writes a line about the log itself.
    fn write_own(&mut self, body: &Body) -> Result<(), Failure> {
        self.write_line(body)?;
        self.own.push(self.last_line().to_vec());
        Ok(())
    }

    /// Writes one line, whole or not at all.
    fn write_line(&mut self, body: &Body) -> Result<(u64, Place), Failure> {
        let link = self.last_link();
        let line = body.line((self.options.clock)(), &link, &self.options.writer);
        let (Some(segment), Some(tip)) = (&self.segment, self.tip) else {
            return Err(self.dir.failure("find the newest segment in", "", Errno::ENOENT));
        };
        let wrote = loop {
            match nix::unistd::write(&segment.file, &line) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        if wrote != Ok(line.len()) {
            self.tip = None; // whatever is there now is read again
            // When the cut fails the line stays torn, and the next bailey repairs it.
            let _ = segment.file.set_len(tip.len);
            return Err(match wrote {
                Err(errno) => self.dir.failure("write the audit record to", &segment.name, errno),
                // Writing the rest would tell which, but past the limit of file sizes the kernel kills (SIGXFSZ).
                Ok(part) => Failure::record(
                    format!(
                        "cannot write the audit record to {}",
                        self.dir.path().join(&segment.name).display()
                    ),
                    format!(
                        "only {part} of its {} bytes fit: the disk is full, or ulimit -f is reached",
                        line.len()
                    ),
                    "free space there, raise the limit, or set audit.dir in /etc/bailey/bailey.toml",
                ),
            });
        }
        let place = Place { segment: segment.name.clone(), offset: tip.len };
        self.tip = Some(Tip { len: tip.len + line.len() as u64, seq: link.seq + 1, hash: None });
        self.last = line;
        Ok((link.seq + 1, place))
    }

    // ---- live launches, under the lock ----

    /// The slots of the live table, rebuilt from the segments where the table cannot be used.
    fn entries(&mut self) -> Result<Vec<Option<Entry>>, Failure> {
        if !self.dir.is_current(live::NAME, &self.live) {
            self.live = open_shared(&self.dir, live::NAME)?;
            self.spare = Some(open_shared(&self.dir, live::NAME)?);
        }
        let wrong = |error: &std::io::Error| io_failure("use", &self.dir.path().join(live::NAME), error);
        if let Some(entries) = live::read(&self.live, &self.boot).map_err(|error| wrong(&error))? {
            return Ok(entries);
        }
        let open = self.open_launches()?;
        live::reset(&self.live, &self.boot, &open).map_err(|error| wrong(&error))?;
        Ok(open.into_iter().map(Some).collect())
    }

    /// Takes a free slot for a launch whose line is the next to be written.
    fn take_slot(&mut self, launch: LaunchId) -> Result<(usize, LiveSlot), Failure> {
        let entries = self.entries()?;
        let lock = match self.spare.take() {
            Some(file) => file,
            None => open_shared(&self.dir, live::NAME)?,
        };
        let mut free = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_none())
            .map(|(index, _)| index)
            .chain(entries.len()..);
        let index = loop {
            // A free slot may still be locked for a moment by the launcher that just ended.
            let index = free.next().unwrap_or(entries.len());
            if live::claim(&lock, index).map_err(|errno| self.dir.failure("lock", live::NAME, errno))? {
                break index;
            }
        };
        let (Some(segment), Some(tip)) = (&self.segment, &self.tip) else {
            return Err(self.dir.failure("find the newest segment in", "", Errno::ENOENT));
        };
        let entry = Entry {
            launch,
            at: Place { segment: segment.name.clone(), offset: tip.len },
            ending: None,
            watch: Watch::Lock,
        };
        self.write_slot(index, entries.len(), Some(&entry))?;
        Ok((index, LiveSlot { launch, _lock: lock }))
    }

    /// Writes a slot, and empty ones before it where the table has to grow by more than one.
    fn write_slot(&self, index: usize, len: usize, entry: Option<&Entry>) -> Result<(), Failure> {
        (len..index)
            .try_for_each(|gap| live::write(&self.live, gap, None))
            .and_then(|()| live::write(&self.live, index, entry))
            .map_err(|error| io_failure("write", &self.dir.path().join(live::NAME), &error))
    }

    /// Writes the line that closes a launch and frees its slot.
    fn close_entry(&mut self, index: usize, entry: &Entry, body: &Body) -> Result<(u64, Place), Failure> {
        let (Some(segment), Some(tip)) = (&self.segment, &self.tip) else {
            return Err(self.dir.failure("find the newest segment in", "", Errno::ENOENT));
        };
        let ending =
            Entry { ending: Some(Place { segment: segment.name.clone(), offset: tip.len }), ..entry.clone() };
        self.write_slot(index, index, Some(&ending))?;
        let place = self.write_line(body)?; // when it fails the slot says an end that is not there, which sweep() sees
        self.write_slot(index, index, None)?;
        Ok(place)
    }

    /// Closes the launches whose launcher died.
    fn sweep(&mut self) -> Result<(), Failure> {
        for (index, entry) in self.entries()?.into_iter().enumerate() {
            let Some(entry) = entry else { continue };
            let lives = match entry.watch {
                Watch::Lock => live::is_claimed(&self.live, index)
                    .map_err(|errno| self.dir.failure("look at the locks of", live::NAME, errno))?,
                Watch::Pid { pid, ticks } => live::launcher_lives(pid, ticks),
                Watch::Gone => false,
            };
            if lives {
                continue;
            }
            let ended = entry.ending.as_ref().and_then(|place| self.record_at(place));
            let launch = self.record_at(&entry.at).filter(|record| {
                record.event.action == Action::PayloadLaunch
                    && record.event.id.as_deref() == Some(entry.launch.as_str())
            });
            let already = ended.is_some_and(|record| {
                record.event.action.closes() && record.event.id.as_deref() == Some(entry.launch.as_str())
            });
            match launch.filter(|_| !already) {
                Some(record) => {
                    let body = Body::new(&self.lost(entry.launch, &record))?;
                    self.close_entry(index, &entry, &body)?;
                    self.own.push(self.last_line().to_vec());
                }
                None => self.write_slot(index, index, None)?,
            }
        }
        Ok(())
    }

    /// The end record of a launch that nobody saw end.
    fn lost(&self, launch: LaunchId, record: &Record) -> Record {
        let restarted = record.host.boot.id.as_deref().is_some_and(|boot| boot != self.boot);
        let mut end = record.about(Action::PayloadEnd, launch);
        let (by, reason) = if restarted {
            (EndBy::HostRestart, "the host went down while the payload ran")
        } else {
            (EndBy::LauncherLost, "the launcher died before it could write the end; the payload died with it")
        };
        end.event.outcome = Some(Outcome::Failure);
        end.event.reason = Some(reason.to_owned());
        end.grid.end.by = Some(by);
        end.host = self.options.host.clone();
        end
    }

    fn record_at(&self, place: &Place) -> Option<Record> {
        let file = self.dir.open(&place.segment, OFlag::O_RDONLY).ok()?;
        let line = line_at(&file, place.offset).ok()??;
        serde_json::from_slice(&line).ok()
    }

    /// The launches without end in the newest segments.
    fn open_launches(&self) -> Result<Vec<Entry>, Failure> {
        let mut open = BTreeMap::new();
        let names = self.dir.segments()?;
        for name in names.iter().skip(names.len().saturating_sub(SEARCHED)) {
            let file = self.dir.open_own(name, OFlag::O_RDONLY)?;
            self.search(name, file, &mut open)
                .map_err(|error| io_failure("read", &self.dir.path().join(name), &error))?;
        }
        Ok(open.into_values().collect())
    }

    fn search(&self, name: &str, file: File, open: &mut BTreeMap<String, Entry>) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut line = Vec::new();
        let mut offset = 0_u64;
        loop {
            line.clear();
            let count = reader.read_until(b'\n', &mut line)? as u64;
            if count == 0 {
                return Ok(());
            }
            let at = offset;
            offset += count;
            let Ok(record) = serde_json::from_slice::<Record>(&line) else {
                continue; // what is broken is for verify to say
            };
            let Some(launch) = record.event.id.as_deref().and_then(LaunchId::parse) else {
                continue;
            };
            if record.event.action.closes() {
                open.remove(launch.as_str());
            } else if record.event.action == Action::PayloadLaunch {
                let watch = match (record.process.parent.pid, record.grid.start_ticks) {
                    (Some(pid), Some(ticks)) if record.host.boot.id.as_deref() == Some(&self.boot) => {
                        Watch::Pid { pid, ticks }
                    }
                    _ => Watch::Gone,
                };
                let entry =
                    Entry { launch, at: Place { segment: name.to_owned(), offset: at }, ending: None, watch };
                open.insert(launch.to_string(), entry);
            }
        }
    }
}

/// Opens a file that all launchers share, and makes it where it is missing.
fn open_shared(dir: &Directory, name: &str) -> Result<File, Failure> {
    dir.open_own(name, OFlag::O_RDWR | OFlag::O_CREAT)
}
