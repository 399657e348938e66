//! What went wrong, for whom, and what to do about it: the one error type that leaves a room.
//!
//! A room returns a [`Failure`] when it has to stop a launch; `app.rs` is the only place that prints one and turns it into
//! an exit code, and `pipeline.rs` the only one that writes it to the audit log. Nothing else logs or exits.
#![forbid(unsafe_code)]

use std::fmt;

/// Why bailey itself ended a launch, as the exit code that says so (`docs/exit-codes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// A ban, a rule, the identity or the drain flag said no.
    Refused = 120,
    /// The person's limit of payloads at one time is reached.
    ParallelLimit = 121,
    /// The audit record could not be made durable, so nothing was run.
    RecordFailed = 122,
    /// bailey stopped the running payload: ban, memory, overuse, administrator.
    Stopped = 123,
    /// The wall time was used up.
    WallTime = 124,
    /// The payload could not be set up, or the command line is wrong.
    Setup = 125,
    /// The command exists but cannot be executed.
    NotExecutable = 126,
    /// The command was not found.
    NotFound = 127,
}

impl Code {
    /// The process exit code, 120 to 127.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// Who can cure a failure. It tells a pilot whether a retry on another site makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The host or its configuration: retry elsewhere.
    Site,
    /// The request: it would fail everywhere.
    User,
}

/// One failure: what was tried on what, what the system said, and what to do next. Printed as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The exit code that tells this failure from a payload's own end.
    pub code: Code,
    /// Who can cure it.
    pub fault: Fault,
    /// What was tried, on what: "cannot open the image /cvmfs/x".
    pub what: String,
    /// What the system or the check said: "No such file or directory (ENOENT)".
    pub why: String,
    /// The next step for whoever reads it.
    pub next: String,
    /// Under which id the site finds it, and whom in the VO to ask, once that is known.
    pub incident: Option<Box<Incident>>,
}

/// What a user names when asking about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// The launch id.
    pub id: String,
    /// The VO's contact for its users.
    pub contact: Option<String>,
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incident {}", Printable(&self.id))?;
        match &self.contact {
            Some(contact) => write!(f, ", contact {}", Printable(contact)),
            None => Ok(()),
        }
    }
}

const TOO_LARGE: &str = "cannot make the record of this launch";

impl Failure {
    /// A failure that the caller can cure by asking for something else. Exit code 125.
    pub fn usage(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Code::Setup, Fault::User, what, why, next)
    }

    /// A failure of the host or its configuration. Exit code 125.
    pub fn site(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Code::Setup, Fault::Site, what, why, next)
    }

    /// The record could not be made durable. Exit code 122.
    pub fn record(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Code::RecordFailed, Fault::Site, what, why, next)
    }

    /// What is asked for makes a record that no log takes, and without one nothing runs. Exit code 125.
    pub fn too_large(length: usize, what: &str, most: usize) -> Self {
        Self::usage(
            TOO_LARGE,
            format!("it has {length} {what}, {most} are allowed"),
            "use fewer or shorter binds, groups and arguments",
        )
    }

    /// It is [`Failure::too_large`].
    pub fn is_too_large(&self) -> bool {
        self.code == Code::Setup && self.fault == Fault::User && self.what == TOO_LARGE
    }

    /// Refused by policy or identity. Exit code 120.
    pub fn refused(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Code::Refused, Fault::User, what, why, next)
    }

    /// The same with what a user names when asking about it.
    #[must_use]
    pub fn of_incident(self, id: &str, contact: Option<&str>) -> Self {
        let incident = Incident { id: id.to_owned(), contact: contact.map(str::to_owned) };
        Self { incident: Some(Box::new(incident)), ..self }
    }

    /// Any combination.
    pub fn new(
        code: Code,
        fault: Fault,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, fault, what: what.into(), why: why.into(), next: next.into(), incident: None }
    }
}

impl fmt::Display for Failure {
    /// One line, whatever the parts contain: control characters come out escaped, because names and paths are hostile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", Printable(&self.what), Printable(&self.why), Printable(&self.next))?;
        match &self.incident {
            Some(incident) => write!(f, " ({incident})"),
            None => Ok(()),
        }
    }
}

/// Text from outside, shown with its control characters escaped so that it stays on one line and drives no terminal.
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// `result`, or a failure made from the error's text; the closure gives what was tried and the next step.
pub fn errno_text(errno: nix::errno::Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

/// An `io::Error` in the words of [`errno_text`] where it carries an errno.
pub fn io_text(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => errno_text(nix::errno::Errno::from_raw(raw)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_names() {
        let failure = Failure::usage("cannot open image /tmp/a\nb\u{1b}[31m", "no\rsuch\u{202e}", "name it");
        let line = failure.to_string();
        assert!(
            !line.contains('\n')
                && !line.contains('\u{1b}')
                && !line.contains('\r')
                && !line.contains('\u{202e}')
        );
        assert!(line.contains("/tmp/a\\u{a}b"));
    }

    #[test]
    fn codes_are_the_documented_ones() {
        assert_eq!(Code::Refused.exit_code(), 120);
        assert_eq!(Code::RecordFailed.exit_code(), 122);
        assert_eq!(Code::NotFound.exit_code(), 127);
    }
}
