//! The `#…` values of RFC 2253: a string in BER, as hexadecimal digits. Java writes every type so that it knows no name for,
//! `emailAddress` among them, so Argus' lists are full of them.
#![forbid(unsafe_code)]

/// The text of one BER string; the error says what it is instead.
pub(super) fn text(hex: &str) -> Result<String, String> {
    let bytes = from_hex(hex).ok_or("'#' is not followed by pairs of hexadecimal digits")?;
    let (&tag, rest) = bytes.split_first().ok_or("'#' is followed by nothing")?;
    let content = content(rest).ok_or("'#' is followed by something whose length is wrong")?;
    let wide = |width: usize| {
        let mut units = content.chunks_exact(width);
        let text = units.by_ref().map(|unit| unit.iter().fold(0, |code, byte| code << 8 | u32::from(*byte)));
        let text: Option<String> = text.map(char::from_u32).collect();
        text.filter(|_| units.remainder().is_empty())
    };
    match tag {
        // UTF8String; NumericString, PrintableString, IA5String, VisibleString
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(content.to_vec()).ok(),
        // T61String, as everybody uses it
        0x14 => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        0x1e => wide(2),
        0x1c => wide(4),
        _ => {
            return Err(format!("'#' is followed by something of ASN.1 type {tag:#04x}, which is no string"));
        }
    }
    .ok_or_else(|| "'#' is followed by a string that cannot be read".to_owned())
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// What a length in BER counts: exactly the rest.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = bytes.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (high, low) = (*rest.first()?, *rest.get(1)?);
            (usize::from(high) << 8 | usize::from(low), rest.get(2..)?)
        }
        _ => return None,
    };
    (rest.len() == length).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn strings_are_read() {
        for (hex, expected) in [
            ("160d7a6f65406578616d706c652e", None), // one byte short
            ("160e7a6f65406578616d706c652e6f7267", None),
            ("160f7a6f65406578616d706c652e6f7267", Some("zoe@example.org")),
            ("0c045a6fc3ab", Some("Zoë")),
            ("14035a6feb", Some("Zoë")),
            ("1e06005a006f00eb", Some("Zoë")),
            ("1c080000005a000000eb", Some("Zë")),
            ("13810141", Some("A")),
            ("1382000141", Some("A")),
        ] {
            assert_eq!(text(hex).ok().as_deref(), expected, "{hex}");
        }
    }

    #[test]
    fn what_is_no_string_is_refused_with_the_reason() {
        for (hex, why) in [
            ("", "nothing"),
            ("1", "pairs"),
            ("zz", "pairs"),
            ("16", "length"),
            ("1605", "length"),
            ("168401", "length"),
            ("020101", "0x02"),
            ("0c01ff", "cannot be read"),
            ("1e0141", "cannot be read"),
            ("1c0400110000", "cannot be read"),
        ] {
            let found = text(hex).unwrap_err();
            assert!(found.contains(why), "{hex}: {found}");
        }
    }
}
