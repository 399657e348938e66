//! A command line → a [`crate::request::Request`]. No effects but the wiping of secrets from argv and the reading of files that the
//! line names.
#![forbid(unsafe_code)]

pub mod apptainer;
pub mod bailey;

use crate::failure::Failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// clap's error as one sentence; its own text has several lines, a usage block, and a tip that takes every unknown option
/// for a value.
pub fn usage(error: &clap::Error, next: &str) -> Failure {
    let text = error.to_string();
    let what = "cannot understand the command line";
    if let Some(why) = without_the_secret(error) {
        return Failure::usage(what, why, next);
    }
    let is_end = |line: &str| ["Usage:", "For more information"].iter().any(|end| line.starts_with(end));
    let said: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("error: "))
        .take_while(|line| !is_end(line))
        .filter(|line| !line.is_empty() && !line.starts_with("tip:"))
        .collect();
    let tip = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .find(|tip| tip.contains("similar"))
        .map(ToOwned::to_owned);
    Failure::usage(what, said.join(" "), tip.unwrap_or_else(|| next.to_owned()))
}

/// The line goes to the pilot's output and into the log. What stands where a variable's value may stand is not repeated in
/// it, and of an argument that belongs nowhere only what is plainly an option's name.
fn without_the_secret(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    match error.kind() {
        ErrorKind::ValueValidation
            if argument.starts_with("--env ") || argument.starts_with("--pass-env ") =>
        {
            let why = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            Some(format!("the value of '{argument}' cannot be used: {why}"))
        }
        ErrorKind::UnknownArgument => {
            let plain = argument.strip_prefix("--").is_some_and(|name| {
                name.starts_with(|c: char| c.is_ascii_lowercase())
                    && name.len() <= 32
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            });
            (!plain).then(|| "there is an argument that is no option and stands before --".to_owned())
        }
        _ => None,
    }
}
