//! Policy among several accounts: limits that count all of a node's pilots, what only administrators may say to the recorder,
//! and an account that gets in the way of another one's copy. Root starts this program.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use bailey::audit::wire::{BanTold, Identity, Message};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use support::accounts::{Account, Node};
use support::raw::{Raw, fresh_id};
use support::{BAILEY, assert_refused, code, stdout, text, wait_for};

/// What the test is when it calls itself as another account.
const SOCKET: &str = "POLICY_UIDS_SOCKET";

#[test]
fn a_limit_counts_the_payloads_of_all_accounts() {
    const TEST: &str = "a_limit_counts_the_payloads_of_all_accounts";
    for (limit, whose) in
        [("parallel_person", "one has 1 payloads"), ("parallel_vo", "the VO cms has 1 payloads")]
    {
        let Some(node) = Node::with(TEST, &[("policy", &format!("{limit} = 1"))]) else { return };
        let [a, b] = node.pilots.clone();
        let launch = |pilot: &Account, user: &str, vo: &str| {
            node.bailey(pilot, &[], &["exec", "--user", user, "--vo", vo, "--", "/bin/true"])
        };
        assert_eq!(code(&launch(&b, "one", "cms")), 0);
        let mut first = node.payload_of(&a, "one", &["--vo", "cms"]);
        let user = if limit == "parallel_vo" { "two" } else { "one" };
        assert_refused(&launch(&b, user, "cms"), 121, &[whose]);
        assert_eq!(code(&launch(&b, "three", "atlas")), 0, "only those are counted");
        first.signal(libc::SIGKILL);
        first.child.0.wait().unwrap();
        wait_for("the place", || code(&launch(&b, user, "cms")) == 0);
    }
    // One uid's are not counted for the other.
    let Some(node) = Node::with(TEST, &[("policy", "parallel_uid = 1")]) else { return };
    let [a, b] = node.pilots.clone();
    let _first = node.payload_of(&a, "one", &[]);
    let launch = |pilot: &Account| node.bailey(pilot, &[], &["exec", "--user", "one", "--", "/bin/true"]);
    assert_refused(&launch(&a), 121, &[&format!("uid {} has 1 payloads", a.uid)]);
    assert_eq!(code(&launch(&b)), 0);
}

#[test]
fn only_administrators_tell_of_bans_and_names() {
    const TEST: &str = "only_administrators_tell_of_bans_and_names";
    if let Some(socket) = std::env::var_os(SOCKET) {
        return tell(Path::new(&socket));
    }
    let Some(node) = Node::new(TEST) else { return };
    let this = std::env::current_exe().unwrap();
    let as_account = |account: &Account| -> Vec<String> {
        let mut command = node.become_account(account, &[], &this);
        command.args(["--exact", TEST, "--nocapture"]).env(SOCKET, &node.recorder().socket);
        let said = stdout(&command.output().unwrap());
        said.lines().filter_map(|line| line.strip_prefix("said: ").map(ToOwned::to_owned)).collect()
    };
    // The recorder's own account may.
    assert_eq!(as_account(&node.owner), ["Rows", "Done"]);
    assert_eq!(node.recorder().wait_records("payload-identity", 1).len(), 1);
    let said = as_account(&node.pilots[0]);
    assert!(said[0].contains("neither root nor the recorder's account"), "{said:?}");
    assert!(said[1].contains("may not read the log"), "{said:?}");
    assert_eq!(node.recorder().records_of("payload-identity").len(), 1, "and nothing is recorded");
}

/// Says both, as whoever this process is.
fn tell(socket: &Path) {
    let told = BanTold { list: "site.toml".to_owned(), digest: "0".repeat(64), bans: None };
    let id = fresh_id().to_string();
    let learned = Identity { id, user: "/CN=Somebody Else".to_owned(), issuer: None, groups: Vec::new() };
    for message in [Message::BanTold(told), Message::Identity(learned)] {
        match Raw::greeted(socket).ask(&message, &[]).unwrap() {
            Message::Refused(refused) => println!("said: {}: {}", refused.what, refused.why),
            Message::Rows(_) => println!("said: Rows"),
            Message::Done(_) => println!("said: Done"),
            other => panic!("{other:?}"),
        }
    }
}

/// An account that no other test uses.
struct Fresh(Account);

impl Fresh {
    fn copy(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/bailey-{}", self.0.uid))
    }

    fn remove(&self) {
        fs::remove_dir_all(self.copy()).or_else(|_| fs::remove_file(self.copy())).ok();
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn an_account_that_takes_the_place_of_anothers_copy() {
    const TEST: &str = "an_account_that_takes_the_place_of_anothers_copy";
    let Some(node) = Node::new(TEST) else { return };
    let victim = Fresh(Account { uid: 64_400, gid: 64_400 });
    let home = node.home(&victim.0);
    let bans = node.dir.join("bans.d");
    for dir in [&home, &bans] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(&home, Some(victim.0.uid), Some(victim.0.gid)).unwrap();
    let list = bans.join("site.dn");
    // No recorder: only the launcher itself can say no.
    let config = node.dir.join("embedded.toml");
    let text_of = format!(
        "[audit]\nsocket = \"{}\"\n[bans]\ndir = \"{}\"\nsettle = \"0s\"\n",
        node.dir.join("none.sock").display(),
        bans.display()
    );
    fs::write(&config, text_of).unwrap();
    let launch = |user: &str| {
        let mut command = node.become_account(&victim.0, &[], BAILEY);
        command
            .env("BAILEY_CONFIG", &config)
            .args(["exec", "--user", user, "--", "/bin/true"])
            .output()
            .unwrap()
    };
    let of_squatter = |program: &str, args: &[&str]| {
        let done = node.become_account(&node.pilots[0], &[], program).args(args).status().unwrap();
        assert!(done.success(), "{program} {args:?}");
    };
    let copy = victim.copy();
    let place = copy.to_str().unwrap();
    victim.remove();
    // By itself it makes the directory, and the copy in it.
    fs::write(&list, "/CN=Banned\n").unwrap();
    assert_eq!(code(&launch("/CN=Free")), 0);
    assert_eq!(fs::metadata(&copy).unwrap().uid(), victim.0.uid);
    assert!(fs::read_dir(&copy).unwrap().count() > 0);
    for way in [&["mkdir", "-m", "0777"][..], &["ln", "-s", "/tmp"], &["touch"], &["mkfifo", "-m", "0666"]] {
        victim.remove();
        of_squatter(way[0], &[&way[1..], &[place]].concat());
        fs::write(&list, "/CN=Banned\n").unwrap();
        assert_refused(&launch("/CN=Banned"), 120, &["this site has suspended"]);
        let free = launch("/CN=Free");
        assert_eq!(code(&free), 0, "{way:?}: {}", text(&free.stderr));
        // A ban that is taken back, and another: no old version holds, and none is lost.
        fs::write(&list, "/CN=Free\n").unwrap();
        assert_refused(&launch("/CN=Free"), 120, &["this site has suspended"]);
        assert_eq!(code(&launch("/CN=Banned")), 0);
        // A list in trouble: there is no last good version, and nothing new runs.
        fs::write(&list, "no name at all\n").unwrap();
        assert_refused(&launch("/CN=Other"), 120, &["site.dn"]);
        let owner = fs::symlink_metadata(&copy).unwrap();
        assert_eq!(owner.uid(), node.pilots[0].uid, "it is still the other's");
        if owner.is_dir() {
            assert_eq!(fs::read_dir(&copy).unwrap().count(), 0, "nothing was put into it");
        }
    }
}

/// A check answers for the account that asks.
#[test]
fn a_check_is_of_the_account_that_asks() {
    const TEST: &str = "a_check_is_of_the_account_that_asks";
    let Some(node) = Node::with(TEST, &[("recorder", "live_per_uid = \"1\"")]) else { return };
    let [a, b] = node.pilots.clone();
    let health = |pilot: &Account| {
        let output = node.bailey(pilot, &[], &["check", "--health"]);
        (code(&output), text(&output.stdout))
    };
    let rows = |pilot: &Account| {
        let output = node.bailey(pilot, &[], &["check", "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |row: &serde_json::Value| (row["mechanism"].as_str().unwrap().to_owned(), row.clone());
        said["checks"].as_array().unwrap().iter().map(of).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(health(&a).0 < 2 && health(&b).0 < 2, "{:?} {:?}", health(&a), health(&b));
    let mut first = node.payload_of(&a, "one", &[]);
    let (at_its_limit, other) = (health(&a), health(&b));
    assert_eq!(at_its_limit.0, 2, "{at_its_limit:?}");
    assert!(at_its_limit.1.contains(&format!("uid {}", a.uid)), "{at_its_limit:?}");
    assert!(other.0 < 2, "{other:?}");
    let (of_a, of_b) = (rows(&a), rows(&b));
    assert_eq!(of_b["receipt"]["state"], "on", "{}", of_b["receipt"]);
    assert_ne!(of_a["receipt"]["state"], "on", "{}", of_a["receipt"]);
    first.signal(libc::SIGKILL);
    first.child.0.wait().unwrap();
    wait_for("the place", || health(&a).0 < 2);
}
