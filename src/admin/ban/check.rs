//! `bailey ban check`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;

use super::lists::{OneList, Site, consequence};
use crate::admin::live::age;
use crate::failure::{Failure, Printable};
use crate::policy::bans::Whom;
use crate::policy::lists::Kind;
use crate::policy::settings::OnTrouble;

/// How every list stands. Exit code 1 where something closes the node.
pub(super) fn run() -> Result<(String, u8), Failure> {
    let site = Site::read()?;
    let settings = &site.config.policy.bans;
    let mut out = String::new();
    match std::fs::metadata(&settings.dir) {
        Ok(found) => {
            let _ = writeln!(
                out,
                "{}: uid {}, mode {:04o}",
                settings.dir.display(),
                found.uid(),
                found.mode() & 0o7777
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let _ = writeln!(out, "{} is not there: nobody is banned.", settings.dir.display());
        }
        // It is among the troubles.
        Err(_) => {}
    }
    for file in &site.files {
        one(&mut out, &site, file);
    }
    for trouble in &site.lists.troubles {
        let _ = writeln!(out, "trouble: {}", consequence(trouble, settings));
    }
    let closes = site.lists.troubles().any(|trouble| trouble.kind.measure(settings) == OnTrouble::Closed);
    out.push_str(if closes { "Nothing new runs on this node.\n" } else { "Launches go on.\n" });
    Ok((out, u8::from(closes)))
}

fn one(out: &mut String, site: &Site, file: &OneList) {
    let format = file.format.map_or("no known format", crate::policy::bans::Format::as_str);
    let bans = match file.list.bans.len() {
        1 => "1 ban".to_owned(),
        count => format!("{count} bans"),
    };
    let _ = writeln!(out, "{}: {bans}, {format}", Printable(&file.state.name));
    if let Some(digest) = &file.state.digest {
        let _ = writeln!(out, "    sha256 {digest}");
    }
    if let (Some(metadata), Some(changed)) = (&file.metadata, file.state.changed) {
        let _ = writeln!(
            out,
            "    changed {changed} ({} ago), uid {}, mode {:04o}",
            age(&changed.to_string(), site.now),
            metadata.uid(),
            metadata.mode() & 0o7777
        );
    }
    if let Some(trouble) = &file.state.trouble {
        let _ = writeln!(out, "    trouble: {}", consequence(trouble, &site.config.policy.bans));
        if trouble.kind != Kind::Stale {
            return;
        }
    }
    let unknown = file.list.bans.iter().filter_map(|ban| match &ban.whom {
        Whom::Person(id) if !site.knows(id) => {
            Some((ban.line, format!("there is no [[person]] '{id}': the ban holds for nobody")))
        }
        _ => None,
    });
    let mut remarks: Vec<(u32, String)> = file
        .list
        .remarks
        .iter()
        .cloned()
        .chain(file.list.remarks_at(site.now))
        .map(|remark| (remark.line, remark.text))
        .chain(unknown)
        .collect();
    remarks.sort();
    for (line, text) in remarks {
        let _ = match line {
            0 => writeln!(out, "    remark: {}", Printable(&text)),
            line => writeln!(out, "    remark: line {line}: {}", Printable(&text)),
        };
    }
}
