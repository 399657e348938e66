//! The audit record: one JSON object a line, names from the Elastic Common Schema (ECS) where it has one (`docs/record.md`).
//!
//! 1. What is unknown is absent: every field is optional, and an empty one is not written.
//! 2. `@timestamp` and `chain` are set by the log while it holds the lock; what a caller puts there is not written.
//! 3. Types follow ECS: what it calls keyword is a string here, also where it looks like a number.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chain::hex;
use super::time::Timestamp;
use crate::request::LaunchId;

/// The version of ECS that the names and types come from.
pub const ECS_VERSION: &str = "9.4.0";

/// Whether a field has nothing to say and is left out of the record.
trait Absent {
    fn is_absent(&self) -> bool;
}

impl<T> Absent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T> Absent for Vec<T> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Absent for BTreeMap<K, V> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// Declares the objects of a record: public fields, all optional, absent when empty, objects included.
macro_rules! objects {
    ($($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$attr:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(default)]
        pub struct $name {
            $($(#[$attr])* #[serde(skip_serializing_if = "Absent::is_absent")] pub $field: $type,)*
        }

        impl Absent for $name {
            fn is_absent(&self) -> bool {
                $(self.$field.is_absent())&&*
            }
        }
    )*};
}

mod grid;
mod short;

pub use grid::*;

/// What happened: `event.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A payload is about to run: durable before its execve.
    PayloadLaunch,
    /// A payload ended.
    PayloadEnd,
    /// Policy, identity, a limit or the drain flag said no.
    PayloadDeny,
    /// The user was told of something: an overuse rule, a coming stop.
    PayloadNotice,
    /// A name that was learned later: the VO's answer to a job's id.
    PayloadIdentity,
    /// bailey stops a running payload.
    PayloadStop,
    /// Set-up or execve failed.
    LaunchFailed,
    /// A segment of the log begins.
    SegmentOpen,
    /// The log's torn last line, left by a crash, was taken out; this record keeps it.
    LogRepair,
    /// The sequence number and hash reached, signed.
    Checkpoint,
    /// The recorder began to serve.
    RecorderStart,
    /// The recorder ended in order.
    RecorderStop,
    /// The host went down since the recorder's last record.
    HostRestart,
    /// The launches that are live at this point of the log.
    LiveList,
    /// Old segments are about to be removed; signed.
    LogPrune,
    /// Somebody asked the log.
    Query,
    /// The node takes no more payloads, or takes them again.
    NodeDrain,
    /// A list of who is suspended changed.
    BanChange,
    /// `bailey check` set a payload up as far as its execve, and asked whether a launch would get its receipt. Nothing ran.
    HealthCheck,
    /// The recorder's configuration is another one, or its files cannot be used and the one before holds.
    ConfigChange,
}

impl Action {
    /// `event.type` and `event.outcome` that go with the action; an end's outcome depends on the payload.
    const fn ecs(self) -> (&'static str, Option<Outcome>) {
        match self {
            Self::PayloadLaunch => ("start", Some(Outcome::Success)),
            Self::PayloadEnd => ("end", None),
            Self::PayloadDeny => ("denied", Some(Outcome::Failure)),
            Self::LaunchFailed => ("end", Some(Outcome::Failure)),
            Self::Query => ("access", Some(Outcome::Success)),
            Self::PayloadStop | Self::NodeDrain | Self::BanChange | Self::ConfigChange => {
                ("change", Some(Outcome::Success))
            }
            Self::PayloadNotice
            | Self::PayloadIdentity
            | Self::SegmentOpen
            | Self::LogRepair
            | Self::Checkpoint
            | Self::RecorderStart
            | Self::RecorderStop
            | Self::HostRestart
            | Self::LiveList
            | Self::LogPrune
            | Self::HealthCheck => ("info", None),
        }
    }

    /// Whether the record is about the log and not about a payload.
    pub const fn is_log_life(self) -> bool {
        matches!(
            self,
            Self::SegmentOpen
                | Self::LogRepair
                | Self::Checkpoint
                | Self::RecorderStart
                | Self::RecorderStop
                | Self::HostRestart
                | Self::LiveList
                | Self::LogPrune
                | Self::Query
                | Self::NodeDrain
                | Self::HealthCheck
                | Self::ConfigChange
        )
    }

    /// Whether the record closes a launch.
    pub const fn closes(self) -> bool {
        matches!(self, Self::PayloadEnd | Self::LaunchFailed)
    }
}

/// `event.outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It went as asked.
    Success,
    /// It did not.
    Failure,
}

/// `grid.identity.assurance`: who stands behind the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// Nobody said who it is.
    Undeclared,
    /// The pilot says so.
    Declared,
    /// The launcher verified a credential.
    Checked,
    /// The recorder verified a credential itself.
    Verified,
}

/// `grid.role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A user's payload.
    Payload,
    /// The pilot's own work; its identity never becomes `user.id`.
    Pilot,
    /// A monitoring probe.
    Probe,
}

/// `grid.end.by`: what ended the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EndBy {
    /// The payload itself: it exited, or died of a signal that is not bailey's.
    Payload,
    /// The memory limit.
    Memory,
    /// The limit of processes.
    Pids,
    /// The wall time was used up.
    WallTime,
    /// A ban.
    Ban,
    /// The site's administrator.
    Administrator,
    /// A rule on overuse.
    Overuse,
    /// A signal that the pilot sent and bailey passed on.
    PilotSignal,
    /// The launcher died; the next bailey on this log wrote the record.
    LauncherLost,
    /// The recorder restarted meanwhile.
    RecorderRestart,
    /// The host went down.
    HostRestart,
}

impl EndBy {
    /// The word in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::WallTime => "wall-time",
            Self::Ban => "ban",
            Self::Administrator => "administrator",
            Self::Overuse => "overuse",
            Self::PilotSignal => "pilot-signal",
            Self::LauncherLost => "launcher-lost",
            Self::RecorderRestart => "recorder-restart",
            Self::HostRestart => "host-restart",
        }
    }
}

/// `grid.stop.by`: what has a payload stopped or held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StopBy {
    /// The site's administrator, or the payload's own account (`bailey stop`).
    #[default]
    Administrator,
    /// A ban.
    Ban,
    /// A rule against overuse.
    Overuse,
    /// A limit of the site.
    Limit,
}

impl StopBy {
    /// `grid.end.by` of the payload that ends by it: limits are the administrator's.
    pub const fn ends(self) -> EndBy {
        match self {
            Self::Ban => EndBy::Ban,
            Self::Overuse => EndBy::Overuse,
            Self::Administrator | Self::Limit => EndBy::Administrator,
        }
    }

    /// Subject of a sentence for the user.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::Administrator => "an administrator",
            Self::Ban => "a ban",
            Self::Overuse => "the site's rule against overuse",
            Self::Limit => "a limit of the site",
        }
    }
}

/// One record of any action. [`Record::new`] sets what its action fixes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Record {
    /// When the line was written. Set by the log.
    #[serde(rename = "@timestamp", skip_serializing)]
    pub timestamp: Option<Timestamp>,
    /// What happened.
    pub event: Event,
    /// The version of ECS.
    pub ecs: Ecs,
    /// The worker node.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub host: Host,
    /// The payload's process.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub process: Process,
    /// Whose payload it is.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub user: User,
    /// Every name, address and digest in the record, for one search over all of them.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub related: Related,
    /// The container that bailey made.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub container: Container,
    /// What went wrong, in `payload-deny` and `launch-failed`.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub error: ErrorInfo,
    /// What ECS has no name for.
    #[serde(default, skip_serializing_if = "Absent::is_absent")]
    pub grid: Grid,
    /// Place of the line in the log. Set by the log.
    #[serde(skip_serializing)]
    pub chain: Option<Chain>,
}

impl Record {
    /// A record of one payload with the constants of its action.
    pub fn new(action: Action, launch: LaunchId) -> Self {
        let mut record = Self::bare(action);
        record.event.id = Some(launch.to_string());
        record.container.id = Some(launch.to_string());
        record.container.runtime = Some("bailey".to_owned());
        record
    }

    /// A record of the log's own life.
    pub fn of_log(action: Action, host: Host) -> Self {
        Self { host, ..Self::bare(action) }
    }

    /// A record of another action about the same payload: who, where and which, without what only the launch record says.
    #[must_use]
    pub fn about(&self, action: Action, launch: LaunchId) -> Self {
        let mut record = Self::new(action, launch);
        record.host.clone_from(&self.host);
        record.process.pid = self.process.pid;
        record.process.vpid = self.process.vpid;
        record.process.start = self.process.start;
        record.process.entity_id.clone_from(&self.process.entity_id);
        record.process.executable.clone_from(&self.process.executable);
        record.process.parent.pid = self.process.parent.pid;
        record.process.real_user.clone_from(&self.process.real_user);
        record.process.real_group.clone_from(&self.process.real_group);
        record.process.user.clone_from(&self.process.user);
        record.user.clone_from(&self.user);
        record.related.user.clone_from(&self.related.user);
        record.related.ip.clone_from(&self.related.ip);
        record.container.image.clone_from(&self.container.image);
        record.grid.vo.clone_from(&self.grid.vo);
        record.grid.image.clone_from(&self.grid.image);
        record.grid.role = self.grid.role;
        record.grid.identity.clone_from(&self.grid.identity);
        record.grid.job.clone_from(&self.grid.job);
        record.grid.pilot.clone_from(&self.grid.pilot);
        record.grid.site.clone_from(&self.grid.site);
        record.grid.start_ticks = self.grid.start_ticks;
        record.grid.parent_launch.clone_from(&self.grid.parent_launch);
        record.grid.policy.clone_from(&self.grid.policy);
        record
    }

    fn bare(action: Action) -> Self {
        let (kind, outcome) = action.ecs();
        let category = if action.is_log_life() { "host" } else { "process" };
        Self {
            timestamp: None,
            event: Event {
                id: None,
                action,
                kind: "event".to_owned(),
                category: vec![category.to_owned()],
                r#type: vec![kind.to_owned()],
                outcome,
                created: None,
                duration: None,
                reason: None,
            },
            ecs: Ecs { version: ECS_VERSION.to_owned() },
            host: Host::default(),
            process: Process::default(),
            user: User::default(),
            related: Related::default(),
            container: Container::default(),
            error: ErrorInfo::default(),
            grid: Grid::default(),
            chain: None,
        }
    }
}

/// `event.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// The launch id, the same in every record of one payload; absent in the log's own records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What happened.
    pub action: Action,
    /// `event`.
    pub kind: String,
    /// `process`, or `host` for the log's own records.
    pub category: Vec<String>,
    /// One of ECS's words for the action.
    pub r#type: Vec<String>,
    /// Whether it went as asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When the launcher asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Nanoseconds from the release to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// Why, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `ecs.*`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ecs {
    /// [`ECS_VERSION`].
    pub version: String,
}

/// `chain.*`: the place of a line in its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Chain {
    /// From 1, without gaps, across segments.
    pub seq: u64,
    /// SHA-256 of the bytes of the line before, without its newline: 64 lowercase hex digits; zeros in the first line.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^[0-9a-f]{64}$")))]
    pub prev: String,
    /// Who wrote the line.
    pub writer: String,
}

objects! {
    /// `host.*`
    pub struct Host {
        /// The node's name.
        pub name: Option<String>,
        /// The node's id (`/etc/machine-id`, or what stands for it).
        pub id: Option<String>,
        /// This boot.
        pub boot: Boot,
        /// All addresses but loopback's, at that moment.
        pub ip: Vec<IpAddr>,
        /// Inode number of the launcher's pid namespace.
        pub pid_ns_ino: Option<String>,
    }

    /// `host.boot.*`
    pub struct Boot {
        /// `/proc/sys/kernel/random/boot_id`.
        pub id: Option<String>,
    }

    /// `process.*`: the payload's first process.
    pub struct Process {
        /// As the host sees it.
        pub pid: Option<i64>,
        /// As the payload sees it.
        pub vpid: Option<i64>,
        /// When it was made, from the kernel's clock ticks.
        pub start: Option<Timestamp>,
        /// When it was reaped.
        pub end: Option<Timestamp>,
        /// [`entity_id`].
        pub entity_id: Option<String>,
        /// As it will be executed.
        pub executable: Option<String>,
        /// Argument list, secrets redacted ([`super::redact`]).
        pub args: Vec<String>,
        /// Inside.
        pub working_directory: Option<String>,
        /// 0 to 255, when the payload exited.
        pub exit_code: Option<i64>,
        /// Digest of the executable when it comes from outside the image.
        pub hash: Sha256Hash,
        /// The launcher.
        pub parent: Parent,
        /// What the frozen payload may do.
        pub thread: Thread,
        /// The pilot's uid.
        pub real_user: Id,
        /// The pilot's gid.
        pub real_group: Id,
        /// The uid that the payload runs as on the host.
        pub user: Id,
    }

    /// `process.parent.*`
    pub struct Parent {
        /// The launcher's pid.
        pub pid: Option<i64>,
        /// The launcher's binary.
        pub executable: Option<String>,
        /// Its digest.
        pub hash: Sha256Hash,
    }

    /// `*.hash.sha256`
    pub struct Sha256Hash {
        /// 64 lowercase hex digits.
        pub sha256: Option<String>,
    }

    /// `process.thread.*`
    pub struct Thread {
        /// Capability sets of the frozen payload.
        pub capabilities: Capabilities,
    }

    /// `process.thread.capabilities.*`: names such as `CAP_SYS_ADMIN`; absent when the set is empty.
    pub struct Capabilities {
        /// Permitted.
        pub permitted: Vec<String>,
        /// Effective.
        pub effective: Vec<String>,
    }

    /// An object with only an `id`, which ECS has as text.
    pub struct Id {
        /// The number as text.
        pub id: Option<String>,
    }

    /// `user.*`
    pub struct User {
        /// Subject: DN in slash form, or a token's `sub`.
        pub id: Option<String>,
        /// Issuer or VO.
        pub domain: Option<String>,
        /// FQANs or groups.
        pub roles: Vec<String>,
        /// Display name, where the site asks for it.
        pub name: Option<String>,
    }

    /// `related.*`
    pub struct Related {
        /// Every name of the person known here.
        pub user: Vec<String>,
        /// All addresses.
        pub ip: Vec<IpAddr>,
        /// All digests.
        pub hash: Vec<String>,
    }

    /// `container.*`
    pub struct Container {
        /// The launch id.
        pub id: Option<String>,
        /// `bailey`.
        pub runtime: Option<String>,
        /// What the payload's root is made from.
        pub image: Image,
    }

    /// `container.image.*`
    pub struct Image {
        /// Resolved path.
        pub name: Option<String>,
        /// Its digests.
        pub hash: ImageHash,
    }

    /// `container.image.hash.*`
    pub struct ImageHash {
        /// `sha256:…`, content ids, a catalog's root hash.
        pub all: Vec<String>,
    }

    /// `error.*`
    pub struct ErrorInfo {
        /// bailey's exit code as text.
        pub code: Option<String>,
        /// What was tried, what the system said, what to do.
        pub message: Option<String>,
    }
}

/// `process.entity_id`: lowercase hex SHA-256 of `HOSTID|BOOTID|PID|TICKS`, one process of all hosts and boots.
pub fn entity_id(host_id: &str, boot_id: &str, pid: i64, start_ticks: u64) -> String {
    hex(&Sha256::digest(format!("{host_id}|{boot_id}|{pid}|{start_ticks}")).into())
}

/// JSON Schema (2020-12) of one line of the log, as committed in `docs/record.schema.json`.
#[cfg(feature = "schema")]
#[allow(clippy::indexing_slicing)] // run by a test only, and the members are there: the type above has them
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Record).to_value();
    schema["$comment"] =
        "Generated from src/audit/record.rs; tests/record_schema.rs fails when it is stale.".into();
    // The two that the log sets are in every line, although the types that callers fill leave them out.
    schema["required"] = serde_json::json!(["@timestamp", "event", "ecs", "host", "chain"]);
    for (name, kind) in [("@timestamp", "Timestamp"), ("chain", "Chain")] {
        schema["properties"][name] = serde_json::json!({
            "$ref": format!("#/$defs/{kind}"),
            "description": schema["properties"][name]["description"],
        });
    }
    schema
}
