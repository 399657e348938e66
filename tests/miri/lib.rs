//! `src/sys/` alone, with its own tests.
#[path = "../../src/sys/mod.rs"]
pub mod sys;
