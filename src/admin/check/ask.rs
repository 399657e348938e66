//! The launcher is asked: it is the program that a host's security policy lets make sandboxes.
#![forbid(unsafe_code)]

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::{Failure, io_text};
use crate::probe::{self, Findings};

/// Longer than the wait for a log (5 s) and the time in which a sandbox comes to be; shorter than any health check's own limit
/// (Slurm: 60 s).
const PATIENCE: Duration = Duration::from_secs(20);
/// More than any findings have.
const LONGEST: u64 = 1 << 20;

/// Its findings.
pub(super) fn launcher(quick: bool) -> Result<Findings, Failure> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("bailey")));
    let places: Vec<PathBuf> = beside.into_iter().chain([PathBuf::from("/usr/bin/bailey")]).collect();
    let Some(program) = places.iter().find(|place| place.is_file()) else {
        return Err(Failure::site(
            "cannot ask the launcher",
            "bailey is neither beside bailey-admin nor in /usr/bin",
            "install the package bailey",
        ));
    };
    let trouble = |why: String, next: &str| {
        Failure::site(format!("cannot learn anything from {}", program.display()), why, next)
    };
    let mut command = Command::new(program);
    command.args(probe::arguments(quick)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        Running(command.spawn().map_err(|error| trouble(io_text(&error), "reinstall the package bailey"))?);
    let text = child.output(Instant::now() + PATIENCE).map_err(|error| match error {
        Errno::ETIMEDOUT => trouble(
            format!("it was not done within {} s", PATIENCE.as_secs()),
            "look for a file system that hangs (autofs, FUSE, NFS)",
        ),
        errno => trouble(crate::failure::errno_text(errno), "try again"),
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        trouble(
            format!("its answer cannot be read: {error}"),
            "install bailey and bailey-admin of one version",
        )
    })
}

/// Killed when its time is over. One that cannot even die (a file system that hangs in the kernel) is not waited for.
struct Running(Child);

impl Running {
    fn output(&mut self, until: Instant) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let Some(mut pipe) = self.0.stdout.take() else { return Err(Errno::EBADF) };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
            let mut buffer = [0; 4096];
            match pipe.read(&mut buffer) {
                Ok(0) => return Ok(text),
                Ok(count) if text.len() as u64 + count as u64 <= LONGEST => {
                    text.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Ok(_) => return Err(Errno::EFBIG),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has closed its output or is out of time: either way it is over, and its sandbox dies with it.
        let until = Instant::now() + Duration::from_secs(1);
        while self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.0.kill();
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
