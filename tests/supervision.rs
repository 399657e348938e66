//! While the payload runs: signals, time, its streams, and that everything ends with the launcher.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{BAILEY, Guard, Started, World, alive_with, code, image, proc_status, status, text, wait_for};

/// `bailey exec OPTIONS -- sh -c SCRIPT MARK` in the image, not started yet.
fn shell(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(options);
    command.arg("--image").arg(image()).args(["--", "/bin/sh", "-c", script]);
    command
}

/// A word that no other process has on its command line.
fn mark(world: &World) -> String {
    format!("mark-{}", world.dir.file_name().unwrap().to_str().unwrap())
}

fn the_end(world: &World) -> Value {
    let mut ends = world.records_of("payload-end");
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

// ---- Signals ----

#[test]
fn every_signal_reaches_the_payload_and_only_it() {
    // All that can be blocked; SIGCHLD is the launcher's own, 32 and 33 are the C library's.
    let signals: Vec<i32> =
        (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, 32, 33].contains(s)).collect();
    let traps: Vec<String> = signals.iter().map(|s| format!("trap 'echo got {s}' {s}\n")).collect();
    let mut script = traps.concat();
    // A child of the payload would tell if the signal went to more than the payload's own process.
    script +=
        "(for s in 1 2 10 12 15; do trap \"echo child $s\" $s; done; while :; do sleep 1000 & wait; done) &
        echo ready
        while :; do wait; done";
    let world = World::new();
    let mut payload = Started::new(&mut shell(&world, &[], &script));
    assert_eq!(payload.line(), "ready");
    let pid =
        i32::try_from(world.records_of("payload-launch")[0]["process"]["pid"].as_i64().unwrap()).unwrap();
    let init: i32 = proc_status(pid, "PPid").unwrap().parse().unwrap();
    for signal in &signals {
        payload.signal(*signal);
        assert_eq!(payload.line(), format!("got {signal}"));
    }
    // The job-control signals stopped neither init nor the launcher, and init kept nothing.
    for process in [init, payload.pid()] {
        wait_for("a process that waits", || proc_status(process, "State").unwrap().starts_with('S'));
    }
    assert_eq!(proc_status(init, "SigPnd").unwrap(), "0".repeat(16));
    assert_eq!(proc_status(init, "SigCgt").unwrap(), "0".repeat(16), "init has no handler");
    payload.signal(libc::SIGUSR1);
    assert_eq!(payload.line(), "got 10", "nothing was delivered twice");
    payload.signal(libc::SIGKILL);
    payload.end();
}

#[test]
fn a_signal_of_the_pilot_ends_the_payload() {
    for (signal, name) in [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT"), (libc::SIGXCPU, "SIGXCPU")] {
        let world = World::new();
        let mut payload =
            Started::new(&mut shell(&world, &["--status-file", "status"], "echo ready; exec sleep 1000"));
        assert_eq!(payload.line(), "ready");
        payload.signal(signal);
        assert_eq!(payload.end().code(), Some(128 + signal));
        let end = the_end(&world);
        assert_eq!(end["grid"]["end"]["by"], "pilot-signal");
        assert_eq!(end["grid"]["end"]["signal"], name);
        let said = status(&world.path("status"));
        assert_eq!(said["ended_by"], "pilot-signal");
        assert_eq!((&said["from_bailey"], &said["exit_code"]), (&false.into(), &(128 + signal).into()));
    }
}

#[test]
fn a_payload_that_handles_the_signal_ends_by_itself() {
    let world = World::new();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 1000 & wait; done";
    let mut payload = Started::new(&mut shell(&world, &[], script));
    assert_eq!(payload.line(), "ready");
    payload.signal(libc::SIGTERM);
    assert_eq!(payload.end().code(), Some(5));
    assert_eq!(the_end(&world)["grid"]["end"]["by"], "payload");
}

#[test]
fn a_session_of_its_own() {
    let world = World::new();
    let output = world.shell(
        &[],
        "read -r pid comm state ppid group session tty rest </proc/$$/stat
        echo $$ $pid $group $session $tty",
    );
    assert_eq!(support::stdout(&output), "2 2 2 2 0");

    // kill(0) and kill(-1) of the payload against a pilot's shell in a process group of its own.
    let pilot = |inner: &str, bailey: bool| {
        let mut command = world.command("/bin/sh");
        command.args(["-c", "if [ -n \"$2\" ]; then \"$2\" exec --image \"$3\" -- /bin/sh -c \"$1\"; else /bin/sh -c \"$1\"; fi
            echo pilot lives"]);
        command.args(["sh", inner, if bailey { BAILEY } else { "" }]).arg(image()).process_group(0);
        command.output().unwrap()
    };
    for signal in ["TERM", "KILL", "STOP; kill -KILL"] {
        let output = pilot(&format!("kill -{signal} 0"), true);
        assert_eq!(text(&output.stdout), "pilot lives\n", "{signal}");
    }
    assert_eq!(text(&pilot("kill -KILL -1; echo inside lives", true).stdout), "inside lives\npilot lives\n");
    let control = pilot("kill -KILL 0", false);
    assert_eq!((control.status.signal(), text(&control.stdout).as_str()), (Some(libc::SIGKILL), ""));
}

// ---- Wall time ----

/// Runs with a wall time of one second; what stderr said and how long it took.
fn out_of_time(world: &World, grace: &str, script: &str) -> (String, Duration) {
    let start = Instant::now();
    let output = world.shell(&["--wall-time", "1s", "--grace", grace, "--status-file", "status"], script);
    let took = start.elapsed();
    let said = text(&output.stderr);
    assert_eq!(code(&output), 124, "{said}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("bailey: the wall time of 1 s is used up, so ") && said.contains(" (incident 0"),
        "{said}"
    );
    let end = the_end(world);
    assert_eq!(end["grid"]["end"]["by"], "wall-time");
    assert_eq!(end["event"]["outcome"], "failure");
    let actions: Vec<Value> = world.records().iter().map(|r| r["event"]["action"].clone()).collect();
    assert_eq!(actions, ["segment-open", "payload-launch", "payload-stop", "payload-end"]);
    let status = status(&world.path("status"));
    assert_eq!((&status["ended_by"], &status["from_bailey"]), (&"wall-time".into(), &true.into()));
    assert_eq!(status["exit_code"], 124);
    world.assert_chain();
    (text(&output.stdout), took)
}

#[test]
fn the_wall_time_ends_a_payload() {
    let world = World::new();
    let (_, took) = out_of_time(&world, "60s", "exec sleep 1000");
    assert!(took < support::patience(Duration::from_secs(30)), "SIGTERM was enough: {took:?}");
    assert_eq!(the_end(&world)["grid"]["end"]["signal"], "SIGTERM");
}

#[test]
fn the_wall_time_lets_a_payload_clean_up() {
    let world = World::new();
    let script = "trap 'echo cleaned up; exit 0' TERM; while :; do sleep 1000 & wait; done";
    let (said, took) = out_of_time(&world, "60s", script);
    assert_eq!(said, "cleaned up\n");
    assert!(took < support::patience(Duration::from_secs(30)), "{took:?}");
    assert_eq!(the_end(&world)["process"]["exit_code"], 0);
}

#[test]
fn the_wall_time_kills_what_does_not_listen() {
    let world = World::new();
    let (_, took) = out_of_time(&world, "1s", "trap '' TERM; while :; do sleep 1000; done");
    assert!(took >= Duration::from_secs(2), "the grace was not given: {took:?}");
    assert_eq!(the_end(&world)["grid"]["end"]["signal"], "SIGKILL");
}

#[test]
fn the_wall_time_reaches_a_stopped_payload() {
    let world = World::new();
    let (said, took) =
        out_of_time(&world, "60s", "trap 'echo awake; exit 1' TERM; kill -STOP $$; sleep 1000");
    assert_eq!(said, "awake\n");
    assert!(took < support::patience(Duration::from_secs(30)), "{took:?}");
}

#[test]
fn the_wall_time_ends_daemons_too() {
    let world = World::new();
    let mark = mark(&world);
    let script = format!(
        "(setsid /bin/sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' {mark} >/dev/null 2>&1 &)
        exec /bin/sh -c 'sleep 1000; :' {mark}"
    );
    out_of_time(&world, "60s", &script);
    assert_eq!(alive_with(&mark), [0; 0]);
}

#[test]
fn a_payload_within_its_time_is_left_alone() {
    let world = World::new();
    let output = world.shell(&["--wall-time", "1h"], "exit 4");
    assert_eq!((code(&output), text(&output.stderr).as_str()), (4, ""));
    assert!(world.records_of("payload-stop").is_empty());
    assert_eq!(world.records_of("payload-launch")[0]["grid"]["limits"]["wall_time"], 3600);
}

// ---- The end of the launcher ----

#[test]
fn a_killed_launcher_takes_everything_with_it() {
    let world = World::new();
    let mark = mark(&world);
    let script = "(setsid /bin/sh -c 'while :; do sleep 1; done' \"$0\" >/dev/null 2>&1 &)
        trap '' TERM HUP; echo ready; while :; do sleep 1; done";
    let mut command = shell(&world, &["--user", "/CN=Lost"], script);
    let mut payload = Started::new(command.arg(&mark));
    assert_eq!(payload.line(), "ready");
    let launch = world.records_of("payload-launch").remove(0);
    let title = format!("bailey-init {}", launch["event"]["id"].as_str().unwrap());
    wait_for("launcher, payload and daemon", || alive_with(&mark).len() == 3);
    assert_eq!(alive_with(&title).len(), 1);
    payload.signal(libc::SIGKILL);
    assert_eq!(payload.end().signal(), Some(libc::SIGKILL));
    wait_for("the tree's end", || alive_with(&mark).is_empty() && alive_with(&title).is_empty());
    assert!(world.records_of("payload-end").is_empty());

    // The next bailey on this log writes the end that is missing, before its own launch.
    assert_eq!(code(&world.shell(&[], "true")), 0);
    let ends = world.records_of("payload-end");
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0]["grid"]["end"]["by"], "launcher-lost");
    assert_eq!(ends[0]["event"]["id"], launch["event"]["id"]);
    assert_eq!(ends[0]["process"]["pid"], launch["process"]["pid"]);
    world.assert_closed();
    world.assert_chain();
}

#[test]
fn a_killed_init_ends_the_launch() {
    let world = World::new();
    let mark = mark(&world);
    let mut command = shell(&world, &[], "echo ready; sleep 1000; :");
    let mut payload = Started::new(command.arg(&mark));
    assert_eq!(payload.line(), "ready");
    let title =
        format!("bailey-init {}", world.records_of("payload-launch")[0]["event"]["id"].as_str().unwrap());
    let init = alive_with(&title)[0];
    assert!(Command::new("kill").args(["-9", &init.to_string()]).status().unwrap().success());
    assert_eq!(payload.end().code(), Some(137));
    assert_eq!(alive_with(&mark), [0; 0]);
    assert_eq!(the_end(&world)["grid"]["end"]["signal"], "SIGKILL");
    world.assert_closed();
}

/// Orphaned inits: this process is their subreaper, and only they are in a pid namespace below and children of ours.
fn orphaned_inits() -> Vec<i32> {
    let own = std::process::id().to_string();
    support::pids()
        .into_iter()
        .filter(|pid| proc_status(*pid, "PPid").as_ref() == Some(&own))
        .filter(|pid| proc_status(*pid, "NSpid").is_some_and(|pids| pids.split_whitespace().count() == 2))
        .collect()
}

#[test]
fn a_launcher_killed_at_any_moment_leaves_nothing() {
    const ROUNDS: u32 = 100;
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let world = World::new();
    let mark = mark(&world);
    // How long a launch takes here, so that the moments cover all of it.
    let start = Instant::now();
    assert_eq!(code(&world.shell(&[], "true")), 0);
    let whole = start.elapsed() * 2;
    for round in 0..ROUNDS {
        let mut command = shell(&world, &[], "(sleep 1000 &); sleep 1000; :");
        let mut launcher = Guard(command.arg(&mark).stdout(Stdio::null()).spawn().unwrap());
        // The first tenth at once; then evenly over twice a launch.
        std::thread::sleep(whole * round.saturating_sub(ROUNDS / 10) / ROUNDS);
        launcher.0.kill().unwrap();
        launcher.0.wait().unwrap();
        wait_for("everything to end", || {
            for init in orphaned_inits() {
                let _ = nix::sys::wait::waitpid(
                    nix::unistd::Pid::from_raw(init),
                    Some(nix::sys::wait::WaitPidFlag::WNOHANG),
                );
            }
            alive_with(&mark).is_empty() && orphaned_inits().is_empty()
        });
    }
    let launched = world.records_of("payload-launch").len();
    assert!(
        (2..=ROUNDS as usize).contains(&launched),
        "all rounds died at the same side of the record: {launched}"
    );
    assert_eq!(code(&world.shell(&[], "true")), 0);
    let lost = world
        .records_of("payload-end")
        .iter()
        .filter(|end| end["grid"]["end"]["by"] == "launcher-lost")
        .count();
    assert_eq!(lost, launched - 1, "the first launch ended by itself");
    world.assert_closed();
    world.assert_chain();
}

// ---- Orphans and usage ----

#[test]
fn a_thousand_orphans_leave_no_zombie() {
    let world = World::new();
    let script = r#"
        i=0; while [ $i -lt 1000 ]; do (sleep 0.2 >/dev/null &); i=$((i+1)); done
        tries=0
        while :; do
            all=0; zombies=0
            for stat in /proc/[0-9]*/stat; do
                read -r line <"$stat" || continue
                all=$((all+1))
                case ${line##*) } in Z*) zombies=$((zombies+1)) ;; esac
            done 2>/dev/null
            [ $all -gt 2 ] && [ $tries -lt 200 ] || break
            tries=$((tries+1)); sleep 0.05
        done
        echo $all $zombies
        read end"#;
    let mut payload = Started::new(&mut shell(&world, &[], script));
    assert_eq!(payload.line(), "2 0", "processes and zombies inside");
    let pid =
        i32::try_from(world.records_of("payload-launch")[0]["process"]["pid"].as_i64().unwrap()).unwrap();
    let init = proc_status(pid, "PPid").unwrap();
    let launcher = payload.pid().to_string();
    let children = |parent: &String| -> Vec<i32> {
        support::pids().into_iter().filter(|pid| proc_status(*pid, "PPid").as_ref() == Some(parent)).collect()
    };
    assert_eq!(children(&init), [pid]);
    assert_eq!(children(&launcher), [init.parse::<i32>().unwrap()]);
    assert!(payload.end().code().is_some());
    assert_eq!(children(&launcher), [0; 0]);
}

#[test]
fn orphans_end_with_the_payload() {
    let world = World::new();
    let mark = mark(&world);
    let script = format!("(setsid sh -c 'sleep 1000; :' {mark} >/dev/null 2>&1 &); exit 6");
    assert_eq!(code(&world.shell(&[], &script)), 6);
    assert_eq!(alive_with(&mark), [0; 0]);
}

#[test]
fn usage_is_what_was_used() {
    let world = World::new();
    // CPU: the shell says what it used itself. Memory: 64 MiB, touched. Characters: 10 MB each way. In children of the payload.
    let script = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; times
        perl -e '$x = \"\"; vec($x, 64 << 20, 8) = 1; $x =~ tr/\\0/a/;'
        head -c 10000000 /dev/zero >/dev/null";
    let start = Instant::now();
    // Not by a control group, which some hosts give and some do not (tests/cgroup.rs).
    let mut command = shell(&world, &[], script);
    command.env("BAILEY_CONFIG", world.config("[audit]\nrecorder = \"off\"\n[cgroup]\nmode = \"off\"\n"));
    let output = command.output().unwrap();
    let wall = start.elapsed().as_secs_f64();
    let said = support::stdout(&output);
    let seconds = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    let burned: f64 = said.lines().next().unwrap().split_whitespace().map(seconds).sum();
    assert!(burned > 0.05, "{said}");

    let end = the_end(&world);
    let usage = &end["grid"]["usage"];
    let number = |name: &str| usage[name].as_f64().unwrap_or_else(|| panic!("no {name} in {usage}"));
    let cpu = (number("cpu_user_us") + number("cpu_system_us")) / 1e6;
    // Upper bound: there is never more CPU than wall time times processors.
    assert!(
        cpu >= burned * 0.9 && cpu <= wall * 4.0,
        "{burned} s were burned, {cpu} s recorded, in {wall} s"
    );
    let memory = number("memory_peak_bytes");
    assert!((64e6..400e6).contains(&memory), "{memory}");
    assert!(number("read_chars") >= 10e6 && number("write_chars") >= 10e6, "{usage}");
    assert_eq!(usage["source"], "rusage");
    let duration = end["event"]["duration"].as_f64().unwrap() / 1e9;
    assert!(duration > burned * 0.9 && duration <= wall, "{duration}");

    // The control: one that does nothing uses next to nothing, so none of it is the launcher's or another launch's.
    let world = World::new();
    assert_eq!(code(&world.shell(&[], "true")), 0);
    let usage = &the_end(&world)["grid"]["usage"];
    assert!(usage["memory_peak_bytes"].as_f64().unwrap() < 48e6, "{usage}");
    assert!(usage["write_chars"].as_f64().unwrap() < 1e5, "{usage}");
}

// ---- Streams ----

#[test]
fn streams_pass_unchanged_both_ways() {
    let world = World::new();
    let mut data = vec![0_u8; 8 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut data).unwrap();
    let mut command = shell(&world, &[], "echo to stderr >&2; exec cat");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&data).unwrap();
            drop(stdin);
        });
        child.wait_with_output().unwrap()
    });
    assert_eq!(code(&output), 0);
    assert!(output.stdout == data, "{} of {} bytes, or others", output.stdout.len(), data.len());
    assert_eq!(output.stderr, b"to stderr\n");
}

#[test]
fn a_reader_sees_the_end_of_the_payloads_output() {
    let world = World::new();
    let mut command = shell(&world, &[], "echo last; exec >/dev/null; read end; exit 8");
    let mut child = Guard(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut stdout = child.0.stdout.take().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut all = String::new();
        stdout.read_to_string(&mut all).unwrap();
        let _ = send.send(all);
    });
    let all =
        receive.recv_timeout(Duration::from_secs(10)).expect("somebody else holds the payload's output");
    assert_eq!(all, "last\n");
    assert!(child.0.try_wait().unwrap().is_none(), "it still runs");
    drop(child.0.stdin.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(8));
}

#[test]
fn a_writer_sees_that_the_payload_closed_its_input() {
    let world = World::new();
    let mut payload = Started::new(&mut shell(&world, &[], "exec </dev/null; echo closed; exec sleep 1000"));
    assert_eq!(payload.line(), "closed");
    let mut stdin = payload.child.0.stdin.take().unwrap();
    wait_for("a broken pipe", || {
        stdin.write_all(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    });
    payload.signal(libc::SIGTERM);
    assert_eq!(payload.end().code(), Some(143));
}

#[test]
fn closed_streams_are_nothing_else() {
    let script = r"
        say() {
            if [ ! -e /proc/$$/fd/$1 ]; then word=closed
            elif [ /proc/$$/fd/$1 -ef /dev/null ]; then word=null
            else word=open; fi
        }
        say 0; a=$word; say 1; b=$word; say 2; c=$word
        echo PAYLOAD-OUT
        echo PAYLOAD-ERR >&2
        echo $a $b $c >result
        exit 5
    ";
    for closed in 0..8_u32 {
        let world = World::new();
        let work = world.directory("work");
        world.file("work/script.sh", script);
        let is_closed = |fd: u32| closed & (1 << fd) != 0;
        let redirect: String = (0..3)
            .map(|fd| if is_closed(fd) { format!(" {fd}>&-") } else { format!(" {fd}<>stream{fd}") })
            .collect();
        let status = world
            .command("/bin/sh")
            .args(["-c", &format!("exec \"$0\" \"$@\" {redirect}"), BAILEY, "exec", "--workdir"])
            .arg(&work)
            .arg("--image")
            .arg(image())
            .args(["--", "/bin/sh", "script.sh"])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(5), "closed {closed:03b}");
        let result = std::fs::read_to_string(work.join("result")).unwrap();
        for (fd, word) in (0..3).zip(result.split_whitespace()) {
            let expected: &[&str] = if is_closed(fd) { &["closed", "null"] } else { &["open"] };
            assert!(expected.contains(&word), "closed {closed:03b}: stream {fd} is {word}");
        }
        for (fd, said) in [(1, "PAYLOAD-OUT\n"), (2, "PAYLOAD-ERR\n")] {
            if !is_closed(fd) {
                assert_eq!(std::fs::read_to_string(world.path(&format!("stream{fd}"))).unwrap(), said);
            }
        }
        // Nothing that bailey opened stood where a stream should.
        for entry in std::fs::read_dir(world.log_dir()).unwrap().flatten().filter(|e| e.path().is_file()) {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!text(&bytes).contains("PAYLOAD-"), "closed {closed:03b}: {}", entry.path().display());
        }
        assert_eq!(the_end(&world)["process"]["exit_code"], 5);
        world.assert_chain();
    }
}

#[test]
fn a_refusal_without_stderr_still_has_its_code_and_its_record() {
    let world = World::new();
    for redirect in ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let before = world.records_of("launch-failed").len();
        let status = world
            .command("/bin/sh")
            .args(["-c", &format!("exec \"$0\" exec -- /no/such {redirect}"), BAILEY])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(127), "{redirect}");
        assert_eq!(world.records_of("launch-failed").len(), before + 1);
    }
}
