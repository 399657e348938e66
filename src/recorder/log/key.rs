//! The signing key's files: `key` (0600) and `key.pub` (0644) in the recorder's state directory.
//!
//! 1. A key is made only where the log has no signature yet. Otherwise a missing, unreadable or other key is a failure that
//!    says to put the right one back, and nothing is written.
//! 2. A file appears under its name when it is whole and on the disk.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::Path;

use crate::audit::sign::Key;
use crate::failure::{Failure, io_text};

const PRIVATE: &str = "key";
const PUBLIC: &str = "key.pub";

/// Reads the key, or makes it. `signed_by` is the id of the key that signed last in this log.
pub(super) fn load(state: &Path, signed_by: Option<&str>) -> Result<Key, Failure> {
    let path = state.join(PRIVATE);
    let key = match read(&path)? {
        Some(key) => key,
        None if signed_by.is_some() => {
            return Err(Failure::record(
                format!("cannot find the signing key {}", path.display()),
                "it is missing, and the log has signatures of it",
                "put back the key from the backup; or move the log away, and a new one begins with a new key",
            ));
        }
        None => {
            let key = Key::make()?;
            make_directory(state)?;
            put(state, PRIVATE, &key.to_pem()?, 0o600)?;
            key
        }
    };
    let id = key.public().id();
    if let Some(other) = signed_by.filter(|other| *other != id) {
        return Err(Failure::record(
            format!("cannot use the signing key {}", path.display()),
            format!("it is key {id}, and the log is signed by key {other}"),
            "put back the key that was there; or move the log away, and a new one begins with this key",
        ));
    }
    let public = key.public().to_pem()?;
    if std::fs::read(state.join(PUBLIC)).ok().as_deref() != Some(public.as_bytes()) {
        put(state, PUBLIC, &public, 0o644)?;
    }
    Ok(key)
}

fn wrong(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    let next = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::NotADirectory => format!(
            "make it accessible for uid {} alone (put back the key if it was replaced), or set recorder.state",
            nix::unistd::Uid::effective()
        ),
        _ => "look at that file system, or set recorder.state in /etc/bailey/bailey.toml".to_owned(),
    };
    Failure::record(format!("cannot {verb} {}", path.display()), io_text(error), next)
}

/// The key; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Key>, Failure> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong("read the signing key", path, &error)),
    };
    let meta = file.metadata().map_err(|error| wrong("look at the signing key", path, &error))?;
    let me = nix::unistd::Uid::effective().as_raw();
    if !meta.is_file() || meta.uid() != me || meta.mode() & 0o077 != 0 {
        return Err(Failure::record(
            format!("cannot use the signing key {}", path.display()),
            format!(
                "it must be a plain file that uid {me} alone may read (uid {}, mode {:o})",
                meta.uid(),
                meta.mode()
            ),
            format!("chown {me} and chmod 600 it, after you know that nobody read it"),
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| wrong("read the signing key", path, &error))?;
    Key::from_pem(&text, path).map(Some)
}

fn make_directory(state: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(state)
        .map_err(|error| wrong("make the state directory", state, &error))
}

/// Writes a file whole or not at all.
fn put(state: &Path, name: &str, text: &str, mode: u32) -> Result<(), Failure> {
    let (path, temporary) = (state.join(name), state.join(format!("{name}.new")));
    let fail = |error: &std::io::Error| wrong("write", &path, error);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(&error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.set_permissions(PermissionsExt::from_mode(mode))?; // whatever the umask
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| File::open(state)?.sync_all())
        .map_err(|error| fail(&error))
}
