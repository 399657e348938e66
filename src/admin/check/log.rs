//! Where records go, who could change them there, and how much room there is.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Row, State, Wanted};
use crate::config::{Config, Demand};
use crate::host::Caller;
use crate::probe::{Findings, Part};

/// Less than this beside the reserve is soon none.
const LITTLE: u64 = 256 << 20;

pub(super) fn rows(found: &Findings, config: &Config, caller: &Caller) -> Vec<Row> {
    let mut rows = vec![recorder(found, config, caller), receipt(found)];
    let used = if found.embedded { found.log_dir.clone() } else { Some(config.recorder.dir.clone()) };
    if found.embedded
        && let Some(dir) = &found.log_dir
    {
        rows.push(
            Row::new("log", "log_directory", Wanted::Info, State::Weaker)
                .why(format!(
                    "{} on {}: this account writes it, and so can change it",
                    dir.display(),
                    crate::audit::segment::file_system(dir)
                ))
                .change("systemctl enable --now bailey-recorder.socket, and audit.recorder = \"required\""),
        );
    }
    let is_recorders = found.recorder.as_deref().is_some_and(|state| state.starts_with("on"));
    if let Some(dir) = used.filter(|_| found.embedded || is_recorders) {
        rows.push(space(&dir));
    }
    rows
}

fn recorder(found: &Findings, config: &Config, caller: &Caller) -> Row {
    let wanted = Wanted::from(config.audit.recorder);
    let row = |state| Row::new("log", "recorder", wanted, state);
    let socket = config.audit.socket.display();
    let state = found.recorder.as_deref().unwrap_or_default();
    if let Some(writer) = state.strip_prefix("on: ") {
        let account = writer.strip_prefix("recorder-").and_then(|uid| uid.parse::<u32>().ok());
        return match account {
            Some(uid) if uid == caller.uid => row(State::Weaker)
                .why(format!("{writer} at {socket} runs as this very account, which can change its log"))
                .change("run it as an account of its own (bailey-recorder.service)"),
            Some(uid) => row(State::On).why(format!("{writer} at {socket}, the log of uid {uid}")),
            None => row(State::On).why(format!("{writer} at {socket}")),
        };
    }
    if config.audit.recorder == Demand::Off {
        return row(State::Off)
            .why("the site's configuration")
            .change("audit.recorder = \"required\" in /etc/bailey/bailey.toml");
    }
    let trouble = found.troubles.iter().find(|trouble| trouble.part == Part::Log);
    if let Some(why) = state.strip_prefix("off: ") {
        return row(State::Off).why(why).change("systemctl enable --now bailey-recorder.socket");
    }
    match trouble {
        Some(trouble) => {
            row(State::Off).why(format!("{}: {}", trouble.what, trouble.why)).change(trouble.next.clone())
        }
        None => row(State::Unknown).why("it was not asked"),
    }
}

fn receipt(found: &Findings) -> Row {
    let row = |state| Row::new("log", "receipt", Wanted::Required, state);
    if let Some(seq) = found.receipt {
        return row(State::On).why(format!("record {seq} is this check's, and is on the disk"));
    }
    if let Some(trouble) = found.troubles.iter().find(|trouble| trouble.part == Part::Log) {
        return row(State::Off)
            .why(format!("{}: {}", trouble.what, trouble.why))
            .change(trouble.next.clone());
    }
    row(State::Unknown).why(match (&found.draining, &found.unproven) {
        (Some(_), _) => "the node is drained: nobody gets one".to_owned(),
        (_, Some(why)) => why.clone(),
        _ => "no payload stood to ask for it".to_owned(),
    })
}

fn space(dir: &Path) -> Row {
    let row = |state| Row::new("log", "log_space", Wanted::Preferred, state);
    // A log that is not made yet will be on the file system of what there is.
    let there =
        dir.ancestors().find(|dir| dir.exists()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    match statvfs(&there) {
        Ok(vfs) if vfs.blocks() == 0 => row(State::On).why(format!("{} has no limit", there.display())),
        Ok(vfs) => {
            let free = vfs.blocks_available().saturating_mul(vfs.fragment_size());
            let why = format!("{} MiB free on the file system of {}", free >> 20, there.display());
            if free < LITTLE {
                row(State::Weaker)
                    .why(format!("{why}; launches are refused before it is full"))
                    .change("free space there, or lower retention.days or retention.size")
            } else {
                row(State::On).why(why)
            }
        }
        Err(errno) => {
            row(State::Unknown).why(format!("{}: {}", there.display(), crate::failure::errno_text(errno)))
        }
    }
}
