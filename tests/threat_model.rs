//! docs/threat-model.md names tests; each of them is there, and no row is without all its columns.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md")).unwrap()
}

/// The source of a test program.
fn source(name: &str) -> Option<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    [format!("{name}.rs"), format!("{name}/main.rs")]
        .iter()
        .find_map(|path| fs::read_to_string(tests.join(path)).ok())
}

/// Cells of a table's row; a `|` inside one is written `\|`.
fn cells(line: &str) -> Vec<String> {
    let inside = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{0}");
    inside.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[test]
fn every_test_that_it_names_is_there() {
    let mut sources: HashMap<String, Option<String>> = HashMap::new();
    let (mut named, mut missing) = (0, Vec::new());
    for line in document().lines().filter(|line| line.starts_with('|')) {
        let cells = cells(line);
        let mut file = String::new();
        for item in cells.last().unwrap().split([',', ';']).map(str::trim) {
            let (head, test) = item.split_once("::").map_or((None, item), |(head, test)| (Some(head), test));
            let test = test.split([' ', '(']).next().unwrap_or_default();
            match head {
                Some(head) if is_word(head) => head.clone_into(&mut file),
                Some(_) => continue,
                // A name alone is of the same file, unless it is that of a whole program.
                None if file.is_empty() || item.contains(' ') || !is_word(item) || source(item).is_some() => {
                    continue;
                }
                None => {}
            }
            let text = sources.entry(file.clone()).or_insert_with(|| source(&file));
            named += 1;
            // An attack is a program of its own, and its test has its name.
            if file == "attacks"
                && Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/attacks/{test}.c")).exists()
            {
                continue;
            }
            if !text.as_ref().is_some_and(|text| text.contains(&format!("fn {test}("))) {
                missing.push(format!("{file}::{test}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/threat-model.md names tests that are not there: {missing:#?}");
    assert!(named > 100, "only {named} names were found in it");
}

#[test]
fn every_row_has_its_columns() {
    let document = document();
    let mut columns = 0;
    let mut rows = 0;
    for line in document.lines() {
        if !line.starts_with('|') {
            columns = 0;
            continue;
        }
        let cells = cells(line);
        if columns == 0 {
            columns = cells.len();
        }
        assert_eq!(cells.len(), columns, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
        if columns == 6 && !line.starts_with("|--") && !line.starts_with("| Row") {
            rows += 1;
            let known = ["host", "pilot", "others", "record", "service"];
            assert!(
                cells.get(2).unwrap().split(", ").all(|word| known.contains(&word)),
                "consequence of: {line}"
            );
            let known = ["common", "known", "possible", "rare"];
            assert!(known.contains(&cells.get(3).unwrap().as_str()), "likelihood of: {line}");
        }
    }
    assert!(rows > 70, "{rows} rows have a consequence and a likelihood");
}
