//! The effective configuration as text, which is a valid configuration file again.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::overuse::amount_text;
use super::{Args, Config, Demand, Journald, Undeclared};
use crate::overuse::{Bound, Metric, Rule};

/// Every key with the value that holds. Comments name the files it came from and their hash.
pub fn show(config: &Config) -> String {
    let Config {
        site,
        identity,
        audit,
        recorder,
        retention,
        root,
        environment,
        sandbox,
        limits,
        overuse,
        hash,
        files,
    } = config;
    let mut out = Text(String::from("# The configuration of bailey as it holds on this host.\n"));
    for file in files {
        out.line(format_args!("# from {}", file.display().to_string().escape_default()));
    }
    if files.is_empty() {
        out.line(format_args!("# from no file: the defaults"));
    }
    out.line(format_args!("# sha256 {hash}"));

    out.section("site");
    out.text("name", &site.name);
    out.list("public_ip", site.public_ip.iter().map(ToString::to_string));

    out.section("identity");
    out.text("undeclared", identity.undeclared.as_str());

    out.section("audit");
    let dir = audit.dir.as_ref().map(|dir| dir.to_string_lossy());
    out.text("dir", dir.as_deref().unwrap_or("default"));
    out.text("recorder", audit.recorder.as_str());
    out.text("socket", &audit.socket.to_string_lossy());
    out.text("wait", &span(audit.wait));
    out.line(format_args!("network_filesystem = {}", audit.network_filesystem));
    out.text("journald", audit.journald.as_str());
    out.text("args", audit.args.as_str());
    out.line(format_args!("user_name = {}", audit.user_name));

    out.section("recorder");
    out.text("dir", &recorder.dir.to_string_lossy());
    out.text("state", &recorder.state.to_string_lossy());
    let metrics = recorder.metrics.as_ref().map(|path| path.to_string_lossy());
    out.text("metrics", metrics.as_deref().unwrap_or("default"));
    out.text("segment_size", &size(recorder.segment_size));
    out.text("live_list_every", &size(recorder.live_list_every));
    out.text("checkpoint_records", &recorder.checkpoint_records.to_string());
    out.text("checkpoint_every", &span(recorder.checkpoint_every));
    out.text("reserve", &size(recorder.reserve));
    out.text("live_per_uid", &recorder.live_per_uid.to_string());
    out.text("launches_per_second", &recorder.launches_per_second.to_string());
    out.text("bytes_per_day", &size(recorder.bytes_per_day));

    out.section("retention");
    out.text("days", &retention.days.map_or("none".to_owned(), |days| days.to_string()));
    out.text("size", &retention.size.map_or("none".to_owned(), size));

    out.section("root");
    out.list("host", texts(&root.host));
    out.list("host_etc", texts(&root.host_etc));
    out.list("image_etc", texts(&root.image_etc));
    out.list("always", texts(&root.always));
    out.list("late_mounts", texts(&root.late_mounts));
    out.list("sys", texts(&root.sys));
    out.text("scratch_size", &size(root.scratch_size));

    out.section("environment");
    out.list("pass", environment.pass.iter().cloned());
    out.text("path", &environment.path);

    out.section("sandbox");
    out.text("ipc_namespace", sandbox.ipc_namespace.as_str());
    out.text("uts_namespace", sandbox.uts_namespace.as_str());
    out.text("cgroup_namespace", sandbox.cgroup_namespace.as_str());
    out.text("session_keyring", sandbox.session_keyring.as_str());
    out.line(format_args!("nested_namespaces = {}", sandbox.allow_nested));
    out.text("umask", &format!("{:03o}", sandbox.umask));

    out.section("limits");
    out.text("wall_time", &limits.wall_time.map_or("none".to_owned(), span));
    out.text("grace", &span(limits.grace));
    out.list("overuse_off", limits.overuse_off.iter().cloned());

    for rule in overuse {
        show_overuse(&mut out, rule);
    }
    out.0
}

fn show_overuse(out: &mut Text, rule: &Rule) {
    let Rule { id, metric, bound, until, over, over_end, min_cpu, steps, every, grace } = rule;
    out.line(format_args!("\n[[overuse]]"));
    out.text("id", id);
    out.text("metric", metric.as_str());
    let side = if matches!(bound, Bound::Above(_)) { "above" } else { "below" };
    out.text(side, &amount_text(*metric, bound.threshold()));
    out.text("until", &amount_text(*metric, *until));
    out.text("for", &span(*over));
    out.text("for_end", &span(*over_end));
    if *metric == Metric::Reading {
        out.text("min_cpu", &span(*min_cpu));
    }
    out.list("steps", steps.iter().map(|step| step.as_str().to_owned()));
    out.text("every", &span(*every));
    if let Some(grace) = grace {
        out.text("grace", &span(*grace));
    }
}

impl Demand {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Preferred => "preferred",
            Self::Off => "off",
        }
    }
}

impl Undeclared {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Record => "record",
        }
    }
}

impl Journald {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Checkpoints => "checkpoints",
            Self::All => "all",
        }
    }
}

impl Args {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Digest => "digest",
        }
    }
}

struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn section(&mut self, name: &str) {
        self.line(format_args!("\n[{name}]"));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(format_args!("{key} = {}", quoted(value)));
    }

    fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values: Vec<String> = values.map(|value| quoted(&value)).collect();
        let one_line = format!("{key} = [{}]", values.join(", "));
        if one_line.len() <= 100 {
            self.line(format_args!("{one_line}"));
        } else {
            self.line(format_args!("{key} = [\n    {},\n]", values.join(",\n    ")));
        }
    }
}

/// A basic string of TOML 1.0.
fn quoted(value: &str) -> String {
    let mut out = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn texts(paths: &[PathBuf]) -> impl Iterator<Item = String> + '_ {
    paths.iter().map(|path| path.to_string_lossy().into_owned())
}

/// The largest unit that says it in a whole number.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86400, 'd'), (3600, 'h'), (60, 'm')];
    match units.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit)) {
        Some((unit, letter)) => format!("{}{letter}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

fn size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, letter)) => format!("{}{letter}", bytes >> shift),
        None => bytes.to_string(),
    }
}
