//! One attempt: pilot, launcher, attack, and what became of it.

use super::adapters::{Launcher, Stage};
use super::head::{Control, Head, folder};
use super::support::{Guard, World, behind, text};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// No attack may take longer.
const LIMIT: Duration = Duration::from_secs(10);

/// What became of an attack.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Succeeds(String),
    Prevented(String),
    /// It could not be tried, and why.
    Cannot(String),
    /// The kernel prevents it here, sandbox or not.
    Kernel(String),
}

// attack.h
const SUCCEEDED: i32 = 40;
const PREVENTED: i32 = 41;
const CANNOT: i32 = 42;
const KERNEL: i32 = 43;

/// Puts the compiled `name` into `to`: compiled once, or taken from the folder's compiled ones.
fn compile(name: &str, to: &Path) {
    static COMPILED: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let program = to.join(name);
    let mut compiled = COMPILED.lock().unwrap();
    let bytes = compiled.entry(name.to_owned()).or_insert_with(|| {
        let made = folder().join("bin").join(name);
        if made.exists() {
            return fs::read(made).unwrap();
        }
        let mut gcc = Command::new("gcc");
        gcc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).arg(&program);
        let output =
            gcc.arg(folder().join(format!("{name}.c"))).output().expect("gcc is missing: run tests/setup.sh");
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read(&program).unwrap()
    });
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A control of the row's kind.
pub fn control(head: &Head) -> Verdict {
    attempt(head, if head.control == Control::Naive { Launcher::Naive } else { Launcher::Plain }, None)
}

/// Tries the attack once, with everything fresh.
pub fn attempt(head: &Head, launcher: Launcher, off: Option<&str>) -> Verdict {
    let world = World::new();
    let programs = world.directory("programs");
    compile(&head.name, &programs);
    if launcher == Launcher::Naive {
        compile("naive", &programs);
    }
    let stage = Stage::new(&world, head, programs);
    if head.own_image {
        let made = world
            .command(stage.program())
            .arg("image")
            .arg(&stage.root)
            .arg(format!("dir={}", stage.dir.display()))
            .status();
        assert!(made.unwrap().success(), "{}: the image could not be made", head.name);
        fs::create_dir_all(stage.root.join("bin")).unwrap();
        fs::copy(stage.program(), stage.root.join("bin/attack")).unwrap();
    }

    let dir = format!("dir={}", stage.dir.display());
    let mut pilot = world.command(stage.program());
    pilot.args(["pilot", &dir]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut pilot = Guard(pilot.spawn().unwrap());
    let mut said = BufReader::new(pilot.0.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let values = line.trim().strip_prefix("READY").unwrap_or_else(|| panic!("{}: pilot: {line}", head.name));
    let mut args = vec![dir];
    args.extend(values.split_whitespace().map(str::to_owned));

    let mut attack = vec!["attack".to_owned()];
    attack.extend(args.iter().cloned());
    let command = stage.finish(launcher, stage.command(launcher, off), &attack);
    let program = stage.program().display().to_string();
    let mut before: Vec<&str> = vec!["launch"];
    before.extend(args.iter().map(String::as_str));
    before.push("--");
    let (code, output) = run(&mut behind(&program, &before, &command));

    drop(pilot.0.stdin.take());
    let mut last = String::new();
    let pilot_says = within(Duration::from_secs(5), move || {
        said.read_to_string(&mut last).ok();
        last
    });
    let hurt = match pilot_says.as_deref().map(str::trim) {
        Some("UNHURT") => None,
        Some(line) if line.starts_with("HURT ") => Some(line.to_owned()),
        Some(_) => Some("HURT the pilot died".to_owned()),
        None => Some("HURT the pilot hangs".to_owned()),
    };
    judge(head, code, &output, hurt)
}

fn judge(head: &Head, code: Option<i32>, output: &str, hurt: Option<String>) -> Verdict {
    let line = output.lines().rev().find(|line| {
        ["succeeded: ", "prevented: ", "cannot: ", "kernel: "].iter().any(|word| line.starts_with(word))
    });
    let said = line.and_then(|line| line.split_once(": ")).map_or("", |(_, rest)| rest).to_owned();
    if let Some(why) = hurt {
        return Verdict::Succeeds(why);
    }
    match code {
        Some(SUCCEEDED) => Verdict::Succeeds(said),
        Some(PREVENTED) => Verdict::Prevented(said),
        Some(CANNOT) => Verdict::Cannot(said),
        Some(KERNEL) => Verdict::Kernel(said),
        other => {
            let last = output.lines().last().unwrap_or_default();
            let why = format!(
                "did not run ({}): {last}",
                other.map_or("killed or too slow".to_owned(), |code| code.to_string())
            );
            if head.refusal_prevents && other.is_some() {
                Verdict::Prevented(why)
            } else {
                Verdict::Cannot(why)
            }
        }
    }
}

/// Runs it to its end or to the limit: its exit code and what it printed.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let mut child =
        Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let (sender, receiver) = mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.0.stdout.take().unwrap()), Box::new(child.0.stderr.take().unwrap())];
    for mut stream in streams {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Piece by piece: somebody who lives on may hold the stream.
            while let Ok(got) = stream.read(&mut buffer) {
                if got == 0 || sender.send(buffer.get(..got).unwrap().to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let start = Instant::now();
    let mut code = None;
    while start.elapsed() < LIMIT {
        if let Some(status) = child.0.try_wait().unwrap() {
            code = status.code();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(child);
    let mut all = Vec::new();
    while let Ok(piece) = receiver.recv_timeout(Duration::from_millis(500)) {
        all.extend(piece);
    }
    (code, text(&all))
}

/// The result of `work`, unless it takes too long.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(limit).ok()
}
