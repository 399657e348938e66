//! `inspect DIR`: what an image says of itself. Its files are found inside it: a symbolic link to `/etc/passwd` is the image's.
#![forbid(unsafe_code)]

use super::flags::{Ask, Show};
use super::images;
use super::words::{Words, not_understood};
use crate::failure::{Failure, errno_text};
use crate::image::facts::read_inside;
use crate::image::{self, labels};
use crate::input::Trouble;
use crate::sys::fs::{Resolve, open_how};
use nix::errno::Errno;
use serde::Serialize;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

/// Where an image keeps it.
const HOME: &str = ".singularity.d";

/// More applications, or scripts of an environment, than anybody has.
const MOST: usize = 1000;

/// More text than anybody reads. One file may be named a million times.
const ANSWER: usize = 8 << 20;

#[derive(Debug, Default, Serialize)]
struct Attributes {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    apps: BTreeMap<String, Attributes>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    runscript: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    test: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    helpfile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    deffile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    startscript: String,
}

#[derive(Serialize)]
struct Data<'a> {
    attributes: &'a Attributes,
}

#[derive(Serialize)]
struct Metadata<'a> {
    data: Data<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// The answer, as text for standard output.
///
/// # Errors
/// No image, one that cannot be opened, a file in it that cannot be read.
pub(super) fn answer(words: &mut Words, names: &[OsString], cwd: Option<&Path>) -> Result<String, Failure> {
    let [name] = names else {
        return Err(not_understood("inspect needs one image"));
    };
    let path = images::directory(name, cwd)?;
    let opened = image::open(&path)?;
    let root = opened.as_fd();
    let mut shown: BTreeSet<Show> = words
        .given
        .iter()
        .filter(|given| !given.is_off())
        .filter_map(|given| match given.flag.standing {
            super::flags::Standing::Honoured(Ask::Show(show)) => Some(show),
            _ => None,
        })
        .collect();
    let all = shown.contains(&Show::All);
    if shown.is_empty() {
        shown.insert(Show::Labels);
    }
    let wants = |show: Show| all || shown.contains(&show);
    let app = words.last(Ask::App).filter(|_| !all).and_then(|given| given.value.to_str()).map(str::to_owned);

    let inside = Inside { root, path: &path, left: Cell::new(ANSWER) };
    let mut attributes = Attributes::default();
    if app.is_none() {
        inside.read(HOME, "env", &wants, &mut attributes, &mut words.warnings)?;
    }
    if all || wants(Show::Apps) || app.is_some() {
        for name in inside.list("scif/apps")? {
            if app.as_ref().is_some_and(|app| *app != name) {
                continue;
            }
            let mut of_app = Attributes::default();
            if all || app.is_some() {
                inside.read(
                    &format!("scif/apps/{name}/scif"),
                    "env",
                    &wants,
                    &mut of_app,
                    &mut words.warnings,
                )?;
            }
            attributes.apps.insert(name, of_app);
        }
    }
    if words.is_on(Ask::Json) || all {
        let metadata = Metadata { data: Data { attributes: &attributes }, kind: "container" };
        let mut text = Vec::new();
        let mut json = serde_json::Serializer::with_formatter(
            &mut text,
            serde_json::ser::PrettyFormatter::with_indent(b"\t"),
        );
        let made = metadata.serialize(&mut json).map_err(|error| error.to_string());
        let text = made.and_then(|()| String::from_utf8(text).map_err(|error| error.to_string()));
        let text =
            text.map_err(|why| Failure::site("cannot show the image", why, "report this as a defect"))?;
        return Ok(text + "\n");
    }
    Ok(plain(&attributes, app.as_deref(), wants(Show::Apps)))
}

/// In the order and form of Apptainer.
fn plain(attributes: &Attributes, app: Option<&str>, list: bool) -> String {
    let mut lines = Vec::new();
    if list {
        lines.extend(attributes.apps.keys().cloned());
    }
    let shown = app.and_then(|app| attributes.apps.get(app)).unwrap_or(attributes);
    for text in [&shown.deffile, &shown.runscript, &shown.startscript, &shown.test, &shown.helpfile] {
        if !text.is_empty() {
            lines.push(text.clone());
        }
    }
    lines.extend(shown.environment.iter().map(|(file, text)| format!("=== {file} ===\n{text}\n")));
    lines.extend(shown.labels.iter().map(|(name, text)| format!("{name}: {text}")));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The image's root.
struct Inside<'a> {
    root: BorrowedFd<'a>,
    path: &'a Path,
    /// What the answer may still grow by.
    left: Cell<usize>,
}

impl Inside<'_> {
    fn cannot(&self, file: &str, why: String) -> Failure {
        Failure::usage(
            format!("cannot read /{file} of the image {}", self.path.display()),
            why,
            "name another image, or repair this one",
        )
    }

    fn counts(&self, bytes: usize) -> Result<(), Failure> {
        let left = self.left.get().checked_sub(bytes).ok_or_else(|| {
            Failure::usage(
                format!("cannot show all of the image {}", self.path.display()),
                format!("what it says of itself has more than {ANSWER} bytes"),
                "ask for less than --all, or for one --app",
            )
        })?;
        self.left.set(left);
        Ok(())
    }

    /// A small file as text; empty where there is none.
    fn text(&self, file: &str) -> Result<String, Failure> {
        let path = CString::new(file).map_err(|error| self.cannot(file, error.to_string()))?;
        match read_inside(self.root, &path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                self.counts(file.len() + text.len())?;
                Ok(text)
            }
            Err(Trouble::System(error)) if is_absent(&error) => Ok(String::new()),
            Err(trouble) => Err(self.cannot(file, trouble.to_string())),
        }
    }

    /// The names in a directory, in order; none where there is none.
    fn list(&self, dir: &str) -> Result<BTreeSet<String>, Failure> {
        let path = CString::new(dir).map_err(|error| self.cannot(dir, error.to_string()))?;
        let opened = match open_how(self.root, &path, libc::O_RDONLY | libc::O_DIRECTORY, 0, Resolve::InRoot)
        {
            Ok(opened) => opened,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(BTreeSet::new()),
            Err(errno) => return Err(self.cannot(dir, errno_text(errno))),
        };
        let mut dir_stream =
            nix::dir::Dir::from_fd(opened).map_err(|errno| self.cannot(dir, errno_text(errno)))?;
        let mut names = BTreeSet::new();
        for entry in dir_stream.iter().take(MOST) {
            let entry = entry.map_err(|errno| self.cannot(dir, errno_text(errno)))?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                self.counts(name.len())?;
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    /// What stands below one directory.
    fn read(
        &self,
        dir: &str,
        env: &str,
        wants: &dyn Fn(Show) -> bool,
        attributes: &mut Attributes,
        warnings: &mut Vec<String>,
    ) -> Result<(), Failure> {
        for (show, file, text) in [
            (Show::Runscript, "runscript", &mut attributes.runscript),
            (Show::Startscript, "startscript", &mut attributes.startscript),
            (Show::Test, "test", &mut attributes.test),
            (Show::Help, "runscript.help", &mut attributes.helpfile),
            (Show::Definition, "Singularity", &mut attributes.deffile),
        ] {
            if wants(show) {
                *text = self.text(&format!("{dir}/{file}"))?;
            }
        }
        if wants(Show::Labels) {
            let text = self.text(&format!("{dir}/labels.json"))?;
            match labels::parse(text.as_bytes()) {
                Ok((labels, _)) => attributes.labels = labels,
                Err(_) if text.is_empty() => {}
                Err(why) => warnings.push(format!("Unable to parse labels: {why}")),
            }
        }
        if wants(Show::Environment) {
            for name in self.list(&format!("{dir}/{env}"))? {
                let of_docker = name.strip_prefix("10-docker").and_then(|rest| rest.strip_suffix(".sh"));
                let own = name.strip_prefix('9').and_then(|rest| rest.strip_suffix("-environment.sh"));
                if of_docker.or(own).is_some() {
                    let file = format!("{dir}/{env}/{name}");
                    let text = self.text(&file)?;
                    attributes.environment.insert(format!("/{file}"), text);
                }
            }
        }
        Ok(())
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENOTDIR))
}
