//! Landlock: what every payload's domain forbids, what profile `strict` adds, and what happens on kernels that have less of
//! it. Rows K11, K12, K13, S2, F12, F13 of docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Output};
use support::{World, assert_refused, image, stdout, text};

const OFF: &str = "[sandbox]\nlandlock = \"off\"\n";
const REQUIRED: &str = "[sandbox]\nlandlock = \"required\"\n";
const STRICT: &str = "[[rule]]\nid = \"s\"\nprofile = \"strict\"\nnetwork = \"none\"\n";
/// Strict, and without Landlock: the control.
const STRICT_OFF: &str =
    "[sandbox]\nlandlock = \"off\"\n[[rule]]\nid = \"s\"\nprofile = \"strict\"\nnetwork = \"none\"\n";

/// This kernel's ABI, asked as landlock_create_ruleset(2) says; 0 for none.
fn abi() -> i64 {
    let script = "print syscall(444, 0, 0, 1)";
    let output = Command::new("perl").args(["-e", script]).output().unwrap();
    text(&output.stdout).parse::<i64>().unwrap().max(0)
}

/// Whether this kernel has the scopes; says so when not.
fn has_scopes(test: &str) -> bool {
    let abi = abi();
    if abi < 6 {
        support::skip(test, &format!("this kernel's Landlock is ABI {abi}; scopes need 6"));
    }
    abi >= 6
}

fn launch(world: &World, config: &str, options: &[&str], script: &str) -> Command {
    let mut command = world.exec(&["--image"]);
    command.arg(image()).args(options).args(["--", "/bin/sh", "-c", script]);
    command.env("BAILEY_CONFIG", world.config(config));
    command
}

fn run(world: &World, config: &str, options: &[&str], script: &str) -> Output {
    launch(world, config, options, script).output().unwrap()
}

/// `grid.sandbox.landlock` of the last launch.
fn recorded(world: &World) -> String {
    let launch = world.records_of("payload-launch").pop().unwrap();
    launch["grid"]["sandbox"]["landlock"].as_str().unwrap().to_owned()
}

// K11
#[test]
fn abstract_sockets_of_the_pilot_are_out_of_reach() {
    if !has_scopes("abstract_sockets_of_the_pilot_are_out_of_reach") {
        return;
    }
    let world = World::new();
    let name = format!("bailey-landlock-{}", std::process::id());
    let address = |end: &str| SocketAddr::from_abstract_name(format!("{name}-{end}").as_bytes()).unwrap();
    let _stream = UnixListener::bind_addr(&address("s")).unwrap();
    let _datagram = UnixDatagram::bind_addr(&address("d")).unwrap();
    let script = format!(
        "perl -e 'use Socket; sub at {{ pack_sockaddr_un(\"\\0{name}-$_[0]\") }} sub said {{ print \"$_[0]: \", ($_[1] ? \"ok\" : $!), \"\\n\" }} \
         socket(S,PF_UNIX,SOCK_STREAM,0); said(\"connect\", connect(S,at(\"s\"))); \
         socket(D,PF_UNIX,SOCK_DGRAM,0); said(\"send\", send(D,\"x\",0,at(\"d\"))); \
         socket(L,PF_UNIX,SOCK_STREAM,0); bind(L,at(\"own\")); listen(L,1); \
         socket(C,PF_UNIX,SOCK_STREAM,0); said(\"own\", connect(C,at(\"own\")))'"
    );
    let control = stdout(&run(&world, OFF, &[], &script));
    assert_eq!(control, "connect: ok\nsend: ok\nown: ok");
    assert_eq!(recorded(&world), "off: the site's configuration");

    let denied = "Operation not permitted";
    for config in ["", REQUIRED] {
        let seen = stdout(&run(&world, config, &[], &script));
        assert_eq!(seen, format!("connect: {denied}\nsend: {denied}\nown: ok"));
        assert!(recorded(&world).starts_with("on: ABI "), "{}", recorded(&world));
        assert!(recorded(&world).ends_with(": abstract sockets and signals"), "{}", recorded(&world));
    }
    // Scopes are no file-system rules: a payload that may nest has them too, and can mount.
    let nested = "[sandbox]\nnested_namespaces = true\n";
    let mount = format!("{script}; unshare -Urm mount -t tmpfs x /tmp && echo mounted");
    let seen = stdout(&run(&world, nested, &["--nested"], &mount));
    assert_eq!(seen, format!("connect: {denied}\nsend: {denied}\nown: ok\nmounted"));
}

// S2, S3
#[test]
fn init_cannot_be_signalled() {
    if !has_scopes("init_cannot_be_signalled") {
        return;
    }
    let world = World::new();
    let script = "kill -0 1 2>/dev/null && echo reached; kill -CONT 1 2>/dev/null && echo reached; \
                  perl -e 'pipe(R,W); fcntl(R,8,1) && print \"owned \"; print kill(0,$$,getppid) == 2 ? \"own\" : \"not own\"'";
    let control = stdout(&run(&world, OFF, &[], script));
    assert!(control.starts_with("reached\nreached\n"), "{control}");
    let seen = stdout(&run(&world, "", &[], script));
    assert!(!seen.contains("reached") && seen.ends_with("own"), "{seen}");
    // The launcher's own signals and the end of everything work as ever.
    let output =
        run(&world, "", &["--wall-time", "1s", "--grace", "1s"], "trap '' TERM; sleep 60 & sleep 60");
    assert_eq!(support::code(&output), 124, "{}", text(&output.stderr));
    world.assert_no_trace();
}

/// What a payload tries with files, sockets and streams; its words go to stderr, because stdout is one of the things tried.
const TRIES: &str = r#"
exec 3>&2 2>/dev/null 4>&1
export OUT=/proc/$$/fd/4
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name: ok" >&3; else echo "$name: no" >&3; fi; }
try read-image cat /etc/os-release
try execute /bin/true
try work sh -c 'mkdir -p a b && echo x >a/f && mv a/f b/g && ln b/g a/h && ln -s g b/s && mkfifo b/p && truncate -s 0 b/g && rm -r a b'
try execute-work sh -c 'cp /bin/true t && ./t'
try scratch sh -c 'for d in /tmp /var/tmp /dev/shm /run; do echo x >$d/f && mv $d/f $d/g && rm $d/g || exit 1; done'
try devices sh -c 'echo x >/dev/null && head -c 1 /dev/zero && head -c 1 /dev/urandom && echo x >/dev/stdin'
try thread-name sh -c 'echo renamed >/proc/self/comm'
try ioctl perl -e 'open(Z,"<","/dev/zero"); my $b="\0"x64; ioctl(Z,0x5401,$b); exit($!{ENOTTY} ? 0 : 1)'
try make-device mknod /tmp/c c 0 0
try append-stdout sh -c 'echo x >>$OUT'
try empty-stdout sh -c ': >$OUT'
try tcp perl -e 'use Socket; socket(L,PF_INET,SOCK_STREAM,0); bind(L,pack_sockaddr_in(0,inet_aton("127.0.0.1"))) && listen(L,1) && socket(C,PF_INET,SOCK_STREAM,0) && connect(C,getsockname(L)) or exit 1'
try connect-tcp perl -e 'use Socket; socket(C,PF_INET,SOCK_STREAM,0); connect(C,pack_sockaddr_in(9,inet_aton("127.0.0.1"))); exit($!{ECONNREFUSED} ? 0 : 1)'
"#;

/// Runs [`TRIES`] with a regular file of the pilot's as standard output; which of them worked.
fn tries(world: &World, config: &str) -> Vec<String> {
    let workdir = world.directory("work");
    world.file("pilot.log", "the pilot's words\n");
    let command = launch(world, config, &["--workdir", workdir.to_str().unwrap()], TRIES);
    // What is tried with stdout must be tried on the file itself.
    let script = "exec \"$@\" >>pilot.log";
    let mut outer = support::behind("/bin/sh", &["-c", script, "sh"], &command);
    let output = outer.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let worked = said.lines().filter_map(|line| line.strip_suffix(": ok")).map(str::to_owned).collect();
    assert_eq!(said.lines().count(), 13, "{said}");
    worked
}

// F13, K13, F12
#[test]
fn strict_is_a_second_wall_for_files_and_tcp() {
    let abi = abi();
    if abi < 5 {
        support::skip(
            "strict_is_a_second_wall_for_files_and_tcp",
            &format!("this kernel's Landlock is ABI {abi}; the test counts on rights of 5"),
        );
        return;
    }
    let world = World::new();
    let all = tries(&world, STRICT_OFF);
    assert_eq!(all.len(), 13, "without Landlock each of them works: {all:?}");
    let log = || fs::read_to_string(world.path("pilot.log")).unwrap();
    assert!(!log().contains("the pilot's words"), "the payload emptied the pilot's file");

    let seen = tries(&world, STRICT);
    let denied: Vec<&str> =
        all.iter().map(String::as_str).filter(|name| !seen.iter().any(|seen| seen == name)).collect();
    // The character device 0:0, a file that opens nothing, is no device to newer Landlocks (seen on 7.2 and 6.12.117).
    let others: Vec<&str> = denied.into_iter().filter(|name| *name != "make-device").collect();
    assert_eq!(others, ["append-stdout", "empty-stdout", "tcp", "connect-tcp"]);
    assert!(log().starts_with("the pilot's words\n"), "{}", log());
    let recorded = recorded(&world);
    assert!(
        recorded.starts_with("on: ABI ") && recorded.contains("files") && recorded.ends_with("no TCP"),
        "{recorded}"
    );

    // Only what is mounted writable, whatever the file's permissions say; and none of it for another profile.
    let free = tries(&world, "");
    assert_eq!(free.len(), 13, "{free:?}");
}

// A directory of the host whose descriptor comes over a socket leads past every mount.
#[test]
fn strict_keeps_a_payload_from_files_behind_a_descriptor() {
    if abi() < 2 {
        support::skip("strict_keeps_a_payload_from_files_behind_a_descriptor", "no file-system rules");
        return;
    }
    let world = World::new();
    world.file("outside/secret", "secret\n");
    let recvmsg = if cfg!(target_arch = "x86_64") { 47 } else { 212 };
    let script = format!(
        "perl -e 'my $b = \"x\"; my $v = pack(\"PQ\", $b, 1); my $c = \"\\0\" x 24; \
         my $m = pack(\"QQPQPQQ\", 0, 0, $v, 1, $c, 24, 0); syscall({recvmsg}, 0, $m, 0) == 1 or die $!; \
         my (undef, undef, undef, $fd) = unpack(\"QLLL\", $c); exec \"cat\", \"/proc/self/fd/$fd/secret\"' 2>&1"
    );
    let look = |config: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let directory = fs::File::open(world.path("outside")).unwrap();
        let rights = [directory.as_raw_fd()];
        let message = [std::io::IoSlice::new(b"x")];
        let rights = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(ours.as_raw_fd(), &message, &rights, MsgFlags::empty(), None).unwrap();
        let mut command = launch(&world, config, &[], &script);
        text(&command.stdin(OwnedFd::from(theirs)).output().unwrap().stdout)
    };
    assert_eq!(look(STRICT_OFF), "secret\n");
    let seen = look(STRICT);
    assert!(seen.contains("Permission denied"), "{seen}");
}

/// A launch whose Nth call of landlock_create_ruleset in the payload's process is answered so.
fn answered(world: &World, config: &str, answers: &[&str]) -> Output {
    let inner = launch(world, config, &[], "true");
    let mut args = vec!["-f".to_owned(), "-o".to_owned(), world.path("trace").display().to_string()];
    for answer in answers {
        args.extend(["-e".to_owned(), format!("inject=landlock_create_ruleset:{answer}")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    support::behind("strace", &args, &inner).output().unwrap()
}

#[test]
fn a_kernel_that_has_less_is_stepped_down_to() {
    if !has_scopes("a_kernel_that_has_less_is_stepped_down_to") {
        return;
    }
    let world = World::new();
    let own = abi().min(9);
    let scopes = "abstract sockets and signals";
    let none = "off: this kernel has none";
    // One less than it has: the scopes came with ABI 6.
    let (less, strict_less) = if own > 6 {
        let less = format!("on: ABI {}: {scopes}", own - 1);
        (less.clone(), format!("{less}, files, no TCP"))
    } else {
        let off = format!("off: this kernel grants ABI 5, {scopes} since ABI 6");
        (off, format!("on: ABI 5: files, no TCP; not protected: {scopes}"))
    };
    for (answers, config, expected) in [
        // As they are.
        (&[][..], "", format!("on: ABI {own}: {scopes}")),
        (&[], STRICT, format!("on: ABI {own}: {scopes}, files, no TCP")),
        // It says one ABI and refuses its rights: EINVAL for a bit, E2BIG for a field that it does not know.
        (&["error=EINVAL:when=2"], "", less.clone()),
        (&["error=EINVAL:when=2"], STRICT, strict_less),
        (&["error=E2BIG:when=2"], "", less),
        // Each older one.
        (&["retval=6:when=1"], "", format!("on: ABI 6: {scopes}")),
        (&["retval=5:when=1"], "", format!("off: this kernel grants ABI 5, {scopes} since ABI 6")),
        (&["retval=5:when=1"], STRICT, format!("on: ABI 5: files, no TCP; not protected: {scopes}")),
        (&["retval=4:when=1"], STRICT, format!("on: ABI 4: files, no TCP; not protected: {scopes}")),
        (&["retval=3:when=1"], STRICT, format!("on: ABI 3: files; not protected: {scopes}, no TCP")),
        (&["retval=2:when=1"], STRICT, format!("on: ABI 2: files; not protected: {scopes}, no TCP")),
        (
            &["retval=1:when=1"],
            STRICT,
            format!("off: this kernel grants ABI 1, {scopes}, files, no TCP since ABI 6"),
        ),
        // A newer one than is known here.
        (&["retval=99:when=1"], STRICT, format!("on: ABI {}: {scopes}, files, no TCP", own.max(8))),
        // None.
        (&["error=ENOSYS:when=1"], "", none.to_owned()),
        (&["error=EOPNOTSUPP:when=1"], "", "off: not enabled when this kernel was started (lsm=)".to_owned()),
        (&["error=EPERM:when=1"], "", "off: Operation not permitted (EPERM)".to_owned()),
    ] {
        let output = answered(&world, config, answers);
        assert_eq!(support::code(&output), 0, "{answers:?}: {}", text(&output.stderr));
        assert_eq!(recorded(&world), expected, "{answers:?} {config}");
    }
    // What is required is there or nothing runs.
    let strict_required = format!("{REQUIRED}{STRICT}");
    for (answers, config, words) in [
        (&["error=ENOSYS:when=1"], REQUIRED, "is off: this kernel has none"),
        (&["retval=5:when=1"], REQUIRED, "since ABI 6"),
        (&["retval=3:when=1"], &strict_required, "not protected: abstract sockets and signals, no TCP"),
    ] {
        let before = world.records_of("payload-launch").len();
        let output = answered(&world, config, answers);
        assert_refused(&output, 125, &["the walls do not hold", "Landlock is required", words]);
        assert_eq!(world.records_of("payload-launch").len(), before);
    }
    world.assert_closed();
}

#[test]
fn the_plan_says_what_this_kernel_grants() {
    let world = World::new();
    let dry = |config: &str| stdout(&run(&world, config, &["--dry-run"], "true"));
    let line = |text: &str| {
        text.lines()
            .find(|line| line.contains("landlock:"))
            .unwrap()
            .split_once("landlock: ")
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(line(&dry(OFF)), "off: the site's configuration");
    if has_scopes("the_plan_says_what_this_kernel_grants") {
        assert_eq!(
            line(&dry(STRICT)),
            format!("on: ABI {}: abstract sockets and signals, files, no TCP", abi())
        );
    }
}

/// The price of the wall: where standard error is a file, its name is not to be opened, and the record says so.
#[test]
fn a_stream_that_is_a_file_is_not_opened_by_its_name() {
    let abi = abi();
    if abi < 2 {
        support::skip(
            "a_stream_that_is_a_file_is_not_opened_by_its_name",
            &format!("this kernel's Landlock is ABI {abi}; rules on files need 2"),
        );
        return;
    }
    let world = World::new();
    let log = world.path("errors");
    let tried = |config: &str, options: &[&str]| {
        let script = "echo by-descriptor >&2; echo by-name >>/dev/stderr";
        fs::write(&log, "the pilot's words\n").unwrap();
        let to = fs::OpenOptions::new().append(true).open(&log).unwrap();
        let output = launch(&world, config, options, script).stderr(to).output().unwrap();
        let record = world.records_of("payload-launch").pop().unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.starts_with("the pilot's words\nby-descriptor\n"), "{said}");
        (output.status.code(), said, record["grid"]["sandbox"]["stdio"].as_str().unwrap().to_owned())
    };
    for config in ["", STRICT_OFF] {
        let (code, said, recorded) = tried(config, &[]);
        assert_eq!((code, recorded.as_str()), (Some(0), "pass: the payload can open stderr again"));
        assert!(said.ends_with("by-name\n"), "{said}");
    }
    let (code, said, recorded) = tried(STRICT, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/dev/stderr: Permission denied") && !said.contains("by-name"), "{said}");
    assert!(recorded.starts_with("pass: the payload cannot open stderr again"), "{recorded}");
    let (code, said, recorded) = tried(STRICT, &["--stdio", "relay"]);
    assert_eq!((code, recorded.as_str()), (Some(0), "relay"), "{said}");
    assert!(said.ends_with("by-name\n"), "{said}");
}
