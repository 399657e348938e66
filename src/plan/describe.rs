//! The plan in words, for `--dry-run`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::os::fd::AsFd as _;

use super::{HandedOver, Plan};
use crate::failure::{Failure, Printable, errno_text};
use crate::identity::{Identity, Role};
use crate::policy::verdict::Verdict;
use crate::request::{Bytes, Cores, LaunchId, Request, Stdio};
use crate::sys::fs;

/// What the standard streams are. Those that are handed on as they are and lie in a file can be opened again, truncated and
/// read by the payload.
///
/// # Errors
/// One of them is a directory of the host: openat(2) goes anywhere from there, past every wall of paths.
pub(super) fn streams(stdio: Stdio, terminal: bool) -> Result<String, Failure> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [
        ("stdin", "standard input (descriptor 0)", stdin.as_fd()),
        ("stdout", "standard output (descriptor 1)", stdout.as_fd()),
        ("stderr", "standard error (descriptor 2)", stderr.as_fd()),
    ];
    let mut files = Vec::new();
    for (short, name, fd) in streams {
        let what = || format!("cannot hand over {name}");
        let stat = fs::stat_at(fd, c"").map_err(|errno| {
            Failure::site(
                what(),
                errno_text(errno),
                "look for what bailey was started with (ls -l /proc/self/fd)",
            )
        })?;
        if stat.is_dir() {
            return Err(Failure::usage(
                what(),
                "it is a directory, from which the payload could open the host's files",
                "redirect it from or to a file, a pipe or /dev/null",
            ));
        }
        if stat.is_file() {
            files.push(short);
        }
    }
    Ok(match stdio {
        _ if terminal => "relay: a terminal of its own".to_owned(),
        Stdio::Relay => "relay".to_owned(),
        Stdio::Pass if files.is_empty() => "pass".to_owned(),
        Stdio::Pass => format!("{CAN_OPEN}{} again", files.join(", ")),
    })
}

const CAN_OPEN: &str = "pass: the payload can open ";

/// What [`streams`] said, where rules on files hold: what a descriptor leads to is not reached by opening it once more, and so
/// not by the name /dev/stderr either.
pub(crate) fn streams_behind_rules(said: &str) -> Option<String> {
    let files = said.strip_prefix(CAN_OPEN)?;
    Some(format!(
        "pass: the payload cannot open {files}, by /dev/stdout and its like neither (--stdio relay: it can)"
    ))
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
    if identity.role != Role::Payload {
        put("role", identity.role.as_str());
    }
    for other in &identity.others {
        put("also", &other.to_string());
    }
    for name in &identity.pilot_names {
        put("pilot", &name.to_string());
    }
    put("rule", verdict.rule.as_deref().unwrap_or("(none applies)"));
    put("profile", verdict.obligations.profile.as_str());
    for remark in &verdict.remarks {
        put("remark", remark);
    }
    let words = if facts.words.is_empty() { &request.command } else { &facts.words };
    let command: Vec<String> = words.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
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
    for (name, most) in [
        ("memory", facts.limits.memory.map(|bytes| format!("{} at most", Bytes(bytes)))),
        ("cpus", facts.limits.cpus_milli.map(|milli| format!("{} at most", Cores(milli)))),
        ("processes", facts.limits.pids.map(|pids| format!("{pids} at most, threads included"))),
    ] {
        put(name, most.as_deref().unwrap_or("no limit"));
    }
    if let Some(cpus) = facts.limits.cpuset {
        put("cpuset", &format!("the cores {cpus}"));
    }
    match plan.deadline.wall_time {
        Some(limit) => put(
            "wall time",
            &format!("{} s, then SIGTERM, {} s, SIGKILL", limit.as_secs(), plan.deadline.grace.as_secs()),
        ),
        None => put("wall time", "no limit"),
    }
    for unheeded in &facts.unheeded {
        put("unheeded", unheeded);
    }
    for (wall, state) in &facts.walls {
        put("wall", &format!("{wall}: {state}"));
    }
    text
}
