//! Numbers for monitoring: a text file in Prometheus' exposition format, which node_exporter's textfile collector reads.
//!
//! The file is replaced as a whole by rename, so that a reader never sees half of it.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss)] // the format has floats only

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::log::{Latency, SYNC_BOUNDS, Stats};
use crate::failure::{Failure, io_text};
use crate::overuse::{Metric, Step};

/// What is counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Receipts given.
    pub(super) launches: u64,
    /// Receipts given for checks, of which nothing runs.
    pub(super) checks: u64,
    /// End records written, by what ended the payload.
    pub(super) ends: BTreeMap<&'static str, u64>,
    /// Refusals by bailey's exit code.
    pub(super) refusals: BTreeMap<u8, u64>,
    /// Steps that rules on overuse took. Their ids are the launcher's to choose, so they are no labels.
    pub(super) overuse: BTreeMap<(Metric, Step), u64>,
    /// Packets that were no message.
    pub(super) malformed: u64,
    /// Connections now.
    pub(super) connections: u64,
    /// Live payloads now.
    pub(super) live: u64,
    /// Whether the node takes no new payloads.
    pub(super) draining: bool,
    /// Whether the site's files cannot be used, and the configuration before holds.
    pub(super) config_broken: bool,
    /// Lists of the site that cannot be relied upon.
    pub(super) lists_in_trouble: u64,
}

/// One family of samples.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
}

/// The text of the file.
pub(super) fn text(counters: &Counters, log: &Stats) -> String {
    let mut out = String::new();
    let one = |value: f64| vec![(String::new(), value)];
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        let family = Family { name, kind, help };
        write(&mut out, &family, &samples);
    };
    family("bailey_live_payloads", "gauge", "Payloads that are live.", one(counters.live as f64));
    family("bailey_connections", "gauge", "Connections to the recorder.", one(counters.connections as f64));
    family(
        "bailey_draining",
        "gauge",
        "1 while no new payloads are taken.",
        one(f64::from(counters.draining)),
    );
    family(
        "bailey_config_broken",
        "gauge",
        "1 while the site's configuration cannot be used and the one before holds.",
        one(f64::from(counters.config_broken)),
    );
    family(
        "bailey_lists_in_trouble",
        "gauge",
        "Lists of the site that cannot be relied upon.",
        one(counters.lists_in_trouble as f64),
    );
    family("bailey_launches_total", "counter", "Receipts given.", one(counters.launches as f64));
    family("bailey_checks_total", "counter", "Receipts given for checks.", one(counters.checks as f64));
    let ends = counters.ends.iter().map(|(by, count)| (format!("{{by=\"{by}\"}}"), *count as f64));
    family("bailey_ends_total", "counter", "End records, by what ended the payload.", ends.collect());
    let refusals =
        counters.refusals.iter().map(|(code, count)| (format!("{{code=\"{code}\"}}"), *count as f64));
    family("bailey_refusals_total", "counter", "Refused launches, by exit code.", refusals.collect());
    let steps = counters.overuse.iter().map(|((metric, step), count)| {
        (format!("{{metric=\"{}\",step=\"{}\"}}", metric.as_str(), step.as_str()), *count as f64)
    });
    family(
        "bailey_overuse_total",
        "counter",
        "Steps of rules on overuse, as launchers told.",
        steps.collect(),
    );
    family(
        "bailey_malformed_total",
        "counter",
        "Packets that were no message.",
        one(counters.malformed as f64),
    );
    let gauges = [
        ("bailey_log_free_bytes", "Bytes free beside the log.", log.free.map(|bytes| bytes as f64)),
        ("bailey_log_reserve_bytes", "Bytes kept for the ends of live payloads.", Some(log.reserve as f64)),
        ("bailey_log_segments", "Segments of the log.", Some(log.segments as f64)),
        (
            "bailey_log_checkpoint_age_seconds",
            "Time since the last signed checkpoint.",
            Some(log.checkpoint_age.as_secs_f64()),
        ),
        (
            "bailey_log_broken",
            "1 while nothing can be written.",
            Some(f64::from(u8::from(log.broken.is_some()))),
        ),
        ("bailey_log_overdue", "What failed beside that and is tried again.", Some(log.overdue.len() as f64)),
    ];
    for (name, help, value) in gauges {
        family(name, "gauge", help, value.map_or_else(Vec::new, one));
    }
    family("bailey_log_written_bytes_total", "counter", "Bytes written.", one(log.written as f64));
    family("bailey_log_sync_seconds", "histogram", "What fdatasync(2) took.", histogram(&log.syncs));
    out
}

/// The samples of a histogram: its buckets are cumulative.
fn histogram(latency: &Latency) -> Vec<(String, f64)> {
    let mut below = 0;
    let bounds = SYNC_BOUNDS.iter().map(|micros| (*micros as f64 / 1e6).to_string());
    let buckets = bounds.chain(["+Inf".to_owned()]).zip(latency.buckets).map(|(bound, count)| {
        below += count;
        (format!("_bucket{{le=\"{bound}\"}}"), below as f64)
    });
    let mut samples: Vec<(String, f64)> = buckets.collect();
    samples.push(("_sum".to_owned(), latency.sum.as_secs_f64()));
    samples.push(("_count".to_owned(), latency.count as f64));
    samples
}

fn write(out: &mut String, family: &Family<'_>, samples: &[(String, f64)]) {
    let Family { name, kind, help } = family;
    // Writing to a String never fails. A histogram's parts come with their own names and share one heading.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

/// Replaces the file.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let write = || {
        let mut file = std::fs::File::create(new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(new, path)
    };
    write().map_err(|error| {
        Failure::site(
            format!("cannot write the metrics to {}", path.display()),
            io_text(&error),
            "set recorder.metrics to a file that this account may write",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_is_prometheus_format() {
        let mut counters = Counters { launches: 3, ..Counters::default() };
        counters.refusals.insert(122, 2);
        counters.overuse.insert((Metric::Cpu, Step::Stop), 4);
        let mut syncs = Latency { count: 3, ..Latency::default() };
        (syncs.buckets[0], syncs.buckets[1], syncs.buckets[12]) = (1, 1, 1);
        let log = Stats {
            syncs,
            written: 7,
            free: Some(5),
            reserve: 1,
            checkpoint_age: Duration::from_millis(1500),
            segments: 2,
            broken: None,
            overdue: Vec::new(),
        };
        let text = text(&counters, &log);
        assert!(text.contains("\nbailey_launches_total 3\n"), "{text}");
        assert!(text.contains("\nbailey_refusals_total{code=\"122\"} 2\n"), "{text}");
        assert!(text.contains("\nbailey_overuse_total{metric=\"cpu\",step=\"stop\"} 4\n"), "{text}");
        assert!(text.contains("# TYPE bailey_log_free_bytes gauge\nbailey_log_free_bytes 5\n"), "{text}");
        assert!(
            text.contains(
                "# TYPE bailey_log_sync_seconds histogram\nbailey_log_sync_seconds_bucket{le=\"0.00005\"} 1\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("_bucket{le=\"0.0001\"} 2\n") && text.contains("_bucket{le=\"+Inf\"} 3\n"),
            "{text}"
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
