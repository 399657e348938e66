//! The release program as it is installed: one static file, hardened, that names itself in its records and has no hook for
//! tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use std::path::PathBuf;
use std::process::Command;
use support::{World, assert_refused, code, image, stdout, text};

fn release() -> PathBuf {
    std::env::var_os("BAILEY_TEST_RELEASE").expect("BAILEY_TEST_RELEASE: run tests/test.sh").into()
}

fn readelf(option: &str) -> String {
    let mut command = Command::new("readelf");
    command.args(["--wide", option]).arg(release()).env("LC_ALL", "C");
    stdout(&command.output().expect("readelf (binutils)"))
}

#[test]
fn it_is_one_static_position_independent_file() {
    let output = Command::new("file").arg("--brief").arg(release()).output().expect("file");
    assert!(stdout(&output).contains("static-pie linked"), "{}", text(&output.stdout));
    assert!(readelf("--file-header").contains("DYN (Position-Independent Executable file)"));
    let segments = readelf("--program-headers");
    assert!(!segments.contains("INTERP"), "it asks for a dynamic loader:\n{segments}");
    let dynamic = readelf("--dynamic");
    assert!(!dynamic.contains("(NEEDED)"), "it needs shared libraries:\n{dynamic}");
    for search in ["(RPATH)", "(RUNPATH)", "(TEXTREL)"] {
        assert!(!dynamic.contains(search), "{search}");
    }
    // Addresses that the start has written are read-only from then on, and nothing is bound later.
    assert!(segments.contains("GNU_RELRO"), "{segments}");
    assert!(dynamic.contains("BIND_NOW") || dynamic.contains("NOW"), "{dynamic}");
    let stack = segments.lines().find(|line| line.contains("GNU_STACK")).expect("GNU_STACK");
    assert!(stack.contains(" RW ") && !stack.contains("RWE"), "an executable stack: {stack}");
    let loads: Vec<&str> = segments.lines().filter(|line| line.trim_start().starts_with("LOAD")).collect();
    assert!(loads.len() > 2 && !loads.iter().any(|line| line.contains("RWE")), "{loads:#?}");
}

#[test]
fn its_records_name_its_build() {
    let notes = readelf("--notes");
    let build = notes.split_once("Build ID: ").expect("a build id").1.lines().next().unwrap().trim();
    assert!(build.len() >= 16 && build.bytes().all(|byte| byte.is_ascii_hexdigit()), "{build}");
    let world = World::new();
    let mut command = world.command(release());
    command.args(["exec", "--image"]).arg(image()).args(["--", "/bin/echo", "hello"]);
    assert_eq!(stdout(&command.output().unwrap()), "hello");
    let launch = world.records_of("payload-launch").pop().unwrap();
    assert_eq!(launch["grid"]["launcher"]["build_id"], build);
    assert_eq!(launch["grid"]["launcher"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(launch["process"]["parent"]["executable"], release().to_str().unwrap());
}

#[test]
fn it_takes_no_configuration_from_the_environment() {
    let world = World::new();
    let elsewhere = world.directory("elsewhere");
    let config = world.file("bailey.toml", &format!("[audit]\ndir = \"{}\"\n", elsewhere.display()));
    let run = |program: PathBuf, config: PathBuf| {
        let mut command = world.command(program);
        command.args(["exec", "--image"]).arg(image()).args(["--", "/bin/true"]).env("BAILEY_CONFIG", config);
        command.output().unwrap()
    };
    // The test build honours it, so the variable is the right one.
    assert_eq!(code(&run(support::BAILEY.into(), config.clone())), 0);
    assert!(elsewhere.join("lock").exists() && world.records().is_empty());
    let count = || std::fs::read_dir(&elsewhere).unwrap().count();
    let before = (count(), std::fs::metadata(elsewhere.join("lock")).unwrap().modified().unwrap());
    assert_refused(&run(support::BAILEY.into(), world.path("missing.toml")), 125, &["missing.toml"]);

    assert_eq!(code(&run(release(), config)), 0);
    assert_eq!(code(&run(release(), world.path("missing.toml"))), 0);
    assert_eq!(world.records_of("payload-end").len(), 2);
    let after = (count(), std::fs::metadata(elsewhere.join("lock")).unwrap().modified().unwrap());
    assert_eq!(before, after, "the release wrote where the pilot's environment said");
}
