//! Control groups for real: where a payload is, what holds it, what is counted, and that nothing is left. Runs with cgroup v1
//! on the machine of the tests and with v2 in virtual machines (tests/beds/kernels.sh).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "support/cgroup.rs"]
mod bed;
mod support;

use bed::Bed;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{
    Started, World, alive_with, assert_refused, code, image, patience, status, stdout, text, wait_for,
};

fn only(mut records: Vec<Value>) -> Value {
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn last(mut records: Vec<Value>) -> Value {
    records.pop().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// The group of a process: the line of memory (v1) or of the unified hierarchy (v2).
fn group_of(version: u8, pid: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let head = if version == 1 { ":memory:" } else { "0::" };
    let line = text.lines().find(|line| line.contains(head)).unwrap();
    line.split_once(head).unwrap().1.to_owned()
}

/// The cores that this test may use, and the last of them.
fn cores() -> (String, String) {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap().to_owned();
    let last = list.rsplit([',', '-']).next().unwrap().to_owned();
    (list, last)
}

#[test]
fn a_payload_runs_on_the_cores_that_it_was_given() {
    let Some(bed) = Bed::new("a_payload_runs_on_the_cores_that_it_was_given") else { return };
    let (all, one) = cores();
    if all == one {
        support::skip("a_payload_runs_on_the_cores_that_it_was_given", "there is one core only");
        return;
    }
    // What it may run on, before and after it asks for all.
    let look = "grep Cpus_allowed_list /proc/self/status";
    let script = format!("{look}; taskset -c {all} {look}");
    let run = |keys: &str| {
        let mut command = bed.exec(&["--cpuset", &one]);
        let config = bed.config(keys, "");
        let output =
            command.env("BAILEY_CONFIG", config).args(["--", "/bin/sh", "-c", &script]).output().unwrap();
        let said = stdout(&output).replace("Cpus_allowed_list:\t", "");
        let launch = last(bed.world.records_of("payload-launch"));
        assert_eq!(launch["grid"]["limits"]["cpuset"], one);
        (said, launch["grid"]["sandbox"]["limit_cpuset"].as_str().unwrap().to_owned())
    };
    let (said, how) = run("");
    assert_eq!((said, how), (format!("{one}\n{one}"), format!("on: cpuset.cpus {one}")));
    // The control: without a group it can undo it, and that is what the record says.
    let (said, how) = run("mode = \"off\"");
    assert_eq!(said, format!("{one}\n{all}"));
    assert_eq!(how, format!("affinity: {one}, which the payload may change for itself"));
    // None that the pilot has not.
    let output = bed.exec(&["--cpuset", "1000", "--", "/bin/true"]).output().unwrap();
    assert_refused(&output, 125, &["cannot run on the cores 1000", &format!("may use {all}"), "--cpuset"]);
    // The launcher itself is where it was, and a payload that asks for nothing runs on all.
    let output =
        bed.exec(&["--", "/bin/sh", "-c", "grep Cpus_allowed_list /proc/$$/status"]).output().unwrap();
    assert!(stdout(&output).ends_with(&all), "{}", stdout(&output));
    bed.assert_as_before();
}

// ---- Where ----

#[test]
fn a_payload_has_a_group_of_its_own_and_the_record_says_which() {
    let Some(bed) = Bed::new("a_payload_has_a_group_of_its_own_and_the_record_says_which") else { return };
    let mut payload =
        Started::new(bed.exec(&["--memory", "1G"]).args(["--", "/bin/sh", "-c", "echo up; read l; exit 0"]));
    assert_eq!(payload.line(), "up");
    let launch = only(bed.world.records_of("payload-launch"));
    let (pid, id) = (launch["process"]["pid"].to_string(), launch["event"]["id"].as_str().unwrap());
    let path = group_of(bed.version, &pid);
    assert_eq!(launch["grid"]["cgroup"]["path"], path);
    assert_eq!(launch["grid"]["cgroup"]["version"], bed.version);
    assert!(path.ends_with(&format!("{}/bailey-{id}", bed.group)), "{path}");
    if bed.version == 2 {
        use std::os::unix::fs::MetadataExt as _;
        let inode = fs::metadata(format!("/sys/fs/cgroup{path}")).unwrap().ino();
        assert_eq!(launch["grid"]["cgroup"]["id"], inode.to_string());
    }
    let said = &launch["grid"]["sandbox"];
    assert!(said["cgroup"].as_str().unwrap().starts_with(&format!("on: v{}, ", bed.version)), "{said}");
    // The launcher is not in it, and the payload's init is.
    let held = fs::read_to_string(bed.dir("memory").join(format!("bailey-{id}/cgroup.procs"))).unwrap();
    assert!(held.lines().any(|line| line == pid), "{held}");
    assert_eq!(held.lines().count(), 2, "init and the payload: {held}");
    assert!(!held.lines().any(|line| line == payload.pid().to_string()), "{held}");
    assert!(payload.end().success());
    bed.assert_as_before();
}

// Whoever moves another process makes the kernel stop every fork of the host for a moment: milliseconds at each launch.
#[test]
fn init_goes_into_its_groups_by_itself_and_is_moved_where_it_may_not() {
    let test = "init_goes_into_its_groups_by_itself_and_is_moved_where_it_may_not";
    let Some(bed) = Bed::of_version(test, 1) else { return };
    let log = bed.world.path("calls");
    let launch = |inject: &[&str]| {
        let mut command = bed.exec(&[]);
        command.args(["--", "/bin/true"]);
        let trace = ["-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=openat,write"];
        let output = support::behind("strace", &[&trace, inject].concat(), &command).output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        // The launcher has read back where the payload is, group by group, or there is no launch.
        let launch = last(bed.world.records_of("payload-launch"));
        assert!(launch["grid"]["sandbox"]["cgroup"].as_str().unwrap().starts_with("on: v1, "), "{launch}");
        let calls: Vec<String> = fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
        let opened = |name: &str| {
            let part = format!("\"{name}\", O_WRONLY");
            calls.iter().filter(|call| call.contains(&part)).count()
        };
        let (doors, moves) = (opened("tasks"), opened("cgroup.procs"));
        (doors, moves, calls)
    };
    let (doors, moves, calls) = launch(&[]);
    assert!(doors >= 2 && moves == 0, "{doors} {moves} {calls:#?}");
    // Its last writes are those into the doors. strace counts for each process, and the launcher makes fewer in all.
    let launcher = calls[0].split_whitespace().next().unwrap();
    let writes = |own: &dyn Fn(&str) -> bool| {
        let of = |call: &&String| call.contains(" write(") && own(call.split_whitespace().next().unwrap());
        calls.iter().filter(of).count()
    };
    let init = calls.iter().map(|call| call.split_whitespace().next().unwrap()).find(|pid| *pid != launcher);
    let (init, before) = (init.unwrap(), writes(&|pid| pid == launcher));
    let last_door = writes(&|pid| pid == init);
    assert!(before + 2 * doors < last_door, "{before} {doors} {last_door}");
    let inject = format!("inject=write:error=EACCES:when={last_door}");
    let (_, moves, calls) = launch(&["-e", &inject]);
    assert_eq!(moves, 2 * doors, "init and the payload, in each: {calls:#?}");
    bed.assert_as_before();
}

#[test]
fn a_payload_sees_no_group() {
    let Some(bed) = Bed::new("a_payload_sees_no_group") else { return };
    // The control: its account can write the limits outside.
    let probe = "find / -xdev -name cgroup.procs 2>/dev/null | head -n 1; \
        for d in /sys/fs/cgroup /proc/1/root/sys/fs/cgroup; do ls $d/* 2>/dev/null | head -n 1; done; \
        grep cgroup /proc/mounts | head -n 1; echo end";
    assert!(fs::metadata(bed.dir("memory").join("cgroup.procs")).is_ok());
    let output = bed.exec(&[]).args(["--", "/bin/sh", "-c", probe]).output().unwrap();
    assert_eq!(stdout(&output).trim(), "end");
    // Asked for by name, in an image and on the host's own system.
    let dir = bed.dir("memory");
    let bind = format!("{}:/mnt/group:rw", dir.display());
    let look = "ls /mnt/group | wc -l; echo 1 2>/dev/null >/mnt/group/cgroup.procs || echo refused";
    for host in [false, true] {
        let mut command = if host {
            let mut command = bed.world.exec(&[] as &[&str]);
            command.env("BAILEY_CONFIG", bed.config("", ""));
            command
        } else {
            bed.exec(&[])
        };
        let output = command.args(["--bind", &bind, "--", "/bin/sh", "-c", look]).output().unwrap();
        if code(&output) == 0 {
            assert_eq!(stdout(&output), "0\nrefused");
        } else {
            assert_eq!(code(&output), 125, "{}", text(&output.stderr));
        }
    }
    if bed.version == 2 {
        let output = bed.exec(&[]).args(["--", "/bin/cat", "/proc/self/cgroup"]).output().unwrap();
        assert!(stdout(&output).lines().any(|line| line == "0::/"), "its namespace begins at its group");
    }
    bed.assert_as_before();
}

#[test]
fn without_a_group_it_is_as_the_site_says() {
    let Some(bed) = Bed::new("without_a_group_it_is_as_the_site_says") else { return };
    let run = |keys: &str, options: &[&str]| {
        let mut command = bed.exec(options);
        command.env("BAILEY_CONFIG", bed.config(keys, "")).args(["--", "/bin/true"]).output().unwrap()
    };
    let nowhere = "parent = \"/nowhere/at/all\"";
    assert_refused(
        &run(nowhere, &["--memory", "1G"]),
        125,
        &["cannot give the payload a cgroup of its own", "/nowhere/at/all", "docs/cgroups.md"],
    );
    let output = run(&format!("mode = \"preferred\"\n{nowhere}"), &["--memory", "1G"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let launch = last(bed.world.records_of("payload-launch"));
    let said = &launch["grid"]["sandbox"];
    assert!(said["cgroup"].as_str().unwrap().starts_with("off: "), "{said}");
    assert!(!said["limit_memory"].as_str().unwrap().starts_with("on"), "{said}");
    let end = last(bed.world.records_of("payload-end"));
    assert_eq!(end["grid"]["usage"]["source"], "rusage");
    assert_eq!(code(&run("mode = \"off\"", &["--pids", "9"])), 0);
    let said = &last(bed.world.records_of("payload-launch"))["grid"]["sandbox"];
    assert_eq!(said["cgroup"], "off: the site's configuration");
    // Somebody else's: that of the whole host belongs to root.
    let parent = if bed.version == 2 { "/init.slice" } else { "/nobodys" };
    let output = run(&format!("parent = \"{parent}\""), &[]);
    assert_refused(&output, 125, &["cannot give the payload a cgroup of its own"]);
    bed.assert_as_before();
}

#[test]
fn a_check_says_where_it_is() {
    let Some(bed) = Bed::new("a_check_says_where_it_is") else { return };
    let row = |keys: &str| {
        let mut command = bed.world.command(support::BAILEY);
        command
            .args(["check", "--json"])
            .env("BAILEY_CONFIG", bed.config(keys, "[limits]\nmemory = \"64M\"\n"));
        let report: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let rows = report["checks"].as_array().unwrap().clone();
        move |name: &str| {
            rows.iter().find(|row| row["mechanism"] == name).unwrap_or_else(|| panic!("{report}")).clone()
        }
    };
    let here = row("");
    assert_eq!((&here("cgroup")["state"], &here("cgroup")["wanted"]), (&"on".into(), &"required".into()));
    assert!(here("cgroup")["why"].as_str().unwrap().starts_with(&format!("v{}, ", bed.version)));
    assert_eq!(here("limit_memory")["state"], "on");
    let nowhere = row("mode = \"preferred\"\nparent = \"/nowhere/at/all\"");
    let said = nowhere("cgroup");
    assert_eq!((&said["state"], &said["wanted"]), (&"off".into(), &"preferred".into()), "{said}");
    assert!(said["why"].as_str().unwrap().contains("/nowhere/at/all"), "{said}");
    assert!(said["change"].as_str().unwrap().contains("docs/cgroups.md"), "{said}");
    assert_eq!(nowhere("limit_memory")["state"], "weaker");
    bed.assert_as_before();
}

// ---- Limits ----

#[test]
fn memory_beyond_the_limit_ends_the_payload() {
    let Some(bed) = Bed::new("memory_beyond_the_limit_ends_the_payload") else { return };
    let control = bed.uses(&[], &["memory", "150"]);
    assert_eq!(stdout(&control), "memory done", "without a limit it works");
    let bombs: [&[&str]; 2] = [
        &["/tmp/use", "memory", "150"],
        &["/bin/sh", "-c", "head -c 150M /dev/zero >/tmp/large; echo survived"],
    ];
    for bomb in bombs {
        let bind = bed.user();
        let options =
            ["--memory", "64M", "--status-file", "st.json", "--user", "/CN=Bomb", "--bind", &bind, "--"];
        let output = bed.exec(&options).args(bomb).output().unwrap();
        assert!(!text(&output.stdout).contains("done"), "{bomb:?}");
        let end = last(bed.world.records_of("payload-end"));
        assert_eq!(end["grid"]["usage"]["oom_kills"].as_u64().map(|kills| kills > 0), Some(true), "{end}");
        if bomb[0] == "/bin/sh" && bed.version == 1 && code(&output) == 0 {
            // One process is killed, whichever the kernel chooses, and its shell goes on.
            assert!(end["event"]["reason"].as_str().unwrap().contains("of its processes"), "{end}");
            continue;
        }
        assert_eq!(code(&output), 123, "{bomb:?}: {}", text(&output.stderr));
        assert_eq!(end["grid"]["end"]["by"], "memory");
        assert!(end["event"]["reason"].as_str().unwrap().contains("more than its 64 MiB of memory"), "{end}");
        let status = status(&bed.world.path("st.json"));
        assert_eq!((&status["ended_by"], &status["fault"]), (&"memory".into(), &"user".into()), "{status}");
    }
    bed.world.assert_closed();
    bed.assert_as_before();
}

#[test]
fn page_cache_is_no_bomb() {
    let Some(bed) = Bed::new("page_cache_is_no_bomb") else { return };
    let work = bed.world.directory("work");
    let mut command = bed.exec(&["--memory", "48M", "--workdir"]);
    command.arg(&work).args([
        "--",
        "/bin/sh",
        "-c",
        "head -c 150M /dev/zero >large && rm large && echo written",
    ]);
    let output = command.output().unwrap();
    if nix::sys::statfs::statfs(&work).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        assert_eq!(code(&output), 123, "a disk in memory is memory");
    } else {
        assert_eq!(stdout(&output), "written");
    }
    bed.assert_as_before();
}

#[test]
fn one_process_of_many_is_killed_where_the_site_wants_that() {
    let Some(bed) = Bed::new("one_process_of_many_is_killed_where_the_site_wants_that") else { return };
    let bind = bed.user();
    let mut command = bed.exec(&["--memory", "64M", "--bind", &bind]);
    command.env("BAILEY_CONFIG", bed.config("oom = \"process\"", ""));
    let output = command
        .args(["--", "/bin/sh", "-c", "/tmp/use memory 150; echo survived $?; exit 4"])
        .output()
        .unwrap();
    assert_eq!(
        (stdout_of(&output).as_str(), code(&output)),
        ("survived 137\n", 4),
        "{}",
        text(&output.stderr)
    );
    let end = last(bed.world.records_of("payload-end"));
    assert_eq!(end["grid"]["end"]["by"], "payload");
    assert_eq!(number(&end["grid"]["usage"]["oom_kills"]), 1);
    assert!(end["event"]["reason"].as_str().unwrap().contains("killed 1 of its processes"), "{end}");
}

/// stdout, whatever the code is.
fn stdout_of(output: &Output) -> String {
    text(&output.stdout)
}

#[test]
fn a_fork_bomb_is_held_and_ends_with_the_wall_time() {
    let Some(bed) = Bed::new("a_fork_bomb_is_held_and_ends_with_the_wall_time") else { return };
    let control = bed.uses(&["--pids", "100"], &["forks", "40"]);
    assert_eq!(stdout(&control), "40 children\nforks done");
    let held = bed.uses(&["--pids", "10"], &["forks", "40"]);
    assert_eq!(stdout(&held), "9 children\nforks done", "itself and nine");
    let end = last(bed.world.records_of("payload-end"));
    assert!(end["event"]["reason"].as_str().unwrap().contains("1 times it got no new process"), "{end}");

    let bind = bed.user();
    let start = Instant::now();
    let mut command = bed.exec(&["--pids", "50", "--wall-time", "2s", "--grace", "1s", "--bind", &bind]);
    let mut bomb = Started::new(command.args(["--", "/tmp/use", "bomb"]));
    let most = || {
        let group = bed.groups().into_iter().find(|name| name.contains("bailey-0"))?;
        let group = group.rsplit('/').next()?.to_owned();
        let text = fs::read_to_string(bed.dir("pids").join(group).join("pids.current")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    wait_for("the bomb to reach its limit", || most() == Some(51));
    // The pilot lives, and forks.
    assert!(Command::new("/bin/true").status().unwrap().success());
    assert_eq!(code_of(bomb.end()), 124);
    assert!(start.elapsed() < patience(Duration::from_secs(20)), "{:?}", start.elapsed());
    bed.world.assert_closed();
    bed.assert_as_before();
}

fn code_of(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

#[test]
fn cpu_time_is_held_to_the_cores_asked_for() {
    let Some(bed) = Bed::new("cpu_time_is_held_to_the_cores_asked_for") else { return };
    let took = |options: &[&str]| {
        let start = Instant::now();
        assert_eq!(stdout(&bed.uses(options, &["spin", "600"])), "spin done");
        start.elapsed()
    };
    // The control: without a limit it is faster. (Other tests use the machine, too: the best of a few.)
    let most = Duration::from_millis(2200);
    assert!((0..8).any(|_| took(&[]) < most), "this machine is too busy to show anything");
    let held = took(&["--cpus", "0.2"]);
    assert!(held >= most, "600 ms at a fifth of a core: {held:?}");
    let output = bed
        .exec(&["--cpus", "0.2"])
        .env("BAILEY_CONFIG", bed.config("cpus = \"weight\"", ""))
        .args(["--", "/bin/true"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0);
    let said = last(bed.world.records_of("payload-launch"))["grid"]["sandbox"]["limit_cpus"].clone();
    assert!(said.as_str().unwrap().contains("more where nobody else wants it"), "{said}");
}

#[test]
fn a_limit_that_nobody_can_give_is_an_error_or_said() {
    let Some(bed) = Bed::of_version("a_limit_that_nobody_can_give_is_an_error_or_said", 2) else { return };
    // A group of the caller's that gets no controller from above: only CPU time is counted in it.
    let poor = bed.dir("").join("poor");
    fs::create_dir(&poor).unwrap();
    let inside = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", poor.display());
    let run = |mode: &str| {
        let mut command = bed.world.command("/bin/sh");
        command.args(["-c", &inside, "sh", support::BAILEY, "exec", "--image"]).arg(image());
        command.env("BAILEY_CONFIG", bed.config(&format!("mode = \"{mode}\""), ""));
        command.args(["--memory", "64M", "--", "/bin/cat", "/proc/self/cgroup"]).output().unwrap()
    };
    let output = run("required");
    assert_refused(&output, 125, &["cannot hold the payload to --memory", "does not have that controller"]);
    let output = run("preferred");
    assert!(stdout(&output).contains("0::/"));
    let launch = last(bed.world.records_of("payload-launch"));
    let said = &launch["grid"]["sandbox"];
    assert!(
        said["limit_memory"].as_str().unwrap().starts_with("not enforced: ")
            || said["limit_memory"].as_str().unwrap().starts_with("rlimit"),
        "{said}"
    );
    assert_eq!(
        launch["grid"]["cgroup"]["path"].as_str().unwrap().rsplit_once('/').unwrap().0,
        format!("{}/poor", bed.group)
    );
    assert_eq!(last(bed.world.records_of("payload-end"))["grid"]["usage"]["source"], "cgroup2");
    fs::remove_dir(&poor).unwrap();
    bed.assert_as_before();
}

// ---- Accounting ----

#[test]
fn known_amounts_are_what_the_record_says() {
    let Some(bed) = Bed::new("known_amounts_are_what_the_record_says") else { return };
    let work = bed.world.directory("work");
    let on_disk = nix::sys::statfs::statfs(&work).unwrap().filesystem_type() != nix::sys::statfs::TMPFS_MAGIC;
    let file = work.join("data");
    let bind = bed.user();
    let words =
        ["memory", "100", "spin", "400", "forks", "7", "write", file.to_str().unwrap(), "20", "read", "30"];
    let mut command = bed.exec(&["--memory", "1G", "--bind", &bind, "--workdir"]);
    let output = command.arg(&work).args(["--", "/tmp/use"]).args(words).output().unwrap();
    assert!(stdout(&output).ends_with("read done"), "{}", text(&output.stdout));
    let end = only(bed.world.records_of("payload-end"));
    let usage = &end["grid"]["usage"];
    assert_eq!(usage["source"], format!("cgroup{}", bed.version));
    let mib = |value: &Value| number(value) >> 20;
    let cpu = number(&usage["cpu_user_us"]) + number(&usage["cpu_system_us"]);
    assert!((350_000..3_000_000).contains(&cpu), "{usage}");
    match usage.get("memory_peak_bytes") {
        Some(peak) => assert!((100..180).contains(&mib(peak)), "{usage}"),
        None => assert!(!bed.dir("").join("memory.peak").exists(), "the kernel tells it: {usage}"),
    }
    match usage.get("processes_peak") {
        Some(peak) => assert_eq!(number(peak), 8, "itself and seven children: {usage}"),
        None => assert!(!bed.dir("pids").join("pids.peak").exists(), "the kernel tells it: {usage}"),
    }
    // By read() and write(), whatever that is; and what went to a block device.
    assert!((30..32).contains(&mib(&usage["read_chars"])), "{usage}");
    assert!((20..22).contains(&mib(&usage["write_chars"])), "{usage}");
    if on_disk {
        assert!((20..30).contains(&mib(&usage["io_write_bytes"])), "{usage}");
    } else {
        assert_eq!(usage["io_write_bytes"], 0, "{usage}");
    }
    assert!(mib(&usage["io_read_bytes"]) < 20, "what was read came from no disk: {usage}");
    assert_eq!(usage["oom_kills"], 0, "{usage}");
}

#[test]
fn who_takes_too_many_cores_is_slowed_down() {
    let Some(bed) = Bed::new("who_takes_too_many_cores_is_slowed_down") else { return };
    let rules = "[limits]\noveruse_off = [\"cpu-over-request\", \"memory-near-request\", \"many-processes\", \"hardly-reads\"]\n\
        [[overuse]]\nid = \"cores\"\nmetric = \"cpu\"\nabove = \"1.5\"\nfor = \"2s\"\nsteps = [\"throttle\"]\nevery = \"2s\"\n\
        [[overuse]]\nid = \"much\"\nmetric = \"memory\"\nabove = \"0.5\"\nfor = \"2s\"\nsteps = [\"notice\"]\nevery = \"60s\"\n";
    let bind = bed.user();
    // Asked for a fifth of a core as a weight, it takes a whole one.
    let mut command = bed.exec(&["--cpus", "0.2", "--memory", "100M", "--bind", &bind]);
    command.env("BAILEY_CONFIG", bed.config("cpus = \"weight\"", rules));
    let start = Instant::now();
    let output = command.args(["--", "/tmp/use", "memory", "70", "spin", "3500"]).output().unwrap();
    assert!(stdout(&output).ends_with("spin done"));
    let notices: Vec<String> = bed
        .world
        .records_of("payload-notice")
        .iter()
        .map(|record| record["event"]["reason"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        notices.iter().any(|said| said.contains("it is slowed down") && said.contains("rule cores")),
        "{notices:?}"
    );
    assert!(notices.iter().any(|said| said.contains("rule much")), "memory is measured: {notices:?}");
    // 2 s and a little free, the rest at a fifth of a core.
    assert!(start.elapsed() >= Duration::from_millis(4500), "{:?}", start.elapsed());
}

// ---- The end ----

#[test]
fn what_a_killed_launcher_left_the_next_one_removes() {
    let Some(bed) = Bed::new("what_a_killed_launcher_left_the_next_one_removes") else { return };
    let mark = format!("31{}", std::process::id());
    let script = format!("echo up; setsid sleep {mark} & sleep {mark}");
    let mut payload = Started::new(bed.exec(&["--memory", "1G"]).args(["--", "/bin/sh", "-c", &script]));
    assert_eq!(payload.line(), "up");
    wait_for("both", || alive_with(&mark).len() >= 2);
    payload.signal(libc::SIGKILL);
    let _ = payload.child.0.wait();
    wait_for("everything to die with the launcher", || alive_with(&mark).is_empty());
    assert!(!bed.groups().is_empty(), "nobody was left to remove it");
    if bed.version == 1 {
        // One that was killed while it made its groups, or removed them: the first are there, and the others are not.
        for controller in ["memory", "pids"] {
            fs::create_dir(bed.dir(controller).join("bailey-01HZZZZZZZZZZZZZZZZZZZZZZZ")).unwrap();
        }
    }
    assert_eq!(code(&bed.exec(&[]).args(["--", "/bin/true"]).output().unwrap()), 0);
    bed.world.assert_closed();
    bed.assert_as_before();
}

#[test]
fn what_outlives_launcher_and_init_the_next_launch_ends() {
    let Some(bed) = Bed::of_version("what_outlives_launcher_and_init_the_next_launch_ends", 2) else {
        return;
    };
    let kills = fs::read_dir(bed.dir("")).unwrap().flatten().any(|entry| entry.file_name() == "cgroup.kill");
    if !kills {
        return support::skip(
            "what_outlives_launcher_and_init_the_next_launch_ends",
            "this kernel has no cgroup.kill",
        );
    }
    let mark = format!("33{}", std::process::id());
    let mut command = bed.exec(&["--no-pid"]);
    command.env("BAILEY_CONFIG", bed.config("", "[sandbox]\npid_namespace = \"preferred\"\n"));
    let mut payload = Started::new(command.args(["--", "/bin/sh", "-c", &format!("echo up; sleep {mark}")]));
    assert_eq!(payload.line(), "up");
    wait_for("it", || !alive_with(&mark).is_empty());
    let launcher = payload.pid();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let init = children.split_whitespace().next().unwrap().to_owned();
    // Neither can act for the other.
    for signal in ["-STOP", "-KILL"] {
        assert!(
            Command::new("kill").args([signal, &launcher.to_string(), &init]).status().unwrap().success()
        );
    }
    let _ = payload.child.0.wait();
    assert!(!alive_with(&mark).is_empty(), "without a pid namespace nobody is left to end it");
    assert_eq!(code(&bed.exec(&[]).args(["--", "/bin/true"]).output().unwrap()), 0);
    wait_for("the next launch to end it", || alive_with(&mark).is_empty());
    bed.assert_as_before();
}

#[test]
fn a_thousand_processes_end_in_half_a_second() {
    let Some(bed) = Bed::new("a_thousand_processes_end_in_half_a_second") else { return };
    let bind = bed.user();
    let mut payload = Started::new(bed.exec(&["--bind", &bind]).args([
        "--",
        "/bin/sh",
        "-c",
        "/tmp/use forks 1000 & read l; exit 0",
    ]));
    assert_eq!(payload.line(), "1000 children");
    let start = Instant::now();
    payload.end();
    let took = start.elapsed();
    assert!(took < patience(Duration::from_millis(500)), "{took:?}");
    bed.assert_as_before();
}

#[test]
fn who_ignores_everything_ends() {
    let Some(bed) = Bed::new("who_ignores_everything_ends") else { return };
    let mark = format!("32{}", std::process::id());
    // Ignores SIGTERM, forks twice, stops itself, and leaves a child with a full pipe.
    let script = format!(
        "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM; (yes | sleep {mark}) & sleep {mark}' &) ; kill -STOP $$; sleep {mark}"
    );
    let start = Instant::now();
    let mut command = bed.exec(&["--wall-time", "1s", "--grace", "1s"]);
    let output = command.args(["--", "/bin/sh", "-c", &script]).output().unwrap();
    assert_eq!(code(&output), 124, "{}", text(&output.stderr));
    assert!(start.elapsed() < patience(Duration::from_secs(15)), "{:?}", start.elapsed());
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
    bed.world.assert_closed();
    bed.assert_as_before();
}

#[test]
fn a_group_that_vanishes_or_is_not_empty_is_survived() {
    let Some(bed) = Bed::new("a_group_that_vanishes_or_is_not_empty_is_survived") else { return };
    let mut payload = Started::new(bed.exec(&[]).args(["--", "/bin/sh", "-c", "echo up; read l; exit 0"]));
    assert_eq!(payload.line(), "up");
    let id = only(bed.world.records_of("payload-launch"))["event"]["id"].as_str().unwrap().to_owned();
    // The pilot makes a group in the payload's and sits in it: what is not empty cannot be removed.
    let inside = bed.dir("pids").join(format!("bailey-{id}/mine"));
    let made = fs::create_dir(&inside);
    let mut sitter = support::Guard(Command::new("sleep").arg("60").spawn().unwrap());
    let sits = made.is_ok() && fs::write(inside.join("cgroup.procs"), sitter.0.id().to_string()).is_ok();
    assert!(sits, "the pilot may do that: {made:?}");
    assert!(payload.end().success());
    assert!(!bed.groups().is_empty());
    sitter.0.kill().unwrap();
    sitter.0.wait().unwrap();
    wait_for("the group to be empty", || fs::remove_dir(&inside).is_ok());
    // The next launch tries again.
    assert_eq!(code(&bed.exec(&[]).args(["--", "/bin/true"]).output().unwrap()), 0);
    bed.assert_as_before();
}

// ---- Structure (v2) ----

#[test]
fn the_pilot_is_put_aside_and_back() {
    let Some(bed) = Bed::of_version("the_pilot_is_put_aside_and_back", 2) else { return };
    let own = || group_of(2, "self");
    let sleeper = support::Guard(Command::new("sleep").arg("100").spawn().unwrap());
    assert_eq!(own(), bed.group);
    let mut first =
        Started::new(bed.exec(&["--memory", "64M"]).args(["--", "/bin/sh", "-c", "echo up; read l; exit 0"]));
    assert_eq!(first.line(), "up");
    let leaf = format!("{}/bailey-pilot", bed.group);
    assert_eq!((own(), group_of(2, &sleeper.0.id().to_string())), (leaf.clone(), leaf.clone()));
    assert_eq!(group_of(2, &first.pid().to_string()), leaf, "the launcher, too");
    assert_eq!(fs::read_to_string(bed.dir("").join("cgroup.procs")).unwrap(), "");
    // A second one side by side, started from the leaf; the first one's end takes nothing down.
    let mut second =
        Started::new(bed.exec(&["--memory", "64M"]).args(["--", "/bin/sh", "-c", "echo up; read l; exit 0"]));
    assert_eq!(second.line(), "up");
    assert!(first.end().success());
    assert_eq!(own(), leaf);
    let path =
        last(bed.world.records_of("payload-launch"))["grid"]["cgroup"]["path"].as_str().unwrap().to_owned();
    assert_eq!(path.rsplit_once('/').unwrap().0, bed.group, "beside the first, not below the leaf");
    assert!(second.end().success());
    bed.assert_as_before();
    assert_eq!(group_of(2, &sleeper.0.id().to_string()), bed.group);
    let enabled = fs::read_to_string(bed.dir("").join("cgroup.subtree_control")).unwrap();
    assert_eq!(enabled.trim(), "");
}

#[test]
fn many_side_by_side_leave_nothing() {
    let Some(bed) = Bed::new("many_side_by_side_leave_nothing") else { return };
    let config = bed.config("", "[audit]\nrecorder = \"off\"\nwait = \"60s\"");
    let mut all: Vec<_> = (0..12)
        .map(|number| {
            let mut command = bed.world.exec(&["--image"]);
            command.arg(image()).env("BAILEY_CONFIG", &config).args(["--memory", "64M", "--pids", "20"]);
            let script = format!("sleep 0.{number}; cat /proc/self/cgroup >/dev/null");
            support::Guard(command.args(["--", "/bin/sh", "-c", &script]).spawn().unwrap())
        })
        .collect();
    for payload in &mut all {
        assert_eq!(payload.0.wait().unwrap().code(), Some(0));
    }
    for launch in bed.world.records_of("payload-launch") {
        let said = &launch["grid"]["sandbox"];
        assert!(said["limit_memory"].as_str().unwrap().starts_with("on: "), "{said}");
    }
    assert_eq!(bed.world.records_of("payload-end").len(), 12);
    bed.assert_as_before();
}

#[test]
fn a_pilot_that_made_groups_itself_is_left_as_it_is() {
    let Some(bed) = Bed::of_version("a_pilot_that_made_groups_itself_is_left_as_it_is", 2) else { return };
    let dir = bed.dir("");
    // As DIRAC and JAliEn do it: everybody into a leaf, controllers on, a group for each payload.
    let (runner, agent) = (dir.join("runner"), dir.join("agent"));
    fs::create_dir(&runner).unwrap();
    fs::write(runner.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    fs::write(dir.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
    fs::create_dir(&agent).unwrap();
    fs::write(agent.join("memory.max"), (512_u64 << 20).to_string()).unwrap();
    for (place, path) in [(&agent, "agent"), (&runner, "runner")] {
        let inside = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", place.display());
        let mut command = bed.world.command("/bin/sh");
        command.args(["-c", &inside, "sh", support::BAILEY, "exec", "--image"]).arg(image());
        command.env("BAILEY_CONFIG", bed.config("", ""));
        let output = command.args(["--memory", "64M", "--", "/bin/true"]).output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let launch = last(bed.world.records_of("payload-launch"));
        let group = launch["grid"]["cgroup"]["path"].as_str().unwrap();
        assert!(
            group.starts_with(&format!("{}/{path}/bailey-", bed.group)),
            "{group}: below the launcher's own limits"
        );
        assert!(launch["grid"]["sandbox"]["limit_memory"].as_str().unwrap().starts_with("on: "));
    }
    assert_eq!(group_of(2, "self"), format!("{}/runner", bed.group));
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
    assert!(["memory", "pids", "cpu"].iter().all(|name| enabled.contains(name)), "{enabled}");
    // Its own group is removed as it would be without bailey: by one rmdir.
    fs::remove_dir(&agent).unwrap();
    fs::write(dir.join("cgroup.subtree_control"), "-memory -pids -cpu").unwrap();
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    fs::remove_dir(&runner).unwrap();
    bed.assert_as_before();
}

#[test]
fn a_parent_of_the_sites_choice() {
    let Some(bed) = Bed::of_version("a_parent_of_the_sites_choice", 2) else { return };
    let dir = bed.dir("");
    let (pilot, payloads) = (dir.join("pilot"), dir.join("payloads"));
    fs::create_dir(&pilot).unwrap();
    fs::create_dir(&payloads).unwrap();
    fs::write(pilot.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    fs::write(dir.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
    let mut command = bed.exec(&["--memory", "64M"]);
    command.env("BAILEY_CONFIG", bed.config(&format!("parent = \"{}/payloads\"", bed.group), ""));
    let output = command.args(["--", "/bin/true"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let group =
        last(bed.world.records_of("payload-launch"))["grid"]["cgroup"]["path"].as_str().unwrap().to_owned();
    assert!(group.starts_with(&format!("{}/payloads/bailey-", bed.group)), "{group}");
    assert_eq!(group_of(2, "self"), format!("{}/pilot", bed.group), "nobody had to move");
    fs::remove_dir(&payloads).unwrap();
    fs::write(dir.join("cgroup.subtree_control"), "-memory -pids -cpu").unwrap();
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    fs::remove_dir(&pilot).unwrap();
    bed.assert_as_before();
}

// ---- Without any ----

#[test]
fn on_a_host_that_gives_none_it_says_so() {
    let world = World::new();
    let config = world.config("[audit]\nrecorder = \"off\"\n[cgroup]\nparent = \"/nobody/made/this\"\n");
    let mut command = world.exec(&["--image"]);
    command.arg(image()).env("BAILEY_CONFIG", &config).args(["--dry-run", "--cpus", "2", "--", "/bin/true"]);
    let said = stdout(&command.output().unwrap());
    let line = said.lines().find(|line| line.contains("cgroup:")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("off: ") && line.contains("/nobody/made/this"), "{line}");
    assert!(said.lines().any(|line| line.contains("limit_cpus: not enforced")), "{said}");
    assert!(Path::new("/sys/fs/cgroup").exists(), "this host has none at all");
}
