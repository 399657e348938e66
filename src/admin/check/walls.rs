//! The walls: each as it stood around a frozen payload, or the step at which the set-up failed.
#![forbid(unsafe_code)]

use super::{Row, State, Wanted};
use crate::config::{Config, Demand, UidMode};
use crate::probe::{Findings, Part, Trouble};
use crate::request::Stdio;
use crate::sandbox::NAMESPACES;
use crate::sandbox::protocol::Stage;

/// What `grid.sandbox` says and is no wall, or says of the check's own streams.
const NO_WALLS: [&str; 6] = ["root", "profile", "stdio", "recorder", "journald", "overuse"];
/// Walls that cannot be switched off, beside those of [`demand`], with the step of the set-up that makes them.
const ALWAYS: [(&str, Option<Stage>); 14] = [
    ("user_namespace", Some(Stage::IdMap)),
    ("mount_namespace", Some(Stage::Propagation)),
    ("pid_namespace", Some(Stage::IdMap)),
    ("nested_namespaces_forbidden", Some(Stage::ForbidNesting)),
    ("read_only_root", Some(Stage::Pivot)),
    ("private_dev_tmp_run", Some(Stage::Pivot)),
    ("proc", Some(Stage::Proc)),
    ("new_session", Some(Stage::Session)),
    ("descriptors_closed", Some(Stage::Descriptors)),
    ("clean_environment", None),
    ("core_files_forbidden", Some(Stage::Ceilings)),
    ("init_undumpable", Some(Stage::Undumpable)),
    ("no_capabilities", Some(Stage::Capabilities)),
    ("no_new_privs", Some(Stage::NoNewPrivs)),
];

pub(super) fn rows(found: &Findings, config: &Config) -> Vec<Row> {
    let trouble = found.troubles.iter().find(|trouble| trouble.part == Part::Sandbox);
    let mut rows: Vec<Row> = NAMESPACES.iter().map(|kind| namespace(found, config, kind, trouble)).collect();
    let mut seen: Vec<String> = NAMESPACES.iter().map(|kind| wall_of(kind)).collect();
    for (name, text) in &found.sandbox {
        if !seen.contains(name) && !NO_WALLS.contains(&name.as_str()) {
            rows.push(wall(found, config, name, text, trouble));
            seen.push(name.clone());
        }
    }
    for (name, stage) in ALWAYS {
        if !seen.iter().any(|seen| seen == name) {
            rows.push(unseen(name, demand(config, name), stage, trouble));
        }
    }
    for name in ["session_keyring", "securebits_locked"] {
        if !found.sandbox.contains_key(name) {
            let stage = if name == "session_keyring" { Stage::Keyring } else { Stage::Securebits };
            rows.push(unseen(name, demand(config, name), Some(stage), trouble));
        }
    }
    rows.push(streams(config));
    rows.extend(kernel(found));
    // A failure that is in no row yet, such as a file of the host's that cannot be shown.
    if let Some(trouble) = trouble.filter(|_| !rows.iter().any(|row| row.severity() == super::CRITICAL)) {
        let name = if trouble.stage.is_some() { "file_system" } else { "set_up" };
        rows.push(at_fault(Row::new("walls", name, Wanted::Required, State::Off), trouble));
    }
    rows
}

fn wall_of(kind: &str) -> String {
    match kind {
        "mnt" => "mount_namespace".to_owned(),
        "net" => "network_namespace".to_owned(),
        kind => format!("{kind}_namespace"),
    }
}

/// How much the site insists on a wall.
fn demand(config: &Config, name: &str) -> Wanted {
    let sandbox = &config.sandbox;
    match name {
        "pid_namespace" => sandbox.pid_namespace.into(),
        "proc" => sandbox.proc.into(),
        "ipc_namespace" => sandbox.ipc_namespace.into(),
        "uts_namespace" => sandbox.uts_namespace.into(),
        "cgroup_namespace" => sandbox.cgroup_namespace.into(),
        "seccomp" => sandbox.seccomp.into(),
        "landlock" => sandbox.landlock.into(),
        "session_keyring" => sandbox.session_keyring.into(),
        // Made when a launch or a rule asks for it; what is told and no wall.
        "network_namespace" | "late_mounts" | "scheduling" => Wanted::Info,
        "uid" if config.uid.mode == UidMode::Caller => Wanted::Info,
        "cgroup" => config.cgroup.mode.into(),
        // Only where the site sets one; the payload runs without.
        "limit_memory" | "limit_pids" | "limit_cpus" | "limit_cpuset"
            if config.cgroup.mode != Demand::Required =>
        {
            Wanted::Preferred
        }
        _ => Wanted::Required,
    }
}

/// A namespace: of the payload that stood, else tried by itself.
fn namespace(found: &Findings, config: &Config, kind: &str, trouble: Option<&Trouble>) -> Row {
    let name = wall_of(kind);
    let wanted = demand(config, &name);
    let row = |state| Row::new("namespaces", &name, wanted, state);
    let said = found.sandbox.get(&name).map(String::as_str).unwrap_or_default();
    if found.stood && said.starts_with("on") {
        return row(State::On).why(rest(said));
    }
    let user_is_not = matches!(found.namespaces.get("user"), Some(Err(_)));
    match found.namespaces.get(kind) {
        Some(Err(_)) if kind != "user" && user_is_not => {
            row(State::Unknown).why("there is no user namespace to make it in")
        }
        Some(Err(why)) => {
            let (why, change) = why.split_once("; ").unwrap_or((why, ""));
            row(State::Off).why(why).change(change)
        }
        // Its step of the set-up comes later than its making.
        Some(Ok(())) if kind == "user" && trouble.is_some_and(|trouble| is_at(trouble, Stage::IdMap)) => {
            trouble.map_or_else(|| row(State::On), |trouble| at_fault(row(State::Off), trouble))
        }
        Some(Ok(())) if wanted == Wanted::Info => {
            row(State::On).why("made for --network none; without it a payload has the host's network")
        }
        Some(Ok(())) if wanted == Wanted::Off => row(State::Off)
            .why("the site's configuration; this kernel has it")
            .change(format!("sandbox.{name} = \"required\" in /etc/bailey/bailey.toml")),
        Some(Ok(())) => row(State::On).why("tried by itself"),
        None => row(State::Unknown).why("it was not tried"),
    }
}

/// A wall as the launch record would have it.
fn wall(found: &Findings, config: &Config, name: &str, text: &str, trouble: Option<&Trouble>) -> Row {
    let wanted = demand(config, name);
    if !found.stood {
        let stage = ALWAYS.iter().find(|(wall, _)| *wall == name).and_then(|(_, stage)| *stage);
        return match stage {
            Some(_) => unseen(name, wanted, stage, trouble),
            None => of_plan(name, wanted, text),
        };
    }
    of_plan(name, wanted, text)
}

fn of_plan(name: &str, wanted: Wanted, text: &str) -> Row {
    let state = match text {
        "on" => State::On,
        text if text.starts_with("off") || text.starts_with("not enforced") => State::Off,
        text if text.starts_with("rlimit") => State::Weaker,
        // `late_mounts` is in words.
        text if text.starts_with("on") || wanted == Wanted::Info => State::On,
        _ => State::Unknown,
    };
    let row = Row::new("walls", name, wanted, state);
    let row = row.why(if wanted == Wanted::Info { text.to_owned() } else { rest(text) });
    match (name, state) {
        ("session_keyring", State::Off) if wanted != Wanted::Off => row.change(
            "let the outer container's seccomp policy allow keyctl, or sandbox.session_keyring = \"off\"",
        ),
        ("cgroup", State::Off) if wanted != Wanted::Off => row.change(
            "give the pilots' account a cgroup of its own (docs/cgroups.md), or cgroup.mode = \"off\"",
        ),
        ("cgroup", State::Off) => row.change("cgroup.mode = \"preferred\" in /etc/bailey/bailey.toml"),
        ("session_keyring", State::Off) => {
            row.change("sandbox.session_keyring = \"required\" in /etc/bailey/bailey.toml")
        }
        ("proc", State::Off) if wanted == Wanted::Off => {
            row.change("sandbox.proc = \"required\" in /etc/bailey/bailey.toml")
        }
        ("proc", State::Off) => row.change(
            "let the outer container unmask /proc (podman: --security-opt unmask=ALL), or sandbox.proc = \"off\"",
        ),
        _ => row,
    }
}

/// What stands behind `on` or `off`.
fn rest(text: &str) -> String {
    let text = text.strip_prefix("on").or_else(|| text.strip_prefix("off")).unwrap_or(text);
    text.trim_start_matches([':', ',', ' ']).to_owned()
}

/// A wall of a set-up that failed: before the step that did, at it, or behind it.
fn unseen(name: &str, wanted: Wanted, stage: Option<Stage>, trouble: Option<&Trouble>) -> Row {
    let row = |state| Row::new("walls", name, wanted, state);
    let failed = trouble.and_then(|trouble| Some((trouble, at(trouble)?)));
    match (failed, stage) {
        (Some((trouble, failed)), _) if wall_at(failed) == Some(name) => at_fault(row(State::Off), trouble),
        (Some((_, failed)), Some(stage)) if (stage as u32) < (failed as u32) => {
            row(State::On).why("as far as the set-up came")
        }
        _ => row(State::Unknown).why("the set-up did not come so far"),
    }
}

fn at_fault(row: Row, trouble: &Trouble) -> Row {
    row.why(format!("{}: {}", trouble.what, trouble.why)).change(trouble.next.clone())
}

/// The step that failed.
fn at(trouble: &Trouble) -> Option<Stage> {
    let named = trouble.stage.as_deref()?;
    Stage::ALL.into_iter().find(|stage| format!("{stage:?}") == named)
}

fn is_at(trouble: &Trouble, stage: Stage) -> bool {
    at(trouble) == Some(stage)
}

/// The wall that is not there when a step fails; `None`: none in particular.
fn wall_at(stage: Stage) -> Option<&'static str> {
    Some(match stage {
        Stage::Descriptors => "descriptors_closed",
        Stage::IdMap => "user_namespace",
        Stage::Limits | Stage::ForbidNesting | Stage::ReadBack => "nested_namespaces_forbidden",
        Stage::Undumpable => "init_undumpable",
        Stage::Propagation => "mount_namespace",
        Stage::Scratch | Stage::Node | Stage::Hidden => "private_dev_tmp_run",
        Stage::Proc => "proc",
        Stage::Attributes => "read_only_root",
        Stage::Keyring => "session_keyring",
        Stage::Ceilings => "core_files_forbidden",
        Stage::Landlock => "landlock",
        Stage::Seccomp => "seccomp",
        Stage::Capabilities => "no_capabilities",
        Stage::Securebits => "securebits_locked",
        Stage::NoNewPrivs => "no_new_privs",
        Stage::Session => "new_session",
        _ => return None,
    })
}

/// What the site has for payloads that ask for nothing else: the check's own streams are nobody's.
fn streams(config: &Config) -> Row {
    match config.sandbox.stdio {
        Stdio::Relay => Row::new("walls", "stdio_relayed", Wanted::Required, State::On),
        Stdio::Pass => Row::new("walls", "stdio_relayed", Wanted::Off, State::Off)
            .why("a payload can open the files behind its standard streams again, unless its pilot asks for --stdio relay")
            .change("sandbox.stdio = \"relay\" in /etc/bailey/bailey.toml"),
    }
}

/// What the kernel could do, whatever this version uses of it.
fn kernel(found: &Findings) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(landlock) = &found.landlock {
        rows.push(match landlock {
            Ok(version) => {
                let scopes = if *version >= 6 { "" } else { "; scopes for sockets and signals come with 6" };
                Row::new("kernel", "kernel_landlock", Wanted::Info, State::On)
                    .why(format!("its interface has version {version}{scopes}"))
            }
            Err(why) => Row::new("kernel", "kernel_landlock", Wanted::Info, State::Off)
                .why(why.clone())
                .change("add landlock to the kernel's command line: lsm=landlock,..."),
        });
    }
    if let Some(seccomp) = &found.seccomp {
        rows.push(match seccomp {
            Ok(()) => Row::new("kernel", "kernel_seccomp", Wanted::Info, State::On)
                .why("filters may answer with an error"),
            Err(why) => Row::new("kernel", "kernel_seccomp", Wanted::Info, State::Off).why(why.clone()),
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_at(stage: Stage) -> Findings {
        let mut found = Findings::default();
        for kind in NAMESPACES {
            found.namespaces.insert(kind.to_owned(), Ok(()));
        }
        found.troubles.push(Trouble {
            part: Part::Sandbox,
            stage: Some(format!("{stage:?}")),
            code: 125,
            what: "cannot".into(),
            why: "EPERM".into(),
            next: "unmask".into(),
        });
        found
    }

    #[test]
    fn every_step_that_fails_is_a_required_row_that_is_off() {
        for stage in Stage::ALL {
            let rows = rows(&failed_at(stage), &Config::default());
            let off: Vec<&Row> = rows.iter().filter(|row| row.severity() == super::super::CRITICAL).collect();
            assert_eq!(off.len(), 1, "{stage:?}: {off:?}");
            assert!(off[0].why.contains("EPERM") && off[0].change.as_deref() == Some("unmask"), "{off:?}");
            let names: std::collections::BTreeSet<&str> =
                rows.iter().map(|row| row.mechanism.as_str()).collect();
            assert_eq!(names.len(), rows.len(), "{stage:?}: each mechanism once");
        }
    }

    #[test]
    fn what_came_before_the_step_is_on_and_what_comes_behind_it_is_unknown() {
        let rows = rows(&failed_at(Stage::Keyring), &Config::default());
        let of = |name: &str| rows.iter().find(|row| row.mechanism == name).unwrap().state;
        assert_eq!(of("nested_namespaces_forbidden"), State::On);
        assert_eq!(of("session_keyring"), State::Off);
        assert_eq!(of("no_capabilities"), State::Unknown);
    }

    #[test]
    fn words_of_the_record_become_states() {
        let state = |text: &str, wanted| (of_plan("x", wanted, text).state, of_plan("x", wanted, text).why);
        assert_eq!(state("on", Wanted::Required), (State::On, String::new()));
        let (on, why) = state("on, by name: until", Wanted::Required);
        assert_eq!((on, why.as_str()), (State::On, "by name: until"));
        let (off, why) = state("off: this kernel has none", Wanted::Preferred);
        assert_eq!((off, why.as_str()), (State::Off, "this kernel has none"));
        assert_eq!(state("perhaps", Wanted::Required).0, State::Unknown);
    }
}
