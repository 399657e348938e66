//! Limits on memory, cores and processes of a real payload: which hold, what the record says of them, and how far
//! setrlimit(2) holds them where there is no control group. S6 of docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{ATTACK, Attack, Started, World, assert_refused, behind, code, stdout, text};

/// The site's configuration; without a control group, whatever this host has.
fn config(world: &World, limits: &str, more: &str) -> PathBuf {
    world
        .config(&format!("[audit]\nrecorder = \"off\"\n[cgroup]\nmode = \"off\"\n[limits]\n{limits}\n{more}"))
}

struct Bed {
    world: World,
    attack: Attack,
    config: PathBuf,
}

impl Bed {
    fn new(limits: &str, more: &str) -> Self {
        let world = World::new();
        let attack = Attack::new(&world);
        let config = config(&world, limits, more);
        Self { world, attack, config }
    }

    fn command(&self, options: &[&str], attack: &[&str]) -> Command {
        let mut command = self.attack.exec(&self.world, options);
        command.args(["--", ATTACK]).args(attack).env("BAILEY_CONFIG", &self.config);
        // Whatever goes wrong here, the machine has processes left.
        behind("prlimit", &["--nproc=4000"], &command)
    }

    fn run(&self, options: &[&str], attack: &[&str]) -> String {
        stdout(&self.command(options, attack).output().unwrap())
    }

    /// The last launch record: limits and what is said of the walls.
    fn recorded(&self) -> (Value, Value) {
        let grid = self.world.records_of("payload-launch").pop().unwrap()["grid"].take();
        (grid["limits"].clone(), grid["sandbox"].clone())
    }
}

/// Where the kernel counts the processes of the whole account, a limit would be the neighbours' too: it is not set, and the
/// record says so.
fn is_counted_by_itself(bed: &Bed, test: &str) -> bool {
    if support::kernel_is(5, 14) {
        return true;
    }
    assert_eq!(bed.run(&["--pids", "5"], &["forks", "20"]), "forks: 20 ok");
    let said = bed.recorded().1["limit_pids"].take();
    assert!(said.as_str().unwrap().starts_with("not enforced: this kernel counts"), "{said}");
    support::skip(test, "this kernel counts the processes of the whole account");
    false
}

#[test]
fn a_process_gets_no_more_memory_than_its_limit() {
    let bed = Bed::new("", "");
    // Without a limit it gets what it wants.
    assert_eq!(bed.run(&[], &["allocate", "256"]), "allocate: ok");
    assert!(bed.recorded().1["limit_memory"].is_null());
    let held = ["--memory", "64M"];
    assert_eq!(bed.run(&held, &["allocate", "256"]), "allocate: ENOMEM");
    // What fits is there, more than once, and addresses that are only reserved are no memory.
    let fits = ["allocate", "48", ",", "allocate", "48", ",", "reserve", "64"];
    assert_eq!(bed.run(&held, &fits), "allocate: ok\nallocate: ok\nreserve: ok");
    let (limits, sandbox) = bed.recorded();
    assert_eq!(limits["memory"], 64 << 20);
    assert_eq!(sandbox["limit_memory"], "rlimit: 64 MiB for each process, not for all together");
    // And so it is: two processes have twice as much.
    let script = format!("{ATTACK} allocate 48 & {ATTACK} allocate 48; wait");
    let mut both = bed.attack.exec(&bed.world, &held);
    both.args(["--", "/bin/sh", "-c", &script]).env("BAILEY_CONFIG", &bed.config);
    assert_eq!(stdout(&both.output().unwrap()), "allocate: ok\nallocate: ok");
    assert_eq!(bed.run(&held, &["raise", ",", "allocate", "256"]).lines().next(), Some("raise-data: EPERM"));
    // The least that may be asked is enough to start something.
    let mut least =
        bed.world.exec(&["--memory", "4M", "--", "/bin/sh", "-c", "echo started; exec /bin/true"]);
    assert_eq!(stdout(&least.env("BAILEY_CONFIG", &bed.config).output().unwrap()), "started");
    // An interpreter, as it is, runs in it.
    let script = "my $x = 'x' x (100 << 20); print length $x";
    let perl = |options: &[&str]| {
        let mut command = bed.attack.exec(&bed.world, options);
        command.args(["--", "perl", "-e", script]).env("BAILEY_CONFIG", &bed.config).output().unwrap()
    };
    assert_eq!(stdout(&perl(&["--memory", "256M"])), (100 << 20).to_string());
    let output = perl(&held);
    assert!(!output.status.success() && text(&output.stderr).contains("Out of memory"), "{output:?}");
}

#[test]
fn a_payload_has_no_more_processes_than_its_limit() {
    let bed = Bed::new("", "");
    if !is_counted_by_itself(&bed, "a_payload_has_no_more_processes_than_its_limit") {
        return;
    }
    assert_eq!(bed.run(&[], &["forks", "20", ",", "threads", "20"]), "forks: 20 ok\nthreads: 20 ok");
    // A neighbour of the same uid has more processes than the limit of the other one.
    let mut neighbour =
        Started::new(&mut bed.command(&[], &["forks", "20", ",", "wait-for-line", ",", "forks", "20"]));
    assert_eq!(neighbour.line(), "forks: 20 ok");
    let held = ["--pids", "5"];
    // The first process is one of the five; init is not.
    assert_eq!(bed.run(&held, &["forks", "20", ",", "forks", "4"]), "forks: 4 EAGAIN\nforks: 4 ok");
    assert_eq!(bed.run(&held, &["threads", "20"]), "threads: 4 EAGAIN", "threads count");
    assert_eq!(bed.run(&["--pids", "1"], &["forks", "1"]), "forks: 0 EAGAIN");
    assert_eq!(bed.run(&held, &["raise", ",", "forks", "20"]).lines().nth(1), Some("raise-nproc: EPERM"));
    let (limits, sandbox) = bed.recorded();
    assert_eq!(
        (&limits["pids"], &sandbox["limit_pids"]),
        (&5.into(), &"rlimit: 5 processes and threads".into())
    );
    // Neither did the neighbour feel anything.
    std::io::Write::write_all(neighbour.child.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    assert_eq!(neighbour.line(), "forks: 20 ok");
    assert!(neighbour.end().success());
}

#[test]
fn a_kernel_that_counts_the_whole_account_limits_nobody() {
    let bed = Bed::new("", "");
    // personality(2) can make any kernel an old one, as far as its name goes.
    let old = |options: &[&str]| {
        let command = bed.command(options, &["forks", "20"]);
        stdout(&behind("setarch", &["--uname-2.6"], &command).output().unwrap())
    };
    assert_eq!(old(&["--pids", "5"]), "forks: 20 ok");
    let (limits, sandbox) = bed.recorded();
    assert_eq!(limits["pids"], 5);
    let said = sandbox["limit_pids"].as_str().unwrap();
    assert_eq!(
        said,
        "not enforced: this kernel counts the processes of the whole account (before Linux 5.14)"
    );
}

#[test]
fn a_namespace_of_its_own_is_no_way_around_the_limit() {
    let bed = Bed::new("", "[sandbox]\nnested_namespaces = true\n");
    if !is_counted_by_itself(&bed, "a_namespace_of_its_own_is_no_way_around_the_limit") {
        return;
    }
    let attack = ["own-namespace", ",", "forks", "20"];
    assert_eq!(bed.run(&["--nested"], &attack), "own-namespace: ok\nforks: 20 ok");
    assert_eq!(bed.run(&["--nested", "--pids", "5"], &attack), "own-namespace: ok\nforks: 4 EAGAIN");
}

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    let bed = Bed::new("", "");
    if !is_counted_by_itself(&bed, "a_fork_bomb_stays_within_its_limit") {
        return;
    }
    let peak = |said: &str| said.strip_prefix("bomb: ").unwrap().parse::<u32>().unwrap();
    let free = peak(&bed.run(&[], &["bomb", "300"]));
    assert!(free > 200, "{free}");
    let start = Instant::now();
    let held = peak(&bed.run(&["--pids", "50"], &["bomb", "300"]));
    assert!((30..=50).contains(&held), "{held}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(bed.world.records_of("payload-end").len(), 2);
    bed.world.assert_no_trace();
}

#[test]
fn the_sites_defaults_and_maxima() {
    let bed = Bed::new(
        "memory = \"64M\"\nmost_memory = \"1G\"\ncpus = \"0.5\"\nmost_cpus = \"2\"\npids = \"16\"\nmost_pids = \"32\"\n",
        "",
    );
    let grid = |options: &[&str]| {
        assert_eq!(bed.run(options, &["exit", "0"]), "");
        let (limits, _) = bed.recorded();
        (
            limits["memory"].as_u64().unwrap(),
            limits["cpus_milli"].as_u64().unwrap(),
            limits["pids"].as_u64().unwrap(),
        )
    };
    assert_eq!(grid(&[]), (64 << 20, 500, 16));
    assert_eq!(grid(&["--memory", "1G", "--cpus", "2", "--pids", "32"]), (1 << 30, 2000, 32));
    assert_eq!(grid(&["--memory", "8M", "--cpus", "0.001", "--pids", "1"]), (8 << 20, 1, 1));
    // The default is held, not only written down.
    assert_eq!(bed.run(&[], &["allocate", "256"]), "allocate: ENOMEM");
    assert_eq!(bed.run(&["--memory", "1G"], &["allocate", "256"]), "allocate: ok");
    let (_, sandbox) = bed.recorded();
    assert_eq!(sandbox["limit_cpus"], "not enforced: needs a control group");

    let count = bed.world.records_of("payload-launch").len();
    for (options, words) in [
        (["--memory", "1025M"], ["1025 MiB", "1 GiB at most", "limits.most_memory"]),
        (["--cpus", "2.001"], ["2.001 cores", "2 cores at most", "limits.most_cpus"]),
        (["--pids", "33"], ["33 processes", "32 processes and threads at most", "limits.most_pids"]),
    ] {
        let output = bed.command(&options, &["exit", "0"]).output().unwrap();
        assert_refused(&output, 125, &[&words[..], &["ask for less"]].concat());
        let dry = bed.command(&[&options[..], &["--dry-run"]].concat(), &["exit", "0"]).output().unwrap();
        assert_eq!(code(&dry), 125, "a plan is refused as the launch is");
    }
    assert_eq!(bed.world.records_of("payload-launch").len(), count, "nothing ran");
    let plan = bed.run(&["--dry-run", "--pids", "20"], &["exit", "0"]);
    for line in [
        "memory       64 MiB at most",
        "cpus         0.5 cores at most",
        "processes    20 at most, threads included",
        "limit_memory: rlimit: 64 MiB for each process",
    ] {
        assert!(plan.contains(line), "'{line}' is not in {plan}");
    }
    // An administrator sees how far they hold on this host.
    let mut check = bed.world.command(support::BAILEY);
    let output = check.args(["check", "--json"]).env("BAILEY_CONFIG", &bed.config).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        let rows = report["checks"].as_array().unwrap();
        let row =
            rows.iter().find(|row| row["mechanism"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
        (row["wanted"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(row("limit_memory"), ("preferred".to_owned(), "weaker".to_owned()));
    assert_eq!(row("limit_cpus"), ("preferred".to_owned(), "off".to_owned()));
    let free = World::new();
    let plan = stdout(&free.exec(&["--dry-run", "--", "/bin/true"]).output().unwrap());
    assert!(plan.contains("memory       no limit\ncpus         no limit\nprocesses    no limit\n"), "{plan}");
}

#[test]
fn what_a_rule_allows() {
    let bed = Bed::new(
        "memory = \"512M\"\nmost_memory = \"2G\"\n",
        "[[rule]]\nid = \"small\"\nvo = [\"small\"]\nmemory = \"64M\"\ncpus = \"0.5\"\npids = \"16\"\n\
         [[rule]]\nid = \"large\"\nvo = [\"large\"]\nmemory = \"1G\"\n",
    );
    let with = |vo: &'static str, more: &[&'static str]| [&["--user", "x", "--vo", vo][..], more].concat();
    let refused = [
        (
            &["--memory", "65M"][..],
            ["a memory limit of 65 MiB is not granted here (rule 'small'", "ask for 64 MiB at most"],
        ),
        (
            &["--cpus", "0.6"],
            ["a limit of 0.6 cores is not granted here (rule 'small'", "ask for 0.5 cores at most"],
        ),
        (
            &["--pids", "17"],
            ["a limit of 17 processes and threads is not granted here (rule 'small'", "ask for 16 at most"],
        ),
    ];
    for (options, words) in refused {
        let output: Output = bed.command(&with("small", options), &["exit", "0"]).output().unwrap();
        assert_refused(&output, 120, &words);
        assert_eq!(bed.run(&with("other", options), &["exit", "0"]), "", "others may");
    }
    // It holds also for those who ask nothing, and never widens the site's default.
    assert_eq!(bed.run(&with("small", &[]), &["allocate", "256"]), "allocate: ENOMEM");
    let (limits, _) = bed.recorded();
    assert_eq!([&limits["memory"], &limits["cpus_milli"], &limits["pids"]], [64 << 20, 500, 16]);
    assert_eq!(bed.run(&with("large", &[]), &["allocate", "256"]), "allocate: ok");
    assert_eq!(bed.recorded().0["memory"], 512 << 20);
    assert_eq!(bed.run(&with("large", &["--memory", "1G"]), &["exit", "0"]), "");
    assert_eq!(bed.recorded().0["memory"], 1 << 30);

    // What is explained is what happens.
    let explain = |options: &[&str]| {
        let mut command = bed.world.command(support::BAILEY);
        command.args(["policy", "explain"]).args(options).env("BAILEY_CONFIG", &bed.config);
        let output = command.output().unwrap();
        (code(&output), text(&output.stdout))
    };
    let (code, said) = explain(&with("small", &[]));
    for line in [
        "memory     64 MiB at most",
        "cpus       0.5 cores at most",
        "processes  16 at most, threads included",
    ] {
        assert!(code == 0 && said.contains(line), "'{line}' is not in {said}");
    }
    let (code, said) = explain(&with("small", &["--pids", "17"]));
    assert!(code == 1 && said.contains("17 processes and threads is not granted here"), "{said}");
    let (_, said) = explain(&with("other", &["--memory", "3G"]));
    assert!(said.contains("whatever rules say: cannot give 3 GiB"), "{said}");
    let (_, said) = explain(&with("small", &["--json"]));
    let held = &serde_json::from_str::<Value>(&said).unwrap()["obligations"];
    assert_eq!([&held["memory"], &held["cpus_milli"], &held["pids"]], [64 << 20, 500, 16]);
}

#[test]
fn numbers_that_are_none() {
    let world = World::new();
    let cases: [(&[&str], &str); 22] = [
        (&["--memory", "0"], "zero"),
        (&["--memory", "0G"], "zero"),
        (&["--memory", "-1G"], "not a size"),
        (&["--memory", "+1G"], "not a size"),
        (&["--memory", ""], "not a size"),
        (&["--memory", "1.5G"], "unknown unit"),
        (&["--memory", "2GB"], "unknown unit 'GB'"),
        (&["--memory", "2Q"], "unknown unit 'Q'"),
        (&["--memory", "lots"], "not a size"),
        (&["--memory", "16777216T"], "too large"),
        (&["--memory", "99999999999999999999"], "not a size"),
        (&["--memory", "4095K"], "name at least 4M"),
        (&["--memory", "1"], "name at least 4M"),
        (&["--cpus", "0"], "zero"),
        (&["--cpus", "-2"], "not a number of cores"),
        (&["--cpus", "all"], "not a number of cores"),
        (&["--cpus", "0.0001"], "not a number of cores"),
        (&["--cpus", "1000001"], "more than a million"),
        (&["--pids", "0"], "zero"),
        (&["--pids", "-1"], "not a whole number"),
        (&["--pids", "1K"], "not a whole number"),
        (&["--pids", "99999999"], "name 4194304 at most"),
    ];
    for (options, word) in cases {
        let output = world.exec(&[options, &["--", "/bin/true"]].concat()).output().unwrap();
        assert_refused(&output, 125, &[word]);
    }
    assert!(world.records_of("payload-launch").is_empty());
}
