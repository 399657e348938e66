//! Everything that is read from outside, over the seeds of the fuzzers, every beginning of them, and changes of them: nothing
//! panics, and what is understood holds what `src/fuzzing/` says of it. The same every time; `make fuzz` does it with coverage.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::{Duration, Instant};

use bailey::fuzzing::{Random, TARGETS, Target, made, mutate};

/// Changes of each target's seeds.
const ROUNDS: usize = if cfg!(debug_assertions) { 2000 } else { 50_000 };
/// A target that is slow here stops early, but not before so many.
const LEAST: usize = 200;
const ENOUGH: Duration = Duration::from_secs(1);
/// Longer seeds are cut at so many places only.
const CUTS: usize = 400;
/// What no input may take. They are some kilobytes long; an unoptimised build on a busy host takes a few milliseconds.
const LONGEST: Duration = Duration::from_secs(5);

/// Those of the repository and those that this build makes.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()))
        .collect();
    seeds.sort();
    seeds.extend(made().into_iter().filter(|(of, ..)| *of == target).map(|(_, name, bytes)| (name, bytes)));
    seeds
}

/// Runs one input; what made a target panic is said, so that it can become a seed.
fn run(name: &str, target: Target, bytes: &[u8]) -> bool {
    let begin = Instant::now();
    let result = std::panic::catch_unwind(|| target(bytes));
    let took = begin.elapsed();
    match result {
        Ok(understood) if took < LONGEST => understood,
        other => {
            let why = if other.is_ok() { format!("took {took:?}") } else { "panicked".to_owned() };
            panic!("{name} {why} on b\"{}\"", bytes.escape_ascii());
        }
    }
}

fn every_input(name: &str, target: Target) {
    let seeds = seeds(name);
    let understood = seeds.iter().filter(|(_, bytes)| run(name, target, bytes)).count();
    assert!(understood > 0, "{name}: of {} seeds none is understood: they test nothing", seeds.len());
    for (_, seed) in &seeds {
        let step = seed.len() / CUTS + 1;
        for end in (0..seed.len()).step_by(step) {
            run(name, target, seed.get(..end).unwrap());
        }
    }
    let all: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (begin, mut rounds, mut refused) = (Instant::now(), 0, 0);
    while rounds < ROUNDS && (rounds < LEAST || begin.elapsed() < ENOUGH) {
        let mut bytes = all.get(rounds % all.len()).unwrap().clone();
        mutate(&mut bytes, &all, &mut random);
        refused += usize::from(!run(name, target, &bytes));
        rounds += 1;
    }
    assert!(refused > 0, "{name}: it takes everything for understood");
    println!("{name}: {understood} of {} seeds understood, {rounds} changes, {refused} refused", all.len());
}

/// One test for each target, so that they run side by side, and a list that must be complete.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            every_input(stringify!($name), bailey::fuzzing::target(stringify!($name)));
        })*

        #[test]
        fn every_target_has_its_test_its_program_and_its_seeds() {
            let tested = [$(stringify!($name)),*];
            let known = TARGETS.map(|(name, _)| name);
            assert_eq!(tested, known);
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            for (dir, end) in [("fuzz_targets", ".rs"), ("seeds", "")] {
                let mut names: Vec<String> = std::fs::read_dir(root.join(dir))
                    .unwrap()
                    .map(|file| file.unwrap().file_name().into_string().unwrap())
                    .map(|name| name.strip_suffix(end).unwrap_or(&name).to_owned())
                    .collect();
                names.sort();
                assert_eq!(names, known, "fuzz/{dir}");
            }
        }
    };
}

targets!(
    accounts, bans, child, command, compiled, config, cursor, groups, identity, image, index, job_ad, line,
    live, name, pattern, proc, redact, runtime, segment, systems, values, when, wire,
);

/// Writes the seeds that this build makes into the repository: `BAILEY_WRITE_SEEDS=1 cargo test --features test-hooks --test
/// parsers made`. Without the variable they are only looked at: each is understood by its target.
#[test]
fn made_seeds_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = std::env::var_os("BAILEY_WRITE_SEEDS").is_some();
    for (name, seed, bytes) in made() {
        assert!(run(name, bailey::fuzzing::target(name), &bytes), "{name}/{seed}");
        if write {
            std::fs::write(root.join(name).join(seed), bytes).unwrap();
        }
    }
}
