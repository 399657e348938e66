//! Where a test's payloads can have control groups: v2, in a group that was given to the test's own process (tests/vm/suite.sh,
//! as HTCondor does it), or v1, in directories that tests/test.sh made and gave to the account.
#![allow(unreachable_pub)] // shared by test programs

use crate::support::{self, World, skip, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "cpuset"];

/// Directories of this test's own below those of all tests: others run at the same time.
fn own_directories(group: &str) -> String {
    let own = format!("{group}/{}", std::process::id());
    for controller in CONTROLLERS {
        fs::create_dir(format!("/sys/fs/cgroup/{controller}{own}")).unwrap();
    }
    for file in ["cpuset.mems", "cpuset.cpus"] {
        let above = fs::read_to_string(format!("/sys/fs/cgroup/cpuset{group}/{file}")).unwrap();
        fs::write(format!("/sys/fs/cgroup/cpuset{own}/{file}"), above).unwrap();
    }
    own
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.version == 1 {
            for controller in CONTROLLERS {
                let _ = fs::remove_dir(self.dir(controller)); // what a failed test leaves tests/test.sh removes
            }
        }
    }
}

/// A world whose payloads can have control groups.
pub struct Bed {
    pub world: World,
    /// 1 or 2.
    pub version: u8,
    /// v2: the group in which this process is. v1: the directory below each controller.
    pub group: String,
    config: String,
}

impl Bed {
    /// `None`: said to be skipped, because nobody gave the test a group.
    pub fn new(test: &str) -> Option<Self> {
        let named = |name| std::env::var(name).ok().filter(|group| !group.is_empty());
        let (version, group) = match (named("BAILEY_TEST_CGROUP"), named("BAILEY_TEST_CGROUP1")) {
            (Some(path), _) => (2, path.strip_prefix("/sys/fs/cgroup").unwrap_or(&path).to_owned()),
            (None, Some(path)) => (1, path),
            (None, None) => {
                skip(test, "no control group was given to this account (root makes one: tests/test.sh)");
                return None;
            }
        };
        let group = if version == 1 { own_directories(&group) } else { group };
        let config = if version == 1 { format!("parent = \"{group}\"\n") } else { String::new() };
        Some(Self { world: World::new(), version, group, config })
    }

    /// Only where that version is.
    pub fn of_version(test: &str, version: u8) -> Option<Self> {
        let bed = Self::new(test)?;
        if bed.version == version {
            return Some(bed);
        }
        skip(test, &format!("it is about cgroup v{version}, and here is v{}", bed.version));
        None
    }

    /// A configuration: what makes payloads find their groups, these keys of `[cgroup]`, and further sections.
    pub fn config(&self, keys: &str, more: &str) -> PathBuf {
        let mode = if keys.contains("mode =") { "" } else { "mode = \"required\"\n" };
        let parent = if keys.contains("parent =") { "" } else { &self.config };
        let audit = if more.contains("[audit]") { "" } else { "[audit]\nrecorder = \"off\"\n" };
        self.world.config(&format!("{audit}[cgroup]\n{mode}{parent}{keys}\n{more}\n"))
    }

    /// `bailey exec --image IMAGE OPTIONS`, with groups required, without the command.
    pub fn exec(&self, options: &[&str]) -> Command {
        let mut command = self.world.exec(&["--image"]);
        command.arg(support::image()).args(options).env("BAILEY_CONFIG", self.config("", ""));
        command
    }

    /// The directory of a controller's group; all are one with v2.
    pub fn dir(&self, controller: &str) -> PathBuf {
        let base = Path::new("/sys/fs/cgroup");
        let base = if self.version == 1 { base.join(controller) } else { base.to_owned() };
        base.join(self.group.trim_start_matches('/'))
    }

    /// The payloads' groups that there are.
    pub fn groups(&self) -> Vec<String> {
        let controllers: &[&str] = if self.version == 1 { &CONTROLLERS } else { &[""] };
        let mut names = Vec::new();
        for controller in controllers {
            let entries = fs::read_dir(self.dir(controller)).unwrap();
            names.extend(entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                if controller.is_empty() { name } else { format!("{controller}/{name}") }
            }));
        }
        names.sort();
        names
    }

    /// Nothing of ours is left.
    pub fn assert_as_before(&self) {
        assert_eq!(self.groups(), Vec::<String>::new(), "groups are left");
        if self.version == 2 {
            let own = fs::read_to_string("/proc/self/cgroup").unwrap();
            assert!(own.lines().any(|line| line == format!("0::{}", self.group)), "{own}");
        }
    }

    /// support/use.c, compiled, and the `--bind` that puts it at /tmp/use.
    pub fn user(&self) -> String {
        static PROGRAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let program = self.world.path("use/use");
        let source = self.world.file("use/use.c", include_str!("use.c"));
        let bytes = PROGRAM.get_or_init(|| {
            let mut gcc = self.world.command("gcc");
            let output = gcc.args(["-static", "-O1", "-o"]).args([&program, &source]).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            fs::read(&program).unwrap()
        });
        if !program.exists() {
            fs::write(&program, bytes).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        format!("{}:/tmp/use", program.display())
    }

    /// Runs support/use.c with these words under these options.
    pub fn uses(&self, options: &[&str], words: &[&str]) -> std::process::Output {
        let bind = self.user();
        self.exec(options).args(["--bind", &bind, "--", "/tmp/use"]).args(words).output().unwrap()
    }
}
