//! `--status-file`: one JSON object that tells bailey's own codes from a payload's equal ones, for pilots.
#![forbid(unsafe_code)]

use super::fault;
use crate::failure::{Failure, Fault, io_text};
use crate::request::LaunchId;
use serde::Serialize;
use std::io::Write as _;
use std::path::Path;

/// How the launch ended. Documented in docs/status-file.md.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// `ended`: the payload ran. `refused` or `failed`: nothing ran.
    pub state: &'static str,
    /// The exit code of bailey.
    pub exit_code: u8,
    /// True when `exit_code` is one of bailey's own (120 to 127) and not the payload's.
    pub from_bailey: bool,
    /// Who can cure it, when something went wrong: `site` (retry elsewhere) or `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What ended the payload, in the words of `grid.end.by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<&'static str>,
    /// The sentence that was printed, or how it ended.
    pub message: String,
    /// Whom the user asks, in the VO, where the site knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The payload's process, when it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// The payload's end.
#[derive(Debug, Clone, Serialize)]
pub struct Payload {
    /// pid on the host.
    pub pid: i32,
    /// Its exit code, if it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal's name, if it was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// From release to end.
    pub wall_seconds: f64,
}

impl Status {
    /// Nothing ran.
    pub fn not_run(failure: &Failure) -> Self {
        let refused = matches!(failure.code.exit_code(), 120 | 121);
        Self {
            state: if refused { "refused" } else { "failed" },
            exit_code: failure.code.exit_code(),
            from_bailey: true,
            fault: Some(fault(failure)),
            ended_by: None,
            message: failure.to_string(),
            contact: failure.incident.as_ref().and_then(|incident| incident.contact.clone()),
            payload: None,
        }
    }
}

/// What the file says.
#[derive(Serialize)]
pub(super) struct File<'a> {
    version: u32,
    id: &'a str,
    bailey: &'static str,
    #[serde(flatten)]
    status: &'a Status,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    unheeded: &'a [String],
}

impl<'a> File<'a> {
    /// Of one launch. `unheeded`: what was asked for and not done.
    pub(super) fn new(id: &'a LaunchId, status: &'a Status, unheeded: &'a [String]) -> Self {
        Self { version: 1, id: id.as_str(), bailey: env!("CARGO_PKG_VERSION"), status, unheeded }
    }

    fn text(&self) -> Result<Vec<u8>, String> {
        let mut text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Writes the file whole or not at all: a new file beside it, then a rename over it; or, where it is to be `new`, a second name
/// for it, which replaces nothing.
pub(super) fn write(path: &Path, content: &File<'_>, new: bool) -> Result<(), Failure> {
    let cannot = |why: String| {
        Failure::usage(
            format!("cannot write the status file {}", path.display()),
            why,
            "name a file in an existing directory that this uid may write",
        )
    };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(cannot("it names no file".to_owned()));
    };
    let text = content.text().map_err(cannot)?;
    let aside = dir.join(format!(".{}.{}", name.to_string_lossy(), content.id));
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&aside)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| if new { std::fs::hard_link(&aside, path) } else { std::fs::rename(&aside, path) });
    if new || result.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    result.map_err(|error| cannot(io_text(&error)))
}

/// Writes it into a file that was opened, and emptied, while bailey was root: the uid that it has now may not make one there.
pub(super) fn write_open(mut file: &std::fs::File, path: &Path, content: &File<'_>) -> Result<(), Failure> {
    let written = content.text().and_then(|text| file.write_all(&text).map_err(|error| io_text(&error)));
    written.map_err(|why| {
        Failure::usage(
            format!("cannot write the status file {}", path.display()),
            why,
            "look at the disk that it is on",
        )
    })
}

/// Refuses a status file that could not be written later, before anything runs.
pub(super) fn check(path: &Path, new: bool) -> Result<(), Failure> {
    let cannot = |why: &str| {
        Err(Failure::usage(
            format!("cannot use the status file {}", path.display()),
            why,
            "name a file in an existing directory that this uid may write",
        ))
    };
    if path.is_dir() {
        return cannot("it is a directory");
    }
    if new && path.symlink_metadata().is_ok() {
        return cannot("it is there already, and BAILEY_STATUS_FILE replaces nothing");
    }
    let Some(dir) = path.parent().filter(|_| path.file_name().is_some()) else {
        return cannot("it names no file");
    };
    if dir.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        return cannot(&crate::failure::errno_text(nix::errno::Errno::ENOTDIR));
    }
    match nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(errno) => cannot(&crate::failure::errno_text(errno)),
    }
}
