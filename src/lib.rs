//! bailey runs one user's payload for a pilot job on a grid worker node: walls around the payload, and a durable record
//! of who it is before it runs.
//!
//! Read [`pipeline`] first: it is the story. Every other module is one room of that house, and dependencies point
//! downwards only: front end → pipeline → (identity, image, sandbox, supervisor, audit) → sys.

pub mod admin;
pub mod app;
pub mod audit;
pub mod config;
pub mod failure;
pub mod frontend;
pub mod host;
pub mod identity;
pub mod image;
mod input;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod request;
pub mod sandbox;
pub mod supervisor;
pub mod sys;
pub mod trace;
