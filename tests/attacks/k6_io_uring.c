// row: K6
// what: io_uring, which does the work of other calls behind a filter's back
// control: plain
// off: sandbox.seccomp = "off"
#include "attack.h"

void attack(void) {
    char parameters[256] = {0};
    long ring = syscall(425, 4, parameters);
    if (ring >= 0) succeeded("a ring of four entries");
    const char *off = get("/proc/sys/kernel/io_uring_disabled");
    if (off && *off == '2') kernel("kernel.io_uring_disabled is 2");
    errno = 0;
    ring = syscall(425, 4, parameters);
    prevented("io_uring_setup: %s", errno_name());
}
