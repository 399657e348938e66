//! Launch ids: each is for one launch, also after a restart.
//!
//! 1. The ids of closed launches are remembered, the last [`REMEMBERED`] of them; after a restart those of the log whose time
//!    is not so long ago that they are refused anyway.
//! 2. An id holds the time at which it was made. One of more than [`ID_AGE`] from now is refused: it may have been here.
//! 3. A clock that is set does not refuse the launches that were under way: for [`ID_AGE`] after the step ids of both times
//!    are taken.
#![forbid(unsafe_code)]

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::log::RecorderLog;
use super::server::now;
use crate::audit::Timestamp;
use crate::failure::Failure;
use crate::request::LaunchId;

/// How many ids of closed launches are remembered.
const REMEMBERED: usize = 65_536;
/// How far the time in an id may be from now.
const ID_AGE: Duration = Duration::from_secs(900);
/// How far the wall clock may be from where it should be before that is a step. A clock that is slewed stays far below it
/// between two looks.
const STEP: Duration = Duration::from_secs(1);
/// How many steps are remembered.
const STEPS: usize = 16;

/// The ids that were here, and the clock that says which are of now.
#[derive(Debug)]
pub(super) struct Ids {
    closed: HashSet<LaunchId>,
    /// Oldest first.
    order: VecDeque<LaunchId>,
    clock: Clock,
}

impl Ids {
    /// As the log says.
    pub(super) fn of_log(log: &RecorderLog) -> Result<Self, Failure> {
        let mut ids = Self { closed: HashSet::new(), order: VecDeque::new(), clock: Clock::default() };
        let (at, age) = (wall(), i64::try_from(ID_AGE.as_secs()).unwrap_or(i64::MAX));
        // An id may have been ahead of the clock when its launch was closed.
        let found = log.closed_since(at.plus_seconds(-2 * age), REMEMBERED)?;
        let oldest = at.plus_seconds(-age).unix_millis();
        for id in found.into_iter().filter(|id| id.unix_millis() >= oldest) {
            ids.remember(id);
        }
        ids.look();
        Ok(ids)
    }

    /// The launch of this id was here and ended, or came to nothing.
    pub(super) fn remember(&mut self, id: LaunchId) {
        if self.closed.insert(id) {
            self.order.push_back(id);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.closed.remove(&oldest);
            }
        }
    }

    pub(super) fn was_closed(&self, id: LaunchId) -> bool {
        self.closed.contains(&id)
    }

    /// Looks whether the clock was set.
    pub(super) fn look(&mut self) {
        let wall = millis(wall());
        self.clock.look(wall, since_boot().unwrap_or(wall));
    }

    /// Whether the time in the id is near enough.
    pub(super) fn is_of_now(&mut self, id: LaunchId) -> bool {
        self.look();
        self.clock.is_of_now(i64::try_from(id.unix_millis()).unwrap_or(i64::MAX))
    }
}

/// The clock that says which ids are of now. Only a build for tests lets the file that `BAILEY_TEST_CLOCK` names set it, by so
/// many seconds: the host's own clock is not a test's to set.
fn wall() -> Timestamp {
    #[cfg(feature = "test-hooks")]
    if let Some(shift) =
        std::env::var_os("BAILEY_TEST_CLOCK").and_then(|file| std::fs::read_to_string(file).ok())
        && let Ok(seconds) = shift.trim().parse()
    {
        return now().plus_seconds(seconds);
    }
    now()
}

fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.unix_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since boot, by a clock that nobody sets.
fn since_boot() -> Option<i64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    i64::try_from(time.as_millis()).ok()
}

/// The wall clock beside the one that nobody sets; all in milliseconds.
#[derive(Debug, Default)]
struct Clock {
    boot: i64,
    /// Wall clock minus time since boot.
    offset: Option<i64>,
    /// What that was before a step, and when the step was seen.
    before: VecDeque<(i64, i64)>,
}

impl Clock {
    fn look(&mut self, wall: i64, boot: i64) {
        self.boot = boot;
        let offset = wall.saturating_sub(boot);
        if let Some(last) = self.offset
            && last.abs_diff(offset) > STEP.as_millis() as u64
        {
            self.before.push_back((last, boot));
        }
        self.offset = Some(offset);
        let old = |seen: i64| boot.abs_diff(seen) > ID_AGE.as_millis() as u64;
        while self.before.len() > STEPS || self.before.front().is_some_and(|(_, seen)| old(*seen)) {
            self.before.pop_front();
        }
    }

    fn is_of_now(&self, id: i64) -> bool {
        let near = |offset: i64| id.abs_diff(self.boot.saturating_add(offset)) <= ID_AGE.as_millis() as u64;
        self.offset.is_some_and(near) || self.before.iter().any(|(offset, _)| near(*offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn ids_of_both_times_are_taken_for_a_while_after_a_step() {
        for step in [-600 * MINUTE, 600 * MINUTE] {
            let mut clock = Clock::default();
            let wall = 1_700_000_000_000;
            clock.look(wall, 5 * MINUTE);
            assert!(clock.is_of_now(wall - 14 * MINUTE) && clock.is_of_now(wall + 14 * MINUTE));
            assert!(!clock.is_of_now(wall - 16 * MINUTE) && !clock.is_of_now(wall + 16 * MINUTE));
            assert!(!clock.is_of_now(wall + step), "before the step");
            // A minute later the clock is set.
            let new = wall + step + MINUTE;
            clock.look(new, 6 * MINUTE);
            for of in [wall + MINUTE, new] {
                assert!(clock.is_of_now(of - 14 * MINUTE) && clock.is_of_now(of + 14 * MINUTE), "{step}");
                assert!(!clock.is_of_now(of - 16 * MINUTE) && !clock.is_of_now(of + 16 * MINUTE), "{step}");
            }
            // Not for ever.
            clock.look(new + 14 * MINUTE, 20 * MINUTE);
            assert!(clock.is_of_now(wall + 15 * MINUTE) && clock.is_of_now(new + 14 * MINUTE));
            clock.look(new + 16 * MINUTE, 22 * MINUTE);
            assert!(!clock.is_of_now(wall + 17 * MINUTE) && clock.is_of_now(new + 16 * MINUTE));
        }
    }

    #[test]
    fn a_clock_that_is_slewed_makes_no_step() {
        let mut clock = Clock::default();
        for beat in 0..100_000 {
            clock.look(1_700_000_000_000 + beat * 201, beat * 200); // half a percent: ten times what adjtimex(2) does
        }
        assert!(clock.before.is_empty());
    }

    #[test]
    fn a_clock_that_jumps_all_the_time_takes_no_memory() {
        let mut clock = Clock::default();
        for beat in 0..10_000 {
            clock.look(1_700_000_000_000 + (beat % 2) * 1000 * MINUTE, beat);
        }
        assert_eq!(clock.before.len(), STEPS);
    }
}
