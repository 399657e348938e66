//! From a question to payloads: which segments can hold the answer, which launches in them fit, when each of them ended.
//!
//! 1. A payload ran from its launch record to the record that closes it. It ran at every moment that the log's clock showed
//!    between the two, also where the clock was set back in between: the span reaches from the earliest `@timestamp` of all
//!    lines between them to the latest. Without an end it lasts.
//! 2. What was running at a segment's beginning says the live list at its head. Where there is none (the embedded log), the
//!    segments before are asked too, back to the last one that has a list, or to the beginning.
//! 3. A launch record stands whatever comes after it. That its command could not be executed only its launcher says
//!    (`launch-failed`), so it is an answer too; and the first record that closes it counts, whatever follows.
//! 4. A name that was learned later (`payload-identity`) is a name of the payload: it is found by it, and shown with it.
//! 5. Indexes choose, records decide: each record is read, and what does not fit it makes the index stale.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use super::Payload;
use super::index::table::{self, Close, Key, Kind, Other, Section, Values, key};
use super::log::{Log, Trouble, at_once};
use super::person::Person;
use super::question::{Field, Question};
use crate::audit::Timestamp;
use crate::audit::record::{Action, LiveEntry, Record};
use crate::request::LaunchId;

/// A line of the log: number of the segment, and offset.
pub(super) type Place = (usize, u64);

/// What was found in one log.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The payloads, oldest first.
    pub payloads: Vec<Payload>,
    /// Other records that fit.
    pub others: Vec<Record>,
    /// Where all of them are.
    pub places: Vec<Place>,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Segments whose indexes or lines were read.
    pub segments: usize,
}

/// A launch that may fit.
#[derive(Debug)]
struct Candidate {
    /// `None` when retention removed it.
    place: Option<Place>,
    time: Timestamp,
    key: Key,
    close: Option<(usize, Close)>,
    /// The first segment that may close it.
    search: usize,
    /// What a live list says of it.
    entry: Option<LiveEntry>,
}

/// What one segment gave.
#[derive(Debug, Default)]
struct Chosen {
    candidates: Vec<Candidate>,
    closings: HashMap<Key, Close>,
    others: Vec<Other>,
}

/// Answers the question from one log.
pub(super) fn search(log: &Log, question: &Question) -> Result<Found, Trouble> {
    let clock = Clock::of(log);
    let plan = Plan::of(log, question, &clock);
    let learned = Learned::of(log, question)?;
    let numbers: Vec<usize> = (0..log.segments.len()).filter(|number| plan.read.contains(number)).collect();
    let chosen = at_once(&numbers, |number| choose(log, question, &clock, &learned, *number))?;
    let mut candidates = Vec::new();
    let mut closings = HashMap::new();
    let mut others = Vec::new();
    for (number, chosen) in numbers.iter().zip(chosen) {
        candidates.extend(chosen.candidates);
        closings.insert(*number, chosen.closings);
        others.extend(chosen.others.into_iter().map(|other| (*number, other)));
    }
    carried(log, question, &plan, &mut candidates)?;
    let segments = close(log, &mut candidates, closings)?;
    candidates.retain(|candidate| {
        let (begin, end) = clock.span(candidate.place, candidate.time, candidate.close);
        question.touches(begin, end)
    });
    let mut found = Found { segments: segments.max(numbers.len()), ..Found::default() };
    for read in at_once(&candidates, |candidate| read(log, question, &learned, candidate))? {
        found.unreadable += read.unreadable;
        if let Some(payload) = read.payload {
            found.payloads.push(payload);
            found.places.extend(read.places);
        }
    }
    found.payloads.sort_by(|a, b| (a.start, &a.launch.event.id).cmp(&(b.start, &b.launch.event.id)));
    other_records(log, question, &others, &mut found)?;
    Ok(found)
}

/// Names that were learned later, by launch.
#[derive(Debug, Default)]
struct Learned {
    of: HashMap<Key, Vec<(Place, Record)>>,
    /// Launches that are meant by such a name.
    meant: HashSet<Key>,
}

impl Learned {
    /// They may stand in any segment, and nearly none has one: the summaries say which.
    fn of(log: &Log, question: &Question) -> Result<Self, Trouble> {
        let mut learned = Self::default();
        for (number, _) in
            log.segments.iter().enumerate().filter(|(_, segment)| segment.summary.identities > 0)
        {
            for (key, offset, time, _) in log
                .section(number, Section::Others, table::take_others)?
                .into_iter()
                .filter(|(_, _, _, kind)| *kind == Kind::Identity)
            {
                let record = log.record(number, offset)?.filter(|record| {
                    record.timestamp == Some(time)
                        && record.event.action == Action::PayloadIdentity
                        && record.event.id.as_deref().map(table::key) == Some(key)
                });
                let record = record.ok_or(Trouble::Stale(number))?;
                if question.has_who() && question.names_learned(&record) {
                    learned.meant.insert(key);
                }
                learned.of.entry(key).or_default().push(((number, offset), record));
            }
        }
        Ok(learned)
    }
}

/// The log's clock: where it went back.
struct Clock {
    jumps: Vec<(Place, Timestamp, Timestamp)>,
    /// Of each segment the earliest and the latest moment, those since the line before it included.
    spans: Vec<Option<(Timestamp, Timestamp)>>,
}

impl Clock {
    fn of(log: &Log) -> Self {
        let mut clock = Self { jumps: Vec::new(), spans: Vec::new() };
        let mut before: Option<Timestamp> = None;
        for (number, segment) in log.segments.iter().enumerate() {
            let summary = &segment.summary;
            let Some(times) = summary.times else {
                clock.spans.push(None);
                continue;
            };
            if let Some(before) = before.filter(|before| times.first < *before) {
                clock.jumps.push(((number, 0), before, times.first));
            }
            let jumps = summary.jumps.iter();
            clock.jumps.extend(jumps.map(|jump| ((number, jump.offset), jump.before, jump.after)));
            let before_or = |time: Timestamp| before.unwrap_or(time);
            clock
                .spans
                .push(Some((times.min.min(before_or(times.min)), times.max.max(before_or(times.max)))));
            before = Some(times.last);
        }
        clock
    }

    /// From when to when the clock showed moments while the payload ran.
    fn span(
        &self,
        place: Option<Place>,
        time: Timestamp,
        close: Option<(usize, Close)>,
    ) -> (Timestamp, Option<Timestamp>) {
        let end = close.map(|(number, close)| (number, close.offset));
        let closed = close.map(|(_, close)| close.time);
        let (mut earliest, mut latest) = (time.min(closed.unwrap_or(time)), time.max(closed.unwrap_or(time)));
        let first = self.jumps.partition_point(|(at, _, _)| place.is_some_and(|place| *at <= place));
        for (at, before, after) in self.jumps.get(first..).unwrap_or_default() {
            if end.is_some_and(|end| *at > end) {
                break;
            }
            earliest = earliest.min(*after);
            latest = latest.max(*before);
        }
        (earliest, closed.map(|_| latest))
    }
}

/// Which segments are read.
struct Plan {
    read: HashSet<usize>,
    /// Those whose live list at the head counts.
    heads: Vec<usize>,
}

impl Plan {
    fn of(log: &Log, question: &Question, clock: &Clock) -> Self {
        let newest = log.segments.len().saturating_sub(1);
        let is_meant = |number: usize| match clock.spans.get(number).copied().flatten() {
            // What is open lasts, so the newest segment has no latest moment.
            Some((earliest, latest)) => question.touches(earliest, (number != newest).then_some(latest)),
            None => number == newest,
        };
        let mut plan = Self { read: HashSet::new(), heads: Vec::new() };
        let mut before = false;
        for number in 0..log.segments.len() {
            let meant = is_meant(number);
            if meant {
                plan.read.insert(number);
            }
            if meant && !before {
                let has_list = |at: &usize| log.segments.get(*at).is_some_and(|s| s.summary.live.is_some());
                let head = (0..=number).rev().find(has_list);
                plan.read.extend(head.unwrap_or(0)..=number);
                plan.heads.extend(head);
            }
            before = meant;
        }
        plan
    }
}

/// The launches of one segment that fit, as far as its index tells.
fn choose(
    log: &Log,
    question: &Question,
    clock: &Clock,
    learned: &Learned,
    number: usize,
) -> Result<Chosen, Trouble> {
    let stale = Trouble::Stale(number);
    let rows = log.section(number, Section::Rows, table::take_rows)?;
    let mut fits = vec![true; rows.len()];
    let mut narrow = |judged: Vec<bool>| {
        let same = judged.len() == fits.len();
        fits.iter_mut().zip(judged).for_each(|(fits, judged)| *fits &= judged);
        same
    };
    if question.pid.is_some() || question.vpid.is_some() {
        let pids = log.section(number, Section::Pids, table::take_pids)?;
        if !narrow(pids.iter().map(|pids| question.fits_pids(pids.pid, pids.vpid)).collect()) {
            return Err(stale);
        }
    }
    let keys = log.section(number, Section::Keys, table::take_keys)?;
    let wanted = question.id.as_deref().map(key);
    if !narrow(keys.iter().map(|key| wanted.is_none_or(|wanted| *key == wanted)).collect()) {
        return Err(stale);
    }
    let is_meant = |judged: Vec<bool>| -> Vec<bool> {
        judged.iter().zip(&keys).map(|(fits, key)| *fits || learned.meant.contains(key)).collect()
    };
    for field in question.fields() {
        let judged = judge(log, number, field, |texts| question.fits(field, texts))?;
        let same = judged.len() == keys.len();
        if !same || !narrow(if field == Field::User { is_meant(judged) } else { judged }) {
            return Err(stale);
        }
    }
    if let Some(person) = &question.person {
        let mut judged = judge(log, number, Field::User, |texts| person.fits(texts))?;
        for (issuer, subject) in person.tokens() {
            let users = judge(log, number, Field::User, |texts| texts.contains(&subject.as_str()))?;
            let issuers = judge(log, number, Field::Issuer, |texts| Person::vouches(issuer, texts))?;
            let both = users.iter().zip(&issuers).map(|(user, issuer)| *user && *issuer);
            judged.iter_mut().zip(both).for_each(|(fits, both)| *fits |= both);
        }
        if judged.len() != keys.len() || !narrow(is_meant(judged)) {
            return Err(stale);
        }
    }
    let mut chosen = Chosen::default();
    for ((row, key), _) in rows.iter().zip(keys).zip(&fits).filter(|(_, fits)| **fits) {
        let place = Some((number, row.offset));
        let close = row.close.map(|close| (number, close));
        if let Some(close) = close {
            let (begin, end) = clock.span(place, row.time, Some(close));
            if !question.touches(begin, end) {
                continue;
            }
        }
        chosen.candidates.push(Candidate {
            place,
            time: row.time,
            key,
            close,
            search: number + 1,
            entry: None,
        });
    }
    let closings = log.section(number, Section::Closings, table::take_closings)?;
    chosen.closings = first_of_each(closings);
    if question.denied || wanted.is_some() {
        chosen.others = log.section(number, Section::Others, table::take_others)?;
        chosen.others.retain(|(key, _, time, kind)| {
            wanted.is_none_or(|wanted| wanted == *key)
                && question.touches(*time, Some(*time))
                && match kind {
                    Kind::Denied => question.denied,
                    Kind::Note => wanted.is_some(),
                    Kind::Identity => false, // it is shown with its payload
                }
        });
    }
    Ok(chosen)
}

/// Of each launch of a segment whether its texts of a field fit.
fn judge(
    log: &Log,
    number: usize,
    field: Field,
    fits: impl Fn(&[&str]) -> bool,
) -> Result<Vec<bool>, Trouble> {
    log.section(number, Section::Field(field), |bytes| Values::judge(bytes, fits))
}

/// Adds the launches that the live lists name and that began before what is read.
fn carried(
    log: &Log,
    question: &Question,
    plan: &Plan,
    candidates: &mut Vec<Candidate>,
) -> Result<(), Trouble> {
    let mut seen = HashSet::new();
    for head in &plan.heads {
        for entry in log.live_list(*head)?.into_iter().flat_map(|record| record.grid.live) {
            let (Some(id), Some(time)) = (entry.id.as_deref(), entry.since) else { continue };
            let segment = entry.segment.as_deref().and_then(|name| log.find(name));
            let key = key(id);
            let other_id = question.id.as_deref().is_some_and(|wanted| wanted != id);
            let other_pid = question.pid.is_some() && entry.pid.is_some() && entry.pid != question.pid;
            let read = segment.is_some_and(|segment| plan.read.contains(&segment));
            if other_id || other_pid || read || !seen.insert(key) {
                continue;
            }
            candidates.push(Candidate {
                place: segment.zip(entry.offset),
                time,
                key,
                close: None,
                search: *head,
                entry: Some(entry),
            });
        }
    }
    Ok(())
}

/// Finds what closed the candidates that are open. Gives the number of segments that were looked at.
fn close(
    log: &Log,
    candidates: &mut [Candidate],
    mut known: HashMap<usize, HashMap<Key, Close>>,
) -> Result<usize, Trouble> {
    let mut open: HashMap<Key, usize> = HashMap::new();
    let mut begins: Vec<Vec<usize>> = vec![Vec::new(); log.segments.len()];
    let any_open = candidates.iter().any(|candidate| candidate.close.is_none());
    let still = if any_open { live_at_the_end(log)? } else { HashSet::new() };
    for (number, candidate) in
        candidates.iter().enumerate().filter(|(_, candidate)| candidate.close.is_none())
    {
        let newest = log.segments.len().saturating_sub(1);
        let from = if still.contains(&candidate.key) { newest } else { candidate.search };
        if let Some(begins) = begins.get_mut(from) {
            begins.push(number);
        }
    }
    let mut waiting: usize = begins.iter().map(Vec::len).sum();
    let mut looked = known.len();
    for (number, begins) in begins.iter().enumerate() {
        for candidate in begins {
            if let Some(key) = candidates.get(*candidate).map(|candidate| candidate.key) {
                open.insert(key, *candidate);
            }
            waiting -= 1;
        }
        if open.is_empty() {
            if waiting == 0 {
                break;
            }
            continue;
        }
        let closings = if let Some(closings) = known.remove(&number) {
            closings
        } else {
            looked += 1;
            first_of_each(log.section(number, Section::Closings, table::take_closings)?)
        };
        open.retain(|key, candidate| match (closings.get(key), candidates.get_mut(*candidate)) {
            (Some(close), Some(candidate)) => {
                candidate.close = Some((number, *close));
                false
            }
            _ => true,
        });
    }
    Ok(looked)
}

/// By launch. Of several the first counts.
fn first_of_each(closings: Vec<(Key, Close)>) -> HashMap<Key, Close> {
    closings.into_iter().rev().collect()
}

/// What the newest segment's live list names: nothing before that segment closes it.
fn live_at_the_end(log: &Log) -> Result<HashSet<Key>, Trouble> {
    let records = log.live_list(log.segments.len().saturating_sub(1))?;
    let entries = records.into_iter().flat_map(|record| record.grid.live);
    Ok(entries.filter_map(|entry| entry.id.as_deref().map(key)).collect())
}

#[derive(Debug, Default)]
struct Read {
    payload: Option<Payload>,
    places: Vec<Place>,
    unreadable: u64,
}

/// Reads the records of a candidate and asks them.
fn read(log: &Log, question: &Question, learned: &Learned, candidate: &Candidate) -> Result<Read, Trouble> {
    let mut out = Read::default();
    let is_it = |record: &Record, closes: bool| {
        record.event.id.as_deref().map(key) == Some(candidate.key)
            && (record.event.action == Action::PayloadLaunch) != closes
            && record.event.action.closes() == closes
    };
    let record = match candidate.place {
        Some((number, offset)) => {
            let record = log.record(number, offset)?;
            let record =
                record.filter(|record| is_it(record, false) && record.timestamp == Some(candidate.time));
            match (record, &candidate.entry) {
                (Some(record), _) => {
                    out.places.push((number, offset));
                    Some(record)
                }
                (None, Some(_)) => None,
                (None, None) => return Err(Trouble::Stale(number)),
            }
        }
        None => None,
    };
    let pruned = record.is_none();
    let launch = match (record, &candidate.entry) {
        (Some(record), _) => record,
        (None, Some(entry)) => match from_entry(entry) {
            Some(record) => record,
            None => return Ok(Read { unreadable: 1, ..out }),
        },
        (None, None) => return Ok(Read { unreadable: 1, ..out }),
    };
    let told = learned.of.get(&candidate.key).map(Vec::as_slice).unwrap_or_default();
    let by_name = learned.meant.contains(&candidate.key);
    if !(question.meets(&launch) || by_name && question.without_who().meets(&launch)) {
        // A live list says less than an index, so only an index can be wrong here.
        return match (candidate.place, &candidate.entry) {
            (Some((number, _)), None) => Err(Trouble::Stale(number)),
            _ => Ok(Read::default()),
        };
    }
    let closed = match candidate.close {
        Some((number, close)) => {
            let record = log.record(number, close.offset)?;
            let fits = record.filter(|record| is_it(record, true) && record.timestamp == Some(close.time));
            out.places.push((number, close.offset));
            Some(fits.ok_or(Trouble::Stale(number))?)
        }
        None => None,
    };
    out.places.extend(told.iter().map(|(place, _)| *place));
    out.payload = Some(Payload {
        learned: told.iter().map(|(_, record)| record.clone()).collect(),
        start: candidate.time,
        end: candidate.close.map(|(_, close)| close.time),
        launch,
        closed,
        pruned,
    });
    Ok(out)
}

/// What a live list still says of a launch whose record retention removed.
fn from_entry(entry: &LiveEntry) -> Option<Record> {
    let mut record = Record::new(Action::PayloadLaunch, LaunchId::parse(entry.id.as_deref()?)?);
    record.timestamp = entry.since;
    record.process.pid = entry.pid;
    record.process.real_user.id = entry.uid.map(|uid| uid.to_string());
    record.grid.start_ticks = entry.start_ticks;
    record.user.id.clone_from(&entry.user);
    record.grid.vo.clone_from(&entry.vo);
    record.grid.job.id.clone_from(&entry.job);
    Some(record)
}

/// Reads the other records that fit.
fn other_records(
    log: &Log,
    question: &Question,
    others: &[(usize, Other)],
    found: &mut Found,
) -> Result<(), Trouble> {
    let records = at_once(others, |(number, (_, offset, time, _))| {
        let record = log.record(*number, *offset)?.filter(|record| record.timestamp == Some(*time));
        record.ok_or(Trouble::Stale(*number))
    })?;
    for ((number, (_, offset, _, _)), record) in others.iter().zip(records) {
        let place = (*number, *offset);
        // What closes a launch that is in the answer is there with it.
        if question.meets(&record) && !found.places.contains(&place) {
            found.others.push(record);
            found.places.push(place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_that_closes_counts() {
        let close = |offset, failed| Close { offset, time: Timestamp::default(), failed };
        let (one, two) = (key("one"), key("two"));
        let found = first_of_each(vec![(one, close(1, false)), (two, close(2, true)), (one, close(3, true))]);
        assert_eq!((found[&one].offset, found[&one].failed), (1, false));
        assert_eq!((found[&two].offset, found.len()), (2, 2));
    }
}
