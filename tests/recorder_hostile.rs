//! Hostile, broken and slow peers of the recorder. Every test ends with the same check: an innocent launch is recorded
//! promptly, the chain is whole, and the recorder's memory and descriptors are what they were.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bailey::audit::record::{Action, Assurance, EndBy, Record, StopBy};
use bailey::audit::wire::{self, Done, Drain, Frozen, Message, NEWEST, Note, Query, Resume, Stop};
use bailey::request::LaunchId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::raw::{KINDS, Raw, Tree, fresh_id, hello, launch_of, launch_with, packet, tree, words};
use support::recorder::Recorder;
use support::{Guard, World, assert_refused, behind, image, mounted, skip, text, wait_for};

/// A recorder, and what it is like before anybody attacks.
struct Bench {
    world: World,
    recorder: Recorder,
    descriptors: usize,
    /// How long an innocent launch took while nobody attacked.
    calm: Duration,
}

impl Bench {
    fn new(additions: &[(&str, &str)]) -> Self {
        let world = World::new();
        let recorder = Recorder::with(&world, additions);
        Self::of(world, recorder)
    }

    fn of(world: World, recorder: Recorder) -> Self {
        let mut bench = Self { world, recorder, descriptors: 0, calm: Duration::ZERO };
        bench.calm = bench.innocent();
        wait_for("an idle recorder", || bench.recorder.live().is_empty());
        let mut seen = bench.recorder.descriptors();
        // The connection of a moment ago is closed by a thread of its own.
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(10));
            seen = seen.min(bench.recorder.descriptors());
        }
        Self { descriptors: seen, ..bench }
    }

    /// Waits until no payload is live. A launcher that lives, as this process does, may come back for 15 seconds.
    fn at_rest(&self) {
        let start = Instant::now();
        while !self.recorder.live().is_empty() {
            assert!(
                start.elapsed() < support::patience(Duration::from_secs(30)),
                "{:?}",
                self.recorder.live()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn path(&self) -> &Path {
        &self.recorder.socket
    }

    fn raw(&self) -> Raw {
        Raw::greeted(self.path())
    }

    /// How long somebody may be held up by an attack: so long, and a machine that is busy with other things has more.
    fn soon(&self, longest: u64) -> Duration {
        Duration::from_secs(longest) + 20 * self.calm
    }

    /// A launch by somebody who does nothing wrong is recorded, and soon: it took so long.
    fn innocent(&self) -> Duration {
        let before = self.recorder.records_of("payload-end").len();
        let start = Instant::now();
        let output =
            self.recorder.exec(&self.world, &["--user", "/CN=innocent", "--", "/bin/true"]).output().unwrap();
        let took = start.elapsed();
        assert!(output.status.success(), "{}{}", text(&output.stderr), self.recorder.stderr());
        // Before the first one nothing is known of the machine, and nobody attacks.
        let calm = self.calm == Duration::ZERO;
        assert!(calm || took < self.soon(10), "the innocent waited {took:?}, {:?} before", self.calm);
        let ends = self.recorder.wait_records("payload-end", before + 1);
        assert_eq!(ends.last().unwrap()["user"]["id"], "/CN=innocent");
        took
    }

    fn unharmed(&self) {
        self.innocent();
        self.recorder.assert_chain(&self.world);
        let rss = self.recorder.rss_kib();
        assert!(rss < 64 * 1024, "{rss} KiB");
        let start = Instant::now();
        while self.recorder.descriptors() > self.descriptors {
            let links = fs::read_dir(format!("/proc/{}/fd", self.recorder.pid())).unwrap();
            let links: Vec<PathBuf> =
                links.flatten().filter_map(|link| fs::read_link(link.path()).ok()).collect();
            assert!(
                start.elapsed() < support::patience(Duration::from_secs(60)),
                "{} descriptors before, now {links:?}",
                self.descriptors
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A launch of a tree's payload that is taken.
    fn launched(&self, tree: &Tree, number: usize) -> (Raw, LaunchId) {
        let (mut raw, id) = (self.raw(), fresh_id());
        let answer = raw.ask(&launch_of(id), &tree.fds(number));
        assert!(
            matches!(&answer, Some(Message::Receipt(receipt)) if receipt.id == id.as_str()),
            "{answer:?}"
        );
        (raw, id)
    }
}

fn note(id: LaunchId, record: Record) -> Message {
    Message::Note(Note { id: id.to_string(), record: Box::new(record) })
}

fn frozen_of(id: LaunchId) -> Message {
    Message::Frozen(Frozen { id: id.to_string(), namespaces: KINDS.map(ToOwned::to_owned).to_vec() })
}

/// A launch of what was handed over before.
fn short_launch(id: LaunchId, record: Record) -> Message {
    let mut message = launch_with(id, record);
    if let Message::Launch(launch) = &mut message {
        launch.namespaces.clear();
    }
    message
}

fn end_of(id: LaunchId) -> Message {
    note(id, Record::new(Action::PayloadEnd, id))
}

fn ps() -> Message {
    Message::Ps(Done::default())
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

// ---- packets ----

#[test]
fn no_packet_ends_the_service() {
    let bench = Bench::new(&[]);
    let good = packet(NEWEST, 1, 1, br#"{"oldest":1,"newest":1,"program":"x"}"#);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let json = |kind, body: &[u8]| packet(NEWEST, kind, 1, body);
    let deep = [vec![b'['; 60_000], vec![b']'; 60_000]].concat();
    let members = format!(r#"{{"text":"","x":[{}0]}}"#, "0,".repeat(wire::MAX_COMMAS + 1));
    let empties = format!(
        r#"{{"id":"01JD000000000000000000000A","record":{{"event":{{"action":"payload-deny","kind":"event","category":[],"type":[]}},"ecs":{{"version":"9"}},"grid":{{"live":[{}{{}}]}}}}}}"#,
        "{},".repeat(wire::MAX_COMMAS / 2)
    );
    // Packet, and a word of the refusal.
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![b'x'], "length is 1 bytes"),
        (with(0, b"BLX1"), "begin with BLY1"),
        (with(8, &[0xff; 4]), "not what its header says"),
        (with(8, &[0; 4]), "not what its header says"),
        (packet(99, 3, 1, b"{}"), "version 99"),
        (json(1, b""), "cannot be read"),
        (json(1, b"null"), "cannot be read"),
        (json(1, b"{\"oldest\":1,\"newest\":1,\"program\":\"\xff\xfe\"}"), "cannot be read"),
        (json(1, br#"{"oldest":99999999999999999999,"newest":1,"program":"x"}"#), "cannot be read"),
        (json(1, br#"{"oldest":-1,"newest":1,"program":"x"}"#), "cannot be read"),
        (json(1, br#"{"oldest":1e400,"newest":1,"program":"x"}"#), "cannot be read"),
        (json(1, br#"{"oldest":1,"oldest":1,"newest":1,"program":"x"}"#), "duplicate"),
        (
            json(1, &[br#"{"oldest":1,"newest":1,"program":""#, &b"x\0"[..], br#""}"#].concat()),
            "cannot be read",
        ),
        (json(10, &[br#"{"text":"","x":"#, &deep[..], b"}"].concat()), "cannot take Ps now"),
        (json(10, members.as_bytes()), "members"),
        (json(6, b"{\"id\":\"x\"}"), "missing field"),
        (json(6, empties.as_bytes()), "cannot take Note now"),
        (json(1, &vec![b' '; wire::MAX_BODY]), "cannot be read"),
        (json(1, &vec![b' '; wire::MAX_BODY + 1]), "length"),
        (json(1, &vec![b' '; 180 * 1024]), "length"),
        (json(200, b"{}"), "kind 200"),
        (json(0, &[0; 100]), "kind 0"),
    ];
    cases.extend(
        (0..good.len()).step_by(5).filter(|cut| *cut > 0).map(|cut| (good[..cut].to_vec(), "length")),
    );
    for (bytes, word) in cases {
        let raw = Raw::new(bench.path());
        raw.bytes(&bytes, &[]).unwrap();
        let said = words(raw.hear().map(|packet| packet.message));
        assert!(said.contains(word), "{word}: {said}");
        if !word.starts_with("kind") {
            assert!(raw.hear().is_none(), "{word}: the connection goes on");
        }
    }
    // An empty packet looks like the end of the connection.
    let raw = Raw::new(bench.path());
    raw.bytes(&[], &[]).unwrap();
    assert!(raw.hear().is_none());
    // A kind that is not known yet leaves the connection as it was.
    let mut raw = bench.raw();
    raw.body(4711, b"{\"new\":true}").unwrap();
    assert!(words(raw.hear().map(|packet| packet.message)).contains("kind 4711"));
    assert!(matches!(raw.ask(&ps(), &[]), Some(Message::Rows(_))));
    drop(raw);
    bench.unharmed();
}

/// One of every message that a peer can send, in the order of their kinds.
fn every_message(id: LaunchId) -> Vec<Message> {
    let done = || Done { text: "x".into() };
    vec![
        hello(),
        Message::Welcome(wire::Welcome {
            version: 1,
            writer: "me".into(),
            draining: None,
            health: false,
            early: false,
        }),
        launch_of(id),
        Message::Receipt(wire::Receipt { id: id.to_string(), seq: 1, hash: "0".repeat(64) }),
        Message::Refused(wire::Refused::of(&bailey::failure::Failure::refused("a", "b", "c"))),
        note(id, Record::new(Action::PayloadNotice, id)),
        Message::Resume(Resume { id: id.to_string(), seq: 1, hash: "0".repeat(64) }),
        Message::Done(done()),
        Message::Stop(Stop {
            id: fresh_id().to_string(),
            by: StopBy::Ban, // an administrator's program may say what it likes
            reason: "x".into(),
            freeze: false,
            preserve: false,
            grace_ms: None,
        }),
        ps(),
        Message::Rows(wire::Rows { rows: Vec::new(), last: true }),
        Message::Drain(Drain { reason: None }),
        Message::Query(Query { text: "x".into(), matches: 0 }),
        Message::Obeyed(wire::Obeyed { id: id.to_string(), held: true, within: Some(u64::MAX) }),
        Message::BanTold(wire::BanTold { list: "x.toml".into(), digest: "0".repeat(64), bans: None }),
        Message::Identity(wire::Identity {
            id: fresh_id().to_string(),
            user: "/CN=Told".into(),
            issuer: None,
            groups: vec!["g".into(); 9000],
        }),
        frozen_of(id),
    ]
}

#[test]
fn every_message_at_every_stage_is_answered() {
    let bench = Bench::new(&[]);
    let number = every_message(fresh_id()).len();
    let tree = Tree::new(&bench.world, number);
    let large = bench.world.path("large");
    for index in 0..number {
        let of = |id| every_message(id).remove(index);
        let name = of(fresh_id()).name();

        let mut new = Raw::new(bench.path());
        let answer = new.ask(&of(fresh_id()), &[]);
        if name == "Hello" {
            assert!(matches!(answer, Some(Message::Welcome(_))), "{answer:?}");
        } else {
            assert!(words(answer).contains(&format!("cannot take {name} now")));
            assert!(new.hear().is_none(), "{name}: one that did not say hello is cut off");
        }

        let mut greeted = bench.raw();
        greeted.say(&of(fresh_id()), &[]).unwrap();
        let answer = (name != "Frozen").then(|| greeted.hear().expect(name).message); // which is not answered
        match name {
            "Frozen" => {}
            "Ps" | "BanTold" => assert!(matches!(answer, Some(Message::Rows(_))), "{answer:?}"),
            "Drain" | "Query" | "Identity" => assert!(matches!(answer, Some(Message::Done(_))), "{answer:?}"),
            _ => drop(words(answer)),
        }
        assert!(
            matches!(greeted.ask(&ps(), &[]), Some(Message::Rows(_))),
            "{name}: the connection is of use"
        );

        let mut launching = Raw::new(bench.path());
        // In the middle of a launch: the digest of a large program, a new one each time, is computed meanwhile. The recorder
        // stands still until all of it is said, so that it finds the message before the digest.
        let _ = fs::remove_file(&large);
        File::create_new(&large).unwrap().set_len(64 << 20).unwrap();
        let program = File::open(&large).unwrap();
        let id = fresh_id();
        bench.recorder.while_stopped(|| {
            launching.say(&hello(), &[program.as_fd()]).unwrap();
            launching.say(&launch_of(id), &tree.fds(index)).unwrap();
            launching.say(&of(id), &[]).unwrap();
        });
        assert!(matches!(launching.hear().expect(name).message, Message::Welcome(_)));
        let answers: Vec<_> = (0..2).map(|_| launching.hear().expect(name).message).collect();
        assert!(answers.iter().any(|answer| matches!(answer, Message::Receipt(_))), "{name}: {answers:?}");

        // Live now.
        let answer = (!matches!(name, "Obeyed")).then(|| launching.ask(&of(id), &[]));
        match (name, answer) {
            ("Note", answer) => assert!(matches!(answer, Some(Some(Message::Done(_)))), "{answer:?}"),
            ("Obeyed", _) => launching.say(&of(id), &[]).unwrap(), // nobody had asked
            (_, answer) => assert!(words(answer.unwrap()).contains("cannot take"), "{name}"),
        }
        tree.kill(index);
        assert!(matches!(launching.ask(&end_of(id), &[]), Some(Message::Done(_))), "{name}");
    }
    assert!(bench.recorder.live().is_empty());
    bench.unharmed();
}

// ---- records and claims ----

#[test]
fn a_launch_is_recorded_once() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 3);
    let (mut first, id) = bench.launched(&tree, 0);
    // The same id with another payload, while it lives; from the same launcher with the same payload it is a repetition.
    assert!(bench.raw().refused(&launch_of(id), &tree.fds(1)).contains("is another one"));
    let again = bench.raw().ask(&launch_of(id), &tree.fds(0));
    assert!(matches!(&again, Some(Message::Receipt(receipt)) if receipt.id == id.as_str()), "{again:?}");
    // The repetition has taken the launch over; it is gone, and nobody holds it.
    let mut back = bench.raw();
    let launch = bench.recorder.records_of("payload-launch").pop().unwrap();
    assert_eq!(launch["event"]["id"], id.as_str());
    assert!(
        first.refused(&end_of(id), &[]).contains("not a launcher's"),
        "the older connection has no launch any more"
    );
    let Some(Message::Receipt(receipt)) = again else { unreachable!() };
    let resume = |seq| Message::Resume(Resume { id: id.to_string(), seq, hash: receipt.hash.clone() });
    assert!(back.refused(&resume(receipt.seq + 1), &[]).contains("its receipt is another one"));
    assert!(matches!(back.ask(&resume(receipt.seq), &[]), Some(Message::Done(_))));
    // The same payload under another id.
    assert!(bench.raw().refused(&launch_of(fresh_id()), &tree.fds(0)).contains("is live already"));
    tree.kill(0);
    assert!(matches!(back.ask(&end_of(id), &[]), Some(Message::Done(_))));
    // Closed: no second launch, no second end.
    assert!(bench.raw().refused(&launch_of(id), &tree.fds(1)).contains("was here before"));
    let answer = bench.raw().ask(&note(id, Record::new(Action::LaunchFailed, id)), &[]);
    assert!(matches!(answer, Some(Message::Refused(refused)) if refused.closed));
    // Two at once, in one turn of the recorder: it is stopped while both come.
    let (id, mut two) = (fresh_id(), [bench.raw(), bench.raw()]);
    bench.recorder.while_stopped(|| {
        for (raw, number) in two.iter_mut().zip([1, 2]) {
            raw.say(&launch_of(id), &tree.fds(number)).unwrap();
        }
    });
    let answers = two.map(|raw| raw.hear().unwrap().message);
    let receipts = answers.iter().filter(|answer| matches!(answer, Message::Receipt(_))).count();
    assert_eq!(receipts, 1, "{answers:?}");
    // Ids of another time.
    let old = LaunchId::from_parts(1_700_000_000_000, [7; 10]);
    assert!(bench.raw().refused(&launch_of(old), &tree.fds(1)).contains("not of now"));
    for id in ["", "x", "01JD00000000000000000000AL"] {
        let mut message = launch_of(fresh_id());
        if let Message::Launch(launch) = &mut message {
            launch.id = id.to_owned();
        }
        assert!(bench.raw().refused(&message, &tree.fds(1)).contains("not the record of that launch"));
    }
    drop((tree, first, back));
    bench.at_rest();
    bench.unharmed();
}

#[test]
fn a_payload_that_is_handed_over_before_its_launch_is_judged_as_any_other() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 5);
    let whole = |answer: Option<Message>| {
        assert!(
            matches!(&answer, Some(Message::Refused(refused)) if refused.retry_after_ms == Some(0)),
            "{answer:?}"
        );
    };
    let claim = |id| Record::new(Action::PayloadLaunch, id);
    // What is recorded is the same.
    let (mut first, first_id) = bench.launched(&tree, 0);
    let (mut second, second_id) = (bench.raw(), fresh_id());
    second.say(&frozen_of(second_id), &tree.fds(1)).unwrap();
    let answer = second.ask(&short_launch(second_id, claim(second_id)), &[]);
    assert!(
        matches!(&answer, Some(Message::Receipt(receipt)) if receipt.id == second_id.as_str()),
        "{answer:?}"
    );
    let launches = bench.recorder.records_of("payload-launch");
    let [.., one, two] = &launches[..] else { panic!("{launches:?}") };
    for part in ["observed", "namespaces", "cgroup", "launcher"] {
        assert_eq!((&one["grid"][part], one["grid"][part].is_null()), (&two["grid"][part], false), "{part}");
    }
    assert_eq!(one["process"]["user"], two["process"]["user"]);
    assert_ne!(one["process"]["pid"], two["process"]["pid"]);
    // Without a handover, with one for another launch, of something else, on another connection, or one of long ago the launch
    // is asked for whole, and then it is taken.
    let mut raw = bench.raw();
    let id = fresh_id();
    whole(raw.ask(&short_launch(id, claim(id)), &[]));
    raw.say(&frozen_of(fresh_id()), &tree.fds(2)).unwrap();
    whole(raw.ask(&short_launch(id, claim(id)), &[]));
    let null = null();
    raw.say(&frozen_of(id), &[null.as_fd(); 9]).unwrap();
    whole(raw.ask(&short_launch(id, claim(id)), &[]));
    raw.say(&frozen_of(id), &tree.fds(2)).unwrap();
    whole(bench.raw().ask(&short_launch(id, claim(id)), &[]));
    std::thread::sleep(Duration::from_millis(3200));
    whole(raw.ask(&short_launch(id, claim(id)), &[]));
    assert!(matches!(raw.ask(&launch_of(id), &tree.fds(2)), Some(Message::Receipt(_))));
    // It counts once.
    tree.kill(2);
    assert!(matches!(raw.ask(&end_of(id), &[]), Some(Message::Done(_))));
    let again = fresh_id();
    whole(raw.ask(&short_launch(again, claim(again)), &[]));
    // A claim that the kernel does not confirm.
    drop(raw);
    let (mut raw, id) = (bench.raw(), fresh_id());
    raw.say(&frozen_of(id), &tree.fds(3)).unwrap();
    let forged = Record {
        process: bailey::audit::record::Process { vpid: Some(4_000_007), ..Default::default() },
        ..claim(id)
    };
    let said = raw.refused(&short_launch(id, forged), &[]);
    assert!(said.contains("its pid inside: the launcher says 4000007"), "{said}");
    // One that is live already, and one that died in between.
    let id = fresh_id();
    raw.say(&frozen_of(id), &tree.fds(1)).unwrap();
    let said = raw.refused(&short_launch(id, claim(id)), &[]);
    assert!(said.contains("is live already"), "{said}");
    raw.say(&frozen_of(id), &tree.fds(3)).unwrap();
    // (It is seen before it dies: what follows on the connection is taken after it.)
    assert!(matches!(raw.ask(&ps(), &[]), Some(Message::Rows(_))));
    tree.kill(3);
    wait_for("its end", || bailey::sys::pidfd::has_exited(tree.payloads[3].as_fd()));
    let said = raw.refused(&short_launch(id, claim(id)), &[]);
    assert!(said.contains("ended while it was looked at"), "{said}");
    // Many that nothing follows: each keeps two descriptors, and for a moment.
    let before = bench.recorder.descriptors();
    let many: Vec<Raw> = (0..50)
        .map(|_| {
            let mut raw = bench.raw();
            for _ in 0..3 {
                raw.say(&frozen_of(fresh_id()), &tree.fds(4)).unwrap();
            }
            assert!(matches!(raw.ask(&ps(), &[]), Some(Message::Rows(_))));
            raw
        })
        .collect();
    assert!(bench.recorder.descriptors() <= before + 4 * many.len() + 8);
    wait_for("what was handed over to be let go", || {
        bench.recorder.descriptors() <= before + 2 * many.len() + 8
    });
    drop(many);
    for (number, (raw, id)) in [(&mut first, first_id), (&mut second, second_id)].into_iter().enumerate() {
        tree.kill(number);
        assert!(matches!(raw.ask(&end_of(id), &[]), Some(Message::Done(_))));
    }
    drop((first, second, raw, tree));
    bench.at_rest();
    bench.unharmed();
}

#[test]
fn forged_claims_are_denied_in_words() {
    type Forge = fn(&mut Record);
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 1);
    let uid = nix::unistd::geteuid().to_string();
    let forge: [(&str, Forge); 9] = [
        ("the payload's pid: the launcher says 1, the kernel", |record| record.process.pid = Some(1)),
        ("its pid inside: the launcher says 99", |record| record.process.vpid = Some(99)),
        ("the launcher's pid: the launcher says 1", |record| record.process.parent.pid = Some(1)),
        ("its start in clock ticks", |record| record.grid.start_ticks = Some(5)),
        ("the pilot's uid: the launcher says 0", |record| record.process.real_user.id = Some("0".into())),
        ("the payload's uid: the launcher says root", |record| record.process.user.id = Some("root".into())),
        ("no_new_privs: the launcher says false", |record| record.grid.observed.no_new_privs = Some(false)),
        ("its user namespace: the launcher says 7", |record| record.grid.namespaces.user = Some(7)),
        ("effective capabilities", |record| {
            record.process.thread.capabilities.effective = vec!["CAP_SYS_ADMIN".into()];
        }),
    ];
    for (words, forge) in forge {
        let id = fresh_id();
        let mut record = Record::new(Action::PayloadLaunch, id);
        forge(&mut record);
        let said = bench.raw().refused(&launch_with(id, record), &tree.fds(0));
        assert!(said.contains(words) && said.contains("the kernel"), "{words}: {said}");
        // One refusal a second is recorded.
        let denies = bench.recorder.wait_records("payload-deny", 1);
        assert_eq!(denies.last().unwrap()["process"]["real_user"]["id"], uid.as_str());
        std::thread::sleep(Duration::from_millis(1050));
    }
    let denies = bench.recorder.records_of("payload-deny");
    assert_eq!(denies.len(), forge.len());
    for (deny, (words, _)) in denies.iter().zip(&forge) {
        assert!(deny["event"]["reason"].as_str().unwrap().contains(words), "{deny}");
        assert_eq!(deny["grid"]["peer"]["pid"], std::process::id());
    }
    // The action is not the launcher's to choose, and neither is another launch's record.
    let (id, other) = (fresh_id(), fresh_id());
    for record in [Record::new(Action::PayloadEnd, id), Record::new(Action::PayloadLaunch, other)] {
        assert!(
            bench
                .raw()
                .refused(&launch_with(id, record), &tree.fds(0))
                .contains("not the record of that launch")
        );
    }
    bench.unharmed();
}

#[test]
fn descriptors_of_others_are_no_payload() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 2);
    let other = Tree::new(&bench.world, 1);
    let stranger = Guard(std::process::Command::new("sleep").arg("60").spawn().unwrap());
    let foreign = bailey::sys::pidfd::open(stranger.0.id() as i32).unwrap();
    let first = bailey::sys::pidfd::open(1).unwrap();
    let mine = bailey::sys::pidfd::open(std::process::id() as i32).unwrap();
    let null = null();
    let replace = |place: usize, fd: BorrowedFd<'_>| {
        let mut fds: Vec<_> = tree.fds(0).iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        fds[place] = fd.try_clone_to_owned().unwrap();
        fds
    };
    for (place, fd, word) in [
        (0, foreign.as_fd(), "child of process"),
        (0, first.as_fd(), ""),
        (0, mine.as_fd(), ""),
        (1, mine.as_fd(), "child of process"),
        (0, tree.init.as_fd(), ""),
        (0, null.as_fd(), "no pidfd"),
        (0, other.payloads[0].as_fd(), "child of process"),
        (2, null.as_fd(), "no namespace of kind user"),
        (2, other.namespaces[0].as_fd(), "namespace"),
        (4, other.namespaces[2].as_fd(), "namespace"),
    ] {
        let fds = replace(place, fd);
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let said = bench.raw().refused(&launch_of(fresh_id()), &fds);
        assert!(said.contains(word) && !said.contains("digest"), "{place}: {said}");
    }
    // A payload that has ended is none.
    tree.kill(1);
    wait_for("its end", || bailey::sys::pidfd::has_exited(tree.payloads[1].as_fd()));
    assert!(bench.raw().refused(&launch_of(fresh_id()), &tree.fds(1)).contains("ended"));
    assert_eq!(bench.recorder.records_of("payload-launch").len(), 1, "the innocent's only");
    bench.unharmed();
}

#[test]
fn a_note_says_nothing_that_is_the_recorders() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 2);
    let (mut raw, id) = bench.launched(&tree, 0);
    let (other, other_id) = bench.launched(&tree, 1);
    // Actions that are not a launcher's.
    for action in [
        Action::PayloadLaunch,
        Action::PayloadDeny,
        Action::Checkpoint,
        Action::LogPrune,
        Action::LiveList,
        Action::SegmentOpen,
        Action::RecorderStop,
        Action::HostRestart,
        Action::Query,
        Action::NodeDrain,
        Action::BanChange,
        Action::ConfigChange,
    ] {
        assert!(
            raw.refused(&note(id, Record::new(action, id)), &[]).contains("not a launcher's"),
            "{action:?}"
        );
        let free = fresh_id();
        if action != Action::PayloadDeny {
            let said = bench.raw().refused(&note(free, Record::new(action, free)), &[]);
            assert!(said.contains("not a launcher's"), "{action:?}");
        }
    }
    // Another launch's end, from here and from nowhere.
    let stranger = bench.raw().refused(&end_of(other_id), &[]);
    assert!(stranger.contains("not a launcher's"), "{stranger}");
    assert!(
        bench
            .raw()
            .refused(&note(other_id, Record::new(Action::LaunchFailed, other_id)), &[])
            .contains("launcher's")
    );
    // Nor that of one that may have been here before the recorder's last restart.
    let old = LaunchId::from_parts(bailey::audit::Timestamp::now().unix_millis() - 1_000_000, [7; 10]);
    let said = bench.raw().refused(&note(old, Record::new(Action::LaunchFailed, old)), &[]);
    assert!(said.contains("not of now"), "{said}");
    // A note that names another launch is about this one.
    let mut notice = Record::new(Action::PayloadNotice, other_id);
    notice.event.reason = Some("r".repeat(100_000));
    notice.user.id = Some("/CN=somebody else".into());
    notice.grid.checkpoint.signature = Some("forged".into());
    notice.grid.recorder.key = Some("forged".into());
    assert!(matches!(raw.ask(&note(other_id, notice), &[]), Some(Message::Done(_))));
    let notice = bench.recorder.wait_records("payload-notice", 1).remove(0);
    assert_eq!(notice["event"]["id"], id.as_str());
    assert_eq!(notice["event"]["reason"].as_str().unwrap().len(), 1024);
    assert!(
        notice["user"].is_null()
            && notice["grid"]["checkpoint"].is_null()
            && notice["grid"]["recorder"].is_null()
    );
    // An end before the end.
    let said = raw.refused(&end_of(id), &[]);
    assert!(said.contains("still runs"), "{said}");
    // The end, with what only the recorder may say.
    tree.kill(0);
    let mut end = Record::new(Action::PayloadEnd, other_id);
    end.grid.end.by = Some(EndBy::LauncherLost);
    end.process.exit_code = Some(0);
    end.user.id = Some("/CN=somebody else".into());
    end.grid.identity.assurance = Some(Assurance::Verified);
    assert!(matches!(raw.ask(&note(other_id, end), &[]), Some(Message::Done(_))));
    let end = bench.recorder.records_of("payload-end").pop().unwrap();
    assert_eq!((&end["event"]["id"], &end["grid"]["end"]["by"]), (&id.as_str().into(), &"payload".into()));
    assert!(end["user"].is_null() && end["grid"]["identity"].is_null(), "{end}");
    tree.kill(1);
    drop((raw, other, tree));
    bench.at_rest();
    bench.unharmed();
}

/// What a claim may not bring into the log, wherever it stands.
fn assert_clean(record: &Value) {
    let grid = &record["grid"];
    for member in [
        "checkpoint",
        "live",
        "live_part",
        "log",
        "pruned",
        "query",
        "recorder",
        "end",
        "usage",
        "preserved",
        "stop",
    ] {
        assert!(grid[member].is_null(), "{member}: {record}");
    }
    assert_ne!(grid["identity"]["assurance"], "verified");
    assert_eq!(record["chain"]["prev"].as_str().unwrap().len(), 64);
}

fn poisoned(action: Action, id: LaunchId) -> Record {
    let mut record = Record::new(action, id);
    record.grid.identity.assurance = Some(Assurance::Verified);
    record.grid.checkpoint.signature = Some("forged".into());
    record.grid.pruned.segments = vec!["2000-01-01.001.ndjson".into()];
    record.grid.recorder.key = Some("forged".into());
    record.grid.query.text = Some("forged".into());
    record.grid.live_part.number = Some(1);
    record.grid.live_part.of = Some(1);
    record.grid.live = vec![bailey::audit::record::LiveEntry::default(); 3];
    record.grid.end.by = Some(EndBy::HostRestart);
    record.grid.stop.by = Some(StopBy::Ban);
    record.grid.log.segment = Some("forged".into());
    record.user.name = Some("n".repeat(60_000));
    record
}

#[test]
fn a_refused_claim_is_not_a_way_into_the_log() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 1);
    // Refused by the recorder: another launch's id, and one that is none.
    let (raw, live) = bench.launched(&tree, 0);
    for id in [live.to_string(), "x".repeat(20_000)] {
        let mut record = poisoned(Action::PayloadLaunch, live);
        record.event.id = Some(id.clone());
        let mut message = launch_with(fresh_id(), record);
        if let Message::Launch(launch) = &mut message {
            launch.id = id;
        }
        drop(bench.raw().refused(&message, &[]));
        std::thread::sleep(Duration::from_millis(1050));
    }
    // Refused by the launcher.
    for action in [Action::PayloadDeny, Action::LaunchFailed] {
        let id = fresh_id();
        let answer = bench.raw().ask(&note(id, poisoned(action, id)), &[]);
        assert!(matches!(answer, Some(Message::Done(_))), "{answer:?}");
        // One launch, one fate.
        assert!(bench.raw().refused(&launch_of(id), &tree.fds(0)).contains("was here before"));
    }
    let denies = bench.recorder.wait_records("payload-deny", 3);
    let failed = bench.recorder.wait_records("launch-failed", 1);
    for record in denies.iter().chain(&failed) {
        assert_clean(record);
        assert!(serde_json::to_vec(record).unwrap().len() < 40_000);
    }
    assert_eq!(bench.recorder.live().len(), 1, "a refusal closes nothing");
    drop((raw, tree));
    bench.at_rest();
    bench.unharmed();
}

// ---- too many, too slow ----

#[test]
fn ten_thousand_connections_of_one_account() {
    let bench = Bench::new(&[]);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let held = 10_000.min(hard as usize - 200);
    let tree = Tree::new(&bench.world, 1);
    let mut before = bench.raw();
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let raw = Raw::new(bench.path());
        if all.len() < held {
            all.push(raw);
        }
    }
    assert!(all.len() > 500, "a limit of {hard} descriptors is too small for this test");
    // Who was there before is served at once, and so is a payload's launch.
    let start = Instant::now();
    let answer = before.ask(&launch_of(fresh_id()), &tree.fds(0));
    assert!(matches!(&answer, Some(Message::Receipt(_))), "{answer:?}");
    assert!(start.elapsed() < support::patience(Duration::from_secs(1)), "{:?}", start.elapsed());
    assert!(bench.recorder.descriptors() < 700, "{}", bench.recorder.descriptors());
    assert!(bench.recorder.rss_kib() < 64 * 1024, "{} KiB", bench.recorder.rss_kib());
    // Those that are too many are told so.
    let last = all.last().unwrap();
    assert!(words(last.hear().map(|packet| packet.message)).contains("256 connections"));
    assert!(last.hear().is_none());
    // With some of them closed others of the account come in; many stay.
    all.drain(..40);
    wait_for("room", || {
        Raw::new(bench.path()).ask(&hello(), &[]).is_some_and(|m| matches!(m, Message::Welcome(_)))
    });
    bench.innocent();
    drop(all);
    tree.kill(0);
    drop((tree, before));
    bench.at_rest();
    bench.unharmed();
}

#[test]
fn who_never_reads_is_cut_off() {
    // A machine that is busy with other things takes its time, too: what counts is how much longer an innocent launch takes.
    let bench = Bench::new(&[("audit", "wait = \"60s\"")]);
    // Long answers: a few hundred live payloads with long names.
    let count = 150;
    let tree = Tree::new(&bench.world, count);
    let live: Vec<Raw> = (0..count)
        .map(|number| {
            let (mut raw, id) = (bench.raw(), fresh_id());
            let mut record = Record::new(Action::PayloadLaunch, id);
            record.user.id = Some("u".repeat(1000));
            record.grid.vo = Some("v".repeat(50_000));
            assert!(matches!(
                raw.ask(&launch_with(id, record), &tree.fds(number)),
                Some(Message::Receipt(_))
            ));
            raw
        })
        .collect();
    assert_eq!(bench.recorder.live().len(), count, "in several pages");
    let mut deaf: Vec<Raw> = (0..80).map(|_| bench.raw()).collect();
    for raw in &mut deaf {
        // Without waiting: a sender is held up when its messages are not taken any more.
        nix::sys::socket::setsockopt(
            &raw.fd,
            nix::sys::socket::sockopt::SendTimeout,
            &nix::sys::time::TimeVal::new(0, 1000),
        )
        .unwrap();
        for _ in 0..200 {
            if raw.say(&ps(), &[]).is_err() {
                break;
            }
        }
    }
    let took = bench.innocent();
    assert!(took < bench.soon(5), "{took:?}, {:?} before", bench.calm);
    let rss = bench.recorder.rss_kib();
    assert!(rss < 64 * 1024, "{rss} KiB");
    // After a while they are gone from the recorder, without a word: long before they would be for their silence.
    let start = Instant::now();
    let limit = bench.descriptors + 4 * count + 20;
    while bench.recorder.descriptors() > limit {
        assert!(
            start.elapsed() < support::patience(Duration::from_secs(90)),
            "{} descriptors",
            bench.recorder.descriptors()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    drop((deaf, live, tree));
    bench.at_rest();
    bench.unharmed();
}

#[test]
fn floods_are_bounded_and_recorded_once_a_second() {
    let bench = Bench::new(&[]);
    let flood = std::sync::atomic::AtomicBool::new(true);
    let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(120_000));
    std::thread::scope(|scope| {
        for kind in [6_u16, 7, 8, 3, 10, 200] {
            let (flood, body, path) = (&flood, &body, bench.path());
            scope.spawn(move || {
                while flood.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut raw = Raw::greeted(path);
                    for _ in 0..50 {
                        if raw.body(kind, body.as_bytes()).is_err() || raw.hear().is_none() {
                            break;
                        }
                    }
                }
            });
        }
        // Refusals that would be recorded.
        let (flag, path) = (&flood, bench.path());
        scope.spawn(move || {
            while flag.load(std::sync::atomic::Ordering::Relaxed) {
                let mut raw = Raw::greeted(path);
                for _ in 0..20 {
                    drop(raw.refused(&launch_of(fresh_id()), &[]));
                }
            }
        });
        let begin = Instant::now();
        for _ in 0..3 {
            bench.innocent();
        }
        std::thread::sleep(Duration::from_secs(4).saturating_sub(begin.elapsed()));
        flood.store(false, std::sync::atomic::Ordering::Relaxed);
        let seconds = begin.elapsed().as_secs() as usize;
        let denies = bench.recorder.records_of("payload-deny").len();
        assert!((1..=seconds + 2).contains(&denies), "{denies} refusals recorded in {seconds} s");
    });
    bench.unharmed();
}

#[test]
fn limits_of_an_account_are_named() {
    let bench =
        Bench::new(&[("recorder", "live_per_uid = \"3\""), ("recorder", "launches_per_second = \"2\"")]);
    let tree = Tree::new(&bench.world, 4);
    let live: Vec<_> = (0..3).map(|number| bench.launched(&tree, number)).collect();
    let said = bench.raw().refused(&launch_of(fresh_id()), &tree.fds(3));
    assert!(
        said.starts_with("121: ") && said.contains("3 payloads live") && said.contains("live_per_uid"),
        "{said}"
    );
    let output = bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 121, &["live_per_uid", "wait for one to end"]);
    // The rate: ten seconds' worth at once, then no more.
    let refused = (0..40)
        .map(|_| bench.raw().refused(&launch_of(fresh_id()), &tree.fds(3)))
        .find(|said| said.starts_with("122"));
    let said = refused.expect("a refusal for the rate");
    assert!(said.contains("more than 2 records a second") && said.contains("launches_per_second"), "{said}");
    // Notes count too; ends do not.
    let id = fresh_id();
    assert!(
        bench
            .raw()
            .refused(&note(id, Record::new(Action::LaunchFailed, id)), &[])
            .contains("records a second")
    );
    for (number, (mut raw, id)) in live.into_iter().enumerate() {
        tree.kill(number);
        assert!(matches!(raw.ask(&end_of(id), &[]), Some(Message::Done(_))));
    }
    std::thread::sleep(Duration::from_secs(2));
    bench.unharmed();
}

#[test]
fn bytes_of_a_day_are_limited() {
    let bench = Bench::new(&[("recorder", "bytes_per_day = \"64K\"")]);
    let tree = Tree::new(&bench.world, 1);
    let (mut raw, id) = bench.launched(&tree, 0);
    let said = (0..200)
        .map(|_| {
            let id = fresh_id();
            let mut record = Record::new(Action::LaunchFailed, id);
            record.user.name = Some("n".repeat(20_000));
            bench.raw().ask(&note(id, record), &[])
        })
        .find(|answer| matches!(answer, Some(Message::Refused(_))));
    let said = words(said.expect("a limit"));
    assert!(said.contains("65536 bytes") && said.contains("bytes_per_day"), "{said}");
    let output = bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 122, &["bytes_per_day"]);
    tree.kill(0);
    assert!(matches!(raw.ask(&end_of(id), &[]), Some(Message::Done(_))), "an end is always written");
    bench.recorder.assert_chain(&bench.world);
}

// ---- descriptors ----

#[test]
fn descriptor_bombs_are_defused() {
    let bench = Bench::new(&[]);
    let null = null();
    let many: Vec<_> = vec![null.as_fd(); 253];
    for _ in 0..3 {
        let mut raw = Raw::new(bench.path());
        assert!(matches!(raw.ask(&hello(), &many), Some(Message::Welcome(_))));
        for message in every_message(fresh_id()) {
            match message {
                Message::Hello(_) => {}
                Message::Frozen(_) => raw.say(&message, &many).unwrap(), // which is not answered
                _ => assert!(raw.ask(&message, &many).is_some(), "{}", message.name()),
            }
        }
        assert!(
            raw.refused(&launch_of(fresh_id()), &many).contains("253 descriptors came, 9 were announced")
        );
    }
    // Sockets in flight that carry sockets in flight, and the recorder's own socket among them.
    let (mut ends, raw) = (Vec::new(), bench.raw());
    for _ in 0..20 {
        let (ours, theirs) = bailey::sys::socket::pair().unwrap();
        let mut inside = vec![std::os::fd::AsRawFd::as_raw_fd(&raw.fd)];
        inside.extend(
            ends.last().map(|(ours, _): &(std::os::fd::OwnedFd, _)| std::os::fd::AsRawFd::as_raw_fd(ours)),
        );
        bailey::sys::socket::send(theirs.as_fd(), b"x", &inside).unwrap();
        ends.push((ours, theirs));
    }
    let mut carrier = bench.raw();
    let nested: Vec<_> = ends.iter().flat_map(|(ours, theirs)| [ours.as_fd(), theirs.as_fd()]).collect();
    assert!(carrier.ask(&ps(), &nested).is_some());
    drop((ends, raw, carrier));
    // In messages that nobody reads any more: the connection is closed by the first.
    let raw = Raw::new(bench.path());
    for _ in 0..8 {
        let _ = raw.bytes(b"not a message", &many);
    }
    // Beside a launch that waits, in every number.
    let large = bench.world.path("large");
    File::create(&large).unwrap().set_len(60 << 20).unwrap();
    for _ in 0..20 {
        let mut raw = Raw::new(bench.path());
        let program = File::open(&large).unwrap();
        raw.ask(&hello(), &[program.as_fd()]).unwrap();
        raw.say(&launch_of(fresh_id()), &many).unwrap();
        assert!(raw.hear().is_some());
    }
    // Sockets whose close waits for 20 seconds.
    let (keep, ours) = tree(&bench.world, &["linger"]);
    let lingering = bailey::sys::socket::receive(ours.as_fd(), &mut [0; 16]).unwrap().fds;
    let mut raw = bench.raw();
    raw.say(&ps(), &[lingering[0].as_fd()]).unwrap();
    drop(lingering);
    let start = Instant::now();
    assert!(matches!(bench.raw().ask(&ps(), &[]), Some(Message::Rows(_))));
    assert!(start.elapsed() < bench.soon(3), "the loop waits: {:?}", start.elapsed());
    drop((raw, ours, keep));
    bench.innocent();
    bench.recorder.assert_chain(&bench.world);
}

#[test]
fn a_file_that_hangs_holds_up_nobody() {
    let device =
        std::env::var_os("BAILEY_TEST_FUSE").map_or_else(|| PathBuf::from("/dev/fuse"), PathBuf::from);
    if let Err(error) = File::options().read(true).write(true).open(&device) {
        return skip(
            "a_file_that_hangs_holds_up_nobody",
            &format!("no FUSE device for this user: {}: {error}", device.display()),
        );
    }
    let bench = Bench::new(&[]);
    let (server, ours) = tree(&bench.world, &["hang", bench.path().to_str().unwrap()]);
    let done = bailey::sys::socket::receive(ours.as_fd(), &mut [0; 16]).unwrap();
    assert_eq!(done.length, 1, "it handed everything over");
    // The loop goes on, also for the same account.
    let start = Instant::now();
    assert!(matches!(bench.raw().ask(&ps(), &[]), Some(Message::Rows(_))));
    assert!(start.elapsed() < bench.soon(2), "{:?}", start.elapsed());
    bench.innocent();
    assert_eq!(bench.recorder.records_of("payload-launch").len(), 2);
    // When the file system goes, all of it is closed.
    drop(server);
    bench.unharmed();
}

#[test]
fn without_descriptors_it_serves_on() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[]);
    recorder.adopt(behind("bash", &["-c", "ulimit -n 64; exec \"$@\"", "bash"], &recorder.command()));
    let bench = Bench::of(world, recorder);
    // What it has from whoever runs the tests was opened before the limit was set, and may have any number.
    let beyond = || {
        let open = fs::read_dir(format!("/proc/{}/fd", bench.recorder.pid())).unwrap();
        let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut beyond: Vec<u32> = numbers.filter(|number| *number >= 64).collect();
        beyond.sort_unstable();
        beyond
    };
    let inherited = beyond();
    let tree = Tree::new(&bench.world, 3);
    let live: Vec<_> = (0..3).map(|number| bench.launched(&tree, number)).collect();
    // As many as one account may have, and more.
    let mut all: Vec<Raw> = (0..60).map(|_| Raw::new(bench.path())).collect();
    std::thread::sleep(Duration::from_millis(300));
    let refused = all.iter_mut().filter_map(|raw| {
        raw.say(&hello(), &[]).ok();
        match raw.hear()?.message {
            Message::Refused(refused) => Some(refused.why),
            _ => None,
        }
    });
    let refused: Vec<String> = refused.collect();
    assert!(refused.len() >= 40, "{} were refused", refused.len());
    assert!(
        refused
            .iter()
            .all(|why| why.contains("connections that carry no payload") || why.contains("no descriptors")),
        "{refused:?}"
    );
    // Many descriptors in one message do not fit: they are dropped by the kernel.
    let null = null();
    let _ = all[0].say(&ps(), &vec![null.as_fd(); 253]);
    let _ = all[0].hear();
    assert_eq!(beyond(), inherited, "none is beyond the limit");
    // Ends are written.
    for (number, (mut raw, id)) in live.into_iter().enumerate() {
        tree.kill(number);
        assert!(matches!(raw.ask(&end_of(id), &[]), Some(Message::Done(_))));
    }
    drop(all);
    bench.unharmed();
}

// ---- who may what ----

#[test]
fn a_payload_that_reaches_the_socket_is_refused() {
    let bench = Bench::new(&[]);
    let run = bench.path().parent().unwrap().to_str().unwrap().to_owned();
    // A client of the payload's own: python is in the image or perl is.
    let script = format!(
        r#"use Socket; socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die "socket: $!";
        connect($s, sockaddr_un("{run}/recorder.sock")) or die "connect: $!";
        my $body = '{{"oldest":1,"newest":1,"program":"payload"}}';
        syswrite($s, "BLY1" . pack("vvVV", 1, 1, length $body, 5) . $body); sysread($s, my $answer, 65536); print substr($answer, 16);"#
    );
    let mut command = bench.recorder.exec(&bench.world, &["--image"]);
    command.arg(image()).args(["--bind", &format!("{run}:{run}:rw"), "--", "/usr/bin/perl", "-e", &script]);
    let output = command.output().unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("refused a connection from inside a payload"), "{said}{}", text(&output.stderr));
    let deny = bench.recorder.wait_records("payload-deny", 1).remove(0);
    let launch = bench.recorder.records_of("payload-launch").pop().unwrap();
    assert_eq!(deny["grid"]["parent_launch"], launch["event"]["id"]);
    assert!(deny["event"]["id"].is_null(), "it closes nothing: {deny}");
    bench.unharmed();
}

// Another account's stop, drain and question: tests/recorder_uids.rs, which needs three accounts.

#[test]
fn a_stopped_launcher_is_waited_for() {
    let bench = Bench::new(&[]);
    let work = bench.world.directory("work");
    let mut command = bench.recorder.exec(&bench.world, &["--user", "/CN=Ada", "--workdir"]);
    command.arg(&work).args([
        "--",
        "/bin/sh",
        "-c",
        "touch began; while [ ! -e stop ]; do sleep 0.05; done; exit 5",
    ]);
    let mut launcher = Guard(command.spawn().unwrap());
    wait_for("the payload's begin", || work.join("began").exists());
    let pid = launcher.0.id() as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    fs::write(work.join("stop"), "").unwrap();
    bench.innocent();
    wait_for("the payload's end", || bench.recorder.live().iter().all(|row| row.state == "ended"));
    std::thread::sleep(Duration::from_secs(3));
    let of_ada = |records: Vec<Value>| {
        records.into_iter().filter(|r| r["user"]["id"] == "/CN=Ada").collect::<Vec<_>>()
    };
    assert!(of_ada(bench.recorder.records_of("payload-end")).is_empty(), "its launcher may still tell");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(launcher.0.wait().unwrap().code(), Some(5));
    let end = of_ada(bench.recorder.records_of("payload-end")).remove(0);
    assert_eq!((&end["grid"]["end"]["by"], &end["process"]["exit_code"]), (&"payload".into(), &5.into()));
    bench.unharmed();
}

// ---- faults ----

#[test]
fn two_recorders_do_not_share() {
    let bench = Bench::new(&[]);
    let run = |dir: &str, change: &dyn Fn(&str) -> String| {
        let config = bench.world.file(dir, &change(&fs::read_to_string(&bench.recorder.config).unwrap()));
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        let output = bench
            .recorder
            .command()
            .env("BAILEY_CONFIG", config)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    // One socket; one directory.
    let said = run("a.toml", &|config| config.replace("/recorder/log\"", "/recorder/log2\""));
    assert!(said.contains("another recorder answers there"), "{said}");
    let said = run("b.toml", &|config| config.replace("/run/recorder.sock", "/run/other.sock"));
    assert!(said.contains(&format!("process {} writes it", bench.recorder.pid())), "{said}");
    // A socket path that is something else, or cannot be one.
    let file = bench.world.file("recorder/run/file", "precious");
    let said = run("c.toml", &|config| config.replace("/run/recorder.sock", "/run/file"));
    assert!(said.contains("no socket of ours"), "{said}");
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    bench.world.directory("recorder/run/dir");
    assert!(
        run("d.toml", &|config| config.replace("/run/recorder.sock", "/run/dir")).contains("cannot listen")
    );
    let long = format!("/run/{}", "l".repeat(120));
    assert!(run("e.toml", &|config| config.replace("/run/recorder.sock", &long)).contains("cannot listen"));
    bench.unharmed();
}

#[test]
fn a_log_that_is_removed_is_said() {
    let bench = Bench::new(&[]);
    let tree = Tree::new(&bench.world, 1);
    let (mut raw, id) = bench.launched(&tree, 0);
    let away = bench.world.path("away");
    fs::rename(&bench.recorder.log, &away).unwrap();
    let output = bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 122, &["cannot use the audit log", "ENOENT", "put the directory back"]);
    tree.kill(0);
    let said = raw.refused(&end_of(id), &[]);
    assert!(said.contains("cannot use the audit log"), "{said}");
    // Another one in its place is not the log.
    fs::create_dir(&bench.recorder.log).unwrap();
    let output = bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 122, &["another directory has its place"]);
    // Back again: the end that waits is written.
    fs::remove_dir(&bench.recorder.log).unwrap();
    fs::rename(&away, &bench.recorder.log).unwrap();
    let ends = bench.recorder.wait_records("payload-end", 2);
    assert_eq!(ends[1]["event"]["id"], id.as_str());
    drop((raw, tree));
    bench.unharmed();
    assert!(bench.recorder.stderr().lines().count() < 10, "{}", bench.recorder.stderr());
}

#[test]
fn a_full_disk_refuses_launches_and_records_ends() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[("recorder", "reserve = \"1M\"")]);
    let log = recorder.log.clone();
    let script = format!("mount -t tmpfs -o size=4m,mode=700 none '{}'; exec $back \"$@\"", log.display());
    recorder.adopt({
        let mut command = mounted("private", &script, &recorder.command());
        command
            .stdout(std::process::Stdio::null())
            .stderr(fs::OpenOptions::new().append(true).open(&recorder.said).unwrap());
        command
    });
    recorder.log = PathBuf::from(format!("/proc/{}/root{}", recorder.pid(), log.display()));
    let mut bench = Bench { world, recorder, descriptors: usize::MAX, calm: Duration::ZERO };
    bench.calm = bench.innocent();
    let tree = Tree::new(&bench.world, 2);
    let (mut first, first_id) = bench.launched(&tree, 0);
    let (mut second, second_id) = bench.launched(&tree, 1);
    // Full.
    let filler = bench.recorder.log.join("filler");
    let _ = fs::write(&filler, vec![7; 8 << 20]);
    let output = bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 122, &["no room for its records", "bytes are free", "free space"]);
    tree.kill(0);
    assert!(matches!(first.ask(&end_of(first_id), &[]), Some(Message::Done(_))), "the end is recorded");
    assert!(
        bench.recorder.records_of("payload-end").iter().any(|end| end["event"]["id"] == first_id.as_str())
    );
    // A launcher's own notes do not take what is kept for ends.
    let reserve = || fs::metadata(bench.recorder.log.join("reserve")).unwrap().len();
    let before = reserve();
    for _ in 0..50 {
        let id = fresh_id();
        let mut record = Record::new(Action::LaunchFailed, id);
        record.user.name = Some("n".repeat(30_000));
        drop(words(bench.raw().ask(&note(id, record), &[])));
    }
    assert!(reserve() + (64 << 10) >= before, "{before} bytes were kept, {} are", reserve());
    // Room again.
    fs::remove_file(&filler).unwrap();
    let start = Instant::now();
    while !bench.recorder.exec(&bench.world, &["--", "/bin/true"]).output().unwrap().status.success() {
        assert!(start.elapsed() < support::patience(Duration::from_secs(20)), "it does not recover");
        std::thread::sleep(Duration::from_millis(200));
    }
    tree.kill(1);
    assert!(matches!(second.ask(&end_of(second_id), &[]), Some(Message::Done(_))));
    // (A file system cannot be made read-only while somebody writes; what the kernel does to a broken one is tried in
    // tests/recorder_log_faults.rs.)
    drop((first, second, tree));
    bench.innocent();
    bench.recorder.assert_chain(&bench.world);
}
