//! Keeping what a payload leaves no trace of: its processes, its sockets and its private files, while it is held.
//!
//! 1. The payload MUST be held before anything here looks at it, and MUST NOT run between that and its end.
//! 2. Everything is read as the ordinary user that the launcher is. What that user may not read is named in `missing`, in
//!    words; nothing is left out without a word.
//! 3. What goes into the record is short enough for a message to the recorder; the whole lists are files beside it.
#![forbid(unsafe_code)]

mod files;
mod sockets;

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::audit::record::Preserved;
use crate::audit::redact;
use crate::config;
use crate::failure::{Failure, errno_text, io_text};
use crate::proc::Process;
use crate::proc::tree::{self, Member};
use crate::sandbox::Running;

/// Entries of each list that go into the record.
const LISTED: usize = 100;
/// The longest entry there.
const LONGEST: usize = 160;

/// Keeps what there is to keep. `interrupted` says whether somebody wants the payload's end now.
pub(super) fn preserve(
    running: &Running,
    into: Result<PathBuf, Failure>,
    interrupted: &mut dyn FnMut() -> bool,
) -> Preserved {
    let members = tree::members(running.init_pid());
    let mut missing = Vec::new();
    let processes: Vec<String> = members.iter().map(|member| process(member, &mut missing)).collect();
    let main = running.payload_pid();
    let sockets = sockets::of(&members, main, &mut missing);
    let made = into.and_then(|path| make_new(&path));
    let path = match made {
        Ok((path, dir)) => {
            for (name, list) in [("processes", &processes), ("sockets", &sockets)] {
                if let Err(error) = write_list(&path.join(name), list) {
                    missing.push(format!("the file {name}: {}", io_text(&error)));
                }
            }
            match root_of(&members, main) {
                Ok((pid, root)) => files::keep(pid, &root, &dir, &mut missing, interrupted),
                Err(why) => missing.push(format!("the private files: {why}")),
            }
            if let Err(errno) = nix::unistd::syncfs(&dir) {
                missing.push(format!("the copies may be lost in a power failure: {}", errno_text(errno)));
            }
            Some(path)
        }
        Err(failure) => {
            missing.push(format!("the private files: {failure}"));
            None
        }
    };
    if let Some(path) = &path
        && let Err(error) = write_list(&path.join("missing"), &missing)
    {
        missing.push(format!("the file missing: {}", io_text(&error)));
    }
    Preserved {
        path: path.map(|path| redact::text(path.as_os_str().as_bytes())),
        processes: listed(processes),
        sockets: listed(sockets),
        missing: listed(missing),
    }
}

/// `PID PPID STATE COMMAND`
fn process(member: &Member, missing: &mut Vec<String>) -> String {
    let Member { pid, stat } = member;
    let mut buffer = Vec::new();
    let line =
        Process::open(*pid).and_then(|process| process.read(c"cmdline", &mut buffer).map(<[u8]>::to_vec));
    let words = match line {
        Ok(line) if !line.is_empty() => {
            let line = line.strip_suffix(b"\0").unwrap_or(&line);
            let args: Vec<&OsStr> = line.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
            redact::args(&args, config::Args::Full).list.join(" ")
        }
        // A zombie has none, and a process may have wiped its own.
        Ok(_) => "(no command line)".to_owned(),
        Err(errno) => {
            missing.push(format!("the command line of process {pid}: {}", errno_text(errno)));
            "(not readable)".to_owned()
        }
    };
    format!("{pid} {} {} {words}", stat.ppid, char::from(stat.state))
}

/// The root directory as the payload sees it, through one of its processes that can be looked into.
fn root_of(members: &[Member], main: Option<i32>) -> Result<(i32, OwnedFd), String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut why = "it has no process left".to_owned();
    for pid in main.into_iter().chain(members.iter().map(|member| member.pid)) {
        let process = match Process::open(pid) {
            Ok(process) => process,
            Err(errno) => {
                why = format!("process {pid}: {}", errno_text(errno));
                continue;
            }
        };
        match openat(process.as_fd(), c"root", flags, Mode::empty()) {
            Ok(root) => return Ok((pid, root)),
            Err(errno) => why = format!("the root of process {pid}: {}", errno_text(errno)),
        }
    }
    Err(why)
}

/// A directory that was not there before, 0700, with its parents; a payload that is kept twice gets another one.
fn make_new(path: &Path) -> Result<(PathBuf, OwnedFd), Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        Failure::site(
            format!("cannot make {}", path.display()),
            io_text(error),
            "make its parent writable for this account",
        )
    };
    let mut dirs = std::fs::DirBuilder::new();
    dirs.mode(0o700);
    if let Some(parent) = path.parent() {
        dirs.recursive(true).create(parent).map_err(|error| failed(parent, &error))?;
    }
    dirs.recursive(false);
    let name = path.file_name().unwrap_or_default();
    for number in 1..100 {
        let mut name = name.to_owned();
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let path = path.with_file_name(name);
        match dirs.create(&path) {
            Ok(()) => {
                let dir = std::fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                    .open(&path)
                    .map_err(|error| failed(&path, &error))?;
                return Ok((path, dir.into()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Err(Failure::site(
        format!("cannot make {}", path.display()),
        "there are a hundred of that name already",
        "move them away",
    ))
}

fn write_list(path: &Path, list: &[String]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    let mut text = String::new();
    for line in list {
        text.push_str(&crate::failure::Printable(line).to_string());
        text.push('\n');
    }
    file.write_all(text.as_bytes())
}

/// What of a list goes into the record.
fn listed(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(LISTED);
    list.truncate(LISTED);
    for entry in &mut list {
        if entry.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|end| entry.is_char_boundary(*end)).unwrap_or(0);
            entry.truncate(end);
            entry.push('…');
        }
    }
    if more > 0 {
        list.push(format!("and {more} more, in the file of this name"));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_a_message_whatever_it_holds() {
        let long = listed(vec!["é".repeat(5000); 10_000]);
        assert_eq!(long.len(), LISTED + 1);
        assert!(long.iter().map(String::len).sum::<usize>() < 24 << 10);
        assert_eq!(long.last().unwrap(), "and 9900 more, in the file of this name");
        assert_eq!(listed(vec!["x".into()]), ["x"]);
    }

    #[test]
    fn each_time_another_directory() {
        let base = std::env::temp_dir().join(format!("bailey-preserve-{}", std::process::id()));
        let path = base.join("a/ID");
        let (first, _dir) = make_new(&path).unwrap();
        let (second, _dir) = make_new(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", base.join("a/ID.3")).unwrap();
        let (fourth, _dir) = make_new(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&first).unwrap().permissions());
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!((first, second), (path, base.join("a/ID.2")));
        assert_eq!(fourth, base.join("a/ID.4"), "a link that lies there is not followed");
        assert_eq!(mode & 0o7777, 0o700);
    }
}
