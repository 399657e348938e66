use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::*;
use crate::failure::{Code, Failure, Fault};
use crate::input::tests::Scratch;

const SHIPPED: &str = include_str!("../../config/bailey.toml");

fn place(main: &Path) -> Place {
    Place { main: main.to_owned(), conf_d: None, main_must_exist: true }
}

fn from_text(text: impl AsRef<[u8]>) -> Result<Config, Failure> {
    merge(&[("/x/bailey.toml".into(), text.as_ref().to_vec())])
}

/// Only what the keys say, without the origin.
fn values(mut config: Config) -> Config {
    config.hash = String::new();
    config.files = Vec::new();
    config
}

/// The shipped file with every setting active: a `#` that something other than a blank follows.
fn uncommented() -> String {
    let strip = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    SHIPPED.lines().map(strip).collect::<Vec<_>>().join("\n")
}

fn keys(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    let mut keys: Vec<String> = table
        .iter()
        .filter(|(_, keys)| keys.is_table()) // of an array of tables there may be any number
        .flat_map(|(section, keys)| {
            let keys = keys.as_table().unwrap().keys();
            keys.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
        })
        .collect();
    keys.sort();
    keys
}

#[test]
fn the_shipped_file_is_the_defaults_table() {
    assert_eq!(values(from_text(SHIPPED).unwrap()), values(Config::default()));
    let all = uncommented();
    assert_eq!(values(from_text(&all).unwrap()), values(Config::default()));
    assert_eq!(keys(&all), keys(&show(&Config::default())));
    assert_eq!(keys(SHIPPED), [""; 0]);
}

#[test]
fn every_key_is_documented() {
    let document = include_str!("../../docs/configuration.md");
    for key in keys(&uncommented()) {
        assert!(document.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn the_defaults_obey_the_rules_for_files() {
    // Reading back what `show` writes puts every default through the checks.
    let text = show(&Config::default());
    assert_eq!(values(from_text(text).unwrap()), values(Config::default()));
}

#[test]
fn the_hash_of_nothing() {
    let hex: String = Sha256::digest(b"").iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    assert_eq!(Config::default().hash, hex);
}

const EVERYTHING: &str = r#"
site = { name = "CERN \"X\" \\ é", public_ip = ["192.0.2.1", "2001:db8::1"] }
[identity]
undeclared = "deny"
discover = ["panda", "job-ad", "panda"]
discover_for = "all"
job_ad_user = true
pilots = ["/DC=org/CN=Robot", "https://iam.example.org/ 77"]
pilot_groups = ["/cms/Role=pilot"]
probes = "allow"
[audit]
dir = "/data//bailey/./log/"
recorder = "required"
socket = "/data/run/recorder.sock"
wait = "1h30m"
network_filesystem = true
journald = "checkpoints"
args = "digest"
user_name = true
[recorder]
dir = "/data/log"
state = "/data/state"
metrics = "/data/metrics.prom"
segment_size = "1M"
live_list_every = "128K"
checkpoint_records = "5"
checkpoint_every = "10s"
reserve = "2M"
live_per_uid = "7"
launches_per_second = "8"
bytes_per_day = "9G"
foreign_config = "record"
[retention]
days = "none"
size = "1T"
[root]
host = ["/usr", "/usr/", "/a b"]
host_etc = ["ssl", "grid-security/certificates"]
image_etc = []
always = ["/cvmfs", "/data/sets"]
late_mounts = []
sys = ["/sys/class/net"]
scratch_size = "1025"
[environment]
pass = ["A*", "B"]
path = "/bin:/usr/bin"
[apptainer]
environment = "clean"
home = "host"
tmp = "host"
cwd = "off"
[sandbox]
pid_namespace = "preferred"
proc = "off"
ipc_namespace = "preferred"
uts_namespace = "off"
cgroup_namespace = "off"
session_keyring = "preferred"
seccomp = "preferred"
abi_32bit = "off"
nested_namespaces = true
landlock = "required"
oom_score_adj = "1000"
umask = "0077"
stdio = "relay"
[uid]
mode = "subuid"
shared_dirs = ["/scratch/", "/data"]
state = "/data/subuids"
[cgroup]
mode = "required"
parent = "/grid/pilots"
oom = "process"
swap = "host"
cpus = "weight"

[root_caller]
uids = "200000-200999"
workdirs = ["/pilots"]
state = "/data/uids"
[limits]
wall_time = "2d"
grace = "0s"
open_files = "none"
memory = "2G"
most_memory = "64G"
cpus = "1.5"
most_cpus = "8"
pids = "500"
most_pids = "4096"
file_size = "5G"
overuse_off = ["hardly-reads", "many-processes"]
[[overuse]]
id = "cpu-over-request"
metric = "cpu"
above = "150%"
until = "1.25"
for = "90s"
for_end = "1m"
steps = ["notice", "throttle", "stop"]
every = "5m"
grace = "2m"
[[overuse]]
id = "site.reads"
metric = "reading"
below = "2K"
for = "3h"
min_cpu = "20m"
[policy]
default = "deny"
parallel_person = 3
parallel_vo = "400"
parallel_uid = "none"
groups_dir = "/data/groups"
[image]
allow_digests = ["sha256:7b7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c"]
deny_digests = ["sha256:0B7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c"]
max_age = "365d"
old = "restrict"
required_labels = ["org.opencontainers.image.created", "maintainer=us"]
unlabelled = "refuse"
end_of_life = "restrict"
end_of_life_table = "/data/eol.toml"
[bans]
dir = "/data/bans"
unreadable = "last-good"
missing = "warn"
stale = "closed"
required = ["ban_users.db"]
max_age = "1d"
action = "freeze"
grace = "30s"
poll = "2s"
settle = "0s"
[[rule]]
id = "everything"
decision = "allow"
reason = "because"
vo = ["atlas", "cms"]
issuer = ["https://iam.example.org/"]
user = ["/DC=org/CN=A", "CN=B,DC=org"]
person = ["jane"]
group = ["/cms/Role=production", "/atlas/*"]
mapfile = ["/etc/grid-security/grid-mapfile"]
assurance = ["declared"]
pilot_uid = [1001, 1002]
image = ["/cvmfs/unpacked.cern.ch"]
image_digest = ["sha256:7b7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c"]
image_older_than = "30d"
end_of_life = true
host_system = false
network = "none"
nested = false
writable = false
wall_time = "1h"
scratch_size = "2G"
memory = "3G"
cpus = "0.25"
pids = "64"
credentials = false
binds = { allow = ["/data"], deny = ["/data/secret"], readonly = ["/data/ro"] }
profile = "strict"
parallel_person = 1
parallel_vo = 2
parallel_uid = 3
overuse_exempt = ["cpu"]
[[rule]]
id = "nobody"
decision = "deny"
[[person]]
id = "jane"
names = ["/DC=org/CN=A", "https://iam.example.org/ abc"]
[[trust]]
issuer = "https://iam.example.org/"
vo = ["cms"]
[[vo]]
name = "cms"
job_page = "https://x.example.org/{job}"
security_contact = "s@example.org"
user_contact = "u@example.org"
resolver = ["/bin/echo", "{job}"]
"#;

#[test]
fn every_key_is_read_and_shown() {
    let config = from_text(EVERYTHING).unwrap();
    assert_eq!(config.site.name, "CERN \"X\" \\ é");
    assert_eq!(config.site.public_ip.len(), 2);
    let identity = &config.identity;
    assert_eq!((identity.undeclared, identity.probes), (Undeclared::Deny, Probes::Allow));
    assert_eq!(identity.discover, [Discover::Panda, Discover::JobAd]);
    assert!(identity.discover_always && identity.job_ad_user);
    assert_eq!((identity.pilots.len(), identity.pilot_groups.len()), (2, 1));
    assert_eq!(config.audit.dir, Some(PathBuf::from("/data/bailey/log")));
    assert_eq!(config.audit.wait, Duration::from_secs(5400));
    assert!(config.audit.network_filesystem && config.audit.user_name);
    assert_eq!(config.audit.recorder, Demand::Required);
    assert_eq!(config.recorder.metrics, Some(PathBuf::from("/data/metrics.prom")));
    assert_eq!((config.recorder.checkpoint_records, config.recorder.reserve), (5, 2 << 20));
    assert_eq!((config.retention.days, config.retention.size), (None, Some(1 << 40)));
    assert_eq!(config.audit.journald, Journald::Checkpoints);
    assert_eq!(config.audit.args, Args::Digest);
    assert_eq!(config.root.host, [Path::new("/usr"), Path::new("/a b")]);
    assert_eq!(config.root.scratch_size, 1025);
    assert_eq!(config.environment.pass, ["A*", "B"]);
    assert_eq!((config.sandbox.pid_namespace, config.sandbox.proc), (Demand::Preferred, Demand::Off));
    assert_eq!(config.sandbox.uts_namespace, Demand::Off);
    assert_eq!(config.sandbox.session_keyring, Demand::Preferred);
    assert_eq!((config.sandbox.seccomp, config.sandbox.abi_32bit), (Demand::Preferred, Abi32::Off));
    assert!(config.sandbox.allow_nested);
    assert_eq!((config.sandbox.landlock, config.sandbox.oom_score_adj), (Demand::Required, 1000));
    assert_eq!(config.sandbox.umask, 0o077);
    assert_eq!(config.sandbox.stdio, crate::request::Stdio::Relay);
    assert_eq!((config.limits.open_files, config.limits.file_size), (None, Some(5 << 30)));
    assert_eq!((config.limits.memory, config.limits.most_memory), (Some(2 << 30), Some(64 << 30)));
    assert_eq!((config.limits.cpus_milli, config.limits.most_cpus_milli), (Some(1500), Some(8000)));
    assert_eq!((config.limits.pids, config.limits.most_pids), (Some(500), Some(4096)));
    let grant = &config.tables.rules[0].grant;
    assert_eq!((grant.memory, grant.cpus_milli, grant.pids), (Some(3 << 30), Some(250), Some(64)));
    assert_eq!(config.uid.mode, UidMode::Subuid);
    assert_eq!(config.cgroup.parent.as_deref(), Some("/grid/pilots"));
    assert_eq!(config.root_caller.uids.map(|range| range.to_string()), Some("200000-200999".to_owned()));
    assert_eq!(config.limits.wall_time, Some(Duration::from_secs(2 * 86400)));
    assert_eq!(config.limits.grace, Duration::ZERO);
    assert_eq!(config.limits.overuse_off, ["hardly-reads", "many-processes"]);

    let text = show(&config);
    assert!(text.contains("# from /x/bailey.toml\n"), "{text}");
    assert!(text.contains(&config.hash));
    assert_eq!(values(from_text(&text).unwrap()), values(config));
    assert_eq!(keys(EVERYTHING), keys(&uncommented()), "a key is not tested here");
}

#[test]
fn a_rule_on_overuse_takes_the_place_of_its_namesake() {
    use crate::overuse::{Bound, Milli, Step};
    let config = from_text(EVERYTHING).unwrap();
    let ids: Vec<&str> = config.overuse.iter().map(|rule| rule.id.as_str()).collect();
    let shipped = ["cpu-over-request", "memory-near-request", "many-processes", "hardly-reads"];
    assert_eq!(ids, [&shipped[..], &["site.reads"]].concat());
    let [cpu, .., reads] = config.overuse.as_slice() else { panic!("{ids:?}") };
    assert_eq!((cpu.bound, cpu.until), (Bound::Above(Milli(1500)), Milli(1250)));
    assert_eq!((cpu.over.as_secs(), cpu.over_end.as_secs(), cpu.every.as_secs()), (90, 60, 300));
    assert_eq!((cpu.steps.len(), cpu.grace), (3, Some(Duration::from_secs(120))));
    // What was not said: hysteresis, spans, the one step.
    assert_eq!((reads.bound, reads.until), (Bound::Below(Milli(2_048_000)), Milli(2_276_000)));
    assert_eq!((reads.over_end, reads.every, &reads.steps), (reads.over, reads.over, &vec![Step::Notice]));
    // The shipped ones only notice.
    assert!(Config::default().overuse.iter().all(|rule| rule.steps == [Step::Notice]));
    // Of two files the later one counts.
    let text = |above: &str| {
        format!("[[overuse]]\nid = \"x\"\nmetric = \"processes\"\nabove = \"{above}\"\nfor = \"1m\"\n")
            .into_bytes()
    };
    let config = merge(&[("/x/a".into(), text("5")), ("/x/b".into(), text("7"))]).unwrap();
    assert_eq!(
        config.overuse.last().map(|rule| (rule.bound, rule.until)),
        Some((Bound::Above(Milli(7000)), Milli(6000)))
    );
    assert_eq!(config.overuse.len(), 5);
}

#[test]
fn bom_crlf_and_an_empty_file_are_fine() {
    let config = from_text("\u{feff}[limits]\r\ngrace = \"7s\"\r\n").unwrap();
    assert_eq!(config.limits.grace, Duration::from_secs(7));
    assert_eq!(values(from_text("").unwrap()), values(Config::default()));
}

/// Text, place, what was found, next step.
#[rustfmt::skip] // one row a line
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("[site\n", "line 1, column 6", "unclosed table", "config validate"),
    ("[limits]\ngrace 3\n", "line 2", "expected `=`", "config validate"),
    ("[site]\nname = \"a\"\nname = \"b\"\n", "line 3, column 1", "duplicate key", "correct it"),
    ("[site]\n[site]\n", "line 2", "duplicate", "correct it"),
    ("[root]\nscratch-sise = \"1G\"\n", "line 2, column 1", "unknown key `scratch-sise`", "did you mean 'scratch_size'?"),
    ("[root]\ncolour = 1\n", "line 2, column 1", "expected one of `host`", "correct it"),
    ("[sandbocks]\n", "line 1, column 2", "unknown section `sandbocks`", "did you mean 'sandbox'?"),
    ("grace = \"1s\"\n", "line 1, column 1", "unknown section `grace`", "correct it"),
    ("site = 3\n", "line 1, column 8", "invalid type: integer `3`, expected a section, written [site]", ""),
    ("[audit]\nwait = 10\n", "line 2, column 8", "integer `10`, expected a time span as text", ""),
    ("[audit]\nuser_name = \"yes\"\n", "line 2, column 13", "expected a boolean", ""),
    ("[audit]\nargs = \"ful\"\n", "line 2, column 8", "unknown value `ful`", "did you mean 'full'?"),
    ("[identity]\nundeclared = true\n", "line 2, column 14", "boolean `true`, expected \"deny\" or \"record\"", ""),
    ("[identity]\ndiscover = [\"panda\", \"condor\"]\n", "line 2, column 22", "unknown value `condor`", ""),
    ("[identity]\npilots = [\"\"]\n", "line 2, column 11", "the name is empty", ""),
    ("[identity]\npilot_groups = [\"cms\"]\n", "line 2, column 17", "'cms'", ""),
    ("[identity]\nprobes = \"deny\"\n", "line 2, column 10", "unknown value `deny`", ""),
    ("[identity]\nundeclared = { deny = {} }\n", "line 2, column 14", "invalid type: map", ""),
    ("[audit]\nwait = \"soon\"\n", "line 2, column 8", "'soon' is not a time span", ""),
    ("[cgroup]\nparent = \"grid\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"/a/../b\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"/sys/fs/cgroup/a\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"/\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"..\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"../\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\nparent = \"../a/../b\"\n", "line 2, column 10", "is no cgroup", ""),
    ("[cgroup]\noom = \"all\"\n", "line 2, column 7", "expected `group` or `process`", ""),
    ("[root_caller]\nuids = \"0-999\"\n", "line 2, column 8", "below 1000", ""),
    ("[root_caller]\nuids = \"2000\"\n", "line 2, column 8", "no range of uids", ""),
    ("[root_caller]\nuids = \"3000-2000\"\n", "line 2, column 8", "ends before it begins", ""),
    ("[root_caller]\nuids = \"60000-70000\"\n", "line 2, column 8", "stands for nobody", ""),
    ("[root_caller]\nuids = \"100000-200000\"\n", "line 2, column 8", "more than 65536", ""),
    ("[uid]\nmode = \"sub\"\n", "line 2, column 8", "expected `caller` or `subuid`", ""),
    ("[limits]\nwall_time = \"0s\"\n", "line 2, column 13", "no time to run", ""),
    ("[limits]\nwall_time = \"None\"\n", "line 2, column 13", "'None' is not a time span", ""),
    ("[root]\nscratch_size = \"1.5G\"\n", "line 2, column 16", "'1.5G'", ""),
    ("[root]\nscratch_size = \"1X\"\n", "line 2, column 16", "unknown unit 'X'", ""),
    ("[root]\nhost = \"/usr\"\n", "line 2, column 8", "expected a list", ""),
    ("[root]\nhost = [\"/usr\",\n \"opt\"]\n", "line 3, column 2", "'opt' is a relative path", ""),
    ("[root]\nhost = [\"/usr/../etc\"]\n", "line 2, column 9", "has '..'", ""),
    ("[root]\nhost = [\"\"]\n", "line 2, column 9", "not a path", ""),
    ("[root]\nhost = [\"/a\\u0000\"]\n", "line 2, column 9", "control characters", ""),
    ("[root]\nhost_etc = [\"/etc/ssl\"]\n", "line 2, column 13", "absolute path", ""),
    ("[root]\nimage_etc = [\"/usr/x\"]\n", "line 2, column 14", "not under /etc", ""),
    ("[root]\nsys = [\"/sys\"]\n", "line 2, column 8", "cgroups", ""),
    ("[root]\nsys = [\"/sys/fs/cgroup/x\"]\n", "line 2, column 8", "cgroups", ""),
    ("[root]\nsys = [\"/proc\"]\n", "line 2, column 8", "not under /sys", ""),
    ("[environment]\npass = [\"*\"]\n", "line 2, column 9", "credentials", ""),
    ("[environment]\npass = [\"A*B\"]\n", "line 2, column 9", "not its end", ""),
    ("[environment]\npass = [\"A=B\"]\n", "line 2, column 9", "no '='", ""),
    ("[environment]\npath = \"/bin:\"\n", "line 2, column 8", "'/bin:'", ""),
    ("[environment]\npath = \"/bin:.\"\n", "line 2, column 8", "relative", ""),
    ("[sandbox]\noom_score_adj = \"1001\"\n", "line 2, column 17", "no score", ""),
    ("[sandbox]\noom_score_adj = \"-1\"\n", "line 2, column 17", "no score", ""),
    ("[limits]\npids = \"15\"\n", "line 2, column 8", "too few for a shell script: name 16", ""),
    ("[limits]\nmost_pids = \"0\"\n", "line 2, column 13", "'0' is zero", ""),
    ("[limits]\npids = \"-5\"\n", "line 2, column 8", "not a whole number", ""),
    ("[limits]\npids = \"4194305\"\n", "line 2, column 8", "more processes than Linux can have", ""),
    ("[limits]\npids = 500\n", "line 2, column 8", "integer `500`, expected a whole number as text", ""),
    ("[limits]\nmemory = \"0\"\n", "line 2, column 10", "'0' is zero", ""),
    ("[limits]\nmemory = \"4095K\"\n", "line 2, column 10", "too little for a program to start: name 4M", ""),
    ("[limits]\nmemory = \"-1G\"\n", "line 2, column 10", "not a size", ""),
    ("[limits]\nmemory = \"2Q\"\n", "line 2, column 10", "unknown unit 'Q'", ""),
    ("[limits]\nmost_memory = \"16777216T\"\n", "line 2, column 15", "too large", ""),
    ("[limits]\nmemory = 2.5\n", "line 2, column 10", "expected a size as text", ""),
    ("[limits]\ncpus = \"0\"\n", "line 2, column 8", "'0' is zero", ""),
    ("[limits]\ncpus = \"-1\"\n", "line 2, column 8", "not a number of cores", ""),
    ("[limits]\ncpus = \"2 cores\"\n", "line 2, column 8", "not a number of cores", ""),
    ("[limits]\nmost_cpus = \"1000001\"\n", "line 2, column 13", "more than a million cores", ""),
    ("[limits]\ncpu = \"1\"\n", "line 2, column 1", "unknown key `cpu`", "did you mean 'cpus'?"),
    ("[[rule]]\nid = \"x\"\nmemory = \"1M\"\n", "line 3, column 10", "too little", ""),
    ("[[rule]]\nid = \"x\"\ncpus = \"none\"\n", "line 3, column 8", "not a number of cores", ""),
    ("[[rule]]\nid = \"x\"\npids = \"3\"\n", "line 3, column 8", "too few", ""),
    ("[limits]\nopen_files = \"0\"\n", "line 2, column 14", "not a whole number above zero", ""),
    ("[sandbox]\numask = \"0999\"\n", "line 2, column 9", "not a umask", ""),
    ("[sandbox]\numask = \"1777\"\n", "line 2, column 9", "not a umask", ""),
    ("[sandbox]\numask = \"+22\"\n", "line 2, column 9", "not a umask", ""),
    ("[sandbox]\numask = 18\n", "line 2, column 9", "expected an octal umask as text", ""),
    ("[sandbox]\nuts_namespace = \"on\"\n", "line 2, column 17", "unknown value `on`, expected `required` or `preferred`", ""),
    ("[site]\npublic_ip = [\"300.1.1.1\"]\n", "line 2, column 14", "not an IPv4", ""),
    ("[site]\npublic_ip = [\"127.0.0.1\"]\n", "line 2, column 14", "no address that the world sees", ""),
    ("[site]\nname = \"a\\nb\"\n", "line 2, column 8", "control characters", ""),
    ("[audit]\ndir = \"log\"\n", "line 2, column 7", "relative path", ""),
    ("[audit]\ndir = \"/\"\n", "line 2, column 7", "no place for a log", ""),
    ("[limits]\noveruse_off = [\"a b\"]\n", "line 2, column 16", "no name of a rule", ""),
    ("[overuse]\nid = \"x\"\n", "line 1, column 1", "invalid type: map", ""),
    ("\n[[overuse]]\n", "line 2, column 1", "needs an id", ""),
    ("[[overuse]]\nid = \"\"\n", "line 2, column 6", "no name of a rule", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"disk\"\n", "line 3, column 10", "unknown value `disk`", ""),
    ("[[overuse]]\nid = \"x\"\nabov = \"1\"\n", "line 3, column 1", "unknown key `abov`", "did you mean 'above'?"),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nfor = \"1m\"\n", "line 1, column 1", "the rule 'x' needs 'above'", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nfor = \"1m\"\nbelow = \"1\"\n", "line 1", "needs 'above', and no 'below'", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"reading\"\nfor = \"1m\"\nabove = \"1\"\n", "line 1", "needs 'below'", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\n", "line 1", "needs 'for'", ""),
    ("[[overuse]]\nid = \"x\"\nabove = \"1\"\nfor = \"1m\"\n", "line 1", "needs a metric", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1.2345\"\nfor = \"1m\"\n", "line 1", "'1.2345' is no part", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"memory\"\nabove = \"2G\"\nfor = \"1m\"\n", "line 1", "'2G' is no part", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"processes\"\nabove = \"90%\"\nfor = \"1m\"\n", "line 1", "'90%'", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nuntil = \"1.1\"\nfor = \"1m\"\n", "line 1", "other side", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"0s\"\n", "line 1", "zero", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"1m\"\nsteps = []\n", "line 1", "limits.overuse_off", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"1m\"\nsteps = [\"stop\", \"notice\"]\n", "line 1", "in no order", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"1m\"\nsteps = [\"kill\"]\n", "line 6", "unknown value `kill`", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"reading\"\nbelow = \"1K\"\nfor = \"1h\"\nsteps = [\"notice\", \"stop\"]\n", "line 1", "may only notice", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"1m\"\ngrace = \"1s\"\n", "line 1", "no step \"stop\"", ""),
    ("[[overuse]]\nid = \"x\"\nmetric = \"cpu\"\nabove = \"1\"\nfor = \"1m\"\nmin_cpu = \"1s\"\n", "line 1", "'min_cpu', which is for reading", ""),
    ("\u{feff}x = 1\n", "line 1, column 1", "unknown section `x`", ""),
];

#[test]
fn each_error_says_where_what_and_what_next() {
    for (text, place, found, next) in WRONG {
        let failure = from_text(text).expect_err(text);
        assert_eq!((failure.code, failure.fault), (Code::Setup, Fault::Site));
        assert!(failure.what.starts_with("cannot use the configuration /x/bailey.toml"), "{failure}");
        assert!(failure.what.contains(place), "{text:?}: {failure}");
        assert!(failure.why.contains(found), "{text:?}: {failure}");
        assert!(failure.next.contains(next), "{text:?}: {failure}");
        assert!(failure.next.contains("'bailey config validate /x/bailey.toml'"), "{failure}");
        assert!(!failure.to_string().contains('\n'), "{failure}");
    }
}

#[test]
fn no_default_is_above_the_most() {
    for (key, default, most) in [("memory", "2G", "1G"), ("cpus", "1.5", "1.499"), ("pids", "17", "16")] {
        let failure =
            from_text(format!("[limits]\n{key} = \"{default}\"\nmost_{key} = \"{most}\"\n")).unwrap_err();
        assert!(failure.what.ends_with(&format!("limits.{key} = \"{default}\"")), "{failure}");
        assert!(failure.why.contains(&format!("limits.most_{key} = \"{most}\"")), "{failure}");
        from_text(format!("[limits]\n{key} = \"{most}\"\nmost_{key} = \"{most}\"\n")).unwrap();
    }
    // Of two files as of one.
    let files = [("a", "[limits]\nmost_pids = \"100\"\n"), ("b", "[limits]\npids = \"200\"\n")];
    let files = files.map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec()));
    assert!(merge(&files).is_err());
    assert!(merge(&files[..1]).is_ok() && merge(&files[1..]).is_ok());
}

#[test]
fn nothing_of_baileys_own_can_be_shown_to_payloads() {
    let own = [
        "/",
        "//",
        "/.",
        "/etc",
        "/etc/",
        "/etc/bailey",
        "/etc/./bailey",
        "/etc/bailey/conf.d",
        "/run",
        "/run/bailey",
        "/var",
        "/var/log",
        "/var/log/bailey/x",
        "/var/lib",
        "/var/lib/bailey",
        "/var/run",
        "/proc",
        "/proc/1",
        "/sys",
        "/dev",
        "/tmp",
        "/var/tmp",
    ];
    for key in ["host", "always", "late_mounts", "image_etc"] {
        for path in own {
            let text = format!("[root]\n{key} = [\"{path}\"]\n");
            from_text(&text).expect_err(&text);
        }
    }
    for name in ["", ".", "bailey", "./bailey", "bailey/bailey.toml", "..", "x/../bailey", "/etc/bailey"] {
        let text = format!("[root]\nhost_etc = [\"{name}\"]\n");
        from_text(&text).expect_err(&text);
    }
    // Neighbours are fine.
    from_text("[root]\nhost = [\"/etc/baileys\", \"/var/lib/x\"]\nhost_etc = [\"bailey.d\"]\n").unwrap();
}

#[test]
fn the_log_lies_in_nothing_that_is_shown() {
    for (dir, shown) in [("/opt/log", "/opt"), ("/etc/ssl/log", "/etc/ssl"), ("/cvmfs", "/cvmfs")] {
        let failure = from_text(format!("[audit]\ndir = \"{dir}\"\n")).unwrap_err();
        assert!(failure.why.contains(&format!("payloads see {shown},")), "{failure}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_place() {
    let failure = from_text(b"[site]\nname = \"M\xfcnchen\"\n").unwrap_err();
    assert!(failure.what.contains("line 2, column 10"), "{failure}");
    assert!(failure.why.contains("not UTF-8"));
}

#[test]
fn later_files_replace_single_keys_and_whole_lists() {
    let scratch = Scratch::new();
    let main = scratch.write(
        "bailey.toml",
        "[limits]\nwall_time = \"2d\"\ngrace = \"5s\"\n[root]\nalways = [\"/a\", \"/b\"]\n",
    );
    let second = scratch.write("conf.d/20-b.toml", "[limits]\ngrace = \"7s\"\n");
    let first = scratch.write(
        "conf.d/10-a.toml",
        "[limits]\ngrace = \"6s\"\nwall_time = \"none\"\n[root]\nalways = [\"/c\"]\n",
    );
    for left_out in [".hidden.toml", "x.toml~", "x.toml.rpmsave", "README"] {
        scratch.write(&format!("conf.d/{left_out}"), "nonsense");
    }
    let mut place = place(&main);
    place.conf_d = Some(scratch.0.join("conf.d"));
    let config = load(&place).unwrap();
    assert_eq!(config.limits.grace, Duration::from_secs(7));
    assert_eq!(config.limits.wall_time, None);
    assert_eq!(config.root.always, [Path::new("/c")]);
    assert_eq!(config.root.sys, Config::default().root.sys);
    assert_eq!(config.files, [main.clone(), first.clone(), second.clone()]);

    let bytes = [main, first, second].map(|path| std::fs::read(path).unwrap()).concat();
    let hex: String = Sha256::digest(bytes).iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    assert_eq!(config.hash, hex);

    // The directory alone is enough.
    place.main = scratch.0.join("none.toml");
    place.main_must_exist = false;
    assert_eq!(load(&place).unwrap().files.len(), 2);
}

#[test]
fn no_file_is_the_default_unless_it_must_exist() {
    let scratch = Scratch::new();
    for dir in [scratch.0.clone(), scratch.0.join("none")] {
        let mut place =
            Place { main: dir.join("bailey.toml"), conf_d: Some(dir.join("conf.d")), main_must_exist: false };
        assert_eq!(load(&place).unwrap(), Config::default());
        place.main_must_exist = true;
        assert!(load(&place).unwrap_err().why.contains("ENOENT"));
    }
}

#[test]
fn a_link_that_leads_nowhere_is_not_a_missing_file() {
    let scratch = Scratch::new();
    let link = |name: &str| {
        std::os::unix::fs::symlink("/nowhere/at/all", scratch.0.join(name)).unwrap();
        scratch.0.join(name)
    };
    let dir = link("bailey");
    for (main, conf_d) in [
        (link("bailey.toml"), None),
        (scratch.0.join("none"), Some(link("conf.d"))),
        (dir.join("bailey.toml"), Some(dir.join("conf.d"))),
    ] {
        let place = Place { main, conf_d, main_must_exist: false };
        let failure = load(&place).expect_err("the defaults took its place");
        assert!(failure.why.contains("ENOENT"), "{failure}");
    }
}

#[test]
fn a_link_to_a_file_is_followed() {
    let scratch = Scratch::new();
    let real = scratch.write("real", "[limits]\ngrace = \"5s\"\n");
    std::os::unix::fs::symlink(real, scratch.0.join("bailey.toml")).unwrap();
    assert_eq!(load(&place(&scratch.0.join("bailey.toml"))).unwrap().limits.grace, Duration::from_secs(5));
}

#[test]
fn only_small_regular_files_that_nobody_else_can_write() {
    let scratch = Scratch::new();
    let why = |path: PathBuf| {
        let failure = load(&place(&path)).unwrap_err();
        assert_eq!(failure.fault, Fault::Site);
        assert!(failure.what.contains(&*path.to_string_lossy()));
        failure.to_string()
    };
    assert!(why(scratch.fifo("fifo")).contains("a FIFO"));
    assert!(why(scratch.0.clone()).contains("a directory"));
    assert!(why("/dev/null".into()).contains("a device"));
    let huge = scratch.write("huge.toml", "");
    std::fs::File::options().write(true).open(&huge).unwrap().set_len((1 << 20) + 1).unwrap();
    assert!(why(huge).contains("larger than 1048576"));
    let main = scratch.write("bailey.toml", "");
    for mode in [0o664, 0o646, 0o622] {
        scratch.mode("bailey.toml", mode);
        let text = why(main.clone());
        assert!(text.contains(&format!("mode {mode:04o}")) && text.contains("chmod go-w"), "{text}");
    }
    scratch.mode("bailey.toml", 0o600);
    load(&place(&main)).unwrap();
}

#[test]
fn the_owner_is_root_or_oneself() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let main = scratch.write("bailey.toml", "");
    std::os::unix::fs::chown(&main, Some(1234), None).unwrap();
    let text = load(&place(&main)).unwrap_err().to_string();
    assert!(text.contains("belongs to uid 1234") && text.contains("chown root:root"), "{text}");
}

#[test]
fn the_directory_is_judged_like_the_files_in_it() {
    let scratch = Scratch::new();
    let main = scratch.write("bailey.toml", "");
    scratch.write("conf.d/a.toml", "");
    let load = || {
        let mut place = place(&main);
        place.conf_d = Some(scratch.0.join("conf.d"));
        load(&place)
    };
    scratch.mode("conf.d", 0o777);
    assert!(load().unwrap_err().why.contains("mode 0777"));
    scratch.mode("conf.d", 0o755);
    load().unwrap();
    scratch.mode("conf.d/a.toml", 0o666);
    assert!(load().unwrap_err().what.contains("conf.d/a.toml"));
    scratch.mode("conf.d/a.toml", 0o644);
    scratch.fifo("conf.d/b.toml");
    assert!(load().unwrap_err().why.contains("a FIFO"));
    std::fs::remove_dir_all(scratch.0.join("conf.d")).unwrap();
    scratch.write("conf.d", "");
    assert!(load().unwrap_err().why.contains("not a directory"));
}

/// Runs itself again with `BAILEY_CONFIG` set: a test must not change the environment of the others.
#[test]
fn the_environment_names_the_file_in_test_builds_only() {
    const PROBE: &str = "BAILEY_UNIT_PROBE";
    if std::env::var_os(PROBE).is_some() {
        let named = place(Path::new("/x/y.toml"));
        assert_eq!(Place::system() == named, cfg!(feature = "test-hooks"));
        return;
    }
    let name = "config::tests::the_environment_names_the_file_in_test_builds_only";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(PROBE, "1")
        .env("BAILEY_CONFIG", "/x/y.toml")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn uids_of_their_own_and_no_pid_namespaces_do_not_go_together() {
    let mut config = Config::default();
    config.sandbox.pid_namespace = Demand::Off;
    assert_eq!(warnings(&config), Vec::<String>::new());
    config.uid.mode = UidMode::Subuid;
    let said = warnings(&config);
    assert!(said.len() == 1 && said[0].contains("sandbox.pid_namespace"), "{said:?}");
    config.sandbox.pid_namespace = Demand::Preferred;
    assert_eq!(warnings(&config), Vec::<String>::new());
}
