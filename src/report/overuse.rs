//! Rules on overuse in words, for a physicist who never heard of bailey. docs/overuse.md shows every sentence.
#![forbid(unsafe_code)]

use crate::audit::record;
use crate::overuse::engine::Event;
use crate::overuse::{Metric, Step};
use std::time::Duration;

/// What it did, after "the payload".
pub(super) fn deed(event: &Event) -> String {
    let during = span(event.during);
    let value = event.value;
    let what = match event.rule.metric {
        Metric::Cpu => format!(
            "used {} CPU cores on average over the last {during} and may use {}",
            number(value * event.per),
            number(event.per)
        ),
        Metric::Memory => format!(
            "has used more than {} % of the {} of memory that it may use, for {during}, and uses {} % now",
            number(event.rule.bound.threshold().value() * 100.0),
            bytes(event.per),
            number(value * 100.0)
        ),
        Metric::Processes => format!(
            "has had more than {} processes for {during}, and has {} now",
            number(event.rule.bound.threshold().value()),
            number(value)
        ),
        Metric::Reading => {
            format!("read only {} for each second of CPU time over the last {during}", bytes(value))
        }
    };
    format!("{what} (rule {})", event.rule.id)
}

/// What the user can do about it.
const fn advice(metric: Metric) -> &'static str {
    match metric {
        Metric::Cpu => "start fewer threads, or ask for more cores when you submit it",
        Metric::Memory => "use less memory, or ask for more when you submit it",
        Metric::Processes => "start fewer processes at one time, and wait for those that ended",
        Metric::Reading => {
            "that is right for a simulation; if it should read data, check whether it waits for them"
        }
    }
}

/// What is done about it. `grace` is that of a stop, `cannot` why a step is not possible here.
fn measure(event: &Event, grace: Duration, cannot: Option<&str>) -> String {
    let done = match (event.step, cannot) {
        (Step::Notice, _) => advice(event.rule.metric).to_owned(),
        (Step::Throttle, None) => format!("it is slowed down; {}", advice(event.rule.metric)),
        (Step::Throttle, Some(why)) => format!("{why}; {}", advice(event.rule.metric)),
        (Step::Stop, _) => return format!("SIGTERM now, SIGKILL in {} s", grace.as_secs()),
    };
    match event.next {
        None => done,
        Some(next) => {
            let next = match next {
                Step::Notice => "told again",
                Step::Throttle => "slowed down",
                Step::Stop => "stopped",
            };
            format!("{done}; if this goes on it is {next} in {}", span(event.rule.every))
        }
    }
}

/// The sentence of the record.
pub(super) fn reason(event: &Event, grace: Duration, cannot: Option<&str>) -> String {
    let stop = if event.step == Step::Stop { "bailey stops the payload: it" } else { "the payload" };
    format!("{stop} {}; {}", deed(event), measure(event, grace, cannot))
}

/// The same for stderr, with whom to ask.
pub(super) fn sentence(reason: &str, contact: Option<&str>) -> String {
    match contact.map(str::trim).filter(|contact| !contact.is_empty()) {
        Some(contact) => format!("{reason}; questions: {contact}"),
        None => reason.to_owned(),
    }
}

/// For the end of a payload that was stopped.
pub fn ended(event: &Event, how: &str) -> String {
    format!("bailey stopped the payload because it {}: {how}", deed(event))
}

/// `grid.overuse.*`
pub(super) fn field(event: &Event) -> record::Overuse {
    record::Overuse {
        rule: Some(event.rule.id.clone()),
        metric: Some(event.rule.metric),
        value: Some((event.value * 1000.0).round() / 1000.0),
        threshold: Some(event.rule.bound.threshold().value()),
        for_seconds: Some(event.during.as_secs()),
        step: Some(event.step),
    }
}

/// At most one digit behind the point, unless the number is small.
fn number(value: f64) -> String {
    let digits = if value.abs() < 1.0 { 2 } else { 1 };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn bytes(value: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = "bytes";
    for larger in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", number(scaled))
}

/// In the largest unit that is not coarse.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..180 => format!("{seconds} s"),
        seconds @ 180..10_800 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", number(seconds as f64 / 3600.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overuse::tests::cpu;
    use crate::overuse::{Bound, Milli, Rule};

    fn event(rule: Rule, per: f64, value: f64, step: Step, next: Option<Step>) -> Event {
        Event { during: rule.over, rule, per, step, next, value }
    }

    fn said(event: &Event, cannot: Option<&str>) -> String {
        sentence(&reason(event, Duration::from_secs(10), cannot), Some("support@vo.example"))
    }

    #[test]
    fn every_sentence_is_as_the_manual_has_it() {
        let cores = Rule { id: "cpu-over-request".to_owned(), ..cpu(1200, 600) };
        let mut events = vec![
            (event(cores.clone(), 1.0, 3.94, Step::Notice, None), None),
            (event(cores.clone(), 2.0, 3.94, Step::Notice, Some(Step::Throttle)), None),
            (event(cores.clone(), 1.0, 3.94, Step::Throttle, Some(Step::Stop)), None),
            (
                event(cores.clone(), 1.0, 3.94, Step::Throttle, Some(Step::Stop)),
                Some("cannot throttle here: no cgroup"),
            ),
            (event(cores.clone(), 1.0, 3.94, Step::Stop, None), None),
        ];
        let other = |id: &str, metric, bound| Rule { id: id.to_owned(), metric, bound, ..cores.clone() };
        let memory = other("memory-near-request", Metric::Memory, Bound::Above(Milli(900)));
        let many = other("many-processes", Metric::Processes, Bound::Above(Milli(1_000_000)));
        let reading = Rule {
            over: Duration::from_secs(5400),
            ..other("hardly-reads", Metric::Reading, Bound::Below(Milli(1_024_000)))
        };
        events.push((event(memory, 2.0 * 1024.0 * 1024.0 * 1024.0, 0.957, Step::Notice, None), None));
        events.push((event(many, 1.0, 1203.0, Step::Notice, None), None));
        events.push((event(reading, 1.0, 12.34, Step::Notice, None), None));
        let page = include_str!("../../docs/overuse.md").split_whitespace().collect::<Vec<_>>().join(" ");
        for (event, cannot) in events {
            let sentence = said(&event, cannot);
            assert!(page.contains(&sentence), "docs/overuse.md does not have: {sentence}");
            assert!(!sentence.contains('\n'));
        }
        let stop = event(cores, 1.0, 3.94, Step::Stop, None);
        let ended = ended(&stop, "it was killed by SIGTERM");
        assert!(page.contains(&ended), "{ended}");
    }

    #[test]
    fn no_contact_is_not_an_empty_one() {
        for contact in [None, Some(""), Some("  ")] {
            assert_eq!(sentence("x", contact), "x");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.25"), (1.0, "1"), (3.94, "3.9"), (100.0, "100"), (1e9, "1000000000")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(bytes(12.34), "12.3 bytes");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(5e15), "4547.5 TiB");
        for (seconds, text) in [
            (0, "0 s"),
            (179, "179 s"),
            (600, "10 min"),
            (5400, "90 min"),
            (10_800, "3 h"),
            (12_600, "3.5 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
