//! What is wrong with `[limits]` as a whole, when every file is read.
#![forbid(unsafe_code)]

use super::Limits;
use super::show::{cores, size};
use crate::failure::Failure;

/// # Errors
/// What holds when nothing is asked is more than may be asked.
pub(super) fn check(limits: &Limits) -> Result<(), Failure> {
    let number = |number: u64| number.to_string();
    let pairs: [(&str, Option<u64>, Option<u64>, &dyn Fn(u64) -> String); 3] = [
        ("memory", limits.memory, limits.most_memory, &size),
        ("cpus", limits.cpus_milli, limits.most_cpus_milli, &cores),
        ("pids", limits.pids, limits.most_pids, &number),
    ];
    for (key, default, most, text) in pairs {
        if let (Some(default), Some(most)) = (default, most)
            && default > most
        {
            return Err(Failure::site(
                format!("cannot use the configuration: limits.{key} = \"{}\"", text(default)),
                format!("no more than limits.most_{key} = \"{}\" may be asked", text(most)),
                format!("lower limits.{key}, or raise limits.most_{key}"),
            ));
        }
    }
    Ok(())
}
