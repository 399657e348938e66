//! Subordinate uids on a FUSE mount that everybody may use, as sites have for their storage. Root starts this program: it mounts.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::accounts::{Account, Node};
use support::{BAILEY, assert_refused, code, skip, stdout, text, wait_for};

/// bindfs(1) over a directory, until it is dropped.
struct Fuse(PathBuf);

impl Fuse {
    fn mount(test: &str, source: &Path, at: PathBuf) -> Option<Self> {
        let output = match Command::new("bindfs").args(["-o", "allow_other"]).arg(source).arg(&at).output() {
            Ok(output) if output.status.success() => return Some(Self(at)),
            Ok(output) => text(&output.stderr),
            Err(error) => error.to_string(),
        };
        skip(test, &format!("bindfs does not mount here: {}", output.trim()));
        None
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_left_on_a_fuse_mount_is_removed() {
    const TEST: &str = "what_is_left_on_a_fuse_mount_is_removed";
    let Some(node) = Node::new(TEST) else { return };
    let pilot = node.pilots[0].clone();
    let [source, mount, state] = ["storage", "mounted", "state"].map(|name| node.dir.join(name));
    for dir in [&source, &mount, &state] {
        fs::create_dir(dir).unwrap();
    }
    for dir in [&state, &source.join("job"), &source.join("shared")] {
        let _ = fs::create_dir(dir);
        chown(dir, Some(pilot.uid), Some(pilot.gid)).unwrap();
    }
    fs::set_permissions(source.join("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    let Some(fuse) = Fuse::mount(TEST, &source, mount.clone()) else { return };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mount.to_str().unwrap())).unwrap();
    assert!(line.contains(" fuse"), "{line}");

    let config = node.dir.join("subuid.toml");
    let shared = mount.join("shared");
    let lines = format!(
        "[audit]\nrecorder = \"off\"\n[uid]\nmode = \"subuid\"\nstate = \"{}\"\nshared_dirs = [\"{}\"]\n",
        state.display(),
        shared.display()
    );
    fs::write(&config, lines).unwrap();
    let bailey = |pilot: &Account, args: &[&str]| -> Output {
        node.become_account(pilot, &[], BAILEY).env("BAILEY_CONFIG", &config).args(args).output().unwrap()
    };
    let owners = |dir: &Path| -> Vec<u32> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().uid()).collect()
    };

    // Only the server could change owners there, so no directory is lent; and it is as it was.
    fs::write(source.join("job/file"), "x").unwrap();
    chown(source.join("job/file"), Some(pilot.uid), Some(pilot.gid)).unwrap();
    let job = mount.join("job");
    let output =
        bailey(&pilot, &["exec", "--user", "one", "--workdir", job.to_str().unwrap(), "--", "/bin/true"]);
    if text(&output.stderr).contains("newuidmap") || text(&output.stderr).contains("/etc/subuid") {
        skip(TEST, text(&output.stderr).trim());
        return;
    }
    assert_refused(&output, 125, &["it is on FUSE", "name a directory on a local disk"]);
    assert_eq!(owners(&source.join("job")), [pilot.uid]);

    // A shared directory there takes what the payload writes, under its uid, and gives it up again.
    let bind = format!("{}:/tmp/shared:rw", shared.display());
    let write = "echo a >/tmp/shared/f && mkdir -m 0700 /tmp/shared/d && echo b >/tmp/shared/d/g && chmod 0 /tmp/shared/f";
    let run = |script: &str| {
        bailey(&pilot, &["exec", "--user", "one", "--bind", &bind, "--", "/bin/sh", "-c", script])
    };
    assert_eq!(code(&run(write)), 0);
    let first = owners(&source.join("shared"));
    assert!(first.len() == 2 && first[0] == first[1] && first[0] != pilot.uid, "{first:?}");
    // The next payload has another uid, and cannot read it.
    let next = run("cat /tmp/shared/d/g; echo c >/tmp/shared/h");
    assert!(text(&next.stderr).contains("Permission denied") && code(&next) == 0, "{}", text(&next.stderr));
    let second = fs::metadata(source.join("shared/h")).unwrap().uid();
    assert!(second != first[0] && second != pilot.uid, "{second}");
    // The pilot itself could not remove the first one's directory: the control.
    let mut control = node.become_account(&pilot, &[], "/bin/rm");
    assert!(!control.arg("-rf").arg(source.join("shared/d")).output().unwrap().status.success());
    let said = stdout(&bailey(&pilot, &["clean"]));
    assert!(said.contains(&format!("uid {}, of launch", first[0])), "{said}");
    assert_eq!(owners(&source.join("shared")), [0; 0]);
    assert_eq!(code(&run("echo d >/tmp/shared/i")), 0);
    assert_eq!(owners(&source.join("shared")), [first[0]], "the uid is free again");
    drop(fuse);
    wait_for("the end of the mount", || {
        !fs::read_to_string("/proc/self/mounts").unwrap().contains(mount.to_str().unwrap())
    });
}
