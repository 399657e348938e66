//! Comma lists as Go's `encoding/csv` reads them, which is what Apptainer's list flags are made of: a field may stand in double
//! quotes, where commas and line ends belong to it and a quote is written twice.
#![forbid(unsafe_code)]

/// The records of a text, line by line; empty lines are none.
///
/// # Errors
/// A quote where none may stand, or one that does not end.
pub(super) fn records(text: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, &'static str> {
    let mut records = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (record, behind) = record(rest)?;
        if record.len() != 1 || record.first().is_some_and(|field| !field.is_empty()) {
            records.push(record);
        }
        rest = behind;
    }
    Ok(records)
}

/// The fields of a list: its first record.
///
/// # Errors
/// As [`records`].
pub(super) fn fields(text: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    Ok(records(text)?.into_iter().next().unwrap_or_default())
}

/// One record, and what stands behind its line end.
fn record(text: &[u8]) -> Result<(Vec<Vec<u8>>, &[u8]), &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let field;
        (field, rest) = match rest.strip_prefix(b"\"") {
            Some(quoted) => in_quotes(quoted)?,
            None => bare(rest)?,
        };
        fields.push(field);
        if let Some(behind) = rest.strip_prefix(b",") {
            rest = behind;
            continue;
        }
        let behind = rest.strip_prefix(b"\r").filter(|behind| behind.is_empty() || behind.starts_with(b"\n"));
        let rest = behind.unwrap_or(rest);
        return Ok((fields, rest.strip_prefix(b"\n").unwrap_or(rest)));
    }
}

fn bare(text: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let end = text.iter().position(|byte| matches!(byte, b',' | b'\n')).unwrap_or(text.len());
    let (mut field, _) = text.split_at(end);
    if text.get(end) != Some(&b',') {
        field = field.strip_suffix(b"\r").unwrap_or(field);
    }
    if field.contains(&b'"') {
        return Err("a double quote stands inside a field that does not begin with one");
    }
    Ok((field.to_vec(), text.get(field.len()..).unwrap_or_default()))
}

fn in_quotes(text: &[u8]) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let mut field = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| *byte == b'"').ok_or("a double quote does not end")?;
        let (head, tail) = rest.split_at(end);
        field.extend_from_slice(head);
        rest = tail.get(1..).unwrap_or_default();
        match rest {
            [b'"', behind @ ..] => {
                field.push(b'"');
                rest = behind;
            }
            [] | [b',' | b'\n' | b'\r', ..] => return Ok((field, rest)),
            _ => return Err("there is something behind a closing double quote"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_go_reads_them() {
        let read = |text: &str| {
            fields(text.as_bytes())
                .map(|f| f.into_iter().map(|f| String::from_utf8(f).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(read("a,b c,").unwrap(), ["a", "b c", ""]);
        assert_eq!(read("").unwrap(), [""; 0]);
        assert_eq!(read("\"a,b\",\"say \"\"x\"\"\",d\r\n").unwrap(), ["a,b", "say \"x\"", "d"]);
        assert_eq!(read("\"a\nb\",c\nnext").unwrap(), ["a\nb", "c"]);
        for bad in ["a\"b", "\"a", "\"a\"b,c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let lines = records(b"type=bind,src=/a\n\nsrc=/b\r\n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], [b"src=/b"]);
    }
}
