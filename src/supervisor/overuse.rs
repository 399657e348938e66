//! The payload is measured now and then, and the rules on overuse are asked what that means.
//!
//! 1. Without a rule that can be judged there is nothing of this: no timer, no read.
//! 2. Measuring costs at most a thousandth of one core: what the last sample cost decides when the next one comes.
#![forbid(unsafe_code)]

use crate::overuse::engine::{Engine, Event};
use crate::overuse::{Meter, Step, Watched};
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// The rules of one payload, and what measures it.
pub(super) struct Overuse {
    engine: Engine,
    meter: Box<dyn Meter>,
    start: Instant,
    /// When the next sample is due; `None`: no clock reaches that far.
    next_at: Option<Instant>,
}

impl Overuse {
    /// `None` when no rule is judged.
    pub(super) fn new(watched: Vec<Watched>, meter: Box<dyn Meter>, first: Instant) -> Option<Self> {
        Some(Self { engine: Engine::new(watched)?, meter, start: first, next_at: Some(first) })
    }

    /// When something is to be done.
    pub(super) const fn wake_at(&self) -> Option<Instant> {
        self.next_at
    }

    /// Measures, if it is time for that.
    pub(super) fn look(&mut self, now: Instant) -> Option<Vec<Event>> {
        if self.next_at.is_none_or(|at| now < at) {
            return None;
        }
        let at = now.saturating_duration_since(self.start);
        let before = cpu_time();
        let sample = self.meter.sample(self.engine.wants_reading(at)).unwrap_or_default();
        let cost = cpu_time().saturating_sub(before);
        let (events, next) = self.engine.feed(at, &sample, cost);
        self.next_at = self.start.checked_add(next);
        Some(events)
    }

    /// Takes a step that is the meter's to take: the error says why it cannot.
    pub(super) fn throttle(&mut self, event: &Event) -> Result<(), &'static str> {
        if event.step == Step::Throttle { self.meter.throttle(event) } else { Ok(()) }
    }
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
