//! A report for a person, and for a program.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::{Report, Row};
use crate::failure::Printable;

pub(super) fn json(report: &Report) -> String {
    serde_json::to_string(report).unwrap_or_default() + "\n"
}

/// A table, the lines to change, the verdict.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let width =
        |of: &dyn Fn(&Row) -> usize, least: usize| report.checks.iter().map(of).max().unwrap_or(0).max(least);
    let (name, wanted, state) = (
        width(&|row| row.mechanism.chars().count(), 9),
        width(&|row| row.wanted.as_str().len(), 6),
        width(&|row| row.state.as_str().len(), 5),
    );
    let mut line = |a: &str, b: &str, c: &str, d: &str| {
        let text = format!("{a:<name$}  {b:<wanted$}  {c:<state$}  {}", Printable(d));
        let _ = writeln!(out, "{}", text.trim_end());
    };
    if !report.checks.is_empty() {
        line("MECHANISM", "WANTED", "STATE", "WHY");
    }
    for row in &report.checks {
        line(&row.mechanism, row.wanted.as_str(), row.state.as_str(), &row.why);
    }
    let changes: Vec<(&Row, &String)> =
        report.checks.iter().filter_map(|row| row.change.as_ref().map(|change| (row, change))).collect();
    if !changes.is_empty() {
        out.push_str("\nTo change it:\n");
        for (row, change) in changes {
            let _ = writeln!(out, "  {}: {}", row.mechanism, Printable(change));
        }
    }
    if !report.checks.is_empty() {
        out.push('\n');
    }
    let verdict = match report.verdict {
        "ready" => "Ready",
        "degraded" => "Ready, with warnings",
        "draining" => "Draining",
        "not-ready" => "Not ready",
        _ => "Unknown",
    };
    let _ = writeln!(out, "{verdict}: {}.", Printable(report.reason.trim_end_matches('.')));
    out
}
