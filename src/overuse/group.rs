//! Measures a payload that has a control group of its own: the kernel counts, whoever forks or ends meanwhile.
//!
//! What its processes read is known of processes only, so that comes from the tree.
#![forbid(unsafe_code)]

use super::engine::Event;
use super::sample::Tree;
use super::{Meter, Metric, Sample};
use crate::cgroup::Gauge;

/// Thousandths of a core that are left to who is throttled for something that is not measured in cores.
const ONE_CORE: u64 = 1000;

/// A group, and the tree of processes in it.
#[derive(Debug)]
pub struct Grouped {
    gauge: Gauge,
    tree: Tree,
}

impl Grouped {
    /// Both are of the same payload.
    pub const fn new(gauge: Gauge, tree: Tree) -> Self {
        Self { gauge, tree }
    }
}

impl Meter for Grouped {
    fn sample(&mut self, reading: bool) -> Option<Sample> {
        let reading = if reading { self.tree.sample(true)?.reading } else { None };
        Some(Sample {
            cpu: self.gauge.cpu(),
            memory: self.gauge.memory(),
            processes: Some(self.gauge.processes()?),
            reading,
        })
    }

    fn throttle(&mut self, event: &Event) -> Result<(), &'static str> {
        let cores = if event.rule.metric == Metric::Cpu { (event.per * 1000.0) as u64 } else { ONE_CORE };
        self.gauge.throttle(cores)
    }
}
