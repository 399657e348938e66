//! Would a launch get its receipt now? In one word, one sentence and an exit code.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{CRITICAL, GOOD, UNKNOWN, WARNING, ask};
use crate::failure::{Failure, Printable};
use crate::host::Caller;
use crate::probe::{Findings, Trouble};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// `ready`, `draining`, `not-ready`, `unknown`.
    pub(super) state: &'static str,
    /// Whether a payload would run.
    ready: bool,
    /// Why, in one sentence.
    pub(super) reason: String,
    pub(super) exit_code: u8,
    /// Seconds since 1970.
    pub(super) checked: i64,
    /// `chain.seq` of the check's own record.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<u64>,
}

impl Answer {
    fn new(state: &'static str, exit_code: u8, reason: impl Into<String>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            state,
            ready: false,
            reason: reason.into(),
            exit_code,
            checked: since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)),
            receipt: None,
        }
    }

    /// For monitoring and for people.
    pub(super) fn line(&self) -> String {
        format!("{}: {}\n", self.state, Printable(&self.reason))
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// For HTCondor's startd cron: attributes, and the line that ends the ad.
    pub(super) fn classad(&self) -> String {
        // A string of a ClassAd: what is no plain character is escaped first, then the backslashes that this made.
        let text = |text: &str| Printable(text).to_string().replace('\\', "\\\\").replace('"', "\\\"");
        format!(
            "BaileyReady = {}\nBaileyState = \"{}\"\nBaileyReason = \"{}\"\nBaileyChecked = {}\n-\n",
            self.ready,
            self.state,
            text(&self.reason),
            self.checked
        )
    }
}

/// Asks the launcher.
pub(super) fn ask(caller: &Caller) -> Answer {
    if caller.uid == 0 {
        return of_root();
    }
    match ask::launcher(true) {
        Ok(found) => judge(&found),
        Err(failure) => untold(&failure),
    }
}

/// root is no pilot.
pub(super) fn of_root() -> Answer {
    let reason = "root is not a pilot, and bailey starts nothing as root: ask as the pilots' account \
                  (runuser -u PILOT -- bailey check)";
    Answer::new("unknown", UNKNOWN, reason)
}

/// The launcher could not be asked.
pub(super) fn untold(failure: &Failure) -> Answer {
    Answer::new("unknown", UNKNOWN, failure.to_string())
}

/// What the findings come to.
pub(super) fn judge(found: &Findings) -> Answer {
    if let Some(Trouble { what, why, next, .. }) = found.troubles.first() {
        return Answer::new("not-ready", CRITICAL, format!("{what}: {why}; {next}"));
    }
    if let Some(reason) = &found.draining {
        return Answer::new("draining", WARNING, format!("this node takes no new payloads: {reason}"));
    }
    let log = if found.embedded { "the embedded log" } else { "the recorder's log" };
    match (found.receipt, &found.unproven) {
        (Some(seq), _) => Answer {
            ready: true,
            receipt: Some(seq),
            ..Answer::new("ready", GOOD, format!("a launch would get its receipt (record {seq} of {log})"))
        },
        // Its launches work: neighbouring versions understand each other.
        (None, Some(why)) => {
            Answer { ready: true, ..Answer::new("ready", WARNING, format!("not proven by a receipt: {why}")) }
        }
        (None, None) => {
            Answer::new("unknown", UNKNOWN, "the launcher came to no result; report this as a defect")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stays_inside_its_classad_string() {
        let answer = Answer::new("not-ready", CRITICAL, "a \"quoted\"\nBaileyReady = true\\");
        let text = answer.classad();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[0], "BaileyReady = false");
        assert_eq!(lines[2], r#"BaileyReason = "a \"quoted\"\\u{a}BaileyReady = true\\""#);
        assert_eq!(lines[4], "-");
    }

    #[test]
    fn what_stops_launches_comes_before_the_drain_flag() {
        let mut found = Findings { draining: Some("disks".into()), ..Findings::default() };
        assert_eq!((judge(&found).state, judge(&found).exit_code), ("draining", WARNING));
        found.troubles.push(Trouble {
            part: crate::probe::Part::Log,
            stage: None,
            code: 122,
            what: "w".into(),
            why: "y".into(),
            next: "n".into(),
        });
        assert_eq!((judge(&found).state, judge(&found).exit_code), ("not-ready", CRITICAL));
        // Neither receipt nor reason is no reason to be ready.
        assert!(!judge(&Findings::default()).ready);
    }
}
