//! What is wrong with `[limits]` as a whole, when every file is read.
#![forbid(unsafe_code)]

use super::Limits;
use super::show::{cores, size};
use crate::failure::Failure;

/// # Errors
/// What holds when nothing is asked is more than may be asked.
pub(super) fn check(limits: &Limits) -> Result<(), Failure> {
    let above = |default: Option<u64>, most: Option<u64>, text: fn(u64) -> String| {
        default
            .zip(most)
            .filter(|(default, most)| default > most)
            .map(|(default, most)| (text(default), text(most)))
    };
    for (key, above) in [
        ("memory", above(limits.memory, limits.most_memory, size)),
        ("cpus", above(limits.cpus_milli, limits.most_cpus_milli, cores)),
        ("pids", above(limits.pids, limits.most_pids, |pids| pids.to_string())),
    ] {
        if let Some((default, most)) = above {
            return Err(Failure::site(
                format!("cannot use the configuration: limits.{key} = \"{default}\""),
                format!("no more than limits.most_{key} = \"{most}\" may be asked"),
                format!("lower limits.{key}, or raise limits.most_{key}"),
            ));
        }
    }
    Ok(())
}
