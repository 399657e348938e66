//! Little-endian numbers, times and texts, written and read without ever trusting a length.
#![forbid(unsafe_code)]

use sha2::{Digest as _, Sha256};

use crate::audit::Timestamp;

/// Bytes of a checksum.
pub(super) const CHECK: usize = 16;

/// The first bytes of the SHA-256.
pub(super) fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    for (to, from) in check.iter_mut().zip(Sha256::digest(bytes)) {
        *to = from;
    }
    check
}

/// Appends values.
pub(super) trait Put {
    fn u8(&mut self, value: u8);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn i64(&mut self, value: i64);
    fn raw(&mut self, bytes: &[u8]);
    fn time(&mut self, time: Timestamp) {
        self.i64(time.secs());
        self.u32(time.nanos());
    }
    fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.raw(text.as_bytes());
    }
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Takes values from the front; `None` where there are not enough bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl<'a> Take<'a> {
    pub(super) fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
    pub(super) fn time(&mut self) -> Option<Timestamp> {
        let (secs, nanos) = (self.i64()?, self.u32()?);
        let time = Timestamp::new(secs, nanos);
        (time.secs() == secs && time.nanos() == nanos).then_some(time)
    }
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let count = self.u32()? as usize;
        std::str::from_utf8(self.raw(count)?).ok()
    }
}
