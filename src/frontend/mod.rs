//! A command line → a [`crate::request::Request`]. No effects but the wiping of secrets from argv.
#![forbid(unsafe_code)]

pub mod bailey;
