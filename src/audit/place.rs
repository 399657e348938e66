//! Where the embedded log is, and other state of an account.
//!
//! 1. Where HTCondor's starter is the parent, the environment is the job's user's: whoever is recorded would choose where. It
//!    names no place then.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
use std::path::{Path, PathBuf};

use super::segment::io_failure;
use crate::config;
use crate::failure::Failure;
use crate::host;

/// The directory of the embedded log: `audit.dir`; else `/var/lib/bailey/embedded/UID` where the site made it; else
/// `${XDG_STATE_HOME:-$HOME/.local/state}/bailey/HOSTID`, with the home directory of passwd(5) where HOME is not set, and below
/// HTCondor's starter in any case. `env` looks a variable up.
pub fn place(
    config: &config::Audit,
    uid: u32,
    env: &dyn Fn(&str) -> Option<OsString>,
    host_id: &str,
) -> Result<PathBuf, Failure> {
    let site = Path::new("/var/lib/bailey/embedded");
    let (env, home) = (|name: &str| believed(env, name), || home_of(uid));
    place_under(site, config, uid, &Account { env: &env, home: &home }, host_id)
}

/// Where `bailey stop --preserve` keeps a payload's private files: below `/var/lib/bailey/preserved/UID` where the site made
/// it, else below the account's own state directory.
pub fn preserved(uid: u32, env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, Failure> {
    let made = Path::new("/var/lib/bailey/preserved").join(uid.to_string());
    if made.is_dir() {
        return Ok(made);
    }
    let (env, home) = (|name: &str| believed(env, name), || home_of(uid));
    let base = Account { env: &env, home: &home }.state();
    base.map(|base| base.join("bailey/preserved")).ok_or_else(|| {
        Failure::site(
            "cannot keep the payload's private files",
            format!("{NOWHERE}, and the account has no home in /etc/passwd"),
            format!("make {}, owned by uid {uid}", made.display()),
        )
    })
}

const NOWHERE: &str = "neither XDG_STATE_HOME nor HOME is an absolute path of the pilot's own";

/// A variable, where the environment is not the job's user's (rule 1).
fn believed(env: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    if host::starter_is_parent() { None } else { env(name) }
}

fn home_of(uid: u32) -> Option<PathBuf> {
    host::listed(&host::passwd(), uid).and_then(|(_, home)| home.map(PathBuf::from))
}

fn is_file_name(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !id.is_empty() && !id.starts_with('.') && id.len() < 256 && id.bytes().all(plain)
}

/// What an account's own directory is found by.
struct Account<'a> {
    env: &'a dyn Fn(&str) -> Option<OsString>,
    home: &'a dyn Fn() -> Option<PathBuf>,
}

impl Account<'_> {
    /// The XDG base directory specification: a relative path is invalid and counts as unset.
    fn state(&self) -> Option<PathBuf> {
        let is_absolute = |path: &PathBuf| path.is_absolute();
        let absolute = |name: &str| (self.env)(name).map(PathBuf::from).filter(is_absolute);
        let home = || absolute("HOME").or_else(|| (self.home)().filter(is_absolute));
        absolute("XDG_STATE_HOME").or_else(|| home().map(|home| home.join(".local/state")))
    }
}

fn place_under(
    site: &Path,
    config: &config::Audit,
    uid: u32,
    account: &Account<'_>,
    host_id: &str,
) -> Result<PathBuf, Failure> {
    if let Some(dir) = &config.dir {
        return Ok(dir.clone());
    }
    let made = site.join(uid.to_string());
    // What cannot be looked at is not "not made": the launch would be recorded elsewhere, where nobody looks.
    match std::fs::metadata(&made) {
        Ok(meta) if meta.is_dir() => return Ok(made),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => {}
        Err(error) => return Err(io_failure("look for the audit log's directory", &made, &error)),
    }
    let plain = is_file_name(host_id);
    match account.state() {
        Some(base) if plain => Ok(base.join("bailey").join(host_id)),
        Some(_) => Err(Failure::record(
            "cannot place the audit log",
            format!("the host id '{host_id}' is no file name"),
            "set audit.dir in /etc/bailey/bailey.toml",
        )),
        None => Err(Failure::record(
            "cannot place the audit log",
            format!("{NOWHERE}, and the account has no home in /etc/passwd"),
            format!("set audit.dir in /etc/bailey/bailey.toml, make {}, or set HOME", made.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn place_with(
        dir: Option<&str>,
        site: &str,
        env: &[(&str, &str)],
        host: &str,
    ) -> Result<PathBuf, Failure> {
        let audit = config::Audit {
            dir: dir.map(PathBuf::from),
            recorder: config::Demand::Off,
            socket: PathBuf::new(),
            wait: Duration::ZERO,
            network_filesystem: false,
            journald: config::Journald::Off,
            args: config::Args::Full,
            user_name: false,
        };
        let look =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let home = || Some(PathBuf::from("/of/passwd")).filter(|_| host != "homeless");
        place_under(Path::new(site), &audit, 7, &Account { env: &look, home: &home }, host)
    }

    #[test]
    fn the_places_in_their_order() {
        let both = [("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        let at = |dir, site, env| place_with(dir, site, env, "id").unwrap();
        assert_eq!(at(Some("/d"), "/nowhere", &both), PathBuf::from("/d"));
        assert_eq!(at(None, "/nowhere", &both), PathBuf::from("/x/bailey/id"));
        assert_eq!(at(None, "/nowhere", &both[1..]), PathBuf::from("/h/.local/state/bailey/id"));
        assert_eq!(
            at(None, "/nowhere", &[("XDG_STATE_HOME", "rel"), ("HOME", "/h")]),
            PathBuf::from("/h/.local/state/bailey/id")
        );
        assert_eq!(at(None, "/nowhere", &[]), PathBuf::from("/of/passwd/.local/state/bailey/id"));
        let site = std::env::temp_dir().join(format!("bailey-place-{}", std::process::id()));
        std::fs::create_dir_all(site.join("7")).unwrap();
        let got = at(None, site.to_str().unwrap(), &both);
        std::fs::remove_dir_all(&site).unwrap();
        assert_eq!(got, site.join("7"));
    }

    #[test]
    fn what_is_preserved_has_a_place_without_home() {
        let kept = preserved(0, &|_| None).unwrap();
        assert!(
            kept.is_absolute() && kept.to_string_lossy().contains("bailey/preserved"),
            "{}",
            kept.display()
        );
        let nobody = u32::MAX - 1;
        let failure = preserved(nobody, &|_| None).unwrap_err();
        assert!(failure.next.contains(&nobody.to_string()), "{failure}");
        let kept = preserved(nobody, &|name| (name == "HOME").then(|| "/h".into())).unwrap();
        assert_eq!(kept, PathBuf::from("/h/.local/state/bailey/preserved"));
    }

    #[test]
    fn no_place_is_an_error_with_a_next_step() {
        let failure = place_with(None, "/nowhere", &[], "homeless").unwrap_err();
        assert_eq!(failure.code.exit_code(), 122);
        assert!(failure.next.contains("audit.dir"), "{failure}");
        for host in ["", "../x", "a/b", "."] {
            assert!(place_with(None, "/nowhere", &[("HOME", "/h")], host).is_err(), "{host}");
        }
    }
}
