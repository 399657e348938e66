// row: K4
// what: the 32-bit entry into the kernel goes round a filter of 64-bit calls
// control: plain
// off: sandbox.seccomp = "off"
#include "attack.h"

#if defined(__x86_64__)
static long call32(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0 && result > -4096) {
        errno = -(int)result;
        return -1;
    }
    return (int)result;
}
static long alive(void) { return call32(20, 0, 0, 0); } // getpid
static long name_space(void) { return call32(310, CLONE_NEWUSER, 0, 0); } // unshare
// A route that ordinary programs do not need: netlink of the audit system, directly and through socketcall.
#define NETLINK_AUDIT 9
static long netlink(void) { return call32(359, AF_NETLINK, SOCK_RAW, NETLINK_AUDIT); }
static long through_socketcall(void) {
    // Below 4 GiB, since the program is not position independent.
    static unsigned arguments[3];
    arguments[0] = AF_NETLINK, arguments[1] = SOCK_RAW, arguments[2] = NETLINK_AUDIT;
    return call32(102, 1, (long)(uintptr_t)arguments, 0);
}
static long keys(void) {
    return call32(288, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 0) > 0 ? 0 : -1;
}
void attack(void) {
    pid_t pid = fork();
    if (pid == 0) {
        alarm(3);
        _exit(alive() > 0 || errno == ENOSYS || errno == EPERM ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) kernel("no 32-bit system calls in this kernel");
    apart("unshare", name_space);
    apart("netlink", netlink);
    apart("socketcall", through_socketcall);
    apart("keyctl", keys);
    judge();
}
#else
void attack(void) { kernel("no 32-bit entry in programs of this machine"); }
#endif
