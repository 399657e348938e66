//! What kind of work it is, by its form. The word is for people who read the log; it grants nothing by itself.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;

use crate::request::Request;

/// Whether it is a question that a pilot or batch system asks before it sends anybody's work: said by the front end
/// (`apptainer test`), or one of the fixed commands that such programs ask with. Only of a container runtime is it asked so.
pub(super) fn is_probe(request: &Request) -> bool {
    if request.probe {
        return true;
    }
    if request.container.is_none() {
        return false;
    }
    let command: Vec<&OsStr> = request.command.iter().map(AsRef::as_ref).collect();
    let image = request.image.as_deref().and_then(Path::file_name);
    let image_is = |name: &str| image.is_some_and(|image| image == name);
    match command[..] {
        // HTCondor: may a program run, in which user namespace, and from a SIF file (singularity.cpp).
        [command] if command == "/exit_37" => image_is("singularity_test_sandbox") || image_is("exit_37.sif"),
        [command] if command == "/get_user_ns" => image_is("singularity_test_sandbox"),
        // glideinWMS: which kind of user namespace (singularity_lib.sh).
        [command, file] => command == "cat" && file == "/proc/self/uid_map",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_questions_that_are_known() {
        let ask = |image: &str, command: &[&str]| {
            is_probe(&Request {
                container: Some(Box::default()),
                image: Some(image.into()),
                command: command.iter().map(Into::into).collect(),
                ..Request::default()
            })
        };
        let sandbox = "/usr/libexec/condor/singularity_test_sandbox";
        assert!(ask(sandbox, &["/exit_37"]) && ask(sandbox, &["/get_user_ns"]));
        assert!(ask("/usr/libexec/condor/exit_37.sif", &["/exit_37"]));
        assert!(ask("/cvmfs/any/image", &["cat", "/proc/self/uid_map"]));
        assert!(!ask("/home/zoe/image", &["/exit_37"]));
        assert!(!ask(sandbox, &["/exit_37", "x"]));
        assert!(!ask(sandbox, &["/bin/sh"]));
        assert!(!ask("/x", &["cat", "/proc/self/uid_map", "/etc/passwd"]));
        assert!(!ask("/x", &[]));

        let mut request =
            Request { command: vec!["cat".into(), "/proc/self/uid_map".into()], ..Request::default() };
        assert!(!is_probe(&request), "a pilot that knows bailey says what it wants");
        request.probe = true;
        assert!(is_probe(&request));
    }
}
