//! May they: the names of people and groups, and the lists of who is banned.
//!
//! 1. Everything here but `store` and `slots` MUST be pure: no file is opened, no clock is read, no environment looked at.
//! 2. Whatever stands in a list, reading it MUST end soon, with bounded memory: the limits are in `lines.rs`.
//! 3. A list that is not understood completely MUST be an error. A part of a ban list is a hole.
#![forbid(unsafe_code)]

pub mod bans;
pub mod decide;
pub mod facts;
pub mod glob;
pub mod group;
pub mod index;
pub mod lines;
pub mod lists;
pub mod mapfile;
pub mod name;
pub mod rule;
pub mod settings;
pub mod slots;
pub mod store;
pub mod verdict;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
