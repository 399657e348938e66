//! What the tests of the log share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod ecs;
pub mod grid;
pub mod recorder;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bailey::audit::record::{Action, Host, Record};
use bailey::audit::{LogOptions, Timestamp};
use bailey::request::LaunchId;

/// A private directory, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self::under(&std::env::temp_dir())
    }

    /// In memory where there is such a place: for tests that open a log hundreds of times, and not about the disk.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let usable = nix::unistd::access(memory, nix::unistd::AccessFlags::W_OK).is_ok();
        if usable { Self::under(memory) } else { Self::new() }
    }

    fn under(base: &Path) -> Self {
        use std::os::unix::fs::DirBuilderExt as _;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bailey-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = base.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The newest segment.
    pub fn segment(&self) -> PathBuf {
        segments(&self.0).pop().expect("a segment")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "ndjson"))
        .collect();
    paths.sort();
    paths
}

pub fn lines(dir: &Path) -> Vec<String> {
    segments(dir)
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

pub fn records(dir: &Path) -> Vec<Record> {
    lines(dir).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn options() -> LogOptions {
    let mut host = Host {
        name: Some("wn1.example.org".to_owned()),
        id: Some("0123456789abcdef".to_owned()),
        ip: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        ..Host::default()
    };
    host.boot.id = Some("00000000-boot".to_owned());
    LogOptions {
        wait: Duration::from_secs(60),
        network_filesystem: false,
        writer: "embedded-test".to_owned(),
        host,
        clock: Timestamp::now,
    }
}

pub fn id(number: usize) -> LaunchId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&(number as u64).to_be_bytes());
    LaunchId::from_parts(1_700_000_000_000, random)
}

/// Any descriptor, where a payload's pidfd belongs.
pub fn some_fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// A launch by this process.
pub fn launch_record(launch: LaunchId) -> Record {
    let mut record = Record::new(Action::PayloadLaunch, launch);
    record.host = options().host;
    record.process.pid = Some(4242);
    record.process.parent.pid = Some(i64::from(std::process::id()));
    record.process.executable = Some("/bin/true".to_owned());
    record.grid.start_ticks = Some(u64::MAX >> 1);
    record.user.id = Some("/DC=org/CN=someone".to_owned());
    record.grid.vo = Some("vo.example.org".to_owned());
    record
}
