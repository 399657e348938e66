//! The old hierarchies, one for each controller: a directory of the payload's own in each that the caller was given.
//!
//! 1. A directory is the caller's when it may write it: a site makes one below each controller and gives it to the pilots'
//!    account (`cgroup.parent`), or the caller already sits in its own.
//! 2. No clone leads into these: the launcher makes them while init builds the payload's root, and hands init a descriptor of
//!    each one's `tasks`. Init waits for these before it starts the payload, and moves itself.
//! 3. The freezer is not used: what it holds, SIGKILL does not end, and everything must end with the launcher.
//!
//! The kernel's rules: Documentation/admin-guide/cgroup-v1/.
#![forbid(unsafe_code)]

use super::dir::{self, Dir};
use super::limits::Limits;
use super::{Offers, Words};
use crate::config;
use crate::failure::errno_text;
use crate::sys::Errno;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// The controllers of which a payload gets a group, in the order in which the record names one.
pub(super) const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "cpuset"];

/// One hierarchy: some controllers are mounted together.
#[derive(Debug)]
struct Hierarchy {
    controllers: Vec<&'static str>,
    dir: Dir,
    path: String,
}

/// Where the payload's groups are to be.
#[derive(Debug)]
pub(super) struct Base(Vec<Hierarchy>);

impl Base {
    /// Looks for them. `text`: /proc/self/cgroup.
    ///
    /// # Errors
    /// Why there can be none, in words.
    pub(super) fn find(mounts: &str, text: &str, parent: Option<&str>) -> Result<Self, String> {
        let mut found: Vec<(Option<(u64, u64)>, Hierarchy)> = Vec::new();
        let mut why = None;
        for controller in CONTROLLERS {
            let Some(own) = own(text, controller) else { continue };
            let path = match parent.map(|parent| super::resolve(own, parent)).transpose() {
                Ok(named) => named.unwrap_or_else(|| own.trim_end_matches('/').to_owned()),
                Err(error) => {
                    why.get_or_insert(error);
                    continue;
                }
            };
            let place = format!("{mounts}/{controller}{path}");
            // By its name first: mostly none of them is the caller's, and then this is all.
            if let Err(errno @ (Errno::EACCES | Errno::EROFS)) = dir::may_write(&place) {
                why.get_or_insert_with(|| not_the_callers(&place, errno));
                continue;
            }
            let dir = match Dir::open(&place) {
                Ok(dir) if dir.magic() == libc::CGROUP_SUPER_MAGIC => dir,
                Ok(_) => continue,
                Err(errno) => {
                    why.get_or_insert(format!("{place} cannot be opened: {}", errno_text(errno)));
                    continue;
                }
            };
            let identity = dir.identity();
            match found.iter_mut().find(|(known, _)| *known == identity) {
                Some((_, hierarchy)) => hierarchy.controllers.push(controller),
                None => found.push((identity, Hierarchy { controllers: vec![controller], dir, path })),
            }
        }
        let found: Vec<Hierarchy> = found.into_iter().map(|(_, hierarchy)| hierarchy).collect();
        if found.is_empty() {
            return Err(
                why.unwrap_or_else(|| format!("no controller of cgroup v1 is mounted below {mounts}"))
            );
        }
        Ok(Self(found))
    }

    fn has(&self, controller: &str) -> bool {
        self.0.iter().any(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    pub(super) fn offers(&self) -> Offers {
        Offers {
            memory: self.has("memory"),
            pids: self.has("pids"),
            cpu: self.has("cpu"),
            cpuset: self.has("cpuset"),
        }
    }

    pub(super) fn path(&self) -> &str {
        self.0.first().map_or("/", |hierarchy| &hierarchy.path)
    }

    /// Makes the payload's groups with their limits, and holds the lock until [`Groups::settled`].
    pub(super) fn make(
        self,
        id: &str,
        limits: &Limits,
        settings: &config::Cgroup,
    ) -> Result<(Groups, Words), String> {
        let name = format!("{}{id}", super::v2::PREFIX);
        let mut groups = Groups { of: Vec::new(), name };
        if let Some(first) = self.0.first() {
            first
                .dir
                .share()
                .map_err(|errno| format!("cannot lock {}: {}", first.path, errno_text(errno)))?;
        }
        // Each costs two directories: of this one only if it is asked for.
        let hierarchies = self
            .0
            .into_iter()
            .filter(|hierarchy| limits.cpuset.is_some() || hierarchy.controllers != ["cpuset"]);
        let hierarchies: Vec<Hierarchy> = hierarchies.collect();
        let mut words =
            groups.fill(hierarchies).and_then(|()| groups.limit(limits, settings)).inspect_err(|_| {
                let _ = groups.remove(); // the next launch tries again
            })?;
        let all: Vec<&str> = groups.of.iter().flat_map(|group| group.controllers.iter().copied()).collect();
        words.insert("cgroup", format!("on: v1, groups of its own for {}", all.join(", ")));
        Ok((groups, words))
    }
}

fn not_the_callers(place: &str, errno: Errno) -> String {
    format!("{place} is not the caller's: {}", errno_text(errno))
}

/// The caller's group of a controller: `4:memory:/path`.
fn own<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

#[derive(Debug)]
struct Group {
    controllers: Vec<&'static str>,
    base: Dir,
    dir: Dir,
    path: String,
}

/// The payload's groups, one for each hierarchy. Dropping removes nothing.
#[derive(Debug)]
pub(super) struct Groups {
    of: Vec<Group>,
    name: String,
}

impl Groups {
    pub(super) fn of(&self, controller: &str) -> Option<&Dir> {
        self.of.iter().find(|group| group.controllers.contains(&controller)).map(|group| &group.dir)
    }

    /// Any of them: all hold the same processes.
    pub(super) fn any(&self) -> Option<&Dir> {
        self.of.first().map(|group| &group.dir)
    }

    /// That of the first controller, which the record names.
    pub(super) fn path(&self) -> &str {
        self.of.first().map_or("", |group| &group.path)
    }

    /// Every line of `/proc/PID/cgroup` that a process in them shows.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.of.iter().filter_map(|group| Some((*group.controllers.first()?, group.path.as_str())))
    }

    /// Makes the directories.
    fn fill(&mut self, hierarchies: Vec<Hierarchy>) -> Result<(), String> {
        for Hierarchy { controllers, dir: base, path } in hierarchies {
            let path = format!("{path}/{}", self.name);
            let dir = base.make(&self.name).map_err(|errno| {
                format!("cannot make the cgroup {path} of {}: {}", controllers.join(","), errno_text(errno))
            })?;
            self.of.push(Group { controllers, base, dir, path });
        }
        Ok(())
    }

    /// Sets the limits and says what holds.
    fn limit(&self, limits: &Limits, settings: &config::Cgroup) -> Result<Words, String> {
        let mut words = Words::new();
        let set = |dir: &Dir, file: &CStr, value: &str| {
            dir.write(file, value).map_err(|errno| {
                let of = format!("{} of {}", file.to_string_lossy(), self.path());
                format!("cannot set {of} to {value}: {}", errno_text(errno))
            })
        };
        let absent = || "not enforced: no directory of this controller was given to the caller".to_owned();
        if let Some(bytes) = limits.memory {
            let state = match self.of("memory") {
                None => absent(),
                Some(dir) => {
                    let bytes = bytes.to_string();
                    set(dir, c"memory.limit_in_bytes", &bytes)?;
                    let swap = match settings.swap {
                        config::Swap::None if dir.has(c"memory.memsw.limit_in_bytes") => {
                            set(dir, c"memory.memsw.limit_in_bytes", &bytes)?;
                            "no swap"
                        }
                        config::Swap::None => "swap is not accounted on this host",
                        config::Swap::Host => "and the host's swap",
                    };
                    format!("on: memory.limit_in_bytes {bytes}, {swap}; beyond it one process is killed")
                }
            };
            words.insert("limit_memory", state);
        }
        if let Some(pids) = limits.pids {
            let state = match self.of("pids") {
                None => absent(),
                Some(dir) => {
                    let most = pids.saturating_add(1).to_string();
                    set(dir, c"pids.max", &most)?;
                    format!("on: pids.max {most}, init included")
                }
            };
            words.insert("limit_pids", state);
        }
        if let Some(milli) = limits.cpus_milli {
            let state = match self.of("cpu") {
                None => absent(),
                Some(dir) => {
                    let shares = (milli.saturating_mul(1024) / 1000).clamp(2, 262_144);
                    set(dir, c"cpu.shares", &shares.to_string())?;
                    match settings.cpus {
                        config::Cpus::Max => {
                            let quota = quota(milli);
                            set(dir, c"cpu.cfs_quota_us", &quota.to_string())?;
                            format!("on: cpu.cfs_quota_us {quota} of 100000, cpu.shares {shares}")
                        }
                        config::Cpus::Weight => {
                            format!("on: cpu.shares {shares}; more where nobody else wants it")
                        }
                    }
                }
            };
            words.insert("limit_cpus", state);
        }
        if let Some(group) = self.of.iter().find(|group| group.controllers.contains(&"cpuset")) {
            // A new group of this controller has neither, and takes no process before it has both.
            let parents = |file: &CStr| {
                group.base.read(file).map_err(|errno| {
                    format!("{} of {}: {}", file.to_string_lossy(), group.path, errno_text(errno))
                })
            };
            set(&group.dir, c"cpuset.mems", parents(c"cpuset.mems")?.trim())?;
            let cpus = limits.cpuset.map_or_else(|| parents(c"cpuset.cpus"), |cpus| Ok(cpus.to_string()))?;
            set(&group.dir, c"cpuset.cpus", cpus.trim())?;
        }
        if let Some(cpus) = limits.cpuset {
            let state = match self.of("cpuset") {
                None => super::by_affinity(cpus),
                Some(_) => format!("on: cpuset.cpus {cpus}"),
            };
            words.insert("limit_cpuset", state);
        }
        Ok(words)
    }

    /// `tasks` of each, open to be written.
    pub(super) fn doors(&self) -> Result<Vec<OwnedFd>, String> {
        let door = |group: &Group| {
            group
                .dir
                .door()
                .map_err(|errno| format!("cannot open the way into {}: {}", group.path, errno_text(errno)))
        };
        self.of.iter().map(door).collect()
    }

    /// Moves a process into all of them. One that has ended is no error: its end is told by others.
    pub(super) fn take(&self, pid: i32) -> Result<(), String> {
        for group in &self.of {
            match group.dir.take(pid) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(format!(
                        "cannot move the payload into the cgroup {} of {}: {}",
                        group.path,
                        group.controllers.join(","),
                        errno_text(errno)
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn settled(&self) {
        if let Some(first) = self.of.first() {
            first.base.let_go();
        }
    }

    /// Removes them, and what launchers that were killed left beside them. The last one made goes first, and none before the one
    /// after it is gone: so whatever is left anywhere is in the first hierarchy as well, and that one alone need be listed. (Of
    /// cpuset not every launch has one: it is the last, and listed by those that have.)
    pub(super) fn remove(&self) -> Result<(), Errno> {
        let result = self.of.iter().rev().try_for_each(|group| group.base.remove_soon(&self.name));
        if self.of.first().is_some_and(|first| first.base.own_now()) {
            let listed = self.of.iter().take(1);
            let listed = listed.chain(self.of.last().filter(|last| last.controllers == ["cpuset"]));
            for name in listed.flat_map(|group| group.base.groups().unwrap_or_default()) {
                if name.starts_with(super::v2::PREFIX) {
                    // EBUSY: a payload lives in it.
                    let _ = self.of.iter().rev().try_for_each(|group| match group.base.remove(&name) {
                        Err(Errno::ENOENT) => Ok(()),
                        other => other,
                    });
                }
            }
            self.settled();
        }
        result
    }
}

/// Microseconds in each tenth of a second, which is the kernel's default period.
pub(super) fn quota(milli: u64) -> u64 {
    milli.saturating_mul(100).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_group_of_each_controller() {
        let text = "10:hugetlb:/\n5:cpu,cpuacct:/a/b\n4:memory:/m:n\n0::/u\n";
        assert_eq!(own(text, "cpu"), Some("/a/b"));
        assert_eq!(own(text, "cpuacct"), Some("/a/b"));
        assert_eq!(own(text, "memory"), Some("/m:n"));
        assert_eq!(own(text, "pids"), None);
        assert_eq!(own(text, ""), Some("/u"));
    }
}
