//! What the launcher says about a launch: the audit records, the status file, and the words for the user.
//!
//! The [`Desk`] is the only place that writes to the log. It decides nothing; the pipeline tells it what happened.
#![forbid(unsafe_code)]

mod bans;
mod book;
mod look;
#[cfg(test)]
mod messages;
pub mod overuse;
mod records;
mod status;
pub mod voice;
pub mod words;

pub use look::look;
pub use records::{Frozen, start_time};
pub use status::{Payload, Status};

use crate::audit::client::Order;
use crate::audit::log::Durability;
use crate::audit::record::{self, Record};
use crate::audit::time::Timestamp;
use crate::audit::{CheckReceipt, Receipt, place};
use crate::config::{self, Config, Demand};
use crate::failure::{Code, Failure, Fault, Incident, Printable};
use crate::host::{self, Caller};
use crate::identity::Identity;
use crate::overuse::Step;
use crate::overuse::engine::Event;
use crate::plan::{Facts, HandedOver};
use crate::policy::facts;
use crate::policy::rule::Parallel;
use crate::policy::slots::{self, Slots};
use crate::policy::store::Policy;
use crate::policy::verdict::Verdict;
use crate::request::{LaunchId, Request};
use crate::sandbox::Handover;
use crate::supervisor::{End, Notice, Overseer};
use crate::uids;
use bans::Watch;
use book::Book;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Everything that records of one launch have in common, and the log that they go to.
pub struct Desk<'a> {
    config: &'a Config,
    caller: &'a Caller,
    request: &'a Request,
    id: LaunchId,
    asked_at: Timestamp,
    identity: Option<Identity>,
    policy: record::Policy,
    watch: Option<Watch<'a>>,
    parallel: Parallel,
    slots: Slots,
    person: Option<String>,
    names: Vec<String>,
    contact: Option<String>,
    facts: Facts,
    book: Option<Book>,
    base: Option<Record>,
    status_file_refused: bool,
}

/// What a check found of the log, with the walls as the launch record would have them.
#[derive(Debug)]
pub struct Checked {
    /// `grid.sandbox`
    pub sandbox: BTreeMap<String, String>,
    /// It is the launcher's own log.
    pub embedded: bool,
    /// The recorder takes no new payloads, and was not asked for a receipt.
    pub draining: Option<String>,
    /// The receipt, or why there is none although nothing is wrong.
    pub receipt: Result<Result<CheckReceipt, String>, Failure>,
}

impl<'a> Desk<'a> {
    /// A desk for one launch. Looks at nothing yet.
    pub fn new(config: &'a Config, caller: &'a Caller, request: &'a Request, id: LaunchId) -> Self {
        Self {
            config,
            caller,
            request,
            id,
            asked_at: Timestamp::now(),
            identity: None,
            policy: record::Policy::default(),
            watch: None,
            parallel: Parallel::default(),
            slots: Slots::default(),
            person: None,
            names: Vec::new(),
            contact: None,
            facts: Facts::default(),
            book: None,
            base: None,
            status_file_refused: false,
        }
    }

    /// The launch.
    pub const fn id(&self) -> LaunchId {
        self.id
    }

    /// Who it is, once that is known.
    pub fn learn_identity(&mut self, identity: &Identity) {
        self.identity = Some(identity.clone());
    }

    /// What the site's policy says of these facts, once that is known.
    pub fn learn_verdict(&mut self, verdict: &Verdict, facts: facts::Facts, policy: &'a Policy) {
        self.policy = records::policy(verdict, policy.lists());
        self.parallel = verdict.obligations.parallel;
        self.watch = Some(Watch::new(facts, policy));
        self.person.clone_from(&verdict.person);
        self.names.clone_from(&verdict.names);
        self.contact.clone_from(&verdict.contact);
    }

    /// The failure as its user reads it: with the id to ask about, and whom to ask.
    pub fn for_the_user(&self, failure: Failure) -> Failure {
        words::plain(failure).of_incident(self.id.as_str(), self.contact.as_deref())
    }

    /// A sentence with what its user names when asking about it.
    pub fn with_incident(&self, sentence: &str) -> String {
        format!("{sentence} ({})", Incident { id: self.id.to_string(), contact: self.contact.clone() })
    }

    /// Whom the user asks, in the VO.
    pub fn contact(&self) -> Option<String> {
        self.contact.clone()
    }

    /// What was decided, once that is known.
    pub fn learn_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Bytes of memory that the payload may use.
    pub const fn memory_limit(&self) -> Option<u64> {
        self.facts.limits.memory
    }

    /// What the command line handed over.
    pub fn mounts(&self) -> &[HandedOver] {
        &self.facts.mounts
    }

    /// Where the embedded log is.
    pub fn log_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(lent) = &self.caller.lent {
            return Ok(lent.log_dir.clone());
        }
        if self.caller.uid == 0 && self.config.root_caller.uids.is_some() {
            return Ok(uids::log_dir(self.config, 0));
        }
        let env = |name: &str| self.caller.var(name).map(ToOwned::to_owned);
        place::place(&self.config.audit, self.caller.uid, &env, &host::id()?)
    }

    /// Where the embedded log is, so that no payload gets at it. None where only a recorder will do and the account has no place:
    /// batch systems start jobs without HOME, and name services are not asked.
    pub fn own_log(&self) -> Result<Option<PathBuf>, Failure> {
        match self.log_dir() {
            Err(_) if self.config.audit.recorder == Demand::Required => Ok(None),
            found => found.map(Some),
        }
    }

    /// Opens the log and makes what all records have in common. Meant for the time in which the child builds its root.
    pub fn open_log(&mut self) -> Result<(), Failure> {
        if self.book.is_some() {
            return Ok(());
        }
        let node = host::node()?;
        let book = Book::open(&self.config.audit, self.caller.uid, &node, &|| self.log_dir())?;
        let mut base = records::base(self, node);
        base.grid.sandbox.insert("recorder".to_owned(), book.recorder_state().to_owned());
        self.base = Some(base);
        self.book = Some(book);
        self.record_ban_changes();
        Ok(())
    }

    /// Lists that this launcher was the first to see changed go into the log that it writes itself. (A recorder has its own eyes.)
    fn record_ban_changes(&mut self) {
        let (Some(book), Some(watch), Some(base)) = (&mut self.book, &self.watch, &self.base) else { return };
        if book.is_embedded() {
            for change in watch.changes() {
                book.note(&change.record(base.host.clone()), self.id);
            }
        }
    }

    /// The payload stands frozen: a recorder looks at it while the record is made.
    pub fn hand_over(&mut self, payload: BorrowedFd<'_>, handover: &Handover<'_>) {
        if let Some(book) = &mut self.book {
            book.hand_over(self.id, payload, handover);
        }
    }

    /// Makes the launch record durable and brings its receipt.
    pub fn record_launch(
        &mut self,
        frozen: &Frozen,
        payload: OwnedFd,
        handover: &Handover<'_>,
    ) -> Result<Receipt, Failure> {
        self.open_log()?;
        let record = records::launch(self, frozen);
        let (id, nested) = (self.id, self.request.nested);
        if self.book.as_ref().is_some_and(Book::is_embedded)
            && self.parallel != Parallel::default()
            && let Some(watch) = &self.watch
        {
            let dir = self.log_dir()?.join("slots");
            self.slots = slots::take(&dir, self.parallel, watch.facts(), self.person.as_deref())?;
        }
        self.book.as_mut().ok_or_else(no_log)?.launch(&record, id, nested, payload, handover)
    }

    /// Makes a record of a check durable, as the launch record would be made, and tells what that one would say of the sandbox.
    /// The receipt releases nothing.
    pub fn record_check(
        &mut self,
        frozen: &Frozen,
        payload: BorrowedFd<'_>,
        handover: &Handover<'_>,
    ) -> Result<Checked, Failure> {
        self.open_log()?;
        let record = records::launch(self, frozen);
        let book = self.book.as_mut().ok_or_else(no_log)?;
        let draining = book.draining().map(str::to_owned);
        let receipt = match &draining {
            Some(reason) => Ok(Err(reason.clone())),
            None => book.check(&record, self.id, payload, handover),
        };
        Ok(Checked { sandbox: record.grid.sandbox, embedded: book.is_embedded(), draining, receipt })
    }

    /// Which log it is, once that is known: `on: WRITER`, or `off` and why the embedded log is used.
    pub fn recorder_state(&self) -> Option<&str> {
        self.book.as_ref().map(Book::recorder_state)
    }

    /// Writes the end record. It need not be synced: what a crash of the host loses, the next bailey closes.
    pub fn record_end(&mut self, frozen: &Frozen, end: &End, reason: &str) -> Result<(), Failure> {
        let record = records::end(self, frozen, end, reason);
        self.book.as_mut().ok_or_else(no_log)?.close(&record, self.id, Durability::Written)
    }

    /// Records that bailey is about to stop the payload. A log that fails now cannot be helped; the end record will say it.
    pub fn record_stop(&mut self, reason: &str) {
        let record = records::stop(self, reason);
        if let Some(book) = &mut self.book {
            book.note(&record, self.id);
        }
    }

    /// Records what an administrator's order came to.
    fn record_notice(&mut self, reason: &str, preserved: Option<&record::Preserved>) {
        let record = records::notice(self, reason, preserved);
        if let Some(book) = &mut self.book {
            book.note(&record, self.id);
        }
    }

    /// Records the step of a rule on overuse.
    fn record_overuse(&mut self, reason: &str, event: &Event) {
        let mut record = match event.step {
            Step::Notice | Step::Throttle => records::notice(self, reason, None),
            Step::Stop => records::stop(self, reason),
        };
        record.grid.overuse = overuse::field(event);
        if let Some(book) = &mut self.book {
            book.note(&record, self.id);
        }
    }

    /// Records a launch that came to nothing, where the log can be reached: `payload-deny` or `launch-failed`. That this
    /// fails as well is not said: the user reads one line, the reason why nothing ran.
    pub fn record_failure(&mut self, failure: &Failure) {
        let owed = self.book.as_ref().is_some_and(Book::owes_an_end);
        // When the log itself failed there is nowhere to write it, unless a launch record is there that must be closed.
        // What the recorder refused, it has recorded itself.
        let told = self.book.as_ref().is_some_and(Book::has_refused);
        if !owed && (failure.code == Code::RecordFailed || told) || self.open_log().is_err() {
            return;
        }
        let mut record = records::failure(self, failure);
        if failure.is_too_large() {
            record.shorten();
            record.grid.unheeded.clear();
        }
        let durability =
            if failure.code == Code::RecordFailed { Durability::Written } else { Durability::Synced };
        if let Some(book) = &mut self.book {
            let _ = book.close(&record, self.id, durability);
        }
    }

    /// Nobody else looks at the ban lists: there is no recorder, or none that can be reached.
    fn is_alone(&self) -> bool {
        self.book.as_ref().is_none_or(|book| book.is_embedded() || book.descriptor().is_none())
    }

    /// Whether a launch record stands that must be closed.
    fn has_launch_record(&self) -> bool {
        self.book.as_ref().is_some_and(Book::is_launched)
    }

    /// Refuses a status file that could not be written later, before anything runs.
    pub fn check_status_file(&mut self) -> Result<(), Failure> {
        let Some(path) = &self.request.status_file else {
            return Ok(());
        };
        if self.lent_status_file().is_some() {
            return Ok(());
        }
        let checked = crate::plan::absolute(path, self.caller, "--status-file")
            .and_then(|path| status::check(&path, self.request.status_new));
        self.status_file_refused = checked.is_err();
        checked
    }

    /// The status file that root opened for this launch.
    fn lent_status_file(&self) -> Option<&std::fs::File> {
        self.caller.lent.as_ref()?.status_file.as_deref()
    }

    /// Writes the status file, if one was asked for.
    pub fn write_status(&self, status: &Status) {
        let Some(path) = &self.request.status_file else {
            return;
        };
        if self.status_file_refused {
            return; // that is the failure, and its one line is enough
        }
        let content = status::File::new(&self.id, status, &self.facts.unheeded);
        let written = match self.lent_status_file() {
            Some(file) => status::write_open(file, path, &content),
            None => crate::plan::absolute(path, self.caller, "--status-file")
                .and_then(|path| status::write(&path, &content, self.request.status_new)),
        };
        // Of a launch that came to nothing the reason is what the user must read, in one line.
        if let Err(failure) = written
            && status.payload.is_some()
        {
            say(&failure.to_string());
        }
    }
}

impl Overseer for Desk<'_> {
    /// Says on stderr what is about to happen to the payload, and records it.
    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::WallTime { limit, grace } => {
                let sentence = words::wall_time(*limit, *grace);
                say(&self.with_incident(&sentence));
                self.record_stop(&sentence);
            }
            Notice::Stopped { by, reason, grace } => {
                say(&self.with_incident(&words::stops(*by, reason, *grace)));
            }
            Notice::Frozen { by, reason, processes } => {
                let text = format!("the payload is held, {processes} processes of it: {reason}");
                say(&self.with_incident(&words::holds(*by, reason)));
                self.record_notice(&text, None);
            }
            Notice::Preserved(preserved) => {
                let mut preserved = preserved.clone();
                if self.config.audit.args == config::Args::Digest {
                    // The site does not want arguments in its log: pid, parent and state stay.
                    for line in &mut preserved.processes {
                        *line = line.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" ");
                    }
                }
                let text = match preserved.missing.len() {
                    0 => "private files, processes and sockets were kept".to_owned(),
                    count => {
                        format!("private files, processes and sockets were kept, but for {count} things")
                    }
                };
                self.record_notice(&text, Some(&preserved));
            }
            Notice::Overuse { event, grace, cannot } => {
                let reason = overuse::reason(event, *grace, *cannot);
                self.record_overuse(&reason, event);
                let sentence = overuse::sentence(&reason, self.contact.as_deref());
                say(&format!("launch {}: {sentence}", self.id));
            }
        }
    }

    fn obeyed(&mut self, held: bool, within: Option<std::time::Duration>) {
        let id = self.id;
        if let Some(book) = &mut self.book {
            book.obeyed(id, held, within);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.book.as_ref().and_then(Book::descriptor)
    }

    fn wake_at(&self) -> Option<std::time::Instant> {
        let bans = self.watch.as_ref().filter(|_| self.is_alone()).map(Watch::next);
        self.book.as_ref().and_then(Book::wake_at).into_iter().chain(bans).min()
    }

    fn orders(&mut self) -> Vec<Order> {
        let mut orders = self.book.as_mut().map(Book::orders).unwrap_or_default();
        let alone = self.is_alone();
        let id = self.id;
        if let Some(watch) = self.watch.as_mut().filter(|_| alone)
            && watch.look()
        {
            self.record_ban_changes();
            if self.policy.ban != record::Ban::default() {
                return orders; // it is being stopped for a ban, once
            }
            let Some((order, hit)) =
                self.watch.as_ref().and_then(|watch| watch.hit().map(|hit| (watch.order(id, &hit), hit)))
            else {
                return orders;
            };
            self.policy.ban = record::Ban::of(&hit);
            // The cause comes before the effect. Where the recorder is gone, the end says it.
            let record = records::banned(self, &order, &hit.place());
            if let Some(book) = &mut self.book {
                book.note(&record, id);
            }
            orders.push(Order::Stop(order));
        }
        orders
    }

    fn preserve_in(&self) -> Result<PathBuf, Failure> {
        if let Some(lent) = &self.caller.lent {
            return Ok(lent.log_dir.join("preserved").join(self.id.as_str()));
        }
        let env = |name: &str| self.caller.var(name).map(ToOwned::to_owned);
        Ok(place::preserved(self.caller.uid, &env)?.join(self.id.as_str()))
    }
}

fn no_log() -> Failure {
    Failure::record("cannot write the audit record", "the log is not open", "report this as a defect")
}

/// One line on stderr, in one write, so that it stays whole among the lines of others. A closed stderr is no reason to fail.
pub fn say(text: &str) {
    voice::tell(&format!("bailey: {}", Printable(text)));
}

/// Text for stdout, written at once. A closed stdout is no reason to fail.
pub fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Leaves standard input and output to the payload alone, which has been released: whoever reads its output must see the
/// end, and whoever writes to it the broken pipe, when the payload closes them. Standard error stays, for notices.
pub fn hand_over_streams() {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        // Whatever fails here costs nobody the payload; an end that comes late is the worst.
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

/// The fault in the words of the status file.
const fn fault(failure: &Failure) -> Fault {
    failure.fault
}
