//! What launcher, administrator and recorder say to each other: one message, one packet of a SOCK_SEQPACKET socket
//! (`docs/recorder.md`).
//!
//! 1. A header of 16 bytes, little-endian: `BLY1`, version, kind, length of the body, serial number. Then the body, JSON.
//! 2. A packet whose header, length or JSON is wrong is an error of the sender and never of the reader's memory: [`decode`]
//!    looks at the length before it reads the body, and the body's size is limited.
//! 3. Members that a reader does not know are ignored; a kind that it does not know is answered with `Refused`. So N and
//!    N-1 understand each other, and what needs more asks for a version in [`Hello`].
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::record::{Record, StopBy, StopOrder};
use crate::failure::{Code, Failure, Fault};

/// The newest version that this build speaks.
pub const NEWEST: u16 = 1;
/// The oldest. (Version 1 is the first, so there is none before it yet.)
pub const OLDEST: u16 = 1;
/// Bytes of the header.
pub const HEADER: usize = 16;
/// The largest body. The default socket buffer (212 992 bytes) takes a packet of this size.
pub const MAX_BODY: usize = 128 * 1024;
/// The most members and elements of a body, counted by their commas. A `{}` in a list takes three bytes here and hundreds in
/// memory.
pub const MAX_COMMAS: usize = 16 * 1024;
/// The largest packet.
pub const MAX_PACKET: usize = HEADER + MAX_BODY;

const MAGIC: [u8; 4] = *b"BLY1";

/// The first message of every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version that the sender speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// Name and version of the program, for diagnostics.
    pub program: String,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak from now on.
    pub version: u16,
    /// `chain.writer` of the log.
    pub writer: String,
    /// Why the node takes no new payloads, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// It answers [`Message::Health`]. (One that is older closes the connection at a kind that it does not know.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub health: bool,
    /// It takes [`Message::Frozen`]. (The same of one that is older.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early: bool,
}

/// A launch: the payload stands frozen. Descriptors in this order: pidfd of the payload, pidfd of init, then the namespace
/// files that `namespaces` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The launch id.
    pub id: String,
    /// The site let it make namespaces, and so payloads, of its own.
    #[serde(default)]
    pub nested: bool,
    /// Kinds of the namespace descriptors: `user`, `mnt`, `pid`… None, and no descriptors at all, where a [`Frozen`] of this id
    /// came before on this connection.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// The `payload-launch` record as the launcher would write it.
    pub record: Box<Record>,
}

/// A payload that stands frozen, before its record is made: the recorder looks at it meanwhile. Descriptors as those of a
/// [`Launch`], which follows within a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The launch id.
    pub id: String,
    /// As in [`Launch`].
    pub namespaces: Vec<String>,
}

/// A record of a launch that is live on this connection, or of one that never came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The launch id.
    pub id: String,
    /// `payload-end`, `launch-failed`, `payload-deny`, `payload-notice` or `payload-stop`.
    pub record: Box<Record>,
}

/// A launcher comes back after the recorder restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The launch id.
    pub id: String,
    /// `seq` of its receipt.
    pub seq: u64,
    /// `hash` of its receipt.
    pub hash: String,
}

/// A launch record is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The launch id.
    pub id: String,
    /// `chain.seq`.
    pub seq: u64,
    /// SHA-256 of the line, lowercase hex.
    pub hash: String,
}

/// No, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// bailey's exit code (120 to 125).
    pub code: u8,
    /// Whether the request would fail everywhere.
    pub users_fault: bool,
    /// What was tried.
    pub what: String,
    /// What the recorder found.
    pub why: String,
    /// What to do.
    pub next: String,
    /// The record that closes the launch is written already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// It is only now that there is no room: whoever asks again after so many milliseconds may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refused {
    /// A failure as a message.
    pub fn of(failure: &Failure) -> Self {
        Self {
            code: failure.code.exit_code(),
            users_fault: failure.fault == Fault::User,
            what: failure.what.clone(),
            why: failure.why.clone(),
            next: failure.next.clone(),
            closed: false,
            retry_after_ms: None,
        }
    }

    /// The message as a failure of the launch; a code that this build does not know counts as "no record".
    pub fn into_failure(self) -> Failure {
        let code = match self.code {
            120 => Code::Refused,
            121 => Code::ParallelLimit,
            125 => Code::Setup,
            _ => Code::RecordFailed,
        };
        let fault = if self.users_fault { Fault::User } else { Fault::Site };
        Failure::new(code, fault, self.what, self.why, self.next)
    }
}

/// Stop a running payload: from an administrator to the recorder, and from it to the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The launch id.
    pub id: String,
    /// What orders it. (From an administrator's program it is not taken: that one is an administrator.)
    #[serde(default)]
    pub by: StopBy,
    /// Why, for the user and the log.
    pub reason: String,
    /// Hold it instead of ending it.
    #[serde(default)]
    pub freeze: bool,
    /// Keep its private files, processes and sockets first.
    #[serde(default)]
    pub preserve: bool,
    /// Milliseconds between SIGTERM and SIGKILL; absent: what the site's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

impl Stop {
    /// As the log keeps it.
    pub fn order(&self) -> StopOrder {
        StopOrder {
            by: Some(self.by),
            reason: Some(self.reason.clone()),
            freeze: self.freeze.then_some(true),
            preserve: self.preserve.then_some(true),
            grace_ms: self.grace_ms,
        }
    }

    /// An order that the log kept; `None` when it does not say enough.
    pub fn standing(id: String, order: &StopOrder) -> Option<Self> {
        Some(Self {
            id,
            by: order.by?,
            reason: order.reason.clone()?,
            freeze: order.freeze.unwrap_or(false),
            preserve: order.preserve.unwrap_or(false),
            grace_ms: order.grace_ms,
        })
    }
}

/// What a launcher did about an order to stop its payload; it comes again after the recorder restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obeyed {
    /// The launch id.
    pub id: String,
    /// Every process of the payload is held now.
    #[serde(default)]
    pub held: bool,
    /// Seconds until the payload is gone at the latest; absent while it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
}

/// Set or clear the drain flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Why no more payloads are taken; `None` takes them again.
    pub reason: Option<String>,
}

/// A question that was put to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// As options of `bailey trace`.
    pub text: String,
    /// How many payloads the answer names.
    pub matches: u64,
}

/// Whose payload it was, as the VO answered to its job's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The launch id.
    pub id: String,
    /// The user.
    pub user: String,
    /// Who vouches for that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// One live payload, for `bailey ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRow {
    /// The launch id.
    pub id: String,
    /// The payload's pid.
    pub pid: i64,
    /// The pilot's uid.
    pub uid: u32,
    /// `@timestamp` of the launch record, RFC 3339.
    pub since: String,
    /// `user.id`.
    pub user: Option<String>,
    /// VO.
    pub vo: Option<String>,
    /// Job id.
    pub job: Option<String>,
    /// `running`, `stopping`, `frozen`, `disobeyed` (its launcher does not stop it), `without launcher`, `ended`.
    pub state: String,
}

/// A page of `bailey ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Some of them.
    pub rows: Vec<LiveRow>,
    /// The last page.
    pub last: bool,
}

/// `bailey ban` is about to change a list: the record of the change then names who it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanTold {
    /// The name of the list's file.
    pub list: String,
    /// SHA-256 of what the file will hold, lowercase hex.
    pub digest: String,
    /// Bans that will be in it and were not, in bailey's own format: the answer is whom of the live they mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bans: Option<String>,
}

/// It is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// In words, for a person; empty for a launcher.
    #[serde(default)]
    pub text: String,
}

/// Declares the kinds: number, name and body of each.
macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal $name:ident($body:ty),)*) => {
        /// One message.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Message {
            $($(#[$doc])* $name($body),)*
        }

        impl Message {
            const fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $number,)* }
            }

            /// The message's name, for diagnostics.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
                match self { $(Self::$name(body) => serde_json::to_writer(out, body),)* }
            }

            fn read(kind: u16, body: &[u8]) -> Result<Self, Malformed> {
                // Looked through once, and not string by string.
                let text = std::str::from_utf8(body).map_err(|error| Malformed::Body(error.to_string()));
                match kind {
                    $($number => serde_json::from_str(text?).map(Self::$name).map_err(|error| Malformed::Body(error.to_string())),)*
                    other => Err(Malformed::Kind(other)),
                }
            }
        }
    };
}

messages! {
    /// Anybody: here I am. With one descriptor, the launcher's own program, where it can be opened.
    1 Hello(Hello),
    /// Recorder: go on.
    2 Welcome(Welcome),
    /// Launcher: may it run?
    3 Launch(Launch),
    /// Recorder: it is on the disk.
    4 Receipt(Receipt),
    /// Recorder: no.
    5 Refused(Refused),
    /// Launcher: one more record.
    6 Note(Note),
    /// Launcher: it goes on.
    7 Resume(Resume),
    /// Recorder or launcher: done.
    8 Done(Done),
    /// Administrator to recorder, recorder to launcher: stop it.
    9 Stop(Stop),
    /// Administrator: what lives?
    10 Ps(Done),
    /// Recorder: this.
    11 Rows(Rows),
    /// Administrator: take no more, or take them again.
    12 Drain(Drain),
    /// Administrator: I asked the log.
    13 Query(Query),
    /// Launcher: the order is being carried out.
    14 Obeyed(Obeyed),
    /// Administrator: I change a list of bans. Answered with the live payloads that new bans mean.
    15 BanTold(BanTold),
    /// Administrator: the VO says whose it was.
    16 Identity(Identity),
    /// Launcher: would it run? Looked at as a launch is and answered with a receipt, of a record that says so; nothing is live.
    17 Health(Launch),
    /// Launcher: look at it, a launch of it follows. Not answered.
    18 Frozen(Frozen),
}

/// A packet that is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a header, or another length than the header says.
    #[error("its length is {0} bytes, which is not what its header says")]
    Length(usize),
    /// Not ours.
    #[error("it does not begin with BLY1")]
    Magic,
    /// A version that this build does not speak.
    #[error("it is of version {0}, and {OLDEST} to {NEWEST} are spoken here")]
    Version(u16),
    /// A kind of message that this build does not know.
    #[error("messages of kind {0} are not known here")]
    Kind(u16),
    /// The JSON is broken or lacks a member.
    #[error("its body cannot be read: {0}")]
    Body(String),
}

/// The packet of a message.
///
/// # Errors
/// A body longer than [`MAX_BODY`], as a failure of the record.
pub fn encode(version: u16, serial: u32, message: &Message) -> Result<Vec<u8>, Failure> {
    let mut out = vec![0; HEADER];
    let wrote = message.write(&mut out);
    let length = out.len() - HEADER;
    if wrote.is_err() || length > MAX_BODY {
        return Err(Failure::too_large(length, "bytes", MAX_BODY));
    }
    let commas = commas(out.get(HEADER..).unwrap_or_default());
    if commas > MAX_COMMAS {
        return Err(Failure::too_large(commas, "commas", MAX_COMMAS));
    }
    let header = [
        &MAGIC[..],
        &version.to_le_bytes(),
        &message.kind().to_le_bytes(),
        &(length as u32).to_le_bytes(),
        &serial.to_le_bytes(),
    ]
    .concat();
    if let Some(place) = out.get_mut(..HEADER) {
        place.copy_from_slice(&header);
    }
    Ok(out)
}

/// A message that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// The version that it says it is of.
    pub version: u16,
    /// The sender's number for it; an answer carries the same.
    pub serial: u32,
    /// The message.
    pub message: Message,
}

/// Reads a packet. The serial number is given back also with an error, as far as it could be read, for the answer.
pub fn decode(packet: &[u8]) -> Result<Packet, (u32, Malformed)> {
    let field = |at: usize| packet.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    let (Some(magic), Some([v0, v1, k0, k1]), Some(length), Some(serial)) =
        (field(0), field(4), field(8), field(12))
    else {
        return Err((0, Malformed::Length(packet.len())));
    };
    if magic != MAGIC {
        return Err((0, Malformed::Magic));
    }
    let (version, kind) = (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([k0, k1]));
    let (length, serial) = (u32::from_le_bytes(length) as usize, u32::from_le_bytes(serial));
    let body = packet.get(HEADER..).unwrap_or_default();
    if body.len() != length || length > MAX_BODY {
        return Err((serial, Malformed::Length(packet.len())));
    }
    if !(OLDEST..=NEWEST).contains(&version) && kind != 1 {
        return Err((serial, Malformed::Version(version)));
    }
    if commas(body) > MAX_COMMAS {
        return Err((serial, Malformed::Body(format!("it has more than {MAX_COMMAS} members"))));
    }
    let message = Message::read(kind, body).map_err(|malformed| (serial, malformed))?;
    Ok(Packet { version, serial, message })
}

fn commas(body: &[u8]) -> usize {
    body.iter().filter(|byte| **byte == b',').count()
}

/// The newest version that both speak.
pub fn common(hello: &Hello) -> Option<u16> {
    let newest = hello.newest.min(NEWEST);
    (newest >= hello.oldest.max(OLDEST)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::super::record::Action;
    use super::*;
    use crate::request::LaunchId;

    fn launch() -> Message {
        let id = LaunchId::from_parts(1, [2; 10]);
        Message::Launch(Launch {
            id: id.to_string(),
            nested: true,
            namespaces: vec!["user".into(), "pid".into()],
            record: Box::new(Record::new(Action::PayloadLaunch, id)),
        })
    }

    #[test]
    fn messages_read_back() {
        for message in [launch(), Message::Done(Done { text: "x".into() })] {
            let packet = encode(NEWEST, 7, &message).unwrap();
            assert_eq!(decode(&packet).unwrap(), Packet { version: NEWEST, serial: 7, message });
        }
    }

    #[test]
    fn anything_else_is_said() {
        let good = encode(NEWEST, 9, &launch()).unwrap();
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            decode(&bad).unwrap_err()
        };
        assert_eq!(with(0, b'X'), (0, Malformed::Magic));
        assert_eq!(with(4, 9), (9, Malformed::Version(9)));
        assert_eq!(with(6, 200), (9, Malformed::Kind(200)));
        assert_eq!(with(8, 1), (9, Malformed::Length(good.len())));
        assert!(matches!(with(HEADER, b'['), (9, Malformed::Body(_))));
    }

    #[test]
    fn versions_meet_at_the_newest_that_both_speak() {
        let hello = |oldest, newest| Hello { oldest, newest, program: String::new() };
        assert_eq!(common(&hello(NEWEST, NEWEST + 1)), Some(NEWEST), "a newer one speaks ours too");
        assert_eq!(common(&hello(OLDEST.saturating_sub(1), OLDEST)), Some(OLDEST), "an older one too");
        assert_eq!(common(&hello(NEWEST + 1, NEWEST + 2)), None);
        assert_eq!(common(&hello(0, 0)), None);
    }
}
