//! What a launcher reads: the command line, /proc, images, and the messages of its own children.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use super::is_one_line;
use crate::frontend::bailey::{Parsed, parse};
use crate::image::facts::EndOfLife;
use crate::image::{labels, os_release, sif};
use crate::request::{self, LaunchId, Stdio};
use crate::sandbox::protocol::{Message, SIZE};
use crate::{proc, sandbox};

/// A message of init or the payload: of another size it is none, and what is understood is written as it was read.
pub(super) fn child(bytes: &[u8]) -> bool {
    let Some(message) = Message::decode(bytes) else { return false };
    assert_eq!(bytes.len(), SIZE);
    assert_eq!(Message::decode(&message.encode()), Some(message));
    true
}

/// A command line, an argument a line. Whatever is wrong with it is said in one line.
pub(super) fn command(bytes: &[u8]) -> bool {
    let arguments: Vec<OsString> =
        bytes.split(|byte| *byte == b'\n').map(|text| OsStr::from_bytes(text).to_owned()).collect();
    match parse(&arguments, None) {
        Ok(Parsed::Request(request)) => {
            for bind in &request.binds {
                assert!(bind.source.is_absolute() && bind.target.is_absolute());
            }
            assert!(request.env.iter().all(|(name, _)| !name.as_str().contains(['=', '\0'])));
            true
        }
        Ok(Parsed::Help(text)) => !text.is_empty(),
        Err(failure) => {
            is_one_line(&failure.to_string());
            false
        }
    }
}

/// What an image says of itself: os-release and the files before it, labels, the header of a SIF file.
pub(super) fn image(bytes: &[u8]) -> bool {
    let (os, _) = os_release::parse(bytes);
    let mut understood = os.is_some();
    for os in [os, os_release::redhat(bytes), os_release::debian(bytes)].into_iter().flatten() {
        let text = os.to_string();
        assert!(!os.id.is_empty() && text.len() < 256 && !text.contains(char::is_control), "{text:?}");
        let names = [os.name.as_deref(), os.pretty_name.as_deref()];
        assert!(
            names.into_iter().flatten().all(|name| name.len() <= 256 && !name.contains(char::is_control))
        );
        let _ = EndOfLife::builtin().of(&os);
    }
    match labels::parse(bytes) {
        Ok(_) => understood = true,
        Err(why) => assert!(!why.contains(char::is_control)),
    }
    if let Some(header) = bytes.first_chunk::<{ sif::HEADER }>() {
        understood |= sif::header(header, bytes.len() as u64).is_ok();
    }
    understood
}

/// What /proc shows of a process that chooses its own name, maps and control group.
pub(super) fn proc(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let _ = proc::cgroup(&text);
    let folded = proc::fold_map(&text);
    assert!(!folded.contains('\n'));
    let _ = proc::outside(&folded, 1000);
    let status = proc::Status::parse(bytes);
    let _ = proc::not_locked_in(&status.capabilities, status.no_new_privs);
    proc::Stat::parse(bytes).is_some()
}

/// Words of command lines and configurations: sizes, spans, counts, ids, names of variables.
pub(super) fn values(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let size = request::parse_size(text);
    if let Ok(size) = size {
        assert!(size > 0);
        assert_eq!(request::parse_size(&size.to_string()), Ok(size));
    }
    let span = request::parse_duration(text);
    if let Ok(span) = span {
        assert_eq!(request::parse_duration(&format!("{}s", span.as_secs())), Ok(span));
    }
    let (cores, count) = (request::parse_cpus(text), request::parse_pids(text));
    assert!(!matches!(cores, Ok(0)) && !matches!(count, Ok(0)));
    let milli = request::parse_milli(text);
    if let Some(milli) = milli {
        assert_eq!(request::parse_milli(&format!("{}.{:03}", milli / 1000, milli % 1000)), Some(milli));
    }
    let id = LaunchId::parse(text);
    assert!(id.is_none_or(|id| id.as_str() == text && id.unix_millis() < 1 << 48));
    let name = request::EnvName::new(text);
    if let Ok(name) = &name {
        let _ = sandbox::environment::is_withheld(name.as_str());
    }
    size.is_ok() || span.is_ok() || milli.is_some() || id.is_some() || Stdio::parse(text).is_ok()
}
