//! What a process inherits without asking: priorities, limits, scores. Rows P6, P8, P13, P14 of docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use support::{World, assert_refused, behind, code, image, stdout, text};

fn launch(world: &World, config: &str, script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(["--", "/bin/sh", "-c", script]);
    command.env("BAILEY_CONFIG", world.config(config));
    command
}

/// As a pilot that did `before` first.
fn after(before: &str, command: &Command) -> Output {
    behind("/bin/sh", &["-c", &format!("{before}; exec \"$@\""), "sh"], command).output().unwrap()
}

/// A field of `grid.sandbox` of the last launch.
fn recorded(world: &World, name: &str) -> String {
    let launch = world.records_of("payload-launch").pop().unwrap();
    launch["grid"]["sandbox"][name].as_str().unwrap_or_default().to_owned()
}

// P8
#[test]
fn the_kernel_takes_a_payload_before_its_pilot() {
    let world = World::new();
    let score = "cat /proc/self/oom_score_adj";
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let raised = |score: i32| format!("echo {score} >/proc/self/oom_score_adj");
    let control = stdout(&after("true", world.command("/bin/sh").args(["-c", score])));
    assert_eq!(control, own.to_string(), "without us it has its pilot's");

    let zero = "[sandbox]\noom_score_adj = \"0\"\n";
    let high = "[sandbox]\noom_score_adj = \"1000\"\n";
    let seven = "[sandbox]\noom_score_adj = \"7\"\n";
    assert_eq!(stdout(&after("true", &launch(&world, "", score))), own.max(200).to_string());
    assert_eq!(stdout(&after("true", &launch(&world, zero, score))), own.to_string());
    assert_eq!(stdout(&after("true", &launch(&world, seven, score))), own.max(7).to_string());
    assert_eq!(stdout(&after("true", &launch(&world, high, score))), "1000");
    // Raised only: what a batch system set higher stays.
    assert_eq!(stdout(&after(&raised(800), &launch(&world, "", score))), "800");
    assert_eq!(stdout(&after(&raised(1000), &launch(&world, zero, score))), "1000");
    // The launcher keeps its own.
    let mut started = support::Started::new(&mut launch(&world, "", "echo up; read line; true"));
    assert_eq!(started.line(), "up");
    let launcher = fs::read_to_string(format!("/proc/{}/oom_score_adj", started.pid())).unwrap();
    assert_eq!(launcher.trim(), own.to_string());
    assert!(started.end().success());
}

// P8
#[test]
fn priorities_of_the_slot_stay_and_real_time_goes() {
    let world = World::new();
    let script = "nice; chrt -p $$ | sed 's/.*: //'; ionice; taskset -p $$ | sed 's/.*: //'";
    // What a batch system sets for its slot: less than others.
    let slot =
        "renice -n 5 $$ >/dev/null; chrt --batch -p 0 $$; ionice -c 3 -p $$; taskset -p 1 $$ >/dev/null";
    let control = stdout(&after(slot, world.command("/bin/sh").args(["-c", script])));
    let (nice, rest) = control.split_once('\n').unwrap();
    assert_eq!(rest, "SCHED_BATCH\n0\nidle\n1");
    assert!(nice.parse::<i32>().unwrap() >= 5, "{nice}");
    assert_eq!(stdout(&after(slot, &launch(&world, "", script))), control);
    assert_eq!(recorded(&world, "scheduling"), format!("batch, nice {nice}"));
    let idle = stdout(&after("chrt --idle -p 0 $$", &launch(&world, "", "chrt -p $$ | head -1")));
    assert_eq!(idle.rsplit(' ').next(), Some("SCHED_IDLE"));

    // No ordinary user may have real time, so the kernel is made to say that the launcher has it (state_uids.rs has the
    // real thing): then it must be given back, and a class for the disk too.
    let trace = world.path("trace");
    let says = |inject: &str, call: &str| {
        let args = ["-f", "-o", trace.to_str().unwrap(), "-e", &format!("trace={call}"), "-e", inject];
        let output = behind("strace", &args, &launch(&world, "", "true")).output().unwrap();
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        fs::read_to_string(&trace).unwrap()
    };
    for policy in [1, 2, 6, 0x4000_0001_u32] {
        let inject = format!("inject=sched_getscheduler:retval={policy}");
        let seen = says(&inject, "sched_getscheduler,sched_setscheduler");
        assert!(seen.contains("sched_setscheduler(0, SCHED_OTHER"), "{policy}: {seen}");
    }
    for policy in [0, 3, 5, 7] {
        let inject = format!("inject=sched_getscheduler:retval={policy}");
        assert!(
            !says(&inject, "sched_getscheduler,sched_setscheduler").contains("sched_setscheduler("),
            "{policy}"
        );
    }
    let seen = says("inject=ioprio_get:retval=8195", "ioprio_get,ioprio_set");
    assert!(
        seen.contains("ioprio_set(IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 4))"),
        "{seen}"
    );
    assert!(!says("inject=ioprio_get:retval=24576", "ioprio_get,ioprio_set").contains("ioprio_set("));
}

// P8
#[test]
fn the_timer_slack_is_the_kernels() {
    let world = World::new();
    let script = "cat /proc/self/timerslack_ns";
    // prctl(PR_SET_TIMERSLACK, 777)
    let slack = "exec perl -e 'syscall(157, 29, 777, 0, 0, 0); exec @ARGV' \"$@\"";
    let control = stdout(&after(slack, world.command("/bin/sh").args(["-c", script])));
    assert_eq!(control, "777");
    assert_eq!(stdout(&after(slack, &launch(&world, "", script))), "50000");
}

// P6
#[test]
fn limits_are_lowered_and_never_raised() {
    let world = World::new();
    let script = "prlimit --nofile --nproc --fsize --cpu --as --core --rtprio --nice -o RESOURCE,SOFT,HARD --noheadings --raw";
    let read = |output: &Output| -> BTreeMap<String, String> {
        let pair =
            |line: &str| line.split_once(' ').map(|(name, limits)| (name.to_owned(), limits.to_owned()));
        stdout(output).lines().filter_map(pair).collect()
    };
    let plain = read(&after("true", world.command("/bin/sh").args(["-c", script])));
    let inside = |config: &str, before: &str| read(&after(before, &launch(&world, config, script)));
    assert_ne!(plain["CORE"], "0 0");
    let zero = ["CORE", "RTPRIO", "NICE"];
    // As the pilot has them, but for core files and priorities.
    let mut expected = plain.clone();
    expected.extend(zero.map(|name| (name.to_owned(), "0 0".to_owned())));
    assert_eq!(inside("[limits]\nopen_files = \"none\"\n", "true"), expected);
    // Lowered by the site.
    let config = "[limits]\nopen_files = \"100\"\npids = \"64\"\nfile_size = \"1M\"\n";
    let seen = inside(config, "true");
    // An older kernel counts the processes of the whole account, so nothing is lowered there. Init is one more.
    let processes = if support::kernel_is(5, 14) { "65 65" } else { &plain["NPROC"] };
    assert_eq!([&seen["NOFILE"], &seen["NPROC"], &seen["FSIZE"]], ["100 100", processes, "1048576 1048576"]);
    // What the pilot has lower stays lower, and soft limits below stay too.
    // (The limit on processes counts those of all tests that run now, until the payload has a user namespace of its own.)
    let lower = "prlimit --pid $$ --nofile=40:80 --nproc=2000:2000 --fsize=600000:700000 --cpu=98:99 --as=9999999999:9999999999";
    let seen = inside(&config.replace("64", "3000"), lower);
    let names = ["NOFILE", "NPROC", "FSIZE", "CPU", "AS"];
    let limits = ["40 80", "2000 2000", "600000 700000", "98 99", "9999999999 9999999999"];
    assert_eq!(names.map(|name| seen[name].as_str()), limits);
    // They hold: a file beyond the limit, a descriptor beyond it.
    let script = "head -c 2000000 /dev/zero >big 2>/dev/null; stat -c %s big; perl -e 'my @f; while (open(my $h, \"<\", \"/dev/null\")) { push @f, $h } print scalar @f'";
    let seen = stdout(&launch(&world, config, script).output().unwrap());
    let (size, files) = seen.split_once('\n').unwrap();
    assert_eq!(size, "1048576");
    assert!(files.parse::<u32>().unwrap() < 100, "{files}");
}

// S6, as far as it goes without control groups
#[test]
fn a_fork_bomb_ends_at_its_own_limit() {
    if !support::kernel_is(5, 14) {
        support::skip(
            "a_fork_bomb_ends_at_its_own_limit",
            "this kernel counts the processes of the whole account",
        );
        return;
    }
    let world = World::new();
    let bomb = "perl -e 'my $n = 0; while ($n < 400) { my $p = fork; last unless defined $p; if (!$p) { sleep 30; exit } $n++ } print $n'";
    let config = "[limits]\npids = \"64\"\n";
    assert_eq!(stdout(&launch(&world, "", bomb).output().unwrap()), "400");
    let seen: u32 = stdout(&launch(&world, config, bomb).output().unwrap()).parse().unwrap();
    assert!((40..64).contains(&seen), "{seen}"); // perl itself is one of them
    // Each payload has its own: a second one beside a bomb starts.
    let mut first =
        support::Started::new(&mut launch(&world, config, &format!("{bomb}; echo; read line; true")));
    let _ = first.line();
    assert_eq!(stdout(&launch(&world, config, "echo second").output().unwrap()), "second");
    assert!(first.end().success());
    world.assert_no_trace();
}

// P8: the score is the kernel's to keep, so a host on which it cannot be written says so.
#[test]
fn a_score_that_cannot_be_written_is_named() {
    let world = World::new();
    let trace = world.path("trace");
    let args = [
        "-f",
        "-o",
        trace.to_str().unwrap(),
        "-P",
        "/proc/self/oom_score_adj",
        "-e",
        "inject=openat:error=EACCES",
    ];
    let output = behind("strace", &args, &launch(&world, "", "true")).output().unwrap();
    let said: String = text(&output.stderr).lines().filter(|line| !line.starts_with("strace: ")).collect();
    assert_refused(&Output { stderr: said.into_bytes(), ..output }, 125, &["oom_score_adj", "EACCES"]);
    let mut off = launch(&world, "[sandbox]\noom_score_adj = \"0\"\n", "true");
    off = behind("strace", &args, &off);
    assert_eq!(code(&off.output().unwrap()), 0);
}

// P14
#[test]
fn no_group_is_dropped_or_gained() {
    let world = World::new();
    let script = "cat /proc/self/setgroups; perl -e '$) = \"$( $(\"; print $! ? \"denied\" : \"changed\"'";
    let free =
        stdout(&after("true", world.command("unshare").args(["-U", "/bin/cat", "/proc/self/setgroups"])));
    assert_eq!(free, "allow");
    assert_eq!(stdout(&launch(&world, "", script).output().unwrap()), "deny\ndenied");
}
