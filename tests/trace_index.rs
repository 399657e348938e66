//! Questions are answered as by somebody who reads the whole log, whatever became of the indexes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests too

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use bailey::admin::verify::Trust;
use bailey::audit::Timestamp;
use bailey::audit::record::Action;
use bailey::trace::around::{Chain, Limits};
use bailey::trace::index::{forget_removed, write_for};
use bailey::trace::{OfLog, Question, Settings, ask};
use common::grid::{Dice, Line, START, Writer, read};
use common::{Scratch, segments};

/// A log with the clock's jumps, with or without what only the recorder writes.
fn random_log(dir: &Path, dice: &mut Dice, recorder: bool) -> Writer {
    let mut writer = Writer::new(dir, recorder);
    writer.roll();
    let mut launches = 0;
    for _ in 0..dice.roll(160) + 20 {
        writer.clock += dice.roll(900) as i64;
        match dice.roll(100) {
            0..5 => writer.clock -= dice.roll(20_000) as i64,
            5..10 => writer.clock += dice.roll(200_000) as i64,
            10..16 => writer.roll(),
            16..20 if recorder => {
                writer.checkpoint();
            }
            20..22 if recorder => writer.live_list(),
            22..26 => writer.deny(launches + 5000),
            26..60 => {
                writer.launch(launches);
                launches += 1;
            }
            number => {
                let count = writer.live.len() as u64;
                if count > 0 {
                    let id = writer.live.keys().nth(dice.roll(count) as usize).unwrap().clone();
                    let failed = number < 66;
                    writer.close(&id, if failed { Action::LaunchFailed } else { Action::PayloadEnd });
                }
            }
        }
    }
    writer
}

fn random_question(dice: &mut Dice, lines: &[Line]) -> Question {
    let mut question = Question::default();
    let moment = |dice: &mut Dice| {
        let near = lines[dice.roll(lines.len() as u64) as usize].record.timestamp.unwrap();
        near.plus_seconds([-1, 0, 0, 1, 500, -500][dice.roll(6) as usize])
    };
    match dice.roll(8) {
        0 => {}
        1..5 => {
            let at = moment(dice);
            question = Question::at(at);
        }
        5 => question.from = Some(moment(dice)),
        6 => question.to = Some(moment(dice)),
        _ => {
            let (one, other) = (moment(dice), moment(dice));
            question.from = Some(one.min(other));
            question.to = Some(one.max(other));
        }
    }
    let number = dice.roll(40) as usize;
    let like = common::grid::launch(common::id(number), number);
    match dice.roll(16) {
        0 => question.pid = like.process.pid,
        1 => question.vpid = like.process.vpid,
        2 => question.user = Some(format!("PERSON {}", number % 9)),
        3 => question.user = Some("example.org".into()),
        4 => question.issuer = like.grid.identity.issuer,
        5 => question.vo = like.grid.vo,
        6 => question.job = like.grid.job.id,
        7 => question.job = like.grid.job.task,
        8 => question.pilot = like.grid.pilot.id,
        9 => question.image = Some("images/el7".into()),
        10 => question.cgroup = Some(format!("/bailey/{number}/child")),
        11 => question.id = like.event.id,
        12 => question.ip = Some("192.0.2.7".parse().unwrap()),
        13 => {
            question.vo = Some("cms".into());
            question.pid = Some(103);
        }
        _ => {}
    }
    if question.is_empty() {
        question.vo = Some("atlas".into());
    }
    question
}

/// Launch id and offset of the end, by reading every line.
fn model(lines: &[Line], question: &Question) -> Vec<(String, Option<u64>)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.record.event.action != Action::PayloadLaunch || !question.meets(&line.record) {
            continue;
        }
        let id = &line.record.event.id;
        let end = (at + 1..lines.len())
            .find(|n| lines[*n].record.event.id == *id && lines[*n].record.event.action.closes());
        // Every moment that the clock showed between the two.
        let last = end.unwrap_or(lines.len() - 1);
        let times: Vec<Timestamp> =
            lines[at..=last].iter().filter_map(|line| line.record.timestamp).collect();
        let (earliest, latest) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
        let begun = question.to.is_none_or(|to| earliest <= to);
        let lasts = question.from.is_none_or(|from| end.is_none() || from <= latest);
        if begun && lasts {
            let end = end.map(|end| lines[end].record.chain.as_ref().unwrap().seq);
            found.push((id.clone().unwrap(), end));
        }
    }
    found.sort();
    found
}

/// Of the chain only neighbours are compared: most of these tests are about what is found.
fn answer(dir: &Path, question: &Question) -> OfLog {
    let settings = Settings { limits: Limits { whole: 0, around: 0 }, ..Settings::default() };
    let answer = ask(&[dir.to_owned()], question, &settings).unwrap();
    answer.logs.into_iter().next().unwrap()
}

fn ids(log: &OfLog) -> Vec<(String, Option<u64>)> {
    let mut ids: Vec<_> = log
        .payloads
        .iter()
        .map(|payload| {
            assert_eq!(payload.end.is_some(), payload.closed.is_some());
            let end = payload.closed.as_ref().map(|closed| closed.chain.as_ref().unwrap().seq);
            (payload.launch.event.id.clone().unwrap(), end)
        })
        .collect();
    ids.sort();
    ids
}

fn index_all(dir: &Path) {
    for path in segments(dir) {
        write_for(dir, path.file_name().unwrap().to_str().unwrap()).unwrap();
    }
}

fn indexes(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "idx"))
        .collect();
    paths.sort();
    paths
}

/// One way to harm the indexes of a log.
fn harm(dir: &Path, dice: &mut Dice) {
    for path in indexes(dir) {
        let mut bytes = fs::read(&path).unwrap();
        let at = dice.roll(bytes.len() as u64) as usize;
        match dice.roll(7) {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, &bytes[..at]).unwrap(),
            2 => {
                bytes[at] ^= 1 << dice.roll(8);
                fs::write(&path, &bytes).unwrap();
            }
            3 => {
                bytes[at..].fill(0);
                fs::write(&path, &bytes).unwrap();
            }
            4 => fs::write(&path, b"BLYIDX02 and nothing that follows").unwrap(),
            5 => {
                // The index of another segment, which is sound in itself.
                let others = indexes(dir);
                let other = &others[dice.roll(others.len() as u64) as usize];
                let bytes = fs::read(other).unwrap();
                fs::write(&path, bytes).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn every_question_is_answered_as_by_reading_the_whole_log() {
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut found = 0;
    for round in 0..14 {
        let dir = Scratch::new();
        let recorder = round % 4 != 0;
        let mut writer = random_log(dir.path(), &mut dice, recorder);
        let lines = read(dir.path());
        let questions: Vec<Question> = (0..12).map(|_| random_question(&mut dice, &lines)).collect();
        let expected: Vec<_> = questions.iter().map(|question| model(&lines, question)).collect();
        found += expected.iter().map(Vec::len).sum::<usize>();
        let check = |when: &str| {
            for (question, expected) in questions.iter().zip(&expected) {
                let log = answer(dir.path(), question);
                assert_eq!(&ids(&log), expected, "round {round}, {when}: {question:?}");
                assert_eq!(log.unreadable_lines, 0);
                assert!(log.chain.first_break().is_none());
            }
        };
        check("no index");
        index_all(dir.path());
        assert_eq!(indexes(dir.path()).len(), segments(dir.path()).len() + 1);
        check("indexes");
        for _ in 0..3 {
            harm(dir.path(), &mut dice);
            check("harmed indexes");
        }
        // The log goes on, and indexes and catalog are of before.
        index_all(dir.path());
        writer.clock += 10;
        writer.launch(9000);
        writer.roll();
        writer.launch(9001);
        let lines = read(dir.path());
        for question in &questions {
            let expected = model(&lines, question);
            assert_eq!(ids(&answer(dir.path(), question)), expected, "round {round}, grown: {question:?}");
        }
    }
    assert!(found > 200, "{found} payloads are too few to prove anything");
}

#[test]
fn a_cut_or_changed_index_never_lies() {
    let dir = Scratch::new();
    let mut writer = Writer::new(dir.path(), true);
    writer.roll();
    for number in 0..5 {
        writer.clock += 60;
        writer.launch(number);
    }
    let id = common::id(2).to_string();
    writer.close(&id, Action::PayloadEnd);
    writer.roll();
    index_all(dir.path());
    let path = indexes(dir.path()).remove(0);
    let good = fs::read(&path).unwrap();
    let question = Question { vo: Some("cms".into()), ..Question::default() };
    let expected = model(&read(dir.path()), &question);
    assert_eq!(expected.len(), 2);
    let check = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        assert_eq!(ids(&answer(dir.path(), &question)), expected, "{what}");
    };
    for cut in (0..good.len()).step_by(3) {
        check(&good[..cut], &format!("cut at {cut}"));
    }
    for at in (0..good.len()).step_by(2) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        check(&bad, &format!("byte {at}"));
    }
    // The same for the catalog.
    fs::write(&path, &good).unwrap();
    let catalog = dir.path().join("segments.idx");
    let good = fs::read(&catalog).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&catalog, &bad).unwrap();
        assert_eq!(ids(&answer(dir.path(), &question)), expected, "catalog, byte {at}");
        fs::write(&catalog, &good[..at]).unwrap();
        assert_eq!(ids(&answer(dir.path(), &question)), expected, "catalog, cut at {at}");
    }
}

#[test]
fn an_index_of_another_log_with_the_same_names_is_not_believed() {
    let (one, other) = (Scratch::new(), Scratch::new());
    for (dir, first) in [(&one, 0), (&other, 100)] {
        let mut writer = Writer::new(dir.path(), true);
        writer.roll();
        for number in first..first + 5 {
            writer.launch(number);
        }
        writer.roll();
        index_all(dir.path());
    }
    for path in indexes(other.path()) {
        fs::copy(&path, one.path().join(path.file_name().unwrap())).unwrap();
    }
    let question = Question { job: Some("job-3".into()), ..Question::default() };
    assert_eq!(answer(one.path(), &question).payloads.len(), 1);
    let question = Question { job: Some("job-103".into()), ..Question::default() };
    assert_eq!(answer(one.path(), &question).payloads.len(), 0);
}

#[test]
fn one_moment_reads_one_or_two_segments() {
    let dir = Scratch::new();
    let mut writer = Writer::new(dir.path(), true);
    for segment in 0..30 {
        writer.roll();
        for number in 0..10 {
            writer.clock += 60;
            let id = writer.launch(segment * 10 + number).to_string();
            writer.clock += 60;
            writer.close(&id, Action::PayloadEnd);
        }
    }
    index_all(dir.path());
    let at = Timestamp::new(START + 15 * 1200 + 90, 0);
    let log = answer(dir.path(), &Question { pid: Some(100), ..Question::at(at) });
    assert_eq!(log.segments, 30);
    assert!(log.segments_read <= 2, "{} segments were read", log.segments_read);
    let log = answer(dir.path(), &Question::at(at));
    assert_eq!((log.payloads.len(), log.segments_read <= 2), (1, true));
}

#[test]
fn a_pruned_launch_is_known_from_the_live_list() {
    let dir = Scratch::new();
    let mut writer = Writer::new(dir.path(), true);
    writer.roll();
    let id = writer.launch(4).to_string();
    writer.roll();
    writer.clock += 3600;
    let first = segments(dir.path()).remove(0);
    index_all(dir.path());
    fs::remove_file(&first).unwrap();
    let at = Question::at(Timestamp::new(START + 60, 0));
    let check = |end: Option<i64>| {
        let log = answer(dir.path(), &Question { user: Some("person 4".into()), ..at.clone() });
        let [payload] = &log.payloads[..] else { panic!("{log:?}") };
        assert!(payload.pruned);
        assert_eq!(payload.launch.event.id.as_deref(), Some(id.as_str()));
        assert_eq!(payload.end.map(Timestamp::secs), end);
    };
    check(None);
    writer.close(&id, Action::PayloadEnd);
    check(Some(START + 3600));
    assert_eq!(indexes(dir.path()).len(), 3);
    forget_removed(&bailey::audit::segment::Directory::for_reading(dir.path()).unwrap()).unwrap();
    assert_eq!(indexes(dir.path()).len(), 2, "the removed segment's index holds names too");
}

/// The chain around the records of an answer, when the log is too large to verify whole.
fn around(dir: &Path, question: &Question, trust: Trust, limits: Limits) -> Chain {
    let settings = Settings { trust, limits, ..Settings::default() };
    ask(&[dir.to_owned()], question, &settings).unwrap().logs.remove(0).chain
}

#[test]
fn the_chain_is_checked_between_the_checkpoints_around_a_record() {
    use bailey::admin::verify::Break::{BadSignature, ChangedLine, WrongKey};
    use bailey::admin::verify::KeyFrom;
    let dir = Scratch::new();
    let mut writer = Writer::new(dir.path(), true);
    writer.roll();
    for number in 0..60 {
        writer.launch(number);
        if number % 10 == 9 {
            writer.checkpoint();
        }
    }
    let question = Question { job: Some("job-35".into()), ..Question::default() };
    let trust = Trust(Some((writer.key.public(), KeyFrom::Named)));
    let limits = Limits { whole: 0, around: 1 << 20 };
    let Chain::Around(good) = around(dir.path(), &question, trust.clone(), limits.clone()) else { panic!() };
    let [stretch] = &good.stretches[..] else { panic!("{good:?}") };
    // Two lines at the head, 35 launches, 3 checkpoints: the record is line 41, the checkpoint behind it line 46.
    assert_eq!((stretch.from_seq, stretch.to_seq, stretch.attested_seq), (41, 46, Some(45)));
    assert_eq!(good.first_break, None);
    assert_eq!(good.keys.iter().collect::<Vec<_>>(), [&writer.key.public().id()]);

    let path = segments(dir.path()).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let broken = |from: &str, to: &str, limits: &Limits| {
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let chain = around(dir.path(), &question, trust.clone(), limits.clone());
        fs::write(&path, &text).unwrap();
        chain.first_break().map(|broken| (broken.line, broken.kind))
    };
    let job = |number: u32| (format!("\"job-{number}\""), format!("\"jab-{number}\""));
    let line = |number| broken(&job(number).0, &job(number).1, &limits);
    assert_eq!(line(37), Some((43, ChangedLine)), "inside the stretch");
    assert_eq!(line(39), Some((45, ChangedLine)), "its last line, by the checkpoint");
    assert_eq!(line(35), None, "asked by its job, the record that was changed is no longer found");
    assert_eq!(line(33), None, "outside: the answer says what was checked");
    let few = Limits { whole: 0, around: 0 };
    assert_eq!(broken("\"pilot-5\",\"batch", "\"pilot-6\",\"batch", &few), None, "not the record");
    let Chain::Around(beside) = around(dir.path(), &question, trust.clone(), few.clone()) else { panic!() };
    assert_eq!((beside.neighbour_only, beside.stretches.len()), (1, 0));
    assert_eq!(broken("/bailey/35", "/bailey/99", &few), Some((41, ChangedLine)), "the record itself");
    let whole = Limits { whole: 1 << 20, around: 0 };
    assert_eq!(broken(&job(5).0, &job(5).1, &whole), Some((8, ChangedLine)), "all of a small log");

    let other = Trust(Some((bailey::audit::sign::Key::make().unwrap().public(), KeyFrom::Named)));
    let chain = around(dir.path(), &question, other, limits.clone());
    assert_eq!(chain.first_break().map(|broken| (broken.line, broken.kind)), Some((46, WrongKey)));
    let signature = read(dir.path())[45].record.grid.checkpoint.signature.clone().unwrap();
    let forged = format!("{}{}", if signature.starts_with('4') { 5 } else { 4 }, &signature[1..]);
    assert_eq!(broken(&signature, &forged, &limits), Some((46, BadSignature)));
}
