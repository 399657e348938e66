//! `--memory`, `--cpus`, `--pids-limit`: numbers as Apptainer writes them.
#![forbid(unsafe_code)]

use super::flags::Ask;
use super::words::{Given, Words, unusable};
use crate::cgroup::limits::Limits;
use crate::failure::Failure;
use crate::request::parse_pids;

/// What is asked for, and what of it is taken without effect.
pub(super) fn asked(words: &Words) -> Result<(Limits, Option<String>), Failure> {
    let mut limits = Limits::default();
    if let Some(given) = words.last(Ask::Memory) {
        limits.memory = memory(given)?;
    }
    if let Some(given) = words.last(Ask::Cpus) {
        limits.cpus_milli = cpus(given)?;
    }
    if let Some(given) = words.last(Ask::Pids) {
        let text = text(given)?;
        if !matches!(text, "0" | "-1") {
            limits.pids = Some(parse_pids(text).map_err(|why| unusable(given, why))?);
        }
    }
    let mut unheeded = None;
    if let Some(given) = words.last(Ask::MemorySwap).filter(|given| given.value != "-1") {
        unheeded =
            memory(given)?.map(|_| format!("{}: how much is swapped is the site's to say", given.name()));
    }
    Ok((limits, unheeded))
}

fn text(given: &Given) -> Result<&str, Failure> {
    given.value.to_str().ok_or_else(|| unusable(given, "it is no number"))
}

/// `2G`, `512m`, `1.5GiB`, or bytes; 0 is no limit.
fn memory(given: &Given) -> Result<Option<u64>, Failure> {
    bytes(text(given)?).map_err(|why| unusable(given, why))
}

fn bytes(text: &str) -> Result<Option<u64>, &'static str> {
    const WRONG: &str = "it is no size: write for example 2G or 512M";
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(WRONG),
    };
    let number: f64 = number.parse().map_err(|_| WRONG)?;
    let bytes = number * (1_u64 << shift) as f64;
    if !bytes.is_finite() || bytes >= 9.0e18 {
        return Err("it is more memory than there can be");
    }
    Ok(Some(bytes as u64).filter(|bytes| *bytes > 0))
}

/// Cores, with a point; 0 is no limit.
fn cpus(given: &Given) -> Result<Option<u64>, Failure> {
    let cores: f64 = text(given)?
        .trim()
        .parse()
        .map_err(|_| unusable(given, "it is no number of cores: write 2 or 0.5"))?;
    if !(0.0..=1_000_000.0).contains(&cores) {
        return Err(unusable(given, "it is no number of cores: write 2 or 0.5"));
    }
    Ok(Some((cores * 1000.0).round() as u64).filter(|milli| *milli > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_apptainer_writes_them() {
        for (text, expected) in [
            ("2G", 2 << 30),
            ("2g", 2 << 30),
            ("512MiB", 512 << 20),
            ("1.5k", 1536),
            ("1000", 1000),
            ("1t", 1 << 40),
            ("10 MB", 10 << 20),
        ] {
            assert_eq!(bytes(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(bytes("0"), Ok(None));
        for bad in ["", "G", "-1", "1X", "1e3", "9999999t", "1..2"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
