//! The payload's open sockets: descriptors of its processes, joined with the kernel's tables of its network.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::audit::redact;
use crate::failure::io_text;
use crate::proc::tree::Member;

/// `PROTOCOL LOCAL REMOTE STATE` of each, sorted.
pub(super) fn of(members: &[Member], main: Option<i32>, missing: &mut Vec<String>) -> Vec<String> {
    let mut wanted: BTreeSet<u64> = BTreeSet::new();
    for member in members.iter().filter(|member| !matches!(member.stat.state, b'Z' | b'X')) {
        match inodes(member.pid) {
            Ok(found) => wanted.extend(found),
            Err(error) => {
                missing.push(format!("the sockets of process {}: {}", member.pid, io_text(&error)));
            }
        }
    }
    let mut found = Vec::new();
    let somebody = main.or_else(|| members.first().map(|member| member.pid));
    if let Some(pid) = somebody.filter(|_| !wanted.is_empty()) {
        for table in ["tcp", "tcp6", "udp", "udp6", "unix"] {
            match File::open(format!("/proc/{pid}/net/{table}")) {
                // Whole hosts' tables are large, so they are read line by line.
                Ok(file) => {
                    for line in BufReader::new(file).split(b'\n').map_while(Result::ok).skip(1) {
                        let line = redact::text(&line);
                        let socket = if table == "unix" { unix(&line) } else { internet(table, &line) };
                        if let Some((inode, socket)) = socket
                            && wanted.remove(&inode)
                        {
                            found.push(socket);
                        }
                    }
                }
                // Not every host has IPv6.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => missing.push(format!("the table of {table} sockets: {}", io_text(&error))),
            }
        }
    }
    // A socket of another family, one that was never bound, or one of another network namespace.
    found.extend(wanted.iter().map(|inode| format!("other - - inode {inode}")));
    found.sort_unstable();
    found
}

fn inodes(pid: i32) -> std::io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let number = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(found)
}

/// A line of `/proc/net/tcp` and its like (proc_net(5)): local and remote address, state, and the inode in the tenth field.
fn internet(table: &str, line: &str) -> Option<(u64, String)> {
    const STATES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, remote, state, ..] = fields.as_slice() else { return None };
    let inode = fields.get(9)?.parse().ok()?;
    let number = usize::from_str_radix(state, 16).ok()?;
    let state = match (table.starts_with("tcp"), number) {
        (true, number) => number.checked_sub(1).and_then(|index| STATES.get(index)).copied().unwrap_or("?"),
        (false, 1) => "ESTABLISHED",
        (false, _) => "-",
    };
    Some((inode, format!("{table} {} {} {state}", address(local)?, address(remote)?)))
}

/// `0100007F:0016`: 32-bit words in the host's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A line of `/proc/net/unix`: `Num RefCount Protocol Flags Type St Inode [Path]`.
fn unix(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let kind = fields.next()?;
    let state = u32::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.collect::<Vec<_>>().join(" ");
    let kind = match kind {
        "0001" => "unix-stream",
        "0002" => "unix-datagram",
        "0005" => "unix-seqpacket",
        _ => "unix",
    };
    let state = match state {
        _ if flags & 0x10000 != 0 => "LISTEN", // __SO_ACCEPTCON
        1 => "UNCONNECTED",
        2 => "CONNECTING",
        3 => "CONNECTED",
        4 => "DISCONNECTING",
        _ => "?",
    };
    let mut text = String::new();
    let _ = write!(text, "{kind} {} - {state}", if path.is_empty() { "-" } else { &path });
    Some((inode, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let line = "   0: 0100007F:1F90 0200007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        assert_eq!(
            internet("tcp", line),
            Some((4711, "tcp 127.0.0.1:8080 127.0.0.2:49153 ESTABLISHED".to_owned()))
        );
        let line = "  12: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1";
        assert_eq!(internet("tcp6", line), Some((9, "tcp6 [::1]:22 [::]:0 LISTEN".to_owned())));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 31 /run/a b";
        assert_eq!(unix(line), Some((31, "unix-stream /run/a b - LISTEN".to_owned())));
        let line = "0000000000000000: 00000003 00000000 00000000 0002 03 32";
        assert_eq!(unix(line), Some((32, "unix-datagram - - CONNECTED".to_owned())));
        for broken in ["", "x", "0: 1 2 3", "0: 0100007F 0 01 0 0 0 0 0 1", "0: é 0 01 0 0 0 0 0 1"] {
            assert_eq!(internet("tcp", broken), None, "{broken}");
        }
        for broken in ["", "x", "0: 1 2 3", "0000000000000000: 00000003 00000000 00000000 0002 03 x"] {
            assert_eq!(unix(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = std::process::id() as i32;
        let stat = crate::proc::look(pid).unwrap().1;
        let mut missing = Vec::new();
        let found = of(&[Member { pid, stat }], Some(pid), &mut missing);
        let expected = format!("tcp {} 0.0.0.0:0 LISTEN", listener.local_addr().unwrap());
        assert!(found.contains(&expected), "{expected} is not in {found:?}");
        assert!(missing.is_empty(), "{missing:?}");
    }
}
