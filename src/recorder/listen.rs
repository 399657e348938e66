//! The socket that launchers connect to: systemd's, or our own.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::failure::{Failure, errno_text, io_text};

/// Waiting connections; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// The listening socket, and whether systemd made it.
pub(super) fn socket_at(path: &Path) -> Result<OwnedFd, Failure> {
    match crate::sys::start::listen_fd() {
        Some(fd) => Ok(fd),
        None => own(path),
    }
}

fn own(path: &Path) -> Result<OwnedFd, Failure> {
    let what = || format!("cannot listen on {}", path.display());
    let failed = |errno: Errno| Failure::site(what(), errno_text(errno), "name another place with --socket");
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| {
            Failure::site(
                what(),
                io_text(&error),
                format!(
                    "make {} writable for this account, or name another place with --socket",
                    parent.display()
                ),
            )
        })?;
    }
    let address = UnixAddr::new(path).map_err(failed)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = || socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed);
    let ours = open()?;
    match bind(ours.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => {
            // A socket that nobody answers on was left by a recorder that was killed. Anything else is not ours to remove.
            let left = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            match connect(open()?.as_raw_fd(), &address) {
                Err(Errno::ECONNREFUSED) if left => {
                    std::fs::remove_file(path)
                        .map_err(|error| Failure::site(what(), io_text(&error), "remove it by hand"))?;
                    bind(ours.as_raw_fd(), &address).map_err(failed)?;
                }
                Ok(()) | Err(Errno::EAGAIN) => {
                    return Err(Failure::site(
                        what(),
                        "another recorder answers there",
                        "stop that one, or name another place with --socket",
                    ));
                }
                Err(_) => {
                    return Err(Failure::site(
                        what(),
                        "something that is no socket of ours is there",
                        "move it away",
                    ));
                }
            }
        }
        Err(errno) => return Err(failed(errno)),
    }
    // Every account of the node may ask; what each may do is decided by who the kernel says it is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|error| Failure::site(what(), io_text(&error), "name another place with --socket"))?;
    listen(&ours, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(failed)?;
    Ok(ours)
}

/// The next connection, if one waits.
pub(super) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    match crate::sys::socket::accept(listener.as_fd()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
