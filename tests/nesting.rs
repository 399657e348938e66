//! Containers in containers: bailey in bailey, Apptainer 1.4.5 in bailey, bailey in Apptainer, where a rule of the site lets payloads
//! make namespaces.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::path::PathBuf;
use std::process::Output;
use support::{BAILEY, World, code, image, stdout, text};

/// The rule under which payloads may make namespaces.
const GRANTED: &str = "[[rule]]\nid = \"nest\"\nprofile = \"nested\"\n";

/// Where bailey and the second image are in the outer one. A name of its own, as pilots call it.
const INNER: &str = "/opt/inner/apptainer";

/// `bailey apptainer exec -c` with bailey and an image bound, under this configuration.
fn outer(world: &World, config: &str, words: &[&str]) -> Output {
    let job = world.directory("job");
    let mut command = world.command(BAILEY);
    command.env("BAILEY_CONFIG", world.config(config)).current_dir(&job);
    command.args(["apptainer", "exec", "--contain", "-B", &format!("{BAILEY}:{INNER}:ro")]);
    command.args(["-B", &format!("{}:/inner:ro", image().display())]).arg(image());
    // The variable names the binds of the outer one, and who is called inside reads it: Apptainer has it so.
    command.args(["env", "-u", "APPTAINER_BIND", "-u", "SINGULARITY_BIND"]).args(words);
    command.output().unwrap()
}

#[test]
fn bailey_in_bailey_where_a_rule_allows_it() {
    let world = World::new();
    let line = [
        INNER,
        "exec",
        "--contain",
        "/inner",
        "sh",
        "-c",
        "cat /proc/self/uid_map; ls /proc | grep -c '^[0-9]*$'; exit 7",
    ];
    let output = outer(&world, GRANTED, &line);
    let uid = nix::unistd::geteuid().to_string();
    let said = text(&output.stdout);
    let words: Vec<&str> = said.split_whitespace().take(3).collect();
    assert_eq!(
        (code(&output), words),
        (7, vec![uid.as_str(), uid.as_str(), "1"]),
        "{said}{}",
        text(&output.stderr)
    );
    // The inner one has its own log, in the outer one's home, and is a payload like any other for the outer.
    let launches = world.records_of("payload-launch");
    assert_eq!(launches.len(), 1);
    assert_eq!(launches[0]["grid"]["policy"]["profile"], "nested");
    world.assert_closed();
    // Under its own name as well, and two deep.
    let said = stdout(&outer(
        &world,
        GRANTED,
        &["sh", "-c", &format!("cp {INNER} /tmp/bailey && /tmp/bailey exec --image /inner -- id -u")],
    ));
    assert_eq!(said, uid);
    // What it starts may not go on.
    let deeper = ["sh", "-c", &format!("{INNER} exec -c -B {INNER} /inner {INNER} exec -c / true; echo $?")];
    let output = outer(&world, GRANTED, &deeper);
    assert!(text(&output.stdout).ends_with("255\n"), "{} {}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn without_such_a_rule_it_is_refused() {
    let world = World::new();
    let output = outer(&world, "", &[INNER, "exec", "--contain", "/inner", "true"]);
    assert_eq!(code(&output), 255);
    let said = text(&output.stderr);
    assert!(said.starts_with("FATAL:   bailey[125]"), "{said}");
    assert!(said.contains("a filter of system calls around bailey refuses"), "{said}");
    assert!(said.contains("[[rule]] with profile = \"nested\""), "{said}");
}

/// The root directory of tests/peers.sh, where it was made.
fn peers() -> Option<PathBuf> {
    let path = std::env::var_os("BAILEY_PEERS_ROOT")
        .map_or_else(|| PathBuf::from("/var/tmp/bailey-test/peers"), PathBuf::from);
    path.join("usr/bin/apptainer").exists().then_some(path)
}

#[test]
fn apptainer_in_bailey_where_a_rule_allows_it() {
    let Some(peers) = peers() else {
        return support::skip(
            "apptainer_in_bailey_where_a_rule_allows_it",
            "no Apptainer: run tests/peers.sh as root",
        );
    };
    let world = World::new();
    let run = |config: &str| {
        let mut command = world.command(BAILEY);
        command.env("BAILEY_CONFIG", world.config(config)).current_dir(world.directory("job"));
        command.args(["apptainer", "exec", "--contain", "-B", &format!("{}:/inner:ro", image().display())]);
        command.arg(&peers).args(["env", "-u", "APPTAINER_BIND", "-u", "SINGULARITY_BIND"]);
        command.args(["/usr/bin/apptainer", "-q", "exec", "--userns", "--contain", "--pid", "/inner"]);
        command.args(["/bin/sh", "-c", "id -u; exit 5"]).output().unwrap()
    };
    let output = run(GRANTED);
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (5, format!("{}\n", nix::unistd::geteuid())),
        "{}",
        text(&output.stderr)
    );
    let output = run("");
    assert_ne!(code(&output), 5, "{}", text(&output.stdout));
}

// Three deep, because Apptainer is in the peers' root only: bailey, in it Apptainer with its own walls, in that bailey.
#[test]
fn bailey_in_apptainer() {
    let Some(peers) = peers() else {
        return support::skip("bailey_in_apptainer", "no Apptainer: run tests/peers.sh as root");
    };
    let world = World::new();
    for flags in [&["--userns"][..], &["--userns", "--contain"], &["--userns", "-C"]] {
        let mut command = world.command(BAILEY);
        command.env("BAILEY_CONFIG", world.config(GRANTED)).current_dir(world.directory("job"));
        command.args([
            "apptainer",
            "exec",
            "--contain",
            "-B",
            &format!("{}:/inner:ro,{BAILEY}:/bailey:ro", image().display()),
        ]);
        command.arg(&peers).args(["env", "-u", "APPTAINER_BIND", "-u", "SINGULARITY_BIND"]);
        command.args(["/usr/bin/apptainer", "-q", "exec"]).args(flags);
        command.args([
            "-B",
            "/bailey:/opt/apptainer",
            "-B",
            "/inner:/inner",
            "/inner",
            "env",
            "-u",
            "APPTAINER_BIND",
        ]);
        command.args([
            "-u",
            "SINGULARITY_BIND",
            "/opt/apptainer",
            "exec",
            "--contain",
            "/inner",
            "/bin/sh",
            "-c",
            "id -u; exit 6",
        ]);
        let output = command.output().unwrap();
        let said = (code(&output), text(&output.stdout));
        assert_eq!(said, (6, format!("{}\n", nix::unistd::geteuid())), "{flags:?} {}", text(&output.stderr));
    }
}
