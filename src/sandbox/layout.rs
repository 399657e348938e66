//! What every payload finds, whatever its image: /dev, /proc, /sys, /tmp and the few generated files; what was handed over;
//! and what is covered because it is the pilot's or bailey's own.
#![forbid(unsafe_code)]

use super::tree::{
    self, Builder, HostObject, Identities, Kind, NO_EXEC, Origin, READ_ONLY, Shown, Source, WRITABLE,
};
use crate::config;
use crate::failure::{Failure, errno_text, io_text};
use crate::image;
use crate::request::Bind;
use crate::sys::mount::Attr;
use std::ffi::{CStr, OsStr};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Where a payload without `--workdir` starts: a private directory, gone at the end.
pub const PRIVATE_WORKDIR: &str = "/srv";

/// Where a payload's private files are, below its root, with a name for a copy of each.
pub const PRIVATE_PLACES: [(&CStr, &CStr); 4] =
    [(c"srv", c"srv"), (c"tmp", c"tmp"), (c"var/tmp", c"var-tmp"), (c"dev/shm", c"dev-shm")];

/// Devices that every payload has: name and device number (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links of /dev.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Names in a pilot's directory that are its own: credentials and the batch system's channels. `*` stands for anything.
const PILOT_NAMES: &[&str] = &[
    "proxy",
    "myproxy",
    "idtokens",
    "tokens.d",
    "pilot.cfg",
    "tmp_refreshed_token",
    ".job.ad",
    ".machine.ad",
    ".chirp.config",
    ".condor_creds",
    "*.idtoken",
    "x509up_u*",
    "bt_u*",
    "vt_u*",
    "tokencert_*.pem",
    "tokenkey_*.pem",
    ".rucio_*",
    "krb5cc_*",
    "oidc-forward-*",
    ".globus",
    ".ssh",
    ".oidc-agent",
    ".condor",
    ".netrc",
    ".git-credentials",
    ".vault-token",
    ".s3cfg",
    ".boto",
    ".pgpass",
    ".aws",
    ".azure",
    ".docker",
    ".gnupg",
    ".kube",
];

/// The same, deeper: a directory at the top, and what in it is a credential. The rest of these directories payloads need (caches,
/// settings).
const PILOT_PATHS: [(&str, &[&str]); 3] = [
    (".config", &["oidc-agent", "gcloud", "rclone", "gh", "containers/auth.json"]),
    (".apptainer", &["docker-config.json", "remote.yaml", "keys", "sypgp"]),
    (".singularity", &["docker-config.json", "remote.yaml", "keys", "sypgp"]),
];

/// Places that a payload never sees, whatever was bound.
const OWN_PLACES: [&str; 4] = ["/etc/bailey", "/var/log/bailey", "/var/lib/bailey", "/run/bailey"];

/// The private parts of the tree. `account` is the payload's name, uid and gid.
pub fn add_private_parts(
    builder: &mut Builder,
    account: &Account<'_>,
    root: &config::Root,
) -> Result<(), Failure> {
    // Writable, like /run: both are the payload's own, empty but for what is made here, and gone at the end.
    builder.add_private_dir(Path::new("/dev"), "dev", 0o755, WRITABLE)?;
    for (name, major, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        match builder.add_device(&path, libc::makedev(major, minor)) {
            // Apptainer with --contain has none, and what bailey is called in may be just that.
            Err(_) if name == "full" && !tree::is_there(&path)? => {}
            added => added.map_err(|why| no_device(&path, &why))?,
        }
    }
    for (name, to) in DEVICE_LINKS {
        builder.add_link(&Path::new("/dev").join(name), OsStr::new(to))?;
    }
    builder.add_directory(Path::new("/dev/shm"), 0o1777)?;
    let pts_attr = Attr { read_only: false, no_dev: false, no_exec: true };
    builder.add_file_system(Path::new("/dev/pts"), Source::DevPts, pts_attr)?;
    builder.add_file_system(Path::new("/proc"), Source::Proc, NO_EXEC)?;
    builder.add_private_dir(Path::new("/tmp"), "tmp", 0o1777, WRITABLE)?;
    builder.add_private_dir(Path::new("/var/tmp"), "var-tmp", 0o1777, WRITABLE)?;
    builder.add_private_dir(Path::new("/run"), "run", 0o755, WRITABLE)?;
    let sys_attr = Attr { read_only: true, no_dev: true, no_exec: true };
    builder.add_private_dir(Path::new("/sys"), "sys", 0o755, sys_attr)?;
    for path in &root.sys {
        image::bind_if_there(builder, path, path)?;
    }
    let (passwd, group) = account.files();
    builder.add_private_file(Path::new("/etc/passwd"), "passwd", passwd)?;
    builder.add_private_file(Path::new("/etc/group"), "group", group)?;
    Ok(())
}

fn no_device(path: &Path, why: &str) -> Failure {
    Failure::site(
        format!("cannot give the payload {}", path.display()),
        why,
        "repair the host's /dev, or the outer container's",
    )
}

/// Who the payload is on paper.
pub struct Account<'a> {
    /// Name inside.
    pub name: &'a str,
    /// uid inside and outside.
    pub uid: u32,
    /// gid inside and outside.
    pub gid: u32,
    /// HOME.
    pub home: &'a Path,
    /// passwd(5) and group(5) as they are to be, where more than this account is in them.
    pub files: Option<(Vec<u8>, Vec<u8>)>,
}

impl Account<'_> {
    fn files(&self) -> (Vec<u8>, Vec<u8>) {
        self.files.clone().unwrap_or_else(|| {
            let (mut passwd, mut group) = (self.passwd_line(), self.group_line());
            passwd.extend_from_slice(b"nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n");
            group.extend_from_slice(b"nogroup:x:65534:\n");
            (passwd, group)
        })
    }

    /// Its line of passwd(5).
    pub fn passwd_line(&self) -> Vec<u8> {
        let Self { name, uid, gid, home, .. } = self;
        // A colon or newline in HOME would break the format (passwd(5)); such a directory is left out of this file only.
        let home = home.to_str().filter(|home| !home.contains([':', '\n'])).unwrap_or("/");
        format!("{name}:x:{uid}:{gid}:payload:{home}:/bin/sh\n").into_bytes()
    }

    /// Its line of group(5).
    pub fn group_line(&self) -> Vec<u8> {
        let Self { name, gid, .. } = self;
        format!("{name}:x:{gid}:\n").into_bytes()
    }
}

/// What must stay the pilot's own.
pub struct Protected {
    /// The directory of the embedded log, canonical where it exists.
    pub log_dir: Option<PathBuf>,
    /// The status file's directory (canonical) and name.
    pub status_file: Option<PathBuf>,
    /// Files that the pilot's environment or custom names as credentials.
    pub credentials: Vec<PathBuf>,
    /// The account's copy of the site's policy, which need not be there.
    pub copy: PathBuf,
}

/// Opens the working directory.
///
/// # Errors
/// It is not there, no directory, or never shown to a payload.
pub fn open_workdir(path: &Path) -> Result<HostObject, Failure> {
    let what = format!("cannot use the working directory {}", path.display());
    let object = open_source(path, &what, "name an existing directory, or leave out --workdir")?;
    if !object.stat.is_dir() {
        return Err(Failure::usage(
            what,
            "it is not a directory",
            "name an existing directory, or leave out --workdir",
        ));
    }
    Ok(object)
}

/// Opens the source of one `--bind`.
///
/// # Errors
/// It is not there, or never shown to a payload.
pub fn open_bind(bind: &Bind) -> Result<HostObject, Failure> {
    let what = format!("cannot bind {}", bind.source.display());
    open_source(&bind.source, &what, "name an existing file or directory of this host")
}

/// Puts the working directory in place. Returns where the payload starts.
pub fn add_workdir(builder: &mut Builder, workdir: Option<HostObject>) -> Result<PathBuf, Failure> {
    let Some(object) = workdir else {
        let path = Path::new(PRIVATE_WORKDIR);
        builder.add_private_dir(path, "work", 0o700, WRITABLE)?;
        return Ok(path.to_path_buf());
    };
    // "At its own path" is the path as the kernel knows it, so that a link on the way does not hide the directory.
    let target = object.path.clone();
    builder.add_bind(object, &target, WRITABLE, false, Origin::Handed)
}

/// Puts one `--bind` in place.
pub fn add_bind(
    builder: &mut Builder,
    bind: &Bind,
    object: HostObject,
    late_mounts: &[PathBuf],
) -> Result<(), Failure> {
    let mut attr = if bind.writable { WRITABLE } else { READ_ONLY };
    // A device that was named is meant to be used; a directory of devices was not.
    attr.no_dev = !object.stat.is_char_device();
    let follow = late_mounts.iter().any(|listed| object.path.starts_with(listed));
    builder.add_bind(object, &bind.target, attr, follow, Origin::Handed).map(drop)
}

fn open_source(path: &Path, what: &str, next: &str) -> Result<HostObject, Failure> {
    let object = HostObject::open(path)
        .map_err(|errno| tree::cannot_open(what, errno, || Failure::usage(what, errno_text(errno), next)))?;
    match object.refusal() {
        Some(why) => {
            Err(Failure::usage(what, why, "bind the file or directory that the payload needs, not more"))
        }
        None => Ok(object),
    }
}

/// A place of the host that must not show, with the identity of every directory above it: a bind of one of those shows it,
/// whatever name the bind goes by.
struct Closed<'a> {
    path: &'a Path,
    /// (device, inode) and what is left of the path below.
    chain: Vec<((u64, u64), &'a Path)>,
}

impl<'a> Closed<'a> {
    fn new(path: &'a Path, identities: &Identities) -> Result<Self, Failure> {
        let below = |at: &Path| path.strip_prefix(at).unwrap_or(path);
        let mut chain = Vec::new();
        for at in path.ancestors() {
            chain.extend(identities.of(at)?.map(|identity| (identity, below(at))));
        }
        Ok(Self { path, chain })
    }

    fn all(paths: &'a [PathBuf], identities: &Identities) -> Result<Vec<Self>, Failure> {
        paths.iter().map(|path| Self::new(path, identities)).collect()
    }

    /// Where it is below what is shown, by identity or by name; empty when it is just that.
    fn below(&self, shown: &Shown<'_>) -> Option<&'a Path> {
        let known =
            self.chain.iter().find(|(identity, _)| *identity == shown.identity).map(|(_, rest)| *rest);
        known.or_else(|| self.path.strip_prefix(shown.host).ok())
    }

    /// Is what is shown the place itself or inside it?
    fn holds(&self, shown: &Shown<'_>, identities: &Identities) -> Result<bool, Failure> {
        if shown.host.starts_with(self.path) {
            return Ok(true);
        }
        if let Some((own, rest)) = self.chain.first()
            && rest.as_os_str().is_empty()
        {
            for at in shown.host.ancestors() {
                if identities.of(at)? == Some(*own) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Covers, or refuses, what would show of the pilot's and bailey's own, whoever put it there. Comes after all binds.
///
/// # Errors
/// A writable bind in which the log or the status file lies or will lie, and anything inside bailey's own places.
pub fn protect(builder: &mut Builder, protected: &Protected) -> Result<(), Failure> {
    // What is not there shows nothing. A site may keep one of the places elsewhere, behind a link: what it leads to is closed.
    let mut own_places: Vec<PathBuf> = Vec::new();
    for place in OWN_PLACES.map(Path::new) {
        if tree::is_there(place)? {
            own_places.push(tree::canonical(place)?.unwrap_or_else(|| place.into()));
        }
    }
    let identities = &Identities::default();
    let closed = |path| Closed::new(path, identities);
    let own_places = Closed::all(&own_places, identities)?;
    let log = protected.log_dir.as_deref().map(closed).transpose()?;
    let status_file = protected.status_file.as_deref().map(closed).transpose()?;
    let copy = &protected.copy;
    let closed_copy = closed(copy)?;
    let credentials = Closed::all(&protected.credentials, identities)?;
    let mut covers: Vec<PathBuf> = Vec::new();
    let mut covers_to_come: Vec<PathBuf> = Vec::new();
    for shown in builder.shown() {
        let below = |place: &Closed<'_>| place.below(&shown).map(|rest| join_inside(shown.inside, rest));
        // An overlay's lower directory is never written to, so only what was handed over can be.
        let exposed = shown.writable && shown.origin == Origin::Handed;
        let refuse = |what: &str, path: &Path| {
            let why = format!("{what} {} lies in it", path.display());
            let what = format!("cannot show {} to the payload", shown.host.display());
            Err(if shown.origin == Origin::Handed {
                let next = "bind a directory beside it, or put the log or status file elsewhere (audit.dir, --status-file)";
                Failure::usage(what, why, next)
            } else {
                let next =
                    "take it, or the symbolic link that leads to it, out of [root], or name another image";
                Failure::site(what, why, next)
            })
        };
        for own in &own_places {
            if own.holds(&shown, identities)? {
                return refuse("it is bailey's own:", own.path);
            }
            covers.extend(below(own));
        }
        if let Some(log) = &log {
            if log.holds(&shown, identities)? {
                return refuse("it is bailey's own:", log.path);
            }
            match below(log) {
                Some(_) if exposed => return refuse("the audit log", log.path),
                // The first launch makes the log after this, so what is not there yet is covered as well.
                Some(place) if builder.kind(&place).is_none() => covers_to_come.push(place),
                Some(place) => covers.push(place),
                None => {}
            }
        }
        if let Some(status) = &status_file {
            match below(status) {
                Some(_) if exposed => return refuse("the status file", status.path),
                Some(place) => covers.push(place),
                None => {}
            }
        }
        if closed_copy.holds(&shown, identities)? {
            return refuse("it is bailey's own:", copy);
        }
        if let Some(place) = below(&closed_copy) {
            // A payload that could make it could plant lists in it. One that another makes first is not trusted later.
            if copy.symlink_metadata().is_err() {
                let _ = DirBuilder::new().mode(0o700).create(copy);
            }
            match builder.kind(&place) {
                Some(Kind::Link) => {
                    return refuse("in place of bailey's own directory a symbolic link", copy);
                }
                Some(_) => covers.push(place),
                None => {}
            }
        }
        for credential in &credentials {
            // Bound by its own name it was handed over on purpose.
            let on_purpose =
                |shown: Shown<'_>| shown.origin == Origin::Handed && shown.host == credential.path;
            if let Some(place) = below(credential)
                && !builder.shown().any(on_purpose)
            {
                covers.push(place);
            }
        }
    }
    for place in covers_to_come {
        builder.cover_in_advance(&place).map_err(|why| {
            Failure::usage(
                format!("cannot hide the audit log, which will be at {} inside", place.display()),
                why,
                "bind a directory beside it, or put the log elsewhere (audit.dir)",
            )
        })?;
    }
    for place in covers {
        builder.cover(&place);
    }
    Ok(())
}

fn join_inside(inside: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { inside.to_path_buf() } else { inside.join(rest) }
}

/// The pilot's own names in its working directory, as canonical host paths (a link's target is what must be covered).
///
/// # Errors
/// The directory cannot be listed: nobody knows what to cover then.
pub fn pilot_files(workdir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::usage(
            format!("cannot look for credentials in {}", workdir.display()),
            io_text(&error),
            "name a directory that the pilot can list",
        )
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(workdir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| PILOT_NAMES.iter().any(|pattern| matches(pattern, name))) {
            found.extend(tree::canonical(&entry.path())?);
        }
        for below in PILOT_PATHS.iter().filter(|(top, _)| name == *top).flat_map(|(_, below)| *below) {
            found.extend(tree::canonical(&entry.path().join(below))?);
        }
    }
    Ok(found)
}

/// Credentials that live at well-known places of /tmp, by this uid.
///
/// # Errors
/// One cannot be looked at.
pub fn well_known_credentials(uid: u32) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for name in ["x509up_u", "bt_u", "vt_u", "krb5cc_", "tokencert_", "tokenkey_"] {
        let end = if name.starts_with("token") { ".pem" } else { "" };
        found.extend(tree::canonical(&PathBuf::from(format!("/tmp/{name}{uid}{end}")))?);
    }
    Ok(found)
}

/// A pattern with at most one `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pilot_names_match() {
        for name in ["proxy", ".job.ad", "x509up_u1000", "credential_CMS.idtoken", "tokenkey_1000.pem"] {
            assert!(PILOT_NAMES.iter().any(|p| matches(p, name)), "{name}");
        }
        for name in ["proxy2", "data.root", "x509", "job.ad"] {
            assert!(!PILOT_NAMES.iter().any(|p| matches(p, name)), "{name}");
        }
    }

    #[test]
    fn passwd_stays_whole() {
        let account = Account { name: "u", uid: 7, gid: 8, home: Path::new("/a:b"), files: None };
        assert_eq!(
            account.files().0,
            b"u:x:7:8:payload:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
        );
    }
}
