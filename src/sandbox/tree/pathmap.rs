//! A map by clean path. Paths are compared byte by byte: the standard library's comparison takes each path apart, which is a
//! tenth of a millisecond in the making of one tree.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Ordered by bytes, so that a directory comes before what lies in it. Keys MUST be clean: no `.`, `..`, `//` or slash at
/// the end.
#[derive(Debug)]
pub(super) struct PathMap<T>(BTreeMap<Vec<u8>, T>);

impl<T> Default for PathMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PathMap<T> {
    pub(super) fn get(&self, path: &Path) -> Option<&T> {
        self.0.get(path.as_os_str().as_bytes())
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path.as_os_str().as_bytes())
    }

    /// Forgets the path and everything below it.
    pub(super) fn remove_tree(&mut self, path: &Path) {
        self.0.remove(path.as_os_str().as_bytes());
        self.remove_below(path, |_| true);
    }

    /// Forgets what lies below the path, not the path itself, where this is so.
    pub(super) fn remove_below(&mut self, path: &Path, is_so: impl Fn(&T) -> bool) {
        let mut first = path.as_os_str().as_bytes().to_vec();
        if first.last() != Some(&b'/') {
            first.push(b'/');
        }
        // Whatever begins like this stands together, and mostly there is nothing.
        let below = (Bound::Excluded(first.as_slice()), Bound::Unbounded);
        let gone: Vec<Vec<u8>> = self
            .0
            .range::<[u8], _>(below)
            .take_while(|(key, _)| key.starts_with(&first))
            .filter(|(_, value)| is_so(value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.0.remove(&key);
        }
    }

    pub(super) fn insert(&mut self, path: impl Into<PathBuf>, value: T) {
        self.0.insert(path.into().into_os_string().into_vec(), value);
    }

    pub(super) fn insert_new(&mut self, path: &Path, value: T) {
        self.0.entry(path.as_os_str().as_bytes().to_vec()).or_insert(value);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &T)> {
        self.0.iter().map(|(path, value)| (Path::new(OsStr::from_bytes(path)), value))
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = (PathBuf, T)> {
        self.0.into_iter().map(|(path, value)| (PathBuf::from(OsString::from_vec(path)), value))
    }

    /// The entry of the path itself or of the nearest directory above it, and the rest of the path below that entry.
    pub(super) fn nearest<'a>(&self, path: &'a Path) -> Option<(&T, &'a Path)> {
        let bytes = path.as_os_str().as_bytes();
        let mut end = bytes.len();
        loop {
            let (head, tail) = bytes.split_at(end);
            let found = self.0.get(if head.is_empty() { b"/".as_slice() } else { head });
            if let Some(value) = found {
                let rest =
                    if head == b"/" { b"".as_slice() } else { tail.strip_prefix(b"/").unwrap_or(tail) };
                return Some((value, Path::new(OsStr::from_bytes(rest))));
            }
            if head.is_empty() {
                return None;
            }
            end = head.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        }
    }
}

/// How many parts a clean absolute path has.
pub(super) fn depth(path: &Path) -> usize {
    let bytes = path.as_os_str().as_bytes();
    if bytes == b"/" { 0 } else { bytes.iter().filter(|byte| **byte == b'/').count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_goes_and_nothing_else() {
        let all = ["/", "/a", "/a b", "/a-", "/a/b", "/a/b/c", "/a/c", "/a0", "/b"];
        let left = |work: fn(&mut PathMap<usize>)| {
            let mut map = PathMap::default();
            for (at, path) in all.into_iter().enumerate() {
                map.insert(path, at);
            }
            work(&mut map);
            map.into_entries()
                .map(|(path, _)| path.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(left(|map| map.remove_below(Path::new("/a"), |_| true)), "/,/a,/a b,/a-,/a0,/b");
        assert_eq!(
            left(|map| map.remove_below(Path::new("/a"), |at| *at != 5)),
            "/,/a,/a b,/a-,/a/b/c,/a0,/b"
        );
        assert_eq!(left(|map| map.remove_below(Path::new("/a/c"), |_| true)), all.join(","));
        assert_eq!(left(|map| map.remove_below(Path::new("/"), |_| true)), "/");
        assert_eq!(left(|map| map.remove_tree(Path::new("/a"))), "/,/a b,/a-,/a0,/b");
        assert_eq!(left(|map| map.remove_tree(Path::new("/"))), "");
        assert_eq!(left(|map| map.remove_tree(Path::new("/x"))), all.join(","));
    }

    #[test]
    fn the_nearest_directory_is_found() {
        let mut map = PathMap::default();
        for path in ["/", "/dev", "/var/tmp"] {
            map.insert(path, path);
        }
        let nearest =
            |path: &'static str| map.nearest(Path::new(path)).map(|(at, rest)| (*at, rest.to_str().unwrap()));
        assert_eq!(nearest("/"), Some(("/", "")));
        assert_eq!(nearest("/dev"), Some(("/dev", "")));
        assert_eq!(nearest("/dev/null"), Some(("/dev", "null")));
        assert_eq!(nearest("/device"), Some(("/", "device")));
        assert_eq!(nearest("/var/tmp/a/b"), Some(("/var/tmp", "a/b")));
        assert_eq!(nearest("/var/tm"), Some(("/", "var/tm")));
        assert_eq!((depth(Path::new("/")), depth(Path::new("/a")), depth(Path::new("/a/b"))), (0, 1, 2));
    }
}
