//! DIRAC's own description of the work: its container element writes `Wrapper_N.json` into the directory that is the payload's
//! `/tmp`, for the job wrapper inside. It alone has the owner; the environment names nobody.
//!
//! 1. Only the file of the job that `--workdir` is named after is looked at, before any payload could write to it.
//! 2. DIRAC writes it and nobody else reads it: one that is missing or of another form says nothing, with a remark.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::{Other, Source, syntax};
use crate::input::{self, Trouble};

/// The largest that is read. It has the job's parameters, lists of input files among them.
const LIMIT: u64 = 4 << 20;

/// The file, as far as it concerns us.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wrapper {
    #[serde(default)]
    job: Job,
    #[serde(default, rename = "CE")]
    element: Element,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Job {
    owner: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Element {
    pilot_reference: Option<String>,
}

/// What it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The owner's name in the VO's own DIRAC.
    pub(super) owner: Option<Other>,
    /// The pilot's id at the compute element.
    pub(super) reference: Option<String>,
    /// What was there and could not be taken.
    pub(super) remarks: Vec<String>,
}

/// Reads it. `workdir`: of `--workdir`; `job`: what that is named after.
pub(super) fn read(workdir: &Path, job: &str) -> Told {
    let path = workdir.join("tmp").join(format!("Wrapper_{job}.json"));
    let read = input::open(&path).map_err(Trouble::from).and_then(|file| input::read_small(&file, LIMIT));
    match read {
        Ok((_, bytes)) => understand(&bytes),
        Err(Trouble::System(error)) if error.kind() == ErrorKind::NotFound => Told::default(),
        Err(trouble) => not_understood(&trouble.to_string()),
    }
}

fn not_understood(why: &str) -> Told {
    Told { remarks: vec![format!("DIRAC's Wrapper_*.json cannot be used: {why}")], ..Told::default() }
}

fn understand(bytes: &[u8]) -> Told {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        // serde would take an array's elements for the fields in their order.
        return not_understood("it is no object");
    }
    // serde's own words may repeat what stands there; the place is enough.
    let wrapper: Wrapper = match serde_json::from_slice(bytes) {
        Ok(wrapper) => wrapper,
        Err(error) => return not_understood(&format!("line {}, column {}", error.line(), error.column())),
    };
    let mut told = Told::default();
    let mut plain = |name: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty() && value != "Unknown")?;
        if syntax::is_plain(&value) {
            return Some(value);
        }
        told.remarks.push(format!("{name} of DIRAC's Wrapper_*.json is no id, and left out"));
        None
    };
    let owner = plain("Owner", wrapper.job.owner);
    let reference = plain("PilotReference", wrapper.element.pilot_reference);
    told.owner = owner.map(|user| Other { source: Source::Dirac, user, ..Other::default() });
    told.reference = reference;
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_reference() {
        let told = understand(
            br#"{"Job": {"JobID": 4711, "Owner": "jdoe", "OwnerGroup": "bed_user", "InputData": ["LFN:/x"]},
                 "CE": {"PilotReference": "https://ce.example/jobs/17", "Tag": []}, "Optimizer": {}}"#,
        );
        assert_eq!(
            told.owner.map(|owner| (owner.user, owner.source)),
            Some(("jdoe".to_owned(), Source::Dirac))
        );
        assert_eq!(told.reference.as_deref(), Some("https://ce.example/jobs/17"));
        assert_eq!(told.remarks, [] as [&str; 0]);
        assert_eq!(understand(br#"{"Job": {}, "CE": {"PilotReference": "Unknown"}}"#), Told::default());
        assert_eq!(understand(b"{}"), Told::default());
    }

    #[test]
    fn what_is_no_id_is_left_out() {
        let told = understand(br#"{"Job": {"Owner": "a\nb"}, "CE": {"PilotReference": "ok"}}"#);
        assert_eq!((told.owner, told.reference.as_deref()), (None, Some("ok")));
        assert_eq!(told.remarks.len(), 1);
        for bytes in [&b"{"[..], b"[]", br#"{"Job": {"Owner": 7}}"#, b"\xff"] {
            let told = understand(bytes);
            assert_eq!((told.owner, told.reference, told.remarks.len()), (None, None, 1));
        }
    }
}
