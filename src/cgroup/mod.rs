//! The payload's control group: where it may be, its limits, what was used in it, and its end.
//!
//! [`find`] only looks. [`Place::make`] makes the [`Group`], which is removed when it is dropped, after everything in it ended.
//!
//! ```text
//! find.. v2 or v1, the caller's own or cgroup.parent      dir.. a directory and its files      limits.. how much
//! v2..   a clone leads into it, the base is put back      usage.. what was counted             gauge.. while it runs
//! v1..   init goes into each hierarchy by itself
//! ```
//!
//! 1. The payload reaches none of this: its root shows no cgroup file system (`sandbox::tree::hidden`), though the files
//!    belong to its own uid.
//! 2. A limit that was asked for holds, or the record says that it does not, or there is no launch (`cgroup.mode`).
//! 3. No process of ours stays in a group that the caller was given, and that can be removed afterwards as before.
#![forbid(unsafe_code)]

pub mod cpuset;
mod dir;
mod gauge;
pub mod limits;
mod usage;
mod v1;
mod v2;

pub use gauge::Gauge;
pub use limits::Limits;
pub use usage::Usage;

use crate::audit::record;
use crate::config::{self, Demand};
use crate::failure::{Failure, errno_text};
use crate::proc;
use crate::sys::pidfd;
use dir::Dir;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// For `grid.sandbox`: what holds, or why not.
pub type Words = BTreeMap<&'static str, String>;

/// Where Linux systems mount them (file-hierarchy(7)), and the unified hierarchy beside the old ones.
const MOUNT: &str = "/sys/fs/cgroup";
const BESIDE: &str = "/sys/fs/cgroup/unified";
/// The most files through which a process goes into its groups: one for each hierarchy that is used.
pub const MOST_DOORS: usize = v1::CONTROLLERS.len();
/// How long processes may go on making children while they are killed one by one.
const KILLING: Duration = Duration::from_secs(2);

/// Which limits a place can hold a payload to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// Memory.
    pub memory: bool,
    /// Processes.
    pub pids: bool,
    /// CPU time.
    pub cpu: bool,
    /// Which cores.
    pub cpuset: bool,
}

impl Offers {
    /// Of these limits what it can hold a payload to, and the rest.
    pub fn share(&self, limits: &Limits) -> (Limits, Limits) {
        let of = |offered: bool| Limits {
            memory: limits.memory.filter(|_| self.memory == offered),
            cpus_milli: limits.cpus_milli.filter(|_| self.cpu == offered),
            pids: limits.pids.filter(|_| self.pids == offered),
            cpuset: limits.cpuset.filter(|_| self.cpuset == offered),
        };
        (of(true), of(false))
    }
}

/// Where a payload's group can be.
#[derive(Debug)]
pub struct Place(Kind<v2::Base, v1::Base>);

#[derive(Debug)]
enum Kind<Two, One> {
    V2(Two),
    V1(One),
}

/// Looks for a place; changes nothing.
///
/// # Errors
/// Why there is none, in words.
pub fn find(settings: &config::Cgroup) -> Result<Place, String> {
    let text = proc::text(c"/proc/self/cgroup")
        .map_err(|error| format!("/proc/self/cgroup: {}", crate::failure::io_text(&error)))?;
    let parent = settings.parent.as_deref();
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    match (Dir::open(MOUNT).map(|dir| dir.magic()), unified) {
        (Ok(libc::CGROUP2_SUPER_MAGIC), Some(own)) => {
            v2::Base::find(MOUNT, own, parent).map(|base| Place(Kind::V2(base)))
        }
        (Ok(_), _) => match (v1::Base::find(MOUNT, &text, parent), unified) {
            (Ok(base), _) => Ok(Place(Kind::V1(base))),
            // Without controllers it still counts CPU time and ends all at once.
            (Err(why), Some(own)) => {
                v2::Base::find(BESIDE, own, parent).map(|base| Place(Kind::V2(base))).map_err(|_| why)
            }
            (Err(why), None) => Err(why),
        },
        (Err(errno), _) => Err(format!("{MOUNT}: {}", errno_text(errno))),
    }
}

/// The group that the site names, given the caller's own: `../` leads up from there.
fn resolve(own: &str, parent: &str) -> Result<String, String> {
    let (mut from, mut rest) = (own.trim_end_matches('/'), parent);
    while let Some(after) = rest.strip_prefix("../") {
        let Some((above, _)) = from.rsplit_once('/') else {
            return Err(format!(
                "cgroup.parent {parent} leads out of the hierarchy from the caller's cgroup {own}"
            ));
        };
        (from, rest) = (above, after);
    }
    let path = if rest.len() == parent.len() { parent.to_owned() } else { format!("{from}/{rest}") };
    Ok(path.trim_end_matches('/').to_owned())
}

impl Place {
    /// What it can hold a payload to.
    pub fn offers(&self) -> Offers {
        match &self.0 {
            Kind::V2(base) => base.offers(),
            Kind::V1(base) => base.offers(),
        }
    }

    /// For `--dry-run` and `bailey check`.
    pub fn describe(&self) -> String {
        let offers = self.offers();
        let all = [
            ("memory", offers.memory),
            ("pids", offers.pids),
            ("cpu", offers.cpu),
            ("cpuset", offers.cpuset),
        ];
        let with: Vec<&str> = all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
        let with = if with.is_empty() { "no controller".to_owned() } else { with.join(", ") };
        match &self.0 {
            Kind::V2(base) => format!("on: v2, a group of its own below {}, with {with}", base.path()),
            Kind::V1(base) => format!("on: v1, groups of its own below {}, with {with}", base.path()),
        }
    }

    /// Whether the payload's init goes into it after its start ([`Group::doors`]), because no clone leads there.
    pub const fn is_late(&self) -> bool {
        matches!(self.0, Kind::V1(_))
    }

    /// Makes the group of a launch, with its limits. The words say what holds.
    ///
    /// # Errors
    /// Why it cannot be made, in words. Nothing of it is left.
    pub fn make(
        self,
        id: &str,
        limits: &Limits,
        settings: &config::Cgroup,
    ) -> Result<(Group, Words), String> {
        match self.0 {
            Kind::V2(base) => {
                base.make(id, limits, settings).map(|(group, words)| (Group(Kind::V2(group)), words))
            }
            Kind::V1(base) => {
                base.make(id, limits, settings).map(|(group, words)| (Group(Kind::V1(group)), words))
            }
        }
    }
}

/// A place, and what is to hold there.
#[derive(Debug)]
pub struct Planned {
    /// Where.
    pub place: Place,
    /// How much.
    pub limits: Limits,
    /// What the site says of it.
    pub settings: config::Cgroup,
}

impl Planned {
    /// Makes the group. The words say what holds, also where there is none after all.
    ///
    /// # Errors
    /// It cannot be made, and the site requires one.
    pub fn make(self, id: &str) -> Result<(Option<Group>, Words), Failure> {
        let Self { place, limits, settings } = self;
        match place.make(id, &limits, &settings) {
            Ok((group, words)) => Ok((Some(group), words)),
            Err(why) => without(settings.mode, &limits, why).map(|words| (None, words)),
        }
    }
}

/// The words for a payload without a group.
///
/// # Errors
/// The site requires one.
pub fn without(mode: Demand, limits: &Limits, why: String) -> Result<Words, Failure> {
    if mode == Demand::Required {
        return Err(missing("cannot give the payload a cgroup of its own", why));
    }
    let asked = [
        ("limit_memory", limits.memory.is_some()),
        ("limit_pids", limits.pids.is_some()),
        ("limit_cpus", limits.cpus_milli.is_some()),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| *asked);
    let mut words: Words = asked.map(|(name, _)| (name, "not enforced: no cgroup".to_owned())).collect();
    words.extend(limits.cpuset.map(|cpus| ("limit_cpuset", by_affinity(cpus))));
    words.insert("cgroup", format!("off: {why}"));
    Ok(words)
}

/// Cores, where no control group holds a payload to them.
pub fn by_affinity(cpus: cpuset::CpuSet) -> String {
    format!("affinity: {cpus}, which the payload may change for itself")
}

/// What the site requires, and this place does not have.
pub fn missing(what: impl Into<String>, why: impl Into<String>) -> Failure {
    Failure::site(
        what,
        why,
        "give the pilots' account a cgroup (docs/cgroups.md), or set cgroup.mode = \"preferred\"",
    )
}

/// A payload's group. Dropping it removes it, which is said on stderr where it fails.
#[derive(Debug)]
pub struct Group(Kind<v2::Group, v1::Groups>);

impl Group {
    /// The directory into which a clone leads (clone3(2), `CLONE_INTO_CGROUP`).
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Kind::V2(group) => Some(group.dir.fd()),
            Kind::V1(_) => None,
        }
    }

    /// The files through which a process goes into it by itself, where no clone leads there: it writes `0` into each. At most
    /// [`MOST_DOORS`].
    ///
    /// # Errors
    /// Why there is no way in, in words.
    pub fn doors(&self) -> Result<Vec<OwnedFd>, String> {
        match &self.0 {
            Kind::V2(_) => Ok(Vec::new()),
            Kind::V1(groups) => groups.doors(),
        }
    }

    /// Moves a process there that could not go by itself. The kernel takes milliseconds for that.
    pub fn admit(&self, pid: i32) -> Result<(), String> {
        match &self.0 {
            Kind::V2(_) => Ok(()),
            Kind::V1(groups) => groups.take(pid),
        }
    }

    /// The payload's first process is in it: others may change what is around it again.
    pub fn settled(&self) {
        match &self.0 {
            Kind::V2(group) => group.settled(),
            Kind::V1(groups) => groups.settled(),
        }
    }

    /// Whether a process that shows this `/proc/PID/cgroup` is in it.
    pub fn holds(&self, text: &str) -> bool {
        let shows = |controller: &str, path: &str| {
            text.lines().any(|line| {
                let parts = line.split_once(':').and_then(|(_, rest)| rest.split_once(':'));
                parts.is_some_and(|(names, shown)| {
                    names.split(',').any(|name| name == controller) && shown == path
                })
            })
        };
        match &self.0 {
            Kind::V2(group) => shows("", &group.path),
            Kind::V1(groups) => groups.lines().all(|(controller, path)| shows(controller, path)),
        }
    }

    /// `grid.cgroup`.
    pub fn record(&self) -> record::Cgroup {
        match &self.0 {
            Kind::V2(group) => record::Cgroup {
                path: Some(group.path.clone()),
                id: group.dir.identity().map(|(_, ino)| ino.to_string()),
                version: Some(2),
            },
            Kind::V1(groups) => {
                record::Cgroup { path: Some(groups.path().to_owned()), id: None, version: Some(1) }
            }
        }
    }

    /// What was used in it so far.
    pub fn usage(&self) -> Usage {
        match &self.0 {
            Kind::V2(group) => usage::v2(&group.dir),
            Kind::V1(groups) => usage::v1(groups),
        }
    }

    /// What looks at it while the payload runs.
    pub fn gauge(&self) -> Option<Gauge> {
        match &self.0 {
            Kind::V2(group) => Gauge::v2(&group.dir),
            Kind::V1(groups) => Gauge::v1(groups),
        }
    }

    /// Holds everything in it, init too, and waits so long for that. `None`: it cannot be done here (v1: [`v1`]).
    pub fn freeze(&self, patience: Duration) -> Option<Held> {
        let Kind::V2(group) = &self.0 else { return None };
        group.dir.write(c"cgroup.freeze", "1").ok()?;
        let start = Instant::now();
        loop {
            let events = group.dir.read(c"cgroup.events").ok()?;
            let frozen = events.lines().any(|line| line == "frozen 1");
            if frozen || start.elapsed() >= patience {
                let processes = group.dir.processes().ok()?.len().saturating_sub(1);
                return Some(Held { processes, frozen });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Kills everything in it at once, and what forks meanwhile; `false` before Linux 5.14 and with v1.
    pub fn kill_at_once(&self) -> bool {
        matches!(&self.0, Kind::V2(group) if group.dir.write(c"cgroup.kill", "1").is_ok())
    }

    /// Kills everything in it, on every kernel.
    pub fn kill(&self) {
        match &self.0 {
            _ if self.kill_at_once() => {}
            Kind::V2(group) => {
                let _ = group.dir.write(c"cgroup.freeze", "1"); // SIGKILL ends what is frozen, too
                kill_each(&group.dir, self);
                let _ = group.dir.write(c"cgroup.freeze", "0");
            }
            Kind::V1(groups) => {
                if let Some(pids) = groups.of("pids") {
                    let _ = pids.write(c"pids.max", "0"); // no child comes after this
                }
                if let Some(dir) = groups.any() {
                    kill_each(dir, self);
                }
            }
        }
    }
}

/// Kills the processes of a group one by one, until there is none.
fn kill_each(dir: &Dir, group: &Group) {
    let start = Instant::now();
    loop {
        let inside = dir.processes().unwrap_or_default();
        if inside.is_empty() || start.elapsed() > KILLING {
            return;
        }
        for pid in inside.into_iter().filter(|pid| *pid > 0) {
            // What got the number meanwhile is in another group.
            let Ok(process) = pidfd::open(pid) else { continue };
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if group.holds(&text) {
                let _ = pidfd::send_signal(process.as_fd(), libc::SIGKILL); // ESRCH: it ended
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let (removed, path) = match &self.0 {
            Kind::V2(group) => (group.remove(), &*group.path),
            Kind::V1(groups) => (groups.remove(), groups.path()),
        };
        if let Err(errno) = removed {
            let why = errno_text(errno);
            crate::report::say(&format!(
                "cannot remove the cgroup {path}: {why}; the next launch tries again"
            ));
        }
    }
}

/// How it stands with a group that was to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many processes there are, init not counted.
    pub processes: usize,
    /// Whether nothing runs any more.
    pub frozen: bool,
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn a_parent_may_be_named_from_the_callers_own() {
        let own = "/scope/job_7/step_batch/user/task_0";
        assert_eq!(resolve(own, "../../../payloads").as_deref(), Ok("/scope/job_7/payloads"));
        assert_eq!(resolve(own, "../task_0/a/b").as_deref(), Ok("/scope/job_7/step_batch/user/task_0/a/b"));
        assert_eq!(resolve(own, "/grid/pilots").as_deref(), Ok("/grid/pilots"));
        assert_eq!(resolve("/a", "../b").as_deref(), Ok("/b"));
        assert!(resolve("/", "../b").is_err_and(|why| why.contains("out of the hierarchy")));
        assert!(resolve("/a", "../../b").is_err());
    }
}
