//! The site's policy as it stands on the disk: read, kept in a form that a launch can ask cheaply, and watched.
//!
//! 1. Every launch looks at every file's identity. Nothing is believed for a while, and nothing is read twice.
//! 2. The copy that makes launches cheap is this account's own, and no payload can reach it. It saves time and decides
//!    nothing that the recorder does not decide again. A broken one is as good as none.
#![forbid(unsafe_code)]

mod compiled;
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) mod fuzz;
mod groups;
mod layered;
mod load;
pub(crate) mod stamp;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use load::is_meant as is_list_name;
pub use stamp::Stamp;

use super::decide;
use super::facts::{Counts, Facts};
use super::index::{self, Memory, Relevant, Source};
use super::lists::{Change, Lists};
use super::settings::{self, Settings};
use super::verdict::{Hit, Verdict};
use crate::audit::time::Timestamp;
use crate::config::{self, Config, Place};
use crate::failure::Failure;
use crate::image::facts::{EndOfLife, Os};
use crate::sys::memory;

/// What programs write and read the copy: another build has other tables.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " 4");
/// Configurations smaller than this, on nodes without any list, are read faster than a copy of them.
const WORTH_A_COPY: u64 = 16 << 10;
/// How long one waits for another of this account that is making the copy. Much longer than that takes: if hundreds that saw a
/// change made it each for itself, none would be ready in time. Who holds it and stands still harms its own account alone.
const TURN: Duration = Duration::from_secs(5);
/// How often one that waits looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Tables that are looked up.
type Tables = Arc<dyn Source + Send + Sync>;

/// The policy of this node.
pub struct Policy {
    source: Tables,
    /// The tables of the configuration, where `source` has newer lists over them.
    below: Option<Tables>,
    lists: Lists,
    stamps: Vec<Stamp>,
    until: Option<Timestamp>,
    /// The site's own table of systems is among the tables.
    systems: bool,
    settings: Settings,
    /// Where the tables come from that are a copy on disk.
    copied: Option<Copied>,
    /// Lists that are others than in the copy before, when this process made the new one.
    changes: Vec<Change>,
}

/// A copy, and what it was made of.
struct Copied {
    path: PathBuf,
    place: Place,
    keep: PathBuf,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("lists", &self.lists)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Reads the site's files. `keep`: a directory of this account's own for the last good versions of the lists, and of
    /// nothing else.
    pub fn read(config: &Config, keep: Option<&Path>, now: Timestamp) -> Self {
        Self::with(config, keep, Vec::new(), now)
    }

    /// The same; `stamps`: of the configuration.
    fn with(config: &Config, keep: Option<&Path>, stamps: Vec<Stamp>, now: Timestamp) -> Self {
        let Made { memory, lists, stamps, until, systems } = Made::of(config, keep, stamps, now);
        Self {
            source: Arc::new(memory),
            below: None,
            lists,
            stamps,
            until,
            systems,
            settings: config.policy.clone(),
            copied: None,
            changes: Vec::new(),
        }
    }

    /// The lists as they are now, under these settings and rules: for what runs while the configuration cannot be read. Which
    /// lists have changed is told by whoever reads them first when it can be read again.
    #[must_use]
    pub fn with_newer_lists(&self, place: &Place, uid: u32, now: Timestamp) -> Self {
        let keep = directory(uid).map(|dir| kept(&dir, place));
        // By the files as they were before anything was read: what changes meanwhile is seen the next time.
        let mut stamps = config::stamps(place, now);
        let tables = settings::Tables::default();
        let read = load::read(&self.settings, &tables, keep.as_deref(), now);
        stamps.extend(read.stamps);
        let until = stamps.iter().filter_map(Stamp::matures).chain(read.until).min();
        let below = self.below.as_ref().unwrap_or(&self.source);
        let newer = Memory::new(&tables, read.bans, read.members);
        Self {
            source: Arc::new(layered::Layered { below: Arc::clone(below), newer }),
            below: Some(Arc::clone(below)),
            lists: read.lists,
            stamps,
            until,
            systems: self.systems,
            settings: self.settings.clone(),
            copied: None,
            changes: Vec::new(),
        }
    }

    /// Whether a file is another one by now, or its time has come.
    pub fn is_old(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now) || !self.stamps.iter().all(Stamp::holds)
    }

    /// Lists that this process was the first to see changed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How the lists stand.
    pub const fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The files that it comes from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.stamps.iter().map(|stamp| stamp.path.as_path())
    }

    /// `[policy]`, `[image]`, `[bans]`.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What of it concerns a launch.
    ///
    /// # Errors
    /// The copy cannot be read.
    pub fn look_up(&self, facts: &Facts, now: Timestamp) -> Result<Relevant, Failure> {
        let (found, copied) = (index::gather(facts, &*self.source, now), &self.copied);
        let (Err(_), Some(Copied { path, place, keep })) = (&found, copied) else { return found };
        // A copy that is broken is of no use to anybody, and the files themselves are there.
        let _ = std::fs::remove_file(path);
        let (config, _) = config::load_stamped(place, now)?;
        index::gather(facts, &Made::of(&config, Some(keep), Vec::new(), now).memory, now)
    }

    /// Whether a launch may run, and how. `counts`: where they are known.
    ///
    /// # Errors
    /// The copy cannot be read. (That it may not run is the verdict's to say.)
    pub fn decide(&self, facts: &Facts, counts: Option<Counts>, now: Timestamp) -> Result<Verdict, Failure> {
        Ok(self.judge(facts, &self.look_up(facts, now)?, counts, now))
    }

    /// The same, where it is looked up already.
    pub fn judge(
        &self,
        facts: &Facts,
        relevant: &Relevant,
        counts: Option<Counts>,
        now: Timestamp,
    ) -> Verdict {
        decide::decide(facts, relevant, &self.lists, &self.settings, counts, now)
    }

    /// When the security support of an image's system ends, or ended; `None` when nobody knows.
    ///
    /// # Errors
    /// The site's own table cannot be used.
    pub fn end_of_life(&self, os: &Os) -> Result<Option<Timestamp>, Failure> {
        let Some(table) = &self.settings.image.end_of_life_table else {
            return Ok(EndOfLife::builtin().of(os));
        };
        let copied = if self.systems { index::end_of_life(os, &*self.source).ok() } else { None };
        match copied {
            Some(end) => Ok(end),
            None => Ok(EndOfLife::read(table)?.of(os)),
        }
    }

    /// The ban that holds for a payload that runs already.
    ///
    /// # Errors
    /// The copy cannot be read.
    pub fn banned(&self, facts: &Facts, now: Timestamp) -> Result<Option<Hit>, Failure> {
        let relevant = self.look_up(facts, now)?;
        Ok(decide::banned(facts, &relevant, now))
    }
}

/// What the files come to.
struct Made {
    memory: Memory,
    lists: Lists,
    stamps: Vec<Stamp>,
    until: Option<Timestamp>,
    systems: bool,
}

impl Made {
    fn of(config: &Config, keep: Option<&Path>, mut stamps: Vec<Stamp>, now: Timestamp) -> Self {
        let read = load::read(&config.policy, &config.tables, keep, now);
        stamps.extend(read.stamps);
        let until = stamps.iter().filter_map(Stamp::matures).chain(read.until).min();
        let systems = read.systems.is_some();
        let memory = Memory::new(&config.tables, read.bans, read.members)
            .with_systems(read.systems.into_iter().flatten());
        Self { memory, lists: read.lists, stamps, until, systems }
    }
}

/// The configuration and the policy, through the copy where one pays.
///
/// # Errors
/// A configuration that cannot be used. Lists in trouble are no error here: [`Policy::decide`] says what they mean.
pub fn open(place: &Place, uid: u32, now: Timestamp) -> Result<(Config, Policy), Failure> {
    let dir = directory(uid);
    if let Some(found) = dir.as_deref().and_then(|dir| copied(dir, place, now)) {
        return Ok(found);
    }
    let (config, stamps) = config::load_stamped(place, now)?;
    let size: u64 = stamps.iter().map(Stamp::size).sum();
    // Lists that were there a moment ago hold without their directory, too.
    let is_worth_it = size >= WORTH_A_COPY
        || is_policed(&config)
        || dir.as_deref().is_some_and(|dir| kept(dir, place).exists());
    let Some(dir) = is_worth_it.then(|| dir.or_else(|| make_directory(uid))).flatten() else {
        let policy = Policy::with(&config, None, stamps, now);
        return Ok((config, policy));
    };
    // Of many that see a change at one time one reads the files, and the others what it made of them, all at once.
    let mut waiting = Waiting::begin(&dir, place);
    loop {
        let turn = waiting.turn_or_copy();
        if let Some(found) = copied(&dir, place, Timestamp::now()) {
            return Ok(found);
        }
        if !matches!(turn, Turn::Copy) {
            // What was read while others wrote may be older than what they read.
            return make(&dir, place, Timestamp::now());
        }
    }
}

/// Reads the site's files, and leaves a copy for the next.
fn make(dir: &Path, place: &Place, now: Timestamp) -> Result<(Config, Policy), Failure> {
    let (config, stamps) = config::load_stamped(place, now)?;
    let Made { memory, lists, stamps, until, systems } =
        Made::of(&config, Some(&kept(dir, place)), stamps, now);
    let path = dir.join(copy_name(place));
    let before = compiled::open(&path, BUILD).map(|(meta, _)| meta.lists);
    let changes = before.map(|before| lists.changes_since(&before)).unwrap_or_default();
    let settings = config.policy.clone();
    let (config, tables) = split(config);
    let trusts = memory.has_trusts();
    let meta = compiled::Meta { build: BUILD.to_owned(), config, lists, stamps, until, trusts, systems };
    // A copy that cannot be written costs time at the next launch, and nothing else.
    let _ = compiled::write(&path, &meta, &memory);
    if let Some((config, mut policy)) = copied(dir, place, now) {
        // The copy takes the place of the tables: whoever made it lives as long as its payload, and needs them no more.
        drop(memory);
        memory::give_back();
        policy.changes = changes;
        return Ok((config, policy));
    }
    let compiled::Meta { mut config, lists, stamps, until, .. } = meta;
    config.tables = tables;
    let source = Arc::new(memory);
    Ok((
        config,
        Policy { source, below: None, lists, stamps, until, systems, settings, copied: None, changes },
    ))
}

/// What the copy says, while it holds.
fn copied(dir: &Path, place: &Place, now: Timestamp) -> Option<(Config, Policy)> {
    let path = dir.join(copy_name(place));
    let (meta, source) = compiled::open(&path, BUILD)?;
    if meta.until.is_some_and(|until| until <= now) || !meta.stamps.iter().all(Stamp::holds) {
        return None;
    }
    let compiled::Meta { config, lists, stamps, until, systems, .. } = meta;
    let settings = config.policy.clone();
    let copied = Some(Copied { path, place: place.clone(), keep: kept(dir, place) });
    Some((
        config,
        Policy {
            source: Arc::new(source),
            below: None,
            lists,
            stamps,
            until,
            systems,
            settings,
            copied,
            changes: Vec::new(),
        },
    ))
}

/// What a launcher waits for that saw the copy to be old.
struct Waiting {
    lock: Option<File>,
    copy: PathBuf,
    seen: Option<(u64, u64)>,
    until: Instant,
}

/// What came.
enum Turn {
    /// The lock, held as long as the file is open: it is for this process to make the copy.
    Own { _lock: File },
    /// Another copy than the one that was old.
    Copy,
    /// Neither.
    None,
}

impl Waiting {
    fn begin(dir: &Path, place: &Place) -> Self {
        let copy = dir.join(copy_name(place));
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(copy.with_extension("lock"))
            .ok();
        Self { lock, seen: Self::inode(&copy), copy, until: Instant::now() + TURN }
    }

    fn inode(copy: &Path) -> Option<(u64, u64)> {
        std::fs::metadata(copy).ok().map(|metadata| (metadata.ino(), metadata.ctime_nsec().cast_unsigned()))
    }

    fn turn_or_copy(&mut self) -> Turn {
        loop {
            let Some(lock) = &self.lock else { return Turn::None };
            match lock.try_lock() {
                Ok(()) => return self.lock.take().map_or(Turn::None, |lock| Turn::Own { _lock: lock }),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < self.until => {}
                Err(_) => return Turn::None,
            }
            std::thread::sleep(LOOK_AGAIN);
            let now = Self::inode(&self.copy);
            if now != self.seen {
                self.seen = now;
                return Turn::Copy;
            }
        }
    }
}

/// Where the last good versions of the lists are.
fn kept(dir: &Path, place: &Place) -> PathBuf {
    dir.join(copy_name(place)).with_extension("bans")
}

/// The configuration without its tables, which are looked up one by one.
fn split(mut config: Config) -> (Config, settings::Tables) {
    let tables = std::mem::take(&mut config.tables);
    (config, tables)
}

/// Whether the site has lists at all.
fn is_policed(config: &Config) -> bool {
    let policy = &config.policy;
    !policy.bans.required.is_empty()
        || policy.bans.dir.exists()
        || policy.groups_dir.exists()
        || policy.image.end_of_life_table.is_some()
        || config.tables.rules.iter().any(|rule| !rule.when.mapfile.is_empty())
}

/// One copy for each configuration: an account may be that of several, in tests.
fn copy_name(place: &Place) -> String {
    format!("{}.tables", stamp::digest(place.main.as_os_str().as_encoded_bytes()).get(..16).unwrap_or("x"))
}

/// Where copies of this account are: `/var/lib/bailey/embedded/UID` where the site made it, else `/tmp/bailey-UID`. Never a
/// place that the environment names: a pilot chooses its environment.
pub fn places(uid: u32) -> [PathBuf; 2] {
    [PathBuf::from(format!("/var/lib/bailey/embedded/{uid}")), PathBuf::from(format!("/tmp/bailey-{uid}"))]
}

/// The one that is there and can be trusted: a directory of this account, closed to all others.
fn directory(uid: u32) -> Option<PathBuf> {
    places(uid).into_iter().find(|path| {
        path.symlink_metadata()
            .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode().trailing_zeros() >= 6)
    })
}

/// The one of [`places`] for accounts for which the site made none.
fn make_directory(uid: u32) -> Option<PathBuf> {
    let [_, path] = places(uid);
    let _ = std::fs::DirBuilder::new().mode(0o700).create(&path);
    directory(uid)
}
