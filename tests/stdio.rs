//! `--stdio relay`: nothing of the pilot's files behind the standard streams can be reached, and nothing is lost on the way.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Guard, World, image, wait_for};

const RELAY: &[&str] = &["--stdio", "relay"];

fn shell(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(options).args(["--", "/bin/sh", "-c", script]);
    command
}

fn stderr(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn stdio_of(world: &World) -> String {
    world.records_of("payload-launch").last().unwrap()["grid"]["sandbox"]["stdio"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// What payloads do to a log that they were handed; each leaves a trace in `log` if it works.
const ATTACKS: &[(&str, &str)] = &[
    ("reads what the pilot wrote", "exec 3>&1; timeout 1 cat /proc/self/fd/3 >&2; :"),
    ("truncates it", ": >/proc/self/fd/1"),
    ("truncates it by the descriptor", "perl -e 'truncate(STDOUT, 0) or exit 1'"),
    ("changes its mode", "chmod 0666 /proc/self/fd/1"),
    ("overwrites its beginning", "echo XXXXXXXXXXXXXX 1<>/proc/self/fd/1 >&1"),
];

fn attack(world: &World, options: &[&str], script: &str) -> (bool, Output) {
    let log = world.file("log", "PILOT-SECRET\n");
    fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let out = OpenOptions::new().append(true).open(&log).unwrap();
    let done = shell(world, options, script).stdout(out).stderr(Stdio::piped()).output().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).unwrap().permissions()) & 0o777;
    let whole = fs::read_to_string(&log).unwrap().starts_with("PILOT-SECRET\n") && mode == 0o600;
    (whole && !stderr(&done).contains("PILOT-SECRET"), done)
}

#[test]
fn the_pilots_log_is_out_of_reach() {
    let world = World::new();
    for (what, script) in ATTACKS {
        let (safe, done) = attack(&world, &[], script);
        assert!(!safe, "control: without the relay the payload {what}: {done:?}");
        assert!(stdio_of(&world).contains("can open stdout again"), "{}", stdio_of(&world));
        let (safe, done) = attack(&world, RELAY, script);
        assert!(safe, "the payload {what}: {done:?}");
        assert_eq!(stdio_of(&world), "relay");
    }
}

#[test]
fn input_that_was_opened_for_reading_cannot_be_written() {
    let world = World::new();
    for (options, expected) in [(&[][..], "spoiled\n"), (RELAY, "INPUT\n")] {
        let input = world.file("input", "INPUT\n");
        let mut command = shell(&world, options, "(echo spoiled >/proc/self/fd/0) 2>/dev/null; cat");
        let done = command.stdin(File::open(&input).unwrap()).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert_eq!(fs::read_to_string(&input).unwrap(), expected, "{options:?}");
    }
}

/// A descriptor of a directory leads out of every root, by fchdir(2) and openat(2).
#[test]
fn a_directory_is_no_standard_stream() {
    let world = World::new();
    let outside = world.directory("outside");
    world.file("outside/secret", "PILOT-SECRET\n");
    let streams =
        [("STDIN", "standard input", 1), ("STDOUT", "standard output", 2), ("STDERR", "standard error", 1)];
    for (handle, name, to) in streams {
        let script = format!("perl -e 'chdir {handle} or die; exec \"sh\", \"-c\", \"cat secret >&{to}\"'");
        let put = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let directory = File::open(&outside).unwrap();
            match handle {
                "STDIN" => command.stdin(directory),
                "STDOUT" => command.stdout(directory),
                _ => command.stderr(directory),
            };
            let done = command.output().unwrap();
            (done.status.code(), [done.stdout, done.stderr].concat())
        };
        let holds = |said: &[u8]| String::from_utf8_lossy(said).contains("PILOT-SECRET");
        let mut naive = world.command("unshare");
        naive.args(["-Ur", "chroot"]).arg(image()).args(["/bin/sh", "-c", &script]);
        let (code, said) = put(&mut naive);
        assert!(holds(&said), "control: in another root it is read all the same: {code:?} {said:?}");

        let strict = world.config("[[rule]]\nid = \"s\"\nprofile = \"strict\"\n");
        let nested = world.config("[[rule]]\nid = \"n\"\nprofile = \"nested\"\n");
        for (options, config) in [(&[][..], None), (RELAY, None), (&[], Some(&strict)), (&[], Some(&nested))]
        {
            let mut command = shell(&world, options, &script);
            if let Some(config) = config {
                command.env("BAILEY_CONFIG", config);
            }
            let (code, said) = put(&mut command);
            assert_eq!(code, Some(125), "{handle} {options:?}");
            assert!(!holds(&said));
            let record = world.records_of("launch-failed").pop().unwrap();
            let why = record["event"]["reason"].as_str().unwrap();
            assert!(why.contains(name) && why.contains("is a directory"), "{why}");
            assert!(handle == "STDERR" || String::from_utf8_lossy(&said).contains(why), "{said:?}");
        }
    }
    assert_eq!(world.records_of("payload-launch").len(), 0);
}

#[test]
fn all_of_it_arrives_in_order() {
    let world = World::new();
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut child = shell(&world, RELAY, "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, given) = (child.stdin.take().unwrap(), input.clone());
    let writer = std::thread::spawn(move || to.write_all(&given));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(output.len(), input.len());
    assert!(output == input);
    // Both streams in one file keep the order in which they were written.
    let both = File::create(world.path("both")).unwrap();
    let script = "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; echo $i >&2; done";
    let done = shell(&world, RELAY, script).stdout(both.try_clone().unwrap()).stderr(both).status().unwrap();
    assert!(done.success());
    let expected =
        "0011223344556677889".chars().chain(['9']).flat_map(|digit| [digit, '\n']).collect::<String>();
    assert_eq!(fs::read_to_string(world.path("both")).unwrap(), expected);
}

#[test]
fn ends_and_broken_pipes_come_through() {
    let world = World::new();
    // The payload closes its output and lives on: who reads sees the end.
    let mut child =
        Guard(shell(&world, RELAY, "exec >&- 2>&-; exec sleep 1000").stdout(Stdio::piped()).spawn().unwrap());
    let mut nothing = Vec::new();
    child.0.stdout.take().unwrap().read_to_end(&mut nothing).unwrap();
    assert!(child.0.try_wait().unwrap().is_none());
    // Who reads goes: the payload gets SIGPIPE.
    let script = "while :; do echo line; done";
    let mut child =
        shell(&world, RELAY, script).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(128 + libc::SIGPIPE), None));
    // The payload does not read: the pilot that writes is told.
    let mut child = Guard(
        shell(&world, RELAY, "exec <&-; echo closed; exec sleep 1000")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    child.0.stdout.as_mut().unwrap().read_exact(&mut [0; 7]).unwrap();
    let mut to = child.0.stdin.take().unwrap();
    let start = Instant::now();
    let error = loop {
        match to.write_all(&[0; 4096]) {
            Ok(()) => assert!(
                start.elapsed() < support::patience(Duration::from_secs(20)),
                "nobody says that it is not read"
            ),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn streams_that_are_null_or_closed_or_a_full_disk() {
    let world = World::new();
    let script = "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >/tmp/x; cat /tmp/x >&2";
    let done = shell(&world, RELAY, script).stdin(Stdio::null()).stdout(Stdio::null()).output().unwrap();
    let seen = stderr(&done);
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen.len(), 3, "{done:?}");
    assert!(seen[0] == "/dev/null" && seen[1] == "/tmp/x" && seen[2].starts_with("pipe:"), "{seen:?}");
    let mut closed = Command::new("/bin/sh");
    closed.env_clear().env("HOME", world.path("home")).args([
        "-c",
        r#"exec "$@" <&- >&-"#,
        "sh",
        support::BAILEY,
    ]);
    closed.args(["exec", "--image"]).arg(image()).args(RELAY).args([
        "--",
        "/bin/sh",
        "-c",
        "echo x; cat; echo fine >&2",
    ]);
    let done = closed.output().unwrap();
    assert_eq!((done.status.code(), stderr(&done).trim()), (Some(0), "fine"), "{done:?}");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done = shell(&world, RELAY, "echo x; sleep 0.2; echo y; echo $? >&2").stdout(full).output();
    let done = done.unwrap();
    assert!(stderr(&done).contains("cannot write the payload's standard output: No space left"), "{done:?}");
}

/// The rest is carried after the end; who takes nothing does not hold bailey for ever, and a signal ends the waiting.
#[test]
fn a_pilot_that_does_not_read() {
    let world = World::new();
    let mut child = Guard(
        shell(&world, RELAY, "head -c 100000 /dev/zero & sleep 0.5; exit 7")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    wait_for("the end record", || !world.records_of("payload-end").is_empty());
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none(), "it waits for who reads");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.0.id().try_into().unwrap()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    let start = Instant::now();
    assert_eq!(child.0.wait().unwrap().code(), Some(7));
    assert!(start.elapsed() < support::patience(Duration::from_secs(5)));
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("output is lost"), "{said}");
    // The same, read late: all of it is there.
    let mut child =
        shell(&world, RELAY, "head -c 100000 /dev/zero & sleep 0.5; kill $!; head -c 60000 /dev/zero")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(output.len() >= 60000, "{}", output.len());
}

#[test]
fn a_descriptor_given_away_holds_nobody() {
    let world = World::new();
    let shared = world.directory("shared");
    // Somebody outside keeps the payload's end of the pipe open, by a fifo of the pilot's that both see... the pipe itself
    // can only go through a socket, which the payload reaches where a directory is shared.
    let give = "import socket,array,os\ns=socket.socket(socket.AF_UNIX)\ns.connect('/shared/s')\n\
                s.sendmsg([b'x'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[1]))])\nprint('given')";
    let listener = std::os::unix::net::UnixListener::bind(shared.join("s")).unwrap();
    let bind = format!("{}:/shared:rw", shared.display());
    let mut command = world.exec(&["--bind", &bind, "--stdio", "relay"]);
    command.args(["--", "/usr/bin/python3", "-c", give]).stdout(Stdio::piped());
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return support::skip("a_descriptor_given_away_holds_nobody", "no python3 on this host");
    }
    let mut child = Guard(command.spawn().unwrap());
    let (peer, _) = listener.accept().unwrap();
    let mut output = String::new();
    let start = Instant::now();
    child.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!((output.as_str(), child.0.wait().unwrap().code()), ("given\n", Some(0)));
    assert!(start.elapsed() < support::patience(Duration::from_secs(10)), "{:?}", start.elapsed());
    drop(peer); // until here the descriptor was on its way, and so open
}

#[test]
fn the_site_decides() {
    let world = World::new();
    let config = world.config("[sandbox]\nstdio = \"relay\"\n");
    let run = |options: &[&str]| {
        let mut command = shell(&world, options, "readlink /proc/self/fd/1");
        command.env("BAILEY_CONFIG", &config).output().unwrap()
    };
    let done = run(&[]);
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("pipe:"), "{done:?}");
    assert_eq!(stdio_of(&world), "relay");
    let done = run(&["--stdio", "pass"]);
    assert_eq!(done.status.code(), Some(125), "{done:?}");
    assert!(stderr(&done).contains("sandbox.stdio"), "{done:?}");
    let done = run(&["--stdio", "both"]);
    assert!(
        done.status.code() == Some(125) && stderr(&done).contains("pass and relay are known"),
        "{done:?}"
    );
}
