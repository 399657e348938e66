//! argv and environment → which flag was given which value, in the manner of pflag, which is Apptainer's reader.
//!
//! 1. Reading stops at the first word that is no flag: before the command that is the command, behind it the image. What comes
//!    after the image is the payload's and MUST NOT be looked at.
//! 2. The command line wins over a variable, `APPTAINER_KEY` over `SINGULARITY_KEY`; only binds add up.
//! 3. A message repeats the name of a flag, never a value: values may be secrets.
#![forbid(unsafe_code)]

use super::csv;
use super::flags::{Ask, FLAGS, Flag, Of, Standing, Takes};
use crate::failure::Failure;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Exec,
    Run,
    Test,
    Shell,
    Inspect,
}

impl Command {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Run => "run",
            Self::Test => "test",
            Self::Shell => "shell",
            Self::Inspect => "inspect",
        }
    }

    pub(super) fn parse(word: &OsStr) -> Option<Self> {
        [Self::Exec, Self::Run, Self::Test, Self::Shell, Self::Inspect]
            .into_iter()
            .find(|command| word == command.as_str())
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Line,
    /// The variable's name.
    Variable(String),
}

/// One flag with its value; that of a switch is checked, and `true` or `false`.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) flag: &'static Flag,
    pub(super) value: OsString,
    pub(super) source: Source,
}

impl Given {
    /// What it is called where it was given.
    pub(super) fn name(&self) -> String {
        match &self.source {
            Source::Line => format!("--{}", self.flag.name),
            Source::Variable(name) => name.clone(),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.flag.takes == Takes::Switch && self.value == "false"
    }
}

/// All that was given.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) given: Vec<Given>,
    /// Sentences for stderr.
    pub(super) warnings: Vec<String>,
    /// Bytes of arguments that nobody else shall see: which argument, from which byte on.
    pub(super) secrets: Vec<(usize, usize)>,
}

impl Words {
    /// What this flag was given, in the order in which it counts.
    pub(super) fn of(&self, ask: Ask) -> impl DoubleEndedIterator<Item = &Given> {
        self.given.iter().filter(move |given| given.flag.standing == Standing::Honoured(ask))
    }

    /// The one that counts, of a flag that holds one value. An empty one is none.
    pub(super) fn last(&self, ask: Ask) -> Option<&Given> {
        self.of(ask).last().filter(|given| !given.value.is_empty())
    }

    pub(super) fn is_on(&self, ask: Ask) -> bool {
        self.of(ask).last().is_some_and(|given| !given.is_off())
    }

    /// The members of a flag that is a comma list.
    pub(super) fn list(&self, ask: Ask) -> Result<Vec<OsString>, Failure> {
        let mut list = Vec::new();
        for given in self.of(ask) {
            let fields = csv::fields(given.value.as_bytes()).map_err(|why| unusable(given, why))?;
            list.extend(fields.into_iter().filter(|field| !field.is_empty()).map(OsString::from_vec));
        }
        Ok(list)
    }

    /// Reads flags from `at` on, and returns where they end.
    ///
    /// # Errors
    /// A flag that is unknown, lacks its value, or is no switch's word.
    pub(super) fn read(
        &mut self,
        args: &[OsString],
        mut at: usize,
        command: Option<Command>,
    ) -> Result<usize, Failure> {
        while let Some(word) = args.get(at).map(|word| word.as_bytes()) {
            match word {
                b"--" => return Ok(at + 1),
                [b'-', b'-', name @ ..] => at = self.long(args, at, name, command)?,
                [b'-', letters @ ..] if !letters.is_empty() => at = self.short(args, at, letters, command)?,
                _ => return Ok(at),
            }
        }
        Ok(at)
    }

    /// Reads flags also behind words that are none, and returns those words.
    pub(super) fn read_all(
        &mut self,
        args: &[OsString],
        mut at: usize,
        command: Command,
    ) -> Result<Vec<OsString>, Failure> {
        let mut names = Vec::new();
        loop {
            at = self.read(args, at, Some(command))?;
            let Some(name) = args.get(at) else { return Ok(names) };
            names.push(name.clone());
            at += 1;
        }
    }

    fn long(
        &mut self,
        args: &[OsString],
        at: usize,
        word: &[u8],
        command: Option<Command>,
    ) -> Result<usize, Failure> {
        let (name, value) = match word.iter().position(|byte| *byte == b'=') {
            Some(equals) => {
                let (name, tail) = word.split_at(equals);
                (name, tail.get(1..))
            }
            None => (word, None),
        };
        let flag = std::str::from_utf8(name)
            .ok()
            .and_then(|name| known(command).find(|flag| flag.name == name))
            .ok_or_else(|| unknown(name, command))?;
        let begin = 2 + name.len() + 1;
        match value {
            Some(value) => self.add(flag, value, Some((at, begin)))?,
            None if flag.takes == Takes::Switch => self.add(flag, b"true", None)?,
            None => return self.next(args, at, flag),
        }
        Ok(at + 1)
    }

    fn short(
        &mut self,
        args: &[OsString],
        at: usize,
        letters: &[u8],
        command: Option<Command>,
    ) -> Result<usize, Failure> {
        for (number, letter) in letters.iter().enumerate() {
            let flag = known(command)
                .find(|flag| flag.short == *letter)
                .ok_or_else(|| unknown_letter(*letter, command))?;
            match letters.get(number + 1..).unwrap_or_default() {
                // -B=x
                [b'=', value @ ..] => {
                    self.add(flag, value, Some((at, number + 3)))?;
                    return Ok(at + 1);
                }
                _ if flag.takes == Takes::Switch => self.add(flag, b"true", None)?,
                [] => return self.next(args, at, flag),
                // -Bx
                value => {
                    self.add(flag, value, Some((at, number + 2)))?;
                    return Ok(at + 1);
                }
            }
        }
        Ok(at + 1)
    }

    /// The value is the next word, whatever it looks like.
    fn next(&mut self, args: &[OsString], at: usize, flag: &'static Flag) -> Result<usize, Failure> {
        let value = args.get(at + 1).ok_or_else(|| {
            not_understood(format!("--{} needs a value, and nothing stands behind it", flag.name))
        })?;
        self.add(flag, value.as_bytes(), Some((at + 1, 0)))?;
        Ok(at + 2)
    }

    /// `place`: where in the arguments the value stands.
    fn add(
        &mut self,
        flag: &'static Flag,
        value: &[u8],
        place: Option<(usize, usize)>,
    ) -> Result<(), Failure> {
        if let Some((argument, from)) = place.filter(|_| flag.is_secret()) {
            // The names of variables may be seen.
            let name = match flag.takes {
                Takes::Map => value.iter().position(|byte| *byte == b'=').map_or(0, |equals| equals + 1),
                _ => 0,
            };
            self.secrets.push((argument, from + name));
        }
        let mut given = Given { flag, value: OsStr::from_bytes(value).to_owned(), source: Source::Line };
        check(&mut given)?;
        self.given.push(given);
        Ok(())
    }

    /// Adds what the variables say (rule 2).
    ///
    /// # Errors
    /// A switch whose variable has no word for yes or no.
    pub(super) fn read_environment(
        &mut self,
        env: &[(OsString, OsString)],
        command: Command,
    ) -> Result<(), Failure> {
        const PREFIXES: [&str; 2] = ["APPTAINER_", "SINGULARITY_"];
        // Most callers have a handful of these among a hundred variables.
        let named: Vec<(usize, &str, &OsStr)> = env
            .iter()
            .filter_map(|(name, value)| {
                let name = name.to_str()?;
                let (number, prefix) =
                    PREFIXES.iter().enumerate().find(|(_, prefix)| name.starts_with(**prefix))?;
                Some((number, name.get(prefix.len()..)?, value.as_os_str()))
            })
            .collect();
        if named.is_empty() {
            return Ok(());
        }
        // Flags that ask for the same, such as --cwd and --pwd, are one.
        let same = |one: &Flag, other: &Flag| {
            one.name == other.name
                || matches!(one.standing, Standing::Honoured(_)) && one.standing == other.standing
        };
        let mut set: Vec<&'static Flag> = self.given.iter().map(|given| given.flag).collect();
        let mut found = Vec::new();
        // A variable stands before no command, so that it may be one of the program's own.
        for flag in known(Some(command)).chain(FLAGS.iter().filter(|flag| flag.of == Of::Program)) {
            let adds_up = matches!(flag.standing, Standing::Honoured(Ask::Bind | Ask::Mount));
            for key in flag.keys {
                let value_of =
                    |wanted: usize| named.iter().find(|(number, name, _)| *number == wanted && name == key);
                let Some((number, _, value)) = value_of(0).or_else(|| value_of(1)) else { continue };
                if value_of(0).zip(value_of(1)).is_some_and(|(ours, old)| ours.2 != old.2) {
                    self.warnings.push(format!(
                        "SINGULARITY_{key} and APPTAINER_{key} have different values, using the latter"
                    ));
                }
                let value = value.as_bytes().trim_ascii();
                if value.is_empty() || (!adds_up && set.iter().any(|set| same(set, flag))) {
                    continue;
                }
                set.push(flag);
                let prefix = PREFIXES.get(*number).copied().unwrap_or_default();
                let source = Source::Variable(format!("{prefix}{key}"));
                let mut given = Given { flag, value: trimmed(flag, value), source };
                check(&mut given)?;
                found.push(given);
            }
        }
        self.given.extend(found);
        Ok(())
    }
}

/// Lists in variables may have blanks behind their commas.
fn trimmed(flag: &Flag, value: &[u8]) -> OsString {
    if flag.takes != Takes::List {
        return OsStr::from_bytes(value).to_owned();
    }
    let parts: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    OsString::from_vec(parts.join(&b','))
}

/// The flags that may stand here. A command's own letters come before the program's: `-c` and `-s` mean another thing there.
fn known(command: Option<Command>) -> impl Iterator<Item = &'static Flag> {
    let own = move |flag: &&Flag| match flag.of {
        Of::Actions => command.is_some_and(|command| command != Command::Inspect),
        Of::Run => command == Some(Command::Run),
        Of::Shell => command == Some(Command::Shell),
        Of::Inspect => command == Some(Command::Inspect),
        Of::Program => command.is_none(),
        Of::All => false,
    };
    FLAGS.iter().filter(own).chain(FLAGS.iter().filter(|flag| flag.of == Of::All))
}

/// A switch takes Go's words for yes and no.
fn check(given: &mut Given) -> Result<(), Failure> {
    if given.flag.takes != Takes::Switch {
        return Ok(());
    }
    let word = match given.value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => "true",
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => "false",
        _ => return Err(unusable(given, "it is neither true nor false")),
    };
    given.value = word.into();
    Ok(())
}

/// A value that cannot be used. The value is not repeated (rule 3).
pub(super) fn unusable(given: &Given, why: impl std::fmt::Display) -> Failure {
    not_understood(format!("the value of {} cannot be used: {why}", given.name()))
}

/// The command line cannot be understood.
pub(super) fn not_understood(why: impl Into<String>) -> Failure {
    Failure::usage(
        "cannot understand the command line",
        why,
        "docs/apptainer.md has the flags that are known",
    )
}

fn unknown(name: &[u8], command: Option<Command>) -> Failure {
    let plain = name.len() <= 32
        && name.first().is_some_and(u8::is_ascii_lowercase)
        && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    let name = if plain { format!("--{}", String::from_utf8_lossy(name)) } else { "one".to_owned() };
    let place = command.map_or("before the command", Command::as_str);
    not_understood(format!("unknown flag: {name} ({place})"))
}

fn unknown_letter(letter: u8, command: Option<Command>) -> Failure {
    let place = command.map_or("before the command", Command::as_str);
    match letter {
        b'!'..=b'~' => not_understood(format!("unknown flag: -{} ({place})", char::from(letter))),
        _ => not_understood(format!("unknown flag: one that is no letter ({place})")),
    }
}
