//! What a caller of Apptainer reads on standard error, and the exit code that goes with it.
//!
//! 1. PanDA's pilot searches a payload's standard error for words of the container runtime, also when it ended well
//!    (`PanDAWMS/pilot3`: `pilot/common/errorcodes.py`, `pilot/control/payload.py`). bailey says them where they are true, and
//!    nowhere else.
#![forbid(unsafe_code)]

use crate::failure::{Code, Failure, Printable};
use crate::sandbox::explain;

/// The exit code of a runtime that failed.
const FAILED: u8 = 255;

/// How a payload ends that the runtime's side killed.
const KILLED: u8 = 137;

/// What a user namespace that cannot be made is called there.
const NO_USER_NAMESPACE: &str = "Failed to create user namespace";

/// Words that are searched for, and bailey's for the same. The kernel's text for EPERM is the one that bailey would say as well.
pub const AVOIDED: &[(&str, &str)] = &[("Operation not permitted", "not permitted")];

/// The kernel's text for ENOSPC, which is searched for as well (`pilot/user/atlas/diagnose.py`): said where a disk is full, and not
/// where it is user namespaces that there are no more of.
const NO_ROOM: (&str, &str) = ("No space left on device", "none left");

/// What a caller of Apptainer gets for a failure: this exit code, and this line on standard error.
pub fn fatal(failure: &Failure) -> (u8, String) {
    let mut text = failure.to_string();
    let mut said = "";
    if explain::is_without_user_namespace(&text) {
        said = NO_USER_NAMESPACE;
        text = text.replace(NO_ROOM.0, NO_ROOM.1);
    }
    let colon = if said.is_empty() { "" } else { ": " };
    (FAILED, format!("FATAL:   bailey[{}]: {said}{colon}{text}", failure.code.exit_code()))
}

/// A warning's line.
pub fn warning(text: &str) -> String {
    format!("WARNING: {}", Printable(text))
}

/// Lines for a terminal: control characters but line ends and tabulators come out escaped.
pub fn shown(text: &str) -> String {
    let line =
        |line: &str| line.split('\t').map(|part| Printable(part).to_string()).collect::<Vec<_>>().join("\t");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The exit code for a payload that ended: its own, or that of one that was killed where bailey ended it.
pub const fn exit_code(code: u8, from_bailey: bool) -> u8 {
    const STOPPED: u8 = Code::Stopped.exit_code();
    const WALL_TIME: u8 = Code::WallTime.exit_code();
    match code {
        STOPPED | WALL_TIME if from_bailey => KILLED,
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_lines_and_nothing_that_drives_it() {
        assert_eq!(shown("a: b\n\t{ü}\n"), "a: b\n\t{ü}\n");
        assert_eq!(shown("x\u{1b}[2J\ry\u{9b}z\n"), "x\\u{1b}[2J\\u{d}y\\u{9b}z\n");
    }

    use nix::errno::Errno;
    use std::path::Path;

    /// All that the pilot searches for.
    const SEARCHED: [&str; 14] = [
        "Not mounting requested bind point",
        "No more available loop devices",
        "Failed to mount image",
        "error: while mounting",
        "Operation not permitted",
        "Failed to create user namespace",
        "Singularity is not installed",
        "Apptainer is not installed",
        "Failed invoking the NEWUSER namespace runtime",
        "resource temporarily unavailable",
        "command not found",
        "SL5 is unsupported",
        "unrecognized arguments",
        "General payload setup verification error",
    ];

    /// Texts of string literals, without what tests say.
    fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let shipped = text.split("#[cfg(test)]").next().unwrap().to_owned();
                found.push((path.display().to_string(), shipped));
            }
        }
    }

    #[test]
    fn nothing_is_printed_that_a_pilot_takes_for_another_thing() {
        let mut found = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.len() > 100);
        let mut said = 0;
        for (path, text) in &found {
            for word in SEARCHED {
                let at = text.matches(word).count();
                // The two above; and the sentences of tests, which are no part of the program.
                said += at;
                let here = path.ends_with("frontend/apptainer/messages.rs");
                assert!(at == 0 || here || path.ends_with("report/messages.rs"), "{path}: {word}");
            }
        }
        assert!(said >= 2, "the search finds nothing at all");
        let worded = |text: &str| {
            AVOIDED.iter().fold(text.to_owned(), |text, (word, other)| text.replace(word, other))
        };
        for errno in 1..=133 {
            let text = worded(&crate::failure::errno_text(Errno::from_raw(errno)));
            assert!(!SEARCHED.iter().any(|word| text.contains(word)), "{text}");
        }
        let document = include_str!("../../../docs/messages.md");
        for line in document.lines().filter(|line| line.starts_with("| `")) {
            assert!(!SEARCHED.iter().any(|word| worded(line).contains(word)), "{line}");
        }
    }

    #[test]
    fn a_missing_user_namespace_is_called_by_its_name() {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
        for (errno, is_one) in
            [(Errno::EPERM, true), (Errno::ENOSPC, true), (Errno::EAGAIN, false), (Errno::EMFILE, false)]
        {
            let failure = crate::report::words::plain(explain::clone_failure(errno, flags));
            let (code, line) = fatal(&failure);
            assert_eq!(code, 255);
            assert!(line.starts_with("FATAL:   bailey[125]: "), "{line}");
            assert_eq!(line.contains(NO_USER_NAMESPACE), is_one, "{line}");
            assert!(!line.contains(NO_ROOM.0), "{line}");
        }
        let other = Failure::usage("cannot bind /x", "Operation not permitted (EPERM)", "name another");
        assert!(!fatal(&other).1.contains(NO_USER_NAMESPACE));
    }

    #[test]
    fn codes_of_a_payload_and_of_bailey() {
        for code in [0, 1, 120, 123, 124, 125, 137, 255] {
            assert_eq!(exit_code(code, false), code);
        }
        assert_eq!((exit_code(123, true), exit_code(124, true)), (137, 137));
    }
}
