//! Subordinate uids: an ordinary caller's payloads run as uids of its range in /etc/subuid, each as another.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{
    Started, World, assert_refused, behind, code, mounted, proc_status, skip, stdout, text, wait_for,
};

/// This account's first subordinate uid, where it has one and newuidmap works here at all.
fn first_uid() -> Result<u32, String> {
    let me = nix::unistd::geteuid().to_string();
    let name = stdout(&Command::new("id").arg("-un").output().unwrap());
    let text = fs::read_to_string("/etc/subuid").map_err(|error| error.to_string())?;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")) || line.starts_with(&format!("{me}:")));
    let line = line.ok_or("this account has no line in /etc/subuid")?;
    let first = line.split(':').nth(1).unwrap().parse().unwrap();
    let tried = Command::new("unshare").args(["-U", "--map-auto", "true"]).output().unwrap();
    if !tried.status.success() {
        return Err(format!("newuidmap does not work here: {}", support::text(&tried.stderr)));
    }
    Ok(first)
}

struct Site {
    world: World,
    first: u32,
}

impl Site {
    fn new(test: &str) -> Option<Self> {
        match first_uid() {
            Ok(first) => {
                let site = Self { world: World::new(), first };
                site.configure("");
                Some(site)
            }
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    fn configure(&self, shared: &str) {
        let state = self.world.dir.display();
        self.world.config(&format!(
            "[audit]\nrecorder = \"off\"\n[uid]\nmode = \"subuid\"\nstate = \"{state}\"\nshared_dirs = [{shared}]\n"
        ));
    }

    fn exec(&self, options: &[&str]) -> Command {
        let mut command = self.world.exec(options);
        command.env("BAILEY_CONFIG", self.world.path("bailey.toml"));
        command
    }

    fn command(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.exec(options);
        command.args(["--", "/bin/sh", "-c", script]);
        command
    }

    fn shell(&self, options: &[&str], script: &str) -> Output {
        self.command(options, script).output().unwrap()
    }

    fn payload(&self, options: &[&str], script: &str) -> Started {
        let script = format!("{script}; echo ready; exec sleep 1000");
        let mut started = Started::new(&mut self.command(options, &script));
        assert_eq!(started.line(), "ready");
        started
    }

    fn clean(&self, args: &[&str]) -> Output {
        let mut command = self.world.command(support::BAILEY);
        command.env("BAILEY_CONFIG", self.world.path("bailey.toml")).arg("clean").args(args).output().unwrap()
    }

    /// The host uids of the launches so far, as the log has them.
    fn uids(&self) -> Vec<u32> {
        let launches = self.world.records_of("payload-launch");
        launches
            .iter()
            .map(|launch| launch["process"]["user"]["id"].as_str().unwrap().parse().unwrap())
            .collect()
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Owners of everything below a directory, itself included.
fn owners(dir: &Path) -> Vec<(PathBuf, u32, u32)> {
    let meta = dir.symlink_metadata().unwrap();
    let mut found = vec![(dir.to_owned(), meta.uid(), meta.gid())];
    if meta.is_dir() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.extend(owners(&entry.path()));
        }
    }
    found
}

fn assert_all_mine(dir: &Path) {
    let gid = nix::unistd::getegid().as_raw();
    let others: Vec<_> = owners(dir).into_iter().filter(|(_, uid, g)| (*uid, *g) != (me(), gid)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// The payload's process of a launcher.
fn payload_of(launcher: i32) -> i32 {
    let child = |pid: i32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    child(child(launcher))
}

/// Kills a launcher, and waits until its payload is gone.
fn gone(started: Started) {
    let payload = payload_of(started.pid());
    drop(started);
    wait_for("the end of the payload", || {
        proc_status(payload, "State").is_none_or(|state| state.starts_with('Z'))
    });
}

#[test]
fn payloads_have_uids_of_their_own_and_the_callers_inside() {
    let Some(site) = Site::new("payloads_have_uids_of_their_own_and_the_callers_inside") else { return };
    let one = site.payload(&["--user", "one"], "touch /tmp/x /dev/shm/y w");
    let said =
        stdout(&site.shell(&["--user", "two"], "id -u; id -g; touch /tmp/x && stat -c %u /tmp/x; id -G"));
    let gid = nix::unistd::getegid();
    assert_eq!(said, format!("{0}\n{gid}\n{0}\n{gid}", me()));
    assert_eq!(site.uids(), [site.first, site.first + 1]);
    let pid = payload_of(one.pid());
    let four = vec![site.first.to_string(); 4].join("\t");
    assert_eq!(proc_status(pid, "Uid").unwrap(), four);
    assert_eq!(proc_status(pid, "Groups").unwrap(), "");
    assert_eq!(proc_status(pid, "CapEff").unwrap(), "0000000000000000");
    let launch = &site.world.records_of("payload-launch")[0];
    assert!(
        launch["grid"]["sandbox"]["uid"].as_str().unwrap().starts_with("on: a subordinate uid"),
        "{launch}"
    );
    assert_eq!(launch["process"]["real_user"]["id"], me().to_string());
    gone(one);
    stdout(&site.shell(&[], "true"));
    assert_eq!(site.uids()[2], site.first, "free again, because nothing of it can be left");
    // Signals reach another uid's payload through the namespace that is ours.
    let started = site.payload(&[], "true");
    started.signal(15);
    let mut started = started;
    assert_eq!(started.end().code(), Some(128 + 15));
}

#[test]
fn the_working_directory_is_lent_and_given_back() {
    let Some(site) = Site::new("the_working_directory_is_lent_and_given_back") else { return };
    let work = site.world.directory("job");
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
    site.world.file("job/input", "in");
    site.world.file("job/deep/er/file", "x");
    site.world.file("job/x509up_u77", "the pilot's");
    site.world.file("elsewhere", "the pilot's too");
    fs::hard_link(site.world.path("elsewhere"), work.join("link")).unwrap();
    std::os::unix::fs::symlink(site.world.path("elsewhere"), work.join("soft")).unwrap();
    fs::set_permissions(work.join("input"), fs::Permissions::from_mode(0o600)).unwrap();
    let script = "cat input; umask 077; echo out >output; mkdir -p d/e; echo x >d/e/f; chmod 0 d/e; rm -r deep; \
                  mkfifo pipe; ln -s output s; stat -c %u output; echo ready; read word; exit 0";
    let mut one = Started::new(&mut site.command(&["--workdir", &show(&work)], script));
    assert_eq!(one.line(), format!("in{}", me()), "inside it has the caller's number");
    assert_eq!(one.line(), "ready");
    // Meanwhile it is the other uid's, but for what is the pilot's own.
    let owner = |path: &Path| path.symlink_metadata().unwrap().uid();
    assert_eq!(owner(&work), site.first);
    assert_eq!(owner(&site.world.path("elsewhere")), me());
    assert!(fs::read(work.join("output")).is_err(), "control: it is not ours now");
    assert!(one.end().success());
    assert_all_mine(&work);
    assert_eq!(fs::read_to_string(work.join("output")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(work.join("x509up_u77")).unwrap(), "the pilot's");
    assert_eq!(fs::metadata(work.join("d/e")).unwrap().mode() & 0o777, 0);
    fs::set_permissions(work.join("d/e"), fs::Permissions::from_mode(0o700)).unwrap();
    site.world.assert_closed();
    // One that fails before it runs, and one whose command is not there.
    for (script, expected) in [(&["/nowhere/x"][..], 127), (&["/bin/sh", "-c", "exit 3"], 3)] {
        let mut command = site.exec(&["--workdir", &show(&work), "--"]);
        assert_eq!(code(&command.args(script).output().unwrap()), expected);
        assert_all_mine(&work);
    }
}

#[test]
fn a_file_of_one_payload_is_closed_to_the_next() {
    let Some(site) = Site::new("a_file_of_one_payload_is_closed_to_the_next") else { return };
    let shared = site.world.directory("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    site.configure(&format!("\"{}\"", shared.display()));
    let bind = format!("{0}:{0}:rw", show(&shared));
    let leaves = format!(
        "umask 077; mkdir {0}/mine; echo secret >{0}/mine/file; echo secret >{0}/plain",
        show(&shared)
    );
    let steals =
        format!("cat {0}/mine/file; cat {0}/plain; rm -f {0}/plain; echo over >>{0}/plain", show(&shared));
    stdout(&site.shell(&["--bind", &bind], &leaves));
    let output = site.shell(&["--bind", &bind], &steals);
    let said = text(&output.stderr);
    assert!(said.contains("Permission denied") && !text(&output.stdout).contains("secret"), "{said}");
    assert_eq!(
        site.uids(),
        [site.first, site.first + 1],
        "the first uid left something and is not used again"
    );
    stdout(&site.shell(&[], "true"));
    assert_eq!(site.uids()[2], site.first + 2);

    let said = text(&site.clean(&["--dry-run"]).stdout);
    assert!(said.contains("would be removed") && shared.join("plain").exists(), "{said}");
    fs::write(shared.join("ours"), "stays").unwrap();
    let said = stdout(&site.clean(&["--json"]));
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0]["uid"], site.first);
    assert_eq!(rows[0]["removed"], 3, "{said}");
    assert!(rows.iter().all(|row| row["free"] == true), "{said}");
    let left: Vec<_> = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["ours"]);
    assert_eq!(stdout(&site.clean(&[])), "there is nothing to clean");
    stdout(&site.shell(&[], "true"));
    assert_eq!(site.uids()[3], site.first);

    // Control: payloads that share the caller's uid.
    let plain = |script: &str| site.world.host_shell(&["--bind", &bind], script);
    stdout(&plain(&leaves));
    let output = plain(&steals);
    assert_eq!(text(&output.stdout), "secret\nsecret\n", "{}", text(&output.stderr));
}

#[test]
fn a_writable_bind_that_is_not_declared_is_refused() {
    let Some(site) = Site::new("a_writable_bind_that_is_not_declared_is_refused") else { return };
    let dir = site.world.directory("somewhere");
    let bind = format!("{}:/x:rw", show(&dir));
    assert_refused(&site.shell(&["--bind", &bind], "true"), 120, &["uid.shared_dirs"]);
    let read = format!("{}:/x", show(&dir));
    stdout(&site.shell(&["--bind", &read], "true"));
}

#[test]
fn the_next_launch_repairs_after_a_killed_launcher() {
    let Some(site) = Site::new("the_next_launch_repairs_after_a_killed_launcher") else { return };
    let work = site.world.directory("job");
    let one = site.payload(&["--workdir", &show(&work)], "echo half >output; mkdir d; chmod 0 d .");
    gone(one);
    assert_eq!(work.metadata().unwrap().uid(), site.first, "control: nobody was there to give it back");
    stdout(&site.shell(&[], "true"));
    assert_all_mine(&work);
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read_to_string(work.join("output")).unwrap(), "half\n");
    // By hand, too; and a directory that is gone keeps nothing.
    let one = site.payload(&["--workdir", &show(&work)], "echo more >output");
    gone(one);
    let said = stdout(&site.clean(&[]));
    assert!(said.contains("was given back") && said.contains("it is free"), "{said}");
    assert_all_mine(&work);
}

#[test]
fn killed_at_any_moment_it_can_be_repaired() {
    let Some(site) = Site::new("killed_at_any_moment_it_can_be_repaired") else { return };
    let work = site.world.directory("job");
    for n in 0..40 {
        site.world.file(&format!("job/{n}/file"), "x");
    }
    for step in 0..20 {
        let mut child = site.command(&["--workdir", &show(&work)], "exit 0").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 2));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // What still goes has its uid; the lock is free when init is gone.
    let deadline = Instant::now() + support::patience(Duration::from_secs(10));
    while text(&site.clean(&[]).stdout) != "there is nothing to clean\n" {
        assert!(Instant::now() < deadline, "{}", text(&site.clean(&[]).stdout));
    }
    assert_all_mine(&work);
    stdout(&site.shell(&["--workdir", &show(&work)], "echo whole >output"));
    assert_all_mine(&work);
}

#[test]
fn a_host_that_cannot_do_it_says_why() {
    let Some(site) = Site::new("a_host_that_cannot_do_it_says_why") else { return };
    let command = site.command(&[], "true");
    let output = behind("setpriv", &["--no-new-privs", "--"], &command).output().unwrap();
    assert_refused(&output, 125, &["no_new_privs", "newuidmap"]);
    let hides = "mount --bind /dev/null /usr/bin/newuidmap; exec $back \"$@\"";
    let output = mounted("private", hides, &command).output().unwrap();
    assert_refused(&output, 125, &["newuidmap is not in", "uidmap"]);
}

#[test]
fn the_recorder_accepts_it() {
    let Some(site) = Site::new("the_recorder_accepts_it") else { return };
    let state = format!("state = \"{}\"", site.world.dir.display());
    let recorder = Recorder::with(&site.world, &[("uid", "mode = \"subuid\""), ("uid", &state)]);
    let work = site.world.directory("job");
    let mut command = site.world.exec(&["--user", "u", "--workdir", &show(&work)]);
    command.env("BAILEY_CONFIG", &recorder.config).args(["--", "/bin/sh", "-c", "echo x >f; id -u"]);
    assert_eq!(stdout(&command.output().unwrap()), me().to_string());
    assert_all_mine(&work);
    let launch = &recorder.wait_records("payload-launch", 1)[0];
    assert_eq!(launch["process"]["user"]["id"], site.first.to_string(), "{launch}");
    assert_eq!(launch["process"]["real_user"]["id"], me().to_string(), "{launch}");
    assert!(launch["grid"]["observed"]["contradictions"].is_null(), "{launch}");
    let end = &recorder.wait_records("payload-end", 1)[0];
    assert_eq!(end["grid"]["end"]["by"], "payload", "{end}");
}

#[test]
fn its_processes_are_limited_too() {
    let Some(site) = Site::new("its_processes_are_limited_too") else { return };
    // So many children live at one time; init ends them.
    let script = "exec perl -e 'my $n = 0; while ($n < 20) { my $p = fork; last unless defined $p; \
        if (!$p) { sleep 60; exit } $n++ } print $n'";
    assert_eq!(stdout(&site.shell(&[], script)), "20");
    let output = site.shell(&["--pids", "5"], script);
    let launch = site.world.records_of("payload-launch").pop().unwrap();
    let said = launch["grid"]["sandbox"]["limit_pids"].as_str().unwrap();
    if said.starts_with("not enforced") {
        skip("its_processes_are_limited_too", said);
        return;
    }
    assert_eq!(stdout(&output), "4", "{said}");
}
