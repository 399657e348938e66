//! Measures a payload's tree of processes where it has no control group of its own.
//!
//! init is the first process of the payload's pid namespace and reaps every orphan in it, so the tree below it is the
//! payload. The kernel adds what a process used to its parent's account when that waits for it, so the sum over the living
//! holds the dead too.
//!
//! 1. Parents are read before their children, and each process once: what ends meanwhile is missing in the sum rather than in
//!    it twice. The next sample has it again ([`super::engine`] knows).
//! 2. init's own bytes may not be read (it is not dumpable). So what orphans read is not known once init reaped them, and
//!    their CPU time is left out with it: both counters are of the same processes.
//! 3. Memory is not told: a sum over processes counts shared pages many times.
#![forbid(unsafe_code)]

use super::engine::Event;
use super::{Meter, Sample, Tells};
use crate::proc::{Stat, tree};
use crate::sys::{Errno, fs};
use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

/// What the kernel tells of processes here.
pub fn tells() -> Tells {
    Tells { memory: false, reading: Path::new("/proc/self/io").exists() }
}

/// The tree of processes below an init.
#[derive(Debug)]
pub struct Tree {
    init: i32,
    ticks_per_second: u64,
    /// Whether the kernel names a process's children (`CONFIG_PROC_CHILDREN`).
    children: bool,
}

impl Tree {
    /// The tree below this process, of which the caller is the parent: its number is not another's meanwhile.
    pub fn new(init: i32) -> Self {
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        let per_second = per_second.ok().flatten().and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
        let children = Path::new("/proc/thread-self/children").exists();
        Self { init, ticks_per_second: per_second.max(1), children }
    }

    #[cfg(test)]
    fn without_children(init: i32) -> Self {
        Self { children: false, ..Self::new(init) }
    }

    /// By the lists of children that the kernel keeps: costs what the tree costs, however full the host is.
    fn walk(&self, sum: &mut Sum) {
        let mut known = HashSet::new();
        let mut next = vec![self.init];
        while let Some(pid) = next.pop() {
            // One whose parent ended while this was read appears again, as a child of init.
            if !known.insert(pid) {
                continue;
            }
            let Some(stat) = stat(pid) else { continue };
            sum.add(pid, &stat, pid == self.init);
            if stat.threads <= 1 {
                children(pid, pid, &mut next);
                continue;
            }
            // Children belong to the thread that made them.
            for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                if let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
                    children(pid, thread, &mut next);
                }
            }
        }
    }

    /// By a look at every process of the host.
    fn look(&self, sum: &mut Sum) {
        if let Some(stat) = stat(self.init) {
            sum.add(self.init, &stat, true);
        }
        for member in tree::members(self.init) {
            sum.add(member.pid, &member.stat, false);
        }
    }
}

impl Meter for Tree {
    fn sample(&mut self, reading: bool) -> Option<Sample> {
        let mut sum = Sum { reading, ..Sum::default() };
        if self.children {
            self.walk(&mut sum);
        } else {
            self.look(&mut sum);
        }
        let time =
            |ticks: u64| Duration::from_micros(ticks.saturating_mul(1_000_000) / self.ticks_per_second);
        (sum.all > 0).then(|| Sample {
            cpu: Some(time(sum.cpu)),
            memory: None,
            processes: Some(sum.all - 1),
            reading: (sum.readable > 0).then(|| (time(sum.read_cpu), sum.bytes)),
        })
    }

    fn throttle(&mut self, _event: &Event) -> Result<(), &'static str> {
        Err("cannot throttle here: no cgroup")
    }
}

#[derive(Default)]
struct Sum {
    /// Is it asked what was read?
    reading: bool,
    /// Processes, init too.
    all: u64,
    cpu: u64,
    /// Of these it is known what they read.
    readable: u64,
    read_cpu: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, pid: i32, stat: &Stat, init: bool) {
        self.all += 1;
        self.cpu = self.cpu.saturating_add(stat.cpu_ticks);
        if self.reading
            && !init
            && let Some(bytes) = read_so_far(pid)
        {
            self.readable += 1;
            self.read_cpu = self.read_cpu.saturating_add(stat.cpu_ticks);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }
}

fn stat(pid: i32) -> Option<Stat> {
    let mut buffer = [0; 1024]; // fields are numbers, and a name has 64 bytes at most
    Stat::parse(first(&format!("/proc/{pid}/stat"), &mut buffer).ok()?)
}

/// What read(2) and its kind brought, or the disk for mapped files, whichever is more; with that of children it waited for.
fn read_so_far(pid: i32) -> Option<u64> {
    let mut buffer = [0; 512];
    bytes_read(first(&format!("/proc/{pid}/io"), &mut buffer).ok()?)
}

/// From the text of proc_pid_io(5).
fn bytes_read(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.strip_prefix(": ")?.trim().parse::<u64>().ok())
    };
    Some(number("rchar")?.max(number("read_bytes").unwrap_or(0)))
}

/// The children that one thread made.
fn children(pid: i32, thread: i32, into: &mut Vec<i32>) {
    let Ok(path) = CString::new(format!("/proc/{pid}/task/{thread}/children")) else { return };
    let Ok(file) = fs::open_following(&path, libc::O_RDONLY) else { return };
    let mut buffer = [0; 1024];
    let mut number: Option<i32> = None;
    while let Ok(length @ 1..) = fs::read_some(file.as_fd(), &mut buffer) {
        for byte in buffer.get(..length).unwrap_or_default() {
            if byte.is_ascii_digit() {
                number = Some(number.unwrap_or(0).saturating_mul(10).saturating_add(i32::from(byte - b'0')));
            } else {
                into.extend(number.take());
            }
        }
    }
    into.extend(number);
}

/// The beginning of a file of /proc.
fn first<'a>(path: &str, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let file = fs::open_following(&path, libc::O_RDONLY)?;
    let length = fs::read_some(file.as_fd(), buffer)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead as _;
    use std::process::{Child, Command, Stdio};

    /// A shell that stands for init, with its children; killed at the end.
    struct Root(Child);

    impl Root {
        /// Runs the script up to its line "ready"; then it waits for a line.
        fn new(script: &str) -> Self {
            let script = format!("{script}\necho ready; read line");
            let mut command = Command::new("sh");
            let mut child =
                command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            Self(child)
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            for member in tree::members(self.pid()) {
                let pid = nix::unistd::Pid::from_raw(member.pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn both(root: &Root) -> [Sample; 2] {
        [Tree::new(root.pid()), Tree::without_children(root.pid())].map(|mut tree| tree.sample(true).unwrap())
    }

    #[test]
    fn both_ways_count_every_process_below() {
        let root = Root::new("for i in 1 2 3; do (sleep 60 & wait) & done; sleep 0.3");
        assert!(Tree::new(root.pid()).children, "this kernel has no lists of children");
        let [walked, looked] = both(&root);
        assert_eq!((walked.processes, looked.processes), (Some(6), Some(6)));
    }

    #[test]
    fn what_the_dead_used_is_in_it() {
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let root = Root::new(&format!("({burn}); ({burn}; :) | cat"));
        for sample in both(&root) {
            assert_eq!(sample.processes, Some(0));
            let cpu = sample.cpu.unwrap();
            assert!(cpu >= Duration::from_millis(100), "{cpu:?}");
        }
    }

    #[test]
    fn what_children_read_is_in_it_and_that_of_the_root_is_not() {
        let read = |bytes: u32| format!("(head -c {bytes} /dev/zero >/dev/null)");
        let root =
            Root::new(&format!("{{ {}; sleep 60; }} & {}; sleep 0.5", read(3_000_000), read(90_000_000)));
        assert!(read_so_far(root.pid()).unwrap() >= 90_000_000);
        for sample in both(&root) {
            let (_, bytes) = sample.reading.unwrap();
            assert!((3_000_000..4_000_000).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn children_of_every_thread_are_found() {
        // Three of threads that ended: the kernel gave their children to another thread. One of a thread that lives.
        let spawn = || Command::new("sleep").arg("60").spawn().unwrap();
        let mut children: Vec<Child> = (0..3).map(|_| std::thread::spawn(spawn).join().unwrap()).collect();
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let living = std::thread::spawn(move || {
            let child = spawn();
            let _ = receive.recv();
            child
        });
        let own = std::process::id() as i32;
        let start = std::time::Instant::now();
        let found = loop {
            let count = Tree::new(own).sample(false).unwrap().processes.unwrap();
            if count >= 4 || start.elapsed() > Duration::from_secs(10) {
                break count;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        drop(send);
        children.push(living.join().unwrap());
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(found >= 4, "{found}"); // other tests of this process may have children, too
    }

    #[test]
    fn a_process_that_is_gone_is_no_sample() {
        assert_eq!(Tree::new(i32::MAX).sample(true), None);
        assert_eq!(Tree::without_children(i32::MAX).sample(true), None);
    }

    #[test]
    fn the_larger_number_is_what_was_read() {
        assert_eq!(bytes_read(b"rchar: 5\nwchar: 9\nsyscr: 1\nsyscw: 1\nread_bytes: 4096\n"), Some(4096));
        assert_eq!(bytes_read(b"rchar: 5000\nread_bytes: 4096\n"), Some(5000));
        assert_eq!(bytes_read(b"rchar: 7\n"), Some(7));
        for bad in [&b""[..], b"read_bytes: 4\n", b"rchar: -1\n", b"rchar: \xff\n"] {
            assert_eq!(bytes_read(bad), None);
        }
    }
}
