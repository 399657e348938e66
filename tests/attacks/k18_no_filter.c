// row: K18
// what: no filter of system calls at all, or one that a setuid program ends
// control: plain
// off: sandbox.seccomp = "off"
#include "attack.h"

void attack(void) {
    const char *status = get("/proc/self/status");
    if (!status) cannot("no /proc/self/status: %s", errno_name());
    const char *at = strstr(status, "\nSeccomp:");
    if (!at) kernel("no seccomp in this kernel");
    int mode = atoi(at + 9);
    errno = 0;
    way("no-filter", mode != 2);
    way("no_new_privs-off", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    judge();
}
