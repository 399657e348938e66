// row: P7
// what: the handler of core files, which runs outside every sandbox, is exchanged
// control: kernel: only root of the host may write /proc/sys/kernel/core_pattern
#include "attack.h"

void pilot(void) {
    const char *pattern = get("/proc/sys/kernel/core_pattern");
    put(in_dir("pattern"), pattern ? pattern : "");
    ready("pid=%d", getpid());
}
const char *hurt(void) {
    const char *pattern = get("/proc/sys/kernel/core_pattern");
    return pattern && holds(in_dir("pattern"), pattern) ? NULL : "core_pattern was changed";
}
void attack(void) {
    int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
    if (fd >= 0) succeeded("core_pattern is open for writing");
    prevented("open: %s", errno_name());
}
