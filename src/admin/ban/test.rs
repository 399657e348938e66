//! `bailey ban test`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::lists::consequence;
use crate::admin::who::Who;
use crate::audit::Timestamp;
use crate::config::{Place, Undeclared};
use crate::failure::{Failure, Printable};
use crate::policy::decide;
use crate::policy::facts::{self, Facts};
use crate::policy::settings::OnTrouble;
use crate::policy::store;

/// Which bans hold for an identity. Exit code 0: none, 1: these, 2: the lists cannot be relied upon.
pub(super) fn run(who: &Who) -> Result<(String, u8), Failure> {
    let (identity, caller, now) = (who.declare(Undeclared::Record)?, who.caller(), Timestamp::now());
    let (_, policy) = store::open(&Place::system(), nix::unistd::geteuid().as_raw(), now)?;
    let facts = Facts {
        who: facts::Who {
            user: identity.user,
            issuer: identity.issuer,
            vo: identity.vo,
            groups: identity.groups,
            pilot: identity.pilot,
            uid: caller.uid,
            assurance: identity.assurance.as_str().to_owned(),
            also: Vec::new(),
        },
        ..Facts::default()
    };
    let relevant = policy.look_up(&facts, now)?;
    let mut out = String::new();
    let mut banned = false;
    for hit in decide::bans(&facts, &relevant, now) {
        banned = true;
        let ticket = hit.ticket.as_ref().map(|ticket| format!(", ticket {ticket}")).unwrap_or_default();
        let reason = hit.reason.as_deref().unwrap_or("no reason was given");
        let text = format!("Banned by {}: {} ({reason}{ticket}).", hit.place(), hit.whom);
        let _ = writeln!(out, "{}", Printable(&text));
    }
    if let Some(person) = &relevant.known.person {
        let names = relevant.known.said.join("; ");
        let _ = writeln!(out, "Person {}: {}", Printable(person), Printable(&names));
    }
    let settings = &policy.settings().bans;
    let mut closed = false;
    for trouble in policy.lists().troubles() {
        closed |= trouble.kind.measure(settings) == OnTrouble::Closed;
        let _ = writeln!(out, "warning: {}", consequence(trouble, settings));
    }
    Ok(match (banned, closed) {
        (true, _) => (out, 1),
        (false, true) => (format!("{out}Nobody can tell: the lists are not complete.\n"), 2),
        (false, false) => (format!("Not banned.\n{out}"), 0),
    })
}
