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
        // CLOSE_RANGE_CLOEXEC
        (libc::SYS_close_range, 2, 4, &[], &[hold, "descriptors of the launcher would stay open"]),
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

/// A filter itself sets no_new_privs, and cannot return what a write returns: these by strace's injection, into the very call.
#[test]
fn lies_of_another_kind_are_found_out() {
    let bed = Bed::new();
    let trace = bed.world.path("trace");
    let strace = |extra: &[&str]| {
        let mut args = vec!["-f", "-o", trace.to_str().unwrap()];
        args.extend(extra);
        behind("strace", &args, &bed.launch()).output().unwrap()
    };
    // How many calls of that name the process has made by then that makes the Nth one like this: strace counts for each process.
    let number = |call: &str, like: &str, nth: usize| {
        let text = fs::read_to_string(&trace).unwrap();
        let (mut counts, mut found) = (std::collections::BTreeMap::new(), Vec::new());
        for (pid, said) in text.lines().filter_map(|line| line.split_once(' ')) {
            let said = said.trim_start();
            if said.starts_with(&format!("{call}(")) {
                let count = counts.entry(pid.to_owned()).or_insert(0);
                *count += 1;
                found.extend(said.contains(like).then_some(*count));
            }
        }
        *found.get(nth).unwrap_or_else(|| panic!("no {like} in the trace"))
    };
    let map = |id: u32| format!("\"{id} {id} 1\\n\", ");
    let (uid, gid) = (map(nix::unistd::getuid().as_raw()), map(nix::unistd::getgid().as_raw()));
    let same = usize::from(uid == gid);
    for (call, like, nth, answer, words) in [
        // Found by the kernel, before the read back could: without no_new_privs it takes no filter.
        ("prctl", "PR_SET_NO_NEW_PRIVS", 0, 0, ["cannot set the filter of system calls", "EACCES"]),
        // The limits are written "0", one after the other, by init; nobody else writes one byte.
        ("write", ", 1) ", 0, 1, ["the walls do not hold", "a user namespace could be made"]),
        ("write", "\"200\", 3)", 0, 3, ["the walls do not hold", "its oom_score_adj is below"]),
        // By the kernel: nobody makes a file without an id, and it takes no map of groups before setgroups is denied.
        ("write", &uid, 0, uid.len() - 5, ["cannot make", "EOVERFLOW"]),
        ("write", &gid, same, gid.len() - 5, ["cannot make", "EOVERFLOW"]),
        ("write", "\"deny\", 4)", 0, 4, ["cannot write the id map", "EPERM"]),
    ] {
        bed.assert_runs(&strace(&["-e", &format!("trace={call}")]), "without a lie");
        let inject = format!("inject={call}:retval={answer}:when={}", number(call, like, nth));
        let output = strace(&["-e", &inject]);
        // (The same lie may hit the launcher's own write of that number, and with it the beginning of its words.)
        let said = text(&output.stderr);
        assert!(!bed.ran() && code(&output) == 125, "{like}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{like}: {said}");
    }
    bed.world.assert_closed();
}
