//! The plan in words, for `--dry-run`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::{HandedOver, Plan};
use crate::failure::Printable;
use crate::identity::Identity;
use crate::policy::verdict::Verdict;
use crate::request::{LaunchId, Request, Stdio};

/// Streams that are handed on as they are and lie in a file can be opened again, truncated and read by the payload.
pub(super) fn streams(stdio: Stdio) -> String {
    if stdio == Stdio::Relay {
        return "relay".to_owned();
    }
    let streams: [(&str, std::os::fd::RawFd); 3] = [("stdin", 0), ("stdout", 1), ("stderr", 2)];
    let files: Vec<&str> = streams
        .iter()
        .filter(|(_, fd)| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|meta| meta.is_file()))
        .map(|(name, _)| *name)
        .collect();
    if files.is_empty() {
        "pass".to_owned()
    } else {
        format!("pass: the payload can open {} again", files.join(", "))
    }
}

/// The plan in words, for `--dry-run`. Values of variables are left out: they may be secrets.
pub fn describe(
    plan: &Plan,
    id: LaunchId,
    identity: &Identity,
    request: &Request,
    verdict: &Verdict,
) -> String {
    let facts = &plan.facts;
    let mut text = String::new();
    let mut put = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {}", Printable(value));
    };
    put("launch", id.as_str());
    let who = identity.user.as_deref().unwrap_or("(nobody declared)");
    put("user", &format!("{who} [{}]", identity.assurance.as_str()));
    for (name, value) in [("issuer", &identity.issuer), ("vo", &identity.vo), ("job", &identity.job)] {
        if let Some(value) = value {
            put(name, value);
        }
    }
    if let Some(person) = &verdict.person {
        put("person", person);
    }
    put("rule", verdict.rule.as_deref().unwrap_or("(none applies)"));
    put("profile", verdict.obligations.profile.as_str());
    for remark in &verdict.remarks {
        put("remark", remark);
    }
    let command: Vec<String> = request.command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    put("command", &command.join(" "));
    put(
        "image",
        &facts
            .image
            .as_ref()
            .map_or_else(|| "the host's system, read-only".into(), |p| p.display().to_string()),
    );
    if let Some((when, by)) = &facts.told.made {
        put("image made", &format!("{} ({by})", when.day()));
    }
    if let Some(os) = &facts.told.os {
        let end = facts.end_of_life.map_or_else(String::new, |end| format!(", supported to {}", end.day()));
        put("image has", &format!("{os}{end}"));
    }
    for remark in &facts.told.remarks {
        put("image", &format!("cannot use {remark}"));
    }
    put("starts in", &facts.start_dir.display().to_string());
    for HandedOver { source, target, mode } in &facts.mounts {
        put("bind", &format!("{} at {} ({mode})", source.display(), target.display()));
    }
    let names: Vec<String> = facts.env.keys().map(|name| name.to_string_lossy().into_owned()).collect();
    put("environment", &names.join(" "));
    put(
        "scratch",
        &format!(
            "{} MiB in memory for /tmp, /var/tmp, /dev/shm, /dev, /run and the private directory",
            facts.scratch >> 20
        ),
    );
    match plan.deadline.wall_time {
        Some(limit) => put(
            "wall time",
            &format!("{} s, then SIGTERM, {} s, SIGKILL", limit.as_secs(), plan.deadline.grace.as_secs()),
        ),
        None => put("wall time", "no limit"),
    }
    for (wall, state) in &facts.walls {
        put("wall", &format!("{wall}: {state}"));
    }
    text
}
