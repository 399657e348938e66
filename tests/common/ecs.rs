//! ECS, as an index with `dynamic: strict` would see it.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::missing_panics_doc, clippy::implicit_hasher)]

use std::collections::BTreeMap;

use bailey::audit::Timestamp;
use serde_json::Value;

/// Name → type, and whether it is an array.
pub type Fields = BTreeMap<String, (String, bool)>;

/// The fields that we use.
pub fn ecs() -> Fields {
    include_str!("../data/ecs-fields.csv")
        .lines()
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            (cells[0].to_owned(), (cells[1].to_owned(), cells[2] == "true"))
        })
        .collect()
}

/// Collects in `wrong` what ECS would not take of a record.
pub fn check(path: &str, value: &Value, fields: &Fields, wrong: &mut Vec<String>) {
    if path.starts_with("grid") || path.starts_with("chain") {
        return;
    }
    if let Value::Object(members) = value {
        for (name, member) in members {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            check(&path, member, fields, wrong);
        }
        return;
    }
    let Some((kind, array)) = fields.get(path) else {
        wrong.push(format!("{path} is no field of ECS that we know"));
        return;
    };
    // process.args is an array by nature; ECS marks it so.
    let elements = match (value, array) {
        (Value::Array(elements), true) => elements.iter().collect(),
        (Value::Array(_), false) | (_, true) => {
            wrong.push(format!("{path} must {}be an array", if *array { "" } else { "not " }));
            return;
        }
        (one, false) => vec![one],
    };
    for element in elements {
        let fits = match kind.as_str() {
            "keyword" | "match_only_text" => element.is_string(),
            "long" => element.is_i64(),
            "boolean" => element.is_boolean(),
            "ip" => element.as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()),
            "date" => element
                .as_str()
                .is_some_and(|date| date.ends_with('Z') && Timestamp::parse_rfc3339(date).is_some()),
            other => panic!("{path}: no check for type {other}"),
        };
        if !fits {
            wrong.push(format!("{path} is {element}, which is no {kind}"));
        }
    }
}
