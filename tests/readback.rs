//! The kernel says "done" and did nothing: for each wall one such lie, and the launch is refused with a line that names the
//! wall, because what was applied is read back before the release. Without the lie, and with lies about something else, the
//! same launch runs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use support::{Attack, World, assert_refused, behind, code, image, text};

/// The payload leaves this behind in its working directory.
const RAN: &str = "ran";

struct Bed {
    world: World,
    fake: PathBuf,
    attack: Attack,
}

impl Bed {
    fn new() -> Self {
        let world = World::new();
        world.directory("work");
        let source = world.file("fake/fake.c", include_str!("support/fake.c"));
        let fake = world.path("fake/fake");
        let output =
            world.command("gcc").args(["-static", "-O1", "-o"]).args([&fake, &source]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let attack = Attack::new(&world);
        Self { world, fake, attack }
    }

    fn launch(&self) -> Command {
        let mut command = self.world.exec(&["--image"]);
        command.arg(image()).arg("--workdir").arg(self.world.path("work"));
        command.args(["--", "/usr/bin/touch", RAN]);
        command
    }

    /// Did the payload run? Forgets it.
    fn ran(&self) -> bool {
        fs::remove_file(self.world.path("work").join(RAN)).is_ok()
    }

    fn assert_runs(&self, output: &Output, what: &str) {
        assert_eq!(code(output), 0, "{what}: {}", text(&output.stderr));
        assert!(self.ran(), "{what}");
    }

    fn assert_refused(&self, output: &Output, words: &[&str]) {
        assert!(!self.ran(), "{words:?}: the payload ran");
        let said = text(&output.stderr);
        let said: Vec<&str> =
            said.split_inclusive('\n').filter(|line| !line.starts_with("strace: ")).collect();
        let output = Output { stderr: said.concat().into_bytes(), ..output.clone() };
        assert_refused(&output, 125, words);
    }

    /// Under a filter that fakes this call. `outer` stands before that.
    fn faked(&self, call: i64, argument: i32, value: u32, outer: &[&str]) -> Output {
        let [call, argument, value] = [call.to_string(), argument.to_string(), value.to_string()];
        let mut words = outer.to_vec();
        words.extend([self.fake.to_str().unwrap(), &call, &argument, &value]);
        behind(words[0], &words[1..], &self.launch()).output().unwrap()
    }
}

#[test]
fn a_kernel_that_only_says_so_is_found_out() {
    const ANY: i32 = -1;
    let bed = Bed::new();
    let signals = [bed.attack.0.to_str().unwrap(), "exec-signals", "--"];
    let fixed = ["setarch", "-R"];
    let hold = "the walls do not hold";
    // A filter that fakes nothing, and one that fakes what nobody calls.
    bed.assert_runs(&bed.launch().output().unwrap(), "no filter");
    bed.assert_runs(&bed.faked(libc::SYS_reboot, ANY, 0, &[]), "another call");
    bed.assert_runs(&bed.faked(libc::SYS_reboot, ANY, 0, &signals), "blocked and ignored signals");
    bed.assert_runs(&bed.faked(libc::SYS_reboot, ANY, 0, &fixed), "fixed addresses");

    let prctl = libc::SYS_prctl;
    for (call, argument, value, outer, words) in [
        (libc::SYS_capset, ANY, 0, &[][..], &[hold, "the kernel shows capabilities: CAP_CHOWN"][..]),
        (prctl, 0, libc::PR_CAPBSET_DROP as u32, &[], &[hold, "capabilities: CAP_CHOWN"]),
        (prctl, 0, libc::PR_SET_SECUREBITS as u32, &[], &[hold, "securebits"]),
        (prctl, 0, libc::PR_SET_DUMPABLE as u32, &[], &[hold, "undumpable"]),
        (prctl, 0, libc::PR_SET_PDEATHSIG as u32, &[], &["first process", "EPERM"]),
        (libc::SYS_setsid, ANY, 0, &[], &[hold, "session"]),
        (libc::SYS_keyctl, 0, 1, &[], &[hold, "session keyring"]),
        (libc::SYS_prlimit64, 1, libc::RLIMIT_CORE, &[], &[hold, "RLIMIT_CORE is above 0"]),
        (libc::SYS_prlimit64, 1, libc::RLIMIT_RTPRIO, &[], &[hold, "RLIMIT_RTPRIO is above 0"]),
        (libc::SYS_umask, 0, 0o22, &[], &[hold, "umask"]),
        (libc::SYS_personality, 0, 0, &fixed, &[hold, "personality"]),
        (libc::SYS_rt_sigprocmask, 0, libc::SIG_SETMASK as u32, &signals, &[hold, "signals"]),
        (libc::SYS_rt_sigaction, ANY, 0, &signals, &[hold, "blocked or ignored signals"]),
        (libc::SYS_pivot_root, ANY, 0, &[], &["pivot_root"]),
        (libc::SYS_umount2, ANY, 0, &[], &["pivot_root", "EXDEV"]),
        (libc::SYS_mount_setattr, ANY, 0, &[], &["pivot_root", "EXDEV"]),
    ] {
        bed.assert_refused(&bed.faked(call, argument, value, outer), words);
    }
    if fs::read_to_string("/proc/self/status").unwrap().contains("Seccomp:") && landlock_abi() >= 6 {
        let words = [hold, "the Landlock domain does not forbid"];
        bed.assert_refused(&bed.faked(libc::SYS_landlock_restrict_self, ANY, 0, &[]), &words);
        // File-system rules are tried by another call.
        let config = bed.world.config("[[rule]]\nid = \"s\"\nprofile = \"strict\"\n");
        let mut strict = bed.launch();
        strict.env("BAILEY_CONFIG", config);
        bed.assert_runs(&strict.output().unwrap(), "strict");
        let number = libc::SYS_landlock_restrict_self.to_string();
        let output = behind(bed.fake.to_str().unwrap(), &[&number, "-1", "0"], &strict).output().unwrap();
        bed.assert_refused(&output, &words);
    }
    assert_eq!(bed.world.records_of("payload-launch").len(), bed.world.records_of("payload-end").len());
    bed.world.assert_closed();
}

fn landlock_abi() -> i64 {
    let output = Command::new("perl").args(["-e", "print syscall(444, 0, 0, 1)"]).output().unwrap();
    text(&output.stdout).parse().unwrap()
}

/// A filter itself sets no_new_privs, and cannot return the 1 of a write: these two by strace's injection, into the very call.
#[test]
fn two_lies_of_another_kind_are_found_out() {
    let bed = Bed::new();
    let trace = bed.world.path("trace");
    let strace = |extra: &[&str]| {
        let mut args = vec!["-f", "-o", trace.to_str().unwrap()];
        args.extend(extra);
        behind("strace", &args, &bed.launch()).output().unwrap()
    };
    // How often the process that makes this call has made one of that name by then: strace counts for each process.
    let number = |call: &str, line: &str| {
        let text = fs::read_to_string(&trace).unwrap();
        let (mut counts, mut found) = (std::collections::BTreeMap::new(), None);
        for (pid, said) in text.lines().filter_map(|line| line.split_once(' ')) {
            let said = said.trim_start();
            if said.starts_with(&format!("{call}(")) {
                let count = counts.entry(pid.to_owned()).or_insert(0);
                *count += 1;
                if said.starts_with(line) && found.is_none() {
                    found = Some(*count);
                }
            }
        }
        found.unwrap_or_else(|| panic!("no {line} in the trace"))
    };
    for (call, line, answer, words) in [
        // Found by the kernel, before the read back could: without no_new_privs it takes no filter.
        ("prctl", "prctl(PR_SET_NO_NEW_PRIVS", 0, ["cannot set the filter of system calls", "EACCES"]),
        ("write", "write(", 1, ["the walls do not hold", "a user namespace could be made"]),
    ] {
        bed.assert_runs(&strace(&["-e", &format!("trace={call}")]), "without a lie");
        let line = if call == "write" {
            // The limits are written "0", one after the other, by init; nobody else writes one byte.
            let text = fs::read_to_string(&trace).unwrap();
            let zero = text.lines().find(|line| line.contains(", 1) ")).expect("no write of a limit");
            zero.split_once(' ').unwrap().1.trim_start().split_once(')').unwrap().0.to_owned()
        } else {
            line.to_owned()
        };
        let inject = format!("inject={call}:retval={answer}:when={}", number(call, &line));
        bed.assert_refused(&strace(&["-e", &inject]), &words);
    }
    bed.world.assert_closed();
}
