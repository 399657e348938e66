//! The recorder decides for itself: launchers that break the site's policy, that read other files than it did, or that are
//! many at once.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use bailey::audit::record::{Action, Assurance, Record};
use bailey::audit::wire::Message;
use std::fs::{self, Permissions};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::policy::{Node, entry};
use support::raw::{Raw, Tree, fresh_id, launch_with, words};
use support::recorder::Recorder;
use support::{World, assert_refused, code, text, wait_for};

const JANE: &str = "/DC=org/DC=example/CN=Jane Doe";

/// What becomes of one launch of a launcher that sends what it likes: `Ok` with a receipt, else the words of the refusal.
fn asked(
    recorder: &Recorder,
    fds: &[BorrowedFd<'_>],
    change: impl FnOnce(&mut Record),
) -> Result<Raw, String> {
    let (mut raw, id) = (Raw::greeted(&recorder.socket), fresh_id());
    let mut record = Record::new(Action::PayloadLaunch, id);
    record.user.id = Some(JANE.to_owned());
    record.grid.identity.assurance = Some(Assurance::Declared);
    change(&mut record);
    match raw.ask(&launch_with(id, record), fds) {
        Some(Message::Receipt(receipt)) if receipt.id == id.as_str() => Ok(raw),
        answer => Err(words(answer)),
    }
}

/// Replaces the node's configuration by rename, as an administrator's tools do.
fn rewrite(node: &Node, change: impl FnOnce(String) -> String) {
    let text = change(fs::read_to_string(&node.config).unwrap());
    let aside = node.config.with_extension("aside");
    fs::write(&aside, text).unwrap();
    fs::set_permissions(&aside, Permissions::from_mode(0o644)).unwrap();
    fs::rename(&aside, &node.config).unwrap();
}

/// A copy of the configuration as it is now, for launchers that read it late.
fn old_copy(node: &Node) -> PathBuf {
    let path = node.world.path("as-it-was.toml");
    fs::copy(&node.config, &path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    path
}

/// Each `config-change` with its reason.
fn changes(node: &Node) -> Vec<String> {
    let records = node.records_of("config-change");
    records.iter().map(|record| record["event"]["reason"].as_str().unwrap().to_owned()).collect()
}

fn metric(node: &Node, name: &str) -> String {
    let text = fs::read_to_string(node.recorder().state.join("metrics.prom")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or("none");
    line.to_owned()
}

/// What a launcher says.
type Claim<'a> = &'a dyn Fn(&mut Record);

#[test]
fn an_obligation_that_a_launcher_does_not_keep() {
    let world = World::new();
    let data = world.directory("data");
    let tables = format!(
        r#"
[[rule]]
id = "no-network"
vo = ["network"]
network = "none"
[[rule]]
id = "strict"
vo = ["profile"]
profile = "strict"
[[rule]]
id = "read-only"
vo = ["bind"]
binds = {{ readonly = ["{}"] }}
[[rule]]
id = "short"
vo = ["wall"]
wall_time = "1h"
[[rule]]
id = "small"
vo = ["scratch"]
scratch_size = "2MiB"
[[rule]]
id = "little"
vo = ["memory", "cpus", "pids"]
memory = "1G"
cpus = "0.5"
pids = "16"
"#,
        data.display()
    );
    let node = Node::recorded(&[("", &tables)]);
    let tree = Tree::new(&node.world, 26);
    let bind = |record: &mut Record, mode: &str| {
        let mut mount = bailey::audit::record::Mount::default();
        (mount.source, mount.target) = (Some(data.display().to_string()), Some("/data".to_owned()));
        mount.mode = Some(mode.to_owned());
        record.grid.mounts.push(mount);
    };
    let network = |record: &mut Record| {
        record.grid.sandbox.insert("network_namespace".to_owned(), "on".to_owned());
    };
    // The VO; what the launcher says it did; in what words it is refused.
    let limits = |record: &mut Record, memory, cpus, pids| {
        let limits = &mut record.grid.limits;
        (limits.memory, limits.cpus_milli, limits.pids) = (memory, cpus, pids);
    };
    let broken: [(&str, Claim<'_>, &str); 14] = [
        ("network", &|_| (), "it has the host's network, and may have none"),
        // The processes of this test have the host's network, whatever the launcher says.
        ("network", &network, "it has the host's network, and may have none"),
        ("profile", &|_| (), "its walls are of the profile default, not strict"),
        ("bind", &|record| bind(record, "rw"), "is writable, and may only be read"),
        ("wall", &|_| (), "its wall time is longer than 3600 s"),
        ("wall", &|record| record.grid.limits.wall_time = Some(3601), "a wall time of 3601 s is not granted"),
        ("scratch", &|_| (), "its scratch is larger than 2097152 bytes"),
        ("scratch", &|record| record.grid.limits.scratch = Some(4 << 20), "scratch of 4194304 bytes"),
        ("memory", &|_| (), "it may use more memory than 1 GiB"),
        (
            "memory",
            &|record| limits(record, Some(2 << 30), Some(500), Some(16)),
            "a memory limit of 2 GiB is not granted",
        ),
        ("cpus", &|record| limits(record, Some(1 << 30), None, Some(16)), "it may use more than 0.5 cores"),
        (
            "cpus",
            &|record| limits(record, Some(1 << 30), Some(501), None),
            "a limit of 0.501 cores is not granted",
        ),
        (
            "pids",
            &|record| limits(record, Some(1 << 30), Some(500), None),
            "more than 16 processes and threads",
        ),
        (
            "pids",
            &|record| limits(record, Some(1 << 30), Some(500), Some(17)),
            "a limit of 17 processes and threads is not",
        ),
    ];
    let ask = |number: usize, vo: &str, claim: Claim<'_>| {
        asked(node.recorder(), &tree.fds(number), |record| {
            record.grid.vo = Some(vo.to_owned());
            claim(record);
        })
    };
    let mut live = Vec::new();
    for (number, (vo, claim, expected)) in (1..).zip(&broken) {
        let said = ask(0, vo, *claim).map(drop).unwrap_err();
        assert!(said.contains(expected) && said.starts_with("120"), "{vo}: {said}");
        // Of a VO that no rule holds to anything the same claim is good.
        live.push(ask(number, "free", *claim).unwrap());
    }
    let kept: [(&str, Claim<'_>); 6] = [
        ("profile", &|record| record.grid.policy.profile = Some("strict".to_owned())),
        ("bind", &|record| bind(record, "ro")),
        ("wall", &|record| record.grid.limits.wall_time = Some(3600)),
        ("scratch", &|record| record.grid.limits.scratch = Some(2 << 20)),
        ("memory", &|record| limits(record, Some(1 << 30), Some(500), Some(16))),
        ("memory", &|record| limits(record, Some(4 << 20), Some(1), Some(1))),
    ];
    for (number, (vo, claim)) in (15..).zip(kept) {
        live.push(ask(number, vo, claim).unwrap());
    }
    // The launcher as it is keeps all of them.
    for vo in ["network", "profile", "bind", "wall", "scratch", "memory"] {
        let bind = format!("{0}:{0}:rw", data.display());
        let output = node.run(&["--user", JANE, "--vo", vo, "--bind", &bind], &["/bin/true"]);
        assert_eq!(code(&output), 0, "{vo}: {}", text(&output.stderr));
    }
    let denied = node.records_of("payload-deny").pop().unwrap();
    assert_eq!(denied["grid"]["peer"]["uid"], u64::from(nix::unistd::geteuid().as_raw()), "{denied}");
}

#[test]
fn a_launcher_with_another_configuration() {
    for (setting, refused) in [("refuse", true), ("record", false)] {
        let node = Node::recorded(&[("recorder", &format!("foreign_config = \"{setting}\""))]);
        let launch = |config: &PathBuf| {
            let mut exec = node.world.exec(&["--user", JANE, "--", "/bin/true"]);
            exec.env("BAILEY_CONFIG", config).output().unwrap()
        };
        assert_eq!(code(&launch(&node.config)), 0);
        let other = old_copy(&node);
        fs::write(&other, fs::read_to_string(&other).unwrap() + "\n[limits]\ngrace = \"3s\"\n").unwrap();
        let output = launch(&other);
        let tree = Tree::new(&node.world, 2);
        let hash = |record: &mut Record| record.grid.policy.config_hash = Some("0".repeat(64));
        let raw = [asked(node.recorder(), &tree.fds(0), hash), asked(node.recorder(), &tree.fds(1), |_| ())];
        if refused {
            let words = "its launcher has another configuration than this node's recorder";
            assert_refused(&output, 120, &[words, "recorder.foreign_config"]);
            for said in raw {
                assert!(said.map(drop).unwrap_err().contains(words), "no hash, or a wrong one");
            }
            assert_eq!(node.records_of("payload-launch").len(), 1);
        } else {
            assert_eq!(code(&output), 0, "{}", text(&output.stderr));
            assert!(raw.iter().all(Result::is_ok));
            let launches = node.records_of("payload-launch");
            let of_recorder = &node.records_of("recorder-start")[0]["grid"]["recorder"]["config_hash"];
            let of = |number: usize| &launches[number]["grid"]["policy"]["config_hash"];
            assert_eq!(of(0), of_recorder);
            assert!(of(1).is_string() && of(1) != of_recorder, "the record says which it was");
        }
    }
}

/// Bans of nobody here: reading them takes the recorder a while.
fn many_bans() -> String {
    let lines: Vec<String> =
        (0..2_000).map(|number| format!("/DC=org/DC=example/OU=nobody/CN=Nobody {number}")).collect();
    lines.join("\n")
}

#[test]
fn a_configuration_that_changes_while_launches_are_under_way() {
    let node = Node::recorded(&[("recorder", "foreign_config = \"refuse\""), ("bans", "settle = \"0s\"")]);
    node.ban("nobody.dn", &many_bans());
    wait_for("the list", || !node.records_of("ban-change").is_empty());
    let tree = Tree::new(&node.world, 3);
    let old = old_copy(&node);
    let launch = |config: &PathBuf, vo: &str| {
        let mut exec = node.world.exec(&["--user", JANE, "--vo", vo, "--", "/bin/true"]);
        exec.env("BAILEY_CONFIG", config).output().unwrap()
    };
    assert_eq!(code(&launch(&node.config, "cms")), 0);
    let mut hashes = Vec::new();
    for (turn, vo) in [(0, "cms"), (1, "lhcb")] {
        // The launcher has the new file, and the recorder is still reading it.
        let rule = format!("\n[[rule]]\nid = \"no-{vo}\"\nvo = [\"{vo}\"]\ndecision = \"deny\"\n");
        let new = fs::read_to_string(&node.config).unwrap() + &rule;
        let hash = hash_of(&node, &new);
        rewrite(&node, |_| new);
        let begin = Instant::now();
        let claim = |vo: &str| {
            let (vo, hash) = (vo.to_owned(), hash.clone());
            move |record: &mut Record| {
                (record.grid.vo, record.grid.policy.config_hash) = (Some(vo), Some(hash));
            }
        };
        let said = asked(node.recorder(), &tree.fds(2), claim(vo)).map(drop).unwrap_err();
        assert!(said.contains(&format!("no-{vo}")), "the rules of the new file hold: {said}");
        let took = begin.elapsed();
        asked(node.recorder(), &tree.fds(turn), claim("atlas")).unwrap();
        println!("the recorder knew the new file after {took:?}");
        hashes.push(hash);
        // The launcher read the old one a moment ago.
        let output = launch(&old, "atlas");
        assert_eq!(code(&output), 0, "no launch is lost: {}", text(&output.stderr));
        let output = launch(&old, vo);
        assert_refused(&output, 120, &[&format!("no-{vo}")]);
        assert_eq!(code(&launch(&node.config, "atlas")), 0);
    }
    let changed = node.records_of("config-change");
    let recorded: Vec<&str> =
        changed.iter().map(|record| record["grid"]["policy"]["config_hash"].as_str().unwrap()).collect();
    assert_eq!(recorded, hashes);
}

/// The hash of a configuration, as a launcher tells it.
fn hash_of(node: &Node, configuration: &str) -> String {
    let config = node.world.file("hash/bailey.toml", configuration);
    fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
    let place = bailey::config::Place { main: config, main_must_exist: true, conf_d: None };
    bailey::config::load(&place).unwrap().hash
}

#[test]
fn a_configuration_that_cannot_be_read() {
    let person = "[[person]]\nid = \"jane\"\nnames = [\"/DC=org/DC=example/CN=Jane Doe\", \"https://iam.example.org/ 5b1d\"]";
    let script = "echo ready; exec sleep 60";
    Node::each(&[("bans", "settle = \"0s\"\npoll = \"200ms\""), ("", person)], |node| {
        let good = fs::read_to_string(&node.config).unwrap();
        let (mut jane, mut eve) = (node.start(JANE, &[], script), node.start("/CN=Eve", &[], script));
        rewrite(node, |text| text + "\n[bans]\ndri = \"/nowhere\"\n");
        let refused = node.run(&["--user", "/CN=Other"], &["/bin/true"]);
        assert_refused(&refused, 125, &["cannot set it up", "bailey.toml"]);
        if node.recorder.is_some() {
            wait_for("the record", || changes(node).len() == 1);
            assert!(changes(node)[0].starts_with("the configuration cannot be used, the one before holds"));
            assert!(node.recorder().stderr().contains("bailey.toml"), "{}", node.recorder().stderr());
            wait_for("the metric", || metric(node, "bailey_config_broken") == "1");
            let listed = node.recorder().admin(&node.world, &["ps"]);
            assert!(text(&listed.stderr).contains("bailey.toml"), "{}", text(&listed.stderr));
            // What knows the last good one is still served.
            let tree = Tree::new(&node.world, 2);
            asked(node.recorder(), &tree.fds(0), |record| record.user.id = Some("/CN=Other".into())).unwrap();
        }
        std::thread::sleep(Duration::from_secs(1));
        assert!(jane.lives() && eve.lives(), "it stops nothing that runs");
        // Banned by another of her names, which only the configuration ties to this one.
        let begin = Instant::now();
        node.ban("site.toml", &entry("user", "https://iam.example.org/ 5b1d", ""));
        assert_eq!(jane.end(), 123);
        assert!(begin.elapsed() < support::patience(Duration::from_secs(3)), "{:?}", begin.elapsed());
        assert!(jane.said().contains("it mines coins"), "{}", jane.said());
        assert!(eve.lives(), "nobody else is stopped");
        if node.recorder.is_some() {
            let tree = Tree::new(&node.world, 1);
            let said = asked(node.recorder(), &tree.fds(0), |_| ()).map(drop).unwrap_err();
            assert!(said.contains("this site has suspended"), "{said}");
        }
        rewrite(node, |_| good);
        wait_for("a launch", || node.launch(&["--user", "/CN=Other"]) == 0);
        assert_eq!(node.launch(&["--user", JANE]), 120);
        if node.recorder.is_some() {
            wait_for("the metric", || metric(node, "bailey_config_broken") == "0");
            assert_eq!(changes(node)[1], "the configuration can be used again, and is the one before");
        }
        // A ban is told by the file as it is now, also behind one that was broken.
        node.ban("site.toml", &entry("user", "/CN=Eve", ""));
        assert_eq!(eve.end(), 123);
    });
}

#[test]
fn banned_by_the_recorders_lists_alone() {
    let node = Node::recorded(&[("bans", "settle = \"0s\"")]);
    let empty = node.world.directory("no-bans.d");
    let config = old_copy(&node);
    let theirs = fs::read_to_string(&config).unwrap();
    let theirs = theirs.replace(node.bans.to_str().unwrap(), empty.to_str().unwrap());
    fs::write(&config, theirs).unwrap();
    let launch = |user: &str| {
        let mut exec = node.world.exec(&["--user", user, "--", "/bin/true"]);
        exec.env("BAILEY_CONFIG", &config).output().unwrap()
    };
    assert_eq!(code(&launch(JANE)), 0);
    node.ban("site.toml", &entry("user", JANE, ""));
    wait_for("the change", || !node.records_of("ban-change").is_empty());
    assert_refused(&launch(JANE), 120, &["this site has suspended", "it mines coins"]);
    assert_eq!(code(&launch("/CN=Eve")), 0);
    let denied = node.records_of("payload-deny").pop().unwrap();
    assert_eq!(denied["grid"]["policy"]["ban"]["entry"], "site.toml:1", "{denied}");
}

#[test]
fn as_many_as_the_limit_of_those_that_come_at_once() {
    const MOST: usize = 5;
    for limit in ["parallel_person", "parallel_vo", "parallel_uid"] {
        let node = Node::recorded(&[("policy", &format!("{limit} = {MOST}"))]);
        let tree = Tree::new(&node.world, 16);
        let mut raws: Vec<Raw> = (0..16).map(|_| Raw::greeted(&node.recorder().socket)).collect();
        node.recorder().while_stopped(|| {
            for (number, raw) in raws.iter_mut().enumerate() {
                let id = fresh_id();
                let mut record = Record::new(Action::PayloadLaunch, id);
                let user =
                    if limit == "parallel_person" { JANE.to_owned() } else { format!("/CN=User {number}") };
                (record.user.id, record.grid.vo) = (Some(user), Some("cms".to_owned()));
                raw.say(&launch_with(id, record), &tree.fds(number)).unwrap();
            }
        });
        let answers: Vec<Message> = raws.iter().map(|raw| raw.hear().unwrap().message).collect();
        let (taken, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| matches!(answer, Message::Receipt(_)));
        assert_eq!(taken.len(), MOST, "{limit}: {refused:?}");
        for answer in refused {
            let said = words(Some(answer));
            assert!(said.starts_with("121") && said.contains("has 5 payloads on this node"), "{said}");
        }
        assert_eq!(node.records_of("payload-launch").len(), MOST);
    }
}
