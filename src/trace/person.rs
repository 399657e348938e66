//! A person in a question: any of the names that the site ties together, or its id where a record has that.
//!
//! Names are compared as bans compare them ([`Name`]): both forms of a DN are one name, and a token's subject counts only with
//! its issuer where the site names one.
#![forbid(unsafe_code)]

use super::question::Field;
use crate::audit::record::Record;
use crate::policy::name::{Name, canonical_issuer};
use crate::policy::settings;

/// Whom `--person` means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// The site's id.
    pub id: String,
    /// The names, as the configuration has them; none where only records know the person.
    pub names: Vec<String>,
    keys: Vec<String>,
    tokens: Vec<(String, String)>,
}

impl Person {
    /// A person that only records know.
    pub fn recorded(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// A person of the configuration.
    pub fn of(person: &settings::Person) -> Self {
        let mut made = Self::recorded(&person.id);
        for named in &person.names {
            made.names.push(named.text.clone());
            made.keys.push(named.key.clone());
            if let Ok(Name::Token { issuer: Some(issuer), subject }) = Name::parse(&named.text) {
                made.tokens.push((canonical_issuer(&issuer), subject));
            }
        }
        made
    }

    /// Whether one of a record's names is the person's own, whoever vouches for it.
    pub fn fits(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| {
            *text == self.id
                || self.names.iter().any(|name| name == text)
                || Name::parse(text).is_ok_and(|name| self.keys.contains(&name.key()))
        })
    }

    /// The names that count only with their issuer: issuer and subject.
    pub fn tokens(&self) -> &[(String, String)] {
        &self.tokens
    }

    /// Whether a record's issuers hold this one, which is in canonical form.
    pub fn vouches(issuer: &str, issuers: &[&str]) -> bool {
        issuers.iter().any(|said| canonical_issuer(said) == issuer)
    }

    /// Whether a record is about the person.
    pub fn is_in(&self, record: &Record) -> bool {
        let (users, issuers) = (Field::User.texts(record), Field::Issuer.texts(record));
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let issuers: Vec<&str> = issuers.iter().map(String::as_str).collect();
        self.fits(&users)
            || self
                .tokens
                .iter()
                .any(|(issuer, subject)| users.contains(&subject.as_str()) && Self::vouches(issuer, &issuers))
    }
}

/// Ids that are written much like this one, the nearest first.
pub fn near<'a>(id: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = id.to_lowercase();
    let mut found: Vec<(usize, &str)> = known
        .map(|known| (crate::config::diagnose::distance(&wanted, &known.to_lowercase()), known))
        .filter(|(distance, known)| {
            *distance <= known.len().max(id.len()).div_ceil(3) || known.to_lowercase().contains(&wanted)
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(5).map(|(_, known)| known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Action;
    use crate::policy::rule::Named;
    use crate::request::LaunchId;

    fn alice() -> Person {
        let names = ["/DC=org/CN=Alice", "https://iam.example.org/ sub-1", "alice@example.org"];
        let names = names
            .iter()
            .map(|text| Named { text: (*text).to_owned(), key: Name::parse(text).unwrap().key() })
            .collect();
        Person::of(&settings::Person { id: "p-alice".to_owned(), names })
    }

    fn record(user: &str, issuer: Option<&str>) -> Record {
        let mut record = Record::new(Action::PayloadLaunch, LaunchId::from_parts(1, [2; 10]));
        record.user.id = Some(user.to_owned());
        record.grid.identity.issuer = issuer.map(str::to_owned);
        record
    }

    #[test]
    fn any_name_in_any_form_is_the_person() {
        for (user, issuer) in [
            ("/DC=org/CN=Alice", None),
            ("CN=Alice,DC=org", None),
            ("alice@example.org", None),
            ("sub-1", Some("https://IAM.example.org")),
            ("p-alice", None),
        ] {
            assert!(alice().is_in(&record(user, issuer)), "{user}");
        }
        for (user, issuer) in [
            ("/DC=org/CN=Alice B", None),
            ("sub-1", None),
            ("sub-1", Some("https://other.example.org")),
            ("sub-2", Some("https://iam.example.org")),
            ("", None),
        ] {
            assert!(!alice().is_in(&record(user, issuer)), "{user}");
        }
        let mut later = record("somebody", None);
        later.grid.identity.person = Some("p-alice".to_owned());
        assert!(alice().is_in(&later), "the record says so itself");
    }

    #[test]
    fn near_ids_are_named() {
        let known = ["p-alice", "p-bob", "mallory"];
        assert_eq!(near("p-alcie", known.into_iter()), ["p-alice"]);
        assert_eq!(near("bob", known.into_iter()), ["p-bob"]);
        assert!(near("zzzzzzzz", known.into_iter()).is_empty());
    }
}
