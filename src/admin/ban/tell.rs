//! The recorder is told of a change before it happens, so that its record says who it was.
//!
//! 1. Nothing here can keep a ban from being written: whatever the recorder says or does not say, the change goes on.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::Duration;

use crate::admin::ask::Ask;
use crate::admin::live;
use crate::audit::wire::{BanTold, LiveRow, Message};
use crate::config::{Config, Demand};
use crate::failure::{Failure, Printable};

/// A recorder that does not answer must not hold up a ban.
const TIMEOUT: Duration = Duration::from_secs(3);
/// More text than this does not go into one message.
const MOST: usize = 16 << 10;
/// More live payloads than this are only counted.
const SHOWN: usize = 20;

/// What the recorder said.
#[derive(Debug)]
pub(super) enum Told {
    /// The live payloads that the new bans mean; `None`: it was not asked.
    Live(Option<Vec<LiveRow>>),
    /// There is none.
    None,
    /// It is there and does not take it.
    Refused(Box<Failure>),
}

/// Tells the recorder. `bans`: the new ones, in our own format.
pub(super) fn tell(config: &Config, list: &str, digest: String, bans: Option<&str>) -> Told {
    if config.audit.recorder == Demand::Off {
        return Told::None;
    }
    let Ok(mut ask) = Ask::connect_within(&config.audit.socket, TIMEOUT) else { return Told::None };
    let bans = bans.filter(|text| text.len() <= MOST).map(str::to_owned);
    let is_asked = bans.is_some();
    match live::pages(&mut ask, &Message::BanTold(BanTold { list: list.to_owned(), digest, bans })) {
        Ok(rows) => Told::Live(is_asked.then_some(rows)),
        Err(failure) => Told::Refused(Box::new(failure)),
    }
}

impl Told {
    /// Who records the change, where it is not the recorder.
    pub(super) fn words(&self, poll: Duration) -> String {
        match self {
            Self::Live(_) => String::new(),
            Self::None => format!(
                "No recorder: launchers see it within {:.1} s (bans.poll) and write the change into their own logs.\n",
                poll.as_secs_f64()
            ),
            Self::Refused(failure) => {
                format!("The recorder writes that the file changed, and not who did it: {failure}\n")
            }
        }
    }

    /// Whom of the live it hits.
    pub(super) fn live(&self, measure: &str) -> String {
        let Self::Live(Some(rows)) = self else { return String::new() };
        if rows.is_empty() {
            return "No live payload on this node is meant.\n".to_owned();
        }
        let payloads = if rows.len() == 1 { "payload" } else { "payloads" };
        let mut text = format!("{} live {payloads} on this node: {measure}\n", rows.len());
        for row in rows.iter().take(SHOWN) {
            let user = row.user.as_deref().unwrap_or("-");
            let line = format!("  {} pid {} uid {} {}", row.id, row.pid, row.uid, Printable(user));
            let _ = writeln!(text, "{}", live::cut(&line, live::WIDTH));
        }
        if rows.len() > SHOWN {
            let _ = writeln!(text, "  and {} more (bailey ps)", rows.len() - SHOWN);
        }
        text
    }
}
