//! What of the payload's arguments is recorded: enough to know what ran, nothing that opens a door.
//!
//! 1. A value that looks like a secret is replaced before anything is measured, cut or written.
//! 2. Redaction works on the arguments as bytes; only what stays becomes text.
//! 3. The digest is over the arguments as they are, so that a list found elsewhere can be compared with the record.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest, Sha256};

use super::chain::hex;
use super::record::ArgsInfo;
use crate::config;

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";
/// The longest argument list that is recorded, in bytes of text.
pub const LIMIT: usize = 8 * 1024;

/// `process.args` and `grid.args` for one command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Args {
    /// `process.args`.
    pub list: Vec<String>,
    /// `grid.args`.
    pub info: ArgsInfo,
}

/// Turns arguments into what is recorded of them.
pub fn args<S: AsRef<OsStr>>(arguments: &[S], mode: config::Args) -> Args {
    let mut info = ArgsInfo { count: Some(arguments.len() as u64), ..ArgsInfo::default() };
    if mode == config::Args::Digest {
        info.truncated = Some(true);
        info.sha256 = Some(digest(arguments));
        return Args { list: Vec::new(), info };
    }
    let (mut list, redacted) = redact(arguments);
    info.redacted = (redacted > 0).then_some(redacted);
    if cut(&mut list) {
        info.truncated = Some(true);
        info.sha256 = Some(digest(arguments));
    }
    Args { list, info }
}

/// Bytes as text that can be undone: UTF-8 as it is, any other byte as `\xNN`, a backslash as `\\`. Text without either is
/// unchanged.
pub fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}"); // a String never fails
        }
    }
    out
}

fn digest<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let mut sha = Sha256::new();
    for argument in arguments {
        sha.update(argument.as_ref().as_bytes());
        sha.update([0]);
    }
    hex(&sha.finalize().into())
}

fn redact<S: AsRef<OsStr>>(arguments: &[S]) -> (Vec<String>, u64) {
    let mut redacted = 0;
    let mut next_is_secret = false;
    let list = arguments
        .iter()
        .map(|argument| {
            let bytes = argument.as_ref().as_bytes();
            let kept = if next_is_secret && !bytes.starts_with(b"--") {
                next_is_secret = false;
                Some(REDACTED.to_owned())
            } else {
                next_is_secret = names_secret_to_come(bytes);
                redacted_form(bytes)
            };
            redacted += u64::from(kept.is_some());
            kept.unwrap_or_else(|| text(bytes))
        })
        .collect();
    (list, redacted)
}

/// `--password`, with the value in the next argument.
fn names_secret_to_come(argument: &[u8]) -> bool {
    argument.starts_with(b"-") && !argument.contains(&b'=') && is_secret_name(argument)
}

/// The argument without its secrets; `None` when it has none. One argument may hold several, of several forms: a URL with
/// user information and a token in its query, a shell command with a variable and a header.
fn redacted_form(argument: &[u8]) -> Option<String> {
    if contains(argument, b"-----BEGIN") {
        return Some(REDACTED.to_owned());
    }
    let mut kept = argument;
    // Two forms reach to the end of the argument, whatever stands there.
    if let Some(at) = find(&kept.to_ascii_lowercase(), b"bearer ") {
        kept = kept.get(..at + 7).unwrap_or_default();
    }
    if let Some(at) = kept.iter().position(|b| *b == b'=') {
        let (name, value) = kept.split_at(at);
        let name_end = name.rsplit(|b| matches!(b, b'?' | b'&' | b' ')).next().unwrap_or(name);
        if value.len() > 1 && is_secret_name(name_end) {
            kept = kept.get(..=at).unwrap_or_default();
        }
    }
    let masked = mask_userinfo(kept);
    let words = mask_words(masked.as_deref().unwrap_or(kept));
    let is_cut = kept.len() < argument.len();
    match words.or(masked) {
        None if !is_cut => None,
        masked => {
            let end = if is_cut { REDACTED } else { "" };
            Some(format!("{}{end}", text(masked.as_deref().unwrap_or(kept))))
        }
    }
}

/// Replaces JSON web tokens, and `name=secret` pairs inside a longer argument (a URL's query, a shell command).
fn mask_words(argument: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(argument.len());
    let mut changed = false;
    for word in argument.split_inclusive(|b| !is_word_byte(*b)) {
        let (body, end) = match word.split_last() {
            Some((last, rest)) if !is_word_byte(*last) => (rest, word.get(rest.len()..).unwrap_or_default()),
            _ => (word, &[][..]),
        };
        let pair = body
            .iter()
            .position(|b| *b == b'=')
            .and_then(|at| body.split_at_checked(at))
            .filter(|(name, value)| value.len() > 1 && is_secret_name(name));
        if is_jwt(body) {
            out.extend_from_slice(REDACTED.as_bytes());
            changed = true;
        } else if let Some((name, _)) = pair {
            out.extend_from_slice(name);
            out.push(b'=');
            out.extend_from_slice(REDACTED.as_bytes());
            changed = true;
        } else if let Some(at) =
            body.iter().position(|b| *b == b'=').filter(|at| body.get(at + 1..).is_some_and(is_jwt))
        {
            out.extend_from_slice(body.get(..=at).unwrap_or_default());
            out.extend_from_slice(REDACTED.as_bytes());
            changed = true;
        } else {
            out.extend_from_slice(body);
        }
        out.extend_from_slice(end);
    }
    changed.then_some(out)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'=' | b'+' | b'~' | b'%')
}

/// A JSON web token: base64url of `{"`, two dots.
fn is_jwt(word: &[u8]) -> bool {
    word.starts_with(b"eyJ") && word.len() > 20 && word.split(|b| *b == b'.').nth(2).is_some()
}

/// Each `scheme://user:password@host` without its user information.
fn mask_userinfo(argument: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = argument;
    while let Some(scheme) = find(rest, b"://") {
        let (before, after) = rest.split_at_checked(scheme + 3)?;
        let end = after.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b' ')).unwrap_or(after.len());
        let (authority, behind) = after.split_at_checked(end)?;
        out.extend_from_slice(before);
        if let Some(at) = authority.iter().rposition(|b| *b == b'@') {
            out.extend_from_slice(REDACTED.as_bytes());
            out.extend_from_slice(authority.get(at..)?);
        } else {
            out.extend_from_slice(authority);
        }
        rest = behind;
    }
    out.extend_from_slice(rest);
    (out != argument).then_some(out)
}

/// Whether an option or variable of this name holds a secret: one of its words says so. `--keep`, `--monkey` and `--key-file`
/// do not.
fn is_secret_name(name: &[u8]) -> bool {
    const WORDS: [&[u8]; 13] = [
        b"password",
        b"passwd",
        b"passphrase",
        b"pass",
        b"pwd",
        b"secret",
        b"token",
        b"key",
        b"apikey",
        b"credential",
        b"credentials",
        b"authorization",
        b"auth",
    ];
    const PATHS: [&[u8]; 4] = [b"file", b"path", b"dir", b"id"];
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|b| !b.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let Some(last) = words.clone().next_back() else {
        return false;
    };
    !PATHS.contains(&last) && words.any(|word| WORDS.contains(&word))
        || [&b"password"[..], b"passwd", b"secret", b"apikey"].iter().any(|end| last.ends_with(end))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    find(haystack, needle).is_some()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Cuts the list to [`LIMIT`] bytes; whether it was longer.
fn cut(list: &mut Vec<String>) -> bool {
    let mut room = LIMIT;
    for (index, argument) in list.iter_mut().enumerate() {
        if argument.len() + 1 > room {
            let end = argument.floor_char_boundary_at(room);
            argument.truncate(end);
            let keep = index + usize::from(end > 0);
            list.truncate(keep);
            return true;
        }
        room -= argument.len() + 1;
    }
    false
}

/// `str::floor_char_boundary` is younger than the oldest compiler that we build with.
trait FloorBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorBoundary for String {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn full(arguments: &[&str]) -> Vec<String> {
        args(arguments, config::Args::Full).list
    }

    #[test]
    fn secrets_do_not_appear() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
        let cases: [Vec<String>; 23] = [
            vec!["--password=hunter2".into()],
            vec!["--password".into(), "hunter2".into()],
            vec!["-token".into(), "hunter2".into()],
            vec!["--api-key".into(), "hunter2".into()],
            vec!["--db.passwd=hunter2".into()],
            vec!["DB_PASSWORD=hunter2".into()],
            vec!["MYSECRET=hunter2".into()],
            vec!["AWS_SECRET_ACCESS_KEY=hunter2".into()],
            vec!["https://me:hunter2@host/x".into()],
            vec!["root://hunter2@host:1094//x".into()],
            vec!["https://host/x?a=b&token=hunter2&c=d".into()],
            vec!["-c".into(), "export X=1; TOKEN=hunter2 run --x".into()],
            vec!["-H".into(), "Authorization: Bearer hunter2".into()],
            vec!["-----BEGIN PRIVATE KEY-----\nhunter2".into()],
            vec![jwt.into()],
            vec![format!("--x={jwt}")],
            vec![format!("echo '{jwt}' | sh")],
            vec![format!("https://h/?authz={jwt}&x")],
            vec!["X=1; TOKEN=hunter2 curl -H 'Authorization: Bearer hunter2'".into()],
            vec!["https://me:hunter2@host/x?token=hunter2".into()],
            vec!["cp https://host/a https://me:hunter2@host/b".into()],
            vec!["https://me:hunter2@host/ Bearer hunter2".into()],
            vec![format!("{jwt} TOKEN=x Bearer y")],
        ];
        for case in cases {
            let got = args(&case, config::Args::Full);
            let all = got.list.join(" ");
            assert!(!all.contains("hunter2") && !all.contains("eyJ"), "{case:?} became {all}");
            assert!(all.contains(REDACTED), "{all}");
            assert_eq!(got.list.len(), case.len());
            assert_eq!(got.info.redacted, Some(1), "{case:?}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let plain = [
            "/bin/sh",
            "-c",
            "echo $HOME | wc",
            "--keep=yes",
            "--monkey=1",
            "--key-file=/tmp/k",
            "--token-path",
            "/tmp/t",
            "A=B",
            "https://host/x@y?z=1",
            "user@host",
            "eyJ.a.b",
            "x=eyes",
            "é\n\u{1b}[31m",
        ];
        assert_eq!(full(&plain), plain);
    }

    #[test]
    fn bytes_become_text_that_can_be_undone() {
        assert_eq!(text(b"a\xffb\\n"), "a\\xffb\\\\n");
        let argument = OsString::from_vec(b"--x=\xc3\x28".to_vec());
        assert_eq!(args(&[argument], config::Args::Full).list, ["--x=\\xc3("]);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let long = vec!["é".repeat(5000), "b".into()];
        let got = args(&long, config::Args::Full);
        assert_eq!(got.list.len(), 1);
        assert_eq!(got.list[0].len(), LIMIT);
        assert_eq!(got.info.truncated, Some(true));
        assert_eq!(got.info.count, Some(2));
        assert_eq!(got.info.sha256, Some(digest(&long)));
        let many = vec!["x"; 128 * 1024];
        assert_eq!(args(&many, config::Args::Full).list.len(), LIMIT / 2);
        assert_eq!(full(&["a"]), ["a"]);
    }

    #[test]
    fn a_secret_is_gone_before_the_cut() {
        let list = ["x".repeat(LIMIT - 20), "--password=hunter2".to_owned()];
        assert!(!args(&list, config::Args::Full).list.concat().contains("hunt"));
    }

    #[test]
    fn digest_mode_keeps_no_argument() {
        let got = args(&["a", "b"], config::Args::Digest);
        assert!(got.list.is_empty());
        // printf 'a\0b\0' | sha256sum
        assert_eq!(
            got.info.sha256.as_deref(),
            Some("8fb20ef63ced4145fc2e983ffe597d1dcff39154c3bf21f0fa9dde6a0c50fdc9")
        );
    }
}
