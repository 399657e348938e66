//! Root calls, and each payload gets a uid of its own. Root starts this program, because nobody else can be the caller.
//!
//! Each wall is shown twice: that it stands between two payloads of such a caller, and that without it, between two payloads
//! of one ordinary account, the same attempt works.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::recorder::Recorder;
use support::{
    BAILEY, Guard, Started, assert_refused, code, proc_status, skip, status, stdout, text, wait_for,
};

/// Uids that no account of a test machine has. Each test has four of its own, because tests run side by side.
const FIRST: u32 = 64_400;

/// A root of root's own, which everybody can enter.
struct Node {
    dir: PathBuf,
    first: u32,
}

impl Node {
    fn new(test: &str, slot: u32) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            skip(test, "only root can be the caller that is root");
            return None;
        }
        let base =
            std::env::var_os("BAILEY_TEST_SHARED").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let name = format!("root-caller-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let node = Self { dir: base.join(name), first: FIRST + 4 * slot };
        fs::create_dir(&node.dir).unwrap();
        node.configure("");
        Some(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("bailey.toml")
    }

    /// Two uids, unless `more` says otherwise.
    fn configure(&self, more: &str) {
        let range = format!("{}-{}", self.first, self.first + 1);
        self.write_config(&range, "recorder = \"off\"", more);
    }

    fn write_config(&self, uids: &str, audit: &str, more: &str) {
        let dir = self.dir.display();
        let content = format!(
            "[audit]\ndir = \"{dir}/logs\"\n{audit}\n[root_caller]\nuids = \"{uids}\"\nstate = \"{dir}/uids\"\n\
             workdirs = [\"{dir}/work\"]\n{more}\n"
        );
        fs::write(self.config(), content).unwrap();
        fs::set_permissions(self.config(), fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// A working directory of root's, closed to others as a pilot's is.
    fn workdir(&self, name: &str) -> PathBuf {
        let dir = self.path("work").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn bailey(&self, options: &[&str]) -> Command {
        let mut command = Command::new(BAILEY);
        command.env_clear().env("BAILEY_CONFIG", self.config()).env("HOME", "/root").env("USER", "root");
        command.env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
        command.arg("exec").args(options);
        command
    }

    fn shell(&self, options: &[&str], script: &str) -> Output {
        self.bailey(options).args(["--", "/bin/sh", "-c", script]).output().unwrap()
    }

    /// One that says a line and runs until it is ended.
    fn payload(&self, options: &[&str], script: &str) -> Started {
        let script = format!("{script}; echo ready; exec sleep 1000");
        let mut started = Started::new(self.bailey(options).args(["--", "/bin/sh", "-c", &script]));
        assert_eq!(started.line(), "ready");
        started
    }

    fn records(&self, uid: u32, action: &str) -> Vec<Value> {
        let entries = fs::read_dir(self.path("logs").join(uid.to_string())).unwrap().flatten();
        let segments = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "ndjson"));
        segments
            .flat_map(|entry| {
                let text = fs::read_to_string(entry.path()).unwrap();
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
            })
            .filter(|record| record["event"]["action"] == action)
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn owner(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().uid()
}

/// The children of a process, and theirs.
fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", found[at])).unwrap_or_default();
        found.extend(children.split_whitespace().map(|child| child.parse::<i32>().unwrap()));
        at += 1;
    }
    found
}

/// Kills a launcher, and waits until the kernel has taken everything of it apart.
fn gone(started: Started) {
    let processes = descendants(started.pid());
    drop(started);
    let lives = |pid: &i32| proc_status(*pid, "State").is_some_and(|state| !state.starts_with('Z'));
    wait_for("the end of its processes", || !processes.iter().any(lives));
}

/// `COMMAND` as a uid of the host.
fn as_uid(uid: u32, command: &[&str]) -> Output {
    let uid = uid.to_string();
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).args(command);
    setpriv.output().unwrap()
}

#[test]
fn nothing_of_a_launch_is_root() {
    let Some(node) = Node::new("nothing_of_a_launch_is_root", 0) else { return };
    let uid = node.first;
    let started =
        node.payload(&["--user", "u"], "id -u >/tmp/x; test $(id -u):$(id -g) = \"$(cat /tmp/x)\":$(id -u)");
    let processes = descendants(started.pid());
    assert_eq!(processes.len(), 3, "launcher, init, payload: {processes:?}");
    for pid in processes {
        let four = format!("{uid}\t{uid}\t{uid}\t{uid}");
        assert_eq!(proc_status(pid, "Uid").unwrap(), four, "{pid}");
        assert_eq!(proc_status(pid, "Gid").unwrap(), four, "{pid}");
        assert_eq!(proc_status(pid, "Groups").unwrap(), "", "{pid}");
        for set in ["CapPrm", "CapEff", "CapAmb", "CapInh"] {
            assert_eq!(proc_status(pid, set).unwrap(), "0000000000000000", "{pid} {set}");
        }
    }
    let [launch] = &node.records(uid, "payload-launch")[..] else { panic!("one launch") };
    assert_eq!(launch["process"]["user"]["id"], uid.to_string());
    assert_eq!(launch["process"]["real_user"]["id"], uid.to_string());
    let word = launch["grid"]["sandbox"]["uid"].as_str().unwrap();
    assert!(word.contains(&format!("its own uid {uid}")) && word.contains("root called"), "{word}");
    gone(started);
    // A name of root's does not go in.
    assert_eq!(stdout(&node.shell(&[], "id -un; echo $USER")), format!("u{uid}\nu{uid}"));
}

#[test]
fn two_payloads_are_two_uids_and_reach_nothing_of_each_other() {
    const TEST: &str = "two_payloads_are_two_uids_and_reach_nothing_of_each_other";
    let Some(node) = Node::new(TEST, 1) else { return };
    let (first, second) = (node.workdir("first"), node.workdir("second"));
    let writes = "umask 077; echo secret >file; mkdir sub; echo deep >sub/file";
    let one = node.payload(&["--workdir", &show(&first)], writes);
    let read =
        format!("cat {0}/file 2>&1; ls {0}/sub 2>&1; ls {0} 2>&1; cat {1}/own", show(&first), show(&second));
    let bind = show(&first);
    let two = node
        .bailey(&["--workdir", &show(&second), "--bind", &bind])
        .args(["--", "/bin/sh", "-c", &format!("echo mine >own; {read}")])
        .output()
        .unwrap();
    let said = text(&two.stdout);
    assert_eq!(said.matches("Permission denied").count(), 3, "{said} {}", text(&two.stderr));
    assert!(!said.contains("secret") && said.ends_with("mine\n"), "{said}");
    assert_eq!((owner(&first.join("file")), owner(&second.join("own"))), (node.first, node.first + 1));

    // As the host sees them: by the numbers alone.
    let pid = descendants(one.pid()).pop().unwrap().to_string();
    let try_both = |uid: u32| {
        let kill = as_uid(uid, &["kill", "-0", &pid]);
        let read = as_uid(uid, &["cat", &show(&first.join("file"))]);
        (kill.status.success(), text(&read.stdout))
    };
    assert_eq!(try_both(node.first), (true, "secret\n".to_owned()), "control: its own uid");
    assert_eq!(try_both(node.first + 1), (false, String::new()));

    // Control: two payloads of one account.
    let Some(account) = std::env::var("BAILEY_TEST_USER").ok() else {
        return skip(TEST, "BAILEY_TEST_USER names no ordinary account");
    };
    let id = |option: &str| stdout(&Command::new("id").args([option, &account]).output().unwrap());
    let shared = node.path("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(id("-u").parse().unwrap()), Some(id("-g").parse().unwrap())).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
    let config = node.path("ordinary.toml");
    fs::write(&config, format!("[audit]\ndir = \"{}/log\"\nrecorder = \"off\"\n", shared.display())).unwrap();
    let ordinary = |script: &str, options: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id("-u"), "--regid", &id("-g"), "--clear-groups", "--", BAILEY, "exec"]);
        command.env_clear().env("BAILEY_CONFIG", &config).env("HOME", &shared).env("PATH", "/usr/bin:/bin");
        command.args(options).args(["--", "/bin/sh", "-c", script]).stdin(Stdio::null()).output().unwrap()
    };
    let work = shared.join("work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(id("-u").parse().unwrap()), Some(id("-g").parse().unwrap())).unwrap();
    stdout(&ordinary(writes, &["--workdir", &show(&work)]));
    let seen = stdout(&ordinary(&format!("cat {}/file", show(&work)), &["--bind", &show(&work)]));
    assert_eq!(seen, "secret", "the walls of one uid alone do not keep a file that is shown");
}

#[test]
fn a_uid_is_lent_again_only_when_nothing_of_it_is_left() {
    let Some(node) = Node::new("a_uid_is_lent_again_only_when_nothing_of_it_is_left", 2) else { return };
    let work = node.workdir("job");
    fs::write(work.join("input"), "in").unwrap();
    let uid = node.first;
    let whoami = "cat input; echo out >output; mkdir -m 0700 d; echo x >d/y; ln output again; id -u";
    let said = stdout(&node.shell(&["--workdir", &show(&work)], whoami));
    assert_eq!(said, format!("in{uid}"));
    assert_eq!(owner(&work.join("d/y")), uid, "it stays with the uid until that is lent again");
    // The next launch gives the directory back before it takes the same uid.
    assert_eq!(stdout(&node.shell(&[], "id -u")), uid.to_string());
    for name in ["", "input", "output", "again", "d", "d/y"] {
        assert_eq!(owner(&work.join(name)), 0, "{name}");
    }
    // A process that somebody left under the uid keeps it.
    let uid_text = uid.to_string();
    let mut stray = Command::new("setpriv");
    stray.args(["--reuid", &uid_text, "--regid", &uid_text, "--clear-groups", "--", "sleep", "1000"]);
    let stray = Guard(stray.spawn().unwrap());
    wait_for("the stray's uid", || {
        proc_status(stray.0.id() as i32, "Uid").is_some_and(|uids| uids.starts_with(&uid_text))
    });
    assert_eq!(stdout(&node.shell(&[], "id -u")), (uid + 1).to_string());
    drop(stray);
    assert_eq!(stdout(&node.shell(&[], "id -u")), uid.to_string());
}

#[test]
fn a_killed_launcher_frees_its_uid() {
    let Some(node) = Node::new("a_killed_launcher_frees_its_uid", 3) else { return };
    node.write_config(&format!("{0}-{0}", node.first), "recorder = \"off\"", "");
    let work = node.workdir("job");
    let one = node.payload(&["--workdir", &show(&work)], "echo half >output; mkdir -m 0 closed");
    let init = descendants(one.pid())[1];
    // It lives, so there is none left.
    assert_refused(&node.shell(&[], "id -u"), 121, &["no uid is free", "payloads have 1, and 0"]);
    one.signal(9);
    wait_for("the end of the payload", || proc_status(init, "State").is_none_or(|s| s.starts_with('Z')));
    drop(one);
    // The kernel may still be about to take it apart.
    let deadline = Instant::now() + support::patience(Duration::from_secs(10));
    let output = loop {
        let output = node.shell(&["--workdir", &show(&work)], "cat output; echo more >>output; id -u");
        if code(&output) != 121 || Instant::now() > deadline {
            break output;
        }
    };
    assert_eq!(stdout(&output), format!("half\n{}", node.first));
    assert_eq!(stdout(&node.shell(&[], "id -u")), node.first.to_string());
    assert_eq!(owner(&work.join("output")), 0);
    assert_eq!(owner(&work.join("closed")), 0);
}

#[test]
fn only_what_the_site_names_is_given_away() {
    let Some(node) = Node::new("only_what_the_site_names_is_given_away", 4) else { return };
    let work = node.workdir("job");
    let elsewhere = node.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("precious"), "root's").unwrap();
    let refused = |dir: &Path, words: &[&str]| {
        assert_refused(&node.shell(&["--workdir", &show(dir)], "true"), 120, words);
    };
    refused(&elsewhere, &["root_caller.workdirs"]);
    refused(&node.path("work"), &["root_caller.workdirs"]); // the directory of all pilots itself
    symlink(&elsewhere, node.path("work/link")).unwrap();
    refused(&node.path("work/link"), &["root_caller.workdirs"]);
    let bind = format!("{}:/x:rw", show(&elsewhere));
    assert_refused(&node.shell(&["--bind", &bind], "true"), 120, &["uid.shared_dirs"]);
    assert_eq!(owner(&elsewhere), 0);

    // Links and other names lead out; a special file of root's would be the payload's to use.
    symlink(elsewhere.join("precious"), work.join("soft")).unwrap();
    fs::hard_link(elsewhere.join("precious"), work.join("hard")).unwrap();
    fs::write(work.join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(work.join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    nix::sys::stat::mknod(
        &work.join("device"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o600),
        nix::sys::stat::makedev(1, 3),
    )
    .unwrap();
    let live = node.payload(&["--workdir", &show(&work)], "echo x >new");
    for (name, uid) in
        [("soft", node.first), ("hard", 0), ("device", 0), ("program", node.first), ("new", node.first)]
    {
        assert_eq!(owner(&work.join(name)), uid, "{name}");
    }
    assert_eq!(owner(&elsewhere.join("precious")), 0);
    assert_eq!(
        fs::metadata(work.join("program")).unwrap().mode() & 0o7777,
        0o755,
        "no setuid program of another uid"
    );
    // It is another's while that lives.
    refused(&work, &["that of another payload"]);
    gone(live);
}

#[test]
fn a_uid_that_could_write_to_shared_directories_waits_for_bailey_clean() {
    const TEST: &str = "a_uid_that_could_write_to_shared_directories_waits_for_bailey_clean";
    let Some(node) = Node::new(TEST, 5) else { return };
    let shared = node.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    node.configure(&format!("[uid]\nshared_dirs = [\"{}\"]", shared.display()));
    let bind = format!("{0}:{0}:rw", show(&shared));
    let leaves = format!(
        "cd {}; mkdir -m 0700 mine; echo x >mine/file; ln -s /etc/passwd mine/link; id -u",
        show(&shared)
    );
    assert_eq!(stdout(&node.shell(&["--bind", &bind], &leaves)), node.first.to_string());
    assert_eq!(owner(&shared.join("mine/file")), node.first);
    assert_eq!(stdout(&node.shell(&[], "id -u")), (node.first + 1).to_string(), "the first left something");
    fs::write(shared.join("roots"), "stays").unwrap();

    let clean = |args: &[&str]| {
        let mut command = Command::new(BAILEY);
        command.env_clear().env("BAILEY_CONFIG", node.config()).args(["clean"]).args(args).output().unwrap()
    };
    let said = stdout(&clean(&["--dry-run"]));
    assert!(said.contains(&node.first.to_string()) && shared.join("mine/file").exists(), "{said}");
    let said = stdout(&clean(&["--json"]));
    let row: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(
        (row["uid"].as_u64(), row["removed"].as_u64()),
        (Some(u64::from(node.first)), Some(3)),
        "{said}"
    );
    assert_eq!(row["free"], true, "{said}");
    assert!(
        !shared.join("mine").exists() && shared.join("roots").exists() && Path::new("/etc/passwd").exists()
    );
    assert_eq!(stdout(&node.shell(&[], "id -u")), node.first.to_string());
}

#[test]
fn what_only_root_may_read_or_write_is_done_before() {
    let Some(node) = Node::new("what_only_root_may_read_or_write_is_done_before", 6) else { return };
    let private = node.path("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(private.join("id.json"), r#"{"user": "/DC=org/CN=A", "vo": "atlas"}"#).unwrap();
    fs::set_permissions(private.join("id.json"), fs::Permissions::from_mode(0o600)).unwrap();
    let (document, how) = (show(&private.join("id.json")), show(&private.join("how")));
    let look = format!("id -u; cat {document} 2>/dev/null; exit 7");
    let output = node.shell(&["--identity", &document, "--status-file", &how], &look);
    assert_eq!((code(&output), text(&output.stdout).trim()), (7, node.first.to_string().as_str()));
    let told = status(Path::new(&how));
    assert_eq!((told["state"].as_str(), told["exit_code"].as_u64()), (Some("ended"), Some(7)));
    assert_eq!(node.records(node.first, "payload-launch")[0]["user"]["id"], "/DC=org/CN=A");
    assert_refused(&node.shell(&["--status-file", "/nowhere/x"], "true"), 125, &["/nowhere/x"]);
}

/// The file of variables is read by root, for a payload that is not.
#[test]
fn what_root_alone_may_read_is_no_file_of_variables() {
    let Some(node) = Node::new("what_root_alone_may_read_is_no_file_of_variables", 9) else { return };
    let variables = |name: &str, mode: u32| {
        let path = node.path(name);
        fs::write(&path, "HIDDEN=hunter2\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let run = |file: &Path| {
        let mut command = Command::new(BAILEY);
        command.env_clear().env("BAILEY_CONFIG", node.config()).current_dir("/").stdin(Stdio::null());
        command.args(["apptainer", "exec", "-C", "--env-file"]).arg(file).arg(support::image());
        command.args(["sh", "-c", "id -u; echo $HIDDEN"]).output().unwrap()
    };
    let open = variables("open", 0o644);
    assert_eq!(stdout(&run(&open)), format!("{}\nhunter2", node.first), "a control");
    let closed = variables("closed", 0o600);
    // In a directory that a payload's user can write to.
    let theirs = node.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(node.first), None).unwrap();
    symlink(&open, theirs.join("env")).unwrap();
    symlink(&node.dir, theirs.join("sub")).unwrap();
    for (file, why) in [
        (closed, "not everybody may read it"),
        (theirs.join("env"), "a symbolic link leads to it"),
        (theirs.join("sub/open"), "a symbolic link leads to it"),
    ] {
        let output = run(&file);
        let said = text(&output.stderr);
        assert!(
            code(&output) == 255 && said.starts_with("FATAL:   bailey[125]: ") && said.contains(why),
            "{said}"
        );
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_range_that_is_somebodys_is_refused() {
    let Some(node) = Node::new("a_range_that_is_somebodys_is_refused", 7) else { return };
    let Some(account) = std::env::var("BAILEY_TEST_USER").ok() else {
        return skip("a_range_that_is_somebodys_is_refused", "BAILEY_TEST_USER names no ordinary account");
    };
    let uid = stdout(&Command::new("id").args(["-u", &account]).output().unwrap());
    node.write_config(&format!("{uid}-{uid}"), "recorder = \"off\"", "");
    assert_refused(&node.shell(&[], "true"), 125, &["cannot use the uids", &account, "/etc/passwd"]);
    node.write_config("none", "recorder = \"off\"", "");
    assert_refused(&node.shell(&[], "true"), 120, &["as root", "root_caller.uids"]);
}

#[test]
fn the_recorder_sees_the_uid() {
    let Some(node) = Node::new("the_recorder_sees_the_uid", 8) else { return };
    let Some(account) = std::env::var("BAILEY_TEST_RECORDER_USER").ok() else {
        return skip("the_recorder_sees_the_uid", "BAILEY_TEST_RECORDER_USER names no account");
    };
    let id = |option: &str| stdout(&Command::new("id").args([option, &account]).output().unwrap());
    let place = node.path("recorder");
    fs::create_dir(&place).unwrap();
    let mut recorder = Recorder::at(&place, &[]);
    for dir in [&recorder.log, &recorder.state, &recorder.socket.parent().unwrap().to_path_buf()] {
        chown(dir, Some(id("-u").parse().unwrap()), Some(id("-g").parse().unwrap())).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id("-u"), "--regid", &id("-g"), "--clear-groups", "--"]);
    command.arg(recorder.command().get_program()).env_clear().env("BAILEY_CONFIG", &recorder.config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&recorder.said).unwrap());
    recorder.adopt(command);
    let audit = format!("recorder = \"required\"\nsocket = \"{}\"", recorder.socket.display());
    node.write_config(&format!("{}-{}", node.first, node.first + 1), &audit, "");
    let one = node.payload(&["--user", "one"], "true");
    assert_eq!(stdout(&node.shell(&["--user", "two"], "id -u")), (node.first + 1).to_string());
    drop(one);
    let launches = recorder.wait_records("payload-launch", 2);
    for (launch, (user, uid)) in launches.iter().zip([("one", node.first), ("two", node.first + 1)]) {
        assert_eq!(launch["user"]["id"], user);
        assert_eq!(launch["process"]["user"]["id"], uid.to_string(), "{launch}");
        assert_eq!(launch["grid"]["observed"]["uid_map"], format!("{uid} {uid} 1"), "{launch}");
        assert!(launch["grid"]["observed"]["contradictions"].is_null(), "{launch}");
    }
}
