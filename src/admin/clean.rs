//! `bailey clean`: what dead launches left under uids that were theirs alone.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use clap::Args;

use crate::config::{self, Place};
use crate::failure::{Failure, Printable};
use crate::host::Caller;
use crate::uids::{self, Account, Cleaned, Owner, Pool};

/// `bailey clean`.
#[derive(Debug, Args)]
pub(super) struct Clean {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Answer in JSON, one line for each uid
    #[arg(long)]
    json: bool,
}

/// Cleans up behind this account's launches; behind root's where root asks.
pub(super) fn run(options: &Clean) -> Result<(String, u8), Failure> {
    let caller = Caller::look();
    let config = config::load(&Place::system())?;
    let dir = if caller.uid == 0 {
        config.root_caller.state.clone()
    } else {
        uids::subordinate(&config, caller.uid)
    };
    let found = match Pool::existing(&dir, caller.uid)? {
        None => Vec::new(),
        Some(pool) => {
            let owner = if caller.uid == 0 {
                Owner::Root
            } else {
                Owner::Account(Account::of(caller.uid, caller.gid)?)
            };
            uids::clean(&pool, &owner, &config, options.dry_run)?
        }
    };
    let mut text = String::new();
    for cleaned in &found {
        if options.json {
            let line = serde_json::to_string(cleaned).unwrap_or_default(); // of numbers and text: it cannot fail
            let _ = writeln!(text, "{line}");
        } else {
            tell(&mut text, cleaned, options.dry_run);
        }
    }
    if found.is_empty() && !options.json {
        text.push_str("there is nothing to clean\n");
    }
    Ok((text, u8::from(found.iter().any(|cleaned| !cleaned.free))))
}

fn tell(text: &mut String, cleaned: &Cleaned, dry: bool) {
    let Cleaned { uid, launch, workdir, removed, free: _, why } = cleaned;
    let (gives, removes, frees) = if dry {
        ("would be given back", "would be removed", "it would be free")
    } else {
        ("was given back", "were removed", "it is free")
    };
    let _ = write!(text, "uid {uid}, of launch {}: ", Printable(launch));
    if let Some(path) = workdir.as_ref().filter(|_| why.is_none()) {
        let _ = write!(text, "{} {gives}; ", Printable(&path.display().to_string()));
    }
    if *removed > 0 {
        let _ = write!(text, "{removed} files {removes}; ");
    }
    let _ = match why {
        None => writeln!(text, "{frees}"),
        Some(why) => writeln!(text, "it cannot be used again: {}", Printable(why)),
    };
}
