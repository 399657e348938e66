//! Checks: whether a launch would get its receipt now (`bailey check`).
//!
//! 1. A check is looked at as a launch is: its payload stands frozen, and the kernel is asked about it. What a launch is refused
//!    for whoever it is for, a check is refused for: the drain flag, a full disk, a configuration of its own, descriptors, the
//!    account's limits.
//! 2. Nobody's rules and bans are asked, because nobody is named; so a check says nothing about a user, and its receipt is
//!    another type than a launch's in the program that gets it.
//! 3. It becomes one record that repeats nothing of the claim and counts as a launch in the account's rate and bytes. Nothing is
//!    live afterwards. Of an account that checks too often (see `accounts`) the rest is looked at and not recorded.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::launches::{confirm, defect, foreign_config};
use super::log::Live;
use super::observe::Handed;
use super::records;
use super::server::{After, Server};
use crate::audit::record::Action;
use crate::audit::wire::{self, Done, Message};
use crate::failure::Failure;
use crate::request::LaunchId;

impl Server {
    pub(super) fn check(&mut self, token: u64, serial: u32, launch: &wire::Launch, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get(&token) else { return };
        let uid = connection.peer.uid;
        let handed = match Handed::sort(fds, &launch.namespaces) {
            Ok(handed) => handed,
            Err((failure, fds)) => {
                self.digests.discard(uid, fds);
                return self.refuse(token, serial, &failure);
            }
        };
        if self.foreign(launch).is_some() {
            // Its files may be newer than what was read here: it may ask again.
            self.watch.look();
            return self.refuse_for_now(token, serial, &foreign_config());
        }
        if let Err(failure) = self.try_check(token, serial, launch, &handed) {
            self.refuse(token, serial, &failure);
        }
    }

    fn try_check(
        &mut self,
        token: u64,
        serial: u32,
        launch: &wire::Launch,
        handed: &Handed,
    ) -> Result<(), Failure> {
        let id = LaunchId::parse(&launch.id)
            .filter(|_| launch.record.event.action == Action::PayloadLaunch)
            .filter(|id| launch.record.event.id.as_deref() == Some(id.as_str()))
            .ok_or_else(|| defect("its record is not the record of that launch"))?;
        if !self.ids.is_of_now(id) {
            return Err(defect("the time in its launch id is not of now"));
        }
        self.takes_payloads()?;
        let node = self.node().clone();
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        confirm(&launch.record, &connection.peer, handed, &mut self.scratch)?;
        let (uid, asker) = (connection.peer.uid, connection.asker());
        self.accounts.launch(uid, Instant::now())?;
        if !self.accounts.may_record_check(uid, Instant::now()) {
            let text = format!("uid {uid} checks more than once a second, and this check was not recorded");
            self.send(token, serial, &Message::Done(Done { text }));
            return Ok(());
        }
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let version = launch.record.grid.launcher.version.as_deref();
        let record = records::check(&node, asker, connection.program.as_ref(), version);
        self.stage(record, Live::AsLaunch, true, false, After::Checked { token, serial, id }, uid);
        Ok(())
    }
}
