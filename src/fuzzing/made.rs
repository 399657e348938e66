//! Seeds that are made by this build's own code: packets, lines of a log, indexes, copies of tables.
#![forbid(unsafe_code)]

use crate::audit::Timestamp;
use crate::audit::chain::{self, Link};
use crate::audit::record::{Action, Record, StopBy};
use crate::audit::wire::{
    self, BanTold, Done, Drain, Hello, Launch, LiveRow, Message, NEWEST, Note, Obeyed, Query, Receipt,
    Refused, Resume, Rows, Stop, Welcome,
};
use crate::request::LaunchId;
use crate::sandbox::protocol;

/// A message of each kind.
pub fn messages() -> Vec<Message> {
    let id = LaunchId::from_parts(1_763_000_000_000, [3; 10]);
    let text = || "a \"quoted\" \\ text, ü, \u{1}".to_owned();
    let mut record = Record::new(Action::PayloadLaunch, id);
    record.user.id = Some(text());
    record.process.args = vec![text(), "--x".into()];
    record.process.pid = Some(-1);
    record.related.ip = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    record.grid.sandbox.insert("a".into(), "on".into());
    record.event.duration = Some(u64::MAX);
    let refused = Refused {
        code: 122,
        users_fault: true,
        what: text(),
        why: text(),
        next: text(),
        closed: true,
        retry_after_ms: Some(u64::MAX),
    };
    let row = LiveRow {
        id: id.to_string(),
        pid: i64::MAX,
        uid: u32::MAX,
        since: text(),
        user: Some(text()),
        vo: None,
        job: None,
        state: "running".into(),
    };
    vec![
        Message::Hello(Hello { oldest: 0, newest: u16::MAX, program: text() }),
        Message::Welcome(Welcome {
            version: 1,
            writer: text(),
            draining: Some(text()),
            health: false,
            early: false,
        }),
        Message::Launch(Launch {
            id: text(),
            nested: true,
            namespaces: vec![text()],
            record: Box::new(record.clone()),
        }),
        Message::Receipt(Receipt { id: text(), seq: u64::MAX, hash: text() }),
        Message::Refused(refused),
        Message::Note(Note { id: text(), record: Box::new(record) }),
        Message::Resume(Resume { id: text(), seq: 0, hash: text() }),
        Message::Done(Done { text: text() }),
        Message::Stop(Stop {
            id: text(),
            by: StopBy::Ban,
            reason: text(),
            freeze: true,
            preserve: true,
            grace_ms: Some(1),
        }),
        Message::Ps(Done::default()),
        Message::Rows(Rows { rows: vec![row], last: true }),
        Message::Drain(Drain { reason: None }),
        Message::Query(Query { text: text(), matches: 3 }),
        Message::Identity(wire::Identity {
            id: text(),
            user: text(),
            issuer: Some(text()),
            groups: vec![text()],
        }),
        Message::Obeyed(Obeyed { id: text(), held: true, within: Some(u64::MAX) }),
        Message::BanTold(BanTold { list: text(), digest: text(), bans: Some(text()) }),
        Message::Frozen(wire::Frozen { id: text(), namespaces: vec![text()] }),
    ]
}

/// The lines of a small log.
fn lines() -> Vec<Vec<u8>> {
    let (mut lines, mut last) = (Vec::new(), Link::START);
    for (number, action) in [
        Action::PayloadLaunch,
        Action::PayloadIdentity,
        Action::PayloadLaunch,
        Action::PayloadEnd,
        Action::PayloadDeny,
        Action::Checkpoint,
    ]
    .into_iter()
    .enumerate()
    {
        let id = LaunchId::from_parts(1_763_000_000_000, [number as u8 / 2; 10]);
        let mut record = Record::new(action, id);
        record.user.id = Some("/DC=org/CN=Zoë".to_owned());
        record.process.pid = Some(4711);
        record.grid.vo = Some("atlas".to_owned());
        let mut line = Vec::new();
        let at = Timestamp::new(1_763_000_000 + number as i64, 7);
        last = chain::append_line(&mut line, &record, at, &last, "seed").expect("a line");
        line.pop();
        lines.push(line);
    }
    lines
}

/// Target, name and bytes of each.
pub fn made() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut made = Vec::new();
    for (serial, message) in (1..).zip(messages()) {
        let packet = wire::encode(NEWEST, serial, &message).expect("a packet");
        made.push(("wire", message.name().to_owned(), packet));
        if let Message::Note(note) = &message {
            made.push(("line", "note".to_owned(), serde_json::to_vec(&note.record).expect("a record")));
        }
    }
    let lines = lines();
    made.push(("line", "log".to_owned(), lines.first().cloned().unwrap_or_default()));
    made.push(("segment", "log".to_owned(), [&b"atlas"[..], &lines.join(&b'\n')].join(&b'\n')));
    made.push(("index", "log".to_owned(), crate::trace::index::fuzz::seed(&lines)));
    let children = [
        protocol::Message::Namespaces,
        protocol::Message::Failed(protocol::Trouble {
            stage: protocol::Stage::Attach,
            index: 7,
            errno: crate::sys::Errno::ENOENT,
        }),
        protocol::Message::Ready(protocol::Ready {
            command: 2,
            securebits: 0xef,
            keyring: 122,
            vpid: 2,
            ..Default::default()
        }),
        protocol::Message::Ended(protocol::Ended { status: 0x8b, ..protocol::Ended::default() }),
    ];
    for (name, message) in ["namespaces", "failed", "ready", "ended"].into_iter().zip(children) {
        made.push(("child", name.to_owned(), message.encode().to_vec()));
    }
    let config = include_str!("../../fuzz/seeds/config/everything.toml");
    let list = include_str!("../../fuzz/seeds/bans/ours").trim_start_matches('o');
    made.push(("compiled", "site".to_owned(), crate::policy::store::fuzz::seed(config, list)));
    made
}
