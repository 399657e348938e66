//! What the call puts into the payload's environment: `--env`, `--env-file`, and the variables that begin with
//! `APPTAINERENV_` or `SINGULARITYENV_`, in this order of weight.
//!
//! 1. HOME is the container's, and what steers Apptainer itself is not the payload's: neither is taken from there.
//! 2. Nothing is evaluated: a value is what stands there. A file that needs a shell to be understood is refused.
//! 3. A message names variables, never their values.
//! 4. Root reads a file before it becomes another, and so reads for its payload only what that could read.
#![forbid(unsafe_code)]

use super::csv;
use super::flags::Ask;
use super::words::{Words, unusable};
use crate::failure::{Failure, errno_text, io_text};
use crate::host::Caller;
use crate::input;
use crate::request::EnvName;
use crate::sys::fs::{self, Resolve, open_how};
use nix::errno::Errno;
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// More than this is no list of variables.
const LARGEST_FILE: u64 = 1 << 20;

/// Names that a payload cannot be given this way (rule 1).
const FIXED: [&str; 5] =
    ["HOME", "APPTAINER_SHELL", "APPTAINER_APPNAME", "SINGULARITY_SHELL", "SINGULARITY_APPNAME"];

/// Names that a shell, which Apptainer reads these files with, keeps for itself.
const OF_THE_SHELL: [&[u8]; 7] = [b"EUID", b"GID", b"HOME", b"IFS", b"OPTIND", b"PWD", b"UID"];

/// What the payload gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variables {
    pub(super) set: Vec<(EnvName, OsString)>,
    /// Before and behind PATH.
    pub(super) path: (Option<OsString>, Option<OsString>),
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Puts it together.
///
/// # Errors
/// An `--env` without `=`, a file that cannot be read or needs a shell.
pub(super) fn gather(words: &mut Words, caller: &Caller) -> Result<Variables, Failure> {
    let mut warnings = Vec::new();
    let line = of_line(words, &mut warnings)?;
    let files = of_files(words, caller)?;
    let mut gathered = Gathered { variables: Variables::default(), seen: HashMap::new(), warnings };
    // Of one source the last word counts; of several, the first.
    let last = |pairs: Pairs| {
        let mut last: Pairs = Vec::new();
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        for (name, value) in pairs {
            if let Some(pair) = places.get(&name).and_then(|at| last.get_mut(*at)) {
                pair.1 = value;
            } else {
                places.insert(name.clone(), last.len());
                last.push((name, value));
            }
        }
        last
    };
    for (source, pairs) in [("--env", last(line)), ("--env-file", last(files))] {
        for (name, value) in pairs {
            gathered.add(source, &name, OsString::from_vec(value));
        }
    }
    for prefix in ["APPTAINERENV_", "SINGULARITYENV_"] {
        for (name, value) in &caller.env {
            if let Some(name) = name.as_bytes().strip_prefix(prefix.as_bytes()) {
                gathered.add(prefix, name, value.clone());
            }
        }
    }
    words.warnings.append(&mut gathered.warnings);
    Ok(gathered.variables)
}

struct Gathered {
    variables: Variables,
    /// Where a name was set: by whom, and which value.
    seen: HashMap<EnvName, (&'static str, OsString)>,
    warnings: Vec<String>,
}

impl Gathered {
    fn add(&mut self, source: &'static str, name: &[u8], value: OsString) {
        if name.is_empty() {
            return;
        }
        let name = match std::str::from_utf8(name).map_err(|_| "the name is not UTF-8").and_then(EnvName::new)
        {
            Ok(name) => name,
            Err(why) => {
                self.warnings.push(format!("a variable of {source} is not handed on: {why}"));
                return;
            }
        };
        if FIXED.contains(&name.as_str()) {
            self.warnings
                .push(format!("Overriding {name} environment variable with {source}{name} is not permitted"));
            return;
        }
        if let Some((earlier, same)) = self.seen.get(&name) {
            // A variable of the environment that the command line sets anew is as usual as it is on every command line.
            if *same != value && (source == "SINGULARITYENV_" || source == "--env-file") {
                self.warnings.push(format!(
                    "{name} is set by {earlier} and by {source} to different values, using the former"
                ));
            }
            return;
        }
        self.seen.insert(name.clone(), (source, value.clone()));
        match name.as_str() {
            "PREPEND_PATH" => self.variables.path.0 = Some(value),
            "APPEND_PATH" => self.variables.path.1 = Some(value),
            _ => self.variables.set.push((name, value)),
        }
    }
}

/// `--env A=b`, or `--env A=b,C=d`: with one `=` there is one variable, commas and all.
fn of_line(words: &Words, warnings: &mut Vec<String>) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::new();
    for given in words.of(Ask::Env) {
        let text = given.value.as_bytes();
        let fields = match text.iter().filter(|byte| **byte == b'=').count() {
            0 => return Err(unusable(given, "there is no '=' in it: write NAME=VALUE")),
            1 => vec![trim_quotes(text).to_vec()],
            _ => csv::fields(text).map_err(|why| unusable(given, why))?,
        };
        for field in fields {
            let Some(at) = field.iter().position(|byte| *byte == b'=') else {
                return Err(unusable(
                    given,
                    "a part of its comma list has no '='; put double quotes around a variable with a comma in its value",
                ));
            };
            let (name, value) = field.split_at(at);
            if name.is_empty() {
                warnings.push("a variable of --env has no name and is left out".to_owned());
            }
            pairs.push((name.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        }
    }
    Ok(pairs)
}

fn trim_quotes(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b"\"") {
        text = rest;
    }
    while let Some(rest) = text.strip_suffix(b"\"") {
        text = rest;
    }
    text
}

/// For root the file is read before it becomes another, so that it is no more than its payload could read itself.
fn of_files(words: &Words, caller: &Caller) -> Result<Pairs, Failure> {
    let mut pairs = Pairs::new();
    for name in words.list(Ask::EnvFile)? {
        let cannot = |why: String| {
            Failure::usage(
                format!("cannot use the file {} of --env-file", Path::new(&name).display()),
                why,
                "write one NAME=VALUE on each line, values with blanks or a $ in single quotes",
            )
        };
        let path = super::binds::absolute(name.as_bytes(), caller.cwd.as_deref())
            .map_err(|why| cannot(why.to_owned()))?;
        let file = if caller.uid == 0 {
            open_as_root(&path).map_err(cannot)?
        } else {
            input::open(&path).map_err(|error| cannot(io_text(&error)))?
        };
        let (_, text) = input::read_small(&file, LARGEST_FILE).map_err(|why| cannot(why.to_string()))?;
        pairs.extend(parse_file(&text).map_err(|(line, why)| cannot(format!("line {line}: {why}")))?);
    }
    Ok(pairs)
}

/// A file that everybody may read, and that no symbolic link leads to: who owns a directory on the way could make one.
fn open_as_root(path: &Path) -> Result<File, String> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    let flags = libc::O_RDONLY | input::FLAGS.bits();
    let file = match open_how(fs::cwd(), &text, flags, 0, Resolve::NoSymlinks) {
        Ok(fd) => File::from(fd),
        Err(Errno::ELOOP) => {
            return Err("a symbolic link leads to it, and for root none is followed".to_owned());
        }
        Err(errno) => return Err(errno_text(errno)),
    };
    let mode = file.metadata().map_err(|error| io_text(&error))?.permissions().mode();
    if mode & 0o004 == 0 {
        return Err(
            "not everybody may read it, and root hands no payload what only others may read".to_owned()
        );
    }
    Ok(file)
}

/// What stands in a file: assignments as a shell writes them, blank lines, and comments. Which line is wrong, and why, otherwise.
pub(super) fn parse_file(text: &[u8]) -> Result<Pairs, (usize, &'static str)> {
    let mut pairs = Pairs::new();
    let mut reader = Reader { text, at: 0 };
    while let Some(byte) = reader.peek() {
        let line = reader.line();
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => reader.at += 1,
            b'#' => reader.skip_line(),
            _ => {
                let (name, value) = reader.assignment().map_err(|why| (line, why))?;
                if !OF_THE_SHELL.contains(&name.as_slice()) {
                    pairs.push((name, value));
                }
            }
        }
    }
    Ok(pairs)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn line(&self) -> usize {
        1 + self.text.iter().take(self.at).filter(|byte| **byte == b'\n').count()
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.at += 1;
        }
    }

    /// `[export] NAME=VALUE`.
    fn assignment(&mut self) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if let Some(behind) = rest.strip_prefix(b"export") {
            let blanks = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            self.at += if blanks == 0 { 0 } else { b"export".len() + blanks };
        }
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.at += 1;
        }
        let name = self.text.get(begin..self.at).unwrap_or_default().to_vec();
        if name.first().is_none_or(u8::is_ascii_digit) || self.next() != Some(b'=') {
            return Err("it is no NAME=VALUE, and nothing in the file is run");
        }
        let value = self.word()?;
        Ok((name, value))
    }

    /// A shell's word: plain, quoted, or both together.
    fn word(&mut self) -> Result<Vec<u8>, &'static str> {
        const NEEDS_A_SHELL: &str = "only a shell could tell what it means, and none is asked: put it in single quotes, or write the value";
        let mut word = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'\n' | b' ' | b'\t') => break,
                Some(b'\r') if matches!(self.text.get(self.at + 1), None | Some(b'\n')) => break,
                Some(b'\'') => {
                    self.at += 1;
                    loop {
                        match self.next().ok_or("a single quote does not end")? {
                            b'\'' => break,
                            byte => word.push(byte),
                        }
                    }
                }
                Some(b'"') => {
                    self.at += 1;
                    loop {
                        match self.next().ok_or("a double quote does not end")? {
                            b'"' => break,
                            b'$' | b'`' => return Err(NEEDS_A_SHELL),
                            b'\\' => match self.next().ok_or("a double quote does not end")? {
                                byte @ (b'"' | b'\\' | b'$' | b'`') => word.push(byte),
                                b'\n' => {}
                                byte => word.extend([b'\\', byte]),
                            },
                            byte => word.push(byte),
                        }
                    }
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.next() {
                        Some(b'\n') => {}
                        Some(byte) => word.push(byte),
                        None => return Err("it ends with a backslash"),
                    }
                }
                Some(b'$' | b'`' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')') => {
                    return Err(NEEDS_A_SHELL);
                }
                Some(byte) => {
                    self.at += 1;
                    word.push(byte);
                }
            }
        }
        // Behind the value only a comment may stand.
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
        match self.peek() {
            None | Some(b'\n' | b'#') => Ok(word),
            Some(_) => Err("there is something behind the value: put a value with blanks in quotes"),
        }
    }
}

/// The name of a variable for `--no-env`.
pub(super) fn name(text: &OsStr) -> Result<EnvName, &'static str> {
    text.to_str().ok_or("the name is not UTF-8").and_then(EnvName::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Vec<(String, String)>, String> {
        let string = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        parse_file(text.as_bytes())
            .map(|pairs| pairs.into_iter().map(|(name, value)| (string(name), string(value))).collect())
            .map_err(|(line, why)| format!("line {line}: {why}"))
    }

    #[test]
    fn a_file_of_variables_is_data() {
        let pairs = file(
            "# a comment\n\nA=plain\nexport B='single $HOME `x`'\nC=\"double \\\"x\\\" \\$y\" # why\n  D=\nE=a'b'\"c\"\r\nF='two\nlines'\nPWD=/x\nG=x#y\nH=a\\ b\nexport=1",
        )
        .unwrap();
        let expected = [
            ("A", "plain"),
            ("B", "single $HOME `x`"),
            ("C", "double \"x\" $y"),
            ("D", ""),
            ("E", "abc"),
            ("F", "two\nlines"),
            ("G", "x#y"),
            ("H", "a b"),
            ("export", "1"),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (bad, line) in [
            ("A=1\nB=$HOME", 2),
            ("A=`id`", 1),
            ("A=\"$(id)\"", 1),
            ("A=b c", 1),
            ("\n\nrm -rf /tmp/x", 3),
            ("A='x", 1),
            ("A=\"x", 1),
            ("1A=x", 1),
            ("A=x;B=y", 1),
            ("A=\\", 1),
            ("export", 1),
        ] {
            let why = file(bad).unwrap_err();
            assert!(why.starts_with(&format!("line {line}: ")), "{bad:?}: {why}");
        }
    }
}
