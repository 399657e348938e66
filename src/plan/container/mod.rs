//! Called as a container runtime: where Apptainer's manner puts home, /tmp, scratch and current directory, what runs, and with which
//! variables. How much of the host that is beyond what was named, the site says (`[apptainer]`).
//!
//! 1. Nothing here shows more than Apptainer would. What it would show and the site does not is written down ([`Places::unheeded`]).
//! 2. Every path that this manner shows is one of [`Places::handed`], so that policy judges it like a bind.
//! 3. Directories are made below the caller's own `--workdir` only, after the policy's yes, and never through a symbolic link.
#![forbid(unsafe_code)]

mod account;
mod extras;
mod places;
mod start;
mod variables;

pub(super) use account::{passwd_and_group, umask};
pub(super) use extras::{hostname, localtime, mount_point};
pub(super) use places::{Manner, Place, Places, depth, furnish, open, start_dir};
pub(super) use start::{bring_along, start};
use variables::Variables;
pub(super) use variables::{Inside, exempt, variables};
