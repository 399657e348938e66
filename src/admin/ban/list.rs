//! `bailey ban list`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::json;

use super::List;
use super::lists::Site;
use crate::admin::live::{WIDTH, cut};
use crate::audit::Timestamp;
use crate::failure::Failure;
use crate::policy::bans::{Ban, Measure};

/// Whether a ban holds.
fn state(ban: &Ban, now: Timestamp) -> &'static str {
    match (ban.from, ban.until) {
        (_, Some(until)) if until <= now => "expired",
        (Some(from), _) if from > now => "not yet",
        _ => "holds",
    }
}

/// Every ban of every list.
pub(super) fn run(options: &List) -> Result<String, Failure> {
    let site = Site::read()?;
    let mut bans: Vec<_> = site.bans().map(|(file, ban)| (file, ban, state(ban, site.now))).collect();
    let all = bans.len();
    bans.retain(|(_, _, state)| options.all || *state != "expired");
    let mut out = String::new();
    if options.json {
        for (file, ban, state) in bans {
            let line = json!({
                "list": file.state.name,
                "line": ban.line,
                "format": file.format.map(crate::policy::bans::Format::as_str),
                "whom": ban.whom.to_string(),
                "key": ban.whom.key(),
                "reason": ban.reason,
                "ticket": ban.ticket,
                "from": ban.from,
                "until": ban.until,
                "state": state,
                "action": ban.measure.map(Measure::as_str),
                "grace": ban.grace.map(|grace| grace.as_secs()),
            });
            let _ = writeln!(out, "{line}");
        }
        return Ok(out);
    }
    if bans.is_empty() {
        out.push_str("Nobody is banned.\n");
    } else {
        table(
            &mut out,
            &bans
                .iter()
                .map(|(file, ban, state)| (file.state.name.as_str(), *ban, *state))
                .collect::<Vec<_>>(),
        );
    }
    let hidden = all - bans.len();
    if hidden > 0 {
        let _ = writeln!(out, "{hidden} that are over are not shown (--all).");
    }
    out.push_str(&site.troubles());
    Ok(out)
}

fn table(out: &mut String, bans: &[(&str, &Ban, &str)]) {
    let place = |list: &str, ban: &Ban| format!("{list}:{}", ban.line);
    let widest = bans.iter().map(|(list, ban, _)| place(list, ban).chars().count()).max();
    let list_width = widest.unwrap_or(0).clamp(9, 24);
    let dates = 10;
    let rest = WIDTH - (7 + 1 + list_width + 1 + dates + 1 + dates + 1 + 1);
    let whom_width = rest * 11 / 20;
    let mut line = |texts: [&str; 6]| {
        let [state, list, whom, from, until, why] = texts;
        let (list, whom, why) = (cut(list, list_width), cut(whom, whom_width), cut(why, rest - whom_width));
        let whole = format!(
            "{state:<7} {list:<list_width$} {whom:<whom_width$} {from:<dates$} {until:<dates$} {why}"
        );
        let _ = writeln!(out, "{}", whole.trim_end());
    };
    line(["STATE", "LIST:LINE", "WHOM", "FROM", "UNTIL", "REASON"]);
    for (list, ban, state) in bans {
        let day = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), Timestamp::day);
        let ticket = ban.ticket.as_ref().map(|ticket| format!("[{ticket}] ")).unwrap_or_default();
        let why = format!("{ticket}{}", ban.reason.as_deref().unwrap_or("-"));
        line([state, &place(list, ban), &ban.whom.to_string(), &day(ban.from), &day(ban.until), &why]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bans::{Format, parse};

    #[test]
    fn lines_fit_and_states_are_right() {
        let text = format!(
            "[[ban]]\nuser = \"/DC=org/CN={}\"\nreason = \"{}\"\nticket = \"RT#1\"\n\
             [[ban]]\nvo = \"a\"\nreason = \"x\"\nfrom = \"2026-03-01\"\nuntil = \"2026-03-02\"\n",
            "é".repeat(200),
            "long ".repeat(100)
        );
        let bans = parse(text.as_bytes(), Format::Ours).unwrap().bans;
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(state(&bans[0], at("2026-03-01T12:00:00Z")), "holds");
        for (time, is) in [
            ("2026-02-28T23:59:59Z", "not yet"),
            ("2026-03-01T00:00:00Z", "holds"),
            ("2026-03-02T23:59:59Z", "holds"),
            ("2026-03-03T00:00:00Z", "expired"),
        ] {
            assert_eq!(state(&bans[1], at(time)), is, "{time}");
        }
        let mut out = String::new();
        let list = "a-very-long-name-of-a-list-of-a-site.toml";
        table(&mut out, &bans.iter().map(|ban| (list, ban, "holds")).collect::<Vec<_>>());
        assert_eq!(out.lines().count(), 3);
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH), "{out}");
        assert!(out.contains("2026-03-01 2026-03-03 x") && out.contains("[RT#1]"), "{out}");
    }
}
