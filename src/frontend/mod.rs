//! A command line → a [`crate::request::Request`]. No effects but the wiping of secrets from argv.
#![forbid(unsafe_code)]

pub mod bailey;

use crate::failure::Failure;

/// clap's error as one sentence; its own text has several lines, a usage block, and a tip that takes every unknown option
/// for a value.
pub fn usage(error: &clap::Error, next: &str) -> Failure {
    let text = error.to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("Usage:"))
        .map(|line| line.trim().trim_start_matches("error: "))
        .filter(|line| {
            !line.is_empty() && !line.starts_with("tip:") && !line.starts_with("For more information")
        })
        .collect();
    let tip = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .find(|tip| tip.contains("similar"))
        .map(ToOwned::to_owned);
    Failure::usage(
        "cannot understand the command line",
        said.join(" "),
        tip.unwrap_or_else(|| next.to_owned()),
    )
}
