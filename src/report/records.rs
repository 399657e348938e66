//! From what the launcher knows to the fields of the audit record (docs/record.md). Pure: everything is passed in.
#![forbid(unsafe_code)]

use super::Desk;
use crate::audit::chain::hex;
use crate::audit::journal;
use crate::audit::record::{
    Action, EndBy, ErrorInfo, Host, Id, Identity, Mount, Outcome, Record, Role, entity_id,
};
use crate::audit::redact;
use crate::audit::time::Timestamp;
use crate::audit::wire::Stop;
use crate::audit::{record, redact::Args};
use crate::config::Journald;
use crate::failure::{Code, Failure};
use crate::identity;
use crate::plan::HandedOver;
use crate::policy::lists::Lists;
use crate::policy::verdict::{By, Denial, Verdict};
use crate::proc::capability_names;
use crate::sandbox::NAMESPACES;
use crate::sandbox::observe::Observed;
use crate::sandbox::protocol::Ready;
use crate::supervisor::{Cause, End, signal_name};
use crate::sys::elf;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What is known of the payload while it is frozen.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// pid on the host.
    pub pid: i32,
    /// What it read back of itself.
    pub ready: Ready,
    /// What Landlock granted, in words.
    pub landlock: String,
    /// What the kernel shows of it; `None` where the host hides it.
    pub observed: Option<Observed>,
    /// When it was made, from `observed`; worked out once, so that all records say the same nanosecond.
    pub started: Option<Timestamp>,
    /// Inode numbers in the order of [`NAMESPACES`].
    pub namespaces: Vec<u64>,
    /// Its control group, where it has one of its own.
    pub cgroup: Option<record::Cgroup>,
    /// Which limits hold, in words.
    pub limits: BTreeMap<&'static str, String>,
    /// Path of the command, inside.
    pub executable: String,
    /// SHA-256 of the executable when it was handed over from outside the image.
    pub executable_hash: Option<String>,
}

/// What every record of this launch says.
pub(super) fn base(desk: &Desk<'_>, node: Host) -> Record {
    let mut record = Record::new(Action::PayloadLaunch, desk.id);
    record.event.created = Some(desk.asked_at);
    record.host = node;
    record.process.real_user = Id { id: Some(desk.caller.uid.to_string()) };
    record.process.real_group = Id { id: Some(desk.caller.gid.to_string()) };
    record.process.parent.pid = Some(i64::from(std::process::id()));
    record.process.parent.executable =
        std::env::current_exe().ok().map(|path| redact::text(path.as_os_str().as_encoded_bytes()));
    let words = if desk.facts.words.is_empty() { &desk.request.command } else { &desk.facts.words };
    let Args { list, info } = redact::args(words, desk.config.audit.args);
    record.process.args = list;
    record.grid.args = info;
    record.grid.role = Some(if desk.request.probe { Role::Probe } else { Role::Payload });
    // The payload is where its launcher is: nothing between here and the fork moves it.
    record.grid.cgroup = crate::host::cgroup();
    record.grid.launcher.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    record.grid.launcher.build_id = elf::build_id();
    record.grid.clock.synchronized = crate::host::clock_synchronized();
    record.grid.policy.clone_from(&desk.policy);
    record.grid.policy.config_hash = Some(desk.config.hash.clone());
    record.grid.site.name = Some(desk.config.site.name.clone()).filter(|name| !name.is_empty());
    record.grid.site.public_ip.clone_from(&desk.config.site.public_ip);
    set_identity(&mut record, desk);
    set_facts(&mut record, desk);
    record.related.ip.clone_from(&record.host.ip);
    for ip in &desk.config.site.public_ip {
        if !record.related.ip.contains(ip) {
            record.related.ip.push(*ip);
        }
    }
    record
}

fn set_identity(record: &mut Record, desk: &Desk<'_>) {
    let Some(identity) = &desk.identity else { return };
    record.user.id.clone_from(&identity.user);
    record.user.domain = identity.issuer.clone().or_else(|| identity.vo.clone());
    record.user.roles.clone_from(&identity.groups);
    if desk.config.audit.user_name {
        record.user.name.clone_from(&identity.name);
    }
    record.related.user = identity.user.iter().cloned().collect();
    for name in desk.names.iter().chain(identity.others.iter().map(|other| &other.user)) {
        if !record.related.user.contains(name) {
            record.related.user.push(name.clone());
        }
    }
    record.grid.vo.clone_from(&identity.vo);
    record.grid.identity = Identity {
        assurance: Some(match identity.assurance {
            identity::Assurance::Undeclared => record::Assurance::Undeclared,
            identity::Assurance::Declared => record::Assurance::Declared,
        }),
        source: Some(identity.source.as_str().to_owned()).filter(|source| source != "none"),
        issuer: identity.issuer.clone(),
        subject: identity.user.clone(),
        groups: identity.groups.clone(),
        jti: identity.jti.clone(),
        person: desk.person.clone(),
        others: identity.others.iter().map(other).collect(),
        remarks: identity.remarks.iter().map(|remark| redact::text(remark.as_bytes())).collect(),
        ..Identity::default()
    };
    record.grid.role = Some(match identity.role {
        identity::Role::Payload => Role::Payload,
        identity::Role::Pilot => Role::Pilot,
        identity::Role::Probe => Role::Probe,
    });
    record.grid.pilot.subject = identity.pilot_names.first().map(ToString::to_string);
    record.grid.pilot.names = identity.pilot_names.iter().map(other).collect();
    record.grid.pilot.batch_job_id.clone_from(&identity.batch);
    record.grid.pilot.id.clone_from(&identity.pilot);
    record.grid.job.id.clone_from(&identity.job);
    record.grid.job.task.clone_from(&identity.task);
}

/// A name beside the user's.
fn other(name: &identity::Other) -> record::OtherIdentity {
    record::OtherIdentity {
        assurance: Some(record::Assurance::Declared),
        source: Some(name.source.as_str().to_owned()),
        issuer: name.issuer.clone(),
        subject: Some(name.user.clone()),
        groups: name.groups.clone(),
        jti: name.jti.clone(),
    }
}

fn set_facts(record: &mut Record, desk: &Desk<'_>) {
    let facts = &desk.facts;
    record.container.image.name =
        facts.image.as_ref().map(|path| redact::text(path.as_os_str().as_encoded_bytes()));
    record.container.image.hash.all.clone_from(&facts.image_ids);
    record.related.hash.clone_from(&facts.image_ids);
    let text = |text: &String| redact::text(text.as_bytes());
    record.grid.image = record::ImageTold {
        created: facts.told.made.as_ref().map(|(when, _)| *when),
        created_by: facts.told.made.as_ref().map(|(_, by)| text(by)),
        os: facts.told.os.as_ref().map(|os| text(&os.to_string())),
        end_of_life: facts.end_of_life.map(Timestamp::day),
        labels: required_labels(desk),
        remarks: facts.told.remarks.iter().map(text).collect(),
    };
    if facts.start_dir.is_absolute() {
        record.process.working_directory = Some(redact::text(facts.start_dir.as_os_str().as_encoded_bytes()));
    }
    let path = |path: &Path| Some(redact::text(path.as_os_str().as_encoded_bytes()));
    record.grid.mounts = facts
        .mounts
        .iter()
        .map(|mount| Mount {
            source: path(&mount.source),
            target: path(&mount.target),
            mode: Some(mount.mode.to_owned()),
        })
        .collect();
    record.grid.limits.scratch = Some(facts.scratch).filter(|bytes| *bytes > 0);
    record.grid.limits.memory = facts.limits.memory;
    record.grid.limits.cpus_milli = facts.limits.cpus_milli;
    record.grid.limits.pids = facts.limits.pids;
    record.grid.limits.cpuset = facts.limits.cpuset.map(|cpus| cpus.to_string());
    record.grid.limits.wall_time = facts.wall_time.map(|limit| limit.as_secs());
    record.grid.sandbox =
        facts.walls.iter().map(|(name, state)| ((*name).to_owned(), state.clone())).collect();
    record.grid.unheeded = facts.unheeded.iter().map(text).collect();
    if desk.config.audit.journald != Journald::Off {
        record.grid.sandbox.insert("journald".to_owned(), journal::state());
    }
}

/// `grid.policy`, from what the site's policy said.
pub(super) fn policy(verdict: &Verdict, lists: &Lists) -> record::Policy {
    let mut policy = record::Policy {
        rule: verdict.rule.clone(),
        bans_version: Some(lists.version.clone()).filter(|_| !lists.lists.is_empty()),
        profile: Some(verdict.obligations.profile.as_str().to_owned()),
        remarks: verdict.remarks.iter().map(|remark| redact::text(remark.as_bytes())).collect(),
        ..record::Policy::default()
    };
    if let Some(Denial { by: By::Ban(hit), .. }) = &verdict.denial {
        policy.ban = record::Ban::of(hit);
    }
    policy
}

/// Of the image's labels those that the site's rules name.
fn required_labels(desk: &Desk<'_>) -> BTreeMap<String, String> {
    let name =
        |label: &String| label.split_once('=').map_or_else(|| label.clone(), |(name, _)| name.to_owned());
    let wanted = desk.config.policy.image.required_labels.iter().map(name);
    wanted
        .filter_map(|name| Some((name.clone(), redact::text(desk.facts.told.labels.get(&name)?.as_bytes()))))
        .collect()
}

/// A copy of the common part with the constants of another action.
fn of_action(desk: &Desk<'_>, action: Action) -> Record {
    let mut record = Record::new(action, desk.id);
    if let Some(base) = &desk.base {
        let event = record.event.clone();
        record.clone_from(base);
        record.event = event;
        record.event.created = Some(desk.asked_at);
    }
    record
}

/// SHA-256 of an executable that lies on something that was handed over: the image's own are known by the image. `None`
/// for those, and for a file too large to be read before every launch.
///
/// The payload's process opened it, so that no name is looked up out here, where another file could answer to it.
pub(super) fn handed_over_hash(
    program: BorrowedFd<'_>,
    inside: &Path,
    mounts: &[HandedOver],
) -> Option<String> {
    const LARGEST: u64 = 256 << 20;
    mounts.iter().find(|mount| inside.starts_with(&mount.target))?;
    let mut file = std::fs::File::from(program.try_clone_to_owned().ok()?);
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > LARGEST {
        return None;
    }
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hex(&digest.finalize().into())),
            length => digest.update(buffer.get(..length)?),
        }
    }
}

/// `payload-launch`.
pub(super) fn launch(desk: &Desk<'_>, frozen: &Frozen) -> Record {
    let mut record = of_action(desk, Action::PayloadLaunch);
    set_payload(&mut record, frozen);
    let [user, mnt, pid, ipc, uts, net, cgroup] =
        std::array::from_fn::<_, { NAMESPACES.len() }, _>(|index| frozen.namespaces.get(index).copied());
    record.grid.namespaces = record::Namespaces { user, mnt, pid, ipc, uts, net, cgroup };
    record.process.executable = Some(frozen.executable.clone());
    record.process.hash.sha256.clone_from(&frozen.executable_hash);
    record.related.hash.extend(frozen.executable_hash.clone());
    if let Some(cgroup) = &frozen.cgroup {
        record.grid.cgroup.clone_from(cgroup);
    }
    walls_read_back(&mut record.grid.sandbox, frozen);
    if let Some(observed) = &frozen.observed {
        record.grid.observed = record::Observed {
            no_new_privs: Some(observed.no_new_privs),
            seccomp: Some(observed.seccomp),
            pid_depth: u32::try_from(observed.pid_depth).ok(),
            ..record::Observed::default()
        };
        record.process.user = Id { id: Some(observed.uid.to_string()) };
        let [_, permitted, effective, ..] = observed.capabilities;
        record.process.thread.capabilities = record::Capabilities {
            permitted: capability_names(permitted),
            effective: capability_names(effective),
        };
    }
    record
}

/// `health-check` in the embedded log: as the recorder would write it.
pub(super) fn check(claim: &Record) -> Record {
    let mut record = Record::of_log(Action::HealthCheck, claim.host.clone());
    record.event.reason =
        Some("a payload was set up as far as its execve, and nothing ran (bailey check)".to_owned());
    record.grid.launcher.version.clone_from(&claim.grid.launcher.version);
    record.process.parent.executable.clone_from(&claim.process.parent.executable);
    let id = |id: &Id| id.id.as_deref().and_then(|id| id.parse().ok());
    record.grid.peer = record::Peer {
        pid: claim.process.parent.pid,
        uid: id(&claim.process.real_user),
        gid: id(&claim.process.real_group),
    };
    record
}

/// What the kernel confirmed goes beside what was planned.
fn walls_read_back(walls: &mut BTreeMap<String, String>, frozen: &Frozen) {
    let among = walls.get("pid_namespace").filter(|said| said.starts_with("off")).cloned();
    let stdio = walls.get("stdio").and_then(|said| crate::plan::streams_behind_rules(said));
    let mut put = |name: &str, state: String| walls.insert(name.to_owned(), state);
    let by =
        if frozen.observed.is_some() { "on" } else { "on: not confirmed, this host hides /proc of others" };
    for name in ["no_capabilities", "no_new_privs"] {
        put(name, by.to_owned());
    }
    for (name, state) in &frozen.limits {
        put(name, state.clone());
    }
    if frozen.ready.seccomp > 0 {
        let errno = nix::errno::Errno::from_raw(frozen.ready.seccomp);
        put("seccomp", format!("off: {}", crate::failure::errno_text(errno)));
    }
    // What stands in the plan for one that has none of its own is not to be bettered.
    if frozen.ready.proc > 0 {
        let errno = crate::failure::errno_text(nix::errno::Errno::from_raw(frozen.ready.proc));
        put("proc", format!("off: the kernel refuses one of its own ({errno}): {}", crate::plan::OUTER_PROC));
    } else if frozen.ready.proc == 0 {
        put("proc", "on".to_owned());
    }
    if frozen.ready.limits != 0 {
        let errno = crate::failure::errno_text(nix::errno::Errno::from_raw(frozen.ready.limits));
        put(
            "nested_namespaces_forbidden",
            format!("on: by its root directory, because the limits on namespaces cannot be set ({errno})"),
        );
    }
    // Compared before this is written: a payload that reports less does not get here.
    put("securebits_locked", "on".to_owned());
    put("landlock", frozen.landlock.clone());
    if let Some(among) = among {
        let signals = if frozen.ready.landlock.parts.scopes {
            "Landlock keeps it from signalling either"
        } else {
            "nothing keeps it from signalling them, bailey included"
        };
        put("pid_namespace", format!("{among}; {signals}"));
    }
    if let Some(stdio) = stdio.filter(|_| frozen.ready.landlock.parts.files) {
        put("stdio", stdio);
    }
    if let Some(observed) = &frozen.observed {
        put("signals_reset", "on".to_owned());
        put("scheduling", scheduling(observed.scheduling));
    }
    put(
        "session_keyring",
        match frozen.ready.keyring {
            0 => "on".to_owned(),
            -1 => "off: the site's configuration".to_owned(),
            raw => format!("off: {}", crate::failure::errno_text(nix::errno::Errno::from_raw(raw))),
        },
    );
}

/// The policy's name (sched(7)) and the nice value.
fn scheduling((policy, nice): (i32, i32)) -> String {
    let policy = match policy {
        libc::SCHED_OTHER => "other".to_owned(),
        libc::SCHED_BATCH => "batch".to_owned(),
        libc::SCHED_IDLE => "idle".to_owned(),
        number => format!("policy {number}"),
    };
    format!("{policy}, nice {nice}")
}

fn set_payload(record: &mut Record, frozen: &Frozen) {
    record.process.pid = Some(i64::from(frozen.pid));
    record.process.vpid = Some(i64::from(frozen.ready.vpid));
    if let Some(observed) = &frozen.observed {
        record.grid.start_ticks = Some(observed.start_ticks);
        record.process.start = frozen.started;
        if let (Some(host), Some(boot)) = (&record.host.id, &record.host.boot.id) {
            let id = entity_id(host, boot, i64::from(frozen.pid), observed.start_ticks);
            record.process.entity_id = Some(id);
        }
    }
}

/// Clock ticks since boot → UTC: boot was now minus the time since then (clock_gettime(2), CLOCK_BOOTTIME).
pub fn start_time(ticks: u64) -> Option<Timestamp> {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_REALTIME).ok()?;
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let boot = i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
        - i128::from(since_boot.tv_sec()) * 1_000_000_000
        - i128::from(since_boot.tv_nsec());
    let start = boot + i128::from(ticks) * 1_000_000_000 / i128::from(per_second);
    let (seconds, nanos) = (start.div_euclid(1_000_000_000), start.rem_euclid(1_000_000_000));
    Some(Timestamp::new(i64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
}

/// `payload-end`.
pub(super) fn end(desk: &Desk<'_>, frozen: &Frozen, end: &End, reason: &str) -> Record {
    let mut record = closing(desk, Action::PayloadEnd);
    set_payload(&mut record, frozen);
    record.process.executable = Some(frozen.executable.clone());
    record.process.end = Some(Timestamp::now());
    record.event.duration = u64::try_from(end.duration.as_nanos()).ok();
    record.event.reason = Some(reason.to_owned());
    let mut success = false;
    if let Some(status) = end.status {
        if libc::WIFEXITED(status) {
            record.process.exit_code = Some(i64::from(libc::WEXITSTATUS(status)));
            success = libc::WEXITSTATUS(status) == 0 && end.cause == Cause::Payload;
        } else if libc::WIFSIGNALED(status) {
            record.grid.end.signal = Some(signal_name(libc::WTERMSIG(status)));
        }
    } else {
        record.grid.end.signal = Some("SIGKILL".to_owned());
    }
    record.event.outcome = Some(if success { Outcome::Success } else { Outcome::Failure });
    record.grid.end.by = Some(match end.cause {
        Cause::Payload | Cause::InitLost => EndBy::Payload,
        Cause::PilotSignal(_) => EndBy::PilotSignal,
        Cause::WallTime => EndBy::WallTime,
        Cause::Overuse => EndBy::Overuse,
        Cause::Memory => EndBy::Memory,
        Cause::Ordered(by) => by.ends(),
    });
    record.grid.usage = usage(end);
    record
}

/// What the kernel counted: for the group where the payload has one of its own, else what init reaped. Each number is the
/// group's if that tells it.
fn usage(end: &End) -> record::Usage {
    let told = |value: u64| Some(value).filter(|value| *value != u64::MAX);
    let of_processes = record::Usage {
        source: Some("rusage".to_owned()),
        cpu_user_us: Some(end.usage.cpu_user_us),
        cpu_system_us: Some(end.usage.cpu_system_us),
        memory_peak_bytes: Some(end.usage.memory_peak_bytes),
        page_faults_major: Some(end.usage.page_faults_major),
        io_read_bytes: end.io.and_then(|io| told(io.read_bytes)),
        io_write_bytes: end.io.and_then(|io| told(io.write_bytes)),
        read_chars: end.io.and_then(|io| told(io.read_chars)),
        write_chars: end.io.and_then(|io| told(io.write_chars)),
        ..record::Usage::default()
    };
    let Some(group) = end.group else { return of_processes };
    record::Usage {
        source: Some(format!("cgroup{}", group.version)),
        cpu_user_us: group.cpu_user_us.or(of_processes.cpu_user_us),
        cpu_system_us: group.cpu_system_us.or(of_processes.cpu_system_us),
        // The largest process is not the sum: where the group does not tell, nobody does.
        memory_peak_bytes: group.memory_peak,
        page_faults_major: group.page_faults_major.or(of_processes.page_faults_major),
        io_read_bytes: group.io_read.or(of_processes.io_read_bytes),
        io_write_bytes: group.io_write.or(of_processes.io_write_bytes),
        processes_peak: group.pids_peak,
        oom_kills: group.oom_kills,
        ..of_processes
    }
}

/// The common part without what only the launch record needs to say.
fn closing(desk: &Desk<'_>, action: Action) -> Record {
    let mut record = of_action(desk, action);
    record.grid.sandbox.clear();
    record.grid.mounts.clear();
    record.grid.cgroup = record::Cgroup::default();
    // Known only since then: what ends it.
    record.grid.policy.ban.clone_from(&desk.policy.ban);
    record
}

/// `payload-stop`.
pub(super) fn stop(desk: &Desk<'_>, reason: &str) -> Record {
    let mut record = closing(desk, Action::PayloadStop);
    record.event.reason = Some(reason.to_owned());
    record
}

/// `payload-stop` of a ban that the launcher saw itself, as the recorder would have written it.
pub(super) fn banned(desk: &Desk<'_>, order: &Stop, place: &str) -> Record {
    let how = if order.freeze { "frozen" } else { "stopped" };
    let mut record = stop(desk, &format!("{how} by {place}: {}", order.reason));
    record.grid.stop = order.order();
    record
}

/// `payload-notice`.
pub(super) fn notice(desk: &Desk<'_>, reason: &str, preserved: Option<&record::Preserved>) -> Record {
    let mut record = closing(desk, Action::PayloadNotice);
    record.event.reason = Some(reason.to_owned());
    record.grid.preserved = preserved.cloned().unwrap_or_default();
    record
}

/// `payload-deny` or `launch-failed`.
pub(super) fn failure(desk: &Desk<'_>, failure: &Failure) -> Record {
    let denied = matches!(failure.code, Code::Refused | Code::ParallelLimit);
    // A launch that has its record is closed by launch-failed whatever the reason is.
    let action = if denied && !desk.has_launch_record() { Action::PayloadDeny } else { Action::LaunchFailed };
    let mut record = closing(desk, action);
    record.event.reason = Some(failure.to_string());
    record.grid.fault = Some(failure.fault);
    record.error =
        ErrorInfo { code: Some(failure.code.exit_code().to_string()), message: Some(failure.to_string()) };
    record
}
