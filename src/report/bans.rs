//! Bans while the payload runs, where no recorder tells of them: the launcher looks at the files itself.
//!
//! 1. Looking is a few calls of stat(2); a list is read only when it is another one. Of many launchers one reads, and leaves
//!    the others a copy ([`store`]).
//! 2. A configuration that cannot be read any more stops nothing that runs: the lists as they were still hold.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::audit::record::StopBy;
use crate::audit::time::Timestamp;
use crate::audit::wire::Stop;
use crate::config::Place;
use crate::policy::bans::Measure;
use crate::policy::facts::Facts;
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

    /// The ban that holds now and did not when the payload began, if it is time to look and there is one.
    pub(super) fn look(&mut self) -> Option<Hit> {
        let (at, now) = (Instant::now(), Timestamp::now());
        if at < self.next {
            return None;
        }
        self.next = at + self.period;
        if !self.newer.as_ref().unwrap_or(self.first).is_old(now) {
            return None;
        }
        let (_, policy) = store::open(&Place::system(), self.facts.who.uid, now).ok()?;
        let hit = policy.banned(&self.facts, now).ok().flatten();
        self.newer = Some(policy);
        hit
    }

    /// What is to be done about a ban.
    pub(super) fn order(&self, id: LaunchId, hit: &Hit) -> Stop {
        let bans = &self.newer.as_ref().unwrap_or(self.first).settings().bans;
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
