//! `bailey trace` and `bailey verify`: which logs are meant, with which key, and the record that somebody asked.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;

use super::ask::Ask;
use super::resolve;
use super::verify::{Kept, KeyFrom, Options, Trust, verify_with};
use crate::audit::sign::PublicKey;
use crate::audit::wire::{Identity, Message, Query};
use crate::audit::{Timestamp, place};
use crate::config::{self, Config};
use crate::failure::{Failure, Printable, io_text};
use crate::trace::person::{self, Person};
use crate::trace::{self, Answer, Question, Resolved, Settings, Told, vo, when};

/// How long the recorder may take to note the question.
const NOTE: Duration = Duration::from_secs(2);
/// How many different jobs are asked for in one question.
const MOST_RESOLVED: usize = 16;
/// How often a person at a terminal is told how far it is.
const TELL: Duration = Duration::from_millis(200);

#[derive(Debug, Default, Args)]
pub(super) struct Trace {
    /// The moment: RFC 3339, "YYYY-MM-DD HH:MM[:SS]" in UTC, now, "2 hours ago"
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from", "to"])]
    at: Option<String>,
    /// Ran at some moment from this one on
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Ran at some moment up to this one
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Address of the host or of its site
    #[arg(long)]
    ip: Option<std::net::IpAddr>,
    /// Pid of the payload's first process, as the host saw it
    #[arg(long)]
    pid: Option<i64>,
    /// Its pid, as the payload saw it
    #[arg(long)]
    vpid: Option<i64>,
    /// Its cgroup's path or one below it, or the cgroup's id
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Any of the person's names, or a part of one
    #[arg(long)]
    user: Option<String>,
    /// The id of a person of the site's ([[person]]), or the one in records: any of the person's names
    #[arg(long, value_name = "ID")]
    person: Option<String>,
    /// Who vouches for the person: a token's or certificate's issuer
    #[arg(long)]
    issuer: Option<String>,
    /// Virtual organisation
    #[arg(long)]
    vo: Option<String>,
    /// The VO's job or task id, the pilot's id, or a batch job's
    #[arg(long)]
    job: Option<String>,
    /// The pilot's id or subject, or a batch job's id
    #[arg(long)]
    pilot: Option<String>,
    /// A part of the image's path, or one of its digests
    #[arg(long)]
    image: Option<String>,
    /// Launch id
    #[arg(long)]
    id: Option<String>,
    /// Also name the launches that were refused or failed
    #[arg(long)]
    denied: bool,
    /// Of payloads that only a job names, ask the VO's resolver whose they are, and store the answer
    #[arg(long)]
    resolve: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Verify the whole log and believe no index
    #[arg(long)]
    verify: bool,
    /// The node's public key, as it was collected
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A log's directory, or one with the logs of several hosts; without it this host's own log
    #[arg(long, value_name = "DIR", num_args = 1..)]
    log: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The node's public key, as it was collected
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere: verify what came since, and that nothing is missing
    #[arg(long, value_name = "FILE")]
    since_checkpoint: Option<PathBuf>,
    /// Answer in JSON, one line for each directory
    #[arg(long)]
    json: bool,
    /// The logs' directories; without one this host's own log
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

pub(super) fn trace(options: Trace) -> Result<(String, u8), Failure> {
    let now = Timestamp::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| when::parse(text, now)).transpose();
    let (from, to) = match moment(&options.at)? {
        Some(at) => (Some(at), Some(at)),
        None => (moment(&options.from)?, moment(&options.to)?),
    };
    let zone_assumed = [from, to].into_iter().flatten().any(|moment| moment.zone_assumed);
    let text = asked(&options, from.map(|moment| moment.time), to.map(|moment| moment.time));
    let mut question = Question {
        person: options.person.as_deref().map(Person::recorded),
        from: from.map(|moment| moment.time),
        to: to.map(|moment| moment.time),
        pid: options.pid,
        vpid: options.vpid,
        user: options.user,
        issuer: options.issuer,
        ip: options.ip,
        vo: options.vo,
        job: options.job,
        pilot: options.pilot,
        image: options.image,
        cgroup: options.cgroup,
        id: options.id,
        denied: options.denied,
    };
    question.check()?;
    let home = Home::new(&options.log)?;
    question.person = options.person.as_deref().map(|id| home.person(id));
    let waiting = Waiting::new();
    let settings = Settings {
        verify: options.verify,
        trust: home.trust(options.key.as_deref())?,
        progress: waiting.as_ref().map(Waiting::teller),
        ..Settings::default()
    };
    let mut answer = trace::ask(&home.logs, &question, &settings)?;
    if let Some(person) = question.person.as_ref().filter(|person| person.names.is_empty())
        && answer.is_empty()
    {
        home.check_recorded(&person.id, &settings)?;
    }
    let resolved = if options.resolve { home.resolve(&answer)? } else { Vec::new() };
    if resolved.iter().any(|resolved| resolved.stored) {
        answer = trace::ask(&home.logs, &question, &settings)?;
    }
    drop(waiting);
    if home.is_recorders {
        note(&home.config, text, answer.count() as u64);
    }
    let told = Told { zone_assumed, vos: &home.config.tables.vos, resolved: &resolved };
    let shown = if options.json { answer.json(&told) } else { answer.human(&told) };
    let unknown = resolved.iter().any(|resolved| resolved.user.is_none());
    let code = if unknown { 2 } else { u8::from(answer.is_empty()) };
    Ok((shown, code))
}

pub(super) fn verify(options: &Verify) -> Result<(String, u8), Failure> {
    let home = Home::new(&options.dirs)?;
    let trust = home.trust(options.key.as_deref())?;
    let since = options.since_checkpoint.as_deref().map(Kept::read).transpose()?;
    if since.is_some() && home.logs.len() > 1 {
        return Err(Failure::usage(
            "cannot compare a kept checkpoint",
            format!("{} logs are meant, and it is of one node", home.logs.len()),
            "name the directory of that node's log",
        ));
    }
    let mut text = String::new();
    let mut code = 0;
    for dir in &home.logs {
        let waiting = Waiting::new();
        let options_of = Options {
            trust: trust.clone(),
            since: since.clone(),
            progress: waiting.as_ref().map(Waiting::teller),
        };
        let report = verify_with(dir, &options_of)?;
        drop(waiting);
        code = code.max(report.exit_code());
        if options.json {
            text.push_str(&serde_json::to_string(&report).unwrap_or_default());
            text.push('\n');
        } else {
            text.push_str(&report.human(dir));
        }
    }
    Ok((text, code))
}

/// Which logs are meant.
pub(super) struct Home {
    pub(super) config: Config,
    pub(super) logs: Vec<PathBuf>,
    /// They are the log that this host's recorder writes.
    pub(super) is_recorders: bool,
}

impl Home {
    pub(super) fn new(named: &[PathBuf]) -> Result<Self, Failure> {
        let config = config::load(&config::Place::system());
        if named.is_empty() {
            let config = config?;
            let dir = default_log(&config)?;
            let is_recorders = dir == config.recorder.dir;
            return Ok(Self { logs: trace::logs_in(&dir)?, config, is_recorders });
        }
        let mut logs = Vec::new();
        for dir in named {
            logs.extend(trace::logs_in(dir)?);
        }
        // A log that is named can be read on a host whose own configuration is broken.
        let config = config.unwrap_or_default();
        let own = std::fs::canonicalize(&config.recorder.dir).ok();
        let is_recorders = own.is_some() && logs.iter().any(|log| std::fs::canonicalize(log).ok() == own);
        Ok(Self { config, logs, is_recorders })
    }

    /// Whom an id means.
    fn person(&self, id: &str) -> Person {
        let known = self.config.tables.persons.iter().find(|person| person.id == id);
        known.map_or_else(|| Person::recorded(id), Person::of)
    }

    /// A failure when neither the configuration nor a record knows the person.
    fn check_recorded(&self, id: &str, settings: &Settings<'_>) -> Result<(), Failure> {
        let anywhere = Question { person: Some(Person::recorded(id)), ..Question::default() };
        if !trace::ask(&self.logs, &anywhere, settings)?.is_empty() {
            return Ok(());
        }
        let near = person::near(id, self.config.tables.persons.iter().map(|person| person.id.as_str()));
        Err(Failure::usage(
            format!("cannot ask for the person {}", Printable(id)),
            "no [[person]] of this host's configuration has that id, and no record names it",
            if near.is_empty() {
                "see 'bailey config show', or ask with --user for one of the names".to_owned()
            } else {
                format!("did you mean {}?", near.join(", "))
            },
        ))
    }

    /// Asks the VOs' resolvers for the payloads of an answer that only a job names, and has the recorder store what they say.
    fn resolve(&self, answer: &Answer) -> Result<Vec<Resolved>, Failure> {
        let vos = &self.config.tables.vos;
        let mut asked: BTreeMap<(String, String), Result<resolve::Named, Failure>> = BTreeMap::new();
        let mut all = Vec::new();
        for payload in answer.logs.iter().flat_map(|log| &log.payloads) {
            let record = &payload.launch;
            let Some(vo) = vo::of(record, vos).filter(|vo| {
                !vo.resolver.is_empty() && payload.learned.is_empty() && vo::is_nameless(record)
            }) else {
                continue;
            };
            let (Some(id), Some(job)) = (record.event.id.clone(), vo::job(record)) else { continue };
            let key = (vo.name.clone(), job.to_owned());
            if asked.len() >= MOST_RESOLVED && !asked.contains_key(&key) {
                return Err(Failure::usage(
                    "cannot resolve all of these jobs",
                    format!("the answer names more than {MOST_RESOLVED} that nobody is known of"),
                    "narrow the question: add a time, a job or a launch id",
                ));
            }
            let told = asked.entry(key).or_insert_with(|| resolve::ask(&vo.resolver, job));
            let mut resolved = Resolved { id, ..Resolved::default() };
            match told {
                Ok(named) => {
                    resolved.user = Some(named.user.clone());
                    resolved.issuer.clone_from(&named.issuer);
                    resolved.groups.clone_from(&named.groups);
                    match self.store(&resolved) {
                        Ok(()) => resolved.stored = true,
                        Err(failure) => resolved.trouble = Some(failure.to_string()),
                    }
                }
                Err(failure) => resolved.trouble = Some(failure.to_string()),
            }
            all.push(resolved);
        }
        Ok(all)
    }

    /// Has the recorder write a name that was learned.
    fn store(&self, resolved: &Resolved) -> Result<(), Failure> {
        if !self.is_recorders {
            return Err(Failure::usage(
                "cannot store the name",
                "the log is not that of this host's recorder",
                "ask on the node itself, where its recorder runs",
            ));
        }
        let learned = Identity {
            id: resolved.id.clone(),
            user: resolved.user.clone().unwrap_or_default(),
            issuer: resolved.issuer.clone(),
            groups: resolved.groups.clone(),
        };
        let mut ask = Ask::connect_within(&self.config.audit.socket, NOTE)?;
        ask.ask(&Message::Identity(learned)).map(drop)
    }

    /// The key to check with: the one that is named, or the one beside the recorder's own key when its log is asked.
    fn trust(&self, named: Option<&Path>) -> Result<Trust, Failure> {
        if let Some(path) = named {
            return Ok(Trust(Some((PublicKey::read(path)?, KeyFrom::Named))));
        }
        let path = self.config.recorder.state.join("key.pub");
        // Without a key the answer says that no signature was checked.
        let key = PublicKey::read(&path).ok().filter(|_| self.is_recorders && self.logs.len() == 1);
        Ok(Trust(key.map(|key| (key, KeyFrom::Host))))
    }
}

/// The recorder's log where there is one that can be read, else this account's embedded log.
fn default_log(config: &Config) -> Result<PathBuf, Failure> {
    let recorders = &config.recorder.dir;
    if config.audit.recorder != config::Demand::Off && std::fs::read_dir(recorders).is_ok() {
        return Ok(recorders.clone());
    }
    let uid = nix::unistd::Uid::effective().as_raw();
    let id = crate::host::id()?;
    let own = place::place(&config.audit, uid, &|name| std::env::var_os(name), &id)?;
    // What HTCondor's starter started has written where the environment has no say.
    let account = place::place(&config.audit, uid, &|_| None, &id).ok();
    if let Some(account) = account.filter(|account| *account != own && account.is_dir()) {
        if let Err(error) = std::fs::read_dir(&own) {
            return Err(Failure::usage(
                format!("cannot read the log {}", own.display()),
                io_text(&error),
                format!("name the directory of a log: this account has one in {}", account.display()),
            ));
        }
        let path = account.to_string_lossy();
        let _ = writeln!(
            std::io::stderr(),
            "bailey-admin: this account has another log, which is not asked: name {} to ask it",
            Printable(&path)
        );
    }
    Ok(own)
}

/// Leaves a record of the question with the recorder. An answer is not withheld because nobody noted the question.
pub(super) fn note(config: &Config, text: String, matches: u64) {
    let told = Ask::connect_within(&config.audit.socket, NOTE)
        .and_then(|mut ask| ask.ask(&Message::Query(Query { text, matches })));
    if let Err(failure) = told {
        let _ = writeln!(std::io::stderr(), "bailey-admin: the question was not recorded: {failure}");
    }
}

/// The question as options, times as they were understood.
fn asked(options: &Trace, from: Option<Timestamp>, to: Option<Timestamp>) -> String {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let (at, from, to) =
        if options.at.is_some() { (time(from), None, None) } else { (None, time(from), time(to)) };
    let said = [
        ("--at", at),
        ("--from", from),
        ("--to", to),
        ("--ip", options.ip.map(|ip| ip.to_string())),
        ("--pid", number(options.pid)),
        ("--vpid", number(options.vpid)),
        ("--cgroup", options.cgroup.clone()),
        ("--user", options.user.clone()),
        ("--person", options.person.clone()),
        ("--issuer", options.issuer.clone()),
        ("--vo", options.vo.clone()),
        ("--job", options.job.clone()),
        ("--pilot", options.pilot.clone()),
        ("--image", options.image.clone()),
        ("--id", options.id.clone()),
        ("--denied", options.denied.then(String::new)),
        ("--resolve", options.resolve.then(String::new)),
    ];
    let words: Vec<String> = said
        .into_iter()
        .filter_map(|(name, value)| {
            value.map(|value| format!("{name} {}", Printable(&value)).trim_end().to_owned())
        })
        .collect();
    words.join(" ")
}

/// Tells a person at a terminal how far it is, on one line of stderr that is wiped at the end.
struct Waiting {
    teller: Box<dyn Fn(u64, u64) + Sync>,
}

impl Waiting {
    /// `None` when nobody looks.
    fn new() -> Option<Self> {
        std::io::stderr().is_terminal().then(|| {
            let begun = Instant::now();
            let last = Mutex::new(begun);
            let teller = move |done: u64, total: u64| {
                let Ok(mut last) = last.lock() else { return };
                if last.elapsed() < TELL {
                    return;
                }
                *last = Instant::now();
                let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
                let _ = write!(
                    std::io::stderr(),
                    "\r\x1b[Kverifying: {} of {} MB, {} MB/s",
                    done >> 20,
                    total >> 20,
                    (done >> 10) / millis
                );
            };
            Self { teller: Box::new(teller) }
        })
    }

    fn teller(&self) -> &(dyn Fn(u64, u64) + Sync) {
        &*self.teller
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}
