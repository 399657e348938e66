//! `bailey policy explain` and `check`, and what `bailey config validate` warns of: the same answers as the launcher's.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use support::{BAILEY, World, code, image, text};

/// A site with rules.
struct Site {
    world: World,
    config: PathBuf,
}

impl Site {
    fn new(rules: &str) -> Self {
        let world = World::new();
        let bans = world.directory("bans.d");
        fs::set_permissions(&bans, Permissions::from_mode(0o755)).unwrap();
        let socket = world.path("no-recorder.sock");
        let config = world.config(&format!(
            "[audit]\nsocket = \"{}\"\n[bans]\ndir = \"{}\"\n{}",
            socket.display(),
            bans.display(),
            rules.replace("WORLD", world.dir.to_str().unwrap()).replace("IMAGE", image().to_str().unwrap())
        ));
        Self { world, config }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.world.command(BAILEY).args(args).env("BAILEY_CONFIG", &self.config).output().unwrap()
    }

    fn explain(&self, options: &[&str]) -> (i32, String) {
        let output = self.run(&[&["policy", "explain"], options].concat());
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
        (code(&output), text(&output.stdout))
    }

    fn json(&self, options: &[&str]) -> Value {
        let (code, said) = self.explain(&[&["--json"], options].concat());
        let answer: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(answer["may_run"], code == 0, "{answer}");
        answer
    }

    /// The launcher's own answer: its exit code, and what it says.
    fn launch(&self, options: &[&str]) -> (i32, String) {
        let output = self.run(&[&["exec"], options, &["--", "/bin/true"]].concat());
        (code(&output), text(&output.stderr))
    }
}

const RULES: &str = "
[[rule]]
id = \"no-guests\"
decision = \"deny\"
reason = \"guests go elsewhere\"
vo = [\"guest\"]

[[rule]]
id = \"image\"
image = [\"IMAGE\"]
vo = [\"atlas\"]
network = \"none\"
profile = \"strict\"
wall_time = \"1h\"

[[rule]]
id = \"prod\"
group = [\"/atlas/prod\"]
nested = false
parallel_person = 3
binds = { readonly = [\"WORLD\"] }

[[rule]]
id = \"atlas\"
vo = [\"atlas\"]

[[rule]]
id = \"cms\"
vo = [\"cms\"]

[[person]]
id = \"jane\"
names = [\"/DC=org/CN=Jane\", \"jane@example.org\"]

[policy]
default = \"deny\"
";

#[test]
fn the_answer_is_the_launchers() {
    let site = Site::new(RULES);
    let image = image();
    let image = image.to_str().unwrap();
    fs::write(site.world.path("bans.d/x.toml"), "[[ban]]\nperson = \"jane\"\nreason = \"coins\"\n").unwrap();
    let cases: [(&[&str], Option<&str>, &str); 9] = [
        (&["--user", "a", "--vo", "guest"], Some("no-guests"), "rule"),
        (&["--user", "a", "--vo", "atlas", "--image", image], Some("image"), ""),
        (&["--user", "a", "--vo", "atlas", "--image", image, "--writable"], Some("image"), "rule"),
        (&["--user", "a", "--vo", "atlas", "--group", "/atlas/prod"], Some("prod"), ""),
        (&["--user", "a", "--vo", "atlas", "--group", "/atlas/prod", "--nested"], Some("prod"), "rule"),
        (&["--user", "a", "--vo", "ATLAS"], Some("atlas"), ""),
        (&["--user", "a", "--vo", "lhcb"], None, "rule"),
        (&["--user", "jane@example.org", "--vo", "cms"], Some("cms"), "ban"),
        (&["--user", "a"], None, "rule"),
    ];
    for (options, rule, by) in cases {
        let answer = site.json(options);
        assert_eq!(answer["rule"].as_str(), rule, "{options:?}: {answer}");
        assert_eq!(answer["by"].as_str().unwrap_or_default(), by, "{options:?}: {answer}");
        // The first rule whose conditions all hold is the one that decided.
        let rules = answer["rules"].as_array().unwrap();
        let first = rules.iter().find(|rule| rule["applies"] == true);
        assert_eq!(first.and_then(|rule| rule["id"].as_str()), rule, "{options:?}: {answer}");
        let (code, said) = site.launch(options);
        assert_eq!(code == 0, answer["may_run"] == true, "{options:?}: {said}{answer}");
        if let Some(why) = answer["why"].as_str() {
            assert_eq!(code, 120, "{said}");
            assert!(said.contains(why), "{said} is not {why}");
        }
    }
    assert!(site.world.records_of("payload-launch").len() == 3, "explaining leaves no record");
}

#[test]
fn words_for_a_person() {
    let site = Site::new(RULES);
    let image = image();
    let (code, said) = site.explain(&["--user", "a", "--vo", "atlas", "--image", image.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(said.starts_with("May run: rule 'image' lets it in.\n"), "{said}");
    for line in ["network    none", "profile    strict", "wall time  3600 s at most"] {
        assert!(said.contains(line), "'{line}' is not in {said}");
    }
    assert!(said.contains("   1  no-guests  not: vo\n   2  image  applies and decides: allows\n"), "{said}");
    assert!(said.contains("3 behind it are not shown (--all)") && !said.contains("cms"), "{said}");
    let (_, said) =
        site.explain(&["--user", "a", "--vo", "atlas", "--all", "--image", image.to_str().unwrap()]);
    assert!(said.contains("   3  prod  not: group\n   4  atlas  would apply (allows)"), "{said}");
    assert!(said.contains("   5  cms  not: vo\n"), "{said}");
    let (code, said) = site.explain(&["--user", "a", "--vo", "guest"]);
    assert_eq!(code, 1);
    assert!(said.starts_with("May not run: guests go elsewhere (rule 'no-guests' of this site);"), "{said}");
    let bind = format!("{}:rw", site.world.path("home").display());
    let (_, said) =
        site.explain(&["--user", "/DC=org/CN=Jane", "--vo", "x", "--group", "/atlas/prod", "--bind", &bind]);
    assert!(said.contains("home only for reading"), "{said}");
    assert!(said.contains("3 at one time for its person"), "{said}");
    assert!(said.contains("person     jane: /DC=org/CN=Jane; jane@example.org"), "{said}");
    // What no rule says and stops it all the same.
    let (_, said) = site.explain(&["--user", "a", "--vo", "cms", "--nested"]);
    assert!(said.contains("sandbox.nested_namespaces = false"), "{said}");
    // Hostile text drives no terminal.
    let (_, said) = site.explain(&["--user", "a", "--vo", "cms", "--pilot", "p-1"]);
    assert!(!said.contains('\u{1b}') && said.contains("pilot      p-1"), "{said}");
}

#[test]
fn questions_that_cannot_be_answered() {
    let site = Site::new("[identity]\nundeclared = \"deny\"\n");
    for (options, word) in [
        (&["--pilot-uid", "0", "--user", "a"][..], "name the pilot's account"),
        (&["--user", "a", "--image", "/nonexistent"], "ENOENT"),
        (&["--user", "a", "--image", "/etc/passwd"], "cannot use the image"),
        (&["--user", "a", "--network", "some"], "host and none"),
        (&["--user", "a", "--nonsense"], "--nonsense"),
    ] {
        let output = site.run(&[&["policy", "explain"], options].concat());
        assert_eq!(code(&output), 2, "{options:?}: {}", text(&output.stdout));
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
    // That nobody is named is an answer: no.
    let (code, said) = site.explain(&[]);
    assert_eq!(code, 1);
    assert!(said.starts_with("May not run: nobody said whose it is"), "{said}");
    let (code, said) = site.explain(&["--user", "a"]);
    assert_eq!(code, 0);
    assert!(said.contains("no rule applies") && said.contains("There are no rules."), "{said}");
}

#[test]
fn another_accounts_pilot() {
    let site = Site::new("[[rule]]\nid = \"pilots\"\npilot_uid = [4711]\n[policy]\ndefault = \"deny\"\n");
    assert_eq!(site.json(&["--user", "a", "--pilot-uid", "4711"])["rule"], "pilots");
    let answer = site.json(&["--user", "a"]);
    assert_eq!(
        (answer["may_run"].clone(), &answer["rules"][0]["unmet"]),
        (false.into(), &"pilot_uid".into())
    );
}

#[test]
fn the_age_of_a_sif_file() {
    let site = Site::new("[image]\nmax_age = \"30d\"\nold = \"refuse\"\n");
    // The header of a SIF file, made in September 2001.
    let mut bytes = vec![0_u8; 128];
    bytes[..16].copy_from_slice(b"#!/usr/bin/env r");
    bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
    bytes[42..45].copy_from_slice(b"01\0");
    bytes[45..48].copy_from_slice(b"02\0");
    bytes[64..72].copy_from_slice(&1_000_000_000_i64.to_le_bytes());
    bytes[72..80].copy_from_slice(&1_000_000_000_i64.to_le_bytes());
    let sif = site.world.path("old.sif");
    fs::write(&sif, &bytes).unwrap();
    let output = site.run(&["policy", "explain", "--user", "a", "--image", sif.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(code(&output), 1, "{said}{}", text(&output.stderr));
    assert!(said.contains("2001-09-09 (so says its sif-header)"), "{said}");
}

#[test]
fn rules_that_can_never_apply_are_warned_of() {
    let site = Site::new(
        "[[rule]]\nid = \"a\"\nvo = [\"atlas\"]\n[[rule]]\nid = \"b\"\nvo = [\"atlas\"]\n\
         [[rule]]\nid = \"c\"\nperson = [\"nobody\"]\n[[rule]]\nid = \"all\"\n[[rule]]\nid = \"last\"\nvo = [\"x\"]\n",
    );
    let config = site.config.to_str().unwrap().to_owned();
    for args in [&["config", "validate"][..], &["config", "validate", &config], &["policy", "check"]] {
        let output = site.run(args);
        let said = text(&output.stdout);
        assert_eq!(code(&output), 0, "a warning fails nothing: {said}{}", text(&output.stderr));
        for word in ["'b' can never apply", "person 'nobody'", "'last' can never apply: 'all' before it"] {
            assert!(said.contains(word), "'{word}' is not in {said}");
        }
        assert_eq!(said.matches("warning: ").count(), 3, "{said}");
        let strict = site.run(&[args, &["--strict"]].concat());
        assert_eq!(code(&strict), 1, "{}", text(&strict.stdout));
    }
    let good = Site::new("[[rule]]\nid = \"a\"\nvo = [\"atlas\"]\n");
    assert_eq!(code(&good.run(&["config", "validate", "--strict"])), 0);
    let output = good.run(&["policy", "check", "--strict"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("1 rules, then allow"), "{}", text(&output.stdout));
    fs::write(good.world.path("bans.d/x.toml"), "[[ban]]\n").unwrap();
    let output = good.run(&["policy", "check"]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stdout).contains("nothing new runs on this node"), "{}", text(&output.stdout));
}

#[test]
fn the_pages_examples_are_good() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policy.md")).unwrap();
    let world = World::new();
    let mut examples = 0;
    for block in page.split("```toml\n").skip(1) {
        let text_of = block.split("```").next().unwrap();
        examples += 1;
        if text_of.starts_with("# /etc/bailey/groups.d/") {
            let dir = world.directory("groups.d");
            fs::write(dir.join("x.toml"), text_of).unwrap();
            continue;
        }
        let path = world.config(text_of);
        let output = world.admin(&["config", "validate", "--strict", path.to_str().unwrap()]);
        assert_eq!(code(&output), 0, "{text_of}{}{}", text(&output.stdout), text(&output.stderr));
    }
    assert!(examples >= 8, "{examples}");
    // The membership file of the page lets in whom the page says.
    let dir = world.path("groups.d");
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.join("x.toml"), Permissions::from_mode(0o644)).unwrap();
    let config = world.config(&format!(
        "[policy]\ngroups_dir = \"{}\"\ndefault = \"deny\"\n[[rule]]\nid = \"g\"\ngroup = [\"/vo.example.org/analysis\"]\n",
        dir.display()
    ));
    let explain = |user: &str| {
        let mut command = world.command(BAILEY);
        command.args(["policy", "explain", "--user", user]).env("BAILEY_CONFIG", &config);
        code(&command.output().unwrap())
    };
    assert_eq!((explain("/DC=org/DC=example/CN=Jane Doe"), explain("/DC=org/DC=example/CN=Other")), (0, 1));
}
