//! Overuse: a running payload takes more than it asked for, or computes without reading. What it is, in types.
//!
//! ```text
//! rules, requests → select → Watched, and which rules wait and why
//! sample: /proc → Sample     engine: Samples over time → Events     the supervisor acts on them, report finds the words
//! ```
//!
//! 1. A rule that cannot be judged here does nothing and is named in the record with the reason. It never guesses.
//! 2. Thresholds are whole thousandths, so that a configuration has one meaning and can be compared.
//! 3. What is not certain counts for the payload: a counter that goes back is the sampler's fault, not new use.
#![forbid(unsafe_code)]

pub mod engine;
pub mod group;
pub mod sample;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cores used on average, relative to those that were asked for.
    Cpu,
    /// Memory, relative to what was asked for.
    Memory,
    /// How many processes there are.
    Processes,
    /// Bytes read per second of CPU time.
    Reading,
}

impl Metric {
    /// The word in the configuration and in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Reading => "reading",
        }
    }
}

/// What is done about it. The order is that of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The user and the log are told.
    Notice,
    /// It gets less of it.
    Throttle,
    /// It is ended.
    Stop,
}

impl Step {
    /// The word in the configuration and in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Throttle => "throttle",
            Self::Stop => "stop",
        }
    }
}

/// A threshold in thousandths: of what was asked for, of a process, of a byte per CPU second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Milli(pub u64);

impl Milli {
    /// As a number.
    pub fn value(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

/// Which side of the threshold is overuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// More than this.
    Above(Milli),
    /// Less than this.
    Below(Milli),
}

impl Bound {
    /// The threshold.
    pub const fn threshold(self) -> Milli {
        match self {
            Self::Above(at) | Self::Below(at) => at,
        }
    }

    /// Is that overuse?
    pub fn is_over(self, value: f64) -> bool {
        match self {
            Self::Above(at) => value > at.value(),
            Self::Below(at) => value < at.value(),
        }
    }

    /// Is that back beyond `until`, on the good side?
    pub fn is_back(self, value: f64, until: Milli) -> bool {
        match self {
            Self::Above(_) => value < until.value(),
            Self::Below(_) => value > until.value(),
        }
    }
}

/// One `[[overuse]]`, checked (`config/overuse.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, in every record and sentence that it causes.
    pub id: String,
    /// What it looks at.
    pub metric: Metric,
    /// `above`, `below`
    pub bound: Bound,
    /// `until`: the rule is armed again when the metric was beyond this for `over_end`.
    pub until: Milli,
    /// `for`: how long it must last.
    pub over: Duration,
    /// `for_end`
    pub over_end: Duration,
    /// `min_cpu`: how much CPU time must be used within `for` before `reading` says anything.
    pub min_cpu: Duration,
    /// `steps`: what is done, one after the other; never empty.
    pub steps: Vec<Step>,
    /// `every`: until the next step, while it goes on.
    pub every: Duration,
    /// `grace`: between SIGTERM and SIGKILL of a stop; `None`: `limits.grace`.
    pub grace: Option<Duration>,
}

/// What the payload may use: what it asked for (`--cpus`, `--memory`), or the site's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a core.
    pub cpus_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
}

/// What can be measured here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tells {
    /// The payload's memory, shared pages counted once: a control group's.
    pub memory: bool,
    /// What its processes read (kernels with `CONFIG_TASK_IO_ACCOUNTING`).
    pub reading: bool,
}

/// What is measured at one moment. Counters are as the kernel shows them, which may be less than before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// CPU time used so far.
    pub cpu: Option<Duration>,
    /// Bytes of memory now.
    pub memory: Option<u64>,
    /// Processes now.
    pub processes: Option<u64>,
    /// CPU time and bytes read so far, of the processes of which both can be seen.
    pub reading: Option<(Duration, u64)>,
}

/// Something that measures one payload: /proc ([`sample::Tree`]), or its control group.
pub trait Meter {
    /// What is there now. `reading`: also what was read, which costs more.
    fn sample(&mut self, reading: bool) -> Option<Sample>;
    /// Gives the payload less of what it takes too much of. The error says why not.
    fn throttle(&mut self, event: &engine::Event) -> Result<(), &'static str>;
}

/// A rule that is judged for this payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The rule.
    pub rule: Rule,
    /// What its metric is divided by: cores or bytes that were asked for, else 1.
    pub per: f64,
}

/// Which rules watch a payload, and why the others do not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// They are judged.
    pub watched: Vec<Watched>,
    /// They are not: id and reason.
    pub waiting: Vec<(String, &'static str)>,
}

/// Chooses. `off` are the ids of rules that the site turned off. `exempt` are the ids of rules that the policy lifts for this payload; `all` is every one.
pub fn select(
    rules: &[Rule],
    off: &[String],
    requests: Requests,
    tells: Tells,
    exempt: &[String],
) -> Selection {
    let mut selection = Selection::default();
    for rule in rules {
        let per = if off.contains(&rule.id) {
            Err("off: the site's configuration")
        } else if exempt.iter().any(|id| *id == rule.id || id == "all") {
            Err("exempt by policy")
        } else {
            per(rule.metric, requests, tells)
        };
        match per {
            Ok(per) => selection.watched.push(Watched { rule: rule.clone(), per }),
            Err(why) => selection.waiting.push((rule.id.clone(), why)),
        }
    }
    selection
}

fn per(metric: Metric, requests: Requests, tells: Tells) -> Result<f64, &'static str> {
    match metric {
        Metric::Cpu => match requests.cpus_milli.filter(|cores| *cores > 0) {
            Some(cores) => Ok(cores as f64 / 1000.0),
            None => Err("waits for --cpus: there is no limit"),
        },
        Metric::Memory if !tells.memory => Err("waits for cgroups: the sum over processes is not the truth"),
        Metric::Memory => match requests.memory.filter(|bytes| *bytes > 0) {
            Some(bytes) => Ok(bytes as f64),
            None => Err("waits for --memory: there is no limit"),
        },
        Metric::Reading if !tells.reading => Err("waits for a kernel that counts what processes read"),
        Metric::Processes | Metric::Reading => Ok(1.0),
    }
}

impl Selection {
    /// For `grid.sandbox.overuse`.
    pub fn describe(&self) -> String {
        let watching: Vec<&str> = self.watched.iter().map(|watched| watched.rule.id.as_str()).collect();
        let mut text = match watching.as_slice() {
            [] if self.waiting.is_empty() => return "off: there is no rule".to_owned(),
            [] => "off".to_owned(),
            ids => format!("on: {}", ids.join(", ")),
        };
        for (id, why) in &self.waiting {
            text.push_str("; ");
            text.push_str(id);
            text.push_str(" - ");
            text.push_str(why);
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A rule on cores, one above the other parts.
    pub(crate) fn cpu(above: u64, over: u64) -> Rule {
        Rule {
            id: "cpu".to_owned(),
            metric: Metric::Cpu,
            bound: Bound::Above(Milli(above)),
            until: Milli(above * 9 / 10),
            over: Duration::from_secs(over),
            over_end: Duration::from_secs(over),
            min_cpu: Duration::ZERO,
            steps: vec![Step::Notice],
            every: Duration::from_secs(over),
            grace: None,
        }
    }

    #[test]
    fn a_rule_waits_for_what_it_needs() {
        let rules: Vec<Rule> = [Metric::Cpu, Metric::Memory, Metric::Processes, Metric::Reading]
            .map(|metric| Rule { id: metric.as_str().to_owned(), metric, ..cpu(1200, 60) })
            .to_vec();
        let watching = |requests, tells, exempt: &[&str]| -> String {
            let exempt: Vec<String> = exempt.iter().map(|id| (*id).to_owned()).collect();
            let ids = select(&rules, &[], requests, tells, &exempt).watched;
            ids.iter().map(|watched| watched.rule.id.as_str()).collect::<Vec<_>>().join(" ")
        };
        let all = Requests { cpus_milli: Some(2500), memory: Some(1 << 30) };
        let cgroup = Tells { memory: true, reading: true };
        assert_eq!(watching(all, cgroup, &[]), "cpu memory processes reading");
        assert_eq!(watching(Requests::default(), cgroup, &[]), "processes reading");
        assert_eq!(watching(all, Tells::default(), &[]), "cpu processes");
        assert_eq!(watching(all, cgroup, &["reading", "cpu", "nosuch"]), "memory processes");
        assert_eq!(watching(all, cgroup, &["all"]), "");
        assert_eq!(
            watching(Requests { cpus_milli: Some(0), memory: Some(0) }, cgroup, &[]),
            "processes reading"
        );
        let cores = select(&rules, &[], all, cgroup, &[]).watched.first().map(|watched| watched.per);
        assert_eq!(cores, Some(2.5));
    }

    #[test]
    fn the_record_names_every_rule() {
        let rules =
            [cpu(1200, 60), Rule { id: "many".to_owned(), metric: Metric::Processes, ..cpu(5000, 60) }];
        let requests = Requests { cpus_milli: Some(1000), memory: None };
        let describe =
            |requests, exempt: &[String]| select(&rules, &[], requests, Tells::default(), exempt).describe();
        assert_eq!(describe(requests, &[]), "on: cpu, many");
        assert_eq!(describe(Requests::default(), &[]), "on: many; cpu - waits for --cpus: there is no limit");
        assert_eq!(
            describe(Requests::default(), &["many".to_owned()]),
            "off; cpu - waits for --cpus: there is no limit; many - exempt by policy"
        );
        assert_eq!(select(&[], &[], requests, Tells::default(), &[]).describe(), "off: there is no rule");
        let off = ["cpu".to_owned(), "many".to_owned()];
        assert_eq!(
            select(&rules, &off, requests, Tells::default(), &["cpu".to_owned()]).describe(),
            "off; cpu - off: the site's configuration; many - off: the site's configuration"
        );
    }

    #[test]
    fn a_value_on_the_threshold_is_neither_over_nor_back() {
        let above = Bound::Above(Milli(1200));
        assert!(above.is_over(1.201) && !above.is_over(1.2));
        assert!(above.is_back(1.079, Milli(1080)) && !above.is_back(1.08, Milli(1080)));
        let below = Bound::Below(Milli(1_024_000));
        assert!(below.is_over(1023.9) && !below.is_over(1024.0));
        assert!(below.is_back(1138.1, Milli(1_138_000)) && !below.is_back(1138.0, Milli(1_138_000)));
    }
}
