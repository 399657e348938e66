//! For [`crate::fuzzing`]: files of groups, and copies of the tables, of any bytes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::compiled;
use super::groups::GroupFile;
use crate::audit::Timestamp;
use crate::config::{self, Config};
use crate::policy::bans::{self, Format};
use crate::policy::decide::decide;
use crate::policy::facts::{Counts, Facts, Who};
use crate::policy::index::{Memory, gather};
use crate::policy::lists::Lists;

const NOW: i64 = 1_790_000_000;
/// Of the copies that are made here.
const BUILD: &str = "fuzz";

/// A file of `groups.d/`.
pub(crate) fn groups(bytes: &[u8]) -> bool {
    let mut members = Vec::new();
    let until = Timestamp::new(NOW, 0);
    let read = GroupFile::parse(bytes).and_then(|file| {
        file.span()?;
        file.members(until, &mut members)
    });
    assert!(members.iter().all(|member| member.until == Some(until)));
    read.is_ok()
}

/// A copy of the tables whose checksums fit: whoever makes the file, or a memory that turns a bit before it is written, can
/// make that so. A launch that asks it gets an answer or an error, and neither fails nor hangs.
pub(crate) fn compiled(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    compiled::seal(&mut bytes);
    let mut file = File::from(memfd_create(c"copy", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
    file.write_all(&bytes).expect("a file in memory");
    let Some((meta, compiled)) = compiled::read(file, bytes.len() as u64, BUILD) else { return false };
    let now = Timestamp::new(NOW, 0);
    let who = |user: &str, issuer: Option<&str>| Facts {
        who: Who {
            user: Some(user.to_owned()),
            issuer: issuer.map(str::to_owned),
            vo: Some("atlas".to_owned()),
            groups: vec!["/atlas/prod/Role=production".to_owned(), "/cms".to_owned()],
            assurance: "declared".to_owned(),
            ..Who::default()
        },
        ..Facts::default()
    };
    for facts in [who("/DC=org/CN=Zoe", None), who("zoe", Some("https://iam.example.org/"))] {
        if let Ok(relevant) = gather(&facts, &compiled, now) {
            let counts = Some(Counts::default());
            let _ = decide(&facts, &relevant, &meta.lists, &meta.config.policy, counts, now);
        }
    }
    true
}

/// Bytes for [`compiled`] as this build writes them.
pub(crate) fn seed(config: &str, list: &str) -> Vec<u8> {
    let config =
        config::merge(&[("/x/bailey.toml".into(), config.as_bytes().to_vec())]).expect("a configuration");
    let bans = bans::parse(list.as_bytes(), Format::Ours).expect("a list").bans;
    let memory = Memory::new(&config.tables, bans.into_iter().map(|ban| ("x.toml".to_owned(), ban)), []);
    let config = Config { tables: crate::policy::settings::Tables::default(), ..config };
    let meta = compiled::Meta {
        build: BUILD.to_owned(),
        config,
        lists: Lists::default(),
        stamps: Vec::new(),
        until: None,
        trusts: !memory.pieces().collect::<Vec<_>>().is_empty(),
        systems: false,
    };
    compiled::encode(&meta, &memory).expect("a copy")
}
