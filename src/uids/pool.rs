//! Which uids are lent: a file for each in one directory, locked while its payload's launcher lives, with a note of what the
//! uid was given.
#![forbid(unsafe_code)]

use crate::failure::{Failure, io_text};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A longer note is not one of ours.
const LONGEST: u64 = 64 << 10;

/// A directory that was given to a uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Canonical path.
    pub path: PathBuf,
    /// Its inode. (The number of its device changes from boot to boot.)
    pub ino: u64,
    /// Whose it was.
    pub owner: (u32, u32),
}

/// What a uid was given, and might have left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The launch.
    pub launch: String,
    /// The gid that goes with the uid.
    pub gid: u32,
    /// Its working directory, until that is given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<Given>,
    /// It could write to directories that are not only its own.
    #[serde(default)]
    pub shared: bool,
}

impl Note {
    /// Whether the uid may be lent again as it stands.
    pub const fn is_settled(&self) -> bool {
        self.workdir.is_none() && !self.shared
    }
}

/// The directory.
#[derive(Debug)]
pub struct Pool {
    dir: PathBuf,
}

/// A uid whose lock is held, as long as this value lives.
#[derive(Debug)]
pub struct Taken {
    /// The uid.
    pub uid: u32,
    file: Arc<File>,
}

impl Taken {
    /// The lock itself. The payload's init holds it too, because it is the last of the payload's to go.
    pub fn lock(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// What stands about it; a note that is not whole counts as that of a uid that could write anywhere.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn note(&self) -> Result<Option<Note>, Failure> {
        let failed = |error: &std::io::Error| self.failed("read", error);
        let mut file = &*self.file;
        file.rewind().map_err(|error| failed(&error))?;
        let mut text = String::new();
        match file.take(LONGEST).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => "?".clone_into(&mut text),
            Err(error) => return Err(failed(&error)),
        }
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text).unwrap_or(Note { shared: true, ..Note::default() })))
    }

    /// Writes it down, durable: what is given must be found after a crash of the host too. A settled note leaves nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, note: &Note) -> Result<(), Failure> {
        let mut text = Vec::new();
        if !note.is_settled() {
            text = serde_json::to_vec(note).map_err(|error| self.failed("write", &error.into()))?;
        }
        let mut file = &*self.file;
        // Overwritten before it is cut: a crash in between leaves no empty note.
        let written = file
            .rewind()
            .and_then(|()| file.write_all(&text))
            .and_then(|()| file.set_len(text.len() as u64))
            .and_then(|()| file.sync_data());
        written.map_err(|error| self.failed("write", &error))
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Failure {
        Failure::site(
            format!("cannot {what} what is noted of uid {}", self.uid),
            io_text(error),
            "look at the disk of the directory with bailey's uids (docs/uids.md)",
        )
    }
}

impl Pool {
    /// The pool in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or others than its owner could change it.
    pub fn open(dir: &Path, owner: u32) -> Result<Self, Failure> {
        let what = || format!("cannot use the directory of uids {}", dir.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let found = made.and_then(|()| dir.symlink_metadata());
        let found = found.map_err(|error| {
            Failure::site(what(), io_text(&error), format!("make it, owned by uid {owner}, with mode 0700"))
        })?;
        if !found.is_dir() || found.uid() != owner || found.mode() & 0o022 != 0 {
            return Err(Failure::site(
                what(),
                format!("it must be a directory that only uid {owner} may change"),
                format!("chown {owner} {0} && chmod 0700 {0}", dir.display()),
            ));
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The pool, where there is one already.
    ///
    /// # Errors
    /// As [`Pool::open`].
    pub fn existing(dir: &Path, owner: u32) -> Result<Option<Self>, Failure> {
        if dir.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Self::open(dir, owner).map(Some)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes a uid; `None`: a payload has it.
    ///
    /// # Errors
    /// Its file cannot be made or locked.
    pub fn take(&self, uid: u32) -> Result<Option<Taken>, Failure> {
        let path = self.dir.join(uid.to_string());
        let failed = |error: &std::io::Error| {
            Failure::site(
                format!("cannot take the uid {uid} in {}", self.dir.display()),
                io_text(error),
                "look at the directory and its disk",
            )
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Taken { uid, file: Arc::new(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(&error)),
        }
    }

    /// Every uid that has a file, in order.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn known(&self) -> Result<Vec<u32>, Failure> {
        let failed = |error: &std::io::Error| {
            Failure::site(
                format!("cannot read the directory of uids {}", self.dir.display()),
                io_text(error),
                "look at the directory and its disk",
            )
        };
        let mut known = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            known.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        known.sort_unstable();
        Ok(known)
    }
}
