//! The filter of system calls, call by call. Each test first shows what the kernel says without it. K1 to K9, F12, P13 and K14
//! are rows of docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use bailey::sandbox::seccomp::calls::{CALLS, Call, Rule};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use support::{World, assert_refused, image, skip, stdout, text};

/// support/syscalls.c, compiled into the world.
struct Probe {
    program: PathBuf,
}

/// Where it is inside.
const INSIDE: &str = "/tmp/syscalls";

/// The number of a call in one ABI.
type Number = fn(&Call) -> Option<u16>;

const NATIVE: Number = if cfg!(target_arch = "x86_64") { |call| call.x86_64 } else { |call| call.aarch64 };
const I386: Number = |call| call.i386;

impl Probe {
    fn new(world: &World) -> Self {
        static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
        let program = world.path("syscalls");
        let bytes = PROGRAM.get_or_init(|| {
            let source = world.file("syscalls.c", include_str!("support/syscalls.c"));
            let built = world.path("syscalls.built");
            let output = world
                .command("gcc")
                .args(["-static", "-O1", "-o"])
                .args([&built, &source])
                .output()
                .expect("gcc is missing: run tests/setup.sh");
            assert!(output.status.success(), "{}", text(&output.stderr));
            fs::read(&built).unwrap()
        });
        fs::write(&program, bytes).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { program }
    }

    /// Without walls.
    fn plain(&self, world: &World, args: &str) -> String {
        stdout(&world.command(&self.program).args(args.split_whitespace()).output().unwrap())
    }

    /// In a user, mount and uts namespace of its own, with every capability there: nothing but a filter is in the way.
    fn capable(&self, world: &World, args: &str) -> String {
        let mut command = world.command("unshare");
        command.args(["-Urmu", "--"]).arg(&self.program).args(args.split_whitespace());
        stdout(&command.output().unwrap())
    }

    fn launch(&self, world: &World, config: &str, options: &[&str]) -> Command {
        let mut command = world.exec(options);
        command.arg("--image").arg(image());
        command.arg("--bind").arg(format!("{}:{INSIDE}", self.program.display())).arg("--");
        if !config.is_empty() {
            command.env("BAILEY_CONFIG", world.config(config));
        }
        command
    }

    /// As a payload.
    fn inside(&self, world: &World, config: &str, args: &str) -> String {
        let mut command = self.launch(world, config, &[]);
        stdout(&command.arg(INSIDE).args(args.split_whitespace()).output().unwrap())
    }
}

const STRICT: &str = "[[rule]]\nid = \"s\"\nprofile = \"strict\"\n";
const OFF: &str = "[sandbox]\nseccomp = \"off\"\n";
const WITH_32BIT: &str = "[sandbox]\nabi_32bit = \"on\"\n";
const NO_32BIT: &str = "[sandbox]\nabi_32bit = \"off\"\n";

fn number(name: &str) -> u16 {
    NATIVE(CALLS.iter().find(|call| call.name == name).unwrap()).unwrap()
}

/// The number of every call for which `rule` holds.
fn numbers(abi: Number, rule: impl Fn(Rule) -> bool) -> BTreeMap<u16, &'static str> {
    CALLS.iter().filter(|call| rule(call.rule)).filter_map(|call| Some((abi(call)?, call.name))).collect()
}

fn each(abi: &str, numbers: &BTreeMap<u16, &'static str>) -> String {
    let numbers: Vec<String> = numbers.keys().map(ToString::to_string).collect();
    format!("each {abi} {}", numbers.join(" "))
}

/// `NUMBER: RESULT` lines.
fn results(said: &str) -> BTreeMap<u16, &str> {
    said.lines()
        .map(|line| {
            let (number, result) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            (number.parse().unwrap(), result)
        })
        .collect()
}

/// The results alone, one a word.
fn said(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once(": ")).map(|(_, result)| result).collect()
}

/// Whether programs of i386 can run on this machine at all.
fn has_i386(world: &World, probe: &Probe) -> bool {
    cfg!(target_arch = "x86_64")
        && world.command(&probe.program).args(["i386", "20"]).output().unwrap().status.success()
}

/// Calls that the kernel itself refuses to whoever has no capability on the host (the first namespaces), or does not have: for
/// these there is no control.
const NO_CONTROL: &[&str] = &[
    // CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_MODULE, CAP_SYS_PACCT, CAP_SYS_TTY_CONFIG, CAP_SYS_RAWIO, CAP_SYS_TIME on the host
    "reboot",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "acct",
    "swapon",
    "swapoff",
    "iopl",
    "ioperm",
    "vhangup",
    "settimeofday",
    "stime",
    "clock_settime",
    "clock_settime64",
    "syslog",
    "bpf",
    "perf_event_open",
    "fanotify_init",
    "open_by_handle_at",
    "userfaultfd",
    "vm86",
    "vm86old",
    // Not in this kernel, or for another kind of machine
    "lookup_dcookie",
    "uselib",
    "modify_ldt",
    "listns",
    "open_tree_attr",
    "quotactl_fd",
];

// K1, K3, K6, K7, K8, K9
#[test]
fn every_refused_call_is_refused_by_its_number() {
    let world = World::new();
    let probe = Probe::new(&world);
    let refused = |rule| matches!(rule, Rule::Deny | Rule::Nesting);
    let mut abis: Vec<(&str, Number)> = vec![("native", NATIVE)];
    if has_i386(&world, &probe) {
        abis.push(("i386", I386));
    }
    for (abi, of) in abis {
        let numbers = numbers(of, refused);
        let args = each(abi, &numbers);
        let control = probe.capable(&world, &args);
        let control = results(&control);
        assert_eq!(control.len(), numbers.len());
        for (number, result) in &control {
            let name = numbers[number];
            let open = !matches!(*result, "EPERM" | "ENOSYS");
            assert!(open || NO_CONTROL.contains(&name), "{abi} {name} without a filter: {result}");
        }
        for config in if abi == "i386" { vec![WITH_32BIT] } else { vec!["", WITH_32BIT, STRICT] } {
            let inside = probe.inside(&world, config, &args);
            for (number, result) in results(&inside) {
                assert_eq!(result, "EPERM", "{abi} {} {config}", numbers[&number]);
            }
        }
    }
}

// K8
#[test]
fn calls_that_are_newer_than_the_filter_are_enosys() {
    let world = World::new();
    let probe = Probe::new(&world);
    let newest = CALLS.iter().filter_map(NATIVE).max().unwrap();
    let args = format!("native {} , native 600 , native 1000000 , native {}", newest + 1, number("clone3"));
    assert_eq!(said(&probe.inside(&world, "", &args)), ["ENOSYS"; 4]);
    let control = probe.plain(&world, &format!("native {} -1 -1", number("clone3")));
    assert_ne!(said(&control), ["ENOSYS"], "clone3 is there");
    // A number far away would be any call's, were it not looked at: this is close(2) of a wrong descriptor.
    assert_eq!(said(&probe.inside(&world, "", &format!("native {} -1", number("close")))), ["EBADF"]);
}

// K1, K2
#[test]
fn namespaces_are_refused_by_the_filter_alone() {
    const KINDS: [u32; 7] =
        [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
    const NEWTIME: u32 = 0x80;
    let world = World::new();
    let probe = Probe::new(&world);
    for kind in KINDS {
        let clone = format!("native {} {}", number("clone"), kind | 0x11);
        assert!(said(&probe.capable(&world, &clone)).iter().all(|said| said.starts_with("ok")), "{kind:#x}");
        assert_eq!(said(&probe.inside(&world, "", &clone)), ["EPERM"], "{kind:#x}");
    }
    // ENOSPC would be the limit of the sandbox; EPERM comes from the filter, which is asked before.
    for kind in KINDS.into_iter().chain([NEWTIME]) {
        let unshare = format!("native {} {kind}", number("unshare"));
        assert!(said(&probe.capable(&world, &unshare))[0].starts_with("ok"), "{kind:#x}");
        assert_eq!(said(&probe.inside(&world, "", &unshare)), ["EPERM"], "{kind:#x}");
    }
    // What threads share may be taken apart, and processes be made.
    let harmless = format!("native {0} 0x600 , native {0} 0", number("unshare"));
    assert_eq!(said(&probe.inside(&world, "", &harmless)), ["ok 0"; 2]);
    let fork = format!("native {} 17", number("clone"));
    // (The child may not get to its own line before the payload ends.)
    assert!(said(&probe.inside(&world, "", &fork))[0].starts_with("ok"));
}

// K5, K14
#[test]
fn socket_families_and_protocols_are_an_allow_list() {
    let world = World::new();
    let probe = Probe::new(&world);
    let socket = number("socket");
    let ask = |calls: &[(u32, u32, u32)]| {
        let calls: Vec<String> =
            calls.iter().map(|(f, t, p)| format!("native {socket} {f} {t} {p}")).collect();
        calls.join(" , ")
    };
    let families: Vec<(u32, u32, u32)> = (0..=46).map(|family| (family, 2, 0)).collect();
    let inside = probe.inside(&world, "", &ask(&families));
    for ((family, ..), result) in families.iter().zip(said(&inside)) {
        match family {
            1 | 2 | 10 | 16 => assert!(result.starts_with("ok"), "{family}: {result}"),
            _ => assert_eq!(result, "EAFNOSUPPORT", "{family}"),
        }
    }
    let plain = probe.plain(&world, &ask(&families));
    // AF_PACKET asks for a capability, so it is there.
    assert_eq!(said(&plain)[17], "EPERM", "{plain}");

    // Of netlink only the route family; uevents and generic netlink are open to all outside.
    let netlink = ask(&[(16, 3, 0), (16, 3, 15), (16, 3, 16)]);
    assert!(said(&probe.plain(&world, &netlink)).iter().all(|said| said.starts_with("ok")));
    let inside = probe.inside(&world, "", &netlink);
    let inside = said(&inside);
    assert!(inside[0].starts_with("ok") && inside[1..] == ["EAFNOSUPPORT"; 2], "{inside:?}");

    // SOCK_PACKET of AF_INET is AF_PACKET; DCCP, SCTP, UDP-Lite, MPTCP by type and by number.
    let others = [(2, 10, 3), (2, 6, 0), (2, 5, 0), (2, 1, 132), (2, 2, 136), (2, 1, 262), (10, 1, 262)];
    let inside = probe.inside(&world, "", &ask(&others));
    let expected = [
        "ESOCKTNOSUPPORT",
        "ESOCKTNOSUPPORT",
        "ESOCKTNOSUPPORT",
        "EPROTONOSUPPORT",
        "EPROTONOSUPPORT",
        "EPROTONOSUPPORT",
        "EPROTONOSUPPORT",
    ];
    assert_eq!(said(&inside), expected);
    assert_eq!(said(&probe.plain(&world, &ask(&others)))[0], "EPERM", "SOCK_PACKET wants CAP_NET_RAW");
    assert!(said(&probe.plain(&world, &ask(&others)))[4].starts_with("ok"), "UDP-Lite is there");

    // The usual ones, with the flags that libraries put in.
    let usual = [(1, 0x8_0801, 0), (2, 0x8_0001, 6), (10, 0x8_0002, 17), (2, 2, 0), (16, 0x8_0003, 0)];
    let inside = probe.inside(&world, "", &ask(&usual));
    assert!(said(&inside).iter().all(|said| said.starts_with("ok")), "{inside}");

    let pair = format!("native {} 1 1 0 text:0123456789", number("socketpair"));
    assert_eq!(said(&probe.inside(&world, "", &pair)), ["ok 0"]);
    let pair = pair.replace(" 1 1 0", " 30 5 0");
    assert_eq!(said(&probe.inside(&world, "", &pair)), ["EAFNOSUPPORT"]);

    // TCP_ULP: "espintcp" and "tls" are modules; the control fails later, at the socket that is not connected.
    let option = format!("native {socket} 2 1 0 , native {} 3 6 31 text:tls 4", number("setsockopt"));
    assert_ne!(said(&probe.plain(&world, &option))[1], "ENOPROTOOPT");
    assert_eq!(said(&probe.inside(&world, "", &option))[1], "ENOPROTOOPT");
    let nodelay = option.replace(" 6 31 ", " 6 1 ");
    assert_eq!(said(&probe.inside(&world, "", &nodelay))[1], "ok 0");
}

// F12
#[test]
fn nothing_types_into_a_terminal() {
    let world = World::new();
    let probe = Probe::new(&world);
    let ioctl = number("ioctl");
    let mut words: Vec<String> = Vec::new();
    for request in ["0x5412", "0x541c", "0x5423"] {
        for high in ["", "00000001", "ffffffff", "80000000"] {
            let request =
                if high.is_empty() { request.to_owned() } else { format!("0x{high}0000{}", &request[2..]) };
            words.push(format!("native {ioctl} 0 {request} text:x"));
        }
    }
    let args = words.join(" , ");
    // Standard input is /dev/null in both: the request gets there.
    assert_eq!(said(&probe.plain(&world, &args)), ["ENOTTY"; 12]);
    assert_eq!(said(&probe.inside(&world, "", &args)), ["EPERM"; 12]);
    // FIONREAD, and a request that differs in the low word.
    let others = format!("native {ioctl} 0 0x541b text:12345678 , native {ioctl} 0 0x15412 text:x");
    assert_eq!(said(&probe.inside(&world, "", &others)), ["ENOTTY"; 2]);
}

// P13
#[test]
fn personalities_that_weaken_memory_are_refused() {
    let world = World::new();
    let probe = Probe::new(&world);
    let ask = |values: &[&str]| {
        let calls: Vec<String> =
            values.iter().map(|value| format!("native {} {value}", number("personality"))).collect();
        calls.join(" , ")
    };
    // READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, ADDR_COMPAT_LAYOUT
    let weak = ask(&["0x400000", "0x100000", "0x200000"]);
    assert!(said(&probe.plain(&world, &weak)).iter().all(|said| said.starts_with("ok")));
    assert_eq!(said(&probe.inside(&world, "", &weak)), ["EPERM"; 3]);
    let usual = ask(&["0xffffffff", "8", "0x20008", "0x40000", "0"]);
    assert!(said(&probe.inside(&world, "", &usual)).iter().all(|said| said.starts_with("ok")));
    let inside = probe.inside(&world, STRICT, &usual);
    let strict = said(&inside);
    assert!(strict[3] == "EPERM" && strict[2].starts_with("ok"), "{strict:?}");
}

#[test]
fn init_cannot_be_slowed_or_limited() {
    let world = World::new();
    let probe = Probe::new(&world);
    let uid = nix::unistd::getuid();
    let calls = [
        ("prlimit64", "1 0 text:aaaaaaaabbbbbbbb 0"),
        ("sched_setaffinity", "1 8 text:aaaaaaaa"),
        ("sched_setscheduler", "1 3 text:\0"),
        ("sched_setparam", "1 0"),
        ("sched_setattr", "1 0 0"),
        ("setpriority", "0 1 19"),
        ("setpriority", "2 0 19"),
        ("setpriority", &format!("2 {uid} 19")),
        ("ioprio_set", "1 1 0x4007"),
        ("ioprio_set", &format!("3 {uid} 0x4007")),
        // The pid is an int: the high word is nothing to the kernel, and must be nothing to the filter.
        ("setpriority", "0 0x100000001 19"),
        ("prlimit64", "0xffffffff00000001 0 0 0"),
    ];
    let calls: Vec<String> = calls
        .iter()
        .map(|(name, args)| format!("native {} {}", number(name), args.replace('\0', "a")))
        .collect();
    let args = calls.join(" , ");
    let without = probe.inside(&world, OFF, &args);
    let without = said(&without);
    // Without the filter each reaches init: it works, or only the argument is wrong.
    assert!(
        without.iter().all(|said| said.starts_with("ok") || matches!(*said, "EFAULT" | "EINVAL")),
        "{without:?}"
    );
    assert!(
        without[0].starts_with("ok") && without[5].starts_with("ok") && without[6].starts_with("ok"),
        "{without:?}"
    );
    assert_eq!(said(&probe.inside(&world, "", &args)), ["EPERM"; 12]);

    // What it may do to itself and its own processes.
    let own = [
        format!("native {} 0 7 0 text:0123456789abcdef", number("prlimit64")),
        format!("native {} 0 0 19", number("setpriority")),
        format!("native {} 1 0 0x4007", number("ioprio_set")),
        format!("native {} 1 0 19", number("setpriority")),
    ];
    assert_eq!(said(&probe.inside(&world, "", &own.join(" , "))), ["ok 0"; 4]);
}

// F21
#[test]
fn no_file_makes_others_the_pilot() {
    let world = World::new();
    let probe = Probe::new(&world);
    // Every address is wrong, so what gets past the filter is EFAULT or EBADF, and nothing is made anywhere.
    let calls = |abi: &str, of: Number, mode: &str| -> Vec<String> {
        let rows = [
            ("chmod", format!("-1 {mode}")),
            ("creat", format!("-1 {mode}")),
            ("mknod", format!("-1 {mode}")),
            ("fchmod", format!("-1 {mode}")),
            ("fchmodat", format!("-100 -1 {mode}")),
            ("fchmodat2", format!("-100 -1 {mode} 0")),
            ("mknodat", format!("-100 -1 {mode} 0")),
            ("open", format!("-1 0o101 {mode}")),
            ("openat", format!("-100 -1 0o101 {mode}")),
            ("openat", format!("-100 -1 0o20200002 {mode}")),
        ];
        let call = |name: &str| of(CALLS.iter().find(|call| call.name == name).unwrap());
        let line = |(name, args): &(&str, String)| Some(format!("{abi} {} {args}", call(name)?));
        let octal = |args: String| args.replace("0o101", "0x41").replace("0o20200002", "0x410002");
        rows.iter().filter_map(line).map(octal).collect()
    };
    // rwsr-xr-x; rwxr-sr-x, as directories of a group have it; both with a high half that the kernel does not look at.
    let (setuid, setgid, ordinary, high) = ("0x9ed", "0x5ed", "0x1ff", "0xffffffff000009ed");
    let passes = |said: &[&str]| said.iter().all(|said| matches!(*said, "EFAULT" | "EBADF" | "ENOSYS"));
    let mut abis: Vec<(&str, Number)> = vec![("native", NATIVE)];
    if has_i386(&world, &probe) {
        abis.push(("i386", I386));
    }
    for (abi, of) in abis {
        let one = |config: &str, mode: &str| {
            let args = calls(abi, of, mode).join(" , ");
            if config.is_empty() { probe.plain(&world, &args) } else { probe.inside(&world, config, &args) }
        };
        let refused = |text: &str| said(text).iter().all(|said| *said == "EPERM");
        let default = WITH_32BIT;
        for mode in [setuid, setgid, ordinary, high] {
            let control = one("", mode);
            assert!(said(&control).len() >= 6 && passes(&said(&control)), "{abi} {mode}: {control}");
            assert!(passes(&said(&one("[sandbox]\nseccomp = \"off\"\n", mode))), "{abi} {mode}");
        }
        for mode in [setuid, high] {
            assert!(refused(&one(default, mode)), "{abi} {mode}: {}", one(default, mode));
        }
        assert!(passes(&said(&one(default, setgid))), "a directory of a group is not told from a file");
        assert!(passes(&said(&one(default, ordinary))), "{abi}: {}", one(default, ordinary));
        if abi == "native" {
            assert!(
                refused(&one(STRICT, setuid)) && refused(&one(STRICT, setgid)),
                "{}",
                one(STRICT, setgid)
            );
            assert!(passes(&said(&one(STRICT, ordinary))));
        }
    }
    // What makes no file has no mode: whatever is in its place does not count.
    let openat = number("openat");
    let reads = format!("native {openat} -100 text:/etc/passwd 0x80000 0xfff");
    assert!(said(&probe.inside(&world, STRICT, &reads))[0].starts_with("ok"));
    // Its mode is behind a pointer; who tries it goes on with openat(2).
    let openat2 = format!("native {} -1 -1 -1 -1", number("openat2"));
    assert_ne!(said(&probe.plain(&world, &openat2)), ["ENOSYS"]);
    assert_eq!(said(&probe.inside(&world, "", &openat2)), ["ENOSYS"]);
    // In what makes containers all of it works: images have such files.
    let nested = "[[rule]]\nid = \"n\"\nprofile = \"nested\"\n";
    let own = "cd /tmp && touch a && chmod 4755 a && test -u a && echo made";
    let shell = |config: &str| {
        let mut command = probe.launch(&world, config, &[]);
        text(&command.args(["/bin/sh", "-c", own]).output().unwrap().stdout)
    };
    assert_eq!((shell(nested).as_str(), shell("").as_str()), ("made\n", ""));
    assert_ne!(said(&probe.inside(&world, nested, &openat2)), ["ENOSYS"]);
    // What groups and ordinary programs do.
    let usual = "cd /tmp && mkdir -m 2775 d && chmod g+s d && mkdir d/e && chmod 0700 d/e && install -m 0755 /bin/ls d/ls && \
                 cp -a d f && (umask 077; echo x >g) && tar -cf - d | tar -xpf - -C f && test -g f/d && echo well";
    assert_eq!(stdout(&world.shell(&[], usual)), "well");
}

#[test]
fn init_outlives_a_limit_on_its_cpu_time_and_a_storm() {
    let world = World::new();
    let probe = Probe::new(&world);
    let storm = |config: &str, seconds: &str| {
        let output = probe.launch(&world, config, &[]).args([INSIDE, "storm", seconds]).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // Seconds on an idle machine. A loaded one has the more time.
    let (code, said, _) = storm(OFF, "90");
    assert!(said.contains("prlimit: ok"), "{said}");
    assert!(
        code == Some(137) && !said.contains("init: lives"),
        "without the filter it is killed: {code:?} {said}"
    );
    let (code, said, err) = storm("", "4");
    assert_eq!((code, said.as_str()), (Some(0), "prlimit: EPERM\ninit: lives\n"), "{err}");
}

// K4
#[test]
fn other_abis_have_rules_of_their_own_or_none() {
    let world = World::new();
    let probe = Probe::new(&world);
    // x32: this kernel may have it or not; behind the filter it has none.
    assert_eq!(said(&probe.inside(&world, "", "x32 39 , x32 41 38 5 0")), ["ENOSYS"; 2]);
    if !has_i386(&world, &probe) {
        skip("other_abis_have_rules_of_their_own_or_none", "this machine runs no programs of i386");
        return;
    }
    // getpid; socket(AF_ALG), socket(AF_UNIX); socketcall of SYS_SOCKET, SYS_SOCKETPAIR, SYS_SETSOCKOPT, SYS_BIND;
    // unshare(CLONE_NEWUSER), clone with it, clone3; ioctl TIOCSTI; personality; prlimit64 of init; a number of x86-64's bpf.
    let args = "i386 20 , i386 359 38 5 0 , i386 359 1 1 0 , i386 102 1 0 , i386 102 8 0 , i386 102 14 0 , i386 102 2 0 , \
                i386 310 0x10000000 , i386 120 0x10000011 , i386 435 -1 -1 , i386 54 0 0x5412 0 , i386 136 0x400000 , \
                i386 340 1 0 0 0 , i386 357 -1 , i386 600";
    let plain = probe.plain(&world, args);
    let plain = said(&plain);
    assert!(plain[0].starts_with("ok") && plain[2].starts_with("ok"), "{plain:?}");
    assert_eq!(&plain[3..6], ["EFAULT"; 3], "socketcall is there");
    let inside = probe.inside(&world, WITH_32BIT, args);
    let inside = said(&inside);
    assert!(inside[0].starts_with("ok") && inside[2].starts_with("ok"), "{inside:?}");
    assert_eq!(inside[1], "EAFNOSUPPORT");
    assert_eq!(
        &inside[3..],
        [
            "EAFNOSUPPORT",
            "EAFNOSUPPORT",
            "ENOPROTOOPT",
            "EFAULT",
            "EPERM",
            "EPERM",
            "ENOSYS",
            "EPERM",
            "EPERM",
            "EPERM",
            "EPERM",
            "ENOSYS",
        ]
    );
    // The image has no loader of 32-bit programs.
    for config in ["", NO_32BIT, STRICT] {
        let none = probe.inside(&world, config, "i386 20 , i386 359 1 1 0 , i386 1000");
        assert_eq!(said(&none), ["ENOSYS"; 3], "{config}");
    }
}

#[test]
fn debuggers_work_but_in_the_profile_strict() {
    let world = World::new();
    let probe = Probe::new(&world);
    assert_eq!(probe.plain(&world, "trace"), "trace: ok");
    assert_eq!(probe.inside(&world, "", "trace"), "trace: ok");
    let output = probe.launch(&world, STRICT, &[]).args([INSIDE, "trace"]).output().unwrap();
    assert!(text(&output.stdout).starts_with("trace: EPERM"), "{}", text(&output.stdout));
    let relaxed = numbers(NATIVE, |rule| rule == Rule::Relaxed);
    let inside = probe.inside(&world, STRICT, &each("native", &relaxed));
    assert!(results(&inside).values().all(|result| *result == "EPERM"), "{inside}");
    let inside = probe.inside(&world, "", &each("native", &relaxed));
    assert!(results(&inside).values().all(|result| *result != "EPERM"), "{inside}");
}

// K8
#[test]
fn ordinary_programs_do_not_notice() {
    let world = World::new();
    let probe = Probe::new(&world);
    for config in ["", STRICT] {
        assert_eq!(probe.inside(&world, config, "threads"), "threads: 16");
    }
    let script = "perl -e 'use Socket; socket(my $s, AF_INET, SOCK_STREAM, 0) or die; my $x = `echo a | tr a b`; \
                  print $x; my $p = fork // die; exit 3 unless $p; waitpid $p, 0; print $? >> 8' && \
                  (echo c | sort | sed s/c/d/) && getent passwd root >/dev/null; nice -n 5 true && ls / >/dev/null && echo e";
    assert_eq!(stdout(&world.shell(&[], script)), "b\n3d\ne");
    let python = "import threading, subprocess, socket, multiprocessing.pool, os, resource\n\
                  t = [threading.Thread(target=len, args=('',)) for _ in range(8)]\n\
                  [x.start() for x in t]; [x.join() for x in t]\n\
                  a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n\
                  s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())\n\
                  resource.getrlimit(resource.RLIMIT_NOFILE); os.sched_setaffinity(0, os.sched_getaffinity(0))\n\
                  print(subprocess.run(['echo', 'x'], capture_output=True).stdout, sum(multiprocessing.pool.Pool(2).map(abs, [-1, -2])))";
    if !Path::new("/usr/bin/python3").exists() {
        skip(
            "ordinary_programs_do_not_notice",
            "the host has no /usr/bin/python3; shell, perl and C were tried",
        );
        return;
    }
    let mut launch = world.exec(&["--"]);
    let output = launch.args(["/usr/bin/python3", "-c", python]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(stdout(&output), "b'x\\n' 3");
}

#[test]
fn nested_is_for_those_to_whom_it_is_granted() {
    let world = World::new();
    let probe = Probe::new(&world);
    // Namespaces, mounts and clone3 in a namespace of its own, and the rest as ever.
    let script = format!(
        "unshare -Urm sh -c 'mount -t tmpfs none /mnt && mount --bind /usr /mnt && id -u' && \
         {INSIDE} native {} -1 , native {} -1 -1 , native {} 38 5 0 , native {} -1 -1",
        number("bpf"),
        number("clone3"),
        number("socket"),
        number("add_key"),
    );
    let run = |config: &str, options: &[&str]| {
        probe.launch(&world, config, options).args(["/bin/sh", "-c", &script]).output().unwrap()
    };
    let allowed = "[sandbox]\nnested_namespaces = true\n";
    let granted = "[[rule]]\nid = \"containers\"\nprofile = \"nested\"\n";
    for (config, options) in [(allowed, &["--nested"][..]), (granted, &[]), (granted, &["--nested"])] {
        let output = stdout(&run(config, options));
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], "0", "{config} {options:?}");
        let answers = said(&output);
        assert_eq!((answers[0], answers[2], answers[3]), ("EPERM", "EAFNOSUPPORT", "EPERM"));
        assert_ne!(answers[1], "ENOSYS");
    }
    let last = world.records_of("payload-launch").pop().unwrap();
    assert_eq!(last["grid"]["policy"]["profile"], "nested");
    let walls = &last["grid"]["sandbox"];
    assert!(walls["seccomp"].as_str().unwrap().starts_with("on: nested, "), "{walls}");
    assert_eq!(walls["nested_namespaces_forbidden"], "off: a rule of the site grants them");

    // Allowed is not asked for, and a rule that refuses it wins.
    assert!(!run(allowed, &[]).status.success());
    assert_refused(&run(STRICT, &["--nested"]), 120, &["nested"]);
    let both = format!("{granted}nested = false\n");
    let output = run(&both, &[]);
    assert!(text(&output.stderr).contains("nested = false"), "{}", text(&output.stderr));
}

/// Names in a root directory, and where each leads; an empty file where it leads nowhere.
type Links<'a> = &'a [(&'a str, &'a str)];

// K4: the table of 32-bit programs is there where one could start.
#[test]
fn the_table_of_32bit_programs_follows_the_image() {
    let world = World::new();
    let probe = Probe::new(&world);
    if !has_i386(&world, &probe) {
        skip("the_table_of_32bit_programs_follows_the_image", "this machine runs no programs of i386");
        return;
    }
    let image = |name: &str, parts: Links| {
        let root = world.path(name);
        for dir in ["tmp", "usr/lib"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, to) in parts {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            match *to {
                "" => fs::write(root.join(path), "").unwrap(),
                to => std::os::unix::fs::symlink(to, root.join(path)).unwrap(),
            }
        }
        root
    };
    let said_in = |root: &Path, config: &str| {
        let mut command = world.exec::<&str>(&[]);
        command.arg("--image").arg(root);
        command.arg("--bind").arg(format!("{}:{INSIDE}", probe.program.display())).arg("--");
        command.env("BAILEY_CONFIG", world.config(config));
        let output = command.args([INSIDE, "i386", "20"]).output().unwrap();
        let result = said(&stdout(&output))[0].split(' ').next().unwrap_or_default().to_owned();
        let record = world.records_of("payload-launch").pop().unwrap();
        let wall = record["grid"]["sandbox"]["seccomp"].as_str().unwrap().to_owned();
        (result.starts_with("ok"), wall.contains(" with 32-bit programs"))
    };
    let (loader, musl) = ("lib/ld-linux.so.2", "usr/lib/ld-musl-i386.so.1");
    let rows: [(&str, Links, bool); 5] = [
        ("none", &[], false),
        ("file", &[(loader, "")], true),
        ("absolute", &[("lib", "/usr/lib"), (musl, "")], true),
        ("dangling", &[(loader, "/lib32/nothing")], false),
        ("no-directory", &[("lib", "")], false),
    ];
    for (name, parts, runs) in rows {
        let root = image(name, parts);
        assert_eq!(said_in(&root, "[sandbox]\n"), (runs, runs), "{name}");
        assert_eq!(said_in(&root, WITH_32BIT), (true, true), "{name}");
        assert_eq!(said_in(&root, NO_32BIT), (false, false), "{name}");
    }
}

// K18
#[test]
fn the_filter_is_read_back_and_recorded() {
    let world = World::new();
    let probe = Probe::new(&world);
    let sandbox = |config: &str, script: &str| {
        let output = probe.launch(&world, config, &[]).args(["/bin/sh", "-c", script]).output().unwrap();
        let shown = stdout(&output);
        let record: Value = world.records_of("payload-launch").pop().unwrap();
        (shown, record["grid"]["sandbox"]["seccomp"].as_str().unwrap().to_owned(), record)
    };
    let status = "grep ^Seccomp: /proc/self/status";
    let before = fs::read_to_string("/proc/self/status").unwrap();
    let (shown, wall, record) = sandbox(WITH_32BIT, status);
    assert_eq!(shown, "Seccomp:\t2");
    assert_eq!(record["grid"]["observed"]["seccomp"], 2);
    assert!(wall.starts_with("on: default, with 32-bit programs, filter "), "{wall}");
    let (_, without_32bit, _) = sandbox(NO_32BIT, status);
    assert!(without_32bit.starts_with("on: default, without 32-bit programs, filter "), "{without_32bit}");
    assert_ne!(wall[wall.len() - 16..], without_32bit[without_32bit.len() - 16..]);
    let (_, strict, _) = sandbox(STRICT, status);
    assert!(strict.starts_with("on: strict, "), "{strict}");
    let (shown, wall, record) = sandbox(OFF, status);
    assert_eq!(wall, "off: the site's configuration");
    let outside = before.lines().find(|line| line.starts_with("Seccomp:")).unwrap();
    assert_eq!(shown, outside);
    assert_eq!(record["grid"]["observed"]["seccomp"].to_string(), outside.split_whitespace().last().unwrap());

    // It stays, and a filter of the payload's own comes on top.
    let args = format!("native {} 1 0 0 , native {} 0xba11e", number("seccomp"), number("setpriority"));
    assert_eq!(said(&probe.inside(&world, "", &args)), ["EFAULT", "errno 2977"]);
}

/// Where something outside forbids seccomp(2) itself.
#[test]
fn a_host_that_forbids_filters_is_refused_unless_the_site_says_so() {
    let world = World::new();
    let attack = support::Attack::new(&world);
    let run = |config: &str| {
        let mut launch = world.exec(&["--image"]);
        launch.arg(image()).args(["--", "/bin/true"]).env("BAILEY_CONFIG", world.config(config));
        let number = number("seccomp").to_string();
        support::behind(attack.0.to_str().unwrap(), &["exec-filter", "22", &number, "--"], &launch)
            .output()
            .unwrap()
    };
    let output = run("");
    assert_refused(&output, 125, &["seccomp", "EINVAL", "preferred"]);
    assert!(run("[sandbox]\nseccomp = \"preferred\"\n").status.success());
    let record = world.records_of("payload-launch").pop().unwrap();
    let wall = record["grid"]["sandbox"]["seccomp"].as_str().unwrap();
    assert!(wall.starts_with("off: ") && wall.contains("EINVAL"), "{wall}");
    assert!(run(OFF).status.success());
    // The outer filter that pretends: seccomp(2) returns 0, and nothing was set.
    let output = {
        let mut launch = world.exec(&["--image"]);
        launch.arg(image()).args(["--", "/bin/true"]);
        let number = number("seccomp").to_string();
        support::behind(attack.0.to_str().unwrap(), &["exec-filter", "0", &number, "--"], &launch)
            .output()
            .unwrap()
    };
    assert_refused(&output, 125, &["does not answer"]);
}

#[test]
fn the_numbers_are_those_of_the_kernels_headers() {
    let world = World::new();
    let headers: [(&str, &[&str], Number); 3] = [
        ("asm/unistd_64.h", &[], |call| call.x86_64),
        ("asm/unistd_32.h", &[], |call| call.i386),
        // What arch/arm64 sets before it includes the generic table.
        (
            "asm-generic/unistd.h",
            &[
                "-D__BITS_PER_LONG=64",
                "-D__ARCH_WANT_RENAMEAT",
                "-D__ARCH_WANT_NEW_STAT",
                "-D__ARCH_WANT_SET_GET_RLIMIT",
                "-D__ARCH_WANT_TIME32_SYSCALLS",
                "-D__ARCH_WANT_SYS_CLONE3",
                "-D__ARCH_WANT_MEMFD_SECRET",
            ],
            |call| call.aarch64,
        ),
    ];
    for (header, options, of) in headers {
        if cfg!(not(target_arch = "x86_64")) && header.starts_with("asm/") {
            continue;
        }
        let source = world.file("numbers.c", &format!("#include <{header}>\n"));
        let output = world.command("gcc").args(["-E", "-dM"]).args(options).arg(&source).output().unwrap();
        assert!(output.status.success(), "{header}: {}", text(&output.stderr));
        let defined = text(&output.stdout);
        let values: BTreeMap<&str, &str> = defined
            .lines()
            .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let mut seen = 0;
        for (name, value) in &values {
            // Names of numbers that two word sizes share lead to each other: fcntl → __NR3264_fcntl → 25.
            let through = value.strip_prefix("__NR3264_").unwrap_or_default();
            let shared = format!("#define __NR3264_{through} ");
            let value = defined.lines().find_map(|line| line.strip_prefix(&shared)).unwrap_or(value);
            let Ok(number) = value.trim().parse::<u16>() else { continue };
            if matches!(*name, "syscalls" | "arch_specific_syscall") {
                continue;
            }
            seen += 1;
            let call = CALLS.iter().find(|call| call.name == *name);
            let call = call.unwrap_or_else(|| panic!("{header}: {name} ({number}) is not in the table"));
            assert_eq!(of(call), Some(number), "{header}: {name}");
        }
        assert!(seen > 280, "{header}: only {seen} numbers were read");
    }
}
