//! Uids that are lent to one payload each: from a range of the site's where root calls, from the caller's subordinate uids
//! (subuid(5)) where the site wants that.
//!
//! 1. A uid is one payload's at a time. A lock says so, which the kernel frees when the launcher is gone, however it went.
//! 2. A uid is lent again only when everything that is known to have been its last payload's was given back or removed. What
//!    it was given is on the disk before it is given.
//! 3. Owners of files are changed by descriptors only, never through a symbolic link or a mount, and only of files that
//!    belong to the one uid that gives.
#![forbid(unsafe_code)]

mod clean;
mod pool;
mod root;
mod sub;
mod tree;

pub use clean::{Cleaned, Owner, clean};
pub use pool::{Given, Note, Pool, Taken};
pub use root::{lend, log_dir, warnings};
pub use sub::{Account, Lease, subordinate};
pub use tree::{Kept, Sweep, chown_tree, open_directory, remove_tree};

use crate::config::Config;
use crate::failure::{Failure, errno_text};
use crate::request::Request;
use crate::sandbox::layout;
use crate::sys::Errno;
use std::path::{Path, PathBuf};

/// What a uid still has, so that it cannot be lent again.
fn still_there(path: &Path, kept: &Kept) -> String {
    let first = kept.first.as_deref().unwrap_or("?");
    match kept.count {
        1 => format!("one file below {} could not be changed: {first}", path.display()),
        more => format!("{more} files below {} could not be changed, the first: {first}", path.display()),
    }
}

fn cannot(what: impl Into<String>, errno: Errno, next: impl Into<String>) -> Failure {
    Failure::site(what, errno_text(errno), next)
}

/// What of a working directory stays the pilot's: files that are credentials by their names, which no payload sees.
fn pilots(workdir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let below = |path: PathBuf| path.strip_prefix(workdir).ok().map(Path::to_path_buf);
    Ok(layout::pilot_files(workdir)?.into_iter().filter_map(below).collect())
}

/// Whether the payload may write to directories beside its own. One that is not declared is refused: nobody would look there
/// for what the uid left.
fn shares(request: &Request, config: &Config) -> Result<bool, Failure> {
    let mut shared = false;
    for bind in request.binds.iter().filter(|bind| bind.writable) {
        let Ok(source) = std::fs::canonicalize(&bind.source) else { continue }; // it is refused where it is opened
        if !source.is_dir() {
            continue; // in a file nothing can be left
        }
        if !is_below(&source, &config.uid.shared_dirs, true) {
            return Err(unshared(&bind.source));
        }
        shared = true;
    }
    Ok(shared)
}

/// A directory in which nobody would look for what the uid left.
pub(crate) fn unshared(source: &Path) -> Failure {
    Failure::refused(
        format!("refused the writable bind of {}", source.display()),
        "the payload has a uid of its own, and what it leaves there would not be found",
        "bind it read-only, use --workdir, or let the site name it in uid.shared_dirs",
    )
}

/// Each refusal of a uid, for the list of what users read.
#[cfg(test)]
pub(crate) fn refusals() -> Vec<Failure> {
    let dir = Path::new("/scratch/job");
    let mut all =
        vec![unshared(dir), root::undeclared(dir), root::of_another(dir, 70_001), sub::none_free(12, 3)];
    all.extend(crate::request::UidRange::of(70_000, 16).map(|range| root::none_free(range, 15, 1)));
    all
}

/// Whether a canonical path is below one of these directories, or is one of them.
pub(crate) fn is_below(path: &Path, dirs: &[PathBuf], or_equal: bool) -> bool {
    let canonical = dirs.iter().filter_map(|dir| std::fs::canonicalize(dir).ok());
    canonical.into_iter().any(|dir| path.starts_with(&dir) && (or_equal || path != dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_is_below() {
        let scratch = crate::input::tests::Scratch::new();
        let (a, ab) = (scratch.0.join("a"), scratch.0.join("ab"));
        std::fs::create_dir_all(a.join("x")).unwrap();
        std::fs::create_dir_all(&ab).unwrap();
        let dirs = [a.clone()];
        assert!(is_below(&a.join("x"), &dirs, false));
        assert!(!is_below(&a, &dirs, false) && is_below(&a, &dirs, true));
        assert!(!is_below(&ab, &dirs, true));
    }
}
