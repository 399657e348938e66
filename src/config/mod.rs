//! The site's configuration: one table of defaults, a strict schema, errors that say file, line, column and next step.
//!
//! MUST NOT read policy from the environment: a pilot chooses its environment. (`BAILEY_CONFIG` exists in test builds only.)
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod apptainer;
mod cgroup;
mod defaults;
pub(crate) mod diagnose;
mod file;
mod limits;
mod overuse;
mod policy;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod values;

pub use apptainer::{Apptainer, CurrentDirectory, HostVariables, Sharing};
pub use cgroup::{Cgroup, Cpus, Oom, Swap};
pub(crate) use file::{LIMIT, load_stamped, merge, stamps};
pub use file::{Place, load};
pub use policy::warnings;
pub use show::show;

/// How much the site insists on one mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Demand {
    /// Not there: the launch is refused.
    Required,
    /// Not there: the launch goes on and the record says why it is missing.
    Preferred,
    /// Not used.
    Off,
}

/// Whether 32-bit programs may run: each way into the kernel is one more to attack, and its table costs a launch 0.1 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Abi32 {
    /// Where the payload's root has their loader.
    Auto,
    /// Everywhere.
    On,
    /// Nowhere.
    Off,
}

/// The whole configuration. Every field has its default in `defaults.rs` and its comment in `config/bailey.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `[site]`
    pub site: Site,
    /// `[identity]`
    pub identity: Identity,
    /// `[audit]`
    pub audit: Audit,
    /// `[recorder]`
    pub recorder: Recorder,
    /// `[retention]`
    pub retention: Retention,
    /// `[root]`
    pub root: Root,
    /// `[environment]`
    pub environment: Environment,
    /// `[apptainer]`
    pub apptainer: Apptainer,
    /// `[sandbox]`
    pub sandbox: Sandbox,
    /// `[uid]`
    pub uid: Uid,
    /// `[root_caller]`
    pub root_caller: RootCaller,
    /// `[cgroup]`
    pub cgroup: Cgroup,
    /// `[limits]`
    pub limits: Limits,
    /// `[[overuse]]`, shipped ones included.
    pub overuse: Vec<crate::overuse::Rule>,
    /// `[policy]`, `[image]`, `[bans]`
    pub policy: crate::policy::settings::Settings,
    /// `[[rule]]`, `[[person]]`, `[[trust]]`, `[[vo]]`
    pub tables: crate::policy::settings::Tables,
    /// SHA-256 over the bytes of every file read, in order, lowercase hex; of nothing when no file was there.
    pub hash: String,
    /// The files read, in order; empty for the embedded default.
    pub files: Vec<PathBuf>,
}

/// `[site]`: goes into every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// `name`: for example the GOCDB name. Empty: left out of the record.
    pub name: String,
    /// `public_ip`: what the world sees of nodes behind NAT.
    pub public_ip: Vec<std::net::IpAddr>,
}

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `undeclared = "deny" | "record"`.
    pub undeclared: Undeclared,
    /// `discover`: where it is looked for when nobody says who it is.
    pub discover: Vec<Discover>,
    /// `discover_for = "containers" | "all"`: also for `bailey exec`.
    pub discover_always: bool,
    /// `job_ad_user`: the account at HTCondor's access point, or in a VO's DIRAC, is a user, where there is no better name.
    pub job_ad_user: bool,
    /// `pilots`: names of pilots and robots, which are nobody's user.
    pub pilots: Vec<crate::policy::rule::Named>,
    /// `pilot_groups`: whose primary group is one of these is a pilot.
    pub pilot_groups: Vec<crate::policy::group::GroupPattern>,
    /// `probes = "as-payloads" | "allow"`.
    pub probes: Probes,
}

/// Where identities and ids are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discover {
    /// HTCondor's job ad.
    JobAd,
    /// The environment of PanDA's pilot.
    Panda,
    /// That of DIRAC's.
    Dirac,
    /// That of ALICE's.
    Alice,
    /// Ids of batch systems and pilot factories.
    Batch,
}

impl Discover {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::JobAd, Self::Panda, Self::Dirac, Self::Alice, Self::Batch];
}

/// What holds for a probe that names nobody, where payloads must name somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probes {
    /// What holds for payloads.
    AsPayloads,
    /// It runs: without network, and not for long.
    Allow,
}

/// What happens to a payload that nobody vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undeclared {
    /// Refused with exit code 120.
    Deny,
    /// Runs, and the record says `undeclared`.
    Record,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `dir`: place of the embedded log; `None` = the default places.
    pub dir: Option<PathBuf>,
    /// `recorder`: whether records go to the node's recorder instead of the embedded log.
    pub recorder: Demand,
    /// `socket`: where the recorder listens.
    pub socket: PathBuf,
    /// `wait`: how long a launch waits for the log's lock, or for a recorder that restarts.
    pub wait: Duration,
    /// `network_filesystem = true` allows the embedded log on NFS and the like.
    pub network_filesystem: bool,
    /// `journald = "off" | "checkpoints" | "all"`.
    pub journald: Journald,
    /// `args = "full" | "digest"`.
    pub args: Args,
    /// `user_name = true`: the display name goes into the record.
    pub user_name: bool,
}

/// `[recorder]`: the node's recorder, `bailey-recorder`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorder {
    /// `dir`: where its log is.
    pub dir: PathBuf,
    /// `state`: where its key is.
    pub state: PathBuf,
    /// `metrics`: the text file for Prometheus; `None` = `metrics.prom` in `state`.
    pub metrics: Option<PathBuf>,
    /// `segment_size`: bytes after which a new segment begins, beside the one of each day.
    pub segment_size: u64,
    /// `live_list_every`: bytes of log between two lists of what is live.
    pub live_list_every: u64,
    /// `checkpoint_records`: records between two signed checkpoints.
    pub checkpoint_records: u64,
    /// `checkpoint_every`: time between two signed checkpoints, when there was anything to sign.
    pub checkpoint_every: Duration,
    /// `reserve`: bytes kept on the disk for the end records of what is live.
    pub reserve: u64,
    /// `live_per_uid`: payloads of one uid that may be live at one time.
    pub live_per_uid: u64,
    /// `launches_per_second`: of one uid, on average.
    pub launches_per_second: u64,
    /// `bytes_per_day`: that one uid may fill.
    pub bytes_per_day: u64,
    /// `foreign_config`: what becomes of a launcher that has another configuration than the recorder.
    pub foreign_config: ForeignConfig,
}

/// What becomes of a launch under another configuration than the recorder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignConfig {
    /// It is refused.
    Refuse,
    /// It runs, and the record says so.
    Record,
}

/// `[retention]`: how long the recorder's log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// `days`: whole segments older than this are removed. `None`: none is.
    pub days: Option<u64>,
    /// `size`: the oldest segments are removed while all take more bytes. `None`: no limit.
    pub size: Option<u64>,
}

/// Copies of records to the system journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Journald {
    /// None.
    Off,
    /// Only the log's own records (segment opened, tail repaired, checkpoint).
    Checkpoints,
    /// Every record.
    All,
}

/// What of the payload's arguments is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Args {
    /// The arguments, secrets redacted, 8 KiB at most.
    Full,
    /// Their SHA-256 only.
    Digest,
}

/// `[root]`: what a payload sees of the host's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `host`: paths shown read-only when no image is asked; those that do not exist are left out.
    pub host: Vec<PathBuf>,
    /// `host_etc`: names under /etc shown with them.
    pub host_etc: Vec<PathBuf>,
    /// `image_etc`: the host's files put over an image's, so that names resolve as on this node.
    pub image_etc: Vec<PathBuf>,
    /// `always`: paths bound read-only in both cases when they exist (/cvmfs).
    pub always: Vec<PathBuf>,
    /// `late_mounts`: of the paths bound, those under which host mounts that come later arrive inside (autofs, CVMFS).
    pub late_mounts: Vec<PathBuf>,
    /// `sys`: directories of /sys shown read-only.
    pub sys: Vec<PathBuf>,
    /// `scratch_size`: bytes of memory-backed /tmp, /var/tmp, /dev/shm and private directory together.
    pub scratch_size: u64,
}

/// `[environment]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// `pass`: names, or prefixes ending in `*`, that enter from the pilot's environment.
    pub pass: Vec<String>,
    /// `path`: PATH inside.
    pub path: String,
}

/// `[sandbox]`: walls that a site can turn off. What is not here cannot be turned off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// `pid_namespace`: processes of its own, which end with its init. `Preferred` grants `--no-pid`.
    pub pid_namespace: Demand,
    /// `proc`: a proc of its own, where it has a pid namespace; otherwise the one around bailey is shown.
    pub proc: Demand,
    /// `ipc_namespace`
    pub ipc_namespace: Demand,
    /// `uts_namespace`
    pub uts_namespace: Demand,
    /// `cgroup_namespace`
    pub cgroup_namespace: Demand,
    /// `session_keyring`: a keyring of the payload's own in place of the pilot's.
    pub session_keyring: Demand,
    /// `seccomp`: a filter of system calls.
    pub seccomp: Demand,
    /// `abi_32bit`: whether 32-bit programs may run under it.
    pub abi_32bit: Abi32,
    /// `nested_namespaces`: whether `--nested` is granted.
    pub allow_nested: bool,
    /// `landlock`: no abstract socket and no process outside is reached; rules on files and TCP with profile `strict`.
    pub landlock: Demand,
    /// `oom_score_adj`: the least that a payload has; 0 leaves it alone.
    pub oom_score_adj: i32,
    /// `umask`, octal text in the file.
    pub umask: u32,
    /// `stdio`: `Relay` holds for every launch, `Pass` for those that do not ask for a relay.
    pub stdio: crate::request::Stdio,
}

/// `[uid]`: as whom the payload of an ordinary caller runs on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uid {
    /// `mode = "caller" | "subuid"`.
    pub mode: UidMode,
    /// `shared_dirs`: directories that payloads with a uid of their own may write to beside their working directory, and
    /// that `bailey clean` looks through.
    pub shared_dirs: Vec<PathBuf>,
    /// `state`: where each account has the directory with its locks and notes; `None` = the default places.
    pub state: Option<PathBuf>,
}

/// Whose uid a payload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UidMode {
    /// The caller's.
    Caller,
    /// One of the caller's subordinate uids (subuid(5)), another for each payload.
    Subuid,
}

/// `[root_caller]`: what holds when root calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCaller {
    /// `uids`: from which each payload gets one. `None`: root is refused.
    pub uids: Option<crate::request::UidRange>,
    /// `workdirs`: directories below which a working directory is given to the payload's uid.
    pub workdirs: Vec<PathBuf>,
    /// `state`: where the locks and notes about these uids are.
    pub state: PathBuf,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `wall_time`: the longest that may be asked, and what applies when nothing is asked. `None` = no limit.
    pub wall_time: Option<Duration>,
    /// `grace`: between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// `open_files`: RLIMIT_NOFILE at most. `None`: the pilot's.
    pub open_files: Option<u64>,
    /// `memory`: bytes, when nothing is asked. `None`: the most, or no limit.
    pub memory: Option<u64>,
    /// `most_memory`: the most that may be asked, and what holds when nothing is asked and `memory` says nothing.
    pub most_memory: Option<u64>,
    /// `cpus`: thousandths of a core, when nothing is asked.
    pub cpus_milli: Option<u64>,
    /// `most_cpus`: as `most_memory`.
    pub most_cpus_milli: Option<u64>,
    /// `pids`: processes and threads, when nothing is asked.
    pub pids: Option<u64>,
    /// `most_pids`: as `most_memory`.
    pub most_pids: Option<u64>,
    /// `file_size`: RLIMIT_FSIZE at most. `None`: the pilot's.
    pub file_size: Option<u64>,
    /// `overuse_off`: ids of `[[overuse]]` rules that do not hold, shipped ones too.
    pub overuse_off: Vec<String>,
}

fn set<T>(slot: &mut T, said: Option<T>) {
    if let Some(value) = said {
        *slot = value;
    }
}
