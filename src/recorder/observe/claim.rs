//! What a launcher claims against what the kernel shows: contradictions in words, and the record with the observed facts.
#![forbid(unsafe_code)]

use super::{Observed, Peer, Program};
use crate::audit::chain::hex;
use crate::audit::record::{self, Action, Assurance, Host, Id, Record, entity_id};
use crate::proc::{capability_names, outside};
use crate::report::start_time;
use crate::request::LaunchId;

/// Where claim and observation differ, each a sentence with both values. What is not claimed contradicts nothing.
///
/// A launcher in a container numbers pids and uids as that does, so each is compared where both numberings are known. Its
/// control group and host id it may rightly see under other names: they are replaced, not compared.
pub fn contradictions(claim: &Record, peer: &Peer, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, claimed: Option<String>, seen: String| {
        if let Some(claimed) = claimed.filter(|claimed| *claimed != seen) {
            found.push(format!("{what}: the launcher says {claimed}, the kernel {seen}"));
        }
    };
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let at_peers_depth = observed.pids.get(peer.depth().saturating_sub(1)).copied().unwrap_or(0);
    differ("the payload's pid", number(claim.process.pid), at_peers_depth.to_string());
    differ("its pid inside", number(claim.process.vpid), observed.vpid().to_string());
    let own = peer.pids.last().copied().unwrap_or(peer.pid);
    differ("the launcher's pid", number(claim.process.parent.pid), own.to_string());
    // A start time counts from the boot of the reader's time namespace; on the host itself there is one.
    if peer.depth() == 1 {
        let claimed = claim.grid.start_ticks.map(|ticks| ticks.to_string());
        differ("its start in clock ticks", claimed, observed.start_ticks.to_string());
    }
    for (what, claimed, map, seen) in [
        ("the pilot's uid", &claim.process.real_user, &observed.uid_map, peer.uid),
        ("the pilot's gid", &claim.process.real_group, &observed.gid_map, peer.gid),
        ("the payload's uid", &claim.process.user, &observed.uid_map, observed.uid),
    ] {
        let mapped = claimed.id.as_deref().and_then(|id| outside(map, id.parse().ok()?));
        if mapped != Some(seen) {
            differ(what, claimed.id.clone(), seen.to_string());
        }
    }
    let claimed = &claim.grid.observed;
    differ(
        "no_new_privs",
        claimed.no_new_privs.map(|set| set.to_string()),
        observed.no_new_privs.to_string(),
    );
    differ("its seccomp mode", claimed.seccomp.map(|mode| mode.to_string()), observed.seccomp.to_string());
    // A launcher that does not say what it read, but that it set a filter.
    let filtered = claim.grid.sandbox.get("seccomp").is_some_and(|state| state.starts_with("on"));
    differ("its filter of system calls", filtered.then(|| "on".to_owned()), on_or_off(observed.seccomp == 2));
    let own_pids = on_or_off(observed.pids.len() > peer.depth());
    let claimed_pids = claim.grid.sandbox.get("pid_namespace");
    differ("its pid namespace", claimed_pids.map(|state| on_or_off(state.starts_with("on"))), own_pids);
    let depth = observed.pids.len().saturating_sub(peer.depth().saturating_sub(1));
    differ(
        "its depth of pid namespaces",
        claimed.pid_depth.map(|depth| depth.to_string()),
        depth.to_string(),
    );
    let [_, permitted, effective, ..] = observed.capabilities;
    let capabilities = &claim.process.thread.capabilities;
    for (what, claimed, set) in [
        ("permitted capabilities", &capabilities.permitted, permitted),
        ("effective capabilities", &capabilities.effective, effective),
    ] {
        // An empty set is not written, so none is claimed as long as there is none.
        let claimed = Some(claimed.join(", ")).filter(|claimed| !claimed.is_empty());
        differ(what, claimed, none_or(&capability_names(set).join(", ")));
    }
    for (kind, inode) in &observed.namespaces {
        let claimed = namespace(&claim.grid.namespaces, kind).map(|inode| inode.to_string());
        differ(&format!("its {kind} namespace"), claimed, inode.to_string());
    }
    found
}

fn on_or_off(on: bool) -> String {
    if on { "on".to_owned() } else { "off".to_owned() }
}

fn none_or(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn namespace(namespaces: &record::Namespaces, kind: &str) -> Option<u64> {
    match kind {
        "user" => namespaces.user,
        "mnt" => namespaces.mnt,
        "pid" => namespaces.pid,
        "ipc" => namespaces.ipc,
        "uts" => namespaces.uts,
        "net" => namespaces.net,
        "cgroup" => namespaces.cgroup,
        _ => None,
    }
}

/// Takes out of a record by a launcher, of any action, what only the log or the recorder may say.
pub fn confine(record: &mut Record) {
    record.timestamp = None;
    record.chain = None;
    // The constants of its action, whatever the launcher wrote there; the outcome only where the action has no fixed one.
    let model = Record::new(record.event.action, LaunchId::from_parts(0, [0; 10]));
    record.event.kind = model.event.kind;
    record.event.category = model.event.category;
    record.event.r#type = model.event.r#type;
    record.event.outcome = model.event.outcome.or(record.event.outcome);
    record.ecs = model.ecs;
    record.container.runtime = model.container.runtime;
    record.container.id.clone_from(&record.event.id);
    let lowered = |assurance: &mut Option<Assurance>| {
        if *assurance == Some(Assurance::Verified) {
            *assurance = Some(Assurance::Checked);
        }
    };
    lowered(&mut record.grid.identity.assurance);
    record.grid.identity.others.iter_mut().for_each(|other| lowered(&mut other.assurance));
    let grid = &mut record.grid;
    grid.parent_launch = None;
    grid.log = record::LogInfo::default();
    grid.checkpoint = record::Checkpoint::default();
    grid.live = Vec::new();
    grid.live_part = record::LivePart::default();
    grid.pruned = record::Pruned::default();
    grid.query = record::Query::default();
    grid.peer = record::Peer::default();
    grid.stop = record::StopOrder::default();
    grid.recorder = record::Recorder::default();
    grid.observed.contradictions = Vec::new();
}

/// Replaces in a launch's record what the recorder knows better. `program` is path and SHA-256 of the launcher's, from the
/// descriptor that it handed over: both are of that file, and that it is the program which runs is the launcher's word,
/// because `exe` of another uid cannot be read.
pub fn settle(record: &mut Record, peer: &Peer, observed: &Observed, node: &Host, program: Option<&Program>) {
    confine(record);
    record.host = node.clone();
    record.related.ip.clone_from(&node.ip);
    for ip in &record.grid.site.public_ip {
        if !record.related.ip.contains(ip) {
            record.related.ip.push(*ip);
        }
    }
    let process = &mut record.process;
    process.pid = Some(i64::from(observed.pid()));
    process.vpid = Some(i64::from(observed.vpid()));
    process.start = start_time(observed.start_ticks);
    process.entity_id = match (&node.id, &node.boot.id) {
        (Some(host), Some(boot)) => {
            Some(entity_id(host, boot, i64::from(observed.pid()), observed.start_ticks))
        }
        _ => None,
    };
    process.real_user = Id { id: Some(peer.uid.to_string()) };
    process.real_group = Id { id: Some(peer.gid.to_string()) };
    process.user = Id { id: Some(observed.uid.to_string()) };
    let [_, permitted, effective, ..] = observed.capabilities;
    process.thread.capabilities = record::Capabilities {
        permitted: capability_names(permitted),
        effective: capability_names(effective),
    };
    process.parent.pid = Some(i64::from(peer.pid));
    process.parent.hash.sha256 = None;
    if let Some(program) = program {
        let digest = hex(&program.sha256);
        process.parent.executable = Some(program.path.clone());
        process.parent.hash.sha256 = Some(digest.clone());
        if !record.related.hash.contains(&digest) {
            record.related.hash.push(digest);
        }
    }
    if record.event.action == Action::PayloadLaunch {
        // Nothing of this can be known yet.
        (process.end, process.exit_code, record.event.duration) = (None, None, None);
        record.grid.end = record::End::default();
        record.grid.usage = record::Usage::default();
    }
    let grid = &mut record.grid;
    grid.start_ticks = Some(observed.start_ticks);
    grid.launcher.start_ticks = Some(peer.start_ticks);
    grid.cgroup = observed.cgroup.clone();
    let inode = |kind| observed.namespaces.iter().find(|(known, _)| *known == kind).map(|(_, inode)| *inode);
    grid.namespaces = record::Namespaces {
        user: inode("user"),
        mnt: inode("mnt"),
        pid: inode("pid"),
        ipc: inode("ipc"),
        uts: inode("uts"),
        net: inode("net"),
        cgroup: inode("cgroup"),
    };
    grid.observed = record::Observed {
        no_new_privs: Some(observed.no_new_privs),
        seccomp: Some(observed.seccomp),
        pid_depth: u32::try_from(observed.pids.len()).ok(),
        uid_map: Some(observed.uid_map.clone()),
        gid_map: Some(observed.gid_map.clone()),
        setgroups: Some(observed.setgroups.clone()),
        mountinfo_sha256: Some(hex(&observed.mountinfo)),
        namespaces: Some(observed.tie.clone()),
        by: Some(if observed.by_pidfd { "pidfd-info" } else { "proc" }.to_owned()),
        contradictions: Vec::new(),
    };
}
