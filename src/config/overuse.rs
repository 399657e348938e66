//! `[[overuse]]`: the text of a rule → [`Rule`]. A rule of an id that is there already takes its place, others are added.
//!
//! One table is judged as a whole, because what a threshold means depends on the metric.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Deserialize;

use super::Config;
use super::values::{Read, Value, word};
use crate::overuse::{Bound, Metric, Milli, Rule, Step};
use crate::request::{parse_milli, parse_size};

type One<T> = Option<Read<T>>;

/// One `[[overuse]]`.
#[derive(Deserialize)]
#[serde(try_from = "Raw")]
pub(super) struct OveruseKeys(Rule);

impl OveruseKeys {
    /// Lays it over the rules that were there.
    pub(super) fn apply(self, rules: &mut Vec<Rule>) {
        match rules.iter_mut().find(|rule| rule.id == self.0.id) {
            Some(rule) => *rule = self.0,
            None => rules.push(self.0),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a table, written [[overuse]]")]
struct Raw {
    id: One<Id>,
    metric: One<Metric>,
    above: One<Amount>,
    below: One<Amount>,
    until: One<Amount>,
    r#for: One<Duration>,
    for_end: One<Duration>,
    min_cpu: One<Duration>,
    steps: Option<Vec<Read<Step>>>,
    every: One<Duration>,
    grace: One<Duration>,
}

impl TryFrom<Raw> for OveruseKeys {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Raw { id, metric, above, below, until, r#for, for_end, min_cpu, steps, every, grace } = raw;
        let id =
            id.map(|v| v.0.0).ok_or("an [[overuse]] needs an id, by which records and sentences name it")?;
        let wrong = |why: &str| format!("the rule '{id}' {why}");
        let metric = metric
            .map(|v| v.0)
            .ok_or_else(|| wrong("needs a metric: \"cpu\", \"memory\", \"processes\" or \"reading\""))?;
        let amount = |text: Read<Amount>| {
            amount(metric, &text.0.0).map_err(|why| wrong(&format!("has a wrong amount: {why}")))
        };
        let bound = match (metric, above, below) {
            (Metric::Reading, None, Some(text)) => Bound::Below(amount(text)?),
            (Metric::Reading, ..) => return Err(wrong("is about reading and needs 'below', and no 'above'")),
            (_, Some(text), None) => Bound::Above(amount(text)?),
            _ => return Err(wrong("needs 'above', and no 'below', which is for reading")),
        };
        let until = match until {
            Some(text) => amount(text)?,
            None => default_until(metric, bound),
        };
        let (Bound::Above(at) | Bound::Below(at)) = bound;
        if matches!(bound, Bound::Above(_)) && until > at || matches!(bound, Bound::Below(_)) && until < at {
            return Err(wrong(
                "would be armed again while it still holds: put 'until' on the other side of the threshold",
            ));
        }
        let over = r#for.map(|v| v.0).ok_or_else(|| wrong("needs 'for': how long it must last"))?;
        let over_end = for_end.map_or(over, |v| v.0);
        let every = every.map_or(over, |v| v.0);
        if over.is_zero() || over_end.is_zero() || every.is_zero() {
            return Err(wrong("has a time span of zero: 1s is the shortest"));
        }
        let min_cpu = match (metric, min_cpu) {
            (Metric::Reading, given) => given.map_or(over / 2, |v| v.0),
            (_, Some(_)) => return Err(wrong("has 'min_cpu', which is for reading")),
            (_, None) => Duration::ZERO,
        };
        let steps: Vec<Step> = match steps {
            Some(steps) => steps.into_iter().map(|v| v.0).collect(),
            None => vec![Step::Notice],
        };
        if steps.is_empty() {
            return Err(wrong("has no steps: to turn it off, name it in limits.overuse_off"));
        }
        if !steps.is_sorted_by(|a, b| a < b) {
            return Err(wrong(
                "has its steps in no order: each one once, \"notice\" before \"throttle\" before \"stop\"",
            ));
        }
        if metric == Metric::Reading && steps != [Step::Notice] {
            return Err(wrong(
                "is about reading and may only notice: simulations compute without reading, too",
            ));
        }
        let grace = grace.map(|v| v.0);
        if grace.is_some() && !steps.contains(&Step::Stop) {
            return Err(wrong("has 'grace', and no step \"stop\""));
        }
        Ok(Self(Rule { id, metric, bound, until, over, over_end, min_cpu, steps, every, grace }))
    }
}

/// Nine tenths of a threshold from above, ten ninths of one from below; whole, where parts mean nothing.
pub(super) fn default_until(metric: Metric, bound: Bound) -> Milli {
    let whole = match metric {
        Metric::Cpu | Metric::Memory => 1,
        Metric::Processes | Metric::Reading => 1000,
    };
    match bound {
        Bound::Above(Milli(at)) => Milli((at - at / 10) / whole * whole),
        Bound::Below(Milli(at)) => Milli(at.saturating_add(at / 9).div_ceil(whole).saturating_mul(whole)),
    }
}

/// An amount in the metric's unit.
fn amount(metric: Metric, text: &str) -> Result<Milli, String> {
    match metric {
        Metric::Cpu | Metric::Memory => {
            let milli = match text.strip_suffix('%') {
                Some(percent) => {
                    parse_milli(percent).filter(|milli| milli % 100 == 0).map(|milli| milli / 100)
                }
                None => parse_milli(text),
            };
            match milli {
                Some(1..) => milli.map(Milli).ok_or_else(String::new),
                _ => Err(format!(
                    "'{text}' is no part of what was asked for: write for example \"1.2\" or \"90%\""
                )),
            }
        }
        Metric::Processes | Metric::Reading => {
            let number = parse_size(text)?;
            number.checked_mul(1000).map(Milli).ok_or_else(|| format!("'{text}' is too large"))
        }
    }
}

/// The amount as text again.
pub(super) fn amount_text(metric: Metric, Milli(milli): Milli) -> String {
    match metric {
        Metric::Cpu | Metric::Memory => {
            let text = format!("{}.{:03}", milli / 1000, milli % 1000);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Metric::Processes | Metric::Reading => (milli / 1000).to_string(),
    }
}

/// A threshold, whose meaning the metric says.
struct Amount(String);

impl Value for Amount {
    const EXPECTED: &'static str = "an amount as text, such as \"1.2\", \"90%\", \"500\" or \"1K\"";
    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// The name of a rule.
pub(super) struct Id(pub(super) String);

impl Value for Id {
    const EXPECTED: &'static str = "a name as text";
    fn read(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
            return Err(format!(
                "'{text}' is no name of a rule: write at most 64 letters, digits, '.', '_' and '-'"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Value for Metric {
    const EXPECTED: &'static str = "\"cpu\", \"memory\", \"processes\" or \"reading\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Cpu, Self::Memory, Self::Processes, Self::Reading], Self::as_str)
    }
}

impl Value for Step {
    const EXPECTED: &'static str = "\"notice\", \"throttle\" or \"stop\"";
    fn read(text: &str) -> Result<Self, String> {
        word(text, &[Self::Notice, Self::Throttle, Self::Stop], Self::as_str)
    }
}

/// Names of rules that are none, in words, for `bailey config validate`.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let unknown = |id: &&String| config.overuse.iter().all(|rule| rule.id != **id);
    let mut warnings = Vec::new();
    for id in config.limits.overuse_off.iter().filter(unknown) {
        warnings.push(format!("limits.overuse_off names '{id}', and there is no such [[overuse]]"));
    }
    for rule in &config.tables.rules {
        for id in rule.overuse_exempt.iter().filter(unknown).filter(|id| *id != "all") {
            warnings
                .push(format!("rule '{}' exempts from '{id}', and there is no such [[overuse]]", rule.id));
        }
    }
    warnings
}
