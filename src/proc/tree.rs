//! The processes below one, found by a look at all of /proc.
#![forbid(unsafe_code)]

use super::{Process, Stat};
use std::collections::{HashMap, HashSet};

/// A process of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number here.
    pub pid: i32,
    /// What was read of it.
    pub stat: Stat,
}

/// Every descendant of init, zombies included, by rising pid.
pub fn members(init: i32) -> Vec<Member> {
    look(init, &mut Vec::new()).0
}

/// The same, and whether the picture is whole: a process whose parent ended while /proc was read hangs in the air.
pub fn look(init: i32, buffer: &mut Vec<u8>) -> (Vec<Member>, bool) {
    let mut children: HashMap<i32, Vec<Member>> = HashMap::new();
    let mut pids = HashSet::from([0]); // the parent of the first, and of those that came from another pid namespace
    let Ok(entries) = std::fs::read_dir("/proc") else { return (Vec::new(), false) };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Who is gone meanwhile is not held, and need not be.
        if let Ok(stat) = Process::open(pid).and_then(|process| process.stat(buffer)) {
            children.entry(stat.ppid).or_default().push(Member { pid, stat });
            pids.insert(pid);
        }
    }
    let whole = children.keys().all(|parent| pids.contains(parent));
    let mut found: Vec<Member> = Vec::new();
    let mut parents = vec![init];
    while let Some(parent) = parents.pop() {
        // Taken out, so that a parent that changed while this was read cannot make a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found.sort_unstable_by_key(|member| member.pid);
    (found, whole)
}
