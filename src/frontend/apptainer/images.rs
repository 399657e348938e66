//! What a call names as its image.
#![forbid(unsafe_code)]

use super::binds::absolute;
use super::words::not_understood;
use crate::failure::Failure;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Words before a colon that name no directory: what Apptainer fetches or unpacks.
const TRANSPORTS: [&str; 11] = [
    "docker",
    "oras",
    "library",
    "shub",
    "http",
    "https",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "containers-storage",
];

/// The directory.
///
/// # Errors
/// It is one of the kinds that bailey does not run.
pub(super) fn directory(image: &OsStr, cwd: Option<&Path>) -> Result<PathBuf, Failure> {
    let bytes = image.as_bytes();
    if bytes.is_empty() {
        return Err(not_understood("the image is an empty word"));
    }
    let transport = bytes
        .iter()
        .position(|byte| *byte == b':')
        .map(|colon| bytes.split_at(colon))
        .and_then(|(word, rest)| Some((std::str::from_utf8(word).ok()?, rest)));
    if let Some((word, rest)) = transport {
        if word == "instance" && rest.starts_with(b"://") {
            return Err(Failure::usage(
                format!("cannot use the image {}", image.display()),
                "there are no instances: every payload is a launch of its own",
                "name a directory that holds a root file system",
            ));
        }
        if TRANSPORTS.contains(&word) || rest.starts_with(b"://") {
            return Err(Failure::usage(
                format!("cannot use the image {}", image.display()),
                format!("bailey fetches and unpacks nothing, and so runs no {word}: image"),
                "name an unpacked directory, such as those below /cvmfs/unpacked.cern.ch or /cvmfs/singularity.opensciencegrid.org",
            ));
        }
    }
    absolute(bytes, cwd).map_err(|why| {
        Failure::usage(
            format!("cannot use the image {}", image.display()),
            why,
            "name it with its whole path",
        )
    })
}
