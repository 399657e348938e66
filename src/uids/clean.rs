//! What dead launches left under uids that were lent: given back, removed, and the uids free again.
//!
//! 1. Only files that belong to such a uid are touched, and only below what it was given and the directories that the site
//!    declares (`uid.shared_dirs`). A uid whose payload lives is left alone.
//! 2. A uid is free only when nothing of it was left behind here.
#![forbid(unsafe_code)]

use super::pool::{Note, Pool, Taken};
use super::tree::{Kept, Sweep, open_directory, remove_tree};
use super::{root, still_there, sub};
use crate::config::Config;
use crate::failure::Failure;
use serde::Serialize;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// What became of one uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// The uid.
    pub uid: u32,
    /// The launch that had it.
    pub launch: String,
    /// The working directory that was given back, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// How many files and directories were removed from shared directories, or would be.
    pub removed: u64,
    /// It may be lent again.
    pub free: bool,
    /// Why it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whose uids these are, and how files of theirs are reached.
#[derive(Debug)]
pub enum Owner {
    /// Root's range; root has every right.
    Root,
    /// An account's subordinate uids.
    Account(sub::Account),
}

/// Cleans one pool. `dry`: only says what would be done.
///
/// # Errors
/// The notes cannot be read or written.
pub fn clean(pool: &Pool, owner: &Owner, config: &Config, dry: bool) -> Result<Vec<Cleaned>, Failure> {
    let mut found = Vec::new();
    for uid in pool.known()? {
        let Some(taken) = pool.take(uid)? else { continue };
        let Some(note) = taken.note()? else { continue };
        if let Owner::Root = owner
            && root::is_running(uid)?
        {
            let why = "a process of it lives".to_owned();
            found.push(row(uid, &note, 0, Some(why)));
            continue;
        }
        found.push(one(&taken, &note, owner, config, dry)?);
    }
    Ok(found)
}

fn row(uid: u32, note: &Note, removed: u64, why: Option<String>) -> Cleaned {
    Cleaned {
        uid,
        launch: note.launch.clone(),
        workdir: note.workdir.as_ref().map(|given| given.path.clone()),
        removed,
        free: why.is_none(),
        why,
    }
}

fn one(taken: &Taken, note: &Note, owner: &Owner, config: &Config, dry: bool) -> Result<Cleaned, Failure> {
    let uid = taken.uid;
    let mut after = note.clone();
    if !dry && note.workdir.is_some() {
        let kept = match owner {
            Owner::Root => root::give_back(taken)?,
            Owner::Account(account) => account.give_back(taken)?,
        };
        match taken.note()? {
            Some(now) if now.workdir.is_some() => return Ok(row(uid, note, 0, kept)),
            _ => after.workdir = None,
        }
    }
    let mut removed = 0;
    if note.shared {
        for dir in &config.uid.shared_dirs {
            let sweep = match owner {
                Owner::Root => remove_below(dir, uid, (0, 0), dry),
                Owner::Account(account) => account.remove_below(dir, uid, dry)?,
            };
            removed += sweep.done;
            if !sweep.is_whole() {
                return Ok(row(uid, note, removed, Some(still_there(dir, &sweep.kept))));
            }
        }
        after.shared = false;
    }
    if !dry {
        taken.write(&after)?;
    }
    Ok(row(uid, note, removed, None))
}

/// Removes what belongs to the uid below a declared directory.
pub(super) fn remove_below(dir: &Path, uid: u32, to: (u32, u32), dry: bool) -> Sweep {
    // The site may name it through a link; from there on none is followed.
    let opened = match std::fs::canonicalize(dir) {
        Ok(path) => open_directory(&path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Sweep::default(),
        Err(error) => {
            let kept = Kept { count: 1, first: Some(format!("{}: {error}", dir.display())) };
            return Sweep { kept, ..Sweep::default() };
        }
    };
    match opened {
        Ok((fd, _)) => remove_tree(fd.as_fd(), uid, to, dry),
        Err(errno) => Sweep::unopened(dir, Err(errno)),
    }
}
