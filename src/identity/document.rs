//! The identity document: a small JSON object that a pilot writes for one payload (`docs/identity.md`).
#![forbid(unsafe_code)]

use std::path::Path;

use serde::Deserialize;

use super::syntax;
use crate::failure::Failure;
use crate::input::{self, Trouble};
use crate::policy::name::looks_like_a_credential;

/// The largest document that is read.
const LIMIT: u64 = 64 << 10;

/// What a document says. serde refuses unknown and repeated names; `null` says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object such as {\"user\": \"…\", \"vo\": \"…\"}")]
pub(super) struct Document {
    pub(super) user: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) vo: Option<String>,
    pub(super) groups: Option<Vec<String>>,
    pub(super) name: Option<String>,
    pub(super) pilot: Option<String>,
    pub(super) job: Option<String>,
    pub(super) task: Option<String>,
}

/// Reads and checks the document at `path`. Every fault is the caller's: exit code 125.
pub(super) fn read(path: &Path) -> Result<Document, Failure> {
    accept(path, &bytes(path)?)
}

/// The bytes of the document at `path`, unchecked.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = input::open(path)
        .map_err(Trouble::from)
        .and_then(|file| input::read_small(&file, LIMIT))
        .map_err(|trouble| {
            Failure::usage(
                format!("cannot read the identity document {}", path.display()),
                trouble.to_string(),
                "name a JSON file of at most 64 KiB that this account may read, with --identity or BAILEY_IDENTITY",
            )
        })?;
    Ok(read.1)
}

/// Checks a document that was read from `path` before.
pub(super) fn accept(path: &Path, bytes: &[u8]) -> Result<Document, Failure> {
    let document = parse(path, bytes)?;
    document.check(path)?;
    Ok(document)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Document, Failure> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        // serde would take an array's elements for the fields in their order.
        return Err(invalid(path, "found an array, expected an object"));
    }
    // From bytes, so that a byte that is not UTF-8 has a line and a column too.
    serde_json::from_slice(bytes).map_err(|error| {
        let why = error.to_string();
        if looks_like_a_credential(&why) {
            // serde repeats what it did not expect, and somebody may have put a token where an object belongs.
            let (line, column) = (error.line(), error.column());
            return invalid(
                path,
                &format!("found what looks like a credential at line {line} column {column}"),
            );
        }
        invalid(path, &why)
    })
}

fn invalid(path: &Path, why: &str) -> Failure {
    Failure::usage(
        format!("cannot use the identity document {}", path.display()),
        why,
        "correct it: one JSON object with user, issuer, vo, groups, name, pilot, job, task, each at most once",
    )
}

impl Document {
    fn check(&self, path: &Path) -> Result<(), Failure> {
        let said = syntax::Said {
            user: self.user.as_deref(),
            issuer: self.issuer.as_deref(),
            vo: self.vo.as_deref(),
            groups: self.groups.as_deref().unwrap_or_default(),
            name: self.name.as_deref(),
            pilot: self.pilot.as_deref(),
            job: self.job.as_deref(),
            task: self.task.as_deref(),
        };
        said.check().map_err(|fault| {
            let place = match fault.field {
                "group" => "groups",
                field => field,
            };
            Failure::usage(
                format!("cannot use '{place}' of the identity document {}", path.display()),
                fault.why,
                fault.next,
            )
        })
    }
}

/// For [`crate::fuzzing`]: what passes is what records and terminals can hold; what does not is told in one line.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let path = Path::new("/x/id.json");
    match parse(path, bytes).and_then(|document| document.check(path).map(|()| document)) {
        Ok(Document { user, issuer, vo, groups, name, pilot, job, task }) => {
            let one = [user, issuer, vo, name, pilot, job, task].into_iter().flatten();
            for text in one.chain(groups.into_iter().flatten()) {
                assert!(!text.is_empty() && text.len() <= 1024 && text.trim() == text, "{text:?}");
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!looks_like_a_credential(&text), "{text:?}");
            }
            true
        }
        Err(failure) => {
            let text = failure.to_string();
            crate::fuzzing::is_one_line(&text);
            assert!(!looks_like_a_credential(&text), "{text:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Code, Fault};
    use crate::input::tests::Scratch;

    #[test]
    fn a_full_document() {
        let scratch = Scratch::new();
        let path = scratch.write(
            "id.json",
            r#"{"user": "/DC=ch/CN=Zo\u00eb", "issuer": "https://iam.example/", "vo": "atlas", "groups": ["/atlas"],
                "name": "Zoë", "pilot": "p", "job": "1", "task": null}"#,
        );
        let document = read(&path).unwrap();
        assert_eq!(document.user.as_deref(), Some("/DC=ch/CN=Zoë"));
        assert_eq!(document.groups, Some(vec!["/atlas".to_owned()]));
        assert_eq!(document.task, None);
        assert!(read(&scratch.write("empty.json", "{}")).unwrap().user.is_none());
    }

    #[test]
    fn every_fault_names_file_place_and_next_step() {
        let scratch = Scratch::new();
        let table: &[(&[u8], &str)] = &[
            (b"", "line 1 column 0"),
            (b"nonsense", "line 1 column 2"),
            (b"{\n \"user\": \"a\",\n}", "line 3 column 1"),
            (b"{\"user\": \"a\"} x", "trailing characters at line 1 column 15"),
            (b"{\"user\": \"a\"}{\"user\": \"b\"}", "trailing characters"),
            (b"{\"user\": \"a\",\n\"user\": \"a\"}", "duplicate field `user` at line 2"),
            (b"{\"usr\": \"a\"}", "unknown field `usr`, expected one of `user`"),
            (b"{\"User\": \"a\"}", "unknown field `User`"),
            (b"{\"user\": 1}", "invalid type: integer `1`"),
            (b"{\"user\": [\"a\"]}", "invalid type: sequence"),
            (b"{\"groups\": \"/atlas\"}", "invalid type: string"),
            (b"{\"groups\": [null]}", "invalid type: null"),
            (b" [\"a\"]", "found an array"),
            (b"\"a\"", "invalid type: string"),
            (b"null", "invalid type: null"),
            (b"{\"user\": \"\xff\"}", "line 1 column"),
            (b"{\"user\": \"\\ud800\"}", "line 1 column"),
            (b"\xef\xbb\xbf{}", "line 1 column 1"),
            (b"{\"user\": \"a\nb\"}", "control character"),
            (b"{\"user\": \"a\\nb\"}", "control characters"),
            (b"{\"user\": \"\"}", "is empty"),
            (b"{\"groups\": [\"atlas\"]}", "'atlas'"),
            (b"\"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\"", "looks like a credential at line 1"),
            (b"{\"groups\": \"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\"}", "looks like a credential"),
            (b"{\"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\": 1}", "looks like a credential"),
        ];
        for (bytes, why) in table {
            let shown = String::from_utf8_lossy(bytes);
            let path = scratch.write("id.json", bytes);
            let failure = read(&path).expect_err(&shown);
            assert_eq!((failure.code, failure.fault), (Code::Setup, Fault::User), "{shown}");
            assert!(failure.what.contains(&*path.to_string_lossy()), "{failure}");
            assert!(failure.why.contains(why), "{shown}: {failure}");
            assert!(!failure.to_string().contains("eyJ"), "{failure}");
            assert!(!failure.next.is_empty());
        }
    }

    #[test]
    fn nesting_does_not_exhaust_the_stack() {
        let scratch = Scratch::new();
        let deep = format!("{{\"user\": {}", "[".repeat(60_000));
        read(&scratch.write("id.json", deep)).unwrap_err();
    }

    #[test]
    fn only_small_regular_files() {
        let scratch = Scratch::new();
        let why = |path: &Path| {
            let failure = read(path).unwrap_err();
            assert_eq!(failure.code, Code::Setup);
            failure.why
        };
        assert!(why(&scratch.0.join("none")).contains("ENOENT"));
        assert!(why(&scratch.fifo("fifo")).contains("a FIFO"));
        assert!(why(&scratch.0).contains("a directory"));
        assert!(why(Path::new("/dev/zero")).contains("a device"));
        let large = scratch.write("large.json", format!("{{}}{}", " ".repeat(64 << 10)));
        assert!(why(&large).contains("larger than 65536"));
        let largest = scratch.write("largest.json", format!("{{}}{}", " ".repeat((64 << 10) - 2)));
        read(&largest).unwrap();
    }
}
