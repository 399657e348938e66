//! The audit log: the record, the chain, and the file of the embedded default.
#![forbid(unsafe_code)]
