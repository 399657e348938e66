//! The one table of defaults. `config/bailey.toml` shows it to administrators, and a test keeps the two equal.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use super::overuse::default_until;
use super::{
    Abi32, Apptainer, Args, Audit, Cgroup, Config, Cpus, Demand, Discover, Environment, ForeignConfig,
    Identity, Journald, Limits, Oom, Probes, Recorder, Retention, Root, RootCaller, Sandbox, Site, Swap, Uid,
    UidMode, Undeclared,
};
use crate::overuse::{Bound, Metric, Milli, Rule, Step};
use crate::policy::group::GroupPattern;

/// SHA-256 of no bytes at all (FIPS 180-4): the hash of "no file was there", spared at every start.
pub(crate) const HASH_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The operating system's own trees. /lib32 and /libx32 are for 32-bit HEP programs, /opt for site software.
const HOST: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"];

/// What shells, the loader, TLS and the experiments' software read under /etc, on Debian and on EL.
///
/// Names, never the whole of /etc: it holds bailey's own configuration, host keys (grid-security/hostkey.pem, ssh), and
/// whatever a site keeps there for its services. passwd and group are not here: the sandbox writes its own.
const HOST_ETC: [&str; 45] = [
    // The loader and the choice between installed versions
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    // TLS and the grid's certificate authorities
    "ssl",
    "pki",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "gnutls",
    "grid-security/certificates",
    "grid-security/vomsdir",
    "vomses",
    // Names and networks
    "nsswitch.conf",
    "resolv.conf",
    "hosts",
    "host.conf",
    "gai.conf",
    "networks",
    "protocols",
    "services",
    "rpc",
    // Time and language
    "localtime",
    "timezone",
    "locale.conf",
    "locale.alias",
    // Which system this is: payloads choose their software by it
    "os-release",
    "debian_version",
    "redhat-release",
    "almalinux-release",
    "rocky-release",
    "centos-release",
    "system-release",
    // Shells and terminals
    "profile",
    "profile.d",
    "bash.bashrc",
    "bashrc",
    "inputrc",
    "terminfo",
    // Tools
    "mime.types",
    "magic",
    "fonts",
    "xdg",
    "python3",
    "perl",
];

/// Facts about terminal, language and the slot that change nothing about who the payload is and open no door. Ids of the
/// batch system stay outside (bailey records them); so do search paths of loaders and interpreters, which would let the
/// pilot's software into the payload, and every credential.
const PASS: [&str; 12] = [
    "TERM",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ROOT_MAX_THREADS",
    "CUDA_VISIBLE_DEVICES",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            site: Site { name: String::new(), public_ip: Vec::new() },
            identity: Identity {
                undeclared: Undeclared::Record,
                discover: Discover::ALL.to_vec(),
                discover_always: false,
                job_ad_user: false,
                pilots: Vec::new(),
                pilot_groups: GroupPattern::parse("/*/Role=pilot").into_iter().collect(),
                probes: Probes::AsPayloads,
            },
            audit: Audit {
                dir: None,
                recorder: Demand::Preferred,
                socket: PathBuf::from("/run/bailey/recorder.sock"),
                wait: Duration::from_secs(10),
                network_filesystem: false,
                journald: Journald::Off,
                args: Args::Full,
                user_name: false,
            },
            recorder: Recorder {
                dir: PathBuf::from("/var/log/bailey"),
                state: PathBuf::from("/var/lib/bailey"),
                metrics: None,
                segment_size: 64 << 20,
                live_list_every: 2 << 20,
                checkpoint_records: 1000,
                checkpoint_every: Duration::from_secs(60),
                reserve: 32 << 20,
                live_per_uid: 1500,
                launches_per_second: 100,
                bytes_per_day: 4 << 30,
                foreign_config: ForeignConfig::Refuse,
            },
            retention: Retention { days: Some(180), size: None },
            root: Root {
                host: paths(&HOST),
                host_etc: paths(&HOST_ETC),
                image_etc: paths(&["/etc/resolv.conf", "/etc/hosts"]),
                always: paths(&["/cvmfs"]),
                late_mounts: paths(&["/cvmfs"]),
                sys: paths(&["/sys/devices/system"]),
                scratch_size: 1 << 30,
            },
            environment: Environment {
                pass: PASS.map(str::to_owned).to_vec(),
                path: "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin".to_owned(),
            },
            apptainer: Apptainer::default(),
            // Required throughout: every kernel that can run bailey at all has these (cgroup namespaces since 4.6), and all but
            // `proc` work in rootless podman with its default options. Where one is missing, the site says so here.
            sandbox: Sandbox {
                // What ends a payload as a whole, whoever is killed first; and what hides the pilot's processes from it.
                pid_namespace: Demand::Required,
                proc: Demand::Required,
                ipc_namespace: Demand::Required,
                uts_namespace: Demand::Required,
                cgroup_namespace: Demand::Required,
                session_keyring: Demand::Required,
                seccomp: Demand::Required,
                abi_32bit: Abi32::Auto,
                allow_nested: false,
                // Not every kernel has it (EL 8, and EL 9 before 9.6).
                landlock: Demand::Preferred,
                // A fifth of the memory: the kernel takes a payload before a pilot, and a service before neither.
                oom_score_adj: 200,
                umask: 0o022,
                // A pilot that wants to see its payload's output in time, or hands over a terminal, loses by a relay; a site
                // that runs payloads of many users under one pilot's files wants it.
                stdio: crate::request::Stdio::Pass,
            },
            uid: Uid { mode: UidMode::Caller, shared_dirs: Vec::new(), state: None },
            root_caller: RootCaller {
                uids: None,
                workdirs: Vec::new(),
                state: PathBuf::from("/var/lib/bailey/uids"),
            },
            cgroup: Cgroup {
                mode: Demand::Preferred,
                parent: None,
                oom: Oom::Group,
                swap: Swap::None,
                cpus: Cpus::Max,
            },
            limits: Limits {
                wall_time: None,
                grace: Duration::from_secs(10),
                // The kernel's own default for the most (fs.nr_open): only "no limit" is cut.
                open_files: Some(1 << 20),
                // What a slot is worth only the batch system and the site know.
                memory: None,
                most_memory: None,
                cpus_milli: None,
                most_cpus_milli: None,
                pids: None,
                most_pids: None,
                file_size: None,
                overuse_off: Vec::new(),
            },
            overuse: overuse(),
            policy: crate::policy::settings::Settings::defaults(),
            tables: crate::policy::settings::Tables::default(),
            hash: HASH_OF_NOTHING.to_owned(),
            files: Vec::new(),
        }
    }
}

/// Rules on overuse that hold unless the site says otherwise (docs/overuse.md). All of them only notice: what is right to stop
/// is for the site to say.
fn overuse() -> Vec<Rule> {
    let rule = |id: &str, metric, bound, over| Rule {
        id: id.to_owned(),
        metric,
        bound,
        until: default_until(metric, bound),
        over: Duration::from_secs(over),
        over_end: Duration::from_secs(over),
        min_cpu: Duration::ZERO,
        steps: vec![Step::Notice],
        every: Duration::from_secs(over),
        grace: None,
    };
    vec![
        // A fifth more than was asked for: helper threads and the start take some per cent, and no neighbour suffers.
        rule("cpu-over-request", Metric::Cpu, Bound::Above(Milli(1200)), 600),
        // The next allocation may be the one that a batch system kills for; a minute, because peaks are normal.
        rule("memory-near-request", Metric::Memory, Bound::Above(Milli(900)), 60),
        // Multi-process payloads of the experiments have some hundreds; a fork bomb is there at once, and stays.
        rule("many-processes", Metric::Processes, Bound::Above(Milli(1_000_000)), 300),
        // Who works on data reads kilobytes for each CPU second at the very least. What does not is a simulation, waits for
        // nothing, or is no physics at all (a miner). Two hours, so that a long start is over.
        Rule {
            min_cpu: Duration::from_secs(3600),
            ..rule("hardly-reads", Metric::Reading, Bound::Below(Milli(1_024_000)), 7200)
        },
    ]
}

fn paths(texts: &[&str]) -> Vec<PathBuf> {
    texts.iter().map(PathBuf::from).collect()
}
