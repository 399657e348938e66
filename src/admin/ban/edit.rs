//! Changes of our own lists that nobody can see half done.
//!
//! 1. One at a time: whoever changes a list holds the lock from before it is read until it is replaced. So of two
//!    administrators neither loses what the other wrote.
//! 2. A list is replaced by a rename of a file that is on the disk. Who reads meanwhile has the old one or the new one.
//! 3. What is not touched stays byte by byte, with its comments. The new text is read back before it replaces anything, and
//!    must say what was meant and nothing else; else nothing changes.
#![forbid(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::failure::{Failure, io_text};
use crate::input;
use crate::policy::bans::{self, Ban, Format, List, MOST_BYTES};
use crate::policy::store;

/// The lock. Not the directory itself: every user of the node may open that, and so hold its lock. This file only its owner.
const LOCK: &str = ".bailey-ban.lock";
/// How long another one may take for a change.
const PATIENCE: Duration = Duration::from_secs(30);
/// What stands at the head of a list of ours.
const HEAD: &str = "# Who may not run, read by bailey: docs/bans.md\n";

/// The directory of the lists, in the hands of this process alone.
#[derive(Debug)]
pub(super) struct Locked {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Locked {
    /// Waits until nobody else changes a list. `make`: the directory, where there is none yet.
    pub(super) fn take(dir: &Path, make: bool) -> Result<Self, Failure> {
        let wrong = |error: &io::Error| cannot_write(dir, error);
        if make && let Err(error) = std::fs::DirBuilder::new().mode(0o755).create(dir) {
            match error.kind() {
                ErrorKind::AlreadyExists => {}
                _ if dir.exists() => {}
                _ => return Err(wrong(&error)),
            }
        }
        let owner = std::fs::metadata(dir).map_err(|error| wrong(&error))?;
        let file = open_lock(&dir.join(LOCK), &owner).map_err(|error| wrong(&error))?;
        let since = Instant::now();
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { dir: dir.to_owned(), _lock: lock }),
                Err((back, Errno::EAGAIN)) if since.elapsed() < PATIENCE => {
                    file = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((_, Errno::EAGAIN)) => {
                    return Err(Failure::site(
                        format!("cannot change the ban lists in {}", dir.display()),
                        format!("another bailey ban holds {LOCK} for {} s", PATIENCE.as_secs()),
                        "look for it (fuser -v), end it, and try again",
                    ));
                }
                Err((_, errno)) => return Err(wrong(&io::Error::from(errno))),
            }
        }
    }

    /// One of our own lists, as it is now; one that is not there is empty.
    pub(super) fn open(&self, name: &str) -> Result<Own, Failure> {
        check_name(name)?;
        let said = self.dir.join(name);
        let path = resolve(&said)?;
        let what = || format!("cannot change the list {}", said.display());
        let read = input::open(&path)
            .map_err(input::Trouble::from)
            .and_then(|file| input::read_small(&file, MOST_BYTES as u64));
        let (metadata, bytes) = match read {
            Ok((metadata, bytes)) => (Some(metadata), bytes),
            Err(input::Trouble::System(error)) if error.kind() == ErrorKind::NotFound => (None, Vec::new()),
            Err(why) => {
                return Err(Failure::site(
                    what(),
                    why.to_string(),
                    "repair it, or name another list (--list)",
                ));
            }
        };
        let list = if metadata.is_none() {
            List::default()
        } else {
            bans::parse(&bytes, Format::Ours).map_err(|faults| {
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                // Adding to it would leave the ban without effect, and hide that the list is broken.
                Failure::site(
                    format!("{}, which cannot be understood", what()),
                    first,
                    "repair it by hand, or name another list (--list NAME.toml)",
                )
            })?
        };
        let text = String::from_utf8(bytes).unwrap_or_default(); // it was read as UTF-8 already
        Ok(Own { name: name.to_owned(), path, metadata, text, list })
    }
}

/// A list of ours under the lock.
#[derive(Debug)]
pub(super) struct Own {
    /// Its name in the directory.
    pub(super) name: String,
    /// What it says now.
    pub(super) list: List,
    path: PathBuf,
    metadata: Option<Metadata>,
    text: String,
}

impl Own {
    /// The text with these bans behind it, and they themselves as they stand there.
    pub(super) fn with(&self, added: &str, bans: &[Ban]) -> Result<(String, Vec<Ban>), Failure> {
        let mut text = if self.text.trim().is_empty() { HEAD.to_owned() } else { self.text.clone() };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push('\n');
        text.push_str(added);
        let wanted: Vec<Ban> = self.list.bans.iter().chain(bans).cloned().collect();
        let mut new = self.check(&text, &wanted)?;
        Ok((text, new.split_off(self.list.bans.len())))
    }

    /// The text without these bans. Where two stand in one line, the check finds that one too many would go.
    pub(super) fn without(&self, gone: &[&Ban]) -> Result<String, Failure> {
        let lines: Vec<u32> = gone.iter().map(|ban| ban.line).collect();
        let text = cut(&self.text, &self.list.bans, &lines);
        let is_gone = |ban: &Ban| gone.iter().any(|gone| gone.line == ban.line && *gone == ban);
        let wanted: Vec<Ban> = self.list.bans.iter().filter(|ban| !is_gone(ban)).cloned().collect();
        self.check(&text, &wanted)?;
        Ok(text)
    }

    /// Rule 3.
    fn check(&self, text: &str, wanted: &[Ban]) -> Result<Vec<Ban>, Failure> {
        let refused = |why: String| {
            Failure::site(
                format!("cannot change the list {} without touching other entries", self.path.display()),
                why,
                "edit it by hand; every entry as a [[ban]] of its own makes it possible",
            )
        };
        match bans::parse(text.as_bytes(), Format::Ours) {
            Ok(list) if list.bans == wanted => Ok(list.bans),
            Ok(_) => Err(refused("it would say something else than was meant".to_owned())),
            Err(faults) => Err(refused(faults.first().map(ToString::to_string).unwrap_or_default())),
        }
    }

    /// Rule 2.
    pub(super) fn replace(&self, text: &str) -> Result<(), Failure> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(Failure::site(
                format!("cannot change the list {}", self.path.display()),
                "it has no name",
                "name another list (--list)",
            ));
        };
        if let Some(was) = &self.metadata {
            let same = std::fs::metadata(&self.path).is_ok_and(|is| {
                (is.dev(), is.ino(), is.len(), is.mtime(), is.mtime_nsec())
                    == (was.dev(), was.ino(), was.len(), was.mtime(), was.mtime_nsec())
            });
            if !same {
                return Err(Failure::site(
                    format!("cannot change the list {}", self.path.display()),
                    "somebody else has just changed it",
                    "run the command again",
                ));
            }
        }
        // A fixed name, as only one process is here; what one that was killed left is nobody's.
        let aside = dir.join(format!(".{}.new", name.to_string_lossy()));
        let wrote = self.write_aside(&aside, text).and_then(|()| std::fs::rename(&aside, &self.path));
        if let Err(error) = wrote {
            let _ = std::fs::remove_file(&aside);
            return Err(cannot_write(dir, &error));
        }
        // The rename itself is on the disk only with its directory.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| {
            Failure::site(
                format!("cannot make the change of {} durable", self.path.display()),
                io_text(&error),
                "it holds now; check the disk, it may be gone after a crash",
            )
        })
    }

    fn write_aside(&self, aside: &Path, text: &str) -> io::Result<()> {
        match std::fs::remove_file(aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
        file.write_all(text.as_bytes())?;
        let own = file.metadata()?;
        let mode = match &self.metadata {
            Some(was) => {
                if (was.uid(), was.gid()) != (own.uid(), own.gid()) {
                    std::os::unix::fs::fchown(&file, Some(was.uid()), Some(was.gid()))?;
                }
                was.mode() & 0o7777
            }
            None => 0o644,
        };
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    }
}

/// The name of a list that launchers would read.
fn check_name(name: &str) -> Result<(), Failure> {
    let is_plain = !name.contains('/') && Path::new(name).extension().is_some_and(|end| end == "toml");
    if is_plain && store::is_list_name(name) {
        return Ok(());
    }
    Err(Failure::usage(
        format!("cannot use the list '{name}'"),
        "only lists in bailey's own format are edited, and launchers must read it",
        "write a plain file name such as site.toml (--list)",
    ))
}

/// Where a list really is: a link stays one, and what it leads to is replaced.
fn resolve(said: &Path) -> Result<PathBuf, Failure> {
    let Ok(link) = said.symlink_metadata() else { return Ok(said.to_owned()) };
    if !link.is_symlink() {
        return Ok(said.to_owned());
    }
    let what = format!("cannot change the list {}", said.display());
    let mine = nix::unistd::geteuid().as_raw();
    if link.uid() != 0 && link.uid() != mine {
        // Root would replace whatever another account points at.
        return Err(Failure::site(
            what,
            format!("it is a symbolic link of uid {}", link.uid()),
            "replace it by a link of root's, or by the file itself",
        ));
    }
    std::fs::canonicalize(said).map_err(|error| {
        Failure::site(
            what,
            format!("its symbolic link leads to nothing: {}", io_text(&error)),
            "repair or remove the link",
        )
    })
}

/// Never through a link, and never another one's file: root may be here, in a directory of the recorder's account.
fn open_lock(path: &Path, dir: &Metadata) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits() | input::FLAGS.bits();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path);
    match made {
        Ok(file) => {
            if nix::unistd::geteuid().is_root() && dir.uid() != 0 {
                std::os::unix::fs::fchown(&file, Some(dir.uid()), Some(dir.gid()))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).custom_flags(flags).open(path)
        }
        Err(error) => Err(error),
    }
}

fn cannot_write(dir: &Path, error: &io::Error) -> Failure {
    let owner = std::fs::metadata(dir).map_or(0, |metadata| metadata.uid());
    let next = match error.kind() {
        ErrorKind::PermissionDenied if owner == 0 => "run it as root".to_owned(),
        ErrorKind::PermissionDenied => format!("run it as root, or as the account with uid {owner}"),
        ErrorKind::ReadOnlyFilesystem => {
            "change the list where it is distributed from, or name another directory (bans.dir)".to_owned()
        }
        ErrorKind::NotFound => format!("make it: install -d -m 0755 {}", dir.display()),
        _ => "check the directory and its disk".to_owned(),
    };
    Failure::site(format!("cannot change the ban lists in {}", dir.display()), io_text(error), next)
}

/// The text without the entries in these lines. An entry is its lines from `[[ban]]` to the last that is neither empty nor a
/// comment, and the comment directly above it.
fn cut(text: &str, bans: &[Ban], lines: &[u32]) -> String {
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    let mut keep = vec![true; all.len()];
    let at = |line: u32| (line as usize).saturating_sub(1);
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    for (index, ban) in bans.iter().enumerate().filter(|(_, ban)| lines.contains(&ban.line)) {
        let start = at(ban.line);
        let next = bans.get(index + 1).map_or(all.len(), |next| at(next.line));
        let body = all.get(start..next).unwrap_or_default();
        let length = body
            .iter()
            .rposition(|line| !line.trim().is_empty() && !is_comment(line))
            .map_or(1, |last| last + 1);
        let above = all.get(..start).unwrap_or_default();
        let comment = above.iter().rev().take_while(|line| is_comment(line)).count();
        // What begins at the file's first line is about the file.
        let mut from = if comment == start { start } else { start - comment };
        let mut end = start + length;
        // One empty line between the neighbours is enough.
        while from > 0 && all.get(end).is_some_and(|line| line.trim().is_empty()) {
            end += 1;
        }
        while end == all.len() && from > 0 && all.get(from - 1).is_some_and(|line| line.trim().is_empty()) {
            from -= 1;
        }
        for line in keep.iter_mut().take(end).skip(from) {
            *line = false;
        }
    }
    let rest: String = all.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(line, _)| *line).collect();
    // An empty file would be a list that was cut off.
    if rest.trim_start_matches('\u{feff}').trim().is_empty() { HEAD.to_owned() } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, lines: &[u32]) -> String {
        let bans = bans::parse(text.as_bytes(), Format::Ours).unwrap().bans;
        cut(text, &bans, lines)
    }

    #[test]
    fn an_entry_goes_with_its_comment_and_the_others_stay_as_they_are() {
        let text = "# ours\n\n[[ban]]\nvo = \"a\"\nreason = \"x\" # why\n\n# of b\n[[ban]]\nvo = \"b\"\n# within\nreason = \"y\"\n\n# apart\n\n# of c\n[[ban]]\nvo = \"c\"\nreason = \"z\"\n";
        assert_eq!(
            without(text, &[8]),
            "# ours\n\n[[ban]]\nvo = \"a\"\nreason = \"x\" # why\n\n# apart\n\n# of c\n[[ban]]\nvo = \"c\"\nreason = \"z\"\n"
        );
        assert_eq!(without(text, &[3]), text.replace("[[ban]]\nvo = \"a\"\nreason = \"x\" # why\n\n", ""));
        assert_eq!(without(text, &[3, 8, 16]), "# ours\n\n# apart\n");
        assert_eq!(without("[[ban]]\nvo = \"a\"\nreason = \"x\"\n", &[1]), HEAD);
        assert_eq!(without("[[ban]]\r\nvo = \"a\"\r\nreason = \"x\"\r\n# end\r\n", &[1]), "# end\r\n");
    }

    #[test]
    fn what_looks_like_an_entry_within_a_text_is_none() {
        let text = "[[ban]]\nvo = \"a\"\nreason = 'about [[ban]]'\n[[ban]]\nvo = \"b\"\nreason = \"y\"\n";
        assert_eq!(without(text, &[4]), "[[ban]]\nvo = \"a\"\nreason = 'about [[ban]]'\n");
    }
}
