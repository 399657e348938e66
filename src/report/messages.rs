//! `docs/messages.md` and the program say the same: each sentence is made by the code that makes it in earnest, and looked up.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::words;
use crate::audit::drain;
use crate::audit::record::StopBy;
use crate::audit::time::Timestamp;
use crate::failure::{Code, Failure, Fault};
use crate::identity::declare;
use crate::policy::bans::{Format, parse};
use crate::policy::decide::decide;
use crate::policy::facts::{Counts, Facts};
use crate::policy::index::{Memory, gather};
use crate::policy::lists::{Kind, Lists, Part, Trouble};
use crate::policy::name::Name;
use crate::policy::rule::{Grant, Named, Parallel, Rule};
use crate::policy::settings::{Measures, OnTrouble, Settings, Tables, Trust};
use crate::request::DeclaredIdentity;

const NOW: i64 = 1_790_000_000;

/// One row of the document.
struct Row {
    sentence: String,
    exit: String,
    fault: String,
}

fn rows() -> Vec<Row> {
    let lines = include_str!("../../docs/messages.md").lines();
    lines
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let (sentence, rest) = line.split_once("` | ").expect("a sentence");
            let cells: Vec<&str> = rest.trim_end_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 3, "{line}");
            Row { sentence: sentence.to_owned(), exit: cells[1].to_owned(), fault: cells[2].to_owned() }
        })
        .collect()
}

/// Whether a text is a sentence with its parts in braces filled in.
fn fits(sentence: &str, text: &str) -> bool {
    let mut parts = sentence.split('{').enumerate().map(|(number, part)| match number {
        0 => part,
        _ => part.split_once('}').expect("a closing brace").1,
    });
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut filled = false;
    for part in parts {
        filled = part.is_empty();
        if filled {
            continue;
        }
        match rest.get(1..).and_then(|later| later.find(part)) {
            Some(at) => rest = &rest[at + 1 + part.len()..],
            None => return false,
        }
    }
    filled || rest.is_empty()
}

/// A denial by the site's policy.
fn denied(facts: &Facts, tables: &Tables, settings: &Settings, counts: Option<Counts>) -> Failure {
    denied_with(facts, tables, settings, counts, None, &Lists::default())
}

fn denied_with(
    facts: &Facts,
    tables: &Tables,
    settings: &Settings,
    counts: Option<Counts>,
    list: Option<(&str, Format)>,
    lists: &Lists,
) -> Failure {
    let now = Timestamp::new(NOW, 0);
    let bans = list.map(|(text, format)| parse(text.as_bytes(), format).unwrap().bans).unwrap_or_default();
    let bans: Vec<_> = bans.into_iter().map(|ban| ("local.list".to_owned(), ban)).collect();
    let memory = Memory::new(tables, bans, []);
    let relevant = gather(facts, &memory, now).unwrap();
    decide(facts, &relevant, lists, settings, counts, now).into_result().unwrap_err()
}

fn alice() -> Facts {
    let mut facts = Facts::default();
    facts.who.user = Some("/DC=org/CN=Alice".to_owned());
    facts.who.vo = Some("atlas".to_owned());
    facts.who.uid = 1000;
    facts
}

fn with_rule(rule: Rule) -> Tables {
    Tables { rules: vec![Rule { id: "r1".to_owned(), ..rule }], ..Tables::default() }
}

fn granting(grant: Grant) -> Tables {
    with_rule(Rule { grant, ..Rule::default() })
}

/// Everything that policy says no with.
fn by_policy() -> Vec<Failure> {
    let (alice, none, settings) = (alice(), Tables::default(), Settings::defaults());
    let mut all = Vec::new();
    let ban = "[[ban]]\nuser = \"/DC=org/CN=Alice\"\n";
    for (text, format) in [
        (format!("{ban}reason = \"mining\"\n"), Format::Ours),
        ("\"/DC=org/CN=Alice\"\n".to_owned(), Format::Lcas),
    ] {
        all.push(denied_with(&alice, &none, &settings, None, Some((&text, format)), &Lists::default()));
    }
    let mut closed = Settings::defaults();
    closed.bans.unreadable = OnTrouble::Closed;
    for of in [Part::Bans, Part::Groups] {
        let trouble = Trouble { of, kind: Kind::Unreadable, text: "cms.toml: line 3 is no DN".to_owned() };
        let lists = Lists { troubles: vec![trouble], ..Lists::default() };
        all.push(denied_with(&alice, &none, &closed, None, None, &lists));
    }

    let mut token = alice.clone();
    token.who.user = Some("sub-1".to_owned());
    token.who.issuer = Some("https://other.example.org/".to_owned());
    let issuer = "https://iam.example.org/";
    let issuer = Named { text: issuer.to_owned(), key: crate::policy::index::issuer_key(issuer) };
    let trusts = vec![Trust { issuer, vo: vec!["atlas".to_owned()] }];
    all.push(denied(&token, &Tables { trusts, ..Tables::default() }, &settings, None));

    let reason = Some("this queue is for tests".to_owned());
    for reason in [reason, None] {
        all.push(denied(&alice, &with_rule(Rule { deny: true, reason, ..Rule::default() }), &settings, None));
    }
    all.push(denied(&alice, &none, &Settings { default_deny: true, ..Settings::defaults() }, None));
    all.extend(of_asks(&alice, &settings));
    all.extend(of_images(&alice));
    let full = Counts { person: 2, vo: 2, uid: 2 };
    for parallel in [
        Parallel { person: Some(2), ..Parallel::default() },
        Parallel { vo: Some(2), ..Parallel::default() },
        Parallel { uid: Some(2), ..Parallel::default() },
    ] {
        all.push(denied(&alice, &none, &Settings { parallel, ..Settings::defaults() }, Some(full)));
    }
    all
}

fn of_asks(alice: &Facts, settings: &Settings) -> Vec<Failure> {
    let asking = |ask: &dyn Fn(&mut Facts), grant: Grant| {
        let mut facts = alice.clone();
        ask(&mut facts);
        denied(&facts, &granting(grant), settings, None)
    };
    let hour = Duration::from_secs(3600);
    vec![
        asking(&|facts| facts.asks.nested = true, Grant { nested: Some(false), ..Grant::default() }),
        asking(&|facts| facts.asks.writable = true, Grant { writable: Some(false), ..Grant::default() }),
        asking(&|facts| facts.asks.credential = true, Grant { credentials: Some(false), ..Grant::default() }),
        asking(
            &|facts| facts.asks.binds = vec![("/data/x".into(), false)],
            Grant { binds_deny: vec!["/data".into()], ..Grant::default() },
        ),
        asking(
            &|facts| facts.asks.binds = vec![("/data/x".into(), false)],
            Grant { binds_allow: vec!["/cvmfs".into(), "/pool".into()], ..Grant::default() },
        ),
        asking(
            &|facts| facts.asks.wall_time = Some(2 * hour),
            Grant { wall_time: Some(hour), ..Grant::default() },
        ),
        asking(&|facts| facts.asks.scratch = Some(9), Grant { scratch: Some(8), ..Grant::default() }),
        asking(
            &|facts| facts.asks.limits.memory = Some(2 << 30),
            Grant { memory: Some(1 << 30), ..Grant::default() },
        ),
        asking(
            &|facts| facts.asks.limits.cpus_milli = Some(2500),
            Grant { cpus_milli: Some(2000), ..Grant::default() },
        ),
        asking(&|facts| facts.asks.limits.pids = Some(9), Grant { pids: Some(8), ..Grant::default() }),
    ]
}

fn of_images(alice: &Facts) -> Vec<Failure> {
    let digest = format!("sha256:{}", "7".repeat(64));
    let mut all = Vec::new();
    let mut judge = |look: &dyn Fn(&mut Facts), rules: &dyn Fn(&mut Settings)| {
        let (mut facts, mut settings) = (alice.clone(), Settings::defaults());
        facts.image.path = Some("/cvmfs/image".into());
        look(&mut facts);
        rules(&mut settings);
        all.push(denied(&facts, &Tables::default(), &settings, None));
    };
    let digests = |facts: &mut Facts| facts.image.digests = vec![digest.clone()];
    judge(&digests, &|settings| settings.image.deny_digests = vec![digest.clone()]);
    let other = format!("sha256:{}", "8".repeat(64));
    judge(&digests, &|settings| settings.image.allow_digests = vec![other.clone()]);
    judge(&|_| (), &|settings| settings.image.allow_digests = vec![other.clone()]);
    let aged = |settings: &mut Settings| {
        settings.image.max_age = Some(Duration::from_secs(86_400 * 365));
        settings.image.old = Measures::Refuse;
    };
    judge(
        &|facts| facts.image.made = Some((Timestamp::new(NOW - 86_400 * 500, 0), "label".to_owned())),
        &aged,
    );
    judge(&|_| (), &aged);
    judge(&|_| (), &|settings| {
        settings.image.required_labels = vec!["org.example.approved=yes".to_owned()];
        settings.image.unlabelled = Measures::Refuse;
    });
    judge(
        &|facts| {
            facts.image.os = Some("debian:10".to_owned());
            facts.image.end_of_life = Some(Timestamp::new(NOW - 86_400, 0));
        },
        &|settings| settings.image.end_of_life = Measures::Refuse,
    );
    all
}

/// What is said before policy is asked, and by the recorder.
fn by_others() -> Vec<Failure> {
    let mut all = vec![drain::refusal("disks are replaced".to_owned())];
    let nobody = DeclaredIdentity::default();
    all.push(declare(&nobody, None, None, crate::config::Undeclared::Deny).unwrap_err());
    let scratch = crate::input::tests::Scratch::new();
    let document = scratch.0.join("identity.json");
    std::fs::write(&document, r#"{"user":"/CN=Bob"}"#).unwrap();
    let alice = DeclaredIdentity { user: Some("/CN=Alice".to_owned()), ..DeclaredIdentity::default() };
    all.push(declare(&alice, Some(&document), None, crate::config::Undeclared::Record).unwrap_err());
    all.extend(crate::identity::refusals());
    all.extend(crate::plan::refusals());
    all.extend(crate::uids::refusals());
    all.extend(crate::recorder::refusals_of_accounts());
    all.extend(crate::recorder::refusals_of_launches());
    all.push(Failure::record(
        "cannot reach the recorder at /run/bailey/recorder.sock",
        "Connection refused (ECONNREFUSED)",
        "start it (systemctl start bailey-recorder.socket)",
    ));
    all.push(Failure::site(
        "cannot make a user namespace",
        "Operation not permitted (EPERM)",
        "see bailey check",
    ));
    all.into_iter().map(words::plain).collect()
}

/// What is said while it runs, and how it ended with its exit code and fault.
fn while_it_runs() -> Vec<(String, Option<(Code, Fault)>)> {
    let (grace, how) = (Some(Duration::from_secs(10)), "it was killed by SIGTERM");
    let hour = Duration::from_secs(3600);
    let mut all = vec![
        (words::wall_time(hour, Duration::from_secs(10)), None),
        (words::wall_time(hour, Duration::ZERO), None),
        (words::ended_by_wall_time(how), Some((Code::WallTime, Fault::User))),
    ];
    for (limit, own) in [(Some(2 << 30), true), (Some(2 << 30), false), (None, false)] {
        let (text, fault) = words::ended_by_memory(limit, own, "it was killed by SIGKILL");
        all.push((text, Some((Code::Stopped, fault))));
    }
    for by in [StopBy::Ban, StopBy::Administrator, StopBy::Limit, StopBy::Overuse] {
        if by != StopBy::Limit {
            all.push((words::stops(by, "mining", grace), None));
        }
        if by != StopBy::Overuse {
            all.push((words::stops(by, "mining", None), None));
        }
        if matches!(by, StopBy::Ban | StopBy::Administrator) {
            all.push((words::holds(by, "mining"), None));
        }
        all.push((words::ended_by(by, "mining", how), Some((Code::Stopped, words::fault(by)))));
    }
    all
}

#[test]
fn the_document_has_every_sentence_and_no_other() {
    let rows = rows();
    let mut used = vec![false; rows.len()];
    let failures = by_policy().into_iter().chain(by_others());
    let said = failures
        .map(|failure| (failure.to_string(), Some((failure.code, failure.fault))))
        .chain(while_it_runs());
    for (text, ends) in said {
        // Of several that fit, the one that leaves least open is meant.
        let closest =
            (0..rows.len()).filter(|number| fits(&rows[*number].sentence, &text)).max_by_key(|number| {
                rows[*number].sentence.split(['{', '}']).step_by(2).map(str::len).sum::<usize>()
            });
        let row = closest.unwrap_or_else(|| panic!("docs/messages.md does not have: {text}"));
        let (exit, fault) = match ends {
            Some((code, Fault::Site)) => (code.exit_code().to_string(), "site"),
            Some((code, Fault::User)) => (code.exit_code().to_string(), "user"),
            None => (String::new(), ""),
        };
        assert_eq!((rows[row].exit.as_str(), rows[row].fault.as_str()), (exit.as_str(), fault), "{text}");
        used[row] = true;
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
        let first = text.split(':').next().unwrap();
        assert!(!first.contains("(E") && !first.contains("errno"), "no error's name comes first: {text}");
    }
    let unused: Vec<&str> =
        rows.iter().zip(&used).filter(|(_, used)| !**used).map(|(row, _)| row.sentence.as_str()).collect();
    assert!(unused.is_empty(), "nothing says this any more: {unused:#?}");
}

#[test]
fn a_sentence_fits_only_its_own_words() {
    assert!(fits("a {x} b", "a 1 2 b") && fits("a {x}", "a rest") && fits("a", "a"));
    for (sentence, text) in [("a {x} b", "a b"), ("a {x} b", "a 1 b c"), ("a", "a b"), ("{x} b", " b")] {
        assert!(!fits(sentence, text), "{sentence} {text}");
    }
    assert!(Name::parse("/DC=org/CN=Alice").is_ok());
}
