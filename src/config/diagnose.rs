//! What is wrong in a configuration file, where, and what to write instead.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::Path;

use crate::failure::Failure;

/// The failure for an error that toml found in `text`: line, column, what it found and expected, next step.
pub(super) fn explain(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let (why, meant) = reason(error);
    let next = match meant {
        Some(word) => format!("did you mean '{word}'? Correct it, then check it"),
        None => "correct it, then check it".to_owned(),
    };
    at(path, text, error.span(), &why, &next)
}

/// What toml found and expected, on one line, and the word that was probably meant.
pub(crate) fn reason(error: &toml::de::Error) -> (String, Option<String>) {
    let message = error.message().replace('\n', ", ").replace("expected a sequence", "expected a list");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let section = quoted.contains(&"sandbox") && quoted.contains(&"limits");
    let meant = match quoted.split_first() {
        Some((found, expected)) if message.starts_with("unknown ") => nearest(found, expected),
        _ => None,
    };
    let noun = if section { "unknown section" } else { "unknown key" };
    (message.replacen("unknown field", noun, 1), meant.map(str::to_owned))
}

/// The failure for any fault at `span` of `text`; without a span the whole file is meant.
pub(super) fn at(path: &Path, text: &str, span: Option<Range<usize>>, why: &str, next: &str) -> Failure {
    let file = path.display();
    let (place, line) = match span {
        Some(span) => {
            let (line, column, content) = position(text, span.start);
            (format!(", line {line}, column {column}"), format!(", in \"{}\"", shorten(content)))
        }
        None => (String::new(), String::new()),
    };
    Failure::site(
        format!("cannot use the configuration {file}{place}"),
        format!("{why}{line}"),
        format!("{next} with 'bailey config validate {file}'"),
    )
}

/// Line and column, both from 1, the column in characters, and the line's text.
fn position(text: &str, offset: usize) -> (usize, usize, &str) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let (before, after) = text.split_at(offset);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let end = after.find('\n').map_or(text.len(), |newline| offset + newline);
    let line = before.matches('\n').count() + 1;
    let column = before.get(start..).map_or(0, |part| part.chars().count()) + 1;
    (line, column, text.get(start..end).unwrap_or_default().trim())
}

fn shorten(line: &str) -> String {
    if line.chars().count() <= 60 {
        return line.to_owned();
    }
    line.chars().take(59).chain(['…']).collect()
}

/// The expected word that `found` is probably a misspelling of.
fn nearest<'a>(found: &str, expected: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('-', "_");
    let found = plain(found);
    let (distance, word) = expected
        .iter()
        .map(|word| (distance(&found, &plain(word)), *word))
        .min_by_key(|(distance, _)| *distance)?;
    // A third of the word: "on" must not become "off".
    (distance <= word.len().div_ceil(3)).then_some(word)
}

/// Levenshtein's distance.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("a\nbé=x\n", 5), (2, 3, "bé=x"));
        assert_eq!(position("a", 9), (1, 2, "a"));
        assert_eq!(position("", 0), (1, 1, ""));
        assert_eq!(position("é", 1), (1, 1, "é"));
    }

    #[test]
    fn nearest_is_near() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("scratch_sise", &["sys", "scratch_size"]), Some("scratch_size"));
        assert_eq!(nearest("Late-Mounts", &["late_mounts"]), Some("late_mounts"));
        assert_eq!(nearest("colour", &["sys", "scratch_size"]), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(nearest("on", &["required", "preferred", "off"]), None);
    }
}
