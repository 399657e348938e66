//! Bans while the payload runs, where no recorder tells of them: the launcher looks at the files itself.
//!
//! 1. Looking is a few calls of stat(2); a list is read only when it is another one. Of many launchers one reads, and leaves
//!    the others a copy ([`store`]).
//! 2. A configuration that cannot be read any more stops nothing that runs, and keeps no ban from it: the lists are read where
//!    they were, with the settings that held last.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::audit::record::StopBy;
use crate::audit::time::Timestamp;
use crate::audit::wire::Stop;
use crate::config::Place;
use crate::policy::bans::Measure;
use crate::policy::facts::Facts;
use crate::policy::lists::Change;
use crate::policy::store::{self, Policy};
use crate::policy::verdict::Hit;
use crate::request::LaunchId;

/// Who is watched, and the lists as they were last.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    facts: Facts,
    first: &'a Policy,
    newer: Option<Policy>,
    period: Duration,
    next: Instant,
}

impl<'a> Watch<'a> {
    /// From now on.
    pub(super) fn new(facts: Facts, policy: &'a Policy) -> Self {
        let period = policy.settings().bans.poll;
        Self { facts, first: policy, newer: None, period, next: Instant::now() + period }
    }

    /// Who.
    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// When to look again.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time for that: whether the files are others now.
    pub(super) fn look(&mut self) -> bool {
        let (at, now) = (Instant::now(), Timestamp::now());
        if at < self.next {
            return false;
        }
        self.next = at + self.period;
        if !self.newest().is_old(now) {
            return false;
        }
        let (place, uid) = (Place::system(), self.facts.who.uid);
        let newer = match store::open(&place, uid, now) {
            Ok((_, policy)) => policy,
            Err(_) => self.newest().with_newer_lists(&place, uid, now), // rule 2
        };
        self.newer = Some(newer);
        true
    }

    fn newest(&self) -> &Policy {
        self.newer.as_ref().unwrap_or(self.first)
    }

    /// The ban that holds now.
    pub(super) fn hit(&self) -> Option<Hit> {
        self.newest().banned(&self.facts, Timestamp::now()).ok().flatten()
    }

    /// Lists that this launcher was the first to see changed.
    pub(super) fn changes(&self) -> &[Change] {
        self.newest().changes()
    }

    /// What is to be done about a ban.
    pub(super) fn order(&self, id: LaunchId, hit: &Hit) -> Stop {
        let bans = &self.newest().settings().bans;
        let grace = hit.grace.unwrap_or(bans.grace);
        Stop {
            id: id.to_string(),
            by: StopBy::Ban,
            reason: hit.words(),
            freeze: hit.measure.unwrap_or(bans.measure) == Measure::Freeze,
            preserve: false,
            grace_ms: u64::try_from(grace.as_millis()).ok(),
        }
    }
}
