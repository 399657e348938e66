//! What goes to standard error, in words that the caller does not take for another thing.
//!
//! 1. Only what is printed is worded anew: record and status file have it as it was said.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::OnceLock;

/// Words that the caller looks for, and ours for the same.
type Avoided = &'static [(&'static str, &'static str)];

static AVOIDED: OnceLock<Avoided> = OnceLock::new();

/// From now on these words are not used. Some pilots search standard error for the words of a container runtime, and take a
/// payload that ended well for one that failed.
pub fn avoid(words: Avoided) {
    let _ = AVOIDED.set(words);
}

/// The text in other words.
pub(super) fn worded(text: &str) -> Cow<'_, str> {
    let mut worded = Cow::Borrowed(text);
    for (word, other) in AVOIDED.get().copied().unwrap_or_default() {
        if worded.contains(word) {
            worded = Cow::Owned(worded.replace(word, other));
        }
    }
    worded
}

/// A whole line on standard error, in one write, so that it stays whole among the lines of others. A closed one is no reason to
/// fail. The caller has made it one line.
pub fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", worded(line)).as_bytes());
}
