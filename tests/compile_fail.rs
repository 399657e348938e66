//! What must not compile: a release without the receipt of a durable record, a second receipt, a state used twice.
//!
//! The compiler's words are pinned in tests/compile_fail/*.stderr. Another version of rustc may say the same in other
//! words; look at the difference, then write them anew: TRYBUILD=overwrite bash tests/test.sh -E 'binary(compile_fail)'
#![forbid(unsafe_code)]

#[test]
fn what_would_break_the_promises_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
