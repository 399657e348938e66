//! `--bind`, `--mount`, `--home`: what is shown where.
#![forbid(unsafe_code)]

use super::csv;
use crate::request::Bind;
use crate::sandbox::tree::{TOO_LONG, fits};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The path from the root on; `cwd` is `None` where nobody knows the directory that bailey was called in.
pub(super) fn absolute(path: &[u8], cwd: Option<&Path>) -> Result<PathBuf, &'static str> {
    let path = Path::new(OsStr::from_bytes(path));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let cwd = cwd.ok_or("it is a relative path, and the current directory is gone")?;
    // "." and the dot of "./x" go; ".." is the kernel's to resolve.
    Ok(cwd.components().chain(path.components().filter(|part| *part != Component::CurDir)).collect())
}

/// A path inside: `.` and `..` are resolved by their words, because there is no such directory yet.
pub(super) fn inside(path: &[u8]) -> Result<PathBuf, &'static str> {
    let path = Path::new(OsStr::from_bytes(path));
    if !path.is_absolute() {
        return Err("a path inside the container begins with a slash");
    }
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    if fits(&clean) { Ok(clean) } else { Err(TOO_LONG) }
}

/// Words of the third part of a bind.
fn option(word: &[u8]) -> Option<Result<bool, &'static str>> {
    match word {
        b"rw" => Some(Ok(true)),
        b"ro" => Some(Ok(false)),
        _ if word.starts_with(b"image-src=") || word.starts_with(b"id=") => Some(Err(
            "image-src and id take something out of an image file, and bailey binds directories and files only",
        )),
        _ => None,
    }
}

/// `SRC[:DST[:OPTIONS]],...`; a comma or colon of a name is written with a backslash before it. Writable unless `ro` is said.
pub(super) fn of_list(text: &[u8], cwd: Option<&Path>) -> Result<Vec<Bind>, String> {
    let mut binds: Vec<Bind> = Vec::new();
    let mut has_options = false;
    for item in split(text, b',') {
        let item = trim(item);
        if item.is_empty() {
            continue;
        }
        // `/a:/b:ro,noexec`: options go on behind their commas, as long as the words are options.
        if let Some(word) = option(item).filter(|_| has_options) {
            apply(binds.last_mut(), word)?;
            continue;
        }
        let parts = split(item, b':');
        let (source, target, options) = match parts.as_slice() {
            [source] => (*source, *source, None),
            [source, target] => (*source, *target, None),
            [source, target, options] => (*source, *target, Some(*options)),
            _ => return Err("a bind has three parts at most: SRC[:DST[:OPTIONS]]".to_owned()),
        };
        has_options = options.is_some();
        binds.push(bind(&plain(trim(source)), &plain(trim(target)), cwd)?);
        if let Some(word) = options {
            let word = option(trim(word)).ok_or("the options of a bind are ro and rw")?;
            apply(binds.last_mut(), word)?;
        }
    }
    Ok(binds)
}

fn apply(bind: Option<&mut Bind>, word: Result<bool, &'static str>) -> Result<(), String> {
    let writable = word?;
    if let Some(bind) = bind {
        // `ro` beside `rw` is `ro`.
        bind.writable &= writable;
    }
    Ok(())
}

fn bind(source: &[u8], target: &[u8], cwd: Option<&Path>) -> Result<Bind, String> {
    if source.is_empty() || target.is_empty() {
        return Err("a bind has a source, and a target where there is a colon".to_owned());
    }
    let same = source == target;
    let source = absolute(source, cwd)?;
    // `-B data` shows it where it is.
    let target = if same { inside(source.as_os_str().as_bytes())? } else { inside(target)? };
    Ok(Bind { source, target, writable: true })
}

/// Without blanks around it. A line end is a part of a name, although nobody should have such names.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Parts between separators that have no backslash before them.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte == separator && (at == 0 || text.get(at - 1) != Some(&b'\\')) {
            parts.push(text.get(begin..at).unwrap_or_default());
            begin = at + 1;
        }
    }
    parts.push(text.get(begin..).unwrap_or_default());
    parts
}

/// Without the backslashes before commas and colons.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b',' | b':') && plain.last() == Some(&b'\\') {
            plain.pop();
        }
        plain.push(*byte);
    }
    plain
}

/// `type=bind,source=/a,destination=/b,ro`, several of them on lines of their own.
pub(super) fn of_mount(text: &[u8], cwd: Option<&Path>) -> Result<Vec<Bind>, String> {
    let mut binds = Vec::new();
    for record in csv::records(text)? {
        let (mut source, mut target, mut writable) = (None, None, true);
        for field in &record {
            let (key, value) = match field.iter().position(|byte| *byte == b'=') {
                Some(equals) => {
                    let (key, tail) = field.split_at(equals);
                    (key, tail.get(1..).unwrap_or_default())
                }
                None => (field.as_slice(), &[][..]),
            };
            match key {
                b"type" if value == b"bind" => {}
                b"type" => return Err("the only type of mount is bind".to_owned()),
                b"source" | b"src" => source = Some(value).filter(|value| !value.is_empty()),
                b"destination" | b"dst" | b"target" => target = Some(value).filter(|value| !value.is_empty()),
                b"ro" | b"readonly" => writable = false,
                b"rw" => {}
                b"image-src" | b"id" => {
                    return Err("image-src and id take something out of an image file, and bailey binds directories and files only".to_owned());
                }
                _ => return Err("its keys are type, source, destination, ro and rw".to_owned()),
            }
        }
        let (Some(source), Some(target)) = (source, target) else {
            return Err("a mount has a source and a destination".to_owned());
        };
        binds.push(Bind { writable, ..bind(source, target, cwd)? });
    }
    Ok(binds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<(String, String, bool)>, String> {
        shown(of_list(text.as_bytes(), Some(Path::new("/w"))))
    }

    fn mount(text: &str) -> Result<Vec<(String, String, bool)>, String> {
        shown(of_mount(text.as_bytes(), Some(Path::new("/w"))))
    }

    fn shown(binds: Result<Vec<Bind>, String>) -> Result<Vec<(String, String, bool)>, String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        binds.map(|b| b.iter().map(|b| (text(&b.source), text(&b.target), b.writable)).collect())
    }

    #[test]
    fn binds_in_every_form() {
        let of = |source: &str, target: &str, writable| (source.to_owned(), target.to_owned(), writable);
        assert_eq!(list("/a").unwrap(), [of("/a", "/a", true)]);
        assert_eq!(list("/a:/b:ro").unwrap(), [of("/a", "/b", false)]);
        assert_eq!(
            list("/a:/b:ro,/c,/d:/e:rw, /f ").unwrap(),
            [of("/a", "/b", false), of("/c", "/c", true), of("/d", "/e", true), of("/f", "/f", true)]
        );
        assert_eq!(list("/a:/b:ro,rw").unwrap(), [of("/a", "/b", false)]);
        assert_eq!(list("data,./x:/y,../z").unwrap()[0], of("/w/data", "/w/data", true));
        assert_eq!(list("data,./x:/y,../z").unwrap()[1], of("/w/x", "/y", true));
        assert_eq!(list("../z").unwrap(), [of("/w/../z", "/z", true)]);
        assert_eq!(list("/a\\,b:/c\\:d").unwrap(), [of("/a,b", "/c:d", true)]);
        // Only behind a third part is a word an option; else it is a path.
        assert_eq!(list("/a:/b,ro").unwrap()[1], of("/w/ro", "/w/ro", true));
        assert_eq!(list("").unwrap(), []);
        for bad in ["/a:/b:rx", "/a:b", "/a:/b:ro:x", ":/b", "/a:", "/a:/b:image-src=/x", "/a:/b:id=2"] {
            assert!(list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_in_every_form() {
        let both = mount("type=bind,src=/a,dst=/b,ro\nsource=c,target=/d").unwrap();
        assert_eq!(both[0], ("/a".to_owned(), "/b".to_owned(), false));
        assert_eq!(both[1], ("/w/c".to_owned(), "/d".to_owned(), true));
        assert_eq!(mount("\"src=/a,b\",dst=/c").unwrap()[0].0, "/a,b");
        for bad in [
            "type=tmpfs,dst=/a",
            "src=/a",
            "dst=/a",
            "src=,dst=/a",
            "src=/a,dst=/b,x",
            "src=/a,dst=b",
            "\"src=/a",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_current_directory_paths_are_absolute() {
        assert!(of_list(b"/a", None).is_ok());
        assert!(of_list(b"a", None).is_err());
    }
}
