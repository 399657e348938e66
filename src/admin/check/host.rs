//! Facts about the host that no setting of bailey's demands and an administrator should know.
#![forbid(unsafe_code)]

use super::{Row, State, Wanted};

pub(super) fn rows() -> Vec<Row> {
    facts(&|path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()))
}

/// `read` gives the text of a file; `None` where there is none.
fn facts(read: &dyn Fn(&str) -> Option<String>) -> Vec<Row> {
    let info = |name: &str, state| Row::new("host", name, Wanted::Info, state);
    let mut rows = Vec::new();
    if let Some(value) = read("/proc/sys/kernel/yama/ptrace_scope") {
        rows.push(match value.as_str() {
            "0" => info("ptrace_restricted", State::Off)
                .why("a pilot can trace its other processes; payloads are apart in any case (own pid namespace)")
                .change("sysctl -w kernel.yama.ptrace_scope=1"),
            _ => info("ptrace_restricted", State::On).why(format!("kernel.yama.ptrace_scope is {value}")),
        });
    }
    if let Some(value) = read("/proc/sys/kernel/io_uring_disabled") {
        rows.push(match value.as_str() {
            "0" => info("io_uring_disabled", State::Off)
                .why("processes outside of bailey's walls may use it")
                .change("sysctl -w kernel.io_uring_disabled=2"),
            _ => info("io_uring_disabled", State::On).why(format!("kernel.io_uring_disabled is {value}")),
        });
    }
    if let Some(value) = read("/proc/sys/kernel/core_pattern").filter(|value| value.starts_with('|')) {
        rows.push(
            info("core_handler", State::On)
                .why(format!(
                    "dumps go to a program of the host's, whatever limits say: {}; core(5): a limit of 0 does not stop it",
                    value.trim_start_matches('|')
                ))
                .change("sysctl -w kernel.core_pattern=core, unless the site wants the dumps of its jobs"),
        );
    }
    for (name, key, free) in [
        ("userns_restricted_by_apparmor", "kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("userns_for_everybody", "kernel/unprivileged_userns_clone", "0"),
    ] {
        if let Some(value) = read(&format!("/proc/sys/{key}")) {
            let state = if value == free { State::Off } else { State::On };
            rows.push(info(name, state).why(format!("{} is {value}", key.replace('/', "."))));
        }
    }
    if let Some(value) = read("/sys/fs/selinux/enforce") {
        let state = if value == "1" { State::On } else { State::Off };
        rows.push(info("selinux_enforcing", state).why("a denial is in the audit log (ausearch -m avc)"));
    }
    if let Some(hidden) = read("/proc/self/mountinfo").as_deref().and_then(hidepid) {
        rows.push(
            info("proc_hides_others", State::On)
                .why(format!("{hidden}: the recorder must be in the group that sees all"))
                .change(
                    "mount /proc with hidepid=invisible,gid=GROUP, and put the recorder's account into GROUP",
                ),
        );
    }
    rows
}

/// The option of the mount on /proc, if it hides anything.
fn hidepid(table: &str) -> Option<String> {
    let proc = table.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"))?;
    let option = proc.split([' ', ',']).find(|option| option.starts_with("hidepid="))?;
    (!matches!(option, "hidepid=0" | "hidepid=off")).then(|| option.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_says_is_shown_with_its_setting() {
        let files = [
            ("/proc/sys/kernel/yama/ptrace_scope", "0"),
            ("/proc/sys/kernel/io_uring_disabled", "2"),
            ("/proc/sys/kernel/core_pattern", "|/usr/lib/handler %p"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            (
                "/proc/self/mountinfo",
                "24 22 0:23 / /proc rw,nosuid shared:7 - proc proc rw,gid=26,hidepid=invisible",
            ),
        ];
        let read =
            |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        let rows = facts(&read);
        let of = |name: &str| rows.iter().find(|row| row.mechanism == name).unwrap();
        assert_eq!(of("ptrace_restricted").state, State::Off);
        assert!(of("ptrace_restricted").change.as_ref().unwrap().contains("ptrace_scope=1"));
        assert_eq!(of("io_uring_disabled").state, State::On);
        assert!(of("core_handler").why.contains("/usr/lib/handler"));
        assert_eq!(of("userns_restricted_by_apparmor").state, State::On);
        assert!(of("proc_hides_others").why.contains("hidepid=invisible"));
        // None of them is anything that monitoring should wake somebody for; what is not there is not shown.
        assert!(rows.iter().all(|row| row.severity() == 0));
        assert!(facts(&|_| None).is_empty());
        assert_eq!(hidepid("24 22 0:23 / /proc rw shared:7 - proc proc rw,hidepid=off"), None);
    }
}
