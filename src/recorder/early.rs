//! Payloads that are handed over before their record is made: they are looked at while the launcher still writes, so that the
//! launch itself waits for less.
//!
//! 1. What is seen here is what a launch that brings its descriptors itself would be judged by, and no more is kept of it than
//!    that launch needs. Whatever is wrong is not said here: the launch is then asked for whole, and refused in words.
//! 2. It counts for a moment only ([`OLDEST`]), for the launch of its id on the same connection, and only if payload, init and
//!    launcher lived all the while: a pidfd says so.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::connections::Stage;
use super::observe::{self, Handed, Observed, Peer};
use super::server::Server;
use crate::audit::wire::{self, Message, Refused};
use crate::failure::Failure;
use crate::sandbox::NAMESPACES;

/// How old what was seen may be. A launch may wait a second for the digest of its launcher.
const OLDEST: Duration = Duration::from_secs(3);
/// Looking costs more than a message of its size.
const A_LOOK: usize = 8 * 1024;

/// A payload that stands frozen, and what was seen of it.
#[derive(Debug)]
pub(super) struct Early {
    id: String,
    at: Instant,
    /// Without its namespaces, of which everything is seen.
    handed: Handed,
    observed: Observed,
}

impl Early {
    /// Descriptors that one keeps.
    pub(super) const HOLDS: usize = 2;
}

/// What a launch is judged by.
pub(super) enum Offered {
    /// Descriptors that came with it.
    Whole(Handed),
    /// What was seen before.
    Seen(Box<Early>),
}

impl Offered {
    pub(super) fn handed(&self) -> &Handed {
        match self {
            Self::Whole(handed) => handed,
            Self::Seen(early) => &early.handed,
        }
    }

    /// What the kernel shows of the payload, and the payload.
    pub(super) fn look(self, peer: &Peer, scratch: &mut Vec<u8>) -> Result<(Handed, Observed), Failure> {
        match self {
            Self::Whole(handed) => {
                observe::payload(peer, &handed, scratch).map(|observed| (handed, observed))
            }
            Self::Seen(early) => {
                let Early { handed, observed, .. } = *early;
                observe::still_there(peer, handed.payload.as_fd(), handed.init.as_fd())?;
                Ok((handed, observed))
            }
        }
    }
}

impl Server {
    /// A launcher hands its payload over before it asks.
    pub(super) fn frozen(&mut self, token: u64, frozen: &wire::Frozen, fds: Vec<OwnedFd>) {
        self.drop_early(token);
        let room = self.has_room(Early::HOLDS);
        let Some(connection) = self.connections.get(&token) else { return };
        let uid = connection.peer.uid;
        self.turn.charge(uid, A_LOOK);
        let fits = fds.len() == frozen.namespaces.len() + 2 && frozen.namespaces.len() <= NAMESPACES.len();
        if !fits || !room {
            return self.digests.discard(uid, fds);
        }
        let handed = match Handed::sort(fds, &frozen.namespaces) {
            Ok(handed) => handed,
            Err((_, fds)) => return self.digests.discard(uid, fds),
        };
        let Ok(observed) = observe::payload(&connection.peer, &handed, &mut self.scratch) else { return };
        let handed = Handed { namespaces: Vec::new(), ..handed };
        let early = Early { id: frozen.id.clone(), at: Instant::now(), handed, observed };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.early = Some(Box::new(early));
            self.early += 1;
        }
    }

    /// What was seen of the payload of this launch, if it still counts.
    pub(super) fn seen(&mut self, token: u64, id: &str) -> Option<Offered> {
        let early = self.drop_early(token)?;
        let counts = early.id == id && early.at.elapsed() < OLDEST;
        counts.then_some(Offered::Seen(early))
    }

    fn drop_early(&mut self, token: u64) -> Option<Box<Early>> {
        let early = self.connections.get_mut(&token)?.early.take();
        self.early -= usize::from(early.is_some());
        early
    }

    /// At every beat: what was handed over long ago is let go.
    pub(super) fn forget_early(&mut self, now: Instant) {
        if self.early == 0 {
            return;
        }
        let old = |early: &Early| now.duration_since(early.at) >= OLDEST;
        for connection in self.connections.values_mut() {
            let waits = connection.stage == Stage::Launching;
            if !waits && connection.early.as_deref().is_some_and(old) {
                connection.early = None;
                self.early -= 1;
            }
        }
    }

    /// The launch has to bring its descriptors: nothing that counts was seen of its payload.
    pub(super) fn ask_for_all(&mut self, token: u64, serial: u32) {
        let failure = Failure::record(
            "the recorder cannot take this launch as it is",
            "its payload was not handed over a moment ago",
            "report this as a defect; nothing has run",
        );
        let refused = Refused { retry_after_ms: Some(0), ..Refused::of(&failure) };
        self.send(token, serial, &Message::Refused(refused));
    }
}

/// Whether a launch relies on what was handed over before.
pub(super) fn brings_nothing(launch: &wire::Launch, fds: &[OwnedFd]) -> bool {
    launch.namespaces.is_empty() && fds.is_empty()
}
