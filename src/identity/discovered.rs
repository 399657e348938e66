//! Who it is where nobody said: what HTCondor's job ad and the environment of a pilot tell of the payload (`docs/identity.md`).
//!
//! 1. What somebody said stands. Discovery then adds ids, and the ad's name beside the one that was said. What the job's own user
//!    said, in the environment that HTCondor hands on, is not of that kind ([`claim`]).
//! 2. Of nested systems the innermost one knows the user. An ad is the payload's where HTCondor's starter is the parent, or where
//!    no other system is in between; otherwise it is the pilot's, and so is its name.
//! 3. A pilot's or robot's name never becomes the user's: it goes to `grid.pilot`, and bans on it hold.
//! 4. No certificate and no token is parsed here. Whoever verifies one (`bailey-identify`) adds an [`Other`] of higher
//!    assurance to [`Found::names`], found by [`super::inside`].
#![forbid(unsafe_code)]

use std::path::Path;

use super::environment::{self, System};
use super::job_ad::{self, JobAd};
use super::{Assurance, Identity, Other, Role, Source, wrapper};
use crate::config::{self, Discover};
use crate::failure::Failure;
use crate::host::{Caller, starter_is_parent};
use crate::policy::group::Group;
use crate::request::Request;

/// What was found.
#[derive(Debug, Default)]
struct Found {
    /// Names of the payload's user, the strongest first.
    names: Vec<Other>,
    /// The account at the access point or in the VO's DIRAC, where there is nothing better.
    account: Option<Other>,
    /// The pilot's names.
    pilot_names: Vec<Other>,
    /// Where the ids come from.
    source: Option<Source>,
    vo: Option<String>,
    job: Option<String>,
    task: Option<String>,
    pilot: Option<String>,
    batch: Vec<String>,
    remarks: Vec<String>,
    /// It is the pilot itself that is started.
    is_pilot: bool,
}

impl Found {
    /// What DIRAC's own description adds. Its owner is an account of the VO's DIRAC, as HTCondor's is one of an access point.
    fn add(&mut self, told: wrapper::Told) {
        if self.source == Some(Source::Dirac) {
            self.account = told.owner;
            self.batch.extend(told.reference.map(|id| format!("dirac:{id}")));
            self.remarks.extend(told.remarks);
        }
    }
}

/// The description of the job that this directory is made for.
fn of_wrapper(workdir: &Path, caller: &Caller) -> wrapper::Told {
    match (environment::job_of_directory(workdir), &caller.cwd) {
        (Some(job), _) if workdir.is_absolute() => wrapper::read(workdir, &job),
        (Some(job), Some(cwd)) => wrapper::read(&cwd.join(workdir), &job),
        _ => wrapper::Told::default(),
    }
}

/// Whether anything is looked for: a pilot that knows bailey says who it is, and what it does not say is not guessed from what
/// lies around; one that calls a container runtime cannot say it.
fn wanted(request: &Request, settings: &config::Identity) -> bool {
    !settings.discover.is_empty() && (request.container.is_some() || settings.discover_always)
}

/// Whether the document that `BAILEY_IDENTITY` names is the job's own: HTCondor hands the environment of a job's user to what it
/// calls as a container runtime. A site that wraps jobs in `bailey exec` says who it is itself, unless it has bailey look.
pub(super) fn is_document_the_jobs(request: &Request, settings: &config::Identity) -> bool {
    request.identity_file.is_none()
        && request.identity_env.is_some()
        && (request.container.is_some() || settings.discover_always)
        && starter_is_parent()
}

/// Keeps a name that the job's own user claims. It makes nobody that user, and bans on it hold.
pub(super) fn claim(identity: &mut Identity, claimed: Identity) {
    identity.remarks.push("BAILEY_IDENTITY is of the job's own making, and names nobody".to_owned());
    let Some(user) = claimed.user else { return };
    let known = Some(&user) == identity.user.as_ref() && claimed.issuer == identity.issuer;
    let named = |other: &Other| other.user == user && other.issuer == claimed.issuer;
    if !known && !identity.others.iter().any(named) {
        let Identity { issuer, groups, .. } = claimed;
        identity.others.push(Other { source: Source::File, user, issuer, groups, jti: None });
    }
}

/// Adds to what was said what can be found. `Err`: an ad is there and cannot be used.
pub(super) fn add(
    identity: &mut Identity,
    request: &Request,
    settings: &config::Identity,
    caller: &Caller,
) -> Result<(), Failure> {
    if wanted(request, settings) {
        let ad =
            if settings.discover.contains(&Discover::JobAd) { job_ad::read(request, caller)? } else { None };
        let workdir = request.container.as_ref().and_then(|container| container.workdir.as_deref());
        let around = environment::look(&|name| caller.var(name), workdir, &settings.discover);
        let told = match (workdir, around.system) {
            (Some(dir), Some(System::Dirac)) => of_wrapper(dir, caller),
            _ => wrapper::Told::default(),
        };
        let mut found = found(ad, around, &starter_is_parent);
        found.add(told);
        take(identity, found, settings);
    }
    keep_robots_out(identity, settings);
    Ok(())
}

/// Puts together what the ad and the environment say; `by_starter` is asked only where it matters.
fn found(ad: Option<JobAd>, around: environment::Around, by_starter: &dyn Fn() -> bool) -> Found {
    let mut around = around;
    if around.system.is_some() && by_starter() {
        // No such system starts anything here: the job's own user has set them, and they name no work of it.
        around = environment::Around { batch: around.batch, remarks: around.remarks, ..Default::default() };
        around.remarks.push("variables of another pilot system are of the job's own making".to_owned());
    }
    if (around.pilot.is_some() || !around.batch.is_empty()) && by_starter() {
        around
            .remarks
            .push("the ids of pilot and batch system are as the job's environment has them".to_owned());
    }
    let environment::Around { system, job, task, pilot, batch, remarks } = around;
    let mut found = Found { pilot, batch, remarks, ..Found::default() };
    match ad {
        Some(ad) if system.is_none() => {
            found.source = Some(Source::JobAd);
            found.names = ad.names;
            found.account = ad.account;
            found.pilot_names = ad.routed.into_iter().collect();
            found.vo = ad.vo;
            found.job = ad.id;
            found.remarks.extend(ad.remarks);
        }
        ad => {
            found.source = system.map(System::source);
            found.is_pilot = system == Some(System::Panda) && job.is_none();
            (found.job, found.task) = (job, task);
            if let Some(ad) = ad {
                found.pilot_names = ad.names.into_iter().chain(ad.routed).chain(ad.account).collect();
                found.vo = ad.vo; // a pilot runs the work of its own VO
                found.batch.extend(ad.id.map(|id| format!("htcondor:{id}")));
                found.remarks.extend(ad.remarks);
            }
        }
    }
    found
}

fn take(identity: &mut Identity, mut found: Found, settings: &config::Identity) {
    if found.names.iter().any(|name| is_robot(name, settings)) {
        // All names of an ad are those of one submitter.
        found.pilot_names.splice(0..0, found.names.drain(..).chain(found.account.take()));
        found.is_pilot = true;
    }
    let Found { names, account, pilot_names, source, vo, job, task, pilot, batch, remarks, is_pilot } = found;
    if identity.assurance == Assurance::Undeclared {
        let (user, account) = match account {
            Some(account) if settings.job_ad_user && names.is_empty() => (Some(account), None),
            account => (None, account),
        };
        let mut names = names.into_iter().chain(user);
        match names.next() {
            Some(first) => {
                identity.assurance = Assurance::Declared;
                identity.source = first.source;
                identity.user = Some(first.user);
                identity.issuer = first.issuer;
                identity.groups = first.groups;
                identity.jti = first.jti;
            }
            // Without a user it says where the ids come from.
            None => identity.source = source.unwrap_or(identity.source),
        }
        identity.others.extend(names.chain(account));
        identity.vo = identity.vo.take().or(vo);
    } else {
        // What was said stands; who the ad names is kept beside it.
        let is_same = |name: &Other| {
            let issuers = (&name.issuer, &identity.issuer);
            Some(&name.user) == identity.user.as_ref()
                && (issuers.0 == issuers.1 || issuers.0.is_none() || issuers.1.is_none())
        };
        identity.others = names.into_iter().filter(|name| !is_same(name)).collect();
    }
    if is_pilot && identity.assurance == Assurance::Undeclared && identity.role == Role::Payload {
        identity.role = Role::Pilot;
    }
    identity.job = identity.job.take().or(job);
    identity.task = identity.task.take().or(task);
    identity.pilot = identity.pilot.take().or(pilot);
    identity.pilot_names.extend(pilot_names);
    for id in batch {
        if !identity.batch.contains(&id) {
            identity.batch.push(id);
        }
    }
    identity.remarks.extend(remarks);
}

/// A name that the site knows as a pilot's, or whose primary group is one.
fn is_robot(name: &Other, settings: &config::Identity) -> bool {
    let keys = name.name().map(|name| name.keys()).unwrap_or_default();
    let primary = name.groups.first().and_then(|group| Group::parse(group).ok());
    settings.pilots.iter().any(|pilot| keys.contains(&pilot.key))
        || primary.is_some_and(|group| settings.pilot_groups.iter().any(|pattern| pattern.matches(&group)))
}

/// A robot is nobody's user, whoever said so.
fn keep_robots_out(identity: &mut Identity, settings: &config::Identity) {
    let Some(user) = identity.user.clone() else { return };
    let said = Other {
        source: identity.source,
        user,
        issuer: identity.issuer.clone(),
        groups: identity.groups.clone(),
        jti: identity.jti.clone(),
    };
    if !is_robot(&said, settings) {
        return;
    }
    identity.user = None;
    identity.issuer = None;
    identity.groups = Vec::new();
    identity.jti = None;
    identity.name = None;
    identity.assurance = Assurance::Undeclared;
    identity.pilot_names.insert(0, said);
    if identity.role == Role::Payload {
        identity.role = Role::Pilot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::name::Name;
    use crate::policy::rule::Named;

    fn name(user: &str, issuer: Option<&str>, groups: &[&str]) -> Other {
        Other {
            source: Source::JobAd,
            user: user.to_owned(),
            issuer: issuer.map(str::to_owned),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            jti: None,
        }
    }

    fn ad(names: &[Other]) -> JobAd {
        JobAd {
            names: names.to_vec(),
            routed: Some(name("factory", Some("https://iam.example/"), &[])),
            account: Some(name("zoe@ap.example", None, &[])),
            vo: Some("cms".to_owned()),
            id: Some("ap.example#1.0#1".to_owned()),
            remarks: Vec::new(),
        }
    }

    fn panda(job: Option<&str>) -> environment::Around {
        environment::Around {
            system: Some(System::Panda),
            job: job.map(str::to_owned),
            pilot: Some("gtag".to_owned()),
            batch: vec!["slurm:1".to_owned()],
            ..environment::Around::default()
        }
    }

    fn settings(change: impl FnOnce(&mut config::Identity)) -> config::Identity {
        let mut settings = Config::default().identity;
        change(&mut settings);
        settings
    }

    fn of(
        mut identity: Identity,
        (ad, around): (Option<JobAd>, environment::Around),
        by_starter: bool,
        settings: &config::Identity,
    ) -> Identity {
        take(&mut identity, found(ad, around, &|| by_starter), settings);
        keep_robots_out(&mut identity, settings);
        identity
    }

    fn users(others: &[Other]) -> Vec<&str> {
        others.iter().map(|other| other.user.as_str()).collect()
    }

    #[test]
    fn the_ad_of_the_payload_names_its_user() {
        let zoe =
            [name("5b1d", Some("https://iam.example/"), &["/cms"]), name("/CN=Zoe", None, &["/cms/Role=x"])];
        let here = || (Some(ad(&zoe)), environment::Around::default());
        let found = of(Identity::default(), here(), false, &settings(|_| {}));
        assert_eq!(
            (found.user.as_deref(), found.issuer.as_deref()),
            (Some("5b1d"), Some("https://iam.example/"))
        );
        assert_eq!((found.assurance, found.source), (Assurance::Declared, Source::JobAd));
        assert_eq!((found.vo.as_deref(), found.job.as_deref()), (Some("cms"), Some("ap.example#1.0#1")));
        assert_eq!(users(&found.others), ["/CN=Zoe", "zoe@ap.example"]);
        assert_eq!(users(&found.pilot_names), ["factory"], "what a compute element was sent by is no user");
        assert_eq!((found.role, found.groups), (Role::Payload, vec!["/cms".to_owned()]));

        // An account is a name of the access point's own, and a user only where the site says so.
        let here = || (Some(ad(&[])), environment::Around::default());
        let found = of(Identity::default(), here(), false, &settings(|_| {}));
        assert_eq!((found.user, found.assurance, found.source), (None, Assurance::Undeclared, Source::JobAd));
        assert_eq!(users(&found.others), ["zoe@ap.example"]);
        let found = of(Identity::default(), here(), false, &settings(|settings| settings.job_ad_user = true));
        assert_eq!(found.user.as_deref(), Some("zoe@ap.example"));
        assert_eq!((found.assurance, users(&found.others)), (Assurance::Declared, vec![]));
    }

    #[test]
    fn an_ad_around_another_system_is_the_pilots() {
        let pilot = [name("/CN=Pilot", None, &["/atlas"]), name("p@pool.example", None, &[])];
        let found = of(
            Identity::default(),
            (Some(ad(&pilot)), panda(Some("6123"))),
            false,
            &settings(|settings| settings.job_ad_user = true),
        );
        assert_eq!((found.user, found.assurance, found.source), (None, Assurance::Undeclared, Source::Panda));
        assert_eq!(users(&found.pilot_names), ["/CN=Pilot", "p@pool.example", "factory", "zoe@ap.example"]);
        assert_eq!((found.job.as_deref(), found.pilot.as_deref()), (Some("6123"), Some("gtag")));
        assert_eq!(found.batch, ["slurm:1", "htcondor:ap.example#1.0#1"]);
        assert_eq!((found.role, found.vo.as_deref(), found.others), (Role::Payload, Some("cms"), vec![]));

        // The pilot wraps itself before it has any work.
        let found = of(Identity::default(), (Some(ad(&pilot)), panda(None)), false, &settings(|_| {}));
        assert_eq!((found.role, found.user), (Role::Pilot, None));
    }

    #[test]
    fn what_the_starter_starts_is_the_job_whatever_its_environment_says() {
        let zoe = [name("/CN=Zoe", None, &["/cms"])];
        let found = of(Identity::default(), (Some(ad(&zoe)), panda(Some("1"))), true, &settings(|_| {}));
        assert_eq!(
            (found.user.as_deref(), found.job.as_deref()),
            (Some("/CN=Zoe"), Some("ap.example#1.0#1"))
        );
        assert_eq!((found.pilot, found.role), (None, Role::Payload));
        assert!(found.remarks.concat().contains("of the job's own making"));
    }

    #[test]
    fn a_robot_is_nobodys_user() {
        let robots = settings(|settings| {
            settings.pilots = ["/DC=org/CN=Robot", "https://iam.example/ 77"]
                .map(|text| Named { text: text.to_owned(), key: Name::parse(text).unwrap().key() })
                .to_vec();
        });
        for names in [
            vec![name("/DC=org/CN=Robot", None, &[])],
            vec![name("/DC=org/CN=Robot/CN=proxy", None, &[])],
            vec![name("77", Some("https://iam.example"), &[])],
            vec![name("/CN=A", None, &["/atlas/Role=pilot/Capability=NULL", "/atlas"])],
            vec![name("/CN=A", None, &["/cms/de/Role=Pilot"])],
            vec![name("/CN=Zoe", None, &["/atlas"]), name("77", Some("https://iam.example/"), &[])],
        ] {
            let found =
                of(Identity::default(), (Some(ad(&names)), environment::Around::default()), true, &robots);
            assert_eq!((found.user.as_deref(), found.assurance), (None, Assurance::Undeclared), "{names:?}");
            assert_eq!((found.role, &found.others[..]), (Role::Pilot, &[][..]));
            assert_eq!(users(&found.pilot_names).first(), Some(&names[0].user.as_str()));
        }
        // A role that is not the primary one, another issuer's subject, a longer DN.
        for names in [
            vec![name("/CN=A", None, &["/atlas", "/atlas/Role=pilot"])],
            vec![name("77", Some("https://other.example/"), &[])],
            vec![name("/DC=org/CN=Robot Friend", None, &[])],
        ] {
            let around = environment::Around::default();
            let found = of(Identity::default(), (Some(ad(&names)), around), true, &robots);
            assert_eq!(found.user.as_deref(), Some(names[0].user.as_str()));
        }
        // Nor when somebody says so; what is found beside it is no user either.
        let said = Identity {
            user: Some("/DC=org/CN=Robot".to_owned()),
            assurance: Assurance::Declared,
            source: Source::CommandLine,
            ..Identity::default()
        };
        let found = of(said, (None, environment::Around::default()), false, &robots);
        assert_eq!((found.user, found.assurance, found.role), (None, Assurance::Undeclared, Role::Pilot));
        assert_eq!(users(&found.pilot_names), ["/DC=org/CN=Robot"]);
    }

    #[test]
    fn what_was_said_stands() {
        let said = Identity {
            user: Some("/CN=Anna".to_owned()),
            vo: None,
            job: Some("7".to_owned()),
            assurance: Assurance::Declared,
            source: Source::File,
            ..Identity::default()
        };
        let names = [name("/CN=Anna", None, &["/cms"]), name("5b1d", None, &[])];
        let here = (Some(ad(&names)), environment::Around::default());
        let found = of(said, here, false, &settings(|_| {}));
        assert_eq!((found.user.as_deref(), found.source), (Some("/CN=Anna"), Source::File));
        assert_eq!((found.job.as_deref(), found.vo, found.groups), (Some("7"), None, vec![]));
        assert_eq!(users(&found.others), ["5b1d"]);
    }

    #[test]
    fn only_where_a_container_runtime_is_called_unless_the_site_wants_more() {
        let exec = Request::default();
        let container = Request { container: Some(Box::default()), ..Request::default() };
        assert!(!wanted(&exec, &settings(|_| {})) && wanted(&container, &settings(|_| {})));
        assert!(wanted(&exec, &settings(|settings| settings.discover_always = true)));
        assert!(!wanted(&container, &settings(|settings| settings.discover.clear())));
    }
}
