//! Uids that are lent to one payload each: from a range of the site's where root calls, from the caller's subordinate uids
//! (subuid(5)) where the site wants that.
//!
//! 1. A uid is one payload's at a time. A lock says so, which the kernel frees when the launcher is gone, however it went.
//! 2. A uid is lent again only when everything that is known to have been its last payload's was given back or removed. What
//!    it was given is on the disk before it is given.
//! 3. Owners of files are changed by descriptors only, never through a symbolic link or a mount, and only of files that
//!    belong to the one uid that gives.
#![forbid(unsafe_code)]

mod pool;
mod root;
mod tree;

pub use pool::{Given, Note, Pool, Taken};
pub use root::lend;
pub use tree::{Kept, Sweep, chown_tree, open_directory, remove_tree};

use crate::failure::{Failure, errno_text};
use crate::sys::Errno;
use std::path::Path;

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
