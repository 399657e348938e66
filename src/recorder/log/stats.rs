//! Numbers about the log, for the metrics.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{RecorderLog, space};
use crate::failure::Failure;

/// Upper bounds of the histogram's buckets, in microseconds; one more bucket takes what is slower.
pub const SYNC_BOUNDS: [u64; 12] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000];

/// How long fdatasync(2) took, since the log was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// All together.
    pub sum: Duration,
    /// The last one.
    pub last: Duration,
    /// How many took at most the bound of the same place in [`SYNC_BOUNDS`] and more than the one before (not cumulative).
    pub buckets: [u64; SYNC_BOUNDS.len() + 1],
}

impl Latency {
    pub(super) fn add(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        self.last = took;
        let micros = took.as_micros();
        let bucket = SYNC_BOUNDS.iter().take_while(|bound| u128::from(**bound) < micros).count();
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }
}

/// How the log is.
#[derive(Debug, Clone)]
pub struct Stats {
    /// fdatasync(2).
    pub syncs: Latency,
    /// Bytes written since it was opened.
    pub written: u64,
    /// Bytes free on its file system; `None` when that cannot be told.
    pub free: Option<u64>,
    /// Bytes in the reserve.
    pub reserve: u64,
    /// Time since the last checkpoint, or since the log was opened.
    pub checkpoint_age: Duration,
    /// Segments in the directory.
    pub segments: u64,
    /// Why nothing can be written, if so.
    pub broken: Option<Failure>,
    /// What else failed and is tried again: a new segment, a checkpoint, pruning.
    pub overdue: Vec<Failure>,
}

/// What the log counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) syncs: Latency,
    pub(super) written: u64,
    pub(super) segments: u64,
}

impl RecorderLog {
    /// How the log is.
    pub fn stats(&self) -> Stats {
        let failures = [&self.roll_failure, &self.checkpoint_failure, &self.prune_failure];
        Stats {
            syncs: self.counts.syncs,
            written: self.counts.written,
            free: space::free(&self.dir).ok(),
            reserve: self.reserve.len(),
            checkpoint_age: Instant::now().saturating_duration_since(self.signed_at),
            segments: self.counts.segments,
            broken: self.broken.as_ref().map(|broken| broken.failure.clone()),
            overdue: failures.into_iter().flatten().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_their_buckets() {
        let mut latency = Latency::default();
        for micros in [0, 50, 51, 1_000_000, 1_000_001] {
            latency.add(Duration::from_micros(micros));
        }
        assert_eq!((latency.buckets[0], latency.buckets[1]), (2, 1));
        assert_eq!((latency.buckets[11], latency.buckets[12], latency.count), (1, 1, 5));
    }
}
