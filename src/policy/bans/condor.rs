//! HTCondor's map files, as HTCondor-CE has them in `mapfiles.d/`: `METHOD PRINCIPAL NAME`. A line whose name ends in
//! `@banned.htcondor.org` is a ban, other lines map somebody to an account and do not concern us.
//!
//! 1. A field that begins with a slash is an expression, any other principal is meant literally (HTCondor-CE sets
//!    `CERTIFICATE_MAPFILE_ASSUME_HASH_KEYS`).
//! 2. A line that names `banned.htcondor.org` and is no ban by these rules MUST be a fault: somebody meant one.
//! 3. A ban holds wherever it stands, also behind a line that maps the same principal.
#![forbid(unsafe_code)]

use super::super::group::GroupPattern;
use super::super::lines::{Faults, Place, Wrong, count, entries, number, shorten};
use super::super::name::{Dn, Name};
use super::pattern::{CertificatePattern, TokenPattern, close};
use super::{Ban, Fault, List, WHAT, Whom, all_of};

const BANNED: &str = "@banned.htcondor.org";

enum Line {
    Ban(Whom),
    /// A ban for a method that no payload of ours comes by.
    Foreign(String),
    Mapping,
}

pub(super) fn parse(text: &str) -> Result<List, Vec<Fault>> {
    count(text, WHAT)?;
    let mut list = List::default();
    let mut faults = Faults::default();
    for (line, content) in entries(text) {
        match read(content) {
            Ok(Line::Ban(whom)) => list.bans.push(Ban::new(whom, line)),
            Ok(Line::Foreign(method)) => list.remark(
                line,
                format!("a ban for the method {method} has no meaning here, where names come from certificates and tokens"),
            ),
            Ok(Line::Mapping) => {}
            Err((column, wrong)) => {
                if faults.push(Place { line, column }.fault(WHAT, wrong)) {
                    break;
                }
            }
        }
    }
    faults.or(list)
}

struct Field<'a> {
    text: String,
    is_pattern: bool,
    caseless: bool,
    column: u32,
    rest: &'a str,
}

fn read(line: &str) -> Result<Line, (u32, Wrong)> {
    const SHAPE: &str = "write METHOD, PRINCIPAL and NAME with blanks between them, such as: SCITOKENS /^https:\\/\\/iam\\.example\\.org\\/,x$/ x@banned.htcondor.org";
    let (method, rest) = line.split_at(line.find(char::is_whitespace).unwrap_or(line.len()));
    if method.starts_with('@') {
        return Err((
            1,
            Wrong::new(format!("{method} is not followed here"), "list the included file itself"),
        ));
    }
    if !method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_*".contains(&byte)) {
        let why = format!("'{}' is no METHOD of a map file of HTCondor", shorten(method));
        let next = format!("{SHAPE}; a grid-mapfile belongs in a file whose name ends in .db");
        return Err((1, Wrong::new(why, next)));
    }
    let principal = field(line, rest, true)?;
    let name = field(line, principal.rest, false)?;
    if principal.text.is_empty() || name.text.is_empty() {
        let why = if name.column > 0 && !principal.text.is_empty() {
            "there is no NAME"
        } else {
            "there is no PRINCIPAL"
        };
        return Err((0, Wrong::new(why, SHAPE)));
    }
    let banned = name.text.len() > BANNED.len()
        && name
            .text
            .get(name.text.len() - BANNED.len()..)
            .is_some_and(|end| end.eq_ignore_ascii_case(BANNED));
    if !banned {
        // Rule 2.
        return if line.to_ascii_lowercase().contains("banned.htcondor.org") {
            let why = format!(
                "the name is '{}', so this is no ban although it names banned.htcondor.org",
                shorten(&name.text)
            );
            Err((name.column, Wrong::new(why, format!("a slash within a pattern is written \\/; {SHAPE}"))))
        } else {
            Ok(Line::Mapping)
        };
    }
    let at = |wrong| (principal.column, wrong);
    let whom = match (method.to_ascii_uppercase().as_str(), principal.is_pattern) {
        ("SCITOKENS", true) => {
            TokenPattern::new(&principal.text, principal.caseless).map(Whom::TokenPattern).map_err(at)?
        }
        ("SCITOKENS", false) => {
            let (issuer, subject) = principal.text.split_once(',').ok_or_else(|| {
                at(Wrong::new(
                    format!(
                        "'{}' has no comma between issuer and subject, so no token can match",
                        shorten(&principal.text)
                    ),
                    "write ISSUER,SUBJECT",
                ))
            })?;
            Name::token(Some(issuer), subject).map(Whom::Name).map_err(at)?
        }
        ("GSI" | "SSL", true) => CertificatePattern::new(&principal.text, principal.caseless)
            .map(Whom::CertificatePattern)
            .map_err(at)?,
        ("GSI" | "SSL", false) => certificate(&principal.text).map_err(at)?,
        (method, _) => return Ok(Line::Foreign(method.to_owned())),
    };
    Ok(Line::Ban(whom))
}

/// `DN` or `DN,FQAN,FQAN`.
fn certificate(text: &str) -> Result<Whom, Wrong> {
    let mut dn = text;
    let mut groups = Vec::new();
    if text.starts_with('/') {
        while let Some((before, group)) = dn.rsplit_once(",/") {
            let Ok(group) = GroupPattern::parse(&format!("/{group}")) else { break };
            groups.push(Whom::Group(group));
            dn = before;
        }
    }
    let dn = Whom::Name(Name::Dn(Dn::parse(dn)?));
    groups.push(dn);
    groups.reverse();
    all_of(groups)
}

/// The next field, as HTCondor reads it: in double quotes, between slashes (the principal), or up to white space.
fn field<'a>(line: &str, text: &'a str, may_be_pattern: bool) -> Result<Field<'a>, (u32, Wrong)> {
    let text = text.trim_start();
    let before = line.len().saturating_sub(text.len());
    let column = number(line.get(..before).map_or(0, |before| before.chars().count()) + 1);
    let open = |next: &str| (column, Wrong::new("it is not closed, as in a file that was cut off", next));
    if let Some(inner) = text.strip_prefix('"') {
        let (text, rest) =
            close(inner, '"').ok_or_else(|| open("close the double quote, or write the file again"))?;
        return Ok(Field { text, is_pattern: false, caseless: false, column, rest });
    }
    if let Some(inner) = text.strip_prefix('/').filter(|_| may_be_pattern) {
        let (text, rest) = close(inner, '/')
            .ok_or_else(|| open("close the pattern with a slash, or write the file again"))?;
        let end = rest.find(|c| c != 'i' && c != 'U').unwrap_or(rest.len());
        let (options, rest) = rest.split_at(end);
        return Ok(Field { text, is_pattern: true, caseless: options.contains('i'), column, rest });
    }
    let (text, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    Ok(Field { text: text.to_owned(), is_pattern: false, caseless: false, column, rest })
}
