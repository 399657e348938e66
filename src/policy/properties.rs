//! What holds for everything that anybody could write: names, groups and lists made at random, from a fixed beginning.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::bans::{Ban, CertificatePattern, Format, Issuer, Measure, TokenPattern, Whom, parse, render};
use super::glob::Glob;
use super::group::{Group, GroupPattern};
use super::mapfile;
use super::name::{Dn, Name};
use crate::audit::Timestamp;
use crate::fuzzing::Random;

const FORMATS: [Format; 5] = [Format::Ours, Format::Lcas, Format::DnLines, Format::CondorMap, Format::Argus];

/// Unoptimised, everything here takes its time.
const ROUNDS: usize = if cfg!(debug_assertions) { 4000 } else { 100_000 };

trait Value {
    fn value(&mut self) -> String;
}

impl Value for Random {
    /// A value of a DN, with everything in it that either form has a meaning for.
    fn value(&mut self) -> String {
        const PIECES: [&str; 28] = [
            "a",
            "Zoë",
            " ",
            "  ",
            "/",
            "+",
            ",",
            "=",
            "\\",
            "\"",
            "#",
            ";",
            "<",
            ">",
            "CN=",
            "/CN=b",
            "+UID=c",
            ",O=d",
            "\\x41",
            "\\xC3\\xAB",
            "é",
            "ß",
            "1",
            "proxy",
            "x",
            "'",
            "e\u{301}",
            "日本",
        ];
        (0..=self.below(4)).map(|_| self.one(&PIECES)).collect()
    }
}

/// A value as RFC 2253 has it, in one of the ways that it allows.
fn escaped(random: &mut Random, value: &str) -> String {
    if random.below(4) == 0 {
        return format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::new();
    for (index, c) in value.chars().enumerate() {
        let at_end = (index == 0 && matches!(c, ' ' | '#')) || (index == last && c == ' ');
        let special = ",+\"\\<>;=".contains(c) || at_end;
        match random.below(6) {
            0 if !c.is_ascii_alphanumeric() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:02X}");
                }
            }
            _ if special => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn both_forms_of_any_dn_are_one_name() {
    let mut random = Random(0x5eed);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let kinds = ["CN", "O", "OU", "DC", "C", "UID", "emailAddress", "1.2.3", "ST"];
        let parts: Vec<(&str, String)> =
            (0..=random.below(4)).map(|_| (random.one(&kinds), random.value())).collect();
        let slashes: String = parts.iter().flat_map(|(kind, value)| ["/", kind, "=", value]).collect();
        let mut commas: Vec<String> =
            parts.iter().map(|(kind, value)| format!("{kind}={}", escaped(&mut random, value))).collect();
        if random.below(2) == 0 {
            commas.reverse();
        }
        let commas = commas.join(random.one(&[",", ", ", " , ", ";"]));
        match (Dn::parse(&slashes), Dn::parse(&commas)) {
            (Ok(one), Ok(other)) => {
                read += 1;
                assert_eq!(Name::Dn(one.clone()).key(), Name::Dn(other.clone()).key(), "{slashes} {commas}");
                for dn in [one, other] {
                    assert_eq!(Dn::parse(&dn.to_string()).as_ref(), Ok(&dn), "{slashes} {commas}");
                    assert!(Glob::of_dn("/*").unwrap().matches_dn(&dn));
                }
            }
            (Err(_), Err(_)) => {}
            (one, other) => panic!("{slashes} {commas}: {one:?} {other:?}"),
        }
    }
    assert!(read > ROUNDS / 4, "{read}");
}

fn text(random: &mut Random) -> String {
    let text: String = (0..=random.below(6))
        .map(|_| random.one(&["a", "Zoë", " ", "\"", "\\", "'", "#", "=", "\\n", "]"]))
        .collect();
    format!("r{text}r")
}

fn whom(random: &mut Random, deep: bool) -> Whom {
    let number = random.below(1000);
    let dn = |random: &mut Random| {
        Dn::parse(&format!("/O=x{number}/CN=n{}", random.value()))
            .unwrap_or_else(|_| Dn::parse("/O=x").unwrap())
    };
    match random.below(if deep { 16 } else { 15 }) {
        0 | 1 => Whom::Name(Name::Dn(dn(random))),
        2 => Whom::Name(Name::token(Some("https://i.example/a"), &text(random)).unwrap()),
        3 => Whom::Name(
            Name::token(
                None,
                random.one(&["zoe", "a@b.example", "CN=x", "0000-0002-1825-0097", "https://i x"]),
            )
            .unwrap(),
        ),
        4 => Whom::Name(
            Name::community(random.one(&["zoe", "a@b.example", "/O=x", "0000-0002-1825-0097"])).unwrap(),
        ),
        5 => Whom::DnPattern(Glob::of_dn(&format!("/O=x{number}/*")).unwrap()),
        6 => Whom::TokenPattern(
            TokenPattern::new(
                random.one(&["^https://i\\.example/,a'b$", "x/y\\\\z", "\",\\s"]),
                random.below(2) == 0,
            )
            .unwrap(),
        ),
        7 => Whom::CertificatePattern(
            CertificatePattern::new("^/O=x/CN=[a-c]+", random.below(2) == 0).unwrap(),
        ),
        8 => Whom::Person(text(random)),
        9 => Whom::Vo(format!("vo{number}.example")),
        10 => Whom::Group(GroupPattern::parse(&format!("/cms/g{number}/*")).unwrap()),
        11 => Whom::PrimaryGroup(GroupPattern::parse(&format!("/cms/g{number}/Role=x")).unwrap()),
        12 => Whom::Issuer(if number < 500 {
            Issuer::Ca(dn(random))
        } else {
            Issuer::Token("https://i.example/".into())
        }),
        13 => {
            if number < 500 {
                Whom::Pilot(text(random))
            } else {
                Whom::PilotUid(random.next() as u32 / 2)
            }
        }
        14 => Whom::Image(format!("sha256:{:064x}", random.next())),
        _ => Whom::All((0..2 + random.below(14)).map(|_| whom(random, false)).collect()),
    }
}

fn ban(random: &mut Random) -> Ban {
    let mut ban = Ban::new(whom(random, true), 0);
    ban.reason = Some(text(random));
    ban.ticket = (random.below(2) == 0).then(|| text(random));
    ban.from =
        (random.below(3) == 0).then(|| Timestamp::new(1_700_000_000 + random.below(1_000_000) as i64, 5));
    ban.until =
        (random.below(3) == 0).then(|| Timestamp::new(1_800_000_000 + random.below(1_000_000) as i64, 0));
    ban.measure = [None, Some(Measure::Kill), Some(Measure::Freeze)][random.below(3)];
    ban.grace = (random.below(3) == 0).then(|| Duration::from_secs(random.below(100_000) as u64));
    ban
}

#[test]
fn what_is_written_reads_back() {
    let mut random = Random(1);
    for _ in 0..300 {
        let bans: Vec<Ban> = (0..random.below(6)).map(|_| ban(&mut random)).collect();
        let text = render(&bans);
        let list =
            parse(text.as_bytes(), Format::Ours).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]));
        assert_eq!(list.bans, bans, "{text}");
        assert_eq!(render(&list.bans), text);
    }
    // Lists of other formats give no reason.
    let list = parse(b"\"/O=x\"\n", Format::Lcas).unwrap();
    assert!(render(&list.bans).contains("reason = \"no reason was given\""));
}

/// An entry of a list on its own, and the list's frame.
fn entry(random: &mut Random, format: Format) -> String {
    let number = random.below(10_000);
    match format {
        Format::Ours => render(&[ban(random)]),
        Format::Lcas => match random.below(4) {
            0 => format!("\"/vo{number}/Role=x\"\n"),
            1 => format!("\"/O=x{number}/*\" .pool\n"),
            2 => format!("\"CN=Some One {number},O=x\"\r\n"),
            _ => format!("# c\n\"/O=x/CN=Some One {number}\"\n"),
        },
        Format::DnLines => format!("/O=x/CN=Some One {number}\n"),
        Format::CondorMap => match random.below(3) {
            0 => format!("SCITOKENS /^https:\\/\\/i.example\\/{number},/ x@banned.htcondor.org\n"),
            1 => format!("GSI \"/O=x/CN={number}\" x@banned.htcondor.org\n"),
            _ => format!("SCITOKENS https://i.example,{number} x@banned.htcondor.org\n"),
        },
        Format::Argus => format!(
            "resource \".*\" {{ action \".*\" {{ rule deny {{ subject = \"CN=a {number},O=x\" }} }} }}\n"
        ),
    }
}

#[test]
fn order_does_not_count_and_more_lines_are_more_bans() {
    let mut random = Random(2);
    for format in FORMATS {
        for _ in 0..30 {
            let mut entries: Vec<String> =
                (0..=random.below(20)).map(|_| entry(&mut random, format)).collect();
            let read = |entries: &[String]| {
                let text = entries.concat();
                let list =
                    parse(text.as_bytes(), format).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]));
                let keys: BTreeSet<String> = list.bans.iter().map(|ban| ban.whom.key()).collect();
                (list.bans.len(), keys)
            };
            let (count, keys) = read(&entries);
            assert_eq!(count, entries.len(), "{format:?}");
            random.shuffle(&mut entries);
            assert_eq!(read(&entries), (count, keys.clone()), "{format:?}");
            entries.push(entry(&mut random, format));
            let (more, more_keys) = read(&entries);
            assert!(more == count + 1 && more_keys.is_superset(&keys), "{format:?}");
        }
    }
}

#[test]
fn nothing_that_is_not_understood_makes_a_list_shorter() {
    // A list that is cut off anywhere, or has one byte changed: an error, a remark, or at least as many entries as whole ones
    // stand before the place. Never a panic.
    let mut random = Random(3);
    for format in FORMATS {
        let entries: Vec<String> = (0..8).map(|_| entry(&mut random, format)).collect();
        let text = entries.concat();
        for cut in 0..text.len() {
            let whole = {
                let mut end = 0;
                entries
                    .iter()
                    .take_while(|entry| {
                        end += entry.len();
                        end <= cut
                    })
                    .count()
            };
            if let Ok(list) = parse(&text.as_bytes()[..cut], format) {
                assert!(list.bans.len() >= whole, "{format:?} {cut}");
            }
        }
        for _ in 0..ROUNDS / 10 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            let _ = parse(&bytes, format).map(|list| list.remarks_at(Timestamp::default()));
            let _ = mapfile::parse(&bytes);
        }
    }
}

#[test]
fn any_text_is_read_or_refused() {
    const PIECES: [&str; 34] = [
        "/",
        "CN",
        "=",
        "a",
        ",",
        "\"",
        "\\",
        "#",
        "+",
        " ",
        "Role",
        "NULL",
        "ivo://",
        "?",
        "*",
        "[",
        "]",
        "(",
        ")",
        "|",
        "{",
        "}",
        "1",
        ":",
        "^",
        "$",
        ".",
        "https://",
        "@",
        "x41",
        "é",
        "rule deny",
        "\n",
        "-",
    ];
    let mut random = Random(4);
    for _ in 0..ROUNDS {
        let text: String = (0..random.below(12)).map(|_| random.one(&PIECES)).collect();
        if let Ok(name) = Name::parse(&text) {
            let keys = name.keys();
            assert_eq!(keys[0], name.key());
            assert_eq!(Name::parse(&name.to_string()).map(|name| name.key()), Ok(name.key()), "{text}");
        }
        if let Ok(group) = Group::parse(&text) {
            assert!(GroupPattern::parse(&text).unwrap().matches(&group), "{text}");
        }
        if let Ok(glob) = Glob::of_dn(&text) {
            glob.matches("/o=x/cn=a");
        }
        if let Ok(pattern) = TokenPattern::new(&text, random.below(2) == 0) {
            pattern.matches("https://i.example", "a");
            assert_eq!(TokenPattern::parse(&pattern.to_string()), Ok(pattern), "{text}");
        }
        for format in FORMATS {
            let _ = parse(text.as_bytes(), format);
        }
    }
}

/// Of the CPU, by this thread: others use the machine too.
fn time_used() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
fn ten_thousand_entries_are_read_soon() {
    for format in FORMATS {
        let text: String = (0..10_000)
            .map(|number| match format {
                Format::Ours => format!("[[ban]]\nuser = \"/DC=org/DC=example/CN=Some One {number}\"\nreason = \"r\"\nticket = \"T{number}\"\n"),
                Format::Lcas => format!("\"/DC=org/DC=example/CN=Some One {number}\"\n"),
                Format::DnLines => format!("/DC=org/DC=example/CN=Some One {number}\n"),
                Format::CondorMap => format!("SCITOKENS /^https:\\/\\/iam.example.org\\/,subject-{number}$/ x@banned.htcondor.org\n"),
                Format::Argus => format!("resource \".*\" {{ action \".*\" {{ rule deny {{ subject = \"CN=Some One {number},DC=example,DC=org\" }} }} }}\n"),
            })
            .collect();
        let start = time_used();
        let list = parse(text.as_bytes(), format).unwrap();
        let took = time_used().saturating_sub(start);
        assert_eq!(list.bans.len(), 10_000);
        println!("{format:?}: {took:?}");
        // Unoptimised code takes some forty times as long.
        let most = if cfg!(debug_assertions) { 5000 } else { 100 };
        assert!(took < Duration::from_millis(most), "{format:?}: {took:?}");
    }
}

#[test]
fn the_largest_lists_end() {
    let line = "\"/O=x\"\n";
    let start = Instant::now();
    let faults = parse(line.repeat(super::lines::MOST_ENTRIES + 1).as_bytes(), Format::Lcas).unwrap_err();
    assert!(faults[0].why.contains("more than 1000000"), "{}", faults[0]);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
}

/// The examples of the documentation are read, each as its fence says.
#[test]
fn the_documentation_is_right() {
    let docs = include_str!("../../docs/bans.md");
    let mut examples = 0;
    for block in docs.split("\n```").skip(1).step_by(2) {
        let (fence, text) = block.split_once('\n').unwrap();
        let text = format!("{text}\n");
        let format = match fence {
            "toml" => Format::Ours,
            "lcas" => Format::Lcas,
            "dn" => Format::DnLines,
            "condor" => Format::CondorMap,
            "argus" => Format::Argus,
            "names" => {
                // One name in all its spellings.
                let keys: BTreeSet<String> =
                    text.lines().map(|line| Name::parse(line).unwrap().key()).collect();
                assert_eq!(keys.len(), 1, "{keys:?}");
                examples += 1;
                continue;
            }
            "mapfile" => {
                mapfile::parse(text.as_bytes()).unwrap();
                examples += 1;
                continue;
            }
            _ => continue,
        };
        let list = parse(text.as_bytes(), format).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]));
        assert!(!list.bans.is_empty(), "{text}");
        examples += 1;
    }
    assert!(examples >= 7, "{examples}");
}
