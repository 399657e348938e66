//! The head of an attack program: which row it is of, and how it is run. tests/attacks/attack.h says what the keys mean.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where an attack must succeed before it says anything that it fails inside.
#[derive(Debug, PartialEq)]
pub enum Control {
    Plain,
    Naive,
    /// The kernel prevents it, sandbox or not.
    Kernel,
}

#[derive(Debug)]
pub struct Head {
    pub name: String,
    pub rows: Vec<String>,
    pub what: String,
    pub control: Control,
    /// Ways that the control need not reach.
    pub unreached: Vec<String>,
    /// A configuration that takes the wall away that is meant.
    pub off: Vec<String>,
    pub options: Vec<String>,
    /// SRC, DST, writable; SRC may begin with `{dir}`.
    pub binds: Vec<(String, String, bool)>,
    pub env: Vec<String>,
    pub no_network: bool,
    pub own_image: bool,
    pub refusal_prevents: bool,
    /// bailey does not prevent it, and says so.
    pub open: bool,
}

/// The folder with the programs: this one, or where tests/attacks/table.sh put compiled ones.
pub fn folder() -> PathBuf {
    std::env::var_os("BAILEY_ATTACKS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks"), PathBuf::from)
}

/// Every attack program, by name.
pub fn programs() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "c" && name != "naive").then_some(name)
        })
        .collect();
    names.sort_by_key(|name| order(name));
    names
}

/// Sorts `p2_…` before `p10_…`, and rows in the order of the tables.
pub fn order(row: &str) -> (usize, u32, String) {
    let row = row.to_lowercase();
    let group = row.chars().next().and_then(|letter| "pfksr".find(letter)).unwrap_or(9);
    let digits: String = row.chars().skip(1).take_while(char::is_ascii_digit).collect();
    (group, digits.parse().unwrap_or(0), row)
}

impl Head {
    pub fn read(name: &str) -> Self {
        let path = folder().join(format!("{name}.c"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in text.lines().map_while(|line| line.strip_prefix("// ")) {
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: head: {line}"));
            keys.entry(key).or_default().push(value);
        }
        let mut all = |key: &str| -> Vec<String> {
            keys.remove(key).unwrap_or_default().into_iter().map(str::to_owned).collect()
        };
        let control = all("control").join(" ");
        let head = Self {
            name: name.to_owned(),
            rows: all("row").join(", ").split(", ").map(str::to_owned).collect(),
            what: all("what").join(" "),
            control: match control.split(':').next().unwrap() {
                "plain" => Control::Plain,
                "naive" => Control::Naive,
                "kernel" => Control::Kernel,
                _ => panic!("{name}: control: {control}"),
            },
            unreached: all("kernel")
                .iter()
                .flat_map(|line| {
                    line.split_once(": ")
                        .expect("NAME...: WHY")
                        .0
                        .split(' ')
                        .map(str::to_owned)
                        .collect::<Vec<_>>()
                })
                .collect(),
            off: all("off"),
            options: all("option")
                .iter()
                .flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect(),
            binds: all("bind").iter().map(|bind| parse_bind(bind)).collect(),
            env: all("env"),
            no_network: all("network").concat() == "none",
            own_image: all("image").concat() == "own",
            refusal_prevents: all("refusal").concat() == "prevented",
            open: !all("open").concat().is_empty(),
        };
        assert!(keys.is_empty(), "{name}: head: {keys:?}");
        assert!(!head.what.is_empty() && !head.rows.concat().is_empty(), "{name}: a head has row and what");
        head
    }
}

fn parse_bind(bind: &str) -> (String, String, bool) {
    let mut parts = bind.split(':');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (source, target, mode) = (next(), next(), next());
    assert!(!target.is_empty(), "bind: {bind}");
    (source, target, mode == "rw")
}
