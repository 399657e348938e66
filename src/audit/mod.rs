//! The audit log: the record, the chain, and the file of the embedded default.
//!
//! What a caller needs: fill a [`record::Record`], open an [`log::EmbeddedLog`], exchange the record of a launch for a
//! [`receipt::Receipt`], and end with [`log::EmbeddedLog::append_end`]. Nothing here decides whether a payload may run.
#![forbid(unsafe_code)]

pub mod chain;
pub mod client;
pub mod drain;
pub mod journal;
pub mod lines;
pub(crate) mod live;
pub mod log;
pub mod place;
pub mod receipt;
pub mod record;
pub mod redact;
pub(crate) mod repair;
pub mod segment;
pub mod sign;
pub mod time;
pub mod wire;

pub use log::{Durability, EmbeddedLog, LiveSlot, LogOptions, Position};
pub use receipt::{CheckReceipt, Receipt};
pub use record::Record;
pub use time::Timestamp;
