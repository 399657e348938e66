//! The node's recorder (`bailey-recorder`): an unprivileged service of its own account, whose log no pilot can change.
//!
//! ```text
//! cli         options and configuration → a running server
//! listen      systemd's socket, or one of our own
//! server      the event loop: take what came, write it in one go, answer
//!  ├─ connections who may have one, and what it may cost the others
//!  ├─ requests    what peers ask for: ends, questions of administrators
//!  ├─ launches    what may begin
//!  ├─ early       payloads that are looked at before their launch is asked for
//!  ├─ checks      whether a launch would get its receipt
//!  ├─ ids         which launches were here before
//!  ├─ payloads    what is live, until its one closing record is written
//!  ├─ stops       orders to stop it, until they are carried out
//!  ├─ resume      what comes back after a restart or a broken connection
//!  ├─ observe     what the kernel shows of peers and payloads, and descriptors that cannot be trusted
//!  ├─ accounts    what one uid may do
//!  └─ records     what the recorder writes: pure
//! log         one writer: batches, segments, live lists, checkpoints, reserve, retention
//! indexer     caches for questions, in a thread of their own
//! metrics     numbers for monitoring
//! ```
//!
//! The protocol is in [`crate::audit::wire`] and docs/recorder.md.
#![forbid(unsafe_code)]

pub(crate) mod accounts;
mod checks;
mod claims;
pub mod cli;
mod connections;
mod early;
mod ids;
mod indexer;
mod launches;
mod listen;
pub mod log;
mod metrics;
pub mod observe;
mod payloads;
mod records;
mod requests;
mod resume;
mod server;
mod site;
mod stops;
mod suspend;

#[cfg(test)]
pub(crate) use accounts::refusals as refusals_of_accounts;
#[cfg(test)]
pub(crate) use launches::refusals as refusals_of_launches;
