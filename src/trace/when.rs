//! A moment as people write it.
#![forbid(unsafe_code)]

use crate::audit::Timestamp;
use crate::audit::time::{parse_clock, parse_date};
use crate::failure::Failure;

/// A moment that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub time: Timestamp,
    /// No zone was named, and UTC was taken.
    pub zone_assumed: bool,
}

/// RFC 3339 with a zone; `YYYY-MM-DD HH:MM[:SS]`, taken as UTC; `now`; `2 hours ago`. What can be read in two ways is refused.
pub fn parse(text: &str, now: Timestamp) -> Result<Moment, Failure> {
    let text = text.trim();
    let exact = |time| Moment { time, zone_assumed: false };
    if text.eq_ignore_ascii_case("now") {
        return Ok(exact(now));
    }
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        return Ok(exact(time));
    }
    if let Some(time) = ago(text, now) {
        return Ok(exact(time));
    }
    if let Some(time) = without_zone(text) {
        return Ok(Moment { time, zone_assumed: true });
    }
    let why = if parse_date(text).is_some() {
        "it is a whole day, and a moment is needed"
    } else if parse_clock(text).is_some() {
        "it names no day"
    } else {
        "it can not be read as a moment"
    };
    Err(Failure::usage(
        format!("cannot use the time '{text}'"),
        why,
        "write 2024-02-29T13:00:00+01:00, '2024-02-29 12:00' (UTC), now or '2 hours ago'",
    ))
}

fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let mut words = text.split_whitespace();
    let number: u32 = words.next()?.parse().ok()?;
    let unit: i64 = match words.next()? {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "day" | "days" => 86_400,
        "week" | "weeks" => 7 * 86_400,
        _ => return None, // "m" may be a minute or a month; months differ in length
    };
    let end = (words.next()?, words.next());
    (end == ("ago", None)).then(|| now.plus_seconds(-i64::from(number) * unit))
}

fn without_zone(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.split_once([' ', 'T'])?;
    Timestamp::from_civil(parse_date(date)?, parse_clock(clock)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let now = Timestamp::parse_rfc3339("2024-03-01T12:00:00Z").unwrap();
        for (text, expected, assumed) in [
            ("now", "2024-03-01T12:00:00Z", false),
            ("2024-02-29T13:00:00+01:00", "2024-02-29T12:00:00Z", false),
            ("2024-02-29 12:00", "2024-02-29T12:00:00Z", true),
            ("2024-02-29 12:00:07", "2024-02-29T12:00:07Z", true),
            ("2 hours ago", "2024-03-01T10:00:00Z", false),
            ("30 min ago", "2024-03-01T11:30:00Z", false),
            (" 1 day ago ", "2024-02-29T12:00:00Z", false),
        ] {
            let moment = parse(text, now).unwrap();
            assert_eq!(moment.time, Timestamp::parse_rfc3339(expected).unwrap(), "{text}");
            assert_eq!(moment.zone_assumed, assumed, "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for bad in [
            "",
            "2024-02-29",
            "12:00",
            "yesterday",
            "5 m ago",
            "1 month ago",
            "02/03/2024 12:00",
            "2023-02-29 12:00",
            "-1 hours ago",
            "2 hours",
            "1700000000",
        ] {
            let failure = parse(bad, Timestamp::default()).unwrap_err();
            assert!(failure.next.contains("hours ago"), "{bad}");
        }
    }
}
