//! An explained decision, for a person and as JSON.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::failure::{Failure, Fault, Printable};
use crate::policy::facts::Facts;
use crate::policy::verdict::{By, Hit, Verdict};
use crate::request::{Bytes, Cores, Network};

/// One rule, looked at.
pub(super) struct Looked {
    pub(super) id: String,
    pub(super) deny: bool,
    /// The first condition that does not hold, by its key.
    pub(super) unmet: Option<&'static str>,
}

/// A decision, and what it comes from.
pub(super) struct Explained {
    pub(super) facts: Facts,
    pub(super) verdict: Verdict,
    pub(super) bans: Vec<Hit>,
    pub(super) rules: Vec<Looked>,
    /// What stops a launch and is no rule.
    pub(super) remarks: Vec<String>,
}

/// A launch that is refused before any rule is looked at.
pub(super) fn refused(as_json: bool, failure: &Failure) -> (String, u8) {
    let text = if as_json {
        let answer = json!({"may_run": false, "by": "identity", "why": failure.why, "next": failure.next});
        format!("{answer}\n")
    } else {
        format!("May not run: {}; {}.\n", Printable(&failure.why), Printable(&failure.next))
    };
    (text, 1)
}

/// Text and exit code.
pub(super) fn show(explained: &Explained, all: bool, as_json: bool) -> (String, u8) {
    let text = if as_json { format!("{}\n", answer(explained)) } else { words(explained, all) };
    (text, u8::from(explained.verdict.denial.is_some()))
}

const fn by(by: &By) -> &'static str {
    match by {
        By::Ban(_) => "ban",
        By::Lists => "lists",
        By::Rule => "rule",
        By::Trust => "trust",
        By::Image => "image",
        By::Parallel => "parallel",
        By::Config => "config",
    }
}

const fn network(network: Network) -> &'static str {
    match network {
        Network::Host => "host",
        Network::None => "none",
    }
}

fn answer(explained: &Explained) -> Value {
    let Explained { facts, verdict, bans, rules, remarks } = explained;
    let held = &verdict.obligations;
    let denial = verdict.denial.as_ref();
    let readonly: Vec<_> =
        held.readonly_binds.iter().filter_map(|at| facts.asks.binds.get(*at)).map(|(path, _)| path).collect();
    json!({
        "may_run": denial.is_none(),
        "by": denial.map(|denial| by(&denial.by)),
        "why": denial.map(|denial| denial.why.as_str()),
        "next": denial.map(|denial| denial.next.as_str()),
        "fault": denial.map(|denial| denial.fault),
        "rule": verdict.rule,
        "person": verdict.person,
        "names": verdict.names,
        "contact": verdict.contact,
        "image": facts.image.path,
        "image_made": facts.image.made.as_ref().map(|(made, _)| made.day()),
        "bans": bans.iter().map(|hit| json!({
            "place": hit.place(), "whom": hit.whom, "reason": hit.reason, "ticket": hit.ticket,
        })).collect::<Vec<_>>(),
        "obligations": {
            "network": network(held.network),
            "profile": held.profile.as_str(),
            "wall_time": held.wall_time.map(|time| time.as_secs()),
            "scratch": held.scratch,
            "memory": held.limits.memory,
            "cpus_milli": held.limits.cpus_milli,
            "pids": held.limits.pids,
            "readonly_binds": readonly,
            "parallel": held.parallel,
            "overuse_exempt": held.overuse_exempt,
        },
        "remarks": verdict.remarks.iter().chain(remarks).collect::<Vec<_>>(),
        "rules": rules.iter().map(|rule| json!({
            "id": rule.id,
            "decision": if rule.deny { "deny" } else { "allow" },
            "applies": rule.unmet.is_none(),
            "unmet": rule.unmet,
        })).collect::<Vec<_>>(),
    })
}

fn words(explained: &Explained, all: bool) -> String {
    let Explained { facts, verdict, bans, rules, remarks } = explained;
    let mut text = String::new();
    let first = match (&verdict.denial, &verdict.rule) {
        (Some(denial), _) => {
            let whose = match denial.fault {
                Fault::Site => "the site's",
                Fault::User => "the user's",
            };
            format!("May not run: {}; {} (it is {whose} to change).", denial.why, denial.next)
        }
        (None, Some(rule)) => format!("May run: rule '{rule}' lets it in."),
        (None, None) => "May run: no rule applies, and policy.default is \"allow\".".to_owned(),
    };
    let _ = writeln!(text, "{}", Printable(&first));
    let mut put = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {}", Printable(value));
    };
    let who = &facts.who;
    let user = who.user.as_deref().unwrap_or("(nobody declared)");
    put("user", &format!("{user} [{}], uid {}", who.assurance, who.uid));
    for (name, value) in [("issuer", &who.issuer), ("vo", &who.vo), ("pilot", &who.pilot)] {
        if let Some(value) = value {
            put(name, value);
        }
    }
    if !who.groups.is_empty() {
        put("groups", &who.groups.join(" "));
    }
    if let Some(person) = &verdict.person {
        put("person", &format!("{person}: {}", verdict.names.join("; ")));
    }
    if let Some(contact) = &verdict.contact {
        put("contact", contact);
    }
    let image = facts
        .image
        .path
        .as_ref()
        .map_or_else(|| "the host's system".to_owned(), |path| path.display().to_string());
    put("image", &image);
    if let Some((made, by)) = &facts.image.made {
        put("image made", &format!("{} (its {by})", made.day()));
    }
    if let Some(os) = &facts.image.os {
        let end =
            facts.image.end_of_life.map_or_else(String::new, |end| format!(", supported to {}", end.day()));
        put("image has", &format!("{os}{end}"));
    }
    for hit in bans {
        let reason = hit.reason.as_deref().unwrap_or("no reason was given");
        put("ban", &format!("{}: {} ({reason})", hit.place(), hit.whom));
    }
    obligations(explained, &mut put);
    for remark in verdict.remarks.iter().chain(remarks) {
        put("remark", remark);
    }
    rule_lines(&mut text, rules, verdict.rule.as_deref(), all);
    text
}

/// What an allowed payload is held to.
fn obligations(explained: &Explained, put: &mut impl FnMut(&str, &str)) {
    let (held, asks) = (&explained.verdict.obligations, &explained.facts.asks);
    put("network", network(held.network));
    put("profile", held.profile.as_str());
    if let Some(time) = held.wall_time {
        put("wall time", &format!("{} s at most", time.as_secs()));
    }
    if let Some(scratch) = held.scratch {
        put("scratch", &format!("{scratch} bytes at most"));
    }
    let limits = [
        ("memory", held.limits.memory.map(|bytes| format!("{} at most", Bytes(bytes)))),
        ("cpus", held.limits.cpus_milli.map(|milli| format!("{} at most", Cores(milli)))),
        ("processes", held.limits.pids.map(|pids| format!("{pids} at most, threads included"))),
    ];
    for (name, most) in limits {
        if let Some(most) = most {
            put(name, &most);
        }
    }
    for (path, _) in held.readonly_binds.iter().filter_map(|at| asks.binds.get(*at)) {
        put("bind", &format!("{} only for reading", path.display()));
    }
    let limits = [("person", held.parallel.person), ("VO", held.parallel.vo), ("uid", held.parallel.uid)];
    for (whose, most) in limits {
        if let Some(most) = most {
            put("parallel", &format!("{most} at one time for its {whose}; counted when it starts"));
        }
    }
    if !held.overuse_exempt.is_empty() {
        put("overuse", &format!("not looked at by {}", held.overuse_exempt.join(", ")));
    }
}

fn rule_lines(text: &mut String, rules: &[Looked], decides: Option<&str>, all: bool) {
    if rules.is_empty() {
        text.push_str("There are no rules.\n");
        return;
    }
    text.push_str("rules, in order:\n");
    let mut is_behind = false;
    let mut hidden = 0;
    for (number, rule) in (1..).zip(rules) {
        if is_behind && !all {
            hidden += 1;
            continue;
        }
        let is_it = decides == Some(rule.id.as_str());
        let decision = if rule.deny { "denies" } else { "allows" };
        let says = match rule.unmet {
            Some(key) => format!("not: {key}"),
            None if is_it => format!("applies and decides: {decision}"),
            None if is_behind => format!("would apply ({decision}); an earlier one decides"),
            None => "applies".to_owned(),
        };
        let _ = writeln!(text, "{number:>4}  {}  {}", Printable(&rule.id), Printable(&says));
        is_behind |= is_it;
    }
    if hidden > 0 {
        let _ = writeln!(text, "      {hidden} behind it are not shown (--all)");
    }
}
