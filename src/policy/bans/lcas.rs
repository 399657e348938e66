//! `ban_users.db` of LCAS and the ban files of LCMAPS: lines of a grid-mapfile whose targets do not count. And one DN a line.
#![forbid(unsafe_code)]

use super::super::lines::{Faults, Place, Wrong, count, entries, shorten};
use super::super::mapfile::{Key, read_key, split};
use super::super::name::{Name, looks_like_commas};
use super::{Ban, Fault, List, WHAT, Whom};

pub(super) fn parse(text: &str) -> Result<List, Vec<Fault>> {
    each(text, |line| {
        let (key, _) = split(line)?;
        let whom = match read_key(&key).map_err(|wrong| (1, wrong))? {
            Key::Dn(dn) => Whom::Name(Name::Dn(dn)),
            Key::DnPattern(glob) if glob.is_everything() => return Err((1, everybody(&key))),
            Key::DnPattern(glob) => Whom::DnPattern(glob),
            Key::Group(group) if group.is_everything() => return Err((1, everybody(&key))),
            Key::Group(group) => Whom::Group(group),
        };
        Ok(whom)
    })
}

/// DNs with their blanks, without wildcards: a star is a star here, as in `CN=*.example.org`. What is no DN is a fault, not a
/// group: a line that was cut off (`/DC`) would read as one.
pub(super) fn parse_plain(text: &str) -> Result<List, Vec<Fault>> {
    each(text, |line| {
        let name = match line.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').ok_or_else(|| {
                (1, Wrong::new("the quote is not closed", "write one DN in each line, and nothing behind it"))
            })?,
            None => line,
        };
        if !name.starts_with('/') && !looks_like_commas(name) {
            let wrong = Wrong::new(
                format!("'{}' is no DN", shorten(name)),
                "write one DN in each line, such as /DC=org/DC=example/CN=Some One; other names belong in a list of another format",
            );
            return Err((1, wrong));
        }
        Name::parse(name).map(Whom::Name).map_err(|wrong| (1, wrong))
    })
}

fn each(text: &str, read: impl Fn(&str) -> Result<Whom, (u32, Wrong)>) -> Result<List, Vec<Fault>> {
    count(text, WHAT)?;
    let mut list = List::default();
    let mut faults = Faults::default();
    for (line, content) in entries(text) {
        match read(content) {
            Ok(whom) => list.bans.push(Ban::new(whom, line)),
            Err((column, wrong)) => {
                if faults.push(Place { line, column }.fault(WHAT, wrong)) {
                    break;
                }
            }
        }
    }
    faults.or(list)
}

pub(super) fn everybody(pattern: &str) -> Wrong {
    Wrong::new(
        format!("'{}' matches everybody", shorten(pattern)),
        "name whom you mean; to run nothing at all, use 'bailey drain'",
    )
}
