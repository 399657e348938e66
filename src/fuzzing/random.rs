//! The one generator of all tests, and changes of bytes that get past more of a parser than noise does.
#![forbid(unsafe_code)]

/// xorshift64* (Vigna 2016), from a fixed beginning, which MUST NOT be 0: a failure comes again.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    pub fn number(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// Pieces that parsers of all kinds stumble over.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775808",
    b"{}",
    b"[]",
    b"[[[[[[[[",
    b"\"\\ud800\"",
    b"\\u0000",
    b"\"id\":",
    b"\"record\":{",
    b"\"payload-launch\"",
    b",,",
    b"\xff\xfe",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\r\n",
    b"../",
    b"://",
    b"=",
    b"\xe2\x80\xae",
    b"99999999999999999999d",
];

/// One to five changes of `bytes`: bits, bytes, cuts, repetitions, words, and ends of `others`.
pub fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => {
                let end = at + random.below(bytes.len() - at + 1);
                drop(bytes.drain(at..end));
            }
            5 => {
                let end = at + random.below((bytes.len() - at).min(200) + 1);
                let part = bytes[at..end].to_vec();
                let times = part.len() * (1 + random.below(20));
                drop(bytes.splice(at..at, part.iter().copied().cycle().take(times)));
            }
            6 if !others.is_empty() => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {}
        }
    }
}
