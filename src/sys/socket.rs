//! Messages between launcher, init and payload: one SOCK_SEQPACKET pair each, descriptors and credentials beside the bytes.

use super::{Errno, check};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one message carries: the kernel's own limit (`SCM_MAX_FD`, unix(7)). With less room than that
/// the kernel closes the rest in the receiver, and closing a hostile descriptor can block for as long as its sender likes.
pub const MAX_FDS: usize = 253;

/// Room for one SCM_RIGHTS message of [`MAX_FDS`] descriptors (1032 bytes) and one SCM_CREDENTIALS message (32 bytes),
/// aligned for `cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);
const CONTROL: usize = 1088;

/// A connected pair: the launcher's end, which asks for credentials, and the child's. Both close on exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut fds = [-1 as RawFd; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(libc::c_long::from(unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    }))?;
    let [ours, theirs] = fds;
    // SAFETY: two fresh descriptors that nothing else owns.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    want_credentials(ours.as_fd())?;
    Ok((ours, theirs))
}

fn want_credentials(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is an int, valid for the call.
    check(libc::c_long::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    }))
    .map(drop)
}

/// Ends a connection in both directions: nothing comes in any more, and what the peer was sent it can still read. What lies
/// unread here can still be received, and its end be told from an empty message ([`Received::is_end`]).
pub fn hang_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    want_credentials(socket)?;
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) })).map(drop)
}

/// Sends one message, with descriptors if there are any. Never raises SIGPIPE. Does not allocate.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    let mut control = Control([0; CONTROL]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        if fds.len() > MAX_FDS {
            return Err(Errno::EINVAL);
        }
        put_rights(&mut message, &mut control, fds);
    }
    loop {
        // SAFETY: `message` points to live buffers of the lengths given.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match check(sent as libc::c_long) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Lets `message` carry these descriptors, [`MAX_FDS`] at most.
fn put_rights(message: &mut libc::msghdr, control: &mut Control, fds: &[RawFd]) {
    debug_assert!(fds.len() <= MAX_FDS, "they were counted");
    let length = size_of_val(fds) as u32;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes; MAX_FDS descriptors need 1032 of the buffer's bytes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
    // SAFETY: the control buffer is aligned and large enough for this one header and its data.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const *message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(length) as _;
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), length as usize);
    }
}

/// One received message.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes filled into the caller's buffer; 0 is the end of the connection.
    pub length: usize,
    /// The sender's pid, as this process's pid namespace numbers it, from the kernel (unix(7), SCM_CREDENTIALS).
    pub pid: i32,
    /// The sender's credentials came along: that is, on a socket with SO_PASSCRED, a message did.
    pub credentials: bool,
    /// Descriptors that came along, all close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The packet or its descriptors did not fit: what is here is not all of it.
    pub truncated: bool,
    /// Not all descriptors fitted: this process has none left, or they were more than any message has.
    pub descriptors_lost: bool,
}

impl Received {
    /// On a socket with SO_PASSCRED: it is the end of the connection, and not an empty message.
    pub const fn is_end(&self) -> bool {
        self.length == 0 && !self.credentials
    }
}

/// Receives one message.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut control = Control([0; CONTROL]);
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let length = loop {
        // SAFETY: `message` points to live buffers of the lengths given.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(got as libc::c_long) {
            Ok(n) => break n as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut received = Received { length, ..Received::default() };
    // SAFETY: the kernel filled in `message`.
    unsafe { take_control(&message, &mut received) };
    received.descriptors_lost = message.msg_flags & libc::MSG_CTRUNC != 0;
    received.truncated = message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0;
    Ok(received)
}

/// What came beside the bytes.
///
/// # Safety
/// As [`each_control`].
unsafe fn take_control(message: &libc::msghdr, received: &mut Received) {
    // SAFETY: the caller's own promise.
    unsafe {
        each_control(message, |part| match part {
            Part::File(file) => received.fds.push(file),
            Part::Sender(pid) => (received.pid, received.credentials) = (pid, true),
        });
    }
}

/// One thing that came beside the bytes of a message.
enum Part {
    File(OwnedFd),
    /// Its pid.
    Sender(i32),
}

/// Hands out what came beside the bytes.
///
/// # Safety
/// recvmsg(2) filled `message` in, and its descriptors belong to nobody else.
unsafe fn each_control(message: &libc::msghdr, mut take: impl FnMut(Part)) {
    // SAFETY: the kernel filled `msg_controllen` bytes with well-formed headers; CMSG_NXTHDR stays inside them. Each
    // descriptor is fresh and owned by nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const *message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let bytes = (*header).cmsg_len - (data as usize - header as usize);
                    for index in 0..bytes / size_of::<RawFd>() {
                        let mut number = [0; size_of::<RawFd>()];
                        std::ptr::copy_nonoverlapping(
                            data.add(index * number.len()),
                            number.as_mut_ptr(),
                            number.len(),
                        );
                        take(Part::File(OwnedFd::from_raw_fd(RawFd::from_ne_bytes(number))));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    take(Part::Sender(data.cast::<libc::ucred>().read_unaligned().pid));
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const *message, header);
        }
    }
}

/// Blocks for one message in a child, with the descriptors that came along, close-on-exec, as far as there is room for them; the
/// kernel closes the rest. The number of bytes, 0 at the end of the connection. Does not allocate.
pub fn receive_files<const N: usize>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    files: &mut [Option<OwnedFd>; N],
) -> Result<usize, Errno> {
    const {
        assert!(N <= MAX_FDS);
    }
    let mut control = Control([0; CONTROL]);
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is valid; CMSG_SPACE only computes.
    let (mut message, room): (libc::msghdr, _) =
        unsafe { (std::mem::zeroed(), libc::CMSG_SPACE((N * size_of::<RawFd>()) as u32)) };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    let length = loop {
        // SAFETY: `message` points to live buffers of the lengths given.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(got as libc::c_long) {
            Ok(n) => break n as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut free = files.iter_mut();
    // SAFETY: the kernel filled in `message`. What finds no room is closed here.
    unsafe {
        each_control(&message, |part| {
            if let Part::File(file) = part
                && let Some(slot) = free.next()
            {
                *slot = Some(file);
            }
        });
    }
    Ok(length)
}

/// Blocks for one message in a child: the number of bytes, 0 at the end of the connection. Does not allocate.
pub fn receive_plain(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: pointer and length are the buffer's own.
        let got = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match check(got as libc::c_long) {
            Ok(n) => return Ok(n as usize),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// accept4(2) of a connection, close-on-exec and without waiting.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use nix::sys::socket::{SockFlag, accept4};
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the other end gone? Looks without waiting and takes nothing.
pub fn peer_is_gone(socket: BorrowedFd<'_>) -> bool {
    let mut byte = 0_u8;
    // SAFETY: one byte of room.
    let result = check(unsafe {
        libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    } as libc::c_long);
    matches!(result, Ok(0) | Err(Errno::ECONNRESET))
}

/// Who connected, as this process's namespaces number it (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// 0 when it has no number in this process's pid namespace.
    pub pid: i32,
    /// Effective uid at the time of connect(2).
    pub uid: u32,
    /// Effective gid at that time.
    pub gid: u32,
}

fn get_option(socket: BorrowedFd<'_>, option: libc::c_int, value: &mut [u32]) -> Result<usize, Errno> {
    let mut length = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, whose size that is; any bits are a valid u32.
    check(libc::c_long::from(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    }))?;
    Ok(length as usize / size_of::<u32>())
}

/// SO_PEERCRED.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<Credentials, Errno> {
    let mut value = [0; 3];
    let words = get_option(socket, libc::SO_PEERCRED, &mut value)?;
    let [pid, uid, gid] = value;
    if words == value.len() { Ok(Credentials { pid: pid as i32, uid, gid }) } else { Err(Errno::EINVAL) }
}

/// SO_PEERPIDFD (kernel 6.5): a pidfd of the process of [`peer_credentials`]. `ENOPROTOOPT` where there is none.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut value = [u32::MAX];
    get_option(socket, libc::SO_PEERPIDFD, &mut value)?;
    let [fd] = value;
    if fd as RawFd >= 0 {
        // SAFETY: a fresh descriptor, close-on-exec, that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    } else {
        Err(Errno::EBADF)
    }
}

/// SO_PEERGROUPS (kernel 4.13): is `gid` among the supplementary groups of who connected? Its own gid is not looked at.
pub fn peer_has_group(socket: BorrowedFd<'_>, gid: u32) -> Result<bool, Errno> {
    let mut few = [0; 64];
    match get_option(socket, libc::SO_PEERGROUPS, &mut few) {
        Ok(count) => Ok(few.iter().take(count).any(|group| *group == gid)),
        // setgroups(2) takes 65536 at most.
        Err(Errno::ERANGE) => {
            let mut all = vec![0; 65536];
            let count = get_option(socket, libc::SO_PEERGROUPS, &mut all)?;
            Ok(all.iter().take(count).any(|group| *group == gid))
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    /// What [`take_control`] finds in a control message; the descriptors are only numbers here, and nobody's.
    fn taken(message: &libc::msghdr) -> (Vec<RawFd>, Option<i32>) {
        let mut received = Received::default();
        // SAFETY: well-formed headers; the descriptors are given up again below, so nothing is closed.
        unsafe { take_control(message, &mut received) };
        let fds = received.fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
        (fds, received.credentials.then_some(received.pid))
    }

    #[test]
    fn descriptors_read_back_from_a_control_message() {
        for count in [1, 2, 3, MAX_FDS] {
            let fds: Vec<RawFd> = (1000..).take(count).collect();
            let mut control = Control([0; CONTROL]);
            // SAFETY: an all-zero msghdr is valid.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            put_rights(&mut message, &mut control, &fds);
            assert_eq!(taken(&message), (fds, None), "{count}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it sends for real")]
    fn a_child_keeps_the_files_that_it_has_room_for() {
        let (ours, theirs) = pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut files: [Option<OwnedFd>; 2] = Default::default();
        let mut word = [0; 4];
        send(ours.as_fd(), b"!", &[]).unwrap();
        assert_eq!(
            (receive_files(theirs.as_fd(), &mut word, &mut files), files.iter().flatten().count()),
            (Ok(1), 0)
        );
        // One too many, which is closed: with the last of them the pipe ends.
        send(ours.as_fd(), b"go", &[write.as_raw_fd(); 3]).unwrap();
        drop(write);
        assert_eq!((receive_files(theirs.as_fd(), &mut word, &mut files), &word[..2]), (Ok(2), &b"go"[..]));
        for file in files.iter_mut().map(Option::take) {
            nix::unistd::write(file.unwrap(), b"x").unwrap();
        }
        let mut all = [0; 4];
        assert_eq!(
            (nix::unistd::read(&read, &mut all), nix::unistd::read(&read, &mut all[2..])),
            (Ok(2), Ok(0))
        );
        drop(ours);
        assert_eq!(receive_files(theirs.as_fd(), &mut word, &mut files), Ok(0));
    }

    #[test]
    fn credentials_and_what_is_unknown_beside_descriptors() {
        let mut control = Control([0; CONTROL]);
        // SAFETY: an all-zero msghdr is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        assert_eq!(taken(&message), (Vec::new(), None), "nothing came along");
        put_rights(&mut message, &mut control, &[7, 8, 9]);
        let credentials = libc::ucred { pid: 4711, uid: 1, gid: 2 };
        let length = size_of::<libc::ucred>() as u32;
        for (kind, level) in [(99, libc::SOL_SOCKET), (libc::SCM_CREDENTIALS, libc::SOL_SOCKET)] {
            // SAFETY: the buffer has room for these headers behind the first, and is aligned for them.
            unsafe {
                let at = message.msg_controllen as usize;
                let header = message.msg_control.byte_add(at).cast::<libc::cmsghdr>();
                (*header).cmsg_level = level;
                (*header).cmsg_type = kind;
                (*header).cmsg_len = libc::CMSG_LEN(length) as _;
                libc::CMSG_DATA(header).cast::<libc::ucred>().write_unaligned(credentials);
                message.msg_controllen = (at + libc::CMSG_SPACE(length) as usize) as _;
            }
        }
        assert_eq!(taken(&message), (vec![7, 8, 9], Some(4711)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no SOCK_SEQPACKET and no sendmsg(2)")]
    fn a_descriptor_goes_through_a_socket() {
        let (ours, theirs) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(theirs.as_fd(), b"hello", &[file.as_raw_fd()]).unwrap();
        let mut buffer = [0; 16];
        let received = receive(ours.as_fd(), &mut buffer).unwrap();
        assert_eq!((buffer.get(..received.length), received.fds.len()), (Some(&b"hello"[..]), 1));
        assert!(received.credentials && !received.truncated && !received.is_end());
        assert_eq!(send(theirs.as_fd(), b"x", &[0; MAX_FDS + 1]), Err(Errno::EINVAL));
        hang_up(ours.as_fd()).unwrap();
        assert!(receive(ours.as_fd(), &mut buffer).unwrap().is_end());
    }
}
