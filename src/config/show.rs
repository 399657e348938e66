//! The effective configuration as text, which is a valid configuration file again.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::overuse::amount_text;
use super::values::DiscoverFor;
use super::{Abi32, Args, Config, Demand, Discover, ForeignConfig, Journald, Probes, UidMode, Undeclared};
use crate::overuse;
use crate::policy::rule::{Named, NetworkGrant, Parallel, Rule};
use crate::policy::settings::{Settings, Tables};

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
        apptainer,
        sandbox,
        uid,
        root_caller,
        cgroup,
        limits,
        overuse,
        policy,
        tables,
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
    out.list("discover", identity.discover.iter().map(|source| source.as_str().to_owned()));
    let always = if identity.discover_always { DiscoverFor::All } else { DiscoverFor::Containers };
    out.text("discover_for", always.as_str());
    out.line(format_args!("job_ad_user = {}", identity.job_ad_user));
    out.list("pilots", identity.pilots.iter().map(|name| name.text.clone()));
    out.list("pilot_groups", identity.pilot_groups.iter().map(ToString::to_string));
    out.text("probes", identity.probes.as_str());

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
    out.text("foreign_config", recorder.foreign_config.as_str());

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

    out.section("apptainer");
    out.text("environment", apptainer.environment.as_str());
    out.text("home", apptainer.home.as_str());
    out.text("tmp", apptainer.tmp.as_str());
    out.text("cwd", apptainer.cwd.as_str());

    out.section("sandbox");
    out.text("pid_namespace", sandbox.pid_namespace.as_str());
    out.text("proc", sandbox.proc.as_str());
    out.text("ipc_namespace", sandbox.ipc_namespace.as_str());
    out.text("uts_namespace", sandbox.uts_namespace.as_str());
    out.text("cgroup_namespace", sandbox.cgroup_namespace.as_str());
    out.text("session_keyring", sandbox.session_keyring.as_str());
    out.text("seccomp", sandbox.seccomp.as_str());
    out.text("abi_32bit", sandbox.abi_32bit.as_str());
    out.line(format_args!("nested_namespaces = {}", sandbox.allow_nested));
    out.text("landlock", sandbox.landlock.as_str());
    out.text("oom_score_adj", &sandbox.oom_score_adj.to_string());
    out.text("umask", &format!("{:03o}", sandbox.umask));
    out.text("stdio", sandbox.stdio.as_str());

    out.section("uid");
    out.text("mode", uid.mode.as_str());
    out.list("shared_dirs", texts(&uid.shared_dirs));
    let state = uid.state.as_ref().map(|dir| dir.to_string_lossy());
    out.text("state", state.as_deref().unwrap_or("default"));

    out.section("root_caller");
    out.text("uids", &root_caller.uids.map_or("none".to_owned(), |range| range.to_string()));
    out.list("workdirs", texts(&root_caller.workdirs));
    out.text("state", &root_caller.state.to_string_lossy());

    out.section("cgroup");
    out.text("mode", cgroup.mode.as_str());
    out.text("parent", cgroup.parent.as_deref().unwrap_or("own"));
    out.text("oom", cgroup.oom.as_str());
    out.text("swap", cgroup.swap.as_str());
    out.text("cpus", cgroup.cpus.as_str());

    out.section("limits");
    out.text("wall_time", &limits.wall_time.map_or("none".to_owned(), span));
    out.text("grace", &span(limits.grace));
    let limit = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    out.text("open_files", &limit(limits.open_files));
    out.text("memory", &limits.memory.map_or("none".to_owned(), size));
    out.text("most_memory", &limits.most_memory.map_or("none".to_owned(), size));
    out.text("cpus", &limits.cpus_milli.map_or("none".to_owned(), cores));
    out.text("most_cpus", &limits.most_cpus_milli.map_or("none".to_owned(), cores));
    out.text("pids", &limit(limits.pids));
    out.text("most_pids", &limit(limits.most_pids));
    out.text("file_size", &limits.file_size.map_or("none".to_owned(), size));
    out.list("overuse_off", limits.overuse_off.iter().cloned());

    for rule in overuse {
        show_overuse(&mut out, rule);
    }

    show_policy(&mut out, policy);
    show_tables(&mut out, tables);
    out.0
}

fn show_overuse(out: &mut Text, rule: &overuse::Rule) {
    let overuse::Rule { id, metric, bound, until, over, over_end, min_cpu, steps, every, grace } = rule;
    out.line(format_args!("\n[[overuse]]"));
    out.text("id", id);
    out.text("metric", metric.as_str());
    let side = if matches!(bound, overuse::Bound::Above(_)) { "above" } else { "below" };
    out.text(side, &amount_text(*metric, bound.threshold()));
    out.text("until", &amount_text(*metric, *until));
    out.text("for", &span(*over));
    out.text("for_end", &span(*over_end));
    if *metric == overuse::Metric::Reading {
        out.text("min_cpu", &span(*min_cpu));
    }
    out.list("steps", steps.iter().map(|step| step.as_str().to_owned()));
    out.text("every", &span(*every));
    if let Some(grace) = grace {
        out.text("grace", &span(*grace));
    }
}

fn show_policy(out: &mut Text, policy: &Settings) {
    let Settings { default_deny, parallel, groups_dir, image, bans } = policy;
    out.section("policy");
    out.text("default", if *default_deny { "deny" } else { "allow" });
    let limit = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    out.text("parallel_person", &limit(parallel.person));
    out.text("parallel_vo", &limit(parallel.vo));
    out.text("parallel_uid", &limit(parallel.uid));
    out.text("groups_dir", &groups_dir.to_string_lossy());

    out.section("image");
    out.list("allow_digests", image.allow_digests.iter().cloned());
    out.list("deny_digests", image.deny_digests.iter().cloned());
    out.text("max_age", &image.max_age.map_or("none".to_owned(), span));
    out.text("old", image.old.as_str());
    out.list("required_labels", image.required_labels.iter().cloned());
    out.text("unlabelled", image.unlabelled.as_str());
    out.text("end_of_life", image.end_of_life.as_str());
    let table = image.end_of_life_table.as_ref().map(|path| path.to_string_lossy());
    out.text("end_of_life_table", table.as_deref().unwrap_or("default"));

    out.section("bans");
    out.text("dir", &bans.dir.to_string_lossy());
    out.text("unreadable", bans.unreadable.as_str());
    out.text("missing", bans.missing.as_str());
    out.text("stale", bans.stale.as_str());
    out.list("required", bans.required.iter().cloned());
    out.text("max_age", &bans.max_age.map_or("none".to_owned(), span));
    out.text("action", bans.measure.as_str());
    out.text("grace", &span(bans.grace));
    let poll = bans.poll.as_millis();
    out.text("poll", &if poll % 1000 == 0 { span(bans.poll) } else { format!("{poll}ms") });
    out.text("settle", &span(bans.settle));
}

fn show_tables(out: &mut Text, tables: &Tables) {
    let Tables { rules, persons, trusts, vos } = tables;
    let named = |names: &[Named]| names.iter().map(|name| name.text.clone()).collect::<Vec<_>>();
    for rule in rules {
        show_rule(out, rule);
    }
    for person in persons {
        out.line(format_args!("\n[[person]]"));
        out.text("id", &person.id);
        out.list("names", named(&person.names).into_iter());
    }
    for trust in trusts {
        out.line(format_args!("\n[[trust]]"));
        out.text("issuer", &trust.issuer.text);
        out.list("vo", trust.vo.iter().cloned());
    }
    for vo in vos {
        out.line(format_args!("\n[[vo]]"));
        out.text("name", &vo.name);
        for (key, value) in [
            ("job_page", &vo.job_page),
            ("security_contact", &vo.security_contact),
            ("user_contact", &vo.user_contact),
        ] {
            if let Some(value) = value {
                out.text(key, value);
            }
        }
        out.some("resolver", vo.resolver.clone());
    }
}

fn show_rule(out: &mut Text, rule: &Rule) {
    let Rule { id, when, deny, reason, grant, overuse_exempt } = rule;
    let named = |names: &[Named]| names.iter().map(|name| name.text.clone()).collect::<Vec<_>>();
    out.line(format_args!("\n[[rule]]"));
    out.text("id", id);
    out.text("decision", if *deny { "deny" } else { "allow" });
    if let Some(reason) = reason {
        out.text("reason", reason);
    }
    out.some("vo", when.vo.clone());
    out.some("issuer", named(&when.issuer));
    out.some("user", named(&when.user));
    out.some("person", when.person.clone());
    out.some("group", when.group.iter().map(ToString::to_string).collect());
    out.some("mapfile", texts(&when.mapfile).collect());
    out.some("assurance", when.assurance.clone());
    if !when.pilot_uid.is_empty() {
        let uids: Vec<String> = when.pilot_uid.iter().map(ToString::to_string).collect();
        out.line(format_args!("pilot_uid = [{}]", uids.join(", ")));
    }
    out.some("image", texts(&when.image).collect());
    out.some("image_digest", when.image_digest.clone());
    if let Some(age) = when.image_older_than {
        out.text("image_older_than", &span(age));
    }
    let network = grant.network.map(|network| if network == NetworkGrant::None { "none" } else { "host" });
    if let Some(network) = network {
        out.text("network", network);
    }
    for (key, value) in [
        ("end_of_life", when.end_of_life),
        ("host_system", when.host_system),
        ("nested", grant.nested),
        ("writable", grant.writable),
        ("credentials", grant.credentials),
    ] {
        if let Some(value) = value {
            out.line(format_args!("{key} = {value}"));
        }
    }
    if let Some(limit) = grant.wall_time {
        out.text("wall_time", &span(limit));
    }
    if let Some(bytes) = grant.scratch {
        out.text("scratch_size", &size(bytes));
    }
    let limits = [
        ("memory", grant.memory.map(size)),
        ("cpus", grant.cpus_milli.map(cores)),
        ("pids", grant.pids.map(|pids| pids.to_string())),
    ];
    for (key, limit) in limits {
        if let Some(limit) = limit {
            out.text(key, &limit);
        }
    }
    if let Some(profile) = grant.profile {
        out.text("profile", profile.as_str());
    }
    let Parallel { person, vo, uid } = grant.parallel;
    for (key, limit) in [("parallel_person", person), ("parallel_vo", vo), ("parallel_uid", uid)] {
        if let Some(limit) = limit {
            out.text(key, &limit.to_string());
        }
    }
    out.some("overuse_exempt", overuse_exempt.clone());
    out.some("binds.allow", texts(&grant.binds_allow).collect());
    out.some("binds.deny", texts(&grant.binds_deny).collect());
    out.some("binds.readonly", texts(&grant.binds_readonly).collect());
}

impl ForeignConfig {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Record => "record",
        }
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

impl Abi32 {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
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

impl Discover {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobAd => "job-ad",
            Self::Panda => "panda",
            Self::Dirac => "dirac",
            Self::Alice => "alice",
            Self::Batch => "batch",
        }
    }
}

impl Probes {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsPayloads => "as-payloads",
            Self::Allow => "allow",
        }
    }
}

impl UidMode {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Subuid => "subuid",
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

    /// A list, if there is anything in it.
    fn some(&mut self, key: &str, values: Vec<String>) {
        if !values.is_empty() {
            self.list(key, values.into_iter());
        }
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

/// Thousandths of a core as cores.
pub(super) fn cores(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) fn size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, letter)) => format!("{}{letter}", bytes >> shift),
        None => bytes.to_string(),
    }
}
