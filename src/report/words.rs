//! What the user of a payload reads: one sentence for each refusal, notice and stop (`docs/messages.md` has them all).
//!
//! 1. What happened comes first and in plain words, then the detail for whoever has to repair it, then what the user can do, then
//!    the incident id and whom to ask.
//! 2. A failure of the site says that it is not the user's fault, and that another site may run the job.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::Duration;

use crate::audit::record::StopBy;
use crate::cgroup;
use crate::failure::{Code, Failure, Fault};

/// A failure in the words of its user. The site's own troubles are put behind what they mean; a refusal is said by whoever
/// refused, and what the user asked for wrongly stands as it is.
pub fn plain(failure: Failure) -> Failure {
    let what = match (failure.fault, failure.code) {
        (Fault::Site, Code::RecordFailed) => "your job was not run, because this node cannot record it",
        (Fault::Site, Code::Setup) => "your job was not run, because this node cannot set it up",
        _ => return failure,
    };
    Failure {
        why: format!("{}: {}", failure.what, failure.why),
        next: format!("this is not your fault: try another site; its administrator: {}", failure.next),
        what: what.to_owned(),
        ..failure
    }
}

/// The wall time is used up.
pub fn wall_time(limit: Duration, grace: Duration) -> String {
    format!(
        "the wall time of {} s is used up, so {}; ask for a longer wall time, or split the work",
        limit.as_secs(),
        how(Some(grace))
    )
}

/// Somebody stops the payload.
pub fn stops(by: StopBy, reason: &str, grace: Option<Duration>) -> String {
    format!("{} stops the payload: {reason}; {}; {}", by.subject(), how(grace), advice(by))
}

/// Somebody holds the payload.
pub fn holds(by: StopBy, reason: &str) -> String {
    format!(
        "{} holds the payload: {reason}; it stands still and is kept as it is until the site decides; {}",
        by.subject(),
        advice(by)
    )
}

/// The payload ended by its wall time.
pub fn ended_by_wall_time(how: &str) -> String {
    format!(
        "the wall time was used up and bailey stopped the payload: {how}; ask for a longer wall time, or split the work"
    )
}

/// The payload ended by itself. What its limits did to it on the way may be why.
pub fn ended(how: &str, group: Option<&cgroup::Usage>) -> String {
    let mut text = format!("the payload ended: {how}");
    let of = |number: Option<u64>| number.filter(|number| *number > 0);
    if let Some(kills) = group.and_then(|group| of(group.oom_kills)) {
        let _ = write!(text, "; the kernel killed {kills} of its processes, because its memory ran out");
    }
    if let Some(times) = group.and_then(|group| of(group.pids_refused)) {
        let _ = write!(text, "; {times} times it got no new process, because of its limit (--pids)");
    }
    text
}

/// The kernel killed the payload for memory: beyond its own `limit`, or where a group above it, or the host, had no more.
pub fn ended_by_memory(limit: Option<u64>, own: bool, how: &str) -> (String, Fault) {
    match limit {
        Some(bytes) if own => (
            format!(
                "the payload needed more than its {} MiB of memory: {how}; ask for more memory, or use less",
                bytes >> 20
            ),
            Fault::User,
        ),
        Some(bytes) => (
            format!(
                "memory ran out around the payload, which did not use up its own {} MiB: {how}; this is not your fault: try another site",
                bytes >> 20
            ),
            Fault::Site,
        ),
        None => (
            format!(
                "the payload used up all memory that its slot has: {how}; use less, or ask for a larger slot"
            ),
            Fault::User,
        ),
    }
}

/// The payload ended because somebody stopped it.
pub fn ended_by(by: StopBy, reason: &str, how: &str) -> String {
    format!("{} stopped the payload ({reason}): {how}; {}", by.subject(), advice(by))
}

/// Who can cure what had the payload stopped.
pub const fn fault(by: StopBy) -> Fault {
    match by {
        StopBy::Ban | StopBy::Overuse => Fault::User,
        StopBy::Administrator | StopBy::Limit => Fault::Site,
    }
}

fn how(grace: Option<Duration>) -> String {
    match grace.filter(|grace| !grace.is_zero()) {
        Some(grace) => {
            format!("it is told to end now (SIGTERM), and killed in {} s (SIGKILL)", grace.as_secs())
        }
        None => "it is killed now (SIGKILL)".to_owned(),
    }
}

/// What the user can do.
const fn advice(by: StopBy) -> &'static str {
    match by {
        StopBy::Ban => "ask the site or your VO's contact; other sites may have done the same",
        StopBy::Overuse => "make it use less before you run it again, or ask the site",
        StopBy::Administrator | StopBy::Limit => "this site will not run it on: try another site, or ask",
    }
}
