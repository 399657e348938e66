// row: S1
// what: the pilot's memory, environment and files, through /proc, ptrace and leaked descriptors
// control: plain
#include "attack.h"
#include <sys/ptrace.h>
#include <sys/uio.h>

static char secret[64] = "";
extern char **environ;
void pilot(void) {
    strcpy(secret, SECRET);
    put(in_dir("secret"), SECRET);
    int file = open(in_dir("secret"), O_RDONLY);
    ready("pid=%d at=%p file=%d", getpid(), (void *)secret, file);
}
// /proc of the host as a descriptor.
void launch(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld", number("pid"));
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    dup2(fd, 40);
    if (fd != 40) close(fd);
}
static int reads(int fd, off_t at) {
    char text[64] = "";
    if (fd < 0) return 0;
    int found = pread(fd, text, sizeof text - 1, at) > 0 && strstr(text, SECRET);
    close(fd);
    return found;
}
static int alive(void) { return kill(number("pid"), 0) == 0 || errno == EPERM; }
void attack(void) {
    long pid = number("pid");
    char path[128];
    off_t at = strtoull(value("at"), NULL, 0);
    snprintf(path, sizeof path, "/proc/%ld/mem", pid);
    way("mem", reads(open(path, O_RDONLY), at));
    way("leaked-proc", reads(openat(40, "mem", O_RDONLY), at));
    snprintf(path, sizeof path, "/proc/%ld/fd/%s", pid, value("file"));
    way("fd", reads(open(path, O_RDONLY), 0));
    snprintf(path, sizeof path, "/proc/%ld/root%s", pid, in_dir("secret"));
    way("root", reads(open(path, O_RDONLY), 0));
    char text[64] = "";
    struct iovec local = {text, sizeof text - 1}, remote = {(void *)at, sizeof text - 1};
    way("process_vm_readv", process_vm_readv(pid, &local, 1, &remote, 1, 0) > 0 && strstr(text, SECRET));
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    way("pidfd_getfd", pidfd >= 0 && reads(syscall(SYS_pidfd_getfd, pidfd, atoi(value("file")), 0), 0));
    // Only the pilot: the same number may be somebody else here.
    int traced = *reached || alive() ? ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 : (errno = ESRCH, 0);
    way("ptrace", traced);
    if (traced) {
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
    judge();
}
