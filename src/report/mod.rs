//! What the launcher says about a launch: the audit records, the status file, and the words for the user.
//!
//! The [`Desk`] is the only place that writes to the log. It decides nothing; the pipeline tells it what happened.
#![forbid(unsafe_code)]

mod records;
mod status;

pub use records::{Frozen, handed_over_hash, start_time};
pub use status::{Payload, Status};

use crate::audit::journal;
use crate::audit::log::{Durability, EmbeddedLog, LiveSlot, LogOptions};
use crate::audit::record::Record;
use crate::audit::time::Timestamp;
use crate::audit::{Receipt, place};
use crate::config::Config;
use crate::failure::{Code, Failure, Fault, Printable};
use crate::host::{self, Caller};
use crate::identity::Identity;
use crate::plan::{Facts, HandedOver};
use crate::request::{LaunchId, Request};
use crate::supervisor::{End, Notice};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Everything that records of one launch have in common, and the log that they go to.
pub struct Desk<'a> {
    config: &'a Config,
    caller: &'a Caller,
    request: &'a Request,
    id: LaunchId,
    asked_at: Timestamp,
    identity: Option<Identity>,
    facts: Facts,
    log: Option<EmbeddedLog>,
    slot: Option<LiveSlot>,
    base: Option<Record>,
    status_file_refused: bool,
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
            facts: Facts::default(),
            log: None,
            slot: None,
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

    /// What was decided, once that is known.
    pub fn learn_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// What the command line handed over.
    pub fn mounts(&self) -> &[HandedOver] {
        &self.facts.mounts
    }

    /// Where the embedded log is.
    pub fn log_dir(&self) -> Result<PathBuf, Failure> {
        let env = |name: &str| self.caller.var(name).map(ToOwned::to_owned);
        place::place(&self.config.audit, self.caller.uid, &env, &host::id()?)
    }

    /// Opens the log and makes what all records have in common. Meant for the time in which the child builds its root.
    pub fn open_log(&mut self) -> Result<(), Failure> {
        if self.log.is_some() {
            return Ok(());
        }
        let node = host::node()?;
        let options = LogOptions {
            wait: self.config.audit.wait,
            network_filesystem: self.config.audit.network_filesystem,
            writer: format!("embedded-{}", self.caller.uid),
            host: node.clone(),
            clock: Timestamp::now,
        };
        self.log = Some(EmbeddedLog::open(&self.log_dir()?, options)?);
        self.base = Some(records::base(self, node));
        self.copy_own_to_journal(); // the ends of lost launches also when this one comes to nothing
        Ok(())
    }

    /// Makes the launch record durable and brings its receipt.
    pub fn record_launch(&mut self, frozen: &Frozen, payload: OwnedFd) -> Result<Receipt, Failure> {
        self.open_log()?;
        let record = records::launch(self, frozen);
        let Some(log) = &mut self.log else {
            return Err(no_log());
        };
        let (receipt, slot) = log.append_launch(&record, self.id, payload)?;
        self.slot = Some(slot);
        self.copy_to_journal(&record);
        Ok(receipt)
    }

    /// Writes the end record. It need not be synced: what a crash of the host loses, the next bailey closes.
    pub fn record_end(&mut self, frozen: &Frozen, end: &End, reason: &str) -> Result<(), Failure> {
        let record = records::end(self, frozen, end, reason);
        self.close(&record, Durability::Written)
    }

    /// Records that bailey is about to stop the payload. A log that fails now cannot be helped; the end record will say it.
    pub fn record_stop(&mut self, reason: &str) {
        let record = records::stop(self, reason);
        if let Some(log) = &mut self.log
            && log.append(&record, Durability::Written).is_ok()
        {
            self.copy_to_journal(&record);
        }
    }

    /// Records a launch that came to nothing, where the log can be reached: `payload-deny` or `launch-failed`. That this
    /// fails as well is not said: the user reads one line, the reason why nothing ran.
    pub fn record_failure(&mut self, failure: &Failure) {
        let owed = self.slot.is_some() || self.log.as_ref().is_some_and(EmbeddedLog::owes_an_end);
        // When the log itself failed there is nowhere to write it, unless a launch record is there that must be closed.
        if (failure.code == Code::RecordFailed && !owed) || self.open_log().is_err() {
            return;
        }
        let record = records::failure(self, failure);
        let durability =
            if failure.code == Code::RecordFailed { Durability::Written } else { Durability::Synced };
        let _ = self.close(&record, durability);
    }

    fn close(&mut self, record: &Record, durability: Durability) -> Result<(), Failure> {
        let slot = self.slot.take();
        let Some(log) = &mut self.log else {
            return Err(no_log());
        };
        match slot {
            Some(slot) => log.append_end(record, slot, durability)?,
            None => log.append(record, durability)?,
        };
        self.copy_to_journal(record);
        Ok(())
    }

    /// What the log wrote by itself meanwhile comes first, as it does in the log.
    fn copy_to_journal(&mut self, record: &Record) {
        self.copy_own_to_journal();
        let Some(log) = &self.log else { return };
        journal::copy(self.config.audit.journald, record, log.last_line());
    }

    fn copy_own_to_journal(&mut self) {
        let Some(log) = &mut self.log else { return };
        journal::copy_own(self.config.audit.journald, &log.take_own_lines());
    }

    /// Says on stderr what is about to happen to the payload, and records it.
    pub fn notice(&mut self, notice: Notice) {
        let Notice::WallTime { limit, grace } = notice;
        let reason = format!(
            "the wall time of {} s is used up; the payload gets SIGTERM now and SIGKILL in {} s",
            limit.as_secs(),
            grace.as_secs()
        );
        say(&format!("launch {}: {reason}", self.id));
        self.record_stop(&reason);
    }

    /// Refuses a status file that could not be written later, before anything runs.
    pub fn check_status_file(&mut self) -> Result<(), Failure> {
        let Some(path) = &self.request.status_file else {
            return Ok(());
        };
        let checked =
            crate::plan::absolute(path, self.caller, "--status-file").and_then(|path| status::check(&path));
        self.status_file_refused = checked.is_err();
        checked
    }

    /// Writes the status file, if one was asked for.
    pub fn write_status(&self, status: &Status) {
        let Some(path) = &self.request.status_file else {
            return;
        };
        if self.status_file_refused {
            return; // that is the failure, and its one line is enough
        }
        let written = crate::plan::absolute(path, self.caller, "--status-file")
            .and_then(|path| status::write(&path, self.id, status));
        // Of a launch that came to nothing the reason is what the user must read, in one line.
        if let Err(failure) = written
            && status.payload.is_some()
        {
            say(&failure.to_string());
        }
    }
}

fn no_log() -> Failure {
    Failure::record("cannot write the audit record", "the log is not open", "report this as a defect")
}

/// One line on stderr, in one write, so that it stays whole among the lines of others. A closed stderr is no reason to fail.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("bailey: {}\n", Printable(text)).as_bytes());
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
