//! From the site's files to tables: ban lists, who is in which group, mapfiles.
//!
//! 1. A ban is there as soon as its file says so. It is gone when the file has been quiet for `bans.settle` and reads well
//!    without it: a file that somebody is just writing, or has emptied by mistake, lets nobody in.
//! 2. The last good version of every list is kept. It holds for what runs while the list is in trouble, whatever the site
//!    wants for new launches.
//! 3. Nothing here fails as a whole: what cannot be read is said, list by list, and what that means is decided elsewhere.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::groups::GroupFile;
use super::stamp::{Stamp, digest, names};
use crate::audit::chain::hex;
use crate::audit::time::Timestamp;
use crate::failure::io_text;
use crate::image::end_of_life::{self, EndOfLife};
use crate::input;
use crate::policy::bans::{self, Ban, Format};
use crate::policy::index::{Member, Of, Whose};
use crate::policy::lists::{Kind, ListState, Lists, Part, Trouble};
use crate::policy::mapfile;
use crate::policy::name::Name;
use crate::policy::settings::{Settings, Tables};

/// The largest list that is read.
const LARGEST: u64 = 16 << 20;
/// The most files of a directory.
const MOST_FILES: usize = 1000;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Bans, each with the name of its list.
    pub bans: Vec<(String, Ban)>,
    /// Who is in what.
    pub members: Vec<Member>,
    /// The site's own table of systems, by their ID; `None` where it has none, or none that can be used.
    pub systems: Option<Vec<(String, end_of_life::Row)>>,
    /// How the lists stand.
    pub lists: Lists,
    /// What all of it comes from.
    pub stamps: Vec<Stamp>,
    /// When it has to be looked at again, although no file changes.
    pub until: Option<Timestamp>,
}

/// Reads everything. `keep`: where the last good versions are; without it there are none.
pub(super) fn read(settings: &Settings, tables: &Tables, keep: Option<&Path>, now: Timestamp) -> Read {
    let mut reader = Reader { now, keep, settings, part: Part::Bans, read: Read::default() };
    reader.ban_lists();
    reader.part = Part::Groups;
    reader.groups();
    let mut seen = HashSet::new();
    for path in tables.rules.iter().flat_map(|rule| &rule.when.mapfile) {
        if seen.insert(path) {
            reader.mapfile(path);
        }
    }
    reader.systems();
    let mut version = Sha256::new();
    for list in &reader.read.lists.lists {
        version.update(list.name.as_bytes());
        version.update([0]);
        version.update(list.digest.as_deref().unwrap_or("none").as_bytes());
        version.update([0]);
    }
    reader.read.lists.version = hex(&version.finalize().into());
    reader.read
}

/// A directory of lists.
enum Directory {
    Names(Vec<String>),
    /// It is not there.
    Gone,
    /// It is there and says nothing, which was told.
    Unreadable,
}

struct Reader<'a> {
    now: Timestamp,
    keep: Option<&'a Path>,
    settings: &'a Settings,
    /// What is being read, for troubles.
    part: Part,
    read: Read,
}

/// The files of a directory that are meant to be read: no editor's leavings, no package manager's.
pub(crate) fn is_meant(name: &str) -> bool {
    let leavings = [
        "~",
        ".rpmsave",
        ".rpmnew",
        ".rpmorig",
        ".dpkg-old",
        ".dpkg-new",
        ".dpkg-dist",
        ".swp",
        ".tmp",
        ".new",
    ];
    !name.starts_with(['.', '#'])
        && !name.starts_with("README")
        && !leavings.iter().any(|end| name.ends_with(end))
}

impl Reader<'_> {
    fn trouble(&mut self, kind: Kind, text: String) {
        self.read.lists.troubles.push(Trouble { of: self.part, kind, text });
    }

    fn look_again(&mut self, at: Timestamp) {
        self.read.until = Some(self.read.until.map_or(at, |until| until.min(at)));
    }

    /// The names of a directory.
    fn directory(&mut self, path: &Path) -> Directory {
        let looked = std::fs::metadata(path).and_then(|metadata| Ok((metadata, names(path)?)));
        let (metadata, held) = match looked {
            Ok(looked) => looked,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.read.stamps.push(Stamp::absent(path));
                return Directory::Gone;
            }
            Err(error) => {
                self.read.stamps.push(Stamp::unread(path, self.now));
                self.trouble(
                    Kind::Unreadable,
                    format!("cannot read {}: {}", path.display(), io_text(&error)),
                );
                return Directory::Unreadable;
            }
        };
        self.read.stamps.push(Stamp::of(path, &metadata, &held, self.now));
        if !self.judge(path, &metadata) {
            return Directory::Unreadable;
        }
        let mut found = Vec::new();
        for name in held.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            match std::str::from_utf8(name) {
                Ok(name) if is_meant(name) => found.push(name.to_owned()),
                Ok(_) => {}
                Err(_) => self.trouble(
                    Kind::Unreadable,
                    format!("{} holds a file whose name is not UTF-8", path.display()),
                ),
            }
        }
        if found.len() > MOST_FILES {
            self.trouble(Kind::Unreadable, format!("{} holds more than {MOST_FILES} files", path.display()));
            found.truncate(MOST_FILES);
        }
        Directory::Names(found)
    }

    /// Who may write here decides who may run.
    fn judge(&mut self, path: &Path, metadata: &std::fs::Metadata) -> bool {
        let others = metadata.mode() & 0o022 != 0;
        let foreign = metadata.uid() != 0
            && metadata.uid() != nix::unistd::geteuid().as_raw()
            && !is_bailey(metadata.uid());
        if others || foreign {
            let why = if others {
                format!("others can write it (mode {:04o})", metadata.mode() & 0o7777)
            } else {
                format!("it belongs to uid {}, expected root", metadata.uid())
            };
            self.trouble(Kind::Unreadable, format!("cannot trust {}: {why}", path.display()));
            return false;
        }
        true
    }

    // ---- bans ----

    fn ban_lists(&mut self) {
        let dir = self.settings.bans.dir.clone();
        let directory = self.directory(&dir);
        // When names may have gone from it, or it from the directory above.
        let changed = match &directory {
            Directory::Names(_) => std::fs::metadata(&dir).ok(),
            Directory::Gone => dir.ancestors().skip(1).find_map(|above| std::fs::metadata(above).ok()),
            Directory::Unreadable => None,
        };
        let settled = changed.and_then(|metadata| self.settled_at(&metadata));
        let is_readable = !matches!(directory, Directory::Unreadable);
        let mut found = if let Directory::Names(found) = directory { found } else { Vec::new() };
        for name in &found.clone() {
            self.ban_list(&dir, name);
        }
        for name in &self.settings.bans.required {
            if is_readable && !found.contains(name) {
                self.trouble(
                    Kind::Missing,
                    format!("{} is required (bans.required) and not there", dir.join(name).display()),
                );
            }
        }
        // Lists that were there: what is required, what went a moment ago, and what nobody can look for, still holds.
        let kept = self.keep.and_then(|keep| names(keep).ok()).unwrap_or_default();
        for name in kept.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
            // One with a dot is being written, by whoever else reads these lists.
            if name.is_empty() || name.starts_with('.') || found.iter().any(|found| found == name) {
                continue;
            }
            let required = self.settings.bans.required.iter().any(|required| required == name);
            let holds = required || !is_readable;
            if holds || settled.is_some() {
                if let (false, Some(settled)) = (holds, settled) {
                    self.look_again(settled.plus_seconds(1));
                }
                self.last_good(name, None);
                found.push(name.to_owned());
            } else if let Some(keep) = self.keep {
                let _ = std::fs::remove_file(keep.join(name)); // it is not missed
            }
        }
    }

    /// When what changed a moment ago is quiet; `None` if it is. A time that is still to come, set by a copying program or by
    /// a clock that went back, says nothing.
    fn settled_at(&self, metadata: &std::fs::Metadata) -> Option<Timestamp> {
        let latest = self.now.plus_seconds(2);
        let time = |secs: i64, nanos: i64| Timestamp::new(secs, u32::try_from(nanos).unwrap_or(0));
        [time(metadata.mtime(), metadata.mtime_nsec()), time(metadata.ctime(), metadata.ctime_nsec())]
            .into_iter()
            .filter(|changed| *changed <= latest)
            .max()
            .map(|changed| changed.plus_seconds(self.settle()))
            .filter(|settled| *settled > self.now)
    }

    fn settle(&self) -> i64 {
        i64::try_from(self.settings.bans.settle.as_secs()).unwrap_or(i64::MAX)
    }

    fn ban_list(&mut self, dir: &Path, name: &str) {
        let path = dir.join(name);
        let mut state = ListState { name: name.to_owned(), ..ListState::default() };
        let bad = |text: String| Some(Trouble { of: Part::Bans, kind: Kind::Unreadable, text });
        let opened = input::open(&path)
            .map_err(input::Trouble::from)
            .and_then(|file| input::read_small(&file, LARGEST));
        let (metadata, bytes) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                state.trouble = bad(format!("cannot read {}: {why}", path.display()));
                self.read.stamps.push(Stamp::unread(&path, self.now));
                return self.last_good(name, Some(state));
            }
        };
        self.read.stamps.push(Stamp::of(&path, &metadata, &bytes, self.now));
        let changed = Timestamp::new(metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap_or(0));
        (state.changed, state.owner) = (Some(changed), metadata.uid());
        if !self.judge(&path, &metadata) {
            return self.last_good(name, Some(state));
        }
        let Some(format) = Format::of_name(name) else {
            let known = "known are *.toml, ban_users.db, *.db, *.dn, *.list, *.txt, *.conf, *.mapfile, *.argus, *.spl";
            state.trouble = bad(format!("cannot tell the format of {} by its name: {known}", path.display()));
            return self.last_good(name, Some(state));
        };
        let list = match bans::parse(&bytes, format) {
            Ok(list) => list,
            Err(faults) => {
                let more = match faults.len() {
                    0 | 1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                state.trouble = bad(format!("{}: {first}{more}", path.display()));
                return self.last_good(name, Some(state));
            }
        };
        if let Some(limit) = self.settings.bans.max_age
            && u128::from(self.now.nanos_since(changed)) > limit.as_nanos()
        {
            state.trouble = Some(Trouble {
                of: Part::Bans,
                kind: Kind::Stale,
                text: format!(
                    "{} was changed last at {changed}, longer ago than bans.max_age",
                    path.display()
                ),
            });
        } else if let Some(limit) = self.settings.bans.max_age {
            self.look_again(
                changed.plus_seconds(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)).plus_seconds(1),
            );
        }
        let mut bans = list.bans;
        if let Some(settled) = self.settled_at(&metadata) {
            // What was banned and is not named any more stays banned until the file is quiet.
            let before = self.kept(name).filter(|kept| *kept != bytes);
            let before = before.and_then(|bytes| bans::parse(&bytes, format).ok());
            let named: HashSet<String> = bans.iter().map(|ban| ban.whom.to_string()).collect();
            let gone: Vec<Ban> = before
                .map(|before| before.bans)
                .unwrap_or_default()
                .into_iter()
                .filter(|old| !named.contains(&old.whom.to_string()))
                .collect();
            if gone.is_empty() {
                self.put_away(name, &bytes);
            } else {
                self.look_again(settled.plus_seconds(1));
                bans.extend(gone);
            }
        } else {
            self.put_away(name, &bytes);
        }
        (state.digest, state.bans) = (Some(digest(&bytes)), bans.len());
        self.take(name, bans);
        self.read.lists.lists.push(state);
    }

    /// These bans hold. One that begins later must be noticed then, by what runs already.
    fn take(&mut self, name: &str, bans: Vec<Ban>) {
        if let Some(next) = bans.iter().filter_map(|ban| ban.from).filter(|from| *from > self.now).min() {
            self.look_again(next);
        }
        self.read.bans.extend(bans.into_iter().map(|ban| (name.to_owned(), ban)));
    }

    /// The last good version, in place of a list in trouble.
    fn last_good(&mut self, name: &str, state: Option<ListState>) {
        let mut state = state.unwrap_or_else(|| ListState { name: name.to_owned(), ..ListState::default() });
        if let Some(bytes) = self.kept(name)
            && let Some(format) = Format::of_name(name)
            && let Ok(list) = bans::parse(&bytes, format)
        {
            (state.digest, state.bans) = (Some(digest(&bytes)), list.bans.len());
            self.take(name, list.bans);
        }
        self.read.lists.lists.push(state);
    }

    fn kept(&self, name: &str) -> Option<Vec<u8>> {
        let file = input::open(&self.keep?.join(name)).ok()?;
        input::read_small(&file, LARGEST).ok().map(|(_, bytes)| bytes)
    }

    /// Keeps a good version. One that cannot be kept is not there when it is needed, which is said then.
    fn put_away(&self, name: &str, bytes: &[u8]) {
        let Some(keep) = self.keep else { return };
        if self.kept(name).is_some_and(|kept| kept == bytes) {
            return;
        }
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(keep);
        let aside = keep.join(format!(".{name}.{}", std::process::id()));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| std::fs::rename(&aside, keep.join(name)));
        if written.is_err() {
            let _ = std::fs::remove_file(&aside);
        }
    }

    // ---- who is in which group ----

    fn groups(&mut self) {
        let dir = self.settings.groups_dir.clone();
        let Directory::Names(found) = self.directory(&dir) else { return };
        for name in found {
            if Path::new(&name).extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let path = dir.join(&name);
            if let Err(why) = self.group_file(&path) {
                self.trouble(Kind::Unreadable, format!("{}: {why}", path.display()));
            }
        }
    }

    fn group_file(&mut self, path: &Path) -> Result<(), String> {
        let (metadata, bytes) = self.read_file(path)?;
        let file = GroupFile::parse(&bytes)?;
        let ttl = file.span()?;
        let until = Timestamp::new(metadata.mtime(), 0)
            .plus_seconds(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        if until < self.now {
            self.trouble(
                Kind::Stale,
                format!(
                    "{} ran out at {until} (its ttl is {}): its groups let nobody in",
                    path.display(),
                    file.ttl
                ),
            );
        } else {
            self.look_again(until.plus_seconds(1));
        }
        file.members(until, &mut self.read.members)
    }

    // ---- mapfiles ----

    fn mapfile(&mut self, path: &Path) {
        if let Err(why) = self.mapfile_entries(path) {
            self.trouble(Kind::Unreadable, format!("{}: {why}", path.display()));
        }
    }

    fn mapfile_entries(&mut self, path: &Path) -> Result<(), String> {
        let (_, bytes) = self.read_file(path)?;
        let entries = mapfile::parse(&bytes)
            .map_err(|faults| faults.first().map(ToString::to_string).unwrap_or_default())?;
        for entry in entries {
            let who = match entry.key {
                mapfile::Key::Dn(dn) => Whose::Name(Name::Dn(dn).key()),
                mapfile::Key::DnPattern(glob) => Whose::Glob(glob),
                mapfile::Key::Group(pattern) => Whose::Group(pattern),
            };
            self.read.members.push(Member { who, of: Of::Mapfile(path.to_owned()), until: None });
        }
        Ok(())
    }

    // ---- systems ----

    /// One that cannot be used is read again by the launches that need it, which are told what is wrong with it.
    fn systems(&mut self) {
        let Some(path) = &self.settings.image.end_of_life_table else { return };
        match EndOfLife::read_with(path) {
            Ok((table, metadata, bytes)) => {
                self.read.stamps.push(Stamp::of(path, &metadata, &bytes, self.now));
                self.read.systems = Some(table.into_rows().collect());
            }
            Err(_) => self.read.stamps.push(Stamp::unread(path, self.now)),
        }
    }

    fn read_file(&mut self, path: &Path) -> Result<(std::fs::Metadata, Vec<u8>), String> {
        let opened = input::open(path)
            .map_err(input::Trouble::from)
            .and_then(|file| input::read_small(&file, LARGEST));
        match opened {
            Ok((metadata, bytes)) => {
                self.read.stamps.push(Stamp::of(path, &metadata, &bytes, self.now));
                if self.judge(path, &metadata) {
                    Ok((metadata, bytes))
                } else {
                    Err("it is not trusted".to_owned())
                }
            }
            Err(why) => {
                self.read.stamps.push(Stamp::unread(path, self.now));
                Err(format!("cannot be read: {why}"))
            }
        }
    }
}

/// Whether that is the recorder's own account, which writes the lists for `bailey ban`.
fn is_bailey(uid: u32) -> bool {
    std::fs::metadata("/var/lib/bailey").is_ok_and(|metadata| metadata.uid() == uid)
}
