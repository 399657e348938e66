//! The drain flag: a file beside the recorder's socket whose presence refuses new launches on this node. The recorder sets it
//! for `bailey drain`, an administrator may by hand (`echo reason >/run/bailey/drain`), and launchers without a recorder heed
//! it as well.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Code, Failure, Fault, io_text};
use crate::input;

/// Bytes of the reason that are read.
const LONGEST: u64 = 1024;
/// The reason when the file gives none.
const NO_REASON: &str = "it is being drained";

/// Where the flag is, for a recorder that listens there.
pub fn flag(socket: &Path) -> PathBuf {
    socket.parent().map_or_else(|| PathBuf::from("drain"), |dir| dir.join("drain"))
}

/// Why the node takes no new payloads, if it does not.
///
/// # Errors
/// A flag that cannot be looked at: whether it is set is not known then.
pub fn look(flag: &Path) -> Result<Option<String>, Failure> {
    let there = match std::fs::symlink_metadata(flag) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other,
    };
    let mut bytes = Vec::new();
    // Opened without waiting, because anything may lie there.
    let read = there.and_then(|_| input::open(flag)).and_then(|file| {
        if file.metadata()?.is_file() { file.take(LONGEST).read_to_end(&mut bytes) } else { Ok(0) }
    });
    match read {
        Ok(_) => {
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            Ok(Some(if text.is_empty() { NO_REASON.to_owned() } else { text }))
        }
        // It was taken away this moment.
        Err(error) if error.kind() == ErrorKind::NotFound && std::fs::symlink_metadata(flag).is_err() => {
            Ok(None)
        }
        Err(error) => Err(Failure::site(
            format!("cannot read the node's drain flag {}", flag.display()),
            io_text(&error),
            "make it readable for everybody, or remove it",
        )),
    }
}

/// The same for the recorder: a flag that cannot be looked at counts as set, until an administrator puts that right.
pub fn reason(flag: &Path) -> Option<String> {
    look(flag).unwrap_or_else(|failure| Some(failure.to_string()))
}

/// Sets the flag, or takes it away.
pub fn set(flag: &Path, reason: Option<&str>) -> Result<(), Failure> {
    let done = match reason {
        Some(reason) => write(flag, reason),
        None => match std::fs::remove_file(flag) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        },
    };
    done.map_err(|error| {
        Failure::site(
            format!("cannot change the drain flag {}", flag.display()),
            io_text(&error),
            "make its directory writable for the recorder's account",
        )
    })
}

/// Beside it and renamed, so that nobody reads half of it.
fn write(flag: &Path, reason: &str) -> std::io::Result<()> {
    let new = flag.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&new)?;
    file.write_all(format!("{reason}\n").as_bytes())?;
    std::fs::rename(&new, flag)
}

/// What a launch hears of it.
pub fn refusal(reason: String) -> Failure {
    Failure::new(
        Code::Refused,
        Fault::Site,
        "this node takes no new payloads",
        reason,
        "run it on another node",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_set_read_and_taken_away() {
        let dir = std::env::temp_dir().join(format!("bailey-drain-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let flag = flag(&dir.join("recorder.sock"));
        assert_eq!(reason(&flag), None);
        assert_eq!(reason(&dir.join("nowhere/drain")), None);
        set(&flag, Some("disks are replaced")).unwrap();
        assert_eq!(reason(&flag).as_deref(), Some("disks are replaced"));
        std::fs::write(&flag, [b'x'; 5000]).unwrap();
        assert_eq!(reason(&flag).map(|text| text.len()), Some(1024));
        std::fs::write(&flag, " \n").unwrap();
        assert_eq!(reason(&flag).as_deref(), Some(NO_REASON));
        set(&flag, None).unwrap();
        set(&flag, None).unwrap();
        assert_eq!(reason(&flag), None);
        // Nothing that lies there may hold anybody up.
        nix::unistd::mkfifo(&flag, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(reason(&flag).as_deref(), Some(NO_REASON));
        set(&flag, None).unwrap();
        std::os::unix::fs::symlink("drain", &flag).unwrap();
        assert!(reason(&flag).unwrap().contains("cannot read"));
        assert_eq!(look(&flag).unwrap_err().code.exit_code(), 125);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
