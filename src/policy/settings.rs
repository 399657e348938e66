//! What the configuration says of policy, beside the tables themselves.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bans::Measure;
use super::rule::{Named, Parallel, Profile, Rule};

/// `[policy]`, `[image]`, `[bans]` and the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `policy.default`: what holds when no rule applies.
    pub default_deny: bool,
    /// `policy.parallel_*`: payloads at one time, where no rule says anything else.
    pub parallel: Parallel,
    /// `policy.groups_dir`: who is in which group, filled by the site.
    pub groups_dir: PathBuf,
    /// `[image]`
    pub image: ImageRules,
    /// `[bans]`
    pub bans: BanSettings,
}

/// `[image]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRules {
    /// Only these, when there are any.
    pub allow_digests: Vec<String>,
    /// Never these.
    pub deny_digests: Vec<String>,
    /// The oldest.
    pub max_age: Option<Duration>,
    /// What to do with older ones.
    pub old: Measures,
    /// Labels that an image must have, `name` or `name=value`.
    pub required_labels: Vec<String>,
    /// What to do with one that lacks a label.
    pub unlabelled: Measures,
    /// What to do with systems whose support has ended.
    pub end_of_life: Measures,
    /// The site's own table of systems, in place of the built-in one.
    pub end_of_life_table: Option<PathBuf>,
}

/// What is done about an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measures {
    /// Nothing but a word in the record.
    #[default]
    Flag,
    /// It runs with the profile `strict` and without network.
    Restrict,
    /// It does not run.
    Refuse,
}

/// `[bans]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanSettings {
    /// `dir`
    pub dir: PathBuf,
    /// `unreadable`: what holds for a list that cannot be read or understood.
    pub unreadable: OnTrouble,
    /// `missing`: and for one of `required` that is not there.
    pub missing: OnTrouble,
    /// `stale`: and for one that is older than `max_age`.
    pub stale: OnTrouble,
    /// `required`: names of files that must be there.
    pub required: Vec<String>,
    /// `max_age` of every list.
    pub max_age: Option<Duration>,
    /// `action`, where a ban names none.
    pub measure: Measure,
    /// `grace`, where a ban names none.
    pub grace: Duration,
    /// `poll`: how often the files are looked at while payloads run.
    pub poll: Duration,
    /// `settle`: how long a file must be quiet before a name that is gone from it is allowed again.
    pub settle: Duration,
}

/// What holds while a list is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTrouble {
    /// Nothing new runs on this node.
    Closed,
    /// Its last good version.
    LastGood,
    /// It is said in records and metrics.
    Warn,
}

/// One `[[person]]`: names of one human being.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The site's own id.
    pub id: String,
    /// The names.
    pub names: Vec<Named>,
}

/// One `[[trust]]`: an issuer, and for which VOs it may speak.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The issuer or CA.
    pub issuer: Named,
    /// The VOs.
    pub vo: Vec<String>,
}

/// One `[[vo]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vo {
    /// Its name.
    pub name: String,
    /// The page of a job, with `{job}` in it.
    pub job_page: Option<String>,
    /// Whom a security officer asks.
    pub security_contact: Option<String>,
    /// Whom a user asks.
    pub user_contact: Option<String>,
    /// The program that tells a job's user, with `{job}` among its arguments.
    pub resolver: Vec<String>,
}

/// The tables of the configuration, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tables {
    /// `[[rule]]`
    pub rules: Vec<Rule>,
    /// `[[person]]`
    pub persons: Vec<Person>,
    /// `[[trust]]`
    pub trusts: Vec<Trust>,
    /// `[[vo]]`
    pub vos: Vec<Vo>,
}

impl Settings {
    /// The defaults (`config/defaults.rs` has them in its table).
    pub fn defaults() -> Self {
        Self {
            default_deny: false,
            parallel: Parallel::default(),
            groups_dir: PathBuf::from("/etc/bailey/groups.d"),
            image: ImageRules::default(),
            bans: BanSettings {
                dir: PathBuf::from("/etc/bailey/bans.d"),
                unreadable: OnTrouble::Closed,
                missing: OnTrouble::Closed,
                stale: OnTrouble::Warn,
                required: Vec::new(),
                max_age: None,
                measure: Measure::Kill,
                grace: Duration::ZERO,
                poll: Duration::from_millis(500),
                settle: Duration::from_secs(5),
            },
        }
    }
}

impl Measures {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Restrict => "restrict",
            Self::Refuse => "refuse",
        }
    }

    /// The profile that goes with it.
    pub const fn profile(self) -> Profile {
        match self {
            Self::Restrict => Profile::Strict,
            Self::Flag | Self::Refuse => Profile::Default,
        }
    }
}

impl OnTrouble {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::LastGood => "last-good",
            Self::Warn => "warn",
        }
    }
}
