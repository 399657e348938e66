//! Copies of records to the system journal, through tracing and tracing-journald. Never the guarantee: that layer drops what it
//! cannot send.
//!
//! Nothing is made when the copies are off, and no subscriber is ever set for the whole program.
#![forbid(unsafe_code)]

use tracing_subscriber::layer::SubscriberExt as _;

use super::record::{Action, Record};
use crate::config::Journald;

/// What became of one copy: the word for `grid.sandbox.journald` or for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// Not asked for, or not for this kind of record.
    Off,
    /// Handed to the journal.
    Sent,
    /// The journal cannot be reached; the text says why.
    Unreachable(String),
}

impl Copied {
    /// `on`, `off`, or the reason.
    pub fn word(&self) -> &str {
        match self {
            Self::Off => "off",
            Self::Sent => "on",
            Self::Unreachable(why) => why,
        }
    }
}

/// Whether copies have anywhere to go on this host, for `grid.sandbox.journald`.
pub fn state() -> String {
    match std::fs::metadata("/run/systemd/journal/socket") {
        Ok(_) => "on".to_owned(),
        Err(error) => format!("off: no journal here: {}", crate::failure::io_text(&error)),
    }
}

/// Copies one line, as it stands in the log, where the site asks for it.
pub fn copy(mode: Journald, record: &Record, line: &[u8]) -> Copied {
    let wanted = match mode {
        Journald::Off => false,
        // A list of what is live comes often, is long, and attests nothing; a check comes every few minutes.
        Journald::Checkpoints => {
            record.event.action.is_log_life()
                && !matches!(record.event.action, Action::LiveList | Action::HealthCheck)
        }
        Journald::All => true,
    };
    if !wanted {
        return Copied::Off;
    }
    let layer = match tracing_journald::layer() {
        Ok(layer) => {
            layer.with_syslog_identifier("bailey".to_owned()).with_field_prefix(Some("BAILEY".to_owned()))
        }
        Err(error) => return Copied::Unreachable(format!("no journal here: {error}")),
    };
    let json = String::from_utf8_lossy(line);
    let id = record.event.id.as_deref().unwrap_or_default();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(launch = id, record = %json, "{}", sentence(record.event.action));
    });
    Copied::Sent
}

/// [`copy`] of lines that the log wrote by itself.
pub fn copy_own(mode: Journald, lines: &[Vec<u8>]) {
    if mode == Journald::Off {
        return;
    }
    for line in lines {
        if let Ok(record) = serde_json::from_slice(line) {
            copy(mode, &record, line);
        }
    }
}

/// The journal's MESSAGE.
fn sentence(action: Action) -> &'static str {
    match action {
        Action::PayloadLaunch => "a payload is about to run",
        Action::PayloadEnd => "a payload ended",
        Action::PayloadDeny => "a payload was refused",
        Action::PayloadNotice => "a payload's user was given notice",
        Action::PayloadIdentity => "a payload's user became known",
        Action::PayloadStop => "a payload is being stopped",
        Action::LaunchFailed => "a payload could not be started",
        Action::SegmentOpen => "a segment of the audit log begins",
        Action::LogRepair => "the end of the audit log was torn by a crash and is repaired",
        Action::Checkpoint => "checkpoint of the audit log",
        Action::RecorderStart => "the recorder serves",
        Action::RecorderStop => "the recorder ends",
        Action::HostRestart => "the host went down while the recorder served",
        Action::LiveList => "the launches that are live",
        Action::LogPrune => "old segments of the audit log are removed",
        Action::Query => "somebody asked the audit log",
        Action::NodeDrain => "the node's drain flag changed",
        Action::BanChange => "a list of who is suspended changed",
        Action::HealthCheck => "somebody checked whether a payload could run",
        Action::ConfigChange => "the recorder's configuration changed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Host;
    use super::*;
    use crate::request::LaunchId;

    #[test]
    fn only_what_is_asked_for_is_copied() {
        let launch = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [0; 10]));
        let segment = Record::of_log(Action::SegmentOpen, Host::default());
        assert_eq!(copy(Journald::Off, &segment, b"{}"), Copied::Off);
        assert_eq!(copy(Journald::Checkpoints, &launch, b"{}"), Copied::Off);
        // Whether there is a journal depends on the host; that there is none must not be an error.
        for (mode, record) in [(Journald::Checkpoints, &segment), (Journald::All, &launch)] {
            assert_ne!(copy(mode, record, b"{}"), Copied::Off);
        }
    }
}
