//! Rules and samples over time → events. Pure: no clock, nothing is read.
//!
//! What is used up (CPU time, bytes read) is judged by its average over `for`; what is there (processes, memory) must be over
//! the threshold in every sample of `for`. A rule that fired takes its next step when it goes on for `every` longer, judged
//! since the last step alone, so that whoever heeds the notice is not stopped for what was before. It is armed again when
//! the metric was beyond `until` for `for_end`.
//!
//! 1. Samples may come at any time. One that is not later than the last is left out.
//! 2. What nobody saw is not overuse: after a pause that was not planned, `for` begins anew for what is there. A counter
//!    covers the pause, so its average stays true.
//! 3. A counter MUST NOT be made larger than what the payload used: [`Counter`].
//! 4. Memory is bounded by the number of rules, not by time.
#![forbid(unsafe_code)]

use super::{Metric, Rule, Sample, Step, Watched};
use std::collections::VecDeque;
use std::time::Duration;

/// The shortest time between two samples.
pub const FINEST: Duration = Duration::from_secs(1);
/// A sample may come after so many times what the last one cost: a thousandth of one core.
pub const COST: u32 = 1000;
/// Samples for each of a rule's spans: it is noticed at most a sixteenth late.
const PARTS: u32 = 16;

/// A rule has something to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The rule.
    pub rule: Rule,
    /// What was asked for, in the metric's unit; 1 where nothing is.
    pub per: f64,
    /// What is to be done.
    pub step: Step,
    /// What comes after `rule.every`, if it goes on.
    pub next: Option<Step>,
    /// The metric, as the threshold is written.
    pub value: f64,
    /// How long it was watched for that.
    pub during: Duration,
}

/// All rules of one payload.
#[derive(Debug)]
pub struct Engine {
    watches: Vec<Watch>,
    last: Option<Duration>,
    /// When the next sample was to come.
    expected: Duration,
    cpu: Counter,
    read_cpu: Counter,
    read_bytes: Counter,
    read_at: Option<Duration>,
}

impl Engine {
    /// `None` when there is nothing to watch: then nobody need wake.
    pub fn new(watched: Vec<Watched>) -> Option<Self> {
        if watched.is_empty() {
            return None;
        }
        Some(Self {
            watches: watched.into_iter().map(Watch::new).collect(),
            last: None,
            expected: Duration::ZERO,
            cpu: Counter::default(),
            read_cpu: Counter::default(),
            read_bytes: Counter::default(),
            read_at: None,
        })
    }

    /// Is it time to measure also what was read?
    pub fn wants_reading(&self, at: Duration) -> bool {
        let reading = self.watches.iter().filter(|watch| watch.metric() == Metric::Reading);
        let Some(period) = reading.map(|watch| period(&watch.watched.rule)).min() else { return false };
        self.read_at.is_none_or(|last| at >= last.saturating_add(period))
    }

    /// Takes what was measured at that time since the start, and says what it means. `cost` is the CPU time that measuring
    /// took; the next sample is due at the time returned.
    pub fn feed(&mut self, at: Duration, sample: &Sample, cost: Duration) -> (Vec<Event>, Duration) {
        let next = at.saturating_add(self.period(cost));
        let Some(since) = at.checked_sub(self.last.unwrap_or_default()) else { return (Vec::new(), next) };
        if since.is_zero() && self.last.is_some() {
            return (Vec::new(), next);
        }
        // Twice as long as was planned: this process, or the host, was not there.
        let unseen = self.last.is_some() && since > self.expected.saturating_mul(2).saturating_add(FINEST);
        self.last = Some(at);
        self.expected = next.saturating_sub(at);
        if sample.reading.is_some() {
            self.read_at = Some(at);
        }
        let cpu = sample.cpu.and_then(|cpu| self.cpu.see(micros(cpu)));
        let cpu = cpu.map(|cpu| Point { at, cpu, bytes: 0 });
        let reading = sample.reading.and_then(|(cpu, bytes)| {
            let (cpu, bytes) = (self.read_cpu.see(micros(cpu)), self.read_bytes.see(bytes));
            Some(Point { at, cpu: cpu?, bytes: bytes? })
        });
        let mut events = Vec::new();
        for watch in &mut self.watches {
            let seen = match watch.metric() {
                Metric::Cpu => cpu.map(Seen::Counted),
                Metric::Reading => reading.map(Seen::Counted),
                Metric::Memory => sample.memory.map(Seen::There),
                Metric::Processes => sample.processes.map(Seen::There),
            };
            match seen {
                Some(Seen::Counted(point)) => events.extend(watch.counted(point)),
                Some(Seen::There(amount)) => {
                    let value = amount as f64 / watch.watched.per;
                    events.extend(watch.there(at, value, unseen));
                }
                None => {}
            }
        }
        (events, next)
    }

    fn period(&self, cost: Duration) -> Duration {
        let finest = self.watches.iter().map(|watch| period(&watch.watched.rule)).min().unwrap_or(FINEST);
        finest.max(cost.saturating_mul(COST))
    }
}

/// How often a rule wants to be fed.
fn period(rule: &Rule) -> Duration {
    let mut shortest = rule.over.min(rule.over_end);
    if rule.steps.len() > 1 {
        shortest = shortest.min(rule.every);
    }
    (shortest / PARTS).max(FINEST)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

enum Seen {
    Counted(Point),
    There(u64),
}

/// How much was used at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    at: Duration,
    /// Microseconds of CPU time.
    cpu: u64,
    bytes: u64,
}

/// One rule and where it stands.
#[derive(Debug)]
struct Watch {
    watched: Watched,
    state: State,
    /// For `for` and for `for_end`, of what is counted.
    over: Window,
    back: Window,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Waits for overuse; of what is there: since when it is over.
    Armed { since: Option<Duration> },
    /// So many steps were taken.
    Fired {
        steps: usize,
        /// The last step, or when it was last seen not to go on.
        mark: Point,
        /// Of what is there: since when it is back.
        back: Option<Duration>,
    },
}

impl Watch {
    fn new(watched: Watched) -> Self {
        let (over, back) = (Window::new(watched.rule.over), Window::new(watched.rule.over_end));
        Self { watched, state: State::Armed { since: None }, over, back }
    }

    const fn metric(&self) -> Metric {
        self.watched.rule.metric
    }

    /// What is used up.
    fn counted(&mut self, now: Point) -> Option<Event> {
        let average = |from: Point| average(&self.watched, from, now);
        let enough = micros(self.watched.rule.min_cpu);
        let (bound, until, every) =
            (self.watched.rule.bound, self.watched.rule.until, self.watched.rule.every);
        let over = self.over.from(now.at).and_then(|from| Some((from, average(from)?)));
        let back = self.back.from(now.at).and_then(|from| Some((from, average(from)?)));
        let event = match self.state {
            State::Armed { .. } => match over {
                Some((from, value)) if bound.is_over(value) && now.cpu.saturating_sub(from.cpu) >= enough => {
                    self.take(0, value, now, from.at)
                }
                _ => None,
            },
            State::Fired { steps, mark, .. } => {
                // Only what came after the rule fired can be a return.
                let returned = back.is_some_and(|(_, value)| bound.is_back(value, until));
                let elapsed = now.at.saturating_sub(mark.at);
                if returned {
                    self.state = State::Armed { since: None };
                    // What was before counts no more, or the rule would fire again for it.
                    self.over.forget();
                    None
                } else if elapsed < every {
                    None
                } else {
                    match average(mark) {
                        Some(value) if bound.is_over(value) => self.take(steps, value, now, mark.at),
                        _ => {
                            self.state = State::Fired { steps, mark: now, back: None };
                            None
                        }
                    }
                }
            }
        };
        self.over.push(now);
        self.back.push(now);
        event
    }

    /// What is there.
    fn there(&mut self, at: Duration, value: f64, unseen: bool) -> Option<Event> {
        let rule = &self.watched.rule;
        let (bound, until, long, long_back, every) =
            (rule.bound, rule.until, rule.over, rule.over_end, rule.every);
        let now = Point { at, cpu: 0, bytes: 0 };
        let over = bound.is_over(value);
        match self.state {
            State::Armed { since } => {
                let since = since.filter(|_| over && !unseen).or_else(|| over.then_some(at));
                self.state = State::Armed { since };
                let since = since?;
                (at.saturating_sub(since) >= long).then(|| self.take(0, value, now, since)).flatten()
            }
            State::Fired { steps, mark, back } => {
                let is_back = bound.is_back(value, until);
                let back = back.filter(|_| is_back && !unseen).or_else(|| is_back.then_some(at));
                if back.is_some_and(|since| at.saturating_sub(since) >= long_back) {
                    self.state = State::Armed { since: None };
                    return None;
                }
                let mark = if over && !unseen { mark } else { now };
                self.state = State::Fired { steps, mark, back };
                (at.saturating_sub(mark.at) >= every).then(|| self.take(steps, value, now, mark.at)).flatten()
            }
        }
    }

    /// The next step, if there is one.
    fn take(&mut self, steps: usize, value: f64, now: Point, since: Duration) -> Option<Event> {
        let rule = &self.watched.rule;
        self.state = State::Fired { steps: steps.saturating_add(1), mark: now, back: None };
        let step = *rule.steps.get(steps)?;
        if steps == 0 {
            self.back.forget(); // only what comes from now on can be a return
        }
        Some(Event {
            step,
            next: rule.steps.get(steps.saturating_add(1)).copied(),
            value,
            during: now.at.saturating_sub(since),
            per: self.watched.per,
            rule: rule.clone(),
        })
    }
}

/// The metric between two moments; `None` when nothing can be said.
fn average(watched: &Watched, from: Point, to: Point) -> Option<f64> {
    let time = micros(to.at.checked_sub(from.at)?);
    let cpu = to.cpu.saturating_sub(from.cpu);
    match watched.rule.metric {
        Metric::Cpu if time > 0 => Some(cpu as f64 / time as f64 / watched.per),
        Metric::Reading if cpu > 0 => {
            Some(to.bytes.saturating_sub(from.bytes) as f64 / (cpu as f64 / 1e6) / watched.per)
        }
        _ => None,
    }
}

/// What a counter was, over a time; a few points of it.
#[derive(Debug)]
struct Window {
    span: Duration,
    points: VecDeque<Point>,
}

impl Window {
    fn new(span: Duration) -> Self {
        Self { span, points: VecDeque::new() }
    }

    /// The latest point that is the whole span ago.
    fn from(&mut self, now: Duration) -> Option<Point> {
        let begin = now.checked_sub(self.span)?;
        while self.points.get(1).is_some_and(|second| second.at <= begin) {
            self.points.pop_front();
        }
        self.points.front().copied().filter(|first| first.at <= begin)
    }

    fn push(&mut self, point: Point) {
        let apart = self.span / PARTS;
        if self.points.back().is_none_or(|last| point.at >= last.at.saturating_add(apart)) {
            self.points.push_back(point);
        }
    }

    fn forget(&mut self) {
        self.points.clear();
    }
}

/// After so many samples in a row that show less than before, what is missing is lost for good.
const LOST: u32 = 3;

/// A sum over processes, made to never go back.
///
/// The kernel hands what a process used to its parent when that waits for it. While processes end, the sum may be seen
/// without it, and is whole again in the next sample: then nothing is to be added. But a parent that ignores SIGCHLD loses
/// it for ever, and what is used afterwards would hide behind it. So what is missing in several samples in a row is given up:
/// the least of it, because the rest may have been just such a moment. A sample with something missing is not judged, and
/// nothing is measured from it: what comes back in the next would pass for new use.
#[derive(Debug, Default)]
struct Counter {
    value: u64,
    given_up: u64,
    behind: u32,
    least: u64,
}

impl Counter {
    /// `None` while something is missing.
    fn see(&mut self, raw: u64) -> Option<u64> {
        let now = self.given_up.saturating_add(raw);
        let Some(missing) = self.value.checked_sub(now).filter(|missing| *missing > 0) else {
            self.value = now;
            self.behind = 0;
            return Some(now);
        };
        self.least = if self.behind == 0 { missing } else { self.least.min(missing) };
        self.behind += 1;
        if self.behind >= LOST {
            self.given_up = self.given_up.saturating_add(self.least);
            self.behind = 0;
            return (self.least == missing).then_some(self.value);
        }
        None
    }
}

#[cfg(test)]
mod tests;
