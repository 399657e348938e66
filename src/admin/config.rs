//! `bailey config validate [FILE...]` and `bailey config show`.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::PathBuf;

use crate::config::{self, Place};
use crate::failure::{Failure, Printable};
use crate::input;
use crate::uids;

/// Checks the named files as if they were the host's, one over the other in this order; without a name, the host's own,
/// with owner and mode. The text says what was found to be right.
///
/// What is likely to be meant otherwise (a rule that can never apply) is a warning; `strict` makes the answer a no then.
///
/// Owner and mode of named files are not judged, so that a site can check them in its repository.
pub fn validate(files: &[PathBuf], strict: bool) -> Result<(String, u8), Failure> {
    let checked = if files.is_empty() {
        config::load(&Place::system())?
    } else {
        let mut sources = Vec::with_capacity(files.len());
        for path in files {
            let bytes = input::open(path)
                .map_err(input::Trouble::from)
                .and_then(|file| input::read_small(&file, config::LIMIT))
                .map_err(|trouble| {
                    Failure::usage(
                        format!("cannot read {}", path.display()),
                        trouble.to_string(),
                        "name a TOML file of at most 1 MiB that you may read",
                    )
                })?
                .1;
            sources.push((path.clone(), bytes));
        }
        config::merge(&sources)?
    };
    if checked.files.is_empty() {
        return Ok(("no configuration file: the defaults hold\n".to_owned(), 0));
    }
    let mut out = String::new();
    for file in &checked.files {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: ok", file.display());
    }
    let mut warnings = config::warnings(&checked);
    warnings.extend(uids::warnings(&checked));
    for warning in &warnings {
        let _ = writeln!(out, "warning: {}", Printable(warning));
    }
    Ok((out, u8::from(strict && !warnings.is_empty())))
}

/// The configuration that holds on this host, as a file that could be installed.
pub fn show() -> Result<String, Failure> {
    Ok(config::show(&config::load(&Place::system())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::tests::Scratch;

    #[test]
    fn named_files_are_judged_by_their_text() {
        let scratch = Scratch::new();
        let good = scratch.write("good.toml", "[limits]\ngrace = \"5s\"\n");
        scratch.mode("good.toml", 0o666);
        let bad = scratch.write("bad.toml", "[limits]\ngrase = \"5s\"\n");
        let (ok, code) = validate(std::slice::from_ref(&good), true).unwrap();
        assert_eq!((ok, code), (format!("{}: ok\n", good.display()), 0));
        let failure = validate(&[good, bad.clone()], false).unwrap_err().to_string();
        assert!(failure.contains(&format!("{}, line 2, column 1", bad.display())), "{failure}");
        let failure = validate(&[scratch.0.join("none.toml")], false).unwrap_err();
        assert_eq!(failure.fault, crate::failure::Fault::User);
        assert!(failure.why.contains("ENOENT"));
    }
}
