//! What an administrator types.
#![forbid(unsafe_code)]

use super::is_one_line;
use crate::audit::Timestamp;
use crate::trace::when;

/// A moment: what is understood lies in the range that records have, and reads as itself again.
pub(super) fn when(bytes: &[u8]) -> bool {
    let now = Timestamp::new(1_790_000_000, 5);
    let text = String::from_utf8_lossy(bytes);
    match when::parse(&text, now) {
        Ok(moment) => {
            let written = moment.time.to_string();
            let again = when::parse(&written, Timestamp::default()).expect("a moment as records have it");
            assert_eq!((again.time, again.zone_assumed), (moment.time, false), "{text:?}");
            true
        }
        Err(failure) => {
            is_one_line(&failure.to_string());
            false
        }
    }
}
