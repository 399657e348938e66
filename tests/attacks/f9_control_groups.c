// row: F9, S7
// what: the host's control groups: seen, and the payload's own limits changed (CVE-2023-25809)
// control: plain
#include "attack.h"
#include <linux/magic.h>

void attack(void) {
    static const char *const places[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/cgroup",
        "/proc/1/root/sys/fs/cgroup"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct statfs about;
        if (statfs(places[i], &about)) continue;
        if (about.f_type == CGROUP_SUPER_MAGIC || about.f_type == CGROUP2_SUPER_MAGIC) {
            char path[300];
            snprintf(path, sizeof path, "%s/cgroup.procs", places[i]);
            int readable = open(path, O_RDONLY), writable = open(path, O_WRONLY);
            succeeded("%s is a control group file system; cgroup.procs %s", places[i],
                writable >= 0 ? "writable" : readable >= 0 ? "readable" : "refused");
        }
    }
    const char *mounts = get("/proc/self/mountinfo");
    if (mounts && strstr(mounts, " - cgroup")) succeeded("mountinfo lists control groups");
    prevented("no control group file system in view");
}
