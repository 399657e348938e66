//! Rules on overuse while a real payload runs: the record, the sentence, the exit code, the status file, and what it costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{Started, World, code, image, proc_status, status, text};

const SPIN: &str = "while :; do :; done";

/// A configuration with these rules and no shipped one.
// Without control groups, which some hosts give and some do not; with them: tests/cgroup.rs.
fn config(rules: &str) -> String {
    let off = "[\"cpu-over-request\", \"memory-near-request\", \"many-processes\", \"hardly-reads\"]";
    format!("[audit]\nrecorder = \"off\"\n[cgroup]\nmode = \"off\"\n[limits]\noveruse_off = {off}\n{rules}")
}

/// `bailey exec --image IMAGE OPTIONS -- sh -c SCRIPT` under these rules, not started yet.
fn command(world: &World, rules: &str, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(options).args(["--", "/bin/sh", "-c", script]);
    command.env("BAILEY_CONFIG", world.config(&config(rules)));
    command
}

fn run(world: &World, rules: &str, options: &[&str], script: &str) -> Output {
    command(world, rules, options, script).output().unwrap()
}

/// The actions of the records, in their order, without those of the log's own life.
fn actions(records: &[Value]) -> Vec<String> {
    let actions = records.iter().map(|record| record["event"]["action"].as_str().unwrap().to_owned());
    actions.filter(|action| action.starts_with("payload-")).collect()
}

fn only(mut records: Vec<Value>) -> Value {
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

// ---- Cores ----

#[test]
fn more_cores_than_asked_for_is_told_and_then_stopped() {
    let world = World::new();
    let rules = "[[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.2\"\nfor = \"3s\"\n\
        steps = [\"notice\", \"throttle\", \"stop\"]\nevery = \"2s\"\ngrace = \"30s\"\n";
    let options = [
        "--cpus",
        "0.1",
        "--memory",
        "2G",
        "--pids",
        "100",
        "--status-file",
        "st.json",
        "--user",
        "/CN=Spin",
    ];
    let script = format!("({SPIN}) & {SPIN}");
    let start = Instant::now();
    let output = run(&world, rules, &options, &script);
    let said = text(&output.stderr);
    assert_eq!(code(&output), 123, "{said}");
    assert!(start.elapsed() >= Duration::from_secs(7), "three seconds and twice two: {:?}", start.elapsed());

    let launch = only(world.records_of("payload-launch"));
    let id = launch["event"]["id"].as_str().unwrap();
    assert_eq!(launch["grid"]["limits"]["cpus_milli"], 100);
    assert_eq!(launch["grid"]["limits"]["memory"], 2_u64 << 30);
    assert_eq!(launch["grid"]["limits"]["pids"], 100);
    let sandbox = &launch["grid"]["sandbox"];
    assert!(
        sandbox["overuse"]
            .as_str()
            .unwrap()
            .starts_with("on: cores; cpu-over-request - off: the site's configuration"),
        "{sandbox}"
    );
    assert_eq!(sandbox["limit_cpus"], "not enforced: needs a control group");

    // The record has a step before the next one comes, and the stop before its signal.
    let records = world.records();
    assert_eq!(
        actions(&records),
        ["payload-launch", "payload-notice", "payload-notice", "payload-stop", "payload-end"]
    );
    let steps: Vec<&Value> =
        records.iter().map(|record| &record["grid"]["overuse"]).filter(|o| o.is_object()).collect();
    for (overuse, step) in steps.iter().zip(["notice", "throttle", "stop"]) {
        assert_eq!((&overuse["rule"], &overuse["metric"]), (&"cores".into(), &"cpu".into()));
        assert_eq!((&overuse["step"], &overuse["threshold"]), (&step.into(), &1.2.into()));
        assert!(overuse["value"].as_f64().unwrap() > 1.2, "{overuse}");
        assert!(
            overuse["for_seconds"].as_u64().unwrap() >= if step == "notice" { 3 } else { 2 },
            "{overuse}"
        );
    }
    let end = records.last().unwrap();
    assert_eq!(end["grid"]["end"]["by"], "overuse");
    assert_eq!(end["grid"]["end"]["signal"], "SIGTERM");
    assert_eq!(end["event"]["outcome"], "failure");
    assert!(
        end["event"]["reason"].as_str().unwrap().starts_with("bailey stopped the payload because it used ")
    );

    // One sentence for each step, as in the record.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    let noted: Vec<&Value> = records
        .iter()
        .filter(|record| record["grid"]["overuse"].is_object())
        .map(|record| &record["event"]["reason"])
        .collect();
    for (line, reason) in lines.iter().zip(noted) {
        assert_eq!(*line, format!("bailey: launch {id}: {}", reason.as_str().unwrap()));
        assert!(line.contains("and may use 0.1 (rule cores)"), "{line}");
    }
    assert!(lines[0].ends_with("if this goes on it is slowed down in 2 s"), "{said}");
    assert!(
        lines[1].contains("cannot throttle here: no cgroup") && lines[1].ends_with("it is stopped in 2 s"),
        "{said}"
    );
    assert!(
        lines[2].contains("bailey stops the payload: it used")
            && lines[2].ends_with("SIGTERM now, SIGKILL in 30 s")
    );

    let st = status(&world.path("st.json"));
    assert_eq!((&st["exit_code"], &st["from_bailey"]), (&123.into(), &true.into()));
    assert_eq!(
        (&st["fault"], &st["ended_by"], &st["state"]),
        (&"user".into(), &"overuse".into(), &"ended".into())
    );
    assert_eq!(st["message"], end["event"]["reason"]);
    world.assert_chain();
    world.assert_no_trace();
}

#[test]
fn what_children_and_orphans_used_counts() {
    // Short processes one after the other, none of which is there in two samples; and daemons that init reaps.
    let burn = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    for script in
        [format!("while :; do ({burn}); done"), format!("while :; do (({burn}) & ) ; sleep 0.1; done")]
    {
        let world = World::new();
        let rules = "[[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.2\"\nfor = \"3s\"\nsteps = [\"stop\"]\n";
        let output = run(&world, rules, &["--cpus", "0.05", "--wall-time", "60s"], &script);
        assert_eq!(code(&output), 123, "{script}: {}", text(&output.stderr));
        assert_eq!(only(world.records_of("payload-end"))["grid"]["end"]["by"], "overuse");
    }
}

#[test]
fn who_stays_within_hears_nothing() {
    let world = World::new();
    let rules = "[[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.2\"\nfor = \"2s\"\nsteps = [\"notice\", \"stop\"]\n\
        [[overuse]]\nid = \"many\"\nmetric = \"processes\"\nabove = \"20\"\nfor = \"1s\"\nsteps = [\"stop\"]\n";
    let output = run(&world, rules, &["--cpus", "3"], &format!("({SPIN}) & sleep 5; kill $!; exit 7"));
    assert_eq!((code(&output), text(&output.stderr).as_str()), (7, ""));
    assert_eq!(actions(&world.records()), ["payload-launch", "payload-end"]);
}

#[test]
fn a_rule_without_its_request_waits_and_says_so() {
    let world = World::new();
    let rules = "[[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.2\"\nfor = \"1s\"\nsteps = [\"stop\"]\n\
        [[overuse]]\nid = \"memory\"\nmetric = \"memory\"\nabove = \"90%\"\nfor = \"1s\"\nsteps = [\"stop\"]\n";
    let output = run(&world, rules, &["--memory", "64M"], &format!("({SPIN}) & sleep 3; kill $!"));
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    let launch = only(world.records_of("payload-launch"));
    let said = launch["grid"]["sandbox"]["overuse"].as_str().unwrap();
    assert!(said.starts_with("off; "), "{said}");
    assert!(said.contains("cores - waits for --cpus: there is no limit"), "{said}");
    assert!(said.contains("memory - waits for cgroups: the sum over processes is not the truth"), "{said}");
    assert!(launch["grid"]["limits"]["cpus_milli"].is_null());
}

// ---- Processes ----

#[test]
fn a_crowd_of_processes_is_told_once() {
    let world = World::new();
    let rules = "[[overuse]]\nid = \"crowd\"\nmetric = \"processes\"\nabove = \"20\"\nfor = \"2s\"\n";
    let script = "i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done; sleep 6; exit 9";
    let output = run(&world, rules, &["--status-file", "st.json"], script);
    let said = text(&output.stderr);
    assert_eq!(code(&output), 9, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains(": the payload has had more than 20 processes for ") && said.contains("(rule crowd)"),
        "{said}"
    );
    let notice = only(world.records_of("payload-notice"));
    assert_eq!(notice["grid"]["overuse"]["value"], 32.0, "thirty, the shell, and its sleep");
    assert_eq!(notice["grid"]["overuse"]["threshold"], 20.0);
    assert_eq!(only(world.records_of("payload-end"))["grid"]["end"]["by"], "payload");
    assert_eq!(status(&world.path("st.json"))["from_bailey"], false);
}

#[test]
fn a_stop_reaches_who_does_not_listen() {
    let world = World::new();
    let rules = "[[overuse]]\nid = \"crowd\"\nmetric = \"processes\"\nabove = \"20\"\nfor = \"1s\"\nsteps = [\"stop\"]\ngrace = \"1s\"\n";
    let script =
        "trap '' TERM; i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done; while :; do sleep 60; done";
    let start = Instant::now();
    let output = run(&world, rules, &[], script);
    assert_eq!(code(&output), 123, "{}", text(&output.stderr));
    assert!(start.elapsed() < support::patience(Duration::from_secs(20)), "{:?}", start.elapsed());
    let end = only(world.records_of("payload-end"));
    assert_eq!(
        (&end["grid"]["end"]["by"], &end["grid"]["end"]["signal"]),
        (&"overuse".into(), &"SIGKILL".into())
    );
    world.assert_no_trace();
}

#[test]
fn the_policy_exempts_and_the_vo_has_a_contact() {
    let rules = "[[overuse]]\nid = \"crowd\"\nmetric = \"processes\"\nabove = \"20\"\nfor = \"1s\"\n\
        [[rule]]\nid = \"workflows\"\nvo = [\"gcr\"]\noveruse_exempt = [\"crowd\"]\n\
        [[vo]]\nname = \"atlas\"\nuser_contact = \"help@atlas.example\"\n\
        [[vo]]\nname = \"gcr\"\nuser_contact = \"help@gcr.example\"\n";
    let script = "i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done; sleep 4; exit 0";
    let world = World::new();
    let output = run(&world, rules, &["--vo", "atlas"], script);
    let said = text(&output.stderr);
    assert_eq!((code(&output), said.lines().count()), (0, 1), "{said}");
    assert!(said.ends_with("; questions: help@atlas.example\n"), "{said}");

    let world = World::new();
    let output = run(&world, rules, &["--vo", "gcr"], script);
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    let launch = only(world.records_of("payload-launch"));
    let overuse = launch["grid"]["sandbox"]["overuse"].as_str().unwrap();
    assert!(overuse.starts_with("off; ") && overuse.contains("crowd - exempt by policy"), "{overuse}");
    assert!(world.records_of("payload-notice").is_empty());
}

// ---- Reading ----

#[test]
fn who_computes_and_does_not_read_is_told_and_a_reader_is_not() {
    let rules = "[[overuse]]\nid = \"reads\"\nmetric = \"reading\"\nbelow = \"64K\"\nfor = \"5s\"\nmin_cpu = \"1s\"\n";
    let notices = |script: &str| {
        let world = World::new();
        let output = run(&world, rules, &["--wall-time", "9s"], script);
        assert_eq!(code(&output), 124, "it may only notice: {}", text(&output.stderr));
        (world.records_of("payload-notice"), text(&output.stderr))
    };
    let (computes, reads) = std::thread::scope(|scope| {
        let computes = scope.spawn(|| notices(SPIN));
        // A loop that reads a megabyte in each of its short children.
        let reads = scope.spawn(|| notices("while :; do head -c 1000000 /dev/zero >/dev/null; done"));
        (computes.join().unwrap(), reads.join().unwrap())
    });
    let notice = only(computes.0);
    assert_eq!(
        (&notice["grid"]["overuse"]["metric"], &notice["grid"]["overuse"]["step"]),
        (&"reading".into(), &"notice".into())
    );
    assert_eq!(notice["grid"]["overuse"]["threshold"], 65536.0);
    assert!(computes.1.contains("that is right for a simulation"), "{}", computes.1);
    assert_eq!(reads.0, [Value::Null; 0], "{}", reads.1);
}

// ---- With the recorder ----

#[test]
fn the_recorder_records_and_counts_every_step() {
    let world = World::new();
    let mut recorder = Recorder::not_started(&world, &[]);
    let mut rules = fs::read_to_string(&recorder.config).unwrap();
    rules += "[[overuse]]\nid = \"crowd\"\nmetric = \"processes\"\nabove = \"20\"\nfor = \"1s\"\nsteps = [\"notice\", \"stop\"]\n";
    fs::write(&recorder.config, rules).unwrap();
    recorder.restart();
    let mut command = recorder.exec(&world, &["--status-file", "st.json", "--image"]);
    command.arg(image()).args(["--", "/bin/sh", "-c"]);
    let output =
        command.arg("i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done; wait").output().unwrap();
    assert_eq!(code(&output), 123, "{}", text(&output.stderr));
    let records = recorder.records();
    assert_eq!(actions(&records), ["payload-launch", "payload-notice", "payload-stop", "payload-end"]);
    let of = |action: &str| only(recorder.records_of(action));
    assert_eq!(of("payload-notice")["grid"]["overuse"]["step"], "notice");
    let stop = of("payload-stop");
    assert_eq!(
        (&stop["grid"]["overuse"]["step"], &stop["grid"]["overuse"]["rule"]),
        (&"stop".into(), &"crowd".into())
    );
    assert!(stop["grid"]["peer"].is_null(), "nobody asked for it");
    let end = of("payload-end");
    assert_eq!(end["grid"]["end"]["by"], "overuse");
    assert!(end["grid"]["overuse"].is_null());
    assert!(of("payload-launch")["grid"]["sandbox"]["overuse"].as_str().unwrap().contains("crowd"));
    assert_eq!(status(&world.path("st.json"))["ended_by"], "overuse");
    let lines = [
        "bailey_overuse_total{metric=\"processes\",step=\"notice\"} 1\n",
        "bailey_overuse_total{metric=\"processes\",step=\"stop\"} 1\n",
        "bailey_ends_total{by=\"overuse\"} 1\n",
    ];
    let start = Instant::now();
    loop {
        let metrics = fs::read_to_string(recorder.state.join("metrics.prom")).unwrap(); // written every 15 s
        match lines.iter().find(|line| !metrics.contains(**line)) {
            None => break,
            Some(line) => assert!(
                start.elapsed() < support::patience(Duration::from_secs(40)),
                "{line} is not in\n{metrics}"
            ),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    recorder.assert_chain(&world);
}

// ---- What it costs ----

/// CPU time of a process so far.
fn cpu_time(pid: i32) -> Duration {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(schedstat.split_whitespace().next().unwrap().parse().unwrap())
}

fn wakes(pid: i32) -> u64 {
    proc_status(pid, "voluntary_ctxt_switches").unwrap().parse().unwrap()
}

/// Kilobytes that it has mapped. (Its share of them, PSS, depends on who else runs the same program.)
fn rss(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

const FINE: &str = "[[overuse]]\nid = \"many\"\nmetric = \"processes\"\nabove = \"5000\"\nfor = \"1s\"\nsteps = [\"stop\"]\n\
    [[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"5\"\nfor = \"1s\"\nsteps = [\"stop\"]\n\
    [[overuse]]\nid = \"reads\"\nmetric = \"reading\"\nbelow = \"1\"\nfor = \"1s\"\nmin_cpu = \"1h\"\n";

#[test]
fn measuring_two_hundred_processes_every_second_costs_next_to_nothing() {
    let world = World::new();
    let script = "i=0; while [ $i -lt 199 ]; do sleep 60 & i=$((i+1)); done; echo ready; read end";
    let mut payload = Started::new(&mut command(&world, FINE, &["--cpus", "8"], script));
    assert_eq!(payload.line(), "ready");
    std::thread::sleep(Duration::from_secs(1));
    // The cheapest of three windows: a neighbour that empties the caches is not its cost.
    let mut cheapest = f64::MAX;
    for _ in 0..3 {
        let (before, woke, start) = (cpu_time(payload.pid()), wakes(payload.pid()), Instant::now());
        std::thread::sleep(Duration::from_secs(4));
        let (used, woke) = (cpu_time(payload.pid()).saturating_sub(before), wakes(payload.pid()) - woke);
        let share = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
        println!(
            "200 processes: {used:?} of CPU time in {:?}, {share:.3} % of a core, {woke} wakes",
            start.elapsed()
        );
        assert!(woke >= 3, "it was not measured: {woke} wakes");
        cheapest = cheapest.min(share);
    }
    payload.signal(libc::SIGKILL);
    payload.end();
    assert!(cheapest < 0.3, "{cheapest} %");
}

#[test]
fn without_a_rule_nobody_wakes_and_with_one_no_memory_is_kept() {
    let mut memory = Vec::new();
    for (rules, options, least, most) in [
        ("", &[][..], 0, 0),
        // It waits for --cpus, so there is none either.
        ("[[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.2\"\nfor = \"1s\"\n", &[], 0, 0),
        (FINE, &["--cpus", "8"], 2, 8),
    ] {
        let world = World::new();
        let rules = format!("[bans]\npoll = \"1h\"\n{rules}"); // that is another one who wakes
        let mut payload = Started::new(&mut command(&world, &rules, options, "echo ready; read end; exit 0"));
        assert_eq!(payload.line(), "ready");
        std::thread::sleep(Duration::from_millis(1200)); // after it settled
        let before = wakes(payload.pid());
        std::thread::sleep(Duration::from_secs(4));
        let woke = wakes(payload.pid()) - before;
        let kilobytes = rss(payload.pid()).unwrap();
        println!("{woke} wakes, {kilobytes} kB");
        memory.push(kilobytes);
        assert!((least..=most).contains(&woke), "{woke} wakes with: {rules}");
        assert_eq!(payload.end().code(), Some(0));
    }
    // What a sample needs of the program is given back after it, as after the start.
    assert!(memory[2] <= memory[0] + 400, "{memory:?} kB");
}

#[test]
fn the_plan_names_the_rules() {
    let world = World::new();
    let output = run(&world, FINE, &["--dry-run"], "true");
    let said = support::stdout(&output);
    assert!(said.contains("overuse: on: many, reads; cpu-over-request - off"), "{said}");
    for bad in [["--cpus", "0"], ["--cpus", "many"], ["--memory", "-1"], ["--pids", "1.5"]] {
        let output = run(&world, FINE, &bad, "true");
        assert_eq!(code(&output), 125, "{bad:?}");
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
}
