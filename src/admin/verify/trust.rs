//! Checkpoints and `log-prune` records: what they attest, and whether the right key says so.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::Break;
use crate::audit::chain::{Hash, from_hex};
use crate::audit::record::Record;
use crate::audit::sign::{PublicKey, checkpoint_text, prune_text};

/// Where a public key came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFrom {
    /// The caller named it.
    Named,
    /// It lies beside the log's own private key, so whoever owns the log could have put it there.
    Host,
}

/// The key to check signatures with; without one only their form is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(pub Option<(PublicKey, KeyFrom)>);

/// What is wrong with a record: the kind, and a sentence.
pub(super) type Fault = (Break, String);

/// What a checkpoint attests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// Sequence number of the line.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// Id of the key.
    pub key: String,
}

/// What a `log-prune` announces, its signature checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prune {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) last_hash: Hash,
    /// Segment and line of the record.
    pub(super) place: (String, u64),
}

impl Trust {
    /// The id of the key.
    pub fn id(&self) -> Option<String> {
        self.0.as_ref().map(|(key, _)| key.id())
    }

    /// Whether the caller named the key, so that everything must be signed with it.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.0, Some((_, KeyFrom::Named)))
    }

    /// What a checkpoint attests, or what is wrong with it. Whether the chain has that line is for the caller.
    pub fn checkpoint(&self, record: &Record) -> Result<Attested, (Break, String)> {
        let checkpoint = &record.grid.checkpoint;
        let (Some(seq), Some(text)) = (checkpoint.seq, checkpoint.hash.as_deref()) else {
            return Err((Break::WrongCheckpoint, "the checkpoint attests no line".to_owned()));
        };
        let Some(hash) = from_hex(text) else {
            return Err((Break::WrongCheckpoint, "the checkpoint attests what is no hash".to_owned()));
        };
        let signed = checkpoint_text(host_of(record), seq, text);
        let key =
            self.signature("checkpoint", &signed, checkpoint.signature.as_ref(), checkpoint.key.as_ref())?;
        Ok(Attested { seq, hash, key })
    }

    /// What a `log-prune` announces, or what is wrong with it.
    pub(super) fn prune(&self, record: &Record, place: (String, u64)) -> Result<Prune, Fault> {
        let pruned = &record.grid.pruned;
        let found = pruned.first_seq.zip(pruned.last_seq).zip(pruned.last_hash.as_deref());
        let Some(((first_seq, last_seq), text)) = found else {
            return Err((Break::WrongPrune, "the record of removed segments names no lines".to_owned()));
        };
        let Some(last_hash) = from_hex(text) else {
            return Err((Break::WrongPrune, "the record of removed segments names no hash".to_owned()));
        };
        let signed = prune_text(host_of(record), first_seq, last_seq, text);
        self.signature(
            "record of removed segments",
            &signed,
            pruned.signature.as_ref(),
            pruned.key.as_ref(),
        )?;
        Ok(Prune { first_seq, last_seq, last_hash, place })
    }

    /// The id of the key that signed.
    fn signature(
        &self,
        what: &str,
        text: &str,
        signature: Option<&String>,
        id: Option<&String>,
    ) -> Result<String, Fault> {
        let (Some(signature), Some(id)) = (signature, id) else {
            return Err((Break::BadSignature, format!("the {what} carries no signature")));
        };
        let form = signature.len() == 128 && signature.bytes().all(|b| b.is_ascii_hexdigit());
        match &self.0 {
            _ if !form => Err((Break::BadSignature, format!("the {what}'s signature is none"))),
            Some((key, _)) if key.id() != *id => Err((
                Break::WrongKey,
                format!("the {what} is signed with key {id}, and {} is the one to check with", key.id()),
            )),
            Some((key, _)) if !key.verifies(text, signature) => {
                Err((Break::BadSignature, format!("the {what}'s signature does not fit it")))
            }
            _ => Ok(id.clone()),
        }
    }
}

fn host_of(record: &Record) -> &str {
    record.host.id.as_deref().unwrap_or_default()
}
