//! The log of one launch: the node's recorder where there is one, else the embedded log. The rest of the house does not care
//! which.
//!
//! Which one it is, is decided once, when the log is opened, by `audit.recorder`; after that there is no way from one to the
//! other, because a launch has one chain of records.
#![forbid(unsafe_code)]

use super::records;
use crate::audit::client::{Absent, Client, Order};
use crate::audit::log::{Durability, EmbeddedLog, LiveSlot, LogOptions};
use crate::audit::record::{Host, Record};
use crate::audit::time::Timestamp;
use crate::audit::{CheckReceipt, Receipt, journal};
use crate::config::{Audit, Demand, Journald};
use crate::failure::Failure;
use crate::request::LaunchId;
use crate::sandbox::Handover;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// An open log.
#[derive(Debug)]
pub(super) struct Book {
    kind: Kind,
    journald: Journald,
    recorder: String,
    launched: bool,
    refused: bool,
}

#[derive(Debug)]
enum Kind {
    Recorder(Box<Client>),
    Embedded(Box<EmbeddedLog>, Option<LiveSlot>),
}

impl Book {
    /// Opens the log that the site wants.
    pub(super) fn open(
        audit: &Audit,
        uid: u32,
        node: &Host,
        embedded_dir: &dyn Fn() -> Result<PathBuf, Failure>,
    ) -> Result<Self, Failure> {
        let book = |kind, recorder: String| Self {
            kind,
            journald: audit.journald,
            recorder,
            launched: false,
            refused: false,
        };
        let why = match audit.recorder {
            Demand::Off => "off: the site's configuration".to_owned(),
            demand => match Client::open(&audit.socket, audit.wait, demand == Demand::Required) {
                Ok(client) => {
                    let state = format!("on: {}", client.writer());
                    return Ok(book(Kind::Recorder(Box::new(client)), state));
                }
                Err(Absent::Silent(failure)) if demand == Demand::Required => return Err(failure),
                Err(Absent::Silent(failure)) => format!("off: {failure}"),
                Err(Absent::NotThere) => format!("off: there is none at {}", audit.socket.display()),
            },
        };
        let options = LogOptions {
            wait: audit.wait,
            network_filesystem: audit.network_filesystem,
            writer: format!("embedded-{uid}"),
            host: node.clone(),
            clock: Timestamp::now,
        };
        let mut log = EmbeddedLog::open(&embedded_dir()?, options)?;
        // The ends of lost launches are copied also when this launch comes to nothing.
        journal::copy_own(audit.journald, &log.take_own_lines());
        Ok(book(Kind::Embedded(Box::new(log), None), why))
    }

    /// Whether the launcher writes the log itself.
    pub(super) const fn is_embedded(&self) -> bool {
        matches!(self.kind, Kind::Embedded(..))
    }

    /// For `grid.sandbox.recorder`: `on: WRITER`, or `off` and why.
    pub(super) fn recorder_state(&self) -> &str {
        &self.recorder
    }

    /// The payload stands frozen, and its record is about to be made: whoever has to look at it too may begin.
    pub(super) fn hand_over(&mut self, id: LaunchId, payload: BorrowedFd<'_>, handover: &Handover<'_>) {
        if let Kind::Recorder(client) = &mut self.kind {
            client.hand_over(id, payload, handover.init, &handover.namespaces);
        }
    }

    /// Makes the launch record durable.
    pub(super) fn launch(
        &mut self,
        record: &Record,
        id: LaunchId,
        nested: bool,
        payload: OwnedFd,
        handover: &Handover<'_>,
    ) -> Result<Receipt, Failure> {
        let result = match &mut self.kind {
            Kind::Recorder(client) => {
                client.launch(record, id, nested, payload, handover.init, &handover.namespaces)
            }
            Kind::Embedded(log, slot) => log.append_launch(record, id, payload).map(|(receipt, live)| {
                *slot = Some(live);
                receipt
            }),
        };
        self.launched = result.is_ok();
        // What no log takes the recorder has not seen.
        self.refused =
            matches!((&self.kind, &result), (Kind::Recorder(_), Err(failure)) if !failure.is_too_large());
        self.copy(record);
        result
    }

    /// Makes a record of a check durable as the launch record `claim` would be made. The receipt releases nothing;
    /// or why there is none although nothing is wrong.
    pub(super) fn check(
        &mut self,
        claim: &Record,
        id: LaunchId,
        payload: BorrowedFd<'_>,
        handover: &Handover<'_>,
    ) -> Result<Result<CheckReceipt, String>, Failure> {
        match &mut self.kind {
            Kind::Recorder(client) => client.check(claim, id, payload, handover.init, &handover.namespaces),
            Kind::Embedded(log, _) => {
                let record = records::check(claim);
                let position = log.append(&record, Durability::Synced)?;
                self.copy(&record);
                Ok(Ok(CheckReceipt { seq: position.seq, hash: position.hash }))
            }
        }
    }

    /// Why the node takes no new payloads, as the recorder said.
    pub(super) fn draining(&self) -> Option<&str> {
        match &self.kind {
            Kind::Recorder(client) => client.draining(),
            Kind::Embedded(..) => None,
        }
    }

    /// Writes the record that closes the launch, or the one record of a launch that came to nothing.
    pub(super) fn close(
        &mut self,
        record: &Record,
        id: LaunchId,
        durability: Durability,
    ) -> Result<(), Failure> {
        match &mut self.kind {
            Kind::Recorder(client) => client.close(record, id)?,
            Kind::Embedded(log, slot) => {
                match slot.take() {
                    Some(slot) => log.append_end(record, slot, durability)?,
                    None => log.append(record, durability)?,
                };
            }
        }
        self.launched = false;
        self.copy(record);
        Ok(())
    }

    /// Writes a record beside launch and end. One that fails cannot be helped; the end record will say it.
    pub(super) fn note(&mut self, record: &Record, id: LaunchId) {
        match &mut self.kind {
            Kind::Recorder(client) => client.note(record, id),
            Kind::Embedded(log, _) => {
                if log.append(record, Durability::Written).is_ok() {
                    self.copy(record);
                }
            }
        }
    }

    /// A launch record stands that is not closed.
    pub(super) fn is_launched(&self) -> bool {
        self.launched
    }

    /// The same, or one is written that could not be made durable.
    pub(super) fn owes_an_end(&self) -> bool {
        self.launched || matches!(&self.kind, Kind::Embedded(log, _) if log.owes_an_end())
    }

    /// The recorder refused the launch, and recorded that itself.
    pub(super) fn has_refused(&self) -> bool {
        self.refused
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Recorder(client) => client.descriptor(),
            Kind::Embedded(..) => None,
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Recorder(client) => client.wake_at(),
            Kind::Embedded(..) => None,
        }
    }

    /// What became of an order.
    pub(super) fn obeyed(&mut self, id: LaunchId, held: bool, within: Option<std::time::Duration>) {
        if let Kind::Recorder(client) = &mut self.kind {
            client.obeyed(id, held, within);
        }
    }

    pub(super) fn orders(&mut self) -> Vec<Order> {
        match &mut self.kind {
            Kind::Recorder(client) => client.orders(),
            Kind::Embedded(..) => Vec::new(),
        }
    }

    /// Copies to the journal what the embedded log wrote; the recorder copies its own. What the log wrote by itself meanwhile
    /// comes first, as it does in the log.
    fn copy(&mut self, record: &Record) {
        let Kind::Embedded(log, _) = &mut self.kind else { return };
        journal::copy_own(self.journald, &log.take_own_lines());
        journal::copy(self.journald, record, log.last_line());
    }
}
