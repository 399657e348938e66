//! The host's addresses, asked of the kernel (rtnetlink(7), `RTM_GETADDR`). getifaddrs(3) asks for every device with all its
//! counters first, which takes twice as long as the addresses and says nothing of them.
#![forbid(unsafe_code)]

use crate::sys::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, send, socket,
};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Sizes of `struct nlmsghdr` and `struct ifaddrmsg` (linux/netlink.h, linux/if_addr.h), and of an attribute's head.
const HEADER: usize = 16;
const ABOUT: usize = 8;
const ATTRIBUTE: usize = 4;
/// The kernel fills no more than this with one part of an answer (`NLMSG_GOODSIZE` and what a reader's buffer allows).
const PART: usize = 32 << 10;
/// How often is asked again where addresses changed between two parts of one answer.
const TRIES: u32 = 3;

/// Every address of every device, loopback's too, in the kernel's order.
///
/// # Errors
/// The kernel does not answer, or not in the form that it promises (`EPROTO`).
pub(super) fn all() -> Result<Vec<IpAddr>, Errno> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut buffer = vec![0; PART];
    let mut sequence = 0;
    loop {
        sequence += 1;
        send(socket.as_raw_fd(), &question(sequence), MsgFlags::empty())?;
        let (found, changed) = answer(&socket, sequence, &mut buffer)?;
        if !changed || sequence == TRIES {
            return Ok(found);
        }
    }
}

/// `nlmsghdr` and `ifaddrmsg`, of every family.
fn question(sequence: u32) -> [u8; HEADER + ABOUT] {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let (length, kind) = (((HEADER + ABOUT) as u32).to_ne_bytes(), libc::RTM_GETADDR.to_ne_bytes());
    let head = [&length[..], &kind, &flags.to_ne_bytes(), &sequence.to_ne_bytes()];
    let mut message = [0; HEADER + ABOUT];
    for (to, from) in message.iter_mut().zip(head.into_iter().flatten()) {
        *to = *from;
    }
    message
}

/// The addresses, and whether they changed meanwhile.
fn answer(socket: &OwnedFd, sequence: u32, buffer: &mut [u8]) -> Result<(Vec<IpAddr>, bool), Errno> {
    let (mut found, mut changed) = (Vec::new(), false);
    loop {
        let (length, from) = recvfrom::<NetlinkAddr>(socket.as_raw_fd(), buffer)?;
        // Any process may write to any other's; only the kernel is number 0.
        if from.is_none_or(|from| from.pid() != 0) {
            continue;
        }
        let part = buffer.get(..length).unwrap_or_default();
        let mut at = part;
        while !at.is_empty() {
            let (message, rest) = Message::first(at).ok_or(Errno::EPROTO)?;
            at = rest;
            if message.sequence != sequence {
                continue;
            }
            changed |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
            match libc::c_int::from(message.kind) {
                libc::NLMSG_DONE => return Ok((found, changed)),
                libc::NLMSG_ERROR => {
                    let errno = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(Errno::from_raw(-errno));
                }
                _ if message.kind == libc::RTM_NEWADDR => found.extend(address(message.body)),
                _ => {}
            }
        }
    }
}

/// One message of a part.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message, and what follows it; `None` where it does not fit.
    fn first(part: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, _) = part.split_at_checked(HEADER)?;
        let length = u32::from_ne_bytes(*head.first_chunk()?) as usize;
        let whole = part.get(..length)?;
        let message = Self {
            kind: u16::from_ne_bytes(*head.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*head.get(6..)?.first_chunk()?),
            sequence: u32::from_ne_bytes(*head.get(8..)?.first_chunk()?),
            body: whole.get(HEADER..)?,
        };
        Some((message, part.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }
}

/// The host's own address in an `ifaddrmsg`: of a line with two ends `IFA_ADDRESS` is the other one.
fn address(body: &[u8]) -> Option<IpAddr> {
    let mut attributes = body.get(ABOUT..)?;
    let (mut local, mut other) = (None, None);
    while let Some((head, _)) = attributes.split_at_checked(ATTRIBUTE) {
        let length = usize::from(u16::from_ne_bytes(*head.first_chunk()?));
        let kind = u16::from_ne_bytes(*head.get(2..)?.first_chunk()?);
        let value = attributes.get(ATTRIBUTE..length)?;
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => other = ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    local.or(other)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_getifaddrs() {
        let mut expected: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect();
        let mut found = all().unwrap();
        assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn of_a_line_with_two_ends_it_is_the_own_one() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = ((ATTRIBUTE + value.len()) as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let about = [0; ABOUT].to_vec();
        let peer = attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2]);
        let own = attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]);
        let label = attribute(libc::IFA_LABEL, b"tun0\0");
        let said = |parts: &[&[u8]]| address(&parts.concat()).map(|ip| ip.to_string());
        assert_eq!(said(&[&about, &peer, &label, &own]).as_deref(), Some("10.0.0.1"));
        assert_eq!(said(&[&about, &peer]).as_deref(), Some("10.0.0.2"));
        assert_eq!(said(&[&about, &attribute(libc::IFA_ADDRESS, &[0; 16])]).as_deref(), Some("::"));
        // What does not fit is nothing, and no panic.
        for cut in 0..about.len() + peer.len() {
            let whole = [about.clone(), peer.clone()].concat();
            assert_eq!(address(&whole[..cut]), None, "{cut}");
        }
        assert!(Message::first(&[0xff; 32]).is_none());
        assert!(Message::first(&[0; 32]).is_none());
    }
}
