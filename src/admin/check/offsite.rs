//! Does the log leave the host? What a file here says can be known; whether it arrives anywhere cannot, and is not claimed.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::{Row, State, Wanted};
use crate::config::{Config, Journald};
use crate::probe::Findings;

pub(super) fn row(found: &Findings, config: &Config) -> Row {
    judge(found, config.audit.journald, Path::new("/"))
}

fn judge(found: &Findings, mode: Journald, root: &Path) -> Row {
    let wanted = if mode == Journald::Off { Wanted::Info } else { Wanted::Preferred };
    let row = |state| Row::new("log", "log_leaves_host", wanted, state);
    let has_recorder = found.recorder.as_deref().is_some_and(|state| state.starts_with("on"));
    let what = match mode {
        Journald::All => "every record",
        Journald::Checkpoints => "checkpoints",
        // The recorder copies them in any case.
        Journald::Off if has_recorder => "checkpoints",
        Journald::Off => {
            return row(State::Off)
                .why("no record is copied to the journal (audit.journald), and nothing else of bailey's sends any")
                .change("audit.journald = \"checkpoints\" in /etc/bailey/bailey.toml, and a journal that is forwarded");
        }
    };
    let at = |path: &str| root.join(path);
    if !at("run/systemd/journal/socket").exists() {
        return row(State::Off)
            .why(format!("{what} would go to the journal, and none is here"))
            .change("run systemd-journald, or collect the log's files by other means");
    }
    let kept = if at("var/log/journal").is_dir() { "kept on the disk" } else { "in memory only" };
    let ways = ways(root);
    if ways.is_empty() {
        return row(State::Unknown)
            .why(format!("{what} go to the journal ({kept}); nothing on this host says that it is forwarded"))
            .change("systemctl enable --now systemd-journal-upload, or a rule of rsyslog (*.* @@HOST)");
    }
    row(State::On).why(format!(
        "{what} go to the journal ({kept}); {}; whether they arrive cannot be seen from here",
        ways.join(", ")
    ))
}

/// What forwards the journal, as far as files say so.
fn ways(root: &Path) -> Vec<String> {
    let mut ways = Vec::new();
    let wants = "etc/systemd/system/multi-user.target.wants/systemd-journal-upload.service";
    // A link whose target may be in another place, or not here at all: enabled is what it says.
    if std::fs::symlink_metadata(root.join(wants)).is_ok() {
        ways.push("systemd-journal-upload is enabled".to_owned());
    }
    for file in files(root, "etc/rsyslog.conf", "etc/rsyslog.d", "conf") {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        if let Some(line) = text.lines().position(forwards) {
            let shown = file.strip_prefix(root).unwrap_or(&file).display();
            ways.push(format!("rsyslog sends elsewhere (/{shown}, line {})", line + 1));
        }
    }
    ways
}

/// A line of rsyslog's that sends to another host: `*.* @host`, `@@host`, or an action of omfwd or omrelp.
fn forwards(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    let module = ["\"omfwd\"", "\"omrelp\""].iter().any(|module| line.contains(module));
    let action = line.split_whitespace().nth(1).is_some_and(|action| action.starts_with('@'));
    (module && line.contains("action(")) || action
}

/// A file and those of a directory with an extension, in the order of their names.
fn files(root: &Path, main: &str, dir: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found.insert(0, root.join(main));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::tests::Scratch;

    #[test]
    fn what_is_known_is_said_and_no_more() {
        let scratch = Scratch::new();
        let root = &scratch.0;
        let found = Findings { recorder: Some("on: recorder-9".into()), ..Findings::default() };
        let alone = Findings { embedded: true, recorder: Some("off: x".into()), ..Findings::default() };
        let state = |found: &Findings, mode| judge(found, mode, root);
        assert_eq!(state(&alone, Journald::Off).state, State::Off);
        assert_eq!(state(&alone, Journald::Off).wanted, Wanted::Info);
        assert_eq!(state(&found, Journald::Off).state, State::Off, "no journal here");

        std::fs::create_dir_all(root.join("run/systemd/journal")).unwrap();
        std::fs::write(root.join("run/systemd/journal/socket"), "").unwrap();
        let row = state(&found, Journald::All);
        assert_eq!(row.state, State::Unknown);
        assert!(
            row.why.contains("every record") && row.why.contains("nothing on this host says"),
            "{}",
            row.why
        );
        assert!(row.why.contains("in memory only"));

        std::fs::create_dir_all(root.join("etc/rsyslog.d")).unwrap();
        std::fs::write(root.join("etc/rsyslog.d/9.conf"), "# *.* @@old\n*.* @@loghost:514\n").unwrap();
        let row = state(&found, Journald::Off);
        assert_eq!(row.state, State::On);
        assert!(
            row.why.contains("checkpoints go") && row.why.contains("/etc/rsyslog.d/9.conf, line 2"),
            "{}",
            row.why
        );
        assert!(row.why.contains("cannot be seen from here"));
    }

    #[test]
    fn rules_that_forward_are_known() {
        for line in ["*.* @loghost", "*.info  @@10.0.0.1:514", "action(type=\"omfwd\" target=\"x\")"] {
            assert!(forwards(line), "{line}");
        }
        for line in
            ["# *.* @loghost", "*.* /var/log/all", "module(load=\"omfwd\")", "", "mail.* -/var/log/mail@x"]
        {
            assert!(!forwards(line), "{line}");
        }
    }
}
