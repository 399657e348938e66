//! `bailey ban`: who may not run, added, lifted, listed, checked, taken over and asked for.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::recorder::Recorder;
use support::{BAILEY, Started, World, code, stdout, text};

const JANE: &str = "/DC=org/DC=example/CN=Jane Doe";
const PERSONS: &str = "[[person]]\nid = \"jane\"\nnames = [\"/DC=org/DC=example/CN=Jane Doe\", \
     \"https://iam.example.org/ 5b1d\", \"jane@example.org\", \"CN=J. Doe,O=Other,C=CH\"]\n";

/// A node of the test's own, without a recorder unless the configuration names one.
struct Node {
    world: World,
    config: PathBuf,
    dir: PathBuf,
}

impl Node {
    fn new(more: &str) -> Self {
        let world = World::new();
        let dir = world.directory("bans.d");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let socket = world.path("no-recorder.sock");
        let config = world.config(&format!(
            "[audit]\nsocket = \"{}\"\n[bans]\ndir = \"{}\"\n{more}",
            socket.display(),
            dir.display()
        ));
        Self { world, config, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(BAILEY);
        command.arg("ban").args(args).env("BAILEY_CONFIG", &self.config);
        command
    }

    fn ban(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// It succeeds, and says this.
    fn says(&self, args: &[&str]) -> String {
        let output = self.ban(args);
        assert_eq!(code(&output), 0, "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// It fails with this code and says these words in one line.
    fn fails(&self, args: &[&str], expected: i32, words: &[&str]) {
        let output = self.ban(args);
        let said = text(&output.stderr);
        assert_eq!(code(&output), expected, "{args:?}: {}{said}", text(&output.stdout));
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "'{word}' is not in: {said}");
        }
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.world.file(&format!("bans.d/{name}"), content);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// What launchers would see of it.
    fn list(&self, args: &[&str]) -> Vec<Value> {
        let json = self.says(&[&["list", "--json"], args].concat());
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn is_banned(&self, who: &[&str]) -> bool {
        let output = self.ban(&[&["test"], who].concat());
        match code(&output) {
            0 => {
                assert!(text(&output.stdout).starts_with("Not banned.\n"));
                false
            }
            1 => true,
            other => panic!("{other}: {}{}", text(&output.stdout), text(&output.stderr)),
        }
    }

    /// A launch, decided by the launcher itself.
    fn launch(&self, who: &[&str]) -> i32 {
        let mut command = self.world.exec(who);
        code(&command.env("BAILEY_CONFIG", &self.config).args(["--", "/bin/true"]).output().unwrap())
    }
}

const DEFAULT: &str = "bailey-ban.toml";

#[test]
fn what_is_added_holds_and_what_is_removed_does_not() {
    let node = Node::new("settle = \"0s\"\n");
    assert!(node.says(&["list"]).contains("Nobody is banned."));
    for (option, value, asked) in [
        ("--user", JANE, &["--user", "CN=Jane Doe,DC=example,DC=org"][..]),
        ("--vo", "atlas", &["--user", "x", "--vo", "ATLAS"]),
        ("--group", "/cms/prod", &["--user", "x", "--group", "/cms/prod/Role=NULL"]),
        ("--pilot", "p-17", &["--user", "x", "--pilot", "p-17"]),
        ("--pilot-uid", "4711", &["--user", "x", "--pilot-uid", "4711"]),
    ] {
        let is_dn = value == JANE;
        let asked = if is_dn { &["--user", JANE][..] } else { asked };
        assert!(!node.is_banned(asked), "{option}");
        let said = node.says(&["add", option, value, "--reason", "it mines coins", "--ticket", "RT#1"]);
        assert!(said.starts_with("Banned: ") && said.contains(&format!("({DEFAULT}:")), "{said}");
        assert!(said.contains("No recorder: launchers see it within 0.5 s"), "{said}");
        assert!(node.is_banned(asked), "{option}");
        let answer = text(&node.ban(&[&["test"], asked].concat()).stdout);
        assert!(answer.contains(&format!("Banned by {DEFAULT}:")), "{answer}");
        assert!(answer.contains("(it mines coins, ticket RT#1)"), "{answer}");
        let said = node.says(&["remove", value]);
        assert!(said.contains(&format!("Removed from {DEFAULT}")), "{said}");
        assert!(said.contains("quiet for 0 s (bans.settle)"), "{said}");
        assert!(!node.is_banned(asked), "{option}");
    }
    // The launcher agrees.
    assert_eq!(node.launch(&["--user", JANE]), 0);
    node.says(&["add", "--user", JANE, "--reason", "x"]);
    assert_eq!(node.launch(&["--user", JANE]), 120);
    // A token, by issuer and subject; an image, by digest; a person of nobody.
    node.says(&["add", "--issuer", "https://iam.example.org", "--subject", "ab", "--reason", "x"]);
    assert!(node.is_banned(&["--user", "ab", "--issuer", "https://iam.example.org/"]));
    assert!(!node.is_banned(&["--user", "ab", "--issuer", "https://other.example.org/"]));
    let image = format!("sha256:{}", "ab".repeat(32));
    node.says(&["add", "--image", &image, "--reason", "x"]);
    let said = node.says(&["add", "--person", "nobody", "--reason", "x"]);
    assert!(said.contains("no [[person]] 'nobody'"), "{said}");
    assert_eq!(node.list(&[]).len(), 4);
}

#[test]
fn bad_bans_are_refused_and_change_nothing() {
    let node = Node::new("");
    let why = ["--reason", "x"];
    for (args, words) in [
        (&["--user", "/DC"][..], &["cannot add the ban"][..]),
        (&["--vo", "*"], &["no VO's name"]),
        (&["--group", "*"], &["cannot add the ban"]),
        (&["--image", "sha256:12"], &["no digest"]),
        (&["--issuer", "https://iam.example.org/"], &["--subject"]),
        (&["--vo", "a", "--until", "soon"], &["'soon' is no time"]),
        (&["--vo", "a", "--from", "2026-03-02", "--until", "2026-03-01"], &["before it begins"]),
        (&["--vo", "a", "--action", "shoot"], &["no action"]),
        (&["--vo", "a", "--grace", "soon"], &["not a time span"]),
        (&["--vo", "a", "--list", "ban_users.db"], &["ban_users.db", "only lists in bailey's own format"]),
        (&["--vo", "a", "--list", "../x.toml"], &["plain file name"]),
        (&["--vo", "a", "--list", ".x.toml"], &["plain file name"]),
        (&["--vo", "a", "--list", "README.toml"], &["plain file name"]),
        (&[], &["--user"]),
        (&["--vo", "a", "--person", "b"], &["cannot be used with"]),
        (&["--user", "a\nvo = \"b\""], &["cannot add the ban"]),
    ] {
        node.fails(&[&["add"], args, &why[..]].concat(), 2, words);
    }
    node.fails(&["add", "--vo", "a"], 2, &["--reason"]);
    node.fails(&["add", "--vo", "a", "--reason", "two\nlines"], 2, &["more than one line"]);
    let left: Vec<_> = fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".bailey-ban.lock"), "{left:?}");
    // What stands in quotes stays in them.
    node.says(&[
        "add",
        "--vo",
        "a",
        "--reason",
        "a \"quoted\" \\ reason = 'x' # é\u{7f}".trim_end_matches('\u{7f}'),
    ]);
    assert_eq!(node.list(&[])[0]["reason"], "a \"quoted\" \\ reason = 'x' # é");
}

#[test]
fn the_same_ban_twice_is_said_and_other_times_are_another_ban() {
    let node = Node::new("");
    let add = ["add", "--vo", "atlas", "--reason", "x"];
    node.says(&add);
    let before = node.read(DEFAULT);
    let said = node.says(&["add", "--vo", "ATLAS", "--reason", "x"]);
    assert!(said.contains("is banned so already (bailey-ban.toml:3); nothing is changed"), "{said}");
    assert_eq!(node.read(DEFAULT), before);
    let said = node.says(&[&add[..], &["--until", "2100-01-01"]].concat());
    assert!(said.contains("bans the same, no end; each holds for itself"), "{said}");
    assert!(said.contains("until 2100-01-02T00:00:00"), "the whole day: {said}");
    let said = node.says(&[
        "add", "--vo", "atlas", "--reason", "y", "--until", "7d", "--action", "freeze", "--grace", "30s",
    ]);
    assert!(said.contains("until 20"), "{said}");
    let bans = node.list(&[]);
    assert_eq!(bans.len(), 3);
    assert_eq!((&bans[2]["action"], &bans[2]["grace"]), (&"freeze".into(), &30.into()));
    // One by its line; the others still hold, which is said.
    let line = bans[0]["line"].to_string();
    let said = node.says(&["remove", "--id", &line]);
    assert_eq!(said.matches("Still banned: the VO").count(), 2, "{said}");
    assert_eq!(node.list(&[]).len(), 2);
    node.says(&["remove", "atlas"]);
    assert_eq!(node.list(&[]).len(), 0);
    node.says(&["add", "--vo", "b", "--reason", "x", "--from", "2099-01-01", "--until", "2099-01-31"]);
    assert!(!node.is_banned(&["--user", "x", "--vo", "b"]));
    let said = node.says(&["add", "--vo", "c", "--reason", "x", "--until", "2020-01-01"]);
    assert!(said.contains("holds for nobody"), "{said}");
    let table = node.says(&["list"]);
    assert!(table.contains("not yet") && table.contains("1 that are over"), "{table}");
    assert!(!table.contains("expired"), "{table}");
    let table = node.says(&["list", "--all"]);
    assert!(table.contains("expired"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert_eq!(node.list(&["--all"]).len(), 2);
}

#[test]
fn a_ban_on_one_name_tells_of_the_others() {
    let node = Node::new(PERSONS);
    let said = node.says(&["add", "--user", JANE, "--reason", "x"]);
    assert!(said.contains("also holds for 3 other names of person jane"), "{said}");
    assert!(said.contains("  jane@example.org\n") && said.contains("  CN=J. Doe,O=Other,C=CH\n"), "{said}");
    assert!(node.is_banned(&["--user", "5b1d", "--issuer", "https://iam.example.org/"]));
    assert!(node.is_banned(&["--user", "/C=CH/O=Other/CN=J. Doe"]));
    let told = text(&node.ban(&["test", "--user", "/C=CH/O=Other/CN=J. Doe"]).stdout);
    assert!(told.contains("Person jane: "), "{told}");
    // Lifted by one name, banned still by another.
    node.says(&["add", "--user", "jane@example.org", "--reason", "y"]);
    let said = node.says(&["remove", JANE]);
    assert!(said.contains("Still banned: jane@example.org"), "{said}");
    assert!(said.contains("the same person jane"), "{said}");
    assert!(node.is_banned(&["--user", JANE]));
}

#[test]
fn other_entries_keep_comments_and_layout() {
    let node = Node::new("");
    let text = "# kept by hand\n\n# of atlas\n[[ban]]\nvo    = 'atlas'   # odd\nreason = \"x\"\n\n[[ban]]\n\
                all = [{ vo = \"cms\" }, { pilot_uid = 7 }]\nreason = '''multi [[ban]]'''\n\n# the end";
    node.write("site.toml", text);
    fs::set_permissions(node.dir.join("site.toml"), Permissions::from_mode(0o640)).unwrap();
    node.says(&["add", "--vo", "lhcb", "--reason", "z", "--list", "site.toml"]);
    let after = node.read("site.toml");
    assert_eq!(after, format!("{text}\n\n[[ban]]\nvo = \"lhcb\"\nreason = \"z\"\n"));
    assert_eq!(fs::metadata(node.dir.join("site.toml")).unwrap().mode() & 0o7777, 0o640);
    node.says(&["remove", "lhcb"]);
    assert_eq!(node.read("site.toml").trim_end(), text);
    node.says(&["remove", "--id", "site.toml:4"]);
    let after = node.read("site.toml");
    assert!(after.starts_with("# kept by hand\n\n[[ban]]\nall = "), "{after}");
    assert!(after.ends_with("# the end\n"), "{after}");
    node.says(
        &["remove", "--id", "8", "--list", "site.toml"].map(|word| if word == "8" { "3" } else { word }),
    );
    assert_eq!(node.list(&[]).len(), 0);
    assert!(!node.read("site.toml").trim().is_empty(), "an empty file would be a list that was cut off");
    assert_eq!(code(&node.ban(&["check"])), 0);
    // Entries that are not each a table of their own cannot be taken out alone, and are left.
    let inline = "ban = [{ vo = \"a\", reason = \"x\" }, { vo = \"b\", reason = \"x\" }]\n";
    node.write("inline.toml", inline);
    node.fails(&["remove", "a"], 2, &["inline.toml", "edit it by hand"]);
    node.fails(&["remove", "--id", "inline.toml:1"], 2, &["inline.toml", "edit it by hand"]);
    node.fails(&["add", "--vo", "c", "--reason", "x", "--list", "inline.toml"], 2, &["edit it by hand"]);
    assert_eq!(node.read("inline.toml"), inline);
}

#[test]
fn what_cannot_be_read_is_not_edited() {
    let node = Node::new("");
    for (name, content, word) in [
        ("broken.toml", "[[ban]]\nvo = \"a\"\n", "no reason"),
        ("half.toml", "[[ban]]\nvo = \"a", "line 2"),
        ("empty.toml", "", "empty"),
        ("unknown.toml", "[[ban]]\nvvo = \"a\"\nreason = \"x\"\n", "vvo"),
    ] {
        let path = node.write(name, content);
        node.fails(
            &["add", "--vo", "b", "--reason", "x", "--list", name],
            2,
            &[name, word, "repair it by hand"],
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        fs::remove_file(path).unwrap();
    }
    fs::create_dir(node.dir.join("dir.toml")).unwrap();
    node.fails(&["add", "--vo", "b", "--reason", "x", "--list", "dir.toml"], 2, &["a directory"]);
    fs::remove_dir(node.dir.join("dir.toml")).unwrap();
    // A ban in a sound list goes through while another one is broken; both are said.
    node.write("broken.toml", "[[ban]]\n");
    let said = node.says(&["add", "--vo", "b", "--reason", "x"]);
    assert!(said.contains("Banned: the VO b"), "{said}");
    assert!(said.contains("warning: ") && said.contains("nothing new runs on this node"), "{said}");
    node.fails(&["remove", "zz"], 1, &["not all can be"]);
}

#[test]
fn a_link_stays_one_and_its_target_is_replaced() {
    let node = Node::new("");
    let real = node.world.file("elsewhere/real.toml", "# real\n");
    fs::set_permissions(&real, Permissions::from_mode(0o644)).unwrap();
    symlink(&real, node.dir.join(DEFAULT)).unwrap();
    node.says(&["add", "--vo", "a", "--reason", "x"]);
    assert!(node.dir.join(DEFAULT).symlink_metadata().unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("vo = \"a\""));
    assert!(node.is_banned(&["--user", "x", "--vo", "a"]));
    fs::remove_file(&real).unwrap();
    node.fails(&["add", "--vo", "b", "--reason", "x"], 2, &["leads to nothing"]);
}

#[test]
fn without_permission_it_says_where_and_what_to_do() {
    let node = Node::new("");
    fs::set_permissions(&node.dir, Permissions::from_mode(0o555)).unwrap();
    let dir = node.dir.display().to_string();
    for args in [&["add", "--vo", "a", "--reason", "x"][..], &["remove", "a"]] {
        node.fails(args, 2, &[&dir, "EACCES", "run it as root, or as the account"]);
    }
    fs::set_permissions(&node.dir, Permissions::from_mode(0o755)).unwrap();
    // The lock is another account's, as far as this one can tell.
    fs::write(node.dir.join(".bailey-ban.lock"), "").unwrap();
    fs::set_permissions(node.dir.join(".bailey-ban.lock"), Permissions::from_mode(0o0)).unwrap();
    node.fails(&["add", "--vo", "a", "--reason", "x"], 2, &["EACCES"]);
    fs::remove_file(node.dir.join(".bailey-ban.lock")).unwrap();
    // A lock that is a link is followed nowhere.
    let other = node.world.file("other", "untouched");
    symlink(&other, node.dir.join(".bailey-ban.lock")).unwrap();
    node.fails(&["add", "--vo", "a", "--reason", "x"], 2, &["ELOOP"]);
    fs::remove_file(node.dir.join(".bailey-ban.lock")).unwrap();
    // So is what stands where the new text is written first.
    symlink(&other, node.dir.join(format!(".{DEFAULT}.new"))).unwrap();
    node.says(&["add", "--vo", "a", "--reason", "x"]);
    assert_eq!(fs::read_to_string(other).unwrap(), "untouched");
    // A directory that is not there is made for a ban, and not for its end.
    fs::remove_dir_all(&node.dir).unwrap();
    node.fails(&["remove", "a"], 2, &[&dir, "ENOENT"]);
    node.says(&["add", "--vo", "a", "--reason", "x"]);
    assert_eq!(node.list(&[]).len(), 1);
}

#[test]
fn twenty_at_once_lose_none_and_a_reader_sees_only_whole_lists() {
    let node = Node::new("");
    node.says(&["add", "--vo", "first", "--reason", "x"]);
    let path = node.dir.join(DEFAULT);
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = std::thread::spawn({
        let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
        move || {
            let (mut most, mut versions) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let bytes = fs::read(&path).expect("the list is always there");
                let list = bailey::policy::bans::parse(&bytes, bailey::policy::bans::Format::Ours)
                    .expect("the list is always whole");
                assert!(list.bans.len() >= most, "no ban is lost on the way");
                versions += u32::from(list.bans.len() > most);
                most = list.bans.len();
                reads.fetch_add(1, Ordering::Relaxed);
            }
            versions
        }
    });
    let children: Vec<_> = (0..20)
        .map(|number| {
            node.command(&["add", "--vo", &format!("vo{number}"), "--reason", "x"]).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    stop.store(true, Ordering::Relaxed);
    let versions = reader.join().unwrap();
    assert!(versions > 1 && reads.load(Ordering::Relaxed) > 20, "the reader saw {versions} versions");
    let mut whom: Vec<String> =
        node.list(&[]).iter().map(|ban| ban["key"].as_str().unwrap().to_owned()).collect();
    whom.sort();
    let mut wanted: Vec<String> = (0..20).map(|number| format!("vo:vo{number}")).collect();
    wanted.push("vo:first".to_owned());
    wanted.sort();
    assert_eq!(whom, wanted);
}

#[test]
fn foreign_lists_are_named_and_not_edited() {
    let node = Node::new("");
    let lcas = format!("\"{JANE}\"\n");
    node.write("ban_users.db", &lcas);
    let output = node.ban(&["remove", JANE]);
    assert_eq!(code(&output), 1);
    let said = text(&output.stdout);
    assert!(said.contains("ban_users.db line 1") && said.contains("whoever distributes it"), "{said}");
    node.says(&["add", "--user", JANE, "--reason", "x"]);
    let said = node.says(&["remove", JANE]);
    assert!(said.contains("Removed from") && said.contains("ban_users.db line 1"), "{said}");
    assert_eq!(node.read("ban_users.db"), lcas);
    assert!(node.is_banned(&["--user", JANE]));
    assert_eq!(node.list(&[])[0]["list"], "ban_users.db");
    // One word may name several things; then nothing is removed.
    node.says(&["add", "--vo", "both", "--reason", "x"]);
    node.says(&["add", "--pilot", "both", "--reason", "x"]);
    node.fails(&["remove", "both"], 1, &["cannot tell which", "the VO both", "the pilot both"]);
    assert_eq!(node.list(&[]).len(), 3);
    for (id, word) in
        [("bailey-ban.toml:999", "no ban begins"), ("x", "no line number"), ("none.toml:3", "no ban")]
    {
        let output = node.ban(&["remove", "--id", id]);
        assert_ne!(code(&output), 0);
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
}

#[test]
fn check_says_what_follows() {
    let node = Node::new("required = [\"central.db\"]\nmax_age = \"1h\"\n");
    let check = |expected: i32, words: &[&str]| {
        let output = node.ban(&["check"]);
        let said = text(&output.stdout);
        assert_eq!(code(&output), expected, "{said}{}", text(&output.stderr));
        for word in words {
            assert!(said.contains(word), "'{word}' is not in: {said}");
        }
    };
    let closes = "nothing new runs on this node until it is repaired";
    check(1, &["central.db is required", closes, "bans.missing = \"closed\"", "Nothing new runs"]);
    node.write("central.db", &format!("\"{JANE}\"\n\"{JANE}\"\n"));
    check(0, &["central.db: 2 bans", "LCAS", "sha256 ", "mode 0644", "line 2: ", "Launches go on."]);
    node.write("old.toml", "[[ban]]\nvo = \"a\"\nreason = \"x\"\nuntil = \"2020-01-01\"\n");
    let old = fs::File::options().write(true).open(node.dir.join("old.toml")).unwrap();
    old.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7200)).unwrap();
    check(0, &["longer ago than bans.max_age", "it still holds", "does nothing", "bans.stale = \"warn\""]);
    node.write("persons.toml", "[[ban]]\nperson = \"nobody\"\nreason = \"x\"\n");
    check(0, &["no [[person]] 'nobody'"]);
    node.write("broken.toml", "[[ban]]\nvo = \"a\"\n");
    check(1, &["broken.toml: 0 bans", "no reason", closes, "bans.unreadable = \"closed\""]);
    assert_eq!(code(&node.ban(&["test", "--user", "x"])), 2, "nobody can tell");
    assert_eq!(code(&node.ban(&["test", "--user", JANE])), 1, "but this one is banned");
    fs::remove_file(node.dir.join("broken.toml")).unwrap();
    fs::set_permissions(node.dir.join("old.toml"), Permissions::from_mode(0o666)).unwrap();
    check(1, &["others can write it", "mode 0666"]);
    // The launcher says the same.
    assert_eq!(node.launch(&["--user", "x"]), 120);
    fs::remove_dir_all(&node.dir).unwrap();
    let open = Node::new("");
    fs::remove_dir(&open.dir).unwrap();
    assert!(open.says(&["check"]).contains("is not there: nobody is banned"));
}

#[test]
fn lists_are_taken_over_whole_or_not_at_all() {
    let node = Node::new("");
    let lcas = node.world.file("ban_users.db", "\"/DC=org/CN=A\"\n\"/DC=org/CN=B*\"\n\"/DC=org/CN=A\"\n");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let said = node.says(&["import", &path(&lcas), "--dry-run"]);
    assert!(said.contains("Would import 2 bans") && said.contains("[[ban]]"), "{said}");
    assert!(!node.dir.join(DEFAULT).exists());
    let said = node.says(&["import", &path(&lcas)]);
    assert!(said.contains("Imported 2 bans") && said.contains("1 are there already or said twice"), "{said}");
    assert!(node.is_banned(&["--user", "/DC=org/CN=Bob"]) && !node.is_banned(&["--user", "/DC=org/CN=C"]));
    assert_eq!(node.list(&[])[0]["reason"], format!("imported from {}", lcas.display()));
    assert!(node.says(&["import", &path(&lcas)]).contains("Nothing to import"));
    let condor =
        node.world.file("x.txt", "SCITOKENS /^https:\\/\\/iam.example.org\\/,5b1d$/ x@banned.htcondor.org\n");
    node.says(&[
        "import",
        &path(&condor),
        "--format",
        "condor",
        "--reason",
        "central",
        "--list",
        "central.toml",
    ]);
    assert!(node.is_banned(&["--user", "5b1d", "--issuer", "https://iam.example.org/"]));
    let dns = node.world.file("y", "/DC=org/CN=With Blank\n");
    node.fails(&["import", &path(&dns)], 2, &["--format lcas"]);
    node.says(&["import", &path(&dns), "--format", "dn"]);
    assert!(node.is_banned(&["--user", "/DC=org/CN=With Blank"]));
    // Line 2 cannot be understood: every fault is told, and line 1 is not taken either.
    let before = node.read(DEFAULT);
    let bad = node.world.file("bad.dn", "/DC=org/CN=Good\nnonsense\n/DC=org/CN=Better\n/DC\n");
    let output = node.ban(&["import", &path(&bad)]);
    let said = text(&output.stdout);
    assert_eq!(code(&output), 1, "{said}");
    assert!(
        said.contains("bad.dn: line 2") && said.contains("line 4") && said.contains("Nothing was imported"),
        "{said}"
    );
    assert_eq!(node.read(DEFAULT), before);
    node.fails(&["import", "/nonexistent.db"], 2, &["ENOENT"]);
    assert_eq!(code(&node.ban(&["check"])), 0);
}

// ---- with a recorder ----

#[test]
fn a_change_is_recorded_with_who_did_it_and_reaches_whom_it_means() {
    let world = World::new();
    let dir = world.directory("bans.d");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let bans = format!("dir = \"{}\"\nsettle = \"0s\"", dir.display());
    let recorder = Recorder::with(&world, &[("bans", &bans)]);
    let mut hit = Started::new(
        recorder
            .exec(&world, &["--user", JANE, "--vo", "atlas", "--", "/bin/sh", "-c", "echo ready; sleep 100"])
            .stdin(std::process::Stdio::piped()),
    );
    let mut other = Started::new(
        recorder
            .exec(&world, &["--user", "other", "--", "/bin/sh", "-c", "echo ready; read x"])
            .stdin(std::process::Stdio::piped()),
    );
    assert_eq!((hit.line().as_str(), other.line().as_str()), ("ready", "ready"));
    recorder.wait_live(2);
    let ban = |args: &[&str]| {
        let output = recorder.admin(&world, &[&["ban"], args].concat());
        assert_eq!(code(&output), 0, "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    // Nobody live: told, recorded, and nobody is stopped.
    let said = ban(&["add", "--vo", "lhcb", "--reason", "z"]);
    assert!(said.contains("No live payload on this node is meant."), "{said}");
    let uid = nix::unistd::geteuid().as_raw();
    let changes = recorder.wait_records("ban-change", 1);
    let change = &changes[0];
    assert_eq!(change["grid"]["peer"]["uid"], uid, "{change}");
    assert_eq!(change["grid"]["ban_change"]["by"], "bailey-ban");
    assert_eq!(change["grid"]["ban_change"]["list"], DEFAULT);
    assert_eq!(recorder.live().len(), 2);
    // One of two.
    let said = ban(&["add", "--user", JANE, "--reason", "it mines coins"]);
    assert!(said.contains("1 live payload on this node: killed now"), "{said}");
    assert!(said.contains("Jane Doe") && !said.contains("other"), "{said}");
    assert_eq!(hit.child.0.wait().unwrap().code(), Some(123));
    recorder.wait_live(1);
    let changes = recorder.wait_records("ban-change", 2);
    assert_eq!(changes[1]["grid"]["peer"]["uid"], uid);
    assert_eq!(changes[1]["grid"]["ban_change"]["before"], changes[0]["grid"]["ban_change"]["after"]);
    // The file says the same as the record.
    let digest = stdout(&world.command("sha256sum").arg(dir.join(DEFAULT)).output().unwrap());
    assert!(digest.starts_with(changes[1]["grid"]["ban_change"]["after"].as_str().unwrap()));
    ban(&["remove", JANE]);
    let changes = recorder.wait_records("ban-change", 3);
    assert_eq!(changes[2]["grid"]["ban_change"]["by"], "bailey-ban");
    // The control: an editor is not bailey ban.
    let edited = fs::read_to_string(dir.join(DEFAULT)).unwrap() + "# by hand\n";
    fs::write(dir.join("aside"), edited).unwrap();
    fs::rename(dir.join("aside"), dir.join(DEFAULT)).unwrap();
    let changes = recorder.wait_records("ban-change", 4);
    let last =
        changes.iter().find(|change| change["grid"]["ban_change"]["by"] == "file").expect("an edit by hand");
    assert!(last["grid"]["peer"]["uid"].is_null(), "{last}");
    assert_eq!(recorder.live().len(), 1, "nobody else was stopped");
    other.end();
    recorder.wait_live(0);
    recorder.assert_chain(&world);
}

#[test]
fn of_many_at_once_each_is_recorded() {
    let world = World::new();
    let dir = world.directory("bans.d");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let recorder = Recorder::with(&world, &[("bans", &format!("dir = \"{}\"", dir.display()))]);
    let children: Vec<_> = (0..12)
        .map(|number| {
            let mut command = world.command(BAILEY);
            command.args(["ban", "add", "--reason", "x", "--vo", &format!("vo{number}")]);
            command
                .env("BAILEY_CONFIG", &recorder.config)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let changes = recorder.wait_records("ban-change", 12);
    std::thread::sleep(std::time::Duration::from_millis(700)); // longer than bans.poll: no more come
    assert_eq!(recorder.records_of("ban-change").len(), 12);
    let uid = nix::unistd::geteuid().as_raw();
    let mut versions = std::collections::BTreeSet::new();
    for change in &changes {
        assert_eq!(change["grid"]["peer"]["uid"], uid, "{change}");
        assert_eq!(change["grid"]["ban_change"]["by"], "bailey-ban", "{change}");
        versions.insert(change["grid"]["ban_change"]["after"].as_str().unwrap().to_owned());
    }
    assert_eq!(versions.len(), 12, "each change is another version");
    recorder.assert_chain(&world);
}
