// row: K5, K14
// what: sockets that reach rarely used parts of the kernel (CVE-2026-31431, CVE-2026-43284), the hypervisor too
// control: plain
// off: sandbox.seccomp = "off"
// kernel: AF_ALG AF_PACKET AF_VSOCK AF_RXRPC AF_TIPC AF_RDS AF_SMC AF_CAN AF_KEY AF_XDP AF_QIPCRTR SCTP MPTCP other: by the kernel's configuration and rights
#include "attack.h"
#include <linux/netlink.h>
#include <netinet/in.h>

static void family(const char *name, int family, int type, int protocol) {
    int fd = socket(family, type, protocol);
    way(name, fd >= 0);
    if (fd >= 0) close(fd);
}
void attack(void) {
    family("netlink-audit", AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
    family("netlink-netfilter", AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    family("netlink-xfrm", AF_NETLINK, SOCK_RAW, NETLINK_XFRM);
    family("AF_ALG", 38, SOCK_SEQPACKET, 0);
    family("AF_PACKET", 17, SOCK_RAW, 0);
    family("AF_VSOCK", 40, SOCK_STREAM, 0);
    family("AF_RXRPC", 33, SOCK_DGRAM, 2);
    family("AF_TIPC", 30, SOCK_SEQPACKET, 0);
    family("AF_RDS", 21, SOCK_SEQPACKET, 0);
    family("AF_SMC", 43, SOCK_STREAM, 0);
    family("AF_CAN", 29, SOCK_RAW, 1);
    family("AF_KEY", 15, SOCK_RAW, 2);
    family("AF_XDP", 44, SOCK_RAW, 0);
    family("AF_QIPCRTR", 42, SOCK_DGRAM, 0);
    family("SCTP", AF_INET, SOCK_STREAM, 132);
    family("MPTCP", AF_INET, SOCK_STREAM, 262);
    int others = 0;
    for (int number = 0; number < 47; number++) {
        if (number == AF_UNIX || number == AF_INET || number == AF_INET6 || number == AF_NETLINK) continue;
        static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
        for (int i = 0; i < 4; i++) {
            int fd = socket(number, types[i], 0);
            if (fd >= 0) others++, close(fd);
        }
    }
    errno = EAFNOSUPPORT;
    way("other", others > 0);
    int needed = socket(AF_INET, SOCK_STREAM, 0);
    if (needed < 0) cannot("ordinary sockets do not work any more: %s", errno_name());
    judge();
}
