// row: P8
// what: the payload lowers its score, so that out of memory the kernel kills the pilot first
// control: plain
// open: the kernel lets a process go back to the score that it had; what it takes first is a preference, no wall
#include "attack.h"

void pilot(void) {
    const char *score = get("/proc/self/oom_score_adj");
    ready("score=%d", score ? atoi(score) : 0);
}
void attack(void) {
    char lower[16];
    snprintf(lower, sizeof lower, "%ld", number("score"));
    if (put("/proc/self/oom_score_adj", lower)) prevented("oom_score_adj: %s", errno_name());
    const char *text = get("/proc/self/oom_score_adj");
    if (text && atoi(text) <= number("score")) succeeded("the payload has %d, as the pilot", atoi(text));
    prevented("the score stays");
}
