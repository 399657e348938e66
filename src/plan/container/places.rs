//! What lies where: home, /tmp, scratch directories, the current directory. Apptainer mounts them in this order and binds between the
//! last two; of two at one place the later one is seen.
#![forbid(unsafe_code)]

use super::{account, extras};
use crate::config::{Apptainer, Config, CurrentDirectory, Sharing, UidMode};
use crate::failure::{Failure, errno_text};
use crate::host::Caller;
use crate::plan::absolute;
use crate::request::Request;
use crate::request::container::{Container, Part};
use crate::sandbox::layout;
use crate::sandbox::tree::{
    Builder, DEVICE, HostObject, Kind, Origin, READ_ONLY, WRITABLE, cannot_open, canonical,
};
use crate::sys::{Errno, fs};
use crate::uids;
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Where a payload's temporary files are, with the names that the directories for them have below `--workdir`.
const TMP: [(&str, &str); 2] = [("/tmp", "tmp"), ("/var/tmp", "var_tmp")];

/// A current directory that is one of these is the host's system, not anybody's work; what is below is.
const SYSTEM: [&str; 12] =
    ["/", "/bin", "/etc", "/lib", "/lib64", "/mnt", "/opt", "/sbin", "/usr", "/var", "/tmp", "/var/tmp"];

/// With nothing in one of these there is no payload.
const NO_SCRATCH: [&str; 11] =
    ["/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/var"];

/// Nothing below these is anybody's work either.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What lies where.
#[derive(Debug)]
pub(in crate::plan) struct Places {
    /// Directories of the host, writable.
    pub handed: Vec<Place>,
    /// Empty directories that are gone at the end.
    private: Vec<PathBuf>,
    /// The account's name.
    pub user: String,
    /// HOME inside.
    pub home: PathBuf,
    /// Where it starts: the first of these that is a directory inside.
    starts: Vec<PathBuf>,
    /// What was asked for, or is Apptainer's custom, and is not done here.
    pub unheeded: Vec<String>,
}

/// A directory of the host at a place inside.
#[derive(Debug)]
pub(in crate::plan) struct Place {
    /// Where it is inside.
    pub target: PathBuf,
    source: Source,
    /// The pilot works in it: the names of its credentials are covered.
    is_pilots: bool,
    /// The command line names it. If not, it is the site's configuration that shows it.
    is_asked: bool,
}

#[derive(Debug)]
enum Source {
    There(HostObject),
    /// Below a directory that is there.
    ToMake {
        above: HostObject,
        below: PathBuf,
        mode: u32,
    },
}

impl Place {
    /// Its path on the host.
    pub(in crate::plan) fn path(&self) -> PathBuf {
        match &self.source {
            Source::There(object) => object.path.clone(),
            Source::ToMake { above, below, .. } => above.path.join(below),
        }
    }
}

/// Opens what is there. Nothing is made yet: the policy has not been asked.
///
/// # Errors
/// Something that was named is not there, is no directory, or never shown to a payload.
pub(in crate::plan) fn open(
    container: &Container,
    request: &Request,
    config: &Config,
    caller: &Caller,
) -> Result<Places, Failure> {
    let workdir = match &container.workdir {
        Some(dir) => Some(layout::open_workdir(&absolute(dir, caller, "--workdir")?)?),
        None => None,
    };
    let own_uid = caller.lent.is_some() || config.uid.mode == UidMode::Subuid;
    let mut plan = Planner { container, site: &config.apptainer, workdir, places: Places::new(caller) };
    plan.home(caller)?;
    plan.tmp()?;
    plan.scratch()?;
    plan.gpus();
    // A bind lies over what is at or below its target.
    let hides = |at: &Path| request.binds.iter().any(|bind| at.starts_with(&bind.target));
    plan.places.handed.retain(|place| !hides(&place.target));
    plan.places.private.retain(|at| !hides(at));
    plan.cwd(caller, &hides, &config.root.always)?;
    let mut places = plan.places;
    if own_uid {
        places.leave_out_of_reach(&config.uid.shared_dirs)?;
    }
    places.starts = if let Some(asked) = &container.cwd {
        vec![asked.clone()]
    } else {
        // Contained, it is the home directory even where a bind shows the current one.
        let cwd = caller.cwd.iter().filter(|_| !container.contain).cloned();
        cwd.chain([places.home.clone(), PathBuf::from("/")]).collect()
    };
    Ok(places)
}

impl Places {
    fn new(caller: &Caller) -> Self {
        let (user, home) = account::of(caller);
        Self { handed: Vec::new(), private: Vec::new(), user, home, starts: Vec::new(), unheeded: Vec::new() }
    }

    /// A payload with a uid of its own can write to nothing of the caller's, and what it left where nobody looks would stay.
    fn leave_out_of_reach(&mut self, shared: &[PathBuf]) -> Result<(), Failure> {
        let reached = |place: &Place| uids::is_below(&place.path(), shared, true);
        if let Some(place) = self.handed.iter().find(|place| place.is_asked && !reached(place)) {
            return Err(uids::unshared(&place.path()));
        }
        for place in self.handed.iter().filter(|place| !reached(place)) {
            let unheeded = format!("the host's {}: the payload has a uid of its own", place.target.display());
            self.unheeded.push(unheeded);
        }
        self.handed.retain(reached);
        Ok(())
    }

    /// Of the handed directories and binds one may be where the payload works, as `--workdir` of `bailey exec` is.
    pub(in crate::plan) fn is_start(&self, target: &Path) -> bool {
        self.starts.first().is_some_and(|start| start == target)
    }
}

struct Planner<'a> {
    container: &'a Container,
    site: &'a Apptainer,
    workdir: Option<HostObject>,
    places: Places,
}

impl Planner<'_> {
    fn without(&self, part: Part) -> bool {
        self.container.no_mount.contains(&part)
    }

    /// The later one is seen.
    fn hand(&mut self, place: Place) {
        self.places.private.retain(|at| *at != place.target);
        self.places.handed.retain(|earlier| earlier.target != place.target);
        self.places.handed.push(place);
    }

    /// A directory below `--workdir`, where there is one.
    fn of_workdir(&self, target: &Path, below: &Path, mode: u32) -> Result<Option<Place>, Failure> {
        let Some(workdir) = &self.workdir else { return Ok(None) };
        let source = part(workdir, below, mode)?;
        Ok(Some(Place { target: target.to_owned(), source, is_pilots: false, is_asked: true }))
    }

    fn home(&mut self, caller: &Caller) -> Result<(), Failure> {
        if let Some(home) = &self.container.home {
            self.places.home.clone_from(&home.target);
        }
        let at = self.places.home.clone();
        // What is mounted at /tmp afterwards would hide it.
        let hidden = !self.without(Part::Tmp) && TMP.iter().any(|(tmp, _)| at == Path::new(tmp));
        // Accounts that have no home are given one there.
        let none = self.container.home.is_none() && KERNEL.iter().any(|dir| at.starts_with(dir));
        if none || self.container.no_home || self.without(Part::Home) || at == Path::new("/") || hidden {
            return Ok(());
        }
        let (named, is_asked) = match &self.container.home {
            Some(home) => (Some(absolute(&home.source, caller, "--home")?), true),
            None if self.container.contain => (None, false),
            None if self.site.home == Sharing::Host => (Some(at.clone()), false),
            None => {
                self.places
                    .unheeded
                    .push(format!("the host's {}: it is private (apptainer.home)", at.display()));
                (None, false)
            }
        };
        if let Some(path) = named {
            if let Some(object) = directory(&path, "--home", is_asked)? {
                self.hand(Place { target: at, source: Source::There(object), is_pilots: true, is_asked });
                return Ok(());
            }
            if is_asked {
                let missing = format!("--home: there is no {} here, so it is private", path.display());
                self.places.unheeded.push(missing);
            }
        }
        match self.of_workdir(&at, Path::new("home"), 0o700)? {
            Some(place) => self.hand(place),
            None => self.places.private.push(at),
        }
        Ok(())
    }

    fn tmp(&mut self) -> Result<(), Failure> {
        if self.without(Part::Tmp) {
            return Ok(());
        }
        let shared = !self.container.contain && self.site.tmp == Sharing::Host;
        for (tmp, below) in TMP {
            let at = Path::new(tmp);
            if shared {
                if let Some(object) = directory(at, "/tmp", false)? {
                    let source = Source::There(object);
                    self.hand(Place { target: at.into(), source, is_pilots: false, is_asked: false });
                }
            } else if let Some(place) = self.of_workdir(at, Path::new(below), 0o1777)? {
                self.hand(place);
            }
        }
        if !self.container.contain && !shared && self.workdir.is_none() {
            self.places
                .unheeded
                .push("the host's /tmp and /var/tmp: they are private (apptainer.tmp)".to_owned());
        }
        Ok(())
    }

    fn scratch(&mut self) -> Result<(), Failure> {
        for target in &self.container.scratch {
            let plain =
                target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            let refuse = |why: &str| {
                Err(Failure::usage(
                    format!("cannot make the scratch directory {}", target.display()),
                    why,
                    "name where it is to be inside, such as --scratch /scratch",
                ))
            };
            if !target.is_absolute() || !plain {
                return refuse("it is not an absolute path without '..'");
            }
            if NO_SCRATCH.iter().any(|dir| target == Path::new(dir)) {
                return refuse("what every program needs is there, and it would be empty");
            }
            let below: PathBuf =
                Path::new("scratch").join(target.strip_prefix("/").unwrap_or(target)).components().collect();
            match self.of_workdir(target, &below, 0o750)? {
                Some(place) => self.hand(place),
                None if self.places.private.contains(target) => {}
                None => {
                    self.places.handed.retain(|place| place.target != *target);
                    self.places.private.push(target.clone());
                }
            }
        }
        Ok(())
    }

    fn gpus(&mut self) {
        for path in
            extras::gpus(self.container, Path::new("/dev"), &extras::is_device, &mut self.places.unheeded)
        {
            if let Ok(object) = HostObject::open(&path) {
                let source = Source::There(object);
                self.hand(Place { target: path, source, is_pilots: false, is_asked: true });
            }
        }
    }

    fn cwd(
        &mut self,
        caller: &Caller,
        hides: &dyn Fn(&Path) -> bool,
        always: &[PathBuf],
    ) -> Result<(), Failure> {
        let Some(cwd) = caller.cwd.as_deref() else { return Ok(()) };
        let is_system =
            SYSTEM.iter().any(|dir| cwd == Path::new(dir)) || KERNEL.iter().any(|dir| cwd.starts_with(dir));
        let shown = hides(cwd)
            || always.iter().any(|path| cwd.starts_with(path))
            || self.places.handed.iter().any(|place| cwd.starts_with(&place.target));
        if self.container.contain || self.without(Part::Cwd) || is_system || shown {
            return Ok(());
        }
        if self.site.cwd == CurrentDirectory::Off {
            let unheeded =
                format!("the current directory {}: it is not shown (apptainer.cwd)", cwd.display());
            self.places.unheeded.push(unheeded);
            return Ok(());
        }
        // A home that is private is not shown by being called in it.
        let home = canonical(&account::of(caller).1)?;
        if self.site.home == Sharing::Private && home.is_some_and(|home| home.starts_with(cwd)) {
            let unheeded = format!("the current directory {}: the home directory is in it", cwd.display());
            self.places.unheeded.push(unheeded);
            return Ok(());
        }
        if let Some(object) = directory(cwd, "the current directory", false)? {
            let source = Source::There(object);
            self.hand(Place { target: cwd.to_owned(), source, is_pilots: true, is_asked: false });
        }
        Ok(())
    }
}

/// A directory of the host. What was not named and cannot be shown is left out.
fn directory(path: &Path, option: &str, is_asked: bool) -> Result<Option<HostObject>, Failure> {
    let what = format!("cannot use {option} {}", path.display());
    let next = "name an existing directory of this host";
    let why = match HostObject::open(path) {
        // As Apptainer has it: there is a home, if not this one.
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(_) if !is_asked => return Ok(None),
        Err(errno) => {
            return Err(cannot_open(&what, errno, || Failure::usage(&what, errno_text(errno), next)));
        }
        Ok(object) if !object.stat.is_dir() => "it is not a directory",
        Ok(object) => match object.refusal() {
            Some(why) => why,
            None => return Ok(Some(object)),
        },
    };
    if is_asked { Err(Failure::usage(what, why, next)) } else { Ok(None) }
}

/// A directory below `--workdir`. Payloads write there, so a symbolic link may be one of theirs and leads nowhere.
fn part(workdir: &HostObject, below: &Path, mode: u32) -> Result<Source, Failure> {
    let path = workdir.path.join(below);
    let what = format!("cannot use {} (--workdir)", path.display());
    let refuse = |why: &str| Err(Failure::usage(&what, why, "remove it, or name another --workdir"));
    match HostObject::open(&path) {
        Ok(object) if object.path != path => refuse("a symbolic link is on the way"),
        Ok(object) if !object.stat.is_dir() => refuse("it is not a directory"),
        Ok(object) => match object.refusal() {
            Some(why) => refuse(why),
            None => Ok(Source::There(object)),
        },
        Err(Errno::ENOENT) => {
            let what = format!("cannot use --workdir {}", workdir.path.display());
            let above = workdir.again().map_err(|errno| {
                cannot_open(&what, errno, || {
                    Failure::usage(&what, errno_text(errno), "name an existing directory")
                })
            })?;
            Ok(Source::ToMake { above, below: below.to_owned(), mode })
        }
        Err(errno) => Err(cannot_open(&what, errno, || {
            Failure::usage(&what, errno_text(errno), "name another --workdir")
        })),
    }
}

/// Makes each part of the path that is missing; the last one is an empty file where it is no directory. What stands there already
/// is never followed.
pub(super) fn make(
    above: &HostObject,
    below: &Path,
    mode: u32,
    is_dir: bool,
    option: &str,
) -> Result<HostObject, Failure> {
    let path = above.path.join(below);
    let what = format!("cannot make {} ({option})", path.display());
    let cannot = |errno: Errno| {
        Failure::usage(&what, errno_text(errno), "name a directory that this account may write")
    };
    let mut dir = above.as_fd().try_clone_to_owned().map_err(|_| cannot(Errno::EMFILE))?;
    let mut parts = below.components().peekable();
    while let Some(name) = parts.next() {
        let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| cannot(Errno::EINVAL))?;
        let is_file = parts.peek().is_none() && !is_dir;
        let kind = if is_file { 0 } else { libc::O_DIRECTORY };
        let made = if is_file {
            fs::make_empty_file(dir.as_fd(), &name, mode & 0o666)
        } else {
            fs::make_dir(dir.as_fd(), &name, mode)
        };
        let is_new = match made {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(cannot(errno)),
        };
        // A directory for everybody stays one under any umask.
        let for_all = is_new && mode == 0o1777;
        let access = if for_all { libc::O_RDONLY } else { libc::O_PATH };
        let flags = access | kind | libc::O_NOFOLLOW;
        dir = fs::open_how(dir.as_fd(), &name, flags, 0, fs::Resolve::BeneathNoSymlinks).map_err(cannot)?;
        if for_all {
            fs::set_mode(dir.as_fd(), mode).map_err(cannot)?;
        }
    }
    let object = HostObject::of(dir, path.clone()).map_err(cannot)?;
    let is_other = object.stat.is_dir() != is_dir || object.stat.is_symlink();
    if is_other { Err(cannot(Errno::ELOOP)) } else { Ok(object) }
}

/// What became of the places.
pub(in crate::plan) struct Furnished {
    /// Where it starts: the first of these that is a directory inside.
    pub starts: Vec<PathBuf>,
    /// Directories of the host that the pilot works in.
    pub pilots: Vec<PathBuf>,
    /// See [`Places`].
    pub unheeded: Vec<String>,
    /// Some directory of the host is shown.
    pub shows: bool,
}

/// How the places are put there.
#[derive(Debug, Clone, Copy)]
pub(in crate::plan) struct Manner<'a> {
    /// Only what was asked for: the profile `strict`.
    pub strict: bool,
    /// Nothing is made: somebody only asks.
    pub dry_run: bool,
    /// Which of the handed ones may only be read.
    pub readonly: &'a [usize],
    /// Of the pilot's own what may lie in a directory that nobody named: that one stays outside.
    pub own: [Option<&'a Path>; 2],
}

/// Puts the places where they belong, before the binds.
///
/// # Errors
/// One cannot be made, or the image has no room for it.
pub(in crate::plan) fn furnish(
    builder: &mut Builder,
    places: Places,
    manner: Manner<'_>,
) -> Result<Furnished, Failure> {
    let Places { handed, mut private, unheeded, starts, .. } = places;
    let mut furnished = Furnished { starts, pilots: Vec::new(), unheeded, shows: false };
    let mut dirs: Vec<(PathBuf, Option<HostObject>, bool)> = Vec::new();
    for (at, place) in handed.into_iter().enumerate() {
        if manner.strict && !place.is_asked {
            furnished.unheeded.push(format!("the host's {}: the profile strict", place.target.display()));
            continue;
        }
        let holds = manner.own.into_iter().flatten().find(|own| own.starts_with(place.path()));
        if let Some(own) = holds.filter(|_| !place.is_asked) {
            let unheeded =
                format!("the host's {}: bailey's {} lies in it", place.target.display(), own.display());
            furnished.unheeded.push(unheeded);
            continue;
        }
        let object = match place.source {
            Source::There(object) => object,
            Source::ToMake { .. } if manner.dry_run => {
                private.push(place.target);
                continue;
            }
            Source::ToMake { above, below, mode } => make(&above, &below, mode, true, "--workdir")?,
        };
        if place.is_pilots {
            furnished.pilots.push(object.path.clone());
        }
        furnished.shows = true;
        dirs.push((place.target, Some(object), manner.readonly.contains(&at)));
    }
    dirs.extend(private.into_iter().map(|at| (at, None, false)));
    dirs.sort_by_cached_key(|(at, ..)| depth(builder, at));
    for (number, (at, object, readonly)) in dirs.into_iter().enumerate() {
        let is_dir = object.as_ref().is_none_or(|object| object.stat.is_dir());
        extras::mount_point(builder, &at, is_dir, manner.dry_run)?;
        match object {
            Some(object) => {
                let attr = match (object.stat.is_dir(), readonly) {
                    (true, true) => READ_ONLY,
                    (true, false) => WRITABLE,
                    (false, _) => DEVICE,
                };
                builder.add_bind(object, &at, attr, false, Origin::Handed)?;
            }
            // /tmp and /var/tmp are there already, and private.
            None if TMP.iter().any(|(tmp, _)| at == Path::new(tmp)) && builder.is_mount(&at) => {}
            None => {
                if let Some(why) = builder.closed(&at) {
                    return Err(Failure::usage(
                        format!("cannot make a directory at {} inside", at.display()),
                        why,
                        "choose a place outside /proc and other than /dev itself",
                    ));
                }
                builder.add_private_dir(&at, &format!("place-{number}"), 0o700, WRITABLE)?;
            }
        }
    }
    Ok(furnished)
}

/// How deep a place really is, by the image's links. Parents go first: what lies in one is put there afterwards.
pub(in crate::plan) fn depth(builder: &Builder, target: &Path) -> usize {
    builder.resolve(target).as_deref().unwrap_or(target).components().count()
}

/// Where the payload starts, once everything is in place.
///
/// # Errors
/// What was asked for is no directory inside.
pub(in crate::plan) fn start_dir(
    builder: &Builder,
    starts: &[PathBuf],
    asked: bool,
) -> Result<PathBuf, Failure> {
    for start in starts {
        let found = builder.resolve(start);
        if let Ok(clean) = &found
            && (clean == Path::new("/") || builder.kind(clean) == Some(Kind::Dir))
        {
            return Ok(clean.clone());
        }
        if asked {
            found?;
            return Err(Failure::usage(
                format!("cannot start in {} (--pwd)", start.display()),
                "there is no such directory inside",
                "name one that the image has or that is bound",
            ));
        }
    }
    Ok(PathBuf::from("/"))
}
