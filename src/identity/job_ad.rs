//! HTCondor's job ad: where it is, whether it can be used, and whom it names.
//!
//! 1. An ad that is named and not there says nothing: `_CONDOR_JOB_AD` is inherited into places without it, and set to `NONE` by
//!    wrappers. One that is there and cannot be used stops the launch: otherwise whoever spoils the own ad has no name any more.
//! 2. Only attributes that the access point sets and no user can (`SYSTEM_SECURE_JOB_ATTRS`, `SYSTEM_IMMUTABLE_JOB_ATTRS`) name
//!    anybody. The ad lies in the job's directory all the same, in a file of the job's account: what it says is declared.
//! 3. Nothing is made up: a value of the wrong form is refused where it is the name itself, and left out where it is not.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Other, Source, classad, inside, syntax};
use crate::failure::Failure;
use crate::host::Caller;
use crate::input::{self, Trouble};
use crate::request::Request;

/// The variable that the starter sets.
const VARIABLE: &str = "_CONDOR_JOB_AD";
/// The largest ad that is read. Ads have some tens of kilobytes; one with the environment and arguments of a large workflow a
/// few hundred.
const LIMIT: u64 = 4 << 20;

/// What an ad says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct JobAd {
    /// Who submitted it, the strongest name first.
    pub(super) names: Vec<Other>,
    /// Who submitted it to a compute element, which made another job of it.
    pub(super) routed: Option<Other>,
    /// The account at the access point, `zoe@ap.example.org`.
    pub(super) account: Option<Other>,
    /// VO.
    pub(super) vo: Option<String>,
    /// `GlobalJobId`
    pub(super) id: Option<String>,
    /// What was there and could not be taken.
    pub(super) remarks: Vec<String>,
}

/// The ad of the job in which this launch takes place.
pub(super) fn read(request: &Request, caller: &Caller) -> Result<Option<JobAd>, Failure> {
    let Some(path) = place(request, caller) else { return Ok(None) };
    let file = match input::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unusable(&path, &Trouble::from(error).to_string())),
    };
    let (metadata, bytes) =
        input::read_small(&file, LIMIT).map_err(|trouble| unusable(&path, &trouble.to_string()))?;
    let owner = metadata.uid();
    if owner != caller.uid && owner != 0 && !is_of_starter(&path, owner) {
        let why = format!(
            "it belongs to uid {owner}, not to this account ({}), to root or to the owner of the directory above the job's",
            caller.uid
        );
        return Err(unusable(&path, &why));
    }
    understand(&bytes).map(Some).map_err(|why| unusable(&path, &why))
}

/// Where HTCondor runs as root, the ad belongs to its own account, as the directory does in which the jobs' directories are
/// (EXECUTE): `EXECUTE/dir_N/.job.ad`, and one directory deeper where the job's own one is in a slot's.
fn is_of_starter(path: &Path, owner: u32) -> bool {
    let above = path.ancestors().skip(2).take(2);
    above.filter_map(|dir| std::fs::metadata(dir).ok()).any(|metadata| metadata.uid() == owner)
}

/// Where it is: the launcher's own environment names a place on the host. A variable for the inside names one there.
fn place(request: &Request, caller: &Caller) -> Option<PathBuf> {
    let named = |value: &OsStr| !value.is_empty() && value != "NONE";
    if let Some(path) = caller.var(VARIABLE).filter(|value| named(value)) {
        let path = Path::new(path);
        return match &caller.cwd {
            _ if path.is_absolute() => Some(path.to_owned()),
            Some(cwd) => Some(cwd.join(path)),
            None => None,
        };
    }
    let (_, value) = request.env.iter().rev().find(|(name, _)| name.as_str() == VARIABLE)?;
    inside::on_host(Path::new(value), request)
}

pub(super) fn unusable(path: &Path, why: &str) -> Failure {
    Failure::refused(
        "cannot tell whose payload this is",
        format!("the job ad {} cannot be used: {why}", path.display()),
        "say who it is (BAILEY_IDENTITY, --user), or unset _CONDOR_JOB_AD where it is not this job's; the site can leave \
         job ads aside (identity.discover)",
    )
}

/// The ad's text → whom it names.
fn understand(bytes: &[u8]) -> Result<JobAd, String> {
    let [subject, issuer, groups, jti, routed_subject, routed_issuer, dn, vo, first, fqans, account, id] =
        classad::strings(
            bytes,
            [
                "AuthTokenSubject",
                "AuthTokenIssuer",
                "AuthTokenGroups",
                "AuthTokenId",
                "orig_AuthTokenSubject",
                "orig_AuthTokenIssuer",
                "x509userproxysubject",
                "x509UserProxyVOName",
                "x509UserProxyFirstFQAN",
                "x509UserProxyFQAN",
                "User",
                "GlobalJobId",
            ],
        )
        .map_err(|wrong| wrong.to_string())?;
    let mut remarks = Vec::new();
    let mut plain = |name: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty())?;
        if syntax::is_plain(&value) {
            return Some(value);
        }
        remarks.push(format!("{name} of the job ad is no id, and left out"));
        None
    };
    let mut ad = JobAd {
        account: plain("User", account).map(|user| Other { source: Source::JobAd, user, ..Other::default() }),
        id: plain("GlobalJobId", id),
        ..JobAd::default()
    };
    let jti = plain("AuthTokenId", jti);
    ad.remarks = remarks;

    let wlcg = ad.groups("AuthTokenGroups", groups.as_deref().unwrap_or_default().split(','));
    let token = ad.token("AuthTokenSubject", subject, "AuthTokenIssuer", issuer, wlcg, jti)?;
    ad.routed = ad.token(
        "orig_AuthTokenSubject",
        routed_subject,
        "orig_AuthTokenIssuer",
        routed_issuer,
        vec![],
        None,
    )?;
    let certificate = match dn.filter(|dn| !dn.is_empty()) {
        Some(dn) => {
            check("x509userproxysubject", &dn)?;
            // The DN comes first in the list of FQANs; its primary one again in an attribute of its own.
            let list = fqans.as_deref().unwrap_or_default().split(',').skip(1).map(unescape);
            let listed: Vec<String> = first.into_iter().chain(list).collect();
            let groups = ad.groups("x509UserProxyFQAN", listed.iter().map(String::as_str));
            Some(Other { source: Source::JobAd, user: dn, issuer: None, groups, jti: None })
        }
        None => None,
    };
    ad.vo = vo.filter(|vo| syntax::is_vo(vo)).or_else(|| vo_of(token.as_ref()));
    // A token of a pool is its own administrator's word; a certificate's or an issuer's name is known beyond the pool.
    let (strong, weak) = match token {
        Some(token) if token.issuer.is_some() => (Some(token), None),
        token => (None, token),
    };
    ad.names = strong.into_iter().chain(certificate).chain(weak).collect();
    Ok(ad)
}

impl JobAd {
    fn token(
        &mut self,
        subject_is: &str,
        subject: Option<String>,
        issuer_is: &str,
        issuer: Option<String>,
        groups: Vec<String>,
        jti: Option<String>,
    ) -> Result<Option<Other>, String> {
        let Some(user) = subject.filter(|subject| !subject.is_empty()) else { return Ok(None) };
        check(subject_is, &user)?;
        // The issuer of a pool's own tokens (IDTOKENS) is its trust domain, which is part of their subjects.
        let issuer = issuer.filter(|issuer| {
            let fits = syntax::is_issuer(issuer);
            if !fits && issuer.contains("://") {
                self.remarks.push(format!("{issuer_is} of the job ad is no token issuer, and left out"));
            }
            fits
        });
        Ok(Some(Other { source: Source::JobAd, user, issuer, groups, jti }))
    }

    /// The groups, each once; what is none is counted.
    fn groups<'a>(&mut self, attribute: &str, said: impl Iterator<Item = &'a str>) -> Vec<String> {
        let mut groups: Vec<String> = Vec::new();
        let mut wrong = 0;
        for group in said.map(str::trim).filter(|group| !group.is_empty()) {
            if groups.iter().any(|known| known == group) {
                continue;
            }
            if syntax::is_group(group) && groups.len() < syntax::MOST_GROUPS {
                groups.push(group.to_owned());
            } else {
                wrong += 1;
            }
        }
        if wrong > 0 {
            self.remarks
                .push(format!("{wrong} entries of {attribute} of the job ad are no groups, and left out"));
        }
        groups
    }
}

/// A name that the ad gives must be one: another one would be somebody else.
fn check(attribute: &str, user: &str) -> Result<(), String> {
    syntax::user_fault(user).map_or(Ok(()), |why| Err(format!("{attribute}: {why}")))
}

/// The VO whose groups a token has, where they are all of one: the profile names the root group after it.
fn vo_of(token: Option<&Other>) -> Option<String> {
    let mut roots = token?.groups.iter().filter_map(|group| group.strip_prefix('/')?.split('/').next());
    let root = roots.next()?;
    (syntax::is_vo(root) && roots.all(|other| other == root)).then(|| root.to_owned())
}

/// Commas and ampersands as the list of FQANs has them.
fn unescape(text: &str) -> String {
    text.replace("&comma;", ",").replace("&amp;", "&")
}

/// For [`crate::fuzzing`]: whatever is understood can stand in a record, and what is not is told in one line.
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    match understand(bytes) {
        Ok(ad) => {
            let names = ad.names.iter().chain(&ad.routed).chain(&ad.account);
            let texts = names
                .flat_map(|name| {
                    [Some(&name.user), name.issuer.as_ref(), name.jti.as_ref()]
                        .into_iter()
                        .flatten()
                        .chain(&name.groups)
                })
                .chain([&ad.vo, &ad.id].into_iter().flatten());
            let mut any = false;
            for text in texts {
                any = true;
                assert!(!text.is_empty() && text.len() <= 1024 && text.trim() == text, "{text:?}");
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!crate::policy::name::looks_like_a_credential(text), "{text:?}");
            }
            ad.remarks.iter().for_each(|remark| crate::fuzzing::is_one_line(remark));
            any
        }
        Err(why) => {
            let why = unusable(Path::new("/x/.job.ad"), &why).to_string();
            crate::fuzzing::is_one_line(&why);
            assert!(!crate::policy::name::looks_like_a_credential(&why), "{why:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use crate::input::tests::Scratch;
    use crate::request::{Bind, EnvName};

    const AD: &str = "AuthTokenGroups = \"/cms,/cms/de\"\nAuthTokenId = \"j-1\"\n\
        AuthTokenIssuer = \"https://cms-auth.example/\"\nAuthTokenSubject = \"5b1d\"\n\
        GlobalJobId = \"ap.example#12.0#1700000000\"\nUser = \"zoe@ap.example\"\n\
        x509UserProxyFirstFQAN = \"/cms/Role=production/Capability=NULL\"\n\
        x509UserProxyFQAN = \"/DC=org/CN=Zoe&comma; A,/cms/Role=production/Capability=NULL,/cms/Role=NULL/Capability=NULL\"\n\
        x509UserProxyVOName = \"cms\"\nx509userproxysubject = \"/DC=org/CN=Zoe, A\"\n";

    fn caller(variable: Option<&Path>) -> Caller {
        Caller {
            uid: nix::unistd::geteuid().as_raw(),
            gid: 0,
            env: variable.map(|path| (VARIABLE.into(), path.into())).into_iter().collect(),
            cwd: Some("/".into()),
            lent: None,
        }
    }

    #[test]
    fn names_ids_and_groups() {
        let ad = understand(AD.as_bytes()).unwrap();
        let [token, certificate] = &ad.names[..] else { panic!("{ad:?}") };
        assert_eq!(
            (token.user.as_str(), token.issuer.as_deref()),
            ("5b1d", Some("https://cms-auth.example/"))
        );
        assert_eq!(
            (token.jti.as_deref(), &token.groups[..]),
            (Some("j-1"), &["/cms".to_owned(), "/cms/de".to_owned()][..])
        );
        assert_eq!((certificate.user.as_str(), &certificate.issuer), ("/DC=org/CN=Zoe, A", &None));
        assert_eq!(
            certificate.groups,
            ["/cms/Role=production/Capability=NULL", "/cms/Role=NULL/Capability=NULL"]
        );
        assert_eq!((ad.vo.as_deref(), ad.id.as_deref()), (Some("cms"), Some("ap.example#12.0#1700000000")));
        assert_eq!(ad.account.map(|account| account.user).as_deref(), Some("zoe@ap.example"));
        assert_eq!((ad.routed, ad.remarks), (None, vec![]));
    }

    #[test]
    fn a_pools_own_token_comes_last_and_a_routed_one_apart() {
        let ad = understand(
            b"AuthTokenIssuer = \"pool.example\"\nAuthTokenSubject = \"zoe@pool.example\"\n\
              orig_AuthTokenIssuer = \"https://atlas.example/\"\norig_AuthTokenSubject = \"robot\"\n\
              x509userproxysubject = \"/CN=Zoe\"\n",
        )
        .unwrap();
        let names: Vec<_> =
            ad.names.iter().map(|name| (name.user.as_str(), name.issuer.as_deref())).collect();
        assert_eq!(names, [("/CN=Zoe", None), ("zoe@pool.example", None)]);
        let routed = ad.routed.unwrap();
        assert_eq!(
            (routed.user.as_str(), routed.issuer.as_deref()),
            ("robot", Some("https://atlas.example/"))
        );
        assert_eq!(ad.remarks, Vec::<String>::new());
    }

    #[test]
    fn the_vo_of_a_token_is_its_groups_root() {
        let vo = |groups: &str| {
            let ad = format!("AuthTokenSubject = \"a\"\nAuthTokenGroups = \"{groups}\"\n");
            understand(ad.as_bytes()).unwrap().vo
        };
        assert_eq!(vo("/dune,/dune/prod").as_deref(), Some("dune"));
        assert_eq!(vo("/dune,/cms"), None);
        assert_eq!(vo(""), None);
        assert_eq!(vo("dune"), None, "no group of the profile's form");
    }

    #[test]
    fn a_wrong_name_stops_and_wrong_company_is_left_out() {
        for ad in [
            "AuthTokenSubject = \"a\nb\"",
            "AuthTokenSubject = \"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\"",
            "x509userproxysubject = \"/nothing\"",
            "x509userproxysubject = \"CN=Zoe,DC=org\"",
            "orig_AuthTokenSubject = \" a\"",
            "AuthTokenSubject = Owner",
            "AuthTokenSubject = \"a\"\nAuthTokenSubject = \"b\"",
        ] {
            let why = understand(ad.as_bytes()).unwrap_err();
            let why = unusable(Path::new("/x/.job.ad"), &why).to_string();
            assert!(!why.contains("eyJ") && !why.contains('\n'), "{why}");
        }
        let ad = understand(
            b"AuthTokenGroups = \"/cms,nonsense,/x y\"\nAuthTokenId = \"a\nb\"\nAuthTokenIssuer = \"http://x\"\n\
              AuthTokenSubject = \"a\"\nGlobalJobId = \" x\"\nUser = \"\"\nx509UserProxyVOName = \"c m s\"\n",
        )
        .unwrap();
        assert_eq!(ad.names.first().unwrap().groups, ["/cms"]);
        assert_eq!((ad.id, ad.account, ad.vo.as_deref()), (None, None, Some("cms")));
        assert_eq!(ad.remarks.len(), 4, "{:?}", ad.remarks);
    }

    #[test]
    fn what_is_not_there_says_nothing_and_what_is_spoilt_stops() {
        let scratch = Scratch::new();
        let request = Request::default();
        let ad = |path: &Path| read(&request, &caller(Some(path)));
        assert_eq!(read(&request, &caller(None)).unwrap(), None);
        for nothing in ["", "NONE", "/nonexistent/.job.ad", "/dev/null/.job.ad"] {
            assert_eq!(ad(Path::new(nothing)).unwrap(), None, "{nothing}");
        }
        assert!(ad(&scratch.write(".job.ad", AD)).unwrap().is_some());
        let why = |path: &Path| {
            let failure = ad(path).unwrap_err();
            assert_eq!(failure.code, Code::Refused);
            assert!(failure.why.contains(&*path.to_string_lossy()), "{failure}");
            failure.why
        };
        assert!(
            why(&scratch.write("broken", "Who = \"")).contains("line 1: it has a quote that is not closed")
        );
        assert!(why(&scratch.fifo("fifo")).contains("a FIFO"));
        assert!(why(&scratch.0).contains("a directory"));
        assert!(why(&scratch.write("large", vec![b'\n'; (4 << 20) + 1])).contains("larger than 4194304"));
        let other = |path: &Path| read(&request, &Caller { uid: 4_000_000, ..caller(Some(path)) });
        let foreign = scratch.write("foreign", AD);
        let owner = nix::unistd::geteuid();
        let theirs = is_of_starter(&foreign, owner.as_raw());
        if owner.is_root() {
            assert!(other(&foreign).unwrap().is_some(), "root's files are taken");
        } else if !theirs {
            assert!(other(&foreign).unwrap_err().why.contains("it belongs to uid"));
        }
        assert!(!is_of_starter(Path::new("/.job.ad"), 4_000_000));
        std::fs::create_dir_all(scratch.0.join("execute/dir_1/scratch")).unwrap();
        for starters in ["execute/dir_1/.job.ad", "execute/dir_1/scratch/.job.ad"] {
            assert!(other(&scratch.write(starters, AD)).unwrap().is_some(), "{starters}");
        }
    }

    #[test]
    fn a_variable_for_the_inside_is_looked_up_through_the_binds() {
        let scratch = Scratch::new();
        let decoy = scratch.write("decoy", AD.replace("5b1d", "decoy"));
        let ours = scratch.write("sub/.job.ad", AD);
        let mut request = Request {
            env: vec![(EnvName::new(VARIABLE).unwrap(), "/srv/.job.ad".into())],
            binds: vec![Bind {
                source: ours.parent().unwrap().into(),
                target: "/srv".into(),
                writable: true,
            }],
            ..Request::default()
        };
        let who = |request: &Request, caller: &Caller| {
            read(request, caller).unwrap().map(|ad| ad.names.first().unwrap().user.clone())
        };
        assert_eq!(who(&request, &caller(None)).as_deref(), Some("5b1d"));
        // The host's file of that very name is not meant.
        request.env = vec![(EnvName::new(VARIABLE).unwrap(), decoy.clone().into())];
        assert_eq!(who(&request, &caller(None)), None);
        // The launcher's own variable comes first.
        assert_eq!(who(&request, &caller(Some(&ours))).as_deref(), Some("5b1d"));
    }
}
