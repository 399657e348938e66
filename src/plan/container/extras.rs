//! The smaller things of Apptainer's manner: time zone, host name, devices of GPUs, mount points in directories that were handed over.
#![forbid(unsafe_code)]

use super::places::make;
use crate::failure::{Failure, errno_text};
use crate::image;
use crate::request::container::Container;
use crate::sandbox::tree::{Builder, Kind};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// The most bytes of a host name (`__NEW_UTS_LEN`, uts_namespaces(7)).
const LONGEST_NAME: usize = 64;

/// The host's time zone: where the image's own link leads to, or in its /etc, which is made anew anyway. A link that leads to
/// nothing stays as it is: to make room elsewhere would cost every launch more.
pub(in crate::plan) fn localtime(builder: &mut Builder) -> Result<(), Failure> {
    let at = Path::new("/etc/localtime");
    match builder.resolve(at).map(|clean| (builder.kind(&clean), clean)) {
        Ok((Some(Kind::File), _)) => image::bind_over(builder, &[at.to_owned()]),
        Ok((None, clean)) if clean == at => image::bind_over(builder, &[at.to_owned()]),
        _ => Ok(()),
    }
}

/// The host name that was asked for, with its file.
///
/// # Errors
/// It is none.
pub(in crate::plan) fn hostname(name: &str, builder: &mut Builder) -> Result<CString, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let name = CString::new(name).ok().filter(|name| {
        let bytes = name.to_bytes();
        !bytes.is_empty() && bytes.len() <= LONGEST_NAME && bytes.iter().all(|byte| plain(*byte))
    });
    let Some(name) = name else {
        return Err(Failure::usage(
            "cannot take the host name of --hostname",
            format!("a host name has letters, digits, '-' and '.', {LONGEST_NAME} at most"),
            "name such a one",
        ));
    };
    let mut content = name.to_bytes().to_vec();
    content.push(b'\n');
    builder.add_private_file(Path::new("/etc/hostname"), "hostname", content)?;
    Ok(name)
}

/// The device files in `dev` for `--nv` and `--rocm`, each to be bound at its own path. The driver's libraries are not among them.
pub(in crate::plan) fn gpus(
    container: &Container,
    dev: &Path,
    is_device: &dyn Fn(&Path) -> bool,
    unheeded: &mut Vec<String>,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (asked, option, is_one) in [
        (container.nv, "--nv", (|name: &str| name.starts_with("nvidia")) as fn(&str) -> bool),
        (container.rocm, "--rocm", |name: &str| name == "kfd" || name == "dri"),
    ] {
        if !asked {
            continue;
        }
        let before = found.len();
        for entry in names(dev) {
            if !entry.file_name().and_then(|name| name.to_str()).is_some_and(is_one) {
                continue;
            }
            if is_device(&entry) {
                found.push(entry);
            } else if entry.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                found.extend(names(&entry).into_iter().filter(|path| is_device(path)));
            }
        }
        if found.len() == before {
            unheeded.push(format!("{option}: this host has no such devices"));
        } else {
            unheeded.push(format!("{option}: the host's libraries; its devices are there"));
        }
    }
    found
}

/// Whether it is a device itself, and no link to one.
pub(in crate::plan) fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_char_device())
}

/// What a directory holds, in order.
fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    names.sort();
    names
}

/// A mount point for a bind whose target lies in a directory of the host that the payload may write to. Apptainer makes it there,
/// and so does this: an empty file or directory, which stays. Elsewhere a mount point costs nothing on the host.
///
/// # Errors
/// It cannot be made.
pub(in crate::plan) fn mount_point(
    builder: &mut Builder,
    target: &Path,
    is_dir: bool,
    dry_run: bool,
) -> Result<(), Failure> {
    let clean = builder.resolve(target)?;
    if dry_run || builder.kind(&clean).is_some() {
        return Ok(());
    }
    let Some(above) = clean.ancestors().skip(1).find(|at| builder.kind(at) == Some(Kind::Dir)) else {
        return Ok(());
    };
    let dir = builder.handed_writable(above).map_err(|errno| {
        Failure::usage(
            format!("cannot make the mount point {}", target.display()),
            errno_text(errno),
            "choose another target for the bind",
        )
    })?;
    let Some(dir) = dir else { return Ok(()) };
    let Ok(below) = clean.strip_prefix(above) else { return Ok(()) };
    make(&dir, below, 0o755, is_dir, "--bind")?;
    builder.look_again();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tree::{HostObject, Origin, WRITABLE};
    use std::os::unix::fs::symlink;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bailey-extras-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir.canonicalize().unwrap()
    }

    /// A made-up /dev, whose files stand for devices.
    #[test]
    fn devices_of_gpus_are_found() {
        let dev = scratch("dev");
        for dir in ["dri/by-path", "nvidia-caps", "nvidia-fs"] {
            std::fs::create_dir_all(dev.join(dir)).unwrap();
        }
        for file in
            ["kfd", "null", "nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap1", "dri/card0", "dri/by-path/x"]
        {
            std::fs::write(dev.join(file), "").unwrap();
        }
        symlink("null", dev.join("nvidia-link")).unwrap();
        let is_device = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
        let of = |nv, rocm, dev: &Path| {
            let container = Container { nv, rocm, ..Container::default() };
            let mut unheeded = Vec::new();
            let found = gpus(&container, dev, &is_device, &mut unheeded);
            let name = |path: &PathBuf| path.strip_prefix(dev).unwrap().display().to_string();
            (found.iter().map(name).collect::<Vec<_>>().join(" "), unheeded.join("|"))
        };
        let libraries = "the host's libraries; its devices are there";
        let (nvidia, amd) = ("nvidia-caps/nvidia-cap1 nvidia0 nvidiactl", "dri/card0 kfd");
        assert_eq!(of(true, false, &dev), (nvidia.to_owned(), format!("--nv: {libraries}")));
        assert_eq!(of(false, true, &dev), (amd.to_owned(), format!("--rocm: {libraries}")));
        assert_eq!(
            of(true, true, &dev),
            (format!("{nvidia} {amd}"), format!("--nv: {libraries}|--rocm: {libraries}"))
        );
        assert_eq!(of(false, false, &dev), (String::new(), String::new()));
        let none = "this host has no such devices";
        assert_eq!(of(true, true, &dev.join("dri")), (String::new(), format!("--nv: {none}|--rocm: {none}")));
        std::fs::remove_dir_all(&dev).unwrap();
        assert!(super::is_device(Path::new("/dev/null")) && !super::is_device(Path::new("/dev/fd")));
    }

    /// What was a directory when the plan looked at it becomes a link to somewhere else: a payload that has it writable does that.
    #[test]
    fn a_mount_point_is_made_in_nothing_but_what_was_handed_over() {
        let dir = scratch("planted");
        let (shared, outside) = (dir.join("shared"), dir.join("outside"));
        std::fs::create_dir_all(shared.join("sub")).unwrap();
        std::fs::create_dir_all(shared.join("other")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let mut builder = Builder::from_nothing();
        let object = HostObject::open(&shared).unwrap();
        builder.add_bind(object, Path::new("/srv"), WRITABLE, false, Origin::Handed).unwrap();
        assert_eq!(builder.kind(Path::new("/srv/sub")), Some(Kind::Dir), "looked at, and known from now on");
        std::fs::remove_dir(shared.join("sub")).unwrap();
        symlink(&outside, shared.join("sub")).unwrap();
        for is_dir in [true, false] {
            let made = mount_point(&mut builder, Path::new("/srv/sub/planted"), is_dir, false);
            assert!(made.unwrap_err().what.contains("/srv/sub/planted"));
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        // A control: where a directory is a directory, it is made.
        for (name, is_dir) in [("dir", true), ("file", false)] {
            mount_point(&mut builder, &Path::new("/srv/other").join(name), is_dir, false).unwrap();
            assert_eq!(shared.join("other").join(name).is_dir(), is_dir, "{name}");
        }
        // What comes to stand there meanwhile is not followed either.
        symlink(outside.join("planted"), shared.join("other/link")).unwrap();
        let above = HostObject::open(&shared.join("other")).unwrap();
        for is_dir in [true, false] {
            assert!(make(&above, Path::new("link"), 0o755, is_dir, "--bind").is_err());
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
