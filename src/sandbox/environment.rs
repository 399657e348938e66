//! The payload's environment: made from an allow-list, never inherited.
//!
//! 1. What is not listed does not enter. A name that carries a credential enters only when it is named exactly.
//! 2. A credential variable that holds a path enters only if that path is, inside, something that was handed over.
#![forbid(unsafe_code)]

use crate::config;
use crate::failure::Failure;
use crate::request::EnvName;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names that carry a pilot's credentials or lead to its services (docs/environment.md gives the source of each).
const WITHHELD: &[&str] = &[
    "BEARER_TOKEN",
    "BEARER_TOKEN_FILE",
    "XDG_RUNTIME_DIR",
    "X509_USER_PROXY",
    "X509_USER_CERT",
    "X509_USER_KEY",
    "X509_UNIFIED_DISPATCH",
    "X509_CONDORMAP",
    "GRID_PROXY_FILE",
    "GLEXEC_CLIENT_CERT",
    "GLEXEC_SOURCE_PROXY",
    "GLEXEC_TARGET_PROXY",
    "CONDOR_INHERIT",
    "CONDOR_PRIVATE_INHERIT",
    "CONDOR_CONFIG",
    "_CONDOR_CREDS",
    "_CONDOR_CHIRP_CONFIG",
    "_CONDOR_JOB_AD",
    "_CONDOR_MACHINE_AD",
    "_CONDOR_EXECUTE",
    "_CONDOR_STARTER_PID",
    "CONDOR_STARTER_PID",
    "GLIDEIN_CONDOR_TOKEN",
    "GLIDEIN_CONDOR_TOKEN_ORIG",
    "X509_USER_PROXY_ORIG",
    "IDTOKENS_FILE",
    "GLIDEIN_CredentialIdentifier",
    "PANDA_AUTH_TOKEN",
    "PANDA_AUTH_TOKEN_KEY",
    "PANDA_AUTH_DIR",
    "PANDA_AUTH_ORIGIN",
    "OIDC_AUTH_TOKEN",
    "OIDC_AUTH_DIR",
    "OIDC_AUTH_ORIGIN",
    "OIDC_REFRESHED_AUTH_TOKEN",
    "PANDA_PILOT_AWS_PROFILE",
    "JALIEN_TOKEN_CERT",
    "JALIEN_TOKEN_KEY",
    "ALIEN_JOB_TOKEN",
    "DIRACSYSCONFIG",
    "DIRAC_VOMSES",
    "OIDC_SOCK",
    "OIDCD_PID",
    "OIDC_CONFIG_DIR",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SSH_CONNECTION",
    "SSH_CLIENT",
    "GPG_AGENT_INFO",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "KRB5_KTNAME",
    "VAULT_TOKEN",
    "VAULT_TOKEN_FILE",
    "HTGETTOKENOPTS",
    "RUCIO_CLIENT_CERT",
    "RUCIO_CLIENT_KEY",
    "RUCIO_CLIENT_PROXY",
    "RUCIO_CONFIG",
    "RUCIO_AUTH_TYPE",
    "XrdSecGSIUSERPROXY",
    "XrdSecGSIUSERCERT",
    "XrdSecGSIUSERKEY",
    "XrdSecSSSKT",
    "XrdSecsssKT",
    "XrdSecCREDS",
    "XrdSecPROXYCREDS",
    "XrdSecKRB5INITTKN",
    "XrdSecNETRC",
    "XrdSecPWDALOGFILE",
    "SLURM_JWT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CREDENTIALS_DIRECTORY",
    "DBUS_SESSION_BUS_ADDRESS",
];

/// Of these, the ones whose value is a path to a credential (or `FILE:path`).
const CREDENTIAL_PATHS: &[&str] = &[
    "BEARER_TOKEN_FILE",
    "X509_USER_PROXY",
    "X509_USER_CERT",
    "X509_USER_KEY",
    "GRID_PROXY_FILE",
    "GLEXEC_CLIENT_CERT",
    "GLEXEC_SOURCE_PROXY",
    "_CONDOR_CREDS",
    "_CONDOR_CHIRP_CONFIG",
    "_CONDOR_JOB_AD",
    "_CONDOR_MACHINE_AD",
    "GLIDEIN_CONDOR_TOKEN",
    "GLIDEIN_CONDOR_TOKEN_ORIG",
    "X509_USER_PROXY_ORIG",
    "IDTOKENS_FILE",
    "PANDA_AUTH_TOKEN",
    "PANDA_AUTH_TOKEN_KEY",
    "OIDC_AUTH_TOKEN",
    "OIDC_REFRESHED_AUTH_TOKEN",
    // No credential, but the pilot's configuration; DIRAC's container element hands a copy over and names that.
    "DIRACSYSCONFIG",
    "KRB5CCNAME",
    "KRB5_KTNAME",
    "VAULT_TOKEN_FILE",
    "RUCIO_CLIENT_CERT",
    "RUCIO_CLIENT_KEY",
    "RUCIO_CLIENT_PROXY",
    "XrdSecGSIUSERPROXY",
    "XrdSecGSIUSERCERT",
    "XrdSecGSIUSERKEY",
    "XrdSecSSSKT",
    "XrdSecsssKT",
    "SSH_AUTH_SOCK",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CREDENTIALS_DIRECTORY",
];

/// Does a name carry a credential, by list or by pattern?
pub fn is_withheld(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    WITHHELD.contains(&name)
        || ["TOKEN", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL", "APIKEY"]
            .iter()
            .any(|part| upper.contains(part))
        || ["_KEY", "_PASS", "SSHPASS"].iter().any(|end| upper.ends_with(end))
        || upper.split('_').any(|part| matches!(part, "AUTH" | "AUTHORIZATION"))
        || upper.starts_with("SSH_")
        || upper.starts_with("_CONDOR_")
        || (upper.starts_with("CONDOR_") && upper.contains("INHERIT"))
}

/// The same with the value at hand: `_PWD` ends the names of passwords, and of directories.
pub fn is_withheld_with(name: &str, value: &OsStr) -> bool {
    let is_password = name.to_ascii_uppercase().ends_with("_PWD") && !value.as_bytes().starts_with(b"/");
    is_password || is_withheld(name)
}

/// Does a value carry a credential: PEM, a JSON Web Token, or a URL with a password, anywhere in it?
pub fn is_secret_value(name: &str, value: &OsStr) -> bool {
    let bytes = value.as_bytes();
    find(bytes, b"-----BEGIN").is_some()
        || bytes.split(|byte| !is_of_token(*byte)).any(is_token)
        || has_password(bytes)
        || is_proxy(name) && is_login(bytes)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

const fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What begins first has the most dots behind it.
fn is_token(run: &[u8]) -> bool {
    let token = find(run, b"eyJ").and_then(|at| run.get(at..)).unwrap_or_default();
    token.iter().filter(|byte| **byte == b'.').count() >= 2
}

/// A `scheme://user:password@host`.
fn has_password(mut text: &[u8]) -> bool {
    while let Some(at) = find(text, b"://") {
        text = text.get(at + 3..).unwrap_or_default();
        let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#') || byte.is_ascii_whitespace();
        let end = text.iter().position(is_end).unwrap_or(text.len());
        if text.get(..end).is_some_and(is_login) {
            return true;
        }
    }
    false
}

/// `user:password@host`, as proxies are written without a scheme, too.
fn is_login(authority: &[u8]) -> bool {
    let text = find(authority, b"://").and_then(|at| authority.get(at + 3..)).unwrap_or(authority);
    let user = text.iter().rposition(|byte| *byte == b'@').and_then(|at| text.get(..at)).unwrap_or_default();
    user.iter().position(|byte| *byte == b':').is_some_and(|at| at + 1 < user.len())
}

/// A variable that programs take the address of a web proxy from.
fn is_proxy(name: &str) -> bool {
    const NAMES: [&str; 4] = ["http_proxy", "https_proxy", "all_proxy", "ftp_proxy"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The file that a credential variable names, if its value is a path.
pub fn credential_path<'a>(name: &str, value: &'a OsStr) -> Option<&'a Path> {
    if !CREDENTIAL_PATHS.contains(&name) {
        return None;
    }
    let bytes = value.as_bytes();
    let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(b"FILE:").unwrap_or(bytes)));
    path.is_absolute().then_some(path)
}

/// Host files that the pilot's environment names as credentials: they are covered wherever a bind would show them.
pub fn credential_files(pilot: &[(OsString, OsString)]) -> Vec<&Path> {
    pilot.iter().filter_map(|(name, value)| credential_path(name.to_str()?, value)).collect()
}

/// What bailey itself sets.
pub struct Own<'a> {
    /// Launch id.
    pub id: &'a str,
    /// Start directory, which is also HOME.
    pub home: &'a Path,
    /// Account name inside.
    pub user: &'a str,
}

/// Puts the environment together. `pilot` is the launcher's own; `is_handed` says whether a path, seen from inside, exists
/// and lies on something that the command line handed over.
pub fn build(
    site: &config::Environment,
    own: &Own<'_>,
    pilot: &[(OsString, OsString)],
    pass: &[EnvName],
    set: &[(EnvName, OsString)],
    is_handed: &dyn Fn(&Path) -> bool,
) -> Result<BTreeMap<OsString, OsString>, Failure> {
    let mut inside: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (name, value) in pilot {
        let Some(text) = name.to_str() else { continue };
        let listed = site.pass.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix) && !is_withheld_with(text, value),
            None => rule == text,
        });
        if listed && !is_secret_value(text, value) && credential_path(text, value).is_none_or(is_handed) {
            inside.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in [
        ("PATH", OsStr::new(&site.path)),
        ("HOME", own.home.as_os_str()),
        ("TMPDIR", OsStr::new("/tmp")),
        ("USER", OsStr::new(own.user)),
        ("LOGNAME", OsStr::new(own.user)),
    ] {
        inside.insert(name.into(), value.into());
    }
    for name in pass {
        let found = pilot.iter().find(|(key, _)| key == name.as_str());
        // A variable that the pilot does not have is no error: pilots name what may be there.
        let Some((_, value)) = found else { continue };
        check_credential(name, value, "--pass-env", is_handed)?;
        inside.insert(name.as_str().into(), value.clone());
    }
    for (name, value) in set {
        check_credential(name, value, "--env", is_handed)?;
        inside.insert(name.as_str().into(), value.clone());
    }
    inside.insert("BAILEY_ID".into(), own.id.into());
    Ok(inside)
}

fn check_credential(
    name: &EnvName,
    value: &OsStr,
    option: &str,
    is_handed: &dyn Fn(&Path) -> bool,
) -> Result<(), Failure> {
    match credential_path(name.as_str(), value) {
        Some(path) if !is_handed(path) => Err(Failure::usage(
            format!("cannot hand over the credential variable {name} ({option})"),
            format!("{} is nothing that this command line binds", path.display()),
            format!("add --bind {}", path.display()),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        pass_rules: &[&str],
        pilot: &[(&str, &str)],
        pass: &[&str],
        set: &[(&str, &str)],
        handed: &[&str],
    ) -> Result<BTreeMap<OsString, OsString>, Failure> {
        let site = config::Environment {
            pass: pass_rules.iter().map(ToString::to_string).collect(),
            path: "/usr/bin:/bin".to_owned(),
        };
        let own = Own { id: "ID", home: Path::new("/srv"), user: "u" };
        let pilot: Vec<_> = pilot.iter().map(|(k, v)| (k.into(), v.into())).collect();
        let pass: Vec<_> = pass.iter().map(|n| EnvName::new(n).unwrap()).collect();
        let set: Vec<_> = set.iter().map(|(k, v)| (EnvName::new(k).unwrap(), v.into())).collect();
        build(&site, &own, &pilot, &pass, &set, &|p| handed.iter().any(|h| p == Path::new(h)))
    }

    #[test]
    fn only_the_list_enters() {
        let env = run(
            &["LANG", "LC_*"],
            &[("LANG", "C"), ("LC_ALL", "C"), ("FOO", "1"), ("PATH", "/evil"), ("LD_PRELOAD", "x")],
            &[],
            &[],
            &[],
        )
        .unwrap();
        let names: Vec<_> = env.keys().map(|k| k.to_str().unwrap()).collect();
        assert_eq!(names, ["BAILEY_ID", "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "USER"]);
        assert_eq!(env.get(OsStr::new("PATH")).unwrap(), "/usr/bin:/bin");
    }

    #[test]
    fn a_wildcard_never_carries_a_credential() {
        let pilot: Vec<_> = WITHHELD.iter().map(|name| (*name, "x")).collect();
        let env = run(&["*"], &pilot, &[], &[], &[]).unwrap();
        for name in WITHHELD {
            assert!(!env.contains_key(OsStr::new(name)), "{name}");
        }
        for name in [
            "MY_SECRET",
            "DB_PASSWORD",
            "api_key",
            "some_token_x",
            "SSH_TTY",
            "_CONDOR_X",
            "CONDOR_FOO_INHERIT",
            "DB_PASS",
            "SSHPASS",
            "GPG_PASSPHRASE",
            "AUTH_HEADER",
            "HTTP_AUTHORIZATION",
            "BasicAuth_AUTH",
            "OPENAI_APIKEY",
        ] {
            assert!(is_withheld(name), "{name}");
        }
        for name in ["AUTHOR", "XAUTHORITY", "COMPASS", "PASSIVE", "PWD", "OLDPWD", "KEYBOARD", "TOKYO"] {
            assert!(!is_withheld_with(name, OsStr::new("x")), "{name}");
        }
        let pwd = |value: &str| is_withheld_with("MYSQL_PWD", OsStr::new(value));
        assert!(pwd("hunter2") && !pwd("/work/dir"));
    }

    #[test]
    fn a_secret_value_does_not_enter_under_a_harmless_name() {
        let env = run(
            &["*"],
            &[("NOTE", "eyJhbGciOi.eyJzdWIi.sig"), ("PEM", "-----BEGIN X"), ("OK", "eyJ")],
            &[],
            &[],
            &[],
        )
        .unwrap();
        assert!(!env.contains_key(OsStr::new("NOTE")) && !env.contains_key(OsStr::new("PEM")));
        assert!(env.contains_key(OsStr::new("OK")));
    }

    #[test]
    fn secrets_are_found_anywhere_in_a_value() {
        let is = |name: &str, value: &str| is_secret_value(name, OsStr::new(value));
        for value in [
            "Bearer eyJhbGciOi.eyJzdWIi.sig",
            "https://x/?t=eyJhbGciOi.eyJzdWIi.sig&u=1",
            "seyJhbGciOi.eyJzdWIi.sig",
            "{\"key\": \"-----BEGIN PRIVATE KEY-----\"}",
            "http://u:pw@squid:3128",
            "direct://a, http://u:p@b@squid/x",
            "jdbc:mysql://db/x mysql://root:hunter2@db",
        ] {
            assert!(is("NOTE", value), "{value}");
        }
        for value in [
            "http://squid:3128",
            "ssh://git@host:22/a:b@c",
            "http://u:@squid",
            "a.b.c",
            "eyJ.a",
            "eyJ a.b.c",
            "u:pw@host",
            "12:30@noon",
            "",
        ] {
            assert!(!is("NOTE", value), "{value}");
        }
        assert!(is("https_proxy", "u:pw@squid:3128") && is("ALL_PROXY", "http://u:p/w@squid:3128"));
        assert!(!is("http_proxy", "squid:3128") && !is("X509_USER_PROXY", "/tmp/a:b@c"));
        // A user's own: it must not take long.
        let long = "eyJ.".repeat(32 << 10);
        assert!(
            is("NOTE", &long)
                && !is("NOTE", &"eyJ:".repeat(32 << 10))
                && !is("NOTE", &"://".repeat(40 << 10))
        );
    }

    #[test]
    fn a_credential_path_enters_only_with_its_file() {
        let pilot = [("X509_USER_PROXY", "/tmp/x509up_u1")];
        assert!(run(&[], &pilot, &["X509_USER_PROXY"], &[], &[]).is_err());
        let env = run(&[], &pilot, &["X509_USER_PROXY"], &[], &["/tmp/x509up_u1"]).unwrap();
        assert!(env.contains_key(OsStr::new("X509_USER_PROXY")));
        assert!(run(&[], &[], &[], &[("KRB5CCNAME", "FILE:/tmp/krb5cc_1")], &[]).is_err());
        assert!(run(&[], &[], &["ABSENT"], &[], &[]).is_ok());
        for (handed, enters) in [(&["/tmp/pilot.cfg"][..], true), (&[], false)] {
            let pilot = [("DIRACSYSCONFIG", "/tmp/pilot.cfg")];
            let env = run(&["DIRACSYSCONFIG"], &pilot, &[], &[], handed).unwrap();
            assert_eq!(env.contains_key(OsStr::new("DIRACSYSCONFIG")), enters);
        }
        // Named in the site's list as well: without its file it stays outside.
        let env = run(&["X509_USER_PROXY"], &pilot, &[], &[], &[]).unwrap();
        assert!(!env.contains_key(OsStr::new("X509_USER_PROXY")));
    }

    #[test]
    fn the_launch_id_cannot_be_forged() {
        let env =
            run(&["BAILEY_ID"], &[("BAILEY_ID", "x")], &["BAILEY_ID"], &[("BAILEY_ID", "y")], &[]).unwrap();
        assert_eq!(env.get(OsStr::new("BAILEY_ID")).unwrap(), "ID");
    }
}
