//! What can be asked of a payload. The same code judges a record and what an index holds of it.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::person::Person;
use crate::audit::Timestamp;
use crate::audit::record::Record;
use crate::failure::Failure;

/// A part of the record that a question can name, and that the index holds of each launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The person's names.
    User,
    /// Who vouches for them.
    Issuer,
    /// Virtual organisation.
    Vo,
    /// Ids of the work.
    Job,
    /// Ids of the pilot.
    Pilot,
    /// The image and its digests.
    Image,
    /// Where the payload was.
    Cgroup,
    /// The node's addresses.
    Ip,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Issuer, Self::Vo, Self::Job, Self::Pilot, Self::Image, Self::Cgroup, Self::Ip];

    /// What a record says in this field.
    pub fn texts(self, record: &Record) -> Vec<String> {
        let grid = &record.grid;
        let identity = &grid.identity;
        let some = |texts: &[&Option<String>]| texts.iter().filter_map(|text| (*text).clone()).collect();
        match self {
            Self::User => [&record.user.id, &record.user.name, &identity.subject, &identity.person]
                .into_iter()
                .flatten()
                .chain(&record.related.user)
                .chain(identity.others.iter().filter_map(|other| other.subject.as_ref()))
                .cloned()
                .collect(),
            Self::Issuer => identity
                .issuer
                .iter()
                .chain(identity.others.iter().filter_map(|other| other.issuer.as_ref()))
                .cloned()
                .collect(),
            Self::Vo => some(&[&grid.vo]),
            Self::Job => {
                let mut texts: Vec<String> = some(&[&grid.job.id, &grid.job.task, &grid.pilot.id]);
                texts.extend(grid.pilot.batch_job_id.iter().cloned());
                texts
            }
            Self::Pilot => {
                let mut texts: Vec<String> = some(&[&grid.pilot.id, &grid.pilot.subject]);
                texts.extend(grid.pilot.names.iter().filter_map(|name| name.subject.clone()));
                texts.extend(grid.pilot.batch_job_id.iter().cloned());
                texts
            }
            Self::Image => {
                let mut texts: Vec<String> = some(&[&record.container.image.name]);
                texts.extend(record.container.image.hash.all.iter().cloned());
                texts
            }
            Self::Cgroup => some(&[&grid.cgroup.path, &grid.cgroup.id]),
            Self::Ip => [&record.host.ip, &record.related.ip, &grid.site.public_ip]
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// What is asked; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Ran at some moment from here…
    pub from: Option<Timestamp>,
    /// …to here. Both the same: at that moment.
    pub to: Option<Timestamp>,
    /// The payload's pid on the host.
    pub pid: Option<i64>,
    /// Its pid inside.
    pub vpid: Option<i64>,
    /// Part of any of the person's names; letters' case does not count.
    pub user: Option<String>,
    /// Any of this person's names.
    pub person: Option<Person>,
    /// Issuer of an identity.
    pub issuer: Option<String>,
    /// Address of the host or its site.
    pub ip: Option<IpAddr>,
    /// Virtual organisation.
    pub vo: Option<String>,
    /// Job or task id, pilot id or a batch job's id.
    pub job: Option<String>,
    /// Pilot's id or subject, or a batch job's id.
    pub pilot: Option<String>,
    /// Part of the image's path, or a digest.
    pub image: Option<String>,
    /// Path of the cgroup or of one below it, or its id.
    pub cgroup: Option<String>,
    /// Launch id.
    pub id: Option<String>,
    /// Refused and failed launches too.
    pub denied: bool,
}

impl Question {
    /// At one moment.
    pub fn at(time: Timestamp) -> Self {
        Self { from: Some(time), to: Some(time), ..Self::default() }
    }

    /// Whether it is about a time.
    pub fn has_time(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        let Self { denied: _, .. } = self;
        *self == Self { denied: self.denied, ..Self::default() }
    }

    /// A failure when it cannot be answered.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_empty() {
            return Err(Failure::usage(
                "cannot ask the log",
                "nothing says which payload is meant",
                "name at least one of --at, --from, --pid, --user, --person, --ip, --vo, --job, --id and their like",
            ));
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from > to) {
            return Err(Failure::usage(
                "cannot ask the log",
                "--from is later than --to",
                "name the earlier moment with --from",
            ));
        }
        Ok(())
    }

    /// The fields that it names.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(|field| self.names(*field))
    }

    fn names(&self, field: Field) -> bool {
        match field {
            Field::User => self.user.is_some(),
            Field::Issuer => self.issuer.is_some(),
            Field::Vo => self.vo.is_some(),
            Field::Job => self.job.is_some(),
            Field::Pilot => self.pilot.is_some(),
            Field::Image => self.image.is_some(),
            Field::Cgroup => self.cgroup.is_some(),
            Field::Ip => self.ip.is_some(),
        }
    }

    /// Whether one field's texts are what is asked.
    pub fn fits(&self, field: Field, texts: &[&str]) -> bool {
        let exact = |wanted: &Option<String>| match wanted {
            Some(wanted) => texts.contains(&wanted.as_str()),
            None => true,
        };
        match field {
            Field::User => self.user.as_ref().is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                texts.iter().any(|text| text.to_lowercase().contains(&wanted))
            }),
            Field::Issuer => exact(&self.issuer),
            Field::Vo => exact(&self.vo),
            Field::Job => exact(&self.job),
            Field::Pilot => exact(&self.pilot),
            Field::Image => self
                .image
                .as_ref()
                .is_none_or(|wanted| texts.iter().any(|text| text.contains(wanted.as_str()))),
            Field::Cgroup => self
                .cgroup
                .as_ref()
                .is_none_or(|wanted| texts.iter().any(|text| is_below(wanted, text) || text == wanted)),
            Field::Ip => self.ip.is_none_or(|wanted| texts.contains(&wanted.to_string().as_str())),
        }
    }

    /// Whether the process ids are those that are asked.
    pub fn fits_pids(&self, pid: Option<i64>, vpid: Option<i64>) -> bool {
        self.pid.is_none_or(|wanted| pid == Some(wanted))
            && self.vpid.is_none_or(|wanted| vpid == Some(wanted))
    }

    /// Whether it asks for somebody.
    pub fn has_who(&self) -> bool {
        self.user.is_some() || self.person.is_some()
    }

    /// Whether a record that a name was learned in names whom it asks for.
    pub fn names_learned(&self, learned: &Record) -> bool {
        let texts = Field::User.texts(learned);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.fits(Field::User, &texts) && self.person.as_ref().is_none_or(|person| person.is_in(learned))
    }

    /// The same question without whom it asks for: a name that was learned later has answered that.
    #[must_use]
    pub fn without_who(&self) -> Self {
        Self { user: None, person: None, ..self.clone() }
    }

    /// Whether a record is meant, its time apart.
    pub fn meets(&self, record: &Record) -> bool {
        self.person.as_ref().is_none_or(|person| person.is_in(record))
            && self.fits_pids(record.process.pid, record.process.vpid)
            && self.id.as_ref().is_none_or(|id| record.event.id.as_ref() == Some(id))
            && self.fields().all(|field| {
                let texts = field.texts(record);
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                self.fits(field, &texts)
            })
    }

    /// Whether a span of time touches what is asked; without an end it lasts.
    pub fn touches(&self, begin: Timestamp, end: Option<Timestamp>) -> bool {
        self.to.is_none_or(|to| begin <= to) && self.from.is_none_or(|from| end.is_none_or(|end| from <= end))
    }
}

/// Whether cgroup `wanted`, as a person writes it, is `path` or below it. A payload that is the root's is nobody's parent here.
fn is_below(wanted: &str, path: &str) -> bool {
    let wanted = wanted.strip_prefix("/sys/fs/cgroup").unwrap_or(wanted).trim_end_matches('/');
    let path = path.trim_end_matches('/');
    !path.is_empty() && wanted.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_by_itself_and_by_those_below() {
        let question = |wanted: &str| Question { cgroup: Some(wanted.into()), ..Question::default() };
        for wanted in ["/a/b", "/a/b/", "/a/b/c", "/sys/fs/cgroup/a/b/c", "77"] {
            assert!(question(wanted).fits(Field::Cgroup, &["/a/b", "77"]), "{wanted}");
        }
        for wanted in ["/a", "/a/bc", "b", "/", "", "7"] {
            assert!(!question(wanted).fits(Field::Cgroup, &["/a/b", "77"]), "{wanted}");
        }
        assert!(!question("/x").fits(Field::Cgroup, &["/"]));
    }

    #[test]
    fn spans_touch_at_their_ends() {
        let time = |secs| Timestamp::new(secs, 0);
        let asked = Question { from: Some(time(10)), to: Some(time(20)), ..Question::default() };
        for (begin, end, expected) in [
            (0, Some(9), false),
            (0, Some(10), true),
            (20, Some(30), true),
            (21, None, false),
            (0, None, true),
        ] {
            assert_eq!(asked.touches(time(begin), end.map(time)), expected, "{begin} {end:?}");
        }
        assert!(Question::default().is_empty() && !asked.is_empty());
        assert!(Question { denied: true, ..Question::default() }.is_empty());
    }
}
