//! How each launcher is asked for the same sandbox: the same root directory, files, variables and network, with the options
//! that its manual recommends for strangers' programs.

use super::head::Head;
use super::support::{BAILEY, World, image, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who runs the attack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Launcher {
    /// Nobody: the pilot starts it as it is.
    Plain,
    /// naive.c.
    Naive,
    Bailey,
    Bubblewrap,
    Crun,
    Apptainer,
}

impl Launcher {
    pub fn named(name: &str) -> Self {
        match name {
            "plain" => Self::Plain,
            "naive" => Self::Naive,
            "bailey" => Self::Bailey,
            "bwrap" => Self::Bubblewrap,
            "crun" => Self::Crun,
            "apptainer" => Self::Apptainer,
            _ => panic!("no launcher {name}"),
        }
    }
}

/// What one attempt has on the disk.
pub struct Stage<'a> {
    pub world: &'a World,
    pub head: &'a Head,
    /// The compiled programs.
    pub programs: PathBuf,
    /// The pilot's directory.
    pub dir: PathBuf,
    /// The root directory.
    pub root: PathBuf,
}

/// Where the programs are inside; an own image has its program in itself.
const INSIDE: &str = "/tmp/attacks";

impl Stage<'_> {
    pub fn new<'a>(world: &'a World, head: &'a Head, programs: PathBuf) -> Stage<'a> {
        let (dir, root) =
            (world.directory("pilot"), if head.own_image { world.directory("image") } else { image() });
        Stage { world, head, programs, dir, root }
    }

    pub fn program(&self) -> PathBuf {
        self.programs.join(&self.head.name)
    }

    fn inside(&self) -> String {
        if self.head.own_image { "/bin/attack".to_owned() } else { format!("{INSIDE}/{}", self.head.name) }
    }

    /// SRC, DST, writable.
    fn binds(&self) -> Vec<(String, String, bool)> {
        let dir = self.dir.display().to_string();
        let mut all: Vec<(String, String, bool)> = Vec::new();
        if !self.head.own_image {
            all.push((self.programs.display().to_string(), INSIDE.to_owned(), false));
        }
        for (source, target, writable) in &self.head.binds {
            all.push((source.replace("{dir}", &dir), target.replace("{dir}", &dir), *writable));
        }
        all
    }

    /// The command that runs the attack; its arguments `attack NAME=VALUE...` come after.
    pub fn command(&self, launcher: Launcher, off: Option<&str>) -> Command {
        match launcher {
            Launcher::Plain => {
                let mut command = self.world.command(self.program());
                for pair in &self.head.env {
                    let (name, value) = pair.split_once('=').unwrap();
                    command.env(name, value);
                }
                command
            }
            Launcher::Naive => self.naive(),
            Launcher::Bailey => self.bailey(off),
            Launcher::Bubblewrap => self.bubblewrap(),
            Launcher::Crun => self.crun(),
            Launcher::Apptainer => self.apptainer(),
        }
    }

    fn naive(&self) -> Command {
        let mut command = self.world.command(self.programs.join("naive"));
        command.arg(&self.root);
        for (source, target, writable) in self.binds() {
            command.args(["--bind", &format!("{source}:{target}{}", if writable { ":rw" } else { "" })]);
        }
        for pair in &self.head.env {
            command.args(["--env", pair]);
        }
        command.args(["--", &self.inside()]);
        command
    }

    fn bailey(&self, off: Option<&str>) -> Command {
        let mut command = self.world.command(BAILEY);
        command.arg("exec").arg("--image").arg(&self.root);
        for (source, target, writable) in self.binds() {
            command.args(["--bind", &format!("{source}:{target}:{}", if writable { "rw" } else { "ro" })]);
        }
        for pair in &self.head.env {
            command.args(["--env", pair]);
        }
        if self.head.no_network && off != Some("--network host") {
            command.args(["--network", "none"]);
        }
        match off {
            // An option taken away.
            Some("options") => {}
            Some(line) if line.contains('=') => {
                command
                    .env("BAILEY_CONFIG", self.world.config(&format!("{line}\n")))
                    .args(&self.head.options);
            }
            _ => {
                command.args(&self.head.options);
            }
        }
        command.args(["--", &self.inside()]);
        command
    }

    fn bubblewrap(&self) -> Command {
        let (uid, gid) = (nix::unistd::geteuid().to_string(), nix::unistd::getegid().to_string());
        let mut command = self.world.command("bwrap");
        command.args([
            "--unshare-user",
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-uts",
            "--unshare-cgroup",
        ]);
        if self.head.no_network {
            command.arg("--unshare-net");
        }
        command.args(["--uid", &uid, "--gid", &gid, "--ro-bind"]).arg(&self.root).arg("/");
        command.args(["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]);
        if !self.head.own_image {
            command.args(["--tmpfs", "/var/tmp", "--tmpfs", "/run"]);
        }
        for (source, target, writable) in self.binds() {
            command.args([if writable { "--bind" } else { "--ro-bind" }, &source, &target]);
        }
        command.args([
            "--chdir",
            "/",
            "--new-session",
            "--die-with-parent",
            "--clearenv",
            "--setenv",
            "PATH",
            "/usr/bin:/bin",
        ]);
        for pair in &self.head.env {
            let (name, value) = pair.split_once('=').unwrap();
            command.args(["--setenv", name, value]);
        }
        command.args(["--", &self.inside()]);
        command
    }

    fn apptainer(&self) -> Command {
        let mut command = self.world.command("apptainer");
        command.args([
            "--silent",
            "exec",
            "--userns",
            "--contain",
            "--ipc",
            "--pid",
            "--no-home",
            "--cleanenv",
        ]);
        if self.head.no_network {
            command.args(["--net", "--network", "none"]);
        }
        for (source, target, writable) in self.binds() {
            command.args(["--bind", &format!("{source}:{target}:{}", if writable { "rw" } else { "ro" })]);
        }
        for pair in &self.head.env {
            command.args(["--env", pair]);
        }
        command.arg(&self.root).arg(self.inside());
        command
    }

    /// crun's own default configuration for an ordinary user, without capabilities, control groups and a terminal.
    fn crun(&self) -> Command {
        let bundle = self.world.directory("bundle");
        let made =
            self.world.command("crun").args(["spec", "--rootless"]).current_dir(&bundle).output().unwrap();
        assert!(made.status.success(), "crun spec: {}", text(&made.stderr));
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        config["root"] = json!({"path": self.root, "readonly": true});
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["user"] = json!({"uid": uid, "gid": gid});
        process["cwd"] = json!("/");
        process["capabilities"] = json!({});
        let mut env = vec!["PATH=/usr/bin:/bin".to_owned()];
        env.extend(self.head.env.iter().cloned());
        process["env"] = json!(env);
        // The arguments are not known yet: Stage::finish fills them in.
        process["args"] = json!([self.inside()]);
        config["linux"]["uidMappings"] = json!([{"containerID": uid, "hostID": uid, "size": 1}]);
        config["linux"]["gidMappings"] = json!([{"containerID": gid, "hostID": gid, "size": 1}]);
        if !self.head.no_network {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
        }
        let mounts = config["mounts"].as_array_mut().unwrap();
        // Its devpts wants a gid that one mapped id does not have.
        for mount in mounts.iter_mut() {
            if let Some(options) = mount["options"].as_array_mut() {
                options.retain(|option| option != "gid=5");
            }
        }
        mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}));
        for (source, target, writable) in self.binds() {
            let mode = if writable { "rw" } else { "rro" };
            mounts.push(json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", mode, "nosuid", "nodev"]}));
        }
        fs::write(&path, config.to_string()).unwrap();
        let mut command = self.world.command("crun");
        command.arg("--root").arg(self.world.directory("crun")).args([
            "--cgroup-manager=disabled",
            "run",
            "--bundle",
        ]);
        let name = format!("attack-{}", std::process::id());
        command.arg(&bundle).arg(name);
        command
    }

    /// Puts the attack's arguments behind the command.
    pub fn finish(&self, launcher: Launcher, mut command: Command, args: &[String]) -> Command {
        if launcher == Launcher::Crun {
            let path = self.world.path("bundle/config.json");
            let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            config["process"]["args"].as_array_mut().unwrap().extend(args.iter().map(|arg| json!(arg)));
            fs::write(&path, config.to_string()).unwrap();
        } else {
            command.args(args);
        }
        command
    }
}

/// What a launcher says of itself.
pub fn version(launcher: Launcher) -> String {
    let program = match launcher {
        Launcher::Bubblewrap => "bwrap",
        Launcher::Crun => "crun",
        Launcher::Apptainer => "apptainer",
        Launcher::Bailey => BAILEY,
        Launcher::Plain | Launcher::Naive => return String::new(),
    };
    let output = Command::new(Path::new(program)).arg("--version").output().unwrap();
    text(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
