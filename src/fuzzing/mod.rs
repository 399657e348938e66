//! For tests only: every parser of bytes that come from outside, as one function each that any bytes may be given to.
//!
//! `fuzz/` drives them with coverage, `tests/parsers.rs` with the seeds in `fuzz/seeds/` and mutations of them. They are in no
//! program that is shipped: the module is compiled for tests and with the feature `test-hooks`.
//!
//! 1. A target returns whether the bytes were understood. What it finds wrong is a panic: that is how fuzzers are told.
//! 2. A target opens no file of the host, asks no clock and keeps nothing: the same bytes give the same answer.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod admin;
mod launcher;
mod made;
mod policy;
mod random;
mod records;

pub use made::{made, messages};
pub use random::{Random, mutate};

/// One target.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by the names of their programs in `fuzz/fuzz_targets/` and of their folders in `fuzz/seeds/`.
pub const TARGETS: [(&str, Target); 24] = [
    ("accounts", crate::recorder::accounts::fuzz),
    ("bans", policy::bans),
    ("child", launcher::child),
    ("command", launcher::command),
    ("compiled", crate::policy::store::fuzz::compiled),
    ("config", policy::config),
    ("cursor", crate::admin::report::cursor::fuzz),
    ("groups", crate::policy::store::fuzz::groups),
    ("identity", crate::identity::document::fuzz),
    ("image", launcher::image),
    ("index", crate::trace::index::fuzz::index),
    ("job_ad", crate::identity::job_ad::fuzz),
    ("line", records::line),
    ("live", crate::audit::live::fuzz),
    ("name", policy::name),
    ("pattern", policy::pattern),
    ("proc", launcher::proc),
    ("redact", records::redact),
    ("runtime", crate::frontend::apptainer::fuzz),
    ("segment", crate::trace::index::fuzz::segment),
    ("systems", crate::image::end_of_life::fuzz),
    ("values", launcher::values),
    ("when", admin::when),
    ("wire", records::wire),
];

/// The target of this name.
///
/// # Panics
/// There is none: a program in `fuzz/fuzz_targets/` has a wrong name.
pub fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name").1
}

/// A message for a person: one line that drives no terminal, whatever it names.
pub(crate) fn is_one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}
