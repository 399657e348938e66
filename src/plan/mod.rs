//! From a request to a decision: who, with what root, binds, environment and limits. Nothing has happened yet when it is
//! made; it only looks at files. `bailey exec --dry-run` prints it.
#![forbid(unsafe_code)]

use crate::audit::time::Timestamp;
use crate::cgroup::{self, Limits, Offers, Place, Planned};
use crate::config::{self, Abi32, Config, Demand, UidMode};
use crate::failure::Failure;
use crate::host::Caller;
use crate::image::{self, facts::Told};
use crate::overuse::{self, Requests, Selection, Tells, sample};
use crate::policy::rule::Profile;
use crate::policy::verdict::Obligations;
use crate::request::{LaunchId, Network, Request, Stdio};
use crate::sandbox::seccomp::{self, Filter};
use crate::sandbox::{Blueprint, landlock};
use crate::supervisor::Deadline;
use crate::sys::process::{Ceiling, ExecArrays};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod container;
mod describe;
mod limits;
mod opened;
mod pids;
mod room;
mod unheeded;

pub use describe::describe;
pub(crate) use describe::streams_behind_rules;
pub use limits::{limits, weaker};
use opened::Asked;
pub use opened::{Opened, facts, open};
pub(crate) use pids::OUTER_PROC;
use pids::Pids;
use room::Room;

/// What will be done.
pub struct Plan {
    /// Everything for the child.
    pub blueprint: Blueprint,
    /// Wall time and grace.
    pub deadline: Deadline,
    /// Facts for the record and for `--dry-run`.
    pub facts: Facts,
}

/// What the directories, mount points and generated files of a payload fit into.
const LEAST_SCRATCH: u64 = 1 << 20;

/// One bind of the command line, or the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// Canonical path on the host.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// `ro` or `rw`.
    pub mode: &'static str,
}

/// The decisions, as plain data.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Resolved image path; `None` for the host's system.
    pub image: Option<PathBuf>,
    /// Content ids of the image.
    pub image_ids: Vec<String>,
    /// What the image says of itself; nothing of the host's system.
    pub told: Told,
    /// The end of its system's security support.
    pub end_of_life: Option<Timestamp>,
    /// Where the payload starts, inside.
    pub start_dir: PathBuf,
    /// Binds and working directory.
    pub mounts: Vec<HandedOver>,
    /// Environment inside; names only are printed.
    pub env: BTreeMap<OsString, OsString>,
    /// Bytes of the private tmpfs.
    pub scratch: u64,
    /// Memory, cores and processes that hold.
    pub limits: Limits,
    /// The wall time that holds.
    pub wall_time: Option<Duration>,
    /// Each wall: `on`, `off`, or why not.
    pub walls: BTreeMap<&'static str, String>,
    /// The command with its arguments, once it is known: an image's script where that was asked for.
    pub words: Vec<OsString>,
    /// What was asked for, or is the custom of the runtime that bailey stands in for, and is not done.
    pub unheeded: Vec<String>,
}

/// Decides. `log_dir` is where the embedded log is, so that no bind hands it over. `obligations`: what the site's policy holds
/// the payload to.
pub fn decide(
    id: LaunchId,
    request: &Request,
    opened: Opened,
    obligations: &Obligations,
    config: &Config,
    caller: &Caller,
    log_dir: Option<&Path>,
) -> Result<Plan, Failure> {
    let readonly = opened.readonly(request, obligations);
    let (request, config) =
        (&obliged(request, obligations, &readonly), &*walled(config, obligations.profile));
    if request.nested && !config.sandbox.allow_nested {
        return Err(nested());
    }
    let pids = pids::decide(request, config, caller)?;
    let stdio = stdio(request, config)?;
    let mut deadline = deadline(request, config, obligations)?;
    let limits = limits(&request.limits, &config.limits, &obligations.limits)?;
    let place = place(&config.cgroup, &limits)?;
    let offers = place.as_ref().map_or_else(|_| Offers::default(), Place::offers);
    // What no control group can hold is for rlimits.
    let (by_group, by_rlimit) = offers.share(&limits);
    let (weaker, limit_walls) = weaker(&by_rlimit);
    let watch = watch(&limits, config, offers, &obligations.overuse_exempt);
    let scratch = request.scratch_size.unwrap_or(config.root.scratch_size);
    let scratch = obligations.scratch.map_or(scratch, |most| scratch.min(most));
    if scratch < LEAST_SCRATCH {
        return Err(Failure::usage(
            format!("cannot give {scratch} bytes of scratch"),
            "bailey's own files inside need some of it",
            format!("name at least {} KiB (--scratch-size)", LEAST_SCRATCH >> 10),
        ));
    }

    let Opened { ref image, .. } = opened;
    let abi_32bit = match config.sandbox.abi_32bit {
        Abi32::Auto => image::runs_32bit_programs(image.as_ref())?,
        fixed => fixed == Abi32::On,
    };
    let (told, end_of_life) = (opened.told.clone(), opened.end_of_life);
    let of = room::For { id, request, obligations, config, caller, log_dir, readonly: &readonly };
    let Room {
        builder,
        image,
        image_ids,
        mounts,
        start_dir,
        env,
        commands,
        behind,
        argv,
        words,
        unheeded,
        hostname,
    } = room::build(opened, of)?;
    let namespaces = namespaces(request, config, pids);
    let tree = builder.finish(scratch, &start_dir)?;
    // File-system rules forbid every later mount, so never where the payload may mount.
    let second_wall = obligations.profile == Profile::Strict && !request.nested;
    let landlock = landlock::Wanted::new(
        config.sandbox.landlock,
        second_wall.then_some(&tree),
        second_wall && request.network == Network::None,
    );
    let filter = filter(request, config, obligations.profile, abi_32bit, pids);
    let mut walls = walls(request, config, image.is_some());
    walls.extend(pids.walls(config.sandbox.proc));
    if obligations.profile == Profile::Nested {
        walls.insert("nested_namespaces_forbidden", "off: a rule of the site grants them".to_owned());
    }
    walls.insert("seccomp", filter.map_or("off: the site's configuration".to_owned(), Filter::describe));
    if request.dry_run {
        // Otherwise the payload's process asks, and reports what it got.
        walls.insert("landlock", landlock.words());
    }
    match &place {
        // Replaced by what came of it, once it is made.
        Ok(place) => walls.insert("cgroup", place.describe()),
        Err(why) => {
            walls.extend(cgroup::without(config.cgroup.mode, &by_group, why.clone())?);
            None
        }
    };
    walls.insert("uid", uid_wall(config, caller));
    walls.insert("overuse", watch.describe());
    walls.extend(limit_walls);
    deadline.overuse = watch.watched;
    walls.insert("stdio", describe::streams(stdio, request.terminal)?);
    walls.insert("profile", obligations.profile.as_str().to_owned());

    let blueprint = Blueprint {
        id,
        tree,
        hold: caller.lent.as_ref().map(|lent| lent.lock.clone()),
        lease: None,
        ids: (caller.uid, caller.gid),
        uid_map: line(&format!("{0} {0} 1\n", caller.uid)),
        gid_map: line(&format!("{0} {0} 1\n", caller.gid)),
        cgroup_mode: config.cgroup.mode,
        limits: by_group,
        cores: limits.cpuset,
        moved_late: place.as_ref().is_ok_and(Place::is_late),
        cgroup: place.ok().map(|place| Planned { place, limits: by_group, settings: config.cgroup.clone() }),
        namespaces,
        forbid_nesting: !request.nested,
        seccomp: filter,
        seccomp_demand: config.sandbox.seccomp,
        keyring: config.sandbox.session_keyring,
        landlock,
        ceilings: ceilings(&config.limits, weaker),
        oom_score_adj: config.sandbox.oom_score_adj,
        loopback: request.network == Network::None,
        hostname,
        stdio,
        terminal: request.terminal,
        umask: request
            .container
            .as_deref()
            .map_or(config.sandbox.umask, |container| container::umask(container, config)),
        proc: if pids.are_own() { config.sandbox.proc } else { Demand::Off },
        proc_attr: proc_attr(),
        commands,
        behind,
        show_program: !mounts.is_empty(),
        argv: ExecArrays::new(strings(argv.into_iter(), "an argument")?),
        envp: ExecArrays::new(strings(env.iter().map(|(k, v)| pair(k, v)), "a variable")?),
        title: line(&format!("bailey-init {id}")),
    };
    let wall_time = deadline.wall_time;
    let facts = Facts {
        image,
        image_ids,
        told,
        end_of_life,
        start_dir,
        mounts,
        env,
        scratch,
        limits,
        wall_time,
        walls,
        words,
        unheeded,
    };
    Ok(Plan { blueprint, deadline, facts })
}

fn nested() -> Failure {
    Failure::refused(
        "refused --nested",
        "this site does not let payloads make namespaces of their own",
        "leave it out, or ask the site to set sandbox.nested_namespaces = true",
    )
}

/// Each refusal by the plan, for the list of what users read.
#[cfg(test)]
pub(crate) fn refusals() -> Vec<Failure> {
    vec![opened::by_root(), nested(), pids::not_granted()]
}

/// The request as far as the site's policy grants it.
fn obliged(request: &Request, obligations: &Obligations, readonly: &[Asked]) -> Request {
    let mut request = request.clone();
    request.network = obligations.network;
    request.nested |= obligations.profile == Profile::Nested;
    for asked in readonly {
        if let Asked::Bind(at) = asked
            && let Some(bind) = request.binds.get_mut(*at)
        {
            bind.writable = false;
        }
    }
    request
}

/// The configuration under a profile.
fn walled(config: &Config, profile: Profile) -> Cow<'_, Config> {
    let mut config = Cow::Borrowed(config);
    match profile {
        Profile::Default => {}
        Profile::Nested => config.to_mut().sandbox.allow_nested = true,
        Profile::Strict => {
            let config = config.to_mut();
            config.environment.pass.clear();
            config.root.sys.clear();
            config.apptainer = config::Apptainer::contained();
            config.sandbox.allow_nested = false;
        }
    }
    config
}

/// The filter of system calls: of the profile, and of `nested` where that was asked for and granted.
fn filter(
    request: &Request,
    config: &Config,
    profile: Profile,
    abi_32bit: bool,
    pids: Pids,
) -> Option<&'static Filter> {
    let profile = if request.nested { Profile::Nested } else { profile };
    (config.sandbox.seccomp != Demand::Off).then(|| seccomp::filter(profile, abi_32bit, pids.are_own()))
}

/// Nobody who asked for the pilot's own descriptors is given pipes without a word.
fn stdio(request: &Request, config: &Config) -> Result<Stdio, Failure> {
    match (request.stdio, config.sandbox.stdio) {
        (Some(Stdio::Pass), Stdio::Relay) => Err(Failure::usage(
            "cannot pass on the standard streams",
            "this site relays those of every payload (sandbox.stdio)",
            "leave out --stdio pass",
        )),
        (_, Stdio::Relay) => Ok(Stdio::Relay),
        (asked, Stdio::Pass) => Ok(asked.unwrap_or_default()),
    }
}

fn deadline(request: &Request, config: &Config, obligations: &Obligations) -> Result<Deadline, Failure> {
    let wall_time = match (request.wall_time, config.limits.wall_time) {
        (Some(asked), Some(most)) if asked > most => {
            return Err(Failure::usage(
                format!("cannot give a wall time of {} s", asked.as_secs()),
                format!("this site allows {} s at most (limits.wall_time)", most.as_secs()),
                "ask for less",
            ));
        }
        // What may be asked at most is what holds when nothing is asked; a rule may allow less.
        (asked, most) => asked.or(match (most, obligations.wall_time) {
            (Some(most), Some(rule)) => Some(most.min(rule)),
            (most, rule) => most.or(rule),
        }),
    };
    if wall_time.is_some_and(|limit| limit.is_zero()) {
        return Err(Failure::usage(
            "cannot give a wall time of 0 s",
            "the payload could not run",
            "name a longer one",
        ));
    }
    Ok(Deadline { wall_time, grace: request.grace.unwrap_or(config.limits.grace), overuse: Vec::new() })
}

/// The rules on overuse that are judged while it runs; `exempt` are those that the policy lifts for it.
fn watch(limits: &Limits, config: &Config, offers: Offers, exempt: &[String]) -> Selection {
    let requests = Requests { cpus_milli: limits.cpus_milli, memory: limits.memory };
    let tells = Tells { memory: offers.memory, ..sample::tells() };
    overuse::select(&config.overuse, &config.limits.overuse_off, requests, tells, exempt)
}

/// Where its control group is to be; the error says why it gets none.
///
/// # Errors
/// The site requires one, and there is none, or none that could hold it to what was asked for.
fn place(settings: &config::Cgroup, limits: &Limits) -> Result<Result<Place, String>, Failure> {
    if settings.mode == Demand::Off {
        return Ok(Err("the site's configuration".to_owned()));
    }
    let place = cgroup::find(settings);
    if settings.mode != Demand::Required {
        return Ok(place);
    }
    let place = place.map_err(|why| cgroup::missing("cannot give the payload a cgroup of its own", why))?;
    let offers = place.offers();
    for (option, lacks) in [
        ("--memory", limits.memory.is_some() && !offers.memory),
        ("--pids", limits.pids.is_some() && !offers.pids),
        ("--cpus", limits.cpus_milli.is_some() && !offers.cpu),
        ("--cpuset", limits.cpuset.is_some() && !offers.cpuset),
    ] {
        if lacks {
            return Err(cgroup::missing(
                format!("cannot hold the payload to {option}"),
                format!("the cgroup does not have that controller ({})", place.describe()),
            ));
        }
    }
    Ok(Ok(place))
}

/// A path of the command line, from the caller's directory.
pub fn absolute(path: &Path, caller: &Caller, option: &str) -> Result<PathBuf, Failure> {
    if path.is_absolute() {
        return Ok(path.to_path_buf());
    }
    match &caller.cwd {
        Some(cwd) => Ok(cwd.join(path)),
        None => Err(Failure::usage(
            format!("cannot resolve {option} {}", path.display()),
            "it is relative, and the current directory was deleted or may not be read",
            "give an absolute path, or start from a directory that exists",
        )),
    }
}

fn namespaces(request: &Request, config: &Config, pids: Pids) -> libc::c_int {
    let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    if pids.are_own() {
        flags |= libc::CLONE_NEWPID;
    }
    for (demand, flag) in [
        (config.sandbox.ipc_namespace, libc::CLONE_NEWIPC),
        (config.sandbox.uts_namespace, libc::CLONE_NEWUTS),
        (config.sandbox.cgroup_namespace, libc::CLONE_NEWCGROUP),
    ] {
        if wanted(demand, flag) {
            flags |= flag;
        }
    }
    if request.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    flags
}

/// `preferred` goes without a namespace that this kernel was built without; `required` lets the clone say so.
fn wanted(demand: Demand, flag: libc::c_int) -> bool {
    let file = match flag {
        libc::CLONE_NEWIPC => "/proc/self/ns/ipc",
        libc::CLONE_NEWUTS => "/proc/self/ns/uts",
        _ => "/proc/self/ns/cgroup",
    };
    match demand {
        Demand::Required => true,
        Demand::Preferred => Path::new(file).exists(),
        Demand::Off => false,
    }
}

fn walls(request: &Request, config: &Config, has_image: bool) -> BTreeMap<&'static str, String> {
    let on = || "on".to_owned();
    let namespace = |demand: Demand, flag: libc::c_int| match (demand, wanted(demand, flag)) {
        (_, true) => on(),
        (Demand::Off, _) => "off: the site's configuration".to_owned(),
        _ => "off: this kernel has none".to_owned(),
    };
    let late = &config.root.late_mounts;
    let shown: Vec<String> =
        late.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    BTreeMap::from([
        ("user_namespace", on()),
        ("mount_namespace", on()),
        ("ipc_namespace", namespace(config.sandbox.ipc_namespace, libc::CLONE_NEWIPC)),
        ("uts_namespace", namespace(config.sandbox.uts_namespace, libc::CLONE_NEWUTS)),
        ("cgroup_namespace", namespace(config.sandbox.cgroup_namespace, libc::CLONE_NEWCGROUP)),
        (
            "network_namespace",
            match request.network {
                Network::None => on(),
                Network::Host => {
                    "off: the host's network; services on 127.0.0.1 are reachable, abstract sockets too unless Landlock forbids them"
                        .to_owned()
                }
            },
        ),
        (
            "nested_namespaces_forbidden",
            if request.nested { "off: asked for, and allowed by the site".to_owned() } else { on() },
        ),
        (
            "read_only_root",
            if request.writable {
                "off: a layer that is thrown away takes the writes".to_owned()
            } else {
                on()
            },
        ),
        ("root", if has_image { "image".to_owned() } else { "host system".to_owned() }),
        ("private_dev_tmp_run", on()),
        (
            "late_mounts",
            if shown.is_empty() {
                "none arrive".to_owned()
            } else {
                format!("arrive as on the host below {}", shown.join(", "))
            },
        ),
        (
            "pilot_credentials_covered",
            "on, by name: until the pilot renames another file over one, and not for names that come later"
                .to_owned(),
        ),
        ("new_session", on()),
        ("descriptors_closed", on()),
        ("clean_environment", on()),
        ("core_files_forbidden", on()),
        ("init_undumpable", on()),
    ])
}

/// As whom it runs on this host.
fn uid_wall(config: &Config, caller: &Caller) -> String {
    match &caller.lent {
        Some(lent) => format!("on: its own uid {}, from {}; root called", caller.uid, lent.range),
        None if config.uid.mode == UidMode::Subuid => {
            "on: a subordinate uid of its own (process.user.id)".to_owned()
        }
        None => "off: the caller's uid".to_owned(),
    }
}

/// Limits of setrlimit(2) that the payload never goes above. No core file, because there are credentials in memory; no
/// priority beyond what the pilot's process has. `weaker` are those in the place of a control group.
fn ceilings(limits: &config::Limits, weaker: Vec<Ceiling>) -> Vec<Ceiling> {
    let always =
        [libc::RLIMIT_CORE, libc::RLIMIT_RTPRIO, libc::RLIMIT_NICE].map(|resource| (resource, Some(0)));
    let configured = [(libc::RLIMIT_NOFILE, limits.open_files), (libc::RLIMIT_FSIZE, limits.file_size)];
    let all = always.into_iter().chain(configured);
    all.filter_map(|(resource, most)| Some(Ceiling { resource: resource as libc::c_int, most: most? }))
        .chain(weaker)
        .collect()
}

/// The atime flags of the host's /proc: the kernel refuses a new proc that shows more than the one in view
/// (`mnt_already_visible()` in fs/namespace.c; a noatime host).
fn proc_attr() -> u64 {
    use nix::sys::statvfs::FsFlags;
    let Ok(flags) = nix::sys::statvfs::statvfs("/proc").map(|fs| fs.flags()) else {
        return 0;
    };
    let mut attr = if flags.contains(FsFlags::ST_NOATIME) {
        libc::MOUNT_ATTR_NOATIME
    } else if flags.contains(FsFlags::ST_RELATIME) {
        libc::MOUNT_ATTR_RELATIME
    } else {
        libc::MOUNT_ATTR_STRICTATIME
    };
    if flags.contains(FsFlags::ST_NODIRATIME) {
        attr |= libc::MOUNT_ATTR_NODIRATIME;
    }
    if flags.contains(FsFlags::ST_RDONLY) {
        attr |= libc::MOUNT_ATTR_RDONLY;
    }
    attr
}

/// The paths to try for the command: itself when it has a slash, else each directory of PATH, as execvp(3) does.
fn commands(name: Option<&OsString>, env: &BTreeMap<OsString, OsString>) -> Result<Vec<CString>, Failure> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(Failure::usage(
            "there is no command to run",
            "nothing follows the options",
            "write: bailey exec [OPTIONS] -- COMMAND [ARG...]",
        ));
    };
    if name.as_bytes().contains(&b'/') {
        return strings(std::iter::once(name.clone()), "the command");
    }
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let candidates =
        path.as_bytes().split(|b| *b == b':').filter(|dir| dir.first() == Some(&b'/')).map(|dir| {
            let mut candidate = dir.to_vec();
            candidate.push(b'/');
            candidate.extend_from_slice(name.as_bytes());
            OsString::from_vec(candidate)
        });
    let commands = strings(candidates, "the command")?;
    if commands.is_empty() {
        return Err(Failure::usage(
            format!("cannot look for the command {}", name.display()),
            "PATH inside has no absolute directory",
            "give the command's absolute path, or set PATH with --env",
        ));
    }
    Ok(commands)
}

fn pair(name: &OsStr, value: &OsStr) -> OsString {
    let mut text = name.to_os_string();
    text.push("=");
    text.push(value);
    text
}

fn strings(items: impl Iterator<Item = OsString>, what: &str) -> Result<Vec<CString>, Failure> {
    items
        .map(|item| {
            CString::new(item.into_vec()).map_err(|_| {
                Failure::usage(format!("cannot pass on {what}"), "it holds a NUL byte", "take it out")
            })
        })
        .collect()
}

fn line(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
