//! Rules, groups, trust, limits and rules on images, with real launches: what a rule says is what the payload meets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::policy::Node;
use support::{World, assert_refused, code, image, stdout, text, wait_for};

/// A table of the configuration.
fn node(tables: &str) -> Node {
    Node::embedded(&[("", tables)])
}

/// What a launch that ran was let in by.
fn rule_of(node: &Node) -> String {
    let launches = node.records_of("payload-launch");
    launches.last().unwrap()["grid"]["policy"]["rule"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn the_first_rule_that_applies_decides() {
    let tables = r#"
[[rule]]
id = "atlas-production"
vo = ["atlas"]
group = ["/atlas/*"]
[[rule]]
id = "no-atlas"
vo = ["atlas"]
decision = "deny"
reason = "ATLAS runs elsewhere this week"
[[rule]]
id = "cms-names"
user = ["CN=Jane Doe,DC=example,DC=org", "https://iam.example.org/ 5b1d"]
vo = ["cms"]
[[vo]]
name = "atlas"
user_contact = "atlas-help@example.org"
"#;
    Node::each(&[("", tables)], |node| {
        let user = ["--user", "/DC=org/DC=example/CN=Jane Doe"];
        let with = |more: &[&'static str]| [&user[..], more].concat();
        let refused = node.run(&with(&["--vo", "atlas"]), &["/bin/true"]);
        assert_refused(&refused, 120, &["ATLAS runs elsewhere this week", "contact atlas-help@example.org"]);
        assert_eq!(node.records_of("payload-deny").last().unwrap()["grid"]["policy"]["rule"], "no-atlas");
        assert_eq!(node.launch(&with(&["--vo", "ATLAS", "--group", "/atlas/prod"])), 0);
        assert_eq!(rule_of(node), "atlas-production");
        assert_eq!(node.launch(&with(&["--vo", "cms"])), 0);
        assert_eq!(rule_of(node), "cms-names");
        let token = ["--user", "5b1d", "--issuer", "https://iam.example.org", "--vo", "cms"];
        assert_eq!(node.launch(&token), 0);
        assert_eq!(rule_of(node), "cms-names");
        let other = ["--user", "5b1d", "--issuer", "https://other.example.org", "--vo", "cms"];
        assert_eq!(node.launch(&other), 0);
        assert_eq!(rule_of(node), "none", "another issuer's subject");
    });
    let closed = Node::embedded(&[("policy", "default = \"deny\""), ("", tables)]);
    let refused = closed.run(&["--user", "x", "--vo", "lhcb"], &["/bin/true"]);
    assert_refused(&refused, 120, &["no rule of this site lets payloads of the VO lhcb in"]);
    assert_eq!(closed.launch(&["--user", "x", "--vo", "atlas", "--group", "/atlas"]), 0);
}

#[test]
fn an_old_image_runs_strictly_and_without_network() {
    let world = World::new();
    let old = copy(&world, "images/old");
    let beside = copy(&world, "images/older"); // not below images/old, although its name begins so
    let data = world.directory("data");
    let tables = format!(
        "[[rule]]\nid = \"preserved\"\nimage = [\"{}\"]\nnetwork = \"none\"\nprofile = \"strict\"\nwall_time = \"1h\"\n",
        old.display()
    );
    Node::each(&[("", &tables)], |node| {
        let link = node.world.path("link");
        symlink(&old, &link).unwrap();
        let bind = format!("{0}:{0}:rw", data.display());
        let script = "cat /proc/net/dev | grep -vc lo:; \
            [ -d /sys/devices/system/cpu ] && echo sys; echo \"term=$TERM\"; touch DATA/written && echo written; true"
            .replace("DATA", data.to_str().unwrap());
        let run = |image: &str| {
            let mut exec = node.world.exec(&["--user", "x", "--image", image, "--bind", &bind]);
            exec.env("BAILEY_CONFIG", &node.config).env("TERM", "pilots-term");
            exec.args(["--", "/bin/sh", "-c", &script]).output().unwrap()
        };
        // By a link: the image is what the link leads to.
        let strict = run(link.to_str().unwrap());
        assert_eq!(code(&strict), 0, "{}", text(&strict.stderr));
        assert_eq!(
            stdout(&strict),
            "2\nterm=",
            "only the two lines of the head, no /sys, no TERM, nothing written"
        );
        let launch = node.records_of("payload-launch").pop().unwrap();
        let grid = &launch["grid"];
        assert_eq!(grid["policy"]["rule"], "preserved");
        assert_eq!(grid["policy"]["profile"], "strict");
        assert_eq!(grid["sandbox"]["network_namespace"], "on");
        assert_eq!(grid["limits"]["wall_time"], 3600);
        assert_eq!(grid["mounts"][0]["mode"], "ro");
        // And beside it everything is as ever: what was asked for is there.
        let free = run(beside.to_str().unwrap());
        assert!(stdout(&free).contains("sys\nterm=pilots-term\nwritten"), "{}", stdout(&free));
        fs::remove_file(data.join("written")).unwrap();
        // What a strict payload cannot have is refused, not left out.
        let image = link.to_str().unwrap();
        for (option, words) in [("--writable", "--writable"), ("--nested", "--nested")] {
            let refused = node.run(&["--user", "x", "--image", image, option], &["/bin/true"]);
            assert_refused(&refused, 120, &[words, "rule 'preserved'"]);
        }
        let refused = node.run(&["--user", "x", "--image", image, "--wall-time", "2h"], &["/bin/true"]);
        assert_refused(&refused, 120, &["a wall time of 7200 s", "3600 s at most"]);
    });
}

#[test]
fn binds_are_judged_by_what_they_lead_to() {
    let world = World::new();
    let (open, secret) = (world.directory("data/open"), world.directory("data/secret"));
    symlink(&secret, open.join("way-out")).unwrap();
    let tables = format!(
        "[[rule]]\nid = \"data\"\nvo = [\"cms\"]\nbinds = {{ allow = [\"{0}\"], deny = [\"{0}/secret\"], readonly = [\"{0}/open\"] }}\n",
        world.path("data").display()
    );
    let node = node(&tables);
    let run = |vo: &str, bind: &str| {
        node.run(
            &["--user", "x", "--vo", vo, "--bind", bind],
            &["/bin/sh", "-c", "touch /mnt/x && echo written"],
        )
    };
    let of = |path: &str| format!("{}:/mnt:rw", world.path(path).display());
    // Without the rule all of it works.
    assert_eq!(stdout(&run("atlas", &of("data/secret"))), "written");
    assert_eq!(stdout(&run("atlas", &of("data/open"))), "written");
    assert_refused(&run("cms", &of("data/secret")), 120, &["a bind of", "data/secret", "rule 'data'"]);
    assert_refused(&run("cms", &of("data/open/way-out")), 120, &["data/secret"]);
    assert_refused(&run("cms", &of("data")), 120, &["a bind of"]); // the secret lies in it
    assert_refused(&run("cms", "/usr/bin:/mnt"), 120, &["bind only what is below"]);
    let readonly = run("cms", &of("data/open"));
    assert_eq!(code(&readonly), 1);
    assert!(text(&readonly.stderr).contains("Read-only file system"), "{}", text(&readonly.stderr));
    let workdir =
        node.run(&["--user", "x", "--vo", "cms", "--workdir", secret.to_str().unwrap()], &["/bin/true"]);
    assert_refused(&workdir, 120, &["data/secret"]);
    // The payload cannot but write where it works.
    let workdir =
        node.run(&["--user", "x", "--vo", "cms", "--workdir", open.to_str().unwrap()], &["/bin/true"]);
    assert_refused(&workdir, 120, &["writing to", "data/open", "rule 'data'"]);
}

#[test]
fn a_credential_is_handed_over_only_where_a_rule_does_not_forbid_it() {
    let world = World::new();
    let proxy = world.file("proxy", "not a real one");
    let node = node("[[rule]]\nid = \"none\"\nvo = [\"cms\"]\ncredentials = false\n");
    let run = |vo: &str| {
        let bind = format!("{0}:{0}", proxy.display());
        let mut exec =
            node.world.exec(&["--user", "x", "--vo", vo, "--bind", &bind, "--pass-env", "X509_USER_PROXY"]);
        exec.env("BAILEY_CONFIG", &node.config).env("X509_USER_PROXY", &proxy);
        exec.args(["--", "/bin/sh", "-c", "cat $X509_USER_PROXY"]).output().unwrap()
    };
    assert_eq!(stdout(&run("atlas")), "not a real one");
    assert_refused(&run("cms"), 120, &["handing a credential to the payload", "rule 'none'"]);
}

#[test]
fn groups_of_the_site_and_mapfiles() {
    let world = World::new();
    let groups = world.directory("groups.d");
    let file = world.file("groups.d/trusted.toml", "");
    let map =
        world.file("grid-mapfile", "\"/DC=org/DC=example/CN=Mapped\" .pool\n\"/DC=org/DC=wild/*\" .pool\n");
    let members =
        "ttl = \"1h\"\n[[group]]\nname = \"/site/trusted\"\nmembers = [\"CN=Jane Doe,DC=example,DC=org\"]\n";
    fs::write(&file, members).unwrap();
    for path in [&groups, &file, &map] {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let tables = format!(
        "[[rule]]\nid = \"members\"\ngroup = [\"/site/trusted\"]\n[[rule]]\nid = \"mapped\"\nmapfile = [\"{}\"]\n",
        map.display()
    );
    let policy = format!("default = \"deny\"\ngroups_dir = \"{}\"", groups.display());
    let node = Node::embedded(&[("policy", &policy), ("", &tables)]);
    let jane = ["--user", "/DC=org/DC=example/CN=Jane Doe"];
    assert_eq!(node.launch(&jane), 0);
    assert_eq!(rule_of(&node), "members");
    assert_eq!(node.launch(&["--user", "/DC=org/DC=example/CN=Mapped/CN=proxy"]), 0);
    assert_eq!(node.launch(&["--user", "/DC=org/DC=wild/CN=Any"]), 0);
    assert_eq!(rule_of(&node), "mapped");
    assert_eq!(node.launch(&["--user", "/DC=org/DC=example/CN=Eve"]), 120);
    // A list that ran out lets nobody in, and says so.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(node.launch(&jane), 120);
    let deny = node.records_of("payload-deny").pop().unwrap();
    assert!(deny["grid"]["policy"]["remarks"][0].as_str().unwrap().contains("ran out"), "{deny}");
    // One that cannot be understood closes the node.
    fs::write(&file, "ttl = \"1h\"\n[[group]]\nname = \"site\"\n").unwrap();
    let refused = node.run(&["--user", "/DC=org/DC=example/CN=Mapped"], &["/bin/true"]);
    assert_refused(&refused, 120, &["trusted.toml", "'site' is no group"]);
}

#[test]
fn an_issuer_speaks_for_its_vo_only() {
    let tables = "[[trust]]\nissuer = \"https://cms-auth.web.cern.ch/\"\nvo = [\"cms\"]\n";
    Node::each(&[("", tables)], |node| {
        let launch = |issuer: &str, vo: &str| node.launch(&["--user", "x", "--issuer", issuer, "--vo", vo]);
        assert_eq!(launch("https://cms-auth.web.cern.ch", "cms"), 0);
        assert_eq!(launch("https://cms-auth.web.cern.ch/", "atlas"), 120);
        assert_eq!(launch("https://iam.example.org/", "cms"), 120);
        let deny = node.records_of("payload-deny").pop().unwrap();
        assert!(deny["event"]["reason"].as_str().unwrap().contains("speak for the VO cms"), "{deny}");
    });
}

/// The test's image once more, as far as an ordinary user may read it.
fn copy(world: &World, name: &str) -> PathBuf {
    let root = world.directory(name);
    let leave_out =
        "--exclude=./usr/share --exclude=./var --exclude=./usr/lib/locale --exclude=./usr/lib/python3*";
    let script = format!("tar -C \"$1\" {leave_out} -cf - . | tar -C \"$2\" -xf -");
    let mut tar = Command::new("sh");
    tar.args(["-c", &script, "copy"]).arg(image()).arg(&root).stderr(Stdio::null());
    assert!(tar.status().unwrap().code().is_some());
    assert!(root.join("bin/sh").exists() && root.join("etc").is_dir());
    root
}

/// An image of a system whose support ended, made on a certain day, with labels.
fn told_image(world: &World, name: &str, made: &str, os: &str) -> String {
    let root = copy(world, name);
    fs::remove_file(root.join("etc/os-release")).unwrap();
    world.file(&format!("{name}/etc/os-release"), os);
    let labels = format!("{{\"org.opencontainers.image.created\":\"{made}\",\"maintainer\":\"us\"}}");
    world.file(&format!("{name}/.singularity.d/labels.json"), &labels);
    root.display().to_string()
}

#[test]
fn images_by_age_label_and_end_of_life() {
    let world = World::new();
    let old = told_image(&world, "old", "2019-03-01T00:00:00Z", "ID=centos\nVERSION_ID=7\n");
    let new = told_image(&world, "new", "2026-09-01T00:00:00Z", "ID=almalinux\nVERSION_ID=9.3\n");
    let launch = |node: &Node, image: &str| node.run(&["--user", "x", "--image", image], &["/bin/true"]);
    // By default it is only a word in the record.
    let node = Node::embedded(&[]);
    assert_eq!(code(&launch(&node, &old)), 0);
    let record = node.records_of("payload-launch").pop().unwrap();
    let remarks = record["grid"]["policy"]["remarks"].as_array().unwrap();
    assert!(remarks[0].as_str().unwrap().contains("no security updates since 2024-06-30"), "{record}");
    assert_eq!(record["grid"]["image"]["os"], "centos 7");
    for (line, words) in [
        ("end_of_life = \"refuse\"", "no security updates"),
        ("max_age = \"365d\"\nold = \"refuse\"", "the image was made on 2019-03-01"),
        ("required_labels = [\"maintainer=them\"]\nunlabelled = \"refuse\"", "no label maintainer=them"),
    ] {
        Node::each(&[("image", line)], |node| {
            assert_refused(&launch(node, &old), 120, &[words]);
            let fine = launch(node, &new);
            assert_eq!(code(&fine), if line.contains("label") { 120 } else { 0 }, "{}", text(&fine.stderr));
        });
    }
    // A rule that names the image has looked at it: the exception of a site.
    let rule = format!("[[rule]]\nid = \"kept\"\nimage = [\"{old}\"]\nnetwork = \"none\"\n");
    let node = Node::embedded(&[("image", "end_of_life = \"refuse\""), ("", &rule)]);
    assert_eq!(code(&launch(&node, &old)), 0);
    // Restricted: it runs, strict and without network.
    let node = Node::recorded(&[("image", "end_of_life = \"restrict\"")]);
    assert_eq!(code(&launch(&node, &old)), 0);
    let record = node.records_of("payload-launch").pop().unwrap();
    assert_eq!(record["grid"]["policy"]["profile"], "strict");
    assert_eq!(record["grid"]["sandbox"]["network_namespace"], "on");
    // The host's own system is the site's to renew.
    assert_eq!(node.launch(&["--user", "x"]), 0);
}

#[test]
fn payloads_at_one_time() {
    let person = "[[person]]\nid = \"jane\"\nnames = [\"/CN=Jane\", \"https://iam.example.org/ 5b1d\"]\n";
    Node::each(&[("policy", "parallel_person = 2\nparallel_vo = 3"), ("", person)], |node| {
        let script = "echo ready; exec sleep 60";
        let mut first = node.start("/CN=Jane", &["--vo", "cms"], script);
        let mut second = node.start("5b1d", &["--issuer", "https://iam.example.org/", "--vo", "cms"], script);
        // Her third, by whichever name.
        for user in [&["--user", "/CN=Jane"][..], &["--user", "5b1d", "--issuer", "https://iam.example.org/"]]
        {
            let refused = node.run(user, &["/bin/true"]);
            assert_refused(&refused, 121, &["jane has 2 payloads on this node already"]);
        }
        let mut third = node.start("/CN=Other", &["--vo", "cms"], script);
        let refused = node.run(&["--user", "/CN=Fourth", "--vo", "cms"], &["/bin/true"]);
        assert_refused(&refused, 121, &["the VO cms has 3 payloads"]);
        assert_eq!(node.launch(&["--user", "/CN=Fourth", "--vo", "atlas"]), 0);
        // (The recorder writes one refusal of a uid a second.)
        assert!(!node.records_of("payload-deny").is_empty());
        // A launcher that is killed gives its place back.
        first.started.signal(libc::SIGKILL);
        first.started.child.0.wait().unwrap();
        wait_for("the place", || node.launch(&["--user", "/CN=Jane"]) == 0);
        for payload in [&mut second, &mut third] {
            payload.started.signal(libc::SIGTERM);
            payload.end();
        }
    });
}
