//! Which cores a payload may run on.
#![forbid(unsafe_code)]

use crate::sys::Errno;
use nix::sched::{CpuSet as Mask, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use std::fmt;

/// Some of the host's logical CPUs, by the kernel's numbers. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSet(Mask);

impl CpuSet {
    /// Reads a list as cpuset(7) writes it: `0-3,8`.
    ///
    /// # Errors
    /// The reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no list of cores: write for example 0-3,8");
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<usize>().ok()).flatten()
        };
        let mut mask = Mask::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
            if first > last {
                return Err(format!("'{part}' ends before it begins"));
            }
            if last >= Mask::count() {
                return Err(format!("'{part}' names a core beyond {}", Mask::count() - 1));
            }
            for cpu in first..=last {
                mask.set(cpu).map_err(|_| wrong())?;
            }
        }
        Ok(Self(mask))
    }

    /// Those that this process may run on: sched_getaffinity(2), of which the kernel has taken what its control group forbids.
    ///
    /// # Errors
    /// The host has more than can be named here (`EINVAL`).
    pub fn of_this_process() -> Result<Self, Errno> {
        sched_getaffinity(Pid::from_raw(0)).map(Self)
    }

    /// Binds this process, and whatever it starts from now on, to them: sched_setaffinity(2). No wall: each may undo it for itself.
    ///
    /// # Errors
    /// None of them is allowed (`EINVAL`).
    pub fn bind_this_process(self) -> Result<(), Errno> {
        sched_setaffinity(Pid::from_raw(0), &self.0)
    }

    /// Takes this process to another core than the one it is on, where it may run on more than one; those stay as they were. A
    /// kernel that leaves a new process on its parent's core, until the parent waits for something, would otherwise do one after
    /// the other what the two could do at the same time.
    pub fn step_aside() {
        let (Ok(all), Ok(here)) = (Self::of_this_process(), sched_getcpu()) else { return };
        let mut others = all;
        if others.0.unset(here).is_ok() && others.bind_this_process().is_ok() {
            // Failing that, this process only has a core less, and whatever it started has all.
            let _ = all.bind_this_process();
        }
    }

    /// Those of these that are not among the others.
    pub fn beyond(self, others: Self) -> Option<Self> {
        let mut mask = Mask::new();
        let mut some = false;
        for cpu in self.cpus().filter(|cpu| !others.has(*cpu)) {
            some |= mask.set(cpu).is_ok();
        }
        some.then_some(Self(mask))
    }

    fn has(self, cpu: usize) -> bool {
        self.0.is_set(cpu).unwrap_or(false)
    }

    fn cpus(self) -> impl Iterator<Item = usize> {
        (0..Mask::count()).filter(move |cpu| self.has(*cpu))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.cpus().peekable();
        let mut between = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(f, "{between}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            between = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, shown) in
            [("0", "0"), ("0-3,8", "0-3,8"), ("3,1,2", "1-3"), ("1,1", "1"), ("5-5", "5"), ("1023", "1023")]
        {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for bad in [
            "",
            ",",
            "1,",
            "-",
            "1-",
            "-1",
            "+1",
            "a",
            "3-1",
            "1024",
            "0-99999999999999999999",
            " 1",
            "1-2-3",
        ] {
            assert!(CpuSet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_steps_aside_keeps_all_cores() {
        let before = CpuSet::of_this_process().unwrap();
        let mut moved = false;
        for _ in 0..50 {
            let here = sched_getcpu().unwrap();
            CpuSet::step_aside();
            moved |= sched_getcpu().unwrap() != here;
            assert_eq!(CpuSet::of_this_process().unwrap(), before);
        }
        assert_eq!(moved, before.cpus().count() > 1);
        // Nowhere to go.
        let first = CpuSet::parse(&before.cpus().next().unwrap().to_string()).unwrap();
        first.bind_this_process().unwrap();
        CpuSet::step_aside();
        assert_eq!(CpuSet::of_this_process().unwrap(), first);
        before.bind_this_process().unwrap();
    }

    #[test]
    fn what_is_beyond_is_named() {
        let few = CpuSet::parse("0-3").unwrap();
        assert_eq!(CpuSet::parse("1,2").unwrap().beyond(few), None);
        assert_eq!(CpuSet::parse("2-5").unwrap().beyond(few).unwrap().to_string(), "4-5");
        let own = CpuSet::of_this_process().unwrap();
        assert_eq!(own.beyond(own), None);
    }
}
