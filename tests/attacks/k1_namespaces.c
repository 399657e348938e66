// row: K1
// what: namespaces of the payload's own give every capability back (CVE-2022-0185, CVE-2024-1086)
// control: plain
#include "attack.h"

static long user(void) { return unshare(CLONE_NEWUSER); }
static long network(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNET); }
static long mounts(void) { return unshare(CLONE_NEWUSER | CLONE_NEWNS); }
static char stack[65536];
static int nothing(void *unused) { (void)unused; return 0; }
static long cloned(void) { return clone(nothing, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, NULL); }
// Another process's namespace, by its file.
static long joined(void) {
    int up[2], down[2];
    char byte = 0;
    if (pipe(up) || pipe(down)) return -1;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(3);
        close(down[1]);
        byte = unshare(CLONE_NEWUSER) ? errno : 0;
        if (write(up[1], &byte, 1) != 1 || read(down[0], &byte, 1) < 0) {}
        _exit(0);
    }
    close(down[0]);
    if (read(up[0], &byte, 1) != 1) return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    int fd = open(path, O_RDONLY);
    long result = fd < 0 ? -1 : setns(fd, CLONE_NEWUSER);
    int error = byte ? byte : errno;
    close(down[1]);
    errno = error;
    return byte ? -1 : result;
}
// The limit raised first.
static long raised(void) {
    if (put("/proc/sys/user/max_user_namespaces", "9")) return -1;
    return unshare(CLONE_NEWUSER);
}
void attack(void) {
    apart("user", user);
    apart("network", network);
    apart("mount", mounts);
    apart("clone", cloned);
    apart("setns", joined);
    if (!*reached) apart("raise-the-limit", raised);
    judge();
}
