//! Ed25519 (RFC 8032) over places of the chain: who attests them, and how the text that is signed looks.
//!
//! 1. What is signed is text of fixed form that begins with what it is for, so a signature for one thing is none for
//!    another. It names the host, so a log passed off as another node's does not verify.
//! 2. The private key is a file of the writer's own account, mode 0600, made once and never replaced by itself: a key that is
//!    missing while the log has signatures is an error, not a reason for a new one.
//! 3. Files are PEM (RFC 8410: PKCS #8 and SubjectPublicKeyInfo), which `openssl pkey` reads.
#![forbid(unsafe_code)]

use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::chain::hex;
use crate::failure::Failure;

/// What a checkpoint signs: the host's id, the sequence number reached and the hash of that line (64 lowercase hex digits).
pub fn checkpoint_text(host_id: &str, seq: u64, hash: &str) -> String {
    format!("bailey-checkpoint-v1\n{host_id}\n{seq}\n{hash}\n")
}

/// What a `log-prune` signs: which lines go, and the hash of the last of them.
pub fn prune_text(host_id: &str, first_seq: u64, last_seq: u64, last_hash: &str) -> String {
    format!("bailey-prune-v1\n{host_id}\n{first_seq}\n{last_seq}\n{last_hash}\n")
}

/// The writer's key.
#[derive(Clone)]
pub struct Key(SigningKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.public().id())
    }
}

impl Key {
    /// A fresh key from the kernel's random source.
    pub fn make() -> Result<Self, Failure> {
        let mut seed = [0_u8; 32];
        crate::sys::process::random_bytes(&mut seed).map_err(|errno| {
            Failure::record(
                "cannot make a signing key",
                crate::failure::errno_text(errno),
                "the kernel's random source failed (getrandom)",
            )
        })?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// From PEM.
    pub fn from_pem(text: &str, path: &Path) -> Result<Self, Failure> {
        SigningKey::from_pkcs8_pem(text).map(Self).map_err(|error| {
            Failure::record(
                format!("cannot use the signing key {}", path.display()),
                error.to_string(),
                "put back the key that was there; a new one is made only where there is no log",
            )
        })
    }

    /// The private key as PEM.
    pub fn to_pem(&self) -> Result<String, Failure> {
        self.0.to_pkcs8_pem(LineEnding::LF).map(|text| text.to_string()).map_err(|error| {
            Failure::record("cannot write a signing key", error.to_string(), "report this as a defect")
        })
    }

    /// The signature as 128 lowercase hex digits.
    pub fn sign(&self, text: &str) -> String {
        bytes_to_hex(&self.0.sign(text.as_bytes()).to_bytes())
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

/// The half that a site collects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a PEM file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let what = || format!("cannot use the public key {}", path.display());
        let next = "name the key.pub that was collected from the node";
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(what(), crate::failure::io_text(&error), next))?;
        VerifyingKey::from_public_key_pem(&text)
            .map(Self)
            .map_err(|error| Failure::usage(what(), error.to_string(), next))
    }

    /// As PEM.
    pub fn to_pem(&self) -> Result<String, Failure> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|error| {
            Failure::record("cannot write the public key", error.to_string(), "report this as a defect")
        })
    }

    /// The first 16 hex digits of the SHA-256 of its 32 bytes: `grid.checkpoint.key`.
    pub fn id(&self) -> String {
        let mut id = hex(&Sha256::digest(self.0.as_bytes()).into());
        id.truncate(16);
        id
    }

    /// Whether `signature` (hex) is this key's over `text`. Weak keys and malleable signatures are refused (`verify_strict`).
    pub fn verifies(&self, text: &str, signature: &str) -> bool {
        let Some(bytes) = bytes_of(signature) else { return false };
        self.0.verify_strict(text.as_bytes(), &Signature::from_bytes(&bytes)).is_ok()
    }
}

fn bytes_to_hex(bytes: &[u8; 64]) -> String {
    let (left, right) = bytes.split_at(32);
    [left, right].iter().filter_map(|half| <[u8; 32]>::try_from(*half).ok()).map(|half| hex(&half)).collect()
}

fn bytes_of(text: &str) -> Option<[u8; 64]> {
    let mut out = [0; 64];
    let plain = text.len() == 128 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !plain {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_text_and_one_key() {
        let (key, other) = (Key::make().unwrap(), Key::make().unwrap());
        let text = checkpoint_text("host", 7, &"ab".repeat(32));
        let signature = key.sign(&text);
        assert_eq!(signature.len(), 128);
        assert!(key.public().verifies(&text, &signature));
        assert!(!other.public().verifies(&text, &signature));
        assert!(!key.public().verifies(&checkpoint_text("host", 8, &"ab".repeat(32)), &signature));
        assert!(!key.public().verifies(&text, &signature.replace(['0', '1'], "2")));
        for bad in ["", "zz", &signature[1..], &signature.to_uppercase()] {
            assert!(!key.public().verifies(&text, bad));
        }
    }

    #[test]
    fn keys_read_back_from_pem() {
        let key = Key::make().unwrap();
        let again = Key::from_pem(&key.to_pem().unwrap(), Path::new("key")).unwrap();
        assert_eq!(again.public(), key.public());
        let failure = Key::from_pem("nonsense", Path::new("/x/key")).unwrap_err();
        assert!(failure.what.contains("/x/key"), "{failure}");
        assert!(key.public().to_pem().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"));
    }
}
