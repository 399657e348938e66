//! Indexes: for each segment `DAY.NNN.ndjson` a file `DAY.NNN.idx` beside it, and for all of them `segments.idx`.
//!
//! 1. An index is a cache. It may vanish, be cut, be of another segment or of garbage: then it is built anew from the segment, in
//!    memory, and written back where the directory can be written. Nothing that bailey promises rests on it.
//! 2. Everything in it is under a checksum that is looked at before the bytes are believed, and every number in it is checked
//!    before it is used. What it names is read from the segment and compared before it is shown.
//! 3. It covers a segment up to some line, and holds that line's hash: of a segment that still grows, the rest is read.
//!
//! What it cannot show: a line inside the segment that was changed after the index was made. The chain shows that.
//!
//! ```text
//! file      "BLYIDX02"  u32 length of the head  checksum of the head  HEAD  sections…
//! checksum  the first 16 bytes of the SHA-256
//! HEAD      SUMMARY  u32 number of sections, for each: u32 kind  u64 offset in the file  u64 length  checksum
//! catalog   "BLYCAT02"  u32 length  checksum  u32 number of entries, for each:
//!           text name of the segment  i64 i64 its modification time (seconds, nanoseconds)  SUMMARY
//! text      u32 length, bytes (UTF-8)
//! time      i64 seconds  u32 nanoseconds
//! ```
//!
//! Numbers are little-endian. The sections are in [`table`], the summary in [`summary`].
#![forbid(unsafe_code)]

pub mod build;
mod bytes;
pub mod catalog;
pub mod file;
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) mod fuzz;
pub mod summary;
pub mod table;

use std::path::Path;

use nix::fcntl::OFlag;

use crate::audit::segment::{Directory, io_failure, parse_name, unread};
use crate::failure::Failure;

/// Makes the index of `segment` in `dir` and writes it beside it, or extends the one that is there. Also of a segment that still
/// grows: the recorder calls it when a segment is closed, and may call it now and then before.
pub fn write_for(dir: &Path, segment: &str) -> Result<(), Failure> {
    let directory = Directory::for_reading(dir)?;
    let wrong = |error: &std::io::Error| io_failure("index", &dir.join(segment), error);
    let source = directory
        .open(segment, OFlag::O_RDONLY)
        .map_err(|errno| unread(&directory.path().join(segment), &errno.into()))?;
    let index = file::build(&directory, segment, &source).map_err(|error| wrong(&error))?;
    file::write(&directory, segment, &source, &index)
        .map_err(|error| io_failure("write the index of", &dir.join(segment), &error))?;
    catalog::note(&directory, segment, &source, index.summary())
        .map_err(|error| io_failure("write", &dir.join(catalog::NAME), &error))?;
    forget_removed(&directory)
}

/// Removes the indexes of segments that are gone: retention is for them too.
pub fn forget_removed(directory: &Directory) -> Result<(), Failure> {
    let names = directory.segments()?;
    let entries = std::fs::read_dir(directory.path()).map_err(|error| unread(directory.path(), &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unread(directory.path(), &error))?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".idx")) else { continue };
        let segment = format!("{stem}.ndjson");
        if parse_name(&segment).is_some() && !names.contains(&segment) {
            std::fs::remove_file(entry.path()).map_err(|error| {
                io_failure("remove the index of a removed segment,", &entry.path(), &error)
            })?;
        }
    }
    Ok(())
}

/// `DAY.NNN.idx` for `DAY.NNN.ndjson`.
fn index_name(segment: &str) -> String {
    format!("{}.idx", segment.strip_suffix(".ndjson").unwrap_or(segment))
}
