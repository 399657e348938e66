//! Bans at a launch: real lists in every format, real launches, and everything that can be wrong with a list or with the copy
//! that makes launches cheap.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::policy::{Node, entry};
use support::{Racing, assert_refused, code, status, text, wait_for};

const JANE: &str = "/DC=org/DC=example/CN=Jane Doe";
const EVE: &str = "/DC=org/DC=example/CN=Eve";
const SETTLED: (&str, &str) = ("bans", "settle = \"0s\"");
const PERSON: (&str, &str) = (
    "",
    "[[person]]\nid = \"jane\"\nnames = [\"/DC=org/DC=example/CN=Jane Doe\", \"https://iam.example.org/ 5b1d\"]",
);

/// The directory with this account's copies.
fn copies() -> PathBuf {
    let uid = nix::unistd::geteuid();
    let made = PathBuf::from(format!("/var/lib/bailey/embedded/{uid}"));
    if made.exists() { made } else { PathBuf::from(format!("/tmp/bailey-{uid}")) }
}

/// The copy of this node's policy.
fn copy(node: &Node) -> PathBuf {
    use sha2::{Digest as _, Sha256};
    let name = bailey::audit::chain::hex(&Sha256::digest(node.config.as_os_str().as_encoded_bytes()).into());
    copies().join(format!("{}.tables", &name[..16]))
}

#[test]
fn every_format_and_kind_of_entry_is_refused() {
    let digest = "7b7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c";
    let uid = nix::unistd::geteuid().to_string();
    let node = Node::embedded(&[SETTLED, PERSON]);
    let image = node.world.directory(&format!(".flat/7b/{digest}"));
    let image = ["--user", EVE, "--image", image.to_str().unwrap()];
    let token = ["--user", "5b1d", "--issuer", "https://iam.example.org/"];
    let cases: [(&str, String, &[&str]); 15] = [
        ("a.toml", entry("user", "CN=Jane Doe,DC=example,DC=org", ""), &["--user", JANE]),
        ("b.toml", entry("user", JANE, ""), &token),
        ("c.toml", entry("person", "jane", ""), &token),
        ("d.toml", entry("vo", "Atlas", ""), &["--user", EVE, "--vo", "atlas"]),
        ("e.toml", entry("group", "/cms/prod", ""), &["--user", EVE, "--group", "/cms/prod/Role=NULL"]),
        ("f.toml", entry("pilot", "p-17", ""), &["--user", EVE, "--pilot", "p-17"]),
        ("g.toml", format!("[[ban]]\npilot_uid = {uid}\nreason = \"it mines coins\"\n"), &["--user", EVE]),
        ("h.toml", entry("image", &format!("sha256:{digest}"), ""), &image),
        ("ban_users.db", format!("# banned\n\"{JANE}\"\n"), &["--user", JANE]),
        ("i.db", "\"/DC=org/DC=example/*\"\n".to_owned(), &["--user", EVE]),
        ("j.dn", format!("{EVE}\n"), &["--user", EVE]),
        (
            "k.conf",
            "SCITOKENS \"https://iam.example.org/,5b1d\" x@banned.htcondor.org\n".to_owned(),
            &["--user", JANE],
        ),
        (
            "l.mapfile",
            "SCITOKENS /^https\\:\\/\\/iam\\.example\\.org\\/,5b/ x@banned.htcondor.org\n".to_owned(),
            &token,
        ),
        (
            "m.argus",
            "resource \".*\" {\n action \".*\" {\n  rule deny { subject = \"CN=Eve,DC=example,DC=org\" }\n }\n}\n"
                .to_owned(),
            &["--user", EVE],
        ),
        (
            "n.spl",
            "resource \".*\" {\n action \".*\" {\n  rule deny { vo = \"cms\" }\n }\n}\n".to_owned(),
            &["--user", EVE, "--vo", "cms"],
        ),
    ];
    for (name, list, options) in &cases {
        let file = node.world.path("status");
        let with: Vec<&str> = [&["--status-file", file.to_str().unwrap()], *options].concat();
        let ran = node.run(&with, &["/bin/true"]);
        assert!(!text(&ran.stderr).contains("suspended"), "{name}: {}", text(&ran.stderr));
        let path = node.ban(name, list);
        let refused = node.run(&with, &["/bin/true"]);
        assert_refused(&refused, 120, &["this site has suspended"]);
        let told = status(&file);
        assert_eq!((&told["exit_code"], &told["state"]), (&120.into(), &"refused".into()), "{told}");
        let denies = node.records_of("payload-deny");
        let record = denies.last().unwrap();
        let ban = &record["grid"]["policy"]["ban"];
        assert!(ban["entry"].as_str().unwrap().starts_with(&format!("{name}:")), "{record}");
        assert_eq!(record["grid"]["policy"]["bans_version"].as_str().map(str::len), Some(64), "{record}");
        if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
            assert!(text(&refused.stderr).contains("it mines coins"), "{}", text(&refused.stderr));
        }
        fs::remove_file(path).unwrap();
        assert_ne!(code(&node.run(&["--user", "nobody-else"], &["/bin/true"])), 120, "{name}");
    }
    node.world.assert_chain();
    node.world.assert_closed();
}

#[test]
fn a_ban_has_its_time() {
    let node = Node::embedded(&[SETTLED]);
    let at = |seconds: i64| bailey::audit::Timestamp::now().plus_seconds(seconds).to_string();
    node.ban("a.toml", &entry("user", JANE, &format!("until = \"{}\"", at(-60))));
    assert_eq!(node.launch(&["--user", JANE]), 0, "it is over");
    node.ban("a.toml", &entry("user", JANE, &format!("from = \"{}\"", at(3600))));
    assert_eq!(node.launch(&["--user", JANE]), 0, "it has not begun");
    node.ban("a.toml", &entry("user", JANE, &format!("from = \"{}\"", at(2))));
    assert_eq!(node.launch(&["--user", JANE]), 0);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.launch(&["--user", JANE]), 120, "it began, and no file changed");
    node.ban("a.toml", &entry("user", JANE, &format!("until = \"{}\"", at(2))));
    assert_eq!(node.launch(&["--user", JANE]), 120);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(node.launch(&["--user", JANE]), 0, "it is over, and no file changed");
}

/// What can be wrong with a list, and how it is put right.
type Breaker = (&'static str, fn(&Path));

const BREAKERS: [Breaker; 8] = [
    ("unparsable", |path| fs::write(path, "[[ban]\nuser = ").unwrap()),
    ("zero bytes", |path| fs::write(path, "").unwrap()),
    ("half-written", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("a directory", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("unreadable", |path| fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap()),
    ("written by others", |path| fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap()),
    ("a FIFO", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    }),
    ("a link to nowhere", |path| {
        fs::remove_file(path).unwrap();
        symlink("/nowhere", path).unwrap();
    }),
];

#[test]
fn a_list_in_trouble_lets_nobody_in() {
    for (mode, others) in [("closed", 120), ("last-good", 0)] {
        for (what, breaks) in BREAKERS {
            let setting = format!("unreadable = \"{mode}\"");
            let node = Node::embedded(&[SETTLED, ("bans", &setting)]);
            let path = node.ban("list.toml", &entry("user", JANE, ""));
            assert_eq!(node.launch(&["--user", JANE]), 120, "{what}");
            assert_eq!(node.launch(&["--user", EVE]), 0, "{what}");
            breaks(&path);
            let refused = node.run(&["--user", JANE], &["/bin/true"]);
            assert_refused(&refused, 120, &["this site has suspended"]);
            let ran = node.run(&["--user", EVE], &["/bin/true"]);
            assert_eq!(code(&ran), others, "{mode}, {what}: {}", text(&ran.stderr));
            if others == 120 {
                assert_refused(&ran, 120, &["list.toml", "site's to repair"]);
            }
            // Later as well: what is wrong does not become right by being old.
            assert_eq!(node.launch(&["--user", JANE]), 120, "{what}, again");
            // Repaired, without the ban.
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            node.ban("list.toml", &entry("user", "somebody", ""));
            assert_eq!(node.launch(&["--user", JANE]), 0, "{what}, repaired");
        }
    }
}

#[test]
fn a_directory_in_trouble_keeps_its_bans() {
    for (mode, others) in [("closed", 120), ("last-good", 0)] {
        let setting = format!("unreadable = \"{mode}\"");
        let node = Node::embedded(&[SETTLED, ("bans", &setting)]);
        node.ban("list.toml", &entry("user", JANE, ""));
        assert_eq!(node.launch(&["--user", JANE]), 120);
        for (broken, whole) in [(0o000, 0o755), (0o777, 0o755)] {
            fs::set_permissions(&node.bans, Permissions::from_mode(broken)).unwrap();
            assert_eq!(node.launch(&["--user", EVE]), others, "{mode} {broken:o}");
            assert_eq!(node.launch(&["--user", JANE]), 120, "{mode} {broken:o}");
            fs::set_permissions(&node.bans, Permissions::from_mode(whole)).unwrap();
            assert_eq!(node.launch(&["--user", EVE]), 0, "{mode} {broken:o}, repaired");
            assert_eq!(node.launch(&["--user", JANE]), 120, "{mode} {broken:o}, repaired");
        }
    }
}

#[test]
fn missing_and_stale_lists() {
    for (mode, others) in [("closed", 120), ("last-good", 0), ("warn", 0)] {
        let missing = format!("missing = \"{mode}\"");
        let node = Node::embedded(&[SETTLED, ("bans", "required = [\"site.toml\"]"), ("bans", &missing)]);
        assert_eq!(node.launch(&["--user", EVE]), others, "never there, {mode}");
        node.ban("site.toml", &entry("user", JANE, ""));
        assert_eq!(node.launch(&["--user", EVE]), 0);
        assert_eq!(node.launch(&["--user", JANE]), 120);
        fs::remove_file(node.bans.join("site.toml")).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(node.launch(&["--user", EVE]), others, "gone, {mode}");
        assert_eq!(node.launch(&["--user", JANE]), 120, "gone, {mode}");
    }
    for (mode, others) in [("closed", 120), ("last-good", 0), ("warn", 0)] {
        let stale = format!("stale = \"{mode}\"");
        let node = Node::embedded(&[SETTLED, ("bans", "max_age = \"1h\""), ("bans", &stale)]);
        let path = node.ban("site.toml", &entry("user", JANE, ""));
        assert_eq!(node.launch(&["--user", EVE]), 0);
        let old = std::time::SystemTime::now() - Duration::from_secs(7200);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let output = node.run(&["--user", EVE], &["/bin/true"]);
        assert_eq!(code(&output), others, "{mode}: {}", text(&output.stderr));
        assert_eq!(node.launch(&["--user", JANE]), 120, "{mode}");
        if others == 0 {
            let remarks = node.records_of("payload-launch").last().unwrap()["grid"]["policy"].to_string();
            assert!(remarks.contains("max_age"), "said in the record: {remarks}");
        }
    }
}

/// However the file is replaced, the next launch knows.
#[test]
fn every_way_to_change_a_list_is_seen_at_once() {
    let node = Node::embedded(&[SETTLED]);
    let path = node.bans.join("list.dn");
    // Of the same length.
    let (jane, eve) = ("/DC=org/CN=Jane", "/DC=org/CN=EveX");
    let holds = |who: &str, what: &str| {
        assert_eq!(node.launch(&["--user", who]), 120, "{what}: {who}");
        let other = if who == jane { eve } else { jane };
        assert_eq!(node.launch(&["--user", other]), 0, "{what}: {other}");
    };
    node.ban("list.dn", &format!("{jane}\n"));
    holds(jane, "made");
    node.ban("list.dn", &format!("{eve}\n"));
    holds(eve, "renamed");
    fs::write(&path, format!("{jane}\n")).unwrap();
    holds(jane, "truncated and written");
    // In place, and with the times put back, as some tools do.
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    {
        use std::os::unix::fs::FileExt as _;
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(format!("{eve}\n").as_bytes(), 0).unwrap();
        file.set_modified(times).unwrap();
    }
    holds(eve, "in place with the same size and time");
    let other = node.world.directory("other.d");
    fs::set_permissions(&other, Permissions::from_mode(0o755)).unwrap();
    fs::write(other.join("list.dn"), format!("{jane}\n")).unwrap();
    fs::set_permissions(other.join("list.dn"), Permissions::from_mode(0o644)).unwrap();
    let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &other, nix::fcntl::AT_FDCWD, &node.bans, exchange).unwrap();
    holds(jane, "another directory");
    // By a link, as configuration management does.
    let (first, second) =
        (node.world.file("1", &format!("{jane}\n")), node.world.file("2", &format!("{eve}\n")));
    for (file, who) in [(&first, jane), (&second, eve), (&first, jane)] {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
        let aside = node.world.path("link");
        symlink(file, &aside).unwrap();
        fs::rename(aside, &path).unwrap();
        holds(who, "linked");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(node.launch(&["--user", jane]), 0, "removed");
}

#[test]
fn a_name_that_disappears_is_allowed_when_the_list_is_quiet() {
    let node = Node::embedded(&[("bans", "settle = \"2s\"")]);
    let path = node.ban("list.dn", &format!("{JANE}\n{EVE}\n"));
    assert_eq!(node.launch(&["--user", JANE]), 120);
    fs::write(&path, format!("{EVE}\n")).unwrap();
    let changed = Instant::now();
    assert_eq!(node.launch(&["--user", JANE]), 120, "a moment after");
    assert_eq!(node.launch(&["--user", EVE]), 120);
    wait_for("the list to be quiet", || node.launch(&["--user", JANE]) == 0);
    assert!(changed.elapsed() >= Duration::from_millis(1900), "{:?}", changed.elapsed());
    // The same for a list, and for all of them.
    assert_eq!(node.launch(&["--user", EVE]), 120);
    fs::rename(&node.bans, node.world.path("away")).unwrap();
    let changed = Instant::now();
    assert_eq!(node.launch(&["--user", EVE]), 120, "the directory went");
    wait_for("the directory to be missed no more", || node.launch(&["--user", EVE]) == 0);
    assert!(changed.elapsed() >= Duration::from_millis(1900), "{:?}", changed.elapsed());
}

/// A writer that truncates and writes slowly, again and again: whoever is in every version is never let in.
#[test]
fn a_list_that_is_being_written_lets_nobody_in() {
    let node = Node::embedded(&[("bans", "unreadable = \"last-good\"")]);
    let path = node.ban("list.dn", &format!("{JANE}\n"));
    assert_eq!(node.launch(&["--user", JANE]), 120);
    let _writer = Racing::new(move || {
        use std::io::Write as _;
        let mut file = File::options().write(true).truncate(true).open(&path).unwrap();
        for n in 0..20 {
            writeln!(file, "/DC=org/CN=Other {n}").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        writeln!(file, "{JANE}").unwrap();
    });
    let (mut launches, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(node.launch(&["--user", JANE]), 120, "launch {launches}");
        launches += 1;
    }
    println!("{launches} launches while the list was written");
}

/// Bytes of the copy turned, anywhere: it is made again, and the answer stays.
#[test]
fn a_corrupted_copy_is_no_answer() {
    let node = Node::embedded(&[SETTLED, PERSON]);
    let names: Vec<String> = (0..50).map(|n| format!("/DC=org/DC=example/CN=User {n}\n")).collect();
    let names = names.concat();
    node.ban("list.dn", &format!("{names}{JANE}\n"));
    node.ban("globs.db", "\"/DC=org/DC=evil/*\"\n");
    let token = ["--user", "5b1d", "--issuer", "https://iam.example.org/"];
    let evil = ["--user", "/DC=org/DC=evil/CN=X"];
    assert_eq!(node.launch(&token), 120, "by her other name");
    let copy = copy(&node);
    let whole = fs::read(&copy).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
    // Every region: a step that is no multiple of any field's size.
    let step = (whole.len() / 120).max(1) | 1;
    for (number, at) in (0..whole.len()).step_by(step).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= if number % 2 == 0 { 0x01 } else { 0xff };
        fs::write(&copy, &bytes).unwrap();
        let banned = if number % 3 == 0 { &evil[..] } else { &token[..] };
        let refused = node.run(banned, &["/bin/true"]);
        assert_refused(&refused, 120, &["this site has suspended"]);
    }
    for bytes in [&[][..], &whole[..whole.len() / 2], &whole[..64], &[0xff; 4096][..]] {
        fs::write(&copy, bytes).unwrap();
        assert_eq!(node.launch(&token), 120);
        fs::write(&copy, bytes).unwrap();
        assert_eq!(node.launch(&["--user", EVE]), 0);
    }
    // Readable or writable by others it is not trusted; gone it is made.
    for mode in [0o644, 0o602] {
        fs::set_permissions(&copy, Permissions::from_mode(mode)).unwrap();
        assert_eq!(node.launch(&token), 120);
    }
    fs::remove_file(&copy).unwrap();
    assert_eq!(node.launch(&token), 120);
    assert!(copy.exists());
}

#[test]
fn fifty_launches_at_once_while_lists_change() {
    let node = Node::embedded(&[PERSON]);
    node.ban("list.dn", &format!("{JANE}\n"));
    let bans = node.bans.clone();
    let copy = copy(&node);
    let aside = node.world.path("aside");
    let mut turn = 0;
    let _writer = Racing::new(move || {
        turn += 1;
        fs::write(&aside, format!("/DC=org/CN=Other {turn}\n{JANE}\n")).unwrap();
        fs::set_permissions(&aside, Permissions::from_mode(0o644)).unwrap();
        fs::rename(&aside, bans.join("list.dn")).unwrap();
        let _ = fs::remove_file(&copy);
        std::thread::sleep(Duration::from_millis(10));
    });
    let mut running = Vec::new();
    for n in 0..50 {
        let mut command = node.world.exec(&["--user", if n % 2 == 0 { JANE } else { EVE }]);
        command.env("BAILEY_CONFIG", &node.config).args(["--", "/bin/true"]);
        running.push(command.stderr(std::process::Stdio::piped()).spawn().unwrap());
    }
    for (n, child) in running.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), if n % 2 == 0 { 120 } else { 0 }, "{}", text(&output.stderr));
    }
}

/// A payload that has the host's /tmp for writing: without protection it writes the copy, and whoever was banned is let in.
#[test]
fn a_payload_cannot_reach_the_copy() {
    let node = Node::embedded(&[]);
    node.ban("list.dn", &format!("{JANE}\n"));
    assert_eq!(node.launch(&["--user", JANE]), 120);
    let dir = copies();
    let attack = "cd $D && ls | grep -q tables && for f in *.tables; do : >>$f && echo reached $f; done; \
                  mkdir $D.x $D 2>&1; mv $D $D.moved 2>&1; rmdir $D 2>&1; echo done";
    // The control: the same account, outside.
    let control = attack.split("; mkdir").next().unwrap();
    let plain = node.world.command("/bin/sh").env("D", &dir).args(["-c", control]).output().unwrap();
    assert!(text(&plain.stdout).contains("reached"), "{}{}", text(&plain.stdout), text(&plain.stderr));
    if !dir.starts_with("/tmp") {
        return; // the site's own directory is none that a bind shows (tests/walls.rs)
    }
    let own = format!("/mnt/{}", dir.file_name().unwrap().to_str().unwrap());
    let env = format!("D={own}");
    let before = names(&dir);
    for bind in ["/tmp:/mnt:rw", "/tmp:/mnt"] {
        let output = node.run_in_image(&["--user", EVE, "--bind", bind, "--env", &env], attack);
        let said = text(&output.stdout);
        assert!(said.contains("done"), "{said}{}", text(&output.stderr));
        assert!(!said.contains("reached"), "{bind}: {said}");
        assert!(dir.is_dir(), "{bind}: {said}");
        let _ = Command::new("rmdir")
            .arg(format!("{}.x", dir.display()))
            .stderr(std::process::Stdio::null())
            .status();
    }
    assert_eq!(names(&dir).len(), before.len());
    assert_eq!(node.launch(&["--user", JANE]), 120);
    // By its own name it is not to be had at all.
    for bind in [dir.display().to_string(), format!("{}/", dir.display())] {
        let refused = node.run_in_image(&["--user", EVE, "--bind", &format!("{bind}:/mnt:rw")], "true");
        assert_refused(&refused, 125, &["bailey's own"]);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let of_this = |name: &String| name.ends_with(".tables");
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(of_this)
        .collect()
}

/// Where no directory for copies can be had, lists are read each time, and hold.
#[test]
fn without_a_copy_bans_hold() {
    let node = Node::embedded(&[SETTLED]);
    node.ban("list.dn", &format!("{JANE}\n"));
    // In a mount namespace where /tmp is another one, with something in the way.
    let mut exec = node.world.exec(&["--user", JANE]);
    exec.env("BAILEY_CONFIG", &node.config).args(["--", "/bin/true"]);
    let uid = nix::unistd::geteuid();
    for way in ["ln -s /nowhere", "touch", "mkfifo", "mkdir -m 0777"] {
        let target = format!("/tmp/bailey-{uid}");
        let script = format!("mount -t tmpfs none /tmp && {way} {target} && exec $back \"$@\"");
        let output = support::mounted("private", &script, &exec).output().unwrap();
        assert_refused(&output, 120, &["this site has suspended"]);
    }
}
