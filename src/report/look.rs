//! The launcher's look at a frozen payload, for its records.
#![forbid(unsafe_code)]

use super::records::{Frozen, handed_over_hash, start_time};
use crate::cgroup::{Group, Words};
use crate::failure::Failure;
use crate::plan::HandedOver;
use crate::proc;
use crate::sandbox::{self, observe};
use std::ffi::CString;

/// Looks at a frozen payload from outside, and refuses one that is less locked in than it says.
///
/// # Errors
/// A wall that must hold does not.
pub fn look(
    frozen: &sandbox::Frozen,
    explainer: &sandbox::Explainer,
    mounts: &[HandedOver],
) -> Result<Frozen, Failure> {
    let observed = observe::payload(frozen.pid());
    if let Some(observed) = &observed {
        observed.check(frozen.ready(), explainer.expected().own_pids)?;
        observed.check_account(explainer.expected().outside)?;
    }
    let limits = confirm_group(frozen)?;
    let executable = explainer.command(frozen.ready());
    Ok(Frozen {
        pid: frozen.pid(),
        ready: *frozen.ready(),
        landlock: explainer.expected().landlock(frozen.ready()),
        started: observed.as_ref().and_then(|observed| start_time(observed.start_ticks)),
        observed,
        namespaces: frozen.namespace_inodes().to_vec(),
        cgroup: frozen.group().map(Group::record),
        limits,
        executable_hash: frozen
            .program()
            .and_then(|(program, path)| handed_over_hash(program, &path, mounts)),
        executable,
    })
}

/// Reads back where the payload is.
fn confirm_group(frozen: &sandbox::Frozen) -> Result<Words, Failure> {
    let mut limits = frozen.limits().clone();
    let Some(group) = frozen.group() else { return Ok(limits) };
    let path = CString::new(format!("/proc/{}/cgroup", frozen.pid())).unwrap_or_default();
    match proc::text(&path) {
        Ok(text) if group.holds(&text) => {}
        Ok(text) => {
            let found = text.lines().collect::<Vec<_>>().join(" ");
            return Err(crate::cgroup::missing(
                "the payload is not in the cgroup that was made for it",
                format!("the kernel shows {found}"),
            ));
        }
        Err(_) => {
            if let Some(state) = limits.get_mut("cgroup") {
                state.push_str("; not confirmed, this host hides /proc of others");
            }
        }
    }
    Ok(limits)
}
