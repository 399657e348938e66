//! Labels of an image as Apptainer keeps them (`/.singularity.d/labels.json`), and the time that they say.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::audit::time::{Timestamp, parse_date};

/// Labels that say when the image was made, the better one first: OCI's is the image's own, label-schema's is written by
/// `apptainer build` when it makes another image out of it.
const TIMES: [&str; 2] = ["org.opencontainers.image.created", "org.label-schema.build-date"];

/// 2000-01-01. Reproducible builds write 1970, Go's zero time is the year 1, and there were no images before this.
const EARLIEST: i64 = 946_684_800;

/// What the labels say of the image's age.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// The time, and the label's name.
    At(Timestamp, &'static str),
    /// A label is there, but holds no time.
    NotUsable(&'static str),
    /// No label.
    NotSaid,
}

/// The labels, and how many were left out because they are no text.
pub type Labels = (BTreeMap<String, String>, usize);

/// Reads a `labels.json`. The error says why there are none.
pub fn parse(bytes: &[u8]) -> Result<Labels, String> {
    let values: BTreeMap<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
        // serde's own text may quote the file.
        format!("not a JSON object, line {}, column {}", error.line(), error.column())
    })?;
    Ok(texts(values))
}

pub(super) fn texts(values: BTreeMap<String, Value>) -> Labels {
    let all = values.len();
    let labels: BTreeMap<String, String> = values
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text)),
            _ => None,
        })
        .collect();
    let dropped = all - labels.len();
    (labels, dropped)
}

/// The first label that holds a time.
pub(super) fn made(labels: &BTreeMap<String, String>) -> Made {
    let mut made = Made::NotSaid;
    for name in TIMES {
        let Some(text) = labels.get(name) else { continue };
        match time(text).filter(|when| is_plausible(*when)) {
            Some(when) => return Made::At(when, name),
            None if made == Made::NotSaid => made = Made::NotUsable(name),
            None => {}
        }
    }
    made
}

/// Not one of the times that mean "no time".
pub(super) fn is_plausible(when: Timestamp) -> bool {
    when.secs() >= EARLIEST
}

/// A time as labels have it: RFC 3339, a day (`20210915`, `2021-09-15`), or Apptainer's `Tuesday_4_April_2023_13:15:56_UTC`.
fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let midnight = |date| Timestamp::from_civil(date, (0, 0, 0), 0);
    Timestamp::parse_rfc3339(text)
        .or_else(|| midnight(parse_date(text)?))
        .or_else(|| midnight(compact_day(text)?))
        .or_else(|| apptainer(text))
}

fn compact_day(text: &str) -> Option<(i64, u32, u32)> {
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u32 = text.parse().ok()?;
    Some((i64::from(number / 10_000), number / 100 % 100, number % 100))
}

/// Go's `Monday_2_January_2006_15:4:5_MST`: numbers without leading zeros, and the zone of whoever built it.
fn apptainer(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let mut parts = text.split('_');
    let _weekday = parts.next()?;
    let day = number(parts.next()?, 2)?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u32 + 1;
    let year = parts.next().filter(|year| year.len() == 4).and_then(|year| number(year, 4))?;
    let mut clock = parts.next()?.split(':').map(|part| number(part, 2));
    let time = (clock.next()??, clock.next()??, clock.next()??);
    let zone = parts.next()?;
    if clock.next().is_some() || parts.next().is_some() {
        return None;
    }
    let local = Timestamp::from_civil((i64::from(year), month, day), time, 0)?;
    Some(local.plus_seconds(-east(zone)?))
}

fn number(text: &str, most: usize) -> Option<u32> {
    let fits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// Seconds east of UTC of a zone as Go prints it: a name, or `+03`, `-0330` where it has none. Names mean what RFC 5322
/// (section 4.3) and Europe mean by them; another one is taken for UTC, which is wrong by half a day at most.
fn east(zone: &str) -> Option<i64> {
    const HOUR: i64 = 3600;
    let digits = zone.strip_prefix(['+', '-']);
    if let Some(digits) = digits {
        let hour = i64::from(number(digits.get(..2)?, 2)?);
        let minute = match digits.get(2..)? {
            "" => 0,
            minute => i64::from(number(minute, 2)?),
        };
        if hour > 14 || minute > 59 {
            return None;
        }
        let sign = if zone.starts_with('-') { -1 } else { 1 };
        return Some(sign * (hour * HOUR + minute * 60));
    }
    if !(1..=5).contains(&zone.len()) || !zone.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Some(
        HOUR * match zone {
            "CET" | "WEST" | "BST" => 1,
            "CEST" | "EET" => 2,
            "EEST" | "MSK" => 3,
            "JST" | "KST" => 9,
            "EDT" => -4,
            "EST" | "CDT" => -5,
            "CST" | "MDT" => -6,
            "MST" | "PDT" => -7,
            "PST" => -8,
            _ => 0,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_time() {
        for (text, expected) in [
            ("Tuesday_4_April_2023_13:15:56_UTC", "2023-04-04T13:15:56"),
            ("Tuesday_4_April_2023_13:5:6_CEST", "2023-04-04T11:05:06"),
            ("Sunday_1_January_2023_0:30:0_+0330", "2022-12-31T21:00:00"),
            ("Friday_31_December_2021_23:59:59_PST", "2022-01-01T07:59:59"),
            ("Friday_31_December_2021_23:59:59_NOVT", "2021-12-31T23:59:59"),
            ("Friday_31_December_2021_23:59:59_-03", "2022-01-01T02:59:59"),
            ("2021-09-15T16:44:02.123Z", "2021-09-15T16:44:02"),
            ("2021-09-15T16:44:02+02:00", "2021-09-15T14:44:02"),
            ("20210915", "2021-09-15T00:00:00"),
            ("2021-09-15", "2021-09-15T00:00:00"),
        ] {
            let when = time(text).unwrap_or_else(|| panic!("{text}"));
            assert!(when.to_string().starts_with(expected), "{text}: {when}");
        }
        for bad in [
            "",
            "today",
            "20211301",
            "2021091",
            "202109155",
            "Tuesday_31_April_2023_13:15:56_UTC",
            "Tuesday_4_April_2023_25:15:56_UTC",
            "Tuesday_4_April_2023_13:15:56",
            "Tuesday_4_April_2023_13:15:56:1_UTC",
            "Tuesday_4_April_2023_13:15:56_UTC_x",
            "Tuesday_4_April_2023_13:15:56_+99",
            "Tuesday_4_April_2023_13:15:56_+0é",
            "Tuesday_-4_April_2023_13:15:56_UTC",
            "Tuesday_4_April_23_13:15:56_UTC",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_image_s_own_time_comes_before_that_of_its_conversion() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let oci = ("org.opencontainers.image.created", "2020-01-01T00:00:00Z");
        let schema = ("org.label-schema.build-date", "20230404");
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(made(&labels(&[oci, schema])), Made::At(at("2020-01-01T00:00:00Z"), oci.0));
        assert_eq!(made(&labels(&[schema])), Made::At(at("2023-04-04T00:00:00Z"), schema.0));
        // What means "no time" does not hide the other.
        for nothing in
            ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "${BUILD_DATE}"]
        {
            let oci = (oci.0, nothing);
            assert_eq!(made(&labels(&[oci])), Made::NotUsable(oci.0));
            assert_eq!(made(&labels(&[oci, schema])), Made::At(at("2023-04-04T00:00:00Z"), schema.0));
        }
        assert_eq!(made(&labels(&[("created", "20230404")])), Made::NotSaid);
    }

    #[test]
    fn only_an_object_of_texts() {
        let (labels, dropped) = parse(br#"{"a":"b","n":1,"o":{"x":"y"},"l":[],"z":null,"a":"c"}"#).unwrap();
        assert_eq!(labels, BTreeMap::from([("a".to_owned(), "c".to_owned())]));
        assert_eq!(dropped, 4);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        for bad in ["", "[]", "null", "{\"a\":\"b\"", "{\"a\":\"\\ud800\"}", deep.as_str()] {
            assert!(parse(bad.as_bytes()).unwrap_err().starts_with("not a JSON object, line "), "{bad}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
        // The text of a fault quotes nothing of the file.
        assert!(!parse(b"{\"secret\":secret}").unwrap_err().contains("secret"));
    }
}
