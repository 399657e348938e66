//! Holding a payload: none of its processes runs any more, and all are still there to be looked at.
//!
//! 1. Who belongs to it is read from /proc: every descendant of init, which no process of its pid namespace can leave. Init
//!    itself, which only reaps, goes on.
//! 2. Processes fork while they are stopped one by one. So it is done again until a whole round finds nobody running; a
//!    process that was stopped before its fork took effect makes no child.
//! 3. A signal goes to a pidfd of which start time and parent were read after it was opened, so that no other process that
//!    got the number meanwhile is stopped.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crate::proc::tree::{Member, look};
use crate::proc::{Process, Stat};
use crate::sandbox::Running;
use crate::sys::pidfd;

/// Between two rounds that found somebody running.
const PAUSE: Duration = Duration::from_millis(1);

/// How it stands with the payload's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// How many there are.
    pub(super) processes: usize,
    /// How many of them were not stopped in time.
    pub(super) running: usize,
}

/// Stops every process of the payload, for at most so long.
pub(super) fn stop_all(payload: &Running, patience: Duration) -> Held {
    // A control group's freezer does it in one step and for children to come. Signals are for those that have none.
    match payload.group().and_then(|group| group.freeze(patience)) {
        Some(held) => {
            Held { processes: held.processes, running: if held.frozen { 0 } else { held.processes } }
        }
        None => by_signal(payload.init_pid(), patience),
    }
}

fn by_signal(init: i32, patience: Duration) -> Held {
    let start = Instant::now();
    let mut signalled = HashSet::new();
    let mut buffer = Vec::new();
    loop {
        let (members, whole) = look(init, &mut buffer);
        let mut running = 0;
        for member in &members {
            let known = signalled.contains(&(member.pid, member.stat.start_ticks));
            if !is_held(member, known) {
                running += 1;
                send(member, libc::SIGSTOP, &mut buffer);
                signalled.insert((member.pid, member.stat.start_ticks));
            }
        }
        if running == 0 && whole || start.elapsed() >= patience {
            return Held { processes: members.len(), running };
        }
        std::thread::sleep(PAUSE);
    }
}

/// Can no thread of it reach its own code before it is continued? One that sleeps in the kernel (`D`, for example a vfork(2)
/// that waits for its child) stops when it comes out, if it was signalled.
fn is_held(member: &Member, signalled: bool) -> bool {
    let stopped =
        |state: u8| matches!(state, b'T' | b't' | b'Z' | b'X' | b'x') || (state == b'D' && signalled);
    if !stopped(member.stat.state) {
        return false;
    }
    if member.stat.threads <= 1 {
        return true;
    }
    // The first thread may be a zombie while the others run.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", member.pid)) else { return true };
    threads.flatten().all(|thread| {
        let name = thread.file_name();
        let text = std::fs::read(format!("/proc/{}/task/{}/stat", member.pid, name.display()));
        text.ok().and_then(|text| Stat::parse(&text)).is_none_or(|stat| stopped(stat.state))
    })
}

/// Sends a signal to just that process.
fn send(member: &Member, signal: i32, buffer: &mut Vec<u8>) {
    let Some(process) = open(member, buffer) else { return };
    let _ = pidfd::send_signal(process.as_fd(), signal); // ESRCH: it ended, which is as good
}

/// A pidfd of just that process; `None` when it is gone.
fn open(member: &Member, buffer: &mut Vec<u8>) -> Option<OwnedFd> {
    let process = pidfd::open(member.pid).ok()?;
    let stat = Process::open(member.pid).and_then(|process| process.stat(buffer)).ok()?;
    (stat.start_ticks == member.stat.start_ticks).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::tree::members;
    use std::process::{Child, Command, Stdio};

    struct Tree(Child);

    impl Tree {
        fn start(script: &str) -> Self {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
            Self(command.spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }

        fn members(&self) -> Vec<Member> {
            members(self.pid())
        }

        fn wait_for(&self, count: usize) -> Vec<Member> {
            for _ in 0..1000 {
                let found = self.members();
                if found.len() == count {
                    return found;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("{count} processes expected: {:?}", self.members());
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            for member in self.members() {
                send(&member, libc::SIGKILL, &mut Vec::new());
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_tree_is_found_and_stopped_but_not_its_root() {
        let tree = Tree::start("sleep 100 & (sleep 100 & wait) & read line");
        tree.wait_for(3);
        let held = by_signal(tree.pid(), Duration::from_secs(5));
        assert_eq!(held, Held { processes: 3, running: 0 });
        for member in tree.members() {
            assert_eq!(member.stat.state, b'T', "{member:?}");
        }
        let root = Process::open(tree.pid()).unwrap().stat(&mut Vec::new()).unwrap();
        assert_ne!(root.state, b'T');
    }

    #[test]
    fn somebody_who_runs_is_said() {
        let tree = Tree::start("(while :; do :; done) & read line");
        tree.wait_for(1);
        let held = by_signal(tree.pid(), Duration::ZERO);
        assert_eq!((held.processes, held.running), (1, 1), "signalled, and not looked at again");
        let held = by_signal(tree.pid(), Duration::from_secs(5));
        assert_eq!((held.processes, held.running), (1, 0));
    }

    #[test]
    fn a_process_that_got_the_number_is_left_alone() {
        let mut tree = Tree::start("read line");
        let member = Member {
            pid: tree.pid(),
            stat: Stat { state: b'S', ppid: 0, cpu_ticks: 0, nice: 0, threads: 1, start_ticks: 1, policy: 0 },
        };
        send(&member, libc::SIGKILL, &mut Vec::new());
        std::thread::sleep(Duration::from_millis(20));
        assert!(tree.0.try_wait().unwrap().is_none(), "it was killed");
    }
}
