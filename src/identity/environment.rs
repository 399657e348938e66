//! What the environment says of pilots and batch systems: ids, never a person. Which program sets which variable, and where that
//! is to be seen, stands in `docs/identity.md`. Pure.
//!
//! 1. Only variables are looked at that one of these programs was seen to set; names that merely look right say nothing.
//! 2. A value that no record should hold is left out with a remark. None of them decides whether somebody may run.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;

use super::{Source, syntax};
use crate::config::Discover;

/// A pilot's system that takes work on its own and hands it on: whose the work is, only that system knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// PanDA's pilot.
    Panda,
    /// DIRAC's.
    Dirac,
    /// ALICE's, `JAliEn`.
    Alice,
}

impl System {
    /// Where an id of it comes from, in the record.
    pub(super) const fn source(self) -> Source {
        match self {
            Self::Panda => Source::Panda,
            Self::Dirac => Source::Dirac,
            Self::Alice => Source::Alice,
        }
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// The pilot's system.
    pub(super) system: Option<System>,
    /// Its id of the work.
    pub(super) job: Option<String>,
    /// And of what the work is a part of.
    pub(super) task: Option<String>,
    /// The pilot's own id.
    pub(super) pilot: Option<String>,
    /// Ids of the batch systems around it.
    pub(super) batch: Vec<String>,
    /// What was there and could not be taken.
    pub(super) remarks: Vec<String>,
}

/// Looks at the variables. `workdir`: of `--workdir`, which DIRAC names after the job.
pub(super) fn look<'a>(
    var: &dyn Fn(&str) -> Option<&'a OsStr>,
    workdir: Option<&Path>,
    wanted: &[Discover],
) -> Around {
    let wants = |source| wanted.contains(&source);
    let mut around = Around::default();
    let one = |around: &mut Around, names: &[&str]| {
        names.iter().find_map(|name| {
            let value = var(name).filter(|value| !value.is_empty())?;
            let text = value.to_str().filter(|text| syntax::is_plain(text));
            if text.is_none() {
                around.remarks.push(format!("{name} is no id, and left out"));
            }
            text.map(ToOwned::to_owned)
        })
    };
    let has = |names: &[&str]| names.iter().any(|name| var(name).is_some_and(|value| !value.is_empty()));
    if wants(Discover::Panda) && has(&["PANDAID", "PandaID", "GTAG", "HARVESTER_WORKER_ID"]) {
        around.system = Some(System::Panda);
        around.job = one(&mut around, &["PANDAID", "PandaID"]);
        around.task = one(&mut around, &["PanDA_TaskID"]).filter(|task| task != "unknown");
        around.pilot = one(&mut around, &["GTAG"]).filter(|tag| tag != "unknown");
    } else if wants(Discover::Dirac) && has(&["DIRACSYSCONFIG", "DIRAC_PILOT_STAMP", "DIRACJOBID"]) {
        around.system = Some(System::Dirac);
        around.job =
            one(&mut around, &["DIRACJOBID", "JOBID"]).or_else(|| workdir.and_then(job_of_directory));
        around.pilot = one(&mut around, &["DIRAC_PILOT_STAMP", "PILOT_UUID"]);
    } else if wants(Discover::Alice) && has(&["ALIEN_PROC_ID", "ALIEN_JOBAGENT_ID"]) {
        around.system = Some(System::Alice);
        around.job = one(&mut around, &["ALIEN_PROC_ID"]);
        around.pilot = one(&mut around, &["ALIEN_JOBAGENT_ID"]);
    }
    if wants(Discover::Batch) {
        if around.pilot.is_none() {
            around.pilot = one(&mut around, &["GLIDEIN_UUID"]);
        }
        let worker = one(&mut around, &["HARVESTER_WORKER_ID"]);
        if let Some(worker) = worker {
            let id = one(&mut around, &["HARVESTER_ID"]).unwrap_or_default();
            around.batch.push(format!("harvester:{id}/{worker}"));
        }
        // SGE's JOB_ID is too common a name to mean anything alone.
        let sge: &[&str] = if has(&["SGE_TASK_ID"]) { &["JOB_ID"] } else { &[] };
        for (system, names) in [
            ("slurm", &["SLURM_JOB_ID", "SLURM_JOBID"][..]),
            ("pbs", &["PBS_JOBID"]),
            ("lsf", &["LSB_BATCH_JID", "LSB_JOBID"]),
            ("sge", sge),
            ("oar", &["OAR_JOBID"]),
            ("arc", &["GRID_GLOBAL_JOBURL"]),
            ("htcondor", &["HTCONDOR_JOBID", "CONDOR_JOBID"]),
        ] {
            if let Some(id) = one(&mut around, names) {
                around.batch.push(format!("{system}:{id}"));
            }
        }
    }
    around
}

/// DIRAC's container element makes `DIRAC_containers/jobNUMBER_RANDOM` for `--workdir`; 0 is the number of a job that it does
/// not know.
pub(super) fn job_of_directory(dir: &Path) -> Option<String> {
    let above = dir.parent()?.file_name()?;
    let name = dir.file_name()?.to_str()?;
    let (number, _) = name.strip_prefix("job")?.split_once('_')?;
    let fits = above == "DIRAC_containers"
        && (1..=20).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && number.bytes().any(|byte| byte != b'0');
    fits.then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    fn around_of(env: &[(&str, &str)], workdir: Option<&str>) -> Around {
        look(
            &|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsStr::new(*value)),
            workdir.map(Path::new),
            &Discover::ALL,
        )
    }

    #[allow(clippy::unnecessary_wraps)] // every field is an Option
    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn each_system_by_its_own_variables() {
        assert_eq!(around_of(&[("PATH", "/bin"), ("JOBID", "1"), ("JOB_ID", "2")], None), Around::default());

        let panda = around_of(
            &[
                ("PANDAID", "6123456789"),
                ("PanDA_TaskID", "34567890"),
                ("GTAG", "https://aipanda.example/condor/1.0.log"),
                ("HARVESTER_ID", "CERN_central_A"),
                ("HARVESTER_WORKER_ID", "77"),
                ("SLURM_JOB_ID", "12"),
            ],
            None,
        );
        assert_eq!(panda.system, Some(System::Panda));
        assert_eq!((panda.job, panda.task), (text("6123456789"), text("34567890")));
        assert_eq!(panda.pilot, text("https://aipanda.example/condor/1.0.log"));
        assert_eq!(panda.batch, ["harvester:CERN_central_A/77", "slurm:12"]);

        let dirac = around_of(
            &[("DIRACSYSCONFIG", "/tmp/pilot.cfg"), ("DIRAC_PILOT_STAMP", "ab12")],
            Some("/x/DIRAC_containers/job4711_ab_c"),
        );
        assert_eq!(dirac.system, Some(System::Dirac));
        assert_eq!((dirac.job, dirac.pilot), (text("4711"), text("ab12")));
        let inner = around_of(&[("DIRACJOBID", "5"), ("JOBID", "6")], None);
        assert_eq!(inner.job, text("5"));
        let inner = around_of(&[("DIRACSYSCONFIG", "/x"), ("JOBID", "6")], None);
        assert_eq!(inner.job, text("6"));

        let alice = around_of(&[("ALIEN_JOBAGENT_ID", "ja-1"), ("ALIEN_PROC_ID", "99")], None);
        assert_eq!((alice.system, alice.job, alice.pilot), (Some(System::Alice), text("99"), text("ja-1")));

        let glidein = around_of(&[("GLIDEIN_UUID", "u"), ("CONDOR_JOBID", "1.0")], None);
        assert_eq!((glidein.system, glidein.pilot), (None, text("u")));
        assert_eq!(glidein.batch, ["htcondor:1.0"]);
        assert_eq!(around_of(&[("SGE_TASK_ID", "undefined"), ("JOB_ID", "8")], None).batch, ["sge:8"]);
    }

    #[test]
    fn what_the_site_does_not_want_is_not_looked_for() {
        let env = [("PANDAID", "1"), ("DIRACJOBID", "2"), ("SLURM_JOB_ID", "3")];
        let var = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsStr::new(*value));
        assert_eq!(look(&var, None, &[]), Around::default());
        let around = look(&var, None, &[Discover::Dirac, Discover::Batch]);
        assert_eq!((around.system, around.job), (Some(System::Dirac), text("2")));
        assert_eq!(around.batch, ["slurm:3"]);
    }

    #[test]
    fn what_no_record_should_hold_is_left_out() {
        let long = "9".repeat(256);
        for value in ["", "a\nb", " 1", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", &long] {
            let around = around_of(&[("PANDAID", value), ("GTAG", "g")], None);
            assert_eq!(around.job, None, "{value:?}");
            assert_eq!(around.remarks.is_empty(), value.is_empty(), "{value:?}");
            assert!(!around.remarks.concat().contains("eyJ"));
        }
        let odd = OsString::from_vec(vec![0xff]);
        let around = look(&|name| (name == "SLURM_JOB_ID").then_some(odd.as_os_str()), None, &Discover::ALL);
        assert_eq!(around.batch, Vec::<String>::new());
        assert_eq!(around.remarks, ["SLURM_JOB_ID is no id, and left out"]);
    }

    #[test]
    fn only_directories_of_dirac_name_a_job() {
        let job = |dir: &str| job_of_directory(Path::new(dir));
        assert_eq!(job("DIRAC_containers/job12_x"), text("12"));
        for dir in [
            "/x/job12_x",
            "/DIRAC_containers/job12",
            "/DIRAC_containers/job_x",
            "/DIRAC_containers/job0_x",
            "/DIRAC_containers/job1a_x",
            "/DIRAC_containers/jobs12_x",
            "/DIRAC_containers/job12_x/tmp",
            "/DIRAC_containers/job123456789012345678901_x",
            "/",
        ] {
            assert_eq!(job(dir), None, "{dir}");
        }
    }
}
