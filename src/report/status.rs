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

#[derive(Serialize)]
struct File<'a> {
    version: u32,
    id: &'a str,
    bailey: &'static str,
    #[serde(flatten)]
    status: &'a Status,
}

/// Writes the file whole or not at all: a new file beside it, then a rename over it.
pub(super) fn write(path: &Path, id: LaunchId, status: &Status) -> Result<(), Failure> {
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
    let text = text(id, status).map_err(cannot)?;
    let aside = dir.join(format!(".{}.{id}", name.to_string_lossy()));
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&aside)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| std::fs::rename(&aside, path));
    result.map_err(|error| {
        let _ = std::fs::remove_file(&aside);
        cannot(io_text(&error))
    })
}

/// Writes it into a file that was opened, and emptied, while bailey was root: the uid that it has now may not make one there.
pub(super) fn write_open(
    mut file: &std::fs::File,
    path: &Path,
    id: LaunchId,
    status: &Status,
) -> Result<(), Failure> {
    let written = text(id, status).and_then(|text| file.write_all(&text).map_err(|error| io_text(&error)));
    written.map_err(|why| {
        Failure::usage(
            format!("cannot write the status file {}", path.display()),
            why,
            "look at the disk that it is on",
        )
    })
}

fn text(id: LaunchId, status: &Status) -> Result<Vec<u8>, String> {
    let file = File { version: 1, id: id.as_str(), bailey: env!("CARGO_PKG_VERSION"), status };
    let mut text = serde_json::to_vec(&file).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

/// Refuses a status file that could not be written later, before anything runs.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
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
