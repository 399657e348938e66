//! Small files that somebody else wrote, read whole: configuration and identity documents.
//!
//! 1. A file MUST be judged on the opened descriptor, never by its name: what is judged is what is read.
//! 2. Opening MUST NOT wait (a FIFO) or take a terminal, and nothing but a regular file is read.
//! 3. Reading MUST stop at the limit, whatever the size said a moment before.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::failure::io_text;

/// The flags of rule 2, for those who open relative to a directory.
pub(crate) const FLAGS: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The system said no.
    System(io::Error),
    /// Not a regular file; what it is instead.
    Kind(&'static str),
    /// More bytes than the limit.
    TooLarge(u64),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(error) => f.write_str(&io_text(error)),
            Self::Kind(kind) => write!(f, "it is {kind}, expected a regular file"),
            Self::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Opens `path` for reading by rule 2; symbolic links are followed.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FLAGS.bits()).open(path)
}

/// The bytes of an opened regular file of at most `limit` bytes, and what fstat said of it.
pub(crate) fn read_small(file: &File, limit: u64) -> Result<(Metadata, Vec<u8>), Trouble> {
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        return Err(Trouble::Kind(match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a device",
        }));
    }
    if metadata.len() > limit {
        return Err(Trouble::TooLarge(limit));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Trouble::TooLarge(limit));
    }
    Ok((metadata, bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A fresh directory for one test, removed when it is dropped.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("bailey-unit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        /// Writes a file with mode 0644 in a directory with 0755, whatever the umask is.
        pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            let parent = path.parent().unwrap();
            if !parent.exists() {
                std::fs::create_dir_all(parent).unwrap();
                self.mode(&parent.to_string_lossy(), 0o755);
            }
            std::fs::write(&path, bytes).unwrap();
            self.mode(name, 0o644);
            path
        }

        pub(crate) fn mode(&self, name: &str, mode: u32) {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(self.0.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }

        pub(crate) fn fifo(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_regular_files_up_to_the_limit_and_never_waiting() {
        let scratch = Scratch::new();
        let path = scratch.write("five", "12345");
        assert_eq!(read_small(&open(&path).unwrap(), 5).unwrap().1, b"12345");
        let text = |path: &Path| read_small(&open(path).unwrap(), 4).unwrap_err().to_string();
        assert_eq!(text(&path), "it is larger than 4 bytes");
        assert!(text(&scratch.0).contains("a directory"));
        assert!(text(&scratch.fifo("fifo")).contains("a FIFO"));
        assert!(text(Path::new("/dev/zero")).contains("a device"));
        // Size 0 in its metadata, but bytes when read.
        assert_eq!(text(Path::new("/proc/self/status")), "it is larger than 4 bytes");
    }
}
