//! Copies of records to the system journal. Never the guarantee.
#![forbid(unsafe_code)]
