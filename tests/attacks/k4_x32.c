// row: K4
// what: the x32 numbers go round a filter of 64-bit calls
// control: plain
#include "attack.h"

#if defined(__x86_64__)
static long user(void) { return syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER); }
static long keys(void) { return syscall(0x40000000 | SYS_keyctl, 0, -3, 0, 0, 0); }
void attack(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(syscall(0x40000000 | SYS_getpid) > 0 ? 0 : errno);
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == ENOSYS) kernel("x32 is not built into this kernel, or refused: ENOSYS");
    apart("unshare", user);
    apart("keyctl", keys);
    judge();
}
#else
void attack(void) { kernel("x32 is of x86-64 alone"); }
#endif
