//! The unified hierarchy: a group of the payload's own below one that the caller was given.
//!
//! ```text
//! BASE                    the caller's own group, or cgroup.parent
//! ├── bailey-pilot        everybody who was in BASE: a group that hands controllers to its children may hold no process
//! ├── bailey-LAUNCH       one payload: its init and everything below
//! └── bailey-LAUNCH ...
//! ```
//!
//! 1. A launcher holds BASE's lock (flock(2), shared) from before it makes a group until a process is in it; who changes the
//!    structure holds it alone. So nobody removes a group that is still empty, and a launcher that dies holds nothing.
//! 2. The last payload's launcher puts everybody back and removes the leaf: whoever made BASE can remove it as before.
//! 3. The caller's own limits stay above the payload's: BASE is never above the caller's own group, unless the site names it.
//!
//! The kernel's rules: Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint" and "Delegation Containment".
#![forbid(unsafe_code)]

use super::dir::Dir;
use super::limits::Limits;
use super::{Offers, Words};
use crate::config::{self, Demand};
use crate::failure::errno_text;
use crate::sys::Errno;
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// Where the processes go that were in the base.
pub(super) const LEAF: &str = "bailey-pilot";
/// With the launch id behind it, the payload's group.
pub(super) const PREFIX: &str = "bailey-";
/// What a payload's group needs of its parent: limits of the first three, and block I/O told.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// And of this one, if it is asked for: it costs every group in the base.
const CPUSET: &str = "cpuset";
/// How long the processes of a base may go on making children while they are moved.
const MOVING: Duration = Duration::from_secs(2);

/// Where the payload's group is to be.
#[derive(Debug)]
pub(super) struct Base {
    dir: Dir,
    /// Below the hierarchy's root as this process sees it, `/` first and no `/` at the end.
    path: String,
    available: Vec<String>,
}

impl Base {
    /// Looks for it. `mount`: where the hierarchy is mounted; `own`: the caller's group, from /proc/self/cgroup.
    ///
    /// # Errors
    /// Why there can be none, in words.
    pub(super) fn find(mount: &str, own: &str, parent: Option<&str>) -> Result<Self, String> {
        if own.split('/').any(|part| part == "..") {
            return Err(format!("the caller's cgroup {own} lies outside of its cgroup namespace"));
        }
        let own = own.trim_end_matches('/');
        // An earlier launcher has moved the pilot.
        let given = own.strip_suffix(LEAF).and_then(|own| own.strip_suffix('/')).unwrap_or(own);
        let named = parent.map(|parent| super::resolve(given, parent)).transpose()?;
        let path = named.as_deref().unwrap_or(given);
        let shown = |path: &str| if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        let open = |path: &str| {
            Dir::open(&format!("{mount}{path}")).map_err(|errno| {
                format!("the cgroup {} cannot be opened: {}", shown(path), errno_text(errno))
            })
        };
        let dir = open(path)?;
        if dir.magic() != libc::CGROUP2_SUPER_MAGIC {
            return Err(format!("{mount}{path} is no cgroup2 file system"));
        }
        for name in [c"cgroup.procs", c"cgroup.subtree_control", c"."] {
            dir.may_write(name).map_err(|errno| {
                let of =
                    format!("the cgroup {} is not the caller's: {}", shown(path), name.to_string_lossy());
                format!("{of} may not be written: {}", errno_text(errno))
            })?;
        }
        if let Some(common) = parent.and_then(|_| common(own, path)) {
            // Who moves a process must be able to write the group above both places.
            open(common)?.may_write(c"cgroup.procs").map_err(|_| {
                format!(
                    "the caller is in the cgroup {}, and {}, which is above that and cgroup.parent, is not the caller's",
                    shown(own),
                    shown(common)
                )
            })?;
        }
        let available = words(&dir.read(c"cgroup.controllers").unwrap_or_default());
        Ok(Self { dir, path: path.to_owned(), available })
    }

    pub(super) fn offers(&self) -> Offers {
        let has = |name: &str| self.available.iter().any(|available| available == name);
        Offers { memory: has("memory"), pids: has("pids"), cpu: has("cpu"), cpuset: has(CPUSET) }
    }

    pub(super) fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// Makes the payload's group, with its limits, and holds the base's lock until [`Group::settled`].
    pub(super) fn make(
        self,
        id: &str,
        limits: &Limits,
        settings: &config::Cgroup,
    ) -> Result<(Group, Words), String> {
        let Self { dir: base, path, available } = self;
        base.share().map_err(|errno| locked(&path, errno))?;
        let wanted: Vec<&str> = CONTROLLERS
            .into_iter()
            .chain(limits.cpuset.map(|_| CPUSET))
            .filter(|name| available.iter().any(|has| has == name))
            .collect();
        let mut state = "on: v2, a group of its own".to_owned();
        if let Err(why) = enable(&base, &path, &wanted) {
            state = format!("on: v2, a group of its own without controllers: {why}");
        }
        let name = format!("{PREFIX}{id}");
        let dir = base.make(&name).map_err(|errno| {
            format!("cannot make the cgroup {path}/{name}: {}{}", errno_text(errno), hint(errno))
        })?;
        // Nobody else may look for dead ones meanwhile: the base is shared with this launcher.
        dir.own_now();
        let group = Group { base, dir, name, path: format!("{path}/{PREFIX}{id}") };
        let mut words = group.limit(limits, settings).inspect_err(|_| {
            let _ = group.remove(); // the next launch tries again
        })?;
        words.insert("cgroup", state);
        Ok((group, words))
    }
}

/// What of a failed mkdir(2) an administrator can change.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EAGAIN => ": cgroup.max.descendants or cgroup.max.depth above it is reached",
        Errno::ENOSPC => ": the host has no room for more cgroups",
        _ => "",
    }
}

fn locked(path: &str, errno: Errno) -> String {
    match errno {
        Errno::ETIMEDOUT => format!("somebody holds the lock of the cgroup {path}"),
        other => format!("cannot lock the cgroup {path}: {}", errno_text(other)),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The deepest group that holds both; `None` when that is `b` itself, which is judged anyway.
fn common<'a>(a: &'a str, b: &str) -> Option<&'a str> {
    let mut end = 0;
    for (at, _) in a.match_indices('/').chain([(a.len(), "")]) {
        let (part, rest) = a.split_at(at);
        if b.strip_prefix(part).is_some_and(|after| after.is_empty() || after.starts_with('/')) {
            end = part.len();
        }
        if rest.is_empty() {
            break;
        }
    }
    (end < b.len()).then(|| a.get(..end)).flatten()
}

/// Which of these controllers the group does not hand to its children.
fn missing<'a>(base: &Dir, wanted: &[&'a str]) -> Result<Vec<&'a str>, Errno> {
    let enabled = words(&base.read(c"cgroup.subtree_control")?);
    Ok(wanted.iter().copied().filter(|name| !enabled.iter().any(|has| has == name)).collect())
}

/// Has the base hand the controllers to its children. Whoever is in it goes into the leaf first.
fn enable(base: &Dir, path: &str, wanted: &[&str]) -> Result<(), String> {
    let failed = |what: &str, errno: Errno| format!("{what} of {path}: {}", errno_text(errno));
    if missing(base, wanted).map_err(|errno| failed("cgroup.subtree_control", errno))?.is_empty() {
        return Ok(());
    }
    base.own().map_err(|errno| locked(path, errno))?;
    let done = enable_alone(base, wanted).map_err(|(what, errno)| failed(&what, errno));
    if done.is_err() {
        let _ = put_back(base); // as it was
    }
    base.share().map_err(|errno| locked(path, errno))?;
    done
}

type Step = Result<(), (String, Errno)>;

fn enable_alone(base: &Dir, wanted: &[&str]) -> Step {
    let of = |what: &str| {
        let what = what.to_owned();
        move |errno| (what, errno)
    };
    let start = Instant::now();
    loop {
        let missing = missing(base, wanted).map_err(of("cgroup.subtree_control"))?;
        if missing.is_empty() {
            return Ok(()); // somebody else did it
        }
        let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        match base.write(c"cgroup.subtree_control", &all.join(" ")) {
            Ok(()) => return Ok(()),
            // There are processes in it, or some of those moved had children meanwhile.
            Err(Errno::EBUSY) if start.elapsed() < MOVING => {
                let inside = base.processes().map_err(of("cgroup.procs"))?;
                if inside.is_empty() {
                    return Err(("cgroup.subtree_control".to_owned(), Errno::EBUSY));
                }
                let leaf = match base.make(LEAF) {
                    Err(Errno::EEXIST) => base.below(LEAF),
                    other => other,
                };
                let leaf = leaf.map_err(of(LEAF))?;
                move_all(&inside, &leaf).map_err(|(pid, errno)| (format!("moving process {pid}"), errno))?;
            }
            Err(errno) => return Err(("cgroup.subtree_control".to_owned(), errno)),
        }
    }
}

/// Moves processes; one that ended meanwhile is no error.
fn move_all(pids: &[i32], to: &Dir) -> Result<(), (i32, Errno)> {
    for pid in pids {
        match to.take(*pid) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err((*pid, errno)),
        }
    }
    Ok(())
}

/// Takes the structure down, under the lock: controllers off, everybody back into the base, the leaf away. Does nothing while
/// somebody has a group in it.
fn put_back(base: &Dir) -> Result<(), Errno> {
    let mut others = false;
    let mut leaf = false;
    for name in base.groups()? {
        match name.as_str() {
            LEAF => leaf = true,
            name if name.starts_with(PREFIX) => others |= !is_gone(base, name),
            // What somebody else made is not ours to judge.
            _ => others = true,
        }
    }
    if !leaf || others {
        return Ok(()); // nobody was moved, or somebody is still here and will be the last
    }
    let enabled = words(&base.read(c"cgroup.subtree_control")?);
    let off: Vec<String> = enabled.iter().map(|name| format!("-{name}")).collect();
    if !off.is_empty() {
        base.write(c"cgroup.subtree_control", &off.join(" "))?;
    }
    let leaf = base.below(LEAF)?;
    let start = Instant::now();
    loop {
        let inside = leaf.processes()?;
        if inside.is_empty() || start.elapsed() > MOVING {
            return base.remove_soon(LEAF);
        }
        move_all(&inside, base).map_err(|(_, errno)| errno)?;
    }
}

/// Whether a group is no more, or was one that a killed launcher left. Without a pid namespace its payload may have outlived it.
fn is_gone(base: &Dir, name: &str) -> bool {
    match base.remove(name) {
        Ok(()) | Err(Errno::ENOENT) => return true,
        Err(_) => {}
    }
    // Somebody lives in it. Its launcher holds its lock, as long as there is one; before Linux 5.14 it must wait.
    let Ok(group) = base.below(name) else { return false };
    group.own_now() && group.write(c"cgroup.kill", "1").is_ok() && base.remove_soon(name).is_ok()
}

/// The payload's group. Its directory's lock (flock(2)) is held as long as this is.
#[derive(Debug)]
pub(super) struct Group {
    base: Dir,
    pub(super) dir: Dir,
    name: String,
    pub(super) path: String,
}

impl Group {
    /// Sets the limits and says what holds.
    fn limit(&self, limits: &Limits, settings: &config::Cgroup) -> Result<Words, String> {
        let mut words = Words::new();
        let failed = |file: &CStr, value: &str, errno: Errno| {
            format!(
                "cannot set {} of {} to {value}: {}",
                file.to_string_lossy(),
                self.path,
                errno_text(errno)
            )
        };
        let set = |file: &CStr, value: &str| {
            self.dir.write(file, value).map_err(|errno| failed(file, value, errno))
        };
        // Offered when it was looked for; what hindered its hand-over stands behind `cgroup`.
        let absent = |option: &str| match settings.mode {
            Demand::Required => Err(format!("the controller for {option} cannot be handed to {}", self.path)),
            _ => Ok("not enforced: the controller cannot be handed on".to_owned()),
        };
        if let Some(bytes) = limits.memory {
            let state = if self.dir.has(c"memory.max") {
                set(c"memory.max", &bytes.to_string())?;
                let swap = match settings.swap {
                    // The file is missing where the host has no swap accounting.
                    config::Swap::None if self.dir.has(c"memory.swap.max") => {
                        set(c"memory.swap.max", "0")?;
                        "no swap"
                    }
                    config::Swap::None => "swap is not accounted on this host",
                    config::Swap::Host => "and the host's swap",
                };
                let whom = match settings.oom {
                    config::Oom::Group => {
                        set(c"memory.oom.group", "1")?;
                        "beyond it the whole payload is killed"
                    }
                    config::Oom::Process => "beyond it one process is killed",
                };
                format!("on: memory.max {bytes}, {swap}; {whom}")
            } else {
                absent("--memory")?
            };
            words.insert("limit_memory", state);
        }
        if let Some(pids) = limits.pids {
            let state = if self.dir.has(c"pids.max") {
                // init is in the group, too.
                let most = pids.saturating_add(1);
                set(c"pids.max", &most.to_string())?;
                format!("on: pids.max {most}, init included")
            } else {
                absent("--pids")?
            };
            words.insert("limit_pids", state);
        }
        if let Some(milli) = limits.cpus_milli {
            let state = if self.dir.has(c"cpu.weight") {
                let weight = weight(milli);
                set(c"cpu.weight", &weight.to_string())?;
                match settings.cpus {
                    config::Cpus::Max => {
                        let max = quota(milli);
                        set(c"cpu.max", &max)?;
                        format!("on: cpu.max {max}, cpu.weight {weight}")
                    }
                    config::Cpus::Weight => {
                        format!("on: cpu.weight {weight}; more where nobody else wants it")
                    }
                }
            } else {
                absent("--cpus")?
            };
            words.insert("limit_cpus", state);
        }
        if let Some(cpus) = limits.cpuset {
            let state = if self.dir.has(c"cpuset.cpus") {
                set(c"cpuset.cpus", &cpus.to_string())?;
                // The kernel takes what lies beyond the parent's, and goes by what is left.
                let held = self.dir.read(c"cpuset.cpus.effective").unwrap_or_default();
                if held.trim() != cpus.to_string() {
                    return Err(format!("{} gives the cores {} only", self.path, held.trim()));
                }
                format!("on: cpuset.cpus {cpus}")
            } else if settings.mode == Demand::Required {
                absent("--cpuset")?
            } else {
                super::by_affinity(cpus)
            };
            words.insert("limit_cpuset", state);
        }
        Ok(words)
    }

    /// A process is in it: others may change the base's structure again.
    pub(super) fn settled(&self) {
        self.base.let_go();
    }

    /// Removes the group and, when it was the last, the structure around it.
    pub(super) fn remove(&self) -> Result<(), Errno> {
        let removed = self.base.remove_soon(&self.name);
        // Waited for: of two that end at one time the second must see that it is the last.
        let put_back = self.base.own().and_then(|()| put_back(&self.base));
        self.base.let_go();
        removed.and(put_back)
    }
}

/// `cpu.max`: microseconds of CPU time in each tenth of a second.
pub(super) fn quota(milli: u64) -> String {
    // The kernel takes no quota below a millisecond.
    format!("{} 100000", milli.saturating_mul(100).max(1000))
}

/// `cpu.weight`: 100, the default, for each core.
fn weight(milli: u64) -> u64 {
    (milli / 10).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_above_both_is_found() {
        assert_eq!(common("/a/b/c", "/a/b/d"), Some("/a/b"));
        assert_eq!(common("/a/bc", "/a/b"), Some("/a"));
        assert_eq!(common("/x", "/a"), Some(""));
        assert_eq!(common("/a/b/c", "/a/b"), None);
        assert_eq!(common("/a/b", "/a/b"), None);
        assert_eq!(common("/a", "/a/b"), Some("/a"));
        assert_eq!(common("", "/a"), Some(""));
        assert_eq!(common("/a", ""), None);
    }

    #[test]
    fn shares_are_the_kernels_numbers() {
        assert_eq!((quota(1000).as_str(), weight(1000)), ("100000 100000", 100));
        assert_eq!((quota(2500).as_str(), weight(2500)), ("250000 100000", 250));
        assert_eq!((quota(1).as_str(), weight(1)), ("1000 100000", 1));
        assert_eq!(weight(u64::MAX), 10_000);
    }
}
