//! Called as apptainer: where home, /tmp, scratch and current directory are, with which variables what runs, and what of the host
//! stays outside. The command lines are those of the pilots.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{Attack, BAILEY, Racing, World, code, image, stdout, text};

/// A world with a directory that a pilot works in, beside its home with the log.
struct Bed {
    world: World,
    job: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let world = World::new();
        let job = world.directory("job");
        Self { world, job }
    }

    /// `bailey apptainer`, called in the job's directory.
    fn command(&self) -> Command {
        let mut command = self.world.command(BAILEY);
        command.arg("apptainer").current_dir(&self.job);
        command
    }

    /// `apptainer exec FLAGS IMAGE /bin/sh -c SCRIPT` with the Debian image.
    fn shell(&self, flags: &[&str], script: &str) -> Output {
        self.shell_with(&[], flags, script)
    }

    fn shell_with(&self, env: &[(&str, &str)], flags: &[&str], script: &str) -> Output {
        let mut command = self.command();
        command
            .envs(env.iter().copied())
            .arg("exec")
            .args(flags)
            .arg(image())
            .args(["/bin/sh", "-c", script]);
        command.output().unwrap()
    }

    /// With this configuration.
    fn configured(&self, config: &str) -> Configured<'_> {
        Configured { bed: self, config: self.world.config(config) }
    }

    fn record(&self) -> Value {
        self.world.records_of("payload-launch").pop().expect("a launch record")
    }

    /// `grid.unheeded` of the last launch, one a line.
    fn unheeded(&self) -> String {
        let record = self.record();
        let unheeded = record["grid"]["unheeded"].as_array().cloned().unwrap_or_default();
        unheeded.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).display().to_string()
    }
}

struct Configured<'a> {
    bed: &'a Bed,
    config: PathBuf,
}

impl Configured<'_> {
    fn shell(&self, flags: &[&str], script: &str) -> Output {
        self.bed.shell_with(&[("BAILEY_CONFIG", self.config.to_str().unwrap())], flags, script)
    }
}

/// The account's name.
fn name() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().expect("an account in /etc/passwd").name
}

/// Where the account's home is.
fn home() -> String {
    let user =
        nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().expect("an account in /etc/passwd");
    user.dir.display().to_string()
}

/// Nothing was said but what the payload said.
fn quiet(output: &Output) -> String {
    let said = stdout(output);
    assert_eq!(text(&output.stderr), "");
    said
}

/// bailey's one line, 255, and these words.
fn assert_fatal(output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(code(output), 255, "{words:?} {said}{}", text(&output.stdout));
    assert!(said.starts_with("FATAL:   bailey["), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

/// An image whose system is the Debian image's, bound to /usr, with scripts of its own.
struct Scripted {
    path: PathBuf,
    usr: String,
}

impl Scripted {
    fn new(bed: &Bed) -> Self {
        let path = bed.world.directory("scripted");
        for (link, to) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            symlink(to, path.join(link)).unwrap();
        }
        fs::create_dir(path.join("usr")).unwrap();
        Self { path, usr: format!("{}/usr:/usr:ro", image().display()) }
    }

    fn script(&self, name: &str, content: &str) {
        let path = self.path.join(".singularity.d").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, bed: &Bed, env: &[(&str, &str)], words: &[&str], behind: &[&str]) -> Output {
        let mut command = bed.command();
        command.envs(env.iter().copied()).args(words).args(["-B", &self.usr]).arg(&self.path).args(behind);
        command.output().unwrap()
    }
}

#[test]
fn contained_it_has_nothing_of_the_hosts_directories() {
    let bed = Bed::new();
    fs::write(bed.job.join("seen"), "x").unwrap();
    let before = bed.world.snapshot();
    let said = quiet(&bed.shell(
        &["--contain"],
        "echo $HOME; pwd; touch ~/a /tmp/b /var/tmp/c; for d in ~ /tmp /var/tmp; do ls -A $d; done",
    ));
    let home = home();
    assert_eq!(said, format!("{home}\n{home}\na\nb\nc"));
    assert_eq!(bed.unheeded(), "", "all of it was asked for");
    bed.world.assert_nothing_left(&before);
    // A control: not contained, the directory it was called in is there.
    assert_eq!(quiet(&bed.shell(&[], "ls; pwd")), format!("seen\n{}", bed.job.display()));
}

#[test]
fn the_sites_defaults_are_tighter_than_apptainers_and_the_record_says_so() {
    let bed = Bed::new();
    for name in ["data", ".job.ad", "x509up_u77"] {
        fs::write(bed.job.join(name), "secret\n").unwrap();
    }
    let script = "echo $HOME; ls -A ~; cat data .job.ad x509up_u77; echo new > made; ls -A /tmp; touch ~/x";
    let said = quiet(&bed.shell(&[], script));
    // Home and /tmp are private, the directory is the host's, its credentials are covered.
    assert_eq!(said, format!("{}\nsecret", home()));
    assert_eq!(fs::read_to_string(bed.job.join("made")).unwrap(), "new\n");
    let unheeded = bed.unheeded();
    for word in ["apptainer.home", "apptainer.tmp", &home()] {
        assert!(unheeded.contains(word), "{unheeded}");
    }
    let record = bed.record();
    let mounts = record["grid"]["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|m| m["source"] == bed.path("job") && m["mode"] == "rw"), "{mounts:?}");

    // Tighter still, where the site wants that.
    let site = bed.configured("[apptainer]\ncwd = \"off\"\nenvironment = \"clean\"\n");
    assert_eq!(quiet(&site.shell(&[], "pwd; echo \"[$USER]\"")), format!("{}\n[]", home()));
    let unheeded = bed.unheeded();
    for word in ["apptainer.home", "apptainer.tmp", "apptainer.cwd", "apptainer.environment"] {
        assert!(unheeded.contains(word), "{unheeded}");
    }
    // What the site allows is there.
    let site = bed.configured("[apptainer]\ntmp = \"host\"\n");
    let mark = PathBuf::from(format!("/tmp/bailey-root-test-{}", std::process::id()));
    fs::write(&mark, "shared\n").unwrap();
    let output = site.shell(&[], &format!("cat {}", mark.display()));
    fs::remove_file(&mark).unwrap();
    assert_eq!(quiet(&output), "shared");
    assert!(!bed.unheeded().contains("apptainer.tmp"), "{}", bed.unheeded());
}

#[test]
fn a_workdir_holds_tmp_var_tmp_and_home() {
    let bed = Bed::new();
    let base = bed.world.directory("base");
    let script = "echo t > /tmp/f; echo v > /var/tmp/f; echo h > ~/f; ls -d /base 2>/dev/null; true";
    quiet(&bed.shell(&["--contain", "--workdir", base.to_str().unwrap()], script));
    for (place, content) in [("tmp/f", "t\n"), ("var_tmp/f", "v\n"), ("home/f", "h\n")] {
        assert_eq!(fs::read_to_string(base.join(place)).unwrap(), content, "{place}");
    }
    // What is there already is used.
    assert_eq!(quiet(&bed.shell(&["-c", "-W", base.to_str().unwrap()], "cat /tmp/f ~/f")), "t\nh");
    // Scratch directories are below it, and otherwise private.
    let base = base.to_str().unwrap();
    quiet(&bed.shell(
        &["-c", "-W", base, "-S", "/tmp", "-S", "/data/scratch"],
        "echo s > /tmp/g; echo d > /data/scratch/g",
    ));
    assert_eq!(fs::read_to_string(format!("{base}/scratch/tmp/g")).unwrap(), "s\n");
    assert_eq!(fs::read_to_string(format!("{base}/scratch/data/scratch/g")).unwrap(), "d\n");
    assert_eq!(quiet(&bed.shell(&["-c", "-S", "/scratch"], "touch /scratch/g; ls /scratch")), "g");
    // A home that is not there is private, as in Apptainer, and nobody has to guess.
    assert_eq!(quiet(&bed.shell(&["-c", "--home", "/no/such:/srv"], "cd; pwd; ls -A")), "/srv");
    assert_eq!(bed.unheeded(), "--home: there is no /no/such here, so it is private");
}

// A payload that may write beside its --workdir turns tmp into a link, for the next one.
#[test]
fn a_link_below_the_workdir_leads_nowhere() {
    let bed = Bed::new();
    let outside = bed.world.directory("outside");
    fs::write(outside.join("victim"), "x").unwrap();
    for (name, flags) in [
        ("tmp", &["-c"][..]),
        ("var_tmp", &["-c"][..]),
        ("home", &["-c"][..]),
        ("scratch", &["-c", "-S", "/data"][..]),
    ] {
        for to in [outside.clone(), PathBuf::from("../outside"), PathBuf::from("/nowhere/at/all")] {
            let base = bed.world.directory("base");
            symlink(&to, base.join(name)).unwrap();
            // A control: whoever follows it gets there.
            assert_eq!(base.join(name).join("victim").exists(), !to.starts_with("/nowhere"));
            let mut flags = flags.to_vec();
            flags.extend(["-W", base.to_str().unwrap()]);
            assert_fatal(&bed.shell(&flags, "ls -R /tmp /var/tmp ~ /data"), &["--workdir"]);
            fs::remove_dir_all(&base).unwrap();
        }
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

// DIRAC: SingularityComputingElement
#[test]
fn the_line_of_dirac() {
    let bed = Bed::new();
    let base = bed.world.directory("base");
    for dir in ["tmp", "home", "var_tmp"] {
        fs::create_dir(base.join(dir)).unwrap();
    }
    fs::write(base.join("tmp/proxy"), "PROXY\n").unwrap();
    bed.world.program(
        "base/tmp/dirac_container.sh",
        "#!/bin/sh\necho $HOME; pwd; cat $X509_USER_PROXY; cat /opt/dirac/rc; echo 7 > /tmp/retcode; echo \"[$X509_CERT_DIR]\"; exit 5\n",
    );
    bed.world.file("dirac/rc", "dirac\n");
    let bind = format!("{}:/opt/dirac:ro", bed.path("dirac"));
    let mut command = bed.command();
    command
        .env("X509_USER_PROXY", "/tmp/proxy")
        .env("X509_CERT_DIR", "/etc/grid-security/certificates")
        .env("TMPDIR", "/tmp")
        .args([
            "exec",
            "--contain",
            "--ipc",
            "--workdir",
            base.to_str().unwrap(),
            "--home",
            "/tmp",
            "--userns",
        ])
        .args(["--bind", &bind])
        .arg(image())
        .arg("/tmp/dirac_container.sh");
    let output = command.output().unwrap();
    assert_eq!(code(&output), 5, "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "/tmp\n/tmp\nPROXY\ndirac\n[/etc/grid-security/certificates]\n");
    assert_eq!(fs::read_to_string(base.join("tmp/retcode")).unwrap(), "7\n");
    // Without the file the variable leads to the pilot's, and stays outside.
    fs::remove_file(base.join("tmp/proxy")).unwrap();
    let flags = ["--contain", "--workdir", base.to_str().unwrap(), "--home", "/tmp"];
    let said =
        quiet(&bed.shell_with(&[("X509_USER_PROXY", "/tmp/proxy")], &flags, "echo \"[$X509_USER_PROXY]\""));
    assert_eq!(said, "[]");
    assert!(bed.unheeded().contains("X509_USER_PROXY"));
}

// glideinWMS: singularity_lib.sh
#[test]
fn the_line_of_glideinwms() {
    let bed = Bed::new();
    for name in ["pilot_proxy", "user_proxy"] {
        fs::write(bed.job.join(name), format!("{name}\n")).unwrap();
    }
    fs::write(bed.job.join(".job.ad"), "GlobalJobId = \"schedd.example.org#7.0#1700000000\"\n").unwrap();
    let home = format!("{}:/srv", bed.job.display());
    let mut command = bed.command();
    command.args(["exec", "--home", &home, "--pwd", "/srv", "--ipc", "--contain", "--pid"]);
    command.args(["--bind", "/etc/hosts,/etc/localtime"]).arg(image()).args(["cat", "/proc/self/uid_map"]);
    let said = quiet(&command.output().unwrap());
    let uid = nix::unistd::geteuid();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), [&uid.to_string(), &uid.to_string(), "1"]);

    let env = [
        ("X509_USER_PROXY", format!("{}/pilot_proxy", bed.job.display())),
        ("APPTAINERENV_X509_USER_PROXY", "/srv/user_proxy".to_owned()),
        ("APPTAINERENV__CONDOR_JOB_AD", "/srv/.job.ad".to_owned()),
    ];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let flags = ["--home", &home, "--pwd", "/srv", "--contain", "--cleanenv"];
    let script = "pwd; echo $HOME; cat .job.ad pilot_proxy; cat $X509_USER_PROXY; echo out > result";
    assert_eq!(quiet(&bed.shell_with(&env, &flags, script)), "/srv\n/srv\nuser_proxy");
    assert_eq!(fs::read_to_string(bed.job.join("result")).unwrap(), "out\n");
    // A control: the pilot's own is there, and covered for nothing but that its environment names it.
    assert_eq!(quiet(&bed.shell(&flags, "cat pilot_proxy")), "pilot_proxy");
}

/// A person's home has credentials of other kinds than a pilot's directory.
#[test]
fn a_home_that_is_shown_shows_no_credentials() {
    let bed = Bed::new();
    let secrets = [
        ".netrc",
        ".docker/config.json",
        ".apptainer/docker-config.json",
        ".config/gcloud/key",
        ".aws/credentials",
    ];
    for name in secrets {
        bed.world.file(&format!("job/{name}"), "hunter2\n");
    }
    bed.world.file("job/.apptainer/cache/blob", "cached\n");
    let home = bed.job.display().to_string();
    let script = format!("cd ~; cat .apptainer/cache/blob; cat {} 2>/dev/null; true", secrets.join(" "));
    assert_eq!(stdout(&bed.shell(&["-C", "--home", &home], &script)), "cached");
    // A control: what is bound by its own name is the payload's.
    let netrc = format!("{home}/.netrc");
    assert_eq!(stdout(&bed.shell(&["-C", "--home", &home, "-B", &netrc], &script)), "cached\nhunter2");
}

// JAliEn: ApptainerCVMFS
#[test]
fn the_line_of_jalien() {
    let bed = Bed::new();
    fs::create_dir(bed.job.join("tmp")).unwrap();
    let binds = format!("{0}:/workdir,{0}/tmp:/tmp", bed.job.display());
    let flags = ["-C", "-B", &binds, "--pwd", "/workdir", "--no-mount", "tmp"];
    let said =
        quiet(&bed.shell(&flags, "pwd; echo a > /tmp/a; echo b > b; cat /workdir/tmp/a; echo \"[$USER]\""));
    assert_eq!(said, "/workdir\na\n[]");
    assert_eq!(fs::read_to_string(bed.job.join("b")).unwrap(), "b\n");
}

// HTCondor: the starter
#[test]
fn the_lines_of_htcondor() {
    let bed = Bed::new();
    // An image that is a directory with one program and nothing else.
    let bare = bed.world.directory("bare");
    fs::copy(Attack::new(&bed.world).0, bare.join("p")).unwrap();
    let run = |flags: &[&str]| {
        let mut command = bed.command();
        command.args(flags).arg(&bare).args(["/p", "ls", "/", ",", "write", "/tmp/x", "x"]);
        command.output().unwrap()
    };
    for flags in [&["exec", "-C"][..], &["exec", "--contain", "--ipc", "--cleanenv"]] {
        let said = quiet(&run(flags));
        assert!(said.contains(" p") && said.ends_with("/tmp/x: ok"), "{said}");
    }
    // Its test: there is nothing that could be run, so a program of bailey's own shows that something would.
    let output = bed.command().args(["-q", "test", "-C"]).arg(&bare).output().unwrap();
    assert_eq!(quiet(&output), "");
    let launch = bed.record();
    assert!(launch["process"]["args"][1] == "test-of-nothing", "{launch}");

    bed.world.program(
        "job/condor_exec.exe",
        "#!/bin/sh\npwd; echo $HOME $_CONDOR_SCRATCH_DIR; echo s > /tmp/s; exit 37\n",
    );
    let job = bed.job.to_str().unwrap().to_owned();
    let mut command = bed.command();
    command
        .env("APPTAINERENV__CONDOR_SCRATCH_DIR", &job)
        .env("APPTAINERENV__CONDOR_JOB_AD", format!("{job}/.job.ad"))
        .env("APPTAINERENV_FOO", "a b")
        .args(["-s", "exec", "-S", "/tmp", "-S", "/var/tmp", "-W", &job, "--pwd", &job, "-B", &job])
        .args(["--no-home", "-C"])
        .arg(image())
        .arg("./condor_exec.exe");
    let output = command.output().unwrap();
    assert_eq!(code(&output), 37, "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{job}\n{} {job}\n", home()));
    assert_eq!(fs::read_to_string(bed.job.join("scratch/tmp/s")).unwrap(), "s\n");
    bed.world.assert_closed();
}

#[test]
fn variables_of_the_host_enter_but_for_the_pilots_own() {
    let bed = Bed::new();
    let env = [
        ("HARMLESS", "1"),
        ("FOO", "host"),
        ("LD_PRELOAD", "/x.so"),
        ("LD_LIBRARY_PATH", "/x"),
        ("BEARER_TOKEN", "t"),
        ("X509_USER_PROXY", "/tmp/x509up_u1"),
        ("NOTE", "eyJhbGciOi.eyJzdWIi.sig"),
        ("HEADER", "Bearer eyJhbGciOi.eyJzdWIi.sig"),
        ("DB_PASS", "hunter2"),
        ("GPG_PASSPHRASE", "hunter2"),
        ("MYSQL_PWD", "hunter2"),
        ("START_PWD", "/work"),
        ("AUTH_HEADER", "Basic dTpwdw=="),
        ("https_proxy", "http://u:hunter2@squid:3128"),
        ("MIRROR", "https://u:hunter2@mirror.example/"),
        ("BUNDLE", "a -----BEGIN PRIVATE KEY-----"),
        ("_CONDOR_SLOT", "slot1"),
        ("TMPDIR", "/no/such/place"),
        ("TERM", "vt100"),
        ("http_proxy", "http://squid:3128"),
        ("APPTAINER_TMPDIR", "/x"),
        ("SINGULARITY_CACHEDIR", "/y"),
        ("APPTAINERENV_FOO", "caller"),
        ("SINGULARITYENV_BAR", "$HOME"),
        ("APPTAINERENV_PREPEND_PATH", "/pre"),
        ("APPTAINERENV_APPEND_PATH", "/post"),
    ];
    let said = quiet(&bed.shell_with(&env, &[], "env"));
    let has = |line: &str| said.lines().any(|found| found == line);
    for line in [
        "HARMLESS=1",
        "START_PWD=/work",
        "FOO=caller",
        "BAR=$HOME",
        "TERM=vt100",
        "http_proxy=http://squid:3128",
        "USER=pilot",
    ] {
        assert!(has(line), "{line}:\n{said}");
    }
    assert!(has("PATH=/pre:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/post"), "{said}");
    assert!(has("PS1=Apptainer> "), "{said}");
    for prefix in ["APPTAINER", "SINGULARITY"] {
        assert!(has(&format!("{prefix}_CONTAINER={}", image().display())), "{said}");
        assert!(has(&format!("{prefix}_NAME={}", image().file_name().unwrap().to_str().unwrap())), "{said}");
        assert!(has(&format!("{prefix}_ENVIRONMENT=/.singularity.d/env/91-environment.sh")), "{said}");
        assert!(has(&format!("{prefix}_COMMAND=exec")) && has(&format!("{prefix}_BIND=")), "{said}");
    }
    let withheld = [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BEARER_TOKEN",
        "X509_USER_PROXY",
        "NOTE",
        "HEADER",
        "DB_PASS",
        "GPG_PASSPHRASE",
        "MYSQL_PWD",
        "AUTH_HEADER",
        "https_proxy",
        "MIRROR",
        "BUNDLE",
        "_CONDOR_SLOT",
        "TMPDIR",
    ];
    for name in withheld.iter().chain(&["APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR", "APPTAINERENV_FOO"]) {
        assert!(!said.contains(&format!("\n{name}=")), "{name}:\n{said}");
    }
    let unheeded = bed.unheeded();
    for name in withheld {
        assert!(unheeded.contains(name), "{name}: {unheeded}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    // Clean: what Apptainer keeps, and what the caller sets.
    let said = quiet(&bed.shell_with(&env, &["--cleanenv"], "env"));
    let mut names: Vec<&str> =
        said.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !name.starts_with("APPTAINER_") && !name.starts_with("SINGULARITY_"));
    names.sort_unstable();
    assert_eq!(
        names,
        ["BAILEY_ID", "BAR", "FOO", "HOME", "LANG", "PATH", "PS1", "PWD", "TERM", "http_proxy"]
    );
    // Left out by name; and a name that no shell can set.
    let said = quiet(&bed.shell_with(
        &[("HARMLESS", "1"), ("BASH_FUNC_x%%", "() { :; }")],
        &["--no-env", "HARMLESS"],
        "env",
    ));
    assert!(!said.contains("HARMLESS") && !said.contains("BASH_FUNC"), "{said}");
}

#[test]
fn the_images_variables_go_before_the_hosts_and_the_callers_before_all() {
    let bed = Bed::new();
    let image = Scripted::new(&bed);
    image.script(
        "env/10-docker2singularity.sh",
        "export PATH=\"/opt/x:/usr/bin\"\nexport DEFAULT=\"${DEFAULT:-\"image\"}\"\nexport BOTH=image\n",
    );
    image.script("env/90-environment.sh", "export OVER=image SEEN=\"<$HOSTVAR>\" ORDER=90\nset -u\n");
    image.script("env/91-environment.sh", "export ORDER=\"$ORDER 91\"\n");
    image.script("env/99-base.sh", "if [ -z \"${PS1:-}\" ]; then PS1=\"of the image> \"; fi\nexport PS1\n");
    image.script("env/98-not-a-script", "export WRONG=1\n");
    fs::write(image.path.join(".singularity.d/env/97-unreadable.sh"), "export WRONG=2\n").unwrap();
    fs::set_permissions(
        image.path.join(".singularity.d/env/97-unreadable.sh"),
        fs::Permissions::from_mode(0o000),
    )
    .unwrap();
    let strange = "a'b\"c $(touch /tmp/evaluated) \\ `id`\nnew line *";
    let env = [
        ("HOSTVAR", "host"),
        ("BOTH", "host"),
        ("DEFAULT", "host"),
        ("STRANGE", strange),
        ("APPTAINERENV_OVER", "caller"),
        ("APPTAINERENV_ODD", strange),
        ("APPTAINERENV_PREPEND_PATH", "/pre"),
        ("APPTAINERENV_APPEND_PATH", "/post"),
    ];
    let script = "printf '%s|' \"$PATH\" \"$DEFAULT\" \"$BOTH\" \"$OVER\" \"$SEEN\" \"$ORDER\" \"$HOSTVAR\" \"$PS1\" \"${WRONG-}\"; \
        printf '%s' \"$STRANGE\" \"$ODD\"; ls /tmp; env | grep -c '^BAILEY_'";
    let output = image.run(&bed, &env, &["exec"], &["/bin/sh", "-c", script]);
    let path = "/pre:/opt/x:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin:/post";
    assert_eq!(
        quiet(&output),
        format!("{path}|image|image|caller|<>|90 91|host|of the image> ||{strange}{strange}1")
    );
    assert_eq!(bed.record()["process"]["executable"], "/bin/sh");
    assert_eq!(bed.record()["process"]["args"][0], "/bin/sh", "the command, not what leads to it");
    // PATH of the caller is the whole of it.
    let output =
        image.run(&bed, &[("APPTAINERENV_PATH", "/only:/usr/bin")], &["exec"], &["printenv", "PATH"]);
    assert_eq!(quiet(&output), "/only:/usr/bin");
    // Many and long ones arrive, too.
    let long = "x".repeat(100_000);
    let many: Vec<(String, String)> =
        (0..3000).map(|n| (format!("APPTAINERENV_N{n}"), format!("value {n}"))).collect();
    let mut env: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    env.push(("LONG", &long));
    let output =
        image.run(&bed, &env, &["exec"], &["/bin/sh", "-c", "echo $N2999 ${#LONG}; env | grep -c '^N[0-9]'"]);
    assert_eq!(quiet(&output), "value 2999 100000\n3000");
}

#[test]
fn what_the_image_starts() {
    let bed = Bed::new();
    let image = Scripted::new(&bed);
    // None of it is there: a shell, and nothing to fail.
    assert_eq!(quiet(&image.run(&bed, &[], &["run"], &["-c", "echo shell"])), "shell");
    assert_eq!(quiet(&image.run(&bed, &[], &["test"], &[])), "");
    let mut shell = bed.command();
    shell.args(["shell", "-B", &image.usr]).arg(&image.path).stdin(std::process::Stdio::piped());
    shell.stdout(std::process::Stdio::piped());
    let mut child = shell.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"echo $BASH; exit 4\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (4, "/bin/bash\n".to_owned()));

    image.script("runscript", "#!/bin/sh\necho run \"$#\" \"$1\"; exit 6\n");
    image.script("test", "#!/bin/sh\necho test \"$1\"; exit 3\n");
    fs::create_dir_all(image.path.join("scif/apps/foo/scif")).unwrap();
    fs::write(image.path.join("scif/apps/foo/scif/runscript"), "#!/bin/sh\necho app $SINGULARITY_APPNAME\n")
        .unwrap();
    fs::set_permissions(image.path.join("scif/apps/foo/scif/runscript"), fs::Permissions::from_mode(0o755))
        .unwrap();
    fs::write(image.path.join("plain"), "x").unwrap();
    fs::write(image.path.join("orphan"), "#!/no/interpreter\n").unwrap();
    fs::set_permissions(image.path.join("orphan"), fs::Permissions::from_mode(0o755)).unwrap();
    for with_scripts in [false, true] {
        if with_scripts {
            image.script("env/90-environment.sh", "export A=1\n");
        }
        for (words, behind, expected, said) in [
            (&["run"][..], &["a b", "c"][..], 6, "run 2 a b\n"),
            (&["test"], &["t"], 3, "test t\n"),
            (&["run", "--app", "foo"], &[], 0, "app foo\n"),
            (&["exec"], &["/bin/sh", "-c", "exit 9"], 9, ""),
        ] {
            let output = image.run(&bed, &[], words, behind);
            assert_eq!(
                (code(&output), text(&output.stdout).as_str()),
                (expected, said),
                "{words:?} {}",
                text(&output.stderr)
            );
        }
        assert_eq!(bed.record()["process"]["args"][0], "/bin/sh");
        // What is named by its path is looked at before anything of the image's runs.
        for (missing, own) in [("/no/such", 127), ("/etc", 126), ("/plain", 126), ("./usr/nothing", 127)] {
            let output = image.run(&bed, &[], &["exec"], &[missing]);
            assert_fatal(&output, &[missing, &format!("bailey[{own}]")]);
            let record = bed.world.records().pop().unwrap();
            let found =
                (record["event"]["action"].as_str().unwrap(), record["error"]["code"].as_str().unwrap());
            assert_eq!(found, ("launch-failed", own.to_string().as_str()), "{missing}");
        }
        // A name is looked for in the PATH that the image makes, and an interpreter by the kernel: then its scripts have run.
        for missing in ["nosuch", "/orphan", "a\nFATAL:   bailey[120]: forged\x1b[31m"] {
            let output = image.run(&bed, &[], &["exec"], &[missing]);
            // The shell has its own word first where the kernel has one for it.
            let said = text(&output.stderr);
            assert_eq!(
                (code(&output), said.contains("FATAL:   bailey[127]: ")),
                (255, true),
                "{missing} {said}"
            );
            let record = bed.world.records().pop().unwrap();
            let end = if with_scripts { "payload-end" } else { "launch-failed" };
            assert_eq!(record["event"]["action"], end, "{missing}");
            if with_scripts {
                assert_eq!(record["process"]["exit_code"], 255, "{missing}");
            }
            let fatal = said.lines().filter(|line| line.contains("FATAL")).count();
            assert_eq!((fatal, said.contains('\x1b')), (1, false), "{said}");
        }
        let output = image.run(&bed, &[], &["run", "--app", "bar"], &[]);
        assert_fatal(&output, &["cannot run the app bar", "the image has no such app", "--list-apps"]);
        assert!(!text(&output.stderr).contains("/bin/sh"), "{}", text(&output.stderr));
        assert_fatal(&image.run(&bed, &[], &["run", "--app", "../foo"], &[]), &["app"]);
    }
}

#[test]
fn accounts_names_and_times() {
    let bed = Bed::new();
    let uid = nix::unistd::geteuid();
    let said = quiet(&bed.shell(
        &["--contain", "--hostname", "worker.example.org"],
        "id -un; getent passwd daemon | cut -d: -f1; grep -c root /etc/group; getent passwd $(id -u); uname -n; cat /etc/hostname; \
         cat /etc/hosts | wc -c",
    ));
    let hosts = fs::read("/etc/hosts").unwrap().len();
    let (name, home) = (name(), home());
    assert_eq!(
        said,
        format!(
            "{name}\ndaemon\n1\n{name}:x:{uid}:{}:payload:{home}:/bin/sh\nworker.example.org\nworker.example.org\n{hosts}",
            nix::unistd::getegid()
        )
    );
    assert_ne!(text(nix::unistd::gethostname().unwrap().as_encoded_bytes()), "worker.example.org");
    for bad in ["a b", "x/y", &"n".repeat(65)] {
        assert_fatal(&bed.shell(&["--hostname", bad], "true"), &["--hostname"]);
    }
    // /etc/passwd of an image that lies in wait.
    for kind in ["missing", "fifo", "link", "directory", "rubbish", "unreadable", "large"] {
        let image = bed.world.directory(&format!("image-{kind}"));
        fs::copy(Attack::new(&bed.world).0, image.join("p")).unwrap();
        fs::create_dir(image.join("etc")).unwrap();
        let passwd = image.join("etc/passwd");
        match kind {
            "fifo" => nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "link" => symlink(bed.world.file("host-secret", "secret:x:9:9::/:\n"), &passwd).unwrap(),
            "directory" => fs::create_dir(&passwd).unwrap(),
            "rubbish" => {
                fs::write(&passwd, format!("\0\x7f::::\nme:x:{uid}:0:old:/old:\nno newline")).unwrap();
            }
            "unreadable" => {
                fs::write(&passwd, "other:x:9:9::/:\n").unwrap();
                fs::set_permissions(&passwd, fs::Permissions::from_mode(0o000)).unwrap();
            }
            "large" => fs::write(&passwd, "other:x:9:9::/:\n".repeat(5000)).unwrap(),
            _ => {}
        }
        let output = bed
            .command()
            .args(["exec", "-C"])
            .arg(&image)
            .args(["/p", "cat", "/etc/passwd"])
            .output()
            .unwrap();
        let said = quiet(&output);
        assert!(
            said.ends_with(&format!("{name}:x:{uid}:{}:payload:{home}:/bin/sh", nix::unistd::getegid())),
            "{kind}: {said}"
        );
        assert!(!said.contains("secret") && !said.contains("/old"), "{kind}: {said}");
        assert_eq!(said.contains("no newline\n"), kind == "rubbish", "{said}");
        assert!(!said.contains("other"), "{kind}");
        // What there is and cannot be taken over is told.
        let why = match kind {
            "fifo" => "a FIFO",
            "directory" => "a directory",
            "unreadable" => "EACCES",
            "large" => "larger than 65536 bytes",
            _ => "",
        };
        let unheeded = bed.unheeded();
        assert_eq!(unheeded.contains("the image's /etc/passwd: "), !why.is_empty(), "{kind}: {unheeded}");
        assert!(unheeded.contains(why) && !unheeded.contains("/etc/group"), "{kind}: {unheeded}");
    }
}

#[test]
fn it_starts_where_it_can() {
    let bed = Bed::new();
    let home = home();
    for (flags, expected) in [
        (&["--pwd", "/usr/share"][..], "/usr/share"),
        (&["--cwd", "/tmp"], "/tmp"),
        (&["--contain"], &home),
        (&["--contain", "--no-home"], "/"),
        (&[], bed.job.to_str().unwrap()),
        (&["--no-mount", "cwd"], &home),
        (&["--home", "/var/empty:/new/home", "--no-mount", "cwd"], "/new/home"),
    ] {
        assert_eq!(quiet(&bed.shell(flags, "pwd")), *expected, "{flags:?}");
    }
    assert_fatal(&bed.shell(&["--pwd", "/no/such"], "pwd"), &["/no/such", "--pwd"]);
    // The host's own directories are not shown for being called in them.
    for dir in ["/", "/etc", "/usr", "/var", "/tmp", "/var/tmp", "/proc/self", "/dev"] {
        let mut command = bed.command();
        command.current_dir(dir).arg("exec").arg(image()).args([
            "sh",
            "-c",
            "grep -c ' - ' /proc/self/mountinfo",
        ]);
        quiet(&command.output().unwrap());
        let record = bed.record();
        assert!(
            record["grid"]["mounts"].as_array().is_none_or(Vec::is_empty),
            "{dir}: {}",
            record["grid"]["mounts"]
        );
    }
}

#[test]
fn binds_find_their_place() {
    let bed = Bed::new();
    bed.world.file("one/f", "one\n");
    bed.world.file("two/f", "two\n");
    let file = bed.world.file("file", "file\n").display().to_string();
    let (one, two) = (bed.path("one"), bed.path("two"));
    // Neither targets nor their parents are in the image.
    let binds = format!(
        "{one}:/hadoop,{two}:/new/deep/place:ro,{file}:/condor_container_launcher.sh,{file}:/etc/hosts"
    );
    let said = quiet(&bed.shell(
        &["-c", "-B", &binds],
        "cat /hadoop/f /new/deep/place/f /condor_container_launcher.sh /etc/hosts; touch /hadoop/w; touch /new/deep/place/w 2>&1 | grep -c Read-only",
    ));
    assert_eq!(said, "one\ntwo\nfile\nfile\n1");
    assert!(bed.world.path("one/w").exists() && !bed.world.path("two/w").exists());
    // Of two with one target the first is seen; what lies over a place hides it.
    let said = quiet(&bed.shell(&["-c", "-B", &format!("{one}:/x,{two}:/x,{two}:/tmp")], "cat /x/f /tmp/f"));
    assert_eq!(said, "one\ntwo");
    assert!(bed.unheeded().contains("another bind"), "{}", bed.unheeded());
    // A bind lies over what is below it, bailey's own files as well.
    let empty = bed.world.directory("empty").display().to_string();
    bed.world.file("etc/own", "own\n");
    for (target, below) in [
        ("/etc", "/etc/passwd"),
        ("/usr/share", "/usr/share/zoneinfo"),
        ("/sys", "/sys/devices"),
        ("/var", "/var/tmp"),
    ] {
        let script = format!("ls -d {below} 2>/dev/null; ls -A {target}; echo $HOME");
        let shown = quiet(&bed.shell(&["-c"], &format!("ls -d {below}")));
        assert_eq!(shown, below, "a control");
        for source in [empty.clone(), bed.path("etc")] {
            let names = if source == empty { "" } else { "own\n" };
            let bind = format!("{source}:{target}");
            for flags in [&["-c", "-B", &bind][..], &["-B", &bind]] {
                assert_eq!(quiet(&bed.shell(flags, &script)), format!("{names}{}", home()), "{flags:?}");
            }
            assert_eq!(quiet(&bed.shell(&["-c", "--home", &bind], &script)), format!("{names}{target}"));
        }
        // A home that is not there is a private one, and empty.
        let bind = format!("/no/such:{target}");
        assert_eq!(quiet(&bed.shell(&["-c", "--home", &bind], &script)), target);
    }
    // Two by way of a link of the image: what is really below is put there afterwards.
    let linked = bed.world.directory("linked");
    fs::copy(Attack::new(&bed.world).0, linked.join("p")).unwrap();
    symlink("/mnt/a/b", linked.join("link")).unwrap();
    let mut command = bed.command();
    command.args(["exec", "-c", "-B", &format!("{two}:/mnt/a,{one}:/link")]).arg(&linked);
    let output = command.args(["/p", "cat", "/mnt/a/b/f", ",", "cat", "/mnt/a/f"]).output().unwrap();
    assert_eq!(quiet(&output), "one\ntwo");
    // What lies at or below the same place later is seen, in the order of the page.
    let flags = ["-c", "--hostname", "named", "-B", &format!("{}:/etc", bed.path("etc"))];
    assert_eq!(quiet(&bed.shell(&flags, "uname -n; ls /etc")), "named\nown");
    let home_and_scratch = ["-c", "--home", &format!("{empty}:/var"), "-S", "/var/tmp"];
    assert_eq!(quiet(&bed.shell(&home_and_scratch, "touch /var/tmp/x; ls /var/tmp; ls /var")), "x\ntmp");
    assert!(!Path::new(&empty).join("tmp/x").exists(), "scratch is private");
    // In a directory that the payload may write to, mount points are made, and stay.
    let home = format!("{}:/srv", bed.job.display());
    let binds = format!("{one}:/srv/in/one,{file}:/srv/a/file");
    let said = quiet(&bed.shell(&["-c", "--home", &home, "-B", &binds], "cat ~/in/one/f ~/a/file"));
    assert_eq!(said, "one\nfile");
    assert_eq!(fs::read(bed.job.join("a/file")).unwrap(), b"");
    assert!(bed.job.join("in/one").is_dir() && !bed.job.join("in/one/f").exists());
    // But not through a link that leads out.
    symlink(&two, bed.job.join("out")).unwrap();
    let bind = format!("{one}:/srv/out/new");
    let output = bed.shell(&["-c", "--home", &home, "-B", &bind], "cat ~/out/new/f");
    assert!(!bed.world.path("two/new").exists(), "{}", text(&output.stderr));
}

// A payload that has a directory writable turns a part of it into a link and back, while another launch makes its mount points there.
#[test]
fn a_mount_point_is_made_through_no_link_that_another_payload_swaps() {
    let bed = Bed::new();
    bed.world.file("one/f", "one\n");
    let (shared, outside) = (bed.world.directory("shared"), bed.world.directory("outside"));
    fs::create_dir(shared.join("sub")).unwrap();
    symlink(&outside, shared.join("other")).unwrap();
    let (mut ran, mut refused) = (0, 0);
    {
        let _swaps = Racing::swap(&shared.join("sub"), &shared.join("other"));
        // A control: who goes by the path gets outside.
        support::wait_for("a directory outside", || {
            let _ = fs::create_dir(shared.join("sub/control"));
            outside.join("control").exists()
        });
        fs::remove_dir(outside.join("control")).unwrap();
        for number in 0..(240 / support::stride()) {
            let binds = format!("{}:/srv,{}:/srv/sub/planted-{number}", shared.display(), bed.path("one"));
            let output = bed.shell(&["-c", "-B", &binds], "true");
            assert_eq!(
                fs::read_dir(&outside).unwrap().count(),
                0,
                "launch {number}: {}",
                text(&output.stderr)
            );
            if code(&output) == 0 {
                ran += 1;
            } else {
                assert_fatal(&output, &[]);
                refused += 1;
            }
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused");
    bed.world.assert_closed();
}

#[test]
fn the_log_and_the_sites_rules_hold_for_every_place() {
    let bed = Bed::new();
    quiet(&bed.shell(&["-c"], "true")); // the log is there
    let dir = bed.world.dir.display().to_string();
    for flags in [
        &["--home", &format!("{dir}:/srv")][..],
        &["-c", "-B", &dir],
        &["-c", "--home", &bed.path("home/.local")],
    ] {
        assert_fatal(&bed.shell(flags, "find / -name '*.ndjson'"), &["audit log"]);
    }
    // What nobody named is left out.
    let mut command = bed.command();
    command.current_dir(&bed.world.dir).arg("exec").arg(image()).args(["sh", "-c", "ls -d job 2>&1; pwd"]);
    assert!(stdout(&command.output().unwrap()).ends_with(&home()));
    assert!(bed.unheeded().contains("lies in it"), "{}", bed.unheeded());

    let base = bed.path("base");
    fs::create_dir(&base).unwrap();
    let rule = |grant: &str| format!("[[rule]]\nid = \"r\"\n{grant}\n");
    let job = bed.job.display().to_string();
    let job_home = format!("{job}:/elsewhere");
    // Denied: home, parts of the workdir, the current directory.
    let site = bed.configured(&rule(&format!("binds = {{ deny = [\"{job}\", \"{base}\"] }}")));
    assert_fatal(&site.shell(&["-c", "--home", &job_home], "true"), &["bailey[120]", &job]);
    assert_fatal(&site.shell(&["-c", "-W", &base], "true"), &["bailey[120]", "base"]);
    assert!(!Path::new(&base).join("tmp").exists(), "nothing is made before the policy's yes");
    assert_fatal(&site.shell(&[], "true"), &["bailey[120]", &job]);
    quiet(&site.shell(&["-c"], "true"));
    // Only what is listed.
    let site = bed.configured(&rule(&format!("binds = {{ allow = [\"{base}\"] }}")));
    assert_fatal(&site.shell(&["-c", "--home", &job_home], "true"), &["bailey[120]", &job]);
    quiet(&site.shell(&["-c", "-W", &base], "true"));
    // For reading only.
    let site = bed.configured(&rule(&format!("binds = {{ readonly = [\"{job}\"] }}")));
    let said =
        quiet(&site.shell(&["-c", "--home", &job_home, "--pwd", "/"], "touch ~/no 2>&1 | grep -c Read-only"));
    assert_eq!(said, "1");
    // Strict: what was named may be written where the payload works, but not where the rule lists it.
    let bind = format!("{job}:/data");
    for flags in [&["--pwd", "/data"][..], &[]] {
        let flags = [&["-c", "-B", &bind], flags].concat();
        let touch = "touch /data/there 2>/dev/null && echo written; true";
        let works = if flags.len() > 3 { "written" } else { "" };
        let site = bed.configured(&rule("profile = \"strict\""));
        assert_eq!(quiet(&site.shell(&flags, touch)), works, "{flags:?}");
        let listed = format!("profile = \"strict\"\nbinds = {{ readonly = [\"{job}\"] }}");
        let site = bed.configured(&rule(&listed));
        assert_eq!(quiet(&site.shell(&flags, touch)), "", "{flags:?}");
    }
    // Nothing that was not named, and no variable of the pilot's.
    let site = bed.configured(&rule("profile = \"strict\""));
    assert_eq!(quiet(&site.shell(&[], "pwd; echo \"[$USER]\"")), format!("{}\n[]", home()));
    assert!(!bed.job.join("no").exists());
}

// What is recorded of a program that the pilot handed over is of the file that runs, however its name looks from outside.
#[test]
fn the_digest_is_that_of_what_runs() {
    let bed = Bed::new();
    let program = bed.path("program");
    fs::copy(image().join("bin/true"), &program).unwrap();
    fs::copy(image().join("bin/true"), bed.job.join("own")).unwrap();
    let sum = stdout(&Command::new("sha256sum").arg(&program).output().unwrap());
    let sum = sum.split_whitespace().next().unwrap();
    // Out here this is a FIFO that nobody writes to, in there a program.
    let trap = bed.path("trap");
    nix::unistd::mkfifo(Path::new(&trap), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink(&trap, bed.job.join("cmd")).unwrap();
    symlink("/bin/true", bed.job.join("out")).unwrap();
    symlink("own", bed.job.join("in")).unwrap();
    let binds = format!("{}:/srv,{program}:{trap}", bed.job.display());
    for (command, digest) in [
        ("/srv/own", Some(sum)),
        ("/srv/in", Some(sum)),
        ("/srv/cmd", Some(sum)),
        ("/srv/out", None), // the image's own
        ("/bin/true", None),
    ] {
        let begun = Instant::now();
        let mut call = bed.command();
        quiet(&call.args(["exec", "-c", "-B", &binds]).arg(image()).arg(command).output().unwrap());
        assert!(begun.elapsed() < support::patience(Duration::from_secs(10)), "{command}");
        let launch = bed.world.records_of("payload-launch").pop().unwrap();
        assert_eq!(launch["process"]["hash"]["sha256"].as_str(), digest, "{command}");
    }
}

#[test]
fn devices_are_named() {
    let bed = Bed::new();
    let fuse = std::env::var("BAILEY_TEST_FUSE").unwrap_or_else(|_| "/dev/fuse".to_owned());
    if fs::OpenOptions::new().read(true).write(true).open(&fuse).is_err() {
        return support::skip("devices_are_named", "there is no FUSE device that this account may open");
    }
    // A control: it is not there by itself.
    assert_eq!(quiet(&bed.shell(&["-c"], "ls /dev/fuse 2>/dev/null | wc -l")), "0");
    let bind = format!("{fuse}:/dev/fuse");
    assert_eq!(quiet(&bed.shell(&["-c", "--bind", &bind], "exec 3<>/dev/fuse && echo open")), "open");
    let site = bed.configured("[[rule]]\nid = \"r\"\nbinds = { deny = [\"/dev\", \"/var\"] }\n");
    assert_fatal(&site.shell(&["-c", "--bind", &bind], "true"), &["bailey[120]"]);
    // GPUs: what the host has, and a word where it has none.
    let said = quiet(&bed.shell(&["-c", "--nv"], "ls /dev | grep -c nvidia; true"));
    let has = fs::read_dir("/dev")
        .unwrap()
        .flatten()
        .any(|e| text(e.file_name().as_encoded_bytes()).starts_with("nvidia"));
    assert_eq!(said != "0", has);
    assert!(bed.unheeded().contains("--nv"), "{}", bed.unheeded());
}

// config/conf.d/wlcg-vos.toml.example, as a site copies it.
#[test]
fn the_example_for_the_large_vos() {
    let bed = Bed::new();
    let example = include_str!("../config/conf.d/wlcg-vos.toml.example");
    let file = bed.world.file("50-wlcg-vos.toml", example);
    let output = bed.world.admin(&["config", "validate", "--strict", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}{}", text(&output.stdout), text(&output.stderr));
    let config = bed.world.config(example);
    let launch = |vo: &str| {
        let identity = bed.world.file("identity.json", &format!("{{\"user\": \"/CN=x\", \"vo\": \"{vo}\"}}"));
        let env =
            [("BAILEY_CONFIG", config.to_str().unwrap()), ("BAILEY_IDENTITY", identity.to_str().unwrap())];
        let script = "unshare -Ur true 2>/dev/null && echo nested || echo flat; touch /tmp/x ~/y && echo written > out";
        let said = quiet(&bed.shell_with(&env, &["--home", &format!("{}:/srv", bed.job.display())], script));
        let record = bed.record();
        let policy = &record["grid"]["policy"];
        (said, policy["rule"].as_str().map(str::to_owned), policy["profile"].as_str().unwrap().to_owned())
    };
    for vo in ["atlas", "cms", "lhcb", "alice"] {
        assert_eq!(launch(vo), ("nested".to_owned(), Some(vo.to_owned()), "nested".to_owned()));
    }
    assert_eq!(launch("vo.example.org"), ("flat".to_owned(), None, "default".to_owned()));
    // What stands in its comments is what a site can write.
    let commented: String = example
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| !line.starts_with("bailey "))
        .map(|line| {
            if line.starts_with("binds") {
                format!("[[rule]]\nid = \"{}\"\n{line}\n", line.len())
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let file = bed.world.file("comments.toml", &commented);
    let output = bed.world.admin(&["config", "validate", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{commented}{}{}", text(&output.stdout), text(&output.stderr));
}

// Links, files, pipes and holes where Apptainer's manner puts something: nothing outside is shown or made.
#[test]
fn images_that_lie_in_wait() {
    let home = home();
    let in_home = format!("{home}/in");
    let places = [
        "/dev",
        "/proc",
        "/tmp",
        "/var/tmp",
        "/etc",
        "/etc/group",
        "/etc/localtime",
        "/etc/resolv.conf",
        "/home",
        &home,
        "/scratch",
        "/opt",
        "/bin",
        "/bin/sh",
        "/.singularity.d",
        "/.singularity.d/env",
        "/.singularity.d/runscript",
        "/sys",
        "/run",
        "/var",
        "/etc/hosts",
    ];
    let kinds =
        ["absolute", "dots", "dangling", "loop", "root", "magic", "file", "fifo", "unreadable", "missing"];
    let bed = Bed::new();
    let attack = Attack::new(&bed.world);
    bed.world.file("outside/victim", "of the host\n");
    let outside = bed.world.path("outside");
    let base = bed.world.directory("base");
    let bound = bed.world.file("bound/seen", "bound\n");
    quiet(&bed.shell(&["-c", "-W", base.to_str().unwrap(), "-S", "/scratch"], "true")); // makes what is missing
    let (mut ran, mut refused) = (0, Vec::new());
    for (place, kind) in places.iter().flat_map(|place| kinds.map(|kind| (*place, kind))) {
        let image = bed.world.directory("image");
        fs::copy(&attack.0, image.join("p")).unwrap();
        let path = image.join(place.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "absolute" => symlink(&outside, &path).unwrap(),
            "dots" => symlink(format!("../../../../../../../../{}", outside.display()), &path).unwrap(),
            "dangling" => symlink("/nowhere/at/all", &path).unwrap(),
            "loop" => symlink(place, &path).unwrap(),
            "root" => symlink("/", &path).unwrap(),
            "magic" => symlink("/proc/self/root", &path).unwrap(),
            "file" => fs::write(&path, "x").unwrap(),
            "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "unreadable" => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
            }
            _ => {}
        }
        let before = bed.world.snapshot();
        let mut command = bed.command();
        command.args(["exec", "-c", "-W", base.to_str().unwrap(), "-S", "/scratch"]);
        command.args(["-B", &format!("{}:/opt/data/seen", bound.display())]).arg(&image);
        command.args([
            "/p",
            "show",
            "/dev/null",
            "/proc/1",
            "/tmp",
            &home,
            "/scratch",
            ",",
            "cat",
            "/opt/data/seen",
            ",",
        ]);
        command.args([
            "write",
            "/tmp/w",
            "x",
            ",",
            "write",
            &in_home,
            "x",
            ",",
            "ls",
            "/opt",
            ",",
            "cat",
            "/etc/passwd",
        ]);
        let output = command.output().unwrap();
        let what = format!("{place} as {kind}: {}{}", text(&output.stdout), text(&output.stderr));
        if code(&output) == 255 {
            assert!(text(&output.stderr).starts_with("FATAL:   bailey[125]: "), "{what}");
            let record = bed.world.records().pop().unwrap();
            assert_eq!(record["grid"]["fault"], "user", "{what}");
            assert!(!text(&output.stderr).contains("not your fault"), "{what}");
            refused.push(format!("{place} {kind}"));
        } else {
            assert_eq!(code(&output), 0, "{what}");
            let said = text(&output.stdout);
            let expected = "/dev/null: char 1:3\n/proc/1: dir 555\n/tmp: dir ";
            assert!(said.starts_with(expected) && said.contains("\nbound\n/tmp/w: ok\n"), "{what}");
            assert!(said.contains(&format!("{in_home}: ok\n")), "{what}");
            assert!(!said.contains("victim"), "{what}");
            ran += 1;
        }
        for made in [base.join("tmp/w"), base.join("home/in")] {
            let _ = fs::remove_file(made);
        }
        // A link to below /var/tmp leads to the payload's own, inside.
        fs::remove_dir_all(base.join("var_tmp")).unwrap();
        fs::create_dir(base.join("var_tmp")).unwrap();
        fs::set_permissions(base.join("var_tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(bed.world.snapshot(), before, "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).ok();
        fs::remove_dir_all(&image).unwrap();
    }
    // Nothing can be put where the image's link leads to nothing or to bailey's own, or where it has something of another kind.
    let expected: Vec<String> = [
        ("/etc", "unreadable"),
        ("/etc/resolv.conf", "loop root magic unreadable"),
        ("/home", "loop magic file unreadable"),
        (&home, "loop root magic file fifo"),
        ("/scratch", "loop root magic file"),
        ("/opt", "loop magic file unreadable"),
        ("/var", "unreadable"),
        ("/etc/hosts", "loop root magic unreadable"),
    ]
    .iter()
    .flat_map(|(place, kinds)| kinds.split(' ').map(move |kind| format!("{place} {kind}")))
    .collect();
    assert_eq!(refused, expected, "{ran} ran");
    assert_eq!(ran + refused.len(), places.len() * kinds.len());
    bed.world.assert_no_trace();
    bed.world.assert_closed();
}

#[test]
fn an_environment_of_a_megabyte_is_carried_or_named() {
    let bed = Bed::new();
    let image = Scripted::new(&bed);
    image.script("env/90-environment.sh", "export A=1\n");
    let value = "v".repeat(100_000);
    let many: Vec<(String, &str)> = (0..11).map(|n| (format!("BIG{n}"), value.as_str())).collect();
    let env: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for behind in [&["/bin/sh", "-c", "echo ${#BIG10}"][..], &["/usr/bin/printenv", "BIG10"]] {
        let output = image.run(&bed, &env, &["exec"], behind);
        let said = quiet(&output);
        assert!(said == "100000" || said == value, "{}", said.len());
    }
    // One that the kernel takes from bailey's caller, but not with what stands before and behind it inside (MAX_ARG_STRLEN).
    let long = format!("/{}", "l".repeat(131_040));
    let fits = format!("/{}", "l".repeat(130_000));
    let before = bed.world.snapshot();
    let shell = |value: &str| {
        bed.shell_with(&[("APPTAINERENV_PREPEND_PATH", value)], &["-c"], "echo ${#PATH} | wc -c")
    };
    assert_eq!(quiet(&shell(&fits)), "7", "a control");
    assert_fatal(&shell(&long), &["E2BIG"]);
    let record = bed.world.records().pop().unwrap();
    assert_eq!(record["event"]["action"], "launch-failed", "{record}");
    assert_eq!(record["grid"]["fault"], "user", "{record}");
    bed.world.assert_nothing_left(&before);
    bed.world.assert_closed();
}
