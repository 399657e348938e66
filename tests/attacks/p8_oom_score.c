// row: P8
// what: out of memory, the kernel kills the pilot rather than the payload
// control: plain
#include "attack.h"

void pilot(void) {
    const char *score = get("/proc/self/oom_score_adj");
    ready("score=%d", score ? atoi(score) : 0);
}
void attack(void) {
    const char *text = get("/proc/self/oom_score_adj");
    if (!text) cannot("oom_score_adj: %s", errno_name());
    int own = atoi(text), pilots = number("score");
    char lower[16];
    snprintf(lower, sizeof lower, "%d", pilots);
    if (own > pilots && put("/proc/self/oom_score_adj", lower) == 0) own = atoi(get("/proc/self/oom_score_adj"));
    if (own <= pilots) succeeded("the payload has %d, the pilot %d", own, pilots);
    prevented("the payload has %d, the pilot %d", own, pilots);
}
