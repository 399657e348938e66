//! What the recorder may read of processes of other accounts: observed as one uid, launched as two others, and on a host whose
//! /proc hides processes. Needs root, to become all of them:
//!
//! ```text
//! cargo test --features test-hooks --test observe_uids        (as root, without a runner that changes the user)
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/observer.rs"]
mod observer;
mod support;

use bailey::failure::Failure;
use bailey::recorder::observe::{self, Handed, Peer};
use bailey::sys::socket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use observer::{KINDS, Listener, kinds};
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use support::skip;

/// Accounts that need no name: recorder, pilot A, pilot B, and a group that may see all.
const RECORDER: u32 = 64_101;
const PILOTS: [u32; 2] = [64_102, 64_103];
const SEES_ALL: u32 = 64_104;

/// What the test is when it calls itself as the recorder's uid.
const ROLE: &str = "OBSERVE_ROLE";

#[test]
fn other_uids_are_observed() {
    match std::env::var(ROLE).as_deref() {
        Ok("recorder") => return recorder(),
        Ok("hidden") => return hidden(),
        _ => {}
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "other_uids_are_observed",
            "only root can be three accounts (see tests/observe_uids.rs)",
        );
    }
    let stage = Stage::new();
    stage.play("recorder", "", &[]);
    stage.play("hidden", "hidepid=invisible", &[]);
    stage.play("hidden", "hidepid=noaccess", &[]);
    stage.play("recorder", &format!("hidepid=invisible,gid={SEES_ALL}"), &[SEES_ALL]);
}

/// A directory that all of them reach, with the programs.
struct Stage(PathBuf);

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    fn new() -> Self {
        let dir = PathBuf::from(format!("/var/tmp/bailey-uids-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let stage = Self(dir);
        fs::set_permissions(&stage.0, fs::Permissions::from_mode(0o755)).unwrap();
        observer::compile(&stage.0);
        fs::copy(std::env::current_exe().unwrap(), stage.0.join("test")).unwrap();
        for program in ["test", "launcher"] {
            fs::set_permissions(stage.0.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        stage
    }

    /// The recorder's side runs as its own uid, under a /proc with these options; launchers come as it asks for them.
    fn play(&self, role: &str, proc_options: &str, groups: &[u32]) {
        let place = self.0.join(format!("{role}-{}", proc_options.replace(['=', ','], "-")));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::chown(&place, Some(RECORDER), Some(RECORDER)).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let groups = if groups.is_empty() {
            "--clear-groups".to_owned()
        } else {
            format!("--groups={}", groups.join(","))
        };
        let mount = if proc_options.is_empty() {
            String::new()
        } else {
            format!("mount -t proc -o {proc_options} proc /proc && ")
        };
        let script = format!(
            "{mount}exec setpriv --reuid {RECORDER} --regid {RECORDER} {groups} --inh-caps=-all -- \
             {}/test --exact other_uids_are_observed --nocapture",
            self.0.display()
        );
        let mut recorder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", &script])
            .env(ROLE, role)
            .env("OBSERVE_PLACE", &place)
            .spawn()
            .unwrap();
        let mut launchers: Vec<Child> = Vec::new();
        let ended = loop {
            // The recorder's side asks for a launcher by a file "N" that holds "UID LIE [PID PID]".
            let order = place.join(launchers.len().to_string());
            match fs::read_to_string(&order) {
                Ok(text) if text.ends_with('\n') => {
                    let words: Vec<&str> = text.split_whitespace().collect();
                    let launcher = Command::new("setpriv")
                        .args([
                            "--reuid",
                            words[0],
                            "--regid",
                            words[0],
                            "--clear-groups",
                            "--inh-caps=-all",
                            "--",
                        ])
                        .arg(self.0.join("launcher"))
                        .arg(place.join("socket"))
                        .args(&words[1..])
                        .spawn()
                        .unwrap();
                    launchers.push(launcher);
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
            if let Some(status) = recorder.try_wait().unwrap() {
                break status;
            }
        };
        for mut launcher in launchers {
            launcher.wait().unwrap();
        }
        assert!(ended.success(), "{role} {proc_options}");
    }
}

/// The recorder's side: asks for launchers and meets them.
struct Desk {
    place: PathBuf,
    listener: Listener,
    asked: usize,
}

impl Desk {
    fn new() -> Self {
        assert_eq!(nix::unistd::geteuid().as_raw(), RECORDER);
        let place = PathBuf::from(std::env::var_os("OBSERVE_PLACE").unwrap());
        let listener = Listener::new(&place.join("socket"));
        fs::set_permissions(place.join("socket"), fs::Permissions::from_mode(0o666)).unwrap();
        Self { place, listener, asked: 0 }
    }

    fn ask(&mut self, uid: u32, lie: &str) -> OwnedFd {
        let order = self.place.join(self.asked.to_string());
        self.asked += 1;
        fs::write(order, format!("{uid} {lie}\n")).unwrap();
        self.listener.accept()
    }
}

fn take(socket: &OwnedFd) -> Handed {
    let received = socket::receive(socket.as_fd(), &mut [0; 256]).unwrap();
    Handed::sort(received.fds, &kinds(&KINDS)).map_err(|(failure, _)| failure).unwrap()
}

fn recorder() {
    let mut desk = Desk::new();
    observe::can_see_others().unwrap();
    for uid in PILOTS {
        let socket = desk.ask(uid, "honest");
        let peer = Peer::look(socket.as_fd(), Some(uid), false).unwrap();
        assert_eq!((peer.uid, peer.gid, peer.depth(), peer.in_group), (uid, uid, 1, true));
        let handed = take(&socket);
        let seen = observe::payload(&peer, &handed, &mut Vec::new()).unwrap();
        assert_eq!((seen.uid, seen.gid, seen.vpid()), (uid, uid, 2));
        assert_eq!((seen.capabilities, seen.no_new_privs), ([0; 5], true));
        assert_eq!((seen.uid_map, seen.setgroups.as_str()), (format!("{uid} {uid} 1"), "deny"));
        assert!(seen.tie == "tied" || seen.tie.starts_with("pid: this kernel cannot tell"), "{}", seen.tie);
        // What docs and record call the launcher's word, because no other uid can look.
        for file in ["exe", "ns/mnt", "root"] {
            let error = fs::read_link(format!("/proc/{}/{file}", seen.pids[0])).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{file}");
        }
        assert!(fs::read_link(format!("/proc/{}/exe", peer.pid)).is_err(), "the launcher's own program");

        // Its end is seen and read although another uid's process reaps it.
        assert_eq!(observe::exit_status(handed.payload.as_fd()), None);
        drop(socket);
        let mut fds = [PollFd::new(handed.payload.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap(), 1);
        let deadline = Instant::now() + support::patience(Duration::from_secs(5));
        let status = loop {
            match observe::exit_status(handed.payload.as_fd()) {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                other => break other,
            }
        };
        if kernel_tells_exit() {
            assert_eq!(status.map(|status| libc::WTERMSIG(status)), Some(libc::SIGKILL));
        }
        assert!(observe::payload(&peer, &handed, &mut Vec::new()).is_err(), "it has ended");
    }
    a_pilot_shows_the_payload_of_another(&mut desk);
}

fn kernel_tells_exit() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
}

fn a_pilot_shows_the_payload_of_another(desk: &mut Desk) {
    let victim = desk.ask(PILOTS[1], "honest");
    let peer = Peer::look(victim.as_fd(), None, false).unwrap();
    let seen = observe::payload(&peer, &take(&victim), &mut Vec::new()).unwrap();
    let (payload, init) = (seen.pid(), seen.init.0);
    for (lie, words) in
        [("foreign", "not of the launcher"), ("foreign-payload", "not of the init handed over")]
    {
        let socket = desk.ask(PILOTS[0], &format!("{lie} {payload} {init}"));
        let peer = Peer::look(socket.as_fd(), None, false).unwrap();
        let failure = observe::payload(&peer, &take(&socket), &mut Vec::new()).unwrap_err().to_string();
        assert!(failure.contains(words), "{lie}: {failure}");
    }
}

fn hidden() {
    let cure = |failure: Failure| {
        let text = failure.to_string();
        assert!(
            text.contains("hidepid=invisible,gid=GROUP") && text.contains("hides other users' processes"),
            "{text}"
        );
    };
    cure(observe::can_see_others().unwrap_err());
    let mut desk = Desk::new();
    let socket = desk.ask(PILOTS[0], "honest");
    cure(Peer::look(socket.as_fd(), None, false).map(|peer| peer.pid).unwrap_err());
    assert_eq!(observe::uid_of(socket.as_fd()), PILOTS[0]);
}
