//! When two values of a DN are one: RFC 5280, section 7.1, after RFC 4518.
//!
//! Case, outer white space and the width of inner white space do not count, invisible characters do not exist. What is left out of
//! RFC 4518 is the full NFKC normalisation, whose tables would be larger than this room; letters with one mark, which are
//! those of European names, are composed.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Latin letters and the mark that makes another letter of each, in lower case.
const MARKS: [(char, &str, &str); 14] = [
    ('\u{300}', "aeioun", "àèìòùǹ"),
    ('\u{301}', "aeiouyclnrsz", "áéíóúýćĺńŕśź"),
    ('\u{302}', "aeioucghjswy", "âêîôûĉĝĥĵŝŵŷ"),
    ('\u{303}', "anoiu", "ãñõĩũ"),
    ('\u{304}', "aeiou", "āēīōū"),
    ('\u{306}', "aegiou", "ăĕğĭŏŭ"),
    ('\u{307}', "cegz", "ċėġż"),
    ('\u{308}', "aeiouy", "äëïöüÿ"),
    ('\u{30a}', "au", "åů"),
    ('\u{30b}', "ou", "őű"),
    ('\u{30c}', "cdelnrstz", "čďěľňřšťž"),
    ('\u{326}', "st", "șț"),
    ('\u{327}', "cgklnrst", "çģķļņŗşţ"),
    ('\u{328}', "aeiou", "ąęįǫų"),
];

/// The text as it is compared.
pub(crate) fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    if text.is_ascii() {
        for word in text.split_ascii_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.extend(
                word.bytes()
                    .filter(|byte| !byte.is_ascii_control())
                    .map(|byte| byte.to_ascii_lowercase() as char),
            );
        }
        return out;
    }
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if c.is_control() || is_invisible(c) {
            continue;
        }
        if space && !out.is_empty() {
            out.push(' ');
        }
        space = false;
        // Upper case first: ß and SS, ſ and s, ς and σ are one.
        for c in c.to_uppercase().flat_map(char::to_lowercase) {
            push_composed(&mut out, c);
        }
    }
    out
}

fn push_composed(out: &mut String, c: char) {
    let composed = out.chars().next_back().and_then(|last| {
        let (_, plain, marked) = MARKS.iter().find(|(mark, ..)| *mark == c)?;
        plain.chars().zip(marked.chars()).find(|(letter, _)| *letter == last).map(|(_, letter)| letter)
    });
    match composed {
        Some(letter) => {
            out.pop();
            out.push(letter);
        }
        None => out.push(c),
    }
}

/// The format characters (Unicode category Cf, with line and paragraph separator, and what RFC 4518 maps to nothing): they
/// reorder or hide what a reader sees.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffc}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// OpenSSL's one-line form writes every byte that is not printable ASCII as `\xHH`: the text with those bytes as characters.
/// Bytes that are no UTF-8 are taken as Latin-1 (T61String as everybody uses it), `\x00` as the upper half of a BMPString.
/// What comes out has nothing more to read, so that it reads as itself.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    while text.contains("\\x") {
        // Each round is shorter by three bytes for each escape that was read.
        let next = unescape_once(&text);
        if next == text.as_ref() {
            break;
        }
        text = Cow::Owned(next);
    }
    text
}

fn unescape_once(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex =
            tail.strip_prefix(b"x").and_then(|tail| tail.split_at_checked(2)).and_then(|(hex, after)| {
                let value = u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
                hex.iter().all(u8::is_ascii_hexdigit).then_some((value, after))
            });
        match hex {
            Some((0, after)) if first == b'\\' => rest = after,
            // A control character stays as it was written.
            Some((value, after)) if first == b'\\' && (value >= b' ' && value != 0x7f) => {
                bytes.push(value);
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|byte| char::from(*byte)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_is_gone() {
        for (text, expected) in [
            ("Some  One ", "some one"),
            ("\tSOME one", "some one"),
            ("Zoë", "zoë"),
            ("ZOE\u{308}", "zoë"),
            ("Straße", "strasse"),
            ("STRASSE", "strasse"),
            ("Łukasz  Żak", "łukasz żak"),
            ("Z\u{307}ak", "żak"),
            ("a\u{200b}b\u{ad}c", "abc"),
            ("a\u{a0}b", "a b"),
            ("Όμηρος", "όμηροσ"),
            ("\u{308}x", "\u{308}x"),
            ("", ""),
        ] {
            assert_eq!(fold(text), expected, "{text}");
            assert_eq!(fold(&fold(text)), expected, "{text}: once more");
        }
    }

    #[test]
    fn every_composed_letter_is_one() {
        for (mark, plain, marked) in MARKS {
            assert_eq!(plain.chars().count(), marked.chars().count(), "U+{:04X}", u32::from(mark));
            for (letter, composed) in plain.chars().zip(marked.chars()) {
                assert_eq!(fold(&format!("{letter}{mark}")), fold(&composed.to_string()));
                assert_eq!(
                    fold(&format!("{}{mark}", letter.to_uppercase())),
                    fold(&composed.to_uppercase().to_string())
                );
            }
        }
    }

    #[test]
    fn openssl_escapes_are_bytes() {
        for (text, expected) in [
            ("plain", "plain"),
            ("Zo\\xC3\\xAB", "Zoë"),
            ("Zo\\xEB", "Zoë"),
            ("\\x00Z\\x00o\\x00\\xEB", "Zoë"),
            ("a\\x0Ab", "a\\x0Ab"),
            ("a\\xzz\\x+1\\x", "a\\xzz\\x+1\\x"),
            ("\\x2F", "/"),
            ("\\x5Cx41\\\\x7842", "AB"),
        ] {
            assert_eq!(unescape(text), expected);
        }
    }
}
