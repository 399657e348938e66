//! The site's files have changed: the log says which lists, and payloads that run and may not any more are stopped.
//!
//! 1. Every list that changed is a record, before anything that follows from it.
//! 2. Everybody whom the lists name now is told at once, in one commit: first the records, then the orders.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Live;
use super::records::{self, Asker};
use super::requests::is_administrator;
use super::server::{After, Server, now, say};
use super::site::Site;
use crate::audit::record::StopBy;
use crate::audit::wire;
use crate::failure::Failure;
use crate::policy::bans::{self, Format, Measure};
use crate::policy::decide::means_any;
use crate::policy::facts::{Counts, Facts};
use crate::policy::name::Name;
use crate::policy::verdict::Hit;
use crate::request::LaunchId;

/// How long launchers that began under the configuration before may still ask.
const CHANGES_OVER: Duration = Duration::from_secs(60);
/// How long after `bailey ban` told of a change it may be seen.
const TOLD: Duration = Duration::from_secs(60);
/// The most changes that are told and not seen yet.
const MOST_TOLD: usize = 1024;

/// What `bailey ban` is about to do.
#[derive(Debug)]
pub(super) struct Told {
    asker: Asker,
    at: Instant,
    /// The name of the list.
    list: String,
}

/// How many payloads live, by whom.
#[derive(Debug, Default)]
pub(super) struct Crowd(HashMap<String, u64>);

impl Crowd {
    pub(super) fn add(&mut self, keys: &[String]) {
        for key in keys {
            *self.0.entry(key.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, keys: &[String]) {
        for key in keys {
            if let Some(count) = self.0.get_mut(key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.0.remove(key);
                }
            }
        }
    }

    /// Of whoever has these keys, in the order of [`keys`].
    pub(super) fn counts(&self, keys: &[String]) -> Counts {
        let of = |prefix: &str| {
            keys.iter()
                .find(|key| key.starts_with(prefix))
                .and_then(|key| self.0.get(key))
                .copied()
                .unwrap_or(0)
        };
        Counts { person: of("person "), vo: of("vo "), uid: of("uid ") }
    }
}

/// Under what a payload counts.
pub(super) fn keys(facts: &Facts, person: Option<&str>) -> Vec<String> {
    let who = &facts.who;
    let person = person
        .map(|id| format!("person {id}"))
        .or_else(|| who.name().map(|name: Name| format!("person {}", name.key())));
    let vo = who.vo.as_ref().map(|vo| format!("vo {}", vo.to_ascii_lowercase()));
    person.into_iter().chain(vo).chain([format!("uid {}", who.uid)]).collect()
}

impl Server {
    /// The thread has read the files anew.
    pub(super) fn site_changed(&mut self) {
        let Some(site) = self.watch.take() else { return };
        let before = std::mem::replace(&mut self.site, site);
        if before.config.hash != self.site.config.hash {
            self.hashes_before.retain(|(_, at)| at.elapsed() < CHANGES_OVER);
            self.hashes_before.push((before.config.hash.clone(), Instant::now()));
        }
        self.record_configuration(&before);
        self.record_changes(&before);
        self.commit();
        self.suspend();
        self.parked_again();
    }

    /// Another configuration holds, or the files cannot be used and the one before holds, or that is over.
    fn record_configuration(&mut self, before: &Arc<Site>) {
        let site = Arc::clone(&self.site);
        let changed = before.config.hash != site.config.hash;
        if !changed && before.broken == site.broken {
            return;
        }
        let node = self.node().clone();
        let record = records::configuration(&site.config.hash, changed, site.broken.as_deref(), &node);
        self.stage(record, Live::Same, true, true, After::Nothing, 0);
        self.metrics_at = None; // monitoring hears of it at once
    }

    fn record_changes(&mut self, before: &Arc<Site>) {
        let site = Arc::clone(&self.site);
        let (old, new) = (before.policy.lists(), site.policy.lists());
        let node = self.node().clone();
        self.told_bans.retain(|_, told| told.at.elapsed() < TOLD);
        for change in new.changes_since(old) {
            let digest = change.is.as_ref().and_then(|list| list.digest.as_ref());
            let told = digest.and_then(|digest| self.told_bans.remove(digest));
            if let Some(told) = &told {
                self.record_unseen(told);
            }
            let record = records::ban_change(&change, &node, told.map(|told| told.asker));
            self.stage(record, Live::Same, true, true, After::Nothing, 0);
        }
        for trouble in new.troubles().filter(|trouble| !old.troubles().any(|known| known == *trouble)) {
            say(&Failure::site(
                "a list of this site cannot be relied upon",
                trouble.text.clone(),
                "repair it, then run 'bailey ban check'",
            ));
        }
    }

    /// Versions that the same list had before this one, too shortly to be seen: who made them is in the log as well.
    fn record_unseen(&mut self, seen: &Told) {
        let is_earlier = |told: &Told| told.list == seen.list && told.at < seen.at;
        let mut earlier: Vec<(String, Told)> =
            self.told_bans.extract_if(|_, told| is_earlier(told)).collect();
        earlier.sort_by_key(|(_, told)| told.at);
        let node = self.node().clone();
        for (digest, told) in earlier {
            let record = records::ban_change_unseen(&told.list, &digest, &node, told.asker);
            self.stage(record, Live::Same, true, true, After::Nothing, 0);
        }
    }

    /// `bailey ban` says what it is about to do. Answered with the live payloads that its new bans mean.
    pub(super) fn ban_told(&mut self, token: u64, serial: u32, told: wire::BanTold) {
        let Some(connection) = self.connections.get(&token) else { return };
        let asker = connection.asker();
        if !is_administrator(asker.uid) {
            let failure = Failure::refused(
                "cannot note a change of the ban lists",
                format!("uid {} is neither root nor the recorder's account", asker.uid),
                "ask root; a change of the files themselves is recorded in any case",
            );
            return self.refuse(token, serial, &failure);
        }
        let bans =
            match told.bans.as_deref().map(|text| bans::parse(text.as_bytes(), Format::Ours)).transpose() {
                Ok(list) => list.unwrap_or_default().bans,
                Err(faults) => {
                    let why = faults.first().map(ToString::to_string).unwrap_or_default();
                    let failure = Failure::usage(
                        "cannot note a change of the ban lists",
                        why,
                        "report this as a defect",
                    );
                    return self.refuse(token, serial, &failure);
                }
            };
        self.told_bans.retain(|_, told| told.at.elapsed() < TOLD);
        if self.told_bans.len() < MOST_TOLD {
            let note = Told { asker, at: Instant::now(), list: told.list };
            self.told_bans.insert(told.digest, note);
        }
        let (site, at) = (Arc::clone(&self.site), now());
        let rows = self.rows(|live| {
            let known = site.policy.look_up(&live.facts, at).ok();
            live.exited.is_none()
                && known.is_some_and(|relevant| {
                    bans.iter().any(|ban| ban.holds_at(at) && means_any(&ban.whom, &live.facts, &relevant))
                })
        });
        self.answer_rows(token, serial, asker.uid, &rows);
    }

    /// Stops every payload whose user is banned now.
    pub(super) fn suspend(&mut self) {
        let (site, at) = (Arc::clone(&self.site), now());
        let mut hits: Vec<(LaunchId, Hit)> = Vec::new();
        for (id, live) in &self.payloads {
            if live.exited.is_some()
                || live.closing
                || live.asked.as_ref().is_some_and(|asked| asked.order.by == StopBy::Ban)
            {
                continue;
            }
            match site.policy.banned(&live.facts, at) {
                Ok(Some(hit)) => hits.push((*id, hit)),
                Ok(None) => {}
                Err(failure) => say(&failure),
            }
        }
        for (id, hit) in hits {
            self.suspend_one(id, &hit);
        }
        self.commit();
    }

    fn suspend_one(&mut self, id: LaunchId, hit: &Hit) {
        let bans = &self.site.policy.settings().bans;
        let grace = hit.grace.unwrap_or(bans.grace);
        let order = wire::Stop {
            id: id.to_string(),
            by: StopBy::Ban,
            reason: records::short(&hit.words()),
            freeze: hit.measure.unwrap_or(bans.measure) == Measure::Freeze,
            preserve: false,
            grace_ms: Some(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        };
        let node = self.node().clone();
        let Some(live) = self.payloads.get(&id) else { return };
        let record = records::banned(&live.base, id, &order, hit, &node);
        let uid = live.uid;
        self.stage(record, Live::Stops(id.to_string()), true, true, After::Ordered { id, order }, uid);
    }

    /// Whether a launcher has the site's configuration: the one that holds, or one that held a moment ago.
    pub(super) fn is_ours(&self, hash: Option<&str>) -> bool {
        let mut before = self.hashes_before.iter().filter(|(_, at)| at.elapsed() < CHANGES_OVER);
        hash.is_some_and(|hash| hash == self.site.config.hash || before.any(|(before, _)| before == hash))
    }
}
