// row: P8
// what: the pilot's rights to real time and higher priority, and its exact timers
// control: plain
// kernel: real-time nice-below-zero: an ordinary user has no such right to hand on
#include "attack.h"

void launch(void) {
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
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
    judge();
}
