//! What the recorder sees of real processes: of an honest launcher everything, of a lying one the lie.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned
)]

#[path = "support/observer.rs"]
mod observer;
mod support;

use bailey::audit::record::{Action, Assurance, Host, LiveEntry, OtherIdentity, Record};
use bailey::recorder::observe::{self, Digests, Handed, Observed, Peer, Submitted};
use bailey::request::LaunchId;
use observer::{Bench, KINDS, Met, kinds, open, results};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};
use support::skip;

fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Whether PIDFD_GET_INFO is there (kernel 6.13) and NS_GET_PID_IN_PIDNS (6.11).
fn kernel() -> (bool, bool) {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    (version >= (6, 13), version >= (6, 11))
}

#[test]
fn an_honest_launcher_is_seen_as_it_is() {
    let bench = Bench::new();
    let mut met = bench.meet(&["honest"]);
    let (uid, gid) = own_ids();
    assert_eq!(met.peer.pid, met.child.id() as i32);
    assert_eq!((met.peer.uid, met.peer.gid, met.peer.depth()), (uid, gid, 1));
    assert_eq!(met.peer.ancestors, []);
    assert!(met.peer.start_ticks > 0 && met.peer.lives());
    let links: Vec<String> = met.fds[2..]
        .iter()
        .map(|fd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().display().to_string())
        .collect();
    let seen = met.observe().unwrap();
    assert_eq!(seen.pids, [met.payload_pid, 2]);
    assert_eq!((seen.pid(), seen.vpid()), (met.payload_pid, 2));
    assert_eq!((seen.uid, seen.gid), (uid, gid));
    assert_eq!(seen.capabilities, [0; 5]);
    assert!(seen.no_new_privs);
    assert_eq!(seen.seccomp, 0);
    assert_eq!(seen.init.0, met.init_pid);
    assert!(seen.start_ticks >= seen.init.1 && seen.init.1 >= met.peer.start_ticks);
    assert_eq!(seen.uid_map, format!("{uid} {uid} 1"));
    assert_eq!(seen.gid_map, format!("{gid} {gid} 1"));
    assert_eq!(seen.setgroups, "deny");
    let mountinfo = fs::read(format!("/proc/{}/mountinfo", met.payload_pid)).unwrap();
    assert_eq!(
        seen.mountinfo.to_vec(),
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), mountinfo))
            .to_vec()
    );
    let named: Vec<String> =
        seen.namespaces.iter().map(|(kind, inode)| format!("{kind}:[{inode}]")).collect();
    assert_eq!(named, links);
    let (by_pidfd, tied) = kernel();
    assert_eq!(seen.by_pidfd, by_pidfd);
    if tied {
        assert_eq!(seen.tie, "tied");
    } else {
        assert!(seen.tie.contains("pid: this kernel cannot tell"), "{}", seen.tie);
    }
    let own = bailey::proc::cgroup(&fs::read_to_string("/proc/self/cgroup").unwrap());
    assert_eq!((seen.cgroup.path, seen.cgroup.version), (own.path, own.version));
}

#[test]
fn a_real_payload_of_bailey_is_accepted() {
    // The real launcher does not connect here: a payload of its own shows that the chain and the walls are what is asked.
    let bench = Bench::new();
    let mut child = bench.world.exec(&["--image"]);
    child.arg(support::image()).args(["--", "/bin/sleep", "60"]).stdout(std::process::Stdio::null());
    let mut child = child.spawn().unwrap();
    let launcher = child.id() as i32;
    let children = |pid: i32| -> Vec<i32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    let deadline = Instant::now() + support::patience(Duration::from_secs(20));
    let (status, init) = loop {
        assert!(Instant::now() < deadline, "no payload");
        if let Some(init) = children(launcher).first().copied()
            && let Some(payload) = children(init).first().copied()
            && fs::read_to_string(format!("/proc/{payload}/comm")).is_ok_and(|comm| comm == "sleep\n")
        {
            break (bailey::proc::look(payload).unwrap().0, init);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!((status.ppid, status.pids.len()), (init, 2));
    assert_eq!(bailey::proc::not_locked_in(&status.capabilities, status.no_new_privs), None);
    assert_eq!(status.uids, [own_ids().0; 4]);
    let ticks = bailey::proc::look(init).unwrap().1.start_ticks;
    assert_eq!(observe::parent_of(status.tgid), Some((init, ticks)));
    assert!(observe::process(init, ticks).is_some());
    assert!(observe::process(init, ticks + 1).is_none(), "another process of that number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(launcher), nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    assert!(observe::process(init, ticks).is_none(), "it has ended");
}

#[test]
fn a_launcher_in_a_container_is_seen_with_both_numberings() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.env("DEEP", "1");
    let mut met = Met::new(&bench.listener, command, &["honest"]);
    let outer = met.child.id() as i32;
    assert_eq!(met.peer.depth(), 2);
    assert_eq!(met.peer.pids[1], 1);
    assert_ne!(met.peer.pid, outer);
    // Itself not, its parent first, pid 1 last.
    assert_eq!(met.peer.ancestors[0], (outer, bailey::proc::look(outer).unwrap().1.start_ticks));
    assert_eq!(met.peer.ancestors[1].0, std::process::id() as i32);
    assert_eq!(met.peer.ancestors.last().unwrap().0, 1);
    let ticks = met.peer.ancestors[0].1;
    let live = |pid: i32, since: u64| ((pid, since) == (outer, ticks)).then(|| "outer".to_owned());
    assert_eq!(observe::enclosing(&met.peer, live).as_deref(), Some("outer"));
    let reused = |pid: i32, since: u64| ((pid, since) == (outer, ticks + 1)).then(|| "outer".to_owned());
    assert_eq!(observe::enclosing(&met.peer, reused), None, "the same number, another process");

    let (init, payload) = (met.init_pid, met.payload_pid);
    let seen = met.observe().unwrap();
    assert_eq!((seen.pids.len(), seen.pid(), seen.vpid()), (3, payload, 2));
    assert_eq!(bailey::proc::look(seen.init.0).unwrap().0.pids[1..], [init, 1]);
    let inside = (seen.pids[1], met.peer.pids[1]);
    assert_ne!(inside.0, payload);
    // It claims what it sees itself.
    let mut claim = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [1; 10]));
    claim.process.pid = Some(inside.0.into());
    claim.process.parent.pid = Some(inside.1.into());
    claim.process.vpid = Some(2);
    claim.grid.observed.pid_depth = Some(2);
    assert_eq!(observe::contradictions(&claim, &met.peer, &seen), Vec::<String>::new());
    claim.process.pid = Some(seen.pid().into());
    assert_eq!(observe::contradictions(&claim, &met.peer, &seen).len(), 1);
}

#[test]
fn a_peer_on_the_host_is_in_no_payload() {
    let bench = Bench::new();
    let met = bench.meet(&["honest"]);
    assert_eq!(observe::enclosing(&met.peer, |pid, _| (pid == 1).then(String::new)), None);
}

#[test]
fn a_pidfd_of_another_process_is_refused() {
    let bench = Bench::new();
    bench.refused("self", &["not of the init handed over"]);
    bench.refused("init-as-payload", &["not of the init handed over"]);
    bench.refused("process-one", &["process 1 is a child of process 0"]);
    bench.refused("other-child", &["not of the init handed over"]);
    bench.refused("grandchild", &["not of the init handed over"]);
    bench.refused("other-init", &["not of the init handed over"]);
    bench.refused("launcher-as-init", &["not of the init handed over"]);
    bench.refused("middle", &["its init", "not of the launcher"]);
}

#[test]
fn a_foreign_payload_is_refused() {
    let bench = Bench::new();
    let victim = bench.meet(&["honest"]);
    let (payload, init) = (victim.payload_pid.to_string(), victim.init_pid.to_string());
    let failure = bench.meet(&["foreign", &payload, &init]).observe().unwrap_err().to_string();
    assert!(failure.contains("not of the launcher"), "{failure}");
    let failure = bench.meet(&["foreign-payload", &payload, "0"]).observe().unwrap_err().to_string();
    assert!(failure.contains("not of the init handed over"), "{failure}");
}

#[test]
fn the_dead_are_refused() {
    let bench = Bench::new();
    bench.refused("dead", &["the payload has ended"]);
    bench.refused("zombie", &["ended while it was looked at"]);
}

#[test]
fn a_payload_that_is_not_locked_in_is_refused() {
    let bench = Bench::new();
    bench.refused("capable", &["CAP_NET_RAW"]);
    bench.refused("bounding", &["CAP_SYS_ADMIN"]);
    bench.refused("privileges", &["no no_new_privs"]);
    bench.refused("same-pid-namespace", &["it has none of its own"]);
}

#[test]
fn namespaces_of_others_are_refused() {
    let bench = Bench::new();
    let (_, tied) = kernel();
    bench.refused("second-user", &["belongs to user namespace"]);
    bench.refused("second-mnt", &["belongs to user namespace"]);
    bench.refused("own-user-namespace", &["belongs to user namespace"]);
    if tied {
        bench.refused("second", &["the payload is not in the pid namespace handed over"]);
        bench.refused("own-pid-namespace", &["and 2 in its own"]);
        // The same number in the namespace handed over and in the payload's own, which lies below.
        bench.refused("shallow", &["not the payload's own"]);
    } else {
        bench.refused("second", &["belongs to user namespace"]);
        bench.refused("own-pid-namespace", &["belongs to user namespace"]);
    }
    let seen = bench.meet(&["deeper"]).observe().unwrap();
    assert_eq!((seen.pids.len(), &seen.pids[1..]), (3, &[5, 5][..]), "deeper than it must be is no lie");
}

#[test]
fn descriptors_that_are_no_pidfd_are_refused_untouched() {
    let bench = Bench::new();
    for lie in ["null", "socket", "eventfd", "thread"] {
        bench.refused(lie, &["descriptor 0 is no pidfd of a process"]);
    }
    for lie in ["memfd", "file"] {
        bench.refused(lie, &["descriptor 2 is no namespace of kind user"]);
    }
    bench.refused("swapped", &["descriptor 3 is no namespace of kind mnt"]);
    bench.refused("few", &["8 descriptors came, 9 were announced"]);
    bench.refused("many", &["253 descriptors came, 9 were announced"]);
    let mut met = bench.meet(&["honest"]);
    let count = met.fds.len();
    let (failure, back) = Handed::sort(std::mem::take(&mut met.fds), &kinds(&KINDS[1..])).unwrap_err();
    assert_eq!(back.len(), count, "all of them go to the janitor");
    assert!(failure.to_string().contains("9 descriptors came, 8 were announced"), "{failure}");
    let twice = ["user", "mnt", "pid", "ipc", "uts", "net", "user"];
    let (failure, back) = Handed::sort(back, &kinds(&twice)).unwrap_err();
    assert!(failure.to_string().contains("descriptor 8 is no namespace of kind user"), "{failure}");
    let (failure, mut back) = Handed::sort(back, &kinds(&["time"; 7])).unwrap_err();
    assert!(failure.to_string().contains("kind time"), "{failure}");
    back.truncate(4);
    let (failure, _) = Handed::sort(back, &kinds(&["user", "mnt"])).unwrap_err();
    assert!(failure.to_string().contains("the pid namespace is missing"), "{failure}");
    assert!(Handed::sort(Vec::new(), &[]).is_err());
}

#[test]
fn digests_are_of_the_file_and_remembered() {
    let bench = Bench::new();
    let digests = Digests::new().unwrap();
    let path = bench.world.path("program");
    fs::write(&path, b"abc").unwrap();
    let digest = |uid, fd| match digests.program(uid, std::process::id() as i32, 1, fd) {
        Submitted::Known(program) => Ok(program),
        Submitted::Later => results(&digests, 1, Duration::from_secs(10)).pop().unwrap().1,
        Submitted::Never => panic!("nothing waits"),
    };
    let found = digest(1, open(&path)).unwrap();
    assert_eq!(
        bailey::audit::chain::hex(&found.sha256),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(found.path, path.display().to_string());
    assert_eq!(digest(1, open(&path)), Ok(found.clone()));
    fs::write(&path, b"abd").unwrap();
    assert_ne!(digest(1, open(&path)).unwrap().sha256, found.sha256, "changed in place");
    // The position of the launcher's descriptor is the launcher's.
    let shared = File::open(&path).unwrap();
    std::io::Seek::seek(&mut &shared, std::io::SeekFrom::Start(2)).unwrap();
    assert_eq!(digest(2, shared.try_clone().unwrap().into()), digest(1, open(&path)));
    assert_eq!(std::io::Seek::stream_position(&mut &shared).unwrap(), 2);

    let secret = bench.world.file("unread", "x");
    for (fd, why) in [
        (open(&bench.world.dir), "no regular file"),
        (open(std::path::Path::new("/dev/zero")), "no regular file"),
        (File::options().write(true).open(&secret).unwrap().into(), "EBADF"),
    ] {
        let answer = digest(1, fd).unwrap_err();
        assert!(answer.contains(why), "{answer}");
    }
    let large = File::create(bench.world.path("large")).unwrap();
    large.set_len((256 << 20) + 1).unwrap();
    let answer = digest(1, large.into()).unwrap_err();
    assert!(answer.contains("268435457 bytes"), "{answer}");
}

#[test]
fn many_programs_of_one_uid_are_answered_or_turned_away() {
    let bench = Bench::new();
    let digests = Digests::new().unwrap();
    let (mut accepted, mut known) = (0, 0);
    for token in 0..2_000 {
        match digests.program(1, std::process::id() as i32, token, open(&bench.program)) {
            Submitted::Known(_) => known += 1,
            Submitted::Later => accepted += 1,
            Submitted::Never => {}
        }
    }
    assert!(accepted > 0 && accepted + known <= 2_000);
    let found = results(&digests, accepted, Duration::from_secs(60));
    assert_eq!(found.len(), accepted);
    assert!(found.iter().all(|(_, answer)| answer.is_ok()));
    let mut tokens: Vec<u64> = found.iter().map(|(token, _)| *token).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), accepted, "each once, in order");
    let deadline = Instant::now() + support::patience(Duration::from_secs(20));
    while digests.backlog(1) != observe::Backlog::Short {
        assert!(Instant::now() < deadline, "what was turned away is closed, too");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A claim by the honest launcher about its payload.
fn claim(peer: &Peer, seen: &Observed) -> Record {
    let mut claim = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [1; 10]));
    claim.process.pid = Some(seen.pid().into());
    claim.process.vpid = Some(seen.vpid().into());
    claim.process.parent.pid = Some(peer.pid.into());
    claim.process.real_user.id = Some(peer.uid.to_string());
    claim.process.real_group.id = Some(peer.gid.to_string());
    claim.process.user.id = Some(peer.uid.to_string());
    claim.grid.start_ticks = Some(seen.start_ticks);
    claim.grid.observed.no_new_privs = Some(true);
    claim.grid.observed.seccomp = Some(0);
    claim.grid.observed.pid_depth = Some(2);
    claim.grid.namespaces.mnt =
        seen.namespaces.iter().find(|(kind, _)| *kind == "mnt").map(|(_, inode)| *inode);
    claim
}

type Change = fn(&mut Record);

#[test]
fn each_false_claim_is_named_with_both_values() {
    let bench = Bench::new();
    let mut met = bench.meet(&["honest"]);
    let seen = met.observe().unwrap();
    let peer = &met.peer;
    let honest = claim(peer, &seen);
    assert_eq!(observe::contradictions(&honest, peer, &seen), Vec::<String>::new());
    let nothing = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [1; 10]));
    assert_eq!(observe::contradictions(&nothing, peer, &seen), Vec::<String>::new());
    let lies: [(&str, &str, Change); 13] = [
        ("the payload's pid: the launcher says 1, ", &seen.pid().to_string(), |r| r.process.pid = Some(1)),
        ("its pid inside: the launcher says 77, ", "2", |r| r.process.vpid = Some(77)),
        ("the launcher's pid: the launcher says 1, ", &peer.pid.to_string(), |r| {
            r.process.parent.pid = Some(1)
        }),
        ("its start in clock ticks: the launcher says 1, ", &seen.start_ticks.to_string(), |r| {
            r.grid.start_ticks = Some(1)
        }),
        ("the pilot's uid: the launcher says 0, ", &peer.uid.to_string(), |r| {
            r.process.real_user.id = Some("0".into())
        }),
        ("the pilot's gid: the launcher says 0, ", &peer.gid.to_string(), |r| {
            r.process.real_group.id = Some("0".into())
        }),
        ("the payload's uid: the launcher says x, ", &peer.uid.to_string(), |r| {
            r.process.user.id = Some("x".into())
        }),
        ("no_new_privs: the launcher says false, ", "true", |r| r.grid.observed.no_new_privs = Some(false)),
        ("its filter of system calls: the launcher says on, ", "off", |r| {
            r.grid.sandbox.insert("seccomp".into(), "on: default, filter 0".into());
        }),
        ("its seccomp mode: the launcher says 2, ", "0", |r| r.grid.observed.seccomp = Some(2)),
        ("its depth of pid namespaces: the launcher says 9, ", "2", |r| r.grid.observed.pid_depth = Some(9)),
        ("effective capabilities: the launcher says CAP_SYS_ADMIN, ", "none", |r| {
            r.process.thread.capabilities.effective = vec!["CAP_SYS_ADMIN".into()];
        }),
        ("its mnt namespace: the launcher says 1, ", "the kernel 4", |r| r.grid.namespaces.mnt = Some(1)),
    ];
    for (says, kernel, change) in lies {
        let mut lie = honest.clone();
        change(&mut lie);
        let found = observe::contradictions(&lie, peer, &seen);
        assert_eq!(found.len(), 1, "{says}: {found:?}");
        assert!(found[0].starts_with(says) && found[0].contains(kernel), "{found:?}");
    }
}

#[test]
fn what_the_recorder_knows_better_replaces_the_claim() {
    let bench = Bench::new();
    let mut met = bench.meet(&["honest"]);
    let seen = met.observe().unwrap();
    let peer = &met.peer;
    let mut node = Host { name: Some("wn".into()), id: Some("abc".into()), ..Host::default() };
    node.boot.id = Some("boot".into());
    node.ip = vec!["192.0.2.1".parse().unwrap()];
    let mut record = claim(peer, &seen);
    record.host.name = Some("elsewhere".into());
    record.related.ip = vec!["203.0.113.9".parse().unwrap()];
    record.grid.site.public_ip = vec!["198.51.100.1".parse().unwrap()];
    record.event.kind = "alert".into();
    record.event.category = vec!["x".into()];
    record.event.outcome = None;
    record.container.id = Some("other".into());
    record.grid.identity.assurance = Some(Assurance::Verified);
    record.grid.identity.others =
        vec![OtherIdentity { assurance: Some(Assurance::Verified), ..OtherIdentity::default() }];
    record.grid.parent_launch = Some("x".into());
    record.grid.recorder.version = Some("x".into());
    record.grid.checkpoint.seq = Some(1);
    record.grid.peer.uid = Some(0);
    record.grid.live = vec![LiveEntry::default()];
    record.grid.end.signal = Some("SIGKILL".into());
    record.process.exit_code = Some(0);
    record.process.parent.hash.sha256 = Some("forged".into());
    record.grid.cgroup.path = Some("/elsewhere".into());
    record.user.id = Some("/DC=org/CN=alice".into());
    let program = observe::Program { path: "/opt/bailey".into(), sha256: [0xab; 32] };
    observe::settle(&mut record, peer, &seen, &node, Some(&program));
    assert_eq!(record.host, node);
    let ips: Vec<String> = record.related.ip.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["192.0.2.1", "198.51.100.1"]);
    assert_eq!(
        (record.event.kind.as_str(), &record.event.category[..]),
        ("event", &["process".to_owned()][..])
    );
    assert!(record.event.outcome.is_some());
    assert_eq!(record.container.id, record.event.id);
    assert_eq!(record.grid.identity.assurance, Some(Assurance::Checked));
    assert_eq!(record.grid.identity.others[0].assurance, Some(Assurance::Checked));
    assert_eq!(record.grid.parent_launch, None);
    let grid = record.grid.clone();
    assert_eq!((grid.recorder, grid.checkpoint, grid.peer), Default::default());
    assert_eq!((grid.live, grid.end, record.process.exit_code), Default::default());
    assert_eq!(record.process.pid, Some(seen.pid().into()));
    assert_eq!(record.process.vpid, Some(2));
    assert_eq!(record.grid.start_ticks, Some(seen.start_ticks));
    assert!(record.process.start.is_some());
    let entity = bailey::audit::record::entity_id("abc", "boot", seen.pid().into(), seen.start_ticks);
    assert_eq!(record.process.entity_id, Some(entity));
    assert_eq!(record.process.parent.pid, Some(peer.pid.into()));
    assert_eq!(record.grid.launcher.start_ticks, Some(peer.start_ticks));
    assert_eq!(record.process.parent.executable.as_deref(), Some("/opt/bailey"));
    assert_eq!(record.process.parent.hash.sha256.as_deref(), Some("ab".repeat(32).as_str()));
    assert_eq!(record.related.hash, ["ab".repeat(32)]);
    assert_eq!(record.grid.cgroup, seen.cgroup);
    assert_eq!(record.grid.observed.no_new_privs, Some(true));
    assert_eq!(record.grid.observed.uid_map, Some(seen.uid_map.clone()));
    assert_eq!(record.grid.observed.setgroups.as_deref(), Some("deny"));
    assert_eq!(record.grid.observed.mountinfo_sha256.as_ref().map(String::len), Some(64));
    assert_eq!(record.grid.observed.namespaces, Some(seen.tie.clone()));
    assert_eq!(
        record.grid.namespaces.pid,
        seen.namespaces.iter().find(|(kind, _)| *kind == "pid").map(|(_, i)| *i)
    );
    assert_eq!(record.user.id.as_deref(), Some("/DC=org/CN=alice"), "what the launcher alone can say stays");

    // Without a descriptor of the program there is no digest, whatever the launcher wrote.
    record.process.parent.hash.sha256 = Some("forged".into());
    observe::settle(&mut record, peer, &seen, &node, None);
    assert_eq!(record.process.parent.hash.sha256, None);
}

#[test]
fn a_peer_that_is_gone_is_refused_and_its_uid_still_known() {
    let bench = Bench::new();
    let mut command = bench.world.command("/usr/bin/perl");
    // Connects, hands the connection to a child, and ends.
    command.args(["-MSocket", "-e", "socket(S, AF_UNIX, 5, 0) or die; connect(S, pack_sockaddr_un($ARGV[0])) or die $!; send(S, 'x', 0); if (fork) { exit 0 } sysread(S, $b, 1)"]);
    let mut child = command.arg(&bench.listener.path).spawn().unwrap();
    let socket = bench.listener.accept();
    child.wait().unwrap();
    let failure = Peer::look(socket.as_fd(), None, false).map(|peer| peer.pid).unwrap_err().to_string();
    assert!(failure.contains("the process that connected has ended"), "{failure}");
    assert_eq!(observe::uid_of(socket.as_fd()), own_ids().0);
}

#[test]
fn groups_are_the_kernels() {
    let bench = Bench::new();
    let met = bench.meet(&["honest"]);
    let look = |group| Peer::look(met.socket.as_fd(), group, false).unwrap().in_group;
    assert!(look(Some(own_ids().1)), "its own gid");
    assert!(!look(None));
    assert!(!look(Some(u32::MAX - 7)));
    for group in nix::unistd::getgroups().unwrap() {
        assert!(look(Some(group.as_raw())), "{group}");
    }
}

#[test]
fn the_exit_status_is_told_after_the_reaping() {
    let pidfd_of = |pid: u32| bailey::sys::pidfd::open(pid as i32).unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read x; exit 7"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pidfd = pidfd_of(child.id());
    assert_eq!(observe::exit_status(pidfd.as_fd()), None);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    match observe::exit_status(pidfd.as_fd()) {
        Some(status) => assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 7)),
        None => skip("the_exit_status_is_told_after_the_reaping", "this kernel is older than 6.15"),
    }
    // And never of another kind of descriptor.
    assert_eq!(observe::exit_status(File::open("/dev/null").unwrap().as_fd()), None);
}

#[test]
fn this_host_shows_its_processes() {
    observe::can_see_others().unwrap();
    assert_ne!(
        fs::metadata("/proc/1").unwrap().uid(),
        own_ids().0,
        "pid 1 is another's, so that this proves something"
    );
}

/// Not a test of correctness: `cargo test --release --test recorder_observe -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_it_takes() {
    let bench = Bench::new();
    let mut met = bench.meet(&["honest"]);
    let handed = met.sort(&KINDS).unwrap();
    let mut buffer = Vec::new();
    let lines = fs::read_to_string(format!("/proc/{}/mountinfo", met.payload_pid)).unwrap().lines().count();
    let time = |name: &str, work: &mut dyn FnMut()| {
        for _ in 0..100 {
            work();
        }
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..100 {
                work();
            }
            best = best.min(start.elapsed() / 100);
        }
        println!("{name:12} {:7} ns", best.as_nanos());
    };
    println!("mountinfo has {lines} lines");
    time("peer", &mut || drop(Peer::look(met.socket.as_fd(), Some(4), false)));
    time("payload", &mut || drop(observe::payload(&met.peer, &handed, &mut buffer).unwrap()));
    let process = bailey::proc::Process::open(met.payload_pid).unwrap();
    for (name, file) in [
        ("status", c"status"),
        ("stat", c"stat"),
        ("cgroup", c"cgroup"),
        ("uid_map", c"uid_map"),
        ("gid_map", c"gid_map"),
        ("setgroups", c"setgroups"),
        ("mountinfo", c"mountinfo"),
    ] {
        time(name, &mut || assert!(!process.read(file, &mut buffer).unwrap().is_empty()));
    }
    time("open", &mut || drop(bailey::proc::Process::open(met.payload_pid).unwrap()));
    time("get_info", &mut || assert!(bailey::sys::pidfd::get_info(handed.payload.as_fd()).is_ok()));
    let clone = |handed: &Handed| -> Vec<OwnedFd> {
        let link = |fd: &OwnedFd| fd.try_clone().unwrap();
        let mut fds = vec![link(&handed.payload), link(&handed.init)];
        for kind in KINDS {
            fds.push(File::open(format!("/proc/{}/ns/{kind}", std::process::id())).unwrap().into());
        }
        fds
    };
    let all = kinds(&KINDS);
    time("fds alone", &mut || drop(clone(&handed)));
    time("fds + sort", &mut || drop(Handed::sort(clone(&handed), &all).unwrap()));
}
