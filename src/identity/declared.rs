//! Command line and identity document → one identity. Per field the command line comes first; where both speak they must
//! agree, because one of two names would otherwise vanish from the record.
#![forbid(unsafe_code)]

use std::path::Path;

use super::document::{self, Document};
use super::{Assurance, Identity, Source, syntax};
use crate::config::Undeclared;
use crate::failure::Failure;
use crate::request::DeclaredIdentity;

/// Who the payload runs for. At most one document is read: `file` (`--identity`), else `env_file` (`BAILEY_IDENTITY`).
///
/// Bad values and unreadable documents are usage failures (125). A contradiction, and nobody named where the site denies
/// that, are refusals (120).
pub fn declare(
    cli: &DeclaredIdentity,
    file: Option<&Path>,
    env_file: Option<&Path>,
    undeclared: Undeclared,
) -> Result<Identity, Failure> {
    declare_read(cli, file.or(env_file), None, undeclared)
}

/// The same; `read`: the bytes of the document at `path`, where they were read before.
///
/// # Errors
/// As [`declare`].
pub fn declare_read(
    cli: &DeclaredIdentity,
    path: Option<&Path>,
    read: Option<&[u8]>,
    undeclared: Undeclared,
) -> Result<Identity, Failure> {
    check_command_line(cli)?;
    let document = match (path, read) {
        (Some(path), Some(bytes)) => document::accept(path, bytes)?,
        (Some(path), None) => document::read(path)?,
        (None, _) => Document::default(),
    };
    let path = path.unwrap_or(Path::new(""));
    let one = |field, said: &Option<String>, written| agree(path, field, said.clone(), written);

    let source = match (&cli.user, &document.user) {
        (Some(_), _) => Source::CommandLine,
        (None, Some(_)) => Source::File,
        (None, None) => Source::None,
    };
    let Document { user, issuer, vo, groups, name, pilot, job, task } = document;
    let identity = Identity {
        user: one("user", &cli.user, user)?,
        issuer: one("issuer", &cli.issuer, issuer)?,
        vo: one("vo", &cli.vo, vo)?,
        groups: agree_groups(path, &cli.groups, &groups.unwrap_or_default())?,
        name,
        assurance: match source {
            Source::None => Assurance::Undeclared,
            _ => Assurance::Declared,
        },
        source,
        pilot: one("pilot", &cli.pilot, pilot)?,
        job: one("job", &cli.job, job)?,
        task: one("task", &cli.task, task)?,
        ..Identity::default()
    };
    if identity.assurance == Assurance::Undeclared && undeclared == Undeclared::Deny {
        return Err(nobody());
    }
    Ok(identity)
}

/// The site wants a user, and there is none.
pub(super) fn nobody() -> Failure {
    Failure::refused(
        "cannot run this payload",
        "nobody said whose it is, and this site runs no payload without a user",
        "name the user with --user, or an identity document with --identity FILE",
    )
}

/// The site wants a user, and there is only a pilot.
pub(super) fn only_a_pilot(pilot: &str) -> Failure {
    Failure::refused(
        "cannot run this payload",
        format!(
            "only its pilot is known ({}), and this site runs no payload without a user",
            syntax::shorten(pilot)
        ),
        "name the user with --user, or an identity document with BAILEY_IDENTITY or --identity FILE",
    )
}

fn check_command_line(cli: &DeclaredIdentity) -> Result<(), Failure> {
    let DeclaredIdentity { user, issuer, vo, groups, pilot, job, task } = cli;
    let said = syntax::Said {
        user: user.as_deref(),
        issuer: issuer.as_deref(),
        vo: vo.as_deref(),
        groups,
        name: None,
        pilot: pilot.as_deref(),
        job: job.as_deref(),
        task: task.as_deref(),
    };
    said.check()
        .map_err(|fault| Failure::usage(format!("cannot use --{}", fault.field), fault.why, fault.next))
}

fn agree(
    path: &Path,
    field: &str,
    said: Option<String>,
    written: Option<String>,
) -> Result<Option<String>, Failure> {
    match (said, written) {
        (Some(said), Some(written)) if said != written => Err(contradiction(path, field, &said, &written)),
        (said, written) => Ok(said.or(written)),
    }
}

/// Groups agree when both name the same set; the order of the command line stays (the first FQAN is the primary one).
fn agree_groups(path: &Path, said: &[String], written: &[String]) -> Result<Vec<String>, Failure> {
    let said = each_once(said);
    let written = each_once(written);
    if said.is_empty() {
        return Ok(written);
    }
    let same = said.len() == written.len() && said.iter().all(|group| written.contains(group));
    if written.is_empty() || same {
        return Ok(said);
    }
    Err(contradiction(path, "group", &said.join(", "), &written.join(", ")))
}

fn each_once(groups: &[String]) -> Vec<String> {
    let mut once: Vec<String> = Vec::with_capacity(groups.len());
    for group in groups {
        if !once.contains(group) {
            once.push(group.clone());
        }
    }
    once
}

fn contradiction(path: &Path, field: &str, said: &str, written: &str) -> Failure {
    Failure::refused(
        "cannot tell whose payload this is",
        format!(
            "--{field} says '{}', the identity document {} says '{}'",
            syntax::shorten(said),
            path.display(),
            syntax::shorten(written)
        ),
        format!("say it in one place, or the same in both: leave --{field} out or correct the document"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Code, Fault};
    use crate::input::tests::Scratch;

    fn user(user: &str) -> DeclaredIdentity {
        DeclaredIdentity { user: Some(user.to_owned()), ..DeclaredIdentity::default() }
    }

    fn groups(groups: &[&str]) -> DeclaredIdentity {
        DeclaredIdentity { groups: groups.iter().map(|&group| group.to_owned()).collect(), ..user("u") }
    }

    #[test]
    fn nothing_said_is_recorded_or_refused_as_the_site_chooses() {
        let nobody = DeclaredIdentity::default();
        let identity = declare(&nobody, None, None, Undeclared::Record).unwrap();
        assert_eq!((identity.assurance, identity.source), (Assurance::Undeclared, Source::None));
        assert_eq!((identity.user, identity.groups), (None, Vec::new()));

        let failure = declare(&nobody, None, None, Undeclared::Deny).unwrap_err();
        assert_eq!((failure.code, failure.fault), (Code::Refused, Fault::User));
        assert!(failure.next.contains("--user") && failure.next.contains("--identity"));

        // A VO or a job alone names nobody.
        let scratch = Scratch::new();
        let file = scratch.write("id.json", r#"{"vo": "atlas", "job": "1", "name": "Zoë"}"#);
        assert_eq!(declare(&nobody, Some(&file), None, Undeclared::Deny).unwrap_err().code, Code::Refused);
        let identity = declare(&nobody, Some(&file), None, Undeclared::Record).unwrap();
        assert_eq!(identity.assurance.as_str(), "undeclared");
        assert_eq!((identity.vo.as_deref(), identity.job.as_deref()), (Some("atlas"), Some("1")));
    }

    #[test]
    fn option_before_environment_and_only_one_file_is_read() {
        let scratch = Scratch::new();
        let option = scratch.write("option.json", r#"{"user": "from-option"}"#);
        let broken = scratch.write("broken.json", "{");
        let nobody = DeclaredIdentity::default();
        let identity = declare(&nobody, Some(&option), Some(&broken), Undeclared::Deny).unwrap();
        assert_eq!(identity.user.as_deref(), Some("from-option"));
        assert_eq!(identity.source.as_str(), "file");
        let identity = declare(&nobody, None, Some(&option), Undeclared::Deny).unwrap();
        assert_eq!(identity.user.as_deref(), Some("from-option"));
        // A document that is named and unusable is never passed over.
        assert_eq!(
            declare(&user("u"), None, Some(&broken), Undeclared::Record).unwrap_err().code,
            Code::Setup
        );
        let none = scratch.0.join("none.json");
        assert_eq!(declare(&nobody, None, Some(&none), Undeclared::Record).unwrap_err().code, Code::Setup);
    }

    #[test]
    fn the_fields_complete_each_other() {
        let scratch = Scratch::new();
        let file = scratch.write(
            "id.json",
            r#"{"user": "u", "issuer": "https://iam.example", "vo": "atlas", "groups": ["/atlas"], "name": "N",
                "pilot": "p", "job": "j", "task": "t"}"#,
        );
        let identity = declare(&user("u"), Some(&file), None, Undeclared::Deny).unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            identity,
            Identity {
                user: text("u"),
                issuer: text("https://iam.example"),
                vo: text("atlas"),
                groups: vec!["/atlas".to_owned()],
                name: text("N"),
                assurance: Assurance::Declared,
                source: Source::CommandLine,
                pilot: text("p"),
                job: text("j"),
                task: text("t"),
                ..Identity::default()
            }
        );
        assert_eq!(identity.source.as_str(), "command-line");
    }

    type Set = fn(&mut DeclaredIdentity);

    #[test]
    fn a_contradiction_is_refused_field_by_field() {
        let scratch = Scratch::new();
        let table: [(&str, &str, Set); 6] = [
            ("user", r#"{"user": "x"}"#, |cli| cli.user = Some("y".into())),
            ("issuer", r#"{"issuer": "https://x.example"}"#, |cli| {
                cli.issuer = Some("https://y.example".into());
            }),
            ("vo", r#"{"vo": "x"}"#, |cli| cli.vo = Some("y".into())),
            ("pilot", r#"{"pilot": "x"}"#, |cli| cli.pilot = Some("y".into())),
            ("job", r#"{"job": "x"}"#, |cli| cli.job = Some("y".into())),
            ("task", r#"{"task": "x"}"#, |cli| cli.task = Some("y".into())),
        ];
        for (field, json, set) in table {
            let file = scratch.write("id.json", json);
            let mut cli = DeclaredIdentity::default();
            set(&mut cli);
            for (option, env) in [(Some(&*file), None), (None, Some(&*file))] {
                let failure = declare(&cli, option, env, Undeclared::Record).expect_err(field);
                assert_eq!(failure.code, Code::Refused, "{field}");
                assert!(failure.why.contains(&format!("--{field} says")), "{failure}");
                assert!(failure.why.contains("id.json"), "{failure}");
            }
        }
    }

    #[test]
    fn groups_are_compared_as_sets() {
        let scratch = Scratch::new();
        let file = scratch.write("id.json", r#"{"groups": ["/a", "/b", "/a"]}"#);
        let with = |said: &[&str]| declare(&groups(said), Some(&file), None, Undeclared::Deny);
        assert_eq!(with(&[]).unwrap().groups, ["/a", "/b"]);
        assert_eq!(with(&["/b", "/a", "/b"]).unwrap().groups, ["/b", "/a"]);
        for different in [&["/a"][..], &["/a", "/c"], &["/a", "/b", "/c"]] {
            assert_eq!(with(different).unwrap_err().code, Code::Refused);
        }
    }

    #[test]
    fn the_command_line_is_checked_too() {
        let failure = declare(&user("a\nb"), None, None, Undeclared::Record).unwrap_err();
        assert_eq!((failure.code, &*failure.what), (Code::Setup, "cannot use --user"));
        let failure = declare(&groups(&["/ok", "bad"]), None, None, Undeclared::Record).unwrap_err();
        assert_eq!(failure.what, "cannot use --group");
    }
}
