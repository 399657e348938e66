//! Real-time priorities: only root can start a launcher that has them. Row P8 of docs/threat-model.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use support::{BAILEY, stdout};

const SCRIPT: &str = "chrt -p $$ | head -1 | sed 's/.*: //'; ionice; cut -d' ' -f40 /proc/self/stat; \
                      chrt -f 1 true 2>/dev/null && echo again; ionice -c 1 true 2>/dev/null && echo again; true";

#[test]
fn a_real_time_launcher_has_an_ordinary_payload() {
    let Some(user) = std::env::var("BAILEY_TEST_USER").ok().filter(|_| nix::unistd::geteuid().is_root())
    else {
        return support::skip(
            "a_real_time_launcher_has_an_ordinary_payload",
            "only root has real-time priorities",
        );
    };
    let shared = PathBuf::from(std::env::var_os("BAILEY_TEST_SHARED").unwrap());
    let home = shared.join("real-time");
    fs::create_dir(&home).unwrap();
    assert!(Command::new("chown").arg(&user).arg(&home).status().unwrap().success());
    // Even where the site lets the account have it, the payload has none. (In a container root itself may not allow it.)
    let may = Command::new("prlimit").args(["--rtprio=50", "true"]).status().unwrap().success();
    let run = |command: &[&str]| {
        let mut outer = Command::new(if may { "prlimit" } else { "env" });
        outer.args(may.then_some("--rtprio=50"));
        outer.args(["chrt", "-f", "5", "ionice", "-c", "1", "-n", "3", "setpriv"]);
        outer.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).args(command);
        outer.env_clear().env("HOME", &home).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir(&home);
        stdout(&outer.output().unwrap())
    };
    let control = run(&["/bin/sh", "-c", SCRIPT]);
    assert!(control.starts_with("SCHED_FIFO\nrealtime: prio 3\n5\nagain"), "{control}");
    let seen = run(&[BAILEY, "exec", "--", "/bin/sh", "-c", SCRIPT]);
    assert_eq!(seen, "SCHED_OTHER\nbest-effort: prio 4\n0");
    fs::remove_dir_all(&home).unwrap();
}
