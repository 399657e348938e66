//! Numbers for monitoring: a text file in Prometheus' exposition format, which node_exporter's textfile collector reads.
//!
//! The file is replaced as a whole by rename, so that a reader never sees half of it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::failure::{Failure, io_text};

/// What is counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Receipts given.
    pub(super) launches: u64,
    /// End records written, by what ended the payload.
    pub(super) ends: BTreeMap<&'static str, u64>,
    /// Refusals by bailey's exit code.
    pub(super) refusals: BTreeMap<u8, u64>,
    /// Packets that were no message.
    pub(super) malformed: u64,
    /// Connections now.
    pub(super) connections: u64,
    /// Live payloads now.
    pub(super) live: u64,
    /// Whether the node takes no new payloads.
    pub(super) draining: bool,
}

/// One family of samples.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
}

/// The text of the file. `log` brings the log's own numbers: name, kind, help, value.
pub(super) fn text(counters: &Counters, log: &[(&str, &str, &str, f64)]) -> String {
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
    family("bailey_launches_total", "counter", "Receipts given.", one(counters.launches as f64));
    let ends = counters.ends.iter().map(|(by, count)| (format!("{{by=\"{by}\"}}"), *count as f64));
    family("bailey_ends_total", "counter", "End records, by what ended the payload.", ends.collect());
    let refusals =
        counters.refusals.iter().map(|(code, count)| (format!("{{code=\"{code}\"}}"), *count as f64));
    family("bailey_refusals_total", "counter", "Refused launches, by exit code.", refusals.collect());
    family(
        "bailey_malformed_total",
        "counter",
        "Packets that were no message.",
        one(counters.malformed as f64),
    );
    for (name, kind, help, value) in log {
        family(name, kind, help, one(*value));
    }
    out
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
    use super::*;

    #[test]
    fn the_text_is_prometheus_format() {
        let mut counters = Counters { launches: 3, ..Counters::default() };
        counters.refusals.insert(122, 2);
        let text = text(&counters, &[("bailey_log_free_bytes", "gauge", "Free.", 5.0)]);
        assert!(text.contains("\nbailey_launches_total 3\n"), "{text}");
        assert!(text.contains("\nbailey_refusals_total{code=\"122\"} 2\n"), "{text}");
        assert!(text.ends_with("# TYPE bailey_log_free_bytes gauge\nbailey_log_free_bytes 5\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
