use super::*;
use crate::fuzzing::Random;
use crate::overuse::tests::cpu;
use crate::overuse::{Bound, Milli};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn engine(rules: &[Rule], per: f64) -> Engine {
    Engine::new(rules.iter().map(|rule| Watched { rule: rule.clone(), per }).collect()).unwrap()
}

/// A rule on processes: more than ten.
fn many(over: u64) -> Rule {
    let bound = Bound::Above(Milli(10_000));
    Rule { id: "many".to_owned(), metric: Metric::Processes, bound, until: Milli(9000), ..cpu(1, over) }
}

fn reading(over: u64, min_cpu: u64) -> Rule {
    let bound = Bound::Below(Milli(1_000_000));
    let rule = Rule {
        id: "reads".to_owned(),
        metric: Metric::Reading,
        bound,
        until: Milli(1_200_000),
        ..cpu(1, over)
    };
    Rule { min_cpu: secs(min_cpu), ..rule }
}

fn processes(count: u64) -> Sample {
    Sample { processes: Some(count), ..Sample::default() }
}

/// Feeds it every second with these numbers of processes; the seconds at which something happened, and what.
fn with_processes(rule: &Rule, counts: &[u64]) -> Vec<(u64, Step)> {
    let mut engine = engine(std::slice::from_ref(rule), 1.0);
    let mut all = Vec::new();
    for (at, count) in (0..).zip(counts) {
        let (events, _) = engine.feed(secs(at), &processes(*count), Duration::ZERO);
        all.extend(events.into_iter().map(|event| (at, event.step)));
    }
    all
}

/// The same with cores used in the second before each sample.
fn with_cores(rule: &Rule, asked: f64, cores: &[f64]) -> Vec<(u64, Step)> {
    let mut engine = engine(std::slice::from_ref(rule), asked);
    let mut all = Vec::new();
    let mut used = Duration::ZERO;
    for (at, cores) in (0..).zip(cores) {
        used += Duration::from_secs_f64(*cores);
        let sample = Sample { cpu: Some(used), ..Sample::default() };
        let (events, _) = engine.feed(secs(at), &sample, Duration::ZERO);
        all.extend(events.into_iter().map(|event| (at, event.step)));
    }
    all
}

fn series(parts: &[(usize, f64)]) -> Vec<f64> {
    parts.iter().flat_map(|(count, value)| std::iter::repeat_n(*value, *count)).collect()
}

const NOTICE: Step = Step::Notice;

#[test]
fn without_a_rule_there_is_no_engine() {
    assert!(Engine::new(Vec::new()).is_none());
}

#[test]
fn what_is_there_must_be_over_all_the_time() {
    let rule = many(4);
    for (counts, expected) in [
        (&[11, 11, 11, 11, 11][..], &[(4, NOTICE)][..]),
        (&[11, 11, 11, 11], &[]),
        (&[10, 10, 10, 10, 10, 10, 10], &[]),
        (&[1, 1, 11, 11, 11, 11, 11, 11], &[(6, NOTICE)]),
        // One good sample, and it begins anew.
        (&[11, 11, 11, 10, 11, 11, 11, 10], &[]),
        (&[11, 11, 11, 10, 11, 11, 11, 11, 11], &[(8, NOTICE)]),
    ] {
        assert_eq!(with_processes(&rule, counts), expected, "{counts:?}");
    }
}

#[test]
fn a_rule_that_fired_waits_until_it_was_back_for_a_time() {
    let rule = many(2);
    // Between 9 and 10 is neither: it does not fire again, and is not armed again.
    assert_eq!(with_processes(&rule, &[11, 11, 11, 11, 10, 11, 11, 11, 9, 9, 9, 11, 11, 11]), [(2, NOTICE)]);
    // Below 9, but not for two seconds.
    assert_eq!(with_processes(&rule, &[11, 11, 11, 8, 8, 11, 11, 11, 11]), [(2, NOTICE)]);
    assert_eq!(with_processes(&rule, &[11, 11, 11, 8, 8, 8, 11, 11, 11, 11]), [(2, NOTICE), (8, NOTICE)]);
}

#[test]
fn steps_come_one_after_the_other_while_it_goes_on() {
    let rule = Rule { steps: vec![Step::Notice, Step::Throttle, Step::Stop], every: secs(3), ..many(2) };
    let all = [(2, Step::Notice), (5, Step::Throttle), (8, Step::Stop)];
    assert_eq!(with_processes(&rule, &[11; 30]), all);
    // A good sample between: the time until the next step begins anew.
    assert_eq!(
        with_processes(&rule, &[11, 11, 11, 11, 10, 11, 11, 11, 11]),
        [(2, Step::Notice), (7, Step::Throttle)]
    );
    // Back for good: the steps begin with the first again.
    assert_eq!(
        with_processes(&rule, &[11, 11, 11, 11, 11, 11, 1, 1, 1, 11, 11, 11]),
        [(2, Step::Notice), (5, Step::Throttle), (11, Step::Notice)]
    );
}

#[test]
fn the_event_says_what_comes_next() {
    let rule = Rule { steps: vec![Step::Notice, Step::Stop], every: secs(1), ..many(1) };
    let mut engine = engine(&[rule], 1.0);
    let mut events = Vec::new();
    for at in 0..4 {
        events.extend(engine.feed(secs(at), &processes(12), Duration::ZERO).0);
    }
    let [first, second] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        (first.step, first.next, first.value, first.during),
        (Step::Notice, Some(Step::Stop), 12.0, secs(1))
    );
    assert_eq!((second.step, second.next, second.during), (Step::Stop, None, secs(1)));
}

#[test]
fn cores_are_judged_by_their_average() {
    let rule = cpu(1200, 10);
    assert_eq!(with_cores(&rule, 1.0, &series(&[(40, 1.0)])), []);
    assert_eq!(with_cores(&rule, 1.0, &series(&[(12, 2.0)])), [(10, NOTICE)]);
    // Twice what was asked for and pauses: 1.33 on average, though every third second is idle.
    let pauses: Vec<f64> = (0..40).map(|second| if second % 3 == 0 { 0.0 } else { 2.0 }).collect();
    assert_eq!(with_cores(&rule, 1.0, &pauses).len(), 1);
    // A burst at the start and then as asked for: the average never is above.
    assert_eq!(with_cores(&rule, 1.0, &series(&[(2, 2.0), (60, 0.9)])), []);
    // Relative to what was asked for.
    assert_eq!(with_cores(&rule, 8.0, &series(&[(40, 9.0)])), []);
    assert_eq!(with_cores(&rule, 8.0, &series(&[(12, 10.0)])), [(10, NOTICE)]);
}

#[test]
fn whoever_heeds_the_notice_is_not_stopped_for_what_was_before() {
    let rule = Rule { steps: vec![Step::Notice, Step::Stop], every: secs(5), ..cpu(1200, 20) };
    assert_eq!(with_cores(&rule, 1.0, &series(&[(60, 8.0)])), [(20, Step::Notice), (25, Step::Stop)]);
    // Seconds 21 to 25 are good, so the average of the last 20 seconds is still far too high.
    assert_eq!(with_cores(&rule, 1.0, &series(&[(21, 8.0), (60, 1.0)])), [(20, Step::Notice)]);
    // Good for a while, then bad again before it was back for long: the next step.
    assert_eq!(
        with_cores(&rule, 1.0, &series(&[(21, 8.0), (6, 1.0), (30, 8.0)])),
        [(20, Step::Notice), (30, Step::Stop)]
    );
}

#[test]
fn cores_are_judged_anew_after_a_return() {
    let rule = cpu(1200, 10);
    // Back at 20. What was before that does not count: the next average is that of 20 to 30.
    assert_eq!(
        with_cores(&rule, 1.0, &series(&[(11, 4.0), (12, 0.5), (40, 4.0)])),
        [(10, NOTICE), (30, NOTICE)]
    );
    // At 1.1 it is neither over nor back.
    assert_eq!(with_cores(&rule, 1.0, &series(&[(11, 4.0), (30, 1.1), (40, 4.0)])), [(10, NOTICE)]);
}

#[test]
fn reading_is_judged_for_who_computes() {
    let fed = |rule: &Rule, cores: f64, bytes: u64| {
        let mut engine = engine(std::slice::from_ref(rule), 1.0);
        let mut events = Vec::new();
        for second in 0..60_u64 {
            let used = Duration::from_secs_f64(cores * second as f64);
            let sample = Sample { reading: Some((used, bytes * second)), ..Sample::default() };
            events.extend(engine.feed(secs(second), &sample, Duration::ZERO).0);
        }
        events.len()
    };
    let rule = reading(30, 15);
    assert_eq!(fed(&rule, 1.0, 10), 1, "a miner, or a simulation");
    assert_eq!(fed(&rule, 1.0, 999), 1);
    assert_eq!(fed(&rule, 1.0, 1000), 0);
    assert_eq!(fed(&rule, 8.0, 1000), 1, "for each second of CPU time");
    assert_eq!(fed(&rule, 0.4, 0), 0, "it hardly computes");
    assert_eq!(fed(&rule, 0.0, 0), 0, "it sleeps");
}

#[test]
fn a_sample_that_is_not_later_is_left_out() {
    let mut engine = engine(&[many(4)], 1.0);
    let mut count = 0;
    // A clock that stands, or goes back: no time passes, nothing comes of it.
    for at in [10, 10, 10, 3, 0, 10, 9, 10] {
        count += engine.feed(secs(at), &processes(99), Duration::ZERO).0.len();
    }
    assert_eq!(count, 0);
    for at in 11..=14 {
        count += engine.feed(secs(at), &processes(99), Duration::ZERO).0.len();
    }
    assert_eq!(count, 1);
}

#[test]
fn nobody_is_blamed_for_a_time_that_nobody_saw() {
    let rule = many(10);
    let mut engine = engine(std::slice::from_ref(&rule), 1.0);
    assert!(engine.feed(secs(0), &processes(99), Duration::ZERO).0.is_empty());
    // An hour in which this process was stopped.
    assert!(engine.feed(secs(3600), &processes(99), Duration::ZERO).0.is_empty());
    for at in 3601..3610 {
        assert!(engine.feed(secs(at), &processes(99), Duration::ZERO).0.is_empty(), "{at}");
    }
    assert_eq!(engine.feed(secs(3610), &processes(99), Duration::ZERO).0.len(), 1);
    // The same for the next step.
    let rule = Rule { steps: vec![Step::Notice, Step::Stop], every: secs(10), ..rule };
    let mut engine = Engine::new(vec![Watched { rule, per: 1.0 }]).unwrap();
    let mut seen = Vec::new();
    for at in (0..=10).chain(3600..3620) {
        let events = engine.feed(secs(at), &processes(99), Duration::ZERO).0;
        seen.extend(events.into_iter().map(|event| (at, event.step)));
    }
    assert_eq!(seen, [(10, Step::Notice), (3610, Step::Stop)]);
}

#[test]
fn a_pause_that_was_planned_is_no_gap() {
    let mut engine = engine(&[many(10)], 1.0);
    // Ten thousand processes: each sample costs 0.2 s, so the next comes 200 s later.
    let cost = Duration::from_millis(200);
    let (events, next) = engine.feed(secs(0), &processes(99), cost);
    assert_eq!((events.len(), next), (0, secs(200)));
    let (events, next) = engine.feed(secs(201), &processes(99), cost);
    assert_eq!((events.len(), next), (1, secs(401)));
}

#[test]
fn the_next_sample_comes_as_late_as_it_may_and_never_too_soon() {
    let next = |rules: &[Rule], cost: u64| {
        engine(rules, 1.0).feed(secs(0), &Sample::default(), Duration::from_micros(cost)).1
    };
    assert_eq!(next(&[many(2)], 10), FINEST);
    assert_eq!(next(&[many(600)], 10), Duration::from_millis(37_500));
    assert_eq!(next(&[many(600), cpu(1200, 160)], 10), secs(10));
    assert_eq!(next(&[many(600)], 60_000), secs(60));
    assert_eq!(next(&[Rule { every: secs(32), ..many(600) }], 10), Duration::from_millis(37_500), "one step");
    let steps = vec![Step::Notice, Step::Stop];
    assert_eq!(next(&[Rule { every: secs(32), steps, ..many(600) }], 10), secs(2));
    assert_eq!(next(&[Rule { over_end: secs(32), ..many(600) }], 10), secs(2));
}

#[test]
fn what_was_read_is_asked_as_seldom_as_that_rule_needs_it() {
    let mut engine = engine(&[many(16), reading(160, 0)], 1.0);
    let mut asked = Vec::new();
    for at in 0..25 {
        let wants = engine.wants_reading(secs(at));
        if wants {
            asked.push(at);
        }
        let reading = wants.then(|| (secs(at), at));
        let sample = Sample { reading, ..processes(1) };
        engine.feed(secs(at), &sample, Duration::ZERO);
    }
    assert_eq!(asked, [0, 10, 20]);
    let engine = Engine::new(vec![Watched { rule: many(16), per: 1.0 }]).unwrap();
    assert!(!engine.wants_reading(secs(9999)));
}

#[test]
fn memory_of_the_engine_is_bounded() {
    let mut engine = engine(&[cpu(1200, 600), reading(7200, 0)], 1.0);
    for at in 0..50_000 {
        let sample = Sample { cpu: Some(secs(at)), reading: Some((secs(at), at)), ..Sample::default() };
        engine.feed(secs(at), &sample, Duration::ZERO);
    }
    for watch in &engine.watches {
        let points = watch.over.points.len() + watch.back.points.len();
        assert!(points <= 2 * (PARTS as usize + 2), "{points}");
    }
}

// ---- Counters ----

#[test]
fn a_counter_table() {
    const NO: Option<u64> = None;
    for (raw, shown) in [
        (&[5, 7, 9][..], &[Some(5), Some(7), Some(9)][..]),
        // Missing once or twice and back: nothing is added.
        (&[100, 40, 101, 102], &[Some(100), NO, Some(101), Some(102)]),
        (&[100, 40, 41, 101], &[Some(100), NO, NO, Some(101)]),
        // Missing for good: the least that was missing is given up, and it grows again.
        (&[100, 40, 41, 42, 43, 50], &[Some(100), NO, NO, Some(100), Some(101), Some(108)]),
        // Short moments in a row cost at most the smallest one, and what is still missing is not judged.
        (&[100, 10, 95, 20, 101], &[Some(100), NO, NO, NO, Some(106)]),
        (&[0, 0, 0], &[Some(0), Some(0), Some(0)]),
        (&[u64::MAX, 0, 0, 0, 5], &[Some(u64::MAX), NO, NO, Some(u64::MAX), Some(u64::MAX)]),
    ] {
        let mut counter = Counter::default();
        let seen: Vec<Option<u64>> = raw.iter().map(|raw| counter.see(*raw)).collect();
        assert_eq!(seen, shown, "{raw:?}");
    }
}

#[test]
fn a_counter_never_goes_back_and_shows_at_most_what_was_used() {
    for seed in 1..300 {
        let mut random = Random(seed);
        let mut counter = Counter::default();
        let (mut truth, mut lost, mut last, mut excess) = (0_u64, 0_u64, 0_u64, 0_u64);
        for _ in 0..400 {
            truth += random.number(50);
            if random.number(40) == 0 {
                lost += random.number(truth - lost + 1); // a parent that ignores SIGCHLD
            }
            let moment = if random.number(2) == 0 { random.number(truth - lost + 1) } else { 0 };
            let seen = counter.see(truth - lost - moment);
            // Three unlucky moments in a row pass for a loss. That is all that can be too much.
            excess = excess.max(counter.given_up.saturating_sub(lost));
            if let Some(seen) = seen {
                assert!(seen >= last && seen <= truth + excess, "seed {seed}");
                last = seen;
            }
        }
    }
}

#[test]
fn a_counter_that_is_whole_in_one_of_three_samples_is_exact() {
    for seed in 1..300 {
        let mut random = Random(seed);
        let mut counter = Counter::default();
        let mut truth = 0_u64;
        for number in 0..400_u64 {
            truth += 1 + random.number(50);
            let whole = number % 3 == 0;
            let raw = if whole { truth } else { truth - random.number(truth) };
            match counter.see(raw) {
                Some(seen) => assert!(seen <= truth && (!whole || seen == truth), "seed {seed}"),
                None => assert!(!whole, "seed {seed}"),
            }
        }
    }
}

// ---- Properties ----

#[test]
fn whatever_comes_steps_are_in_order_and_spaced() {
    for seed in 1..200 {
        let mut random = Random(seed * 7919);
        let steps = vec![Step::Notice, Step::Throttle, Step::Stop];
        let rules = [
            Rule {
                steps: steps.clone(),
                every: secs(1 + random.number(30)),
                ..cpu(1200, 1 + random.number(60))
            },
            Rule {
                steps,
                every: secs(1 + random.number(30)),
                over_end: secs(1 + random.number(60)),
                ..many(1 + random.number(60))
            },
            reading(1 + random.number(60), 0),
        ];
        let mut engine = engine(&rules, 1.0);
        let (mut at, mut used) = (Duration::ZERO, Duration::ZERO);
        let mut last: Vec<Option<(Step, Duration)>> = vec![None; 3];
        for _ in 0..500 {
            // Any time, also none and backwards; any counters, also lower ones.
            at = if random.number(20) == 0 {
                at.saturating_sub(secs(random.number(9)))
            } else {
                at + Duration::from_millis(random.number(20_000))
            };
            used = if random.number(15) == 0 {
                used / 2
            } else {
                used + Duration::from_millis(random.number(30_000))
            };
            let sample = Sample {
                cpu: (random.number(10) > 0).then_some(used),
                processes: (random.number(10) > 0).then(|| random.number(20)),
                reading: Some((used, random.number(1 << 30))),
                memory: None,
            };
            let cost = Duration::from_micros(random.number(5000));
            let (events, next) = engine.feed(at, &sample, cost);
            assert!(next >= at + FINEST && next >= at + cost * COST, "seed {seed}");
            for event in events {
                let index = rules.iter().position(|rule| rule.id == event.rule.id).unwrap();
                let rule = &rules[index];
                let number = rule.steps.iter().position(|step| *step == event.step).unwrap();
                assert_eq!(event.next, rule.steps.get(number + 1).copied());
                assert!(rule.bound.is_over(event.value), "seed {seed}: {event:?}");
                if number > 0 {
                    let (before, when) = last[index].unwrap();
                    assert_eq!(before, rule.steps[number - 1], "seed {seed}");
                    assert!(at >= when + rule.every, "seed {seed}: too soon");
                    assert!(event.during >= rule.every, "seed {seed}");
                } else {
                    assert!(event.during >= rule.over, "seed {seed}");
                }
                last[index] = Some((event.step, at));
            }
        }
    }
}

#[test]
fn who_stays_within_is_never_told_anything() {
    for seed in 1..200 {
        let mut random = Random(seed * 104_729);
        let rules = [
            cpu(1200, 1 + random.number(60)),
            many(1 + random.number(60)),
            reading(1 + random.number(60), 0),
        ];
        let per = |rule: &Rule| if rule.metric == Metric::Cpu { 2.0 } else { 1.0 };
        let watched = rules.iter().map(|rule| Watched { rule: rule.clone(), per: per(rule) }).collect();
        let mut engine = Engine::new(watched).unwrap();
        // Less than what grew since the last sample cannot be seen to be missing; so there is much already, and it was seen.
        let (mut at, mut used, mut bytes) = (Duration::ZERO, secs(10_000), 0);
        let mut missing = 0;
        for number in 0..300 {
            let time = Duration::from_millis(random.number(20_000));
            at += time;
            used += time * 2; // two cores, as asked for
            bytes += time.as_micros() as u64 * 2 / 900; // a bit more than a thousand for each second of CPU time
            // Processes that end in this very moment, with what they used; not in three samples in a row.
            missing = if number > 0 && missing < 2 && random.number(3) == 0 { missing + 1 } else { 0 };
            let seen = if missing > 0 { used / 3 } else { used };
            let sample = Sample {
                cpu: Some(seen),
                processes: Some(random.number(11)),
                reading: Some((used, bytes)),
                memory: None,
            };
            let (events, _) = engine.feed(at, &sample, Duration::from_micros(50));
            assert!(events.is_empty(), "seed {seed}: {events:?}");
        }
    }
}
