//! `grid.*`: the fields that ECS has no name for (`docs/record.md`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Absent, Assurance, EndBy, Role, StopBy};
use crate::audit::time::Timestamp;
use crate::failure::Fault;
use crate::overuse::{Metric, Step};

objects! {
    /// `grid.*`: what ECS has no name for.
    pub struct Grid {
        /// Virtual organisation.
        pub vo: Option<String>,
        /// Who, and who says so.
        pub identity: Identity,
        /// What kind of work it is.
        pub role: Option<Role>,
        /// Launch id of the payload inside which this launcher runs.
        pub parent_launch: Option<String>,
        /// What the image says of itself.
        pub image: ImageTold,
        /// Every bind.
        pub mounts: Vec<Mount>,
        /// From the configuration.
        pub site: Site,
        /// The pilot.
        pub pilot: Pilot,
        /// The pilot's job.
        pub job: Job,
        /// Where the payload is before it runs.
        pub cgroup: Cgroup,
        /// Inode numbers of the payload's namespaces.
        pub namespaces: Namespaces,
        /// Each mechanism with `on`, `off` or the reason why it is not.
        pub sandbox: BTreeMap<String, String>,
        /// What was asked for, or is Apptainer's custom, and was not done.
        pub unheeded: Vec<String>,
        /// Read from the frozen payload.
        pub observed: Observed,
        /// What the payload may use.
        pub limits: Limits,
        /// What let it in.
        pub policy: Policy,
        /// The program that wrote this.
        pub launcher: Launcher,
        /// The clock.
        pub clock: Clock,
        /// The payload's start in clock ticks since boot, field 22 of `proc_pid_stat(5)`.
        pub start_ticks: Option<u64>,
        /// The argument list, where `process.args` does not have all of it.
        pub args: ArgsInfo,
        /// The order of a `payload-stop` that the recorder passes on.
        pub stop: StopOrder,
        /// How it ended.
        pub end: End,
        /// What it used.
        pub usage: Usage,
        /// The log's own life.
        pub log: LogInfo,
        /// What a checkpoint attests.
        pub checkpoint: Checkpoint,
        /// Launches that are live here, in a `live-list`.
        pub live: Vec<LiveEntry>,
        /// Which part of its list a `live-list` is.
        pub live_part: LivePart,
        /// What a `log-prune` announces.
        pub pruned: Pruned,
        /// Which list changed, in a `ban-change`.
        pub ban_change: BanChange,
        /// What was asked, in a `query`.
        pub query: Query,
        /// Who asked for this, as the kernel says: in `query`, `payload-stop`, `node-drain`.
        pub peer: Peer,
        /// The recorder.
        pub recorder: Recorder,
        /// What `bailey stop --preserve` kept.
        pub preserved: Preserved,
        /// Who can cure it, in `payload-deny` and `launch-failed`: the site, so that another one may run it, or the user.
        pub fault: Option<Fault>,
        /// A rule on overuse, in the `payload-notice` or `payload-stop` that it causes.
        pub overuse: Overuse,
    }

    /// `grid.identity.*`
    pub struct Identity {
        /// Who stands behind it.
        pub assurance: Option<Assurance>,
        /// `command-line`, `file`, `job-ad`, `x509`, `wlcg-token`, …
        pub source: Option<String>,
        /// The token's or certificate's issuer.
        pub issuer: Option<String>,
        /// The subject.
        pub subject: Option<String>,
        /// Groups or FQANs.
        pub groups: Vec<String>,
        /// The token's own id; the token never appears.
        pub jti: Option<String>,
        /// When the credential runs out.
        pub not_after: Option<Timestamp>,
        /// What was found and could not be taken, in words.
        pub remarks: Vec<String>,
        /// The name under which the site ties a person's names together.
        pub person: Option<String>,
        /// Weaker statements, and those that contradict.
        pub others: Vec<OtherIdentity>,
    }

    /// One element of `grid.identity.others`.
    pub struct OtherIdentity {
        /// Who stands behind it.
        pub assurance: Option<Assurance>,
        /// Where it comes from.
        pub source: Option<String>,
        /// Issuer.
        pub issuer: Option<String>,
        /// Subject.
        pub subject: Option<String>,
        /// Groups or FQANs.
        pub groups: Vec<String>,
        /// The token's own id.
        pub jti: Option<String>,
    }

    /// `grid.image.*`: whoever made the image wrote it.
    pub struct ImageTold {
        /// When it was made.
        pub created: Option<Timestamp>,
        /// What says so: `label NAME`, `sif-header`.
        pub created_by: Option<String>,
        /// Its operating system: `ID VERSION_ID` of os-release.
        pub os: Option<String>,
        /// The last day of that system's security support, `YYYY-MM-DD`.
        pub end_of_life: Option<String>,
        /// The labels that the site's rules name.
        pub labels: BTreeMap<String, String>,
        /// What it has and could not be read.
        pub remarks: Vec<String>,
    }

    /// One element of `grid.mounts`.
    pub struct Mount {
        /// On the host.
        pub source: Option<String>,
        /// Inside.
        pub target: Option<String>,
        /// `ro` or `rw`.
        pub mode: Option<String>,
    }

    /// `grid.site.*`
    pub struct Site {
        /// For example the GOCDB name.
        pub name: Option<String>,
        /// What the world sees of nodes behind NAT.
        pub public_ip: Vec<IpAddr>,
    }

    /// `grid.pilot.*`
    pub struct Pilot {
        /// The pilot's own id.
        pub id: Option<String>,
        /// The pilot's or robot's identity.
        pub subject: Option<String>,
        /// All names of the pilot that were found, with what belongs to them.
        pub names: Vec<OtherIdentity>,
        /// Ids of every batch layer found, `htcondor:12.0`, `slurm:77`.
        pub batch_job_id: Vec<String>,
    }

    /// `grid.job.*`
    pub struct Job {
        /// The VO's job id.
        pub id: Option<String>,
        /// The VO's task id.
        pub task: Option<String>,
    }

    /// `grid.cgroup.*`
    pub struct Cgroup {
        /// Below the hierarchy's root.
        pub path: Option<String>,
        /// Inode number, which is the kernel's cgroup id.
        pub id: Option<String>,
        /// 1 or 2.
        pub version: Option<u8>,
    }

    /// `grid.namespaces.*`
    pub struct Namespaces {
        /// User namespace.
        pub user: Option<u64>,
        /// Mount namespace.
        pub mnt: Option<u64>,
        /// Pid namespace.
        pub pid: Option<u64>,
        /// IPC namespace.
        pub ipc: Option<u64>,
        /// UTS namespace.
        pub uts: Option<u64>,
        /// Network namespace.
        pub net: Option<u64>,
        /// Cgroup namespace.
        pub cgroup: Option<u64>,
    }

    /// `grid.observed.*`
    pub struct Observed {
        /// Whether `NoNewPrivs` is set.
        pub no_new_privs: Option<bool>,
        /// Seccomp mode: 0, 1 or 2 (filter).
        pub seccomp: Option<u32>,
        /// How many pid namespaces deep.
        pub pid_depth: Option<u32>,
        /// `/proc/PID/uid_map`, blanks folded, lines joined by `;`.
        pub uid_map: Option<String>,
        /// `/proc/PID/gid_map`, likewise.
        pub gid_map: Option<String>,
        /// `/proc/PID/setgroups`: `deny` or `allow`.
        pub setgroups: Option<String>,
        /// SHA-256 of `/proc/PID/mountinfo`.
        pub mountinfo_sha256: Option<String>,
        /// How far the namespaces of `grid.namespaces` are tied to the payload: `tied`, or what this kernel cannot tell.
        pub namespaces: Option<String>,
        /// How the payload was looked at: `pidfd-info` or `proc`.
        pub by: Option<String>,
        /// Where claim and observation differ, in words.
        pub contradictions: Vec<String>,
    }

    /// `grid.limits.*`; absent means that there is none. How they hold says `grid.sandbox.limit_*`.
    pub struct Limits {
        /// Bytes.
        pub memory: Option<u64>,
        /// CPUs, in thousandths.
        pub cpus_milli: Option<u64>,
        /// Processes.
        pub pids: Option<u64>,
        /// The cores that it runs on: `0-3,8`.
        pub cpuset: Option<String>,
        /// Seconds.
        pub wall_time: Option<u64>,
        /// Bytes.
        pub scratch: Option<u64>,
    }

    /// `grid.policy.*`
    pub struct Policy {
        /// Which rule let it in, or refused it.
        pub rule: Option<String>,
        /// Digest of the ban lists.
        pub bans_version: Option<String>,
        /// Digest of the configuration.
        pub config_hash: Option<String>,
        /// How tight the walls are: `default` or `strict`.
        pub profile: Option<String>,
        /// What the site should see, and the payload ran in spite of.
        pub remarks: Vec<String>,
        /// The ban that refused it, or stopped it.
        pub ban: Ban,
    }

    /// `grid.policy.ban.*`
    pub struct Ban {
        /// File and line of the entry.
        pub entry: Option<String>,
        /// What it names, as it stands there.
        pub whom: Option<String>,
        /// Why.
        pub reason: Option<String>,
        /// The site's ticket.
        pub ticket: Option<String>,
    }

    /// `grid.launcher.*`
    pub struct Launcher {
        /// bailey's version.
        pub version: Option<String>,
        /// GNU build id of the launcher's binary, lowercase hex.
        pub build_id: Option<String>,
        /// The launcher's own start in clock ticks since boot; observed.
        pub start_ticks: Option<u64>,
    }

    /// `grid.clock.*`
    pub struct Clock {
        /// Whether the kernel says that the clock follows a source.
        pub synchronized: Option<bool>,
    }

    /// `grid.args.*`
    pub struct ArgsInfo {
        /// `true` when the list was cut or only its digest is kept.
        pub truncated: Option<bool>,
        /// SHA-256 over the arguments as they are, each followed by a NUL byte.
        pub sha256: Option<String>,
        /// How many arguments there are.
        pub count: Option<u64>,
        /// How many values were redacted.
        pub redacted: Option<u64>,
    }

    /// `grid.stop.*`: what the launcher is to do, so that an order outlives a restart of the recorder.
    pub struct StopOrder {
        /// What orders it.
        pub by: Option<StopBy>,
        /// Why, for the user.
        pub reason: Option<String>,
        /// Hold it instead of ending it.
        pub freeze: Option<bool>,
        /// Keep its private files, processes and sockets first.
        pub preserve: Option<bool>,
        /// Milliseconds between SIGTERM and SIGKILL, where the order says so.
        pub grace_ms: Option<u64>,
    }

    /// `grid.end.*`
    pub struct End {
        /// What ended the payload.
        pub by: Option<EndBy>,
        /// The signal's name, `SIGKILL`, when a signal ended the main process.
        pub signal: Option<String>,
    }

    /// `grid.usage.*`; what the kernel does not tell is absent.
    pub struct Usage {
        /// `cgroup2`, `cgroup1` or `rusage`.
        pub source: Option<String>,
        /// Microseconds in user mode.
        pub cpu_user_us: Option<u64>,
        /// Microseconds in the kernel.
        pub cpu_system_us: Option<u64>,
        /// Bytes.
        pub memory_peak_bytes: Option<u64>,
        /// From block devices.
        pub io_read_bytes: Option<u64>,
        /// To block devices.
        pub io_write_bytes: Option<u64>,
        /// By `read()` and its kind; a socket's recv is not in it.
        pub read_chars: Option<u64>,
        /// By `write()` and its kind.
        pub write_chars: Option<u64>,
        /// Most processes at one time.
        pub processes_peak: Option<u64>,
        /// Faults that needed the disk.
        pub page_faults_major: Option<u64>,
        /// Processes killed for memory.
        pub oom_kills: Option<u64>,
    }

    /// `grid.log.*`
    pub struct LogInfo {
        /// The segment that begins.
        pub segment: Option<String>,
        /// The segment before it.
        pub previous: Option<String>,
        /// The torn bytes that were taken out.
        pub torn: Torn,
    }

    /// `grid.log.torn.*`: what a crash left after the last whole line.
    pub struct Torn {
        /// The segment where they were.
        pub segment: Option<String>,
        /// Their first byte's offset.
        pub offset: Option<u64>,
        /// How many.
        pub length: Option<u64>,
        /// Their SHA-256.
        pub sha256: Option<String>,
        /// The bytes ([`super::redact::text`]), the first 8 KiB of them.
        pub text: Option<String>,
    }

    /// `grid.checkpoint.*`
    pub struct Checkpoint {
        /// The sequence number reached.
        pub seq: Option<u64>,
        /// The hash reached.
        pub hash: Option<String>,
        /// Ed25519 signature, lowercase hex ([`crate::audit::sign`]).
        pub signature: Option<String>,
        /// Which key: the first 16 hex digits of the SHA-256 of the 32 bytes of the public key.
        pub key: Option<String>,
    }

    /// One element of `grid.live`: what a restarted recorder, or a question about this moment, must know of a launch.
    pub struct LiveEntry {
        /// Launch id.
        pub id: Option<String>,
        /// Segment of its launch record.
        pub segment: Option<String>,
        /// Offset of that line.
        pub offset: Option<u64>,
        /// `chain.seq` of that line.
        pub seq: Option<u64>,
        /// SHA-256 of that line.
        pub hash: Option<String>,
        /// `@timestamp` of that line.
        pub since: Option<Timestamp>,
        /// The payload's pid on the host.
        pub pid: Option<i64>,
        /// Its start in clock ticks since boot.
        pub start_ticks: Option<u64>,
        /// The launcher's pid on the host.
        pub launcher_pid: Option<i64>,
        /// Its start in clock ticks since boot.
        pub launcher_ticks: Option<u64>,
        /// The pilot's uid.
        pub uid: Option<u32>,
        /// `user.id`.
        pub user: Option<String>,
        /// `grid.vo`.
        pub vo: Option<String>,
        /// `grid.job.id`.
        pub job: Option<String>,
        /// The payload may start payloads of its own.
        pub nested: Option<bool>,
        /// The last order to stop or hold it. It stands until the payload ended.
        pub stop: StopOrder,
    }

    /// `grid.live_part.*`
    pub struct LivePart {
        /// From 1.
        pub number: Option<u32>,
        /// How many parts the list has.
        pub of: Option<u32>,
        /// How many launches are live in all of them.
        pub launches: Option<u64>,
    }

    /// `grid.pruned.*`
    pub struct Pruned {
        /// The segments, oldest first.
        pub segments: Vec<String>,
        /// `chain.seq` of the first line removed.
        pub first_seq: Option<u64>,
        /// `chain.seq` of the last line removed.
        pub last_seq: Option<u64>,
        /// SHA-256 of the last line removed: `chain.prev` of the first line that is kept.
        pub last_hash: Option<String>,
        /// `age`, `size` or `administrator`.
        pub because: Option<String>,
        /// Ed25519 signature, lowercase hex ([`crate::audit::sign`]).
        pub signature: Option<String>,
        /// Which key, as in `grid.checkpoint.key`.
        pub key: Option<String>,
    }

    /// `grid.ban_change.*`
    pub struct BanChange {
        /// The file's name.
        pub list: Option<String>,
        /// SHA-256 of the version before; absent: there was none.
        pub before: Option<String>,
        /// SHA-256 of the version that holds; absent: there is none any more.
        pub after: Option<String>,
        /// Bans in it.
        pub entries: Option<u64>,
        /// `bailey-ban`, or `file`: somebody else changed it.
        pub by: Option<String>,
        /// Who owns the file.
        pub owner: Option<u32>,
        /// When it was changed.
        pub changed: Option<Timestamp>,
    }

    /// `grid.query.*`
    pub struct Query {
        /// The question, as options of `bailey trace`.
        pub text: Option<String>,
        /// How many payloads the answer named.
        pub matches: Option<u64>,
    }

    /// `grid.peer.*`
    pub struct Peer {
        /// pid.
        pub pid: Option<i64>,
        /// uid.
        pub uid: Option<u32>,
        /// gid.
        pub gid: Option<u32>,
    }

    /// `grid.recorder.*`
    pub struct Recorder {
        /// Its version.
        pub version: Option<String>,
        /// The newest protocol that it speaks.
        pub protocol: Option<u32>,
        /// Its pid.
        pub pid: Option<i64>,
        /// Its uid.
        pub uid: Option<u32>,
        /// SHA-256 of its configuration.
        pub config_hash: Option<String>,
        /// `grid.checkpoint.key` of the key that it signs with.
        pub key: Option<String>,
    }

    /// `grid.overuse.*`
    pub struct Overuse {
        /// The rule's id.
        pub rule: Option<String>,
        /// What it looks at.
        pub metric: Option<Metric>,
        /// What was measured, in the unit of the threshold.
        pub value: Option<f64>,
        /// Parts of what was asked for, processes, or bytes per CPU second.
        pub threshold: Option<f64>,
        /// How long it went on.
        pub for_seconds: Option<u64>,
        /// What is done about it.
        pub step: Option<Step>,
    }

    /// `grid.preserved.*`
    pub struct Preserved {
        /// Directory on the host with the payload's private files.
        pub path: Option<String>,
        /// The payload's processes: `PID PPID STATE COMMAND`, as the host numbers them.
        pub processes: Vec<String>,
        /// Its open sockets: `PROTOCOL LOCAL REMOTE STATE`.
        pub sockets: Vec<String>,
        /// What could not be kept, in words.
        pub missing: Vec<String>,
    }
}

impl Ban {
    /// The entry of a list.
    pub fn of(hit: &crate::policy::verdict::Hit) -> Self {
        Self {
            entry: Some(hit.place()),
            whom: Some(hit.whom.clone()),
            reason: hit.reason.clone(),
            ticket: hit.ticket.clone(),
        }
    }
}
