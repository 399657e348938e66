//! How many payloads of one person, VO or uid there may be at one time, where no recorder counts them.
//!
//! 1. A place is a lock on a file, held by the launcher for as long as its payload lives. The kernel gives it back when the
//!    launcher is gone, however it went.
//! 2. The files are the account's own, so only its own launchers are counted. The recorder counts all of the node.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::facts::Facts;
use super::rule::Parallel;
use super::verdict::{By, Denial};
use crate::audit::chain::hex;
use crate::failure::{Failure, Fault, io_text};

/// The places that one launch holds; dropping it gives them back.
#[derive(Debug, Default)]
pub struct Slots(Vec<File>);

impl Slots {
    /// How many places are held.
    pub fn held(&self) -> usize {
        self.0.len()
    }
}

/// Takes one place of each kind that is limited.
///
/// # Errors
/// All places are taken (exit code 121); the files cannot be made (122).
pub fn take(dir: &Path, limits: Parallel, facts: &Facts, person: Option<&str>) -> Result<Slots, Failure> {
    let who = &facts.who;
    let named = person.map(|person| format!("person {person}")).or_else(|| who.name().map(|name| name.key()));
    let kinds = [
        (limits.person, named, person.or(who.user.as_deref()).unwrap_or_default().to_owned()),
        (
            limits.vo,
            who.vo.as_ref().map(|vo| format!("vo {}", vo.to_ascii_lowercase())),
            format!("the VO {}", who.vo.as_deref().unwrap_or_default()),
        ),
        (limits.uid, Some("uid".to_owned()), format!("uid {}", who.uid)),
    ];
    let mut slots = Slots::default();
    for (most, key, whose) in kinds {
        let (Some(most), Some(key)) = (most, key) else { continue };
        match one_of(dir, &key, most)? {
            Some(file) => slots.0.push(file),
            None => return Err(full(&whose, most).into_failure()),
        }
    }
    Ok(slots)
}

/// The denial when all places are taken.
pub fn full(whose: &str, most: u64) -> Denial {
    Denial {
        by: By::Parallel,
        why: format!("{whose} has {most} payloads on this node already, which is the site's limit"),
        next: "try again when one of them has ended, or on another node".to_owned(),
        fault: Fault::Site,
    }
}

/// The first place that is free.
fn one_of(dir: &Path, key: &str, most: u64) -> Result<Option<File>, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::record(
            format!("cannot count payloads in {}", dir.display()),
            io_text(error),
            "give this account write access to its log's directory",
        )
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| failed(&error))?;
    let name = hex(&Sha256::digest(key.as_bytes()).into());
    for number in 0..most {
        let path = dir.join(format!("{}.{number}", name.get(..32).unwrap_or_default()));
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use crate::input::tests::Scratch;

    #[test]
    fn places_are_given_back() {
        let scratch = Scratch::new();
        let dir = scratch.0.join("slots");
        let mut facts = Facts::default();
        facts.who.user = Some("/DC=org/CN=A".to_owned());
        let limits = Parallel { person: Some(2), vo: Some(1), uid: None };
        let first = take(&dir, limits, &facts, None).unwrap();
        assert_eq!(first.held(), 1, "no VO was named, and uids are not limited");
        let second = take(&dir, limits, &facts, None).unwrap();
        let failure = take(&dir, limits, &facts, None).unwrap_err();
        assert_eq!(failure.code, Code::ParallelLimit);
        assert!(failure.why.contains("/DC=org/CN=A has 2 payloads"), "{failure}");
        facts.who.user = Some("/DC=org/CN=B".to_owned());
        assert!(take(&dir, limits, &facts, None).is_ok(), "another person");
        facts.who.user = Some("/DC=org/CN=A".to_owned());
        drop(second);
        assert!(take(&dir, limits, &facts, None).is_ok());
        drop(first);
    }

    #[test]
    fn a_limit_of_none_at_all_lets_nobody_in() {
        let scratch = Scratch::new();
        let limits = Parallel { uid: Some(0), ..Parallel::default() };
        assert_eq!(take(&scratch.0, limits, &Facts::default(), None).unwrap_err().code, Code::ParallelLimit);
    }
}
