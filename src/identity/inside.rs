//! A path as the payload will see it → where that is on the host, by what this launch hands over. A variable for the inside says
//! `/srv/x`; a file of that name on the host has nothing to do with it. Pure: nothing is opened here.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

use crate::request::Request;
use crate::request::container::Home;

/// The place on the host, `None` where the path is of the image or private to the payload. The bind that reaches deepest
/// counts, and of two at one place the later one.
pub(super) fn on_host(path: &Path, request: &Request) -> Option<PathBuf> {
    let plain =
        |path: &Path| path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain(path) {
        return None;
    }
    let mut shown: Vec<(PathBuf, PathBuf)> = Vec::new();
    if let Some(container) = &request.container {
        if let Some(dir) = &container.workdir {
            shown.push((dir.join("tmp"), "/tmp".into()));
            shown.push((dir.join("var_tmp"), "/var/tmp".into()));
        }
        // `--home DIR` alone names a place inside; only what is written SRC:DST is surely the host's where little is shown.
        let counts = |home: &&Home| !(container.no_home || container.contain && home.source == home.target);
        if let Some(home) = container.home.as_ref().filter(counts) {
            shown.push((home.source.clone(), home.target.clone()));
        }
    }
    shown.extend(request.binds.iter().map(|bind| (bind.source.clone(), bind.target.clone())));
    let (source, rest) = shown
        .into_iter()
        .filter_map(|(source, target)| {
            let rest = path.strip_prefix(&target).ok()?.to_path_buf();
            Some((target.components().count(), source, rest))
        })
        .max_by_key(|(depth, ..)| *depth)
        .map(|(_, source, rest)| (source, rest))?;
    Some(if rest.as_os_str().is_empty() { source } else { source.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Bind;
    use crate::request::container::Container;

    #[test]
    fn what_is_handed_over_decides() {
        let bind = |source: &str, target: &str| Bind {
            source: source.into(),
            target: target.into(),
            writable: true,
        };
        let mut request = Request {
            binds: vec![
                bind("/a", "/srv"),
                bind("/b", "/srv/in"),
                bind("/c", "/srv"),
                bind("/d/file", "/one"),
            ],
            ..Request::default()
        };
        let is = |request: &Request, path: &str, host: Option<&str>| {
            assert_eq!(on_host(Path::new(path), request), host.map(PathBuf::from), "{path}");
        };
        is(&request, "/srv/.job.ad", Some("/c/.job.ad"));
        is(&request, "/srv", Some("/c"));
        is(&request, "/srv/in/x", Some("/b/x"));
        is(&request, "/srvx", None);
        is(&request, "/one", Some("/d/file"));
        is(&request, "/etc/passwd", None);
        is(&request, "/srv/../etc/passwd", None);
        is(&request, "srv/x", None);
        is(&request, "/tmp/proxy", None);

        request.container = Some(Box::new(Container {
            workdir: Some("/w".into()),
            home: Some(Home { source: "/h".into(), target: "/tmp".into() }),
            ..Container::default()
        }));
        is(&request, "/tmp/proxy", Some("/h/proxy"));
        is(&request, "/var/tmp/x", Some("/w/var_tmp/x"));
        request.container.as_mut().unwrap().no_home = true;
        is(&request, "/tmp/proxy", Some("/w/tmp/proxy"));

        // DIRAC's `--contain --home /tmp`: the host's own /tmp is not meant.
        request.container = Some(Box::new(Container {
            contain: true,
            workdir: Some("/w".into()),
            home: Some(Home { source: "/tmp".into(), target: "/tmp".into() }),
            ..Container::default()
        }));
        is(&request, "/tmp/proxy", Some("/w/tmp/proxy"));
    }
}
