//! The one table of Apptainer's flags: what each is called, what variables set it, and what comes of it. docs/apptainer.md has the
//! same table (a test compares them).
//!
//! 1. A flag that asks for something that bailey does not do MUST NOT be taken silently: it is refused, or what is not done
//!    goes into the record ([`Standing::Unheeded`]).
#![forbid(unsafe_code)]

/// A flag that changes what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Help,
    Version,
    Quiet,
    Bind,
    Mount,
    Home,
    NoHome,
    NoMount,
    Cwd,
    Contain,
    ContainAll,
    Compat,
    CleanEnv,
    Env,
    EnvFile,
    NoEnv,
    NoPid,
    Net,
    Network,
    Workdir,
    Scratch,
    WritableTmpfs,
    Nv,
    NoNv,
    Rocm,
    NoRocm,
    Memory,
    MemorySwap,
    Cpus,
    Pids,
    Hostname,
    Shell,
    App,
    NoUmask,
    /// Of `inspect`.
    Show(Show),
    Json,
}

/// What `inspect` can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Show {
    All,
    Apps,
    Definition,
    Environment,
    Help,
    Labels,
    Runscript,
    Startscript,
    Test,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// One value; the last one counts.
    Text,
    /// A comma list; repeated ones add up.
    List,
    /// One value each time, commas and all.
    Each,
    /// `NAME=VALUE`, or a comma list of them.
    Map,
}

/// Which commands have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// All of them, and the program itself before any command.
    All,
    /// The program itself only, before any command.
    Program,
    /// exec, run, test, shell.
    Actions,
    /// `run`
    Run,
    /// `shell`
    Shell,
    /// `inspect`
    Inspect,
}

/// What comes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does what it does in Apptainer.
    Honoured(Ask),
    /// It is so anyway, or there is nothing that it could change: why.
    Moot(&'static str),
    /// It is taken without effect, and the record says so: why.
    Unheeded(&'static str),
    /// The launch is refused: what to use instead.
    Refused(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// `--name`
    pub(super) name: &'static str,
    /// `-n`, or 0.
    pub(super) short: u8,
    pub(super) takes: Takes,
    /// `APPTAINER_KEY`, then `SINGULARITY_KEY`.
    pub(super) keys: &'static [&'static str],
    pub(super) of: Of,
    pub(super) standing: Standing,
}

impl Flag {
    /// What is said in it is nobody else's to see.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.name, "env" | "docker-username" | "docker-password")
    }
}

use Of::{Actions, All, Program};
use Standing::{Honoured, Moot, Refused, Unheeded};
use Takes::{Each, List, Map, Switch, Text};

const fn flag(
    name: &'static str,
    short: u8,
    takes: Takes,
    keys: &'static [&'static str],
    of: Of,
    standing: Standing,
) -> Flag {
    Flag { name, short, takes, keys, of, standing }
}

const ALWAYS: &str = "bailey makes this namespace for every payload";
const NO_REGISTRY: &str = "nothing is fetched from a registry";
const ROOTLESS: &str = "a payload has no capability and no way to one";
const NO_SIF: &str = "images are directories";
const BY_SITE: &str = "leave it out: the site's configuration says this (docs/configuration.md)";
const NO_RIGHTS: &str = "leave it out: a payload has no capability and no way to one";
const NO_KEYS: &str = "leave it out: images are directories, and those are not encrypted";
const GPU: &str = "use --nv, --rocm, or -B with the device";
const CPUSET: &str = "use --cpus: which cores it is to run on is the batch system's to say";

/// All of them, in the order of the document.
pub(super) const FLAGS: &[Flag] = &[
    // Before the command.
    flag("help", b'h', Switch, &[], All, Honoured(Ask::Help)),
    flag("version", 0, Switch, &[], Program, Honoured(Ask::Version)),
    flag("debug", b'd', Switch, &["DEBUG"], All, Moot("the record has what it would print")),
    flag("verbose", b'v', Switch, &["VERBOSE"], All, Moot("there is nothing more to print")),
    flag("quiet", b'q', Switch, &["QUIET"], All, Honoured(Ask::Quiet)),
    flag("silent", b's', Switch, &["SILENT"], All, Honoured(Ask::Quiet)),
    flag("nocolor", 0, Switch, &["NOCOLOR"], All, Moot("nothing is printed in colour")),
    flag("config", b'c', Text, &["CONFIG_FILE"], Program, Refused(BY_SITE)),
    flag("build-config", 0, Switch, &[], Program, Refused("build images with apptainer")),
    // What is seen.
    flag("bind", b'B', Each, &["BIND", "BINDPATH"], Actions, Honoured(Ask::Bind)),
    flag("mount", 0, Each, &["MOUNT"], Actions, Honoured(Ask::Mount)),
    flag("home", b'H', Text, &["HOME"], Actions, Honoured(Ask::Home)),
    flag("no-home", 0, Switch, &["NO_HOME"], Actions, Honoured(Ask::NoHome)),
    flag("no-mount", 0, List, &["NO_MOUNT"], Actions, Honoured(Ask::NoMount)),
    flag("cwd", 0, Text, &["CWD", "TARGET_CWD"], Actions, Honoured(Ask::Cwd)),
    flag("pwd", 0, Text, &["PWD", "TARGET_PWD"], Actions, Honoured(Ask::Cwd)),
    flag("contain", b'c', Switch, &["CONTAIN"], Actions, Honoured(Ask::Contain)),
    flag("containall", b'C', Switch, &["CONTAINALL"], Actions, Honoured(Ask::ContainAll)),
    flag("compat", 0, Switch, &["COMPAT"], Actions, Honoured(Ask::Compat)),
    flag("workdir", b'W', Text, &["WORKDIR"], Actions, Honoured(Ask::Workdir)),
    flag("scratch", b'S', List, &["SCRATCH", "SCRATCHDIR"], Actions, Honoured(Ask::Scratch)),
    flag("writable-tmpfs", 0, Switch, &["WRITABLE_TMPFS"], Actions, Honoured(Ask::WritableTmpfs)),
    flag(
        "writable",
        b'w',
        Switch,
        &["WRITABLE"],
        Actions,
        Refused("use --writable-tmpfs, whose changes are thrown away: an image is never changed"),
    ),
    flag(
        "overlay",
        b'o',
        List,
        &["OVERLAY", "OVERLAYIMAGE"],
        Actions,
        Refused("use --writable-tmpfs, or -B with a directory that stays"),
    ),
    flag(
        "containlibs",
        0,
        List,
        &["CONTAINLIBS"],
        Actions,
        Refused("use -B FILE:/.singularity.d/libs/NAME:ro"),
    ),
    flag("fusemount", 0, List, &["FUSESPEC"], Actions, Refused("mount it outside, and use -B")),
    flag(
        "underlay",
        0,
        Switch,
        &["UNDERLAY"],
        Actions,
        Moot("missing mount points are made without overlayfs"),
    ),
    flag("nv", 0, Switch, &["NV"], Actions, Honoured(Ask::Nv)),
    flag(
        "nvccli",
        0,
        Switch,
        &["NVCCLI"],
        Actions,
        Refused("use --nv for the devices; the driver's libraries are the image's, or bound with -B"),
    ),
    flag("compat32", 0, Switch, &["COMPAT32"], Actions, Unheeded("32-bit GPU libraries are not looked for")),
    flag("rocm", 0, Switch, &["ROCM"], Actions, Honoured(Ask::Rocm)),
    flag("no-nv", 0, Switch, &["NV_OFF", "NO_NV"], Actions, Honoured(Ask::NoNv)),
    flag("no-rocm", 0, Switch, &["ROCM_OFF", "NO_ROCM"], Actions, Honoured(Ask::NoRocm)),
    flag("intel-hpu", 0, Switch, &["INTEL_HPU"], Actions, Refused(GPU)),
    flag("device", 0, List, &[], Actions, Refused(GPU)),
    flag("cdi-dirs", 0, List, &[], Actions, Refused(GPU)),
    // Environment.
    flag("cleanenv", b'e', Switch, &["CLEANENV"], Actions, Honoured(Ask::CleanEnv)),
    flag("env", 0, Map, &[], Actions, Honoured(Ask::Env)),
    flag("env-file", 0, List, &["ENV_FILE"], Actions, Honoured(Ask::EnvFile)),
    flag("no-env", 0, List, &["NOENV"], Actions, Honoured(Ask::NoEnv)),
    flag("no-eval", 0, Switch, &["NO_EVAL"], Actions, Moot("values are never evaluated by a shell")),
    flag("no-umask", 0, Switch, &["NO_UMASK"], Actions, Honoured(Ask::NoUmask)),
    // Namespaces and rights.
    flag("userns", b'u', Switch, &["USERNS", "UNSHARE_USERNS"], Actions, Moot(ALWAYS)),
    flag("pid", b'p', Switch, &["PID", "UNSHARE_PID"], Actions, Moot(ALWAYS)),
    flag("no-pid", 0, Switch, &["NO_PID"], Actions, Honoured(Ask::NoPid)),
    flag("ipc", b'i', Switch, &["IPC", "UNSHARE_IPC"], Actions, Moot(ALWAYS)),
    flag("uts", 0, Switch, &["UTS", "UNSHARE_UTS"], Actions, Moot(ALWAYS)),
    flag("net", b'n', Switch, &["NET", "UNSHARE_NET"], Actions, Honoured(Ask::Net)),
    flag("network", 0, Text, &["NETWORK"], Actions, Honoured(Ask::Network)),
    flag(
        "network-args",
        0,
        List,
        &["NETWORK_ARGS"],
        Actions,
        Refused("use --network none, or leave it out for the host's network"),
    ),
    flag(
        "netns-path",
        0,
        Text,
        &["NETNS_PATH"],
        Actions,
        Refused("use --network none, or leave it out for the host's network"),
    ),
    flag("hostname", 0, Text, &["HOSTNAME"], Actions, Honoured(Ask::Hostname)),
    flag("dns", 0, Text, &["DNS"], Actions, Refused("use -B FILE:/etc/resolv.conf:ro")),
    flag(
        "no-init",
        0,
        Switch,
        &["NOSHIMINIT"],
        Actions,
        Moot("bailey's own init does not show in the payload's environment"),
    ),
    flag(
        "sharens",
        0,
        Switch,
        &["SHARENS"],
        Actions,
        Refused("leave it out: payloads do not share namespaces"),
    ),
    flag(
        "fakeroot",
        b'f',
        Switch,
        &["FAKEROOT"],
        Actions,
        Refused("leave it out, or call the real apptainer: a payload keeps its uid here"),
    ),
    flag("keep-privs", 0, Switch, &["KEEP_PRIVS"], Actions, Refused(NO_RIGHTS)),
    flag("no-privs", 0, Switch, &["NO_PRIVS"], Actions, Moot(ROOTLESS)),
    flag("add-caps", 0, Text, &["ADD_CAPS"], Actions, Refused(NO_RIGHTS)),
    flag("drop-caps", 0, Text, &["DROP_CAPS"], Actions, Moot(ROOTLESS)),
    flag("allow-setuid", 0, Switch, &["ALLOW_SETUID"], Actions, Refused(NO_RIGHTS)),
    flag("security", 0, List, &["SECURITY"], Actions, Refused(BY_SITE)),
    flag("ignore-subuid", 0, Switch, &["IGNORE_SUBUID"], Actions, Moot("there is no --fakeroot")),
    flag(
        "ignore-fakeroot-command",
        0,
        Switch,
        &["IGNORE_FAKEROOT_COMMAND"],
        Actions,
        Moot("there is no --fakeroot"),
    ),
    flag(
        "ignore-userns",
        0,
        Switch,
        &["IGNORE_USERNS"],
        Actions,
        Unheeded("bailey works with user namespaces only"),
    ),
    // Limits.
    flag("memory", 0, Text, &["MEMORY"], Actions, Honoured(Ask::Memory)),
    flag("memory-swap", 0, Text, &["MEMORY_SWAP"], Actions, Honoured(Ask::MemorySwap)),
    flag(
        "memory-reservation",
        0,
        Text,
        &["MEMORY_RESERVATION"],
        Actions,
        Unheeded("a soft limit; the site shares its memory out"),
    ),
    flag("cpus", 0, Text, &[], Actions, Honoured(Ask::Cpus)),
    flag(
        "cpu-shares",
        0,
        Text,
        &["CPU_SHARES"],
        Actions,
        Unheeded("a weight; the batch system shares its cores out"),
    ),
    flag("cpuset-cpus", 0, Text, &["CPUSET_CPUS"], Actions, Refused(CPUSET)),
    flag("cpuset-mems", 0, Text, &["CPUSET_MEMS"], Actions, Refused(CPUSET)),
    flag("pids-limit", 0, Text, &["PIDS_LIMIT"], Actions, Honoured(Ask::Pids)),
    flag(
        "blkio-weight",
        0,
        Text,
        &["BLKIO_WEIGHT"],
        Actions,
        Unheeded("a weight; the site shares its disks out"),
    ),
    flag(
        "blkio-weight-device",
        0,
        List,
        &["BLKIO_WEIGHT_DEVICE"],
        Actions,
        Unheeded("a weight; the site shares its disks out"),
    ),
    flag(
        "oom-kill-disable",
        0,
        Switch,
        &["OOM_KILL_DISABLE"],
        Actions,
        Refused("use --memory with what it needs"),
    ),
    flag(
        "apply-cgroups",
        0,
        Text,
        &["APPLY_CGROUPS"],
        Actions,
        Refused("use --memory, --cpus, --pids-limit"),
    ),
    flag(
        "runscript-timeout",
        0,
        Text,
        &["RUNSCRIPT_TIMEOUT"],
        Of::Run,
        Refused("use timeout(1) in the runscript, or the batch system's wall time"),
    ),
    // What is run.
    flag("shell", b's', Text, &["SHELL"], Of::Shell, Honoured(Ask::Shell)),
    flag("app", 0, Text, &["APP", "APPNAME"], Actions, Honoured(Ask::App)),
    flag("boot", 0, Switch, &["BOOT"], Actions, Refused("use exec: there are no instances")),
    flag("dmtcp-launch", 0, Text, &["DMTCP_LAUNCH"], Actions, Refused("call DMTCP inside the image")),
    flag("dmtcp-restart", 0, Text, &["DMTCP_RESTART"], Actions, Refused("call DMTCP inside the image")),
    // Fetching and unpacking images.
    flag("disable-cache", 0, Switch, &["DISABLE_CACHE"], Actions, Moot("there is no cache")),
    flag("tmpdir", 0, Text, &["TMPDIR"], Actions, Moot("no image is unpacked")),
    flag("unsquash", 0, Switch, &["UNSQUASH"], Actions, Moot(NO_SIF)),
    flag("passphrase", 0, Switch, &[], Actions, Refused(NO_KEYS)),
    flag("pem-path", 0, Text, &[], Actions, Refused(NO_KEYS)),
    flag("no-https", 0, Switch, &["NOHTTPS", "NO_HTTPS"], Actions, Moot(NO_REGISTRY)),
    flag("nohttps", 0, Switch, &[], Actions, Moot(NO_REGISTRY)),
    flag("docker-login", 0, Switch, &["DOCKER_LOGIN"], Actions, Moot(NO_REGISTRY)),
    flag("docker-host", 0, Text, &["DOCKER_HOST"], Actions, Moot(NO_REGISTRY)),
    flag("docker-username", 0, Text, &["DOCKER_USERNAME"], Actions, Moot(NO_REGISTRY)),
    flag("docker-password", 0, Text, &["DOCKER_PASSWORD"], Actions, Moot(NO_REGISTRY)),
    flag("authfile", 0, Text, &["AUTH_FILE"], Actions, Moot(NO_REGISTRY)),
    // Of inspect.
    flag("all", 0, Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::All))),
    flag("labels", b'l', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Labels))),
    flag("runscript", b'r', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Runscript))),
    flag("startscript", b's', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Startscript))),
    flag("test", b't', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Test))),
    flag("environment", b'e', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Environment))),
    flag("helpfile", b'H', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Help))),
    flag("deffile", b'd', Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Definition))),
    flag("list-apps", 0, Switch, &[], Of::Inspect, Honoured(Ask::Show(Show::Apps))),
    flag("json", b'j', Switch, &[], Of::Inspect, Honoured(Ask::Json)),
    flag("app", 0, Text, &["APP", "APPNAME"], Of::Inspect, Honoured(Ask::App)),
];
