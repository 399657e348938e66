//! What lives on this node: `bailey ps`, `bailey stop` and `bailey drain`, which ask the node's recorder.
//!
//! 1. Nothing is decided here: who may list or stop what, the recorder decides by who the kernel says is asking.
//! 2. Text of payloads and reasons is hostile: it is printed escaped and cut, on lines of at most 100 columns.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::ask::Ask;
use crate::audit::record::StopBy;
use crate::audit::wire::{Done, Drain, LiveRow, Message, Stop};
use crate::audit::{Timestamp, drain};
use crate::config::{self, Config, Demand};
use crate::failure::{Failure, Printable};
use crate::request::LaunchId;

/// The widest line.
pub(super) const WIDTH: usize = 100;

/// What `bailey drain` is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draining {
    /// Say how it stands.
    Show,
    /// Take no new payloads.
    On(String),
    /// Take them again.
    Off,
}

/// `bailey ps`: the live payloads that the asker may see.
pub fn ps(json: bool) -> Result<String, Failure> {
    let mut ask = connect("list what lives here")?;
    let rows = rows(&mut ask)?;
    if json {
        return Ok(rows.iter().fold(String::new(), |mut text, row| {
            text.push_str(&serde_json::to_string(row).unwrap_or_default());
            text.push('\n');
            text
        }));
    }
    Ok(human(&rows, ask.welcome().draining.as_deref(), Timestamp::now()))
}

/// `bailey stop`: the recorder tells the launcher.
pub fn stop(which: &str, reason: String, freeze: bool, preserve: bool) -> Result<String, Failure> {
    let mut ask = connect("stop a payload")?;
    let id = resolve(which, &rows(&mut ask)?)?;
    match ask.ask(&Message::Stop(Stop {
        id,
        by: StopBy::Administrator,
        reason,
        freeze,
        preserve,
        grace_ms: None,
    }))? {
        Message::Done(done) => Ok(format!("{}.\n", Printable(&done.text))),
        other => Err(ask.unexpected(&other)),
    }
}

/// `bailey drain`.
pub fn drain(what: Draining) -> Result<String, Failure> {
    let reason = match what {
        Draining::Show => return shown(),
        Draining::On(reason) => Some(reason),
        Draining::Off => None,
    };
    let mut ask = connect("drain this node")?;
    match ask.ask(&Message::Drain(Drain { reason }))? {
        Message::Done(done) => Ok(format!("{}.\n", Printable(&done.text))),
        other => Err(ask.unexpected(&other)),
    }
}

/// The flag is a file, so this needs no recorder.
fn shown() -> Result<String, Failure> {
    let config = config::load(&config::Place::system())?;
    Ok(match drain::look(&drain::flag(&config.audit.socket))? {
        Some(reason) => format!("This node takes no new payloads: {}.\n", Printable(&reason)),
        None => "This node takes new payloads.\n".to_owned(),
    })
}

fn connect(what: &str) -> Result<Ask, Failure> {
    let config = config::load(&config::Place::system())?;
    Ask::connect(&config.audit.socket).map_err(|failure| without_recorder(what, &config, failure))
}

/// The embedded logs belong to the pilots, who see their payloads in ps(1): there is nobody to ask.
fn without_recorder(what: &str, config: &Config, failure: Failure) -> Failure {
    let next = match config.audit.recorder {
        Demand::Off => {
            "this site has it switched off (audit.recorder): signal the bailey processes instead".to_owned()
        }
        _ => format!(
            "{}; without one, signal the bailey processes, and drain with: echo REASON >{}",
            failure.next,
            drain::flag(&config.audit.socket).display()
        ),
    };
    Failure { what: format!("cannot {what} without the node's recorder: {}", failure.what), next, ..failure }
}

fn rows(ask: &mut Ask) -> Result<Vec<LiveRow>, Failure> {
    pages(ask, &Message::Ps(Done { text: String::new() }))
}

/// A question that is answered with live payloads.
pub(super) fn pages(ask: &mut Ask, question: &Message) -> Result<Vec<LiveRow>, Failure> {
    let mut rows = Vec::new();
    let mut answer = ask.ask(question)?;
    loop {
        match answer {
            Message::Rows(page) => {
                rows.extend(page.rows);
                if page.last {
                    return Ok(rows);
                }
            }
            other => return Err(ask.unexpected(&other)),
        }
        answer = ask.more()?;
    }
}

/// The launch that a pid, an id or the beginning of one means.
fn resolve(which: &str, rows: &[LiveRow]) -> Result<String, Failure> {
    let no = |why: String, next: &str| Err(Failure::refused(format!("cannot stop '{which}'"), why, next));
    // No pid begins with 0, and for thousands of years every id does.
    if let Some(pid) = which.parse::<i64>().ok().filter(|_| !which.starts_with('0')) {
        return match rows.iter().find(|row| row.pid == pid) {
            Some(row) => Ok(row.id.clone()),
            None => no("no live payload that you may see has that pid".to_owned(), "see bailey ps"),
        };
    }
    let wanted = which.to_ascii_uppercase();
    // Of a whole id the recorder says more than "not seen": it may be somebody else's.
    if LaunchId::parse(&wanted).is_some() {
        return Ok(wanted);
    }
    let mut found = rows.iter().filter(|row| !wanted.is_empty() && row.id.starts_with(&wanted));
    match (found.next(), found.count()) {
        (Some(row), 0) => Ok(row.id.clone()),
        (Some(_), more) => no(
            format!("{} live payloads have an id that begins so", more + 1),
            "write more of the id (bailey ps)",
        ),
        (None, _) => {
            no("no live payload that you may see has an id that begins so".to_owned(), "see bailey ps")
        }
    }
}

/// For a person: one line for each payload.
fn human(rows: &[LiveRow], draining: Option<&str>, now: Timestamp) -> String {
    let mut text = String::new();
    if let Some(reason) = draining {
        let _ = writeln!(text, "{}", cut(&format!("This node takes no new payloads: {reason}"), WIDTH));
    }
    if rows.is_empty() {
        text.push_str("No payload is live.\n");
        return text;
    }
    let state = rows.iter().map(|row| row.state.chars().count()).max().unwrap_or(0).clamp(5, 16);
    let job: usize = 20;
    let user = WIDTH - (26 + 1 + 7 + 1 + 6 + 1 + 6 + 1 + state + 1 + 1 + job);
    let mut line =
        |id: &str, pid: &str, uid: &str, since: &str, state_is: &str, user_is: &str, job_is: &str| {
            let (state_is, user_is, job_is) = (cut(state_is, state), cut(user_is, user), cut(job_is, job));
            let whole =
                format!("{id:<26} {pid:>7} {uid:>6} {since:>6} {state_is:<state$} {user_is:<user$} {job_is}");
            let _ = writeln!(text, "{}", whole.trim_end());
        };
    line("ID", "PID", "UID", "FOR", "STATE", "USER", "VO JOB");
    for row in rows {
        let job: Vec<&str> = [&row.vo, &row.job].into_iter().filter_map(Option::as_deref).collect();
        line(
            &cut(&row.id, 26),
            &row.pid.to_string(),
            &row.uid.to_string(),
            &age(&row.since, now),
            &row.state,
            row.user.as_deref().unwrap_or("-"),
            &job.join(" "),
        );
    }
    text
}

/// How long ago: `42s`, `59m`, `3h12m`, `12d3h`.
pub(super) fn age(since: &str, now: Timestamp) -> String {
    let Some(since) = Timestamp::parse_rfc3339(since) else { return "?".to_owned() };
    let seconds = now.nanos_since(since) / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        (1..100, ..) => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// Escaped, and at most so wide; the middle goes, because names of people differ at their ends.
pub(super) fn cut(text: &str, width: usize) -> String {
    let chars: Vec<char> = Printable(text).to_string().chars().collect();
    if chars.len() <= width {
        return chars.into_iter().collect();
    }
    let head = width.saturating_sub(1) / 2;
    let tail = width.saturating_sub(1) - head;
    chars.iter().take(head).chain(['…'].iter()).chain(chars.iter().skip(chars.len() - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, pid: i64) -> LiveRow {
        LiveRow {
            id: id.to_owned(),
            pid,
            uid: 1000,
            since: "2026-11-22T10:00:00.000000000Z".to_owned(),
            user: Some("/DC=org/DC=example/OU=People/CN=A Very Long Name Of Somebody/CN=12345".to_owned()),
            vo: Some("vo.example.org".to_owned()),
            job: Some("job\u{1b}[31m\n4711".to_owned()),
            state: "without launcher".to_owned(),
        }
    }

    #[test]
    fn a_launch_is_named_by_id_by_its_beginning_or_by_pid() {
        let rows = [row("01KB000000AAAAAAAAAAAAAAAA", 10), row("01KB000001AAAAAAAAAAAAAAAA", 11)];
        assert_eq!(resolve("01kb000001", &rows).unwrap(), rows[1].id);
        assert_eq!(resolve("10", &rows).unwrap(), rows[0].id);
        let unseen = "01KB000002AAAAAAAAAAAAAAAA";
        assert_eq!(resolve(unseen, &rows).unwrap(), unseen, "the recorder says what is wrong with it");
        for (which, why) in [("01KB", "2 live"), ("12", "no live"), ("", "no live"), ("x", "no live")] {
            let failure = resolve(which, &rows).unwrap_err();
            assert!(failure.why.starts_with(why), "{which}: {failure}");
            assert_eq!(failure.code.exit_code(), 120);
        }
    }

    #[test]
    fn lines_fit_whatever_the_payload_is_called() {
        let now = Timestamp::parse_rfc3339("2026-11-22T13:12:30.000000000Z").unwrap();
        let rows = [row("01KB000000AAAAAAAAAAAAAAAA", 4_194_303), row(&"é".repeat(400), i64::MAX)];
        let text = human(&rows[..1], Some(&"x\n".repeat(500)), now);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
            assert!(!line.contains('\u{1b}'));
        }
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("3h12m") && text.contains("12345 "), "{text}");
        assert_eq!(human(&rows, None, now).lines().count(), 3, "a name makes no line of its own");
        assert_eq!(human(&[], None, now), "No payload is live.\n");
    }

    #[test]
    fn ages_are_short() {
        let now = Timestamp::parse_rfc3339("2026-11-22T13:12:30.000000000Z").unwrap();
        for (since, expected) in [
            ("2026-11-22T13:12:28.000000000Z", "2s"),
            ("2026-11-22T13:00:00.000000000Z", "12m"),
            ("2026-11-20T13:00:00.000000000Z", "2d0h"),
            ("2025-11-20T13:00:00.000000000Z", "367d"),
            ("x", "?"),
        ] {
            assert_eq!(age(since, now), expected);
        }
    }
}
