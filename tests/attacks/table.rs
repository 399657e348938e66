//! The table of docs/threat-model.md: parts of it as files, one for each launcher, and all of them as Markdown.

use super::adapters::{Launcher, version};
use super::head::{Control, Head, programs};
use super::runner::{Verdict, attempt, control};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

pub const BEGIN: &str = "<!-- attacks: written by tests/attacks/table.sh -->\n";
pub const END: &str = "<!-- end of attacks -->\n";

/// The document that has the table.
pub fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md")
}

fn out() -> PathBuf {
    PathBuf::from(
        std::env::var_os("BAILEY_ATTACKS_OUT").expect("BAILEY_ATTACKS_OUT: run tests/attacks/table.sh"),
    )
}

/// Runs every attack under the launchers of `BAILEY_ATTACKS_LAUNCHERS` (NAME or NAME=COLUMN) and writes a file for each.
pub fn write_parts() {
    let only = std::env::var("BAILEY_ATTACKS_ONLY").unwrap_or_default();
    for launcher in std::env::var("BAILEY_ATTACKS_LAUNCHERS").expect("BAILEY_ATTACKS_LAUNCHERS").split(',') {
        let (name, column) = launcher.split_once('=').unwrap_or((launcher, launcher));
        let mut text = format!(
            "#\t{}\n",
            if name == "control" { String::new() } else { version(Launcher::named(name)) }
        );
        for program in programs() {
            if !only.is_empty() && !only.split(',').any(|wanted| program.starts_with(wanted)) {
                continue;
            }
            let head = Head::read(&program);
            let verdict =
                if name == "control" { control(&head) } else { attempt(&head, Launcher::named(name), None) };
            let (word, why) = match verdict {
                Verdict::Succeeds(why) => ("succeeds", why),
                Verdict::Prevented(why) => ("prevented", why),
                Verdict::Cannot(why) => ("n/a", why),
                Verdict::Kernel(why) => ("kernel", why),
            };
            writeln!(text, "{program}\t{word}\t{}", why.replace(['\t', '\n', '|'], " ")).unwrap();
        }
        fs::write(out().join(format!("{column}.tsv")), text).unwrap();
    }
}

/// One launcher's answers, by program.
type Part = BTreeMap<String, (String, String)>;

fn part(column: &str) -> Option<(String, Part)> {
    let text = fs::read_to_string(out().join(format!("{column}.tsv"))).ok()?;
    let mut version = String::new();
    let mut answers = Part::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (program, word, why) = (next(), next(), next());
        if program == "#" {
            version = word;
        } else {
            answers.insert(program, (word, why));
        }
    }
    Some((version, answers))
}

/// Columns in their order, and what stands above them.
const COLUMNS: [(&str, &str); 6] = [
    ("control", "control"),
    ("bailey", "bailey"),
    ("bwrap-host", "bubblewrap"),
    ("bwrap", "bubblewrap"),
    ("crun", "crun"),
    ("apptainer", "Apptainer"),
];

/// Writes the table of all files into the document.
pub fn write_document() {
    let parts: Vec<(&str, String, Part)> = COLUMNS
        .iter()
        .filter_map(|(column, title)| part(column).map(|(version, answers)| (*title, version, answers)))
        .collect();
    let mut table = String::from("| Row | Program | Attack |");
    for (title, version, _) in &parts {
        let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let number = if *title == "bailey" { "" } else { number.unwrap_or_default() };
        write!(table, " {} |", format!("{title} {number}").trim()).unwrap();
    }
    table += "\n|---|---|---|";
    table += &"---|".repeat(parts.len());
    table.push('\n');
    let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for program in programs() {
        let head = Head::read(&program);
        write!(table, "| {} | {program} | {} |", head.rows.join(", "), head.what).unwrap();
        for (title, _, answers) in &parts {
            let (word, why) = answers.get(&program).cloned().unwrap_or_default();
            let cell = match (*title, word.as_str()) {
                ("control", "succeeds") if head.control == Control::Naive => "succeeds (naive)".to_owned(),
                ("control", "succeeds") => "succeeds".to_owned(),
                ("control", _) | (_, "kernel") => "kernel".to_owned(),
                (_, "succeeds") => "**succeeds**".to_owned(),
                _ => word.clone(),
            };
            write!(table, " {cell} |").unwrap();
            if word == "n/a" {
                notes.entry(format!("{title}: {why}")).or_default().push(program.clone());
            }
        }
        table.push('\n');
    }
    if !notes.is_empty() {
        table += "\nn/a, it could not be tried:\n\n";
        for (why, programs) in notes {
            writeln!(table, "- {why} ({})", programs.join(", ")).unwrap();
        }
    }
    let path = document();
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the document has the first marker");
    let (_, after) = rest.split_once(END).expect("the document has the second marker");
    fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
}

/// Row, program and attack of each line of the document's table.
pub fn documented() -> Vec<(String, String, String)> {
    let text = fs::read_to_string(document()).unwrap();
    let table = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).expect("the two markers").0;
    table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .map(|line| {
            let fields: Vec<String> = line.split('|').map(|field| field.trim().to_owned()).collect();
            (fields[1].clone(), fields[2].clone(), fields[3].clone())
        })
        .collect()
}
