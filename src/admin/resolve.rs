//! A VO's resolver: the site's own program that tells whose a job is (`[[vo]]` `resolver`).
//!
//! 1. It is run by its argument list and never by a shell; a job's id is one argument or part of one, whatever is in it, and one
//!    that could be read as an option is refused.
//! 2. It gets nothing of the asker's: no environment, no input, no terminal. It has [`LONGEST`] and may say [`MOST`] bytes; then it
//!    and all of its process group are killed.
//! 3. What it says is data from outside: a name is one line without control characters, or nothing is believed.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::failure::{Failure, errno_text, io_text};

/// How long it may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Bytes that it may say.
const MOST: usize = 64 * 1024;
/// The longest job id that is asked for, and the longest name that is believed.
const LONGEST_TEXT: usize = 1024;
/// How often it is looked at.
const LOOK: u16 = 50;

/// What it answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Named {
    /// The user.
    pub(super) user: String,
    /// Who vouches for the name.
    #[serde(default)]
    pub(super) issuer: Option<String>,
    /// Groups.
    #[serde(default)]
    pub(super) groups: Vec<String>,
}

/// Asks `resolver` whose `job` is.
pub(super) fn ask(resolver: &[String], job: &str) -> Result<Named, Failure> {
    let odd = job.is_empty() || job.len() > LONGEST_TEXT || job.chars().any(char::is_control);
    if odd || job.starts_with('-') {
        return Err(Failure::usage(
            "cannot ask the VO's resolver for this job",
            "its id is not one: it is empty, too long, begins with '-' or holds control characters",
            "ask the VO's security contact, with the launch id",
        ));
    }
    let words: Vec<String> = resolver.iter().map(|word| word.replace("{job}", job)).collect();
    let Some((program, rest)) = words.split_first() else {
        return Err(wrong("", "it is empty".to_owned()));
    };
    let mut child = Command::new(program)
        .args(rest)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| wrong(program, io_text(&error)))?;
    let heard = hear(&mut child);
    // What it left behind in its group goes with it, whether it ended or not.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait(); // reaped already, or killed this moment
    let (said, status) = heard.map_err(|why| wrong(program, why))?;
    if !status.success() {
        return Err(wrong(program, format!("it ended with {status}")));
    }
    read(&said).map_err(|why| wrong(program, why))
}

fn wrong(program: &str, why: String) -> Failure {
    Failure::site(
        format!("cannot learn the job's user from the VO's resolver {program}"),
        why,
        "run it by hand, and see [[vo]] resolver in bailey.toml(5)",
    )
}

/// Everything that it says, and how it ended.
fn hear(child: &mut Child) -> Result<(Vec<u8>, ExitStatus), String> {
    let until = Instant::now() + LONGEST;
    let mut stdout = child.stdout.take().ok_or("it has no output")?;
    fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(errno_text)?;
    let mut said = Vec::new();
    let mut open = true;
    loop {
        // Looked at before its output is read, so that nothing which it said before its end is missed.
        let ended = child.try_wait().map_err(|error| io_text(&error))?;
        open = open && drain(&mut stdout, &mut said)?;
        if let Some(status) = ended {
            return Ok((said, status));
        }
        if Instant::now() >= until {
            return Err(format!("it did not end within {} s", LONGEST.as_secs()));
        }
        if open {
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(LOOK)); // interrupted or not, it is looked at again
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Takes what is there; false when nothing can come any more.
fn drain(stdout: &mut ChildStdout, said: &mut Vec<u8>) -> Result<bool, String> {
    let mut buffer = [0; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => said.extend(buffer.iter().take(count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(io_text(&error)),
        }
        if said.len() > MOST {
            return Err(format!("it says more than {MOST} bytes"));
        }
    }
}

/// JSON with `user`, or one line with the user.
fn read(said: &[u8]) -> Result<Named, String> {
    let text = std::str::from_utf8(said).map_err(|_| "what it says is no UTF-8".to_owned())?.trim();
    let named = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("its JSON cannot be read: {error}"))?
    } else {
        Named { user: text.to_owned(), issuer: None, groups: Vec::new() }
    };
    let texts = named.groups.iter().chain(&named.issuer).chain([&named.user]);
    for text in texts {
        if text.trim().is_empty() || text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
            return Err("it gives no name, or one that is too long or holds line breaks".to_owned());
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json_or_one_line() {
        assert_eq!(read(b"/DC=org/CN=Ada\n").unwrap().user, "/DC=org/CN=Ada");
        let named =
            read(br#"{"user":"ada","issuer":"https://iam.example.org/","groups":["/x"],"new":1}"#).unwrap();
        assert_eq!((named.user.as_str(), named.groups.len()), ("ada", 1));
        for said in [
            &b""[..],
            b"\n",
            b"a\nb",
            b"{}",
            b"{\"user\":\"\"}",
            b"{\"user\":1}",
            b"\xff",
            b"{\"user\":\"a\\nb\"}",
        ] {
            assert!(read(said).is_err(), "{said:?}");
        }
        assert!(read(&[b'x'; LONGEST_TEXT + 1]).is_err());
    }

    #[test]
    fn a_job_is_an_argument_whatever_is_in_it() {
        let echo = |word: &str| vec!["/bin/echo".to_owned(), word.to_owned()];
        for job in ["a; id", "$(id) `id`", "../..", "a b", "é"] {
            assert_eq!(ask(&echo("job={job}"), job).unwrap().user, format!("job={job}"));
        }
        for job in ["", "-n", "--help", "a\nb"] {
            assert!(ask(&echo("{job}"), job).unwrap_err().why.contains("not one"), "{job:?}");
        }
        let failure = ask(&["/nonexistent/resolver".to_owned()], "1").unwrap_err();
        assert!(failure.why.contains("ENOENT"), "{failure}");
        assert!(ask(&[], "1").is_err());
    }
}
