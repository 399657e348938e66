//! Where a VO tells more about a job: its page, and whom to ask (`[[vo]]`).
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use crate::audit::record::Record;
use crate::policy::settings::Vo;

/// What the configuration says of a record's VO.
pub fn of<'a>(record: &Record, vos: &'a [Vo]) -> Option<&'a Vo> {
    let named = record.grid.vo.as_deref()?;
    vos.iter().find(|vo| vo.name.eq_ignore_ascii_case(named))
}

/// The id by which the VO knows the job: its own id, else the pilot's.
pub fn job(record: &Record) -> Option<&str> {
    record.grid.job.id.as_deref().or(record.grid.pilot.id.as_deref())
}

/// Whether the record names a job and nobody whose it is.
pub fn is_nameless(record: &Record) -> bool {
    record.user.id.is_none() && job(record).is_some()
}

/// The job's page. Of an id every byte that could mean something else in an address is escaped (RFC 3986, 2.3).
pub fn page(vo: &Vo, job: &str) -> Option<String> {
    let mut escaped = String::new();
    for byte in job.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}"); // writing to a String never fails
        }
    }
    vo.job_page.as_ref().map(|page| page.replace("{job}", &escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_cannot_change_the_address() {
        let vo = Vo { job_page: Some("https://jobs.example.org/?id={job}&x".to_owned()), ..Vo::default() };
        assert_eq!(page(&vo, "a-1").unwrap(), "https://jobs.example.org/?id=a-1&x");
        assert_eq!(
            page(&vo, "1&x=\"\n/é").unwrap(),
            "https://jobs.example.org/?id=1%26x%3D%22%0A%2F%C3%A9&x"
        );
        assert_eq!(page(&Vo::default(), "1"), None);
    }
}
