//! `bailey ban import`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::edit::Locked;
use super::lists::Site;
use super::{Import, tell};
use crate::failure::{Failure, Printable};
use crate::input;
use crate::policy::bans::{self, Ban, Format, MOST_BYTES};
use crate::policy::store::stamp::digest;

/// Takes a list over. Exit code 1 where a line of it cannot be understood: then nothing is taken.
pub(super) fn run(options: &Import) -> Result<(String, u8), Failure> {
    let site = Site::read()?;
    let dir = &site.config.policy.bans.dir;
    let file = options.file.display().to_string();
    let name = options.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let format =
        options.format.map(super::Written::format).or_else(|| Format::of_name(&name)).ok_or_else(|| {
            Failure::usage(
                format!("cannot import {file}"),
                "its name does not say how it is written",
                "name the format: --format lcas, dn, condor, argus or toml",
            )
        })?;
    let bytes = input::open(&options.file)
        .map_err(input::Trouble::from)
        .and_then(|file| input::read_small(&file, MOST_BYTES as u64))
        .map_err(|why| {
            Failure::usage(format!("cannot import {file}"), why.to_string(), "name a list that you may read")
        })?
        .1;
    let mut out = String::new();
    let list = match bans::parse(&bytes, format) {
        Ok(list) => list,
        Err(faults) => {
            for fault in faults {
                let _ = writeln!(out, "{}: {fault}", Printable(&file));
            }
            out.push_str("Nothing was imported.\n");
            return Ok((out, 1));
        }
    };
    for remark in list.remarks.iter().chain(&list.remarks_at(site.now)) {
        let _ = writeln!(out, "{}: {remark}", Printable(&file));
    }
    let reason = options.reason.clone().unwrap_or_else(|| format!("imported from {}", Printable(&file)));
    let locked = (!options.dry_run).then(|| Locked::take(dir, true)).transpose()?;
    let known: Vec<Ban> = match &locked {
        Some(locked) => locked.open(&options.list)?.list.bans,
        None => site
            .files
            .iter()
            .find(|file| file.state.name == options.list)
            .map(|file| file.list.bans.clone())
            .unwrap_or_default(),
    };
    let all = list.bans.len();
    let mut seen: std::collections::HashSet<String> = known.iter().map(identity).collect();
    let new: Vec<Ban> = list
        .bans
        .into_iter()
        .map(|ban| Ban { reason: ban.reason.or_else(|| Some(reason.clone())), ..ban })
        .filter(|ban| seen.insert(identity(ban)))
        .collect();
    let text = entries(&new);
    let there = all - new.len();
    let also = if there > 0 { format!(", {there} are there already or said twice") } else { String::new() };
    let bans = if new.len() == 1 { "1 ban".to_owned() } else { format!("{} bans", new.len()) };
    let Some(locked) = locked else {
        let _ = writeln!(out, "Would import {bans} into {}{also}:\n{text}", options.list);
        return Ok((out, 0));
    };
    if new.is_empty() {
        let _ = writeln!(out, "Nothing to import from {}{also}.", Printable(&file));
        return Ok((out, 0));
    }
    let own = locked.open(&options.list)?;
    let (after, _) = own.with(&text, &new)?;
    let told = tell::tell(&site.config, &own.name, digest(after.as_bytes()), Some(&text));
    own.replace(&after)?;
    let _ = writeln!(out, "Imported {bans} from {} into {}{also}.", Printable(&file), own.name);
    out.push_str(&told.words(site.config.policy.bans.poll));
    out.push_str(&told.live("stopped now"));
    if options.file.canonicalize().is_ok_and(|path| path.parent() == dir.canonicalize().ok().as_deref()) {
        let _ =
            writeln!(out, "{} itself is still read; remove it, or its bans hold twice.", Printable(&file));
    }
    drop(locked);
    out.push_str(&Site::read()?.troubles());
    Ok((out, 0))
}

/// Equal for two bans that mean the same people at the same times.
fn identity(ban: &Ban) -> String {
    format!("{} {:?} {:?} {:?} {:?}", ban.whom.key(), ban.from, ban.until, ban.measure, ban.grace)
}

/// As entries of a list, without its head.
fn entries(bans: &[Ban]) -> String {
    let text = bans::render(bans);
    text.split_once("\n\n").map_or_else(String::new, |(_, entries)| entries.to_owned())
}
