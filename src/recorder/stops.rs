//! Orders to stop a payload: asked for by an administrator, recorded, passed on, and watched until they are carried out.
//!
//! 1. The record comes before the order: the log has the cause before the effect.
//! 2. An order stands until the payload ended, over broken connections and restarts: its record and the live list have it.
//! 3. A launcher that does not do what it was told is named in the log.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::log::Live;
use super::payloads::{COME_BACK, gone};
use super::records::{self, Asker};
use super::requests::is_administrator;
use super::server::{After, Server};
use crate::audit::record::StopBy;
use crate::audit::wire::{self, Message};
use crate::failure::Failure;
use crate::request::LaunchId;

/// How long a launcher may take to answer an order, and longer than it promised to carry it out.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to keep a payload's files before it ends it.
const PRESERVE: Duration = Duration::from_secs(900);

/// The last stop that was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) order: wire::Stop,
    /// The launcher was told: it was connected. Else it is told when it comes back.
    pub(super) sent: bool,
    /// The launcher answered.
    pub(super) answered: bool,
    /// When it must have answered, or the payload be gone, at the latest.
    due: Option<Instant>,
    /// The log says that it did not.
    pub(super) told_off: bool,
}

impl Asked {
    /// An order that the launcher is told as soon as it is there.
    pub(super) fn new(order: wire::Stop) -> Self {
        let due = Instant::now().checked_add(COME_BACK + ANSWER);
        Self { order, sent: false, answered: false, due, told_off: false }
    }
}

impl Server {
    pub(super) fn stop_asked(&mut self, token: u64, serial: u32, mut stop: wire::Stop) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        let administrator = is_administrator(asker.uid);
        let refuse =
            |why: &str, next: &str| Failure::refused(format!("cannot stop launch {}", stop.id), why, next);
        let found = LaunchId::parse(&stop.id).filter(|id| self.payloads.contains_key(id));
        let Some(id) = found else {
            let failure = refuse("no live payload has that id", "see bailey ps");
            return self.refuse(token, serial, &failure);
        };
        if !self.may_stop(id, asker, administrator) {
            let failure = refuse("it belongs to another account", "ask its owner, or root");
            return self.refuse(token, serial, &failure);
        }
        if !administrator && let Err(failure) = self.accounts.spend(asker.uid, Instant::now()) {
            return self.refuse(token, serial, &failure);
        }
        stop.by = StopBy::Administrator;
        stop.reason = records::short(stop.reason.trim());
        if stop.reason.is_empty() {
            let failure = refuse("no reason was given", "say why: its user reads it, and it is recorded");
            return self.refuse(token, serial, &failure);
        }
        if !self.has_launcher(id) {
            let failure = refuse(
                "its launcher is gone, so that nobody is left to stop it",
                "kill its processes (bailey ps shows the payload's pid)",
            );
            return self.refuse(token, serial, &failure);
        }
        let node = self.node().clone();
        let Some(live) = self.payloads.get(&id) else { return };
        let record = records::stop(&live.base, id, &stop, &node, asker);
        // The record comes first, then the order: the log has the cause before the effect.
        let after = After::Order { id, order: stop, token, serial };
        self.stage(record, Live::Stops(id.to_string()), true, true, after, asker.uid);
    }

    /// Whether a stop of this payload is the asker's to order.
    pub(super) fn may_stop(&self, id: LaunchId, asker: Asker, is_administrator: bool) -> bool {
        self.payloads.get(&id).is_some_and(|live| is_administrator || live.uid == asker.uid)
    }

    /// Whether there is still somebody who could carry an order out.
    pub(super) fn has_launcher(&self, id: LaunchId) -> bool {
        self.payloads
            .get(&id)
            .is_some_and(|live| live.connection.is_some() || !gone(live.launcher.as_deref()))
    }

    /// The payload is to be stopped: its record is written, or could not be. Says in words what becomes of it; `None` when it
    /// ended meanwhile.
    pub(super) fn order(&mut self, id: LaunchId, order: wire::Stop) -> Option<String> {
        let live = self.payloads.get_mut(&id).filter(|live| live.exited.is_none())?;
        live.stopped = true;
        live.asked = Some(Asked::new(order));
        let (pid, connected) = (live.launcher_is.0, live.connection.is_some());
        self.pass_on(id);
        let Some(asked) = self.payloads.get(&id).and_then(|live| live.asked.as_ref()) else {
            return Some(format!("launcher {pid} was told and is gone"));
        };
        let what = match (asked.order.freeze, asked.order.preserve) {
            (true, true) => "hold the payload and keep its files",
            (true, false) => "hold the payload",
            (false, true) => "keep the payload's files and end it",
            (false, false) => "stop the payload",
        };
        let when = if connected { "was told" } else { "is told as soon as it comes back" };
        Some(format!("launcher {pid} {when} to {what} of launch {id}"))
    }

    /// Sends the order that waits, if one does.
    pub(super) fn pass_on(&mut self, id: LaunchId) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        let (Some(token), Some(asked)) = (live.connection, &mut live.asked) else { return };
        // Said again to a launcher that comes back, whatever it answered before: that may have been about an order before this
        // one. Who carried it out already only says so.
        (asked.sent, asked.answered) = (true, false);
        asked.due = Instant::now().checked_add(ANSWER);
        let message = Message::Stop(asked.order.clone());
        self.send(token, 0, &message);
    }

    /// The launcher says what became of its order.
    pub(super) fn obeyed(&mut self, id: LaunchId, obeyed: &wire::Obeyed) {
        let Some(live) = self.payloads.get_mut(&id) else { return };
        // Only who was told to can have done it; before a restart, that is in the log.
        if !live.stopped {
            return;
        }
        live.held = obeyed.held;
        let Some(asked) = &mut live.asked else { return };
        asked.answered = true;
        asked.told_off = false;
        let within = match (obeyed.held, asked.order.freeze, obeyed.within) {
            (true, true, _) => None,
            (true, false, _) => Some(PRESERVE),
            (false, _, within) => Some(Duration::from_secs(within.unwrap_or(0)).saturating_add(ANSWER)),
        };
        asked.due = within.and_then(|within| Instant::now().checked_add(within));
    }

    /// A launcher that does not stop its payload is named.
    pub(super) fn tell_off(&mut self, now: Instant) {
        let late: Vec<LaunchId> = self
            .payloads
            .iter()
            .filter(|(_, live)| live.exited.is_none())
            .filter(|(_, live)| {
                live.asked
                    .as_ref()
                    .is_some_and(|asked| !asked.told_off && asked.due.is_some_and(|due| now >= due))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let node = self.node().clone();
            let Some(live) = self.payloads.get_mut(&id) else { continue };
            let Some(asked) = &mut live.asked else { continue };
            asked.told_off = true;
            let launcher = live.launcher_is.0;
            let why = match (asked.answered, asked.sent) {
                (true, _) => {
                    format!("launcher {launcher} said that it would stop the payload, and it is still there")
                }
                (_, true) => format!("launcher {launcher} was told to stop the payload and did not answer"),
                _ => format!("launcher {launcher} does not come back to be told to stop the payload"),
            };
            let notice = records::notice(&live.base, id, &node, why);
            let uid = live.uid;
            self.stage(notice, Live::Same, false, true, After::Nothing, uid);
        }
    }
}
