//! The operating system by os-release(5), and by the one-line files of the time before it.
//!
//! 1. The text is read as the manual says a shell would: quotes, backslashes, comments. Nothing is expanded.
//! 2. What goes into records and rules MUST be short and plain: an ID has the characters that the manual allows it.
#![forbid(unsafe_code)]

use std::fmt;

use crate::audit::time::{Timestamp, parse_date};

/// The longest ID or VERSION_ID.
const ID_LENGTH: usize = 64;
/// The longest name.
const NAME_LENGTH: usize = 256;
/// The most systems in ID_LIKE.
const LIKE: usize = 16;

/// An operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// `ID`: `debian`, `centos`.
    pub id: String,
    /// `VERSION_ID`: `12`, `7.9`. A rolling one has none.
    pub version_id: Option<String>,
    /// `ID_LIKE`.
    pub id_like: Vec<String>,
    /// `NAME`: tells CentOS Linux and CentOS Stream apart, which share their ID.
    pub name: Option<String>,
    /// `PRETTY_NAME`, or the line of the older files.
    pub pretty_name: Option<String>,
    /// `SUPPORT_END`: the end of that day.
    pub support_end: Option<Timestamp>,
}

impl fmt::Display for Os {
    /// `ID VERSION_ID`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version_id {
            Some(version) => write!(f, "{} {version}", self.id),
            None => f.write_str(&self.id),
        }
    }
}

/// The last moment of a day.
pub(super) fn end_of_day(date: (i64, u32, u32)) -> Option<Timestamp> {
    Timestamp::from_civil(date, (23, 59, 59), 0)
}

/// Reads an os-release file. Also how many lines were left out because they are no assignment that a shell would take, or
/// hold something that is not allowed where it stands. `None` when nothing at all was said.
pub fn parse(bytes: &[u8]) -> (Option<Os>, usize) {
    let mut os = Os { id: "linux".to_owned(), ..Os::default() }; // the manual's default
    let (mut said, mut skipped) = (false, 0);
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match assignment(line).and_then(|(name, value)| os.set(name, value)) {
            Some(()) => said = true,
            None => skipped += 1,
        }
    }
    (said.then_some(os), skipped)
}

impl Os {
    /// As in a shell, the last assignment holds. `None`: the value is not allowed.
    fn set(&mut self, name: &str, value: String) -> Option<()> {
        match name {
            "ID" => self.id = id(&value).filter(|id| !id.is_empty())?,
            "VERSION_ID" => self.version_id = Some(id(&value)?).filter(|id| !id.is_empty()),
            "ID_LIKE" => {
                self.id_like = value.split_ascii_whitespace().take(LIKE).map(id).collect::<Option<_>>()?;
            }
            "NAME" => self.name = Some(plain(value)?),
            "PRETTY_NAME" => self.pretty_name = Some(plain(value)?),
            "SUPPORT_END" => self.support_end = Some(end_of_day(parse_date(&value)?)?),
            _ => {}
        }
        Some(())
    }
}

/// Letters, digits, `.`, `_`, `-` (the manual has no capitals, some makers have), and `+`, `~` of package versions.
fn id(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+~".contains(&byte);
    (text.len() <= ID_LENGTH && text.bytes().all(allowed)).then(|| text.to_owned())
}

fn plain(text: String) -> Option<String> {
    (text.len() <= NAME_LENGTH && !text.chars().any(char::is_control)).then_some(text)
}

/// `NAME=VALUE` of one line without its surrounding blanks.
fn assignment(line: &[u8]) -> Option<(&str, String)> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (name, value) = line.split_at_checked(equals)?;
    let name = std::str::from_utf8(name).ok()?;
    let mut letters = name.bytes();
    let first = letters.next()?;
    if !(first.is_ascii_alphabetic() || first == b'_')
        || !letters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return None;
    }
    let value = unquote(value.get(1..)?)?;
    Some((name, String::from_utf8(value).ok().filter(|text| !text.contains('\0'))?))
}

/// A shell's word: `'...'` as it stands; `"..."` with a backslash before `"`, `$`, `` ` `` and itself; else a backslash before
/// anything. Words of several quoted parts "are not supported" (os-release(5)), and a value does not go on in the next line.
fn unquote(value: &[u8]) -> Option<Vec<u8>> {
    match value.split_first() {
        None => Some(Vec::new()),
        Some((b'\'', rest)) => {
            let text = rest.strip_suffix(b"'")?;
            (!text.contains(&b'\'')).then(|| text.to_vec())
        }
        Some((b'"', rest)) => {
            let mut out = Vec::with_capacity(rest.len());
            let mut bytes = rest.iter().copied().peekable();
            loop {
                match bytes.next()? {
                    b'"' => return bytes.peek().is_none().then_some(out),
                    b'\\' if matches!(bytes.peek(), Some(b'"' | b'$' | b'`' | b'\\')) => {
                        out.push(bytes.next()?);
                    }
                    byte => out.push(byte),
                }
            }
        }
        Some(_) => {
            let mut out = Vec::with_capacity(value.len());
            let mut bytes = value.iter().copied();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\\' => out.push(bytes.next()?),
                    // A shell would take these for the end of the word or more.
                    b' ' | b'\t' | b'"' | b'\'' | b'$' | b'`' | b';' | b'&' | b'|' | b'<' | b'>' | b'('
                    | b')' => return None,
                    byte => out.push(byte),
                }
            }
            Some(out)
        }
    }
}

/// The first line of /etc/redhat-release: `Scientific Linux release 6.10 (Carbon)`.
pub fn redhat(bytes: &[u8]) -> Option<Os> {
    const FAMILY: [(&str, &str); 8] = [
        ("Scientific Linux", "scientific"), // and "Scientific Linux SL", "Scientific Linux CERN SLC"
        ("CentOS", "centos"),
        ("Red Hat Enterprise Linux", "rhel"),
        ("AlmaLinux", "almalinux"),
        ("Rocky Linux", "rocky"),
        ("Oracle Linux", "ol"),
        ("Enterprise Linux Enterprise Linux", "ol"),
        ("Fedora", "fedora"),
    ];
    let line = first_line(bytes)?;
    let (name, rest) = line.split_once(" release ")?;
    let (_, id_of) = FAMILY.iter().find(|(start, _)| name.starts_with(start))?;
    let version = rest.split_ascii_whitespace().next().and_then(id);
    Some(Os {
        id: (*id_of).to_owned(),
        version_id: version.filter(|text| text.starts_with(|c: char| c.is_ascii_digit())),
        name: Some(name.to_owned()),
        pretty_name: Some(line.to_owned()),
        ..Os::default()
    })
}

/// /etc/debian_version: `6.0.10`, or `wheezy/sid` in what is not released.
pub fn debian(bytes: &[u8]) -> Option<Os> {
    let line = first_line(bytes)?;
    let version = id(line).filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    if version.is_none() && !line.ends_with("/sid") {
        return None;
    }
    let pretty_name = Some(format!("Debian GNU/Linux {line}"));
    Some(Os { id: "debian".to_owned(), version_id: version, pretty_name, ..Os::default() })
}

fn first_line(bytes: &[u8]) -> Option<&str> {
    let line = bytes.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let line = std::str::from_utf8(line).ok()?;
    (line.len() <= NAME_LENGTH && !line.is_empty() && !line.chars().any(char::is_control)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> Os {
        let (os, skipped) = parse(text.as_bytes());
        assert_eq!(skipped, 0, "{text}");
        os.unwrap()
    }

    #[test]
    fn files_of_real_systems() {
        let debian = os(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
             VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
        );
        assert_eq!(debian.to_string(), "debian 12");
        assert_eq!(debian.pretty_name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        let alma = os(
            "NAME=\"AlmaLinux\"\nID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n\
             SUPPORT_END=2032-06-01\nPLATFORM_ID=\"platform:el9\"\nANSI_COLOR=\"0;34\"\n\nREDHAT_BUGZILLA_PRODUCT=\n",
        );
        assert_eq!(alma.to_string(), "almalinux 9.3");
        assert_eq!(alma.id_like, ["rhel", "centos", "fedora"]);
        assert_eq!(alma.support_end.unwrap().to_string(), "2032-06-01T23:59:59.000000000Z");
        let arch = os("NAME=\"Arch Linux\"\r\nID=arch\r\n# a comment\r\n");
        assert_eq!((arch.to_string().as_str(), arch.version_id.clone()), ("arch", None));
        // The manual's default, and a shell's last word.
        assert_eq!(os("NAME=x").id, "linux");
        assert_eq!(os("ID=one\nID=two").id, "two");
        assert_eq!(parse(b"").0, None);
        assert_eq!(parse(b"# nothing\n\n").0, None);
    }

    // Each as `sh -c '. FILE; printf %s "$NAME"'` has it.
    #[test]
    fn quotes_and_backslashes_are_a_shell_s() {
        for (value, expected) in [
            (r"plain", "plain"),
            (r"", ""),
            (r#""""#, ""),
            (r"''", ""),
            (r#""two words""#, "two words"),
            (r"'two words'", "two words"),
            (r#""a\"b\$c\`d\\e""#, r#"a"b$c`d\e"#),
            (r#""a\nb""#, r"a\nb"),
            (r"'a\nb\\'", r"a\nb\\"),
            (r#"'a"b$c`d'"#, r#"a"b$c`d"#),
            (r"a\ b\$c\\", r"a b$c\"),
            (r#""it's""#, "it's"),
            (r"1.0-2_3", "1.0-2_3"),
            ("\"é\"", "é"),
        ] {
            assert_eq!(os(&format!("NAME={value}")).name.as_deref(), Some(expected), "{value}");
        }
        for bad in [
            r#"NAME="open"#,
            r"NAME='open",
            r#"NAME=""#,
            r#"NAME="a"b"#,
            r#"NAME="a"'b'"#,
            r"NAME='a''b'",
            r"NAME=two words",
            r"NAME=a;reboot",
            r"NAME=$(reboot)",
            r"NAME=`reboot`",
            r"NAME=end\",
            r#"NAME="end\"#,
            r#"NAME="end\""#,
            r"export NAME=x",
            r"NAME",
            r"=x",
            r"1A=x",
            r"NA-ME=x",
            r"NAME =x",
            "NAME=\"\u{1b}[2J\"",
            "NAME=a\0b",
            "ID=../../etc",
            "ID=\"\"",
            "ID=two\\ words",
            "VERSION_ID=\"1 2\"",
            "SUPPORT_END=2023-02-29",
            "SUPPORT_END=soon",
        ] {
            assert_eq!(parse(bad.as_bytes()), (None, 1), "{bad}");
        }
        assert_eq!(parse(b"NAME=\"\xff\""), (None, 1));
        // A bad line does not take the good ones with it.
        let (os, skipped) = parse(b"ID=debian\n\xff\xfe\nVERSION_ID='12'\nNAME=\"open\n");
        assert_eq!((os.unwrap().to_string().as_str(), skipped), ("debian 12", 2));
        // Length.
        let long = |name: &str, length| format!("{name}={}", "a".repeat(length));
        assert_eq!(parse(long("ID", 64).as_bytes()).1 + parse(long("NAME", 256).as_bytes()).1, 0);
        assert_eq!(parse(long("ID", 65).as_bytes()).1 + parse(long("NAME", 257).as_bytes()).1, 2);
    }

    #[test]
    fn lines_from_before_os_release() {
        for (line, expected) in [
            ("Scientific Linux release 6.10 (Carbon)\n", "scientific 6.10"),
            ("Scientific Linux SL release 5.11 (Boron)", "scientific 5.11"),
            ("Scientific Linux CERN SLC release 6.10 (Carbon)", "scientific 6.10"),
            ("CentOS release 6.10 (Final)", "centos 6.10"),
            ("CentOS Linux release 7.9.2009 (Core)", "centos 7.9.2009"),
            ("Red Hat Enterprise Linux Server release 6.10 (Santiago)", "rhel 6.10"),
            ("Fedora release 20 (Heisenbug)", "fedora 20"),
            ("CentOS Stream release x", "centos"),
        ] {
            assert_eq!(redhat(line.as_bytes()).unwrap().to_string(), expected);
        }
        assert_eq!(redhat(b"CentOS Stream release 8").unwrap().name.as_deref(), Some("CentOS Stream"));
        for bad in ["", "\n", "SomeOS release 6", "CentOS", "\u{1b}CentOS release 6"] {
            assert_eq!(redhat(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(debian(b"6.0.10\n").unwrap().to_string(), "debian 6.0.10");
        assert_eq!(debian(b"wheezy/sid\n").unwrap().to_string(), "debian");
        for bad in ["", "\n", "words", "6.0;reboot", "6.0\u{7}"] {
            assert_eq!(debian(bad.as_bytes()), None, "{bad}");
        }
    }
}
