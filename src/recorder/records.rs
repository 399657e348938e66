//! What the recorder itself writes about a payload: pure functions from what is known to a record.
//!
//! 1. Who a payload is, and where, is taken from its launch record, never from a later message of the launcher.
//! 2. What only the recorder may say (`launcher-lost`, `recorder-restart`, `host-restart`) is not taken from anybody else.
#![forbid(unsafe_code)]

use super::observe::{Program, confine};
use crate::audit::Timestamp;
use crate::audit::chain::hex;
use crate::audit::record::{
    Action, Assurance, Ban, BanChange, End, EndBy, ErrorInfo, Host, Id, Identity, LiveEntry, Observed,
    Outcome, Overuse, Peer as PeerField, Preserved, Query, Record, Recorder, Usage,
};
use crate::audit::wire;
use crate::failure::Failure;
use crate::policy::lists::Change;
use crate::policy::verdict::Hit;
use crate::request::LaunchId;
use crate::supervisor::signal_name;

/// Who asked, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Asker {
    fn field(self) -> PeerField {
        PeerField { pid: Some(i64::from(self.pid)), uid: Some(self.uid), gid: Some(self.gid) }
    }
}

/// What is kept of a launch record for as long as the payload lives.
pub(super) fn base(launch: &Record, id: LaunchId) -> Box<Record> {
    let mut base = Box::new(launch.about(Action::PayloadLaunch, id));
    base.shorten();
    base.grid.launcher.start_ticks = launch.grid.launcher.start_ticks;
    base
}

/// The same from the live list alone, where the launch record cannot be read any more.
pub(super) fn base_of_entry(entry: &LiveEntry, id: LaunchId) -> Box<Record> {
    let mut base = Box::new(Record::new(Action::PayloadLaunch, id));
    base.process.pid = entry.pid;
    base.grid.start_ticks = entry.start_ticks;
    base.process.parent.pid = entry.launcher_pid;
    base.process.real_user = Id { id: entry.uid.map(|uid| uid.to_string()) };
    base.user.id.clone_from(&entry.user);
    base.grid.vo.clone_from(&entry.vo);
    base.grid.job.id.clone_from(&entry.job);
    base
}

/// The end as the launcher tells it, with what is not the launcher's to tell put right. `stopped`: an administrator had asked.
pub(super) fn end(base: &Record, claim: &Record, id: LaunchId, node: &Host, stopped: bool) -> Record {
    let action =
        if claim.event.action == Action::LaunchFailed { Action::LaunchFailed } else { Action::PayloadEnd };
    let mut end = base.about(action, id);
    end.host.clone_from(node);
    end.event.created = claim.event.created;
    end.event.duration = claim.event.duration;
    end.event.reason = claim.event.reason.as_deref().map(short);
    if action == Action::PayloadEnd {
        end.event.outcome = claim.event.outcome.or(Some(Outcome::Failure));
    }
    end.process.exit_code = claim.process.exit_code;
    end.process.end = claim.process.end;
    end.grid.fault = claim.grid.fault.filter(|_| action == Action::LaunchFailed);
    end.error.code = claim.error.code.as_deref().map(short);
    end.error.message = claim.error.message.as_deref().map(short);
    end.grid.end.signal = claim.grid.end.signal.as_deref().map(short);
    let ban = &claim.grid.policy.ban;
    end.grid.policy.ban = Ban {
        entry: ban.entry.as_deref().map(short),
        whom: ban.whom.as_deref().map(short),
        reason: ban.reason.as_deref().map(short),
        ticket: ban.ticket.as_deref().map(short),
    };
    end.grid.usage.clone_from(&claim.grid.usage);
    end.grid.usage.source = claim.grid.usage.source.as_deref().map(short);
    end.grid.end.by = match claim.grid.end.by {
        Some(EndBy::LauncherLost | EndBy::RecorderRestart | EndBy::HostRestart) => Some(EndBy::Payload),
        Some(EndBy::Administrator) if !stopped => Some(EndBy::PilotSignal),
        other => other,
    };
    end
}

/// What the kernel says of the end differs from what the launcher says.
pub(super) fn compare_end(end: &mut Record, status: Option<i32>) {
    let Some(status) = status else { return };
    let code = libc::WIFEXITED(status).then(|| i64::from(libc::WEXITSTATUS(status)));
    let signal = libc::WIFSIGNALED(status).then(|| signal_name(libc::WTERMSIG(status)));
    let (claimed_code, claimed_signal) = (end.process.exit_code, end.grid.end.signal.clone());
    if end.event.action == Action::PayloadEnd && (code, &signal) != (claimed_code, &claimed_signal) {
        end.grid.observed.contradictions.push(format!(
            "the launcher says exit code {claimed_code:?} and signal {claimed_signal:?}, the kernel {code:?} and {signal:?}"
        ));
        end.process.exit_code = code;
        end.grid.end.signal = signal;
    }
}

/// The end of a payload that its launcher did not report. `status` is the wait status, where the kernel still told it.
pub(super) fn lost(
    base: &Record,
    id: LaunchId,
    by: EndBy,
    reason: &str,
    node: &Host,
    since: Option<Timestamp>,
    status: Option<i32>,
) -> Record {
    let mut end = base.about(Action::PayloadEnd, id);
    end.host.clone_from(node);
    end.event.outcome = Some(Outcome::Failure);
    end.event.reason = Some(reason.to_owned());
    end.grid.end.by = Some(by);
    if by != EndBy::HostRestart {
        let now = Timestamp::now();
        end.process.end = Some(now);
        end.event.duration = since.map(|since| now.nanos_since(since));
    }
    if let Some(status) = status {
        if libc::WIFEXITED(status) {
            end.process.exit_code = Some(i64::from(libc::WEXITSTATUS(status)));
        } else if libc::WIFSIGNALED(status) {
            end.grid.end.signal = Some(signal_name(libc::WTERMSIG(status)));
        }
    }
    end
}

/// A launch that is refused here: the claim, marked as what it is.
pub(super) fn deny(claim: &Record, failure: &Failure, node: &Host, asker: Asker) -> Record {
    let mut record = small(claim);
    confine(&mut record);
    let id = record.event.id.take().filter(|id| LaunchId::parse(id).is_some());
    record.container.id.clone_from(&id);
    let outer = claim.grid.parent_launch.as_deref().and_then(LaunchId::parse);
    record.grid.parent_launch = outer.map(|outer| outer.to_string());
    let made = Record::of_log(Action::PayloadDeny, node.clone());
    record.event = made.event;
    record.event.id = id;
    record.event.created = claim.event.created;
    record.event.category = vec!["process".to_owned()];
    record.event.reason = Some(failure.to_string());
    record.grid.fault = Some(failure.fault);
    record.ecs = made.ecs;
    record.host.clone_from(node);
    record.process.real_user = Id { id: Some(asker.uid.to_string()) };
    record.process.real_group = Id { id: Some(asker.gid.to_string()) };
    record.grid.peer = asker.field();
    record.error =
        ErrorInfo { code: Some(failure.code.exit_code().to_string()), message: Some(failure.to_string()) };
    record
}

/// A record that a launcher writes beside launch and end; `None` when it may not.
pub(super) fn note(
    base: Option<&Record>,
    claim: &Record,
    id: LaunchId,
    node: &Host,
    asker: Asker,
) -> Option<Record> {
    let action = claim.event.action;
    let mut record = match (action, base) {
        (Action::PayloadNotice | Action::PayloadStop, Some(base)) => {
            let mut record = base.about(action, id);
            record.grid.preserved.clone_from(&claim.grid.preserved);
            record.grid.overuse.clone_from(&claim.grid.overuse);
            record.grid.overuse.rule = record.grid.overuse.rule.as_deref().map(short);
            record
        }
        (Action::PayloadDeny | Action::LaunchFailed, None) => {
            let mut record = small(claim);
            record.event.id = Some(id.to_string());
            confine(&mut record);
            record.grid.observed = Observed::default();
            record.grid.end = End::default();
            record.grid.usage = Usage::default();
            record.grid.preserved = Preserved::default();
            record.grid.overuse = Overuse::default();
            record.error.code = claim.error.code.as_deref().map(short);
            record.error.message = claim.error.message.as_deref().map(short);
            record
        }
        _ => return None,
    };
    record.host.clone_from(node);
    record.event.reason = claim.event.reason.as_deref().map(short);
    record.process.real_user = Id { id: Some(asker.uid.to_string()) };
    record.process.real_group = Id { id: Some(asker.gid.to_string()) };
    Some(record)
}

/// `payload-stop` by an administrator.
pub(super) fn stop(base: &Record, id: LaunchId, stop: &wire::Stop, node: &Host, asker: Asker) -> Record {
    let mut record = base.about(Action::PayloadStop, id);
    record.host.clone_from(node);
    let how = match (stop.freeze, stop.preserve) {
        (true, true) => "frozen, with its files kept,",
        (true, false) => "frozen",
        (false, true) => "stopped, with its files kept,",
        (false, false) => "stopped",
    };
    record.event.reason = Some(format!("{how} by uid {}: {}", asker.uid, short(&stop.reason)));
    record.grid.stop = stop.order();
    record.grid.peer = asker.field();
    record
}

/// `payload-stop` by a ban.
pub(super) fn banned(base: &Record, id: LaunchId, stop: &wire::Stop, hit: &Hit, node: &Host) -> Record {
    let mut record = base.about(Action::PayloadStop, id);
    record.host.clone_from(node);
    let how = if stop.freeze { "frozen" } else { "stopped" };
    record.event.reason = Some(format!("{how} by {}: {}", hit.place(), stop.reason));
    record.grid.stop = stop.order();
    record.grid.policy.ban = Ban::of(hit);
    record
}

/// `ban-change`. `by`: who said so, if it was done with `bailey ban`.
pub(super) fn ban_change(change: &Change, node: &Host, by: Option<Asker>) -> Record {
    let mut record = change.record(node.clone());
    if let Some(by) = by {
        record.grid.ban_change.by = Some("bailey-ban".to_owned());
        record.grid.peer = by.field();
    }
    record
}

/// `ban-change` of a version that `bailey ban` told of, and that another one replaced before it was seen.
pub(super) fn ban_change_unseen(list: &str, digest: &str, node: &Host, by: Asker) -> Record {
    let mut record = Record::of_log(Action::BanChange, node.clone());
    let list = short(list);
    record.event.reason = Some(format!(
        "bailey ban said that it would change {list}; that version was replaced before it was seen"
    ));
    record.grid.ban_change = BanChange {
        list: Some(list),
        after: Some(short(digest)),
        by: Some("bailey-ban".to_owned()),
        ..BanChange::default()
    };
    record.grid.peer = by.field();
    record
}

/// A notice of the recorder's own about a payload.
pub(super) fn notice(base: &Record, id: LaunchId, node: &Host, reason: String) -> Record {
    let mut record = base.about(Action::PayloadNotice, id);
    record.host.clone_from(node);
    record.event.reason = Some(reason);
    record
}

/// `node-drain`.
pub(super) fn drain(reason: Option<&str>, node: &Host, asker: Option<Asker>) -> Record {
    let mut record = Record::of_log(Action::NodeDrain, node.clone());
    record.event.reason = Some(match reason {
        Some(reason) => format!("no new payloads: {}", short(reason)),
        None => "new payloads are taken again".to_owned(),
    });
    record.grid.peer = asker.map(Asker::field).unwrap_or_default();
    record
}

/// `config-change`: the configuration that holds now; `broken`: why the files as they are cannot be used.
pub(super) fn configuration(hash: &str, changed: bool, broken: Option<&str>, node: &Host) -> Record {
    let mut record = Record::of_log(Action::ConfigChange, node.clone());
    record.event.reason = Some(match broken {
        Some(why) => format!("the configuration cannot be used, the one before holds: {}", short(why)),
        None if changed => "the configuration is another one".to_owned(),
        None => "the configuration can be used again, and is the one before".to_owned(),
    });
    record.grid.policy.config_hash = Some(hash.to_owned());
    record
}

/// `query`.
pub(super) fn query(query: &wire::Query, node: &Host, asker: Asker) -> Record {
    let mut record = Record::of_log(Action::Query, node.clone());
    record.grid.query = Query { text: Some(short(&query.text)), matches: Some(query.matches) };
    record.grid.peer = asker.field();
    record
}

/// `payload-identity`: about a launch that lives (`base`), or about one that ended.
pub(super) fn identity(
    base: Option<&Record>,
    id: LaunchId,
    learned: &wire::Identity,
    node: &Host,
    asker: Asker,
) -> Record {
    let mut record = match base {
        Some(base) => base.about(Action::PayloadIdentity, id),
        None => Record::new(Action::PayloadIdentity, id),
    };
    record.host.clone_from(node);
    let user = short(&learned.user);
    let groups: Vec<String> = learned.groups.iter().take(64).map(|group| short(group)).collect();
    record.event.reason = Some(format!("the VO's resolver names {user}"));
    record.user.id = Some(user.clone());
    record.user.domain = learned.issuer.as_deref().map(short);
    record.user.roles.clone_from(&groups);
    record.related.user = vec![user.clone()];
    record.grid.identity = Identity {
        assurance: Some(Assurance::Declared),
        source: Some("resolver".to_owned()),
        issuer: record.user.domain.clone(),
        subject: Some(user),
        groups,
        ..Identity::default()
    };
    record.grid.peer = asker.field();
    record.shorten();
    record
}

/// `health-check`: of the claim nothing is kept but which program asked.
pub(super) fn check(node: &Host, asker: Asker, program: Option<&Program>, version: Option<&str>) -> Record {
    let mut record = Record::of_log(Action::HealthCheck, node.clone());
    record.event.reason =
        Some("a payload was set up as far as its execve, and nothing ran (bailey check)".to_owned());
    record.grid.launcher.version = version.map(short);
    if let Some(program) = program {
        record.process.parent.executable = Some(program.path.clone());
        record.process.parent.hash.sha256 = Some(hex(&program.sha256));
    }
    record.grid.peer = asker.field();
    record
}

/// `recorder-start`, `recorder-stop`.
pub(super) fn service(action: Action, node: &Host, recorder: Recorder, reason: Option<String>) -> Record {
    let mut record = Record::of_log(action, node.clone());
    record.grid.recorder = recorder;
    record.event.reason = reason;
    record
}

/// The entry of the live list, but for what the log fills in. Its strings stay short: it is written again and again.
pub(super) fn live_entry(record: &Record, nested: bool) -> LiveEntry {
    let mut entry = super::log::live_entry(record);
    for text in [&mut entry.user, &mut entry.vo, &mut entry.job].into_iter().flatten() {
        *text = short(text);
    }
    entry.nested = nested.then_some(true);
    entry
}

/// The largest claim that a record of a launch that did not come to be repeats.
const CLAIM: usize = 32 * 1024;

/// A claim as it is, or what it says of who and where when it is too large to be kept.
fn small(claim: &Record) -> Record {
    let size = serde_json::to_vec(claim).map_or(usize::MAX, |bytes| bytes.len());
    if size <= CLAIM {
        return claim.clone();
    }
    let mut record = claim.about(claim.event.action, LaunchId::from_parts(0, [0; 10]));
    record.shorten();
    record.event.id.clone_from(&claim.event.id);
    record.event.created = claim.event.created;
    record.grid.fault = claim.grid.fault;
    record
}

/// Text from outside, at most 1 KiB of it.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 1024;
    let end = (0..=MOST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}
