// row: S3
// what: the launcher's own process inside is read, traced and taken over
// control: naive
#include "attack.h"
#include <sys/ptrace.h>
#include <sys/uio.h>

static int opens(const char *name, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/1/%s", name);
    int fd = open(path, flags);
    if (fd >= 0) close(fd);
    return fd >= 0;
}
void attack(void) {
    if (getpid() == 1) cannot("the payload itself is process 1");
    way("mem", opens("mem", O_RDWR));
    int fd = open("/proc/1/environ", O_RDONLY);
    char byte;
    way("environ", fd >= 0 && read(fd, &byte, 1) >= 0);
    way("root", opens("root", O_RDONLY));
    way("cwd", opens("cwd", O_RDONLY));
    way("namespaces", opens("ns/mnt", O_RDONLY));
    way("maps", opens("maps", O_RDONLY));
    struct iovec local = {&byte, 1}, remote = {(void *)0x400000, 1};
    way("process_vm_readv", process_vm_readv(1, &local, 1, &remote, 1, 0) >= 0 || errno == EFAULT);
    int pidfd = syscall(SYS_pidfd_open, 1, 0);
    way("pidfd_getfd", pidfd >= 0 && (syscall(SYS_pidfd_getfd, pidfd, 2, 0) >= 0 || errno == EBADF));
    int traced = ptrace(PTRACE_ATTACH, 1, 0, 0) == 0;
    way("ptrace", traced);
    if (traced) {
        waitpid(1, NULL, __WALL);
        ptrace(PTRACE_DETACH, 1, 0, 0);
    }
    judge();
}
