//! The decision itself: a pure function. The launcher asks it for an early no; the recorder asks it again before it gives the
//! receipt, where no pilot can skip it.
//!
//! 1. A ban is looked at first and nothing later can undo it.
//! 2. Of the rules the first that applies decides, and only that one.
//! 3. What is not known never lets anybody in: a group from a list that is too old counts for a denial and not for a grant.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use super::bans::Whom;
use super::facts::{Asks, Counts, Facts};
use super::index::Relevant;
use super::lists::{Lists, Part};
use super::name::Name;
use super::rule::{Grant, Known, Profile, Rule, older_than};
use super::settings::{ImageRules, Measures, OnTrouble, Settings};
use super::slots;
use super::verdict::{By, Denial, Hit, Obligations, Verdict};
use crate::audit::time::Timestamp;
use crate::cgroup::limits::Limits;
use crate::failure::Fault;
use crate::request::{Bytes, Cores, Network};

/// Whether it may run, and how.
pub fn decide(
    facts: &Facts,
    relevant: &Relevant,
    lists: &Lists,
    settings: &Settings,
    counts: Option<Counts>,
    now: Timestamp,
) -> Verdict {
    let rule = relevant.rules.iter().map(|(_, rule)| rule).find(|rule| applies(rule, facts, relevant, now));
    let empty = Grant::default();
    let grant = rule.map_or(&empty, |rule| &rule.grant);
    let (image_says, mut remarks) = look_at_image(facts, rule, &settings.image, now);
    let measure = image_says.as_ref().map_or(Measures::Flag, |(measure, _)| *measure);
    let profile = grant.profile.unwrap_or_default().max(measure.profile());
    let strict = profile == Profile::Strict;
    let obligations = Obligations {
        network: if measure == Measures::Restrict {
            Network::None
        } else {
            grant.network(facts.asks.network)
        },
        wall_time: grant.wall_time,
        scratch: grant.scratch,
        limits: Limits { memory: grant.memory, cpus_milli: grant.cpus_milli, pids: grant.pids, cpuset: None },
        readonly_binds: readonly(&facts.asks, grant, strict),
        listed_binds: readonly(&facts.asks, grant, false),
        profile,
        parallel: grant.parallel.or(settings.parallel),
        overuse_exempt: rule.map(|rule| rule.overuse_exempt.clone()).unwrap_or_default(),
    };
    remarks.extend(lists.remarks(&settings.bans));
    let denial = banned(facts, relevant, now)
        .map(of_ban)
        .or_else(|| of_lists(lists, settings))
        .or_else(|| of_trust(facts, relevant))
        .or_else(|| of_rule(facts, rule, settings))
        .or_else(|| of_image(image_says))
        .or_else(|| of_asks(&facts.asks, rule, grant, strict))
        .or_else(|| of_counts(facts, &relevant.known, &obligations, counts));
    Verdict {
        denial,
        rule: rule.map(|rule| rule.id.clone()),
        person: relevant.known.person.clone(),
        names: relevant.known.said.clone(),
        contact: relevant.vo.as_ref().and_then(|vo| vo.user_contact.clone()),
        obligations,
        remarks,
    }
}

/// Whether this rule is the one: its conditions hold.
fn applies(rule: &Rule, facts: &Facts, relevant: &Relevant, now: Timestamp) -> bool {
    rule.when.hold(facts, &relevant.known, now, rule.deny)
}

/// The first ban that holds for whoever asks. Also used for payloads that run already.
pub fn banned(facts: &Facts, relevant: &Relevant, now: Timestamp) -> Option<Hit> {
    bans(facts, relevant, now).next()
}

/// Every ban that holds for whoever asks, in the order of lists and lines; then those that hold for another of the names.
pub fn bans<'a>(
    facts: &'a Facts,
    relevant: &'a Relevant,
    now: Timestamp,
) -> impl Iterator<Item = Hit> + use<'a> {
    let also = relevant.also.iter().flat_map(move |(facts, relevant)| of_one(facts, relevant, now));
    of_one(facts, relevant, now).chain(also)
}

fn of_one<'a>(
    facts: &'a Facts,
    relevant: &'a Relevant,
    now: Timestamp,
) -> impl Iterator<Item = Hit> + use<'a> {
    let hold = relevant
        .bans
        .iter()
        .filter(move |(_, ban)| ban.holds_at(now) && means(&ban.whom, facts, &relevant.known));
    hold.map(|(list, ban)| Hit {
        list: list.clone(),
        line: ban.line,
        whom: ban.whom.to_string(),
        reason: ban.reason.clone(),
        ticket: ban.ticket.clone(),
        measure: ban.measure,
        grace: ban.grace,
    })
}

/// Whether a ban means whoever asks, under any of the names.
pub(crate) fn means_any(whom: &Whom, facts: &Facts, relevant: &Relevant) -> bool {
    let also = relevant.also.iter().any(|(facts, relevant)| means(whom, facts, &relevant.known));
    also || means(whom, facts, &relevant.known)
}

/// Whether a ban means whoever asks.
fn means(whom: &Whom, facts: &Facts, known: &Known) -> bool {
    let who = &facts.who;
    match whom {
        Whom::Name(name) => known.keys.contains(&name.key()),
        Whom::DnPattern(glob) => known.dns().any(|dn| glob.matches_dn(&dn)),
        Whom::TokenPattern(pattern) => known.names.iter().any(|name| match name {
            Name::Token { issuer: Some(issuer), subject } => pattern.matches(issuer, subject),
            _ => false,
        }),
        Whom::CertificatePattern(pattern) => {
            let groups: Vec<&str> = who.groups.iter().map(String::as_str).collect();
            known.dns().any(|dn| pattern.matches(&dn, &groups))
        }
        Whom::Person(person) => known.person.as_ref() == Some(person),
        Whom::Vo(vo) => who.vo.as_deref().is_some_and(|said| said.eq_ignore_ascii_case(vo)),
        Whom::Group(pattern) => {
            let listed = known.listed.iter().map(|(group, _)| group);
            known.groups.iter().chain(listed).any(|group| pattern.matches(group))
        }
        Whom::PrimaryGroup(pattern) => known.groups.first().is_some_and(|group| pattern.matches(group)),
        Whom::Issuer(_) => known.issuer == Some(whom.key()),
        Whom::Pilot(pilot) => who.pilot.as_ref() == Some(pilot),
        Whom::PilotUid(uid) => who.uid == *uid,
        Whom::Image(digest) => facts.image.digests.contains(digest),
        Whom::All(all) => all.iter().all(|whom| means(whom, facts, known)),
    }
}

fn of_ban(hit: Hit) -> Denial {
    Denial {
        why: hit.words(),
        next: "ask the site or your VO's contact, naming this launch; other sites may have done the same"
            .to_owned(),
        by: By::Ban(hit),
        fault: Fault::User,
    }
}

/// A list that cannot be relied upon, where the site wants nothing to run then.
fn of_lists(lists: &Lists, settings: &Settings) -> Option<Denial> {
    let trouble =
        lists.troubles().find(|trouble| trouble.kind.measure(&settings.bans) == OnTrouble::Closed)?;
    Some(Denial {
        by: By::Lists,
        why: match trouble.of {
            Part::Bans => {
                format!("this site cannot read one of its lists of suspended users: {}", trouble.text)
            }
            Part::Groups => {
                format!("this site cannot read one of its lists of who is in which group: {}", trouble.text)
            }
        },
        next: format!(
            "this is the site's to repair: try another site; its administrator runs '{}'",
            match trouble.of {
                Part::Bans => "bailey ban check",
                Part::Groups => "bailey policy check",
            }
        ),
        fault: Fault::Site,
    })
}

fn of_trust(facts: &Facts, relevant: &Relevant) -> Option<Denial> {
    let (Some(issuer), Some(vo)) = (&facts.who.issuer, &facts.who.vo) else { return None };
    if !relevant.trusts {
        return None;
    }
    let speaks = |trusted: &str| trusted.eq_ignore_ascii_case(vo);
    if relevant.trusted.iter().any(|trust| trust.vo.iter().any(|trusted| speaks(trusted))) {
        return None;
    }
    Some(Denial {
        by: By::Trust,
        why: format!("this site does not let {issuer} speak for the VO {vo}"),
        next: "use an identity that your VO's own issuer gave you, or ask the site to trust this one"
            .to_owned(),
        fault: Fault::User,
    })
}

fn of_rule(facts: &Facts, rule: Option<&Rule>, settings: &Settings) -> Option<Denial> {
    let Some(rule) = rule else {
        return settings.default_deny.then(|| Denial {
            by: By::Rule,
            why: format!("no rule of this site lets {} in", whose(facts)),
            next: "ask the site to support your VO, or use another site".to_owned(),
            fault: Fault::Site,
        });
    };
    rule.deny.then(|| Denial {
        by: By::Rule,
        why: match &rule.reason {
            Some(reason) => format!("{reason} (rule '{}' of this site)", rule.id),
            None => format!("rule '{}' of this site does not let {} in", rule.id, whose(facts)),
        },
        next: "ask the site, or use another one".to_owned(),
        fault: Fault::Site,
    })
}

fn whose(facts: &Facts) -> String {
    match (&facts.who.user, &facts.who.vo) {
        (_, Some(vo)) => format!("payloads of the VO {vo}"),
        (Some(user), None) => format!("payloads of {user}"),
        (None, None) => "payloads of users that nobody named".to_owned(),
    }
}

/// What `[image]` says, and what is only worth a word. A rule that names the image has looked at it already.
fn look_at_image(
    facts: &Facts,
    rule: Option<&Rule>,
    rules: &ImageRules,
    now: Timestamp,
) -> (Option<(Measures, String)>, Vec<String>) {
    let image = &facts.image;
    let Some(path) = &image.path else { return (None, Vec::new()) };
    let is_any = |list: &[String]| list.iter().any(|digest| image.digests.contains(digest));
    if is_any(&rules.deny_digests) {
        return (
            Some((Measures::Refuse, "this site does not run this image (image.deny_digests)".to_owned())),
            Vec::new(),
        );
    }
    if rule.is_some_and(|rule| !rule.deny && rule.when.names_image()) {
        return (None, Vec::new());
    }
    let mut found: Vec<(Measures, String)> = Vec::new();
    if !rules.allow_digests.is_empty() && !is_any(&rules.allow_digests) {
        let what = if image.digests.is_empty() { "an image without a digest" } else { "this image" };
        found.push((
            Measures::Refuse,
            format!("{what} is not among those that this site runs (image.allow_digests)"),
        ));
    }
    if let Some(limit) = rules.max_age
        && older_than(image, limit, now, rules.old != Measures::Flag)
    {
        let age = match &image.made {
            Some((made, by)) => format!("the image was made on {} (so says its {by})", made.day()),
            None => "the image does not say when it was made".to_owned(),
        };
        found.push((rules.old, format!("{age}, and this site's limit is {} (image.max_age)", days(limit))));
    }
    for label in &rules.required_labels {
        let has = match label.split_once('=') {
            Some((name, value)) => image.labels.get(name).is_some_and(|found| found == value),
            None => image.labels.contains_key(label),
        };
        if !has {
            found.push((rules.unlabelled, format!("the image has no label {label} (image.required_labels)")));
        }
    }
    if let Some(end) = image.end_of_life.filter(|end| *end <= now) {
        let os = image.os.as_deref().unwrap_or("its system");
        found.push((
            rules.end_of_life,
            format!("the image's system {os} has had no security updates since {}", end.day()),
        ));
    }
    let remarks = found
        .iter()
        .filter(|(measure, _)| *measure != Measures::Refuse)
        .map(|(_, why)| format!("{}: {why}", path.display()))
        .collect();
    let strongest = found
        .into_iter()
        .max_by_key(|(measure, _)| *measure as u8)
        .filter(|(measure, _)| *measure != Measures::Flag);
    (strongest, remarks)
}

fn days(span: Duration) -> String {
    match span.as_secs() / 86_400 {
        0 => format!("{} s", span.as_secs()),
        1 => "one day".to_owned(),
        days => format!("{days} days"),
    }
}

fn of_image(says: Option<(Measures, String)>) -> Option<Denial> {
    let (_, why) = says.filter(|(measure, _)| *measure == Measures::Refuse)?;
    Some(Denial {
        by: By::Image,
        why,
        next: "use a newer image, or ask the site for an exception".to_owned(),
        fault: Fault::User,
    })
}

/// Binds that were asked for writing and are for reading only.
fn readonly(asks: &Asks, grant: &Grant, strict: bool) -> Vec<usize> {
    let is_readonly =
        |path: &Path| strict || grant.binds_readonly.iter().any(|listed| path.starts_with(listed));
    (0..)
        .zip(&asks.binds)
        .filter(|(_, (path, writable))| *writable && is_readonly(path))
        .map(|(at, _)| at)
        .collect()
}

/// What was asked for and is not to be had.
fn of_asks(asks: &Asks, rule: Option<&Rule>, grant: &Grant, strict: bool) -> Option<Denial> {
    let id = rule.map_or("the limits on old images", |rule| rule.id.as_str());
    let no = |what: &str, next: &str| {
        Some(Denial {
            by: By::Rule,
            why: format!("{what} is not granted here (rule '{id}' of this site)"),
            next: next.to_owned(),
            fault: Fault::User,
        })
    };
    if asks.nested && (strict || grant.nested == Some(false)) {
        return no("--nested (containers of its own)", "leave it out, or ask the site");
    }
    if asks.writable && (strict || grant.writable == Some(false)) {
        return no("--writable (a writable layer over the image)", "leave it out, or ask the site");
    }
    if asks.credential && grant.credentials == Some(false) {
        return no(
            "handing a credential to the payload",
            "leave out the bind or variable that names it, or ask the site",
        );
    }
    for (path, _) in asks.binds.iter().chain(&asks.workdir) {
        let meets = |listed: &Path| path.starts_with(listed) || listed.starts_with(path);
        if grant.binds_deny.iter().any(|listed| meets(listed)) {
            return no(&format!("a bind of {}", path.display()), "leave it out, or ask the site");
        }
    }
    if let Some((path, true)) = &asks.workdir
        && grant.binds_readonly.iter().any(|listed| path.starts_with(listed))
    {
        return no(
            &format!("writing to {}, the working directory,", path.display()),
            "work elsewhere, or ask the site",
        );
    }
    for (path, _) in &asks.binds {
        if !grant.binds_allow.is_empty() && !grant.binds_allow.iter().any(|listed| path.starts_with(listed)) {
            let listed: Vec<String> =
                grant.binds_allow.iter().map(|path| path.display().to_string()).collect();
            return no(
                &format!("a bind of {}", path.display()),
                &format!("bind only what is below {}", listed.join(", ")),
            );
        }
    }
    if let (Some(asked), Some(most)) = (asks.wall_time, grant.wall_time)
        && asked > most
    {
        return no(
            &format!("a wall time of {} s", asked.as_secs()),
            &format!("ask for {} s at most", most.as_secs()),
        );
    }
    if let (Some(asked), Some(most)) = (asks.scratch, grant.scratch)
        && asked > most
    {
        return no(&format!("scratch of {asked} bytes"), &format!("ask for {most} bytes at most"));
    }
    let over = |asked: Option<u64>, most: Option<u64>| asked.zip(most).filter(|(asked, most)| asked > most);
    let limits = &asks.limits;
    if let Some((asked, most)) = over(limits.memory, grant.memory) {
        return no(
            &format!("a memory limit of {}", Bytes(asked)),
            &format!("ask for {} at most", Bytes(most)),
        );
    }
    if let Some((asked, most)) = over(limits.cpus_milli, grant.cpus_milli) {
        return no(&format!("a limit of {}", Cores(asked)), &format!("ask for {} at most", Cores(most)));
    }
    if let Some((asked, most)) = over(limits.pids, grant.pids) {
        return no(&format!("a limit of {asked} processes and threads"), &format!("ask for {most} at most"));
    }
    None
}

fn of_counts(
    facts: &Facts,
    known: &Known,
    obligations: &Obligations,
    counts: Option<Counts>,
) -> Option<Denial> {
    let Counts { person, vo, uid } = counts?;
    let limits = obligations.parallel;
    let who = known.person.as_deref().or(facts.who.user.as_deref()).unwrap_or("this user");
    let checks = [
        (limits.person, person, who.to_owned()),
        (limits.vo, vo, format!("the VO {}", facts.who.vo.as_deref().unwrap_or_default())),
        (limits.uid, uid, format!("uid {}", facts.who.uid)),
    ];
    let (most, _, whose) = checks.into_iter().find_map(|(most, count, whose)| {
        most.filter(|most| count >= *most).map(|most| (most, count, whose))
    })?;
    Some(slots::full(&whose, most))
}
