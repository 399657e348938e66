//! bailey runs one user's payload for a pilot job on a grid worker node: walls around the payload, and a durable record
//! of who it is before it runs.
//!
//! Read [`pipeline`] first: it is the story of one launch. Every other module is one room of that house, and
//! dependencies point downwards only:
//!
//! ```text
//! app                           the name and first word → who does the work; result → message and exit code
//!  ├─ frontend                  command line → request
//!  ├─ pipeline                  the story
//!  ├─ probe                     the same without its end: what `bailey check` asks the launcher
//!  │   ├─ identity, plan, image     decisions: they look, and change nothing
//!  │   ├─ policy                    names, groups and ban lists: pure
//!  │   ├─ sandbox, supervisor       walls, the frozen payload, its life
//!  │   └─ report → audit            what happened → records, and the receipt without which nothing runs
//!  └─ admin, trace              questions to the log (the program bailey-admin)
//! sys                           the only unsafe code: one wrapper per system call, and the allocator
//! ```
//!
//! `request`, `config`, `host`, `proc` and `failure` hold what all of them speak in. The reasons are in `docs/architecture.md`.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cgroup;
pub mod config;
pub mod failure;
pub mod frontend;
#[cfg(any(test, feature = "test-hooks"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod identity;
pub mod image;
mod input;
pub mod overuse;
pub mod pipeline;
pub mod plan;
pub mod policy;
pub mod probe;
pub mod proc;
pub mod recorder;
pub mod report;
pub mod request;
pub mod sandbox;
pub mod supervisor;
pub mod sys;
pub mod trace;
pub mod uids;
