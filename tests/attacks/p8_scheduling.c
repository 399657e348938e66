// row: P8
// what: the pilot's scheduling is inherited: real-time rights, a core of its own, exact timers
// control: plain
// kernel: real-time nice-below-zero: an ordinary user has no such right to hand on
#include "attack.h"
#include <linux/ioprio.h>

void launch(void) {
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    struct sched_param none = {0};
    sched_setscheduler(0, SCHED_BATCH, &none);
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 0));
}
static long real_time(void) {
    struct sched_param high = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &high);
}
static long nicer(void) { return setpriority(PRIO_PROCESS, 0, -5); }
void attack(void) {
    apart("real-time", real_time);
    apart("nice-below-zero", nicer);
    errno = 0;
    way("timer-slack", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 1);
    way("policy", sched_getscheduler(0) == SCHED_BATCH);
    way("disk-priority", syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) == IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 0));
    judge();
}
