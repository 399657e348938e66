//! Times as the record has them: UTC, RFC 3339, nine digits of nanoseconds and `Z`.
//!
//! The days are counted with Howard Hinnant's civil-from-days (<https://howardhinnant.github.io/date_algorithms.html>), which
//! is exact for the proleptic Gregorian calendar; leap seconds do not exist in a Unix clock.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of one day.
const DAY: i64 = 86_400;
/// 0000-01-01 and the end of 9999, the years that four digits can write.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

/// A moment in UTC, between the years 0000 and 9999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    secs: i64,
    nanos: u32,
}

impl Timestamp {
    /// The system clock now.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// From seconds and nanoseconds since the Unix epoch; what lies outside four-digit years is moved to their edge.
    pub fn new(secs: i64, nanos: u32) -> Self {
        let secs = secs.saturating_add(i64::from(nanos / 1_000_000_000));
        Self { secs: secs.clamp(FIRST, LAST), nanos: nanos % 1_000_000_000 }
    }

    /// Seconds since the Unix epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.secs
    }

    /// Nanoseconds within the second.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }

    /// Milliseconds since the Unix epoch; zero before it.
    pub fn unix_millis(self) -> u64 {
        let millis = self.secs.saturating_mul(1000) + i64::from(self.nanos / 1_000_000);
        u64::try_from(millis).unwrap_or(0)
    }

    /// This moment `seconds` later (or earlier).
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::new(self.secs.saturating_add(seconds), self.nanos)
    }

    /// Nanoseconds from `earlier` to here; zero when it is not earlier.
    pub fn nanos_since(self, earlier: Self) -> u64 {
        let nanos = i128::from(self.secs - earlier.secs) * 1_000_000_000 + i128::from(self.nanos)
            - i128::from(earlier.nanos);
        u64::try_from(nanos).unwrap_or(0)
    }

    /// The UTC day, `YYYY-MM-DD`.
    pub fn day(self) -> String {
        let (year, month, day) = civil_from_days(self.secs.div_euclid(DAY));
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// From the calendar; `None` where there is no such day or time.
    pub fn from_civil(date: (i64, u32, u32), time: (u32, u32, u32), nanos: u32) -> Option<Self> {
        let (year, month, day) = date;
        let (hour, minute, second) = time;
        if !(0..=9999).contains(&year)
            || !(1..=12).contains(&month)
            || day < 1
            || day > days_in_month(year, month)
            || hour > 23
            || minute > 59
            || second > 59
            || nanos > 999_999_999
        {
            return None;
        }
        let days = days_from_civil(year, month, day);
        let secs = days * DAY + i64::from(hour * 3600 + minute * 60 + second);
        Some(Self { secs, nanos })
    }

    /// Reads RFC 3339 with any number of fraction digits up to nine and `Z` or an offset; `None` for anything else.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, rest) = rest.split_at_checked(8)?;
        let (nanos, rest) = fraction(rest)?;
        let offset = offset_seconds(rest)?;
        let local = Self::from_civil(parse_date(date)?, parse_clock(clock)?, nanos)?;
        let secs = local.secs - offset;
        (FIRST..=LAST).contains(&secs).then_some(Self { secs, ..local })
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::new(i64::try_from(after.as_secs()).unwrap_or(LAST), after.subsec_nanos()),
            Err(_) => Self::default(), // a clock before 1970 is a clock that was never set
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.secs.div_euclid(DAY));
        let second = self.secs.rem_euclid(DAY);
        // Several in each record: digits by hand are some microseconds cheaper than the formatter's.
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        for (place, digits, value) in [
            (0, 4, year),
            (5, 2, i64::from(month)),
            (8, 2, i64::from(day)),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 9, i64::from(self.nanos)),
        ] {
            let mut rest = value;
            for byte in text.iter_mut().skip(place).take(digits).rev() {
                *byte = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z$"
        })
    }
}

/// `YYYY-MM-DD` into numbers; whether the day exists is for [`Timestamp::from_civil`].
pub fn parse_date(text: &str) -> Option<(i64, u32, u32)> {
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2)?;
    let day = digits(parts.next()?, 2)?;
    parts.next().is_none().then_some((i64::from(year), month, day))
}

/// `HH:MM:SS` or `HH:MM` into numbers.
pub fn parse_clock(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |s| digits(s, 2))?;
    parts.next().is_none().then_some((hour, minute, second))
}

fn digits(text: &str, count: usize) -> Option<u32> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// `.123` into nanoseconds and the text after it; no point means zero.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = rest.split_at_checked(count)?;
    if !(1..=9).contains(&count) {
        return None;
    }
    let value: u32 = number.parse().ok()?;
    Some((value * 10_u32.pow(9 - count as u32), rest))
}

/// `Z`, `+hh:mm` or `-hh:mm` into seconds east of UTC.
fn offset_seconds(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hour, minute, _) = parse_clock(text.get(1..)?)?;
    (text.len() == 6 && hour < 24 && minute < 60)
        .then(|| sign * (i64::from(hour) * 3600 + i64::from(minute) * 60))
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468; // days since 0000-03-01, so that the leap day is a year's last day
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * month_index + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.000000000Z"),
            (LAST, "9999-12-31T23:59:59.000000000Z"),
            (FIRST, "0000-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(Timestamp::new(secs, 0).to_string(), text);
            assert_eq!(Timestamp::parse_rfc3339(text), Some(Timestamp::new(secs, 0)), "{text}");
        }
    }

    #[test]
    fn offsets_and_fractions_are_read() {
        let noon = Timestamp::parse_rfc3339("2024-02-29T12:00:00Z").unwrap();
        for same in ["2024-02-29T13:30:00+01:30", "2024-02-29 07:00:00-05:00", "2024-02-29T12:00:00.0Z"] {
            assert_eq!(Timestamp::parse_rfc3339(same), Some(noon), "{same}");
        }
        assert_eq!(Timestamp::parse_rfc3339("2024-02-29T12:00:00.5Z").unwrap().nanos(), 500_000_000);
        assert_eq!(noon.day(), "2024-02-29");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2023-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01T00:00:00+1:00",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zx",
            "2024-01-é1T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_moment_reads_back_and_text_sorts_as_time() {
        // A fixed walk over four-digit years in steps that share no factor with a day, so that every field varies.
        let mut previous = String::new();
        let mut secs = FIRST;
        let mut nanos = 0_u32;
        while secs < LAST {
            let time = Timestamp::new(secs, nanos);
            let text = time.to_string();
            assert_eq!(Timestamp::parse_rfc3339(&text), Some(time), "{text}");
            assert!(previous < text, "{previous} {text}");
            previous = text;
            secs += 3_456_791;
            nanos = (nanos + 123_456_791) % 1_000_000_000;
        }
    }

    #[test]
    fn differences() {
        let a = Timestamp::new(10, 900_000_000);
        let b = Timestamp::new(12, 100_000_000);
        assert_eq!(b.nanos_since(a), 1_200_000_000);
        assert_eq!(a.nanos_since(b), 0);
        assert_eq!(Timestamp::new(1, 2_500_000_000), Timestamp::new(3, 500_000_000));
    }
}
