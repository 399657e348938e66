//! Who the payload is on paper when its image has accounts of its own.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::host::{self, Caller, is_account_name};
use crate::image;
use crate::request::container::Container;
use crate::sandbox::layout::Account;
use crate::sandbox::tree::HostObject;
use crate::sys::fs;
use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// The image's own accounts and groups with the payload's: programs look up others than themselves, too. What of the image's
/// cannot be read is among the `unheeded`.
pub(in crate::plan) fn passwd_and_group(
    image: &HostObject,
    account: &Account<'_>,
    unheeded: &mut Vec<String>,
) -> (Vec<u8>, Vec<u8>) {
    let mut others = |path: &CStr, number: u32, own: Vec<u8>| {
        let mut text = Vec::new();
        let lines = image::text_file(image, path).unwrap_or_else(|why| {
            unheeded.push(format!("the image's /{}: {why}", path.to_string_lossy()));
            Vec::new()
        });
        for line in lines.split(|byte| *byte == b'\n') {
            let id = line.split(|byte| *byte == b':').nth(2);
            if !line.is_empty() && id != Some(number.to_string().as_bytes()) {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        }
        text.extend_from_slice(&own);
        text
    };
    (
        others(c"etc/passwd", account.uid, account.passwd_line()),
        others(c"etc/group", account.gid, account.group_line()),
    )
}

/// Name and home directory of the caller's account: passwd(5), because batch systems set USER and HOME to something else or not at
/// all. No name service is asked; an account that is not in the file goes by USER and HOME, one that has neither gets a name and a
/// place of its own.
pub(super) fn of(caller: &Caller) -> (String, PathBuf) {
    let text = host::passwd();
    let listed = if caller.lent.is_some() { None } else { host::listed(&text, caller.uid) };
    let usable = |path: &Path| {
        path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
            && !path.as_os_str().as_bytes().contains(&b'\n')
    };
    let name = listed.map(|(name, _)| name).filter(|name| is_account_name(name));
    let name = name.map_or_else(|| caller.account(), ToOwned::to_owned);
    let home = listed
        .and_then(|(_, home)| home)
        .map(PathBuf::from)
        .into_iter()
        .chain(caller.var("HOME").map(PathBuf::from))
        .find(|path| usable(path))
        .map_or_else(|| PathBuf::from(format!("/home/{name}")), |path| path.components().collect());
    (name, home)
}

/// The payload's umask: the caller's, as far as the site's is not stricter.
pub(in crate::plan) fn umask(container: &Container, config: &Config) -> u32 {
    let callers = if container.no_umask {
        0o022
    } else {
        // Asking for it means to set it; nothing else runs in this process yet.
        let now = fs::set_umask(0o077);
        fs::set_umask(now);
        now
    };
    callers | config.sandbox.umask
}
