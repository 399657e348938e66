//! Properties of the decision, over made-up sites: many rules, bans, persons and people, from a generator with a fixed seed.

use super::bans::{Ban, Format, Whom, parse};
use super::decide::{banned, decide};
use super::facts::{Counts, Facts};
use super::group::{Group, GroupPattern};
use super::index::{Item, Member, Memory, Of, Relevant, Source, Whose, gather};
use super::lists::{Kind, ListState, Lists, Trouble};
use super::name::Name;
use super::rule::{Conditions, Grant, Named, NetworkGrant, Parallel, Profile, Rule};
use super::settings::{Measures, OnTrouble, Person, Settings, Tables, Trust, Vo};
use super::verdict::By;
use crate::audit::time::Timestamp;
use crate::failure::Failure;
use crate::fuzzing::Random;
use crate::request::Network;
use std::sync::Arc;
use std::time::Duration;

trait Choose {
    fn one_in(&mut self, count: usize) -> bool;
    fn pick<T: Clone>(&mut self, from: &[T]) -> T;
    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T>;
}

impl Choose for Random {
    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        (0..=self.below(2)).map(|_| self.pick(from)).collect()
    }
}

const NOW: i64 = 1_790_000_000;
const VOS: [&str; 4] = ["atlas", "cms", "LHCb", "vo.cta.in2p3.fr"];
const ISSUERS: [&str; 3] =
    ["https://atlas-auth.cern.ch/", "https://cms-auth.web.cern.ch", "https://IAM.example.org/x"];
const GROUPS: [&str; 7] = [
    "/atlas",
    "/atlas/prod/Role=production",
    "/cms",
    "/cms/uscms/Role=pilot",
    "/cms/uscms",
    "/lhcb/Role=NULL/Capability=NULL",
    "ivo://skao.int/gms?prod",
];
const PATTERNS: [&str; 7] = [
    "/atlas",
    "/atlas/*",
    "/cms/uscms/Role=pilot",
    "/c?s/*",
    "/*/Role=production",
    "/lhcb",
    "ivo://skao.int/gms?prod",
];
const IMAGES: [&str; 4] =
    ["/cvmfs/a.example.org/img/one", "/cvmfs/a.example.org/img/two/x", "/cvmfs/b.example.org/y", "/data/img"];
const DIGEST: &str = "sha256:7b7c8f0e5d1a4b3c9d2e6f8a0b1c3d5e7f9a2b4c6d8e0f1a3b5c7d9e1f2a4b6c";

fn user(random: &mut Random) -> (String, Option<String>) {
    let number = random.below(12);
    match random.below(4) {
        0 => (format!("/DC=org/DC=example/CN=User {number}"), None),
        1 => (format!("/dc=ORG/DC=example/CN=user  {number}/CN=proxy"), None),
        2 => (format!("subject-{number:04}"), Some(random.pick(&ISSUERS).to_owned())),
        _ => (format!("id{number}@example.org"), None),
    }
}

fn name(random: &mut Random) -> String {
    let number = random.below(12);
    match random.below(4) {
        0 => format!("/DC=org/DC=example/CN=User {number}"),
        1 => format!("CN=User {number},DC=example,DC=org"),
        2 => format!("{} subject-{number:04}", random.pick(&ISSUERS)),
        _ => format!("id{number}@example.org"),
    }
}

fn named(text: &str) -> Named {
    Named { text: text.to_owned(), key: Name::parse(text).unwrap().key() }
}

fn facts(random: &mut Random) -> Facts {
    let mut facts = Facts::default();
    let (user, issuer) = user(random);
    if !random.one_in(8) {
        facts.who.user = Some(user);
        facts.who.issuer = issuer;
    }
    facts.who.vo = (!random.one_in(5)).then(|| random.pick(&VOS).to_owned());
    facts.who.groups = (0..random.below(3)).map(|_| random.pick(&GROUPS).to_owned()).collect();
    facts.who.pilot = random.one_in(2).then(|| format!("pilot{}", random.below(3)));
    facts.who.uid = 1000 + random.below(3) as u32;
    facts.who.assurance = random.pick(&["undeclared", "declared", "checked"]).to_owned();
    if random.one_in(2) {
        facts.image.path = Some(random.pick(&IMAGES).into());
        facts.image.digests = random.one_in(3).then(|| DIGEST.to_owned()).into_iter().collect();
        let age = random.below(1000) as i64 * 86_400;
        facts.image.made = random.one_in(2).then(|| (Timestamp::new(NOW - age, 0), "label x".to_owned()));
        let end = (random.below(1000) as i64 - 500) * 86_400;
        facts.image.end_of_life = random.one_in(2).then(|| Timestamp::new(NOW + end, 0));
    }
    facts.asks.nested = random.one_in(6);
    facts.asks.writable = random.one_in(6);
    facts.asks.binds =
        (0..random.below(3)).map(|_| (random.pick(&IMAGES).into(), random.one_in(2))).collect();
    facts
}

fn conditions(random: &mut Random) -> Conditions {
    let mut when = Conditions::default();
    let strings = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
    for _ in 0..random.below(3) {
        match random.below(12) {
            0 => when.vo = strings(random.some(&VOS)),
            1 => {
                when.issuer = random
                    .some(&ISSUERS)
                    .into_iter()
                    .map(|text| Named { text: text.to_owned(), key: super::index::issuer_key(text) })
                    .collect();
            }
            2 => when.user = (0..2).map(|_| named(&name(random))).collect(),
            3 => when.person = vec![format!("p{}", random.below(6))],
            4 => {
                when.group = random
                    .some(&PATTERNS)
                    .into_iter()
                    .map(|text| GroupPattern::parse(text).unwrap())
                    .collect();
            }
            5 => when.mapfile = vec![random.pick(&["/map/one", "/map/two"]).into()],
            6 => when.assurance = strings(random.some(&["undeclared", "declared", "checked"])),
            7 => when.pilot_uid = vec![1000 + random.below(3) as u32],
            8 => {
                when.image = random
                    .some(&["/cvmfs", "/cvmfs/a.example.org/img", "/data/img"])
                    .into_iter()
                    .map(Into::into)
                    .collect();
            }
            9 => when.image_digest = vec![DIGEST.to_owned()],
            10 => when.image_older_than = Some(Duration::from_secs(86_400 * random.below(900) as u64)),
            _ => when.host_system = Some(random.one_in(2)),
        }
    }
    when
}

fn rule(random: &mut Random, number: usize) -> Rule {
    let deny = random.one_in(3);
    let mut grant = Grant::default();
    if !deny {
        grant.network = random.one_in(3).then_some(NetworkGrant::None);
        grant.nested = random.one_in(3).then_some(false);
        let profile = if random.one_in(2) { Profile::Strict } else { Profile::Nested };
        grant.profile = random.one_in(3).then_some(profile);
        grant.binds_deny = random.one_in(4).then(|| "/data".into()).into_iter().collect();
        grant.binds_readonly = random.one_in(3).then(|| "/cvmfs".into()).into_iter().collect();
        grant.parallel = Parallel { person: random.one_in(3).then_some(2), vo: None, uid: None };
    }
    Rule { id: format!("r{number}"), when: conditions(random), deny, grant, ..Rule::default() }
}

fn ban(random: &mut Random) -> Ban {
    let text = match random.below(7) {
        0 => format!("user = \"{}\"", name(random)),
        1 => format!("person = \"p{}\"", random.below(6)),
        2 => format!("vo = \"{}\"", random.pick(&VOS)),
        3 => format!("group = \"{}\"", random.pick(&PATTERNS)),
        4 => format!("pilot = \"pilot{}\"", random.below(3)),
        5 => format!("image = \"{DIGEST}\""),
        _ => format!("pilot_uid = {}", 1000 + random.below(3)),
    };
    let time = match random.below(4) {
        0 => "until = 2020-01-01T00:00:00Z\n",
        1 => "from = 2099-01-01T00:00:00Z\n",
        _ => "",
    };
    let list = format!("[[ban]]\n{text}\nreason = \"x\"\n{time}");
    parse(list.as_bytes(), Format::Ours)
        .unwrap_or_else(|faults| panic!("{list}: {}", faults[0]))
        .bans
        .remove(0)
}

/// Expressions as HTCondor-CE has them, and DN patterns.
fn pattern_ban(random: &mut Random) -> Ban {
    let number = random.below(12);
    let (text, format) = match random.below(4) {
        0 => (
            format!(
                "SCITOKENS /^https:\\/\\/atlas-auth.cern.ch\\/,subject-{number:04}$/ x@banned.htcondor.org\n"
            ),
            Format::CondorMap,
        ),
        1 => (format!("SCITOKENS /subject-{number:04}/ x@banned.htcondor.org\n"), Format::CondorMap),
        2 => (
            format!("SCITOKENS /cms-auth.*,s[a-z]*-00{number:02}$/ x@banned.htcondor.org\n"),
            Format::CondorMap,
        ),
        _ => (format!("\"/DC=org/*/CN=User {number}\" .x\n"), Format::Lcas),
    };
    parse(text.as_bytes(), format).unwrap_or_else(|faults| panic!("{text}: {}", faults[0])).bans.remove(0)
}

struct World {
    tables: Tables,
    bans: Vec<(String, Ban)>,
    members: Vec<Member>,
}

fn world(random: &mut Random) -> World {
    let mut persons = Vec::new();
    for number in 0..6 {
        // Twelve users, of whom two each are one person under all of their names.
        let names = [number, number + 6]
            .iter()
            .flat_map(|user| {
                [
                    format!("/DC=org/DC=example/CN=User {user}"),
                    format!("https://atlas-auth.cern.ch/ subject-{user:04}"),
                    format!("id{user}@example.org"),
                ]
            })
            .map(|text| named(&text))
            .collect();
        if random.one_in(2) {
            persons.push(Person { id: format!("p{number}"), names });
        }
    }
    let members = (0..8)
        .map(|_| Member {
            who: if random.one_in(3) {
                Whose::Group(GroupPattern::parse(random.pick(&PATTERNS)).unwrap())
            } else {
                Whose::Name(Name::parse(&name(random)).unwrap().key())
            },
            of: if random.one_in(2) {
                Of::Group(Group::parse(random.pick(&GROUPS)).unwrap())
            } else {
                Of::Mapfile(random.pick(&["/map/one", "/map/two"]).into())
            },
            until: random.one_in(2).then(|| Timestamp::new(NOW + random.below(100) as i64 - 50, 0)),
        })
        .collect();
    World {
        tables: Tables {
            rules: (0..random.below(12)).map(|number| rule(random, number)).collect(),
            persons,
            trusts: Vec::new(),
            vos: Vec::new(),
        },
        bans: (0..random.below(6))
            .map(|number| {
                let ban = if random.one_in(3) { pattern_ban(random) } else { ban(random) };
                (format!("list{}", number % 3), ban)
            })
            .collect(),
        members,
    }
}

impl World {
    fn memory(&self) -> Memory {
        Memory::new(&self.tables, self.bans.clone(), self.members.clone())
    }
}

/// Gives everything for every key: no index at all.
struct Everything(Vec<Arc<Item>>, bool);

impl Source for Everything {
    fn at(&self, _: &str) -> Result<Vec<Arc<Item>>, Failure> {
        Ok(self.0.clone())
    }

    fn has_piece(&self, _: &[u8]) -> bool {
        true
    }

    fn has_pieces(&self) -> bool {
        true
    }

    fn has_trusts(&self) -> bool {
        self.1
    }
}

fn now() -> Timestamp {
    Timestamp::new(NOW, 0)
}

fn look(facts: &Facts, source: &dyn Source) -> Relevant {
    gather(facts, source, now()).unwrap()
}

#[test]
fn the_index_changes_no_decision() {
    let mut random = Random(1);
    let settings = Settings::defaults();
    let (mut allowed, mut denied, mut hits) = (0, 0, 0);
    for _ in 0..400 {
        let world = world(&mut random);
        let memory = world.memory();
        let all: Vec<Arc<Item>> = memory.entries().flat_map(|(_, items)| items.to_vec()).collect();
        let everything = Everything(all, memory.has_trusts());
        for _ in 0..10 {
            let facts = facts(&mut random);
            let by_key = decide(&facts, &look(&facts, &memory), &Lists::default(), &settings, None, now());
            let by_all =
                decide(&facts, &look(&facts, &everything), &Lists::default(), &settings, None, now());
            assert_eq!(by_key, by_all, "{facts:#?}");
            hits += u32::from(matches!(by_key.denial.as_ref().map(|denial| &denial.by), Some(By::Ban(_))));
            if by_key.denial.is_some() { denied += 1 } else { allowed += 1 }
        }
    }
    // Otherwise this tests nothing.
    assert!(allowed > 500 && denied > 500 && hits > 300, "{allowed} {denied} {hits}");
}

#[test]
fn a_ban_never_lets_anybody_in() {
    let mut random = Random(2);
    let settings = Settings::defaults();
    let mut more = 0;
    for _ in 0..400 {
        let mut world = world(&mut random);
        let facts = facts(&mut random);
        let before =
            decide(&facts, &look(&facts, &world.memory()), &Lists::default(), &settings, None, now());
        for _ in 0..3 {
            let ban = if random.one_in(2) { pattern_ban(&mut random) } else { ban(&mut random) };
            world.bans.push(("zz".to_owned(), ban));
        }
        let after = decide(&facts, &look(&facts, &world.memory()), &Lists::default(), &settings, None, now());
        assert!(before.denial.is_none() || after.denial.is_some(), "{facts:#?}");
        assert_eq!(before.obligations, after.obligations);
        more += u32::from(before.denial.is_none() && after.denial.is_some());
    }
    assert!(more > 30, "{more}");
}

#[test]
fn the_order_of_lists_and_entries_does_not_matter() {
    let mut random = Random(3);
    let settings = Settings::defaults();
    for _ in 0..300 {
        let mut world = world(&mut random);
        let facts = facts(&mut random);
        let before =
            decide(&facts, &look(&facts, &world.memory()), &Lists::default(), &settings, None, now());
        for at in (1..world.bans.len()).rev() {
            world.bans.swap(at, random.below(at + 1));
        }
        world.members.reverse();
        world.tables.persons.reverse();
        let after = decide(&facts, &look(&facts, &world.memory()), &Lists::default(), &settings, None, now());
        assert_eq!(before.denial.is_some(), after.denial.is_some());
        assert_eq!((before.rule, before.person), (after.rule, after.person));
    }
}

#[test]
fn a_ban_on_one_name_holds_for_all() {
    let names = [
        "/DC=org/CN=Jane, Doe/Esq",
        "https://iam.example.org/ 5f2c-11",
        "jane@example.org",
        "0000-0002-1825-0097",
    ];
    let person = Person { id: "jane".into(), names: names.iter().map(|text| named(text)).collect() };
    let tables = Tables { persons: vec![person], ..Tables::default() };
    for banned_as in names {
        let list = format!("[[ban]]\nuser = \"{banned_as}\"\nreason = \"x\"\n");
        let ban = parse(list.as_bytes(), Format::Ours).unwrap().bans.remove(0);
        let memory = Memory::new(&tables, [("l".to_owned(), ban)], []);
        for (user, issuer) in [
            ("/dc=ORG/CN=jane,  doe/esq", None),
            ("/DC=org/CN=Jane, Doe/Esq/CN=proxy/CN=limited proxy", None),
            ("5f2c-11", Some("https://iam.example.org")),
            ("jane@example.org", None),
        ] {
            let mut facts = Facts::default();
            facts.who.user = Some(user.to_owned());
            facts.who.issuer = issuer.map(str::to_owned);
            let hit = banned(&facts, &look(&facts, &memory), now());
            assert!(hit.is_some(), "{user} while {banned_as} is banned");
        }
        let mut facts = Facts::default();
        facts.who.user = Some("5f2c-11".to_owned());
        facts.who.issuer = Some("https://other.example.org/".to_owned());
        assert!(banned(&facts, &look(&facts, &memory), now()).is_none(), "another issuer's subject");
    }
}

/// Names that are found beside the user's, or are the pilot's: a ban on one holds, and no rule grants anything for it.
#[test]
fn other_names_are_for_bans_only() {
    use super::facts::Also;
    let person =
        Person { id: "jane".into(), names: vec![named("/DC=org/CN=Jane"), named("jane@example.org")] };
    let rule = Rule {
        id: "jane's".into(),
        when: Conditions { user: vec![named("/DC=org/CN=Jane")], ..Conditions::default() },
        ..Rule::default()
    };
    let tables = Tables { persons: vec![person], rules: vec![rule], ..Tables::default() };
    let mut facts = Facts::default();
    facts.who.also = vec![
        Also { user: "5f2c".into(), issuer: Some("https://iam.example.org/".into()), groups: vec![] },
        Also { user: "/DC=org/CN=Jane/CN=proxy".into(), issuer: None, groups: vec!["/cms/de".into()] },
    ];
    for (key, value, hits) in [
        ("user", "https://iam.example.org/ 5f2c", true),
        ("user", "/DC=org/CN=Jane", true),
        ("user", "jane@example.org", true),
        ("group", "/cms/de", true),
        ("user", "https://other.example.org/ 5f2c", false),
        ("user", "/DC=org/CN=Joan", false),
        ("group", "/cms/fr", false),
    ] {
        let list = format!("[[ban]]\n{key} = \"{value}\"\nreason = \"x\"\n");
        let ban = parse(list.as_bytes(), Format::Ours).unwrap().bans.remove(0);
        let memory = Memory::new(&tables, [("l".to_owned(), ban)], []);
        assert_eq!(banned(&facts, &look(&facts, &memory), now()).is_some(), hits, "{value}");
    }
    let memory = Memory::new(&tables, [], []);
    let verdict = |facts: &Facts| {
        let relevant = look(facts, &memory);
        decide(facts, &relevant, &Lists::default(), &Settings::defaults(), None, now())
    };
    assert_eq!((verdict(&facts).rule, verdict(&facts).person), (None, None));
    facts.who.user = Some("/DC=org/CN=Jane".into());
    assert_eq!(verdict(&facts).rule.as_deref(), Some("jane's"), "a control");
}

fn denial(
    facts: &Facts,
    tables: &Tables,
    settings: &Settings,
    lists: &Lists,
    counts: Option<Counts>,
) -> Option<String> {
    let memory = Memory::new(tables, [], []);
    decide(facts, &look(facts, &memory), lists, settings, counts, now()).denial.map(|denial| denial.why)
}

#[test]
fn lists_in_trouble_close_the_node_as_far_as_the_site_wants() {
    let facts = Facts::default();
    let tables = Tables::default();
    for (kind, measure, closes) in [
        (Kind::Unreadable, OnTrouble::Closed, true),
        (Kind::Unreadable, OnTrouble::LastGood, false),
        (Kind::Missing, OnTrouble::Closed, true),
        (Kind::Stale, OnTrouble::Warn, false),
        (Kind::Stale, OnTrouble::Closed, true),
    ] {
        let mut settings = Settings::defaults();
        (settings.bans.unreadable, settings.bans.missing, settings.bans.stale) = (measure, measure, measure);
        let trouble = Some(Trouble { of: super::lists::Part::Bans, kind, text: "line 7".to_owned() });
        let lists = Lists { lists: vec![ListState { trouble, ..ListState::default() }], ..Lists::default() };
        let why = denial(&facts, &tables, &settings, &lists, None);
        assert_eq!(why.is_some(), closes, "{kind:?} {measure:?}");
        assert!(why.is_none_or(|why| why.contains("line 7")));
    }
}

#[test]
fn who_may_speak_for_which_vo() {
    let key = |text: &str| Named { text: text.to_owned(), key: super::index::issuer_key(text) };
    let tables = Tables {
        trusts: vec![Trust { issuer: key("https://cms-auth.web.cern.ch/"), vo: vec!["cms".to_owned()] }],
        ..Tables::default()
    };
    let settings = Settings::defaults();
    let mut facts = Facts::default();
    facts.who.user = Some("x".to_owned());
    facts.who.vo = Some("cms".to_owned());
    for (issuer, vo, fine) in [
        ("https://cms-auth.web.cern.ch", "CMS", true),
        ("https://cms-auth.web.cern.ch/", "atlas", false),
        ("https://evil.example.org/", "cms", false),
    ] {
        facts.who.issuer = Some(issuer.to_owned());
        facts.who.vo = Some(vo.to_owned());
        let why = denial(&facts, &tables, &settings, &Lists::default(), None);
        assert_eq!(why.is_none(), fine, "{issuer} for {vo}: {why:?}");
        assert!(denial(&facts, &Tables::default(), &settings, &Lists::default(), None).is_none());
    }
}

#[test]
fn old_images_run_strictly_or_not_at_all() {
    let mut settings = Settings::defaults();
    settings.image.max_age = Some(Duration::from_secs(365 * 86_400));
    let mut facts = Facts::default();
    facts.image.path = Some("/cvmfs/x/old".into());
    facts.image.made = Some((Timestamp::new(NOW - 400 * 86_400, 0), "label x".to_owned()));
    facts.asks.binds = vec![("/data".into(), true)];
    let memory = Memory::new(&Tables::default(), [], []);
    let mut judge = |measure: Measures, facts: &Facts| {
        settings.image.old = measure;
        decide(facts, &look(facts, &memory), &Lists::default(), &settings, None, now())
    };
    let flagged = judge(Measures::Flag, &facts);
    assert!(flagged.denial.is_none() && flagged.obligations.network == Network::Host);
    assert!(flagged.remarks[0].contains("label x"), "{:?}", flagged.remarks);
    let strict = judge(Measures::Restrict, &facts);
    assert_eq!(strict.obligations.network, Network::None);
    assert_eq!(strict.obligations.profile, Profile::Strict);
    assert_eq!(strict.obligations.readonly_binds, [0]);
    // A rule that grants containers does not lift the measure, and holds without one.
    let grant = Grant { profile: Some(Profile::Nested), ..Grant::default() };
    let tables = Tables {
        rules: vec![Rule { id: "containers".into(), grant, ..Rule::default() }],
        ..Tables::default()
    };
    let granting = Memory::new(&tables, [], []);
    for (measure, profile) in [(Measures::Restrict, Profile::Strict), (Measures::Flag, Profile::Nested)] {
        let mut settings = Settings::defaults();
        settings.image.max_age = Some(Duration::from_secs(365 * 86_400));
        settings.image.old = measure;
        let verdict = decide(&facts, &look(&facts, &granting), &Lists::default(), &settings, None, now());
        assert_eq!(verdict.obligations.profile, profile);
    }
    assert!(judge(Measures::Refuse, &facts).denial.unwrap().why.contains("365 days"));
    facts.image.made = None;
    assert!(
        judge(Measures::Flag, &facts).remarks.is_empty(),
        "its age is not known, and nothing follows from it"
    );
    assert!(judge(Measures::Refuse, &facts).denial.unwrap().why.contains("does not say when"));
    facts.image.path = None;
    assert!(judge(Measures::Refuse, &facts).denial.is_none(), "the host's own system");
}

#[test]
fn limits_count_whoever_asks() {
    let tables = Tables {
        rules: vec![Rule {
            id: "few".to_owned(),
            grant: Grant {
                parallel: Parallel { person: Some(2), vo: Some(5), uid: None },
                ..Grant::default()
            },
            ..Rule::default()
        }],
        vos: vec![Vo { name: "cms".into(), user_contact: Some("help@cms".into()), ..Vo::default() }],
        ..Tables::default()
    };
    let mut facts = Facts::default();
    facts.who.user = Some("/CN=x".to_owned());
    facts.who.vo = Some("cms".to_owned());
    let settings = Settings::defaults();
    let deny = |counts| denial(&facts, &tables, &settings, &Lists::default(), counts);
    assert!(deny(None).is_none(), "nobody has counted yet");
    assert!(deny(Some(Counts { person: 1, vo: 4, uid: 9 })).is_none());
    assert!(deny(Some(Counts { person: 2, vo: 4, uid: 9 })).unwrap().starts_with("/CN=x has 2 payloads"));
    assert!(deny(Some(Counts { person: 1, vo: 5, uid: 9 })).unwrap().contains("the VO cms has 5"));
    let memory = Memory::new(&tables, [], []);
    let verdict = decide(&facts, &look(&facts, &memory), &Lists::default(), &settings, None, now());
    assert_eq!(verdict.contact.as_deref(), Some("help@cms"));
}

#[test]
fn a_list_that_is_too_old_keeps_out_and_lets_nobody_in() {
    let member = Member {
        who: Whose::Name(Name::parse("/CN=x").unwrap().key()),
        of: Of::Group(Group::parse("/cms/trusted").unwrap()),
        until: Some(Timestamp::new(NOW - 1, 0)),
    };
    let mut facts = Facts::default();
    facts.who.user = Some("/CN=x".to_owned());
    for deny in [true, false] {
        let rule = Rule {
            id: "group".to_owned(),
            when: Conditions {
                group: vec![GroupPattern::parse("/cms/trusted").unwrap()],
                ..Conditions::default()
            },
            deny,
            ..Rule::default()
        };
        let tables = Tables { rules: vec![rule], ..Tables::default() };
        let memory = Memory::new(&tables, [], [member.clone()]);
        let verdict =
            decide(&facts, &look(&facts, &memory), &Lists::default(), &Settings::defaults(), None, now());
        assert_eq!(verdict.rule.is_some(), deny, "a denial applies, a grant does not");
    }
}

#[test]
fn whom_is_told_apart() {
    // Every kind of entry hits exactly whom it means.
    let list = |text: &str| {
        parse(format!("[[ban]]\n{text}\nreason = \"x\"\n").as_bytes(), Format::Ours).unwrap().bans.remove(0)
    };
    let mut facts = Facts::default();
    facts.who.user = Some("/CN=x".to_owned());
    facts.who.vo = Some("cms".to_owned());
    facts.who.groups = vec!["/cms/Role=pilot".to_owned(), "/cms/uscms".to_owned()];
    facts.who.pilot = Some("p1".to_owned());
    facts.who.uid = 1001;
    facts.image.digests = vec![DIGEST.to_owned()];
    for (text, hits) in [
        ("user = \"/CN=x\"", true),
        ("user = \"/CN=xx\"", false),
        ("vo = \"CMS\"", true),
        ("vo = \"cmsx\"", false),
        ("group = \"/cms/uscms\"", true),
        ("group = \"/cms\"", true),
        ("group = \"/cms/other\"", false),
        ("pilot = \"p1\"", true),
        ("pilot = \"p\"", false),
        ("pilot_uid = 1001", true),
        ("pilot_uid = 1002", false),
    ] {
        let ban = list(text);
        let keys = matches!(
            ban.whom,
            Whom::Name(_) | Whom::Vo(_) | Whom::Group(_) | Whom::Pilot(_) | Whom::PilotUid(_)
        );
        assert!(keys, "{text}");
        let memory = Memory::new(&Tables::default(), [("l".to_owned(), ban)], []);
        assert_eq!(banned(&facts, &look(&facts, &memory), now()).is_some(), hits, "{text}");
    }
}
