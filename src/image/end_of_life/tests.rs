//! The two forms of the table are one, and of what a site writes nothing wrong goes through.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::input::tests::Scratch;
use std::fmt::Write as _;

const SHIPPED: &str = include_str!("../../../config/end-of-life.toml");

/// `table.rs` as `table` makes it.
fn source(table: &EndOfLife) -> String {
    let Day { year, month, of_month: day } = table.dated;
    let mut text = format!(
        "//! `config/end-of-life.toml` as constants. Written by a test (see `../end_of_life.rs`): change that file, not this one.\n\
         #![forbid(unsafe_code)]\n\nuse super::{{Day, Row}};\nuse std::borrow::Cow::Borrowed;\n\n\
         pub(super) const DATED: Day = Day::new({year}, {month}, {day});\n\n\
         /// `Some(NAME)` where the name is a condition.\n\
         const fn row(id: &'static str, name: Option<&'static str>, version: &'static str, end: (u16, u8, u8)) -> Row {{\n\
         \x20   let name = match name {{\n        Some(name) => Some(Borrowed(name)),\n        None => None,\n    }};\n\
         \x20   let end = Some(Day::new(end.0, end.1, end.2));\n\
         \x20   Row {{ id: Borrowed(id), name, version: Borrowed(version), end }}\n}}\n\n\
         const fn rolling(id: &'static str) -> Row {{\n\
         \x20   Row {{ id: Borrowed(id), name: None, version: Borrowed(\"\"), end: None }}\n}}\n\n\
         pub(super) const ROWS: &[Row] = &[\n",
    );
    for Row { id, name, version, end } in table.rows.iter() {
        match end {
            Some(Day { year, month, of_month: day }) => {
                let name = name.as_deref();
                writeln!(text, "    row({id:?}, {name:?}, {version:?}, ({year}, {month}, {day})),").unwrap();
            }
            None => writeln!(text, "    rolling({id:?}),").unwrap(),
        }
    }
    text + "];\n"
}

#[test]
fn the_table_built_in_is_the_file() {
    let file = EndOfLife::parse(SHIPPED.as_bytes()).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/image/end_of_life/table.rs");
    if std::env::var_os("BAILEY_WRITE_TABLE").is_some() {
        std::fs::write(path, source(&file)).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == source(&file), "BAILEY_WRITE_TABLE=1 writes it anew");
    assert!(EndOfLife::builtin() == &file);
    assert!(file.rows.len() > 100, "{}", file.rows.len());
    assert_eq!(EndOfLife::builtin().dated().unwrap().day(), "2026-08-22");
}

fn os(id: &str, version: Option<&str>, name: Option<&str>) -> Os {
    let text = |text: Option<&str>| text.map(str::to_owned);
    Os { id: id.to_owned(), version_id: text(version), name: text(name), ..Os::default() }
}

#[test]
fn systems_that_grid_sites_know() {
    let end = |id, version, name| EndOfLife::builtin().of(&os(id, Some(version), name)).map(Timestamp::day);
    for (id, version, name, expected) in [
        ("scientific", "6.10", None, "2020-11-30"),
        ("scientific", "7.9", None, "2024-06-30"),
        ("centos", "7", Some("CentOS Linux"), "2024-06-30"),
        ("centos", "7.9.2009", None, "2024-06-30"),
        ("centos", "8", Some("CentOS Linux"), "2021-12-31"),
        ("centos", "8", Some("CentOS Stream"), "2024-05-31"),
        ("centos", "9", Some("CentOS Stream"), "2027-05-31"),
        ("almalinux", "9.3", None, "2032-05-31"),
        ("almalinux", "10.0", None, "2035-05-31"),
        ("rocky", "8.10", None, "2029-05-31"),
        ("debian", "12", None, "2028-06-30"),
        ("debian", "6.0.10", None, "2016-02-29"),
        ("ubuntu", "20.04", None, "2025-05-31"),
        ("sles", "15.6", None, "2025-12-31"),
        ("opensuse-leap", "15.6", None, "2026-04-30"),
        ("alpine", "3.18.4", None, "2025-05-09"),
    ] {
        assert_eq!(end(id, version, name).as_deref(), Some(expected), "{id} {version} {name:?}");
    }
    for (id, version) in [
        ("almalinux", "1"),
        ("almalinux", "100"),
        ("almalinux", "99"),
        ("alpine", "3.1x"),
        ("ubuntu", "20"),
        ("unheard-of", "9"),
        ("arch", "20240101"),
    ] {
        assert_eq!(end(id, version, None), None, "{id} {version}");
    }
    assert_eq!(EndOfLife::builtin().of(&os("debian", None, None)), None);
    // To the last second of that day.
    let last = EndOfLife::builtin().of(&os("centos", Some("7"), None)).unwrap();
    assert_eq!(last.to_string(), "2024-06-30T23:59:59.000000000Z");
}

#[test]
fn the_table_has_the_word_before_the_image() {
    let later = Timestamp::parse_rfc3339("2099-12-31T00:00:00Z").unwrap();
    let told = |id, version| Os { support_end: Some(later), ..os(id, Some(version), None) };
    assert_eq!(EndOfLife::builtin().of(&told("centos", "7")).unwrap().day(), "2024-06-30");
    assert_eq!(EndOfLife::builtin().of(&told("arch", "1")), None);
    assert_eq!(EndOfLife::builtin().of(&told("unheard-of", "1")), Some(later));
}

#[test]
fn a_site_s_own_file() {
    let scratch = Scratch::new();
    let good = "\u{feff}dated = 2026-11-01\r\n[[system]]\r\nid = \"own\"\r\nsource = [\"https://own.example.org\"]\r\n\
        [system.end]\r\n\"1\" = 2030-02-28\r\n\"1.2\" = 2029-01-01\r\n";
    let table = EndOfLife::read(&scratch.write("own.toml", good)).unwrap();
    assert_eq!(table.of(&os("own", Some("1.2.3"), None)).unwrap().day(), "2029-01-01");
    assert_eq!(table.of(&os("own", Some("1.20"), None)).unwrap().day(), "2030-02-28");
    assert_eq!(table.of(&os("centos", Some("7"), None)), None, "nothing of the other is used");

    let system = "dated = 2026-11-01\n[[system]]\nid = \"own\"\nsource = [\"https://own.example.org\"]\n";
    for (text, words) in [
        (String::new(), vec!["dated"]),
        ("dated = \"2026-11-01\"\n".to_owned(), vec!["line 1, column 9"]),
        ("dated = 2026-11-01T00:00:00Z\n".to_owned(), vec!["line 1, column 9", "a day that exists"]),
        ("dated = 2026-02-29\n".to_owned(), vec!["line 1, column 9"]),
        (
            format!("{system}rolling = true\n[system.end]\n\"1\" = 2030-01-01\n"),
            vec!["line 3, column 6", "either"],
        ),
        (system.to_owned(), vec!["line 3, column 6", "either"]),
        (format!("{system}ends = 1\n"), vec!["line 5, column 1", "unknown field `ends`"]),
        (format!("{system}[system.end]\n\"1\" = 2030-13-01\n"), vec!["line 6, column 7"]),
        (format!("{system}[system.end]\n\"1\" = 2030-02-30\n"), vec!["line 6, column 7"]),
        (format!("{system}[system.end]\n\"1\" = 07:32:00\n"), vec!["line 6, column 7", "a day that exists"]),
        (format!("{system}[system.end]\n\"1.\" = 2030-01-01\n"), vec!["line 6, column 1", "VERSION_ID"]),
        (format!("{system}[system.end]\n\"\" = 2030-01-01\n"), vec!["line 6, column 1", "VERSION_ID"]),
        (
            format!("{system}[system.end]\n1 = 2030-01-01\n1 = 2030-01-02\n"),
            vec!["line 7, column 1", "duplicate key"],
        ),
        (format!("{system}rolling = true\n{}", &system[19..]), vec!["line 7, column 6", "either"]),
        (
            format!("{system}rolling = true\n{}rolling = true\n", &system[19..]),
            vec!["line 7, column 6", "twice"],
        ),
        (
            system.replace("own\"", "o wn\"") + "rolling = true\n",
            vec!["line 3, column 6", "ID of an os-release"],
        ),
        (
            system.replace("\"https://own.example.org\"", "") + "rolling = true\n",
            vec!["line 4, column 10", "source"],
        ),
        (system.replace("https", "file") + "rolling = true\n", vec!["line 4, column 10", "source"]),
        (format!("\u{feff}{system}x"), vec!["line 5, column 2"]),
    ] {
        let failure = EndOfLife::read(&scratch.write("bad.toml", &text)).expect_err(&text).to_string();
        for word in words {
            assert!(failure.contains(word), "'{word}' is not in: {failure}\n{text}");
        }
        assert!(!failure.contains('\n'));
    }
    let failure = EndOfLife::read(&scratch.write("bytes.toml", b"dated = 2026-11-01\n# \xff\n"))
        .unwrap_err()
        .to_string();
    assert!(failure.contains("line 2, column 3") && failure.contains("UTF-8"), "{failure}");
    for (path, word) in [
        (scratch.0.join("missing"), "ENOENT"),
        (scratch.0.clone(), "a directory"),
        (scratch.fifo("fifo"), "a FIFO"),
        (scratch.write("large", vec![b'#'; (LIMIT + 1) as usize]), "larger"),
    ] {
        assert!(EndOfLife::read(&path).unwrap_err().to_string().contains(word));
    }
}
