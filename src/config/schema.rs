//! The shape of one configuration file: every key optional, nothing unknown. [`Keys::apply`] lays it over what was there.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use crate::request::Stdio;
use serde::Deserialize;

use super::apptainer;
use super::cgroup::{Cpus, Oom, Parent, Swap};
use super::overuse::{Id, OveruseKeys};
use super::policy::{Bans, Image, PersonKeys, Policy, RuleKeys, TrustKeys, User, VoKeys};
use super::values::{
    Cores, Count, DiscoverFor, EtcName, ImageEtc, LogDir, Memory, Metrics, OomScore, Pass, Place, Processes,
    Read, SearchPath, Shown, SiteName, Size, SysDir, Uids, Umask, Unless, WallTime,
};
use super::{
    Abi32, Args, Config, Demand, Discover, ForeignConfig, Journald, Probes, UidMode, Undeclared, set,
};
use crate::policy::group::GroupPattern;

type List<T> = Option<Vec<Read<T>>>;
type One<T> = Option<Read<T>>;

/// One file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keys {
    site: Site,
    identity: Identity,
    audit: Audit,
    recorder: Recorder,
    retention: Retention,
    root: Root,
    environment: Environment,
    apptainer: apptainer::Keys,
    sandbox: Sandbox,
    uid: Uid,
    root_caller: RootCaller,
    cgroup: Cgroup,
    limits: Limits,
    overuse: Vec<OveruseKeys>,
    policy: Policy,
    image: Image,
    bans: Bans,
    rule: Vec<RuleKeys>,
    person: Vec<PersonKeys>,
    trust: Vec<TrustKeys>,
    vo: Vec<VoKeys>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [site]")]
struct Site {
    name: One<SiteName>,
    public_ip: List<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [identity]")]
struct Identity {
    undeclared: One<Undeclared>,
    discover: List<Discover>,
    discover_for: One<DiscoverFor>,
    job_ad_user: Option<bool>,
    pilots: List<User>,
    pilot_groups: List<GroupPattern>,
    probes: One<Probes>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [audit]")]
struct Audit {
    dir: One<LogDir>,
    recorder: One<Demand>,
    socket: One<Place>,
    wait: One<Duration>,
    network_filesystem: Option<bool>,
    journald: One<Journald>,
    args: One<Args>,
    user_name: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [recorder]")]
struct Recorder {
    dir: One<Place>,
    state: One<Place>,
    metrics: One<Metrics>,
    segment_size: One<Size>,
    live_list_every: One<Size>,
    checkpoint_records: One<Count>,
    checkpoint_every: One<Duration>,
    reserve: One<Size>,
    live_per_uid: One<Count>,
    launches_per_second: One<Count>,
    bytes_per_day: One<Size>,
    foreign_config: One<ForeignConfig>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [retention]")]
struct Retention {
    days: One<Unless<Count>>,
    size: One<Unless<Size>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [root]")]
struct Root {
    host: List<Shown>,
    host_etc: List<EtcName>,
    image_etc: List<ImageEtc>,
    always: List<Shown>,
    late_mounts: List<Shown>,
    sys: List<SysDir>,
    scratch_size: One<Size>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [environment]")]
struct Environment {
    pass: List<Pass>,
    path: One<SearchPath>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [sandbox]")]
struct Sandbox {
    pid_namespace: One<Demand>,
    proc: One<Demand>,
    ipc_namespace: One<Demand>,
    uts_namespace: One<Demand>,
    cgroup_namespace: One<Demand>,
    session_keyring: One<Demand>,
    seccomp: One<Demand>,
    abi_32bit: One<Abi32>,
    nested_namespaces: Option<bool>,
    landlock: One<Demand>,
    oom_score_adj: One<OomScore>,
    umask: One<Umask>,
    stdio: One<Stdio>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [uid]")]
struct Uid {
    mode: One<UidMode>,
    shared_dirs: List<Place>,
    state: One<LogDir>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [root_caller]")]
struct RootCaller {
    uids: One<Uids>,
    workdirs: List<Place>,
    state: One<Place>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [cgroup]")]
struct Cgroup {
    mode: One<Demand>,
    parent: One<Parent>,
    oom: One<Oom>,
    swap: One<Swap>,
    cpus: One<Cpus>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a section, written [limits]")]
struct Limits {
    wall_time: One<WallTime>,
    grace: One<Duration>,
    open_files: One<Unless<Count>>,
    memory: One<Unless<Memory>>,
    most_memory: One<Unless<Memory>>,
    cpus: One<Unless<Cores>>,
    most_cpus: One<Unless<Cores>>,
    pids: One<Unless<Processes>>,
    most_pids: One<Unless<Processes>>,
    file_size: One<Unless<Size>>,
    overuse_off: List<Id>,
}

impl Keys {
    /// Replaces in `config` what this file says. A list replaces the whole list; a `[[table]]` is one more.
    pub(super) fn apply(self, config: &mut Config) {
        // Taken apart in full: a key that is added above and forgotten here does not compile quietly.
        let Self {
            site: Site { name, public_ip },
            identity:
                Identity { undeclared, discover, discover_for, job_ad_user, pilots, pilot_groups, probes },
            audit: Audit { dir, recorder, socket, wait, network_filesystem, journald, args, user_name },
            recorder:
                Recorder {
                    dir: recorder_dir,
                    state,
                    metrics,
                    segment_size,
                    live_list_every,
                    checkpoint_records,
                    checkpoint_every,
                    reserve,
                    live_per_uid,
                    launches_per_second,
                    bytes_per_day,
                    foreign_config,
                },
            retention: Retention { days, size },
            root: Root { host, host_etc, image_etc, always, late_mounts, sys, scratch_size },
            environment: Environment { pass, path },
            apptainer,
            sandbox:
                Sandbox {
                    pid_namespace,
                    proc,
                    ipc_namespace,
                    uts_namespace,
                    cgroup_namespace,
                    session_keyring,
                    seccomp,
                    abi_32bit,
                    nested_namespaces,
                    landlock,
                    oom_score_adj,
                    umask,
                    stdio,
                },
            uid: Uid { mode, shared_dirs, state: subuid_state },
            root_caller: RootCaller { uids, workdirs, state: uids_state },
            cgroup: Cgroup { mode: cgroup_mode, parent, oom, swap, cpus: cgroup_cpus },
            limits:
                Limits {
                    wall_time,
                    grace,
                    open_files,
                    memory,
                    most_memory,
                    cpus,
                    most_cpus,
                    pids,
                    most_pids,
                    file_size,
                    overuse_off,
                },
            overuse,
            policy,
            image,
            bans,
            rule,
            person,
            trust,
            vo,
        } = self;
        for rule in overuse {
            rule.apply(&mut config.overuse);
        }
        apptainer.apply(&mut config.apptainer);
        policy.apply(config);
        image.apply(config);
        bans.apply(config);
        let tables = &mut config.tables;
        tables.rules.extend(rule.into_iter().map(RuleKeys::make));
        tables.persons.extend(person.into_iter().map(PersonKeys::make));
        tables.trusts.extend(trust.into_iter().map(TrustKeys::make));
        tables.vos.extend(vo.into_iter().map(VoKeys::make));

        set(&mut config.site.name, name.map(|v| v.0.0));
        set(&mut config.site.public_ip, list(public_ip, |v| v));
        set(&mut config.identity.undeclared, undeclared.map(|v| v.0));
        set(&mut config.identity.discover, list(discover, |v| v));
        set(&mut config.identity.discover_always, discover_for.map(|v| v.0 == DiscoverFor::All));
        set(&mut config.identity.job_ad_user, job_ad_user);
        set(&mut config.identity.pilots, list(pilots, |v| v.0));
        set(&mut config.identity.pilot_groups, list(pilot_groups, |v| v));
        set(&mut config.identity.probes, probes.map(|v| v.0));
        set(&mut config.audit.dir, dir.map(|v| v.0.0));
        set(&mut config.audit.recorder, recorder.map(|v| v.0));
        set(&mut config.audit.socket, socket.map(|v| v.0.0));
        set(&mut config.audit.wait, wait.map(|v| v.0));
        set(&mut config.audit.network_filesystem, network_filesystem);
        set(&mut config.audit.journald, journald.map(|v| v.0));
        set(&mut config.audit.args, args.map(|v| v.0));
        set(&mut config.audit.user_name, user_name);
        set(&mut config.recorder.dir, recorder_dir.map(|v| v.0.0));
        set(&mut config.recorder.state, state.map(|v| v.0.0));
        set(&mut config.recorder.metrics, metrics.map(|v| v.0.0));
        set(&mut config.recorder.segment_size, segment_size.map(|v| v.0.0));
        set(&mut config.recorder.live_list_every, live_list_every.map(|v| v.0.0));
        set(&mut config.recorder.checkpoint_records, checkpoint_records.map(|v| v.0.0));
        set(&mut config.recorder.checkpoint_every, checkpoint_every.map(|v| v.0));
        set(&mut config.recorder.reserve, reserve.map(|v| v.0.0));
        set(&mut config.recorder.live_per_uid, live_per_uid.map(|v| v.0.0));
        set(&mut config.recorder.launches_per_second, launches_per_second.map(|v| v.0.0));
        set(&mut config.recorder.bytes_per_day, bytes_per_day.map(|v| v.0.0));
        set(&mut config.recorder.foreign_config, foreign_config.map(|v| v.0));
        set(&mut config.retention.days, days.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.retention.size, size.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.root.host, list(host, |v| v.0));
        set(&mut config.root.host_etc, list(host_etc, |v| v.0));
        set(&mut config.root.image_etc, list(image_etc, |v| v.0));
        set(&mut config.root.always, list(always, |v| v.0));
        set(&mut config.root.late_mounts, list(late_mounts, |v| v.0));
        set(&mut config.root.sys, list(sys, |v| v.0));
        set(&mut config.root.scratch_size, scratch_size.map(|v| v.0.0));
        set(&mut config.environment.pass, list(pass, |v| v.0));
        set(&mut config.environment.path, path.map(|v| v.0.0));
        set(&mut config.sandbox.pid_namespace, pid_namespace.map(|v| v.0));
        set(&mut config.sandbox.proc, proc.map(|v| v.0));
        set(&mut config.sandbox.ipc_namespace, ipc_namespace.map(|v| v.0));
        set(&mut config.sandbox.uts_namespace, uts_namespace.map(|v| v.0));
        set(&mut config.sandbox.cgroup_namespace, cgroup_namespace.map(|v| v.0));
        set(&mut config.sandbox.session_keyring, session_keyring.map(|v| v.0));
        set(&mut config.sandbox.seccomp, seccomp.map(|v| v.0));
        set(&mut config.sandbox.abi_32bit, abi_32bit.map(|v| v.0));
        set(&mut config.sandbox.allow_nested, nested_namespaces);
        set(&mut config.sandbox.landlock, landlock.map(|v| v.0));
        set(&mut config.sandbox.oom_score_adj, oom_score_adj.map(|v| v.0.0));
        set(&mut config.sandbox.umask, umask.map(|v| v.0.0));
        set(&mut config.sandbox.stdio, stdio.map(|v| v.0));
        set(&mut config.uid.mode, mode.map(|v| v.0));
        set(&mut config.uid.shared_dirs, list(shared_dirs, |v| v.0));
        set(&mut config.uid.state, subuid_state.map(|v| v.0.0));
        set(&mut config.root_caller.uids, uids.map(|v| v.0.0));
        set(&mut config.root_caller.workdirs, list(workdirs, |v| v.0));
        set(&mut config.root_caller.state, uids_state.map(|v| v.0.0));
        set(&mut config.cgroup.mode, cgroup_mode.map(|v| v.0));
        set(&mut config.cgroup.parent, parent.map(|v| v.0.0));
        set(&mut config.cgroup.oom, oom.map(|v| v.0));
        set(&mut config.cgroup.swap, swap.map(|v| v.0));
        set(&mut config.cgroup.cpus, cgroup_cpus.map(|v| v.0));
        set(&mut config.limits.wall_time, wall_time.map(|v| v.0.0));
        set(&mut config.limits.grace, grace.map(|v| v.0));
        set(&mut config.limits.open_files, open_files.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.memory, memory.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.most_memory, most_memory.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.cpus_milli, cpus.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.most_cpus_milli, most_cpus.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.pids, pids.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.most_pids, most_pids.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.file_size, file_size.map(|v| v.0.0.map(|v| v.0)));
        set(&mut config.limits.overuse_off, list(overuse_off, |v| v.0));
    }
}

/// The values of a list, each once: a path named twice is mounted once.
fn list<T, U: PartialEq>(said: List<T>, inner: impl Fn(T) -> U) -> Option<Vec<U>> {
    said.map(|values| {
        let mut once = Vec::with_capacity(values.len());
        for Read(value) in values {
            let value = inner(value);
            if !once.contains(&value) {
                once.push(value);
            }
        }
        once
    })
}
