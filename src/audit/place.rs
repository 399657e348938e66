//! Where the embedded log is.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::config;
use crate::failure::Failure;

/// The directory of the embedded log: `audit.dir`; else `/var/lib/bailey/embedded/UID` where the site made it; else
/// `${XDG_STATE_HOME:-$HOME/.local/state}/bailey/HOSTID`. `env` looks a variable up.
pub fn place(
    config: &config::Audit,
    uid: u32,
    env: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    host_id: &str,
) -> Result<PathBuf, Failure> {
    place_under(Path::new("/var/lib/bailey/embedded"), config, uid, env, host_id)
}

fn place_under(
    site: &Path,
    config: &config::Audit,
    uid: u32,
    env: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    host_id: &str,
) -> Result<PathBuf, Failure> {
    if let Some(dir) = &config.dir {
        return Ok(dir.clone());
    }
    let made = site.join(uid.to_string());
    if made.is_dir() {
        return Ok(made);
    }
    // The XDG base directory specification: a relative path is invalid and counts as unset.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let plain = !host_id.is_empty()
        && host_id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match base {
        Some(base) if plain => Ok(base.join("bailey").join(host_id)),
        Some(_) => Err(Failure::record(
            "cannot place the audit log",
            format!("the host id '{host_id}' is no file name"),
            "set audit.dir in /etc/bailey/bailey.toml",
        )),
        None => Err(Failure::record(
            "cannot place the audit log",
            "neither XDG_STATE_HOME nor HOME is an absolute path",
            format!(
                "set HOME, set audit.dir in /etc/bailey/bailey.toml, or make {}",
                made.display()
            ),
        )),
    }
}
